"""From which noise on a learned score is one: training leaves it open where there is hardly any."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from physscore import noise
from physscore.core import Array, InputError
from physscore.diagnostics.derivatives import random_directions
from physscore.diagnostics.hyvarinen import statistics_of_values

_OFF = 0.1  # of the squares of the score: what error is borne
_STEP = 1.5  # from one level to the next
_DRAWN = 11  # the number of the deviates


def known_from(score_at: Callable[[float], Any], y: Array, sigmas: tuple[float, float], seed: int) -> float:
    """Return the smallest noise level from which on the score obeys E |s|^2 = -E div s over held-out states.

    That holds for the score of the density that states are drawn from (Stein's identity). What a network adds
    at random to a score makes squares, but no divergence.

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
    along = random_directions(1, *y.shape, seed=seed)[0]
    while low < high:
        x = y + low * noise.normal(*y.shape, seed=seed, draw=_DRAWN)
        score, product = score_at(low).directional(x, along)
        with suppress(InputError):  # where it is not finite it is not known
            found = statistics_of_values(score, (along * product).sum(axis=1))
            if abs(1.0 - found.stein_scale.value) <= _OFF:
                return low
        low *= _STEP
    return high
