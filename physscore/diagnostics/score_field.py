"""Can a score be trusted? The audit of any score, ours or foreign, in one call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from physscore.core import Array, Energy, InputError
from physscore.diagnostics import verdict_of_score as words
from physscore.diagnostics.derivatives import divergence, jacobian
from physscore.diagnostics.estimates import plain
from physscore.diagnostics.foreign import Watched, finite_states, rows, spread_over, watched
from physscore.diagnostics.hyvarinen import DivergenceStatistics, statistics_of_values
from physscore.diagnostics.integrability import DENSE, CurlFraction, curl_fraction, curl_of_jacobians
from physscore.diagnostics.line_integrals import PathGaps, Rays, path_gaps, rays
from physscore.diagnostics.score_error import BandErrors, ScoreError, bands_of_values, error_of_values
from physscore.diagnostics.score_identities import ScoreIdentities, identities
from physscore.diagnostics.stability import (
    DriftToNoise,
    JacobianSpectrum,
    drift_of_values,
    jacobian_spectrum,
    spectrum_of_jacobians,
)
from physscore.grid import Grid

_FEWEST = 8  # states
_EVALUATIONS = 10_000
_COMPONENTS = 1 << 29  # of all the states of that many evaluations
_MOST_STATES, _MOST_PAIRS, _MOST_RAYS = 1000, 64, 12
_DIVERGENCE_PROBES = 8


@dataclass(frozen=True, eq=False)
class ScoreAudit:
    """What was found out about a score.

    It has passed unless one of these holds, each also beyond three (in bands four) of its standard errors, or
    of the error of the integrals:

    * the score, a derivative or an integral of it is not finite;
    * the curl fraction is above 0.01: an antisymmetric part of a tenth of the Jacobian;
    * integrals between states differ on two ways by more than 0.1 of the difference of log p, and 0.001;
    * log p along rays differs from a known energy, the truth's or its own, by more than 0.1 of its range,
      and 0.001;
    * with a truth: the best scale and the gain are both off by more than 0.1, the mean cosine is below 0.95,
      the relative Fisher divergence above 0.1, or in a band of k the gain outside 0.8 to 1.25 or the cosine
      below 0.9;
    * without a truth: the scale that Stein's identity gives it is negative;
    * with draws: that scale and -E[s . (x - mean)] a component are both off 1 by more than 0.1, and the scale
      by four errors, or E[s] = 0 or E[s (x - mean)^T] = -1 is broken by more than 0.3, in units of the
      standard deviations of the states and of the rms of that component of the score, as a right one is by a
      chance of at most 10^-3;
    * with a step size: it is beyond the stable one at more than one state in 20.

    Attributes
    ----------
    target : str
    shape : tuple
    n, not_finite : int
        States, and those at which the score, or the truth, is not finite: they are left out of all else.
    curl : CurlFraction or None
    paths : PathGaps or None
    divergence : DivergenceStatistics or None
    error : ScoreError or None
        With a truth only.
    bands : BandErrors or None
        With a truth and a grid only.
    spectrum : JacobianSpectrum or None
    drift : DriftToNoise or None
    rays : Rays or None
    identities : ScoreIdentities or None
        With draws only.
    energy : str
        What ``rays`` are compared with.
    step_size : float or None
    evaluations : int
        How often the score was evaluated.
    seed : int
    reasons : list of str
        Why it has not passed, in words.
    remarks : list of str
        What else is worth knowing, in words.
    """

    target: str
    shape: tuple[int, ...]
    n: int
    not_finite: int
    curl: CurlFraction | None = None
    paths: PathGaps | None = None
    divergence: DivergenceStatistics | None = None
    error: ScoreError | None = None
    bands: BandErrors | None = None
    spectrum: JacobianSpectrum | None = None
    drift: DriftToNoise | None = None
    rays: Rays | None = None
    identities: ScoreIdentities | None = None
    energy: str = ""
    step_size: float | None = None
    evaluations: int = 0
    seed: int = 0
    reasons: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the score."""
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers and the words, ready for JSON."""
        parts = ("curl", "paths", "divergence", "error", "bands", "spectrum", "drift", "rays",
                 "identities")  # fmt: skip
        found = {name: getattr(self, name) for name in parts}
        return {
            "target": self.target, "passed": self.passed, "reasons": self.reasons, "remarks": self.remarks,
            "states": self.n, "shape": list(self.shape), "not_finite": self.not_finite,
            **{name: None if part is None else part.as_dict() for name, part in found.items()},
            "energy": self.energy or None, "step_size": plain(self.step_size),
            "evaluations": self.evaluations, "seed": self.seed,
        }  # fmt: skip

    def __str__(self) -> str:
        return words.table(self)


@np.errstate(all="ignore")  # what is not finite is said in words
def audit_score(
    score: Any,
    x: Any,
    *,
    truth: Any = None,
    draws: bool = False,
    step_size: float | None = None,
    grid: Grid | None = None,
    seed: int = 0,
    evaluations: int | None = None,
    progress: bool = False,
) -> ScoreAudit:
    """Look at a score from all sides: curl, divergence, error, curvatures, steps and integrals.

    Parameters
    ----------
    score
        What is looked at: an Energy, a Score, or any object with a tuple ``shape`` and a method ``score(x)``,
        NumPy (n, *shape) in and out. Make one of a function with ``from_functions``.
    x
        Independent states (n, *shape), where the score will be used; best held-out draws.
    truth
        The true score, an object of the same kind, where it is known.
    draws
        Whether the states are independent draws from the density that the score should be of: it then must
        have the size that Stein's identity says, and E[s] = 0 and E[s (x - mean)^T] = -1. The weights of
        modes that are far apart no score tells.
    step_size
        That of unadjusted Langevin, eps in x + eps s + sqrt(2 eps) xi, if it should be judged.
    grid
        The box, if the states are fields. [default: that of the truth or of the score, if it has one]
    seed
        Of random directions and corners.
    evaluations
        About how often the score may be evaluated for each of the parts, whose numbers of states follow; a
        few thousand in all are needed. [default: 10^4, less for states of more than 5 10^4 components]
    progress
        Count the evaluations in a progress bar.

    Returns
    -------
    ScoreAudit

    Raises
    ------
    InputError
        If an argument makes no sense.
    """
    target = watched(score)
    states = finite_states(x, target.shape)
    if len(states) < _FEWEST:
        raise InputError(f"x has {len(states)} states: an audit needs at least {_FEWEST}, better hundreds")
    if step_size is not None and not 0 < step_size < np.inf:
        raise InputError(f"step_size is {step_size!r}: it must be a positive number")
    known = None if truth is None else watched(truth, "truth")
    if known is not None and known.shape != target.shape:
        raise InputError(
            f"truth is of states of shape {known.shape}: it must be {target.shape}, as the score"
        )
    box = _box(grid, known, target)
    if evaluations is None:
        evaluations = max(1, min(_EVALUATIONS, _COMPONENTS // target.dim))
    if isinstance(evaluations, bool) or not isinstance(evaluations, int | np.integer) or evaluations < 1:
        raise InputError(f"evaluations is {evaluations!r}: it must be a whole number of at least 1")
    with tqdm(desc="audit", unit=" evaluations", disable=None if progress else True) as target.bar:
        about = _parts(target, known, states, box, step_size, evaluations, seed, draws)
    audit = ScoreAudit(**about, evaluations=target.evaluations)
    audit.reasons.extend(words.reasons(audit))
    audit.remarks.extend(words.remarks(audit))
    return audit


def _parts(
    target: Watched,
    known: Watched | None,
    states: Array,
    box: Grid | None,
    step_size: float | None,
    evaluations: int,
    seed: int,
    draws: bool,
) -> dict[str, Any]:
    """Return all that is measured."""
    found = target.score(states)
    good = np.isfinite(rows(found)).all(axis=1)
    true = None if known is None else known.score(states)
    if true is not None:
        good &= np.isfinite(rows(true)).all(axis=1)
    about: dict[str, Any] = {
        "target": repr(target), "shape": target.shape, "n": len(states), "not_finite": int((~good).sum()),
        "step_size": step_size, "seed": seed,
    }  # fmt: skip
    if good.sum() >= _FEWEST:
        about |= _derivatives(target, states[good], found[good], evaluations, seed)
        about |= _integrals(target, known, states[good], evaluations, seed)
        if draws:
            about["identities"] = identities(found[good], states[good], box)
        about["drift"] = drift_of_values(found[good], step_size)
        if true is not None:
            about["error"] = error_of_values(found[good], true[good])
            if box is not None:
                about["bands"] = bands_of_values(found[good], true[good], box)
    return about


def _box(grid: Grid | None, truth: Watched | None, score: Watched) -> Grid | None:
    if grid is not None:
        if not isinstance(grid, Grid) or grid.shape != score.shape:
            raise InputError(f"grid is {grid!r}: it must be a Grid of shape {score.shape}, as the states")
        return grid
    for one in (truth, score):
        box = getattr(getattr(one, "wrapped", None), "grid", None)
        if isinstance(box, Grid) and box.shape == score.shape:
            return box
    return None


def _derivatives(target: Watched, x: Array, found: Array, evaluations: int, seed: int) -> dict[str, Any]:
    """Return what the Jacobian says: whole in few dimensions, by products with directions in many."""
    cost = 2 if hasattr(target, "directional") else 4

    def some(products: int, most: int = _MOST_STATES, fewest: int = 4) -> Array:
        return spread_over(len(x), int(np.clip(evaluations // (cost * products), fewest, most)))

    dense = target.dim <= DENSE
    chosen = some(target.dim, fewest=_FEWEST) if dense else some(_DIVERGENCE_PROBES, fewest=_FEWEST)
    if dense:
        matrices = jacobian(target, x[chosen])
        values = np.where(
            np.isfinite(matrices).all(axis=(1, 2)), np.trace(matrices, axis1=1, axis2=2), np.nan
        )
    else:
        values = divergence(target, x[chosen], _DIVERGENCE_PROBES, seed).value
    good = np.isfinite(values)
    parts: dict[str, Any] = {}
    if not good.all():
        parts["reasons"] = [f"the score has no finite derivative at {(~good).sum()} of {len(good)} states"]
    if not good.any():
        return parts
    used = chosen[good]
    parts["divergence"] = statistics_of_values(found[used], values[good])
    if dense:
        parts["curl"] = curl_of_jacobians(target, x[used], matrices[good])
        parts["spectrum"] = spectrum_of_jacobians(matrices[good])
        return parts
    parts["curl"] = curl_fraction(target, x[used[spread_over(len(used), len(some(17)))]], seed=seed)
    try:
        parts["spectrum"] = jacobian_spectrum(target, x[used[: len(some(500, 4, 1))]], seed=seed)
    except InputError as stopped:  # Lanczos has not converged, or met what is not finite
        parts["remarks"] = [f"curvatures and stable steps are not known: {stopped}"]
    return parts


def _integrals(
    target: Watched, truth: Watched | None, x: Array, evaluations: int, seed: int
) -> dict[str, Any]:
    pairs, most = np.clip([evaluations // 100, evaluations // 400], 4, [_MOST_PAIRS, _MOST_RAYS])
    energy, name = None, ""
    if truth is not None and isinstance(truth.wrapped, Energy):
        energy, name = truth.wrapped, "the true energy"
    elif truth is None and isinstance(target.wrapped, Energy):
        energy, name = target.wrapped, "its own energy"
    return {
        "paths": path_gaps(target, x, pairs=int(pairs), seed=seed),
        "rays": rays(target, x, energy=energy, most=int(most)),
        "energy": name,
    }
