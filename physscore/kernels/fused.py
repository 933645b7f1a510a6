"""The loop over many small states: energy, noise, update and acceptance compiled into one.

Chains are taken in blocks that stay in the cache for a whole run of steps. The energy's block is called
by its address, so that the loops are compiled once for all energies and kept on disk.
"""

from __future__ import annotations

import math
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from physscore.arrays import compiled
from physscore.core import Array
from physscore.kernels import moves
from physscore.noise import fill_block
from physscore.parts import part, spliced
from physscore.points import call_block, from_rows, to_rows

WIDTH = 128  # chains in a block, at most
_CELLS = 8192  # numbers in a block, about: its dozen arrays stay in the second-level cache
MAX_DOUBLINGS = 60


class Work(NamedTuple):
    """What a step needs besides the state of its chains: arrays (d, n) and (n,)."""

    key: tuple[np.uint64, np.uint64]
    xi: Array
    old: Array
    y: Array
    sy: Array
    ey: Array
    old_x: Array
    old_s: Array
    old_e: Array
    uniforms: Array
    log_u: Array
    low: Array
    high: Array
    log_ratio: Array
    accepted_ratio: Array
    taken: Array
    chosen: Array
    back: Array
    direction: Array
    words: Array
    lower: Array
    accepted: Array
    divergent: Array
    exponents: Array
    half: Array
    full: Array
    back_full: Array
    which: Array
    powers: Array
    few: Array
    few_energies: Array
    few_ratios: Array


@part
def _evaluate(block, params, x, s, e):
    call_block(block, x, params, s, e)
    for i in range(s.shape[0]):
        for j in range(s.shape[1]):
            s[i, j] = -s[i, j]


@part
def _steps(work, step):
    work.half[:] = step / 2
    work.full[:] = step
    return work.half, work.full


@spliced
def langevin_step(block, params, kernel, metric, chains, work, first, number):
    """Unadjusted Langevin: x += h W (xi + h/2 W^T s), with h^2 / 2 the step size."""
    x, s, e, p = chains
    half, full = _steps(work, kernel.step)
    fill_block(p, work.words, work.lower, first, number, 0, work.key[0], work.key[1])
    moves.kick(p, s, half, metric)
    moves.drift(x, p, full, metric)
    _evaluate(block, params, x, s, e)


@spliced
def splitting_step(block, params, kernel, metric, chains, work, first, number):
    """Underdamped Langevin by the splitting BAOAB (Leimkuhler & Matthews 2013)."""
    x, s, e, p = chains
    half, _ = _steps(work, kernel.step)
    fill_block(work.xi, work.words, work.lower, first, number, 0, work.key[0], work.key[1])
    moves.kick(p, s, half, metric)
    moves.drift(x, p, half, metric)
    moves.refresh(p, work.xi, kernel.keep)
    moves.drift(x, p, half, metric)
    _evaluate(block, params, x, s, e)
    moves.kick(p, s, half, metric)


@spliced
def hamiltonian_step(block, params, kernel, metric, chains, work, first, number):
    """Refresh the momentum, follow a trajectory, accept or turn back.

    On the trajectory sy is the gradient of the energy, not the score: that saves a pass over it.
    """
    x, s, e, p = chains
    d, width = x.shape
    step = moves.step_of(kernel.step, kernel.relief, number)
    half, full = _steps(work, step)
    if kernel.keep != 0.0:
        fill_block(work.xi, work.words, work.lower, first, number, 0, work.key[0], work.key[1])
        moves.refresh(p, work.xi, kernel.keep)
        moves.copy(p, work.old)
    else:
        fill_block(p, work.words, work.lower, first, number, 0, work.key[0], work.key[1])
    for j in range(width):
        work.log_ratio[j] = e[j]
    moves.add_kinetic(p, d, 1.0, work.log_ratio)
    leaps = moves.n_leaps(kernel.length, number)
    moves.copy(x, work.y)
    if kernel.harmonic:
        kick = math.tan(step / 2)
        moves.kick_beyond_normal(p, s, 1.0, work.y, kick)
        for leap in range(leaps):
            moves.rotate(work.y, p, step)
            call_block(block, work.y, params, work.sy, work.ey)
            moves.kick_beyond_normal(p, work.sy, -1.0, work.y, 2 * kick if leap + 1 < leaps else kick)
    else:
        moves.kick_and_drift(p, s, half, work.y, full, metric)
        call_block(block, work.y, params, work.sy, work.ey)
        for j in range(width):
            half[j], work.back_full[j] = -half[j], -full[j]
        for _ in range(1, leaps):
            moves.kick_and_drift(p, work.sy, work.back_full, work.y, full, metric)
            call_block(block, work.y, params, work.sy, work.ey)
        moves.kick(p, work.sy, half, metric)
    for j in range(width):
        work.log_ratio[j] -= work.ey[j]
    moves.add_kinetic(p, d, -1.0, work.log_ratio)
    fill_block(work.uniforms[:2], work.words, work.lower, first, number, 1, work.key[0], work.key[1])
    moves.log_uniforms(work.uniforms[:2], work.log_u)
    for j in range(width):
        work.taken[j] = work.log_u[j] < work.log_ratio[j] or not kernel.adjusted
        work.accepted[j] += moves.probability(work.log_ratio[j]) if kernel.adjusted else work.log_ratio[j]
        work.divergent[j] += 1 if moves.diverged(work.log_ratio[j]) else 0
    moves.choose(work.taken, work.y, 1.0, x)
    moves.choose(work.taken, work.sy, -1.0, s)
    for j in range(width):
        e[j] = work.ey[j] if work.taken[j] else e[j]
    if kernel.keep != 0.0:
        for i in range(d):
            for j in range(width):
                p[i, j] = p[i, j] if work.taken[j] else -work.old[i, j]


@spliced
def adaptive_step(block, params, kernel, metric, chains, work, first, number):
    """autoMALA: double or halve the step until its energy error is as large as a random bound, and
    accept only if the way back would have chosen the same step (Biron-Lattes et al. 2024,
    arXiv:2310.16782, algorithms 1 and 2)."""
    x, s, e, p = chains
    d, width = x.shape
    fill_block(p, work.words, work.lower, first, number, 0, work.key[0], work.key[1])
    fill_block(work.uniforms, work.words, work.lower, first, number, 1, work.key[0], work.key[1])
    moves.log_uniforms(work.uniforms[:2], work.log_u)
    if kernel.sweep:
        metric = moves.one_row(np.int64(number % np.uint64(d + 1)), d, metric)
    moves.log_uniforms(work.uniforms[2:4], work.low)
    moves.log_uniforms(work.uniforms[4:], work.high)
    for j in range(width):
        a, b = work.low[j], work.high[j]
        work.low[j], work.high[j] = max(a, b), min(a, b)  # as bounds of the modulus: -log b, -log a
    _search(block, params, kernel.step, metric, x, s, e, p, work, work.chosen)
    moves.copy(work.y, work.old_x)
    moves.copy(work.sy, work.old_s)
    for j in range(width):
        work.old_e[j] = work.ey[j]
        work.accepted_ratio[j] = work.log_ratio[j]
    for i in range(d):
        for j in range(width):
            p[i, j] = -work.old[i, j]
    _search(block, params, kernel.step, metric, work.old_x, work.old_s, work.old_e, p, work, work.back)
    for j in range(width):
        same = work.chosen[j] == work.back[j]
        ratio = work.accepted_ratio[j]
        work.taken[j] = same and work.log_u[j] < ratio
        work.accepted[j] += moves.probability(ratio) if same else 0.0
        work.divergent[j] += 1 if moves.diverged(ratio) else 0
        work.exponents[j] += work.chosen[j]
    moves.choose(work.taken, work.old_x, 1.0, x)
    moves.choose(work.taken, work.old_s, 1.0, s)
    for j in range(width):
        e[j] = work.old_e[j] if work.taken[j] else e[j]


@part
def _search(block, params, step, metric, x, s, e, p, work, exponent):
    """Find the powers of 2 for the steps from (x, p), and leave the leapfrog's end in y, old, sy, ey.

    A block waits for the last of its chains, but only those that still search are moved.
    """
    d, width = x.shape
    for j in range(width):
        exponent[j], work.which[j] = 0, j
    there = work.y, work.old, work.sy, work.ey, work.log_ratio
    _gather(x, p, s, e, work.which, there)
    _leapfrog(block, params, step, metric, exponent, work, there)
    n = 0
    for j in range(width):
        error = abs(work.log_ratio[j])
        work.direction[j] = 1 if error < -work.low[j] else (0 if error <= -work.high[j] else -1)
        if work.direction[j] != 0:
            work.which[n] = j
            n += 1
    while n > 0:
        m = (n + 7) // 8 * 8  # whole vectors
        for k in range(m):
            work.which[k] = work.which[min(k, n - 1)]
            work.powers[k] = exponent[work.which[k]] + work.direction[work.which[k]]
        y, q, sy = (
            work.few[0][: d * m].reshape(d, m),
            work.few[1][: d * m].reshape(d, m),
            work.few[2][: d * m].reshape(d, m),
        )
        few = y, q, sy, work.few_energies[:m], work.few_ratios[:m]
        _gather(x, p, s, e, work.which, few)
        _leapfrog(block, params, step, metric, work.powers, work, few)
        left = 0
        for k in range(n):
            j = work.which[k]
            error = abs(few[4][k])
            up, near = work.direction[j] > 0, error < -work.low[j]
            # Upwards the last step that is still good is kept, downwards the first that is good.
            if near or not up:
                exponent[j] = work.powers[k]
                work.ey[j], work.log_ratio[j] = few[3][k], few[4][k]
                for i in range(d):
                    work.y[i, j], work.old[i, j], work.sy[i, j] = y[i, k], q[i, k], sy[i, k]
            done = not near if up else error <= -work.high[j]
            if not done and abs(work.powers[k]) < MAX_DOUBLINGS:
                work.which[left] = j
                left += 1
        n = left


@part
def _gather(x, p, s, e, which, there):
    """Copy some chains to where they are moved."""
    y, q, sy, ey, _ = there
    for j in range(len(ey)):
        ey[j] = e[which[j]]
    for i in range(y.shape[0]):
        for j in range(len(ey)):
            k = which[j]
            y[i, j], q[i, j], sy[i, j] = x[i, k], p[i, k], s[i, k]


@part
def _leapfrog(block, params, step, metric, exponent, work, there):
    """Move chains in place, and leave the log ratio of each."""
    y, q, s, e, log_ratio = there
    d, width = y.shape
    half, full = work.half[:width], work.full[:width]
    for j in range(width):
        full[j] = step * 2.0 ** exponent[j]
        half[j] = 0.5 * full[j]
        log_ratio[j] = e[j]
    moves.add_kinetic(q, d, 1.0, log_ratio)
    moves.kick(q, s, half, metric)
    moves.drift(y, q, full, metric)
    _evaluate(block, params, y, s, e)
    moves.kick(q, s, half, metric)
    for j in range(width):
        log_ratio[j] -= e[j]
    moves.add_kinetic(q, d, -1.0, log_ratio)


_make_step: Any = None  # in each copy of the loop below, the step that it makes


def _sweep(target, kernel, metric, key, state, draws, tally, steps, start, stop):
    """Move chains start to stop by ``n_steps``, and keep every ``thin``-th of their states (0: none).
    They are counted from ``origin`` for their noise.

    ``state`` holds positions (n, d), energies (n,), scores and momenta; ``draws`` the kept positions
    (kept, n, d) and energies; ``tally`` the sums over steps of acceptance probability, divergence and
    exponent, which go on from what they are: they do not depend on the pieces a run is made in.
    """
    block, params = target
    first_step, n_steps, thin, origin = steps
    xs, es, ss, ps = state
    d = xs.shape[1]
    even = d + d % 2
    width = min(WIDTH, max(32, _CELLS // d))
    n_blocks = (stop - start + width - 1) // width
    # Blocks of one size, in whole vectors.
    width = ((stop - start + n_blocks - 1) // n_blocks + 7) // 8 * 8
    x, s, p, e = np.empty((d, width)), np.empty((d, width)), np.zeros((even, width)), np.empty(width)
    rows, columns, line = (d, width), (even, width), width
    work = Work(
        key, np.empty(columns), np.empty(columns), np.empty(rows), np.empty(rows), np.empty(line),
        np.empty(rows), np.empty(rows), np.empty(line), np.empty((6, width)), np.empty(line),
        np.empty(line), np.empty(line), np.empty(line), np.empty(line), np.empty(line, np.bool_),
        np.empty(line, np.int64), np.empty(line, np.int64), np.empty(line, np.int64),
        np.empty((4, width), np.uint32), np.empty((4, width), np.uint32), np.empty(line), np.empty(line),
        np.empty(line), np.empty(line), np.empty(line), np.empty(line), np.empty(line, np.int64),
        np.empty(line, np.int64), np.empty((3, d * width)), np.empty(line), np.empty(line),
    )  # fmt: skip
    for first in range(start, stop, width):
        n = min(width, stop - first)
        from_rows(xs, first, n, x)
        from_rows(ss, first, n, s)
        from_rows(ps, first, n, p)
        for j in range(width):
            e[j] = es[first + min(j, n - 1)]
        for j in range(width):
            column = first + min(j, n - 1)
            work.accepted[j], work.divergent[j], work.exponents[j] = (
                tally[0, column],
                tally[1, column],
                tally[2, column],
            )
        for t in range(n_steps):
            chains, number = (x, s, e, p), np.uint64(first_step + t)
            _make_step(block, params, kernel, metric, chains, work, origin + first, number)
            if thin and (t + 1) % thin == 0:
                to_rows(x, draws[0][(t + 1) // thin - 1], first, n)
                for j in range(n):
                    draws[1][(t + 1) // thin - 1, first + j] = e[j]
        to_rows(x, xs, first, n)
        to_rows(s, ss, first, n)
        to_rows(p, ps, first, n)
        for j in range(n):
            es[first + j] = e[j]
            tally[0, first + j] = work.accepted[j]
            tally[1, first + j] = work.divergent[j]
            tally[2, first + j] = work.exponents[j]


def _loop_of(make_step: Any, name: str) -> Any:
    """Return the loop of one step, which alone is compiled with it, and kept on disk by its name."""
    loop = FunctionType(_sweep.__code__.replace(co_name=name), {**globals(), "_make_step": make_step}, name)
    loop.__qualname__ = name
    return compiled(loop)


langevin = _loop_of(langevin_step, "langevin")
splitting = _loop_of(splitting_step, "splitting")
hamiltonian = _loop_of(hamiltonian_step, "hamiltonian")
adaptive = _loop_of(adaptive_step, "adaptive")
