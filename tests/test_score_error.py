"""Errors of scores against exact answers, and their error bars against many repetitions."""

import numpy as np
import pytest

import physscore as ps
from physscore.diagnostics.hyvarinen import divergence_statistics
from physscore.diagnostics.score_error import band_errors, fisher_divergence, score_error

RNG = np.random.default_rng(0)
TARGET = ps.GaussianMixture([1, 2], [[-1.0, 0.5], [1.0, 0.0]], 0.6)
X = TARGET.sample(300, seed=1)
GRID = ps.Grid((16, 12), (8.0, 6.0))
FIELD = ps.GaussianRandomField(GRID, ps.spectra.PowerLaw(index=-2.0, amplitude=1.0))
FIELDS = FIELD.sample(12, seed=2)


@pytest.fixture(autouse=True)
def same_numbers():
    """Let no test depend on which ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def changed(change, truth=TARGET):
    return ps.from_functions(score=lambda x: change(truth.score(x)), shape=truth.shape)


def by_modes(change):
    """Return the score of the field with its modes multiplied by a function of (|k|, k of the last axis)."""
    k = [2 * np.pi * np.fft.fftfreq(n, side / n) for n, side in zip(GRID.shape, GRID.box_size, strict=True)]
    last = k[1][: GRID.half_shape[1]]
    factors = change(np.hypot(k[0][:, np.newaxis], last), np.broadcast_to(last, GRID.half_shape))

    def score(x):
        modes = np.fft.rfftn(FIELD.score(x), axes=(1, 2))
        return np.fft.irfftn(factors * modes, GRID.shape, axes=(1, 2))

    return ps.from_functions(score=score, shape=GRID.shape)


def shares(error):
    return error.scale_share.value, error.magnitude_share.value, error.direction_share.value


@pytest.mark.parametrize("factor", [1.3, 0.5, -1.0, 1.0])
def test_a_factor_is_all_scale(factor):
    error = score_error(changed(lambda s: factor * s), TARGET, X)
    assert error.scale.value == pytest.approx(1 / factor)
    assert error.gain.value == pytest.approx(factor)
    assert error.cosine.value == pytest.approx(np.sign(factor))
    assert error.fisher.relative == pytest.approx((factor - 1) ** 2, abs=1e-15)
    assert error.fisher.value == pytest.approx((factor - 1) ** 2 * (TARGET.score(X) ** 2).sum(1).mean())
    np.testing.assert_allclose(shares(error), ((factor - 1) ** 2, 0, 0), atol=1e-12)
    assert error.scale.error < 1e-12


@pytest.mark.parametrize("angle", [0.3, -1.2])
def test_an_angle_is_direction_and_what_the_best_scale_leaves(angle):
    c = np.cos(angle)
    turn = np.array([[c, -np.sin(angle)], [np.sin(angle), c]])
    error = score_error(changed(lambda s: s @ turn.T), TARGET, X)
    np.testing.assert_allclose(error.cosines, c)
    assert error.scale.value == pytest.approx(c)
    assert error.gain.value == pytest.approx(c)
    np.testing.assert_allclose(shares(error), ((1 - c) ** 2, (1 - c) ** 2, 2 * c * (1 - c)))
    assert error.fisher.relative == pytest.approx(2 * (1 - c))


def test_magnitudes_that_vary_from_state_to_state():
    s = TARGET.score(X)
    factor = np.where(X[:, :1] > 0, 1.5, 0.5)
    error = score_error(ps.from_functions(score=lambda x: factor * s, shape=2), TARGET, X)
    size = (s**2).sum(axis=1)
    f = factor[:, 0]
    c = (f * size).sum() / (f**2 * size).sum()
    assert error.scale.value == pytest.approx(c)
    assert error.magnitude_share.value == pytest.approx(((c * f - 1) ** 2 * size).sum() / size.sum())
    assert abs(error.direction_share.value) < 1e-14


def test_shares_add_up():
    matrix = RNG.normal(size=(2, 2))
    error = score_error(changed(lambda s: s @ matrix.T + 0.3), TARGET, X)
    assert sum(shares(error)) == pytest.approx(error.fisher.relative)
    assert min(shares(error)) > 0


def test_scores_that_are_zero_have_no_direction():
    x = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    error = score_error(ps.Gaussian([0.0, 0.0], 1.0), ps.Gaussian([0.0, 0.0], 2.0), x)
    np.testing.assert_array_equal(np.isnan(error.cosines), [True, False, False])
    assert error.cosine.value == pytest.approx(1.0)


def test_errors_are_right_for_noise():
    """2000 repetitions of s* + noise: z of five numbers; mean |z| < 0.15 and rms 0.9 to 1.12.

    Ratios have a bias of the order 1 / n of their error; chance alone stays within 0.11 and 0.07, 4.5 sigma.
    """
    d, n, noise = 5, 100, 0.6
    truth = ps.Gaussian(np.zeros(d), np.ones(d))
    z = []
    for _ in range(2000):
        x = RNG.normal(size=(n, d))
        spoiled = -1.2 * x + noise * RNG.normal(size=x.shape)
        score = ps.from_functions(score=lambda _, found=spoiled: found, shape=d)
        error = score_error(score, truth, x)
        fisher = error.fisher
        off, size = d * (0.04 + noise**2), d * (1.44 + noise**2)
        c = 1.2 * d / size
        z.append(
            [
                (fisher.value - off) / fisher.error,
                (fisher.relative - off / d) / fisher.relative_error,
                (error.scale.value - c) / error.scale.error,
                (error.scale_share.value - (1 - c) ** 2 * size / d) / error.scale_share.error,
                (error.magnitude_share.value + error.direction_share.value - (1 - c**2 * size / d))
                / np.hypot(error.magnitude_share.error, error.direction_share.error),
            ]
        )
    mean, spread = np.mean(z, axis=0), np.std(z, axis=0)
    assert (np.abs(mean) < 0.15).all()
    assert ((spread[:4] > 0.9) & (spread[:4] < 1.12)).all()


def test_fisher_divergence_of_two_gaussians():
    """E|s - s*|^2 is known in closed form: 40 seeds, |mean z| < 4.5 / sqrt(40), a false alarm in 10^5."""
    mine, truth = ps.Gaussian([0.5, 0.0], [2.0, 1.0]), ps.Gaussian([0.0, 0.0], [1.0, 1.0])
    # s - s* = (x/2 + 1/4, 0) under N(0, 1)
    expected = 0.25 + 1 / 16
    found = [fisher_divergence(mine, truth, truth.sample(400, seed=seed)) for seed in range(40)]
    z = [(one.value - expected) / one.error for one in found]
    assert abs(np.mean(z)) < 4.5 / np.sqrt(40)
    assert 0.6 < np.std(z) < 1.5
    assert np.mean([one.relative for one in found]) == pytest.approx(expected / 2, rel=0.05)


def test_a_factor_in_one_band_is_found_there_alone():
    error = band_errors(by_modes(lambda k, _: np.where((k > 2.0) & (k < 3.0), 1.5, 1.0)), FIELD, FIELDS,
                        GRID, bins=[0.5, 2.0, 3.0, 4.0, 10.0])  # fmt: skip
    np.testing.assert_allclose(error.gain, [1, 1.5, 1, 1])
    np.testing.assert_allclose(error.cosine, 1)
    np.testing.assert_allclose(error.relative, [0, 0.25, 0, 0], atol=1e-12)
    assert error.n_modes.sum() == GRID.n_cells - 1


def test_a_phase_in_one_band_is_a_cosine_there_alone():
    def change(k, last):  # modes at k_last = 0 or Nyquist have a partner on their plane
        inside = (k > 2.0) & (k < 3.0) & (last > 0) & (last < last.max())
        return np.where(inside, np.exp(0.7j), 1.0)

    error = band_errors(by_modes(change), FIELD, FIELDS, GRID, bins=[0.5, 2.0, 3.0, 10.0])
    np.testing.assert_allclose(error.cosine[[0, 2]], 1)
    np.testing.assert_allclose(error.gain[[0, 2]], 1)
    assert np.cos(0.7) < error.cosine[1] < 0.9
    assert error.gain[1] == pytest.approx(error.cosine[1])
    assert error.relative[1] == pytest.approx(2 - 2 * error.cosine[1])


def test_errors_of_bands():
    """100 repetitions with noise, in each of 4 bands: |mean z| < 0.45, rms 0.7 to 1.4, 4.5 sigma."""
    z = []
    for seed in range(100):
        fields = FIELD.sample(20, seed=seed)
        noise = RNG.normal(size=fields.shape)
        spoiled = ps.from_functions(
            score=lambda x, noise=noise: 0.8 * FIELD.score(x) + noise, shape=GRID.shape
        )
        error = band_errors(spoiled, FIELD, fields, GRID, bins=[0.5, 2.0, 3.0, 4.0, 10.0])
        z.append((error.gain - 0.8) / error.gain_error)
    assert (np.abs(np.mean(z, axis=0)) < 0.45).all()
    spread = np.std(z, axis=0)
    assert ((spread > 0.7) & (spread < 1.4)).all()


def test_the_mean_of_a_field_is_a_band_where_it_has_a_score():
    free = ps.smoothed(FIELD, 0.5)
    error = band_errors(0.5 * free, free, free.sample(5, seed=1), GRID)
    assert error.k[0] == 0
    assert error.n_modes.sum() == GRID.n_cells
    np.testing.assert_allclose(error.gain, 0.5)
    assert band_errors(FIELD, FIELD, FIELDS, GRID).k[0] > 0


def test_divergence_is_exact():
    stats = divergence_statistics(TARGET, X[:5])
    step = 1e-5
    expected = [
        sum((TARGET.score(x + step * e) - TARGET.score(x - step * e))[0, i] for i, e in enumerate(np.eye(2)))
        / (2 * step)
        for x in X[:5, np.newaxis]
    ]
    np.testing.assert_allclose(stats.values, expected, rtol=1e-6)
    np.testing.assert_allclose(stats.norms, (TARGET.score(X[:5]) ** 2).sum(axis=1))


@pytest.mark.parametrize("probes", [None, 2])
@pytest.mark.parametrize("factor", [1.0, 1.3, -1.0])
def test_hyvarinen_and_stein_of_a_gaussian(factor, probes):
    """60 seeds: |mean z| < 4.5 / sqrt(60) and rms z of 0.65 to 1.4, a false alarm in 10^4."""
    a = np.array([[2.0, 0.6, 0.1], [0.6, 1.0, -0.3], [0.1, -0.3, 0.5]])
    target = ps.Gaussian(np.ones(3), np.linalg.inv(a))
    z = []
    for seed in range(60):
        x = target.sample(150, seed=seed)
        stats = divergence_statistics(factor * target, x, probes=probes, seed=seed)
        z.append(
            [
                (stats.squares.value - factor**2 * np.trace(a)) / stats.squares.error,
                (stats.hyvarinen.value - (0.5 * factor**2 - factor) * np.trace(a)) / stats.hyvarinen.error,
                (stats.stein.value - (factor**2 - factor) * np.trace(a)) / stats.stein.error,
                (stats.stein_scale.value - 1 / factor) / stats.stein_scale.error,
            ]
        )
        if probes is None:
            np.testing.assert_allclose(stats.values, -factor * np.trace(a))
    assert (np.abs(np.mean(z, axis=0)) < 4.5 / np.sqrt(60) + 0.1).all()  # quantities of bias 1 / n
    spread = np.std(z, axis=0)
    assert ((spread > 0.65) & (spread < 1.4)).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: fisher_divergence(TARGET, FIELD, X), r"truth is of states of shape \(16, 12\)"),
        (lambda: fisher_divergence(TARGET, np.sin, X), "truth is .*: it must have a tuple .shape"),
        (lambda: fisher_divergence(changed(lambda s: s / 0), TARGET, X), "score is not finite at 300 of 300"),
        (lambda: score_error(TARGET, changed(np.log), X), "truth is not finite at"),
        (lambda: band_errors(TARGET, TARGET, X, GRID), r"grid has shape \(16, 12\): it must be \(2,\)"),
        (lambda: divergence_statistics(changed(lambda s: s / 0), X), "score or its divergence is not finite"),
        (lambda: divergence_statistics(TARGET, X, probes=0), "probes is 0"),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)


def test_a_shape_that_is_wrong_is_named():
    class Foreign:
        shape = (2,)

        def score(self, x):
            return x[:, :1]

    with pytest.raises(ps.InputError, match=r"score.score\(x\) returned \(300, 1\) .* expected \(300, 2\)"):
        fisher_divergence(Foreign(), TARGET, X)
