"""The loop over many small states: energy, noise, update and acceptance compiled into one.

Chains are taken in blocks that stay in the cache for a whole run of steps. The energy is an
argument of the loop, which inlines it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from physscore.kernels import moves
from physscore.noise import fill_block

WIDTH = 32  # chains in a block
DIVERGED = 1000.0  # an energy error beyond which a trajectory is called divergent
GOLDEN = 0.6180339887498949


@njit(nogil=True, error_model="numpy", inline="never")
def load(rows, first, n, block):
    """Copy chains first, ..., first + n - 1 into a block; the last one fills what is left."""
    for j in range(block.shape[1]):
        for i in range(rows.shape[1]):
            block[i, j] = rows[first + min(j, n - 1), i]


@njit(nogil=True, error_model="numpy", inline="never")
def unload(block, rows, first, n):
    """Copy a block back."""
    for j in range(n):
        for i in range(rows.shape[1]):
            rows[first + j, i] = block[i, j]


@njit(nogil=True, error_model="numpy")
def sweep(block, params, kernel, kind, metric, state, out, key, first_step, n_steps, thin, start, stop):
    """Move chains start to stop by n_steps."""
    h, length, keep, adjusted, harmonic, splitting = kernel
    xs, es, gs, ps = state
    draws, energies, acceptance, divergent = out
    d = xs.shape[1]
    n_even = d + d % 2
    width = min(WIDTH, stop - start + (start - stop) % 4)
    x, g, y, gy = np.empty((d, width)), np.empty((d, width)), np.empty((d, width)), np.empty((d, width))
    e, ey, log_u, log_ratio = np.empty(width), np.empty(width), np.empty(width), np.empty(width)
    xi, p, pair = np.empty((n_even, width)), np.empty((n_even, width)), np.empty((2, width))
    old = np.empty((d, width))
    taken = np.empty(width, np.bool_)
    words, lower = np.empty((4, width), np.uint32), np.empty((4, width), np.uint32)
    half, full = np.full(width, h / 2), np.full(width, h)
    for first in range(start, stop, width):
        n = min(width, stop - first)
        load(xs, first, n, x)
        load(gs, first, n, g)
        load(ps, first, n, p)
        for j in range(width):
            e[j] = es[first + min(j, n - 1)]
        for t in range(n_steps):
            step = np.uint64(first_step + t)
            if splitting:
                moves.kick(p, g, half, kind, metric)
                moves.drift(x, p, half, kind, metric)
                fill_block(xi, words, lower, first, step, 0, key[0], key[1])
                moves.refresh(p, xi, keep)
                moves.drift(x, p, half, kind, metric)
                block(x, params, g, e)
                moves.kick(p, g, half, kind, metric)
            elif not adjusted:
                fill_block(p, words, lower, first, step, 0, key[0], key[1])
                moves.kick(p, g, half, kind, metric)
                moves.drift(x, p, full, kind, metric)
                block(x, params, g, e)
            else:
                fill_block(xi, words, lower, first, step, 0, key[0], key[1])
                moves.refresh(p, xi, keep)
                for j in range(width):
                    log_ratio[j] = e[j]
                moves.add_kinetic(p, d, 1.0, log_ratio)
                if keep != 0.0:
                    moves.copy(p[:d], old)
                moves.copy(x, y)
                moves.copy(g, gy)
                n_leaps = 1
                if length > 1:
                    n_leaps = 1 + int(((first_step + t + 1) * GOLDEN) % 1.0 * (2 * length - 1))
                for _ in range(n_leaps):
                    if harmonic:
                        moves.kick_beyond_normal(p, gy, y, math.tan(h / 2))
                        moves.rotate(y, p, h)
                        block(y, params, gy, ey)
                        moves.kick_beyond_normal(p, gy, y, math.tan(h / 2))
                    else:
                        moves.kick(p, gy, half, kind, metric)
                        moves.drift(y, p, full, kind, metric)
                        block(y, params, gy, ey)
                        moves.kick(p, gy, half, kind, metric)
                for j in range(width):
                    log_ratio[j] -= ey[j]
                moves.add_kinetic(p, d, -1.0, log_ratio)
                fill_block(pair, words, lower, first, step, 1, key[0], key[1])
                moves.log_uniform(pair, log_u)
                for j in range(width):
                    taken[j] = log_u[j] < log_ratio[j]
                moves.choose(taken, y, x)
                moves.choose(taken, gy, g)
                for j in range(width):
                    e[j] = ey[j] if taken[j] else e[j]
                if keep != 0.0:
                    for i in range(d):
                        for j in range(width):
                            p[i, j] = p[i, j] if taken[j] else -old[i, j]
                for j in range(n):
                    acceptance[first + j] += moves.probability(log_ratio[j])
                    if not log_ratio[j] > -DIVERGED:
                        divergent[first + j] += 1
            if thin and (t + 1) % thin == 0:
                unload(x, draws[(t + 1) // thin - 1], first, n)
                energies[(t + 1) // thin - 1, first : first + n] = e[:n]
        unload(x, xs, first, n)
        unload(g, gs, first, n)
        unload(p, ps, first, n)
        for j in range(n):
            es[first + j] = e[j]
