"""What every picture needs: matplotlib, if it is there, colours, and a file that appears when it is whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from physscore.core import InputError
from physscore.grid import Grid
from physscore.store.hdf5 import inverse, writing

MEASURED, MODEL = "#1f4e79", "#d1495b"


def pyplot() -> Any:
    """Return matplotlib's pyplot, drawing to files."""
    try:
        import matplotlib
    except ImportError:
        raise InputError('plots need matplotlib: pip install "physscore[plot]"') from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def require_matplotlib() -> None:
    """Refuse early, before any work, where plots cannot be drawn."""
    pyplot()


def log_x(*panels: Any) -> None:
    """Make the x axis of panels that share it logarithmic, with enough labels, which do not touch."""
    from matplotlib.ticker import LogLocator

    panels[0].set_xscale("log")
    low, high = panels[0].get_xlim()
    if high > 100 * low:  # powers of 10 are enough
        return
    steps = (1.0, 3.0) if high > 10 * low else (1.0, 2.0, 5.0)
    for axes in panels:
        axes.xaxis.set(major_locator=LogLocator(subs=steps), major_formatter="{x:g}", minor_formatter="")


def write(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure to a picture whose ending says the format."""
    plt = pyplot()
    final = Path(path)
    part = final.with_name(f".{final.name}.part")
    try:
        with writing(final):
            figure.savefig(part, dpi=150, format=final.suffix.lstrip(".") or "png")
            os.replace(part, final)
    finally:
        part.unlink(missing_ok=True)
        plt.close(figure)


def extent_of(grid: Grid) -> tuple[float, float, float, float]:
    """Return where the pixels of a plane of the first two axes end: cell i is in the middle of pixel i."""
    (width, height), (x, y) = grid.box_size[:2], (0.5 * size for size in grid.cell_size[:2])
    return -x, width - x, -y, height - y


def unit_to(unit: str, power: int) -> str:
    """Return a power of a unit of length for a label: 1/Mpc, h/Mpc, Mpc$^2$, (Mpc/h)$^3$."""
    if power == 1:
        return unit
    bracketed = unit if unit.isalpha() else f"({unit})"
    if power == -1:
        return inverse(unit) if "/" in unit else f"1/{bracketed}"
    return f"{bracketed}$^{power}$"
