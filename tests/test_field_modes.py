"""Targets over the modes of a field: one field goes plane by plane, several go as whole arrays."""

import numpy as np
import pytest

import physscore as ps
from physscore import fft
from physscore.energies.coordinates import FieldModes


def posterior(shape):
    grid = ps.Grid(shape, 100.0)
    prior = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(index=-1.0, amplitude=10.0))
    x, rng = prior.sample(1, seed=1)[0], np.random.default_rng(2)
    mask = rng.random(shape) < 0.7
    noisy = ps.GaussianNoise(x + rng.normal(size=shape), rng.uniform(0.5, 2.0, shape), mask=mask)
    counts = ps.PoissonCounts(rng.poisson(3.0, shape), 3.0, bias=0.1)
    return prior + noisy + 0.5 * counts


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("planes", [1, 3, 1000])
@pytest.mark.parametrize("shape", [(8, 6, 10), (9, 7, 5), (12, 15), (16, 16), (20,)])
def test_one_field_is_as_one_of_several(shape, planes, dtype, monkeypatch):
    target = posterior(shape)
    modes = FieldModes(target, ps.Grid(shape, 100.0))
    one_plane = 2 * np.empty(modes.grid.half_shape[1:], np.result_type(dtype, "complex64")).nbytes
    monkeypatch.setattr(fft, "_SLAB_BYTES", planes * one_plane)
    z = modes.from_state(target.prior.sample(2, seed=3, dtype=dtype))
    energies, scores = modes.energy_and_score(z)
    near = 2e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(energies, target.energy(modes.to_state(z)), rtol=near)
    for i in range(2):
        energy, score = modes.energy_and_score(z[i : i + 1])
        assert score.dtype == dtype
        np.testing.assert_allclose(energy, energies[i : i + 1], rtol=near)
        np.testing.assert_allclose(score, scores[i : i + 1], atol=near * np.abs(scores).max())


def test_one_field_does_not_depend_on_threads(monkeypatch):
    target = posterior((13, 8, 9))
    modes = FieldModes(target, ps.Grid((13, 8, 9), 100.0))
    monkeypatch.setattr(fft, "_SLAB_BYTES", 2000)
    z = modes.from_state(target.prior.sample(1, seed=3))
    found = []
    for threads in (1, 2, 3):
        with ps.threads(threads):
            found.append(modes.energy_and_score(z))
    for energy, score in found[1:]:
        assert energy == found[0][0]
        np.testing.assert_array_equal(score, found[0][1])
