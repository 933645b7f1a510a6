"""What all samplers through noise levels share: a checked score at a level, pieces, noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import require_memory
from physscore.core import InputError, Score
from physscore.noise import normal
from physscore.sampling.engine import whole

_Floats = npt.NDArray[np.float64]
ScoreAt = Callable[[float], Score]

_FEWEST_LEVELS = 40
_PIECE = 1 << 20  # components of the states that are handed to a score at once

# The numbers of the deviates of each sampler: that of the first states is that of ``annealed_langevin``,
# and the others are used for nothing else.
FIRST, PREDICTOR, CORRECTOR, CHURN, ANCESTRAL, PERTURBED = 3, 96, 97, 98, 99, 100


class Level:
    """The score of the density smoothed with N(0, sigma^2 I), checked at every call.

    Parameters
    ----------
    score_at
        The function of sigma that gives it.
    sigma
        The noise level, in the unit of x.

    Raises
    ------
    InputError
        If it gives no ``Score``.
    """

    def __init__(self, score_at: ScoreAt, sigma: float) -> None:
        if not callable(score_at):
            raise InputError(f"score_at is {score_at!r}: it must be a function of sigma")
        self.sigma = float(sigma)
        self.target = score_at(self.sigma)
        if not isinstance(self.target, Score):
            raise InputError(
                f"score_at({self.sigma:g}) returned a {type(self.target).__name__}: it must be a Score"
            )
        self.shape = self.target.shape

    def score(self, y: _Floats) -> _Floats:
        """Return the score at states (n, *shape).

        Raises
        ------
        InputError
            If it is not finite, or of another shape.
        """
        found = np.asarray(self.target.score(y), np.float64)
        if found.shape != y.shape:
            raise InputError(f"score_at({self.sigma:g}) gives {found.shape} at states {y.shape}: the same")
        self.check(found, y)
        return found

    def check(self, found: _Floats, y: _Floats) -> None:
        """Refuse a score or a derivative of it that is not finite.

        Raises
        ------
        InputError
            If it is not.
        """
        good = np.asarray(np.isfinite(found).reshape(len(found), -1).all(axis=1))
        if not good.all():
            worst = int(np.argmin(good))
            raise InputError(
                f"score_at({self.sigma:g}) is not finite for {int((~good).sum())} of {len(good)} states, one "
                f"of them with components up to {np.abs(y[worst]).max():.3g}: the way ends at this noise "
                "level; take a score that is defined there, or more steps"
            )

    def denoised(self, y: _Floats) -> _Floats:
        """Return the mean of x given y = x + sigma xi, y + sigma^2 s (Efron 2011, JASA 106, 1602)."""
        return y + self.sigma**2 * self.score(y)


def enough_levels(sigma_min: float, sigma_max: float) -> int:
    """Return how many of EDM's levels leave an error of about 1% in a Gaussian's variance by Heun's rule.

    It is the largest at its narrowest modes: 40 are enough for levels that are 2500 apart, as of spectra that
    vary by 1e4; of those that vary by 1e10 they would make it 25%.
    """
    return max(_FEWEST_LEVELS, math.ceil(0.65 * math.log(sigma_max / sigma_min) ** 2))


def pieces(n: int, dim: int, batch: int | None) -> list[slice]:
    """Return the rows that are in work at once: ``batch``, or as many as have 2^20 components.

    Raises
    ------
    InputError
        If ``batch`` is not a whole number of at least 1, or there is no memory for so many.
    """
    most = max(1, _PIECE // dim) if batch is None else whole(batch=batch)
    require_memory(8 * n * dim, f"holding {n} states of {dim} numbers")
    return [slice(start, min(start + most, n)) for start in range(0, n, most)]


def deviates(rows: slice, shape: tuple[int, ...], *, seed: int, step: int, draw: int) -> _Floats:
    """Return the standard normal deviates of some chains: (rows, *shape)."""
    n = rows.stop - rows.start
    found = normal(n, math.prod(shape), seed=seed, step=step, draw=draw, first=rows.start)
    return found.reshape(n, *shape)


def short(value: Any) -> str:
    """Return a value as a message can show it: on one line, and not all of it."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def counted(items: Iterable[Any], total: int, what: str, progress: bool) -> Iterator[Any]:
    """Yield the items, with a progress bar if asked for."""
    if progress:
        from tqdm import tqdm

        items = tqdm(items, total=total, desc=what, unit="level", disable=None)
    yield from items
