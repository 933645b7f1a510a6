"""Is a score the gradient of anything? Its Jacobian must be symmetric, in every plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError
from physscore.diagnostics.derivatives import directional, jacobian, random_directions
from physscore.diagnostics.estimates import Estimate, mean_of, plain_dict
from physscore.diagnostics.foreign import Watched, finite_states, rows, watched

_Floats = npt.NDArray[np.float64]

DENSE = 128  # dimensions up to which the whole Jacobian is looked at
_PROBES = 16
_AT_ONCE = 1 << 23  # components of the directions that are held together


@dataclass(frozen=True, eq=False)
class CurlFraction:
    """The share of the antisymmetric part in the Jacobian of a score.

    With A = (J - J^T) / 2 the share is |A|^2 / |J|^2 in Frobenius norms: 0 for the gradient of anything, 1 if
    J has no symmetric part; -x + w J x in a plane has w^2 / (1 + w^2). All planes are in it, each pair of
    components once.

    Attributes
    ----------
    fraction : Estimate
        Mean over the states, each counting the same, with its standard error.
    noise : float
        What the errors of differences and rounding alone would come to, by the linearity of v -> J v.
    of_states : array (n,)
        The share at each state; by probes it can be below 0.
    plane : tuple of two tuples, or None
        The pair of components with the largest part of the antisymmetric one, if the whole Jacobian is known
        and the fraction is above the noise.
    plane_share : float
        That part: 1 if all of it lies in the plane.
    exact : bool
        Whether whole Jacobians were looked at, or random directions.
    """

    fraction: Estimate
    noise: float
    of_states: _Floats
    plane: tuple[tuple[int, ...], tuple[int, ...]] | None
    plane_share: float
    exact: bool

    @property
    def excess(self) -> float:
        """The fraction above its noise."""
        return max(0.0, self.fraction.value - self.noise)

    def __str__(self) -> str:
        where = "" if self.plane is None else f", {self.plane_share:.0%} of it in the plane of {self.plane}"
        return (
            f"share of curl in the Jacobian at {len(self.of_states)} states: {self.fraction}, of which "
            f"{self.noise:.2g} is noise{where}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        return plain_dict({
            "fraction": self.fraction, "noise": self.noise, "highest": float(self.of_states.max()),
            "states": len(self.of_states), "plane": self.plane, "plane_share": self.plane_share,
            "exact": self.exact,
        })  # fmt: skip


@np.errstate(all="ignore")  # what is not finite is said in words
def curl_fraction(score: Any, x: Any, *, probes: int | None = None, seed: int = 0) -> CurlFraction:
    """Measure the share of the antisymmetric part in the Jacobian of a score, over all planes.

    Parameters
    ----------
    score
        An object with ``shape`` and ``score(x)``.
    x
        States (n, *shape).
    probes
        Number of random directions v_i a state, 3 at least: the mean of (v_i J v_j - v_j J v_i)^2 over all
        pairs is |J - J^T|^2. [default: the whole Jacobian up to 128 dimensions, 16 directions above]
    seed
        Of the directions.

    Returns
    -------
    CurlFraction

    Raises
    ------
    InputError
        If an argument makes no sense, or J is finite at no state.
    """
    target = watched(score)
    states = finite_states(x, target.shape)
    if probes is None and target.dim <= DENSE:
        return curl_of_jacobians(target, states, jacobian(target, states))
    m = _PROBES if probes is None else probes
    if isinstance(m, bool) or not isinstance(m, int | np.integer) or m < 3:
        raise InputError(f"probes is {probes!r}: it must be a whole number of at least 3")
    at_once = max(1, _AT_ONCE // (int(m) * target.dim))
    parts = [
        _curl_by_probes(target, states[i : i + at_once], int(m), seed, i)
        for i in range(0, len(states), at_once)
    ]
    shares, noise = (np.concatenate(part) for part in zip(*parts, strict=True))
    good = np.isfinite(shares)
    _require(good)
    return CurlFraction(
        mean_of(shares[good]), float(np.nanmean(noise[good])), shares[good], None, np.nan, exact=False
    )


def _curl_by_probes(target: Watched, x: Array, m: int, seed: int, first: int) -> tuple[_Floats, _Floats]:
    """Return the shares of states, and their noise, by m random directions each."""
    v = random_directions(m, len(x), target.dim, seed=seed, law="gaussian", first=first)
    v = np.concatenate([v, (v[:1] + v[1:2]) / np.sqrt(2)])  # the last one only to see whether J v is linear
    products = directional(target, x, v.reshape(m + 1, *x.shape)).reshape(v.shape)
    off = products[m] - (products[0] + products[1]) / np.sqrt(2)
    forms = np.einsum("ind,jnd->nij", v[:m], products[:m])
    curls = (forms - forms.transpose(0, 2, 1)) ** 2  # of which the mean off the diagonal is |J - J^T|^2
    sizes = (products[:m] ** 2).sum(axis=2).T  # of which the mean is |J|^2
    # A ratio of means is biased at second order in 1 / probes; the jackknife over the probes takes that off.
    total, each = curls.sum(axis=(1, 2)), curls.sum(axis=2)
    whole = _ratio(total / (m * (m - 1)), sizes.mean(axis=1))
    fewer = (total[:, np.newaxis] - 2 * each) / ((m - 1) * (m - 2))
    left_out = _ratio(fewer, (sizes.sum(axis=1, keepdims=True) - sizes) / (m - 1))
    noise = _ratio((off**2).sum(axis=1), sizes.mean(axis=1))
    return m * whole - (m - 1) * left_out.mean(axis=1), noise


@np.errstate(all="ignore")  # what is not finite is said in words
def curl_of_jacobians(score: Any, x: Array, jacobians: _Floats) -> CurlFraction:
    """Return the same of whole Jacobians (n, d, d) that are known at states ``x``."""
    target = watched(score)
    d = target.dim
    good = np.isfinite(jacobians).all(axis=(1, 2))
    _require(good)
    jacobians, states = jacobians[good], x[good]
    curls = (jacobians - jacobians.transpose(0, 2, 1)) ** 2
    sizes = (jacobians**2).sum(axis=(1, 2))
    shares = _ratio(curls.sum(axis=(1, 2)), sizes)
    v = np.full(states.shape, 1 / np.sqrt(d))
    off = rows(directional(target, states, v)) - jacobians.sum(axis=2) / np.sqrt(d)
    noise = float(np.nanmean((d - 1) * _ratio((off**2).sum(axis=1), sizes)))
    plane, part = None, np.nan
    fraction = mean_of(shares)
    if fraction.value > 2 * noise + 1e-12:
        weighted = (curls / np.where(sizes > 0, sizes, 1.0)[:, np.newaxis, np.newaxis]).mean(axis=0)
        i, j = (int(place) for place in np.unravel_index(int(weighted.argmax()), weighted.shape))
        part = float(2 * weighted[i, j] / weighted.sum())
        first, second = (
            tuple(int(c) for c in np.unravel_index(place, target.shape)) for place in sorted((i, j))
        )
        plane = (first, second)
    return CurlFraction(fraction, noise, shares, plane, part, exact=True)


def _ratio(curl: Array, size: Array) -> _Floats:
    """Return |J - J^T|^2 / 4|J|^2, and 0 where J is."""
    return np.asarray(np.where(size == 0, 0.0, curl / np.where(size == 0, 1.0, 4 * size)))


def _require(good: Any) -> None:
    if not good.any():
        raise InputError(f"score has no finite derivative at any of {len(good)} states")
