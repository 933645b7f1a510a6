"""Bins of wavenumbers on a grid: what is known before any field is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from physscore.arrays import real_numbers
from physscore.core import Array, InputError
from physscore.grid import Grid, WavenumberTable

_Floats = npt.NDArray[np.float64]

_LOG_BINS_PER_DECADE = 10


@dataclass(frozen=True, eq=False)
class PowerBins:
    """Bins of |k| on a grid: what is known before any field is measured.

    Attributes
    ----------
    k, n_modes, k_edges
        As in :class:`PowerSpectrum`.
    of_entry : array
        Bin of each entry of ``grid.wavenumbers``; -1 for none.
    """

    k: _Floats
    n_modes: npt.NDArray[np.int64]
    k_edges: _Floats
    of_entry: npt.NDArray[np.int64]

    def sum(self, values: Array) -> _Floats:
        """Return the sums over each bin of values given for each entry, (..., entries)."""
        rows, many = values.reshape(-1, values.shape[-1]), len(self.k_edges)
        bins = self.of_entry + 1 + many * np.arange(len(rows))[:, np.newaxis]
        sums = np.bincount(bins.ravel(), rows.ravel(), many * len(rows))
        return np.asarray(sums.reshape(*values.shape[:-1], many)[..., 1:], np.float64)

    def mean(self, sums: _Floats) -> _Floats:
        """Return sums for each entry as means over the modes of each bin; not a number without modes."""
        return self.over_modes(self.sum(sums))

    def over_modes(self, sums: _Floats) -> _Floats:
        """Return sums over each bin as means over its modes."""
        with np.errstate(invalid="ignore"):
            return np.asarray(sums / self.n_modes)


def power_bins(
    grid: Grid,
    bins: str | Sequence[float] | _Floats = "linear",
    wavenumbers: WavenumberTable | None = None,
) -> PowerBins:
    """Return the bins that :func:`power_spectrum` uses on a grid; arguments as there."""
    table = wavenumbers or grid.wavenumbers
    if isinstance(bins, str):
        return _named_bins(grid, bins, table)
    edges = real_numbers(bins, "bins")
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all() or not edges[0] >= 0:
        raise InputError("bins holds edges that do not increase: give at least two rising wavenumbers")
    return _fill(table, edges)


# Bins are found once for a table and live as long as it does.
_found: WeakKeyDictionary[WavenumberTable, dict[str, PowerBins]] = WeakKeyDictionary()


def _named_bins(grid: Grid, bins: str, table: WavenumberTable) -> PowerBins:
    known = _found.setdefault(table, {})
    if bins not in known:
        known[bins] = _fill(table, _edges(grid, bins, table))
    return known[bins]


def _edges(grid: Grid, bins: str, table: WavenumberTable) -> _Floats:
    k = table.k[(table.counts > 0) & (table.k > 0)]
    if bins == "shells":
        distinct = np.unique(k)
        # The same |k| from different wavevectors differs by rounding where no integer tells.
        distinct = distinct[np.append(True, np.diff(distinct) > 1e-12 * distinct[1:])]
        middle = (distinct[1:] + distinct[:-1]) / 2
        edges = np.concatenate([[distinct[0] / 2], middle, [distinct[-1] * 1.001]])
    elif bins == "linear":
        width = max(grid.fundamental)
        edges = np.arange(min(0.5 * width, k.min() * (1 - 1e-9)), k.max() + width, width)
    elif bins == "log":
        n = max(1, int(np.ceil(np.log10(k.max() / k.min()) * _LOG_BINS_PER_DECADE)))
        edges = np.geomspace(k.min() * (1 - 1e-9), k.max() * (1 + 1e-9), n + 1)
    else:
        raise InputError(f"bins is {bins!r}: it must be 'linear', 'log', 'shells' or a sequence of edges")
    inside = np.unique(np.searchsorted(edges, k, side="right"))  # merge what would be empty
    return np.append(edges[inside - 1], edges[inside[-1]])


def _fill(table: WavenumberTable, edges: _Floats) -> PowerBins:
    """Sort the entries of a table into bins."""
    of_entry, used = np.full(table.size, -1, np.int64), (table.counts > 0) & (table.k > 0)
    # An edge that was meant to equal a wavenumber does, whatever its rounding.
    of_entry[used] = np.searchsorted(edges * (1 - 1e-12), table.k[used], side="right") - 1
    of_entry[of_entry == len(edges) - 1] = -1
    empty = PowerBins(np.empty(0), np.empty(0, np.int64), edges, of_entry)
    n_modes = empty.sum(table.counts).astype(np.int64)
    with np.errstate(invalid="ignore"):
        return PowerBins(empty.sum(table.counts * table.k) / n_modes, n_modes, edges, of_entry)
