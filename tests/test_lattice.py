"""Lattices: phi^4 and its two parametrisations, and the Ising model against the sum over its spins.

Statistical bounds are |z| < 5 each, a false alarm in 2 million; there are about 60 of them.
"""

import itertools
import pickle

import numpy as np
import pytest
from scipy.special import logsumexp

import physscore as ps
from physscore.core import InputError
from physscore.points import evaluate

SHAPES = [(2,), (5,), (2, 2), (4, 3), (2, 5), (3, 2, 4), (2, 2, 2)]


def bonds(shape):
    """Pairs of site numbers, one for each bond: of each site with the next along every side."""
    sites = np.arange(np.prod(shape)).reshape(shape)
    ends = [np.roll(sites, -1, axis) for axis in range(len(shape))]
    return np.array([[a, b] for end in ends for a, b in zip(sites.ravel(), end.ravel(), strict=True)])


def adjacency(shape):
    matrix = np.zeros((np.prod(shape),) * 2)
    for a, b in bonds(shape):
        matrix[a, b] += 1
        matrix[b, a] += 1
    return matrix


def all_spins(shape):
    n = np.prod(shape)
    return np.array(list(itertools.product([-1, 1], repeat=int(n))), np.int8).reshape(-1, *shape)


def log_weights(shape, coupling, field):
    """Spins, and the log of the Boltzmann weight of each of the configurations."""
    spins = all_spins(shape)
    flat = spins.reshape(len(spins), -1).astype(float)
    a, b = bonds(shape).T
    return spins, coupling * (flat[:, a] * flat[:, b]).sum(1) + field * flat.sum(1)


def z_of_mean(values, expected):
    """The z-score of the mean of each column of independent rows."""
    return (values.mean(0) - expected) / (values.std(0, ddof=1) / np.sqrt(len(values)))


# phi^4


@pytest.mark.parametrize("shape", SHAPES)
def test_phi4_is_its_formula(shape):
    x = np.random.default_rng(0).normal(size=(6, *shape))
    flat, (a, b) = x.reshape(6, -1), bonds(shape).T
    gradients = ((flat[:, b] - flat[:, a]) ** 2).sum(1)
    expected = 0.5 * gradients + (-0.35 * flat**2 + 0.2 * flat**4).sum(1)
    continuum = ps.Phi4(shape, mass2=-0.7, coupling=0.2)
    np.testing.assert_allclose(continuum.energy(x), expected, rtol=1e-12)
    hops = (flat[:, a] * flat[:, b]).sum(1)
    expected = -2 * 0.15 * hops + (flat**2 + 0.6 * (flat**2 - 1) ** 2).sum(1)
    hopping = ps.Phi4(shape, kappa=0.15, lam=0.6)
    np.testing.assert_allclose(hopping.energy(x), expected, rtol=1e-12)
    for phi4 in (continuum, hopping):
        energy, gradient = evaluate(phi4.point, flat)
        np.testing.assert_allclose(energy, phi4.energy(x), rtol=1e-12)
        np.testing.assert_allclose(-gradient, phi4.score(x).reshape(6, -1), atol=1e-12)
        assert phi4.log_z is None
    np.testing.assert_allclose(continuum.magnetisation(x), flat.mean(1), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_phi4_parametrisations(shape):
    kappa, lam, dim = 0.18, 1.2, len(shape)
    hopping = ps.Phi4(shape, kappa=kappa, lam=lam)
    continuum = ps.Phi4(shape, mass2=(1 - 2 * lam) / kappa - 2 * dim, coupling=lam / (4 * kappa**2))
    x = np.random.default_rng(1).normal(size=(5, *shape))
    scaled = np.sqrt(2 * kappa) * x
    expected = continuum.energy(scaled) + lam * hopping.n_sites
    np.testing.assert_allclose(hopping.energy(x), expected, rtol=1e-12)
    np.testing.assert_allclose(hopping.score(x), np.sqrt(2 * kappa) * continuum.score(scaled), atol=1e-11)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "numbers",
    [{"mass2": 0.3, "coupling": 0.0}, {"kappa": 0.1, "lam": 0.0}, {"kappa": -0.15, "lam": 0.0}],
    ids=["mass2", "kappa", "negative kappa"],
)
def test_free_field(shape, numbers):
    phi4 = ps.Phi4(shape, **numbers)
    identity = np.eye(phi4.n_sites).reshape(-1, *shape)
    matrix = -phi4.score(identity).reshape(phi4.n_sites, -1)
    sign, log_det = np.linalg.slogdet(matrix / (2 * np.pi))
    assert sign == 1
    assert phi4.log_z == pytest.approx(-0.5 * log_det, rel=1e-12)
    neighbours = adjacency(shape)
    degree = 2 * len(shape)
    if "mass2" in numbers:
        expected = (degree + 0.3) * np.eye(phi4.n_sites) - neighbours
    else:
        expected = 2 * np.eye(phi4.n_sites) - 2 * numbers["kappa"] * neighbours
    np.testing.assert_allclose(matrix, expected, atol=1e-12)


# Ising


@pytest.mark.parametrize(
    ("shape", "coupling", "field"),
    [
        ((4, 4), 0.4406868, 0.0),
        ((4, 4), 0.3, 0.0),
        ((4, 4), 0.9, 0.0),
        ((4, 4), -0.6, 0.0),
        ((2, 4), -0.3, 0.0),
        ((3, 3), 0.4, 0.0),
        ((2, 3), 0.5, 0.0),
        ((3, 2), 0.5, 0.0),
        ((5, 3), 0.7, 0.0),
        ((2, 2), 1e-9, 0.0),
        ((3, 4), 0.0, 0.4),
        ((2, 2, 2), 0.0, -0.4),
        *[
            ((n,), coupling, field)
            for n in (2, 3, 4, 7)
            for coupling in (0.8, -0.8, 1e-9, -3.0)
            for field in (0.0, 0.5, -1.5)
        ],
    ],
)
def test_log_z_is_the_sum_over_spins(shape, coupling, field):
    expected = logsumexp(log_weights(shape, coupling, field)[1])
    ising = ps.Ising(shape, coupling, field=field)
    assert ising.exact_log_z() == pytest.approx(expected, rel=1e-12)
    assert ising.log_z == ising.exact_log_z()


@pytest.mark.parametrize(("side", "log_z"), [(8, 60.14178141), (16, 238.64225905), (32, 952.64808908)])
def test_log_z_near_the_critical_point(side, log_z):
    assert ps.Ising((side, side), coupling=0.4406868).log_z == pytest.approx(log_z, abs=6e-9)


def test_log_z_where_it_is_smooth_or_large():
    critical = 0.5 * np.log1p(np.sqrt(2))  # where one of the factors is 0
    around = [ps.Ising((8, 6), critical + d).log_z for d in (-1e-6, 0.0, 1e-6)]
    assert around[1] == pytest.approx(0.5 * (around[0] + around[2]), abs=1e-8)
    assert ps.Ising((6, 4), 0.5).log_z == pytest.approx(ps.Ising((4, 6), 0.5).log_z, rel=1e-13)
    for shape in [(6,), (4, 4)]:
        sites, lines = np.prod(shape), len(shape)
        aligned = 100 * lines * sites + np.log(2)
        assert ps.Ising(shape, 100.0).log_z == pytest.approx(aligned, rel=1e-14)
        assert ps.Ising(shape, -100.0).log_z == pytest.approx(aligned, rel=1e-14)
        assert ps.Ising(shape, 1e-300).log_z == pytest.approx(sites * np.log(2), rel=1e-13)
    assert ps.Ising(5, 100.0, field=100.0).log_z == pytest.approx(1000, rel=1e-14)
    frustrated = 3 * 50 + np.log(10)  # one bond of five is not satisfied, in ten ways
    assert ps.Ising(5, -50.0).log_z == pytest.approx(frustrated, rel=1e-14)


@pytest.mark.parametrize(
    ("shape", "coupling", "field"),
    [((4, 4), 0.4, 0.1), ((4, 4, 4), 0.2, 0.0), ((4, 3), -0.4, 0.0), ((3, 3), -1e-9, 0.0)],
)
def test_log_z_that_is_not_known(shape, coupling, field):
    ising = ps.Ising(shape, coupling, field=field)
    assert ising.log_z is None
    with pytest.raises(InputError, match=r"shape is \(.*, coupling is .*, field is .*: log Z is known with"):
        ising.exact_log_z()


@pytest.mark.parametrize(
    ("shape", "coupling", "field"),
    [((2,), 0.6, 0.0), ((2,), -0.4, 0.3), ((3,), 0.5, -0.7), ((3,), -0.7, 0.2)],
)
def test_integral_of_the_dual(shape, coupling, field):
    """The rectangle rule is exact to rounding for a smooth density whose tails are inside the grid."""
    ising = ps.Ising(shape, coupling, field=field)
    grid = np.linspace(-8, 8, 81)
    x = np.stack(np.meshgrid(*[grid] * shape[0]), -1).reshape(-1, *shape)
    log_volume = shape[0] * np.log(grid[1] - grid[0])
    expected = logsumexp(log_weights(shape, coupling, field)[1])
    assert logsumexp(-ising.energy(x)) + log_volume == pytest.approx(expected, abs=1e-9)
    assert logsumexp(-evaluate(ising.point, x)[0]) + log_volume == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("coupling", [0.4, -0.7])
def test_dual_is_its_formula(shape, coupling):
    ising = ps.Ising(shape, coupling, field=0.3)
    n = ising.n_sites
    matrix = coupling * adjacency(shape) + ising.shift * np.eye(n)
    assert np.linalg.eigvalsh(matrix)[0] > 0.5
    x = 2 * np.random.default_rng(2).normal(size=(4, n))
    local = x @ matrix
    expected = (
        0.5 * (x * local).sum(1)
        - np.log(2 * np.cosh(local + 0.3)).sum(1)
        + 0.5 * n * (ising.shift + np.log(2 * np.pi))
        - 0.5 * np.linalg.slogdet(matrix)[1]
    )
    np.testing.assert_allclose(ising.energy(x.reshape(4, *shape)), expected, rtol=1e-11)
    energy, gradient = evaluate(ising.point, x)
    np.testing.assert_allclose(energy, expected, rtol=1e-11)
    np.testing.assert_allclose(-gradient, (np.tanh(local + 0.3) - x) @ matrix, atol=1e-10)


def test_energies_of_large_states_do_not_overflow():
    ising = ps.Ising((3, 3), 0.4, field=0.1)
    x = np.full((1, 3, 3), 1e4)
    assert np.isfinite(ising.energy(x)).all()
    np.testing.assert_allclose(evaluate(ising.point, x.reshape(1, -1))[0], ising.energy(x), rtol=1e-12)


@pytest.mark.parametrize(
    ("shape", "coupling", "field"),
    [((3, 3), 0.35, 0.0), ((3, 3), -0.3, 0.2), ((2, 2, 2), 0.15, -0.1), ((4,), 0.8, 0.3)],
)
def test_states_drawn_from_exact_spins(shape, coupling, field):
    """Spins from their enumerated law, psi ~ N(s, C^-1): then exp(-E) is the law of psi, so the mean
    score is 0, psi . grad E has the mean N, and the spins given psi have the exact law again."""
    ising = ps.Ising(shape, coupling, field=field)
    rng, n, draws = np.random.default_rng(3), ising.n_sites, 40_000
    spins, log_weight = log_weights(shape, coupling, field)
    law = np.exp(log_weight - logsumexp(log_weight))
    drawn = spins[rng.choice(len(spins), draws, p=law)].reshape(draws, n)
    matrix = coupling * adjacency(shape) + ising.shift * np.eye(n)
    noise = np.linalg.solve(np.linalg.cholesky(matrix).T, rng.normal(size=(n, draws))).T
    psi = (drawn + noise).reshape(draws, *shape)

    score = ising.score(psi).reshape(draws, n)
    assert np.abs(z_of_mean(score, 0.0)).max() < 5
    virial = -(score * psi.reshape(draws, n)).sum(1, keepdims=True)
    assert abs(z_of_mean(virial, n)[0]) < 5

    found = ising.sample_spins(psi, seed=4)
    assert found.dtype == np.int8
    assert found.shape == psi.shape
    assert set(np.unique(found)) == {-1, 1}
    np.testing.assert_array_equal(found, ising.sample_spins(psi, seed=4))
    np.testing.assert_array_equal(found[:7], ising.sample_spins(psi[:7], seed=4))
    assert (found != ising.sample_spins(psi, seed=5)).any()
    energies = ising.spin_energy(spins)
    a, b = bonds(shape).T
    flat = spins.reshape(len(spins), -1).astype(int)
    np.testing.assert_allclose(energies, -(flat[:, a] * flat[:, b]).sum(1))
    means = flat.mean(1)
    for values, exact in (
        (ising.spin_energy(found), law @ energies),
        (ising.spin_energy(found) ** 2, law @ energies**2),
        (found.reshape(draws, n).mean(1), law @ means),
        (np.abs(found.reshape(draws, n).mean(1)), law @ np.abs(means)),
        (ising.magnetisation(psi), law @ means),
    ):
        assert abs(z_of_mean(values[:, np.newaxis], exact)[0]) < 5
    assert ising.magnetisation(psi).std() < found.reshape(draws, n).mean(1).std()


def test_spins_given_one_state():
    """Independent, +1 with probability 1 / (1 + exp(-2 local field))."""
    ising = ps.Ising(4, 0.5, field=0.2)
    draws, psi = 20_000, np.array([0.4, -0.3, 1.0, -0.9])
    local = (0.5 * adjacency((4,)) + ising.shift * np.eye(4)) @ psi + 0.2
    found = ising.sample_spins(np.tile(psi, (draws, 1)), seed=1).astype(float)
    assert np.abs(z_of_mean(found, np.tanh(local))).max() < 5
    pairs = found[:, [0, 0, 0, 1, 1, 2]] * found[:, [1, 2, 3, 2, 3, 3]]
    expected = np.tanh(local)[[0, 0, 0, 1, 1, 2]] * np.tanh(local)[[1, 2, 3, 2, 3, 3]]
    assert np.abs(z_of_mean(pairs, expected)).max() < 5
    far = ising.sample_spins(np.tile(50.0 * psi, (3, 1)), seed=1)
    np.testing.assert_array_equal(far, np.tile(np.sign(50 * local - 49 * 0.2), (3, 1)))


# Both


@pytest.mark.parametrize("lattice", [ps.Phi4((4, 3), mass2=-1.0, coupling=0.5), ps.Ising((4, 3), 0.4)])
def test_float32_pickles_and_whole_numbers(lattice):
    x = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    energy, score = lattice.energy_and_score(x)
    assert energy.dtype == np.float64
    assert score.dtype == np.float32
    np.testing.assert_allclose(energy, lattice.energy(x.astype(float)), rtol=1e-5)
    np.testing.assert_allclose(score, lattice.score(x.astype(float)), atol=1e-4)
    assert lattice.point is lattice.point
    copy = pickle.loads(pickle.dumps(lattice))
    np.testing.assert_array_equal(copy.energy(x), energy)
    np.testing.assert_array_equal(copy.point.params, lattice.point.params)
    assert copy.log_z == lattice.log_z
    ones = np.ones((2, 4, 3), int)
    np.testing.assert_array_equal(lattice.energy(ones), lattice.energy(ones.astype(float)))


def test_names():
    assert repr(ps.Ising((4, 4), 0.5)) == "Ising((4, 4), coupling=0.5, field=0)"
    assert repr(ps.Phi4(8, kappa=0.2, lam=0.5)) == "Phi4((8,), kappa=0.2, lam=0.5)"
    assert (ps.Ising(8, 0.5).shape, ps.Ising([4, 3, 2], 0.5).n_sites) == ((8,), 24)


@pytest.mark.parametrize("shape", [(), 1, (4, 1), (2, 2, 2, 2), 4.0, "44", None, True, (4, True), -3])
def test_bad_shape(shape):
    with pytest.raises(InputError, match="shape is .*: it must be 1 to 3 whole numbers of at least 2"):
        ps.Ising(shape, 0.4)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({}, "given is nothing: it must be mass2 and coupling, or kappa and lam"),
        ({"mass2": 1.0}, "given is mass2=1: it must be mass2 and coupling"),
        ({"mass2": 1.0, "lam": 1.0}, "given is mass2=1, lam=1: it must be"),
        ({"mass2": 1.0, "coupling": 1.0, "lam": 2.0}, "given is .*lam=2: it must be"),
        ({"mass2": np.nan, "coupling": 1.0}, "mass2 is nan: it must be a finite number"),
        ({"mass2": 1.0, "coupling": "1"}, "coupling is '1': it must be a finite number"),
        ({"mass2": 1.0, "coupling": -1.0}, "coupling is -1: .* only if it is not negative"),
        ({"kappa": 0.1, "lam": -0.1}, "lam is -0.1: .* only if it is not negative"),
        ({"mass2": 0.0, "coupling": 0.0}, "mass2 is 0 and coupling is 0: .* lowest eigenvalue is 0"),
        ({"kappa": 0.3, "lam": 0.0}, "kappa is 0.3 and lam is 0: .* lowest eigenvalue is -0.4"),
    ],
)
def test_bad_phi4(numbers, message):
    with pytest.raises(InputError, match=message):
        ps.Phi4((4, 4), **numbers)


def test_bad_ising():
    for value in (np.inf, 101.0, "0.4", None, True):
        with pytest.raises(InputError, match=f"coupling is {value!r}: it must be a number from -100 to 100"):
            ps.Ising(4, value)
    with pytest.raises(InputError, match="field is -200.0: it must be a number from -100 to 100"):
        ps.Ising(4, 0.4, field=-200.0)
    with pytest.raises(InputError, match=r"x has shape \(4,\): it must be \(n, 4\)"):
        ps.Ising(4, 0.4).sample_spins(np.zeros(4), seed=1)
    with pytest.raises(InputError, match=r"spins has shape \(2, 3\): it must be \(n, 4\)"):
        ps.Ising(4, 0.4).spin_energy(np.ones((2, 3)))
