"""Values of a wrong type or shape are refused by one sentence that names them, wherever they come in."""

import numpy as np
import pytest

import physscore as ps

X = np.random.default_rng(0).normal(size=(6, 2))


def parabola(x):
    return 0.5 * (x**2).sum(1), -x


BOTH = ps.from_functions(energy_and_score=parabola, shape=2)
APART = ps.from_functions(energy=lambda x: 0.5 * (x**2).sum(1), score=lambda x: -x, shape=2)
SCORE = ps.from_functions(score=lambda x: -x, shape=2)


@pytest.mark.parametrize("target", [BOTH, APART, SCORE])
@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.ones((6, 3)), r"x has shape \(6, 3\)"),
        (np.ones(2), r"x has shape \(2,\)"),
        (1.0, r"x has shape \(\)"),
        (np.ma.masked_array(X, X > 0), "masked"),
        (X + 1j, "real numbers"),
        ([["a", "b"]], "real numbers"),
    ],
)
def test_functions_are_given_states_only(target, x, said):
    methods = [target.score] if target is SCORE else [target.energy, target.score, target.energy_and_score]
    for method in methods:
        with pytest.raises(ps.InputError, match=said):
            method(x)


def test_functions_are_given_arrays_for_lists_and_whole_numbers():
    for x in ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 4]], np.float16)):
        np.testing.assert_array_equal(BOTH.energy(x), [2.5, 12.5])
        np.testing.assert_array_equal(SCORE.score(x), [[-1, -2], [-3, -4]])
    np.testing.assert_array_equal(BOTH.score(X > 0), -1.0 * (X > 0))
