"""A perceptron as a score or an energy, with its derivatives over the state written out.

Score matching differentiates a network over its input and then over its weights. Carried through the layers
beside the values, directional derivatives need no graph of a graph: exact and sliced losses are one pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from physscore.core import InputError
from physscore.energies.torch_modules import per_state

KINDS = ("score", "energy")
_FREQUENCIES = 8  # of ln sigma
_STEEPNESS = 2.0  # of the first layer, over that of torch: scores turn between two modes that are close
_STIFFNESS = 1.0  # that an energy begins with, so that exp(-E) can be normalised;
_STIFFNESS_BESIDE_A_GAUSSIAN = 2.5e-3  # beside the Gaussian part of all noise levels, which does that already


class _Curve(NamedTuple):
    """An activation with its first and second derivative at the same places."""

    value: Callable[[Tensor], Tensor]
    with_slope: Callable[[Tensor], tuple[Tensor, Tensor]]
    with_curvature: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def _silu(p: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(p)
    value = p * gate
    return value, torch.addcmul(gate, value, 1 - gate)


def _silu_twice(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gate = torch.sigmoid(p)
    value, left = p * gate, 1 - gate
    slope = torch.addcmul(gate, value, left)
    return value, slope, left * (2 * gate + value * (1 - 2 * gate))


def _softplus(p: Tensor) -> tuple[Tensor, Tensor]:
    return functional.softplus(p), torch.sigmoid(p)


def _softplus_twice(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gate = torch.sigmoid(p)
    return functional.softplus(p), gate, gate * (1 - gate)


def _tanh(p: Tensor) -> tuple[Tensor, Tensor]:
    value = torch.tanh(p)
    return value, 1 - value**2


def _tanh_twice(p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value, slope = _tanh(p)
    return value, slope, -2 * value * slope


ACTIVATIONS = {
    "silu": _Curve(functional.silu, _silu, _silu_twice),
    "softplus": _Curve(functional.softplus, _softplus, _softplus_twice),
    "tanh": _Curve(torch.tanh, _tanh, _tanh_twice),
}


class _Film(NamedTuple):
    """What scales and shifts the values before an activation, of each state: nothing, or (n, width)."""

    scale: Tensor | None = None
    shift: Tensor | None = None

    def of(self, p: Tensor) -> Tensor:
        if self.scale is None or self.shift is None:
            return p
        return torch.addcmul(p + self.shift, p, self.scale)

    def slope(self, p: Tensor) -> Tensor:
        """Return the derivative of :meth:`of` times ``p``, (..., n, width)."""
        return p if self.scale is None else torch.addcmul(p, p, self.scale)


class MLP(nn.Module):
    """A perceptron of vectors, as a score or as an energy whose gradient is the score.

    Parameters
    ----------
    dim
        Number of components of a state.
    hidden
        Widths of the hidden layers.
    kind
        "score": the output is a vector; "energy": a number, plus 1/2 c |x|^2 with a learned c > 0, so that
        exp(-E) can be normalised; its score has no curl. With ``levels``, where the Gaussian part around the
        network does that, c begins near 0.
    activation
        "tanh", "silu" or "softplus": smooth, since losses differentiate the score again.
    levels
        Whether the model is conditional on a noise level.
    parameters
        Number of physical parameters that it is conditional on.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (128, 128),
        *,
        kind: str = "score",
        activation: str = "tanh",
        levels: bool = False,
        parameters: int = 0,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise InputError(
                f"activation is {activation!r}: it must be smooth, one of {', '.join(ACTIVATIONS)}"
            )
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}: it must be 'score' or 'energy'")
        if not hidden or min([dim, *hidden]) < 1:
            raise InputError(
                f"dim is {dim} and hidden {hidden}: give one hidden layer at least, each of width 1 or more"
            )
        self.dim, self.kind, self.levels, self.n_parameters = dim, kind, levels, parameters
        self.config: dict[str, Any] = {
            "dim": dim, "hidden": list(hidden), "kind": kind, "activation": activation, "levels": levels,
            "parameters": parameters,
        }  # fmt: skip
        self._curve = ACTIVATIONS[activation]
        widths = [dim, *hidden, dim if kind == "score" else 1]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self._linear: list[nn.Linear] = list(self.layers)  # type: ignore[arg-type]
        with torch.no_grad():
            for first in self._linear[0].parameters():
                first.mul_(_STEEPNESS)
        self.films = nn.ModuleList()
        if levels or parameters:
            features = 2 * _FREQUENCIES * levels + parameters
            self.embed = nn.Sequential(nn.Linear(features, hidden[0]), nn.SiLU())
            self.films.extend(nn.Linear(hidden[0], 2 * width) for width in hidden)
        if kind == "energy":
            start = _STIFFNESS_BESIDE_A_GAUSSIAN if levels else _STIFFNESS
            self.confinement = nn.Parameter(torch.tensor(math.log(math.expm1(start))))  # softplus^-1

    def forward(self, x: Tensor, sigma: Any = None, parameters: Tensor | None = None) -> Tensor:
        """Return the score of states (n, dim), of the same shape."""
        a, films = self._given(x, sigma, parameters)
        if self.kind == "energy":
            return self._descent(a, films)
        for layer, film in zip(self._linear[:-1], films, strict=True):
            a = self._curve.value(film.of(layer(a)))
        found: Tensor = self._linear[-1](a)
        return found

    def energy(self, x: Tensor, sigma: Any = None, parameters: Tensor | None = None) -> Tensor:
        """Return the energies (n,)."""
        if self.kind != "energy":
            raise InputError("this network is a score: it has no energy")
        a, films = self._given(x, sigma, parameters)
        for layer, film in zip(self._linear[:-1], films, strict=True):
            a = self._curve.value(film.of(layer(a)))
        found: Tensor = self._linear[-1](a)[:, 0] + 0.5 * self._stiffness * (x**2).sum(1)
        return found

    def score_and_divergence(
        self, x: Tensor, sigma: Any = None, parameters: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the score (n, dim) and its exact divergence (n,), in one pass through the layers.

        Of an energy it carries the gradient and the Laplacian along (Li et al. 2023, arXiv:2307.08214).
        """
        a, films = self._given(x, sigma, parameters)
        tangents: Any = None  # (dim, n, width)
        laplacian: Any = None
        for number, (layer, film) in enumerate(zip(self._linear[:-1], films, strict=True)):
            slopes = film.slope(layer.weight.T[:, None] if number == 0 else tangents @ layer.weight.T)
            if self.kind == "score":
                a, d = self._curve.with_slope(film.of(layer(a)))
            else:
                a, d, dd = self._curve.with_curvature(film.of(layer(a)))
                bent = dd * (slopes**2).sum(0)
                if number == 0:
                    laplacian = bent
                else:
                    laplacian = torch.addcmul(bent, d, film.slope(laplacian @ layer.weight.T))
            tangents = slopes * d
        last = self._linear[-1]
        if self.kind == "score":
            return last(a), (tangents * last.weight[:, None]).sum((0, 2))
        c = self._stiffness
        return -(tangents @ last.weight[0]).T - c * x, -(laplacian @ last.weight[0]) - c * self.dim

    def along(
        self, x: Tensor, v: Tensor, sigma: Any = None, parameters: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return v.s and v^T grad s v of directions v (k, n, dim): both (k, n)."""
        a, films = self._given(x, sigma, parameters)
        tangents: Any = v  # (k, n, width)
        curvature: Any = None
        for number, (layer, film) in enumerate(zip(self._linear[:-1], films, strict=True)):
            slopes = film.slope(tangents @ layer.weight.T)
            if self.kind == "score":
                a, d = self._curve.with_slope(film.of(layer(a)))
            else:
                a, d, dd = self._curve.with_curvature(film.of(layer(a)))
                bent = dd * slopes**2
                if number == 0:
                    curvature = bent
                else:
                    curvature = torch.addcmul(bent, d, film.slope(curvature @ layer.weight.T))
            tangents = slopes * d
        last = self._linear[-1]
        if self.kind == "score":
            return (last(a) * v).sum(-1), ((tangents @ last.weight.T) * v).sum(-1)
        c = self._stiffness
        projected = -(tangents @ last.weight[0]) - c * (x * v).sum(-1)
        return projected, -(curvature @ last.weight[0]) - c * (v**2).sum(-1)

    def _descent(self, x: Tensor, films: list[_Film]) -> Tensor:
        """Return minus the gradient of the energy, back through the layers."""
        a, slopes = x, []
        for layer, film in zip(self._linear[:-1], films, strict=True):
            a, d = self._curve.with_slope(film.of(layer(a)))
            slopes.append(film.slope(d))
        back = self._linear[-1].weight[0] * slopes[-1]
        for layer, d in zip(self._linear[-2:0:-1], slopes[-2::-1], strict=True):
            back = (back @ layer.weight) * d
        return -(back @ self._linear[0].weight) - self._stiffness * x

    @property
    def _stiffness(self) -> Tensor:
        return functional.softplus(self.confinement)

    def _given(self, x: Tensor, sigma: Any, parameters: Tensor | None) -> tuple[Tensor, list[_Film]]:
        """Return the states, and what noise level and parameters make of each layer."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise InputError(f"x has shape {tuple(x.shape)}: it must be states (n, {self.dim})")
        if not len(self.films):
            return x, [_Film()] * (len(self._linear) - 1)
        columns = []
        if self.levels:
            if sigma is None:
                raise InputError("sigma is missing: the network is conditional on a noise level")
            turns = torch.arange(_FREQUENCIES, dtype=x.dtype, device=x.device) * (math.pi / 8)
            phase = torch.log(per_state(sigma, x))[:, None] * turns
            columns += [torch.cos(phase), torch.sin(phase)]
        if self.n_parameters:
            if parameters is None or parameters.shape != (len(x), self.n_parameters):
                shape = None if parameters is None else tuple(parameters.shape)
                raise InputError(f"parameters has shape {shape}: it must be ({len(x)}, {self.n_parameters})")
            columns.append(parameters.to(x.dtype))
        features = self.embed(torch.cat(columns, 1))
        return x, [_Film(*film(features).chunk(2, 1)) for film in self.films]
