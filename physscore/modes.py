"""What is done to a half spectrum by a table over |k|: multiply every mode, and sum power; and the
orthonormal coordinates of fields in their modes.

The compiled loops see every grid with three sides (``Grid.cube``) and a table indexed as
``grid.WavenumberTable`` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import scipy.fft

from physscore.arrays import compiled, device_of, on_gpu, parallel, to_host
from physscore.core import Array
from physscore.fft import forward_fft, forward_ffts, inverse_fft, inverse_ffts, through_planes
from physscore.grid import Columns, Grid, WavenumberTable
from physscore.memory import empty
from physscore.parts import inline

# Sums that share entries are kept in this many parts, whatever the number of threads, so that
# their rounding does not depend on it.
_PARTS = 16
_AT_ONCE = 1 << 17  # coordinates of the fields that are transformed together


@compiled
def _multiply(modes, offsets, table, start, stop):
    n_y, n_z = modes.shape[1], modes.shape[2] // 2
    factor = np.empty(n_z, modes.dtype)
    for x in range(start, stop):
        for y in range(n_y):
            base = offsets[0][x] + offsets[1][y]
            row = modes[x, y]
            for z in range(n_z):
                factor[z] = table[base + offsets[2][z]]
            for z in range(n_z):
                row[2 * z] *= factor[z]
                row[2 * z + 1] *= factor[z]


def multiply(
    modes: Array, wavenumbers: WavenumberTable, table: Array, columns: Columns | None = None
) -> Array:
    """Multiply each mode of a half spectrum, or of columns of it, in place by its entry of ``table``; return
    the modes."""
    device_of(modes, table)
    if on_gpu(modes):
        from physscore.cuda import modes as on_card

        on_card.multiply(modes[np.newaxis], wavenumbers, table)
        return modes
    offsets = wavenumbers.offsets
    if columns is not None:
        offsets = (offsets[0], offsets[1][columns.y_start : columns.y_stop],
                   offsets[2][columns.z_start : columns.z_stop])  # fmt: skip
    parallel(
        _multiply,
        wavenumbers.cube[0],
        _as_real_cube(modes, len(offsets[0]), len(offsets[1])),
        offsets,
        table.astype(modes.real.dtype, copy=False),
    )
    return modes


@inline
def _n_signs(frequency, n):
    """Return whether +frequency and -frequency are one mode of an axis of n cells, or two."""
    return 1 if frequency == 0 or 2 * frequency == n else 2


@compiled
def _sum_power(a, b, n_x, octant, signs_of_y, weights, shared, total, start, stop):
    n_z = len(octant[2])
    row = np.empty(n_z)
    planes = len(octant[0])
    for part in range(start, stop):
        sums = total[part if shared else 0]
        for x in range(planes * part // _PARTS, planes * (part + 1) // _PARTS):
            # The modes (+-x, +-y, z) share their entries: add them up before looking those up.
            for y in range(len(octant[1])):
                row[:] = 0.0
                for i in range(_n_signs(x, n_x)):
                    for j in range(2):
                        xx, yy = x if i == 0 else n_x - x, signs_of_y[j, y]
                        if yy < 0:
                            continue
                        u, v = a[xx, yy], b[xx, yy]
                        for z in range(n_z):
                            row[z] += (
                                np.float64(u[2 * z]) * v[2 * z] + np.float64(u[2 * z + 1]) * v[2 * z + 1]
                            )
                base, weight = octant[0][x] + octant[1][y], weights[0][x] * weights[1][y]
                for z in range(n_z):
                    sums[base + octant[2][z]] += weight * weights[2][z] * row[z]


def sum_power(
    a: Array,
    b: Array,
    wavenumbers: WavenumberTable,
    weights: tuple[Array, Array, Array] | None = None,
    columns: Columns | None = None,
) -> npt.NDArray[np.float64]:
    """Return the sums of Re(a conj b) over the full spectrum, for each entry of the table.

    Parameters
    ----------
    a, b
        Half spectra of the grid.
    wavenumbers
        Where each mode counts.
    weights
        Factors for each non-negative frequency along the three sides of ``wavenumbers.cube``.
    columns
        That ``a`` and ``b`` hold these modes only.
    """
    if device_of(a, b) == "gpu":
        from physscore.cuda import modes as on_card

        return to_host(on_card.sum_power(a, b, wavenumbers, weights))
    n_x, n_y, n_z = wavenumbers.cube
    octant = wavenumbers.octant
    if weights is None:
        weights = (np.ones(len(octant[0])), np.ones(len(octant[1])), np.ones(len(octant[2])))
    y_start, y_stop, z_start, z_stop = columns or (0, n_y, 0, n_z // 2 + 1)
    twice = np.full(len(octant[2]), 2.0)  # the half spectrum leaves out the modes with z < 0
    twice[0] = 1.0
    if n_z % 2 == 0:
        twice[-1] = 1.0
    # Where +y and -y are among the columns, -1 where they are not.
    signs_of_y = np.full((2, n_y // 2 + 1), -1)
    for y in range(y_start, y_stop):
        signs_of_y[int(2 * y > n_y), min(y, n_y - y)] = y - y_start
    here = np.flatnonzero((signs_of_y >= 0).any(axis=0))
    depth = slice(z_start, z_stop)
    total = np.zeros((_PARTS if wavenumbers.shared else 1, wavenumbers.size))
    parallel(
        _sum_power,
        _PARTS,
        _as_real_cube(a, n_x, y_stop - y_start),
        _as_real_cube(b, n_x, y_stop - y_start),
        n_x,
        (octant[0], octant[1][here], octant[2][depth]),
        signs_of_y.take(here, axis=1),  # in one order of axes, for one compiled loop
        (weights[0], weights[1][here], (weights[2] * twice)[depth]),
        wavenumbers.shared,
        total,
    )
    return np.asarray(total.sum(axis=0))


def _as_real_cube(modes: Array, nx: int, ny: int) -> Array:
    """View contiguous modes as real and imaginary parts, with three sides."""
    return modes.view(modes.real.dtype).reshape(nx, ny, -1)


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
            px, py = (nx - x) % nx, (ny - y) % ny
            for z in range(0, width, max(1, nz // 2)):
                if z == 0 or 2 * z == nz:
                    if px == x and py == y:
                        row[2 * z], row[2 * z + 1] = row[2 * z] / root, zero
                    elif x > px or (x == px and y > py):
                        row[2 * z], row[2 * z + 1] = zero, zero


@compiled
def _unpack(coordinates, scale, modes, cube, factor, start, stop):
    nx, ny, nz = cube
    width, root = modes.shape[3] // 2, modes.dtype.type(np.sqrt(0.5))
    half = modes.dtype.type(np.sqrt(0.5) * factor)
    for plane in range(start, stop):
        field, x = plane // nx, plane % nx
        for y in range(ny):
            source, factors, row = coordinates[field, x, y], scale[x, y], modes[field, x, y]
            px, py = (nx - x) % nx, (ny - y) % ny
            for i in range(2 * width):
                row[i] = half * (factors[i] * source[i])
            for z in range(0, width, max(1, nz // 2)):
                if (z == 0 or 2 * z == nz) and px == x and py == y:
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
            if x > px or (x == px and y > py):
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

    What stands in the places that are not used plays no part.

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
    parallel(
        _unpack, len(real) * cube[0], source, scale.reshape(half), real, cube, factor, at_least=_planes(real)
    )
    parallel(_mirror, len(real) * cube[0], real, cube, at_least=_planes(real))
    return real.view(np.complex64 if real.dtype == np.float32 else np.complex128)


def _planes(real: Array) -> int:
    """Return the planes that are worth a thread."""
    return max(1, 20_000 // int(real.shape[2] * real.shape[3]))


def coordinates_in_use(cube: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Return which coordinates are used, flat: as many as there are cells."""
    ones = np.ones((cube[0], cube[1], cube[2] // 2 + 1), np.complex128) * (1 + 1j)
    return np.asarray(to_coordinates(ones, cube)[0] != 0)


def octant_of(numbers: Array, cube: tuple[int, int, int]) -> Array:
    """Return the numbers of the modes with no negative frequency, of those of all coordinates."""
    planes = numbers.reshape(cube[0], cube[1], cube[2] // 2 + 1, 2)
    return planes[: cube[0] // 2 + 1, : cube[1] // 2 + 1, :, 0]


def spread_octant(octant: Array, cube: tuple[int, int, int]) -> Array:
    """Return numbers of all coordinates, those of (|kx|, |ky|, |kz|), and 0 where they are not used."""
    x, y = (np.minimum(np.arange(n), n - np.arange(n)) for n in cube[:2])
    return np.repeat(octant[x][:, y], 2) * coordinates_in_use(cube)


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
    in_use : array (size,) of bool
        Which are used: as many as there are cells.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.size = 2 * math.prod(grid.half_shape)
        self.in_use = coordinates_in_use(grid.cube)
        self._at_once = max(1, _AT_ONCE // self.size)
        self._axes = range(1, grid.dim + 1)
        self._unitary = 1 / math.sqrt(grid.n_cells)

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
