"""Multipoles of the power of fields."""

from __future__ import annotations

import os
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from physscore.plots.figure import MEASURED, MODEL, log_x, pyplot, unit_to, write
from physscore.store.hdf5 import inverse

if TYPE_CHECKING:
    from physscore.diagnostics.multipoles import PowerMultipoles

_COLOURS = (MEASURED, MODEL, "#2a9d8f", "#8d6b94", "#b08900")


def plot_multipoles(
    path: str | os.PathLike[str], found: PowerMultipoles, *, length_unit: str = "Mpc/h", title: str = ""
) -> None:
    """Draw k P_l(k), the mean over the fields, with errors, up to the Nyquist frequency.

    Parameters
    ----------
    path
        Of the picture.
    found
        What was measured.
    length_unit
        Unit of the box.
    title
        Above it.

    Raises
    ------
    InputError
        If matplotlib is not installed, or the picture cannot be written.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7.2, 5.6), layout="constrained")
    mean = found.power.reshape(-1, *found.power.shape[-2:]).mean(axis=0)
    error, shown = found.mean_error(), (found.k <= min(found.grid.nyquist)) & (found.n_modes > 0)
    k = found.k[shown]
    for order, row, deviation, colour in zip(found.orders, mean, error, _COLOURS, strict=False):
        axes.errorbar(
            k, k * row[shown], k * deviation[shown], fmt=".", ms=5, lw=0.8, color=colour, label=f"$P_{order}$"
        )
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set(
        xlabel=f"k [{inverse(length_unit)}]",
        ylabel=f"$k\\,P_\\ell(k)$ [{unit_to(length_unit, 2)}]",
    )
    log_x(axes)
    # A bin of one or two modes must not set the scale.
    many = found.n_modes[shown] >= min(16, int(found.n_modes[shown].max()))
    low, high = (
        np.min((k * (mean - error)[:, shown])[:, many]),
        np.max((k * (mean + error)[:, shown])[:, many]),
    )
    axes.set_ylim(min(low, 0) - 0.08 * (high - low), high + 0.08 * (high - low))
    axes.legend(frameon=False)
    figure.suptitle(fill(title, 72))
    write(figure, path)
