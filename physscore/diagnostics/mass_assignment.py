"""How particles were put on a grid: the window that smooths their field, its aliases, and shot noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import InputError
from physscore.grid import Grid, WavenumberTable

_Floats = npt.NDArray[np.float64]

# By their order p: a particle is spread by p convolutions with a cell.
MASS_ASSIGNMENTS = {"ngp": 1, "cic": 2, "tsc": 3, "pcs": 4}
# sum over aliases of the squared window of order p, a polynomial in sin^2(k h / 2)
# (Jing 2005, astro-ph/0409240, eqs 18-21).
_ALIASED_WINDOW = {1: (1.0,), 2: (1.0, -2 / 3), 3: (1.0, -1.0, 2 / 15), 4: (1.0, -4 / 3, 2 / 5, -4 / 315)}

# The same with every other image taken off: cos(k h / 2) times these.
_ALTERNATING_WINDOW = {
    1: (1.0,),
    2: (1.0, -1 / 6),
    3: (1.0, -1 / 2, 1 / 120),
    4: (1.0, -5 / 6, 13 / 120, -1 / 5040),
}


def orders_of(mass_assignment: Any, n: int, interlaced: bool = False) -> tuple[int, ...]:
    """Return the orders of the mass assignments of ``n`` fields, 0 for none: of one name, or of a pair.

    Raises
    ------
    InputError
        If a name is unknown, there is a pair for one field, or none has one and they are interlaced.
    """
    is_pair = isinstance(mass_assignment, list | tuple) and len(mass_assignment) == n == 2
    orders = []
    for name in mass_assignment if is_pair else [mass_assignment] * n:
        if not (name is None or (isinstance(name, str) and name in MASS_ASSIGNMENTS)):
            raise InputError(
                f"mass_assignment is {mass_assignment!r}: it must be one of {', '.join(MASS_ASSIGNMENTS)}"
                + (", or a pair of these or None" if n == 2 else "")
            )
        orders.append(0 if name is None else MASS_ASSIGNMENTS[name])
    if interlaced and not any(orders):
        raise InputError(
            "interlaced is True, and mass_assignment None: name the one of the field, as in paint"
        )
    return tuple(orders)


def shot_noises_of(shot_noise: Any, n: int) -> tuple[float, ...]:
    """Return the shot noise of each of ``n`` fields: of one, or a pair for two.

    Raises
    ------
    InputError
        If it is negative or no number, or two fields have one that is no pair.
    """
    is_pair = n == 2 and isinstance(shot_noise, list | tuple) and len(shot_noise) == 2
    values = tuple(shot_noise) if is_pair else (shot_noise,) * n
    for value in values:
        if not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
            raise InputError(f"shot_noise is {shot_noise!r}: it must be a volume per particle, at least 0")
    if n == 2 and shot_noise and not is_pair:
        raise InputError(
            f"shot_noise is {shot_noise}: a cross spectrum has none, so leave it out, or give that of each "
            f"field, as in ({shot_noise}, 0.0), for their correlation"
        )
    return values


def inverse_window(grid: Grid, order: int) -> tuple[_Floats, _Floats, _Floats]:
    """Return, along each axis, 1 over the window of ``order`` convolutions, at frequencies 0 to n // 2."""
    x, y, z = (np.sinc(np.arange(n // 2 + 1) / n) ** -order for n in grid.cube)
    return x, y, z


def aliased_window(grid: Grid, order: int) -> tuple[_Floats, _Floats, _Floats]:
    """Return, along each axis, the sum of the squared window over aliases, as :func:`inverse_window`."""
    squared_sines = [np.sin(np.pi * np.arange(n // 2 + 1) / n) ** 2 for n in grid.cube]
    x, y, z = (np.polyval(_ALIASED_WINDOW.get(order, (1.0,))[::-1], s) for s in squared_sines)
    return x, y, z


def alternating_window(grid: Grid, order: int) -> tuple[_Floats, _Floats, _Floats]:
    """Return the same sum with the sign of every other alias changed."""
    angles = [np.pi * np.arange(n // 2 + 1) / n for n in grid.cube]
    x, y, z = (np.cos(t) * np.polyval(_ALTERNATING_WINDOW[order][::-1], np.sin(t) ** 2) for t in angles)
    return x, y, z


def shot_noise_products(
    shot_noise: float, grid: Grid, order: int, interlaced: bool = False
) -> list[tuple[_Floats, _Floats, _Floats]]:
    """Return the shot noise of a mode as a sum of products of functions of its axes.

    Of fields that were interlaced only the aliases are left whose numbers along the axes have an even sum.
    """
    if not shot_noise:
        return []
    inverse = inverse_window(grid, 2 * order)
    aliases = [aliased_window(grid, order)]
    if interlaced and order:
        aliases.append(alternating_window(grid, order))
    share = shot_noise / len(aliases)
    products = [[w * a for w, a in zip(inverse, some, strict=True)] for some in aliases]
    return [(share * x, y, z) for x, y, z in products]


def shot_noise_sums(
    shot_noise: float, grid: Grid, table: WavenumberTable, order: int, interlaced: bool = False
) -> _Floats:
    """Return the sums of the shot noise over the modes, for each entry of the table."""
    products = shot_noise_products(shot_noise, grid, order, interlaced)
    return np.asarray(sum((table.sum_over_modes(axes) for axes in products), np.zeros(table.size)))
