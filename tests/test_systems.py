"""The systems with a known log Z: every value against an integral of its target done in another way."""

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import cho_factor, cho_solve
from scipy.special import gammaln, logsumexp
from scipy.stats import multivariate_normal, norm

import physscore as ps
from physscore import systems
from physscore.core import InputError

KNOWN = {
    "eggbox": (235.856, 3),  # Feroz, Hobson & Bridges 2009, section 6.1
    "funnel": (0.0, 12),
    "mixture": (0.0, 12),
    "mixture-10": (0.0, 12),
    "phi4-4x16": (17.22190, 5),
    "ising-8-0.4406868": (60.14178141, 8),
    "ising-16-0.4406868": (238.64225905, 8),
    "ising-32-0.4406868": (952.64808908, 8),
}


def states(system, n, seed=0):
    start = system.reference or getattr(system.target, "prior", None)
    if start is not None:
        return start.sample(n, seed=seed)
    return np.random.default_rng(seed).normal(size=(n, *system.target.shape))


def log_integral(log_density, volume):
    """The log of a sum times the volume of a cell: exact to rounding for what is smooth and periodic."""
    return logsumexp(log_density) + math.log(volume)


def gaussian_integral(target, mean_is_free=True):
    """Log of the integral of exp(-E) over all states, or those of mean 0, for a quadratic E."""
    n = target.dim
    slope = target.score(np.zeros((1, *target.shape))).ravel()
    hessian = slope - target.score(np.eye(n).reshape(n, *target.shape)).reshape(n, n)
    if not mean_is_free:  # has the Hessian 1, by itself, which leaves the determinant of the others
        slope = slope - slope.mean()
        hessian -= hessian.mean(axis=0)
        hessian -= hessian.mean(axis=1)[:, np.newaxis] - 1 / n
    factor = cho_factor(0.5 * (hessian + hessian.T))
    log_det = 2 * np.log(np.diag(factor[0])).sum()
    least = target.energy(cho_solve(factor, slope).reshape(1, *target.shape))[0]
    free = n if mean_is_free else n - 1
    return 0.5 * (free * math.log(2 * math.pi) - log_det) - least


# All of them


@pytest.mark.parametrize("name", systems.names())
def test_energies_and_scores(name):
    system = systems.system(name)
    assert isinstance(system.target, ps.Energy)
    assert system.reference is None or isinstance(system.reference, ps.Prior)
    assert math.isfinite(system.log_z)
    x = states(system, 3)
    if system.reference is not None:
        assert system.reference.shape == system.target.shape
    assert np.isfinite(system.target.energy(x)).all()
    check = ps.check_score(system.target, x, most=10)
    assert check, check.message


@pytest.mark.parametrize("name", KNOWN)
def test_published_values(name):
    value, digits = KNOWN[name]
    assert systems.system(name).log_z == pytest.approx(value, abs=0.51 * 10.0**-digits)


@pytest.mark.parametrize("name", [n for n in systems.names() if not n.startswith(("ising", "field"))])
def test_compiled_forms_agree(name):
    target = systems.system(name).target
    x = states(systems.system(name), 4)
    assert target.point is not None
    energy, _ = ps.points.evaluate(target.point, x.reshape(4, -1))
    np.testing.assert_allclose(energy, target.energy(x), rtol=1e-10)


@pytest.mark.parametrize("name", ["eggbox", "regression", "gaussian", "field-16x16"])
def test_targets_travel_to_other_processes(name):
    target = systems.system(name).target
    x = states(systems.system(name), 2)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(target)).energy(x), target.energy(x))


def test_names():
    assert len(set(systems.names())) == len(systems.names())
    assert systems.system("funnel") is systems.system("funnel")
    with pytest.raises(InputError, match="name is 'tunnel': it must be one of gaussian, student, "):
        systems.system("tunnel")


def test_import_loads_no_numba():
    code = "import sys; from physscore import systems; systems.names(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"numba", "scipy"} & set(loaded.split())


# Densities of vectors


@pytest.mark.parametrize("name", ["gaussian", "regression"])
def test_quadratic_energies(name):
    target, _, log_z = systems.system(name)
    assert gaussian_integral(target) == pytest.approx(log_z, abs=1e-9)


def test_gaussian_has_a_wide_spectrum():
    target = systems.system("gaussian").target
    assert getattr(target, "prior", None) is None  # nothing says that it is normal
    assert np.linalg.cond(target.score(np.eye(10)) - target.score(np.zeros((1, 10)))) == pytest.approx(100)


def test_student():
    target, _, log_z = systems.system("student")

    def ring(r):
        return r**4 * math.exp(-target.energy(np.array([[r, 0, 0, 0, 0]]))[0])

    total = quad(ring, 0, 5, epsabs=0, epsrel=1e-11)[0] + quad(ring, 5, np.inf, epsabs=0, epsrel=1e-11)[0]
    surface = math.log(2) + 2.5 * math.log(math.pi) - gammaln(2.5)
    assert math.log(total) + surface == pytest.approx(log_z, abs=1e-9)


def test_mixture():
    target, _, log_z = systems.system("mixture")
    side = np.linspace(-8, 8, 201)
    x = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    assert log_integral(-target.energy(x), (side[1] - side[0]) ** 2) == pytest.approx(log_z, abs=1e-10)


def test_separated_mixture():
    """Importance sampling from both modes, widened; its weights are bounded."""
    target, _, log_z = systems.system("mixture-10")
    rng, n = np.random.default_rng(0), 100_000
    centres = rng.choice([-1.3, 1.3], size=(n, 1))
    x = centres + 1.1 * rng.normal(size=(n, 10))
    modes = [multivariate_normal(np.full(10, centre), 1.1**2).logpdf(x) for centre in (-1.3, 1.3)]
    weights = np.exp(-target.energy(x) - np.logaddexp(*modes) + math.log(2))
    error = weights.std() / math.sqrt(n)
    assert error < 0.01
    assert abs(weights.mean() - math.exp(log_z)) < 5 * error


def test_funnel():
    target = systems.system("funnel").target
    x = target.sample(100, seed=0)
    log_p = norm(0, 3).logpdf(x[:, 0]) + norm(0, np.exp(0.5 * x[:, :1])).logpdf(x[:, 1:]).sum(axis=1)
    np.testing.assert_allclose(target.energy(x), -log_p, rtol=1e-12)


def test_double_well():
    target, _, log_z = systems.system("double-well")
    x = np.linspace(-4, 4, 2001)
    line = np.zeros((len(x), 5))
    line[:, 0] = x
    rest = target.energy(np.zeros((1, 5)))[0] * 0.8  # of the four others, at 0
    one = log_integral(rest - target.energy(line), x[1] - x[0])
    assert 5 * one == pytest.approx(log_z, abs=1e-9)


@pytest.mark.parametrize("dim", [2, 5, 10, 20, 30])
def test_shells(dim):
    """Over the axis and the distance from it, and with the published normalisation as published."""
    target, _, log_z = systems.system(f"shells-{dim}")
    step = 0.02
    along, across = np.arange(-6 + step / 2, 6, step), np.arange(step / 2, 3.5, step)
    x = np.zeros((len(along), len(across), dim))
    x[..., 0], x[..., 1] = along[:, np.newaxis], across
    surface = math.log(2) + 0.5 * (dim - 1) * math.log(math.pi) - gammaln(0.5 * (dim - 1))
    log_p = surface + (dim - 2) * np.log(x[..., 1].ravel()) - target.energy(x.reshape(-1, dim))
    assert log_integral(log_p, step**2) == pytest.approx(log_z, abs=1e-5)
    published = {2: -1.75, 5: -5.67, 10: -14.59, 20: -36.09, 30: -60.13}[dim]
    normalised = log_z - math.log(0.1 * math.sqrt(2 * math.pi))
    assert normalised == pytest.approx(published, abs=0.006)
    if dim == 10:
        assert normalised == pytest.approx(-14.59049, abs=5e-6)


def test_eggbox():
    target, _, log_z = systems.system("eggbox")
    side = (np.arange(800) + 0.5) * 10 * math.pi / 800
    x = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    assert log_integral(-target.energy(x), (10 * math.pi / 800) ** 2) == pytest.approx(log_z, abs=1e-9)


# Lattices


@pytest.mark.parametrize("shape", [(4, 4), (4, 16)])
def test_phi4_is_its_formula(shape):
    target = systems.system(f"phi4-{shape[0]}x{shape[1]}").target
    phi = np.random.default_rng(0).normal(size=(5, *shape))
    bonds = sum((phi * np.roll(phi, 1, axis)).sum(axis=(1, 2)) for axis in (1, 2))
    log_p = bonds - (1.75 * phi**2 + 0.5 * phi**4).sum(axis=(1, 2))
    np.testing.assert_allclose(target.energy(phi), -log_p, rtol=1e-12)


def test_phi4_has_converged():
    finer = [systems.phi4_log_z((4, length), -0.5, 0.5, 7) for length in (4, 16)]
    found = [systems.system(f"phi4-4x{length}").log_z for length in (4, 16)]
    np.testing.assert_allclose(found, finer, rtol=0, atol=1e-7)
    chain = systems.phi4_log_z((32,), -2.0, 0.5, 32)
    assert systems.system("phi4-chain").log_z == pytest.approx(chain, abs=1e-11)


@pytest.mark.parametrize("sites", [3, 4])
def test_phi4_chain_against_a_sum_over_a_grid(sites):
    side = np.linspace(-3.6, 3.6, 33)
    phi = np.stack(np.meshgrid(*[side] * sites, indexing="ij"), axis=-1).reshape(-1, sites)
    energy = ps.Phi4((sites,), mass2=-2.0, coupling=0.5).energy(phi)
    expected = log_integral(-energy, (side[1] - side[0]) ** sites)
    assert systems.phi4_log_z((sites,), -2.0, 0.5, 24) == pytest.approx(expected, abs=1e-9)


def test_phi4_torus_against_another_quadrature():
    """Gauss-Hermite over all 6 sites at once."""
    places, weights = np.polynomial.hermite.hermgauss(9)
    phi = np.stack(np.meshgrid(*[places / math.sqrt(3)] * 6, indexing="ij"), axis=-1).reshape(-1, 3, 2)
    logs = np.log(weights / math.sqrt(3)) + places**2
    log_weight = np.stack(np.meshgrid(*[logs] * 6, indexing="ij")).sum(axis=0).ravel()
    expected = logsumexp(log_weight - ps.Phi4((3, 2), mass2=2.0, coupling=0.1).energy(phi))
    assert systems.phi4_log_z((3, 2), 2.0, 0.1, 8) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("shape", "nodes"), [((20,), 16), ((3, 8), 8)])
def test_free_field(shape, nodes):
    exact = ps.Phi4(shape, mass2=1.5, coupling=0.0).log_z
    assert systems.phi4_log_z(shape, 1.5, 0.0, nodes) == pytest.approx(exact, abs=1e-8)


# Random fields


@pytest.mark.parametrize("name", ["field-16x16", "field-masked-16x16", "field-masked-64x64"])
def test_fields_by_dense_algebra(name):
    """The integral over all fields of mean 0, of the energy as the target gives it."""
    target, _, log_z = systems.system(name)
    assert gaussian_integral(target, mean_is_free=False) == pytest.approx(log_z, rel=1e-9)


@pytest.mark.parametrize("masked", [False, True])
def test_fields_in_3d(masked):
    target, _, log_z = systems._field((4, 5, 6), masked)
    assert gaussian_integral(target, mean_is_free=False) == pytest.approx(log_z, abs=1e-9)


@pytest.mark.parametrize("shape", ["16x16", "64x64", "16^3", "64^3"])
def test_half_of_the_modes_are_seen(shape):
    prior = systems.system(f"field-{shape}").target.prior
    ratio = prior.power * prior.grid.n_cells / prior.grid.volume
    seen = prior.wavenumbers.counts[(ratio > 0.1) & (ratio < 10)].sum() / prior.grid.n_cells
    assert seen > 0.5


@pytest.mark.parametrize("name", ["field-masked-16x16", "field-masked-64x64"])
def test_half_of_the_cells_are_masked(name):
    assert systems.system(name).target.likelihood.mask.mean() == 0.5


@pytest.mark.parametrize("height", [5e6, 1e8, 1e13])
@pytest.mark.parametrize("tilt", [0.0, 0.5])
def test_narrow_wells(height, tilt):
    """Against Laplace's approximation, whose error is of the order 1 / height."""
    width = 1 / math.sqrt(8 * height)
    exact = 0.5 * math.log(2 * math.pi) + math.log(width) + math.log(2 * math.cosh(tilt))
    assert ps.DoubleWell(height, 1.0, tilt).log_z == pytest.approx(exact, abs=2 / height + 2e-7)
