"""Fields that are larger than memory: made in pieces that go through files, and gone on with after a kill."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError
from physscore.diagnostics.comparison import check_field
from physscore.diagnostics.power import power_spectrum
from physscore.energies.lognormal import LognormalField
from physscore.energies.random_field import GaussianRandomField
from physscore.grid import BYTES_AN_ENTRY, Grid
from physscore.slabs import FieldInPlanes, Slabs
from physscore.store.field_file import FieldFile
from physscore.store.fields import FieldWriter
from physscore.store.hdf5 import require_space, reserve, unwritten, writing

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_OF_OCTANT = 80  # bytes for an entry of the tables over the octant, of which a lognormal field has several


def bytes_of(text: str) -> int:
    """Return the bytes that are meant by "2GB", "512 MiB" or a number; K, M, G and T count by 1024.

    Raises
    ------
    InputError
        If it is none of these.
    """
    short = text.strip().upper().removesuffix("B").removesuffix("I").strip()
    unit = short[-1:] if short[-1:] in _UNITS else ""
    try:
        size = float(short.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        size = 0.0
    if not 0 < size < 2.0**63:
        raise InputError(f"memory is {text!r}: it must be a size such as 2GB or 512MB")
    return int(size)


def slabs_of(prior: GaussianRandomField | LognormalField, dtype: npt.DTypeLike, memory: int) -> Slabs:
    """Return how fields are cut so that they and the tables take no more than ``memory`` bytes."""
    return Slabs(prior.grid, dtype, memory, tables_of(prior.grid, isinstance(prior, LognormalField)))


def tables_of(grid: Grid, lognormal: bool) -> int:
    """Return the bytes that tables over the wavenumbers take."""
    octant = int(np.prod([n // 2 + 1 for n in grid.cube])) if lognormal else 0
    return BYTES_AN_ENTRY * grid.n_wavenumbers + _OF_OCTANT * octant


class Scratch:
    """Room in a file for the half spectrum of a field at work, and how far the work is.

    Parameters
    ----------
    path
        The file; one that is there is gone on with if it is of the same field, else replaced.
    grid, dtype
        Of the field.
    owner
        What tells this field from others.

    Attributes
    ----------
    modes : h5py.Dataset
        The room, of shape ``grid.half_shape``.
    columns, planes : int
        Pieces that are done.
    """

    def __init__(self, path: Path, grid: Grid, dtype: npt.DTypeLike, owner: str = "") -> None:
        self.path = path
        kind = np.result_type(dtype, np.complex64)
        with writing(path):
            self._file = self._taken_up(owner) or self._begun(grid, kind, owner)
        self.modes = self._file["modes"]
        self.columns, self.planes = (int(n) for n in self._file["done"][:])

    def _taken_up(self, owner: str) -> h5py.File | None:
        try:
            file = h5py.File(self.path, "r+")
        except OSError:  # none, or killed when it was begun
            return None
        if file.attrs.get("owner") == owner and "done" in file:
            return file
        file.close()
        return None

    def _begun(self, grid: Grid, kind: Any, owner: str) -> h5py.File:
        self.path.unlink(missing_ok=True)
        require_space(self.path, int(np.prod(grid.half_shape)) * kind.itemsize)
        with h5py.File(self.path, "w") as file:
            file.create_dataset("modes", grid.half_shape, kind, dcpl=unwritten())
            file["done"] = np.zeros(2, np.int64)
            file.attrs["owner"] = owner
        with open(self.path, "rb+") as room:
            reserve(room.fileno(), self.path.stat().st_size)
        return h5py.File(self.path, "r+")

    def note(self, columns: int, planes: int) -> None:
        """Keep how far the work is, once its data are with the system."""
        with writing(self.path):
            self._file.flush()
            self._file["done"][:] = columns, planes
            self._file.flush()
        self.columns, self.planes = columns, planes

    def remove(self) -> None:
        """Close the file and delete it."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


def write_field(
    writer: FieldWriter,
    prior: GaussianRandomField | LognormalField,
    number: int,
    *,
    seed: int,
    memory: int,
    fixed: bool = False,
    paired: bool = False,
    after_each: Callable[[], None] = lambda: None,
) -> None:
    """Make a field in pieces, write it, and compare its spectrum with that of ``prior``.

    Killed at any moment, the next call goes on from the last finished piece.

    Parameters
    ----------
    writer
        Where it is written.
    prior, number, seed, fixed, paired
        What field it is: ``prior.sample(1, first=number, ...)``, to rounding.
    memory
        Bytes to work in.
    after_each
        Called after each piece.

    Raises
    ------
    InputError
        If the memory is too small, or the disk too full.
    """
    slabs = slabs_of(prior, writer.dtype, memory)
    draw = prior.modes_of(number, seed=seed, dtype=writer.dtype, fixed=fixed, paired=paired)
    owner = f"{number} of {writer.identity} in {slabs.columns} and {slabs.planes}"
    with Scratch(writer.beside, prior.grid, writer.dtype, owner) as scratch:
        for done in slabs.columns_of_field(draw, scratch.modes, scratch.columns):
            scratch.note(done, 0)
            after_each()
        for start, stop, planes in slabs.planes_of_field(scratch.modes, scratch.planes):
            writer.write_planes(number, start, stop, prior.cells_of(planes))
            writer.flush()
            scratch.note(scratch.columns, scratch.planes + 1)
            after_each()

        def read(start: int, stop: int) -> Array:
            return writer.read_planes(number, start, stop)

        delta = FieldInPlanes(read, slabs, scratch.modes, after_each)
        measured = power_spectrum(delta, prior.grid)
        check = check_field(delta, prior) if isinstance(prior, LognormalField) else None
        writer.complete(number, measured, check or measured.compare(prior.power))
        writer.flush()  # else a kill would lose all that the scratch holds
        scratch.remove()


@contextmanager
def in_planes(
    fields: FieldFile, memory: int, *, lognormal: bool = False, after_each: Callable[[], None] = lambda: None
) -> Iterator[Callable[[int], FieldInPlanes]]:
    """Give what returns each field of a file to be measured within ``memory`` bytes, or to be compared with a
    ``lognormal`` prior.

    Their modes are kept beside the file, or where temporary files are.
    """
    slabs = Slabs(
        fields.grid,
        np.result_type(fields.delta.dtype, np.float32),
        memory,
        tables_of(fields.grid, lognormal),
    )
    folder = fields.path.parent if os.access(fields.path.parent, os.W_OK) else None
    with (
        TemporaryDirectory(dir=folder, prefix=f"{fields.path.name}.") as place,
        Scratch(Path(place) / "modes", fields.grid, slabs.dtype) as scratch,
    ):

        def field(number: int) -> FieldInPlanes:
            view = fields.view(number)

            def read(start: int, stop: int) -> Array:
                return np.asarray(view[start:stop]).astype(slabs.dtype, copy=False)

            return FieldInPlanes(read, slabs, scratch.modes, after_each)

        yield field
