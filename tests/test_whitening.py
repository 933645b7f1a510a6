"""The compiled coordinates in which a prior is a standard normal, against the prior's own, by SciPy."""

import numba
import numpy as np

import physscore as ps
from physscore.energies.whitening import compiled_whitening, pull_back, unwhiten

JOHNSON = [
    ps.JohnsonSU([1.0, -2.0, 0.5], [[2.0, 0.6, 0.1], [0.6, 1.5, -0.2], [0.1, -0.2, 0.7]], [0.3, 0.0, 0.8]),
    ps.JohnsonSU(1.0, [0.5, 2.0], [0.7, 0.0]),
]
TABLES = [
    ps.TruncatedNormal(0.3, 0.2, 0.0, 1.0), ps.TruncatedNormal(-1.0, 0.5, low=2.0),
    ps.TruncatedNormal(3.0, 1.0, high=1.0), ps.LogNormal(0.5, 0.8), ps.HalfCauchy(0.7), ps.Gamma(0.5, 2.0),
    ps.Gamma(30.0, 0.1), ps.InverseGamma(3.0, 2.0), ps.Beta(2.0, 5.0), ps.Beta(0.5, 1.5), ps.Beta(0.3, 0.1),
]  # fmt: skip
CLOSED = [ps.Uniform(-1.0, 3.0), ps.LogUniform(1e-3, 50.0), ps.Normal(0.7, 0.05), ps.HalfNormal(2.5)]


@numba.njit
def both(numbers, z, x, gradient):
    unwhiten(numbers, z, x)
    pull_back(numbers, z, x, gradient)


def compiled(prior, z):
    x, slope = np.empty(z.T.shape), np.ones(z.T.shape)
    both(compiled_whitening(prior), np.ascontiguousarray(z.T), x, slope)
    return x.T, slope.T


def test_both_forms_agree():
    for prior in JOHNSON:
        z = prior.whiten(prior.sample(100, seed=2))
        x, slope = compiled(prior, z)
        np.testing.assert_allclose(x, prior.unwhiten(z), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(slope, prior.pull_back(z, np.ones_like(z)), rtol=1e-12)

    together = ps.Parameters(**{f"p{i}": prior for i, prior in enumerate(CLOSED + TABLES)})
    z = np.tile(np.linspace(-9, 9, 1001)[:, np.newaxis], together.dim)
    x, slope = compiled(together, z)
    expected, inner = together.unwhiten(z), np.abs(z[:, 0]) < 6
    gradient = together.pull_back(z[inner], np.ones_like(z[inner]))
    for i, prior in enumerate(together.priors):
        table = i >= len(CLOSED)
        grain = 1e-10 if isinstance(prior, ps.TruncatedNormal) else 0.0
        np.testing.assert_allclose(x[:, i], expected[:, i], rtol=2e-9 if table else 1e-12, atol=grain)
        if prior.numbers != (0.3, 0.1):  # there x rounds to 1, and SciPy's form does not say how far it is
            np.testing.assert_allclose(
                slope[inner, i], gradient[:, i], rtol=1e-6 if table else 1e-11, atol=100 * grain
            )
