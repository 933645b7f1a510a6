"""Compiled energies: blocks out of points, points out of blocks, and weighted sums of them.

The loop over many small states works on blocks of chains, arrays (d, n) whose last axis is the
chain, because loops over chains become vector instructions. A user's function of one point is
wrapped into a block; a built-in block of one column is a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from physscore.arrays import parallel
from physscore.core import Array, Point

_options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
compiled_block = njit(**_options)
"""The decorator of functions of blocks. Not kept on disk: they call what stands in other files."""


@cache
def point_of(block: Any) -> Any:
    """Return the function of one point that a function of a block of them makes."""

    @njit(**_options)
    def energy_and_gradient(x, params, gradient_out):
        energy = np.empty(1)
        block(x.reshape(-1, 1), params, gradient_out.reshape(-1, 1), energy)
        return energy[0]

    return energy_and_gradient


@cache
def _block_of(energy_and_gradient: Any) -> Any:
    @njit(**_options)
    def block(x, params, gradient_out, energy_out):
        d, n = x.shape
        state, gradient = np.empty(d), np.empty(d)
        for j in range(n):
            for i in range(d):
                state[i] = x[i, j]
            energy_out[j] = energy_and_gradient(state, params, gradient)
            for i in range(d):
                gradient_out[i, j] = gradient[i]

    return block


def block_of(point: Point) -> Any:
    """Return the function of a block of points: the point's own, or its function in a loop."""
    return _block_of(point.energy_and_gradient) if point.block is None else point.block


def from_block(block: Any, params: Sequence[float] | Array) -> Point:
    """Return the point of a built-in energy that is written for blocks."""
    return Point(point_of(block), np.ascontiguousarray(params, np.float64), block)


@cache
def _scaled(block: Any) -> Any:
    @njit(**_options)
    def scaled(x, params, gradient_out, energy_out):
        block(x, params[1:], gradient_out, energy_out)
        for j in range(x.shape[1]):
            energy_out[j] *= params[0]
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                gradient_out[i, j] *= params[0]

    return scaled


@cache
def _added(first: Any, second: Any) -> Any:
    @njit(**_options)
    def added(x, params, gradient_out, energy_out):
        end = 1 + int(params[0])
        first(x, params[1:end], gradient_out, energy_out)
        gradient, energy = np.empty(x.shape), np.empty(x.shape[1])
        second(x, params[end:], gradient, energy)
        for j in range(x.shape[1]):
            energy_out[j] += energy[j]
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                gradient_out[i, j] += gradient[i, j]

    return added


def weighted_sum(terms: Sequence[tuple[float, Point]]) -> Point:
    """Return the sum of ``factor * point``. Its factors are numbers like the others: changing them
    compiles nothing."""
    blocks = [_scaled(block_of(point)) for _, point in terms]
    numbers = [np.concatenate([[factor], point.params]) for factor, point in terms]
    block, params = blocks[0], numbers[0]
    for other, more in zip(blocks[1:], numbers[1:], strict=True):
        params = np.concatenate([[len(params)], params, more])
        block = _added(block, other)
    return from_block(block, params)


@njit(**_options)
def _evaluate(block, params, x, energy, gradient, start, stop):
    d = x.shape[1]
    width = min(32, stop - start)
    columns, slopes, energies = np.empty((d, width)), np.empty((d, width)), np.empty(width)
    for first in range(start, stop, width):
        n = min(width, stop - first)
        for j in range(width):
            for i in range(d):
                columns[i, j] = x[first + min(j, n - 1), i]
        block(columns, params, slopes, energies)
        for j in range(n):
            energy[first + j] = energies[j]
            for i in range(d):
                gradient[first + j, i] = slopes[i, j]


def evaluate(point: Point, x: Array) -> tuple[Array, Array]:
    """Return energies (n,) and gradients (n, d) of states (n, d) by the compiled form."""
    states = np.ascontiguousarray(x, np.float64)
    energy, gradient = np.empty(len(states)), np.empty_like(states)
    parallel(_evaluate, len(states), block_of(point), point.params, states, energy, gradient)
    return energy, gradient
