"""Who shares chains: the processes that ``mpiexec`` started, which all run the same program, or workers that
are told what to move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from physscore.core import InputError
from physscore.kernels.team import Call, Team, sharing
from physscore.processes import world
from physscore.workers import Workers

_TOGETHER = 20.0  # seconds between two exchanges of what was done, if that was more than one call


class Ranks(Team):
    """The processes that ``mpiexec`` started."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.size = comm, comm.size

    def run(self, loop: Any, calls: list[Call]) -> list[Any]:
        """Move the chains of this process, and tell the others."""
        rank = self.comm.rank
        mine = loop.moved(*calls[rank]) if rank < len(calls) else None
        return [found for found in self.comm.allgather(mine) if found is not None]

    def each(self, work: Callable[..., Any], calls: list[Call]) -> Iterator[tuple[int, Any]]:
        """Yield, everywhere, the number of each call and what ``work(*call)`` returns.

        ``calls`` may grow meanwhile. They wait for each other every few seconds: after each call, the
        slower one would always be waited for.
        """
        done, turns = 0, 1
        while done < len(calls):
            some, begun = calls[done : done + turns * self.size], time.monotonic()
            found = self.comm.allgather([work(*call) for call in some[self.comm.rank :: self.size]])
            turns = max(1, int(_TOGETHER * len(found[0]) / max(time.monotonic() - begun, 1e-6)))
            turns = self.comm.bcast(turns)
            for i in range(len(some)):
                yield done + i, found[i % self.size][i // self.size]
            done += len(some)


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
