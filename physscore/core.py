"""The contracts of the package on one page: what a score, an energy and a prior are.

One sign rule everywhere: the energy is E(x) = -log p(x) + const, and the score is
s(x) = grad log p(x) = -grad E(x). The leading axis of an array of states is a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class InputError(ValueError):
    """Input that cannot be used; the message names the argument, its value and what would be right."""


class Score(ABC):
    """The gradient of a log density: all that a score-only sampler needs."""

    shape: tuple[int, ...]
    """Shape of one state."""

    @abstractmethod
    def score(self, x: Array) -> Array:
        """Return grad log p at states ``x``, both of shape (n, *shape)."""


class Energy(Score):
    """A density known up to its normalisation through E(x) = -log p(x) + const."""

    log_z: float | None = None
    """Log of the integral of exp(-E), where it is known."""

    @abstractmethod
    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return E of states ``x`` of shape (n, *shape): an array (n,), float64 whatever ``x`` is."""

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return the energies and the scores of ``x``; a subclass shares work between the two."""
        return self.energy(x), self.score(x)


class Prior(Energy):
    """A normalised density (energy = -log p, so log_z = 0) that can be sampled exactly."""

    log_z = 0.0

    @abstractmethod
    def sample(self, n: int, *, seed: int) -> Array:
        """Return ``n`` independent draws, of shape (n, *shape)."""

    @abstractmethod
    def whiten(self, x: Array) -> Array:
        """Map states to coordinates z in which the prior is a standard normal."""

    @abstractmethod
    def unwhiten(self, z: Array) -> Array:
        """Map whitened coordinates back to states: the inverse of :meth:`whiten`."""
