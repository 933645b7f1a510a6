"""Lognormal fields over the modes of the Gaussian field behind them, where a step takes two FFTs."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states, device_of, namespace
from physscore.core import Array, Energy
from physscore.energies.coordinates import FieldModes, cell_by_cell, of_cells, prior_and_likelihood
from physscore.energies.lognormal import LognormalField

_SMALL_STEP = 1e-4  # of g, over which slopes are compared


class OfLogarithm(Energy):
    """A likelihood of delta as an energy of g = ln(1 + delta) + sigma^2 / 2.

    Parameters
    ----------
    likelihood
        An energy of delta.
    field
        Which has sigma.
    """

    def __init__(self, likelihood: Energy, field: LognormalField) -> None:
        self.likelihood, self.field = likelihood, field
        self.shape = field.shape
        self.one_by_one, self.has_walls = likelihood.one_by_one, likelihood.has_walls

    @property
    def cell_by_cell(self) -> bool:
        """Whether it is a product over cells, which may be looked at part by part."""
        return cell_by_cell(self.likelihood)

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both: d delta / dg is 1 + delta."""
        delta = self.field.cells_of(as_states(x, self.shape).copy())
        energy, score = self.likelihood.energy_and_score(delta)
        delta += 1
        delta *= score
        return energy, delta

    def of_cells(self, x: Array, first: int) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both of some cells; see ``coordinates.of_cells``."""
        delta = self.field.cells_of(x.copy())
        energy, score = of_cells(self.likelihood, delta, first)
        delta += 1
        delta *= score
        return energy, delta

    def curvature(self, x: Array | None = None) -> float:
        """Return about the mean over the cells of the second derivative of the energy, at ``x`` or at 0.

        That is v^T H v / d for random signs v (Hutchinson 1990, Commun. Stat. Simul. Comput. 19, 433).
        """
        states = np.zeros((1, *self.shape)) if x is None else as_states(x, self.shape)[:4]
        signs = np.random.default_rng(0).choice([-1.0, 1.0], self.shape)
        step = namespace(device_of(states)).asarray(_SMALL_STEP * signs, states.dtype)
        fall = self.energy_and_score(states + step)[1] - self.energy_and_score(states - step)[1]
        mean = float(-(fall * step).sum(dtype=np.float64)) / (2 * _SMALL_STEP**2 * fall.size)
        return mean if np.isfinite(mean) else 0.0


class LognormalModes(FieldModes):
    """A target with a lognormal prior over the whitened modes of the Gaussian field behind it.

    Parameters
    ----------
    target
        An energy of delta, with one lognormal field among its terms.
    """

    def __init__(self, target: Energy) -> None:
        prior, likelihood = prior_and_likelihood(target)
        field = self.field = cast(LognormalField, prior)
        beside = [] if likelihood is None else [OfLogarithm(likelihood, field)]
        super().__init__(sum(beside, start=field.gaussian), field.grid, whitened=True)

    def to_state(self, z: Array) -> Array:
        """Return delta at the coordinates ``z``."""
        return self.field.cells_of(self.to_fields(z))

    def from_state(self, x: Array) -> Array:
        """Return the coordinates of delta."""
        return super().from_state(self.field.to_gaussian(x))
