"""Spectra of Jacobians, stable steps of Langevin dynamics, and drift against noise, against exact answers."""

import itertools
import warnings

import numpy as np
import pytest

import physscore as ps
from physscore.diagnostics.stability import drift_to_noise, jacobian_spectrum

TURN = np.array([[0.0, -1.0], [1.0, 0.0]])
FIELD = ps.GaussianRandomField(ps.Grid((8, 8), 8.0), ps.spectra.PowerLaw(index=-2.0, amplitude=1.0))


def linear(matrix):
    return ps.from_functions(score=lambda x: x @ matrix.T, shape=len(matrix))


def symmetric(eigenvalues, seed=0):
    frame = np.linalg.qr(np.random.default_rng(seed).normal(size=2 * [len(eigenvalues)]))[0]
    return (frame * eigenvalues) @ frame.T


def states(d, n=3):
    return np.random.default_rng(1).normal(size=(n, d))


def test_spectrum_of_a_gaussian():
    variances = np.array([0.01, 1.0, 25.0])
    target = ps.Gaussian(np.zeros(3), symmetric(variances))
    found = jacobian_spectrum(target, states(3))
    assert found.exact
    np.testing.assert_allclose(found.eigenvalues, np.tile(-1 / variances, (3, 1)), rtol=1e-7)
    np.testing.assert_allclose(found.stable_steps, 2 * 0.01)
    assert found.stable_step == pytest.approx(0.02)
    np.testing.assert_allclose(found.stiffness, 2500)
    assert not found.rising.any()
    assert not found.flat.any()


@pytest.mark.parametrize(("share", "stable"), [(0.98, True), (1.02, False)])
def test_unadjusted_langevin_diverges_above_the_stable_step_and_not_below(share, stable):
    gaussian = ps.Gaussian(np.zeros(3), [0.01, 1.0, 25.0])
    target = ps.from_functions(score=gaussian.score, shape=3)  # nothing to compile
    limit = jacobian_spectrum(target, gaussian.sample(5, seed=0)).stable_step
    step = share * limit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x, _, _ in itertools.islice(
            ps.iterate(target, ps.ULA(step), chains=200, seed=1, init=np.zeros(3)), 600
        ):
            last = x
    spread = (last[:, 0] ** 2).mean()
    if stable:  # 200 chains of a normal law with the variance of ULA: within 5 sigma
        expected = ps.ula_covariance(np.diag([100.0, 1.0, 0.04]), step)[0, 0]
        assert expected == pytest.approx(0.01 / (1 - share))
        assert spread == pytest.approx(expected, rel=5 * np.sqrt(2 / 200))
    else:
        assert spread > 1e3  # it grows by 1.04 a step: 10^20 in squares after 600
    assert (last[:, 1] ** 2).mean() < 2


@pytest.mark.parametrize("omega", [0.5, 3.0])
@pytest.mark.parametrize("d", [2, 40])
def test_a_turn_makes_the_stable_step_shorter(omega, d):
    """|1 + eps (-1 + i w)| < 1 for eps < 2 / (1 + w^2)."""
    matrix = -np.eye(d) / (1 + np.arange(d)[:, np.newaxis])
    matrix[:2, :2] = -np.eye(2) + omega * TURN
    found = jacobian_spectrum(linear(matrix), states(d), dense=d == 2)
    limit = 2 / (1 + omega**2)
    np.testing.assert_allclose(found.stable_steps, limit, rtol=1e-6 if d == 2 else 1e-3)
    assert np.iscomplexobj(found.eigenvalues)
    x = np.ones((1, d))
    for step, bounded in ((0.98 * limit, True), (1.02 * limit, False)):
        y = x
        for _ in range(500):
            y = y + step * y @ matrix.T
        assert (np.abs(y[0, :2]).max() < 1) == bounded


def test_where_the_density_is_not_concave():
    target = ps.DoubleWell(height=2.0, centre=1.5, dim=2)
    found = jacobian_spectrum(target, [[0.0, 0.0], [0.0, 1.5], [1.5, -1.5]])
    up, down = 8 / 1.5**2, -16 / 1.5**2
    np.testing.assert_allclose(found.eigenvalues, [[up, up], [down, up], [down, down]], rtol=1e-6)
    np.testing.assert_array_equal(found.rising, [2, 1, 0])
    np.testing.assert_allclose(found.stable_steps, [np.inf, -2 / down, -2 / down])
    np.testing.assert_allclose(found.stiffness, [np.nan, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("dense", [True, False])
def test_a_field_has_the_inverse_of_its_spectrum(dense):
    """The eigenvalues of the covariance are P N / V; the mean of the field is fixed, and so flat."""
    found = jacobian_spectrum(FIELD, FIELD.sample(2, seed=0), dense=dense)
    used = FIELD.wavenumbers.counts * (FIELD.power > 0) > 0
    curvatures = 1 / FIELD.power[used]  # with N / V = 1
    assert found.exact == dense
    np.testing.assert_allclose(found.stable_steps, 2 / curvatures.max(), rtol=1e-6 if dense else 2e-3)
    np.testing.assert_allclose(
        found.stiffness, curvatures.max() / curvatures.min(), rtol=1e-6 if dense else 1e-2
    )
    np.testing.assert_array_equal(found.flat, 1)
    if dense:
        expected = np.sort(np.repeat(-curvatures, FIELD.wavenumbers.counts[used]))
        np.testing.assert_allclose(found.eigenvalues[0, :-1], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("eigenvalues", "stable", "stiffness"),
    [
        (-np.geomspace(1, 300, 200), 2 / 300, 300),
        (np.r_[500.0, -np.geomspace(1, 300, 199)], 2 / 300, 300),  # the largest one rises
        (np.r_[np.zeros(2), -np.linspace(2, 50, 198)], 2 / 50, 25),
        (-3.0 * np.ones(200), 2 / 3, 1),
        (np.r_[-np.ones(100), -4.0 * np.ones(100)], 2 / 4, 4),
        (np.r_[np.linspace(1, 9, 50), -np.linspace(2, 50, 150)], 2 / 50, np.nan),  # the lowest is inside
    ],
)
def test_both_ends_in_many_dimensions(eigenvalues, stable, stiffness):
    found = jacobian_spectrum(linear(symmetric(eigenvalues)), states(200, 1))
    assert not found.exact
    assert found.stable_step == pytest.approx(stable, rel=2e-3)
    np.testing.assert_allclose(found.stiffness, stiffness, rtol=2e-2)
    assert found.eigenvalues.real.max() == pytest.approx(eigenvalues.max(), abs=1e-2)


def test_both_ends_are_the_same_each_time():
    score = linear(symmetric(-np.geomspace(1, 100, 150)))
    first, second = (jacobian_spectrum(score, states(150, 2), seed=3).eigenvalues for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_drift_to_noise():
    target = ps.Gaussian(np.zeros(2), [1.0, 0.25])
    x = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    found = drift_to_noise(target, x, 0.1)
    squares = np.array([1.0, 16.0, 20.0])
    np.testing.assert_allclose(found.balanced, 4 / squares)
    assert found.balanced_step == pytest.approx(4 / squares.mean())
    assert found.ratio.value == pytest.approx(0.1 * squares.mean() / 4)
    assert drift_to_noise(target, x).ratio is None
    at_balance = drift_to_noise(target, x, found.balanced_step)
    assert at_balance.ratio.value == pytest.approx(1.0)


def test_drift_is_what_a_run_says():
    """The drift and the noise of real steps: their mean squares have the ratio, within 4.5 sigma."""
    variances = np.linspace(0.2, 2.0, 6)
    target = ps.from_functions(score=lambda x: -x / variances, shape=6)  # nothing to compile
    run = ps.sample(target, ps.ULA(0.05), chains=300, steps=50, warmup=50, init=np.ones(6))
    found = drift_to_noise(target, np.asarray(run.draws[-1]), 0.05)
    assert found.ratio.value == pytest.approx(run.drift_to_noise)
    moved = np.asarray(run.draws[-1] - run.draws[-2])
    drift = 0.05 * target.score(np.asarray(run.draws[-2]))
    ratio = (drift**2).sum(axis=1).mean() / ((moved - drift) ** 2).sum(axis=1).mean()
    before = drift_to_noise(target, np.asarray(run.draws[-2]), 0.05).ratio.value
    assert ratio == pytest.approx(before, rel=4.5 * np.sqrt(2 / 1800))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: jacobian_spectrum(linear(TURN), np.zeros((1, 2)), dense=False), "dense is False: in 2 dim"),
        (
            lambda: jacobian_spectrum(
                ps.from_functions(score=lambda x: x * np.nan, shape=2), np.ones((2, 2))
            ),
            "no finite derivative at any of 2 states",
        ),
        (
            lambda: jacobian_spectrum(linear(np.zeros((200, 200))), np.ones((1, 200))),
            "eigenvalue was not found",
        ),
        (lambda: drift_to_noise(linear(TURN), np.zeros((1, 2)), 0.0), "step_size is 0.0: .* positive"),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)
