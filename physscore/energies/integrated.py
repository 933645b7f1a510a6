"""The energy of a score that has none, by integrals of the score along lines."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states
from physscore.core import Array, Energy, InputError, Score

_AT_ONCE = 1 << 22  # components of the states that are handed to the score together
_rule = cache(np.polynomial.legendre.leggauss)  # takes longer than the score of a few states


class IntegratedScore(Energy):
    """The energy E(x) = -integral over t from 0 to 1 of s(o + t (x - o)) . (x - o), which is 0 at o.

    The integral is a Gauss-Legendre sum of n nodes: exact where the score along the line is a polynomial
    of degree below 2n. The score itself passes through; it is -grad E only if it is a gradient field,
    which :meth:`curl` tests.

    Parameters
    ----------
    score
        What is integrated.
    origin
        The state o at which the energy is 0, of shape ``score.shape``. [default: all zeros]
    nodes
        Number of nodes on a line, so evaluations of the score for an energy.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """

    def __init__(self, score: Score, origin: Any = None, nodes: int = 16) -> None:
        if not isinstance(score, Score):
            raise InputError(f"score is {score!r}: it must be a Score, as of from_functions(score=, shape=)")
        if isinstance(nodes, bool) or not isinstance(nodes, int | np.integer) or nodes < 1:
            raise InputError(f"nodes is {nodes!r}: it must be a whole number of at least 1")
        given = np.zeros(score.shape) if origin is None else np.asarray(origin)
        if given.shape != score.shape or given.dtype.kind not in "fiub" or not np.isfinite(given).all():
            raise InputError(
                f"origin has shape {given.shape} and type {given.dtype}: it must be one state of finite "
                f"numbers, of shape {score.shape}"
            )
        self.wrapped = score
        self.shape = score.shape
        self.one_by_one = score.one_by_one
        self.origin = given.astype(np.float64)
        self.nodes = int(nodes)

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return the energies relative to that of the origin: shape (n,)."""
        return -self._from_origin(as_states(x, self.shape), self.nodes)

    def score(self, x: Array) -> Array:
        """Return the score that is integrated."""
        return self.wrapped.score(x)

    def quadrature_error(self, x: Array) -> npt.NDArray[np.float64]:
        """Return how far the energies are from those by 2n + 1 nodes instead of n: shape (n,)."""
        states = as_states(x, self.shape)
        finer = self._from_origin(states, 2 * self.nodes + 1)
        return np.abs(self._from_origin(states, self.nodes) - finer)

    def curl(self, x: Array, y: Array) -> npt.NDArray[np.float64]:
        """Return the integral of the score around the triangles origin, x, y, origin: shape (n,).

        It is zero, but for the error of the sums, if the score is a gradient. If it is -x + w J x in a plane,
        with J a turn by 90 degrees, it is 2 w times the area.

        Raises
        ------
        InputError
            If there are not as many states ``y`` as ``x``.
        """
        first, second = as_states(x, self.shape), as_states(y, self.shape, "y")
        if len(first) != len(second):
            raise InputError(f"x has {len(first)} states and y {len(second)}: each triangle has one of both")
        across = self._line_integral(first, second - first, self.nodes)
        return self._from_origin(first, self.nodes) + across - self._from_origin(second, self.nodes)

    def _from_origin(self, x: Array, nodes: int) -> npt.NDArray[np.float64]:
        origin = np.broadcast_to(self.origin.astype(x.dtype), x.shape)
        return self._line_integral(origin, x - origin, nodes)

    def _line_integral(self, start: Array, way: Array, nodes: int) -> npt.NDArray[np.float64]:
        """Return the integral of the score along ``start + t way`` for t from 0 to 1, of shape (n,)."""
        t, weights = _rule(nodes)
        t = (0.5 * (1 + t)).astype(way.dtype).reshape(-1, *[1] * len(self.shape))
        slopes = np.empty(len(way) * nodes)
        at_once = max(1, _AT_ONCE // self.dim)
        for low in range(0, len(slopes), at_once):
            line, node = np.divmod(np.arange(low, min(low + at_once, len(slopes))), nodes)
            ways = way[line]
            scores = np.asarray(self.wrapped.score(start[line] + t[node] * ways))
            slopes[low : low + len(line)] = np.einsum(
                "ni,ni->n", scores.reshape(len(line), -1), ways.reshape(len(line), -1), dtype=np.float64
            )
        return np.asarray(slopes.reshape(-1, nodes) @ (0.5 * weights))

    def __repr__(self) -> str:
        return f"IntegratedScore({self.wrapped!r}, nodes={self.nodes})"
