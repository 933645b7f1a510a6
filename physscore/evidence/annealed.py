"""Annealing: islands of particles led from the reference to the target, or back, with weights.

Without resampling this is annealed importance sampling (Neal 2001, arXiv:physics/9803008), with it a
sequential Monte Carlo sampler (Del Moral, Doucet & Jasra 2006). Islands never meet: their estimates are
independent, and each estimate of Z is unbiased.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from physscore import noise
from physscore.arrays import device_of, namespace, on_gpu, row_dots, to_host
from physscore.core import Array, InputError
from physscore.evidence.bridge import Populations, log_mean, normalised
from physscore.evidence.control import Controls, controls, enough_for_cells, halves, of_cells
from physscore.evidence.excess import Excess, FieldExcess
from physscore.evidence.plan import Plan
from physscore.evidence.share import Share
from physscore.evidence.shifts import View, along_axes, smoothed
from physscore.evidence.tempered import Tempered
from physscore.kernels.kernel import Kernel
from physscore.kernels.loops import Loop
from physscore.kernels.metric import Identity
from physscore.kernels.state import Moves, State

_NO_NUMBER = 1e100  # an energy beyond is infinite
_RESAMPLING = 6  # the number of the deviates that resampling uses


class Particles:
    """Particles at one temperature, in the reference's coordinates.

    Attributes
    ----------
    y : array (n, d)
        Where they are: on a card, if they are moved there.
    u, slope : array (n,), array (n, d)
        The target's energy beyond the reference's, in host memory, and its gradient.
    seed, first, step : int
        The place of the next random numbers.
    """

    def __init__(
        self, excess: Excess, kernel: Kernel, y: Array, *, seed: int, first: int = 0, step: int = 0,
        dense: bool = False,
    ) -> None:  # fmt: skip
        self.tempered = Tempered(excess, dense=dense)
        # Langevin proposals that are never rejected are weighted by how they would be accepted.
        self.adjusted = kernel.step_function != "langevin"
        move = kernel.step_function if self.adjusted else "hamiltonian"
        self.loop = Loop(self.tempered, move, device=device_of(y))
        self._at_target = Loop(Tempered(excess), move)  # a new one stands at beta = 1, in y
        self.log_ratio = np.zeros(len(y))
        self.seed, self.first, self.step = seed, first, step
        self.y = y
        self.moved: tuple[Array, Array] | None = None  # where the last moves ended, as kernels see it
        u, slope = self.evaluate(y)
        self.u, self.slope = u, _checked_slope(u, slope)

    def evaluate(self, y: Array) -> tuple[Array, Array]:
        """Return u and its gradient at any ``y``."""
        with np.errstate(over="ignore", invalid="ignore"):
            if self.loop.name != "fused":
                u, slope = self.tempered.excess(y)
                return to_host(u), slope
            energy, score = self._at_target.evaluate(y)
            return energy - 0.5 * row_dots(y, y), -score - y

    def take(self, which: Array) -> None:
        """Keep copies of some."""
        self.moved = None
        self.y, self.u, self.slope = self.y[which], self.u[which], self.slope[which]

    def place(self, beta: float, coordinates: tuple[Array, Array]) -> None:
        """Go to a temperature."""
        self.moved = None
        beside = namespace(device_of(self.y)).asarray
        self.tempered.place(beta, *map(beside, coordinates))

    def gain(self, here: float, there: float) -> Array:
        """Return what their log weights gain on the way from one temperature to another."""
        return np.where(self.u < np.inf, (here - there) * self.u, -np.inf)

    def score(self) -> Array:
        """Return the score of the density at their temperature, over y."""
        return -(self.y + self.tempered.beta * self.slope)

    def virial(self) -> Array:
        """Return -y . score, whose mean is the number of coordinates."""
        squares, along = (to_host(row_dots(self.y, other)) for other in (self.y, self.slope))
        return np.asarray(squares + self.tempered.beta * along)

    def controls(
        self, weights: Array, between: Array, below: float, above: float, directions: int, step: float
    ) -> Controls:
        """Return control variates for the means over islands of what particles add to Bennett's estimate of
        log Z, given weights (islands, n), those between islands, the steps to both neighbours, in how many
        directions particles are shifted for more of them, and the kernel's step."""
        rows = halves(*weights.shape)
        if not rows:
            return Controls(np.zeros(len(weights)), np.zeros(len(weights)))
        tempered = self.tempered
        v, score = self.moved or tempered.leave(self.y, self.slope)[:2]
        all_weights, views, parts, shares = (weights * between[:, np.newaxis]).ravel(), [], [], []
        both = rows[1][1], rows[0][1]
        # What comes in by the means of its own particles is of second order, and among the first islands
        # takes off such a term of Bennett's; of later ones it would stay when that falls.
        for those in (slice(None),) if self.first == 0 else both:
            share = Share(self.u[those], all_weights[those], below, above)
            shares.append((share, float(share(self.u[those])[0].mean())))
        for half, pair, (share, mean) in zip(both, rows, (shares[0], shares[-1]), strict=True):
            parts.append(share(self.u[half]))
            views += [View(part, share, mean) for part in pair]
        added, rate = np.hstack(parts)
        rate = namespace(device_of(v)).asarray(rate)
        slope = tempered.pull(self.slope * rate[:, np.newaxis])
        excess, more, shifted = tempered.excess, None, None
        if isinstance(excess, FieldExcess) and enough_for_cells(*weights.shape):
            more = of_cells(*excess.cells(self.y, score, tempered.mean, tempered.scale))
        here = self.evaluate, self.y, self.u, self.slope, score, tempered, views, step
        if directions == v.shape[1] and not on_gpu(v):
            shifted = along_axes(*here)
        elif directions:
            shifted = smoothed(*here, directions, (self.seed, self.first, self.step))
        return controls(
            v, score, slope, added.reshape(weights.shape), weights, between, excess.groups,
            dense=tempered.dense, more=more,
            shifted=None if shifted is None else list(zip(shifted[::2], shifted[1::2], strict=True)),
        )  # fmt: skip

    def move(self, settings: Moves, n: int) -> Array:
        """Move them by ``n`` steps of a kernel; return the acceptance of each.

        ``log_ratio`` is left with what unadjusted steps add to the log weights.
        """
        tempered = self.tempered
        v, score, squares = tempered.leave(self.y, self.slope)
        energy = 0.5 * squares + tempered.beta * namespace(device_of(squares)).asarray(self.u)
        state = State(v, energy, score, np.zeros_like(v), self.seed, self.step, self.first)
        info = self.loop.advance(state, settings, Identity(), n)
        self.step += n
        self.y, self.slope, squares = tempered.arrive(state.x, state.score)
        self.moved = state.x, state.score
        self.u = to_host((state.energy - 0.5 * squares) / tempered.beta)
        self.exponent = info.exponent
        if self.adjusted:
            return info.acceptance
        ratio = n * info.acceptance
        lost = ~np.isfinite(ratio)
        self.log_ratio = np.where(lost, -np.inf, ratio)
        if lost.any():
            self.u[lost], self.slope[lost], self.y[lost] = 0.0, 0.0, 0.0
            self.moved = None
        return np.asarray(np.exp(np.minimum(np.where(lost, -np.inf, info.acceptance), 0.0)))


def _checked_slope(u: Array, slope: Array) -> Array:
    """Return gradients, zeros where the energy is infinite.

    Raises
    ------
    InputError
        If one is not finite where the energy is: no step would enter there, but all that are there leave.
    """
    bad = ~to_host(namespace(device_of(slope)).isfinite(slope).all(axis=1))
    if not bad.any():
        return slope
    wrong = bad & (np.abs(u) < _NO_NUMBER)
    if wrong.any():
        raise InputError(
            f"score is not finite at {wrong.sum()} of {len(u)} states where the energy is: it must be minus "
            "the gradient wherever the target is not zero"
        )
    slope = slope.copy()
    slope[namespace(device_of(slope)).asarray(bad)] = 0.0
    return slope


@dataclass
class Leg:
    """One way of some islands with n particles each, over k + 1 temperatures.

    Attributes
    ----------
    populations : Populations
        At each temperature, after the moves.
    log_z : array (islands,)
        Log of the mean weight: of the target's Z over the reference's, or of the inverse on the way back.
    log_weights : array (islands, n)
        At the end, since the last resampling.
    work : array (islands, n)
        What the particles gathered on the whole way, each with its ancestors.
    resampled : array (islands,)
        How often.
    virial : array (k + 1, islands)
        Weighted mean of -y . score - d, which is zero for draws from the density.
    acceptance, ess : array (k + 1, islands)
        The effective sample size is a share of the particles, before resampling.
    control, fitting : array (k + 1, islands)
        What has mean zero and goes with minus what islands add to log Z; see ``Controls``.
    inside : array (islands,)
        Log of the share of the first particles where the target is not zero.
    """

    populations: Populations
    log_z: Array
    log_weights: Array
    work: Array
    resampled: Array
    virial: Array
    acceptance: Array
    ess: Array
    control: Array
    fitting: Array
    inside: Array

    @property
    def walled(self) -> bool:
        """Whether the target is zero at some of the reference's draws: Stein's identity does not hold."""
        return bool((self.inside < 0).any())

    def arrays(self) -> dict[str, Array]:
        """Return all as named arrays."""
        found = dict(vars(self))
        seen = found.pop("populations")
        return found | {f"populations_{name}": array for name, array in seen.arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> Leg:
        """Return what :meth:`arrays` gave."""
        seen = {k.removeprefix("populations_"): v for k, v in arrays.items() if k.startswith("populations_")}
        rest = {k: v for k, v in arrays.items() if not k.startswith("populations_")}
        return cls(populations=Populations(**seen), **rest)

    @classmethod
    def joined(cls, legs: Sequence[Leg]) -> Leg:
        """Return the legs of all islands as one."""
        parts = [leg.arrays() for leg in legs]
        along = {name: 1 if name.startswith("populations_") or name in _BY_BETA else 0 for name in parts[0]}
        return cls.from_arrays(
            {name: np.concatenate([part[name] for part in parts], axis=axis) for name, axis in along.items()}
        )


_BY_BETA = ("virial", "acceptance", "ess", "control", "fitting")


def run_leg(
    particles: Particles, plan: Plan, islands: int, *, back: bool, threshold: float,
    start: Array | None = None, anew: Callable[[], Particles] | None = None,
    progress: Callable[[int, float], None] = lambda k, ess: None,
) -> Leg:  # fmt: skip
    """Lead particles along the plan, in place; at the end they are resampled to equal weights.

    ``start`` holds the islands' log weights at the beginning: on the way back, their estimates so far.
    ``anew`` returns exact draws from the reference, which are seen at the end of the way back: those that
    come there may not have spread as far, and need not.
    """
    n = len(particles.y) // islands
    n_betas = len(plan.betas)
    shape = (n_betas, islands)
    log_w, log_z, resampled = np.zeros((islands, n)), np.zeros(islands), np.zeros(islands, np.int64)
    work = np.zeros((islands, n))
    seen = Populations(np.zeros((*shape, n)), np.zeros((*shape, n)), np.zeros(shape))
    virial, acceptance, ess = np.zeros(shape), np.ones(shape), np.ones(shape)
    control, fitting = np.zeros(shape), np.zeros(shape)
    uniforms = resampling_uniforms(particles.seed, particles.first // n, islands, n_betas + 1, back=back)
    steps = np.diff(plan.betas, prepend=0.0, append=1.0)
    beta, d = 1.0 if back else 0.0, particles.y.shape[1]
    # Beyond walls there is nothing to come back from: the way begins with the reference inside of them.
    log_w[~np.isfinite(particles.u.reshape(islands, n))] = -np.inf
    if start is not None:
        log_w[~np.isfinite(start)] = -np.inf
    inside = log_mean(log_w)
    work += log_w
    for k in range(n_betas - 1, -1, -1) if back else range(n_betas):
        if plan.betas[k] != beta:
            gain = particles.gain(beta, float(plan.betas[k])).reshape(islands, n)
            log_w += gain
            work += gain
            beta = float(plan.betas[k])
        ess[k] = effective_share(log_w)
        wanted = (ess[k] < threshold) & np.isfinite(log_w).any(axis=1)
        log_z[wanted] += log_mean(log_w[wanted])
        resampled += wanted
        resample(particles, log_w, wanted, uniforms[k], work)
        particles.place(beta, plan.coordinates(k, device_of(particles.y)))
        if k > 0:
            accepted = particles.move(plan.settings(k), int(plan.moves[k]))
            acceptance[k] = accepted.reshape(islands, n).mean(axis=1)
            log_w += particles.log_ratio.reshape(islands, n)
            work += particles.log_ratio.reshape(islands, n)
        if k == 0 and anew is not None:
            particles = anew()
            particles.place(beta, plan.coordinates(k, device_of(particles.y)))
            seen.log_weights[k] = np.where(np.isfinite(particles.u), 0.0, -np.inf).reshape(islands, n)
            seen.log_z[k] = log_mean(seen.log_weights[k])
        else:
            seen.log_weights[k] = log_w
            seen.log_z[k] = log_z + log_mean(log_w) + (0.0 if start is None else start)
        seen.u[k] = particles.u.reshape(islands, n)
        weights = normalised(seen.log_weights[k])
        virial[k] = (weights * (particles.virial() - d).reshape(islands, n)).sum(axis=1)
        if np.isfinite(particles.u).all():
            between = normalised(seen.log_z[k]) * islands
            control[k], fitting[k] = particles.controls(
                weights, between, steps[k], steps[k + 1], plan.directions, plan.settings(k).step
            )
        progress(k, float(ess[k].mean()))
    log_z = log_z + log_mean(log_w)
    final, gathered = log_w.copy(), work.copy()
    uneven = (log_w.max(axis=1) > log_w.min(axis=1)) & np.isfinite(log_w).any(axis=1)
    resample(particles, log_w, uneven, uniforms[-1], work)
    return Leg(seen, log_z, final, gathered, resampled, virial, acceptance, ess, control, fitting, inside)


def effective_share(log_w: Array) -> npt.NDArray[np.float64]:
    """Return the effective sample size over the number, 1 / (n sum w^2), along the last axis."""
    squares = (normalised(log_w) ** 2).sum(axis=-1)
    return np.asarray((squares > 0) / np.maximum(squares * log_w.shape[-1], 1e-300))


def resample(particles: Particles, log_w: Array, wanted: Array, uniforms: Array, work: Array) -> None:
    """Resample the wanted islands to equal weights, in place."""
    islands, n = log_w.shape
    if wanted.any():
        which = np.arange(islands * n).reshape(islands, n)
        which[wanted] = systematic(normalised(log_w[wanted]), uniforms[wanted]) + which[wanted, :1]
        log_w[wanted] = 0.0
        work[:] = work.ravel()[which]
        particles.take(which.ravel())


def systematic(weights: Array, uniforms: Array) -> npt.NDArray[np.int64]:
    """Return which of n particles of each row are kept, and how often, by systematic resampling."""
    rows, n = weights.shape
    points = (np.arange(n) + uniforms[:, np.newaxis]) / n
    row = np.arange(rows)[:, np.newaxis]
    edges = np.minimum(np.cumsum(weights, axis=1), 1.0) + row  # the rows end to end, rising
    found = np.searchsorted(edges.ravel(), (points + row).ravel()).reshape(rows, n) - n * row
    return np.asarray(np.clip(found, 0, n - 1))


def resampling_uniforms(seed: int, first: int, islands: int, n: int, *, back: bool) -> Array:
    """Return a uniform number for each of n occasions and each island, counted from ``first``."""
    draws = noise.normal(islands, n, seed=seed, step=int(back), draw=_RESAMPLING, first=first)
    return np.asarray(ndtr(draws).T)
