"""Preconditioners: what a kernel believes the covariance of the target to be.

With M = W W^T a Langevin step is x + eps M s + sqrt(2 eps) W xi: the noise has W, not M.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import cholesky, real_numbers
from physscore.core import Array, InputError
from physscore.grid import Grid
from physscore.kernels.moves import DENSE, DIAGONAL, IDENTITY
from physscore.mode_coordinates import octant_of, spread_octant


class Metric:
    """A constant positive definite matrix M: the identity, unless a subclass says otherwise.

    Attributes
    ----------
    kind : int
        How compiled loops read ``factor``.
    """

    kind = IDENTITY
    _single: Array | None = None

    @cached_property
    def factor(self) -> Array:
        """W with M = W W^T: of shape (1, 1), (1, d) or (d, d)."""
        return np.ones((1, 1))

    def factor_of_type(self, dtype: npt.DTypeLike) -> Array:
        """Return ``factor`` in a precision, which is kept."""
        if np.dtype(dtype) != np.float32:
            return self.factor
        if self._single is None:
            self._single = self._as_single()
        return self._single

    def _as_single(self) -> Array:
        return self.factor.astype(np.float32)

    def check(self, dim: int) -> None:
        """Refuse a metric of another size than the state's.

        Raises
        ------
        InputError
            If the sizes differ.
        """
        if self.kind != IDENTITY and self.factor.shape[1] != dim:
            raise InputError(f"metric has {self.factor.shape[1]} dimensions: the state has {dim}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Identity(Metric):
    """M = 1."""


class Diagonal(Metric):
    """M = diag(variances): a variance for each component of the state.

    Parameters
    ----------
    variances
        An array of the shape of one state, or flat; zero where a component shall not move.

    Raises
    ------
    InputError
        If one is negative or not finite.
    """

    kind = DIAGONAL

    def __init__(self, variances: Any) -> None:
        self._variances = _checked(variances).ravel()

    @property
    def variances(self) -> npt.NDArray[np.float64]:
        """A variance for each component of the state, flat."""
        return self._variances

    @cached_property
    def factor(self) -> Array:
        """The roots of the variances, of shape (1, d)."""
        return np.sqrt(self.variances)[np.newaxis]


def _checked(variances: Any) -> npt.NDArray[np.float64]:
    found = real_numbers(variances, "metric")
    bad = ~(np.isfinite(found) & (found >= 0)).ravel()
    if bad.any() or not found.any():
        which = int(np.argmax(bad))
        raise InputError(
            f"metric is not positive definite: variance {which} is {found.ravel()[which]}, "
            "and all must be positive"
        )
    return found


class Fourier(Diagonal):
    """M is diagonal in the Fourier modes of a field.

    Parameters
    ----------
    grid
        The box of the field.
    variances
        A variance for each coordinate of ``energies.coordinates.FieldModes``; or an octant, if all follow
        from these, see :mod:`physscore.mode_coordinates`.

    Attributes
    ----------
    octant : array or None
        The octant of the variances, if all follow from these.

    Raises
    ------
    InputError
        If one is negative or not finite, or they are not as many.
    """

    octant: npt.NDArray[np.float64] | None = None

    def __init__(self, grid: Grid, variances: Any) -> None:
        self.grid = grid
        self._variances = _checked(variances)
        octants, size = tuple(n // 2 + 1 for n in grid.cube), 2 * math.prod(grid.half_shape)
        if self._variances.shape == octants:
            self.octant = self._variances
        elif self._variances.size == size:
            octant = octant_of(self._variances, grid.cube).copy()
            if np.array_equal(spread_octant(octant, grid.cube), self._variances.ravel()):
                self.octant = self._variances = octant
        else:
            raise InputError(
                f"metric has the shape {self._variances.shape}: it must have {size} variances, for the modes "
                f"of the grid, or be an octant of shape {octants}"
            )

    @property
    def variances(self) -> npt.NDArray[np.float64]:
        """A variance for each coordinate, flat."""
        if self.octant is None:
            return self._variances.ravel()
        return spread_octant(self.octant, self.grid.cube)

    def _as_single(self) -> Array:
        if self.octant is None:
            return super()._as_single()
        return spread_octant(np.sqrt(self.octant).astype(np.float32), self.grid.cube)[np.newaxis]

    def check(self, dim: int) -> None:
        """Refuse a metric of another grid than the state's.

        Raises
        ------
        InputError
            If the sizes differ.
        """
        if self.grid.n_cells != dim:
            raise InputError(f"metric has {self.grid.n_cells} cells: the state has {dim}")


class Dense(Metric):
    """M = covariance.

    Parameters
    ----------
    covariance
        A symmetric positive definite matrix (d, d).

    Raises
    ------
    InputError
        If it is not.
    """

    kind = DENSE

    def __init__(self, covariance: Any) -> None:
        self.covariance = real_numbers(covariance, "metric")
        if self.covariance.ndim != 2 or self.covariance.shape[0] != self.covariance.shape[1]:
            raise InputError(f"metric has shape {self.covariance.shape}: a dense one must be (d, d)")
        self.factor = np.ascontiguousarray(cholesky(self.covariance, "metric"))
