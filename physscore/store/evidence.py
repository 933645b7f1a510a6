"""Estimates of log Z in files, and the state from which an interrupted one goes on.

The state is small: it is written anew each time, beside the file whose place it then takes. Whenever the
job is killed, either the old state is there or the new one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from physscore.core import Array, Energy, InputError
from physscore.evidence.result import LogZ
from physscore.store.hdf5 import check_output, describe, open_hdf5, part_of, reading, require_same, whole_file

_PLACES = {"samples": "samples/x", "log_weights": "samples/log_weight"}  # others under their own names
_LABELS = {
    "islands": ("island",), "samples/log_weight": ("island", "particle"), "samples/x": ("particle",),
    "betas": ("temperature",), "rungs": ("rung",), "ess": ("temperature",), "acceptance": ("temperature",),
    "work/forward": ("island", "particle"), "work/reverse": ("island", "particle"),
}  # fmt: skip
_HEAD = 1 << 10  # bytes that say what an array is, about
_EVERY = 1.0  # seconds between two states
_SHARE = 0.1  # of the time may go into writing them
COMPARED = 16  # states by whose energies a job knows its target
_ALIKE = 1e-6  # of the largest energy: what float32 leaves
_AT_ONCE = 1 << 22  # components of the states whose energy is asked for together


class EvidenceWriter:
    """Writes an estimate to ``path``; until it is finished, its state to ``path.part``.

    Leaving it as a context writes what is still pending.

    Parameters
    ----------
    path
        Name of the file.
    seed, settings
        What makes the job: one that is resumed must have the same.
    overwrite, resume
        Replace an existing file; go on with an unfinished one.
    target, reference
        The energy, and the prior that was given, by which the job of others is refused: their names may be
        the same.

    Attributes
    ----------
    finished, started : bool
        Whether there is nothing left to do, and whether there is something to go on from.

    Raises
    ------
    InputError
        If the file exists, belongs to another job, or is being written by one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        seed: int,
        settings: dict[str, Any],
        *,
        overwrite: bool,
        resume: bool,
        target: Energy | None = None,
        reference: Energy | None = None,
    ) -> None:
        self.path = check_output(path, overwrite=overwrite, resume=resume)
        self.part = part_of(self.path)
        self.seed, self.settings, self.target = seed, settings, target
        given = {"samples/energy": target, "samples/reference_energy": reference}
        self._given = {name: energy for name, energy in given.items() if energy is not None}
        self.finished = resume and self.path.exists()
        self.started = resume and self.part.exists() and not self.finished
        self._pending: dict[str, Any] | None = None
        self._known: npt.NDArray[np.float64] | None = None
        self._next = 0.0
        self._overwrite = self._replaces_part = overwrite
        if self.finished or self.started:
            existing = self.path if self.finished else self.part
            with open_hdf5(existing) as file:
                require_same(file, existing, seed, settings)

    def result(self) -> LogZ:
        """Return what is in the finished file.

        Raises
        ------
        InputError
            If it is not whole, or its particles have other energies than the target says.
        """
        with open_hdf5(self.path) as file:
            found = _read(file, self.path)
            some = np.unique(np.linspace(0, len(found.samples) - 1, COMPARED).astype(int))
            known = {name: file[name][some] for name in self._given if name in file}
        for name, energies in known.items():
            self._require_same_energies(
                self.path, energies, _energies(self._given[name], found.samples[some])
            )
        return found

    def restore(self) -> dict[str, Any]:
        """Return the arrays and words to go on from, by name; none if there is nothing.

        Raises
        ------
        InputError
            If the file holds something else.
        """
        found: dict[str, Any] = {}
        if not self.started:
            return found

        def keep(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                words = h5py.check_string_dtype(item.dtype) is not None
                found[name] = item.asstr()[()] if words else item[...]

        with open_hdf5(self.part) as file, reading(self.part):
            if file.attrs["kind"] != "evidence":
                raise InputError(f"output {self.part} is not an unfinished estimate of log Z")
            file["state"].visititems(keep)
            self._known = file["known"][...] if "known" in file else None
        return found

    def recognise(self, states: Array) -> None:
        """Keep the energies of some states that the job can find again, and compare them with the file's.

        Raises
        ------
        InputError
            If they are others: the target is not that of the file.
        """
        if self.target is None:
            return
        energies = _energies(self.target, states)
        if self._known is not None:
            self._require_same_energies(self.part, self._known, energies)
        self._known = energies

    def write(self, state: dict[str, Any], *, force: bool = False) -> None:
        """Take the state of the job; it is on the disk soon, or at once if ``force``."""
        self._pending = state
        if force:
            self.flush()
        self.flush_if_due()

    def flush_if_due(self) -> None:
        """Write the state that is pending, if the last was written a while ago."""
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> None:
        """Write the state that is pending, if there is one."""
        if self._pending is None:
            return
        start = time.monotonic()
        self._require_own()
        with _whole(self.part, self._pending.values()) as file:
            describe(file, "evidence", self.seed, self.settings, "1")
            if self._known is not None:
                file["known"] = self._known
            for name, value in self._pending.items():
                file[f"state/{name}"] = value
        self._pending, self._replaces_part = None, False
        now = time.monotonic()
        self._next = now + max(_EVERY, (now - start) * (1 / _SHARE - 1))

    def finish(self, logz: LogZ) -> None:
        """Write the estimate under its final name; the state is no longer needed."""
        self._require_own()
        energies = {name: _energies(energy, logz.samples) for name, energy in self._given.items()}
        with _whole(self.path, [*_arrays(logz), *energies.values()]) as file:
            _write(file, logz, self.seed, self.settings)
            for name, values in energies.items():
                file[name] = values
        self._pending = None
        self.part.unlink(missing_ok=True)

    def _require_own(self) -> None:
        """Refuse to replace what another job has written meanwhile."""
        if self.path.exists() and not self._overwrite:
            check_output(self.path)
        if self.part.exists() and not self._replaces_part:
            with open_hdf5(self.part) as file:
                require_same(file, self.part, self.seed, self.settings)

    def _require_same_energies(self, path: Path, known: Array, found: Array) -> None:
        scale = float(np.abs(known[np.isfinite(known)]).max(initial=0.0))
        if not np.allclose(found, known, rtol=0.0, atol=_ALIKE * scale, equal_nan=True):
            raise InputError(
                f"output {path} belongs to another job (the energies of {self.target!r} at its states are "
                "others): resume it with the same target and reference, or use --overwrite (in Python "
                "overwrite=True)"
            )

    def __enter__(self) -> EvidenceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


def write_log_z(path: Path, logz: LogZ) -> None:
    """Write an estimate that is in memory."""
    with _whole(path, _arrays(logz)) as file:
        _write(file, logz, logz.seed, logz.settings)


def read_log_z(path: str | os.PathLike[str]) -> LogZ:
    """Return an estimate from a file.

    Raises
    ------
    InputError
        If the file is missing, truncated, foreign, newer than this version, or not finished.
    """
    with open_hdf5(Path(path)) as file:
        return _read(file, Path(path))


def unfinished(file: h5py.File) -> dict[str, Any] | None:
    """Return what an unfinished file says of its job; None for a finished one."""
    if "log_z" in file.attrs or "estimate" in file.attrs:
        return None
    settings = json.loads(file.attrs["settings"])
    return {"complete": False, "pieces": len(file.get("state/units", ())), "seed": int(file.attrs["seed"]),
            **settings}  # fmt: skip


def _arrays(logz: LogZ) -> list[Any]:
    values = [getattr(logz, field.name) for field in fields(logz)]
    return [value for value in values if isinstance(value, np.ndarray)] + list(logz.work.values())


def _write(file: h5py.File, logz: LogZ, seed: int, settings: dict[str, Any]) -> None:
    describe(file, "evidence", seed, settings, "1")
    rest: dict[str, Any] = {}
    for name in (field.name for field in fields(logz)):
        value = getattr(logz, name)
        if isinstance(value, np.ndarray):
            file[_PLACES.get(name, name)] = value
        elif name == "work":
            for leg, array in value.items():
                file[f"work/{leg}"] = array
        else:
            rest[name] = value
    file.attrs["log_z"], file.attrs["error"], file.attrs["verdict"] = logz.log_z, logz.error, logz.verdict
    file.attrs["estimate"] = json.dumps(rest, default=lambda number: number.item())
    for place, labels in _LABELS.items():
        if place in file:
            for axis, label in enumerate(labels):
                file[place].dims[axis].label = label


def _read(file: h5py.File, path: Path) -> LogZ:
    if file.attrs.get("format") != "physscore" or file.attrs.get("kind") != "evidence":
        raise InputError(f"file {path} is not a file of a physscore estimate of log Z")
    if unfinished(file) is not None:
        raise InputError(
            f"file {path} holds an unfinished estimate: the same command with --resume (in Python "
            "resume=True) ends it"
        )
    with reading(path):
        found = json.loads(file.attrs["estimate"])
        found["estimates"] = {name: tuple(pair) for name, pair in found["estimates"].items()}
        found["work"] = {leg: array[...] for leg, array in file.get("work", {}).items()}
        for name in (field.name for field in fields(LogZ)):
            if name not in found:
                found[name] = file[_PLACES.get(name, name)][...]
        return LogZ(**found)


def _energies(target: Energy, states: Array) -> npt.NDArray[np.float64]:
    """Return the energies of states, for some of them at a time."""
    pieces = np.array_split(states, -(-states.size // _AT_ONCE) or 1)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([np.asarray(target.energy(piece), np.float64) for piece in pieces])


@contextmanager
def _whole(path: Path, arrays: Iterable[Any]) -> Iterator[h5py.File]:
    """Write a file that will hold ``arrays``, among others; it appears once it is whole and on the disk."""
    need = sum(_HEAD + np.asarray(array).nbytes for array in arrays)
    with whole_file(path, need) as fresh, h5py.File(fresh, "w", locking=False) as file:
        yield file
