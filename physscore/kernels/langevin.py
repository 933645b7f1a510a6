"""Langevin kernels: one gradient a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from physscore.arrays import real_numbers
from physscore.core import Array, InputError
from physscore.kernels.kernel import Kernel
from physscore.kernels.metric import Dense, Metric
from physscore.kernels.state import Moves


@dataclass(frozen=True)
class ULA(Kernel):
    """Unadjusted Langevin: x + eps M s + sqrt(2 eps) M^1/2 xi, with no rejection and so with a bias.

    Parameters
    ----------
    step_size
        eps, or "auto": from ``bias``.
    metric
        M. [default: the identity]
    bias
        The relative error that the variance may have in its worst direction, where the step size is
        "auto": on a normal target of precision A the stationary variance is (A - eps A M A / 2)^-1,
        so eps = 2 bias / ((1 + bias) max eigenvalue of M A). On other targets the largest curvature
        met in the warm-up takes its place.
    """

    metric: str | Metric = "identity"
    bias: float = 0.01
    step_function: ClassVar[str] = "langevin"
    needs_energy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("bias", self.bias, auto=False)

    def moves(self) -> Moves:
        """Return the settings as the loops read them."""
        return Moves(math.sqrt(2 * float(self.step_size)))

    def step_for_curvature(self, largest: float) -> float:
        """Return the step size of the allowed bias, for the largest eigenvalue of M A."""
        return 2 * self.bias / ((1 + self.bias) * largest)


def ula_covariance(precision: Any, step_size: float, metric: Any = None) -> Array:
    """Return the covariance that ULA really samples, of a normal target.

    Parameters
    ----------
    precision
        The inverse covariance A of the target, of shape (d, d).
    step_size
        eps.
    metric
        M, of shape (d, d). [default: the identity]

    Returns
    -------
    array (d, d)
        (A - eps A M A / 2)^-1.

    Raises
    ------
    InputError
        If a matrix is not square and symmetric, or the step size so large that there is no
        stationary law.
    """
    a = real_numbers(precision, "precision")
    if not a.size or not a.ndim:
        raise InputError(f"precision has shape {a.shape}: it must be (d, d)")
    m = np.eye(len(a)) if metric is None else real_numbers(metric, "metric")
    for name, matrix in (("precision", a), ("metric", m)):
        if matrix.ndim != 2 or matrix.shape != (len(a), len(a)) or not np.isfinite(matrix).all():
            raise InputError(f"{name} has shape {matrix.shape}: both must be finite and (d, d)")
        if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-10 * np.abs(matrix).max(initial=0)):
            raise InputError(f"{name} is not symmetric: it must be")
    effective = a - 0.5 * step_size * a @ m @ a
    if np.linalg.eigvalsh(0.5 * (effective + effective.T))[0] <= 0:
        top = float(np.linalg.eigvals(m @ a).real.max())
        raise InputError(f"step_size is {step_size}: ULA is stable on this target below {2 / top:.4g}")
    return np.linalg.inv(effective)


@dataclass(frozen=True)
class MALA(Kernel):
    """Metropolis-adjusted Langevin: ULA's proposal, accepted or rejected (Roberts & Tweedie 1996).

    The step size is tuned to an acceptance of 0.574 (Roberts & Rosenthal 1998). One step in 16 is made
    with a sixteenth of it: that frees chains that sit where it is too long to be accepted.

    Parameters
    ----------
    step_size
        eps, or "auto".
        A number is in units of the metric, and so another step where a warm-up measures that: without one,
        "diagonal" is the identity.
    metric
        M. [default: "diagonal"]
    """

    step_function: ClassVar[str] = "hamiltonian"
    goal: ClassVar[float | None] = 0.574

    def moves(self) -> Moves:
        """Return the settings as the loops read them."""
        return Moves(math.sqrt(2 * float(self.step_size)), relief=1 / 16)


@dataclass(frozen=True)
class AutoMALA(Kernel):
    """MALA whose step adapts to the place it is in, and yet leaves the target invariant.

    The step is doubled or halved until its energy error is as large as a random bound; a proposal from
    which the way back would choose another step is rejected (Biron-Lattes et al. 2024,
    arXiv:2310.16782). For targets whose scale varies, such as funnels. It costs several gradients a step.

    Parameters
    ----------
    step_size
        Where the search begins; "auto": the warm-up puts it where least has to be changed.
        A number is in units of the metric, and so another step where a warm-up measures that: without one,
        "diagonal" is the identity.
    metric
        M. [default: "diagonal"]
    sweep
        Move the coordinates one after the other, and then all at once, each with the step that suits it
        where it is: for a coordinate that sets the scale of others.
    """

    sweep: bool = False
    step_function: ClassVar[str] = "adaptive"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sweep and (self.metric == "dense" or isinstance(self.metric, Dense)):
            raise InputError(
                f"metric is {self.metric!r}: one coordinate after the other needs a diagonal one"
            )

    def moves(self) -> Moves:
        """Return the settings as the loops read them."""
        return Moves(math.sqrt(2 * float(self.step_size)), sweep=self.sweep)


@dataclass(frozen=True)
class Underdamped(Kernel):
    """Underdamped Langevin: position and momentum, with friction.

    Parameters
    ----------
    step_size
        Time h of one step, or "auto".
        A number is in units of the metric, and so another step where a warm-up measures that: without one,
        "diagonal" is the identity.
    metric
        M, the inverse mass matrix. [default: "diagonal"]
    friction
        gamma; the momentum keeps exp(-gamma h) of itself in a step.
    metropolised
        Accept or reject each step (generalised hybrid Monte Carlo, Horowitz 1991), which is exact. If
        not, the splitting BAOAB (Leimkuhler & Matthews 2013, doi:10.1093/amrx/abs010), whose bias is of
        order h^2, and on normal targets zero for the positions.
    """

    friction: float = 1.0
    metropolised: bool = False
    goal: ClassVar[float | None] = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("friction", self.friction, auto=False)

    @property
    def step_function(self) -> str:  # type: ignore[override]
        """Which step of the loops moves the chains."""
        return "hamiltonian" if self.metropolised else "splitting"

    @property
    def needs_energy(self) -> bool:  # type: ignore[override]
        """Whether a score alone does not do."""
        return self.metropolised

    def moves(self) -> Moves:
        """Return the settings as the loops read them."""
        h = float(self.step_size)
        return Moves(h, keep=math.exp(-self.friction * h))


@dataclass(frozen=True)
class CrankNicolson(Kernel):
    """Preconditioned Crank-Nicolson Langevin, for a posterior with a Gaussian prior.

    The prior's part of the motion is followed exactly, so that the acceptance does not fall with the
    resolution of a field (Cotter, Roberts, Stuart & White 2013, arXiv:1202.0709, eq. 4.6 with their
    delta; Beskos et al. 2011). Works in the coordinates in which the prior is a standard normal.

    Parameters
    ----------
    step_size
        delta, at most 2, where a step draws from the prior anew; or "auto".
    """

    metric: str | Metric = "identity"
    step_function: ClassVar[str] = "hamiltonian"
    goal: ClassVar[float | None] = 0.574
    whitened: ClassVar[bool] = True
    longest_step: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size != "auto" and float(self.step_size) > self.longest_step:
            raise InputError(f"step_size is {self.step_size}: that of CrankNicolson is at most 2")
        if self.metric != "identity" and type(self.metric).__name__ != "Identity":
            raise InputError(f"metric is {self.metric!r}: CrankNicolson takes the prior's covariance for it")

    def moves(self) -> Moves:
        """Return the settings as the loops read them."""
        delta = float(self.step_size)
        return Moves(math.acos((2 - delta) / (2 + delta)), harmonic=True)
