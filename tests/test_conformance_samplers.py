"""The conformance suite: right samplers pass, and each planted error of a sampler is found and named."""

import math
import re

import numpy as np
import pytest

pytest.importorskip("torch")

from physscore.learning import conformance
from physscore.noise import normal
from physscore.sampling.annealed import annealed_langevin
from physscore.sampling.denoising import edm_levels, heun
from physscore.sampling.diffusion import reverse_sde

SYSTEMS = conformance.all_systems()
SMALL = (conformance.gaussian(), conformance.mixture())


def name_of(value):
    return getattr(value, "name", None) or getattr(value, "__name__", None)


SETTINGS = conformance.annealed_settings()


def langevin(power=2.0, noise=2.0, denoise=True, settings=SETTINGS):
    """Annealed Langevin by hand, right or wrong."""

    def sampler(score_at, n, seed):
        sigmas, step = settings["sigmas"], 0
        shape = score_at(float(sigmas[0])).shape
        d = math.prod(shape)
        x = sigmas[0] * normal(n, d, seed=seed).reshape(n, *shape)
        for sigma in sigmas:
            alpha, target = settings["step_size"] * (sigma / sigmas[-1]) ** power, score_at(float(sigma))
            for _ in range(settings["steps"]):
                step += 1
                xi = normal(n, d, seed=seed, step=step).reshape(x.shape)
                x = x + alpha * target.score(x) + math.sqrt(noise * alpha) * xi
        return x + sigmas[-1] ** 2 * target.score(x) if denoise else x

    return sampler


def ours(score_at, n, seed):
    return annealed_langevin(score_at, SETTINGS["sigmas"], chains=n, steps=SETTINGS["steps"],
                             step_size=SETTINGS["step_size"], seed=seed)  # fmt: skip


def by_heun(score_at, n, seed):
    return heun(score_at, edm_levels(0.01, 20.0, 30), n, seed=seed)


def by_reverse_sde(score_at, n, seed):
    return reverse_sde(score_at, (0.01, 20.0), n, seed=seed, steps=250)


@pytest.mark.parametrize(
    ("sampler", "seed"),
    [(ours, 0), (ours, 1), (langevin(), 0), (by_heun, 0), (by_heun, 1), (by_reverse_sde, 0)],
    ids=name_of,
)
def test_right_samplers_pass(sampler, seed):
    options = {} if seed == 0 else {"systems": SMALL, "n": 2000}
    report = conformance.check_sampler(sampler, seed=seed, **options)
    assert report.passed, str(report)


def exact(sigma=0.0, scale=1.0, swap=False, share=None):
    """Draw from the laws themselves, or change the draws."""

    def sampler(score_at, n, seed):
        system = next(s for s in SYSTEMS if s.shape == score_at(1.0).shape)
        x = scale * system.draw(n, sigma, seed=seed)
        if share is not None and system.name == "mixture":
            parts = [part.sample(n, seed=seed) for part in system.energy.components]
            x = np.where(np.arange(n)[:, np.newaxis] < share * n, *parts)
        return x[:, ::-1] if swap else x

    return sampler


@pytest.mark.parametrize("seed", range(3))
def test_exact_draws_pass_without_tolerance(seed):
    report = conformance.check_sampler(exact(), seed=seed, n=8000, tolerance=0.0)
    assert report.passed, str(report)
    report = conformance.check_sampler(exact(sigma=0.5), seed=seed, n=8000, tolerance=0.0, sigma=0.5)
    assert report.passed, str(report)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (langevin(power=1.0), r"chains keep the spread they start with.* eps sigma_i\^2 / sigma_L\^2"),
        (langevin(power=-2.0), r"chains keep the spread they start with.* eps sigma_i\^2 / sigma_L\^2"),
        (langevin(noise=1.0), r"all variances are 0.5.*sqrt\(eps\) where it should be sqrt\(2 eps\)"),
        (langevin(noise=4.0), r"all variances are (2|1\.9).*drift is eps / 2"),
        (exact(sigma=0.4), r"keep noise of standard deviation 0.(39|4).*sigma=0"),
        (exact(scale=-1.0), "the means have the wrong sign"),
        (exact(share=0.5), "both modes are right, but not their weights"),
        (exact(swap=True), r"the variance that should be 0\.\d+ is"),
        (lambda score_at, n, seed: exact()(score_at, n, 7), "the seed makes no difference"),
        (lambda score_at, n, seed: exact()(score_at, n, seed) / 0, "not finite"),
        (lambda score_at, n, seed: exact()(score_at, n, seed)[1:], "the draws have shape"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_wrong_samplers_are_found_and_named(sampler, words):
    by_hand = sampler.__qualname__.startswith("langevin")
    options = {"systems": SMALL, "n": 1500} if by_hand else {}
    report = conformance.check_sampler(sampler, **options)
    assert not report.passed
    assert re.search(words, report.words), report.words


def test_weights_of_modes_have_a_check_of_their_own():
    report = conformance.check_sampler(exact(share=0.43), systems=SMALL[1:])
    (weight,) = [check for check in report.checks if check.name.startswith("weight")]
    # The allowance is 0.03, and the standard error sqrt(0.35 * 0.65 / 4000), a bit less as modes overlap.
    assert weight.z == pytest.approx(0.05 / math.sqrt(0.35 * 0.65 / 4000), rel=0.1)
    assert not weight.passed


LEVELS = np.geomspace(2.0, 0.1, 5)
SHORT = {"sigmas": LEVELS, "steps": 20, "step_size": 1e-3}


def ours_short(score_at, n, seed):
    return annealed_langevin(score_at, LEVELS, chains=n, steps=20, step_size=1e-3, seed=seed)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sampler", [ours_short, langevin(settings=SHORT)], ids=name_of)
def test_moves_of_right_samplers(sampler, seed):
    report = conformance.check_annealed_moves(sampler, LEVELS, seed=seed)
    assert report.passed, str(report)
    assert report.checks[-1].name.startswith("last move")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"power": 1.0}, "sigma_i / sigma_L: the square is left out"),
        ({"power": -2.0}, "the ratio is the wrong way round"),
        ({"power": 0.0}, "the same at all levels"),
        (
            {"noise": 1.0},
            r"the variance of the noise is (1|0\.99\d|1\.0\d*) alpha and should be 2 alpha: .*sqrt",
        ),
        ({"noise": 4.0}, "drift is alpha / 2"),
        ({"noise": 0.0}, "there is no noise"),
    ],
)
def test_moves_of_wrong_samplers(wrong, words):
    report = conformance.check_annealed_moves(langevin(settings=SHORT, **wrong), LEVELS)
    assert not report.passed
    assert re.search(words, report.words), report.words


def test_moves_that_end_wrong_or_go_elsewhere():
    def twice_denoised(score_at, n, seed):
        target, x = score_at(0.1), np.zeros((n, 2))
        x = ours_short(score_at, n, seed)
        return x + 0.02 * target.score(x)

    report = conformance.check_annealed_moves(twice_denoised, LEVELS)
    assert "the last move is 2 sigma_L^2 s" in report.words
    other = conformance.check_annealed_moves(ours_short, LEVELS * 1.1)
    assert "which is not in sigmas" in other.words
    assert "no moves at sigma = 3" in conformance.check_annealed_moves(ours_short, [3.0, *LEVELS]).words
    assert conformance.check_annealed_moves(langevin(settings=SHORT, denoise=False), LEVELS).passed


@pytest.mark.parametrize(
    ("power", "words"),
    [
        (1, "the square is left out"),
        (-2, "wrong way round"),
        (0, "the same at all"),
        (4, "twice"),
        (3, r"sigma\^3"),
    ],
)
def test_rules_of_steps(power, words):
    assert conformance.check_annealed_step(lambda s: 1e-3 * s**2, LEVELS).passed
    assert conformance.check_annealed_step(0.2 * LEVELS**2, LEVELS).passed
    report = conformance.check_annealed_step(lambda s: 1e-3 * s**power, LEVELS)
    assert not report.passed
    assert re.search(words, report.words), report.words
    nearly = LEVELS**2 * np.array([1.0, 1.0, 1.5, 1.0, 1.0])
    assert "at sigma = 0.4472 it is 1.5 of" in conformance.check_annealed_step(nearly, LEVELS).words
