"""Shells: densities around a sphere, or around two, with a known log Z."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammaln, log_ndtr

from physscore.core import Array
from physscore.elementary import exp, log
from physscore.energies.analytic import Analytic, check_lengths, checked_dim
from physscore.points import compiled_block


@compiled_block
def _ring_block(x, params, gradient_out, energy_out):
    d, n = x.shape
    r = np.zeros(n)
    for i in range(d):
        for j in range(n):
            r[j] += x[i, j] * x[i, j]
    for j in range(n):
        r[j] = math.sqrt(r[j])
        off = (r[j] - params[0]) / params[1]
        energy_out[j] = 0.5 * off * off
        r[j] = off / (params[1] * max(r[j], 1e-300))
    for i in range(d):
        for j in range(n):
            gradient_out[i, j] = r[j] * x[i, j]


class Ring(Analytic):
    """A ring or spherical shell: E = (|x| - radius)^2 / (2 width^2).

    Parameters
    ----------
    radius, width
        Positive lengths.
    dim
        Number of dimensions.

    Raises
    ------
    InputError
        If one makes no sense.
    """

    _block = _ring_block
    _settings = ("radius", "width", "dim")

    def __init__(self, radius: float = 4.0, width: float = 0.5, dim: int = 2) -> None:
        check_lengths(radius=radius, width=width)
        self.radius, self.width = float(radius), float(width)
        self._set(checked_dim(dim), self.radius, self.width)
        self.log_z = _log_shell(self.radius, self.width, self.dim)

    def _formula(self, x: Array) -> tuple[Array, Array]:
        r = np.sqrt((x * x).sum(axis=1))
        off = (r - self.radius) / self.width
        return 0.5 * off**2, (off / (self.width * np.maximum(r, 1e-300)))[:, np.newaxis] * x


def _log_shell(radius: float, width: float, dim: int) -> float:
    """Return the log of the surface of the unit sphere times the integral of r^(d-1) exp(-E(r)).

    With t = (r - radius) / width the integral is a sum of moments of a truncated normal.
    """
    a = radius / width
    b = max(a, 1.0)  # powers of which are taken out: they may be no numbers
    # Moments of t over (-a, infinity), by m_k = (-a)^(k-1) phi(a) + (k-1) m_(k-2), here m_k / b^k.
    phi = math.exp(-0.5 * a * a) / math.sqrt(2 * math.pi)
    moments = [math.exp(float(log_ndtr(a))), phi / b]
    for k in range(2, dim):
        moments.append((-a / b) ** (k - 1) * phi / b + (k - 1) * moments[k - 2] / b**2)
    total = sum(math.comb(dim - 1, k) * (a / b) ** (dim - 1 - k) * moments[k] for k in range(dim))
    surface = math.log(2) + 0.5 * dim * math.log(math.pi) - float(gammaln(0.5 * dim))
    powers = dim * math.log(width) + (dim - 1) * math.log(b)
    return surface + powers + 0.5 * math.log(2 * math.pi) + math.log(total)


@compiled_block
def _shells_block(x, params, gradient_out, energy_out):
    d, n = x.shape
    radius, width, distance = params[0], params[1], params[2]
    squares = np.zeros(n)
    for i in range(1, d):
        for j in range(n):
            squares[j] += x[i, j] * x[i, j]
    along, across = np.empty(n), np.empty(n)
    for j in range(n):
        a, b = x[0, j] - distance, x[0, j] + distance
        ra, rb = math.sqrt(squares[j] + a * a), math.sqrt(squares[j] + b * b)
        off_a, off_b = (ra - radius) / width, (rb - radius) / width
        ea, eb = 0.5 * off_a * off_a, 0.5 * off_b * off_b
        low = min(ea, eb)
        wa, wb = exp(low - ea), exp(low - eb)
        energy_out[j] = low - log(wa + wb)
        pa = wa / (wa + wb) * off_a / (width * max(ra, 1e-300))
        pb = wb / (wa + wb) * off_b / (width * max(rb, 1e-300))
        along[j] = pa * a + pb * b
        across[j] = pa + pb
    for j in range(n):
        gradient_out[0, j] = along[j]
    for i in range(1, d):
        for j in range(n):
            gradient_out[i, j] = across[j] * x[i, j]


class Shells(Analytic):
    """Two shells side by side, the test of nested sampling (Feroz, Hobson & Bridges 2009, section 6.2).

    The density is the sum of exp(-(|x - c| - radius)^2 / (2 width^2)) over two centres.

    Parameters
    ----------
    dim
        Number of dimensions.
    radius, width
        Of each shell.
    distance
        The centres are at plus and minus this on the first axis.

    Raises
    ------
    InputError
        If one makes no sense.
    """

    _block = _shells_block
    _settings = ("dim", "radius", "width", "distance")

    def __init__(self, dim: int = 2, radius: float = 2.0, width: float = 0.1, distance: float = 3.5) -> None:
        check_lengths(radius=radius, width=width, distance=distance)
        self.radius, self.width, self.distance = float(radius), float(width), float(distance)
        self._set(checked_dim(dim), self.radius, self.width, self.distance)
        self.log_z = math.log(2) + _log_shell(self.radius, self.width, self.dim)

    def _formula(self, x: Array) -> tuple[Array, Array]:
        energies, gradients = [], []
        for sign in (1, -1):
            away = x.copy()
            away[:, 0] -= sign * self.distance
            r = np.sqrt((away * away).sum(axis=1))
            off = (r - self.radius) / self.width
            energies.append(0.5 * off**2)
            gradients.append((off / (self.width * np.maximum(r, 1e-300)))[:, np.newaxis] * away)
        low = np.minimum(*energies)
        weights = [np.exp(low - e) for e in energies]
        total = weights[0] + weights[1]
        gradient = sum((w / total)[:, np.newaxis] * g for w, g in zip(weights, gradients, strict=True))
        return low - np.log(total), np.asarray(gradient)
