"""Control variates from the energy itself, for few dimensions.

The field with the components f_i(v) = (g(u(v + h e_i)) - g(u(v))) / h needs but gradients of u for its
divergence, and Stein's identity holds for it whatever h is, also where u has kinks. For small h it is the
gradient of g(u): what has mean zero is then the generator of Langevin dynamics applied to g(u) (Mira, Solgi &
Imparato 2013, arXiv:1012.2983). So it goes with u along shells, and in many modes at once, where polynomials
of v do not. g is what particles add to log Z (``bridge.Share``), and its square.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import numpy as np
import numpy.typing as npt

from physscore.arrays import compiled, parallel
from physscore.core import Array
from physscore.evidence.bridge import Share
from physscore.parts import part

FUNCTIONS = 2


@part
def _share(u, steps, origins, means):
    """Return what ``bridge.Share`` does."""
    added, rate = 0.0, 0.0
    for i in range(len(steps)):
        f = 1.0 / (1.0 + exp(steps[i] * u + origins[i]))
        sign = 1.0 if steps[i] > 0 else -1.0
        added += sign * f / means[i]
        rate -= abs(steps[i]) * f * (1.0 - f) / means[i]
    return added, rate


@compiled
def _add_along(here, there, axis, score, share, mean, h, out, start, stop):
    """Add to div f + f . s what comes from one axis.

    Of u and its gradients here and there, and the score over v along the axis.
    """
    (u, slope), (u_there, slope_there) = here, there
    for row in range(start, stop):
        a, rate = _share(u[row], *share)
        b, rate_there = _share(u_there[row], *share)
        along, along_there = 0.0, 0.0
        for i in range(len(axis)):
            along += axis[i] * slope[row, i]
            if rate_there != 0.0:  # where it is, u may be infinite
                along_there += axis[i] * slope_there[row, i]
        along, along_there = rate * along, rate_there * along_there
        a, b = a - mean, b - mean
        out[0, row] += (along_there - along + score[row] * (b - a)) / h
        out[1, row] += (2.0 * (b * along_there - a * along) + score[row] * (b * b - a * a)) / h


def along_axes(
    evaluate: Callable[[Array], tuple[Array, Array]], y: Array, u: Array, slope: Array, score: Array,
    axes: Array, share: Share, h: float,
) -> npt.NDArray[np.float64] | None:  # fmt: skip
    """Return the values of both control variates at particles, of shape (2, n); None if some are not finite.

    Parameters
    ----------
    evaluate
        Returns u and its gradient at any y (n, d).
    y, slope : array (n, d)
    u : array (n,)
    score : array (n, d)
        Over v.
    axes : array (d, d)
        The unit vectors of v, as changes of y.
    share
        What particles add.
    h : float
        The shift along each axis of v.
    """
    out = np.zeros((FUNCTIONS, len(y)))
    numbers = share.steps, share.origins, share.means
    mean = float(share(u)[0].mean())
    for axis, along in zip(axes, score.T, strict=True):
        there = evaluate(y + h * axis)
        parallel(
            _add_along, len(y), (u, slope), there, axis, np.ascontiguousarray(along), numbers, mean, h, out,
            at_least=1000,
        )  # fmt: skip
    return out if np.isfinite(out).all() else None
