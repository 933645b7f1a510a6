"""How far is a score from a known one: in scale, in magnitude, in direction, and in which band of k?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError
from physscore.diagnostics.estimates import Estimate, mean_of, of_means, of_means_each, plain
from physscore.diagnostics.foreign import finite_states, rows, watched
from physscore.diagnostics.power import power_spectrum
from physscore.diagnostics.table import table
from physscore.grid import Grid

_Floats = npt.NDArray[np.float64]


class FisherDivergence(NamedTuple):
    """The mean squared distance of a score from the true one."""

    value: float
    """E|s - s*|^2 over the states."""
    error: float
    relative: float
    """E|s - s*|^2 / E|s*|^2: 1 for a score that is zero, 4 for one with the wrong sign."""
    relative_error: float


@dataclass(frozen=True, eq=False)
class ScoreError:
    """The error of a score, taken apart.

    The best scale c = <s, s*> / <s, s> makes E|c s - s*|^2 least. What c s leaves is, state by state,
    (c|s| - |s*|)^2 + 2 c|s||s*| (1 - cos): an error of the magnitude and one of the direction. So the three
    shares of E|s*|^2 add up to the relative Fisher divergence.

    Attributes
    ----------
    fisher : FisherDivergence
    scale : Estimate
        c, by which the score should be multiplied; 1 if its size is right, below 0 if its sign is wrong. An
        error of the direction makes it smaller.
    gain : Estimate
        <s, s*> / <s*, s*>: by how much the score is too large along the true one. The cosine over all states
        together is sqrt(scale gain); the size is wrong if both are.
    scale_share, magnitude_share, direction_share : Estimate
        (1 - c)^2 E|s|^2, and what the two errors come to after the best scale, as shares of E|s*|^2.
    cosine : Estimate
        Mean over the states of the cosine between s and s*.
    cosines : array (n,)
        That of each state; not a number where a score is zero.
    n : int
        Number of states.
    """

    fisher: FisherDivergence
    scale: Estimate
    gain: Estimate
    scale_share: Estimate
    magnitude_share: Estimate
    direction_share: Estimate
    cosine: Estimate
    cosines: _Floats
    n: int

    def __str__(self) -> str:
        shares = [f"{name} {getattr(self, name + '_share')}" for name in ("scale", "magnitude", "direction")]
        relative = Estimate(self.fisher.relative, self.fisher.relative_error)
        return (
            f"{self.n} states: relative error E|s - s*|^2 / E|s*|^2 = {relative}, of the "
            f"{', of the '.join(shares)}; "
            f"best scale {self.scale}, gain {self.gain}, cosine {self.cosine}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        names = ("scale", "gain", "scale_share", "magnitude_share", "direction_share", "cosine")
        return {
            "states": self.n,
            "fisher_divergence": plain(self.fisher._asdict()),
            **{name: getattr(self, name).as_dict() for name in names},
            "cosine_lowest": plain(float(np.nanmin(self.cosines, initial=1.0))),
        }


@dataclass(frozen=True, eq=False)
class BandErrors:
    """The error of a score of fields, band by band of wavenumber.

    Attributes
    ----------
    k : array (bands,)
        Mean |k| of the modes, in rad per unit length; 0 for the mean of the field, if it has a score.
    n_modes : array (bands,)
    gain, gain_error : array (bands,)
        Re<s s*^*> / <|s*|^2>: by how much the score is too large along the true one.
    cosine, cosine_error : array (bands,)
        Re<s s*^*> / sqrt(<|s|^2> <|s*|^2>).
    relative, relative_error : array (bands,)
        <|s - s*|^2> / <|s*|^2>.
    """

    k: _Floats
    n_modes: npt.NDArray[np.int64]
    gain: _Floats
    gain_error: _Floats
    cosine: _Floats
    cosine_error: _Floats
    relative: _Floats
    relative_error: _Floats

    def __str__(self) -> str:
        shown = ("k", "n_modes", "gain", "gain_error", "cosine", "relative")
        return "\n".join(table({name: getattr(self, name) for name in shown}))

    def as_dict(self) -> dict[str, Any]:
        """Return the arrays as lists, ready for JSON."""
        return {name: plain(value) for name, value in vars(self).items()}


def fisher_divergence(score: Any, truth: Any, x: Any) -> FisherDivergence:
    """Measure E|s - s*|^2, and its ratio to E|s*|^2, over states.

    Parameters
    ----------
    score
        The score s: an object with ``shape`` and ``score(x)``.
    truth
        The true one, s*, of the same kind.
    x
        Independent states (n, *shape), best draws from the true density.

    Returns
    -------
    FisherDivergence

    Raises
    ------
    InputError
        If shapes do not fit, or a score is not finite at a state.
    """
    return _fisher(*_both(score, truth, x))


def score_error(score: Any, truth: Any, x: Any) -> ScoreError:
    """Take the error of a score apart into scale, magnitude and direction; arguments as there.

    Raises
    ------
    InputError
        As in :func:`fisher_divergence`.
    """
    return error_of_values(*_both(score, truth, x))


def band_errors(score: Any, truth: Any, x: Any, grid: Grid, *, bins: Any = "linear") -> BandErrors:
    """Measure gain and cosine of a score of fields in bands of |k|.

    Parameters
    ----------
    score, truth, x
        As in :func:`fisher_divergence`.
    grid
        The box of the fields.
    bins
        As in ``power_spectrum``.

    Returns
    -------
    BandErrors
        Without the bands in which the true score is zero.

    Raises
    ------
    InputError
        If shapes do not fit, or a score is not finite at a state.
    """
    return bands_of_values(*_both(score, truth, x), grid, bins)


def _both(score: Any, truth: Any, x: Any) -> tuple[Array, Array]:
    first, second = watched(score), watched(truth, "truth")
    if first.shape != second.shape:
        raise InputError(
            f"truth is of states of shape {second.shape}: it must be {first.shape}, as the score"
        )
    states = finite_states(x, first.shape)
    found, true = first.score(states), second.score(states)
    for name, values in (("score", found), ("truth", true)):
        bad = ~np.isfinite(rows(values)).all(axis=1)
        if bad.any():
            raise InputError(f"{name} is not finite at {bad.sum()} of {len(states)} states: leave them out")
    return found, true


def _fisher(found: Array, true: Array) -> FisherDivergence:
    s, t = rows(found), rows(true)
    off, size = ((s - t) ** 2).sum(axis=1), (t**2).sum(axis=1)
    return FisherDivergence(*mean_of(off), *of_means(lambda a, b: a / b, off, size))


def error_of_values(found: Array, true: Array) -> ScoreError:
    """Return the error of scores (n, *shape) that are known at the same states."""
    s, t = rows(found), rows(true)
    ss, tt, st = (s * s).sum(axis=1), (t * t).sum(axis=1), (s * t).sum(axis=1)
    sizes = np.sqrt(ss * tt)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = np.where(sizes > 0, st / sizes, np.nan)

    def magnitude(ss: Array, tt: Array, st: Array, sizes: Array) -> Array:
        c = np.abs(st / ss)
        return np.asarray((c * c * ss - 2 * c * sizes + tt) / tt)

    def direction(ss: Array, tt: Array, st: Array, sizes: Array) -> Array:
        c = st / ss
        return np.asarray(2 * (np.abs(c) * sizes - c * st) / tt)

    return ScoreError(
        fisher=_fisher(found, true),
        scale=of_means(lambda ss, st: st / ss, ss, st),
        gain=of_means(lambda tt, st: st / tt, tt, st),
        scale_share=of_means(lambda ss, tt, st: (1 - st / ss) ** 2 * ss / tt, ss, tt, st),
        magnitude_share=of_means(magnitude, ss, tt, st, sizes),
        direction_share=of_means(direction, ss, tt, st, sizes),
        cosine=mean_of(cosines[np.isfinite(cosines)]),
        cosines=cosines,
        n=len(s),
    )


def bands_of_values(found: Array, true: Array, grid: Grid, bins: Any = "linear") -> BandErrors:
    """Return the errors by band of scores (n, *grid.shape) that are known at the same states."""
    if found.shape[1:] != grid.shape:
        raise InputError(f"grid has shape {grid.shape}: it must be {found.shape[1:]}, as the fields")
    own, theirs = power_spectrum(found, grid, bins=bins), power_spectrum(true, grid, bins=bins)
    cross, off = power_spectrum(found, grid, true, bins=bins), power_spectrum(found - true, grid, bins=bins)
    axes = tuple(range(1, found.ndim))
    s, t = found.mean(axis=axes)[:, np.newaxis], true.mean(axis=axes)[:, np.newaxis]
    unit = grid.volume  # |delta_k|^2 / V of the mode k = 0, which is in no bin
    columns = [
        np.hstack([unit * zero, bands])
        for zero, bands in ((s * s, own.power), (t * t, theirs.power), (s * t, cross.power),
                            ((s - t) ** 2, off.power))
    ]  # fmt: skip
    k, n_modes = np.append(0.0, own.k), np.append(1, own.n_modes)
    power = columns[1].mean(axis=0)
    with np.errstate(invalid="ignore"):
        used = (n_modes > 0) & (power > 0)
        used[0] = power[0] > 1e-12 * np.nanmax(power)  # and not only rounding
    ss, tt, st, dd = (column[:, used] for column in columns)
    gain, gain_error = of_means_each(lambda st, tt: st / tt, st, tt)
    cosine, cosine_error = of_means_each(lambda ss, tt, st: st / np.sqrt(ss * tt), ss, tt, st)
    relative, relative_error = of_means_each(lambda dd, tt: dd / tt, dd, tt)
    return BandErrors(
        k[used], n_modes[used], gain, gain_error, cosine, cosine_error, relative, relative_error
    )
