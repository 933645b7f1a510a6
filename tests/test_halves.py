"""Chains that stay apart and drifts that all share are seen, and right runs are not called wrong."""

import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

import physscore as ps
from physscore.diagnostics.chains import effective_sample_size, mixing_verdict, r_hat
from physscore.diagnostics.halves import drift, outlying

ALPHA = 1e-6  # false alarms of every statistical test below


def autoregressive(shape, phi, seed):
    """x(t+1) = phi x(t) + sqrt(1 - phi^2) noise along the first axis, standard normal throughout."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    noise[1:] *= np.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise, axis=0)


def r_hat_verdict(draws):
    n, chains = draws.shape[:2]
    tail = effective_sample_size(draws, "tail")
    return mixing_verdict(r_hat(draws), effective_sample_size(draws), tail, draws=n, chains=chains)


@pytest.mark.parametrize("phi", [-0.4, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(20, 2000, 3), (50, 1000, 10), (1000, 4, 10), (400, 10, 300)])
def test_right_chains(shape, phi):
    """In units of its standard error no half chain of 10 draws' worth is 30 away: Student's t, 9 degrees."""
    draws = autoregressive(shape, phi, 1)
    found = outlying(draws)
    assert found.shape == shape[2:]
    assert found.max() < 30
    np.testing.assert_array_equal(outlying(np.sinh(3 * draws)), found)  # ranks know no scale
    chance = drift(draws)
    assert chance.min() * chance.size > ALPHA
    assert (chance >= 2.0 ** (1 - shape[1])).all()


@pytest.mark.parametrize("chains", [20, 64, 300])
def test_chances_of_drifts_are_uniform(chains):
    chance = drift(autoregressive((60, chains, 600), 0.6, 2))
    assert stats.kstest(chance, "uniform").pvalue > ALPHA


def test_visits_of_a_rare_place_are_not_stays():
    """1% of the time is spent far away, in visits of a tenth of a half chain on average."""
    n, chains, away, visit = 1000, 300, 0.01, 50.0
    uniform = np.random.default_rng(3).random((n, chains))
    there = uniform[0] < away
    draws = 0.13 * autoregressive((n, chains), 0.8, 4)
    for i in range(1, n):
        there = np.where(there, uniform[i] > 1 / visit, uniform[i] < away / (1 - away) / visit)
        draws[i] += there
    assert 5 < outlying(draws) < 30
    assert r_hat_verdict(draws).passed


def test_one_chain_that_stays_apart():
    draws = autoregressive((1000, 300, 2), 0.5, 5)
    draws[:, 7, 1] += 10
    assert r_hat_verdict(draws).passed
    found = outlying(draws)
    assert found[0] < 10
    assert found[1] > 40
    energies = 0.5 * (autoregressive((1000, 300, 2), 0.5, 6) ** 2).sum(axis=2)
    np.testing.assert_array_equal(outlying(draws, energies), found)
    energies[:, 7] += 10  # a way through a tail
    assert outlying(draws, energies)[1] < 10
    draws[:, :15, 1] += 10  # of too many
    energies[:, :15] += 10
    assert outlying(draws, energies)[1] > 40


def test_constant_and_lost_draws():
    draws = autoregressive((100, 20, 3), 0.0, 7)
    draws[..., 0] = 1.0
    draws[5, 3, 1] = np.nan
    for statistic, nothing in ((outlying, 0.0), (drift, 1.0)):
        found = statistic(draws)
        assert found[0] == nothing
        assert np.isnan(found[1])
        assert np.isfinite(found[2])
    assert drift(draws[:, :1])[2] == 1.0


def test_a_run_stuck_in_a_mode_is_not_mixed():
    """2 of 200 chains are in a mode that has half of the weight, 12 standard deviations away."""
    target = ps.GaussianMixture([0.5, 0.5], [[0.0, 0.0], [9.0, 0.0]], [0.5 * np.eye(2)] * 2)
    init = np.zeros((200, 2))
    init[:2, 0] = 9.0
    run = ps.sample(target, ps.MALA(), chains=200, steps=1000, init=init)
    assert r_hat_verdict(run.draws).passed
    assert run.mixing.reasons == [
        "has not mixed: a chain stays where others are not at component (0,): run longer or use a better "
        "kernel"
    ]


def test_a_run_that_all_chains_begin_far_away_is_not_mixed():
    kernel = ps.MALA(0.05, "identity")
    target = ps.Gaussian(0.0, 1.0, dim=2)
    for seed in range(2):
        settings = {"chains": 64, "steps": 2000, "init": [10.0, 10.0], "seed": seed}
        run = ps.sample(target, kernel, warmup=0, **settings)
        assert r_hat_verdict(run.draws).passed
        assert run.mixing.reasons[0].startswith("drifts: the chains' first halves are not where their second")
        assert ps.sample(target, kernel, warmup=500, **settings).mixing.passed
