"""Prediction of the noise, of v, or of the clean state, as in DDPM and EDM: other faces of the same score."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import real_number, real_numbers, unmasked
from physscore.core import Array, InputError, Score
from physscore.energies.functions import state_shape
from physscore.energies.learned import from_torch
from physscore.sampling.engine import whole
from physscore.sampling.levels import ScoreAt, short

_Floats = npt.NDArray[np.float64]
_ROUNDING = 1e-3  # by which the ends may be missed: schedules are multiplied up in single precision


def linear_betas(n: int = 1000, first: float = 1e-4, last: float = 0.02) -> _Floats:
    """Return the variances of ``n`` steps that add noise, evenly spaced (Ho et al. 2020, arXiv:2006.11239).

    Raises
    ------
    InputError
        If they are not between 0 and 1.
    """
    return check_betas(np.linspace(first, last, whole(n=n)))


def cosine_betas(n: int = 1000, offset: float = 0.008, most: float = 0.999) -> _Floats:
    """Return the variances for which abar = cos^2((t + offset) / (1 + offset) pi / 2) / (the same at 0).

    Nichol & Dhariwal 2021 (arXiv:2102.09672), equation 17, with t = i / n; none is above ``most``.

    Raises
    ------
    InputError
        If they are not between 0 and 1.
    """
    if not (isinstance(offset, int | float) and 0 <= offset < math.inf and 0 < most < 1):
        raise InputError(
            f"offset is {offset!r} and most {most!r}: they must be at least 0, and within (0, 1)"
        )
    t = np.arange(whole(n=n) + 1) / n
    kept = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return check_betas(np.minimum(1 - kept[1:] / kept[:-1], most))


def alphas_bar(betas: Any) -> _Floats:
    """Return abar_t, the product of 1 - beta up to step t: the share of the data in the variance of x_t.

    Raises
    ------
    InputError
        If the betas are not between 0 and 1.
    """
    return np.asarray(np.exp(np.cumsum(np.log1p(-check_betas(betas)))))


def check_betas(betas: Any) -> _Floats:
    """Return variances of steps as an array.

    Raises
    ------
    InputError
        If they are not a list of numbers between 0 and 1.
    """
    try:
        given = np.atleast_1d(np.asarray(betas, np.float64))
    except (TypeError, ValueError):
        given = np.zeros((0, 0))
    if given.ndim != 1 or not given.size or not ((given > 0) & (given < 1)).all():
        raise InputError(f"betas is {short(betas)}: it must be a list of variances between 0 and 1")
    return given


def epsilon_to_score(epsilon: Any, alpha_bar: Any) -> Array:
    """Return the score of p_t from the noise that a network predicts: s_t = -epsilon / sqrt(1 - abar).

    Parameters
    ----------
    epsilon
        Predicted noise at x_t = sqrt(abar) x_0 + sqrt(1 - abar) xi, of shape (n, *shape).
    alpha_bar
        abar of step t: one number, or one for each state.

    Raises
    ------
    InputError
        If abar is not between 0 and 1, or epsilon no array of numbers.
    """
    noise = unmasked(_detached(epsilon), "epsilon")
    if noise.dtype.kind not in "fiu" or not noise.ndim:
        raise InputError(f"epsilon is {short(epsilon)}: it must hold numbers, of shape (n, *shape)")
    kept = real_numbers(alpha_bar, "alpha_bar")
    if not ((kept >= 0) & (kept < 1)).all() or kept.shape not in ((), noise.shape[:1]):
        raise InputError(
            f"alpha_bar is {short(alpha_bar)}: it must be from 0 to 1, one number or one a state"
        )
    return np.asarray(-noise / np.sqrt(1 - kept).reshape(-1, *[1] * (noise.ndim - 1)))


def score_at_from_epsilon(
    epsilon: Callable[[Array, int], Array], alphas_bar: Any, *, shape: int | Sequence[int]
) -> ScoreAt:
    """Return the score at each noise level of a network that predicts the noise of DDPM's steps.

    Step t has the noise level sigma_t = sqrt((1 - abar_t) / abar_t), in the unit of the data, and the score
    there is -epsilon(y sqrt(abar_t), t) / sigma_t. Between two steps epsilon is interpolated, linearly in
    log sigma.

    Parameters
    ----------
    epsilon
        A function of states x_t (n, *shape) and the step t = 0, 1, ..., that returns the predicted noise.
    alphas_bar
        abar of each step, falling; see :func:`alphas_bar`.
    shape
        Shape of one state.

    Returns
    -------
    function of sigma
        What samplers take as ``score_at``. It raises ``InputError`` for a noise level outside of the steps.

    Raises
    ------
    InputError
        If ``alphas_bar`` does not fall between 1 and 0.
    """
    return partial(NoisePrediction, *_of_steps(epsilon, "epsilon", alphas_bar), state_shape(shape))


def score_at_from_v(
    v: Callable[[Array, int], Array], alphas_bar: Any, *, shape: int | Sequence[int]
) -> ScoreAt:
    """Return the same of a network that predicts v = sqrt(abar) xi - sqrt(1 - abar) x_0.

    The noise is then sqrt(abar) v + sqrt(1 - abar) x_t (Salimans & Ho 2022, arXiv:2202.00512).

    Parameters
    ----------
    v
        A function of states x_t (n, *shape) and the step t = 0, 1, ..., that returns the predicted v.
    alphas_bar, shape
        As in :func:`score_at_from_epsilon`.

    Raises
    ------
    InputError
        If ``alphas_bar`` does not fall between 1 and 0.
    """
    v, kept = _of_steps(v, "v", alphas_bar)

    def epsilon(x: Array, step: int) -> Array:
        found = np.asarray(_detached(v(x, step)))
        if found.shape != x.shape:
            raise InputError(f"v(x, {step}) returned {found.shape}, expected {x.shape}")
        return np.asarray(math.sqrt(kept[step]) * found + math.sqrt(1 - kept[step]) * x)

    return partial(NoisePrediction, epsilon, kept, state_shape(shape))


def score_at_from_denoiser(
    denoiser: Callable[[Array, float], Array], *, shape: int | Sequence[int]
) -> ScoreAt:
    """Return the score at each noise level of a denoiser D(x, sigma) = E[x_0 | x], as in EDM.

    The score is (D - x) / sigma^2 (Karras et al. 2022, arXiv:2206.00364, equation 3).

    Parameters
    ----------
    denoiser
        A function of states (n, *shape) and sigma, a number, that returns clean states; or a
        ``torch.nn.Module``, which is given tensors, sigma as (n,).
    shape
        Shape of one state.

    Returns
    -------
    function of sigma
        What samplers take as ``score_at``.

    Raises
    ------
    InputError
        If ``denoiser`` is no function.
    """
    if not callable(denoiser):
        raise InputError(f"denoiser is {denoiser!r}: it must be a function of states and sigma")
    return partial(Denoised, denoiser, state_shape(shape))


def _of_steps(network: Any, name: str, alphas_bar: Any) -> tuple[Any, _Floats]:
    if not callable(network):
        raise InputError(f"{name} is {network!r}: it must be a function of states and a step")
    kept = np.asarray(alphas_bar, np.float64)
    good = kept.ndim == 1 and kept.size and ((kept > 0) & (kept < 1)).all() and (np.diff(kept) < 0).all()
    if not good:
        raise InputError(f"alphas_bar is {short(alphas_bar)}: it must fall, between 1 and 0")
    return network, kept


class NoisePrediction(Score):
    """The score at one noise level of a network that predicts noise; see ``score_at_from_epsilon``."""

    def __init__(
        self, epsilon: Callable[[Array, int], Array], kept: _Floats, shape: tuple[int, ...], sigma: float
    ) -> None:
        self.shape, self.sigma = shape, float(sigma)
        self._epsilon = epsilon
        levels = np.sqrt((1 - kept) / kept)
        if not levels[0] * (1 - _ROUNDING) <= self.sigma <= levels[-1] * (1 + _ROUNDING):
            raise InputError(
                f"sigma is {sigma:g}: the steps of the network have noise levels from {levels[0]:.4g} to "
                f"{levels[-1]:.4g}"
            )
        place = float(np.interp(math.log(self.sigma), np.log(levels), np.arange(len(levels))))
        if abs(place - round(place)) < 1e-6:  # rounding of sigma does not cost a second call
            place = round(place)
        low = int(place)
        self._terms = [(1 - (place - low), low, math.sqrt(kept[low]))]
        if place > low:
            self._terms.append((place - low, low + 1, math.sqrt(kept[low + 1])))

    def score(self, x: Array) -> Array:
        """Return the score at states (n, *shape), in the unit of the data."""
        total: Any = 0.0
        for weight, step, scale in self._terms:
            found = np.asarray(_detached(self._epsilon(x * scale, step)))
            if found.shape != x.shape:
                raise InputError(f"epsilon(x, {step}) returned {found.shape}, expected {x.shape}")
            total = total + weight * found
        return np.asarray(-total / self.sigma)


class Denoised(Score):
    """The score at one noise level of a network that predicts clean states: ``score_at_from_denoiser``."""

    def __init__(self, denoiser: Any, shape: tuple[int, ...], sigma: float) -> None:
        self.shape, self.sigma = shape, real_number(sigma, "sigma")
        if not 0 < self.sigma < math.inf:
            raise InputError(f"sigma is {sigma}: a noise level must be positive")
        self._denoiser = denoiser
        if hasattr(denoiser, "state_dict"):  # of torch: it has derivatives as well
            module = from_torch(denoiser, shape, kind="score", sigma=self.sigma)
            self._denoiser = lambda x, _: module.score(x)
            self.directional = lambda x, v: self._slope(x, v, *module.directional(x, v))

    def score(self, x: Array) -> Array:
        """Return the score at states (n, *shape)."""
        found = np.asarray(_detached(self._denoiser(x.copy(), self.sigma)))
        if found.shape != x.shape:
            raise InputError(f"denoiser(x, {self.sigma:g}) returned {found.shape}, expected {x.shape}")
        return np.asarray((found - x) / self.sigma**2)

    def _slope(self, x: Array, v: Array, clean: Array, product: Array) -> tuple[Array, Array]:
        return (clean - x) / self.sigma**2, (product - v) / self.sigma**2


def _detached(found: Any) -> Any:
    """Return what a network returns without its graph, on the CPU, if it is a tensor."""
    return found.detach().cpu() if hasattr(found, "detach") else found
