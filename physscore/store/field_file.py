"""Reading files of density fields, field by field or in parts, so that they may be larger than memory."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from physscore.core import Array, InputError
from physscore.diagnostics.comparison import Verdict, pool
from physscore.diagnostics.many_fields import FieldSequence
from physscore.diagnostics.power import PowerSpectrum
from physscore.grid import Grid
from physscore.store.fields import CHECKS
from physscore.store.hdf5 import FORMAT, names_of_numbers, open_hdf5, reading, require_same
from physscore.store.spectra import read_spectrum

_PIECE = 1 << 26  # bytes of a field that are read at a time
_FEW = 6  # names in a sentence


@dataclass(frozen=True)
class FieldView:
    """A field in an open file, of which parts are read by index: as x / mean - 1 where there is a mean."""

    dataset: Any
    place: tuple[int, ...]
    mean: float | None = None

    def __getitem__(self, key: Any) -> Array:
        part = np.asarray(self.dataset[(*self.place, *(key if isinstance(key, tuple) else (key,)))])
        if self.mean is None:
            return part
        return np.asarray(part.astype(np.result_type(part, np.float32), copy=False) / self.mean - 1)


class FieldFile:
    """A file of fields, open for reading field by field, so that it may be larger than memory.

    Parameters
    ----------
    path
        The file: ours, or any HDF5 file if the two others are given. Of a run of fields the draws are taken,
        in their order: in each draw one of every chain.
    dataset
        Path of the dataset of fields inside a file that is not ours.
    box_size
        Its side length, or one for each dimension.
    contrast
        Whether the fields are densities or counts, of which :meth:`read` and :meth:`view` give x / mean - 1.
    batched
        Whether the first dimension of such a dataset counts fields. [default: as the lengths say]

    Attributes
    ----------
    delta
        The h5py dataset, such as (x, y, z) or (realization, x, y, z).
    grid, length_unit, redshift, seed, settings
        As in :class:`Fields`.
    completed
        Numbers of the fields that are there: all of them, except in a ``.part`` file.
    chains
        Number of chains of a run; None for fields.

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
        batched: bool | None = None,
        contrast: bool = False,
    ) -> None:
        self.path, self.contrast = Path(path), contrast
        self.chains: int | None = None
        self.file = open_hdf5(self.path)
        try:
            if dataset is None:
                with reading(self.path):
                    self._read_ours()
                if box_size is not None:
                    raise InputError(
                        f"box_size is {box_size}: {self.path} says its own; --box is for a --dataset in a "
                        "file that is not ours"
                    )
            else:
                self._read_foreign(dataset, box_size, batched)
        except BaseException:
            self.file.close()
            raise

    def _read_ours(self) -> None:
        file = self.file
        if file.attrs.get("format") == FORMAT and file.attrs.get("kind") == "run":
            self._read_run()
            return
        if file.attrs.get("format") != FORMAT or file.attrs.get("kind") != "fields":
            known = [] if file.attrs.get("format") == FORMAT else _names_of_arrays(file)
            raise InputError(
                f"file {self.path} is not a file of physscore fields: name one of its datasets with --dataset"
                f"{': ' if known else ''}{', '.join(known)}, and the side of its box with --box"
            )
        header = file["Header"].attrs
        self.delta = file[str(file.attrs.get("dataset", "fields/delta"))]
        if not isinstance(self.delta, h5py.Dataset):
            raise TypeError(f"{self.delta.name} is no dataset")
        self.grid = Grid([int(n) for n in header["Shape"]], [float(side) for side in header["BoxSize"]])
        self.length_unit = str(file["Units"].attrs["length"])
        self.redshift = float(header["Redshift"]) if "Redshift" in header else None
        self.seed = int(file.attrs["seed"]) if "seed" in file.attrs else None
        self.settings: dict[str, Any] = dict(json.loads(file.attrs["settings"]))
        if self.delta.shape[self.delta.ndim - self.grid.dim :] != self.grid.shape:
            raise ValueError(f"its fields have shape {self.delta.shape}, and its grid {self.grid.shape}")
        self.completed = [int(i) for i in np.flatnonzero(file["completed"][:])]

    def _read_run(self) -> None:
        from physscore.store.runs import done_of

        file, about = self.file, json.loads(self.file.attrs["run"])
        if about["grid"] is None:
            raise InputError(f"file {self.path} is of a run whose states are no fields: they have no box")
        self.delta, self.grid = file["samples/x"], Grid(about["grid"]["shape"], about["grid"]["box_size"])
        self.length_unit, self.redshift, self.seed = "length", None, int(about["seed"])
        self.chains = int(self.delta.shape[1])
        self.settings = {"chains": self.chains}
        self.completed = list(range(done_of(file)[0] * self.chains))

    def _read_foreign(self, dataset: str, box_size: Sequence[float] | None, batched: bool | None) -> None:
        found = self.file.get(dataset)
        if not isinstance(found, h5py.Dataset):
            raise InputError(f"file {self.path} has no dataset {dataset!r}: name one of its datasets")
        if found.dtype.kind not in "fiub":
            raise InputError(
                f"dataset {dataset!r} in {self.path} has the type {found.dtype}: it must hold real numbers"
            )
        if box_size is None:
            raise InputError(
                f"box_size is missing: the box of {dataset!r} in {self.path} is not known (--box)"
            )
        dim = len(box_size) if len(box_size) > 1 else min(found.ndim, 3)
        if batched is not None and len(box_size) == 1:
            dim = found.ndim - batched
        elif len(box_size) == 1 and found.ndim in (2, 3) and len(set(found.shape)) > 1:
            raise InputError(
                f"dataset {dataset!r} has shape {found.shape}, which may be one field or "
                f"{found.shape[0]} of one dimension less: give the box a length for each dimension"
            )
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

    @property
    def number(self) -> int:
        """How many fields the file has room for."""
        return math.prod(self.delta.shape[: self.delta.ndim - self.grid.dim])

    def _place(self, i: int) -> tuple[int, ...]:
        if self.chains is not None:
            return divmod(i, self.chains)
        return (i,) if self.batched else ()

    def read(self, i: int = 0) -> Array:
        """Return field ``i``, of shape ``grid.shape``."""
        return self.view(i)[...]

    def is_density(self, i: int = 0) -> bool:
        """Return whether no value of field ``i`` is negative, and some are positive, as in no contrast."""
        positive = any(part.max() > 0 for part in self._planes(i))
        return positive and all(part.min() >= 0 for part in self._planes(i))

    def _planes(self, i: int) -> Iterator[Array]:
        """Give field ``i``, which may be larger than memory, in pieces."""
        view = FieldView(self.delta, self._place(i))
        n, size = self.grid.shape[0], self.delta.dtype.itemsize * self.grid.n_cells
        step = max(1, _PIECE * n // max(size, 1))
        yield from (view[start : start + step] for start in range(0, n, step))

    def _mean(self, i: int) -> float:
        total = 0.0
        for part in self._planes(i):
            if part.min() < 0:
                raise InputError(
                    f"field {i} in {self.path} has the value {part.min():.4g}: contrast (--contrast) is for "
                    "densities and counts, which are not negative"
                )
            total += float(part.sum(dtype=np.float64))
        if not 0 < total < math.inf:
            raise InputError(f"field {i} in {self.path} has the sum {total:g}: a contrast needs one above 0")
        return total / self.grid.n_cells

    def finished(self) -> Array:
        """Return the fields that are there, with a warning if these are not all.

        Raises
        ------
        InputError
            If there are none.
        """
        if not self.completed:
            raise InputError(f"file {self.path} holds no finished field yet")
        if len(self.completed) < self.number:
            warnings.warn(
                f"file {self.path} is unfinished: it has {len(self.completed)} of {self.number} fields",
                stacklevel=3,
            )
        if self.chains is not None:
            draws = self.delta[: len(self.completed) // self.chains]
            return np.asarray(draws).reshape(-1, *self.grid.shape)
        whole = len(self.completed) == self.number
        return np.asarray(self.delta[...] if whole else self.delta[self.completed])

    def view(self, i: int = 0) -> FieldView:
        """Return field ``i``, of which parts are read when they are asked for."""
        return FieldView(self.delta, self._place(i), self._mean(i) if self.contrast else None)

    def independent(self) -> FieldSequence:
        """Return the completed fields to be read one at a time, without the second ones of pairs,
        which are not independent of the first; of a run the last draw of each chain."""
        paired = self.settings.get("paired", False)
        chosen = [i for i in self.completed if not (paired and i % 2)][-(self.chains or 0) :]
        return FieldSequence(self.read, chosen, self.grid.dim + 1)

    def require(self, *, seed: int, settings: dict[str, Any]) -> None:
        """Refuse a file that was made with another seed or other settings."""
        require_same(self.file, self.path, seed, settings)

    def verdict(self) -> Verdict | None:
        """Return how the completed fields agreed with their spectrum, if that was kept."""
        if "checks" not in self.file or not self.completed:
            return None
        kept = self.independent().indices
        with reading(self.path):
            return pool(*(self.file[f"checks/{name}"][:][kept] for name in CHECKS))

    def summary(self) -> dict[str, Any]:
        """Return what the file holds, ready for JSON."""
        return {
            "file": str(self.path),
            "kind": "fields",
            "fields": self.number,
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
        with reading(self.path):
            return read_spectrum(self.file) if "spectra" in self.file else None

    def __enter__(self) -> FieldFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _names_of_arrays(file: h5py.File) -> list[str]:
    """Return the names of what may be fields in a file, the first few."""
    names = names_of_numbers(file, "fiub")
    return names if len(names) <= _FEW else [*names[:_FEW], "..."]
