"""What is to be learned: a model, its data in coordinates of unit variance, and the loss of a batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from physscore.core import InputError
from physscore.energies.learned import from_torch
from physscore.energies.module_calls import ModuleCalls
from physscore.energies.torch_modules import takes_sigma
from physscore.learning import chance, losses
from physscore.learning.data import Data, coarse_spectrum, coarsen, mean_spectrum, moved
from physscore.learning.fitted import Fitted, fitted
from physscore.learning.level import known_from, principal
from physscore.learning.mlp import MLP
from physscore.learning.muon import native_bfloat16
from physscore.learning.normalisation import Components, Normalisation
from physscore.learning.optimiser import Swapped, trained_type
from physscore.learning.preconditioning import Preconditioned
from physscore.learning.unet import UNet

LOSSES = ("levels", "denoising", "sliced", "exact")
_VALIDATED = 512  # states in one validation, at most
_LEVELLED = 2048  # that tell from which noise on the score is known, about
_TOO_MUCH = 0.5  # of the narrowest standard deviation of the data: more noise makes another density
_LOWEST = 0.1  # noise from this part of the smallest standard deviation of a mode on
_HIGHEST = 10.0  # to so many of the largest
_ROUNDING = 1e-12  # of the largest variance: an axis with less is one along which single precision sees none
_HIGHEST_ANALYTIC = 3.0  # the same, where the Gaussian end is known
_OVER_LEVELS = 0.1  # the share of what ties the noise levels of an energy together
_POOLED = 512  # states that may be the origin of a noisy one, in so few dimensions:
_POOLED_DIM = 64
_VALIDATION = 1 << 40  # the step whose random numbers a validation uses


class Task:
    """A model, its data and its loss; arguments as of ``train``."""

    def __init__(
        self,
        model: str | nn.Module,
        data: Data,
        held: Data,
        *,
        loss: str,
        sigma: float | None,
        kind: str,
        analytic: bool | None,
        transform: str,
        names: Sequence[str] | None,
        coarse: Sequence[int],
        augment: bool,
        integrability: float,
        precision: str,
        batch: int,
        seed: int,
    ) -> None:
        self.loss_name, self.sigma, self.integrability = loss, sigma, integrability
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"precision is {precision!r}: it must be 'float32' or 'bfloat16'")
        self.batch, self.seed = min(batch, len(data.x)), seed
        self.shape, self.box_size = data.shape, data.box_size
        self.about = dict(data.about, states=len(data.x), validation=len(held.x))
        self.fields = of_fields(model)
        alike = self.fields or len(self.shape) > 1  # cells of a map; components of a vector are not
        self.normalisation = (Normalisation if alike else Components).fit(data.x, transform)
        y = self.normalisation.forward(data.x).astype(np.float32)
        y_held = self.normalisation.forward(held.x).astype(np.float32)
        self.parameters: tuple[Tensor, ...] | None = None
        self._set_parameters(data, held, names)
        spectrum = mean_spectrum(y, data.grid()) if self.fields else None
        through_levels = loss == "levels"
        self.analytic = through_levels and self.fields if analytic is None else analytic
        if self.analytic and not (self.fields and through_levels):
            raise InputError(
                "analytic is True: it is for fields, by the network 'unet', and the loss 'levels'"
            )
        self._set_levels(y, spectrum)
        with chance.torch_seeded(seed):
            self.model = self._model(model, kind, spectrum)
        self.dtype = trained_type(self.model)
        if self.parameters is not None:
            self.parameters = tuple(table.to(self.dtype) for table in self.parameters)
        if precision == "bfloat16":
            if not isinstance(self.model, Preconditioned):
                raise InputError("precision is 'bfloat16': it is for the networks of the loss 'levels'")
            self.model.in_bfloat16 = native_bfloat16()
            if not native_bfloat16():
                warnings.warn(
                    "precision is 'bfloat16', which this processor does not have: training in float32",
                    stacklevel=4,
                )
        self._through = bool(takes_sigma(self.model) and getattr(self.model, "levels", True))
        if through_levels and not self._through:
            raise InputError("model takes no noise level: loss 'levels' needs one that does, model(x, sigma)")
        if loss in ("sliced", "exact") and isinstance(self.model, Preconditioned):
            raise InputError(
                f"loss is {loss!r} and the model conditional on a noise level: use loss 'levels'"
            )
        if isinstance(model, nn.Module):
            level, table = self.sigmas[0] if self._through else None, np.zeros((1, len(self.names)))
            ModuleCalls(
                self.model.eval(), self.shape, level, table if self.names else None
            ).require_one_function()
        self.augment = augment and self.fields
        vectors = not self.fields and self.parameters is None and math.prod(self.shape) <= _POOLED_DIM
        self._pool = _POOLED if vectors else 1
        self._exchangeable = self.box_size is None or len(set(self.box_size)) == 1
        self._coarsest = getattr(_inner(self.model), "coarsest", 1)
        self._order = -1, torch.empty(0, dtype=torch.long)
        self.factors = self._factors(coarse)
        self.stages = [self._stage(y, y_held, factor) for factor in self.factors]
        self._spectrum = spectrum

    def loss(self, step: int, share: float) -> Tensor:
        """Return the loss of a batch; ``share`` of the training is done."""
        stage = min(int(share * len(self.factors)), len(self.factors) - 1)
        self._set_stage(stage)
        y = self.stages[stage][0]
        chosen = self._chosen(step, len(y))
        own = chance.generator(self.seed, step, 2)
        batch = y[chosen]
        if self.augment:
            batch = moved(batch, own, self._exchangeable, self._coarsest)
        table = None if self.parameters is None else self.parameters[0][chosen]
        self.model.train()
        with chance.torch_seeded(self.seed, step, 3):
            found = self._of(self.model, batch, table, own, self._pool)
            if self.integrability:
                level = math.sqrt(self.sigmas[0] * self.sigmas[1]) if self._through else None
                curl = losses.integrability(self.model, batch, level, table, generator=own)
                found = found + self.integrability * curl
        return found

    def _chosen(self, step: int, n: int) -> Tensor:
        """Return which of n states are in a batch: a permutation for each pass over them."""
        places = torch.arange(step * self.batch, (step + 1) * self.batch)
        found = torch.empty_like(places)
        for number in range(int(places[0]) // n, int(places[-1]) // n + 1):
            if self._order[0] != number:
                self._order = number, torch.randperm(n, generator=chance.generator(self.seed, number, 1))
            inside = places // n == number
            found[inside] = self._order[1][places[inside] % n]
        return found

    def validate(self, weights: dict[str, Tensor]) -> npt.NDArray[np.float64]:
        """Return the losses of batches of held-out states, by the same noise every time."""
        self._set_stage(len(self.stages) - 1)
        self.model.eval()
        y = self.stages[-1][1][:_VALIDATED]
        table = None if self.parameters is None else self.parameters[1][:_VALIDATED]
        size = max(2, min(self.batch, len(y) // 16))
        found = []
        with Swapped(self.model, weights):
            for number, group in enumerate(torch.split(torch.arange(len(y)), size)):
                own = chance.generator(self.seed, _VALIDATION + number, 2)
                part = None if table is None else table[group]
                if self.loss_name in ("levels", "denoising"):
                    with torch.no_grad():
                        value = self._of(self.model, y[group], part, own)
                else:
                    value = self._of(self.model, y[group], part, own)
                found.append(float(value.detach()))
        return np.array(found)

    def fitted(self, about: dict[str, Any]) -> Fitted:
        """Return the score with the weights the model has."""
        self._set_stage(len(self.stages) - 1)
        if isinstance(self.model, Preconditioned):
            self.model.in_bfloat16 = False
        level = self._level()
        if level is not None:
            about["training"]["doubt"] = self._doubt(level)
        return fitted(
            self.model, self.shape, self.normalisation, sigmas=self.sigmas, level=level,
            box_size=self.box_size, names=self.names, parameter_mean=self.parameter_mean,
            parameter_std=self.parameter_std, parameter_range=self.parameter_range, about=about,
        )  # fmt: skip

    def _level(self) -> float | None:
        """Return from which noise on a score of vectors is known."""
        if len(self.shape) != 1 or self.fields or not self._through or self.loss_name != "levels":
            return None
        times = -(-_LEVELLED // len(self.stages[-1][1][:_VALIDATED]))  # each with noise of its own
        y = np.tile(self.stages[-1][1][:_VALIDATED], (times, 1)).astype(np.float64)
        table = None if self.parameters is None else np.tile(self.parameters[1][:_VALIDATED], (times, 1))
        kind = getattr(self.model.eval(), "kind", "score")

        def score_at(sigma: float) -> Any:
            return from_torch(self.model, self.shape, kind=kind, sigma=sigma, parameters=table)

        try:
            return known_from(score_at, y, self.sigmas, self.seed, self._principal[1], times)
        except RuntimeError:  # a module that torch does not differentiate twice
            return None

    @cached_property
    def _principal(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Variances and principal axes of the vectors that are trained on."""
        return principal(self.stages[-1][0].numpy().astype(np.float64))

    def _doubt(self, level: float) -> str | None:
        """Return why the score at a level is not to be taken for that of the data, if there is a reason."""
        variances = self._principal[0]
        real = variances[variances > _ROUNDING * variances[-1]]
        narrowest = math.sqrt(float(real[0]))
        if level >= self.sigmas[1]:
            return (
                "the score is known at no noise level: nothing was learned; train longer, or with more data"
            )
        if len(real) < len(variances):
            few = len(self.stages[-1][0]) <= len(variances)
            advice = "give more states" if few else "leave out the components that follow from others"
            return (
                f"the data lie in {len(real)} of {len(variances)} dimensions, and have no density in all: as "
                f"a score or an energy it is that of data blurred by {level / narrowest:.2g} times the "
                f"narrowest standard deviation inside; {advice}"
            )
        if level < _TOO_MUCH * narrowest:
            return None
        return (
            f"the score is known from noise of {level / narrowest:.2g} times the narrowest standard "
            "deviation of the data on: as a score or an energy it is that of data blurred by so much; train "
            "longer, or with more data"
        )

    def _of(
        self, model: nn.Module, y: Tensor, table: Tensor | None, generator: torch.Generator, pool: int = 1
    ) -> Tensor:
        if self.loss_name == "levels":
            low, high = math.log(self.sigmas[0]), math.log(self.sigmas[1])
            # Stratified over the levels: each part of them has its share of every batch.
            place = torch.randperm(len(y), generator=generator)
            u = (place + torch.rand(len(y), generator=generator, dtype=y.dtype)) / len(y)
            sigma = torch.exp(low + (high - low) * u)
            return self._edm(model, y, sigma, table, generator, pool)
        if self.loss_name == "denoising":
            return losses.denoising(
                model, y, self.sigma, table, antithetic=pool == 1, pool=pool, generator=generator
            )
        level = self.sigmas[0] if self._through else None
        if self.loss_name == "sliced":
            return losses.sliced(model, y, 4, True, level, table, generator=generator)
        return losses.exact(model, y, level, table)

    def _edm(
        self,
        model: nn.Module,
        y: Tensor,
        sigma: Tensor,
        table: Tensor | None,
        generator: torch.Generator,
        pool: int,
    ) -> Tensor:
        """Return the denoising loss, a cell, with the weight that gives a network's target unit variance; of
        the energies of vectors, and that of their change with the noise."""
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        wide = sigma.reshape(-1, *[1] * (y.ndim - 1))
        noisy = y + wide * noise
        s = losses.score_of_copies(model, noisy, sigma, table)
        squares = noise.flatten(1).pow(2).sum(1)
        if pool > 1:
            noise, squares = losses.pooled_noise(noisy, y, sigma, pool)
        error = (wide * s + noise).flatten(1).pow(2).mean(1)
        found = (error * self._weight(sigma)).mean()
        if self.fields or not isinstance(model, Preconditioned) or model.kind != "energy":
            return found
        # Between modes that noise does not join, the score says nothing of their weights: these come down
        # from more noise, by what the energy is over it (Guth et al. 2025, arXiv:2506.05310).
        d = y[0].numel()
        off = model.rate(noisy, sigma, table) - (d - squares)
        return found + _OVER_LEVELS * off.pow(2).mean() / (2 * d)

    def _weight(self, sigma: Tensor) -> Tensor:
        model = self.model
        if isinstance(model, Preconditioned):
            return (sigma / model.c_out(sigma, self._current_shape)).to(sigma.dtype) ** 2
        return torch.ones_like(sigma)

    def _set_parameters(self, data: Data, held: Data, names: Sequence[str] | None) -> None:
        self.names: tuple[str, ...] = ()
        self.parameter_mean: Any = ()
        self.parameter_std: Any = ()
        self.parameter_range: Any = None
        if data.parameters is None or held.parameters is None:
            if names:
                raise InputError(f"names is {list(names)}, but there are no parameters")
            return
        count = data.parameters.shape[1]
        self.names = tuple(names) if names else tuple(f"parameter_{i}" for i in range(count))
        if len(self.names) != count:
            raise InputError(f"names is {list(self.names)}: there are {count} parameters")
        self.parameter_mean = data.parameters.mean(axis=0, dtype=np.float64)
        self.parameter_range = np.stack([data.parameters.min(axis=0), data.parameters.max(axis=0)])
        spread = data.parameters.std(axis=0, dtype=np.float64)
        self.parameter_std = np.where(spread > 0, spread, 1.0)
        both = [(t - self.parameter_mean) / self.parameter_std for t in (data.parameters, held.parameters)]
        self.parameters = (
            torch.as_tensor(both[0], dtype=torch.float32),
            torch.as_tensor(both[1], dtype=torch.float32),
        )

    def _set_levels(self, y: Any, spectrum: Any) -> None:
        if self.loss_name != "levels":
            only = 1.0 if self.sigma is None else float(self.sigma)
            self.sigmas = (only, only)
            return
        if spectrum is not None:
            variances = spectrum[spectrum > 1e-12 * spectrum.max()]
        elif math.prod(self.shape) <= 512 and len(y) > 2 * math.prod(self.shape):
            variances = np.linalg.eigvalsh(np.cov(y.reshape(len(y), -1), rowvar=False).reshape(y[0].size, -1))
            variances = np.maximum(variances, 1e-2 * variances.max())  # what is not a ridge, but a mode
            variances = np.append(variances, 1e-2 * variances.min())
        else:
            variances = np.array([1e-2, float(math.prod(self.shape))])
        highest = _HIGHEST_ANALYTIC if self.analytic else _HIGHEST
        self.sigmas = (
            _LOWEST * math.sqrt(float(variances.min())), highest * math.sqrt(float(variances.max()))
        )  # fmt: skip
        if not self.fields and (y.std(axis=0) < self.sigmas[0]).any():
            spread = y.std(axis=0).min() / y.std(axis=0).max()
            raise InputError(
                f"data has a component that varies {spread:.2g} times as much as the widest, below the "
                "smallest noise: give all components scales that are nearer, or leave it out"
            )

    def _model(self, model: str | nn.Module, kind: str, spectrum: Any) -> nn.Module:
        count = len(self.names)
        through_levels = self.loss_name == "levels"
        network: nn.Module
        if isinstance(model, str):
            if model == "mlp":
                if len(self.shape) != 1:
                    raise InputError(f"model is 'mlp' and a state has shape {self.shape}: it is for vectors")
                network = MLP(self.shape[0], kind=kind, levels=through_levels, parameters=count)
            elif model == "unet":
                inputs = 2 if self.analytic and kind == "score" else 1
                large = min(self.shape) >= 32 and not any(side % 8 for side in self.shape)
                patch = 2 if large else 1
                network = UNet(len(self.shape), inputs=inputs, patch=patch, parameters=count, kind=kind)
            else:
                raise InputError(f"model is {model!r}: it must be 'mlp', 'unet' or a torch.nn.Module")
            network = network.float()  # whatever torch's default is
        elif isinstance(model, nn.Module):
            network = model
        else:
            raise InputError(f"model is {model!r}: it must be 'mlp', 'unet' or a torch.nn.Module")
        ours = isinstance(network, MLP | UNet)
        if through_levels and ours and getattr(network, "levels", False):
            network = Preconditioned(network, eigenvalues=spectrum if self.analytic else None)
        return network

    def _factors(self, coarse: Sequence[int]) -> list[int]:
        factors = [int(f) for f in coarse]
        if factors and not self.fields:
            raise InputError(f"coarse is {list(coarse)}: it is for fields")
        if any(f < 2 for f in factors) or factors != sorted(factors, reverse=True):
            raise InputError(f"coarse is {list(coarse)}: the factors must fall, and be 2 at least")
        return [*factors, 1]

    def _stage(self, y: Any, held: Any, factor: int) -> tuple[Tensor, Tensor]:
        first, second = (torch.as_tensor(coarsen(part, factor), dtype=self.dtype) for part in (y, held))
        return first, second

    def _set_stage(self, stage: int) -> None:
        """Give the model the spectrum of fields as coarse as they are now."""
        factor = self.factors[stage]
        self._current_shape = tuple(side // factor for side in self.shape)
        if len(self.factors) > 1 and isinstance(self.model, Preconditioned) and self.model.analytic:
            table = coarse_spectrum(self._spectrum, self.shape, factor)
            self.model.eigenvalues = torch.as_tensor(table, dtype=torch.float32)


def of_fields(model: Any) -> bool:
    """Return whether a model is of periodic fields."""
    return model == "unet" or isinstance(_inner(model), UNet)


def _inner(model: Any) -> Any:
    return model.network if isinstance(model, Preconditioned) else model
