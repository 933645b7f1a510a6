"""Control variates from the energy itself: the generator of Langevin dynamics, applied to functions g(u).

Its mean is zero (Mira, Solgi & Imparato 2013, arXiv:1012.2983), and it goes with u along shells, and in many
modes at once, where polynomials of v do not. g is what particles add to log Z (``share.py``), and its square.

Gradients of g(u) are smoothed over some distance h, so that their divergence needs but gradients of u, and
Stein's identity holds whatever h is, also where u has kinks. In few dimensions components are differences,
f_i(v) = (g(u(v + h e_i)) - g(u(v))) / h. In many, f(v) is the mean of the gradient of g(u) at v + h xi over
normal deviates xi, and its divergence that of xi . (gradient there - gradient at v) / h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

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


class View(NamedTuple):
    """Particles, and what they are taken to add to log Z, with its mean: where both come from other
    particles than those that are corrected, control variates have the mean zero, however few there are."""

    rows: slice
    share: Share
    mean: float

    def __call__(self, u: Array) -> tuple[Array, Array]:
        """Return g, less its mean, and its derivative, of the rows of u."""
        g, rate = self.share(u[self.rows])
        return g - self.mean, rate


@compiled
def _along(axis, slope, slope_there, u_there, out, start, stop):
    """Fill the components of the gradients of u along an axis, here and there; 0 where u is infinite."""
    for row in range(start, stop):
        here, there = 0.0, 0.0
        for i in range(len(axis)):
            here += axis[i] * slope[row, i]
            there += axis[i] * slope_there[row, i]
        out[0, row], out[1, row] = here, there if u_there[row] < np.inf else 0.0


def along_axes(
    evaluate: Callable[[Array], tuple[Array, Array]], y: Array, u: Array, slope: Array, score: Array,
    tempered: Tempered, views: Sequence[View], step: float,
) -> list[npt.NDArray[np.float64]] | None:  # fmt: skip
    """Return the values of both control variates, arrays (2, rows) of each view; None if some are of no use.

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
    views
        Which particles, and what they add.
    step : float
        The kernel's, over v.
    """
    h = _FAR * step
    at_home, along = [view(u) for view in views], np.empty((2, len(y)))
    out = [np.zeros((FUNCTIONS, len(g))) for g, _ in at_home]
    for axis, pushed in zip(tempered.push(np.eye(y.shape[1])), score.T, strict=True):
        u_there, slope_there = evaluate(y + h * axis)
        parallel(_along, len(y), axis, slope, slope_there, u_there, along, at_least=1000)
        for view, (a, rate), total in zip(views, at_home, out, strict=True):
            (b, rate_there), s = view(u_there), pushed[view.rows]
            here, there = rate * along[0, view.rows], rate_there * along[1, view.rows]
            total[0] += (there - here + s * (b - a)) / h
            total[1] += (2.0 * (b * there - a * here) + s * (b * b - a * a)) / h
    return out if all((np.abs(total) < _USELESS).all() for total in out) else None


def smoothed(
    evaluate: Callable[[Array], tuple[Array, Array]], y: Array, u: Array, slope: Array, score: Array,
    tempered: Tempered, views: Sequence[View], step: float, directions: int, place: tuple[int, int, int],
) -> list[npt.NDArray[np.float64]] | None:  # fmt: skip
    """Return the same in many dimensions, or on a card, by shifts in a few random ``directions``.

    The ``place`` of the random numbers is a seed, the number of the first particle, and that of the step.
    """
    device, d, h = device_of(y), y.shape[1], _FAR * step
    seed, first, number = place
    at_home = [view(u) for view in views]
    out = [np.zeros((FUNCTIONS, len(g))) for g, _ in at_home]
    many = max(1, _AT_ONCE // d)
    u_there, along = np.empty(len(y)), np.empty((3, len(y)))
    for i in range(directions):
        for start in range(0, len(y), many):
            rows = slice(start, min(start + many, len(y)))
            xi = normal(
                rows.stop - start, d, seed=seed, step=number, draw=_DIRECTIONS + i, first=first + start,
                device=device,
            )  # fmt: skip
            u_there[rows], slope_there = evaluate(y[rows] + h * tempered.push(xi))
            there = tempered.pull(slope_there)
            there[namespace(device).asarray(~(u_there[rows] < np.inf))] = 0.0
            pairs = (tempered.pull(slope[rows]), xi), (there, xi), (there, score[rows])
            along[:, rows] = [to_host(row_dots(*pair)) for pair in pairs]
        for view, (a, rate), total in zip(views, at_home, out, strict=True):
            b, rate_there = view(u_there)
            here, there, pushed = along[:, view.rows] * (rate, rate_there, rate_there)
            total[0] += pushed + (there - here) / h
            total[1] += 2.0 * (b * pushed + (b * there - a * here) / h)
    for total in out:
        total /= directions
    return out if all((np.abs(total) < _USELESS).all() for total in out) else None
