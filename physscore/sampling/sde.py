"""Linear stochastic differential equations that turn data into noise: variance exploding, preserving, sub-VP.

In all of them x_t = alpha(t) (x_0 + sigma(t) xi) with sigma = std / alpha and xi from N(0, I), so that the
score of p_t is score_at(sigma)(x / alpha) / alpha: one family of scores serves them all. Time runs from
``t_min``, where sigma is ``sigma_min``, to 1 (Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole 2021,
arXiv:2011.13456, section 3.4 and appendices B and C).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError, Score
from physscore.energies.gaussian import Gaussian

_Floats = npt.NDArray[np.float64]


class SDE(ABC):
    """dx = f(x, t) dt + g(t) dw, with a drift f that is linear in x.

    A subclass says ``alpha``, ``std``, ``drift``, ``diffusion`` and ``time_of``.
    """

    sigma_min: float
    """The noise level, in the unit of the data, at which the way ends."""
    sigma_max: float
    """The noise level at time 1."""

    @abstractmethod
    def alpha(self, t: Any) -> Any:
        """Return by what the data are multiplied at time t."""

    @abstractmethod
    def std(self, t: Any) -> Any:
        """Return the standard deviation of x_t given x_0."""

    @abstractmethod
    def drift(self, x: Array, t: float) -> Array:
        """Return f(x, t), of the shape of x."""

    @abstractmethod
    def diffusion(self, t: Any) -> Any:
        """Return g(t)."""

    @abstractmethod
    def time_of(self, sigma: float) -> float:
        """Return the time at which std / alpha is ``sigma``: the inverse of ``sigma``."""

    def sigma(self, t: Any) -> Any:
        """Return the noise level std / alpha, in the unit of the data."""
        return self.std(t) / self.alpha(t)

    @property
    def t_min(self) -> float:
        """The time at which sigma is ``sigma_min``."""
        return self.time_of(self.sigma_min)

    def prior(self, shape: int | tuple[int, ...]) -> Gaussian:
        """Return N(0, std(1)^2) of flattened states of ``shape``: where the way back starts.

        p_1 differs from it by the mean and the covariance of the data times alpha(1)^2, which are small
        where sigma(1) is far above the spread of the data.
        """
        return Gaussian(0.0, float(self.std(1.0)) ** 2, dim=math.prod(np.atleast_1d(shape).tolist()))

    def score(self, score_at: Callable[[float], Score], x: Array, t: float) -> Array:
        """Return the score of p_t at states ``x`` of shape (n, *shape)."""
        alpha = float(self.alpha(t))
        return np.asarray(score_at(float(self.sigma(t))).score(x / alpha) / alpha)


def _positive(least: float = 0.0, **given: Any) -> None:
    for name, value in given.items():
        good = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not (good and least < value < math.inf):
            raise InputError(f"{name} is {value!r}: it must be a number above {least:g}")


@dataclass(frozen=True)
class VE(SDE):
    """Variance exploding: dx = g dw, with noise levels in geometric progression.

    sigma(t) = sigma_min (sigma_max / sigma_min)^t and alpha = 1.

    Parameters
    ----------
    sigma_min, sigma_max
        In the unit of the data: well below its finest structure, and well above its spread.

    Raises
    ------
    InputError
        If they are not positive and rising.
    """

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        _positive(sigma_min=self.sigma_min)
        _positive(self.sigma_min, sigma_max=self.sigma_max)

    @property
    def _growth(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def t_min(self) -> float:
        """Zero."""
        return 0.0

    def alpha(self, t: Any) -> Any:
        """Return 1."""
        return np.ones_like(t, np.float64)[()]

    def std(self, t: Any) -> Any:
        """Return sigma(t)."""
        t = np.asarray(t, np.float64)[()]
        return self.sigma_min ** (1 - t) * self.sigma_max**t  # exact at both ends

    def drift(self, x: Array, t: float) -> Array:
        """Return zeros."""
        return np.zeros_like(x)

    def diffusion(self, t: Any) -> Any:
        """Return sigma(t) sqrt(2 log(sigma_max / sigma_min))."""
        return self.std(t) * math.sqrt(2 * self._growth)

    def time_of(self, sigma: float) -> float:
        """Return the time of a noise level."""
        return math.log(sigma / self.sigma_min) / self._growth


class _Preserving(SDE):
    """Drift -beta x / 2 with beta(t) = beta_min + t (beta_max - beta_min)."""

    beta_min: float
    beta_max: float

    def __post_init__(self) -> None:
        _positive(beta_min=self.beta_min, sigma_min=self.sigma_min)
        if not (isinstance(self.beta_max, int | float | np.number) and self.beta_max >= self.beta_min):
            raise InputError(
                f"beta_max is {self.beta_max!r}: it must be a number of at least beta_min = {self.beta_min:g}"
            )
        if not math.isfinite(self.beta_max) or self.sigma_min >= self.sigma_max:
            raise InputError(
                f"beta_max is {self.beta_max:g}: it must be finite, and so large that the noise level goes "
                f"from sigma_min = {self.sigma_min:g} to more at time 1"
            )

    @property
    def sigma_max(self) -> float:  # type: ignore[override]
        """The noise level at time 1."""
        return float(self.sigma(1.0))

    def beta(self, t: Any) -> Any:
        """Return beta(t)."""
        return self.beta_min + np.asarray(t, np.float64)[()] * (self.beta_max - self.beta_min)

    def _integral(self, t: Any) -> Any:
        t = np.asarray(t, np.float64)[()]
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2

    def _time_of_integral(self, total: float) -> float:
        slope = self.beta_max - self.beta_min  # the root that is exact for small ones too
        return 2 * total / (self.beta_min + math.sqrt(self.beta_min**2 + 2 * slope * total))

    def alpha(self, t: Any) -> Any:
        """Return exp(-B / 2), where B is the integral of beta from 0 to t."""
        return np.exp(-0.5 * self._integral(t))

    def drift(self, x: Array, t: float) -> Array:
        """Return -beta x / 2."""
        return np.asarray(-0.5 * self.beta(t) * x)


@dataclass(frozen=True)
class VP(_Preserving):
    """Variance preserving: dx = -beta x / 2 dt + sqrt(beta) dw, the continuous form of DDPM.

    alpha^2 + std^2 = 1, so that the variance of data of variance 1 does not change. With the defaults
    sigma(1) is 152.

    Parameters
    ----------
    beta_min, beta_max
        beta(t) rises from the one to the other between t = 0 and 1.
    sigma_min
        The noise level at which the way ends, in the unit of the data.

    Raises
    ------
    InputError
        If they are not positive and rising.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    sigma_min: float = 1e-3

    def std(self, t: Any) -> Any:
        """Return sqrt(1 - alpha^2)."""
        return np.sqrt(-np.expm1(-self._integral(t)))

    def diffusion(self, t: Any) -> Any:
        """Return sqrt(beta)."""
        return np.sqrt(self.beta(t))

    def time_of(self, sigma: float) -> float:
        """Return the time of a noise level."""
        return self._time_of_integral(math.log1p(sigma**2))


@dataclass(frozen=True)
class SubVP(_Preserving):
    """Sub-variance preserving: the drift of VP, and less noise at every time.

    alpha is that of VP and std = 1 - alpha^2.

    Parameters
    ----------
    beta_min, beta_max, sigma_min
        As of :class:`VP`.

    Raises
    ------
    InputError
        If they are not positive and rising.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    sigma_min: float = 1e-3

    def std(self, t: Any) -> Any:
        """Return 1 - alpha^2."""
        return -np.expm1(-self._integral(t))

    def diffusion(self, t: Any) -> Any:
        """Return sqrt(beta (1 - alpha^4))."""
        return np.sqrt(-self.beta(t) * np.expm1(-2 * self._integral(t)))

    def time_of(self, sigma: float) -> float:
        """Return the time of a noise level."""
        return self._time_of_integral(2 * math.asinh(0.5 * sigma))


def as_sde(sde: Any) -> SDE:
    """Return an SDE, or that of exploding variance for a pair (sigma_min, sigma_max).

    Raises
    ------
    InputError
        If it is neither.
    """
    if isinstance(sde, SDE):
        return sde
    try:
        low, high = sde
    except (TypeError, ValueError):
        raise InputError(
            f"sde is {sde!r}: it must be VE(...), VP(...), SubVP(...) or a pair (sigma_min, sigma_max)"
        ) from None
    return VE(low, high)
