"""Is a score right at every noise level? Scale, magnitude and direction against the true one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError
from physscore.diagnostics.score_error import error_of_values
from physscore.energies.smoothing import smoothed
from physscore.learning.conformance.report import Check, Report, judged
from physscore.learning.conformance.systems import System
from physscore.sampling.engine import whole

_Floats = npt.NDArray[np.float64]
_True = Callable[[float], _Floats]  # the true score of the same states at another noise level

_NEAR = 0.02  # how near a score has to be to the one that an error gives

# What a score may be by mistake: of states, their noise level, and the true score at any level.
_MISTAKES: tuple[tuple[str, Callable[[_Floats, float, _True], _Floats]], ...] = (
    ("it has the wrong sign: is it the gradient of the energy?", lambda x, s, true: -true(s)),
    ("it is the noise that a network predicts, -sigma s: divide it by -sigma",
     lambda x, s, true: -s * true(s)),
    ("it is multiplied by sigma", lambda x, s, true: s * true(s)),
    ("it is multiplied by sigma^2, as D(x) - x is: divide it by sigma^2", lambda x, s, true: s**2 * true(s)),
    ("it is divided by sigma", lambda x, s, true: true(s) / s),
    ("it is divided by sigma^2", lambda x, s, true: true(s) / s**2),
    ("it is the denoised state D(x) = x + sigma^2 s: the score is (D(x) - x) / sigma^2",
     lambda x, s, true: x + s**2 * true(s)),
    ("it does not depend on sigma: it is the score of the data without noise", lambda x, s, true: true(0.0)),
    ("sigma is taken for a variance: it is the score at noise sqrt(sigma)",
     lambda x, s, true: true(math.sqrt(s))),
    ("sigma is squared once too often: it is the score at noise sigma^2", lambda x, s, true: true(s**2)),
)  # fmt: skip


def check_score_at(
    score_at: Callable[[float], Any],
    system: Any,
    *,
    sigmas: Sequence[float] | None = None,
    n: int = 500,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Report:
    """Compare a score with the true one at every noise level, at states of that level.

    At each level three numbers: by which factor it is too large (the one that fits best), and what is left
    after that of errors of the magnitude |s| from state to state and of the direction, as root mean squares
    relative to the true score. They come from one set of states, and nothing is left to chance.

    Parameters
    ----------
    score_at
        A function of the noise level sigma that returns the score of the data smoothed with N(0, sigma^2 I):
        an object with a method ``score(x)``, or a function of states (n, *shape). For a torch module:
        ``lambda sigma: lambda x: module(torch.from_numpy(x), torch.full((len(x),), sigma)).numpy()``.
    system
        The law of the data: one of ``all_systems()``, or a Gaussian, GaussianMixture or GaussianRandomField.
    sigmas
        Noise levels, in the unit of x. [default: 2, 0.7, 0.3 and 0.1 standard deviations of the data]
    n
        States at each level.
    tolerance
        How large the relative errors may be: 0.001 is for formulas, 0.1 for a fair network.
    seed
        A whole number from 0 to 2^64 - 1.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If the law has no closed form, or an argument makes no sense.
    """
    if not callable(score_at):
        raise InputError(f"score_at is {score_at!r}: it must be a function of sigma")
    if not (isinstance(tolerance, int | float) and 0 < tolerance < 1):
        raise InputError(f"tolerance is {tolerance!r}: it must be a relative error, between 0 and 1")
    n = whole(2, n=n)
    law = system if isinstance(system, System) else System("law", system, 1.0)
    smoothed(law.energy, 1.0)  # says what is wrong with it
    if sigmas is None:
        spread = float(law.draw(1000, 0.0, seed=seed).std(axis=0).mean())
        sigmas = tuple(float(f"{spread * factor:.2g}") for factor in (2.0, 0.7, 0.3, 0.1))
    checks: list[Check] = []
    seen: dict[float, tuple[_Floats, _Floats]] = {}
    for sigma in map(float, sigmas):
        x = law.draw(n, sigma, seed=seed)
        checks += _at_level(score_at, law, sigma, x, tolerance, seen)
    wrong = {check.name.rsplit(" = ", 1)[1] for check in checks if not check.passed and not check.words}
    failed = [sigma for sigma in seen if f"{sigma:g}" in wrong]
    about = (
        _explained(law, {sigma: seen[sigma] for sigma in failed}, len(failed) == len(seen)) if failed else ""
    )
    return judged("score", checks, seed, lambda check: about)


def _at_level(
    score_at: Any, law: System, sigma: float, x: _Floats, tolerance: float, seen: dict[float, Any]
) -> list[Check]:
    found = score_at(sigma)
    evaluate = found.score if callable(getattr(found, "score", None)) else found
    if not callable(evaluate):
        raise InputError(
            f"score_at({sigma:g}) returned {found!r}: it must be a Score, or a function of states"
        )
    given = x.copy()
    with np.errstate(all="ignore"):
        values = np.asarray(evaluate(given), np.float64)
    at = f"at sigma = {sigma:g}"
    if values.shape != x.shape:
        words = f"the score has shape {values.shape} for states {x.shape}: it must be the same"
        return [Check(f"shape {at}", math.nan, math.nan, None, False, words, law.name)]
    good = int(np.isfinite(values).reshape(len(x), -1).all(axis=1).sum())
    if good < len(x):
        words = "the score is not finite at some states"
        return [Check(f"finite {at}", good / len(x), 1.0, None, False, words, law.name)]
    checks = []
    if not np.array_equal(given, x):
        words = "the score changes the states of its caller: it is to work on a copy"
        checks.append(Check(f"states left as they were {at}", 0.0, 1.0, None, False, words, law.name))
    true = _true(law, x, sigma)
    seen[sigma] = (x, values)
    if not values.any():
        words = "the score is zero at all states"
        return [*checks, Check(f"scale {at}", 0.0, 1.0, None, False, words, law.name)]
    error = error_of_values(values, true)
    gain = float((values * true).sum() / (true * true).sum())
    rows = (
        ("scale", gain, 1.0),
        ("magnitude", math.sqrt(max(error.magnitude_share.value, 0.0)), 0.0),
        ("direction", math.sqrt(max(error.direction_share.value, 0.0)), 0.0),
    )
    return checks + [
        Check(f"{name} {at}", value, right, None, abs(value - right) <= tolerance, system=law.name)
        for name, value, right in rows
    ]


def _true(law: System, x: _Floats, sigma: float) -> _Floats:
    return np.asarray(law.score_at(sigma).score(x), np.float64)


def _explained(law: System, failed: dict[float, tuple[_Floats, _Floats]], everywhere: bool) -> str:
    """Return what is wrong at the noise levels that failed, in words."""
    levels = ", ".join(f"{sigma:g}" for sigma in failed)
    where = "the score" if everywhere else f"the score at sigma = {levels} only"
    for words, mistake in _MISTAKES:
        if all(
            _distance(values, mistake(x, s, partial(_true, law, x))) < _NEAR
            for s, (x, values) in failed.items()
        ):
            return f"{where}: {words}"
    gains, rest = [], []
    for sigma, (x, values) in failed.items():
        true = _true(law, x, sigma)
        gains.append(float((values * true).sum() / (true * true).sum()))
        rest.append(_distance(values, gains[-1] * true))
    if max(rest) < _NEAR:
        if max(gains) - min(gains) < _NEAR * abs(gains[0]):
            return f"{where} is {gains[0]:.3g} times what it should be: only its magnitude is wrong"
        each = ", ".join(f"{gain:.3g}" for gain in gains)
        return f"{where} has the right direction, but is {each} times what it should be at sigma = {levels}"
    if max(gains) < 0 and max(rest) < 0.5:
        return f"{where} points the wrong way: is it the gradient of the energy?"
    errors = ", ".join(f"{value:.2g}" for value in rest)
    return f"{where} has errors of {errors} relative to the true one, besides its scale, at sigma = {levels}"


def _distance(values: _Floats, guess: Array) -> float:
    """Return the root mean square of the difference, relative to the guess."""
    return float(np.sqrt(((values - guess) ** 2).sum() / max((guess**2).sum(), 1e-300)))
