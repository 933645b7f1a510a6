"""What is wrong with a loss, in words: from how often each of its terms is counted.

In expectation every loss of score matching is a <1/2 |s|^2> + b <div s> + const with a = b = 1: Hyvarinen's
as it stands, the sliced one because E[v v^T] = 1, and the denoising one because E[s(x + sigma e).e] is
sigma E[div s]. An error shows as another a or b, and what it is from how these depend on the dimension, the
noise level, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]

_NEAR, _NEAR_NOISE = 0.03, 0.06  # how near a number has to be to the one that an error gives
_ERRORS = 5.0  # or how many standard errors


@dataclass(frozen=True)
class Counts:
    """How often a loss counts 1/2 |s|^2 and div s, on one law and at one noise level.

    Attributes
    ----------
    where : str
    facts : dict
        What it may depend on: d, sigma, n, slices, levels, as far as there is such a thing.
    value, error : array (2,)
    """

    where: str
    facts: dict[str, float]
    value: _Floats
    error: _Floats


@dataclass(frozen=True)
class _Suspect:
    """A likely error: the counts it gives, of the facts, and its words."""

    kinds: tuple[str, ...]
    counts: Callable[[dict[str, float]], tuple[float, float]]
    words: str


_BY_PARTS, _WITH_NOISE = ("exact", "sliced"), ("denoising", "levels")
_ALL = _BY_PARTS + _WITH_NOISE

_SUSPECTS = (
    _Suspect(_BY_PARTS, lambda f: (1, -1), "the divergence has the wrong sign: it is 1/2 |s|^2 + div s"),
    _Suspect(_WITH_NOISE, lambda f: (1, -1), "the target has the wrong sign: the score of x + sigma e is to "
             "be -e / sigma, so it is 1/2 |s + e / sigma|^2"),
    _Suspect(_ALL, lambda f: (-1, -1), "the whole loss has the wrong sign: the true score is its maximum"),
    _Suspect(_BY_PARTS, lambda f: (1, 1 / f["d"]),
             "the divergence is {b:.3g} of what it should be: is it divided by the dimension?"),
    _Suspect(_BY_PARTS, lambda f: (1, 0), "the divergence is left out"),
    _Suspect(_WITH_NOISE, lambda f: (1, 0), "the target does not depend on the noise that is added: it has "
             "to be made of the same e"),
    _Suspect(_ALL, lambda f: (2, 1), "the factor 1/2 before |s|^2 is left out"),
    _Suspect(_BY_PARTS, lambda f: (1, 0.5), "the divergence is half of what it should be: is it multiplied "
             "by 1/2 along with |s|^2?"),
    _Suspect(_ALL, lambda f: (1 / f["d"], 1 / f["d"]), "the loss is {a:.3g} of what it should be: is it a "
             "mean over the dimensions, too? (where that is meant: scale=lambda d: 1 / d)"),
    _Suspect(_ALL, lambda f: (2 / f["d"], 2 / f["d"]), "the loss is {a:.3g} of what it should be: is it a "
             "mean over the dimensions, too, without 1/2? (where that is meant: scale=lambda d: 2 / d)"),
    _Suspect(_ALL, lambda f: (f["n"], f["n"]), "the loss is a sum over the batch and not its mean"),
    _Suspect(("sliced",), lambda f: (f["slices"],) * 2,
             "the mean over slices is left out: the loss grows with their number"),
    _Suspect(("sliced",), lambda f: (1, f["slices"]),
             "the mean over slices is left out of the divergence: it grows with their number"),
    _Suspect(("sliced",), lambda f: (f["slices"], 1),
             "the mean over slices is left out of the square: it grows with their number"),
    _Suspect(("sliced",), lambda f: (1 / f["slices"],) * 2,
             "the loss is divided by the number of slices twice: it falls with their number"),
    _Suspect(("levels",), lambda f: (f["sigma"] ** -2,) * 2,
             "the weight sigma^2 is missing: the smallest noise level decides"),
    _Suspect(("levels",), lambda f: (1 / f["sigma"],) * 2, "the weight is sigma and not sigma^2"),
    _Suspect(("levels",), lambda f: (f["sigma"] ** 2,) * 2, "the weight sigma^2 is there twice"),
    _Suspect(("levels",), lambda f: (f["levels"],) * 2,
             "the loss is a sum over the noise levels, not a mean"),
    _Suspect(("levels",), lambda f: (f["levels"] * f["sigma"] ** -2,) * 2,
             "the weight sigma^2 is missing, and the loss is a sum over the noise levels"),
    _Suspect(("denoising",), lambda f: (f["sigma"] ** 2,) * 2,
             "the loss is weighted by sigma^2, which belongs to several noise levels only"),
    _Suspect(_WITH_NOISE, lambda f: (1, f["sigma"]), "the target is -e where it should be -e / sigma"),
    _Suspect(_WITH_NOISE, lambda f: (1, 1 / f["sigma"]),
             "the target is -e / sigma^2 where it should be -e / sigma"),
)  # fmt: skip


def explain(kind: str, found: Sequence[Counts]) -> str:
    """Return the error that agrees with all counts, or the counts; nothing where all are right."""
    values = np.array([c.value for c in found])
    errors = np.array([c.error for c in found])
    if not np.isfinite(values).all():
        return "the loss is not finite"
    if _agree(values, errors, np.ones_like(values)):
        return ""
    expected = {}
    for suspect in _SUSPECTS:
        if kind not in suspect.kinds:
            continue
        try:
            counts = np.array([suspect.counts(c.facts) for c in found], np.float64)
        except KeyError:
            continue
        if _agree(values, errors, counts):
            return suspect.words.format(a=found[0].value[0], b=found[0].value[1])
        expected[suspect.words] = counts
    factor = float(np.median(values))
    if _agree(values, errors, np.full_like(values, factor)):
        return (
            f"the loss is {factor:.3g} times its closed form, on all laws; its minimum is right (where that "
            f"is meant: scale={factor:.3g})"
        )
    for words, counts in expected.items():
        used = counts != 0
        common = float(np.median(values[used] / counts[used]))
        if _agree(values, errors, common * counts):
            text = words.format(a=found[0].value[0] / common, b=found[0].value[1] / common)
            return f"{text}; besides, all of it is {common:.3g} times too large"
    each = "; ".join(f"{c.where}: {c.value[0]:.3g} and {c.value[1]:.3g}" for c in found)
    name = "the divergence" if kind in _BY_PARTS else "s.e / sigma, whose mean is that of the divergence,"
    return f"1/2 |s|^2 and {name} should count once, and do count {each} times"


def explain_gradient(kind: str, found: Sequence[Counts]) -> str:
    """Return the same for the gradient over the weights of a loss whose values are right."""
    values, errors = np.array([c.value for c in found]), np.array([c.error for c in found])
    if kind in _BY_PARTS and _agree(values, errors, np.array([1.0, 0.0])):
        return (
            "the gradient over the weights lacks that of the divergence: is it detached, or "
            "create_graph=True left out?"
        )
    words = explain(kind, found)
    return f"the value is right, but not its gradient over the weights: {words}" if words else ""


def explain_noise(found: Sequence[tuple[float, float]]) -> str:
    """Return what is wrong with the noise, given pairs of the standard deviation and what it should be."""
    have, want = np.array(found, np.float64).T
    if np.allclose(have, want, rtol=_NEAR_NOISE):
        return ""
    hint = ""
    for power, words in ((2.0, "sigma^2"), (0.5, "sqrt(sigma)"), (0.0, "1, whatever sigma is")):
        if np.allclose(have, want**power, rtol=_NEAR_NOISE):
            hint = f": it is {words}"
    if np.all(have < 0.1 * want):
        return "the model is asked at states without noise"
    return f"the model is asked at states with noise of {have[0]:.3g} where sigma is {want[0]:.3g}{hint}"


def _agree(values: _Floats, errors: _Floats, counts: Any) -> bool:
    counts = np.broadcast_to(counts, values.shape)
    size = np.maximum(np.abs(counts), np.abs(counts).max(axis=1, keepdims=True))
    return bool((np.abs(values - counts) <= np.maximum(_ERRORS * errors, _NEAR * size)).all())
