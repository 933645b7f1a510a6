"""Lognormal fields: the Gaussian field behind one has the power that gives the target's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states, device_of, n_threads, namespace, on_gpu, parallel
from physscore.core import Array, InputError, Prior
from physscore.energies.mode_power import SpectrumLike, power_of_modes
from physscore.energies.random_field import GaussianRandomField, require_memory_for
from physscore.grid import Columns, Grid, WavenumberTable, multiplicity, require_grid
from physscore.spectra.model import require_dimension

_Floats = npt.NDArray[np.float64]

# Relative excess of power that a lognormal field may have before it says so.
_MET_WITHIN = 1e-3

_MAX_ITERATIONS = 500
_TOLERANCE = 1e-5  # of the target, at the modes that cannot be met
_ROUNDING = 1e-15  # of the transforms, relative to the largest power
# Below this variance of g, exp(g) - 1 loses more than a digit. NumPy's expm1 can be 20 times slower than exp.
_SMALL = 0.01


class ImpossibleSpectrumError(InputError):
    """No positive density has this spectrum."""


class LognormalField(Prior):
    """A density contrast delta > -1 whose logarithm is a Gaussian field, with a given spectrum.

    delta = exp(g - sigma^2 / 2) - 1, where the correlation of g is ln(1 + xi) of the target
    correlation xi on this very grid (Coles & Jones 1991, MNRAS 248, 1), so that the *target*
    spectrum is met, not that of g. The mean of g is fixed at zero; the box average of delta is
    then zero on average and fluctuates a little.

    Not every spectrum can be had: where the power of g would be negative it is zero, which leaves
    more power than asked for. A warning then says at which k and by how much.

    Parameters
    ----------
    grid, spectrum
        As for :class:`GaussianRandomField`.

    Attributes
    ----------
    gaussian : GaussianRandomField
        The law of g = ln(1 + delta) + sigma^2 / 2.
    wavenumbers : WavenumberTable
        The |k| of every mode, as a table over the octant of non-negative frequencies.
    shift : float
        sigma^2 / 2.
    power : array
        P that delta really has, for each entry of ``wavenumbers``.
    excess : array
        How much ``power`` is above the target, relative to it; 0 where the target is met.

    Raises
    ------
    InputError
        If the spectrum cannot be used; ImpossibleSpectrumError if it asks for a correlation of -1 or less.
    """

    one_by_one = True

    def __init__(self, grid: Grid, spectrum: SpectrumLike) -> None:
        require_grid(grid)
        require_dimension("spectrum", spectrum, grid.dim)
        self.grid = grid
        self.shape = grid.shape
        self.spectrum = spectrum
        require_memory_for(grid, 1, np.dtype(np.float64))  # finding the power takes as much
        self.wavenumbers = WavenumberTable(grid, octant=True)
        target = power_of_modes(self.wavenumbers, spectrum)
        power, self.power = gaussian_power(grid, target)
        self.gaussian = GaussianRandomField.from_modes(grid, self.wavenumbers, power)
        self.shift = self.gaussian.variance / 2
        self._unmet = self._find_unmet(_excess(self.power, target))
        if unmet := self._unmet:
            most = 100 * unmet["excess"]
            warnings.warn(
                f"no lognormal field has this spectrum: at {100 * unmet['share']:.3g}% of the modes, "
                f"with k from {unmet['k_min']:.4g} to {unmet['k_max']:.4g}, its power is too high, "
                + (f"at most by {most:.3g}%" if np.isfinite(most) else "also where none is asked for"),
                UserWarning,
                stacklevel=2,
            )

    def unmet(self) -> dict[str, float] | None:
        """Return where the target is not met to 0.1%, if anywhere.

        ``share`` of the modes, ``k_min`` and ``k_max`` among them, and the largest ``excess``: infinite
        where the target has no power.
        """
        return self._unmet

    @property
    def excess(self) -> _Floats:
        """Ratio of the power of delta to the target minus 1, over ``wavenumbers``: 0 where it is met."""
        return _excess(self.power, power_of_modes(self.wavenumbers, self.spectrum))

    def _find_unmet(self, excess: _Floats) -> dict[str, float] | None:
        over = excess > _MET_WITHIN
        if not over.any():
            return None
        k = self.wavenumbers.k[over]
        return {
            "share": float(self.wavenumbers.counts[over].sum() / self.grid.n_cells),
            "k_min": float(k.min()),
            "k_max": float(k.max()),
            "excess": float(excess[over].max()),
        }

    def sample(
        self,
        n: int,
        *,
        seed: int,
        dtype: npt.DTypeLike = np.float64,
        fixed: bool = False,
        paired: bool = False,
        first: int = 0,
        device: str = "cpu",
    ) -> Array:
        """Return ``n`` fields of shape (n, *grid.shape); arguments as for the Gaussian field.

        ``fixed`` and ``paired`` act on the Gaussian field, as is usual.
        """
        fields = self.gaussian.sample(
            n, seed=seed, dtype=dtype, fixed=fixed, paired=paired, first=first, device=device
        )
        return self.cells_of(fields)

    def modes_of(self, number: int, **options: Any) -> Callable[[Columns | None], Array]:
        """Return what draws the modes of g; see the Gaussian field."""
        return self.gaussian.modes_of(number, **options)

    def sample_box(self, corner: Sequence[int], shape: Sequence[int], **options: Any) -> Array:
        """Return the cells of a box inside of a field; see the Gaussian field."""
        return self.cells_of(self.gaussian.sample_box(corner, shape, **options))

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return -log p of each field: that of g = ln(1 + delta) plus the Jacobian, sum of ln(1 + delta).

        As with the Gaussian field, the fixed mean of g has no share. Infinite where delta <= -1.
        """
        states = as_states(x, self.shape)
        allowed = (states > -1).all(axis=tuple(range(1, states.ndim)))
        energies: _Floats = namespace(device_of(x)).full(len(states), np.inf)
        if allowed.any():
            g = self.logarithm(states[allowed])
            jacobian = g.reshape(len(g), -1).sum(axis=1, dtype=np.float64)
            jacobian -= self.shift * self.grid.n_cells
            energies[allowed] = self.gaussian.energy(g) + jacobian
        return energies

    def score(self, x: Array) -> Array:
        """Return grad log p, of the shape of ``x``; not a number where delta <= -1."""
        states = as_states(x, self.shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            score: Array = (self.gaussian.score(self.logarithm(states)) - 1) / (1 + states)
            return score

    def whiten(self, x: Array) -> Array:
        """Return the white field of g = ln(1 + delta) + sigma^2 / 2."""
        return self.gaussian.whiten(self.logarithm(as_states(x, self.shape)))

    def unwhiten(self, z: Array) -> Array:
        """Return the density contrast of the white field ``z``."""
        return self.cells_of(self.gaussian.unwhiten(z))

    def pull_back(self, z: Array, gradient: Array) -> Array:
        """Return the gradient over z, through d delta / dg = 1 + delta."""
        return self.gaussian.pull_back(z, gradient * (1 + self.unwhiten(z)))

    def to_gaussian(self, x: Array) -> Array:
        """Return g = ln(1 + delta) + sigma^2 / 2, the Gaussian field behind ``x``."""
        return self.logarithm(as_states(x, self.shape))

    def logarithm(self, x: Array) -> Array:
        """Return g of cells, of any shape."""
        with np.errstate(invalid="ignore", divide="ignore"):
            g: Array = np.log1p(x)
        g += x.dtype.type(self.shift)
        return g

    def cells_of(self, g: Array) -> Array:
        """Turn g into delta, in place, whatever the shape; cells that round to -1 stay above it."""
        lowest = np.nextafter(g.dtype.type(-1), g.dtype.type(0))
        exp_minus_1 = _expm1 if self.gaussian.variance < _SMALL else _exp_less_1
        if on_gpu(g):
            g -= g.dtype.type(self.shift)
            exp_minus_1(g)
            np.maximum(g, lowest, out=g)
            return g
        flat = g.reshape(-1)
        piece = 1 << 15  # passes over what stays in the cache
        shift = g.dtype.type(self.shift)

        def run(start: int, stop: int) -> None:
            for i in range(start, stop):
                part = flat[i * piece : (i + 1) * piece]
                part -= shift
                exp_minus_1(part)
                np.maximum(part, lowest, out=part)

        parallel(run, -(-len(flat) // piece))
        return g

    def __repr__(self) -> str:
        return f"LognormalField({self.grid!r}, {self.spectrum!r})"


def _expm1(x: Array) -> None:
    np.expm1(x, out=x)


def _exp_less_1(x: Array) -> None:
    np.exp(x, out=x)
    x -= 1


def _excess(power: _Floats, target: _Floats) -> _Floats:
    excess = np.zeros_like(target)
    with np.errstate(divide="ignore", over="ignore"):
        np.divide(power - target, target, out=excess, where=power > target)
    return excess


def gaussian_power(grid: Grid, target: _Floats) -> tuple[_Floats, _Floats]:
    """Return the power of the Gaussian field g and that of delta = exp(g - var(g)/2) - 1.

    The correlations are tied by xi_g = ln(1 + xi), cell by cell. Two things are free or bound:

    * The power of delta at k = 0, a constant c added to xi, is free, and chosen such that g has
      none there.
    * The power of g must not be negative. Where ln(1 + xi) asks for that, the power of delta is
      raised above the target until g has none: with T the raised target and P_g(T) its Gaussian
      power, 0 <= T - target, 0 <= P_g(T), and one of the two is zero at each mode. This monotone
      complementarity problem is solved by projection, T <- max(target, T - P_g(T)).

    Parameters
    ----------
    grid
        The box.
    target
        Wanted P over the octant of non-negative frequencies, flat, in length^dim; 0 at k = 0.

    Returns
    -------
    power, achieved
        Of g and of delta, like ``target``; both 0 at k = 0.

    Raises
    ------
    ImpossibleSpectrumError
        If the target asks for a correlation of -1 or less, which no density can have.
    """
    shape = tuple(n // 2 + 1 for n in grid.cube)
    to_power = grid.volume / grid.n_cells
    wanted = target.reshape(shape)
    raised = wanted.copy()
    for _ in range(_MAX_ITERATIONS):
        correlation = _sum_over_modes(raised, grid.cube) / grid.volume
        power = to_power * _sum_over_modes(_log_without_mean(correlation, grid.cube), grid.cube)
        power[0, 0, 0] = 0.0
        # Rounding in the transforms is relative to the largest power, not to each.
        slack = np.maximum(_TOLERANCE * wanted, 1e-12 * power.max())
        if (power >= -slack).all():
            break
        raised = np.maximum(wanted, raised - power)
    power[power < _ROUNDING * power.max()] = 0.0
    achieved = to_power * _sum_over_modes(
        np.expm1(_sum_over_modes(power, grid.cube) / grid.volume), grid.cube
    )
    met = np.abs(achieved - wanted) < _ROUNDING * achieved.max()
    achieved = np.where(met, wanted, achieved)
    achieved[0, 0, 0] = 0.0
    return power.ravel(), achieved.ravel()


def _log_without_mean(correlation: _Floats, cube: tuple[int, int, int]) -> _Floats:
    """Return ln(1 + xi + c), with the c that makes its mean over the box zero (Newton's method)."""
    lowest = float(correlation.min())
    if lowest <= -1:
        raise ImpossibleSpectrumError(
            f"spectrum asks for a correlation of {lowest:.3g}, which no positive density has: "
            "use a smaller amplitude"
        )
    weights = [multiplicity(n) / n for n in cube]

    def mean(values: _Floats) -> float:
        return float(np.einsum("xyz,x,y,z->", values, *weights, optimize=True))

    c = 0.0
    for _ in range(50):
        step = mean(np.log1p(correlation + c)) / mean(1 / (1 + correlation + c))
        c -= step
        if abs(step) < 1e-15:
            break
    return np.asarray(np.log1p(correlation + c))


def _sum_over_modes(octant: _Floats, cube: tuple[int, int, int]) -> _Floats:
    """Return sum_k values(k) exp(ikx) of what is even along each axis, octant in and octant out."""
    import scipy.fft

    for axis, n in enumerate(cube):
        if n == 1:
            continue
        if n % 2 == 0:
            octant = scipy.fft.dct(octant, type=1, axis=axis, workers=n_threads())
        else:
            negative = np.flip(octant, axis).take(range(n // 2), axis)
            whole = np.concatenate([octant, negative], axis)
            octant = np.ascontiguousarray(scipy.fft.rfft(whole, axis=axis, workers=n_threads()).real)
    return octant
