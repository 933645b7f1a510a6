"""The way from one energy to another, and the temperatures and noise levels along it, as plain arrays."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from physscore.arrays import real_number
from physscore.core import Energy, InputError, combine


class Path:
    """The geometric path: E_beta = (1 - beta) E_0 + beta E_1, and so s_beta = (1 - beta) s_0 + beta s_1.

    From a prior to its posterior the prior stays as it is, and the likelihood gets the power beta.

    Parameters
    ----------
    reference, target
        The two ends, energies of states of one shape.

    Raises
    ------
    InputError
        If they are not.
    """

    def __init__(self, reference: Energy, target: Energy) -> None:
        for name, end in (("reference", reference), ("target", target)):
            if not isinstance(end, Energy):
                raise InputError(f"{name} is {end!r}: a path leads from one energy to another")
        self.reference, self.target = reference, target
        self.difference = cast(Energy, combine([(1.0, target), (-1.0, reference)]))

    def at(self, beta: float) -> Energy:
        """Return the energy at ``beta``, from 0 (the reference) to 1 (the target).

        Raises
        ------
        InputError
            If ``beta`` is not between them.
        """
        beta = real_number(beta, "beta")
        if not 0 <= beta <= 1:
            raise InputError(f"beta is {beta}: it must be from 0 to 1")
        if beta == 0:
            return self.reference
        if beta == 1:
            return self.target
        return cast(Energy, combine([(1.0 - beta, self.reference), (beta, self.target)]))


def noise_levels(first: float, last: float, n: int) -> npt.NDArray[np.float64]:
    """Return ``n`` noise levels in geometric progression, from the largest to the smallest.

    Raises
    ------
    InputError
        If they are not positive and falling.
    """
    first, last = real_number(first, "first"), real_number(last, "last")
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise InputError(f"n is {n!r}: it must be a whole number of at least 2")
    if not (0 < last < first and n >= 2):
        raise InputError(f"noise levels from {first} to {last}, {n} of them: they must fall, and be positive")
    return np.asarray(np.geomspace(first, last, n))


def check_levels(sigmas: Any) -> npt.NDArray[np.float64]:
    """Return noise levels as an array.

    Raises
    ------
    InputError
        If they are not positive and falling.
    """
    try:
        levels = np.atleast_1d(np.asarray(sigmas, np.float64))
    except (TypeError, ValueError):
        levels = np.zeros(0)
    good = levels.ndim == 1 and levels.size and np.isfinite(levels).all() and (levels > 0).all()
    if not good or not (np.diff(levels) < 0).all():
        raise InputError(f"sigmas is {sigmas!r}: noise levels must be positive and fall")
    return levels


def equal_barrier(betas: Any, rejection: Any, n: int) -> tuple[npt.NDArray[np.float64], float]:
    """Return ``n`` values of beta between which replicas swap equally often, and the barrier.

    Parameters
    ----------
    betas
        The ladder from 0 to 1 on which was measured.
    rejection
        Mean rejection of the swaps between neighbours, one less than ``betas``.
    n
        Length of the new ladder.

    Returns
    -------
    betas : array (n,)
    barrier : float
        The sum of the rejections, which hardly depends on the ladder
        (Syed, Bouchard-Cote, Deligiannidis & Doucet 2022, arXiv:1905.02939, section 5).
    """
    from scipy.interpolate import PchipInterpolator

    old = np.asarray(betas, np.float64)
    cumulative = np.concatenate([[0.0], np.cumsum(np.maximum(np.asarray(rejection, np.float64), 1e-6))])
    wanted = np.linspace(0.0, cumulative[-1], n)
    new = np.asarray(PchipInterpolator(cumulative, old)(wanted))
    new[0], new[-1] = 0.0, 1.0
    return new, float(cumulative[-1])
