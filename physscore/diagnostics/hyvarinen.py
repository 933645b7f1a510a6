"""The divergence of a score, and what it says without the truth: Hyvarinen's score, Stein's identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError
from physscore.diagnostics.derivatives import divergence
from physscore.diagnostics.estimates import Estimate, mean_of, of_means, plain
from physscore.diagnostics.foreign import finite_states, rows, watched

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DivergenceStatistics:
    """The divergence of a score over states.

    If the states are draws from the density p of which s should be the score, E[|s|^2 + div s] = 0 (Stein's
    identity), and 1/2 |s|^2 + div s (Hyvarinen 2005, JMLR 6, 695) is least, on average, for the score of p:
    up to a constant it is half the Fisher divergence.

    Attributes
    ----------
    values : array (n,)
        The divergence at each state.
    norms : array (n,)
        |s|^2 at each.
    mean : Estimate
        Its mean.
    squares : Estimate
        Mean of |s|^2.
    hyvarinen : Estimate
        Mean of 1/2 |s|^2 + div s.
    stein : Estimate
        Mean of |s|^2 + div s.
    stein_scale : Estimate
        -E[div s] / E|s|^2: the factor on s that makes Hyvarinen's score least. 1 for the score of the density
        that the states were drawn from; -1 if the sign is wrong.
    """

    values: _Floats
    norms: _Floats
    mean: Estimate
    squares: Estimate
    hyvarinen: Estimate
    stein: Estimate
    stein_scale: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        names = ("mean", "squares", "hyvarinen", "stein", "stein_scale")
        quantiles = [float(q) for q in np.quantile(self.values, [0.05, 0.5, 0.95])]
        return {
            "states": len(self.values),
            **{name: getattr(self, name).as_dict() for name in names},
            "divergence_5%_50%_95%": plain(quantiles),
        }


@np.errstate(all="ignore")  # what is not finite is said in words
def divergence_statistics(
    score: Any, x: Any, *, probes: int | None = None, seed: int = 0
) -> DivergenceStatistics:
    """Measure the divergence of a score, and Hyvarinen's score, over states.

    Parameters
    ----------
    score
        An object with ``shape`` and ``score(x)``.
    x
        Independent states (n, *shape).
    probes
        Number of random directions a state. [default: none, but the exact divergence]
    seed
        Of the directions.

    Returns
    -------
    DivergenceStatistics
        The spread of the probes is part of all errors.

    Raises
    ------
    InputError
        If an argument makes no sense, or a divergence is not finite.
    """
    target = watched(score)
    states = finite_states(x, target.shape)
    return statistics_of_values(target.score(states), divergence(target, states, probes, seed).value)


def statistics_of_values(found: Array, values: _Floats) -> DivergenceStatistics:
    """Return the same of scores (n, *shape) and their divergences (n,) that are known."""
    squares = (rows(found).astype(np.float64) ** 2).sum(axis=1)
    bad = ~np.isfinite(squares + values)
    if bad.any():
        raise InputError(f"score or its divergence is not finite at {bad.sum()} of {len(bad)} states")
    return DivergenceStatistics(
        values=values,
        norms=squares,
        mean=mean_of(values),
        squares=mean_of(squares),
        hyvarinen=mean_of(0.5 * squares + values),
        stein=mean_of(squares + values),
        stein_scale=of_means(lambda div, ss: -div / ss, values, squares),
    )
