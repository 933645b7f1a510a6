"""From which noise on a learned score is one: training leaves it open where there is hardly any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from physscore import noise
from physscore.core import Array

_OFF = 0.1  # of the squares of the score: what error is borne
_STEP = 1.5  # from one level to the next
_DRAWN, _ALONG = 11, 12  # the numbers of the deviates


def known_from(score_at: Callable[[float], Any], y: Array, sigmas: tuple[float, float], seed: int) -> float:
    """Return the smallest noise level from which on the score obeys E |s|^2 = -E div s over held-out states.

    That holds for the score of the density that states are drawn from (Hyvarinen 2005, JMLR 6, 695, theorem
    1). What a network adds at random to a score makes squares, but no divergence.

    Parameters
    ----------
    score_at
        Returns the score at a noise level; it knows its derivative along a vector.
    y
        States (n, d) that were not trained on.
    sigmas
        The smallest and the largest level.
    seed
        Of the noise.
    """
    low, high = sigmas
    n, d = y.shape
    while low < high:
        x = y + low * noise.normal(n, d, seed=seed, draw=_DRAWN)
        along = np.sign(noise.normal(n, d, seed=seed, draw=_ALONG))  # its mean square is a trace (Hutchinson)
        score, product = score_at(low).directional(x, along)
        squares, divergence = (score**2).sum(axis=1), (along * product).sum(axis=1)
        if abs((squares + divergence).mean()) <= _OFF * squares.mean():
            return low
        low *= _STEP
    return high
