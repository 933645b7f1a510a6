"""The deterministic flow of a score, dx/dt = s(x), and the points at which it stands still."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from physscore.arrays import as_states
from physscore.core import Array, InputError, Score

_DENSE = 200  # dimensions up to which the whole Jacobian is looked at


class StagnationPoint(NamedTuple):
    """A point at which the score is zero."""

    x: Array
    """Where, of shape ``shape``."""
    kind: str
    """"mode", "minimum", "saddle", or "degenerate" where an eigenvalue is zero."""
    eigenvalues: Array
    """Of the Jacobian of the score, rising; in many dimensions only the lowest and the highest."""
    asymmetry: float
    """Largest |J - J^T| over the largest |J|: zero for the gradient of anything. NaN if not known."""


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
        Relative and absolute error of each component.
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
    from scipy.integrate import solve_ivp

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
            velocity, (0.0, time), start.ravel(), "LSODA" if start.size <= _DENSE else "RK45",
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
    in many); roots closer than ``same`` are one. A zero of the score need not be an extremum: the
    eigenvalues of its Jacobian, the Hessian of log p, tell.

    Parameters
    ----------
    target
        What gives the score.
    starts
        Where to begin, of shape (n, *shape); spread them over the region of interest.
    tolerance
        How small the score must be, relative to its size at the starts.
    same
        Distance below which two roots are one, relative to the spread of the starts.

    Returns
    -------
    list of StagnationPoint
        The modes first.

    Raises
    ------
    InputError
        If shapes are wrong.
    """
    from scipy import optimize

    x = _states(target, starts)
    if not len(x):
        raise InputError("starts has no states: give one at least")
    scale = float(np.sqrt(np.mean(target.score(x) ** 2))) or 1.0
    spread = float(np.ptp(x)) or float(np.abs(x).max()) or 1.0

    def score_of(flat: Array) -> Array:  # of x / spread, since the methods know lengths near 1 only
        found = np.asarray(target.score(spread * flat.reshape(1, *target.shape)), np.float64)
        return spread * found.ravel()

    found: list[StagnationPoint] = []
    for start in x:
        method = "hybr" if target.dim <= _DENSE else "krylov"
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                root = optimize.root(score_of, start.ravel() / spread, method=method, tol=1e-12).x
            except (ValueError, optimize.NoConvergence):
                continue
            value = score_of(root)
        if not np.isfinite(value).all() or np.abs(value).max() > tolerance * scale * spread:
            continue
        root = spread * root
        if all(np.abs(root - point.x.ravel()).max() > same * spread for point in found):
            found.append(_classified(target, root, spread))
    order = {"mode": 0, "saddle": 1, "minimum": 2, "degenerate": 3}
    return sorted(found, key=lambda point: order[point.kind])


def _states(target: Score, x: Any) -> Array:
    if not isinstance(target, Score):
        raise InputError(f"target is a {type(target).__name__}: it must be an Energy or a Score")
    states = as_states(x, target.shape).astype(np.float64)
    if not np.isfinite(states).all():
        raise InputError("x is not finite everywhere: start where the score is")
    return states


def _classified(target: Score, root: Array, spread: float) -> StagnationPoint:
    step = max(1e-5 * spread, 1e-9 * float(np.abs(root).max()))
    d = len(root)

    def jacobian_times(directions: Array) -> Array:
        moved = step * directions
        both = np.concatenate([root + moved, root - moved]).reshape(-1, *target.shape)
        scores = np.asarray(target.score(both), np.float64).reshape(2, len(directions), d)
        return np.asarray((scores[0] - scores[1]) / (2 * step))

    asymmetry = math.nan
    if d <= _DENSE:
        jacobian = jacobian_times(np.eye(d)).T
        asymmetry = float(np.abs(jacobian - jacobian.T).max() / max(np.abs(jacobian).max(), 1e-300))
        eigenvalues = np.linalg.eigvalsh(0.5 * (jacobian + jacobian.T))
    else:
        from scipy.sparse.linalg import LinearOperator, eigsh

        operator = LinearOperator(
            (d, d), matvec=lambda v: jacobian_times(v.reshape(1, -1))[0], dtype=np.float64
        )
        start = np.random.default_rng(0).normal(size=d)
        eigenvalues = np.sort(eigsh(operator, k=2, which="BE", v0=start, return_eigenvectors=False))
    size = np.abs(eigenvalues).max()
    low, high = eigenvalues[0], eigenvalues[-1]
    if size == 0 or np.abs(eigenvalues).min() < 1e-6 * size:
        kind = "degenerate"
    else:
        kind = "mode" if high < 0 else "minimum" if low > 0 else "saddle"
    return StagnationPoint(root.reshape(target.shape), kind, eigenvalues, asymmetry)
