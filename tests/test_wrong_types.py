"""Values of a wrong type or shape are refused by one sentence that names them, wherever they come in."""

from functools import partial

import numpy as np
import pytest

import physscore as ps

X = np.random.default_rng(0).normal(size=(6, 2))


def parabola(x):
    return 0.5 * (x**2).sum(1), -x


BOTH = ps.from_functions(energy_and_score=parabola, shape=2)
APART = ps.from_functions(energy=lambda x: 0.5 * (x**2).sum(1), score=lambda x: -x, shape=2)
SCORE = ps.from_functions(score=lambda x: -x, shape=2)


@pytest.mark.parametrize("target", [BOTH, APART, SCORE])
@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.ones((6, 3)), r"x has shape \(6, 3\)"),
        (np.ones(2), r"x has shape \(2,\)"),
        (1.0, r"x has shape \(\)"),
        (np.ma.masked_array(X, X > 0), "masked"),
        (X + 1j, "real numbers"),
        ([["a", "b"]], "real numbers"),
    ],
)
def test_functions_are_given_states_only(target, x, said):
    methods = [target.score] if target is SCORE else [target.energy, target.score, target.energy_and_score]
    for method in methods:
        with pytest.raises(ps.InputError, match=said):
            method(x)


def test_functions_are_given_arrays_for_lists_and_whole_numbers():
    for x in ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]], np.float16)):
        np.testing.assert_array_equal(BOTH.energy(x), [2.5, 12.5])
        np.testing.assert_array_equal(SCORE.score(x), [[-1, -2], [-3, -4]])
    np.testing.assert_array_equal(BOTH.score(X > 0), -1.0 * (X > 0))


def spectrum(k):
    return 1 / (1 + k)


FIELD = ps.GaussianRandomField(ps.Grid((8, 8), box_size=1.0), spectrum)
GAUSSIAN = ps.Gaussian(0.0, 1.0, dim=2)
DRAWS = np.random.default_rng(0).normal(size=(20, 30, 2))
NUMBERS = {
    "mean": lambda v: ps.Gaussian(v, 1.0),
    "covariance": lambda v: ps.Gaussian(0.0, v),
    "weights": lambda v: ps.GaussianMixture(v, [[0, 0], [1, 1]], 1.0),
    "means": lambda v: ps.GaussianMixture([0.5, 0.5], v, 1.0),
    "covariances": lambda v: ps.GaussianMixture([0.5, 0.5], [[0, 0], [1, 1]], v),
    "bend": lambda v: ps.Banana(10.0, v),
    "tilt": lambda v: ps.DoubleWell(3.0, 1.0, v),
    "metric": ps.Diagonal,
    "metric ": ps.Dense,
    "beta": lambda v: ps.Path(GAUSSIAN, ps.Ring(dim=2)).at(v),
    "first": lambda v: ps.noise_levels(v, 1.0, 5),
    "last": lambda v: ps.noise_levels(1.0, v, 5),
    "x": lambda v: ps.energy_test(v, DRAWS[0]),
    "y": lambda v: ps.classifier_test(DRAWS[0], v),
    "truth": lambda v: ps.tarp(v, DRAWS),
    "truth ": lambda v: ps.simulation_based_calibration(v, DRAWS),
    "truth  ": lambda v: ps.central_coverage(v, DRAWS),
    "truth   ": lambda v: ps.interval_coverage(v, v, v),
    "precision": lambda v: ps.ula_covariance(v, 0.1),
}


@pytest.mark.parametrize("value", ["abc", "", {}, {1, 2}, 1 + 1j, [[1, 2], [3]], np.full(2, "a")], ids=str)
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(ps.InputError, match=name.strip()):
        NUMBERS[name](value)


@pytest.mark.parametrize("dim", [1.5, True, np.array(2), "a", [2], 0, -1])
def test_dimensions_are_whole_numbers(dim):
    with pytest.raises(ps.InputError, match="dim is"):
        ps.Gaussian(0.0, 1.0, dim=dim)


@pytest.mark.parametrize(
    "given", [{"first": "a"}, {"first": 1.5}, {"fixed": "yes"}, {"fixed": 2}, {"paired": None}]
)
def test_settings_of_sampled_fields(given):
    with pytest.raises(ps.InputError, match=f"{next(iter(given))} is"):
        FIELD.sample(1, seed=0, **given)


def test_numbers_of_fields_of_any_whole_type():
    field = ps.GaussianRandomField(ps.Grid((64, 64), box_size=1.0), spectrum)
    for kind in (np.int8, np.int16, np.uint8, np.int64):
        np.testing.assert_array_equal(
            field.sample(kind(2), seed=1, first=kind(1)), field.sample(3, seed=1)[1:]
        )


SEEDED = {
    "iterate": lambda seed: next(
        ps.iterate(GAUSSIAN + GAUSSIAN, ps.MALA(0.1), chains=2, seed=seed)
    )[0],
    "temper": lambda seed: ps.temper(GAUSSIAN, chains=2, steps=5, warmup=10, seed=seed).draws,
    "thermodynamics": lambda seed: ps.thermodynamics(
        ps.Ising(4, 0.3), [0.2, 0.3], particles=64, seed=seed
    ).log_z,
}  # fmt: skip


@pytest.mark.parametrize("job", SEEDED)
def test_seeds_of_any_whole_type(job):
    expected = SEEDED[job](7)
    for kind in (np.uint8, np.int64):
        np.testing.assert_array_equal(SEEDED[job](kind(7)), expected)
    with pytest.raises(ps.InputError, match="seed is -1"):
        SEEDED[job](-1)


@pytest.mark.parametrize(
    "matrix", [[[1.0, 0.5], [0.2, 1.0]], np.ones((6, 2)), [1.0, 2.0], 1.0, np.ones((0, 0))]
)
def test_matrices_of_a_stationary_law_are_symmetric(matrix):
    with pytest.raises(ps.InputError, match="precision"):
        ps.ula_covariance(matrix, 0.1)


def test_ragged_lists_and_tensors_with_a_graph():
    torch = pytest.importorskip("torch")
    for x in ([[1, 2], [3]], torch.ones((2, 2), requires_grad=True)):
        with pytest.raises(ps.InputError, match="x is no array of numbers"):
            GAUSSIAN.energy(x)
        with pytest.raises(ps.InputError, match="init is no array of numbers"):
            ps.sample(GAUSSIAN, ps.MALA(0.3), chains=2, steps=5, warmup=0, init=x)
        for measure in (ps.power_spectrum, ps.bispectrum):
            with pytest.raises(ps.InputError, match="delta is no array of numbers"):
                measure(x, FIELD.grid)
    with pytest.raises(ps.InputError, match="epsilon is no array of numbers"):
        ps.epsilon_to_score([[1, 2], [3]], 0.5)


def test_arrays_that_are_none():
    grid, x = FIELD.grid, np.ones((4, 8, 8))
    for call, said in (
        (lambda: ps.epsilon_to_score(None, 0.5), "epsilon is None: it must hold numbers"),
        (lambda: ps.epsilon_to_score("a", 0.5), "epsilon is 'a': it must hold numbers"),
        (lambda: ps.epsilon_to_score(X, "a"), "alpha_bar is 'a': it must hold real numbers"),
        (lambda: ps.compare_fields(None, x, grid), "generated is a NoneType: it must be a sequence of maps"),
        (lambda: ps.compare_fields(x, {1: 2}, grid), "reference is a dict: it must be a sequence of maps"),
        (lambda: ps.power_spectrum(x, grid, 5), "delta holds 4 fields and other 1"),
        (lambda: ps.power_spectrum(x, grid, bins=[[1], [2, 3]]), "bins is no array of numbers"),
        (lambda: ps.bispectrum(x, grid, bins=[[1], [2, 3]]), "bins is no array of numbers"),
        (lambda: ps.GaussianNoise(x, 1.0, mask=[[1, 2], [1]]), "mask is no array of numbers"),
        (lambda: _annealed("a"), "init has the type"),
        (lambda: _annealed({}), "init has the type"),
    ):
        with pytest.raises(ps.InputError, match=said):
            call()


def _annealed(init):
    return ps.annealed_langevin(
        partial(ps.smoothed, GAUSSIAN), [2.0, 1.0], chains=2, steps=5, step_size=0.1, init=init
    )


def test_vectors_without_components_are_not_learned():
    learning = pytest.importorskip("physscore.learning")
    with pytest.raises(ps.InputError, match=r"data has shape \(6, 0\)"):
        learning.train("mlp", np.empty((6, 0)), steps=2)


def test_fields_of_zeros_have_no_power():
    """They are no realisation of anything, and are said to be none: by an error of Python, it was."""
    for zeros in (np.zeros((8, 8)), np.zeros((3, 8, 8))):
        found = ps.check_field(zeros, FIELD)
        assert not found.passed
        assert found.amplitude == 0


def test_no_states_have_no_energies():
    lognormal = ps.LognormalField(ps.Grid((8, 8), box_size=1.0), spectrum)
    assert lognormal.energy(np.empty((0, 8, 8))).shape == (0,)
    with pytest.raises(ps.InputError, match="starts has no states"):
        ps.stagnation_points(GAUSSIAN, np.empty((0, 2)))
