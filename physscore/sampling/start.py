"""The two ends at the largest noise: where draws start, and the normal density that matches a score there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg

from physscore.arrays import unmasked
from physscore.core import InputError
from physscore.diagnostics.derivatives import directional, jacobian, random_directions
from physscore.sampling.levels import FIRST, Level, deviates

_Floats = npt.NDArray[np.float64]

_DENSE = 512  # dimensions up to which the whole Jacobian is looked at
_MANY = 64  # random directions with which it is sounded beyond


def first_states(level: Level, n: int, std: float, seed: int, init: Any, alpha: float = 1.0) -> _Floats:
    """Return where n chains start: from N(0, std^2), the matched normal density, an array, or draws.

    Parameters
    ----------
    level
        The largest noise level.
    n, seed
        How many, and of which universe.
    std
        Of the normal start, in the coordinates of the chains, alpha times the unit of the data.
    init
        None, "matched", an array of states, or a density with a method ``sample``.
    alpha
        By what the data are multiplied.

    Raises
    ------
    InputError
        If ``init`` has another shape or is not finite.
    """
    shape = level.shape
    if init is None:
        return std * deviates(slice(0, n), shape, seed=seed, step=0, draw=FIRST)
    if isinstance(init, str):
        if init != "matched":
            raise InputError(f'init is {init!r}: it must be "matched", an array, or have a method sample')
        return alpha * MatchedNormal(level).sample(n, seed)
    given = unmasked(init.sample(n, seed=seed) if hasattr(init, "sample") else init, "init")
    if given.dtype.kind not in "fiu":
        raise InputError(f"init has the type {given.dtype}: it must hold numbers, or have a method sample")
    if given.shape == (n, math.prod(shape)):
        given = given.reshape(n, *shape)
    if given.shape not in (shape, (n, *shape)):
        raise InputError(f"init has shape {given.shape}: it must be {shape} or {(n, *shape)}")
    if not np.isfinite(given).all():
        raise InputError("init is not finite everywhere: chains start at finite states")
    return np.broadcast_to(given, (n, *shape)).astype(np.float64)


class MatchedNormal:
    """The normal density with the mode of a smoothed density and the slope of its score there.

    At noise far above the spread of the data the smoothed density is close to N(mean, C + sigma^2), of which
    this finds both from the score. What is left is of the third order in spread / sigma, of the fourth for
    symmetric data.

    Parameters
    ----------
    level
        The noise level.
    exact
        Whether a Jacobian too large to be held is taken along every direction, or along 64 random ones.
    batch
        The most states the score is given at once.

    Attributes
    ----------
    mode : array (1, *shape)
    log_det : float
        Log determinant of the covariance.
    error : float
        Standard error of the log density, from random directions.

    Raises
    ------
    InputError
        If there is no such peak.
    """

    def __init__(self, level: Level, exact: bool = True, batch: int | None = None) -> None:
        self.batch = batch
        self.level = level
        self.mode = self._found_mode()
        self.error = 0.0
        self._precision: _Floats | None = None
        variance, d = level.sigma**2, math.prod(level.shape)
        # A = 1 + sigma^2 J = C / (C + sigma^2) for normal data of covariance C: small at large noise.
        if d <= _DENSE:
            slope = jacobian(level.target, self.mode, scale=level.sigma, batch=batch)[0]
            level.check(slope, self.mode.repeat(d, axis=0))
            self._precision = -0.5 * (slope + slope.T)
            values = np.linalg.eigvalsh(variance * self._precision)
            if values[0] <= 0:
                raise InputError(
                    f"the density at sigma = {level.sigma:g} has no peak at its mode: raise the largest "
                    "noise level, or do without a matched normal density"
                )
            relative = -float(np.log(values).sum())
        elif exact:
            pieces = [np.eye(min(_DENSE, d - i), d, i) for i in range(0, d, _DENSE)]
            trace, square = np.concatenate([self._moments(v) for v in pieces], axis=1).sum(axis=1)
            relative = float(trace + 0.5 * square)
        else:
            traces, squares = self._moments(random_directions(_MANY, 1, d, seed=0)[:, 0])
            relative = float(traces.mean() + 0.5 * squares.mean())
            self.error = 0.5 * float((traces + 0.5 * squares).std(ddof=1)) / math.sqrt(_MANY)
        self.log_det = d * math.log(variance) + relative

    def _found_mode(self) -> _Floats:
        mode = np.zeros((1, *self.level.shape))
        change = math.inf
        for _ in range(100):  # the mean of the data given a state: contracts by their share in the variance
            moved = self.level.denoised(mode)
            change, mode = float(np.abs(moved - mode).max()), moved
            if change < 1e-9 * self.level.sigma:
                return mode
        if change < 1e-5 * self.level.sigma:  # all that a score in single precision allows
            return mode
        raise InputError(
            f"the mode at sigma = {self.level.sigma:g} is not found, the last step was {change:.3g}: raise "
            "the largest noise level, or do without a matched normal density"
        )

    def _moments(self, v: _Floats) -> _Floats:
        """Return v^T A v and |A v|^2 for directions (m, d): log det(1 - A)^-1 = tr A + tr A^2 / 2 + ..."""
        shaped = v.reshape(len(v), 1, *self.level.shape)
        slope = directional(self.level.target, self.mode, shaped, scale=self.level.sigma, batch=self.batch)
        moved = v + self.level.sigma**2 * slope.reshape(v.shape)
        return np.array([np.einsum("mi,mi->m", v, moved), np.einsum("mi,mi->m", moved, moved)])

    def log_p(self, y: _Floats) -> tuple[_Floats, _Floats]:
        """Return log p at states (n, *shape) and its error, both (n,).

        The exponent is (y - mode) . s(y) / 2, exact for normal data; how far that is from the same with the
        slope at the mode, (y - mode) . J (y - mode) / 2, tells how far the density is from normal there.
        """
        d = math.prod(self.level.shape)
        away = y - self.mode
        slope = directional(
            self.level.target, self.mode, away[:, np.newaxis], scale=self.level.sigma, batch=self.batch
        )
        far = away.reshape(len(y), d)
        exponent = 0.5 * np.einsum("ni,ni->n", far, self.level.score(y).reshape(len(y), d))
        normal = 0.5 * np.einsum("ni,ni->n", far, slope.reshape(len(y), d))
        log_p = exponent - 0.5 * (d * math.log(2 * math.pi) + self.log_det)
        return log_p, np.hypot(exponent - normal, self.error)

    def sample(self, n: int, seed: int) -> _Floats:
        """Return draws (n, *shape); in more dimensions than 512 with the same variance in all directions."""
        return self.of_white(deviates(slice(0, n), self.level.shape, seed=seed, step=0, draw=FIRST))

    def of_white(self, white: _Floats) -> _Floats:
        """Return draws made of white noise (n, *shape), as :meth:`sample` does."""
        d = math.prod(self.level.shape)
        if self._precision is None:
            return self.mode + math.exp(0.5 * self.log_det / d) * white
        # The precision is L L^T, so that L^-T white has its inverse as covariance.
        root = np.linalg.cholesky(self._precision)
        moved = scipy.linalg.solve_triangular(root, white.reshape(len(white), d).T, lower=True, trans="T")
        return np.asarray(self.mode + moved.T.reshape(white.shape))
