"""Calibration of posteriors: the exact ones pass as often as they should, wrong ones are named rightly."""

import json

import numpy as np
import pytest
from scipy import stats

from physscore.core import InputError
from physscore.diagnostics.calibration import (
    central_coverage,
    interval_coverage,
    simulation_based_calibration,
    tarp,
)
from physscore.diagnostics.rank_tests import chi2_of_ranks, ecdf_band, ecdf_of_ranks, shape_of_posterior

METHODS = [simulation_based_calibration, tarp, central_coverage]


def posteriors(n, draws=99, dim=1, seed=0, *, shift=0.0, width=1.0):
    """Truths from N(0, 1), data with unit noise, and draws of N(x/2, 1/2): exact for shift 0 and width 1."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, dim))
    x = truth + rng.normal(size=(n, dim))
    scatter = rng.normal(size=(n, draws, dim))
    return truth, x[:, None] / 2 + np.sqrt(0.5) * (shift + width * scatter)


# --- ranks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_ranks"), [(25, 10), (300, 100), (80, 1000)])
def test_rank_tests_are_exact(n, n_ranks):
    rng, repeats = np.random.default_rng(1), 200
    ranks = rng.integers(0, n_ranks, size=(repeats, n))
    found = np.array([(chi2_of_ranks(r, n_ranks)[2], ecdf_of_ranks(r, n_ranks).p_value) for r in ranks])
    for column in found.T:
        for level in (0.01, 0.1):
            count = (column <= level).sum()
            assert abs(count - level * repeats) < 4.5 * np.sqrt(level * repeats) + 0.15 * level * repeats
    # The law of the ECDF is exact: its p-value cannot be at or below a value more often than that.
    p = np.sort(found[:, 1])
    excess = np.arange(1, repeats + 1) / repeats - p
    assert excess.max() < 2.2 / np.sqrt(repeats)  # Kolmogorov-Smirnov, a false alarm in 16 000


def test_ecdf_against_counts_by_hand():
    ranks = np.array([0, 0, 1, 3, 3])
    found = ecdf_of_ranks(ranks, 4)
    np.testing.assert_allclose(found.levels, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(found.share, [0.4, 0.6, 0.6])
    # All 4^5 sequences of ranks, each as probable: the share of those with so small a least tail.
    every = np.stack(np.meshgrid(*[np.arange(4)] * 5), axis=-1).reshape(-1, 5)
    counts = np.stack([(every < i).sum(axis=1) for i in (1, 2, 3)], axis=1)
    law = stats.binom(5, [0.25, 0.5, 0.75])
    least = np.minimum(1, 2 * np.minimum(law.cdf(counts), law.sf(counts - 1))).min(axis=1)
    ours = [(ranks < i).sum() for i in (1, 2, 3)]
    tail = np.minimum(1, 2 * np.minimum(law.cdf(ours), law.sf(np.array(ours) - 1))).min()
    assert found.p_value == pytest.approx((least <= tail * (1 + 1e-9)).mean())


def test_band_holds_the_whole_ecdf():
    levels, lower, upper = ecdf_band(150, 100, 0.9)
    rng, repeats = np.random.default_rng(2), 3000
    inside = 0
    for _ in range(repeats):
        share = np.searchsorted(np.sort(rng.integers(0, 100, 150)), np.rint(levels * 100)) / 150
        inside += bool(((share >= lower - 1e-9) & (share <= upper + 1e-9)).all())
    assert -4.5 < (inside - 0.9 * repeats) / np.sqrt(0.09 * repeats) < 4.5 + 0.02 * repeats / 16
    assert ecdf_of_ranks(rng.integers(0, 1000, 50_000), 1000).p_value > 1e-6  # and many ranks take no time


@pytest.mark.parametrize("draws", [19, 399])
def test_shape_of_posteriors(draws):
    for shift, width in ((0.0, 1.0), (0.4, 1.0), (-0.4, 1.0), (0.0, 0.85), (0.0, 1.3)):
        truth, drawn = posteriors(4000, draws, seed=3, shift=shift, width=width)
        ranks = (drawn < truth[:, None]).sum(axis=1)[:, 0]
        shape = shape_of_posterior(ranks, draws + 1)
        assert 0.01 < shape.shift_error < 0.04
        assert shape.shift == pytest.approx(shift / width, abs=4.5 * shape.shift_error)
        assert shape.width == pytest.approx(width, abs=4.5 * shape.width_error)


# --- methods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dim", [1, 3])
def test_right_posteriors_pass(method, dim):
    repeats = 40
    p = np.array([method(*posteriors(100, 49, dim, seed=i)).p_value for i in range(repeats)])
    for level in (0.03, 0.3):  # 6 tests of 2 levels; probabilities of several tests together are bounds
        excess = ((p <= level).sum() - level * repeats) / np.sqrt(level * (1 - level) * repeats)
        assert excess < 4.0, (level, excess)
    if method is tarp:
        assert stats.kstest(p, "uniform").pvalue > 1e-5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dim", [1, 2])
def test_narrow_and_wide_posteriors_are_named(method, dim):
    for width, words in ((0.8, "too narrow"), (1.25, "too wide")):
        found = method(*posteriors(1500, dim=dim, seed=5, width=width))
        assert not found.passed
        assert words in found.message
        assert "biased" not in found.message
        assert str(found).startswith("FAILED: ")


@pytest.mark.parametrize("method", METHODS)
def test_biased_posteriors_are_named(method):
    shift = 1.0 if method is tarp else 0.5  # references lie on both sides, and hardly see a bias
    for sign, words in ((1, "biased high"), (-1, "biased low")):
        found = method(*posteriors(2000, seed=6, shift=sign * shift))
        assert not found.passed
        assert words in found.message
        assert "too wide" not in found.message
        assert "too narrow" not in found.message


def test_biased_and_narrow_at_once():
    found = simulation_based_calibration(*posteriors(1500, seed=7, shift=0.4, width=0.7))
    assert "biased high by 0.6" in found.message  # 0.4 / 0.7, and its error is 0.04
    assert "too narrow: about 0.6" in found.message or "too narrow: about 0.7" in found.message


def test_only_the_wrong_parameter_is_named():
    truth, draws = posteriors(1000, dim=3, seed=8)
    draws[:, :, 1] += 0.5
    found = simulation_based_calibration(truth, draws, names=["omega_m", "sigma_8", "h"])
    assert found.message.startswith("sigma_8: biased high")
    assert "omega_m" not in found.message
    assert "h:" not in found.message
    text = json.dumps(found.as_dict())
    assert json.loads(text)["parameters"]["sigma_8"]["shift"] > 0.5
    assert found.ranks.shape == (1000, 3)


def test_tarp_sees_correlations_that_ranks_cannot():
    rng, n = np.random.default_rng(9), 4000
    mix = np.linalg.cholesky([[1.0, 0.9], [0.9, 1.0]])
    mean = 3 * rng.normal(size=(n, 2))
    truth = mean + rng.normal(size=(n, 2)) @ mix.T
    draws = mean[:, None] + rng.normal(size=(n, 99, 2))  # right margins, without the correlation
    assert simulation_based_calibration(truth, draws).passed
    found = tarp(truth, draws)
    assert not found.passed
    assert "not how they go together" in found.message
    levels, coverage = found.ecdf()
    assert np.abs(coverage - levels).max() > 0.04
    # A posterior that is the prior passes, unless the references know the data.
    truth, draws = posteriors(1500, seed=10)
    prior = rng.normal(size=draws.shape)
    assert tarp(truth, prior).passed
    data = draws.mean(axis=1)
    assert not tarp(truth, prior, references=data).passed
    assert tarp(truth, draws, references=data + 1).passed


def test_chains_are_thinned():
    rng, n, length, rho = np.random.default_rng(11), 600, 400, 0.9
    truth = rng.normal(size=(n, 1))
    mean = (truth + rng.normal(size=(n, 1))) / 2
    noise = rng.normal(size=(n, length, 1))
    chain = np.empty((n, length, 1))
    chain[:, 0] = noise[:, 0]
    for i in range(1, length):
        chain[:, i] = rho * chain[:, i - 1] + np.sqrt(1 - rho**2) * noise[:, i]
    draws = mean[:, None] + np.sqrt(0.5) * chain
    # Few draws of a chain, as they are, look like a posterior that is too narrow.
    assert "too narrow" in simulation_based_calibration(truth, draws[:, :30]).message
    found = simulation_based_calibration(truth, draws, thin="auto")
    assert found.passed
    assert 10 <= found.details["thinned_by"] <= 40  # its autocorrelation time is 19
    assert simulation_based_calibration(truth, draws, thin=20).n_ranks == 21


def test_ties_have_no_favourite():
    rng = np.random.default_rng(12)
    truth, draws = rng.integers(0, 3, size=1000), rng.integers(0, 3, size=(1000, 19))
    found = simulation_based_calibration(truth, draws)
    assert found.passed
    assert set(np.unique(found.ranks)) == set(range(20))


def test_intervals():
    rng, n = np.random.default_rng(13), 2000
    truth = rng.normal(size=n)
    centre = truth + rng.normal(size=n)

    def found(half, shift=0.0, level=0.68):
        return interval_coverage(truth, centre + shift - half, centre + shift + half, level=level)

    exact = stats.norm.ppf(0.84)
    assert found(exact).passed
    assert "too narrow: intervals of 68.0% hold the truth in 5" in found(0.8 * exact).message
    assert "too wide" in found(1.25 * exact).message
    assert "biased high" in found(exact, 0.3).message
    assert "biased low" in found(exact, -0.3).message
    assert found(1.645, level=0.9).passed
    row = found(exact).details["intervals"][0]
    assert row["expected_from"] < row["coverage"] < row["expected_to"]
    p = [
        interval_coverage(t, c - exact, c + exact).p_value
        for t, c in ((lambda t: (t, t + rng.normal(size=100)))(rng.normal(size=100)) for _ in range(400))
    ]
    assert (np.array(p) <= 0.05).sum() < 20 + 4.5 * np.sqrt(19)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tarp(np.zeros(30), np.zeros((30, 9, 2))), r"draws has shape \(30, 9, 2\)"),
        (lambda: tarp(np.zeros(10), np.zeros((10, 9))), "truth holds 10 simulations"),
        (lambda: tarp(np.zeros(30), np.full((30, 9), np.nan)), "not finite"),
        (
            lambda: tarp(np.zeros(30), np.zeros((30, 9)), references=np.zeros(5)),
            r"references has shape \(5,\)",
        ),
        (lambda: central_coverage(np.zeros((30, 0)), np.zeros((30, 9, 0))), "it holds no parameter"),
        (lambda: simulation_based_calibration(np.zeros(30), np.zeros((30, 9)), thin=7), "thin is 7"),
        (
            lambda: simulation_based_calibration(np.zeros(30), np.zeros((30, 9)), thin="some"),
            "thin is 'some'",
        ),
        (lambda: simulation_based_calibration(np.zeros(30), np.zeros((30, 9)), names=["a", "b"]), "2 names"),
        (lambda: central_coverage(np.zeros(30), np.zeros((30, 9)), levels=(1.0,)), "levels holds 1.0"),
        (lambda: interval_coverage(np.zeros(30), np.ones(30), np.zeros(30)), "lower is above upper"),
        (lambda: interval_coverage(np.zeros(30), np.zeros(30), np.zeros(9)), "they must be alike"),
        (lambda: interval_coverage(np.zeros(30), np.zeros(30), np.ones(30), level=1.5), "level is 1.5"),
        (lambda: ecdf_band(100, 10, 0.0), "level is 0.0"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_truth_that_is_not_a_number_is_in_no_interval():
    with pytest.raises(InputError, match="truth holds nan"):
        interval_coverage(np.full(30, np.nan), np.zeros(30), np.ones(30))
    with pytest.raises(InputError, match="levels is empty"):
        central_coverage(np.zeros((30, 1)), np.random.default_rng(0).normal(size=(30, 20, 1)), levels=[])
