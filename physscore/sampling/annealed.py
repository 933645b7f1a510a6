"""Annealed Langevin dynamics: through a sequence of noise levels, from a smooth density to a sharp one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import floating_dtype
from physscore.core import Array, InputError, Score
from physscore.kernels.langevin import ULA
from physscore.noise import normal
from physscore.paths import check_levels
from physscore.sampling.engine import Engine, first_states, whole


def annealed_langevin(
    score_at: Callable[[float], Score],
    sigmas: Any,
    *,
    chains: int,
    steps: int = 100,
    step_size: float,
    seed: int = 0,
    init: Any = None,
    denoise: bool = True,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    """Draw by Langevin dynamics at one noise level after the other (Song & Ermon 2019, algorithm 1).

    Parameters
    ----------
    score_at
        A function of the noise level sigma that returns the score of the density smoothed with
        N(0, sigma^2): a ``Score`` or an ``Energy``.
    sigmas
        Noise levels, falling; see ``paths.noise_levels``.
    chains
        How many draws.
    steps
        Langevin steps at each level.
    step_size
        That of the last level, eps in x + eps s + sqrt(2 eps) xi (half of Song & Ermon's alpha); at
        level i it is step_size sigma_i^2 / sigma_last^2.
    seed
        A whole number from 0 to 2^64 - 1.
    init
        Where the chains start. [default: N(0, sigma_first^2)]
    denoise
        End with the mean of x given its last noise, x + sigma_last^2 s (Jolicoeur-Martineau et al. 2020).
    dtype
        float32 or float64.

    Returns
    -------
    array (chains, *shape)

    Raises
    ------
    InputError
        If the noise levels do not fall, ``score_at`` does not return scores, or the step size is so large
        that states run away.
    """
    if not callable(score_at):
        raise InputError(f"score_at is {score_at!r}: it must be a function of sigma")
    levels = check_levels(sigmas)
    chains, steps = whole(chains=chains), whole(steps=steps)
    last = ULA(step_size)
    if last.step_size == "auto":
        raise InputError('step_size is "auto": annealed Langevin takes a number')
    x: Any = None
    for i, sigma in enumerate(levels):
        target = score_at(float(sigma))
        if not isinstance(target, Score):
            raise InputError(f"score_at({sigma:g}) returned a {type(target).__name__}: it must be a Score")
        if x is None:
            x = _first(target, chains, float(sigma), seed, init, floating_dtype(dtype))
        engine = Engine(target, last.tuned(step_size=step_size * float(sigma / levels[-1]) ** 2))
        state = engine.start(x, seed)
        state.step = i * steps  # each level has noise of its own
        engine.advance(state, steps)
        x = engine.positions(state.x)
        if not np.isfinite(x).all():
            raise InputError(
                f"step_size is {step_size:g}: states ran away at sigma = {sigma:g}; for any data "
                f"it is stable below {2 * levels[-1] ** 2:.4g}, twice the square of the last noise level"
            )
    if denoise:
        x = x + float(levels[-1]) ** 2 * target.score(x)
    return np.asarray(x)


def _first(target: Score, chains: int, sigma: float, seed: int, init: Any, dtype: Any) -> Array:
    if init is None:
        start = normal(chains, target.dim, seed=seed, draw=3, dtype=dtype)
        return sigma * start.reshape(chains, *target.shape)
    return first_states(target, chains, seed, init, dtype)
