"""What a conformance suite found: checks, their deviations as normal deviates, and likely errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.diagnostics.estimates import plain, plain_dict

_Floats = npt.NDArray[np.float64]

FALSE_ALARMS = 1e-4
"""How often a whole report fails by chance where all is right, at most."""

_HIGHEST = 37.0  # a deviate beyond which its probability underflows


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes
    ----------
    name : str
    value, expected : float
        What was measured, and what is right; yes and no are 1 and 0.
    z : float or None
        The deviation beyond the allowance, as a standard normal deviate; None where there is no chance.
    passed : bool
    words : str
        Of a check that failed: the likely error.
    system : str
        On which law.
    """

    name: str
    value: float
    expected: float
    z: float | None = None
    passed: bool = True
    words: str = ""
    system: str = ""


@dataclass(frozen=True)
class Report:
    """What a conformance suite found.

    Attributes
    ----------
    title : str
    checks : tuple of Check
    bound : float
        A check fails beyond this |z|: by Bonferroni's bound, a whole report fails by chance at most once in
        10^4 times.
    seed : int
    """

    title: str
    checks: tuple[Check, ...]
    bound: float
    seed: int

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def words(self) -> str:
        """The likely errors, each said once."""
        return "; ".join(dict.fromkeys(check.words for check in self.failed if check.words))

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "title": self.title,
            "passed": self.passed,
            "words": self.words,
            "seed": self.seed,
            "bound": plain(self.bound),
            "false_alarms": FALSE_ALARMS,
            "checks": [plain_dict(vars(check)) for check in self.checks],
        }

    def __str__(self) -> str:
        head = ("system", "check", "value", "expected", "z", "")
        rows = [
            (c.system, c.name, f"{c.value:.4g}", f"{c.expected:.4g}", "" if c.z is None else f"{c.z:.1f}",
             "" if c.passed else "FAILED")
            for c in self.checks
        ]  # fmt: skip
        shown = [i for i in range(6) if any(row[i] for row in rows) or i in (1, 2, 3)]  # columns
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(6)]
        lines = [f"{self.title}: {'passed' if self.passed else f'FAILED ({len(self.failed)} checks)'}"]
        for row in (head, *rows):
            cells = [row[i].ljust(widths[i]) if i < 2 else row[i].rjust(widths[i]) for i in shown]
            lines.append("  " + "  ".join(cells).rstrip())
        lines += [f"  -> {words}" for words in dict.fromkeys(c.words for c in self.failed) if words]
        if any(c.z is not None for c in self.checks):
            lines.append(
                f"  |z| up to {self.bound:.2f} passes: by chance the whole fails once in "
                f"{1 / FALSE_ALARMS:.0f} times at most"
            )
        return "\n".join(lines)


def judged(
    title: str,
    checks: Iterable[Check],
    seed: int,
    explain: Callable[[Check], str] | None = None,
    bound: float | None = None,
) -> Report:
    """Return the report: each |z| is compared with the bound for that many, and what fails gets its words."""
    found = list(checks)
    bound = bound_for(found) if bound is None else bound
    for i, check in enumerate(found):
        check = replace(check, value=float(check.value), expected=float(check.expected))
        if check.z is not None:
            check = replace(check, passed=bool(abs(check.z) <= bound))
        if not check.passed and not check.words and explain is not None:
            check = replace(check, words=explain(check))
        found[i] = replace(check, words="") if check.passed else check
    return Report(title, tuple(found), bound, seed)


def bound_for(checks: Iterable[Check]) -> float:
    """Return the |z| that any of these checks passes by chance once in 10^4 times at most."""
    from scipy.special import ndtri

    number = max(1, sum(check.z is not None for check in checks))
    return float(-ndtri(0.5 * FALSE_ALARMS / number))


def deviate(values: Any, expected: Any = 0.0, allowance: Any = 0.0) -> tuple[_Floats, _Floats]:
    """Return means over independent batches, and how far they are off, as standard normal deviates.

    Student's t of the mean over the first axis is turned into the normal deviate of the same probability.
    What is off by less than the allowance is not counted.
    """
    values = np.asarray(values, np.float64)
    batches = len(values)
    mean = values.mean(axis=0)
    error = values.std(axis=0, ddof=1) / math.sqrt(batches)
    return mean, of_student(off(mean, expected, allowance), error, batches - 1)


def off(value: Any, expected: Any, allowance: Any) -> _Floats:
    """Return by how much more than the allowance a value is off, signed; infinite if it is no number."""
    beyond = np.asarray(value, np.float64) - expected
    beyond = np.where(np.isfinite(beyond), beyond, np.inf)
    return np.asarray(np.sign(beyond) * np.maximum(np.abs(beyond) - allowance, 0.0))


def of_student(difference: Any, error: Any, freedom: float) -> _Floats:
    """Return differences, given their standard errors from so many degrees of freedom, as normal deviates."""
    from scipy.special import ndtri, stdtr

    difference, error = np.asarray(difference, np.float64), np.asarray(error, np.float64)
    error = np.where(np.isfinite(error), error, 0.0)
    size = np.minimum(np.abs(difference), 1e150) / np.maximum(error, 1e-150)
    z = -ndtri(stdtr(freedom, -size))
    return np.asarray(np.sign(difference) * np.minimum(np.where(size == 0, 0.0, z), _HIGHEST))


def of_probability(p: float) -> float:
    """Return the normal deviate that is exceeded, on either side, with probability ``p``."""
    from scipy.special import ndtri

    return float(min(-ndtri(0.5 * min(max(p, 1e-300), 1.0)), _HIGHEST))


def worst(z: Any) -> float:
    """Return the worst of several deviates, as one: its probability times their number."""
    from scipy.special import ndtr

    z = np.asarray(z, np.float64).ravel()
    largest = z[np.argmax(np.abs(z))]
    return float(np.sign(largest)) * of_probability(2 * z.size * float(ndtr(-abs(largest))))
