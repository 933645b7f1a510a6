"""One statistic of two sets of maps: how far apart, with which errors, and whether that is chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.diagnostics.map_statistics import N_PDF_BINS, QUANTILES, MapMeans
from physscore.diagnostics.mean_test import MeanTest, UnitMeans, enough_deals, mean_test

_Floats = npt.NDArray[np.float64]

STATISTICS = {
    "mean": "",
    "variance": "",
    "power spectrum": "k",
    "one-point PDF": "value",
    "quantiles": "level",
    "equilateral bispectrum": "k",
    "squeezed bispectrum": "k",
    "peak counts": "height",
}
"""The statistics that are compared, and what their entries are counted by."""

_POSITIVE = ("variance", "power spectrum", "one-point PDF", "peak counts")
MOST = 0.5  # of a set in one unit: its scatter is not known
_DOUBTFUL = 0.01
_SEEN = 3.0  # errors that a reference must be away from 0 for a ratio to it to mean something
_SINGLE = float(np.finfo(np.float32).eps)
_SLOPE = 5  # edges on either side from which the slope at a quantile is taken


@dataclass(frozen=True, eq=False)
class StatisticComparison:
    """One statistic of both sets.

    Attributes
    ----------
    name : str
    where : str
        What ``x`` is: "k", "value", "level", "height".
    x : array (entries,)
        Wavenumber, value of a cell, level of a quantile, height of a peak in standard deviations.
    generated, generated_error, reference, reference_error : arrays (entries,)
        Means over the maps, and their standard errors from the scatter between independent units.
    relative : bool
        Whether deviations are relative to the reference, or else in its standard deviations.
    deviation, deviation_error : arrays (entries,)
        generated / reference - 1, or (generated - reference) / standard deviation; not a number where the
        reference is not clear of 0.
    test : MeanTest
    concentration : pair of float
        The largest share that one unit has in the sum over a set, generated and of the reference, of
        statistics that are positive; 0 for others.
    threshold : float
        Below this probability the sets are said to differ.
    tolerance : float
        An rms deviation up to this is accepted all the same.
    """

    name: str
    where: str
    x: _Floats
    generated: _Floats
    generated_error: _Floats
    reference: _Floats
    reference_error: _Floats
    relative: bool
    deviation: _Floats
    deviation_error: _Floats
    test: MeanTest
    concentration: tuple[float, float]
    threshold: float
    tolerance: float

    @property
    def rms(self) -> float:
        """Root mean square of the deviations, noise included."""
        return _rms(self.deviation)

    @property
    def noise(self) -> float:
        """Root mean square of their errors: what ``rms`` is where the sets agree."""
        return _rms(self.deviation_error[np.isfinite(self.deviation)])

    @property
    def worst(self) -> int | None:
        """Number of the entry with the largest deviation; None where the reference is 0 within its errors."""
        seen = np.isfinite(self.deviation)
        return int(np.nanargmax(np.abs(self.deviation))) if seen.any() else None

    @property
    def differs(self) -> bool:
        """Whether the p-value is below the threshold."""
        return self.test.p_value < self.threshold

    @property
    def passed(self) -> bool:
        """Whether the sets do not differ, or by no more than the tolerance."""
        return not self.differs or self.rms <= self.tolerance

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.differs:
            return "differs within the tolerance" if self.passed else "DIFFERS"
        return "doubtful" if self.test.p_value < _DOUBTFUL else "agrees"

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers and the verdict, ready for JSON."""
        arrays = ("x", "generated", "generated_error", "reference", "reference_error", "deviation",
                  "deviation_error")  # fmt: skip
        return {
            "where": self.where,
            **{name: for_json(getattr(self, name)) for name in arrays},
            "relative": self.relative,
            "rms": number(self.rms),
            "noise": number(self.noise),
            "concentration": list(self.concentration),
            "chi2": number(self.test.chi2),
            "entries": self.test.entries,
            "p_value": self.test.p_value,
            "passed": self.passed,
            "verdict": self.verdict,
        }

    def row(self) -> list[str]:
        """Return the line of the table: name, entries, largest deviation, rms, noise, p-value, verdict."""
        at, text = self.worst, self._in_vain()
        if at is not None:
            value = self.deviation[at] + 1 if self.relative else self.deviation[at]
            unit = "" if self.relative else " sigma"
            text = f"{value:{'' if self.relative else '+'}.3f} +- {self.deviation_error[at]:.3f}{unit}"
            text += f" at {self.where} {self.x[at]:.3g}" if self.where else ""
        numbers = ["-" if at is None else f"{value:.3f}" for value in (self.rms, self.noise)]
        return [self.name, str(len(self.x)), text, *numbers, f"{self.test.p_value:.2g}", self.verdict]

    def _in_vain(self) -> str:
        """Return what to say of a reference that is nowhere clear of 0: of what is positive, how well it is
        known."""
        seen = self.reference > 0
        if self.name not in _POSITIVE or not seen.any():
            return "(0 within the errors)"
        known = float((self.reference_error[seen] / self.reference[seen]).min())
        share = max(self.concentration)
        return f"(known to {known:.0%} at best" + (f", {share:.0%} in one unit)" if share > MOST else ")")


def compare_statistic(
    name: str,
    a: MapMeans,
    b: MapMeans,
    *,
    design: str,
    threshold: float = 1e-3,
    tolerance: float = 0.0,
    permutations: int = 9999,
    seed: int = 0,
) -> StatisticComparison:
    """Compare one statistic of two sets.

    Parameters
    ----------
    name
        One of ``STATISTICS``.
    a, b
        The generated set and the reference, measured with the same bins.
    design
        "paired" if unit i of one belongs to unit i of the other, "alike" if all units follow one law where
        the sets agree, "apart" if only the maps do: then those of the set whose units scatter more are put
        together in blocks that scatter as the units of the other.
    threshold, tolerance
        As in :class:`StatisticComparison`.
    permutations, seed
        As for ``mean_test``.
    """
    shown = [_shown(name, each) for each in (a, b)]
    continuous = name == "mean" and len(b.bins.pdf) > N_PDF_BINS  # then no two maps have one by chance
    tested = [_below(each, _quantiles(b)) for each in (a, b)] if name == "quantiles" else shown
    reference, spread = shown[1].mean, math.sqrt(_shown("variance", b).mean[0])
    # Maps of mean zero have one of rounding, and of single precision somewhere on their way.
    resolution = _SINGLE * spread + b.bins.epsilon * abs(float(reference[0])) if name == "mean" else 0.0
    relative = name not in ("mean", "quantiles") or _positive(b)
    if relative:
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(np.abs(reference) > _SEEN * shown[1].error, shown[0].mean / reference, np.nan)
        deviation, unit = ratio - 1, np.abs(reference)
    else:
        ratio, unit = np.ones(len(reference)), np.full(len(reference), spread)
        deviation = (shown[0].mean - reference) / spread
    seen = np.where(np.isfinite(ratio), ratio, 0.0)
    if design == "paired":
        error = UnitMeans(shown[0].values - seen * shown[1].values, shown[0].weights).error
    else:
        error = np.hypot(shown[0].error, seen * shown[1].error)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation_error = np.where(np.isfinite(deviation), error / unit, np.nan)
    return StatisticComparison(
        name=name,
        where=STATISTICS[name],
        x=_places(name, b, spread),
        generated=shown[0].mean,
        generated_error=shown[0].error,
        reference=reference,
        reference_error=shown[1].error,
        relative=relative,
        deviation=deviation,
        deviation_error=deviation_error,
        concentration=(_concentration(name, shown[0]), _concentration(name, shown[1])),
        test=_test(tested[0], tested[1], design, permutations, seed, resolution, not continuous),
        threshold=threshold,
        tolerance=tolerance,
    )


def entries_of(name: str, means: MapMeans) -> int:
    """Return how many entries a statistic has: 0 for bispectra without a triangle, as in one dimension."""
    return int(_shown(name, means).values.shape[1])


def _test(
    a: UnitMeans, b: UnitMeans, design: str, permutations: int, seed: int, resolution: float = 0.0,
    discrete: bool = True,
) -> MeanTest:  # fmt: skip
    test = partial(
        mean_test, resolution=resolution, discrete=discrete, permutations=permutations, seed=seed
    )  # fmt: skip
    if design == "paired":
        return test(a, b, paired=True)
    if design == "alike":
        return test(a, b, pooled=True, dealt=True)
    moving = (a.variance > 0) & (b.variance > 0)
    size = float(np.median(a.variance[moving] / b.variance[moving])) if moving.any() else 1.0
    blocks = [a.blocks(round(size)) if size > 1.5 else a, b.blocks(round(1 / size)) if size < 1 / 1.5 else b]
    if enough_deals(len(blocks[0]), len(blocks[1])):
        return test(blocks[0], blocks[1], dealt=True)
    return test(a, b)


def _shown(name: str, means: MapMeans) -> UnitMeans:
    """Return the vectors of the units."""
    if name == "variance":
        mean, square = means["mean"], means["square"]
        centre = mean.mean
        return means.derived(square.values - 2 * centre * mean.values + centre**2)
    if name == "one-point PDF":
        edges = means.bins.cells[means.bins.pdf]
        return means.derived(np.diff(means["cells"].values[:, means.bins.pdf], axis=1) / np.diff(edges))
    if name == "quantiles":
        # The quantile of the set, and what each unit adds to it by its share of cells below.
        edges, shares = means.bins.cells, means["cells"].mean
        found = _quantiles(means)
        place = np.searchsorted(edges, found)
        low, high = np.maximum(place - _SLOPE, 0), np.minimum(place + _SLOPE, len(edges) - 1)
        slope = (shares[high] - shares[low]) / (edges[high] - edges[low])
        more = np.array(QUANTILES) - _below(means, found).values
        # A set beyond all edges has no slope there, and no scatter that could be seen.
        return means.derived(found + np.divide(more, slope, out=np.zeros_like(more), where=slope > 0))
    return means[_SHORT[name]]


_SHORT = {
    "mean": "mean",
    "power spectrum": "power",
    "equilateral bispectrum": "equilateral",
    "squeezed bispectrum": "squeezed",
    "peak counts": "peaks",
}


def _concentration(name: str, units: UnitMeans) -> float:
    """Return the largest share of a unit in the sum of a positive statistic, over units and entries."""
    if name not in _POSITIVE:
        return 0.0
    parts = units.weight * units.values.sum(axis=1)
    return float(parts.max() / parts.sum()) if parts.sum() > 0 else 0.0


def _quantiles(means: MapMeans) -> _Floats:
    return np.asarray(np.interp(QUANTILES, means["cells"].mean, means.bins.cells))


def _below(means: MapMeans, values: _Floats) -> UnitMeans:
    """Return the shares of the cells of each unit below some values."""
    edges = means.bins.cells
    return means.derived(np.array([np.interp(values, edges, row) for row in means["cells"].values]))


def _positive(means: MapMeans) -> bool:
    """Return whether a set is positive but for a few cells, so that ratios of its values have a meaning."""
    return bool(_quantiles(means)[0] > 0)


def _places(name: str, means: MapMeans, spread: float) -> _Floats:
    bins = means.bins
    edges = bins.cells[bins.pdf]
    middle = np.sqrt(edges[1:] * edges[:-1]) if _positive(means) else (edges[1:] + edges[:-1]) / 2
    places: dict[str, _Floats] = {
        "power spectrum": bins.power.k,
        "one-point PDF": middle,
        "quantiles": np.array(QUANTILES),
        "equilateral bispectrum": bins.triangles.k[~bins.squeezed, 2],
        "squeezed bispectrum": bins.triangles.k[bins.squeezed, 2],
        "peak counts": (bins.peak_heights - means["mean"].mean[0]) / spread,
    }
    return places.get(name, np.zeros(1))


def _rms(values: _Floats) -> float:
    seen = values[np.isfinite(values)]
    return float(np.sqrt((seen**2).mean())) if len(seen) else math.nan


def number(value: float) -> float | None:
    """Return a number for JSON: None for what is not finite."""
    return float(value) if math.isfinite(value) else None


def for_json(values: _Floats) -> list[float | None]:
    """Return an array as a list, with None for what is not a number."""
    return [number(value) for value in values.tolist()]
