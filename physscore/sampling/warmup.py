"""The warm-up: step size, metric and trajectory are tuned while the chains find their place, then frozen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np

from physscore.arrays import cholesky, to_host
from physscore.core import Array, InputError
from physscore.diagnostics.chains import effective_sample_size
from physscore.energies.coordinates import FieldModes
from physscore.kernels.hamiltonian import HMC
from physscore.kernels.metric import Dense, Diagonal, Fourier, Metric
from physscore.kernels.state import Info, State
from physscore.sampling.engine import Engine, fourier_metric
from physscore.sampling.pace import Pace
from physscore.sampling.step_size import tuned_by

_ROUNDS = 100  # the step size is adjusted this often
_STAGES = (0.3, 0.5, 0.8, 1.0)  # find the place; measure the metric twice; tune for the last metric
_LOOKED_AT = 2000  # chains times components
_STAGES_HMC = (0.2, 0.3, 0.5, 1.0)  # of the last one half is for the trajectory


def warm_up(engine: Engine, state: State, steps: int, pace: Pace | None = None) -> None:
    """Move the chains by ``steps``, and leave in ``engine`` the kernel with its settings tuned.

    What is tuned does not depend on the ``pace``.

    Raises
    ------
    InputError
        If something is to be tuned or measured and there are no steps for it, but for the metric that a
        kernel has by itself: without steps it is the identity.
    """
    kernel = engine.kernel
    learner: _Moments | _Power | None = None
    if isinstance(engine.metric, Fourier):
        learner = _Power() if kernel.metric in ("fourier", "diagonal") else None
    elif kernel.metric in ("diagonal", "dense") and not kernel.whitened:
        learner = _Moments(engine.inner.dim, dense=kernel.metric == "dense")
    chooses = isinstance(kernel, HMC) and kernel.leapfrogs == "auto"
    tunes = kernel.step_size == "auto"
    if steps == 0 and (tunes or chooses):
        raise InputError(
            "warmup is 0, but the kernel is to be tuned: give it steps, or a number for each setting"
        )
    known = isinstance(learner, _Power) and cast(FieldModes, engine.coordinates).precision_octant.any()
    if steps == 0 and learner and not known and kernel.metric != type(kernel).metric:
        raise InputError(
            f"warmup is 0, but the metric {kernel.metric!r} is to be measured: give it steps, or a Metric"
        )
    pace = pace or Pace()
    tuner = tuned_by(engine, state, pace.look) if tunes else None
    done = 0

    def run(n: int) -> Info:
        nonlocal done
        tally = np.zeros((3, len(state.x)))
        for first, last in pace.pieces(0, n):
            engine.advance(state, last - first, tally=tally)
        done += n
        return Info(tally[0] / n, tally[1].astype(np.int64), tally[2] / n, engine.loop.name)

    stages = _STAGES_HMC if chooses else _STAGES
    for stage, share in enumerate(stages):
        end, last = round(share * steps), share == 1.0
        if last and chooses:
            choose_trajectory(engine, state, (end - done) // 2, run)
        if tuner and stage > 0 and (learner or (last and chooses)):
            tuner.restart()
        while done < end:
            n = min(max(1, steps // _ROUNDS), end - done)
            info = run(n)
            if tuner:
                tuner.adjust(info, n)
            if learner and stage > 0:
                learner.add(state)
        if learner and stage > 0 and not last and steps:
            engine.metric = learner.metric(engine, state)
    if tuner:
        tuner.finish()
    if not kernel.whitened:
        engine.kernel = engine.kernel.tuned(metric=engine.metric)


class _Moments:
    """Measures a diagonal or dense metric from the positions of all chains."""

    def __init__(self, dim: int, *, dense: bool) -> None:
        self.dim, self.dense = dim, dense
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        self.sum = np.zeros(self.dim)
        self.squares = np.zeros((self.dim, self.dim) if self.dense else self.dim)
        self.origin: Array | None = None

    def add(self, state: State) -> None:
        """Add the positions of the chains."""
        x = state.x.reshape(len(state.x), -1)
        if self.origin is None:  # sums around it do not lose their digits
            self.origin = x.mean(axis=0, dtype=np.float64)
        centred = x - self.origin
        self.count += len(x)
        self.sum += to_host(centred.sum(axis=0))
        self.squares += to_host(centred.T @ centred if self.dense else (centred**2).sum(axis=0))

    def metric(self, engine: Engine, state: State) -> Metric:
        """Return what was measured, drawn towards less where positions are few, and begin anew."""
        if self.count < 2:
            return engine.metric
        mean = self.sum / self.count
        found = self.squares / self.count - (np.outer(mean, mean) if self.dense else mean**2)
        variances = np.diag(found) if self.dense else found
        usable = bool(np.isfinite(found).all() and (variances > 0).all())
        count = self.count
        self._clear()
        if not usable:
            return engine.metric
        if not self.dense:
            share = count / (count + 5)
            logs = np.log(found)  # of factors: units may be far apart
            return Diagonal(np.exp(share * logs + (1 - share) * logs.mean()))
        share = count / (count + 5 + self.dim)
        shrunk = share * found + (1 - share) * np.diag(variances)
        try:
            cholesky(shrunk, "metric")
        except InputError:
            return Diagonal(variances)
        return Dense(shrunk)


class _Power:
    """Finds the metric of a field: of its prior and the likelihood's curvature, or of its own P(k)."""

    def add(self, state: State) -> None:
        """Do nothing: a field holds enough modes."""

    def metric(self, engine: Engine, state: State) -> Metric:
        """Return the metric where the chains are now."""
        modes = engine.coordinates
        assert isinstance(modes, FieldModes)
        if modes.precision_octant.any():
            return fourier_metric(modes, modes.to_fields(state.x))
        table = modes.grid.wavenumbers
        x, y, z = table.offsets
        in_use = modes.coordinates.in_use
        index = (x[:, np.newaxis, np.newaxis] + y[:, np.newaxis] + np.repeat(z, 2)).reshape(-1)[in_use]
        used = to_host(state.x)[:, in_use]
        variances = used.var(axis=0, ddof=1) if len(used) > 1 else (used - used.mean()) ** 2
        shells = np.bincount(index, variances, table.size) / np.maximum(
            np.bincount(index, minlength=table.size), 1
        )
        if not (np.isfinite(shells).all() and (shells[index] > 0).all()):
            return engine.metric
        found = np.zeros(modes.shape)
        found[in_use] = shells[index]
        return Fourier(modes.grid, found)


def choose_trajectory(engine: Engine, state: State, steps: int, run: Callable[[int], Info]) -> None:
    """Choose the leapfrog steps of a trajectory that make most of a gradient, in ``steps`` trajectories.

    Trajectories four times as long each time, and then those between, are tried for the effective samples
    that they give of the components of the target's states and of their squares. The lowest of either
    counts, but for the 2% which may be so by chance. Where one is not twice what chains that stand still
    would be given, all that is known is that trajectories are too short.
    """
    repeats = max(12, steps // 8)
    chains = np.linspace(0, len(state.x) - 1, min(len(state.x), _LOOKED_AT // 10)).astype(int)
    dim = engine.target.dim
    columns = np.linspace(0, dim - 1, min(dim, max(10, _LOOKED_AT // len(chains)))).astype(int)
    still = np.random.default_rng(0).normal(size=(1, len(chains), 1))
    still = still + 1e-6 * np.arange(repeats)[:, np.newaxis, np.newaxis]
    least = 2 * _lowest_size(still)
    gained: dict[int, float] = {}  # effective samples for each gradient

    def attempt(leapfrogs: int) -> None:
        if leapfrogs in (0, *gained) or (len(gained) + 1) * repeats > steps:
            return
        engine.kernel = engine.kernel.tuned(leapfrogs=leapfrogs)
        seen = np.empty((repeats, len(chains), len(columns)))
        for i in range(repeats):
            run(1)
            seen[i] = to_host(engine.positions(state.x[chains]).reshape(len(chains), dim)[:, columns])
        sizes = _lowest_size(seen), _lowest_size((seen - seen.mean(axis=(0, 1))) ** 2)
        # Two more for what a trajectory costs besides its gradients.
        gained[leapfrogs] = math.sqrt(sizes[0] * sizes[1]) / (leapfrogs + 2) if min(sizes) > least else 0.0

    def best() -> int:
        return max(gained, key=lambda leapfrogs: (gained[leapfrogs], leapfrogs), default=10)

    for leapfrogs in (1, 4, 16, 64):
        if gained.get(leapfrogs // 4, 0.0) < gained.get(best(), 0.0):
            break
        attempt(leapfrogs)
    if gained.get(best(), 0.0) > 0:
        for factor in (2.0, 0.5, 1.5, 0.75):
            attempt(int(factor * best()))
    engine.kernel = engine.kernel.tuned(leapfrogs=best())


def _lowest_size(draws: Array) -> float:
    """Return the lowest effective sample size of the components that move, but for 2% of them."""
    size = effective_sample_size(draws[..., np.ptp(draws, axis=(0, 1)) > 0], "mean")
    return float(np.nanquantile(size, 0.02, method="lower")) if np.isfinite(size).any() else 0.0
