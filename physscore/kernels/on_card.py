"""The loop over many small states on a card: a thread for each chain, all steps in one launch.

The energy's own function, the noise and the formulas of the kernels are the CPU's, compiled once more for
the card. The number of dimensions is a constant of the compiled loop, so that small states stay in
registers. Kernels and metrics are read as in ``kernels/fused.py``, and the same seed gives the same chain.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from physscore.arrays import compiled
from physscore.core import Array, InputError, Point
from physscore.cuda.points import beside, cuda, device, energy_of, launch
from physscore.elementary import log
from physscore.kernels import moves
from physscore.kernels.moves import DENSE, DIAGONAL
from physscore.noise import CHAIN
from physscore.parts import inline
from physscore.philox import LOWER_BITS, box_muller_64, fma, philox4x32, select

_u64, _i64, _f64 = np.uint64, np.int64, np.float64
_C3, _32 = _u64(CHAIN), _u64(32)


class Setting(NamedTuple):
    """What a loop is compiled for, besides the energy."""

    step: str
    dim: int
    kind: int
    harmonic: bool = False
    keeps: bool = False
    adjusted: bool = True


# --- The pieces of a step -------------------------------------------------------------------------


@cache
def _draw_for(dim: int) -> Any:
    """Return the function that fills ``out`` with the deviates of a chain's components at a step."""
    blocks = (dim + 3) // 4

    @device
    def draw(out, chain, number, k0, k1):
        for j in range(blocks):
            u0, u1, u2, u3 = philox4x32(_u64(j), chain, number, _C3, k0, k1)
            l0, l1, l2, l3 = philox4x32(_u64(j), chain, number, _C3 + LOWER_BITS, k0, k1)
            a, b = box_muller_64((_u64(u0) << _32) | _u64(l0), (_u64(u1) << _32) | _u64(l1), False)
            out[4 * j], out[4 * j + 1] = a, b
            if 4 * j + 2 < dim:
                a, b = box_muller_64((_u64(u2) << _32) | _u64(l2), (_u64(u3) << _32) | _u64(l3), False)
                out[4 * j + 2], out[4 * j + 3] = a, b

    return draw


@inline
def _log_of_word(word):
    """Return the log of the uniform that Box-Muller makes of a word: minus half its radius squared."""
    t = fma(_f64(_i64(word)), 2.0**-64, 2.0**-65)
    return log(select(t > 0.0, t, 1.0 + t))


@device
def _log_uniform(chain, number, k0, k1):
    """Return what moves.log_uniform makes of the two normals of draw 1, without making them."""
    c3 = _C3 + _u64(1)
    word, _1, _2, _3 = philox4x32(_u64(0), chain, number, c3, k0, k1)
    lower, _4, _5, _6 = philox4x32(_u64(0), chain, number, c3 + LOWER_BITS, k0, k1)
    return _log_of_word((_u64(word) << _32) | _u64(lower))


@cache
def _kick_and_drift(dim: int, kind: int) -> tuple[Any, Any]:
    """Return the kick, which takes the gradient and not the score, and the drift of one chain."""

    @device
    def kick(p, g, h, factor):
        for i in range(dim):
            if kind == DENSE:
                for k in range(i, dim):
                    p[i] = moves.kicked(p[i], -h, factor[k, i], g[k])
            else:
                p[i] = moves.kicked(p[i], -h, factor[0, i] if kind == DIAGONAL else 1.0, g[i])

    @device
    def drift(x, p, h, factor):
        for i in range(dim):
            if kind == DENSE:
                for k in range(i + 1):
                    x[i] = moves.drifted(x[i], h, factor[i, k], p[k])
            else:
                x[i] = moves.drifted(x[i], h, factor[0, i] if kind == DIAGONAL else 1.0, p[i])

    return kick, drift


# --- The loops ------------------------------------------------------------------------------------


@cache
def _unadjusted(energy: Any, setting: Setting) -> Any:
    """Return the loop of "langevin" or "splitting".

    Only a state that is kept needs its energy: the other steps are made apart, so that the compiler drops
    from them what the gradient does not need.
    """
    dim = setting.dim
    even, splitting = dim + dim % 2, setting.step == "splitting"
    draw, (kick, drift) = _draw_for(dim), _kick_and_drift(dim, setting.kind)

    @device
    def move(x, g, p, xi, params, factor, h, keep, change, chain, number, k0, k1):
        half = h / 2.0
        if splitting:
            draw(xi, chain, number, k0, k1)
            kick(p, g, half, factor)
            drift(x, p, half, factor)
            for i in range(dim):
                p[i] = moves.refreshed(p[i], keep, change, xi[i])
            drift(x, p, half, factor)
            e = energy(x, params, g)
            kick(p, g, half, factor)
        else:
            draw(p, chain, number, k0, k1)
            kick(p, g, half, factor)
            drift(x, p, h, factor)
            e = energy(x, params, g)
        return e

    @cuda.jit
    def loop(
        params, factor, h, keep, change, k0, k1, xs, es, ss, ps, out_x, out_e, first, n_steps, thin, origin
    ):
        own = cuda.grid(1)
        if own < xs.shape[0]:
            x, g = cuda.local.array(dim, np.float64), cuda.local.array(dim, np.float64)
            p, xi = cuda.local.array(even, np.float64), cuda.local.array(even, np.float64)
            for i in range(dim):
                x[i], g[i], p[i] = xs[own, i], -ss[own, i], ps[own, i]
            e, chain = es[own], _u64(origin + own)
            span = thin if thin > 0 else n_steps
            done, kept = 0, 0
            while done < n_steps:
                stop = min(done + span, n_steps)
                for t in range(done, stop - 1):
                    move(x, g, p, xi, params, factor, h, keep, change, chain, _u64(first + t), k0, k1)
                number = _u64(first + stop - 1)
                e = move(x, g, p, xi, params, factor, h, keep, change, chain, number, k0, k1)
                if thin > 0 and stop - done == thin:
                    for i in range(dim):
                        out_x[kept, own, i] = x[i]
                    out_e[kept, own] = e
                    kept += 1
                done = stop
            for i in range(dim):
                xs[own, i], ss[own, i], ps[own, i] = x[i], -g[i], p[i]
            es[own] = e

    return loop


@cache
def _adjusted(energy: Any, setting: Setting) -> Any:
    """Return the loop of "hamiltonian". On a trajectory one call site of the energy serves all leaps."""
    _, dim, kind, harmonic, keeps, adjusted = setting
    even = dim + dim % 2
    draw, (kick, drift) = _draw_for(dim), _kick_and_drift(dim, kind)

    @device
    def kinetic(p, factor, total):
        for i in range(dim):
            total += (0.5 * factor) * (p[i] * p[i])
        return total

    @device
    def follow(y, p, gy, params, factor, turn, leaps):
        """Follow a trajectory of several leaps, and return the energy at its end.

        ``turn`` holds the step and, of a harmonic one, the tangent of its half, its cosine and its sine.
        """
        e = 0.0
        if harmonic:
            for i in range(dim):
                p[i] = moves.kicked(p[i], turn[1], 1.0, -gy[i] + y[i])
            for leap in range(leaps):
                for i in range(dim):
                    y[i], p[i] = moves.rotated(y[i], p[i], turn[2], turn[3])
                e = energy(y, params, gy)
                h = 2.0 * turn[1] if leap + 1 < leaps else turn[1]
                for i in range(dim):
                    p[i] = moves.kicked(p[i], h, 1.0, -gy[i] + y[i])
        else:
            half = turn[0] / 2.0
            for leap in range(leaps):
                kick(p, gy, half if leap == 0 else turn[0], factor)
                drift(y, p, turn[0], factor)
                e = energy(y, params, gy)
            kick(p, gy, half, factor)
        return e

    @cuda.jit
    def loop(
        params, factor, turns, leaps, keep, change, k0, k1, xs, es, ss, ps, out_x, out_e, tally, first, thin,
        origin,
    ):  # fmt: skip
        own = cuda.grid(1)
        if own < xs.shape[0]:
            x, g = cuda.local.array(dim, np.float64), cuda.local.array(dim, np.float64)
            y, gy = cuda.local.array(dim, np.float64), cuda.local.array(dim, np.float64)
            p, xi = cuda.local.array(even, np.float64), cuda.local.array(even, np.float64)
            old = cuda.local.array(dim, np.float64)
            for i in range(dim):
                x[i], g[i], p[i] = xs[own, i], -ss[own, i], ps[own, i]
            e, chain = es[own], _u64(origin + own)
            accepted, divergent = tally[0, own], tally[1, own]
            until, kept = thin, 0
            for t in range(leaps.shape[0]):
                number = _u64(first + t)
                if keeps:
                    draw(xi, chain, number, k0, k1)
                    for i in range(dim):
                        p[i] = moves.refreshed(p[i], keep, change, xi[i])
                        old[i] = p[i]
                else:
                    draw(p, chain, number, k0, k1)
                for i in range(dim):
                    y[i], gy[i] = x[i], g[i]
                log_ratio = kinetic(p, 1.0, e)
                ey = follow(y, p, gy, params, factor, turns[t], leaps[t])
                log_ratio = kinetic(p, -1.0, log_ratio - ey)
                if adjusted:
                    taken = _log_uniform(chain, number, k0, k1) < log_ratio
                    accepted += moves.probability(log_ratio)
                else:
                    taken = True
                    accepted += log_ratio
                divergent += 1.0 if moves.diverged(log_ratio) else 0.0
                e = ey if taken else e
                for i in range(dim):
                    x[i] = y[i] if taken else x[i]
                    g[i] = gy[i] if taken else g[i]
                    if keeps:
                        p[i] = p[i] if taken else -old[i]
                until -= 1
                if until == 0:
                    for i in range(dim):
                        out_x[kept, own, i] = x[i]
                    out_e[kept, own] = e
                    until, kept = thin, kept + 1
            for i in range(dim):
                xs[own, i], ss[own, i], ps[own, i] = x[i], -g[i], p[i]
            es[own], tally[0, own], tally[1, own] = e, accepted, divergent

    return loop


@compiled
def _schedule(step, length, relief, first, turns, leaps):
    """Fill in what is the same for all chains: the trajectories' steps and their numbers of leaps."""
    for t in range(len(leaps)):
        number = np.uint64(first + t)
        h = moves.step_of(step, relief, number)
        turns[t, 0], turns[t, 1], turns[t, 2], turns[t, 3] = h, np.tan(h / 2), np.cos(h), np.sin(h)
        leaps[t] = moves.n_leaps(length, number)


# --- The face -------------------------------------------------------------------------------------


def advance(
    step: str,
    point: Point,
    kernel: Any,
    metric: tuple[int, Array],
    key: tuple[np.uint64, np.uint64],
    state: tuple[Any, Any, Any, Any],
    draws: tuple[Any, Any],
    tally: Any,
    steps: tuple[int, int, int, int],
) -> None:
    """Move all chains by a number of steps, in place: what ``kernels/fused.py`` does, on a card.

    Parameters
    ----------
    step
        "langevin", "splitting" or "hamiltonian".
    point
        The energy.
    kernel, metric
        The kernel's ``Moves``; kind and factor of the metric, in host memory.
    key
        Of the noise.
    state
        Positions (n, d), energies (n,), scores (n, d) and momenta (n, d): CuPy's contiguous float64.
    draws
        Kept positions (kept, n, d) and energies (kept, n).
    tally
        Sums over steps of acceptance, divergences and exponents, (3, n), which go on from what they are.
    steps
        Number of the first step, how many, every how many one is kept (0: none), number of the first chain.

    Raises
    ------
    InputError
        If the energy does not compile for the card, a state is too large, or there is no such loop.
    """
    x, e, s, p = state
    first, n_steps, thin, origin = steps
    if step not in ("langevin", "splitting", "hamiltonian"):
        raise InputError(f"step {step!r} has no loop for a card: use the CPU's")
    energy = energy_of(point, x.shape[1])
    if n_steps == 0 or len(x) == 0:
        return
    kind, factor = metric
    out_x, out_e = draws if thin else (x[np.newaxis], e[np.newaxis])
    numbers, factors = beside(x, point.params), beside(x, factor)
    keep, change = float(kernel.keep), float(np.sqrt(1.0 - kernel.keep**2))
    if step == "hamiltonian":
        setting = Setting(
            step, x.shape[1], kind, bool(kernel.harmonic), kernel.keep != 0, bool(kernel.adjusted)
        )
        turns, leaps = np.empty((n_steps, 4)), np.empty(n_steps, np.int64)
        _schedule(kernel.step, kernel.length, kernel.relief, first, turns, leaps)
        launch(
            _adjusted(energy, setting), x, numbers, factors, beside(x, turns), beside(x, leaps), keep,
            change, *key, x, e, s, p, out_x, out_e, tally, first, thin, origin,
        )  # fmt: skip
    else:
        setting = Setting(step, x.shape[1], kind)
        launch(
            _unadjusted(energy, setting), x, numbers, factors, float(kernel.step), keep, change, *key,
            x, e, s, p, out_x, out_e, first, n_steps, thin, origin,
        )  # fmt: skip
