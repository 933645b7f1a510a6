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
    dim : int or None
        Number of dimensions of the fields whose P it is; None for what may be of any.
    """

    k_min: float = 0.0
    k_max: float = math.inf
    redshift: float | None = None
    units: tuple[str, str] = ("1/length", "length^dim")
    dim: int | None = None
    _frozen: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        if self._frozen:
            raise AttributeError(f"{type(self).__name__} does not change: make a new one to set {name}")
        super().__setattr__(name, value)

    def __call__(self, k: npt.ArrayLike) -> _Floats:
        """Return P at wavenumbers ``k`` > 0, as float64 of the same shape.

        Raises
        ------
        InputError
            If a wavenumber is not positive and finite or outside the range of the model, or if P
            is too large for float64.
        """
        wavenumbers = require_array("k", k)
        usable = (wavenumbers > 0) & (wavenumbers < math.inf)
        if not usable.all():
            raise InputError(
                f"k has the value {wavenumbers[~usable].flat[0]}: it must be positive and finite"
            )
        if wavenumbers.size:
            self._require_range(float(wavenumbers.min()), float(wavenumbers.max()))
        with np.errstate(over="ignore"):
            power = np.asarray(self._power(wavenumbers))
        if not np.isfinite(power).all():
            where = wavenumbers[~np.isfinite(power)].flat[0]
            raise InputError(f"{self!r} is not finite at k = {where:.4g}: use a milder slope or amplitude")
        return power

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


def require_array(name: str, values: npt.ArrayLike) -> _Floats:
    """Return a copy of ``values`` as float64.

    Raises
    ------
    InputError
        If they are not an array of real numbers.
    """
    try:
        if np.iscomplexobj(values):
            raise TypeError
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not an array of real numbers: it must be one") from None


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
        number = math.nan if isinstance(value, (bool, np.bool_, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (low < number if open_low else low <= number) or not number <= high or math.isinf(number):
        bound = "" if math.isinf(low) else f" above {low:g}" if open_low else f" at least {low:g}"
        top = "" if math.isinf(high) else f" and at most {high:g}"
        raise InputError(f"{name} is {value!r}: it must be a finite number{bound}{top}")
    return number


def require_dimension(name: str, spectrum: Any, dim: int) -> None:
    """Refuse a spectrum of fields of another number of dimensions: its P is in other units.

    Raises
    ------
    InputError
        If so.
    """
    own = getattr(spectrum, "dim", None)
    if own not in (None, dim):
        unit = spectrum.units[1] if isinstance(spectrum, Spectrum) else f"length^{own}"
        raise InputError(
            f"{name} is of {own} dimensions, with P in {unit}, and the fields have {dim}: give a P(k) of "
            f"{dim} dimensions, such as a power law or a table"
        )
