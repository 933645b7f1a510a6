"""The right size at every noise level, and the Gaussian part of a field in closed form.

A network F becomes the denoiser D(y; s) = W y + c_out F(c_in y; s), and the score (D - y) / s^2. With
W = c_skip, a number, this is EDM (Karras et al. 2022, arXiv:2206.00364). For fields W is the Wiener filter
lambda / (lambda + s^2) of the spectrum lambda of the data, mode by mode: with F = 0 the score is that of the
Gaussian field with this spectrum, exactly, and all that is left to learn is not Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from physscore.core import InputError
from physscore.energies.torch_modules import per_state

_STEP = 0.02  # of ln sigma


class Preconditioned(nn.Module):
    """A network as the score of data with noise, at every noise level.

    Parameters
    ----------
    network
        Called as network(u, sigma, parameters), where u is the state at unit variance, of shape (n, *shape);
        or (n, 2, *shape), with what the Wiener filter makes of it, where there is a spectrum and the network
        takes two inputs. A network of the kind "energy" has to have ``energy(u, sigma, parameters)``, and is
        called with the state alone.
    sigma_data
        Standard deviation of the data around their mean, which is 0.
    eigenvalues
        The variance of each mode in the unitary DFT basis, of the shape of the half spectrum; None for a
        number instead of the Wiener filter.

    Raises
    ------
    InputError
        If a number makes no sense.
    """

    def __init__(self, network: nn.Module, *, sigma_data: float = 1.0, eigenvalues: Any = None) -> None:
        super().__init__()
        if not 0 < sigma_data < math.inf:
            raise InputError(f"sigma_data is {sigma_data}: it must be the standard deviation of the data")
        self.network = network
        self.kind = getattr(network, "kind", "score")
        self.sigma_data = float(sigma_data)
        self.in_bfloat16 = False
        """Whether the network is computed in bfloat16 while it is trained."""
        self.two_inputs = getattr(network, "config", {}).get("inputs", 1) == 2
        self.analytic = eigenvalues is not None
        table = torch.as_tensor(eigenvalues, dtype=torch.float64) if self.analytic else torch.zeros(0)
        if self.analytic and (not bool(torch.isfinite(table).all()) or bool((table < 0).any())):
            raise InputError("eigenvalues holds a variance that is negative or not finite")
        self.register_buffer("eigenvalues", table.to(torch.float32))
        if self.two_inputs and not self.analytic:
            raise InputError("network takes two inputs: the second is of the Wiener filter, give eigenvalues")
        if self.analytic:
            return
        if hasattr(network, "score_and_divergence"):
            self.score_and_divergence = self._score_and_divergence
        if hasattr(network, "along"):
            self.along = self._along

    def forward(self, y: Tensor, sigma: Any, parameters: Tensor | None = None) -> Tensor:
        """Return the score of p(y; sigma), of the shape of ``y``."""
        level = _column(per_state(sigma, y), y)
        linear, c_in, c_out = self._gaussian(y, level)
        inner = self._run(self._input(y, linear, level, c_in), sigma, parameters)
        found: Tensor = (linear - y + c_out * inner) / level**2
        return found

    def energy(self, y: Tensor, sigma: Any, parameters: Tensor | None = None) -> Tensor:
        """Return -log p(y; sigma) up to a constant, (n,), of a network that is an energy.

        It is that of the Gaussian, plus c_out / (sigma^2 c_in) times the network's.
        """
        if self.kind != "energy":
            raise InputError("this network is a score: it has no energy")
        level = _column(per_state(sigma, y), y)
        linear, c_in, c_out = self._gaussian(y, level)
        inner = cast(Any, self.network).energy(c_in * y, per_state(sigma, y), parameters)
        gaussian = (y * (y - linear) / (2 * level**2)).flatten(1).sum(1)
        found: Tensor = gaussian + (c_out / (level**2 * c_in)).reshape(len(y)) * inner
        return found

    def rate(self, y: Tensor, sigma: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Return d E / d ln sigma of an energy with the normalisation of its Gaussian part, (n,): for
        -log p(y; sigma) it is the mean of d - |e|^2 over the noises e that may have led to ``y``.

        From a difference, which needs no second derivatives to be trained; without a spectrum.
        """
        levels = torch.cat([sigma * math.exp(_STEP), sigma * math.exp(-_STEP)])  # at once: half the calls
        table = None if parameters is None else torch.cat([parameters, parameters])
        up, down = self.energy(torch.cat([y, y]), levels, table).chunk(2)
        flat = y[0].numel() * sigma**2 / (sigma**2 + self.sigma_data**2)
        return (up - down) / (2 * _STEP) + flat

    def denoise(self, y: Tensor, sigma: Any, parameters: Tensor | None = None) -> Tensor:
        """Return D, the mean of the data given that they are ``y`` with noise: y + sigma^2 s."""
        found: Tensor = y + _column(per_state(sigma, y), y) ** 2 * self(y, sigma, parameters)
        return found

    def c_out(self, sigma: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the root-mean-square error by cells of the best linear denoiser, (n,), at levels (n,)."""
        like = torch.empty(len(sigma), *[1] * len(shape), device=sigma.device).expand(len(sigma), *shape)
        return self._sizes(like, sigma.reshape(-1, *[1] * len(shape)))[1].flatten()

    def _run(self, u: Tensor, sigma: Any, parameters: Tensor | None) -> Tensor:
        with torch.autocast(u.device.type, torch.bfloat16, enabled=self.in_bfloat16 and self.training):
            found: Tensor = (
                self.network(u, sigma) if parameters is None else self.network(u, sigma, parameters)
            )
        return found.to(u.dtype)

    def _input(self, y: Tensor, linear: Tensor, level: Tensor, c_in: Tensor) -> Tensor:
        if not self.two_inputs:
            return c_in * y
        s2 = level.flatten().to(torch.float64)
        table = self._spectrum(s2)
        spread = self._mean(table**2 / (table + _lift(s2**2, table)), y).sqrt().to(y.dtype)
        return torch.stack([c_in * y, linear / _column(spread, y)], 1)

    def _gaussian(self, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the best linear denoiser makes of ``y``, c_in and c_out."""
        if not self.analytic:
            d2 = self.sigma_data**2
            return d2 / (level**2 + d2) * y, *self._sizes(y, level)
        s2 = (level.flatten() ** 2).to(torch.float64)
        table = self._spectrum(s2)
        noise = _lift(s2, table)
        wiener = (table / (table + noise)).to(y.dtype)
        axes = tuple(range(1, y.ndim))
        linear = torch.fft.irfftn(torch.fft.rfftn(y, dim=axes) * wiener, s=y.shape[1:], dim=axes)
        return linear, *self._sizes(y, level)

    def _sizes(self, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Return c_in and c_out: one over the size of ``y``, and that of what the linear denoiser leaves."""
        if not self.analytic:
            total = level**2 + self.sigma_data**2
            return total**-0.5, level * self.sigma_data * total**-0.5
        table = self._spectrum((level.flatten() ** 2).to(torch.float64))
        noise = _lift((level.flatten() ** 2).to(torch.float64), table)
        c_in = self._mean(table + noise, y) ** -0.5
        c_out = self._mean(table * noise / (table + noise), y).sqrt()
        return _column(c_in.to(y.dtype), y), _column(c_out.to(y.dtype), y)

    def _spectrum(self, like: Tensor) -> Tensor:
        table = cast(Tensor, self.eigenvalues).to(like.dtype)
        return table.expand(len(like), *table.shape)

    @staticmethod
    def _mean(half: Tensor, y: Tensor) -> Tensor:
        """Return the mean over all modes of a table over the half spectrum, (n,)."""
        side = y.shape[-1]
        counts = torch.full((half.shape[-1],), 2.0, dtype=half.dtype, device=half.device)
        counts[0] = 1.0
        if side % 2 == 0:
            counts[-1] = 1.0
        return (half * counts).flatten(1).sum(1) / math.prod(y.shape[1:])

    def _score_and_divergence(
        self, y: Tensor, sigma: Any, parameters: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        level = _column(per_state(sigma, y), y)
        linear, c_in, c_out = self._gaussian(y, level)
        inner, trace = cast(Any, self.network).score_and_divergence(c_in * y, sigma, parameters)
        stiffness = (1 / (level**2 + self.sigma_data**2)).reshape(len(y))
        factor = (c_out * c_in / level**2).reshape(len(y))
        return (linear - y + c_out * inner) / level**2, factor * trace - stiffness * math.prod(y.shape[1:])

    def _along(
        self, y: Tensor, v: Tensor, sigma: Any, parameters: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        level = _column(per_state(sigma, y), y)
        linear, c_in, c_out = self._gaussian(y, level)
        projected, curvature = cast(Any, self.network).along(c_in * y, v, sigma, parameters)
        stiffness = (1 / (level**2 + self.sigma_data**2)).reshape(len(y))
        straight = (v * (linear - y) / level**2).flatten(2).sum(2)
        return (
            straight + (c_out / level**2).reshape(len(y)) * projected,
            (c_out * c_in / level**2).reshape(len(y)) * curvature - stiffness * (v**2).flatten(2).sum(2),
        )


def _column(values: Tensor, y: Tensor) -> Tensor:
    """Return one number a state in a shape that multiplies states."""
    return values.reshape(len(y), *[1] * (y.ndim - 1))


def _lift(values: Tensor, table: Tensor) -> Tensor:
    return values.reshape(len(values), *[1] * (table.ndim - 1))


def full_table(values: Any, offsets: Sequence[Any], half_shape: Sequence[int]) -> Any:
    """Return a table over |k| (``grid.WavenumberTable``) as an array over the half spectrum."""
    x, y, z = offsets
    return values[x[:, None, None] + y[None, :, None] + z[None, None, :]].reshape(tuple(half_shape))
