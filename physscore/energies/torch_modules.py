"""How a model is called: with a noise level and parameters if it takes them, as a score or as an energy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

from physscore.core import InputError

Model = Callable[..., Tensor]
"""Maps states (n, *shape), and a noise level (n,) and parameters (n, p) if it takes them, to scores of the
same shape or to energies (n,). Of states of one number (n, 1) are scores, unless the model has
``kind = "energy"``."""


_NAMES = ("sigma", "sigmas", "noise", "noise_level", "level", "t", "time")
_energies: WeakSet[Any] = WeakSet()  # models known to return energies


def takes_sigma(model: Model) -> bool:
    """Return whether a model is called with a noise level after the states.

    It is if it has a second argument by position that must be given, or has a name of ``_NAMES``.
    """
    return _takes(model).sigma


def needs_sigma(model: Model) -> bool:
    """Return whether it cannot be called without one."""
    return _takes(model).needs_sigma


def takes_parameters(model: Model) -> bool:
    """Return whether it has an argument of the name ``parameters``."""
    return _takes(model).parameters


class _Arguments(NamedTuple):
    """What a model takes beside the states."""

    sigma: bool
    needs_sigma: bool
    parameters: bool


def _takes(model: Model) -> _Arguments:
    if isinstance(model, torch.nn.Module):
        return _arguments(type(model).forward, 1)
    return _arguments(model, 0)


@lru_cache(maxsize=256)
def _arguments(function: Any, skipped: int) -> _Arguments:
    """Return what a function takes, whose first ``skipped`` arguments are bound."""
    try:
        arguments = list(inspect.signature(function).parameters.values())[skipped:]
    except (TypeError, ValueError):
        return _Arguments(False, False, True)
    physical = any(a.kind is a.VAR_KEYWORD or a.name == "parameters" for a in arguments)
    given = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    if any(a.kind is a.VAR_POSITIONAL for a in arguments):
        return _Arguments(True, False, physical)
    if len(given) < 2 or given[1].name == "parameters":
        return _Arguments(False, False, physical)
    needed = given[1].default is inspect.Parameter.empty
    return _Arguments(needed or given[1].name in _NAMES, needed, physical)


def call(model: Model, x: Tensor, sigma: Any = None, parameters: Tensor | None = None) -> Tensor:
    """Return what a model says of states; a noise level goes along if the model takes one."""
    arguments: list[Any] = [x]
    if sigma is not None and takes_sigma(model):
        arguments.append(per_state(sigma, x))
    return model(*arguments) if parameters is None else model(*arguments, parameters=parameters)


def per_state(sigma: Any, x: Tensor) -> Tensor:
    """Return noise levels as a tensor (n,), one a state.

    Raises
    ------
    InputError
        If there is neither one nor one a state, or one is not positive.
    """
    levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).detach()
    if levels.ndim > 1 or levels.numel() not in (1, len(x)):
        raise InputError(f"sigma has shape {tuple(levels.shape)}: give one noise level, or {len(x)}")
    if not bool((levels > 0).all()) or not bool(torch.isfinite(levels).all()):
        raise InputError(f"sigma is {sigma}: noise levels must be positive")
    return levels.expand(len(x))


def is_energy(output: Tensor, x: Tensor) -> bool:
    """Return whether a model gave energies (n,), or (n, 1), rather than scores.

    Raises
    ------
    InputError
        If it gave neither.
    """
    if output.shape == x.shape:
        return False
    if output.shape in ((len(x),), (len(x), 1)):
        return True
    raise InputError(
        f"model returned {tuple(output.shape)} for states {tuple(x.shape)}: it must return a score of their "
        f"shape, or energies ({len(x)},)"
    )


def score_of(
    model: Model, x: Tensor, sigma: Any = None, parameters: Tensor | None = None, *, graph: bool = True,
    energy: bool = False,
) -> Tensor:  # fmt: skip
    """Return the score (n, *shape): the model's own, or minus the gradient of its energy.

    With ``graph`` it can be differentiated over the weights, and over ``x`` where that asks for it.
    ``energy``: it returns energies, even (n, 1) for states of one number, which look like scores.
    """
    # A model of that kind with a method ``energy`` gives the score when it is called.
    energy = energy or (getattr(model, "kind", None) == "energy" and not hasattr(model, "energy"))
    if not (energy or model in _energies) or x.requires_grad:
        output = call(model, x, sigma, parameters)
        if not energy and not is_energy(output, x):
            return output
        if x.requires_grad and output.requires_grad:
            return -gradient(output.sum(), x, graph=graph)
        if not energy:
            _energies.add(model)  # met for the first time
    with torch.inference_mode(False), torch.enable_grad():
        given = x if x.requires_grad else x.detach().clone().requires_grad_()
        return -gradient(call(model, given, sigma, parameters).sum(), given, graph=graph)


def gradient(total: Tensor, x: Tensor, *, graph: bool = False) -> Tensor:
    """Return the gradient of a sum of energies.

    Raises
    ------
    InputError
        If torch does not know it.
    """
    found: Tensor | None = None
    if total.requires_grad:
        (found,) = torch.autograd.grad(total, x, create_graph=graph, allow_unused=True)
    if found is None:
        raise InputError(
            "module returns energies that torch cannot differentiate over the states: compute them from the "
            "states by torch alone, without detach() or numpy()"
        )
    return found


def checked_batch(x: Any) -> Tensor:
    """Return a batch as a tensor of its own: what the caller gave is never changed.

    Raises
    ------
    InputError
        If it is not a batch of floating-point states.
    """
    if not isinstance(x, Tensor):
        x = torch.as_tensor(x)
    if not x.is_floating_point() or x.ndim < 2 or len(x) == 0:
        raise InputError(
            f"x has shape {tuple(x.shape)} and type {x.dtype}: it must be states (n, *shape) of floats"
        )
    found: Tensor = x.detach()
    return found
