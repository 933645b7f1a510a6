"""Fields on periodic lattices: the phi^4 theory, and the Ising model as its exact continuous dual."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp

from physscore import noise
from physscore.arrays import as_states
from physscore.core import Array, Energy, InputError, Point
from physscore.elementary import log_cosh, tanh
from physscore.philox import inline
from physscore.points import compiled_block, from_block


class Lattice(Energy):
    """An energy of one real number on each site of a periodic lattice of 1 to 3 dimensions.

    Each site has one bond to the next along every side, so along a side of 2 two bonds join the same
    pair of sites. Formulas stand twice: for arrays, and compiled for blocks.

    Attributes
    ----------
    shape : tuple of int
        Sides of the lattice; states have the shape (n, *shape).
    n_sites : int
        Number of sites.
    """

    one_by_one = True
    _block: ClassVar[Any]
    _numbers: tuple[float, ...]
    _settings: ClassVar[tuple[str, ...]]

    def __init__(self, shape: int | Sequence[int]) -> None:
        self.shape = _checked_sides(shape)
        self.n_sites = self.dim

    @cached_property
    def _point(self) -> Point:
        return from_block(self._block, [len(self.shape), *self.shape, *self._numbers])

    @property
    def point(self) -> Point:
        """The compiled form."""
        return self._point

    @abstractmethod
    def _formula(self, x: Array) -> tuple[Array, Array]:
        """Return energies and scores of checked states."""

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return E, of shape (n,)."""
        return self.energy_and_score(x)[0]

    def score(self, x: Array) -> Array:
        """Return -grad E, of the shape of ``x``."""
        return self.energy_and_score(x)[1]

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        return self._formula(as_states(x, self.shape))

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


def _checked_number(name: str, value: Any, limit: float = math.inf) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or abs(value) > limit:
        right = "a finite number" if limit == math.inf else f"a number from {-limit:g} to {limit:g}"
        raise InputError(f"{name} is {value!r}: it must be {right}")
    return float(value)


def _neighbour_sum(x: Array) -> Array:
    """Return the sum over the neighbours of each site, the leading axis being a batch."""
    total = np.zeros_like(x)
    for axis in range(1, x.ndim):
        total += np.roll(x, 1, axis)
        total += np.roll(x, -1, axis)
    return total


def _sum_over_sites(x: Array) -> npt.NDArray[np.float64]:
    return np.asarray(x.sum(axis=tuple(range(1, x.ndim)), dtype=np.float64))


def _over_momenta(function: Any, shape: tuple[int, ...]) -> Array:
    """Return the sum over the axes of ``function`` of k = 2 pi m / side, of the shape of the lattice."""
    parts = [function(2 * np.pi * np.arange(side) / side) for side in shape]
    return np.asarray(sum(np.meshgrid(*parts, indexing="ij", sparse=True)))


@inline
def _add_neighbours(x, params, weight, out):
    """Add ``weight`` times the sum over neighbours, the last axis being a batch."""
    d, n = x.shape
    stride = d
    for axis in range(int(params[0])):
        side = int(params[1 + axis])
        stride //= side
        around = (side - 1) * stride
        for i in range(d):
            place = (i // stride) % side
            up = i - around if place == side - 1 else i + stride
            down = i + around if place == 0 else i - stride
            for j in range(n):
                out[i, j] += weight * (x[up, j] + x[down, j])


@compiled_block
def _phi4_block(x, params, gradient_out, energy_out):
    """params: number of sides, sides, stiffness, mass, quartic, offset."""
    d, n = x.shape
    first = 1 + int(params[0])
    stiffness, mass, quartic = params[first], params[first + 1], params[first + 2]
    energy_out[:] = params[first + 3]
    local = mass + 2.0 * params[0] * stiffness
    for i in range(d):
        for j in range(n):
            gradient_out[i, j] = local * x[i, j]
    _add_neighbours(x, params, -stiffness, gradient_out)
    for i in range(d):
        for j in range(n):
            value = x[i, j]
            cube = quartic * value * value * value
            energy_out[j] += value * (0.5 * gradient_out[i, j] + cube)
            gradient_out[i, j] += 4.0 * cube


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
        numbers = {name: _checked_number(name, value) for name, value in given.items() if value is not None}
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
            squares = mass + stiffness * _over_momenta(lambda k: 4 * np.sin(k / 2) ** 2, self.shape)
            if squares.min() <= 0:
                quadratic = f"mass2 is {mass:g}" if self.kappa is None else f"kappa is {self.kappa:g}"
                raise InputError(
                    f"{quadratic} and {name} is 0: without a quartic term the quadratic form must be "
                    f"positive definite, but its lowest eigenvalue is {squares.min():.3g}"
                )
            self.log_z = float(0.5 * np.log(2 * np.pi / squares).sum())

    def _formula(self, x: Array) -> tuple[Array, Array]:
        stiffness, mass, quartic, offset = self._numbers
        linear = (mass + 2 * len(self.shape) * stiffness) * x - stiffness * _neighbour_sum(x)
        cube = quartic * x * x * x
        energy = offset + _sum_over_sites(x * (0.5 * linear + cube))
        return energy, -(linear + 4 * cube)

    def magnetisation(self, x: Array) -> npt.NDArray[np.float64]:
        """Return the mean of the field over the sites, of shape (n,)."""
        return _sum_over_sites(as_states(x, self.shape)) / self.n_sites


# The lowest eigenvalue of the coupling matrix; Z is exact with any positive one.
_MARGIN = 1.0


@compiled_block
def _ising_block(x, params, gradient_out, energy_out):
    """params: number of sides, sides, coupling, shift, field, offset."""
    d, n = x.shape
    first = 1 + int(params[0])
    coupling, shift, field = params[first], params[first + 1], params[first + 2]
    energy_out[:] = params[first + 3]
    local, surplus = np.empty((d, n)), np.empty((d, n))
    for i in range(d):
        for j in range(n):
            local[i, j] = shift * x[i, j]
    _add_neighbours(x, params, coupling, local)
    for i in range(d):
        for j in range(n):
            total = local[i, j] + field
            energy_out[j] += 0.5 * x[i, j] * local[i, j] - log_cosh(total)
            surplus[i, j] = x[i, j] - tanh(total)
            gradient_out[i, j] = shift * surplus[i, j]
    _add_neighbours(surplus, params, coupling, gradient_out)


class Ising(Lattice):
    """The Ising model as a density of real numbers psi on the sites, with the same partition function.

    Z = sum_s exp(coupling sum_<ij> s_i s_j + field sum_i s_i) is the integral of exp(-E) over psi, with

        E = 1/2 psi^T C psi - sum_i log 2 cosh(C psi + field)_i + N c / 2 + N / 2 log 2 pi - 1/2 log det C,

    exactly: C = coupling A + c I, where A is the adjacency matrix and c makes C positive definite, shifts
    the energy of all spins alike (Hubbard 1959, Phys. Rev. Lett. 3, 77, for the shifted matrix). A state
    is a noisy configuration: given the spins, psi ~ N(s, C^-1). The score is C (<s> - psi), where
    <s> = tanh(C psi + field) is the mean of the spins given psi.

    Parameters
    ----------
    shape
        Sides of the lattice, 1 to 3 of them, each at least 2; a side of 2 counts its two bonds.
    coupling
        Of each bond, over the temperature; negative for an antiferromagnet. From -100 to 100.
    field
        On each spin, over the temperature. From -100 to 100.

    Attributes
    ----------
    shift : float
        The shift c.
    log_z : float or None
        What :meth:`exact_log_z` returns, where it is known.

    Raises
    ------
    InputError
        If one makes no sense.
    """

    _block = _ising_block
    _settings = ("coupling", "field")

    def __init__(self, shape: int | Sequence[int], coupling: float, *, field: float = 0.0) -> None:
        super().__init__(shape)
        self.coupling = _checked_number("coupling", coupling, 100.0)
        self.field = _checked_number("field", field, 100.0)
        spectrum = self.coupling * _over_momenta(lambda k: 2 * np.cos(k), self.shape)
        self.shift = _MARGIN - float(spectrum.min())
        log_det = float(np.log(spectrum + self.shift).sum())
        # log 2 cosh = log 2 + log cosh
        per_site = 0.5 * self.shift + 0.5 * math.log(2 * math.pi) - math.log(2)
        offset = self.n_sites * per_site - 0.5 * log_det
        self._numbers = (self.coupling, self.shift, self.field, offset)
        self.log_z = _ising_log_z(self.shape, self.coupling, self.field)

    def _times_coupling(self, x: Array) -> Array:
        return self.shift * x + self.coupling * _neighbour_sum(x)

    def _formula(self, x: Array) -> tuple[Array, Array]:
        local = self._times_coupling(x)
        total = local + self.field
        size = np.abs(total)
        log_cosh_total = size + (np.log1p(np.exp(-2 * size)) - math.log(2))
        energy = self._numbers[3] + _sum_over_sites(0.5 * x * local - log_cosh_total)
        return energy, self._times_coupling(np.tanh(total) - x)

    def _local_field(self, x: Array) -> Array:
        """Return C psi + field: given psi, the spins are independent in it."""
        return self._times_coupling(as_states(x, self.shape)) + self.field

    def magnetisation(self, x: Array) -> npt.NDArray[np.float64]:
        """Return the mean over the sites of the spins expected given the states, of shape (n,).

        Its mean is that of the spins' own, with less noise.
        """
        return _sum_over_sites(np.tanh(self._local_field(x))) / self.n_sites

    def sample_spins(self, x: Array, seed: int) -> npt.NDArray[np.int8]:
        """Draw the spins given the states: independent, +1 with probability 1 / (1 + exp(-2 local field)).

        Returns
        -------
        array of int8
            Spins -1 and 1, of shape (n, *shape). Of states drawn from exp(-E) they follow the Ising model.
        """
        local = self._local_field(x)
        z = noise.normal(len(local), self.n_sites, seed=seed, draw=_SPINS).reshape(local.shape)
        logit = log_ndtr(z) - log_ndtr(-z)  # of a uniform number
        return np.where(logit < 2 * local, 1, -1).astype(np.int8)

    def spin_energy(self, spins: Array) -> npt.NDArray[np.float64]:
        """Return -sum_<ij> s_i s_j, each bond once, of shape (n,)."""
        s = as_states(spins, self.shape, "spins")
        return -0.5 * _sum_over_sites(s * _neighbour_sum(s))

    def exact_log_z(self) -> float:
        """Return log Z by its closed form.

        Known in 1 dimension (transfer matrix), in 2 without a field (Kaufman 1949, Phys. Rev. 76, 1232),
        except for a negative coupling with an odd side, where the bonds cannot all be satisfied; and
        without coupling.

        Raises
        ------
        InputError
            If there is none.
        """
        if self.log_z is None:
            raise InputError(
                f"shape is {self.shape}, coupling is {self.coupling:g}, field is {self.field:g}: log Z is "
                "known with 1 side, or with 2 if field is 0 and coupling not negative where a side is odd"
            )
        return self.log_z


# Far from the numbers that samplers give their draws, so that spins are independent of their noise.
_SPINS = 64


def _ising_log_z(shape: tuple[int, ...], coupling: float, field: float) -> float | None:
    n_sites = math.prod(shape)
    if coupling == 0:
        return n_sites * float(np.logaddexp(field, -field))
    if len(shape) == 1:
        return _log_z_chain(n_sites, coupling, field)
    if len(shape) == 2 and field == 0 and (coupling > 0 or all(side % 2 == 0 for side in shape)):
        return _log_z_square(*shape, abs(coupling))  # flip every other spin
    return None


def _log_z_chain(n: int, coupling: float, field: float) -> float:
    """Return the log of the trace of the n-th power of the transfer matrix.

    Its eigenvalues are e^K cosh h +- sqrt(e^2K sinh^2 h + e^-2K), their product is 2 sinh 2K.
    """
    along = math.exp(coupling) * math.cosh(field)
    root = math.hypot(math.exp(coupling) * math.sinh(field), math.exp(-coupling))
    top = along + root
    less = 2 * min(along, root) / top  # 1 - |ratio of the eigenvalues|, without cancellation
    if less < 0.5:
        log_power = n * math.log1p(-less)
    else:
        log_power = n * (math.log(2 * math.sinh(2 * abs(coupling))) - 2 * math.log(top))
    if coupling < 0 and n % 2:
        return n * math.log(top) + math.log(-math.expm1(log_power))
    return n * math.log(top) + math.log1p(math.exp(log_power))


def _log_z_square(n: int, m: int, coupling: float) -> float:
    """Return log Z of the n by m torus (Kaufman 1949, Phys. Rev. 76, 1232).

    Z = 1/2 (2 S)^(nm/2) [prod 2 cosh + prod 2 sinh of m gamma_q / 2 over odd q, and over even q < 2n],
    with S = sinh 2K and sinh^2(gamma_q / 2) = (S - 1)^2 / 2S + sin^2(pi q / 2n), which is her
    cosh gamma_q = cosh 2K coth 2K - cos(pi q / n). gamma_0 has the sign of S - 1.
    """
    s = math.sinh(2 * coupling)
    gap = (s - 1) / math.sqrt(2 * s)
    half = m * np.arcsinh(np.hypot(gap, np.sin(np.pi * np.arange(2 * n) / (2 * n))))
    log_cosh_2 = half + np.log1p(np.exp(-2 * half))
    with np.errstate(divide="ignore"):  # gamma_0 is 0 at the critical point
        log_sinh_2 = half + np.log(-np.expm1(-2 * half))
    products = [p[first::2].sum() for first in (1, 0) for p in (log_cosh_2, log_sinh_2)]
    total = logsumexp(products, b=[1, 1, 1, math.copysign(1, gap)])
    return float(total) - math.log(2) + 0.5 * n * m * math.log(2 * s)
