"""Tables of P(k) in text files, as Boltzmann codes, spreadsheets and people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from physscore.core import InputError
from physscore.spectra.model import _Floats, require_number

UNITS = ("h/Mpc", "1/Mpc")
_MANY = 16  # columns, of which no code that writes a line for each k has so many more than lines

_COMMENT = re.compile(r"[#%!]")
_SEPARATORS = str.maketrans(",;", "  ")
_FORTRAN = re.compile(r"^([-+]?[\d.]+)[dD]([-+]?\d+)$")
_NUMBERED = re.compile(r"\s*\b\d+:\s*")  # CLASS: "1:k (h/Mpc)   2:P (Mpc/h)^3"
_REDSHIFT = re.compile(r"\bz\s*=\s*(\d+\.?\d*(?:[eE][-+]?\d+)?)")
_HUBBLE = re.compile(r"km[\s*./]*s(?:ec)?(?:\^?-1)?[\s*./]*Mpc(?:\^?-1)?", re.IGNORECASE)
_MPC = re.compile(r"Mpc", re.IGNORECASE)
_MPC_WITH_H = re.compile(
    r"(?<![A-Za-z])h(?:\^?\{?[-+]?\d\}?)?(?:[\s*./({]|\\[a-z,]+)*(?i:Mpc)"  # h/Mpc, h Mpc^-1, (h^-1 Mpc)^3
    r"|(?i:Mpc)[-^{}\d)]*[\s*./]*h(?![A-Za-z0-9]|\s*=)"  # Mpc/h, Mpc^-1 h, (Mpc)^3/h^3
)


@dataclass(frozen=True)
class TextTable:
    """k, P and the redshift of a text file, None where its header gives none or several."""

    k: _Floats
    power: _Floats
    redshift: float | None


def read_table(
    path: Path, *, units: str | None = None, h: float | None = None, column: int | None = None
) -> TextTable:
    """Read a table with k in the first column, as k [h/Mpc] and P [(Mpc/h)^3]; see ``Tabulated.from_file``.

    Raises
    ------
    InputError
        If the file is no such table, or its header says that it is another one than is asked for.
    """
    if units not in (None, *UNITS):
        raise InputError(f"units is {units!r}: it must be one of {', '.join(UNITS)}")
    if units == "1/Mpc" and h is None:
        raise InputError("h is missing: units=1/Mpc needs it, as in units=1/Mpc,h=0.6766")
    if units != "1/Mpc" and h is not None:
        raise InputError(f"h is {h!r}: it is for units=1/Mpc")
    if h is not None:
        h = require_number("h", h, 0.0, 2.0, open_low=True)
    header, rows = _lines(path)
    names = _names(header, rows.shape[1])
    chosen = _column(path, rows, names, column)
    k, power = rows[:, 0], rows[:, chosen]
    if units is None:
        _require_h(path, header)
    if h is not None:
        k, power = k / h, power * h**3
    if len(k) > 1 and (np.diff(k) < 0).all():
        k, power = k[::-1], power[::-1]
    if len(k) and k[0] == 0:  # the mean of a field, which is not drawn
        k, power = k[1:], power[1:]
    of_column = _redshift(names[chosen : chosen + 1])
    return TextTable(k, power, _redshift(header) if of_column is None else of_column)


def _lines(path: Path) -> tuple[list[str], _Floats]:
    """Return the comments, with the lines before the first numbers, and the rows of numbers."""
    data = path.read_bytes()
    if b"\0" in data:
        raise InputError(f"spectrum file {path} is neither text nor HDF5: it must be a table of k and P")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    header: list[str] = []
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        content, *comment = _COMMENT.split(line, maxsplit=1)
        words = content.translate(_SEPARATORS).split()
        row = [_number(word) for word in words]
        found = [value for value in row if value is not None]
        if words and not rows and row[0] is None:
            header.append(content)
        elif words and (len(found) < max(2, len(words)) or (rows and len(found) != len(rows[0]))):
            wanted = "two numbers, k and P" if len(found) < 2 or not rows else f"{len(rows[0])} numbers"
            raise InputError(
                f"spectrum file {path} has {line.strip()[:60]!r} in line {number}: it must be {wanted}"
            )
        elif words:
            rows.append(found)
        header += comment
    return header, np.array(rows).reshape(len(rows), -1 if rows else 2)


def _number(word: str) -> float | None:
    try:
        return float(_FORTRAN.sub(r"\1e\2", word))
    except ValueError:
        return None


def _names(header: list[str], columns: int) -> list[str]:
    """Return the names of the columns, from the last line that has as many; none if no line has."""
    for line in reversed(header):
        numbered = [name.strip() for name in _NUMBERED.split(line)[1:]]
        for names in (numbered, line.translate(_SEPARATORS).split()):
            if len(names) == columns:
                return names
    return []


def _column(path: Path, rows: _Floats, names: list[str], column: int | None) -> int:
    """Return the place of the column that holds P."""
    lines, columns = rows.shape
    if columns > max(_MANY, lines):
        raise InputError(
            f"spectrum file {path} has {lines} lines of {columns} numbers: it must have a line for each k"
        )
    begins = 0 if columns == 2 else (0, 1)  # two columns may be k = 1, 2, ... and P
    if lines > 2 and np.isin(rows[0, 0], begins) and (np.diff(rows[:, 0]) == 1).all():
        first = ", ".join(f"{value:g}" for value in rows[:3, 0])
        raise InputError(
            f"spectrum file {path} has {first}, ... in its first column, which look like numbers of lines: "
            "leave them out, k must come first"
        )
    if column is None and columns > 2:
        known = f" ({', '.join(names)})" if names else ""
        raise InputError(
            f"spectrum file {path} has {columns} columns{known}: say which holds P, as in "
            f"{path.name}:column={columns}, or give a file of two, k and P"
        )
    if column is None:
        return 1
    if isinstance(column, bool) or not isinstance(column, int | np.integer) or not 2 <= column <= columns:
        raise InputError(
            f"column is {column!r}: it must be a whole number from 2 to {columns}, the columns of {path}, of "
            "which the first holds k"
        )
    return int(column) - 1


def _require_h(path: Path, header: list[str]) -> None:
    """Refuse a table whose header has a unit without h."""
    for line in header:
        said = _HUBBLE.sub("", line)
        if _MPC.search(_MPC_WITH_H.sub("", said)):
            raise InputError(
                f"spectrum file {path} says {line.strip()!r}, which is not in h/Mpc and (Mpc/h)^3: say so "
                f"with h, as in {path.name}:units=1/Mpc,h=0.6766, or units=h/Mpc if it is"
            )


def _redshift(texts: list[str]) -> float | None:
    """Return the redshift that texts give, if it is one."""
    found = {float(value) for text in texts for value in _REDSHIFT.findall(text)}
    return found.pop() if len(found) == 1 else None
