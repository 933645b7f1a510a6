"""What annealing begins with: a prior, or a density fitted to a short run at the target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import ndtr

from physscore.arrays import device_of, namespace, row_dots, to_host
from physscore.core import Array, Energy, InputError, Prior
from physscore.energies.coordinates import FieldModes, has_field, prior_and_likelihood, terms_of
from physscore.energies.fourier_gaussian import FourierGaussian
from physscore.energies.gaussian import Gaussian
from physscore.energies.johnson import JohnsonSU
from physscore.energies.lattice import Lattice
from physscore.energies.lognormal import LognormalField
from physscore.energies.priors import Parameters
from physscore.energies.transformed import Transformed, WhiteningOf, crude_of
from physscore.evidence.annealed import Particles
from physscore.evidence.excess import FieldExcess, excess_of
from physscore.evidence.pilot import Pilot, check_start, nearest_mean, nearest_variances
from physscore.evidence.wrong_score import refuse_wrong_score
from physscore.kernels.hamiltonian import HMC
from physscore.sampling.engine import grid_of

_MOST_STAGES, _STAGES = 40, 10
_FAR = 100.0  # standard deviations of the crude reference
_INSIDE = 0.01  # of the standard normal, so that some of its draws are
_DIRECTIONS, _DISTANT = 16, 40.0  # that are looked along, and standard deviations that they are followed
_ABOVE, _STEEP = 20.0, 100.0  # times as far as the lowest quarter reaches, as the others' squared slopes
_FLAT = 0.03  # mean probability to accept such a move: where tails are as heavy as |x|^-1.2 it is 0.01
_WIDEN = 1.5  # the variances that were fitted: tails must cover the target's
_MOST_KURTOSIS = 30.0  # which is as far as some draws can tell


def reference_for(
    target: Energy, given: Any, seed: int, progress: Callable[[int], None], device: str = "cpu"
) -> Prior:
    """Return the reference that was given, the target's prior, or one that is fitted.

    Raises
    ------
    InputError
        If what was given is no normalised prior of the same states, or nothing can be fitted: to a lognormal
        field, or a target without a finite integral; or if the score is plainly not the energy's.
    """
    prior, likelihood = prior_and_likelihood(target)
    if prior is not None and likelihood is not None:
        refuse_wrong_score(target, prior, "the prior", device if given is None else "cpu")
    if given is None and prior is not None:
        return prior
    if given == "fitted" and isinstance(prior, LognormalField):
        raise InputError(
            'reference is "fitted": a lognormal field fixes the mean of ln(1 + delta) in its own coordinates '
            "only, so here it must be None, for the field itself"
        )
    if given is None or given == "fitted":
        return fitted(target, seed, progress, device)
    if not isinstance(given, Prior):
        raise InputError(
            f"reference is {given!r}: it must be a normalised prior such as Gaussian(0, 1, dim=10), "
            '"fitted", or None for the prior of the target'
        )
    if given.shape != target.shape:
        raise InputError(f"reference has states of shape {given.shape}, the target {target.shape}")
    if prior is None:
        refuse_wrong_score(target, given, "the reference", device)
    return given


def fitted(
    target: Energy, seed: int, progress: Callable[[int], None] = lambda n: None, device: str = "cpu"
) -> Prior:
    """Return a density around draws of a short run: a normal one of the modes of a field, or one of vectors,
    with heavier tails where the draws have them."""
    if len(target.shape) > 3:
        raise InputError(
            f"reference cannot be fitted to states of shape {target.shape}: these must be vectors, or fields "
            "of 1 to 3 dimensions"
        )
    field = isinstance(target, Lattice) or len(target.shape) > 1 or has_field(target)
    crude = _crude_field(target) if field else _crude(target)
    if prior_and_likelihood(target)[0] is None:
        refuse_wrong_score(target, crude, "a first reference", device)
    excess = excess_of(crude, target, device)
    n = int(np.clip(2**23 // excess.dim, 8, 32 if field else 256))
    kernel = HMC(harmonic=field)
    particles = Particles(excess, kernel, excess.draw(n, 0, seed, device), seed=seed)
    check_start(particles.u)
    inside = np.flatnonzero(np.isfinite(particles.u))
    if len(inside) < n:  # no step leads from beyond a wall to what is within
        particles.take(np.resize(inside, n))
    pilot = Pilot(particles, kernel, 20)
    energies = []
    for stage in range(_MOST_STAGES):
        before = _energies(particles)
        pilot.settle(1.0)
        _leave_stuck(particles, before)
        energies.append(_energy(particles))
        progress(stage)
        if stage >= 4 and energies[-1][0] > energies[-3][0] - 0.5 * energies[-1][1]:
            break  # it falls no more
    seen = []
    for _ in range(_STAGES):
        pilot.settle(1.0)
        energies.append(_energy(particles))
        seen.append((to_host(particles.y).copy(), to_host(particles.score())))
    _check_end(energies, [math.sqrt(np.mean(y**2)) for y, _ in seen])
    _check_far(particles)
    y, score = (np.array(parts) for parts in zip(*seen, strict=True))
    good = np.isfinite(y).all(axis=(0, 2)) & np.isfinite(score).all(axis=(0, 2))
    y, score = y[:, good], score[:, good]  # (stages, n, d)
    rows, slopes = y.reshape(-1, excess.dim), score.reshape(-1, excess.dim)
    if isinstance(excess, FieldExcess):
        nearest = nearest_variances(rows, slopes, excess.groups)
        mean = nearest_mean((y + nearest * score).mean(axis=0), excess.groups)
        squares = ((rows - mean) ** 2).mean(axis=0)
        if isinstance(target, Lattice):
            squares += mean**2  # so that the phase on the other side of zero is met, however small it is
        spread = (np.bincount(excess.groups, squares) / np.bincount(excess.groups))[excess.groups]
        widen = min(_WIDEN, 1.0 + 4.0 / math.sqrt(excess.dim))  # so that the way grows alike in all sizes
        return excess.normal(mean, widen * spread)
    mean, covariance = rows.mean(axis=0), np.atleast_2d(np.cov(rows.T))
    covariance = 0.95 * covariance + 0.05 * np.diag(np.diag(covariance))
    found = _wide(mean, covariance, _tails(Gaussian(mean, covariance).whiten(rows)))
    return crude.of(found) if isinstance(crude, Transformed) else found


def _wide(mean: Array, covariance: Array, tails: Array) -> Prior:
    """Return a density with more than a covariance, and with tails where there are some."""
    if not tails.any():
        return Gaussian(mean, _WIDEN * covariance)
    std = np.sqrt(np.divide(np.expm1(2 * tails**2), 2 * tails**2, out=np.ones_like(tails), where=tails > 0))
    lower = np.linalg.cholesky(_WIDEN * covariance) / std
    return JohnsonSU(mean, lower @ lower.T, tails)


def _leave_stuck(particles: Particles, before: Array) -> None:
    """Put copies of others in the place of particles that rest far above them, where it is steep.

    One step size fits all: those that begin inside of a hard core, or on a slope a million times steeper
    than it is where the target lies, do not come down. ``before`` are the energies before they moved.
    """
    energy, score = _energies(particles), particles.score()
    if not np.isfinite(energy).all():
        return
    with np.errstate(over="ignore"):
        steepness = to_host(row_dots(score, score))
        least, low = np.quantile(energy, [0.0, 0.25])
        high = energy > low + _ABOVE * (1.0 + low - least)
        rest = energy - low > 0.5 * (before - low)
        left = high & rest & (steepness > _STEEP * np.median(steepness[~high]))
    if left.any():
        particles.take(np.where(left, np.resize(np.flatnonzero(~left), len(left)), np.arange(len(left))))


def _tails(z: Array) -> Array:
    """Return the tails of a JohnsonSU that has the kurtosis of each column, 0 where chance may make it."""
    centred = z - z.mean(axis=0)
    kurtosis = (centred**4).mean(axis=0) / (centred**2).mean(axis=0) ** 2
    w = np.sqrt(np.sqrt(2 * np.clip(kurtosis, 3.0, _MOST_KURTOSIS) - 2) - 1)
    heavy = kurtosis > 3 + 6 * math.sqrt(24 / len(z))
    return np.asarray(np.where(heavy, np.sqrt(np.log(w)), 0.0))


def _check_end(energies: list[tuple[float, float, int]], sizes: list[float]) -> None:
    """Refuse energies that still fall while the particles run away."""
    (before, *_), (energy, spread, n) = energies[-_STAGES // 2], energies[-1]
    falls = before - energy > 5.0 * spread * math.sqrt(2.0 / n) and sizes[-1] > 1.01 * sizes[-_STAGES // 2]
    lost = not abs(energy) * np.finfo(float).eps < 1.0  # in rounding
    if sizes[-1] > _FAR and (falls or lost):
        raise InputError(
            f"energy is {energy:.3g} at a distance of {sizes[-1]:.3g} and falls without end, so that exp(-E) "
            "has no finite integral (is its sign wrong?), or a reference that covers the target is needed"
        )


def _check_far(particles: Particles) -> None:
    """Refuse energies that are no higher far away, along a coordinate or a direction of large spread."""
    y, excess = particles.y, particles.tempered.excess
    beside = namespace(device_of(y)).asarray
    spread = to_host(y.std(axis=0))
    most = np.argsort(-spread)[:_DIRECTIONS]
    directions = [spread[i] * (np.arange(excess.dim) == i) for i in most]
    if excess.groups is None and excess.dim <= len(y):
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(y.T)))
        directions += list((np.sqrt(np.maximum(values, 0.0)) * vectors).T[-_DIRECTIONS:])
    random = np.random.default_rng(0)
    for direction in directions:
        lengths = random.choice([-1.0, 1.0], len(y)) * random.uniform(0.5 * _DISTANT, _DISTANT, len(y))
        moved = y + beside(lengths)[:, np.newaxis] * beside(direction)
        with np.errstate(over="ignore", invalid="ignore"):
            rise = to_host(excess(moved)[0]) + 0.5 * to_host(row_dots(moved, moved))
            rise -= particles.u + 0.5 * to_host(row_dots(y, y))
            accepted = np.nan_to_num(np.exp(-np.maximum(rise, 0.0))).mean()
        if accepted > _FLAT and direction.any():
            raise InputError(
                f"energy hardly rises up to {_DISTANT:.0f} standard deviations from where it is low, so that "
                "exp(-E) seems to have no finite integral: is a prior or a bound missing?"
            )


def _energies(particles: Particles) -> Array:
    return np.asarray(0.5 * to_host(row_dots(particles.y, particles.y)) + particles.u)


def _energy(particles: Particles) -> tuple[float, float, int]:
    energy = _energies(particles)
    energy = energy[np.isfinite(energy)]  # some may still be outside of walls
    return float(np.mean(energy)), float(np.std(energy)), len(energy)


def _crude(target: Energy) -> Prior:
    """Return where a fit of vectors begins: in coordinates of their own, where a term has such, or the prior
    where bounds leave little of the standard normal, which is compiled."""
    for _, term in terms_of(target):
        if (own := crude_of(term)) is not None:
            return own
    normal, prior = Gaussian(0.0, 1.0, dim=target.dim), prior_and_likelihood(target)[0]
    if isinstance(prior, Parameters) and np.diff(ndtr([prior.lower, prior.upper]), axis=0).prod() < _INSIDE:
        return Transformed(normal, WhiteningOf(prior))
    return normal


def _crude_field(target: Energy) -> FourierGaussian:
    """Return where a fit of modes begins: the random field of the target, or white noise."""
    grid = grid_of(target)
    modes = FieldModes(target, grid)
    variances = modes.free.astype(np.float64)
    np.divide(1.0, modes.precision, out=variances, where=modes.precision > 0)
    return FourierGaussian(grid, np.zeros(modes.dim), variances)
