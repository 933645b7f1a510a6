"""Pictures of estimates of log Z: what the number rests on."""

from __future__ import annotations

import os
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from physscore.core import Array
from physscore.plots.figure import MEASURED, MODEL, pyplot, write

if TYPE_CHECKING:
    from physscore.evidence.result import LogZ

_EXACT = "#2a9d55"
_SPREADS = 6.0  # how far, in widths of its middle, a distribution is shown
_STEEP = 30.0  # ratio of values above which an axis is logarithmic


def plot_log_z(
    path: str | os.PathLike[str], logz: LogZ, exact: float | None = None, *, title: str = ""
) -> None:
    """Draw the work there and back, ESS and acceptance, the slope of log Z, and the islands.

    Parameters
    ----------
    path
        Picture to write; its ending says the format.
    logz
        The estimate.
    exact
        The exact value, where it is known.
    title
        What stands above it. [default: the target, log Z and the verdict with its first reason]
    """
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
    _draw_work(axes[0, 0], logz, exact)
    _draw_way(axes[0, 1], logz)
    _draw_slope(axes[1, 0], logz)
    _draw_islands(axes[1, 1], logz, exact)
    figure.suptitle(title or _heading(logz), fontsize=11)
    write(figure, path)


def _heading(logz: LogZ) -> str:
    first = " ".join(str(logz).splitlines()[0].replace("+-", "±").split())
    reasons = [shorten(reason, 130, placeholder=" ...") for reason in logz.reasons[:1]]
    return "\n".join([f"{shorten(logz.target, 70, placeholder=' ...')}: {first}", *reasons])


def _draw_work(axes: Any, logz: LogZ, exact: float | None) -> None:
    """Draw the log weights that particles gathered on the whole way, there and back."""
    shown = []
    for leg, name, colour in (("forward", "there", MEASURED), ("reverse", "back", MODEL)):
        work = np.ravel(logz.work.get(leg, np.zeros(0)))
        work = work[np.isfinite(work)]
        if work.size:
            shown.append((work, f"{name}, {work.size} particles", colour))
    low, high = _limits([work for work, *_ in shown], [logz.log_z] + ([] if exact is None else [exact]))
    fewest = min((work.size for work, *_ in shown), default=0)
    bins = np.linspace(low, high, int(np.clip(2 * np.sqrt(fewest), 10, 60)) + 1)
    for work, name, colour in shown:
        share = np.full(work.size, 1 / work.size)  # of all, with those outside
        axes.hist(work, bins, weights=share, histtype="stepfilled", alpha=0.35, color=colour, label=name)
        axes.hist(work, bins, weights=share, histtype="step", color=colour, lw=1)
    axes.set_title(f"work there and back{', after resampling' if logz.method == 'smc' else ''}")
    _mark(axes.axvline, logz, exact)
    axes.set(xlabel="log weight of the whole way", ylabel="share of the particles", xlim=(low, high))
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
    _legend(axes, 2)


def _limits(values: list[Array], included: list[float]) -> tuple[float, float]:
    """Return limits that hold some values, and of distributions what is not far out in their tails."""
    edges = [*included]
    for one in values:
        quarter, middle, three = np.quantile(one, [0.25, 0.5, 0.75])
        reach = _SPREADS * max(three - quarter, 1e-12)
        near = one[np.abs(one - middle) <= reach]
        edges += [float(near.min()), float(near.max())]
    margin = 0.05 * (max(edges) - min(edges)) or 0.5
    return min(edges) - margin, max(edges) + margin


def _mark(line: Any, logz: LogZ, exact: float | None) -> None:
    line(logz.log_z, color="black", lw=1.2, label="estimate")
    if exact is not None:
        line(exact, color=_EXACT, lw=1.6, ls="--", label="exact")


def _draw_way(axes: Any, logz: LogZ) -> None:
    """Draw ESS and acceptance against the share of the way, with beta above."""
    place = np.linspace(0, 1, len(logz.betas))
    axes.plot(place, logz.ess, color=MEASURED, label="effective sample size, share of the particles")
    axes.plot(place[1:], logz.acceptance[1:], color=MODEL, label="acceptance of the kernel")
    axes.set(xlabel="share of the way from the reference to the target", xlim=(0, 1), ylim=(0, 1.3))
    axes.set_yticks(np.linspace(0, 1, 6))
    _legend(axes, 1)
    above = axes.secondary_xaxis("top")
    ticks = np.linspace(0, 1, 5)
    above.set_xticks(ticks, [rf"$\beta$ = {beta:.2g}" for beta in np.interp(ticks, place, logz.betas)])


def _draw_slope(axes: Any, logz: LogZ) -> None:
    """Draw d log Z / d beta: the energy beyond the reference's, with the sign turned."""
    steps = np.diff(logz.betas)
    slope = logz.rungs / np.maximum(steps, 1e-300)
    axes.stairs(slope, logz.betas, baseline=None, color=MEASURED, lw=1.5)
    axes.plot(0.5 * (logz.betas[1:] + logz.betas[:-1]), slope, ".", ms=4, color=MEASURED)
    axes.set(xlabel=r"$\beta$", ylabel=r"d log Z / d$\beta$")
    axes.set_title(f"{len(steps)} steps, barrier {logz.barrier:.1f}")
    if steps.max() > _STEEP * steps[0]:
        axes.set_xscale("symlog", linthresh=float(logz.betas[1]))
        axes.set_xlim(0, 1)
    size = np.abs(slope[np.isfinite(slope) & (slope != 0)])
    if size.size and size.max() > _STEEP * np.median(size):
        axes.set_yscale("symlog", linthresh=float(np.median(size)))
    elif np.ptp(slope) < 1e-6:  # nothing but rounding
        axes.set_ylim(slope.mean() - 1, slope.mean() + 1)
    axes.grid(alpha=0.25)


def _draw_islands(axes: Any, logz: LogZ, exact: float | None) -> None:
    """Draw what each island says, and the interval that follows from their scatter."""
    low, high = logz.interval()
    axes.axhspan(low, high, color="black", alpha=0.12, lw=0, label="95% interval")
    axes.plot(np.arange(1, len(logz.islands) + 1), logz.islands, ".", ms=6, color=MEASURED)
    _mark(axes.axhline, logz, exact)
    axes.set(xlabel="island", ylabel="log Z", title=f"{len(logz.islands)} islands")
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.15 * (top - bottom))
    _legend(axes, 3)


def _legend(axes: Any, columns: int) -> None:
    """Draw a legend at the top, where the limits have left room."""
    axes.legend(fontsize=9, ncols=columns, loc="upper center", framealpha=1.0, edgecolor="none")
