"""Guidance by a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states
from physscore.core import Array, Energy, InputError, Score, check_unmasked, own_copy
from physscore.energies.functions import state_shape


class Guidance(Energy):
    """A class y in the place of data: with a prior p(x) it samples p(x) p(y|x)^strength.

    Parameters
    ----------
    log_p_class
        A function of states (n, *shape) that returns log p(y|x), of shape (n,), and its gradient; or an
        Energy whose energy is -log p(y|x).
    strength
        The power of p(y|x); 1 is Bayes' theorem.
    shape
        Shape of one state, for a function.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """

    def __init__(
        self,
        log_p_class: Energy | Callable[[Array], tuple[Array, Array]],
        strength: float = 1.0,
        *,
        shape: int | Sequence[int] | None = None,
    ) -> None:
        if not isinstance(strength, int | float | np.number) or not math.isfinite(strength):
            raise InputError(f"strength is {strength!r}: it must be a finite number")
        self.strength = float(strength)
        self.log_p_class = log_p_class
        sides = None if shape is None else state_shape(shape)
        if isinstance(log_p_class, Energy):
            if sides not in (None, log_p_class.shape):
                raise InputError(
                    f"shape is {shape!r}: that of log_p_class is {log_p_class.shape}; leave it out"
                )
            self.shape = log_p_class.shape
            self.has_walls = log_p_class.has_walls
        elif isinstance(log_p_class, Score) or not callable(log_p_class):
            raise InputError(
                f"log_p_class is {log_p_class!r}: it must be an Energy, or a function that returns log p "
                "and its gradient"
            )
        elif sides is None:
            raise InputError("shape is missing: log_p_class is a function, so say the shape of one state")
        else:
            self.shape = sides

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        if isinstance(self.log_p_class, Energy):
            energy, score = self.log_p_class.energy_and_score(x)
            return self.strength * energy, self.strength * score
        states = as_states(x, self.shape)
        found = self.log_p_class(own_copy(states))
        check_unmasked(found, "log_p_class")
        log_p, gradient = (np.asarray(part) for part in found)
        if log_p.shape != (len(states),) or gradient.shape != states.shape:
            raise InputError(
                f"log_p_class(x) returned {log_p.shape} and {gradient.shape}, expected ({len(states)},) and "
                f"{states.shape}: log p(y|x) and its gradient, for each state"
            )
        score = (self.strength * gradient).astype(states.dtype, copy=False)
        return -self.strength * log_p.astype(np.float64), score

    def __repr__(self) -> str:
        return f"Guidance(strength={self.strength:g})"
