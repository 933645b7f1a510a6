"""Paths between energies, noise levels, and ladders of equal rejection."""

import numpy as np
import pytest

import physscore as ps
from physscore.core import EnergySum
from physscore.paths import Path, check_levels, equal_barrier, noise_levels

PRIOR = ps.Gaussian(0.0, 1.0, dim=3)
LIKELIHOOD = ps.GaussianNoise([1.0, 2.0, 3.0], 0.5)
X = np.random.default_rng(0).normal(size=(4, 3))


def test_ends_and_middle():
    target = ps.Student(4.0, 1.0, 3)
    path = Path(PRIOR, target)
    assert path.at(0) is PRIOR
    assert path.at(1.0) is target
    middle = path.at(0.3)
    np.testing.assert_allclose(middle.energy(X), 0.7 * PRIOR.energy(X) + 0.3 * target.energy(X))
    np.testing.assert_allclose(middle.score(X), 0.7 * PRIOR.score(X) + 0.3 * target.score(X))
    np.testing.assert_allclose(path.difference.energy(X), target.energy(X) - PRIOR.energy(X))


def test_to_a_posterior_the_prior_stays():
    path = Path(PRIOR, PRIOR + LIKELIHOOD)
    middle = path.at(0.25)
    assert isinstance(middle, EnergySum)
    assert middle.prior is PRIOR
    np.testing.assert_allclose(middle.energy(X), PRIOR.energy(X) + 0.25 * LIKELIHOOD.energy(X))
    np.testing.assert_allclose(path.difference.energy(X), LIKELIHOOD.energy(X), rtol=1e-12)


def test_noise_levels():
    np.testing.assert_allclose(noise_levels(8.0, 1.0, 4), [8.0, 4.0, 2.0, 1.0])
    np.testing.assert_array_equal(check_levels(2.0), [2.0])


def test_equal_barrier():
    """The rate of rejection of a normal along its width, lambda(beta), is known to be cut evenly."""
    betas = np.linspace(0.0, 1.0, 201)
    rejection = np.diff(betas**0.5)  # a cumulative barrier of sqrt(beta)
    new, barrier = equal_barrier(betas, rejection, 11)
    assert barrier == pytest.approx(1.0)
    np.testing.assert_allclose(new, np.linspace(0, 1, 11) ** 2, atol=2e-3)
    assert (np.diff(new) > 0).all()
    assert (new[0], new[-1]) == (0.0, 1.0)
    # No rejection at all between some of them does no harm.
    new, _ = equal_barrier([0.0, 0.2, 0.5, 1.0], [0.0, 0.5, 0.0], 5)
    assert (np.diff(new) > 0).all()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: Path(PRIOR, np.sin), "target is <ufunc 'sin'>: a path leads from one energy to another"),
        (lambda: Path(ps.from_functions(score=np.negative, shape=3), PRIOR), "reference is from_functions"),
        (lambda: Path(PRIOR, ps.Gaussian(0.0, 1.0, dim=2)), r"shape \(2,\) and \(3,\) cannot be added"),
        (lambda: noise_levels(1.0, 2.0, 3), "noise levels from 1.0 to 2.0, 3 of them: they must fall"),
        (lambda: noise_levels(1.0, 0.0, 3), "they must fall, and be positive"),
        (lambda: noise_levels(2.0, 1.0, 1), "1 of them"),
        (lambda: Path(PRIOR, PRIOR + LIKELIHOOD).at(1.5), "beta is 1.5: it must be from 0 to 1"),
        (lambda: Path(PRIOR, PRIOR + LIKELIHOOD).at(np.nan), "beta is nan"),
    ],
)
def test_bad_input(function, message):
    with pytest.raises(ps.InputError, match=message):
        function()
