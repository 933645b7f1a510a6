"""The test of means: the exact laws of Student, Hotelling and of dealing, for few units and skewed ones."""

import math

import numpy as np
import pytest
from scipy import stats

from physscore.core import InputError
from physscore.diagnostics.mean_test import UnitMeans, mean_test
from physscore.diagnostics.set_comparison import _test as compare_units


def test_single_entries_are_the_tests_of_student_and_welch():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(9, 1)), 2 * rng.normal(size=(9, 1)) + 0.4
    for options, expected in (
        ({"paired": True}, stats.ttest_rel(a[:, 0], b[:, 0])),
        ({"pooled": True}, stats.ttest_ind(a[:, 0], b[:, 0])),
        ({}, stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)),
    ):
        found = mean_test(a, b, **options)
        assert found.p_value == pytest.approx(expected.pvalue)
        assert found.chi2 == pytest.approx(expected.statistic**2)


def test_a_pooled_test_of_many_entries_is_that_of_hotelling():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(13, 3)) + 0.3
    d = a.mean(axis=0) - b.mean(axis=0)
    pooled = (19 * np.cov(a.T) + 12 * np.cov(b.T)) / 31
    t2 = d @ np.linalg.solve(pooled, d) / (1 / 20 + 1 / 13)
    found = mean_test(a, b, pooled=True)
    assert found.chi2 == pytest.approx(t2)
    assert found.p_value == pytest.approx(stats.f.sf(t2 * 29 / (31 * 3), 3, 29))
    mixing = rng.normal(size=(3, 3))
    assert mean_test(a @ mixing, b @ mixing, pooled=True).chi2 == pytest.approx(t2)  # whatever the units


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_dealing_leaves_the_statistic_as_it_is(pooled, weighted):
    rng = np.random.default_rng(8)
    mix = np.array([[1.0, 0.7], [0.0, 1.0]])
    sets = [
        UnitMeans(rng.normal(size=(n, 2)) @ mix, rng.integers(1, 5, size=n) if weighted else None)
        for n in (40, 25)
    ]
    law = mean_test(*sets, pooled=pooled)
    dealt = mean_test(*sets, pooled=pooled, dealt=True)
    assert (law.law, dealt.law) == ("F", "dealt")
    assert law.entries == dealt.entries == 2
    assert dealt.chi2 == pytest.approx(law.chi2)
    if not pooled:
        d = sets[0].mean - sets[1].mean
        assert law.chi2 == pytest.approx(d @ np.linalg.solve(sum(each.covariance for each in sets), d))
    # For normal vectors both laws nearly agree.
    assert abs(law.p_value - dealt.p_value) < 0.1


DESIGNS = [
    # normal vectors with correlated entries: number of units, entries, ratio of scatters, options
    (14, 14, 3, 1.0, {"paired": True}),
    (40, 9, 5, 1.0, {"pooled": True}),
    (60, 8, 1, 3.0, {}),
    (60, 20, 3, 0.3, {}),
    (25, 25, 3, 2.0, {}),
    (30, 10, 4, 1.0, {"pooled": True, "dealt": True, "permutations": 199}),
    (30, 10, 2, 1.0, {"dealt": True, "permutations": 199}),
    (20, 8, 16, 1.0, {"dealt": True, "permutations": 199}),  # without correlations
    (20, 8, 16, 1.0, {"pooled": True, "dealt": True, "permutations": 199}),
]
BOUNDS = [(60, 8, 16, 3.0, {}), (10, 10, 6, 1.0, {"pooled": True}), (9, 9, 5, 1.0, {"paired": True})]


@pytest.mark.parametrize(("n", "m", "p", "ratio", "options"), DESIGNS + BOUNDS)
def test_probabilities_are_uniform(n, m, p, ratio, options):
    rng, repeats = np.random.default_rng(4), 500
    mix = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(np.arange(p), np.arange(p))))
    skew = "dealt" in options  # dealing is exact for any law
    found = []
    for _ in range(repeats):
        a, b = rng.normal(size=(n, p)), ratio * rng.normal(size=(m, p))
        if skew:
            a, b = np.exp(a), np.exp(b)
        found.append(mean_test(a @ mix.T, b @ mix.T, **options).p_value)
    for level in (0.01, 0.1, 0.5):  # 33 comparisons, a false alarm in 4500
        excess = np.sum(np.array(found) <= level) - level * repeats
        scatter = math.sqrt(level * (1 - level) * repeats)
        assert excess < 4.5 * scatter, (level, excess)
        if (n, m, p, ratio, options) in DESIGNS:
            assert excess > -4.5 * scatter, (level, excess)


@pytest.mark.parametrize("swapped", [False, True])
def test_single_maps_are_dealt_in_blocks_against_groups(swapped):
    # Skewed maps, 400 single ones against 12 groups of 30: units as they are would not be alike.
    rng, repeats = np.random.default_rng(9), 300
    found = []
    for i in range(repeats):
        single = UnitMeans(np.exp(rng.normal(size=(400, 3))))
        grouped = UnitMeans(np.exp(rng.normal(size=(12, 30, 3))).mean(axis=1), np.full(12, 30.0))
        sets = (grouped, single) if swapped else (single, grouped)
        found.append(compare_units(*sets, "apart", permutations=99, seed=i).p_value)
    for level in (0.1, 0.5):  # without blocks 0.00 and 0.10 of them are below
        excess = np.sum(np.array(found) <= level) - level * repeats
        assert abs(excess) < 4.5 * math.sqrt(level * (1 - level) * repeats)


def test_weights_are_numbers_of_maps():
    rng, repeats = np.random.default_rng(5), 4000
    sizes = np.array([6, 6, 8, 10, 10, 10, 10])
    place = np.repeat(np.arange(7), sizes)
    variances = []
    for one in rng.normal(size=(repeats, 60)):
        units = UnitMeans(np.bincount(place, one)[:, None] / sizes[:, None], sizes)
        assert units.mean[0] == pytest.approx(one.mean())
        assert units.error[0] == pytest.approx(math.sqrt(units.covariance[0, 0]))
        variances.append(units.covariance[0, 0])
    ratio = np.array(variances) * 60  # the mean of 60 independent maps
    # Where weights differ the estimate is right for units of equal scatter, and here to 1%.
    assert abs(ratio.mean() - 1) < 0.01 + 4.5 * ratio.std() / math.sqrt(repeats)


def test_blocks_keep_the_mean():
    units = UnitMeans(np.random.default_rng(6).normal(size=(23, 2)), np.arange(1, 24))
    blocks = units.blocks(5)
    assert len(blocks) == 4
    np.testing.assert_allclose(blocks.mean, units.mean)
    assert blocks.weight.sum() == units.weight.sum()


def test_a_few_units_see_what_they_can():
    rng = np.random.default_rng(7)
    found = mean_test(rng.normal(size=(4, 30)), rng.normal(size=(4, 30)) + 9)
    assert not found.joint
    assert found.p_value < 1e-4
    # One entry of thirty, with neighbours that would hide it in an average.
    shift = np.zeros(30)
    shift[10], shift[11] = 40, -40
    for options in ({}, {"pooled": True}, {"paired": True}):
        found = mean_test(rng.normal(size=(8, 30)), rng.normal(size=(8, 30)) + shift, **options)
        assert not found.joint
        assert found.p_value < 1e-5, options
    for pooled in (True, False):
        found = mean_test(
            rng.normal(size=(12, 30)), rng.normal(size=(9, 30)) + shift, pooled=pooled, dealt=True
        )
        assert not found.joint
        assert found.p_value == 1e-4
    constant = np.ones((5, 2))
    assert mean_test(constant, constant).p_value == 1
    assert mean_test(constant, constant + 1e-3).p_value == 0


@pytest.mark.parametrize("options", [{"pooled": True, "dealt": True}, {}, {"paired": True}])
def test_counts_of_few_units_agree_by_chance(options):
    """So that an entry does not scatter, and yet differs: that was p = 0, of 2 units in half of all sets."""
    rng, repeats = np.random.default_rng(10), 200
    for n, m in ((2, 2), (3, 3)) if "paired" in options else ((2, 2), (2, 5), (4, 4)):
        found = [
            mean_test(rng.poisson(0.5, (n, 9)), rng.poisson(0.5, (m, 9)), discrete=True, **options).p_value
            for _ in range(repeats)
        ]
        assert np.mean(np.array(found) <= 0.01) < 0.01 + 4.5 * math.sqrt(0.01 / repeats)  # once in 10^5
    # What always differs is found by enough units.
    same, more = np.zeros((16, 9)), np.zeros((16, 9))
    more[:, 4] = 1 / 256
    for scatter in (0.0, 1.0):
        noise = scatter * rng.normal(size=(2, 16, 9)) * (np.arange(9) > 6)
        assert mean_test(same + noise[0], more + noise[1], discrete=True, **options).p_value < 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: UnitMeans(np.zeros((1, 3))), "2 units or more"),
        (lambda: UnitMeans(np.full((3, 3), np.nan)), "not finite"),
        (lambda: UnitMeans(np.zeros((3, 3)), np.zeros(3)), "weights"),
        (lambda: mean_test(np.zeros((3, 2)), np.zeros((3, 3))), "a has 2 entries and b 3"),
        (lambda: mean_test(np.zeros((3, 2)), np.zeros((4, 2)), paired=True), "pairs need the same units"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
