"""Is log Z right for a user's own model? Simulated data say so: they come with one exact posterior draw.

Bidirectional Monte Carlo (Grosse, Ghahramani & Adams 2015, arXiv:1511.02543; Grosse, Ancha & Roy 2016,
arXiv:1606.02275): with x drawn from the prior and data from the likelihood at x, x is an exact draw from
the posterior given these data. Annealing from the prior to the posterior bounds log Z from below, and
annealing back from x from above: an unbiased estimate of Z, or of 1 / Z, is too high by b nats with a
probability below exp(-b).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from physscore.core import Array, Energy, EnergySum, InputError, Prior
from physscore.energies.coordinates import prior_and_likelihood
from physscore.evidence.annealed import Leg, Particles, run_leg
from physscore.evidence.bridge import Estimate, one_sided
from physscore.evidence.estimate import estimate_log_z
from physscore.evidence.excess import excess_of
from physscore.evidence.job import Job, prepare
from physscore.evidence.reference import reference_for
from physscore.evidence.result import LogZ
from physscore.kernels.kernel import Kernel
from physscore.sampling.engine import whole

_FAR, _UNSURE = 4.5, 1.0  # errors, and an error
_FORGET = 5  # times the moves of a temperature, at the target: copies of one draw go apart
_APART = 0x2545F4914F6CDD1D  # between seeds


@dataclass
class Verification:
    """log Z of simulated data, bounded from both sides, and what the estimate says of it.

    Attributes
    ----------
    lower, upper : array (simulations,)
        Stochastic bounds of log Z.
    lower_error, upper_error : array (simulations,)
        Their standard errors, from islands.
    estimates : list of LogZ
        What a user gets for each simulation.
    reasons : list of str
        Why it has not passed, in words.
    target : str
    seed : int
    """

    lower: npt.NDArray[np.float64]
    upper: npt.NDArray[np.float64]
    lower_error: npt.NDArray[np.float64]
    upper_error: npt.NDArray[np.float64]
    estimates: list[LogZ]
    reasons: list[str]
    target: str
    seed: int

    @property
    def passed(self) -> bool:
        """Whether all estimates lie between their bounds, which meet."""
        return not self.reasons

    @property
    def gap(self) -> npt.NDArray[np.float64]:
        """How far the bounds are apart: by so much log Z can be off."""
        return self.upper - self.lower

    @property
    def gap_error(self) -> npt.NDArray[np.float64]:
        """Standard errors of ``gap``."""
        return np.hypot(self.lower_error, self.upper_error)

    def summary(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        arrays = {
            "lower": self.lower, "lower_error": self.lower_error, "upper": self.upper,
            "upper_error": self.upper_error, "gap": self.gap, "gap_error": self.gap_error,
        }  # fmt: skip
        numbers = {k: [float(x) if math.isfinite(x) else None for x in v] for k, v in arrays.items()}
        return {
            "target": self.target, "passed": self.passed, "reasons": self.reasons, "seed": self.seed,
            **numbers, "estimates": [one.summary() for one in self.estimates],
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.target}: log Z of simulated data is {'verified' if self.passed else 'NOT VERIFIED'}"]
        lines += [f"  {reason}" for reason in self.reasons]
        for i, one in enumerate(self.estimates):
            lines.append(
                f"  lower {self.lower[i]:.3f} +- {self.lower_error[i]:.3f}, estimate {one.log_z:.3f} +- "
                f"{one.error:.3f} ({one.verdict}), upper {self.upper[i]:.3f} +- {self.upper_error[i]:.3f}; "
                f"gap {self.gap[i]:.3f} +- {self.gap_error[i]:.3f}"
            )
        return "\n".join(lines)


def verify(
    target: Energy,
    *,
    seed: int = 0,
    simulations: int = 1,
    kernel: Kernel | None = None,
    particles: int = 2000,
    progress: bool = False,
    **options: Any,
) -> Verification:
    """Bound log Z of data that are simulated from a model, and compare it with what is estimated.

    Parameters
    ----------
    target
        prior + likelihood, or likelihoods, that have a method ``simulate(x, *, seed)`` which returns the
        likelihood of data drawn at one state.
    seed
        A whole number from 0 to 2^64 - 1.
    simulations
        How often, each with a state and data of its own.
    kernel, particles
        As for ``estimate_log_z``.
    progress
        Show a progress bar.
    **options
        Others of ``estimate_log_z``: reference, islands, schedule, method, ...

    Returns
    -------
    Verification

    Raises
    ------
    InputError
        If the target is no posterior, or a likelihood cannot simulate data.
    """
    simulations, seed = whole(simulations=simulations), whole(0, seed=seed)
    prior, likelihoods = _parts(target)
    if getattr(kernel, "step_function", None) == "langevin":
        raise InputError(
            f"kernel is {kernel!r}, which never rejects: copies of an exact draw do not stay exact under it, "
            "so use MALA() or HMC()"
        )
    found: list[tuple[Estimate, Estimate]] = []
    estimates: list[LogZ] = []
    for i in range(simulations):
        seeds = [
            (seed + (i * (len(likelihoods) + 2) + j) * _APART) % 2**64 for j in range(len(likelihoods) + 2)
        ]
        truth = prior.sample(1, seed=seeds[0])
        data = [one.simulate(truth[0], seed=s) for one, s in zip(likelihoods, seeds[2:], strict=True)]
        posterior = reduce(add, data, prior)
        estimate = estimate_log_z(
            posterior, kernel=kernel, particles=particles, seed=seeds[1], progress=progress, **options
        )
        estimates.append(estimate)
        with tqdm(desc="bounds", disable=not progress, unit="step") as bar:
            found.append(_bounds(posterior, truth, estimate, kernel, options.get("reference"), bar))
    values = np.array([[bound.value for bound in pair] for pair in found])
    errors = np.array([[bound.error for bound in pair] for pair in found])
    reasons = [reason for i in range(simulations) for reason in _doubts(*found[i], estimates[i])]
    return Verification(
        values[:, 0], values[:, 1], errors[:, 0], errors[:, 1], estimates, reasons, repr(target), seed
    )


def _parts(target: Any) -> tuple[Prior, list[Any]]:
    """Return the prior of a posterior, and its likelihoods."""
    prior, rest = prior_and_likelihood(target)
    if prior is None or rest is None:
        raise InputError(f"target is {target!r}: it must be prior + likelihood, to simulate data from")
    terms = rest.terms if isinstance(rest, EnergySum) else ((1.0, rest),)
    for factor, term in terms:
        if factor != 1:
            raise InputError(f"target has {factor:g} * {term!r}: data cannot be simulated from a power of it")
        if not callable(getattr(term, "simulate", None)):
            raise InputError(
                f"{term!r} cannot simulate data: give it a method simulate(x, *, seed) that draws data at "
                "one state x and returns their likelihood"
            )
    return prior, [term for _, term in terms]


def _bounds(
    posterior: Energy, truth: Array, estimate: LogZ, kernel: Kernel | None, given: Any, bar: tqdm[Any]
) -> tuple[Estimate, Estimate]:
    """Return bounds of log Z: particles are led to the posterior, and back from copies of an exact draw."""

    def look(step: int, **shown: Any) -> None:
        bar.set_postfix(shown, refresh=False)
        bar.update(step)

    islands, n = estimate.log_weights.shape
    excess = excess_of(reference_for(posterior, given, estimate.seed, lambda stage: look(1)), posterior)
    # The pilot of the same seed finds what the estimate went by.
    schedule = None if estimate.method == "tempering" else estimate.betas
    job = prepare(excess, kernel, islands, n, schedule, "smc", estimate.seed, look)
    while kernel is None and repr(job.kernel) != estimate.kernel and (better := job.better_kernel()):
        job = prepare(excess, better, islands, n, schedule, "smc", estimate.seed, look)
    seed = estimate.seed ^ _APART
    there = _led(job, excess.draw(islands * n, 0, seed), seed, look, back=False)
    back = _led(job, np.repeat(excess.from_state(truth), islands * n, axis=0), seed, look, back=True)
    return one_sided(there.log_z, 1.0), one_sided(-back.log_z, -1.0)


def _led(job: Job, y: Array, seed: int, look: Any, *, back: bool) -> Leg:
    plan = job.plan
    particles = Particles(job.excess, job.kernel, y, seed=seed, step=int(back) << 31, dense=job.dense)
    if back:  # the posterior stays as it is under moves that may be rejected
        last = len(plan.betas) - 1
        particles.place(1.0, plan.coordinates(last))
        if particles.adjusted:
            particles.move(plan.settings(last), _FORGET * int(plan.moves[last]))
    return run_leg(
        particles, plan, job.islands, back=back, threshold=job.threshold,
        progress=lambda k, ess: look(1, beta=f"{plan.betas[k]:.3g}"),
    )  # fmt: skip


def _doubts(lower: Estimate, upper: Estimate, estimate: LogZ) -> list[str]:
    """Return what speaks against an estimate, given bounds."""
    found = [f"the estimate is {estimate.verdict}: {reason}" for reason in estimate.reasons]
    if not math.isfinite(lower.value + upper.value + lower.error + upper.error):
        return [*found, "the bounds are not finite"]
    for side, bound, beyond in (
        ("below the lower", lower, lower.value - estimate.log_z),
        ("above the upper", upper, estimate.log_z - upper.value),
    ):
        error = math.hypot(bound.error, estimate.error)
        if beyond > _FAR * error:
            found.append(
                f"the estimate is {beyond:.3g} {side} bound, {beyond / error:.1f} errors: it is wrong, or "
                "the posterior has parts between which particles do not move"
            )
    gap, error = upper.value - lower.value, math.hypot(lower.error, upper.error)
    if error > _UNSURE:
        found.append(f"the bounds are {gap:.3g} apart, and uncertain by {error:.2g}: they say too little")
    elif gap > _FAR * error + error**2:
        found.append(
            f"the bounds are {gap:.3g} apart, {gap / max(error, 1e-300):.1f} of their errors: the particles "
            "lag, so give it more temperatures or a kernel that moves more"
        )
    return found
