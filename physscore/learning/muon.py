"""Muon: the momentum of a matrix, made nearly orthogonal before it moves the weights.

PyTorch's own computes in bfloat16 whatever the processor, which many emulate at a fiftieth of the speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)  # steep at 0: singular values come to lie between 0.7 and 1.2
_ITERATIONS = 5
_TINY = 1e-7


@cache
def native_bfloat16() -> bool:
    """Return whether this processor multiplies matrices of bfloat16 as fast as those of float32."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Return U S V^T of a matrix U D V^T, S nearly the identity, by Newton and Schulz's iteration."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).to(dtype)
    x = x / x.norm().clamp(min=_TINY)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024), with Nesterov's momentum and decoupled weight decay.

    Parameters
    ----------
    weights
        Matrices.
    rate
        The learning rate of matrices that are not taller than wide; others take sqrt(rows / columns) of it.
    decay
        Weight decay.
    momentum
        The part of the momentum that stays.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], rate: float, decay: float = 0.0, momentum: float = 0.95
    ) -> None:
        super().__init__(weights, {"lr": rate, "weight_decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move the weights down their gradients."""
        dtype = torch.bfloat16 if native_bfloat16() else torch.float32
        for group in self.param_groups:
            rate, stays = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                memory = state["momentum_buffer"]
                memory.lerp_(weight.grad, 1 - stays)
                change = orthogonal(weight.grad.lerp(memory, stays), dtype)
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(change, alpha=-rate * math.sqrt(max(1.0, weight.shape[0] / weight.shape[1])))
