"""What particles at one temperature add to Bennett's estimate of log Z."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logsumexp

from physscore.core import Array


class Share:
    """What a particle at one temperature adds to Bennett's estimate of log Z, a function of its u.

    It is f / E[f] of the step above minus that of the step below, with the share f that the neighbour's
    density has in the sum of both: 1 / (1 + p / p').

    Parameters
    ----------
    u, weights : array (n,)
        Of the particles over which E is taken.
    below, above : float
        Steps in beta to the neighbours; 0 where there is none.
    """

    def __init__(self, u: Array, weights: Array, below: float, above: float) -> None:
        weights = weights / weights.sum()
        with np.errstate(divide="ignore"):
            log_w = np.log(weights)
        self.steps = np.array([step for step in (above, -below) if step])
        self.origins = logsumexp(log_w - np.outer(self.steps, u), axis=1)  # whose calls take 0.2 ms
        terms = zip(self.steps, self.origins, strict=True)
        self.means = np.array([weights @ expit(-step * u - origin) for step, origin in terms])

    def __call__(self, u: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return what is added at ``u`` (n,), and its derivative over u."""
        added, rate = np.zeros(len(u)), np.zeros(len(u))
        for step, origin, mean in zip(self.steps, self.origins, self.means, strict=True):
            f = expit(-step * u - origin)
            added += np.sign(step) * f / mean
            rate -= abs(step) * f * (1.0 - f) / mean
        return added, rate
