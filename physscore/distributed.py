"""Fields spread over MPI processes: each has some planes of cells, and in between some columns of modes.

Noise is counted by place, so each process draws the columns it has, and a field does not depend on how many
there are. mpi4py-fft exchanges columns for planes, some of all processes at a time: a process holds no others
beside its planes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import floating_dtype
from physscore.core import Array, InputError
from physscore.energies.lognormal import LognormalField
from physscore.energies.random_field import GaussianRandomField
from physscore.fft import (
    forward_along_first,
    forward_planes,
    inverse_along_first,
    inverse_planes,
    planes_with_room,
)
from physscore.grid import Grid, WavenumberTable, require_grid
from physscore.modes import multiply, sum_power
from physscore.processes import require_same_everywhere, world
from physscore.slabs import FieldInPieces, equal_pieces

_PIECES = 8  # of columns, if all processes have some of each
MESSAGE = 1 << 24  # bytes of planes that are sent at once
_ABOUT, _PLANES = 1, 2  # what a message is


class SlabDecomposition:
    """A grid whose planes, and columns of modes, are shared by processes.

    Parameters
    ----------
    grid
        A box of 2 or 3 dimensions.
    comm
        Communicator of mpi4py. [default: that of all processes]
    dtype
        Precision of the fields.

    Attributes
    ----------
    planes : (start, stop)
        Of this process, along the first axis of fields: these are arrays (stop - start, *grid.shape[1:]).
    sent : int
        Bytes that this process has sent to others in transforms.

    Raises
    ------
    InputError
        If mpi4py-fft is missing, or there are more processes than planes or columns.
    """

    def __init__(self, grid: Grid, comm: Any = None, *, dtype: npt.DTypeLike = np.float64) -> None:
        world()  # which shares the threads
        try:
            from mpi4py import MPI
            from mpi4py_fft.pencil import Pencil, Subcomm
        except ImportError:
            raise InputError('distributed fields need MPI: pip install "physscore[mpi]"') from None
        require_grid(grid)
        self.grid, self.dtype = grid, floating_dtype(dtype)
        self.comm = MPI.COMM_WORLD if comm is None else comm
        pieces = pieces_of(grid, self.comm.size)
        directions = Subcomm(self.comm, [1, 0, 1][: grid.dim], reorder=False)
        whole = Pencil(directions, grid.half_shape, axis=0).pencil(1)
        self.planes = (whole.substart[0], whole.substart[0] + whole.subshape[0])
        self._spectrum = np.result_type(self.dtype, np.complex64)
        self._pieces = [
            _Piece.of(directions, grid.half_shape, start, stop, self._spectrum) for start, stop in pieces
        ]
        self._in_place, self._sum = MPI.IN_PLACE, MPI.SUM
        self.sent = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the planes of this process."""
        return (self.planes[1] - self.planes[0], *self.grid.shape[1:])

    def sample(
        self, prior: GaussianRandomField | LognormalField, number: int = 0, *, seed: int, fixed: bool = False,
        paired: bool = False,
    ) -> Array:  # fmt: skip
        """Return the planes of a field: those of ``prior.sample(1, first=number, ...)[0]``, to rounding."""
        self._require(prior)
        require_same_everywhere(self.comm, (number, seed, fixed, paired))
        draw = prior.modes_of(number, seed=seed, dtype=self.dtype, fixed=fixed, paired=paired)
        planes = np.empty((self.shape[0], *self.grid.half_shape[1:]), self._spectrum)
        for piece in self._pieces:
            self._to_planes(piece, draw(self.grid.columns(*piece.columns)).reshape(piece.shape), planes)
        return prior.cells_of(inverse_planes(planes, self.grid.shape[1:]))

    def energy(self, prior: GaussianRandomField | LognormalField, x: Array) -> float:
        """Return the energy of the field whose planes are ``x``."""
        self._require(prior, x)
        if isinstance(prior, LognormalField):
            if self._total(np.array([np.count_nonzero(x <= -1)]))[0]:
                return np.inf
            g = prior.logarithm(x)
            jacobian = self._total(np.array([g.sum(dtype=np.float64)]))[0]
            return self.energy(prior.gaussian, g) + float(jacobian) - prior.shift * self.grid.n_cells
        return prior.energy_of_power(self.field(x).sum_power(prior.wavenumbers, None))

    def score(self, prior: GaussianRandomField | LognormalField, x: Array) -> Array:
        """Return the planes of the score of a field."""
        self._require(prior, x)
        if isinstance(prior, LognormalField):
            return np.asarray((self.score(prior.gaussian, prior.logarithm(x)) - 1) / (1 + x))
        return self._filtered(prior, x, "score")

    def whiten(self, prior: GaussianRandomField | LognormalField, x: Array) -> Array:
        """Return the planes of the white field."""
        self._require(prior, x)
        if isinstance(prior, LognormalField):
            return self.whiten(prior.gaussian, prior.logarithm(x))
        return self._filtered(prior, x, "whiten")

    def unwhiten(self, prior: GaussianRandomField | LognormalField, z: Array) -> Array:
        """Return the planes of the field whose white field is ``z``."""
        self._require(prior, z)
        if isinstance(prior, LognormalField):
            return prior.cells_of(self.unwhiten(prior.gaussian, z))
        return self._filtered(prior, z, "unwhiten")

    def field(self, x: Array) -> DistributedField:
        """Return the field whose planes are ``x``, for ``power_spectrum`` and ``check_field``."""
        self._require(None, x)
        return DistributedField(self, x)

    def _require(self, prior: Any, x: Array | None = None) -> None:
        """Refuse a prior of another grid, and planes that are not those of this process."""
        if prior is not None and getattr(prior, "grid", None) != self.grid:
            raise InputError(
                f"prior is {prior!r}: it must be a GaussianRandomField or LognormalField on {self.grid}"
            )
        if x is None or (isinstance(x, np.ndarray) and (x.shape, x.dtype) == (self.shape, self.dtype)):
            return
        raise InputError(
            f"x has shape {np.shape(x)} and type {getattr(x, 'dtype', type(x).__name__)}: the planes of "
            f"this process have {self.shape} and {self.dtype}"
        )

    def collect(self, x: Array, write: Callable[[int, int, Array], None]) -> None:
        """Have the first process ``write(start, stop, planes)`` all of a field, a piece at a time."""
        if self.comm.rank:
            send_planes(self.comm, x, *self.planes)
            return
        write(*self.planes, x)
        for source in range(1, self.comm.size):
            receive_planes(self.comm, source, self.grid.shape[1:], x.dtype, write)

    def _filtered(self, prior: GaussianRandomField, x: Array, name: str) -> Array:
        planes, factor = forward_planes(self.field(x).planes), prior.table(name, x.dtype)
        for piece in self._pieces:
            modes = self._to_columns(piece, planes)
            multiply(modes, prior.wavenumbers, factor, self.grid.columns(*piece.columns))
            self._to_planes(piece, modes, planes)
        return inverse_planes(planes, self.grid.shape[1:])

    def _to_planes(self, piece: _Piece, modes: Array, planes: Array) -> None:
        """Transform columns of modes along the first axis, in place, and put them into planes."""
        part = np.empty(piece.shape_of_planes, modes.dtype)
        piece.exchange.forward(inverse_along_first(modes), part)
        planes[:, piece.of_all] = part
        self.sent += piece.bytes_to_others

    def _to_columns(self, piece: _Piece, planes: Array) -> Array:
        """Make columns of modes of what is transformed along all axes but the first."""
        modes = np.empty(piece.shape, planes.dtype)
        piece.exchange.backward(np.ascontiguousarray(planes[:, piece.of_all]), modes)
        self.sent += piece.bytes_to_others
        return forward_along_first(modes)

    def _total(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn values into their sum over all processes, in place."""
        self.comm.Allreduce(self._in_place, values, self._sum)
        return values


def pieces_of(grid: Grid, processes: int) -> list[tuple[int, int]]:
    """Return where pieces of all columns start and stop, of which each process has as many as another.

    Raises
    ------
    InputError
        If there are more processes than planes or columns.
    """
    most = min(grid.shape[0], grid.half_shape[1]) if grid.dim > 1 else 0
    if processes > most:
        raise InputError(
            f"grid has {' x '.join(map(str, grid.shape))} cells, which {most or 'no'} processes can "
            f"share: there are {processes}"
        )
    columns = grid.half_shape[1]
    of_each = columns // processes  # the rest is in the last piece
    cut = [processes * stop for _, stop in equal_pieces(of_each, math.ceil(of_each / _PIECES))]
    return list(pairwise([0, *cut[:-1], columns]))


@dataclass(frozen=True)
class _Piece:
    """Some of the columns of all processes.

    Attributes
    ----------
    of_all
        Which, along the second axis.
    columns
        Start and stop of those that this process has.
    shape, shape_of_planes
        Of these, and of the planes of this process, in this piece.
    exchange
        Of one for the other.
    bytes_to_others
        What leaves this process in an exchange.
    """

    of_all: slice
    columns: tuple[int, int]
    shape: tuple[int, ...]
    shape_of_planes: tuple[int, ...]
    exchange: Any
    bytes_to_others: int

    @classmethod
    def of(cls, directions: Any, shape: tuple[int, ...], start: int, stop: int, dtype: Any) -> _Piece:
        """Return the piece from ``start`` to ``stop``, of half spectra of this shape."""
        from mpi4py_fft.pencil import Pencil

        columns = Pencil(directions, (shape[0], stop - start, *shape[2:]), axis=0)
        planes = columns.pencil(1)
        first, n = start + columns.substart[1], columns.subshape[1]
        to_others = (shape[0] - planes.subshape[0]) * n * math.prod(shape[2:]) * np.dtype(dtype).itemsize
        return cls(
            slice(start, stop), (first, first + n), tuple(columns.subshape), tuple(planes.subshape),
            columns.transfer(planes, dtype), int(to_others),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class DistributedField(FieldInPieces):
    """A field of which this process has some planes.

    Attributes
    ----------
    decomposition
        How it is shared.
    planes
        Those of this process.
    used_up
        Whether their modes may take their place, where that has room.
    """

    decomposition: SlabDecomposition
    planes: Array
    used_up: bool = False

    @property
    def grid(self) -> Grid:
        """The box."""
        return self.decomposition.grid

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.decomposition.grid.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the cells."""
        return self.decomposition.dtype

    def mapped(self, function: Callable[[Array], Array]) -> DistributedField:
        """Return the field of a function of each cell."""
        cut = self.decomposition
        found = planes_with_room(len(self.planes), cut.grid.shape[1:], cut.dtype)
        for i, plane in enumerate(self.planes):
            found[i] = function(plane)
        return DistributedField(cut, found, used_up=True)

    def sum_power(self, wavenumbers: WavenumberTable, weights: Any) -> npt.NDArray[np.float64]:
        """Return the sums of |modes|^2, unnormalised, for each entry of the table."""
        cut, planes = self.decomposition, forward_planes(self.planes, overwrite_x=self.used_up)

        def power(piece: _Piece) -> npt.NDArray[np.float64]:
            modes = cut._to_columns(piece, planes)
            return sum_power(modes, modes, wavenumbers, weights, cut.grid.columns(*piece.columns))

        total = power(cut._pieces[0])
        for piece in cut._pieces[1:]:
            total += power(piece)  # in place: a lognormal field's sums are as many as an eighth of its cells
        return cut._total(total)


def send_planes(comm: Any, x: Array, start: int, stop: int) -> None:
    """Send planes to the first process, a piece at a time."""
    comm.send((start, stop), 0, tag=_ABOUT)
    size = max(1, MESSAGE // x[0].nbytes)
    for first in range(0, len(x), size):
        comm.Send(np.ascontiguousarray(x[first : first + size]), 0, tag=_PLANES)


def receive_planes(
    comm: Any, source: int, shape: tuple[int, ...], dtype: Any, write: Callable[[int, int, Array], None]
) -> None:
    """Write what ``send_planes`` sends, planes of this shape."""
    start, stop = comm.recv(source=source, tag=_ABOUT)
    size = max(1, MESSAGE // (math.prod(shape) * np.dtype(dtype).itemsize))
    room = np.empty((min(size, stop - start), *shape), dtype)
    for first in range(start, stop, size):
        part = room[: stop - first]
        comm.Recv(part, source, tag=_PLANES)
        write(first, first + len(part), part)
