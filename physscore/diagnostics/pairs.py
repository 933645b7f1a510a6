"""Fields that are not independent: those of opposite phase to another one, and copies.

Some cells tell: those of the second field of a pair are minus those of the first, but for a constant, or the
logarithms of lognormal fields are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import device_of, namespace, on_gpu, to_host

_Floats = npt.NDArray[np.float64]
_Bools = npt.NDArray[np.bool_]

_CELLS = 1024  # of a field that are looked at
_FEWEST = 8  # values among them that must go together, for it to be no chance
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples fall evenly on every axis
# Without regard to their type, fields may have been float32 once, unless they vary by less.
_SINGLE, _DOUBLE = (float(np.finfo(dtype).eps) for dtype in (np.float32, np.float64))
_NEAR, _TELLING = 1e-4, 1e-2  # of the standard deviation


def some_cells(field: Any) -> _Floats:
    """Return cells of a field, at most 1024, that are spread over all of it."""
    field = field if on_gpu(field) else np.asarray(field)
    if field.size <= _CELLS:
        return np.array(to_host(field), np.float64).ravel()  # apart: the field may be of a buffer
    places = (np.arange(_CELLS) * _GOLDEN % 1 * field.size).astype(np.int64)
    xp = namespace(device_of(field))
    of_axes = tuple(xp.asarray(axis) for axis in np.unravel_index(places, field.shape))
    return np.asarray(to_host(field[of_axes]), np.float64)


def opposite(a: _Floats, b: _Floats) -> _Bools:
    """Return whether cells, in rows, are of a pair of opposite phase, Gaussian or lognormal, as delta or
    1 + delta."""
    return _constant(a, [b], _roundings(a, b)) | _opposite_logarithms(a, b)


def repeats(a: _Floats, b: _Floats) -> _Bools:
    """Return whether cells, in rows, are of a field that tells nothing new beside the other: the same, to
    rounding and a constant, or opposite."""
    return _constant(a, [-b, b], _roundings(a, b)) | _opposite_logarithms(a, b)


def repeat_the_last(cells: list[_Floats], before: list[_Floats]) -> _Bools:
    """Return which of n fields, or of pairs of them, tell nothing new beside the one before.

    Parameters
    ----------
    cells
        Some of each field, (n, cells), for each member of a pair; none of what they cannot be had of.
    before
        Those of the field before, (1, cells); no arrays if there is none.
    """
    if not all(some.size for some in cells):
        return np.zeros(len(cells[0]), np.bool_)
    ahead = before or [some[:1] for some in cells]
    rows = [np.concatenate(parts) for parts in zip(ahead, cells, strict=True)]
    found: _Bools = np.all([repeats(row[1:], row[:-1]) for row in rows], axis=0)
    found[0] &= bool(before)
    return found


def _opposite_logarithms(a: _Floats, b: _Floats) -> _Bools:
    lowest, found = np.minimum(a.min(axis=1), b.min(axis=1)), np.zeros(len(a), np.bool_)
    for mean in (0.0, 1.0):
        positive = lowest + mean > 0
        if positive.any():
            u, v = a[positive], b[positive]
            rounding = _SINGLE * (2 + np.abs(u) / (u + mean) + np.abs(v) / (v + mean))
            found[positive] |= _constant(np.log(u + mean), [np.log(v + mean)], iter([rounding]))
    return found


def _roundings(a: _Floats, b: _Floats) -> Iterator[_Floats]:
    size = np.abs(a) + np.abs(b)
    return (eps * size for eps in (_SINGLE, _DOUBLE))


def _constant(u: _Floats, others: list[_Floats], roundings: Iterator[_Floats]) -> _Bools:
    """Return whether u + v is one number, for one v, where a rounding leaves enough of u to tell."""
    with np.errstate(invalid="ignore", over="ignore"):
        spread, found, rows = u.std(axis=1, keepdims=True), np.zeros(len(u), np.bool_), np.arange(len(u))
        undecided = np.isfinite(spread[:, 0])
        while undecided.any() and (rounding := next(roundings, None)) is not None:
            telling = rounding < _TELLING * spread
            here = undecided & (np.count_nonzero(telling, axis=1) >= _FEWEST)
            surest = rows, rounding.argmin(axis=1)
            near = _NEAR * spread + 4 * (rounding + rounding[surest][:, np.newaxis])
            for both in (u + v for v in others):
                off = np.abs(both - both[surest][:, np.newaxis])
                for row in np.flatnonzero(here & ((off <= near) | ~telling).all(axis=1)):
                    found[row] = len(np.unique(u[row][telling[row]])) >= _FEWEST
            undecided &= ~here
    return found
