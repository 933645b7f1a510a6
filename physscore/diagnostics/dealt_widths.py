"""How probable it is that sets of one law differ so much in width: their states are dealt out again.

Of either set the log determinant of the covariance is taken, and the entropy by nearest neighbours, in
coordinates that belong to no set. That is exact whatever the law is, with ties or tails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from physscore.arrays import compiled, n_threads, parallel
from physscore.diagnostics.permutations import deals
from physscore.noise import normal

_Floats = npt.NDArray[np.float64]
_Statistic = Callable[[npt.NDArray[np.bool_]], _Floats]

_MOST_UNITS = 1024  # that are dealt: neighbours in the order of the states go together beyond
_NEIGHBOURS = 8  # times k are looked at for k of the same set
_ROWS = 256  # deals at once
_ORDER = 102  # the number of the deviates that the order of the states uses


def differences(
    first: _Floats, second: _Floats, neighbours: int, permutations: int, seed: int
) -> Iterator[tuple[float, _Floats]]:
    """Yield, for the log determinant and for the entropy, the difference of two sets (n, d) and (m, d), and
    those of ``permutations`` deals.

    Parameters
    ----------
    first, second
        The states; the entropy is that of equally many of both.
    neighbours
        k of the entropy.
    permutations, seed
        How many deals, and their random numbers.
    """
    fewer = min(len(first), len(second))
    for sets, k in (((first, second), 0), ((first[:fewer], second[:fewer]), neighbours)):
        blocks, unit = _units([len(states) for states in sets])
        both = _whitened(np.concatenate(sets))
        # In an order that does not know the sets, so that ties favour neither.
        order = np.argsort(normal(1, len(both), seed=seed, draw=_ORDER)[0])
        both, unit = both[order], unit[order]
        statistic = _entropy(both, unit, k) if k else _log_det(both, unit)
        original = np.arange(sum(blocks)) < blocks[0]
        dealt = [
            statistic(_with_the_rest(chosen[start : start + _ROWS]))
            for chosen in deals(sum(blocks), blocks[0], permutations, seed)
            for start in range(0, len(chosen), _ROWS)
        ]
        yield float(statistic(_with_the_rest(original[np.newaxis]))[0]), np.concatenate(dealt)


def _units(sizes: list[int]) -> tuple[list[int], npt.NDArray[np.int64]]:
    """Return how many units of equal size each set has, and the unit of each state; the last two hold what
    is left over of the first and of the second set, which is not dealt."""
    size = -(-sum(sizes) // _MOST_UNITS)
    blocks = [n // size for n in sizes]
    parts = []
    for i, (n, count) in enumerate(zip(sizes, blocks, strict=True)):
        part = np.arange(n) // size
        parts.append(np.where(part < count, part + i * blocks[0], sum(blocks) + i))
    return blocks, np.concatenate(parts)


def _with_the_rest(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.column_stack([chosen, np.ones(len(chosen), bool), np.zeros(len(chosen), bool)])


def _whitened(states: _Floats) -> _Floats:
    states = states - states.mean(axis=0)
    variances, axes = np.linalg.eigh(states.T @ states / len(states))
    return np.asarray((states @ axes) / np.sqrt(np.maximum(variances, 1e-300)))


def _log_det(states: _Floats, unit: npt.NDArray[np.int64]) -> _Statistic:
    d, n_units = states.shape[1], int(unit.max()) + 1
    counts = np.bincount(unit, minlength=n_units).astype(np.float64)
    sums, squares = np.zeros((n_units, d)), np.zeros((n_units, d * d))
    np.add.at(sums, unit, states)
    for start in range(0, len(states), _ROWS):
        part = states[start : start + _ROWS]
        products = part[:, :, None] * part[:, None, :]
        np.add.at(squares, unit[start : start + _ROWS], products.reshape(-1, d * d))

    def log_det(members: _Floats) -> _Floats:
        n, total = (members @ counts)[:, None, None], members @ sums
        covariance = (members @ squares).reshape(-1, d, d) - total[:, :, None] * total[:, None, :] / n
        sign, value = np.linalg.slogdet(covariance / (n - 1))
        return np.where(sign > 0, value, -np.inf)

    def statistic(chosen: npt.NDArray[np.bool_]) -> _Floats:
        members = chosen[:, :n_units].astype(np.float64)
        return log_det(members) - log_det(1 - members)

    return statistic


@compiled
def _sum_logs(unit, near, logs, k, chosen, sums, start, stop):
    for row in range(start, stop):
        for i in range(len(unit)):
            own = chosen[row, unit[i]]
            seen, found = 0, logs[i, -1]
            for j in range(near.shape[1]):
                if chosen[row, near[i, j]] == own:
                    seen += 1
                    if seen == k:
                        found = logs[i, j]
                        break
            sums[row, 0 if own else 1] += found


def _entropy(states: _Floats, unit: npt.NDArray[np.int64], k: int) -> _Statistic:
    from scipy.spatial import cKDTree

    n, d = states.shape
    looked = min(n - 1, _NEIGHBOURS * k)
    distances, near = cKDTree(states).query(states, looked + 1, workers=n_threads())
    # Of states that coincide each may be the first: none is its own neighbour.
    own = near == np.arange(n)[:, None]
    own[~own.any(axis=1), -1] = True
    distances, near = (values[~own].reshape(n, looked) for values in (distances, near))
    # States that coincide are nearer than all others, but not infinitely.
    least = distances[distances > 0].min(initial=np.inf)
    logs = np.log(np.maximum(distances, 0.5 * least if np.isfinite(least) else 1.0))

    def statistic(chosen: npt.NDArray[np.bool_]) -> _Floats:
        sums = np.zeros((len(chosen), 2))
        parallel(_sum_logs, len(chosen), unit, unit[near], logs, k, chosen, sums)
        return np.asarray(d * (sums[:, 0] - sums[:, 1]) / (n / 2))

    return statistic
