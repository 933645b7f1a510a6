"""The box, the table of wavenumbers, and the loops over a half spectrum, against NumPy."""

import numpy as np
import pytest

import physscore as ps
from physscore.arrays import parallel, threads
from physscore.core import InputError
from physscore.fft import forward_fft, forward_planes, inverse_fft, planes_with_room
from physscore.grid import WavenumberTable
from physscore.modes import multiply, sum_power

BOXES = [
    ((8,), 3.0),
    ((9,), 3.0),
    ((2,), 1.0),
    ((8, 6), 5.0),
    ((5, 8), (1.0, 2.0)),
    ((12, 12, 12), 10.0),
    ((24, 20, 22), 10.0),
    ((7, 9, 5), (3.0, 4.0, 5.5)),
    ((16, 16, 16), (1.0, 2.0, 1.0)),
    ((6, 4, 2), (1.0, 2**0.5, np.pi)),
    ((4, 5, 40), (1.0, 1.0, 1.0)),
    ((4, 8192), (1e6, 1.0)),  # whole numbers beyond int64
    ((8192, 4), (1.0, 1e6)),
    ((4, 4, 20000), (1e6, 1e3, 1.0)),
]


def brute_force(grid):
    """|k| and the three frequencies of every mode of the full spectrum."""
    axes = [np.fft.fftfreq(n, 1 / n) for n in grid.shape]
    n = np.stack(np.meshgrid(*axes, indexing="ij"))
    k = 2 * np.pi * n / np.array(grid.box_size).reshape(-1, *[1] * grid.dim)
    return np.sqrt((k**2).sum(axis=0)), np.abs(n).astype(int)


def index_of_modes(grid, table, full=True):
    last = np.arange(grid.shape[-1])
    last = np.minimum(last, grid.shape[-1] - last) if full else np.arange(grid.half_shape[-1])
    x, y, z = table.offsets
    return (x[:, None, None] + y[:, None] + z[last]).reshape((*grid.shape[:-1], -1))


@pytest.mark.parametrize("octant", [False, True])
@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_table_holds_every_mode(shape, box, octant):
    grid = ps.Grid(shape, box)
    table = WavenumberTable(grid, octant=octant)
    k, frequencies = brute_force(grid)
    index = index_of_modes(grid, table)
    np.testing.assert_allclose(table.k[index], k, rtol=1e-14)
    np.testing.assert_array_equal(np.bincount(index.ravel(), minlength=table.size), table.counts)
    assert table.counts.sum() == grid.n_cells
    assert ps.Grid(shape, box).n_wavenumbers == grid.wavenumbers.size
    weights = [np.random.default_rng(i).random(n // 2 + 1) for i, n in enumerate(grid.cube)]
    axes = {1: (2,), 2: (0, 2), 3: (0, 1, 2)}[grid.dim]
    product = np.prod([weights[a][frequencies[i]] for i, a in enumerate(axes)], axis=0)
    product = product * np.prod([weights[a][0] for a in {0, 1, 2} - set(axes)])
    np.testing.assert_allclose(
        table.sum_over_modes(weights), np.bincount(index.ravel(), product.ravel(), table.size)
    )


def test_table_is_of_integers_where_that_is_smaller():
    assert ps.Grid((64,) * 3, 1.0).wavenumbers.size == 3 * 32**2 + 1
    assert ps.Grid((64,) * 3, (1.0, 2.0, 1.0)).wavenumbers.shared
    assert not ps.Grid((64,) * 3, (1.0, 1.1, np.e)).wavenumbers.shared
    assert not ps.Grid((64,), 1.0).wavenumbers.shared


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_transforms(shape, box, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    modes = forward_fft(x)
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    scale = np.sqrt(x.size)
    np.testing.assert_allclose(modes / scale, np.fft.rfftn(x) / scale, atol=tolerance)
    assert modes.real.dtype == dtype
    back = inverse_fft(modes, shape)
    assert back.flags.c_contiguous
    assert back.dtype == dtype
    np.testing.assert_allclose(back / x.size, x, atol=tolerance)


def test_transforms_in_several_slabs(monkeypatch):
    monkeypatch.setattr("physscore.fft._SLAB_BYTES", 1000)
    test_transforms((24, 20, 22), 1.0, np.float64)
    test_transforms((31, 20), 1.0, np.float32)


@pytest.mark.parametrize("shape", [(24, 20, 22), (7, 5, 9), (31, 20), (6, 1)])
def test_spectra_of_planes_take_their_place(monkeypatch, shape):
    monkeypatch.setattr("physscore.fft._SLAB_BYTES", 1000)
    x = planes_with_room(shape[0], shape[1:], np.float32)
    x[...] = np.random.default_rng(0).standard_normal(shape)
    expected = np.fft.rfftn(x, axes=range(1, len(shape)))
    modes = forward_planes(x)
    assert not np.shares_memory(modes, x)
    np.testing.assert_allclose(modes, expected, atol=1e-4)
    modes = forward_planes(x, overwrite_x=True)
    assert np.shares_memory(modes, x)
    np.testing.assert_allclose(modes, expected, atol=1e-4)


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_loops_over_modes(shape, box):
    grid = ps.Grid(shape, box)
    rng = np.random.default_rng(0)
    a, b = (forward_fft(rng.standard_normal(shape)) for _ in range(2))
    full = [np.fft.fftn(inverse_fft(m.copy(), shape) / grid.n_cells) for m in (a, b)]
    for table in (grid.wavenumbers, WavenumberTable(grid, octant=True)):
        index = index_of_modes(grid, table)
        expected = np.bincount(index.ravel(), (full[0] * full[1].conj()).real.ravel(), table.size)
        np.testing.assert_allclose(sum_power(a, b, table), expected, atol=1e-9)
        factors = rng.random(table.size)
        half = index_of_modes(grid, table, full=False)
        np.testing.assert_allclose(multiply(a.copy(), table, factors), a * factors[half])
        weights = tuple(rng.random(n // 2 + 1) for n in grid.cube)
        nx, ny, nz = (np.minimum(np.arange(n), n - np.arange(n)) for n in grid.cube)
        w = (weights[0][nx][:, None, None] * weights[1][ny][:, None] * weights[2][nz]).reshape(shape)
        expected = np.bincount(index.ravel(), (np.abs(full[0]) ** 2 * w).ravel(), table.size)
        np.testing.assert_allclose(sum_power(a, a, table, weights), expected, atol=1e-9)


@pytest.mark.parametrize("box", [1.0, (1.0, 1.1, 1.3)])
def test_number_of_threads_changes_nothing(box):
    grid = ps.Grid((20, 24, 18), box)
    x = np.random.default_rng(0).standard_normal(grid.shape).astype(np.float32)
    results = []
    for n in (1, 2, 3):
        with threads(n):
            modes = forward_fft(x)
            power = sum_power(modes, modes, grid.wavenumbers)
            results.append((power, inverse_fft(multiply(modes, grid.wavenumbers, power), grid.shape)))
    for other in results[1:]:
        np.testing.assert_array_equal(other[0], results[0][0])
        np.testing.assert_array_equal(other[1], results[0][1])


def test_parallel_covers_every_index_once():
    for n in (1, 2, 3, 10):
        for count in (1, 2, 5):
            seen = np.zeros(n, int)

            def mark(start, stop, seen=seen):
                seen[start:stop] += 1

            with threads(count):
                parallel(mark, n)
            assert (seen == 1).all()


def test_errors_in_threads_are_raised():
    def fail(start, stop):
        if start:
            raise ZeroDivisionError

    with threads(2), pytest.raises(ZeroDivisionError):
        parallel(fail, 4)


def test_loops_compile_where_nothing_can_be_cached(monkeypatch):
    import numba

    from physscore.arrays import compiled

    njit = numba.njit

    def without_cache(loop, **options):
        if options.get("cache"):
            raise RuntimeError("no locator available")
        return njit(loop, **options)

    monkeypatch.setattr(numba, "njit", without_cache)
    assert compiled(lambda start, stop: start + stop)(1, 2) == 3


def test_threads_from_the_environment(monkeypatch):
    from physscore.arrays import n_threads

    monkeypatch.setenv("PHYSSCORE_THREADS", "3")
    assert n_threads() == 3
    with threads(5):
        assert n_threads() == 5
    monkeypatch.setenv("PHYSSCORE_THREADS", "none")
    with pytest.raises(InputError, match="PHYSSCORE_THREADS is 'none'"):
        n_threads()
    with pytest.raises(InputError, match="threads is 0"), threads(0):
        pass


def test_sizes():
    grid = ps.Grid((8, 5), (4.0, 2.0))
    assert (grid.dim, grid.n_cells, grid.volume, grid.cell_size) == (2, 40, 8.0, (0.5, 0.4))
    assert grid.fundamental == pytest.approx((np.pi / 2, np.pi))
    assert grid.nyquist == pytest.approx((2 * np.pi, 2.5 * np.pi))
    assert (grid.half_shape, grid.cube) == ((8, 3), (8, 1, 5))
    np.testing.assert_allclose(grid.coordinates(1), [0.0, 0.4, 0.8, 1.2, 1.6])
    assert ps.Grid(8, 1.0).shape == (8,)
    assert grid == ps.Grid([8, 5], [4, 2])
    assert grid != ps.Grid((8, 5), 4.0)
    assert repr(grid) == "Grid((8, 5), box_size=(4.0, 2.0))"


@pytest.mark.parametrize(
    "shape", [(), (8, 8, 8, 8), (1, 8), (0,), (-4, 4), (8.5, 8), "many", None, (2**31, 2)]
)
def test_bad_shape(shape):
    with pytest.raises(
        InputError, match=r"shape is .*: (it must be 1 to 3 whole|every side must have from 2)"
    ):
        ps.Grid(shape, 1.0)


@pytest.mark.parametrize("box", [0.0, -1.0, np.nan, np.inf, (1.0, 2.0), "wide", None, (1.0, 1.0, 1e7), 1e200])
def test_bad_box(box):
    with pytest.raises(InputError, match="box_size is .*: (it must be one length|every side|the sides)"):
        ps.Grid((8, 8, 8), box)
