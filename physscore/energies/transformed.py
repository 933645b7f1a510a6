"""A density of coordinates of states, as one of the states."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states
from physscore.core import Array, Energy, Prior
from physscore.energies.priors import Parameters

_Floats = npt.NDArray[np.float64]


class Slope(Protocol):
    """Coordinates of states with the derivatives of the map, each of the shape of the states."""

    @property
    def y(self) -> _Floats:
        """The coordinates."""

    @property
    def first(self) -> _Floats:
        """dy/dx."""

    @property
    def log_first_slope(self) -> _Floats:
        """d log(dy/dx) / dx."""


class Map(Protocol):
    """Rising maps y(x) of each component of a state, as ``physscore.learning.Normalisation``."""

    def forward(self, x: Array) -> _Floats:
        """Return y."""

    def inverse(self, y: Array) -> _Floats:
        """Return x."""

    def slope(self, x: Array) -> Slope:
        """Return y and the derivatives of the map."""

    def holds(self, x: Array) -> npt.NDArray[np.bool_]:
        """Return where there is a y."""


def inside(coordinates: Map, states: Array) -> npt.NDArray[np.bool_]:
    """Return which states have coordinates, (n,)."""
    return np.asarray(coordinates.holds(states).reshape(len(states), -1).all(axis=1))


def through(energy: Energy, coordinates: Map, states: Array) -> tuple[_Floats, Array]:
    """Return E(y) - log |dy/dx| and its score over states (n, *shape): +inf and 0 where there is no y."""
    within = inside(coordinates, states)
    energies, scores = np.full(len(states), np.inf), np.zeros(states.shape, states.dtype)
    if within.any():
        slope = coordinates.slope(states[within])
        inner, score = energy.energy_and_score(slope.y)
        energies[within] = inner - np.log(slope.first).reshape(len(inner), -1).sum(axis=1)
        with np.errstate(over="ignore"):  # close to a wall
            scores[within] = score * slope.first + slope.log_first_slope
    return energies, scores


class Transformed(Prior):
    """A prior of the coordinates y(x), as one of the states x.

    Parameters
    ----------
    prior
        Of the coordinates.
    coordinates
        The map.
    """

    def __init__(self, prior: Prior, coordinates: Map) -> None:
        self.prior, self.coordinates, self.shape = prior, coordinates, prior.shape

    def of(self, prior: Prior) -> Transformed:
        """Return another prior of the same coordinates."""
        return Transformed(prior, self.coordinates)

    def energy_and_score(self, x: Array) -> tuple[_Floats, Array]:
        """Return both."""
        return through(self.prior, self.coordinates, as_states(x, self.shape))

    def sample(self, n: int, *, seed: int) -> Array:
        """Return ``n`` independent draws, of shape (n, *shape)."""
        return self.coordinates.inverse(self.prior.sample(n, seed=seed))

    def whiten(self, x: Array) -> Array:
        """Return the whitened coordinates of states."""
        return self.prior.whiten(self.coordinates.forward(x))

    def unwhiten(self, z: Array) -> Array:
        """Return the states."""
        return self.coordinates.inverse(self.prior.unwhiten(z))

    def pull_back(self, z: Array, gradient: Array) -> Array:
        """Return the gradient over z, which is 0 where rounding has put a state on a wall."""
        x = self.unwhiten(z)
        held = self.coordinates.holds(x)
        middle = self.coordinates.inverse(np.zeros(x.shape))
        first = self.coordinates.slope(np.where(held, x, middle)).first
        return self.prior.pull_back(z, np.where(held, gradient / first, 0.0))

    def __repr__(self) -> str:
        return f"{self.prior!r} of coordinates"


def crude_of(term: Any) -> Transformed | None:
    """Return the density of coordinates that a fit around an energy may begin with, if the energy has one."""
    found: Transformed | None = getattr(term, "crude", None)
    return found if isinstance(found, Transformed) else None


class WhiteningOf:
    """The coordinates in which a prior of parameters is a standard normal."""

    def __init__(self, prior: Parameters) -> None:
        self.prior = prior

    def forward(self, x: Array) -> _Floats:
        """Return y."""
        return np.asarray(self.prior.whiten(x), np.float64)

    def inverse(self, y: Array) -> _Floats:
        """Return x."""
        return np.asarray(self.prior.unwhiten(y), np.float64)

    def slope(self, x: Array) -> WhiteningSlope:
        """Return y and its derivatives, p(x) / phi(y) and what follows from it."""
        y = self.forward(x)
        states = np.asarray(x, np.float64)
        parts = [one._inside(states[:, i]) for i, one in enumerate(self.prior.priors)]
        energy, slope = (np.stack(columns, axis=1) for columns in zip(*parts, strict=True))
        first = np.exp(0.5 * y**2 - energy) * math.sqrt(2 * math.pi)
        return WhiteningSlope(y, first, y * first - slope)

    def holds(self, x: Array) -> npt.NDArray[np.bool_]:
        """Return where there is a y."""
        return np.isfinite(self.forward(x))


class WhiteningSlope(NamedTuple):
    """A ``Slope``."""

    y: _Floats
    first: _Floats
    log_first_slope: _Floats
