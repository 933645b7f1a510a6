"""A normal density of fields with a mean and a variance of its own for each Fourier mode."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from physscore import noise
from physscore.arrays import as_states, beside, on_gpu, row_dots
from physscore.core import Array, InputError, Prior
from physscore.energies.random_field import check_count
from physscore.grid import Grid
from physscore.mode_coordinates import Coordinates


class FourierGaussian(Prior):
    """Fields whose orthonormal Fourier coordinates are independent normal numbers.

    Unlike a ``GaussianRandomField`` it need be neither isotropic nor centred, and k = 0 may move. The
    coordinates are those of ``modes.to_coordinates``. One of variance 0 is fixed at its mean: it has no
    score and no share in the energy.

    Whitened states are coordinates too, of shape (n, d) where d = 2 * prod(grid.half_shape): those that
    are not free play no part in ``unwhiten``, and ``whiten`` gives 0 for them.

    Parameters
    ----------
    grid
        The box and its cells.
    mean, variances
        Of each coordinate, of shape (d,). What stands in the places that are not used plays no part.

    Attributes
    ----------
    coordinates : Coordinates
        The way between fields and their coordinates.
    free : array (d,) of bool
        Which coordinates may move.
    n_free_modes : int
        How many of them: the dimension of the distribution.

    Raises
    ------
    InputError
        If the shapes do not agree with the grid, a number is not finite, or no variance is positive.
    """

    one_by_one = True

    def __init__(self, grid: Grid, mean: Any, variances: Any) -> None:
        if not isinstance(grid, Grid):
            raise InputError(f"grid is {grid!r}: it must be a Grid")
        self.grid, self.shape = grid, grid.shape
        self.coordinates = Coordinates(grid)
        self.mean = self._checked("mean", mean)
        self.variances = self._checked("variances", variances)
        if self.variances.min() < 0:
            raise InputError(f"variances hold {self.variances.min()}: they must not be negative")
        self.free = self.variances > 0
        self.n_free_modes = int(self.free.sum())
        if self.n_free_modes == 0:
            raise InputError("variances are 0 at every coordinate in use: there is nothing to sample")
        self._std = np.sqrt(self.variances)
        self._inverse_std = np.zeros_like(self._std)
        np.divide(1.0, self._std, out=self._inverse_std, where=self.free)
        log_det = float(np.log(self.variances[self.free]).sum())
        self._offset = 0.5 * (self.n_free_modes * math.log(2 * math.pi) + log_det)
        self._mean_field = self.coordinates.to_fields(self.mean[np.newaxis], np.ones_like(self.mean))

    def _checked(self, name: str, value: Any) -> npt.NDArray[np.float64]:
        """Return a number for each coordinate, 0 for those that are not used."""
        given, shape = np.asarray(value), (self.coordinates.size,)
        if given.shape != shape or given.dtype.kind not in "fiub":
            raise InputError(
                f"{name} has shape {given.shape} and type {given.dtype}: it must hold a real number for each "
                f"coordinate of the grid, shape {shape}"
            )
        numbers = np.where(self.coordinates.in_use, given, 0.0)
        if not np.isfinite(numbers).all():
            raise InputError(f"{name} holds {numbers[~np.isfinite(numbers)][0]}: all must be finite")
        return numbers

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return -log p, normalised over the free modes, of shape (n,), and its score."""
        z, scale = self._whitened(as_states(x, self.shape))
        return self._energies(z), self.coordinates.to_fields(z, -scale)

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return -log p, normalised over the free modes: shape (n,)."""
        return self._energies(self.whiten(x))

    def sample(self, n: int, *, seed: int) -> Array:
        """Return ``n`` independent fields, of shape (n, *grid.shape)."""
        check_count(n)
        return self.unwhiten(noise.normal(n, self.coordinates.size, seed=seed))

    def whiten(self, x: Array) -> Array:
        """Return (c - mean) / sqrt(variance) for the coordinates c of fields: shape (n, d)."""
        return self._whitened(as_states(x, self.shape))[0]

    def unwhiten(self, z: Array) -> Array:
        """Return the fields with the coordinates mean + sqrt(variance) z."""
        given = as_states(z, self.mean.shape, "z")
        fields = self.coordinates.to_fields(given, beside(given, self, "_std", given.dtype))
        fields += beside(given, self, "_mean_field", given.dtype)
        return fields

    def pull_back(self, z: Array, gradient: Array) -> Array:
        """Return sqrt(variance) times the coordinates of ``gradient``: shape (n, d), 0 where not free."""
        slopes = self.coordinates.of_fields(as_states(gradient, self.shape, "gradient"))
        slopes *= beside(slopes, self, "_std", slopes.dtype)
        return slopes

    def _whitened(self, x: Array) -> tuple[Array, Array]:
        """Return the whitened coordinates of fields, and 1 / sqrt(variance) in the precision of ``x``."""
        z, scale = self.coordinates.of_fields(x), beside(x, self, "_inverse_std", x.dtype)
        z -= beside(x, self, "mean", x.dtype)
        z *= scale
        return z, scale

    def _energies(self, z: Array) -> npt.NDArray[np.float64]:
        squares = row_dots(z, z) if on_gpu(z) else np.einsum("ni,ni->n", z, z, dtype=np.float64)
        return cast(npt.NDArray[np.float64], self._offset + 0.5 * squares)

    def __repr__(self) -> str:
        return f"FourierGaussian({self.grid!r}, {self.n_free_modes} free modes)"
