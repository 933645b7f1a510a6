"""Normal densities that are diagonal in the Fourier modes, against dense algebra.

Statistical bounds are |z| < 5.5, a false alarm in 2.6e7; there are fewer than 20000 z-scores.
"""

import math
import pickle

import numpy as np
import pytest

import physscore as ps

BOXES = [
    ((8,), 4.0),
    ((7,), 4.0),
    ((2,), 1.0),
    ((6, 5), (4.0, 3.0)),
    ((5, 4), 2.0),
    ((4, 6, 3), (3.0, 2.0, 2.5)),
    ((3, 5, 4), 3.0),
]


def built(shape, box, seed=0):
    """A density in which k = 0 moves and some modes do not; NaN in the places that are not used."""
    grid = ps.Grid(shape, box)
    size = 2 * math.prod(grid.half_shape)
    rng = np.random.default_rng(seed)
    mean, variances = rng.normal(size=size), rng.uniform(0.2, 3.0, size)
    variances[rng.random(size) < 0.2] = 0.0
    variances[0], variances[2] = 1.5, 0.0
    used = ps.FourierGaussian(grid, mean, variances).coordinates.in_use
    mean[~used] = variances[~used] = np.nan
    return ps.FourierGaussian(grid, mean, variances)


@pytest.fixture(params=BOXES, ids=str)
def prior(request):
    return built(*request.param)


def modes_of(prior):
    """The fields (d, n_cells) whose coordinates are 1 in one place, by an explicit Fourier sum."""
    shape = prior.shape
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    sides, rows = np.array(shape), []
    for k in np.ndindex(*prior.grid.half_shape):
        phase = 2 * np.pi * (places * (np.array(k) / sides)).sum(-1)
        own = all((2 * m) % n == 0 for m, n in zip(k, shape, strict=True))
        root = math.sqrt((1 if own else 2) / prior.grid.n_cells)
        rows += [root * np.cos(phase).ravel(), -root * np.sin(phase).ravel()]
    return np.array(rows) * prior.coordinates.in_use[:, np.newaxis]


def test_energy_and_score_against_dense_algebra(prior):
    modes = modes_of(prior)
    used = modes[prior.coordinates.in_use]
    np.testing.assert_allclose(used @ used.T, np.eye(prior.dim), atol=1e-13)
    assert prior.free.sum() == prior.n_free_modes < prior.dim
    covariance = (modes.T * prior.variances) @ modes
    mean = prior.mean @ modes
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[-prior.n_free_modes :], vectors[:, -prior.n_free_modes :]
    x = np.random.default_rng(1).normal(size=(4, prior.dim))
    along = (x - mean) @ vectors
    expected = 0.5 * (along**2 / values + np.log(2 * np.pi * values)).sum(axis=1)
    states = x.reshape(4, *prior.shape)
    energy, score = prior.energy_and_score(states)
    np.testing.assert_allclose(energy, expected, rtol=1e-12)
    np.testing.assert_allclose(score.reshape(4, -1), -(along / values) @ vectors.T, atol=1e-11)
    np.testing.assert_array_equal(prior.energy(states), energy)
    np.testing.assert_array_equal(prior.score(states), score)
    assert ps.check_score(prior, states, tolerance=1e-6)
    np.testing.assert_allclose(prior.unwhiten(np.zeros((1, len(prior.mean))))[0].ravel(), mean)


def test_whitening(prior):
    z = np.random.default_rng(2).normal(size=(5, len(prior.mean)))
    x = prior.unwhiten(z)
    modes = modes_of(prior)
    expected = (prior.mean + np.sqrt(prior.variances) * z) @ modes
    np.testing.assert_allclose(x.reshape(5, -1), expected, atol=1e-13)
    back = prior.whiten(x)
    np.testing.assert_allclose(back, np.where(prior.free, z, 0.0), atol=1e-12)
    assert (back[:, ~prior.free] == 0).all()
    np.testing.assert_allclose(prior.unwhiten(back), x, atol=1e-12)
    expected = 0.5 * (back**2).sum(1) + 0.5 * np.log(2 * np.pi * prior.variances[prior.free]).sum()
    np.testing.assert_allclose(prior.energy(x), expected, rtol=1e-12)


def test_pull_back_against_differences(prior):
    rng = np.random.default_rng(3)
    z, direction = rng.normal(size=(2, 3, len(prior.mean)))
    slope = rng.normal(size=(3, *prior.shape))
    change = (prior.unwhiten(z + direction) - prior.unwhiten(z - direction)) / 2  # linear: any step will do
    gradient = prior.pull_back(z, slope)
    assert gradient.shape == z.shape
    assert (gradient[:, ~prior.free] == 0).all()
    expected = (slope * change).reshape(3, -1).sum(1)
    np.testing.assert_allclose((gradient * direction).sum(1), expected, atol=1e-12)


def test_draws_have_the_mean_and_the_covariance(prior):
    n = 20_000
    x = prior.sample(n, seed=5)
    assert x.shape == (n, *prior.shape)
    modes = modes_of(prior)
    c = x.reshape(n, -1) @ modes.T - prior.mean * prior.coordinates.in_use
    fixed = ~prior.free
    assert np.abs(c[:, fixed]).max(initial=0) < 1e-12
    y = c[:, prior.free] / np.sqrt(prior.variances[prior.free])
    assert np.abs(y.mean(0)).max() * math.sqrt(n) < 5.5
    z = (y.T @ y / n - np.eye(y.shape[1])) * math.sqrt(n)
    z[np.diag_indices_from(z)] /= math.sqrt(2)
    assert np.abs(z).max() < 5.5
    np.testing.assert_array_equal(prior.sample(3, seed=5), prior.sample(4, seed=5)[:3])


@pytest.mark.parametrize(("shape", "box"), BOXES)
def test_a_random_field_is_one_of_them(shape, box):
    field = ps.GaussianRandomField(ps.Grid(shape, box), ps.spectra.PowerLaw(index=-1.0, amplitude=2.0))
    size = 2 * math.prod(field.grid.half_shape)
    k = [2 * np.pi * np.fft.fftfreq(n, side / n) for n, side in zip(shape, field.grid.box_size, strict=True)]
    k[-1] = np.abs(k[-1][: shape[-1] // 2 + 1])
    modulus = np.sqrt(sum(a**2 for a in np.meshgrid(*k, indexing="ij"))).ravel()
    power = np.zeros_like(modulus)
    power[1:] = 2.0 / modulus[1:]
    variances = np.repeat(power * field.grid.n_cells / field.grid.volume, 2)
    same = ps.FourierGaussian(field.grid, np.zeros(size), variances)
    assert same.n_free_modes == field.n_free_modes
    x = np.random.default_rng(0).normal(size=(3, *shape))
    np.testing.assert_allclose(same.energy(x), field.energy(x), rtol=1e-12)
    np.testing.assert_allclose(same.score(x), field.score(x), atol=1e-12)


def test_large_batches_are_those_of_single_states():
    prior = built((40, 33), 5.0)  # more fields than are transformed together
    x = prior.sample(70, seed=1)
    energy, score = prior.energy_and_score(x)
    for i in (0, 24, 69):
        one = prior.energy_and_score(x[i : i + 1])
        np.testing.assert_allclose(one[0], energy[i], rtol=1e-13)
        np.testing.assert_allclose(one[1][0], score[i], atol=1e-12)
    assert prior.energy_and_score(x[:0])[1].shape == (0, 40, 33)
    assert prior.unwhiten(prior.whiten(x[:0])).shape == (0, 40, 33)


def test_float32_states_stay_so():
    prior = built((6, 5), 3.0)
    x = prior.sample(3, seed=1)
    energy, score = prior.energy_and_score(x.astype("f4"))
    assert (energy.dtype, score.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(energy, prior.energy(x), rtol=1e-5)
    np.testing.assert_allclose(score, prior.score(x), atol=1e-5)
    z = prior.whiten(x.astype("f4"))
    assert z.dtype == prior.unwhiten(z).dtype == prior.pull_back(z, score).dtype == np.float32


def test_it_is_the_prior_of_a_posterior():
    prior = built((6, 5), 3.0)
    posterior = prior + ps.GaussianNoise(np.zeros((6, 5)), 1.0)
    assert posterior.prior is prior
    assert prior.log_z == 0.0
    x = prior.sample(2, seed=0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(prior)).energy(x), prior.energy(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (4, 4)}, "grid is .*: it must be a Grid"),
        ({"mean": 0.0}, r"mean has shape \(\) .* shape \(24,\)"),
        ({"variances": np.ones((4, 4))}, r"variances has shape \(4, 4\) .* shape \(24,\)"),
        ({"variances": np.ones(24) * 1j}, "variances has .* type complex128"),
        ({"variances": -np.ones(24)}, "variances hold -1.0: they must not be negative"),
        ({"variances": np.zeros(24)}, "there is nothing to sample"),
        ({"mean": np.full(24, np.inf)}, "mean holds inf: all must be finite"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"grid": ps.Grid((4, 4), 1.0), "mean": np.zeros(24), "variances": np.ones(24)} | change
    with pytest.raises(ps.InputError, match=message):
        ps.FourierGaussian(**given)


def test_bad_states_are_refused():
    prior = built((4, 4), 1.0)
    with pytest.raises(ps.InputError, match=r"x has shape \(4, 4\)"):
        prior.energy(np.zeros((4, 4)))
    with pytest.raises(ps.InputError, match=r"z has shape .* must be \(n, 24\)"):
        prior.unwhiten(np.zeros((2, 4, 4)))
    with pytest.raises(ps.InputError, match="n is 0"):
        prior.sample(0, seed=1)
