"""The arithmetic forms of exp, log and their kin against the library's."""

import math

import numba
import numpy as np

from physscore import elementary


@numba.njit
def all_of(x):
    out = np.empty((10, len(x)))
    for i in range(len(x)):
        out[0, i] = elementary.exp(x[i])
        out[1, i] = elementary.log(abs(x[i]) + 1e-300)
        out[2, i], out[3, i] = elementary.log_cosh_and_tanh(x[i])
        out[4, i], out[5, i] = elementary.sin_and_cos(x[i])
        out[6, i] = elementary.asinh(x[i])
        out[9, i] = elementary.log1p(abs(x[i]))
        out[7, i], out[8, i] = elementary.sinh_and_cosh(x[i])
    return out


@numba.njit
def singles(x):
    out = np.empty_like(x)
    for i in range(len(x)):
        out[i] = elementary.exp_single(x[i])
    return out


def points():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=20_000) * 10.0 ** rng.uniform(-8, 2, 20_000), [0.0, 1.0, -1.0]])


def test_they_are_the_library_s():
    x = points()
    found = all_of(x)
    np.testing.assert_allclose(found[0], np.exp(x), rtol=2e-15)
    np.testing.assert_allclose(found[1], np.log(np.abs(x) + 1e-300), rtol=1e-15, atol=1e-15)
    expected = np.logaddexp(x, -x) - math.log(2)
    np.testing.assert_allclose(found[2], expected, rtol=1e-15, atol=4e-16)
    np.testing.assert_allclose(found[3], np.tanh(x), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[4], np.sin(x), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[5], np.cos(x), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found[6], np.arcsinh(x), rtol=1e-15)
    np.testing.assert_allclose(found[7], np.sinh(x), rtol=4e-15)  # twice the error of exp
    np.testing.assert_allclose(found[8], np.cosh(x), rtol=2e-15)
    np.testing.assert_allclose(found[9], np.log1p(np.abs(x)), rtol=1e-15)


def test_single_precision():
    x = points().astype(np.float32)
    x = x[np.abs(x) < 87]
    np.testing.assert_allclose(singles(x), np.exp(x.astype(np.float64)), rtol=2e-7)
    ends = singles(np.array([-90.0, 100.0, np.nan, 0.0], np.float32))
    assert ends[0] == 0
    assert ends[1] > 1e38
    assert np.isnan(ends[2])
    assert ends[3] == 1


def test_ends_of_the_range():
    found = all_of(np.array([-800.0, 800.0, np.nan, 0.0]))
    assert found[0, 0] == 0.0
    assert found[0, 1] >= math.exp(709)
    assert np.isnan(found[0, 2])
    assert found[0, 3] == 1.0
    np.testing.assert_array_equal(found[3, :2], [-1.0, 1.0])
    np.testing.assert_allclose(found[2, :2], 800 - math.log(2), rtol=1e-15)
