"""Fields spread over MPI processes: each has some planes of cells, and in between some columns of modes.

Noise is counted by place, so each process draws the columns it has, and a field does not depend on how many
there are. mpi4py-fft exchanges columns for planes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import (
    forward_along_first,
    forward_planes,
    inverse_along_first,
    inverse_planes,
)
from physscore.core import Array, InputError
from physscore.diagnostics.comparison import Comparison, check_field
from physscore.diagnostics.power import PowerSpectrum, power_spectrum
from physscore.energies.lognormal import LognormalField
from physscore.energies.random_field import GaussianRandomField
from physscore.grid import Grid, WavenumberTable
from physscore.modes import multiply, sum_power
from physscore.processes import on_root, world
from physscore.slabs import FieldInPieces

if TYPE_CHECKING:  # h5py takes 12 MB, and of several processes often only the first needs it
    from physscore.store.field_file import FieldFile
    from physscore.store.fields import FieldWriter

_MESSAGE = 1 << 26  # bytes of planes that are sent at once
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
    columns : (start, stop)
        Of this process, along the second axis of half spectra.
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
        self.grid, self.dtype = grid, np.dtype(dtype)
        self.comm = MPI.COMM_WORLD if comm is None else comm
        most = min(grid.shape[0], grid.half_shape[1]) if grid.dim > 1 else 0
        if self.comm.size > most:
            raise InputError(
                f"grid has {' x '.join(map(str, grid.shape))} cells, which {most or 'no'} processes can "
                f"share: there are {self.comm.size}"
            )
        directions = Subcomm(self.comm, [1, 0, 1][: grid.dim], reorder=False)
        columns = Pencil(directions, grid.half_shape, axis=0)
        planes = columns.pencil(1)
        self._shapes = columns.subshape, planes.subshape
        self._exchange = columns.transfer(planes, np.result_type(self.dtype, np.complex64))
        self._sum = MPI.SUM
        self.sent = 0
        self.columns = (columns.substart[1], columns.substart[1] + columns.subshape[1])
        self.planes = (planes.substart[0], planes.substart[0] + planes.subshape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the planes of this process."""
        return (self.planes[1] - self.planes[0], *self.grid.shape[1:])

    def sample(
        self, prior: GaussianRandomField | LognormalField, number: int = 0, *, seed: int, fixed: bool = False,
        paired: bool = False,
    ) -> Array:  # fmt: skip
        """Return the planes of a field: those of ``prior.sample(1, first=number, ...)[0]``, to rounding."""
        draw = prior.modes_of(number, seed=seed, dtype=self.dtype, fixed=fixed, paired=paired)
        modes = draw(self.grid.columns(*self.columns)).reshape(self._shapes[0])
        return prior.cells_of(self._to_planes(modes))

    def energy(self, prior: GaussianRandomField | LognormalField, x: Array) -> float:
        """Return the energy of the field whose planes are ``x``."""
        if isinstance(prior, LognormalField):
            if self._total(np.array([np.count_nonzero(x <= -1)]))[0]:
                return np.inf
            g = prior.logarithm(x)
            jacobian = self._total(np.array([g.sum(dtype=np.float64)]))[0]
            return self.energy(prior.gaussian, g) + float(jacobian) - prior.shift * self.grid.n_cells
        return prior.energy_of_power(self.field(x).sum_power(prior.wavenumbers, None))

    def score(self, prior: GaussianRandomField | LognormalField, x: Array) -> Array:
        """Return the planes of the score of a field."""
        if isinstance(prior, LognormalField):
            return np.asarray((self.score(prior.gaussian, prior.logarithm(x)) - 1) / (1 + x))
        return self._filtered(prior, x, "score")

    def whiten(self, prior: GaussianRandomField | LognormalField, x: Array) -> Array:
        """Return the planes of the white field."""
        if isinstance(prior, LognormalField):
            return self.whiten(prior.gaussian, prior.logarithm(x))
        return self._filtered(prior, x, "whiten")

    def unwhiten(self, prior: GaussianRandomField | LognormalField, z: Array) -> Array:
        """Return the planes of the field whose white field is ``z``."""
        if isinstance(prior, LognormalField):
            return prior.cells_of(self.unwhiten(prior.gaussian, z))
        return self._filtered(prior, z, "unwhiten")

    def field(self, x: Array) -> DistributedField:
        """Return the field whose planes are ``x``, for ``power_spectrum`` and ``check_field``."""
        if x.shape != self.shape:
            raise InputError(f"x has shape {x.shape}: the planes of this process have {self.shape}")
        return DistributedField(self, lambda: x)

    def collect(self, x: Array, write: Callable[[int, int, Array], None]) -> None:
        """Have the first process ``write(start, stop, planes)`` all of a field, a piece at a time."""
        if self.comm.rank:
            _send_planes(self.comm, x, *self.planes)
            return
        write(*self.planes, x)
        for source in range(1, self.comm.size):
            _receive_planes(self.comm, source, self.grid.shape[1:], x.dtype, write)

    def _filtered(self, prior: GaussianRandomField, x: Array, name: str) -> Array:
        modes = self._to_columns(forward_planes(self.field(x).planes()))
        multiply(modes, prior.wavenumbers, prior.table(name, x.dtype), self.grid.columns(*self.columns))
        return self._to_planes(modes)

    def _to_planes(self, modes: Array) -> Array:
        """Make cells of columns of modes, which are used up."""
        modes = inverse_along_first(modes)
        planes = np.empty(self._shapes[1], modes.dtype)
        self._exchange.forward(modes, planes)
        self.sent += self._to_others(modes)
        del modes
        return inverse_planes(planes, self.grid.shape[1:])

    def _to_columns(self, planes: Array) -> Array:
        """Make columns of modes of what is transformed along all axes but the first."""
        modes = np.empty(self._shapes[0], planes.dtype)
        self._exchange.backward(planes, modes)
        self.sent += self._to_others(planes)
        return forward_along_first(modes)

    def _to_others(self, sent: Array) -> int:
        """Return how many of the bytes that were exchanged have left this process."""
        (a, b), (c, d) = self.planes, self.columns
        kept = (b - a) * (d - c) * math.prod(self.grid.half_shape[2:])
        return int((sent.size - kept) * sent.itemsize)

    def _total(self, values: Array) -> Array:
        """Return the sum over all processes."""
        total = np.empty_like(values)
        self.comm.Allreduce(values, total, self._sum)
        return total


@dataclass(frozen=True, eq=False)
class DistributedField(FieldInPieces):
    """A field of which this process has some planes.

    Attributes
    ----------
    decomposition
        How it is shared.
    planes
        Returns those of this process, which are let go as soon as they are transformed.
    """

    decomposition: SlabDecomposition
    planes: Callable[[], Array]

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.decomposition.grid.dim

    def mapped(self, function: Callable[[Array], Array]) -> DistributedField:
        """Return the field of a function of each cell."""
        return DistributedField(self.decomposition, lambda: function(self.planes()))

    def sum_power(self, wavenumbers: WavenumberTable, weights: Any) -> npt.NDArray[np.float64]:
        """Return the sums of |modes|^2, unnormalised, for each entry of the table."""
        cut = self.decomposition
        modes = cut._to_columns(forward_planes(self.planes()))
        sums = sum_power(modes, modes, wavenumbers, weights, cut.grid.columns(*cut.columns))
        return np.asarray(cut._total(sums))


def _send_planes(comm: Any, x: Array, start: int, stop: int) -> None:
    """Send planes to the first process, a piece at a time."""
    comm.send((start, stop), 0, tag=_ABOUT)
    size = max(1, _MESSAGE // x[0].nbytes)
    for first in range(0, len(x), size):
        comm.Send(np.ascontiguousarray(x[first : first + size]), 0, tag=_PLANES)


def _receive_planes(
    comm: Any, source: int, shape: tuple[int, ...], dtype: Any, write: Callable[[int, int, Array], None]
) -> None:
    """Write what ``_send_planes`` sends, planes of this shape."""
    start, stop = comm.recv(source=source, tag=_ABOUT)
    size = max(1, _MESSAGE // (math.prod(shape) * np.dtype(dtype).itemsize))
    for first in range(start, stop, size):
        part = np.empty((min(size, stop - first), *shape), dtype)
        comm.Recv(part, source, tag=_PLANES)
        write(first, first + len(part), part)


def processes_share(fields: FieldFile, comm: Any) -> Callable[[int], DistributedField]:
    """Return what reads a field of a file, of which each process reads its planes."""
    cut = SlabDecomposition(fields.grid, comm, dtype=np.result_type(fields.delta.dtype, np.float32))
    return lambda number: cut.field(fields.view(number)[slice(*cut.planes)].astype(cut.dtype, copy=False))


def write_field(
    writer: FieldWriter | None,
    cut: SlabDecomposition,
    prior: GaussianRandomField | LognormalField,
    number: int,
    **kind: Any,
) -> None:
    """Make a field in all processes, write it, and compare it with its spectrum: the first process writes,
    if h5py has no parallel HDF5.

    Parameters
    ----------
    writer
        Of the first process; None in the others.
    cut
        How the field is shared.
    prior, number, kind
        What field it is; see ``SlabDecomposition.sample``.
    """
    planes = [cut.sample(prior, number, **kind)]
    if on_root(cut.comm, _has_parallel_hdf5):
        _write_at_once(writer, cut, number, planes[0])
    else:
        cut.collect(planes[0], partial(_write, writer, number))
    check = check_field(cut.field(planes[0]), prior) if isinstance(prior, LognormalField) else None
    measured = power_spectrum(DistributedField(cut, planes.pop), cut.grid)  # its modes need the memory
    if check is None:
        check = measured.compare(prior.power)
    if writer is not None:
        writer.complete(number, measured, check)


def _has_parallel_hdf5() -> bool:
    import h5py

    return bool(h5py.get_config().mpi)


def _write_at_once(writer: FieldWriter | None, cut: SlabDecomposition, number: int, x: Array) -> None:
    """Have each process write its planes, by parallel HDF5."""
    import h5py

    from physscore.store.fields import put_planes

    with (
        writer.aside() if writer is not None else nullcontext() as part,
        h5py.File(cut.comm.bcast(part), "r+", driver="mpio", comm=cut.comm) as file,
    ):
        size = max(1, _MESSAGE // x[0].nbytes)
        for first in range(0, len(x), size):
            planes, start = x[first : first + size], cut.planes[0] + first
            put_planes(file, number, start, start + len(planes), planes)


def write_own_fields(
    writer: FieldWriter | None,
    comm: Any,
    grid: Grid,
    dtype: npt.DTypeLike,
    numbers: list[int],
    make: Callable[[int], tuple[Array, PowerSpectrum, Comparison]],
) -> None:
    """Have each process make one field of its own, and the first process write them.

    Parameters
    ----------
    writer
        Of the first process; None in the others.
    comm
        Communicator of mpi4py.
    grid, dtype
        What the fields are.
    numbers
        Of the fields: one for each of the first processes.
    make
        Returns a field of this number, its spectrum, and its check.
    """
    found = make(numbers[comm.rank]) if comm.rank < len(numbers) else None
    about = comm.gather(found and found[1:])
    if comm.rank and found is not None:
        _send_planes(comm, found[0], 0, grid.shape[0])
    if writer is None or found is None:
        return
    for source, number in enumerate(numbers):
        if source:
            _receive_planes(comm, source, grid.shape[1:], dtype, partial(_write, writer, number))
        else:
            writer.write_planes(number, 0, grid.shape[0], found[0])
        writer.complete(number, *about[source])


def _write(writer: FieldWriter | None, number: int, start: int, stop: int, part: Array) -> None:
    assert writer is not None
    writer.write_planes(number, start, stop, part)
