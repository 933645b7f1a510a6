"""Anybody's score, made one of ours to be looked at: checked for its shapes, and with its calls counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from physscore.arrays import as_states
from physscore.core import Array, InputError, Score


class Watched(Score):
    """A score whose results are checked for their shape and counted; their precision stays.

    Parameters
    ----------
    wrapped
        An object with ``shape`` and ``score(x)``; its ``directional(x, v)`` passes through, if it has one.

    Attributes
    ----------
    evaluations : int
        States at which the score was asked for.
    bar
        A progress bar that counts them, or None.

    Raises
    ------
    InputError
        If it has no shape or no score.
    """

    def __init__(self, wrapped: Any, name: str = "score") -> None:
        shape = getattr(wrapped, "shape", None)
        if not callable(getattr(wrapped, "score", None)) or not isinstance(shape, tuple):
            raise InputError(
                f"{name} is {wrapped!r}: it must have a tuple .shape and a method .score(x), as an Energy, a "
                "Score or what from_functions(score=, shape=) makes of a function"
            )
        self.wrapped, self.shape, self.name, self.evaluations = wrapped, tuple(shape), name, 0
        self.bar: Any = None
        if callable(getattr(wrapped, "directional", None)):
            self.directional = self._directional

    def score(self, x: Array) -> Array:
        """Return what the wrapped one does, (n, *shape), whatever became of it in its range of numbers."""
        self._count(len(x))
        with np.errstate(all="ignore"):
            found = np.asarray(self.wrapped.score(x))
        return self._checked(found, x)

    def _directional(self, x: Array, v: Array) -> tuple[Array, Array]:
        self._count(2 * len(x))  # an automatic derivative costs about two
        with np.errstate(all="ignore"):
            found, along = self.wrapped.directional(x, v)
        return self._checked(np.asarray(found), x), self._checked(np.asarray(along), x)

    def _count(self, n: int) -> None:
        self.evaluations += n
        if self.bar is not None:
            self.bar.update(n)

    def _checked(self, found: Array, x: Array) -> Array:
        if found.shape != x.shape or found.dtype.kind not in "fiu":
            raise InputError(
                f"{self.name}.score(x) returned {found.shape} of type {found.dtype}, expected {x.shape} of "
                "real numbers: one vector a state"
            )
        return found if found.dtype in (np.float32, np.float64) else found.astype(np.float64)

    def __repr__(self) -> str:
        text = repr(self.wrapped)
        return type(self.wrapped).__name__ if text.startswith("<") and " at 0x" in text else text


def watched(score: Any, name: str = "score") -> Watched:
    """Return a score as :class:`Watched`, if it is not one already."""
    return score if isinstance(score, Watched) else Watched(score, name)


def finite_states(x: Any, shape: tuple[int, ...]) -> Array:
    """Return states (n, *shape) in float64, checked to be at least one and finite.

    Raises
    ------
    InputError
        If they are not.
    """
    states = as_states(x, shape).astype(np.float64, copy=False)
    if len(states) == 0:
        raise InputError("x has no states: give at least one, better hundreds")
    if not np.isfinite(states).all():
        raise InputError("x is not finite everywhere: give states at which the density is not zero")
    return states


def spread_over(n: int, most: int) -> Array:
    """Return the numbers of at most ``most`` of n states, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, max(1, min(n, most))).round().astype(np.int64))


def rows(x: Array) -> Array:
    """Return states as flat vectors: (n, d)."""
    return x.reshape(len(x), -1)
