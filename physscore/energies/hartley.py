"""Fields of small grids in real plane waves that need no FFT: compiled for blocks of fields.

Along a side of L cells these are cas(2 pi m x / L) / sqrt(L) with cas t = cos t + sin t, a symmetric matrix
that is its own inverse (Hartley 1942, Proc. IRE 30, 144); on a grid, products of them. A wave is made of the
Fourier modes (+-k_x, +-k_y, +-k_z), so a normal density whose variances depend on |k_x|, |k_y| and |k_z|
is as diagonal in these waves as in modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt

from physscore.arrays import compiled, parallel
from physscore.core import Array
from physscore.energies.fourier_gaussian import FourierGaussian
from physscore.mode_coordinates import Coordinates
from physscore.parts import part, spliced
from physscore.points import to_rows

_TOGETHER = 64  # fields


class Waves:
    """A ``FourierGaussian`` in whitened coordinates y of these waves: field = mean + H std y.

    Parameters
    ----------
    reference
        Its variances must not depend on the signs of k_x, k_y and k_z.

    Attributes
    ----------
    even : bool
        Whether they do not; the rest has no meaning if they do.
    shape : tuple of int
        Of the grid.
    mean : array (d,)
        A field.
    std : array (d,)
        Of each wave's amplitude.
    groups : array (d,) of int
        The same number for waves of the same |k|.
    """

    def __init__(self, reference: FourierGaussian) -> None:
        grid = reference.grid
        self.grid, self.shape = grid, grid.shape
        self.mean = reference._mean_field.ravel()
        frequencies = [np.minimum(np.arange(n), n - np.arange(n)) for n in grid.cube]
        octant = tuple(n // 2 + 1 for n in grid.cube)
        along_z = np.repeat(np.arange(octant[2]), 2)  # real and imaginary parts
        self._of_mode = np.ravel_multi_index(np.ix_(frequencies[0], frequencies[1], along_z), octant).ravel()
        self._of_wave = np.ravel_multi_index(np.ix_(*frequencies), octant).ravel()
        used, variances = self._of_mode[reference.coordinates.in_use], reference.variances
        by_octant, least = np.zeros(math.prod(octant)), np.full(math.prod(octant), np.inf)
        np.maximum.at(by_octant, used, variances[reference.coordinates.in_use])
        np.minimum.at(least, used, variances[reference.coordinates.in_use])
        self.even = bool(np.allclose(by_octant, least, rtol=1e-12, atol=0.0))
        self.std = np.sqrt(by_octant[self._of_wave])
        x, y, z = grid.wavenumbers.octant
        size = (x[:, np.newaxis, np.newaxis] + y[:, np.newaxis] + z).ravel()[self._of_wave]
        moving = np.where(self.std > 0, size, -1)
        self.groups = np.unique(moving, return_inverse=True)[1].astype(np.int64)
        self.sides = [_side(n) for n in grid.shape]

    def normal(self, mean: Array, variances: Array) -> FourierGaussian:
        """Return the normal density of y with a mean and with variances that groups share."""
        by_octant = np.zeros(self._of_wave.max() + 1)
        by_octant[self._of_wave] = self.std**2 * variances
        modes = Coordinates(self.grid).of_fields(self.unwhiten(mean[np.newaxis]))[0]
        return FourierGaussian(self.grid, modes, by_octant[self._of_mode])

    @cached_property
    def numbers(self) -> npt.NDArray[np.float64]:
        """All that the compiled functions need."""
        sides = [side.ravel() for side in self.sides]
        return np.concatenate([[len(self.shape), *self.shape], self.mean, self.std, *sides])

    def transform(self, fields: Array) -> Array:
        """Return the amplitudes of fields, or the fields of amplitudes, both (n, d)."""
        return self._each(_transform_rows, fields.reshape(len(fields), -1))

    def _each(self, work: Callable[..., None], rows: Array) -> Array:
        out = np.empty_like(rows, np.float64)
        parallel(work, len(rows), self.numbers, rows, out, at_least=max(1, 4096 // rows.shape[1]))
        return out

    def variances(self, scale: Array) -> npt.NDArray[np.float64]:
        """Return the variances of the cells where y has the standard deviations ``scale``."""
        variances: Array = ((self.std * scale) ** 2).reshape(self.shape)
        for axis, side in enumerate(self.sides):
            variances = np.moveaxis(np.tensordot(variances, side**2, (axis, 0)), -1, axis)
        return variances.ravel()

    def unwhiten(self, y: Array) -> Array:
        """Return the fields (n, *shape) at ``y``."""
        return self._each(_unwhiten_rows, y).reshape(-1, *self.shape)

    def whiten(self, x: Array) -> Array:
        """Return the coordinates of fields; 0 where a variance is."""
        inverse = np.divide(1.0, self.std, out=np.zeros_like(self.std), where=self.std > 0)
        return inverse * self.transform(x.reshape(len(x), -1) - self.mean)

    def pull_back(self, gradient: Array) -> Array:
        """Return a gradient over y, given that over the fields."""
        return self.std * self.transform(gradient)


def _side(n: int) -> npt.NDArray[np.float64]:
    angle = 2 * np.pi / n * (np.outer(np.arange(n), np.arange(n)) % n)
    return np.asarray((np.cos(angle) + np.sin(angle)) / math.sqrt(n))


@part
def _transform(numbers, x):
    """Transform the fields that are the columns of ``x``, in place."""
    d, n = x.shape
    axes = int(numbers[0])
    start = 1 + axes + 2 * d
    work = np.empty((d, n))
    source, out = x, work
    inner = d
    for axis in range(axes):
        side = int(numbers[1 + axis])
        inner //= side
        matrix = numbers[start : start + side * side].reshape(side, side)
        start += side * side
        rows = source.reshape(d // (side * inner), side, inner * n)
        made = out.reshape(d // (side * inner), side, inner * n)
        for o in range(len(rows)):
            for i in range(side):
                to = made[o, i]
                a = rows[o, 0]
                w = matrix[i, 0]
                for j in range(len(to)):
                    to[j] = w * a[j]
                k = 1
                while k + 3 < side:  # four at once: what is stored is read again
                    a, b, c, e = rows[o, k], rows[o, k + 1], rows[o, k + 2], rows[o, k + 3]
                    w, v, u, t = matrix[i, k], matrix[i, k + 1], matrix[i, k + 2], matrix[i, k + 3]
                    for j in range(len(to)):
                        to[j] += w * a[j] + v * b[j] + u * c[j] + t * e[j]
                    k += 4
                while k < side:
                    a, w = rows[o, k], matrix[i, k]
                    for j in range(len(to)):
                        to[j] += w * a[j]
                    k += 1
        source, out = out, source
    if axes % 2 == 1:
        for i in range(len(x)):
            for j in range(x.shape[1]):
                x[i, j] = work[i, j]


@compiled
def _transform_rows(numbers, rows, out, start, stop):
    """Transform fields that are rows, some of them at a time."""
    for low in range(start, stop, _TOGETHER):
        high = min(low + _TOGETHER, stop)
        block = rows[low:high].T.copy()
        _transform(numbers, block)
        to_rows(block, out, low, high - low)


@compiled
def _unwhiten_rows(numbers, rows, out, start, stop):
    """Fill ``out`` with the fields at rows, some of them at a time."""
    for low in range(start, stop, _TOGETHER):
        high = min(low + _TOGETHER, stop)
        z = rows[low:high].T.copy()
        x = np.empty_like(z)
        unwhiten_waves(numbers, z, x)
        to_rows(x, out, low, high - low)


@spliced
def unwhiten_waves(numbers, z, x):
    """Fill the block ``x`` with the fields at ``z``."""
    d, n = z.shape
    first = 1 + int(numbers[0])
    for i in range(d):
        std = numbers[first + d + i]
        for j in range(n):
            x[i, j] = std * z[i, j]
    _transform(numbers, x)
    for i in range(d):
        mean = numbers[first + i]
        for j in range(n):
            x[i, j] += mean


@spliced
def pull_back_waves(numbers, gradient):
    """Turn a gradient over fields into one over z, in place."""
    d, n = gradient.shape
    first = 1 + int(numbers[0])
    _transform(numbers, gradient)
    for i in range(d):
        std = numbers[first + d + i]
        for j in range(n):
            gradient[i, j] *= std
