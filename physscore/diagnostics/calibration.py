"""Do posteriors mean what they say? Ranks, coverage, and intervals of many simulated data sets.

For each simulation there is the true parameter, drawn from the prior, and the posterior of its data: draws
or an interval. A right posterior puts the truth anywhere among its draws with equal probability, and an
interval of 90% around it nine times in ten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import real_numbers
from physscore.core import Array, InputError
from physscore.diagnostics.chains import effective_sample_size
from physscore.diagnostics.rank_tests import chi2_of_ranks, ecdf_of_ranks, shape_of_posterior
from physscore.noise import normal

_Floats = npt.NDArray[np.float64]

FALSE_ALARMS = 1e-3
_NAMED = 3.3  # standard deviations by which a bias or a width is seen
_RIGHT = "nothing is seen to be wrong"
_MOST_NAMED = 5
_FEWEST = 20
_TIES, _REFERENCES = 22, 23  # keep random numbers apart from those of other uses of a seed
_SIMULATIONS_FOR_ESS = 64


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether posteriors are calibrated.

    Attributes
    ----------
    method : str
    p_value : float
        Probability of so large a deviation for right posteriors, for all parameters and tests together.
    message : str
        What is wrong, in words: biased, too narrow, too wide; or that nothing is.
    details : dict
        The numbers behind it, ready for JSON.
    """

    method: str
    p_value: float
    message: str
    details: dict[str, Any] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether p_value >= 0.001: right posteriors fail once in a thousand times at most."""
        return self.p_value >= FALSE_ALARMS

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {"method": self.method, "passed": self.passed, "p_value": self.p_value,
                "message": self.message, **self.details}  # fmt: skip

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        return f"{verdict}: {self.method}, p = {self.p_value:.3g}: {self.message}"


@dataclass(frozen=True, eq=False)
class RankCalibration(Calibration):
    """A calibration by ranks.

    Attributes
    ----------
    ranks : array (simulations, parameters) of int
        Number of draws below the truth, or nearer to a reference point than it.
    n_ranks : int
        Ranks there are: 0 to the number of draws.
    """

    ranks: npt.NDArray[np.int64] = field(repr=False)
    n_ranks: int

    def ecdf(self, parameter: int = 0) -> tuple[_Floats, _Floats]:
        """Return levels and the share of ranks below each: credibility and coverage for ``tarp``."""
        found = ecdf_of_ranks(self.ranks[:, parameter], self.n_ranks)
        return found.levels, found.share


def simulation_based_calibration(
    truth: Any, draws: Any, *, names: Sequence[str] | None = None, thin: int | str = 1, seed: int = 0
) -> RankCalibration:
    """Test posteriors by the ranks of the truth among their draws (Talts et al. 2018, arXiv:1804.06788).

    The ranks of each parameter are tested for uniformity by chi-square of their histogram and by the
    deviation of their ECDF (Säilynoja et al. 2022, arXiv:2103.10522); the least of the probabilities counts,
    times their number. Ranks cannot see an error that all parameters share in their correlations only, nor
    a posterior that is the prior. Chains must have mixed (``run.mixing``): those that stay where they
    started may look right, if that was near the truth.

    Parameters
    ----------
    truth : array (simulations, *shape)
        Parameters drawn from the prior; at least 20.
    draws : array (simulations, draws, *shape)
        Independent draws from the posterior of data simulated with them.
    names
        Of the parameters, for the message.
    thin : int or "auto"
        Keep each so-manieth draw only: draws of a chain are not independent and would look like posteriors
        that are too narrow. "auto" keeps as many as their effective sample size.
    seed
        For the ranks of truths that are equal to draws.

    Raises
    ------
    InputError
        If the shapes do not fit, there are fewer than 20 simulations, or values are not finite.
    """
    true, drawn = _checked(truth, draws)
    stride = _stride(thin, drawn)
    drawn = drawn[:, stride - 1 :: stride]
    ranks = _ranks(true[:, None, :], drawn, seed)
    n_ranks = drawn.shape[1] + 1
    labels = _names(names, true.shape[1])
    p_values = np.array(
        [[chi2_of_ranks(one, n_ranks)[2], ecdf_of_ranks(one, n_ranks).p_value] for one in ranks.T]
    )
    p_value = min(1.0, float(p_values.min()) * p_values.size)
    worst = np.argsort(p_values.min(axis=1), kind="stable")
    wrong = [i for i in worst if p_values[i].min() * p_values.size < FALSE_ALARMS]
    message = "; ".join(
        (f"{labels[i]}: " if len(labels) > 1 else "")
        + (_in_words(ranks[:, i], n_ranks) or "the shape of the posterior is wrong")
        for i in wrong[:_MOST_NAMED]
    )
    if len(wrong) > _MOST_NAMED:
        message += f"; and {len(wrong) - _MOST_NAMED} more parameters"
    shapes = [shape_of_posterior(one, n_ranks)._asdict() for one in ranks.T]
    details = {
        "simulations": len(true),
        "draws": n_ranks - 1,
        "thinned_by": stride,
        "parameters": {
            label: {"p_chi2": float(p[0]), "p_ecdf": float(p[1]), **shape}
            for label, p, shape in zip(labels, p_values, shapes, strict=True)
        },
    }
    return RankCalibration(
        "simulation-based calibration", p_value, message or _RIGHT, details, ranks=ranks, n_ranks=n_ranks
    )


def tarp(
    truth: Any, draws: Any, *, references: Any = None, names: Sequence[str] | None = None, seed: int = 0
) -> RankCalibration:
    """Test the coverage of posteriors in all parameters at once (Lemos et al. 2023, arXiv:2302.03026).

    A ball around a random reference point that reaches to the truth holds a share of the posterior; for a
    right posterior that share is uniform, so that its ECDF is the expected coverage at each credibility.
    The deviation of the ECDF is tested exactly. Balls see correlations that ``simulation_based_calibration``
    cannot, around random points the strong ones only: if one of 0.9 is left out, 300 simulations show it in
    half of all cases and 2000 in all, one of 0.5 they show in one of ten. Around ``references`` that go with
    the data, as its estimate plus a constant, 300 show both. A posterior that is the prior passes unless the
    references depend on the data.

    Parameters
    ----------
    truth : array (simulations, *shape)
        Parameters drawn from the prior; at least 20.
    draws : array (simulations, draws, *shape)
        Independent draws from the posterior of data simulated with them.
    references : array (simulations, *shape), optional
        Points that may depend on the data but not on the truth. [default: uniform over the range of the
        draws of all simulations, in each parameter]
    names
        Of the parameters, for the message.
    seed
        For the references, and for ranks of equal distances.

    Raises
    ------
    InputError
        As in :func:`simulation_based_calibration`.
    """
    from scipy.special import ndtr

    true, drawn = _checked(truth, draws)
    n, dim = true.shape
    if references is None:
        # Of the draws, not of the truths: these would lie inside their own range more often than draws do.
        low, high = np.quantile(drawn, [0.005, 0.995], axis=(0, 1))
        points = low + (high - low) * ndtr(normal(n, dim, seed=seed, draw=_REFERENCES))
    else:
        points = np.asarray(references, np.float64)
        if points.shape != np.shape(truth) or not np.isfinite(points).all():
            raise InputError(
                f"references has shape {np.shape(references)}: it must be that of the truth, finite"
            )
        points = points.reshape(true.shape)
    scale = true.std(axis=0)
    scale[scale == 0] = 1.0
    to_truth = np.sqrt((((true - points) / scale) ** 2).sum(axis=1))
    to_draws = np.sqrt((((drawn - points[:, None]) / scale) ** 2).sum(axis=2))
    ranks = _ranks(to_truth[:, None, None], to_draws[:, :, None], seed)
    n_ranks = drawn.shape[1] + 1
    found = ecdf_of_ranks(ranks[:, 0], n_ranks)
    message = _RIGHT
    if found.p_value < FALSE_ALARMS:
        message = _parameters_in_words(_ranks(true[:, None, :], drawn, seed), n_ranks, _names(names, dim))
    details = {
        "simulations": n,
        "draws": n_ranks - 1,
        "credibility": found.levels.tolist(),
        "coverage": found.share.tolist(),
    }
    return RankCalibration("TARP coverage", found.p_value, message, details, ranks=ranks, n_ranks=n_ranks)


def central_coverage(
    truth: Any,
    draws: Any,
    *,
    levels: Sequence[float] = (0.5, 0.68, 0.9),
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Calibration:
    """Count how often the truth is inside the central intervals of the posterior's draws.

    The intervals reach from one draw to another, as near to the given levels as the draws allow; their
    true level is known exactly. Parameters as in :func:`simulation_based_calibration`.
    """
    true, drawn = _checked(truth, draws)
    n_ranks = drawn.shape[1] + 1
    ranks = _ranks(true[:, None, :], drawn, seed)
    labels = _names(names, true.shape[1])
    cases = []
    if len(levels) == 0:
        raise InputError("levels is empty: give the probabilities of some intervals")
    for level in levels:
        if not 0 < level < 1:
            raise InputError(f"levels holds {level!r}: it must hold probabilities between 0 and 1")
        cut = max(1, min(round((1 - level) / 2 * n_ranks), (n_ranks - 1) // 2))
        exact = 1 - 2 * cut / n_ranks
        for i, label in enumerate(labels):
            below, above = int((ranks[:, i] < cut).sum()), int((ranks[:, i] >= n_ranks - cut).sum())
            cases.append(_Counted(label if len(labels) > 1 else "", exact, len(true), below, above))
    return _judged(cases)


def interval_coverage(truth: Any, lower: Any, upper: Any, *, level: float = 0.68) -> Calibration:
    """Count how often intervals hold the truth, against the binomial law.

    Parameters
    ----------
    truth, lower, upper : arrays (simulations,)
        True values and the ends of their intervals; at least 20.
    level
        Probability with which an interval should hold the truth, with as much left out on either side.

    Raises
    ------
    InputError
        If the shapes differ, an interval is empty, or the level is no probability.
    """
    true, low, high = (
        real_numbers(values, name) for values, name in ((truth, "truth"), (lower, "lower"), (upper, "upper"))
    )
    if true.ndim != 1 or true.shape != low.shape or true.shape != high.shape or len(true) < _FEWEST:
        raise InputError(f"truth, lower and upper have shapes {true.shape}, {low.shape} and {high.shape}: "
                         f"they must be alike, ({_FEWEST} or more,)")  # fmt: skip
    if not np.isfinite(true).all():
        raise InputError(f"truth holds {true[~np.isfinite(true)][0]}: it must be finite")
    if not (low <= high).all():
        raise InputError(f"lower is above upper in {int((~(low <= high)).sum())} intervals: each must be one")
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}: it must be a probability between 0 and 1")
    below, above = int((true < low).sum()), int((true > high).sum())
    return _judged([_Counted("", level, len(true), below, above)])


@dataclass(frozen=True)
class _Counted:
    """Truths that fall below and above the intervals of one level."""

    label: str
    level: float
    n: int
    below: int
    above: int


def _judged(cases: list[_Counted]) -> Calibration:
    from scipy import stats

    rows, p_values, words = [], [], []
    for case in cases:
        outside = case.below + case.above
        inside = case.n - outside
        p_count = float(stats.binomtest(inside, case.n, case.level).pvalue)
        p_side = float(stats.binomtest(case.below, outside, 0.5).pvalue) if outside else 1.0
        p_values += [p_count, p_side]
        low, high = stats.binom.interval(1 - FALSE_ALARMS / (2 * len(cases)), case.n, case.level)
        rows.append({"parameter": case.label, "level": case.level, "coverage": inside / case.n,
                     "expected_from": float(low) / case.n, "expected_to": float(high) / case.n,
                     "below": case.below, "above": case.above})  # fmt: skip
        if min(p_count, p_side) * 2 * len(cases) < FALSE_ALARMS:
            # A shift leaves out more truths too, but on one side: it is named first and alone.
            if p_side * 2 * len(cases) < FALSE_ALARMS:
                side, fate = ("below", "high") if case.below > case.above else ("above", "low")
                most = max(case.below, case.above)
                wrong = f"biased {fate}: {most} of {outside} truths outside lie {side}"
            else:
                kind = "too narrow" if inside < case.level * case.n else "too wide"
                wrong = f"{kind}: intervals of {case.level:.1%} hold the truth in {inside / case.n:.1%}"
            words.append((min(p_count, p_side), (f"{case.label}: " if case.label else "") + wrong))
    p_value = min(1.0, min(p_values) * len(p_values))
    message = min(words)[1] if words else _RIGHT
    return Calibration("interval coverage", p_value, message, {"intervals": rows})


def _checked(truth: Any, draws: Any) -> tuple[_Floats, _Floats]:
    """Return truths (n, parameters) and draws (n, draws, parameters)."""
    true, drawn = (real_numbers(values, name) for values, name in ((truth, "truth"), (draws, "draws")))
    if true.ndim < 1 or drawn.ndim != true.ndim + 1 or (drawn.shape[0], *drawn.shape[2:]) != true.shape:
        raise InputError(f"draws has shape {drawn.shape} and truth {true.shape}: they must be "
                         "(simulations, draws, *shape) and (simulations, *shape)")  # fmt: skip
    if len(true) < _FEWEST or drawn.shape[1] < 2:
        raise InputError(f"truth holds {len(true)} simulations with {drawn.shape[1]} draws: calibration "
                         f"needs {_FEWEST} with 2 or more")  # fmt: skip
    if true.size == 0:
        raise InputError(f"truth has shape {true.shape}: it holds no parameter")
    if not (np.isfinite(true).all() and np.isfinite(drawn).all()):
        raise InputError("truth or draws holds values that are not finite: they have no rank")
    return true.reshape(len(true), -1), drawn.reshape(*drawn.shape[:2], -1)


def _ranks(true: Array, drawn: Array, seed: int) -> npt.NDArray[np.int64]:
    """Return how many draws are below the truth; any place among those that are equal to it is as good."""
    from scipy.special import ndtr

    ties = (drawn == true).sum(axis=1)
    ranks = (drawn < true).sum(axis=1)
    if ties.any():
        uniform = ndtr(normal(*ties.shape, seed=seed, draw=_TIES))
        ranks += np.minimum((uniform * (ties + 1)).astype(np.int64), ties)
    return np.asarray(ranks, np.int64)


def _stride(thin: Any, drawn: _Floats) -> int:
    if thin == "auto":
        some = drawn[:: max(1, len(drawn) // _SIMULATIONS_FOR_ESS)]
        worth = np.array([effective_sample_size(one[:, None, :]) for one in some])
        least = float(np.median(worth, axis=0).min())
        return int(max(1, min(math.ceil(drawn.shape[1] / least), drawn.shape[1] // 2)))
    if isinstance(thin, bool) or not isinstance(thin, int) or not 1 <= thin <= drawn.shape[1] // 2:
        raise InputError(f"thin is {thin!r}: it must be 'auto' or a whole number from 1 to half the draws")
    return int(thin)


def _names(names: Sequence[str] | None, dim: int) -> list[str]:
    if names is None:
        return [f"parameter {i}" for i in range(dim)]
    if len(names) != dim:
        raise InputError(f"names holds {len(names)} names: there are {dim} parameters")
    return list(names)


def _in_words(ranks: Array, n_ranks: int) -> str:
    """Return bias and width of a posterior in words, the surer one first; nothing where neither is seen."""
    shape = shape_of_posterior(ranks, n_ranks)
    found = []
    if abs(shape.shift_score) > _NAMED:
        where = "high" if shape.shift > 0 else "low"
        words = f"biased {where} by {abs(shape.shift):.2g} of the posterior's width"
        found.append((abs(shape.shift_score), words))
    if abs(shape.width_score) > _NAMED:
        kind = "too narrow" if shape.width < 1 else "too wide"
        words = f"{kind}: about {shape.width:.2g} times the right width"
        found.append((abs(shape.width_score), words))
    return " and ".join(words for _, words in sorted(found, reverse=True))


def _parameters_in_words(ranks: Array, n_ranks: int, labels: list[str]) -> str:
    """Return what is wrong with the parameters one by one, the worst first."""
    found = []
    for label, one in zip(labels, ranks.T, strict=True):
        shape = shape_of_posterior(one, n_ranks)
        if words := _in_words(one, n_ranks):
            words = f"{label}: {words}" if len(labels) > 1 else words
            found.append((max(abs(shape.shift_score), abs(shape.width_score)), words))
    if not found:
        return "each parameter by itself looks right, but not how they go together"
    return "; ".join(words for _, words in sorted(found, reverse=True)[:_MOST_NAMED])
