"""How a model is called: with a noise level and parameters if it takes them, as a score or as an energy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from physscore.core import InputError
from physscore.energies.known_models import Known

Model = Callable[..., Tensor]
"""Maps states (n, *shape), and a noise level (n,) and parameters (n, p) if it takes them, to scores of the
same shape or to energies (n,). Of states of one number (n, 1) are scores, unless the model has
``kind = "energy"``."""


_NAMES = ("sigma", "sigmas", "noise", "noise_level", "level", "t", "time")
_CONDITIONS = ("class_labels", "class_label", "labels", "label", "y", "c", "cond", "condition", "context")
_energies = Known()  # models that return energies
_differentiating = Known()  # models that call autograd themselves
_arguments_of = Known()


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


def check_arguments(model: Model, sigma: Any, parameters: Any) -> None:
    """Refuse a noise level or parameters that a module would never see, or their absence, and arguments that
    nothing is known of.

    Raises
    ------
    InputError
        If so.
    """
    takes = _takes(model)
    more = [name for name in takes.needed if name != "parameters"]
    if more:
        raise InputError(
            f"module needs {' and '.join(more)} beside the states and a noise level: give it in a function, "
            f"as in lambda x, sigma: module(x, sigma, {more[0]})"
        )
    if sigma is not None and takes.second in _CONDITIONS:
        raise InputError(
            f"sigma is {sigma}, but the module's second argument is {takes.second!r}, which is no noise "
            f"level: give it in a function, as in lambda x: module(x, {takes.second})"
        )
    if sigma is not None and not takes.sigma:
        raise InputError(
            f"sigma is {sigma}, but the module has no argument for a noise level after the states"
        )
    if sigma is None and takes.needs_sigma:
        raise InputError("sigma is None, but the module needs a noise level: give it as sigma=")
    if parameters is not None and not takes.parameters:
        raise InputError('parameters are given, but the module has no argument "parameters"')


class _Arguments(NamedTuple):
    """What a model takes beside the states."""

    sigma: bool
    needs_sigma: bool
    parameters: bool
    second: str = ""
    needed: tuple[str, ...] = ()
    """What must be given beyond the second."""


def _takes(model: Model) -> _Arguments:
    if isinstance(model, torch.jit.ScriptModule):
        schema: Any = model.forward.schema  # type: ignore[attr-defined]
        given = [(a.name, not a.has_default_value()) for a in schema.arguments[1:]]
        return _of_names(given, any(name == "parameters" for name, _ in given))
    if isinstance(model, torch.nn.Module):
        return _arguments(type(model).forward, 1)
    if inspect.ismethod(model):  # made anew each time
        return _arguments(model.__func__, 1)
    return _arguments(model, 0)


def _arguments(function: Any, skipped: int) -> _Arguments:
    """Return what a function takes, whose first ``skipped`` arguments are bound."""
    known = _arguments_of.get(function)
    if known is None or known[0] != skipped:
        known = skipped, _inspected(function, skipped)
        _arguments_of.set(function, known)
    found: _Arguments = known[1]
    return found


def _inspected(function: Any, skipped: int) -> _Arguments:
    try:
        arguments = list(inspect.signature(function).parameters.values())[skipped:]
    except (TypeError, ValueError):
        return _Arguments(False, False, True)
    physical = any(a.kind is a.VAR_KEYWORD or a.name == "parameters" for a in arguments)
    if any(a.kind is a.VAR_POSITIONAL for a in arguments):
        return _Arguments(True, False, physical)
    empty = inspect.Parameter.empty
    given = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    named = [a.name for a in arguments if a.kind is a.KEYWORD_ONLY and a.default is empty]
    found = _of_names([(a.name, a.default is empty) for a in given], physical)
    return found._replace(needed=(*found.needed, *named))


def _of_names(given: list[tuple[str, bool]], physical: bool) -> _Arguments:
    """Return what is taken by a function of these arguments, of which some must be given."""
    if len(given) < 2 or given[1][0] == "parameters":
        return _Arguments(False, False, physical)
    name, needed = given[1]
    more = tuple(other for other, must in given[2:] if must)
    return _Arguments(needed or name in _NAMES, needed, physical, name, more)


def call(model: Model, x: Tensor, sigma: Any = None, parameters: Tensor | None = None) -> Tensor:
    """Return what a model says of states; a noise level goes along if the model takes one."""
    arguments: list[Any] = [x]
    if sigma is not None and takes_sigma(model):
        arguments.append(per_state(sigma, x))
    named = {} if parameters is None else {"parameters": parameters}
    if torch.is_grad_enabled() or not _differentiating.get(model):
        try:
            return _called(model, arguments, named)
        except RuntimeError:  # of its own call of autograd, perhaps
            if torch.is_grad_enabled():
                raise
    with torch.inference_mode(False), torch.enable_grad():
        copies = {name: tensor.clone() for name, tensor in named.items()}
        found = _called(model, [tensor.clone() for tensor in arguments], copies)
    _differentiating.set(model, True)
    return found.detach()


def _called(model: Model, arguments: list[Any], named: dict[str, Any]) -> Tensor:
    try:
        found = model(*arguments, **named)
    except RuntimeError as error:
        if "scalar types: Long, Int" in str(error):
            raise InputError(
                "module looks up a whole number, as a table of steps does, and was given a noise level: give "
                "ps.score_at_from_epsilon a function of states and steps"
            ) from error
        raise
    if not isinstance(found, Tensor):
        raise InputError(
            f"module returned a {type(found).__name__}: it must return a tensor, as lambda x: module(x)[0] "
            "does of a tuple"
        )
    return found


def has_energy(model: Any) -> bool:
    """Return whether a model has a method ``energy``: a part of it may be called so too."""
    return callable(getattr(type(model), "energy", None))


def calls_autograd(model: Any) -> bool:
    """Return whether a model is known to differentiate by itself, and so builds graphs at every call."""
    return bool(_differentiating.get(model))


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
    # A model with a method ``energy`` gives the score when it is called, or what is not looked at, as log p.
    own = has_energy(model)
    energy = energy or (getattr(model, "kind", None) == "energy" and not own)
    if not (energy or _energies.get(model)) or (x.requires_grad and not own):
        output = call(model, x, sigma, parameters)
        if not energy and not is_energy(output, x):
            return output
        if x.requires_grad and output.requires_grad and not own:
            return -gradient(output.sum(), x, graph=graph)
        if not energy:
            _energies.set(model, True)  # met for the first time
    function = model.energy if own else model  # type: ignore[attr-defined]
    with torch.inference_mode(False), torch.enable_grad():
        given = x if x.requires_grad else x.detach().clone().requires_grad_()
        return -gradient(call(function, given, sigma, parameters).sum(), given, graph=graph)


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
