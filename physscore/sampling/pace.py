"""Many steps in pieces of about a fifth of a second, between which Ctrl-C, the file and the progress bar are
looked at."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from physscore.processes import on_root

_SECONDS = 0.2  # of a piece


class Pace:
    """How many steps are made at once: one to begin with, as nothing is known of what it costs.

    Parameters
    ----------
    look
        Called after each piece with the number of its steps; it may raise.
    comm
        The processes that move the chains together, by the clock of the first; None for one.
    """

    def __init__(self, look: Callable[[int], object] = lambda n: None, comm: Any = None) -> None:
        self.look, self._comm, self._size = look, comm, 1

    def pieces(self, first: int, end: int, thin: int = 1, most: int = 1 << 62) -> Iterator[tuple[int, int]]:
        """Cut steps ``first`` to ``end``; a piece is of whole draws, each of ``thin`` steps and ``most`` of
        them, or lies within one."""
        while first < end:
            size = min(on_root(self._comm, lambda: self._size), most * thin, end - first)
            within = first % thin
            n = min(size, thin - within) if within or size < thin else size - size % thin
            start = time.perf_counter()
            yield first, first + n
            seconds = time.perf_counter() - start
            if seconds < _SECONDS / 2:
                self._size = max(self._size, 4 * n)
            elif seconds > 2 * _SECONDS:
                self._size = max(1, int(n * _SECONDS / seconds))
            self.look(n)
            first += n
