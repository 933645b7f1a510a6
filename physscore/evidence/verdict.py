"""Can the number be trusted? What was seen on the way, weighed in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from physscore.core import Array
from physscore.energies.coordinates import prior_and_likelihood
from physscore.energies.priors import Parameters
from physscore.evidence.annealed import Leg
from physscore.evidence.bridge import HEAVY_TAIL, Estimate, tail_of, tail_size
from physscore.evidence.excess import Excess

# By chance alone each check says "suspect" less than once in 10^4 runs.
_SUSPECT, _FAILED = 4.5, 9.0
_LEAST_ACCEPTANCE = 0.1, 0.01
_LEAST_ESS = 0.05
_LEAST_ALIVE = 0.5  # of the islands
_ONE_ISLAND = 0.8  # of the variance between many islands
_SCATTER, _BY_CHANCE = 2.0, 5.0  # variance of the islands' log Z, and times what it is by chance
_ROUNDING = 1e-12
_SCORE_ERROR = 1e-3
EXACT = 1e-5  # error of a score by which control variates are not biased
OPEN = 1.0  # error of the ways of steps that are never rejected, which excuses no gap between them
_BESIDE = 0.01  # standard deviations of the reference
_LOOKED_AT = 512  # states
_MISSING = 0.1  # of the error: what may be missing of log Z
_PAIRS, _COMPONENTS = 128, 1 << 16  # of a state
_HEAVY_SQUARE = 0.1  # tail index
_SLOWEST = 0.9  # power of y with which -y score rises: exponential tails have 1
_ENOUGH = 16  # states, by which that can be told


@dataclass
class Finding:
    """A reason to doubt, and whether it is enough to reject."""

    reason: str
    failed: bool = False


def verdict_of(findings: Sequence[Finding]) -> tuple[str, list[str]]:
    """Return "pass", "suspect" or "failed", and the reasons."""
    reasons = [finding.reason for finding in findings]
    if not findings:
        return "pass", []
    return ("failed" if any(finding.failed for finding in findings) else "suspect"), reasons


def look_at(
    legs: Sequence[Leg], total: Estimate, gap: float, gap_error: float, length: float, n_steps: int
) -> list[Finding]:
    """Return what speaks against a run."""
    found: list[Finding] = []
    if not (math.isfinite(total.value) and np.isfinite(total.influence).all()):
        return [Finding("the weights are not finite: log Z cannot be told", failed=True)]
    far = abs(gap) / max(gap_error, 1e-300) if abs(gap) > 1e-9 else 0.0
    if far > _SUSPECT:
        found.append(Finding(
            f"the ways there and back differ by {gap:.3g}, {far:.1f} of its errors: the particles lag, "
            "so give it more temperatures or a kernel that moves more", far > _FAILED,
        ))  # fmt: skip
    alive = float(np.isfinite(legs[0].log_z).mean())
    if alive < _LEAST_ALIVE:
        found.append(Finding(
            f"{1 - alive:.0%} of the islands began where the target is zero: give more particles, or a "
            "reference nearer to the target"
        ))  # fmt: skip
    lowest = min(float(leg.acceptance[1:].mean(axis=1).min()) for leg in legs)
    if lowest < _LEAST_ACCEPTANCE[0]:
        found.append(Finding(
            f"the kernel accepts {lowest:.1%} at one temperature", lowest < _LEAST_ACCEPTANCE[1]
        ))  # fmt: skip
    ess = min(float(leg.ess.mean(axis=1).min()) for leg in legs)
    if ess < _LEAST_ESS:
        found.append(Finding(f"the effective sample size falls to {ess:.1%} of the particles"))
    squares = total.influence**2
    share = squares.max() / max(squares.sum(), 1e-300)
    scatters = total.scatter > _ROUNDING * max(1.0, abs(total.value))
    if scatters and share > _ONE_ISLAND + 3 / len(squares):
        found.append(Finding(
            f"one of {len(squares)} islands makes {share:.0%} of their scatter: take more particles"
        ))  # fmt: skip
    if length / max(n_steps, 1) > 2.0:
        found.append(Finding(
            f"{n_steps} steps are few for a way of {length:.0f} standard deviations of the energy"
        ))  # fmt: skip
    return found


def agreeing(there: Estimate, back: Estimate) -> list[Finding]:
    """Doubt steps that are never rejected, by what their weights say on each way: where few of them count,
    one is too low and the other too high."""
    gap, error = back.value - there.value, math.hypot(there.error, back.error)
    if abs(gap) > _SUSPECT * error:
        return [Finding(
            f"the weights of the ways there and back differ by {gap:.3g}, "
            f"{abs(gap) / max(error, 1e-300):.1f} of its errors: steps that are never rejected do not follow "
            "the density, so use MALA()",
            abs(gap) > _FAILED * error,
        )]  # fmt: skip
    if error > OPEN:
        return [Finding(
            f"the weights of steps that are never rejected leave log Z open by {error:.2g}: few of them "
            "count, and what the steps make of the density is not known, so use MALA()"
        )]  # fmt: skip
    return []


def scattered(log_z: Array, by_chance: float) -> list[Finding]:
    """Doubt islands whose log Z differ by far more than those of particles that forget where they were."""
    alive = log_z[np.isfinite(log_z)]
    variance = float(alive.var(ddof=1)) if len(alive) > 1 else 0.0
    if variance <= max(_SCATTER, _BY_CHANCE * by_chance):
        return []
    return [Finding(
        f"the islands' log Z scatter by {math.sqrt(variance):.2g}, where moves that forget leave "
        f"{math.sqrt(by_chance):.2g}: the target has parts that particles hardly find, or do not leave, so "
        "give more particles, fewer islands or a kernel that moves more"
    )]  # fmt: skip


def heavy(tail: float) -> list[Finding]:
    """Doubt weights without a variance."""
    if tail <= HEAVY_TAIL:
        return []
    return [Finding(
        f"the weights have tails so heavy (index {tail:.2f}) that their variance may be infinite: "
        "take a reference that is wider than the target, or has heavier tails, such as JohnsonSU"
    )]  # fmt: skip


def follow(legs: Sequence[Leg], excess: Excess, y: Array) -> list[Finding]:
    """Test that particles followed the densities, and that the score is that of the energy at states ``y``
    drawn from the target."""
    found = score_fits(excess, y)
    astray = [] if legs[0].walled else _not_invariant(legs)
    if astray and not found and not continuous(excess, y):
        return []  # where the energy jumps, Stein's identity does not hold
    return astray + found


def _not_invariant(legs: Sequence[Leg]) -> list[Finding]:
    """Test that -y . score = d on average, at every temperature, as it is for draws from the density.

    Both ways are averaged: what lags has opposite signs in them.
    """
    virials = [leg.virial[1:] for leg in legs]
    mean = np.mean([virial.mean(axis=1) for virial in virials], axis=0)
    variance = sum(virial.var(axis=1, ddof=1) / virial.shape[1] for virial in virials) / len(virials) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(variance > 0, np.abs(mean) / np.sqrt(variance), 0.0)
    if not np.isfinite(z).all():
        return [Finding("the scores are not finite", failed=True)]
    worst = float(z.max())
    limit = _SUSPECT + 0.5 * math.log(len(z))
    if worst <= limit:
        return []
    return [Finding(
        f"the particles do not follow the density: the mean of x . grad E is off by {worst:.3g} errors "
        "(a wrong score, a kernel that does not leave it invariant, or too few moves)", worst > 2 * limit,
    )]  # fmt: skip


def continuous(excess: Excess, y: Array) -> bool:
    """Return whether u changes on the way between some states as integrals of its gradient say: where it
    jumps, as at walls, Stein's identity does not hold."""
    n = min(len(y) // 2, _PAIRS, max(2, _COMPONENTS // y.shape[1]))
    start, along = y[:n], 0.25 * (y[n : 2 * n] - y[:n])
    integrals = []
    with np.errstate(over="ignore", invalid="ignore"):
        change = excess(start + along)[0] - excess(start)[0]
        for order in (5, 8, 11):  # where these differ, nothing can be told
            nodes, weights = np.polynomial.legendre.leggauss(order)
            at = start + (0.5 + 0.5 * nodes)[:, np.newaxis, np.newaxis] * along
            slopes = excess(at.reshape(-1, y.shape[1]))[1].reshape(at.shape)
            integrals.append(0.5 * np.einsum("k,kni,ni->n", weights, slopes, along))
    allowed = _SCORE_ERROR * (np.abs(change) + np.std(change)) + 10 * np.ptp(integrals, axis=0)
    return bool((np.abs(change - integrals[-1]) <= allowed).all())


def light(excess: Excess, y: Array) -> bool:
    """Return whether the target falls as fast as control variates need, whose squares must have a variance.

    Each state's largest coordinate is looked at. Few states do not tell half-normal or exponential numbers
    from those that fall like a power of y, but the score of the largest does: where tails are exponential,
    -y score rises as y does, and hardly where they are powers.
    """
    centred = y - np.median(y, axis=0)
    width = np.median(np.abs(centred), axis=0)
    sizes = np.abs(centred) / np.where(width > 0, width, np.inf)
    which = sizes.argmax(axis=1)
    each = np.arange(len(y))
    with np.errstate(divide="ignore"):
        log_size = np.log(sizes[each, which])
    tail = tail_of(2.0 * log_size)
    if tail is None or tail <= _HEAVY_SQUARE:
        return True
    far = np.argsort(log_size)[-tail_size(len(y)) :]
    sides = 2 * which[far] + (centred[far, which[far]] > 0)  # that may fall in different ways
    many = np.bincount(sides)
    if many.max() >= _ENOUGH:
        far = far[sides == many.argmax()]
    with np.errstate(over="ignore", invalid="ignore"):
        score = -(y[far] + excess(y[far])[1])[each[: len(far)], which[far]]
    low, high = np.array_split(-centred[far, which[far]] * score, 2)
    inner, outer = np.array_split(log_size[far], 2)
    low = low * math.exp(_SLOWEST * (outer.mean() - inner.mean()))
    error = math.sqrt(low.var() / len(low) + high.var() / len(high))
    return bool(high.mean() + error > low.mean())


def beyond_bounds(excess: Excess, x: Array, error: float) -> list[Finding]:
    """Ask whether the target goes on where the reference has ended: what is left of it there has no share
    in log Z. ``x`` are states drawn from the target within the bounds.

    The mirror images of the states at a bound lie beyond it, and the mean of exp(E(x) - E(mirrored x)) is
    what the target holds there.
    """
    reference, target = excess.reference, excess.target
    if not isinstance(reference, Parameters) or prior_and_likelihood(target)[0] is reference:
        return []
    x = x[:: -(-len(x) // _LOOKED_AT)]
    beyond = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        energy = target.energy(x)
        for i, bounds in enumerate(zip(reference.lower, reference.upper, strict=True)):
            for bound in (bound for bound in bounds if math.isfinite(bound)):
                mirrored = x.copy()
                mirrored[:, i] = 2 * bound - x[:, i]
                ratio = np.nan_to_num(np.exp(np.minimum(energy - target.energy(mirrored), 50.0)))
                beyond += float(ratio.mean())
    missing = math.log1p(beyond)
    if missing <= max(_MISSING * error, 1e-9):
        return []
    return [Finding(
        f"the target goes on beyond the bounds of the reference: there it holds at least {beyond:.2g} of "
        "what it holds within, so give a reference that covers it", missing > error,
    )]  # fmt: skip


def score_fits(excess: Excess, y: Array, tolerance: float = _SCORE_ERROR) -> list[Finding]:
    """Compare the score with differences of the energy along random directions, at states drawn from the
    target and from the reference.

    Moves that are accepted or rejected forgive a small error, as of finite differences; control variates,
    whose mean it changes, do not: for these the tolerance is ``EXACT``.
    """
    n = int(np.clip(_COMPONENTS // excess.dim, 8, _LOOKED_AT // 2))
    y = np.concatenate([y[:: -(-len(y) // n)], excess.draw(n, 0, 0).astype(y.dtype)])
    random = np.random.default_rng(0)
    off, unsure, *_ = _off(excess, y, random.normal(size=y.shape), 0.0, tolerance)
    wrong = off > 0
    if not wrong.any():
        return []
    # At a kink the energy changes otherwise than its gradient says; beside it, it does not.
    beside = y[wrong] + _BESIDE * random.normal(size=y[wrong].shape)
    off, _, change, said = _off(excess, beside, random.normal(size=beside.shape), unsure, tolerance)
    if not (off > 0).any():
        return []
    worst = int(np.argmax(off))
    return [Finding(
        f"the score does not fit the energy: along a line the energy changes by {change[worst]:.4g}, "
        f"the score says {said[worst]:.4g}", failed=True,
    )]  # fmt: skip


def _off(
    excess: Excess, y: Array, direction: Array, unsure: float, tolerance: float
) -> tuple[Array, float, Array, Array]:
    """Return by how much more than they may the changes of the energy and those that the score says differ,
    how uncertain the former are, at least ``unsure``, and both."""
    with np.errstate(over="ignore", invalid="ignore"):
        change, said, differ, rounding = _along(excess, y, direction)
        known = np.isfinite(differ) & np.isfinite(said)
        if not known.any():
            return np.full(len(y), -np.inf), unsure, change, said
        unsure = max(unsure, float(np.median(differ[known])))  # that of one may be small by chance
        allowed = (
            tolerance * (np.abs(change) + np.abs(said) + np.std(said[known]))
            + rounding
            + 10 * np.maximum(differ, unsure)
        )
        return np.where(known, np.abs(change - said) - allowed, -np.inf), unsure, change, said


def along_lines(excess: Excess, y: Array, direction: Array) -> tuple[Array, Array, Array]:
    """Return by how much the energy changes along directions (n, d) at states ``y`` (n, d), what its gradient
    says of that, and how uncertain the former is, each of shape (n,); not finite where nothing is known."""
    change, said, differ, rounding = _along(excess, y, direction)
    known = differ[np.isfinite(differ)]
    return change, said, rounding + 10 * np.maximum(differ, np.median(known) if len(known) else np.inf)


def _along(excess: Excess, y: Array, direction: Array) -> tuple[Array, Array, Array, Array]:
    """Return changes by differences, those by the gradient, how much the former depend on the length of the
    step, and their rounding."""
    h = 1e-4 / math.sqrt(y.shape[1])
    u, gradient = excess(y)
    change, coarse = (
        (excess(y + step * direction)[0] - excess(y - step * direction)[0]) / (2 * step)
        for step in (h, 2 * h)
    )
    said = np.einsum("ni,ni->n", gradient, direction)
    return change, said, np.abs(change - coarse), 1e-13 * np.abs(u) / h
