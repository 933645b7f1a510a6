"""The bispectrum: what three wavevectors that close to a triangle have in common.

B(k1, k2, k3) = <delta_k1 delta_k2 delta_k3> / V for k1 + k2 + k3 = 0, with delta_k as in ``grid.py``; in
length^(2 dim). It is 0 for a Gaussian field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states, real_numbers, unmasked
from physscore.core import Array, InputError
from physscore.diagnostics.bins import power_bins
from physscore.diagnostics.many_fields import is_batch
from physscore.diagnostics.pairs import repeat_the_last, some_cells
from physscore.diagnostics.table import table
from physscore.fft import forward_fft, inverse_fft
from physscore.grid import Grid, require_grid
from physscore.modes import sum_power

_Floats = npt.NDArray[np.float64]
_Triple = tuple[int, int, int]

DEFAULT_SHELLS = 8
_FEW = 1 << 16  # pairs of modes that are written out
_SMALL = 1 << 16  # cells of a grid whose transforms are not worth a thread


class TriangleBins:
    """Triangles of shells of |k|, counted on a grid: what is known before any field is measured.

    Parameters
    ----------
    grid
        The box and its cells.
    bins
        How many shells, of equal width in log k, from the smallest wavenumber to 2/3 of the Nyquist
        wavenumber; or their edges. Beyond 2/3 triangles would close around the ends of the spectrum.
    triangles
        "equilateral" for (i, i, i), "squeezed" for (0, i, i) with i > 0, several of these words, or triples
        of numbers of shells.
        Triples in which no three modes close are left out: in one dimension these are all the equilateral
        ones whose shell spans less than a factor of 2.

    Attributes
    ----------
    shells : list of triples
    n_triangles : array (triangles,)
        Ordered triples of modes (k1, k2, k3) with k1 + k2 + k3 = 0 and k_i in shell i.
    k : array (triangles, 3)
        Mean |k| of the modes in each of the three shells, in rad per unit length.
    k_edges : array (shells + 1,)

    Raises
    ------
    InputError
        If the edges do not rise or reach too far, or the triangles are unknown.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        bins: int | Sequence[float] | _Floats = DEFAULT_SHELLS,
        triangles: str | Sequence[str] | Sequence[_Triple] = "equilateral",
    ) -> None:
        self.grid = grid
        self._bins = power_bins(grid, _edges(grid, bins))
        self.k_edges = self._bins.k_edges
        x, y, z = grid.wavenumbers.offsets
        of_mode = self._bins.of_entry[x[:, None, None] + y[:, None] + z]
        self._shell_of_mode = of_mode.reshape(grid.half_shape).astype(np.int16)
        wanted = _triples(triangles, len(self._bins.k))
        ones = np.ones(grid.half_shape, np.complex128)
        counts = np.rint(self._sums(ones, wanted))
        self.shells = [triple for triple, count in zip(wanted, counts, strict=True) if count > 0]
        self.n_triangles = counts[counts > 0].astype(np.int64)
        self.k: _Floats = self._bins.k[np.array(self.shells, int).reshape(-1, 3)]

    def measure(self, delta: Array) -> _Floats:
        """Return B of one field of shape ``grid.shape`` for each of the triangles.

        The mean over all triangles of modes, by one FFT a shell: the sum over closed triples is the sum
        over cells of the product of the three fields made of one shell each (Scoccimarro 2000,
        astro-ph/0004086; Watkinson et al. 2017, arXiv:1705.06284), and the triples are counted in the
        same way.
        """
        return self.measure_modes(forward_fft(np.asarray(unmasked(delta, "delta"), np.float64)))

    def measure_modes(self, modes: Array) -> _Floats:
        """Return what :meth:`measure` does, from the half spectrum of the field."""
        to_bispectrum = self.grid.volume**2 / self.grid.n_cells**3
        return to_bispectrum * self._sums(modes, self.shells) / self.n_triangles

    @cached_property
    def symmetry(self) -> npt.NDArray[np.int64]:
        """In how many orders each triangle of modes is counted: 6 in one shell, 2 in two, 1 in three."""
        return np.array([{1: 6, 2: 2, 3: 1}[len(set(triple))] for triple in self.shells], np.int64)

    def _sums(self, modes: Array, triples: list[_Triple]) -> _Floats:
        """Return the sums of X1 X2 X3 over the closed triples of modes X."""
        uses = Counter(shell for triple in triples for shell in set(triple))
        held: dict[int, Array] = {}
        found = np.zeros(len(triples))
        # In the order of their largest shells few fields are held at once.
        for place in sorted(range(len(triples)), key=lambda i: (max(triples[i]), triples[i])):
            triple = triples[place]
            for shell in set(triple):
                if shell not in held:
                    held[shell] = self._filtered(modes, shell)
            found[place] = _sum_of_products(*(held[shell] for shell in triple)) / self.grid.n_cells
            for shell in set(triple):
                uses[shell] -= 1
                if not uses[shell]:
                    del held[shell]
        return found

    def error(self, modes: Array) -> _Floats:
        """Return the standard error of B if the modes are Gaussian, from the half spectrum of a field.

        Its square is s V / n_triangles times the mean of P1 P2 P3 over triangles of modes, with P measured at
        each |k|. A product of powers of the same m modes is too high, that of two by 1 + 2/m, of three by
        (1 + 2/m)(1 + 4/m): this is taken out, for shells of many modes as if all of them were alike.
        """
        table = self.grid.wavenumbers
        sums = sum_power(modes, modes, table) * (self.grid.volume / self.grid.n_cells**2)
        power = np.divide(sums, table.counts, out=np.zeros(table.size), where=table.counts > 0)
        products = np.zeros(len(self.shells))
        for i, few in enumerate(self._few):
            if few is not None:
                products[i] = power[few.entries].prod(axis=1) @ few.weights
        many = [i for i, few in enumerate(self._few) if few is None]
        if many:
            x, y, z = table.offsets
            of_modes = power[x[:, None, None] + y[:, None] + z].reshape(self.grid.half_shape)
            products[many] = self._sums(of_modes.astype(np.complex128), [self.shells[i] for i in many])
            # Of the modes of a shell those count that have its power.
            squares = self._bins.sum(table.counts**2 / (table.counts + 2) * power**2)
            same = np.divide(
                squares, self._bins.sum(sums) ** 2, out=np.zeros(len(squares)), where=squares > 0
            )
            for i in many:
                share = same[max(self.shells[i], key=self.shells[i].count)]
                products[i] /= _excess(len(set(self.shells[i])), 1 / share if share else np.inf)
        return np.asarray(
            np.sqrt(self.symmetry * self.grid.volume * np.maximum(products, 0.0)) / self.n_triangles
        )

    @cached_property
    def _few(self) -> list[_FewTriangles | None]:
        """The triangles of each triple of shells, where they are few."""
        return [
            self._triangles_of(triple)
            if np.prod(np.sort(self._bins.n_modes[list(triple)])[:2]) <= _FEW
            else None
            for triple in self.shells
        ]

    def _triangles_of(self, triple: _Triple) -> _FewTriangles:
        first, second, third = sorted(triple, key=lambda shell: int(self._bins.n_modes[shell]))
        cube, (x, y, z) = self.grid.cube, self.grid.wavenumbers.offsets

        def entries_of(n: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            n = n % cube
            found = x[n[..., 0]] + y[n[..., 1]] + z[np.minimum(n[..., 2], cube[2] - n[..., 2])]
            return np.asarray(found, np.int64)

        a, b = self._modes_of(first)[:, None], self._modes_of(second)
        sides = np.broadcast_arrays(entries_of(a), entries_of(b), entries_of(-(a + b)))
        closed = self._bins.of_entry[sides[2]] == third
        rows = np.sort(np.stack([side[closed] for side in sides], axis=1), axis=1)
        entries, times = np.unique(rows, axis=0, return_counts=True)
        # Sorted, equal ones are neighbours, and the middle one is among them.
        alike = self.grid.wavenumbers.counts[entries[:, 1]]
        excess = [_excess(len(set(row)), n) for row, n in zip(entries.tolist(), alike.tolist(), strict=True)]
        return _FewTriangles(entries, times / np.array(excess))

    def _modes_of(self, shell: int) -> npt.NDArray[np.int64]:
        """Return the integer wavevectors of the modes of a shell, of the full spectrum, (modes, 3)."""
        cube = self.grid.cube
        half = np.argwhere(self._shell_of_mode.reshape(cube[0], cube[1], -1) == shell)
        return np.concatenate([half, -half[half[:, 2] > 0]])

    def _filtered(self, modes: Array, shell: int) -> Array:
        """Return the real field made of one shell of modes, without the 1/N of the inverse transform."""
        kept = np.where(self._shell_of_mode == shell, modes, 0)
        if self.grid.n_cells > _SMALL:
            return inverse_fft(kept, self.grid.shape)
        import scipy.fft

        return np.asarray(scipy.fft.irfftn(kept, self.grid.shape, norm="forward", workers=1))


class _FewTriangles(NamedTuple):
    """Triangles of entries of the wavenumber table, and how many of modes each is, over its excess."""

    entries: npt.NDArray[np.int64]
    weights: _Floats


@dataclass(frozen=True, eq=False)
class Bispectrum:
    """The bispectrum measured in triangles of shells.

    Attributes
    ----------
    k, n_triangles, k_edges
        As in :class:`TriangleBins`.
    bispectrum : array (triangles,) or (n, triangles)
        B of one field or of each of a batch, in length^(2 dim).
    error : array
        Its standard error if the modes are Gaussian, sqrt(s V <P1 P2 P3> / n_triangles) with the measured P
        at each |k|, a mean over the triangles of modes, and s orders in which one is counted; its square is
        without bias. A field that is not Gaussian scatters more.
    independent : int
        Number of independent fields: without the second ones of pairs of opposite phase.
    """

    k: _Floats
    bispectrum: _Floats
    error: _Floats
    n_triangles: npt.NDArray[np.int64]
    k_edges: _Floats
    independent: int = 1

    def mean_error(self) -> _Floats:
        """Return the standard error of the mean of the fields, shape (triangles,), if Gaussian.

        Of a pair of Gaussian fields it is too large: theirs are opposite and have the mean 0.
        """
        return np.asarray(np.sqrt((np.atleast_2d(self.error) ** 2).mean(axis=0) / self.independent))

    def __str__(self) -> str:
        n = len(self.bispectrum) if self.bispectrum.ndim == 2 else 1
        error = self.mean_error()
        columns = {f"k{i + 1}": self.k[:, i] for i in range(3)}
        columns |= {"B": np.atleast_2d(self.bispectrum).mean(axis=0), "error": error}
        head = (
            f"bispectrum of {n} field{'s, their mean' if n > 1 else ''}: {len(self.k)} triangles of shells, "
            f"{self.n_triangles.sum()} of modes, k up to {self.k_edges[-1]:.4g}"
        )
        return "\n".join([head, *table({**columns, "triangles": self.n_triangles})])


def bispectrum(
    delta: Any,
    grid: Grid,
    *,
    bins: int | Sequence[float] | _Floats = DEFAULT_SHELLS,
    triangles: str | Sequence[str] | Sequence[_Triple] = "equilateral",
) -> Bispectrum:
    """Measure the bispectrum of a field, or of each of a batch.

    Parameters
    ----------
    delta
        One field of shape ``grid.shape``, or a batch (n, *grid.shape), which may be an h5py dataset or
        a ``FieldSequence``. The mean of the field plays no part.
    grid
        The box and its cells.
    bins, triangles
        As for :class:`TriangleBins`.

    Raises
    ------
    InputError
        If shapes do not fit the grid, values are masked, not real, not finite or too large, or an option is
        unknown.
    """
    require_grid(grid)
    stacked = is_batch(delta, grid)
    fields = delta if stacked else [delta]
    counted = TriangleBins(grid, bins=bins, triangles=triangles)
    found, error = [], []
    before: list[npt.NDArray[np.float64]] = []
    independent = 0
    for i in range(len(fields)):
        field = as_states(unmasked(fields[i], "delta")[np.newaxis], grid.shape, "delta")[0]
        if not np.isfinite(field).all():
            raise InputError("delta holds values that are not finite: its bispectrum is not defined")
        with np.errstate(over="ignore", invalid="ignore"):
            modes = forward_fft(field.astype(np.float64))
            found.append(counted.measure_modes(modes))
            error.append(counted.error(modes))
        if not (np.isfinite(found[-1]).all() and np.isfinite(error[-1]).all()):
            raise InputError(
                f"delta holds values up to {np.abs(field).max():.3g}, too large for a product of three"
            )
        some = [some_cells(field)[np.newaxis]]
        independent += not repeat_the_last(some, before)[0]
        before = some
    return Bispectrum(
        k=counted.k,
        bispectrum=np.array(found) if stacked else found[0],
        error=np.array(error) if stacked else error[0],
        n_triangles=counted.n_triangles,
        k_edges=counted.k_edges,
        independent=independent,
    )


def _excess(distinct: int, n: float) -> float:
    """Return the mean of P1 P2 P3 over the true one, if each of the ``distinct`` powers is of n modes."""
    return {1: (1 + 2 / n) * (1 + 4 / n), 2: 1 + 2 / n, 3: 1.0}[distinct]


def _sum_of_products(a: Array, b: Array, c: Array) -> float:
    return float(np.einsum("i,i,i->", a.ravel(), b.ravel(), c.ravel()))


def _edges(grid: Grid, bins: Any) -> _Floats:
    low, high = min(grid.fundamental), 2 / 3 * min(grid.nyquist)
    if unmasked(bins, "bins").ndim == 0:
        if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
            raise InputError(f"bins is {bins!r}: it must be a number of shells, at least 1, or their edges")
        if not low < high:
            raise InputError(f"grid has {min(grid.shape)} cells a side: triangles need at least 4")
        edges = np.geomspace(low * (1 - 1e-9), high, int(bins) + 1)
        table = grid.wavenumbers
        k = table.k[(table.counts > 0) & (table.k > 0) & (table.k < high * (1 - 1e-12))]
        filled = np.unique(np.searchsorted(edges, k, side="right"))  # leave out shells without modes
        return np.append(edges[filled - 1], edges[filled[-1]])
    edges = real_numbers(bins, "bins")
    if edges.ndim == 1 and len(edges) and edges[-1] > high * (1 + 1e-9):
        raise InputError(
            f"bins reach to k = {edges[-1]:.6g}: beyond {high:.6g}, 2/3 of the Nyquist wavenumber, "
            "triangles close around the ends of the spectrum"
        )
    return edges


def _triples(triangles: Any, n: int) -> list[_Triple]:
    if isinstance(triangles, list | tuple) and triangles and isinstance(triangles[0], str):
        return [triple for name in triangles for triple in _triples(name, n)]
    if isinstance(triangles, str):
        if triangles == "equilateral":
            return [(i, i, i) for i in range(n)]
        if triangles == "squeezed":
            return [(0, i, i) for i in range(1, n)]
        raise InputError(f"triangles is {triangles!r}: it must be 'equilateral', 'squeezed' or triples")
    found = np.asarray(triangles)
    if found.ndim != 2 or found.shape[1] != 3 or found.dtype.kind not in "iu":
        raise InputError(f"triangles has shape {found.shape}: it must hold triples of numbers of shells")
    if found.min() < 0 or found.max() >= n:
        raise InputError(f"triangles names shell {found.max() if found.max() >= n else found.min()}: "
                         f"there are shells 0 to {n - 1}")  # fmt: skip
    return [(int(a), int(b), int(c)) for a, b, c in found]
