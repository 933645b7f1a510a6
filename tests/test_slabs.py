"""Columns of modes, and fields that go through a scratch: the same as in memory."""

from itertools import pairwise

import numpy as np
import pytest

import physscore as ps
from physscore.diagnostics.comparison import check_field
from physscore.modes import multiply, sum_power
from physscore.noise import field_modes
from physscore.slabs import FieldInPlanes, Slabs

SPECTRUM = ps.spectra.PowerLaw(index=-1.5, amplitude=20.0)
SHAPES = [(8, 8, 8), (5, 6, 7), (4, 12, 10), (9, 2, 3), (8, 12), (7, 9), (6, 5)]
PIECES = {"one by one": 1, "three at once": 3, "all": 100}


def grid_of(shape, equal=True):
    return ps.Grid(shape, tuple(10.0 * n if equal else 10.0 + 3.7 * axis for axis, n in enumerate(shape)))


def ranges(n, size):
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def slabs_of(grid, size):
    slabs = Slabs(grid, "float64", 1 << 30)
    slabs.columns, slabs.planes = ranges(grid.half_shape[1], size), ranges(grid.shape[0], size)
    return slabs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_are_those_of_the_whole(shape, size, equal, dtype):
    grid = grid_of(shape, equal)
    table = np.random.default_rng(1).uniform(1, 2, grid.wavenumbers.size).astype(dtype)
    weights = tuple(np.random.default_rng(2).uniform(1, 2, n // 2 + 1) for n in grid.cube)
    for fixed in (False, True):
        whole = field_modes(grid.wavenumbers, table, seed=3, realizations=[5], fixed=fixed)[0]
        expected = multiply(whole.copy(), grid.wavenumbers, table)
        power = sum_power(whole, whole, grid.wavenumbers, weights)
        total = np.zeros_like(power)
        for start, stop in ranges(grid.half_shape[1], size):
            columns = grid.columns(start, stop)
            options = {"realizations": [5], "fixed": fixed, "columns": columns}
            part = field_modes(grid.wavenumbers, table, seed=3, **options)[0]
            along = whole[:, start:stop] if grid.dim == 3 else whole[:, :, start:stop]
            assert np.array_equal(part, along)
            total += sum_power(part, part, grid.wavenumbers, weights, columns)
            multiplied = multiply(part, grid.wavenumbers, table, columns)
            assert np.array_equal(
                multiplied, expected[:, start:stop] if grid.dim == 3 else expected[:, :, start:stop]
            )
        np.testing.assert_allclose(total, power, rtol=1e-12 if dtype == "float64" else 1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", PIECES.values(), ids=PIECES)
def test_a_field_through_a_scratch(shape, size):
    grid = grid_of(shape)
    prior = ps.GaussianRandomField(grid, SPECTRUM)
    expected = prior.sample(4, seed=3, paired=True)[3]
    slabs, scratch = slabs_of(grid, size), np.empty(grid.half_shape, complex)
    steps = list(slabs.columns_of_field(prior.modes_of(3, seed=3, paired=True), scratch))
    assert steps == list(range(1, len(slabs.columns) + 1))
    delta = np.full(shape, np.nan)
    for start, stop, planes in slabs.planes_of_field(scratch):
        delta[start:stop] = planes
    np.testing.assert_allclose(delta, expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("family", [ps.GaussianRandomField, ps.LognormalField])
@pytest.mark.parametrize("shape", [(6, 7, 8), (9, 8)])
def test_the_power_of_a_field_in_planes(family, shape):
    grid = grid_of(shape)
    prior = family(grid, ps.spectra.PowerLaw(index=-1.5, amplitude=0.3))
    delta = prior.sample(1, seed=5)[0]
    calls = []
    field = FieldInPlanes(
        lambda start, stop: delta[start:stop], slabs_of(grid, 3), np.empty(grid.half_shape, complex),
        lambda: calls.append(1),
    )  # fmt: skip
    found, expected = (
        ps.power_spectrum(x, grid, bins="shells", mass_assignment="cic") for x in (field, delta)
    )
    np.testing.assert_allclose(found.power, expected.power, rtol=1e-12)
    assert len(calls) == field.pieces
    for name in ("chi2", "amplitude"):
        assert getattr(check_field(field, prior), name) == pytest.approx(
            getattr(check_field(delta, prior), name)
        )
    with pytest.raises(ps.InputError, match="no cross spectrum"):
        ps.power_spectrum(field, grid, delta)
    with pytest.raises(ps.InputError, match=r"other is a field in pieces.*no cross spectrum"):
        ps.power_spectrum(delta, grid, field)


BOXES = [((1, 2, 3), (4, 5, 2)), ((0, 0, 0), (6, 7, 8)), ((4, 6, 7), (5, 3, 4)), ((5, 0, 0), (1, 1, 1))]


@pytest.mark.parametrize(("corner", "shape"), BOXES)
@pytest.mark.parametrize("family", [ps.GaussianRandomField, ps.LognormalField])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_box_is_made_without_the_rest(corner, shape, family, dim):
    grid = grid_of((6, 7, 8)[:dim])
    prior = family(grid, ps.spectra.PowerLaw(index=-1.0, amplitude=0.3))
    whole = prior.sample(3, seed=2)[2]
    for axis in range(dim):
        whole = whole.take(np.arange(corner[axis], corner[axis] + shape[axis]), axis, mode="wrap")
    found = prior.sample_box(corner[:dim], shape[:dim], seed=2, first=2, memory=1 << 14)
    np.testing.assert_allclose(found, whole, atol=1e-12)


def test_what_does_not_fit_is_refused():
    grid = ps.Grid((64, 64, 64), 100.0)
    with pytest.raises(ps.InputError, match=r"memory is 0\.125 MiB: slabs of 64 x 64 x 64 cells need 1 MiB"):
        Slabs(grid, "float64", 1 << 17)
    with pytest.raises(ps.InputError, match=r"memory is 0\.125 MiB: .* need 2 MiB"):
        Slabs(grid, "float64", 1 << 17, tables=1 << 20)
    slabs = Slabs(grid, "float64", 4 << 20)
    for pieces, n in ((slabs.columns, 64), (slabs.planes, 64)):
        assert pieces[0][0] == 0
        assert pieces[-1][1] == n
        assert all(a[1] == b[0] for a, b in pairwise(pieces))
        assert 4 * 64 * 33 * 16 * max(b - a for a, b in pieces) <= 4 << 20
    with pytest.raises(ps.InputError, match="2 or 3 dimensions"):
        Slabs(ps.Grid(8, 1.0), "float64", 1 << 20)
    prior = ps.GaussianRandomField(grid, SPECTRUM)
    for corner, shape, words in (
        ((0, 0), (1, 1, 1), "corner is"), ((0, 0, -1), (1, 1, 1), "corner is"),
        ((0, 0, 0), (1, 0, 1), "shape is"),
        ((0, 0, 0), (1, 65, 1), "shape is"), ((0, 0, 0.5), (1, 1, 1), "corner is"),
    ):  # fmt: skip
        with pytest.raises(ps.InputError, match=words):
            prior.sample_box(corner, shape, seed=1)
