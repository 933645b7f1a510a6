"""Derivatives of a score: its Jacobian along directions, its divergence, and the whole matrix.

A score that has a method ``directional(x, v) -> (score, J v)`` is asked for it. Of any other one, central
differences of fourth order are taken, [8 (s(x + hv) - s(x - hv)) - (s(x + 2hv) - s(x - 2hv))] / 12h.
The score is called with many states at once, in pieces of bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states
from physscore.core import Array, InputError, Score
from physscore.noise import normal

_Floats = npt.NDArray[np.float64]

LAWS = ("rademacher", "gaussian")

_PIECE = 1 << 20  # components of the states that are handed to a score at once
_PROBES = 80  # the number of the deviates that directions use
# Length of |h v| over the length on which the score changes: the errors of the difference, of order
# step^4 and rounding / step, are alike at the fifth root of the rounding error.
_STEP = {np.dtype(np.float64): 1e-3, np.dtype(np.float32): 3e-2}


class Divergence(NamedTuple):
    """The divergence of a score, state by state."""

    value: _Floats
    """Of shape (n,)."""
    error: _Floats
    """Standard error of ``value`` by the spread of the probes; zero for the exact divergence."""


def directional(score: Score, x: Any, v: Any, *, scale: Any = None, batch: int | None = None) -> _Floats:
    """Return J v, the derivative of a score along directions, J_ij = d s_i / d x_j.

    Parameters
    ----------
    score
        A ``Score`` or an ``Energy``.
    x
        States (n, *shape).
    v
        Directions, one a state (n, *shape), or m a state (m, n, *shape), of any length.
    scale
        Length on which the score changes, a number or (n,), where differences are taken; the noise level
        is right for a smoothed density. [default: found at each state from the score and its slope]
    batch
        The most states the score is given at once. [default: 2^20 components]

    Returns
    -------
    array of the shape of ``v``

    Raises
    ------
    InputError
        If the shapes do not agree, or states or directions are not finite.
    """
    states = _checked(score, x)
    given = np.asarray(v, np.float64)
    many = given if given.ndim == states.ndim + 1 else given[np.newaxis]
    if many.shape[1:] != states.shape:
        raise InputError(
            f"v has shape {given.shape}: it must be {states.shape}, a direction for each state, or "
            f"{('m', *states.shape)}"
        )
    if not np.isfinite(many).all():
        raise InputError("v is not finite everywhere: directions are finite")
    flat = many.reshape(len(many), len(states), score.dim)
    out = np.empty(flat.shape)
    for which, rows, _, product in _products(score, states, len(flat), _those(flat), scale, batch):
        out[which, rows] = product
    return out.reshape(given.shape)


def jacobian(score: Score, x: Any, *, scale: Any = None, batch: int | None = None) -> _Floats:
    """Return the whole Jacobian of a score, d s_i / d x_j, for states of few dimensions.

    Parameters
    ----------
    score, x, scale, batch
        As in :func:`directional`.

    Returns
    -------
    array (n, d, d)
        Over flattened states; symmetric where the score is a gradient.

    Raises
    ------
    InputError
        If states have another shape or are not finite.
    """
    states = _checked(score, x)
    d = score.dim
    out = np.empty((len(states), d, d))
    for which, rows, _, product in _products(score, states, d, _unit_vectors(d), scale, batch):
        out[rows, :, which] = product
    return out


def divergence(
    score: Score,
    x: Any,
    probes: int | None = None,
    seed: int = 0,
    *,
    law: str = "rademacher",
    scale: Any = None,
    batch: int | None = None,
) -> Divergence:
    """Return the divergence of a score, the trace of its Jacobian, which is the Laplacian of log p.

    Parameters
    ----------
    score, x, scale, batch
        As in :func:`directional`.
    probes
        How many random directions v a state: the mean of v^T J v is the divergence (Hutchinson 1990,
        Communications in Statistics 19, 433). [default: none, but one direction a component, exactly]
    seed
        Of the probes, which are independent from state to state.
    law
        "rademacher" (components +1 or -1) or "gaussian". The variance of one probe is twice the sum of the
        squared off-diagonal elements of the symmetric part of J, or of all of its elements.

    Returns
    -------
    Divergence
        ``value`` and ``error``, both (n,); the error of a single probe is not known, nan.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """
    states = _checked(score, x)
    n = len(states)
    if probes is None:
        total = np.zeros(n)
        for which, rows, _, product in _products(
            score, states, score.dim, _unit_vectors(score.dim), scale, batch
        ):
            np.add.at(total, rows, product[np.arange(len(which)), which])
        return Divergence(total, np.zeros(n))
    count = checked_probes(probes)
    lengths = None if scale is None else np.broadcast_to(np.asarray(scale, np.float64), n)
    total, spread = np.empty(n), np.full(n, np.nan)
    most = max(1, _PIECE // (count * score.dim))
    for start in range(0, n, most):
        some = slice(start, min(start + most, n))
        v = random_directions(count, some.stop - start, score.dim, seed=seed, law=law, first=start)
        part = quadratic_forms(
            score, states[some], v, scale=None if lengths is None else lengths[some], batch=batch
        )
        total[some] = part.mean(axis=0)
        if count > 1:
            spread[some] = part.std(axis=0, ddof=1) / np.sqrt(count)
    return Divergence(total, spread)


def quadratic_forms(
    score: Score, x: Array, v: _Floats | None, *, scale: Any = None, batch: int | None = None
) -> _Floats:
    """Return v^T J v for m directions a state, (m, n, d) over flattened states: an array (m, n).

    Without directions, their sum over the unit vectors, the divergence: an array (1, n).
    """
    states = _checked(score, x)
    if v is None:
        return divergence(score, states, scale=scale, batch=batch).value[np.newaxis]
    out = np.empty(v.shape[:2])
    for which, rows, direction, product in _products(score, states, len(v), _those(v), scale, batch):
        out[which, rows] = np.einsum("ki,ki->k", direction, product)
    return out


def random_directions(
    m: int, n: int, dim: int, *, seed: int, law: str = "rademacher", first: int = 0
) -> _Floats:
    """Return m directions for each of n states, counted from ``first``, with E[v v^T] = 1: (m, n, dim).

    Raises
    ------
    InputError
        If the law is unknown.
    """
    if law not in LAWS:
        raise InputError(f'law is {law!r}: it must be "rademacher" or "gaussian"')
    v = np.array([normal(n, dim, seed=seed, step=i, draw=_PROBES, first=first) for i in range(m)])
    return np.where(v < 0, -1.0, 1.0) if law == "rademacher" else v


def checked_probes(probes: Any) -> int:
    """Return a number of probes.

    Raises
    ------
    InputError
        If it is not a whole number of at least 1.
    """
    if isinstance(probes, bool) or not isinstance(probes, int | np.integer) or probes < 1:
        raise InputError(f"probes is {probes!r}: it must be a whole number of at least 1")
    return int(probes)


_Directions = Callable[[Array, Array], _Floats]


def _those(v: _Floats) -> _Directions:
    return lambda which, rows: v[which, rows]


def _unit_vectors(d: int) -> _Directions:
    def of(which: Array, rows: Array) -> _Floats:
        v = np.zeros((len(which), d))
        v[np.arange(len(which)), which] = 1.0
        return v

    return of


def _products(
    score: Score, x: _Floats, m: int, directions: _Directions, scale: Any, batch: int | None
) -> Iterator[tuple[Array, Array, _Floats, _Floats]]:
    """Yield (which direction, which state, v, J v), flattened, over all m directions of all states."""
    n, d = len(x), score.dim
    most = batch or max(1, _PIECE // d)
    known = getattr(score, "directional", None)
    lengths = np.empty(0)
    step = 0.0
    if known is None:
        most = max(1, most // 4)
        if n:  # a score that computes in single precision needs a longer step
            step = _STEP.get(np.asarray(score.score(x[:1])).dtype, 1e-3)
        if scale is None:
            pieces = range(0, n, most)
            lengths = np.concatenate([np.empty(0), *(_length(score, x[i : i + most]) for i in pieces)])
        else:
            lengths = np.broadcast_to(np.asarray(scale, np.float64), n)
            if not (np.isfinite(lengths).all() and (lengths > 0).all()):
                bad = lengths[~((lengths > 0) & np.isfinite(lengths))]
                raise InputError(f"scale holds {bad[0]}: it must be a positive length, or one for each state")
    for start in range(0, m * n, most):
        pairs = np.arange(start, min(start + most, m * n))
        which, rows = pairs // n, pairs % n
        v = directions(which, rows)
        states = x[rows]
        if known is not None:
            product = np.asarray(known(states, v.reshape(states.shape))[1], np.float64)
        else:
            product = _difference(score, states, v.reshape(states.shape), step * lengths[rows])
        yield which, rows, v, product.reshape(len(v), d)


def _difference(score: Score, x: _Floats, v: _Floats, length: _Floats) -> _Floats:
    norm = np.sqrt(np.square(v).reshape(len(v), -1).sum(axis=1))
    h = (length / np.where(norm > 0, norm, 1.0)).reshape(-1, *[1] * (x.ndim - 1))
    moved = h * v
    points = np.concatenate([x + moved, x - moved, x + 2 * moved, x - 2 * moved])
    right, left, far_right, far_left = np.asarray(score.score(points), np.float64).reshape(4, *x.shape)
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite stays so, for the caller to see
        return np.asarray((8 * (right - left) - (far_right - far_left)) / (12 * h))


def _length(score: Score, x: _Floats) -> _Floats:
    """Return the length on which the score changes at each state: |s|^2 and its slope are 1 / length^2."""
    n, d = len(x), score.dim
    s = np.asarray(score.score(x), np.float64).reshape(n, d)
    size = np.sqrt(np.mean(s**2, axis=1))
    far = np.sqrt(np.mean(x.reshape(n, d) ** 2, axis=1))
    first = np.where(size > 0, 1 / np.where(size > 0, size, 1.0), np.where(far > 0, far, 1.0))
    v = random_directions(1, 1, d, seed=0)[0].reshape(1, *x.shape[1:])
    h = (1e-3 / np.sqrt(d)) * first.reshape(-1, *[1] * (x.ndim - 1))
    both = np.asarray(score.score(np.concatenate([x + h * v, x - h * v])), np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        slope = ((both[:n] - both[n:]) / (2 * h)).reshape(n, d)
        inverse = np.maximum(size**2, np.sqrt(np.mean(slope**2, axis=1)))
    usable = np.isfinite(inverse) & (inverse > 0)
    return np.where(usable, 1 / np.sqrt(np.where(usable, inverse, 1.0)), first)


def _checked(score: Score, x: Any) -> _Floats:
    if not isinstance(score, Score):
        raise InputError(f"score is a {type(score).__name__}: it must be an Energy or a Score")
    states = as_states(x, score.shape).astype(np.float64)
    if not np.isfinite(states).all():
        raise InputError("x is not finite everywhere: a score has derivatives at finite states")
    return states
