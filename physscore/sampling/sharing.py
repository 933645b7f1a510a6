"""Who shares chains: the processes that ``mpiexec`` started, which all run the same program, or workers that
are told what to move."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from physscore.arrays import n_threads
from physscore.core import InputError
from physscore.kernels.team import Call, Team, sharing
from physscore.models import load_file, own_files
from physscore.processes import world


class Ranks(Team):
    """The processes that ``mpiexec`` started."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.size = comm, comm.size

    def run(self, loop: Any, calls: list[Call]) -> list[Any]:
        """Move the chains of this process, and tell the others."""
        rank = self.comm.rank
        mine = loop.moved(*calls[rank]) if rank < len(calls) else None
        return [found for found in self.comm.allgather(mine) if found is not None]


class Workers(Team):
    """Processes that are started for it, and know a loop by the file it was pickled into."""

    def __init__(self, pool: ProcessPoolExecutor, size: int, folder: Path) -> None:
        self.pool, self.size, self.folder = pool, size, folder
        self._numbers = count()
        self._known: dict[int, tuple[Any, Path]] = {}

    def run(self, loop: Any, calls: list[Call]) -> list[Any]:
        """Have the workers move the chains."""
        if id(loop) not in self._known:
            path = self.folder / str(next(self._numbers))
            try:
                path.write_bytes(pickle.dumps(loop))
            except Exception as error:
                raise InputError(
                    f"workers is {self.size}, but {loop.target!r} cannot be sent to other processes "
                    f"({error}): define it in a module, or use workers=1"
                ) from error
            self._known[id(loop)] = (loop, path)
        path = self._known[id(loop)][1]
        return list(self.pool.map(_moved, [path] * len(calls), calls))


@contextmanager
def team_of(workers: int = 1) -> Iterator[Team | None]:
    """Give who works together inside this block: the processes of ``mpiexec``, or as many workers, if any."""
    comm = world()
    if comm is not None and workers > 1:
        raise InputError(
            f"workers is {workers}, but mpiexec started {comm.size} processes, which take their place"
        )
    if comm is not None:
        yield Ranks(comm)
    elif workers > 1:
        threads = max(1, n_threads() // workers)
        with (
            TemporaryDirectory() as folder,
            ProcessPoolExecutor(workers, get_context("spawn"), begin_worker, (threads, own_files())) as pool,
        ):
            yield Workers(pool, workers, Path(folder))
    else:
        yield None


@contextmanager
def shared(workers: int = 1) -> Iterator[None]:
    """Have them share the chains that are moved inside this block."""
    with team_of(workers) as who, sharing(who):
        yield


def begin_worker(threads: int, own: list[Path]) -> None:
    """Begin a worker: it has its threads and the user's files, and Ctrl-C is its parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["PHYSSCORE_THREADS"] = str(threads)
    for path in own:
        load_file(path)


@lru_cache(maxsize=64)
def _loop(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


def _moved(path: Path, call: Call) -> Any:
    return _loop(path).moved(*call)
