"""A torch module called with arrays: its type and its device, pieces of many states, chance in it."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, cast

import numpy as np
import torch

from physscore.arrays import cupy, on_gpu
from physscore.core import Array, InputError
from physscore.energies.known_models import Known
from physscore.energies.torch_modules import call, has_energy, is_energy, score_of
from physscore.noise import normal

AT_ONCE = 1 << 20  # components of the states that a module is given together
WITH_GRAPH = 1 << 16  # the same, where it keeps what its derivatives need
_AGAIN = 1e-3  # of what a module returns: the order of its sums may be another the next time
_TRIED = 256  # components that are looked at for chance, about
_DRAWN = 13  # the number of the deviates that it is tried with
_one_function = Known()  # modules that gave the same twice, and in which mode


def _parts_that_train(module: Any) -> list[Any]:
    """Return the layers of a module that give something else in training mode, of those that torch has."""
    layers = torch.nn.modules
    other = layers.dropout._DropoutNd, layers.batchnorm._NormBase
    parts = module.modules() if isinstance(module, layers.Module) else ()
    return [part for part in parts if isinstance(part, other)]


class ModuleCalls:
    """Calls a module with arrays, a part of the states at a time."""

    def __init__(self, module: Any, shape: tuple[int, ...], sigma: float | None, parameters: Any) -> None:
        self.module, self.shape, self.sigma = module, shape, sigma
        self.returns_energies = False  # for certain
        self._training_parts = _parts_that_train(module)
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
        own = getattr(self.module, "kind", "energy" if has_energy(self.module) else None)
        if own in ("score", "energy"):
            return str(own)
        x = self.tensor(np.zeros((self.fewest(2), *self.shape)))
        with torch.no_grad():
            found = self.call(x)
        if math.prod(self.shape) == 1 and found.shape == (len(x), 1):
            raise InputError(
                f"module returned {tuple(found.shape)} for states of one number, which may be scores or "
                'energies: say kind="score" or kind="energy"'
            )
        return "energy" if is_energy(found, x) else "score"

    def require_one_function(self) -> None:
        """Refuse a module in which chance plays a part: layers that train, and what two calls tell.

        Raises
        ------
        InputError
            If there is such a part.
        """
        training = sorted({type(part).__name__ for part in self._training_parts if part.training})
        if training:
            raise InputError(
                f"module has {', '.join(training)} in training mode, where it is not one function: call "
                ".eval()"
            )
        mode = bool(getattr(self.module, "training", False))
        if _one_function.get(self.module) != mode:
            if self._differs():
                raise InputError(
                    "module returns something else for the same states each time, as with dropout, and is "
                    "not one function: call .eval(), and leave out what is drawn at random"
                )
            _one_function.set(self.module, mode)

    def _differs(self) -> bool:
        """Return whether two calls differ, by more than the order of sums on a card makes."""
        dim = math.prod(self.shape)
        x = normal(self.fewest(max(2, _TRIED // dim)), dim, seed=0, draw=_DRAWN).reshape(-1, *self.shape)
        try:
            with torch.no_grad():
                one, two = (self.call(self.tensor(x)).double() for _ in range(2))
        except Exception:  # its own calls will say
            return False
        return bool((one - two).abs().max() > _AGAIN * one.abs().max())

    def fewest(self, n: int) -> int:
        """Return how many states it is tried with: n, or as many as there are rows of parameters."""
        return n if self.parameters is None or len(self.parameters) == 1 else len(self.parameters)

    def rounding(self, states: Array) -> float:
        """Return the relative rounding of what the module returns for states."""
        return float(np.finfo(states.dtype).eps if self.dtype is None else torch.finfo(self.dtype).eps)

    def tensor(self, x: Array) -> Any:
        """Return a copy of states as a tensor where the module is, which may change it in place."""
        if on_gpu(x):
            tensor = torch.utils.dlpack.from_dlpack(cupy().ascontiguousarray(x))
            if tensor.device.type != torch.device(self.device).type:
                raise InputError(
                    f"x is on {tensor.device} and the module on {self.device}: move it by module.to('cuda')"
                )
        else:
            tensor = torch.as_tensor(np.ascontiguousarray(x))
        return tensor.to(self.device, self.dtype or tensor.dtype, copy=True)

    def array(self, tensor: Any, like: Array) -> Array:
        """Return a tensor as an array where ``like`` is; on a card it is not copied."""
        if on_gpu(like):
            return cast(Array, cupy().from_dlpack(tensor.detach()))
        on_cpu = tensor.detach().cpu()
        return cast(Array, (on_cpu.float() if on_cpu.dtype == torch.bfloat16 else on_cpu).numpy())

    def call(self, x: Any, method: str | None = None) -> Any:
        function = self.module if method is None else getattr(self.module, method)
        return call(function, x, self.sigma, self._rows(x))

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
        return score_of(self.module, x, self.sigma, self._rows(x), graph=graph, energy=self.returns_energies)

    def _rows(self, x: Any) -> Any:
        if self.parameters is None:
            return None
        rows = self.tensor(self.parameters)
        return rows.expand(len(x), -1) if len(rows) == 1 else rows

    def groups(self, n: int, at_once: int = AT_ONCE) -> list[slice]:
        if self.parameters is not None and len(self.parameters) > 1:
            if n != len(self.parameters):
                raise InputError(
                    f"x has {n} states and parameters {len(self.parameters)} rows: one each, or one"
                )
            return [slice(0, n)]
        size = max(1, at_once // math.prod(self.shape))
        return [slice(i, min(i + size, n)) for i in range(0, n, size)]
