"""Why a run may not have mixed, beyond what its draws tell: what the sampler finds at the last states."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import chdtri

from physscore.arrays import on_gpu
from physscore.core import Array, Energy
from physscore.energies.coordinates import prior_and_likelihood, terms_of
from physscore.energies.functions import is_own
from physscore.energies.score_check import check_score
from physscore.kernels.loops import Loop
from physscore.kernels.state import State
from physscore.sampling.engine import Engine

if TYPE_CHECKING:
    from physscore.sampling.result import Run

NOT_A_NUMBER = "the energy is not a number"
_FALSE_ALARMS = 1e-3
_BIAS = 0.1  # relative, of variances
_TRIED = 50  # steps in which an energy that is not a number is looked for
_CHAINS = 64
_NEAR = 10.0  # of the chains' spread: farther out a state has run away
_CHECKED = 2, 10  # states and components of a score
_WRONG = 0.01  # relative error of a score that is too large to be a matter of precision


def bias(run: Run) -> str:
    """Return what is wrong with a step that is not rejected and far too long, "" if nothing is.

    eps |W^T s|^2 / 2d is, for a normal target, the relative error of the variances, the mean over the
    directions. It may be the ``bias`` that was asked for, or a tenth, and what chance adds in a thousandth of
    all runs to the mean of as many squares.
    """
    if run.kernel.step_function != "langevin":
        return ""
    n = run.draws.shape[1] * max(1, math.prod(run.shape))
    allowed = max(_BIAS, getattr(run.kernel, "bias", 0.0)) * float(chdtri(n, _FALSE_ALARMS)) / n
    if not run.drift_to_noise > allowed:
        return ""
    return (
        f"is biased: the step is so long that variances are off by some {100 * run.drift_to_noise:.0f}%: "
        "take a shorter one, or MALA, which rejects"
    )


def causes(engine: Engine, state: State, run: Run) -> list[str]:
    """Return what may explain that ``run``, which ended at ``state``, has not mixed."""
    if not isinstance(engine.target, Energy) or on_gpu(state.x) or not run.complete or len(run.draws) < 4:
        return []
    terms = [term for _, term in terms_of(engine.target) if isinstance(term, Energy)]
    own = [term for term in terms if is_own(term)]
    found = [_walls(engine)]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if run.n_divergent:
                found.append(_not_a_number(engine, state))
            if own and run.doubts():
                what = _rounded(state) or _random(engine, state)
                found += [what] if what else [_wrong_score(term, engine, state) for term in own]
    except Exception:  # of an energy at a state of ours: the run is there all the same
        return []
    return [what for what in found if what]


def _walls(engine: Engine) -> str:
    prior = prior_and_likelihood(engine.target)[0]
    if engine.kernel.whitened or prior is None or not prior.has_walls:
        return ""
    return (
        f"the prior has bounds, at which {type(engine.kernel).__name__} rejects: HMC(harmonic=True) and "
        "CrankNicolson move in coordinates that have none"
    )


def _not_a_number(engine: Engine, state: State) -> str:
    """Move some chains on, and look at the energies on their way."""
    if engine.kernel.step_function not in ("hamiltonian", "adaptive"):
        return ""
    watched = _Watched(engine.inner, state.x)
    some = slice(0, _CHAINS)
    x, energy, score, momentum = (
        a[some].copy() for a in (state.x, state.energy, state.score, state.momentum)
    )
    moved = State(x, energy, score, momentum, state.seed, state.step, state.first)
    loop = Loop(watched, engine.kernel.step_function, "batched")
    for _ in range(_TRIED):
        loop.advance(moved, engine.kernel.moves(), engine.metric, 1)
        if watched.lost:
            return (
                f"{NOT_A_NUMBER} at {watched.lost} of {watched.seen} states that were tried: "
                "return inf where there is no density; a smaller step does not help"
            )
    return ""


class _Watched(Energy):
    """An energy, and how often it is not a number near the chains."""

    def __init__(self, energy: Any, x: Array) -> None:
        self._energy, self.shape = energy, energy.shape
        flat = x.reshape(len(x), -1)
        self._centre = np.median(flat, axis=0)
        self._reach = _NEAR * (np.abs(flat - self._centre).max() + np.abs(self._centre).max())
        self.seen = self.lost = 0

    def energy_and_score(self, x: Array) -> tuple[Array, Array]:
        """Return both, and count."""
        energy, score = self._energy.energy_and_score(x)
        near = (np.abs(x.reshape(len(x), -1) - self._centre) <= self._reach).all(axis=1)
        self.seen += int(near.sum())
        self.lost += int((near & np.isnan(energy)).sum())
        return energy, score


def _rounded(state: State) -> str:
    level = float(np.abs(state.energy).min())
    if level * np.finfo(np.float64).eps <= 0.1:
        return ""
    return f"the energy is {level:.2g} and more, which rounds it by 0.1 and more: leave a constant out"


def _random(engine: Engine, state: State) -> str:
    change = np.abs(engine.loop.evaluate(state.x)[0] - state.energy)
    change = change[change > 1e-3 + 1e-5 * np.abs(state.energy)]
    if not len(change):
        return ""
    return (
        f"the energy is random: it is another one by up to {change.max():.3g} when it is asked again for the "
        "same states; keep its random numbers fixed"
    )


def _wrong_score(term: Energy, engine: Engine, state: State) -> str:
    states, components = _CHECKED
    x = engine.positions(state.x[:states].astype(np.float64))
    found = check_score(term, x, tolerance=_WRONG, most=components)
    return "" if found.passed or not np.isfinite(found.error) else f"{found.message} ({term!r})"
