"""Distributions of one parameter: their densities, and both ways between them and a standard normal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special
from scipy.special import log_ndtr, ndtr, ndtri, ndtri_exp

from physscore.arrays import real_number
from physscore.core import Array, InputError
from physscore.energies import kinds
from physscore.energies.analytic import check_positive
from physscore.energies.priors import Univariate

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


def _interval(low: Any, high: Any) -> tuple[float, float]:
    try:
        bounds = float(low), float(high)
    except (TypeError, ValueError):
        bounds = (math.nan, math.nan)
    if not (math.isfinite(bounds[0]) and math.isfinite(bounds[1]) and bounds[0] < bounds[1]):
        raise InputError(f"low is {low!r} and high {high!r}: they must be finite numbers, low below high")
    return bounds


def fraction_to_normal(below: Array, above: Array) -> Array:
    """Return z with Phi(z) = below = 1 - above, from whichever is smaller."""
    return np.asarray(np.where(below < above, ndtri(below), -ndtri(above)))


def _log_between(low: Array | float, high: Array | float) -> Array:
    """Return the logarithm of the standard normal probability between two numbers."""
    low, high = np.broadcast_arrays(low, high)
    low, high = np.where(low > 0, (-high, -low), (low, high))
    with np.errstate(divide="ignore", invalid="ignore"):
        across = np.log(0.5 * (special.erf(high / math.sqrt(2)) - special.erf(low / math.sqrt(2))))
        in_tail = log_ndtr(high) + np.log(-np.expm1(log_ndtr(low) - log_ndtr(high)))
    return np.asarray(np.where(high > 0, across, in_tail))


def _in_lower_half(log_p: Array, low: float, high: float) -> Array:
    """Return t with the standard normal probability p between ``low`` and t, which is at most half of that
    between ``low`` and ``high``."""
    if low <= 0:
        return np.asarray(ndtri_exp(np.logaddexp(log_ndtr(low), log_p)))
    return np.asarray(-ndtri_exp(log_ndtr(-low) + np.log1p(-np.exp(log_p - log_ndtr(-low)))))


class Uniform(Univariate):
    """The uniform distribution between ``low`` and ``high``.

    Raises
    ------
    InputError
        If low is not below high.
    """

    kind = kinds.UNIFORM

    def __init__(self, low: float, high: float) -> None:
        self.bounds = _interval(low, high)
        self.offset = math.log(self.bounds[1] - self.bounds[0])
        super().__init__(*self.bounds)

    def _inside(self, x: Array) -> tuple[Array, Array]:
        return np.full(x.shape, self.offset), np.zeros(x.shape)

    def _to_normal(self, x: Array) -> Array:
        low, high = self.bounds
        return fraction_to_normal((x - low) / (high - low), (high - x) / (high - low))

    def _from_normal(self, z: Array) -> Array:
        low, high = self.bounds
        return np.asarray(np.where(z < 0, low + (high - low) * ndtr(z), high - (high - low) * ndtr(-z)))


class LogUniform(Univariate):
    """The distribution of x whose logarithm is uniform: p(x) proportional to 1/x.

    Raises
    ------
    InputError
        If low is not positive, or not below high.
    """

    kind = kinds.LOG_UNIFORM

    def __init__(self, low: float, high: float) -> None:
        self.bounds = _interval(low, high)
        if self.bounds[0] <= 0:
            raise InputError(f"low is {low!r}: that of LogUniform must be positive")
        self._logs = math.log(self.bounds[0]), math.log(self.bounds[1])
        self.offset = math.log(self._logs[1] - self._logs[0])
        super().__init__(*self.bounds)

    def _inside(self, x: Array) -> tuple[Array, Array]:
        return self.offset + np.log(x), 1 / x

    def _to_normal(self, x: Array) -> Array:
        low, high = self._logs
        return fraction_to_normal((np.log(x) - low) / (high - low), (high - np.log(x)) / (high - low))

    def _from_normal(self, z: Array) -> Array:
        low, high = self._logs
        logs = np.where(z < 0, low + (high - low) * ndtr(z), high - (high - low) * ndtr(-z))
        return np.asarray(np.clip(np.exp(logs), *self.bounds))  # rounding must not lead outside


class _NormalDensity(Univariate):
    """A normal density of ``numbers`` (mean, std), within the bounds."""

    def _inside(self, x: Array) -> tuple[Array, Array]:
        mean, std = self.numbers
        off = (x - mean) / std
        return self.offset + 0.5 * off**2, off / std


class Normal(_NormalDensity):
    """The normal distribution of ``mean`` and standard deviation ``std``.

    Raises
    ------
    InputError
        If the mean is not finite or std not positive.
    """

    kind = kinds.NORMAL

    def __init__(self, mean: float, std: float) -> None:
        check_positive(std=std)
        numbers = real_number(mean, "mean"), float(std)
        self.offset = math.log(numbers[1]) + _LOG_ROOT_2PI
        super().__init__(*numbers)

    def _to_normal(self, x: Array) -> Array:
        return (x - self.numbers[0]) / self.numbers[1]

    def _from_normal(self, z: Array) -> Array:
        return self.numbers[0] + self.numbers[1] * z


class HalfNormal(_NormalDensity):
    """The distribution of |x| for a normal x of mean 0 and standard deviation ``scale``.

    Raises
    ------
    InputError
        If scale is not positive.
    """

    kind = kinds.HALF_NORMAL
    bounds = (0.0, math.inf)

    def __init__(self, scale: float) -> None:
        check_positive(scale=scale)
        self.offset = math.log(scale) + _LOG_ROOT_2PI - math.log(2)
        super().__init__(0.0, scale)

    def _given(self) -> tuple[float, ...]:
        return self.numbers[1:]

    def _to_normal(self, x: Array) -> Array:
        t = x / self.numbers[1]
        near, far = ndtri(special.erf(t / math.sqrt(2))), -ndtri_exp(log_ndtr(-t) + math.log(2))
        return np.asarray(np.where(t < 0.6, near, far))

    def _from_normal(self, z: Array) -> Array:
        scale = self.numbers[1]
        near = scale * math.sqrt(2) * special.erfinv(ndtr(z))
        return np.asarray(np.where(z < 0, near, -scale * ndtri_exp(log_ndtr(-z) - math.log(2))))


class TruncatedNormal(_NormalDensity):
    """The normal distribution of ``mean`` and ``std``, of which is left what lies between the bounds.

    Raises
    ------
    InputError
        If the mean is not finite, std not positive, or low not below high.
    """

    kind = kinds.TRUNCATED_NORMAL

    def __init__(self, mean: float, std: float, low: float = -math.inf, high: float = math.inf) -> None:
        check_positive(std=std)
        numbers = real_number(mean, "mean"), float(std)
        try:
            self.bounds = float(low), float(high)
        except (TypeError, ValueError):
            self.bounds = math.nan, math.nan
        if not self.bounds[0] < self.bounds[1]:
            raise InputError(f"low is {low!r} and high {high!r}: they must be numbers, low below high")
        self._ends = tuple((bound - numbers[0]) / numbers[1] for bound in self.bounds)
        self._log_left = float(_log_between(*self._ends))
        if not self._log_left > -math.inf:
            raise InputError(
                f"low is {low!r} and high {high!r}: nothing is left there of mean {mean!r} and std {std!r}"
            )
        self.offset = math.log(numbers[1]) + _LOG_ROOT_2PI + self._log_left
        super().__init__(*numbers)

    def _given(self) -> tuple[float, ...]:
        return (*self.numbers, *self.bounds)

    def _to_normal(self, x: Array) -> Array:
        off = (x - self.numbers[0]) / self.numbers[1]
        low, high = self._ends
        below, above = _log_between(low, off) - self._log_left, _log_between(off, high) - self._log_left
        return np.asarray(np.where(below < above, ndtri_exp(below), -ndtri_exp(above)))

    def _from_normal(self, z: Array) -> Array:
        low, high = self._ends
        mean, std = self.numbers
        half = log_ndtr(-np.abs(z)) + self._log_left
        off = np.where(z < 0, _in_lower_half(half, low, high), -_in_lower_half(half, -high, -low))
        return np.asarray(np.clip(mean + std * off, *self.bounds))
