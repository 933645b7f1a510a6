"""Derivatives of a score against closed forms, by differences, by the score's own method and by probes.

A test of random numbers fails if a z-score exceeds 4.5, by chance once in 1.5e5; there are fewer than 50.
"""

import numpy as np
import pytest

import physscore as ps
from physscore.core import Score
from physscore.diagnostics.derivatives import directional, divergence, jacobian, random_directions

LIMIT = 4.5
RNG = np.random.default_rng(3)
MATRIX = RNG.normal(size=(4, 4))
COVARIANCE = MATRIX @ MATRIX.T + np.eye(4)
PRECISION = np.linalg.inv(COVARIANCE)
MEAN = np.array([1.0, -2.0, 0.5, 3.0])
COVARIANCES = np.array([[[0.5, 0.2], [0.2, 1.0]], [[1.0, -0.3], [-0.3, 0.4]]])
MIXTURE = ps.GaussianMixture([0.3, 0.7], [[-2.0, 0.0], [2.0, 1.0]], COVARIANCES)


def mixture_jacobian(mixture, x):
    """J = sum_k r_k (s_k s_k^T - P_k) - s s^T, with the responsibilities r_k."""
    heights = [np.log(w) - c.energy(x) for w, c in zip(mixture.weights, mixture.components, strict=True)]
    shares = np.exp(np.array(heights) + mixture.energy(x))
    total = -np.einsum("ni,nj->nij", mixture.score(x), mixture.score(x))
    for share, part in zip(shares, mixture.components, strict=True):
        s = part.score(x)
        inner = np.einsum("ni,nj->nij", s, s) - np.linalg.inv(part.covariance)
        total += share[:, np.newaxis, np.newaxis] * inner
    return total


class Linear(Score):
    """s = A x with a derivative of its own; it counts what it is asked for."""

    def __init__(self, matrix, automatic=True, dtype=np.float64):
        self.matrix, self.shape, self.dtype = matrix, (len(matrix),), dtype
        self.sizes = []
        if automatic:
            self.directional = self._directional

    def score(self, x):
        self.sizes.append(len(x))
        return (x.astype(self.dtype) @ self.matrix.T.astype(self.dtype)).astype(self.dtype)

    def _directional(self, x, v):
        self.sizes.append(len(x))
        return x @ self.matrix.T, v @ self.matrix.T


@pytest.mark.parametrize("unit", [1e-5, 1.0, 1e4])
def test_normal_density_in_any_unit(unit):
    target = ps.Gaussian(unit * MEAN, unit**2 * COVARIANCE)
    near = target.sample(20, seed=1)
    v = RNG.normal(size=(3, 20, 4)) * np.array([1e-6, 1.0, 1e6])[:, np.newaxis, np.newaxis]
    found = directional(target, near, v)
    expected = -np.einsum("ij,mnj->mni", PRECISION, v) / unit**2
    size = np.abs(expected).max(axis=(1, 2), keepdims=True)
    assert (np.abs(found - expected) < 1e-9 * size).all()
    np.testing.assert_array_equal(directional(target, near, v[1]), found[1])
    # At the mode, where the score is zero, at the origin, and far out.
    odd = np.concatenate([near, [unit * MEAN], np.zeros((1, 4)), near + 50 * unit])
    np.testing.assert_allclose(
        jacobian(target, odd), np.broadcast_to(-PRECISION / unit**2, (42, 4, 4)),
        atol=1e-8 / unit**2,
    )  # fmt: skip
    np.testing.assert_allclose(divergence(target, odd).value, -np.trace(PRECISION) / unit**2, rtol=1e-8)


@pytest.mark.parametrize("unit", [1e-3, 1.0])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_mixture(unit, scale):
    mixture = ps.GaussianMixture([0.3, 0.7], unit * MIXTURE.means, unit**2 * COVARIANCES)
    x = unit * RNG.uniform(-4, 4, size=(200, 2))
    expected = mixture_jacobian(mixture, x)
    found = jacobian(mixture, x, scale=None if scale is None else scale * unit)
    np.testing.assert_allclose(found, expected, atol=2e-8 / unit**2)
    exact = divergence(mixture, x)
    np.testing.assert_allclose(exact.value, np.trace(expected, axis1=1, axis2=2), atol=2e-8 / unit**2)
    assert not exact.error.any()


def test_the_difference_is_of_fourth_order():
    target = ps.from_functions(score=np.sin, shape=1)
    x, v = np.array([[0.4]]), np.array([[3.0]])
    errors = [abs(directional(target, x, v, scale=s)[0, 0] - 3 * np.cos(0.4)) for s in (100.0, 200.0)]
    # The step is 1e-3 of the scale: 0.1 and 0.2; the error is h^4 s'''''/30.
    assert errors[0] == pytest.approx(3 * 0.1**4 * np.cos(0.4) / 30, rel=0.02)
    assert errors[1] / errors[0] == pytest.approx(16, rel=0.02)


def test_fields():
    grid = ps.Grid((6, 5), box_size=7.0)
    field = ps.smoothed(ps.GaussianRandomField(grid, lambda k: 1 / k), 0.3)
    x, v = field.sample(3, seed=1), RNG.normal(size=(2, 3, 6, 5))
    expected = np.array([field.score(one) for one in v])  # linear, without a mean
    np.testing.assert_allclose(directional(field, x, v), expected, rtol=1e-8, atol=1e-8)
    trace = -(field.wavenumbers.counts / (field.power * grid.n_cells / grid.volume)).sum()
    np.testing.assert_allclose(divergence(field, x).value, trace)


def test_the_derivative_of_the_score_itself_is_used():
    target = Linear(MATRIX)
    x = RNG.normal(size=(5, 4))
    np.testing.assert_allclose(jacobian(target, x), np.broadcast_to(MATRIX, (5, 4, 4)), atol=1e-14)
    assert target.sizes == [20]  # one call for all states and directions
    np.testing.assert_allclose(divergence(target, x).value, np.trace(MATRIX))
    assert directional(target, x, x) == pytest.approx(x @ MATRIX.T, rel=1e-14)


@pytest.mark.parametrize("automatic", [True, False])
def test_pieces_are_small_and_change_nothing(automatic):
    target = Linear(MATRIX, automatic)
    x = RNG.normal(size=(11, 4))
    whole = [jacobian(target, x), divergence(target, x, 5, seed=2).value, directional(target, x, x)]
    target.sizes.clear()
    parts = [
        jacobian(target, x, batch=7), divergence(target, x, 5, seed=2, batch=7).value,
        directional(target, x, x, batch=7),
    ]  # fmt: skip
    assert max(target.sizes) <= 8
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    longer = divergence(target, np.concatenate([x, x]), 5, seed=2)
    np.testing.assert_allclose(longer.value[:11], whole[1], rtol=1e-9, atol=1e-9)
    assert np.abs(longer.value[11:] - whole[1]).max() > 1e-3  # probes of their own


def test_single_precision_takes_a_longer_step():
    target = Linear(MATRIX, automatic=False, dtype=np.float32)
    np.testing.assert_allclose(jacobian(target, RNG.normal(size=(9, 4)))[3], MATRIX, atol=2e-4)


@pytest.mark.parametrize("law", ["rademacher", "gaussian"])
def test_hutchinson(law):
    n, probes = 2000, 40
    matrix = -PRECISION + 0.3 * (MATRIX - MATRIX.T)  # the antisymmetric part does not count
    target = Linear(matrix)
    found = divergence(target, RNG.normal(size=(n, 4)), probes, seed=7, law=law)
    trace = np.trace(matrix)
    variance = 2 * ((PRECISION**2).sum() - (np.diag(PRECISION) ** 2).sum() * (law == "rademacher"))
    z = (found.value - trace) / found.error
    assert 0.85 < np.sqrt((z**2).mean()) < 1.15  # t with 39 degrees: 1.03, and probes are skewed
    assert abs((found.value - trace).mean()) < LIMIT * np.sqrt(variance / probes / n)
    assert found.error.mean() ** 2 * probes == pytest.approx(variance, rel=0.05)
    three = [divergence(target, np.zeros((1, 4))).value[0], np.trace(jacobian(target, np.zeros((1, 4)))[0])]
    assert three == pytest.approx([trace, trace])


def test_rademacher_is_exact_for_a_diagonal_jacobian():
    found = divergence(ps.Gaussian(0.0, [1.0, 2.0, 4.0]), RNG.normal(size=(5, 3)), 3)
    np.testing.assert_allclose(found.value, -1.75)
    assert found.error.max() < 1e-9
    assert np.isnan(divergence(MIXTURE, np.zeros((2, 2)), 1).error).all()


def test_three_methods_agree_on_a_mixture():
    x = MIXTURE.sample(300, seed=4)
    exact, random = divergence(MIXTURE, x).value, divergence(MIXTURE, x, 200, seed=1, law="gaussian")
    np.testing.assert_allclose(exact, np.trace(mixture_jacobian(MIXTURE, x), axis1=1, axis2=2), atol=1e-8)
    assert 0.9 < np.sqrt((((random.value - exact) / random.error) ** 2).mean()) < 1.15


def test_directions_have_unit_covariance():
    for law, fourth in (("rademacher", 1.0), ("gaussian", 3.0)):
        v = random_directions(50, 400, 3, seed=5, law=law)
        assert (v**4).mean() == pytest.approx(fourth, rel=0.05)
        flat = v.reshape(-1, 3)
        assert np.abs(flat.T @ flat / len(flat) - np.eye(3)).max() < LIMIT * np.sqrt(2 / len(flat))
        np.testing.assert_array_equal(v[:3, 7:9], random_directions(3, 2, 3, seed=5, law=law, first=7))


X = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: directional(MIXTURE, X, np.zeros((3, 2))), r"v has shape \(3, 2\): it must be \(2, 2\)"),
        (lambda: directional(MIXTURE, X, np.full((2, 2), np.nan)), "v is not finite"),
        (lambda: directional(MIXTURE, X, X, scale=0.0), "scale holds 0.0: it must be a positive length"),
        (lambda: jacobian(MIXTURE, np.zeros((2, 3))), r"x has shape \(2, 3\)"),
        (lambda: jacobian(MIXTURE, np.full((2, 2), np.inf)), "x is not finite"),
        (lambda: jacobian(np.sin, X), "score is a ufunc"),
        (lambda: divergence(MIXTURE, X, 0), "probes is 0"),
        (lambda: divergence(MIXTURE, X, 2, law="uniform"), "law is 'uniform'"),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)
