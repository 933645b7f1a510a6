"""The state of a run, what happens to it, and the numbers by which it moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from physscore.arrays import device_of, namespace, to_host
from physscore.core import Array


class Moves(NamedTuple):
    """What a kernel's settings come to for the loops."""

    step: float
    """Time of a leapfrog step, or the angle of a rotation."""
    length: float = 1.0
    """Leapfrog steps of a trajectory, on average."""
    keep: float = 0.0
    """How much of the momentum is kept from step to step."""
    harmonic: bool = False
    """Whether a standard normal's flow is followed exactly."""
    relief: float = 0.0
    """Share of the steps that are a quarter as long."""
    adjusted: bool = True
    """Whether proposals may be rejected; if not, the log ratios of acceptance are added up for weights."""
    sweep: bool = False
    """Whether autoMALA moves one coordinate after the other, and all of them in turn with these."""


@dataclass
class State:
    """Where the chains are.

    Attributes
    ----------
    x : array (n, *shape)
        Positions.
    energy : array (n,)
        Their energies; NaN where there is only a score.
    score : array (n, *shape)
    momentum : array (n, d)
        What underdamped dynamics carries from step to step.
    seed, step, first : int
        The place of the next random numbers: chains are counted from ``first``.
    """

    x: Array
    energy: Array
    score: Array
    momentum: Array
    seed: int
    step: int = 0
    first: int = 0

    def copy(self) -> State:
        """Return a state of its own."""
        return State(
            self.x.copy(), self.energy.copy(), self.score.copy(), self.momentum.copy(), self.seed, self.step,
            self.first,
        )  # fmt: skip

    def on(self, device: str) -> State:
        """Return the state on a device; this one, if it is there."""
        if device == device_of(self.x):
            return self
        move = to_host if device == "cpu" else namespace(device).asarray
        x, energy, score, momentum = (move(a) for a in (self.x, self.energy, self.score, self.momentum))
        return State(x, energy, score, momentum, self.seed, self.step, self.first)


class Info(NamedTuple):
    """What happened in one or more steps."""

    acceptance: Array
    """Mean acceptance probability of each chain, shape (n,); 1 for kernels that do not reject."""
    divergent: Array
    """Steps of each chain that diverged, shape (n,)."""
    exponent: Array
    """Mean power of 2 by which autoMALA changed the step, shape (n,)."""
    loop: str
    """"fused" (compiled, over many small states), "card" (the same, with a thread of a card for each) or
    "batched" (arrays of few large states)."""


class Draws(NamedTuple):
    """Positions (kept, n, *shape) and energies (kept, n)."""

    x: Array
    energy: Array
