"""Replica exchange: far modes get their weights, the ladder sets itself, posteriors are exact.

Ladders are independent: the mean over them is compared with the exact value. A test fails if a z-score
exceeds 5.2, by chance less than once in 1e5 for 100 ladders; there are fewer than 20.
"""

import math

import numpy as np
import pytest

import physscore as ps
from physscore.sampling.tempering import temper

LIMIT = 5.2
WEIGHTS, MEANS = np.array([0.2, 0.8]), np.array([[-6.0, 0.0], [6.0, 0.0]])
FAR = ps.GaussianMixture(WEIGHTS, MEANS, 0.5)
WIDE = ps.Gaussian(0.0, 36.0, dim=2)


def z_score(values, exact):
    """Return z-scores of the mean of values (kept, ladders, ...)."""
    means = values.mean(axis=0)
    return (means.mean(axis=0) - exact) / (means.std(axis=0, ddof=1) / math.sqrt(len(means)))


@pytest.fixture(scope="module")
def run():
    return temper(FAR, WIDE, chains=100, steps=300, warmup=200, seed=1)


def test_far_modes_get_their_weights(run):
    left = (run.draws[..., 0] < 0).astype(float)
    assert abs(z_score(left, 0.2)) < LIMIT
    second = WEIGHTS @ MEANS**2 + 0.5
    assert np.abs(z_score(run.draws**2, second)).max() < LIMIT
    assert run.mixing.passed
    assert run.round_trips > 100
    np.testing.assert_allclose(run.energies[-1], FAR.energy(run.draws[-1]))
    alone = ps.sample(FAR, chains=100, steps=300, warmup=200, seed=1)
    assert set((alone.draws[..., 0] < 0).mean(axis=0)) == {0.0, 1.0}  # no chain ever changes its mode
    assert not alone.mixing.passed


def test_ladder_equalises_the_rejections(run):
    assert (run.betas[0], run.betas[-1]) == (0.0, 1.0)
    assert (np.diff(run.betas) > 0).all()
    assert len(run.rejection) == len(run.betas) - 1
    assert run.barrier == pytest.approx(run.rejection.sum())
    # It was set by what a shorter warm-up measured: equal within a factor of two.
    assert run.rejection.max() < 2 * run.rejection.min()
    assert 0.3 < run.rejection.mean() < 0.7


def test_posterior_with_bounds():
    prior = ps.Parameters(a=ps.Normal(0.0, 2.0), b=ps.Uniform(-1.0, 2.0))
    target = prior + ps.GaussianNoise([1.0, 5.0], [0.5, 1e3])  # which tells nothing about b
    run = temper(target, chains=100, steps=60, warmup=60)
    assert run.names == ["a", "b"]
    mean, variance = 4 / 4.25, 1 / 4.25
    z = (run.draws - [mean, 0.5]) / np.sqrt([variance, 0.75])
    assert np.abs(z_score(z, 0.0)).max() < LIMIT
    assert np.abs(z_score(z**2, 1.0)).max() < LIMIT


def test_same_seed_same_run_and_thin():
    options = {"chains": 3, "warmup": 20, "rungs": 3}
    every = temper(FAR, WIDE, steps=8, seed=2**64 - 1, **options)
    assert len(every.betas) == 3
    thinned = temper(FAR, WIDE, steps=8, seed=2**64 - 1, thin=3, **options)
    np.testing.assert_array_equal(thinned.draws, every.draws[2::3])
    assert np.abs(temper(FAR, WIDE, steps=8, seed=1, **options).draws - every.draws).min() > 0


REFUSED = {
    "chains": ({"chains": 0}, "chains is 0: it must be a whole number of at least 1"),
    "steps": ({"steps": "many"}, "steps is 'many'"),
    "warmup": ({"warmup": 5}, "warmup is 5: it must be a whole number of at least 10"),
    "rungs": ({"rungs": 1}, "rungs is 1: it must be a whole number of at least 2"),
    "swaps": ({"swap_every": 0}, "swap_every is 0"),
    "thin": ({"steps": 10, "thin": 11}, "thin is 11 and steps 10: nothing would be kept"),
    "seed": ({"seed": -1}, "seed is -1"),
    "kernel": ({"kernel": "mala"}, "kernel is 'mala': it must be one such as MALA"),
    "target": ({"target": np.sin}, "replica exchange needs an energy"),
    "score": ({"target": ps.from_functions(score=np.negative, shape=2)}, "replica exchange needs an energy"),
    "reference": ({"reference": FAR}, "reference is GaussianMixture.*: it must be a prior"),
    "reference's shape": (
        {"reference": ps.Gaussian(0.0, 1.0, dim=3)},
        r"reference has states of shape \(3,\), the target \(2,\)",
    ),
    "no reference": (
        {"target": ps.Phi4((4, 4), mass2=1.0, coupling=1.0), "reference": None},
        "reference is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence(name):
    change, message = REFUSED[name]
    with pytest.raises(ps.InputError, match=message) as caught:
        temper(**{"target": FAR, "reference": WIDE} | change)
    assert "\n" not in str(caught.value)


def test_a_reference_that_fixes_what_the_target_moves():
    reference = ps.GaussianRandomField(ps.Grid((4, 4), 4.0), lambda k: 1 / (1 + k**2))
    with pytest.raises(ps.InputError, match="fixes 1 modes that the target does not"):
        temper(ps.Phi4((4, 4), mass2=1.0, coupling=0.0), reference, chains=2, steps=10)


def test_ladders_begin_where_the_target_has_an_energy():
    """The default reference reaches beyond the walls; means within 5.5 of their errors."""
    uniform = temper(ps.Parameters(a=ps.Uniform(0.0, 1.0)), chains=8, steps=400, seed=1)
    assert abs(uniform.mean[0] - 0.5) < 5.5 * uniform.error[0]
    target = ps.Parameters(a=ps.Normal(0.0, 1.0)) + ps.PoissonCounts([3], 3.0, link="linear")
    counts = temper(target, chains=8, steps=400, seed=1)
    a = np.linspace(-1, 8, 100_001)[1:]
    density = np.exp(-0.5 * a**2 - 3 * (1 + a) + 3 * np.log(1 + a))
    assert abs(counts.mean[0] - (a * density).sum() / density.sum()) < 5.5 * counts.error[0]
    never = ps.from_functions(energy=lambda x: np.full(len(x), np.inf), score=lambda x: -x, shape=1)
    with pytest.raises(ps.InputError, match="has no draw, of 200"):
        temper(never, chains=2, steps=10)


def test_steps_that_ran_away_are_few_of_all_there_were(tmp_path):
    """Into the light tails of x^6 a few per cent of the steps run away, however many there are to a round."""
    target = ps.from_functions(energy=lambda x: (x**6).sum(1), score=lambda x: -6 * x**5, shape=2)
    run = ps.temper(target, kernel=ps.MALA(0.7), chains=16, steps=200, swap_every=5, seed=1)
    assert run.swap_every == 5
    assert 0.02 < run.divergent.mean() / 1000 < 0.05
    assert run.n_divergent == 0
    ps.save(tmp_path / "run.h5", run)
    assert ps.load(tmp_path / "run.h5").n_divergent == 0
