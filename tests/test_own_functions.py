"""Compiled functions of one point as users write them: they add to the gradient, leave parts, or raise."""

import math
import pickle

import numba
import numpy as np
import pytest

import physscore as ps


def adding(x, params, gradient_out):
    energy = 0.0
    for i in range(2):
        energy += 2 * x[i] ** 2
        gradient_out[i] += 4 * x[i]
    return energy


def dividing(x, params, gradient_out):
    gradient_out[0] = x[0] + 0.0 / (params[0] - math.floor(x[0]))
    return 0.5 * x[0] ** 2


def raising(x, params, gradient_out):
    if math.floor(x[0]) == params[0]:
        raise ValueError("not there")
    gradient_out[0] = x[0]
    return 0.5 * x[0] ** 2


def test_the_gradient_begins_with_zeros():
    """So that a function may add to it, and need not set what is zero."""
    target = ps.compiled(adding, dim=3)
    x = np.random.default_rng(0).normal(size=(100, 3))
    np.testing.assert_array_equal(target.score(x), -4 * x * [1, 1, 0])
    np.testing.assert_array_equal((target + target).score(x), -8 * x * [1, 1, 0])
    run = ps.sample(ps.Gaussian(0.0, 1.0, dim=3) + target, ps.ULA(step_size=0.01), chains=64, steps=5, seed=1)
    assert np.isfinite(run.draws).all()
    assert ps.check_score(target, x[0]).passed


@pytest.mark.parametrize(("function", "energies"), [(dividing, 0), (raising, 1)])
@pytest.mark.parametrize("wrapped", [lambda f: f, numba.njit, numba.njit(fastmath={"reassoc"})])
def test_one_state_without_a_number_leaves_its_neighbours_alone(function, energies, wrapped):
    target = ps.compiled(wrapped(function), dim=1, params=[3.0])
    x = np.linspace(-2, 2, 64)[:, np.newaxis]
    x[10] = 3.5
    right = np.arange(64) != 10
    for same in (target, pickle.loads(pickle.dumps(target)), target + ps.Gaussian(0.0, 1.0, dim=1)):
        energy, score = same.energy_and_score(x)
        np.testing.assert_array_equal(np.isnan(score[:, 0]), ~right)
        assert np.isnan(energy).sum() == energies
        assert np.isfinite(energy[right]).all()
    np.testing.assert_array_equal(target.score(x)[right], -x[right])


def test_params_are_copied():
    """A sum would go on with the old numbers, and the energy alone with the new ones."""
    params = np.array([0.0])
    target = ps.compiled(raising, dim=1, params=params)
    total, x = target + ps.Gaussian(0.0, 1.0, dim=1), np.full((1, 1), 1.5)
    expected = target.energy(x), total.energy(x), total.point.params.copy()
    params[0] = 1.0
    for found, known in zip((target.energy(x), total.energy(x), total.point.params), expected, strict=True):
        np.testing.assert_array_equal(found, known)
    with pytest.raises(ValueError, match="read-only"):
        target.params[0] = 1.0
    again = pickle.loads(pickle.dumps(target))
    np.testing.assert_array_equal(again.energy(x), expected[0])


def test_other_params_compile_nothing():
    function = numba.njit(dividing)
    first, second = (ps.compiled(function, dim=1, params=[p]) for p in (3.0, 5.0))
    assert first.function is second.function
    assert ps.compiled(first.function, dim=1, params=[1.0]).function is first.function


@pytest.mark.parametrize("kernel", [ps.ULA(step_size=0.1), ps.Underdamped(step_size=0.3)])
def test_chains_whose_energy_is_no_number_are_lost(kernel):
    """Right of 0, though the score is right there; a score alone has no energy at all."""

    def both(x):
        return np.where(x[:, 0] > 0, np.nan, 0.5 * x[:, 0] ** 2), -x

    settings = {"chains": 64, "steps": 20, "warmup": 0, "seed": 1, "init": np.full((64, 1), -1.0)}
    with pytest.warns(UserWarning, match="of 64 chains diverged"):
        run = ps.sample(ps.from_functions(energy_and_score=both, shape=1), kernel, **settings)
    np.testing.assert_array_equal(run.divergent > 0, run.draws[-1, :, 0] > 0)
    alone = ps.sample(ps.from_functions(score=lambda x: -x, shape=1), kernel, **settings)
    assert not alone.divergent.any()
