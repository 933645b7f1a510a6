"""Memory of arrays that loops make again and again, which the system would have to fetch anew each time."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextvars import ContextVar, Token
from functools import cache

import numpy as np
import numpy.typing as npt

from physscore.core import Array

_KEPT_ANYWAY = 31 << 20  # bytes: the C library of Linux keeps smaller blocks, and no larger ones
_NOBODY = 2  # references to a block: of a room's list, and of the question how many


@cache
def keep_freed_memory() -> None:
    """Let loops that allocate the same arrays again and again find them where they were.

    The C library of Linux returns large blocks to the system as soon as they are freed, and fetching them
    anew costs as much as an FFT; but it keeps blocks up to the size of the largest one it saw freed, if
    that is not above 32 MiB. For larger ones there are rooms.
    """
    np.empty(_KEPT_ANYWAY, np.uint8)


class Room:
    """Blocks of memory that :func:`empty` hands out anew, inside of ``with room:``, once nobody uses them."""

    def __init__(self) -> None:
        self._blocks: list[npt.NDArray[np.uint8]] = []
        self._tokens: list[Token[Room | None]] = []

    def __enter__(self) -> None:
        self._tokens.append(_room.set(self))

    def __exit__(self, *error: object) -> None:
        _room.reset(self._tokens.pop())

    def block(self, size: int) -> npt.NDArray[np.uint8]:
        """Return so many bytes that no other array has a part in."""
        for i in range(len(self._blocks)):
            if self._blocks[i].size == size and sys.getrefcount(self._blocks[i]) == _NOBODY:
                return self._blocks[i]
        self._blocks.append(np.empty(size, np.uint8))
        return self._blocks[-1]


_room: ContextVar[Room | None] = ContextVar("physscore_room", default=None)


def empty(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Return an array that is not filled yet, as ``numpy.empty`` does; in a room, if it is large."""
    room, kind = _room.get(), np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    if room is None or size <= _KEPT_ANYWAY:
        return np.empty(shape, kind)
    return room.block(size).view(kind).reshape(shape)
