"""Likelihoods of data given a field or a vector, normalised over the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from physscore import noise
from physscore.arrays import as_states, compiled, on_gpu, parallel, to_host, unmasked
from physscore.core import Array, Energy, InputError, Point
from physscore.elementary import exp, exp_single, log
from physscore.parts import in_any_order, inline
from physscore.points import compiled_block, from_block

_GAUSSIAN, _EXPONENTIAL, _LINEAR = 0, 1, 2
_DATA = 65  # the draws that are simulated data
_PIECE = 2048  # cells in a piece: the sum of a piece does not depend on threads
_MANY = 1 << 16  # cells whose data are kept in float32, where that is exact


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
    energies, alike = np.empty(_PIECE), np.full(_PIECE, weight[0])
    for task in range(start, stop):
        chain, piece = task // n_pieces, task % n_pieces
        low, high = piece * _PIECE, min((piece + 1) * _PIECE, size)
        n = high - low
        states, slopes = x[chain, low:high], score[chain, low:high]
        a, b = data[low:high], weight[low:high] if len(weight) > 1 else alike
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
    alike = np.full(_PIECE, weight[0])
    for task in range(start, stop):
        chain, piece = task // n_pieces, task % n_pieces
        low, high = piece * _PIECE, min((piece + 1) * _PIECE, size)
        n = high - low
        states, slopes = x[chain, low:high], score[chain, low:high]
        a, b = data[low:high], weight[low:high] if len(weight) > 1 else alike
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
        """Keep data, (d,), and weights, (d,) or one for all, (1,), where there are data; 0 elsewhere."""
        self.shape = self.mask.shape
        used = np.where(self.mask, data, 0.0).ravel()
        single = used.astype(np.float32, copy=False)
        exact = used.size > _MANY and np.array_equal(single, used)
        self._data = single if exact else used.astype(np.float64, copy=False)
        self._weight = weight if self.mask.all() else np.where(self.mask.ravel(), weight, 0.0)

    @property
    def _kind(self) -> int:
        return self.kind

    @property
    def cell_by_cell(self) -> bool:
        """Whether parts of the cells may be looked at alone; a user's subclass may differ."""
        return type(self) in (GaussianNoise, PoissonCounts)

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
        return self._data.astype(np.float32, copy=False), self._weight.astype(np.float32)

    @cached_property
    def _point(self) -> Point:
        numbers = [self._kind, self._scale, self._offset]
        weights = np.broadcast_to(self._weight, self.dim)
        return from_block(_cells_block, np.concatenate([numbers, self._data, weights]))

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both, in one pass over the cells."""
        states = as_states(x, self.shape)
        if on_gpu(x):
            from physscore.cuda import cells

            return cells.energy_and_score(self, states, self._kind, self._scale, self._offset)
        energy, score = self.of_cells(np.ascontiguousarray(states).reshape(len(states), self.dim), 0)
        return energy, score.reshape(states.shape)

    def of_cells(self, x: Array, first: int) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both of some cells; see ``coordinates.of_cells``."""
        sums, score = np.empty((len(x), -(-x.shape[1] // _PIECE))), np.empty_like(x)
        data, weight, loop = self._data, self._weight, _cells
        if x.dtype == np.float32 and self._kind == _EXPONENTIAL and self._few:
            loop, (data, weight) = _exponential_single, self._single
        here = slice(first, first + x.shape[1])
        weight = weight[here] if weight.size == self.dim else weight
        parallel(loop, sums.size, self._kind, x, data[here], weight, self._scale, sums, score,
                 at_least=max(1, 8192 // min(x.shape[1], _PIECE)))  # fmt: skip
        return sums.sum(axis=1) + (0.0 if first else self._offset), score


def _numbers(name: str, value: Any) -> Array:
    given = unmasked(value, name)
    if given.dtype.kind not in "fiub":
        raise InputError(f"{name} is {value!r}: it must hold real numbers")
    return given if given.dtype == np.float32 else given.astype(np.float64)


def _cells_of(name: str, value: Any, mask: npt.NDArray[np.bool_]) -> Array:
    """Return a number for each cell: positive where there are data. One that is given for all is not copied;
    else those where there are none are 1."""
    given = _numbers(name, value).astype(np.float64)
    try:
        every = np.broadcast_to(given, mask.shape)
        cells = every if given.size == 1 else np.where(mask, every, 1.0)
    except ValueError:
        raise InputError(
            f"{name} has shape {given.shape}: it must be a number, or an array of shape {mask.shape}"
        ) from None
    few = _distinct(cells)
    bad = ~(np.isfinite(few) & (few > 0))
    if bad.any():
        raise InputError(f"{name} holds {few[bad][0]:g}: it must be positive wherever there are data")
    return cells


def _distinct(cells: Array) -> Array:
    """Return the numbers of cells, (d,), or the one that stands for all, (1,)."""
    return cells.ravel() if any(cells.strides) else cells[(0,) * cells.ndim].reshape(1)


def _pieces(size: int) -> Iterator[slice]:
    """Yield slices of so many cells that what is computed of them is small."""
    for low in range(0, size, _MANY):
        yield slice(low, low + _MANY)


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
        std, n = _distinct(self.noise_std), int(self.mask.sum())
        self._set(given, std**-2.0)
        self.data = self._data.reshape(self.shape)
        if not np.isfinite(self.data).all():
            raise InputError("data hold values that are not finite: leave these cells out by mask=")
        log_std = float(np.log(std).sum()) if std.size > 1 else n * math.log(std[0])
        self._offset = log_std + 0.5 * n * math.log(2 * math.pi)

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
        used = given.ravel() if self.mask.all() else given[self.mask]
        bad = ~np.isfinite(used) | (used < 0) | (used != np.round(used))
        if bad.any():
            raise InputError(f"counts hold {used[bad][0]}: they must be whole numbers, 0 or more")
        self.mean_count = _cells_of("mean_count", mean_count, self.mask)
        if link not in ("exp", "linear"):
            raise InputError(f'link is {link!r}: it must be "exp" or "linear"')
        if not isinstance(bias, int | float | np.number) or not math.isfinite(bias) or bias == 0:
            raise InputError(f"bias is {bias!r}: it must be a finite number other than 0")
        self.bias, self.link, self.has_walls = float(bias), link, link == "linear"
        self._scale, mean = self.bias, _distinct(self.mean_count)
        self._set(given, mean)
        self.counts = self._data.reshape(self.shape)
        self._offset = sum(float(gammaln(used[part] + 1.0).sum()) for part in _pieces(used.size))
        if link == "exp":
            self._offset -= float((used * np.log(mean if mean.size == 1 else mean[self.mask.ravel()])).sum())

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
        states = np.zeros((1, self.dim)) if x is None else to_host(as_states(x, self.shape))
        states, total = states.reshape(len(states), self.dim), 0.0
        for part in _pieces(self.dim):
            growth = self.bias * states[:, part].astype(np.float64)
            if self.link == "exp":
                weight = self._weight[part] if self._weight.size > 1 else self._weight
                total += float((weight * np.exp(growth)).sum())
            else:
                total += float((self._data[part] / np.maximum(1 + growth, 0.1) ** 2).sum())
        return self.bias**2 * total / states.size

    def __repr__(self) -> str:
        return f"PoissonCounts({int(self.mask.sum())} of {self.mask.size} cells, {self.link})"
