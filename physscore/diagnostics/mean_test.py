"""Whether two sets of vectors have the same mean: Hotelling's test, with the covariance of few units.

The vectors come from independent units: maps, or groups of maps that belong together, such as the slabs of
one simulation. Units may weigh differently, by the number of their maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError
from physscore.diagnostics.permutations import deals

_Floats = npt.NDArray[np.float64]

# Correlations of the entries are used where they are known from so many degrees of freedom an entry; more
# for the law that is the farthest from exact.
_FREEDOM_PER_ENTRY, _FREEDOM_WITH_TWO = 4.0, 8.0
# Directions in which the units hardly scatter, relative to the others, are left out.
_FLAT = 1e-10
# With fewer ways to deal the units, no probability found by dealing is small.
_ENOUGH_DEALS = 20_000


@dataclass(frozen=True, eq=False)
class UnitMeans:
    """Vectors of independent units, each the mean over its maps.

    Parameters
    ----------
    values : array (units, entries)
        The mean vector of each unit.
    weights : array (units,), optional
        How much each counts, such as its number of maps. [default: 1 each]

    Raises
    ------
    InputError
        If there are fewer than 2 units, or values that are not finite.
    """

    values: _Floats
    weights: _Floats | None = None

    def __post_init__(self) -> None:
        values = np.asarray(self.values, np.float64)
        if values.ndim != 2 or len(values) < 2:
            raise InputError(
                f"values has shape {values.shape}: it must be (units, entries) with 2 units or more"
            )
        if not np.isfinite(values).all():
            raise InputError("values holds numbers that are not finite: a mean cannot be tested with them")
        weights = np.ones(len(values)) if self.weights is None else np.asarray(self.weights, np.float64)
        if weights.shape != (len(values),) or not (weights > 0).all():
            raise InputError(f"weights has shape {weights.shape}: it must hold one positive number a unit")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "weights", weights)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def weight(self) -> _Floats:
        """The weights; only their ratios count."""
        assert self.weights is not None
        return self.weights

    @property
    def mean(self) -> _Floats:
        """The mean vector over the units."""
        return np.asarray(self._shares @ self.values)

    @property
    def covariance(self) -> _Floats:
        """Covariance of :attr:`mean`: the sum over the units of w^2 (m - mean)(m - mean)^T, with weights w
        that add up to 1, times n / (n - 1) with the number n = 1 / sum of w^2 of units they are worth."""
        scatter = self._shares[:, None] * (self.values - self.mean)
        return np.asarray(scatter.T @ scatter) * (self.freedom + 1) / self.freedom

    @property
    def error(self) -> _Floats:
        """Standard error of each entry of :attr:`mean`."""
        scatter = self._shares[:, None] * (self.values - self.mean)
        return np.asarray(np.sqrt((scatter**2).sum(axis=0) * (self.freedom + 1) / self.freedom))

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the covariance: the number of units they are worth, less 1."""
        return float(1 / (self._shares**2).sum() - 1)

    @property
    def variance(self) -> _Floats:
        """Variance of each entry between units of mean weight."""
        return np.asarray(self.error**2 * (self.freedom + 1))

    def blocks(self, size: int) -> UnitMeans:
        """Return the means of ``size`` neighbours each, or a few more."""
        n = max(2, len(self) // size)
        place = np.arange(len(self)) * n // len(self)
        weights = np.bincount(place, self.weight).astype(np.float64)
        sums = np.zeros((n, self.values.shape[1]))
        np.add.at(sums, place, self.weight[:, None] * self.values)
        return UnitMeans(sums / weights[:, None], weights)

    @property
    def _shares(self) -> _Floats:
        return np.asarray(self.weight / self.weight.sum())


@dataclass(frozen=True)
class MeanTest:
    """Whether two mean vectors agree.

    Attributes
    ----------
    chi2 : float
        Hotelling's T^2 = d^T V^-1 d with the difference d of the means and its estimated covariance V; or,
        where units are few, the sum of d^2 / V over the entries.
    entries : int
        Length of the vectors, without entries that never scatter.
    freedom : float
        Degrees of freedom of V.
    p_value : float
        Probability of so large a difference if the means agree.
    law : str
        Where it comes from: "F", or "dealt" for units dealt out again.
    joint : bool
        Whether the correlations of the entries were used.
    """

    chi2: float
    entries: int
    freedom: float
    p_value: float
    law: str = "F"
    joint: bool = True


def mean_test(
    a: UnitMeans | Array,
    b: UnitMeans | Array,
    *,
    paired: bool = False,
    pooled: bool = False,
    dealt: bool = False,
    resolution: float = 0.0,
    discrete: bool = False,
    permutations: int = 9999,
    seed: int = 0,
) -> MeanTest:
    """Test whether two sets of independent vectors have the same mean.

    T^2 = d^T V^-1 d with the difference d of the means and its covariance V, estimated from the scatter of
    the units. With nu degrees of freedom of V and p entries, T^2 (nu - p + 1) / (nu p) follows the F law
    with p and nu - p + 1 degrees of freedom. For pairs, and for sets with one covariance (``pooled``), that
    is exact for normal vectors (Hotelling 1931); for sets with covariances of their own nu is that of
    Krishnamoorthy & Yu (2004, Statistics & Probability Letters 66, 161), which for one entry is Welch's
    test. The covariance of few units makes T^2 larger than chi^2: that is what Hartlap et al. (2007,
    astro-ph/0608064) correct the mean of, and the F law the whole of.

    Skewed units have another law, above all where one set is much smaller. If units of both sets would follow
    one law but for what is tested, they can be dealt out again (``dealt``), and the probability is (1 + deals
    with T^2 as large) / (1 + permutations): exact whatever their law is, and with covariances of their own
    right for many units even if they are not alike (Chung & Romano 2013, arXiv:1304.5939). With fewer than
    20000 ways to deal them the F law is used.

    A covariance that is hardly known has no power. Where nu is below 4 p (8 p for the F law with covariances
    of their own), correlations are left out: the sum of d^2 / V over the entries is compared with that of
    the deals, or the least probability of an entry is multiplied by their number.

    An entry that does not scatter, and yet differs between the sets, has the probability 0. But counts of few
    units agree by chance (``discrete``): of all deals one makes it so, or two of sets of one size, and of all
    signs of the differences of pairs two. That, times the number of entries, is its probability then.

    Parameters
    ----------
    a, b : UnitMeans or arrays (units, entries)
        The two sets; for pairs unit i of one belongs to unit i of the other.
    paired : bool
        Whether they are pairs. These are neither pooled nor dealt.
    pooled : bool
        Whether the units of both sets have one covariance (divided by the weight of the unit).
    dealt : bool
        Whether to deal the units out again.
    resolution : float
        What rounding does to an entry: means whose standard error is below agree up to ten times this.
    discrete : bool
        Whether units may agree to rounding by chance, as counts do.
    permutations, seed
        How many deals, and their random numbers.

    Raises
    ------
    InputError
        If the vectors differ in length, or paired sets in their units.
    """
    a = a if isinstance(a, UnitMeans) else UnitMeans(a)
    b = b if isinstance(b, UnitMeans) else UnitMeans(b)
    n = a.values.shape[1]
    if b.values.shape[1] != n:
        raise InputError(f"a has {n} entries and b {b.values.shape[1]}: they must be the same")
    sets = [a, b]
    if paired:
        if len(a) != len(b) or not np.allclose(a.weight, b.weight):
            raise InputError(f"a has {len(a)} units and b {len(b)}: pairs need the same units")
        sets, pooled, dealt = [UnitMeans(a.values - b.values, a.weights)], False, False
    difference = a.mean - b.mean
    variance = np.sum([each.error**2 for each in sets], axis=0)
    size = max(float(np.abs(a.mean).max(initial=0.0)), float(np.abs(b.mean).max(initial=0.0)))
    resolution = max(resolution, 1e-13 * size)
    moving = np.sqrt(variance) > resolution
    if (np.abs(difference[~moving]) > 10 * resolution).any():  # without scatter, and yet apart
        chance = min(1.0, n * _of_agreeing_units(len(a), len(b), paired)) if discrete else 0.0
        constant = MeanTest(math.inf, int((~moving).sum()), math.inf, chance, "dealt")
        others = [UnitMeans(each.values[:, moving], each.weights) for each in (a, b)]
        rest = mean_test(
            *others, paired=paired, pooled=pooled, dealt=dealt, resolution=resolution,
            permutations=permutations, seed=seed,
        )  # fmt: skip
        return min(constant, rest, key=lambda test: test.p_value)
    if not moving.any():
        return MeanTest(0.0, 0, math.inf, 1.0)
    sets = [UnitMeans(each.values[:, moving], each.weights) for each in sets]
    difference, variance = difference[moving], variance[moving]
    dealt = dealt and enough_deals(len(a), len(b))
    freedom = np.full(len(variance), len(a) + len(b) - 2.0)
    if not pooled:
        freedom = variance**2 / np.sum([each.error**4 / each.freedom for each in sets], axis=0)
    wanted = _FREEDOM_PER_ENTRY if paired or pooled or dealt else _FREEDOM_WITH_TWO
    joint = bool(len(variance) == 1 or np.median(freedom) >= wanted * len(variance))
    if dealt:
        return _dealt(sets, pooled, joint, float(np.median(freedom)), permutations, seed)
    if joint and not pooled:
        return _from_f_law(sets, difference)
    chi2, p = difference**2 / variance, 1
    if pooled:
        z, weights, first = _together(sets, joint)
        chi2, p = _pooled_statistics(first[np.newaxis], z, weights, joint)[0], z.shape[1] if joint else 1
    p_values = [_f_tail(float(x), p, float(nu)) for x, nu in zip(chi2, freedom, strict=False)]
    p_value = min(1.0, min(p_values) * len(p_values))
    return MeanTest(float(chi2.sum()), len(variance), float(np.median(freedom)), p_value, "F", joint)


def _of_agreeing_units(first: int, second: int, paired: bool) -> float:
    """Return the probability that two sets of units differ whose units are all the same, given the units."""
    if paired:
        return 2.0 ** (1 - first)
    return (1 + (first == second)) / math.comb(first + second, first)


def enough_deals(first: int, second: int) -> bool:
    """Return whether units can be dealt out in ways enough for a small probability to be found."""
    return math.comb(first + second, first) >= _ENOUGH_DEALS


def _whitening(covariance: _Floats) -> _Floats:
    """Return the matrix (rank, entries) that makes the covariance the identity where it is not flat."""
    unit = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / np.outer(unit, unit))
    seen = values > _FLAT * values[-1]
    return np.asarray(vectors[:, seen].T / np.sqrt(values[seen])[:, None] / unit)


def _f_tail(chi2: float, p: int, freedom: float) -> float:
    from scipy import stats

    left = max(freedom - p + 1, 1e-3)
    return float(stats.f.sf(chi2 * left / (freedom * p), p, left))


def _from_f_law(sets: list[UnitMeans], difference: _Floats) -> MeanTest:
    covariances = [each.covariance for each in sets]
    whiten = _whitening(np.sum(covariances, axis=0))
    chi2, p = float(((whiten @ difference) ** 2).sum()), len(whiten)
    shares = [whiten @ each @ whiten.T for each in covariances]
    spread = sum(
        (np.sum(share**2) + np.trace(share) ** 2) / each.freedom
        for share, each in zip(shares, sets, strict=True)
    )
    freedom = float((p + p**2) / spread)  # for pairs that of the one set
    return MeanTest(chi2, p, freedom, _f_tail(chi2, p, freedom))


def _together(sets: list[UnitMeans], joint: bool) -> tuple[_Floats, _Floats, _Floats]:
    """Return all units about their mean, in coordinates in which their scatter is 1 (of each entry by itself
    where correlations are left out), their weights, and 1 for those of the first set."""
    weights = np.concatenate([each.weight for each in sets])
    weights = weights / weights.mean()
    values = np.concatenate([each.values for each in sets])
    centred = values - weights @ values / weights.sum()
    scatter = (weights[:, None] * centred).T @ centred
    scaled = centred @ _whitening(scatter).T if joint else centred / np.sqrt(np.diag(scatter))
    return scaled, weights, (np.arange(len(values)) < len(sets[0])).astype(np.float64)


def _dealt(
    sets: list[UnitMeans], pooled: bool, joint: bool, freedom: float, permutations: int, seed: int
) -> MeanTest:
    z, weights, first = _together(sets, joint)
    one_by_one = _pooled_statistics if pooled else _separate_statistics

    def statistic(chosen: Array) -> _Floats:
        return np.asarray(one_by_one(chosen.astype(np.float64), z, weights, joint).sum(axis=1))

    observed = float(statistic(first[np.newaxis])[0])
    larger = sum(
        int((statistic(chosen) >= observed * (1 - 1e-9)).sum())
        for chosen in deals(len(z), len(sets[0]), permutations, seed)
    )
    p_value = (1 + larger) / (1 + permutations)
    return MeanTest(observed, z.shape[1], freedom, p_value, "dealt", joint)


def _pooled_statistics(chosen: _Floats, z: _Floats, weights: _Floats, joint: bool) -> _Floats:
    """Return T^2 of each way to deal the units (deals, 1), or of each entry by itself (deals, entries), with
    the covariance within both sets.

    The share q of the scatter of all units that lies between the sets says it: T^2 = (n - 2) q / (1 - q).
    """
    share, total = (chosen @ weights)[:, None], weights.sum()
    first = chosen @ (weights[:, None] * z)  # the second sum is its opposite: all z add up to 0
    q = first**2 * total / (share * (total - share))
    if joint:
        q = q.sum(axis=1, keepdims=True)
    return np.asarray((len(z) - 2) * q / np.maximum(1 - q, 1e-300))


def _separate_statistics(chosen: _Floats, z: _Floats, weights: _Floats, joint: bool) -> _Floats:
    """Return what :func:`_pooled_statistics` does, with a covariance of the mean from either set."""
    p = z.shape[1]
    left, right = (z[:, :, None], z[:, None, :]) if joint else (z[:, :, None], z[:, :, None])
    squares = weights[:, None, None] ** 2 * left * right
    difference = np.zeros((len(chosen), p))
    covariance = np.zeros((len(chosen), *squares.shape[1:]))
    for sign, members in ((1, chosen), (-1, 1 - chosen)):
        total, total2 = (members @ weights)[:, None], (members @ weights**2)[:, None]
        mean = members @ (weights[:, None] * z) / total
        moment = members @ (weights[:, None] ** 2 * z)
        across = mean[:, None, :] if joint else mean[:, :, None]
        along = moment[:, None, :] if joint else moment[:, :, None]
        scatter = (members @ squares.reshape(len(z), -1)).reshape(covariance.shape)
        scatter -= moment[:, :, None] * across + mean[:, :, None] * along
        scatter += total2[:, :, None] * mean[:, :, None] * across
        worth = total**2 / total2
        covariance += scatter / (total**2 * (worth - 1) / worth)[:, :, None]
        difference += sign * mean
    if not joint:
        return np.asarray(difference**2 / np.maximum(covariance[:, :, 0], 1e-300))
    covariance += 1e-12 * np.eye(p) * np.trace(covariance, axis1=1, axis2=2)[:, None, None]
    solved = np.linalg.solve(covariance, difference[:, :, None])[:, :, 0]
    return np.asarray((difference * solved).sum(axis=1, keepdims=True))
