"""Control variates out of the score: what Stein's identity says is zero, and goes with a function u.

For draws v from a density with the score s the mean of div f + f . s is zero, whatever the field f (Mira,
Solgi & Imparato 2013, arXiv:1012.2983; for log Z: Oates, Papamarkou & Girolami 2016, arXiv:1404.5053). For a
standard normal that is minus m He_m(v_i) if f is He_(m-1)(v_i) along v_i, with Hermite's polynomials; and the
part of u that goes with He_m(v_i) has the factor E[He_(m-1)(v_i) du/dv_i] / m!. So near a normal density u
loses all of its variance that is a sum over coordinates. Three more kinds of fields see what is not: H v,
with the mean Hessian H of u; |v|^2 v; and powers of the cells of a field, where its energy is local.

The function is what particles add to log Z (``bridge.shares``). Over short steps that is linear in the
energy, over long ones it is bounded, where the energy itself would bring in tails that log Z has not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from physscore.arrays import compiled, device_of, namespace, on_gpu, parallel, to_host
from physscore.core import Array
from physscore.evidence.shifts import FUNCTIONS

_ORDERS = 4  # of Hermite's polynomials
_POWERS = 3  # of cells
_LEAST = 32  # particles that fit
_EACH = 64  # for each field
_MOST = 1024  # so that BLAS leaves its threads asleep, which would spin against ours
_SEEN_TWICE = math.sqrt(2.0) - 1.0


class Controls(NamedTuple):
    """What control variates add to the mean of u over each island, arrays (islands,).

    Each half of the islands is given its coefficients by the other half, so that what is added has mean
    zero. ``fitting`` is each island's influence on that through the coefficients of the others, times
    sqrt 2 - 1: what is of second order in the islands, and goes with them on both sides, is seen twice in
    the scatter of their influences (Efron & Stein 1981, Ann. Statist. 9, 586).
    """

    added: npt.NDArray[np.float64]
    fitting: npt.NDArray[np.float64]


@dataclass
class _Field:
    """What one field adds: at particles that fit, on average in islands that are corrected, and its change
    with each island that fits."""

    values: Array
    means: Array
    change: Array | float = 0.0


@compiled
def _means(v, score, slope, weights, projections, fields, start, stop):
    """Fill the weighted means over islands of He_k(v) slope / (k + 1)! and of k He_(k-1)(v) + He_k(v) s."""
    n, d = weights.shape[1], v.shape[1]
    for island in range(start, stop):
        for j in range(n):
            w, row = weights[island, j], island * n + j
            for i in range(d):
                x, s, b = v[row, i], w * score[row, i], w * slope[row, i]
                two, three = x * x - 1.0, x * (x * x - 3.0)
                projections[0, island, i] += b
                projections[1, island, i] += b * x / 2.0
                projections[2, island, i] += b * two / 6.0
                projections[3, island, i] += b * three / 24.0
                fields[0, island, i] += s
                fields[1, island, i] += w + x * s
                fields[2, island, i] += 2.0 * w * x + two * s
                fields[3, island, i] += 3.0 * w * two + three * s


@compiled
def _values(v, score, factors, out, start, stop):
    """Fill, for each row, the sums over coordinates of factors (k He_(k-1)(v) + He_k(v) s)."""
    for row in range(start, stop):
        a, b, c, e = 0.0, 0.0, 0.0, 0.0
        for i in range(v.shape[1]):
            x, s = v[row, i], score[row, i]
            two, three = x * x - 1.0, x * (x * x - 3.0)
            a += factors[0, i] * s
            b += factors[1, i] * (1.0 + x * s)
            c += factors[2, i] * (2.0 * x + two * s)
            e += factors[3, i] * (3.0 * two + three * s)
        out[0, row], out[1, row], out[2, row], out[3, row] = a, b, c, e


@compiled
def _radial(v, score, out, start, stop):
    """Fill div f + f . s of f = |v|^2 v."""
    d = v.shape[1]
    for row in range(start, stop):
        squares, along = 0.0, 0.0
        for i in range(d):
            squares += v[row, i] * v[row, i]
            along += v[row, i] * score[row, i]
        out[row] = squares * (d + 2.0 + along)


@compiled
def _of_cells(x, score, variances, out, start, stop):
    """Fill div f + f . s of the fields J^T x^p for p = 1, 2, 3, where x = J v are cells.

    ``score`` is J s, and ``variances`` are those of cells of which v is a standard normal.
    """
    for row in range(start, stop):
        one, two, three = 0.0, 0.0, 0.0
        for i in range(x.shape[1]):
            a, s, wide = x[row, i], score[row, i], variances[i]
            one += wide + a * s
            two += a * (2.0 * wide + a * s)
            three += a * a * (3.0 * wide + a * s)
        out[0, row], out[1, row], out[2, row] = one, two, three


def _projected(v: Array, score: Array, slope: Array, weights: Array) -> tuple[Array, Array]:
    """Return the projections and fields (orders, islands, d) of ``_means``, where ``v`` is."""
    if on_gpu(v):
        from physscore.cuda import control as on_card

        return on_card.means(v, score, slope, weights)
    (islands, n), d = weights.shape, v.shape[1]
    projections, fields = np.zeros((2, _ORDERS, islands, d))
    at_least = max(1, 10_000 // (n * d))
    parallel(_means, islands, v, score, slope, weights, projections, fields, at_least=at_least)
    return projections, fields


def _share(values: Array, groups: Array) -> None:
    """Put the means over groups of coordinates in the place of the values (k, islands, d)."""
    if on_gpu(values):
        from physscore.cuda import control as on_card

        on_card.share(values, groups)
        return
    many = np.bincount(groups)
    for order in values:
        for row in order:
            row[:] = (np.bincount(groups, row) / many)[groups]


def _summed(v: Array, score: Array, factors: Array) -> Array:
    """Return the sums (orders, n) of ``_values``."""
    if on_gpu(v):
        from physscore.cuda import control as on_card

        return on_card.values(v, score, factors)
    out = np.empty((_ORDERS, len(v)))
    parallel(_values, len(v), v, score, factors, out, at_least=1000)
    return out


def _along_radius(v: Array, score: Array) -> Array:
    """Return what ``_radial`` fills."""
    d = v.shape[1]
    if on_gpu(v):
        from physscore.cuda import control as on_card

        squares, along = on_card.radial(v, score)
        return np.asarray(squares * (d + 2.0 + along))
    out = np.empty(len(v))
    parallel(_radial, len(v), v, score, out, at_least=max(1, 10_000 // d))
    return out


def enough_for_cells(islands: int, n: int) -> bool:
    """Return whether half of the islands with n particles each can fit the fields of cells as well."""
    return islands // 2 * n >= particles_that_fit(field=True)


def halves(islands: int, n: int) -> list[tuple[slice, slice]]:
    """Return the particles that fit, and those that are corrected, of either half; none if too few."""
    half = islands // 2 * n
    if half < _LEAST:
        return []
    some = [slice(start, min(stop, start + _MOST)) for start, stop in ((0, half), (half, islands * n))]
    return [(some[0], slice(half, islands * n)), (some[1], slice(0, half))]


def particles_that_fit(field: bool) -> int:
    """Return how many particles, those of half of the islands, fit all kinds of fields."""
    return _EACH * (_ORDERS + 1 + FUNCTIONS + _POWERS * field)


def of_cells(x: Array, score: Array, variances: Array) -> npt.NDArray[np.float64]:
    """Return what fields along the powers of cells add for each particle, on the CPU; see ``_of_cells``."""
    if on_gpu(x):
        from physscore.cuda import control as on_card

        return on_card.of_cells(x, score, variances)
    out = np.empty((_POWERS, len(x)))
    parallel(_of_cells, len(x), x, score, variances, out, at_least=max(1, 10_000 // x.shape[1]))
    return out


def controls(
    v: Array, score: Array, slope: Array, u: Array, weights: Array, between: Array,
    groups: Array | None, *, dense: bool, more: Array | None = None,
    shifted: Sequence[tuple[Array, Array]] | None = None,
) -> Controls:  # fmt: skip
    """Return control variates for the means of ``u`` over islands.

    Parameters
    ----------
    v, score : array (islands * n, d)
        States and scores, in coordinates that make the density near a standard normal. They and ``slope``
        may be on a card; all else is on the CPU.
    slope : array (islands * n, d)
        Gradient of u over them.
    u, weights : array (islands, n)
        The function, which may be another one in each half, and weights that sum to 1 in each island.
    between : array (islands,)
        Weights of the islands, of mean 1.
    groups
        Coordinates that are alike.
    dense
        Whether H has more than a diagonal; never on a card.
    more : array (k, islands * n)
        What other fields add.
    shifted
        What fields add that depend on the function, and are of use where particles are few, too: of each of
        the ``halves``, for the particles that fit and for those that are corrected, arrays (k, rows).
    """
    islands, n = u.shape
    found = Controls(np.zeros(islands), np.zeros(islands))
    rows = halves(islands, n)
    if not rows:
        return found
    assert not (dense and on_gpu(v))
    projections, fields = _projected(v, score, slope, weights)
    if groups is not None:  # what is odd in one coordinate has another sign in each of a group
        _share(projections[1::2], groups)
    others = np.vstack([_along_radius(v, score), *([] if more is None else [more])])
    n_shifted = len(shifted[0][0]) if shifted else 0
    hessian = _hessian(v, score, slope, weights) if dense else None
    first, second = slice(0, islands // 2), slice(islands // 2, islands)
    for i, (fit, apply) in enumerate(((first, second), (second, first))):
        some, corrected = rows[i]
        factors = projections[:, fit].mean(axis=1)
        values = _summed(v[some], score[some], factors)
        outer = namespace(device_of(v)).asarray(between[apply])
        terms = [
            _Field(
                values[order],
                to_host(fields[order, apply] @ factors[order]),
                to_host(
                    (projections[order, fit] - factors[order])
                    @ (outer @ fields[order, apply] / (apply.stop - apply.start))
                ),
            )
            for order in range(_ORDERS)
        ]
        if hessian is not None:
            terms[1] = _bent(v[some], score[some], *hessian, fit, apply, between)
        added = [(others[:, some], others[:, corrected]), *([shifted[i]] if shifted else [])]
        fitted, applied = (np.vstack(parts) for parts in zip(*added, strict=True))
        means = np.einsum("kin,in->ki", applied.reshape(len(applied), -1, n), weights[apply])
        terms += [_Field(a, b) for a, b in zip(fitted, means, strict=True)]
        many = len(values[0]) // _EACH
        if many < len(terms):
            low, high = terms[:2]
            both = _Field(low.values + high.values, low.means + high.means, low.change + high.change)
            terms = [both, *terms[len(terms) - n_shifted :]] if many > n_shifted else [both]
        columns, wanted = np.array([term.values for term in terms]), (u.ravel()[some], weights.ravel()[some])
        if len(terms) > n_shifted > 0 and not _help(columns, n_shifted, *wanted):
            columns[-n_shifted:] = 0.0
        shares = _regression(columns, *wanted)
        for share, term in zip(shares, terms, strict=True):
            found.added[apply] -= share * term.means
            found.fitting[fit] -= share * _SEEN_TWICE * term.change
    return found


def _help(columns: Array, n: int, u: Array, weights: Array) -> bool:
    """Return whether the last ``n`` columns help to predict ``u`` at particles that have not been fitted: of
    heavy tails they do not."""
    left = np.zeros(2)
    half = len(u) // 2
    first, second = slice(0, half), slice(half, len(u))
    for fit, test in ((first, second), (second, first)):
        for i, some in enumerate((columns[:-n], columns)):
            rest = u[test] - _regression(some[:, fit], u[fit], weights[fit]) @ some[:, test]
            share = weights[test] / max(weights[test].sum(), 1e-300)
            left[i] += share @ (rest - share @ rest) ** 2
    return bool(left[1] < left[0])


def _regression(columns: Array, u: Array, weights: Array) -> npt.NDArray[np.float64]:
    """Return the factors with which columns (k, n) come nearest to ``u``, but for a constant; 0 of those that
    are not finite, as scores may be: the verdict says so."""
    columns = np.where(np.isfinite(columns).all(axis=1, keepdims=True), columns, 0.0)
    share = weights / max(weights.sum(), 1e-300)
    centred = columns - (columns @ share)[:, np.newaxis]
    size = np.sqrt(centred**2 @ share)
    size[~(size > 1e-100)] = np.inf  # no use where it does not vary
    scaled = centred / size[:, np.newaxis]
    covariance = (scaled * share) @ scaled.T
    found = np.linalg.lstsq(covariance, (scaled * share) @ (u - u @ share), rcond=1e-10)[0]
    return np.asarray(found / size)


def _hessian(v: Array, score: Array, slope: Array, weights: Array) -> tuple[Array, Array]:
    """Return the means over islands of (v slope^T + slope v^T) / 4 and of 1 + v s^T, as rows."""
    islands, n = weights.shape
    v, score, slope = (array.reshape(islands, n, -1) for array in (v, score, slope))
    weighted = (weights[:, :, np.newaxis] * v).swapaxes(1, 2)
    hessian, field = weighted @ slope, weighted @ score + np.eye(v.shape[2])
    hessian = 0.25 * (hessian + hessian.swapaxes(1, 2))
    return hessian.reshape(islands, -1), field.reshape(islands, -1)


def _bent(
    v: Array, score: Array, hessian: Array, field: Array, fit: slice, apply: slice, between: Array
) -> _Field:
    """Return the field H v / 2 with the mean Hessian of islands."""
    d = v.shape[1]
    mean = hessian[fit].mean(axis=0)
    matrix = mean.reshape(d, d)
    change = (hessian[fit] - mean) @ (between[apply] @ field[apply] / (apply.stop - apply.start))
    return _Field(np.trace(matrix) + np.einsum("ni,ni->n", score, v @ matrix), field[apply] @ mean, change)
