"""The same target in other coordinates: whitened by its prior, or the modes of a field.

In its modes a Gaussian random field is diagonal: its energy and score cost nothing there, and a
preconditioner of its own P(k) is a number for each coordinate. A likelihood costs two FFTs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

from physscore.arrays import forward_fft, inverse_fft, n_threads
from physscore.core import Array, Energy, EnergySum, InputError, Prior
from physscore.energies.random_field import GaussianRandomField
from physscore.grid import Grid
from physscore.modes import coordinates_in_use, from_coordinates, to_coordinates

_AT_ONCE = 1 << 20  # cells of a field up to which many are transformed in one call


class Whitened(Energy):
    """A posterior over the coordinates z in which its prior is a standard normal.

    Parameters
    ----------
    posterior
        A prior, or the sum of one prior and likelihoods.

    Raises
    ------
    InputError
        If it has no prior.
    """

    def __init__(self, posterior: Energy) -> None:
        prior, likelihood = prior_and_likelihood(posterior)
        if prior is None:
            raise InputError(
                f"target {posterior!r} has no prior: write it as prior + likelihood, with one prior"
            )
        self.target, self.prior, self.likelihood = posterior, prior, likelihood
        self.shape = posterior.shape
        self._offset = 0.5 * self.dim * math.log(2 * math.pi)

    def to_state(self, z: Array) -> Array:
        """Return the states at ``z``."""
        return self.prior.unwhiten(z)

    def from_state(self, x: Array) -> Array:
        """Return the coordinates of states."""
        return self.prior.whiten(x)

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return the energies at coordinates ``x``."""
        return self.energy_and_score(x)[0]

    def score(self, x: Array) -> Array:
        """Return the scores over the coordinates."""
        return self.energy_and_score(x)[1]

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        energy = self._offset + 0.5 * np.einsum("ni,ni->n", *[x.reshape(len(x), -1)] * 2, dtype=np.float64)
        if self.likelihood is None:
            return energy, -x
        more, score = self.likelihood.energy_and_score(self.prior.unwhiten(x))
        return energy + more, self.prior.pull_back(x, score) - x


class FieldModes(Energy):
    """A target over the orthonormal Fourier modes of a field; see ``modes.to_coordinates``.

    Parameters
    ----------
    target
        An energy of fields on ``grid``; Gaussian random fields among its terms stay diagonal.
    grid
        The box.
    whitened
        Divide the modes by the root of the prior's eigenvalues: the prior is a standard normal then.

    Raises
    ------
    InputError
        If ``whitened`` and the prior is not a Gaussian random field.
    """

    def __init__(self, target: Energy, grid: Grid, *, whitened: bool = False) -> None:
        self.target, self.grid = target, grid
        self.cube = grid.cube
        self.shape = (2 * math.prod(grid.half_shape),)
        self.in_use = coordinates_in_use(self.cube).reshape(-1)
        terms = target.terms if isinstance(target, EnergySum) else ((1.0, target),)
        fields = [(f, t) for f, t in terms if isinstance(t, GaussianRandomField)]
        others = [(f, t) for f, t in terms if not isinstance(t, GaussianRandomField)]
        self.others = EnergySum(others) if others else None
        self.precision = np.zeros(self.shape)
        self._offset = 0.0
        free = self.in_use.copy()
        for factor, field in fields:
            eigenvalues = self._spread(field, field._eigenvalues)
            free &= eigenvalues > 0
            inverse = np.zeros(self.shape)
            np.divide(factor, eigenvalues, out=inverse, where=free)
            self.precision += inverse
            self._offset += factor * field._log_normalisation
        self.precision[~free] = 0.0
        self.free = free
        self.scale: Array | None = None
        if whitened:
            prior = prior_and_likelihood(target)[0]
            if not isinstance(prior, GaussianRandomField):
                raise InputError(f"target {target!r} has no prior that is a GaussianRandomField")
            self.scale = np.where(free, np.sqrt(self._spread(prior, prior._eigenvalues)), 0.0)

    def _spread(self, field: GaussianRandomField, table: Array) -> Array:
        """Return an entry of a table over |k| for each coordinate."""
        x, y, z = field.wavenumbers.offsets
        index = x[:, np.newaxis, np.newaxis] + y[:, np.newaxis] + np.repeat(z, 2)
        return np.asarray(table[index].reshape(-1) * self.in_use)

    def to_state(self, z: Array) -> Array:
        """Return the fields with coordinates ``z``."""
        scaled = np.array(z) if self.scale is None else z * self.scale.astype(z.dtype)
        modes = [from_coordinates(one, self.cube) for one in scaled]
        norm = 1 / math.sqrt(self.grid.n_cells)
        if self.grid.n_cells > _AT_ONCE:
            found = np.array([inverse_fft(m.reshape(self.grid.half_shape), self.grid.shape) for m in modes])
            found *= found.dtype.type(norm)
            return found
        half = np.array(modes).reshape(len(z), *self.grid.half_shape)
        axes = range(1, self.grid.dim + 1)
        return np.asarray(scipy.fft.irfftn(half, self.grid.shape, axes, "ortho", workers=n_threads()))

    def from_state(self, x: Array) -> Array:
        """Return the coordinates of fields."""
        found = self._coordinates(x)
        if self.scale is not None:
            inverse = np.zeros_like(self.scale)
            np.divide(1.0, self.scale, out=inverse, where=self.free)
            found *= inverse.astype(found.dtype)
        return found

    def _coordinates(self, x: Array) -> Array:
        if self.grid.n_cells > _AT_ONCE:
            modes = np.array([forward_fft(field) for field in x]) / x.dtype.type(math.sqrt(self.grid.n_cells))
        else:
            axes = range(1, self.grid.dim + 1)
            modes = scipy.fft.rfftn(x, axes=axes, norm="ortho", workers=n_threads())
        for one in modes:
            to_coordinates(one, self.cube)
        return np.asarray(modes.view(x.dtype).reshape(len(x), -1))

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return the energies at coordinates ``x``."""
        return self.energy_and_score(x)[0]

    def score(self, x: Array) -> Array:
        """Return the scores over the coordinates."""
        return self.energy_and_score(x)[1]

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both; two FFTs where there is more than Gaussian random fields."""
        if self.scale is None:
            score = x * -self.precision.astype(x.dtype)
            offset = self._offset
        else:  # what is not free is a standard normal of its own, which changes nothing
            score = -x
            offset = 0.5 * self.dim * math.log(2 * math.pi)
        energy = offset - 0.5 * np.einsum("ni,ni->n", x, score, dtype=np.float64)
        if self.others is not None:
            terms = self.others if self.scale is None else self.target
            likelihood = terms if self.scale is None else prior_and_likelihood(self.target)[1]
            assert likelihood is not None
            more, slopes = likelihood.energy_and_score(self.to_state(x))
            energy = energy + more
            weight = self.free.astype(x.dtype) if self.scale is None else self.scale.astype(x.dtype)
            score += self._coordinates(np.ascontiguousarray(slopes)) * weight
        return energy, score


def prior_and_likelihood(target: Any) -> tuple[Prior | None, Energy | None]:
    """Return the prior of a target and the rest, None where there is none."""
    if isinstance(target, Prior):
        return target, None
    if isinstance(target, EnergySum):
        return target.prior, target.likelihood
    return None, None
