"""What an annealing run is made with: temperatures, coordinates and step sizes, measured by the pilot
and then frozen, so that the estimate of Z is unbiased."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dtrtri

from physscore.arrays import cupy
from physscore.core import Array, InputError
from physscore.kernels.hamiltonian import HMC
from physscore.kernels.kernel import Kernel
from physscore.kernels.state import Moves

SHORT_OF_QUARTER = 1.4  # of a trajectory, where the density is near a standard normal: pi / 2 forgets all

_HUGE = 50.0  # variance of a work, beyond which no islands agree
_SEARCHED = 6  # gradients of a step of autoMALA, which looks for its size there and back, about
_ALL_AXES, _SOME = 1 / 3, 1 / 12  # of the gradients of moves, which those of shifted particles take at most
_ENOUGH_MOVES, _MANY = 6, 32  # gradients of moves, and dimensions, where one more brings more than it costs
_MOST_LEAPFROGS = 64  # where even the shortest steps are rejected, trajectories do not grow without end


@dataclass
class Knots:
    """What the pilot measured where it stopped on the way: arrays along beta.

    Attributes
    ----------
    betas : array (k,)
    length : array (k,)
        The integral of the standard deviation of u over beta, from 0: the length of the path.
    energy, spread : array (k,)
        Mean and standard deviation of u.
    step_sizes, trajectories : array (k,)
        Step size of the kernel and length of its trajectories.
    moves, acceptance : array (k,)
        Moves until u has forgotten where it was; acceptance.
    means : array (k, d)
    scales : array (k, d) or (k, d, d)
        The coordinates; see ``Tempered``.
    evaluations : int
        Gradients that the pilot took.
    variation : float
        By how many powers of 2 the scale of the density varies with the place, at three temperatures.
    """

    betas: Array
    length: Array
    energy: Array
    spread: Array
    step_sizes: Array
    trajectories: Array
    moves: Array
    acceptance: Array
    means: Array
    scales: Array
    evaluations: int = 0
    variation: float = 0.0

    @property
    def barrier(self) -> float:
        """The global communication barrier: the integral of E|u - u'| / 2, for normal u."""
        return float(self.length[-1]) / math.sqrt(math.pi)


@dataclass
class Plan:
    """A frozen schedule, and the kernel at each of its temperatures.

    Attributes
    ----------
    betas : array (k + 1,)
        From 0 to 1.
    places : array (k + 1,)
        Where they are between the knots: a whole number and a fraction.
    step_sizes, trajectories, moves : array (k + 1,)
    """

    kernel: Kernel
    knots: Knots
    betas: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        knots = self.knots
        at = np.interp(self.betas, knots.betas, np.arange(len(knots.betas)))
        self._low = np.minimum(at.astype(int), len(knots.betas) - 2)
        self._share = at - self._low
        self._sent: tuple[int, Any, Any] = (-1, None, None)
        self.step_sizes = np.exp(self._between(np.log(knots.step_sizes)))
        self.trajectories = self._between(knots.trajectories)
        self.moves = np.maximum(1, np.rint(self._between(knots.moves.astype(float)))).astype(np.int64)

    def _between(self, values: Array) -> Array:
        low, share = values[self._low], self._share
        return np.asarray((1 - share) * low + share * values[self._low + 1])

    def coordinates(self, k: int, device: str = "cpu") -> tuple[Array, Array]:
        """Return mean and scale at temperature ``k``, on a device.

        Between knots the precision is linear in beta, as it is where energies are quadratic.
        """
        low, share = self._low[k], self._share[k]
        means, scales = self.knots.means[low : low + 2], self.knots.scales[low : low + 2]
        if device == "gpu":  # neighbours need the same two
            if self._sent[0] != low:
                self._sent = (low, cupy().asarray(means), cupy().asarray(scales))
            means, scales = self._sent[1:]
        (mean_a, mean_b), (a, b) = means, scales
        if a.ndim == 1:
            one, two = (1 - share) / a**2, share / b**2
            return (one * mean_a + two * mean_b) / (one + two), 1 / np.sqrt(one + two)
        roots = [dtrtri(lower, lower=1)[0] for lower in (a, b)]
        parts = [weight * root.T @ root for weight, root in zip((1 - share, share), roots, strict=True)]
        covariance = np.linalg.inv(parts[0] + parts[1])
        mean = covariance @ (parts[0] @ mean_a + parts[1] @ mean_b)
        return mean, np.linalg.cholesky(0.5 * (covariance + covariance.T))

    def variance(self, n: int, *, resampled: bool) -> float:
        """Return the variance of log Z of islands with n particles that forget at once where they were."""
        squares = np.diff(np.interp(self.betas, self.knots.betas, self.knots.length)) ** 2
        if not resampled:
            squares = squares.sum(keepdims=True)
        return float(np.expm1(np.minimum(squares, _HUGE)).sum() / n)

    def settings(self, k: int) -> Moves:
        """Return the kernel's settings at temperature ``k``."""
        return settings_of(self.kernel, float(self.step_sizes[k]), float(self.trajectories[k]))

    @property
    def directions(self) -> int:
        """In how many directions particles are shifted for control variates (``shifts.py``)."""
        moves, d = self._by_moves / len(self.betas), int(self.knots.means.shape[1])
        if d <= _ALL_AXES * moves:
            return d
        return max(1, int(_SOME * moves)) if moves >= _ENOUGH_MOVES and d >= _MANY else 0

    @cached_property
    def _by_moves(self) -> int:
        each = (m * gradients_of(self.kernel, self.settings(k)) for k, m in enumerate(self.moves) if k)
        return int(sum(each))

    @property
    def evaluations(self) -> int:
        """Gradients that one particle takes from one end to the other."""
        return 1 + self._by_moves + self.directions * len(self.betas)


def settings_of(kernel: Kernel, step_size: float, trajectory: float = SHORT_OF_QUARTER) -> Moves:
    """Return a kernel's settings with a step size, and "auto" trajectories of a given length."""
    if isinstance(kernel, HMC) and kernel.leapfrogs == "auto":
        leapfrogs = max(1, round(min(trajectory / step_size, _MOST_LEAPFROGS)))
        return kernel.tuned(step_size=step_size, leapfrogs=leapfrogs).moves()
    settings = kernel.tuned(step_size=step_size).moves()
    return settings._replace(adjusted=False) if kernel.step_function == "langevin" else settings


def gradients_of(kernel: Kernel, settings: Moves) -> float:
    """Return how many gradients a move takes, about."""
    return settings.length * (_SEARCHED if kernel.step_function == "adaptive" else 1)


def equal_steps(knots: Knots, n: int) -> npt.NDArray[np.float64]:
    """Return n + 1 values of beta from 0 to 1 with the same length of the path between neighbours."""
    from scipy.interpolate import PchipInterpolator

    length = knots.length + 1e-12 * np.arange(len(knots.length))  # rising, even where u is constant
    betas = np.asarray(PchipInterpolator(length, knots.betas)(np.linspace(0.0, length[-1], n + 1)))
    betas[0], betas[-1] = 0.0, 1.0
    return np.maximum.accumulate(betas)


def checked_schedule(schedule: Any) -> int | Array | None:
    """Return a number of steps, all temperatures, or None.

    Raises
    ------
    InputError
        If it is something else.
    """
    if schedule is None:
        return None
    if isinstance(schedule, int | np.integer) and not isinstance(schedule, bool) and schedule >= 1:
        return int(schedule)
    try:
        betas = np.asarray(schedule, np.float64)
    except (TypeError, ValueError):
        betas = np.zeros(0)
    rising = betas.ndim == 1 and len(betas) > 1 and bool((np.diff(betas) > 0).all())
    if not rising or betas[0] != 0 or betas[-1] != 1:
        raise InputError(
            f"schedule is {schedule!r}: it must be a number of steps, or all temperatures, from 0 rising to 1"
        )
    return betas
