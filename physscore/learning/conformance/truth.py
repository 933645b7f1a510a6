"""The true scores in torch: differentiable over the states, with their divergence and exact averages.

``variance`` is that of the noise, sigma^2: one number, or one for each state (n,).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from physscore.core import InputError
from physscore.energies.gaussian import Gaussian, GaussianMixture
from physscore.energies.random_field import GaussianRandomField
from physscore.energies.smoothing import smoothed
from physscore.learning.conformance.systems import System

_NODES, _REACH = 64, 7.0  # of the trapezoidal rule along each axis of a part of a mixture, in its widths


class GaussianTruth:
    """A normal law, diagonal in an orthonormal basis: its axes, or real plane waves for a field."""

    def __init__(self, energy: Gaussian | GaussianRandomField) -> None:
        self.shape = energy.shape
        if isinstance(energy, Gaussian):
            covariance = energy.covariance if energy.covariance.ndim == 2 else np.diag(energy.covariance)
            variances, axes = np.linalg.eigh(covariance)
            self.axes: Tensor | None = torch.from_numpy(axes)
            self.mean = torch.from_numpy(energy.mean.copy())
        else:
            # The score is a convolution: its kernel is seen at the one cell that is not zero.
            cell = np.zeros((1, *self.shape))
            cell.flat[0] = 1.0
            response = smoothed(energy, 1.0).score(cell)[0]
            variances = np.maximum(-1.0 / np.fft.fftn(response).real - 1.0, 0.0).ravel()
            self.axes, self.mean = None, torch.zeros(variances.size, dtype=torch.float64)
        self.variances = torch.from_numpy(np.ascontiguousarray(variances))

    def _rows(self, x: Tensor, variance: Any) -> tuple[Tensor, Tensor]:
        """Return coordinates (n, d), and their variances."""
        wide = self.variances.to(x.dtype) + _column(variance, x)
        return self.coordinates(x), wide

    def turned(self, rows: Tensor) -> Tensor:
        """Return the coordinates of rows (n, d) in the basis."""
        if self.axes is not None:
            return rows @ self.axes.to(rows.dtype)
        axes = tuple(range(1, len(self.shape) + 1))
        modes = torch.fft.fftn(rows.reshape(-1, *self.shape), dim=axes, norm="ortho")
        waves: Tensor = (modes.real - modes.imag).flatten(1)  # Hartley's transform, its own inverse
        return waves

    def back(self, rows: Tensor) -> Tensor:
        """Return the rows of coordinates (n, d)."""
        return self.turned(rows) if self.axes is None else rows @ self.axes.to(rows.dtype).T

    def coordinates(self, x: Tensor) -> Tensor:
        """Return the independent coordinates (n, d) of states less their mean, of variances ``variances``."""
        return self.turned(x.flatten(1) - self.mean.to(x.dtype))

    def score(self, x: Tensor, variance: Any) -> Tensor:
        """Return the score (n, *shape)."""
        z, wide = self._rows(x, variance)
        return self.back(-z / wide).reshape(x.shape)

    def energy(self, x: Tensor, variance: Any) -> Tensor:
        """Return -log p (n,), up to what does not depend on x."""
        z, wide = self._rows(x, variance)
        return 0.5 * (z**2 / wide).sum(1)

    def divergence(self, x: Tensor, variance: Any) -> Tensor:
        """Return the divergence of the score (n,)."""
        _, wide = self._rows(x, variance)
        return -(1 / wide).sum(1).expand(len(x))

    def nodes(self, variance: float) -> tuple[Tensor, Tensor]:
        """Return states and weights whose sums are the averages of all polynomials of degree 3, exactly."""
        d = self.variances.numel()
        z = math.sqrt(d) * torch.cat([torch.eye(d, dtype=torch.float64), -torch.eye(d, dtype=torch.float64)])
        x = self.mean + self.back(z * torch.sqrt(self.variances + variance))
        return x.reshape(-1, *self.shape), torch.full((2 * d,), 0.5 / d, dtype=torch.float64)


class MixtureTruth:
    """A mixture of normal laws."""

    def __init__(self, energy: GaussianMixture) -> None:
        self.shape = energy.shape
        self.weights = torch.from_numpy(energy.weights.copy())
        self.parts = [GaussianTruth(part) for part in energy.components]
        self.mean = torch.from_numpy(energy.weights @ energy.means)

    def _logs(self, x: Tensor, variance: Any) -> Tensor:
        """Return the logarithm of the density of each component (K, n), up to a constant."""
        heights = []
        for weight, part in zip(self.weights, self.parts, strict=True):
            wide = part.variances.to(x.dtype) + _column(variance, x)
            heights.append(torch.log(weight) - 0.5 * torch.log(wide).sum(1) - part.energy(x, variance))
        return torch.stack(heights)

    def shares(self, x: Tensor, variance: Any) -> Tensor:
        """Return the probability (K, n) that a state is of each component."""
        return torch.softmax(self._logs(x, variance), 0)

    def score(self, x: Tensor, variance: Any) -> Tensor:
        """Return the score (n, d)."""
        shares = self.shares(x, variance)
        scores = torch.stack([part.score(x, variance) for part in self.parts])
        return (shares[..., None] * scores).sum(0)

    def energy(self, x: Tensor, variance: Any) -> Tensor:
        """Return -log p (n,), up to what does not depend on x."""
        return -torch.logsumexp(self._logs(x, variance), 0)

    def divergence(self, x: Tensor, variance: Any) -> Tensor:
        """Return the divergence of the score (n,): that within components and that of their shares."""
        shares = self.shares(x, variance)
        scores = torch.stack([part.score(x, variance) for part in self.parts])
        within = torch.stack([part.divergence(x, variance) for part in self.parts])
        mean = (shares[..., None] * scores).sum(0)
        return (shares * (within + (scores**2).sum(2))).sum(0) - (mean**2).sum(1)

    def nodes(self, variance: float) -> tuple[Tensor, Tensor]:
        """Return states and weights whose sums are the averages of smooth functions, to about 1e-6.

        The trapezoidal rule converges exponentially here, and faster than that of Gauss and Hermite.
        """
        points = np.linspace(-_REACH, _REACH, _NODES)
        weights = np.exp(-0.5 * points**2)
        weights = weights / weights.sum()
        d = self.shape[0]
        z = torch.from_numpy(np.stack(np.meshgrid(*[points] * d, indexing="ij"), -1).reshape(-1, d))
        w = torch.from_numpy(np.prod(np.meshgrid(*[weights] * d, indexing="ij"), axis=0).ravel())
        states = [p.mean + p.back(z * torch.sqrt(p.variances + variance)) for p in self.parts]
        return torch.cat(states), torch.cat([weight * w for weight in self.weights])


Truth = GaussianTruth | MixtureTruth


def _column(variance: Any, x: Tensor) -> Tensor:
    return torch.as_tensor(variance, dtype=x.dtype).reshape(-1, 1)


@cache
def truth_of(system: System) -> Truth:
    """Return the true score of a system in torch.

    Raises
    ------
    InputError
        If it has no closed form.
    """
    if isinstance(system.energy, GaussianMixture):
        return MixtureTruth(system.energy)
    if isinstance(system.energy, Gaussian | GaussianRandomField):
        return GaussianTruth(system.energy)
    raise InputError(f"system is {system.name!r}: only normal laws, their mixtures and random fields will do")
