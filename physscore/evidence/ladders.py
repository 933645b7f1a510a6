"""States on the rungs of ladders, which swap places between the reference and the target, and may be shared
by processes."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp

from physscore.core import Array
from physscore.evidence.annealed import Leg, Particles, effective_share, run_leg
from physscore.evidence.bridge import Populations, log_mean
from physscore.evidence.job import Job, Look, quiet
from physscore.evidence.pilot import check_start
from physscore.kernels.loops import FUSED_UP_TO
from physscore.kernels.team import Team
from physscore.noise import normal

_PARTS = 8  # of ladders of large states
_AT_ONCE = 1 << 22  # numbers of the reference's draws that are made together
_SWAPS, _LADDER_STEPS = 5, 1 << 30  # where the random numbers of swaps and of ladders are
_MORE_DRAWS, _DOUBLINGS = 1 << 40, 12  # where those of islands beyond walls are, and how often they double
_OF_RUNGS = ("y", "u", "slope", "step")
_SEEN = ("u", "at_target")
_SUMS = ("origin", "rejected", "tried", "accepted", "virial")
_COUNTS = ("rounds", "drawn", "round_trips")


class Ladders:
    """States on all rungs of independent ladders: those of one rung move together.

    Parameters
    ----------
    job
        What they move in, its seed, and the frozen ladder with the kernel and the coordinates at each rung.
    starts : array (rungs, ladders, d)
        Where they begin.
    team
        Who shares the rungs; None where one process has all.

    Attributes
    ----------
    round_trips : int
        How often a state came from the reference to the target.
    """

    def __init__(self, job: Job, starts: Array, team: Team | None = None) -> None:
        self.job, self.plan, self.target, self._team = job, job.plan, job.excess.target, team
        plan = self.plan
        self.n_rungs, self.n = starts.shape[:2]
        self.steps = np.diff(plan.betas)[:, np.newaxis]
        self.settings = [plan.settings(k) for k in range(self.n_rungs)]
        self.rungs = []
        for k, y in enumerate(starts):
            rung = Particles(
                job.excess, plan.kernel, y, seed=job.seed, first=k * self.n, step=_LADDER_STEPS,
                dense=job.dense,
            )  # fmt: skip
            rung.place(float(plan.betas[k]), plan.coordinates(k))
            self.rungs.append(rung)
        self.drawn = job.islands * job.n  # of the reference, before
        self.fresh: list[tuple[Array, Array, Array]] = []
        self.rounds = 0
        # Where each state was last: +1 at the reference, -1 at the target.
        self.origin = np.zeros((self.n_rungs, self.n), int)
        self.forget()

    def arrays(self) -> dict[str, Any]:
        """Return their state as named arrays, and all that was seen as lists of these, for a file."""
        found: dict[str, Any] = {name: list(getattr(self, name)) for name in _SEEN}
        found |= {f"rung_{name}": np.array([getattr(r, name) for r in self.rungs]) for name in _OF_RUNGS}
        found |= {name: np.array(getattr(self, name)) for name in (*_SUMS, *_COUNTS)}
        return {f"ladders/{name}": array for name, array in found.items()} | {
            "ladders/fresh": np.array(len(self.fresh))
        }

    @classmethod
    def from_arrays(cls, job: Job, kept: dict[str, Any], team: Team | None = None) -> Ladders:
        """Return what :meth:`arrays` gave."""
        found = {name.split("/")[1]: array for name, array in kept.items() if name.startswith("ladders/")}
        ladders = cls(job, found["rung_y"], team)
        for k, rung in enumerate(ladders.rungs):
            for name in _OF_RUNGS:
                setattr(rung, name, found[f"rung_{name}"][k])
            rung.step = int(rung.step)
        for name in _SEEN:
            setattr(ladders, name, list(found[name]))
        for name in _SUMS:
            setattr(ladders, name, found[name])
        for name in _COUNTS:
            setattr(ladders, name, int(found[name]))
        if found["fresh"] > 0:
            ladders.drawn -= ladders.drawn_at_once * ladders.n
            ladders._draw()
            del ladders.fresh[int(found["fresh"]) :]
        return ladders

    def forget(self) -> None:
        """Drop what was seen, as after a burn-in."""
        self.u: list[Array] = []
        self.at_target: list[Array] = []
        self.rejected, self.tried = np.zeros(self.n_rungs - 1), np.zeros(self.n_rungs - 1)
        self.accepted, self.virial = np.zeros((2, self.n_rungs, self.n))
        self.round_trips = 0

    def round(self, keep: bool) -> None:
        """Move all states, see what they are like, and swap neighbours; keep those at the target if asked."""
        self.rungs[0].y, self.rungs[0].u, self.rungs[0].slope = self._exact_draws()
        self.accepted[0] += 1.0
        self._move()
        self.u.append(np.array([rung.u for rung in self.rungs]))
        if keep:
            self.at_target.append(self.rungs[-1].y.copy())
        self._swap(self.u[-1])
        self.rounds += 1
        self.origin[0] = 1
        self.round_trips += int((self.origin[-1] == 1).sum())
        self.origin[-1] = -1

    def _move(self) -> None:
        """Move the states of all rungs but the reference's, each where it belongs."""
        size = 1 if self._team is None else self._team.size
        parts = [part for i in range(size) if (part := range(1 + i, self.n_rungs, size))]
        calls = [(part, [self._state(k) for k in part]) for part in parts]
        found = [self.moved(*call) for call in calls] if self._team is None else self._team.run(self, calls)
        for part, moved in zip(parts, found, strict=True):
            for k, (state, accepted, virial) in zip(part, moved, strict=True):
                self._put(k, state)
                self.accepted[k] += accepted
                self.virial[k] += virial

    def moved(self, numbers: range, states: list[list[Any]]) -> list[tuple[list[Any], Array, Array]]:
        """Return the states of some rungs after they moved, with the acceptance and the virial of each."""
        found = []
        for k, state in zip(numbers, states, strict=True):
            self._put(k, state)
            rung = self.rungs[k]
            accepted = rung.move(self.settings[k], int(self.plan.moves[k]))
            virial = -np.einsum("ni,ni->n", rung.y, rung.score()) - rung.y.shape[1]
            found.append((self._state(k), accepted, virial))
        return found

    def _state(self, k: int) -> list[Any]:
        return [getattr(self.rungs[k], name) for name in _OF_RUNGS]

    def _put(self, k: int, state: list[Any]) -> None:
        for name, value in zip(_OF_RUNGS, state, strict=True):
            setattr(self.rungs[k], name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_team": None, "u": [], "at_target": [], "fresh": []}

    def _exact_draws(self) -> tuple[Array, Array, Array]:
        """Return draws from the reference, with u and its gradient there."""
        if not self.fresh:
            self._draw()
        return self.fresh.pop()

    @property
    def drawn_at_once(self) -> int:
        """For how many rounds draws are made together."""
        return int(np.clip(_AT_ONCE // (self.n * self.job.excess.dim), 1, 64))

    def _draw(self) -> None:
        n, job = self.n, self.job
        y = job.excess.draw(self.drawn_at_once * n, self.drawn, job.seed)
        self.drawn += len(y)
        here = Particles(job.excess, self.plan.kernel, y, seed=job.seed, dense=job.dense)
        parts = [slice(i, i + n) for i in range(0, len(y), n)]
        self.fresh = [(here.y[part], here.u[part], here.slope[part]) for part in reversed(parts)]

    def _swap(self, u: Array) -> None:
        """Swap even neighbours in even rounds, odd ones in odd rounds."""
        with np.errstate(invalid="ignore"):  # neighbours that are both outside stay
            log_ratio = np.nan_to_num(self.steps * (u[1:] - u[:-1]), nan=-np.inf, posinf=np.inf)
        deviates = normal(self.n, self.n_rungs - 1, seed=self.job.seed, step=self.rounds, draw=_SWAPS)
        taken = log_ndtr(deviates.T) < log_ratio
        for k in range(self.rounds % 2, self.n_rungs - 1, 2):
            self.rejected[k] += 1.0 - np.exp(np.minimum(log_ratio[k], 0.0)).mean()
            self.tried[k] += 1
            which, a, b = taken[k], self.rungs[k], self.rungs[k + 1]
            for one, other in ((a.y, b.y), (a.u, b.u), (a.slope, b.slope), self.origin[k : k + 2]):
                one[which], other[which] = other[which], one[which].copy()

    @property
    def rejection(self) -> npt.NDArray[np.float64]:
        """Mean rejection of the swaps between neighbours."""
        return np.asarray(self.rejected / np.maximum(self.tried, 1))

    def seen(self) -> Leg:
        """Return what was seen at each rung: the rounds are in the place of particles."""
        u = np.stack(self.u, axis=2)  # (rungs, ladders, rounds)
        shape = u.shape
        steps = self.steps[:, np.newaxis]
        work = -(steps * u[:-1]).sum(axis=0)
        ess = np.ones(shape[:2])
        ess[1:] = effective_share(-steps * u[:-1])
        log_z = logsumexp(work, axis=1) - math.log(shape[2])
        inside = log_mean(np.where(np.isfinite(u[0]), 0.0, -np.inf))
        return Leg(
            Populations(u, np.zeros(shape), np.zeros(shape[:2])), log_z, np.zeros(shape[1:]), work,
            np.zeros(shape[1], np.int64), self.virial / shape[2],
            self.accepted / shape[2], ess, np.zeros(shape[:2]), np.zeros(shape[:2]), inside,
        )  # fmt: skip


class _Start:
    """Where ladders begin: for each an island of particles is led to the target, resampled at every rung,
    and one of them stays."""

    def __init__(self, job: Job, look: Look) -> None:
        self.job, self.target, self._look = job, job.excess.target, look

    def moved(self, first: int, ladders: int) -> Array:
        """Return (rungs, ladders, d) of some ladders."""
        job, plan = self.job, self.job.plan
        particles = self._at(job.excess.draw(ladders * job.n, first * job.n, job.seed), first * job.n)
        check_start(particles.u)
        alive = np.isfinite(particles.u).reshape(ladders, job.n).any(axis=1)
        if not alive.all():
            y = particles.y.copy()
            for i in np.flatnonzero(~alive):
                y[i * job.n] = self._inside(first + int(i), y[i * job.n])
            particles = self._at(y, first * job.n)
        starts = []

        def leave_one(k: int, ess: float) -> None:
            starts.append(particles.y[k % job.n :: job.n].copy())
            self._look(1, beta=f"{plan.betas[k]:.3g}")

        run_leg(particles, plan, ladders, back=False, threshold=2.0, progress=leave_one)
        return np.array(starts)

    def _at(self, y: Array, first: int) -> Particles:
        job = self.job
        return Particles(job.excess, job.plan.kernel, y, seed=job.seed, first=first, dense=job.dense)

    def _inside(self, island: int, instead: Array) -> Array:
        """Return a draw from the reference where the target is not zero, ``instead`` if none is found.

        A ladder that began beyond the target's walls would have to be filled from below, state by state.
        """
        job = self.job
        first = _MORE_DRAWS + (island << _DOUBLINGS + 1) * job.n
        for doubling in range(_DOUBLINGS):
            n = job.n << doubling
            if n * job.excess.dim > _AT_ONCE:
                break
            found = self._at(job.excess.draw(n, first + n, job.seed), 0)
            inside = np.flatnonzero(np.isfinite(found.u))
            if len(inside):
                return np.asarray(found.y[inside[0]])
        return instead

    def __getstate__(self) -> dict[str, Any]:
        return {"job": self.job, "target": self.target, "_look": quiet}


def annealed_starts(job: Job, look: Look, team: Team | None) -> Array:
    """Return where ladders begin, (rungs, ladders, d)."""
    start, size = _Start(job, look), 1 if team is None else team.size
    # FFTs of several fields round as their number does: ladders of these are always cut alike.
    parts = min(job.islands, _PARTS) if job.excess.dim > FUSED_UP_TO else size
    edges = [job.islands * i // parts for i in range(parts + 1)]
    calls = [(a, b - a) for a, b in pairwise(edges) if b > a]
    found: list[Array] = []
    for first in range(0, len(calls), size):
        some = calls[first : first + size]
        found += [start.moved(*call) for call in some] if team is None else team.run(start, some)
    return np.concatenate(found, axis=1)
