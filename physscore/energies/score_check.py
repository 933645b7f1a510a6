"""A check of scores: against the differences of their own energies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from physscore.arrays import as_states, device_of, namespace, on_gpu, to_host, unmasked
from physscore.core import Array, Energy, InputError
from physscore.energies.differences import differences
from physscore.energies.functions import checked_energy, checked_score


class ScoreCheck(NamedTuple):
    """How a score compares with the differences of its energy."""

    passed: bool
    worst: tuple[int, ...]
    """The component with the largest error."""
    error: float
    """That error, divided by the size of the gradient."""
    message: str

    def __str__(self) -> str:
        return self.message

    def __bool__(self) -> bool:
        return self.passed


def check_score(energy: Energy, x: Any, *, tolerance: float = 1e-4, most: int = 2000) -> ScoreCheck:
    """Compare a score with the energy's own differences, and say which component is wrong, and how.

    Parameters
    ----------
    energy
        What is checked.
    x
        States (n, *shape) at which, or one state; where the density is not tiny.
    tolerance
        The largest error that passes, relative to how much the energy changes along the component.
    most
        At most so many components are looked at, evenly spaced.

    Returns
    -------
    ScoreCheck
        True in an ``if``; printed, it names the component.

    Raises
    ------
    InputError
        If shapes are wrong, values are masked or not real, or the energy of a state is not finite.
    """
    if not isinstance(energy, Energy):
        raise InputError(f"energy is {energy!r}: a score is checked against an Energy")
    given = x if on_gpu(x) else unmasked(x, "x")
    states = as_states(given[np.newaxis] if given.shape == energy.shape else given, energy.shape)
    states = states.astype(np.float64)
    if len(states) == 0:
        raise InputError("x has no states: give one at least")
    xp = namespace(device_of(states))

    def energy_of(flat: Array) -> Array:
        moved = xp.asarray(flat.reshape(-1, *energy.shape))
        return to_host(checked_energy(energy.energy(moved), moved))

    score = to_host(checked_score(energy.score(states), states)).reshape(len(states), -1)
    states = to_host(states).reshape(len(states), -1)
    level = energy_of(states.copy())
    for i in np.flatnonzero(~np.isfinite(level)):
        raise InputError(f"x[{i}] has the energy {level[i]}: a score is checked where the energy is finite")
    chosen = np.unique(np.linspace(0, energy.dim - 1, min(most, energy.dim)).astype(int))
    analytic = score[:, chosen]
    numeric, uncertain, scale = differences(energy_of, states, chosen, analytic, tolerance)
    relative = np.maximum(np.abs(analytic - numeric) - 3 * uncertain, 0.0) / scale
    relative[~np.isfinite(relative)] = np.inf
    unclear = ~(uncertain <= 0.01 * scale) & np.isfinite(analytic)
    clear = np.where(unclear, 0.0, relative)
    chain, column = (int(i) for i in np.unravel_index(int(clear.argmax()), clear.shape))
    worst = tuple(int(i) for i in np.unravel_index(chosen[column], energy.shape))
    error = float(clear[chain, column])
    wrong = np.flatnonzero((clear > tolerance).any(axis=0))
    if not len(wrong):
        if not unclear.any():
            return ScoreCheck(
                True, worst, error, f"the score is right: its largest relative error is {error:.2g}"
            )
        chain, column = (int(i) for i in np.argwhere(unclear)[0])
        worst = tuple(int(i) for i in np.unravel_index(chosen[column], energy.shape))
        return ScoreCheck(
            False,
            worst,
            np.inf,
            f"the score cannot be checked at component {worst} of x[{chain}]: differences of the energy at "
            "different steps disagree there; is it smooth, and computed in float64?",
        )
    found, expected = analytic[chain, column], numeric[chain, column]
    hint = ""
    if np.allclose(analytic / scale, -numeric / scale, rtol=1e-3, atol=tolerance):
        hint = "; all signs are reversed: return -grad E"
    elif expected and np.isfinite(found):
        hint = f", {found / expected:.4g} times"
    others = f" (and {len(wrong) - 1} more of {len(chosen)})" if len(wrong) > 1 else ""
    return ScoreCheck(
        False,
        worst,
        error,
        f"the score is wrong at component {worst}{others}: it is {found:.6g} where the energy's "
        f"differences give {expected:.6g}{hint}",
    )
