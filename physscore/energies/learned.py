"""A torch module as a score or an energy, among all others: NumPy in, NumPy out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states, cupy, device_of, namespace, on_gpu
from physscore.core import Array, Energy, InputError, Score
from physscore.energies.functions import state_shape, warn_of_single_precision

_AT_ONCE = 1 << 20  # components of the states that a module is given together
_WITH_GRAPH = 1 << 16  # the same, where it keeps what its derivatives need


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
        If torch is missing, or the module does not return what it must, or has dropout or batch
        normalisation in training mode.
    """
    _torch()
    sides = state_shape(shape)
    if not callable(module):
        raise InputError(f"module is {module!r}: it must be a torch.nn.Module, or a function of tensors")
    if kind not in (None, "score", "energy"):
        raise InputError(f"kind is {kind!r}: it must be 'score' or 'energy'")
    if sigma is not None and not 0 < sigma < math.inf:
        raise InputError(f"sigma is {sigma}: a noise level must be positive")
    if training := _that_train(module):
        raise InputError(
            f"module has {training} in training mode, where it is not one function: call .eval()"
        )
    _check_arguments(module, sigma, parameters)
    about = _Module(module, sides, sigma, parameters)
    if kind is None:
        kind = about.kind()
    label = name or type(module).__name__
    return LearnedEnergy(about, label) if kind == "energy" else LearnedScore(about, label)


def _check_arguments(module: Any, sigma: float | None, parameters: Any) -> None:
    """Refuse a noise level or parameters that the module would never see, or their absence."""
    from physscore.energies.torch_modules import needs_sigma, takes_parameters, takes_sigma

    if sigma is not None and not takes_sigma(module):
        raise InputError(
            f"sigma is {sigma}, but the module has no argument for a noise level after the states"
        )
    if sigma is None and needs_sigma(module):
        raise InputError("sigma is None, but the module needs a noise level: give it as sigma=")
    if parameters is not None and not takes_parameters(module):
        raise InputError('parameters are given, but the module has no argument "parameters"')


def _that_train(module: Any) -> str:
    """Return the layers of a module that give something else in training mode, if it is in that."""
    layers = _torch().nn.modules
    other = layers.dropout._DropoutNd, layers.batchnorm._NormBase
    parts = module.modules() if isinstance(module, layers.Module) else ()
    return ", ".join(
        sorted({type(part).__name__ for part in parts if part.training and isinstance(part, other)})
    )


class _Module:
    """Calls a module with arrays, a part of the states at a time."""

    def __init__(self, module: Any, shape: tuple[int, ...], sigma: float | None, parameters: Any) -> None:
        self.module, self.shape, self.sigma = module, shape, sigma
        self.returns_energies = False  # for certain
        self.parameters = None if parameters is None else np.atleast_2d(np.asarray(parameters, np.float64))
        self.device: Any = "cpu"
        self.dtype: Any = None  # that of the states
        kept = chain(*(getattr(module, name, list)() for name in ("parameters", "buffers")))
        weight = next((tensor for tensor in kept if tensor.is_floating_point()), None)
        if weight is None:
            self.dtype = self._precision()
        else:
            self.dtype, self.device = weight.dtype, weight.device

    def _precision(self) -> Any:
        """Return the type that a module without weights works in, None if it is that of the states: it may
        hold tensors of its own."""
        torch = _torch()
        found = []
        for dtype in (torch.float32, torch.float64):
            try:
                with torch.no_grad():
                    found.append((dtype, self.call(torch.zeros((2, *self.shape), dtype=dtype)).dtype))
            except Exception:  # such as types that do not go together; its own calls will say
                continue
        if len(found) == 1:
            return found[0][0]
        return None if found and all(given == got for given, got in found) else torch.get_default_dtype()

    def kind(self) -> str:
        """Return what the module is: by what it says of itself, or returns for two states."""
        from physscore.energies.torch_modules import is_energy

        own = getattr(self.module, "kind", "energy" if hasattr(self.module, "energy") else None)
        if own in ("score", "energy"):
            return str(own)
        x = self.tensor(np.zeros((2, *self.shape)))
        with _torch().no_grad():
            found = self.call(x)
        if math.prod(self.shape) == 1 and found.shape == (2, 1):
            raise InputError(
                "module returned (2, 1) for states of one number, which may be scores or energies: say "
                'kind="score" or kind="energy"'
            )
        return "energy" if is_energy(found, x) else "score"

    def tensor(self, x: Array) -> Any:
        """Return a copy of states as a tensor where the module is, which may change it in place."""
        if on_gpu(x):
            tensor = _torch().from_dlpack(cupy().ascontiguousarray(x))
            if tensor.device.type != _torch().device(self.device).type:
                raise InputError(
                    f"x is on {tensor.device} and the module on {self.device}: move it by module.to('cuda')"
                )
        else:
            tensor = _torch().as_tensor(np.ascontiguousarray(x))
        return tensor.to(self.device, self.dtype or tensor.dtype, copy=True)

    def array(self, tensor: Any, like: Array) -> Array:
        """Return a tensor as an array where ``like`` is; on a card it is not copied."""
        if on_gpu(like):
            return cast(Array, cupy().from_dlpack(tensor.detach()))
        on_cpu = tensor.detach().cpu()
        return cast(Array, (on_cpu.float() if on_cpu.dtype == _torch().bfloat16 else on_cpu).numpy())

    def call(self, x: Any, method: str | None = None) -> Any:
        function = self.module if method is None else getattr(self.module, method)
        return self._call(function, x)

    def energies(self, x: Any, explicit: bool) -> Any:
        found = self.call(x, "energy" if explicit else None)
        if found.shape not in ((len(x),), (len(x), 1)):
            what = "scores" if found.shape == x.shape else tuple(found.shape)
            raise InputError(
                f"module returned {what} for states {tuple(x.shape)}: kind is 'energy', so it "
                f"must return energies ({len(x)},)"
            )
        return found

    def score(self, x: Any, *, graph: bool = False) -> Any:
        from physscore.energies.torch_modules import score_of

        return score_of(self.module, x, self.sigma, self._rows(x), graph=graph, energy=self.returns_energies)

    def _call(self, function: Any, x: Any) -> Any:
        from physscore.energies.torch_modules import call

        return call(function, x, self.sigma, self._rows(x))

    def _rows(self, x: Any) -> Any:
        if self.parameters is None:
            return None
        rows = self.tensor(self.parameters)
        return rows.expand(len(x), -1) if len(rows) == 1 else rows

    def groups(self, n: int, at_once: int = _AT_ONCE) -> list[slice]:
        if self.parameters is not None and len(self.parameters) > 1:
            if n != len(self.parameters):
                raise InputError(
                    f"x has {n} states and parameters {len(self.parameters)} rows: one each, or one"
                )
            return [slice(0, n)]
        size = max(1, at_once // math.prod(self.shape))
        return [slice(i, min(i + size, n)) for i in range(0, n, size)]


class LearnedScore(Score):
    """The score of a torch module; see :func:`from_torch`."""

    def __init__(self, about: _Module, name: str) -> None:
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
        return _directional(self._about, states, along)

    def __repr__(self) -> str:
        return self._name


class LearnedEnergy(Energy):
    """The energy of a torch module, whose gradient is the score; see :func:`from_torch`."""

    def __init__(self, about: _Module, name: str) -> None:
        self._about, self._name = about, name
        self.shape = about.shape
        self._explicit = hasattr(about.module, "energy")  # its call gives the score
        about.returns_energies = not self._explicit

    @property
    def module(self) -> Any:
        """The torch module."""
        return self._about.module

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return what the module says: (n,), float64."""
        states = as_states(x, self.shape)
        found = namespace(device_of(x)).empty(len(states))
        with _torch().no_grad():
            for group in self._about.groups(len(states)):
                given = self._about.tensor(states[group])
                energies = self._about.energies(given, self._explicit)
                found[group] = self._told(energies.reshape(-1), states)
        return cast(npt.NDArray[np.float64], found)

    def _told(self, energies: Any, states: Array) -> Array:
        found = self._about.array(energies, states)
        warn_of_single_precision(found)
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
        states = as_states(x, self.shape)
        if self._explicit:
            return self.energy(states), _score(self._about, states)
        from physscore.energies.torch_modules import gradient

        torch = _torch()
        energies, scores = namespace(device_of(x)).empty(len(states)), np.empty_like(states)
        for group in self._about.groups(len(states), _WITH_GRAPH):
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
        return _directional(self._about, states, along)

    def __repr__(self) -> str:
        return self._name


def _score(about: _Module, states: Array) -> Array:
    found = np.empty_like(states)
    with _torch().no_grad():
        for group in about.groups(len(states)):
            found[group] = about.array(about.score(about.tensor(states[group])), states)
    return found


def _directional(about: _Module, states: Array, along: Array) -> tuple[Array, Array]:
    """Two backward passes: u -> J^T u is linear, and its own derivative over u along v is J v."""
    torch = _torch()
    scores, products = np.empty_like(states), np.empty_like(states)
    for group in about.groups(len(states), _WITH_GRAPH):
        with torch.inference_mode(False), torch.enable_grad():
            x = about.tensor(states[group]).requires_grad_()
            s = about.score(x, graph=True)
            u = torch.zeros_like(s, requires_grad=True)
            (back,) = torch.autograd.grad(s, x, u, create_graph=True)
            (product,) = torch.autograd.grad(back, u, about.tensor(along[group]))
        scores[group], products[group] = about.array(s, states), about.array(product, states)
    return scores, products


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise InputError('learned scores need PyTorch: pip install "physscore[learn]"') from None
    return torch
