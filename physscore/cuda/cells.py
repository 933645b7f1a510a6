"""Likelihoods that are a product over the cells, on a card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from physscore.arrays import contiguous, cupy
from physscore.cuda import kept, launch_blocks, parts_of


def energy_and_score(likelihood: Any, states: Any, kind: int, scale: float, offset: float) -> tuple[Any, Any]:
    """Return both; see ``energies.likelihoods``."""
    n, d = len(states), likelihood.dim
    dtype = states.dtype

    def sent(name: str, make: Callable[[], Any]) -> Any:
        return kept(likelihood, f"{name} {dtype}", lambda: make().astype(dtype))

    def weights() -> Any:
        every = likelihood._weight
        return every[:1] if (every == every[0]).all() else every

    data, weight = sent("data", lambda: likelihood._data), sent("weight", weights)
    states, blocks = contiguous(states), -(-d // 4)
    parts = parts_of(n, blocks)
    score, sums = cupy().empty_like(states), cupy().empty((n, parts))
    launch_blocks(
        "cells", "cells", states.dtype, n * parts, -(-blocks // parts), np.int32(kind), states, data, weight,
        weight.size < d, np.float64(scale), score, n, d, parts, sums,
    )  # fmt: skip
    return sums.sum(axis=1) + offset, score
