"""Workers: processes of this machine that are started to do what they are told.

Each has a pipe of its own. Those of a pool of the standard library share one, and if one of them is killed
while it writes, the others and the pool wait for ever.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from physscore.arrays import n_threads
from physscore.core import InputError
from physscore.interrupt import ignored_by_children
from physscore.kernels.team import Call, Team
from physscore.models import load_file, own_files

_LOOK = 0.2  # seconds between looks
_LAST = 5.0  # seconds until a worker whose pipe is closed has ended
_REMEMBERED = 64  # things that workers know
_UNGUARDED = 93  # exit code of a worker that would start workers as it reads its program


class Workers(Team):
    """Worker processes; use them as a context manager.

    Parameters
    ----------
    size
        How many: up to four for each processor, and 16 anywhere.

    Raises
    ------
    InputError
        If there are more, which would only fill the memory, or they cannot be started where this is.
    """

    def __init__(self, size: int) -> None:
        most = max(16, 4 * (os.cpu_count() or 1))
        if size > most:
            raise InputError(
                f"workers is {size}: it must be at most {most} on a machine of {os.cpu_count()} processors"
            )
        if getattr(current_process(), "_inheriting", False):  # a worker, which reads the program it is of
            sys.exit(_UNGUARDED)
        if current_process().daemon:
            raise InputError(
                f"workers is {size}, in a process of a multiprocessing.Pool, which may start no others: use "
                "workers=1"
            )
        if (program := _unreadable_program()) is not None:
            raise InputError(
                f"workers is {size}, but they cannot read the program {program}: put it into a file, or use "
                "workers=1"
            )
        self.size = size
        context = get_context("spawn")
        self._processes, self._links = [], []
        self._told: dict[Connection, set[int]] = {}
        self._things: dict[int, tuple[Any, bytes]] = {}
        for _ in range(size):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, own_files()))
            with ignored_by_children(), _threads_of_children(max(1, n_threads() // size)):
                process.start()
            there.close()
            self._processes.append(process)
            self._links.append(here)
            self._told[here] = set()

    def run(self, loop: Any, calls: list[Call]) -> list[Any]:
        """Return what ``loop.moved(*call)`` returns for each call."""
        found = dict(self.each(loop, "moved", calls))
        return [found[i] for i in range(len(calls))]

    def each(
        self, thing: Any, method: str, calls: list[Call], look: Callable[[int], None] = lambda done: None
    ) -> Iterator[tuple[int, Any]]:
        """Yield the number of each call and what the method returns, as it is done.

        ``calls`` may grow meanwhile; ``look`` is told now and then how many were done since. If it raises
        KeyboardInterrupt, what has begun is waited for.

        Raises
        ------
        InputError
            If ``thing``, whose target it names, cannot be sent to other processes, or one of them has ended.
        """
        key, data = id(thing), self._pickled(thing)
        idle, busy, begun = list(self._links), dict[Connection, int](), 0
        while busy or begun < len(calls):
            while idle and begun < len(calls):
                link = idle.pop()
                known = self._told[link]
                old = known - self._things.keys()
                self._send(link, (old, key, None if key in known else data, method, calls[begun]))
                self._told[link] = (known - old) | {key}
                busy[link] = begun
                begun += 1
            done = wait(list(busy), _LOOK)
            for ready in done:
                assert isinstance(ready, Connection)
                idle.append(ready)
                yield busy.pop(ready), self._received(ready)
            try:
                look(len(done))
            except KeyboardInterrupt:
                for link, number in busy.items():
                    yield number, self._received(link)
                raise

    def _pickled(self, thing: Any) -> bytes:
        if id(thing) not in self._things:
            self._things[id(thing)] = (thing, portable(thing, thing.target, self.size))
            if len(self._things) > _REMEMBERED:
                del self._things[next(iter(self._things))]
        return self._things[id(thing)][1]

    def _send(self, link: Connection, message: Any) -> None:
        try:
            _put(link, message)
        except OSError:
            raise self._ended(link) from None

    def _received(self, link: Connection) -> Any:
        try:
            done, found = _got(link)
        except (EOFError, OSError):
            raise self._ended(link) from None
        if not done:
            raise found
        return found

    def _ended(self, link: Connection) -> InputError:
        process = self._processes[self._links.index(link)]
        process.join(_LAST)
        if process.exitcode == _UNGUARDED:
            return InputError(
                f"workers is {self.size}, and the program starts them wherever it is read, as they do: "
                'put the call under if __name__ == "__main__":'
            )
        return InputError(
            "a worker has ended before its work, killed perhaps for want of memory: what was finished is kept"
        )

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for link, process in zip(self._links, self._processes, strict=True):
            link.close()
            process.terminate()  # it has nothing to lose, and may not even have begun
            process.join()


def _unreadable_program() -> str | None:
    """Return the name of the program, which workers read as they start, if it is no file, as of one that came
    through a pipe."""
    main = sys.modules["__main__"]
    program = getattr(main, "__file__", None)
    if program is None or getattr(main, "__spec__", None) is not None or os.path.exists(program):
        return None
    return str(program)


def portable(thing: Any, target: Any, workers: int) -> bytes:
    """Return a thing as it is sent to other processes.

    Raises
    ------
    InputError
        If its ``target`` cannot be.
    """
    try:
        return pickle.dumps(thing)
    except Exception as error:
        raise InputError(
            f"workers is {workers}, but {target!r} cannot be sent to other processes ({error}): define it "
            "in a module, or use workers=1"
        ) from error


def _understood(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:  # what stands in a notebook, or in python -c
        raise InputError(
            f"workers cannot find what they are sent ({error}): define it in a module, or use workers=1"
        ) from error


def _put(link: Connection, message: Any) -> None:
    """Send a message; the data of its arrays come after it, as they lie in memory."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw() for buffer in buffers]
    link.send((data, [part.nbytes for part in raw]))
    for part in raw:
        link.send_bytes(part)


def _got(link: Connection) -> Any:
    data, sizes = link.recv()
    raw = [np.empty(size, np.uint8) for size in sizes]
    for part in raw:
        link.recv_bytes_into(part)
    return pickle.loads(data, buffers=raw)


@contextmanager
def _threads_of_children(n: int) -> Iterator[None]:
    """Have processes started inside use ``n`` threads, of ours and of BLAS, which asks as it is loaded."""
    before = {name: os.environ.get(name) for name in ("PHYSSCORE_THREADS", "OMP_NUM_THREADS")}
    os.environ["PHYSSCORE_THREADS"] = str(n)
    os.environ.setdefault("OMP_NUM_THREADS", str(n))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(link: Connection, own: list[Path]) -> None:
    """Do what comes through the pipe, until it is closed; Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for path in own:
        load_file(path)
    things: dict[int, Any] = {}
    with suppress(EOFError, OSError):
        while True:
            old, key, data, method, call = _got(link)
            for forgotten in old:
                del things[forgotten]
            try:
                if data is not None:
                    things[key] = _understood(data)
                answer = True, getattr(things[key], method)(*call)
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = False, error
            try:
                _put(link, answer)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                _put(link, (False, InputError(f"an answer cannot be sent between processes: {error}")))
