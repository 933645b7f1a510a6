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
    todo = [("there", first, n, None) for first, n in job.ranges() if first not in units]
    for number, unit in shared_out(work, todo, workers, look, steps):
        units[todo[number][1]] = unit
        save(units)
    tasks = []
    for first, n in job.ranges():
        n_back = min(n, returning - first)
        seen = units[first].back
        if n_back > 0 and (seen is None or len(seen.log_z) < n_back):
            tasks.append(("back", first, n_back, units[first]))
    for number, leg in shared_out(work, tasks, workers, look, steps):
        units[tasks[number][1]].back = leg
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

    A task is of so many ``steps``; ``repr(work)`` names what cannot be sent to other processes. Under
    ``mpiexec`` all processes call this, and all get everything, a round of one task each at a time.
    """
    comm = world()
    if comm is not None:
        for start in range(0, len(tasks), comm.size):
            mine = start + comm.rank
            found = (mine, work(tasks[mine], look)) if mine < len(tasks) else None
            yield from [pair for pair in comm.allgather(found) if pair is not None]
    elif workers == 1 or len(tasks) < 2:
        for number, task in enumerate(tasks):
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
        waiting: dict[Future[Any], int] = {
            pool.submit(_one, task): number for number, task in enumerate(tasks)
        }
        try:
            while waiting:
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
