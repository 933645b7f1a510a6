"""The loop over few large states: the energy works on whole arrays, and what a step does around it
is fused into a few passes over memory, spread over threads by pieces of the cells.

The formulas are those of ``moves.py``, the deviates those of ``noise.normal``, so a small problem
gives the same chain here as in ``fused.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from physscore.arrays import compiled, namespace, on_gpu, parallel
from physscore.core import Array
from physscore.kernels import moves
from physscore.kernels.metric import Metric
from physscore.memory import empty
from physscore.noise import fill_row, normal, seed_key
from physscore.parts import in_any_order, inline

_LEAST = 16384  # cells for a thread
_PIECE = 4096  # cells in a piece: a multiple of 4, and small enough to stay in the cache
MAX_DOUBLINGS = 60


@in_any_order
def _sum_of_squares(p):
    total = 0.0
    for i in range(len(p)):
        total += np.float64(p[i]) * np.float64(p[i])
    return total


@inline
def _move(x, s, p, w, kick, drift, harmonic, y):
    """Kick p, then let x drift to y (drift = 0: it stays), over one piece of one chain."""
    one = p.dtype.type(1)
    if harmonic:
        cos, sin = p.dtype.type(math.cos(drift)), p.dtype.type(math.sin(drift))
        for i in range(len(p)):
            pushed = moves.kicked(p[i], kick, one, s[i] + x[i])
            y[i], p[i] = moves.rotated(x[i], pushed, cos, sin)
    elif len(w) == 0:
        for i in range(len(p)):
            p[i] = moves.kicked(p[i], kick, one, s[i])
            y[i] = moves.drifted(x[i], drift, one, p[i])
    else:
        for i in range(len(p)):
            p[i] = moves.kicked(p[i], kick, w[i], s[i])
            y[i] = moves.drifted(x[i], drift, w[i], p[i])


@inline
def _kick(x, s, p, w, kick, harmonic):
    one = p.dtype.type(1)
    if harmonic:
        for i in range(len(p)):
            p[i] = moves.kicked(p[i], kick, one, s[i] + x[i])
    elif len(w) == 0:
        for i in range(len(p)):
            p[i] = moves.kicked(p[i], kick, one, s[i])
    else:
        for i in range(len(p)):
            p[i] = moves.kicked(p[i], kick, w[i], s[i])


@inline
def _fresh(p, chain, low, key, number, words, lower, xi, ones):
    """Return new momenta for one piece of one chain."""
    n_blocks = (len(p) + 3) // 4
    new = xi[: 4 * n_blocks]
    fill_row(new, words, lower, ones, low // 4, n_blocks, np.uint64(chain), number, 0, key[0], key[1])
    return new[: len(p)]


@compiled
def _renew(p, keep, key, number, first, kinetic, start, stop):
    """Refresh the momenta of pieces start to stop, and add up their squares."""
    n_pieces, size = kinetic.shape[1], p.shape[1]
    words, lower = np.empty(_PIECE, np.uint32), np.empty(_PIECE, np.uint32)
    xi, ones = np.empty(_PIECE, p.dtype), np.ones(_PIECE // 2, p.dtype)
    kept, change = p.dtype.type(keep), p.dtype.type(math.sqrt(1.0 - keep * keep))
    for task in range(start, stop):
        chain, piece = task // n_pieces, task % n_pieces
        low, high = piece * _PIECE, min((piece + 1) * _PIECE, size)
        part = p[chain, low:high]
        new = _fresh(part, first + chain, low, key, number, words, lower, xi, ones)
        for i in range(len(part)):
            part[i] = moves.refreshed(part[i], kept, change, new[i])
        kinetic[chain, piece] = 0.5 * _sum_of_squares(part)


@compiled
def _push(x, s, p, w, kick, drift, harmonic, y, anew, key, number, first, kinetic, start, stop):
    """Kick and, if there is a y, drift pieces start to stop; add up the squares of their momenta after
    the kick. ``anew``: draw the momenta first, and add up the squares before the kick."""
    n_pieces, size = kinetic.shape[1], p.shape[1]
    room = _PIECE if anew else 0
    words, lower = np.empty(room, np.uint32), np.empty(room, np.uint32)
    xi, ones = np.empty(room, p.dtype), np.ones(room // 2, p.dtype)
    for task in range(start, stop):
        chain, piece = task // n_pieces, task % n_pieces
        low, high = piece * _PIECE, min((piece + 1) * _PIECE, size)
        part, rows = p[chain, low:high], w[low:high]
        if anew:
            new = _fresh(part, first + chain, low, key, number, words, lower, xi, ones)
            for i in range(len(part)):
                part[i] = new[i]
            kinetic[chain, piece] = 0.5 * _sum_of_squares(part)
        if len(y):
            _move(x[chain, low:high], s[chain, low:high], part, rows, kick[chain], drift[chain], harmonic,
                  y[chain, low:high])  # fmt: skip
        else:
            _kick(x[chain, low:high], s[chain, low:high], part, rows, kick[chain], harmonic)
        if not anew:
            kinetic[chain, piece] = 0.5 * _sum_of_squares(part)


@compiled
def _decide(e, kinetic, new_e, new_kinetic, adjusted, key, number, first, accepted, divergent, taken):
    """Say which chains take the new state, and add to the tally what happened."""
    words, lower, xi, ones = np.empty(4, np.uint32), np.empty(4, np.uint32), np.empty(4), np.ones(2)
    for j in range(len(e)):
        log_ratio = e[j] + kinetic[j] - new_e[j] - new_kinetic[j]
        fill_row(xi, words, lower, ones, 0, 1, np.uint64(first + j), number, 1, key[0], key[1])
        taken[j] = moves.log_uniform(xi[0], xi[1]) < log_ratio or not adjusted
        accepted[j] += moves.probability(log_ratio) if adjusted else log_ratio
        divergent[j] += 1.0 if moves.diverged(log_ratio) else 0.0


class Batch:
    """What a step does to a batch of large states, arrays (n, d); the first is chain ``first``."""

    def __init__(
        self, evaluate: Callable[[Array], tuple[Array, Array]], metric: Any, seed: int, first: int = 0,
        device: str = "cpu",
    ) -> None:  # fmt: skip
        self.evaluate = evaluate
        self.device = device
        self.metric = metric
        self.key = seed_key(seed)
        self.seed, self.first = seed, first

    def moving(self, factor: Array) -> Batch:
        """Return the same with a diagonal metric, W of shape (1, d)."""
        metric = Metric()  # which may keep all where they are
        metric.kind, metric.factor = moves.DIAGONAL, factor
        return Batch(self.evaluate, metric, self.seed, self.first, self.device)

    def renew(self, p: Array, keep: float, number: int) -> Array:
        """Refresh momenta in place; return their kinetic energies, of shape (n,)."""
        if self.device == "gpu":
            from physscore.cuda import moves as on_card

            return cast(Array, on_card.renew(p, keep, self.key, number, self.first))
        kinetic = _pieces(p)
        parallel(
            _renew, kinetic.size, p, keep, self.key, np.uint64(number), self.first, kinetic,
            at_least=_for_a_thread(p),
        )  # fmt: skip
        return _summed(kinetic)

    def push(
        self, x: Array, s: Array, p: Array, kick: Array | float, drift: Array | float,
        harmonic: bool = False, anew: int | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Kick momenta in place and drift; return the new positions and the kinetic energies.

        With ``anew``, the number of a step, momenta are drawn first, and their energies are returned as
        they were before the kick.
        """
        y = namespace("gpu").empty(x.shape, x.dtype) if self.device == "gpu" else empty(x.shape, x.dtype)
        kinetic = self._kick(x, s, p, kick, drift, harmonic, y, anew)
        if not harmonic and self.metric.kind == moves.DENSE:
            rows = namespace(self.device).zeros(len(x), x.dtype)
            rows += drift
            y = x + rows[:, np.newaxis] * (p @ self._factor(x.dtype).T)
        return y, kinetic

    def finish(self, x: Array, s: Array, p: Array, kick: Array | float, harmonic: bool = False) -> Array:
        """Kick momenta in place without a drift; return the kinetic energies."""
        return self._kick(x, s, p, kick, 0.0, harmonic, x[:0], None)

    def _kick(
        self, x: Array, s: Array, p: Array, kick: Array | float, drift: Array | float, harmonic: bool,
        y: Array, anew: int | None,
    ) -> Array:  # fmt: skip
        w = np.empty(0, x.dtype)  # none
        if not harmonic and self.metric.kind == moves.DIAGONAL:
            w = self._factor(x.dtype)[0]
        if not harmonic and self.metric.kind == moves.DENSE:
            s = s @ self._factor(x.dtype)
        if self.device == "gpu":
            from physscore.cuda import moves as on_card

            return cast(Array, on_card.push(
                x, s, p, w if len(w) else None, kick, drift, harmonic, y if len(y) else None, anew,
                self.key, self.first,
            ))  # fmt: skip
        kicks, drifts = np.empty(len(x), x.dtype), np.empty(len(x), np.float64 if harmonic else x.dtype)
        kicks[:], drifts[:] = kick, drift
        kinetic = _pieces(p)
        parallel(
            _push, kinetic.size, x, s, p, w, kicks, drifts, harmonic, y, anew is not None, self.key,
            np.uint64(anew or 0), self.first, kinetic, at_least=_for_a_thread(p),
        )  # fmt: skip
        return _summed(kinetic)

    def _factor(self, dtype: Any) -> Array:
        if self.device == "cpu":
            return cast(Array, self.metric.factor_of_type(dtype))
        from physscore.cuda import kept

        return cast(
            Array,
            kept(self.metric, f"factor {np.dtype(dtype)}", lambda: self.metric.factor_of_type(dtype)),
        )

    def accept(
        self, e: Array, kinetic: Array, new_e: Array, new_kinetic: Array, number: int, adjusted: bool,
        tally: Array,
    ) -> Array:  # fmt: skip
        """Return which chains take the new state, and add to the ``tally`` what happened."""
        if self.device == "gpu":
            from physscore.cuda import moves as on_card

            return cast(Array, on_card.accept(
                e, kinetic, new_e, new_kinetic, adjusted, moves.DIVERGED, number, self.key, self.first, tally
            ))  # fmt: skip
        taken = np.empty(len(e), np.bool_)
        _decide(
            e, kinetic, new_e, new_kinetic, adjusted, self.key, np.uint64(number), self.first, tally[0],
            tally[1], taken,
        )  # fmt: skip
        return taken

    def log_uniforms(self, n: int, number: int, which: int = 0) -> Array:
        """Return a logarithm of a uniform for each chain."""
        deviates = normal(
            n, 6, seed=self.seed, step=number, draw=1, first=self.first, device=self.device
        )  # fmt: skip
        a, b = deviates[:, 2 * which], deviates[:, 2 * which + 1]
        return cast(Array, -0.5 * (a * a + b * b))


def _pieces(p: Array) -> Array:
    return np.empty((p.shape[0], -(-p.shape[1] // _PIECE)))


def _for_a_thread(p: Array) -> int:
    """Return how many pieces are worth a thread."""
    return int(max(1, _LEAST // max(1, min(p.shape[1], _PIECE))))


def _summed(kinetic: Array) -> Array:
    return kinetic[:, 0] if kinetic.shape[1] == 1 else np.asarray(kinetic.sum(axis=1))


def langevin_step(batch: Batch, kernel: Any, state: Any, number: int, tally: Array) -> None:
    """Unadjusted Langevin."""
    state.x, _ = batch.push(state.x, state.s, state.p, kernel.step / 2, kernel.step, anew=number)
    state.e, state.s = batch.evaluate(state.x)


def splitting_step(batch: Batch, kernel: Any, state: Any, number: int, tally: Array) -> None:
    """Underdamped Langevin by the splitting BAOAB."""
    half = kernel.step / 2
    state.x, _ = batch.push(state.x, state.s, state.p, half, half)
    batch.renew(state.p, kernel.keep, number)
    state.x, _ = batch.push(state.x, state.s, state.p, 0.0, half)
    state.e, state.s = batch.evaluate(state.x)
    batch.finish(state.x, state.s, state.p, half)


def hamiltonian_step(batch: Batch, kernel: Any, state: Any, number: int, tally: Array) -> None:
    """Refresh the momentum, follow a trajectory, accept or turn back."""
    step = float(moves.step_of.py_func(kernel.step, kernel.relief, number))
    kick = math.tan(step / 2) if kernel.harmonic else step / 2
    p, old_p = state.p, None
    if kernel.keep:
        kinetic = batch.renew(p, kernel.keep, number)
        old_p = p.copy()
        y, _ = batch.push(state.x, state.s, p, kick, step, kernel.harmonic)
    else:
        y, kinetic = batch.push(state.x, state.s, p, kick, step, kernel.harmonic, anew=number)
    e, s = batch.evaluate(y)
    for _ in range(1, int(moves.n_leaps.py_func(kernel.length, number))):
        y, _ = batch.push(y, s, p, 2 * kick, step, kernel.harmonic)
        e, s = batch.evaluate(y)
    after = batch.finish(y, s, p, kick, kernel.harmonic)
    taken = batch.accept(state.e, kinetic, e, after, number, kernel.adjusted, tally)
    if old_p is not None:
        state.p = np.where(taken[:, np.newaxis], p, -old_p)
    _take(state, taken, y, e, s)


def _take(state: Any, taken: Array, y: Array, e: Array, s: Array) -> None:
    """Put the new in the place of the old where it is taken, copying the fewer rows."""
    if on_gpu(y):
        from physscore.cuda import moves as on_card

        on_card.take(taken, state.x, y, state.s, s, state.e, e)
        return
    kept, other, rows = (state.x, state.e, state.s), (y, e, s), taken
    if 2 * taken.sum() > len(taken):
        kept, other, rows = other, kept, ~taken
    if rows.any():
        for array, source in zip(kept, other, strict=True):
            array[rows] = source[rows]
    state.x, state.e, state.s = kept


def adaptive_step(batch: Batch, kernel: Any, state: Any, number: int, tally: Array) -> None:
    """autoMALA; see ``fused.adaptive_step``."""
    n = len(state.x)
    batch.renew(state.p, 0.0, number)
    if kernel.sweep:
        d, metric = state.p.shape[1], (batch.metric.kind, batch.metric.factor)
        batch = batch.moving(moves.one_row.py_func(number % (d + 1), d, metric)[1])
    log_u = batch.log_uniforms(n, number)
    a, b = batch.log_uniforms(n, number, 1), batch.log_uniforms(n, number, 2)
    bounds = -np.maximum(a, b), -np.minimum(a, b)
    chosen, y, e, s, p, log_ratio = _search(batch, kernel.step, bounds, state.x, state.e, state.s, state.p)
    back = _search(batch, kernel.step, bounds, y, e, s, -p)[0]
    same = chosen == back
    with np.errstate(invalid="ignore", over="ignore"):
        probability = np.exp(np.minimum(log_ratio, 0.0))
    tally[0] += np.where(same & np.isfinite(probability), probability, 0.0)
    tally[1] += (~((log_ratio > -moves.DIVERGED) | (log_ratio == -np.inf))).astype(np.float64)
    tally[2] += chosen.astype(np.float64)
    _take(state, same & (log_u < log_ratio), y, e, s)


def _search(
    batch: Batch, step: float, bounds: tuple[Array, Array], x: Array, e: Array, s: Array, p: Array
) -> tuple[Array, ...]:
    """Return the powers of 2 for the steps from (x, p), and where those steps lead."""
    near, far = bounds
    exponent = np.zeros_like(e, dtype=np.int64)
    y, ey, sy, q, log_ratio = _leapfrog(batch, step, exponent, x, e, s, p)
    error = np.abs(log_ratio)
    direction = (error < near).astype(np.int64) - (~(error <= far)).astype(np.int64)
    best = exponent.copy()
    while True:
        active = np.flatnonzero(direction)
        if len(active) == 0:
            return best, y, ey, sy, q, log_ratio
        exponent[active] += direction[active]
        found = _leapfrog(batch, step, exponent[active], x[active], e[active], s[active], p[active])
        error = np.abs(found[4])
        up = direction[active] > 0
        # Upwards the last step that is still good is kept, downwards the first that is good.
        better = ~up | (error < near[active])
        kept = active[better]
        for array, new in zip((y, ey, sy, q, log_ratio), found, strict=True):
            array[kept] = new[better]
        best[kept] = exponent[kept]
        done = np.where(up, ~(error < near[active]), error <= far[active])
        direction[active[done | (np.abs(exponent[active]) >= MAX_DOUBLINGS)]] = 0


def _leapfrog(
    batch: Batch, step: float, exponent: Array, x: Array, e: Array, s: Array, p: Array
) -> tuple[Array, Array, Array, Array, Array]:
    h = step * 2.0 ** exponent.astype(np.float64)
    q = p.copy()
    start = batch.finish(x, s, q, 0.0)
    y, _ = batch.push(x, s, q, h / 2, h)
    ey, sy = batch.evaluate(y)
    with np.errstate(invalid="ignore", over="ignore"):
        return y, ey, sy, q, e + start - ey - batch.finish(y, sy, q, h / 2)
