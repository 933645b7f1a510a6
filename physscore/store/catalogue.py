"""Particles in files: snapshots in HDF5, NumPy arrays, tables of text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physscore.core import Array, InputError
from physscore.store.hdf5 import open_hdf5, reading

_AT_ONCE = 1 << 22  # particles
_HDF5_SIGNATURE, _NUMPY_SIGNATURE = b"\x89HDF\r\n\x1a\n", b"\x93NUMPY"


class Catalogue:
    """Particles of one file or several, as a snapshot's, read some at a time.

    Parameters
    ----------
    paths
        HDF5 files, ``.npy`` arrays (n, dim), or tables of text with a line for each particle, whose columns
        are separated by blanks or commas.
    positions
        Names of datasets of HDF5, of one (n, dim) or of one for each axis; numbers of a table's columns,
        counted from 1. [default: the first columns; of HDF5 there is none]
    weights
        Name or column of the particles' masses. [default: all are alike]
    dim
        Number of axes.

    Attributes
    ----------
    header : dict
        What /Header of HDF5 files says of the whole: ``BoxSize`` and ``Redshift``, where it does.

    Raises
    ------
    InputError
        If a file cannot be read as such.
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
        self.header: dict[str, Any] = {}
        for path in paths:
            if _begins_with(path, _HDF5_SIGNATURE):
                with open_hdf5(path) as file, reading(path):
                    if "Header" in file:
                        self.header |= {
                            k: v for k, v in file["Header"].attrs.items() if k in ("BoxSize", "Redshift")
                        }

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
            known = _datasets(file)
            if self.positions is None:
                raise InputError(
                    f"positions is missing: name the dataset of {path} (--positions): {', '.join(known)}"
                )
            names = [name.strip("/") for name in [*self.positions, *([self.weights] if self.weights else [])]]
            for name in names:
                if name not in known:
                    raise InputError(
                        f"file {path} has no dataset {name!r} of numbers: it has {', '.join(known)}"
                    )
            columns, lengths = [known[name] for name in names], {len(known[name]) for name in names}
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
        try:
            with open(path, encoding="utf-8") as file:
                lines = (line for line in file if line.strip() and not line.lstrip().startswith("#"))
                first = next(lines, "")
            if not first:
                return
            found = np.loadtxt(path, delimiter="," if "," in first else None, ndmin=2)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
            raise InputError(f"file {path} cannot be read as a table of particles: {reason}") from error
        yield from self._of_columns(found, path)

    def _of_columns(self, table: Array, path: Path) -> Iterator[tuple[Array, Array | None]]:
        if table.dtype.kind not in "fiu" or table.ndim != 2:
            raise InputError(
                f"file {path} has shape {table.shape} and type {table.dtype}: it must hold a row of numbers "
                "for each particle"
            )
        names = self.positions or [str(i + 1) for i in range(self.dim)]
        columns = []
        for name in [*names, *([self.weights] if self.weights else [])]:
            if not (name.isdecimal() and 1 <= int(name) <= table.shape[1]):
                raise InputError(
                    f"column {name!r} is not in {path}: it must be a number from 1 to {table.shape[1]}"
                )
            columns.append(int(name) - 1)
        weights = columns.pop() if self.weights else None
        for start in range(0, len(table), _AT_ONCE):
            part = table[start : start + _AT_ONCE]
            yield self._checked(part[:, columns], path), None if weights is None else part[:, weights]

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


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the arrays of numbers in a file by their names."""
    found: dict[str, h5py.Dataset] = {}

    def add(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim and item.dtype.kind in "fiu":
            found[name] = item

    file.visititems(add)
    return found


def require_box(lowest: Array, highest: Array, box_size: tuple[float, ...]) -> str:
    """Return a doubt about particles that reach over little of their box, "" if there is none.

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
        if math.isfinite(reach) and reach < 0.5 * side:
            return (
                f"{said}, less than half of the box, {side:g}: are they in the same units (--box, --scale)?"
            )
    return ""
