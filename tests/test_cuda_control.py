"""Control variates on a card are those of the CPU: on a card (pytest -m gpu), and on its stand-in."""

from typing import Any

import numpy as np
import pytest
from test_cuda import card  # noqa: F401, a fixture

from physscore.arrays import to_host
from physscore.evidence.control import controls, of_cells
from physscore.evidence.share import Share
from physscore.evidence.shifts import View, smoothed

ISLANDS = 8


def example(n: int, d: int) -> tuple[np.ndarray, ...]:
    """States near a standard normal, a u that is not quadratic, and uneven weights."""
    rng = np.random.default_rng(n + d)
    v = rng.normal(size=(ISLANDS * n, d))
    bend = np.linspace(0.5, 1.5, d)
    slope = v * bend + 0.3 * v**2 + 0.7
    u = (0.5 * bend * v**2 + 0.1 * v**3 + 0.7 * v).sum(axis=1).reshape(ISLANDS, n)
    weights = rng.exponential(size=(ISLANDS, n))
    weights /= weights.sum(axis=1, keepdims=True)
    between = rng.exponential(size=ISLANDS)
    return v, 0.1 - v - 0.1 * v**2, slope, u, weights, between / between.mean()


def same(found: Any, expected: np.ndarray) -> None:
    """See that a result is NumPy's, and that of the CPU to rounding."""
    assert type(found) is np.ndarray
    assert np.abs(expected).min() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("n", [8, 40, 130])  # each of the fields has its own factor where there are many
@pytest.mark.parametrize("d", [7, 100])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("celled", [False, True])
def test_controls_are_the_same(card: Any, n: int, d: int, grouped: bool, celled: bool) -> None:  # noqa: F811
    v, score, slope, *rest = example(n, d)
    groups = np.random.default_rng(d).permutation(d) % (1 + d // 3) if grouped else None
    more = np.random.default_rng(n).normal(size=(3, len(v))) if celled else None
    expected = controls(v, score, slope, *rest, groups, dense=False, more=more)
    there = (card.asarray(a) for a in (v, score, slope))
    found = controls(*there, *rest, groups, dense=False, more=more)
    same(found.added, expected.added)
    same(found.fitting, expected.fitting)


@pytest.mark.parametrize("d", [7, 100, 5000])
def test_fields_of_cells_are_the_same(card: Any, d: int) -> None:  # noqa: F811
    x, score = example(8, d)[:2]
    variances = np.random.default_rng(d).uniform(0.5, 2.0, d)
    there = (card.asarray(a) for a in (x, score, variances))
    same(of_cells(*there), of_cells(x, score, variances))


def test_rows_in_many_parts_are_the_same(card: Any) -> None:  # noqa: F811
    v, score, slope, *rest = example(8, 5000)
    expected = controls(v, score, slope, *rest, np.arange(5000) % 2, dense=False)
    there = (card.asarray(a) for a in (v, score, slope))
    found = controls(*there, *rest, np.arange(5000) % 2, dense=False)
    same(found.added, expected.added)
    same(found.fitting, expected.fitting)


def test_few_particles_launch_nothing(card: Any) -> None:  # noqa: F811
    v, score, slope, u, weights, between = example(8, 7)
    there = (card.asarray(a[:16]) for a in (v, score, slope))
    found = controls(*there, u[:2], weights[:2], between[:2], None, dense=False)
    assert not any(part.any() for part in found)
    assert not getattr(card, "launches", [])


def test_shifted_particles_are_the_same(card: Any) -> None:  # noqa: F811
    class Coordinates:
        def __init__(self, scale: Any) -> None:
            self.scale = scale

        def push(self, change: Any) -> Any:
            return change * self.scale

        pull = push

    def evaluate(y: Any) -> tuple[Any, Any]:
        u = 0.25 * (y**4).sum(axis=1)
        return to_host(u), y**3

    y, score = example(40, 7)[:2]
    u, slope = evaluate(y)
    share, scale = Share(u, np.ones(len(u)), 0.4, 0.7), np.linspace(0.5, 1.5, 7)
    views = [View(slice(0, 30), share, 0.3), View(slice(10, 40), share, 0.1)]
    settings = views, 0.5, 2, (1, 5, 3)
    expected = smoothed(evaluate, y, u, slope, score, Coordinates(scale), *settings)
    there = evaluate, card.asarray(y), u, card.asarray(slope), card.asarray(score)
    for one, other in zip(
        smoothed(*there, Coordinates(card.asarray(scale)), *settings), expected, strict=True
    ):
        same(one, other)
