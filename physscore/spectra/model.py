"""What a spectrum is: P(k) with its range, its units and its settings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import InputError

_Floats = npt.NDArray[np.float64]

COSMOLOGICAL_UNITS = ("h/Mpc", "(Mpc/h)^3")


class Spectrum(ABC):
    """A model of the power spectrum P(k).

    Attributes
    ----------
    k_min, k_max : float
        Range in which it may be evaluated; 0 and infinity where there is no bound.
    redshift : float or None
        None where it has no meaning.
    units : (str, str)
        Of k and of P.
    """

    k_min: float = 0.0
    k_max: float = math.inf
    redshift: float | None = None
    units: tuple[str, str] = ("1/length", "length^dim")

    def __call__(self, k: npt.ArrayLike) -> _Floats:
        """Return P at wavenumbers ``k`` > 0, as float64 of the same shape.

        Raises
        ------
        InputError
            If a wavenumber is not positive or outside the range of the model.
        """
        wavenumbers = np.asarray(k, dtype=np.float64)
        if not (wavenumbers > 0).all():
            raise InputError(
                f"k has the value {wavenumbers[~(wavenumbers > 0)].flat[0]}: it must be positive"
            )
        if wavenumbers.size:
            self._require_range(float(wavenumbers.min()), float(wavenumbers.max()))
        return np.asarray(self._power(wavenumbers))

    def _require_range(self, low: float, high: float) -> None:
        if low < self.k_min * (1 - 1e-9) or high > self.k_max * (1 + 1e-9):
            raise InputError(
                f"k from {low:.4g} to {high:.4g} is asked for, but {self!r} covers {self.k_min:.4g} to "
                f"{self.k_max:.4g} {self.units[0]}: use a spectrum that covers it, or say how to extrapolate"
            )

    @abstractmethod
    def _power(self, k: _Floats) -> _Floats:
        """Return P at positive wavenumbers inside the range."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return all that makes the model, ready for JSON; ``name`` is the first entry."""

    def __repr__(self) -> str:
        name, *rest = self.settings().items()
        return f"{name[1]}({', '.join(f'{key}={value!r}' for key, value in rest)})"


def require_number(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Return ``value`` as a float in [low, high], or in (low, high].

    Raises
    ------
    InputError
        If it is not such a number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (low < number if open_low else low <= number) or not number <= high or math.isinf(number):
        bound = f"above {low:g}" if open_low else f"at least {low:g}"
        top = "" if math.isinf(high) else f" and at most {high:g}"
        raise InputError(f"{name} is {value!r}: it must be a finite number {bound}{top}")
    return number
