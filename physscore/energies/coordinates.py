"""The same target in other coordinates: whitened by its prior, or the modes of a field.

In its modes a Gaussian random field is diagonal: its energy and score cost nothing there, and a
preconditioner of its own P(k) is a number for each coordinate. A likelihood costs two FFTs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from physscore.arrays import on_gpu
from physscore.core import Array, Energy, EnergySum, InputError, Prior, Score, ScoreSum, combine
from physscore.energies.lognormal import LognormalField
from physscore.energies.random_field import GaussianRandomField
from physscore.fft import forward_ffts
from physscore.grid import Grid
from physscore.memory import empty
from physscore.mode_coordinates import Coordinates, diagonal, spread_octant

_IN_PLANES = 1 << 20  # bytes of a field, beyond which its cells leave the cache between two FFTs


class Whitened(Energy):
    """A posterior over the coordinates z in which its prior is a standard normal.

    Parameters
    ----------
    posterior
        A prior, or the sum of one prior and likelihoods.

    Raises
    ------
    InputError
        If it has no prior.
    """

    def __init__(self, posterior: Energy) -> None:
        prior, likelihood = prior_and_likelihood(posterior)
        if prior is None:
            raise InputError(
                f"target {posterior!r} has no prior: write it as prior + likelihood, with one prior"
            )
        self.target, self.prior, self.likelihood = posterior, prior, likelihood
        self.shape = posterior.shape
        self.one_by_one = posterior.one_by_one
        self._offset = 0.5 * self.dim * math.log(2 * math.pi)

    def to_state(self, z: Array) -> Array:
        """Return the states at ``z``."""
        return self.prior.unwhiten(z)

    def from_state(self, x: Array) -> Array:
        """Return the coordinates of states."""
        return self.prior.whiten(x)

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        energy = self._offset + 0.5 * np.einsum("ni,ni->n", *[x.reshape(len(x), -1)] * 2, dtype=np.float64)
        if self.likelihood is None:
            return energy, -x
        more, score = self.likelihood.energy_and_score(self.prior.unwhiten(x))
        slope = self.prior.pull_back(x, score) - x
        return energy + more, slope.astype(x.dtype, copy=False)


class FieldModes(Energy):
    """A target over the orthonormal Fourier modes of a field; see ``mode_coordinates.to_coordinates``.

    The modes that the target's random fields fix, k = 0 among them, stay zero.

    Parameters
    ----------
    target
        An energy of fields on ``grid``; Gaussian random fields among its terms stay diagonal. If there is
        only a score, energies are nan, and :class:`ScoreOfModes` leaves them out.
    grid
        The box.
    whitened
        Divide the modes by the root of the prior's eigenvalues: the prior is a standard normal then,
        in the coordinates that play no part as well.

    Attributes
    ----------
    free_octant : array of bool
        Which modes may move: an octant, see :mod:`physscore.mode_coordinates`.
    precision_octant : array
        1 / variance of each coordinate by the random fields alone.
    offset : float
        What their energy is beside the sum of precision x^2 / 2.

    Raises
    ------
    InputError
        If ``whitened`` and the prior is not a Gaussian random field.
    """

    def __init__(self, target: Score, grid: Grid, *, whitened: bool = False) -> None:
        self.target, self.grid, self.whitened = target, grid, whitened
        self.coordinates = Coordinates(grid)
        self.shape = (self.coordinates.size,)
        terms = terms_of(target)
        fields = [(f, t, _variances(t)) for f, t in terms if isinstance(t, GaussianRandomField)]
        self.free_octant = np.ones([n // 2 + 1 for n in grid.cube], bool)
        for _, _, variances in fields:
            self.free_octant &= variances > 0
        if whitened:
            prior, others = prior_and_likelihood(target)
            if not isinstance(prior, GaussianRandomField):
                raise InputError(f"target {target!r} has no prior that is a GaussianRandomField")
            self.others = others
            self.precision_octant = np.ones(self.free_octant.shape)
            self.offset = 0.5 * self.dim * math.log(2 * math.pi)
            self.scale_octant = np.sqrt(np.where(self.free_octant, _variances(prior), 0.0))
        else:
            rest = [(f, t) for f, t in terms if not isinstance(t, GaussianRandomField)]
            kind: Any = EnergySum if isinstance(target, Energy) else _Alone
            self.others = kind(rest) if rest else None
            self.precision_octant = np.zeros(self.free_octant.shape)
            for factor, _, variances in fields:
                self.precision_octant[self.free_octant] += factor / variances[self.free_octant]
            self.offset = sum(factor * field._log_normalisation for factor, field, _ in fields)
            self.scale_octant = self.free_octant.astype(np.float64)
        self.one_by_one = self.others is None or self.others.one_by_one
        self._in_parts = self.others is not None and cell_by_cell(self.others)
        self._single: tuple[Array, Array] | None = None

    @property
    def free(self) -> npt.NDArray[np.bool_]:
        """Which coordinates are modes that may move."""
        return spread_octant(self.free_octant, self.grid.cube)

    @property
    def precision(self) -> npt.NDArray[np.float64]:
        """1 / variance of each coordinate by the random fields alone."""
        spread = spread_octant(self.precision_octant, self.grid.cube)
        return np.where(self.coordinates.in_use, spread, 1.0) if self.whitened else spread

    def _tables(self, dtype: Any) -> tuple[Array, Array]:
        """Return the octants of scale and precision as ``dtype``."""
        if dtype == np.float64:
            return self.scale_octant, self.precision_octant
        if self._single is None:
            self._single = self.scale_octant.astype(np.float32), self.precision_octant.astype(np.float32)
        return self._single

    def _on_card(self, name: str, make: Callable[[], Array]) -> Array:
        from physscore.cuda import kept

        return cast(Array, kept(self, name, make))

    def to_state(self, z: Array) -> Array:
        """Return the target's states with coordinates ``z``."""
        return self.to_fields(z)

    def to_fields(self, z: Array) -> Array:
        """Return the fields with coordinates ``z``."""
        scale = self._scale_beside(z) if on_gpu(z) else self._tables(z.dtype)[0]
        return self.coordinates.to_fields(z, scale)

    def _scale_beside(self, z: Array) -> Array:
        """Return what fields have of each coordinate, on the card of ``z``."""

        def make() -> Array:
            return spread_octant(self._tables(z.dtype)[0], self.grid.cube)

        return self._on_card(f"scale {z.dtype}", make)

    def from_state(self, x: Array) -> Array:
        """Return the coordinates of fields."""

        def make() -> Array:
            inverse = np.zeros_like(self.scale_octant)
            np.divide(1.0, self.scale_octant, out=inverse, where=self.free_octant)
            return spread_octant(inverse.astype(x.dtype), self.grid.cube)

        inverse = self._on_card(f"inverse {x.dtype}", make) if on_gpu(x) else make()
        coordinates: Array = self.coordinates.of_fields(x)
        coordinates *= inverse
        return coordinates

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both; two FFTs a field where there is more than Gaussian random fields."""
        if on_gpu(x):
            return self._both_on_card(x)
        scale, precision = self._tables(x.dtype)
        energy, score, cube = np.empty(len(x)), empty(x.shape, x.dtype), self.grid.cube
        for group in self.coordinates.groups(len(x)):
            more, bent = (0.0, None) if self.others is None else self._beyond(x[group], scale)
            own = diagonal(x[group], precision, bent, scale, cube, float(self.whitened), score[group])
            energy[group] = own + more
        return energy + self.offset, score

    def _beyond(self, x: Array, scale: Array) -> tuple[Array, Array]:
        """Return the energy of what is not diagonal, and its score over the modes but for their scale."""
        assert self.others is not None
        if len(x) > 1 or self.grid.dim == 1 or not self._in_parts or x.nbytes < _IN_PLANES:
            energy, slope = self.others.energy_and_score(self.coordinates.to_fields(x, scale))
            return energy, self.coordinates.of_fields(np.ascontiguousarray(slope, x.dtype))
        energies = np.zeros(self.grid.shape[0])
        a_plane = self.grid.n_cells // self.grid.shape[0]

        def slopes_of(first: int, planes: Array) -> Array:
            energies[first : first + 1], slopes = of_cells(
                self.others, planes.reshape(1, -1), first * a_plane
            )
            return slopes.reshape(planes.shape)

        bent = self.coordinates.through_planes(x, scale, slopes_of)
        return energies.sum(keepdims=True), bent

    def tables_beside(self, x: Array) -> tuple[Array, Array]:
        """Return the precision of the coordinates, and what fields have of them, on the card of ``x``."""
        precision = self._on_card(f"precision {x.dtype}", lambda: self.precision.astype(x.dtype))
        return precision, self._scale_beside(x)

    def _both_on_card(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        from physscore.cuda import modes

        more: Any = self.offset
        bent = None
        if self.others is not None:
            energy, slope = self.others.energy_and_score(self.to_fields(x))
            more, bent = more + energy, forward_ffts(slope.astype(x.dtype, copy=False))
        precision, scale = self.tables_beside(x)
        unitary = 1 / math.sqrt(self.grid.n_cells)
        own, score = modes.diagonal(x, precision, bent, scale, self.grid.cube, unitary)
        return own + more, score


class ScoreOfModes(Score):
    """What ``modes`` of a target without an energy have: a score."""

    def __init__(self, modes: FieldModes) -> None:
        self._modes = modes
        self.shape, self.one_by_one = modes.shape, modes.one_by_one

    def score(self, x: Array) -> Array:
        """Return the score at the coordinates ``x``; two FFTs a field."""
        return self._modes.energy_and_score(x)[1]


class _Alone(ScoreSum):
    """A sum of scores that gives nan for energies."""

    def energy_and_score(self, x: Array) -> tuple[float, Array]:
        return math.nan, self.score(x)


def _variances(field: GaussianRandomField) -> npt.NDArray[np.float64]:
    """Return the octant of a field's variances."""
    x, y, z = field.wavenumbers.octant
    return np.asarray(field._eigenvalues[x[:, np.newaxis, np.newaxis] + y[:, np.newaxis] + z])


def terms_of(target: Score) -> tuple[tuple[float, Score], ...]:
    """Return the terms of a sum with their factors, or the target itself."""
    return target.terms if isinstance(target, EnergySum | ScoreSum) else ((1.0, target),)


def cell_by_cell(likelihood: Energy) -> bool:
    """Return whether a likelihood is a product over cells, of which some may be looked at alone."""
    return all(factor and getattr(term, "cell_by_cell", False) for factor, term in terms_of(likelihood))


def of_cells(likelihood: Any, x: Array, first: int) -> tuple[npt.NDArray[np.float64], Array]:
    """Return what cells ``x`` of states, (n, cells) from the ``first`` on, add to the energy of a likelihood
    that is :func:`cell_by_cell`, and their score. Cell 0 brings what does not depend on x."""
    energy, score = np.zeros(len(x)), np.zeros_like(x)
    for factor, term in terms_of(likelihood):
        more, slope = term.of_cells(x, first)  # type: ignore[attr-defined]
        energy += factor * more
        score += factor * slope
    return energy, score


def prior_and_likelihood(target: Any) -> tuple[Prior | None, Energy | None]:
    """Return the prior of a target and the rest, None where there is none.

    A lognormal field is the prior whatever its factor, and the rest what is left of it: the mean of its
    ln(1 + delta) is fixed in its own coordinates only.

    Raises
    ------
    InputError
        If there is a lognormal field and another random field, which fixes another mean.
    """
    if isinstance(target, Prior):
        return target, None
    if not isinstance(target, EnergySum):
        return None, None
    fields = [t for _, t in target.terms if isinstance(t, GaussianRandomField | LognormalField)]
    lognormal = next((t for t in fields if isinstance(t, LognormalField)), None)
    if lognormal is None:
        return target.prior, target.likelihood
    for other in fields:
        if not isinstance(other, LognormalField) or other.shift != lognormal.shift:
            raise InputError(
                f"target has {lognormal!r} and {other!r}, which fix different means: leave out one of them"
            )
    if target.prior is lognormal:
        return lognormal, target.likelihood
    return lognormal, cast(Energy, combine([(1.0, target), (-1.0, lognormal)]))


def require_same_modes(reference: Any, target: Energy, free: Array) -> None:
    """Refuse a target that has other ``free`` modes than a reference that is a random field.

    Raises
    ------
    InputError
        If so.
    """
    own = FieldModes(target, reference.grid).free
    for other, way in ((own & ~free, "fixes"), (free & ~own, "moves")):
        if other.any():
            raise InputError(
                f"reference {reference!r} {way} {other.sum()} modes that the target does not (such as "
                "k = 0): give one that moves the same"
            )


def has_field(target: Any) -> bool:
    """Return whether random fields fix some modes of a target, which then moves in its modes."""
    return any(isinstance(term, GaussianRandomField) for _, term in terms_of(target))


def has_lognormal(target: Any) -> bool:
    """Return whether a target has a lognormal field, and so moves in the Gaussian field behind it."""
    return any(isinstance(term, LognormalField) for _, term in terms_of(target))
