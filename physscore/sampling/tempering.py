"""Replica exchange: chains at many temperatures that swap places, so that the cold ones cross barriers.

Swaps are non-reversible: neighbours (0, 1), (2, 3), ... and (1, 2), (3, 4), ... in turn, which carries
states along the ladder instead of letting them diffuse (Okabe et al. 2001; Syed, Bouchard-Cote,
Deligiannidis & Doucet 2022, arXiv:1905.02939).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from physscore.arrays import checked_device, contiguous, namespace, to_host
from physscore.core import Array, Energy, InputError, Prior
from physscore.energies.coordinates import FieldModes, prior_and_likelihood, require_same_modes
from physscore.energies.random_field import GaussianRandomField
from physscore.interrupt import interruptible
from physscore.kernels.kernel import Kernel
from physscore.kernels.langevin import MALA
from physscore.kernels.state import State
from physscore.noise import normal
from physscore.paths import Path, equal_barrier
from physscore.processes import ending_together, on_root, require_same_everywhere, world
from physscore.sampling.engine import Engine, draws_of, whole
from physscore.sampling.pace import Pace
from physscore.sampling.result import Run
from physscore.sampling.sharing import shared
from physscore.sampling.warmup import warm_up


@dataclass
class TemperedRun(Run):
    """The draws at the target's own temperature, and how the ladder worked.

    Attributes
    ----------
    betas : array (n,)
        The ladder, from the reference (0) to the target (1).
    rejection : array (n - 1,)
        Mean rejection of swaps between neighbours.
    barrier : float
        Their sum, the global communication barrier: of order 1 is easy, of order 10 asks for 20 rungs.
    round_trips : int
        How often a state came down from the reference to the target, over all chains.
    """

    betas: Array = None  # type: ignore[assignment]
    rejection: Array = None  # type: ignore[assignment]
    barrier: float = math.nan
    round_trips: int = 0


def temper(
    target: Energy,
    reference: Prior | None = None,
    kernel: Kernel | None = None,
    *,
    chains: int = 16,
    steps: int = 1000,
    warmup: int | None = None,
    rungs: int | None = None,
    swap_every: int = 5,
    thin: int = 1,
    seed: int = 0,
    device: str = "cpu",
    workers: int = 1,
    progress: bool = False,
) -> TemperedRun:
    """Draw from exp(-E) by non-reversible replica exchange with a ladder that sets itself.

    Parameters
    ----------
    target
        An energy.
    reference
        Where swapping begins: a prior that is sampled exactly, and is not narrower than the target.
        [default: the target's prior, or N(0, 1) if it has none]
    kernel
        How states move at each temperature; "auto" settings are tuned for each. [default: ``MALA()``]
    chains
        Independent ladders.
    steps, warmup
        Rounds of swapping that are kept, and before. [default: as many as are kept]
    rungs
        Temperatures. [default: twice the measured barrier, where swaps are accepted half of the time]
    swap_every
        Steps of the kernel between swaps.
    thin
        Keep every ``thin``-th round.
    seed
        A whole number from 0 to 2^64 - 1.
    device
        "cpu", or "gpu" for draws that are CuPy arrays.
    workers
        Processes that share the ladders, as in :func:`physscore.sample`.
    progress
        Show a progress bar.

    Returns
    -------
    TemperedRun
        Interrupted by Ctrl-C, it has the draws so far.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """
    from physscore.energies.gaussian import Gaussian

    kernel = MALA() if kernel is None else kernel
    chains, steps, thin, swap_every, seed = (
        whole(chains=chains), whole(steps=steps), whole(thin=thin), whole(swap_every=swap_every),
        whole(0, seed=seed),
    )  # fmt: skip
    warmup = whole(10, warmup=max(10, steps) if warmup is None else warmup)
    rungs = None if rungs is None else whole(2, rungs=rungs)
    if thin > steps:
        raise InputError(f"thin is {thin} and steps {steps}: nothing would be kept")
    if not isinstance(target, Energy):
        raise InputError(f"target is {target!r}: replica exchange needs an energy")
    if reference is None:
        reference = prior_and_likelihood(target)[0]
        if reference is None or reference is target:
            if len(target.shape) != 1:
                raise InputError(f"reference is missing: {target!r} has no prior; give one to start from")
            reference = Gaussian(0.0, 1.0, dim=target.dim)
    if not isinstance(reference, Prior):
        raise InputError(f"reference is {reference!r}: it must be a prior, which is sampled exactly")
    if reference.shape != target.shape:
        raise InputError(f"reference has states of shape {reference.shape}, the target {target.shape}")
    if isinstance(reference, GaussianRandomField):
        require_same_modes(reference, target, FieldModes(reference, reference.grid).free)
    device, workers, comm = checked_device(device), whole(workers=workers), world()
    require_same_everywhere(
        comm, (target, reference, kernel, chains, steps, warmup, rungs, swap_every, thin, seed)
    )
    if device == "gpu" and (workers > 1 or comm is not None):
        raise InputError(f'device is "gpu", where one process moves all ladders: workers is {workers}')
    hidden = not progress or (comm is not None and comm.rank > 0)
    with (
        ending_together(comm),
        shared(workers),
        interruptible() as stop_if_asked,
        tqdm(total=warmup + steps, desc="warm-up", unit="round", disable=hidden) as bar,
    ):
        pace = Pace(lambda n: on_root(comm, stop_if_asked), comm)
        ladder = _Ladder(Path(reference, target), reference, kernel, chains, seed, swap_every, device, pace)
        # Rounds twice as long each time; after each the ladder is set by what it measured.
        done, length = 0, max(5, warmup // 16)
        ladder.tune(np.linspace(0.0, 1.0, rungs or 8) ** 2)
        while done < warmup:
            length = min(length, warmup - done)
            ladder.clear()
            for _ in range(length):
                ladder.round()
                bar.update(1)
                on_root(comm, stop_if_asked)
            done += length
            length = warmup - done if warmup - done < 3 * length else 2 * length
            if done < warmup:
                barrier = float(ladder.rejection.sum())
                n = rungs or int(np.clip(math.ceil(2 * barrier) + 1, 3, 200))
                ladder.tune(equal_barrier(ladder.betas, ladder.rejection, n)[0])
        ladder.clear()
        bar.set_description("sampling")
        kept = steps // thin
        draws = namespace(device).empty((kept, chains, *target.shape))
        energies = np.empty((kept, chains))
        finished = 0
        try:
            for step in range(kept * thin):
                ladder.round()
                if (step + 1) % thin == 0:
                    draws[step // thin], energies[step // thin] = ladder.coldest()
                    finished += 1
                bar.update(1)
                on_root(comm, stop_if_asked)
        except KeyboardInterrupt:
            warnings.warn(f"interrupted: {finished} of {kept} draws a chain are there", stacklevel=2)
    names = getattr(reference, "names", None)
    cold = ladder.engines[-1]
    return TemperedRun(
        draws[:finished], energies[:finished], ladder.acceptance, ladder.tally[1].astype(int), cold.kernel,
        cold.loop.name, math.nan, repr(target), seed, warmup, thin,
        names=None if names is None else list(names), complete=finished == kept, swap_every=swap_every,
        betas=ladder.betas, rejection=ladder.rejection, barrier=float(ladder.rejection.sum()),
        round_trips=ladder.round_trips,
    )  # fmt: skip


class _Ladder:
    """States at every temperature, chains of them side by side."""

    def __init__(
        self, path: Path, reference: Prior, kernel: Kernel, chains: int, seed: int, swap_every: int,
        device: str, pace: Pace,
    ) -> None:  # fmt: skip
        self.path, self.reference, self.kernel = path, reference, kernel
        self.chains, self.seed, self.swap_every, self.device = chains, seed, swap_every, device
        self.pace = pace
        self.betas: npt.NDArray[np.float64] = np.zeros(0)
        self.engines: list[Engine] = []
        self.states: list[State] = []
        self.rounds = 0

    def tune(self, betas: Any) -> None:
        """Set the ladder, put the states nearest to each rung on it, and tune the kernels."""
        old_betas, old = self.betas, self.positions() if self.states else []
        self.betas = np.asarray(betas, np.float64)
        self.engines, self.states = [], []
        self.hot = draws_of(self.reference, self.chains, self.seed, self.device)
        possible = self._possible()
        for i, beta in enumerate(self.betas[1:], 1):
            engine = Engine(self.path.at(float(beta)), self.kernel, device=self.device)
            x = possible.copy()
            if old:
                nearest = old[int(np.abs(old_betas - beta).argmin())]
                # Lost ones begin anew.
                kept = to_host(np.isfinite(nearest.reshape(self.chains, -1)).all(axis=1))
                kept[kept] = np.isfinite(to_host(self.path.target.energy(nearest[kept])))
                x[kept] = nearest[kept]
            state = engine.start(x, _derived(self.seed, -1 - i))  # apart from those of the rounds
            state.step = 2 * self.rounds * self.swap_every + 1_000_000 * (len(old) > 0)
            warm_up(engine, state, 60, self.pace)
            self.engines.append(engine)
            self.states.append(state)
        self.clear()

    def _possible(self) -> Array:
        """Return draws of the reference at which the target has an energy.

        Raises
        ------
        InputError
            If there are none.
        """
        x = self.hot.copy()
        lost = ~np.isfinite(to_host(self.path.target.energy(x)))
        if not lost.any():
            return x
        more = draws_of(self.reference, 100 * self.chains, _derived(self.seed, -10_000), self.device)
        found = np.flatnonzero(np.isfinite(to_host(self.path.target.energy(more))))
        if len(found) == 0:
            raise InputError(
                f"reference {self.reference!r} has no draw, of {len(more)}, at which the target's energy "
                "is finite: give one that covers the target"
            )
        x[np.flatnonzero(lost)] = more[np.resize(found, int(lost.sum()))]
        return x

    def positions(self) -> list[Array]:
        """Return the target's states at each temperature, the reference first."""
        pairs = zip(self.engines, self.states, strict=True)
        return [self.hot, *(engine.positions(state.x) for engine, state in pairs)]

    def clear(self) -> None:
        """Forget what was measured."""
        n = len(self.betas)
        self.rejected, self.tried = np.zeros(n - 1), np.zeros(n - 1)
        self.tally = np.zeros((3, self.chains))
        self.moves = 0
        # Which way each state is going: +1 after the reference, -1 after the target.
        self.origin = np.zeros((n, self.chains), int)
        self.round_trips = 0

    @property
    def rejection(self) -> Array:
        """Mean rejection between neighbours."""
        return np.asarray(self.rejected / np.maximum(self.tried, 1))

    @property
    def acceptance(self) -> Array:
        """Mean acceptance of the kernel at the target, for each chain."""
        return np.asarray(self.tally[0] / max(self.moves, 1))

    def round(self) -> None:
        """Move every state, then swap neighbours."""
        self.rounds += 1
        self.hot = draws_of(self.reference, self.chains, _derived(self.seed, self.rounds), self.device)
        for engine, state in zip(self.engines, self.states, strict=True):
            last = engine is self.engines[-1]
            engine.advance(state, self.swap_every, tally=self.tally if last else None)
        self.moves += self.swap_every
        self._swap()
        self.origin[0] = 1
        self.round_trips += int((self.origin[-1] == 1).sum())
        self.origin[-1] = -1

    def _swap(self) -> None:
        n = len(self.betas)
        x = [part.copy() for part in self.positions()]
        work = to_host(self.path.difference.energy(np.concatenate(x))).reshape(n, self.chains)
        log_u = -0.5 * (
            normal(self.chains, 2 * n, seed=self.seed, step=self.rounds, draw=5).reshape(-1, n, 2) ** 2
        ).sum(2)
        changed = np.zeros((n, self.chains), bool)
        for i in range(self.rounds % 2, n - 1, 2):
            with np.errstate(invalid="ignore", over="ignore"):
                log_ratio = (self.betas[i + 1] - self.betas[i]) * (work[i + 1] - work[i])
                log_ratio = np.where(np.isfinite(work[i]) | (work[i] == np.inf), log_ratio, -np.inf)
                self.rejected[i] += float(
                    (1 - np.exp(np.minimum(np.nan_to_num(log_ratio, nan=-np.inf), 0))).mean()
                )
            self.tried[i] += 1
            taken = log_u[:, i] < log_ratio
            x[i][taken], x[i + 1][taken] = x[i + 1][taken], x[i][taken].copy()
            self.origin[i][taken], self.origin[i + 1][taken] = (
                self.origin[i + 1][taken],
                self.origin[i][taken].copy(),
            )
            changed[i] |= taken
            changed[i + 1] |= taken
        for engine, state, which, place in zip(self.engines, self.states, changed[1:], x[1:], strict=True):
            if which.any():
                places = engine.coordinates
                inner = place[which] if places is None else places.from_state(place[which])
                state.x[which] = inner
                state.energy[which], state.score[which] = engine.loop.evaluate(contiguous(inner))
        self.hot = x[0]

    def coldest(self) -> tuple[Array, Array]:
        """Return positions and energies at the target."""
        engine, state = self.engines[-1], self.states[-1]
        x = engine.positions(state.x)
        return x, to_host(engine.energies(state, x))


def _derived(seed: int, number: int) -> int:
    """Return a seed for each round's draws from the reference, and for each rung's chains."""
    return (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
