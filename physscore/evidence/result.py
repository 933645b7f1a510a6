"""The number: log Z with its error, the word whether to trust it, and what stands behind both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from physscore.core import Array, InputError


@dataclass
class LogZ:
    """An estimate of the log of the integral of exp(-E).

    Attributes
    ----------
    log_z, error : float
        The estimate, and its standard error from the scatter of independent islands.
    verdict : str
        "pass", "suspect" or "failed".
    reasons : list of str
        Why it is not "pass", in words.
    estimator : str
        Which of ``estimates`` it is.
    estimates : dict
        Value and error of every estimator that applies.
    forward, reverse : float
        What the way to the target says alone, and the way back: low and high, if they lag.
    gap, gap_error : float
        ``reverse - forward``, and its error.
    barrier : float
        The global communication barrier between reference and target (Syed, Bouchard-Cote, Deligiannidis
        & Doucet 2022, arXiv:1905.02939): how many rungs they are apart.
    betas : array (k + 1,)
        The schedule, from 0 to 1.
    rungs : array (k,)
        What each step of it adds to log Z.
    ess, acceptance : array (k + 1,)
        Effective sample size before resampling, as a share of the particles, and acceptance of the kernel.
    work : dict
        For each leg the log weight that every particle gathered on the whole way, arrays (islands, n): minus
        the dissipated work; "reverse" with its sign turned, so that both are about log Z.
    log_weights : array (islands, n)
        Logs of the weights of ``samples``, which sum to 1.
    islands : array (islands,)
        What each island says of log Z.
    samples : array (islands * n, *shape)
        Particles at the target.
    evaluations : int
        Gradients of the energy that were taken, with the pilot's.
    kernel, reference, target, method : str
    seed : int
    settings : dict
        What the job was started with.
    """

    log_z: float
    error: float
    verdict: str
    reasons: list[str]
    estimator: str
    estimates: dict[str, tuple[float, float]]
    forward: float
    reverse: float
    gap_error: float
    barrier: float
    betas: npt.NDArray[np.float64]
    rungs: npt.NDArray[np.float64]
    ess: npt.NDArray[np.float64]
    acceptance: npt.NDArray[np.float64]
    work: dict[str, Array]
    log_weights: Array
    islands: npt.NDArray[np.float64]
    samples: Array
    evaluations: int
    kernel: str
    reference: str
    target: str
    method: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def gap(self) -> float:
        """How far the way back is above the way there."""
        return self.reverse - self.forward

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """The weights of ``samples``, of shape (islands * n,), which sum to 1."""
        return np.asarray(np.exp(self.log_weights).ravel())

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval that holds log Z with probability ``level``, by Student's distribution.

        Raises
        ------
        InputError
            If the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise InputError(f"level is {level}: it must be between 0 and 1")
        half = float(stdtrit(max(len(self.islands) - 1, 1), 0.5 + 0.5 * level)) * self.error
        return self.log_z - half, self.log_z + half

    def summary(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        low, high = self.interval()
        found: dict[str, Any] = {
            "target": self.target, "log_z": self.log_z, "error": self.error, "interval_95": [low, high],
            "verdict": self.verdict, "reasons": self.reasons, "estimator": self.estimator,
            "estimates": {name: list(pair) for name, pair in self.estimates.items()},
            "forward": self.forward, "reverse": self.reverse, "gap": self.gap, "gap_error": self.gap_error,
            "barrier": self.barrier, "temperatures": len(self.betas), "islands": len(self.islands),
            "particles": int(self.log_weights.size), "evaluations": self.evaluations, "method": self.method,
            "kernel": self.kernel, "reference": self.reference, "seed": self.seed,
        }  # fmt: skip
        return {key: _plain(value) for key, value in found.items()}

    def __str__(self) -> str:
        known = math.isfinite(self.error) and self.error > 0
        digits = int(np.clip(1 - math.floor(math.log10(self.error)), 2, 10)) if known else 2
        lines = [
            f"log Z = {self.log_z:.{digits}f} +- {self.error:.{digits}f}   ({self.verdict})",
            *(f"  {reason}" for reason in self.reasons),
            f"by {self.estimator}; there {self.forward:.{digits}f}, back {self.reverse:.{digits}f}",
            f"barrier {self.barrier:.1f}, {len(self.betas)} temperatures, {len(self.islands)} islands of "
            f"{self.log_weights.shape[1]} particles, {self.evaluations:.2g} gradients",
            f"from {self.reference} by {self.kernel}",
        ]
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Return a number that JSON knows: none that is not finite."""
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value
