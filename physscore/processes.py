"""The processes that ``mpiexec`` started: who they are, and how they do and fail together."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from physscore.arrays import n_threads
from physscore.core import InputError

_T = TypeVar("_T")
# How the launchers of MPICH, Open MPI and PMIx, and with them those of Slurm, tell a process of others.
_LAUNCHED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK")
_PATIENCE = 5.0  # seconds in which others may fail alike
_failures: Any = None
_place = 0


@cache
def world() -> Any:
    """Return the communicator of all processes that ``mpiexec`` started; None where there are no others.

    Raises
    ------
    InputError
        If there are others, but no mpi4py to speak with them.
    """
    found = [os.environ[name] for name in _LAUNCHED if name in os.environ]
    if not found or found == ["1"]:
        return None
    try:
        from mpi4py import MPI
    except ImportError:
        raise InputError(
            'a job of several processes needs MPI: pip install "physscore[mpi]", or start it without mpiexec'
        ) from None
    comm = MPI.COMM_WORLD
    if comm.size == 1:
        return None
    global _failures, _place
    _failures = comm.Dup()
    here = comm.Split_type(MPI.COMM_TYPE_SHARED)
    _place = here.rank
    os.environ.setdefault("PHYSSCORE_THREADS", str(max(1, n_threads() // here.size)))
    here.Free()
    return comm


def place_here() -> int:
    """Return which this process is, of those that ``mpiexec`` started on this machine."""
    world()
    return _place


def on_root(comm: Any, work: Callable[[], _T]) -> _T:
    """Return on every process what ``work`` returns on the first, or raise what it raises there."""
    if comm is None:
        return work()
    found: tuple[bool, Any] = (True, None)
    if comm.rank == 0:
        try:
            found = (True, work())
        except Exception as error:
            found = (False, error)
    done, value = comm.bcast(found)
    if not done:
        raise value
    return value  # type: ignore[no-any-return]


def _all_fail() -> bool:
    """Return whether all processes come here within a while."""
    request, deadline = _failures.Ibarrier(), time.monotonic() + _PATIENCE
    while not (together := request.Test()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(together)


def leave(say: Callable[[], None], code: int) -> None:
    """End this process after an error: where all have failed alike the first tells of it, else each that
    failed, which ends the others."""
    comm = world()
    together = comm is None or _all_fail()
    if comm is None or comm.rank == 0 or not together:
        say()
    if not together:
        comm.Abort(code)
    sys.exit(code)


@contextmanager
def ending_together(comm: Any) -> Iterator[None]:
    """Where one process fails alone, tell why and end the others, which would wait for it."""
    try:
        yield
    except BaseException as error:
        if comm is None or _all_fail():
            raise
        if isinstance(error, InputError):
            print(f"Error: {error}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        comm.Abort(2)
