"""A second opinion on log Z: replica exchange, where states swap places between the reference and the target.

Swaps are non-reversible, of even and odd neighbours in turn, which carries states along the ladder instead
of letting them diffuse (Syed, Bouchard-Cote, Deligiannidis & Doucet 2022, arXiv:1905.02939). Ladders never
meet: they are the islands, and their scatter is the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import logsumexp, ndtri, stdtr

from physscore.core import Array, Energy, InputError
from physscore.evidence.annealed import Leg
from physscore.evidence.bridge import Estimate, Populations, acceptance_ratio, mean_of, one_sided
from physscore.evidence.excess import excess_of
from physscore.evidence.job import Job, Look, prepare
from physscore.evidence.ladders import Ladders, annealed_starts
from physscore.evidence.plan import Plan, equal_steps
from physscore.evidence.reference import reference_for
from physscore.evidence.result import LogZ
from physscore.evidence.varying_scale import LOOKED_AT
from physscore.evidence.verdict import Finding, beyond_bounds, follow, look_at, scattered, verdict_of
from physscore.kernels.kernel import Kernel
from physscore.kernels.team import Team
from physscore.processes import on_root, world
from physscore.store.evidence import COMPARED, EvidenceWriter

_LEAST_RUNGS, _RUNGS_PER_BARRIER = 4, 2.0  # half of the swaps are accepted
_LADDERS, _LEAST_ROUNDS = (16, 32), 16
_BURN_IN = 0.25  # of the rounds that are kept
_SUSPECT, _FAILED, _MOST_REJECTED = 4.5, 9.0, 0.9


def stepping_stone(betas: Array, u: Array, sign: int) -> Estimate:
    """Return log Z as the product over rungs of the mean weight from each to the next, or back: sign -1.

    Parameters
    ----------
    betas : array (k,)
    u : array (k, ladders, rounds)
        Energies beyond the reference's.
    """
    steps = np.diff(betas)[:, np.newaxis, np.newaxis]
    log_weights = -steps * u[:-1] if sign > 0 else steps * u[1:]
    by_ladder = logsumexp(log_weights, axis=2) - math.log(u.shape[2])
    parts = [one_sided(sign * row, sign) for row in by_ladder]
    return Estimate(sum(part.value for part in parts), np.array([part.influence for part in parts]))


def estimate_by_tempering(
    target: Energy, reference: Any, kernel: Kernel | None, *, particles: int, islands: int | None,
    schedule: Any, seed: int, target_error: float | None, settings: dict[str, Any],
    writer: EvidenceWriter | None, bar: Any, look: Look, team: Team | None,
    doubt: Callable[[Array], tuple[float, list[Finding]]] | None,
) -> LogZ:  # fmt: skip
    """Estimate log Z by replica exchange; ``estimate_log_z(..., method="tempering")`` calls it.

    Processes that share it all call it, the first one with the ``writer``, if there is one. Every rung is
    seen about as often as by annealing with as many ``particles`` there and back.
    """
    if getattr(kernel, "step_function", None) == "langevin":
        raise InputError(
            f"kernel is {kernel!r}, which never rejects: replica exchange has no weights to mend that, so "
            "use MALA() or HMC()"
        )
    comm = world()
    kept = on_root(comm, lambda: writer.restore() if writer is not None else {})
    bar.set_description("pilot")

    def prepared() -> Job:
        excess = excess_of(reference_for(target, reference, seed, lambda stage: look(1)), target)
        least = islands or _LADDERS[0]
        job = prepare(excess, kernel, least, max(2, particles // least), schedule, "tempering", seed, look)
        if schedule is None:
            knots = job.plan.knots
            rungs = max(_LEAST_RUNGS, math.ceil(_RUNGS_PER_BARRIER * knots.barrier))
            job.plan = Plan(job.kernel, knots, equal_steps(knots, rungs))
        return job

    if kept or comm is not None:
        plan = kept or on_root(comm, lambda: prepared().arrays())
        job = Job.from_arrays(target, reference, plan, "cpu")
    else:
        job = prepared()
    if writer is not None:
        writer.recognise(job.excess.to_state(job.excess.draw(COMPARED, 0, seed)))
    betas = job.plan.betas
    # Rounds enough for states to cross the ladder, even if there are fewer ladders for that.
    crossing = max(_LEAST_ROUNDS, 2 * len(betas))
    job.islands = islands or int(np.clip(2 * particles // crossing, *_LADDERS))
    job.n = max(2, particles // job.islands)
    rounds = max(crossing, math.ceil(2 * particles / job.islands))
    wanted = int(kept.get("wanted", rounds))
    if kept:
        ladders = Ladders.from_arrays(job, kept, team)
    else:
        ladders = Ladders(job, annealed_starts(job, look, team), team)

    def go_on(keep: bool) -> None:
        ladders.round(keep)
        if writer is not None:
            writer.write({**job.arrays(), **ladders.arrays(), "wanted": wanted})
        look(1)

    burn_in = math.ceil(_BURN_IN * rounds)
    bar.set_description("burn-in")
    while ladders.rounds < burn_in:
        go_on(keep=False)
    if ladders.rounds == burn_in:
        ladders.forget()
    bar.set_description("exchanging")
    while True:
        bar.total = bar.n + wanted - len(ladders.u)
        while len(ladders.u) < wanted:
            go_on(keep=len(ladders.u) < rounds and len(ladders.u) % 2 == 0)
        leg = ladders.seen()
        total, rises = acceptance_ratio(betas, [leg.populations])
        if target_error is None or not total.error > target_error:
            break
        wanted = min(math.ceil(1.05 * wanted * (total.error / target_error) ** 2), 8 * wanted)
    result = _result(job, ladders, leg, total.with_error(total.error), rises, settings, doubt)
    if writer is not None:
        writer.finish(result)
    return result


def _result(
    job: Job, ladders: Ladders, leg: Leg, total: Estimate, rises: Array,
    settings: dict[str, Any], doubt: Callable[[Array], tuple[float, list[Finding]]] | None,
) -> LogZ:  # fmt: skip
    plan = job.plan
    u = leg.populations.u
    forward, reverse = (stepping_stone(plan.betas, u, sign) for sign in (1, -1))
    reverse += one_sided(leg.inside, 1.0)
    estimates = {
        "BAR": total, "forward": forward, "reverse": reverse,
        "stepping stone": mean_of(forward, reverse),
    }  # fmt: skip
    gap = Estimate(reverse.value - forward.value, reverse.by_rung - forward.by_rung)
    kept = np.array(ladders.at_target)
    y = np.swapaxes(kept, 0, 1).reshape(-1, job.excess.dim)
    samples = job.excess.to_state(y)
    findings = look_at([leg], total, 0.0, 0.0, float(plan.knots.length[-1]), len(plan.betas) - 1)
    findings += _doubts(ladders, plan.betas, u)
    findings += scattered(total.influence, plan.variance(u.shape[2], resampled=True))
    findings += follow([leg], job.excess, kept.reshape(y.shape)[:LOOKED_AT]) + job.uneven(y)
    error = total.error
    findings += beyond_bounds(job.excess, samples, error)
    if doubt is not None:
        more, reasons = doubt(samples)
        error = math.hypot(error, more)
        findings += reasons
    verdict, words = verdict_of(findings)
    back = (np.diff(plan.betas)[:, np.newaxis, np.newaxis] * u[1:]).sum(axis=0)
    evaluations = job.plan.knots.evaluations + plan.evaluations * (
        ladders.n * ladders.rounds + job.islands * job.n
    )
    return LogZ(
        total.value, error, verdict, words, "BAR",
        {name: (one.value, one.error) for name, one in estimates.items()},
        forward.value, reverse.value, gap.error, float(ladders.rejection.sum()), plan.betas, rises,
        leg.ess.mean(axis=1), leg.acceptance.mean(axis=1), {"forward": leg.work, "reverse": -back},
        np.full(kept.shape[1::-1], -math.log(len(samples))), total.value + total.influence, samples,
        evaluations, repr(job.kernel), repr(job.excess.reference), settings["target"], "tempering",
        job.seed, settings,
    )  # fmt: skip


def _doubts(ladders: Ladders, betas: Array, u: Array) -> list[Finding]:
    """Return what speaks against a run of ladders.

    The stepping stones are not asked: tails that they miss are not missed by Bennett's ratio.
    """
    found = []
    middle = u.shape[2] // 2
    halves = []
    for part in (u[:, :, :middle], u[:, :, middle:]):
        shape = part.shape
        halves.append(acceptance_ratio(betas, [Populations(part, np.zeros(shape), np.zeros(shape[:2]))])[0])
    drift = Estimate(halves[1].value - halves[0].value, halves[1].by_rung - halves[0].by_rung)
    far = abs(drift.value) / max(drift.error, 1e-300) if abs(drift.value) > 1e-9 else 0.0
    # As far as normal numbers are that chance brings as seldom: ladders are few.
    likewise = -float(ndtri(stdtr(ladders.n - 1, -far)))
    if likewise > _SUSPECT:
        found.append(Finding(
            f"both halves of the run differ by {drift.value:.3g}, {far:.1f} errors: give it a longer run",
            likewise > _FAILED,
        ))  # fmt: skip
    if ladders.round_trips == 0:
        found.append(Finding("no state came from the reference to the target: give it a longer run"))
    worst = float(ladders.rejection.max())
    if worst > _MOST_REJECTED:
        k = int(ladders.rejection.argmax())
        found.append(Finding(f"{worst:.0%} of the swaps are rejected at beta = {betas[k]:.3g}"))
    return found
