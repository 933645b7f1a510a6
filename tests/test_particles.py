"""Particles drawn from fields, and fields painted from particles."""

import numpy as np
import pytest
from scipy import stats

import physscore as ps
from physscore.arrays import threads
from physscore.core import InputError
from physscore.diagnostics.mass_assignment import MASS_ASSIGNMENTS

BOXES = [((16,), 4.0), ((8, 6), (4.0, 3.0)), ((5, 7, 6), (3.0, 4.0, 3.5))]


def share_of(order, s):
    """How much of a particle a cell at the distance ``s``, in cells, is given."""
    s = np.abs(s)
    if order == 1:
        return np.where(s < 0.5, 1.0, 0.0)
    if order == 2:
        return np.maximum(1 - s, 0)
    if order == 3:
        return np.where(s < 0.5, 0.75 - s**2, np.where(s < 1.5, 0.5 * (1.5 - s) ** 2, 0))
    return np.where(s < 1, (4 - 6 * s**2 + 3 * s**3) / 6, np.where(s < 2, (2 - s) ** 3 / 6, 0))


@pytest.mark.parametrize(("shape", "box"), BOXES)
@pytest.mark.parametrize("name", MASS_ASSIGNMENTS)
def test_counts_by_brute_force(shape, box, name):
    grid, rng = ps.Grid(shape, box), np.random.default_rng(3)
    x, w = rng.uniform(-1, 2, (50, grid.dim)) * grid.box_size, rng.uniform(0.5, 2, 50)
    shares = np.ones((50, *[1] * grid.dim))
    for axis, n in enumerate(shape):
        gap = x[:, [axis]] / grid.cell_size[axis] - np.arange(n)
        of_axis = share_of(MASS_ASSIGNMENTS[name], (gap + n / 2) % n - n / 2)
        shares = shares * of_axis.reshape(50, *[n if a == axis else 1 for a in range(grid.dim)])
    found = ps.paint(x, grid, mass_assignment=name, weights=w)
    expected = np.einsum("p,p...->...", w, shares)
    np.testing.assert_allclose((found + 1) * w.sum() / grid.n_cells, expected, atol=1e-12)
    single = ps.paint(x.astype("f4"), grid, mass_assignment=name, weights=w, dtype="float32")
    assert single.dtype == np.float32
    if name != "ngp":  # whose particles may change their cell
        np.testing.assert_allclose(single, found, atol=1e-4)
    for n in (1, 2):
        with threads(n):
            np.testing.assert_array_equal(ps.paint(x, grid, mass_assignment=name, weights=w), found)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("name", MASS_ASSIGNMENTS)
def test_shot_noise(name, interlaced):
    """Its law in every shell, up to the corner: a false alarm in 10^7 a shell."""
    n, runs = 1000, 40
    for shape, box in BOXES:
        grid, rng = ps.Grid(shape, box), np.random.default_rng(1)
        options = {"mass_assignment": name, "interlaced": interlaced, "bins": "shells"}
        total = 0.0
        for _ in range(runs):
            x = rng.uniform(0, 1, (n, grid.dim)) * grid.box_size
            field = ps.paint(x, grid, mass_assignment=name, interlaced=interlaced)
            assert abs(field.mean()) < 1e-12
            found = ps.power_spectrum(field, grid, **options)
            less = ps.power_spectrum(field, grid, shot_noise=grid.volume / n, **options)
            total = total + found.power / (found.power - less.power)
        # The sum of squares of as many normal deviates as there are modes, each of which has two halves.
        law = stats.chi2(runs * found.n_modes)
        chance = np.minimum(law.cdf(total * found.n_modes), law.sf(total * found.n_modes))
        assert chance.min() > 1e-7


def test_interlacing_takes_aliases_away():
    """Against the exact modes of few particles, sum exp(-ikx) / n."""
    grid, rng = ps.Grid((24, 20), (2.0, 3.0)), np.random.default_rng(5)
    x = rng.uniform(0, 1, (30, 2)) * grid.box_size
    axes = [2 * np.pi * np.fft.fftfreq(n, h) for n, h in zip(grid.shape, grid.cell_size, strict=True)]
    exact = np.einsum("ap,bp->ab", *(np.exp(-1j * np.outer(k, x[:, i])) for i, k in enumerate(axes))) / 30
    exact[0, 0] = 0
    window = np.outer(*(np.sinc(np.fft.fftfreq(n)) ** 3 for n in grid.shape))
    off = {}
    for interlaced in (False, True):
        modes = np.fft.fftn(ps.paint(x, grid, mass_assignment="tsc", interlaced=interlaced)) / grid.n_cells
        error = np.abs(modes / window - exact)
        off[interlaced] = error[4, 3], np.median(error)
    assert off[True][0] < 0.2 * off[False][0]
    assert off[True][1] < 0.5 * off[False][1]


def test_power_of_drawn_particles():
    """That of the lognormal field: over 40 of them, |z| < 4.9 a bin, 10^-6 each."""
    grid = ps.Grid((16, 16, 16), 100.0)
    field, density = ps.LognormalField(grid, ps.spectra.PowerLaw(-1.0, 400.0)), 0.05
    bins = np.linspace(0.05, 0.8, 7)
    excess = []
    for seed, delta in enumerate(field.sample(40, seed=1)):
        x = ps.draw_particles(delta, grid, density, seed=seed)
        assert (x >= 0).all()
        assert (x < grid.box_size).all()
        counts = ps.paint(x, grid, mass_assignment="ngp")
        found = ps.power_spectrum(counts, grid, bins=bins, shot_noise=grid.volume / len(x))
        excess.append(found.power - ps.power_spectrum(delta, grid, bins=bins).power)
    z = np.mean(excess, axis=0) / (np.std(excess, axis=0, ddof=1) / np.sqrt(40))
    assert np.abs(z).max() < 4.9
    np.testing.assert_array_equal(ps.draw_particles(delta, grid, density, seed=39), x)
    assert len(ps.draw_particles(delta, grid, density, seed=40)) != len(x)


def test_counts_are_poissonian():
    """Chi-squared of the counts of cells, within 4.9 of its standard deviations, 10^-6."""
    grid = ps.Grid((30, 20), (3.0, 4.0))
    delta = np.random.default_rng(0).uniform(-1, 2, grid.shape)
    delta[3, 4] = -1.0
    x = ps.draw_particles(delta, grid, 500.0, seed=2)
    counts = (ps.paint(x, grid, mass_assignment="ngp") + 1) * len(x) / grid.n_cells
    mean = 500.0 * grid.volume / grid.n_cells * (1 + delta)
    assert abs(counts[3, 4]) < 1e-9
    counts, mean = counts[mean > 1], mean[mean > 1]
    chi2 = ((counts - mean) ** 2 / mean).sum()
    assert abs(chi2 - len(mean)) < 4.9 * np.sqrt(2 * len(mean) + (1 / mean).sum())


def test_bad_input():
    grid, x = ps.Grid((4, 4), 1.0), np.full((3, 2), 0.5)
    for wrong, options, message in [
        (x[:, :1], {}, r"positions has shape \(3, 1\): it must be \(n, 2\), with particles"),
        (x[:0], {}, r"positions has shape \(0, 2\)"),
        (x * np.nan, {}, "positions holds values that are not finite"),
        (x, {"weights": [1.0, 2.0]}, r"weights has shape \(2,\): it must be \(3,\), one a particle"),
        (x, {"weights": [1.0, -1.0, 0.0]}, "weights sums to 0: a density contrast needs a positive mean"),
        (x * 1e9, {}, r"positions reach from 5e\+08 to 5e\+08: they must be in the box of 1"),
        (x, {"mass_assignment": "b"}, "mass_assignment is 'b': it must be one of ngp, cic, tsc, pcs"),
    ]:
        with pytest.raises(InputError, match=message):
            ps.paint(wrong, grid, **options)
    with pytest.raises(InputError, match="delta is -1.5 somewhere"):
        ps.draw_particles(np.full((4, 4), -1.5), grid, 1.0, seed=0)
    with pytest.raises(InputError, match=r"delta has shape \(3, 2\): it must be one field, of \(4, 4\)"):
        ps.draw_particles(x, grid, 1.0, seed=0)
    with pytest.raises(InputError, match="density is 0: it must be a positive number"):
        ps.draw_particles(np.zeros((4, 4)), grid, 0, seed=0)
    for density in (1e12, 1e30):
        with pytest.raises(InputError, match=r"density 1e\+\d\d, of 1e\+\d\d particles, needs"):
            ps.draw_particles(np.zeros((4, 4)), grid, density, seed=0)
    with pytest.raises(InputError, match="interlaced is True, and mass_assignment None"):
        ps.power_spectrum(np.zeros((4, 4)), grid, interlaced=True)
