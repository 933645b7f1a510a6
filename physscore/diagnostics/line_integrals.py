"""Integrals of a score along lines: what they say of log p, and whether they depend on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, Energy, InputError
from physscore.diagnostics.estimates import plain_dict
from physscore.diagnostics.foreign import Watched, finite_states, spread_over, watched
from physscore.energies.integrated import IntegratedScore
from physscore.noise import normal

_Floats = npt.NDArray[np.float64]

_DETOURS = 81  # the number of the deviates that choose the corners
_NODES = 8  # of a line at first
_SEGMENT_NODES = 4
_HALVED = 8  # how often a part of a line may be halved
_PARTS = 2  # of a line, on average, that are halved at once
_TOLERANCE, _RELATIVE = 1e-3, 1e-5  # of an integral over a part: in nats, or relative if that is more
_SEGMENTS = 20  # of a ray
_AT_ONCE = 1 << 24  # components of the states on rays that are held together


@dataclass(frozen=True, eq=False)
class PathGaps:
    """Integrals of a score between pairs of states, straight and around a corner.

    Attributes
    ----------
    straight : array (pairs,)
        Along the straight line: log p of the second state over that of the first, if there is a density.
    gap : array (pairs,)
        How much more the way around the corner gives: 0 for a gradient.
    error : array (pairs,)
        Error of the sums that stand for the integrals, in ``gap``.
    """

    straight: _Floats
    gap: _Floats
    error: _Floats

    @property
    def typical_gap(self) -> float:
        """Upper quartile of the size of the gaps, in nats."""
        return _upper_quartile(self.gap)

    @property
    def typical_difference(self) -> float:
        """Upper quartile of the size of the differences of log p, in nats."""
        return _upper_quartile(self.straight)

    @property
    def typical_error(self) -> float:
        """Upper quartile of the errors of the sums, in nats."""
        return _upper_quartile(self.error)

    @property
    def relative(self) -> float:
        """``typical_gap`` over ``typical_difference``."""
        return self.typical_gap / max(self.typical_difference, 1e-300)

    @property
    def not_finite(self) -> int:
        """Number of pairs of which an integral is not finite: the other numbers are about the rest."""
        return int((~np.isfinite(self.gap)).sum())

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        return plain_dict({
            "pairs": len(self.gap), "not_finite": self.not_finite, "typical_gap": self.typical_gap,
            "largest_gap": np.abs(self.gap).max(), "typical_difference": self.typical_difference,
            "relative": self.relative, "quadrature_error": self.typical_error,
        })  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rays:
    """log p along rays from a centre through states, by integrals of the score.

    Attributes
    ----------
    t : array (m + 1,)
        Places on a ray: 0 is the centre, 1 the state.
    log_p : array (rays, m + 1)
        log p minus that of the centre.
    error : array (rays, m + 1)
        Error of the sums that stand for the integrals.
    known : array (rays, m + 1) or None
        The same by an energy, where it is known.
    """

    t: _Floats
    log_p: _Floats
    error: _Floats
    known: _Floats | None

    @property
    def deviation(self) -> float:
        """Root-mean-square of log_p - known at the states, in nats."""
        return float("nan") if self.known is None else _rms(self.log_p[:, -1] - self.known[:, -1])

    @property
    def largest_deviation(self) -> float:
        """The largest |log_p - known| anywhere on a ray, in nats."""
        return float("nan") if self.known is None else float(np.abs(self.log_p - self.known).max())

    @property
    def difference(self) -> float:
        """Root-mean-square over the rays of the range of the known log p on them, in nats."""
        return float("nan") if self.known is None else _rms(np.ptp(self.known, axis=1))

    @property
    def quadrature_error(self) -> float:
        """Root-mean-square error of the sums at the states, in nats."""
        return _rms(self.error[:, -1])

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        return plain_dict({
            "rays": len(self.log_p), "deviation": self.deviation,
            "largest_deviation": self.largest_deviation, "difference": self.difference,
            "quadrature_error": self.quadrature_error, "log_p": self.log_p[:, -1],
            "known": None if self.known is None else self.known[:, -1],
        })  # fmt: skip


def path_gaps(score: Any, x: Any, *, pairs: int = 64, seed: int = 0) -> PathGaps:
    """Integrate a score from state to state, straight and around a corner, and compare.

    The corner has some components of the second state already, the others still of the first: for states of
    one axis a random half of them, for fields half the cells, next to each other, from a random one on. So a
    curl in any plane is met by some pairs.

    Parameters
    ----------
    score
        An object with ``shape`` and ``score(x)``.
    x
        States (n, *shape), of which the first half is paired with the second.
    pairs
        How many pairs at most.
    seed
        Of the corners.

    Returns
    -------
    PathGaps

    Raises
    ------
    InputError
        If there are not two states.
    """
    target = watched(score)
    states = finite_states(x, target.shape)
    half = len(states) // 2
    if half < 1:
        raise InputError(f"x has {len(states)} states: paths between them need two at least")
    chosen = spread_over(half, pairs)
    start, end = states[chosen], states[half + chosen]
    corner = np.where(_first_legs(target, len(chosen), seed).reshape(start.shape), end, start)
    ends = np.concatenate([end, corner, end]), np.concatenate([start, start, corner])
    value, error = _integrals(target, ends[1], ends[0])
    straight, first, second = value.reshape(3, -1)
    return PathGaps(straight, first + second - straight, error.reshape(3, -1).sum(axis=0))


def _first_legs(score: Watched, n: int, seed: int) -> npt.NDArray[np.bool_]:
    """Return which components each of n paths changes first: (n, d)."""
    d = score.dim
    deviates = normal(n, d if len(score.shape) == 1 else 1, seed=seed, draw=_DETOURS)
    if len(score.shape) == 1:
        return np.asarray(deviates.argsort(axis=1).argsort(axis=1) < (d + 1) // 2)
    from scipy.special import ndtr

    first = np.floor(ndtr(deviates) * d).astype(np.int64)
    return np.asarray((np.arange(d) - first) % d < (d + 1) // 2)


def rays(score: Any, x: Any, *, centre: Any = None, energy: Energy | None = None, most: int = 12) -> Rays:
    """Build log p along straight rays from a centre through states by integrating a score.

    Parameters
    ----------
    score
        An object with ``shape`` and ``score(x)``.
    x
        States (n, *shape).
    centre
        Where the rays begin, of shape ``shape``. [default: the mean of the states]
    energy
        What log p is compared with.
    most
        How many rays at most, evenly spaced in ``x``.

    Returns
    -------
    Rays

    Raises
    ------
    InputError
        If shapes do not fit.
    """
    target = watched(score)
    states = finite_states(x, target.shape)
    origin = np.asarray(states.mean(axis=0) if centre is None else centre, np.float64)
    if origin.shape != target.shape or not np.isfinite(origin).all():
        raise InputError(f"centre has shape {origin.shape}: it must be one finite state, {target.shape}")
    ends = states[spread_over(len(states), most)]
    t = np.linspace(0.0, 1.0, _SEGMENTS + 1)
    at_once = max(1, _AT_ONCE // (len(t) * target.dim))
    parts = [_along(target, origin, ends[i : i + at_once], t, energy) for i in range(0, len(ends), at_once)]
    log_p, errors, known = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Rays(t, log_p, errors, None if energy is None else known)


def _along(
    score: Watched, origin: Array, ends: Array, t: _Floats, energy: Energy | None
) -> tuple[_Floats, _Floats, _Floats]:
    """Return log p on some rays by integrals, their errors, and what an energy says: (rays, m + 1) each."""
    places = origin + t.reshape(-1, 1, *[1] * len(score.shape)) * (ends - origin)
    flat = (-1, *score.shape)
    parts = _integrals(score, places[:-1].reshape(flat), places[1:].reshape(flat), _SEGMENT_NODES)
    zero = np.zeros((1, len(ends)))
    log_p, errors = (np.concatenate([zero, part.reshape(_SEGMENTS, -1)]).cumsum(axis=0).T for part in parts)
    found = np.zeros((len(t), len(ends)))
    if energy is not None:
        with np.errstate(all="ignore"):
            found = energy.energy(places.reshape(flat)).reshape(found.shape)
    return log_p, errors, (found[0] - found).T


def _integrals(score: Watched, start: Array, end: Array, nodes: int = _NODES) -> tuple[_Floats, _Floats]:
    """Return integrals of a score along lines, and their errors; what is not resolved is halved."""
    value, error = np.zeros(len(start)), np.zeros(len(start))
    line, low, width = np.arange(len(start)), np.zeros(len(start)), 1.0
    way, whole = end - start, IntegratedScore(score)
    for halved in range(_HALVED + 1):
        part = width * way[line]
        first = start[line] + low.reshape(-1, *[1] * len(score.shape)) * way[line]
        with np.errstate(all="ignore"):
            fine = whole._line_integral(first, part, 2 * nodes + 1)
            off = np.abs(fine - whole._line_integral(first, part, nodes))
            again = off > np.maximum(_TOLERANCE, _RELATIVE * np.abs(fine))
        if halved == _HALVED:
            again[:] = False
        elif again.sum() > _PARTS * len(start):  # noise, which is nowhere resolved
            again &= off >= np.partition(off[again], -_PARTS * len(start))[-_PARTS * len(start)]
        np.add.at(value, line[~again], fine[~again])
        np.add.at(error, line[~again], off[~again])
        if not again.any():
            break
        width /= 2
        line, low = np.repeat(line[again], 2), (low[again, np.newaxis] + [0.0, width]).ravel()
    return value, error


def _upper_quartile(values: Array) -> float:
    known = np.abs(values[np.isfinite(values)])
    return float(np.quantile(known, 0.75)) if len(known) else float("nan")


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))
