"""Columns of numbers as a short table: its first and its last rows."""

from __future__ import annotations

from typing import Any

import numpy as np

_SHOWN = 3  # rows at either end


def table(columns: dict[str, Any]) -> list[str]:
    """Return the lines of a table of columns (rows,) under their names; of many rows those of both ends."""
    values = [np.asarray(column) for column in columns.values()]
    rows = len(values[0])
    shown = list(range(rows))
    if rows > 2 * _SHOWN + 1:
        shown = [*shown[:_SHOWN], *shown[-_SHOWN:]]
    cells = [list(columns), *([_cell(column[i]) for column in values] for i in shown)]
    lines = ["".join(f"{cell:>12}" for cell in row) for row in cells]
    if len(shown) < rows:
        lines.insert(1 + _SHOWN, f"{'...':>12}")
    return lines


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, np.integer) else f"{value:.4g}"
