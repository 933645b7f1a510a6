"""Control variates out of the score: what Stein's identity says is zero, and goes with the energy.

For draws v from a density with the score s the mean of div f + f . s is zero, whatever the field f. With
f = b + H v / 2 that is c = b . s + (tr H + v . H s) / 2. Where the density is near a standard normal, and b
and H are the mean gradient and Hessian of u, c is minus the linear and quadratic part of u, so that u + c
has the mean of u and little of its variance (Mira, Solgi & Imparato 2013, arXiv:1012.2983; for log Z:
Oates, Papamarkou & Girolami 2016, arXiv:1404.5053).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from physscore.arrays import compiled, parallel
from physscore.core import Array

_LEAST = 32  # particles that fit
_MOST = 4096
_SEEN_TWICE = math.sqrt(2.0) - 1.0


class Controls(NamedTuple):
    """What control variates add to the mean of u over each island, arrays (islands,).

    Each half of the islands is given its coefficients by the other half, so that what is added has mean
    zero. ``fitting`` is each island's influence on that through the coefficients of the others, times
    sqrt 2 - 1: what is of second order in the islands, and goes with them on both sides, is seen twice in
    the scatter of their influences (Efron & Stein 1981, Ann. Statist. 9, 586).
    """

    added: npt.NDArray[np.float64]
    fitting: npt.NDArray[np.float64]


@compiled
def _means(v, score, slope, weights, gradient, hessian, linear, quadratic, start, stop):
    """Fill the weighted means over islands of slope, v slope, s and (1 + v s) / 2."""
    n, d = weights.shape[1], v.shape[1]
    for island in range(start, stop):
        g, h, a, q = gradient[island], hessian[island], linear[island], quadratic[island]
        for j in range(n):
            w, row = weights[island, j], island * n + j
            x, s, b = v[row], score[row], slope[row]
            for i in range(d):
                g[i] += w * b[i]
                h[i] += w * x[i] * b[i]
                a[i] += w * s[i]
                q[i] += 0.5 * w * x[i] * s[i]
        for i in range(d):
            q[i] += 0.5


def _dense_means(v: Array, score: Array, slope: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
    """Return the same for matrices H."""
    islands, n = weights.shape
    v, score, slope = (array.reshape(islands, n, -1) for array in (v, score, slope))
    weighted = (weights[:, :, np.newaxis] * v).swapaxes(1, 2)
    hessian, quadratic = weighted @ slope, 0.5 * (weighted @ score + np.eye(v.shape[2]))
    hessian = 0.5 * (hessian + hessian.swapaxes(1, 2))
    gradient, linear = (np.einsum("in,ind->id", weights, array) for array in (slope, score))
    return gradient, hessian.reshape(islands, -1), linear, quadratic.reshape(islands, -1)


def controls(
    v: Array, score: Array, slope: Array, u: Array, weights: Array, between: Array,
    groups: Array | None, *, dense: bool,
) -> Controls:  # fmt: skip
    """Return control variates for the means of ``u`` over islands.

    Parameters
    ----------
    v, score : array (islands * n, d)
        States and scores, in coordinates that make the density near a standard normal.
    slope : array (islands * n, d)
        Gradient of u over them.
    u, weights : array (islands, n)
        The function, and weights that sum to 1 in each island.
    between : array (islands,)
        Weights of the islands, of mean 1.
    groups
        Coordinates that are alike.
    dense
        Whether H has more than a diagonal.
    """
    (islands, n), d = u.shape, v.shape[1]
    found = Controls(np.zeros(islands), np.zeros(islands))
    half = islands // 2
    if half * n < _LEAST:
        return found
    if dense:
        gradient, hessian, linear, quadratic = _dense_means(v, score, slope, weights)
    else:
        gradient, hessian, linear, quadratic = np.zeros((4, islands, d))
        parallel(_means, islands, v, score, slope, weights, gradient, hessian, linear, quadratic)
        if groups is not None:
            hessian = _shared(hessian, groups)
    first, second = slice(0, half), slice(half, islands)
    for fit, apply in ((first, second), (second, first)):
        b, h = gradient[fit].mean(axis=0), hessian[fit].mean(axis=0)
        some = slice(fit.start * n, min(fit.stop * n, fit.start * n + _MOST))
        bend = v[some] @ h.reshape(d, d) if dense else v[some] * h
        c = np.einsum("ni,ni->n", score[some], 0.5 * bend + b)
        by = weights.ravel()[some]
        centred = by * (c - by @ c / by.sum())
        square = float(centred @ c)
        if square > 0:
            share = -float(centred @ u.ravel()[some]) / square
            found.added[apply] = share * (linear[apply] @ b + quadratic[apply] @ h)
            means = [(between[apply] @ part[apply]) / (fit.stop - fit.start) for part in (linear, quadratic)]
            share *= _SEEN_TWICE
            found.fitting[fit] = share * ((gradient[fit] - b) @ means[0] + (hessian[fit] - h) @ means[1])
    return found


def _shared(values: Array, groups: Array) -> npt.NDArray[np.float64]:
    """Return the means over groups of coordinates, at each coordinate."""
    many = np.bincount(groups)
    return np.array([(np.bincount(groups, row) / many)[groups] for row in values])
