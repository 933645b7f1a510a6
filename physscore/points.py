"""Compiled energies: blocks of points, their addresses, and weighted sums of them.

The loop over many small states works on blocks of chains, arrays (d, n) whose last axis is the chain,
because loops over chains become vector instructions. A user's function of one point is wrapped into a
block. Loops are compiled once and kept on disk; they call a block by its address, once for many chains,
so a new energy compiles itself and nothing else, and a sum of energies compiles nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.core import sigutils
from numba.core.ccallback import CFunc
from numba.extending import intrinsic

from physscore.arrays import compiled, contiguous, cupy, on_gpu, parallel, to_host
from physscore.code_on_disk import keep_on_disk
from physscore.core import Array, Point
from physscore.parts import part

compiled_block = compiled
"""The decorator of functions of blocks."""


def _call_address(typing_context, address, x, d, n, params, count, gradient, energy):
    """Call the C function at ``address`` with addresses of arrays and their sizes."""

    def generate(context, builder, signature, arguments):
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [word] * 7)
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(function, arguments[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), generate


_call: Any = intrinsic(_call_address)


@part
def call_block(address, x, params, gradient_out, energy_out):
    """Call a block by its address."""
    _call(
        np.int64(address), np.int64(x.ctypes.data), np.int64(x.shape[0]), np.int64(x.shape[1]),
        np.int64(params.ctypes.data), np.int64(len(params)), np.int64(gradient_out.ctypes.data),
        np.int64(energy_out.ctypes.data),
    )  # fmt: skip


_pointer = types.CPointer(types.float64)
_entry = types.void(_pointer, types.int64, types.int64, _pointer, types.int64, _pointer, _pointer)


_block: Any = None  # in each copy of the function below, the block that it calls


def _entry_of_block(x, d, n, params, count, gradient, energy):
    energies = carray(energy, (n,))
    energies[:] = np.nan  # what is left if the function raises
    _block(carray(x, (d, n)), carray(params, (count,)), carray(gradient, (d, n)), energies)


@cache
def _c_function(block: Any) -> Any:
    """Return a block as a C function; a built-in one is kept on disk, as its block is."""
    own, name = block.py_func, f"{block.py_func.__name__}_entry"
    code = _entry_of_block.__code__.replace(
        co_name=name, co_filename=own.__code__.co_filename, co_firstlineno=own.__code__.co_firstlineno
    )
    entry = FunctionType(code, {**globals(), "_block": block, "__name__": own.__module__}, name)
    entry.__qualname__ = name
    function = CFunc(entry, sigutils.normalize_signature(_entry), {}, {})
    if own.__module__.startswith("physscore.") and own.__qualname__ == own.__name__:
        keep_on_disk(function)
    function.compile()
    return function


@cache
def _block_of(energy_and_gradient: Any) -> Any:
    """Return the block of a function of one point, whose gradient is zero before. Where it raises, there is
    no number; its neighbours have theirs."""

    @part
    def block(x, params, gradient_out, energy_out):
        d, n = x.shape
        state, gradient = np.empty(d), np.empty(d)
        for j in range(n):
            for i in range(d):
                state[i], gradient[i] = x[i, j], 0.0
            try:
                energy_out[j] = energy_and_gradient(state, params, gradient)
            except Exception:
                energy_out[j], gradient[:] = np.nan, np.nan
            for i in range(d):
                gradient_out[i, j] = gradient[i]

    return block


def address_of(point: Point) -> int:
    """Return the address of a point's block in this process: its own, or its function in a loop."""
    block = _block_of(point.energy_and_gradient) if point.block is None else point.block
    return int(_c_function(block).address)


@cache
def _point_of(block: Any) -> Any:
    @njit(nogil=True, error_model="numpy")
    def energy_and_gradient(x, params, gradient_out):
        energy = np.empty(1)
        block(x.reshape(-1, 1), params, gradient_out.reshape(-1, 1), energy)
        return energy[0]

    return energy_and_gradient


def from_block(block: Any, params: Sequence[float] | Array) -> Point:
    """Return the point of a built-in energy that is written for blocks."""
    return Point(_point_of(block), np.ascontiguousarray(params, np.float64), block)


@compiled
def _sum_block(x, params, gradient_out, energy_out):
    """params: for each term its factor, the bits of its address, the number of its params, and these.

    Where one is infinite, beyond a wall, the others need not be numbers.
    """
    d, n = x.shape
    gradient, energy = np.empty((d, n)), np.empty(n)
    beyond, any_beyond = np.zeros(n, np.bool_), False
    energy_out[:] = 0.0
    gradient_out[:] = 0.0
    start = 0
    while start < len(params):
        factor, address = params[start], params[start + 1 : start + 2].view(np.int64)[0]
        stop = start + 3 + int(params[start + 2])
        call_block(address, x, params[start + 3 : stop], gradient, energy)
        for j in range(n):
            energy_out[j] += factor * energy[j]
        for i in range(d):
            for j in range(n):
                gradient_out[i, j] += factor * gradient[i, j]
        if factor >= 0:
            for j in range(n):
                beyond[j] |= energy[j] == np.inf
                any_beyond |= energy[j] == np.inf
        start = stop
    if any_beyond:
        for j in range(n):
            if beyond[j]:
                energy_out[j] = np.inf
                for i in range(d):
                    if np.isnan(gradient_out[i, j]):
                        gradient_out[i, j] = 0.0


def weighted_sum(terms: Sequence[tuple[float, Point]]) -> Point:
    """Return the sum of ``factor * point``, which compiles nothing. It holds in this process only."""
    parts: list[Any] = []
    for factor, point in terms:
        address = np.array([address_of(point)]).view(np.float64)
        parts += [[factor], address, [len(point.params)], point.params]
    return from_block(_sum_block, np.concatenate(parts))


@part
def from_rows(rows, first, n, block):
    """Copy rows first, ..., first + n - 1 into the columns of a block; the last one fills what is left."""
    for j in range(block.shape[1]):
        for i in range(rows.shape[1]):
            block[i, j] = rows[first + min(j, n - 1), i]


@part
def to_rows(block, rows, first, n):
    """Copy the first n columns of a block into rows first, ..., first + n - 1."""
    for j in range(n):
        for i in range(rows.shape[1]):
            rows[first + j, i] = block[i, j]


@compiled
def _evaluate(address, params, x, energy, gradient, start, stop):
    d = x.shape[1]
    width = max(1, min(32, stop - start))
    columns, slopes, energies = np.empty((d, width)), np.empty((d, width)), np.empty(width)
    for first in range(start, stop, width):
        n = min(width, stop - first)
        from_rows(x, first, n, columns)
        call_block(address, columns, params, slopes, energies)
        for j in range(n):
            energy[first + j] = energies[j]
        to_rows(slopes, gradient, first, n)


def on_card(point: Point, dim: int) -> bool:
    """Return whether an energy is compiled for the threads of a card: that takes numba-cuda."""
    try:
        from physscore.cuda import points
    except ImportError:
        return False
    return points.supports(point, dim)


def evaluate(point: Point, x: Array) -> tuple[Array, Array]:
    """Return energies (n,) and gradients (n, d) of states (n, d) by the compiled form.

    Of states on a card it is the card's, where there is one, else the CPU's.
    """
    if on_gpu(x):
        if on_card(point, x.shape[1]):
            from physscore.cuda import points

            found: tuple[Array, Array] = points.evaluate(point, contiguous(x.astype(np.float64, copy=False)))
            return found
        e, g = evaluate(point, to_host(x))
        return cupy().asarray(e), cupy().asarray(g)
    states = np.ascontiguousarray(x, np.float64)
    energy, gradient = np.empty(len(states)), np.empty_like(states)
    parallel(
        _evaluate, len(states), address_of(point), point.params, states, energy, gradient,
        at_least=max(32, 20_000 // (states.shape[1] + 1)),
    )  # fmt: skip
    return energy, gradient


def energy_and_score(point: Point, states: Array) -> tuple[Array, Array]:
    """Return energies (n,) and scores of states (n, *shape) by the compiled form, in their precision."""
    energy, gradient = evaluate(point, states.reshape(len(states), math.prod(states.shape[1:])))
    return energy, (-gradient).reshape(states.shape).astype(states.dtype, copy=False)
