"""Pictures of runs: traces and marginals, or fields with P(k)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from physscore.arrays import to_host
from physscore.plots.figure import MEASURED, extent_of, log_x, pyplot, write

if TYPE_CHECKING:
    from physscore.sampling.result import Run

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
    plt = pyplot()
    n = min(int(np.prod(run.shape)), _MOST_PANELS)
    labels = run._labels()[:n]
    figure, axes = plt.subplots(
        n + 1, 2, figsize=(11, 1.9 * (n + 1)), width_ratios=(3, 1), sharey="row", squeeze=False
    )
    columns = [
        to_host(run.draws[(slice(None), slice(None), *np.unravel_index(i, run.shape))]) for i in range(n)
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
            right.hist(finite, bins=80, orientation="horizontal", density=True, color=MEASURED)
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
    write(figure, path)


def _plot_fields(path: str | os.PathLike[str], run: Run, title: str) -> None:
    plt = pyplot()
    grid = run.grid
    assert grid is not None
    from physscore.diagnostics.power import power_spectrum

    draws, chains = run.draws.shape[:2]
    every = max(1, draws * chains // _MOST_SPECTRA)
    some = to_host(run.draws[::every])
    power = power_spectrum(some.reshape(-1, *run.shape), grid)
    last, mean, std = to_host(run.draws[-1, 0]), run.mean, run.std
    figure, axes = plt.subplots(2, 3, figsize=(14, 8.5))
    for panel, field, name in zip(
        axes[0], (last, mean, std), ("last draw", "mean", "standard deviation"), strict=True
    ):
        if grid.dim == 1:
            panel.plot(grid.coordinates(0), field, lw=1, color=MEASURED)
        else:
            plane = field if grid.dim == 2 else field[..., grid.shape[2] // 2]
            symmetric = name != "standard deviation"
            top = float(np.abs(mean if name == "mean" else plane).max()) or 1.0
            limits = {"vmin": -top, "vmax": top} if symmetric else {}
            shown = panel.imshow(
                plane.T, origin="lower", extent=extent_of(grid),
                cmap="RdBu_r" if symmetric else "viridis", **limits,
            )  # fmt: skip
            figure.colorbar(shown, ax=panel, shrink=0.8)
        of_plane = f", z = {grid.coordinates(2)[grid.shape[2] // 2]:.4g}" if grid.dim == 3 else ""
        panel.set_title(name + of_plane)
    measured = np.atleast_2d(power.power)
    k = power.k
    low, middle, high = np.quantile(measured, [0.16, 0.5, 0.84], axis=0)
    axes[1, 0].fill_between(k, low, high, color=MEASURED, alpha=0.3, label="68% of the draws")
    axes[1, 0].plot(k, middle, color=MEASURED, label="median")
    axes[1, 0].set(yscale="log", xlabel="k", ylabel="P(k)", title="power spectrum of the draws")
    log_x(axes[1, 0])
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
    write(figure, path)
