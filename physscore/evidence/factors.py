"""Bayes factors: how much more probable one model makes the data than another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from physscore.core import InputError
from physscore.evidence.result import LogZ

_WORDS = (  # up to a log factor
    (1.0, "not worth more than a bare mention"),
    (3.0, "positive"),
    (5.0, "strong"),
    (math.inf, "very strong"),
)


@dataclass(frozen=True)
class BayesFactor:
    """The evidence for model ``a`` against model ``b``, given the same data.

    Attributes
    ----------
    log_factor, error : float
        log Z of ``a`` minus that of ``b``, natural logarithms, and its standard error.
    paired : bool
        Whether the error is that of the differences of islands with the same random numbers.
    a, b : LogZ
        Where it comes from.
    degrees : float
        Degrees of freedom of the error.
    """

    log_factor: float
    error: float
    paired: bool
    a: LogZ
    b: LogZ
    degrees: float

    @property
    def trusted(self) -> bool:
        """Whether both verdicts are "pass"."""
        return self.a.verdict == self.b.verdict == "pass"

    @property
    def strength(self) -> str:
        """The evidence in the words of Kass & Raftery (1995, JASA 90, 773), at both ends if the error
        leaves it open."""
        size = abs(self.log_factor)
        low, high = _word(max(size - 2 * self.error, 0.0)), _word(size + 2 * self.error)
        return low if low == high else f"{low} to {high}"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the interval that holds the log factor with probability ``level`` (Student's distribution).

        Raises
        ------
        InputError
            If the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise InputError(f"level is {level}: it must be between 0 and 1")
        half = float(stdtrit(self.degrees, 0.5 + 0.5 * level)) * self.error
        return self.log_factor - half, self.log_factor + half

    def summary(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        low, high = self.interval()
        found: dict[str, Any] = {
            "log_factor": self.log_factor, "error": self.error, "interval_95": [low, high],
            "paired": self.paired, "strength": self.strength, "trusted": self.trusted,
        }  # fmt: skip
        if not math.isfinite(self.log_factor + self.error):  # JSON knows no others
            found |= {"log_factor": None, "error": None, "interval_95": [None, None]}
        return found | {"a": self.a.summary(), "b": self.b.summary()}

    def __str__(self) -> str:
        known = math.isfinite(self.error) and self.error > 0
        digits = 2 if not known else int(np.clip(1 - math.floor(math.log10(self.error)), 2, 10))
        better = self.a if self.log_factor >= 0 else self.b
        how = "paired islands" if self.paired else "independent runs"
        lines = [
            f"log Bayes factor = {self.log_factor:.{digits}f} +- {self.error:.{digits}f}   ({how})",
            f"for {_ending(better.target)}: {self.strength} (Kass & Raftery 1995)",
        ]
        for name, one in (("a", self.a), ("b", self.b)):
            lines.append(
                f"  {name}: log Z = {one.log_z:.{digits}f} +- {one.error:.{digits}f}   ({one.verdict})   "
                f"{_ending(one.target)}"
            )
        if not self.trusted:
            lines.append("NOT TO BE TRUSTED: " + "; ".join(
                f"log Z of {name} is {one.verdict}, as {', '.join(one.reasons)}"
                for name, one in (("a", self.a), ("b", self.b)) if one.verdict != "pass"
            ))  # fmt: skip
        return "\n".join(lines)


def bayes_factor(a: LogZ, b: LogZ) -> BayesFactor:
    """Return the Bayes factor of two models, p(data | a) / p(data | b), with its error.

    Runs of one seed and as many islands use the same random numbers: then what the islands of both have in
    common drops out of the error, which is that of their differences.

    Parameters
    ----------
    a, b
        What ``estimate_log_z`` returned for prior + likelihood of both models and the same data.

    Returns
    -------
    BayesFactor

    Raises
    ------
    InputError
        If they are no estimates of log Z.
    """
    for name, one in (("a", a), ("b", b)):
        if not isinstance(one, LogZ):
            raise InputError(f"{name} is {one!r}: it must be a LogZ, as estimate_log_z returns it")
    difference = a.log_z - b.log_z
    n, m = len(a.islands), len(b.islands)
    paired = a.seed == b.seed and n == m > 1 and a.method == b.method
    if not paired:
        squares = np.array([a.error**2, b.error**2])
        total = float(squares.sum())  # degrees of freedom: Welch 1947, Biometrika 34, 28
        parts = float((squares**2 / np.maximum([n - 1, m - 1], 1)).sum())
        degrees = total**2 / parts if parts > 0 else max(min(n, m) - 1, 1)
        return BayesFactor(difference, math.sqrt(total), False, a, b, float(degrees))
    scatter = _variance_of_mean(a.islands - b.islands)
    # What an error has beyond the scatter, as where a score is integrated, stays.
    extra = [one.error**2 - _variance_of_mean(one.islands) for one in (a, b)]
    beyond = sum(more for more, one in zip(extra, (a, b), strict=True) if more > 1e-9 * one.error**2)
    return BayesFactor(difference, math.sqrt(scatter + beyond), True, a, b, float(n - 1))


def _variance_of_mean(values: Any) -> float:
    return float(np.var(values, ddof=1) / len(values))


def _word(log_factor: float) -> str:
    return next(word for limit, word in _WORDS if log_factor < limit or math.isinf(limit))


def _ending(name: str) -> str:
    """Return a name, or its end, where two models with one prior differ."""
    return name if len(name) <= 60 else f"... {name[-56:]}"
