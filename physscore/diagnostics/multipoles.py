"""Multipoles of the power spectrum: how it depends on the angle to a line of sight."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numpy.polynomial import legendre, polynomial

from physscore.arrays import real_numbers
from physscore.core import Array, InputError
from physscore.diagnostics.bins import PowerBins, power_bins
from physscore.diagnostics.many_fields import counted, is_batch, modes_of
from physscore.diagnostics.mass_assignment import (
    inverse_window,
    orders_of,
    shot_noise_products,
    shot_noises_of,
)
from physscore.diagnostics.pairs import repeat_the_last, some_cells
from physscore.diagnostics.table import table
from physscore.grid import Grid, multiplicity, require_grid
from physscore.modes import sum_power
from physscore.slabs import FieldInPieces

_Floats = npt.NDArray[np.float64]
_Axes = tuple[_Floats, _Floats, _Floats]  # functions of the non-negative frequencies of each axis

_AXES = {"x": 0, "y": 1, "z": 2}
_HIGHEST = 8  # order, whose error takes mu to the 16th


@dataclass(frozen=True, eq=False)
class PowerMultipoles:
    """Multipoles of the power in bins of |k|: P_l = (2 l + 1) <|delta_k|^2 L_l(mu)> / V.

    mu is the cosine of the angle between k and the line of sight, L_l a Legendre polynomial, and the mean is
    over the modes of a bin. Where k is small these are few, and not spread evenly over mu: :meth:`expected`
    returns what a model has on the same modes.

    Attributes
    ----------
    k : array (bins,)
        Mean |k| of the modes in each bin, in rad per unit length.
    power : array (orders, bins) or (n, orders, bins)
        P_l of one field or of each of a batch, in length^3, shot noise subtracted.
    error : array
        Standard error of ``power`` for Gaussian modes, shot noise included, with an unbiased square, from the
        modes themselves. A low measurement has a low error: weight by the :meth:`covariance` of a model.
    n_modes, k_edges
        As in :class:`PowerSpectrum`.
    orders
        The l, in the order of ``power``.
    grid, line_of_sight
        The box, and the axis along which mu is 1.
    shot_noise, mass_assignment, interlaced
        As they were given.
    independent : int
        Number of fields, without those that are the one before or its opposite.
    """

    k: _Floats
    power: _Floats
    error: _Floats
    n_modes: npt.NDArray[np.int64]
    k_edges: _Floats
    orders: tuple[int, ...]
    grid: Grid
    line_of_sight: int
    shot_noise: float = 0.0
    mass_assignment: str | None = None
    interlaced: bool = False
    independent: int = 1

    def mean_error(self) -> _Floats:
        """Return the standard error of the mean multipoles of the fields, shape (orders, bins)."""
        squares = (self.error**2).reshape(-1, *self.error.shape[-2:]).mean(axis=0)
        return np.asarray(np.sqrt(squares / self.independent))

    def expected(self, model: Callable[[_Floats, _Floats], Array]) -> _Floats:
        """Return the multipoles (orders, bins) of a model, averaged over the modes that were measured.

        Parameters
        ----------
        model
            P(k, mu), called with arrays of k > 0 and of mu from 0 to 1.

        Raises
        ------
        InputError
            If it does not return a finite number for each.
        """
        bins, total = power_bins(self.grid, self.k_edges), np.zeros((len(self.orders), len(self.k)))
        for plane in _planes(self.grid, self.line_of_sight, bins):
            total += plane.sums(plane.power_of(model) * _legendre(self.orders, plane.mu), len(self.k))
        with np.errstate(invalid="ignore"):  # of bins without modes
            return np.asarray(total / self.n_modes)

    def covariance(self, model: Callable[[_Floats, _Floats], Array]) -> _Floats:
        """Return the covariance (bins, orders, orders) of the multipoles of one Gaussian field of a model.

        It is that of these very modes, with the shot noise of the measurement; that between bins is 0 (the
        sums behind Grieb et al. 2016, arXiv:1509.04293, eq. 15). Arguments are those of :meth:`expected`.
        """
        bins = power_bins(self.grid, self.k_edges)
        (order,) = orders_of(self.mass_assignment, 1)
        noise = shot_noise_products(self.shot_noise, self.grid, order, self.interlaced)
        pairs = list(product(range(len(self.orders)), repeat=2))
        total = np.zeros((len(pairs), len(self.k)))
        for plane in _planes(self.grid, self.line_of_sight, bins):
            each = _legendre(self.orders, plane.mu)
            squares = 2 * (plane.power_of(model) + plane.sum_of(noise)) ** 2
            total += plane.sums(np.array([squares * each[i] * each[j] for i, j in pairs]), len(self.k))
        with np.errstate(invalid="ignore"):
            total /= self.n_modes**2
        return total.T.reshape(-1, len(self.orders), len(self.orders))

    def __str__(self) -> str:
        n = len(self.power) if self.power.ndim == 3 else 1
        mean, error = self.power.reshape(n, *self.power.shape[-2:]).mean(axis=0), self.mean_error()
        columns: dict[str, Any] = {"k": self.k}
        for i, order in enumerate(self.orders):
            columns |= {f"P{order}": mean[i], f"error {order}": error[i]}
        head = (
            f"multipoles of the power of {n} field{'s, their mean' if n > 1 else ''}, line of sight "
            f"{'xyz'[self.line_of_sight]}: {len(self.k)} bins of k from {self.k_edges[0]:.4g} to "
            f"{self.k_edges[-1]:.4g}"
        )
        return "\n".join([head, *table({**columns, "modes": self.n_modes})])


def power_multipoles(
    delta: Any,
    grid: Grid,
    *,
    line_of_sight: int | str = "z",
    orders: Sequence[int] = (0, 2, 4),
    bins: str | Sequence[float] | _Floats = "linear",
    shot_noise: float = 0.0,
    mass_assignment: str | None = None,
    interlaced: bool = False,
    progress: bool = False,
) -> PowerMultipoles:
    """Measure the multipoles of the power spectrum of fields that depend on a line of sight.

    It is an axis of a periodic box, as for observers far away. The powers of mu are summed over exact shells,
    in passes over the modes of one transform.

    Parameters
    ----------
    delta
        One field of shape ``grid.shape``, or a batch (n, *grid.shape), as for :func:`power_spectrum`.
    grid
        The box, of three dimensions.
    line_of_sight
        The axis: "x", "y" or "z", or 0, 1 or 2.
    orders
        The l, even numbers to 8; the odd multipoles of a real field are 0.
    bins, shot_noise, mass_assignment, interlaced, progress
        As for :func:`power_spectrum`.

    Raises
    ------
    InputError
        If shapes do not fit the grid, values are not finite, or an option is unknown.
    """
    require_grid(grid)
    if grid.dim != 3:
        raise InputError(f"grid has {grid.dim} dimension(s): multipoles are for 3")
    axis, chosen = _axis(line_of_sight), _orders(orders)
    (noise,), (order,) = shot_noises_of(shot_noise, 1), orders_of(mass_assignment, 1, interlaced)
    stacked = is_batch(delta, grid)
    fields = delta if stacked else [delta]
    if len(fields) == 0:
        raise InputError("delta holds no fields: it must hold at least 1")
    wavenumbers, binned = grid.wavenumbers, power_bins(grid, bins)
    polynomials = [_in_squares(l) for l in chosen]
    squared = [polynomial.polymul(p, p) for p in polynomials]
    moments, factors = partial(_moments, grid=grid, bins=binned), partial(_factors, grid=grid, axis=axis)
    n, n_squared = max(map(len, polynomials)), max(map(len, squared))
    of_noise: Any = sum(
        moments(wavenumbers.sum_over_modes, factors(axes, n))
        for axes in shot_noise_products(noise, grid, order, interlaced)
    )
    of_squares = factors(inverse_window(grid, 2 * order), n)
    of_fourth_powers = factors(inverse_window(grid, 4 * order), n_squared)
    to_power = grid.volume / grid.n_cells**2
    power, error, independent = [], [], 0
    before: list[_Floats] = []
    for i in counted(len(fields), progress):
        if isinstance(fields[i], FieldInPieces):
            raise InputError("delta is a field in pieces, which has no multipoles: read all of it")
        field = fields[i]
        modes, some = modes_of(field, grid, "delta"), [some_cells(field)[np.newaxis]]
        del field  # which is used up
        sums = to_power * moments(partial(sum_power, modes, modes, wavenumbers), of_squares)
        power.append([binned.over_modes(p @ (sums - of_noise)[: len(p)]) for p in polynomials])
        if not np.isfinite(np.array(power[-1])[:, binned.n_modes > 0]).all():
            raise InputError("delta holds values that are not finite: its power spectrum is not defined")
        # |delta_k|^4 is 2 P^2 in the mean for Gaussian modes: what each adds to the variance.
        unit = _unit_of(modes)
        cubes = modes * (modes.real**2 + modes.imag**2)
        sums = moments(partial(sum_power, cubes, modes, wavenumbers), of_fourth_powers)
        del modes, cubes
        with np.errstate(invalid="ignore"):
            roots = [np.sqrt(np.maximum(p @ sums[: len(p)], 0)) / binned.n_modes for p in squared]
        error.append([to_power * unit**2 * root for root in roots])
        independent += not repeat_the_last(some, before)[0]
        before = some
    return PowerMultipoles(
        k=binned.k,
        power=np.array(power if stacked else power[0]),
        error=np.array(error if stacked else error[0]),
        n_modes=binned.n_modes,
        k_edges=binned.k_edges,
        orders=chosen,
        grid=grid,
        line_of_sight=axis,
        shot_noise=float(noise),
        mass_assignment=mass_assignment,
        interlaced=interlaced,
        independent=independent,
    )


def _unit_of(modes: Array) -> float:
    """Divide modes by a power of two, so that their fourth powers are numbers of their type; return it.

    The mode at k = 0, which may be far above all others and is in no bin, is put to 0.
    """
    modes[(0,) * modes.ndim] = 0
    parts = modes.view(modes.real.dtype)
    highest = max(float(parts.max()), -float(parts.min()))
    unit = 2.0 ** math.frexp(highest)[1] if highest else 1.0
    modes *= 1 / unit
    return unit


def _axis(line_of_sight: Any) -> int:
    found = _AXES.get(line_of_sight) if isinstance(line_of_sight, str) else line_of_sight
    if not isinstance(found, int | np.integer) or isinstance(found, bool) or found not in (0, 1, 2):
        raise InputError(f"line_of_sight is {line_of_sight!r}: it must be x, y or z, or 0, 1 or 2")
    return int(found)


def _orders(orders: Any) -> tuple[int, ...]:
    found = tuple(orders) if isinstance(orders, Sequence | np.ndarray) else (orders,)
    known = [l for l in range(0, _HIGHEST + 1, 2) for order in found if np.ndim(order) == 0 and l == order]
    if not found or len(set(known)) < len(found):
        raise InputError(f"orders is {orders!r}: it must hold different even numbers from 0 to {_HIGHEST}")
    return tuple(map(int, found))


def _in_squares(order: int) -> _Floats:
    """Return the coefficients of (2 l + 1) L_l(mu), of an even l, in powers of mu^2."""
    return np.asarray((2 * order + 1) * legendre.leg2poly([0.0] * order + [1.0])[::2])


def _legendre(orders: tuple[int, ...], mu: _Floats) -> _Floats:
    return np.array([polynomial.polyval(mu**2, _in_squares(order)) for order in orders])


def _factors(weights: _Axes, n: int, grid: Grid, axis: int) -> list[_Axes]:
    """Return functions of the axes whose product has factors k_a^0, k_a^2, ..., of k along one axis."""
    along = grid.fundamental[axis] * np.arange(grid.shape[axis] // 2 + 1)
    return [
        cast(_Axes, tuple(w * along ** (2 * m) if a == axis else w for a, w in enumerate(weights)))
        for m in range(n)
    ]


def _moments(
    sum_over: Callable[[_Axes], _Floats], factors: list[_Axes], grid: Grid, bins: PowerBins
) -> _Floats:
    """Return the sums over the modes of each bin (n, bins) with factors mu^0, mu^2, ..., mu^(2 n - 2).

    ``sum_over`` gives sums over the modes of a shell, on which |k| is one number, with a product of functions
    of the axes.
    """
    k = np.where(grid.wavenumbers.k > 0, grid.wavenumbers.k, np.inf)
    return bins.sum(np.array([sum_over(axes) / k ** (2 * m) for m, axes in enumerate(factors)]))


def _takes_two(model: Any) -> bool:
    if not callable(model):
        return False
    try:
        inspect.signature(model).bind(0.0, 0.0)
    except TypeError:
        return False
    except ValueError:  # of some compiled functions nothing is known
        pass
    return True


@dataclass(frozen=True, eq=False)
class _Plane:
    """Modes of one frequency along the line of sight, those together that differ in signs: k, mu, their
    numbers and bins."""

    k: _Floats
    mu: _Floats
    counts: npt.NDArray[np.int64]
    bins: npt.NDArray[np.int64]
    sum_of: Callable[[list[_Axes]], Any]  # products of functions of the axes, for each mode

    def power_of(self, model: Callable[[_Floats, _Floats], Array]) -> _Floats:
        if not _takes_two(model):
            raise InputError(
                f"model is {model!r}: it must be a function P(k, mu), as of a spectrum lambda k, mu: pk(k)"
            )
        values = real_numbers(model(self.k, self.mu), "what model returned")
        if values.shape not in ((), self.k.shape) or not np.isfinite(values).all():
            raise InputError("model must return one finite P for each k and mu")
        return values

    def sums(self, values: _Floats, n: int) -> _Floats:
        """Return sums over the modes of each bin (rows, n) of values (rows, modes)."""
        return np.array([np.bincount(self.bins, self.counts * row, n) for row in values])


def _planes(grid: Grid, axis: int, bins: PowerBins) -> Iterator[_Plane]:
    octant, k = grid.wavenumbers.octant, grid.wavenumbers.k
    a, b = (other for other in range(3) if other != axis)
    signs = [multiplicity(n) for n in grid.shape]
    for j in range(grid.shape[axis] // 2 + 1):
        entries = np.add.outer(octant[a], octant[b]) + octant[axis][j]
        inside = bins.of_entry[entries] >= 0

        def sum_of(products: list[_Axes], j: int = j, inside: Any = inside) -> Any:
            return sum(np.multiply.outer(p[a], p[b])[inside] * p[axis][j] for p in products)

        length = k[entries[inside]]
        yield _Plane(
            k=length,
            mu=np.minimum(j * grid.fundamental[axis] / length, 1.0),
            counts=np.multiply.outer(signs[a], signs[b])[inside] * signs[axis][j],
            bins=bins.of_entry[entries[inside]],
            sum_of=sum_of,
        )
