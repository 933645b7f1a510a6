"""A mean over states, or a function of several means, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from physscore.core import Array

_Floats = npt.NDArray[np.float64]


class Estimate(NamedTuple):
    """A number and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} +- {self.error:.2g}"

    def as_dict(self) -> dict[str, float | None]:
        """Return both, ready for JSON."""
        return {"value": plain(self.value), "error": plain(self.error)}


def mean_of(values: Array) -> Estimate:
    """Return the mean of independent values (n,), with std / sqrt(n); no error is known of a single one."""
    n = len(values)
    error = float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Estimate(float(np.mean(values)) if n else math.nan, error)


def of_means(function: Callable[..., Any], *columns: Array) -> Estimate:
    """Return a function of the means of columns (n,) over independent states, with its jackknife error.

    Parameters
    ----------
    function
        Of as many arrays as there are columns, element by element.
    *columns
        What is averaged, each of shape (n,).
    """
    value, error = of_means_each(function, *(np.asarray(column)[:, np.newaxis] for column in columns))
    return Estimate(float(value[0]), float(error[0]))


def of_means_each(function: Callable[..., Any], *columns: Array) -> tuple[_Floats, _Floats]:
    """Do the same for columns (n, m): m values and their errors, not numbers where a mean vanishes."""
    n = len(columns[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.asarray(function(*(column.mean(axis=0) for column in columns)), np.float64)
        if n < 2:
            return value, np.full_like(value, np.nan)
        # Deviations from the mean, and not differences of sums: those would round where all are alike.
        left_out = [column.mean(axis=0) - (column - column.mean(axis=0)) / (n - 1) for column in columns]
        each = np.asarray(function(*left_out), np.float64)
        error = np.sqrt((n - 1) / n * ((each - each.mean(axis=0)) ** 2).sum(axis=0))
    return value, np.asarray(error)


def plain_dict(values: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary of numbers as JSON knows them."""
    return {key: plain(value) for key, value in values.items()}


def plain(value: Any) -> Any:
    """Return numbers as JSON knows them: arrays as lists, and none in place of what is not finite."""
    if isinstance(value, np.ndarray | np.bool_):
        return plain(value.tolist())
    if isinstance(value, Estimate):
        return value.as_dict()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return plain_dict(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
