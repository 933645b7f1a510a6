"""Losses of score matching: what a model of a score is trained with, each a mean over a batch.

A model maps states (n, *shape) to scores (n, *shape), or to energies (n,), whose negative gradient is the
score; ``energies/torch_modules.py`` says how it is called. Randomness comes from torch, or ``generator=``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from physscore.core import InputError
from physscore.energies.torch_modules import Model, checked_batch, per_state, score_of

_Generator = torch.Generator | None


def exact(model: Model, x: Tensor, sigma: Any = None, parameters: Tensor | None = None) -> Tensor:
    """Return the mean of 1/2 |s|^2 + div s (Hyvarinen 2005, JMLR 6, 695, eq. 4).

    In expectation this is half the Fisher divergence between data and model, up to a constant. It takes a
    derivative for each dimension, or one pass where the model has ``score_and_divergence``.

    Parameters
    ----------
    model
        A score, or an energy.
    x
        Data, of shape (n, *shape). They are not changed.
    sigma, parameters
        What the model is conditional on, if it is.

    Returns
    -------
    Tensor ()
        Can be differentiated over the weights.

    Raises
    ------
    InputError
        If shapes are wrong.
    """
    s, divergence = score_and_divergence(model, checked_batch(x), sigma, parameters)
    return (0.5 * _squares(s) + divergence).mean()


def sliced(
    model: Model,
    x: Tensor,
    slices: int = 4,
    variance_reduced: bool = False,
    sigma: Any = None,
    parameters: Tensor | None = None,
    *,
    distribution: str = "gaussian",
    generator: _Generator = None,
) -> Tensor:
    """Return the mean of 1/2 (v.s)^2 + v^T grad s v over random v (Song et al. 2020, arXiv:1905.07088).

    Parameters
    ----------
    model, x, sigma, parameters
        As in :func:`exact`.
    slices
        Random directions for each state; the mean is over all of them.
    variance_reduced
        Use 1/2 |s|^2 in the place of 1/2 (v.s)^2, which has the same expectation.
    distribution
        "gaussian" or "rademacher": both have E[v v^T] = 1.
    generator
        Where the slices come from.

    Returns
    -------
    Tensor ()
    """
    if isinstance(slices, bool) or not isinstance(slices, int) or slices < 1:
        raise InputError(f"slices is {slices!r}: it must be a whole number of at least 1")
    x = checked_batch(x)
    v = directions((slices, *x.shape), x, distribution, generator)
    along = getattr(model, "along", None)
    if along is not None:
        projected, curvature = along(x, v, sigma, parameters)
        norm = _squares(score_of(model, x, sigma, parameters)) if variance_reduced else projected**2
        mean: Tensor = (0.5 * norm + curvature).mean()
        return mean
    x = x.clone().requires_grad_()
    s = score_of(model, x, sigma, parameters)
    total: Any = 0.0
    for one in v:
        projected = (s * one).flatten(1).sum(1)
        (product,) = torch.autograd.grad(projected.sum(), x, create_graph=True)
        curvature = (product * one).flatten(1).sum(1)
        total = total + (0.5 * (_squares(s) if variance_reduced else projected**2) + curvature).mean()
    return torch.as_tensor(total / slices)


def denoising(
    model: Model,
    x: Tensor,
    sigma: Any,
    parameters: Tensor | None = None,
    *,
    antithetic: bool = False,
    pool: int = 1,
    generator: _Generator = None,
) -> Tensor:
    """Return the mean of 1/2 |s(x + sigma e) + e / sigma|^2 (Vincent 2011, Neural Computation 23, 1661).

    Its minimum is the score of the data smoothed with N(0, sigma^2).

    Parameters
    ----------
    model, x, parameters
        As in :func:`exact`.
    sigma
        The noise level, or one for each state.
    antithetic
        Use each noise with both signs, at twice the cost: where sigma is small this takes away most of the
        scatter, which grows like 1 / sigma^2.
    pool
        Replace e by its mean over groups of so many states of the batch, each by the probability that it is
        the one that was made noisy (Xu et al. 2023, arXiv:2302.00670): by the law of total expectation the
        gradient has the same mean, and in few dimensions much less scatter.
    generator
        Where the noise comes from.

    Returns
    -------
    Tensor ()
    """
    x = checked_batch(x)
    if isinstance(pool, bool) or not isinstance(pool, int) or pool < 1:
        raise InputError(f"pool is {pool!r}: it must be a whole number of at least 1")
    if pool > 1 and parameters is not None:
        raise InputError(f"pool is {pool}: states of other parameters cannot stand in for each other")
    return _denoising(model, x, sigma, parameters, generator, antithetic, _plain_weight, pool)


def denoising_levels(
    model: Model,
    x: Tensor,
    sigmas: Any,
    parameters: Tensor | None = None,
    *,
    generator: _Generator = None,
) -> Tensor:
    """Return the mean over noise levels of sigma^2 times the denoising loss (Song & Ermon 2019, eq. 6).

    Each state gets one of the levels, all as often as the batch allows; the weight sigma^2 makes the share of
    all levels alike.

    Parameters
    ----------
    model, x, parameters, generator
        As in :func:`denoising`; the model is called with the noise level of each state, if it takes one.
    sigmas
        Noise levels (L,).

    Returns
    -------
    Tensor ()
    """
    x = checked_batch(x)
    levels = torch.as_tensor(sigmas, dtype=x.dtype, device=x.device).reshape(-1)
    if levels.numel() == 0 or not bool((levels > 0).all()) or not bool(torch.isfinite(levels).all()):
        raise InputError(f"sigmas is {sigmas}: noise levels must be positive")
    n, count = len(x), len(levels)
    turn = torch.randperm(count, generator=generator, device=x.device)  # so that none is left out for good
    chosen = turn[torch.arange(n, device=x.device) % count]
    chosen = chosen[torch.randperm(n, generator=generator, device=x.device)]
    return _denoising(model, x, levels[chosen], parameters, generator, False, _square_weight)


def denoising_edm(
    model: Model,
    x: Tensor,
    sigma_data: float = 1.0,
    log_mean: float = -1.2,
    log_std: float = 1.2,
    parameters: Tensor | None = None,
    *,
    generator: _Generator = None,
) -> Tensor:
    """Return the denoising loss with ln sigma ~ N(log_mean, log_std^2) and the weights of EDM.

    The mean of 1/2 w |D - x|^2, with D = x + sigma e + sigma^2 s and w = 1/sigma^2 + 1/sigma_data^2
    (Karras et al. 2022, arXiv:2206.00364, table 1): the target of an EDM network then has unit variance at
    every noise level.

    Parameters
    ----------
    model, x, parameters, generator
        As in :func:`denoising`; the model takes a noise level.
    sigma_data
        Standard deviation of the data.
    log_mean, log_std
        Of ln sigma.

    Returns
    -------
    Tensor ()
    """
    x = checked_batch(x)
    sigma = torch.exp(
        log_mean + log_std * torch.randn(len(x), generator=generator, device=x.device, dtype=x.dtype)
    )

    def weight(s: Tensor) -> Tensor:
        return s**2 * (1 + (s / sigma_data) ** 2)

    return _denoising(model, x, sigma, parameters, generator, False, weight)


def _plain_weight(sigma: Tensor) -> Tensor:
    return torch.ones_like(sigma)


def _square_weight(sigma: Tensor) -> Tensor:
    return sigma**2


def _denoising(
    model: Model,
    x: Tensor,
    sigma: Any,
    parameters: Tensor | None,
    generator: _Generator,
    antithetic: bool,
    weight: Callable[[Tensor], Tensor],
    pool: int = 1,
) -> Tensor:
    levels = per_state(sigma, x)
    noise = directions(x.shape, x, "gaussian", generator)
    if antithetic:
        x, noise, levels = torch.cat([x, x]), torch.cat([noise, -noise]), torch.cat([levels, levels])
        parameters = None if parameters is None else torch.cat([parameters, parameters])
    wide = levels.reshape(-1, *[1] * (x.ndim - 1))
    noisy = torch.addcmul(x, wide, noise)
    s = score_of_copies(model, noisy, levels, parameters)
    if pool > 1:
        noise, _ = pooled_noise(noisy, x, levels, pool)
    return 0.5 * (weight(levels) * _squares(s + noise / wide)).mean()


@torch.no_grad()
def pooled_noise(noisy: Tensor, x: Tensor, sigma: Tensor, pool: int) -> tuple[Tensor, Tensor]:
    """Return the mean of the noises that lead to ``noisy`` from ``pool`` states ``x``, their own among them,
    and that of their squares, (n,).

    Each counts by the probability that it is the one; noise levels ``sigma`` are (n,).
    """
    means, squares = [], []
    for y, clean, level in zip(*(torch.split(part, pool) for part in (noisy, x, sigma)), strict=True):
        flat = clean.flatten(1)
        far = torch.cdist(y.flatten(1), flat, compute_mode="donot_use_mm_for_euclid_dist")
        of_all = (far / level[:, None]) ** 2
        chances = torch.softmax(-0.5 * of_all, dim=1)
        squares.append((chances * of_all).sum(1))
        means.append((y - (chances @ flat).reshape(y.shape)) / level.reshape(-1, *[1] * (y.ndim - 1)))
    return torch.cat(means), torch.cat(squares)


def integrability(
    model: Model,
    x: Tensor,
    sigma: Any = None,
    parameters: Tensor | None = None,
    *,
    probes: int = 1,
    generator: _Generator = None,
) -> Tensor:
    """Return half the mean of |J - J^T|^2, by random pairs of directions: zero for the gradient of an energy.

    For v, w ~ N(0, 1) the mean of (v.J w - w.J v)^2 is |J - J^T|^2: all planes have their share.

    Parameters
    ----------
    model, x, sigma, parameters, generator
        As in :func:`sliced`.
    probes
        Pairs of directions for each state.

    Returns
    -------
    Tensor ()
    """
    x = checked_batch(x).clone().requires_grad_()
    s = score_of(model, x, sigma, parameters)
    total: Any = 0.0
    for _ in range(probes):
        v, w = directions((2, *x.shape), x, "gaussian", generator)
        (left,) = torch.autograd.grad((s * v).sum(), x, create_graph=True)  # J^T v
        (right,) = torch.autograd.grad((s * w).sum(), x, create_graph=True)
        turn = (left * w - right * v).flatten(1).sum(1)
        total = total + 0.5 * (turn**2).mean()
    return torch.as_tensor(total / probes)


def divergence(
    model: Model, x: Tensor, laplacian: Tensor, sigma: Any = None, parameters: Tensor | None = None
) -> Tensor:
    """Return half the mean of (div s - laplacian)^2, where the Laplacian of log p is known: shape (n,)."""
    x = checked_batch(x)
    if laplacian.shape != (len(x),):
        raise InputError(f"laplacian has shape {tuple(laplacian.shape)}: it must be ({len(x)},), one a state")
    _, found = score_and_divergence(model, x, sigma, parameters)
    return 0.5 * ((found - laplacian) ** 2).mean()


def weight_decay(model: torch.nn.Module) -> Tensor:
    """Return half the sum of the squares of all weights, without biases and gains (tensors of one axis)."""
    return 0.5 * torch.stack([(w**2).sum() for w in model.parameters() if w.ndim > 1]).sum()


def fisher_divergence(
    model: Model, x: Tensor, score: Tensor, sigma: Any = None, parameters: Tensor | None = None
) -> Tensor:
    """Return the mean of |s - score|^2 at states ``x``, against a known ``score`` of the same shape.

    A metric: without a gradient over the weights.
    """
    x = checked_batch(x)
    if score.shape != x.shape:
        raise InputError(f"score has shape {tuple(score.shape)}: it must be that of x, {tuple(x.shape)}")
    return _squares(score_of_copies(model, x, sigma, parameters, graph=False).detach() - score).mean()


def score_of_copies(
    model: Model, x: Tensor, sigma: Any = None, parameters: Tensor | None = None, *, graph: bool = True
) -> Tensor:
    """Return the score of a model that may change in place whatever it is given."""
    level = sigma.clone() if isinstance(sigma, Tensor) else sigma
    table = None if parameters is None else parameters.clone()
    return score_of(model, x.clone(), level, table, graph=graph)


def score_and_divergence(
    model: Model, x: Tensor, sigma: Any = None, parameters: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the score (n, *shape) and its exact divergence (n,), both with a gradient over the weights."""
    both = getattr(model, "score_and_divergence", None)
    if both is not None:
        s, trace = both(x, sigma, parameters)
        return s, trace
    x = x.detach().clone().requires_grad_()
    s = score_of(model, x, sigma, parameters)
    flat = s.flatten(1)
    trace = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for i in range(flat.shape[1]):
        if not flat.requires_grad:  # a score that does not depend on anything
            break
        (row,) = torch.autograd.grad(flat[:, i].sum(), x, create_graph=True, allow_unused=True)
        if row is not None:
            trace = trace + row.flatten(1)[:, i]
    return s, trace


def directions(shape: Any, like: Tensor, distribution: str, generator: _Generator) -> Tensor:
    """Return random numbers of mean 0 and variance 1, "gaussian" or "rademacher"."""
    if distribution == "gaussian":
        return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
    if distribution == "rademacher":
        bits = torch.randint(0, 2, tuple(shape), generator=generator, device=like.device)
        return (2 * bits - 1).to(like.dtype)
    raise InputError(f"distribution is {distribution!r}: it must be 'gaussian' or 'rademacher'")


def _squares(s: Tensor) -> Tensor:
    return (s**2).flatten(1).sum(1)
