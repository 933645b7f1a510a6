"""Counter-based normal deviates: the only source of randomness in the package.

Every deviate is counted by *where* it is used (``philox.py`` turns the counter into a number): a mode
of a field by its wavevector, a component of a chain by (component, chain, step). No result depends
on threads, order, batches or processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from physscore.arrays import compiled, floating_dtype, on_gpu, parallel, require_memory
from physscore.core import Array, InputError
from physscore.parts import inline
from physscore.philox import (
    LOWER_BITS,
    normal_rows,
    normals,
    philox4x32,
    seed_key,
    select,
    words_along_first,
    words_along_second,
)

if TYPE_CHECKING:
    from physscore.grid import Columns, WavenumberTable

__all__ = ["MAX_DRAWS", "checked_draw", "field_modes", "fill_block", "fill_row", "normal", "seed_key"]

# The last counter word holds the purpose in its upper 8 bits, so no two uses ever share a counter,
# and the realization or draw in the other 24.
FIELD = 0 << 24
CHAIN = 2 << 24
MAX_DRAWS = 1 << 24
_MANY = 1 << 24  # numbers, for which the memory is asked about
# The numbers of the draws that exact samples are made of, apart from those that move chains of the same seed.
EXACT, WHICH = 66, 67

_u64 = np.uint64
_MASK = _u64(0xFFFFFFFF)


@inline
def _partner_words(words, block, odd, x, first, nx, ny, c3, k0, k1):
    """Fill ``words`` with those of mode (x, y, z) for every y from the first on, or of its partner
    (-x, -y, -z) where that one counts: of two modes that a real field ties together both use the same
    place."""
    for i in range(len(words) // 2):
        y = first + i
        away = (2 * x > nx) | (((2 * x == nx) | (x == 0)) & (2 * y > ny))
        px, py = select(away, -x, x), select(away, -y, y)
        cx = _u64(select(2 * px >= nx, px - nx, select(2 * px < -nx, px + nx, px))) & _MASK
        cy = _u64(select(2 * py >= ny, py - ny, select(2 * py < -ny, py + ny, py))) & _MASK
        w0, w1, w2, w3 = philox4x32(block, cy, cx, c3, k0, k1)
        words[2 * i] = select(odd, w2, w0)
        words[2 * i + 1] = select(odd, w3, w1)


@compiled
def _draw_modes(out, cube, columns, offsets, table, c3s, k0, k1, fixed, start, stop):
    """Draw planes start to stop of the coloured half spectra of fields, or of columns of them; ``out`` is
    real, (fields * nx, columns along y, 2 * columns along z)."""
    nx, ny, nz = cube
    y_start, y_stop, z_start, z_stop = columns
    double = table.itemsize == 8
    first = z_start // 2  # a block of words is of two modes
    before = z_start - 2 * first
    n_blocks = (z_stop + 1) // 2 - first
    words = np.empty(4 * n_blocks, np.uint32)
    lower = np.empty(4 * n_blocks, np.uint32)
    amplitude = np.empty(z_stop - 2 * first, table.dtype)
    spare = np.empty(2 * len(amplitude) if before else 0, table.dtype)
    # The planes z = 0 and, if there is one, z = Nyquist hold both modes of a pair.
    n_planes = 2 if nz % 2 == 0 else 1
    n_y = y_stop - y_start
    plane_words, plane_lower = np.empty((2, 2 * n_y), np.uint32), np.empty((2, 2 * n_y), np.uint32)
    plane = np.empty((2, 2 * n_y), table.dtype)
    ones = np.ones(n_y, table.dtype)
    for index in range(start, stop):
        x, c3 = index % nx, c3s[index // nx]
        for p in range(n_planes):
            z = p * (nz // 2)
            if z_start <= z < z_stop:
                block, odd = _u64(z // 2), z % 2 == 1
                _partner_words(plane_words[p], block, odd, x, y_start, nx, ny, c3, k0, k1)
                if double:
                    _partner_words(plane_lower[p], block, odd, x, y_start, nx, ny, c3 + LOWER_BITS, k0, k1)
                normals(plane_words[p], plane_lower[p], ones, fixed, plane[p])
        cx = _u64(x - nx if 2 * x >= nx else x) & _MASK
        for y in range(y_start, y_stop):
            cy = _u64(y - ny if 2 * y >= ny else y) & _MASK
            base = offsets[0][x] + offsets[1][y]
            for i in range(len(amplitude)):
                amplitude[i] = table[base + offsets[2][2 * first + i]]
            place = out[index, y - y_start]
            row = spare if before else place
            words_along_first(words, first, n_blocks, cy, cx, c3, k0, k1)
            if double:
                words_along_first(lower, first, n_blocks, cy, cx, c3 + LOWER_BITS, k0, k1)
            normals(words, lower, amplitude, fixed, row)
            if before:
                for i in range(len(place)):
                    place[i] = row[2 + i]
            self_x, self_y = x == 0 or 2 * x == nx, y == 0 or 2 * y == ny
            for p in range(n_planes):
                z = p * (nz // 2)
                if not z_start <= z < z_stop:
                    continue
                i = y - y_start
                a, b = plane[p, 2 * i], plane[p, 2 * i + 1]
                a, b = a * amplitude[z - 2 * first], b * amplitude[z - 2 * first]
                if self_x and self_y:  # its own partner: real, with all the variance in one number
                    a = math.copysign(math.hypot(a, b), a) if fixed else a * math.sqrt(2.0)
                    b = 0.0
                elif 2 * x > nx or (self_x and 2 * y > ny):
                    b = -b
                place[2 * (z - z_start)], place[2 * (z - z_start) + 1] = a, b


def field_modes(
    wavenumbers: WavenumberTable,
    table: Array,
    *,
    seed: int,
    realizations: Sequence[int] = (0,),
    fixed: bool = False,
    columns: Columns | None = None,
) -> Array:
    """Draw the Hermitian half spectra of real Gaussian fields, each mode counted by its wavevector.

    Parameters
    ----------
    wavenumbers, table
        The standard deviation of the real (and of the imaginary) part of each mode is its entry of
        ``table``. Where that is on a card, the modes are.
    seed, realizations
        The universe, and which of its fields; on a card, one of them.
    fixed
        Give every mode its root-mean-square modulus, with a random phase only
        (Angulo & Pontzen 2016, arXiv:1603.05253).
    columns
        Draw these modes only.

    Returns
    -------
    array
        Complex modes of shape (n, nx, ny, nz // 2 + 1) in the precision of ``table``. Mode n has the
        same deviates in a box of any resolution that holds it inside its Nyquist planes.
    """
    k0, k1 = seed_key(seed)
    c3s = np.array([FIELD + checked_draw(number, "realization") for number in realizations], np.uint64)
    if on_gpu(table):
        from physscore.cuda import modes as on_card

        drawn: Array = on_card.draw(wavenumbers, table, (k0, k1), int(realizations[0]), fixed)
        return drawn[np.newaxis]
    cube, offsets = wavenumbers.cube, wavenumbers.offsets
    y_start, y_stop, z_start, z_stop = columns or (0, cube[1], 0, cube[2] // 2 + 1)
    sides = cube[0], y_stop - y_start, 2 * (z_stop - z_start)
    out = np.empty((len(c3s) * sides[0], *sides[1:]), table.dtype)
    parallel(
        _draw_modes, len(out), out, cube, (y_start, y_stop, z_start, z_stop), offsets, table, c3s, k0, k1,
        fixed, at_least=max(1, 10_000 // max(1, sides[1] * sides[2])),
    )  # fmt: skip
    modes = out.view(np.complex64 if table.dtype == np.float32 else np.complex128)
    return modes.reshape(len(c3s), *sides[:2], -1)


@compiled
def _fill_rows(out, first, step, c3, k0, k1, start, stop):
    n = out.shape[1]
    double = out.itemsize == 8
    n_blocks = (n + 3) // 4
    words, lower = np.empty(4 * n_blocks, np.uint32), np.empty(4 * n_blocks, np.uint32)
    deviates = np.empty(4 * n_blocks, out.dtype)
    ones = np.ones(2 * n_blocks, out.dtype)
    for chain in range(start, stop):
        place = _u64(first + chain)
        words_along_first(words, 0, n_blocks, place, step, c3, k0, k1)
        if double:
            words_along_first(lower, 0, n_blocks, place, step, c3 + LOWER_BITS, k0, k1)
        normals(words, lower, ones, False, deviates)
        for i in range(n):
            out[chain, i] = deviates[i]


@inline
def fill_row(out, words, lower, ones, first, n_blocks, chain, step, draw, k0, k1):
    """Fill ``out`` with the deviates of components 4 first, 4 first + 1, ... of one chain.

    What :func:`normal` gives at the same places; ``out``, ``words`` and ``lower`` hold 4 n_blocks.
    """
    c3 = _u64(CHAIN) + _u64(draw)
    words_along_first(words, first, n_blocks, chain, step, c3, k0, k1)
    if out.itemsize == 8:
        words_along_first(lower, first, n_blocks, chain, step, c3 + LOWER_BITS, k0, k1)
    normals(words, lower, ones[: 2 * n_blocks], False, out)


@inline
def fill_block(out, words, lower, first, step, draw, k0, k1):
    """Fill ``out`` (rows, n) with the deviates of components 0, 1, ... of chains first, ..., first + n - 1.

    What :func:`normal` gives at the same places. The rows are even; ``words`` and ``lower`` are (4, n).
    """
    rows = out.shape[0]
    c3 = _u64(CHAIN) + _u64(draw)
    for row in range(0, rows, 2):
        pair = row % 4
        if pair == 0:
            words_along_second(words, row // 4, first, step, c3, k0, k1)
            if out.itemsize == 8:
                words_along_second(lower, row // 4, first, step, c3 + LOWER_BITS, k0, k1)
        normal_rows(words[pair], words[pair + 1], lower[pair], lower[pair + 1], out[row], out[row + 1])


def normal(
    chains: int,
    components: int,
    *,
    seed: int,
    step: int = 0,
    draw: int = 0,
    first: int = 0,
    dtype: npt.DTypeLike = np.float64,
    device: str = "cpu",
) -> Array:
    """Return standard normal deviates (chains, components), counted by (component, chain, step, draw).

    A deviate depends on its place only: the first rows and columns of a larger array are the same.
    Chains are counted from ``first``.
    """
    k0, k1 = seed_key(seed)
    c3 = _u64(CHAIN + checked_draw(draw, "draw"))
    if (size := chains * components) > _MANY:
        need = size * floating_dtype(dtype).itemsize
        require_memory(need, f"making {chains} times {components} random numbers", device)
    if device == "gpu":
        from physscore.cuda import noise as on_card

        made: Array = on_card.normal(
            chains, components, (k0, k1), step, int(draw), first, floating_dtype(dtype)
        )
        return made
    out = np.empty((chains, components), floating_dtype(dtype))
    at_least = max(1, 10_000 // max(1, components))
    parallel(_fill_rows, chains, out, first, _u64(step), c3, k0, k1, at_least=at_least)
    return out


def checked_draw(index: int, name: str) -> int:
    """Return ``index`` if the counter has room for it.

    Raises
    ------
    InputError
        If it is not a whole number from 0 to 2^24 - 1.
    """
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < MAX_DRAWS:
        raise InputError(f"{name} is {index!r}: it must be a whole number from 0 to 2^24 - 1")
    return int(index)
