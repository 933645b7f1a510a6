"""Do two sets of draws come from one law? A classifier tries to tell them apart; the energy distance.

Both probabilities are exact: the draws are dealt out to the sets again and the whole test is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import real_numbers, unmasked
from physscore.core import Array, InputError
from physscore.diagnostics.permutations import deals
from physscore.noise import normal

_Floats = npt.NDArray[np.float64]

FALSE_ALARMS = 1e-3
_FEWEST = 10
_FREQUENCIES, _FOLDS = 24, 25  # keep random numbers apart from those of other uses of a seed
_RIDGE = 10.0  # the classes differ little: strong, and the same for every deal
_FOR_DISTANCE = 500
_MOST_BYTES = 1 << 31


@dataclass(frozen=True)
class TwoSampleTest:
    """Whether two sets of draws come from one law.

    Attributes
    ----------
    method : str
    statistic : float
        AUC of the classifier, or the energy distance.
    typical : float
        Its mean where there is one law.
    p_value : float
        Probability of a larger statistic for one law: (1 + deals with a larger one) / (1 + permutations).
    message : str
        The outcome in words.
    """

    method: str
    statistic: float
    typical: float
    p_value: float
    message: str

    @property
    def passed(self) -> bool:
        """Whether p_value >= 0.001: sets of one law fail once in a thousand times at most."""
        return self.p_value >= FALSE_ALARMS

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers and the verdict, ready for JSON."""
        return {"passed": self.passed, **vars(self)}

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        return f"{verdict}: {self.method}, p = {self.p_value:.3g}: {self.message}"


def classifier_test(
    x: Any,
    y: Any,
    *,
    features: Callable[[Array], Array] | None = None,
    n_random: int = 200,
    folds: int = 5,
    groups: tuple[Any, Any] | None = None,
    permutations: int = 1999,
    seed: int = 0,
) -> TwoSampleTest:
    """Test whether a classifier tells two sets apart (Lopez-Paz & Oquab 2017, arXiv:1610.06545).

    The classifier is ridge regression of the label on the features and on random cosines of them, whose
    inner products are a Gaussian kernel of the median distance (Rahimi & Recht 2007). Each draw is judged
    by a classifier that has not seen it (``folds``). What is tested is the area under the ROC curve, the
    probability that a draw of x is judged more like x than one of y; for one law it is 1/2. Since labels
    enter linearly, the classifier is trained anew for every deal.

    Parameters
    ----------
    x, y : arrays (n, *shape), (m, *shape)
        Draws of either set; at least 10.
    features
        What the classifier sees: a function of draws (n, *shape) that returns (n, d), such as
        ``map_vectors`` of fields. It is called once for each set. [default: the draws themselves]
    n_random
        Number of random cosines; 0 for a linear classifier.
    folds
        Number of parts, each of which is judged by a classifier trained on the others.
    groups : pair of labels (n,), (m,)
        Draws of x, and of y, that share a label belong together: they are dealt and left out together.
    permutations, seed
        How many deals; the random numbers of these, of the folds and of the cosines.

    Raises
    ------
    InputError
        If the draws do not fit together, are fewer than 10, or not finite.
    """
    flat = [
        _flat(features(unmasked(z, name)) if features is not None else z, name)
        for z, name in ((x, "x"), (y, "y"))
    ]
    both, unit, first = _together(flat, groups)
    n_units = int(unit.max()) + 1
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= n_units:
        raise InputError(
            f"folds is {folds!r}: it must be a whole number from 2 to the {n_units} units there are"
        )
    # Draws in an order that does not know their set, so that equal judgements favour neither.
    units, places = (np.argsort(normal(1, n, seed=seed, draw=_FOLDS)[0]) for n in (n_units, len(both)))
    both, unit = both[places], unit[places]
    phi = _cosines(both, n_random, seed)
    fold = (np.argsort(units) * folds // n_units)[unit]
    parts = []
    for i in range(folds):
        train, test = phi[fold != i], phi[fold == i]
        inverse = np.linalg.inv(train.T @ train + _RIDGE * np.eye(phi.shape[1]))
        parts.append((fold == i, train @ (inverse @ test.T)))

    def judged(label: _Floats) -> _Floats:
        """Return how much like x each draw looks, for rows of labels."""
        found = np.empty_like(label)
        for test, operator in parts:
            known = label[:, ~test]
            found[:, test] = (known - known.mean(axis=1, keepdims=True)) @ operator
        return found

    def area(label: _Floats) -> _Floats:
        ranked = np.take_along_axis(label, np.argsort(judged(label), axis=1, kind="stable"), axis=1)
        n = label.sum(axis=1)
        ranks = ranked @ np.arange(1.0, len(unit) + 1)
        return np.asarray((ranks - n * (n + 1) / 2) / (n * (len(unit) - n)))

    label = first[unit]
    observed = float(area(label[np.newaxis])[0])
    dealt = np.concatenate(
        [
            area(chosen[:, unit].astype(np.float64))
            for chosen in deals(n_units, int(first.sum()), permutations, seed)
        ]
    )
    p_value = float((1 + (dealt >= observed - 1e-12).sum()) / (1 + permutations))
    guess = judged(label[np.newaxis])[0] > 0
    accuracy = float((guess[label == 1].mean() + (~guess[label == 0]).mean()) / 2)
    able = p_value < FALSE_ALARMS
    message = (
        f"a classifier {'tells the sets apart' if able else 'cannot tell the sets apart'}: it is right in "
        f"{accuracy:.1%} of draws it has not seen, AUC {observed:.3f}"
    )
    return TwoSampleTest("classifier two-sample test", observed, float(dealt.mean()), p_value, message)


def energy_test(
    x: Any,
    y: Any,
    *,
    standardise: bool = True,
    groups: tuple[Any, Any] | None = None,
    permutations: int = 1999,
    seed: int = 0,
) -> TwoSampleTest:
    """Test whether two sets are farther apart than sets of one law.

    The energy distance 2 <|x - y|> - <|x - x'|> - <|y - y'|> is 0 for equal laws only (Székely & Rizzo
    2013, J. Stat. Plan. Inference 143, 1249).

    Parameters
    ----------
    x, y : arrays (n, *shape), (m, *shape)
        Draws of either set; at least 10. All distances are held, (n + m)^2 numbers.
    standardise
        Divide each component by its standard deviation over both sets.
    groups, permutations, seed
        As for :func:`classifier_test`.

    Raises
    ------
    InputError
        As in :func:`classifier_test`, or if the distances do not fit into 2 GiB.
    """
    from scipy.spatial.distance import cdist

    flat = [_flat(z, name) for z, name in ((x, "x"), (y, "y"))]
    both, unit, first = _together(flat, groups)
    if 8 * len(both) ** 2 > _MOST_BYTES:
        most = int((_MOST_BYTES / 8) ** 0.5)
        raise InputError(f"x and y hold {len(both)} draws: the energy distance takes {most} "
                         "at most")  # fmt: skip
    if standardise:
        both = _standard(both)
    distances = cdist(both, both)
    # Draws of one unit are dealt together, so their distances can be added up once.
    n_units = int(unit.max()) + 1
    size = np.bincount(unit).astype(np.float64)
    if n_units < len(both):
        member = np.zeros((n_units, len(both)))
        member[unit, np.arange(len(both))] = 1.0
        distances = member @ distances @ member.T

    def distance(chosen: _Floats) -> _Floats:
        n = (chosen @ size)[:, None]
        sign = chosen / n - (1 - chosen) / (size.sum() - n)
        return -np.asarray(((sign @ distances) * sign).sum(axis=1))

    observed = float(distance(first[np.newaxis])[0])
    dealt = np.concatenate(
        [
            distance(chosen.astype(np.float64))
            for chosen in deals(n_units, int(first.sum()), permutations, seed)
        ]
    )
    typical = float(dealt.mean())
    p_value = float((1 + (dealt >= observed * (1 - 1e-9)).sum()) / (1 + permutations))
    word = "farther apart than sets of one law" if p_value < FALSE_ALARMS else "as near as sets of one law"
    message = f"the sets are {word}: energy distance {observed:.3g}, typically {typical:.3g}"
    return TwoSampleTest("energy distance", observed, typical, p_value, message)


def _flat(draws: Any, name: str) -> _Floats:
    found = real_numbers(draws, name)
    if found.ndim < 1 or len(found) < _FEWEST:
        raise InputError(f"{name} has shape {found.shape}: it must hold {_FEWEST} draws or more, (n, *shape)")
    if not np.isfinite(found).all():
        raise InputError(f"{name} holds values that are not finite: they cannot be compared")
    return found.reshape(len(found), -1)


def _together(
    flat: list[_Floats], groups: tuple[Any, Any] | None
) -> tuple[_Floats, npt.NDArray[np.int64], _Floats]:
    """Return all draws, the unit of each, and 1 for the units of the first set."""
    if flat[0].shape[1] != flat[1].shape[1]:
        raise InputError(
            f"x has {flat[0].shape[1]} components and y {flat[1].shape[1]}: they must be the same"
        )
    units, n = [], [0, 0]
    for i, z in enumerate(flat):
        labels = np.arange(len(z)) if groups is None else np.asarray(groups[i])
        if labels.shape != (len(z),):
            raise InputError(
                f"groups has {labels.shape} labels of {'xy'[i]}: it must have one for each of {len(z)}"
            )
        distinct, unit = np.unique(labels, return_inverse=True)
        units.append(unit + n[0])
        n[i] = len(distinct)
    if min(n) < 2:
        raise InputError(f"groups holds {n[0]} and {n[1]} distinct labels: each set needs 2 or more")
    return np.concatenate(flat), np.concatenate(units), (np.arange(sum(n)) < n[0]).astype(np.float64)


def _standard(both: _Floats) -> _Floats:
    scale = both.std(axis=0)
    moving = scale > 1e-12 * np.abs(both).max(axis=0)
    return np.asarray((both[:, moving] - both[:, moving].mean(axis=0)) / scale[moving])


def _cosines(both: _Floats, n_random: int, seed: int) -> _Floats:
    """Return features with mean 0 over both sets: standardised components, and random cosines of them."""
    from scipy.spatial.distance import pdist
    from scipy.special import ndtr

    if isinstance(n_random, bool) or not isinstance(n_random, int) or n_random < 0:
        raise InputError(f"n_random is {n_random!r}: it must be a whole number, at least 0")
    z = _standard(both)
    dim = z.shape[1]
    if dim == 0:
        raise InputError("x and y do not vary: there is nothing to compare")
    columns = [z / np.sqrt(dim)]
    if n_random:
        some = z[np.linspace(0, len(z) - 1, min(len(z), _FOR_DISTANCE)).astype(int)]
        apart = pdist(some)
        apart = apart[apart > 0]  # equal draws, such as empty cells, say nothing about lengths
        length = float(np.median(apart)) if len(apart) else math.sqrt(2 * dim)
        deviates = normal(n_random, dim + 1, seed=seed, draw=_FREQUENCIES)
        phases = 2 * np.pi * ndtr(deviates[:, dim])
        wave = np.sqrt(2 / n_random) * np.cos(z @ deviates[:, :dim].T / length + phases)
        columns.append(wave - wave.mean(axis=0))
    return np.concatenate(columns, axis=1)
