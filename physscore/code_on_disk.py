"""Compiled loops on disk, safe among processes that compile at once.

Numba lists in one file what it has compiled of a function, in others under running numbers the code. Two
processes that compile it at once, for other arrays, may take the same number: one would run the other's code.
Here each has a file of its own, which says what it is.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import IndexDataCacheFile, NullCache


class OneFileEach(IndexDataCacheFile):
    """What Numba's ``Cache`` keeps its code in; a ``key`` says for what types and what processor it is."""

    def _path(self, key: Any) -> str:
        return str(self._data_path(self._data_name(_number_of(key))))  # type: ignore[no-untyped-call]

    def save(self, key: Any, data: Any) -> None:
        """Write a file, whole or not at all."""
        with self._open_for_write(self._path(key)) as file:
            pickle.dump((numba.__version__, self._source_stamp), file)
            file.write(self._dump((key, data)))  # type: ignore[no-untyped-call]

    def load(self, key: Any) -> Any:
        """Return what was saved, None if nothing was, or by another version."""
        try:
            with open(self._path(key), "rb") as file:
                if pickle.load(file) != (numba.__version__, self._source_stamp):
                    return None
                found, data = pickle.load(file)
        except OSError:
            return None
        return data if found == key else None


def _number_of(key: Any) -> int:
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16)


def keep_on_disk(function: Any) -> None:
    """Have Numba keep what it compiles, where there is a folder for it, until the package changes."""
    try:
        function.enable_caching()
        # Numba would look at the function's own file only; what it calls may stand in another one.
        kept = function._cache
        place = kept._cache_path, kept._impl.filename_base
        kept._cache_file = OneFileEach(*place, _source_stamp())  # type: ignore[no-untyped-call]
        kept.save_overload = _where_it_can(kept.save_overload)
    except (RuntimeError, AttributeError):  # no folder to keep it in, or another Numba
        function._cache = NullCache()


def _where_it_can(save: Callable[..., None]) -> Callable[..., None]:
    """Do without where the disk is full or the folder shut: what is compiled works all the same."""

    def saved(*args: Any) -> None:
        with suppress(OSError):
            save(*args)

    return saved


@cache
def _source_stamp() -> tuple[float, int]:
    """Return what changes when any file of the package does."""
    found = [path.stat() for path in Path(__file__).parent.rglob("*.py")]
    return max(file.st_mtime for file in found), sum(file.st_size for file in found)
