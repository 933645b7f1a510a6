"""Bayes factors: right against conjugate evidence, with errors that hold, and plain words."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, chi2

import physscore as ps

NOISE_STD, PRIOR_STD, N = 0.5, 2.0, 40
TIMES = np.linspace(-1.0, 1.0, N)
DATA = 0.4 - 0.9 * TIMES + 0.3 * TIMES**2 + NOISE_STD * np.random.default_rng(5).normal(size=N)


def residuals(x, params, gradient_out):
    """-log p of the data given coefficients, by what it depends on; params: noise, offset, X'y, X'X."""
    d, noise_std, energy = len(x), params[0], params[1]
    for i in range(d):
        slope = -params[2 + i]
        for j in range(d):
            slope += params[2 + d + i * d + j] * x[j]
        gradient_out[i] = slope / noise_std**2
        energy += 0.5 * (slope - params[2 + i]) * x[i] / noise_std**2
    return energy


def model(degree):
    """Return the posterior of a polynomial's coefficients, and the exact log evidence."""
    rows = np.vander(TIMES, degree + 1, increasing=True)
    offset = 0.5 * DATA @ DATA / NOISE_STD**2 + N * math.log(NOISE_STD * math.sqrt(2 * math.pi))
    params = np.concatenate([[NOISE_STD, offset], rows.T @ DATA, (rows.T @ rows).ravel()])
    likelihood = ps.compiled(residuals, dim=degree + 1, params=params, name=f"degree {degree}")
    covariance = NOISE_STD**2 * np.eye(N) + PRIOR_STD**2 * rows @ rows.T
    exact = -float(ps.Gaussian(0.0, covariance).energy(DATA[np.newaxis])[0])
    return ps.Gaussian(0.0, PRIOR_STD**2, dim=degree + 1) + likelihood, exact


@pytest.fixture(scope="module", params=[12, pytest.param(40, marks=pytest.mark.long)])
def factors(request):
    """Return the log factor of degree 2 against 1, and its estimates for many seeds."""
    (a, exact_a), (b, exact_b) = model(2), model(1)
    settings = {"kernel": ps.MALA(), "particles": 256}  # which it would choose by itself, after a look
    runs = [[ps.estimate_log_z(m, seed=seed, **settings) for m in (a, b)] for seed in range(request.param)]
    return exact_a - exact_b, runs


def right(z):
    """Return whether the errors are: a false alarm in 40 of either kind, of sizes and of single ones. Of 40
    runs a factor 1.25 in the errors is beyond the bounds, of 12 a factor 1.5 too small or 1.8 too large."""
    low, high = chi2.ppf([0.0125, 0.987], len(z))
    return low < (z**2).sum() < high and np.abs(z).max() < 4


def test_paired_errors_are_right(factors):
    exact, runs = factors
    found = [ps.bayes_factor(a, b) for a, b in runs]
    z = np.array([(one.log_factor - exact) / one.error for one in found])
    assert all(one.paired for one in found)
    assert np.mean([one.trusted for one in found]) > 0.9
    assert right(z)
    inside = sum(low <= exact <= high for low, high in (one.interval() for one in found))
    assert binom.cdf(inside, len(found), 0.95) > 0.014  # of 40: at least 35


def test_pairing_makes_the_error_of_similar_models_no_larger(factors):
    _, runs = factors
    paired = np.mean([ps.bayes_factor(a, b).error ** 2 for a, b in runs])
    apart = np.mean([a.error**2 + b.error**2 for a, b in runs])
    assert paired <= 1.02 * apart
    same = ps.bayes_factor(runs[0][0], runs[0][0])
    assert same.log_factor == same.error == 0


def test_other_seeds_are_not_paired(factors):
    exact, runs = factors
    found = [ps.bayes_factor(runs[i][0], runs[i - 1][1]) for i in range(len(runs))]
    z = np.array([(one.log_factor - exact) / one.error for one in found])
    assert not any(one.paired for one in found)
    assert right(z)
    a, b = runs[0][0], runs[-1][1]
    assert found[0].error == pytest.approx(math.hypot(a.error, b.error))
    assert len(a.islands) - 1 <= found[0].degrees <= len(a.islands) + len(b.islands) - 2


def test_an_error_beyond_the_scatter_stays(factors):
    a, b = factors[1][0]
    wide = replace(a, error=math.hypot(a.error, 0.5))
    assert ps.bayes_factor(wide, b).error == pytest.approx(math.hypot(ps.bayes_factor(a, b).error, 0.5))


@pytest.mark.parametrize(
    ("log_factor", "words"),
    [(0.5, "bare mention"), (-2.0, "positive"), (4.0, "strong"), (-20.0, "very strong")],
)
def test_words(factors, log_factor, words):
    a, b = factors[1][0]
    found = replace(ps.bayes_factor(a, b), log_factor=log_factor, error=0.01)
    assert found.strength.endswith(words)
    assert (a if log_factor > 0 else b).target in str(found).splitlines()[1]
    assert replace(found, log_factor=3.0, error=0.1).strength == "positive to strong"


def test_doubts_are_said(factors):
    a, b = factors[1][0]
    assert "TRUSTED" not in str(ps.bayes_factor(a, b))
    doubted = ps.bayes_factor(a, replace(b, verdict="suspect", reasons=["the particles lag"]))
    assert not doubted.trusted
    assert "NOT TO BE TRUSTED: log Z of b is suspect, as the particles lag" in str(doubted)
    summary = doubted.summary()
    assert summary["trusted"] is False
    assert summary["b"]["reasons"] == ["the particles lag"]


def test_bad_input_is_refused(factors):
    a, _ = factors[1][0]
    with pytest.raises(ps.InputError, match="b is 3.0: it must be a LogZ"):
        ps.bayes_factor(a, 3.0)
    with pytest.raises(ps.InputError, match="level is 1"):
        ps.bayes_factor(a, a).interval(1)
