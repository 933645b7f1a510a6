"""The batch of large states of ``kernels/batched.py`` on a card."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from physscore.arrays import cupy, on_gpu
from physscore.cuda import launch as launch_threads
from physscore.cuda import launch_blocks, parts_of


class _Launch:
    """What the kernels over a batch (chains, d) have in common: it is cut into parts of chains."""

    def __init__(self, p: Any) -> None:
        self.dtype = p.dtype
        self.n, self.d = p.shape
        self.parts = parts_of(self.n, -(-self.d // 4))

    def sums(self) -> Any:
        """Return room for a sum over each part."""
        return cupy().empty((self.n, self.parts))

    def __call__(self, name: str, *args: Any) -> None:
        size = -(-self.d // (4 * self.parts))
        launch_blocks("moves", name, self.dtype, self.n * self.parts, size, *args)


def renew(p: Any, keep: float, key: tuple[Any, Any], number: int, first: int) -> Any:
    """Refresh momenta in place; return their kinetic energies."""
    launch, real = _Launch(p), p.dtype.type
    sums = launch.sums()
    launch(
        "renew", p, launch.n, launch.d, launch.parts, first, np.uint32(number), np.uint32(key[0]),
        np.uint32(key[1]), real(keep), real(math.sqrt(1.0 - keep * keep)), sums,
    )  # fmt: skip
    return sums.sum(axis=1)


def push(
    x: Any, s: Any, p: Any, w: Any, kick: Any, drift: Any, harmonic: bool, y: Any, anew: int | None,
    key: tuple[Any, Any], first: int,
) -> Any:  # fmt: skip
    """Kick momenta in place and, if there is a ``y``, drift; return kinetic energies.

    ``kick`` and ``drift`` are numbers, or arrays of one for each chain.
    """
    launch = _Launch(p)
    sums = launch.sums()
    each = on_gpu(kick) or on_gpu(drift)
    kicks, drifts = (cupy().zeros(launch.n) + a if each else sums for a in (kick, drift))
    numbers = (np.float64(0.0 if each else a) for a in (kick, drift))
    launch(
        "push", x, s, p, p if w is None else w, np.int32(w is not None), kicks, drifts, each, *numbers,
        harmonic, y is not None, p if y is None else y, anew is not None, launch.n, launch.d, launch.parts,
        first, np.uint32(anew or 0), np.uint32(key[0]), np.uint32(key[1]), sums,
    )  # fmt: skip
    return sums.sum(axis=1)


def accept(
    e: Any, kinetic: Any, new_e: Any, new_kinetic: Any, adjusted: bool, diverged: float, number: int,
    key: tuple[Any, Any], first: int, tally: Any,
) -> Any:  # fmt: skip
    """Return which chains take the new state, and add to the ``tally`` (3, n) what happened."""
    n = len(e)
    taken = cupy().empty(n, bool)
    launch_threads(
        "moves", "accept", np.float64, n, e, kinetic, new_e, new_kinetic, adjusted, np.float64(diverged), n,
        first, np.uint32(number), np.uint32(key[0]), np.uint32(key[1]), taken, tally,
    )  # fmt: skip
    return taken


def take(taken: Any, x: Any, y: Any, s: Any, new_s: Any, e: Any, new_e: Any) -> None:
    """Put the new in the place of the old where it is taken."""
    launch = _Launch(x)
    launch("take", taken, x, y, s, new_s, e, new_e, launch.n, launch.d, launch.parts)
