"""Particles and fields: particles drawn from a field, and put on a grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import (
    compiled,
    floating_dtype,
    parallel,
    real_number,
    real_numbers,
    require_memory,
    unmasked,
)
from physscore.core import Array, InputError
from physscore.diagnostics.mass_assignment import orders_of
from physscore.fft import forward_fft, inverse_fft
from physscore.grid import Grid, require_grid
from physscore.philox import seed_key

_FAR = 1e6  # sides of a box


def draw_particles(delta: Any, grid: Grid, density: float, *, seed: int) -> npt.NDArray[np.float64]:
    """Return particles drawn from a field: their number in a cell is Poisson-distributed, with the mean
    density (1 + delta) times its volume, and within it they are uniform.

    Cell i is around i times the cell size, as ``Grid.coordinates`` says. On the same grid, "ngp" of
    :func:`paint` returns the counts, which no window has smoothed: their power is that of delta, and the shot
    noise 1 / density. On finer cells, or spread wider, the cells are a window of their own.

    Parameters
    ----------
    delta : array grid.shape
        The density contrast, at least -1: that of a :class:`LognormalField`, as a Gaussian one goes below.
    grid
        The box and its cells.
    density : float
        The mean number of particles a unit of volume.
    seed : int
        Of the draws.

    Returns
    -------
    array (n, grid.dim)
        Positions in [0, box size), in the order of the cells.

    Raises
    ------
    InputError
        If delta is below -1, not finite or of another shape, or the density is not positive, or of more
        particles than there is memory for.
    """
    field = _one_field(delta, grid)
    if not real_number(density, "density") > 0:
        raise InputError(f"density is {density!r}: it must be a positive number of particles a volume")
    lowest = float(field.min())
    if not (lowest >= -1 and math.isfinite(float(field.max()))):
        raise InputError(
            f"delta is {lowest:.3g} somewhere: it must be finite, and at least -1, where there is nothing; "
            "LognormalField is"
        )
    many = density * float(1 + field.mean()) * grid.volume
    require_memory(
        int(min(many, 1e18)) * (3 * grid.dim + 2) * 8, f"density {density:g}, of {many:.4g} particles,"
    )
    rng = np.random.Generator(np.random.Philox(key=np.array(seed_key(seed), np.uint64)))
    counts = rng.poisson((1 + field.ravel()) * (density * grid.volume / grid.n_cells))
    positions = np.stack(
        np.unravel_index(np.repeat(np.arange(grid.n_cells), counts), grid.shape), axis=1
    ).astype(np.float64)
    positions += rng.random(positions.shape)
    positions -= 0.5
    positions *= grid.cell_size
    return np.asarray(np.mod(positions, grid.box_size, out=positions))


def paint(
    positions: Any,
    grid: Grid,
    *,
    mass_assignment: str = "cic",
    weights: Any = None,
    interlaced: bool = False,
    dtype: npt.DTypeLike = "float64",
) -> Array:
    """Return the density contrast of particles, their density over its mean minus 1, on a grid.

    ``power_spectrum(..., mass_assignment=, interlaced=)``, both as here, divides the window out; its
    ``shot_noise`` is the volume over the number of particles, or V sum w^2 / (sum w)^2.

    Parameters
    ----------
    positions : array (n, grid.dim)
        In the units of the box, which is periodic: those beyond it come in on the other side.
    grid
        The box and its cells; cell i stands at i times the cell size.
    mass_assignment
        "ngp", "cic", "tsc" or "pcs": each particle is spread over 1, 2, 3 or 4 cells a side (Hockney &
        Eastwood 1981; Sefusatti et al. 2016, arXiv:1512.07295, eq. 8).
    weights : array (n,)
        Masses of particles; 1 if not given.
    interlaced
        Take the mean with a grid shifted by half a cell, without half of the aliases (Sefusatti et al. 2016,
        eq. 22), for twice the time.
    dtype
        Of the field, in which particles are summed.

    Raises
    ------
    InputError
        If there are no particles, shapes do not fit, or values are not finite.
    """
    painting = Painting(grid, mass_assignment=mass_assignment, interlaced=interlaced, dtype=dtype)
    painting.add(positions, weights)
    return painting.contrast()


class Painting:
    """What :func:`paint` does, for particles that come some at a time.

    Parameters are those of :func:`paint`; ``n`` is the number of particles so far.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        mass_assignment: str = "cic",
        interlaced: bool = False,
        dtype: npt.DTypeLike = "float64",
    ) -> None:
        require_grid(grid)
        self.grid, self.dtype = grid, floating_dtype(dtype)
        (self._order,) = orders_of(mass_assignment, 1)
        if not self._order:
            raise InputError("mass_assignment is None: name one to paint by, such as cic")
        shifts = (0.0, 0.5) if interlaced else (0.0,)
        self._counts = {shift: np.zeros(grid.cube, self.dtype) for shift in shifts}
        self.n, self._total, self._squares = 0, 0.0, 0.0

    def add(self, positions: Any, weights: Any = None) -> None:
        """Add particles at positions (n, grid.dim), of some weights (n,) or 1."""
        x, grid = unmasked(positions, "positions"), self.grid
        if x.dtype not in (np.float32, np.float64):
            x = real_numbers(x, "positions")
        if x.ndim == 1 and grid.dim == 1:
            x = x[:, np.newaxis]
        if x.ndim != 2 or x.shape[1] != grid.dim or len(x) == 0:
            raise InputError(f"positions has shape {x.shape}: it must be (n, {grid.dim}), with particles")
        w = np.ones(1) if weights is None else real_numbers(weights, "weights")
        if weights is not None and w.shape != (len(x),):
            raise InputError(f"weights has shape {w.shape}: it must be ({len(x)},), one a particle")
        for values, name in ((x, "positions"), (w, "weights")):
            lowest, highest = float(values.min()), float(values.max())
            if not (math.isfinite(lowest) and math.isfinite(highest)):
                raise InputError(f"{name} holds values that are not finite")
            if name == "positions" and max(-lowest, highest) > _FAR * max(grid.box_size):
                raise InputError(
                    f"positions reach from {lowest:.4g} to {highest:.4g}: they must be in the box of "
                    f"{max(grid.box_size):g}, or not so far beyond it that their cells are lost in rounding"
                )
        for shift, counts in self._counts.items():
            _add_counts(counts, x, w, grid, self._order, shift)
        self.n += len(x)
        self._total += float(len(x) if weights is None else w.sum())
        self._squares += float(len(x) if weights is None else w @ w)

    @property
    def shot_noise(self) -> float:
        """That of the power: V sum w^2 / (sum w)^2."""
        return self.grid.volume * self._squares / self._total**2

    def contrast(self) -> Array:
        """Return the density contrast of all particles; nothing can be added to them after it.

        Raises
        ------
        InputError
            If there are none, or their weights do not add up to a mean.
        """
        if self.n == 0:
            raise InputError("positions holds no particles")
        if not self._total > 0:
            raise InputError(f"weights sums to {self._total:g}: a density contrast needs a positive mean")
        field, *shifted = (self._counts.pop(shift).reshape(self.grid.shape) for shift in tuple(self._counts))
        if shifted:
            field = _interlaced(field, shifted.pop(), self.grid)
        field *= self.dtype.type(self.grid.n_cells / self._total)
        field -= self.dtype.type(1.0)
        return field


def _one_field(delta: Any, grid: Grid) -> Array:
    require_grid(grid)
    field = real_numbers(delta, "delta")
    if field.shape != grid.shape:
        raise InputError(f"delta has shape {field.shape}: it must be one field, of {grid.shape}")
    return field


@compiled
def _add(  # type: ignore[no-untyped-def]
    positions, weights, per_length, axes, shift, order, bins, ends, out, start, stop
):
    """Add to planes start to stop the particles that reach them, in one order on any number of threads.

    ``bins`` holds particles by their lowest plane, of which the last is at ``ends``.
    """
    sides, d = out.shape, positions.shape[1]
    place, many, share = np.zeros((3, 4), np.int64), np.ones(3, np.int64), np.ones((3, 4))
    for a in range(d):
        many[axes[a]] = order
    for lowest in range(start - many[0] + 1, stop):
        plane = lowest % sides[0]
        for k in range(ends[plane - 1] if plane else 0, ends[plane]):
            j = bins[k]
            for a in range(d):
                axis, side = axes[a], sides[axes[a]]
                t = positions[j, a] * per_length[a] - shift
                i = np.floor(t + 0.5) if order % 2 else np.floor(t)
                f = t - i
                g = 1.0 - f
                if order == 2:
                    share[axis, 0], share[axis, 1] = g, f
                elif order == 3:
                    share[axis, 0], share[axis, 2] = 0.5 * (0.5 - f) ** 2, 0.5 * (0.5 + f) ** 2
                    share[axis, 1] = 0.75 - f * f
                elif order == 4:
                    share[axis, 0], share[axis, 3] = g * g * g / 6.0, f * f * f / 6.0
                    share[axis, 1] = (4.0 - 6.0 * f * f + 3.0 * f * f * f) / 6.0
                    share[axis, 2] = (4.0 - 6.0 * g * g + 3.0 * g * g * g) / 6.0
                i -= (order - 1) // 2
                cell = np.int64(i - np.floor(i / side) * side)
                for b in range(order):
                    place[axis, b] = (cell + b) % side
            weight = weights[j] if len(weights) > 1 else weights[0]
            for a in range(many[0]):
                x = lowest + a  # as it is counted from ``start`` on, not from 0
                if start <= x < stop:
                    for b in range(many[1]):
                        both, y = weight * share[0, a] * share[1, b], place[1, b]
                        for c in range(many[2]):
                            out[x, y, place[2, c]] += both * share[2, c]


@compiled
def _lowest_planes(  # type: ignore[no-untyped-def]
    positions, per_length, shift, order, side, out, start, stop
):
    for j in range(start, stop):
        t = positions[j, 0] * per_length - shift
        i = (np.floor(t + 0.5) if order % 2 else np.floor(t)) - (order - 1) // 2
        out[j] = np.int64(i - np.floor(i / side) * side)


def _add_counts(out: Array, x: Array, weights: Array, grid: Grid, order: int, shift: float) -> None:
    """Add weights to cells whose places are shifted by a part of a cell."""
    axes = np.array([[2], [0, 2], [0, 1, 2]][grid.dim - 1])
    per_length = np.array([n / side for n, side in zip(grid.shape, grid.box_size, strict=True)])
    side = grid.cube[0]
    planes = np.zeros(len(x), np.uint16 if side < 1 << 16 else np.uint32)  # NumPy sorts short ones faster
    if side > 1:
        parallel(_lowest_planes, len(x), x, per_length[0], shift, order, side, planes, at_least=10_000)
    # Plane by plane, what is added to stays in the cache.
    bins, ends = np.argsort(planes, kind="stable"), np.cumsum(np.bincount(planes, minlength=side))
    parallel(_add, side, x, weights, per_length, axes, shift, order, bins, ends, out)


def _interlaced(field: Array, shifted: Array, grid: Grid) -> Array:
    """Return the mean of a field, and of one half a cell further on, moved back.

    At a Nyquist frequency two images are alike, and none is cancelled: the field over root 2 has the power
    of one.
    """
    dtype = field.dtype
    modes, back = forward_fft(field), forward_fft(shifted)
    del field, shifted
    at_nyquist = np.zeros(modes.shape, bool)
    for axis, n in enumerate(grid.shape):
        m = np.fft.fftfreq(n, 1 / n) if axis < grid.dim - 1 else np.arange(n // 2 + 1)
        along = [1] * grid.dim
        along[axis] = len(m)
        back *= np.exp(-1j * math.pi * m / n).astype(modes.dtype).reshape(along)
        at_nyquist |= (2 * np.abs(m) == n).reshape(along)
    back += modes
    back *= dtype.type(0.5)
    np.multiply(modes, dtype.type(math.sqrt(0.5)), out=back, where=at_nyquist)
    found = inverse_fft(back, grid.shape)
    found *= dtype.type(1 / grid.n_cells)
    return found
