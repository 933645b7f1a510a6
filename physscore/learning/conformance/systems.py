"""Laws whose score is known in closed form at every noise level: what losses, scores and samplers run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError, Score
from physscore.energies.gaussian import Gaussian, GaussianMixture
from physscore.energies.random_field import GaussianRandomField
from physscore.energies.smoothing import smoothed
from physscore.grid import Grid
from physscore.noise import normal

_Floats = npt.NDArray[np.float64]

# The numbers of the deviates that this suite uses.
NOISE, PROBE, WAVES = 120, 121, 122

_SMALL = 4096  # cells of a field


@dataclass(frozen=True, eq=False)
class System:
    """A law, and the noise levels at which it is looked at.

    Attributes
    ----------
    name : str
    energy : Gaussian, GaussianMixture or GaussianRandomField
        The law of the data.
    sigma : float
        The noise level for checks of one level.
    levels : tuple of float
        Those for checks of several.
    """

    name: str
    energy: Any
    sigma: float
    levels: tuple[float, ...] = field(default=(2.0, 0.7, 0.3))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return tuple(self.energy.shape)

    @property
    def dim(self) -> int:
        """Number of components of one state."""
        return math.prod(self.shape)

    def score_at(self, sigma: float) -> Score:
        """Return the true score of the data smoothed with N(0, sigma^2 I), and nothing but the score."""
        found = smoothed(self.energy, sigma)
        small = isinstance(found, GaussianRandomField) and found.grid.n_cells <= _SMALL
        return _Convolution(found) if small else _Only(found)

    def draw(self, n: int, sigma: float, *, seed: int) -> _Floats:
        """Return independent draws (n, *shape) of the data with noise."""
        x = np.asarray(self.energy.sample(n, seed=seed), np.float64)
        if sigma == 0:
            return x
        return x + sigma * normal(n, self.dim, seed=seed, draw=NOISE).reshape(x.shape)


class _Only(Score):
    """The score of an energy: so that a sampler takes the way it takes for a learned one."""

    def __init__(self, energy: Score) -> None:
        self.shape, self.energy = energy.shape, energy

    def score(self, x: Array) -> Array:
        """Return the score, (n, *shape)."""
        return self.energy.score(x)


class _Convolution(Score):
    """The score of many small fields, all by one FFT."""

    def __init__(self, energy: GaussianRandomField) -> None:
        self.shape = energy.shape
        self.axes = tuple(range(1, len(self.shape) + 1))
        cell = np.zeros((1, *self.shape))
        cell.flat[0] = 1.0
        self.filter = np.fft.rfftn(energy.score(cell), axes=self.axes).real

    def score(self, x: Array) -> Array:
        """Return the score, (n, *shape)."""
        modes = np.fft.rfftn(x, axes=self.axes)
        modes *= self.filter
        return np.asarray(np.fft.irfftn(modes, self.shape, axes=self.axes), np.asarray(x).dtype)


@cache
def gaussian() -> System:
    """Return a normal law in 3 dimensions, correlated, with variances 0.3, 0.8 and 2, away from 0."""
    first, second = np.array([1.0, 2.0, 2.0]) / 3, np.array([2.0, 1.0, -2.0]) / 3
    axes = np.array([first, second, np.cross(first, second)])
    covariance = axes.T @ np.diag([0.3, 0.8, 2.0]) @ axes
    return System("gaussian", Gaussian([1.0, -0.5, 0.5], 0.5 * (covariance + covariance.T)), 0.5)


@cache
def mixture() -> System:
    """Return a mixture of two normal laws in 2 dimensions, 35% and 65%, 3.4 apart."""
    covariances = [[[0.4, 0.15], [0.15, 0.3]], [[0.25, -0.1], [-0.1, 0.5]]]
    return System("mixture", GaussianMixture([0.35, 0.65], [[-1.5, -0.5], [1.5, 1.0]], covariances), 0.4)


@cache
def random_field() -> System:
    """Return a Gaussian random field on 8 x 8 cells of side 1, P = 2 k^-1.5; its mean k = 0 is fixed."""
    return System("field", GaussianRandomField(Grid((8, 8), 8.0), _power), 0.5)


def _power(k: _Floats) -> _Floats:
    return np.asarray(2.0 * k**-1.5)


def all_systems() -> tuple[System, ...]:
    """Return the three laws."""
    makers: tuple[Callable[[], System], ...] = (gaussian, mixture, random_field)
    return tuple(make() for make in makers)


def chosen(systems: Sequence[System] | None) -> tuple[System, ...]:
    """Return the laws to run on: those given, or all.

    Raises
    ------
    InputError
        If they are no systems, or none.
    """
    if systems is None:
        return all_systems()
    if isinstance(systems, System) or not len(systems) or not all(isinstance(s, System) for s in systems):
        raise InputError(f"systems is {systems!r}: it must be a list of System, such as [gaussian()]")
    return tuple(systems)
