"""The flow of a score against closed forms, and the points where it stands still."""

import numpy as np
import pytest
from scipy import optimize
from scipy.linalg import expm

import physscore as ps
from physscore.sampling.flow import score_flow, stagnation_points

A = np.array([[2.0, 0.6], [0.6, 1.0]])
MEAN = np.array([1.0, -1.0])
TARGET = ps.Gaussian(MEAN, np.linalg.inv(A))
STARTS = np.random.default_rng(0).uniform(-3, 3, size=(60, 2))


@pytest.mark.parametrize("time", [1.3, -0.7, 0.0])
@pytest.mark.parametrize("n", [4, 150])  # in many dimensions another method is used
def test_flow_to_a_normal_is_exponential(time, n):
    x = np.random.default_rng(1).normal(size=(n, 2))
    found = score_flow(TARGET, x, time, tolerance=1e-9, n_times=4)
    assert found.shape == (4, n, 2)
    np.testing.assert_allclose(found[0], x, rtol=1e-14)
    for y, t in zip(found, np.linspace(0, time, 4), strict=True):
        np.testing.assert_allclose(y, MEAN + (x - MEAN) @ expm(-A * t), atol=1e-6)


def test_flow_ends_at_the_nearest_mode():
    means = np.array([[-4.0, 0.0], [4.0, 0.0]])
    target = ps.GaussianMixture([0.2, 0.8], means, 0.5)
    end = score_flow(target, np.array([[-3.0, 1.0], [3.0, 2.0]]), 20.0)[-1]
    np.testing.assert_allclose(end, means, atol=1e-4)


def test_flow_of_fields():
    target = ps.from_functions(score=lambda x: -2 * x, shape=(3, 4))
    x = np.ones((2, 3, 4))
    np.testing.assert_allclose(score_flow(target, x, 0.5)[-1], np.exp(-1.0) * x, rtol=1e-4)


@pytest.mark.parametrize("n", [10, 300, 10_000])
def test_every_path_has_its_own_error(n):
    x = np.full((n, 1), 1e-3)
    x[0] = 30.0  # one that moves fast among many that rest
    end = score_flow(ps.from_functions(score=lambda x: -(x**3), shape=1), x, 0.01)[-1]
    np.testing.assert_allclose(end, x / np.sqrt(1 + 0.02 * x**2), rtol=5e-6, atol=5e-6)


def kinds(points):
    return [point.kind for point in points]


def test_points_of_two_double_wells():
    target = ps.DoubleWell(height=2.0, centre=1.5, dim=2)
    points = stagnation_points(target, STARTS)
    assert kinds(points) == ["mode"] * 4 + ["saddle"] * 4 + ["minimum"]
    found = {tuple(np.round(point.x, 6) + 0.0) for point in points}
    assert found == {(x, y) for x in (-1.5, 0.0, 1.5) for y in (-1.5, 0.0, 1.5)}
    for point in points:
        # E = h ((x/c)^2 - 1)^2: the Hessian of log p is 4h/c^2 at the top and -8h/c^2 in the wells.
        expected = [4 * 2 / 1.5**2 if abs(x) < 1e-6 else -8 * 2 / 1.5**2 for x in point.x]
        np.testing.assert_allclose(point.eigenvalues, np.sort(expected), rtol=1e-6)
        assert point.asymmetry < 1e-8


def test_points_of_a_mixture():
    means = np.array([[-2.0, 0.0], [2.0, 0.0]])
    points = stagnation_points(ps.GaussianMixture([1, 1], means, 0.5), STARTS)
    assert kinds(points) == ["mode", "mode", "saddle"]
    np.testing.assert_allclose(points[2].x, 0.0, atol=1e-6)
    assert points[2].eigenvalues == pytest.approx([-2.0, 4 / 0.5**2 - 2])  # -1/v and d^2/v^2 - 1/v


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e6])
def test_points_do_not_depend_on_the_unit(scale):
    target = ps.GaussianMixture([1, 1], scale * np.array([[-2.0, 0.0], [2.0, 0.0]]), 0.5 * scale**2)
    points = stagnation_points(target, scale * STARTS)
    assert kinds(points) == ["mode", "mode", "saddle"]
    np.testing.assert_allclose(points[2].x / scale, 0.0, atol=1e-6)
    assert points[2].eigenvalues * scale**2 == pytest.approx([-2.0, 4 / 0.5**2 - 2])


def test_the_middle_of_a_ring_is_a_minimum():
    def score(x):  # E = (|x|^2 - 1)^2 / 4, whose modes are a whole circle
        return x * (1 - (x**2).sum(axis=1, keepdims=True))

    target = ps.from_functions(score=score, shape=2)
    points = stagnation_points(target, np.concatenate([0.1 * STARTS, STARTS]))
    assert kinds(points)[0] == "minimum"
    np.testing.assert_allclose(points[0].eigenvalues, 1.0)
    assert set(kinds(points)[1:]) == {"degenerate"}
    for point in points[1:]:
        assert np.linalg.norm(point.x) == pytest.approx(1.0)
    assert kinds(stagnation_points(ps.Ring(), [[0.0, 0.0]])) == ["minimum"]


@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_a_score_that_is_no_gradient_is_seen(turn):
    matrix = -np.eye(2) + turn * np.array([[0.0, 1.0], [-1.0, 0.0]])
    (point,) = stagnation_points(ps.from_functions(score=lambda x: x @ matrix.T, shape=2), STARTS[:5])
    assert point.kind == "mode"
    assert point.asymmetry == pytest.approx(2 * turn, abs=1e-8)  # largest |J - J^T| over largest |J|


def test_many_dimensions():
    target = ps.Gaussian(np.linspace(-1, 1, 300), np.linspace(0.5, 2.0, 300))
    (point,) = stagnation_points(target, np.zeros((1, 300)))
    assert point.kind == "mode"
    np.testing.assert_allclose(point.x, target.mean, atol=1e-5)
    np.testing.assert_allclose(point.eigenvalues, [-2.0, -0.5], rtol=1e-4)
    assert np.isnan(point.asymmetry)


def test_nothing_is_found_where_there_is_nothing():
    assert stagnation_points(ps.from_functions(score=lambda x: 1 + 0 * x, shape=2), STARTS[:5]) == []


@pytest.mark.parametrize("lost", [np.nan, np.inf, 1e200])
def test_a_start_without_a_score_is_left_out(lost):
    def never_zero(x):
        return np.where(x == 0, lost, 1 + (x - 1) ** 2)

    def score(x):  # of x exp(-x), beyond whose edge there is none
        return np.where(x > 0, 1 / np.where(x > 0, x, 1) - 1, lost)

    assert stagnation_points(ps.from_functions(score=never_zero, shape=1), [[0.5], [2.0], [0.0]]) == []
    (point,) = stagnation_points(ps.from_functions(score=score, shape=1), [[0.5], [2.0], [-1.0]])
    assert point.kind == "mode"
    np.testing.assert_allclose(point.x, 1.0)


def test_a_score_that_is_nowhere_zero_has_no_points():
    def washboard(x):
        slope = np.stack([0.3 + 0.2 * np.sin(x[:, 0]), -x[:, 1]], axis=1)
        return np.where(x[:, :1] < -9, np.nan, slope)

    starts = np.concatenate([5 * STARTS, [[-10.0, 0.0]]])
    assert stagnation_points(ps.from_functions(score=washboard, shape=2), starts) == []


def rugged(x):  # E = 5 sin(1.5 x) cos(y) + (x^2 + y^2) / 8 + 1000, of the type of x
    s, c = np.sin(1.5 * x[:, 0]), np.cos(1.5 * x[:, 0])
    found = -np.stack([7.5 * c * np.cos(x[:, 1]), -5 * s * np.sin(x[:, 1])], axis=1) - x / 4
    return (found + x.dtype.type(1000)) - x.dtype.type(1000)  # with its rounding


def test_a_score_in_float32_has_the_points_of_float64(recwarn):
    double = ps.from_functions(score=rugged, shape=2)
    single = ps.from_functions(score=lambda x: rugged(x.astype(np.float32)), shape=2)
    prior = ps.from_functions(score=lambda x: -x / 8, shape=2)  # in float64: their sum is as coarse
    likelihood = ps.from_functions(score=lambda x: (rugged(x) + x / 8).astype(np.float32), shape=2)
    expected = len(stagnation_points(double, 2 * STARTS))
    assert expected > 20
    for target in (single, prior + likelihood):
        points = stagnation_points(target, 2 * STARTS)
        assert len(points) >= 0.9 * expected
        for point in points:
            root = optimize.root(lambda x: rugged(x[np.newaxis])[0], point.x).x
            np.testing.assert_allclose(point.x, root, atol=1e-3)
            (s, t), (c, u) = np.sin(root * [1.5, 1]), np.cos(root * [1.5, 1])
            jacobian = [[11.25 * s * u - 0.25, 7.5 * c * t], [7.5 * c * t, 5 * s * u - 0.25]]
            true = np.linalg.eigvalsh(jacobian)
            np.testing.assert_allclose(point.eigenvalues, true, rtol=0.01, atol=0.05)
            if np.abs(true).min() > 0.05:
                assert point.kind == ("mode" if true[1] < 0 else "minimum" if true[0] > 0 else "saddle")
    assert not recwarn.list


def test_starts_that_end_near_a_zero_are_told():
    def noisy(x):
        return -x + 1e-5 * np.sign(np.sin(1e9 * x))

    with pytest.warns(UserWarning, match="of 60 starts ended where the score is small, but above tolerance"):
        stagnation_points(ps.from_functions(score=noisy, shape=2), STARTS)


@pytest.mark.parametrize("d", [2, 202])  # in many dimensions another method is used
@pytest.mark.parametrize("unit", [1.0, 1e3, 1e6])
def test_components_may_have_units_of_their_own(unit, d):
    units = np.array([unit, 1e-3] + [1.0] * (d - 2))

    def score(x):  # a normal, beside a double well
        u = x / units
        return -np.concatenate([u[:, :1], 4 * u[:, 1:2] * (u[:, 1:2] ** 2 - 1), u[:, 2:]], axis=1) / units

    starts = units * np.random.default_rng(3).normal(size=(20 if d == 2 else 3, d))
    starts = np.concatenate([starts, -starts])
    points = stagnation_points(ps.from_functions(score=score, shape=d), starts)
    wells = [point for point in points if point.kind == "mode"]
    assert {round(point.x[1] * 1e3, 4) for point in wells} == {-1.0, 1.0}
    assert len(wells) == 2
    for point in wells:
        np.testing.assert_allclose(point.x / units, [0, np.sign(point.x[1]), *[0] * (d - 2)], atol=1e-6)
        assert point.eigenvalues[0] == pytest.approx(-8e6, rel=1e-4)
        if d == 2:
            assert point.eigenvalues[1] == pytest.approx(-1 / unit**2, rel=1e-4)
            assert kinds(points) == ["mode", "mode", "saddle"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: score_flow(TARGET, np.zeros(2), 1.0), r"shape"),
        (lambda: score_flow(TARGET, STARTS, np.inf), "time is inf"),
        (lambda: score_flow(TARGET, STARTS, 1.0, n_times=1), "n_times 1"),
        (lambda: score_flow(TARGET, [[np.nan, 0.0]], 1.0), "finite"),
        (lambda: score_flow(TARGET, STARTS, -1000.0), "the flow did not reach time -1000"),
        (lambda: score_flow(np.sin, STARTS, 1.0), "target is a ufunc: it must be an Energy or a Score"),
        (lambda: stagnation_points(np.sin, STARTS), "target is a ufunc: it must be an Energy or a Score"),
        (lambda: stagnation_points(TARGET, np.zeros((3, 5))), r"shape"),
        (
            lambda: stagnation_points(ps.from_functions(score=lambda x: x + np.nan, shape=2), STARTS),
            "starts has no state at which the score is finite",
        ),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)
