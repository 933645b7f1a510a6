"""Is a half chain where the others are not, and do all chains begin elsewhere than they end?

R-hat is a mean over the half chains: one of hundreds that sits in a mode of its own hardly shows in it, nor
does a drift that is short of the spread and yet many times the error of the mean, since all chains share it.
Draws, components and normal scores are those of :mod:`physscore.diagnostics.chains`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from physscore.diagnostics.chains import (
    _correlation_time,
    _Floats,
    _mean_autocovariance,
    _normal_scores,
    _over_components,
    _split,
)

_LEAST = 10.0  # independent draws of a half chain below which its own spread says little
_SCATTER = 20.0  # of half chains, against what their correlation allows, that no tail explains
_TAIL = 2.0  # mean normal score of the energies of a half chain that is far out


def outlying(draws: Any, energies: Any = None) -> _Floats:
    """Return how far the most outlying half chain is from the others, in standard errors of its mean.

    The error is that of the half chain's own normal scores and of the correlation within half chains, so
    that it is small where a chain is stuck. A half chain that only visits a far place has a wide spread.

    Chains take long ways through tails and necks: a half chain whose energies are above or below nearly all
    others does not count, unless half chains scatter 20 times as much as the correlation in them allows.

    Parameters
    ----------
    draws : array or h5py dataset (draws, chains, *shape)
        At least 4 draws a chain.
    energies : array (draws, chains), optional
        Of the draws.

    Returns
    -------
    array of ``shape``
        0 where half chains are worth less than 10 independent draws, by their own correlation.

    Raises
    ------
    InputError
        If the draws are fewer than 4 a chain, or not real numbers of that shape.
    """
    in_tail: Any = False
    if energies is not None:
        values = np.ascontiguousarray(np.asarray(energies, np.float64).T)[np.newaxis]
        in_tail = np.abs(_normal_scores(_split(values)).mean(axis=-1)) > _TAIL
    return _over_components(draws, partial(_outlying, in_tail=in_tail))


def drift(draws: Any) -> _Floats:
    """Return the chance that first and second halves of chains in equilibrium differ by as much.

    That of Student's paired t test of the means of normal scores. These differences have a symmetric law,
    so that n of them agree in sign once in 2^(n - 1) times: the chance is that at least.

    Parameters
    ----------
    draws : array or h5py dataset (draws, chains, *shape)
        At least 4 draws a chain.

    Returns
    -------
    array of ``shape``

    Raises
    ------
    InputError
        If the draws are fewer than 4 a chain, or not real numbers of that shape.
    """
    return _over_components(draws, _drift)


def _outlying(values: _Floats, in_tail: Any) -> _Floats:
    scores = _normal_scores(_split(values))
    n = scores.shape[-1]
    means = scores.mean(axis=-1)
    covariance = _mean_autocovariance(scores - means[..., np.newaxis])
    within = covariance[:, :1]
    moves = within > 0
    correlation = np.divide(covariance, within, out=np.ones_like(covariance), where=moves)
    worth = n / np.maximum(_correlation_time(correlation), 1.0)[:, np.newaxis]
    scatter = worth * means.var(axis=1, ddof=1, keepdims=True)
    distance = np.abs(means - np.median(means, axis=1, keepdims=True)) * np.sqrt(worth)
    spread = np.maximum(scores.std(axis=-1, ddof=1), 1e-3)  # a chain may sit still
    counts = moves & (worth >= _LEAST) & ~(in_tail & (scatter <= _SCATTER * within))
    return np.asarray(np.where(counts, distance / spread, 0.0).max(axis=1))


def _drift(values: _Floats) -> _Floats:
    from scipy.special import stdtr

    scores = _normal_scores(_split(values))
    n = values.shape[1]
    change = scores[:, :n].mean(axis=-1) - scores[:, n:].mean(axis=-1)
    if n == 1:
        return np.ones(len(values))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(change.mean(axis=1)) / (change.std(axis=1, ddof=1) / np.sqrt(n))
    chance = np.maximum(2 * stdtr(n - 1, -t), 2.0 ** (1 - n))
    return np.where(np.isnan(t), 1.0, chance)
