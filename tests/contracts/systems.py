"""Every built-in energy once, small: what the contract suites run over."""

import math

import numba
import numpy as np

import physscore as ps
from physscore.energies.coordinates import FieldModes, Whitened
from physscore.energies.integrated import IntegratedScore


def covariance(dim, seed=0):
    a = np.random.default_rng(seed).normal(size=(dim, dim))
    return a @ a.T / dim + 0.5 * np.eye(dim)


@numba.njit
def oscillator(x, params, gradient_out):
    energy = 0.0
    for i in range(len(x)):
        energy += params[0] * x[i] ** 2 + params[1] * math.cos(x[i])
        gradient_out[i] = 2 * params[0] * x[i] - params[1] * math.sin(x[i])
    return energy


def field_posterior(shape=(6, 4)):
    prior = ps.GaussianRandomField(ps.Grid(shape, 10.0), ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
    counts = np.random.default_rng(1).poisson(3.0, size=shape)
    return prior + ps.PoissonCounts(counts, mean_count=3.0)


def build():
    rng = np.random.default_rng(0)
    mask = np.ones((6, 4), bool)
    mask[2:4] = False
    field = field_posterior()
    return {
        "gaussian scalar": ps.Gaussian(1.0, 2.0, dim=3),
        "gaussian diagonal": ps.Gaussian(np.arange(3.0), [1.0, 4.0, 0.25]),
        "gaussian dense": ps.Gaussian(np.arange(4.0), covariance(4)),
        "johnson": ps.JohnsonSU([1.0, -2.0], [1.0, 4.0], [0.5, 0.0]),
        "johnson dense": ps.JohnsonSU(np.arange(3.0), covariance(3), [0.3, 0.0, 1.0]),
        "mixture": ps.GaussianMixture([0.1, 0.2, 0.7], rng.normal(size=(3, 2)) * 2, 0.3),
        "mixture dense": ps.GaussianMixture(
            [1, 3], rng.normal(size=(2, 3)), np.array([covariance(3), covariance(3, 1)])
        ),
        "ring": ps.Ring(2.0, 0.4, 3),
        "shells": ps.Shells(2),
        "funnel": ps.Funnel(4),
        "banana": ps.Banana(2.0, 0.3, 3),
        "egg box": ps.EggBox(),
        "double well": ps.DoubleWell(tilt=0.3, dim=2),
        "student": ps.Student(4.0, 2.0, 3),
        "phi4": ps.Phi4((4, 3), mass2=-1.0, coupling=0.5),
        "ising": ps.Ising((4, 4), coupling=0.4),
        "parameters": ps.Parameters(a=ps.Normal(1.0, 2.0), b=ps.HalfNormal(2.0), c=ps.Uniform(-1.0, 3.0)),
        "poisson": ps.PoissonCounts(rng.poisson(3.0, size=(3, 2)), mean_count=3.0),
        "gaussian noise": ps.GaussianNoise(rng.normal(size=(6, 4)), 0.5, mask=mask),
        "random field": field.prior,
        "field posterior": field,
        "field modes": FieldModes(field, field.prior.grid),
        "whitened field modes": FieldModes(field, field.prior.grid, whitened=True),
        "whitened": Whitened(field),
        "whitened parameters": Whitened(
            ps.Parameters(a=ps.Normal(0.0, 1.0), b=ps.Uniform(-1.0, 3.0)) + ps.GaussianNoise([0.5, 0.2], 1.0)
        ),
        "integrated": IntegratedScore(
            ps.from_functions(score=lambda x: -np.sinh(x), shape=(3, 2)), origin=np.full((3, 2), 0.2)
        ),
        "compiled": ps.compiled(oscillator, dim=3, params=(0.7, 1.5)),
        "sum": ps.Gaussian(0.0, 1.0, dim=3)
        + 0.5 * ps.Student(4.0, 1.0, 3)
        + ps.compiled(oscillator, dim=3, params=(0.1, 1.0)),
        "functions": ps.from_functions(
            energy=lambda x: np.cosh(x).sum(axis=(1, 2)), score=lambda x: -np.sinh(x), shape=(3, 2)
        ),
    }


def states(energy, n=5, seed=3):
    """Return states at which the density is not tiny."""
    if isinstance(energy, ps.Prior):
        return energy.sample(n, seed=seed)
    prior = getattr(energy, "prior", None)
    if prior is not None and not isinstance(energy, FieldModes | Whitened):
        return prior.sample(n, seed=seed)
    return np.random.default_rng(seed).normal(size=(n, *energy.shape))
