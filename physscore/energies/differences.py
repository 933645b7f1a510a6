"""The score by the energy's own differences, each at a step that suits its component and its state.

Nothing is known of units and of rounding: one component may be of 1e-9 beside one of 70, and the energy be
computed in float32. A step starts as a small part of the component's size and shrinks until the energy
changes by little over it; from there it grows, and then shrinks, until the fourth-order differences of two
steps agree with the score that is checked. If none do, the one counts that the other steps confirm best.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

_FIRST = 2.0**-10
"""The first step, in sizes of the component."""

_HALVED, _DOUBLED = 14, 60
"""So often a step is halved, and doubled, at most."""

_CHANGE = 1.0
"""Of the energy over a step, at most: beyond it the density is another one."""

_SEEN = 1e-3
"""The part of the energy's largest change below which another may be rounding."""

_BLOCK = 1 << 20
"""Numbers in the states that the energy is given at once."""


class Differences(NamedTuple):
    """A score by differences of the energy: arrays (n, components)."""

    score: Floats
    error: Floats
    """How well other steps confirm it: infinite where there are none."""
    scale: Floats
    """How much the energy changes over the step, divided by the step."""


def differences(
    energy: Callable[[Floats], Floats], states: Floats, components: Places, expected: Floats, tolerance: float
) -> Differences:
    """Return some components of the score at each state.

    Parameters
    ----------
    energy
        (n, dim) -> (n,): infinite or nan where it is not defined.
    states
        Of shape (n, dim), with finite energies.
    components
        Which ones.
    expected
        The score that is checked, of shape (n, components).
    tolerance
        How large an error matters, relative to ``scale``.
    """
    values = states[:, components]
    size = np.maximum(np.abs(values), values.std(axis=0))
    whole = np.maximum(np.abs(states).max(axis=1), size.max(axis=1))
    whole[whole == 0] = 1.0
    size = np.where(size > 0, size, whole[:, np.newaxis])
    chain, column = (places.ravel() for places in np.indices(values.shape))
    found = np.empty((3, chain.size))
    block = max(1, min(4096, _BLOCK // states.shape[1]))
    for start in range(0, chain.size, block):
        rows = slice(start, start + block)
        with np.errstate(all="ignore"):  # a step may end where the energy is not defined
            found[:, rows] = _Steps(
                energy, states[chain[rows]], components[column[rows]], size.ravel()[rows], whole[chain[rows]]
            ).compare(expected.ravel()[rows], tolerance)
    return Differences(*found.reshape(3, *values.shape))


class _Steps:
    """Steps along one component of each of some states: arrays (steps, states), nan where none is taken."""

    def __init__(
        self,
        energy: Callable[[Floats], Floats],
        states: Floats,
        component: Places,
        size: Floats,
        reach: Floats,
    ):
        self._energy, self._states, self._component = energy, states, component
        self._level = energy(states.copy())
        single = (self._level == self._level.astype(np.float32)).all()
        rounding = np.finfo(np.float32 if single else np.float64).eps * (np.abs(self._level) + 1)
        self._seen = 1e3 * rounding
        self._most = np.maximum(_CHANGE, 1e2 * self._seen)
        self._reach = reach
        self._least = 1e-8 / size  # an energy that changes by less over the component's size is flat
        self._odd, self._rise, self._score, self._scale = np.full(
            (4, _HALVED + 1 + _DOUBLED, len(states)), np.nan
        )
        self._ended = np.zeros(len(states), bool)  # the energy changed by more over some step
        step = _FIRST * size
        far = np.arange(len(states))
        for _ in range(100):
            self._take(_HALVED, far, step)
            far = far[np.isnan(self._rise[_HALVED, far])]
            if not len(far):
                break
            step[far] /= 8
        self._step = np.multiply.outer(2.0 ** np.arange(-_HALVED, _DOUBLED + 1), step)

    def _take(self, place: int, rows: Places, step: Floats) -> None:
        """Go to both sides, and keep what the energy does there, if it changes by little."""
        sides = []
        for sign in (1.0, -1.0):
            moved = self._states[rows]
            moved[np.arange(len(rows)), self._component[rows]] += sign * step[rows]
            sides.append(self._energy(moved) - self._level[rows])
        rise = np.maximum(np.abs(sides[0]), np.abs(sides[1]))
        near = rise <= self._most[rows]
        self._odd[place, rows] = np.where(near, sides[0] - sides[1], np.nan)
        self._rise[place, rows] = np.where(near, rise, np.nan)
        self._ended[rows] |= ~near & np.isfinite(rise)

    def compare(self, expected: Floats, tolerance: float) -> tuple[Floats, Floats, Floats]:
        """Return score, error and scale at the steps that agree with ``expected``, else at the best."""
        agrees = np.zeros(self._score.shape, bool)
        agreed = np.full(len(expected), -1)
        larger, smaller = range(_HALVED + 1, len(agrees)), range(_HALVED - 1, -1, -1)
        for place, way in [(place, 1) for place in larger] + [(place, -1) for place in smaller]:
            open_ = (agreed < 0) & ~np.isnan(self._rise[place - way]) & (self._step[place] < 4 * self._reach)
            rows = np.flatnonzero(open_)
            if len(rows):
                self._take(place, rows, self._step[place])
                inner = min(place, place - way)
                self._differ(inner, rows)
                off = np.abs(self._score[inner, rows] - expected[rows])
                near = off <= 0.3 * tolerance * self._scale[inner, rows]
                grows = self._rise[inner + 1, rows] > 1.5 * np.maximum(
                    self._rise[inner, rows], self._seen[rows]
                )
                agrees[inner, rows] = near & grows
                agreed[rows[agrees[inner, rows] & agrees[inner - way, rows]]] = inner
        error = self._errors()
        rows = np.arange(len(expected))
        relative = error / np.fmax(self._scale, self._least)
        enough = relative <= 0.1 * tolerance
        enough[:-1] &= enough[1:]
        # Steps far beyond the density may agree with each other too: the first that do count.
        best = np.where(enough.any(axis=0), enough.argmax(axis=0), relative.argmin(axis=0))
        best = np.where(agreed < 0, best, agreed)
        error[agreed[agreed >= 0], rows[agreed >= 0]] = 0.0
        return self._score[best, rows], error[best, rows], self._scale[best, rows]

    def _differ(self, place: int, rows: Places) -> None:
        """Take the difference of fourth order from a step and its double."""
        step = self._step[place, rows]
        self._score[place, rows] = (self._odd[place + 1, rows] - 8 * self._odd[place, rows]) / (12 * step)
        self._scale[place, rows] = np.fmax(self._rise[place, rows] / step, self._least[rows])

    def _errors(self) -> Floats:
        """Return how far each difference is from the next one, and from what rounding lets one expect."""
        gap = np.full_like(self._score, np.nan)
        gap[:-1] = np.abs(np.diff(self._score, axis=0))
        # The rounding of the energies is seen at all smaller steps, and grows there.
        error = gap + np.fmax.accumulate(gap * self._step, axis=0) / self._step
        highest = np.fmax.reduce(np.nan_to_num(self._rise), axis=0)
        seen = (self._rise > _SEEN * highest) | (highest == 0)
        # Where it changes by much or not at all it jumps, as one in float32 does that is huge.
        seen &= ~self._ended | (highest > 1e-3 * self._most)
        return np.where(seen & ~np.isnan(error), error, np.inf)
