"""P of each entry of a wavenumber table: of a model, or given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import real_numbers
from physscore.core import Array, InputError
from physscore.grid import Grid, WavenumberTable

SpectrumLike = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def power_of_modes(table: WavenumberTable, spectrum: SpectrumLike) -> npt.NDArray[np.float64]:
    """Return P of each entry of ``table``; 0 at k = 0 and where no mode is.

    Raises
    ------
    InputError
        If the spectrum does not cover the wavenumbers of the grid, or is negative or not finite.
    """
    if not callable(spectrum):
        raise InputError(f"spectrum is {spectrum!r}: it must be a function of wavenumbers, P(k)")
    wanted = (table.counts > 0) & (table.k > 0)
    k = table.k[wanted]
    k_min, k_max = getattr(spectrum, "k_min", 0.0), getattr(spectrum, "k_max", math.inf)
    if k.min() < k_min * (1 - 1e-9) or k.max() > k_max * (1 + 1e-9):
        raise InputError(
            f"spectrum covers k from {k_min:.4g} to {k_max:.4g}, but the modes of the grid have k from "
            f"{k.min():.4g} to {k.max():.4g}: use one that covers them, or say how to extrapolate"
        )
    power = spectrum(k)
    if np.iscomplexobj(power):
        raise InputError("spectrum returned complex numbers: P must be real")
    power = np.asarray(power, dtype=np.float64)
    if power.shape != k.shape:
        raise InputError(
            f"spectrum returned the shape {power.shape} for {k.shape} wavenumbers: it must return one P each"
        )
    _require_power("spectrum", k, power)
    result = np.zeros(table.size)
    result[wanted] = power
    return result


def checked_power(table: WavenumberTable, power: Any) -> npt.NDArray[np.float64]:
    """Return P that is given for each entry of ``table``; 0 where no mode is.

    Raises
    ------
    InputError
        If it has another shape, or is negative or not finite where there are modes.
    """
    values = real_numbers(power, "power")
    if values.shape != (table.size,):
        raise InputError(
            f"power has shape {values.shape}: it must be ({table.size},), P of each entry of wavenumbers"
        )
    used = table.counts > 0
    _require_power("power", table.k[used], values[used])
    values[~used] = 0.0
    return values


def power_of_wavevectors(grid: Grid, spectrum: Callable[..., Array]) -> npt.NDArray[np.float64]:
    """Return P for each entry of the octant's table, of a function of the components of wavevectors.

    Raises
    ------
    InputError
        If it is no function, or does not return one number each.
    """
    if not callable(spectrum):
        raise InputError(f"spectrum is {spectrum!r}: it must be a function of the components of wavevectors")
    axes = [f * np.arange(n // 2 + 1.0) for f, n in zip(grid.fundamental, grid.shape, strict=True)]
    components = [axis.ravel()[1:] for axis in np.meshgrid(*axes, indexing="ij")]  # without k = 0
    power = real_numbers(spectrum(*components), "spectrum")
    if power.shape != components[0].shape:
        raise InputError(
            f"spectrum returned the shape {power.shape} for {components[0].shape} wavevectors: it must "
            "return one P each"
        )
    return np.append(0.0, power)


def _require_power(name: str, k: npt.NDArray[np.float64], power: npt.NDArray[np.float64]) -> None:
    bad = ~(np.isfinite(power) & (power >= 0))
    if bad.any():
        raise InputError(
            f"{name} is {power[bad][0]} at k = {k[bad][0]:.6g}: P must be finite and not negative"
        )
