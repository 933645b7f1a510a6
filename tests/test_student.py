"""The Student distribution is normalised for any number of degrees of freedom."""

import math

import numpy as np
import pytest
from scipy import stats

import physscore as ps
from physscore.points import evaluate


def energies(freedom, dim, x):
    student = ps.Student(freedom, 2.0, dim)
    return student.energy(x), evaluate(student.point, x)[0]


@pytest.mark.parametrize("dim", [1, 2, 7])
@pytest.mark.parametrize("freedom", [1e6, 1e8, 1e10, 1e12, 1e14, 1e16, 1e20, 1e300])
def test_of_many_degrees_of_freedom_is_normal(freedom, dim):
    x = np.random.default_rng(0).normal(size=(50, dim))
    q = 0.25 * (x**2).sum(1)
    # Of log Gamma((f + d) / 2) - log Gamma(f / 2) and the power, to the first order in 1 / f.
    correction = q * dim / 2 - q**2 / 4 - dim * (dim - 2) / 4
    normal = 0.5 * q + 0.5 * dim * math.log(2 * math.pi) + dim * math.log(2.0)
    for found in energies(freedom, dim, x):
        np.testing.assert_allclose(
            found, normal + correction / freedom, rtol=0, atol=1e-14 + 100 / freedom / freedom
        )


@pytest.mark.parametrize("freedom", [0.5, 1.0, 3.0, 29.0, 59.9, 60.1, 200.0, 1e4])
def test_of_few_degrees_of_freedom(freedom):
    for dim in (1, 2, 7):
        x = np.random.default_rng(0).normal(size=(50, dim))
        expected = -stats.multivariate_t(np.zeros(dim), 4 * np.eye(dim), df=freedom).logpdf(x)
        for found in energies(freedom, dim, x):
            np.testing.assert_allclose(found, expected, rtol=0, atol=3e-14 * max(1, freedom))
