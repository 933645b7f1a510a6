"""Systems whose log Z is known exactly: what estimators of it are tested on and compared by.

A system is an energy, what annealing begins with, and the log of the integral of exp(-E). Nothing is
compiled or computed before a system is asked for; each is then built once a process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

import physscore as ps
from physscore.core import Array, Energy, InputError, Prior


class System(NamedTuple):
    """An energy with a known log Z."""

    target: Energy
    """Its log Z is the log of the integral of exp(-E)."""

    reference: Prior | None
    """What annealing begins with; None: the target's own prior, or it is left to be fitted."""

    log_z: float
    """Exact: in closed form, or by a quadrature that has converged to 1e-7 at least."""


def names() -> list[str]:
    """Return the names of all systems."""
    return list(_BUILDERS)


@cache
def system(name: str) -> System:
    """Return the system of a name.

    Parameters
    ----------
    name
        One of :func:`names`.

    Raises
    ------
    InputError
        If there is no such system.
    """
    if name not in _BUILDERS:
        raise InputError(f"name is {name!r}: it must be one of {', '.join(_BUILDERS)}")
    return _BUILDERS[name]()


# Densities of vectors


def _standard(dim: int, std: float = 1.0) -> ps.Gaussian:
    return ps.Gaussian(0.0, std**2, dim=dim)


def _deviates(n: int, dim: int, seed: int) -> Array:
    """Return standard normal numbers (n, dim)."""
    return _standard(dim).sample(n, seed=seed)


def _power(density: Energy, factor: float, normalised: Energy, at: Array) -> tuple[Energy, float]:
    """Return a power of a density, and its log Z: what makes it the density ``normalised``, at a state."""
    target, state = factor * density, at[np.newaxis]
    return target, float((normalised.energy(state) - target.energy(state))[0])


def _gaussian() -> System:
    """The root of a normal density, with a condition number of 100, away from its reference."""
    axes, _ = np.linalg.qr(_deviates(10, 10, seed=1))
    covariance = axes * np.geomspace(0.03, 3.0, 10) @ axes.T
    mean = np.linspace(-2.0, 2.0, 10)
    target, log_z = _power(ps.Gaussian(mean, 0.5 * covariance), 0.5, ps.Gaussian(mean, covariance), mean)
    return System(target, _standard(10), log_z)


def _student() -> System:
    """Heavier tails than those of the reference: p^c of f degrees of freedom has c (f + d) - d."""
    density = ps.Student(11.0, math.sqrt(3 / 11), dim=5)
    target, log_z = _power(density, 0.5, ps.Student(3.0, 1.0, dim=5), np.zeros(5))
    return System(target, _standard(5), log_z)


def _mixture() -> System:
    """Four modes with the weights 0.1 to 0.4."""
    means = [[x, y] for x in (3.0, -3.0) for y in (3.0, -3.0)]
    return System(ps.GaussianMixture([0.1, 0.2, 0.3, 0.4], means, 0.25), _standard(2, std=3.0), 0.0)


def _separated_mixture() -> System:
    """Two modes 8.2 and 10.3 of their standard deviations apart, the wider of the lower weight."""
    means = np.outer([-1.3, 1.3], np.ones(10))
    return System(ps.GaussianMixture([0.3, 0.7], means, [1.0, 0.64]), _standard(10, std=3.0), 0.0)


def _funnel() -> System:
    return System(ps.Funnel(10), _standard(10), 0.0)


def _double_well() -> System:
    """32 modes of unequal weights."""
    target = ps.DoubleWell(tilt=0.3, dim=5)
    assert target.log_z is not None
    return System(target, _standard(5), target.log_z)


def _uniform(dim: int, low: float, high: float) -> ps.Parameters:
    return ps.Parameters(**{f"x{i}": ps.Uniform(low, high) for i in range(dim)})


def _shells(dim: int) -> System:
    """Two shells in a box, outside of which is less than 1e-7 of them.

    Feroz, Hobson & Bridges 2009, section 6.2, without their factor 1 / sqrt(2 pi width^2), whose log
    is 1.38365: in 10 dimensions they have -14.59.
    """
    shells = ps.Shells(dim)
    assert shells.log_z is not None
    return System(_uniform(dim, -6.0, 6.0) + shells, None, shells.log_z - dim * math.log(12.0))


def _eggbox() -> System:
    """18 modes.

    The box is 2.5 periods wide and the likelihood even, so its mean in the box is that over a period,
    of which the trapezoidal rule converges geometrically.
    """
    target = _uniform(2, 0.0, 10 * math.pi) + ps.EggBox()
    cosines = np.cos(2 * np.pi * np.arange(400) / 400)
    log_likelihood = (2.0 + np.outer(cosines, cosines)) ** 5
    top = log_likelihood.max()
    return System(target, None, float(top + np.log(np.exp(log_likelihood - top).mean())))


def _residuals(x: Array, params: Array, gradient_out: Array) -> float:
    """-log p of data given the coefficients x; params: noise, and for each datum it and its row."""
    d = len(x)
    noise_std, n = params[0], (len(params) - 1) // (d + 1)
    energy = n * math.log(noise_std * math.sqrt(2 * math.pi))
    for i in range(d):
        gradient_out[i] = 0.0
    for j in range(n):
        start = 1 + j * (d + 1)
        off = -params[start]
        for i in range(d):
            off += params[start + 1 + i] * x[i]
        energy += 0.5 * (off / noise_std) ** 2
        for i in range(d):
            gradient_out[i] += off / noise_std**2 * params[start + 1 + i]
    return float(energy)


def _regression() -> System:
    """Linear regression on 8 correlated columns: the data are normal, with the noise and the prior's
    covariance through the columns."""
    prior, noise_std, n = _standard(8, std=2.0), 0.5, 40
    rows = _deviates(n, 8, seed=2) + 2.0 * _deviates(n, 1, seed=3)
    data = rows @ prior.sample(1, seed=4)[0] + noise_std * _deviates(n, 1, seed=5)[:, 0]
    params = np.concatenate([[noise_std], np.column_stack([data, rows]).ravel()])
    likelihood = ps.compiled(_residuals, dim=8, params=params, name="regression")
    covariance = noise_std**2 * np.eye(n) + rows @ (prior.covariance[:, np.newaxis] * rows.T)
    return System(prior + likelihood, None, _log_evidence(covariance, data))


def _log_evidence(covariance: Array, data: Array) -> float:
    """Return log p of data whose mean is 0."""
    return -float(ps.Gaussian(0.0, covariance).energy(data[np.newaxis])[0])


# Lattices


def _phi4(shape: tuple[int, ...], mass2: float, coupling: float, nodes: int) -> System:
    target = ps.Phi4(shape, mass2=mass2, coupling=coupling)
    return System(target, None, phi4_log_z(shape, mass2, coupling, nodes))


def phi4_log_z(shape: tuple[int, ...], mass2: float, coupling: float, nodes: int) -> float:
    """Return log Z of ``Phi4(shape, mass2=, coupling=)``: of a chain, or of a torus at least 3 wide.

    The trace of a power of the transfer matrix between rows, with Gauss quadrature over each site.

    Parameters
    ----------
    shape
        (length,) or (width, length).
    mass2, coupling
        Those of :class:`physscore.Phi4`.
    nodes
        Of the quadrature, whose error falls exponentially: the matrix has nodes^width rows.
    """
    *width, length = shape
    square = len(shape) + 0.5 * mass2  # E = sum of square phi^2 + coupling phi^4 - phi phi' over bonds
    # The neighbours widen what a site sees; a part of that in its weight makes few nodes enough.
    shift = 0.25 * len(shape)
    phi, weights = _gauss_rule(lambda x: (shift - square) * x**2 - coupling * x**4, nodes)
    site = np.sqrt(weights) * np.exp(-0.5 * shift * phi**2)
    hop = site[:, np.newaxis] * np.exp(np.outer(phi, phi)) * site
    matrix = np.ones((1, 1))
    for _ in range(math.prod(width)):
        matrix = np.kron(matrix, hop)
    if width:
        rows = np.stack(np.meshgrid(*[phi] * width[0], indexing="ij")).reshape(width[0], -1)
        half = np.exp(0.5 * (rows * np.roll(rows, 1, axis=0)).sum(axis=0))
        matrix *= half[:, np.newaxis] * half
    eigenvalues = np.linalg.eigvalsh(matrix)
    top = eigenvalues.max()
    return float(length * np.log(top) + np.log(((eigenvalues / top) ** length).sum()))


def _gauss_rule(
    log_weight: Callable[[Array], Array], nodes: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return nodes and weights of Gauss quadrature (Golub & Welsch 1969, Math. Comp. 23, 221).

    The polynomials are made orthonormal on a fine grid, where sums of smooth functions are integrals.
    """
    x = np.linspace(-6.0, 6.0, 1201)
    root = np.sqrt(np.exp(log_weight(x)) * (x[1] - x[0]))
    basis, _ = np.linalg.qr(root[:, np.newaxis] * np.polynomial.legendre.legvander(x / 6, nodes - 1))
    places, vectors = np.linalg.eigh(basis.T @ (x[:, np.newaxis] * basis))
    return places, (root @ basis[:, :1] @ vectors[:1]) ** 2


def _ising(side: int, coupling: float) -> System:
    target = ps.Ising((side, side), coupling=coupling)
    return System(target, None, target.exact_log_z())


# Random fields


def _field(shape: tuple[int, ...], masked: bool = False) -> System:
    """A field of P(k) = k^-2 in cells of size 1, seen through noise of P = 1: alike at k = 1.

    Where ``masked``, half of the box has no data. Modes that the prior fixes at 0, here k = 0, show
    noise alone.
    """
    grid = ps.Grid(shape, [float(side) for side in shape])
    spectrum, noise_std = ps.spectra.PowerLaw(index=-2.0), 1.0
    prior = ps.GaussianRandomField(grid, spectrum)
    mask = np.ones(shape, bool)
    if masked:
        mask[: shape[0] // 2] = False
    data = prior.sample(1, seed=6)[0] + noise_std * _deviates(1, grid.n_cells, seed=7).reshape(shape)
    target = prior + ps.GaussianNoise(data, noise_std, mask=mask)
    k = _wavenumbers(grid)
    variances = np.zeros(shape)  # of the modes of the unitary DFT, which are those of the cells
    variances[k > 0] = spectrum(k[k > 0]) * grid.n_cells / grid.volume
    if masked:
        return System(target, None, _log_evidence(_covariance(variances, noise_std, mask), data[mask]))
    total = variances + noise_std**2
    modes = np.abs(np.fft.fftn(data, norm="ortho")) ** 2
    return System(target, None, float(-0.5 * (modes / total + np.log(2 * math.pi * total)).sum()))


def _wavenumbers(grid: ps.Grid) -> npt.NDArray[np.float64]:
    """Return |k| of every mode of the whole DFT."""
    sides = zip(grid.shape, grid.cell_size, strict=True)
    axes = [2 * np.pi * np.fft.fftfreq(n, cell) for n, cell in sides]
    return np.asarray(np.sqrt(sum(k**2 for k in np.meshgrid(*axes, indexing="ij"))))


def _covariance(variances: Array, noise_std: float, mask: npt.NDArray[np.bool_]) -> Array:
    """Return the covariance of the data in the cells of ``mask``: the field's depends on their distance."""
    correlation = np.fft.ifftn(variances).real
    cells = [place[:, np.newaxis] - place for place in np.nonzero(mask)]
    return np.asarray(correlation[tuple(cells)] + noise_std**2 * np.eye(int(mask.sum())))


_BUILDERS: dict[str, Callable[[], System]] = {
    "gaussian": _gaussian,
    "student": _student,
    "mixture": _mixture,
    "mixture-10": _separated_mixture,
    **{f"shells-{dim}": partial(_shells, dim) for dim in (2, 5, 10, 20, 30)},
    "eggbox": _eggbox,
    "funnel": _funnel,
    "double-well": _double_well,
    "regression": _regression,
    "phi4-chain": partial(_phi4, (32,), mass2=-2.0, coupling=0.5, nodes=24),
    "phi4-4x4": partial(_phi4, (4, 4), mass2=-0.5, coupling=0.5, nodes=6),
    "phi4-4x16": partial(_phi4, (4, 16), mass2=-0.5, coupling=0.5, nodes=6),
    **{
        f"ising-{side}-{coupling}": partial(_ising, side, coupling)
        for side in (8, 16, 32, 64)
        for coupling in (0.3, 0.4406868, 0.6)  # the second is critical
    },
    "field-16x16": partial(_field, (16, 16)),
    "field-64x64": partial(_field, (64, 64)),
    "field-16^3": partial(_field, (16, 16, 16)),
    "field-64^3": partial(_field, (64, 64, 64)),
    "field-masked-16x16": partial(_field, (16, 16), masked=True),
    "field-masked-64x64": partial(_field, (64, 64), masked=True),
}
