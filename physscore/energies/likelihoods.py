"""Likelihoods of data given a field or a vector, normalised over the data, and guidance by a classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from physscore import noise
from physscore.arrays import as_states, compiled, on_gpu, parallel, to_host, unmasked
from physscore.core import Array, Energy, InputError, Point, Score, own_copy
from physscore.elementary import exp, exp_single, log
from physscore.energies.functions import state_shape
from physscore.parts import in_any_order, inline
from physscore.points import compiled_block, from_block

_GAUSSIAN, _EXPONENTIAL, _LINEAR = 0, 1, 2
_DATA = 65  # the draws that are simulated data
_PIECE = 2048  # cells in a piece: the sum of a piece does not depend on threads


@inline
def _cell(kind, x, a, b, scale):
    """Return energy and gradient of one cell, up to a constant: (x - a)^2 b / 2, or for a counts with
    the mean b exp(scale x) or b (1 + scale x). Where b is 0 there is no data."""
    if kind == _GAUSSIAN:
        slope = b * (x - a)
        return 0.5 * slope * (x - a), slope
    if kind == _EXPONENTIAL:
        mean = b * exp(scale * x)
        return mean - a * (scale * x), scale * (mean - a)
    mean = b * (1.0 + scale * x)
    safe = mean if mean > 0.0 else 1.0
    energy, slope = mean - a * log(safe), scale * b * (1.0 - a / safe)
    outside = (mean <= 0.0) & (b > 0.0)
    return np.inf if outside else energy, 0.0 if outside else slope


@in_any_order
def _sum(values):
    total = 0.0
    for i in range(len(values)):
        total += np.float64(values[i])
    return total


@compiled
def _cells(kind, x, data, weight, scale, energy, score, start, stop):
    n_pieces, size = energy.shape[1], x.shape[1]
    energies = np.empty(_PIECE)
    for task in range(start, stop):
        chain, piece = task // n_pieces, task % n_pieces
        low, high = piece * _PIECE, min((piece + 1) * _PIECE, size)
        n = high - low
        states, slopes = x[chain, low:high], score[chain, low:high]
        a, b = data[low:high], weight[low:high]
        if kind == _GAUSSIAN:  # written out: each is a loop of vector instructions
            for i in range(n):
                energies[i], slope = _cell(_GAUSSIAN, np.float64(states[i]), a[i], b[i], scale)
                slopes[i] = -slope
        elif kind == _EXPONENTIAL:
            for i in range(n):
                energies[i], slope = _cell(_EXPONENTIAL, np.float64(states[i]), a[i], b[i], scale)
                slopes[i] = -slope
        else:
            for i in range(n):
                energies[i], slope = _cell(_LINEAR, np.float64(states[i]), a[i], b[i], scale)
                slopes[i] = -slope
        energy[chain, piece] = _sum(energies[:n])


@compiled
def _exponential_single(kind, x, data, weight, scale, energy, score, start, stop):
    """What _cells does, for counts and float32 states, in their precision; sums are float64."""
    n_pieces, size = energy.shape[1], x.shape[1]
    energies, factor = np.empty(_PIECE, np.float32), np.float32(scale)
    for task in range(start, stop):
        chain, piece = task // n_pieces, task % n_pieces
        low, high = piece * _PIECE, min((piece + 1) * _PIECE, size)
        n = high - low
        states, slopes = x[chain, low:high], score[chain, low:high]
        a, b = data[low:high], weight[low:high]
        for i in range(n):
            mean = b[i] * exp_single(factor * states[i])
            energies[i] = mean - a[i] * (factor * states[i])
            slopes[i] = factor * (a[i] - mean)
        energy[chain, piece] = _sum(energies[:n])


@compiled_block
def _cells_block(x, params, gradient_out, energy_out):
    """params: kind, scale, offset, data[d], weight[d]."""
    d, n = x.shape
    kind, scale = int(params[0]), params[1]
    energy_out[:] = params[2]
    for i in range(d):
        a, b = params[3 + i], params[3 + d + i]
        for j in range(n):
            energy, gradient_out[i, j] = _cell(kind, x[i, j], a, b, scale)
            energy_out[j] += energy


class _CellByCell(Energy):
    """A likelihood that is a product over the cells."""

    kind: ClassVar[int] = _GAUSSIAN
    one_by_one = by_arrays = True
    mask: npt.NDArray[np.bool_]
    _scale = 1.0
    _offset: float  # the energy without what depends on x

    def _set(self, data: Array, weight: Array) -> None:
        self.shape = data.shape
        self._data, self._weight = data.ravel(), weight.ravel()

    @property
    def _kind(self) -> int:
        return self.kind

    def _one_state(self, x: Any) -> Array:
        """Return one state, 0 where there are no data."""
        given = _numbers("x", x)
        if given.shape != self.shape:
            raise InputError(f"x has shape {given.shape}: it must be one state, of shape {self.shape}")
        state = np.where(self.mask, given, 0.0)
        if not np.isfinite(state).all():
            raise InputError(
                f"x holds {state[~np.isfinite(state)][0]}: it must be finite where there are data"
            )
        return state

    @cached_property
    def _few(self) -> bool:
        """Whether rounding to float32 of the energy of each cell does not matter to their sum."""
        return bool(max(self._data.max(), self._weight.max()) <= 100)

    @cached_property
    def _single(self) -> tuple[Array, Array]:
        return self._data.astype(np.float32), self._weight.astype(np.float32)

    @cached_property
    def _point(self) -> Point:
        numbers = [self._kind, self._scale, self._offset]
        return from_block(_cells_block, np.concatenate([numbers, self._data, self._weight]))

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both, in one pass over the cells."""
        states = as_states(x, self.shape)
        if on_gpu(x):
            from physscore.cuda import cells

            return cells.energy_and_score(self, states, self._kind, self._scale, self._offset)
        sums, score = self._of_cells(np.ascontiguousarray(states).reshape(len(states), self.dim), 0)
        return self._offset + sums, score.reshape(states.shape)

    def _of_cells(self, x: Array, first: int) -> tuple[Array, Array]:
        """Return energies, without the offset, and scores of cells of states, from the ``first`` on."""
        sums, score = np.empty((len(x), -(-x.shape[1] // _PIECE))), np.empty_like(x)
        data, weight, loop = self._data, self._weight, _cells
        if x.dtype == np.float32 and self._kind == _EXPONENTIAL and self._few:
            loop, (data, weight) = _exponential_single, self._single
        here = slice(first, first + x.shape[1])
        parallel(loop, sums.size, self._kind, x, data[here], weight[here], self._scale, sums, score,
                 at_least=max(1, 8192 // min(x.shape[1], _PIECE)))  # fmt: skip
        return sums.sum(axis=1), score


def _numbers(name: str, value: Any) -> Array:
    given = unmasked(value, name)
    if given.dtype.kind not in "fiub":
        raise InputError(f"{name} is {value!r}: it must hold real numbers")
    return given.astype(np.float64)


def _cells_of(name: str, value: Any, mask: npt.NDArray[np.bool_]) -> Array:
    """Return a number, or one for each cell, as an array: positive where there are data, 1 elsewhere."""
    given = _numbers(name, value)
    try:
        cells = np.where(mask, np.broadcast_to(given, mask.shape), 1.0)
    except ValueError:
        raise InputError(
            f"{name} has shape {given.shape}: it must be a number, or an array of shape {mask.shape}"
        ) from None
    bad = ~(np.isfinite(cells) & (cells > 0))
    if bad.any():
        raise InputError(f"{name} holds {cells[bad][0]:g}: it must be positive wherever there are data")
    return cells


def _mask_of(mask: Any, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    if math.prod(shape) == 0:
        raise InputError(f"the data have shape {shape}: there must be at least one cell")
    if mask is None:
        return np.ones(shape, bool)
    given = unmasked(mask, "mask")
    if given.shape != shape or given.dtype != bool:
        raise InputError(
            f"mask has shape {given.shape} and type {given.dtype}: it must be boolean of shape {shape}, "
            "True where there are data"
        )
    if not given.any():
        raise InputError("mask is False everywhere: there are no data")
    return given


class GaussianNoise(_CellByCell):
    """Data that are the state plus independent normal noise.

    Parameters
    ----------
    data
        Of the shape of one state.
    noise_std
        Standard deviation: a number, or one for each cell.
    mask
        True where there are data; elsewhere they may be anything, NaN too.

    Raises
    ------
    InputError
        If shapes do not agree, data are not finite, or noise_std is not positive.
    """

    def __init__(self, data: Any, noise_std: Any, *, mask: Any = None) -> None:
        given = _numbers("data", data)
        self.mask = _mask_of(mask, given.shape)
        self.noise_std = _cells_of("noise_std", noise_std, self.mask)
        used = self.noise_std[self.mask]
        self.data = np.where(self.mask, given, 0.0)
        if not np.isfinite(self.data).all():
            raise InputError("data hold values that are not finite: leave these cells out by mask=")
        self._set(self.data, np.where(self.mask, self.noise_std**-2.0, 0.0))
        self._offset = float(np.log(used).sum()) + 0.5 * used.size * math.log(2 * math.pi)

    def simulate(self, x: Any, *, seed: int) -> GaussianNoise:
        """Return the same likelihood with data drawn at one state ``x``, of shape ``shape``."""
        deviates = noise.normal(1, self.dim, seed=seed, draw=_DATA).reshape(self.shape)
        return GaussianNoise(self._one_state(x) + self.noise_std * deviates, self.noise_std, mask=self.mask)

    def curvature(self, x: Array | None = None) -> float:
        """Return the mean over the cells of the second derivative of the energy: mask / noise_std^2."""
        return float(self._weight.mean())

    def __repr__(self) -> str:
        return f"GaussianNoise({int(self.mask.sum())} of {self.mask.size} cells)"


class PoissonCounts(_CellByCell):
    """Counts whose mean is mean_count exp(bias x), or mean_count (1 + bias x).

    Parameters
    ----------
    counts
        Whole numbers, of the shape of one state.
    mean_count
        Expected counts at x = 0: a number, or one for each cell.
    bias
        How strongly the mean follows x.
    link
        "exp" or "linear". The linear mean must stay positive: elsewhere the energy is infinite, so
        start the chains where it is.
    mask
        True where there are data.

    Raises
    ------
    InputError
        If shapes do not agree, counts are not whole or negative, or mean_count is not positive.
    """

    def __init__(
        self, counts: Any, mean_count: Any, *, bias: float = 1.0, link: str = "exp", mask: Any = None
    ) -> None:
        given = _numbers("counts", counts)
        self.mask = _mask_of(mask, given.shape)
        used = given[self.mask]
        bad = ~np.isfinite(used) | (used < 0) | (used != np.round(used))
        if bad.any():
            raise InputError(f"counts hold {used[bad][0]}: they must be whole numbers, 0 or more")
        self.mean_count = _cells_of("mean_count", mean_count, self.mask)
        if link not in ("exp", "linear"):
            raise InputError(f'link is {link!r}: it must be "exp" or "linear"')
        if not isinstance(bias, int | float | np.number) or not math.isfinite(bias) or bias == 0:
            raise InputError(f"bias is {bias!r}: it must be a finite number other than 0")
        self.bias, self.link, self.has_walls = float(bias), link, link == "linear"
        self.counts = np.where(self.mask, given, 0.0)
        self._scale = self.bias
        self._set(self.counts, np.where(self.mask, self.mean_count, 0.0))
        self._offset = float(gammaln(used + 1).sum())
        if link == "exp":
            self._offset -= float(used @ np.log(self.mean_count[self.mask]))

    @property
    def _kind(self) -> int:
        return _EXPONENTIAL if self.link == "exp" else _LINEAR

    def simulate(self, x: Any, *, seed: int) -> PoissonCounts:
        """Return the same likelihood with counts drawn at one state ``x``, of shape ``shape``.

        Raises
        ------
        InputError
            If the mean at ``x`` is not positive, or above 1e15, the largest that is drawn.
        """
        noise.seed_key(seed)  # refuses what is no seed
        growth = self.bias * self._one_state(x)
        with np.errstate(over="ignore"):
            mean = self.mean_count * (np.exp(growth) if self.link == "exp" else 1 + growth)
        bad = self.mask & ~((mean >= 0 if self.link == "exp" else mean > 0) & (mean <= 1e15))
        if bad.any():
            raise InputError(f"x gives the mean {mean[bad][0]:g}: it must be positive, and at most 1e15")
        counts = np.random.Generator(np.random.Philox(key=int(seed))).poisson(np.where(self.mask, mean, 0.0))
        return PoissonCounts(counts, self.mean_count, bias=self.bias, link=self.link, mask=self.mask)

    def curvature(self, x: Array | None = None) -> float:
        """Return the mean over the cells of the second derivative of the energy, at ``x`` or at 0.

        Where the linear mean is below a tenth of mean_count, that tenth stands for it.
        """
        given = np.zeros((1, *self.shape)) if x is None else to_host(as_states(x, self.shape))
        states = given.astype(np.float64, copy=False).reshape(len(given), self.dim)
        if self.link == "exp":
            return float((self.bias**2 * self._weight * np.exp(self.bias * states)).mean())
        mean = np.maximum(1 + self.bias * states, 0.1)
        return float((self.bias**2 * self._data / mean**2).mean())

    def __repr__(self) -> str:
        return f"PoissonCounts({int(self.mask.sum())} of {self.mask.size} cells, {self.link})"


class Guidance(Energy):
    """A class y in the place of data: with a prior p(x) it samples p(x) p(y|x)^strength.

    Parameters
    ----------
    log_p_class
        A function of states (n, *shape) that returns log p(y|x), of shape (n,), and its gradient; or an
        Energy whose energy is -log p(y|x).
    strength
        The power of p(y|x); 1 is Bayes' theorem.
    shape
        Shape of one state, for a function.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """

    def __init__(
        self,
        log_p_class: Energy | Callable[[Array], tuple[Array, Array]],
        strength: float = 1.0,
        *,
        shape: int | Sequence[int] | None = None,
    ) -> None:
        if not isinstance(strength, int | float | np.number) or not math.isfinite(strength):
            raise InputError(f"strength is {strength!r}: it must be a finite number")
        self.strength = float(strength)
        self.log_p_class = log_p_class
        sides = None if shape is None else state_shape(shape)
        if isinstance(log_p_class, Energy):
            if sides not in (None, log_p_class.shape):
                raise InputError(
                    f"shape is {shape!r}: that of log_p_class is {log_p_class.shape}; leave it out"
                )
            self.shape = log_p_class.shape
            self.has_walls = log_p_class.has_walls
        elif isinstance(log_p_class, Score) or not callable(log_p_class):
            raise InputError(
                f"log_p_class is {log_p_class!r}: it must be an Energy, or a function that returns log p "
                "and its gradient"
            )
        elif sides is None:
            raise InputError("shape is missing: log_p_class is a function, so say the shape of one state")
        else:
            self.shape = sides

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        if isinstance(self.log_p_class, Energy):
            energy, score = self.log_p_class.energy_and_score(x)
            return self.strength * energy, self.strength * score
        states = as_states(x, self.shape)
        log_p, gradient = (np.asarray(part) for part in self.log_p_class(own_copy(states)))
        if log_p.shape != (len(states),) or gradient.shape != states.shape:
            raise InputError(
                f"log_p_class(x) returned {log_p.shape} and {gradient.shape}, expected ({len(states)},) and "
                f"{states.shape}: log p(y|x) and its gradient, for each state"
            )
        score = (self.strength * gradient).astype(states.dtype, copy=False)
        return -self.strength * log_p.astype(np.float64), score

    def __repr__(self) -> str:
        return f"Guidance(strength={self.strength:g})"
