"""Every energy: its score is the gradient of its energy, and its compiled form says the same."""

import numpy as np
import pytest

import physscore as ps
from physscore.points import evaluate

from .systems import build, states

SYSTEMS = build()
COMPILED = [name for name, energy in SYSTEMS.items() if energy.point is not None]


@pytest.fixture(params=SYSTEMS)
def energy(request):
    return SYSTEMS[request.param]


def test_score_is_minus_the_gradient(energy):
    check = ps.check_score(energy, states(energy), tolerance=1e-6)
    assert check, check.message


def test_both_at_once_are_the_same(energy):
    x = states(energy)
    both = energy.energy_and_score(x)
    np.testing.assert_allclose(both[0], energy.energy(x), rtol=1e-13)
    np.testing.assert_allclose(both[1], energy.score(x), rtol=1e-12, atol=1e-13)
    assert both[0].dtype == np.float64
    assert both[0].shape == (len(x),)
    assert both[1].shape == x.shape


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_is_the_array_form(name):
    energy = SYSTEMS[name]
    x = states(energy, 70)  # more than one block
    value, score = energy.energy_and_score(x)
    found, gradient = evaluate(energy.point, x.reshape(len(x), -1))
    scale = np.abs(score).max()
    np.testing.assert_allclose(found, value, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(-gradient.reshape(x.shape), score, rtol=1e-10, atol=1e-11 * scale)


@pytest.mark.parametrize("name", COMPILED)
def test_function_of_one_point(name):
    energy = SYSTEMS[name]
    x = states(energy, 1)
    gradient = np.empty(energy.dim)
    value = energy.point.energy_and_gradient(x.ravel(), energy.point.params, gradient)
    expected = energy.energy_and_score(x)
    np.testing.assert_allclose(value, expected[0][0], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(-gradient, expected[1].ravel(), rtol=1e-9, atol=1e-9)


def test_algebra(energy):
    x = states(energy)
    double = energy + energy
    np.testing.assert_allclose(double.energy(x), 2 * energy.energy(x), rtol=1e-12)
    tempered = 0.25 * energy
    np.testing.assert_allclose(tempered.score(x), 0.25 * energy.score(x), rtol=1e-12, atol=1e-12)
    assert (tempered + energy).shape == energy.shape


@pytest.mark.parametrize("single", [np.float32])
def test_float32_states_stay_so(energy, single):
    x = states(energy).astype(single)
    value, score = energy.energy_and_score(x)
    assert value.dtype == np.float64
    if "functions" not in repr(energy):
        assert score.dtype == single


@pytest.mark.parametrize("name", [n for n, e in SYSTEMS.items() if isinstance(e, ps.Prior)])
def test_priors_whiten(name):
    prior = SYSTEMS[name]
    x = prior.sample(6, seed=1)
    z = prior.whiten(x)
    np.testing.assert_allclose(prior.unwhiten(z), x, rtol=1e-10, atol=1e-10)
    # pull_back is the transposed Jacobian of unwhiten.
    rng = np.random.default_rng(0)
    slope, direction = rng.normal(size=(2, *x.shape))
    h = 1e-6
    change = (prior.unwhiten(z + h * direction) - prior.unwhiten(z - h * direction)) / (2 * h)
    n = len(x)
    np.testing.assert_allclose(
        (prior.pull_back(z, slope) * direction).reshape(n, -1).sum(1),
        (slope * change).reshape(n, -1).sum(1), rtol=1e-6,
    )  # fmt: skip
