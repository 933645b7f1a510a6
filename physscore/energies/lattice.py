"""Fields on periodic lattices, and the phi^4 theory."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states, on_gpu
from physscore.core import Array, Energy, InputError, Point
from physscore.parts import inline
from physscore.points import compiled_block, evaluate, from_block


class Lattice(Energy):
    """An energy of one real number on each site of a periodic lattice of 1 to 3 dimensions.

    Each site has one bond to the next along every side, so along a side of 2 two bonds join the same
    pair of sites. Formulas stand three times: for arrays, compiled for blocks, and in CUDA.

    Attributes
    ----------
    shape : tuple of int
        Sides of the lattice; states have the shape (n, *shape).
    n_sites : int
        Number of sites.
    """

    one_by_one = True
    by_arrays = True
    _block: ClassVar[Any]
    _numbers: tuple[float, ...]
    _settings: ClassVar[tuple[str, ...]]

    def __init__(self, shape: int | Sequence[int]) -> None:
        self.shape = _checked_sides(shape)
        self.n_sites = self.dim

    @cached_property
    def _point(self) -> Point:
        return from_block(type(self)._block, [len(self.shape), *self.shape, *self._numbers])

    @abstractmethod
    def _formula(self, x: Array) -> tuple[Array, Array]:
        """Return energies and scores of checked states."""

    @abstractmethod
    def _on_card(self, x: Array) -> tuple[Array, Array]:
        """Return the same of states on a card."""

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        states = as_states(x, self.shape)
        if on_gpu(states):
            return self._on_card(states)
        if states.dtype != np.float64:
            return self._formula(states)
        energy, gradient = evaluate(self._point, states.reshape(len(states), self.dim))
        return energy, -gradient.reshape(states.shape)

    def __repr__(self) -> str:
        given = [f"{name}={value:g}" for name in self._settings if (value := getattr(self, name)) is not None]
        return f"{type(self).__name__}({self.shape}, {', '.join(given)})"


def _checked_sides(shape: Any) -> tuple[int, ...]:
    sides = (shape,) if isinstance(shape, int | np.integer) else shape
    valid = isinstance(sides, Sequence) and 1 <= len(sides) <= 3 and not isinstance(sides, str)
    if not valid or not all(
        isinstance(side, int | np.integer) and not isinstance(side, bool) and side >= 2 for side in sides
    ):
        raise InputError(f"shape is {shape!r}: it must be 1 to 3 whole numbers of at least 2, as in (8, 8)")
    return tuple(int(side) for side in sides)


def checked_number(name: str, value: Any, limit: float = math.inf) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or abs(value) > limit:
        right = "a finite number" if limit == math.inf else f"a number from {-limit:g} to {limit:g}"
        raise InputError(f"{name} is {value!r}: it must be {right}")
    return float(value)


def neighbour_sum(x: Array) -> Array:
    """Return the sum over the neighbours of each site, the leading axis being a batch."""
    total = np.zeros_like(x)
    for axis in range(1, x.ndim):
        total += np.roll(x, 1, axis)
        total += np.roll(x, -1, axis)
    return total


def sum_over_sites(x: Array) -> npt.NDArray[np.float64]:
    return cast(Array, x.sum(axis=tuple(range(1, x.ndim)), dtype=np.float64))


def over_momenta(function: Any, shape: tuple[int, ...]) -> Array:
    """Return the sum over the axes of ``function`` of k = 2 pi m / side, of the shape of the lattice."""
    parts = [function(2 * np.pi * np.arange(side) / side) for side in shape]
    return np.asarray(sum(np.meshgrid(*parts, indexing="ij", sparse=True)))


@inline
def row_of_neighbours(x, params, i, place, total):
    """Fill ``total`` with the sum over the neighbours of site i, the last axis of x being a batch.

    ``place`` holds the coordinates of site i, and then those of the next: divisions would take longer
    than the sum.
    """
    n = x.shape[1]
    total[:] = 0.0
    stride, carry = 1, 1
    for axis in range(int(params[0]) - 1, -1, -1):
        side = int(params[1 + axis])
        around = (side - 1) * stride
        up = i - around if place[axis] == side - 1 else i + stride
        down = i + around if place[axis] == 0 else i - stride
        for j in range(n):
            total[j] += x[up, j] + x[down, j]
        stride *= side
        place[axis] += carry
        carry = 1 if place[axis] == side else 0
        place[axis] = 0 if carry else place[axis]


@compiled_block
def _phi4_block(x, params, gradient_out, energy_out):
    """params: number of sides, sides, stiffness, mass, quartic, offset."""
    d, n = x.shape
    first = 1 + int(params[0])
    stiffness, mass, quartic = params[first], params[first + 1], params[first + 2]
    energy_out[:] = params[first + 3]
    local = mass + 2.0 * params[0] * stiffness
    around, place = np.empty(n), np.zeros(3, np.int64)
    for i in range(d):
        row_of_neighbours(x, params, i, place, around)
        for j in range(n):
            value = x[i, j]
            linear = local * value - stiffness * around[j]
            cube = quartic * value * value * value
            energy_out[j] += value * (0.5 * linear + cube)
            gradient_out[i, j] = linear + 4.0 * cube


class Phi4(Lattice):
    """A scalar field with a quartic term, in either of two parametrisations.

    With ``mass2`` and ``coupling``, as in the continuum,

        E = sum_x [ 1/2 sum_mu (phi(x + mu) - phi(x))^2 + 1/2 mass2 phi^2 + coupling phi^4 ],

    and with ``kappa`` and ``lam``, the hopping form (Montvay & Munster, Quantum Fields on a Lattice,
    Cambridge 1994, section 2.1),

        E = sum_x [ -2 kappa sum_mu phi(x) phi(x + mu) + phi^2 + lam (phi^2 - 1)^2 ].

    In d dimensions and for kappa > 0, E of the second at phi is E of the first at sqrt(2 kappa) phi plus
    lam times the number of sites, where mass2 = (1 - 2 lam) / kappa - 2 d, coupling = lam / (4 kappa^2).

    Parameters
    ----------
    shape
        Sides of the lattice, 1 to 3 of them, each at least 2; a side of 2 counts its two bonds.
    mass2, coupling
        Squared mass, of either sign, and quartic coupling.
    kappa, lam
        Hopping parameter, of either sign, and quartic coupling.

    Attributes
    ----------
    log_z : float or None
        Known for the free field, where the quartic coupling is 0.

    Raises
    ------
    InputError
        If not exactly one pair is given, or exp(-E) cannot be normalised.
    """

    _block = _phi4_block
    _settings = ("mass2", "coupling", "kappa", "lam")

    def __init__(
        self,
        shape: int | Sequence[int],
        *,
        mass2: float | None = None,
        coupling: float | None = None,
        kappa: float | None = None,
        lam: float | None = None,
    ) -> None:
        super().__init__(shape)
        given = {"mass2": mass2, "coupling": coupling, "kappa": kappa, "lam": lam}
        numbers = {name: checked_number(name, value) for name, value in given.items() if value is not None}
        if tuple(numbers) not in (self._settings[:2], self._settings[2:]):
            found = ", ".join(f"{name}={value:g}" for name, value in numbers.items()) or "nothing"
            raise InputError(f"given is {found}: it must be mass2 and coupling, or kappa and lam")
        self.mass2, self.coupling = numbers.get("mass2"), numbers.get("coupling")
        self.kappa, self.lam = numbers.get("kappa"), numbers.get("lam")
        # Both are 1/2 stiffness (gradient)^2 + 1/2 mass phi^2 + quartic phi^4 + offset.
        if self.kappa is None:
            stiffness, mass, quartic, offset = 1.0, numbers["mass2"], numbers["coupling"], 0.0
        else:
            quartic = numbers["lam"]
            stiffness, mass = 2 * self.kappa, 2 * (1 - 2 * quartic) - 4 * len(self.shape) * self.kappa
            offset = quartic * self.n_sites
        self._numbers = (stiffness, mass, quartic, offset)
        name = "coupling" if self.kappa is None else "lam"
        if quartic < 0:
            raise InputError(f"{name} is {quartic:g}: exp(-E) is normalisable only if it is not negative")
        if quartic == 0:
            squares = mass + stiffness * over_momenta(lambda k: 4 * np.sin(k / 2) ** 2, self.shape)
            if squares.min() <= 0:
                quadratic = f"mass2 is {mass:g}" if self.kappa is None else f"kappa is {self.kappa:g}"
                raise InputError(
                    f"{quadratic} and {name} is 0: without a quartic term the quadratic form must be "
                    f"positive definite, but its lowest eigenvalue is {squares.min():.3g}"
                )
            self.log_z = float(0.5 * np.log(2 * np.pi / squares).sum())

    def _formula(self, x: Array) -> tuple[Array, Array]:
        stiffness, mass, quartic, offset = self._numbers
        linear = (mass + 2 * len(self.shape) * stiffness) * x - stiffness * neighbour_sum(x)
        cube = quartic * x * x * x
        energy = offset + sum_over_sites(x * (0.5 * linear + cube))
        return energy, -(linear + 4 * cube)

    def _on_card(self, x: Array) -> tuple[Array, Array]:
        from physscore.cuda import lattice

        return lattice.phi4(x, *self._numbers)

    def magnetisation(self, x: Array) -> npt.NDArray[np.float64]:
        """Return the mean of the field over the sites, of shape (n,)."""
        return sum_over_sites(as_states(x, self.shape)) / self.n_sites
