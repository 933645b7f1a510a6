"""From the populations of a ladder of temperatures to differences of log Z.

Each rung is bridged by the populations at both of its ends, weighted within islands and between them.
The error of a sum over rungs comes from the islands: by how much the whole sum would change without each
of them (the jackknife), so that what lasts over many rungs counts as it should, and weight as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp, softmax

from physscore.arrays import compiled, parallel
from physscore.core import Array
from physscore.elementary import exp
from physscore.parts import part

_LEAST_TAIL, _ENOUGH = 20, 60  # weights
_BEYOND = 600.0  # log of an exceedance, beyond which all are as good as infinite
HEAVY_TAIL = 0.5  # the shape parameter from which on they have no variance
_ROUGH = 1.0  # standard deviations of the work of a step
_WILD = 2.0  # times the scatter of Bennett's estimate
_GAINED = 15.0  # times smaller is the error of an integral of fourth order with steps of half the length


@dataclass
class Populations:
    """What one leg saw at each temperature.

    Attributes
    ----------
    u : array (k, islands, n)
        Energies beyond the reference's.
    log_weights : array (k, islands, n)
        Of the particles in their island.
    log_z : array (k, islands)
        The island's running estimate of log Z, by which islands are weighted.
    """

    u: Array
    log_weights: Array
    log_z: Array

    def arrays(self) -> dict[str, Array]:
        """Return all as named arrays."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def weights(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The weights of islands (k, islands), with mean 1, and of particles in them, with sum 1.

        Islands are weighted by their estimates of Z, to a power that keeps few of them from ruling.
        """
        alive = np.isfinite(self.log_z)
        many = np.maximum(alive.sum(axis=1, keepdims=True), 1)
        centre = self.log_z.sum(axis=1, keepdims=True, where=alive) / many
        log_z = self.log_z - centre
        variance = (log_z**2).sum(axis=1, keepdims=True, where=alive) / many
        power = 1.0 / np.maximum(1.0, variance)
        return normalised(power * log_z) * log_z.shape[1], normalised(self.log_weights)


def normalised(log_w: Array) -> npt.NDArray[np.float64]:
    """Return weights that sum to 1 along the last axis; zeros where all have vanished."""
    top = log_w.max(axis=-1, keepdims=True)
    weights = np.exp(log_w - np.where(np.isfinite(top), top, 0.0))
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    return np.asarray(weights)


def log_mean(log_w: Array) -> npt.NDArray[np.float64]:
    """Return the log of the mean weight along the last axis."""
    top = log_w.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(log_w - top).mean(axis=-1)) + top[..., 0])


class Estimate:
    """A value, and what each island adds to it.

    Parameters
    ----------
    value : float
    by_rung : array (islands,) or (k, islands)
        What islands add, n times their share, in all or on each rung.
    """

    def __init__(self, value: float, by_rung: Array) -> None:
        self.value, self.by_rung = value, np.atleast_2d(by_rung)

    @cached_property
    def influence(self) -> npt.NDArray[np.float64]:
        """What each island adds in all, of shape (islands,)."""
        return np.asarray(self.by_rung.sum(axis=0))

    @property
    def scatter(self) -> float:
        """Standard error of the mean of what islands add."""
        return float(self.influence.std(ddof=1) / np.sqrt(len(self.influence)))

    @property
    def error(self) -> float:
        """Standard error: the scatter, or that without covariances of rungs further apart than neighbours.

        These cost the scatter much of its certainty, as most of them are none but by chance: so what they
        add is taken, what they take off is not.
        """
        parts = self.by_rung - self.by_rung.mean(axis=1, keepdims=True)
        near = (parts**2).sum() + 2 * (parts[1:] * parts[:-1]).sum()
        n = len(self.influence)
        return max(self.scatter, float(np.sqrt(max(near, 0.0) / (n - 1) / n)))

    def __add__(self, other: Estimate) -> Estimate:
        """Return the sum of two from the same islands; what has one rung goes with the other's first."""
        few, many = sorted((self.by_rung, other.by_rung), key=len)
        return Estimate(self.value + other.value, np.concatenate([many[: len(few)] + few, many[len(few) :]]))

    def with_error(self, error: float) -> Estimate:
        """Return the same with an error that is not below the scatter: islands are stretched."""
        return Estimate(self.value, self.influence * (error / max(self.scatter, 1e-300)))


def without(weights: Array) -> npt.NDArray[np.float64]:
    """Return weights of islands, of mean 1, with which each changes a mean if it is taken out."""
    n = weights.shape[-1]
    return np.asarray(weights / np.maximum(1.0 - weights / n, 1.0 / n))


def averaged(weights: Array, by_island: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return means over islands (k,), and n times what each island adds to them (k, n).

    Uneven weights, of mean 1, make no noise by themselves.
    """
    mean = (weights * by_island).mean(axis=1)
    return mean, without(weights) * (by_island - mean[:, np.newaxis])


@part
def _fermi_means(sign, origin, rise, work, weights, means):
    """Leave for each island the weighted mean of 1 / (1 + exp(sign (work + origin + rise)))."""
    terms = np.empty(work.shape[1])
    for i in range(work.shape[0]):
        for j in range(work.shape[1]):
            terms[j] = weights[i, j] / (1.0 + exp(sign * (work[i, j] + origin + rise)))
        means[i] = terms.sum()


@compiled
def _bridge(below, above, within, between, origins, rises, slopes, low, high, start, stop):
    """Solve Bennett's equation for rungs start to stop; leave the means over each island of both sides.

    Rises are counted from origins near them, as rounding might else be larger than they are.

    The difference of both sides falls as the rise grows: doubling steps bracket its zero, and the false
    position in the Illinois way (Dowell & Jarratt 1971) finds it.
    """
    legs = below.shape[0]
    for rung in range(start, stop):
        origin, rise, last, move = origins[rung], rises[rung], np.inf, 0.25
        left, right, above_zero, below_zero, side = -np.inf, np.inf, 0.0, 0.0, 0
        for _ in range(200):
            excess = 0.0
            for leg in range(legs):
                _fermi_means(1.0, origin, rise, below[leg, rung], within[leg, rung], low[leg, rung])
                _fermi_means(-1.0, origin, rise, above[leg, rung], within[leg, rung + 1], high[leg, rung])
                excess += (between[leg, rung] * low[leg, rung]).sum()
                excess -= (between[leg, rung + 1] * high[leg, rung]).sum()
            if excess == 0.0 or abs(rise - last) < 1e-10 * max(1.0, abs(rise)):
                break
            last = rise
            if excess > 0.0:
                left, above_zero = rise, excess
                below_zero *= 0.5 if side > 0 else 1.0
                side = 1
            else:
                right, below_zero = rise, excess
                above_zero *= 0.5 if side < 0 else 1.0
                side = -1
            if left == -np.inf:
                rise = right - move
                move *= 2.0
            elif right == np.inf:
                rise = left + move
                move *= 2.0
            else:
                rise = (left * below_zero - right * above_zero) / (below_zero - above_zero)
                if not left < rise < right:
                    rise = 0.5 * (left + right)
        rises[rung] = rise
        total = 0.0
        for leg in range(legs):
            for island in range(below.shape[2]):
                for j in range(below.shape[3]):
                    f = 1.0 / (1.0 + exp(below[leg, rung, island, j] + origin + rise))
                    g = 1.0 / (1.0 + exp(-(above[leg, rung, island, j] + origin + rise)))
                    total += between[leg, rung, island] * within[leg, rung, island, j] * f * (1.0 - f)
                    total += between[leg, rung + 1, island] * within[leg, rung + 1, island, j] * g * (1.0 - g)
        slopes[rung] = total / (legs * below.shape[2])


def bridged(
    below: Array, above: Array, between: Array, within: Array
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return how much log Z rises from each rung to the next by Bennett's acceptance ratio (1976), and what
    each island adds to that, of shapes (k,) and (k, islands).

    Parameters
    ----------
    below, above : array (legs, k, islands, n)
        The work of each step, E of the upper end minus E of the lower, at the particles of either end.
    between, within : array (legs, k + 1, islands) and (legs, k + 1, islands, n)
        Their weights; see ``Populations.weights``. The averages of legs are taken together.
    """
    means = [
        np.where(weights > 0, work * weights, 0.0).sum(axis=3).mean(axis=(0, 2))
        for work, weights in ((below, within[:, :-1]), (above, within[:, 1:]))
    ]
    origins = -means[1]  # those above may be infinite
    rises = np.clip(0.5 * (means[1] - means[0]), -1e6, 1e6)
    slopes = np.empty(len(rises))
    low, high = np.empty(below.shape[:3]), np.empty(below.shape[:3])
    parallel(_bridge, len(rises), below, above, within, between, origins, rises, slopes, low, high)
    influence = np.zeros(below.shape[1:3])
    slopes = np.maximum(slopes, 1e-100)  # without any overlap there is none, but a square must be a number
    for sign, share, side in ((1, between[:, :-1], low), (-1, between[:, 1:], high)):
        mean = (share * side).mean(axis=2, keepdims=True)  # of each leg, as its weights have mean 1
        influence += sign * (without(share) * (side - mean)).mean(axis=0) / slopes[:, np.newaxis]
    return origins + rises, influence


def acceptance_ratio(betas: Array, legs: Sequence[Populations]) -> tuple[Estimate, Array]:
    """Return log Z by Bennett's acceptance ratio on every rung, and that of each rung.

    Parameters
    ----------
    betas : array (k,)
        The ladder.
    legs
        What was seen on it, there and back; their averages are taken together.
    """
    steps = np.diff(betas)[:, np.newaxis, np.newaxis]
    u = np.array([np.minimum(leg.u, 1e300) for leg in legs])
    between, within = (np.array(part) for part in zip(*(leg.weights for leg in legs), strict=True))
    rises, influence = bridged(steps * u[:, :-1], steps * u[:, 1:], between, within)
    return Estimate(float(rises.sum()), influence), rises


def one_sided(log_z: Array, sign: float) -> Estimate:
    """Return log of the mean of exp(sign log Z) over the islands, times the sign.

    Few islands seldom meet the tail that rules their variance: that of a log-normal law with the variance
    of log Z is taken where it is larger.
    """
    total = logsumexp(sign * log_z) - np.log(len(log_z))
    influence = sign * (np.exp(sign * log_z - total) - 1.0)
    alive = log_z[np.isfinite(log_z)]
    least = np.expm1(min(float(alive.var(ddof=1)), 50.0)) if len(alive) > 1 else 0.0
    seen = float(influence.var(ddof=1))
    return Estimate(float(sign * total), influence * np.sqrt(max(1.0, least / max(seen, 1e-300))))


def returned(log_z: Array) -> Estimate:
    """Return the same for islands that went back and lost log Z, but for those that were empty."""
    alive = np.isfinite(log_z)
    if not alive.any():
        return Estimate(np.nan, np.full(len(log_z), np.nan))
    found = one_sided(-log_z[alive], -1.0)
    influence = np.zeros(len(log_z))
    influence[alive] = found.influence * (len(log_z) / alive.sum())
    return Estimate(found.value, influence)


def controlled(
    betas: Array,
    legs: Sequence[Populations],
    controls: Sequence[Array],
    fitting: Sequence[Array],
    plain: Estimate,
) -> Estimate:
    """Return what is to be added to Bennett's estimate if control variates (k, islands) are added to the
    ``shares`` of the particles. ``fitting`` (k, islands) is added to the influence of each island.

    On rungs where what they add scatters by more than twice what Bennett's ``plain`` estimate does they can
    only lose, and are left out.
    """
    steps = np.diff(betas, prepend=betas[0], append=betas[-1])
    upper = steps[1:] / np.maximum(steps[1:] + steps[:-1], 1e-300)  # of the step above

    def along(parts: Array) -> Array:
        above = (upper * parts.T).T
        return np.asarray(above[:-1] + (parts - above)[1:])

    found = [averaged(leg.weights[0], c) for leg, c in zip(legs, controls, strict=True)]
    mean, changes = (np.mean(part, axis=0) for part in zip(*found, strict=True))
    added, influence = along(mean), along(changes + np.mean(fitting, axis=0))
    wild = influence.std(axis=1) > _WILD * plain.by_rung.std(axis=1)
    added[wild] = influence[wild] = 0.0
    return Estimate(float(added.sum()), influence)


def tail_index(betas: Array, leg: Populations) -> float:
    """Return the largest shape parameter k of the tails of the weights, and what chance may have taken from
    it, 0.5 / sqrt(m) for m weights. Where these are few, neighbouring rungs are averaged: what is heavy on
    one is so on the next, and chance is not.

    The variance of weights is infinite beyond k = 1/2.
    """
    found = [tail_of(-step * leg.u[rung].ravel()) for rung, step in enumerate(np.diff(betas))]
    shapes = np.array([shape for shape in found if shape is not None])
    if len(shapes) == 0:
        return -np.inf
    together = min(len(shapes), -(-_ENOUGH // tail_size(leg.u[0].size)))
    return float(np.convolve(shapes, np.ones(together) / together, "valid").max())


def tail_size(n: int) -> int:
    """Return how many of the largest of n weights their tail is told from."""
    return max(1, int(min(0.2 * n, 3 * np.sqrt(n))))


def tail_of(log_w: Array) -> float | None:
    """Return k of the largest of some weights (Zhang & Stephens 2009; Vehtari et al. 2024, arXiv:1507.02646,
    appendix J); None if they are too few."""
    n = len(log_w)
    m = tail_size(n)
    log_w = np.sort(np.partition(log_w, n - m - 1)[n - m - 1 :])
    if m < _LEAST_TAIL or not np.isfinite(log_w[-m - 1 :]).all():
        return None
    above = np.minimum(log_w[-m:] - log_w[-m - 1], _BEYOND)
    x = np.expm1(above)  # exceedances, in units of their threshold
    x = x[x > 0]
    m = len(x)
    if m < _LEAST_TAIL or x[-1] < 1e-6:
        return None
    grid = 30 + int(np.sqrt(m))
    root = np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    theta = (1 - root) / (3 * x[int(m / 4 + 0.5) - 1]) + 1 / x[-1]
    k = np.log1p(-theta[:, np.newaxis] * x).mean(axis=1)
    weights = softmax(m * (np.log(-theta / k) - k - 1))
    best = (theta * weights).sum() / weights.sum()
    return float(np.log1p(-best * x).mean() + 0.5 / np.sqrt(m))


def smooth(betas: Array, leg: Populations) -> bool:
    """Return whether the mean of u can be integrated: its weights vary little on any step from either end."""
    finite = np.isfinite(leg.u) & np.isfinite(leg.log_weights)
    spread = np.array(
        [u[seen].std() if seen.any() else np.inf for u, seen in zip(leg.u, finite, strict=True)]
    )
    return bool((np.diff(betas) * np.maximum(spread[1:], spread[:-1]) < _ROUGH).all())


def integrated(betas: Array, legs: Sequence[Populations]) -> Estimate:
    """Return minus the integral of the mean u over beta: thermodynamic integration.

    Between neighbours the cubic is taken that has their means and their slopes, -var u. What that misses is
    part of the error: it falls as the fourth power of the steps, of which there must be two, and so is a
    fifteenth of what pairs of them, taken as one, differ by.
    """
    found = []
    for leg in legs:
        between, within = leg.weights
        u = np.where(within > 0, leg.u, 0.0)
        mean, changes = averaged(between, (within * u).sum(axis=2))
        squares = (within * (u - mean[:, np.newaxis, np.newaxis]) ** 2).sum(axis=2)
        found.append((mean, changes, *averaged(between, squares)))
    mean, changes, variance, others = (np.mean(part, axis=0) for part in zip(*found, strict=True))

    def along(mean: Array, variance: Array, betas: Array = betas) -> Array:
        steps = np.diff(betas)
        rises = -0.5 * steps * (mean[1:] + mean[:-1]).T - steps**2 / 12 * np.diff(variance, axis=0).T
        return np.asarray(rises.T)

    total = Estimate(float(along(mean, variance).sum()), along(changes, others))
    missed, steps = 0.0, len(betas) - 1
    for first in {0, steps % 2}:  # an odd step is left out at either end
        last = first + 2 * (steps // 2)
        fine = along(mean, variance)[first:last].reshape(-1, 2).sum(axis=1)
        coarse = slice(first, last + 1, 2)
        apart = along(mean[coarse], variance[coarse], betas[coarse]) - fine
        missed = max(missed, abs(float(apart.sum())) / _GAINED * steps / (last - first))
    return total.with_error(math.hypot(total.error, missed))


def mean_of(one: Estimate, other: Estimate) -> Estimate:
    """Return the mean of two estimates from the same islands."""
    return Estimate(0.5 * (one.value + other.value), 0.5 * (one.by_rung + other.by_rung))
