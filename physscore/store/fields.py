"""Files of density fields, written and read field by field.

While a job runs, the layout of its ``.part`` file never changes: the data are written into places
laid out at the start, and /completed then says that a field is there. Killed at any moment it can be
read and gone on with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physscore.core import Array, InputError
from physscore.diagnostics.comparison import Comparison, Verdict, pool
from physscore.diagnostics.power import FieldSequence, PowerBins, PowerSpectrum
from physscore.grid import Grid
from physscore.store.hdf5 import (
    FORMAT,
    check_output,
    describe,
    open_hdf5,
    part_of,
    require_same,
    require_space,
    reserve,
    writing,
)
from physscore.store.spectra import create_spectra, read_spectrum

_AXES = ("x", "y", "z")
_CHECKS = ("chi2", "dof", "amplitude", "amplitude_error")


@dataclass
class Fields:
    """Density fields and what they are.

    Attributes
    ----------
    delta
        One field of shape ``grid.shape`` or a batch (n, *grid.shape).
    grid
        The box and its cells.
    length_unit
        Unit of the box, such as "Mpc/h".
    redshift
        None where it has no meaning.
    seed
        None for fields that were not drawn here.
    settings
        Everything else that tells how they were made, ready for JSON.
    """

    delta: Array
    grid: Grid
    length_unit: str = "Mpc/h"
    redshift: float | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


class FieldWriter:
    """Writes fields into one file, one after the other, with memory for one.

    Use it as a context manager and call :meth:`finish` when all fields are in; without that the
    ``.part`` file stays, to be resumed.

    Parameters
    ----------
    path
        Final name of the file.
    grid, dtype, length_unit, redshift, seed, settings
        What the fields are; see :class:`Fields`.
    n
        How many fields; None for a single one without a dimension of realizations.
    bins
        Bins in which the spectrum of every field is kept; None for none.
    cosmology
        Parameters of the model behind the spectrum, kept in /Cosmology.
    name, long_name
        Of the dataset in /fields, for what is no density contrast.
    overwrite
        Replace an existing file or unfinished job.
    resume
        Go on with an unfinished job of the same settings; start if there is none.

    Raises
    ------
    InputError
        If the file exists, cannot be written, belongs to a job with other settings, or the disk has
        too little room.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        grid: Grid,
        *,
        n: int | None,
        dtype: np.dtype[Any],
        bins: PowerBins | None = None,
        length_unit: str = "Mpc/h",
        redshift: float | None = None,
        seed: int | None = None,
        settings: dict[str, Any] | None = None,
        cosmology: dict[str, Any] | None = None,
        name: str = "delta",
        long_name: str = "density contrast",
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.path = check_output(path, overwrite=overwrite, resume=resume)
        self.part = part_of(self.path)
        settings = settings or {}
        if not (resume and self.part.exists()):
            require_space(self.path, grid.n_cells * dtype.itemsize * (n or 1))
            fresh = self.part.with_name(self.part.name + ".new")  # so that a .part is always readable
            with writing(self.path):
                with h5py.File(fresh, "w") as file:
                    describe(file, "fields", seed, settings, length_unit)
                    file.attrs["dataset"] = f"fields/{name}"
                    _lay_out(file, grid, n, dtype, length_unit, redshift, cosmology or {}, name, long_name)
                    if bins is not None:
                        create_spectra(file, bins, n, length_unit, grid.dim)
                        for name in _CHECKS:
                            check = file.create_dataset(f"checks/{name}", data=np.full(n or 1, np.nan))
                            check.dims[0].attach_scale(file["completed"])
                with open(fresh, "rb+") as room:
                    reserve(room.fileno(), fresh.stat().st_size)
                os.replace(fresh, self.part)
        with writing(self.path):
            self._file = h5py.File(self.part, "r+")
        try:
            require_same(self._file, self.part, seed, settings)
        except InputError:
            self._file.close()
            raise

    @property
    def completed(self) -> list[int]:
        """Numbers of the fields that are already there."""
        return [int(i) for i in np.flatnonzero(self._file["completed"][:])]

    def write(
        self, i: int, delta: Array, spectrum: PowerSpectrum | None = None, check: Comparison | None = None
    ) -> None:
        """Write field ``i``, with its spectrum and its check, then mark it as complete."""
        file = self._file
        with writing(self.path):
            fields = file[file.attrs["dataset"]]
            place: Any = i if fields.ndim > delta.ndim else ...
            fields[place] = delta
            if spectrum is not None:
                file["spectra/power"][place] = spectrum.power
                file["spectra/error"][place] = spectrum.error
            if check is not None:
                for name in _CHECKS:
                    file[f"checks/{name}"][i] = getattr(check, name)
            file.flush()
            file["completed"][i] = 1
            file.flush()

    def finish(self) -> None:
        """Give the file its final name, once everything is on the disk."""
        with writing(self.path):
            self._file.close()
            with open(self.part, "rb") as part:
                os.fsync(part.fileno())
            os.replace(self.part, self.path)

    def __enter__(self) -> FieldWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            with writing(self.path):
                self._file.close()


def _lay_out(
    file: h5py.File,
    grid: Grid,
    n: int | None,
    dtype: np.dtype[Any],
    length_unit: str,
    redshift: float | None,
    cosmology: dict[str, Any],
    name: str,
    long_name: str,
) -> None:
    """Write all that is known before the first field, and make room for the fields."""
    header = file.create_group("Header")
    header.attrs["BoxSize"] = np.array(grid.box_size)
    header.attrs["Shape"] = np.array(grid.shape)
    if redshift is not None:
        header.attrs["Redshift"] = redshift
    group = file.create_group("Cosmology")
    for parameter, value in cosmology.items():
        if value is not None:
            group.attrs[parameter] = value
    fields = file.create_group("fields")
    shape = grid.shape if n is None else (n, *grid.shape)
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)  # the room is made without writing it twice
    delta = fields.create_dataset(name, shape, dtype, dcpl=layout)
    delta.attrs["units"] = "dimensionless"
    delta.attrs["long_name"] = long_name
    names = list(_AXES[: grid.dim])
    scales: list[Array] = [grid.coordinates(axis) for axis in range(grid.dim)]
    if n is not None:
        names, scales = ["realization", *names], [np.arange(n), *scales]
    for i, (axis_name, values) in enumerate(zip(names, scales, strict=True)):
        scale = fields.create_dataset(axis_name, data=values)
        scale.attrs["units"] = "1" if axis_name == "realization" else length_unit
        scale.make_scale(axis_name)
        delta.dims[i].label = axis_name
        delta.dims[i].attach_scale(scale)
    file.create_dataset("completed", data=np.zeros(n or 1, np.uint8)).make_scale("completed")


class FieldFile:
    """A file of fields, open for reading field by field, so that it may be larger than memory.

    Parameters
    ----------
    path
        The file: ours, or any HDF5 file if the two others are given.
    dataset
        Path of the dataset of fields inside a file that is not ours.
    box_size
        Its side length, or one for each dimension.

    Attributes
    ----------
    delta
        The h5py dataset, such as (x, y, z) or (realization, x, y, z).
    grid, length_unit, redshift, seed, settings
        As in :class:`Fields`.
    completed
        Numbers of the fields that are there: all of them, except in a ``.part`` file.

    Raises
    ------
    InputError
        If the file is missing, truncated, foreign, newer than this version, or holds no fields.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dataset: str | None = None,
        box_size: Sequence[float] | None = None,
    ) -> None:
        self.path = Path(path)
        self.file = open_hdf5(self.path)
        try:
            if dataset is None:
                self._read_ours()
            else:
                self._read_foreign(dataset, box_size)
        except BaseException:
            self.file.close()
            raise

    def _read_ours(self) -> None:
        file = self.file
        if file.attrs.get("format") != FORMAT or file.attrs.get("kind") != "fields":
            raise InputError(
                f"file {self.path} is not a file of physscore fields: for another one name the dataset "
                "(--dataset) and the side of its box (--box)"
            )
        header = file["Header"].attrs
        self.delta = file[str(file.attrs.get("dataset", "fields/delta"))]
        self.grid = Grid([int(n) for n in header["Shape"]], [float(side) for side in header["BoxSize"]])
        self.length_unit = str(file["Units"].attrs["length"])
        self.redshift = float(header["Redshift"]) if "Redshift" in header else None
        self.seed = int(file.attrs["seed"]) if "seed" in file.attrs else None
        self.settings: dict[str, Any] = json.loads(file.attrs["settings"])
        self.completed = [int(i) for i in np.flatnonzero(file["completed"][:])]

    def _read_foreign(self, dataset: str, box_size: Sequence[float] | None) -> None:
        found = self.file.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise InputError(f"file {self.path} has no dataset {dataset!r}: name one of its datasets")
        if box_size is None:
            raise InputError(
                f"box_size is missing: the box of {dataset!r} in {self.path} is not known (--box)"
            )
        dim = len(box_size) if len(box_size) > 1 else min(found.ndim, 3)
        if found.ndim not in (dim, dim + 1):
            raise InputError(
                f"dataset {dataset!r} has shape {found.shape}: it must be one field of {dim} dimensions, "
                "or a batch of these"
            )
        self.delta = found
        self.grid = Grid(found.shape[found.ndim - dim :], box_size)
        self.length_unit, self.redshift, self.seed, self.settings = "length", None, None, {}
        self.completed = list(range(found.shape[0] if found.ndim > dim else 1))

    @property
    def batched(self) -> bool:
        """Whether the first dimension counts realizations."""
        return bool(self.delta.ndim > self.grid.dim)

    def read(self, i: int = 0) -> Array:
        """Return field ``i``, of shape ``grid.shape``."""
        return np.asarray(self.delta[i] if self.batched else self.delta[...])

    def independent(self) -> FieldSequence:
        """Return the completed fields to be read one at a time, without the second ones of pairs,
        which have the power of the first."""
        paired = self.settings.get("paired", False)
        chosen = [i for i in self.completed if not (paired and i % 2)]
        return FieldSequence(self.read, chosen, self.grid.dim + 1)

    def require(self, *, seed: int, settings: dict[str, Any]) -> None:
        """Refuse a file that was made with another seed or other settings."""
        require_same(self.file, self.path, seed, settings)

    def verdict(self) -> Verdict | None:
        """Return how the completed fields agreed with their spectrum, if that was kept."""
        if "checks" not in self.file or not self.completed:
            return None
        kept = self.independent().indices
        return pool(*(self.file[f"checks/{name}"][:][kept] for name in _CHECKS))

    def summary(self) -> dict[str, Any]:
        """Return what the file holds, ready for JSON."""
        return {
            "file": str(self.path),
            "kind": "fields",
            "fields": self.delta.shape[0] if self.batched else 1,
            "completed": len(self.completed),
            "shape": list(self.grid.shape),
            "dtype": str(self.delta.dtype),
            "box_size": list(self.grid.box_size),
            "length_unit": self.length_unit,
            "redshift": self.redshift,
            "seed": self.seed,
            "settings": self.settings,
            "created": self.file.attrs.get("created"),
            "version": self.file.attrs.get("version"),
        }

    def power(self) -> PowerSpectrum | None:
        """Return the spectra that were measured when the fields were written, if they were kept."""
        return read_spectrum(self.file) if "spectra" in self.file else None

    def __enter__(self) -> FieldFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
