"""What the target has beyond the reference, over coordinates in which the reference is a standard normal."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from physscore import noise
from physscore.arrays import beside, device_of, namespace, row_dots
from physscore.core import Array, Energy, InputError, Point, Prior
from physscore.energies.coordinates import FieldModes, prior_and_likelihood, require_same_modes
from physscore.energies.fourier_gaussian import FourierGaussian
from physscore.energies.gaussian import Gaussian
from physscore.energies.hartley import Waves
from physscore.energies.lognormal import LognormalField
from physscore.energies.lognormal_modes import OfLogarithm
from physscore.energies.random_field import GaussianRandomField
from physscore.energies.whitening import compiled_whitening
from physscore.grid import Grid
from physscore.kernels.loops import FUSED_UP_TO
from physscore.paths import Path

if TYPE_CHECKING:
    from physscore.cuda.tempered import OverModes

_WAVES_UP_TO = 1 << 16  # products of a transform: beyond, FFTs are faster
_FIRST_STATES = 3  # the number of the deviates that states begin with, as in ``sample``


class Excess:
    """u(y) = E(x) + log p_reference(x), at the states x with whitened coordinates y, rows of length d.

    Parameters
    ----------
    reference
        A normalised prior.
    target
        An energy of the same states; where the reference is its prior, u is its likelihood.

    Attributes
    ----------
    dim : int
        Number d of whitened coordinates.
    one_by_one : bool
        Whether states may be treated one by one, each in a thread of its own.
    groups : array (d,) of int, or None
        Coordinates that are alike: the modes of a field with the same |k|.
    numbers : array or None
        The reference's whitening in compiled form.
    difference : Energy
        u over x; where the reference is normal and not the target's prior, the target's own energy:
        the reference's, |y|^2 / 2 + offset, is taken off in the coordinates.
    own, offset : bool, float
        Whether it is, and its offset, 0 if not.
    """

    groups: npt.NDArray[np.int64] | None = None

    def __init__(self, reference: Prior, target: Energy) -> None:
        self.reference, self.target = reference, target
        beyond = prior_and_likelihood(target)[0] is not reference
        self.own, self.offset = False, 0.0
        if isinstance(reference, Gaussian) and beyond:
            self.own, self.offset = True, _offset(reference)
        self.difference = target if self.own else target_beyond(reference, target)
        self.shape: tuple[int, ...] = reference.whiten(reference.sample(1, seed=0)).shape[1:]
        self.dim = math.prod(self.shape)
        self.one_by_one = self.difference.one_by_one and reference.one_by_one
        self.numbers = compiled_whitening(reference)

    @property
    def point(self) -> Point | None:
        """u in compiled form."""
        return self.difference.point if self.numbers is not None else None

    def __call__(self, y: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return u, of shape (n,), and its gradient at ``y``, both of shape (n, d)."""
        energy, score = self.difference.energy_and_score(self.to_state(y))
        slope = -self._pull_back(y, score)
        if self.own:
            energy = energy - (self.offset + 0.5 * np.einsum("ni,ni->n", y, y))
            slope -= y
        else:
            energy = self._beyond_reference(energy, y)
        return np.asarray(energy, np.float64), slope

    def _beyond_reference(self, energy: Array, y: Array) -> Array:
        """Return u, which is +inf where the reference has no density: no state is worth more than all others
        for that."""
        lowest = np.isneginf(energy)
        if not lowest.any():
            return energy
        none = np.isposinf(self.reference.energy(self.to_state(y[lowest])))
        energy = energy.copy()
        energy[lowest] = np.where(none, np.inf, -np.inf)
        return energy

    def _pull_back(self, y: Array, gradient: Array) -> Array:
        z = y.reshape(len(y), *self.shape)
        return self.reference.pull_back(z, gradient).reshape(y.shape)

    def to_state(self, y: Array) -> Array:
        """Return the states at ``y``."""
        return self.reference.unwhiten(y.reshape(len(y), *self.shape))

    def from_state(self, x: Array) -> Array:
        """Return the coordinates of states."""
        return self.reference.whiten(x).reshape(len(x), -1)

    def draw(self, n: int, first: int, seed: int, device: str = "cpu") -> Array:
        """Return exact draws from the reference, those of chains first, first + 1, ..."""
        return noise.normal(n, self.dim, seed=seed, draw=_FIRST_STATES, first=first, device=device)


class FieldExcess(Excess):
    """The same for fields, over coordinates of which groups are alike."""

    groups: npt.NDArray[np.int64]

    @abstractmethod
    def normal(self, mean: Array, variances: Array) -> FourierGaussian:
        """Return the density of fields that is normal over y, with a mean and with variances of groups."""

    def cells(self, y: Array, score: Array, mean: Array, scale: Array) -> tuple[Array, Array, Array]:
        """Return what coordinates v = (y - mean) / scale, and a score over them, are in the cells, and the
        variances of cells of which v is a standard normal: arrays (n, cells), (n, cells) and (cells,)."""
        zero, middle = self.to_fields(np.stack([np.zeros_like(mean), mean]))
        x, pushed = self.to_fields(y) - middle, self.to_fields(scale * score) - zero
        return x.reshape(len(y), -1), pushed.reshape(len(y), -1), self.cell_variances(scale)

    def to_fields(self, y: Array) -> Array:
        """Return the fields that ``y`` are linear coordinates of: the states, if not said otherwise."""
        return self.to_state(y)

    @abstractmethod
    def cell_variances(self, scale: Array) -> Array:
        """Return the variances of the cells if the coordinates have the standard deviations ``scale``."""


class WaveExcess(FieldExcess):
    """Of small grids, compiled, over real plane waves."""

    def __init__(self, reference: FourierGaussian, target: Energy, waves: Waves, *, beyond: bool) -> None:
        self.reference, self.target, self.difference = reference, target, target
        self.own, self.offset = beyond, _offset(reference) if beyond else 0.0
        self.waves, self.groups = waves, waves.groups
        self.shape, self.dim = waves.std.shape, len(waves.std)
        self.one_by_one = target.one_by_one
        self.numbers = compiled_whitening(waves)

    def _pull_back(self, y: Array, gradient: Array) -> Array:
        return self.waves.pull_back(gradient.reshape(y.shape))

    def to_state(self, y: Array) -> Array:
        """Return the fields at ``y``."""
        return self.waves.unwhiten(y)

    def from_state(self, x: Array) -> Array:
        """Return the coordinates of fields."""
        return self.waves.whiten(x)

    def normal(self, mean: Array, variances: Array) -> FourierGaussian:
        """Return the density of fields that is normal over y."""
        return self.waves.normal(mean, variances)

    def cell_variances(self, scale: Array) -> Array:
        """Return the variances of the cells."""
        return self.waves.variances(scale)


class ModeExcess(FieldExcess):
    """Over Fourier modes: what is Gaussian there costs no FFT."""

    reference: Prior

    def __init__(self, reference: FourierGaussian, target: Energy, *, beyond: bool) -> None:
        self.reference, self.target = reference, target
        self.modes = FieldModes(target, reference.grid)
        self.shape, self.dim = self.modes.shape, self.modes.dim
        self.one_by_one = self.modes.one_by_one
        self.numbers, self.difference = None, target
        self.groups = modes_alike(reference.grid, reference.free)
        self._mean, self._std = reference.mean, np.sqrt(reference.variances)
        self._free = reference.free.astype(np.float64)
        self.own, self.offset = beyond, _offset(reference) if beyond else 0.0

    def __call__(self, y: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return u and its gradient."""
        mean, std = beside(y, self, "_mean"), beside(y, self, "_std")
        energy, score = self.modes.energy_and_score(mean + std * y)
        slope = score
        slope *= -std
        if self.own:
            own = beside(y, self, "_free") * y
            slope -= own
            energy = energy - (self.offset + 0.5 * row_dots(own, y))
        return energy, slope

    def over(self, beta: float, mean: Array, scale: Array) -> OverModes:
        """Return E_beta over v on a card, where y = mean + scale v and ``mean`` and ``scale`` are there."""
        from physscore.cuda.tempered import OverModes

        modes, std = self.modes, beside(mean, self, "_std")
        left = 1.0 - beta * beside(mean, self, "_free") if self.own else 1.0
        precision, to_modes = modes.tables_beside(mean)
        z = beside(mean, self, "_mean") + std * mean
        bent = beta * scale * std
        constant = 0.5 * float((left * mean**2 + beta * precision * z**2).sum())
        constant += beta * (modes.offset - self.offset)
        return OverModes(
            modes.others, modes.grid, beta, to_modes * z, to_modes * std * scale, bent * to_modes,
            scale**2 * left + bent * scale * std * precision, scale * left * mean + bent * precision * z,
            constant,
        )  # fmt: skip

    def to_state(self, y: Array) -> Array:
        """Return the fields at ``y``."""
        return self.modes.to_state(beside(y, self, "_mean") + beside(y, self, "_std") * y)

    def from_state(self, x: Array) -> Array:
        """Return the coordinates of fields."""
        inverse = np.divide(1.0, self._std, out=np.zeros_like(self._std), where=self._std > 0)
        return np.asarray((self.modes.from_state(x) - self._mean) * inverse)

    def normal(self, mean: Array, variances: Array) -> FourierGaussian:
        """Return the density of fields that is normal over y."""
        return FourierGaussian(self.modes.grid, self._mean + self._std * mean, self._std**2 * variances)

    def cell_variances(self, scale: Array) -> Array:
        """Return the variances of the cells, which are alike."""
        cells = self.modes.grid.n_cells
        mean = float(((beside(scale, self, "_std") * scale) ** 2).sum()) / cells
        return cast(Array, namespace(device_of(scale)).full(cells, mean))


class LognormalExcess(ModeExcess):
    """Of a target with a lognormal prior, over the Fourier modes of the Gaussian field behind it."""

    def __init__(self, field: LognormalField, target: Energy, likelihood: Energy | None) -> None:
        none = 0.0 * field.gaussian
        super().__init__(
            as_modes(field.gaussian),
            none if likelihood is None else OfLogarithm(likelihood, field),
            beyond=False,
        )
        self._field, self.reference, self.target = field, field, target

    def to_state(self, y: Array) -> Array:
        """Return delta at ``y``."""
        return self._field.cells_of(super().to_state(y))

    def to_fields(self, y: Array) -> Array:
        """Return the Gaussian fields at ``y``."""
        return super().to_state(y)

    def from_state(self, x: Array) -> Array:
        """Return the coordinates of delta."""
        return super().from_state(self._field.to_gaussian(x))


def _offset(reference: Gaussian | FourierGaussian) -> float:
    """Return the energy at the mean."""
    return float(reference._offset)


def target_beyond(reference: Prior, target: Energy) -> Energy:
    """Return the energy that ``target`` has beyond the reference's own."""
    prior, likelihood = prior_and_likelihood(target)
    if prior is reference:
        return 0.0 * target if likelihood is None else likelihood
    return Path(reference, target).difference


def excess_of(reference: Prior, target: Energy, device: str = "cpu") -> Excess:
    """Return what a target has beyond a reference, over the coordinates that suit both and the device.

    Raises
    ------
    InputError
        If they have states of different shapes, or there are no such coordinates.
    """
    if reference.shape != target.shape:
        raise InputError(f"reference has states of shape {reference.shape}, the target {target.shape}")
    prior, likelihood = prior_and_likelihood(target)
    own = prior is reference
    if isinstance(reference, LognormalField) and own:
        return LognormalExcess(reference, target, likelihood)
    if not isinstance(reference, GaussianRandomField | FourierGaussian):
        if device == "gpu":
            raise InputError(
                f'device is "gpu", where log Z is for fields and lattices, and the reference is '
                f'{reference!r}: use device "cpu"'
            )
        return Excess(reference, target)
    energy: Any = target if not own else (0.0 * target if likelihood is None else likelihood)
    if isinstance(reference, GaussianRandomField):
        reference = as_modes(reference)
    require_same_modes(reference, target, reference.free)
    cells, sides = reference.grid.n_cells, sum(reference.grid.shape)
    if (
        device == "cpu"
        and cells <= FUSED_UP_TO
        and cells * sides <= _WAVES_UP_TO
        and energy.point is not None
    ):
        waves = Waves(reference)
        if waves.even and (own or bool((waves.std > 0).all())):
            return WaveExcess(reference, energy, waves, beyond=not own)
    return ModeExcess(reference, energy, beyond=not own)


def as_modes(prior: GaussianRandomField) -> FourierGaussian:
    """Return a random field as a normal density of its modes."""
    modes = FieldModes(prior, prior.grid)
    variances = np.zeros(modes.shape)
    np.divide(1.0, modes.precision, out=variances, where=modes.free)
    return FourierGaussian(prior.grid, np.zeros(modes.shape), variances)


def modes_alike(grid: Grid, free: Array) -> npt.NDArray[np.int64]:
    """Return a number for each coordinate of a field's modes, the same for free ones of the same |k|."""
    x, y, z = grid.wavenumbers.offsets
    index = (x[:, np.newaxis, np.newaxis] + y[:, np.newaxis] + np.repeat(z, 2)).reshape(-1)
    return np.unique(np.where(free, index, -1), return_inverse=True)[1].astype(np.int64)
