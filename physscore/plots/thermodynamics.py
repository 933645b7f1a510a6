"""Pictures of a model along its coupling: free energy, mean energy and heat capacity."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from physscore.core import Array
from physscore.plots.figure import MEASURED, MODEL, pyplot, write

if TYPE_CHECKING:
    from physscore.evidence.curves import Thermodynamics

_POINTS = 301  # of an exact line


def plot_thermodynamics(
    path: str | os.PathLike[str],
    result: Thermodynamics,
    exact: Callable[[float], float] | None = None,
    *,
    mark: float | None = None,
    title: str = "",
) -> None:
    """Draw free energy, mean energy and heat capacity, for each site, against the coupling.

    Parameters
    ----------
    path
        Picture to write; its ending says the format.
    result
        What :func:`physscore.thermodynamics` returned.
    exact
        Log Z as a function of the coupling, where it is known: all three lines follow from it, and the
        deviations are drawn below, in units of their errors.
    mark
        A coupling to mark, as that of a phase transition.
    title
        What stands above it. [default: the verdict, with its first reason]
    """
    plt = pyplot()
    rows = 1 if exact is None else 2
    figure, axes = plt.subplots(
        rows, 3, figsize=(13, 4.2 if exact is None else 5.6), layout="constrained", sharex=True,
        squeeze=False, height_ratios=[1.0] if exact is None else [3.0, 1.0],
    )  # fmt: skip
    lines = None if exact is None else _Lines(exact, result.couplings)
    names = {
        "free_energy": r"free energy  $-\log Z\,/\,K$",
        "mean_energy": r"mean energy  $-\partial_K \log Z$",
        "heat_capacity": r"heat capacity  $K^2\,\partial_K^2 \log Z$",
    }
    site = ", per site" if result.n_sites > 1 else ""
    for column, (name, label) in enumerate(names.items()):
        upper = axes[0, column]
        _draw_curve(upper, result, name, lines)
        upper.set_title(label + site, fontsize=11)
        if lines is not None:
            _draw_pulls(axes[1, column], result, name, lines)
        for panel in axes[:, column]:
            panel.grid(alpha=0.25)
            if mark is not None:
                panel.axvline(mark, color="black", lw=0.8, ls=":")
        axes[-1, column].set_xlabel("coupling K")
    axes[0, 0].legend(fontsize=9, framealpha=1.0, edgecolor="none")
    heading = f"{len(result.couplings)} couplings out of one run"
    figure.suptitle(title or ": ".join([heading, result.verdict, *result.reasons[:1]]), fontsize=11)
    write(figure, path)


class _Lines:
    """The three quantities from log Z as a function, by a spline of the fifth degree."""

    def __init__(self, log_z: Callable[[float], float], couplings: Array) -> None:
        from scipy.interpolate import make_interp_spline

        self.couplings = np.linspace(couplings[0], couplings[-1], _POINTS)
        self.log_z = make_interp_spline(self.couplings, [log_z(float(k)) for k in self.couplings], k=5)

    def __call__(self, name: str, k: Array) -> Array:
        if name == "free_energy":
            return np.asarray(np.divide(-self.log_z(k), k, out=np.full(len(k), np.nan), where=k != 0))
        if name == "mean_energy":
            return np.asarray(-self.log_z.derivative(1)(k))
        return np.asarray(k**2 * self.log_z.derivative(2)(k))


def _draw_curve(axes: Any, result: Thermodynamics, name: str, lines: _Lines | None) -> None:
    n = result.n_sites
    value, error = getattr(result, name) / n, getattr(result, f"{name}_error") / n
    if lines is not None:  # which a band between the points would hide
        axes.plot(lines.couplings, lines(name, lines.couplings) / n, color=MODEL, lw=1.5, label="exact")
    else:
        axes.fill_between(
            result.couplings, value - 2 * error, value + 2 * error, color=MEASURED, alpha=0.25, lw=0,
            label="two standard errors",
        )  # fmt: skip
    axes.errorbar(
        result.couplings, value, error, fmt="o-" if lines is None else "o", ms=3.5, lw=1, capsize=2,
        color=MEASURED, label="estimate",
    )  # fmt: skip


def _draw_pulls(axes: Any, result: Thermodynamics, name: str, lines: _Lines) -> None:
    error = getattr(result, f"{name}_error")
    off = getattr(result, name) - lines(name, result.couplings)
    pulls = np.divide(off, error, out=np.zeros_like(off), where=error > 0)
    axes.axhspan(-2, 2, color=MEASURED, alpha=0.12, lw=0)
    axes.axhline(0, color=MODEL, lw=1)
    axes.plot(result.couplings, pulls, "o", ms=3.5, color=MEASURED)
    reach = max(3.5, 1.1 * float(np.nanmax(np.abs(pulls), initial=0.0)))
    axes.set(ylim=(-reach, reach), ylabel="off / error")
