"""What islands add to estimates, against the same estimates without them."""

import numpy as np
import pytest

from physscore.evidence.bridge import averaged, bridged

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


def test_bridges_are_the_jackknife():
    """To second order: a bridge is no mean."""
    rng = np.random.default_rng(2)
    n = 50
    between = uneven(rng, 1, 2)
    within = np.full((1, 2, ISLANDS, n), 1.0 / n)
    below, above = rng.normal(0.2, 0.6, (1, 1, ISLANDS, n)), rng.normal(-0.2, 0.6, (1, 1, ISLANDS, n))

    def rise(below, above, between):
        islands = below.shape[-1]
        between = between / between.mean(axis=-1, keepdims=True)
        moved = (np.ascontiguousarray(np.moveaxis(part, -1, 2)) for part in (below, above))
        return bridged(*moved, between, within[:, :, :islands])[0][0]

    _, adds = bridged(below, above, between, within)
    last = [np.moveaxis(part, 2, -1) for part in (below, above)]
    expected = without_each(rise, *last, between)
    assert adds[0] * (ISLANDS - 1) / ISLANDS == pytest.approx(expected, abs=0.05 * expected.std())
