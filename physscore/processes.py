"""The processes that ``mpiexec`` started: who they are, and how they do and fail together."""

from __future__ import annotations

import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar

from physscore.arrays import n_threads
from physscore.core import InputError

_T = TypeVar("_T")
# How the launchers of MPICH, Open MPI and PMIx, and with them those of Slurm, tell a process of others.
_LAUNCHED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK")
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_PATIENCE = 5.0  # seconds in which others may fail alike
_failures: Any = None
_place = 0


@contextmanager
def alone() -> Iterator[None]:
    """Have each process that ``mpiexec`` started do what is inside this block by itself.

    Elsewhere all of them share every estimate and every run of chains, and must ask for the same.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def world() -> Any:
    """Return the communicator of all processes that ``mpiexec`` started; None where there are no others, or
    this one is :func:`alone`.

    Raises
    ------
    InputError
        If there are others, but no mpi4py to speak with them, or one of another MPI.
    """
    return None if _alone.get() else _world()


@cache
def _world() -> Any:
    found = [os.environ[name] for name in _LAUNCHED if name in os.environ]
    if not found or found == ["1"] or (found == ["0"] and os.environ.get("SLURM_STEP_NUM_TASKS") == "1"):
        return None
    # Those of MPICH that wait would else poll without a pause, and take the processors from those that work.
    os.environ.setdefault("MPIR_CVAR_CH4_PROGRESS_THROTTLE", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of another MPI, which is said below
            from mpi4py import MPI
            from mpi4py.util import pkl5
            from threadpoolctl import threadpool_limits
    except ImportError:
        raise InputError(
            "a job of several processes needs mpi4py and threadpoolctl: "
            'pip install "physscore[mpi]", or start it without mpiexec'
        ) from None
    comm = pkl5.Intracomm(MPI.COMM_WORLD)  # whose messages may be of more than 2 GiB, with any MPI
    claimed = max(int(os.environ.get(name, 1)) for name in _LAUNCHED[:2])
    if comm.size == 1 and claimed > 1:
        raise InputError(
            f"{claimed} processes were started, but mpi4py, of {MPI.get_vendor()[0]}, sees one: build it "
            "with the MPI whose mpiexec starts them"
        )
    if comm.size == 1:
        return None
    global _failures, _place
    _failures = comm.Dup()
    here = comm.Split_type(MPI.COMM_TYPE_SHARED)
    _place = here.rank
    # Processes that are bound to processors of their own do not share these.
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    sharing = sum(1 for other in here.allgather(mine) if other & mine)
    os.environ.setdefault("PHYSSCORE_THREADS", str(max(1, n_threads() // sharing)))
    if "OMP_NUM_THREADS" not in os.environ:  # what BLAS and torch take in energies of the user's own
        os.environ["OMP_NUM_THREADS"] = str(n_threads())
        threadpool_limits(n_threads())
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
        except (Exception, KeyboardInterrupt) as error:
            found = (False, error)
    done, value = comm.bcast(found)
    if not done:
        raise value
    return value  # type: ignore[no-any-return]


def without_addresses(said: str) -> str:
    """Return the text of objects without where they are in the memory of this process."""
    return re.sub(r" at 0x\w+", "", said)


def require_same_everywhere(comm: Any, what: Any) -> None:
    """Refuse processes that share a work and ask for different ones."""
    said = without_addresses(repr(what))
    if comm is not None and len(set(comm.allgather(said))) > 1:
        raise InputError(
            f"{comm.size} processes ask for different things, here for {said}: those of mpiexec share one "
            "work; for one of its own, a process asks inside of: with physscore.processes.alone()"
        )


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
