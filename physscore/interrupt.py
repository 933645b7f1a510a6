"""Ctrl-C between the pieces of a job, where everything is consistent, instead of anywhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(say: Callable[[], None] = lambda: None) -> Iterator[Callable[[], None]]:
    """Let Ctrl-C end the work inside between its pieces; yield a check that is called there.

    A second Ctrl-C ends it at once. Raised anywhere, the first could be swallowed by a library that is
    just cleaning up, or leave a state half changed. ``say`` is called when the first one comes. In
    threads other than the main one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    seen = False

    def note(signal_number: int, frame: object) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True
        say()

    def check() -> None:
        if seen:
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def ignored_by_children() -> Iterator[None]:
    """Have processes that the main thread starts inside ignore Ctrl-C, from their first instruction on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
