"""Pictures of audits of fields: the statistics of two sets with their ratios, and some maps of both."""

from __future__ import annotations

import os
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from physscore.core import Array
from physscore.plots.figure import MEASURED, MODEL, extent_of, log_x, pyplot, unit_to, write

if TYPE_CHECKING:
    from physscore.diagnostics.field_audit import FieldAudit
    from physscore.diagnostics.set_comparison import StatisticComparison

_MOST_MAPS = 4
_LEAST_RANGE, _MOST_RANGE = 0.06, 3.0  # of the panels of ratios, around 1
_LEAST_PULL, _MOST_PULL = 4.5, 30.0
_FAR = 8.0  # heights of peaks, in standard deviations, beyond which their axis is logarithmic


def plot_field_audit(
    path: str | os.PathLike[str],
    audit: FieldAudit,
    generated: Array,
    reference: Array,
    *,
    length_unit: str = "Mpc/h",
    title: str = "",
) -> None:
    """Draw what an audit of fields found: P(k), one-point PDF, bispectrum and peaks, with ratios, and maps.

    Parameters
    ----------
    path
        Picture to write; its ending says the format.
    audit
        From ``compare_fields``.
    generated, reference
        A few maps of either set, (n, *grid.shape); four are drawn. In 3 dimensions a slab is averaged.
    length_unit, title
        For the labels. [default title: the verdict]
    """
    plt = pyplot()
    figure = plt.figure(figsize=(16, 9.0), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[2.35, 1])
    panels = upper.subplots(2, 4, sharex="col", height_ratios=[2.2, 1])
    wavenumber = f"k [{unit_to(length_unit, -1)}]"
    dim = audit.grid.dim
    power, pdf, peaks = (audit[name] for name in ("power spectrum", "one-point PDF", "peak counts"))

    _draw(panels[:, 0], [power], f"P(k) [{unit_to(length_unit, dim)}]", wavenumber)
    panels[0, 0].set_yscale("log")
    log_x(*panels[:, 0])
    _draw(panels[:, 1], [pdf], "probability density", "value of a cell")
    _set_log(panels[0, 1], pdf)
    if (pdf.x > 0).all() and pdf.x.max() > 10 * pdf.x.min():
        log_x(*panels[:, 1])
    triangles = [each for name, each in audit.statistics.items() if name.endswith("bispectrum")]
    _draw(panels[:, 2], triangles,
          f"B(k) [{unit_to(length_unit, 2 * dim)}]", wavenumber)  # fmt: skip
    log_x(*panels[:, 2])
    _set_log(panels[0, 2], *triangles)
    _draw(panels[:, 3], [peaks], "peaks a map", "height of peak [standard deviations]", audit.grid.n_cells)
    panels[0, 3].set_ylim(bottom=0)
    if peaks.x.max() > _FAR:
        panels[0, 3].set_xscale("symlog", linthresh=1.0)
        panels[0, 3].set_xticks([0, 1, 3, 10, 30], labels=["0", "1", "3", "10", "30"])
        panels[0, 3].set_xlim(min(-0.5, peaks.x.min() - 0.3), peaks.x.max() * 1.5)
    for axes in (panels[0, 0], panels[0, 3]):
        axes.legend(frameon=False, loc="best")
    _draw_maps(
        lower, np.asarray(generated, np.float64), np.asarray(reference, np.float64), audit, length_unit
    )
    figure.suptitle(fill(title or str(audit).splitlines()[-1], 170), fontsize=12)
    write(figure, path)


def _draw(
    panels: Array, statistics: list[StatisticComparison], ylabel: str, xlabel: str, factor: float = 1.0
) -> None:
    """Draw statistics of both sets, and below their ratio, or their difference where there is none."""
    main, below = panels
    marks = ("o", "s")
    verdicts, pulls = [], [np.zeros(1)]
    has_ratio = any(each.worst is not None and each.relative for each in statistics)
    for number, (each, mark) in enumerate(zip(statistics, marks, strict=False)):
        kind = each.name.split()[0] if len(statistics) > 1 else ""
        face = [None, "white"][number]
        sets = (
            ("generated", each.generated, each.generated_error, MEASURED),
            ("reference", each.reference, each.reference_error, MODEL),
        )
        for label, value, error, colour in reversed(sets):
            main.errorbar(
                each.x, factor * value, factor * error, fmt=f"-{mark}" if label == "reference" else mark,
                ms=5, lw=1.1, mfc=face or colour, color=colour, zorder=3 if label == "generated" else 2,
                label=f"{label}, {kind}" if kind else label,
            )  # fmt: skip
        if has_ratio:
            value, error = 1 + each.deviation, each.deviation_error
        else:
            error = np.hypot(each.generated_error, each.reference_error)
            value = (each.generated - each.reference) / np.where(error > 0, error, np.inf)
            error = np.ones_like(value)
            pulls.append(value)
        below.errorbar(each.x, value, error, fmt=mark, ms=4, lw=1.1, mfc=face or MEASURED, color=MEASURED)
        verdicts.append(f"{each.name}\n{each.verdict}, p = {each.test.p_value:.2g}")
    centre = 1.0 if has_ratio else 0.0
    below.axhline(centre, color=MODEL, lw=1.1, zorder=1)
    below.set_ylim(*_around(statistics, np.concatenate(pulls), has_ratio))
    below.set_ylabel("generated /\nreference" if has_ratio else "difference /\nerror")
    below.set_xlabel(xlabel)
    main.set_ylabel(ylabel)
    if len(statistics) > 1:
        main.legend(frameon=False, fontsize=8, loc="best")
        verdicts = ["bispectrum"] + [
            f"{each.name.split()[0]}: {each.verdict}, p = {each.test.p_value:.2g}" for each in statistics
        ]
    main.set_title("\n".join(verdicts), fontsize=10)
    main.grid(alpha=0.15)
    below.grid(alpha=0.15)


def _around(statistics: list[StatisticComparison], pulls: Array, has_ratio: bool) -> tuple[float, float]:
    """Return the range of a panel of ratios, that of the points but those of large errors."""
    if not has_ratio:
        half = float(np.clip(1.15 * np.abs(pulls).max(initial=0.0), _LEAST_PULL, _MOST_PULL))
        return -half, half
    value = np.concatenate([np.abs(each.deviation) for each in statistics])
    error = np.concatenate([each.deviation_error for each in statistics])
    seen = np.isfinite(value)
    seen[seen] = error[seen] <= 3 * np.median(error[seen])
    half = float(np.clip(1.1 * (value[seen] + error[seen]).max(), _LEAST_RANGE, _MOST_RANGE))
    return max(0.0, 1 - half), 1 + half


def _set_log(axes: Any, *statistics: StatisticComparison) -> None:
    """Make the axis logarithmic where all values are positive, else linear in the middle."""
    values = np.concatenate([np.concatenate([each.generated, each.reference]) for each in statistics])
    if not len(values):
        return
    if (values > 0).all():
        axes.set_yscale("log")
    elif np.abs(values).max() > 100 * np.median(np.abs(values)):
        axes.set_yscale("symlog", linthresh=max(float(np.median(np.abs(values))), 1e-300))


def _draw_maps(figure: Any, generated: Array, reference: Array, audit: FieldAudit, length_unit: str) -> None:
    grid = audit.grid
    sets = (("generated", generated[:_MOST_MAPS], MEASURED), ("reference", reference[:_MOST_MAPS], MODEL))
    if grid.dim == 1:
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for panel, (name, maps, _) in zip(axes, sets, strict=True):
            for one in maps:
                panel.plot(grid.coordinates(0), one, lw=0.8)
            panel.set(title=name, xlabel=f"x [{length_unit}]", xlim=(0, grid.box_size[0]))
        axes[0].set_ylabel("value")
        return
    if grid.dim == 3:
        thickness = max(1, grid.shape[2] // 64)
        sets = tuple((name, maps[..., :thickness].mean(axis=-1), c) for name, maps, c in sets)  # type: ignore[assignment]
    transform, label, colours, limits = _scale(sets[1][1])
    if grid.dim == 3:
        label += f", mean over z from 0 to {thickness * grid.cell_size[2]:.3g} {length_unit}"
    n = len(sets[0][1])
    axes = figure.subplots(1, n + len(sets[1][1]), squeeze=False)[0]
    image = None
    for first, (name, maps, colour) in zip((0, n), sets, strict=True):
        for number, one in enumerate(maps):
            panel = axes[first + number]
            image = panel.imshow(
                transform(one).T, origin="lower", extent=extent_of(grid),
                cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest",
            )  # fmt: skip
            panel.set_title(name, fontsize=10, color=colour)
            panel.set_xlabel(f"x [{length_unit}]", fontsize=8)
            panel.tick_params(labelsize=7, labelleft=first + number == 0)
            for spine in panel.spines.values():
                spine.set(color=colour, linewidth=1.5)
    axes[0].set_ylabel(f"y [{length_unit}]", fontsize=8)
    figure.colorbar(image, ax=list(axes), label=label, fraction=0.012, pad=0.01, shrink=0.8)


def _scale(maps: Array) -> tuple[Any, str, str, tuple[float, float]]:
    """Return how values are shown, the label, the colours and their ends: by the logarithm where positive
    values have a long tail, else symmetric about the mean."""
    low, middle, high = np.percentile(maps, [0.5, 50, 99.5])
    for shift, label in ((0.0, r"$\log_{10}$ value"), (1.0, r"$\log_{10}$ (1 + value)")):
        if maps.min() > -shift and high - middle > 2 * (middle - low):
            bottom, top = np.log10(shift + np.array([low, high]))

            def logarithm(values: Array, shift: float = shift, bottom: float = float(bottom)) -> Array:
                return np.asarray(np.log10(np.maximum(shift + values, 10.0**bottom)))

            return logarithm, label, "inferno", (float(bottom), float(top))
    half = max(high - middle, middle - low)
    mean = float(maps.mean())
    return (lambda values: values), "value", "RdBu_r", (mean - half, mean + half)
