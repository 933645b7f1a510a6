"""Hamiltonian Monte Carlo: trajectories of several gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from physscore.core import InputError
from physscore.kernels.kernel import Kernel
from physscore.kernels.state import Moves

MOST_LEAPFROGS = 1_000_000


@dataclass(frozen=True)
class HMC(Kernel):
    """Hamiltonian Monte Carlo with jittered trajectories (Duane et al. 1987; Neal 2011, arXiv:1206.1901).

    Parameters
    ----------
    step_size
        Time of one leapfrog step; "auto": tuned to an acceptance of 0.8. One trajectory in 32 has
        steps a quarter as long, which frees chains that sit where they are too long.
        A number is in units of the metric, and so another step where a warm-up measures that: without one,
        "diagonal" is the identity.
    metric
        M, the inverse mass matrix.
    leapfrogs
        Steps of a trajectory on average: each has from half to three halves of them, spread evenly, so
        that no period of the target is met in step. "auto": the warm-up tries several and keeps what gives
        the most effective samples for its cost.
    harmonic
        Follow exactly the flow of a standard normal, the prior in its own coordinates, and split off the
        rest (Shahbaba, Lan, Johnson & Neal 2014, arXiv:1106.5941): for posteriors near their prior. The
        step size is an angle then, at most pi / 2, and the metric is the prior's.
    """

    leapfrogs: float | str = "auto"
    harmonic: bool = False
    step_function: ClassVar[str] = "hamiltonian"
    goal: ClassVar[float | None] = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("leapfrogs", self.leapfrogs)
        if self.leapfrogs != "auto" and float(self.leapfrogs) < 1:
            raise InputError(f"leapfrogs is {self.leapfrogs}: a trajectory has at least 1 step")
        if self.leapfrogs != "auto" and float(self.leapfrogs) > MOST_LEAPFROGS:
            raise InputError(
                f"leapfrogs is {self.leapfrogs:g}: a trajectory may have {MOST_LEAPFROGS:,} at most"
            )
        if self.harmonic and self.step_size != "auto" and float(self.step_size) > math.pi / 2:
            raise InputError(f"step_size is {self.step_size}: that of harmonic HMC is at most pi / 2")
        if self.harmonic and self.metric != "diagonal":
            raise InputError(f"metric is {self.metric!r}: harmonic HMC takes the prior's covariance for it")

    @property
    def whitened(self) -> bool:  # type: ignore[override]
        """Whether it works in the coordinates in which the prior is a standard normal."""
        return self.harmonic

    @property
    def longest_step(self) -> float:  # type: ignore[override]
        """The largest step size."""
        return math.pi / 2 if self.harmonic else math.inf

    def moves(self) -> Moves:
        """Return the settings as the loops read them."""
        leapfrogs = 10 if self.leapfrogs == "auto" else self.leapfrogs
        return Moves(float(self.step_size), length=float(leapfrogs), harmonic=self.harmonic, relief=1 / 32)
