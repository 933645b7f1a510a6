"""Preconditioners: what a kernel believes the covariance of the target to be.

With M = W W^T a Langevin step is x + eps M s + sqrt(2 eps) W xi: the noise has W, not M.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import cholesky, real_numbers
from physscore.core import Array, InputError
from physscore.grid import Grid
from physscore.kernels.moves import DENSE, DIAGONAL, IDENTITY


class Metric:
    """A constant positive definite matrix M: the identity, unless a subclass says otherwise.

    Attributes
    ----------
    kind : int
        How compiled loops read ``factor``.
    factor : array
        W with M = W W^T: of shape (1, 1), (1, d) or (d, d).
    """

    kind = IDENTITY
    factor: Array = np.ones((1, 1))
    _other_type: tuple[Array, Array] | None = None  # a factor, and what it is in another precision

    def factor_of_type(self, dtype: npt.DTypeLike) -> Array:
        """Return ``factor`` in a precision, which is kept."""
        if self.factor.dtype == dtype:
            return self.factor
        if self._other_type is None or self._other_type[0] is not self.factor:
            self._other_type = self.factor, self.factor.astype(dtype)
        return self._other_type[1]

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
        self.variances = real_numbers(variances, "metric").ravel()
        bad = ~(np.isfinite(self.variances) & (self.variances >= 0))
        if bad.any() or not self.variances.any():
            which = int(np.argmax(bad))
            raise InputError(
                f"metric is not positive definite: variance {which} is {self.variances[which]}, "
                "and all must be positive"
            )
        self.factor = np.sqrt(self.variances)[np.newaxis]


class Fourier(Diagonal):
    """M is diagonal in the Fourier modes of a field.

    Parameters
    ----------
    grid
        The box of the field.
    variances
        A variance for each coordinate of ``energies.coordinates.FieldModes``.
    """

    def __init__(self, grid: Grid, variances: Any) -> None:
        super().__init__(variances)
        self.grid = grid

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
