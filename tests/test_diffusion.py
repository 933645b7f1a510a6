"""The SDEs against their own differential equations, reverse diffusion against exact laws and exact draws.

A z-score fails above 4.5, by chance once in 1.5e5; there are fewer than 300. Energy distances fail at 1%,
of 12 samplers; seeds are fixed.
"""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.distance import cdist

import physscore as ps
from physscore.sampling.denoising import ddpm, edm_levels, heun
from physscore.sampling.diffusion import perturb, reverse_sde
from physscore.sampling.noise_prediction import cosine_betas, linear_betas
from physscore.sampling.probability_flow import probability_flow
from physscore.sampling.sde import VE, VP, SubVP

LIMIT = 4.5
SDES = [VE(0.05, 20.0), VP(sigma_min=0.05), SubVP(sigma_min=0.05), VP(0.5, 3.0, 0.01), SubVP(4.0, 4.0)]
MEAN, VARIANCES = np.array([1.5, -2.0]), np.array([0.3, 4.0])
NORMAL = partial(ps.smoothed, ps.Gaussian(MEAN, VARIANCES))
MIXTURE = ps.GaussianMixture(
    [0.2, 0.3, 0.5], [[-4.0, 0.0], [3.0, 3.0], [2.0, -3.0]],
    [[[0.5, 0.2], [0.2, 1.0]], [[1.0, -0.3], [-0.3, 0.4]], [[0.3, 0.0], [0.0, 0.2]]],
)  # fmt: skip
SCORES = partial(ps.smoothed, MIXTURE)


def assert_law(x, mean, variance):
    """Means, variances and the correlation of normal draws of independent components."""
    z = (x - mean) / np.sqrt(variance)
    scores = np.concatenate([z.mean(0), (z**2 - 1).mean(0) / np.sqrt(2), [z.prod(axis=1).mean()]])
    assert np.abs(scores).max() * np.sqrt(len(x)) < LIMIT


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_marginals_solve_the_equations_of_the_moments(sde):
    """Of a linear SDE: m' = f m and v' = 2 f v + g^2, at every time."""
    t = np.linspace(max(sde.t_min, 0.01), 1, 50)
    h = 1e-5
    rate = np.array([sde.drift(np.ones((1, 1)), s)[0, 0] for s in t])
    slope = (sde.alpha(t + h) - sde.alpha(t - h)) / (2 * h)
    np.testing.assert_allclose(slope, rate * sde.alpha(t), rtol=1e-6, atol=1e-8)
    slope = (sde.std(t + h) ** 2 - sde.std(t - h) ** 2) / (2 * h)
    expected = 2 * rate * sde.std(t) ** 2 + sde.diffusion(t) ** 2
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_times_and_noise_levels(sde):
    assert sde.sigma(sde.t_min) == pytest.approx(sde.sigma_min, rel=1e-9)
    assert sde.sigma(1.0) == sde.sigma_max
    for t in (0.1, 0.7, 1.0):
        assert sde.time_of(sde.sigma(t)) == pytest.approx(t, rel=1e-10)
    x, t = np.array([[0.3, -1.0], [2.0, 4.0]]), 0.4
    variance = sde.alpha(t) ** 2 * VARIANCES + sde.std(t) ** 2
    np.testing.assert_allclose(sde.score(NORMAL, x, t), -(x - sde.alpha(t) * MEAN) / variance)
    assert sde.prior((3, 2)).covariance == pytest.approx(np.full(6, sde.std(1.0) ** 2))


def test_known_numbers():
    assert VP().alpha(1.0) == pytest.approx(np.exp(-10.05 / 2))
    assert VP().alpha(0.3) ** 2 + VP().std(0.3) ** 2 == pytest.approx(1.0)
    assert SubVP().std(0.3) == pytest.approx(VP().std(0.3) ** 2)
    assert VE(0.01, 50.0).sigma(0.5) == pytest.approx(np.sqrt(0.5))


@pytest.mark.parametrize("sde", SDES[:3], ids=repr)
def test_perturbed_data(sde):
    n = 20_000
    x = ps.Gaussian(MEAN, VARIANCES).sample(n, seed=1)
    t = np.linspace(0, 1, n)
    noisy = perturb(x, sde, t, seed=2)
    variance = sde.alpha(t)[:, np.newaxis] ** 2 * VARIANCES + sde.std(t)[:, np.newaxis] ** 2
    assert_law(noisy, sde.alpha(t)[:, np.newaxis] * MEAN, variance)
    np.testing.assert_array_equal(noisy[:5], perturb(x[:5], sde, t[:5], seed=2))


def exact_law(sde, steps, predictor, corrector, snr, denoise):
    """Mean and variance of the draws, step by step: for a normal density every step is linear."""
    times = np.linspace(1, sde.t_min, steps + 1)
    mean, variance = np.zeros(2), np.full(2, sde.std(1.0) ** 2)
    for t, s in pairwise(times):
        alpha = sde.alpha(t)
        width = alpha**2 * VARIANCES + sde.std(t) ** 2  # score of p_t: (alpha MEAN - x) / width
        if predictor == "ancestral":
            ratio, lost = sde.alpha(s) / alpha, 1 - (sde.sigma(s) / sde.sigma(t)) ** 2
            pull, shift = ratio * lost * sde.std(t) ** 2, 0.0
            noise = (sde.std(s) ** 2) * lost
        else:
            g, dt = sde.diffusion(t), t - s
            ratio, pull, noise = 1.0, g**2 * dt, g**2 * dt
            shift = -sde.drift(np.ones((1, 1)), t)[0, 0] * dt
        factor = ratio + shift - pull / width
        mean, variance = factor * mean + pull / width * alpha * MEAN, factor**2 * variance + noise
        width = sde.alpha(s) ** 2 * VARIANCES + sde.std(s) ** 2
        eps = 2 * (snr * sde.std(s)) ** 2
        for _ in range(corrector):
            factor = 1 - eps / width
            mean, variance = mean + eps / width * (sde.alpha(s) * MEAN - mean), factor**2 * variance + 2 * eps
    mean, variance = mean / sde.alpha(times[-1]), variance / sde.alpha(times[-1]) ** 2
    if denoise:
        share = sde.sigma_min**2 / (VARIANCES + sde.sigma_min**2)
        mean, variance = mean + share * (MEAN - mean), (1 - share) ** 2 * variance
    return mean, variance


@pytest.mark.parametrize("predictor", ["ancestral", "euler"])
@pytest.mark.parametrize("sde", SDES[:3], ids=repr)
@pytest.mark.parametrize(("corrector", "denoise"), [(0, False), (2, True)])
def test_discrete_law_of_a_normal_target(sde, predictor, corrector, denoise):
    settings = {"steps": 12, "predictor": predictor, "corrector": corrector, "snr": 0.3, "denoise": denoise}
    mean, variance = exact_law(sde, **settings)
    x = reverse_sde(NORMAL, sde, 20_000, seed=3, **settings)
    assert_law(x, mean, variance)
    other = "euler" if predictor == "ancestral" else "ancestral"
    with pytest.raises(AssertionError):
        assert_law(x, *exact_law(sde, **{**settings, "predictor": other}))


@pytest.mark.parametrize("sde", [VE(0.01, 300.0), VP(), SubVP()], ids=repr)
@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0])
def test_the_discrete_law_tends_to_that_of_the_data_at_every_time(sde, sigma):
    """Ending at any noise level, the law is N(mean, C + sigma^2), with an error of order 1 / steps."""
    here = VE(sigma, 300.0) if isinstance(sde, VE) else type(sde)(sigma_min=sigma)
    for predictor in ("ancestral", "euler"):
        errors = []
        for steps in (500, 1000, 4000):
            mean, variance = exact_law(here, steps, predictor, 0, 0.1, False)
            errors.append(np.abs(variance / (VARIANCES + sigma**2) - 1).max())
        assert errors[1] < 0.1
        assert errors[0] / errors[1] == pytest.approx(2, rel=0.3)
        assert errors[2] < 0.02
        np.testing.assert_allclose(mean, MEAN, atol=0.02)


def energy_distance_p(x, y, permutations=300):
    """Chance of so large an energy distance 2 E|X-Y| - E|X-X'| - E|Y-Y'| by permutation of the labels."""
    both = np.concatenate([x, y])
    distances = cdist(both, both)
    labels = np.concatenate([np.full(len(x), 1 / len(x)), np.full(len(y), -1 / len(y))])
    rng = np.random.default_rng(0)
    shuffled = np.array([labels] + [rng.permutation(labels) for _ in range(permutations)])
    found = -np.einsum("pi,pi->p", shuffled @ distances, shuffled)
    return (found[1:] >= found[0]).mean()


def score_only(sigma):  # moves without compiling a mixture
    return ps.from_functions(score=SCORES(sigma).score, shape=2)


N = 2000
EXACT = MIXTURE.sample(1000, seed=99)
SAMPLERS = {
    "ve": lambda: reverse_sde(SCORES, VE(0.02, 50.0), N, seed=1, steps=300),
    "ve euler": lambda: reverse_sde(SCORES, (0.02, 50.0), N, seed=2, steps=500, predictor="euler"),
    "vp": lambda: reverse_sde(SCORES, VP(), N, seed=3, steps=300),
    "sub-vp": lambda: reverse_sde(SCORES, SubVP(), N, seed=4, steps=300),
    "sub-vp euler": lambda: reverse_sde(SCORES, SubVP(), N, seed=5, steps=500, predictor="euler"),
    "predictor-corrector": lambda: reverse_sde(SCORES, VE(0.02, 50.0), N, seed=6, steps=100, corrector=2),
    "flow": lambda: probability_flow(SCORES, VE(0.01, 50.0), N, seed=7, init="matched"),
    "flow rk4": lambda: probability_flow(SCORES, VP(sigma_min=0.01), N, seed=8, method="RK4", steps=40),
    "heun": lambda: heun(SCORES, edm_levels(0.01, 80.0, 40), N, seed=9, init="matched"),
    "heun churn": lambda: heun(SCORES, edm_levels(0.01, 80.0, 40), N, seed=10, churn=20),
    "ddpm": lambda: ddpm(SCORES, linear_betas(300, 3e-4, 0.06), N, seed=11),
    "ddpm beta": lambda: ddpm(SCORES, linear_betas(400, 2e-4, 0.05), N, seed=14, variance="beta"),
    "ddpm cosine": lambda: ddpm(SCORES, cosine_betas(400), N, seed=12),
    "annealed langevin": lambda: ps.annealed_langevin(
        score_only, ps.noise_levels(20.0, 0.1, 20), chains=N, steps=60, step_size=2e-3, seed=13
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_from_a_mixture(name):
    x = SAMPLERS[name]()
    assert x.shape == (N, 2)
    heights = [np.log(w) - c.energy(x) for w, c in zip(MIXTURE.weights, MIXTURE.components, strict=True)]
    counts = np.bincount(np.argmax(heights, axis=0), minlength=3)
    expected = N * MIXTURE.weights  # the modes hardly overlap
    assert np.abs((counts - expected) / np.sqrt(expected * (1 - MIXTURE.weights))).max() < LIMIT
    assert energy_distance_p(x[:1000], EXACT) > 0.01
    assert energy_distance_p(x[:1000] + np.array([0.6, 0.0]), EXACT) < 0.01  # the test has power


def test_a_draw_depends_on_its_place_only():
    settings = {"steps": 20, "corrector": 1, "seed": 5}
    whole = reverse_sde(SCORES, VP(), 50, **settings)
    np.testing.assert_array_equal(whole[:20], reverse_sde(SCORES, VP(), 20, **settings))
    np.testing.assert_array_equal(whole, reverse_sde(SCORES, VP(), 50, batch=7, **settings))
    assert np.abs(whole - reverse_sde(SCORES, VP(), 50, **{**settings, "seed": 6})).min() > 0


def test_start():
    sde = VE(5.0, 10.0)
    law = NORMAL(10.0)
    quiet = {"steps": 1, "denoise": False}

    def ends(init):
        return reverse_sde(NORMAL, sde, 20_000, seed=1, init=init, **quiet)

    share = 1 - 0.25
    factor = 1 - share * 100 / (VARIANCES + 100)
    for init in (law, "matched", law.sample(20_000, seed=3)):
        assert_law(ends(init), MEAN, factor**2 * (VARIANCES + 100) + 25 * share)
    assert_law(ends(np.array([7.0, 7.0])), MEAN + factor * (7 - MEAN), np.full(2, 25 * share))
    with pytest.raises(AssertionError):
        assert_law(ends(None), MEAN, factor**2 * (VARIANCES + 100) + 25 * share)


def test_matched_start_of_vp():
    sde = VP(0.1, 6.0, sigma_min=3.0)
    x = reverse_sde(NORMAL, sde, 20_000, seed=1, init="matched", steps=1, denoise=False)
    high, low = sde.sigma_max**2, sde.sigma_min**2
    factor = 1 - (high - low) / (VARIANCES + high)
    assert_law(x, MEAN, factor**2 * (VARIANCES + high) + low * (1 - low / high))


def test_fields_of_any_shape_and_a_progress_bar(capsys):
    grid = ps.Grid((8, 6), box_size=3.0)
    field = partial(ps.smoothed, ps.GaussianRandomField(grid, lambda k: np.exp(-k)))
    x = reverse_sde(field, (0.05, 5.0), 3, steps=10, batch=2, progress=True)
    assert x.shape == (3, 8, 6)
    assert np.isfinite(x).all()
    capsys.readouterr()


def broken(sigma):
    return ps.from_functions(score=lambda x: (np.nan if sigma < 0.4 else -1) * x / (1 + sigma**2), shape=2)


GOOD = {"steps": 4}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda: reverse_sde(broken, (0.1, 10.0), 5, steps=50),
            r"score_at\(0.3\d+\) is not finite for 5 of 5",
        ),
        (lambda: reverse_sde(SCORES, 3.0, 5), "sde is 3.0: it must be VE"),
        (lambda: reverse_sde(SCORES, (1.0, 0.5), 5), "sigma_max is 0.5: it must be a number above 1"),
        (lambda: reverse_sde(SCORES, VP(), 0), "n is 0"),
        (lambda: reverse_sde(SCORES, VP(), 5, steps=0), "steps is 0"),
        (lambda: reverse_sde(SCORES, VP(), 5, corrector=-1), "corrector is -1"),
        (lambda: reverse_sde(SCORES, VP(), 5, corrector=1, snr=2), "snr is 2"),
        (lambda: reverse_sde(SCORES, VP(), 5, predictor="heun"), "predictor is 'heun'"),
        (lambda: reverse_sde(SCORES, VP(), 5, init=np.zeros(3), **GOOD), r"init has shape \(3,\)"),
        (lambda: reverse_sde(SCORES, VP(), 5, init="middle", **GOOD), "init is 'middle'"),
        (lambda: reverse_sde(SCORES, VP(), 5, init=[np.nan, 0.0], **GOOD), "init is not finite"),
        (lambda: reverse_sde(SCORES, VP(), 5, batch=0, **GOOD), "batch is 0"),
        (lambda: reverse_sde(lambda sigma: 3.0, VP(), 5), r"score_at\(152.\d*\) returned a float"),
        (lambda: reverse_sde(MIXTURE, VP(), 5), "score_at is GaussianMixture"),
        (lambda: perturb(np.zeros((3, 2)), VP(), [0.1, 0.2]), "t is"),
        (lambda: perturb(np.zeros((3, 2)), VP(), 1.5), "t is 1.5"),
        (lambda: perturb(3.0, VP(), 0.5), "x is 3.0"),
        (lambda: VE(0.0, 1.0), "sigma_min is 0.0"),
        (lambda: VP(beta_min=0.0), "beta_min is 0.0"),
        (lambda: VP(beta_max=0.05), "beta_max is 0.05"),
        (lambda: SubVP(sigma_min=1000.0), "beta_max is 20"),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)
