"""The deterministic flow of a score, dx/dt = s(x), and the points at which it stands still."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.integrate import RK45, solve_ivp

from physscore.arrays import as_states
from physscore.core import Array, EnergySum, InputError, Score, ScoreSum

_DENSE = 200  # dimensions up to which the whole Jacobian is looked at
_ROUNDINGS = 64  # that may add up in a score
_NEAR = 1e-3  # of the score's size: what a zero may be above tolerance


class StagnationPoint(NamedTuple):
    """A point at which the score is zero."""

    x: Array
    """Where, of shape ``shape``."""
    kind: str
    """"mode", "minimum", "saddle", or "degenerate" where an eigenvalue is zero beside the largest, with the
    spread of the starts as the unit of each component."""
    eigenvalues: Array
    """Of the Jacobian of the score, rising; in many dimensions only the lowest and the highest."""
    asymmetry: float
    """Largest |J - J^T| over the largest |J|: zero for the gradient of anything. NaN if not known."""


class _EachComponent(RK45):  # type: ignore[misc]
    """Runge-Kutta whose error is that of the worst component, and not the mean over all paths."""

    def _estimate_error_norm(self, stages: Array, step: float, scale: Array) -> float:
        return float(np.abs(self._estimate_error(stages, step) / scale).max())


def score_flow(target: Score, x: Any, time: float, *, tolerance: float = 1e-6, n_times: int = 2) -> Array:
    """Follow dx/dt = s(x), uphill in the density, from every state of a batch.

    Parameters
    ----------
    target
        What gives the score.
    x
        Where the paths start, of shape (n, *shape).
    time
        How long; negative runs backwards.
    tolerance
        Relative and absolute error of each component in one step of the solver; over long times they add up.
    n_times
        How many evenly spaced moments are returned, with the first and the last; 2 at least.

    Returns
    -------
    array (n_times, n, *shape)

    Raises
    ------
    InputError
        If the flow leaves the finite numbers.
    """
    if not math.isfinite(time) or n_times < 2:
        raise InputError(f"time is {time} and n_times {n_times}: they must be finite, and at least 2")
    start = _states(target, x)
    if time == 0:  # which the solver cannot
        return np.repeat(start[np.newaxis], n_times, axis=0)

    def velocity(now: float, flat: Array) -> Array:
        found = np.asarray(target.score(flat.reshape(start.shape)), np.float64).ravel()
        if not np.isfinite(found).all():  # the solver would go on for ever
            raise InputError(f"the flow did not reach time {time}: at {now:.4g} the score is not finite")
        return found

    with np.errstate(over="ignore", invalid="ignore"):
        found = solve_ivp(
            velocity, (0.0, time), start.ravel(), "LSODA" if start.size <= _DENSE else _EachComponent,
            np.linspace(0.0, time, n_times), rtol=tolerance, atol=tolerance,
        )  # fmt: skip
    if not found.success or not np.isfinite(found.y).all():
        raise InputError(f"the flow did not reach time {time}: {found.message}")
    return np.asarray(found.y.T.reshape(n_times, *start.shape))


def stagnation_points(
    target: Score, starts: Any, *, tolerance: float = 1e-8, same: float = 1e-4
) -> list[StagnationPoint]:
    """Find points at which the score is zero, and say what they are.

    From every start a root of s(x) = 0 is sought (Powell's hybrid method in few dimensions, Newton-Krylov
    in many); roots closer than ``same`` are one. Starts at which the score is not finite are left out, and
    components may have units of their own: lengths are told by the spread of the starts.

    A zero of the score need not be an extremum: the eigenvalues of its Jacobian, the Hessian of log p, tell.

    Parameters
    ----------
    target
        What gives the score.
    starts
        Where to begin, of shape (n, *shape); spread them over the region of interest.
    tolerance
        How small the score must be, relative to its size at the starts; one in float32 need not be smaller
        than its rounding. A warning says how many starts end where it is small, but not so small.
    same
        Distance below which two roots are one, relative to the spread of the starts in each component.

    Returns
    -------
    list of StagnationPoint
        The modes first.

    Raises
    ------
    InputError
        If shapes are wrong, or the score is finite at none of the starts.
    """
    x = _states(target, starts)
    if not len(x):
        raise InputError("starts has no states: give one at least")
    with np.errstate(all="ignore"):
        scores = np.asarray(target.score(x), np.float64)
    finite = np.isfinite(scores).reshape(len(x), -1).all(axis=1)
    if not finite.any():
        raise InputError("starts has no state at which the score is finite: start where it is")
    x = x[finite].reshape(-1, target.dim)
    spread = _spread(x)
    sizes = np.abs(spread * scores[finite].reshape(x.shape)).max(axis=1)
    sizes = sizes[(sizes > 0) & np.isfinite(sizes)]
    scale = float(np.median(sizes)) if len(sizes) else 1.0  # a few starts may be far out
    rounding = _rounding(target, x, spread)
    allowed = max(tolerance, _ROUNDINGS * rounding) * scale

    def score_of(flat: Array) -> Array:  # of x / spread, since the methods know lengths near 1 only
        found = np.asarray(target.score((spread * flat).reshape(1, *target.shape)), np.float64)
        return spread * found.ravel()

    found: list[StagnationPoint] = []
    near = 0
    for start in x:
        with np.errstate(all="ignore"):
            try:
                root = _root(score_of, start / spread, scale, rounding)
            except ValueError:
                continue
            size = float(np.abs(score_of(root)).max())
        if not size <= allowed:  # nor if it is NaN
            near += size <= _NEAR * scale
        elif all(np.abs(root - point.x.ravel() / spread).max() > same for point in found):
            found.append(_classified(target, spread * root, spread, rounding))
    if near:
        warnings.warn(
            f"{near} of {len(x)} starts ended where the score is small, but above tolerance "
            f"{allowed / scale:.2g}: a larger one may let them count",
            stacklevel=2,
        )
    order = {"mode": 0, "saddle": 1, "minimum": 2, "degenerate": 3}
    return sorted(found, key=lambda point: order[point.kind])


def _states(target: Score, x: Any) -> Array:
    if not isinstance(target, Score):
        raise InputError(f"target is a {type(target).__name__}: it must be an Energy or a Score")
    states = as_states(x, target.shape).astype(np.float64)
    if not np.isfinite(states).all():
        raise InputError("x is not finite everywhere: start where the score is")
    return states


def _spread(x: Array) -> npt.NDArray[np.float64]:
    """Return the length that is natural for each component of some states (n, d): their units may differ."""
    common = float(np.ptp(x)) or float(np.abs(x).max()) or 1.0
    if len(x) == 1:
        return np.full(x.shape[1], common)
    size, own = np.abs(x).max(axis=0), np.ptp(x, axis=0)
    own = np.where(own > 1e-9 * size, own, size)
    return np.where(own > 0, own, common)


def _rounding(target: Score, x: Array, spread: Array) -> float:
    """Return the relative rounding of a score, or of the coarsest of its terms."""
    beside = np.concatenate([x, x + 0.0123456789 * spread])  # a round number may be right to the last digit
    terms = [term for _, term in target.terms] if isinstance(target, EnergySum | ScoreSum) else [target]
    with np.errstate(all="ignore"):
        scores = [np.asarray(term.score(beside.reshape(-1, *target.shape))) for term in terms]
        single = any(np.array_equal(s, s.astype(np.float32), equal_nan=True) for s in scores)
    return float(np.finfo(np.float32 if single else np.float64).eps)


def _root(function: Any, start: Array, scale: float, rounding: float) -> Array:
    from scipy import optimize

    if len(start) <= _DENSE:
        return np.asarray(optimize.root(function, start, tol=1e-12, options={"eps": rounding}).x)
    options = {
        "fatol": max(1e-12, _ROUNDINGS / 4 * rounding) * scale, "maxiter": 300,
        "jac_options": {"rdiff": math.sqrt(rounding)},
    }  # fmt: skip
    try:
        return np.asarray(optimize.root(function, start, method="krylov", options=options).x)
    except optimize.NoConvergence as error:
        return np.asarray(error.args[0])


def _classified(target: Score, root: Array, spread: Array, rounding: float) -> StagnationPoint:
    d = len(root)
    step = max(1e-5 if rounding < 1e-10 else 1e-3, float((1e-9 * np.abs(root) / spread).max()))

    def times(directions: Array) -> Array:  # the Jacobian in units of the spread, which keeps the signs
        moved = step * spread * directions
        both = np.concatenate([root + moved, root - moved]).reshape(-1, *target.shape)
        scores = np.asarray(target.score(both), np.float64).reshape(2, len(directions), d)
        return np.asarray(spread * (scores[0] - scores[1]) / (2 * step))

    asymmetry = math.nan
    if d <= _DENSE:
        scaled = times(np.eye(d)).T
        jacobian = scaled / np.outer(spread, spread)
        asymmetry = float(np.abs(jacobian - jacobian.T).max() / max(np.abs(jacobian).max(), 1e-300))
        eigenvalues, signs = (np.linalg.eigvalsh(0.5 * (j + j.T)) for j in (jacobian, scaled))
    else:
        eigenvalues = _ends(times, 1 / spread)
        signs = _ends(times, np.ones(d)) if np.ptp(spread) else eigenvalues
    size = np.abs(signs).max()
    if size == 0 or np.abs(signs).min() < max(1e-6, 10 * rounding / step) * size:
        kind = "degenerate"
    else:
        kind = "mode" if signs[-1] < 0 else "minimum" if signs[0] > 0 else "saddle"
    return StagnationPoint(root.reshape(target.shape), kind, eigenvalues, asymmetry)


def _ends(times: Callable[[Array], Array], factor: Array) -> Array:
    """Return the lowest and the highest eigenvalue of factor * ``times`` * factor."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    def product(v: Array) -> Array:
        direction = factor * v.ravel()
        length = float(np.linalg.norm(direction)) or 1.0
        return np.asarray(length * factor * times(direction[np.newaxis] / length)[0])

    d = len(factor)
    operator = LinearOperator((d, d), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=d)
    return np.sort(eigsh(operator, k=2, which="BE", v0=start, return_eigenvectors=False))
