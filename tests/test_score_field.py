"""The audit of a score: planted errors are named, right scores pass, and its words and numbers agree."""

import json

import numpy as np
import pytest

import physscore as ps
from physscore.diagnostics import score_field
from physscore.diagnostics.score_field import audit_score
from physscore.plots.score_audit import plot_score_audit

TURN = np.array([[0.0, -1.0], [1.0, 0.0]])
MIXTURE = ps.GaussianMixture([1, 2], [[-2.0, 0.5], [2.0, 0.0]], 0.5)
X = MIXTURE.sample(300, seed=1)
GRID = ps.Grid((6, 6), 6.0)
FIELD = ps.GaussianRandomField(GRID, ps.spectra.PowerLaw(index=-2.0, amplitude=1.0))
FIELDS = FIELD.sample(40, seed=2)
FEW = 1200  # evaluations a part, for fields


def changed(change, truth=MIXTURE):
    return ps.from_functions(score=lambda x: change(truth.score(x), x), shape=truth.shape, name="changed")


def noise_of(x):
    """Return normal deviates that are a smooth function of the state, and no gradient."""
    return np.sqrt(2) * np.sin(3 * x[:, ::-1] + np.array([0.3, 1.1]))


def said(audit):
    return " | ".join(audit.reasons)


@pytest.mark.parametrize(
    ("score", "x"),
    [
        (ps.Gaussian(np.arange(3.0), [1.0, 4.0, 0.25]), None),
        (MIXTURE, X),
        (ps.Funnel(4), None),
        (FIELD, FIELDS),
        (ps.smoothed(FIELD, 0.3), FIELDS),
    ],
    ids=["gaussian", "mixture", "funnel", "field", "smoothed"],
)
@pytest.mark.parametrize("known", [True, False])
def test_right_scores_pass(score, x, known):
    x = score.sample(200, seed=3) if x is None else x
    audit = audit_score(score, x, truth=score if known else None, evaluations=FEW)
    assert audit.passed, said(audit)
    assert audit.curl.fraction.value < 1e-10
    assert (audit.error is None) == (not known)
    assert (audit.bands is not None) == (known and len(score.shape) == 2)
    assert audit.energy == ("the true energy" if known else "its own energy")
    assert audit.rays.deviation < 1e-3
    assert audit.evaluations < 12 * FEW + len(x)


def test_numbers_of_a_gaussian():
    target = ps.Gaussian(np.zeros(2), [0.01, 1.0])
    audit = audit_score(target, target.sample(400, seed=0), step_size=0.01)
    assert audit.passed
    assert audit.spectrum.stable_step == pytest.approx(0.02)
    assert audit.spectrum.stiffness == pytest.approx(100.0)
    np.testing.assert_allclose(audit.divergence.values, -101.0)
    assert abs(audit.divergence.stein_scale.value - 1) < 4.5 * audit.divergence.stein_scale.error
    # eps tr(A) / 2d of draws
    ratio = audit.drift.ratio
    assert abs(ratio.value - 0.01 * 101 / 4) < 4.5 * ratio.error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s, x: -s, "points the wrong way: its best scale is -1, so its sign is wrong"),
        (lambda s, x: 1.3 * s, "the wrong size: it should be multiplied by 0.7692"),
        (lambda s, x: 0.5 * s, "the wrong size: it should be multiplied by 2"),
        (lambda s, x: s + 0.8 * noise_of(x), "points elsewhere: its mean cosine"),
        (lambda s, x: s + 1.5 * noise_of(x), r"the Fisher divergence is .*% of the direction"),
        (
            lambda s, x: s * np.where(x[:, :1] > 0, 1.4, 0.4),
            "the Fisher divergence is .* errors of the magnitude from state to state and 0% of the direction",
        ),
        (
            lambda s, x: s + 0.5 * x @ TURN.T,
            "not a gradient: .* of its Jacobian, in squares, is antisymmetric",
        ),
        (lambda s, x: s + 0.5 * x @ TURN.T, "integrals of the score depend on the way"),
        (lambda s, x: 1.3 * s, "log p along rays is off the true energy"),
        (lambda s, x: np.where(x[:, :1] > 2.5, np.nan, s), "is not finite at .* of 300 states"),
    ],
)
def test_planted_errors_are_named(change, words):
    audit = audit_score(changed(change), X, truth=MIXTURE)
    assert not audit.passed
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(said(audit))


def test_noise_in_direction_is_no_error_of_the_size():
    audit = audit_score(changed(lambda s, x: s + 0.8 * noise_of(x)), X, truth=MIXTURE)
    assert audit.error.scale.value < 0.8
    assert audit.error.gain.value == pytest.approx(1.0, abs=4.5 * audit.error.gain.error)
    assert "wrong size" not in said(audit)


def test_an_angle_is_no_error_of_the_size():
    turn = np.cos(0.7) * np.eye(2) + np.sin(0.7) * TURN
    audit = audit_score(changed(lambda s, x: s @ turn.T), X, truth=MIXTURE)
    assert audit.error.scale.value == pytest.approx(np.cos(0.7))
    assert "its mean cosine with the truth is 0.7648" in said(audit)
    assert "wrong size" not in said(audit)


def test_small_errors_pass():
    audit = audit_score(changed(lambda s, x: 1.05 * s + 0.05 * noise_of(x)), X, truth=MIXTURE)
    assert audit.passed, said(audit)
    assert audit.error.scale.value == pytest.approx(1 / 1.05, abs=0.01)


@pytest.mark.parametrize(("omega", "passes"), [(0.08, True), (0.12, False)])
def test_the_curl_that_fails_is_one_percent(omega, passes):
    """-x + w J x has the fraction w^2 / (1 + w^2)."""
    score = ps.from_functions(score=lambda x: -x + omega * x @ TURN.T, shape=2)
    audit = audit_score(score, np.random.default_rng(0).normal(size=(100, 2)))
    assert audit.curl.fraction.value == pytest.approx(omega**2 / (1 + omega**2))
    assert ("not a gradient" in said(audit)) == (not passes)


def test_the_plane_is_named_where_there_are_several():
    def score(x):
        turned = np.zeros_like(x)
        turned[:, 1], turned[:, 3] = -0.9 * x[:, 3], 0.9 * x[:, 1]
        return -x + turned

    audit = audit_score(
        ps.from_functions(score=score, shape=5), np.random.default_rng(0).normal(size=(60, 5))
    )
    assert "100% of that in the plane of components 1 and 3" in said(audit)


def test_without_a_truth_the_size_is_not_judged():
    audit = audit_score(changed(lambda s, x: 1.3 * s), MIXTURE.sample(2000, seed=4))
    assert audit.passed
    assert audit.error is None
    scale = audit.divergence.stein_scale
    assert abs(scale.value - 1 / 1.3) < 4.5 * scale.error
    assert any("it should be multiplied by 0.7" in remark for remark in audit.remarks)


@pytest.mark.parametrize("factor", [-1.0, -0.3])
def test_a_wrong_sign_is_seen_without_the_truth(factor):
    x = MIXTURE.sample(500, seed=1)
    audit = audit_score(changed(lambda s, x: factor * s), x)
    assert not audit.passed
    assert "its sign is wrong" in " ".join(audit.reasons)
    assert "Stein" not in " ".join(audit.remarks)
    assert audit_score(changed(lambda s, x: s), x).passed


def test_a_score_that_is_not_that_of_its_own_energy():
    wrong = ps.from_functions(energy=MIXTURE.energy, score=lambda x: 0.7 * MIXTURE.score(x), shape=2)
    audit = audit_score(wrong, X)
    assert "log p along rays is off its own energy" in said(audit)


@pytest.mark.parametrize("factor", [1.5, 1.0])
def test_an_error_in_one_band_of_k_is_named(factor):
    k = np.hypot(*np.meshgrid(*[2 * np.pi * np.fft.fftfreq(6)] * 2, indexing="ij"))
    factors = np.where((k > 0.5) & (k < 1.5), factor, 1.0)  # the first band

    def score(x):
        return np.fft.ifft2(factors * np.fft.fft2(FIELD.score(x))).real

    audit = audit_score(ps.from_functions(score=score, shape=(6, 6)), FIELDS, truth=FIELD, evaluations=FEW)
    assert audit.bands is not None  # on the grid of the truth
    wrong = [reason for reason in audit.reasons if "band" in reason]
    if factor == 1:
        assert audit.passed
        return
    assert wrong == [f"the size of the score is wrong in 1 of {len(audit.bands.k)} bands, at k = "
                     f"{audit.bands.k[0]:.3g}: its gain is 1.5"]  # fmt: skip
    assert audit.error.fisher.relative < 0.02  # in all it is hardly seen


def test_a_foreign_score_and_its_own_derivative():
    class Foreign:
        shape = [2]  # noqa: RUF012
        asked = 0

        def score(self, x):
            return MIXTURE.score(x).astype("f4")

    class WithDerivative(Foreign):
        def directional(self, x, v):
            type(self).asked += 1
            step = 1e-5
            both = MIXTURE.score(np.concatenate([x + step * v, x - step * v])).reshape(2, *x.shape)
            return self.score(x), (both[0] - both[1]) / (2 * step)

    Foreign.shape = WithDerivative.shape = (2,)
    first, second = audit_score(Foreign(), X, truth=MIXTURE), audit_score(WithDerivative(), X)
    assert first.passed, said(first)
    assert second.passed, said(second)
    assert WithDerivative.asked > 0
    np.testing.assert_allclose(first.divergence.mean.value, second.divergence.mean.value, rtol=1e-3)


def test_derivatives_that_are_noise_do_not_condemn():
    rough = changed(lambda s, x: s + 1e-2 * np.sin(1e7 * x[:, ::-1]))
    audit = audit_score(rough, X)
    assert audit.passed, said(audit)
    assert any("too noisy to see a curl" in remark for remark in audit.remarks)


@pytest.mark.parametrize(("step", "passes"), [(0.9, True), (1.1, False)])
def test_a_step_size_is_judged(step, passes):
    target = ps.Gaussian(np.zeros(3), [1.0, 2.0, 0.5])
    audit = audit_score(target, target.sample(50, seed=0), step_size=step)
    assert audit.passed == passes
    assert passes or "the step size 1.1 is not stable at 100% of the states: steps below 1 are" in said(audit)


@pytest.mark.parametrize("d", [2, 150])
def test_derivatives_that_are_not_finite_are_counted(d):
    class Broken:
        shape = (d,)

        def score(self, x):
            return -x

        def directional(self, x, v):
            return -x, np.where(x[:, :1] > 0, np.nan, -v)

    x = np.random.default_rng(0).normal(size=(40, d))
    audit = audit_score(Broken(), x)
    assert audit.reasons == [f"the score has no finite derivative at {(x[:, 0] > 0).sum()} of 40 states"]
    assert str(audit).startswith("audit of Broken: FAILED")
    assert audit.curl.fraction.value == pytest.approx(0, abs=1e-12)
    assert audit.spectrum.stable_step == pytest.approx(2.0)
    none = audit_score(Broken(), np.abs(x))
    assert none.reasons == ["the score has no finite derivative at 40 of 40 states"]
    assert none.curl is None


def test_differences_far_below_a_nat_do_not_matter():
    score = ps.from_functions(score=lambda x: 1e-4 * x @ TURN.T - 1e-3 * x, shape=2)
    audit = audit_score(score, 0.1 * np.random.default_rng(0).normal(size=(50, 2)))
    assert audit.paths.typical_gap < 1e-5
    assert "depend on the way" not in said(audit)


def test_what_is_finite_nowhere_is_said():
    audit = audit_score(changed(lambda s, x: s * np.nan), X, truth=MIXTURE)
    assert audit.reasons == ["the score is not finite at 300 of 300 states"]
    assert audit.curl is None
    assert audit.rays is None
    assert "300 not finite" in str(audit)
    assert json.loads(json.dumps(audit.as_dict()))["curl"] is None


@pytest.mark.parametrize("fields", [False, True])
def test_numbers_and_words_agree_and_are_the_same_each_time(fields):
    score, x = (FIELD, FIELDS) if fields else (changed(lambda s, x: s + noise_of(x)), X)
    options = {"truth": FIELD if fields else MIXTURE, "step_size": 0.01, "seed": 5, "evaluations": FEW}
    first, second = audit_score(score, x, **options), audit_score(score, x, **options)
    assert first.as_dict() == second.as_dict()
    text = json.dumps(first.as_dict(), allow_nan=False)
    read = json.loads(text)
    assert read["passed"] == first.passed == (not read["reasons"])
    assert read["curl"]["fraction"]["value"] == first.curl.fraction.value
    assert read["error"]["fisher_divergence"]["relative"] == first.error.fisher.relative
    lines = str(first).splitlines()
    assert lines[0].endswith("passed" if first.passed else "FAILED")
    assert [line[4:] for line in lines if line.startswith("  ! ")] == first.reasons
    assert [line[4:] for line in lines if line.startswith("  - ")] == first.remarks
    cells = [line for line in lines[1:] if not line.startswith(("  ! ", "  - "))]
    width = min(len(line) - len(line[2:].lstrip().split("  ", 1)[-1].lstrip()) for line in cells)
    assert {line[width - 1] for line in cells} == {" "}
    assert " ".join(cells[0].split()).startswith(f"states {len(x)} of ")


def test_many_dimensions_by_random_directions():
    d = 150
    precision = np.linspace(1.0, 20.0, d)

    def score(x):
        turned = np.concatenate([-x[:, 1::2, None], x[:, ::2, None]], axis=2).reshape(x.shape)
        return -precision * x + 3.0 * turned

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, d)) / np.sqrt(precision)
    audit = audit_score(ps.from_functions(score=score, shape=d), x, evaluations=4000)
    expected = 9 * d / ((precision**2).sum() + 9 * d)
    fraction = audit.curl.fraction
    assert not audit.curl.exact
    assert abs(fraction.value - expected) < 4.5 * fraction.error
    assert 0 < fraction.error < 0.1 * expected
    assert "not a gradient" in said(audit)
    assert abs(audit.divergence.mean.value + precision.sum()) < 1e-6  # diagonal: each probe is exact
    assert not audit.spectrum.exact


def test_how_much_is_evaluated_follows_the_budget(monkeypatch):
    few, many = (audit_score(MIXTURE, X, evaluations=n).evaluations for n in (200, 5000))
    assert few < 2500 < many
    monkeypatch.setattr(score_field, "_COMPONENTS", 400)
    assert audit_score(MIXTURE, X).evaluations < 2500


def test_progress_counts_the_evaluations(monkeypatch):
    counted = []

    class Bar:
        def __init__(self, **settings):
            counted.append(settings["disable"])

        def __enter__(self):
            return self

        def __exit__(self, *stopped):
            pass

        def update(self, n):
            counted.append(n)

    monkeypatch.setattr(score_field, "tqdm", Bar)
    audit = audit_score(MIXTURE, X, evaluations=200, progress=True)
    assert counted[0] is None  # shown on a terminal
    assert sum(counted[1:]) == audit.evaluations


@pytest.mark.parametrize("case", ["vectors", "no truth", "fields", "nothing finite", "zero"])
def test_pictures(case, tmp_path):
    spoiled = changed(lambda s, x: 1.2 * s + noise_of(x))
    audit = {
        "vectors": lambda: audit_score(spoiled, X, truth=MIXTURE, step_size=0.1),
        "no truth": lambda: audit_score(ps.Funnel(4), ps.Funnel(4).sample(100, seed=0)),
        "fields": lambda: audit_score(FIELD, FIELDS, truth=FIELD, evaluations=FEW),
        "nothing finite": lambda: audit_score(changed(lambda s, x: s * np.nan), X),
        "zero": lambda: audit_score(changed(lambda s, x: 0 * s), X, truth=MIXTURE),
    }[case]()
    path = tmp_path / "audit.png"
    plot_score_audit(path, audit)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": np.sin}, "score is <ufunc 'sin'>: it must have a tuple .shape and a method .score"),
        ({"x": X[:, :1]}, r"x has shape \(300, 1\): it must be \(n, 2\)"),
        ({"x": X[:7]}, "x has 7 states: an audit needs at least 8"),
        ({"x": X * np.inf}, "x is not finite everywhere"),
        ({"truth": FIELD}, r"truth is of states of shape \(6, 6\): it must be \(2,\)"),
        ({"step_size": -1.0}, "step_size is -1.0: it must be a positive number"),
        ({"grid": GRID}, r"grid is Grid.*: it must be a Grid of shape \(2,\)"),
        ({"evaluations": 0}, "evaluations is 0: it must be a whole number of at least 1"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message):
    with pytest.raises(ps.InputError, match=message) as caught:
        audit_score(**{"score": MIXTURE, "x": X, **arguments})
    assert "\n" not in str(caught.value)
