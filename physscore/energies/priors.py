"""Priors of parameters: one-dimensional ones, and named sets of them, with whitening."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from physscore import noise
from physscore.arrays import as_states, cupy, on_gpu, to_host
from physscore.core import Array, InputError, Point, Prior
from physscore.elementary import log, log1p
from physscore.energies import kinds
from physscore.parts import inline
from physscore.points import compiled_block, energy_and_score, from_block

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)


@inline
def _of_positive(kind, a, b, x):
    """Return -log p and its derivative at x > 0, but for a constant."""
    if kind == kinds.LOG_NORMAL:
        logs = log(x)
        off = (logs - a) / b
        return logs + 0.5 * off * off, (1.0 + off / b) / x
    if kind == kinds.HALF_CAUCHY:
        t = x / b
        if t > 1.0:
            return 2.0 * log(t) + log1p(1.0 / (t * t)), 2.0 / (t + 1.0 / t) / b
        return log1p(t * t), 2.0 * t / (1.0 + t * t) / b
    if kind == kinds.GAMMA:
        return b * x - (a - 1.0) * log(x), b - (a - 1.0) / x
    if kind == kinds.INVERSE_GAMMA:
        return b / x + (a + 1.0) * log(x), (a + 1.0 - b / x) / x
    left = max(1.0 - x, kinds.BELOW_1)
    return -(a - 1.0) * log(x) - (b - 1.0) * log(left), (b - 1.0) / left - (a - 1.0) / x


@compiled_block
def _parameters_block(x, params, gradient_out, energy_out):
    """params: for each component its kind, two numbers, lower and upper bound, and an offset."""
    d, n = x.shape
    energy_out[:] = 0.0
    for i in range(d):
        kind, a, b = int(params[6 * i]), params[6 * i + 1], params[6 * i + 2]
        low, high, offset = params[6 * i + 3], params[6 * i + 4], params[6 * i + 5]
        for j in range(n):
            u = x[i, j]
            energy, slope = 0.0, 0.0
            if kind > kinds.TRUNCATED_NORMAL:
                energy, slope = _of_positive(kind, a, b, max(u, kinds.LEAST))
            elif kind == kinds.LOG_UNIFORM:
                energy = log(max(u, kinds.LEAST))
                slope = 1.0 / u
            elif kind != kinds.UNIFORM:
                slope = (u - a) / (b * b)
                energy = 0.5 * slope * (u - a)
            inside = (u >= low) & (u <= high)
            energy_out[j] += offset + energy if inside else np.inf
            gradient_out[i, j] = slope if inside else 0.0


class Parameters(Prior):
    """Independent, named parameters: ``Parameters(omega_m=Uniform(0.1, 0.5), h=Normal(0.7, 0.05))``.

    States are vectors, in the order of the names. Outside the bounds the energy is infinite and the
    score zero.

    Parameters
    ----------
    **priors
        A one-dimensional prior for each name.

    Attributes
    ----------
    names : list of str
    lower, upper : array (k,)
        Bounds, infinite where there is none.

    Raises
    ------
    InputError
        If there is none, or one is not a one-dimensional prior of this module.
    """

    def __init__(self, **priors: Univariate) -> None:
        if not priors:
            raise InputError("Parameters() is empty: give it priors by name, as in omega_m=Uniform(0.1, 0.5)")
        for name, prior in priors.items():
            if not isinstance(prior, Univariate):
                raise InputError(
                    f"{name} is {prior!r}: it must be a prior such as Uniform(0, 1) or Normal(0, 1)"
                )
        self._set(list(priors), list(priors.values()))

    def _set(self, names: list[str], priors: Sequence[Univariate]) -> None:
        self.names = names
        self.priors = list(priors)
        self.shape = (len(names),)
        self.lower = np.array([prior.bounds[0] for prior in priors])
        self.upper = np.array([prior.bounds[1] for prior in priors])
        self.has_walls = bool(np.isfinite([self.lower, self.upper]).any())

    @cached_property
    def _point(self) -> Point:
        rows = [[prior.kind, *prior.numbers, *prior.bounds, prior.offset] for prior in self.priors]
        return from_block(_parameters_block, np.array(rows, np.float64).ravel())

    def index(self, name: str) -> int:
        """Return the place of a parameter in a state.

        Raises
        ------
        InputError
            If there is no such name.
        """
        if name not in self.names:
            raise InputError(f"name is {name!r}: it must be one of {', '.join(self.names)}")
        return self.names.index(name)

    def as_dict(self, x: Any) -> dict[str, Array]:
        """Return the columns of states (..., k) by name.

        Raises
        ------
        InputError
            If there are more or fewer columns than names.
        """
        states = np.asarray(x)
        if states.shape[-1:] != self.shape:
            raise InputError(f"x has shape {states.shape}: its last side must be {self.dim}, one a name")
        return {name: states[..., i] for i, name in enumerate(self.names)}

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        states = as_states(x, self.shape)
        if on_gpu(states):
            return energy_and_score(self._point, states)
        wide = states.astype(np.float64, copy=False)
        inside = (wide >= self.lower) & (wide <= self.upper)
        energy, score = np.zeros(len(wide)), np.zeros_like(wide)
        for i, prior in enumerate(self.priors):
            value, slope = prior._inside(np.where(inside[:, i], wide[:, i], prior._middle))
            energy += np.where(inside[:, i], value, np.inf)
            score[:, i] = np.where(inside[:, i], -slope, 0.0)
        return energy, score.astype(states.dtype, copy=False)

    def sample(self, n: int, *, seed: int) -> Array:
        """Return ``n`` independent draws, of shape (n, k)."""
        return self.unwhiten(noise.normal(n, self.dim, seed=seed, draw=noise.EXACT))

    def whiten(self, x: Array) -> Array:
        """Return z with x = F^-1(Phi(z)) for each parameter's distribution function F.

        It is NaN outside the bounds.
        """
        if on_gpu(x):  # the distribution functions are SciPy's
            return cast(Array, cupy().asarray(self.whiten(to_host(x))))
        states = as_states(x, self.shape).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([prior._to_normal(states[:, i]) for i, prior in enumerate(self.priors)], axis=1)

    def unwhiten(self, z: Array) -> Array:
        """Return F^-1(Phi(z)), accurate in both tails; in float64, whose rounding stays inside the bounds."""
        if on_gpu(z):
            return cast(Array, cupy().asarray(self.unwhiten(to_host(z))))
        whitened = as_states(z, self.shape, "z").astype(np.float64)
        return np.stack([prior._from_normal(whitened[:, i]) for i, prior in enumerate(self.priors)], axis=1)

    def pull_back(self, z: Array, gradient: Array) -> Array:
        """Return gradient dx/dz, with dx/dz = phi(z) / p(x), in the type of ``z``."""
        if on_gpu(z):
            return cast(Array, cupy().asarray(self.pull_back(to_host(z), to_host(gradient))))
        x = self.unwhiten(z)
        rates = np.empty_like(x)
        for i, prior in enumerate(self.priors):
            rates[:, i] = np.exp(prior._inside(x[:, i])[0] - 0.5 * z[:, i] ** 2 - _LOG_ROOT_2PI)
        return np.asarray((gradient * rates).astype(z.dtype, copy=False))

    def __repr__(self) -> str:
        return f"Parameters({', '.join(f'{n}={p!r}' for n, p in zip(self.names, self.priors, strict=True))})"


class Univariate(Parameters):
    """A prior of one parameter; states have the shape (1,)."""

    kind: ClassVar[int]
    numbers: tuple[float, float]
    bounds: tuple[float, float] = (-math.inf, math.inf)
    offset: float
    """The energy is this plus what depends on x."""
    link: ClassVar[int] = kinds.PLAIN
    """Whether x is smooth in z down to the bounds, or its logarithm, or log odds."""

    def __init__(self, first: float, second: float) -> None:
        self.numbers = (float(first), float(second))
        self._middle = 0.5 * (self.bounds[0] + self.bounds[1]) if math.isfinite(sum(self.bounds)) else 1.0
        self._set(["x"], [self])

    @abstractmethod
    def _inside(self, x: Array) -> tuple[Array, Array]:
        """Return -log p and its derivative inside the bounds."""

    @abstractmethod
    def _to_normal(self, x: Array) -> Array:
        """Return z with Phi(z) = F(x)."""

    @abstractmethod
    def _from_normal(self, z: Array) -> Array:
        """Return x with F(x) = Phi(z)."""

    def _linked(self, z: Array) -> Array:
        """Return x(z), or its logarithm or log odds, as ``link`` says."""
        return self._from_normal(z)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{number:g}' for number in self._given())})"

    def _given(self) -> tuple[float, ...]:
        return self.numbers
