"""Whether ranks are uniform, exactly: chi-square of a histogram, and the largest deviation of their ECDF.

A right posterior puts the truth at any rank among its draws with equal probability.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError

_Floats = npt.NDArray[np.float64]

_MOST_BINS, _A_BIN = 20, 10
_MOST_POINTS = 50
_MOST_WORK = 3e7  # transitions of the exact law that are summed up


def chi2_of_ranks(ranks: Array, n_ranks: int) -> tuple[float, int, float]:
    """Return chi-square of the histogram of ranks, its degrees of freedom, and the probability of more.

    At most 20 bins, with at least 10 ranks expected in each where there are as many.
    """
    from scipy import stats

    n = len(ranks)
    n_bins = max(2, min(n_ranks, _MOST_BINS, n // _A_BIN))
    edges = np.arange(n_bins + 1) * n_ranks // n_bins
    expected = n * np.diff(edges) / n_ranks
    found = np.histogram(ranks, edges)[0]
    chi2 = float(((found - expected) ** 2 / expected).sum())
    return chi2, n_bins - 1, float(stats.chi2.sf(chi2, n_bins - 1))


class Ecdf(NamedTuple):
    """An empirical distribution function of ranks.

    Attributes
    ----------
    levels, share : arrays (points,)
        The share of ranks below each level, which it should be itself.
    p_value : float
        Probability that it leaves, anywhere, a band as narrow as it just leaves.
    """

    levels: _Floats
    share: _Floats
    p_value: float


def ecdf_of_ranks(ranks: Array, n_ranks: int) -> Ecdf:
    """Test the ECDF of ranks 0 to n_ranks - 1 by its least probable point, with the exact law of that.

    The bands of all points are those of one probability each, and the probability of leaving any of them
    is summed over the paths that stay inside (Säilynoja, Bürkner & Vehtari 2022, arXiv:2103.10522):
    nothing is simulated or asymptotic.
    """
    from scipy import stats

    n = len(ranks)
    places = _points(n, n_ranks)
    levels = places / n_ranks
    counts = np.searchsorted(np.sort(ranks), places)  # ranks below each
    law = stats.binom(n, levels)
    tails = np.minimum(1.0, 2 * np.minimum(law.cdf(counts), law.sf(counts - 1)))
    p_value = 1 - _probability_inside(n, levels, float(tails.min()), including=False)
    return Ecdf(levels, counts / n, float(min(1.0, max(p_value, tails.min()))))


def ecdf_band(n: int, n_ranks: int, level: float = 0.95) -> tuple[_Floats, _Floats, _Floats]:
    """Return levels, and the lower and upper end of a band that the ECDF of n right ranks stays in
    everywhere with probability ``level`` or a little more."""
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}: it must be a probability between 0 and 1")
    levels = _points(n, n_ranks) / n_ranks
    low, high = math.log((1 - level) / len(levels)), math.log(1 - level)
    for _ in range(20):
        middle = (low + high) / 2
        inside = _probability_inside(n, levels, math.exp(middle), including=True) >= level
        low, high = (middle, high) if inside else (low, middle)
    lower, upper = _band(n, levels, math.exp(low), including=True)
    return levels, lower / n, upper / n


def _points(n: int, n_ranks: int) -> npt.NDArray[np.int64]:
    width = min(5 * math.sqrt(n), n + 1.0)
    most = int(min(_MOST_POINTS, max(5.0, _MOST_WORK / width**2)))
    return np.unique(np.linspace(0, n_ranks, min(n_ranks, most + 1) + 1).astype(np.int64)[1:-1])


def _band(n: int, levels: _Floats, tail: float, *, including: bool) -> tuple[Array, Array]:
    """Return the least and the largest counts whose two-sided tail is above ``tail``, or as large."""
    from scipy import stats

    # The counts near the quantiles of each level: the law need not be known at all n + 1.
    first = np.maximum(stats.binom.ppf(tail / 4, n, levels).astype(np.int64) - 2, 0)
    last = np.minimum(stats.binom.isf(tail / 4, n, levels).astype(np.int64) + 2, n)
    counts = first[:, None] + np.arange(int((last - first).max()) + 1)
    p = levels[:, None]
    tails = np.minimum(1.0, 2 * np.minimum(stats.binom.cdf(counts, n, p), stats.binom.sf(counts - 1, n, p)))
    limit = tail * (1 - 1e-9) if including else tail * (1 + 1e-9)
    inside = (tails > limit) & (counts <= n)
    lower = counts[np.arange(len(levels)), inside.argmax(axis=1)]
    upper = lower + inside.sum(axis=1) - 1  # below the lower one where none is inside
    return lower, upper


def _probability_inside(n: int, levels: _Floats, tail: float, *, including: bool) -> float:
    """Return the probability that the counts below all levels stay inside their bands."""
    from scipy.special import gammaln, xlog1py, xlogy

    lower, upper = _band(n, levels, tail, including=including)
    if (lower > upper).any():
        return 0.0
    log_factorial = gammaln(np.arange(n + 2) + 1.0)
    counts, weights, before = np.zeros(1, np.int64), np.ones(1), 0.0
    for i, level in enumerate(levels):
        q = (level - before) / (1 - before)
        following = np.arange(lower[i], upper[i] + 1)
        steps = following[None, :] - counts[:, None]
        left = n - counts[:, None]
        possible = (steps >= 0) & (steps <= left)
        k = np.where(possible, steps, 0)
        log_pmf = log_factorial[left] - log_factorial[k] - log_factorial[left - k]
        log_pmf = log_pmf + xlogy(k, q) + xlog1py(left - k, -q)
        weights = weights @ np.where(possible, np.exp(log_pmf), 0.0)
        counts, before = following, level
    return float(weights.sum())


class Shape(NamedTuple):
    """What ranks say of a posterior, taken to be normal.

    Attributes
    ----------
    shift, shift_error : float
        How far the posterior lies above the truth on average, in units of its own width.
    width, width_error : float
        Its width relative to what it should be.
    """

    shift: float
    shift_error: float
    width: float
    width_error: float

    @property
    def shift_score(self) -> float:
        """The shift in standard deviations from 0."""
        return self.shift / self.shift_error

    @property
    def width_score(self) -> float:
        """The logarithm of the width in standard deviations from 0."""
        return math.log(self.width) * self.width / self.width_error


def shape_of_posterior(ranks: Array, n_ranks: int) -> Shape:
    """Return shift and width of a posterior from the ranks of the truth, those of most likelihood.

    For a normal posterior the truth is at t of its widths from its mean, with t normal of mean -shift and
    standard deviation 1 / width, and its rank is binomial with the probability Phi(t). The errors are
    from the Fisher information.
    """
    from scipy.optimize import minimize
    from scipy.special import ndtr

    edges, law = _law_of_ranks(n_ranks)
    counts = np.bincount(np.asarray(ranks, np.int64), minlength=n_ranks)

    def probabilities(parameters: Array) -> _Floats:
        shift, log_width = parameters
        below = ndtr((edges + shift) * math.exp(min(max(log_width, -5.0), 5.0)))
        return np.asarray(np.maximum(np.diff(below, prepend=0.0, append=1.0) @ law, 1e-300))

    def unlikely(parameters: Array) -> float:
        return -float(counts @ np.log(probabilities(parameters)))

    best = minimize(unlikely, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-4}).x
    steps = 1e-3 * np.eye(2)
    slopes = np.array([probabilities(best + step) - probabilities(best - step) for step in steps]) / 2e-3
    information = len(ranks) * (slopes / probabilities(best)) @ slopes.T
    error = np.sqrt(np.diag(np.linalg.pinv(information)))
    width = math.exp(best[1])
    return Shape(float(best[0]), float(error[0]), width, width * float(error[1]))


@lru_cache(maxsize=4)
def _law_of_ranks(n_ranks: int) -> tuple[_Floats, _Floats]:
    """Return edges of cells of t, and the law of the rank in the middle of each cell."""
    from scipy import stats
    from scipy.special import ndtr

    edges = np.linspace(-6, 6, 201)
    middle = np.concatenate([[edges[0]], (edges[1:] + edges[:-1]) / 2, [edges[-1]]])
    return edges, stats.binom.pmf(np.arange(n_ranks), n_ranks - 1, ndtr(middle)[:, None])
