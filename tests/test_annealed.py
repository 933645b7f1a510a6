"""Annealed Langevin: its exact law on a normal target, and the weights of a mixture.

A test fails if a z-score exceeds 5.2, by chance once in 5e6 z-scores; there are fewer than 200.
"""

import numpy as np
import pytest

import physscore as ps
from physscore.paths import noise_levels
from physscore.sampling.annealed import annealed_langevin

LIMIT = 5.2
CHAINS = 20_000
MEAN, VARIANCES = np.array([1.0, -2.0]), np.array([0.5, 2.0])


def smoothed(sigma):
    return ps.Gaussian(MEAN, VARIANCES + sigma**2)


def law(sigmas, steps, step_size, denoise, mean=0.0, variance=None):
    """Return mean and variance of each component, step by step: the score of a normal is linear."""
    variance = np.full(2, sigmas[0] ** 2) if variance is None else variance
    mean = np.full(2, mean)
    for sigma in sigmas:
        eps, width = step_size * (sigma / sigmas[-1]) ** 2, VARIANCES + sigma**2
        for _ in range(steps):
            mean = mean + eps * (MEAN - mean) / width
            variance = (1 - eps / width) ** 2 * variance + 2 * eps
    if denoise:
        share = sigmas[-1] ** 2 / (VARIANCES + sigmas[-1] ** 2)
        mean, variance = mean + share * (MEAN - mean), (1 - share) ** 2 * variance
    return mean, variance


def assert_law(x, mean, variance):
    z = (x - mean) / np.sqrt(variance)
    scores = np.concatenate([z.mean(0), (z**2 - 1).mean(0) / np.sqrt(2), [z.prod(axis=1).mean()]])
    assert np.abs(scores).max() * np.sqrt(len(x)) < LIMIT


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_exact_law_of_a_normal_target(denoise, compiled):
    sigmas = noise_levels(3.0, 0.5, 4)

    def score_at(sigma):
        target = smoothed(sigma)
        return target if compiled else ps.from_functions(score=target.score, shape=2)

    x = annealed_langevin(score_at, sigmas, chains=CHAINS, steps=5, step_size=0.04, seed=1, denoise=denoise)
    assert_law(x, *law(sigmas, 5, 0.04, denoise))
    # The law of constant steps, and of the last noise level alone, are others.
    for wrong in (law(sigmas[-1:], 20, 0.04, denoise), law(np.full(4, 0.5), 5, 0.04, denoise)):
        with pytest.raises(AssertionError):
            assert_law(x, *wrong)


def test_levels_have_noise_of_their_own():
    """Two equal levels of one step are two steps, with independent noise."""
    x = annealed_langevin(
        lambda sigma: smoothed(0.5), [0.5 + 1e-12, 0.5], chains=CHAINS, steps=1, step_size=0.3,
        init=MEAN, denoise=False,
    )  # fmt: skip
    width = VARIANCES + 0.25
    assert_law(x, MEAN, ((1 - 0.3 / width) ** 2 + 1) * 0.6)


def test_weights_of_a_mixture():
    """Langevin at the sharp density alone never leaves the mode it fell into."""
    weights, means = np.array([0.1, 0.2, 0.7]), np.array([[6.0, 0.0], [-6.0, 0.0], [0.0, 8.0]])
    x = annealed_langevin(
        lambda sigma: ps.GaussianMixture(weights, means, 0.2**2 + sigma**2),
        noise_levels(20.0, 0.2, 30), chains=CHAINS, steps=40, step_size=0.004, seed=2,
    )  # fmt: skip
    nearest = np.linalg.norm(x[:, np.newaxis] - means, axis=2).argmin(axis=1)
    found = np.bincount(nearest, minlength=3) / CHAINS
    # Chains stop exchanging modes a little before the weights stop changing: 1% is allowed beyond chance.
    error = LIMIT * np.sqrt(weights * (1 - weights) / CHAINS)
    assert (np.abs(found - weights) < error + 0.01).all(), found
    sharp = annealed_langevin(
        lambda sigma: ps.GaussianMixture(weights, means, 0.2**2 + sigma**2),
        [0.2], chains=2000, steps=1000, step_size=0.004,
        init=20 * np.random.default_rng(0).normal(size=(2000, 2)),
    )  # fmt: skip
    nearest = np.linalg.norm(sharp[:, np.newaxis] - means, axis=2).argmin(axis=1)
    assert np.abs(np.bincount(nearest, minlength=3) / 2000 - weights).max() > 0.1


def test_seeds_shapes_and_precision():
    grid = ps.Grid((5, 4), 10.0)

    def score_at(sigma):
        return ps.from_functions(score=lambda x: -x / (1 + sigma**2), shape=grid.shape)

    options = {"chains": 3, "steps": 4, "step_size": 0.01}
    x = annealed_langevin(score_at, [2.0, 1.0], seed=1, dtype="float32", **options)
    assert (x.shape, x.dtype) == ((3, 5, 4), np.float32)
    again = annealed_langevin(score_at, [2.0, 1.0], seed=1, dtype="float32", **options)
    np.testing.assert_array_equal(x, again)
    other = annealed_langevin(score_at, [2.0, 1.0], seed=2, dtype="float32", **options)
    assert np.abs(x - other).min() > 0


GOOD = {"score_at": smoothed, "sigmas": [2.0, 1.0], "chains": 2, "steps": 3, "step_size": 0.1}
REFUSED = {
    "rising": ({"sigmas": [1.0, 2.0]}, r"sigmas is \[1.0, 2.0\]: noise levels must be positive and fall"),
    "zero": ({"sigmas": [1.0, 0.0]}, "noise levels must be positive and fall"),
    "nan": ({"sigmas": [np.nan, 1.0]}, "noise levels must be positive and fall"),
    "infinite": ({"sigmas": [np.inf, 1.0]}, "noise levels must be"),
    "none": ({"sigmas": []}, "noise levels must be"),
    "words": ({"sigmas": "many"}, "noise levels must be"),
    "chains": ({"chains": 0}, "chains is 0: it must be a whole number of at least 1"),
    "steps": ({"steps": 1.5}, "steps is 1.5"),
    "step size": ({"step_size": -0.1}, "step_size is -0.1: it must be a positive number"),
    "auto": ({"step_size": "auto"}, 'step_size is "auto": annealed Langevin takes a number'),
    "no score": ({"score_at": lambda sigma: 3.0}, r"score_at\(2\) returned a float: it must be a Score"),
    "no function": ({"score_at": smoothed(1.0)}, "score_at is Gaussian.*: it must be a function of sigma"),
    "init": ({"init": np.zeros(3)}, r"init has shape \(3,\): it must be \(2,\) or \(2, 2\)"),
    "seed": ({"seed": -1}, "seed is -1"),
    "dtype": ({"dtype": "int"}, "dtype is"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence(name):
    change, message = REFUSED[name]
    with pytest.raises(ps.InputError, match=message) as caught:
        annealed_langevin(**GOOD | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("step_size", [1e9, 1e300])
def test_a_step_that_is_too_long_is_named(step_size):
    target = ps.Gaussian(0.0, 1.0, dim=2)
    with pytest.raises(ps.InputError, match=r"step_size is .*: states ran away at .* stable below 2, twice"):
        annealed_langevin(
            lambda sigma: ps.smoothed(target, sigma), [2.0, 1.0], chains=2, steps=200, step_size=step_size
        )
