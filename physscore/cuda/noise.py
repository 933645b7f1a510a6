"""``noise.normal`` on a card."""

from __future__ import annotations

from typing import Any

import numpy as np

from physscore.arrays import cupy
from physscore.cuda import launch


def normal(
    chains: int, components: int, key: tuple[Any, Any], step: int, draw: int, first: int, dtype: Any
) -> Any:
    """Return standard normal deviates (chains, components); see ``physscore.noise.normal``."""
    out = cupy().empty((chains, components), dtype)
    launch(
        "noise", "normal_rows", dtype, chains * (-(-components // 4)), out, chains, components, first,
        np.uint32(step), np.uint32(draw), np.uint32(key[0]), np.uint32(key[1]),
    )  # fmt: skip
    return out
