"""A torch module as a score or an energy, among all others: NumPy in, NumPy out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states, device_of, namespace, to_host
from physscore.core import Array, Energy, InputError, Score
from physscore.energies.functions import Rounding, state_shape
from physscore.energies.known_models import Known

if TYPE_CHECKING:
    from physscore.energies.module_calls import ModuleCalls

_FEW = 3  # states at which a derivative is looked at
_torch_is_right = Known()  # octaves of noise levels, and whether it knows the derivatives there


def from_torch(
    module: Any,
    shape: int | Sequence[int],
    *,
    kind: str | None = None,
    sigma: float | None = None,
    parameters: Any = None,
    name: str | None = None,
) -> Any:
    """Return a torch module as a score, or as an energy whose gradient is the score.

    Parameters
    ----------
    module
        A ``torch.nn.Module`` or a function of tensors: states (n, *shape) to scores of the same shape, or to
        energies (n,), which are differentiated. A module with a method ``energy`` is an energy whose call
        gives the score, as the networks of ``physscore.learning`` are.
    shape
        Shape of one state.
    kind
        "score" or "energy". [default: what the module returns]
    sigma
        The noise level, of a module that takes one as its second argument.
    parameters
        Physical parameters, given to the module as ``parameters=`` (n, p); one row for all states.
    name
        What it is called in messages and files. [default: the module's class]

    Returns
    -------
    Energy or Score

    Raises
    ------
    InputError
        If torch is missing, or the module does not return what it must, or needs other arguments, or has
        dropout or batch normalisation in training mode, or returns something else each time for other
        reasons.
    """
    _require_torch()
    from physscore.energies.module_calls import ModuleCalls
    from physscore.energies.torch_modules import check_arguments

    sides = state_shape(shape)
    if not callable(module):
        raise InputError(f"module is {module!r}: it must be a torch.nn.Module, or a function of tensors")
    if kind not in (None, "score", "energy"):
        raise InputError(f"kind is {kind!r}: it must be 'score' or 'energy'")
    if sigma is not None and not 0 < sigma < math.inf:
        raise InputError(f"sigma is {sigma}: a noise level must be positive")
    check_arguments(module, sigma, parameters)
    about = ModuleCalls(module, sides, sigma, parameters)
    about.require_one_function()
    if kind is None:
        kind = about.kind()
    label = name or type(module).__name__
    return LearnedEnergy(about, label) if kind == "energy" else LearnedScore(about, label)


class LearnedScore(Score):
    """The score of a torch module; see :func:`from_torch`."""

    def __init__(self, about: ModuleCalls, name: str) -> None:
        self._about, self._name = about, name
        self.shape = about.shape

    @property
    def module(self) -> Any:
        """The torch module."""
        return self._about.module

    def score(self, x: Array) -> Array:
        """Return what the module says, in the type of ``x``."""
        states = as_states(x, self.shape)
        return _score(self._about, states)

    def directional(self, x: Array, v: Array) -> tuple[Array, Array]:
        """Return the score and its derivative along ``v``, J v: both of the shape of ``x``."""
        states, along = as_states(x, self.shape), as_states(v, self.shape, "v")
        return _directional(self, states, along)

    def __repr__(self) -> str:
        return self._name


class LearnedEnergy(Energy):
    """The energy of a torch module, whose gradient is the score; see :func:`from_torch`."""

    def __init__(self, about: ModuleCalls, name: str) -> None:
        from physscore.energies.torch_modules import has_energy

        self._about, self._name = about, name
        self.shape = about.shape
        self._rounding = Rounding()
        self._explicit = has_energy(about.module)  # its call gives the score
        about.returns_energies = not self._explicit

    @property
    def module(self) -> Any:
        """The torch module."""
        return self._about.module

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return what the module says: (n,), float64."""
        import torch

        states = as_states(x, self.shape)
        self._about.require_one_function()
        found = namespace(device_of(x)).empty(len(states))
        with torch.no_grad():
            for group in self._about.groups(len(states)):
                given = self._about.tensor(states[group])
                energies = self._about.energies(given, self._explicit)
                found[group] = self._told(energies.reshape(-1), states)
        return cast(npt.NDArray[np.float64], found)

    def _told(self, energies: Any, states: Array) -> Array:
        import torch

        found = self._about.array(energies, states)
        dtype = energies.dtype
        self._rounding.warn(found, str(dtype).removeprefix("torch."), torch.finfo(dtype).eps)
        return found

    def score(self, x: Array) -> Array:
        """Return minus the gradient, in the type of ``x``."""
        if self._explicit:
            return _score(self._about, as_states(x, self.shape))
        return self._both(x, self._about.array)[1]

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        return self._both(x, self._told)

    def _both(self, x: Array, as_array: Any) -> tuple[npt.NDArray[np.float64], Array]:
        import torch

        from physscore.energies.module_calls import WITH_GRAPH
        from physscore.energies.torch_modules import gradient

        states = as_states(x, self.shape)
        if self._explicit:
            return self.energy(states), _score(self._about, states)
        self._about.require_one_function()
        energies, scores = namespace(device_of(x)).empty(len(states)), np.empty_like(states)
        for group in self._about.groups(len(states), WITH_GRAPH):
            with torch.inference_mode(False), torch.enable_grad():
                given = self._about.tensor(states[group]).requires_grad_()
                energy = self._about.energies(given, False).reshape(-1)
                slope = gradient(energy.sum(), given)
            energies[group] = as_array(energy, states)
            scores[group] = self._about.array(-slope, states)
        return energies, scores

    def directional(self, x: Array, v: Array) -> tuple[Array, Array]:
        """Return the score and its derivative along ``v``, J v: both of the shape of ``x``."""
        states, along = as_states(x, self.shape), as_states(v, self.shape, "v")
        return _directional(self, states, along)

    def __repr__(self) -> str:
        return self._name


def _score(about: ModuleCalls, states: Array) -> Array:
    import torch

    from physscore.energies.module_calls import AT_ONCE, WITH_GRAPH
    from physscore.energies.torch_modules import calls_autograd

    about.require_one_function()
    found = np.empty_like(states)
    with torch.no_grad():
        for group in about.groups(len(states), WITH_GRAPH if calls_autograd(about.module) else AT_ONCE):
            found[group] = about.array(about.score(about.tensor(states[group])), states)
    return found


def _directional(learned: LearnedScore | LearnedEnergy, states: Array, along: Array) -> tuple[Array, Array]:
    """Return score and J v, by torch if that is right at a few states, else by differences of the score."""
    from physscore.energies.module_calls import WITH_GRAPH
    from physscore.energies.module_derivative import by_torch, differences, errs

    about = learned._about
    about.require_one_function()

    def known(x: Array, v: Array) -> tuple[Array, Array]:
        scores, products = np.empty_like(x), np.empty_like(x)
        for group in about.groups(len(x), WITH_GRAPH):
            s, product = by_torch(
                lambda given: about.score(given, graph=True), about.tensor(x[group]), about.tensor(v[group])
            )
            scores[group], products[group] = about.array(s, x), about.array(product, x)
        return scores, products

    rounding = about.rounding(states)
    level = None if about.sigma is None else round(math.log2(about.sigma))
    right = _torch_is_right.get(about.module) or {}
    if level not in right and len(states):
        few = to_host(states[: about.fewest(_FEW)]).astype(np.float64)
        good = not errs(learned.score, lambda x, v: known(x, v)[1], few, rounding)
        right = {**right, level: good}
        _torch_is_right.set(about.module, right)
    if all(right.values()):
        return known(states, along)
    x, v = to_host(states).astype(np.float64), to_host(along).astype(np.float64)
    (product,) = differences(learned.score, x, v, rounding**0.2)
    return learned.score(states), namespace(device_of(states)).asarray(product, states.dtype)


def _require_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError('learned scores need PyTorch: pip install "physscore[learn]"') from None
