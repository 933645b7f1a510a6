"""Rows of datasets that wait to be written together: HDF5 takes as long for one as for many."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from physscore.core import Array

_AT_ONCE = 1 << 20  # bytes: larger rows do not wait
_EVERY = 1.0  # seconds between two times when what was written is also marked


class Rows:
    """Writes rows into datasets of an open file, and marks in /completed which are there.

    They wait until there are enough, or a second has passed. The marks follow what they stand for: a kill
    loses a second, and leaves no mark of what is not there.

    Parameters
    ----------
    file
        Open for writing.
    """

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self._datasets: dict[str, h5py.Dataset] = {}
        self._waiting: dict[str, dict[int, Array]] = {}
        self._unmarked: list[int] = []
        self._size = 0
        self._due = time.monotonic()

    def dataset(self, name: str) -> h5py.Dataset:
        """Return a dataset of the file."""
        if name not in self._datasets:
            self._datasets[name] = self.file[name]
        return self._datasets[name]

    def add(self, number: int, values: Mapping[str, Any]) -> None:
        """Take the last values of a row, by dataset; it is on the disk, and marked, soon."""
        for name, value in values.items():
            self._waiting.setdefault(name, {})[number] = row = np.array(value)
            self._size += row.nbytes
        self._unmarked.append(number)
        if self._size > _AT_ONCE:
            self.write()
        if time.monotonic() >= self._due:
            self.settle()

    def write(self) -> None:
        """Write the rows that wait."""
        for name, rows in self._waiting.items():
            dataset = self.dataset(name)
            for numbers in _runs(rows):
                if dataset.ndim == rows[numbers[0]].ndim:  # of one field, which has no rows
                    dataset[...] = rows[numbers[0]]
                else:
                    dataset[numbers[0] : numbers[-1] + 1] = np.stack([rows[number] for number in numbers])
        self._waiting.clear()
        self._size = 0

    def settle(self) -> None:
        """Write what waits, hand it to the system, and mark it."""
        self.write()
        self.file.flush()
        if self._unmarked:
            for numbers in _runs(self._unmarked):
                self.dataset("completed")[numbers[0] : numbers[-1] + 1] = 1
            self._unmarked.clear()
            self.file.flush()
            self._due = time.monotonic() + _EVERY  # the first row does not wait


def _runs(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Give the numbers in pieces that have no gap."""
    ordered = sorted(numbers)
    yield from (part.tolist() for part in np.split(ordered, np.flatnonzero(np.diff(ordered) != 1) + 1))
