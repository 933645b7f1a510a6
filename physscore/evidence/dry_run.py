"""What an estimate of log Z will need, before it starts: its pilot tells."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from physscore.arrays import n_threads
from physscore.core import Score
from physscore.cost import INTERPRETER, Cost
from physscore.evidence.annealed import Particles, run_leg
from physscore.evidence.estimate import islands_of, with_energy
from physscore.evidence.excess import excess_of
from physscore.evidence.job import Job, checking, prepare, quiet
from physscore.evidence.plan import Plan, checked_schedule
from physscore.evidence.reference import reference_for
from physscore.sampling.engine import whole

_COPIES = 8  # arrays of the size of the particles, while these move
_TRIED = 1 << 22  # components of the particles that are tried,
_TEMPERATURES = 6  # and temperatures


def cost_of_log_z(
    target: Score,
    reference: Any = None,
    *,
    kernel: Any = None,
    particles: int = 2000,
    islands: int | None = None,
    schedule: Any = None,
    method: str = "smc",
    seed: int = 0,
    processes: int = 1,
) -> Cost:
    """Return what ``estimate_log_z`` will need, by its pilot and some moves of its particles.

    A ``target_error`` may ask for more islands than it begins with, and so for more time; ways there and back
    that disagree do. Arguments are those of :func:`physscore.estimate_log_z`; ``processes`` share islands.
    """
    energy, _ = with_energy(target)
    count = islands_of(whole(16, particles=particles), islands)
    start = time.perf_counter()
    excess = excess_of(reference_for(energy, reference, seed, lambda stage: None), energy)
    job = prepare(
        excess, kernel, count, particles // count, checked_schedule(schedule), method, seed,
        quiet,
    )  # fmt: skip
    pilot = time.perf_counter() - start
    gradients = job.n * (job.islands + checking(job.islands)) * job.plan.evaluations
    units = len(job.ranges())
    rounds = -(-units // processes) / units
    state = job.n * job.islands * excess.dim * 8
    seen = 4 * 8 * len(job.plan.betas) * job.n * (job.islands + checking(job.islands))  # twice, for a while
    moving = _COPIES * 8 * job.n * min(job.islands_at_once, job.islands) * excess.dim
    return Cost(
        INTERPRETER + moving + 2 * state + seen, 2 * state, 0, 0 if processes == 1 else 2 * state,
        pilot + gradients * _seconds_of_gradient(job) * rounds, min(processes, units), n_threads(),
    )  # fmt: skip


def _seconds_of_gradient(job: Job) -> float:
    """Return the time of a gradient for one particle, with all that goes with it on a shorter way."""
    islands = int(np.clip(_TRIED // (job.n * job.excess.dim), 1, job.islands_at_once))
    y = job.excess.draw(job.n * islands, 0, job.seed)
    some = np.linspace(0, len(job.plan.betas) - 1, min(_TEMPERATURES, len(job.plan.betas))).astype(int)
    plan = Plan(job.kernel, job.plan.knots, job.plan.betas[some])
    took = 0.0
    for _ in range(2):  # the first time everything is compiled
        particles = Particles(job.excess, job.kernel, y.copy(), seed=job.seed, dense=job.dense)
        start = time.perf_counter()
        run_leg(particles, plan, islands, back=False, threshold=job.threshold)
        took = (time.perf_counter() - start) / (len(y) * plan.evaluations)
    return took
