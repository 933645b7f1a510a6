"""Smoothed densities against draws with noise, and against their own limits."""

import numpy as np
import pytest

import physscore as ps

FIELD = ps.GaussianRandomField(ps.Grid((6, 5), 10.0), ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
DENSE = np.array([[1.0, 0.6], [0.6, 2.0]])
SYSTEMS = {
    "gaussian": ps.Gaussian([1.0, -1.0], [0.5, 2.0]),
    "dense": ps.Gaussian([1.0, -1.0], DENSE),
    "mixture": ps.GaussianMixture([1, 3], [[-2.0, 0.0], [2.0, 1.0]], 0.3),
    "dense mixture": ps.GaussianMixture([1, 3], [[-2.0, 0.0], [2.0, 1.0]], [DENSE, 0.3 * DENSE]),
    "field": FIELD,
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_score_is_the_mean_of_the_noise(name):
    """Regress -xi / sigma on functions of the noisy state: nothing is left over. |z| < 4.5 of 2 d sums."""
    energy, sigma, n = SYSTEMS[name], 0.7, 200_000 if name != "field" else 20_000
    noise = np.random.default_rng(3).normal(size=(n, *energy.shape))
    noisy = energy.sample(n, seed=4) + sigma * noise
    left = (ps.smoothed(energy, sigma).score(noisy) + noise / sigma).reshape(n, -1)
    for function in (np.ones_like(left), np.tanh(noisy.reshape(n, -1))):
        terms = left * function
        assert np.abs(terms.mean(axis=0) / terms.std(axis=0) * np.sqrt(n)).max() < 4.5


@pytest.mark.parametrize("name", SYSTEMS)
def test_score_fits_the_energy(name):
    energy = ps.smoothed(SYSTEMS[name], 0.7)
    assert ps.check_score(energy, SYSTEMS[name].sample(3, seed=1))
    assert energy.log_z == 0


def test_fixed_modes_become_free():
    assert FIELD.n_free_modes == 29
    assert ps.smoothed(FIELD, 0.1).n_free_modes == 30


def test_no_noise_changes_nothing():
    assert ps.smoothed(FIELD, 0) is FIELD


@pytest.mark.parametrize(
    ("energy", "sigma", "words"),
    [(ps.Funnel(3), 1.0, "closed form"), (FIELD, -1.0, "sigma is -1"), (FIELD, "a", "sigma is 'a'")],
)
def test_bad_input(energy, sigma, words):
    with pytest.raises(ps.InputError, match=words):
        ps.smoothed(energy, sigma)
