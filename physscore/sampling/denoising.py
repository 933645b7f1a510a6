"""Samplers over a list of noise levels: Heun's method of EDM, and the ancestral sampler of DDPM."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError
from physscore.energies.analytic import check_positive
from physscore.paths import check_levels
from physscore.sampling.engine import whole
from physscore.sampling.levels import (
    ANCESTRAL,
    CHURN,
    Level,
    ScoreAt,
    counted,
    deviates,
    pieces,
)
from physscore.sampling.noise_prediction import check_betas
from physscore.sampling.start import first_states

_Floats = npt.NDArray[np.float64]
_STEEP = 100.0  # far above 1: chains may start far away


def edm_levels(sigma_min: float, sigma_max: float, n: int, rho: float = 7.0) -> _Floats:
    """Return ``n`` falling noise levels, evenly spaced in sigma^(1/rho).

    Karras, Aittala, Aila & Laine 2022 (arXiv:2206.00364), equation 5: the larger ``rho``, the denser they
    are at small noise.

    Raises
    ------
    InputError
        If the levels are not positive and falling, or rho is not positive.
    """
    check_positive(sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    if not sigma_min < sigma_max or not whole(2, n=n):
        raise InputError(f"sigma_min is {sigma_min} and sigma_max {sigma_max}: it must be below that")
    ramp = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n) ** rho
    ramp[0], ramp[-1] = sigma_max, sigma_min
    return np.asarray(ramp)


def heun(
    score_at: ScoreAt,
    sigmas: Any,
    n: int,
    *,
    seed: int = 0,
    churn: float = 0.0,
    churn_range: tuple[float, float] = (0.0, math.inf),
    churn_noise: float = 1.0,
    init: Any = None,
    denoise: bool = True,
    batch: int | None = None,
    progress: bool = False,
) -> Array:
    """Draw by Heun's method along the probability flow dx / dsigma = -sigma s_sigma(x), of second order.

    Karras et al. 2022 (arXiv:2206.00364): algorithm 1 without churn, algorithm 2 with it. Two scores a level.

    Parameters
    ----------
    score_at
        As in ``reverse_sde``.
    sigmas
        Noise levels, falling, such as ``edm_levels(0.002, 80, 40)``.
    n
        How many draws.
    seed
        A whole number from 0 to 2^64 - 1.
    churn
        S_churn: before each step the noise grows by the factor 1 + min(churn / number of steps, sqrt(2) - 1),
        which forgets errors of earlier steps. 0 is deterministic but for the start.
    churn_range
        Noise levels between which there is churn, S_min and S_max.
    churn_noise
        S_noise, the standard deviation of the churned noise. Other values than 1 sample another law; they
        make up for a learned score that removes too much.
    init
        Where the chains start: an array, a density with a method ``sample``, or "matched" as in
        ``probability_flow``. [default: N(0, sigma_first^2)]
    denoise
        End with the step to zero noise, x + sigma_last^2 s, as the algorithms do.
    batch
        The most chains in work at once. [default: 2^20 components]
    progress
        Show a progress bar.

    Returns
    -------
    array (n, *shape)

    Raises
    ------
    InputError
        If an argument makes no sense, or the score is not finite; it says at which noise level.
    """
    levels, n = check_levels(sigmas), whole(n=n)
    for name, value in (("churn", churn), ("churn_noise", churn_noise)):
        if not isinstance(value, int | float | np.number) or not 0 <= value < math.inf:
            raise InputError(f"{name} is {value!r}: it must be a number of at least 0")
    try:
        low, high = churn_range
        rising = 0 <= low <= high
    except (TypeError, ValueError):
        rising = False
    if not rising:
        raise InputError(f"churn_range is {churn_range!r}: it must be two rising noise levels")
    last = Level(score_at, levels[-1])
    shape = last.shape
    rows_at_once = pieces(n, math.prod(shape), batch)
    x = first_states(Level(score_at, levels[0]), n, float(levels[0]), seed, init)
    n_steps, warned = len(levels) - 1, False
    for i in counted(range(n_steps), n_steps, "Heun", progress):
        sigma, target = float(levels[i]), float(levels[i + 1])
        grown = 1.0
        if churn > 0 and low <= sigma <= high:
            grown += min(churn / max(1, n_steps), math.sqrt(2) - 1)
        here, there = Level(score_at, grown * sigma), Level(score_at, target)
        for rows in rows_at_once:
            y = x[rows]
            if grown > 1:
                xi = deviates(rows, shape, seed=seed, step=i, draw=CHURN)
                y = y + sigma * math.sqrt(grown**2 - 1) * churn_noise * xi
            slope = -here.sigma * here.score(y)
            warned = warned or _warn_if_steep(slope, here.sigma)
            ahead = y + (target - here.sigma) * slope
            slope = 0.5 * (slope - target * there.score(ahead))
            x[rows] = y + (target - here.sigma) * slope
    if denoise:
        for rows in rows_at_once:
            x[rows] = last.denoised(x[rows])
    return x


def _warn_if_steep(slope: Array, sigma: float) -> bool:
    """Warn if sigma times the score is much larger than noise: over a density smoothed with N(0, sigma^2) the
    mean square of a component is 1 at most. Return whether it is so."""
    size = float(np.median(np.sqrt((slope**2).reshape(len(slope), -1).mean(axis=1))))
    if size > _STEEP:
        warnings.warn(
            f"the score at sigma = {sigma:.3g} is {size:.3g} times as steep as that of any density with so "
            "much noise, and draws may run away: is a likelihood that of clean states, or noise too small?",
            stacklevel=3,
        )
    return size > _STEEP


def ddpm(
    score_at: ScoreAt,
    betas: Any,
    n: int,
    *,
    seed: int = 0,
    variance: str = "posterior",
    init: Any = None,
    batch: int | None = None,
    progress: bool = False,
) -> Array:
    """Draw by the ancestral sampler of DDPM (Ho, Jain & Abbeel 2020, arXiv:2006.11239, algorithm 2).

    x_{t-1} = (x_t + beta_t s_t(x_t)) / sqrt(1 - beta_t) + std_t xi, and no noise in the last step, where
    s_t(x) = score_at(sigma)(x / sqrt(abar)) / sqrt(abar) and sigma = sqrt((1 - abar) / abar), with abar the
    product of 1 - beta up to t.

    Parameters
    ----------
    score_at
        As in ``reverse_sde``; of a network that predicts the noise, see ``score_at_from_epsilon``.
    betas
        Variances of the steps that add noise, between 0 and 1: ``linear_betas``, ``cosine_betas``.
    n
        How many draws.
    seed
        A whole number from 0 to 2^64 - 1.
    variance
        "posterior": std_t^2 = beta_t (1 - abar_{t-1}) / (1 - abar_t), exact for data of one point; or "beta":
        std_t^2 = beta_t, exact for data N(0, 1).
    init
        Where x_T starts: an array, a density with a method ``sample``, or "matched" as in
        ``probability_flow``. [default: N(0, 1)]
    batch
        The most chains in work at once. [default: 2^20 components]
    progress
        Show a progress bar.

    Returns
    -------
    array (n, *shape)

    Raises
    ------
    InputError
        If an argument makes no sense, or the score is not finite; it says at which noise level.
    """
    steps, n = check_betas(betas), whole(n=n)
    if variance not in ("posterior", "beta"):
        raise InputError(f'variance is {variance!r}: it must be "posterior" or "beta"')
    kept = np.exp(np.cumsum(np.log1p(-steps)))
    lost = -np.expm1(np.cumsum(np.log1p(-steps)))
    level = Level(score_at, math.sqrt(lost[-1] / kept[-1]))
    shape = level.shape
    rows_at_once = pieces(n, math.prod(shape), batch)
    x = first_states(level, n, 1.0, seed, init, math.sqrt(kept[-1]))
    for t in counted(range(len(steps) - 1, -1, -1), len(steps), "DDPM", progress):
        level = Level(score_at, math.sqrt(lost[t] / kept[t]))
        beta, scale = float(steps[t]), math.sqrt(kept[t])
        std = 0.0 if t == 0 else math.sqrt(beta * (lost[t - 1] / lost[t] if variance == "posterior" else 1.0))
        for rows in rows_at_once:
            y = (x[rows] + beta * level.score(x[rows] / scale) / scale) / math.sqrt(1 - beta)
            if t:
                y += std * deviates(rows, shape, seed=seed, step=t, draw=ANCESTRAL)
            x[rows] = y
    return x
