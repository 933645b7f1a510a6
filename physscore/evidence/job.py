"""The work behind an estimate: a frozen plan, and units of islands that can be run anywhere."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
from tqdm import tqdm

from physscore.arrays import n_threads
from physscore.core import Array, Energy, InputError, Prior
from physscore.energies.coordinates import prior_and_likelihood
from physscore.energies.fourier_gaussian import FourierGaussian
from physscore.energies.gaussian import Gaussian
from physscore.evidence.annealed import Leg, Particles, run_leg
from physscore.evidence.bridge import Estimate
from physscore.evidence.excess import Excess, excess_of
from physscore.evidence.pilot import check_start, explore, uneven
from physscore.evidence.plan import Knots, Plan, equal_steps
from physscore.evidence.verdict import Finding
from physscore.kernels.hamiltonian import HMC
from physscore.kernels.kernel import Kernel
from physscore.kernels.langevin import MALA, AutoMALA
from physscore.kernels.loops import FUSED_UP_TO
from physscore.kernels.metric import Metric
from physscore.sampling.engine import grid_of

Look = Callable[..., None]
_STEPS_PER_SPREAD = 2.0  # temperatures for a standard deviation of the energy on the way
_MORE_IF_UNEVEN = 8.0  # times as many where single coordinates move in turn
_LEAST_STEPS = 8
_LARGE_JOB = 2e9  # components of gradients: jobs are cut into units of about so many
_DENSE_UP_TO = 32
_CORRELATED = 0.7
_PILOT = 0x5DEECE66D  # makes the pilot's seed: its random numbers are others than the islands'


@dataclass
class Unit:
    """What some islands saw, there and back, and where their particles were at the target."""

    forward: Leg
    back: Leg
    y: Array

    def arrays(self) -> dict[str, Array]:
        """Return all as named arrays, for a file."""
        legs = {"forward": self.forward, "back": self.back}
        return {f"{leg}/{k}": v for leg, one in legs.items() for k, v in one.arrays().items()} | {"y": self.y}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Unit:
        """Return what :meth:`arrays` gave."""
        legs = [
            Leg.from_arrays({k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{leg}/")})
            for leg in ("forward", "back")
        ]
        return cls(*legs, arrays["y"])


@dataclass
class Job:
    """All that the islands need, and nothing that depends on where they run.

    Attributes
    ----------
    excess, kernel, plan
        What the particles move in, how, and the frozen schedule.
    islands, n : int
        How many, and the particles of each.
    threshold : float
        Effective share of the particles below which an island is resampled.
    """

    excess: Excess
    kernel: Kernel
    plan: Plan
    islands: int
    n: int
    threshold: float
    seed: int
    lengthened: int = 0
    there: Estimate = field(default=None, repr=False)  # type: ignore[assignment]
    back: Estimate = field(default=None, repr=False)  # type: ignore[assignment]
    rungs: Array = field(default=None, repr=False)  # type: ignore[assignment]

    @property
    def islands_at_once(self) -> int:
        """The islands of a unit."""
        cost = self.plan.evaluations * 2.0 * self.n * self.islands * self.excess.dim
        units = int(np.clip(cost / _LARGE_JOB, 1, max(1, self._first_islands // 4)))
        return -(-self._first_islands // units)

    def __post_init__(self) -> None:
        self._first_islands = self.islands

    def ranges(self) -> list[tuple[int, int]]:
        """Return the first island of each unit, and how many it has."""
        size = self.islands_at_once
        return [(first, min(size, self.islands - first)) for first in range(0, self.islands, size)]

    def run(self, first: int, islands: int, look: Look = lambda *a, **b: None) -> Unit:
        """Lead some islands to the target and back."""
        n, start = self.n, first * self.n
        y = self.excess.draw(n * islands, start, self.seed)
        # Another schedule is another use of the random numbers, whose steps are counted in 32 bits.
        step = self.lengthened << 26
        particles = Particles(
            self.excess, self.kernel, y, seed=self.seed, first=start, step=step, dense=self.dense
        )
        check_start(particles.u)
        settings = {"islands": islands, "threshold": self.threshold}

        def show(k: int, ess: float) -> None:
            look(1, beta=f"{self.plan.betas[k]:.3g}", ESS=f"{ess:.0%}")

        forward = run_leg(particles, self.plan, **settings, back=False, progress=show)
        at_target = particles.y.copy()
        particles.step = step + (1 << 31)
        back = run_leg(particles, self.plan, **settings, back=True, start=forward.log_z, progress=show)
        return Unit(forward, back, at_target)

    @property
    def dense(self) -> bool:
        """Whether the coordinates have matrices for scales."""
        return self.plan.knots.scales.ndim == 3

    def lengthen(self) -> None:
        """Take twice as many temperatures."""
        self.lengthened += 1
        steps = 2 * (len(self.plan.betas) - 1)
        self.plan = Plan(self.kernel, self.plan.knots, equal_steps(self.plan.knots, steps))

    def expect(self, bar: tqdm[Any], units: dict[int, Unit]) -> None:
        """Set the length of a progress bar."""
        bar.total = bar.n + 2 * len(self.plan.betas) * (len(self.ranges()) - len(units))
        bar.refresh()

    def evaluations(self) -> int:
        """Gradients that were taken."""
        return self.plan.knots.evaluations + 2 * self.n * self.islands * self.plan.evaluations

    def uneven(self, y: Array) -> list[Finding]:
        """Doubt particles that autoMALA would spread further."""
        if not self._compiled or isinstance(self.kernel, AutoMALA) or self.excess.dim > 4 * _DENSE_UP_TO:
            return []
        last = len(self.plan.betas) - 1
        mean, scale = self.plan.coordinates(last)
        if self.dense:
            scale = np.sqrt(np.einsum("ij,ij->i", scale, scale))
        if not uneven(self.excess, y, (mean, scale), float(self.plan.step_sizes[last]), self.seed):
            return []
        return [Finding(
            "the scale of the target depends on the place, and the kernel has not followed it: "
            "use AutoMALA(sweep=True)"
        )]  # fmt: skip

    @property
    def _compiled(self) -> bool:
        return self.excess.point is not None and self.excess.dim <= FUSED_UP_TO

    def arrays(self) -> dict[str, Any]:
        """Return all but the target as named arrays and numbers, for a file."""
        reference = self.excess.reference
        found: dict[str, Any] = {f"knots/{k}": v for k, v in vars(self.plan.knots).items()}
        found["betas"] = self.plan.betas
        about = {
            name: getattr(self, name)
            for name in ("islands", "n", "threshold", "seed", "lengthened", "_first_islands")
        }
        kernel = {"name": type(self.kernel).__name__, **vars(self.kernel)}
        found["job"] = json.dumps({**about, "kernel": kernel})
        if isinstance(reference, FourierGaussian | Gaussian):
            found["reference/mean"] = reference.mean
            wide = reference.variances if isinstance(reference, FourierGaussian) else reference.covariance
            found["reference/covariance"] = wide
        return found

    @classmethod
    def from_arrays(cls, target: Energy, reference: Any, kept: dict[str, Any]) -> Job:
        """Return what :meth:`arrays` gave."""
        from physscore import kernels

        prior, likelihood = prior_and_likelihood(target)
        if not isinstance(reference, Prior):
            if reference is None and prior is not None and likelihood is not None:
                reference = prior
            else:
                mean, wide = kept["reference/mean"], kept["reference/covariance"]
                field = mean.shape != target.shape
                reference = FourierGaussian(grid_of(target), mean, wide) if field else Gaussian(mean, wide)
        about = json.loads(kept["job"])
        settings = about.pop("kernel")
        kernel = getattr(kernels, settings.pop("name"))(**settings)
        first = about.pop("_first_islands")
        knots = Knots(**{k.split("/")[1]: v for k, v in kept.items() if k.startswith("knots/")})
        knots.evaluations = int(knots.evaluations)
        job = cls(excess_of(reference, target), kernel, Plan(kernel, knots, kept["betas"]), **about)
        job._first_islands = first
        return job


def prepare(
    excess: Excess, kernel: Kernel | None, islands: int, n: int, schedule: Any, method: str, seed: int, look: Look
) -> Job:  # fmt: skip
    """Send out the pilot, and freeze what it found.

    Raises
    ------
    InputError
        If the kernel or the schedule do not do.
    """
    compiled = excess.point is not None and excess.dim <= FUSED_UP_TO
    automatic = kernel is None
    if kernel is None:
        kernel = MALA() if compiled else HMC(harmonic=True)
    _check_kernel(kernel)
    pilots = int(np.clip(2**25 // excess.dim, 16, 512 if compiled else max(32, min(128, islands * n // 4))))
    dense = kernel.metric == "dense" or (
        kernel.metric == "diagonal" and excess.dim <= _DENSE_UP_TO and excess.groups is None
        and not getattr(kernel, "sweep", False)
    )  # fmt: skip

    def scout(kernel: Kernel, dense: bool) -> tuple[Knots, Particles]:
        return explore(
            excess, kernel, particles=pilots, seed=seed ^ _PILOT, dense=dense,
            progress=lambda beta: look(1, beta=f"{beta:.3g}"),
        )  # fmt: skip

    knots, scouts = scout(kernel, dense)
    if dense and kernel.metric != "dense" and not _correlated(knots):
        knots.scales = np.sqrt(np.einsum("kij,kij->ki", knots.scales, knots.scales))
        dense = False
    per_spread = _STEPS_PER_SPREAD
    if automatic and compiled and excess.dim <= 4 * _DENSE_UP_TO:
        scale = knots.scales[-1] if not dense else np.sqrt(np.einsum("ij,ij->i", *[knots.scales[-1]] * 2))
        if uneven(excess, scouts.y, (knots.means[-1], scale), float(knots.step_sizes[-1]), seed):
            kernel, spent = AutoMALA(sweep=True), knots.evaluations
            knots, scouts = scout(kernel, False)
            knots.evaluations += spent
    if getattr(kernel, "sweep", False):
        per_spread *= _MORE_IF_UNEVEN
    length = float(knots.length[-1])
    if method == "ais":
        per_spread = max(per_spread, length)
    betas = _betas(schedule, knots, max(_LEAST_STEPS, math.ceil(per_spread * length)))
    threshold = 0.5 if method == "smc" else 0.0
    return Job(excess, kernel, Plan(kernel, knots, betas), islands, n, threshold, seed)


def _correlated(knots: Knots) -> bool:
    """Return whether a dense metric is worth its cost at some temperature."""
    for lower in knots.scales[1:]:
        covariance = lower @ lower.T
        std = np.sqrt(np.diag(covariance))
        if np.abs(covariance / np.outer(std, std) - np.eye(len(std))).max() > _CORRELATED:
            return True
    return False


def _betas(schedule: Any, knots: Knots, n: int) -> Array:
    if schedule is None:
        return equal_steps(knots, n)
    if isinstance(schedule, int | np.integer) and not isinstance(schedule, bool) and schedule >= 1:
        return equal_steps(knots, int(schedule))
    try:
        betas = np.asarray(schedule, np.float64)
    except (TypeError, ValueError):
        betas = np.zeros(0)
    rising = betas.ndim == 1 and len(betas) > 1 and bool((np.diff(betas) > 0).all())
    if not rising or betas[0] != 0 or betas[-1] != 1:
        raise InputError(
            f"schedule is {schedule!r}: it must be a number of temperatures, or these, rising from 0 to 1"
        )
    return betas


def _check_kernel(kernel: Any) -> None:
    if not isinstance(kernel, Kernel):
        raise InputError(f"kernel is {kernel!r}: it must be one such as MALA()")
    if kernel.step_function == "splitting":
        raise InputError(
            f"kernel is {kernel!r}, which never rejects and has no weights: use MALA(), HMC() or ULA()"
        )
    if isinstance(kernel.metric, Metric) and type(kernel.metric) is not Metric:
        raise InputError(
            f"metric is {kernel.metric!r}: it is measured at each temperature, so it must be a word "
            'such as "diagonal"'
        )


def run_units(
    job: Job, units: dict[int, Unit], workers: int, look: Look, save: Callable[[dict[int, Unit]], None]
) -> dict[int, Unit]:
    """Return the units of a job by their first island: those that are done, and all others after running."""
    done = dict(units)
    todo = [(first, n) for first, n in job.ranges() if first not in done]
    if workers == 1 or len(todo) == 1:
        for first, n in todo:
            done[first] = job.run(first, n, look)
            save(done)
        return done
    try:
        sent = pickle.dumps(job)
    except Exception as error:
        raise InputError(
            f"workers is {workers}, but {job.excess.target!r} cannot be sent to other processes ({error}): "
            "define it in a module, or use workers=1"
        ) from error
    shared = max(1, n_threads() // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), _receive, (sent, shared)) as pool:
        waiting: dict[Future[Unit], int] = {pool.submit(_run, *one): one[0] for one in todo}
        try:
            while waiting:
                for future in wait(waiting, 0.2, FIRST_COMPLETED).done:
                    done[waiting.pop(future)] = future.result()
                    save(done)
                    look(2 * len(job.plan.betas))
                look(0)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return done


_job: Job


def _receive(sent: bytes, shared: int) -> None:
    """Begin a worker: Ctrl-C is its parent's business."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["PHYSSCORE_THREADS"] = str(shared)
    _job = pickle.loads(sent)


def _run(first: int, n: int) -> Unit:
    return _job.run(first, n)
