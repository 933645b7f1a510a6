"""A loss at work on one law: its values and gradients, those of its terms, and what they should be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from physscore.learning.conformance.diagnosis import Counts
from physscore.learning.conformance.models import Model
from physscore.learning.conformance.systems import System
from physscore.learning.conformance.truth import truth_of

_Floats = npt.NDArray[np.float64]

SLICES = 4
FEW = 10  # dimensions in which much is drawn
WEIGHTS = ("scale", "width", "tilt")
_SAME = 0.05  # of a variance


@dataclass(frozen=True)
class Size:
    """How many states are in a batch, and how many batches there are."""

    n: int
    batches: int


# By kind: how much is drawn in few dimensions, and of fields.
SIZES = {
    "exact": (Size(256, 8), Size(32, 4)),
    "sliced": (Size(640, 16), Size(160, 14)),
    "denoising": (Size(1280, 24), Size(320, 16)),
    "levels": (Size(1536, 20), Size(384, 16)),
}


class Trial:
    """A loss on one law.

    Attributes
    ----------
    changed, marked : bool
        Whether it has changed a batch that it was given, or set its ``requires_grad`` or ``grad``.
    shape : tuple
        Of what it returns, where that is not one number.
    differentiable : bool
        Whether it has a gradient over the weights.
    """

    def __init__(
        self, loss: Any, kind: str, system: System, form: str, scale: Any, dtype: torch.dtype, seed: int
    ) -> None:
        self.loss, self.kind, self.system, self.form, self.seed = loss, kind, system, form, seed
        self.size = SIZES[kind][system.dim > FEW]
        self.scale = float(scale(system.dim) if callable(scale) else scale)
        self.truth = truth_of(system)
        given = 0.0 if self.with_noise else system.sigma
        n = self.size.n * self.size.batches
        x = system.draw(n, given, seed=seed).reshape(self.size.batches, self.size.n, *system.shape)
        self.x = torch.from_numpy(x).to(dtype)
        self.shape: tuple[int, ...]
        self.changed, self.marked, self.shape = False, False, ()
        self.differentiable = True
        if kind == "levels":
            self.levels = [(s, s**2 / len(system.levels)) for s in system.levels]
        else:
            self.levels = [(system.sigma, 1.0)]
        self.nodes = [self.truth.nodes(sigma**2) for sigma, _ in self.levels]
        self.right = self.model()

    @property
    def with_noise(self) -> bool:
        """Whether the loss adds noise itself."""
        return self.kind in ("denoising", "levels")

    @property
    def facts(self) -> dict[str, float]:
        """What an error may depend on."""
        found = {"d": float(self.system.dim), "n": float(self.size.n)}
        if self.kind == "sliced":
            found["slices"] = float(SLICES)
        if self.kind == "denoising":
            found["sigma"] = self.system.sigma
        return found

    def model(self, **way: Any) -> Model:
        """Return a model that is wrong in this way."""
        return Model(self.truth, self.system.sigma, self.form, **way)

    def value(self, model: Model, x: Tensor, call: int, slices: int = SLICES) -> Tensor:
        """Return the loss of a batch; the same ``call`` gives the same random numbers."""
        given = x.clone()
        more: dict[str, Any] = {"slices": slices} if self.kind == "sliced" else {}
        arguments: list[Any] = []
        if self.kind == "denoising":
            arguments = [self.system.sigma]
        elif self.kind == "levels":
            arguments = [torch.tensor(self.system.levels, dtype=x.dtype)]
        torch.default_generator.manual_seed((self.seed * 1_000_003 + call) % 2**63)
        found = self.loss(model, given, *arguments, **more)
        self.changed |= not torch.equal(given.detach(), x)
        self.marked |= given.requires_grad or given.grad is not None
        found = torch.as_tensor(found)
        if found.ndim:
            self.shape = tuple(found.shape)
            found = found.mean()
        return found / self.scale

    def terms(self, model: Model, x: Tensor) -> Tensor:
        """Return 1/2 |s|^2 and div s: their means over a batch, or in expectation where there is noise."""
        if self.with_noise:
            places = [(*nodes, *level) for nodes, level in zip(self.nodes, self.levels, strict=True)]
        else:
            places = [
                (x.double(), torch.full((len(x),), 1 / len(x), dtype=torch.float64), self.system.sigma, 1.0)
            ]
        total = torch.zeros(2, dtype=torch.float64)
        for points, weights, sigma, factor in places:
            square = 0.5 * (model.score(points, sigma) ** 2).flatten(1).sum(1)
            total = total + factor * torch.stack(
                [weights @ square, weights @ model.divergence(points, sigma)]
            )
        return total

    def half_fisher(self, model: Model) -> Tensor:
        """Return half the Fisher divergence, summed over the levels with their weights."""
        total = torch.zeros((), dtype=torch.float64)
        for (points, weights), (sigma, factor) in zip(self.nodes, self.levels, strict=True):
            gap = model.score(points, sigma) - self.truth.score(points, sigma**2)
            total = total + 0.5 * factor * (weights @ (gap**2).flatten(1).sum(1))
        return total

    @cached_property
    def noise(self) -> float:
        """Return the standard deviation of the noise that the loss adds, from the states the model saw."""
        seen = [y for some in self._seen for y in some]
        if not seen:
            return math.nan
        mean = self.truth.mean
        square = float(((torch.cat(seen).double() - mean) ** 2).sum(1).mean())
        own = float(((self.x.double().flatten(2) - mean) ** 2).sum(2).mean())
        return math.sqrt(max(square - own, 0.0) / self.system.dim)

    @cached_property
    def fourth_moments(self) -> _Floats | None:
        """Return the fourth moment of the noise in each batch, in units of sigma, 3 where it is normal; None
        where the states the model saw are not those of the batch, in their order, with noise of sigma."""
        moments = np.empty((len(self.x), 2))
        for i, (x, seen) in enumerate(zip(self.x, self._seen, strict=True)):
            x = x.flatten(1)
            if not seen or any(len(y) % len(x) for y in seen):
                return None
            noise = torch.cat([y.reshape(-1, *x.shape) - x for y in seen]).double() / self.system.sigma
            moments[i] = float((noise**2).mean()), float((noise**4).mean())
        return moments[:, 1] if abs(moments[:, 0].mean() - 1) < _SAME else None

    @cached_property
    def _seen(self) -> list[list[Tensor]]:
        """The states that the model is called with, batch by batch."""
        model = self.model()
        model.watched = True
        found = []
        for i, x in enumerate(self.x):
            model.seen = []
            self.value(model, x, i)
            found.append(model.seen)
        return found

    @torch.no_grad()
    def all_terms(self, models: list[Model]) -> _Floats:
        """Return the terms of models less those of the truth, (batches, models, 2)."""
        if self.with_noise:
            return self._terms_of(models, self.x[0])[np.newaxis].repeat(len(self.x), axis=0)
        return np.array([self._terms_of(models, x) for x in self.x])

    def _terms_of(self, models: list[Model], x: Tensor) -> _Floats:
        right = self.terms(self.right, x)
        return np.array([(self.terms(model, x) - right).numpy() for model in models])

    def measure(self, models: list[Model], slices: int = SLICES) -> _Floats:
        """Return the losses of models less that of the truth, (batches, models)."""
        found = np.empty((len(self.x), len(models)))
        for i, x in enumerate(self.x):
            right = float(self.value(self.right, x, i, slices).detach())
            for j, model in enumerate(models):
                found[i, j] = float(self.value(model, x, i, slices).detach()) - right
        return found

    def gradients(self, model: Model) -> tuple[_Floats, _Floats, _Floats]:
        """Return the gradient over the weights: measured, of the terms (batches, 3, 2), and expected (3,)."""
        weights = [getattr(model, name) for name in WEIGHTS]
        measured = np.zeros((len(self.x), 3))
        terms = np.zeros((len(self.x), 3, 2))
        for i, x in enumerate(self.x):
            value = self.value(model, x, i)
            if not value.requires_grad:
                self.differentiable = False
                break
            measured[i] = _gradient(value, weights)
            if i and self.with_noise:
                terms[i] = terms[0]
                continue
            both = self.terms(model, x)
            terms[i] = np.stack([_gradient(both[k], weights) for k in range(2)], axis=1)
        return measured, terms, _gradient(self.half_fisher(model), weights)


def _gradient(value: Tensor, weights: list[Tensor]) -> _Floats:
    if not value.requires_grad:
        return np.zeros(len(weights))
    found = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
    return np.array([0.0 if g is None else float(g) for g in found])


def counts_of(
    where: str, facts: dict[str, float], measured: _Floats, terms: _Floats, size: _Floats
) -> tuple[Counts, _Floats]:
    """Return how often the terms are counted, by least squares, and the same for each batch (batches, 2)."""
    weight = 1 / np.sqrt(np.maximum(size, 1e-12))
    each = np.array([
        np.linalg.lstsq(t * weight[:, np.newaxis], y * weight, rcond=None)[0] if np.isfinite(y).all()
        else np.full(2, np.nan)
        for y, t in zip(measured, terms, strict=True)
    ])  # fmt: skip
    return Counts(where, facts, each.mean(axis=0), each.std(axis=0, ddof=1) / math.sqrt(len(each))), each
