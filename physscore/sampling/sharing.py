"""Who shares chains: the processes that ``mpiexec`` started, which all run the same program, or workers that
are told what to move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from physscore.core import InputError
from physscore.kernels.team import Call, Team, sharing
from physscore.processes import world
from physscore.workers import Workers


class Ranks(Team):
    """The processes that ``mpiexec`` started."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.size = comm, comm.size

    def run(self, loop: Any, calls: list[Call]) -> list[Any]:
        """Move the chains of this process, and tell the others."""
        rank = self.comm.rank
        mine = loop.moved(*calls[rank]) if rank < len(calls) else None
        return [found for found in self.comm.allgather(mine) if found is not None]


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
        with Workers(workers) as who:
            yield who
    else:
        yield None


@contextmanager
def shared(workers: int = 1) -> Iterator[None]:
    """Have them share the chains that are moved inside this block."""
    with team_of(workers) as who, sharing(who):
        yield
