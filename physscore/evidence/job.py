"""The work behind an estimate: a frozen plan, and units of islands that can be run anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from physscore.arrays import namespace, to_host
from physscore.core import Array, Energy, InputError, Prior
from physscore.energies.coordinates import prior_and_likelihood
from physscore.energies.fourier_gaussian import FourierGaussian
from physscore.energies.gaussian import Gaussian
from physscore.energies.johnson import JohnsonSU
from physscore.evidence.annealed import Leg, Particles, run_leg
from physscore.evidence.control import particles_that_fit
from physscore.evidence.excess import Excess, excess_of
from physscore.evidence.pilot import check_start, explore
from physscore.evidence.plan import Knots, Plan, checked_schedule, equal_steps
from physscore.evidence.varying_scale import uneven
from physscore.evidence.verdict import Finding
from physscore.kernels.hamiltonian import HMC
from physscore.kernels.kernel import Kernel
from physscore.kernels.langevin import MALA, AutoMALA
from physscore.kernels.loops import FUSED_UP_TO
from physscore.sampling.engine import grid_of

Look = Callable[..., None]
_STEPS_PER_SPREAD = 2.5  # temperatures for a standard deviation of the energy on the way
_MORE_IF_UNEVEN = 6.0  # times as many where single coordinates move in turn
_LEAST_STEPS = 7
_LENGTHENED_AT_MOST = 4, 2  # times; the latter where single coordinates move in turn
_UNEVEN_WEIGHTS = 0.8  # effective share of the particles below which an island is resampled
_WORTH_SHARING = 2e8  # components of gradients: units of jobs are of so many at least,
_AT_ONCE = 1 << 26  # and their particles have so many components at most
_IN_PYTHON = 1e5  # of these a gradient in Python counts as, at least
_DENSE_UP_TO = 32
_SWEPT_UP_TO = 16  # dimensions, each of which a sweep takes gradients for
_CORRELATED = 2.0  # ratio of the eigenvalues
# Powers of 2, of which a normal density makes up to 0.6, and shells and egg boxes up to 1.15.
_VARIED, _WIDELY = 0.64, 1.2
_BACK = 1 << 31  # where the steps of ways back are counted from
# Make seeds of random numbers that are not the islands': the pilot's, and of the reference on the way back.
_PILOT, _ANEW = 0x5DEECE66D, 0xBF58476D1CE4E5B9


def quiet(*args: Any, **kwargs: Any) -> None:
    """Say nothing of how a job goes on."""


@dataclass
class Unit:
    """What some islands saw on the way there, and where they were then; and some of them on the way back."""

    there: Leg
    y: Array
    back: Leg | None = None

    def arrays(self) -> dict[str, Array]:
        """Return all as named arrays, for a file."""
        found = {f"there/{name}": array for name, array in self.there.arrays().items()} | {"y": self.y}
        if self.back is not None:
            found |= {f"back/{name}": array for name, array in self.back.arrays().items()}
        return found

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Unit:
        """Return what :meth:`arrays` gave."""
        legs: dict[str, dict[str, Array]] = {"there": {}, "back": {}}
        for name, array in arrays.items():
            if "/" in name:
                leg, rest = name.split("/")
                legs[leg][rest] = array
        back = Leg.from_arrays(legs["back"]) if legs["back"] else None
        return cls(Leg.from_arrays(legs["there"]), arrays["y"], back)


@dataclass
class Job:
    """All that the islands need, and nothing that depends on where they run.

    Attributes
    ----------
    excess, kernel, plan
        What the particles move in, how, and the frozen schedule.
    islands, batch, n : int
        How many, how many a batch, and the particles of each.
    narrow : bool
        Whether islands differ so much in Z that both ways are needed by all.
    threshold : float
        Effective share of the particles below which an island is resampled.
    lengthened, spent : int
        How often it began anew, and the gradients that took.
    """

    excess: Excess
    kernel: Kernel
    plan: Plan
    islands: int
    batch: int
    n: int
    threshold: float
    seed: int
    narrow: bool = False
    lengthened: int = 0
    spent: int = 0
    device: str = "cpu"

    @property
    def islands_at_once(self) -> int:
        """The islands of a unit, at most: in few of them control variates would be worth little."""
        particles = self.n * self.batch
        by_cost = self.plan.evaluations * 2.0 * particles * self._cost / _WORTH_SHARING
        by_fit = particles / (2 * particles_that_fit(self.excess.groups is not None))
        by_memory = particles * self.excess.dim / _AT_ONCE
        units = int(np.clip(max(min(by_cost, by_fit), by_memory), 1, max(1, self.batch // 4)))
        size = self.batch // units  # or less, if units of one size are then as long
        alike = max(n for n in range(1, size + 1) if self.batch % n == 0)
        return alike if 2 * alike > size else -(-self.batch // units)

    @property
    def _cost(self) -> float:
        """Components of gradients that one gradient counts as: a function in Python may be slow."""
        ours = self.excess.point is not None or self.excess.one_by_one
        return self.excess.dim if ours else max(self.excess.dim, _IN_PYTHON)

    def ranges(self) -> list[tuple[int, int]]:
        """Return the first island of each unit, and how many it has: each batch is cut alike."""
        size = self.islands_at_once
        return [
            (start + first, min(size, self.batch - first))
            for start in range(0, self.islands, self.batch)
            for first in range(0, self.batch, size)
        ]

    def there(self, first: int, islands: int, look: Look = quiet) -> Unit:
        """Lead islands first, first + 1, ... to the target."""
        y = self.excess.draw(self.n * islands, first * self.n, self.seed, self.device)
        particles = self._particles(y, first, 0)
        check_start(particles.u)
        leg = run_leg(
            particles, self.plan, islands, back=False, threshold=self.threshold, progress=self._show(look)
        )
        return Unit(leg, to_host(particles.y))

    def back(self, first: int, islands: int, unit: Unit, look: Look = quiet) -> Leg:
        """Lead the first islands of a unit back to the reference."""
        y = namespace(self.device).array(unit.y[: islands * self.n])
        particles = self._particles(y, first, _BACK)

        def anew() -> Particles:
            y = self.excess.draw(self.n * islands, first * self.n, self.seed ^ _ANEW, self.device)
            return self._particles(y, first, _BACK)

        return run_leg(
            particles, self.plan, islands, back=True, threshold=self.threshold,
            start=unit.there.log_z[:islands], anew=anew, progress=self._show(look),
        )  # fmt: skip

    def _particles(self, y: Array, first: int, step: int) -> Particles:
        # Another schedule is another use of the random numbers, whose steps are counted in 32 bits.
        step += self.lengthened << 26
        return Particles(
            self.excess, self.kernel, y, seed=self.seed, first=first * self.n, step=step, dense=self.dense
        )

    def _show(self, look: Look) -> Callable[[int, float], None]:
        return lambda k, ess: look(1, beta=f"{self.plan.betas[k]:.3g}", ESS=f"{ess:.0%}")

    @property
    def dense(self) -> bool:
        """Whether the coordinates have matrices for scales."""
        return self.plan.knots.scales.ndim == 3

    def better_kernel(self) -> Kernel | None:
        """Return what to move with where particles lag: steps that follow the scale of the target help more
        than temperatures do."""
        trajectories = isinstance(self.kernel, HMC) and looked_for_unevenness(self.excess)
        if trajectories or isinstance(self.kernel, MALA):
            return AutoMALA()
        wanted = isinstance(self.kernel, AutoMALA) and not self.kernel.sweep
        return AutoMALA(sweep=True) if wanted and self.excess.dim <= _SWEPT_UP_TO else None

    @property
    def may_be_lengthened(self) -> bool:
        """Whether twice as many temperatures may be tried: single coordinates that move in turn have many."""
        return self.lengthened < _LENGTHENED_AT_MOST[getattr(self.kernel, "sweep", False)]

    def lengthen(self, returned: int) -> None:
        """Take twice as many temperatures, with as many islands as in the beginning."""
        self.spent += self._on_the_ways(returned)
        self.lengthened += 1
        self.islands = self.batch
        steps = 2 * (len(self.plan.betas) - 1)
        self.plan = Plan(self.kernel, self.plan.knots, equal_steps(self.plan.knots, steps))

    def after(self, other: Job, returned: int) -> Job:
        """Return this job as one that takes the place of another."""
        self.lengthened, self.spent = other.lengthened + 1, other.evaluations(returned)
        return self

    def evaluations(self, returned: int) -> int:
        """Gradients that were taken, where some islands went back."""
        return self.spent + self.plan.knots.evaluations + self._on_the_ways(returned)

    def _on_the_ways(self, returned: int) -> int:
        return self.n * ((self.islands + returned) * self.plan.evaluations + returned)

    def uneven(self, y: Array) -> list[Finding]:
        """Doubt particles that autoMALA would spread further."""
        if not looked_for_unevenness(self.excess) or getattr(self.kernel, "sweep", False):
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

    def arrays(self) -> dict[str, Any]:
        """Return all but the target as named arrays and numbers, for a file."""
        reference = self.excess.reference
        found: dict[str, Any] = {f"knots/{k}": v for k, v in vars(self.plan.knots).items()}
        found["betas"] = self.plan.betas
        about = {
            name: getattr(self, name)
            for name in ("islands", "batch", "n", "threshold", "seed", "narrow", "lengthened", "spent")
        }
        kernel = {"name": type(self.kernel).__name__, **vars(self.kernel)}
        found["job"] = json.dumps({**about, "kernel": kernel}, default=lambda number: number.item())
        if isinstance(reference, FourierGaussian | Gaussian | JohnsonSU):
            found["reference/mean"] = reference.mean
            wide = reference.variances if isinstance(reference, FourierGaussian) else reference.covariance
            found["reference/covariance"] = wide
        if isinstance(reference, JohnsonSU):
            found["reference/tails"] = reference.tails
        return found

    @classmethod
    def from_arrays(cls, target: Energy, reference: Any, kept: dict[str, Any], device: str) -> Job:
        """Return what :meth:`arrays` gave."""
        from physscore import kernels

        prior, _ = prior_and_likelihood(target)
        if not isinstance(reference, Prior):
            if reference is None and prior is not None:
                reference = prior
            else:
                mean, wide = kept["reference/mean"], kept["reference/covariance"]
                if mean.shape != target.shape:
                    reference = FourierGaussian(grid_of(target), mean, wide)
                elif "reference/tails" in kept:
                    reference = JohnsonSU(mean, wide, kept["reference/tails"])
                else:
                    reference = Gaussian(mean, wide)
        about = json.loads(kept["job"])
        settings = about.pop("kernel")
        kernel = getattr(kernels, settings.pop("name"))(**settings)
        knots = Knots(**{k.split("/")[1]: v for k, v in kept.items() if k.startswith("knots/")})
        knots.evaluations = int(knots.evaluations)
        plan = Plan(kernel, knots, kept["betas"])
        return cls(excess_of(reference, target, device), kernel, plan, **about, device=device)


def checking(islands: int) -> int:
    """Return how many islands also go back where that is a check only."""
    return min(islands, max(8, islands // 4))


def looked_for_unevenness(excess: Excess) -> bool:
    """Return whether it is worth its cost to see if the scale of the target depends on the place."""
    most = _SWEPT_UP_TO if excess.point is None else 4 * _DENSE_UP_TO
    return excess.groups is None and excess.dim <= most


def prepare(
    excess: Excess, kernel: Kernel | None, islands: int, n: int, schedule: Any, method: str, seed: int,
    look: Look, device: str = "cpu",
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
        kernel = MALA() if compiled and excess.groups is None else HMC(harmonic=True)
    _check_kernel(kernel, excess.groups is not None)
    if compiled:
        pilots = 512 if excess.groups is None else int(np.clip(2**15 // excess.dim, 64, 512))
    else:
        pilots = int(np.clip(2**21 // excess.dim, 8, max(32, min(128, islands * n // 4))))
    dense = kernel.metric == "dense" or (
        kernel.metric == "diagonal" and excess.dim <= _DENSE_UP_TO and excess.groups is None
        and not getattr(kernel, "sweep", False)
    )  # fmt: skip

    watched = automatic and looked_for_unevenness(excess)

    def scout(kernel: Kernel, dense: bool) -> tuple[Knots, Particles]:
        return explore(
            excess, kernel, particles=pilots, seed=seed ^ _PILOT, dense=dense, watched=watched,
            device=device, progress=lambda beta: look(1, beta=f"{beta:.3g}"),
        )  # fmt: skip

    knots, scouts = scout(kernel, dense)
    if dense and kernel.metric != "dense" and not _correlated(knots, pilots):
        dense, spent = False, knots.evaluations
        knots, scouts = scout(kernel, dense)
        knots.evaluations += spent
    per_spread = _STEPS_PER_SPREAD
    if watched:
        scale = knots.scales[-1] if not dense else np.sqrt(np.einsum("ij,ij->i", *[knots.scales[-1]] * 2))
        step_size = float(knots.step_sizes[-1])
        # On the way, too, one step size for all may not reach where the target is narrow.
        if knots.variation > _WIDELY or uneven(excess, scouts.y, (knots.means[-1], scale), step_size, seed):
            kernel, dense = AutoMALA(sweep=True), False
        elif method == "tempering" and knots.variation > _VARIED:  # no way back would tell
            kernel = AutoMALA()
        if isinstance(kernel, AutoMALA):
            spent = knots.evaluations
            knots, scouts = scout(kernel, dense)
            knots.evaluations += spent
    if getattr(kernel, "sweep", False):
        per_spread *= _MORE_IF_UNEVEN
    length = float(knots.length[-1])
    if method == "ais":
        per_spread = max(per_spread, length)
    steps = max(_LEAST_STEPS, math.ceil(per_spread * length))
    given = checked_schedule(schedule)
    betas = given if isinstance(given, np.ndarray) else equal_steps(knots, given or steps)
    threshold = _UNEVEN_WEIGHTS if method == "smc" else 0.0
    plan = Plan(kernel, knots, betas)
    return Job(excess, kernel, plan, islands, islands, n, threshold, seed, device=device)


def _correlated(knots: Knots, pilots: int) -> bool:
    """Return whether a dense metric is worth its cost at some temperature: whether the eigenvalues of the
    correlation differ by more than those of as many independent draws would."""
    root = math.sqrt(knots.means.shape[1] / pilots)
    by_chance = ((1 + root) / (1 - root)) ** 2
    for lower in knots.scales[1:]:
        covariance = lower @ lower.T
        std = np.sqrt(np.diag(covariance))
        eigenvalues = np.linalg.eigvalsh(covariance / np.outer(std, std))
        if eigenvalues[-1] > _CORRELATED * by_chance * eigenvalues[0]:
            return True
    return False


def _check_kernel(kernel: Any, field: bool) -> None:
    if not isinstance(kernel, Kernel):
        raise InputError(f"kernel is {kernel!r}: it must be one such as MALA()")
    if kernel.step_size != "auto":
        raise InputError(
            f'step_size is {kernel.step_size!r}: here it must be "auto", as it is tuned at each temperature'
        )
    if kernel.step_function == "splitting":
        raise InputError(
            f"kernel is {kernel!r}, which never rejects and has no weights: use MALA(), HMC() or ULA()"
        )
    metrics = ("diagonal", "dense", "fourier") if field else ("diagonal", "dense")
    if kernel.metric not in (*metrics, type(kernel).metric):
        raise InputError(
            f"metric is {kernel.metric!r}: here it is measured at each temperature, so it must be one of "
            f"{', '.join(metrics)}"
        )
