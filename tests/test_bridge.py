"""What islands add to estimates, against the same estimates without them."""

import numpy as np
import pytest

from physscore.evidence.bridge import Estimate, averaged, bridged

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
