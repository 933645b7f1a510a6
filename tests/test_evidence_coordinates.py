"""What a target has beyond a reference, over waves, modes and vectors: two implementations, one answer."""

import math

import numpy as np
import pytest

import physscore as ps
from physscore.energies.hartley import Waves
from physscore.evidence.annealed import Particles
from physscore.evidence.excess import ModeExcess, WaveExcess, excess_of
from physscore.sampling.engine import grid_of
from physscore.systems import system

LATTICES = [ps.Phi4((4, 4), mass2=-0.5, coupling=0.5), ps.Phi4((5,), mass2=1.0, coupling=0.2),
            ps.Ising((4, 6), 0.4), ps.Phi4((3, 4, 5), mass2=1.0, coupling=0.1)]  # fmt: skip


def reference_of(target, seed=0):
    """A normal density of fields with variances by |k|, and a mean."""
    grid = grid_of(target)
    rng = np.random.default_rng(seed)
    x, y, z = grid.wavenumbers.offsets
    index = (x[:, np.newaxis, np.newaxis] + y[:, np.newaxis] + np.repeat(z, 2)).ravel()
    variances = rng.uniform(0.5, 2.0, index.max() + 1)[index]
    return ps.FourierGaussian(grid, rng.normal(size=index.size), variances)


@pytest.mark.parametrize("target", LATTICES, ids=repr)
def test_waves_and_modes_agree(target):
    reference = reference_of(target)
    waves, modes = excess_of(reference, target), ModeExcess(reference, target, beyond=True)
    assert isinstance(waves, WaveExcess)
    x = reference.sample(6, seed=3)
    y = waves.from_state(x)
    np.testing.assert_allclose(waves.to_state(y), x, atol=1e-12)
    np.testing.assert_allclose((y**2).sum(axis=1), (modes.from_state(x) ** 2).sum(axis=1), rtol=1e-11)
    u, slope = waves(y)
    by_modes, other = modes(modes.from_state(x))
    np.testing.assert_allclose(u, by_modes, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose((slope**2).sum(axis=1), (other**2).sum(axis=1), rtol=1e-10)
    np.testing.assert_allclose(u, target.energy(x) - reference.energy(x), rtol=1e-11, atol=1e-11)
    compiled = Particles(waves, ps.HMC(harmonic=True), y, seed=0)
    assert compiled.loop.name == "fused"
    np.testing.assert_allclose(compiled.u, u, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(compiled.slope, slope, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("target", LATTICES, ids=repr)
def test_a_normal_density_of_waves_is_one_of_modes(target):
    reference = reference_of(target)
    waves = excess_of(reference, target)
    rng = np.random.default_rng(1)
    mean, variances = rng.normal(size=waves.dim), rng.uniform(0.5, 2.0, waves.groups.max() + 1)[waves.groups]
    made = waves.normal(mean, variances)
    y = rng.normal(size=(5, waves.dim))
    expected = 0.5 * ((y - mean) ** 2 / variances).sum(axis=1) - 0.5 * ((mean - mean) ** 2).sum()
    found = made.energy(waves.to_state(y)) - made.energy(waves.to_state(mean[np.newaxis]))
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_variances_that_know_signs_are_left_to_modes():
    grid = ps.Grid((6, 6), 1.0)
    target = ps.Phi4((6, 6), mass2=1.0, coupling=0.1)
    size = 2 * math.prod(grid.half_shape)
    variances = np.random.default_rng(0).uniform(0.5, 2.0, size)
    reference = ps.FourierGaussian(grid, np.zeros(size), variances)
    assert not Waves(reference).even
    assert isinstance(excess_of(reference, target), ModeExcess)


def test_a_random_field_keeps_its_modes():
    """k = 0 is fixed: with a likelihood it stays, and so does its place among the waves."""
    found = system("field-masked-16x16")
    excess = excess_of(found.target.prior, found.target)
    assert isinstance(excess, WaveExcess)
    x = found.target.prior.sample(4, seed=2)
    y = excess.from_state(x)
    np.testing.assert_allclose(excess.to_state(y), x, atol=1e-10)
    np.testing.assert_allclose(excess(y)[0], found.target.likelihood.energy(x), rtol=1e-12)


@pytest.mark.parametrize("covariance", [2.0, [1.0, 2.0, 3.0], np.eye(3) + 0.5])
def test_a_normal_reference_is_taken_off_in_its_coordinates(covariance):
    target, reference = ps.Student(dim=3), ps.Gaussian([0.0, 1.0, -1.0], covariance)
    excess = excess_of(reference, target)
    y = excess.draw(7, 0, 1)
    x = excess.to_state(y)
    u, slope = excess(y)
    np.testing.assert_allclose(u, target.energy(x) - reference.energy(x), rtol=1e-12)
    compiled = Particles(excess, ps.MALA(), y, seed=0)
    np.testing.assert_allclose(compiled.u, u, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(compiled.slope, slope, rtol=1e-12, atol=1e-12)
    h = 1e-6
    for i in range(3):
        step = h * np.eye(3)[i]
        found = (excess(y + step)[0] - excess(y - step)[0]) / (2 * h)
        np.testing.assert_allclose(found, slope[:, i], rtol=1e-5, atol=1e-8)
