"""Fields in slabs, for what memory does not hold: columns of modes go by turns with planes of cells.

A half spectrum is made in columns, all x at some y, and transformed along x there; it waits in a
``scratch``, any array of ``grid.half_shape``, such as a dataset of a file; then it is taken up in planes,
some x with all y and z, and transformed along the rest. The way from a field to its power is the reverse.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import require_memory
from physscore.core import Array, InputError
from physscore.fft import forward_along_first, forward_planes, inverse_along_first, inverse_planes
from physscore.grid import Columns, Grid, WavenumberTable
from physscore.modes import sum_power

_COPIES = 4  # pieces that are in memory at once, at most


class Slabs:
    """How a grid is cut so that the work on its fields takes no more than a certain memory.

    Parameters
    ----------
    grid
        A box of 2 or 3 dimensions.
    dtype
        Precision of the field.
    memory
        Bytes for the pieces and the tables.
    tables
        Bytes of these.

    Attributes
    ----------
    columns : list of (start, stop)
        Along the second axis of the half spectrum.
    planes : list of (start, stop)
        Along the first axis.

    Raises
    ------
    InputError
        If the grid has one dimension, or the memory does not hold one plane and one column.
    """

    def __init__(self, grid: Grid, dtype: npt.DTypeLike, memory: int, tables: int = 0) -> None:
        if grid.dim == 1:
            raise InputError(f"grid has the shape {grid.shape}: slabs are of grids of 2 or 3 dimensions")
        self.grid, self.dtype = grid, np.dtype(dtype)
        mode = 2 * np.dtype(dtype).itemsize
        along_first, along_second = grid.half_shape[:2]
        rest = math.prod(grid.half_shape[2:])
        column, plane = along_first * rest * mode, along_second * rest * mode
        need = tables + _COPIES * max(column, plane)
        if memory < need:
            raise InputError(
                f"memory is {memory / 2**20:.3g} MiB: slabs of {' x '.join(map(str, grid.shape))} cells need "
                f"{math.ceil(need / 2**20)} MiB"
            )
        pieces = memory - tables
        self.columns = equal_pieces(along_second, pieces // (_COPIES * column))
        self.planes = equal_pieces(along_first, pieces // (_COPIES * plane))

    def columns_of_field(
        self, modes_of: Callable[[Columns], Array], scratch: Any, first: int = 0
    ) -> Iterator[int]:
        """Make all columns from piece ``first`` on, transform them along x, and put them into ``scratch``.

        Yields
        ------
        int
            How many pieces are done.
        """
        for number, (start, stop) in enumerate(self.columns[first:], first + 1):
            scratch[:, start:stop] = self._columns(modes_of, start, stop)
            yield number

    def planes_of_field(self, scratch: Any, first: int = 0) -> Iterator[tuple[int, int, Array]]:
        """Yield the start and the stop of planes, and their cells, from piece ``first`` on."""
        for start, stop in self.planes[first:]:
            yield start, stop, inverse_planes(np.ascontiguousarray(scratch[start:stop]), self.grid.shape[1:])

    def modes_of_planes(self, read: Callable[[int, int], Array], scratch: Any) -> Iterator[int]:
        """Transform planes of cells along all but x, and put them into ``scratch``; yield what is done."""
        for number, (start, stop) in enumerate(self.planes, 1):
            scratch[start:stop] = forward_planes(read(start, stop))
            yield number

    def power_of_modes(
        self, scratch: Any, wavenumbers: WavenumberTable, weights: Any = None
    ) -> Iterator[npt.NDArray[np.float64]]:
        """Yield the sums of |modes|^2 of each piece of columns, for each entry of the table."""
        for start, stop in self.columns:
            modes = forward_along_first(np.ascontiguousarray(scratch[:, start:stop]))
            yield sum_power(modes, modes, wavenumbers, weights, self.grid.columns(start, stop))

    def box(self, modes_of: Callable[[Columns], Array], corner: Sequence[int], shape: Sequence[int]) -> Array:
        """Return the cells of a box, which may reach around the periodic one.

        Memory for the planes x of the box is needed beside that for the pieces.
        """
        x, *rest = (
            np.arange(a, a + n) % side for a, n, side in zip(corner, shape, self.grid.shape, strict=True)
        )
        planes: Array | None = None
        for start, stop in self.columns:
            modes = self._columns(modes_of, start, stop)
            if planes is None:
                size = len(x) * math.prod(self.grid.half_shape[1:]) * modes.itemsize
                require_memory(2 * size, f"making {len(x)} planes of a field")
                planes = np.empty((len(x), *self.grid.half_shape[1:]), modes.dtype)
            planes[:, start:stop] = modes[x]
        assert planes is not None
        cells = inverse_planes(planes, self.grid.shape[1:])
        for axis, places in enumerate(rest, 1):
            cells = cells.take(places, axis)
        return cells

    def _columns(self, modes_of: Callable[[Columns], Array], start: int, stop: int) -> Array:
        modes = modes_of(self.grid.columns(start, stop))
        return inverse_along_first(modes if self.grid.dim == 3 else modes[:, 0])


class FieldInPieces(ABC):
    """A field of which no array holds all, but whose power can be summed."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The box."""

    @property
    @abstractmethod
    def ndim(self) -> int:
        """Number of dimensions."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Precision of the cells."""

    @abstractmethod
    def mapped(self, function: Callable[[Array], Array]) -> FieldInPieces:
        """Return the field of a function of each cell."""

    @abstractmethod
    def sum_power(self, wavenumbers: WavenumberTable, weights: Any) -> npt.NDArray[np.float64]:
        """Return the sums of |modes|^2, unnormalised, for each entry of the table."""


@dataclass(frozen=True, eq=False)
class FieldInPlanes(FieldInPieces):
    """A field whose planes are read, some at a time, and whose modes are kept elsewhere.

    Attributes
    ----------
    read
        Returns the cells of planes start to stop.
    slabs
        How the grid is cut.
    scratch
        Room for the half spectrum, as for ``Slabs``.
    after_each
        Called after each piece of the work, of which there are ``pieces``.
    """

    read: Callable[[int, int], Array]
    slabs: Slabs
    scratch: Any
    after_each: Callable[[], None] = lambda: None

    @property
    def grid(self) -> Grid:
        """The box."""
        return self.slabs.grid

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.slabs.grid.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the cells."""
        return self.slabs.dtype

    @property
    def pieces(self) -> int:
        """Number of pieces of a measurement."""
        return len(self.slabs.planes) + len(self.slabs.columns)

    def mapped(self, function: Callable[[Array], Array]) -> FieldInPlanes:
        """Return the field of a function of each cell."""
        read = self.read
        return replace(self, read=lambda start, stop: function(read(start, stop)))

    def sum_power(self, wavenumbers: WavenumberTable, weights: Any) -> npt.NDArray[np.float64]:
        """Return the sums of |modes|^2 for each entry of the table."""
        for _ in self.slabs.modes_of_planes(self.read, self.scratch):
            self.after_each()
        total = np.zeros(wavenumbers.size)
        for sums in self.slabs.power_of_modes(self.scratch, wavenumbers, weights):
            total += sums
            self.after_each()
        return total


def checked_box(grid: Grid, corner: Any, shape: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Refuse a box that is not of whole cells of the grid."""
    found = []
    for name, given, least in (("corner", corner, 0), ("shape", shape, 1)):
        whole = [n for n in np.ravel(given).tolist() if isinstance(n, int) and n >= least]
        if len(whole) != grid.dim or len(whole) != np.size(given):
            raise InputError(
                f"{name} is {given!r}: it must be {grid.dim} whole numbers of cells, at least {least}"
            )
        found.append(tuple(whole))
    if any(n > side for n, side in zip(found[1], grid.shape, strict=True)):
        raise InputError(f"shape is {shape!r}: the grid has {' x '.join(map(str, grid.shape))} cells")
    return found[0], found[1]


def equal_pieces(n: int, size: int) -> list[tuple[int, int]]:
    """Cut a range into pieces of ``size`` at most, as equal as can be."""
    count = -(-n // min(n, size))
    return [(n * i // count, n * (i + 1) // count) for i in range(count)]
