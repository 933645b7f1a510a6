"""Guided scores: what is sampled, against quadrature.

Chi-square tests of histograms fail at p < 1e-4; seeds are fixed.
"""

from functools import partial

import numpy as np
import pytest
from scipy import stats

import physscore as ps
from physscore.sampling.denoising import edm_levels, heun
from physscore.sampling.diffusion import reverse_sde
from physscore.sampling.guidance import guided
from physscore.sampling.likelihood import log_likelihood
from physscore.sampling.probability_flow import probability_flow

MIXTURE = ps.GaussianMixture([0.6, 0.4], [[-1.0], [1.0]], [0.6, 0.4])
SCORES = partial(ps.smoothed, MIXTURE)
SIGMA = 0.1
N = 2500
X = np.linspace(-9, 9, 20_001)[:, np.newaxis]


def class_of_noisy(sigma):
    """log p(y = 1 | x_sigma), exactly: the responsibility of the second component."""
    smooth = SCORES(sigma)
    return smooth.components[1] + (-1.0) * smooth


def class_of_clean(sigma):
    return class_of_noisy(0)


def score_only(scores, sigma):  # moves without compiling anything
    return ps.from_functions(score=scores(sigma).score, shape=1)


def p_value(x, scale, sigma=SIGMA):
    """Of a histogram against p_sigma(x) p(y | x_sigma)^scale, in 25 bins of equal probability."""
    log_p = -SCORES(sigma).energy(X) - scale * class_of_noisy(sigma).energy(X)
    total = np.cumsum(np.exp(log_p - log_p.max()))
    edges = np.interp(np.arange(1, 25) / 25, total / total[-1], X[:, 0])
    counts = np.bincount(np.searchsorted(edges, x[:, 0]), minlength=25)
    return stats.chisquare(counts).pvalue


SAMPLERS = {
    "reverse sde": lambda g, n=N: reverse_sde(g, (SIGMA, 30.0), n, seed=1, steps=250, denoise=False),
    "flow": lambda g, n=N: probability_flow(g, (SIGMA, 30.0), n, seed=2, init="matched", denoise=False),
    "heun": lambda g, n=N: heun(g, edm_levels(SIGMA, 30.0, 40), n, seed=3, init="matched", denoise=False),
    "predictor-corrector": lambda g, n=N: reverse_sde(
        g, (SIGMA, 30.0), n, seed=4, steps=100, corrector=15, snr=0.4, denoise=False
    ),
    "annealed langevin": lambda g, n=N: ps.annealed_langevin(
        partial(score_only, g), ps.noise_levels(10.0, SIGMA, 20), chains=n, steps=60, step_size=0.004,
        seed=5, denoise=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
def test_scale_1_samples_the_posterior(name):
    x = SAMPLERS[name](guided(SCORES, class_of_noisy))
    assert p_value(x, 1) > 1e-4
    law = ps.smoothed(MIXTURE.components[1], SIGMA)  # p(x | y) of a mixture is the component
    assert stats.kstest(law.whiten(x)[:, 0], "norm").pvalue > 1e-4
    assert p_value(x, 1.5) < 1e-4


# The larger two scales are, the more alike are their laws: 2500 draws tell neither 4 from 3 nor 2 from 1.6.
@pytest.mark.parametrize(("scale", "n"), [(2.0, 2 * N), pytest.param(4.0, 2 * N, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["predictor-corrector", "annealed langevin"])
def test_other_scales_need_langevin_steps(name, scale, n):
    x = SAMPLERS[name](guided(SCORES, class_of_noisy, scale), n)
    assert p_value(x, scale) > 1e-4
    assert p_value(x, scale - 1) < 1e-4


@pytest.mark.parametrize("name", ["reverse sde", "flow", "heun"])
def test_plain_diffusion_does_not_sample_other_scales(name):
    """Scores of p_sigma p(y | x_sigma)^2 are not those of any density that is smoothed."""
    assert p_value(SAMPLERS[name](guided(SCORES, class_of_noisy, 2.0)), 2.0) < 1e-4


def test_the_class_has_to_be_that_of_the_noisy_state():
    x = SAMPLERS["reverse sde"](guided(SCORES, class_of_clean))
    assert p_value(x, 1) < 1e-4


def test_the_energy_is_guided_too():
    """Two energies give an energy; and the flow's log-likelihood is that of the posterior."""
    at = guided(SCORES, class_of_noisy, 2)(0.3)
    expected = SCORES(0.3).energy(X) + 2 * class_of_noisy(0.3).energy(X)
    np.testing.assert_allclose(at.energy(X), expected)
    only = guided(partial(score_only, SCORES), class_of_noisy, 2)(0.3)
    np.testing.assert_allclose(only.score(X), at.score(X), atol=1e-12)
    found = log_likelihood(guided(SCORES, class_of_noisy), [[0.0], [1.0], [2.5]], (1e-3, 100.0))
    component = MIXTURE.components[1]
    np.testing.assert_allclose(found.log_p, -component.energy([[0.0], [1.0], [2.5]]), atol=1e-3)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: guided(MIXTURE, class_of_noisy), "score_at is GaussianMixture"),
        (lambda: guided(SCORES, 3), "likelihood_score_at is 3"),
        (lambda: guided(SCORES, class_of_noisy, np.nan), "scale is nan"),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)
