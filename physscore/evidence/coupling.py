"""The path along a coupling: particles at equilibrium at one are led through all the others.

Its densities are exp(-E_k) themselves, at every coupling k between the first and the last, so each rung of
the ladder is of use. beta runs from 0 at the first coupling to 1 at the last, as on any other path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from physscore.core import Array, Energy, Prior
from physscore.evidence.annealed import Leg, Particles, run_leg
from physscore.evidence.control import Controls
from physscore.evidence.excess import Excess, excess_of
from physscore.evidence.pilot import Pilot
from physscore.evidence.plan import Knots, Plan
from physscore.kernels.kernel import Kernel

_STEPS_PER_SPREAD = 2.0  # rungs for a standard deviation of the energy on the way
_DIFFERENCE = 1e-3
_THRESHOLD = 0.5
_MOST_MOVES, _MOST_SCOUTS = 40, 256


@runtime_checkable
class HiddenSpins(Protocol):
    """An energy with spins summed out, whose own energy is what the coupling multiplies."""

    coupling: float
    field: float

    def spin_energy_given(self, x: Array) -> tuple[Array, Array]:
        """Return mean and variance of their energy given the states."""
        ...


class Family:
    """The energies of a model along its coupling.

    Parameters
    ----------
    model
        Returns the energy at a coupling.
    couplings : array (n,)
        Rising.
    reference
        In whose coordinates particles move.

    Attributes
    ----------
    betas : array (n,)
        Where the couplings are on the way from the first, 0, to the last, 1.
    span : float
        d coupling / d beta.
    n_sites : int
        Of a lattice; 1 for other models.
    """

    def __init__(self, model: Callable[[float], Energy], couplings: Array, reference: Prior) -> None:
        self.model, self.couplings, self.reference = model, couplings, reference
        self.span = float(couplings[-1] - couplings[0])
        self.betas = (couplings - couplings[0]) / self.span
        self.n_sites = int(getattr(model(self.at(0.0)), "n_sites", 1))
        self.excess = lru_cache(maxsize=4)(self._excess)

    def __reduce__(self) -> Any:
        return Family, (self.model, self.couplings, self.reference)

    def at(self, beta: float) -> float:
        """Return the coupling at ``beta``."""
        return min(float(self.couplings[0] + beta * self.span), float(self.couplings[-1]))

    def _excess(self, beta: float) -> Excess:
        return excess_of(self.reference, self.model(self.at(beta)))

    @cached_property
    def _couples_spins(self) -> bool:
        """Whether the coupling multiplies the energy of hidden spins, and changes nothing else."""
        models = [self.model(float(k)) for k in self.couplings]
        return all(isinstance(m, HiddenSpins) for m in models) and all(
            m.coupling == k and m.field == models[0].field  # type: ignore[attr-defined]
            for m, k in zip(models, self.couplings, strict=True)
        )

    def slopes(self, beta: float, x: Array) -> tuple[Array, Array]:
        """Return the first and second derivative of E over the coupling at states, both (n,).

        By differences, exact but for rounding where E is linear in the coupling. Spins that are summed out
        enter by what is expected of them given the states, which is less noisy.
        """
        k = self.at(beta)
        energy = self.model(k)
        if self._couples_spins and isinstance(energy, HiddenSpins) and energy.coupling == k:
            mean, variance = energy.spin_energy_given(x)
            return mean, -variance
        gap = np.diff(self.couplings)[np.clip(np.searchsorted(self.couplings, k), 1, None) - 1]
        h = min(_DIFFERENCE * max(abs(k), float(gap)), 0.2 * self.span)
        if k - h < self.couplings[0] or k + h > self.couplings[-1]:  # models may end where couplings do
            h = h if k - h < self.couplings[0] else -h
            e = [self.model(k + i * h).energy(x) for i in range(4)]
            return (4 * e[1] - 3 * e[0] - e[2]) / (2 * h), (2 * e[0] - 5 * e[1] + 4 * e[2] - e[3]) / h**2
        below, here, above = (self.model(q).energy(x) for q in (k - h, k, k + h))
        return (above - below) / (2 * h), (above - 2 * here + below) / h**2


class Travellers(Particles):
    """Particles that change their energy as they go along a coupling; they begin at ``beta``."""

    def __init__(
        self, family: Family, kernel: Kernel, y: Array, *, beta: float = 0.0, **settings: Any
    ) -> None:
        self.family, self.kernel, self.settings = family, kernel, settings
        super().__init__(family.excess(beta), kernel, y, **settings)

    def gain(self, here: float, there: float) -> Array:
        """Go from one coupling to another; return what the log weights gain."""
        before = self.u
        settings = self.settings | {"step": self.step}
        super().__init__(self.family.excess(there), self.kernel, self.y, **settings)
        return before - self.u

    def controls(
        self, weights: Array, between: Array, below: float, above: float, directions: int, step: float
    ) -> Controls:
        """Return none: what is wanted is another function at each coupling."""
        return Controls(np.zeros(len(weights)), np.zeros(len(weights)))

    def place(self, beta: float, coordinates: tuple[Array, Array]) -> None:
        """Take local coordinates; the energy is there already, in full."""
        self.tempered.place(1.0, *coordinates)


class CouplingPilot(Pilot):
    """A population that tunes a kernel along a coupling."""

    def __init__(self, particles: Travellers, kernel: Kernel) -> None:
        super().__init__(particles, kernel, _MOST_MOVES)
        self.family, self.beta = particles.family, 0.0

    def rates(self) -> Array:
        """Return dE/dbeta at the particles."""
        x = self.particles.tempered.excess.to_state(self.particles.y)
        return self.family.span * self.family.slopes(self.beta, x)[0]

    def settle(self, beta: float) -> None:
        """Tune the kernel at this stop, and move until the energy has forgotten where it was."""
        self.beta = beta
        super().settle(beta)


def explore_couplings(
    family: Family, kernel: Kernel, y: Array, *, seed: int, dense: bool, progress: Callable[[float], None]
) -> Knots:
    """Return what the way along the coupling is like, seen by some of the particles ``y`` at its begin."""
    n = int(np.clip(2**25 // y.shape[1], 16, min(_MOST_SCOUTS, len(y))))
    some = y[np.linspace(0, len(y) - 1, n).astype(int)]
    pilot = CouplingPilot(Travellers(family, kernel, some, seed=seed, dense=dense), kernel)
    pilot.settle(0.0)
    pilot.go(seed, progress)
    return pilot.knots()


def ladder(
    family: Family, knots: Knots, lengthened: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return rungs, as values of beta, and which of them are the couplings that were asked for.

    Between these, rungs are put at equal lengths of the path: so many for a standard deviation of E.
    """
    length = knots.length + 1e-12 * np.arange(len(knots.length))  # rising, even where E is constant
    ends = np.interp(family.betas, knots.betas, length)
    steps = np.maximum(1, np.ceil(_STEPS_PER_SPREAD * 2**lengthened * np.diff(ends))).astype(np.int64)
    rungs = [
        np.interp(np.linspace(low, high, n + 1)[1:-1], length, knots.betas)
        for low, high, n in zip(ends[:-1], ends[1:], steps, strict=True)
    ]
    parts = [np.append(start, between) for start, between in zip(family.betas[:-1], rungs, strict=True)]
    return np.append(np.concatenate(parts), 1.0), np.append(0, np.cumsum(steps))


@dataclass
class Seen:
    """What one leg of some islands with n particles saw along the couplings.

    Attributes
    ----------
    leg : Leg
    below, above : array (rungs - 1, islands, n)
        The work of each step: E of its upper end minus E of its lower, at the particles of either end.
    slope, bend : array (rungs, islands, n)
        First and second derivative of E over the coupling.
    """

    leg: Leg
    below: Array
    above: Array
    slope: Array
    bend: Array

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """Return what all islands saw."""
        names = ("below", "above", "slope", "bend")
        arrays = {name: np.concatenate([getattr(part, name) for part in parts], axis=1) for name in names}
        return cls(Leg.joined([part.leg for part in parts]), **arrays)


def go_along(
    family: Family, plan: Plan, y: Array, start: Array, *, back: bool, seed: int, step: int, dense: bool,
    first: int = 0, look: Callable[[float, float], None] = lambda beta, ess: None,
) -> tuple[Seen, Array]:  # fmt: skip
    """Lead islands from the first coupling to the last, or back; return what they saw and where they are.

    Parameters
    ----------
    family, plan
        The energies, and the frozen schedule.
    y : array (islands * n, d)
        Particles where the way begins.
    start : array (islands,)
        Log weights of the islands there.
    back
        Whether they go back.
    seed, step, dense
        See ``Particles``.
    first
        Number of the first island.
    look
        Called after each rung with its beta and the effective sample size.
    """
    particles = Travellers(
        family, plan.kernel, y.copy(), beta=1.0 if back else 0.0, seed=seed, step=step, dense=dense,
        first=first * (len(y) // len(start)),
    )  # fmt: skip
    last = len(plan.betas) - 1
    shape = (len(start), len(y) // len(start))
    below, above = np.zeros((last, *shape)), np.zeros((last, *shape))
    slope, bend = np.zeros((last + 1, *shape)), np.zeros((last + 1, *shape))

    def energies(rung: int) -> Array:
        with np.errstate(over="ignore", invalid="ignore"):
            return family.excess(float(plan.betas[rung]))(particles.y)[0]

    def observe(k: int, ess: float) -> None:
        if k == 0:  # a leg makes no moves here, where others begin with exact draws
            particles.move(plan.settings(0), int(plan.moves[0]))
        beta = float(plan.betas[k])
        if k < last:
            below[k] = _finite(energies(k + 1) - particles.u).reshape(shape)
        if k > 0:
            above[k - 1] = _finite(particles.u - energies(k - 1)).reshape(shape)
        found = family.slopes(beta, family.excess(beta).to_state(particles.y))
        for out, values in zip((slope, bend), found, strict=True):
            out[k] = np.nan_to_num(values, posinf=0.0, neginf=0.0).reshape(shape)
        look(beta, ess)

    leg = run_leg(particles, plan, len(start), back=back, threshold=_THRESHOLD, start=start, progress=observe)
    return Seen(leg, below, above, slope, bend), particles.y


def _finite(work: Array) -> Array:
    """Return works between states of which one may be outside of an energy; where both are, weights are 0."""
    return np.nan_to_num(work, nan=0.0, posinf=1e300, neginf=-1e300)
