"""Lognormal fields have the target's spectrum, or say where they cannot."""

import numpy as np
import pytest

import physscore as ps
from physscore.core import InputError

BOXES = [((64,), 4.0), ((33,), 4.0), ((16, 15), (4.0, 3.0)), ((8, 8, 8), 4.0), ((6, 7, 5), (3.0, 4.0, 2.5))]


def target(grid, variance=0.3):
    """A falling spectrum that gives the cells about this variance."""
    cell = grid.volume / grid.n_cells
    return lambda k: variance * cell * (k / min(grid.fundamental)) ** -0.3


def wavenumbers(grid):
    axes = [
        2 * np.pi * np.fft.fftfreq(n, side / n) for n, side in zip(grid.shape, grid.box_size, strict=True)
    ]
    return np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))


def power_by_full_transforms(prior):
    """P of exp(g) - 1 from the covariance of g's own cells, measured by impulses: no octant, no DCT."""
    grid = prior.grid
    impulse = np.zeros((1, *grid.shape))
    impulse.flat[0] = 1.0
    gaussian = prior.gaussian
    covariance = gaussian.unwhiten(gaussian.unwhiten(impulse))[0]
    return np.fft.fftn(np.expm1(covariance)).real * grid.volume / grid.n_cells


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_target_is_met(shape, box):
    grid = ps.Grid(shape, box)
    spectrum = target(grid)
    prior = ps.LognormalField(grid, spectrum)
    k = wavenumbers(grid)
    np.testing.assert_allclose(power_by_full_transforms(prior)[k > 0], spectrum(k[k > 0]), rtol=1e-9)
    assert prior.excess.max() < 1e-9
    np.testing.assert_allclose(prior.power[prior.wavenumbers.counts > 0][1:],
                               spectrum(prior.wavenumbers.k[prior.wavenumbers.counts > 0][1:]))  # fmt: skip


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_draws_have_the_target_spectrum(shape, box):
    """Means over 2000 draws with their empirical errors: |z| < 5 in each of 6 bins and for the mean."""
    grid = ps.Grid(shape, box)
    spectrum = target(grid)
    x = ps.LognormalField(grid, spectrum).sample(2000, seed=1)
    assert x.min() > -1
    measured = ps.power_spectrum(
        x, grid, bins=np.geomspace(0.5 * min(grid.fundamental), 1.1 * wavenumbers(grid).max(), 7)
    )
    model = measured.compare(spectrum)
    kept = measured.n_modes > 0
    mean, error = measured.power[:, kept].mean(axis=0), measured.power[:, kept].std(axis=0) / np.sqrt(2000)
    assert np.abs((mean - model.model) / error).max() < 5
    each = x.reshape(2000, -1).mean(axis=1)
    assert abs(each.mean() / each.std()) * np.sqrt(2000) < 5


def test_gaussian_spectrum_would_miss_the_target():
    """Exponentiating a Gaussian field of the target spectrum, the usual shortcut, fails the test above."""
    grid = ps.Grid((8, 8, 8), 4.0)
    gaussian = ps.GaussianRandomField(grid, target(grid))
    x = np.exp(gaussian.sample(2000, seed=1) - gaussian.variance / 2) - 1
    measured = ps.power_spectrum(x, grid, bins=[1.0, 100.0]).power[:, 0]
    model = ps.power_spectrum(x[0], grid, bins=[1.0, 100.0]).compare(target(grid)).model[0]
    assert (measured.mean() - model) / (measured.std() / np.sqrt(2000)) > 8


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_energy_score_and_whitening(shape, box):
    prior = ps.LognormalField(ps.Grid(shape, box), target(ps.Grid(shape, box)))
    x = prior.sample(3, seed=2)
    direction = np.random.default_rng(0).standard_normal((3, *shape)) * (1 + x)
    step = 1e-6
    slope = (prior.energy(x + step * direction) - prior.energy(x - step * direction)) / (2 * step)
    along = (prior.score(x) * direction).reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(-along, slope, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(prior.unwhiten(prior.whiten(x)), x, atol=1e-11)
    np.testing.assert_allclose(prior.energy(x), prior.gaussian.energy(prior.to_gaussian(x))
                               + np.log1p(x).reshape(3, -1).sum(axis=1))  # fmt: skip
    x[1].flat[0] = -1.5
    assert np.isinf(prior.energy(x)).tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(32, 32), (31, 30), (64,)])
def test_spectrum_that_cannot_be_had(shape):
    """All power in one shell: a warning says where there is more, and ``power`` is what there is."""
    grid = ps.Grid(shape, 2 * np.pi)

    def shell(k):
        return np.where(np.isclose(k, 3.0), 1.0, 1e-6)

    amplitude = 0.15 * grid.volume

    with pytest.warns(
        UserWarning, match=r"no lognormal field has this spectrum: at .*% of the modes, with k from"
    ):
        prior = ps.LognormalField(grid, lambda k: amplitude * shell(k))
    k = wavenumbers(grid)
    found = power_by_full_transforms(prior)
    frequencies = [np.abs(np.fft.fftfreq(n, 1 / n)).astype(int) for n in grid.shape]
    octant = prior.power.reshape([n // 2 + 1 for n in grid.shape])
    np.testing.assert_allclose(found[k > 0], octant[np.ix_(*frequencies)][k > 0], atol=1e-9 * amplitude)
    assert (prior.gaussian.power >= 0).all()
    # never less than asked for, and exactly that where the Gaussian field has power
    wanted = amplitude * shell(k[k > 0])
    assert (found[k > 0] > wanted * (1 - 1e-3) - 1e-9 * amplitude).all()
    np.testing.assert_allclose(found[np.isclose(k, 3.0)], amplitude, rtol=1e-3)
    assert prior.excess.max() > 1


def test_impossible_correlation():
    grid = ps.Grid((16, 16), 2 * np.pi)
    with pytest.raises(InputError, match=r"correlation of -.*which no positive density has"):
        ps.LognormalField(grid, lambda k: np.where(k < 1.1, 100.0, 1e-9))


def test_fixed_and_paired_act_on_the_gaussian_field():
    grid = ps.Grid((8, 8), 4.0)
    prior = ps.LognormalField(grid, target(grid))
    g = prior.to_gaussian(prior.sample(2, seed=3, paired=True, fixed=True))
    np.testing.assert_allclose(g[0], -g[1], atol=1e-12)
    single, double = prior.sample(1, seed=3, dtype="float32"), prior.sample(1, seed=3)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, double, atol=1e-4)


def test_empty_cells_stay_above_minus_one():
    """In single precision some would be -1, where the energy is infinite."""
    prior = ps.LognormalField(ps.Grid((64, 64, 64), 64.0), ps.spectra.PowerLaw(0.0, 3000.0))
    delta = prior.sample(1, seed=0, dtype="float32")
    assert delta.min() == np.nextafter(np.float32(-1), np.float32(0))
    assert np.isfinite(prior.energy(delta)).all()
    assert ps.check_field(delta[0], prior).passed
