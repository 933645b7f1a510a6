"""Normal deviates out of counters: Philox4x32-10 and Box-Muller, as plain arithmetic.

Philox: Salmon et al. 2011, SC'11, doi:10.1145/2063384.2063405. The float32 deviate of a counter is
the float64 one with its lower 32 bits left out, so both precisions show the same numbers.

The arithmetic is plain float operations and explicit fused multiply-adds, each correctly rounded,
so that the bits do not depend on the machine. The loops are short and free of branches, because
that is what compilers turn into vector instructions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic, overload

from physscore.arrays import compiled
from physscore.core import InputError
from physscore.parts import inline

_u32, _u64, _i32, _f32, _f64 = np.uint32, np.uint64, np.int32, np.float32, np.float64
_MASK, _32 = _u64(0xFFFFFFFF), _u64(32)
_M0, _M1 = _u64(0xD2511F53), _u64(0xCD9E8D57)
_W0, _W1 = _u64(0x9E3779B9), _u64(0xBB67AE85)
_LOG_2 = math.log(2.0)  # named, as a compiler for cards would call the function for it

LOWER_BITS = _u64(1 << 24)
"""Added to the last counter word: the lower halves of 64-bit deviates."""


def _fused_multiply_add(typing_context, a, b, c):
    """a * b + c, rounded once: the same on every machine, whatever its compiler fuses."""
    return a(a, b, c), lambda context, builder, signature, args: builder.fma(*args)


fma: Any = intrinsic(_fused_multiply_add)


@inline
def select(condition, a, b):
    return a if condition else b


# --- Philox4x32-10 --------------------------------------------------------------------------------


@inline
def _round(c0, c1, c2, c3, k0, k1):
    # Words live in 64 bits whose upper halves are rubbish until masked: one multiplication each.
    p0, p1 = (c0 & _MASK) * _M0, (c2 & _MASK) * _M1
    return (p1 >> _32) ^ c1 ^ k0, p1, (p0 >> _32) ^ c3 ^ k1, p0


@inline
def philox4x32(c0, c1, c2, c3, k0, k1):
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


@inline
def words_along_first(words, first, n_blocks, c1, c2, c3, k0, k1):
    """Fill ``words`` with ``n_blocks`` blocks whose first counter word is first, first + 1, ..."""
    for j in range(n_blocks):
        w0, w1, w2, w3 = philox4x32(_u64(first + j), c1, c2, c3, k0, k1)
        words[4 * j] = w0
        words[4 * j + 1] = w1
        words[4 * j + 2] = w2
        words[4 * j + 3] = w3


@inline
def words_along_second(words, block, first, step, c3, k0, k1):
    """Fill ``words`` (4, n) with the blocks whose second counter word is first, first + 1, ..."""
    for j in range(words.shape[1]):
        w0, w1, w2, w3 = philox4x32(_u64(block), _u64(first + j), step, c3, k0, k1)
        words[0, j] = w0
        words[1, j] = w1
        words[2, j] = w2
        words[3, j] = w3


@compiled
def _philox_blocks(counters, k0, k1, out):
    for i in range(len(counters)):
        c = counters[i]
        w0, w1, w2, w3 = philox4x32(_u64(c[0]), _u64(c[1]), _u64(c[2]), _u64(c[3]), k0, k1)
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


@inline
def box_muller_32(w0, w1, fixed):
    t = fma(_f32(_i32(w0)), _f32(2.0**-32), _f32(2.0**-33))
    u = _f32(select(t > _f32(0), t, _f32(1) + t))
    bits = u.view(_i32)
    exponent = (bits - _i32(0x3F3504F3)) >> _i32(23)  # so that m is in [sqrt(1/2), sqrt(2))
    m = _i32(bits - (exponent << _i32(23))).view(_f32)
    f = select((t < _f32(0)) & (exponent == _i32(0)), t, m - _f32(1))
    q = f / (_f32(2) + f)
    z = q * q
    series = fma(z, fma(z, fma(z, _f32(1 / 9), _f32(1 / 7)), _f32(1 / 5)), _f32(1 / 3))
    atanh = fma(z * q, series, q)
    minus_2_log = fma(_f32(exponent), _f32(-2 * _LOG_2), _f32(-4) * atanh)
    r = _f32(select(fixed, _f32(math.sqrt(2)), _f32(math.sqrt(minus_2_log))))
    quarter = (w1 + _u32(1 << 29)) >> _u32(30)
    angle = _f32(_i32(_u32(w1 - (quarter << _u32(30))))) * _f32(2 * math.pi * 2.0**-32)
    y = angle * angle
    sin = fma(y, fma(y, _f32(1 / 362880), _f32(-1 / 5040)), _f32(1 / 120))
    sin = fma(y * angle, fma(y, sin, _f32(-1 / 6)), angle)
    cos = fma(y, fma(y, _f32(1 / 40320), _f32(-1 / 720)), _f32(1 / 24))
    cos = fma(y, fma(y, cos, _f32(-1 / 2)), _f32(1))
    odd = (quarter & _u32(1)) != _u32(0)
    x0, x1 = _f32(r * select(odd, sin, cos)), _f32(r * select(odd, cos, sin))
    sign0 = _u32(((quarter + _u32(1)) << _u32(30)) & _u32(1 << 31))
    sign1 = _u32((quarter << _u32(30)) & _u32(1 << 31))
    return _u32(x0.view(_u32) ^ sign0).view(_f32), _u32(x1.view(_u32) ^ sign1).view(_f32)


@inline
def sine_and_cosine(angle):
    """Return both for a float64 angle of at most an eighth of a turn."""
    y = angle * angle
    sin = fma(y, fma(y, 1 / 355687428096000, -1 / 1307674368000), 1 / 6227020800)
    sin = fma(y, fma(y, fma(y, sin, -1 / 39916800), 1 / 362880), -1 / 5040)
    sin = fma(y * angle, fma(y, fma(y, sin, 1 / 120), -1 / 6), angle)
    cos = fma(y, fma(y, 1 / 20922789888000, -1 / 87178291200), 1 / 479001600)
    cos = fma(y, fma(y, fma(y, cos, -1 / 3628800), 1 / 40320), -1 / 720)
    cos = fma(y, fma(y, fma(y, cos, 1 / 24), -1 / 2), 1.0)
    return sin, cos


@inline
def box_muller_64(w0, w1, fixed):
    i64 = np.int64
    t = fma(_f64(i64(w0)), 2.0**-64, 2.0**-65)
    u = _f64(select(t > 0.0, t, 1.0 + t))
    bits = u.view(i64)
    exponent = (bits - i64(0x3FE6A09E667F3BCD)) >> i64(52)
    m = i64(bits - (exponent << i64(52))).view(_f64)
    f = select((t < 0.0) & (exponent == i64(0)), t, m - 1.0)
    q = f / (2.0 + f)
    z = q * q
    series = fma(z, fma(z, fma(z, fma(z, 1 / 21, 1 / 19), 1 / 17), 1 / 15), 1 / 13)
    series = fma(z, fma(z, fma(z, fma(z, fma(z, series, 1 / 11), 1 / 9), 1 / 7), 1 / 5), 1 / 3)
    atanh = fma(z * q, series, q)
    r = select(fixed, math.sqrt(2.0), math.sqrt(fma(_f64(exponent), -2 * _LOG_2, -4.0 * atanh)))
    quarter = (w1 + _u64(1 << 61)) >> _u64(62)
    angle = _f64(i64(_u64(w1 - (quarter << _u64(62))))) * (2 * math.pi * 2.0**-64)
    sin, cos = sine_and_cosine(angle)
    odd = (quarter & _u64(1)) != _u64(0)
    x0, x1 = _f64(r * select(odd, sin, cos)), _f64(r * select(odd, cos, sin))
    sign0 = _u64(((quarter + _u64(1)) << _u64(62)) & _u64(1 << 63))
    sign1 = _u64((quarter << _u64(62)) & _u64(1 << 63))
    return _u64(x0.view(_u64) ^ sign0).view(_f64), _u64(x1.view(_u64) ^ sign1).view(_f64)


def normal_rows(words0, words1, lower0, lower1, out0, out1):
    """Turn two rows of words into two rows of deviates, in the type of ``out0``."""


@overload(normal_rows)
def normal_rows_of_type(words0, words1, lower0, lower1, out0, out1):
    def single(words0, words1, lower0, lower1, out0, out1):
        for j in range(len(out0)):
            out0[j], out1[j] = box_muller_32(words0[j], words1[j], False)

    def double(words0, words1, lower0, lower1, out0, out1):
        for j in range(len(out0)):
            w0 = (_u64(words0[j]) << _32) | _u64(lower0[j])
            w1 = (_u64(words1[j]) << _32) | _u64(lower1[j])
            out0[j], out1[j] = box_muller_64(w0, w1, False)

    return single if out0.dtype == types.float32 else double


def normals(words, lower, amplitude, fixed, out):
    """Turn pairs of words into pairs of deviates, times an amplitude a pair, in the type of ``out``."""


@overload(normals)
def normals_of_type(words, lower, amplitude, fixed, out):
    def single(words, lower, amplitude, fixed, out):
        for m in range(len(amplitude)):
            a, b = box_muller_32(words[2 * m], words[2 * m + 1], fixed)
            out[2 * m] = a * amplitude[m]
            out[2 * m + 1] = b * amplitude[m]

    def double(words, lower, amplitude, fixed, out):
        for m in range(len(amplitude)):
            w0 = (_u64(words[2 * m]) << _32) | _u64(lower[2 * m])
            w1 = (_u64(words[2 * m + 1]) << _32) | _u64(lower[2 * m + 1])
            a, b = box_muller_64(w0, w1, fixed)
            out[2 * m] = a * amplitude[m]
            out[2 * m + 1] = b * amplitude[m]

    return single if out.dtype == types.float32 else double


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
