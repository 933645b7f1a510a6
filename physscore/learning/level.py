"""From which noise on a learned score is one: training leaves it open where there is hardly any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore import noise
from physscore.core import Array
from physscore.diagnostics.derivatives import random_directions
from physscore.diagnostics.estimates import of_means

_Floats = npt.NDArray[np.float64]
_OFF = 0.1  # of the squares of the score: what error is borne, by chance twice as much
_UNCERTAIN = 0.25  # of it no more is known
_STEP = 1.5  # from one level to the next
_GROUPS = 16  # of principal axes, at most
_DRAWN = 11  # the number of the deviates


def known_from(
    score_at: Callable[[float], Any],
    y: Array,
    sigmas: tuple[float, float],
    seed: int,
    axes: Array | None = None,
    copies: int = 1,
) -> float:
    """Return the smallest noise level from which on the score obeys Stein's identity over held-out states.

    E s_i^2 = -E d s_i / d x_i holds for the score of the density that states are drawn from. What a network
    adds at random to a score makes squares, but no divergence. It is asked of each principal axis of the
    states, or of groups of them, as a narrow one hides what is wrong along the others.

    Parameters
    ----------
    score_at
        Returns the score at a noise level; it knows its derivative along a vector.
    y
        States (n, d) that were not trained on, ``copies`` times one after the other.
    sigmas
        The smallest and the largest level. The latter is returned if the score is known nowhere.
    seed
        Of the noise.
    axes
        Orthonormal columns (d, d), of other states best: along those of few states their variance is not that
        of the density. [default: the principal axes of ``y``]
    copies
        Each gets noise of its own.
    """
    low, high = sigmas
    axes = principal(y)[1] if axes is None else axes
    signs = random_directions(1, *y.shape, seed=seed)[0]
    groups = np.array_split(np.arange(len(axes)), min(len(axes), _GROUPS))
    while low < high:
        x = y + low * noise.normal(*y.shape, seed=seed, draw=_DRAWN)
        score = score_at(low)
        if all(_obeys(score, x, axes[:, group], signs[:, group], copies) for group in groups):
            return low
        low *= _STEP
    return high


def principal(y: Array) -> tuple[_Floats, _Floats]:
    """Return the variances of states (n, d) along their principal axes, rising, and these as columns."""
    if len(y) < 2:
        return np.ones(y.shape[1]), np.eye(y.shape[1])
    variances, axes = np.linalg.eigh(np.cov(y, rowvar=False).reshape(y.shape[1], -1))
    return np.maximum(variances, 0.0), axes


def _obeys(score: Any, x: Array, axes: _Floats, signs: _Floats, copies: int) -> bool:
    """Return whether a score obeys the identity over some axes (d, m), added up by signs (n, m).

    In units of the standard deviations, so that each axis counts alike. E (s_i z_i + 1) = 0, for the
    deviation z from the mean, is a control variate: of normal data it takes all of the scatter away.
    """
    z = x @ axes
    width = z.std(axis=0)
    z, axes = (z - z.mean(axis=0)) / width, axes * width
    along = signs @ axes.T
    found, product = score.directional(x, along)
    s = found @ axes
    squares = (s**2).sum(axis=1)
    off = squares + (along * product).sum(axis=1) + (s * z + 1).sum(axis=1)
    if not np.isfinite(off).all():  # where it is not finite it is not known
        return False
    means = [values.reshape(copies, -1).mean(axis=0) for values in (off, squares)]
    part = of_means(lambda a, b: a / b, *means)
    return abs(part.value) <= _OFF + min(part.error, _OFF) and part.error <= _UNCERTAIN
