"""Targets over the modes of a field: one field goes plane by plane, several go as whole arrays."""

import numpy as np
import pytest

import physscore as ps
from physscore import fft
from physscore.energies import coordinates
from physscore.energies.coordinates import FieldModes
from physscore.energies.lognormal_modes import LognormalModes, OfLogarithm


@pytest.fixture(autouse=True)
def _in_planes(monkeypatch):
    monkeypatch.setattr(coordinates, "_IN_PLANES", 0)


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


def lognormal_posterior(shape):
    rng = np.random.default_rng(3)
    prior = ps.LognormalField(ps.Grid(shape, 10.0), lambda k: 0.5 / k)
    delta = prior.sample(1, seed=1)[0]
    counts = ps.PoissonCounts(rng.poisson(3 * (1 + delta)), 3.0, link="linear")
    noisy = ps.GaussianNoise(delta + rng.normal(size=shape), 1.0, mask=rng.random(shape) < 0.5)
    return prior + counts + 0.5 * noisy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(8, 6, 10), (9, 7), (12,)])
def test_lognormal_posteriors_over_the_modes_behind_them(shape, dtype):
    target = lognormal_posterior(shape)
    modes, prior = LognormalModes(target), target.prior
    x = prior.sample(3, seed=5, dtype=dtype)
    z = modes.from_state(x)
    np.testing.assert_allclose(modes.to_state(z), x, rtol=1e-12 if dtype == "float64" else 2e-4, atol=1e-5)
    energies, scores = modes.energy_and_score(z)
    # The energy of delta is that of g and the Jacobian's: what is left is one constant.
    jacobian = np.log1p(x.astype(np.float64)).reshape(3, -1).sum(axis=1)
    left = energies - (target.energy(x.astype(np.float64)) - jacobian)
    np.testing.assert_allclose(left, left[0], atol=1e-8 if dtype == "float64" else 1e-2)
    assert scores.dtype == dtype
    for i in range(3):  # one goes plane by plane
        energy, score = modes.energy_and_score(z[i : i + 1])
        np.testing.assert_allclose(energy, energies[i : i + 1], rtol=1e-6)
        np.testing.assert_allclose(score[0], scores[i], atol=2e-5 * np.abs(scores).max())
    if dtype == "float64":
        direction = np.random.default_rng(0).normal(size=z.shape) * modes.coordinates.in_use
        step = 1e-5 * direction
        slope = (modes.energy_and_score(z + step)[0] - modes.energy_and_score(z - step)[0]) / 2e-5
        np.testing.assert_allclose(slope, -(scores * direction).sum(axis=1), rtol=1e-7)


def test_curvature_of_a_likelihood_of_delta():
    """Of counts whose mean is m (1 + delta) that is m (1 + delta) on average over the cells: 4 fields of 4096
    cells, whose signs make a relative error of 1% or so."""
    prior = ps.LognormalField(ps.Grid((64, 64), 64.0), lambda k: 0.5 / k)
    likelihood = OfLogarithm(ps.PoissonCounts(np.full((64, 64), 2), 3.0, link="linear"), prior)
    g = prior.gaussian.sample(4, seed=1)
    expected = 3 * np.exp(g - prior.shift).mean()
    for dtype in ("float32", "float64"):
        np.testing.assert_allclose(likelihood.curvature(g.astype(dtype)), expected, rtol=1e-2)


def test_a_lognormal_posterior_goes_on_with_its_metric(tmp_path):
    target = lognormal_posterior((8, 8))
    run = ps.sample(target, ps.HMC(), chains=4, steps=20, warmup=100, output=tmp_path / "run.h5")
    metric = run.kernel.metric
    assert isinstance(metric, ps.Fourier)
    moving = metric.octant[metric.octant > 0]
    assert moving.max() > 1.5 * moving.min()
    more = ps.sample(target, run.kernel, init=run, chains=4, steps=5, warmup=0, seed=run.seed)
    assert (more.draws > -1).all()
    np.testing.assert_allclose(more.energies, target.energy(more.samples).reshape(5, 4), rtol=1e-9)
