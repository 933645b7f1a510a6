"""What is done to a half spectrum by a table over |k|: multiply every mode, and sum power.

The compiled loops see every grid with three sides (``Grid.cube``) and a table indexed as
``grid.WavenumberTable`` says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from physscore.arrays import compiled, device_of, on_gpu, parallel, to_host
from physscore.core import Array
from physscore.grid import Columns, WavenumberTable
from physscore.parts import inline

# Sums that share entries are kept in this many parts, whatever the number of threads, so that
# their rounding does not depend on it.
_PARTS = 16


@compiled
def _multiply(modes, offsets, table, start, stop):
    n_y, n_z = modes.shape[1], modes.shape[2] // 2
    factor = np.empty(n_z, modes.dtype)
    for x in range(start, stop):
        for y in range(n_y):
            base = offsets[0][x % len(offsets[0])] + offsets[1][y]
            row = modes[x, y]
            for z in range(n_z):
                factor[z] = table[base + offsets[2][z]]
            for z in range(n_z):
                row[2 * z] *= factor[z]
                row[2 * z + 1] *= factor[z]


def multiply(
    modes: Array, wavenumbers: WavenumberTable, table: Array, columns: Columns | None = None
) -> Array:
    """Multiply each mode of half spectra, or of columns of one, in place by its entry of ``table``; return
    the modes. On a card there is one half spectrum."""
    device_of(modes, table)
    if on_gpu(modes):
        from physscore.cuda import modes as on_card

        on_card.multiply(modes[np.newaxis], wavenumbers, table)
        return modes
    offsets = wavenumbers.offsets
    if columns is not None:
        offsets = (offsets[0], offsets[1][columns.y_start : columns.y_stop],
                   offsets[2][columns.z_start : columns.z_stop])  # fmt: skip
    planes = _as_real_cubes(modes, *map(len, offsets)).reshape(-1, len(offsets[1]), 2 * len(offsets[2]))
    parallel(
        _multiply,
        len(planes),
        planes,
        offsets,
        table.astype(modes.real.dtype, copy=False),
        at_least=max(1, 20_000 * len(planes) // max(1, planes.size)),
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
    for index in range(start, stop):
        field, part = index // _PARTS, index % _PARTS
        sums = total[field, part if shared else 0]
        for x in range(planes * part // _PARTS, planes * (part + 1) // _PARTS):
            # The modes (+-x, +-y, z) share their entries: add them up before looking those up.
            for y in range(len(octant[1])):
                row[:] = 0.0
                for i in range(_n_signs(x, n_x)):
                    for j in range(2):
                        xx, yy = x if i == 0 else n_x - x, signs_of_y[j, y]
                        if yy < 0:
                            continue
                        u, v = a[field, xx, yy], b[field, xx, yy]
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
    return np.asarray(sum_powers(a, b, wavenumbers, weights, columns)[0])


def sum_powers(
    a: Array,
    b: Array,
    wavenumbers: WavenumberTable,
    weights: tuple[Array, Array, Array] | None = None,
    columns: Columns | None = None,
) -> npt.NDArray[np.float64]:
    """Return the sums of :func:`sum_power` for each of n half spectra in memory, shape (n, entries)."""
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
    cubes = [_as_real_cubes(c, n_x, y_stop - y_start, z_stop - z_start) for c in (a, b)]
    n = len(cubes[0])
    total = np.zeros((n, _PARTS if wavenumbers.shared else 1, wavenumbers.size))
    parallel(
        _sum_power,
        n * _PARTS,
        *cubes,
        n_x,
        (octant[0], octant[1][here], octant[2][depth]),
        signs_of_y.take(here, axis=1),  # in one order of axes, for one compiled loop
        (weights[0], weights[1][here], (weights[2] * twice)[depth]),
        wavenumbers.shared,
        total,
        at_least=max(1, 20_000 * n * _PARTS // max(1, cubes[0].size)),
    )
    return np.asarray(total.sum(axis=1))


def _as_real_cubes(modes: Array, nx: int, ny: int, nz: int) -> Array:
    """View contiguous half spectra as real and imaginary parts, with three sides each."""
    return modes.view(modes.real.dtype).reshape(-1, nx, ny, 2 * nz)
