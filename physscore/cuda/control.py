"""The loops of ``evidence/control.py`` on a card. What has a number for each coordinate stays there; what has
one for each particle comes back."""

from __future__ import annotations

from typing import Any
from weakref import ref

import numpy as np

from physscore.arrays import cupy, to_host
from physscore.core import Array
from physscore.cuda import launch, launch_blocks, parts_of


def _sent(*arrays: Any) -> list[Any]:
    """Return arrays on the card as the kernels read them."""
    return [cupy().ascontiguousarray(cupy().asarray(a), np.float64) for a in arrays]


def means(v: Any, score: Any, slope: Any, weights: Array) -> tuple[Any, Any]:
    """Return projections and fields (4, islands, d), on the card."""
    (islands, n), d = weights.shape, v.shape[1]
    projections, fields = cupy().empty((4, islands, d)), cupy().empty((4, islands, d))
    args = _sent(v, score, slope, weights)
    launch("control", "means", np.float64, islands * d, *args, islands, n, d, projections, fields)
    return projections, fields


def share(values: Any, groups: Array) -> None:
    """Put the means over groups of coordinates in the place of the values (k, rows, d)."""
    _, rows, d = values.shape
    on_card, order, starts = _sorted(groups)
    n = len(starts) - 1
    found = cupy().empty((rows, n))
    for part in values:  # the memory of one at a time
        args = part, order, starts, rows, d, n, found
        launch_blocks("control", "group_means", np.float64, rows * n, -(-d // n), *args)
        part[...] = found[:, on_card]


_latest: tuple[Any, int, tuple[Any, Any, Any]] | None = None


def _sorted(groups: Array) -> tuple[Any, Any, Any]:
    """Return groups on the card, their items group by group, and where each begins: the latest are kept, as
    they serve at every temperature."""
    global _latest
    xp = cupy()
    device = xp.cuda.Device().id
    if _latest is None or _latest[0]() is not groups or _latest[1] != device:
        on_card = xp.asarray(groups, np.int64)
        order = xp.argsort(on_card)  # CuPy's is stable
        starts = xp.searchsorted(on_card[order], xp.arange(int(groups.max()) + 2))
        _latest = ref(groups), device, (on_card, order, starts)
    return _latest[2]


def _sums(name: str, k: int, *args: Any) -> Array:
    """Return ``k`` sums over coordinates for each row of the first argument."""
    rows, d = args[0].shape
    parts = parts_of(rows, d)
    sums = cupy().empty((k, rows, parts))
    args = (*_sent(*args), rows, d, parts, sums)
    launch_blocks("control", name, np.float64, rows * parts, -(-d // parts), *args)
    return to_host(sums.sum(axis=-1))


def values(v: Any, score: Any, factors: Any) -> Array:
    """Return what the fields along Hermite's polynomials add for each particle, (4, rows)."""
    return _sums("values", 4, v, score, factors)


def radial(v: Any, score: Any) -> Array:
    """Return |v|^2 and v . s for each particle, (2, rows)."""
    return _sums("radial", 2, v, score)


def of_cells(x: Any, score: Any, variances: Any) -> Array:
    """Return what the fields along powers of cells add for each particle, (3, rows)."""
    return _sums("of_cells", 3, x, score, variances)
