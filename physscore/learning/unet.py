"""A periodic convolutional U-Net in 1, 2 or 3 dimensions, as a score or an energy of fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from physscore.core import InputError
from physscore.energies.torch_modules import per_state
from physscore.learning.mlp import KINDS

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_FREQUENCIES = 16


class _Convolution(nn.Module):
    """A periodic convolution whose weights are a matrix (outputs, inputs * size^dim), as Muon wants them."""

    def __init__(self, dim: int, inputs: int, outputs: int, size: int = 3) -> None:
        super().__init__()
        self.dim, self.inputs, self.size = dim, inputs, size
        bound = (inputs * size**dim) ** -0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs * size**dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.reshape(len(self.weight), self.inputs, *[self.size] * self.dim)
        if self.size > 1:
            x = functional.pad(x, [self.size // 2] * (2 * self.dim), mode="circular")
        return _CONVOLUTIONS[self.dim - 1](x, kernel, self.bias)

    def zero(self) -> _Convolution:
        nn.init.zeros_(self.weight)
        return self


class _Block(nn.Module):
    """Two convolutions beside a straight way; features of the noise level scale and shift what is between."""

    def __init__(self, dim: int, inputs: int, outputs: int, features: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(inputs), inputs)
        self.conv1 = _Convolution(dim, inputs, outputs)
        self.film = nn.Linear(features, 2 * outputs)
        self.norm2 = nn.GroupNorm(_groups(outputs), outputs)
        self.conv2 = _Convolution(dim, outputs, outputs).zero()
        self.straight = nn.Identity() if inputs == outputs else _Convolution(dim, inputs, outputs, 1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.film(features).reshape(len(x), -1, *[1] * (x.ndim - 2)).chunk(2, 1)
        y = self.conv1(functional.silu(self.norm1(x)))
        y = self.norm2(y) * (1 + scale) + shift
        found: Tensor = self.straight(x) + self.conv2(functional.silu(y))
        return found


def _groups(channels: int) -> int:
    return math.gcd(8, channels)


class UNet(nn.Module):
    """A U-Net of periodic fields.

    Levels halve every side by means of 2^d cells; all convolutions are periodic, so a field shifted by a
    multiple of ``coarsest`` has the shifted score; training draws shifts below that. It fits any grid whose
    sides are multiples of it: a network that was trained on coarse fields goes on with fine ones.

    Parameters
    ----------
    dim
        Number of dimensions, 1 to 3.
    channels
        Channels of each level, from the finest.
    blocks
        Residual blocks at each level, on the way down and on the way up.
    inputs
        Channels of the input; the state itself is the first.
    patch
        Cells along each side that become channels at the entrance: with 2, a quarter of the work in 2
        dimensions.
    parameters
        Number of physical parameters that it is conditional on.
    kind
        "score", or "energy": E = -sum over cells of x N(x), whose gradient is found by differentiation.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """

    levels = True

    def __init__(
        self,
        dim: int,
        *,
        channels: Sequence[int] = (32, 64, 96),
        blocks: int = 2,
        inputs: int = 1,
        patch: int = 1,
        parameters: int = 0,
        kind: str = "score",
    ) -> None:
        super().__init__()
        if dim not in (1, 2, 3):
            raise InputError(f"dim is {dim!r}: fields have 1 to 3 dimensions")
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}: it must be 'score' or 'energy'")
        if kind == "energy" and inputs != 1:
            raise InputError(f"inputs is {inputs} and kind 'energy': an energy is of the state alone")
        if min([*channels, blocks, patch, inputs]) < 1:
            raise InputError(
                f"channels is {channels}, blocks {blocks}, patch {patch}: all must be at least 1"
            )
        self.dim, self.kind, self.patch, self.n_parameters = dim, kind, patch, parameters
        self.config: dict[str, Any] = {
            "dim": dim, "channels": list(channels), "blocks": blocks, "inputs": inputs, "patch": patch,
            "parameters": parameters, "kind": kind,
        }  # fmt: skip
        features = 4 * channels[0]
        self.embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES + parameters, features),
            nn.SiLU(),
            nn.Linear(features, features),
            nn.SiLU(),
        )
        self.set_frequencies()
        self.entrance = _Convolution(dim, inputs * patch**dim, channels[0])
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width = channels[0]
        skips = []
        for level, wide in enumerate(channels):
            for _ in range(blocks):
                self.down.append(_Block(dim, width, wide, features))
                width = wide
                if level < len(channels) - 1:
                    skips.append(width)
        for level in range(len(channels) - 2, -1, -1):
            for _ in range(blocks):
                self.up.append(_Block(dim, width + skips.pop(), channels[level], features))
                width = channels[level]
        self.norm = nn.GroupNorm(_groups(width), width)
        self.exit = _Convolution(dim, width, patch**dim).zero()
        self._blocks, self._depth = blocks, len(channels)

    @property
    def coarsest(self) -> int:
        """Cells of the state that are one at the coarsest level."""
        return self.patch * int(2 ** (self._depth - 1))

    def set_frequencies(self) -> None:
        """Set the table of the embedding, which no file holds."""
        table = torch.arange(_FREQUENCIES, device="cpu") * (math.pi / 8)
        self.register_buffer("frequencies", table, persistent=False)

    def forward(self, x: Tensor, sigma: Any = None, parameters: Tensor | None = None) -> Tensor:
        """Return the score of fields: (n, *grid), or (n, inputs, *grid) in and (n, *grid) out."""
        if self.kind == "score":
            return self._network(x, sigma, parameters)
        with torch.enable_grad():
            given = x if x.requires_grad else x.detach().clone().requires_grad_()
            total = self.energy(given, sigma, parameters).sum()
            (gradient,) = torch.autograd.grad(total, given, create_graph=self.training or x.requires_grad)
        return -gradient

    def energy(self, x: Tensor, sigma: Any = None, parameters: Tensor | None = None) -> Tensor:
        """Return the energies (n,) of fields (n, *grid)."""
        if self.kind != "energy":
            raise InputError("this network is a score: it has no energy")
        return -(x * self._network(x, sigma, parameters)).flatten(1).sum(1)

    def _network(self, x: Tensor, sigma: Any, parameters: Tensor | None) -> Tensor:
        if x.ndim == self.dim + 1:
            x = x[:, None]
        features = self._features(x, sigma, parameters)
        self._check_sides(x)
        y = self.entrance(_to_channels(x, self.patch))
        kept: list[Tensor] = []
        for number, block in enumerate(self.down):
            level, last = number // self._blocks, number % self._blocks == self._blocks - 1
            y = block(y, features)
            if level < self._depth - 1:
                kept.append(y)
                if last:
                    y = _halved(y, self.dim)
        for number, block in enumerate(self.up):
            if number % self._blocks == 0:
                y = functional.interpolate(y, scale_factor=2.0, mode="nearest")
            y = block(torch.cat([y, kept.pop()], 1), features)
        y = self.exit(functional.silu(self.norm(y)))
        return _from_channels(y, self.patch)[:, 0]

    def _features(self, x: Tensor, sigma: Any, parameters: Tensor | None) -> Tensor:
        level = torch.ones(len(x), dtype=x.dtype, device=x.device) if sigma is None else per_state(sigma, x)
        phase = torch.log(level)[:, None] * cast(Tensor, self.frequencies).to(x.dtype)
        columns = [torch.cos(phase), torch.sin(phase)]
        if self.n_parameters:
            if parameters is None or parameters.shape != (len(x), self.n_parameters):
                shape = None if parameters is None else tuple(parameters.shape)
                raise InputError(f"parameters has shape {shape}: it must be ({len(x)}, {self.n_parameters})")
            columns.append(parameters.to(x.dtype))
        found: Tensor = self.embed(torch.cat(columns, 1))
        return found

    def _check_sides(self, x: Tensor) -> None:
        factor = self.coarsest
        if x.ndim != self.dim + 2 or any(side % factor for side in x.shape[2:]):
            raise InputError(
                f"x has shape {tuple(x.shape)}: it must be fields of {self.dim} dimensions whose sides are "
                f"multiples of {factor}"
            )


def _halved(y: Tensor, dim: int) -> Tensor:
    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[dim - 1]
    return pool(y, 2)


def _to_channels(x: Tensor, patch: int) -> Tensor:
    """Make channels of the cells of patches: (n, c, *grid) -> (n, c patch^d, *grid / patch)."""
    if patch == 1:
        return x
    n, c, sides = x.shape[0], x.shape[1], x.shape[2:]
    dim = len(sides)
    split = x.reshape(n, c, *[k for side in sides for k in (side // patch, patch)])
    order = [0, 1, *range(3, 3 + 2 * dim, 2), *range(2, 2 + 2 * dim, 2)]
    return split.permute(order).reshape(n, c * patch**dim, *[side // patch for side in sides])


def _from_channels(y: Tensor, patch: int) -> Tensor:
    """Undo :func:`_to_channels` for one channel."""
    if patch == 1:
        return y
    n, sides = y.shape[0], y.shape[2:]
    dim = len(sides)
    split = y.reshape(n, 1, *[patch] * dim, *sides)
    order = [0, 1, *[axis for i in range(dim) for axis in (2 + dim + i, 2 + i)]]
    return split.permute(order).reshape(n, 1, *[side * patch for side in sides])
