"""Control variates from the energy itself: the generator of Langevin dynamics, applied to functions g(u).

Its mean is zero (Mira, Solgi & Imparato 2013, arXiv:1012.2983), and it goes with u along shells, and in many
modes at once, where polynomials of v do not. g is what particles add to log Z (``share.py``), and its square.

Gradients of g(u) are smoothed over some distance h, so that their divergence needs but gradients of u, and
Stein's identity holds whatever h is, also where u has kinks. In few dimensions components are differences,
f_i(v) = (g(u(v + h e_i)) - g(u(v))) / h. In many, f(v) is the mean of the gradient of g(u) at v + h xi over
normal deviates xi, and its divergence that of xi . (gradient there - gradient at v) / h.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from physscore.arrays import compiled, device_of, namespace, parallel, row_dots, to_host
from physscore.core import Array
from physscore.evidence.share import Share
from physscore.evidence.tempered import Tempered
from physscore.noise import normal

FUNCTIONS = 2
_FAR = 0.2  # of the kernel's step
_USELESS = 1e100  # where neighbours hardly overlap
_DIRECTIONS = 1024  # the number of the deviates that the first direction is made of
_AT_ONCE = 1 << 22  # components of the particles that are shifted together


@compiled
def _add_along(g, g_there, slope, u_there, slope_there, axis, score, mean, h, out, start, stop):
    """Add to div f + f . s what comes from one axis: of g and its derivative here and there, gradients of u,
    and the score over v along the axis."""
    for row in range(start, stop):
        along, along_there = 0.0, 0.0
        for i in range(len(axis)):
            along += axis[i] * slope[row, i]
            if u_there[row] < np.inf:
                along_there += axis[i] * slope_there[row, i]
        along, along_there = g[1][row] * along, g_there[1][row] * along_there
        a, b = g[0][row] - mean, g_there[0][row] - mean
        out[0, row] += (along_there - along + score[row] * (b - a)) / h
        out[1, row] += (2.0 * (b * along_there - a * along) + score[row] * (b * b - a * a)) / h


def along_axes(
    evaluate: Callable[[Array], tuple[Array, Array]], y: Array, u: Array, slope: Array, score: Array,
    tempered: Tempered, share: Share, step: float,
) -> npt.NDArray[np.float64] | None:  # fmt: skip
    """Return the values of both control variates at particles, of shape (2, n); None if some are of no use.

    Parameters
    ----------
    evaluate
        Returns u and its gradient at any y (n, d).
    y, slope : array (n, d)
    u : array (n,)
    score : array (n, d)
        Over v.
    tempered
        The density there, and its coordinates.
    share
        What particles add.
    step : float
        The kernel's, over v.
    """
    h = _FAR * step
    out = np.zeros((FUNCTIONS, len(y)))
    g = share(u)
    mean = float(g[0].mean())
    for axis, along in zip(tempered.push(np.eye(y.shape[1])), score.T, strict=True):
        u_there, slope_there = evaluate(y + h * axis)
        parallel(
            _add_along, len(y), g, share(u_there), slope, u_there, slope_there, axis,
            np.ascontiguousarray(along), mean, h, out, at_least=1000,
        )  # fmt: skip
    return out if (np.abs(out) < _USELESS).all() else None


def smoothed(
    evaluate: Callable[[Array], tuple[Array, Array]], y: Array, u: Array, slope: Array, score: Array,
    tempered: Tempered, share: Share, step: float, directions: int, place: tuple[int, int, int],
) -> npt.NDArray[np.float64] | None:  # fmt: skip
    """Return the same in many dimensions, or on a card, by shifts in a few random ``directions``.

    The ``place`` of the random numbers is a seed, the number of the first particle, and that of the step.
    """
    device, d, h = device_of(y), y.shape[1], _FAR * step
    seed, first, number = place
    a, rate = share(u)
    mean = a.mean()
    out = np.zeros((FUNCTIONS, len(y)))
    many = max(1, _AT_ONCE // d)
    for start in range(0, len(y), many):
        rows = slice(start, min(start + many, len(y)))
        here = tempered.pull(slope[rows])
        for i in range(directions):
            xi = normal(
                rows.stop - start, d, seed=seed, step=number, draw=_DIRECTIONS + i, first=first + start,
                device=device,
            )  # fmt: skip
            u_there, slope_there = evaluate(y[rows] + h * tempered.push(xi))
            b, rate_there = share(u_there)
            there = tempered.pull(slope_there)
            there[namespace(device).asarray(~(u_there < np.inf))] = 0.0
            along = rate_there * to_host(row_dots(there, xi)), rate[rows] * to_host(row_dots(here, xi))
            pushed = rate_there * to_host(row_dots(there, score[rows]))
            b, c = 2.0 * (b - mean), 2.0 * (a[rows] - mean)
            out[0, rows] += pushed + (along[0] - along[1]) / h
            out[1, rows] += b * pushed + (b * along[0] - c * along[1]) / h
    out /= directions
    return out if (np.abs(out) < _USELESS).all() else None
