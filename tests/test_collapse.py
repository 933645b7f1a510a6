"""The monitor of collapse against Wishart's law, known entropies, and sets that are or are not narrower.

A z-score fails above 4.5, by chance once in 1.5e5; there are fewer than 60. Rates of false alarms and root
mean squares are of fixed seeds.
"""

import json
import math

import numpy as np
import pytest
from scipy import stats

import physscore as ps
from physscore.diagnostics.collapse import collapse, differential_entropy, log_det_covariance

LIMIT = 4.5
RNG = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def from_the_start():
    """Each test draws the same numbers, whichever run before it."""
    RNG.bit_generator.state = np.random.default_rng(8).bit_generator.state


def normal(n, d):
    return RNG.normal(size=(n, d)) @ (np.eye(d) + 0.5) + 3.0


@pytest.mark.parametrize(("n", "d"), [(4, 3), (30, 5), (400, 2), (50, 45)])
def test_the_log_determinant_follows_wishart(n, d):
    matrix = RNG.normal(size=(d, d))
    covariance = matrix @ matrix.T + 0.1 * np.eye(d)
    lower = np.linalg.cholesky(covariance)
    found = [log_det_covariance(RNG.normal(size=(n, d)) @ lower.T + 7, covariance) for _ in range(400)]
    pulls = np.array([one.pull for one in found])
    assert abs(pulls.mean()) * np.sqrt(400) < LIMIT
    kurtosis = stats.kurtosis(pulls)  # few states: the law is skewed
    assert abs((pulls**2).mean() - 1) * np.sqrt(400 / (2 + max(kurtosis, 0))) < LIMIT
    assert found[0].expected < np.linalg.slogdet(covariance)[1]  # a sample covariance is too small in volume


def test_one_dimension_is_a_chi_square():
    found = log_det_covariance([[1.0], [2.0], [6.0]], [2.0])
    assert found.value == pytest.approx(np.log(7.0))
    assert found.expected == pytest.approx(np.log(2.0) + np.log(2 / 2) - np.euler_gamma)
    assert found.error == pytest.approx(np.pi / np.sqrt(6))
    assert log_det_covariance(np.ones((9, 2)), [1.0, 1.0]).value == -math.inf


KNOWN = {
    "normal": (normal, lambda d: d / 2 * np.log(2 * np.pi * np.e) + np.log(1 + d / 2)),
    "uniform": (lambda n, d: RNG.uniform(0, 3, size=(n, d)), lambda d: d * np.log(3)),
    "exponential": (lambda n, d: RNG.exponential(size=(n, d)), lambda d: float(d)),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("d", [1, 2])
def test_known_entropies(name, d):
    draw, entropy = KNOWN[name]
    found = [differential_entropy(draw(600, d)) for _ in range(80)]
    z = np.array([(one.value - entropy(d)) / one.error for one in found])
    assert 0.75 < z.std() < 1.45  # t with 15 degrees: 1.07, +- 0.09
    assert abs(np.mean([one.value for one in found]) - entropy(d)) < 0.015 + 0.035 * (d - 1)  # the bias
    assert np.mean([one.error for one in found]) < 0.1


def test_entropy_of_any_unit_and_shape():
    x = normal(400, 4)
    plain = differential_entropy(x)
    matrix = RNG.normal(size=(4, 4))
    turned = differential_entropy((x @ matrix).reshape(400, 2, 2))
    assert turned.value == pytest.approx(plain.value + np.linalg.slogdet(matrix)[1])
    assert turned.error == pytest.approx(plain.error)
    assert differential_entropy(np.repeat(x, 5, axis=0)).value == -math.inf
    assert differential_entropy(x @ np.diag([1, 1, 1, 0])).value == -math.inf


def heavy(n, d):
    return RNG.standard_t(6, size=(n, d))


def two_modes(n, d):
    return RNG.normal(size=(n, d)) + 5 * (RNG.random((n, 1)) < 0.3)


# Of many states in many directions the hardest law stays. Chances are exact for any number of deals; the
# verdict, below 0.001, needs 2000.
@pytest.mark.parametrize("permutations", [199, pytest.param(2999, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("draw", "n", "m", "d", "looked"),
    [
        pytest.param(
            draw, *sizes, id=f"{draw.__name__}-{sizes[0]}",
            marks=[pytest.mark.long] if sizes[0] == 250 and draw is not heavy else [],
        )
        for sizes in [(200, 300, 3, 3), (250, 1000, 20, 12)]
        for draw in (normal, heavy, two_modes)
    ],
)  # fmt: skip
def test_sets_of_one_law_are_as_wide(draw, n, m, d, looked, permutations):
    found = [collapse(draw(n, d), draw(m, d), permutations=permutations) for _ in range(80)]
    assert found[0].directions == looked
    log_det = np.array([one.log_det / one.log_det_error for one in found])
    entropy = np.array([one.entropy / one.entropy_error for one in found])
    for z in (log_det, entropy):
        assert abs(z.mean()) * np.sqrt(80) < LIMIT
        assert 0.75 < np.sqrt((z**2).mean()) < 1.35  # of 80: +- 0.09
    p = np.array([one.p_narrower for one in found])
    assert (p <= 0.05).sum() <= 12  # of 80 with a chance of at most 0.05 each: once in 1e3
    assert sum(one.narrower or one.wider for one in found) <= 3
    assert alarms(found) <= 12


def alarms(found):
    """How many say at most 0.02, in one way or the other: of 80 more than 12 by chance once in 3e4."""
    return sum(min(one.p_narrower, one.p_wider) <= 0.02 for one in found)


@pytest.mark.parametrize(("draw", "n", "m"), [
    (lambda n: np.exp(1.5 * RNG.normal(size=(n, 1))), 100, 1000),
    (lambda n: RNG.standard_cauchy(size=(n, 2)), 200, 200),
    (lambda n: RNG.normal(size=(n, 1)).astype(np.float16), 600, 600),
    (lambda n: RNG.poisson(3.0, size=(n, 2)), 100, 150),
], ids=["lognormal", "Cauchy", "half precision", "counts"])  # fmt: skip
def test_tails_and_ties_raise_no_alarm(draw, n, m):
    found = [collapse(draw(n), draw(m), permutations=199) for _ in range(80)]
    assert alarms(found) <= 12


def test_deals_of_blocks_see_a_collapse_of_many_states():
    truth = normal(4000, 2)
    assert collapse(3 + 0.9 * (normal(3001, 2) - 3), truth).narrower
    same = collapse(normal(3001, 2), truth)
    assert not same.narrower
    assert not same.wider


def test_the_bias_of_few_states_drops_out():
    """100 states in 16 directions: log det is too low by 1.5, and the entropy depends on their number."""
    found = [collapse(normal(100, 16), normal(1000, 16), directions=16, permutations=19) for _ in range(60)]
    for z in (
        np.array([one.log_det / one.log_det_error for one in found]),
        np.array([one.entropy / one.entropy_error for one in found]),
    ):
        assert abs(z.mean()) * np.sqrt(60) < LIMIT
        assert 0.7 < z.std() < 1.4


def test_what_is_narrower():
    truth = normal(600, 3)
    small = collapse(3 + 0.85 * (normal(500, 3) - 3), truth)
    assert small.narrower
    assert not small.wider
    assert small.width == pytest.approx(0.85, abs=0.05)
    assert small.log_det == pytest.approx(6 * np.log(0.85), abs=4 * small.log_det_error)
    assert small.entropy == pytest.approx(3 * np.log(0.85), abs=4 * small.entropy_error)
    assert str(small).startswith("narrower than the reference: 0.8")
    large = collapse(3 + 1.2 * (normal(500, 3) - 3), truth)
    assert large.wider
    assert str(large).startswith("wider than the reference: 1.")
    same = collapse(normal(500, 3), truth)
    assert str(same).startswith("as wide as the reference")
    assert json.loads(json.dumps(same.as_dict()))["directions"] == 3


def test_what_only_the_entropy_sees():
    truth = RNG.normal(size=(800, 2))
    corners = 0.3 * RNG.normal(size=(800, 2)) + np.sqrt(0.91) * RNG.choice([-1, 1], size=(800, 2))
    four = collapse(corners, truth)  # the same covariance, in four lumps
    assert four.narrower
    assert abs(four.log_det / four.log_det_error) < LIMIT
    assert four.entropy < -0.3
    pairs = collapse(np.repeat(RNG.normal(size=(200, 2)), 4, axis=0), truth)  # each drawn four times
    assert pairs.entropy == -math.inf
    assert pairs.narrower
    assert pairs.as_dict()["entropy"] is None


def test_what_has_no_volume():
    truth = normal(300, 3)
    for x in (np.ones((300, 3)), np.ones((1, 3)) * normal(300, 3)[:, :1]):
        found = collapse(x, truth)
        assert found.narrower
        assert found.log_det == -math.inf
        assert found.width == 0.0


def test_fields_are_looked_at_in_random_directions():
    grid = ps.Grid((12, 12), box_size=1.0)
    field = ps.GaussianRandomField(grid, lambda k: k**-1.0)
    x, truth = field.sample(200, seed=1), field.sample(300, seed=2)
    same = collapse(x, truth)
    assert same.directions == 10
    assert not same.narrower
    small = collapse(0.8 * x, truth, directions=20)
    assert small.directions == 20
    assert small.narrower
    assert small.width == pytest.approx(0.8, abs=0.05)
    assert collapse(x, truth, seed=3).log_det != same.log_det


X = np.random.default_rng(1).normal(size=(100, 2))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: log_det_covariance(X[:2], np.eye(2)), "x holds 2 states of 2 components"),
        (lambda: log_det_covariance(X, np.eye(3)), r"covariance has shape \(3, 3\)"),
        (lambda: log_det_covariance(X, -np.eye(2)), "covariance is not positive definite"),
        (lambda: log_det_covariance(X[:, 0], [1.0]), r"x has shape \(100,\)"),
        (lambda: differential_entropy(X[:40]), "there are 40 states: .* at least 80"),
        (lambda: differential_entropy(X, neighbours=0), "neighbours is 0"),
        (lambda: differential_entropy(RNG.normal(size=(100, 60))), "x holds 100 states of 60 components"),
        (lambda: collapse(X, X[:, :1]), r"x has states \(2,\) and reference \(1,\)"),
        (lambda: collapse(X, np.where(X > 2, np.nan, X)), "reference is not finite"),
        (lambda: collapse(X, np.ones_like(X)), "reference fills no volume"),
        (lambda: collapse(X, X, directions=3), "directions is 3: it must be a whole number from 1 to 2"),
        (lambda: collapse(X[:50], X), "there are 50 states"),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)
