"""Have generated states collapsed: the volume of their covariance, and their entropy, against a reference.

States are taken as independent draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg, special, stats

from physscore.arrays import n_threads, unmasked
from physscore.core import InputError
from physscore.diagnostics.dealt_widths import differences
from physscore.noise import normal

_Floats = npt.NDArray[np.float64]

_DIRECTIONS = 101  # the number of the deviates that directions use
_MOST_DIRECTIONS = 64
_STATES_A_DIRECTION = 20
_BLOCKS = 16  # of states, whose entropies spread
_FALSE_ALARMS = 1e-3  # of a verdict "narrower" on states that are not
_MANY = 5000  # states, for which threads are worth their start
_SINGULAR = 1e-12  # variance, relative to that of both sets together, that is none


class LogDet(NamedTuple):
    """Log determinant of a sample covariance, and what it should be."""

    value: float
    """log det S, with S the covariance of n states divided by n - 1."""
    expected: float
    """Its mean for normal states of the given covariance."""
    error: float
    """Its standard deviation for them."""

    @property
    def pull(self) -> float:
        """Deviation from what is expected in standard deviations: clearly negative after a collapse."""
        return (self.value - self.expected) / self.error


class Entropy(NamedTuple):
    """A differential entropy, -integral of p log p."""

    value: float
    """In nats."""
    error: float
    """Standard error, from the spread over blocks of states. The bias is not in it."""


def log_det_covariance(x: Any, covariance: Any) -> LogDet:
    """Return log det of the covariance of states against that of their law.

    For n normal states in d dimensions log det S - log det Sigma is the sum of log(chi^2_{n-i} / (n - 1)) for
    i = 1 ... d (Wishart's law; Muirhead 1982, theorem 3.2.15), of which mean and variance are sums of digamma
    and trigamma functions: exact for every n above d.

    Parameters
    ----------
    x
        States (n, *shape), n above their number of components d.
    covariance
        Of the law they should follow: (d, d), or d variances.

    Returns
    -------
    LogDet
        ``value``, ``expected``, ``error``, ``pull``. The value is -inf if the states fill no volume.

    Raises
    ------
    InputError
        If there are too few states, or the covariance is not positive definite.
    """
    states = _flat("x", x)
    n, d = states.shape
    sigma = np.asarray(covariance, np.float64)
    sigma = np.diag(sigma) if sigma.ndim == 1 else sigma
    if sigma.shape != (d, d) or not np.isfinite(sigma).all():
        raise InputError(f"covariance has shape {sigma.shape}: it must be finite, ({d}, {d}) or ({d},)")
    if n <= d:
        raise InputError(f"x holds {n} states of {d} components: a covariance has a volume for more than {d}")
    try:
        lower = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:
        raise InputError("covariance is not positive definite: a volume needs every direction") from None
    white = linalg.solve_triangular(lower, (states - states.mean(axis=0)).T, lower=True).T
    known = 2 * float(np.log(np.diag(lower)).sum())
    mean, variance = _wishart(n, d)
    return LogDet(known + _log_det(_covariance(white)), known + mean, math.sqrt(variance))


def differential_entropy(x: Any, *, neighbours: int = 3) -> Entropy:
    """Return the entropy of the density of states, by the distances to their nearest neighbours.

    H = psi(n) - psi(k) + log V_d + d <log r_k>, with r_k the distance of a state to the k-th nearest one and
    V_d the volume of the unit ball (Kozachenko & Leonenko 1987, Problemy Peredachi Informatsii 23, 9;
    Kraskov, Stögbauer & Grassberger 2004, cond-mat/0305641, equation 20), in coordinates in which the
    covariance of the states is one. The bias falls as (k / n)^(2/d): for 1000 normal states it is -0.01 nat
    in 1 dimension, -0.06 in 4.

    Parameters
    ----------
    x
        States (n, *shape), at least 16 (neighbours + 2), and more than 2 for each component.
    neighbours
        k.

    Returns
    -------
    Entropy
        ``value`` is -inf if states coincide with ``neighbours`` others or fill no volume.

    Raises
    ------
    InputError
        If there are too few states.
    """
    states = _flat("x", x)
    n, d = states.shape
    _check_neighbours(neighbours, n)
    if n <= 2 * d:
        raise InputError(f"x holds {n} states of {d} components: give more than {2 * d}, or fewer components")
    variances, axes = np.linalg.eigh(_covariance(states))
    if variances[0] <= _SINGULAR * variances[-1]:
        return Entropy(-math.inf, 0.0)
    white = (states @ axes) / np.sqrt(variances)
    value, error = _entropy(white, neighbours)
    return Entropy(value + 0.5 * float(np.log(variances).sum()), error)


@dataclass(frozen=True)
class Collapse:
    """Whether one set of states is narrower than another.

    Attributes
    ----------
    directions : int
        In how many directions it was looked: all components, or random ones.
    log_det, log_det_error : float
        Log det of the covariance of the states minus that of the reference, corrected for the bias of both,
        and its standard error.
    entropy, entropy_error : float
        The same of the differential entropy; nan if both are -inf.
    width : float
        exp(log_det / (2 directions)): mean ratio of widths, over the directions.
    p_narrower, p_wider : float
        Chance that states of one law differ so much, in the one direction or the other, from states that
        are dealt out again; of the two numbers above, the more striking counts, twice.
    """

    directions: int
    log_det: float
    log_det_error: float
    entropy: float
    entropy_error: float
    width: float
    p_narrower: float
    p_wider: float

    @property
    def narrower(self) -> bool:
        """Whether the states are narrower; by chance once in 1000 times for states of one law."""
        return self.p_narrower < _FALSE_ALARMS

    @property
    def wider(self) -> bool:
        """Whether they are wider, likewise."""
        return self.p_wider < _FALSE_ALARMS

    def __str__(self) -> str:
        both = "narrower in one way and wider in another" if self.wider else "narrower than the reference"
        word = (
            both
            if self.narrower
            else "wider than the reference"
            if self.wider
            else "as wide as the reference"
        )
        return (
            f"{word}: {self.width:.3g} of its width in {self.directions} directions, log det of the "
            f"covariance {self.log_det:+.3g} +- {self.log_det_error:.2g}, entropy {self.entropy:+.3g} +- "
            f"{self.entropy_error:.2g} nats"
        )

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """Return the numbers and the verdict, ready for JSON: None for what is infinite or not known."""
        numbers = {name: value if math.isfinite(value) else None for name, value in vars(self).items()}
        return {"narrower": self.narrower, "wider": self.wider, **numbers}


def collapse(
    x: Any,
    reference: Any,
    *,
    directions: int | None = None,
    neighbours: int = 3,
    permutations: int = 2999,
    seed: int = 0,
) -> Collapse:
    """Compare how much room generated states take with that of reference states.

    Two numbers are compared. The log determinant of the covariance sees a lost width; its error is that of
    Wishart's law, times what the spread of the Mahalanobis distances adds where states are not normal. The
    entropy also sees draws that crowd, repeat themselves or leave out modes; it is taken from equally many
    states of both sets in the same coordinates, so that its bias drops out for states of one law. Whether
    they differ is decided by dealing the states out to the sets again, which is exact whatever their law is.

    Parameters
    ----------
    x
        Generated states (n, *shape), independent ones.
    reference
        States (m, *shape) of the law they should follow: of a test set, not of the training set.
    directions
        In how many random orthonormal directions to look, if not along all components. [default: a direction
        for each 20 states of the smaller set, but 64 and the number of components at most]
    neighbours
        k of :func:`differential_entropy`.
    permutations
        How many deals, at least 2000 for a verdict.
    seed
        Of the directions and of the deals.

    Returns
    -------
    Collapse
        ``print`` it for the verdict.

    Raises
    ------
    InputError
        If shapes differ, there are too few states, or the reference itself fills no volume.
    """
    generated, truth = _flat("x", x), _flat("reference", reference)
    if np.shape(x)[1:] != np.shape(reference)[1:]:
        raise InputError(f"x has states {np.shape(x)[1:]} and reference {np.shape(reference)[1:]}: the same")
    fewer, d = min(len(generated), len(truth)), truth.shape[1]
    _check_neighbours(neighbours, fewer)
    most = max(1, min(d, _MOST_DIRECTIONS, fewer // _STATES_A_DIRECTION))
    count = most if directions is None else directions
    if (
        isinstance(count, bool)
        or not isinstance(count, int | np.integer)
        or not 1 <= count <= min(d, fewer // 4)
    ):
        raise InputError(
            f"directions is {directions!r}: it must be a whole number from 1 to {min(d, fewer // 4)}, for "
            f"states of {d} components, {fewer} in the smaller set"
        )
    if count < d:
        axes = np.linalg.qr(normal(int(count), d, seed=seed, draw=_DIRECTIONS).T)[0]
        generated, truth = generated @ axes, truth @ axes
    originals = generated, truth
    variances = np.linalg.eigvalsh(_covariance(truth))
    if variances[0] <= _SINGULAR * variances[-1]:
        raise InputError(
            f"reference fills no volume in {count} directions: its smallest variance is {variances[0]:.3g} "
            f"of {variances[-1]:.3g}; give fewer directions, or states of varied components"
        )
    # Coordinates that owe as much to the one set as to the other: their bias is the same in both.
    variances, axes = np.linalg.eigh(0.5 * (_covariance(generated[:fewer]) + _covariance(truth[:fewer])))
    generated, truth = (
        ((part - part.mean(axis=0)) @ axes) / np.sqrt(variances) for part in (generated, truth)
    )
    log_dets, errors = zip(*(_corrected_log_det(part) for part in (generated, truth)), strict=True)
    log_det, log_det_error = log_dets[0] - log_dets[1], math.hypot(*errors)
    own, its = (_entropy(part[:fewer], neighbours) for part in (generated, truth))
    entropy = own.value - its.value if math.isfinite(its.value) else math.nan
    entropy_error = math.hypot(own.error, its.error)
    tests = [
        (float((dealt <= observed).sum()), float((dealt >= observed).sum()))
        for observed, dealt in differences(*originals, neighbours, permutations, seed)
    ]
    narrower, wider = (2 * (1 + min(more)) / (1 + permutations) for more in zip(*tests, strict=True))
    return Collapse(
        int(count), log_det, log_det_error, entropy, entropy_error, math.exp(log_det / (2 * count)),
        min(1.0, narrower), min(1.0, wider),
    )  # fmt: skip


def _flat(name: str, x: Any) -> _Floats:
    states = unmasked(x, name)
    if states.ndim < 2 or states.dtype.kind not in "fiu" or len(states) < 2:
        raise InputError(
            f"{name} has shape {states.shape} and type {states.dtype}: it must be states (n, ...)"
        )
    states = states.reshape(len(states), -1).astype(np.float64)
    if not np.isfinite(states).all():
        raise InputError(
            f"{name} is not finite everywhere: leave such states out, and say how many they were"
        )
    return states


def _check_neighbours(neighbours: Any, n: int) -> None:
    if isinstance(neighbours, bool) or not isinstance(neighbours, int | np.integer) or neighbours < 1:
        raise InputError(f"neighbours is {neighbours!r}: it must be a whole number of at least 1")
    if n < _BLOCKS * (neighbours + 2):
        raise InputError(
            f"there are {n} states: an entropy with {neighbours} neighbours and an error needs at least "
            f"{_BLOCKS * (neighbours + 2)}"
        )


def _covariance(states: _Floats) -> _Floats:
    centred = states - states.mean(axis=0)
    return np.asarray(centred.T @ centred / (len(states) - 1))


def _log_det(covariance: _Floats) -> float:
    """Return log det; -inf if a variance is none, relative to 1."""
    values = np.linalg.eigvalsh(covariance)
    return float(np.log(values).sum()) if values[0] > _SINGULAR else -math.inf


def _wishart(n: int, d: int) -> tuple[float, float]:
    """Return mean and variance of log det S - log det Sigma for n normal states."""
    half = (n - np.arange(1, d + 1)) / 2
    mean = float(special.digamma(half).sum()) + d * math.log(2 / (n - 1))
    return mean, float(special.polygamma(1, half).sum())


def _corrected_log_det(states: _Floats) -> tuple[float, float]:
    """Return log det of the covariance less its bias, and its error, for states that need not be normal.

    The influence of a state on log det S is its squared Mahalanobis distance: n / (n - 1)^2 times it follows
    the law Beta(d/2, (n - d - 1)/2) for normal states, and a wider one for tails.
    """
    n, d = states.shape
    mean, variance = _wishart(n, d)
    value = _log_det(_covariance(states))
    if not math.isfinite(value):
        return value, math.sqrt(variance)
    centred = states - states.mean(axis=0)
    distances = np.einsum("ni,ni->n", centred, np.linalg.solve(_covariance(states), centred.T).T)
    expected = stats.beta.var(d / 2, (n - d - 1) / 2) * ((n - 1) ** 2 / n) ** 2
    return value - mean, math.sqrt(variance * float(distances.var()) / float(expected))


def _entropy(states: _Floats, k: int) -> Entropy:
    """Return the entropy of states and its error, in the coordinates they have."""
    whole = _kozachenko_leonenko(states, k)
    if not math.isfinite(whole):
        return Entropy(whole, 0.0)
    parts = [_kozachenko_leonenko(states[start::_BLOCKS], k) for start in range(_BLOCKS)]
    return Entropy(whole, float(np.std(parts, ddof=1)) / math.sqrt(_BLOCKS))


def _kozachenko_leonenko(states: _Floats, k: int) -> float:
    from scipy.spatial import cKDTree

    n, d = states.shape
    distance = cKDTree(states).query(states, k + 1, workers=n_threads() if n > _MANY else 1)[0][:, k]
    if not distance.min() > 0:
        return -math.inf
    ball = 0.5 * d * math.log(math.pi) - float(special.gammaln(d / 2 + 1))
    return float(special.digamma(n) - special.digamma(k) + ball + d * np.log(distance).mean())
