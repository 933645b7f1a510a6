"""Fields that are not independent: those of opposite phase to another one, and copies.

Some cells tell: those of the second field of a pair are minus those of the first, but for a constant, or the
logarithms of lognormal fields are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import device_of, namespace, on_gpu, to_host

_Floats = npt.NDArray[np.float64]

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


def same(a: _Floats, b: _Floats) -> bool:
    """Return whether cells are of one field, to rounding and a constant."""
    return _constant(a, [-b], _roundings(a, b))


def opposite(a: _Floats, b: _Floats) -> bool:
    """Return whether cells are of a pair of opposite phase, Gaussian or lognormal, delta or 1 + delta."""
    return _constant(a, [b], _roundings(a, b)) or _opposite_logarithms(a, b)


def repeats(a: _Floats, b: _Floats) -> bool:
    """Return whether cells are of a field that tells nothing new beside the other: the same, or opposite."""
    return _constant(a, [-b, b], _roundings(a, b)) or _opposite_logarithms(a, b)


def _opposite_logarithms(a: _Floats, b: _Floats) -> bool:
    lowest = min(a.min(), b.min())
    for mean in (0.0, 1.0):
        if lowest + mean > 0:
            rounding = _SINGLE * (2 + np.abs(a) / (a + mean) + np.abs(b) / (b + mean))
            if _constant(np.log(a + mean), [np.log(b + mean)], [rounding]):
                return True
    return False


def _roundings(a: _Floats, b: _Floats) -> Iterator[_Floats]:
    size = np.abs(a) + np.abs(b)
    return (eps * size for eps in (_SINGLE, _DOUBLE))


def _constant(u: _Floats, others: list[_Floats], roundings: Iterable[_Floats]) -> bool:
    """Return whether u + v is one number, for one v, where a rounding leaves enough of u to tell."""
    with np.errstate(invalid="ignore", over="ignore"):
        spread = u.std()
        for rounding in roundings if np.isfinite(spread) else ():
            telling = rounding < _TELLING * spread
            if np.count_nonzero(telling) >= _FEWEST:
                surest = rounding.argmin()
                near = _NEAR * spread + 4 * (rounding + rounding[surest])
                for both in (u + v for v in others):
                    off = np.abs(both - both[surest])
                    if (off <= near)[telling].all():
                        return len(np.unique(u[telling])) >= _FEWEST
                return False
    return False
