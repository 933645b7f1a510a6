"""``noise.field_modes`` and the functions of ``modes.py`` on a card, over batches of half spectra."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from physscore.arrays import cupy
from physscore.core import Array
from physscore.cuda import kept, launch, launch_blocks, parts_of
from physscore.grid import WavenumberTable


def _octant(wavenumbers: WavenumberTable) -> tuple[Any, ...]:
    """Return the sides and the offsets of a table."""
    offsets = [
        kept(wavenumbers, f"octant {i}", partial(np.ascontiguousarray, wavenumbers.octant[i], np.int64))
        for i in range(3)
    ]
    return (*wavenumbers.cube, *offsets)


def _items(cube: tuple[int, int, int]) -> int:
    return math.prod(n // 2 + 1 for n in cube)


def _complex(dtype: Any) -> Any:
    return np.complex64 if dtype == np.float32 else np.complex128


def draw(
    wavenumbers: WavenumberTable, table: Array, key: tuple[Any, Any], realization: int, fixed: bool
) -> Any:
    """Return the half spectrum of a field; ``table`` is on the card. See ``noise.field_modes``."""
    nx, ny, nz = wavenumbers.cube
    out = cupy().empty((nx, ny, nz // 2 + 1), _complex(table.dtype))
    blocks = (nx // 2 + 1) * (ny // 2 + 1) * (-(-(nz // 2 + 1) // 2))
    place = np.uint32(realization), np.uint32(key[0]), np.uint32(key[1])
    about = (out, *_octant(wavenumbers), table, *place, fixed)
    launch("modes", "draw_modes", table.dtype, blocks, *about)
    launch("modes", "draw_planes", table.dtype, 2 * nx * ny, *about)
    return out


def multiply(modes: Any, wavenumbers: WavenumberTable, table: Any) -> Any:
    """Multiply the modes of fields (n, ...) in place by their entries of ``table``; return them."""
    launch(
        "modes", "multiply", table.dtype, len(modes) * _items(wavenumbers.cube), modes, len(modes),
        *_octant(wavenumbers), table,
    )  # fmt: skip
    return modes


def sum_power(
    a: Any, b: Any, wavenumbers: WavenumberTable, weights: tuple[Array, Array, Array] | None
) -> Any:
    """Return the sums of Re(a conj b) of one field for each entry of the table, on the card."""
    xp = cupy()
    wide = np.promote_types(a.dtype, b.dtype)
    a, b = a.astype(wide, copy=False), b.astype(wide, copy=False)
    factors = [
        xp.ones(len(wavenumbers.octant[i])) if weights is None else xp.asarray(weights[i], np.float64)
        for i in range(3)
    ]
    total = xp.zeros(wavenumbers.size)
    launch(
        "modes", "sum_power", a.real.dtype, _items(wavenumbers.cube), a, b, *_octant(wavenumbers), *factors,
        total,
    )  # fmt: skip
    return total


def weighted_power(modes: Any, wavenumbers: WavenumberTable, weights: Any, table: Any = None) -> Any:
    """Return the sum over the full spectrum of |modes|^2 times ``weights``, for fields (n, ...).

    With a ``table`` the modes are multiplied by it after that, in place.
    """
    n, items = len(modes), _items(wavenumbers.cube)
    real = np.float32 if modes.dtype == np.complex64 else np.float64
    parts = parts_of(n, items)
    sums = cupy().empty((n, parts))
    none = cupy().empty(0, real) if table is None else table
    launch_blocks(
        "modes", "weighted_power", real, n * parts, -(-items // parts), modes, n, parts,
        *_octant(wavenumbers), weights, none, table is not None, sums,
    )  # fmt: skip
    return sums.sum(axis=1)


def to_coordinates(modes: Any, cube: tuple[int, int, int], factor: float) -> Any:
    """Turn half spectra (n, ...), in place, into coordinates (n, size); see ``modes.to_coordinates``."""
    real = np.float32 if modes.dtype == np.complex64 else np.float64
    launch(
        "modes", "to_coordinates", real, modes.size, modes, len(modes), *cube, real(np.sqrt(2.0) * factor),
        real(np.sqrt(2.0)),
    )  # fmt: skip
    return modes.reshape(len(modes), -1).view(real)


def from_coordinates(
    coordinates: Any, scale: Any, cube: tuple[int, int, int], factor: float, shift: Any = None
) -> Any:
    """Return half spectra (n, nx, ny, nz_half) of coordinates (n, size); see ``modes.from_coordinates``.

    With a ``shift`` they are those of scale * coordinates + shift.
    """
    n, real = len(coordinates), coordinates.dtype.type
    half = (cube[0], cube[1], cube[2] // 2 + 1)
    modes = cupy().empty((n, *half), _complex(coordinates.dtype))
    launch(
        "modes", "from_coordinates", real, modes.size, coordinates, scale, shift is not None,
        scale if shift is None else shift, modes, n, *cube, real(np.sqrt(0.5) * factor), real(np.sqrt(0.5)),
    )  # fmt: skip
    return modes


def diagonal(
    x: Any, precision: Any, slopes: Any, scale: Any, cube: tuple[int, int, int], factor: float,
    shift: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    """Return energies and scores of what is diagonal, at coordinates (n, size), and of the half spectra of
    ``slopes``, which are used up; see ``energies.coordinates.FieldModes``. With a ``shift`` the energy has
    shift . x, too."""
    n, size = x.shape
    real, pairs = x.dtype.type, size // 2
    parts = parts_of(n, pairs)
    score = cupy().empty_like(x) if slopes is None else slopes.view(real).reshape(n, size)
    sums = cupy().empty((n, parts))
    launch_blocks(
        "modes", "diagonal", real, n * parts, -(-pairs // parts), x, precision, shift is not None,
        precision if shift is None else shift, scale, slopes is not None, score, n, *cube,
        real(np.sqrt(2.0) * factor), real(np.sqrt(2.0)), parts, sums,
    )  # fmt: skip
    return sums.sum(axis=1), score
