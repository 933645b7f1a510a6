"""Test densities whose log Z is known: funnel, banana, double well, Student, egg box."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, logsumexp

from physscore import noise
from physscore.arrays import as_states, on_gpu, real_number
from physscore.core import Array, Energy, InputError, Point, Prior
from physscore.elementary import exp, log1p, sin_and_cos
from physscore.points import compiled_block, energy_and_score, from_block

_SHORTEST, _LONGEST = 1e-75, 1e75
_WIDEST_FUNNEL = 100.0  # exp(x_0) is a number up to seven standard deviations


class Analytic(Energy):
    """An energy whose formulas stand twice: for arrays, and compiled for blocks."""

    _block: ClassVar[Any]
    _params: tuple[float, ...]

    def _set(self, dim: int, *params: float) -> None:
        self.shape, self._params = (dim,), params

    @cached_property
    def _point(self) -> Point:
        return from_block(type(self)._block, self._params)

    @abstractmethod
    def _formula(self, x: Array) -> tuple[Array, Array]:
        """Return energies and gradients of checked states."""

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        states = as_states(x, self.shape)
        if on_gpu(states):
            return energy_and_score(self._point, states)
        energy, gradient = self._formula(states.astype(np.float64, copy=False))
        return energy, (-gradient).astype(states.dtype, copy=False)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={getattr(self, name):g}" for name in self._settings)
        return f"{type(self).__name__}({numbers})"

    _settings: ClassVar[tuple[str, ...]] = ()


def checked_dim(dim: Any, least: int = 1) -> int:
    """Return a number of dimensions.

    Raises
    ------
    InputError
        If it is none, or too small.
    """
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < least:
        raise InputError(f"dim is {dim!r}: it must be a whole number of at least {least}")
    return int(dim)


def check_positive(**given: float) -> None:
    """Refuse arguments that are not positive numbers.

    Raises
    ------
    InputError
        If one is not.
    """
    for name, value in given.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not (number and 0 < value < math.inf):
            raise InputError(f"{name} is {value!r}: it must be a positive number")


def check_lengths(**given: float) -> None:
    """Refuse lengths that are not positive, or whose fourth powers are not numbers.

    Raises
    ------
    InputError
        If one is so.
    """
    check_positive(**given)
    for name, value in given.items():
        if not _SHORTEST <= value <= _LONGEST:
            raise InputError(
                f"{name} is {value:g}: it must be from {_SHORTEST:g} to {_LONGEST:g}, or powers of it are no "
                "numbers: take another unit"
            )


@compiled_block
def _funnel_block(x, params, gradient_out, energy_out):
    d, n = x.shape
    squares = np.zeros(n)
    for i in range(1, d):
        for j in range(n):
            squares[j] += x[i, j] * x[i, j]
    for j in range(n):
        v = x[0, j]
        precision = exp(-v)
        energy_out[j] = params[1] + 0.5 * (v * v / params[0] + (d - 1) * v + precision * squares[j])
        gradient_out[0, j] = v / params[0] + 0.5 * ((d - 1) - precision * squares[j])
        squares[j] = precision
    for i in range(1, d):
        for j in range(n):
            gradient_out[i, j] = squares[j] * x[i, j]


class Funnel(Analytic, Prior):
    """Neal's funnel: x_0 ~ N(0, scale^2), and the others N(0, exp(x_0)) given it (Neal 2003, section 8).

    Parameters
    ----------
    dim
        Number of dimensions, 2 at least.
    scale
        Standard deviation of the log-scale x_0.

    Raises
    ------
    InputError
        If one makes no sense.
    """

    _block = _funnel_block
    _settings = ("dim", "scale")

    def __init__(self, dim: int = 10, scale: float = 3.0) -> None:
        check_lengths(scale=scale)
        if scale > _WIDEST_FUNNEL:
            raise InputError(
                f"scale is {scale:g}: it must be at most {_WIDEST_FUNNEL:g}, as exp(x_0) overflows"
            )
        self.scale = float(scale)
        self._offset = 0.5 * checked_dim(dim, 2) * math.log(2 * math.pi) + math.log(self.scale)
        self._set(int(dim), self.scale**2, self._offset)

    def _formula(self, x: Array) -> tuple[Array, Array]:
        v, rest = x[:, 0], x[:, 1:]
        with np.errstate(over="ignore"):
            precision = np.exp(-v)
        squares = (rest * rest).sum(axis=1)
        n = rest.shape[1]
        energy = self._offset + 0.5 * (v**2 / self.scale**2 + n * v + precision * squares)
        first = v / self.scale**2 + 0.5 * (n - precision * squares)
        return energy, np.concatenate([first[:, np.newaxis], precision[:, np.newaxis] * rest], axis=1)

    def sample(self, n: int, *, seed: int) -> Array:
        """Return ``n`` independent draws, of shape (n, dim)."""
        return self.unwhiten(noise.normal(n, self.dim, seed=seed, draw=noise.EXACT))

    def whiten(self, x: Array) -> Array:
        """Return (x_0 / scale, x_i exp(-x_0 / 2))."""
        z = as_states(x, self.shape).copy()
        z[:, 1:] *= np.exp(-0.5 * z[:, :1])
        z[:, 0] /= self.scale
        return z

    def unwhiten(self, z: Array) -> Array:
        """Return the states of whitened coordinates."""
        x = as_states(z, self.shape, "z").copy()
        x[:, 0] *= self.scale
        x[:, 1:] *= np.exp(0.5 * x[:, :1])
        return x

    def pull_back(self, z: Array, gradient: Array) -> Array:
        """Return the gradient over z."""
        x = self.unwhiten(z)
        found = gradient * np.exp(0.5 * x[:, :1])
        found[:, 0] = self.scale * (gradient[:, 0] + 0.5 * (gradient[:, 1:] * x[:, 1:]).sum(axis=1))
        return found


@compiled_block
def _banana_block(x, params, gradient_out, energy_out):
    d, n = x.shape
    scale, bend = params[0], params[1]
    for j in range(n):
        a = x[0, j]
        b = x[1, j] + bend * (a * a - scale * scale)
        energy_out[j] = 0.5 * (a * a / (scale * scale) + b * b)
        gradient_out[0, j] = a / (scale * scale) + 2.0 * bend * a * b
        gradient_out[1, j] = b
    for i in range(2, d):
        for j in range(n):
            energy_out[j] += 0.5 * x[i, j] * x[i, j]
            gradient_out[i, j] = x[i, j]


class Banana(Analytic):
    """A bent normal (Haario, Saksman & Tamminen 1999): x_1 + bend (x_0^2 - scale^2) ~ N(0, 1).

    Parameters
    ----------
    scale
        Standard deviation of x_0.
    bend
        How much it is bent.
    dim
        Number of dimensions; those after the second are standard normal.

    Raises
    ------
    InputError
        If one makes no sense.
    """

    _block = _banana_block
    _settings = ("scale", "bend", "dim")

    def __init__(self, scale: float = 10.0, bend: float = 0.03, dim: int = 2) -> None:
        check_lengths(scale=scale)
        self.scale, self.bend = float(scale), real_number(bend, "bend")
        if abs(self.bend) * self.scale > _LONGEST / self.scale:
            raise InputError(f"bend is {bend:g}: bend times scale^2 must be at most {_LONGEST:g}")
        self._set(checked_dim(dim, 2), self.scale, self.bend)
        self.log_z = 0.5 * self.dim * math.log(2 * math.pi) + math.log(self.scale)

    def _formula(self, x: Array) -> tuple[Array, Array]:
        a = x[:, 0]
        b = x[:, 1] + self.bend * (a**2 - self.scale**2)
        gradient = x.copy()
        gradient[:, 0] = a / self.scale**2 + 2 * self.bend * a * b
        gradient[:, 1] = b
        return 0.5 * (a**2 / self.scale**2 + b**2 + (x[:, 2:] ** 2).sum(axis=1)), gradient


@compiled_block
def _double_well_block(x, params, gradient_out, energy_out):
    d, n = x.shape
    energy_out[:] = 0.0
    for i in range(d):
        for j in range(n):
            u = x[i, j]
            w = u * u - params[1] * params[1]
            energy_out[j] += params[0] * w * w + params[2] * u
            gradient_out[i, j] = 4.0 * params[0] * u * w + params[2]


class DoubleWell(Analytic):
    """Independent double wells: E = sum of height (x^2 - centre^2)^2 / centre^4 + tilt x.

    Parameters
    ----------
    height
        Of the barrier between the two minima, without tilt.
    centre
        The minima are at plus and minus this, without tilt.
    tilt
        Lowers one of them.
    dim
        Number of dimensions, each a double well: 2^dim modes.

    Raises
    ------
    InputError
        If one makes no sense.
    """

    _block = _double_well_block
    _settings = ("height", "centre", "tilt", "dim")

    def __init__(self, height: float = 3.0, centre: float = 1.0, tilt: float = 0.0, dim: int = 1) -> None:
        check_positive(height=height)
        check_lengths(centre=centre)
        self.height, self.centre, self.tilt = float(height), float(centre), real_number(tilt, "tilt")
        self._set(checked_dim(dim), self.height / self.centre**4, self.centre, self.tilt)
        self.log_z = self.dim * self._log_z_of_one()

    def _log_z_of_one(self) -> float:
        """Return the log of a one-dimensional integral; the trapezoidal rule converges geometrically."""
        reach = self.centre * (
            2 + (40 / self.height) ** 0.25 + (abs(self.tilt) * self.centre / self.height) ** (1 / 3)
        )
        steepness, points = self._params[0], 20001
        pieces = [(-reach, reach)]
        if self.centre / math.sqrt(8 * self.height) < 10 * reach / points:  # wells too narrow for that
            roots = np.roots([4 * steepness, 0.0, -4 * steepness * self.centre**2, self.tilt])
            bends = {float(x): 4 * steepness * (3 * x**2 - self.centre**2) for x in roots.real}
            pieces = [(x - 20 / bend**0.5, x + 20 / bend**0.5) for x, bend in bends.items() if bend > 0]
        parts = []
        for low, high in pieces:
            if not high - low > 1e-9 * abs(high):
                raise InputError(
                    f"height is {self.height:g} and tilt {self.tilt:g}: wells are too narrow for where they "
                    "are, so that numbers in them hardly differ: lower both"
                )
            x = np.linspace(low, high, points)
            log_p = -(steepness * (x**2 - self.centre**2) ** 2 + self.tilt * x)
            parts.append(logsumexp(log_p) + math.log((high - low) / (points - 1)))
        return float(logsumexp(parts))

    def _formula(self, x: Array) -> tuple[Array, Array]:
        w = x**2 - self.centre**2
        steepness = self._params[0]
        return (steepness * w**2 + self.tilt * x).sum(axis=1), 4 * steepness * x * w + self.tilt


@compiled_block
def _student_block(x, params, gradient_out, energy_out):
    d, n = x.shape
    freedom, scale = params[0], params[1]
    squares = np.zeros(n)
    for i in range(d):
        for j in range(n):
            squares[j] += x[i, j] * x[i, j]
    for j in range(n):
        q = squares[j] / (freedom * scale * scale)
        energy_out[j] = params[2] + 0.5 * (freedom + d) * log1p(q)
        squares[j] = (freedom + d) / (freedom * scale * scale * (1.0 + q))
    for i in range(d):
        for j in range(n):
            gradient_out[i, j] = squares[j] * x[i, j]


class Student(Analytic):
    """A multivariate Student distribution around 0, normalised.

    Parameters
    ----------
    degrees_of_freedom, scale
        Positive; 1 degree of freedom is the Cauchy distribution.
    dim
        Number of dimensions.

    Raises
    ------
    InputError
        If one makes no sense.
    """

    _block = _student_block
    _settings = ("degrees_of_freedom", "scale", "dim")
    log_z = 0.0

    def __init__(self, degrees_of_freedom: float = 3.0, scale: float = 1.0, dim: int = 1) -> None:
        check_positive(degrees_of_freedom=degrees_of_freedom)
        check_lengths(scale=scale)
        self.degrees_of_freedom, self.scale = float(degrees_of_freedom), float(scale)
        f, d = self.degrees_of_freedom, checked_dim(dim)
        self._offset = float(
            0.5 * d * math.log(math.pi) + d * math.log(self.scale) - _log_gamma_ratio(0.5 * f, 0.5 * d)
        )
        self._set(d, f, self.scale, self._offset)

    def _formula(self, x: Array) -> tuple[Array, Array]:
        f, spread = self.degrees_of_freedom, self.degrees_of_freedom * self.scale**2
        q = (x * x).sum(axis=1) / spread
        slope = (f + self.dim) / (spread * (1 + q))
        return self._offset + 0.5 * (f + self.dim) * np.log1p(q), slope[:, np.newaxis] * x


def _log_gamma_ratio(a: float, b: float) -> float:
    """Return log(Gamma(a + b) / Gamma(a)) - b log(2 a), which is what is left for large a: -b log 2."""
    if a < 30:
        return float(gammaln(a + b) - gammaln(a)) - b * math.log(2 * a)

    def rest(x: float) -> float:  # of Stirling's series, to 1e-15
        y = 1 / x
        return y * (1 / 12 - y * y * (1 / 360 - y * y * (1 / 1260 - y * y / 1680)))

    return (a + b - 0.5) * math.log1p(b / a) - b - b * math.log(2) + rest(a + b) - rest(a)


@compiled_block
def _egg_box_block(x, params, gradient_out, energy_out):
    for j in range(x.shape[1]):
        s, c = sin_and_cos(0.5 * x[0, j])
        t, k = sin_and_cos(0.5 * x[1, j])
        height = 2.0 + c * k
        slope = 2.5 * height * height * height * height
        energy_out[j] = -0.4 * slope * height
        gradient_out[0, j] = slope * s * k
        gradient_out[1, j] = slope * c * t


class EggBox(Analytic):
    """E = -(2 + cos(x/2) cos(y/2))^5, a likelihood with modes without end (Feroz, Hobson & Bridges 2009,
    arXiv:0809.3437, section 6.1): add it to a prior in a box."""

    _block = _egg_box_block

    def __init__(self) -> None:
        self._set(2)

    def _formula(self, x: Array) -> tuple[Array, Array]:
        s, c = np.sin(0.5 * x), np.cos(0.5 * x)
        height = 2.0 + c.prod(axis=1)
        return -(height**5), (2.5 * height**4)[:, np.newaxis] * s * c[:, ::-1]
