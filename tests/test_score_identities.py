"""What draws of a density say of a score without its derivatives: wrong ones are seen, right ones pass."""

import numpy as np
import pytest

import physscore as ps
from physscore.diagnostics.score_field import audit_score
from physscore.diagnostics.score_identities import identities

MIXTURE = ps.GaussianMixture([0.3, 0.7], [[-2.0, 0, 0], [2.0, 1, 0]], [0.5, 0.8])
WRONG = {
    "a mode is missing": ps.GaussianMixture([1.0], [[2.0, 1, 0]], [0.8]).score,
    "a sign": lambda x: MIXTURE.score(x) * np.array([1, 1, -1]),
    "shifted": lambda x: MIXTURE.score(x - 0.3),
}


def audit(score, x, **settings):
    target = ps.from_functions(score=score, shape=x.shape[1:])
    return audit_score(target, x, draws=True, evaluations=400, **settings)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_scores_fail(name):
    found = audit(WRONG[name], MIXTURE.sample(300, seed=1))
    assert not found.passed
    assert "not that of the density of its states" in " ".join(found.reasons)
    assert audit_score(ps.from_functions(score=WRONG[name], shape=3), MIXTURE.sample(300, seed=1)).passed


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_the_size_is_judged_by_draws(factor):
    found = audit(lambda x: factor * MIXTURE.score(x), MIXTURE.sample(300, seed=1))
    assert "the score has the wrong size" in " ".join(found.reasons)
    assert found.as_dict()["identities"]["limit"] > 3


def test_errors_of_a_few_per_cent_pass():
    """However many states there are: a training ends with such."""
    x = MIXTURE.sample(20_000, seed=1)
    for factor in (1.0, 1.05):
        assert audit(lambda x, factor=factor: factor * MIXTURE.score(x), x).passed


@pytest.mark.parametrize("case", ["mixture", "student", "many", "normal", "field"])
def test_right_scores_pass(case):
    """False alarms of 1e-3 at most: three of 200 once in 800 cases, two of 8 in 30000."""
    rng = np.random.default_rng(1)
    grid = ps.Grid((8, 8), 8.0) if case == "field" else None
    student = {"student": ps.Student(3.0, 1.0, 3), "many": ps.Student(3.0, 1.0, 30)}.get(case)
    law = ps.GaussianRandomField(grid, lambda k: 0.5 / k) if grid else ps.Gaussian(0.0, 1.0, dim=5)
    broken = 0
    runs = 8 if grid else 200
    for seed in range(runs):
        n = (40, 300)[seed % 2]
        if student:
            score = student.score
            x = rng.normal(size=(n, student.dim)) / np.sqrt(rng.chisquare(3, size=(n, 1)) / 3)
        else:
            target = MIXTURE if case == "mixture" else law
            score, x = target.score, target.sample(n, seed=seed)
        broken += identities(score(x), x, grid).broken.any()
    assert broken < (2 if grid else 3)


def test_fields_are_looked_at_by_shells():
    grid = ps.Grid((8, 8), 8.0)
    law = ps.GaussianRandomField(grid, lambda k: 0.5 / k)
    x = law.sample(300, seed=1)
    right, other = (ps.GaussianRandomField(grid, lambda k, a=a: 0.5 / k * (1 + (k > 2)) ** a) for a in (0, 1))
    assert not identities(right.score(x), x, grid).broken.any()
    found = identities(other.score(x), x, grid)
    assert found.broken.any()
    far = np.flatnonzero(found.broken)
    assert all("of the modes at k = " in found.names[i] for i in far)
    assert min(float(found.names[i].rsplit(" ")[-1]) for i in far) > 1.8


def test_components_of_any_size_that_say_the_same():
    z = np.random.default_rng(0).normal(size=(400, 2))
    x = z @ np.array([[1e-6, 0], [3e-6, 1e3]]).T
    score = np.linalg.solve(np.cov(x.T), -(x - x.mean(0)).T).T
    assert not identities(score, x).broken.any()
    assert identities(score * [1, -1], x).broken.any()
    twice = np.column_stack([z[:, 0], z[:, 0], np.ones(400)])
    found = identities(-twice, twice)
    assert np.isfinite(found.values).all()
