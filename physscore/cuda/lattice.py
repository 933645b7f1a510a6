"""Energies on periodic lattices, on a card: each kernel crosses the memory once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from physscore.arrays import cupy
from physscore.cuda import launch_blocks, parts_of


def _over_sites(kernel: str, states: Any, numbers: tuple[float, ...], *more: Any) -> Any:
    """Return what a kernel writes at each site of states (n, *shape), in one piece of memory."""
    n, *sides = states.shape
    cube = (1,) * (3 - len(sides)) + tuple(sides)
    d, dtype = math.prod(sides), states.dtype
    parts = parts_of(n, d)
    out = cupy().empty_like(states)
    launch_blocks(
        "lattice", kernel, dtype, n * parts, -(-d // parts), states, out, n, parts, np.int32(len(sides)),
        *cube, *map(dtype.type, numbers), *more,
    )  # fmt: skip
    return out


def _sums(states: Any) -> Any:
    return cupy().empty((len(states), parts_of(len(states), math.prod(states.shape[1:]))))


def phi4(states: Any, stiffness: float, mass: float, quartic: float, offset: float) -> tuple[Any, Any]:
    """Return energies and scores of states (n, *shape); see ``energies.lattice``."""
    states, sums = cupy().ascontiguousarray(states), _sums(states)
    local = mass + 2 * (states.ndim - 1) * stiffness
    score = _over_sites("phi4", states, (local, stiffness, quartic), sums)
    return sums.sum(axis=1) + offset, score


def ising(states: Any, coupling: float, shift: float, field: float, offset: float) -> tuple[Any, Any]:
    """Return energies and scores of states (n, *shape); see ``energies.ising``."""
    states, sums = cupy().ascontiguousarray(states), _sums(states)
    surplus = _over_sites("ising", states, (shift, coupling, field), sums)
    score = _over_sites("times_couplings", surplus, (shift, coupling))
    return sums.sum(axis=1) + offset, score
