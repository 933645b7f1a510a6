"""The power spectrum of a field, or the cross spectrum of two."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import real_numbers
from physscore.core import Array, InputError
from physscore.diagnostics.bins import PowerBins, power_bins
from physscore.diagnostics.many_fields import counted, half_spectra, is_batch, sums_over_shells
from physscore.diagnostics.mass_assignment import inverse_window, orders_of, shot_noise_sums, shot_noises_of
from physscore.diagnostics.pairs import repeat_the_last
from physscore.diagnostics.table import table
from physscore.grid import Grid, WavenumberTable, require_grid
from physscore.spectra.model import require_dimension

if TYPE_CHECKING:
    from physscore.diagnostics.comparison import Comparison

_Floats = npt.NDArray[np.float64]
_AT_ONCE = 1 << 17  # cells of small fields that are measured together, as calls take longer than they


@dataclass(frozen=True, eq=False)
class PowerSpectrum:
    """Power measured in bins of |k|.

    Attributes
    ----------
    k : array (bins,)
        Mean |k| of the modes in each bin, in rad per unit length.
    power : array (bins,) or (n, bins)
        P of one field or of each of a batch, in length^dim, shot noise subtracted.
    error : array
        Standard error of ``power`` for Gaussian modes, shot noise included, with an unbiased square: about
        P sqrt(2 / n_modes), and more where P changes inside of a bin. A low measurement has a low error, so
        that fits that weight by it are biased low: weight by that of the model, ``compare(model).error``.
        Of the draws of a run it is their standard deviation.
    n_modes : array (bins,)
        Number of modes k and -k in each bin; k = 0 is in none.
    k_edges : array (bins + 1,)
        Bin i holds the modes with k_edges[i] <= |k| < k_edges[i + 1].
    dim : int
        Number of dimensions of the box.
    correlation : array or None
        For a cross spectrum r(k) = P_ab / sqrt(P_aa P_bb), P_aa and P_bb without ``shot_noise`` if that was
        given; NaN where more is subtracted than there is.
    effective : int, array (bins,) or None
        Number of independent fields, for each bin where they are draws of chains; None if all are.
    """

    k: _Floats
    power: _Floats
    error: _Floats
    n_modes: npt.NDArray[np.int64]
    k_edges: _Floats
    dim: int
    correlation: _Floats | None = None
    shells: Shells | None = dataclasses.field(default=None, repr=False)
    effective: int | _Floats | None = None

    @property
    def independent(self) -> int:
        """Number of independent fields: without the second ones of pairs, if it was measured here.

        Of draws of chains it is the effective number, in the bin where that is least.
        """
        if self.effective is not None:
            return int(np.min(self.effective))
        return len(self.power) if self.power.ndim == 2 else 1

    def mean_error(self) -> _Floats:
        """Return the standard error of the mean power of the fields, shape (bins,)."""
        n = self.independent if self.effective is None else self.effective
        return np.asarray(np.sqrt((np.atleast_2d(self.error) ** 2).mean(axis=0) / n))

    def __str__(self) -> str:
        n = len(self.power) if self.power.ndim == 2 else 1
        error = self.mean_error()
        columns = {"k": self.k, "P": np.atleast_2d(self.power).mean(axis=0), "error": error}
        if self.correlation is not None:
            columns["r"] = np.atleast_2d(self.correlation).mean(axis=0)
        head = (
            f"{'power' if self.correlation is None else 'cross'} spectrum of {n} "
            f"field{'s, their mean' if n > 1 else ''}: {len(self.k)} bins of k from {self.k_edges[0]:.4g} to "
            f"{self.k_edges[-1]:.4g}, {self.n_modes.sum()} modes"
        )
        return "\n".join([head, *table({**columns, "modes": self.n_modes})])

    def compare(self, model: Callable[[_Floats], _Floats] | _Floats) -> Comparison:
        """Compare with a model P(k), averaged over the very modes that were measured.

        For a Gaussian field the sum of |delta_k|^2 / (P V) over the modes of a bin follows the
        chi-square law with ``n_modes`` degrees of freedom exactly, however few they are. Its
        probability, turned into a standard normal deviate, is the pull of the bin; their squares
        add up to ``chi2``. A batch of fields is pooled, as independent ones, but for those that are the one
        before or its opposite, the second ones of pairs, which are left out. Power where the model has none,
        beyond rounding, is a deviation however small; modes with less power in the model than fields of this
        precision can hold are left out. With shot noise a bin is known to within one particle.

        Parameters
        ----------
        model
            P(k), a function of an array of k > 0; or its values for each entry of the wavenumber
            table with which the spectrum was measured.

        Raises
        ------
        InputError
            If this is a cross spectrum, the fields are draws of chains, or the model does not cover the
            modes.
        """
        if isinstance(self.effective, np.ndarray):
            raise InputError(
                "compare needs independent fields, and these are draws of chains, each like the one before: "
                "take the last draws, one of each chain, as power_spectrum(run.draws[-1], run.grid)"
            )
        if self.shells is None:
            raise InputError("compare needs an auto spectrum that was measured here, not a cross spectrum")
        from physscore.diagnostics.comparison import compare

        shells = self.shells
        used = (shells.bins >= 0) & (shells.counts > 0)
        expected = np.zeros(len(used))
        require_dimension("model", model, self.dim)
        expected[used] = _values_of(model, shells.k, used)
        bad = ~(np.isfinite(expected) & (expected >= 0))
        if bad.any():
            raise InputError(
                f"model is {expected[bad][0]} at k = {shells.k[bad][0]:.6g}: "
                "P must be finite and not negative"
            )
        return compare(self, shells, expected)


@dataclass(frozen=True, eq=False)
class Shells:
    """The sums behind a power spectrum, for each entry of a wavenumber table."""

    k: _Floats
    counts: npt.NDArray[np.int64]
    bins: npt.NDArray[np.int64]
    sums: _Floats  # of P over the modes and the fields
    noise: _Floats  # of the shot noise over the modes
    n_fields: int  # without the second ones of pairs
    eps: float  # of the precision of the fields
    particle: float = 0.0  # share of one particle in all of a field, or 0: shot noise over the volume


def power_spectrum(
    delta: Any,
    grid: Grid,
    other: Any = None,
    *,
    bins: str | Sequence[float] | _Floats = "linear",
    shot_noise: float | Sequence[float] = 0.0,
    mass_assignment: str | Sequence[str | None] | None = None,
    interlaced: bool = False,
    progress: bool = False,
    wavenumbers: WavenumberTable | None = None,
) -> PowerSpectrum:
    """Measure the power spectrum of a field, or the cross spectrum of two.

    Every mode of the box is used, up to the corner of the spectrum. The sums run over exact shells,
    in which |k| is the same to the last bit, before they are binned.

    Parameters
    ----------
    delta
        One field of shape ``grid.shape``, or a batch (n, *grid.shape); also an h5py dataset or a
        :class:`FieldSequence`, of which one field at a time is held, or several small ones, or a
        :class:`FieldInPieces`.
    grid
        The box and its cells.
    other
        A second field or batch, for the cross spectrum Re<a b*>.
    bins
        "linear" (the width of the fundamental wavenumber), "log" (10 a decade), "shells" (one for
        each |k| there is), or increasing edges in rad per unit length.
    shot_noise
        Shot noise of particles, V / (number of particles), subtracted with the shape that the mass
        assignment gives it (Jing 2005, astro-ph/0409240). A cross spectrum has none, unless particles are in
        both fields, but ``correlation`` has that of both: of two fields it is a pair, (V / number, 0.0) for
        particles with a field.
    mass_assignment
        "ngp", "cic", "tsc" or "pcs" if the field was made from particles: its window is divided out. Of two
        fields it is that of both, or a pair: ("cic", None) for particles with a field that is none. None too
        for counts that were drawn from the value of each cell, which no window has smoothed.
    interlaced
        Whether fields of particles were :func:`paint`-ed so: it takes aliases out of their shot noise.
    progress
        Show a progress bar over the fields.
    wavenumbers
        The table by which modes are told apart, if not ``grid.wavenumbers``.

    Raises
    ------
    InputError
        If shapes do not fit the grid, values are not finite, or an option is unknown.
    """
    require_grid(grid)
    stacked = is_batch(delta, grid)
    fields = delta if stacked else [delta]
    others = None if other is None else (other if stacked and hasattr(other, "__len__") else [other])
    if len(fields) == 0 or (others is not None and len(others) != len(fields)):
        raise InputError(
            f"delta holds {len(fields)} fields and other {'none' if others is None else len(others)}: "
            "they must hold the same number, at least 1"
        )
    of_fields = shot_noises_of(shot_noise, 1 if others is None else 2)
    table = wavenumbers or grid.wavenumbers
    table.require(grid)
    binned = power_bins(grid, bins, table)
    orders = orders_of(mass_assignment, 1 if others is None else 2, interlaced)
    windows = {order: inverse_window(grid, order) for order in {p + q for p in orders for q in orders}}
    window = windows[2 * orders[0]]
    noises = [
        shot_noise_sums(value, grid, table, order, interlaced)
        for value, order in zip(of_fields, orders, strict=True)
    ]
    to_power = grid.volume / grid.n_cells**2

    pooled, independent = np.zeros(table.size), 0
    before: list[_Floats] = []  # some cells of the last field
    rows: dict[str, list[_Floats]] = {"power": [], "error": [], "correlation": []}
    eps, numbers = 0.0, iter(counted(len(fields), progress))
    at_once = max(1, _AT_ONCE // grid.n_cells)
    while here := list(islice(numbers, at_once)):
        a, cells = half_spectra(fields, here, grid, "delta", whole=others is not None)
        eps = max(eps, *(float(np.finfo(one.dtype).eps) for one in a))
        sums = to_power * sums_over_shells(a, a, table, window)
        some = [cells]
        if others is None:
            rows["power"].append(binned.mean(sums - noises[0]))
            rows["error"].append(_error(binned, table.counts, sums, sums, sums))
        else:
            b, cells = half_spectra(others, here, grid, "other", whole=True)
            some.append(cells)
            second, both = (
                to_power * sums_over_shells(c, b, table, windows[order + orders[1]])
                for c, order in ((b, orders[1]), (a, orders[0]))
            )
            rows["power"].append(binned.mean(both))
            rows["error"].append(_error(binned, table.counts, sums, second, both))
            with np.errstate(invalid="ignore", divide="ignore"):
                of_each = binned.mean(sums - noises[0]) * binned.mean(second - noises[1])
                rows["correlation"].append(rows["power"][-1] / np.sqrt(of_each))
        if not np.isfinite(rows["power"][-1][:, binned.n_modes > 0]).all():
            raise InputError("delta holds values that are not finite: its power spectrum is not defined")
        for one, repeated in zip(sums, repeat_the_last(some, before), strict=True):
            if not repeated:
                pooled += one
                independent += 1
        before = [cells[-1:] for cells in some]
    power, error, correlation = (
        None if not found else np.concatenate(found) if stacked else found[0][0] for found in rows.values()
    )
    assert power is not None
    assert error is not None
    return PowerSpectrum(
        k=binned.k,
        power=power,
        error=error,
        n_modes=binned.n_modes,
        k_edges=binned.k_edges,
        dim=grid.dim,
        correlation=correlation,
        shells=None
        if others is not None
        else Shells(
            table.k,
            table.counts,
            binned.of_entry,
            pooled,
            noises[0],
            independent,
            eps,
            of_fields[0] / grid.volume,
        ),
        effective=independent,
    )


def _error(bins: PowerBins, counts: Array, a: _Floats, b: _Floats, both: _Floats) -> _Floats:
    """Return the error from the sums of |a|^2, |b|^2 and a b* over shells, on each of which P is one number.

    Of n modes that of a b* has the variance n (P_aa P_bb + P_ab^2): without bias, but for one of two fields.
    """
    n = np.maximum(counts, 2)
    squares = ((n - 2) * both**2 + n * a * b) / ((n + 2) * (n - 1))
    alone = (2 / 3 if a is b else 1.0) * a * b
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sqrt(bins.sum(np.where(counts > 1, squares, alone))) / bins.n_modes)


def _values_of(model: Any, k: _Floats, used: npt.NDArray[np.bool_]) -> _Floats:
    """Return the values of a model where there are modes: of a function, or of one for each entry."""
    if callable(model):
        values = np.asarray(model(k[used]), np.float64)
        if values.shape != k[used].shape:
            raise InputError(
                f"model returned the shape {values.shape} for {k[used].shape} wavenumbers: it must return "
                "one P each"
            )
        return values
    values = real_numbers(model, "model")
    if values.shape != k.shape:
        raise InputError(
            f"model has shape {values.shape}: it must be a function P(k), or have a value for each of the "
            f"{len(k)} entries of the wavenumber table, not for each bin"
        )
    return values[used]
