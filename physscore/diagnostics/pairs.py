"""Fields that are not independent: those of opposite phase to another one, and copies.

Some cells tell: those of the second field of a pair are minus those of the first, but for a constant, or the
logarithms of lognormal fields are.
"""

from __future__ import annotations

import math
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
    return _constant(a, -b, *(eps * (np.abs(a) + np.abs(b)) for eps in (_SINGLE, _DOUBLE)))


def opposite(a: _Floats, b: _Floats) -> bool:
    """Return whether cells are of a pair of opposite phase, Gaussian or lognormal, delta or 1 + delta."""
    if same(a, -b):
        return True
    for mean in (0.0, 1.0):
        if min(a.min(), b.min()) + mean > 0:
            rounding = _SINGLE * (2 + np.abs(a) / (a + mean) + np.abs(b) / (b + mean))
            if _constant(np.log(a + mean), np.log(b + mean), rounding):
                return True
    return False


def repeats(a: _Floats, b: _Floats) -> bool:
    """Return whether cells are of a field that tells nothing new beside the other."""
    return same(a, b) or opposite(a, b)


def _constant(u: _Floats, v: _Floats, *roundings: _Floats) -> bool:
    """Return whether u + v is one number, where one of the roundings leaves enough of u to tell."""
    with np.errstate(invalid="ignore", over="ignore"):
        spread, both = u.std(), u + v
        for rounding in roundings if np.isfinite(spread) else ():
            telling = rounding < _TELLING * spread
            if np.count_nonzero(telling) >= _FEWEST:
                off = np.abs(both - both[rounding.argmin()])
                near = off <= _NEAR * spread + 4 * (rounding + rounding.min())
                return bool(near[telling].all() and len(np.unique(u[telling])) >= _FEWEST)
    return False
