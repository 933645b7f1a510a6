"""Does annealed Langevin keep its rule, alpha_i = eps sigma_i^2 / sigma_L^2 with noise sqrt(2 alpha_i)?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError, Score
from physscore.learning.conformance.report import Check, Report, judged, of_student, off
from physscore.learning.conformance.systems import PROBE
from physscore.noise import normal
from physscore.paths import check_levels
from physscore.sampling.engine import whole

_Floats = npt.NDArray[np.float64]

_TOLERANCE = 1e-3  # relative, of steps that are known as numbers
_ALLOWANCE = 0.02  # of steps that are measured
_NEAR = 0.05
_SIZE = 50.0  # of the probing score, in units of 1 / sigma_L


def check_annealed_step(
    step_of: Callable[[float], float] | Sequence[float] | _Floats, sigmas: Any, *, seed: int = 0
) -> Report:
    """Check step sizes of annealed Langevin: alpha_i / alpha_L = sigma_i^2 / sigma_L^2.

    Song & Ermon (2019, arXiv:1907.05600), algorithm 1. The ratio is the same whether the move is
    x + alpha s + sqrt(2 alpha) xi or x + alpha s / 2 + sqrt(alpha) xi.

    Parameters
    ----------
    step_of
        The steps, one a level; or a function of sigma that returns its step.
    sigmas
        Noise levels (L,), falling; two at least.
    seed
        Stands in the report; nothing is left to chance.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If the levels do not fall, or there is not one positive step for each.
    """
    levels = _levels(sigmas)
    steps = np.asarray([step_of(float(s)) for s in levels] if callable(step_of) else step_of, np.float64)
    if steps.shape != levels.shape or not (np.isfinite(steps) & (steps > 0)).all():
        raise InputError(
            f"step_of gives {steps}: it must be a positive step for each of {len(levels)} levels"
        )
    found, right = steps / steps[-1], (levels / levels[-1]) ** 2
    checks = [
        Check(f"alpha / alpha_L at sigma = {s:.4g}", f, r, None, abs(f / r - 1) <= _TOLERANCE)
        for s, f, r in zip(levels[:-1], found, right, strict=False)
    ]
    about = _of_ratios(levels, found)
    return judged("steps of annealed Langevin", checks, seed, lambda check: about)


def check_annealed_moves(
    sampler: Callable[[Callable[[float], Score], int, int], Any],
    sigmas: Any,
    *,
    n: int = 100,
    seed: int = 0,
) -> Report:
    """Measure the moves of an annealed Langevin sampler: its steps, its noise, and the last move.

    The sampler is given random numbers for a score, which are large, independent of the states, and known
    here; the states at which it asks for it are recorded. The regression of x_{t+1} - x_t on the score is the
    step alpha_i, and what remains is noise, of variance 2 alpha_i in either convention.

    Parameters
    ----------
    sampler
        A function (score_at, n, seed), as for ``check_sampler``, that goes through ``sigmas`` and moves all n
        chains at once, twice or more at each level. Kernels that reject, or choose their steps by the score,
        are not what is checked here.
    sigmas
        The noise levels (L,) that it uses, falling; two at least.
    n
        How many chains, at least 50.
    seed
        A whole number from 0 to 2^64 - 1.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        If an argument makes no sense.
    """
    levels = _levels(sigmas)
    if not callable(sampler):
        raise InputError(f"sampler is {sampler!r}: it must be a function (score_at, n, seed)")
    n = whole(50, n=n)
    record = _Record(levels, n, seed)
    last = np.asarray(sampler(record.score_at, n, seed), np.float64)
    if record.strange:
        words = f"the sampler asks for the score at sigma = {record.strange[0]:.4g}, which is not in sigmas"
        return judged("moves of annealed Langevin", [Check("levels", 0.0, 1.0, None, False, words)], seed)
    moves = record.moves()
    missing = [s for i, s in enumerate(levels) if not moves[i]]
    if missing or last.shape != (n, 2):
        words = (
            f"there are no moves at sigma = {missing[0]:.4g}: each level needs two at least, of all chains"
            if missing
            else f"the draws have shape {last.shape}: it must be {(n, 2)}"
        )
        return judged("moves of annealed Langevin", [Check("levels", 0.0, 1.0, None, False, words)], seed)
    return _report(levels, moves, record.end(last), seed)


class _Record:
    """A score that is random, and remembers where it was asked for."""

    def __init__(self, levels: _Floats, n: int, seed: int) -> None:
        self.levels, self.n, self.seed = levels, n, seed
        self.calls: list[tuple[int, _Floats, _Floats]] = []  # level, states, scores
        self.strange: list[float] = []

    def score_at(self, sigma: float) -> Score:
        """Return the score of a level."""
        return _Probe(self, float(sigma))

    def __call__(self, sigma: float, x: Array) -> Array:
        """Return the score of a level at states, and note them."""
        near = np.abs(self.levels / sigma - 1)
        level = int(near.argmin())
        if near[level] > 1e-4:
            self.strange.append(sigma)
        states = np.array(x, np.float64).reshape(len(x), -1)
        if self.calls and self.calls[-1][0] == level and np.array_equal(self.calls[-1][1], states):
            return np.asarray(self.calls[-1][2].astype(np.asarray(x).dtype))
        size = _SIZE / self.levels[-1]
        scores = size * normal(len(states), 2, seed=self.seed, step=len(self.calls), draw=PROBE)
        self.calls.append((level, states, scores))
        return np.asarray(scores.astype(np.asarray(x).dtype))

    def moves(self) -> list[list[tuple[_Floats, _Floats]]]:
        """Return for each level its moves: the score and the change of the states."""
        found: list[list[tuple[_Floats, _Floats]]] = [[] for _ in self.levels]
        used = self._used()
        for (level, x, scores), (_, there, _) in pairwise(used):
            if x.shape == there.shape == (self.n, 2):
                found[level].append((scores, there - x))
        return found

    def end(self, last: _Floats) -> tuple[_Floats, _Floats]:
        """Return the score and the change of the last move, to what the sampler returned."""
        _, x, scores = self._used()[-1]
        return (scores, last - x) if x.shape == last.shape else (scores, np.full_like(scores, np.nan))

    def _used(self) -> list[tuple[int, _Floats, _Floats]]:
        """Return the calls, of several at the same states the last."""
        pairs = pairwise(self.calls)
        return [a for a, b in pairs if not np.array_equal(a[1], b[1])] + self.calls[-1:]


class _Probe(Score):
    """What a record hands out for one level."""

    def __init__(self, record: _Record, sigma: float) -> None:
        self.record, self.sigma, self.shape = record, sigma, (2,)

    def score(self, x: Array) -> Array:
        """Return random numbers of the shape of the states."""
        return self.record(self.sigma, x)


def _report(
    levels: _Floats, moves: list[list[tuple[_Floats, _Floats]]], end: tuple[_Floats, _Floats], seed: int
) -> Report:
    drift, error, noise, freedom = (np.zeros(len(levels)) for _ in range(4))
    for i, of_level in enumerate(moves):
        s, dx = (np.concatenate([move[k] for move in of_level]).ravel() for k in (0, 1))
        drift[i] = (s @ dx) / (s @ s)
        freedom[i] = len(s) - 1
        noise[i] = ((dx - drift[i] * s) ** 2).sum() / freedom[i]
        error[i] = math.sqrt(noise[i] / (s @ s))
    s, dx = (part.ravel() for part in end)
    final = (s @ dx) / (s @ s)
    left = math.sqrt(float(np.mean((dx - final * s) ** 2)))
    ends_with_mean = left < 1e-6 * math.sqrt(noise[-1])
    checks = []
    right = (levels / levels[-1]) ** 2
    for i, sigma in enumerate(levels[:-1]):
        ratio = drift[i] / drift[-1]
        scatter = abs(ratio) * math.hypot(error[i] / drift[i], error[-1] / drift[-1])
        z = of_student(off(ratio, right[i], _ALLOWANCE * right[i]), scatter, freedom[i])
        checks.append(Check(f"alpha / alpha_L at sigma = {sigma:.4g}", ratio, right[i], float(z)))
    for i, sigma in enumerate(levels):
        share = noise[i] / drift[i]
        scatter = abs(share) * math.hypot(math.sqrt(2 / freedom[i]), error[i] / drift[i])
        z = of_student(off(share, 2.0, 2 * _ALLOWANCE), scatter, freedom[i])
        checks.append(Check(f"noise variance / alpha at sigma = {sigma:.4g}", share, 2.0, float(z)))
    if ends_with_mean:
        ratio = final / levels[-1] ** 2
        checks.append(Check("last move / (sigma_L^2 s)", ratio, 1.0, None, abs(ratio - 1) < 1e-6))
    ratios, shares = drift / drift[-1], noise / drift

    def words(check: Check) -> str:
        if check.name.startswith("last"):
            size = final / levels[-1] ** 2
            return f"the last move is {size:.3g} sigma_L^2 s: the mean of x is x + sigma_L^2 s"
        if check.name.startswith("noise"):
            return _of_noise(shares, levels)
        return _of_ratios(levels, ratios)

    return judged("moves of annealed Langevin", checks, seed, words)


def _of_noise(shares: _Floats, levels: _Floats) -> str:
    if (shares < 0).any():
        return "the drift goes against the score"
    if np.abs(shares).max() < 0.1:
        return "there is no noise in the moves: its variance should be 2 alpha"
    common = float(np.median(shares))
    if np.abs(shares / common - 1).max() < 2 * _NEAR:
        hint = {
            1.0: ": the noise is sqrt(alpha) where it should be sqrt(2 alpha)",
            4.0: ": is the noise sqrt(2 alpha) where the drift is alpha / 2?",
        }
        for value, text in hint.items():
            if abs(common - value) < 0.1:
                return f"the variance of the noise is {common:.3g} alpha and should be 2 alpha{text}"
        return f"the variance of the noise is {common:.3g} alpha and should be 2 alpha"
    each = ", ".join(f"{share:.3g}" for share in shares)
    return (
        f"the variance of the noise is {each} times alpha from level to level, and should be 2 alpha at each"
    )


def _of_ratios(levels: _Floats, ratios: _Floats) -> str:
    """Return by which rule steps depend on the noise level, in words."""
    if (ratios <= 0).any():
        return "the steps change their sign from level to level"
    power = float(np.polyfit(np.log(levels / levels[-1]), np.log(ratios), 1)[0])
    fit = (levels / levels[-1]) ** power
    if np.abs(ratios / fit - 1).max() < 2 * _NEAR:
        for value, text in (
            (2.0, ""),
            (1.0, "sigma_i / sigma_L: the square is left out"),
            (-2.0, "sigma_L^2 / sigma_i^2: the ratio is the wrong way round"),
            (-1.0, "sigma_L / sigma_i: the ratio is the wrong way round, and without its square"),
            (0.0, "sigma^0: it is the same at all levels"),
            (4.0, "sigma_i^4 / sigma_L^4: it is squared twice"),
        ):
            if abs(power - value) < _NEAR:
                return (
                    f"the step goes like {text}; it should go like sigma_i^2 / sigma_L^2"
                    if text
                    else ("the step is nearly, but not quite, eps sigma_i^2 / sigma_L^2")
                )
        return f"the step goes like sigma^{power:.2g}, and should go like sigma^2"
    off_rule = ratios / (levels / levels[-1]) ** 2
    worst = int(np.argmax(np.abs(np.log(off_rule))))
    return (
        f"the step follows no power of sigma: at sigma = {levels[worst]:.4g} it is {off_rule[worst]:.3g} of "
        "eps sigma_i^2 / sigma_L^2"
    )


def _levels(sigmas: Any) -> _Floats:
    levels = check_levels(sigmas)
    if len(levels) < 2:
        raise InputError(f"sigmas is {sigmas}: the rule needs two noise levels at least")
    return levels
