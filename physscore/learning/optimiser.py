"""What moves the weights: Muon for matrices inside of our networks, Adam for the rest; and their average."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from physscore.core import InputError
from physscore.learning.mlp import MLP
from physscore.learning.muon import Muon
from physscore.learning.preconditioning import Preconditioned
from physscore.learning.unet import UNet

_RATES = {MLP: (1e-2, 4e-2), UNet: (2e-3, 2e-2)}  # the highest learning rates, of Adam and of Muon
_SHORT = 300  # steps; perceptrons are trained the slower the longer: else their units saturate on the way
_WINDOW = 0.1  # of the average: this part of the steps so far


def default_rate(model: nn.Module, steps: int) -> float:
    """Return the learning rate that suits a network.

    That of a perceptron falls as 1 / sqrt(steps), so that chance leads its weights as far in any training.
    """
    network = _network(model)
    rate = _RATES.get(type(network), (1e-3, 0.0))[0]
    return rate * math.sqrt(_SHORT / max(_SHORT, steps)) if isinstance(network, MLP) else rate


class Optimiser:
    """Muon for hidden matrices, whose update it makes orthogonal, and Adam for the rest.

    Parameters
    ----------
    model
        Whose weights are moved.
    rate
        The learning rate of Adam at its highest; that of Muon goes with it.
    decay
        Decoupled weight decay of matrices.
    """

    def __init__(self, model: nn.Module, rate: float, decay: float = 0.0) -> None:
        inside = hidden_matrices(model)
        known = {id(w) for w in inside}
        rest = [w for w in model.parameters() if id(w) not in known and w.requires_grad]
        self.parts: list[torch.optim.Optimizer] = []
        if rest:
            groups = [
                {"params": [w for w in rest if w.ndim > 1], "weight_decay": decay},
                {"params": [w for w in rest if w.ndim <= 1], "weight_decay": 0.0},
            ]
            self.parts.append(torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95)))
        if inside:
            adam_rate, muon_rate = _RATES[type(_network(model))]
            self.parts.append(Muon(inside, muon_rate * rate / adam_rate, decay))
        self._rates = [[group["lr"] for group in part.param_groups] for part in self.parts]
        self._weights = [w for group in self._groups() for w in group["params"]]

    def step(self, loss: Tensor, rate: float, clip: float = 1.0) -> bool:
        """Move the weights down the gradient of a loss, at ``rate`` times the highest learning rate.

        Returns
        -------
        bool
            Whether it could: not if loss or gradient are not finite; then the weights stay.
        """
        for part in self.parts:
            part.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self._weights, clip)
        if not bool(torch.isfinite(norm)) or not bool(torch.isfinite(loss)):
            return False
        for part, rates in zip(self.parts, self._rates, strict=True):
            for group, highest in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * highest
            part.step()
        return True

    def state(self) -> dict[str, Tensor]:
        """Return all that it remembers, as named tensors."""
        return {
            f"optimiser.{i}.{name}": torch.as_tensor(value)
            for i, w in enumerate(self._weights)
            for name, value in self._memory(w).items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` returned."""
        for key, value in tensors.items():
            _, number, name = key.split(".", 2)
            self._memory(self._weights[int(number)])[name] = value.clone()

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def _memory(self, weight: Tensor) -> Any:
        owner = next(p for p in self.parts if any(weight is w for g in p.param_groups for w in g["params"]))
        return owner.state[weight]


class Average:
    """The exponential moving average of weights over the last tenth of the steps so far."""

    def __init__(self, model: nn.Module) -> None:
        self.weights = {name: value.detach().clone() for name, value in weights_of(model).items()}

    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after step ``step``, counted from 0."""
        share = 1.0 / (1.0 + _WINDOW * step)
        for name, value in weights_of(model).items():
            mean = self.weights[name]
            if mean.is_floating_point():
                mean.lerp_(value.detach(), share)
            else:
                mean.copy_(value)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return what is learned: all but the table of the spectrum, which depends on how coarse fields are."""
    return {name: value for name, value in model.state_dict().items() if name != "eigenvalues"}


class Swapped:
    """Other weights in a model, for a while."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        self.model, self.weights = model, weights

    def __enter__(self) -> None:
        self._kept = {name: value.clone() for name, value in weights_of(self.model).items()}
        self.model.load_state_dict(self.weights, strict=False)

    def __exit__(self, *_: object) -> None:
        self.model.load_state_dict(self._kept, strict=False)


def schedule(progress: float, step: int, warmup: int) -> float:
    """Return the learning rate relative to the highest: a rise, then half a cosine down to zero."""
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def trained_type(model: nn.Module) -> torch.dtype:
    """Return the type of the weights of a model, which can be trained."""
    weights = list(model.parameters())
    if any(isinstance(weight, nn.parameter.UninitializedParameter) for weight in weights):
        raise InputError("model has lazy layers without weights: call it once with a batch of states before")
    if not any(weight.requires_grad for weight in weights):
        raise InputError("model has no weights to train: requires_grad must be True for some of them")
    dtype = next(weight.dtype for weight in weights if weight.requires_grad)
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"model has weights of {dtype}: train them in float32 or float64")
    return dtype


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the matrices between first and last layer of our own networks; of others, none."""
    network = _network(model)
    if isinstance(network, MLP):
        return [layer.weight for layer in list(network.layers)[1:-1]]  # type: ignore[misc]
    if isinstance(network, UNet):
        blocks = [*network.down, *network.up]
        return [w for block in blocks for w in block.parameters() if w.ndim == 2]
    return []


def _network(model: nn.Module) -> nn.Module:
    return model.network if isinstance(model, Preconditioned) else model
