"""Heun's method and DDPM against their exact discrete laws, and the prediction of noise as a score.

A z-score fails above 4.5, by chance once in 1.5e5; there are fewer than 150.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

import physscore as ps
from physscore.sampling.denoising import ddpm, edm_levels, heun
from physscore.sampling.noise_prediction import (
    alphas_bar,
    cosine_betas,
    epsilon_to_score,
    linear_betas,
    score_at_from_epsilon,
)

LIMIT = 4.5
N = 20_000
MEAN, VARIANCES = np.array([1.5, -2.0]), np.array([0.3, 4.0])
NORMAL = partial(ps.smoothed, ps.Gaussian(MEAN, VARIANCES))
BETAS = linear_betas(20, 0.005, 0.5)


def assert_law(x, mean, variance):
    z = (x - mean) / np.sqrt(variance)
    scores = np.concatenate([z.mean(0), (z**2 - 1).mean(0) / np.sqrt(2), [z.prod(axis=1).mean()]])
    assert np.abs(scores).max() * np.sqrt(len(x)) < LIMIT


def heun_law(levels, variances, churn=0.0, churn_range=(0, np.inf), churn_noise=1.0, denoise=True):
    """Mean (of deviations from the mean, as a factor) and variance of the draws: every step is linear."""
    factor, variance = 1.0, levels[0] ** 2
    for sigma, target in pairwise(levels):
        grown = 1.0
        if churn and churn_range[0] <= sigma <= churn_range[1]:
            grown = 1 + min(churn / (len(levels) - 1), np.sqrt(2) - 1)
        variance = variance + sigma**2 * (grown**2 - 1) * churn_noise**2
        high = sigma * grown
        slope = high / (variances + high**2)
        ahead = 1 + (target - high) * slope
        step = 1 + (target - high) * 0.5 * (slope + target / (variances + target**2) * ahead)
        factor, variance = factor * step, variance * step**2
    if denoise:
        step = variances / (variances + levels[-1] ** 2)
        factor, variance = factor * step, variance * step**2
    return factor, variance


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"denoise": False},
        {"churn": 3.0},
        {"churn": 100.0, "churn_range": (0.5, 5.0), "churn_noise": 1.2},
    ],
    ids=str,
)
def test_heun_has_its_exact_law(settings):
    levels = edm_levels(0.2, 15.0, 8)
    factor, variance = heun_law(levels, VARIANCES, **settings)
    x = heun(NORMAL, levels, N, seed=1, **settings)
    assert_law(x, MEAN - factor * MEAN, variance)  # the start has the mean 0
    for wrong in ({"denoise": not settings.get("denoise", True)}, {"churn": 1.5}):
        with pytest.raises(AssertionError):
            assert_law(x, MEAN - factor * MEAN, heun_law(levels, VARIANCES, **{**settings, **wrong})[1])


def test_heun_is_of_second_order():
    truth = (VARIANCES + 0.01**2) / (VARIANCES + 80.0**2) * 80.0**2
    errors = [
        np.abs(heun_law(edm_levels(0.01, 80.0, n + 1), VARIANCES, denoise=False)[1] / truth - 1).max()
        for n in (40, 80, 160)
    ]
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_levels_of_edm():
    levels = edm_levels(0.002, 80.0, 18)
    assert (levels[0], levels[-1]) == (80.0, 0.002)
    np.testing.assert_allclose(np.diff(levels ** (1 / 7)), (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 17)
    np.testing.assert_allclose(edm_levels(1.0, 4.0, 4, rho=1.0), [4, 3, 2, 1])


def test_fields_have_the_variance_of_each_mode():
    grid = ps.Grid((6, 5), box_size=11.0)
    field = ps.GaussianRandomField(grid, lambda k: 3 * k**-1.5)
    x = heun(partial(ps.smoothed, field), edm_levels(0.003, 60.0, 40), 200, seed=4, batch=70)
    variances = field.power * grid.n_cells / grid.volume
    _, expected = heun_law(edm_levels(0.003, 60.0, 40), variances)
    shells = field.wavenumbers.counts > 0
    np.testing.assert_allclose(
        expected[shells], variances[shells], rtol=0.02
    )  # an error of the method below a sigma
    modes = np.abs(np.fft.fftn(x, axes=(1, 2), norm="ortho")) ** 2
    kx, ky = np.meshgrid(np.fft.fftfreq(6, 11 / 6), np.fft.fftfreq(5, 11 / 5), indexing="ij")
    model = 3 * np.maximum(2 * np.pi * np.hypot(kx, ky), 1e-9) ** -1.5 * grid.n_cells / grid.volume
    real = np.zeros((6, 5), bool)
    real[[0, 3], 0] = True  # their own partners: one degree of freedom, not two
    total = modes.sum(axis=0) / model
    z = (total / len(x) - 1) / np.sqrt(np.where(real, 2, 1) / len(x))
    assert np.abs(z.ravel()[1:]).max() < LIMIT
    assert modes[:, 0, 0].max() < 1e-6  # k = 0 has no power: denoising fixes it at the mean
    assert stats.kstest(x[:, 1, 2] / np.sqrt(field.variance), "norm").pvalue > 1e-4


def ddpm_law(betas, variance, mean, variances):
    kept = np.cumprod(1 - betas)
    m, v = np.zeros(2), np.ones(2)
    for t in range(len(betas) - 1, -1, -1):
        width = kept[t] * variances + 1 - kept[t]
        factor = (1 - betas[t] / width) / np.sqrt(1 - betas[t])
        m = factor * m + betas[t] / width * np.sqrt(kept[t]) * mean / np.sqrt(1 - betas[t])
        if variance == "beta":
            noise = betas[t]
        else:
            noise = betas[t] * (1 - (kept[t - 1] if t else 1.0)) / (1 - kept[t])
        v = factor**2 * v + (noise if t else 0.0)
    return m, v


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_ddpm_has_its_exact_law(variance):
    x = ddpm(NORMAL, BETAS, N, seed=2, variance=variance)
    assert_law(x, *ddpm_law(BETAS, variance, MEAN, VARIANCES))
    other = "beta" if variance == "posterior" else "posterior"
    with pytest.raises(AssertionError):
        assert_law(x, *ddpm_law(BETAS, other, MEAN, VARIANCES))


def test_ddpm_is_exact_where_it_should_be():
    """std^2 = beta for data N(0, 1); the posterior variance for data of one point."""
    _, v = ddpm_law(BETAS, "beta", np.zeros(2), np.ones(2))
    before = (v - 0.0) / 1.0 + BETAS[0]  # the last step adds no noise
    np.testing.assert_allclose(before, 1.0)
    point = partial(ps.smoothed, ps.Gaussian([2.0, -1.0], 1e-20))
    np.testing.assert_allclose(ddpm(point, BETAS, 5, seed=1), np.tile([2.0, -1.0], (5, 1)), atol=1e-8)


def test_betas():
    np.testing.assert_allclose(linear_betas(3, 0.1, 0.3), [0.1, 0.2, 0.3])
    assert linear_betas().shape == (1000,)
    assert alphas_bar(linear_betas())[-1] == pytest.approx(4.0e-5, rel=0.02)
    t = np.arange(1, 501) / 500
    ideal = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alphas_bar(cosine_betas(500))[:-1], ideal[:-1], rtol=1e-9)
    assert cosine_betas(500)[-1] == 0.999
    np.testing.assert_allclose(alphas_bar([0.1, 0.5]), [0.9, 0.45])


KEPT = alphas_bar(linear_betas(300, 3e-4, 0.06))


def exact_epsilon(x, step):
    """What a perfect network predicts for normal data: E[xi | x_t]."""
    return (
        np.sqrt(1 - KEPT[step]) * (x - np.sqrt(KEPT[step]) * MEAN) / (KEPT[step] * VARIANCES + 1 - KEPT[step])
    )


def test_predicted_noise_is_a_score():
    x = np.random.default_rng(1).normal(size=(50, 2)) * 3
    score_at = score_at_from_epsilon(exact_epsilon, KEPT, shape=2)
    for step in (0, 7, 299):
        kept = KEPT[step]
        sigma = float(np.sqrt((1 - kept) / kept))
        expected = NORMAL(sigma).score(x)
        np.testing.assert_allclose(score_at(sigma).score(x), expected, rtol=1e-6, atol=1e-9)
        # In DDPM's own variable: s_t(x_t) = -eps / sqrt(1 - abar).
        noisy = np.sqrt(kept) * x
        np.testing.assert_allclose(
            epsilon_to_score(exact_epsilon(noisy, step), kept), expected / np.sqrt(kept), rtol=1e-6, atol=1e-9
        )
    levels = np.sqrt((1 - KEPT) / KEPT)
    for between in (np.sqrt(levels[30] * levels[31]), 1.0, 20.0):
        expected = NORMAL(between).score(x)
        np.testing.assert_allclose(score_at(float(between)).score(x), expected, rtol=0.01, atol=1e-3)


MIXTURE = ps.GaussianMixture([0.2, 0.5, 0.3], [[-3.0, 0], [1.5, 2], [2, -2.5]], [0.3, 0.6, 1.0])


def test_predicted_v_is_a_score():
    def v(x, step):
        kept = KEPT[step]
        level = float(np.sqrt((1 - kept) / kept))
        noise = -level * ps.smoothed(MIXTURE, level).score(x / np.sqrt(kept))
        clean = (x - np.sqrt(1 - kept) * noise) / np.sqrt(kept)
        return np.sqrt(kept) * noise - np.sqrt(1 - kept) * clean

    x = np.random.default_rng(1).normal(size=(50, 2)) * 3
    score_at = ps.score_at_from_v(v, KEPT, shape=2)
    for step in (0, 30, 299):
        level = float(np.sqrt((1 - KEPT[step]) / KEPT[step]))
        expected = ps.smoothed(MIXTURE, level).score(x)
        np.testing.assert_allclose(score_at(level).score(x), expected, rtol=1e-6, atol=1e-8)


def test_samplers_take_predicted_noise():
    betas = linear_betas(300, 3e-4, 0.06)
    score_at = score_at_from_epsilon(exact_epsilon, KEPT, shape=2)
    np.testing.assert_allclose(
        ddpm(score_at, betas, 50, seed=1), ddpm(NORMAL, betas, 50, seed=1), rtol=1e-4, atol=1e-4
    )
    levels = edm_levels(0.02, 60.0, 40)
    np.testing.assert_allclose(
        heun(score_at, levels, 50, seed=1), heun(NORMAL, levels, 50, seed=1), rtol=0.02, atol=0.02
    )


def test_scores_of_single_steps():
    noise = np.ones((3, 2, 2))
    found = epsilon_to_score(noise, [0.0, 0.75, 0.96])
    np.testing.assert_allclose(found[:, 0, 0], [-1.0, -2.0, -5.0])


def test_a_draw_depends_on_its_place_only(capsys):
    levels = edm_levels(0.1, 20.0, 10)
    for sampler, way in ((heun, levels), (ddpm, BETAS)):
        settings = {"churn": 5.0} if sampler is heun else {}
        whole = sampler(NORMAL, way, 30, seed=5, **settings)
        np.testing.assert_array_equal(whole[:12], sampler(NORMAL, way, 12, seed=5, **settings))
        np.testing.assert_array_equal(
            whole, sampler(NORMAL, way, 30, seed=5, batch=7, progress=True, **settings)
        )
        assert np.abs(whole - sampler(NORMAL, way, 30, seed=6, **settings)).min() > 0
    capsys.readouterr()
    # One step of one level is pure denoising of the start.
    assert heun(NORMAL, [2.0], 4, init=np.zeros(2)) == pytest.approx(
        np.tile(MEAN * 4 / (VARIANCES + 4), (4, 1))
    )


LEVELS = edm_levels(0.1, 20.0, 5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda: heun(lambda s: ps.from_functions(score=lambda x: x / 0.0, shape=1), LEVELS, 3),
            "not finite",
        ),
        (lambda: heun(NORMAL, LEVELS[::-1], 3), "sigmas is"),
        (lambda: heun(NORMAL, LEVELS, 0), "n is 0"),
        (lambda: heun(NORMAL, LEVELS, 3, churn=-1), "churn is -1"),
        (lambda: heun(NORMAL, LEVELS, 3, churn_noise=np.inf), "churn_noise is inf"),
        (lambda: heun(NORMAL, LEVELS, 3, churn=1, churn_range=(5, 1)), r"churn_range is \(5, 1\)"),
        (lambda: heun(NORMAL, LEVELS, 3, churn=1, churn_range=3), "churn_range is 3"),
        (lambda: edm_levels(2.0, 1.0, 5), "sigma_min is 2.0 and sigma_max 1.0"),
        (lambda: edm_levels("a", 1.0, 5), "sigma_min is 'a'"),
        (lambda: edm_levels(1.0, 2.0, 1), "n is 1"),
        (lambda: ddpm(NORMAL, [0.1, 1.5], 3), "betas is"),
        (lambda: ddpm(NORMAL, BETAS, 3, variance="fixed"), "variance is 'fixed'"),
        (lambda: linear_betas(0), "n is 0"),
        (lambda: linear_betas(3, 0.0, 0.1), "betas is"),
        (lambda: cosine_betas(5, offset=-1), "offset is -1"),
        (lambda: epsilon_to_score(np.ones((3, 2)), [0.1, 0.2]), "alpha_bar is"),
        (lambda: epsilon_to_score(np.ones((3, 2)), 1.0), "alpha_bar is 1.0"),
        (lambda: score_at_from_epsilon(exact_epsilon, KEPT[::-1], shape=2), "alphas_bar is"),
        (lambda: score_at_from_epsilon(3, KEPT, shape=2), "epsilon is 3"),
        (lambda: score_at_from_epsilon(exact_epsilon, KEPT, shape=2)(500.0), "sigma is 500: the steps"),
        (
            lambda: score_at_from_epsilon(lambda x, t: x[:1], KEPT, shape=2)(1.0).score(np.ones((3, 2))),
            r"returned \(1, 2\), expected \(3, 2\)",
        ),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with np.errstate(all="ignore"), pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scaled", [False, True])
def test_schedules_in_single_precision(scaled):
    """As a network's own: the ends of the steps are missed by 5e-5, and it is the end that is meant."""
    ends = np.array([1e-4, 0.02], np.float32)
    betas = np.linspace(*np.sqrt(ends), 1000, dtype=np.float32) ** 2 if scaled else np.linspace(*ends, 1000)
    kept = np.cumprod(1 - betas.astype(np.float32), dtype=np.float32)

    def epsilon(x, step):
        return np.sqrt(1 - kept[step]) * x

    score_at = score_at_from_epsilon(epsilon, kept, shape=2)
    assert np.isfinite(ddpm(score_at, betas, 4, seed=1)).all()
    levels = np.sqrt((1 - kept.astype(float)) / kept)
    x = np.ones((1, 2))
    for end, beyond in ((levels[0], 1 - 5e-4), (levels[-1], 1 + 5e-4)):
        np.testing.assert_allclose(score_at(end * beyond).score(x), score_at(end).score(x), rtol=1e-3)
        with pytest.raises(ps.InputError, match="the steps of the network"):
            score_at(end * beyond**4)


def test_predicted_noise_with_a_graph():
    torch = pytest.importorskip("torch")
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    score_at = score_at_from_epsilon(lambda x, step: weight * torch.as_tensor(x), KEPT, shape=2)
    found = score_at(1.0).score(np.ones((3, 2)))
    np.testing.assert_allclose(found, -np.sqrt(0.5), rtol=1e-2)
    np.testing.assert_array_equal(epsilon_to_score(weight[None], 0.75), -2.0 * np.ones((1, 2)))


def test_a_score_that_no_noise_has_made_smooth_is_said():
    """The likelihood of clean states at all noise levels led to states of 1e39, without a word."""
    levels = edm_levels(0.01, 30.0, 40)
    likelihood = ps.GaussianNoise([0.3, 0.4], 0.7)
    with pytest.warns(UserWarning, match="the score at sigma = 30 is .* times as steep") as said:
        heun(ps.guided(NORMAL, lambda sigma: likelihood), levels, 20, seed=1)
    assert len(said) == 1
