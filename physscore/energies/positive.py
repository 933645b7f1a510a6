"""Distributions of a positive parameter, and of a share between 0 and 1."""

from __future__ import annotations

import math

import numpy as np
from scipy import special
from scipy.special import ndtr

from physscore.core import Array
from physscore.energies import kinds
from physscore.energies.analytic import check_positive
from physscore.energies.priors import Univariate
from physscore.energies.univariate import Normal, fraction_to_normal

_LARGEST = np.finfo(np.float64).max  # far out in heavy tails, where a draw would be inf


class _Positive(Univariate):
    """A density of positive numbers."""

    bounds = (0.0, math.inf)
    link = kinds.LOG

    def _linked(self, z: Array) -> Array:
        return np.log(self._from_normal(z))

    def _log(self, x: Array) -> Array:
        return np.log(np.maximum(x, kinds.LEAST))


class LogNormal(_Positive):
    """The distribution of x whose logarithm is normal, of ``mean`` and standard deviation ``std``.

    Raises
    ------
    InputError
        If the mean is not finite or std not positive.
    """

    kind = kinds.LOG_NORMAL

    def __init__(self, mean: float, std: float) -> None:
        self._of_log = Normal(mean, std)
        self.offset = self._of_log.offset
        super().__init__(*self._of_log.numbers)

    def _inside(self, x: Array) -> tuple[Array, Array]:
        logs = self._log(x)
        energy, slope = self._of_log._inside(logs)
        return energy + logs, (1 + slope) / np.maximum(x, kinds.LEAST)

    def _to_normal(self, x: Array) -> Array:
        return self._of_log._to_normal(np.log(x))

    def _from_normal(self, z: Array) -> Array:
        logs = self._of_log._from_normal(z)
        return np.asarray(np.exp(np.clip(logs, math.log(kinds.LEAST), math.log(kinds.MOST))))


class HalfCauchy(_Positive):
    """The distribution of |x| for a Cauchy-distributed x around 0, of half width at half maximum ``scale``.

    Raises
    ------
    InputError
        If scale is not positive.
    """

    kind = kinds.HALF_CAUCHY

    def __init__(self, scale: float) -> None:
        check_positive(scale=scale)
        self.offset = math.log(0.5 * math.pi) + math.log(scale)
        super().__init__(0.0, scale)

    def _given(self) -> tuple[float, ...]:
        return self.numbers[1:]

    def _inside(self, x: Array) -> tuple[Array, Array]:
        t = np.maximum(x / self.numbers[1], kinds.LEAST)
        tail = np.where(t > 1, 2 * np.log(t), 0.0)
        return self.offset + tail + np.log1p(np.minimum(t, 1 / t) ** 2), 2 / (t + 1 / t) / self.numbers[1]

    def _to_normal(self, x: Array) -> Array:
        t = x / self.numbers[1]
        return fraction_to_normal(np.arctan(t) * 2 / math.pi, np.arctan2(1, t) * 2 / math.pi)

    def _from_normal(self, z: Array) -> Array:
        tangent = np.tan(0.5 * math.pi * _nearer_tail(z))
        with np.errstate(over="ignore"):
            x = self.numbers[1] * np.where(z < 0, tangent, 1 / tangent)
        return np.asarray(np.minimum(x, _LARGEST))


class Gamma(_Positive):
    """The gamma distribution: p(x) proportional to x^(shape - 1) exp(-rate x). Of shape 1, the exponential.

    Raises
    ------
    InputError
        If one of them is not positive.
    """

    kind = kinds.GAMMA

    def __init__(self, shape: float, rate: float) -> None:
        check_positive(shape=shape, rate=rate)
        self.offset = float(special.gammaln(shape)) - shape * math.log(rate)
        super().__init__(shape, rate)

    def _inside(self, x: Array) -> tuple[Array, Array]:
        a, b = self.numbers
        return self.offset + b * x - (a - 1) * self._log(x), b - (a - 1) / np.maximum(x, kinds.LEAST)

    def _to_normal(self, x: Array) -> Array:
        a, b = self.numbers
        return fraction_to_normal(special.gammainc(a, b * x), special.gammaincc(a, b * x))

    def _from_normal(self, z: Array) -> Array:
        (a, b), tail = self.numbers, _nearer_tail(z)
        scaled = np.where(z < 0, special.gammaincinv(a, tail), special.gammainccinv(a, tail))
        return np.asarray(np.maximum(scaled, kinds.LEAST) / b)


class InverseGamma(_Positive):
    """The distribution of 1/x for a gamma-distributed x: p(x) proportional to x^(-shape - 1) exp(-scale / x).

    Raises
    ------
    InputError
        If one of them is not positive.
    """

    kind = kinds.INVERSE_GAMMA

    def __init__(self, shape: float, scale: float) -> None:
        check_positive(scale=scale)
        self._of_reciprocal = Gamma(shape, scale)
        self.offset = self._of_reciprocal.offset
        super().__init__(*self._of_reciprocal.numbers)

    def _inside(self, x: Array) -> tuple[Array, Array]:
        (a, b), x = self.numbers, np.maximum(x, kinds.LEAST)
        with np.errstate(over="ignore"):
            return self.offset + b / x + (a + 1) * np.log(x), (a + 1 - b / x) / x

    def _to_normal(self, x: Array) -> Array:
        with np.errstate(divide="ignore"):
            return -self._of_reciprocal._to_normal(1 / x)

    def _from_normal(self, z: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(np.minimum(1 / self._of_reciprocal._from_normal(-z), _LARGEST))


def _nearer_tail(z: Array) -> Array:
    """Return the standard normal probability beyond z, away from 0."""
    return np.asarray(ndtr(-np.abs(np.clip(z, -kinds.DEEPEST, kinds.DEEPEST))))


class Beta(Univariate):
    """The beta distribution: p(x) proportional to x^(a - 1) (1 - x)^(b - 1), between 0 and 1.

    Raises
    ------
    InputError
        If one of them is not positive.
    """

    kind = kinds.BETA
    bounds = (0.0, 1.0)
    link = kinds.LOGIT

    def __init__(self, a: float, b: float) -> None:
        check_positive(a=a, b=b)
        self.offset = float(special.betaln(a, b))
        super().__init__(a, b)

    def _inside(self, x: Array) -> tuple[Array, Array]:
        (a, b), x, left = self.numbers, np.maximum(x, kinds.LEAST), np.maximum(1 - x, kinds.BELOW_1)
        energy = self.offset - (a - 1) * np.log(x) - (b - 1) * np.log(left)
        return energy, (b - 1) / left - (a - 1) / x

    def _to_normal(self, x: Array) -> Array:
        a, b = self.numbers
        return fraction_to_normal(special.betainc(a, b, x), special.betainc(b, a, 1 - x))

    def _from_normal(self, z: Array) -> Array:
        below, above = self._ends(z)
        return np.asarray(np.where(z < 0, below, 1 - above))

    def _linked(self, z: Array) -> Array:
        below, above = self._ends(z)
        return np.asarray(np.where(z < 0, np.log(below) - np.log1p(-below), np.log1p(-above) - np.log(above)))

    def _ends(self, z: Array) -> tuple[Array, Array]:
        """Return x(z) for negative z, and 1 - x(z) for positive ones."""
        a, b = self.numbers
        return _beta_from_tail(a, b, _nearer_tail(z)), _beta_from_tail(b, a, _nearer_tail(z))


def _beta_from_tail(a: float, b: float, tail: Array) -> Array:
    first = np.exp((np.log(tail) + math.log(a) + special.betaln(a, b)) / a)  # of the series in x
    return np.asarray(np.maximum(np.where(first < 1e-20, first, special.betaincinv(a, b, tail)), kinds.LEAST))
