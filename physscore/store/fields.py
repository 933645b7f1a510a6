"""Files of density fields, written field by field or in planes.

While a job runs, the layout of its ``.part`` file never changes: the data are written into places
laid out at the start, and /completed then says that a field is there. Killed at any moment it can be
read and gone on with; fields of the last second may be lost.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physscore.core import Array, InputError
from physscore.diagnostics.bins import PowerBins
from physscore.diagnostics.comparison import Comparison
from physscore.diagnostics.power import PowerSpectrum
from physscore.grid import Grid
from physscore.noise import seed_key
from physscore.store.hdf5 import (
    check_output,
    describe,
    new_of,
    part_of,
    require_same,
    require_space,
    reserve,
    unwritten,
    writing,
)
from physscore.store.holding import begun, opened, place_of, require_free, require_own
from physscore.store.rows import Rows
from physscore.store.spectra import create_spectra

_AXES = ("x", "y", "z")
CHECKS = ("chi2", "dof", "amplitude", "amplitude_error")
SMALL = 1 << 20  # bytes of a field: smaller ones are written some together


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
    lognormal
        Whether they are lognormal: they are compared with a model through their logarithm.
    paired
        Whether each odd one is of opposite phase to the one before, and so not independent of it.

    Raises
    ------
    InputError
        If something cannot be what it is for.
    """

    delta: Array
    grid: Grid
    length_unit: str = "Mpc/h"
    redshift: float | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    lognormal: bool = False
    paired: bool = False

    def __post_init__(self) -> None:
        if self.redshift is not None:
            try:
                good = -1 < float(self.redshift) < math.inf
            except (TypeError, ValueError):
                good = False
            if not good:
                raise InputError(
                    f"redshift is {self.redshift!r}: it must be a finite number above -1, or None"
                )
        if self.seed is not None:
            seed_key(self.seed)
        if not isinstance(self.length_unit, str):
            raise InputError(f"length_unit is {self.length_unit!r}: it must be text, as in 'Mpc/h'")
        if not isinstance(self.settings, dict):
            raise InputError(f"settings is {self.settings!r}: it must be a dictionary, ready for JSON")
        for name, value in self.settings.items():
            try:
                json.dumps({name: value})
            except (TypeError, ValueError):
                raise InputError(
                    f"settings holds {name!r} of the type {type(value).__name__}: every value must be ready "
                    "for JSON, as numbers, text and lists are"
                ) from None
        # A file says it among its settings.
        for name in ("lognormal", "paired"):
            given = getattr(self, name)
            if not isinstance(given, bool | np.bool_):
                raise InputError(f"{name} is {given!r}: it must be True or False")
            setattr(self, name, bool(given or self.settings.get(name)))
            if getattr(self, name):
                self.settings = {**self.settings, name: True}

    def __str__(self) -> str:
        n = len(self.delta) if self.delta.ndim > self.grid.dim else 1
        about = {"redshift": self.redshift, "seed": self.seed}
        known = "".join(f", {name} {value}" for name, value in about.items() if value is not None)
        sides = " x ".join(f"{side:g}" for side in self.grid.box_size)
        return (
            f"{n} field{'s' if n > 1 else ''} of {' x '.join(map(str, self.grid.shape))} cells in a box of "
            f"{sides} {self.length_unit}, {self.delta.dtype}{known}"
        )


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
    origin
        Position of the first cell, for a piece of a larger box. [default: 0 along each axis]
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
        origin: Sequence[float] | None = None,
        name: str = "delta",
        long_name: str = "density contrast",
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.path = check_output(path, overwrite=overwrite, resume=resume)
        self.part = part_of(self.path)
        self.grid, self.dtype, self._batched = grid, dtype, n is not None
        settings = settings or {}
        if not (resume and self.part.exists()):
            kept = 0 if bins is None else 16 * len(bins.k)
            require_space(self.path, (grid.n_cells * dtype.itemsize + kept + 64) * (n or 1))
            fresh = new_of(self.path)
            with writing(self.path), begun(fresh, self.path) as held:
                if not overwrite:  # of jobs that began together, another was first
                    require_free(self.part, self.path)
                    check_output(self.path)
                self.beside.unlink(missing_ok=True)
                with h5py.File(fresh, "w", locking=False) as file:
                    describe(file, "fields", seed, settings, length_unit)
                    file.attrs["dataset"] = f"fields/{name}"
                    start = origin or [0.0] * grid.dim
                    _lay_out(
                        file, grid, start, n, dtype, length_unit, redshift, cosmology or {}, name, long_name
                    )
                    if bins is not None:
                        create_spectra(file, bins, n, length_unit, grid.dim)
                        for name in CHECKS:
                            check = file.create_dataset(f"checks/{name}", data=np.full(n or 1, np.nan))
                            check.dims[0].label = "realization"
                            check.dims[0].attach_scale(file["realization"])
                with open(fresh, "rb+") as room:
                    reserve(room.fileno(), fresh.stat().st_size)
                os.replace(fresh, self.part)
                self._file = opened(self.part, self.path, held)
        else:
            with writing(self.path):
                self._file = opened(self.part, self.path)
        self._place, self._rows = place_of(self.part), Rows(self._file)
        try:
            require_same(self._file, self.part, seed, settings)
        except InputError:
            self._file.close()
            raise

    @property
    def completed(self) -> list[int]:
        """Numbers of the fields that are already there."""
        with writing(self.path):
            self._rows.settle()
        return [int(i) for i in np.flatnonzero(self._rows.dataset("completed")[:])]

    @property
    def identity(self) -> str:
        """What tells this job from others."""
        return " ".join(str(self._file.attrs.get(name)) for name in ("created", "seed", "settings"))

    def write(
        self, i: int, delta: Array, spectrum: PowerSpectrum | None = None, check: Comparison | None = None
    ) -> None:
        """Write field ``i``, with its spectrum and its check, then mark it as complete.

        Small fields wait for others, a second at most.
        """
        if delta.nbytes < SMALL:
            self._add(i, {self._file.attrs["dataset"]: delta}, spectrum, check)
        else:
            self.write_planes(i, 0, len(delta), delta)
            self.complete(i, spectrum, check)

    def write_planes(self, i: int, start: int, stop: int, planes: Array) -> None:
        """Write planes start to stop of field ``i`` along its first axis."""
        with writing(self.path):
            put_planes(self._file, i, start, stop, planes)

    @contextmanager
    def aside(self) -> Iterator[Path]:
        """Close the file for a while, in which others put planes into it; it gives where it is."""
        with writing(self.path):
            self._rows.settle()
            self._file.close()
        yield self.part
        require_own(self.part, self._place, self.path)
        with writing(self.path):
            self._file = opened(self.part, self.path)
        self._rows = Rows(self._file)

    def read_planes(self, i: int, start: int, stop: int) -> Array:
        """Return planes that were written."""
        self._rows.write()
        fields = self._file[self._file.attrs["dataset"]]
        return np.asarray(fields[i, start:stop] if self._batched else fields[start:stop])

    def flush(self) -> None:
        """Hand what was written to the system, and mark what is complete."""
        with writing(self.path):
            self._rows.settle()

    def complete(
        self, i: int, spectrum: PowerSpectrum | None = None, check: Comparison | None = None
    ) -> None:
        """Write the spectrum and the check of field ``i``, then mark it as complete: soon, or by a flush."""
        self._add(i, {}, spectrum, check)

    def _add(
        self, i: int, values: dict[str, Any], spectrum: PowerSpectrum | None, check: Comparison | None
    ) -> None:
        if spectrum is not None:
            values |= {"spectra/power": spectrum.power, "spectra/error": spectrum.error}
        if check is not None:
            values |= {f"checks/{name}": getattr(check, name) for name in CHECKS}
        with writing(self.path):
            self._rows.add(i, values)

    def finish(self) -> None:
        """Give the file its final name, once everything is on the disk."""
        with writing(self.path):
            self._rows.settle()
            self._file.close()
            require_own(self.part, self._place, self.path)
            with open(self.part, "rb") as part:
                os.fsync(part.fileno())
            os.replace(self.part, self.path)
            self.beside.unlink(missing_ok=True)

    @property
    def beside(self) -> Path:
        """Where a field that goes through the disk has its modes meanwhile."""
        return self.part.with_name(self.part.name + ".modes")

    def __enter__(self) -> FieldWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            with writing(self.path):
                try:
                    self._rows.settle()
                finally:
                    self._file.close()


def put_planes(file: h5py.File, i: int, start: int, stop: int, planes: Array) -> None:
    """Put planes start to stop of field ``i`` into their place in a file."""
    fields = file[file.attrs["dataset"]]
    if fields.ndim > planes.ndim:
        fields[i, start:stop] = planes
    else:
        fields[start:stop] = planes


def _lay_out(
    file: h5py.File,
    grid: Grid,
    origin: Sequence[float],
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
    delta = fields.create_dataset(name, shape, dtype, dcpl=unwritten())
    delta.attrs["units"] = "dimensionless"
    delta.attrs["long_name"] = long_name
    names = list(_AXES[: grid.dim])
    scales: list[Array] = [origin[axis] + grid.coordinates(axis) for axis in range(grid.dim)]
    if n is not None:
        names, scales = ["realization", *names], [np.arange(n), *scales]
    for i, (axis_name, values) in enumerate(zip(names, scales, strict=True)):
        scale = fields.create_dataset(axis_name, data=values)
        if axis_name == "realization":
            scale.attrs["units"] = "1"
        else:
            scale.attrs["units"] = length_unit
            scale.attrs["long_name"] = "position at which a cell has its value"
        scale.make_scale(axis_name)
        delta.dims[i].label = axis_name
        delta.dims[i].attach_scale(scale)
    numbers = file.create_dataset("realization", data=np.arange(n or 1))
    numbers.attrs["units"] = "1"
    numbers.make_scale("realization")
    completed = file.create_dataset("completed", data=np.zeros(n or 1, np.uint8))
    completed.dims[0].label = "realization"
    completed.dims[0].attach_scale(numbers)
