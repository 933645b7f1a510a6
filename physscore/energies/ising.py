"""The Ising model as its exact continuous dual, and its partition function in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, logsumexp

from physscore import noise
from physscore.arrays import as_states
from physscore.core import Array, InputError
from physscore.elementary import log_cosh_and_tanh
from physscore.energies.lattice import (
    Lattice,
    checked_number,
    neighbour_sum,
    over_momenta,
    row_of_neighbours,
    sum_over_sites,
)
from physscore.points import compiled_block

# The lowest eigenvalue of the coupling matrix; Z is exact with any positive one.
_MARGIN = 1.0


@compiled_block
def _ising_block(x, params, gradient_out, energy_out):
    """params: number of sides, sides, coupling, shift, field, offset."""
    d, n = x.shape
    first = 1 + int(params[0])
    coupling, shift, field = params[first], params[first + 1], params[first + 2]
    energy_out[:] = params[first + 3]
    around, surplus, place = np.empty(n), np.empty((d, n)), np.zeros(3, np.int64)
    for i in range(d):
        row_of_neighbours(x, params, i, place, around)
        for j in range(n):
            local = shift * x[i, j] + coupling * around[j]
            log_cosh, tanh = log_cosh_and_tanh(local + field)
            energy_out[j] += 0.5 * x[i, j] * local - log_cosh
            surplus[i, j] = x[i, j] - tanh
    for i in range(d):
        row_of_neighbours(surplus, params, i, place, around)
        for j in range(n):
            gradient_out[i, j] = shift * surplus[i, j] + coupling * around[j]


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
        self.coupling = checked_number("coupling", coupling, 100.0)
        self.field = checked_number("field", field, 100.0)
        spectrum = self.coupling * over_momenta(lambda k: 2 * np.cos(k), self.shape)
        self.shift = _MARGIN - float(spectrum.min())
        log_det = float(np.log(spectrum + self.shift).sum())
        # log 2 cosh = log 2 + log cosh
        per_site = 0.5 * self.shift + 0.5 * math.log(2 * math.pi) - math.log(2)
        offset = self.n_sites * per_site - 0.5 * log_det
        self._numbers = (self.coupling, self.shift, self.field, offset)
        self.log_z = _ising_log_z(self.shape, self.coupling, self.field)

    def _times_coupling(self, x: Array) -> Array:
        return self.shift * x + self.coupling * neighbour_sum(x)

    def _formula(self, x: Array) -> tuple[Array, Array]:
        local = self._times_coupling(x)
        total = local + self.field
        size = np.abs(total)
        log_cosh_total = size + (np.log1p(np.exp(-2 * size)) - math.log(2))
        energy = self._numbers[3] + sum_over_sites(0.5 * x * local - log_cosh_total)
        return energy, self._times_coupling(np.tanh(total) - x)

    def _on_card(self, x: Array) -> tuple[Array, Array]:
        from physscore.cuda import lattice

        return lattice.ising(x, *self._numbers)

    def _local_field(self, x: Array) -> Array:
        """Return C psi + field: given psi, the spins are independent in it."""
        return self._times_coupling(as_states(x, self.shape)) + self.field

    def magnetisation(self, x: Array) -> npt.NDArray[np.float64]:
        """Return the mean over the sites of the spins expected given the states, of shape (n,).

        Its mean is that of the spins' own, with less noise.
        """
        return sum_over_sites(np.tanh(self._local_field(x))) / self.n_sites

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
        return -0.5 * sum_over_sites(s * neighbour_sum(s))

    def spin_energy_given(self, x: Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return mean and variance of :meth:`spin_energy` over the spins given the states, both (n,).

        They say the same of the Ising model as spins that are drawn, with less noise.
        """
        mean = np.tanh(self._local_field(x))
        variance = 1.0 - mean**2
        # With s = mean + e the energy has terms in e_i and in e_i e_j, all uncorrelated.
        pairs = np.zeros_like(variance)
        for axis, side in enumerate(self.shape, 1):
            bonds = 2 if side == 2 else 1  # of each pair
            pairs += bonds * (np.roll(variance, 1, axis) + np.roll(variance, -1, axis))
        spread = sum_over_sites(variance * (neighbour_sum(mean) ** 2 + 0.5 * pairs))
        return -0.5 * sum_over_sites(mean * neighbour_sum(mean)), spread

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
