"""The conformance suite: right losses pass, and each planted error of a loss is found and named."""

import math
import re
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from physscore.energies.torch_modules import score_of  # noqa: E402
from physscore.learning import conformance, losses  # noqa: E402

SMALL = (conformance.gaussian(), conformance.mixture())


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def name_of(value):
    return getattr(value, "name", None) or getattr(value, "__name__", None)


OURS = {
    "exact": losses.exact,
    "sliced": losses.sliced,
    "denoising": losses.denoising,
    "levels": losses.denoising_levels,
}


@pytest.mark.parametrize("kind", OURS)
def test_our_losses_pass(kind):
    report = conformance.check_loss(OURS[kind], kind)
    assert report.passed, str(report)
    assert {check.system for check in report.checks} == {"gaussian", "mixture", "field", ""}


@pytest.mark.long
@pytest.mark.parametrize(("kind", "seed"), [("sliced", 1), ("denoising", 1), ("denoising", 2), ("levels", 1)])
def test_our_losses_pass_for_other_seeds(kind, seed):
    report = conformance.check_loss(OURS[kind], kind, systems=SMALL[seed - 1 :][:1], seed=seed)
    assert report.passed, str(report)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sliced", "denoising", "levels"])
def test_deviates_of_right_losses_are_normal(kind, monkeypatch):
    # Of 40 seeds, without the allowance: |z| > 2 in 4.55%, and none beyond 5.
    monkeypatch.setattr(sys.modules["physscore.learning.conformance.losses"], "_ALLOWANCE", 0.0)
    z = []
    for seed in range(40):
        report = conformance.check_loss(OURS[kind], kind, systems=SMALL, seed=100 + seed)
        assert report.passed, str(report)
        others = ("gradient", "fourth moment")  # the latter has an allowance of its own
        z += [c.z for c in report.checks if c.z is not None and not c.name.startswith(others)]
    assert np.std(z) == pytest.approx(1.0, abs=0.15)
    assert np.abs(z).max() < 5.0


def reduced(model, x, slices):
    return losses.sliced(model, x, slices, variance_reduced=True)


def rademacher(model, x, slices):
    return losses.sliced(model, x, slices, distribution="rademacher")


def antithetic(model, x, sigma):
    return losses.denoising(model, x, sigma, antithetic=True)


def without_half(model, x):
    return 2 * losses.exact(model, x)


class HoldsItsModel:
    """A loss as other packages have it: it holds a model of the energy, and averages over components."""

    def __init__(self, model, sigma):
        self.model, self.sigma = model, sigma

    def __call__(self, x):
        noise = torch.randn_like(x) * self.sigma
        y = (x + noise).requires_grad_()
        (gradient,) = torch.autograd.grad(self.model(y).sum(), y, create_graph=True)
        return torch.nn.functional.mse_loss(-gradient, -noise / self.sigma**2)


def held(model, x, sigma):
    return HoldsItsModel(model, sigma)(x)


@pytest.mark.parametrize(
    ("loss", "kind", "options"),
    [
        (reduced, "sliced", {"systems": SMALL[:1]}),
        (rademacher, "sliced", {"systems": SMALL[:1]}),
        (antithetic, "denoising", {}),
        (losses.denoising, "denoising", {"form": "energy", "dtype": torch.float32}),
        (losses.exact, "exact", {"form": "energy"}),
        (without_half, "exact", {"scale": 2.0}),
        (held, "denoising", {"form": "energy", "scale": lambda d: 2 / d}),
    ],
    ids=name_of,
)
def test_other_forms_of_right_losses_pass(loss, kind, options):
    report = conformance.check_loss(loss, kind, **{"systems": SMALL, **options})
    assert report.passed, str(report)


# Losses that are wrong ------------------------------------------------------------------------------------


def parts(model, x):
    score, divergence = losses.score_and_divergence(model, x)
    return 0.5 * (score**2).flatten(1).sum(1), divergence


def over_dimension(model, x):
    square, divergence = parts(model, x)
    return (square + divergence / x[0].numel()).mean()


def wrong_sign(model, x):
    square, divergence = parts(model, x)
    return (square - divergence).mean()


def no_half(model, x):
    square, divergence = parts(model, x)
    return (2 * square + divergence).mean()


def detached_divergence(model, x):
    square, divergence = parts(model, x)
    return (square + divergence.detach()).mean()


def no_gradient(model, x):
    return losses.exact(model, x).detach()


def changes_the_batch(model, x):
    x -= 0.01 * x.mean(0)
    return losses.exact(model, x)


def marks_the_batch(model, x):
    return losses.exact(model, x.requires_grad_())


def no_mean(model, x):
    square, divergence = parts(model, x)
    return square + divergence


def never_finite(model, x):
    return losses.exact(model, x) * math.nan


def sum_over_slices(model, x, slices):
    return slices * losses.sliced(model, x, slices)


def sum_of_curvatures(model, x, slices):
    """Average the squares over the slices, but not what stands with them."""
    x = x.clone().requires_grad_()
    score, total = score_of(model, x), 0.0
    for _ in range(slices):
        v = torch.randn_like(x)
        (product,) = torch.autograd.grad((score * v).sum(), x, create_graph=True)
        total = total + (product * v).flatten(1).sum(1).mean()
    return 0.5 * (score**2).flatten(1).sum(1).mean() + total


def first_slice_only(model, x, slices):
    return losses.sliced(model, x, 1)


def unit_slices(model, x, slices):
    x = x.clone().requires_grad_()
    score, total = score_of(model, x), 0.0
    for _ in range(slices):
        v = torch.nn.functional.normalize(torch.randn_like(x).flatten(1), dim=1).reshape(x.shape)
        (product,) = torch.autograd.grad((score * v).sum(), x, create_graph=True)
        total = total + (product * v).flatten(1).sum(1).mean() / slices
    return 0.5 * (score**2).flatten(1).sum(1).mean() + total


def noisy(sign=1.0, power=1.0, noise=lambda sigma: sigma, weight=lambda sigma: 1.0):
    def loss(model, x, sigma):
        e = torch.randn_like(x)
        score = model(x + noise(sigma) * e, torch.full((len(x),), sigma, dtype=x.dtype))
        return weight(sigma) * 0.5 * ((score + sign * e / sigma**power) ** 2).flatten(1).sum(1).mean()

    return loss


def levels(power=2.0, sign=1.0, factor=1.0):
    def loss(model, x, sigmas):
        sigma = sigmas[torch.randint(len(sigmas), (len(x),))]
        e, wide = torch.randn_like(x), sigma.reshape(-1, *[1] * (x.ndim - 1))
        square = ((model(x + wide * e, sigma) + sign * e / wide) ** 2).flatten(1).sum(1)
        return factor * 0.5 * (sigma**power * square).mean()

    return loss


def uniform(model, x, sigma):
    e = (2 * torch.rand_like(x) - 1) * 3**0.5
    return 0.5 * ((model(x + sigma * e) + e / sigma) ** 2).flatten(1).sum(1).mean()


def signs(model, x, sigma):
    e = torch.cat([torch.sign(torch.randn_like(x)) for _ in range(2)])
    return 0.5 * ((model(torch.cat([x, x]) + sigma * e) + e / sigma) ** 2).flatten(1).sum(1).mean()


WRONG = [
    (
        "exact",
        over_dimension,
        r"the divergence is 0\.333 of what it should be: is it divided by the dimension\?",
    ),
    ("exact", wrong_sign, "the divergence has the wrong sign"),
    ("exact", no_half, r"factor 1/2 before \|s\|\^2 is left out"),
    ("exact", without_half, r"the loss is 2 times its closed form.*scale=2\)"),
    ("exact", detached_divergence, "lacks that of the divergence: is it detached"),
    ("exact", no_gradient, "no gradient over the weights"),
    ("exact", changes_the_batch, "changes the batch of its caller"),
    ("exact", marks_the_batch, "sets requires_grad on the batch"),
    ("exact", no_mean, r"numbers of shape \(256,\): the mean over the batch is left out"),
    ("exact", never_finite, "the loss is not finite"),
    ("sliced", sum_over_slices, "the mean over slices is left out: the loss grows with their number$"),
    ("sliced", sum_of_curvatures, "the mean over slices is left out of the divergence"),
    ("sliced", first_slice_only, "the scatter does not fall like 1 / slices"),
    ("sliced", unit_slices, "is it divided by the dimension"),
    ("denoising", noisy(sign=-1.0), r"the target has the wrong sign.*1/2 \|s \+ e / sigma\|\^2"),
    ("denoising", noisy(power=0.0), "the target is -e where it should be"),
    ("denoising", noisy(power=2.0), r"the target is -e / sigma\^2"),
    ("denoising", noisy(noise=lambda s: s**2), r"asked at states with noise of 0.2.* it is sigma\^2"),
    ("denoising", noisy(noise=lambda s: 0.0), "states without noise"),
    ("denoising", noisy(weight=lambda s: s**2), r"weighted by sigma\^2"),
    ("denoising", uniform, r"the noise is not normal: its fourth moment is 1\.(79|8|81)"),
    ("denoising", signs, r"the noise is not normal: its fourth moment is 1 "),
    ("denoising", held, r"a mean over the dimensions, too, without 1/2\?"),
    ("levels", levels(power=0.0), r"the weight sigma\^2 is missing"),
    ("levels", levels(power=1.0), r"the weight is sigma and not sigma\^2"),
    ("levels", levels(power=4.0), r"the weight sigma\^2 is there twice"),
    ("levels", levels(sign=-1.0), "the target has the wrong sign"),
    ("levels", levels(factor=3.0), "a sum over the noise levels"),
    (
        "levels",
        levels(power=0.0, factor=2.0),
        r"the weight sigma\^2 is missing.* (2|1\.9)\S* times too large",
    ),
]


@pytest.mark.parametrize(("kind", "loss", "words"), WRONG)
def test_wrong_losses_are_found_and_named(kind, loss, words):
    form = "energy" if loss is held else "score"
    several = loss in (over_dimension, held, without_half)  # it shows in how the error depends on d
    report = conformance.check_loss(loss, kind, systems=SMALL if several else SMALL[:1], form=form)
    assert not report.passed
    assert re.search(words, report.words), report.words
    assert "FAILED" in str(report)
    assert report.words.split("; ")[0] in str(report)


def test_the_planted_losses_are_wrong_in_nothing_else():
    assert conformance.check_loss(noisy(), "denoising", systems=SMALL[:1]).passed
    assert conformance.check_loss(levels(), "levels", systems=SMALL[:1]).passed


def test_a_level_that_weighs_too_much_is_found():
    def loss(model, x, sigmas):
        sigma = sigmas[torch.randint(len(sigmas), (len(x),))]
        weight = torch.where(sigma == sigmas[1], 1.3, 1.0) * sigma**2
        e, wide = torch.randn_like(x), sigma.reshape(-1, *[1] * (x.ndim - 1))
        return 0.5 * (weight * ((model(x + wide * e, sigma) + e / wide) ** 2).flatten(1).sum(1)).mean()

    report = conformance.check_loss(loss, "levels", systems=SMALL[:1])
    failed = {check.name for check in report.failed if "only" in check.name}
    assert failed
    assert all("sigma = 0.7" in name for name in failed)


def test_random_numbers_of_the_caller_are_left_alone():
    before = torch.get_rng_state()
    first = conformance.check_loss(losses.denoising, "denoising", systems=SMALL[:1], seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    again = conformance.check_loss(losses.denoising, "denoising", systems=SMALL[:1], seed=5)
    assert first == again
