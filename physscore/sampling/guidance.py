"""Scores that are guided by a class or by data, at every noise level."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from physscore.core import InputError, Score
from physscore.sampling.levels import ScoreAt


def guided(score_at: ScoreAt, likelihood_score_at: ScoreAt, scale: float = 1.0) -> ScoreAt:
    """Return the score at each noise level plus ``scale`` times that of a likelihood of the noisy state.

    The likelihood has to be that of the *noisy* state, p(y | x + sigma xi), a function of sigma: that of
    clean states at all levels is wrong at all of them but the last.

    What is sampled:

    * scale = 1: p_sigma(x) p(y | x_sigma) is proportional to p_sigma(x | y), the smoothed posterior, so that
      every sampler through noise levels draws from p(x | y).
    * scale != 1: p_sigma(x) p(y | x_sigma)^scale tends to p(x) p(y | x)^scale as sigma falls, but at
      sigma > 0 it is *not* that density smoothed. The densities are a fair path for samplers that equilibrate
      at each level: ``annealed_langevin``, or ``reverse_sde`` with enough corrector steps. The plain reverse
      SDE, the probability flow and Heun's method do not sample p(x) p(y | x)^scale with it, nor does the
      log-likelihood of the flow belong to it.

    Parameters
    ----------
    score_at
        A function of sigma that returns the score of the density smoothed with N(0, sigma^2 I).
    likelihood_score_at
        A function of sigma that returns the gradient of log p(y | x_sigma) over the noisy state: a ``Score``,
        or an ``Energy`` whose energy is -log p(y | x_sigma).
    scale
        The power lambda of the likelihood.

    Returns
    -------
    function of sigma
        What samplers take as ``score_at``.

    Raises
    ------
    InputError
        If ``scale`` is not finite, or one of the functions is not one.
    """
    for name, function in (("score_at", score_at), ("likelihood_score_at", likelihood_score_at)):
        if not callable(function):
            raise InputError(f"{name} is {function!r}: it must be a function of sigma")
    if not isinstance(scale, int | float | np.number) or not math.isfinite(scale):
        raise InputError(f"scale is {scale!r}: it must be a finite number")
    return partial(_guided, score_at, likelihood_score_at, float(scale))


def _guided(score_at: ScoreAt, likelihood_score_at: ScoreAt, scale: float, sigma: float) -> Score:
    return score_at(sigma) + scale * likelihood_score_at(sigma)
