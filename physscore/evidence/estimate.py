"""``estimate_log_z``: from a target to log Z, its error, and a verdict."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from tqdm import tqdm

from physscore.arrays import checked_device, require_memory
from physscore.core import Array, Energy, EnergySum, InputError, Prior, Score, ScoreSum, combine, shape_of
from physscore.energies.integrated import IntegratedScore
from physscore.evidence.consensus import Seen
from physscore.evidence.excess import Excess, excess_of
from physscore.evidence.job import Job, Unit, checking, prepare
from physscore.evidence.plan import checked_schedule
from physscore.evidence.reference import reference_for
from physscore.evidence.result import LogZ
from physscore.evidence.sharing import lead
from physscore.evidence.varying_scale import LOOKED_AT
from physscore.evidence.verdict import (
    Finding,
    agreeing,
    beyond_bounds,
    follow,
    heavy,
    look_at,
    scattered,
    verdict_of,
)
from physscore.interrupt import interruptible
from physscore.kernels.kernel import Kernel
from physscore.noise import seed_key
from physscore.processes import ending_together, on_root, require_same_everywhere, world
from physscore.sampling.engine import whole
from physscore.sampling.sharing import team_of
from physscore.store.evidence import COMPARED, EvidenceWriter
from physscore.workers import portable

Doubt = Callable[[Array], tuple[float, list[Finding]]]
METHODS = ("smc", "ais", "tempering")
_DOUBTFUL = 0.1  # of a line integral of a score


def estimate_log_z(
    target: Score,
    reference: Prior | str | None = None,
    *,
    kernel: Kernel | None = None,
    particles: int = 2000,
    islands: int | None = None,
    schedule: int | Any = None,
    method: str = "smc",
    target_error: float | None = None,
    seed: int = 0,
    workers: int = 1,
    device: str = "cpu",
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_interrupt: Callable[[], None] = lambda: None,
) -> LogZ:
    """Estimate log Z, the log of the integral of exp(-E): a partition function or an evidence.

    Particles are led from a normalised reference to the target along p_beta = p_0^(1 - beta) p_1^beta, and
    back. A pilot measures the way and tunes the kernel; then all is frozen, and islands of particles that
    never meet go it both ways: their scatter is the error.

    Parameters
    ----------
    target
        An energy; of ``prior + likelihood`` log Z is the evidence. A score without an energy has
        E(0) = 0: its energy is found by line integrals. Modes that a random field fixes have no share.
    reference
        A normalised prior to begin with. [default: the target's own prior; "fitted", or where there is none:
        a normal density fitted to a short run, for fields diagonal in their Fourier modes]
    kernel
        How particles move; its step size and metric are measured at each temperature. ULA is weighted by its
        backward kernel. [default: ``MALA()``; ``AutoMALA(sweep=True)`` where the target's scale varies with
        the place, or particles lag with ``AutoMALA()``; for fields and arrays ``HMC(harmonic=True)``]
    particles
        How many, over all islands.
    islands
        Independent groups of them, at least 4. [default: 64, fewer if particles are few, but 8]
    schedule
        Number of steps, or all temperatures from 0 to 1. [default: three or more for each standard
        deviation of the energy on the way, and more if the ways there and back differ]
    method
        "smc": resample where weights have become uneven. "ais": never (annealed importance sampling).
        "tempering": replica exchange, an independent second opinion.
    target_error
        Go on with more islands until the error is as small as this.
    seed
        A whole number from 0 to 2^64 - 1.
    workers
        Processes among which the islands are shared; those that ``mpiexec`` started share them without
        being asked. The result does not depend on it, but for the rounding of energies in Python that
        comes out differently for other numbers of states at once.
    device
        "cpu", or "gpu" for fields and lattices, whose particles are moved on a card then.
    progress
        Show a progress bar.
    checkpoint
        An HDF5 file for the result; ``name.part`` keeps finished islands until then.
    resume
        Go on with an unfinished file; return what is in a finished one.
    overwrite
        Replace an existing file.
    on_interrupt
        Called when Ctrl-C is noted.

    Returns
    -------
    LogZ

    Raises
    ------
    InputError
        If an argument makes no sense, the target is zero wherever the reference is not, or has no finite
        integral, or energies are not numbers; or if the score has the wrong sign, or is three times too large
        or small, nearly everywhere at first draws.
    """
    if not isinstance(target, Score):
        raise InputError(f"target is a {type(target).__name__}: it must be an Energy or a Score")
    shape_of(target)  # refuses what is none
    energy, doubt = with_energy(target)
    if method not in METHODS:
        raise InputError(f"method is {method!r}: it must be one of {', '.join(METHODS)}")
    particles, seed, workers = whole(16, particles=particles), whole(0, seed=seed), whole(workers=workers)
    seed_key(seed)  # refuses one that is too large
    schedule = checked_schedule(schedule)
    if checked_device(device) == "gpu" and (workers > 1 or method == "tempering"):
        raise InputError(
            f'device is "gpu", where there is one process and the methods "smc" and "ais": workers is '
            f"{workers} and method {method!r}"
        )
    if target_error is not None:
        number = isinstance(target_error, int | float | np.number) and not isinstance(target_error, bool)
        if not number or not 0 < target_error < math.inf:
            raise InputError(f"target_error is {target_error!r}: it must be a positive number")
        target_error = float(target_error)
    if resume and checkpoint is None:
        raise InputError("resume is True without a checkpoint: give the file to go on with")
    n_islands = islands_of(particles, islands)
    steps = 0 if schedule is None else schedule if isinstance(schedule, int) else len(schedule)
    need = 8 * particles * (2 * energy.dim + (1 if method == "tempering" else 4) * steps)
    require_memory(need, f"keeping {particles} particles, and their weights at {steps} temperatures,", device)
    settings = {
        "target": repr(target), "reference": repr(reference), "kernel": repr(kernel), "particles": particles,
        "islands": n_islands, "schedule": schedule.tolist() if isinstance(schedule, np.ndarray) else schedule,
        "method": method, "target_error": target_error,
    }  # fmt: skip
    writer: EvidenceWriter | None = None
    comm = world()
    require_same_everywhere(comm, (settings, seed))
    if comm is not None and workers > 1:
        raise InputError(
            f"mpiexec started {comm.size} processes: they take the place of workers, which is {workers}"
        )

    def begun() -> LogZ | None:
        nonlocal writer
        if checkpoint is None:
            return None
        writer = EvidenceWriter(
            checkpoint, seed, settings, overwrite=overwrite, resume=resume, target=energy,
            reference=reference if isinstance(reference, Prior) else None,
        )  # fmt: skip
        return writer.result() if writer.finished else None

    if workers > 1:
        portable(energy, energy, workers)  # before a file and a pilot
    if (finished := on_root(comm, begun)) is not None:
        return finished
    with (
        ending_together(comm),
        interruptible(on_interrupt) as stop_if_asked,
        tqdm(disable=not progress or (comm is not None and comm.rank > 0), unit="step") as bar,
        writer or nullcontext(),
        team_of(workers) as team,  # which gets ready during the pilot
    ):

        def look(step: int, **shown: Any) -> None:
            bar.set_postfix(shown, refresh=False)
            bar.update(step)
            if writer is not None:
                writer.flush_if_due()
            stop_if_asked()

        if method == "tempering":
            from physscore.evidence.tempering import estimate_by_tempering

            return estimate_by_tempering(
                energy, reference, kernel, particles=particles, islands=islands, schedule=schedule,
                seed=seed, target_error=target_error, settings=settings, writer=writer, bar=bar,
                look=look, doubt=doubt, team=team,
            )  # fmt: skip
        kept = on_root(comm, lambda: writer.restore() if writer is not None else {})
        bar.set_description("pilot")

        def beginning() -> Excess:
            begin = reference_for(energy, reference, seed, lambda stage: look(1), device)
            return excess_of(begin, energy, device)

        def planned(kernel: Kernel | None, excess: Excess | None = None) -> Job:
            def prepared() -> Job:
                way, n = excess or beginning(), particles // n_islands
                return prepare(way, kernel, n_islands, n, schedule, method, seed, look, device)

            if comm is None:
                return prepared()
            return Job.from_arrays(energy, reference, on_root(comm, lambda: prepared().arrays()), device)

        job = Job.from_arrays(energy, reference, kept, device) if kept else planned(kernel)
        shared, busy = 1 if team is None else team.size, len(job.ranges())
        if busy < shared:
            warnings.warn(
                f"{busy} of {shared} processes have islands to lead: more particles make more units",
                stacklevel=2,
            )
        if writer is not None:
            writer.recognise(job.excess.to_state(job.excess.draw(COMPARED, 0, seed)))

        def save(units: dict[int, Unit]) -> None:
            if writer is not None:
                writer.write({**job.arrays(), **_flat(units)})

        units = _units(kept)
        save(units)
        while True:
            bar.set_description("annealing")
            bar.total = None
            lead(job, units, job.islands if job.narrow else checking(job.islands), team, look, save)
            seen = Seen.of(job, units)
            lags = seen.lags(target_error)
            better = job.better_kernel() if kernel is None and (lags or seen.misses) else None
            if better is not None:
                bar.set_description("pilot")
                job = planned(better, job.excess).after(job, len(seen.back.log_z))
                units = {}
            elif lags and schedule is None and job.may_be_lengthened:
                job.lengthen(len(seen.back.log_z))
                units = {}
            elif seen.uneven and not job.narrow:
                job.narrow = True  # the way there alone is not enough
            elif (
                target_error is not None
                and seen.total.error > target_error
                and not (job.islands >= 1 << 20 or (job.narrow and seen.stuck(target_error)))
            ):
                wanted = 1.05 * job.islands * (seen.total.error / target_error) ** 2
                job.islands = min(_rounded(wanted, n_islands), 8 * job.islands)
            else:
                break
            save(units)
        result = _result(job, units, seen, target, settings, doubt)
        if writer is not None:
            writer.finish(result)
    return result


def with_energy(target: Score) -> tuple[Energy, Doubt | None]:
    """Return a target's energy; where it was learned, or is found by line integrals, with what says how far
    it can be trusted: an error to add, and reasons to doubt."""
    terms = target.terms if isinstance(target, EnergySum | ScoreSum) else ((1.0, target),)
    said = [Finding(reason) for _, term in terms if (reason := getattr(term, "doubt", None))]
    if isinstance(target, Energy):
        return target, (lambda samples: (0.0, said)) if said else None
    bare = IntegratedScore(combine([term for term in terms if not isinstance(term[1], Energy)]))
    energy = combine([(1.0, bare), *(term for term in terms if isinstance(term[1], Energy))])
    assert isinstance(energy, Energy)

    def doubt(samples: Array) -> tuple[float, list[Finding]]:
        quadrature = abs(float(bare.quadrature_error(samples).mean()))
        loops = bare.curl(samples, np.roll(samples, 1, axis=0))
        curl = float(np.sqrt(np.mean(loops**2)))
        found = list(said)
        names = ("line integrals of the score are off by", "integrals of the score around loops are")
        for what, size in zip(names, (quadrature, curl), strict=True):
            if size > _DOUBTFUL:
                found.append(Finding(f"{what} {size:.2g}", size > 10 * _DOUBTFUL))
        return math.hypot(quadrature, curl), found

    return energy, doubt


def islands_of(particles: int, islands: Any) -> int:
    if islands is None:
        return min(int(np.clip(particles // 8, 8, 64)), particles // 2)
    n = whole(4, islands=islands)
    if particles // n < 2:
        raise InputError(f"islands is {n} and particles {particles}: each island needs at least 2 particles")
    return n


def _rounded(wanted: float, by: int) -> int:
    return int(math.ceil(wanted / by) * by)


def _result(
    job: Job, units: dict[int, Unit], seen: Seen, target: Score, settings: dict[str, Any], doubt: Doubt | None
) -> LogZ:
    legs, total = [seen.there, seen.back], seen.total
    length, steps = float(job.plan.knots.length[-1]), len(job.plan.betas) - 1
    findings = look_at(legs, total, seen.gap, seen.gap_error, length, steps) + heavy(seen.tail)
    if job.kernel.step_function != "langevin":
        findings += scattered(seen.there.log_z, job.plan.variance(job.n, resampled=job.threshold > 0))
    else:
        findings += agreeing(seen.estimates["way there"], seen.estimates["way back"])
    ordered = [units[key].y for key in sorted(units)]
    few = np.concatenate([y[:LOOKED_AT] for y in ordered])[:LOOKED_AT]
    findings += follow(legs, job.excess, few)
    findings += job.uneven(few)
    samples = _states(job, ordered)
    error = total.error
    findings += beyond_bounds(job.excess, samples, error)
    if doubt is not None:
        more, reasons = doubt(samples)
        error = math.hypot(error, more)
        findings += reasons
    aim = settings["target_error"]
    if aim is not None and error > aim:
        findings.append(
            Finding(f"the error is above target_error, {aim:g}: {steps} temperatures are too few")
        )
    verdict, words = verdict_of(findings)
    between = seen.there.log_z - np.logaddexp.reduce(seen.there.log_z)
    log_weights = np.repeat(between[:, np.newaxis], job.n, axis=1) - math.log(job.n)
    return LogZ(
        total.value, error, verdict, words, seen.name,
        {name: (one.value, one.error) for name, one in seen.estimates.items()},
        seen.there_alone.value, seen.there_alone.value + seen.gap, seen.gap_error,
        job.plan.knots.barrier, job.plan.betas, seen.rungs,
        np.mean([leg.ess.mean(axis=1) for leg in legs], axis=0),
        np.mean([leg.acceptance.mean(axis=1) for leg in legs], axis=0),
        {"forward": seen.there.work, "reverse": -seen.back.work}, log_weights, total.value + total.influence,
        samples, job.evaluations(len(seen.back.log_z)), repr(job.kernel), repr(job.excess.reference),
        repr(target), settings["method"], job.seed, settings,
    )  # fmt: skip


def _states(job: Job, units: list[Array]) -> Array:
    """Return the states of all particles; unit by unit, as together they may take much memory."""
    first = job.excess.to_state(units[0])
    states = np.empty((sum(map(len, units)), *first.shape[1:]), first.dtype)
    states[: len(first)], end = first, len(first)
    for y in units[1:]:
        states[end : end + len(y)] = job.excess.to_state(y)
        end += len(y)
    return states


def _flat(units: dict[int, Unit]) -> dict[str, Array]:
    return {f"units/{key:06d}/{name}": a for key, unit in units.items() for name, a in unit.arrays().items()}


def _units(kept: dict[str, Any]) -> dict[int, Unit]:
    found: dict[int, dict[str, Array]] = {}
    for name, array in kept.items():
        if name.startswith("units/"):
            _, key, rest = name.split("/", 2)
            found.setdefault(int(key), {})[rest] = array
    return {key: Unit.from_arrays(arrays) for key, arrays in found.items()}
