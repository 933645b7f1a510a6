"""A kernel at work on a target, in the coordinates that suit both."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from physscore.arrays import checked_device, namespace, on_gpu, to_host, unmasked
from physscore.core import Array, Energy, InputError, Prior, Score, shape_of
from physscore.energies.coordinates import (
    FieldModes,
    ScoreOfModes,
    Whitened,
    has_field,
    has_lognormal,
    prior_and_likelihood,
    terms_of,
)
from physscore.energies.lognormal import LognormalField
from physscore.energies.lognormal_modes import LognormalModes
from physscore.energies.random_field import GaussianRandomField
from physscore.grid import Grid
from physscore.kernels.kernel import Kernel
from physscore.kernels.loops import Loop
from physscore.kernels.metric import Fourier, Identity, Metric
from physscore.kernels.state import Draws, Info, State
from physscore.noise import normal

_LARGEST = 2**64 - 1
_APART = 0x4914F6CD  # between seeds; of 31 bits, for priors of the user's own that take no more


class Engine:
    """What ``sample`` and its kin move chains with.

    Attributes
    ----------
    inner : Score
        The target in the coordinates of the chains.
    loop : Loop
        What moves them.
    metric : Metric
        The preconditioner to begin with.
    """

    def __init__(self, target: Score, kernel: Kernel, loop: str | None = None, device: str = "cpu") -> None:
        if not isinstance(kernel, Kernel):
            raise InputError(f"kernel is {kernel!r}: it must be one such as MALA()")
        if isinstance(target, Score):
            shape_of(target)
        kernel.check_target(target)
        self.target = target
        self.kernel = kernel
        self.inner: Score = target
        self.metric: Metric = kernel.frozen_metric
        self.coordinates: FieldModes | Whitened | None = None
        if kernel.whitened:
            energy = _energy(target, type(kernel).__name__)
            prior = prior_and_likelihood(energy)[0]
            if isinstance(prior, GaussianRandomField):
                self.inner = self.coordinates = FieldModes(energy, prior.grid, whitened=True)
            elif isinstance(prior, LognormalField):
                self.inner = self.coordinates = LognormalModes(energy)
            else:
                self.inner = self.coordinates = Whitened(energy)
        elif has_lognormal(target):
            modes = self.inner = self.coordinates = LognormalModes(_energy(target, "a lognormal field"))
            self.metric = _metric_of_modes(kernel, modes)
        elif kernel.metric == "fourier" or isinstance(kernel.metric, Fourier) or has_field(target):
            fields = self.coordinates = FieldModes(target, grid_of(target))
            self.inner = fields if isinstance(target, Energy) else ScoreOfModes(fields)
            self.metric = _metric_of_modes(kernel, fields)
        self.device = checked_device(device)
        self.loop = Loop(self.inner, kernel.step_function, loop, device)
        self.plain = self.coordinates is None

    def start(self, x: Any, seed: int, step: int = 0) -> State:
        """Return the state of chains that start at the target's states ``x``, with step number ``step``."""
        if self.coordinates is None:
            return self.loop.start(x, seed, step)
        Loop(self.target, self.kernel.step_function, "batched").start(x, seed)  # says what is wrong with x
        x = x if on_gpu(x) else np.asarray(x)
        inside = self.coordinates.from_state(x)
        if not np.isfinite(inside).all():
            raise InputError("init has a state at the edge of the prior, where its coordinates are infinite")
        return self.loop.start(inside, seed, step)

    def positions(self, x: Array) -> Array:
        """Return the target's states of the chains' coordinates."""
        return x if self.coordinates is None else self.coordinates.to_state(x)

    def advance(
        self, state: State, n_steps: int, thin: int = 0, out: Draws | None = None, tally: Array | None = None
    ) -> Info:
        """Move the chains in place, and write every ``thin``-th state of the target into ``out``."""
        tally = np.zeros((3, len(state.x))) if tally is None else tally
        before = tally.copy()
        if self.plain or out is None:
            return self.loop.advance(state, self.kernel.moves(), self.metric, n_steps, thin, out, tally)
        for kept in range(n_steps // thin):
            self.loop.advance(state, self.kernel.moves(), self.metric, thin, tally=tally)
            out.x[kept] = self.positions(state.x)
            out.energy[kept] = to_host(self.energies(state, out.x[kept]))
        change = tally - before
        return Info(change[0] / n_steps, change[1].astype(np.int64), change[2] / n_steps, self.loop.name)

    def energies(self, state: State, x: Array) -> Array:
        """Return the energies of the target at the chains' states ``x``."""
        if self.plain or (isinstance(self.coordinates, FieldModes) and not self.coordinates.whitened):
            return state.energy
        assert isinstance(self.target, Energy)
        return self.target.energy(x)


def _metric_of_modes(kernel: Kernel, modes: FieldModes) -> Metric:
    """Return the metric to begin with; the diagonal one of a field is that of its modes."""
    if kernel.metric in ("fourier", "diagonal"):
        return fourier_metric(modes)
    if isinstance(kernel.metric, Fourier):
        return kernel.metric
    if kernel.metric == "identity" or type(kernel.metric) is Identity:
        return Fourier(modes.grid, modes.free_octant)
    raise InputError(
        f"metric is {kernel.metric!r}: random fields move in their Fourier modes, so it must be "
        '"fourier" or "identity"'
    )


def _energy(target: Score, what: str) -> Energy:
    if not isinstance(target, Energy):
        raise InputError(f"target {target!r} has a score only: {what} needs an energy")
    return target


def grid_of(target: Score) -> Grid:
    """Return the box of the fields that a target is about; one of unit cells if it does not say.

    Raises
    ------
    InputError
        If its states are not fields of 1 to 3 dimensions.
    """
    for _, term in terms_of(target):
        grid = getattr(term, "grid", None)
        if isinstance(grid, Grid):
            return grid
    if not 1 <= len(target.shape) <= 3 or min(target.shape) < 2:
        raise InputError(
            f'metric is "fourier", for fields of 1 to 3 dimensions: the state has {target.shape}'
        )
    return Grid(target.shape, tuple(float(n) for n in target.shape))


def fourier_metric(modes: FieldModes, x: Array | None = None) -> Metric:
    """Return the posterior variance of each mode: of the prior's P(k) and the likelihood's mean curvature.

    Parameters
    ----------
    modes
        The target over its modes.
    x
        Fields at which the curvature is taken. [default: the mean of the prior]
    """
    if not modes.precision_octant.any():
        return Fourier(modes.grid, modes.free_octant)
    curvature = 0.0
    for factor, term in terms_of(modes.others) if modes.others is not None else ():
        mean = getattr(term, "curvature", lambda x: None)(x)
        curvature += float(factor * mean) if mean is not None else 0.0
    variances = np.zeros(modes.free_octant.shape)
    precision = modes.precision_octant + max(curvature, 0.0) * modes.scale_octant**2
    np.divide(1.0, precision, out=variances, where=modes.free_octant)
    return Fourier(modes.grid, variances)


def whole(least: int = 1, **argument: Any) -> int:
    """Return an argument that must be a whole number.

    Raises
    ------
    InputError
        If it is not, or is below ``least`` or above 2^64 - 1, that of a seed.
    """
    ((name, value),) = argument.items()
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} is {value!r}: it must be a whole number of at least {least}")
    if value > _LARGEST:
        raise InputError(f"{name} is {value}: it must be at most 2^64 - 1")
    return int(value)


def draws_of(prior: Prior, n: int, seed: int, device: str) -> Array:
    """Return draws from a prior on a device: made there where it can, else sent there.

    They are not those of ``prior.sample`` of the same seed, from which simulated data may come: chains that
    start at the truth seem right even where they do not mix.

    Raises
    ------
    InputError
        If they are of a wrong shape.
    """
    seed ^= _APART
    if isinstance(prior, GaussianRandomField | LognormalField):
        return prior.sample(n, seed=seed, device=device)
    found = cast(Array, namespace(device).asarray(prior.sample(n, seed=seed)))
    if found.shape != (n, *prior.shape):
        raise InputError(
            f"sample({n}) of {prior!r} returned {found.shape}, expected {(n, *prior.shape)}: one state a draw"
        )
    return found


def first_states(target: Score, chains: int, seed: int, init: Any, dtype: Any, device: str = "cpu") -> Array:
    """Return where chains start: at ``init``, at draws from a posterior's prior, at the ``starts`` of a
    learned term, or at standard normals.

    Raises
    ------
    InputError
        If ``init`` is of another shape.
    """
    xp = namespace(device)
    if init is not None:
        given = xp.asarray(init) if device == "gpu" else unmasked(init, "init")
        if given.dtype.kind not in "fiu":
            raise InputError(f"init has the type {given.dtype}: it must hold numbers")
        if given.shape == target.shape:
            given = np.broadcast_to(given, (chains, *given.shape))
        if given.shape != (chains, *target.shape):
            raise InputError(
                f"init has shape {given.shape}: it must be {target.shape} or {(chains, *target.shape)}"
            )
        return given.astype(dtype)
    prior, likelihood = prior_and_likelihood(target)
    # A prior alone is sampled as if it were any energy, unless a standard normal may be outside of it.
    if prior is not None and (
        likelihood is not None or hasattr(prior, "lower") or isinstance(prior, LognormalField)
    ):
        return draws_of(prior, chains, seed, device).astype(dtype, copy=False)
    for _, term in terms_of(target):
        if callable(starts := getattr(term, "starts", None)):  # of learned ones, whose data have their scale
            return cast(Array, xp.asarray(starts(chains, seed=seed), dtype))
    start = normal(chains, target.dim, seed=seed, draw=3, dtype=dtype, device=device)
    return start.reshape(chains, *target.shape)
