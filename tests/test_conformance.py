"""The conformance suite: its closed forms, its reports, and the check of scores."""

import json
import math
import re

import numpy as np
import pytest

import physscore as ps

torch = pytest.importorskip("torch")

from scipy import stats  # noqa: E402

from physscore.energies.torch_modules import score_of  # noqa: E402
from physscore.learning import conformance, losses  # noqa: E402
from physscore.learning.conformance.models import Model, family  # noqa: E402
from physscore.learning.conformance.report import Check, deviate, judged, of_student, worst  # noqa: E402
from physscore.learning.conformance.trial import Trial  # noqa: E402
from physscore.learning.conformance.truth import MixtureTruth, truth_of  # noqa: E402

SYSTEMS = conformance.all_systems()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def name_of(value):
    return getattr(value, "name", None) or getattr(value, "__name__", None)


# The truth in torch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS, ids=name_of)
@pytest.mark.parametrize("sigma", [0.1, 0.5, 3.0])
def test_true_scores_are_those_of_numpy(system, sigma):
    truth, energy = truth_of(system), ps.smoothed(system.energy, sigma)
    x = system.draw(50, sigma, seed=3)
    t = torch.from_numpy(x)
    np.testing.assert_allclose(truth.score(t, sigma**2).numpy(), energy.score(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(system.score_at(sigma).score(x), energy.score(x), rtol=1e-9, atol=1e-9)
    gap = truth.energy(t, sigma**2).numpy() - energy.energy(x)
    assert np.ptp(gap) < 1e-9 * np.abs(energy.energy(x)).max()


@pytest.mark.parametrize("system", SYSTEMS, ids=name_of)
def test_true_scores_at_a_noise_level_of_each_state(system):
    truth = truth_of(system)
    x = torch.from_numpy(system.draw(6, 0.5, seed=1))
    sigma = torch.linspace(0.2, 2.0, 6, dtype=torch.float64)
    for function in (truth.score, truth.divergence, truth.energy):
        one_by_one = torch.cat([function(x[i : i + 1], sigma[i] ** 2) for i in range(6)])
        torch.testing.assert_close(function(x, sigma**2), one_by_one)


@pytest.mark.parametrize("system", SYSTEMS, ids=name_of)
def test_averages_are_exact(system):
    truth, variance = truth_of(system), system.sigma**2
    x, w = truth.nodes(variance)
    assert float(w.sum()) == pytest.approx(1.0, abs=1e-12)
    score, rows = truth.score(x, variance).flatten(1), x.flatten(1)
    np.testing.assert_allclose((w @ score).numpy(), 0.0, atol=1e-8)
    square, divergence = float(w @ (score**2).sum(1)), float(w @ truth.divergence(x, variance))
    assert square == pytest.approx(-divergence, rel=1e-8)  # Stein: E[|s|^2 + div s] = 0
    drawn = system.draw(5000, system.sigma, seed=5).reshape(5000, -1)
    error = drawn.std(axis=0) / math.sqrt(len(drawn))
    assert np.abs(((w @ rows).numpy() - drawn.mean(axis=0)) / error).max() < 4.5  # 64 comparisons
    spread = np.array([float(w @ (rows[:, i] - w @ rows[:, i]) ** 2) for i in range(rows.shape[1])])
    assert np.abs(spread / drawn.var(axis=0) - 1).max() < 4.5 * math.sqrt(2.5 / len(drawn))


def test_averages_over_a_mixture_need_no_more_nodes(monkeypatch):
    module = __import__("physscore.learning.conformance.truth", fromlist=["_NODES"])
    found = []
    for nodes in (module._NODES, 2 * module._NODES):
        monkeypatch.setattr(module, "_NODES", nodes)
        truth = MixtureTruth(conformance.mixture().energy)
        x, w = truth.nodes(0.16)
        found.append([
            float(w @ ((model.score(x) - truth.score(x, 0.16)) ** 2).sum(1).detach())
            for model in family(truth, 0.4, "score").values()
        ])  # fmt: skip
    np.testing.assert_allclose(*found, rtol=1e-6)


@pytest.mark.parametrize("system", SYSTEMS, ids=name_of)
def test_models_know_their_divergence_and_their_energy(system):
    truth = truth_of(system)
    x = torch.from_numpy(system.draw(5, system.sigma, seed=2))
    for name, model in family(truth, system.sigma, "score").items():
        score, divergence = losses.score_and_divergence(lambda y, m=model: m(y), x)
        torch.testing.assert_close(model.divergence(x), divergence, msg=name)
        gap = float(((score - truth.score(x, system.sigma**2)) ** 2).sum().detach())
        assert gap > 0.1, name
    for name, model in family(truth, system.sigma, "energy").items():
        torch.testing.assert_close(score_of(model, x), model.score(x), msg=name)
    one = Model(truth, system.sigma, scale=3.0, only_at=0.7)
    right, wrong = truth.score(x, 0.09), 3.0 * truth.score(x, 0.49)
    torch.testing.assert_close(one(x, torch.full((5,), 0.3)), right)
    torch.testing.assert_close(one(x, torch.full((5,), 0.7)), wrong)


@pytest.mark.parametrize("system", SYSTEMS, ids=name_of)
@pytest.mark.parametrize("kind", ["exact", "denoising", "levels"])
def test_the_terms_add_up_to_half_the_fisher_divergence(system, kind):
    trial = Trial(None, kind, system, "score", 1.0, torch.float64, 0)
    models = [*family(trial.truth, system.sigma, "score").values(), trial.model(scale=0.0, only_at=0.7)]
    expected = np.array([float(trial.half_fisher(model).detach()) for model in models])
    terms = trial.all_terms(models).sum(axis=2)
    if trial.with_noise:  # Hyvarinen 2005, theorem 1: exactly so in expectation
        np.testing.assert_allclose(terms[0], expected, rtol=1e-6, atol=1e-9)
    else:
        assert np.abs(deviate(terms, expected)[1]).max() < 4.5  # 21 comparisons
    (s, t), (x, w) = (models[0].score, trial.truth.score), trial.nodes[0]
    if kind != "levels":
        by_hand = 0.5 * w @ ((s(x, system.sigma) - t(x, system.sigma**2)) ** 2).flatten(1).sum(1)
        assert expected[0] == pytest.approx(float(by_hand.detach()))


# Scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS, ids=name_of)
def test_true_scores_pass(system):
    assert conformance.check_score_at(system.score_at, system).passed
    by_hand = conformance.check_score_at(lambda s: ps.smoothed(system.energy, s), system.energy, seed=4)
    assert by_hand.passed, str(by_hand)
    truth = truth_of(system)
    report = conformance.check_score_at(
        lambda s: lambda x: truth.score(torch.from_numpy(x), s**2).numpy(), system, sigmas=[0.4, 0.05]
    )
    assert report.passed, str(report)


def changes_states(x, s, true):
    found = true(s)
    x += 1.0
    return found


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x, s, true: -true(s), "the wrong sign: is it the gradient of the energy"),
        (lambda x, s, true: true(s) * (1.2 if s == 0.5 else 1), r"sigma = 0.5 only is 1.2 times .*magnitude"),
        (lambda x, s, true: -true(s) if s == 0.5 else true(s), "at sigma = 0.5 only: it has the wrong sign"),
        (lambda x, s, true: 3 * true(s), "the score is 3 times what it should be"),
        (lambda x, s, true: true(s) * (2 + s), "is 4, 3, 2.5, 2.2 times what .* at sigma = 2, 1, 0.5, 0.2"),
        (lambda x, s, true: -s * true(s), "the noise that a network predicts"),
        (lambda x, s, true: s**2 * true(s), r"multiplied by sigma\^2"),
        (lambda x, s, true: x + s**2 * true(s), "the denoised state"),
        (lambda x, s, true: true(0.0), "does not depend on sigma"),
        (lambda x, s, true: true(math.sqrt(s)), "taken for a variance"),
        (lambda x, s, true: true(s**2), "squared once too often"),
        (lambda x, s, true: np.clip(true(s), -1, 1), "errors of .* relative to the true one"),
        (lambda x, s, true: true(s) @ np.array([[1, 0.3], [-0.3, 1]]), "errors of .* relative to the true"),
        (lambda x, s, true: 0 * x, "zero at all states"),
        (lambda x, s, true: x / 0, "not finite"),
        (lambda x, s, true: x[:, :1], r"shape \(500, 1\) for states \(500, 2\)"),
        (changes_states, "changes the states of its caller"),
    ],
)  # fmt: skip
def test_wrong_scores_are_found_and_named(wrong, words):
    system = conformance.mixture()

    def score_at(sigma):
        def score(x):
            y = x.copy()
            return wrong(x, sigma, lambda s: ps.smoothed(system.energy, s).score(y))

        return score

    report = conformance.check_score_at(score_at, system, sigmas=[2.0, 1.0, 0.5, 0.2])
    assert not report.passed
    assert re.search(words, report.words), report.words


def test_a_fair_network_passes_with_a_tolerance():
    system = conformance.gaussian()

    def score_at(sigma):
        return lambda x: 1.05 * system.score_at(sigma).score(x)

    for tolerance, passes in ((0.1, True), (0.04, False)):
        assert conformance.check_score_at(score_at, system, tolerance=tolerance).passed == passes


# Reports --------------------------------------------------------------------------------------------------


def test_a_report_is_a_table_and_json():
    report = conformance.check_score_at(
        lambda s: lambda x: -x, ps.Gaussian(0.0, 1.0, dim=2), sigmas=[1.0, 0.5]
    )
    found = json.loads(json.dumps(report.as_dict()))
    assert found["passed"] is False
    assert found["false_alarms"] == 1e-4
    assert len(found["checks"]) == 6
    lines = str(report).splitlines()
    assert lines[0].startswith("score: FAILED")
    columns = [line.index("expected") for line in lines if "expected" in line]
    assert len(columns) == 1
    assert lines[-1].startswith("  -> the score")


def test_the_bound_holds_for_all_checks_together():
    checks = [Check(str(i), 0.0, 0.0, z) for i, z in enumerate([4.5, -4.9] + 48 * [0.0])]
    report = judged("some", checks, 0, lambda check: f"word {check.name}")
    assert 2 * stats.norm.sf(report.bound) * 50 == pytest.approx(1e-4)
    assert [check.name for check in report.failed] == ["1"]
    assert report.words == "word 1"


def test_deviates_have_the_probability_of_students_t():
    for t in (0.3, 3.0, 9.0, 40.0):
        z = float(of_student(t, 1.0, 11))
        assert stats.norm.sf(z) == pytest.approx(stats.t.sf(t, 11), rel=1e-9)
    values = np.random.default_rng(0).normal(1.0, 2.0, (12, 3))
    mean, z = deviate(values, 1.0)
    expected = stats.ttest_1samp(values, 1.0)
    np.testing.assert_allclose(2 * stats.norm.sf(np.abs(z)), expected.pvalue)
    assert np.all(deviate(values, mean + 0.1, 0.2)[1] == 0)
    assert stats.norm.sf(worst([0.5, -4.0, 1.0])) == pytest.approx(1 - 3 * stats.norm.sf(4.0))
    assert deviate(np.full((5, 1), math.nan))[1] == 37.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: conformance.check_loss(3, "exact"), "loss is 3: it must be a function"),
        (
            lambda: conformance.check_loss(losses.exact, "hyvarinen"),
            "kind is 'hyvarinen': it must be one of exact",
        ),
        (lambda: conformance.check_loss(losses.exact, "exact", form="flow"), "form is 'flow'"),
        (lambda: conformance.check_loss(losses.exact, "exact", scale=-1.0), "scale is -1.0"),
        (lambda: conformance.check_loss(losses.exact, "exact", seed=-1), "seed is -1"),
        (lambda: conformance.check_loss(losses.exact, "exact", systems=[]), r"systems is \[\]"),
        (lambda: conformance.check_sampler(len, systems=SYSTEMS[0]), "must be a list of System"),
        (lambda: conformance.check_score_at(3, SYSTEMS[0]), "score_at is 3"),
        (lambda: conformance.check_score_at(lambda s: 3, SYSTEMS[0]), r"score_at\(.*\) returned 3"),
        (lambda: conformance.check_score_at(lambda s: s, ps.Ring()), "have a closed form"),
        (lambda: conformance.check_score_at(lambda s: s, SYSTEMS[0], tolerance=0.0), "tolerance is 0.0"),
        (lambda: conformance.check_sampler(3), "sampler is 3"),
        (lambda: conformance.check_sampler(len, n=10), "n is 10"),
        (lambda: conformance.check_sampler(len, sigma=-1.0), "sigma is -1.0"),
        (lambda: conformance.check_annealed_step([1.0, 2.0], [1.0, 2.0]), "fall"),
        (lambda: conformance.check_annealed_step([1.0], [2.0, 1.0]), "a positive step for each of 2 levels"),
        (lambda: conformance.check_annealed_step([1.0], [2.0]), "two noise levels at least"),
        (lambda: conformance.check_annealed_moves(3, [2.0, 1.0]), "sampler is 3"),
    ],
)
def test_bad_input_is_one_sentence(call, words):
    with pytest.raises(ps.InputError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
