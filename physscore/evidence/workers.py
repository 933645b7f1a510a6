"""Where parts of an estimate are worked on: here, in other processes of this machine, or in those that
``mpiexec`` started."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from physscore.arrays import n_threads
from physscore.core import InputError
from physscore.evidence.job import Job, Look, Unit
from physscore.models import own_files
from physscore.processes import world
from physscore.sampling.sharing import begin_worker

Work = Callable[[Any, Look], Any]  # of a task, with what is called as it goes on


def lead(
    job: Job, units: dict[int, Unit], returning: int, workers: int, look: Look,
    save: Callable[[dict[int, Unit]], None],
) -> None:  # fmt: skip
    """Lead all islands to the target, and the first ``returning`` of them back; ``units`` grows."""
    work, steps = _Leading(job), len(job.plan.betas)
    there = [("there", first, n, None) for first, n in job.ranges() if first not in units]

    def going_back(first: int, n: int) -> list[Any]:
        seen, n_back = units[first].back, min(n, returning - first)
        missing = n_back > 0 and (seen is None or len(seen.log_z) < n_back)
        return [("back", first, n_back, units[first])] if missing else []

    tasks = there + [task for first, n in job.ranges() if first in units for task in going_back(first, n)]
    for number, found in shared_out(work, tasks, workers, look, steps):
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
        self.job = job

    def __call__(self, task: Any, look: Look) -> Any:
        way, first, islands, unit = task
        if way == "there":
            return self.job.there(first, islands, look)
        return self.job.back(first, islands, unit, look)

    def __repr__(self) -> str:
        return repr(self.job.excess.target)


def shared_out(
    work: Work, tasks: list[Any], workers: int, look: Look, steps: int
) -> Iterator[tuple[int, Any]]:
    """Yield the number of each task and what ``work`` makes of it, as it is done.

    Who gets one may add more to ``tasks``. A task is of so many ``steps``; ``repr(work)`` names what cannot
    be sent to other processes. Under ``mpiexec`` all processes call this, and all get everything, a round of
    one task each at a time.
    """
    comm, done = world(), 0
    if comm is not None:
        while done < len(tasks):
            n = min(comm.size, len(tasks) - done)
            found = work(tasks[done + comm.rank], look) if comm.rank < n else None
            yield from enumerate(comm.allgather(found)[:n], done)
            done += n
    elif workers == 1 or len(tasks) < 2:
        for number, task in enumerate(tasks):  # which may grow
            yield number, work(task, look)
    else:
        yield from _by_workers(work, tasks, workers, look, steps)


def _by_workers(
    work: Work, tasks: list[Any], workers: int, look: Look, steps: int
) -> Iterator[tuple[int, Any]]:
    try:
        sent = pickle.dumps(work)
    except Exception as error:
        raise InputError(
            f"workers is {workers}, but {work!r} cannot be sent to other processes ({error}): "
            "define it in a module, or use workers=1"
        ) from error
    threads = max(1, n_threads() // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), _receive, (sent, threads, own_files())) as pool:
        waiting: dict[Future[Any], int] = {}
        submitted = 0
        try:
            while waiting or submitted < len(tasks):
                for number in range(submitted, len(tasks)):
                    waiting[pool.submit(_one, tasks[number])] = number
                submitted = len(tasks)
                for future in wait(waiting, 0.2, FIRST_COMPLETED).done:
                    look(steps)
                    yield waiting.pop(future), future.result()
                look(0)
        except KeyboardInterrupt:  # what is running ends, and is kept
            pool.shutdown(cancel_futures=True)
            for future, number in waiting.items():
                if not future.cancelled() and future.exception() is None:
                    yield number, future.result()
            raise
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_work: Work


def _receive(sent: bytes, threads: int, own: list[Path]) -> None:
    """Begin a worker, which then knows its work."""
    global _work
    begin_worker(threads, own)
    _work = pickle.loads(sent)


def _one(task: Any) -> Any:
    return _work(task, lambda *a, **b: None)
