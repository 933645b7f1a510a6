"""Two-sample tests: exact for one law, whatever it is, and with power for two."""

import json

import numpy as np
import pytest

from physscore.core import InputError
from physscore.diagnostics.permutations import deals
from physscore.diagnostics.two_sample import classifier_test, energy_test

TESTS = [classifier_test, energy_test]


def quick(test):
    return {"n_random": 30, "folds": 3} if test is classifier_test else {}


def test_every_deal_is_as_probable():
    counts, total = {}, 0
    for chosen in deals(5, 2, 20_000, 1):
        assert (chosen.sum(axis=1) == 2).all()
        for row in np.packbits(chosen, axis=1)[:, 0]:
            counts[row] = counts.get(row, 0) + 1
            total += 1
    assert total == 20_000
    assert len(counts) == 10
    found = np.array(list(counts.values()))
    assert (((found - 2000) ** 2) / 2000).sum() < 40  # chi2 of 9 degrees of freedom: once in 100 000
    blocks = list(deals(3_000_000, 1000, 3, 1))
    assert [len(block) for block in blocks] == [1, 1, 1]
    assert all(block.sum() == 1000 for block in blocks)


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("sizes", [(30, 30), (15, 40)])
def test_sets_of_one_law_pass(test, sizes):
    # Heavy tails, discrete values and unequal sets: dealing is exact for all.
    rng, repeats = np.random.default_rng(1), 250
    found = []
    for i in range(repeats):
        x, y = (np.round(rng.standard_t(2, size=(n, 2)), 1) for n in sizes)
        found.append(test(x, y, permutations=39, seed=i, **quick(test)).p_value)
    for level in (0.05, 0.25, 0.5):  # 12 comparisons, a false alarm in 12 000
        count = np.sum(np.array(found) <= level + 1e-9)
        assert abs(count - level * repeats) < 4.5 * np.sqrt(level * (1 - level) * repeats), (level, count)


PLANTED = {
    "shift": lambda rng: rng.normal(size=(400, 4)) + 0.35,
    "scale": lambda rng: 1.5 * rng.normal(size=(400, 4)),
    "two modes": lambda rng: rng.choice([-1, 1], size=(400, 1)) * 0.95 + 0.312 * rng.normal(size=(400, 4)),
}


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("kind", PLANTED)
def test_differences_are_found(test, kind):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 4))
    found = test(x, PLANTED[kind](rng))
    assert not found.passed
    assert found.p_value == 1 / 2000
    assert found.statistic > found.typical
    assert str(found).startswith("FAILED: ")
    same = test(x, rng.normal(size=(300, 4)))
    assert same.passed
    assert ("cannot tell" in same.message) or ("as near as" in same.message)
    assert json.loads(json.dumps(found.as_dict()))["passed"] is False


def test_a_classifier_sees_correlations():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 2))
    y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=500)
    found = classifier_test(x, y)
    assert not found.passed
    assert "tells the sets apart" in found.message
    # The best classifier of these two laws, by their likelihood ratio, is right in this share of draws.
    fresh = rng.normal(size=(200_000, 2)), rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=200_000)
    ratio = [
        0.5 * np.log(1 - 0.36) + 0.3 / 0.64 * (0.6 * (z**2).sum(axis=1) - 2 * z[:, 0] * z[:, 1])
        for z in fresh
    ]
    best = ((ratio[0] > 0).mean() + (ratio[1] < 0).mean()) / 2
    accuracy = float(found.message.split("right in ")[1].split("%")[0]) / 100
    assert best - 0.06 < accuracy < best + 0.04
    # Linear in the draws it cannot see them; in their product it can.
    assert classifier_test(x, y, n_random=0).passed
    assert not classifier_test(x, y, n_random=0, features=lambda z: z[:, :1] * z[:, 1:]).passed


def test_energy_distance_against_its_definition():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(12, 3, 2)), rng.normal(size=(17, 3, 2)) + 0.3

    def mean_distance(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=(2, 3))).mean()

    expected = 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)
    assert energy_test(x, y, standardise=False, permutations=9).statistic == pytest.approx(expected)
    groups = (np.arange(12) // 3, np.arange(17) // 2)
    grouped = energy_test(x, y, standardise=False, permutations=9, groups=groups)
    assert grouped.statistic == pytest.approx(expected)


@pytest.mark.parametrize("test", TESTS)
def test_draws_of_one_group_stay_together(test):
    rng, repeats = np.random.default_rng(5), 60
    naive, right = [], []
    for i in range(repeats):
        x, y = (np.repeat(rng.normal(size=(8, 2)), 5, axis=0) + 0.2 * rng.normal(size=(40, 2)) for _ in "xy")
        labels = np.repeat(np.arange(8), 5)
        naive.append(test(x, y, permutations=99, seed=i, **quick(test)).p_value)
        right.append(test(x, y, permutations=99, seed=i, groups=(labels, labels), **quick(test)).p_value)
    assert np.mean(np.array(naive) <= 0.05) > 0.3  # as if there were forty
    assert (np.array(right) <= 0.05).sum() <= 3 + 4.5 * np.sqrt(3)


@pytest.mark.parametrize("test", TESTS)
def test_results_depend_on_the_seed_alone(test):
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(50, 3))
    assert test(x, y, seed=1, permutations=199) == test(x, y, seed=1, permutations=199)
    assert test(x, y, seed=1, permutations=199) != test(x, y, seed=2, permutations=199)


X = np.random.default_rng(7).normal(size=(20, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: energy_test(X[:5], X), r"x has shape \(5, 3\)"),
        (lambda: energy_test(X, X[:, :2]), "x has 3 components and y 2"),
        (lambda: energy_test(X, np.full((20, 3), np.nan)), "y holds values that are not finite"),
        (lambda: energy_test(X, X, groups=(np.zeros(20), np.arange(20))), "1 and 20 distinct labels"),
        (lambda: energy_test(X, X, groups=(np.arange(3), np.arange(20))), "labels of x"),
        (lambda: energy_test(np.zeros((17_000, 1)), X[:, :1]), "the energy distance takes 16384 at most"),
        (lambda: energy_test(X, X, permutations=0), "permutations is 0"),
        (lambda: classifier_test(X, X, folds=1), "folds is 1"),
        (lambda: classifier_test(X, X, n_random=-1), "n_random is -1"),
        (lambda: classifier_test(np.ones((20, 2)), np.ones((20, 2))), "x and y do not vary"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_draws_that_are_mostly_alike_are_told_apart():
    """Half of all distances are 0: no length of the random cosines comes out of their median."""
    generator = np.random.default_rng(0)
    x, y = (
        np.where(generator.random((400, 1)) < share, value, 0.0) for share, value in ((0.05, 1), (0.25, 50))
    )
    assert not classifier_test(x, y).passed
    x, y = (np.where(generator.random((400, 1)) < 0.1, 1.0, 0.0) for _ in range(2))
    assert classifier_test(x, y).passed
