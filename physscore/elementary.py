"""exp, log and their kin as plain arithmetic, so that loops over many points compile to vector
instructions; the library's functions would be called one number at a time.

All are for float64 and correct to about 1e-15 of their value; tests compare them with the library's.
"""

from __future__ import annotations

import math

import numpy as np

from physscore.parts import inline
from physscore.philox import fma, select, sine_and_cosine

_i64, _f64 = np.int64, np.float64
_LOG_2, _INVERSE_LOG_2 = math.log(2.0), 1 / math.log(2.0)
_SHIFT = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to whole numbers


@inline
def exp(x):
    """Return e^x; 0 below -708, and what e^709 is above 709. NaN stays NaN."""
    y = select(x < -708.0, -708.0, select(x > 709.0, 709.0, x))
    shifted = fma(y, _INVERSE_LOG_2, _SHIFT)
    n = shifted - _SHIFT
    r = fma(n, -0.6931471803691238, y)
    r = fma(n, -1.9082149292705877e-10, r)
    p = fma(r, fma(r, 1 / 6227020800, 1 / 479001600), 1 / 39916800)
    p = fma(r, fma(r, fma(r, p, 1 / 3628800), 1 / 362880), 1 / 40320)
    p = fma(r, fma(r, fma(r, p, 1 / 5040), 1 / 720), 1 / 120)
    p = fma(r, fma(r, fma(r, p, 1 / 24), 1 / 6), 0.5)
    p = fma(r, fma(r, p, 1.0), 1.0)
    scale = _i64((_f64(shifted).view(_i64) + _i64(1023)) << _i64(52)).view(_f64)
    return select(x < -708.0, 0.0, p * scale)


@inline
def exp_single(x):
    """Return e^x of a float32, to its precision; 0 below -87, and what e^88 is above 88."""
    one = np.float32(1.0)
    y = select(x < np.float32(-87.0), np.float32(-87.0), select(x > np.float32(88.0), np.float32(88.0), x))
    shift = np.float32(12582912.0)
    shifted = fma(y, np.float32(_INVERSE_LOG_2), shift)
    n = shifted - shift
    r = fma(n, np.float32(-0.693359375), y)
    r = fma(n, np.float32(2.12194440e-4), r)
    p = fma(r, fma(r, np.float32(1 / 5040), np.float32(1 / 720)), np.float32(1 / 120))
    p = fma(r, fma(r, fma(r, p, np.float32(1 / 24)), np.float32(1 / 6)), np.float32(0.5))
    p = fma(r, fma(r, p, one), one)
    scale = np.int32((np.float32(shifted).view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    return select(x < np.float32(-87.0), np.float32(0.0), p * scale)


@inline
def log(x):
    """Return the natural logarithm of a positive, normal number."""
    bits = _f64(x).view(_i64)
    exponent = (bits - _i64(0x3FE6A09E667F3BCD)) >> _i64(52)  # so that m is in [sqrt(1/2), sqrt(2))
    m = _i64(bits - (exponent << _i64(52))).view(_f64)
    f = m - 1.0
    return fma(_f64(exponent), _LOG_2, 2.0 * _atanh(f / (2.0 + f)))


@inline
def _atanh(q):
    """Return the area tangent of a number below 0.18."""
    z = q * q
    series = fma(z, fma(z, fma(z, fma(z, 1 / 21, 1 / 19), 1 / 17), 1 / 15), 1 / 13)
    series = fma(z, fma(z, fma(z, fma(z, series, 1 / 11), 1 / 9), 1 / 7), 1 / 5)
    series = fma(z, series, 1 / 3)
    return fma(z * q, series, q)


@inline
def log1p(x):
    """Return the logarithm of 1 + x for an x that is not negative."""
    return select(x < 0.4, 2.0 * _atanh(x / (2.0 + x)), log(1.0 + x))


@inline
def asinh(x):
    """Return the area sine."""
    a = abs(x)
    y = log1p(a + a * a / (1.0 + math.sqrt(a * a + 1.0)))
    return select(x < 0.0, -y, y)


@inline
def sinh_and_cosh(x):
    """Return both, without overflow up to 709."""
    z = x * x
    e = exp(abs(x))
    sinh, cosh = 0.5 * (e - 1.0 / e), 0.5 * (e + 1.0 / e)
    series = fma(z, fma(z, fma(z, 1 / 1307674368000, 1 / 6227020800), 1 / 39916800), 1 / 362880)
    series = fma(z, fma(z, fma(z, series, 1 / 5040), 1 / 120), 1 / 6)
    near = fma(x * z, series, x)
    return select(z < 1.0, near, select(x < 0.0, -sinh, sinh)), cosh


@inline
def sin_and_cos(x):
    """Return the sine and cosine of an angle of up to 1e6, their absolute errors below 1e-15."""
    shifted = fma(x, 2.0 / math.pi, _SHIFT)
    n = shifted - _SHIFT
    r = fma(n, -1.5707963267341256, x)  # pi / 2 in three parts, of which two are exact times n
    r = fma(n, -6.077100506303966e-11, r)
    r = fma(n, -2.0222662487959506e-21, r)
    sin, cos = sine_and_cosine(r)
    quarter = _f64(shifted).view(_i64)
    odd, half = (quarter & _i64(1)) != _i64(0), (quarter & _i64(2)) != _i64(0)
    a, b = select(odd, cos, sin), select(odd, sin, cos)
    return select(half, -a, a), select(half != odd, -b, b)


@inline
def log_cosh_and_tanh(x):
    """Return log cosh x, without overflow, and tanh x, its absolute error below 1e-15."""
    a = abs(x)
    e = exp(-2.0 * a)
    t = (1.0 - e) / (1.0 + e)
    return a + log(1.0 + e) - _LOG_2, select(x < 0.0, -t, t)


@inline
def upper_tail(z):
    """Return the standard normal probability above a z that is not negative, to 2e-14 of its value
    below z = 8 and 2e-13 below 30.

    erfc(a) = t exp(-a^2 + p(t)) with t = 2 / (2 + a), and p fitted at Chebyshev's points.
    """
    a = z * math.sqrt(0.5)
    t = 2.0 / (2.0 + a)
    u = 2.0 * t - 1.0
    p = 6.585445079827197e-10
    p = fma(p, u, -1.1824166640829732e-07)
    p = fma(p, u, 1.6038851491919134e-07)
    p = fma(p, u, 8.552785058877943e-07)
    p = fma(p, u, -1.7140102545393238e-06)
    p = fma(p, u, -2.3537445705248895e-06)
    p = fma(p, u, 8.953650113464765e-06)
    p = fma(p, u, -4.0531630612476914e-07)
    p = fma(p, u, -3.0421370171768e-05)
    p = fma(p, u, 3.206474505123344e-05)
    p = fma(p, u, 7.149514019723303e-05)
    p = fma(p, u, -0.0001744255516381456)
    p = fma(p, u, -9.37601777079707e-05)
    p = fma(p, u, 0.000673708926243574)
    p = fma(p, u, -0.00014624259178143206)
    p = fma(p, u, -0.0023458170187600743)
    p = fma(p, u, 0.0017589331297835711)
    p = fma(p, u, 0.008824938933262359)
    p = fma(p, u, -0.009872689344334178)
    p = fma(p, u, -0.0468956102456284)
    p = fma(p, u, 0.04734330684146476)
    p = fma(p, u, 0.6726432239778217)
    p = fma(p, u, -0.6717940840566908)
    return 0.5 * t * exp(p - a * a)
