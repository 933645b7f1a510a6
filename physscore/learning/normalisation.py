"""From physical states to the coordinates a network learns in, and back, with the Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator
from scipy.special import ndtr, ndtri

from physscore.core import Array, InputError

TRANSFORMS = ("auto", "identity", "gaussianise")
_Floats = npt.NDArray[np.float64]
_SKEWED = 1.0  # skewness above which "auto" makes the distribution of one cell normal
_BEYOND = 20  # data beyond the outermost knot
_KNOTS = 65
_SMALLEST = float(np.finfo(float).tiny)  # above the wall: the slope of the logarithm is its inverse
_NAMED = 8  # components in a message, at most
_ALIKE = 1e-15  # of the mean: so little is rounding


class Slope(NamedTuple):
    """Coordinates of states with the derivatives of the map, each of the shape of the states."""

    y: _Floats
    first: _Floats
    log_first_slope: _Floats
    """d log(dy/dx) / dx."""
    log_first_bend: _Floats
    """d^2 log(dy/dx) / dx^2."""


class Normalisation:
    """A smooth, rising map, the same of every component, then mean 0 and variance 1.

    "identity": y = (x - mean) / std. "gaussianise": y = (f(log(x + shift)) - mean) / std, where the monotone
    spline f makes the distribution of one component a standard normal one; without the logarithm where data
    are negative. Beyond the outermost knots it goes on as a straight line.

    Parameters
    ----------
    mean, std
        Of what comes out of the map.
    knots_x, knots_y
        Of the spline: rising; none for the identity.
    shift
        What is added below the logarithm; None for no logarithm.
    """

    def __init__(
        self, mean: float, std: float, knots_x: Any = (), knots_y: Any = (), shift: float | None = None
    ) -> None:
        self.mean, self.std, self.shift = float(mean), float(std), shift
        self.knots_x, self.knots_y = np.asarray(knots_x, np.float64), np.asarray(knots_y, np.float64)
        good = self.knots_x.shape == self.knots_y.shape and self.knots_x.ndim == 1 and len(self.knots_x) != 1
        if not good or not (np.diff(self.knots_x) > 0).all() or not (np.diff(self.knots_y) > 0).all():
            raise InputError("knots_x and knots_y of a normalisation must be rising, and equally many")
        if not (np.isfinite([self.mean, self.std]).all() and self.std > 0):
            raise InputError(f"mean is {mean} and std {std}: they must be finite, and std positive")
        if len(self.knots_x):
            self._spline = _rising_spline(self.knots_x, self.knots_y)
            self._slope, self._bend, self._turn = (self._spline.derivative(order) for order in (1, 2, 3))
            self._ends = self._slope(self.knots_x[[0, -1]])

    @classmethod
    def fit(cls, x: Array, transform: str = "auto") -> Normalisation:
        """Return the normalisation of data of any shape.

        Parameters
        ----------
        x
            Data; all components are treated alike.
        transform
            "identity", "gaussianise", or "auto": the latter where the skewness exceeds 1.

        Raises
        ------
        InputError
            If data are not finite, all alike, or the transform is not known.
        """
        values = np.asarray(x, np.float64).ravel()
        if not values.size or not np.isfinite(values).all():
            raise InputError("data hold values that are not finite: leave them out")
        _check_varies(values)
        mean, std = float(values.mean()), float(values.std())
        if transform not in TRANSFORMS:
            raise InputError(f"transform is {transform!r}: it must be one of {', '.join(TRANSFORMS)}")
        if transform == "auto":
            skewed = abs((((values - mean) / std) ** 3).mean()) > _SKEWED and values.size >= 1000
            if skewed:
                with suppress(InputError):  # too few different values
                    return cls.fit(values, "gaussianise")
            transform = "identity"
        if transform == "identity":
            return cls(mean, std)
        shift = None
        if values.min() >= 0:
            shift = 0.0 if values.min() > 0 else float(np.quantile(values[values > 0], 1e-3))
        knots_x, knots_y = _normal_quantiles(values if shift is None else np.log(values + shift))
        raw = cls(0.0, 1.0, knots_x, knots_y, shift)
        y = raw.forward(values)
        return cls(float(y.mean()), float(y.std()), knots_x, knots_y, shift)

    @property
    def linear(self) -> bool:
        """Whether the map is a straight line."""
        return not len(self.knots_x)

    @property
    def bounded(self) -> bool:
        """Whether there is a smallest value."""
        return not self.linear and self.shift is not None

    def forward(self, x: Array) -> _Floats:
        """Return the coordinates of physical states, of the same shape."""
        values = np.asarray(x, np.float64)
        mapped = values if self.linear else self._mapped(self._under(values))
        return np.asarray((mapped - self.mean) / self.std)

    def inverse(self, y: Array) -> _Floats:
        """Return the physical states of coordinates."""
        mapped = np.asarray(y, np.float64) * self.std + self.mean
        if self.linear:
            return np.asarray(mapped)
        u = self._solved(mapped)
        with np.errstate(over="ignore"):
            return u if self.shift is None else np.exp(u) - self.shift

    def slope(self, x: Array) -> Slope:
        """Return coordinates, dy/dx, and the first two derivatives of log dy/dx."""
        values = np.asarray(x, np.float64)
        if self.linear:
            zero = np.zeros(values.shape)
            return Slope(self.forward(values), np.full(values.shape, 1 / self.std), zero, zero)
        u = self._under(values)
        low, high = self.knots_x[[0, -1]]
        inside = np.clip(u, low, high)
        first = self._slope(inside)
        curved = (u >= low) & (u <= high)
        bend = np.where(curved, self._bend(inside), 0.0) / first
        change = np.where(curved, self._turn(inside), 0.0) / first - bend**2
        y = (self._mapped(u) - self.mean) / self.std
        if self.shift is None:
            return Slope(y, first / self.std, bend, change)
        inner = 1 / (values + self.shift)
        with np.errstate(over="ignore"):  # of the bend, close to the wall
            log_bend = (change - (bend - 1)) * inner**2
        return Slope(y, first * inner / self.std, (bend - 1) * inner, log_bend)

    def holds(self, x: Array) -> npt.NDArray[np.bool_]:
        """Return where values are larger than the smallest that the data can have, by a number whose inverse
        is finite."""
        values = np.asarray(x, np.float64)
        return np.full(values.shape, True) if self.shift is None else values + self.shift >= _SMALLEST

    def settings(self) -> dict[str, Any]:
        """Return all its numbers, ready for JSON."""
        return {
            "mean": self.mean, "std": self.std, "knots_x": self.knots_x.tolist(),
            "knots_y": self.knots_y.tolist(), "shift": self.shift,
        }  # fmt: skip

    def _under(self, x: _Floats) -> _Floats:
        if self.shift is None:
            return x
        inner = x + self.shift
        if (inner < _SMALLEST).any():
            raise InputError(
                f"x holds {float(x.min()):g}: the data of this score are larger than {0.0 - self.shift:g}"
            )
        return np.log(inner)

    def _mapped(self, u: _Floats) -> _Floats:
        low, high = self.knots_x[[0, -1]]
        inside = np.clip(u, low, high)
        return np.asarray(
            self._spline(inside)
            + self._ends[0] * np.minimum(u - low, 0.0)
            + self._ends[1] * np.maximum(u - high, 0.0)
        )

    def _solved(self, y: _Floats) -> _Floats:
        """Return u of f(u) = y: bisection between two knots, then Newton's steps."""
        piece = np.clip(np.searchsorted(self.knots_y, y) - 1, 0, len(self.knots_y) - 2)
        low, high = self.knots_x[piece], self.knots_x[piece + 1]
        inside = np.clip(y, self.knots_y[0], self.knots_y[-1])
        for _ in range(12):
            middle = 0.5 * (low + high)
            above = self._spline(middle) < inside
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        u = 0.5 * (low + high)
        for _ in range(4):
            u = np.clip(u - (self._spline(u) - inside) / self._slope(u), low, high)
        below, beyond = np.minimum(y - self.knots_y[0], 0.0), np.maximum(y - self.knots_y[-1], 0.0)
        return np.asarray(u + below / self._ends[0] + beyond / self._ends[1])


class Components:
    """A normalisation of its own for every component of vectors.

    Parameters
    ----------
    parts
        One a component.
    """

    def __init__(self, parts: Sequence[Normalisation]) -> None:
        self.parts = tuple(parts)
        self.mean, self.std = (np.array([getattr(part, name) for part in parts]) for name in ("mean", "std"))
        self._bent = [(i, part) for i, part in enumerate(parts) if not part.linear]

    @classmethod
    def fit(cls, x: Array, transform: str = "auto") -> Components:
        """Return the normalisation of vectors (n, d), each component by :meth:`Normalisation.fit`.

        Raises
        ------
        InputError
            As there, or if a component does not vary.
        """
        columns = np.asarray(x, np.float64).T
        _check_varies(columns)
        alike = [i for i, column in enumerate(columns) if column.std() <= _ALIKE * abs(column.mean())]
        if alike:
            which = ", ".join(map(str, alike[:_NAMED])) + (", ..." if len(alike) > _NAMED else "")
            if len(alike) == 1:
                mean = columns[alike[0]].mean()
                raise InputError(
                    f"data are all {mean:g} in component {which}: there is nothing to learn of it"
                )
            raise InputError(
                f"data do not vary in {len(alike)} components ({which}): there is nothing to learn of these"
            )
        return cls([Normalisation.fit(column, transform) for column in columns])

    @property
    def linear(self) -> bool:
        """Whether all maps are straight lines."""
        return not self._bent

    @property
    def bounded(self) -> bool:
        """Whether a component has a smallest value."""
        return any(part.bounded for part in self.parts)

    def forward(self, x: Array) -> _Floats:
        """Return the coordinates of vectors (..., d)."""
        values = np.asarray(x, np.float64)
        y = np.asarray((values - self.mean) / self.std)
        for i, part in self._bent:
            y[..., i] = part.forward(values[..., i])
        return y

    def inverse(self, y: Array) -> _Floats:
        """Return the vectors of coordinates."""
        given = np.asarray(y, np.float64)
        x = np.asarray(given * self.std + self.mean)
        for i, part in self._bent:
            x[..., i] = part.inverse(given[..., i])
        return x

    def slope(self, x: Array) -> Slope:
        """Return coordinates, dy/dx, and the first two derivatives of log dy/dx."""
        values = np.asarray(x, np.float64)
        found = Slope(
            np.asarray((values - self.mean) / self.std),
            np.full(values.shape, 1 / self.std),
            np.zeros(values.shape),
            np.zeros(values.shape),
        )
        for i, part in self._bent:
            for whole, one in zip(found, part.slope(values[..., i]), strict=True):
                whole[..., i] = one
        return found

    def holds(self, x: Array) -> npt.NDArray[np.bool_]:
        """Return where values are larger than the smallest that the data can have."""
        values = np.asarray(x, np.float64)
        found = np.full(values.shape, True)
        for i, part in self._bent:
            found[..., i] = part.holds(values[..., i])
        return found

    def settings(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON."""
        return {"components": [part.settings() for part in self.parts]}


def _check_varies(values: _Floats) -> None:
    if values.size and values.std() <= _ALIKE * abs(values.mean()):
        raise InputError(f"data are all {values.mean():g}: there is nothing to learn")


def from_settings(settings: dict[str, Any]) -> Normalisation | Components:
    """Return the normalisation that a file describes."""
    if "components" in settings:
        return Components([Normalisation(**part) for part in settings["components"]])
    return Normalisation(**settings)


def _rising_spline(x: _Floats, y: _Floats) -> CubicHermiteSpline:
    """Return the monotone spline of Fritsch and Carlson, with secants' slopes at both ends: never zero."""
    slopes = PchipInterpolator(x, y).derivative()(x) if len(x) > 2 else np.empty(2)
    slopes[[0, -1]] = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    return CubicHermiteSpline(x, y, slopes)


def _normal_quantiles(u: _Floats) -> tuple[_Floats, _Floats]:
    """Return knots (quantiles of the data, those of a standard normal)."""
    furthest = float(-ndtri(min(_BEYOND / len(u), 0.25)))
    wanted = np.linspace(-furthest, furthest, _KNOTS)
    knots = np.quantile(u, ndtr(wanted))
    rising = np.append(True, np.diff(knots) > 1e-9 * (knots[-1] - knots[0]))
    if rising.sum() < 2:
        raise InputError("data have too few different values to make them normal: use transform='identity'")
    return knots[rising], wanted[rising]
