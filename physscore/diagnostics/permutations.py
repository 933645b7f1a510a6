"""Dealing the units of two sets out again: the law of a statistic if the sets do not differ."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from physscore.core import InputError
from physscore.noise import normal

_Bools = npt.NDArray[np.bool_]

_DEALS = 21  # keeps the numbers apart from those of other uses of a seed
_AT_ONCE = 1 << 22
_KEPT = 1 << 25  # bytes: several statistics of the same units are dealt alike


def deals(n: int, first: int, permutations: int, seed: int) -> Iterator[_Bools]:
    """Yield which of n units fall to the first of two sets, in blocks (some, n) of ``permutations`` rows.

    Every choice of ``first`` units is as probable as any other. The blocks are not to be changed.
    """
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 1:
        raise InputError(f"permutations is {permutations!r}: it must be a whole number of at least 1")
    if n * permutations <= _KEPT:
        yield from _kept(n, first, permutations, seed)
    else:
        yield from _blocks(n, first, permutations, seed)


@lru_cache(maxsize=2)
def _kept(n: int, first: int, permutations: int, seed: int) -> tuple[_Bools, ...]:
    return tuple(_blocks(n, first, permutations, seed))


def _blocks(n: int, first: int, permutations: int, seed: int) -> Iterator[_Bools]:
    rows = max(1, _AT_ONCE // n)
    for start in range(0, permutations, rows):
        many = min(rows, permutations - start)
        order = np.argpartition(normal(many, n, seed=seed, draw=_DEALS, first=start), first - 1, axis=1)
        chosen = np.zeros((many, n), bool)
        np.put_along_axis(chosen, order[:, :first], True, axis=1)
        chosen.setflags(write=False)
        yield chosen
