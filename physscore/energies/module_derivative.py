"""The derivative of a torch module's score along vectors: by torch, or by differences where that errs.

Torch differentiates what it saw: what a module computes under ``no_grad``, after ``detach`` or by NumPy is a
constant to it, and its derivative is silently wrong. So it is compared with differences when a module is met.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from physscore.core import Array, InputError
from physscore.noise import normal

_Floats = npt.NDArray[np.float64]

_OFF = 1e-4  # of the derivative: by more it differs from differences that agree
_NOISE = 5.0  # times as much as these differ from each other
_DIRECTIONS = 2  # in both of them, at all states
_MOVED = 0.01  # relative
_DRAWN = 12  # the number of the deviates


def by_torch(score_of: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return the score and J v, by two backward passes: u -> J^T u is linear, and its own derivative over u
    along v is J v.

    Raises
    ------
    RuntimeError
        If torch cannot differentiate it (twice).
    """
    with torch.inference_mode(False), torch.enable_grad():
        given = x.clone().requires_grad_()
        s = score_of(given)
        u = torch.zeros_like(s, requires_grad=True)
        (back,) = torch.autograd.grad(s, given, u, create_graph=True)
        (product,) = torch.autograd.grad(back, u, v.clone())
    return s.detach(), product


def errs(
    score: Callable[[Array], Array], known: Callable[[Array, Array], Array], x: Array, rounding: float
) -> bool:
    """Return whether derivatives that are known differ from differences of the score, or cannot be had.

    Parameters
    ----------
    score
        (n, *shape) -> the same.
    known
        Of states and directions: the J v that is checked.
    x
        A few states.
    rounding
        Relative, of the score.
    """
    for i in range(_DIRECTIONS):
        v = normal(1, x.size, seed=0, step=i, draw=_DRAWN).reshape(x.shape)
        x = x * (1 + _MOVED * i)  # away from a kink
        try:
            found = np.asarray(known(x, v), np.float64)
        except InputError:
            raise
        except RuntimeError:
            return True
        steps = differences(score, x, v, rounding**0.2, factors=(0.5, 1.0, 2.0))
        noise = np.max([_norms(step - steps[1]) for step in steps], axis=0)
        off = np.min([_norms(found - step) for step in steps], axis=0)
        size = np.maximum(_norms(found), _norms(steps[1]))
        if not (off > _OFF * size + _NOISE * noise).all():  # in some state it is right, or nothing is known
            return False
    return True


def differences(
    score: Callable[[Array], Array], x: Array, v: Array, step: float, factors: tuple[float, ...] = (1.0,)
) -> list[_Floats]:
    """Return J v by central differences of fourth order, over factors of a step.

    ``step`` is in lengths on which the score changes along v, as its size and its slope tell.
    """
    wide = (-1, *[1] * (x.ndim - 1))
    norm = _norms(v)
    unit = v / np.where(norm > 0, norm, 1.0).reshape(wide)
    size, far = (_norms(values) / np.sqrt(x[0].size) for values in (score(x), x))
    first = np.where(size > 0, 1 / np.where(size > 0, size, 1.0), np.where(far > 0, far, 1.0))

    def odd(h: _Floats) -> _Floats:
        moved = h.reshape(wide) * unit
        return np.asarray(score(x + moved), np.float64) - np.asarray(score(x - moved), np.float64)

    with np.errstate(all="ignore"):  # what is not finite stays so
        inverse = np.maximum(size**2, _norms(odd(step * first)) / (2 * step * first))
        h = step * np.where(np.isfinite(inverse) & (inverse > 0), 1 / np.sqrt(inverse), first)
        along = {factor: odd(factor * h) for factor in {*factors, *(2 * factor for factor in factors)}}
        return [
            (8 * along[factor] - along[2 * factor]) / (12 * factor * h / norm).reshape(wide)
            for factor in factors
        ]


def _norms(values: Array) -> _Floats:
    return np.asarray(np.sqrt(np.square(values.astype(np.float64)).reshape(len(values), -1).sum(axis=1)))
