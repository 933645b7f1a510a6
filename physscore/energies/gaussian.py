"""Gaussian densities and mixtures of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import scipy.linalg

from physscore import noise
from physscore.arrays import as_states, cholesky, cupy, on_gpu, real_numbers, to_host
from physscore.core import Array, Energy, InputError, Point, Prior
from physscore.elementary import exp, log
from physscore.points import compiled_block, energy_and_score, from_block


@compiled_block
def _gaussian_block(x, params, gradient_out, energy_out):
    """params: offset, 0 or 1 for a dense precision, mean[d], precision[d] or [d, d]."""
    d, n = x.shape
    dense = params[1] != 0.0
    energy_out[:] = params[0]
    centred = np.empty((d, n))
    for i in range(d):
        mean = params[2 + i]
        for j in range(n):
            centred[i, j] = x[i, j] - mean
    for i in range(d):
        if dense:
            row = 2 + d + i * d
            for j in range(n):
                gradient_out[i, j] = params[row] * centred[0, j]
            for k in range(1, d):
                weight = params[row + k]
                for j in range(n):
                    gradient_out[i, j] += weight * centred[k, j]
        else:
            weight = params[2 + d + i]
            for j in range(n):
                gradient_out[i, j] = weight * centred[i, j]
        for j in range(n):
            energy_out[j] += 0.5 * gradient_out[i, j] * centred[i, j]


class Gaussian(Prior):
    """A normal distribution of vectors.

    Parameters
    ----------
    mean
        A number or a vector.
    covariance
        A variance, a vector of variances, or a positive definite matrix.
    dim
        Number of dimensions, where both are numbers. [default: 1]

    Raises
    ------
    InputError
        If the sizes do not agree or the covariance is not positive definite.
    """

    def __init__(
        self, mean: float | Sequence[float] | Array, covariance: float | Any, dim: int | None = None
    ) -> None:
        given_mean, given = real_numbers(mean, "mean"), real_numbers(covariance, "covariance")
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1):
            raise InputError(f"dim is {dim!r}: it must be a whole number of at least 1")
        sizes = {a.shape[0] for a in (given_mean, given) if a.ndim} | ({dim} if dim is not None else set())
        square = given.ndim < 2 or given.shape == given.shape[:1] * 2
        if given_mean.ndim > 1 or len(sizes) > 1 or not square:
            raise InputError(
                f"mean has shape {given_mean.shape}, covariance {given.shape}, dim is {dim}: they must "
                "agree, as in a vector of d, d variances or a (d, d) matrix, and dim = d"
            )
        d = sizes.pop() if sizes else 1
        if d < 1:
            raise InputError("mean and covariance are empty: they must hold a number at least")
        self.shape = (d,)
        self.mean = np.broadcast_to(given_mean, d).copy()
        self.covariance = given if given.ndim == 2 else np.broadcast_to(given, d).copy()
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise InputError("mean and covariance must be finite")
        if self.covariance.ndim == 1:
            if self.covariance.min() <= 0:
                raise InputError(
                    f"covariance holds the variance {self.covariance.min()}: variances are positive"
                )
            self._precision = 1 / self.covariance
            log_det = float(np.log(self.covariance).sum())
        else:
            self._lower = cholesky(self.covariance, "covariance")
            inverse = scipy.linalg.cho_solve((self._lower, True), np.eye(d))
            self._precision = 0.5 * (inverse + inverse.T)
            log_det = 2 * float(np.log(np.diag(self._lower)).sum())
        self._offset = 0.5 * (d * math.log(2 * math.pi) + log_det)

    @cached_property
    def _point(self) -> Point:
        dense = float(self.covariance.ndim == 2)
        return from_block(
            _gaussian_block, np.concatenate([[self._offset, dense], self.mean, self._precision.ravel()])
        )

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both, sharing one product."""
        states = as_states(x, self.shape)
        if on_gpu(states):
            return energy_and_score(self._point, states)
        centred = states - self.mean.astype(states.dtype)
        precision = self._precision.astype(states.dtype)
        score = -(centred * precision if precision.ndim == 1 else centred @ precision)
        energy = self._offset - 0.5 * np.einsum("ni,ni->n", centred, score, dtype=np.float64)
        return energy, score

    def sample(self, n: int, *, seed: int) -> Array:
        """Return ``n`` independent draws, of shape (n, d)."""
        return self.unwhiten(noise.normal(n, self.dim, seed=seed, draw=noise.EXACT))

    def whiten(self, x: Array) -> Array:
        """Return L^-1 (x - mean), with the covariance L L^T."""
        if on_gpu(x):
            return cast(Array, cupy().asarray(self.whiten(to_host(x))))
        centred = as_states(x, self.shape) - self.mean
        if self.covariance.ndim == 1:
            return centred / np.sqrt(self.covariance)
        return np.asarray(scipy.linalg.solve_triangular(self._lower, centred.T, lower=True).T)

    def unwhiten(self, z: Array) -> Array:
        """Return mean + L z."""
        if on_gpu(z):
            return cast(Array, cupy().asarray(self.unwhiten(to_host(z))))
        z = as_states(z, self.shape, "z")
        if self.covariance.ndim == 1:
            return np.asarray(self.mean + z * np.sqrt(self.covariance))
        return np.asarray(self.mean + z @ self._lower.T)

    def pull_back(self, z: Array, gradient: Array) -> Array:
        """Return L^T gradient."""
        if on_gpu(z):
            return cast(Array, cupy().asarray(self.pull_back(to_host(z), to_host(gradient))))
        if self.covariance.ndim == 1:
            return np.asarray(gradient * np.sqrt(self.covariance))
        return np.asarray(gradient @ self._lower)

    def __repr__(self) -> str:
        return f"Gaussian(dim={self.dim})"


@compiled_block
def _mixture_block(x, params, gradient_out, energy_out):
    """params: number of components; of each the log of weight / sqrt(det 2 pi C), mean[d], precision[d]."""
    d, n = x.shape
    count, size = int(params[0]), 1 + 2 * d
    scratch = np.empty((count + 2, n))  # one allocation: a few of them cost as much as the arithmetic
    top, total = scratch[count], scratch[count + 1]
    for c in range(count):
        start = 1 + c * size
        height = scratch[c]
        for j in range(n):
            height[j] = params[start]
        for i in range(d):
            mean, half = params[start + 1 + i], 0.5 * params[start + 1 + d + i]
            for j in range(n):
                off = x[i, j] - mean
                height[j] -= half * (off * off)
        for j in range(n):
            top[j] = height[j] if c == 0 or height[j] > top[j] else top[j]
    for j in range(n):
        total[j] = 0.0
    for c in range(count):
        height = scratch[c]
        for j in range(n):
            height[j] = exp(height[j] - top[j])
            total[j] += height[j]
    for j in range(n):
        energy_out[j] = -log(total[j]) - top[j]
        total[j] = 1.0 / total[j]
    for c in range(count):
        start = 1 + c * size
        height = scratch[c]
        for j in range(n):
            height[j] *= total[j]
        for i in range(d):
            mean, precision = params[start + 1 + i], params[start + 1 + d + i]
            for j in range(n):
                slope = height[j] * (precision * (x[i, j] - mean))
                gradient_out[i, j] = slope if c == 0 else gradient_out[i, j] + slope


@compiled_block
def _dense_mixture_block(x, params, gradient_out, energy_out):
    """params: how many components; of each log(weight / sqrt(det 2 pi C)), mean[d], precision[d, d]."""
    d, n = x.shape
    count, size = int(params[0]), 1 + d + d * d
    slope, height = np.empty((count, d, n)), np.empty((count, n))
    centred = np.empty((d, n))
    top, total = np.full(n, -np.inf), np.zeros(n)
    for c in range(count):
        start = 1 + c * size
        height[c] = params[start]
        for i in range(d):
            for j in range(n):
                centred[i, j] = x[i, j] - params[start + 1 + i]
        for i in range(d):
            row = start + 1 + d + i * d
            slope[c, i] = 0.0
            for k in range(d):
                for j in range(n):
                    slope[c, i, j] += params[row + k] * centred[k, j]
            for j in range(n):
                height[c, j] -= 0.5 * slope[c, i, j] * centred[i, j]
        for j in range(n):
            top[j] = height[c, j] if height[c, j] > top[j] else top[j]
    gradient_out[:] = 0.0
    for c in range(count):
        for j in range(n):
            height[c, j] = exp(height[c, j] - top[j])
            total[j] += height[c, j]
        for i in range(d):
            for j in range(n):
                gradient_out[i, j] += height[c, j] * slope[c, i, j]
    for j in range(n):
        energy_out[j] = -log(total[j]) - top[j]
        total[j] = 1.0 / total[j]
    for i in range(d):
        for j in range(n):
            gradient_out[i, j] *= total[j]


class GaussianMixture(Energy):
    """A mixture of normal distributions, normalised.

    Parameters
    ----------
    weights
        One for each of the K components, positive; they are divided by their sum.
    means
        Of shape (K, d).
    covariances
        A number; or K variances; or (K, d) variances; or (K, d, d) matrices.

    Raises
    ------
    InputError
        If the shapes do not agree, a weight is not positive, or a covariance not positive definite.
    """

    log_z = 0.0

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        self.weights = real_numbers(weights, "weights")
        self.means = real_numbers(means, "means")
        if self.means.ndim != 2 or self.weights.shape != self.means.shape[:1]:
            raise InputError(
                f"weights has shape {self.weights.shape} and means {self.means.shape}: "
                "they must be (K,) and (K, d)"
            )
        if not (self.weights.min() > 0 and np.isfinite(self.weights).all()):
            raise InputError(f"weights is {self.weights}: all must be positive")
        self.weights = self.weights / self.weights.sum()
        count, d = self.means.shape
        given = real_numbers(covariances, "covariances")
        if given.ndim == 1 and len(given) == count:
            given = given[:, np.newaxis]
        if given.shape not in ((), (count, 1), (count, d), (count, d, d)):
            raise InputError(
                f"covariances has shape {given.shape}: it must be a number, ({count},), ({count}, {d}) "
                f"or ({count}, {d}, {d})"
            )
        dense = given.ndim == 3
        self.covariances = given if dense else np.broadcast_to(given, (count, d)).copy()
        self.components = [Gaussian(mean, c) for mean, c in zip(self.means, self.covariances, strict=True)]
        self.shape = (d,)

    @cached_property
    def _point(self) -> Point:
        parts: list[Any] = [[len(self.weights)]]
        for weight, part in zip(self.weights, self.components, strict=True):
            parts += [[math.log(weight) - part._offset], part.mean, part._precision.ravel()]
        block = _dense_mixture_block if self.covariances.ndim == 3 else _mixture_block
        return from_block(block, np.concatenate(parts))

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        states = as_states(x, self.shape)
        if on_gpu(states):
            return energy_and_score(self._point, states)
        both = [part.energy_and_score(states) for part in self.components]
        heights = np.array([np.log(w) - e for w, (e, _) in zip(self.weights, both, strict=True)])
        top = heights.max(axis=0)
        shares = np.exp(heights - top)
        total = shares.sum(axis=0)
        score = sum((share / total)[:, np.newaxis] * s for share, (_, s) in zip(shares, both, strict=True))
        return -np.log(total) - top, np.asarray(score, states.dtype)

    def sample(self, n: int, *, seed: int) -> Array:
        """Return ``n`` independent draws, of shape (n, d)."""
        parts = np.array([part.sample(n, seed=seed) for part in self.components])
        pair = noise.normal(n, 2, seed=seed, draw=noise.WHICH)
        u = np.exp(-0.5 * (pair**2).sum(axis=1))
        which = np.minimum(np.searchsorted(np.cumsum(self.weights), u), len(self.weights) - 1)
        return np.asarray(parts[which, np.arange(n)])

    def __repr__(self) -> str:
        return f"GaussianMixture({len(self.weights)} components, dim={self.dim})"
