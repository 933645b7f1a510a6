"""The Gaussian field behind a lognormal one: which power it must have to give the target's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from physscore.arrays import n_threads
from physscore.core import InputError
from physscore.grid import Grid

_Floats = npt.NDArray[np.float64]

_MAX_ITERATIONS = 500
_TOLERANCE = 1e-5  # of the target, at the modes that cannot be met


def gaussian_power(grid: Grid, target: _Floats) -> tuple[_Floats, _Floats]:
    """Return the power of the Gaussian field g and that of delta = exp(g - var(g)/2) - 1.

    The correlations are tied by xi_g = ln(1 + xi), cell by cell. Two things are free or bound:

    * The power of delta at k = 0, a constant c added to xi, is free, and chosen such that g has
      none there.
    * The power of g must not be negative. Where ln(1 + xi) asks for that, the power of delta is
      raised above the target until g has none: with T the raised target and P_g(T) its Gaussian
      power, 0 <= T - target, 0 <= P_g(T), and one of the two is zero at each mode. This monotone
      complementarity problem is solved by projection, T <- max(target, T - P_g(T)).

    Parameters
    ----------
    grid
        The box.
    target
        Wanted P over the octant of non-negative frequencies, flat, in length^dim; 0 at k = 0.

    Returns
    -------
    power, achieved
        Of g and of delta, like ``target``; both 0 at k = 0.

    Raises
    ------
    InputError
        If the target asks for a correlation of -1 or less, which no density can have.
    """
    shape = tuple(n // 2 + 1 for n in grid.cube)
    to_power = grid.volume / grid.n_cells
    wanted = target.reshape(shape)
    raised = wanted.copy()
    for _ in range(_MAX_ITERATIONS):
        correlation = _sum_over_modes(raised, grid.cube) / grid.volume
        power = to_power * _sum_over_modes(_log_without_mean(correlation, grid.cube), grid.cube)
        power[0, 0, 0] = 0.0
        # Rounding in the transforms is relative to the largest power, not to each.
        slack = np.maximum(_TOLERANCE * wanted, 1e-12 * power.max())
        if (power >= -slack).all():
            break
        raised = np.maximum(wanted, raised - power)
    power = np.maximum(power, 0.0)
    achieved = to_power * _sum_over_modes(
        np.expm1(_sum_over_modes(power, grid.cube) / grid.volume), grid.cube
    )
    achieved[0, 0, 0] = 0.0
    return power.ravel(), achieved.ravel()


def _log_without_mean(correlation: _Floats, cube: tuple[int, int, int]) -> _Floats:
    """Return ln(1 + xi + c), with the c that makes its mean over the box zero (Newton's method)."""
    lowest = float(correlation.min())
    if lowest <= -1:
        raise InputError(
            f"spectrum asks for a correlation of {lowest:.3g}, which no positive density has: "
            "use a smaller amplitude"
        )
    weights = [np.bincount(np.minimum(np.arange(n), n - np.arange(n))) / n for n in cube]

    def mean(values: _Floats) -> float:
        return float(np.einsum("xyz,x,y,z->", values, *weights, optimize=True))

    c = 0.0
    for _ in range(50):
        step = mean(np.log1p(correlation + c)) / mean(1 / (1 + correlation + c))
        c -= step
        if abs(step) < 1e-15:
            break
    return np.asarray(np.log1p(correlation + c))


def _sum_over_modes(octant: _Floats, cube: tuple[int, int, int]) -> _Floats:
    """Return sum_k values(k) exp(ikx) of what is even along each axis, octant in and octant out."""
    import scipy.fft

    for axis, n in enumerate(cube):
        if n == 1:
            continue
        if n % 2 == 0:
            octant = scipy.fft.dct(octant, type=1, axis=axis, workers=n_threads())
        else:
            negative = np.flip(octant, axis).take(range(n // 2), axis)
            whole = np.concatenate([octant, negative], axis)
            octant = np.ascontiguousarray(scipy.fft.rfft(whole, axis=axis, workers=n_threads()).real)
    return octant
