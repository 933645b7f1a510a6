"""The probability flow: an ordinary differential equation that turns noise into data, and data into noise.

Every linear SDE (``sde.py``) has one with the marginals p_t. In the unit of the data, y = x / alpha, and over
the logarithm of the noise level it is the same for all of them, dy / dlog(sigma) = -sigma^2 s_sigma(y)
(Song et al. 2021, arXiv:2011.13456, equation 13; Karras et al. 2022, arXiv:2206.00364, equation 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states
from physscore.core import Array, InputError
from physscore.diagnostics.derivatives import quadratic_forms
from physscore.sampling.engine import whole
from physscore.sampling.levels import Level, ScoreAt, pieces
from physscore.sampling.sde import SDE, as_sde
from physscore.sampling.start import first_states

_Floats = npt.NDArray[np.float64]

METHODS = ("DOP853", "RK45", "RK4")


class Flow:
    """The velocity of states, and of their log density, over u = log(sigma).

    Parameters
    ----------
    score_at
        As in ``reverse_sde``.
    sigma_min, sigma_max
        The noise levels between which it is asked for; rounding never leads outside.
    shape
        Of one state.
    n
        How many states.
    probes
        Directions (m, n, d) with which the divergence is estimated, or "exact", or None for states alone.
    batch
        The most states the score is given at once for its derivatives.
    """

    def __init__(
        self,
        score_at: ScoreAt,
        sigma_min: float,
        sigma_max: float,
        shape: tuple[int, ...],
        n: int,
        probes: Any = None,
        batch: int | None = None,
    ) -> None:
        self.batch = batch
        self.score_at, self.low, self.high = score_at, sigma_min, sigma_max
        self.shape, self.n, self.probes = shape, n, probes
        self.n_logs = 0 if probes is None else n if isinstance(probes, str) else n * len(probes)
        self.evaluations = 0

    def level(self, u: float) -> Level:
        """Return the noise level at log(sigma) = u."""
        return Level(self.score_at, min(max(math.exp(u), self.low), self.high))

    def __call__(self, u: float, flat: _Floats) -> _Floats:
        """Return d/du of (states, integrals of sigma^2 div s), flattened."""
        self.evaluations += 1
        level = self.level(u)
        y = flat[: flat.size - self.n_logs].reshape(self.n, *self.shape)
        velocity = -(level.sigma**2) * level.score(y).ravel()
        if self.probes is None:
            return np.asarray(velocity)
        directions = None if isinstance(self.probes, str) else self.probes
        forms = quadratic_forms(level.target, y, directions, scale=level.sigma, batch=self.batch)
        level.check(forms.T, y)
        return np.concatenate([velocity, (level.sigma**2 * forms).ravel()])


def integrate(
    flow: Callable[[float, _Floats], _Floats],
    start: _Floats,
    span: tuple[float, float],
    *,
    method: str,
    tolerance: float,
    absolute: Any,
    steps: int | None,
    progress: bool,
) -> _Floats:
    """Return the state at the end of ``span``, by an adaptive method or by ``steps`` steps of RK4.

    ``absolute`` is the absolute tolerance of each component, in units of ``tolerance``.

    Raises
    ------
    InputError
        If the solver fails; what it says is passed on.
    """
    from scipy.integrate import DOP853, RK45

    begin, end = span
    bar: Any = None
    if progress:
        from tqdm import tqdm

        bar = tqdm(total=round(abs(end - begin), 3), desc="probability flow", unit="e-fold", disable=None)
    now, y = begin, start
    if method == "RK4":
        assert steps is not None
        h = (end - begin) / steps
        for i in range(steps):
            now = begin + i * h
            a = flow(now, y)
            b = flow(now + h / 2, y + h / 2 * a)
            c = flow(now + h / 2, y + h / 2 * b)
            y = y + h / 6 * (a + 2 * (b + c) + flow(now + h, y + h * c))
            if bar is not None:
                bar.update(abs(h))
    else:
        solver = {"DOP853": DOP853, "RK45": RK45}[method](
            flow, begin, start, end, rtol=tolerance, atol=tolerance * absolute
        )
        while solver.status == "running":
            failure = solver.step()
            if solver.status == "failed":
                raise InputError(f"the probability flow did not reach sigma = {math.exp(end):g}: {failure}")
            if bar is not None:
                bar.update(abs(solver.t - now))
            now = solver.t
        y = solver.y
    if bar is not None:
        bar.close()
    return np.asarray(y)


def check_method(method: str, tolerance: float, steps: int | None) -> str:
    """Return the name of the method: RK4 if steps are given.

    Raises
    ------
    InputError
        If the three do not go together.
    """
    if method not in METHODS:
        raise InputError(f"method is {method!r}: it must be one of {', '.join(METHODS)}")
    if method == "RK4" and steps is None:
        raise InputError("steps is missing: RK4 takes equal steps of log sigma, steps= says how many")
    if method != "RK4" and steps is not None:
        raise InputError(f'steps is {steps!r} and method {method}, which chooses its own: take method="RK4"')
    if steps is not None:
        whole(steps=steps)
    if not isinstance(tolerance, int | float | np.number) or not 1e-13 <= tolerance < 1:
        raise InputError(f"tolerance is {tolerance!r}: it must be a number from 1e-13 to 1")
    return method


def probability_flow(
    score_at: ScoreAt,
    sde: SDE | tuple[float, float],
    n: int,
    *,
    seed: int = 0,
    init: Any = None,
    denoise: bool = True,
    method: str = "DOP853",
    tolerance: float = 1e-5,
    steps: int | None = None,
    batch: int | None = None,
    progress: bool = False,
) -> Array:
    """Draw by the probability flow from noise to data, a deterministic map of the start.

    Parameters
    ----------
    score_at
        A function of the noise level sigma that returns the score of the density smoothed with
        N(0, sigma^2 I): a ``Score`` or an ``Energy``.
    sde
        ``VE``, ``VP`` or ``SubVP``; or a pair (sigma_min, sigma_max) of ``VE``. Its time does not matter.
    n
        How many draws.
    seed
        A whole number from 0 to 2^64 - 1, of the start.
    init
        Where x_1 starts: an array, such as what :func:`encode` returned, a density with a method ``sample``,
        or "matched", the normal density that the score has at the largest noise. A map forgets nothing: a
        start that leaves out the mean of the data moves every draw by about mean / sigma_max widths.
        [default: N(0, std(1)^2)]
    denoise
        End with the mean of x given its last noise, y + sigma_min^2 s. With False the map is the inverse of
        :func:`encode`.
    method
        "DOP853" or "RK45", which choose their steps for all states that are in work together (so results
        depend on ``batch`` within the tolerance); or "RK4" with ``steps`` equal steps of log sigma, of which
        each state is independent.
    tolerance
        Relative error of a step, and the absolute one in units of sigma_min.
    steps
        Of RK4.
    batch
        The most states in work at once. [default: 2^20 components]
    progress
        Show a progress bar.

    Returns
    -------
    array (n, *shape)
        In the unit of the data.

    Raises
    ------
    InputError
        If an argument makes no sense, the solver fails, or the score is not finite; it says at which noise
        level.
    """
    sde, n = as_sde(sde), whole(n=n)
    check_method(method, tolerance, steps)
    top, alpha = Level(score_at, sde.sigma_max), float(sde.alpha(1.0))
    shape = top.shape
    x = first_states(top, n, float(sde.std(1.0)), seed, init, alpha) / alpha
    span = (math.log(sde.sigma_max), math.log(sde.sigma_min))
    last = Level(score_at, sde.sigma_min)
    for rows in pieces(n, math.prod(shape), batch):
        x[rows] = _moved(score_at, sde, x[rows], span, method, tolerance, steps, progress)
        if denoise:
            x[rows] = last.denoised(x[rows])
    return np.asarray(x)


def encode(
    score_at: ScoreAt,
    sde: SDE | tuple[float, float],
    x: Any,
    *,
    method: str = "DOP853",
    tolerance: float = 1e-5,
    steps: int | None = None,
    batch: int | None = None,
    progress: bool = False,
) -> Array:
    """Follow the probability flow from data to noise: the latent x_1 of every state.

    ``probability_flow(..., init=latent, denoise=False)`` leads back.

    Parameters
    ----------
    score_at, sde, method, tolerance, steps, batch, progress
        As in :func:`probability_flow`.
    x
        States (n, *shape), taken as data with noise sigma_min.

    Returns
    -------
    array (n, *shape)
        Draws from p_1, close to N(0, std(1)^2), if the states are draws from the data.

    Raises
    ------
    InputError
        As :func:`probability_flow`.
    """
    sde = as_sde(sde)
    check_method(method, tolerance, steps)
    states = checked_states(x, Level(score_at, sde.sigma_min).shape)
    out = np.empty_like(states)
    span = (math.log(sde.sigma_min), math.log(sde.sigma_max))
    for rows in pieces(len(states), math.prod(states.shape[1:]), batch):
        out[rows] = _moved(score_at, sde, states[rows], span, method, tolerance, steps, progress)
    return np.asarray(out * float(sde.alpha(1.0)))


def checked_states(x: Any, shape: tuple[int, ...]) -> _Floats:
    """Return states in double precision.

    Raises
    ------
    InputError
        If they have another shape or are not finite.
    """
    states = as_states(x, shape).astype(np.float64)
    if not len(states) or not np.isfinite(states).all():
        raise InputError(f"x holds {len(states)} states: there must be one, and all of them finite")
    return states


def _moved(
    score_at: ScoreAt,
    sde: SDE,
    y: _Floats,
    span: tuple[float, float],
    method: str,
    tolerance: float,
    steps: int | None,
    progress: bool,
) -> _Floats:
    flow = Flow(score_at, sde.sigma_min, sde.sigma_max, y.shape[1:], len(y))
    found = integrate(
        flow, y.ravel(), span, method=method, tolerance=tolerance, absolute=sde.sigma_min, steps=steps,
        progress=progress,
    )  # fmt: skip
    return found.reshape(y.shape)
