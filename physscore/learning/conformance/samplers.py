"""Does a sampler draw from the right law? Moments, weights of modes, characteristic functions: all exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import chdtr, chdtrc, ndtri

from physscore.core import InputError, Score
from physscore.learning.conformance.report import (
    Check,
    Report,
    judged,
    of_probability,
    of_student,
    off,
    worst,
)
from physscore.learning.conformance.systems import WAVES, System, chosen
from physscore.learning.conformance.truth import GaussianTruth, MixtureTruth, truth_of
from physscore.noise import normal
from physscore.sampling.engine import whole

_Floats = npt.NDArray[np.float64]

_FEWEST = 500
_N_WAVES = 20
_NEAR = 0.1  # how near numbers have to be to those that an error gives

Sampler = Callable[[Callable[[float], Score], int, int], Any]


@dataclass
class _Facts:
    """What the words are found from: variances, and what they should be; the same of standardised means."""

    have: list[float] = field(default_factory=list)
    want: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    right_means: list[float] = field(default_factory=list)
    widths_right: bool = True


def check_sampler(
    sampler: Sampler,
    *,
    systems: Sequence[System] | None = None,
    n: int = 4000,
    sigma: float = 0.0,
    tolerance: float = 0.03,
    seed: int = 0,
) -> Report:
    """Run a sampler with the true score on three laws, and compare its draws with them.

    Compared are means and variances along the axes of the normal law; the variance of each shell |k| of the
    random field; weights (by chi-square), centres and widths of the two parts of the mixture; and of all, the
    characteristic function E[exp(i t.x)] at 20 random t, of which the energy distance is made
    (Székely & Rizzo 2013, J. Stat. Plan. Inf. 143, 1249).

    Parameters
    ----------
    sampler
        A function (score_at, n, seed) that returns ``n`` independent draws (n, *shape). ``score_at(sigma)``
        returns the true score of the data smoothed with N(0, sigma^2 I): an object with ``score(x)``, where x
        is (n, *shape), and ``shape``. The data have standard deviations from 0.4 to 2 and lie within 6 of 0,
        so noise levels should go from 20 or so (where the start N(0, sigma^2) forgets the data) to 0.1 or
        less. For annealed Langevin, ``annealed_settings()`` tell a right step from a wrong one.
    systems
        Laws. [default: all three]
    n
        How many draws; a quarter of it of fields. At least 500.
    sigma
        The noise that is left in the draws, where they are not denoised.
    tolerance
        How far standard deviations may be off, relative to their values, and means and weights likewise:
        no sampler with finite steps is exact.
    seed
        A whole number from 0 to 2^64 - 2.

    Returns
    -------
    Report
        Its ``words`` say what is likely wrong.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """
    if not callable(sampler):
        raise InputError(f"sampler is {sampler!r}: it must be a function (score_at, n, seed)")
    n, seed = whole(_FEWEST, n=n), whole(0, seed=seed)
    for name, value in (("sigma", sigma), ("tolerance", tolerance)):
        if not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise InputError(f"{name} is {value!r}: it must be a number of at least 0")
    checks: list[Check] = []
    facts = _Facts()
    for system in chosen(systems):
        number = n if system.dim <= 10 else max(_FEWEST, n // 8)
        draws = np.ascontiguousarray(sampler(system.score_at, number, seed), np.float64)
        bad = _unusable(draws, (number, *system.shape))
        if bad:
            checks.append(Check("draws", 0.0, 1.0, None, False, bad, system.name))
            continue
        other = np.asarray(sampler(system.score_at, 2, seed + 1), np.float64)
        fresh = other.shape == (2, *system.shape) and not np.array_equal(other, draws[:2])
        checks.append(Check("another seed, other draws", float(fresh), 1.0, None, fresh,
                            "the seed makes no difference", system.name))  # fmt: skip
        compare = _mixture if isinstance(truth_of(system), MixtureTruth) else _normal
        checks += compare(system, draws, sigma, tolerance, facts)
        checks.append(_waves(system, draws, sigma, tolerance, seed))
    return judged("sampler", checks, seed, lambda check: _explained(check, facts))


def annealed_settings() -> dict[str, Any]:
    """Return settings with which annealed Langevin passes ``check_sampler``, and fails with a wrong step.

    ``sigmas``, ``steps`` at each of them, and ``step_size``, the eps of the last level in
    x + alpha s + sqrt(2 alpha) xi with alpha_i = eps sigma_i^2 / sigma_L^2. In this form Song & Ermon's
    (2019) own step is 2 eps.
    """
    return {"sigmas": np.geomspace(20.0, 0.1, 40), "steps": 12, "step_size": 2.5e-3}


def _unusable(draws: _Floats, shape: tuple[int, ...]) -> str:
    if draws.shape != shape:
        return f"the draws have shape {draws.shape}: it must be {shape}"
    bad = int((~np.isfinite(draws).reshape(len(draws), -1).all(axis=1)).sum())
    if bad:
        return (
            f"{bad} of {len(draws)} draws are not finite: is a step too large, as that at the largest noise "
            "with alpha_i = eps sigma_i^2 / sigma_L^2 and a large eps?"
        )
    return ""


def _chi_square(ratio: Any, freedom: Any, allowance: float) -> _Floats:
    """Return the deviates of ratios of variances, chi-square over their degrees of freedom."""
    ratio = 1 + off(ratio, 1.0, allowance)
    lower, upper = chdtr(freedom, freedom * ratio), chdtrc(freedom, freedom * ratio)
    z = np.where(lower < upper, ndtri(np.maximum(lower, 1e-300)), -ndtri(np.maximum(upper, 1e-300)))
    return np.asarray(np.where(ratio == 1, 0.0, z))


def _normal(system: System, draws: _Floats, sigma: float, tolerance: float, facts: _Facts) -> list[Check]:
    truth = truth_of(system)
    assert isinstance(truth, GaussianTruth)
    n = len(draws)
    z = truth.coordinates(torch.from_numpy(draws)).numpy()
    variances = truth.variances.numpy() + sigma**2
    free = variances > 1e-9
    std = np.sqrt(variances[free])
    unit = z[:, free] / std
    mean = unit.mean(axis=0)
    at = int(np.argmax(np.abs(mean)))
    z_mean = of_student(off(mean, 0.0, tolerance), 1 / math.sqrt(n), math.inf)
    checks = [Check("mean / std, worst", mean[at], 0.0, worst(z_mean), system=system.name)]
    centre = truth.coordinates(torch.zeros(1, *system.shape, dtype=torch.float64)).numpy()[0, free] / std
    if centre.any():
        facts.means += list(mean - centre)
        facts.right_means += list(-centre)
    groups = np.unique(np.round(variances, 9), return_inverse=True)[1]
    size = float(variances[free].mean())
    for group in range(groups.max() + 1):
        members = groups == group
        want, have = float(variances[members][0]), float(z[:, members].var(axis=0, ddof=1).mean())
        if want <= 1e-9:
            still = have <= max(2 * tolerance, 1e-6) * size
            words = "the mean of the field, which is fixed, keeps noise"
            checks.append(Check("variance of the fixed k = 0", have, 0.0, None, still, words, system.name))
            continue
        freedom = (n - 1) * int(members.sum())
        deviate = float(_chi_square(have / want, freedom, 2 * tolerance))
        checks.append(Check(f"variance, where it is {want:.3g}", have, want, deviate, system=system.name))
        facts.have.append(have)
        facts.want.append(want)
        facts.errors.append(have * math.sqrt(2 / freedom))
    first, second = np.triu_indices(unit.shape[1], 1)
    together = (unit.T @ unit / n)[first, second]
    at = int(np.argmax(np.abs(together)))
    z_both = of_student(off(together, 0.0, tolerance), 1 / math.sqrt(n), math.inf)
    checks.append(Check("correlation of axes, worst", together[at], 0.0, worst(z_both), system=system.name))
    return checks


def _mixture(system: System, draws: _Floats, sigma: float, tolerance: float, facts: _Facts) -> list[Check]:
    truth = truth_of(system)
    assert isinstance(truth, MixtureTruth)
    x = torch.from_numpy(draws)
    # The expectation of a share is the weight, whether the parts overlap or not.
    shares = truth.shares(x, sigma**2).numpy()
    weights = truth.weights.numpy()
    nodes, node_weights = (array.numpy() for array in truth.nodes(sigma**2))
    at_nodes = truth.shares(torch.from_numpy(nodes), sigma**2).numpy() - weights[:, np.newaxis]
    covariance = (at_nodes * node_weights) @ at_nodes.T / len(draws)
    found = shares.mean(axis=1)
    gap = off(found, weights, tolerance)[:-1]
    statistic = float(gap @ np.linalg.solve(covariance[:-1, :-1], gap))
    z_weight = math.copysign(of_probability(float(chdtrc(len(gap), statistic))), gap[0]) if statistic else 0.0
    checks = [Check("weight of the first mode", found[0], weights[0], z_weight, system=system.name)]
    for k, (share, part) in enumerate(zip(shares, truth.parts, strict=True)):
        want = part.variances.numpy() + sigma**2
        z = part.coordinates(x).numpy() / np.sqrt(want)
        centre, scatter = _weighted(share, z)
        z_centre = of_student(off(centre, 0.0, tolerance), scatter, len(draws) - 1)
        width, scatter = _weighted(share, z**2)
        z_width = of_student(off(width, 1.0, 2 * tolerance), scatter, len(draws) - 1)
        far, wide = int(np.argmax(np.abs(centre))), int(np.argmax(np.abs(width - 1)))
        name = f"mode {k + 1}"
        checks += [
            Check(f"{name}: centre / std, worst", centre[far], 0.0, worst(z_centre), system=system.name),
            Check(
                f"{name}: variance / right one, worst", width[wide], 1.0, worst(z_width), system=system.name
            ),
        ]
        facts.widths_right &= bool(np.abs(width - 1).max() < 2 * _NEAR and np.abs(centre).max() < 2 * _NEAR)
    return checks


def _weighted(share: _Floats, values: _Floats) -> tuple[_Floats, _Floats]:
    """Return weighted means of columns, with their standard errors."""
    mean = share @ values / share.sum()
    scatter = np.sqrt((share**2) @ (values - mean) ** 2) / share.sum()
    return mean, scatter


def _waves(system: System, draws: _Floats, sigma: float, tolerance: float, seed: int) -> Check:
    """Compare the characteristic function at random frequencies, real and imaginary part."""
    truth = truth_of(system)
    parts = truth.parts if isinstance(truth, MixtureTruth) else [truth]
    weights = truth.weights.numpy() if isinstance(truth, MixtureTruth) else np.ones(1)
    # Frequencies at which phases are of the order of 1, along coordinates that are not fixed.
    typical = np.sqrt(parts[0].variances.numpy() + sigma**2)
    scale = np.divide(1.0, typical, out=np.zeros_like(typical), where=typical > 1e-4)
    deviates = normal(_N_WAVES, system.dim, seed=seed, draw=WAVES)
    t = parts[0].back(torch.from_numpy(deviates * scale / math.sqrt(system.dim)))

    def right(t: torch.Tensor) -> Any:
        total: Any = 0.0
        for weight, part in zip(weights, parts, strict=True):
            spread = (part.turned(t) ** 2 @ (part.variances + sigma**2)).numpy()
            total = total + weight * np.exp(1j * (t @ part.mean).numpy() - 0.5 * spread)
        return total

    phase = draws.reshape(len(draws), -1) @ t.numpy().T
    one, two = right(t), right(2 * t)
    have = np.concatenate([np.cos(phase).mean(axis=0), np.sin(phase).mean(axis=0)])
    want = np.concatenate([one.real, one.imag])
    scatter = np.concatenate([0.5 * (1 + two.real) - one.real**2, 0.5 * (1 - two.real) - one.imag**2])
    error = np.sqrt(np.maximum(scatter, 1e-12) / len(draws))
    z = of_student(off(have, want, 1.5 * tolerance), error, math.inf)
    at = int(np.argmax(np.abs(have - want)))
    return Check("characteristic function, worst", have[at], want[at], worst(z), system=system.name)


def _explained(check: Check, facts: _Facts) -> str:
    about = _of_variances(*map(np.array, (facts.have, facts.want, facts.errors)))
    if about:
        return about
    have, want = np.array(facts.means), np.array(facts.right_means)
    if have.size and np.abs(have - want).max() > _NEAR:
        if np.abs(have + want).max() < _NEAR:
            return "the means have the wrong sign"
        if np.abs(have).max() < _NEAR:
            return "the means are 0: does the drift reach the mean of the data, or is it taken away?"
        return "the variances are right, the means are not: is a term of the drift left out?"
    if check.system == "mixture" and facts.widths_right:
        return (
            "both modes are right, but not their weights: chains pass between modes at large noise, so look "
            "at the largest noise level and at the steps there (alpha_i = eps sigma_i^2 / sigma_L^2)"
        )
    return f"the draws on the law '{check.system}' are off in: {check.name}"


def _of_variances(have: _Floats, want: _Floats, errors: _Floats) -> str:
    """Return what is wrong with variances, given those of narrow and of wide directions."""
    if have.size < 2:
        return ""
    ratio, extra = have / want, have - want
    if np.abs(ratio - 1).max() < _NEAR:
        return ""
    common = float(np.median(ratio))
    if np.abs(ratio / common - 1).max() < _NEAR:
        hint = ""
        if abs(common - 0.5) < 0.5 * _NEAR:
            hint = ": is the noise sqrt(eps) where it should be sqrt(2 eps)?"
        elif abs(common - 2.0) < 2 * _NEAR:
            hint = ": is the noise sqrt(2 eps) where the drift is eps / 2?"
        return f"all variances are {common:.3g} of what they should be{hint}"
    left = float(np.average(extra, weights=1 / errors**2))
    if left > 0 and (np.abs(extra - left) < _NEAR * left + 4 * errors).all():
        return (
            f"the draws keep noise of standard deviation {math.sqrt(left):.3g}: the last step does not take "
            f"it away (where that is meant: sigma={math.sqrt(left):.3g})"
        )
    narrow, wide = ratio[np.argmin(want)], ratio[np.argmax(want)]
    if wide > 1 + _NEAR and (wide > narrow or narrow > 2):
        return (
            f"wide directions have {wide:.3g} times their variance and narrow ones {narrow:.3g} times: "
            "chains keep the spread they start with, so the steps at large noise are too small or few (for "
            "annealed Langevin they are alpha_i = eps sigma_i^2 / sigma_L^2)"
        )
    if wide < 1 - _NEAR and wide < narrow:
        return (
            f"wide directions have {wide:.3g} of their variance: do the chains start at too small a noise, "
            "or is the noise of the steps too small?"
        )
    if abs(narrow - 1) < _NEAR:
        least = int(np.argmax(np.abs(ratio - 1)))
        return f"the variance that should be {want[least]:.3g} is {have[least]:.3g}, others are right"
    return (
        f"narrow directions have {narrow:.3g} times their variance and wide ones {wide:.3g} times: look at "
        "the steps at small noise"
    )
