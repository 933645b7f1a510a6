"""Draws from the reverse of a stochastic differential equation, with Langevin steps in between."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from physscore.core import Array, InputError
from physscore.sampling.engine import whole
from physscore.sampling.levels import (
    CORRECTOR,
    PERTURBED,
    PREDICTOR,
    Level,
    ScoreAt,
    counted,
    deviates,
    pieces,
    short,
)
from physscore.sampling.sde import SDE, as_sde
from physscore.sampling.start import first_states
from physscore.spectra.model import require_array

_PREDICTORS = ("ancestral", "euler")


def reverse_sde(
    score_at: ScoreAt,
    sde: SDE | tuple[float, float],
    n: int,
    *,
    seed: int = 0,
    steps: int = 500,
    predictor: str = "ancestral",
    corrector: int = 0,
    snr: float = 0.16,
    init: Any = None,
    denoise: bool = True,
    batch: int | None = None,
    progress: bool = False,
) -> Array:
    """Draw by the reverse of an SDE, dx = [f(x, t) - g(t)^2 s_t(x)] dt + g(t) dw, from time 1 to ``t_min``.

    Each of ``steps`` equal steps of time is one predictor and then ``corrector`` Langevin steps at the new
    noise level (Song et al. 2021, arXiv:2011.13456, algorithms 2 to 5). With the true score the law of the
    draws is that of the data smoothed with ``sde.sigma_min``, up to an error of the order of 1 / steps of
    the predictor, that of the Langevin step and that of the start.

    Parameters
    ----------
    score_at
        A function of the noise level sigma that returns the score of the density smoothed with
        N(0, sigma^2 I): a ``Score`` or an ``Energy``.
    sde
        ``VE``, ``VP`` or ``SubVP``; or a pair (sigma_min, sigma_max) of ``VE``.
    n
        How many draws. Each has noise of its own and does not depend on their number.
    seed
        A whole number from 0 to 2^64 - 1.
    steps
        Steps of time.
    predictor
        "ancestral": the exact law of the smaller noise given the larger one and the mean of the data,
        x_s = alpha_s [y + (sigma_t^2 - sigma_s^2) s + sigma_s sqrt(1 - sigma_s^2 / sigma_t^2) xi], with
        y = x_t / alpha_t; for VE that of Song et al., appendix F, for VP that of DDPM.
        "euler": Euler and Maruyama's step of the reverse SDE.
    corrector
        Langevin steps after each predictor, y + eps s + sqrt(2 eps) xi with eps = 2 snr^2 sigma^2. That is
        the step of Song et al. with the ratio of norms |xi| / |s| set to sigma, its value where the noise
        dominates, so that a chain depends neither on the others nor on its own noise in this way.
    snr
        See ``corrector``.
    init
        Where x_1 starts: an array, a density with a method ``sample``, such as the smoothed density itself,
        or "matched", the normal density that the score has at the largest noise. [default: N(0, std(1)^2)]
    denoise
        End with the mean of x given its last noise, y + sigma_min^2 s: the data, not their smoothed law.
    batch
        The most chains in work at once. [default: 2^20 components]
    progress
        Show a progress bar.

    Returns
    -------
    array (n, *shape)
        In the unit of the data: x / alpha(t_min) for VP and SubVP.

    Raises
    ------
    InputError
        If an argument makes no sense, or the score is not finite; it says at which noise level.
    """
    sde, n, steps = as_sde(sde), whole(n=n), whole(steps=steps)
    corrector = whole(0, corrector=corrector)
    if predictor not in _PREDICTORS:
        raise InputError(f'predictor is {predictor!r}: it must be "ancestral" or "euler"')
    if not (isinstance(snr, int | float | np.number) and 0 < snr < 1):
        raise InputError(f"snr is {snr!r}: it must be a number between 0 and 1")
    times = np.linspace(1.0, sde.t_min, steps + 1)
    sigmas, alphas = sde.sigma(times), sde.alpha(times)
    sigmas[0], sigmas[-1] = sde.sigma_max, sde.sigma_min
    here = Level(score_at, sigmas[0])
    rows_at_once = pieces(n, math.prod(here.shape), batch)
    x = first_states(here, n, float(sde.std(1.0)), seed, init, float(alphas[0]))
    for i in counted(range(steps), steps, "reverse SDE", progress):
        there = Level(score_at, sigmas[i + 1])
        for rows in rows_at_once:
            y = x[rows] / alphas[i]
            xi = deviates(rows, here.shape, seed=seed, step=i, draw=PREDICTOR)
            if predictor == "ancestral":
                share = (sigmas[i + 1] / sigmas[i]) ** 2
                y = y + (1 - share) * sigmas[i] ** 2 * here.score(y)
                y += sigmas[i + 1] * math.sqrt(1 - share) * xi
            else:
                dt, g = times[i] - times[i + 1], float(sde.diffusion(times[i]))
                slope = sde.drift(x[rows], times[i]) - g**2 * here.score(y) / alphas[i]
                y = (x[rows] - slope * dt + g * math.sqrt(dt) * xi) / alphas[i + 1]
            for j in range(corrector):
                y = _langevin(there, y, snr, rows, seed, i * corrector + j)
            x[rows] = y * alphas[i + 1]
        here = there
    for rows in rows_at_once:
        y = x[rows] / alphas[-1]
        x[rows] = here.denoised(y) if denoise else y
    return x


def _langevin(level: Level, y: Array, snr: float, rows: slice, seed: int, step: int) -> Array:
    eps = 2 * (snr * level.sigma) ** 2
    xi = deviates(rows, level.shape, seed=seed, step=step, draw=CORRECTOR)
    return np.asarray(y + eps * level.score(y) + math.sqrt(2 * eps) * xi)


def perturb(x: Any, sde: SDE | tuple[float, float], t: Any, *, seed: int = 0) -> Array:
    """Return draws of x_t given x_0: alpha(t) x + std(t) xi.

    Parameters
    ----------
    x
        Data (n, *shape).
    sde
        As in :func:`reverse_sde`.
    t
        Times from 0 to 1, one number or one for each state.
    seed
        A whole number from 0 to 2^64 - 1.

    Returns
    -------
    array (n, *shape)

    Raises
    ------
    InputError
        If the times are outside, or not one a state.
    """
    sde = as_sde(sde)
    data, times = require_array("x", x), require_array("t", t)
    if data.ndim < 1:
        raise InputError(f"x is {x!r}: it must be data of shape (n, *shape)")
    if times.shape not in ((), data.shape[:1]) or not ((times >= 0) & (times <= 1)).all():
        raise InputError(
            f"t is {short(t)}: it must be a time from 0 to 1, or one for each of {len(data)} states"
        )
    times = times.reshape(-1, *[1] * (data.ndim - 1))
    xi = deviates(slice(0, len(data)), data.shape[1:], seed=seed, step=0, draw=PERTURBED)
    return np.asarray(sde.alpha(times) * data + sde.std(times) * xi)
