"""Simulated data bound log Z from both sides, and what does not hold is said."""

import math

import numpy as np
import pytest
from scipy.stats import chi2

import physscore as ps
from physscore.evidence import verify as module

GRID = ps.Grid((8, 8), [8.0, 8.0])
FIELD = ps.GaussianRandomField(GRID, ps.spectra.PowerLaw(index=-2.0))
SIMULATIONS = 16
MEANS, STDS, NOISE = np.array([0.0, 1.0, 0.0]), np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.2, 1.0])
PARAMETERS = ps.Parameters(
    **{f"x{i}": ps.Normal(m, s) for i, (m, s) in enumerate(zip(MEANS, STDS, strict=True))}
)


def exact_of_parameters(data):
    variance = STDS**2 + NOISE**2
    return float(-0.5 * ((data - MEANS) ** 2 / variance + np.log(2 * math.pi * variance)).sum())


def watch(patch):
    """Return the likelihoods that were estimated, in order."""
    seen = []
    estimate = module.estimate_log_z

    def watched(posterior, **settings):
        seen.append(posterior.likelihood)
        return estimate(posterior, **settings)

    patch.setattr(module, "estimate_log_z", watched)
    return seen


@pytest.fixture
def simulated(monkeypatch):
    return watch(monkeypatch)


@pytest.fixture(scope="module")
def verified():
    """Return what is found of many simulations, and their data."""
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch)
        found = ps.verify(
            PARAMETERS + ps.GaussianNoise(np.zeros(3), NOISE), seed=1, simulations=SIMULATIONS, particles=512,
            kernel=ps.MALA(),
        )  # fmt: skip
    return found, np.array([one.data for one in seen])


def test_bounds_hold_the_exact_evidence(verified):
    """Chi-squared at 10^-4 on both sides, single ones and means at 4 standard errors."""
    found, data = verified
    exact = np.array([exact_of_parameters(one) for one in data])
    assert len(np.unique(exact)) == SIMULATIONS
    low = (found.lower - exact) / found.lower_error
    high = (found.upper - exact) / found.upper_error
    z = np.array([(one.log_z - e) / one.error for one, e in zip(found.estimates, exact, strict=True)])
    assert low.max() < 4.0
    assert high.min() > -4.0
    for scaled in (low, high, z):
        squares = (scaled**2).sum()
        assert min(chi2.sf(squares, SIMULATIONS), chi2.cdf(squares, SIMULATIONS)) > 1e-4
    assert low.mean() < 4.0 / math.sqrt(SIMULATIONS)
    assert high.mean() > -4.0 / math.sqrt(SIMULATIONS)
    assert not any("bound" in reason for reason in found.reasons)
    assert sum(one.verdict != "pass" for one in found.estimates) <= 1


def test_bounds_of_fields_meet():
    found = ps.verify(FIELD + ps.GaussianNoise(np.zeros((8, 8)), 1.0), seed=2, simulations=4, particles=512)
    assert found.passed, found.reasons
    assert (np.abs(found.gap) < 4 * found.gap_error).all()
    assert (found.gap_error < 0.3).all()
    assert "verified" in str(found)
    assert len(set(found.lower)) == 4


def test_data_are_those_of_the_prior(verified):
    """Over many simulations data scatter by the prior's and the noise's variances: chi-squared at 10^-5."""
    _, data = verified
    expected = np.sqrt(STDS**2 + NOISE**2)
    assert np.abs((data.mean(axis=0) - MEANS) / (expected / np.sqrt(SIMULATIONS))).max() < 4
    squares = (((data - data.mean(axis=0)) / expected) ** 2).sum(axis=0)
    for tail in (chi2.sf, chi2.cdf):
        assert tail(squares, SIMULATIONS - 1).min() > 1e-5


@pytest.mark.parametrize(
    "target",
    [
        FIELD + ps.PoissonCounts(np.ones((8, 8)), 3.0),
        PARAMETERS + ps.GaussianNoise(np.zeros(3), 0.3 * np.array(NOISE)),
    ],
    ids=["counts", "parameters"],
)
def test_short_schedules_are_flagged(target):
    """By every seed for its estimate; for its bounds by about half of them, where those are well known."""
    found = [ps.verify(target, seed=seed, schedule=2, particles=1000) for seed in range(1, 5)]
    for one in found:
        assert not one.passed
        assert any(reason.startswith("the estimate is") for reason in one.reasons)
        assert "NOT VERIFIED" in str(one)
    assert any(reason.startswith("the bounds are") for one in found for reason in one.reasons)
    assert np.median([one.gap[0] for one in found]) > 1


def test_the_second_opinion_is_verified():
    found = ps.verify(
        PARAMETERS + ps.GaussianNoise(np.zeros(3), NOISE), seed=4, particles=512, method="tempering"
    )
    assert found.passed, found.reasons
    assert found.estimates[0].method == "tempering"


def test_estimates_outside_of_the_bounds_are_flagged(monkeypatch):
    estimate = module.estimate_log_z

    def wrong(*args, **settings):
        found = estimate(*args, **settings)
        found.log_z += 1.0
        return found

    monkeypatch.setattr(module, "estimate_log_z", wrong)
    found = ps.verify(PARAMETERS + ps.GaussianNoise(np.zeros(3), NOISE), seed=1)
    assert not found.passed
    assert "above the upper bound" in found.reasons[0]


def test_likelihoods_have_seeds_of_their_own(simulated):
    first, second = ps.GaussianNoise(np.zeros((8, 8)), 1.0), ps.GaussianNoise(np.zeros((8, 8)), 1.0)
    found = ps.verify(FIELD + first + second, seed=5, particles=64)
    data = [term.data for _, term in simulated[0].terms]
    assert abs(np.corrcoef(*[d.ravel() - np.mean(data, axis=0).ravel() for d in data])[0, 1] + 1) < 1e-9
    assert not np.allclose(*data)
    assert len(found.estimates) == 1


def test_a_run_is_its_seed():
    target = PARAMETERS + ps.GaussianNoise(np.zeros(3), NOISE)
    a, b, c = (ps.verify(target, seed=seed, particles=128) for seed in (7, 7, 8))
    assert a.lower == b.lower != c.lower
    assert a.upper == b.upper != c.upper


def test_user_energies_simulate():
    def squares(x, params, gradient_out):
        gradient_out[0] = x[0] - params[0]
        return 0.5 * (x[0] - params[0]) ** 2 + 0.9189385332046727

    def likelihood(datum):
        return ps.compiled(squares, dim=1, params=[datum], name="datum", simulate=simulate)

    def simulate(x, *, seed):
        return likelihood(x[0] + np.random.default_rng(seed).normal())

    found = ps.verify(ps.Gaussian(0.0, 1.0, dim=1) + likelihood(0.0), seed=1, particles=512)
    assert found.passed, found.reasons
    summary = found.summary()
    assert summary["passed"] is True
    assert summary["gap"][0] == pytest.approx(summary["upper"][0] - summary["lower"][0])
    vectorised = ps.from_functions(energy=lambda x: x[:, 0], score=lambda x: x, shape=1, simulate=simulate)
    assert vectorised.simulate is simulate


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (ps.Gaussian(0.0, 1.0, dim=2), "it must be prior \\+ likelihood"),
        (PARAMETERS + 0.5 * ps.GaussianNoise(np.zeros(3), NOISE), "cannot be simulated from a power"),
        (PARAMETERS + ps.Ring(dim=3), "give it a method simulate\\(x, \\*, seed\\)"),
        (3.0, "target is 3.0"),
    ],
)
def test_what_cannot_be_simulated_is_refused(target, words):
    with pytest.raises(ps.InputError, match=words):
        ps.verify(target)


def test_bad_numbers_are_refused():
    with pytest.raises(ps.InputError, match="simulations is 0"):
        ps.verify(PARAMETERS + ps.GaussianNoise(np.zeros(3), NOISE), simulations=0)
