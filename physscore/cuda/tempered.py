"""The densities of ``evidence/tempered.py`` on a card, over modes of fields, in few passes over memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from physscore.arrays import cupy
from physscore.cuda import launch_blocks, modes, parts_of
from physscore.cuda.fft import forward_fft, inverse_fft


def _changed(x: Any, other: Any, mean: Any, scale: Any, beta: float, *, back: bool) -> tuple[Any, Any, Any]:
    (rows, d), xp = x.shape, cupy()
    parts = parts_of(rows, d)
    one, two, squares = xp.empty_like(x), xp.empty_like(x), xp.empty((rows, parts))
    launch_blocks(
        "tempered", "change", np.float64, rows * parts, -(-d // parts), x, xp.ascontiguousarray(other), mean,
        scale, np.float64(beta), back, rows, d, parts, one, two, squares,
    )  # fmt: skip
    return one, two, squares.sum(axis=1)


def leave(y: Any, slope: Any, mean: Any, scale: Any, beta: float) -> tuple[Any, Any, Any]:
    """Return v, its score and |y|^2; see ``Tempered.leave``."""
    return _changed(y, slope, mean, scale, beta, back=False)


def arrive(v: Any, score: Any, mean: Any, scale: Any, beta: float) -> tuple[Any, Any, Any]:
    """Return y, the gradient of u and |y|^2; see ``Tempered.arrive``."""
    return _changed(v, score, mean, scale, beta, back=True)


def dots(a: Any, b: Any) -> Any:
    """Return a . b of each row: CuPy's own would give a row to one block."""
    (rows, d), xp = a.shape, cupy()
    parts = parts_of(rows, d)
    a, b = (xp.ascontiguousarray(array.astype(np.float64, copy=False)) for array in (a, b))
    sums = xp.empty((rows, parts))
    launch_blocks("tempered", "dots", np.float64, rows * parts, -(-d // parts), a, b, rows, d, parts, sums)
    return sums.sum(axis=1)


class OverModes:
    """E_beta over v where a field's modes are a linear function of them, field_shift + field_scale v.

    What has no transform is then sum (precision v^2 / 2 + shift v) + constant; the rest, beta times the
    energy of ``others``, has the gradient ``pull`` times its own over the modes.
    """

    def __init__(
        self, others: Any, grid: Any, beta: float, field_shift: Any, field_scale: Any, pull: Any,
        precision: Any, shift: Any, constant: float,
    ) -> None:  # fmt: skip
        self._others, self._grid, self._beta = others, grid, beta
        self._field_shift, self._field_scale, self._pull = field_shift, field_scale, pull
        self._precision, self._shift, self._constant = precision, shift, constant

    def energy_and_score(self, v: Any) -> tuple[Any, Any]:
        """Return both."""
        grid, unitary = self._grid, 1 / math.sqrt(self._grid.n_cells)
        slopes, more = None, self._constant
        if self._others is not None:
            spectra = modes.from_coordinates(v, self._field_scale, grid.cube, unitary, self._field_shift)
            spectra = spectra.reshape(len(v), *grid.half_shape)
            energy, slope = self._others.energy_and_score(inverse_fft(spectra, grid.shape))
            more = more + self._beta * energy
            slopes = forward_fft(slope.astype(v.dtype, copy=False))
        own, score = modes.diagonal(v, self._precision, slopes, self._pull, grid.cube, unitary, self._shift)
        return own + more, score
