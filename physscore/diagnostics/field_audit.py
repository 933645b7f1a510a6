"""A set of generated maps against a reference set: does anything tell them apart?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import InputError
from physscore.diagnostics.map_statistics import BINS, MapMeans, choose_bins, map_means, unit_size, units_of
from physscore.diagnostics.pairs import opposite, some_cells
from physscore.diagnostics.power import power_spectrum
from physscore.diagnostics.set_comparison import (
    STATISTICS,
    StatisticComparison,
    compare_statistic,
    entries_of,
    for_json,
)
from physscore.grid import Grid

_Floats = npt.NDArray[np.float64]

FALSE_ALARMS = 1e-3
_FEW_UNITS = 20
_FEW_GROUPS = 10  # where both sets are grouped


@dataclass(frozen=True, eq=False)
class Correlation:
    """How paired maps go together.

    Attributes
    ----------
    k, r, error : arrays (bins,)
        r(k) = P_ab / sqrt(P_aa P_bb) of the mean spectra, and its jackknife error over independent units.
    """

    k: _Floats
    r: _Floats
    error: _Floats


@dataclass(frozen=True, eq=False)
class FieldAudit:
    """What tells a generated set of maps from its reference.

    Attributes
    ----------
    grid
        The box and its cells.
    statistics : dict
        The comparison of each statistic, by name.
    maps, units : pair of int
        Number of maps and of independent units, generated and of the reference.
    correlation : Correlation or None
        For paired sets; it is not judged.
    notes : list of str
        What to bear in mind.
    """

    grid: Grid
    statistics: dict[str, StatisticComparison]
    maps: tuple[int, int]
    units: tuple[int, int]
    correlation: Correlation | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every statistic passed.

        A right set fails once in a thousand times, but oftener with groups that are few or of very unequal
        sizes, as ``notes`` then say.
        """
        return all(each.passed for each in self.statistics.values())

    def __getitem__(self, name: str) -> StatisticComparison:
        return self.statistics[name]

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers and the verdict, ready for JSON."""
        found: dict[str, Any] = {
            "passed": self.passed,
            "maps": dict(zip(("generated", "reference"), self.maps, strict=True)),
            "units": dict(zip(("generated", "reference"), self.units, strict=True)),
            "statistics": {name: each.as_dict() for name, each in self.statistics.items()},
            "notes": self.notes,
        }
        if self.correlation is not None:
            found["correlation"] = {name: for_json(values) for name, values in vars(self.correlation).items()}
        return found

    def __str__(self) -> str:
        head = ["statistic", "bins", "largest deviation", "rms", "noise", "p-value", "verdict"]
        rows = [head, *(each.row() for each in self.statistics.values())]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        counts = [f"{maps} maps" + (f" ({units} units)" if units != maps else "")
                  for maps, units in zip(self.maps, self.units, strict=True)]  # fmt: skip
        lines = [f"{counts[0]} generated against {counts[1]} of the reference"]
        lines += [
            "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        if self.correlation is not None:
            k, r, error = vars(self.correlation).values()
            lines.append("cross-correlation r(k): " + ", ".join(
                f"{r[i]:.3f} +- {error[i]:.3f} at k {k[i]:.3g}" for i in sorted({0, len(k) // 2, len(k) - 1})
            ))  # fmt: skip
        lines += [f"note: {note}" for note in self.notes]
        wrong = [each.name for each in self.statistics.values() if not each.passed]
        lines.append(f"FAILED: {', '.join(wrong)}" if wrong else "passed: nothing tells the two sets apart")
        return "\n".join(lines)


def compare_fields(
    generated: Any,
    reference: Any,
    grid: Grid,
    *,
    groups: Any = None,
    generated_groups: Any = None,
    paired: bool = False,
    percentiles: tuple[float, float] = (1.0, 99.0),
    tolerance: float = 0.0,
    permutations: int = 9999,
    seed: int = 0,
    progress: bool = False,
) -> FieldAudit:
    """Compare a set of generated maps with a reference set, statistic by statistic.

    The mean and the variance of the cells, P(k), the one-point PDF, quantiles, the equilateral and the
    squeezed bispectrum, and the heights of peaks are measured for each map. Errors come from the scatter
    between independent units: maps, or groups of maps. Each statistic is tested as one vector
    (``mean_test``). Where neither or both of the sets are grouped, units are dealt out again, so that the
    probability is exact for units of one size; where one is, the maps of the other are first put together in
    blocks that scatter as its groups do. That is right for many groups: where the groups of a set are worth
    fewer than 10 equal ones, or fewer than 20 if only that set is grouped, right sets fail more often than
    once in a thousand times. With 8 groups, and amplitudes of their own by 30%, it was 2 to 7 in a hundred;
    with 20, 0.4.

    Parameters
    ----------
    generated, reference
        Sequences of maps of shape ``grid.shape``: arrays (n, *grid.shape), h5py datasets, ``FieldSequence``.
        They are read one map at a time. Their means are compared too, so both are to be delta, or both
        1 + delta.
    grid
        The box and its cells, the same for both.
    groups, generated_groups
        A label for each map, such as the number of its simulation; maps with the same label are not
        independent. [default: all are, but for a set of pairs, in which each odd map is of opposite phase to
        the one before, as with ``paired=True`` of random fields]
    paired
        Whether map i of one set belongs to map i of the other, as a reconstruction to the truth: errors are
        those of the differences, and the cross-correlation is measured. Both sets then have ``groups``.
    percentiles
        Percentiles of the reference between which the PDF is compared.
    tolerance
        Accept an rms deviation of a statistic up to this, even if it is significant.
    permutations, seed
        How many times units are dealt out, at least 8000, and the random numbers of that. The least
        probability there can be is 1 / (1 + permutations).
    progress
        Show progress bars.

    Raises
    ------
    InputError
        If a set has fewer than 2 units, the shapes or the labels do not fit, or values are not finite.
    """
    for name, fields in (("generated", generated), ("reference", reference)):
        try:
            shape = np.shape(fields[0]) if len(fields) else ()
        except (TypeError, ValueError, KeyError):
            raise InputError(
                f"{name} is a {type(fields).__name__}: it must be a sequence of maps of shape {grid.shape}"
            ) from None
        if shape != grid.shape:
            raise InputError(
                f"{name} holds maps of shape {shape}: they must have that of the grid, {grid.shape}"
            )
    fewest = round(len(STATISTICS) / FALSE_ALARMS)
    if permutations < fewest:
        raise InputError(f"permutations is {permutations!r}: below {fewest} no statistic could fail")
    if not 0 <= tolerance < math.inf:
        raise InputError(f"tolerance is {tolerance!r}: it must be a relative deviation, at least 0")
    if paired and len(generated) != len(reference):
        raise InputError(
            f"generated holds {len(generated)} maps and reference {len(reference)}: "
            "pairs need the same number"
        )
    found_pairs = []
    if groups is None and (_are_pairs(reference) or (paired and _are_pairs(generated))):
        groups, found_pairs = np.arange(len(reference)) // 2, ["reference"]
    if paired:
        generated_groups = groups
    elif generated_groups is None and _are_pairs(generated):
        generated_groups, found_pairs = np.arange(len(generated)) // 2, ["generated set", *found_pairs]
    size = unit_size(len(generated), len(reference))
    units = [
        units_of(len(generated), generated_groups, "generated", size),
        units_of(len(reference), groups, "reference", size),
    ]
    types = [np.asarray(fields[0]).dtype for fields in (generated, reference)]
    bins = choose_bins(
        reference, grid, percentiles=percentiles, resolution=min(types, key=lambda t: t.itemsize)
    )
    a, b = (
        map_means(fields, bins, unit, name=name, progress=progress)
        for fields, unit, name in zip((generated, reference), units, ("generated", "reference"), strict=True)
    )
    alike = (groups is None) == (generated_groups is None)
    design = "paired" if paired else "alike" if alike else "apart"
    return FieldAudit(
        grid=grid,
        statistics={
            name: compare_statistic(
                name,
                a,
                b,
                design=design,
                threshold=FALSE_ALARMS / len(STATISTICS),
                tolerance=tolerance,
                permutations=permutations,
                seed=seed,
            )
            for name in STATISTICS
            if entries_of(name, a) > 0
        },
        maps=(len(generated), len(reference)),
        units=(len(a.units), len(b.units)),
        correlation=_correlation(generated, reference, grid, a, b, units[0]) if paired else None,
        notes=[
            f"the {what} is of pairs, each a map and the one of opposite phase, which are taken for one unit"
            for what in found_pairs
        ]
        + _notes(a, b, (generated_groups is not None, groups is not None), paired),
    )


def _are_pairs(fields: Any) -> bool:
    """Return whether each odd map of a set is of opposite phase to the one before."""

    def is_pair(i: int) -> bool:
        one, other = np.asarray(fields[i]), np.asarray(fields[i + 1])
        numbers = one.dtype.kind in "fiub" and other.dtype.kind in "fiub"
        return numbers and bool(opposite(some_cells(one)[np.newaxis], some_cells(other)[np.newaxis])[0])

    return len(fields) > 2 and len(fields) % 2 == 0 and all(is_pair(i) for i in range(0, len(fields), 2))


def _correlation(
    generated: Any, reference: Any, grid: Grid, a: MapMeans, b: MapMeans, unit: npt.NDArray[np.int64]
) -> Correlation:
    sums = np.zeros((len(a.units), len(a.bins.power.k)))
    for i in range(len(generated)):
        pair = (np.asarray(fields[i], np.float64) for fields in (generated, reference))
        sums[unit[i]] += power_spectrum(next(pair), grid, next(pair), bins=BINS).power
    weight = a.units.weight[:, None]
    spectra = np.array([sums, a["power"].values * weight, b["power"].values * weight])
    total = spectra.sum(axis=1)
    n = len(a.units)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = total[0] / np.sqrt(total[1] * total[2])
        without = total[:, None] - spectra
        each = without[0] / np.sqrt(without[1] * without[2])
    error = np.sqrt((n - 1) / n * ((each - each.mean(axis=0)) ** 2).sum(axis=0))
    return Correlation(a.bins.power.k, r, error)


def _notes(a: MapMeans, b: MapMeans, grouped: tuple[bool, bool], paired: bool) -> list[str]:
    found = []
    shift = float(a["mean"].mean[0] - b["mean"].mean[0])
    if abs(abs(shift) - 1) < 0.1:
        found.append(f"the means differ by {shift:+.3g}: is one of the sets delta and the other 1 + delta?")
    for what, means, is_grouped in zip(("generated set", "reference"), (a, b), grouped, strict=True):
        units = means.units
        if len(units) < _FEW_UNITS:
            known = 100 / np.sqrt(2 * units.freedom)
            found.append(f"the {what} has {len(units)} independent units: its errors are known to "
                         f"{known:.0f}% only")  # fmt: skip
        worth = units.freedom + 1
        if is_grouped and not paired and worth < (_FEW_GROUPS if all(grouped) else _FEW_UNITS) * (1 - 1e-9):
            found.append(
                f"the groups of the {what} are worth {worth:.2g} of equal size: right sets fail more often "
                "than once in a thousand times, up to 7 in a hundred"
            )
    return found
