"""A learned energy of physical states, with walls where its coordinates end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states
from physscore.core import Array, Energy
from physscore.energies.gaussian import Gaussian
from physscore.energies.transformed import Transformed, inside, through
from physscore.learning.fitted import Fitted


class FittedEnergy(Fitted, Energy):
    """A learned energy of states: all that a :class:`Fitted` has, and E of physical states.

    It is +inf, with a score of 0, below the smallest value that the data can have, where there is one.
    """

    @property
    def has_walls(self) -> bool:  # type: ignore[override]
        """Whether the data have a smallest value."""
        return self.normalisation.bounded

    @property
    def crude(self) -> Transformed | None:
        """What a fit of a reference begins with: a standard normal density of the coordinates, where these
        are not the states to a scale."""
        if self.normalisation.linear or len(self.shape) > 1:
            return None
        return Transformed(Gaussian(0.0, 1.0, dim=math.prod(self.shape)), self.normalisation)

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return -log p up to a constant, of physical states: (n,)."""
        return self.energy_and_score(x)[0]

    def score(self, x: Array) -> Array:
        """Return grad log p of physical states, both of shape (n, *shape)."""
        (found,) = self._inside(super().score, as_states(x, self.shape))
        return found

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        inner: Any = self.at()
        return through(inner, self.normalisation, as_states(x, self.shape))

    def directional(self, x: Array, v: Array) -> tuple[Array, Array]:
        """Return the score of physical states and its derivative along ``v``, J v: both of their shape."""
        states, along = as_states(x, self.shape), as_states(v, self.shape, "v")
        score, product = self._inside(super().directional, states, along)
        return score, product

    def _inside(self, function: Any, states: Array, *more: Array) -> list[Array]:
        """Return what a function gives for the states inside of the walls, and zeros for the others."""
        within = inside(self.normalisation, states)
        found = function(states[within], *(values[within] for values in more))
        whole = []
        for values in found if isinstance(found, tuple) else (found,):
            whole.append(np.zeros(states.shape, states.dtype))
            whole[-1][within] = values
        return whole
