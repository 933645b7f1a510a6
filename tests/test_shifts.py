"""Control variates by shifts: mean zero whatever the shift and the kinks of the energy, and what they leave.

Statistical bounds are |z| < 4.5, a false alarm in 1.5e5; there are fewer than 30 z-scores.
"""

import numpy as np
import pytest

import physscore as ps
from physscore.evidence.bridge import Share
from physscore.evidence.plan import Plan
from physscore.evidence.shifts import along_axes
from physscore.systems import system

N = 100_000


def kinked(y):
    """|y_0| + y_1^2 / 2, and its gradient: beside a standard normal, y_0 has the density of exp(-|y|)."""
    return np.abs(y[:, 0]) + 0.5 * y[:, 1] ** 2, np.stack([np.sign(y[:, 0]), y[:, 1]], axis=1)


def at_the_target(n, seed):
    """Exact draws of |y|^2 / 2 + kinked(y): half normals above 1, less 1, on both sides; and N(0, 1/2)."""
    rng = np.random.default_rng(seed)
    kept = np.abs(rng.normal(size=8 * n))
    one = kept[kept > 1.0][:n] - 1.0
    return np.stack([one * rng.choice([-1.0, 1.0], n), rng.normal(size=n) / np.sqrt(2)], axis=1)


def values(y, energy, h, axes=None):
    u, slope = energy(y)
    share = Share(u, np.ones(len(y)), 0.4, 0.7)
    axes = np.eye(y.shape[1]) if axes is None else axes
    return along_axes(energy, y, u, slope, -(y + slope) @ axes.T, axes, share, h), share(u)[0]


@pytest.mark.parametrize("h", [0.01, 0.3, 2.0, -0.5])
@pytest.mark.parametrize("axes", [np.eye(2), np.array([[0.7, 0.3], [0.0, 0.5]])], ids=["diagonal", "dense"])
def test_their_mean_is_zero_with_kinks_and_at_any_shift(h, axes):
    found, _ = values(at_the_target(N, 1), kinked, h, axes)
    z = found.mean(axis=1) / (found.std(axis=1) / np.sqrt(N))
    assert np.abs(z).max() < 4.5, z


def test_a_wrong_score_is_seen():
    y = at_the_target(N, 2)
    u, slope = kinked(y)
    share = Share(u, np.ones(N), 0.4, 0.7)
    found = along_axes(kinked, y, u, slope, -y - 0.8 * slope, np.eye(2), share, 0.1)
    z = found.mean(axis=1) / (found.std(axis=1) / np.sqrt(N))
    assert np.abs(z).max() > 9


def test_short_shifts_are_the_generator_of_langevin_dynamics():
    """Of g(u) with u = |y|^2 / 2 in three dimensions: g'' |y|^2 + g' (3 - 2 |y|^2)."""
    y = np.random.default_rng(3).normal(size=(50, 3)) / np.sqrt(2)
    found, _ = values(y, lambda y: (0.5 * (y**2).sum(axis=1), y), 1e-6)
    u, squares, e = 0.5 * (y**2).sum(axis=1), (y**2).sum(axis=1), 1e-4
    share = Share(u, np.ones(len(y)), 0.4, 0.7)
    (g, first), second = share(u), (share(u + e)[1] - share(u - e)[1]) / (2 * e)
    g = g - g.mean()
    one = second * squares + first * (3 - 2 * squares)
    two = 2 * (first**2 + g * second) * squares + 2 * g * first * (3 - 2 * squares)
    assert found[0] == pytest.approx(one, rel=1e-4, abs=1e-4)
    assert found[1] == pytest.approx(two, rel=1e-4, abs=1e-4)


def ring(y):
    """What a ring of radius 2 and width 0.1 has beyond a standard normal."""
    r = np.sqrt((y**2).sum(axis=1))
    off = (r - 2.0) / 0.1
    return 0.5 * off**2 - 0.5 * r**2, ((off / 0.1 / r)[:, np.newaxis] - 1.0) * y


def test_they_follow_what_is_no_polynomial():
    rng = np.random.default_rng(4)
    r, angle = 2.0 + 0.1 * rng.normal(size=4 * N), rng.uniform(0, 2 * np.pi, 4 * N)
    kept = rng.uniform(size=4 * N) < r / 3.0
    y = (r[kept] * np.array([np.cos(angle[kept]), np.sin(angle[kept])])).T
    found, added = values(y, ring, 0.02)
    centred = found - found.mean(axis=1, keepdims=True)
    shares = np.linalg.lstsq(centred.T, added - added.mean(), rcond=None)[0]
    assert np.var(added - shares @ centred) < 0.1 * np.var(added)


def test_where_there_is_no_energy_nothing_bends():
    def walled(y):
        inside = y[:, 0] < 2.0
        return np.where(inside, 0.5 * y[:, 0] ** 2, np.inf), np.where(inside[:, np.newaxis], y, np.nan)

    found, _ = values(np.array([[0.1], [1.95], [-1.0]]), walled, 0.1)
    assert found is not None
    assert (
        values(np.array([[0.1], [1.95], [-1.0]]), lambda y: (y[:, 0], np.full_like(y, np.nan)), 0.1)[0]
        is None
    )


def test_they_are_used_where_they_cost_little():
    run = ps.estimate_log_z(*system("shells-2")[:2], particles=2000, seed=1)
    assert run.estimator == "control variates"


def test_moves_must_cost_more():
    """Plans of as many moves, in a few dimensions and in many."""
    from physscore import MALA
    from physscore.evidence.plan import Knots

    for d, used in ((4, True), (5, False)):
        one = np.ones(2)
        knots = Knots(np.array([0.0, 1.0]), np.array([0.0, 2.0]), one, one, one, one, 16 * one, one,
                      np.zeros((2, d)), np.ones((2, d)))  # fmt: skip
        plan = Plan(MALA(), knots, np.linspace(0.0, 1.0, 11))
        assert (plan.shift(5) > 0) is used
        assert plan.evaluations == 1 + 160 + (11 * d if used else 0)
