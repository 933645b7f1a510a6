"""Where parts of an estimate are worked on: here, in other processes of this machine, or in those that
``mpiexec`` started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from physscore.evidence.job import Job, Look, Unit, quiet
from physscore.kernels.team import Team
from physscore.sampling.sharing import Ranks
from physscore.workers import Workers

Task = tuple[Any, ...]


class Work(Protocol):
    """What is done to each of some tasks."""

    @property
    def target(self) -> Any:
        """What is named if this cannot be sent to other processes."""

    def __call__(self, *task: Any, look: Look = quiet) -> Any:
        """Return what there is of a task; ``look`` is called as it goes on."""


def lead(
    job: Job, units: dict[int, Unit], returning: int, team: Team | None, look: Look,
    save: Callable[[dict[int, Unit]], None],
) -> None:  # fmt: skip
    """Lead all islands to the target, and the first ``returning`` of them back; ``units`` grows."""
    work, steps = _Leading(job), len(job.plan.betas)
    there: list[Task] = [("there", first, n, None) for first, n in job.ranges() if first not in units]

    def going_back(first: int, n: int) -> list[Task]:
        seen, n_back = units[first].back, min(n, returning - first)
        missing = n_back > 0 and (seen is None or len(seen.log_z) < n_back)
        return [("back", first, n_back, units[first])] if missing else []

    tasks = there + [task for first, n in job.ranges() if first in units for task in going_back(first, n)]
    for number, found in shared_out(work, tasks, team, look, steps):
        way, first, n, _ = tasks[number]
        if way == "there":
            units[first] = found
            tasks += going_back(first, n)
        else:
            units[first].back = found
        save(units)


class _Leading:
    """What is done to a unit of a job."""

    def __init__(self, job: Job) -> None:
        self.job, self.target = job, job.excess.target

    def __call__(self, *task: Any, look: Look = quiet) -> Any:
        way, first, islands, unit = task
        if way == "there":
            return self.job.there(first, islands, look)
        return self.job.back(first, islands, unit, look)


def shared_out(
    work: Work, tasks: list[Task], team: Team | None, look: Look, steps: int
) -> Iterator[tuple[int, Any]]:
    """Yield the number of each task and what ``work`` makes of it, as it is done.

    Who gets one may add more to ``tasks``, each of so many ``steps``. Under ``mpiexec`` all processes call
    this, and all get everything.
    """
    here = partial(work, look=look)
    if isinstance(team, Ranks):
        yield from team.each(here, tasks)
    elif isinstance(team, Workers) and len(tasks) > 1:
        yield from team.each(work, "__call__", tasks, lambda done: look(steps * done))
    else:  # one task has all threads here
        for number, task in enumerate(tasks):  # which may grow
            yield number, here(*task)
