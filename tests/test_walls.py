"""Targets that are zero beyond walls inside the reference: what a user's own energy often is."""

import math

import numba
import numpy as np
import pytest
from scipy import integrate
from scipy.stats import chi2, norm

import physscore as ps
from physscore.points import evaluate

LOW, HIGH = -1.0, 1.5


@numba.njit
def boxed(x, params, gradient_out):
    energy = 0.0
    for i in range(len(x)):
        gradient_out[i] = x[i]
        energy += 0.5 * x[i] ** 2 if params[0] < x[i] < params[1] else np.inf
    return energy


def truncated(dim):
    exact = dim * (0.5 * math.log(2 * math.pi) + math.log(norm.cdf(HIGH) - norm.cdf(LOW)))
    return ps.compiled(boxed, dim=dim, params=[LOW, HIGH]), exact


@pytest.mark.parametrize(
    ("method", "dim", "particles", "seeds"),
    [
        ("smc", 2, 500, 8), ("ais", 2, 500, 8), ("tempering", 4, 256, 8),
        *(pytest.param(name, 4, 1000, 16, marks=pytest.mark.long) for name in ("smc", "ais", "tempering")),
    ],
)  # fmt: skip
def test_log_z_of_a_truncated_normal(method, dim, particles, seeds):
    """Chi-squared of z at 10^-4 on either side; most pass, all estimates are of the same number. In four
    dimensions a run of particles takes ten times as long as in two."""
    target, exact = truncated(dim)
    z, passed = [], 0
    for seed in range(seeds):
        found = ps.estimate_log_z(
            target, ps.Gaussian(0.3, 1.5, dim=dim), particles=particles, seed=seed, method=method
        )
        z.append((found.log_z - exact) / found.error)
        passed += found.verdict == "pass"
        assert found.verdict != "failed", found.reasons
        assert found.estimator != "control variates"
        assert "control variates" not in found.estimates
        for name, (value, error) in found.estimates.items():
            assert abs(value - exact) < 4.5 * error, name
        assert found.rungs.sum() == pytest.approx(found.log_z, abs=2 * found.error)
        assert np.isfinite(found.islands).all()
    assert passed >= seeds / 2
    assert 1e-4 < chi2.sf(np.square(z).sum(), len(z)) < 1 - 1e-4, z


def test_islands_that_begin_beyond_the_walls_count_as_zero():
    """A third of the islands is empty: their mean is still right, both ways agree (they were 0.3 to 0.6
    apart, as empty islands counted in Bennett's means), and the reason for a doubt is named."""
    target, exact = truncated(2)
    settings = {"particles": 1024, "islands": 64, "kernel": ps.MALA()}
    z = []
    for seed in range(8):
        found = ps.estimate_log_z(target, ps.Gaussian(0.0, 16.0, dim=2), seed=seed, **settings)
        z.append((found.log_z - exact) / found.error)
        assert abs(found.gap) < 0.1
    assert 1e-4 < chi2.sf(np.square(z).sum(), len(z)) < 1 - 1e-4, z
    few = ps.estimate_log_z(target, ps.Gaussian(0.0, 32.0, dim=2), **settings)
    assert few.verdict != "pass"
    assert any("began where the target is zero" in reason for reason in few.reasons)


def test_a_reference_is_fitted_inside_of_walls():
    target, exact = truncated(3)
    found = ps.estimate_log_z(target, particles=2000)
    assert abs(found.log_z - exact) < 4.5 * found.error


def _gamma(x, params, gradient_out):
    if x[0] <= 0:
        return np.inf
    gradient_out[0] = 2 - 2 / x[0]
    return 2 * x[0] - 2 * math.log(x[0])


def test_a_reference_is_fitted_within_a_wall():
    """Of an energy without a prior; half of the draws that the fit begins with are beyond it. |z| is above
    4.5 once in 1e5."""
    target = ps.compiled(_gamma, dim=1)
    runs = [ps.estimate_log_z(target, particles=500, seed=seed) for seed in range(8)]
    exact = math.log(math.gamma(3) / 8)
    assert max(abs(run.log_z - exact) / run.error for run in runs) < 4.5
    assert sum(run.verdict == "pass" for run in runs) > 4


def test_none_of_a_wall_is_a_wall():
    """0 times infinity was not a number: the density to the power 0 is 1 where it is not 0."""
    box, x = 0 * ps.Uniform(0.0, 1.0), np.array([[0.5], [2.0]])
    for energy in (box.energy(x), box.energy_and_score(x)[0]):
        np.testing.assert_array_equal(energy, [0.0, np.inf])
    energy, gradient = evaluate(box.point, x)
    np.testing.assert_array_equal(energy, [0.0, np.inf])
    np.testing.assert_array_equal(gradient, np.zeros((2, 1)))
    np.testing.assert_array_equal(box.score(x), np.zeros((2, 1)))


@numba.njit
def _measured(x, params, gradient_out):
    gradient_out[0] = (x[0] - params[0]) / params[1] ** 2
    return 0.5 * ((x[0] - params[0]) / params[1]) ** 2


@pytest.mark.parametrize(("prior", "mean", "width"), [
    (ps.Uniform(10, 20), 15.0, 0.5), (ps.Uniform(10, 20), 10.0, 0.5), (ps.LogUniform(1e3, 1e5), 1e4, 300.0),
    (ps.TruncatedNormal(-8.0, 1.0, high=-5.0), -6.0, 0.2),
])  # fmt: skip
def test_a_reference_is_fitted_within_bounds_far_from_0(prior, mean, width):
    """Against quadrature; a normal one around 0 has nothing there to begin with. 8 z-scores, |z| < 4.5."""
    target = ps.Parameters(a=prior) + ps.compiled(_measured, dim=1, params=[mean, width])
    low, high = max(prior.lower[0], mean - 9 * width), min(prior.upper[0], mean + 9 * width)
    exact = np.log(integrate.quad(lambda a: np.exp(-target.energy([[a]])[0]), low, high, points=[mean])[0])
    for seed in range(2):
        found = ps.estimate_log_z(target, "fitted", kernel=ps.MALA(), particles=200, seed=seed)
        assert found.verdict == "pass"
        assert abs(found.log_z - exact) < 4.5 * found.error
        assert found.error < 0.05
