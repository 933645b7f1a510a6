"""What islands add to estimates, against the same estimates without them."""

import numpy as np
import pytest
from scipy.special import ndtri

from physscore.evidence.bridge import Estimate, Populations, averaged, bridged, integrated
from physscore.evidence.share import Share
from physscore.evidence.verdict import agreeing, verdict_of

ISLANDS = 12


def uneven(rng, *shape):
    weights = np.exp(rng.normal(size=(*shape, ISLANDS)))
    return weights / weights.mean(axis=-1, keepdims=True)


def without_each(estimate, *parts):
    """Return (n - 1) times what an estimate of parts, islands on axis -1, loses without each."""
    whole = estimate(*parts)
    others = [estimate(*(np.delete(part, i, axis=-1) for part in parts)) for i in range(ISLANDS)]
    return np.stack([(ISLANDS - 1) * (whole - other) for other in others], axis=-1)


def test_averages_are_the_jackknife():
    rng = np.random.default_rng(1)
    weights, values = uneven(rng, 3), rng.normal(size=(3, ISLANDS))
    mean, adds = averaged(weights, values)
    expected = without_each(lambda w, x: (w * x).sum(axis=1) / w.sum(axis=1), weights, values)
    assert mean == pytest.approx((weights * values).mean(axis=1))
    assert adds * (ISLANDS - 1) / ISLANDS == pytest.approx(expected)


@pytest.mark.parametrize("legs", [1, 2])
def test_bridges_are_the_jackknife(legs):
    """To second order: a bridge is no mean. Legs far apart, so that the mean of each is its own."""
    rng = np.random.default_rng(2)
    n = 50
    between = uneven(rng, legs, 2)
    within = np.full((legs, 2, ISLANDS, n), 1.0 / n)
    below, above = (rng.normal(mean, 0.6, (legs, 1, ISLANDS, n)) for mean in (0.2, -0.2))
    below[1:] += 0.5

    def rise(below, above, between):
        islands = below.shape[-1]
        between = between / between.mean(axis=-1, keepdims=True)
        moved = (np.ascontiguousarray(np.moveaxis(part, -1, 2)) for part in (below, above))
        return bridged(*moved, between, within[:, :, :islands])[0][0]

    _, adds = bridged(below, above, between, within)
    last = [np.moveaxis(part, 2, -1) for part in (below, above)]
    expected = without_each(rise, *last, between)
    assert adds[0] * (ISLANDS - 1) / ISLANDS == pytest.approx(expected, abs=0.05 * expected.std())


def test_errors_take_far_covariances_only_where_they_add():
    rng = np.random.default_rng(3)
    near, far = rng.normal(size=(2, ISLANDS))
    apart = Estimate(0.0, np.array([near, near, 0 * near, far]))
    own = near.std(ddof=1) ** 2 * 4 + far.std(ddof=1) ** 2
    covariance = 4 * np.cov(near, far)[0, 1]
    assert apart.scatter**2 * ISLANDS == pytest.approx(own + covariance)
    assert apart.error**2 * ISLANDS == pytest.approx(own + max(0.0, covariance))
    other = Estimate(0.0, np.array([near, near, 0 * near, -far]))
    assert other.error**2 * ISLANDS == pytest.approx(own + max(0.0, -covariance))
    assert apart.error != other.error


def test_sums_and_stretched_estimates_keep_their_islands():
    rng = np.random.default_rng(4)
    one, many = Estimate(1.0, rng.normal(size=ISLANDS)), Estimate(2.0, rng.normal(size=(3, ISLANDS)))
    both = one + many
    assert both.value == 3.0
    assert both.influence == pytest.approx(one.influence + many.influence)
    assert both.by_rung[1:] == pytest.approx(many.by_rung[1:])
    wide = both.with_error(2.5)
    assert (wide.value, wide.error, wide.scatter) == pytest.approx((3.0, 2.5, 2.5))


def test_shares_of_particles_are_what_islands_add():
    """Exact populations of three normal densities, so that every neighbour says the same of a step."""
    rng = np.random.default_rng(4)
    n, betas = 20_000, np.array([0.0, 0.7, 2.0])
    x = rng.normal(size=(3, ISLANDS, n)) / np.sqrt(1 + betas)[:, np.newaxis, np.newaxis]
    u = 0.5 * x**2
    weights = np.full((1, 3, ISLANDS, n), 1.0 / n)
    steps = np.diff(betas)[:, np.newaxis, np.newaxis]
    work = (steps * u[:-1])[np.newaxis], (steps * u[1:])[np.newaxis]
    rises, adds = bridged(*work, np.ones((1, 3, ISLANDS)), weights)
    assert rises == pytest.approx(-0.5 * np.diff(np.log(1 + betas)), abs=5e-3)
    found = np.zeros(ISLANDS)
    for k, (below, above) in enumerate([(0.0, 0.7), (0.7, 1.3), (1.3, 0.0)]):
        added, _ = Share(u[k].ravel(), weights[0, k].ravel(), below, above)(u[k].ravel())
        means = added.reshape(ISLANDS, n).mean(axis=1)
        found += means - means.mean()
        h = 1e-5
        moved = []
        for s in (-h, h):  # of one island
            higher = u[k, 0] + s
            moved.append(Share(higher, weights[0, k, 0], below, above)(higher)[0])
        assert moved[0] == pytest.approx(moved[1])  # a constant in u has no share
    found *= ISLANDS / (ISLANDS - 1)  # as the jackknife's
    assert found == pytest.approx(adds.sum(axis=0), abs=0.05 * adds.sum(axis=0).std())


def test_shares_change_with_u_as_they_say():
    """One particle without weight is moved: what it would add changes, and nothing else does."""
    u = np.linspace(-1.0, 4.0, 50)
    weights = np.r_[np.ones(49), 1e-12]
    h = 1e-4
    share = Share(u, weights, 0.6, 1.1)
    up, down = (share(u[-1:] + s)[0][0] for s in (h, -h))
    assert share(u)[1][-1] == pytest.approx((up - down) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("steps", [2, 3, 8])
def test_thermodynamic_integration_knows_what_its_cubics_miss(steps):
    """x^2 / 2 at quantiles of N(0, 1 / (1 + beta)): all of its error is that of the integral."""
    betas = 1.57 ** np.arange(steps + 1) - 1.0
    square = ndtri((np.arange(20_000) + 0.5) / 20_000) ** 2
    islands = 1.0 + 1e-6 * np.random.default_rng(0).normal(size=(4, 1))
    u = 0.5 * islands * square / (1.0 + betas[:, np.newaxis, np.newaxis])
    found = integrated(betas, [Populations(u, np.zeros(u.shape), np.zeros(u.shape[:2]))])
    off = abs(found.value + 0.5 * np.log1p(betas[-1]))
    assert 0.7 * found.error < off < 1.4 * found.error


@pytest.mark.parametrize(
    ("gap", "error", "verdict"),
    [
        (0.5, 0.5, "pass"),
        (3.0, 0.5, "suspect"),
        (3.0, 0.2, "failed"),
        (3.0, 2.0, "suspect"),
        (30.0, 2.0, "failed"),
    ],
)
def test_ways_of_unadjusted_steps_agree_or_are_doubted(gap, error, verdict):
    """Beyond 4.5 or 9 errors between them, and where these are above 1."""
    influence = np.tile([1.0, -1.0], ISLANDS // 2)
    there = Estimate(0.0, influence * error * np.sqrt(0.5 * (ISLANDS - 1)))
    back = Estimate(gap, there.by_rung)
    assert np.hypot(there.error, back.error) == pytest.approx(error)
    assert verdict_of(agreeing(there, back))[0] == verdict
