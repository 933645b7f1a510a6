"""A network in double precision, where differences of energies are smooth, that follows its weights."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn


class InDouble:
    """A copy of a network in double precision, whose weights are those that the network has now."""

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._copy = nn.Module()
        self._weights: list[Tensor] = []

    def of(self, model: nn.Module) -> nn.Module:
        """Return the copy, brought up to date."""
        weights = _weights(model)
        if model is not self._model or len(weights) != len(self._weights):
            self._model, self._copy = model, copy.deepcopy(model).double()
            self._weights = _weights(self._copy)
        with torch.no_grad():
            for mine, theirs in zip(self._weights, weights, strict=True):
                mine.copy_(theirs)
        return self._copy


def _weights(model: nn.Module) -> list[Tensor]:
    return list(chain(model.parameters(), model.buffers()))
