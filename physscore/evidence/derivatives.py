"""Derivatives of log Z along a coupling, with errors that hold where few particles make them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physscore.core import Array
from physscore.evidence.bridge import averaged
from physscore.evidence.coupling import Seen

LOOKS = 4  # at particles at the first coupling, where tails are widest and no rung below tells of them
_SETTLED = 2.0  # times the scatter of the first derivative is what one more particle would make
_NEAR = 1.0  # along the path, in standard deviations of E


@dataclass
class Derivatives:
    """-d log Z / d coupling and d^2 log Z / d coupling^2 on each rung, with what each island adds.

    ``size`` is the mean size of the terms of the second: itself, but where some are negative. ``terms`` are
    those of the first at all particles, of shape (rungs, n), and ``shares`` their weights, with sum 1.
    ``looks`` says how often particles were looked at on each rung, between which they moved.
    """

    slope: Array
    slope_adds: Array
    bend: Array
    bend_adds: Array
    size: Array
    terms: Array
    shares: Array
    looks: Array


def derivatives(seen: Seen) -> Derivatives:
    """Return the derivatives of log Z by the particles of one way, whose first rungs, as many as LOOKS, are
    one."""
    between, within = seen.leg.populations.weights

    def averages(values: Array) -> tuple[Array, Array]:
        return averaged(between, (within * values).sum(axis=2))

    mean, adds = averages(seen.slope)
    terms = (seen.slope - mean[:, np.newaxis, np.newaxis]) ** 2 - seen.bend
    square, more = averages(terms)
    chance = adds.var(axis=1, ddof=1) / adds.shape[1]  # of the mean that was taken off
    size = averages(np.abs(terms))[0]
    shares = between[:, :, np.newaxis] * within / between.shape[1]
    flat = (len(mean), -1)
    looks = np.ones(len(mean))
    looks[0] = LOOKS

    def joined(by_rung: Array) -> Array:
        return np.concatenate([by_rung[:LOOKS].mean(axis=0, keepdims=True), by_rung[LOOKS:]])

    mean, adds, square, more, size = map(joined, (mean, adds, square + chance, more, size))
    last = slice(LOOKS - 1, None)
    return Derivatives(
        mean, adds, square, more, size, seen.slope.reshape(flat)[last], shares.reshape(flat)[last],
        looks[: 1 - LOOKS],
    )  # fmt: skip


def steadied(up: Derivatives, down: Derivatives, length: Array) -> Array:
    """Return what islands add to the second derivative, its scatter made that of all who can tell.

    Terms are skewed: where the rare large ones are missing, a value and its scatter are low together, and it
    would be off by many of its errors. The scatter is a share of the size; the share is averaged over both
    ways and over rungs that are near along the path, where densities are alike, the size over both ways. What
    is larger is kept: it may be so at one end of the path only.
    """
    n, m = up.bend_adds.shape[1], down.bend_adds.shape[1]
    own = up.bend_adds.var(axis=1, ddof=1)
    share = ((n - 1) * _share(up) + (m - 1) * _share(down)) / (n + m - 2)
    near = _nearness(length)
    size = (n * up.size + m * down.size) / (n + m)
    # A rung that is looked at more often is not to have the share of one that is not.
    wanted = np.maximum(own, size**2 * (near @ share) / near.sum(axis=1) / up.looks)
    return up.bend_adds * np.sqrt(_ratio(wanted, own))[:, np.newaxis]


def or_one_more(adds: Array, seen: Derivatives, length: Array, couplings: Array, power: int) -> Array:
    """Return what islands add to the first (``power`` 1) or second (2) derivative, stretched where all have
    settled in one state and rare others may have been missed: to the error of one more particle that is as
    far off as those on rungs nearby. In the second it is squared, and must be far above the scatter of the
    first."""
    n, particles = adds.shape[1], seen.looks * seen.terms.shape[1]
    scatter = np.sqrt(seen.slope_adds.var(axis=1, ddof=1) / n)
    limit = (1.0 if power == 1 else _SETTLED) * scatter
    settled = _one_more(seen, length, couplings, 1) / particles > limit
    least = np.where(settled, _one_more(seen, length, couplings, power) / particles, 0.0) ** 2
    own = adds.var(axis=1, ddof=1) / n
    stretched = adds * np.sqrt(_ratio(np.maximum(own, least), own))[:, np.newaxis]
    still = (own == 0) & (least > 0)  # nothing to stretch
    stretched[still] = np.sqrt((n - 1) * least[still])[:, np.newaxis] * np.where(np.arange(n) % 2, 1, -1)
    return stretched


def _one_more(seen: Derivatives, length: Array, couplings: Array, power: int) -> Array:
    """Return how far off, to a power, one more particle on each rung may be.

    It may be where those on rungs nearby are, but only by their weights exp(-dk dE/dk) on this rung: what
    they expect to be there less than once, counts as much less.
    """
    near, found = _nearness(length), np.zeros(len(length))
    for here, there in zip(*np.nonzero(near), strict=True):
        terms, shares = seen.terms[there], seen.shares[there]
        gain = np.where(shares > 0, (couplings[there] - couplings[here]) * terms, -np.inf)
        weights = shares * np.exp(gain - gain.max())
        off = np.abs(terms - seen.slope[here])
        order = np.argsort(-off)
        beyond = len(terms) * np.cumsum(weights[order]) / weights.sum()  # particles
        worth = np.minimum(beyond, 1.0) * off[order] ** power
        found[here] = max(found[here], near[here, there] * worth.max())
    return found


def _nearness(length: Array) -> Array:
    """Return how near rungs are along the path, where densities are alike: from 1 to 0, from _NEAR on."""
    return np.maximum(0.0, 1.0 - ((length[:, np.newaxis] - length) / _NEAR) ** 2)


def _share(seen: Derivatives) -> Array:
    """Return the variance of the islands over the square of the size."""
    return _ratio(seen.bend_adds.var(axis=1, ddof=1), seen.size**2)


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
