"""Is a loss of score matching right? Its values and gradients against half the Fisher divergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.special import fdtr, ndtri

from physscore.core import InputError
from physscore.learning.conformance.diagnosis import Counts, explain, explain_gradient, explain_noise
from physscore.learning.conformance.models import FORMS, family
from physscore.learning.conformance.report import Check, Report, deviate, judged, worst
from physscore.learning.conformance.systems import System, chosen
from physscore.learning.conformance.trial import FEW, SIZES, WEIGHTS, Trial, counts_of
from physscore.sampling.engine import whole

_ALLOWANCE = 2e-3  # of the size of the terms: what is off by less is not counted
_MANY, _REPEATS, _STATES = 8, 100, 256  # slices, how often, and of how many states: for the scatter

_AT_TRUTH, _AWAY = "gradient at the true score", "gradient away from it"
_FOURTH = "fourth moment of the noise"
_SCATTER, _ONE_SLICE = f"scatter of 1 slice / that of {_MANY}", "score times 0.5, 1 slice"


def check_loss(
    loss: Callable[..., Any],
    kind: str,
    *,
    form: str = "score",
    systems: Sequence[System] | None = None,
    scale: float | Callable[[int], float] = 1.0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Report:
    """Hold a loss to half the Fisher divergence, on three laws in closed form.

    The laws are a normal one in 3 dimensions, a mixture in 2, and a Gaussian random field of 64 cells, with
    noise. For models that are the true score made wrong in a known way, loss(model) - loss(truth) has to be
    1/2 E|s - s*|^2 (over several noise levels their mean with the weight sigma^2), since all the losses are
    that, up to a constant of the data; its gradient over the weights likewise, and 0 at the truth. This is
    measured over independent batches. What a loss of the kind "exact" or "sliced" does with a batch is
    compared with 1/2 |s|^2 + div s on the same batch, so that the scatter of the data does not count.

    Parameters
    ----------
    loss
        Called as ours are, and as its kind says:

        * "exact": loss(model, x)
        * "sliced": loss(model, x, slices=k)
        * "denoising": loss(model, x, sigma), with a number sigma
        * "levels": loss(model, x, sigmas), with a tensor of them

        It is to return the mean over the batch ``x`` (n, *shape), one number. The model is a
        ``torch.nn.Module`` that returns scores (n, *shape) and is called as model(x), or model(x, sigma) with
        sigma (n,); the latter it has to be for "levels". What is called otherwise needs an adapter of one
        line. A loss that holds its model, as those of torchebm do:
        ``lambda model, x: ScoreMatching(Wrapped(model), dtype=x.dtype)(x)``, where ``Wrapped`` makes a model
        of theirs of it; one that calls its model with the number of a level:
        ``lambda model, x, sigmas: loss(lambda y, i: model(y, sigmas[i]), x, sigmas)``.
        Random numbers are best those of torch: they are seeded before each call, so that all models
        see the same ones. Others will do, but more scatter is left.
    kind
        "exact", "sliced", "denoising" or "levels".
    form
        "score"; or "energy" if the loss needs a model that returns energies (n,), with the score -grad E.
    systems
        Laws. [default: all three]
    scale
        By how much the loss is larger than ours by intent: a number, or a function of the dimension. That of
        |s|^2 + 2 div s is 2.
    dtype
        Of states and noise levels.
    seed
        A whole number from 0 to 2^63 - 1.

    Returns
    -------
    Report
        Its ``words`` say what is likely wrong. It takes a few seconds.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """
    if not callable(loss):
        raise InputError(f"loss is {loss!r}: it must be a function of a model and a batch")
    if kind not in SIZES:
        raise InputError(f"kind is {kind!r}: it must be one of {', '.join(SIZES)}")
    if form not in FORMS:
        raise InputError(f"form is {form!r}: it must be 'score' or 'energy'")
    if not callable(scale) and not (isinstance(scale, int | float) and 0 < scale < math.inf):
        raise InputError(f"scale is {scale!r}: it must be a positive number, or a function of the dimension")
    seed = whole(0, seed=seed)
    checks: list[Check] = []
    counts: list[Counts] = []
    slopes: list[Counts] = []
    trials: list[Trial] = []
    with torch.random.fork_rng(devices=[]):
        for system in chosen(systems):
            trial = Trial(loss, kind, system, form, scale, dtype, seed)
            scatter = system.dim <= FEW and all(t.system.dim > FEW for t in trials)
            trials.append(trial)
            checks += _values(trial, counts)
            checks += _slopes(trial, slopes)
            if kind == "sliced":
                checks += _slices(trial, scatter)
            if kind == "denoising":
                checks += _normality(trial)
        checks += _manners(trials)
        return judged(f"{kind} loss", checks, seed, partial(_words, kind, trials, counts, slopes))


def _words(kind: str, trials: list[Trial], counts: list[Counts], slopes: list[Counts], check: Check) -> str:
    """Return what is likely wrong, given a check that failed."""
    about = explain_noise([(t.noise, t.system.sigma) for t in trials]) if kind == "denoising" else ""
    about = about or explain(kind, counts)
    if check.name == _FOURTH:
        return f"the noise is not normal: its fourth moment is {check.value:.3g} and not 3 times sigma^4"
    if check.name == _SCATTER and "slices" not in about:
        return "the scatter does not fall like 1 / slices: are all slices used, and drawn independently?"
    if check.name.startswith((_AT_TRUTH, _AWAY)):
        about = about or explain_gradient(kind, slopes)
        return about or "the gradient over the weights is not that of the loss"
    return about or (
        f"the loss differs from its closed form for the model '{check.name}': no multiple of its terms "
        "explains it"
    )


def _values(trial: Trial, counts: list[Counts]) -> list[Check]:
    """Compare the values for a family of models, and note how often each term is counted."""
    system = trial.system
    named = family(trial.truth, system.sigma, trial.form)
    if trial.kind == "levels":
        for sigma in system.levels:
            for scale in (0.0, 2.0):
                name = f"times {scale:g} at sigma = {sigma:g} only"
                named[name] = trial.model(scale=scale, only_at=sigma)
    models = list(named.values())
    measured, terms = trial.measure(models), trial.all_terms(models)
    expected = np.array([float(trial.half_fisher(model).detach()) for model in models])
    # In the mean over batches the terms are the expected divergence: its scatter is known and taken away.
    size = np.abs(terms).sum(axis=2).mean(axis=0)
    mean, z = deviate(measured - terms.sum(axis=2), 0.0, _ALLOWANCE * size)
    checks = [
        Check(name, value, right, float(one), system=system.name)
        for name, value, right, one in zip(named, mean + expected, expected, z, strict=True)
    ]
    facts = trial.facts
    if trial.kind == "levels":
        for sigma in system.levels:
            chosen = [i for i, name in enumerate(named) if name.endswith(f"at sigma = {sigma:g} only")]
            some = (measured[:, chosen], terms[:, chosen], expected[chosen])
            facts = {**facts, "sigma": sigma, "levels": float(len(system.levels))}
            counts.append(counts_of(f"{system.name} at sigma = {sigma:g}", facts, *some)[0])
    found, each = counts_of(system.name, facts, measured, terms, expected)
    if trial.kind != "levels":
        counts.append(found)
    names = ("times that 1/2 |s|^2 counts", "times that div s counts")
    mean, z = deviate(each, 1.0, _ALLOWANCE)
    checks += [
        Check(name, value, 1.0, float(one), system=system.name)
        for name, value, one in zip(names, mean, z, strict=True)
    ]
    return checks


def _slopes(trial: Trial, slopes: list[Counts]) -> list[Check]:
    """Compare the gradients over the weights at the truth, where they vanish, and away from it."""
    places = [trial.model(), trial.model(scale=1.4, width=1.2, tilt=0.4)]
    found = [trial.gradients(model) for model in places]
    if not trial.differentiable:
        return []
    checks = []
    for name, (measured, terms, expected) in zip((_AT_TRUTH, _AWAY), found, strict=True):
        size = np.abs(terms).sum(axis=2).mean(axis=0)
        mean, z = deviate(measured - terms.sum(axis=2), 0.0, _ALLOWANCE * size)
        least = int(np.argmax(np.abs(z)))
        label = f"{name}: {WEIGHTS[least]}"
        checks.append(
            Check(label, mean[least] + expected[least], expected[least], worst(z), system=trial.system.name)
        )
    measured, terms = (np.concatenate([one[k] for one in found], axis=1) for k in (0, 1))
    size = np.abs(terms).sum(axis=2).mean(axis=0)
    slopes.append(counts_of(trial.system.name, trial.facts, measured, terms, size)[0])
    return checks


def _slices(trial: Trial, scatter: bool) -> list[Check]:
    """Compare the value for one slice; and the scatter for one and for many on one batch, if asked for."""
    model = trial.model(scale=0.5)
    with torch.no_grad():
        terms = trial.all_terms([model])
        expected = float(trial.half_fisher(model))
    measured = trial.measure([model], slices=1)
    mean, z = deviate(
        (measured - terms.sum(axis=2))[:, 0], 0.0, _ALLOWANCE * np.abs(terms).sum(axis=2).mean()
    )
    checks = [Check(_ONE_SLICE, float(mean) + expected, expected, float(z), system=trial.system.name)]
    if not scatter:
        return checks
    x = torch.cat(list(trial.x))[:_STATES]
    one, many = (
        np.var([float(trial.value(model, x, start + i, slices).detach()) for i in range(_REPEATS)], ddof=1)
        for slices, start in ((1, 10_000), (_MANY, 20_000))
    )
    # The ratio of two variances follows Fisher's law; that it is larger does no harm.
    ratio = one / many if many > 0 else math.inf
    z_ratio = float(ndtri(fdtr(_REPEATS - 1, _REPEATS - 1, ratio / _MANY))) if one > 0 else 0.0
    checks.append(
        Check(_SCATTER, float(min(ratio, 1e300)), _MANY, min(z_ratio, 0.0), system=trial.system.name)
    )
    return checks


def _normality(trial: Trial) -> list[Check]:
    """Look at the noise that is added, which has to be normal: the values hardly tell."""
    if trial.fourth_moments is None:
        return []
    # One batch would be off by less, if all had the same noise.
    allowance = 5 * math.sqrt(96 / trial.x[0].numel())
    mean, z = deviate(trial.fourth_moments, 3.0, allowance)
    return [Check(_FOURTH, float(mean), 3.0, float(z), system=trial.system.name)]


def _manners(trials: list[Trial]) -> list[Check]:
    """Return what is not a matter of chance."""
    changed, marked = any(t.changed for t in trials), any(t.marked for t in trials)
    shape = next((t.shape for t in trials if t.shape), ())
    words = (
        ("the batch is left as it was", "the loss changes the batch of its caller: it is to work on a copy"
         if changed else "the loss sets requires_grad on the batch of its caller: it is to work on "
         "x.detach().clone()" if marked else ""),
        ("it returns one number",
         f"the loss returns numbers of shape {shape}: the mean over the batch is left out" if shape else ""),
        ("it has a gradient over the weights", "" if all(t.differentiable for t in trials) else
         "the loss has no gradient over the weights: it is detached, or computed without a graph"),
    )  # fmt: skip
    return [Check(name, float(not wrong), 1.0, None, not wrong, wrong) for name, wrong in words]
