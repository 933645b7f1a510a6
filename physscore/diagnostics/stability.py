"""Which steps of Langevin dynamics does a score bear: its curvatures, and its drift against the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError
from physscore.diagnostics.derivatives import directional, jacobian
from physscore.diagnostics.estimates import Estimate, mean_of, plain_dict
from physscore.diagnostics.foreign import Watched, finite_states, rows, watched
from physscore.diagnostics.integrability import DENSE, curl_fraction
from physscore.noise import normal

_Floats = npt.NDArray[np.float64]

_START = 82  # the number of the deviates that Lanczos starts from
_FLAT = 1e-6  # of the largest curvature: what is below is no curvature, as by differences
_FLAT_LANCZOS = 1e-4
_SYMMETRIC = 1e-3  # curl fraction below which Lanczos, which takes J as symmetric, is right to rounding
_LOWEST = 6  # curvatures sought at the lower end: the lowest may be zero, for fixed modes


@dataclass(frozen=True, eq=False)
class JacobianSpectrum:
    """Eigenvalues of the Jacobian J of a score, which for log p is its Hessian.

    Attributes
    ----------
    eigenvalues : array (states, m)
        By rising real part; all of them in few dimensions, else those of both ends, filled up with nan.
        Complex if the score has a curl.
    exact : bool
        Whether these are all.
    stable_steps : array (states,)
        Up to which step size x + eps s + sqrt(2 eps) xi is stable with the curvatures at a state:
        |1 + eps lambda| < 1 for each eigenvalue that pulls back, so 2 / |lambda| for the most negative one if
        all are real.
    stiffness : array (states,)
        Largest over smallest curvature -lambda, of the directions that pull back and are not flat.
    flat, rising : array (states,)
        Number of eigenvalues that were found to be zero, and positive: where log p is not concave.
    """

    eigenvalues: Array
    exact: bool
    stable_steps: _Floats
    stiffness: _Floats
    flat: npt.NDArray[np.int64]
    rising: npt.NDArray[np.int64]

    @property
    def stable_step(self) -> float:
        """The smallest of ``stable_steps``."""
        return float(self.stable_steps.min())

    def __str__(self) -> str:
        low, high = np.nanmin(self.eigenvalues.real), np.nanmax(self.eigenvalues.real)
        return (
            f"eigenvalues of the Jacobian at {len(self.eigenvalues)} states from {low:.4g} to {high:.4g}: "
            f"Langevin steps are stable up to {self.stable_step:.4g}, median stiffness "
            f"{_median(self.stiffness):.4g}, log p not concave at {np.mean(self.rising > 0):.0%} "
            "of the states"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        real = self.eigenvalues.real
        return plain_dict({
            "states": len(real), "exact": self.exact, "lowest": np.nanmin(real), "highest": np.nanmax(real),
            "stable_step": self.stable_step, "stable_step_median": np.median(self.stable_steps),
            "stiffness_median": _median(self.stiffness), "stiffness_highest": self.stiffness.max(),
            "flat": self.flat.max(), "not_concave": (self.rising > 0).mean(),
        })  # fmt: skip


@dataclass(frozen=True, eq=False)
class DriftToNoise:
    """The drift of a Langevin step x + eps s + sqrt(2 eps) xi against its noise: eps |s|^2 / 2d.

    It is the mean square of one over that of the other, for each state; ``Run.drift_to_noise`` is its mean.

    Attributes
    ----------
    balanced : array (n,)
        The step size at which it is 1 at a state: 2d / |s|^2.
    balanced_step : float
        That at which its mean over the states is 1.
    step_size : float or None
        eps, if one was given.
    ratio : Estimate or None
        The mean of the ratio at ``step_size``.
    """

    balanced: _Floats
    balanced_step: float
    step_size: float | None
    ratio: Estimate | None

    def __str__(self) -> str:
        text = f"drift and noise of a Langevin step are balanced at the step size {self.balanced_step:.4g}"
        return text if self.ratio is None else f"{text}; their ratio at {self.step_size:.4g} is {self.ratio}"

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        low, middle, high = np.quantile(self.balanced, [0.05, 0.5, 0.95])
        return plain_dict({
            "balanced_step": self.balanced_step, "balanced_5%": low, "balanced_50%": middle,
            "balanced_95%": high, "step_size": self.step_size, "ratio": self.ratio,
        })  # fmt: skip


@np.errstate(all="ignore")  # what is not finite is said in words
def jacobian_spectrum(score: Any, x: Any, *, dense: bool | None = None, seed: int = 0) -> JacobianSpectrum:
    """Find the eigenvalues of the Jacobian of a score, the stable step size of ULA, and the stiffness.

    Parameters
    ----------
    score
        An object with ``shape`` and ``score(x)``.
    x
        States (n, *shape).
    dense
        Whether the whole Jacobian is made, or both ends of its spectrum are found by Lanczos (Arnoldi, if
        there is a curl) with products J v. [default: dense up to 128 dimensions]
    seed
        Of the vectors that Lanczos starts from.

    Returns
    -------
    JacobianSpectrum

    Raises
    ------
    InputError
        If an argument makes no sense, or J is finite at no state.
    """
    target = watched(score)
    states = finite_states(x, target.shape)
    if dense is None:
        dense = target.dim <= DENSE
    if dense:
        return spectrum_of_jacobians(jacobian(target, states))
    if target.dim < 16:
        raise InputError(f"dense is False: in {target.dim} dimensions, below 16, only the dense way is there")
    found = [_both_ends(target, one[np.newaxis], seed) for one in states]
    both = [_sorted(np.concatenate(pair)) for pair in found]
    eigenvalues = np.full((len(both), max(map(len, both))), np.nan, np.result_type(*both))
    for row, values in zip(eigenvalues, both, strict=True):
        row[: len(values)] = values
    return _judged(eigenvalues, [low for _, low in found])


def spectrum_of_jacobians(jacobians: _Floats) -> JacobianSpectrum:
    """Return the same of whole Jacobians (n, d, d)."""
    good = jacobians[np.isfinite(jacobians).all(axis=(1, 2))]
    if not len(good):
        raise InputError(f"score has no finite derivative at any of {len(jacobians)} states")
    symmetric = 0.5 * (good + good.transpose(0, 2, 1))
    curl, size = ((good - symmetric) ** 2).sum(axis=(1, 2)), (good**2).sum(axis=(1, 2))
    # The errors of differences would make pairs of alike eigenvalues complex.
    if (curl <= 1e-8 * size).all():
        return _judged(np.linalg.eigvalsh(symmetric))
    return _judged(_sorted(np.linalg.eigvals(good)))


def _sorted(eigenvalues: Array) -> Array:
    order = np.lexsort((eigenvalues.imag, eigenvalues.real), axis=-1)
    return np.asarray(np.take_along_axis(eigenvalues, order, axis=-1))


def drift_to_noise(score: Any, x: Any, step_size: float | None = None) -> DriftToNoise:
    """Compare the drift of a Langevin step with its noise, state by state.

    Parameters
    ----------
    score
        An object with ``shape`` and ``score(x)``.
    x
        States (n, *shape).
    step_size
        eps in x + eps s + sqrt(2 eps) xi.

    Returns
    -------
    DriftToNoise

    Raises
    ------
    InputError
        If the step size is not positive.
    """
    target = watched(score)
    return drift_of_values(target.score(finite_states(x, target.shape)), step_size)


def drift_of_values(found: Array, step_size: float | None = None) -> DriftToNoise:
    """Return the same of scores (n, *shape) that are known."""
    if step_size is not None and not 0 < step_size < np.inf:
        raise InputError(f"step_size is {step_size!r}: it must be a positive number")
    s = rows(found).astype(np.float64)
    per_step = (s**2).sum(axis=1) / (2 * s.shape[1])
    with np.errstate(divide="ignore"):
        balanced, balanced_step = 1 / per_step, float(1 / per_step.mean())
    ratio = None if step_size is None else mean_of(step_size * per_step)
    return DriftToNoise(balanced, balanced_step, step_size, ratio)


def _judged(eigenvalues: Array, low: list[Array] | None = None) -> JacobianSpectrum:
    """Return what eigenvalues (states, m) say: all, or both ends with ``low`` those of small curvature."""
    real, size = eigenvalues.real, np.abs(eigenvalues)
    tiny = (_FLAT if low is None else _FLAT_LANCZOS) * np.nanmax(size, axis=1, keepdims=True)
    back = real < -tiny
    with np.errstate(divide="ignore", invalid="ignore"):
        limits = np.where(back, -2 * real / size**2, np.inf)
        stiffness = np.where(back, -real, 0.0).max(axis=1) / np.where(back, -real, np.inf).min(axis=1)
    known = back.any(axis=1)
    if low is not None:
        known &= [bool((end.real < -least).any()) for end, least in zip(low, tiny[:, 0], strict=True)]
    return JacobianSpectrum(
        eigenvalues, low is None, limits.min(axis=1), np.where(known, stiffness, np.nan),
        (size <= tiny).sum(axis=1), (real > tiny).sum(axis=1),
    )  # fmt: skip


def _both_ends(score: Watched, x: Array, seed: int) -> tuple[Array, Array]:
    """Return eigenvalues of J at one state, from the end of large curvatures and from the other end."""
    from scipy.sparse.linalg import eigs, eigsh

    def product(v: Array) -> Array:
        return directional(score, x, v.reshape(x.shape)).ravel()

    curl = curl_fraction(score, x, probes=8, seed=seed)
    symmetric = curl.fraction.value < _SYMMETRIC + curl.noise
    solver = eigsh if symmetric else eigs
    start = normal(1, score.dim, seed=seed, draw=_START)[0]
    high = _eigenvalues(solver, product, start, 1 if symmetric else 2, "LM", 1e-3, 30)
    if not len(high):
        raise InputError("score has a Jacobian whose largest eigenvalue was not found: give it directional()")
    # Near zero there is no relative precision, which is what converges: moved by the largest one there is.
    shift = 1.1 * float(np.abs(high).max())  # and nothing is moved to zero, where Lanczos cannot start

    def moved(v: Array) -> Array:
        return product(v) + shift * v

    ends = ("SA", "LA") if symmetric else ("SR", "LR")
    low = _eigenvalues(solver, moved, start, _LOWEST, ends[1], 1e-5, 12) - shift
    if high.real.min() > 0:  # the largest one is not a curvature that pulls back
        high = np.append(high, _eigenvalues(solver, moved, start, 1, ends[0], 1e-5, 12) - shift)
    return high, low


def _eigenvalues(
    solver: Any,
    product: Callable[[Array], Array],
    start: Array,
    k: int,
    which: str,
    tol: float,
    restarts: int,
) -> Array:
    """Return those of k eigenvalues of a linear map that have converged."""
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator

    d = len(start)
    operator = LinearOperator((d, d), matvec=product, dtype=np.float64)
    try:
        return np.asarray(solver(
            operator, k, which=which, v0=start, ncv=min(d - 1, 40), tol=tol, maxiter=restarts,
            return_eigenvectors=False,
        ))  # fmt: skip
    except ArpackNoConvergence as stopped:
        return np.asarray(stopped.eigenvalues)
    except ArpackError:  # as for J = 0
        return np.empty(0)


def _median(values: _Floats) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
