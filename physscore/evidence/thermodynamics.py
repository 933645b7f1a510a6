"""Log Z, free energy, mean energy and heat capacity along a whole coupling axis, out of one run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtr
from tqdm import tqdm

from physscore.core import Array, Energy, InputError, Prior
from physscore.energies.lattice import Lattice, checked_number
from physscore.evidence.bridge import Estimate, bridged
from physscore.evidence.coupling import Family, Seen, explore_couplings, go_along, ladder
from physscore.evidence.curves import Thermodynamics
from physscore.evidence.derivatives import LOOKS, Derivatives, derivatives, or_one_more, steadied
from physscore.evidence.estimate import estimate_log_z
from physscore.evidence.excess import Excess
from physscore.evidence.job import Look, quiet
from physscore.evidence.plan import Plan
from physscore.evidence.reference import reference_for
from physscore.evidence.result import LogZ
from physscore.evidence.sharing import shared_out
from physscore.evidence.verdict import Finding, follow, look_at, score_fits, verdict_of
from physscore.interrupt import interruptible
from physscore.kernels.hamiltonian import HMC
from physscore.kernels.kernel import Kernel
from physscore.kernels.loops import FUSED_UP_TO
from physscore.kernels.team import Team
from physscore.processes import ending_together, on_root, require_same_everywhere, world
from physscore.sampling.engine import whole
from physscore.sampling.sharing import team_of

_DENSE_UP_TO = 32
_PARTS = 8  # of islands of large states
_MOST_LENGTHENINGS = 2
_SUSPECT, _FAILED = 4.5, 9.0  # errors between the ways there and back
_PILOT, _PATH = 0x2545F4914F6CDD1D, 0x9E3779B97F4A7C15  # make seeds: random numbers other than the estimate's


def thermodynamics(
    model: Callable[[float], Energy] | Energy,
    couplings: Any,
    *,
    reference: Prior | str | None = None,
    kernel: Kernel | None = None,
    particles: int = 2000,
    islands: int | None = None,
    log_z_first: float | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: bool = False,
) -> Thermodynamics:
    """Estimate log Z and its first two derivatives along a coupling, with their joint covariance.

    ``estimate_log_z`` brings islands of particles to the first coupling; from there the same islands are led
    through all the others, and back, over rungs that a pilot has set. Differences of log Z come from
    Bennett's acceptance ratio (Bennett 1976, J. Comput. Phys. 22, 245) on every rung, energies and heat
    capacities from mean and variance of dE / d coupling at the particles, the error of all from the scatter
    of the islands, for heat capacities averaged over both ways and rungs that are near. For
    :class:`physscore.Ising`, the energy of the spins expected given the states takes the place of
    dE / d coupling: the same mean, at 16 x 16 with up to half the noise, and of the heat capacity with down
    to a quarter of the variance, least near the critical point where the spins' own noise rules.

    Parameters
    ----------
    model
        A function that returns the energy at a coupling, as ``lambda k: ps.Ising((16, 16), coupling=k)`` or
        ``lambda b: prior + b * likelihood``; or a lattice that has a ``coupling``, which is changed.
    couplings
        At least 2 numbers that rise.
    reference
        What annealing to the first coupling begins with; see :func:`physscore.estimate_log_z`.
    kernel
        How particles move. [default along the couplings: ``HMC(harmonic=True)``]
    particles
        How many, over all islands.
    islands
        Independent groups of them, at least 4. [default: 32 of 32 particles or more, fewer if there are few]
    log_z_first
        Log Z at the first coupling, where it is known. [default: it is estimated]
    seed
        A whole number from 0 to 2^64 - 1.
    workers
        Processes among which the islands are shared; those that ``mpiexec`` started share them without
        being asked. The result does not depend on it.
    progress
        Show progress bars.

    Returns
    -------
    Thermodynamics

    Raises
    ------
    InputError
        If an argument makes no sense.
    """
    points = _rising(couplings)
    model = _function(model)
    energies = [_checked(model, float(k)) for k in points]
    if len({energy.shape for energy in energies}) > 1:
        shapes = sorted({energy.shape for energy in energies})
        raise InputError(f"model has states of shape {shapes[0]} and {shapes[-1]}: it must keep to one")
    if log_z_first is not None:
        checked_number("log_z_first", log_z_first)
    if getattr(kernel, "step_function", None) == "langevin":
        raise InputError(
            f"kernel is {kernel!r}, which never rejects: means along the couplings would be biased, so use "
            "MALA() or HMC()"
        )
    if islands is None:
        islands = int(np.clip(whole(16, particles=particles) // 32, 4, 32))
    seed = whole(0, seed=seed)
    comm = world()
    require_same_everywhere(comm, (points.tolist(), particles, islands, reference, kernel, seed))
    begin = on_root(comm, lambda: reference_for(energies[0], reference, seed, lambda stage: None))
    first = estimate_log_z(
        energies[0], begin, kernel=kernel, particles=particles, islands=islands, seed=seed, workers=workers,
        progress=progress,
    )  # fmt: skip
    family = Family(model, points, begin)
    kernel = HMC(harmonic=True) if kernel is None else kernel
    hidden = not progress or (comm is not None and comm.rank > 0)
    with (
        ending_together(comm),
        interruptible() as stop_if_asked,
        tqdm(disable=hidden, unit="step") as bar,
        team_of(workers) as team,
    ):

        def look(steps: int = 1, **shown: Any) -> None:
            bar.set_postfix(shown, refresh=False)
            bar.update(steps)
            stop_if_asked()

        return _run(family, kernel, first, log_z_first, seed, team, bar, look)


def _run(
    family: Family, kernel: Kernel, first: LogZ, log_z_first: float | None, seed: int, team: Team | None,
    bar: Any, look: Callable[..., None],
) -> Thermodynamics:  # fmt: skip
    excess = family.excess(0.0)
    y = excess.from_state(first.samples)
    dense = _is_dense(kernel, excess)
    islands = len(first.islands)
    bar.set_description("pilot")
    knots = on_root(world(), lambda: explore_couplings(
        family, kernel, y, seed=seed ^ _PILOT, dense=dense,
        progress=lambda beta: look(coupling=f"{family.at(beta):.4g}"),
    ))  # fmt: skip
    bar.set_description("along the coupling")
    evaluations, n = first.evaluations + knots.evaluations, len(y) // islands
    start, returning = first.log_weights[:, 0], _returning(islands)
    for lengthened in range(_MOST_LENGTHENINGS + 1):
        betas, stops = ladder(family, knots, lengthened)
        plan = Plan(kernel, knots, np.append(np.zeros(LOOKS - 1), betas))
        bar.total = bar.n + 2 * len(plan.betas)
        step = lengthened << 26
        going = _Going(family, plan, dense, seed ^ _PATH)
        there, at = _led(going, y, start, False, step, team, look)
        begun = (start + there.leg.log_z)[:returning]
        back, _ = _led(going, at[: returning * n], begun, True, step + (1 << 31), team, look)
        evaluations += (islands + returning) * n * plan.evaluations
        (rises, influence), (others, doubts) = _rises(there), _rises(back)
        total = Estimate(float(rises.sum()), influence.sum(axis=0))
        gap = float(others.sum()) - total.value
        gap_error = math.hypot(Estimate(0.0, doubts.sum(axis=0)).error, total.error)
        scatter = float(there.leg.populations.log_z[-1].var())
        if abs(gap) <= max(_SUSPECT * gap_error, 0.5 * total.error) and scatter < 1.0:
            break
    known = log_z_first is not None
    begin = float(log_z_first) if log_z_first is not None else first.log_z
    adds = np.zeros(islands) if known else first.islands - first.log_z
    log_z = begin + np.append(0.0, np.cumsum(rises))[stops]
    adds = adds + np.concatenate([np.zeros((1, islands)), np.cumsum(influence, axis=0)])[stops]
    up, down = derivatives(there), derivatives(back)
    length = np.interp(betas, knots.betas, knots.length)
    rungs = np.array([family.at(beta) for beta in betas])
    bend_adds = or_one_more(steadied(up, down, length), up, length, rungs, 2)[stops]
    slope_adds = or_one_more(up.slope_adds, up, length, rungs, 1)[stops]
    slope, bend = up.slope[stops], up.bend[stops]
    squares = family.couplings**2
    influences = {
        "log_z": adds.T, "mean_energy": slope_adds.T, "heat_capacity": (squares[:, np.newaxis] * bend_adds).T
    }  # fmt: skip
    findings = _about_first(first, log_z_first)
    findings += look_at([there.leg, back.leg], total, gap, gap_error, float(knots.length[-1]), len(betas) - 1)
    findings += _hysteresis(up, down, stops, family.couplings)
    findings += follow([there.leg, back.leg], family.excess(1.0), y)
    findings += score_fits(family.excess(0.5), y)
    verdict, reasons = verdict_of(findings)
    return Thermodynamics(
        family.couplings, log_z, slope, squares * bend, family.n_sites, verdict, reasons,
        rungs, first, influences, evaluations,
    )  # fmt: skip


@dataclass
class _Going:
    """What is done to some islands."""

    family: Family
    plan: Plan
    dense: bool
    seed: int

    @property
    def target(self) -> Any:
        """What is named if this cannot be sent to other processes."""
        return self.family.model

    def __call__(self, *task: Any, look: Look = quiet) -> tuple[Seen, Array]:
        first, y, start, back, step = task

        def seen(beta: float, ess: float) -> None:
            look(coupling=f"{self.family.at(beta):.4g}", ESS=f"{ess:.0%}")

        return go_along(
            self.family, self.plan, y, start, back=back, seed=self.seed, step=step, dense=self.dense,
            first=first, look=seen,
        )  # fmt: skip


def _led(
    going: _Going, y: Array, start: Array, back: bool, step: int, team: Team | None,
    look: Callable[..., None],
) -> tuple[Seen, Array]:  # fmt: skip
    """Lead islands along the couplings, each process some of them; they never meet.

    FFTs of several fields round as their number does: islands of these are always cut alike.
    """
    islands, n = len(start), len(y) // len(start)
    parts = min(islands, 1 if team is None else team.size)
    if y.shape[1] > FUSED_UP_TO:
        parts = min(islands, _PARTS)
    cuts = [islands * i // parts for i in range(parts + 1)]
    tasks = [(a, y[a * n : b * n], start[a:b], back, step) for a, b in pairwise(cuts)]
    found = dict(shared_out(going, tasks, team, look, len(going.plan.betas)))
    ordered = [found[i] for i in range(parts)]
    return Seen.joined([seen for seen, _ in ordered]), np.concatenate([at for _, at in ordered])


def _returning(islands: int) -> int:
    """Return how many islands also go back, as a check."""
    return min(islands, max(8, islands // 4))


def _rises(seen: Seen) -> tuple[Array, Array]:
    """Return how much log Z rises from rung to rung, and what each island adds; the first rungs are one."""
    between, within = seen.leg.populations.weights
    rises, adds = bridged(*(part[np.newaxis] for part in (seen.below, seen.above, between, within)))
    return rises[LOOKS - 1 :], adds[LOOKS - 1 :]


def _hysteresis(up: Derivatives, down: Derivatives, stops: Array, couplings: Array) -> list[Finding]:
    """Doubt energies that remember from which side the particles came."""
    (there, adds), (back, more) = ((one.slope[stops], one.slope_adds[stops]) for one in (up, down))
    n = more.shape[1]
    error = np.sqrt(sum(one.var(axis=1, ddof=1) / one.shape[1] for one in (adds, more)))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, np.abs(back - there) / error, 0.0)
    z = -ndtri(np.maximum(stdtr(n - 1, -t), 1e-300))
    worst = int(np.argmax(z))
    limit = _SUSPECT + 0.5 * math.log(len(couplings))
    if not z[worst] > limit:
        return []
    return [Finding(
        f"at coupling {couplings[worst]:.6g} the mean energy is {there[worst]:.6g} on the way up and "
        f"{back[worst]:.6g} on the way back, {t[worst]:.1f} errors apart: the particles lag, so give it "
        "couplings that are closer, or a kernel that moves more", bool(z[worst] > _FAILED),
    )]  # fmt: skip


def _about_first(first: LogZ, known: float | None) -> list[Finding]:
    """Doubt what is doubtful at the first coupling, or not what it was said to be."""
    found = [
        Finding(f"at the first coupling {reason}", first.verdict == "failed") for reason in first.reasons
    ]
    if known is not None and abs(first.log_z - known) > _SUSPECT * max(first.error, 1e-9):
        found.append(Finding(
            f"log_z_first is {known:.6g}, but estimated at the first coupling is {first.log_z:.6g} +- "
            f"{first.error:.2g}", abs(first.log_z - known) > _FAILED * first.error,
        ))  # fmt: skip
    return found


def _is_dense(kernel: Kernel, excess: Excess) -> bool:
    """Return whether local coordinates have matrices for scales: where dimensions are few."""
    few = excess.dim <= _DENSE_UP_TO and excess.groups is None and not getattr(kernel, "sweep", False)
    return kernel.metric == "dense" or (kernel.metric == "diagonal" and few)


def _rising(couplings: Any) -> npt.NDArray[np.float64]:
    try:
        points = np.asarray(couplings, np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 1 or len(points) < 2 or not np.isfinite(points).all() or (np.diff(points) <= 0).any():
        raise InputError(f"couplings is {couplings!r}: it must be at least 2 finite numbers that rise")
    return points


def _function(model: Any) -> Callable[[float], Energy]:
    """Return a function of the coupling; of a lattice, one that makes it anew with another."""
    if isinstance(model, Lattice) and getattr(model, "coupling", None) is not None:
        others = {name: getattr(model, name) for name in model._settings if name != "coupling"}
        given = {name: value for name, value in others.items() if value is not None}
        return partial(_lattice, type(model), model.shape, given)
    if isinstance(model, Energy) or not callable(model):
        raise InputError(
            f"model is {model!r}: it must be a function of one coupling that returns an Energy, "
            "or a lattice with a coupling such as Ising"
        )
    return model  # type: ignore[no-any-return]


def _lattice(make: Any, shape: Any, given: dict[str, Any], coupling: float) -> Energy:
    lattice: Energy = make(shape, coupling=coupling, **given)
    return lattice


def _checked(model: Callable[[float], Energy], coupling: float) -> Energy:
    energy = model(coupling)
    if not isinstance(energy, Energy):
        raise InputError(f"model returned {energy!r} at {coupling:.6g}: it must return an Energy")
    return energy
