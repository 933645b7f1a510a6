"""Energies by line integrals of scores, against energies that are known."""

import pickle

import numpy as np
import pytest

import physscore as ps
from physscore.energies import integrated
from physscore.energies.integrated import IntegratedScore

OMEGA = 0.7


def test_two_nodes_are_exact_on_a_gaussian():
    a = np.random.default_rng(0).normal(size=(4, 4))
    gaussian = ps.Gaussian(np.arange(4.0), a @ a.T + np.eye(4))
    x = gaussian.sample(20, seed=1)
    origin = np.ones(4)
    energy = IntegratedScore(gaussian, origin, nodes=2)
    expected = gaussian.energy(x) - gaussian.energy(origin[np.newaxis])
    np.testing.assert_allclose(energy.energy(x), expected, rtol=1e-12, atol=1e-13)
    assert energy.energy(origin[np.newaxis]) == 0
    assert energy.quadrature_error(x).max() < 1e-12 * np.abs(expected).max()
    np.testing.assert_array_equal(energy.score(x), gaussian.score(x))


@pytest.mark.parametrize(
    "target",
    [
        ps.GaussianMixture([1, 2, 3], [[2.0, 1.0], [-1.0, 0.5], [0.0, -2.0]], 0.6),
        ps.Funnel(4),
        ps.Phi4((4, 3), mass2=-1.0, coupling=0.5),
    ],
    ids=["mixture", "funnel", "phi4"],
)
@pytest.mark.parametrize("nodes", [8, 16])
def test_energies_are_right_within_the_stated_error(target, nodes):
    x = np.random.default_rng(2).normal(size=(50, *target.shape))
    origin = np.full(target.shape, 0.3)
    energy = IntegratedScore(target, origin, nodes)
    off = energy.energy(x) - (target.energy(x) - target.energy(origin[np.newaxis]))
    stated = energy.quadrature_error(x)
    rounding = 1e-12 * (1 + np.abs(target.energy(x)).max())
    # What twice the nodes still leave out is a small part of it.
    assert (np.abs(off) <= 1.05 * stated + rounding).all()
    assert stated.max() < 0.02


def test_few_nodes_have_a_large_stated_error():
    target = ps.GaussianMixture([1, 1], [[-3.0], [3.0]], 0.5)
    x = np.full((1, 1), 4.5)
    origin = np.array([-2.0])  # the score turns round sharply on the way
    few, many = IntegratedScore(target, origin, nodes=3), IntegratedScore(target, origin, nodes=200)
    assert few.quadrature_error(x) > 0.1
    assert many.quadrature_error(x) < 1e-9
    np.testing.assert_allclose(
        many.energy(x), target.energy(x) - target.energy(origin[np.newaxis]), atol=1e-10
    )


@pytest.mark.parametrize(
    "target", [ps.Gaussian(np.ones(3), [1.0, 2.0, 3.0]), ps.Phi4((4, 3), mass2=-1.0, coupling=0.5)]
)
def test_gradients_have_no_curl(target):
    x, y = np.random.default_rng(3).normal(size=(2, 30, *target.shape))
    energy = IntegratedScore(target, np.full(target.shape, -0.2))
    size = np.abs(energy.energy(x)).max() + np.abs(energy.energy(y)).max()
    assert np.abs(energy.curl(x, y)).max() < 1e-13 * size


def test_curl_of_a_rotation_is_twice_its_rate_times_the_area():
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    rotating = ps.from_functions(score=lambda x: -x + OMEGA * x @ turn.T, shape=2)
    origin = np.array([0.5, -1.0])
    energy = IntegratedScore(rotating, origin, nodes=1)
    x, y = np.random.default_rng(4).normal(size=(2, 30, 2))
    area = 0.5 * np.linalg.det(np.stack([x - origin, y - origin], axis=1))
    np.testing.assert_allclose(energy.curl(x, y), 2 * OMEGA * area, atol=1e-13)
    np.testing.assert_allclose(energy.curl(y, x), -2 * OMEGA * area, atol=1e-13)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_states_are_handed_over_within_a_bound(monkeypatch, at_once):
    counts = []

    def score(x):
        counts.append(len(x))
        return -x

    monkeypatch.setattr(integrated, "_AT_ONCE", 2 * at_once)
    energy = IntegratedScore(ps.from_functions(score=score, shape=2), nodes=3)
    x = np.random.default_rng(5).normal(size=(11, 2))
    np.testing.assert_allclose(energy.energy(x), 0.5 * (x**2).sum(1), rtol=1e-13)
    assert sum(counts) == 33
    assert max(counts) == min(at_once, 33)
    assert energy.energy(x[:0]).shape == (0,)


def test_float32_is_summed_in_float64():
    field = ps.GaussianRandomField(ps.Grid((6, 4), 5.0), ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
    energy = IntegratedScore(field)
    x = field.sample(3, seed=1)
    found, score = energy.energy_and_score(x.astype("f4"))
    assert (found.dtype, score.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(found, energy.energy(x), rtol=1e-5)
    assert energy.one_by_one
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(energy)).energy(x), energy.energy(x))


def test_adjusted_kernels_sample_a_score():
    """The mean of x^2 under the density of s = -x, within 5.5 standard errors: a false alarm in 2.6e7."""
    energy = IntegratedScore(ps.from_functions(score=lambda x: -x, shape=2), nodes=2)
    run = ps.sample(energy, ps.MALA(), chains=100, steps=200, warmup=100)
    square = (run.draws[...] ** 2).mean(axis=(0, 2))  # one number a chain: they are independent
    assert abs(square.mean() - 1) < 5.5 * square.std(ddof=1) / np.sqrt(len(square))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.sum,), "score is .*: it must be a Score"),
        ((ps.Funnel(3), np.zeros(2)), r"origin has shape \(2,\) .* of shape \(3,\)"),
        ((ps.Funnel(3), np.full(3, np.nan)), "origin has .* finite numbers"),
        ((ps.Funnel(3), None, 0), "nodes is 0: it must be a whole number of at least 1"),
        ((ps.Funnel(3), None, 2.5), "nodes is 2.5: it must be a whole number"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ps.InputError, match=message):
        IntegratedScore(*arguments)


def test_bad_states_are_refused():
    energy = IntegratedScore(ps.Funnel(3))
    with pytest.raises(ps.InputError, match=r"x has shape \(3,\)"):
        energy.energy(np.zeros(3))
    with pytest.raises(ps.InputError, match=r"y has shape \(2, 2\)"):
        energy.curl(np.zeros((2, 3)), np.zeros((2, 2)))
    with pytest.raises(ps.InputError, match="x has 2 states and y 1"):
        energy.curl(np.zeros((2, 3)), np.zeros((1, 3)))
