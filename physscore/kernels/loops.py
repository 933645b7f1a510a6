"""The two loops that move chains, behind one face."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from physscore.arrays import (
    contiguous,
    device_of,
    namespace,
    on_gpu,
    parallel,
    threads,
    to_host,
)
from physscore.core import Array, Energy, InputError, Score
from physscore.energies.coordinates import FieldModes
from physscore.energies.functions import Rounding
from physscore.kernels import batched
from physscore.kernels.metric import Metric
from physscore.kernels.moves import DENSE
from physscore.kernels.state import Draws, Info, Moves, State
from physscore.kernels.team import Team, team
from physscore.memory import Room, keep_freed_memory
from physscore.noise import normal, seed_key
from physscore.points import address_of, evaluate, on_card

FUSED_UP_TO = 1024  # dimensions: beyond, a block of chains does not fit into the cache
_BYTES_AT_ONCE = 1 << 20  # of the states that are moved together by one thread
_ONE_BY_ONE_UP_TO = 1 << 20  # beyond, one state keeps all threads busy


class Loop:
    """A kernel's step at work on a target: over blocks of chains if the energy has a compiled form,
    else over whole arrays.

    Parameters
    ----------
    target
        What is sampled.
    step
        Name of the step function: "langevin", "splitting", "hamiltonian" or "adaptive".
    which
        "fused", "card" or "batched"; None for what suits the target.
    device
        "cpu", or "gpu" for CuPy arrays.
    """

    def __init__(self, target: Score, step: str, which: str | None = None, device: str = "cpu") -> None:
        self.target = target
        small = which == "fused" or target.dim <= FUSED_UP_TO  # of large ones there is no need
        self.point = target.point if small and isinstance(target, Energy) else None
        self.name = which or self._suitable(step, device)
        self._step = step
        self._room = Room()
        self._rounding = Rounding()
        if self.name == "fused":
            if self.point is None:
                raise InputError(f"target {target!r} has no compiled form for the fused loop")
            self._address = address_of(self.point)

    def __reduce__(self) -> Any:  # the address of a compiled function is that of one process
        return Loop, (self.target, self._step, self.name), {"_rounding": self._rounding}

    def _suitable(self, step: str, device: str) -> str:
        if self.point is None or self.target.dim > FUSED_UP_TO:
            return "batched"
        if device == "gpu":
            if step != "adaptive" and on_card(self.point, self.target.dim):
                return "card"
            if isinstance(self.target, Energy) and self.target.by_arrays:
                return "batched"
        return "fused"

    def start(self, x: Any, seed: int, step: int = 0) -> State:
        """Return the state of chains that start at ``x``, of shape (n, *shape), with step number ``step``.

        Raises
        ------
        InputError
            If ``x`` or what the target returns has a wrong shape, or is not finite.
        """
        seed_key(seed)
        dtype = np.float32 if getattr(x, "dtype", None) == np.float32 else np.float64
        device = device_of(x)
        positions = x.astype(dtype, order="C") if device == "gpu" else np.array(x, dtype=dtype, order="C")
        if self.name != "batched":
            positions = positions.astype(np.float64)
        shape = self.target.shape
        if positions.ndim != len(shape) + 1 or positions.shape[1:] != shape or len(positions) == 0:
            wanted = ", ".join(["chains", *map(str, shape)])
            raise InputError(
                f"init has shape {positions.shape}: it must be ({wanted}), a state for each chain"
            )
        if not np.isfinite(positions).all():
            raise InputError(f"init of chain {_first_bad(positions)} is not finite: start where it is")
        energy, score = self.evaluate(positions)
        if isinstance(self.target, Energy) and not np.isfinite(energy).all():
            bad = _first_bad(energy)
            raise InputError(
                f"energy is {float(energy[bad])} at the start of chain {bad} "
                f"({(~np.isfinite(energy)).sum()} of {len(energy)} chains): give init states where it "
                "is finite"
            )
        if not np.isfinite(score).all():
            raise InputError(
                f"score is not finite at the start of chain {_first_bad(score)}: give other init states"
            )
        flat = positions.reshape(len(positions), -1)
        if self._step in ("langevin", "adaptive"):  # they draw it anew
            momentum = np.zeros_like(flat)
        else:
            momentum = normal(*flat.shape, seed=seed, step=step, draw=2, dtype=flat.dtype, device=device)
        return State(positions, energy, contiguous(score), momentum, seed, step)

    def evaluate(self, x: Array) -> tuple[Array, Array]:
        """Return energies and scores, after checking their shapes."""
        if self.name != "batched":
            assert self.point is not None
            energy, gradient = evaluate(self.point, x.reshape(len(x), -1))
            return energy, -gradient.reshape(x.shape)
        if isinstance(self.target, Energy):
            energy, score = self.target.energy_and_score(x)
        else:
            energy, score = namespace(device_of(x)).full(len(x), np.nan), self.target.score(x)
        if device_of(x) == "gpu":
            if not (on_gpu(energy) and on_gpu(score)):
                raise InputError(
                    f"target {self.target!r} returned arrays on the CPU for states on the GPU: it must "
                    'return CuPy arrays, or be sampled with device "cpu"'
                )
            energy, score = (
                contiguous(energy.astype(np.float64, copy=False)),
                score.astype(x.dtype, copy=False),
            )
        else:
            # A user's class may use its arrays again.
            own = type(self.target).__module__.startswith("physscore.")
            self._rounding.warn(energy)
            energy = np.array(energy, np.float64)
            score = np.asarray(score, x.dtype) if own else np.array(score, x.dtype)
        if energy.shape != (len(x),):
            raise InputError(
                f"energy(x) returned {energy.shape}, expected ({len(x)},): one number a chain; return -log p"
            )
        if score.shape != x.shape:
            raise InputError(
                f"score(x) returned {score.shape}, expected {x.shape}: one vector a chain; return -grad E"
            )
        return energy, score

    def advance(
        self,
        state: State,
        kernel: Moves,
        metric: Metric,
        n_steps: int,
        thin: int = 0,
        out: Draws | None = None,
        tally: Array | None = None,
    ) -> Info:
        """Move ``state`` by ``n_steps``, in place; write every ``thin``-th state into ``out``.

        ``tally`` (3, n) holds the sums over steps of acceptance, divergences and exponents, and goes on
        from what it is, so that it does not depend on the pieces a run is made in.
        """
        n = len(state.x)
        draws = out or Draws(state.x[:0].reshape(0, *state.x.shape), np.empty((0, n)))
        thin = thin if out else 0
        before = None if tally is None else tally.copy()
        tally = np.zeros((3, n)) if tally is None else tally
        self._advance(state, kernel, metric, n_steps, thin, draws, tally)
        steps, change = max(n_steps, 1), tally if before is None else tally - before
        return Info(change[0] / steps, change[1].astype(np.int64), change[2] / steps, self.name)

    def moved(
        self, state: State, kernel: Moves, metric: Metric, n_steps: int, thin: int, kept: int, tally: Array,
        edges: list[int],
    ) -> tuple[State, Draws, Array]:  # fmt: skip
        """Return some chains after their steps, ``kept`` draws of them, and the tally: a process's part."""
        n = len(state.x)
        draws = Draws(np.empty((kept, *state.x.shape), state.x.dtype), np.empty((kept, n)))
        self._advance(state, kernel, metric, n_steps, thin, draws, tally, edges)
        return state, draws, tally

    def _advance(
        self, state: State, kernel: Moves, metric: Metric, n_steps: int, thin: int, draws: Draws,
        tally: Array, edges: list[int] | None = None,
    ) -> None:  # fmt: skip
        """Move all chains; ``edges`` of the groups that are moved at once, where they are given."""
        n = len(state.x)
        who = team() if edges is None and n > 1 and not on_gpu(state.x) else None
        if who is not None:
            self._shared(who, state, kernel, metric, n_steps, thin, draws, tally)
            return
        if self.name == "fused" and on_gpu(state.x):  # there is no loop for the card
            here = state.on("cpu")
            made = Draws(np.empty(draws.x.shape), draws.energy)
            self._fused(here, kernel, metric, n_steps, thin, made, tally)
            xp = namespace("gpu")
            state.x, state.energy, state.score, state.momentum = (
                xp.asarray(a) for a in (here.x, here.energy, here.score, here.momentum)
            )
            draws.x[...] = xp.asarray(made.x)
        elif self.name == "fused":
            self._fused(state, kernel, metric, n_steps, thin, draws, tally)
        elif self.name == "card":
            self._threads_of_card(state, kernel, metric, n_steps, thin, draws, tally)
        else:
            self._batched(state, kernel, metric, n_steps, thin, draws, tally, edges)
        state.step += n_steps
        if self._step in ("langevin", "splitting"):
            tally[0] += n_steps
            # A chain that is lost stays so, and counts once.
            lost = ~np.isfinite(state.score.reshape(n, -1)).all(axis=1)
            if isinstance(self.target, Energy):  # of a score alone it is not a number
                lost |= ~np.isfinite(state.energy)
            tally[1] = to_host(lost)

    def _shared(
        self, who: Team, state: State, kernel: Moves, metric: Metric, n_steps: int, thin: int, draws: Draws,
        tally: Array,
    ) -> None:  # fmt: skip
        """Have each process move some of the groups of chains."""
        edges = self._edges(state)
        cuts = [(len(edges) - 1) * i // who.size for i in range(who.size + 1)]
        places, calls = [], []
        for first, last in pairwise(cuts):
            if first == last:
                continue
            start, stop = edges[first], edges[last]
            x, energy, score, momentum = (
                part[start:stop] for part in (state.x, state.energy, state.score, state.momentum)
            )
            some = State(x, energy, score, momentum, state.seed, state.step, state.first + start)
            inside = [edge - start for edge in edges[first : last + 1]]
            counted = tally[:, start:stop].copy()  # in rows, as one process has it, or it is compiled anew
            calls.append((some, kernel, metric, n_steps, thin, len(draws.x), counted, inside))
            places.append(slice(start, stop))
        for place, (some, drawn, counted) in zip(places, who.run(self, calls), strict=True):
            state.x[place], state.energy[place] = some.x, some.energy
            state.score[place], state.momentum[place] = some.score, some.momentum
            draws.x[:, place], draws.energy[:, place] = drawn.x, drawn.energy
            tally[:, place] = counted
        state.step += n_steps

    def _edges(self, state: State) -> list[int]:
        """Return where the groups of chains begin that are moved at once: chains do not depend on it, but
        FFTs of several fields round as their number does."""
        n = len(state.x)
        if self.name != "batched" or not self._one_by_one:
            groups = n
        else:  # all of a group stays in the cache; groups are even in number, to keep threads busy
            groups = min(n, 2 * math.ceil(state.x.nbytes / (2 * _BYTES_AT_ONCE)))
        return [n * group // groups for group in range(groups + 1)]

    @property
    def _one_by_one(self) -> bool:
        return bool(self.target.one_by_one and self.target.dim <= _ONE_BY_ONE_UP_TO)

    def _fused(
        self, state: State, kernel: Moves, metric: Metric, n_steps: int, thin: int, draws: Draws, tally: Array
    ) -> None:
        from physscore.kernels import fused

        assert self.point is not None
        n = len(state.x)
        flat = (state.x.reshape(n, -1), state.energy, state.score.reshape(n, -1), state.momentum)
        drawn = (draws.x.reshape(len(draws.x), n, self.target.dim), draws.energy)
        parallel(
            getattr(fused, self._step), n, (self._address, self.point.params), kernel,
            (metric.kind, metric.factor), seed_key(state.seed), flat, drawn, tally,
            (state.step, n_steps, thin, state.first),
            at_least=max(1, 10_000 // (n_steps * (self.target.dim + 4))),
        )  # fmt: skip

    def _threads_of_card(
        self, state: State, kernel: Moves, metric: Metric, n_steps: int, thin: int, draws: Draws, tally: Array
    ) -> None:
        from physscore.kernels import on_card

        assert self.point is not None
        xp, n = namespace("gpu"), len(state.x)
        flat = (state.x.reshape(n, -1), state.energy, state.score.reshape(n, -1), state.momentum)
        energies = xp.empty(draws.energy.shape)
        counted = self._step == "hamiltonian"
        sums = xp.asarray(tally) if counted else energies
        on_card.advance(
            self._step, self.point, kernel, (metric.kind, metric.factor), seed_key(state.seed), flat,
            (draws.x.reshape(len(draws.x), n, self.target.dim), energies), sums,
            (state.step, n_steps, thin, state.first),
        )  # fmt: skip
        if thin:
            draws.energy[...] = to_host(energies)
        if counted:
            tally[...] = to_host(sums)

    def _batched(
        self, state: State, kernel: Moves, metric: Metric, n_steps: int, thin: int, draws: Draws,
        tally: Array, edges: list[int] | None,
    ) -> None:  # fmt: skip
        def move(start: int, stop: int) -> None:
            self._move(state, kernel, metric, n_steps, thin, draws, tally, slice(start, stop))

        n = len(state.x)
        if on_gpu(state.x):
            on_card = namespace("gpu").asarray(tally)
            self._move(state, kernel, metric, n_steps, thin, draws, on_card, slice(0, n))
            tally[...] = to_host(on_card)
            return
        keep_freed_memory()
        if not self._one_by_one:
            with self._room:
                move(0, n)
            return
        edges = edges or self._edges(state)

        def one_by_one(start: int, stop: int) -> None:
            with threads(1):
                for group in range(start, stop):
                    move(edges[group], edges[group + 1])

        parallel(one_by_one, len(edges) - 1)

    def _in_few_passes(self, kernel: Moves, metric: Metric) -> bool:
        """Return whether a card fuses steps with the energy: of fields in their modes, with new momenta."""
        return (
            isinstance(self.target, FieldModes)
            and self.target.others is not None
            and self._step in ("langevin", "hamiltonian")
            and kernel.keep == 0
            and (kernel.harmonic or metric.kind != DENSE)
        )

    def _move(
        self, state: State, kernel: Moves, metric: Metric, n_steps: int, thin: int, draws: Draws,
        tally: Array, some: slice,
    ) -> None:  # fmt: skip
        """Move some of the chains."""
        shape = state.x[some].shape

        def evaluate(x: Array) -> tuple[Array, Array]:
            with np.errstate(over="ignore", invalid="ignore"):  # where a chain runs away, which is counted
                energy, score = self.evaluate(x.reshape(-1, *shape[1:]))
            return energy, contiguous(score).reshape(len(x), -1)

        n, first = shape[0], state.first + some.start
        x, score = state.x[some].reshape(n, -1), state.score[some].reshape(n, -1)
        flat = x, state.energy[some], score, state.momentum[some]
        chains: Any
        if on_gpu(x) and self._in_few_passes(kernel, metric):
            from physscore.kernels import field_chains

            chains = field_chains.FieldChains(self.target, metric, state.seed, first, *flat)  # type: ignore[arg-type]
            step = partial(getattr(field_chains, f"{self._step}_step"), chains, kernel)
        else:
            chains = _Chains(*flat)
            batch = batched.Batch(evaluate, metric, state.seed, first, device_of(x))
            step = partial(getattr(batched, f"{self._step}_step"), batch, kernel, chains)
        energies: list[Array] = []  # of the draws; those of a card are fetched once
        for t in range(n_steps):
            step(state.step + t, tally[:, some])
            if thin and (t + 1) % thin == 0:
                draws.x[(t + 1) // thin - 1, some] = chains.x.reshape(shape)
                energies.append(chains.e.copy())
        if energies:
            draws.energy[:, some] = to_host(np.stack(energies))
        moved = chains.x.reshape(shape), chains.e, chains.s.reshape(shape), chains.p
        if n == len(state.x):
            state.x, state.energy, state.score, state.momentum = moved
        else:
            state.x[some], state.energy[some], state.score[some], state.momentum[some] = moved


@dataclass
class _Chains:
    x: Array
    e: Array
    s: Array
    p: Array


def _first_bad(values: Array) -> int:
    """Return the first chain with a value that is not finite."""
    return int(np.argmin(np.isfinite(values.reshape(len(values), -1)).all(axis=1)))
