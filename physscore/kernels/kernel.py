"""What every kernel has: its settings, and one step at a time for a caller in control."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from physscore.core import Energy, EnergySum, InputError, Score, ScoreSum
from physscore.energies.coordinates import has_field, has_lognormal
from physscore.kernels.loops import Loop
from physscore.kernels.metric import Fourier, Identity, Metric
from physscore.kernels.state import Info, Moves, State

METRICS = ("identity", "diagonal", "dense", "fourier")


@dataclass(frozen=True)
class Kernel(ABC):
    """One step of a Markov chain, with frozen settings.

    Parameters
    ----------
    step_size
        A positive number, or "auto": tuned in the warm-up of ``sample``, then frozen.
        A number is in units of the metric, and so another step where a warm-up measures that: without one,
        "diagonal" is the identity.
    metric
        A :class:`Metric`, "identity", or one that the warm-up measures: "diagonal", "dense", "fourier".

    Raises
    ------
    InputError
        If a setting makes no sense.
    """

    step_size: float | str = "auto"
    metric: str | Metric = "diagonal"

    step_function: ClassVar[str]
    """Which step of the loops moves the chains."""
    goal: ClassVar[float | None] = None
    """The acceptance that the step size is tuned to; None where it is tuned otherwise."""
    needs_energy: ClassVar[bool] = True
    whitened: ClassVar[bool] = False
    """Whether it works in the coordinates in which the prior is a standard normal."""
    longest_step: ClassVar[float] = math.inf
    """The largest step size."""

    def __post_init__(self) -> None:
        self._check_positive("step_size", self.step_size)
        if not isinstance(self.metric, Metric) and not (
            isinstance(self.metric, str) and self.metric in METRICS
        ):
            raise InputError(
                f"metric is {self.metric!r}: it must be one of {', '.join(METRICS)}, or a Metric"
            )

    def _check_positive(self, name: str, value: Any, *, auto: bool = True) -> None:
        if auto and value == "auto":
            return
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        # A Python int may be too large for a float; a float32 is too small for the largest one.
        if not number or not 0 < (value if isinstance(value, int) else float(value)) <= sys.float_info.max:
            choice = ' or "auto"' if auto else ""
            raise InputError(f"{name} is {value!r}: it must be a positive number{choice}")

    @abstractmethod
    def moves(self) -> Moves:
        """Return the settings as the loops read them."""

    def tuned(self, **settings: Any) -> Self:
        """Return this kernel with other settings."""
        return replace(self, **settings)

    @property
    def frozen_metric(self) -> Metric:
        """The metric as it stands; one that is still to be measured is the identity."""
        return self.metric if isinstance(self.metric, Metric) else Identity()

    def check_target(self, target: Score) -> None:
        """Refuse a target that has no energy where one is needed.

        Raises
        ------
        InputError
            If so.
        """
        if not isinstance(target, Score):
            raise InputError(f"target is a {type(target).__name__}: it must be an Energy or a Score")
        if self.needs_energy and not isinstance(target, Energy):
            raise InputError(
                f"target {target!r} has a score but no energy, which {type(self).__name__} needs to accept "
                "or reject: use ULA or Underdamped"
            )
        terms = [term for _, term in target.terms] if isinstance(target, EnergySum | ScoreSum) else [target]
        if not self.needs_energy and any(getattr(term, "has_walls", False) for term in terms):
            raise InputError(
                f"target {target!r} has bounds, which {type(self).__name__} steps over, as it does not "
                "reject: use MALA or HMC"
            )
        self.frozen_metric.check(target.dim)

    def init(self, target: Score, x: Any, *, seed: int = 0) -> State:
        """Return the state of chains that start at ``x``, of shape (chains, *target.shape).

        Raises
        ------
        InputError
            If the target or the start does not do.
        """
        self.check_target(target)
        fields = has_field(target) or has_lognormal(target)
        if self.whitened or isinstance(self.metric, Fourier) or fields:
            raise InputError(f"{self!r} works in other coordinates: use sample or iterate")
        return Loop(target, self.step_function).start(x, seed)

    def step(self, target: Score, state: State) -> tuple[State, Info]:
        """Return the state after one step, and what happened. ``state`` is left as it is.

        Raises
        ------
        InputError
            If the step size is still "auto".
        """
        if self.step_size == "auto":
            raise InputError('step_size is "auto": give a number, or take run.kernel of a run that tuned it')
        moved = state.copy()
        info = Loop(target, self.step_function).advance(moved, self.moves(), self.frozen_metric, 1)
        return moved, info
