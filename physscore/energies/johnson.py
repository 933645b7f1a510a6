"""A normal distribution of vectors with heavier tails, and exact draws: Johnson's S_U without skewness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from physscore import noise
from physscore.arrays import as_states, cupy, on_gpu, to_host
from physscore.core import Array, InputError, Point, Prior
from physscore.elementary import asinh, log
from physscore.energies.gaussian import Gaussian
from physscore.philox import select
from physscore.points import compiled_block, energy_and_score, from_block

_LOG_2 = math.log(2.0)
_FAR = 1e9  # beyond it 1 + a^2 is a^2, which may overflow: asinh a = log 2a, cosh asinh a = a


@compiled_block
def _johnson_block(x, params, gradient_out, energy_out):
    """params: offset, 0 or 1 for a dense factor, mean[d], tails[d], inverse factor [d] or lower [d, d]."""
    d, n = x.shape
    dense = params[1] != 0.0
    mean, tails, inverse = params[2 : 2 + d], params[2 + d : 2 + 2 * d], params[2 + 2 * d :]
    energy_out[:] = params[0]
    slope = np.empty((d, n))
    for i in range(d):
        t, w = slope[i], inverse[i * d + i] if dense else inverse[i]
        for j in range(n):
            t[j] = w * (x[i, j] - mean[i])
        for k in range(i if dense else 0):
            w = inverse[i * d + k]
            for j in range(n):
                t[j] += w * (x[k, j] - mean[k])
        tail = tails[i]
        if tail == 0.0:
            for j in range(n):
                energy_out[j] += 0.5 * t[j] * t[j]
        else:
            for j in range(n):
                a = tail * t[j]
                far = abs(a) > _FAR
                near = select(far, 1.0, a)
                size = select(far, abs(a), math.sqrt(1.0 + near * near))
                ending = select(a < 0.0, -1.0, 1.0) * (log(size) + _LOG_2)
                z = select(far, ending, asinh(near)) / tail
                energy_out[j] += 0.5 * z * z + log(size) + 0.0 * size  # no number where there is none
                t[j] = z / size + tail * (a / size) / size
    for i in range(d):
        w = inverse[i * d + i] if dense else inverse[i]
        for j in range(n):
            gradient_out[i, j] = w * slope[i, j]
        for k in range(i + 1, d if dense else 0):
            w = inverse[k * d + i]
            for j in range(n):
                gradient_out[i, j] += w * slope[k, j]


class JohnsonSU(Prior):
    """The distribution of mean + L t, with t = sinh(tail z) / tail for each standard normal z.

    L L^T is the ``covariance``, as of a normal distribution, which it is where the tails are 0. Else -log p
    rises as the square of a logarithm: tails are heavier than exponential ones, and lighter than powers. The
    variance of a t is (exp(2 tail^2) - 1) / (2 tail^2), its kurtosis (w^4 + 2 w^2 + 3) / 2 with
    w = exp(tail^2) (Johnson 1949, Biometrika 36, 149).

    Parameters
    ----------
    mean, covariance, dim
        As of :class:`physscore.Gaussian`.
    tails
        A number, or one for each t, from 0 on. With 1, one draw in 1000 is beyond 13 sqrt(covariance).

    Raises
    ------
    InputError
        If the sizes do not agree, the covariance is not positive definite, or a tail is negative.
    """

    def __init__(
        self, mean: float | Sequence[float] | Array, covariance: float | Any, tails: float | Any,
        dim: int | None = None,
    ) -> None:  # fmt: skip
        try:
            given = np.asarray(tails, np.float64)
        except (TypeError, ValueError):
            given = np.array(np.nan)
        if dim is None and given.ndim == 1 and np.ndim(mean) == np.ndim(covariance) == 0:
            dim = len(given)
        self._normal = Gaussian(mean, covariance, dim)
        self.mean, self.covariance, self.shape = (
            self._normal.mean,
            self._normal.covariance,
            self._normal.shape,
        )
        if given.shape not in ((), self.shape) or not (np.isfinite(given) & (given >= 0)).all():
            raise InputError(f"tails is {tails!r}: it must be a number of at least 0, or {self.dim} of them")
        self.tails = np.broadcast_to(given, self.shape).copy()

    @cached_property
    def _inverse(self) -> npt.NDArray[np.float64]:
        """L^-1, or its diagonal."""
        if self.covariance.ndim == 1:
            return 1 / np.sqrt(self.covariance)
        return np.asarray(solve_triangular(self._normal._lower, np.eye(self.dim), lower=True))

    @cached_property
    def _point(self) -> Point:
        dense = float(self.covariance.ndim == 2)
        numbers: list[Any] = [[self._normal._offset, dense], self.mean, self.tails, self._inverse.ravel()]
        return from_block(_johnson_block, np.concatenate(numbers))

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        states = as_states(x, self.shape)
        if on_gpu(states):
            return energy_and_score(self._point, states)
        t, inverse = self._unmixed(states), self._inverse
        with np.errstate(over="ignore", invalid="ignore"):  # what a diverging chain is offered
            a, z = self.tails * t, self._drawn_in(t)
            size = np.hypot(1.0, a)  # cosh(asinh a), which does not overflow as a^2 does
            energy = self._normal._offset + (0.5 * z * z + np.log(size)).sum(axis=1)
            slope = -(z / size + self.tails * (a / size) / size)
            score = slope * inverse if inverse.ndim == 1 else slope @ inverse
        return energy, score.astype(states.dtype, copy=False)

    def sample(self, n: int, *, seed: int) -> Array:
        """Return ``n`` independent draws, of shape (n, d)."""
        return self.unwhiten(noise.normal(n, self.dim, seed=seed, draw=noise.EXACT))

    def whiten(self, x: Array) -> Array:
        """Return z = asinh(tail t) / tail for t = L^-1 (x - mean)."""
        if on_gpu(x):
            return cast(Array, cupy().asarray(self.whiten(to_host(x))))
        return self._drawn_in(self._unmixed(as_states(x, self.shape)))

    def unwhiten(self, z: Array) -> Array:
        """Return mean + L sinh(tail z) / tail."""
        if on_gpu(z):
            return cast(Array, cupy().asarray(self.unwhiten(to_host(z))))
        t = as_states(z, self.shape, "z").astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            np.divide(np.sinh(self.tails * t), self.tails, out=t, where=self.tails > 0)
            return self._normal.unwhiten(t)

    def pull_back(self, z: Array, gradient: Array) -> Array:
        """Return cosh(tail z) L^T gradient."""
        if on_gpu(z):
            return cast(Array, cupy().asarray(self.pull_back(to_host(z), to_host(gradient))))
        with np.errstate(over="ignore", invalid="ignore"):
            return self._normal.pull_back(z, gradient) * np.cosh(self.tails * z)

    def _unmixed(self, x: Array) -> Array:
        """Return t."""
        centred, inverse = x.astype(np.float64, copy=False) - self.mean, self._inverse
        return np.asarray(centred * inverse if inverse.ndim == 1 else centred @ inverse.T)

    def _drawn_in(self, t: Array) -> Array:
        """Return z."""
        return np.divide(np.arcsinh(self.tails * t), self.tails, out=t.copy(), where=self.tails > 0)

    def __repr__(self) -> str:
        return f"JohnsonSU(dim={self.dim})"
