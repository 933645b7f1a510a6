"""How long a step may be: tuned to an acceptance, to where autoMALA need not change it, or to a bias."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from physscore.arrays import device_of, namespace, to_host
from physscore.core import InputError
from physscore.energies.coordinates import FieldModes
from physscore.energies.gaussian import Gaussian
from physscore.kernels.langevin import ULA, AutoMALA
from physscore.kernels.metric import Dense, Diagonal, Metric
from physscore.kernels.state import Info, State
from physscore.sampling.engine import Engine

_LOOKED_AT = 1 << 20  # chains times components
_AS_REJECTED = 30.0  # one step that runs away counts as so many rejections


class StepSize(ABC):
    """Tunes the step size of ``engine.kernel`` while the chains move."""

    def __init__(self, engine: Engine, state: State, look: Callable[[int], object]) -> None:
        self.engine, self.state, self._look = engine, state, look
        self.restart()

    @abstractmethod
    def restart(self) -> None:
        """Find a step size that is about right; forget what was learned with another metric."""

    @abstractmethod
    def adjust(self, info: Info, steps: int) -> None:
        """Change the step size by what happened in a round of ``steps``."""

    @abstractmethod
    def finish(self) -> None:
        """Leave the step size that all rounds together speak for."""

    def _set(self, step_size: float) -> None:
        self.engine.kernel = self.engine.kernel.tuned(step_size=step_size)

    def _try(self, step_size: float) -> Info:
        """Return what one step of this size does, without taking it."""
        self._look(0)
        self._set(step_size)
        return self.engine.advance(self.state.copy(), 1)


def tuned_by(engine: Engine, state: State, look: Callable[[int], object] = lambda n: None) -> StepSize:
    """Return what tunes the step size of a kernel; ``look`` is called before each step that is tried."""
    if isinstance(engine.kernel, AutoMALA):
        return _ByExponent(engine, state, look)
    if engine.kernel.step_function in ("langevin", "splitting"):
        return _ByCurvature(engine, state, look)
    return _ByAcceptance(engine, state, look)


class _ByAcceptance(StepSize):
    """Dual averaging of the mean acceptance of all chains (Nesterov 2009; Hoffman & Gelman 2014, eq. 6).

    Where steps run away, more are to be accepted, but for a quarter of what else is rejected.
    In light tails that makes chains move more, and few still run away; in necks some do whatever the step
    is, and the verdict tells.
    """

    @property
    def goal(self) -> float:
        """The mean acceptance, when the short steps are all accepted."""
        kernel = self.engine.kernel
        assert kernel.goal is not None
        relief = kernel.moves().relief
        return (1 - relief) * kernel.goal + relief

    def restart(self) -> None:
        kernel = self.engine.kernel
        self.most = kernel.longest_step
        step, up = 1.0, self._try(1.0).acceptance.mean() > self.goal
        for _ in range(100):
            following = min(step * (2.0 if up else 0.5), self.most)
            if following == step or (self._try(following).acceptance.mean() > self.goal) != up:
                break
            step = following
        self._set(step)
        self.start = math.log(2 * step)
        self.count, self.error, self.average = 0, 0.0, 0.0

    def adjust(self, info: Info, steps: int) -> None:
        self.count += 1
        gain = 1 / (self.count + 10)
        more = _AS_REJECTED * float(info.divergent.mean()) / steps
        goal = min(self.goal + more, (3 + self.goal) / 4)
        self.error += gain * (goal - float(info.acceptance.mean()) - self.error)
        log_step = min(self.start - math.sqrt(self.count) / 0.05 * self.error, math.log(self.most))
        self.average += self.count**-0.75 * (log_step - self.average)
        self._set(math.exp(log_step))

    def finish(self) -> None:
        if self.count:
            self._set(math.exp(self.average))


class _ByExponent(StepSize):
    """autoMALA's step begins where, on average, it need not be doubled or halved."""

    def restart(self) -> None:
        step, up = 1.0, self._try(1.0).exponent.mean() > 0
        for _ in range(100):
            following = step * (4.0 if up else 0.25)
            if (self._try(following).exponent.mean() > 0) != up:
                break
            step = following
        self._set(step)
        self.count, self.average = 0, 0.0

    def adjust(self, info: Info, steps: int) -> None:
        self.count += 1
        # A leapfrog twice as long is a step size four times as large.
        change = float(info.exponent.mean()) * math.log(4.0) / math.sqrt(self.count)
        log_step = math.log(float(self.engine.kernel.step_size)) + change
        self.average += self.count**-0.75 * (log_step - self.average)
        self._set(math.exp(log_step))

    def finish(self) -> None:
        if self.count:
            self._set(math.exp(self.average))


class _ByCurvature(StepSize):
    """Unadjusted kernels: from the largest curvature met, by the bias that is allowed."""

    def restart(self) -> None:
        self.largest = 0.0  # of W^T H W: with another W it says nothing
        self.finish()

    def adjust(self, info: Info, steps: int) -> None:
        """Do nothing: the curvature is measured between the stages."""

    def finish(self) -> None:
        self.largest = max(self.largest, largest_curvature(self.engine, self.state))
        kernel = self.engine.kernel
        # BAOAB's error is (h omega)^2 / 24 or so in the energy: half a radian a step keeps it at 1%.
        self._set(
            kernel.step_for_curvature(self.largest)
            if isinstance(kernel, ULA)
            else 0.5 / math.sqrt(self.largest)
        )


def largest_curvature(engine: Engine, state: State) -> float:
    """Return the largest eigenvalue of W^T H W, with the Hessian H of the energy.

    It is known for normal targets and random fields; else it is found by power iteration of
    differences of the score, at up to 8 of the chains.

    Raises
    ------
    InputError
        If the score does not change, or is not finite.
    """
    inner, metric = engine.inner, engine.metric
    if isinstance(inner, Gaussian):
        covariance = inner.covariance if inner.covariance.ndim == 2 else np.diag(inner.covariance)
        factor = _apply(metric, np.eye(inner.dim)).T
        return float(np.linalg.eigvalsh(factor.T @ np.linalg.inv(covariance) @ factor)[-1])
    if isinstance(inner, FieldModes) and inner.others is None:
        return float((inner.precision * metric.factor**2).max())
    n = min(len(state.x), 8)
    x = state.x[:n].astype(np.float64)
    xp = namespace(device_of(x))
    direction = np.random.default_rng(0).normal(size=(n, inner.dim))
    length = 1e-3 * _narrowest(engine, state)
    largest = np.zeros(n)
    for _ in range(40):
        direction /= np.linalg.norm(direction, axis=1)[:, np.newaxis]
        change = xp.asarray(length * _apply(metric, direction).reshape(x.shape))
        bent = to_host(inner.score(x - change) - inner.score(x + change)).reshape(n, -1) / (2 * length)
        direction = _apply_transposed(metric, bent)
        largest = np.linalg.norm(direction, axis=1)
        if not (np.isfinite(largest).all() and largest.all()):
            break
    if not np.isfinite(largest).all() or largest.max() == 0:
        raise InputError(
            f'step_size is "auto", but the curvature of {inner!r} is {largest.max()} there: give a number'
        )
    return float(largest.max())


def _narrowest(engine: Engine, state: State) -> float:
    """Return the least of the spreads of the components of W^-1 x over the chains."""
    metric, dim = engine.metric, engine.inner.dim
    chains = state.x[: max(8, _LOOKED_AT // dim)]
    u = _solve(metric, to_host(chains).reshape(-1, dim).astype(np.float64))
    finite = np.isfinite(u).all(axis=1)
    u = u[finite] if finite.any() else np.zeros((1, dim))
    spread = np.abs(u - np.median(u, axis=0)).mean(axis=0)  # means little to heavy tails
    if spread.any():
        narrowest = float(spread[spread > 0].min())
    else:  # all are at one place: the score there is about 1 / spread, but near a mode
        score = _apply_transposed(metric, to_host(engine.inner.score(chains[:1])).reshape(1, dim))
        narrowest = 1 / max(float(np.abs(score).max()), 1 / max(float(np.std(u)), 1e-3))
    return max(narrowest, 1e-10 * float(np.abs(u).max()))  # a thousandth of which is above rounding


def _solve(metric: Metric, rows: np.ndarray) -> np.ndarray:
    """Return W^-1 times each row; zero for what W does not move."""
    if isinstance(metric, Dense):
        return np.asarray(np.linalg.solve(metric.factor, rows.T).T)
    if not isinstance(metric, Diagonal):
        return rows
    inverse = np.zeros_like(rows)
    np.divide(rows, metric.factor[0], out=inverse, where=metric.factor[0] > 0)
    return inverse


def _apply_transposed(metric: Metric, rows: np.ndarray) -> np.ndarray:
    """Return W^T times each row."""
    return np.asarray(rows @ metric.factor) if isinstance(metric, Dense) else _apply(metric, rows)


def _apply(metric: Metric, rows: np.ndarray) -> np.ndarray:
    """Return W times each row."""
    if isinstance(metric, Dense):
        return np.asarray(rows @ metric.factor.T)
    return np.asarray(rows * metric.factor[0]) if isinstance(metric, Diagonal) else rows
