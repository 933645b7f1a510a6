"""The orthonormal coordinates of fields in their modes.

Numbers of the coordinates that are those of (|kx|, |ky|, |kz|) are given by octants: arrays over the modes
with no negative frequency, an eighth of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.fft

from physscore.arrays import compiled, on_gpu, parallel
from physscore.core import Array
from physscore.fft import forward_fft, forward_ffts, inverse_fft, inverse_ffts, through_planes
from physscore.grid import Grid
from physscore.memory import empty
from physscore.parts import in_any_order, inline

_AT_ONCE = 1 << 17  # coordinates of the fields that are transformed together
_A_PIECE = 4096  # coordinates, about: the sum of a piece does not depend on threads


@inline
def _role(x, y, cube):
    """Return what modes (x, y) are on the planes that hold both of a pair: 0 for any that stand for their own
    and their partner's, 1 for their own partners, 2 for those whose partner is kept."""
    px, py = (cube[0] - x) % cube[0], (cube[1] - y) % cube[1]
    if px == x and py == y:
        return 1
    return 2 if x > px or (x == px and y > py) else 0


@inline
def _from_octant(octant, x, y, cube, unused, row):
    """Fill the numbers of the coordinates of a row of modes; "unused" where one plays no part."""
    nx, ny, nz = cube
    numbers, role = octant[min(x, (nx - x) % nx), min(y, (ny - y) % ny)], _role(x, y, cube)
    for z in range(len(numbers)):
        row[2 * z] = numbers[z]
        row[2 * z + 1] = numbers[z]
    for z in range(0, len(numbers), max(1, nz // 2)):
        if role and (z == 0 or 2 * z == nz):
            row[2 * z] = row[2 * z] if role == 1 else unused
            row[2 * z + 1] = unused


@compiled
def _pack(modes, cube, factor, start, stop):
    nx, ny, nz = cube
    width, root = modes.shape[3] // 2, modes.dtype.type(np.sqrt(2.0))
    zero, twice = modes.dtype.type(0), modes.dtype.type(np.sqrt(2.0) * factor)
    for plane in range(start, stop):
        field, x = plane // nx, plane % nx
        for y in range(ny):
            row = modes[field, x, y]
            for i in range(2 * width):
                row[i] *= twice
            role = _role(x, y, cube)
            for z in range(0, width, max(1, nz // 2)):
                if role and (z == 0 or 2 * z == nz):
                    row[2 * z] = row[2 * z] / root if role == 1 else zero
                    row[2 * z + 1] = zero


@compiled
def _unpack(coordinates, scale, octant, modes, cube, factor, start, stop):
    nx, ny, nz = cube
    width, root = modes.shape[3] // 2, modes.dtype.type(np.sqrt(0.5))
    half = modes.dtype.type(np.sqrt(0.5) * factor)
    numbers = np.empty(2 * width, modes.dtype)
    for plane in range(start, stop):
        field, x = plane // nx, plane % nx
        for y in range(ny):
            source, row = coordinates[field, x, y], modes[field, x, y]
            if octant:
                _from_octant(scale, x, y, cube, modes.dtype.type(0), numbers)
            factors = numbers if octant else scale[x, y]
            role = _role(x, y, cube)
            for i in range(2 * width):
                row[i] = half * (factors[i] * source[i])
            for z in range(0, width, max(1, nz // 2)):
                if role == 1 and (z == 0 or 2 * z == nz):
                    row[2 * z], row[2 * z + 1] = row[2 * z] / root, 0.0


@compiled
def _mirror(modes, cube, start, stop):
    nx, ny, nz = cube
    width = modes.shape[3] // 2
    for plane in range(start, stop):
        x = plane % nx
        field, px = modes[plane // nx], (nx - x) % nx
        for y in range(ny):
            py = (ny - y) % ny
            if _role(x, y, cube) == 2:
                for z in range(0, width, max(1, nz // 2)):
                    if z == 0 or 2 * z == nz:
                        field[x, y, 2 * z] = field[px, py, 2 * z]
                        field[x, y, 2 * z + 1] = -field[px, py, 2 * z + 1]


def to_coordinates(modes: Array, cube: tuple[int, int, int], factor: float = 1.0) -> Array:
    """Turn half spectra of real fields, in place, into coordinates; multiply them by ``factor``.

    Those of a unitary spectrum are orthonormal. Of two modes that a real field ties together, both on a
    plane z = 0 or Nyquist, one is kept and the other's place is zero; the rest count twice. So the sum
    of squares is that of the field.

    Returns
    -------
    array
        Real, of shape (n, 2 * nx * ny * nz_half) for n fields, in the memory of ``modes``.
    """
    if on_gpu(modes):
        from physscore.cuda import modes as on_card

        packed: Array = on_card.to_coordinates(modes, cube, factor)
        return packed
    real = modes.view(modes.real.dtype).reshape(-1, cube[0], cube[1], 2 * (cube[2] // 2 + 1))
    parallel(_pack, len(real) * cube[0], real, cube, factor, at_least=_planes(real))
    return np.asarray(real.reshape(len(real), -1))


def from_coordinates(
    coordinates: Array, scale: Array, cube: tuple[int, int, int], factor: float = 1.0
) -> Array:
    """Return ``factor`` times the half spectra of ``scale`` times coordinates: undo :func:`to_coordinates`.

    What stands in the places that are not used plays no part. ``scale`` is an octant, of three dimensions, or
    has a number for each coordinate.

    Returns
    -------
    array
        Complex, of shape (n, nx, ny, nz_half).
    """
    if on_gpu(coordinates):
        from physscore.cuda import modes as on_card

        unpacked: Array = on_card.from_coordinates(coordinates, scale, cube, factor)
        return unpacked
    half = (cube[0], cube[1], 2 * (cube[2] // 2 + 1))
    source = coordinates.reshape(-1, *half)
    real = empty(source.shape, source.dtype)
    octant = scale.ndim == 3
    parallel(
        _unpack, len(real) * cube[0], source, scale if octant else scale.reshape(half), octant, real, cube,
        factor, at_least=_planes(real),
    )  # fmt: skip
    parallel(_mirror, len(real) * cube[0], real, cube, at_least=_planes(real))
    return real.view(np.complex64 if real.dtype == np.float32 else np.complex128)


def _planes(real: Array) -> int:
    """Return the planes that are worth a thread."""
    return max(1, 20_000 // int(real.shape[2] * real.shape[3]))


def coordinates_in_use(cube: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Return which coordinates are used, flat: as many as there are cells."""
    used = np.ones((cube[0], cube[1], cube[2] // 2 + 1, 2), bool)
    x, y = np.arange(cube[0])[:, np.newaxis], np.arange(cube[1])
    px, py = -x % cube[0], -y % cube[1]
    own, of_partner = (px == x) & (py == y), (x > px) | ((x == px) & (y > py))
    for z in {0, cube[2] // 2} if cube[2] % 2 == 0 else {0}:
        used[:, :, z, 0], used[:, :, z, 1] = ~of_partner, ~(of_partner | own)
    return used.ravel()


def octant_of(numbers: Array, cube: tuple[int, int, int]) -> Array:
    """Return the numbers of the modes with no negative frequency, of those of all coordinates."""
    planes = numbers.reshape(cube[0], cube[1], cube[2] // 2 + 1, 2)
    return planes[: cube[0] // 2 + 1, : cube[1] // 2 + 1, :, 0]


def spread_octant(octant: Array, cube: tuple[int, int, int]) -> Array:
    """Return numbers of all coordinates, those of (|kx|, |ky|, |kz|), and 0 where they are not used."""
    x, y = (np.minimum(np.arange(n), n - np.arange(n)) for n in cube[:2])
    numbers = np.repeat(octant[x[:, np.newaxis], y], 2)
    numbers *= coordinates_in_use(cube)
    return numbers


@compiled
def _diagonal(x, precision, bent, scale, cube, unused, score, sums, a_piece, start, stop):
    """Fill the score, bent * scale - precision * x, and sum precision * x^2 / 2 by pieces of rows."""
    n_pieces, rows, width = sums.shape[1], x.shape[1], x.shape[2]
    weights, factors = np.empty(width, x.dtype), np.empty(width, x.dtype)
    for task in range(start, stop):
        field, piece = task // n_pieces, task % n_pieces
        total = 0.0
        for row in range(piece * a_piece, min((piece + 1) * a_piece, rows)):
            part, out = x[field, row], score[field, row]
            _from_octant(precision, row // cube[1], row % cube[1], cube, unused, weights)
            if len(bent) == 0:
                for i in range(width):
                    out[i] = -weights[i] * part[i]
            else:
                slopes = bent[field, row]
                _from_octant(scale, row // cube[1], row % cube[1], cube, x.dtype.type(0), factors)
                for i in range(width):
                    out[i] = slopes[i] * factors[i] - weights[i] * part[i]
            total += _weighted_squares(weights, part)
        sums[field, piece] = 0.5 * total


@in_any_order
def _weighted_squares(weights, x):
    total = 0.0
    for i in range(len(x)):
        total += np.float64(weights[i]) * np.float64(x[i]) * np.float64(x[i])
    return total


def diagonal(
    x: Array, precision: Array, bent: Array | None, scale: Array, cube: tuple[int, int, int], unused: float,
    score: Array,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Fill the score of coordinates (n, d), scale * bent - precision * x; return sums of precision * x^2 / 2.

    Parameters
    ----------
    x
        Coordinates.
    precision, scale
        Octants, in the precision of ``x``.
    bent
        Coordinates of the slopes of what is not diagonal, or None.
    unused
        The precision of coordinates that are not used.
    score
        An array like ``x``.
    """
    a_row = 2 * (cube[2] // 2 + 1)
    rows = x.reshape(len(x), -1, a_row)
    a_piece = max(1, _A_PIECE // a_row)
    sums = np.empty((len(x), -(-rows.shape[1] // a_piece)))
    slopes = rows[:0] if bent is None else bent.reshape(rows.shape)
    parallel(
        _diagonal, sums.size, rows, precision, slopes, scale, cube, x.dtype.type(unused),
        score.reshape(rows.shape), sums, a_piece, at_least=8,
    )  # fmt: skip
    return np.asarray(sums.sum(axis=1))


class Coordinates:
    """The way between fields on a grid and their coordinates, as many at once as stay in the cache.

    Parameters
    ----------
    grid
        The box.

    Attributes
    ----------
    size : int
        Number of coordinates of a field, those that are not used among them.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.size = 2 * math.prod(grid.half_shape)
        self._at_once = max(1, _AT_ONCE // self.size)
        self._axes = range(1, grid.dim + 1)
        self._unitary = 1 / math.sqrt(grid.n_cells)

    @cached_property
    def in_use(self) -> npt.NDArray[np.bool_]:
        """Which coordinates are used."""
        return coordinates_in_use(self.grid.cube)

    def groups(self, n: int) -> Iterator[slice]:
        """Yield the ``n`` fields in groups that stay in the cache."""
        for start in range(0, n, self._at_once):
            yield slice(start, min(start + self._at_once, n))

    def to_fields(self, z: Array, scale: Array) -> Array:
        """Return the fields (n, *grid.shape) with the coordinates ``scale * z``, where z is (n, size)."""
        if on_gpu(z) or 0 < len(z) <= self._at_once:
            return self._to_fields(z, scale)
        fields = np.empty((len(z), *self.grid.shape), z.dtype)
        for group in self.groups(len(z)):
            fields[group] = self._to_fields(z[group], scale)
        return fields

    def of_fields(self, x: Array) -> Array:
        """Return the coordinates (n, size) of fields; those that are not used are 0."""
        if on_gpu(x) or 0 < len(x) <= self._at_once:
            return self._of_fields(x)
        coordinates = np.empty((len(x), self.size), x.dtype)
        for group in self.groups(len(x)):
            coordinates[group] = self._of_fields(x[group])
        return coordinates

    def through_planes(self, z: Array, scale: Array, work: Callable[[int, Array], Array]) -> Array:
        """Return the coordinates (1, size) of what ``work`` makes of the planes of one field, which has the
        coordinates ``scale * z``; see ``fft.through_planes``."""
        modes = from_coordinates(z, scale, self.grid.cube, self._unitary).reshape(self.grid.half_shape)
        modes = through_planes(modes, self.grid.shape, work)
        return to_coordinates(modes[np.newaxis], self.grid.cube, self._unitary)

    def _to_fields(self, z: Array, scale: Array) -> Array:
        modes = from_coordinates(z, scale, self.grid.cube, self._unitary)
        modes = modes.reshape(len(z), *self.grid.half_shape)
        if on_gpu(z):
            return inverse_ffts(modes, self.grid.shape)
        if len(z) == 1:
            return inverse_fft(modes[0], self.grid.shape)[np.newaxis]
        return np.asarray(scipy.fft.irfftn(modes, self.grid.shape, self._axes, norm="forward", workers=1))

    def _of_fields(self, x: Array) -> Array:
        if on_gpu(x):
            return to_coordinates(forward_ffts(x), self.grid.cube, self._unitary)
        modes = forward_fft(x[0]) if len(x) == 1 else scipy.fft.rfftn(x, axes=self._axes, workers=1)
        return to_coordinates(modes, self.grid.cube, self._unitary)
