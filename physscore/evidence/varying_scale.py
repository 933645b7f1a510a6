"""Does the scale of the target depend on the place, so that one step size for all does not find it?"""

from __future__ import annotations

import math

from physscore.core import Array
from physscore.evidence.annealed import Particles
from physscore.evidence.excess import Excess
from physscore.evidence.plan import settings_of
from physscore.kernels.langevin import AutoMALA

LOOKED_AT = 512  # particles, at most
FAR = 1 << 29  # steps are counted in 32 bits
_UNEVEN = 0.12  # powers of 2
_BY_CHANCE = 2.0  # standard errors of a change, of as many particles
_SPREADING = (5, 0.0), (10, 0.04), (20, 0.0)  # sweeps, and the least change with which more are made


def uneven(excess: Excess, y: Array, place: tuple[Array, Array], step_size: float, seed: int) -> bool:
    """Return whether the scale of the target depends on the place so much that particles have not found it.

    Then autoMALA, which adapts its steps to where it is, spreads them: the powers of 2 by which it changes
    its steps vary more and more. ``y`` are particles at the target.
    """

    def moved(y: Array, kernel: AutoMALA, n: int = 1, step: int = 0) -> Particles:
        particles = Particles(excess, kernel, y.copy(), seed=seed, step=FAR + step)
        particles.place(1.0, place)
        particles.move(settings_of(kernel, step_size), n)
        return particles

    def variation(y: Array) -> tuple[float, float]:
        return _deviation(moved(y, AutoMALA()).exponent)  # each time by the same random numbers

    y, done = y[:LOOKED_AT], 0
    before, error = variation(y)
    by_chance = _BY_CHANCE * math.sqrt(len(y) / LOOKED_AT)  # of few rather a false alarm than none
    for sweeps, least in _SPREADING if len(y) == LOOKED_AT else _SPREADING[-1:]:  # few tell only at the end
        steps = sweeps * (excess.dim + 1) - done
        y, done = moved(y, AutoMALA(sweep=True), steps, 1 + done).y, done + steps
        after, more = variation(y)
        change = after - before
        if change > max(_UNEVEN, by_chance * math.hypot(error, more)):
            return True
        if change < least:
            return False
    return False


def _deviation(values: Array) -> tuple[float, float]:
    """Return the standard deviation of draws, and its error: where the target jumps, few rule it."""
    squares = (values - values.mean()) ** 2
    deviation = math.sqrt(squares.mean())
    return deviation, float(squares.std()) / (2 * max(deviation, 1e-300) * math.sqrt(len(values)))
