"""Counter-based normal deviates: the only source of randomness in the package.

Every deviate is Philox4x32-10 (Salmon et al. 2011, SC'11, doi:10.1145/2063384.2063405) keyed by the
seed and counted by *where* it is used, then turned into a normal by Box-Muller with all the bits.
No result depends on threads, order, batches or processes. The float32 deviate of a place is the
float64 one with its lower 32 bits left out, so both precisions show the same universe.

The arithmetic is plain float operations and explicit fused multiply-adds, each correctly rounded,
so that the bits do not depend on the machine. The loops are short and free of branches, because
that is what compilers turn into vector instructions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import intrinsic, overload

from physscore.arrays import compiled, floating_dtype, parallel
from physscore.core import Array, InputError

# The last counter word holds the purpose in its upper 8 bits, so no two uses ever share a counter,
# and the realization or draw in the other 24.
FIELD = 0 << 24
CHAIN = 2 << 24
_LOWER_BITS = np.uint64(1 << 24)  # the purpose next to it: the lower halves of 64-bit deviates
MAX_DRAWS = 1 << 24

_u32, _u64, _i32, _f32, _f64 = np.uint32, np.uint64, np.int32, np.float32, np.float64
_MASK, _32 = _u64(0xFFFFFFFF), _u64(32)
_M0, _M1 = _u64(0xD2511F53), _u64(0xCD9E8D57)
_W0, _W1 = _u64(0x9E3779B9), _u64(0xBB67AE85)

_inline: Callable[..., Any] = njit(nogil=True, error_model="numpy", forceinline=True)


def _fused_multiply_add(typing_context, a, b, c):
    """a * b + c, rounded once: the same on every machine, whatever its compiler fuses."""
    return a(a, b, c), lambda context, builder, signature, args: builder.fma(*args)


_fma: Any = intrinsic(_fused_multiply_add)


@_inline
def _select(condition, a, b):
    return a if condition else b


# --- Philox4x32-10 --------------------------------------------------------------------------------


@_inline
def _round(c0, c1, c2, c3, k0, k1):
    # Words live in 64 bits whose upper halves are rubbish until masked: one multiplication each.
    p0, p1 = (c0 & _MASK) * _M0, (c2 & _MASK) * _M1
    return (p1 >> _32) ^ c1 ^ k0, p1, (p0 >> _32) ^ c3 ^ k1, p0


@_inline
def _philox(c0, c1, c2, c3, k0, k1):
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, (k0 + _W0) & _MASK, (k1 + _W1) & _MASK)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, (k0 + _u64(2) * _W0) & _MASK, (k1 + _u64(2) * _W1) & _MASK)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, (k0 + _u64(3) * _W0) & _MASK, (k1 + _u64(3) * _W1) & _MASK)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, (k0 + _u64(4) * _W0) & _MASK, (k1 + _u64(4) * _W1) & _MASK)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, (k0 + _u64(5) * _W0) & _MASK, (k1 + _u64(5) * _W1) & _MASK)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, (k0 + _u64(6) * _W0) & _MASK, (k1 + _u64(6) * _W1) & _MASK)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, (k0 + _u64(7) * _W0) & _MASK, (k1 + _u64(7) * _W1) & _MASK)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, (k0 + _u64(8) * _W0) & _MASK, (k1 + _u64(8) * _W1) & _MASK)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, (k0 + _u64(9) * _W0) & _MASK, (k1 + _u64(9) * _W1) & _MASK)
    return _u32(c0 & _MASK), _u32(c1 & _MASK), _u32(c2 & _MASK), _u32(c3 & _MASK)


@_inline
def _words_along_first(words, n_blocks, c1, c2, c3, k0, k1):
    """Fill ``words`` with the blocks whose first counter word is 0, 1, ..., n_blocks - 1."""
    for j in range(n_blocks):
        w0, w1, w2, w3 = _philox(_u64(j), c1, c2, c3, k0, k1)
        words[4 * j] = w0
        words[4 * j + 1] = w1
        words[4 * j + 2] = w2
        words[4 * j + 3] = w3


@_inline
def _words_along_second(words, block, first, step, c3, k0, k1):
    """Fill ``words`` (4, n) with the blocks whose second counter word is first, first + 1, ..."""
    for j in range(words.shape[1]):
        w0, w1, w2, w3 = _philox(_u64(block), _u64(first + j), step, c3, k0, k1)
        words[0, j] = w0
        words[1, j] = w1
        words[2, j] = w2
        words[3, j] = w3


@compiled
def _philox_blocks(counters, k0, k1, out):
    for i in range(len(counters)):
        c = counters[i]
        w0, w1, w2, w3 = _philox(_u64(c[0]), _u64(c[1]), _u64(c[2]), _u64(c[3]), k0, k1)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = w0, w1, w2, w3


def philox(counters: npt.NDArray[np.uint32], key: tuple[int, int]) -> npt.NDArray[np.uint32]:
    """Return the Philox4x32-10 blocks of ``counters`` (n, 4) under ``key``, as words (n, 4)."""
    out = np.empty_like(counters)
    _philox_blocks(counters, _u64(key[0]), _u64(key[1]), out)
    return out


# --- Box-Muller -----------------------------------------------------------------------------------
# The uniform is u = (w + 1/2) / 2^bits. Read as a signed integer, w gives t = u below 1/2 and
# t = u - 1 above, exact where u is close to 0 and where it is close to 1, so that -log u keeps its
# relative precision at both ends. log(m) = 2 atanh(q), q = (m - 1) / (m + 1), and the sine and
# cosine of at most an eighth of a turn are Taylor series, cut below the rounding.


@_inline
def _box_muller_32(w0, w1, fixed):
    t = _fma(_f32(_i32(w0)), _f32(2.0**-32), _f32(2.0**-33))
    u = _f32(_select(t > _f32(0), t, _f32(1) + t))
    bits = u.view(_i32)
    exponent = (bits - _i32(0x3F3504F3)) >> _i32(23)  # so that m is in [sqrt(1/2), sqrt(2))
    m = _i32(bits - (exponent << _i32(23))).view(_f32)
    f = _select((t < _f32(0)) & (exponent == _i32(0)), t, m - _f32(1))
    q = f / (_f32(2) + f)
    z = q * q
    series = _fma(z, _fma(z, _fma(z, _f32(1 / 9), _f32(1 / 7)), _f32(1 / 5)), _f32(1 / 3))
    atanh = _fma(z * q, series, q)
    minus_2_log = _fma(_f32(exponent), _f32(-2 * math.log(2)), _f32(-4) * atanh)
    r = _f32(_select(fixed, _f32(math.sqrt(2)), _f32(math.sqrt(minus_2_log))))
    quarter = (w1 + _u32(1 << 29)) >> _u32(30)
    angle = _f32(_i32(_u32(w1 - (quarter << _u32(30))))) * _f32(2 * math.pi * 2.0**-32)
    y = angle * angle
    sin = _fma(y, _fma(y, _f32(1 / 362880), _f32(-1 / 5040)), _f32(1 / 120))
    sin = _fma(y * angle, _fma(y, sin, _f32(-1 / 6)), angle)
    cos = _fma(y, _fma(y, _f32(1 / 40320), _f32(-1 / 720)), _f32(1 / 24))
    cos = _fma(y, _fma(y, cos, _f32(-1 / 2)), _f32(1))
    odd = (quarter & _u32(1)) != _u32(0)
    x0, x1 = _f32(r * _select(odd, sin, cos)), _f32(r * _select(odd, cos, sin))
    sign0 = _u32(((quarter + _u32(1)) << _u32(30)) & _u32(1 << 31))
    sign1 = _u32((quarter << _u32(30)) & _u32(1 << 31))
    return _u32(x0.view(_u32) ^ sign0).view(_f32), _u32(x1.view(_u32) ^ sign1).view(_f32)


@_inline
def _box_muller_64(w0, w1, fixed):
    i64 = np.int64
    t = _fma(_f64(i64(w0)), 2.0**-64, 2.0**-65)
    u = _f64(_select(t > 0.0, t, 1.0 + t))
    bits = u.view(i64)
    exponent = (bits - i64(0x3FE6A09E667F3BCD)) >> i64(52)
    m = i64(bits - (exponent << i64(52))).view(_f64)
    f = _select((t < 0.0) & (exponent == i64(0)), t, m - 1.0)
    q = f / (2.0 + f)
    z = q * q
    series = _fma(z, _fma(z, _fma(z, _fma(z, 1 / 21, 1 / 19), 1 / 17), 1 / 15), 1 / 13)
    series = _fma(z, _fma(z, _fma(z, _fma(z, _fma(z, series, 1 / 11), 1 / 9), 1 / 7), 1 / 5), 1 / 3)
    atanh = _fma(z * q, series, q)
    r = _select(fixed, math.sqrt(2.0), math.sqrt(_fma(_f64(exponent), -2 * math.log(2.0), -4.0 * atanh)))
    quarter = (w1 + _u64(1 << 61)) >> _u64(62)
    angle = _f64(i64(_u64(w1 - (quarter << _u64(62))))) * (2 * math.pi * 2.0**-64)
    y = angle * angle
    sin = _fma(y, _fma(y, 1 / 355687428096000, -1 / 1307674368000), 1 / 6227020800)
    sin = _fma(y, _fma(y, _fma(y, sin, -1 / 39916800), 1 / 362880), -1 / 5040)
    sin = _fma(y * angle, _fma(y, _fma(y, sin, 1 / 120), -1 / 6), angle)
    cos = _fma(y, _fma(y, 1 / 20922789888000, -1 / 87178291200), 1 / 479001600)
    cos = _fma(y, _fma(y, _fma(y, cos, -1 / 3628800), 1 / 40320), -1 / 720)
    cos = _fma(y, _fma(y, _fma(y, cos, 1 / 24), -1 / 2), 1.0)
    odd = (quarter & _u64(1)) != _u64(0)
    x0, x1 = _f64(r * _select(odd, sin, cos)), _f64(r * _select(odd, cos, sin))
    sign0 = _u64(((quarter + _u64(1)) << _u64(62)) & _u64(1 << 63))
    sign1 = _u64((quarter << _u64(62)) & _u64(1 << 63))
    return _u64(x0.view(_u64) ^ sign0).view(_f64), _u64(x1.view(_u64) ^ sign1).view(_f64)


def _normal_rows(words0, words1, lower0, lower1, out0, out1):
    """Turn two rows of words into two rows of deviates, in the type of ``out0``."""


@overload(_normal_rows)
def _normal_rows_of_type(words0, words1, lower0, lower1, out0, out1):
    def single(words0, words1, lower0, lower1, out0, out1):
        for j in range(len(out0)):
            out0[j], out1[j] = _box_muller_32(words0[j], words1[j], False)

    def double(words0, words1, lower0, lower1, out0, out1):
        for j in range(len(out0)):
            w0 = (_u64(words0[j]) << _32) | _u64(lower0[j])
            w1 = (_u64(words1[j]) << _32) | _u64(lower1[j])
            out0[j], out1[j] = _box_muller_64(w0, w1, False)

    return single if out0.dtype == types.float32 else double


def _normals(words, lower, amplitude, fixed, out):
    """Turn pairs of words into pairs of deviates, times an amplitude a pair, in the type of ``out``."""


@overload(_normals)
def _normals_of_type(words, lower, amplitude, fixed, out):
    def single(words, lower, amplitude, fixed, out):
        for m in range(len(amplitude)):
            a, b = _box_muller_32(words[2 * m], words[2 * m + 1], fixed)
            out[2 * m] = a * amplitude[m]
            out[2 * m + 1] = b * amplitude[m]

    def double(words, lower, amplitude, fixed, out):
        for m in range(len(amplitude)):
            w0 = (_u64(words[2 * m]) << _32) | _u64(lower[2 * m])
            w1 = (_u64(words[2 * m + 1]) << _32) | _u64(lower[2 * m + 1])
            a, b = _box_muller_64(w0, w1, fixed)
            out[2 * m] = a * amplitude[m]
            out[2 * m + 1] = b * amplitude[m]

    return single if out.dtype == types.float32 else double


# --- Where the deviates go ------------------------------------------------------------------------


@_inline
def _partner_words(words, block, odd, x, nx, ny, c3, k0, k1):
    """Fill ``words`` with those of mode (x, y, z) for every y, or of its partner (-x, -y, -z)
    where that one counts: of two modes that a real field ties together both use the same place."""
    for y in range(ny):
        away = (2 * x > nx) | (((2 * x == nx) | (x == 0)) & (2 * y > ny))
        px, py = _select(away, -x, x), _select(away, -y, y)
        cx = _u64(_select(2 * px >= nx, px - nx, _select(2 * px < -nx, px + nx, px))) & _MASK
        cy = _u64(_select(2 * py >= ny, py - ny, _select(2 * py < -ny, py + ny, py))) & _MASK
        w0, w1, w2, w3 = _philox(block, cy, cx, c3, k0, k1)
        words[2 * y] = _select(odd, w2, w0)
        words[2 * y + 1] = _select(odd, w3, w1)


@compiled
def _draw_modes(out, cube, offsets, table, c3, k0, k1, fixed, start, stop):
    """Draw planes start to stop of a coloured half spectrum; ``out`` is (nx, ny, 2 * nz_half), real."""
    nx, ny, nz = cube
    nz_half = nz // 2 + 1
    double = table.itemsize == 8
    n_blocks = (nz_half + 1) // 2
    words = np.empty(4 * n_blocks, np.uint32)
    lower = np.empty(4 * n_blocks, np.uint32)
    amplitude = np.empty(nz_half, table.dtype)
    # The planes z = 0 and, if there is one, z = Nyquist hold both modes of a pair.
    n_planes = 2 if nz % 2 == 0 else 1
    plane_words, plane_lower = np.empty((2, 2 * ny), np.uint32), np.empty((2, 2 * ny), np.uint32)
    plane = np.empty((2, 2 * ny), table.dtype)
    ones = np.ones(ny, table.dtype)
    for x in range(start, stop):
        for p in range(n_planes):
            block, odd = _u64((p * (nz // 2)) // 2), (p * (nz // 2)) % 2 == 1
            _partner_words(plane_words[p], block, odd, x, nx, ny, c3, k0, k1)
            if double:
                _partner_words(plane_lower[p], block, odd, x, nx, ny, c3 + _LOWER_BITS, k0, k1)
            _normals(plane_words[p], plane_lower[p], ones, fixed, plane[p])
        cx = _u64(x - nx if 2 * x >= nx else x) & _MASK
        for y in range(ny):
            cy = _u64(y - ny if 2 * y >= ny else y) & _MASK
            base = offsets[0][x] + offsets[1][y]
            for z in range(nz_half):
                amplitude[z] = table[base + offsets[2][z]]
            row = out[x, y]
            _words_along_first(words, n_blocks, cy, cx, c3, k0, k1)
            if double:
                _words_along_first(lower, n_blocks, cy, cx, c3 + _LOWER_BITS, k0, k1)
            _normals(words, lower, amplitude, fixed, row)
            self_x, self_y = x == 0 or 2 * x == nx, y == 0 or 2 * y == ny
            for p in range(n_planes):
                z = p * (nz // 2)
                a, b = plane[p, 2 * y] * amplitude[z], plane[p, 2 * y + 1] * amplitude[z]
                if self_x and self_y:  # its own partner: real, with all the variance in one number
                    a = math.copysign(math.hypot(a, b), a) if fixed else a * math.sqrt(2.0)
                    b = 0.0
                elif 2 * x > nx or (self_x and 2 * y > ny):
                    b = -b
                row[2 * z], row[2 * z + 1] = a, b


def field_modes(
    cube: tuple[int, int, int],
    offsets: tuple[Array, Array, Array],
    table: Array,
    *,
    seed: int,
    realization: int = 0,
    fixed: bool = False,
) -> Array:
    """Draw the Hermitian half spectrum of a real Gaussian field, each mode counted by its wavevector.

    Parameters
    ----------
    cube
        Number of cells along three sides, 1 where there is none.
    offsets, table
        The standard deviation of the real (and of the imaginary) part of mode (x, y, z) is
        ``table[offsets[0][x] + offsets[1][y] + offsets[2][z]]``; see ``grid.WavenumberTable``.
    seed, realization
        The universe, and which of its fields.
    fixed
        Give every mode its root-mean-square modulus, with a random phase only
        (Angulo & Pontzen 2016, arXiv:1603.05253).

    Returns
    -------
    array
        Complex modes of shape (nx, ny, nz // 2 + 1) in the precision of ``table``. Mode n has the
        same deviates in a box of any resolution that holds it inside its Nyquist planes.
    """
    k0, k1 = seed_key(seed)
    c3 = _u64(FIELD + checked_draw(realization, "realization"))
    out = np.empty((cube[0], cube[1], 2 * (cube[2] // 2 + 1)), table.dtype)
    parallel(_draw_modes, cube[0], out, cube, offsets, table, c3, k0, k1, fixed)
    return out.view(np.complex64 if table.dtype == np.float32 else np.complex128)


@compiled
def _fill_rows(out, step, c3, k0, k1, start, stop):
    n = out.shape[1]
    double = out.itemsize == 8
    n_blocks = (n + 3) // 4
    words, lower = np.empty(4 * n_blocks, np.uint32), np.empty(4 * n_blocks, np.uint32)
    deviates = np.empty(4 * n_blocks, out.dtype)
    ones = np.ones(2 * n_blocks, out.dtype)
    for chain in range(start, stop):
        _words_along_first(words, n_blocks, _u64(chain), step, c3, k0, k1)
        if double:
            _words_along_first(lower, n_blocks, _u64(chain), step, c3 + _LOWER_BITS, k0, k1)
        _normals(words, lower, ones, False, deviates)
        out[chain] = deviates[:n]


@_inline
def fill_block(out, words, lower, first, step, draw, k0, k1):
    """Fill ``out`` (rows, n) with the deviates of components 0, 1, ... of chains first, ..., first + n - 1.

    What :func:`normal` gives at the same places. The rows are even; ``words`` and ``lower`` are (4, n).
    """
    rows = out.shape[0]
    c3 = _u64(CHAIN) + _u64(draw)
    for row in range(0, rows, 2):
        pair = row % 4
        if pair == 0:
            _words_along_second(words, row // 4, first, step, c3, k0, k1)
            if out.itemsize == 8:
                _words_along_second(lower, row // 4, first, step, c3 + _LOWER_BITS, k0, k1)
        _normal_rows(words[pair], words[pair + 1], lower[pair], lower[pair + 1], out[row], out[row + 1])


def normal(
    chains: int,
    components: int,
    *,
    seed: int,
    step: int = 0,
    draw: int = 0,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """Return standard normal deviates (chains, components), counted by (component, chain, step, draw).

    A deviate depends on its place only: the first rows and columns of a larger array are the same.
    """
    k0, k1 = seed_key(seed)
    c3 = _u64(CHAIN + checked_draw(draw, "draw"))
    out = np.empty((chains, components), floating_dtype(dtype))
    parallel(_fill_rows, chains, out, _u64(step), c3, k0, k1)
    return out


def seed_key(seed: int) -> tuple[np.uint64, np.uint64]:
    """Return the two words of the Philox key.

    Raises
    ------
    InputError
        If ``seed`` is not a whole number from 0 to 2^64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**64:
        raise InputError(f"seed is {seed!r}: it must be a whole number from 0 to 2^64 - 1")
    return _u64(int(seed) & 0xFFFFFFFF), _u64(int(seed) >> 32)


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
