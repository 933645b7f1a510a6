"""A score that is plainly not that of its energy, refused before particles are led by it for minutes."""

from __future__ import annotations

import numpy as np

from physscore.core import Energy, InputError, Prior
from physscore.energies.coordinates import prior_and_likelihood, terms_of
from physscore.energies.integrated import IntegratedScore
from physscore.evidence.excess import excess_of
from physscore.evidence.verdict import along_lines

_STATES, _COMPONENTS = 64, 1 << 16
_CLEAR = 0.1  # of a change: how uncertain its differences may be
_FARTHER = 1e-2  # standard deviations of the reference, a hundred times the step of the others
_LEAST = 8  # states where it is clear, and a quarter of all
_GROSS = 0.5  # of both sizes: three times too large or small, or of the other sign
_NEARLY_ALL = 0.9  # of the states, so that neither jumps nor rounding nor a corner is a reason


def refuse_wrong_score(target: Energy, reference: Prior, name: str, device: str = "cpu") -> None:
    """Compare the score with differences of the energy at draws from ``reference``, which is called ``name``.

    Smaller errors, and those in a corner, are found at the end, by ``verdict.score_fits``, where more states
    are looked at, and the target's: all that is refused here would have failed there. Of a prior's target the
    likelihood is looked at. Energies that are line integrals of their score are another question.

    Raises
    ------
    InputError
        If the score has another sign, or is three times too large or small, nearly everywhere.
    """
    if any(isinstance(term, IntegratedScore) for _, term in terms_of(target)):
        return
    excess = excess_of(reference, target, device)
    n = int(np.clip(_COMPONENTS // excess.dim, _LEAST, _STATES))
    y = excess.draw(n, 0, 0)
    direction = np.random.default_rng(0).normal(size=y.shape)
    with np.errstate(all="ignore"):
        change, said, uncertain = along_lines(excess, y, direction)
        step = _FARTHER / np.sqrt(excess.dim) * direction
        farther = (excess(y + step)[0] - excess(y - step)[0]) / (2 * _FARTHER / np.sqrt(excess.dim))
        slopes = (change != 0) & (said != 0)  # between jumps there are none
        if prior_and_likelihood(target)[0] is not reference:  # the target itself, not what it has beyond
            own = np.einsum("ni,ni->n", y, direction)
            change, said, farther = change + own, said + own, farther + own
        size = np.abs(change) + np.abs(said)
        # An energy of float32, or with jumps, is flat from one state to the next, but not over a longer way.
        clear = np.isfinite(size) & (np.maximum(uncertain, np.abs(farther - change)) < _CLEAR * size)
        gross = clear & slopes & (np.abs(change - said) > _GROSS * size)
    if clear.sum() < max(_LEAST, 0.25 * n) or gross.sum() < _NEARLY_ALL * clear.sum():
        return
    i = int(np.argsort(size[gross])[gross.sum() // 2])
    one, other = change[gross][i], said[gross][i]
    hint = "it must be -grad E"
    if np.median(np.abs(change + said)[gross] / size[gross]) < 1e-3:
        hint = "all signs are reversed: a score is -grad E, while gradient_out of compiled energies is grad E"
    raise InputError(
        f"score does not fit the energy at {gross.sum()} of {clear.sum()} draws from {name}: along a line "
        f"the energy changes by {one:.4g}, the score says {other:.4g}; {hint} (check_score says where)"
    )
