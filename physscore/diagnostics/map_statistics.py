"""What a map looks like in numbers: power, one-point PDF, bispectrum and peaks, and their means over sets.

Every statistic is a vector for one map, so that a set is described by the mean vector and the scatter
between independent units. Maps are read one at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states, threads, unmasked
from physscore.core import Array, InputError
from physscore.diagnostics.bins import PowerBins, power_bins
from physscore.diagnostics.bispectrum import TriangleBins
from physscore.diagnostics.mean_test import UnitMeans
from physscore.diagnostics.power import power_spectrum
from physscore.grid import Grid

_Floats = npt.NDArray[np.float64]

BINS = "log"  # of the power spectrum, as in power_spectrum
N_PDF_BINS, N_PEAK_BINS = 16, 8
FEATURES = ("power", "pdf", "equilateral", "squeezed", "peaks")
QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
_PEAK_RANGE = (0.02, 0.98)
# Cells are counted below edges that are dense in the normal score, so that quantiles can be read off.
_FINE_STEP, _FINE_RANGE, _N_OUTER = 0.02, 3.5, 12
_SAMPLED_MAPS, _SAMPLED_CELLS, _PEAK_CELLS = 128, 1 << 22, 1 << 24
_SMALL = 1 << 16  # cells of a map that is not worth a second thread
# Maps that are independent are kept as about so many units, each the mean of neighbours.
_MAX_UNITS = 1024


@dataclass(frozen=True, eq=False)
class MapBins:
    """The bins in which maps are counted, chosen on the reference and the same for both sets.

    Attributes
    ----------
    grid
        The box and its cells.
    cells : array
        Rising values; the share of cells below each is measured.
    pdf : array (bins + 1,) of int
        Which of these are the edges of the one-point PDF.
    peaks : array (bins + 1,)
        Edges of the heights of peaks; the first is -inf and the last inf.
    peak_heights : array (bins,)
        Mean height of the reference's peaks in each bin.
    power
        Bins of wavenumbers.
    triangles
        The equilateral triangles, and after them the squeezed ones.
    epsilon : float
        Relative rounding of the maps as they were stored.
    """

    grid: Grid
    cells: _Floats
    pdf: npt.NDArray[np.int64]
    peaks: _Floats
    peak_heights: _Floats
    power: PowerBins
    triangles: TriangleBins
    epsilon: float

    @property
    def squeezed(self) -> npt.NDArray[np.bool_]:
        """Which of the triangles are squeezed."""
        return np.asarray(self.triangles.symmetry < 6)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where each statistic stands in the vector of a map."""
        lengths = {
            "mean": 1,
            "square": 1,
            "cells": len(self.cells),
            "power": len(self.power.k),
            "equilateral": int((~self.squeezed).sum()),
            "squeezed": int(self.squeezed.sum()),
            "peaks": len(self.peak_heights),
        }
        ends = list(itertools.accumulate(lengths.values()))
        return {name: slice(end - lengths[name], end) for name, end in zip(lengths, ends, strict=True)}

    def measure(self, field: Array) -> _Floats:
        """Return the vector of one map: mean of x and of x^2, shares of cells, P(k), B, peaks a cell."""
        field = _checked(field, self.grid, "a map").astype(np.float64)
        power = power_spectrum(field, self.grid, bins=BINS).power  # refuses what is not finite
        modes = np.fft.rfftn(field)
        below = np.cumsum(np.bincount(np.searchsorted(self.cells, field.ravel()), minlength=len(self.cells)))
        heights = np.histogram(field[local_maxima(field)], self.peaks)[0]
        return np.concatenate([
            [field.mean(), (field**2).mean()],
            below[: len(self.cells)] / field.size,
            power,
            self.triangles.measure_modes(modes),
            heights / field.size,
        ])  # fmt: skip


def choose_bins(
    reference: Any, grid: Grid, *, percentiles: tuple[float, float] = (1.0, 99.0), resolution: Any = None
) -> MapBins:
    """Choose bins that suit a set of maps.

    Parameters
    ----------
    reference
        A sequence of maps; some of them are read.
    grid
        The box and its cells.
    percentiles
        Between which of the reference's percentiles the PDF is compared, in bins that are equal steps of
        the normal score: finer in the middle, coarser in the tails, as those of a Gaussian field would be.
    resolution : dtype, optional
        The coarsest type in which either set was stored. Edges stand between its numbers, so that
        rounding moves no cell across one. [default: that of the reference]

    Raises
    ------
    InputError
        If the percentiles do not rise, or the maps do not vary.
    """
    from scipy.special import ndtr, ndtri

    low, high = np.asarray(percentiles, np.float64) / 100
    if not 0 < low < high < 1:
        raise InputError(f"percentiles is {percentiles!r}: it must be two rising numbers between 0 and 100")
    values, heights, dtype = _sample(reference, grid)
    dtype = np.dtype(dtype if resolution is None else resolution)
    if dtype.kind not in "fiub":
        raise InputError(f"resolution is the type {dtype}: maps must hold real numbers")
    if not np.isfinite(values).all():
        raise InputError("reference holds values that are not finite: its statistics are not defined")
    spread = values.std()
    if not spread > 1e-12 * np.abs(values).max():
        raise InputError("reference does not vary: there is nothing to compare")
    values = np.sort(values)

    def at(shares: _Floats) -> _Floats:
        return _between(values[np.rint(shares * (len(values) - 1)).astype(int)], dtype)

    edges = at(ndtr(np.linspace(ndtri(low), ndtri(high), N_PDF_BINS + 1)))
    fine = at(ndtr(np.arange(-_FINE_RANGE, _FINE_RANGE + _FINE_STEP / 2, _FINE_STEP)))
    steps = spread * np.geomspace(2.0**-4, 2.0**7, _N_OUTER)
    outer = np.concatenate([values[0] - steps, values[-1] + steps])
    edges = np.unique(edges)
    cells = np.unique(np.concatenate([edges, fine, outer]))
    heights = np.sort(heights) if len(heights) else values
    peak_shares = ndtr(np.linspace(ndtri(_PEAK_RANGE[0]), ndtri(_PEAK_RANGE[1]), N_PEAK_BINS - 1))
    inner = np.unique(_between(heights[np.rint(peak_shares * (len(heights) - 1)).astype(int)], dtype))
    peaks = np.concatenate([[-np.inf], inner, [np.inf]])
    places = np.searchsorted(inner, heights)
    with np.errstate(invalid="ignore"):
        mean_heights = np.bincount(places, heights, len(peaks) - 1) / np.bincount(
            places, None, len(peaks) - 1
        )
    middle = np.concatenate([inner[:1], (inner[1:] + inner[:-1]) / 2, inner[-1:]])
    return MapBins(
        grid=grid,
        cells=cells,
        pdf=np.searchsorted(cells, edges),
        peaks=peaks,
        peak_heights=np.where(np.isfinite(mean_heights), mean_heights, middle),
        power=power_bins(grid, BINS),
        triangles=TriangleBins(grid, triangles=("equilateral", "squeezed")),
        epsilon=float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0,
    )


@dataclass(frozen=True, eq=False)
class MapMeans:
    """The mean vectors of the independent units of a set of maps.

    Attributes
    ----------
    bins
        What was counted.
    units
        The whole vectors.
    n_maps
        Number of maps.
    """

    bins: MapBins
    units: UnitMeans
    n_maps: int

    def __getitem__(self, name: str) -> UnitMeans:
        return UnitMeans(self.units.values[:, self.bins.slices[name]], self.units.weights)

    def derived(self, values: _Floats) -> UnitMeans:
        """Return other vectors of the same units."""
        return UnitMeans(values, self.units.weights)


def map_means(
    fields: Any,
    bins: MapBins,
    unit: npt.NDArray[np.int64],
    *,
    name: str = "maps",
    progress: bool = False,
) -> MapMeans:
    """Measure a set of maps, one at a time.

    Parameters
    ----------
    fields
        A sequence of maps: an array, an h5py dataset, a ``FieldSequence``.
    bins
        What is counted.
    unit
        The number of the independent unit of each map, as from :func:`units_of`.
    name
        What to call the set.
    progress
        Show a progress bar.

    Raises
    ------
    InputError
        If a map does not fit the grid or is not finite.
    """
    sums = np.zeros((unit.max() + 1, max(part.stop for part in bins.slices.values())))
    with threads(1) if bins.grid.n_cells <= _SMALL else nullcontext():
        for i in _counted(len(fields), progress, name):
            sums[unit[i]] += bins.measure(fields[i])
    counts = np.bincount(unit)
    return MapMeans(bins, UnitMeans(sums / counts[:, None], counts.astype(np.float64)), len(fields))


def map_vectors(fields: Any, bins: MapBins, statistics: Sequence[str] = FEATURES) -> _Floats:
    """Return statistics of each map, (n, entries): features for a two-sample test of one's own.

    Parameters
    ----------
    fields
        A sequence of maps.
    bins
        What is counted.
    statistics
        Names as in ``MapBins.slices``, or "pdf" for the share of cells in each bin of the PDF.
    """
    slices = bins.slices
    unknown = [name for name in statistics if name not in slices and name != "pdf"]
    if unknown:
        raise InputError(f"statistics holds {unknown[0]!r}: it must hold pdf, {', '.join(slices)}")
    rows = []
    for i in range(len(fields)):
        vector = bins.measure(fields[i])
        pdf = np.diff(vector[slices["cells"]][bins.pdf])
        rows.append(np.concatenate([pdf if name == "pdf" else vector[slices[name]] for name in statistics]))
    return np.array(rows)


def units_of(n: int, groups: Any, name: str = "maps", size: int = 1) -> npt.NDArray[np.int64]:
    """Return the number of the independent unit of each of n maps: its group, or ``size`` neighbours."""
    if groups is None:
        if n < 2:
            raise InputError(f"{name} holds {n} map(s): errors need 2 independent ones or more")
        return np.arange(n) * max(2, n // size) // n
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise InputError(f"groups has shape {labels.shape}: it must hold a label for each of the {n} {name}")
    distinct, unit = np.unique(labels, return_inverse=True)
    if len(distinct) < 2:
        raise InputError(
            f"groups holds the one label {distinct[0]}: errors need 2 independent groups or more"
        )
    return np.asarray(unit, np.int64)


def unit_size(*numbers: int) -> int:
    """Return how many independent maps make one unit, in sets of so many maps."""
    return -(-max(numbers) // _MAX_UNITS)


def local_maxima(field: Array) -> npt.NDArray[np.bool_]:
    """Return where a periodic field is higher than at all its 3^d - 1 neighbours.

    Of neighbours that are equal the first counts as the higher one, so that rounding loses no peak.
    """
    from scipy.ndimage import maximum_filter

    field = np.asarray(field, np.float64)
    found = np.asarray(field == maximum_filter(field, size=3, mode="wrap"))
    places = np.nonzero(found)
    kept = np.ones(len(places[0]), bool)
    for offset in itertools.product((-1, 0, 1), repeat=field.ndim):
        if offset < (0,) * field.ndim:
            neighbour = tuple((p + o) % n for p, o, n in zip(places, offset, field.shape, strict=True))
            kept &= field[places] > field[neighbour]
    found[tuple(place[~kept] for place in places)] = False
    return found


def _sample(reference: Any, grid: Grid) -> tuple[_Floats, _Floats, Any]:
    """Return cells and heights of peaks of some maps, spread evenly over the set, and their type."""
    n = min(len(reference), _SAMPLED_MAPS, max(4, _SAMPLED_CELLS // 64))
    chosen = np.unique(np.linspace(0, len(reference) - 1, n).astype(int))
    stride = max(1, n * grid.n_cells // _SAMPLED_CELLS)
    with_peaks = max(2, _PEAK_CELLS // grid.n_cells)
    cells, heights = [], []
    for number, i in enumerate(chosen):
        dtype = unmasked(reference[int(i)], "reference").dtype
        field = _checked(reference[int(i)], grid, "reference")
        cells.append(field.ravel()[number % stride :: stride].astype(np.float64))
        if number < with_peaks:
            heights.append(field[local_maxima(field)].astype(np.float64))
    return np.concatenate(cells), np.concatenate(heights), dtype


def _checked(field: Any, grid: Grid, name: str) -> Array:
    found = unmasked(field, name)
    if found.shape != grid.shape:
        raise InputError(f"{name} has shape {found.shape}: it must be {grid.shape}, as the grid")
    return np.asarray(as_states(found[np.newaxis], grid.shape, name)[0])


def _between(values: _Floats, dtype: np.dtype[Any]) -> _Floats:
    """Return the middle between each value and the next larger number of a type."""
    if dtype.kind in "iub":
        return np.floor(values) + 0.5
    native = dtype.newbyteorder("=")  # the only order that nextafter takes
    following = np.nextafter(values.astype(native), np.inf, dtype=native).astype(np.float64)
    return np.asarray((values + following) / 2)


def _counted(n: int, progress: bool, name: str) -> Any:
    if not progress:
        return range(n)
    from tqdm import tqdm

    return tqdm(range(n), desc=name, unit="map", disable=None)
