"""A periodic box: its cells, its wavevectors, and the one Fourier convention of the package.

P(k) = <|delta_k|^2> / V with delta_k = integral of delta(x) exp(-ikx) dx; k in rad per unit length,
P in length^dim. On N cells the values x have unitary DFT modes of variance P N / V, and the
unnormalised DFT X = sum_x x exp(-ikx) has <|X|^2> = P N^2 / V. The value of cell i is that at i times the
cell size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from physscore.core import InputError

_MAX_CELLS_PER_SIDE = 2**31 - 1
BYTES_AN_ENTRY = 216  # of all tables over |k| that a field has, and of the sums of its power


class Columns(NamedTuple):
    """The modes of a half spectrum, cut to three sides as ``Grid.cube``, with y and z in these ranges."""

    y_start: int
    y_stop: int
    z_start: int
    z_stop: int


class Grid:
    """A periodic box of 1 to 3 dimensions, cut into cells.

    Parameters
    ----------
    shape
        Number of cells along each side, at least 2 each; odd and unequal numbers are fine.
    box_size
        Side length, or one for each dimension. The unit is the caller's: Mpc/h goes with spectra
        in (Mpc/h)^3.

    Raises
    ------
    InputError
        If there are not 1 to 3 sides, or a number of cells or a length makes no sense.
    """

    def __init__(self, shape: int | Sequence[int], box_size: float | Sequence[float]) -> None:
        self.shape = _sides(shape)
        self.box_size = _lengths(box_size, self.dim)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def n_cells(self) -> int:
        """Number of cells N."""
        return math.prod(self.shape)

    @property
    def volume(self) -> float:
        """Volume of the box, in length^dim."""
        return math.prod(self.box_size)

    @property
    def cell_size(self) -> tuple[float, ...]:
        """Side lengths of one cell."""
        return tuple(side / n for side, n in zip(self.box_size, self.shape, strict=True))

    @property
    def fundamental(self) -> tuple[float, ...]:
        """The smallest wavenumber along each axis, 2 pi / side, in rad per unit length."""
        return tuple(2 * math.pi / side for side in self.box_size)

    @property
    def nyquist(self) -> tuple[float, ...]:
        """The largest wavenumber that each axis resolves, pi / cell size, in rad per unit length."""
        return tuple(math.pi / cell for cell in self.cell_size)

    @property
    def half_shape(self) -> tuple[int, ...]:
        """Shape of the half spectrum that describes a real field: the last axis has n // 2 + 1."""
        return (*self.shape[:-1], self.shape[-1] // 2 + 1)

    @property
    def cube(self) -> tuple[int, int, int]:
        """The shape written with three sides, the added ones of length 1: what compiled loops see.

        The first side stays the longest loop, so that 2 dimensions are spread over threads too.
        """
        first = self.shape[0] if self.dim > 1 else 1
        middle = self.shape[1] if self.dim == 3 else 1
        return (first, middle, self.shape[-1])

    def columns(self, start: int = 0, stop: int | None = None) -> Columns:
        """Return the modes whose place along the second axis of the half spectrum is in a range."""
        whole = (self.cube[1], self.cube[2] // 2 + 1)
        if self.dim == 3:
            return Columns(start, whole[0] if stop is None else stop, 0, whole[1])
        return Columns(0, whole[0], start, whole[1] if stop is None else stop)

    @cached_property
    def wavenumbers(self) -> WavenumberTable:
        """The |k| of every mode, as a table that is much smaller than the spectrum."""
        return WavenumberTable(self)

    @cached_property
    def n_wavenumbers(self) -> int:
        """How many entries ``wavenumbers`` has, without making it."""
        return _kind_and_size(self, False)[1]

    def coordinates(self, axis: int) -> npt.NDArray[np.float64]:
        """Return the positions at which cells have their values along ``axis``, shape (shape[axis],).

        Cell i stands for the field at i times the cell size, so that fields of one seed agree at every
        resolution: particles go with such a field if one at i times the cell size is all in cell i.
        """
        return np.asarray(np.arange(self.shape[axis]) * self.cell_size[axis], np.float64)

    def settings(self) -> dict[str, Any]:
        """Return what makes the grid, ready for JSON."""
        return {"shape": list(self.shape), "box_size": list(self.box_size)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and (self.shape, self.box_size) == (other.shape, other.box_size)

    def __hash__(self) -> int:
        return hash((self.shape, self.box_size))

    def __repr__(self) -> str:
        size = self.box_size[0] if len(set(self.box_size)) == 1 else self.box_size
        return f"Grid({self.shape}, box_size={size})"


class WavenumberTable:
    """|k| of mode (ix, iy, iz) is ``k[x[ix] + y[iy] + z[iz]]``.

    Where the sides allow it the index is the integer |n|^2 (in a unit common to them), else the
    place in the octant of non-negative frequencies; whichever table is smaller. Anything that
    depends on the wavevector through |n_x|, |n_y|, |n_z| fits the octant's table, so fields are
    coloured and power is summed by one mechanism.

    Parameters
    ----------
    grid
        The box.
    octant
        Use the octant even where |n|^2 would do: for what is not isotropic.

    Attributes
    ----------
    cube
        The grid's sides, as ``Grid.cube``.
    offsets
        The three index arrays x, y, z over ``cube``; z over its half.
    octant
        The same over the non-negative frequencies only.
    k
        Wavenumber of each entry, in rad per unit length.
    counts
        Number of modes of the full spectrum that share each entry; 0 where no mode is.
    shared
        Whether different modes of the octant can share an entry: true for |n|^2.
    """

    k: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    def __init__(self, grid: Grid, *, octant: bool = False) -> None:
        self.cube = grid.cube
        self._of = (grid.shape, grid.box_size)  # not the grid, which holds its table
        self.shared, self.size = _kind_and_size(grid, octant)
        units = _integer_units(grid)
        tops = [n // 2 for n in grid.cube]
        # (k / unit)^2 along each axis: integers if they can be, for equal |k| to be the same number.
        steps = _three(grid.dim, tuple(f**2 for f in grid.fundamental)) if units is None else units
        # As float64, since int64 does not hold those of a long thin box.
        squares = [step * np.arange(float(top + 1)) ** 2 for step, top in zip(steps, tops, strict=True)]
        unit = 1.0 if units is None else grid.fundamental[-1] / math.sqrt(units[-1])
        if self.shared:
            self.octant = tuple(square.astype(np.int64) for square in squares)
            self.k = unit * np.sqrt(np.arange(self.size))
        else:
            strides = ((tops[1] + 1) * (tops[2] + 1), tops[2] + 1, 1)
            self.octant = tuple(
                stride * np.arange(top + 1) for stride, top in zip(strides, tops, strict=True)
            )
            self.k = unit * np.sqrt(np.add.outer(np.add.outer(squares[0], squares[1]), squares[2]).ravel())
        whole = [np.minimum(np.arange(n), n - np.arange(n)) for n in grid.cube]
        x, y = (self.octant[axis][whole[axis]] for axis in (0, 1))
        self.offsets = (x, y, self.octant[2])
        self.counts = self.sum_over_modes().astype(np.int64)

    def require(self, grid: Grid) -> None:
        """Refuse another grid than that of the table.

        Raises
        ------
        InputError
            If so.
        """
        if self._of != (grid.shape, grid.box_size):
            raise InputError(f"wavenumbers is the table of {Grid(*self._of)}, and not of grid, {grid}")

    def sum_over_modes(
        self, weights: Sequence[npt.NDArray[np.float64]] | None = None
    ) -> npt.NDArray[np.float64]:
        """Return, for each entry, the sum over its modes of a product of functions of the axes.

        ``weights`` holds their values at the frequencies 0 to n // 2 along the sides of ``cube``;
        without it every mode counts 1.
        """
        total = np.ones(1)
        for axis in (2, 1, 0):
            values = multiplicity(self.cube[axis]) * (1.0 if weights is None else weights[axis])
            longer = np.zeros(len(total) + int(self.octant[axis][-1]))
            for offset, value in zip(self.octant[axis], values, strict=True):
                longer[offset : offset + len(total)] += value * total
            total = longer
        return total


def _kind_and_size(grid: Grid, octant: bool) -> tuple[bool, int]:
    """Return whether the table is indexed by |n|^2, and its number of entries."""
    tops = [n // 2 for n in grid.cube]
    octant_size = math.prod(top + 1 for top in tops)
    units = _integer_units(grid)
    if octant or units is None:
        return False, octant_size
    shared_size = sum(unit * top**2 for unit, top in zip(units, tops, strict=True)) + 1
    return shared_size <= octant_size, min(shared_size, octant_size)


def multiplicity(n: int) -> npt.NDArray[np.int64]:
    """Return how many of the n frequencies of an axis have |frequency| = 0, 1, ..., n // 2."""
    return np.bincount(np.minimum(np.arange(n), n - np.arange(n)))


def _three(dim: int, values: tuple[float, ...]) -> tuple[float, float, float]:
    """Spread the values of the sides over ``Grid.cube``; an added side counts nothing."""
    return (values[0] if dim > 1 else 0.0, values[1] if dim == 3 else 0.0, values[-1])


def _integer_units(grid: Grid) -> tuple[int, int, int] | None:
    """Return whole numbers proportional to 1 / side^2, if there are small ones."""
    longest = max(grid.box_size)
    ratios = [Fraction((longest / side) ** 2).limit_denominator(1000) for side in grid.box_size]
    for side, ratio in zip(grid.box_size, ratios, strict=True):
        if abs(float(ratio) * (side / longest) ** 2 - 1) > 1e-12:
            return None
    common = math.lcm(*(ratio.denominator for ratio in ratios))
    if common > 10**6:
        return None
    units = tuple(int(ratio * common) for ratio in ratios)
    return (units[0] if grid.dim > 1 else 0, units[1] if grid.dim == 3 else 0, units[-1])


def _sides(shape: int | Sequence[int]) -> tuple[int, ...]:
    try:
        given = tuple(np.atleast_1d(np.asarray(shape)).tolist())
        sides = tuple(int(n) for n in given)
    except (TypeError, ValueError, OverflowError):
        given, sides = (None,), (0,)
    if sides != given or not 1 <= len(sides) <= 3:
        raise InputError(
            f"shape is {shape!r}: it must be 1 to 3 whole numbers of cells, as in (256, 256, 256)"
        )
    if min(sides) < 2 or max(sides) > _MAX_CELLS_PER_SIDE:
        raise InputError(f"shape is {shape!r}: every side must have from 2 to {_MAX_CELLS_PER_SIDE} cells")
    return sides


def _lengths(box_size: float | Sequence[float], dim: int) -> tuple[float, ...]:
    try:
        lengths = tuple(float(side) for side in np.atleast_1d(np.asarray(box_size)).tolist())
    except (TypeError, ValueError):
        lengths = ()
    if len(lengths) == 1:
        lengths *= dim
    if len(lengths) != dim:
        raise InputError(f"box_size is {box_size!r}: it must be one length, or one for each of {dim} sides")
    if not all(0 < side < math.inf for side in lengths) or not 0 < math.prod(lengths) < math.inf:
        raise InputError(f"box_size is {box_size!r}: every side must be a positive, finite length")
    if max(lengths) / min(lengths) > 1e6:
        raise InputError(f"box_size is {box_size!r}: the sides may differ by a factor of 1e6 at most")
    return lengths


def require_grid(grid: Any) -> None:
    """Refuse what is no grid.

    Raises
    ------
    InputError
        If so.
    """
    if not isinstance(grid, Grid):
        raise InputError(f"grid is {grid!r}: it must be a physscore.Grid")
