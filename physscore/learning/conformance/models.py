"""True scores made wrong in known ways: the models that a loss is evaluated for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from physscore.learning.conformance.truth import Truth

FORMS = ("score", "energy")


class Model(nn.Module):
    """s(x) = scale R s*(y) / width + tilt u + swirl A (x - m), with y = m + R^T (x - m - shift u) / width.

    R turns pairs of components by an angle, A is that of a quarter turn, u a unit vector and m the mean of
    the data. With the numbers as they are by default this is the true score s*. It is called with states
    (n, *shape), and with a noise level if there are several.

    Parameters
    ----------
    truth
        The true score.
    sigma
        The noise level where none is given in the call.
    form
        "score", or "energy": it then returns energies (n,) with this score, without a swirl.
    only_at
        The one noise level at which it is wrong. [default: all]
    scale, width, tilt, shift, angle, swirl
        In which way. The first three are weights that can be learned.
    """

    def __init__(
        self,
        truth: Truth,
        sigma: float,
        form: str = "score",
        *,
        only_at: float | None = None,
        scale: float = 1.0,
        width: float = 1.0,
        tilt: float = 0.0,
        shift: float = 0.0,
        angle: float = 0.0,
        swirl: float = 0.0,
    ) -> None:
        super().__init__()
        self.truth, self.sigma, self.form, self.only_at = truth, float(sigma), form, only_at
        self.shift, self.swirl = shift, swirl
        self.cosine, self.sine = (
            float(f(torch.tensor(angle, dtype=torch.float64))) for f in (torch.cos, torch.sin)
        )
        self.scale, self.width, self.tilt = (
            nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (scale, width, tilt)
        )
        direction = torch.cos(1.0 + torch.arange(truth.mean.numel(), dtype=torch.float64))
        self.direction = direction / direction.norm()
        self.seen: list[Tensor] = []  # the states that it was called with, if it is watched
        self.watched = False

    def forward(self, x: Tensor, sigma: Any = None) -> Tensor:
        """Return scores (n, *shape), or energies (n,)."""
        if self.watched:
            self.seen.append(x.detach().flatten(1))
        return self.energy(x, sigma) if self.form == "energy" else self.score(x, sigma)

    def score(self, x: Tensor, sigma: Any = None) -> Tensor:
        """Return scores (n, *shape)."""
        variance = self._variance(x, sigma)
        inner = self.truth.score(self._inner(x), variance).flatten(1)
        s = self.scale * self._turned(inner, 1) / self.width + self.tilt * self.direction.to(x.dtype)
        if self.swirl:
            s = s + self.swirl * _quarter_turn(self._rows(x))
        return self._chosen(s.reshape(x.shape), lambda: self.truth.score(x, variance), x, sigma)

    def energy(self, x: Tensor, sigma: Any = None) -> Tensor:
        """Return energies (n,)."""
        variance = self._variance(x, sigma)
        found = self.scale * self.truth.energy(self._inner(x), variance)
        found = found - self.tilt * (x.flatten(1) @ self.direction.to(x.dtype))
        return self._chosen(found, lambda: self.truth.energy(x, variance), x, sigma)

    def divergence(self, x: Tensor, sigma: Any = None) -> Tensor:
        """Return the divergence of the score (n,), in closed form."""
        variance = self._variance(x, sigma)
        found = self.scale * self.truth.divergence(self._inner(x), variance) / self.width**2
        return self._chosen(found, lambda: self.truth.divergence(x, variance), x, sigma)

    def _rows(self, x: Tensor) -> Tensor:
        return x.flatten(1) - self.truth.mean.to(x.dtype)

    def _inner(self, x: Tensor) -> Tensor:
        moved = self._turned(self._rows(x) - self.shift * self.direction.to(x.dtype), -1) / self.width
        return (self.truth.mean.to(x.dtype) + moved).reshape(x.shape)

    def _turned(self, rows: Tensor, sign: int) -> Tensor:
        """Return R or its inverse times rows (n, d)."""
        if self.sine == 0:
            return rows
        paired = rows.shape[1] // 2 * 2
        turned = self.cosine * rows[:, :paired] - sign * self.sine * _quarter_turn(rows)[:, :paired]
        return torch.cat([turned, rows[:, paired:]], 1)

    def _levels(self, x: Tensor, sigma: Any) -> Tensor:
        return torch.as_tensor(self.sigma if sigma is None else sigma, dtype=x.dtype).detach().reshape(-1)

    def _variance(self, x: Tensor, sigma: Any) -> Tensor:
        return self._levels(x, sigma) ** 2

    def _chosen(self, found: Tensor, right: Any, x: Tensor, sigma: Any) -> Tensor:
        """Return what is wrong at the one level, and right at the others."""
        if self.only_at is None:
            return found
        here = (self._levels(x, sigma) / self.only_at - 1).abs() < 1e-3
        return torch.where(here.reshape(-1, *[1] * (found.ndim - 1)), found, right())


def _quarter_turn(rows: Tensor) -> Tensor:
    """Return A times rows (n, d): (x, y) becomes (y, -x) in each pair; one component that is left, 0."""
    paired = rows.shape[1] // 2 * 2
    pairs = rows[:, :paired].reshape(len(rows), -1, 2)
    turned = torch.stack([pairs[..., 1], -pairs[..., 0]], 2).reshape(len(rows), paired)
    return torch.cat([turned, torch.zeros_like(rows[:, paired:])], 1)


def family(truth: Truth, sigma: float, form: str) -> dict[str, Model]:
    """Return models that are wrong in one way each, by name."""
    ways: dict[str, dict[str, float]] = {
        "score times 0.5": {"scale": 0.5},
        "score times 1.5": {"scale": 1.5},
        "shifted": {"shift": 0.5},
        "turned": {"angle": 0.5},
        "too wide": {"width": 1.3},
    }
    if form == "score":
        ways["with a swirl"] = {"swirl": 0.3}
    return {name: Model(truth, sigma, form, **way) for name, way in ways.items()}
