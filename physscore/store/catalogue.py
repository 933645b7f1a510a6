"""Particles in files: snapshots in HDF5, NumPy arrays, tables of text."""

from __future__ import annotations

import csv
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import h5py
import numpy as np

from physscore.core import Array, InputError
from physscore.store.hdf5 import holds_numbers, names_of_numbers, open_hdf5, reading

_AT_ONCE = 1 << 22  # particles
_HDF5_SIGNATURE, _NUMPY_SIGNATURE = b"\x89HDF\r\n\x1a\n", b"\x93NUMPY"
_LONGEST = 1 << 16  # bytes of a line of text
_MPC = 3.0857e24  # in cm
_MANY = 200  # particles, which leave a tenth of an axis empty once in 10^8, if they may be anywhere


class Catalogue:
    """Particles of one file or several, as a snapshot's, read some at a time.

    Parameters
    ----------
    paths
        HDF5 files, ``.npy`` arrays (n, dim), or tables of text with a line for each particle, whose columns
        are separated by blanks or commas, and may be named in the first line.
    positions
        Names of datasets of HDF5, of one (n, dim) or of one for each axis; names of a table's columns, or
        their numbers, counted from 1. [default: the first columns; of HDF5 there is none]
    weights
        Name or column of the particles' masses. [default: all are alike]
    dim
        Number of axes.

    Attributes
    ----------
    header : dict
        What HDF5 files say of the whole, where they do: ``BoxSize`` and ``Redshift``; ``NumPart_Total`` of
        the type of particles that is read; ``UnitLength_in_cm``, over h, of their positions.

    Raises
    ------
    InputError
        If a file cannot be read as such, is given twice, or the files are of different snapshots.
    """

    def __init__(
        self,
        paths: list[Path],
        positions: list[str] | None = None,
        weights: str | None = None,
        *,
        dim: int = 3,
    ) -> None:
        if positions is not None and len(positions) not in (1, dim):
            raise InputError(
                f"positions names {len(positions)} columns: it must be one of {dim}, or {dim} of one"
            )
        self.paths, self.positions, self.weights, self.dim = paths, positions, weights, dim
        self._type = _type_of((positions or [""])[0])
        self.header: dict[str, Any] = {}
        places: set[tuple[int, int]] = set()
        for path in paths:
            header = self._header_of(path) if _begins_with(path, _HDF5_SIGNATURE) else {}
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in places:
                raise InputError(f"file {path} is given twice: each must be given once")
            places.add((status.st_dev, status.st_ino))
            for name, value in header.items():
                other = self.header.setdefault(name, value)
                if not np.array_equal(value, other, equal_nan=True):
                    raise InputError(
                        f"{name} in {path} is {value}, and in a file before it {other}: the files must be of "
                        "one snapshot"
                    )

    def _header_of(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with open_hdf5(path) as file, reading(path):
            about = file["Header"].attrs if "Header" in file else {}
            if len(sides := _numbers(about, "BoxSize")):
                found["BoxSize"] = sides
            if len(redshift := _numbers(about, "Redshift")) == 1:
                found["Redshift"] = redshift.item()
            total, high = (_numbers(about, f"NumPart_Total{part}") for part in ("", "_HighWord"))
            if self._type is not None and self._type < len(total):
                found["NumPart_Total"] = int(total[self._type])
                if self._type < len(high):
                    found["NumPart_Total"] += int(high[self._type]) << 32
            for group in ("Header", "Units", "Parameters"):  # of AREPO, EAGLE and Gadget-4
                unit = _numbers(file[group].attrs if group in file else {}, "UnitLength_in_cm")
                if len(unit) == 1:
                    found["UnitLength_in_cm"] = unit.item()
        return found

    def doubts(self, n: int, scale: float, length_unit: str) -> Iterator[str]:
        """Give what speaks against a number of particles that were read, and the unit of their positions."""
        total = self.header.get("NumPart_Total", 0)
        if total and n != total:
            yield (f"{n} particles were read, and the snapshot has {total} of type {self._type}, as /Header "
                   "says: are all of its files given?")  # fmt: skip
        in_mpc = self.header.get("UnitLength_in_cm", 0) / _MPC
        unit = in_mpc * {"Mpc/h": 1, "kpc/h": 1000}.get(length_unit, 0)
        if unit and abs(scale / unit - 1) > 0.01:
            yield (f"the unit of length of the snapshot is {unit:.4g} {length_unit}, and scale is {scale:g}: "
                   "are positions in that unit (--scale)?")  # fmt: skip

    def pieces(self) -> Iterator[tuple[Array, Array | None]]:
        """Give positions (n, dim) and weights (n,) or None of some particles after the others.

        Raises
        ------
        InputError
            If names or columns are missing, or their lengths differ.
        """
        for path in self.paths:
            if _begins_with(path, _HDF5_SIGNATURE):
                yield from self._of_hdf5(path)
            elif _begins_with(path, _NUMPY_SIGNATURE):
                yield from self._of_numpy(path)
            else:
                yield from self._of_text(path)

    def _of_hdf5(self, path: Path) -> Iterator[tuple[Array, Array | None]]:
        with open_hdf5(path) as file:
            if self.positions is None:
                raise InputError(f"positions is missing: name the dataset of {path} (--positions): "
                                 f"{', '.join(names_of_numbers(file))}")  # fmt: skip
            names = [name.strip("/") for name in [*self.positions, *([self.weights] if self.weights else [])]]
            columns = []
            for name in names:
                with reading(path):
                    column: Any = file.get(name) if name else None
                    if column is None and _is_without(file, _type_of(name)):
                        return
                if not holds_numbers(column):
                    raise InputError(f"file {path} has no dataset {name!r} of numbers: it has "
                                     f"{', '.join(names_of_numbers(file))}")  # fmt: skip
                columns.append(column)
            lengths = {len(column) for column in columns}
            if len(lengths) > 1:
                raise InputError(f"datasets {', '.join(names)} of {path} have the lengths {sorted(lengths)}: "
                                 "they must be of the same particles")  # fmt: skip
            for start in range(0, lengths.pop(), _AT_ONCE):
                with reading(path):
                    parts = [column[start : start + _AT_ONCE] for column in columns]
                weights = parts.pop() if self.weights else None
                yield self._checked(parts[0] if len(parts) == 1 else np.stack(parts, axis=1), path), weights

    def _of_numpy(self, path: Path) -> Iterator[tuple[Array, Array | None]]:
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"file {path} cannot be read: {error}") from error
        yield from self._of_columns(found, path)

    def _of_text(self, path: Path) -> Iterator[tuple[Array, Array | None]]:
        with _as_table(path), open(path, encoding="utf-8-sig") as file:  # spreadsheets write a mark first
            comment, first = _first_lines(file)
            if not first:
                return
            delimiter, quote = (",", '"') if "," in first else (None, None)
            entries, names = _entries(first, delimiter), _entries(comment, delimiter)
            if not any(map(_is_number, entries)):
                names, first = entries, next(file, "")  # the names of what is below
            columns = self._columns(len(entries), names if len(names) == len(entries) else [], path)
            _require_whole(path, len(entries), delimiter)
            lines = chain([first], file)
            while first:
                with warnings.catch_warnings():  # of lines without data
                    warnings.simplefilter("ignore")
                    table = np.loadtxt(lines, delimiter=delimiter, quotechar=quote, usecols=columns,
                                       max_rows=_AT_ONCE, ndmin=2)  # fmt: skip
                if len(table):
                    weights = table[:, self.dim] if self.weights else None
                    yield np.ascontiguousarray(table[:, : self.dim]), weights
                if len(table) < _AT_ONCE:
                    return

    def _of_columns(self, table: Array, path: Path) -> Iterator[tuple[Array, Array | None]]:
        if table.dtype.kind not in "fiu" or table.ndim != 2:
            raise InputError(
                f"file {path} has shape {table.shape} and type {table.dtype}: it must hold a row of numbers "
                "for each particle"
            )
        columns = self._columns(table.shape[1], [], path)
        weights = columns.pop() if self.weights else None
        for start in range(0, len(table), _AT_ONCE):
            part = table[start : start + _AT_ONCE]
            # By rows, as it is elsewhere: else the loops are compiled anew.
            found = np.ascontiguousarray(part[:, columns])
            yield self._checked(found, path), None if weights is None else part[:, weights]

    def _columns(self, n: int, names: list[str], path: Path) -> list[int]:
        """Return the places of positions and weights among the columns of a table, which may have names."""
        wanted = self.positions or [str(i + 1) for i in range(self.dim)]
        if len(wanted) != self.dim:
            raise InputError(f"positions is {','.join(wanted)}: it must name {self.dim} columns of {path}")
        columns = []
        for name in [*wanted, *([self.weights] if self.weights else [])]:
            if name in names:
                columns.append(names.index(name))
            elif name.isdecimal() and 1 <= int(name) <= n:
                columns.append(int(name) - 1)
            else:
                known = f", or one of {', '.join(names)}" if names else ""
                raise InputError(
                    f"column {name!r} is not in {path}: it must be a number from 1 to {n}{known}"
                )
        return columns

    def _checked(self, positions: Array, path: Path) -> Array:
        if positions.ndim == 1 and self.dim == 1:
            positions = positions[:, np.newaxis]
        if positions.ndim != 2 or positions.shape[1] != self.dim:
            raise InputError(
                f"positions in {path} have shape {positions.shape}: they must be (n, {self.dim})"
            )
        return positions


def _begins_with(path: Path, signature: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(signature)) == signature
    except OSError as error:
        raise InputError(f"file {path} cannot be read: {error.strerror}") from error


@contextmanager
def _as_table(path: Path) -> Iterator[None]:
    """Turn what is wrong in a text into one sentence."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        if isinstance(error, UnicodeDecodeError):
            reason = "it must be HDF5, .npy or text, and is none of these"
        raise InputError(f"file {path} cannot be read as a table of particles: {reason}") from error


def _first_lines(file: TextIO) -> tuple[str, str]:
    """Return the first comment of a text, without its mark, and the first line that is none, "" for none."""
    comment = ""
    for line in file:
        if line.strip() and not line.lstrip().startswith("#"):
            return comment, line
        comment = comment or line.strip().lstrip("#")
    return comment, ""


def _entries(line: str, delimiter: str | None) -> list[str]:
    line = line.partition("#")[0]
    parts = next(csv.reader([line]), []) if delimiter else line.split()
    return [part.strip() for part in parts]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _require_whole(path: Path, n: int, delimiter: str | None) -> None:
    """Refuse a table whose last line has no end and fewer columns: it is still being written, or was cut."""
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - _LONGEST))
        *before, last = file.read().splitlines(keepends=True) or [b""]
    found = len(_entries(last.decode(errors="replace"), delimiter))
    if before and not last.endswith((b"\n", b"\r")) and 0 < found < n:
        raise InputError(f"file {path} ends in the middle of a line, with {found} of {n} columns: it must be "
                         "whole")  # fmt: skip


def _numbers(attributes: Any, name: str) -> Array:
    """Return an attribute as an array, of one where it is one number, of none where it is none."""
    found = np.ravel(attributes.get(name, ()))
    return found.astype(float) if found.dtype.kind in "fiu" else np.empty(0)


def _type_of(name: str) -> int | None:
    """Return the type of particles that a dataset of a snapshot belongs to, as PartType1/Coordinates."""
    found = re.match(r"/?PartType(\d+)/", name)
    return int(found[1]) if found else None


def _is_without(file: h5py.File, of_type: int | None) -> bool:
    """Return whether one of the files of a snapshot says that it has none of a type of particles."""
    counts = _numbers(file["Header"].attrs if "Header" in file else {}, "NumPart_ThisFile")
    return of_type is not None and of_type < len(counts) and not counts[of_type]


def require_box(lowest: Array, highest: Array, box_size: tuple[float, ...], n: int) -> str:
    """Return a doubt about ``n`` particles that do not reach over all of their box, "" if there is none.

    Raises
    ------
    InputError
        If they reach over much more than the box, which is periodic.
    """
    for axis, side in enumerate(box_size):
        reach = float(highest[axis] - lowest[axis])
        said = f"positions reach from {lowest[axis]:.6g} to {highest[axis]:.6g} along axis {axis}"
        if reach > 1.2 * side:
            raise InputError(
                f"{said}, and the box is {side:g}: it must hold them, in the same units (--box, --scale)"
            )
        if math.isfinite(reach) and reach < (0.9 if n >= _MANY else 0.5) * side:
            part = "less than half" if reach < 0.5 * side else f"{reach / side:.3g}"
            return f"{said}, {part} of the box, {side:g}: are they in the same units (--box, --scale)?"
    return ""
