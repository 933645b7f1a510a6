"""What the islands say together: all estimates, the best of them, and whether more is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from physscore.core import Array
from physscore.evidence.annealed import Leg
from physscore.evidence.bridge import (
    HEAVY_TAIL,
    Estimate,
    acceptance_ratio,
    controlled,
    integrated,
    mean_of,
    one_sided,
    returned,
    smooth,
    tail_index,
)
from physscore.evidence.job import Job, Unit
from physscore.evidence.verdict import EXACT, OPEN, continuous, light, score_fits

_UNEVEN = 0.25, 0.5  # variance of the islands' log Z, beyond which few of them rule the mean of Z, or of u
_MANY = 16  # islands, whose variance can be told
_LAG = 2.5  # errors between the ways there and back, above which the schedule is lengthened
_SPREAD = 0.1  # variance of the islands' log Z, from which on their mean of Z may miss what is rare
_TELLING = 1.5  # errors of a gap, above which it is told from chance, by all islands
_GAP_SHARE = 0.5  # of the gap between the ways goes into the error: all may be on one side
_WORTH = 0.8  # of the error, below which control variates are used
_CURVED = 0.25  # of a variance: by how much an estimate may be biased, half of what logarithms of Z are
_LOST = 1e10  # an error that says that neighbours do not overlap at all
_STRAY = 3.0  # errors from zero, above which they are not
_SCATTERED = 3.0  # times what is due: a variance of 16 islands that forget is above it once in 10^4 times


@dataclass
class Seen:
    """What the islands say together.

    Attributes
    ----------
    there, back : Leg
        Both ways of all islands that went them.
    total : Estimate
        The best estimate, by the way called ``name``.
    estimates : dict
        Of all that apply.
    there_alone : Estimate
        What the way there says by itself.
    gap, gap_error : float
        By how much the way back is above the way there.
    rungs : array (k,)
        What each step of the schedule adds to log Z.
    tail : float
        The heaviest tail of the weights; see ``bridge.tail_index``.
    strays : bool
        Whether islands that went back scatter far more than is due, or control variates are off from
        their mean, zero, by more than chance and for no walls: particles lag, or what rests on the score
        does not hold.
    """

    there: Leg
    back: Leg
    total: Estimate
    name: str
    estimates: dict[str, Estimate]
    there_alone: Estimate
    gap: float
    gap_error: float
    rungs: Array
    tail: float
    strays: bool

    @classmethod
    def of(cls, job: Job, units: dict[int, Unit]) -> Seen:
        """Return what can be told from the units of a job."""
        ordered = [units[key] for key in sorted(units)]
        there = Leg.joined([unit.there for unit in ordered])
        back = Leg.joined([unit.back for unit in ordered if unit.back is not None])
        betas = job.plan.betas
        ways = {"BAR there": [there], "BAR back": [back]}
        # Where the target is zero at some of the reference's draws, ways begin and end where it is not.
        inside = {way: one_sided(there.inside[: len(legs[0].log_z)], 1.0) for way, legs in ways.items()}
        found = {
            "way there": one_sided(there.log_z, 1.0),
            "way back": returned(back.log_z) + inside["BAR back"],
        }
        if len(back.log_z) == len(there.log_z):
            ways["BAR"], inside["BAR"] = [there, back], inside["BAR there"]
            found["stepping stone"] = mean_of(found["way there"], found["way back"])
        bars, rungs, added = {}, {}, {}
        for way, legs in ways.items():
            populations = [leg.populations for leg in legs]
            bar, rungs[way] = acceptance_ratio(betas, populations)
            bars[way] = inside[way] + bar
            rungs[way][0] += inside[way].value
            added[way] = controlled(
                betas, populations, [leg.control for leg in legs], [leg.fitting for leg in legs], bar
            )
        tail = tail_index(betas, there.populations)
        best = "BAR" if "BAR" in ways else "BAR there"
        found |= bars
        if len(betas) > 2 and smooth(betas, there.populations):
            mean_energies = integrated(betas, [leg.populations for leg in ways[best]])
            found["thermodynamic integration"] = inside[best] + mean_energies
        y = ordered[0].y
        off, allowed = abs(added[best].value), _STRAY * added[best].error
        usable = (
            not there.walled
            and tail <= HEAVY_TAIL
            and light(job.excess, y)
            and continuous(job.excess, y)
            and not score_fits(job.excess, y, EXACT)
        )
        if usable and off < allowed:
            found["control variates"] = bars[best] + added[best]
        # While islands differ little, the mean of their estimates of Z is unbiased and good. The weights of
        # steps that are never rejected may have tails that are not looked at.
        unadjusted = job.kernel.step_function == "langevin"
        name = best if job.narrow or unadjusted else "way there"
        # Control variates that stray mean that particles lag, or that Bennett's estimate is off by chance.
        total, doubt = found[name], _share_of(off, added[best].error) if usable and off >= allowed else 0.0
        # The smaller of two errors may be so by chance: none is taken that is below Bennett's.
        error = max(total.error, bars[best].error)
        if "control variates" in found and found["control variates"].error < _WORTH * error:
            doubt = _CURVED * error**2  # what logarithms add is not controlled
            name, total = "control variates", found["control variates"]
            error = total.error
            bars = {way: bar + added[way] for way, bar in bars.items()}
        gap = bars["BAR back"].value - bars["BAR there"].value
        gap_error = math.hypot(bars["BAR back"].error, bars["BAR there"].error)
        if job.narrow:
            # The gap shows that too, as it has opposite signs in both ways. What chance makes is taken off.
            doubt = max(doubt, _share_of(gap, gap_error))
        if unadjusted and len(back.log_z) > 1:
            apart = found["way back"].value - found["way there"].value
            by_chance = min(OPEN, math.hypot(found["way back"].error, found["way there"].error))
            doubt = max(doubt, _share_of(apart, by_chance))
        error = math.hypot(error, doubt)
        if job.narrow and len(there.log_z) < _MANY:
            # Few islands may agree by chance. Both ways of one island go together rather than apart, so the
            # mean of both has at least the error of two that are independent.
            error = max(error, 0.5 * gap_error)
        total = total.with_error(error)
        due = _SCATTERED * job.plan.variance(job.n, resampled=job.threshold > 0)
        scattered = _variance(back.log_z) > max(_UNEVEN[name == "control variates"], due)
        return cls(
            there, back, total, name, found, bars["BAR there"], gap, gap_error, rungs[best], tail,
            strays=scattered or (off > allowed and not there.walled),
        )  # fmt: skip

    @property
    def uneven(self) -> bool:
        """Whether the mean over the islands is ruled by few, or may be, or the few that went back leave a gap
        that chance seldom makes, or stray themselves."""
        if self.strays or abs(self.gap) > _TELLING * self.gap_error:
            return True
        log_z = self.there.log_z
        if len(log_z) < _MANY or not np.isfinite(log_z).all() or self.tail > HEAVY_TAIL:
            return True
        return float(log_z.var()) > _UNEVEN[self.name == "control variates"]

    def stuck(self, target_error: float) -> bool:
        """Return whether the ways there and back differ so much that more islands do not help."""
        apart = abs(self.gap) > max(_LAG * self.gap_error, target_error / _GAP_SHARE)
        return apart or self.total.error > _LOST

    @property
    def misses(self) -> bool:
        """Whether the mean weights there and back differ by more than chance, where islands differ in log Z:
        particles that forget too slowly leave a wider gap in these than from each temperature to the next."""
        there, back = self.estimates["way there"], self.estimates["way back"]
        apart = back.value - there.value
        scattered = _variance(self.there.log_z) > _SPREAD
        return scattered and abs(apart) > _LAG * math.hypot(there.error, back.error)

    def lags(self, target_error: float | None = None) -> bool:
        """Return whether the ways there and back differ by more than chance, and enough to matter: half of
        the gap is part of the error."""
        return abs(self.gap) > max(_LAG * self.gap_error, target_error or self.total.error)


def _variance(log_z: Array) -> float:
    """Return that of the islands that are where the target is not zero."""
    alive = log_z[np.isfinite(log_z)]
    return float(alive.var()) if len(alive) else 0.0


def _share_of(gap: float, by_chance: float) -> float:
    """Return what of a gap between the ways goes into the error."""
    return _GAP_SHARE * math.sqrt(max(0.0, gap**2 - by_chance**2))
