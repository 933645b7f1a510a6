"""Have the chains mixed, and how much are their draws worth?

R-hat, effective sample sizes and the Monte Carlo error are those of Vehtari, Gelman, Simpson, Carpenter
and Bürkner, "Rank-normalization, folding, and localization: an improved R-hat", Bayesian Analysis 16,
667 (2021), arXiv:1903.08008, as Stan and ArviZ compute them; but where chains are more than the draws of
each, sizes are at most what the spread of the chains' means says: short autocorrelations tell too much.
Draws have shape (draws, chains, *shape) and each component of ``shape`` is looked at on its own. They may
be a NumPy array or an h5py dataset, which is read in pieces over the components, so that about 64 MB are in
work at a time, or the draws of one component where these are more.

A component that never moves has R-hat nan and as many effective draws as draws, as in ArviZ; one with
a draw that is not finite is nan throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from physscore.arrays import n_threads, on_gpu, to_host
from physscore.core import Array, InputError

_Floats = npt.NDArray[np.float64]

_PIECE_BYTES = 1 << 26
# Working memory of one draw: its value, the value sorted, its place, its rank, its score and two spectra.
_BYTES_A_DRAW = 80

_TAILS = (0.05, 0.95)
_ENOUGH = 400.0
_R_HAT = 1.01
_FALSE_ALARMS = 1e-3
_AWAY = 30.0


def r_hat(draws: Any) -> _Floats:
    """Return the rank-normalised split R-hat, the larger of that of the bulk and that of the tails.

    Each chain is cut into halves. R-hat compares the spread of all normal scores with that within the
    half chains; it is near 1 if they all tell the same story. Folding, |x - median|, shows chains that
    agree in place and not in width. A single chain is compared with itself, half against half, where
    ArviZ gives nan.

    Parameters
    ----------
    draws : array or h5py dataset (draws, chains, *shape)
        At least 4 draws a chain.

    Returns
    -------
    array of ``shape``
        Vehtari et al. (2021), equations 4, 14 and 15.

    Raises
    ------
    InputError
        If the draws are fewer than 4 a chain, or not real numbers of that shape.
    """
    return _over_components(draws, _r_hat)


def effective_sample_size(draws: Any, kind: str = "bulk") -> _Floats:
    """Return the number of independent draws that would tell as much.

    Parameters
    ----------
    draws : array or h5py dataset (draws, chains, *shape)
        At least 4 draws a chain.
    kind : "bulk", "tail" or "mean"
        For the normal scores of the draws; for the 5% or the 95% quantile, whichever has less; for the
        mean of the draws themselves, which must have a variance.

    Returns
    -------
    array of ``shape``
        Vehtari et al. (2021), section 3.2. At most n log10(n) for n draws in all.

    Raises
    ------
    InputError
        If ``kind`` is another word, or the draws are not as in :func:`r_hat`.
    """
    if kind not in _KINDS:
        raise InputError(f"kind is {kind!r}: it must be one of {', '.join(_KINDS)}")
    return _over_components(draws, _KINDS[kind])


def monte_carlo_error(draws: Any) -> _Floats:
    """Return the standard error of the mean over all draws, sd / sqrt(effective sample size).

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
        As in :func:`r_hat`.
    """
    return _over_components(draws, _monte_carlo_error)


class Mixing(NamedTuple):
    """Whether chains may be trusted, and if not, why, in plain words."""

    passed: bool
    reasons: list[str]


def mixing_verdict(
    r_hat: Any, ess_bulk: Any, ess_tail: Any, *, draws: int, chains: int, divergent: int = 0,
    names: Sequence[str] | None = None, outlying: Any = 0.0, drift: Any = 1.0,
) -> Mixing:  # fmt: skip
    """Judge chains by R-hat, the effective sample sizes and the chains that diverged.

    Below 400 effective draws, over all chains, neither diagnostic is reliable (Vehtari et al. 2021).
    R-hat has to be below a limit with three parts, of which the largest counts:

    * 1.01, which says that a half chain is worth 50 independent draws: for many half chains of n draws,
      worth e each, R-hat^2 = 1 - 1/n + 1/e. For 4 chains these are the 400 effective draws.
    * The same with less than 50: the share of a half chain in the 400, but 10 at least, to have forgotten
      where it started; and for half chains of less than 50 draws n/5, but 5 at least. A fixed 1.01 would
      ask for 100 correlation times a chain however many chains there are.
    * What chance allows. For m half chains it is R-hat^2 = 1 - 1/n + F/e, where F follows Fisher's law of
      m - 1 and m (e - 1) degrees of freedom. The largest of 2c values, for c components with bulk and
      tails each, exceeds the quantile 1 - a/(2c) of F with a probability of at most a, however the
      components depend on each other; a = 0.001. Four chains of 100 independent draws exceed 1.01 in one
      component out of ten, so that 10^4 components could never pass a fixed limit.

    The third part takes e from the effective sample sizes, the smaller over m, but never less than the
    first two ask for: that of chains that are stuck is small and must not excuse them.

    R-hat, a mean over the half chains, is small if one of hundreds is stuck elsewhere, or if all share a
    drift; ``outlying`` and ``drift`` tell. A half chain is stuck if its mean is more than 30 of its own
    standard errors away. A drift is one that chance makes, in any of the components, once in 1000 times.

    The effective sample sizes are estimates too. Of four chains, the smallest of 10^4 components may come
    out at half its true value: let the true one be 1000 and more.

    Parameters
    ----------
    r_hat, ess_bulk, ess_tail : arrays of ``shape``
        From :func:`r_hat` and :func:`effective_sample_size`.
    draws, chains : int
        Number of draws a chain, and of chains.
    divergent : int
        Number of chains that left the finite numbers.
    names : sequence of str, optional
        Names of the components, in the order of the flattened arrays.
    outlying, drift : arrays of ``shape``, optional
        From :mod:`physscore.diagnostics.halves`.

    Returns
    -------
    Mixing
        ``passed, reasons``. Mixed chains of short correlation time fail by R-hat once in 1000 times.
    """
    shape = np.shape(r_hat)
    found, bulk, tail = (np.asarray(a, np.float64).reshape(-1) for a in (r_hat, ess_bulk, ess_tail))

    def at(component: Any) -> str:
        if names is not None:
            return f" at {names[component]}"
        place = tuple(int(i) for i in np.unravel_index(component, shape))
        return f" at component {place}" if shape else ""

    def others(flagged: Array) -> str:
        more = int(flagged.sum()) - 1
        return f" (and {more} more)" if more > 0 else ""

    reasons = []
    if divergent:
        reasons.append(f"{divergent} of {chains} chains diverged: use a smaller step")
    lost = np.isnan(bulk) | np.isnan(tail)
    if lost.any():
        reasons.append(f"draws are not finite{at(lost.argmax())}{others(lost)}: use a smaller step")
    still = np.isnan(found) & ~lost
    if still.any():
        reasons.append(f"all draws are the same{at(still.argmax())}{others(still)}: nothing has moved")
    limit = _r_hat_limit(found, np.fmin(bulk, tail), draws, chains)
    apart = found > limit
    if apart.any():
        worst = int(np.argmax(np.where(apart, found - limit, -np.inf)))
        reasons.append(
            f"has not mixed: R-hat is {found[worst]:.4g}{at(worst)}{others(apart)}, "
            f"above {limit[worst]:.4g}: run longer or use a better kernel"
        )
    away, chance = (np.asarray(a, np.float64).reshape(-1) for a in (outlying, drift))
    stays = away > _AWAY
    if stays.any() and not apart.any():
        reasons.append(
            f"has not mixed: a chain stays where others are not{at(np.nanargmax(away))}{others(stays)}: "
            "run longer or use a better kernel"
        )
    drifts = chance * len(chance) < _FALSE_ALARMS
    if drifts.any():
        reasons.append(
            "drifts: the chains' first halves are not where their second halves are"
            f"{at(np.nanargmin(chance))}{others(drifts)}: give them more warmup"
        )
    for kind, sizes in (("bulk", bulk), ("tail", tail)):
        few = sizes < _ENOUGH
        if few.any():
            least = int(np.nanargmin(sizes))
            reasons.append(
                f"{kind} effective sample size is {sizes[least]:.0f}{at(least)}{others(few)}, "
                f"below {_ENOUGH:.0f}: run longer"
            )
    return Mixing(not reasons, reasons)


def _r_hat_limit(found: _Floats, ess: _Floats, draws: int, chains: int) -> _Floats:
    """Return the largest R-hat that passes, component by component."""
    from scipy.special import fdtri

    half, half_chains = draws // 2, 2 * chains
    limit = np.full(found.shape, _R_HAT)
    doubtful = found > _R_HAT
    shared = max(10.0, _ENOUGH / half_chains)  # what each half chain of many has to bring
    least = min(half, max(5.0, min(half / 5, shared, 50.0)))
    worth = np.clip(ess[doubtful] / half_chains, least, half)
    chance = _FALSE_ALARMS / (2 * max(1, found.size))
    # F of (a, b) degrees is above x where F of (b, a) is below 1 / x.
    ratio = 1 / fdtri(half_chains * (worth - 1), half_chains - 1, chance)
    limit[doubtful] = np.sqrt(1 - 1 / half + np.maximum(ratio / worth, 1 / least))
    return np.asarray(np.maximum(limit, _R_HAT))


def _over_components(draws: Any, statistic: Callable[[_Floats], _Floats]) -> _Floats:
    """Return the statistic, from arrays (components, chains, draws) to (components,), piece by piece."""
    if not hasattr(draws, "dtype"):
        draws = draws if on_gpu(draws) else np.asarray(draws)
    if len(draws.shape) < 2 or draws.shape[1] < 1:
        raise InputError(f"draws has shape {draws.shape}: it must be (draws, chains, ...)")
    if draws.dtype.kind not in "fiub":
        raise InputError(f"draws has the type {draws.dtype}: it must hold real numbers")
    n, chains, *shape = draws.shape
    if n < 4:
        raise InputError(f"draws has {n} draws a chain: R-hat and effective sample sizes need at least 4")
    result = np.full(shape, np.nan)
    for piece in _pieces(shape, max(1, _PIECE_BYTES // (_BYTES_A_DRAW * n * chains))):
        values = to_host(draws[(slice(None), slice(None), *piece)])
        values = values.reshape(n, chains, math.prod(values.shape[2:]))
        values = np.ascontiguousarray(values.transpose(2, 1, 0), np.float64)
        finite = np.isfinite(values).all((1, 2))
        part = np.full(len(values), np.nan)
        if finite.any():
            part[finite] = statistic(values if finite.all() else values[finite])
        result[piece] = part.reshape(result[piece].shape)
    return result


def _pieces(shape: Sequence[int], most: int) -> Iterator[tuple[int | slice, ...]]:
    """Yield indices that cut an array into blocks of at most ``most`` elements, in order."""
    axis = len(shape)
    while axis and math.prod(shape[axis - 1 :]) <= most:
        axis -= 1
    if axis == 0:
        yield ()
        return
    length = max(1, most // math.prod(shape[axis:]))
    for leading in np.ndindex(*shape[: axis - 1]):
        for start in range(0, shape[axis - 1], length):
            yield (*leading, slice(start, start + length))


def _split(values: Array) -> Array:
    """Return the half chains, (components, 2 chains, draws // 2), without the middle of odd lengths."""
    half = values.shape[-1] // 2
    return np.concatenate((values[..., :half], values[..., -half:]), axis=1)


def _normal_scores(values: _Floats) -> _Floats:
    """Return the normal quantiles of the ranks among all draws of a component, tied ones sharing a rank.

    Vehtari et al. (2021), equation 14: z = Phi^-1((rank - 3/8) / (n + 1/4)).
    """
    from scipy.special import ndtri

    flat = values.reshape(len(values), -1)
    n = flat.shape[1]
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    # Ranks from 1 to n in steps of one half: each run of equal values takes the mean of its ends.
    scores = ndtri((np.arange(2, 2 * n + 1) / 2 - 3 / 8) / (n + 1 / 4))
    differs = ordered[:, 1:] != ordered[:, :-1]
    if differs.all():
        places = np.broadcast_to(2 * np.arange(n), order.shape)
    else:
        first = np.zeros(order.shape, np.int64)
        last = np.full(order.shape, n - 1)
        first[:, 1:] = np.where(differs, np.arange(1, n), 0)
        last[:, :-1] = np.where(differs, np.arange(n - 1), n - 1)
        places = np.maximum.accumulate(first, axis=1)
        places += np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    result = np.empty(flat.shape)
    np.put_along_axis(result, order, scores[places], axis=1)
    return result.reshape(values.shape)


def _r_hat(values: _Floats) -> _Floats:
    halves = _split(values)
    bulk = _scale_reduction(_normal_scores(halves))
    halves -= np.median(halves, axis=(1, 2), keepdims=True)
    tails = _scale_reduction(_normal_scores(np.abs(halves, out=halves)))
    # Draws of two values fold into one, which has no R-hat.
    return np.where(tails > bulk, tails, bulk)


def _scale_reduction(values: _Floats) -> _Floats:
    """Return sqrt(variance of all / variance within), Vehtari et al. (2021), equations 1 to 4."""
    n = values.shape[-1]
    within = values.var(axis=-1, ddof=1).mean(axis=-1)
    between = values.mean(axis=-1).var(axis=-1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(between / within + (n - 1) / n))


def _bulk(values: _Floats) -> _Floats:
    return _effective(_normal_scores(_split(values)))


def _tail(values: _Floats) -> _Floats:
    limits = np.quantile(values.reshape(len(values), -1), _TAILS, axis=1)
    below = [_split(values <= limit[:, np.newaxis, np.newaxis]) for limit in limits]
    return np.minimum(*(_effective(indicator.astype(np.float64)) for indicator in below))


def _mean(values: _Floats) -> _Floats:
    return _effective(_split(values))


def _monte_carlo_error(values: _Floats) -> _Floats:
    return np.asarray(values.std(axis=(1, 2), ddof=1) / np.sqrt(_mean(values)))


_KINDS = {"bulk": _bulk, "tail": _tail, "mean": _mean}


def _effective(values: _Floats) -> _Floats:
    """Return the effective number of draws in half chains, arrays (components, half chains, draws)."""
    total, n = values.shape[1] * values.shape[2], values.shape[2]
    constant = values.max(axis=(1, 2)) == values.min(axis=(1, 2))
    means = values.mean(axis=-1, keepdims=True)
    covariance = _mean_autocovariance(values - means)
    within = covariance[:, 0] * n / (n - 1)
    overall = covariance[:, 0] + means[..., 0].var(axis=-1, ddof=1)
    overall[constant] = 1.0
    correlation = 1 - (within[:, np.newaxis] - covariance) / overall[:, np.newaxis]
    correlation[:, 0] = 1.0
    time = _correlation_time(correlation)
    chains = values.shape[1] // 2
    if chains > 2 * n:
        of_chains = means[:, :chains, 0] + means[:, chains:, 0]  # twice their means
        time = np.maximum(time, n / 2 * of_chains.var(axis=-1, ddof=1) / overall)
    return np.asarray(np.where(constant, total, total / np.maximum(time, 1 / math.log10(total))))


def _correlation_time(correlation: _Floats) -> _Floats:
    """Return 1 + 2 (rho(1) + rho(2) + ...) of autocorrelations (components, lags from 0).

    The sum ends by the rule of Geyer, Statistical Science 7, 473 (1992): sums of neighbours,
    rho(2k) + rho(2k+1), are positive and fall with k for a reversible chain; the first that is not
    positive ends the sum, and none counts more than the one before it.
    """
    n = correlation.shape[1]
    # The last two lags are left out, as in Stan.
    pairs = 1 + max(0, (n - 3) // 2)
    even, odd = correlation[:, : 2 * pairs : 2], correlation[:, 1 : 2 * pairs : 2]
    sums = even + odd
    ends = sums <= 0
    end = np.where(ends.any(axis=1), ends.argmax(axis=1), pairs - 1)
    counted = np.arange(pairs) < end[:, np.newaxis]
    time = 2 * np.where(counted, np.minimum.accumulate(sums, axis=1), 0.0).sum(axis=1) - 1
    # What ends the sum still lends its even half, which makes up for the bias of antithetic chains.
    rows = np.arange(len(end))
    last = even[rows, end]
    time += np.where((last > 0) | (sums[rows, end] >= 0), last, 0.0)
    return np.asarray(time)


def _mean_autocovariance(values: _Floats) -> _Floats:
    """Return the autocovariances of centred chains, their mean over axis 1, for every lag."""
    import scipy.fft

    n = values.shape[-1]
    length = scipy.fft.next_fast_len(2 * n - 1, real=True)
    modes = scipy.fft.rfft(values, length, axis=-1, workers=n_threads())
    # One inverse transform serves all chains, since their spectra add.
    power = (np.square(modes.real) + np.square(modes.imag)).mean(axis=1)
    return np.asarray(scipy.fft.irfft(power, length, axis=-1, workers=n_threads())[:, :n] / n)
