"""Curls of scores, and integrals of scores on two ways, against exact answers."""

import numpy as np
import pytest

import physscore as ps
from physscore.diagnostics.foreign import Watched
from physscore.diagnostics.integrability import curl_fraction
from physscore.diagnostics.line_integrals import path_gaps, rays

RNG = np.random.default_rng(0)
OMEGA = 0.7
TURN = np.array([[0.0, -1.0], [1.0, 0.0]])
GRADIENTS = [
    ps.Gaussian(np.arange(3.0), [1.0, 4.0, 0.25]),
    ps.GaussianMixture([1, 2, 3], [[2.0, 1.0], [-1.0, 0.5], [0.0, -2.0]], 0.6),
    ps.Funnel(4),
    ps.Phi4((3, 4), mass2=-1.0, coupling=0.5),
    ps.GaussianRandomField(ps.Grid((8, 8), 8.0), ps.spectra.PowerLaw(index=-2.0, amplitude=1.0)),
]
NAMES = ["gaussian", "mixture", "funnel", "phi4", "field"]


@pytest.fixture(autouse=True)
def same_numbers():
    """Let no test depend on which ran before it."""
    RNG.bit_generator.state = np.random.default_rng(0).bit_generator.state


def linear(matrix, shape=None):
    shape = matrix.shape[:1] if shape is None else shape
    return ps.from_functions(
        score=lambda x: (x.reshape(len(x), -1) @ matrix.T).reshape(x.shape), shape=shape, name="linear"
    )


def states(target, n=40):
    return target.sample(n, seed=1) if hasattr(target, "sample") else RNG.normal(size=(n, *target.shape))


def share(matrix):
    return ((matrix - matrix.T) ** 2).sum() / (4 * (matrix**2).sum())


@pytest.mark.parametrize("omega", [0.0, 0.1, OMEGA, -3.0])
def test_curl_of_a_rotation(omega):
    found = curl_fraction(linear(-np.eye(2) + omega * TURN), RNG.normal(size=(20, 2)))
    assert found.exact
    assert found.fraction.value == pytest.approx(omega**2 / (1 + omega**2), rel=1e-9, abs=1e-18)
    assert found.noise < 1e-18
    assert found.plane == (None if omega == 0 else ((0,), (1,)))
    assert omega == 0 or found.plane_share == pytest.approx(1.0)


def test_every_plane_counts_the_same_and_is_named():
    x = RNG.normal(size=(5, 2, 3))
    for i in range(6):
        for j in range(i):
            matrix = -np.eye(6)
            matrix[i, j], matrix[j, i] = 0.4, -0.4
            found = curl_fraction(linear(matrix, (2, 3)), x)
            assert found.fraction.value == pytest.approx(2 * 0.16 / (6 + 2 * 0.16))
            assert found.plane == (divmod(j, 3), divmod(i, 3))


def test_curl_of_any_matrix():
    matrix = RNG.normal(size=(7, 7))
    found = curl_fraction(linear(matrix), RNG.normal(size=(3, 7)))
    assert found.fraction.value == pytest.approx(share(matrix), rel=1e-9)
    assert found.plane_share < 0.5


def test_each_state_counts_the_same():
    """A turn where the Jacobian is small is not hidden by states at which it is large."""

    def score(x):
        far = x[:, :1] > 5
        return np.where(far, -1000 * x, -x + OMEGA * x @ TURN.T)

    x = RNG.normal(size=(40, 2))
    x[::4, 0] += 20
    found = curl_fraction(ps.from_functions(score=score, shape=2), x)
    assert found.fraction.value == pytest.approx(0.75 * OMEGA**2 / (1 + OMEGA**2))
    np.testing.assert_allclose(found.of_states[1::4], OMEGA**2 / (1 + OMEGA**2))
    expected = np.std(found.of_states, ddof=1) / np.sqrt(40)
    assert found.fraction.error == pytest.approx(expected)


@pytest.mark.parametrize("d", [12, 150])
def test_probes_are_unbiased_with_a_right_error(d):
    """60 seeds: |mean z| < 4.5 / sqrt(60) and rms z of 0.7 to 1.4, a false alarm in 10^4."""
    # Two steep directions apart from the turn, for which a plain ratio of means over probes is biased.
    rng = np.random.default_rng(3)
    frame = np.linalg.qr(rng.normal(size=(d, d)))[0]
    turn = np.zeros((d, d))
    turn[2:, 2:] = rng.normal(size=(d - 2, d - 2))
    steep = np.diag(np.r_[20.0, 15.0, np.ones(d - 2)])
    matrix = frame @ (0.5 * (turn - turn.T) - steep) @ frame.T
    x = rng.normal(size=(30, d))
    z = []
    for seed in range(60):
        found = curl_fraction(linear(matrix), x, probes=8, seed=seed)
        assert not found.exact
        assert found.plane is None
        z.append((found.fraction.value - share(matrix)) / found.fraction.error)
    assert abs(np.mean(z)) < 4.5 / np.sqrt(60)
    assert 0.7 < np.sqrt(np.mean(np.square(z))) < 1.4


@pytest.mark.parametrize("target", GRADIENTS, ids=NAMES)
@pytest.mark.parametrize("probes", [None, 6])
def test_gradients_have_no_curl(target, probes):
    found = curl_fraction(target, states(target, 10), probes=probes)
    assert abs(found.fraction.value) < 1e-10


def test_curl_by_probes_does_not_depend_on_pieces(monkeypatch):
    x = RNG.normal(size=(7, 20))
    score = linear(RNG.normal(size=(20, 20)))
    whole = curl_fraction(score, x, probes=5)
    monkeypatch.setattr("physscore.diagnostics.integrability._AT_ONCE", 2 * 5 * 20)
    np.testing.assert_allclose(curl_fraction(score, x, probes=5).of_states, whole.of_states, rtol=1e-9)


@pytest.mark.parametrize("probes", [None, 8])
def test_noise_tells_what_rounding_alone_comes_to(probes):
    """Of a gradient in hidden single precision the curl found is about the noise, within a factor of 4."""
    matrix = RNG.normal(size=(30, 30))
    matrix = -(matrix @ matrix.T) - np.eye(30)

    def score(x):
        return (x @ matrix.T).astype("f4").astype("f8")

    x = RNG.normal(size=(30, 30))
    found = curl_fraction(ps.from_functions(score=score, shape=30), x, probes=probes)
    assert 1e-14 < found.fraction.value < 1e-4
    assert 0.25 < found.noise / found.fraction.value < 4


def test_constants_and_one_dimension_have_no_curl():
    flat = ps.from_functions(score=lambda x: np.ones_like(x), shape=3)
    assert curl_fraction(flat, RNG.normal(size=(4, 3))).fraction == (0.0, 0.0)
    line = ps.from_functions(score=lambda x: -(x**3), shape=1)
    assert curl_fraction(line, RNG.normal(size=(4, 1))).fraction == (0.0, 0.0)


def test_own_derivatives_are_used():
    class Rotating:
        shape = (2,)

        def score(self, x):
            raise AssertionError("differences were taken")

        def directional(self, x, v):
            return -x, -v + OMEGA * v @ TURN.T

    found = curl_fraction(Rotating(), RNG.normal(size=(9, 2)))
    assert found.fraction.value == pytest.approx(OMEGA**2 / (1 + OMEGA**2), rel=1e-14)


def test_gap_of_a_rotation_is_its_rate_times_the_rectangle():
    x = RNG.normal(size=(60, 2))
    found = path_gaps(linear(-np.eye(2) + OMEGA * TURN), x)
    step = x[30:] - x[:30]
    np.testing.assert_allclose(np.abs(found.gap), OMEGA * np.abs(step.prod(axis=1)), atol=1e-12)
    across = -0.5 * ((x[30:] ** 2) - (x[:30] ** 2)).sum(axis=1)
    across += OMEGA * (x[:30, 0] * x[30:, 1] - x[:30, 1] * x[30:, 0])
    np.testing.assert_allclose(found.straight, across, atol=1e-12)
    assert (found.error < 1e-12).all()
    assert found.relative == pytest.approx(found.typical_gap / found.typical_difference)
    assert len(path_gaps(linear(TURN), x, pairs=10).gap) == 10


@pytest.mark.parametrize(("shape", "plane"), [((6,), (1, 4)), ((6,), (2, 3)), ((3, 4), (0, 7))])
def test_corners_meet_every_plane(shape, plane):
    d = int(np.prod(shape))
    matrix = -np.eye(d)
    matrix[plane], matrix[plane[::-1]] = OMEGA, -OMEGA
    x = RNG.normal(size=(128, d))
    found = path_gaps(linear(matrix, shape), x.reshape(-1, *shape))
    expected = OMEGA * np.abs((x[64:] - x[:64])[:, list(plane)].prod(axis=1))
    met = np.abs(found.gap) > 1e-10
    np.testing.assert_allclose(np.abs(found.gap)[met], expected[met], rtol=1e-9)
    assert 25 < met.sum() < 62  # 38 expected of vectors, 53 of fields


@pytest.mark.parametrize("target", GRADIENTS, ids=NAMES)
def test_gradients_have_no_gap_and_the_right_integrals(target):
    x = states(target)
    found = path_gaps(target, x)
    rounding = 1e-12 * (1 + np.abs(target.energy(x)).max())
    assert (np.abs(found.gap) <= found.error + rounding).all()
    expected = target.energy(x[:20]) - target.energy(x[20:])
    assert (np.abs(found.straight - expected) <= found.error + 10 * rounding).all()
    assert found.not_finite == 0


def test_sharp_changes_are_resolved():
    target = ps.GaussianMixture([1, 1], [[-3.0, -1.0], [3.0, 1.0]], 0.05)
    x = np.concatenate([-np.ones((30, 1)), np.ones((30, 1))]) * [3.0, 1.0] + 0.1 * RNG.normal(size=(60, 2))
    watch = Watched(target)
    found = path_gaps(watch, x)
    assert watch.evaluations < 3 * 30 * 500
    assert found.error.max() < 1e-2
    assert np.abs(found.gap).max() < 1e-3
    expected = target.energy(x[:30]) - target.energy(x[30:])
    np.testing.assert_allclose(found.straight, expected, atol=1e-3)


def test_what_is_nowhere_resolved_is_bounded_and_says_so():
    rough = ps.from_functions(score=lambda x: 1e3 * np.sin(1e7 * x), shape=2)
    watch = Watched(rough)
    found = path_gaps(watch, RNG.normal(size=(40, 2)))
    assert watch.evaluations < 3 * 20 * 850
    assert (np.abs(found.gap) < 10 * found.error).all()
    assert found.typical_error > 10


def test_integrals_that_are_not_finite_are_counted():
    def score(x):  # none where x_0 > 0 > x_1
        return np.where((x[:, :1] > 0) & (x[:, 1:] < 0), np.nan, -x)

    x = np.abs(RNG.normal(size=(40, 2)))
    x[:20, 0] *= -1
    x[:20, 1] *= -1
    found = path_gaps(ps.from_functions(score=score, shape=2), x)
    assert 0 < found.not_finite < 20
    assert np.isfinite(found.typical_gap)


@pytest.mark.parametrize("target", GRADIENTS, ids=NAMES)
def test_log_p_along_rays(target):
    x = states(target)
    found = rays(target, x, energy=target, most=5)
    assert found.log_p.shape == found.error.shape == found.known.shape == (5, len(found.t))
    centre = x.mean(axis=0, keepdims=True)
    chosen = x[np.linspace(0, len(x) - 1, 5).round().astype(int)]
    np.testing.assert_allclose(found.known[:, -1], target.energy(centre) - target.energy(chosen), atol=1e-9)
    assert (found.log_p[:, 0] == 0).all()
    rounding = 1e-12 * (1 + np.abs(target.energy(x)).max())
    assert (np.abs(found.log_p - found.known) <= found.error + 100 * rounding).all()
    assert found.deviation <= found.quadrature_error + 100 * rounding
    assert found.quadrature_error < 1e-2


def test_rays_of_a_wrong_score_are_off():
    target = GRADIENTS[0]
    found = rays(1.3 * target, states(target), energy=target, centre=np.ones(3))
    np.testing.assert_allclose(found.log_p, 1.3 * found.known, atol=1e-12)
    assert found.deviation == pytest.approx(0.3 * np.sqrt(np.mean(found.known[:, -1] ** 2)))
    assert found.largest_deviation == pytest.approx(0.3 * np.abs(found.known).max())
    assert found.difference == pytest.approx(np.sqrt(np.mean(np.ptp(found.known, axis=1) ** 2)))
    assert np.isnan(rays(target, states(target)).deviation)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: curl_fraction(np.sin, np.zeros((2, 2))), "score is .*: it must have a tuple .shape"),
        (lambda: curl_fraction(linear(TURN), np.zeros(2)), r"x has shape \(2,\)"),
        (lambda: curl_fraction(linear(TURN), np.zeros((0, 2))), "x has no states"),
        (lambda: curl_fraction(linear(TURN), [[np.inf, 0.0]]), "x is not finite everywhere"),
        (lambda: curl_fraction(linear(TURN), np.zeros((2, 2)), probes=2), "probes is 2: .* at least 3"),
        (
            lambda: curl_fraction(ps.from_functions(score=lambda x: x * np.nan, shape=2), np.ones((2, 2))),
            "no finite derivative at any of 2 states",
        ),
        (lambda: path_gaps(linear(TURN), np.zeros((1, 2))), "x has 1 states: paths between them need two"),
        (lambda: rays(linear(TURN), np.zeros((2, 2)), centre=[0.0]), r"centre has shape \(1,\)"),
    ],
)
def test_bad_input_is_one_sentence(function, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)
