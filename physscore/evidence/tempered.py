"""The geometric path from a reference to a target, at one temperature, as the kernels see it.

Chains move in coordinates v with y = mean + scale v, where y are those in which the reference is a
standard normal: E_beta(y) = |y|^2 / 2 + beta u(y), and u is the energy that the target has beyond the
reference's. ``mean`` and ``scale`` describe the density at beta, so that in v it is near a standard normal.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dtrtri

from physscore.arrays import compiled, on_gpu, parallel
from physscore.core import Array, Energy, Point
from physscore.energies.whitening import pull_back, unwhiten
from physscore.evidence.excess import Excess, ModeExcess
from physscore.parts import in_any_order
from physscore.points import address_of, call_block, compiled_block, from_block


@compiled_block
def _tempered_block(x, params, gradient_out, energy_out):
    """params: beta, dense, mean[d], scale[d] or [d, d], the share of |y|^2 / 2 that u is without, what else,
    address of the difference, how many numbers the reference has, these, and those of the difference."""
    d, n = x.shape
    beta, dense = params[0], params[1] != 0.0
    mean, scale = params[2 : 2 + d], params[2 + d :]
    rest = 2 + d + (d * d if dense else d)
    left, offset = 1.0 - beta * params[rest], params[rest + 1]
    rest += 2
    y, states, slope, excess = np.empty((d, n)), np.empty((d, n)), np.empty((d, n)), np.empty(n)
    for i in range(d):
        if dense:
            y[i] = mean[i]
            for k in range(i + 1):
                w = scale[i * d + k]
                for j in range(n):
                    y[i, j] += w * x[k, j]
        else:
            for j in range(n):
                y[i, j] = mean[i] + scale[i] * x[i, j]
    address = params[rest : rest + 1].view(np.int64)[0]
    start = rest + 2 + int(params[rest + 1])
    reference = params[rest + 2 : start]
    unwhiten(reference, y, states)
    call_block(address, states, params[start:], slope, excess)
    pull_back(reference, y, states, slope)
    for j in range(n):
        energy_out[j] = beta * (excess[j] - offset)
    for i in range(d):
        for j in range(n):
            energy_out[j] += 0.5 * left * y[i, j] * y[i, j]
            slope[i, j] = left * y[i, j] + beta * slope[i, j]
    for i in range(d):
        if dense:
            w = scale[i * d + i]
            for j in range(n):
                gradient_out[i, j] = w * slope[i, j]
            for k in range(i + 1, d):
                w = scale[k * d + i]
                for j in range(n):
                    gradient_out[i, j] += w * slope[k, j]
        else:
            for j in range(n):
                gradient_out[i, j] = scale[i] * slope[i, j]


@in_any_order
def _sum_of_squares(x):
    total = 0.0
    for i in range(len(x)):
        total += x[i] * x[i]
    return total


@compiled
def _leave(y, slope, mean, scale, beta, v, score, squares, start, stop):
    """Turn rows of y and of the gradient of u into v and its score."""
    for row in range(start, stop):
        here, bent, there, out = y[row], slope[row], v[row], score[row]
        for i in range(len(here)):
            there[i] = (here[i] - mean[i]) / scale[i]
            out[i] = -scale[i] * (here[i] + beta * bent[i])
        squares[row] = _sum_of_squares(here)


@compiled
def _arrive(v, score, mean, scale, beta, y, slope, squares, start, stop):
    """Turn rows of v and its score back into y and the gradient of u."""
    for row in range(start, stop):
        here, bent, there, out = v[row], score[row], y[row], slope[row]
        for i in range(len(here)):
            there[i] = mean[i] + scale[i] * here[i]
            out[i] = -(bent[i] / scale[i] + there[i]) / beta
        squares[row] = _sum_of_squares(there)


@compiled
def _leave_dense(y, slope, mean, scale, inverse, beta, v, score, squares, start, stop):
    """The same for a lower triangular matrix; ``inverse`` is that of its transpose."""
    d = y.shape[1]
    for row in range(start, stop):
        here, bent, there, out = y[row], slope[row], v[row], score[row]
        there[:], out[:] = 0.0, 0.0
        for k in range(d):
            centred, force = here[k] - mean[k], -(here[k] + beta * bent[k])
            column, line = inverse[k], scale[k]
            for i in range(k, d):
                there[i] += column[i] * centred
            for i in range(k + 1):
                out[i] += line[i] * force
        squares[row] = _sum_of_squares(here)


@compiled
def _arrive_dense(v, score, mean, scale, inverse, beta, y, slope, squares, start, stop):
    """The same for a lower triangular matrix; ``scale`` is its transpose."""
    d = v.shape[1]
    for row in range(start, stop):
        here, bent, there, out = v[row], score[row], y[row], slope[row]
        for i in range(d):
            there[i], out[i] = mean[i], 0.0
        for k in range(d):
            x, force = here[k], bent[k]
            column, line = scale[k], inverse[k]
            for i in range(k, d):
                there[i] += column[i] * x
            for i in range(k + 1):
                out[i] += line[i] * force
        for i in range(d):
            out[i] = -(out[i] + there[i]) / beta
        squares[row] = _sum_of_squares(there)


@compiled
def _pull_dense(gradient, scale, out, start, stop):
    """Multiply rows by a lower triangular matrix from the right."""
    for row in range(start, stop):
        here, there = gradient[row], out[row]
        there[:] = 0.0
        for k in range(len(here)):
            line, force = scale[k], here[k]
            for i in range(k + 1):
                there[i] += line[i] * force


class Tempered(Energy):
    """The density at one beta between a reference and a target, over the coordinates v.

    Parameters
    ----------
    excess
        What the target has beyond the reference.
    dense
        Whether scales are matrices.

    Attributes
    ----------
    beta : float
    mean, scale : array (d,), array (d,) or (d, d)
        See :meth:`place`.
    """

    def __init__(self, excess: Excess, *, dense: bool = False) -> None:
        self.excess, self.dense = excess, dense
        self.shape = (excess.dim,)
        self.one_by_one = excess.one_by_one
        one = np.eye(self.dim) if dense else np.ones(self.dim)
        self.beta, self.mean, self.scale, self.inverse = 1.0, np.zeros(self.dim), one, one

    def place(self, beta: float, mean: Array, scale: Array) -> None:
        """Go to ``beta``, and to the coordinates y = mean + scale v; a matrix is lower triangular."""
        self.beta, self.mean, self.scale = beta, mean, scale
        if on_gpu(scale):
            assert isinstance(self.excess, ModeExcess)
            self._over = self.excess.over(beta, mean, scale)
        if self.dense:
            self.inverse = dtrtri(scale, lower=1)[0]
        if self.point is not None:
            self.point.params[: 2 + self.dim + scale.size] = np.concatenate(
                [[beta, float(self.dense)], mean, scale.ravel()]
            )

    @cached_property
    def _point(self) -> Point | None:
        numbers, point = self.excess.numbers, self.excess.point
        if numbers is None or point is None:
            return None
        address = np.array([address_of(point)]).view(np.float64)
        own = [float(self.excess.own), self.excess.offset]
        head = [[self.beta, float(self.dense)], self.mean, self.scale.ravel(), own]
        return from_block(
            _tempered_block, np.concatenate([*head, address, [len(numbers)], numbers, point.params])
        )

    def pull(self, gradient: Array) -> Array:
        """Return a gradient over v, given that over y."""
        if not self.dense:
            return gradient * self.scale
        out = np.empty_like(gradient)
        parallel(_pull_dense, len(out), gradient, self.scale, out, at_least=max(1, 10_000 // self.scale.size))
        return out

    def push(self, change: Array) -> Array:
        """Return a change of y, given that of v."""
        return change @ self.scale.T if self.dense else change * self.scale

    def forth(self, v: Array) -> Array:
        """Return y = mean + scale v."""
        return self.mean + self.push(v)

    def score_of(self, y: Array, slope: Array) -> Array:
        """Return the score over v, given the gradient of u over y."""
        over_y = -(y + self.beta * slope)
        return over_y @ self.scale if self.dense else over_y * self.scale

    def leave(self, y: Array, slope: Array) -> tuple[Array, Array, Array]:
        """Return v, its score and |y|^2 for coordinates ``y``, given the gradient of u there."""
        if on_gpu(y):
            from physscore.cuda import tempered as on_card

            return on_card.leave(y, slope, self.mean, self.scale, self.beta)
        matrices = (self.scale, np.ascontiguousarray(self.inverse.T)) if self.dense else (self.scale,)
        return self._of_rows(_leave_dense if self.dense else _leave, y, slope, *matrices)

    def arrive(self, v: Array, score: Array) -> tuple[Array, Array, Array]:
        """Return y, the gradient of u and |y|^2: what :meth:`leave` was given."""
        if on_gpu(v):
            from physscore.cuda import tempered as on_card

            return on_card.arrive(v, score, self.mean, self.scale, self.beta)
        matrices = (np.ascontiguousarray(self.scale.T), self.inverse) if self.dense else (self.scale,)
        return self._of_rows(_arrive_dense if self.dense else _arrive, v, score, *matrices)

    def _of_rows(self, change: Any, x: Array, score: Array, *matrices: Array) -> tuple[Array, Array, Array]:
        to, made, squares = np.empty_like(x), np.empty_like(x), np.empty(len(x))
        at_least = max(1, 10_000 // (self.dim * (self.dim if self.dense else 1)))
        parallel(
            change, len(x), x, score, self.mean, *matrices, self.beta, to, made, squares, at_least=at_least
        )
        return to, made, squares

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return E_beta and the score at coordinates v."""
        if on_gpu(x):
            return self._over.energy_and_score(x)
        y = self.forth(x)
        u, slope = self.excess(y)
        energy = 0.5 * np.einsum("ni,ni->n", y, y) + self.beta * u
        return energy, self.score_of(y, slope)
