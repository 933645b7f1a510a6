"""Control variates by shifts: mean zero whatever the shift and the kinks of the energy, and what they leave.

Statistical bounds are |z| < 4.5, a false alarm in 1.5e5; there are fewer than 30 z-scores.
"""

import numpy as np
import pytest

import physscore as ps
from physscore.evidence import annealed
from physscore.evidence import share as share_file
from physscore.evidence.annealed import Particles
from physscore.evidence.excess import excess_of
from physscore.evidence.plan import Plan
from physscore.evidence.share import Share
from physscore.evidence.shifts import _FAR, View, along_axes, smoothed
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


class Coordinates:
    """Coordinates y = scale v."""

    def __init__(self, scale):
        self.scale = scale

    def push(self, change):
        return change @ self.scale.T

    def pull(self, gradient):
        return gradient @ self.scale


def all_of(share, u):
    """One view of all particles."""
    return [View(slice(None), share, share(u)[0].mean())]


def values(y, energy, h, scale=None):
    u, slope = energy(y)
    share = Share(u, np.ones(len(y)), 0.4, 0.7)
    placed = Coordinates(np.eye(y.shape[1]) if scale is None else scale)
    score, views = -(y + slope) @ placed.scale, all_of(share, u)
    return along_axes(energy, y, u, slope, score, placed, views, h / _FAR)[0], share(u)[0]


@pytest.mark.parametrize("h", [0.01, 0.3, 2.0, -0.5])
@pytest.mark.parametrize("scale", [np.eye(2), np.array([[0.7, 0.0], [0.3, 0.5]])], ids=["diagonal", "dense"])
def test_their_mean_is_zero_with_kinks_and_at_any_shift(h, scale):
    found, _ = values(at_the_target(N, 1), kinked, h, scale)
    z = found.mean(axis=1) / (found.std(axis=1) / np.sqrt(N))
    assert np.abs(z).max() < 4.5, z


def test_a_wrong_score_is_seen():
    y = at_the_target(N, 2)
    u, slope = kinked(y)
    share = Share(u, np.ones(N), 0.4, 0.7)
    views = all_of(share, u)
    (found,) = along_axes(kinked, y, u, slope, -y - 0.8 * slope, Coordinates(np.eye(2)), views, 0.1 / _FAR)
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


@pytest.mark.parametrize("step", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("directions", [1, 3])
def test_the_mean_is_zero_in_random_directions(step, directions):
    y = at_the_target(N, 5)
    u, slope = kinked(y)
    placed = Coordinates(np.array([[0.7, 0.0], [0.3, 0.5]]))
    score, share = -(y + slope) @ placed.scale, Share(u, np.ones(N), 0.4, 0.7)
    views = all_of(share, u)
    (found,) = smoothed(kinked, y, u, slope, score, placed, views, step, directions, (1, 0, 3))
    z = found.mean(axis=1) / (found.std(axis=1) / np.sqrt(N))
    assert np.abs(z).max() < 4.5, z


def test_random_directions_and_axes_agree_on_average():
    """Of one particle in three dimensions, in many directions."""
    y = np.repeat([[0.3, -0.8, 1.1]], N, axis=0)

    def quartic(y):
        pairs = y * np.roll(y, 1, axis=1)
        slope = y**3 + np.roll(y, 1, axis=1) + np.roll(y, -1, axis=1)
        return 0.25 * (y**4).sum(axis=1) + pairs.sum(axis=1), slope

    u, slope = quartic(y)
    views = all_of(Share(np.linspace(-1.0, 3.0, N), np.ones(N), 0.4, 0.7), u)
    here = quartic, y, u, slope, -y - slope, Coordinates(np.eye(3)), views, 0.01
    found, exact = smoothed(*here, 1, (1, 0, 3))[0], along_axes(*here)[0][:, 0]
    error = found.std(axis=1) / np.sqrt(N)
    assert (np.abs(found.mean(axis=1) - exact) < 4.5 * error + 0.01 * np.abs(exact)).all()


def test_random_directions_do_not_depend_on_how_many_go_at_once():
    y = at_the_target(50, 7)
    u, slope = kinked(y)
    share, placed = Share(u, np.ones(50), 0.4, 0.7), Coordinates(np.eye(2))
    views = [View(rows, share, 0.3) for rows in (slice(20, 50), slice(0, 20))]
    whole = smoothed(kinked, y, u, slope, -y - slope, placed, views, 0.5, 2, (1, 0, 3))
    y, u, slope = y[20:], u[20:], slope[20:]
    views = [View(slice(None), share, 0.3)]
    (last,) = smoothed(kinked, y, u, slope, -y - slope, placed, views, 0.5, 2, (1, 20, 3))
    assert whole[0] == pytest.approx(last, rel=1e-9, abs=1e-9)
    assert whole[1].shape == (2, 20)


def test_where_there_is_no_energy_nothing_bends():
    def walled(y):
        inside = y[:, 0] < 2.0
        return np.where(inside, 0.5 * y[:, 0] ** 2, np.inf), np.where(inside[:, np.newaxis], y, np.nan)

    y = np.array([[0.1], [1.95], [-1.0]])
    assert np.isfinite(values(y, walled, 0.1)[0]).all()
    share = Share(y[:, 0], np.ones(3), 0.4, 0.7)
    bad = lambda y: (y[:, 0], np.full_like(y, np.nan))  # noqa: E731
    assert along_axes(bad, y, y[:, 0], 0 * y, -y, Coordinates(np.eye(1)), all_of(share, y[:, 0]), 1.0) is None


def test_they_are_used_where_they_cost_little():
    run = ps.estimate_log_z(*system("shells-2")[:2], particles=2000, seed=1)
    assert run.estimator == "control variates"


def test_what_corrects_islands_that_are_added_knows_nothing_of_them():
    """As it would else have a mean, of the order of one over their number, that stays however many there are;
    among the first, the like of it belongs to Bennett's estimate, and it falls with their number."""
    target = ps.from_functions(energy_and_score=lambda x: (1.5 * (x**2).sum(axis=1), -3.0 * x), shape=2)
    excess, rng = excess_of(ps.Gaussian(0.0, 1.0, dim=2), target), np.random.default_rng(8)
    y = rng.normal(size=(64, 2)) / np.sqrt(2.0)
    other = np.concatenate([rng.normal(size=(8, 2)) / np.sqrt(2.0), y[8:]])
    for first in (0, 64):
        found = []
        for states in (y, other):
            particles = Particles(excess, ps.HMC(), states, seed=1, first=first)
            particles.place(0.5, (np.zeros(2), np.full(2, 1 / np.sqrt(2.0))))
            found.append(particles.controls(np.full((8, 8), 1 / 8), np.ones(8), 0.5, 1.5, 2, 0.5).added)
        changed = found[0] != found[1]
        assert changed[[0, 4, 5, 6, 7]].all()
        assert changed[1:4].all() == (first == 0)
        assert changed[1:4].any() == (first == 0)


def test_moves_must_cost_more():
    """Plans of as many moves, in a few dimensions and in many."""
    from physscore import MALA
    from physscore.evidence.plan import Knots

    for d, used in ((4, 4), (5, 0), (40, 1)):
        one = np.ones(2)
        knots = Knots(np.array([0.0, 1.0]), np.array([0.0, 2.0]), one, one, one, one, 16 * one, one,
                      np.zeros((2, d)), np.ones((2, d)))  # fmt: skip
        plan = Plan(MALA(), knots, np.linspace(0.0, 1.0, 11))
        assert plan.directions == used
        assert plan.evaluations == 1 + 160 + 11 * used


def test_shares_are_found_once_for_a_temperature(monkeypatch):
    """Sums of exponentials of both steps, for both halves, took a tenth of a small estimate."""
    calls = {"logsumexp": 0, "controls": 0}

    def count(home, name):
        function = getattr(home, name)

        def counted(*args, **options):
            calls[name] += 1
            return function(*args, **options)

        monkeypatch.setattr(home, name, counted)

    count(share_file, "logsumexp")
    count(annealed, "controls")
    target = ps.Gaussian(np.ones(2), np.eye(2))
    ps.estimate_log_z(target, reference=ps.Gaussian(0.0, 2.0, dim=2), particles=400, seed=1)
    assert 0 < calls["logsumexp"] <= calls["controls"]
