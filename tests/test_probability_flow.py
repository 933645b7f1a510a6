"""The probability flow against its closed form for normal data, and log-likelihoods against exact ones.

z-scores of Hutchinson's error bars have a root mean square within three times 0.07 of 1 over 100 of them,
which is what it spreads by.
"""

import math
from functools import partial

import numpy as np
import pytest

import physscore as ps
from physscore.core import Score
from physscore.sampling.levels import Level
from physscore.sampling.likelihood import log_likelihood
from physscore.sampling.probability_flow import encode, probability_flow
from physscore.sampling.sde import VE, VP, SubVP
from physscore.sampling.start import MatchedNormal

SDES = [VE(1e-3, 100.0), VP(), SubVP()]
MEAN, COVARIANCE = np.array([3.0, -2.0]), np.array([[1.0, 0.6], [0.6, 0.8]])
NORMAL = ps.Gaussian(MEAN, COVARIANCE)
SCORES = partial(ps.smoothed, NORMAL)
MIXTURE = ps.GaussianMixture(
    [0.3, 0.7], [[-3.0, 0.0], [3.0, 1.0]], [[[0.5, 0.2], [0.2, 1.0]], [[1.0, -0.3], [-0.3, 0.4]]]
)
D = 12
FACTOR = np.random.default_rng(4).normal(size=(D, D))
WIDE = FACTOR @ FACTOR.T / 8 + 0.3 * np.eye(D)
MANY = ps.GaussianMixture(
    [0.4, 0.6], np.random.default_rng(5).normal(size=(2, D)), np.array([WIDE, 0.5 * np.eye(D) + 0.2])
)


def exact_flow(y, low, high):
    """x - mean is scaled along each axis of the covariance by the ratio of widths."""
    values, axes = np.linalg.eigh(COVARIANCE)
    factor = np.sqrt((values + high**2) / (values + low**2))
    return MEAN + (y - MEAN) @ (axes * factor) @ axes.T


@pytest.mark.parametrize("sde", SDES, ids=repr)
@pytest.mark.parametrize(
    ("settings", "accuracy"),
    [({}, 1e-4), ({"method": "RK45", "tolerance": 1e-8}, 1e-7), ({"method": "RK4", "steps": 100}, 1e-3)],
    ids=str,
)
def test_there_and_back(sde, settings, accuracy):
    x = NORMAL.sample(50, seed=1)
    latent = encode(SCORES, sde, x, **settings)
    expected = exact_flow(x, sde.sigma_min, sde.sigma_max) * sde.alpha(1.0)
    assert np.abs(latent - expected).max() < accuracy * sde.std(1.0)
    back = probability_flow(SCORES, sde, 50, init=latent, denoise=False, **settings)
    np.testing.assert_allclose(back, x, atol=20 * accuracy)
    clean = probability_flow(SCORES, sde, 50, init=latent, **settings)
    np.testing.assert_allclose(clean, back + sde.sigma_min**2 * SCORES(sde.sigma_min).score(back))


def test_orders_and_tolerances():
    x = NORMAL.sample(20, seed=1)
    truth = exact_flow(x, 0.05, 20.0)

    def error(**settings):
        return np.abs(encode(SCORES, (0.05, 20.0), x, **settings) - truth).max()

    fixed = [error(method="RK4", steps=n) for n in (20, 40, 80)]
    assert fixed[0] / fixed[1] == pytest.approx(16, rel=0.25)
    assert fixed[1] / fixed[2] == pytest.approx(16, rel=0.15)
    for method in ("RK45", "DOP853"):
        adaptive = [error(method=method, tolerance=t) for t in (1e-3, 1e-6, 1e-9)]
        assert adaptive[0] < 1.0
        assert adaptive[1] < 1e-3
        assert adaptive[2] < 1e-6


def test_draws_do_not_depend_on_pieces():
    settings = {"method": "RK4", "steps": 30, "seed": 3}
    scores = partial(ps.smoothed, MIXTURE)
    whole = probability_flow(scores, VP(), 30, **settings)
    np.testing.assert_array_equal(whole, probability_flow(scores, VP(), 30, batch=7, **settings))
    np.testing.assert_array_equal(whole[:9], probability_flow(scores, VP(), 9, **settings))
    adaptive = probability_flow(scores, VP(), 30, seed=3, batch=11, tolerance=1e-9)
    again = probability_flow(scores, VP(), 30, seed=3, tolerance=1e-9)
    np.testing.assert_allclose(adaptive, again, atol=1e-5)


@pytest.mark.parametrize("sde", [*SDES, (1e-3, 300.0)], ids=repr)
@pytest.mark.parametrize("target", [NORMAL, MIXTURE, MANY], ids=["normal", "mixture", "many dimensions"])
def test_log_likelihood(target, sde):
    x = target.sample(100, seed=2)
    found = log_likelihood(partial(ps.smoothed, target), x, sde)
    truth = -ps.smoothed(target, 1e-3).energy(x)
    np.testing.assert_allclose(found.log_p, truth, atol=1e-3 * target.dim)
    np.testing.assert_allclose(found.log_p, -target.energy(x), atol=1e-3 * target.dim)
    assert found.error.max() < 1e-3 * target.dim
    if target is NORMAL:
        assert found.error.max() < 1e-5
    assert 50 < found.evaluations < 400


def test_what_is_left_without_tolerance():
    """The error of the matched end falls as sigma_max^-3, that of N(0, sigma_max^2) as its inverse."""
    x = MIXTURE.sample(100, seed=2)
    truth = -ps.smoothed(MIXTURE, 0.01).energy(x)
    errors = {
        (sigma, terminal): np.abs(
            log_likelihood(
                partial(ps.smoothed, MIXTURE), x, (0.01, sigma), terminal=terminal, tolerance=1e-9
            ).log_p
            - truth
        ).max()
        for sigma in (30.0, 90.0)
        for terminal in ("matched", "prior")
    }
    assert errors[30.0, "matched"] < 3e-3
    assert errors[30.0, "matched"] / errors[90.0, "matched"] == pytest.approx(27, rel=0.5)
    assert errors[30.0, "prior"] / errors[90.0, "prior"] == pytest.approx(3, rel=0.3)
    assert errors[90.0, "prior"] > 0.02


@pytest.mark.parametrize("sde", [VE(0.01, 10.0), VP(0.1, 8.0, 0.01)], ids=repr)
def test_ends(sde):
    """A given normal end is exact, in the variable of the SDE; so is the matched one for normal data."""
    x = NORMAL.sample(20, seed=3)
    truth = -ps.smoothed(NORMAL, 0.01).energy(x)
    alpha, std = sde.alpha(1.0), sde.std(1.0)
    given = ps.Gaussian(alpha * MEAN, alpha**2 * COVARIANCE + std**2 * np.eye(2))
    for terminal in (given, "matched"):
        found = log_likelihood(SCORES, x, sde, terminal=terminal, tolerance=1e-8)
        np.testing.assert_allclose(found.log_p, truth, atol=1e-6)
    np.testing.assert_allclose(found.latent, exact_flow(x, 0.01, sde.sigma_max) * alpha, atol=1e-5)
    wrong = log_likelihood(SCORES, x, sde, terminal="prior", tolerance=1e-8)
    lost = given.energy(found.latent) - sde.prior(2).energy(found.latent)
    np.testing.assert_allclose(wrong.log_p - truth, lost, atol=1e-5)


class WithSlope(Score):
    """The mixture's score with a derivative of its own, in closed form, as a network would have."""

    def __init__(self, sigma):
        self.mixture, self.shape = ps.smoothed(MANY, sigma), (D,)
        self.precisions = [np.linalg.inv(part.covariance) for part in self.mixture.components]

    def score(self, x):
        return self.mixture.score(x)

    def directional(self, x, v):
        parts = [(w, part.energy_and_score(x)) for w, part in
                 zip(self.mixture.weights, self.mixture.components, strict=True)]  # fmt: skip
        heights = np.array([np.log(w) - energy for w, (energy, _) in parts])
        shares = np.exp(heights - np.logaddexp.reduce(heights, axis=0))[..., np.newaxis]
        score = sum(share * s for share, (_, (_, s)) in zip(shares, parts, strict=True))
        slope = -score * (score * v).sum(axis=1, keepdims=True)
        for share, (_, (_, s)), precision in zip(shares, parts, self.precisions, strict=True):
            slope += share * (s * (s * v).sum(axis=1, keepdims=True) - v @ precision)
        return score, slope


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_error_bars_cover(law):
    x = MANY.sample(50, seed=6)
    truth = -ps.smoothed(MANY, 0.01).energy(x)
    settings = {"divergence": "hutchinson", "probes": 48, "law": law, "method": "RK4", "steps": 25}
    z = []
    for seed in (1, 2):
        found = log_likelihood(WithSlope, x, (0.01, 60.0), seed=seed, **settings)
        z.append((found.log_p - truth) / found.error)
    assert 0.79 < np.sqrt(np.mean(np.square(z))) < 1.21
    covered = np.abs(z) < 1.96  # two-sided 95%
    assert covered.mean() == pytest.approx(0.95, abs=0.057)  # 2.6 standard deviations of 100
    assert abs(np.corrcoef(*z)[0, 1]) < 0.49  # 3.5 / sqrt(50): seeds are independent
    assert found.error.mean() > 0.05
    part = log_likelihood(WithSlope, x[:9], (0.01, 60.0), seed=2, batch=4, **settings)
    np.testing.assert_allclose(part.log_p, found.log_p[:9], atol=1e-9)
    differences = log_likelihood(partial(ps.smoothed, MANY), x[:2], (0.01, 60.0), seed=2, **settings)
    np.testing.assert_allclose(differences.log_p, found.log_p[:2], atol=1e-5)


def test_the_error_of_few_probes_is_not_known():
    found = log_likelihood(SCORES, MEAN[np.newaxis], VP(), divergence="hutchinson", probes=3)
    assert np.isfinite(found.log_p).all()
    assert np.isnan(found.error).all()


class LinearField(Score):
    """A random field's score, which is linear, with a derivative of its own."""

    def __init__(self, field):
        self.field, self.shape = field, field.shape

    def score(self, x):
        return self.field.score(x)

    def directional(self, x, v):
        return np.zeros_like(v), self.field.score(v)


GRID = ps.Grid((6, 5), box_size=6.0)
FIELD = ps.GaussianRandomField(GRID, lambda k: 0.5 * k**-0.5)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_fields_of_more_dimensions_than_a_jacobian_is_made_for(divergence, monkeypatch):
    monkeypatch.setattr("physscore.sampling.start._DENSE", 8)
    x = ps.smoothed(FIELD, 0.1).sample(5, seed=1)
    found = log_likelihood(
        lambda sigma: LinearField(ps.smoothed(FIELD, sigma)), x, (0.1, 40.0), divergence=divergence,
        method="RK4", steps=20, probes=30,
    )  # fmt: skip
    error = found.log_p + ps.smoothed(FIELD, 0.1).energy(x)
    if divergence == "exact":
        assert np.abs(error).max() < 1e-3 * 30
    else:
        assert np.abs(error / found.error).max() < 4.5
        assert 0.01 < found.error.max() < 2.0


def test_the_error_says_how_far_the_end_is_from_normal():
    """Of 1000 draws the ratios are steady to 3%, from 0.31 to 0.42; of 50 they are from 0.27 to 0.64."""
    x = MIXTURE.sample(1000, seed=2)
    truth = -ps.smoothed(MIXTURE, 0.01).energy(x)
    for sigma in (3.0, 10.0, 40.0):
        found = log_likelihood(partial(ps.smoothed, MIXTURE), x, (0.01, sigma), tolerance=1e-8)
        actual = np.sqrt(np.mean((found.log_p - truth) ** 2))
        said = np.sqrt(np.mean(found.error**2))
        assert 0.3 < actual / said < 1.5


def test_matched_normal_density():
    matched = MatchedNormal(Level(SCORES, 20.0))
    np.testing.assert_allclose(matched.mode, [MEAN], atol=1e-6)
    assert matched.log_det == pytest.approx(np.linalg.slogdet(COVARIANCE + 400 * np.eye(2))[1], rel=1e-10)
    draws = matched.sample(5, 2)
    log_p, error = matched.log_p(draws)
    np.testing.assert_allclose(log_p, -SCORES(20.0).energy(draws), rtol=1e-9)
    assert error.max() < 1e-8
    # In many dimensions the series of the log determinant, and a start as wide in all directions.
    grid = ps.Grid((27, 20), box_size=20.0)
    field = ps.smoothed(ps.GaussianRandomField(grid, lambda k: 2 * k**-0.5), 30.0)
    large = MatchedNormal(Level(lambda sigma: LinearField(field), 30.0))
    values = field.power * grid.n_cells / grid.volume
    used = field.wavenumbers.counts > 0
    truth = field.wavenumbers.counts[used] @ np.log(values[used])
    assert large.log_det == pytest.approx(truth, abs=1e-4)
    sounded = MatchedNormal(Level(lambda sigma: LinearField(field), 30.0), exact=False)
    assert abs(sounded.log_det - truth) < 4.5 * 2 * sounded.error
    assert 0 < sounded.error < 0.05
    assert large.sample(40, 1).std() == pytest.approx(math.exp(0.5 * truth / 540), rel=0.03)


def test_progress_bars(capsys):
    probability_flow(SCORES, VP(), 2, progress=True)
    log_likelihood(SCORES, np.zeros((1, 2)), VP(), progress=True, method="RK4", steps=5)
    capsys.readouterr()


def broken(sigma):
    return ps.from_functions(score=lambda x: (np.nan if sigma > 3 else -1) * x / (1 + sigma**2), shape=2)


def steep(sigma):
    return ps.from_functions(score=lambda x: np.where(np.abs(x) > 2, np.inf, -x), shape=2)


def away(sigma):
    return ps.from_functions(score=lambda x: np.ones_like(x), shape=2)


ONE = np.zeros((1, 2))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: encode(broken, VE(0.1, 10.0), ONE), r"score_at(.*) is not finite for 1 of 1"),
        (lambda: encode(SCORES, VP(), np.zeros((0, 2))), "x holds 0 states"),
        (lambda: encode(SCORES, VP(), [[np.nan, 0.0]]), "x holds 1 states: .* finite"),
        (lambda: encode(SCORES, VP(), np.zeros((3, 4))), r"x has shape \(3, 4\)"),
        (lambda: encode(SCORES, VP(), ONE, method="LSODA"), "method is 'LSODA'"),
        (lambda: encode(SCORES, VP(), ONE, method="RK4"), "steps is missing"),
        (lambda: encode(SCORES, VP(), ONE, steps=5), "steps is 5 and method DOP853"),
        (lambda: encode(SCORES, VP(), ONE, method="RK4", steps=0), "steps is 0"),
        (lambda: encode(SCORES, VP(), ONE, tolerance=0.0), "tolerance is 0.0"),
        (lambda: probability_flow(SCORES, VP(), 0), "n is 0"),
        (lambda: log_likelihood(SCORES, ONE, VP(), divergence="skilling"), "divergence is 'skilling'"),
        (lambda: log_likelihood(SCORES, ONE, VP(), divergence="hutchinson", probes=0), "probes is 0"),
        (lambda: log_likelihood(SCORES, ONE, VP(), law="uniform"), "law 'uniform'"),
        (lambda: log_likelihood(SCORES, ONE, VP(), terminal="flat"), "terminal is 'flat'"),
        (lambda: log_likelihood(SCORES, ONE, VP(), terminal=ps.Gaussian(0, 1, dim=3)), r"shape \(3,\)"),
        (lambda: log_likelihood(steep, ONE + 1, VE(0.1, 10.0), terminal="prior"), "is not finite"),
        (lambda: log_likelihood(away, ONE, (0.01, 1.0)), "the mode at sigma = 1 is not found"),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)
