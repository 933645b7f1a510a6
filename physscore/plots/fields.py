"""Pictures of density fields and their power spectra."""

from __future__ import annotations

import os
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from physscore.core import Array
from physscore.grid import Grid
from physscore.plots.figure import MEASURED, MODEL, extent_of, log_x, pyplot, unit_to, write

if TYPE_CHECKING:
    from physscore.diagnostics.comparison import Comparison
    from physscore.diagnostics.power import PowerSpectrum
    from physscore.store.field_file import FieldView


DELTA = r"$\delta$"


def plot_field(
    path: str | os.PathLike[str],
    delta: Array | FieldView,
    grid: Grid,
    *,
    spectrum: PowerSpectrum,
    comparison: Comparison | None = None,
    check: Comparison | None = None,
    length_unit: str = "Mpc/h",
    title: str = "",
    model_name: str = "model",
    quantity: str = DELTA,
) -> None:
    """Draw a slice through one field beside its measured power spectrum.

    Parameters
    ----------
    path
        Picture to write; its ending says the format.
    delta
        The field, of shape ``grid.shape``, or a ``FieldView`` of it. In 3 dimensions a slab of about 1/64 of
        the box is averaged.
    grid
        The box and its cells.
    spectrum
        Measured spectrum of the field.
    comparison
        The comparison with a model, which is drawn as a line, with the pulls below.
    check
        The comparison whose pulls and verdict are shown, if it is another one (``check_field``).
    length_unit, title, model_name
        For the labels.
    quantity
        What the field is, if not delta.
    """
    plt = pyplot()
    figure = plt.figure(figsize=(12.8, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.0, 1.05])
    _draw_slice(left, left.add_subplot(), delta, grid, length_unit, quantity)
    _draw_spectrum(right, grid, spectrum, comparison, check, length_unit, model_name)
    figure.suptitle(fill(title, 130))
    write(figure, path)


def plot_spectrum(
    path: str | os.PathLike[str],
    grid: Grid,
    spectrum: PowerSpectrum,
    comparison: Comparison | None = None,
    check: Comparison | None = None,
    *,
    length_unit: str = "Mpc/h",
    title: str = "",
    model_name: str = "model",
) -> None:
    """Draw a measured power spectrum alone; arguments as for :func:`plot_field`."""
    plt = pyplot()
    figure = plt.figure(figsize=(7.2, 5.6), layout="constrained")
    _draw_spectrum(figure, grid, spectrum, comparison, check, length_unit, model_name)
    figure.suptitle(fill(title, 72))
    write(figure, path)


def _draw_slice(figure: Any, axes: Any, delta: Any, grid: Grid, length_unit: str, quantity: str) -> None:
    if grid.dim < 3:
        delta = np.asarray(delta[...])
    if grid.dim == 1:
        axes.plot(grid.coordinates(0), delta, lw=0.8, color=MEASURED)
        axes.set(xlabel=f"x [{length_unit}]", ylabel=quantity, xlim=(0, grid.box_size[0]))
        return
    what = quantity
    if grid.dim == 3:
        thickness = max(1, grid.shape[2] // 64)
        delta = np.asarray(delta[:, :, :thickness]).mean(axis=2)
        what = f"{quantity}, mean over z from 0 to {thickness * grid.cell_size[2]:.3g} {length_unit}"
    low, high = np.percentile(delta, [0.5, 99.5])
    # A symmetric scale for a symmetric field; a lognormal one is shown by its logarithm.
    skewed = bool(delta.min() > -1 and high > -1.5 * low) if quantity == DELTA else False
    shown = np.log10(1 + delta) if skewed else delta
    around = quantity == DELTA and not skewed
    limits = np.array([-1, 1]) * max(-low, high) if around else np.percentile(shown, [0.5, 99.5])
    image = axes.imshow(
        shown.T,
        origin="lower",
        extent=extent_of(grid),
        cmap="RdBu_r" if around else "inferno",
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    axes.set(xlabel=f"x [{length_unit}]", ylabel=f"y [{length_unit}]")
    label = what.replace(DELTA, r"$\log_{10}(1+\delta)$") if skewed else what
    figure.colorbar(image, ax=axes, label=label, shrink=0.9)


def _draw_spectrum(
    figure: Any,
    grid: Grid,
    spectrum: PowerSpectrum,
    comparison: Comparison | None,
    check: Comparison | None,
    length_unit: str,
    model_name: str,
) -> None:
    rows = figure.add_gridspec(2 if comparison else 1, 1, height_ratios=[3, 1] if comparison else [1])
    upper = figure.add_subplot(rows[0])
    lower: Any = figure.add_subplot(rows[1], sharex=upper) if comparison else None
    power, error, measured = spectrum.power, spectrum.error, "measured"
    if power.ndim == 2:  # the mean of a batch, and its error
        measured = f"mean of {len(power)} fields" if len(power) > 1 else measured
        error = np.sqrt((error**2).sum(axis=0)) / len(power)
        power = power.mean(axis=0)
    if comparison is not None and len(comparison.error) == len(power):
        error = comparison.error  # as expected: the error of a low measurement is not low
    cross = spectrum.correlation is not None
    below = power < 0 if cross else np.zeros(len(power), bool)  # which a logarithmic axis has no room for
    for chosen, sign, fill_, label in (
        (~below, 1, MEASURED, measured),
        (below, -1, "white", "negative: $-P$"),
    ):
        if chosen.any():
            upper.errorbar(
                spectrum.k[chosen], sign * power[chosen], error[chosen], fmt="o" if cross else ".", mfc=fill_,
                ms=3.5 if cross else 4, lw=0.8, color=MEASURED, label=label, zorder=2,
            )  # fmt: skip
    if comparison is not None:
        upper.plot(comparison.k, comparison.model, color=MODEL, lw=1.5, label=model_name, zorder=3)
        upper.tick_params(labelbottom=False, which="both")
        check = check or comparison
        of_logarithm = "" if check is comparison else "\nof $\\ln(1+\\delta)$"
        lower.axhspan(-2, 2, color="0.92")
        lower.axhline(0, color=MODEL, lw=1.2)
        lower.plot(check.k, check.pulls, ".", ms=4, color=MEASURED)
        bound = max(4.0, float(np.abs(check.pulls).max()) * 1.1)
        lower.set(ylabel=f"pull{of_logarithm} [$\\sigma$]", ylim=(-bound, bound))
        lower.locator_params(
            axis="y", nbins=4
        )  # the same ticks whatever the layout, which asks how wide they are
        verdict = "passed" if check.passed else "FAILED"
        upper.text(
            0.03,
            0.05,
            f"{verdict}: $\\chi^2$ = {check.chi2:.1f} for {check.dof} bins, p = {check.p_value:.2g}\n"
            f"amplitude {check.amplitude:.4f} $\\pm$ {check.amplitude_error:.1g}",
            transform=upper.transAxes,
            fontsize=10,
        )
    # A bin of one or two modes must not set the scale.
    size = np.abs(power) if cross else power
    certain = size[(spectrum.n_modes >= min(16, int(spectrum.n_modes.max()))) & (size > 0)]
    shown = certain if comparison is None else np.concatenate([certain, comparison.model])
    if shown.size:
        upper.set_ylim(shown.min() / 2.5, shown.max() * 2.5)
    name = r"$|P_{12}(k)|$, cross" if cross else "P(k)"
    upper.set(yscale="log", ylabel=f"{name} [{unit_to(length_unit, grid.dim)}]")
    log_x(upper)
    nyquist = min(grid.nyquist)
    for axes in (upper, lower) if lower is not None else (upper,):
        axes.axvline(nyquist, color="0.6", lw=0.8, ls=":")
    upper.annotate(
        "Nyquist",
        (nyquist, 0.03),
        xycoords=("data", "axes fraction"),
        rotation=90,
        ha="right",
        va="bottom",
        fontsize=8,
        color="0.4",
    )
    upper.legend(loc="upper right" if size[-1] < size[0] else "upper left", frameon=False)
    (lower or upper).set_xlabel(f"k [{unit_to(length_unit, -1)}]")
