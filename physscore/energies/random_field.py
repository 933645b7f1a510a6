"""Gaussian random fields on a periodic box, with their FFT score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from physscore.arrays import (
    as_states,
    checked_device,
    device_of,
    floating_dtype,
    namespace,
    on_gpu,
    require_memory,
)
from physscore.core import Array, InputError, Prior
from physscore.energies.mode_power import SpectrumLike, checked_power, power_of_modes, power_of_wavevectors
from physscore.fft import blocks, forward_ffts, inverse_fft, inverse_ffts
from physscore.grid import BYTES_AN_ENTRY, Columns, Grid, WavenumberTable, require_grid
from physscore.modes import multiply, sum_powers
from physscore.noise import checked_draw, field_modes
from physscore.slabs import Slabs, checked_box
from physscore.spectra.model import require_dimension


class GaussianRandomField(Prior):
    """A real, periodic, homogeneous Gaussian field with a given power spectrum.

    In the unitary DFT basis the covariance of the cell values is diagonal, with eigenvalues
    P(k) N / V, so that the score is s(x) = -IDFT(DFT(x) / (P N / V)). Modes with P = 0 (always
    k = 0) are fixed at zero, the mean: they have no score and no share in the energy.

    Parameters
    ----------
    grid
        The box and its cells.
    spectrum
        P(k), from ``physscore.spectra`` or any function of an array of k > 0 (rad per unit length)
        that returns P in length^dim. Not isotropic: :meth:`from_wavevectors`.

    Attributes
    ----------
    wavenumbers : WavenumberTable
        The |k| of every mode, as a table.
    power : array
        P of each entry of ``wavenumbers``; 0 at k = 0.
    n_free_modes : int
        Number of modes with P > 0: the dimension of the distribution.

    Raises
    ------
    InputError
        If the spectrum does not cover the box, or gives a negative or non-finite P.
    """

    spectrum: SpectrumLike | None
    one_by_one = True

    def __init__(self, grid: Grid, spectrum: SpectrumLike) -> None:
        require_grid(grid)
        require_dimension("spectrum", spectrum, grid.dim)
        require_memory(BYTES_AN_ENTRY * grid.n_wavenumbers, f"the table of the wavenumbers of {_cells(grid)}")
        self.spectrum = spectrum
        self._set_power(grid, grid.wavenumbers, power_of_modes(grid.wavenumbers, spectrum))

    @classmethod
    def from_modes(cls, grid: Grid, wavenumbers: WavenumberTable, power: Array) -> GaussianRandomField:
        """Return the field whose modes have the power ``power``, an entry for each of ``wavenumbers``.

        The way to the Gaussian field behind a lognormal one; see also :meth:`from_wavevectors`.

        Raises
        ------
        InputError
            If the table is of another grid, or ``power`` of another shape, negative or not finite.
        """
        require_grid(grid)
        wavenumbers.require(grid)
        field = cls.__new__(cls)
        field.spectrum = None
        field._set_power(grid, wavenumbers, checked_power(wavenumbers, power))
        return field

    @classmethod
    def from_wavevectors(cls, grid: Grid, spectrum: Callable[..., Array]) -> GaussianRandomField:
        """Return a field that is not isotropic, such as one in redshift space, along the last axis::

            def kaiser(kx, ky, kz):
                k = np.sqrt(kx**2 + ky**2 + kz**2)
                return (1 + 0.5 * (kz / k) ** 2) ** 2 * pk(k)

            prior = ps.GaussianRandomField.from_wavevectors(grid, kaiser)

        ``spectrum`` is called with |k| along each axis, arrays in rad per unit length without k = 0, and
        returns P of each wavevector, the same for all signs of its components.

        Raises
        ------
        InputError
            If the P it returns are not one each, negative or not finite.
        """
        require_grid(grid)
        return cls.from_modes(grid, WavenumberTable(grid, octant=True), power_of_wavevectors(grid, spectrum))

    def _set_power(self, grid: Grid, wavenumbers: WavenumberTable, power: Array) -> None:
        self.grid = grid
        self.shape = grid.shape
        self.wavenumbers = wavenumbers
        self.power = power
        free = self.power > 0
        counts = wavenumbers.counts[free]
        self.n_free_modes = int(counts.sum())
        if self.n_free_modes == 0:
            raise InputError("spectrum is zero at every mode of the grid: there is nothing to sample")
        self._eigenvalues = self.power * (grid.n_cells / grid.volume)
        log_det = float(counts @ np.log(self._eigenvalues[free]))
        self._log_normalisation = 0.5 * (self.n_free_modes * math.log(2 * math.pi) + log_det)

    @cached_property
    def _inverse_eigenvalues(self) -> Array:  # which sampling does not need
        inverse = np.zeros_like(self.power)
        np.divide(1.0, self._eigenvalues, out=inverse, where=self.power > 0)
        return inverse

    @cached_property
    def variance(self) -> float:
        """Variance of one cell: the sum of P / V over the modes."""
        return float(self.wavenumbers.counts @ self.power) / self.grid.volume

    def sample(
        self,
        n: int,
        *,
        seed: int,
        dtype: npt.DTypeLike = np.float64,
        fixed: bool = False,
        paired: bool = False,
        first: int = 0,
        device: str = "cpu",
    ) -> Array:
        """Return ``n`` independent fields, an array of shape (n, *grid.shape).

        Each mode is drawn at its wavevector, so fields of one seed share their large-scale modes at
        every resolution, and do not depend on threads or on how many are drawn at once.

        Parameters
        ----------
        n
            How many fields.
        seed
            The universe: a whole number from 0 to 2^64 - 1.
        dtype
            float32 or float64. Both show the same field.
        fixed
            Give every mode the modulus sqrt(P V), with only the phase random
            (Angulo & Pontzen 2016, arXiv:1603.05253).
        paired
            Draw fields in pairs of opposite phase: each odd one is minus the one before.
        first
            Number of the first field: ``sample(1, seed=s, first=7)`` is ``sample(8, seed=s)[7:]``.
        device
            "cpu" for NumPy arrays, or "gpu" for CuPy arrays of the same fields.

        Raises
        ------
        InputError
            If an argument makes no sense or the fields do not fit into memory.
        """
        check_count(n)
        n, first = int(n), checked_draw(first, "first")
        precision = floating_dtype(dtype)
        require_memory_for(self.grid, n, precision, checked_device(device))
        draw = self._drawing(seed, precision, fixed, paired, device)
        fields = None if n == 1 else namespace(device).empty((n, *self.shape), precision)
        for some in blocks(n, self.grid.n_cells, device):
            modes = draw(range(first + some.start, first + some.stop), None)
            made = inverse_ffts(modes.reshape(-1, *self.grid.half_shape), self.shape)
            if fields is None:
                return made
            fields[some] = made
        return cast(Array, fields)

    def modes_of(
        self,
        number: int,
        *,
        seed: int,
        dtype: npt.DTypeLike = np.float64,
        fixed: bool = False,
        paired: bool = False,
        device: str = "cpu",
    ) -> Callable[[Columns | None], Array]:
        """Return what draws the half spectrum of field ``number``, or columns of it.

        Arguments as for :meth:`sample`. What it returns has three sides, as ``grid.cube``, and gives the
        field by an inverse FFT that is not normalised.
        """
        draw = self._drawing(seed, floating_dtype(dtype), fixed, paired, device)
        return lambda columns: cast(Array, draw([number], columns)[0])

    def _drawing(
        self, seed: int, dtype: np.dtype[Any], fixed: bool, paired: bool, device: str
    ) -> Callable[[Sequence[int], Columns | None], Array]:
        """Return what draws the half spectra of fields, or columns of them, given their numbers."""
        for name, given in (("fixed", fixed), ("paired", paired)):
            if not isinstance(given, bool | np.bool_):
                raise InputError(f"{name} is {given!r}: it must be True or False")
        amplitude = self.table("amplitude", dtype, device)

        def draw(numbers: Sequence[int], columns: Columns | None) -> Array:
            drawn = [number // 2 if paired else number for number in numbers]
            modes = field_modes(
                self.wavenumbers, amplitude, seed=seed, realizations=drawn, fixed=fixed, columns=columns
            )
            for i in [i for i, number in enumerate(numbers) if paired and number % 2 == 1]:
                np.negative(modes[i], out=modes[i])
            return modes

        return draw

    def cells_of(self, planes: Array) -> Array:
        """Return the cells of the planes that its modes give: those themselves."""
        return planes

    def sample_box(
        self,
        corner: Sequence[int],
        shape: Sequence[int],
        *,
        seed: int,
        dtype: npt.DTypeLike = np.float64,
        fixed: bool = False,
        paired: bool = False,
        first: int = 0,
        memory: int = 1 << 28,
    ) -> Array:
        """Return the cells of a box inside of a field, made without the rest of it.

        Parameters
        ----------
        corner
            The first cell along each axis.
        shape
            Number of cells along each axis; the box may reach around the periodic one.
        seed, dtype, fixed, paired, first
            As for :meth:`sample`: the box is ``sample(1, ...)[0]`` at these places, to rounding.
        memory
            Bytes to work in, beside those for all planes of the first axis that the box takes.

        Raises
        ------
        InputError
            If the box is not inside the grid, or an argument makes no sense.
        """
        corner, shape = checked_box(self.grid, corner, shape)
        first = checked_draw(first, "first")
        draw = self.modes_of(first, seed=seed, dtype=dtype, fixed=fixed, paired=paired)
        if self.grid.dim == 1:
            places = np.arange(corner[0], corner[0] + shape[0]) % self.shape[0]
            return self.cells_of(inverse_fft(draw(None)[0, 0], self.shape).take(places))
        return self.cells_of(Slabs(self.grid, dtype, memory).box(draw, corner, shape))

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return -log p of each field, normalised over the free modes: shape (n,)."""
        return self._energies(as_states(x, self.shape), None)

    def score(self, x: Array) -> Array:
        """Return grad log p = -IDFT(DFT(x) / (P N / V)), of the shape of ``x``."""
        return self._filter(as_states(x, self.shape), "score")

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return energies and scores with one forward FFT for both."""
        states = as_states(x, self.shape)
        scores = namespace(device_of(states)).empty(states.shape, states.dtype)
        return self._energies(states, scores), scores

    def energy_of_power(self, sums: Array) -> float:
        """Return the energy of a field from the sums of its |unnormalised mode|^2, for each entry of
        ``wavenumbers``."""
        return float(sums @ self.table("weights", np.float64)) + self._log_normalisation

    def table(self, name: str, dtype: Any, device: str = "cpu") -> Array:
        """Return what every mode is multiplied by, over |k|.

        To make an "amplitude" of a drawn mode, a "score", or to "whiten" or "unwhiten" an unnormalised mode;
        or the "weights" of |mode|^2 in an energy.
        """

        def make() -> Array:
            if name == "amplitude":
                return np.asarray(np.sqrt(self.power / (2 * self.grid.volume)), dtype)
            if name == "weights":  # of the energy
                return np.asarray(self._inverse_eigenvalues / (2 * self.grid.n_cells))
            factors = {
                "score": lambda: -self._inverse_eigenvalues,
                "whiten": lambda: np.sqrt(self._inverse_eigenvalues),
                "unwhiten": lambda: np.sqrt(self._eigenvalues),
            }[name]()
            return _in_precision(np.asarray(factors / self.grid.n_cells), dtype)

        if device == "cpu":
            return make()
        from physscore.cuda import kept

        return cast(Array, kept(self, (name, np.dtype(dtype).name), make))

    def whiten(self, x: Array) -> Array:
        """Return z = IDFT(DFT(x) / sqrt(P N / V)): a white field, without its fixed modes."""
        return self._filter(as_states(x, self.shape), "whiten")

    def unwhiten(self, z: Array) -> Array:
        """Return the field whose whitened form is ``z``; the fixed modes of ``z`` play no part."""
        return self._filter(as_states(z, self.shape, "z"), "unwhiten")

    def pull_back(self, z: Array, gradient: Array) -> Array:
        """Return the gradient over z: the filter sqrt(P N / V) is its own transpose."""
        return self.unwhiten(gradient)

    def _filter(self, x: Array, name: str) -> Array:
        table = self.table(name, x.dtype, device_of(x))
        if on_gpu(x):
            from physscore.cuda import modes as on_card

            return inverse_ffts(on_card.multiply(forward_ffts(x), self.wavenumbers, table), self.shape)
        filtered = [
            inverse_ffts(multiply(forward_ffts(x[some]), self.wavenumbers, table), self.shape)
            for some in blocks(len(x), self.grid.n_cells)
        ]
        return filtered[0] if len(filtered) == 1 else np.concatenate([x[:0], *filtered])

    def _energies(self, x: Array, scores: Array | None) -> npt.NDArray[np.float64]:
        """Return the energies of ``x``, and fill ``scores`` if there is such an array."""
        if on_gpu(x):
            return self._energies_on_card(x, scores)
        energies = np.empty(len(x))
        table = None if scores is None else self.table("score", x.dtype)
        for some in blocks(len(x), self.grid.n_cells):
            modes = forward_ffts(x[some])
            sums = sum_powers(modes, modes, self.wavenumbers)
            energies[some] = [self.energy_of_power(of_field) for of_field in sums]
            if scores is not None and table is not None:
                scores[some] = inverse_ffts(multiply(modes, self.wavenumbers, table), self.shape)
        return energies

    def _energies_on_card(self, x: Array, scores: Array | None) -> npt.NDArray[np.float64]:
        from physscore.cuda import fft, modes

        spectra = forward_ffts(x)
        weights = self.table("weights", np.float64, "gpu")
        table = None if scores is None else self.table("score", x.dtype, "gpu")
        energies = modes.weighted_power(spectra, self.wavenumbers, weights, table) + self._log_normalisation
        if scores is not None:
            fft.inverse_fft(spectra, self.shape, out=scores)
        return cast(npt.NDArray[np.float64], energies)

    def __repr__(self) -> str:
        return f"GaussianRandomField({self.grid!r}, {self.spectrum!r})"


def require_memory_for(grid: Grid, n: int, dtype: np.dtype[Any], device: str = "cpu") -> None:
    """Refuse, before starting, to sample ``n`` fields for which there is not enough memory."""
    field = grid.n_cells * dtype.itemsize
    spectrum = 2 * math.prod(grid.half_shape) * dtype.itemsize
    count = "a field" if n == 1 else f"{n} fields"
    require_memory(
        # A field takes the place of its spectrum, but not on a card; the tables over |k| matter in few
        # dimensions.
        spectrum
        + ((n * field if n > 1 else 0) + (field if device == "gpu" else 0))
        + BYTES_AN_ENTRY * grid.n_wavenumbers,
        f"sampling {count} of {_cells(grid)} in {dtype}",
        device,
    )


def _cells(grid: Grid) -> str:
    return f"{' x '.join(map(str, grid.shape))} cells"


def check_count(n: Any) -> None:
    """Refuse a number of fields that is not a whole number of at least 1."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise InputError(f"n is {n!r}: it must be a whole number of at least 1")


def _in_precision(table: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        converted = table.astype(dtype)
    # What is smaller by more than the square of the rounding has no part in the result.
    size, eps = np.abs(table), np.finfo(dtype).eps
    if (np.abs(converted - table) > np.maximum(1e2 * eps * size, eps**2 * size.max())).any():
        raise InputError("x has the type float32, whose range the spectrum exceeds: use float64")
    return converted
