"""Fields of a file that processes make, write or read together, or each its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from physscore.core import Array
from physscore.diagnostics.comparison import Comparison, check_field
from physscore.diagnostics.power import PowerSpectrum, power_spectrum
from physscore.distributed import MESSAGE, DistributedField, SlabDecomposition, receive_planes, send_planes
from physscore.energies.lognormal import LognormalField
from physscore.energies.random_field import GaussianRandomField
from physscore.fft import planes_with_room
from physscore.grid import Grid
from physscore.processes import on_root
from physscore.store.field_file import FieldFile
from physscore.store.fields import FieldWriter, put_planes


def processes_share(fields: FieldFile, comm: Any) -> Callable[[int], DistributedField]:
    """Return what reads a field of a file, of which each process reads its planes."""
    cut = SlabDecomposition(fields.grid, comm, dtype=np.result_type(fields.delta.dtype, np.float32))

    def read(number: int) -> DistributedField:
        planes = planes_with_room(cut.shape[0], fields.grid.shape[1:], cut.dtype)
        planes[...] = fields.view(number)[slice(*cut.planes)]
        return DistributedField(cut, planes, used_up=True)

    return read


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
    x = cut.sample(prior, number, **kind)
    if on_root(cut.comm, _has_parallel_hdf5):
        _write_at_once(writer, cut, number, x)
    else:
        cut.collect(x, partial(_write, writer, number))
    check = check_field(cut.field(x), prior) if isinstance(prior, LognormalField) else None
    measured = power_spectrum(DistributedField(cut, x, used_up=True), cut.grid)
    if check is None:
        check = measured.compare(prior.power)
    if writer is not None:
        writer.complete(number, measured, check)


def _has_parallel_hdf5() -> bool:
    return bool(h5py.get_config().mpi)


def _write_at_once(writer: FieldWriter | None, cut: SlabDecomposition, number: int, x: Array) -> None:
    """Have each process write its planes, by parallel HDF5."""
    with (
        writer.aside() if writer is not None else nullcontext() as part,
        h5py.File(cut.comm.bcast(part), "r+", driver="mpio", comm=cut.comm) as file,
    ):
        size = max(1, MESSAGE // x[0].nbytes)
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
        send_planes(comm, found[0], 0, grid.shape[0])
    if writer is None or found is None:
        return
    for source, number in enumerate(numbers):
        if source:
            receive_planes(comm, source, grid.shape[1:], dtype, partial(_write, writer, number))
        else:
            writer.write_planes(number, 0, grid.shape[0], found[0])
        writer.complete(number, *about[source])


def _write(writer: FieldWriter | None, number: int, start: int, stop: int, part: Array) -> None:
    assert writer is not None
    writer.write_planes(number, start, stop, part)
