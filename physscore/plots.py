"""Every picture the package draws."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from physscore.core import Array, InputError
from physscore.grid import Grid
from physscore.store.hdf5 import inverse, writing

if TYPE_CHECKING:
    from physscore.diagnostics.comparison import Comparison
    from physscore.diagnostics.power import PowerSpectrum
    from physscore.sampling.result import Run

_MEASURED, _MODEL = "#1f4e79", "#d1495b"


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise InputError('plots need matplotlib: pip install "physscore[plot]"') from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def require_matplotlib() -> None:
    """Refuse early, before any work, where plots cannot be drawn."""
    _pyplot()


def plot_field(
    path: str | os.PathLike[str],
    delta: Array,
    grid: Grid,
    *,
    spectrum: PowerSpectrum,
    comparison: Comparison | None = None,
    check: Comparison | None = None,
    length_unit: str = "Mpc/h",
    title: str = "",
    model_name: str = "model",
) -> None:
    """Draw a slice through one field beside its measured power spectrum.

    Parameters
    ----------
    path
        Picture to write; its ending says the format.
    delta
        The field, of shape ``grid.shape``. In 3 dimensions a slab of about 1/64 of the box is averaged.
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
    """
    plt = _pyplot()
    figure = plt.figure(figsize=(12.8, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.0, 1.05])
    _draw_slice(left, left.add_subplot(), delta, grid, length_unit)
    _draw_spectrum(right, grid, spectrum, comparison, check, length_unit, model_name)
    figure.suptitle(title)
    _write(figure, path)


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
    plt = _pyplot()
    figure = plt.figure(figsize=(7.2, 5.6), layout="constrained")
    _draw_spectrum(figure, grid, spectrum, comparison, check, length_unit, model_name)
    figure.suptitle(title)
    _write(figure, path)


def _draw_slice(figure: Any, axes: Any, delta: Array, grid: Grid, length_unit: str) -> None:
    if grid.dim == 1:
        axes.plot(grid.coordinates(0), delta, lw=0.8, color=_MEASURED)
        axes.set(xlabel=f"x [{length_unit}]", ylabel=r"$\delta$", xlim=(0, grid.box_size[0]))
        return
    what = r"$\delta$"
    if grid.dim == 3:
        thickness = max(1, grid.shape[2] // 64)
        delta = delta[:, :, :thickness].mean(axis=2)
        what = rf"$\delta$, mean over {thickness * grid.cell_size[2]:.3g} {length_unit}"
    low, high = np.percentile(delta, [0.5, 99.5])
    # A symmetric scale for a symmetric field; a lognormal one is shown by its logarithm.
    skewed = delta.min() > -1 and high > -1.5 * low
    shown = np.log10(1 + delta) if skewed else delta
    limits = np.percentile(shown, [0.5, 99.5]) if skewed else np.array([-1, 1]) * max(-low, high)
    image = axes.imshow(
        shown.T,
        origin="lower",
        extent=(0, grid.box_size[0], 0, grid.box_size[1]),
        cmap="inferno" if skewed else "RdBu_r",
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    axes.set(xlabel=f"x [{length_unit}]", ylabel=f"y [{length_unit}]")
    label = what.replace(r"$\delta$", r"$\log_{10}(1+\delta)$") if skewed else what
    figure.colorbar(image, ax=axes, label=label, fraction=0.046, pad=0.03)


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
    wavenumber = inverse(length_unit)
    power, error = spectrum.power, spectrum.error
    if power.ndim == 2:  # the mean of a batch, and its error
        error = np.sqrt((error**2).sum(axis=0)) / len(power)
        power = power.mean(axis=0)
    if comparison is not None and len(comparison.error) == len(power):
        error = comparison.error  # as expected: the error of a low measurement is not low
    upper.errorbar(
        spectrum.k, power, error, fmt=".", ms=4, lw=0.8, color=_MEASURED, label="measured", zorder=2
    )
    if comparison is not None:
        upper.plot(comparison.k, comparison.model, color=_MODEL, lw=1.5, label=model_name, zorder=3)
        upper.tick_params(labelbottom=False)
        check = check or comparison
        of_logarithm = "" if check is comparison else r" of $\ln(1+\delta)$"
        lower.axhspan(-2, 2, color="0.92")
        lower.axhline(0, color=_MODEL, lw=1.2)
        lower.plot(check.k, check.pulls, ".", ms=4, color=_MEASURED)
        bound = max(4.0, float(np.abs(check.pulls).max()) * 1.1)
        lower.set(ylabel=f"pull{of_logarithm} [$\\sigma$]", ylim=(-bound, bound))
        verdict = "passed" if check.passed else "FAILED"
        upper.text(
            0.03,
            0.05,
            f"{verdict}: $\\chi^2$ = {check.chi2:.1f} for {check.dof} bins, p = {check.p_value:.2g}\n"
            f"amplitude {check.amplitude:.4f} $\\pm$ {check.amplitude_error:.1g}",
            transform=upper.transAxes,
            fontsize=10,
        )
    exponent = "" if grid.dim == 1 else f"$^{grid.dim}$"
    # A bin of one or two modes must not set the scale.
    certain = power[(spectrum.n_modes >= min(16, int(spectrum.n_modes.max()))) & (power > 0)]
    shown = certain if comparison is None else np.concatenate([certain, comparison.model])
    if shown.size:
        upper.set_ylim(shown.min() / 2.5, shown.max() * 2.5)
    upper.set(xscale="log", yscale="log", ylabel=f"P(k) [({length_unit}){exponent}]")
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
    upper.legend(loc="upper right" if power[-1] < power[0] else "upper left", frameon=False)
    (lower or upper).set_xlabel(f"k [{wavenumber}]")


_MOST_PANELS = 6
_MOST_CHAINS = 8
_MOST_SPECTRA = 4000  # fields whose P(k) is measured, about


def plot_run(path: str | os.PathLike[str], run: Run, *, title: str = "") -> None:
    """Draw traces and marginals of a run of vectors, or slices and P(k) of a run of fields.

    Parameters
    ----------
    path
        Picture to write; its ending says the format.
    run
        The run.
    title
        What stands above it. [default: the target, and whether it has mixed]
    """
    title = title or f"{run.target}: {'mixed' if run.mixing.passed else 'not to be trusted'}"
    title = title if len(title) < 100 else title[:97] + "..."
    if run.grid is not None:
        _plot_fields(path, run, title)
        return
    plt = _pyplot()
    n = min(int(np.prod(run.shape)), _MOST_PANELS)
    labels = run._labels()[:n]
    figure, axes = plt.subplots(
        n + 1, 2, figsize=(11, 1.9 * (n + 1)), width_ratios=(3, 1), sharey="row", squeeze=False
    )
    columns = [
        np.asarray(run.draws[(slice(None), slice(None), *np.unravel_index(i, run.shape))]) for i in range(n)
    ]
    every = max(1, run.draws.shape[0] // 2000)
    steps = np.arange(0, run.draws.shape[0], every) * run.thin
    for row, (values, label) in enumerate(
        zip([*columns, np.asarray(run.energies[...])], [*labels, "energy"], strict=True)
    ):
        left, right = axes[row]
        left.plot(steps, values[::every, :_MOST_CHAINS], lw=0.6, alpha=0.7)
        left.set_ylabel(label)
        finite = values[np.isfinite(values)]
        if finite.size:
            right.hist(finite, bins=80, orientation="horizontal", density=True, color=_MEASURED)
            low, high = np.quantile(finite, [0.0005, 0.9995])
            margin = 0.1 * (high - low) or 1.0
            left.set_ylim(low - margin, high + margin)
        right.set_xticks([])
        if row < n:
            left.tick_params(labelbottom=False)
    axes[-1, 0].set_xlabel(f"step of {min(_MOST_CHAINS, run.draws.shape[1])} of {run.draws.shape[1]} chains")
    axes[-1, 1].set_xlabel("marginal")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    _write(figure, path)


def _plot_fields(path: str | os.PathLike[str], run: Run, title: str) -> None:
    plt = _pyplot()
    grid = run.grid
    assert grid is not None
    from physscore.diagnostics.power import power_spectrum

    draws, chains = run.draws.shape[:2]
    every = max(1, draws * chains // _MOST_SPECTRA)
    some = np.asarray(run.draws[::every])
    power = power_spectrum(some.reshape(-1, *run.shape), grid)
    last, mean, std = np.asarray(run.draws[-1, 0]), run.mean, run.std
    figure, axes = plt.subplots(2, 3, figsize=(14, 8.5))
    for panel, field, name in zip(
        axes[0], (last, mean, std), ("last draw", "mean", "standard deviation"), strict=True
    ):
        if grid.dim == 1:
            panel.plot(grid.coordinates(0), field, lw=1, color=_MEASURED)
        else:
            plane = field if grid.dim == 2 else field[..., grid.shape[2] // 2]
            symmetric = name != "standard deviation"
            top = float(np.abs(mean if name == "mean" else plane).max()) or 1.0
            limits = {"vmin": -top, "vmax": top} if symmetric else {}
            shown = panel.imshow(
                plane.T, origin="lower", extent=(0, grid.box_size[0], 0, grid.box_size[1]),
                cmap="RdBu_r" if symmetric else "viridis", **limits,
            )  # fmt: skip
            figure.colorbar(shown, ax=panel, shrink=0.8)
        panel.set_title(name)
    measured = np.atleast_2d(power.power)
    k = power.k
    low, middle, high = np.quantile(measured, [0.16, 0.5, 0.84], axis=0)
    axes[1, 0].fill_between(k, low, high, color=_MEASURED, alpha=0.3, label="68% of the draws")
    axes[1, 0].plot(k, middle, color=_MEASURED, label="median")
    axes[1, 0].set(xscale="log", yscale="log", xlabel="k", ylabel="P(k)", title="power spectrum of the draws")
    axes[1, 0].legend(frameon=False)
    running = measured.reshape(*some.shape[:2], -1).mean(axis=1)
    steps = np.arange(0, draws, every) * run.thin
    for column in np.unique(np.linspace(0, len(k) - 1, 6).astype(int)):
        axes[1, 1].plot(steps, running[:, column], lw=1, label=f"k = {k[column]:.3g}")
    axes[1, 1].set(yscale="log", xlabel="step", ylabel="P(k), mean of the chains", title="running P(k)")
    low, high = axes[1, 1].get_ylim()
    axes[1, 1].set_ylim(low, high * (high / low) ** 0.25)  # room for the legend
    axes[1, 1].legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    axes[1, 2].plot(steps, np.asarray(run.energies[...])[::every, :_MOST_CHAINS], lw=0.7, alpha=0.8)
    axes[1, 2].set(xlabel="step", title="energy")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout()
    _write(figure, path)


def _write(figure: Any, path: str | os.PathLike[str]) -> None:
    plt = _pyplot()
    final = Path(path)
    part = final.with_name(f".{final.name}.part")
    try:
        with writing(final):
            figure.savefig(part, dpi=150, format=final.suffix.lstrip(".") or "png")
            os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)
        plt.close(figure)
