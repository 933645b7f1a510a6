"""Many fields of a grid: read one at a time, and transformed several at once where they are small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states, on_gpu, unmasked
from physscore.core import Array, InputError
from physscore.diagnostics.pairs import some_cells
from physscore.fft import forward_fft, forward_ffts
from physscore.grid import Grid, WavenumberTable
from physscore.modes import sum_power, sum_powers
from physscore.slabs import FieldInPieces

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FieldSequence:
    """A batch of fields that are read, or made, one at a time.

    Attributes
    ----------
    get
        Returns field i.
    indices
        Numbers of the fields of the batch.
    ndim
        Number of dimensions, that of the batch included.
    """

    get: Callable[[int], Array | FieldInPieces]
    indices: Sequence[int]
    ndim: int

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Array | FieldInPieces:
        return self.get(self.indices[i])


def is_batch(delta: Any, grid: Grid) -> bool:
    """Return whether this is a batch of fields.

    Raises
    ------
    InputError
        If it is no array.
    """
    ndim = getattr(delta, "ndim", None)
    return bool((unmasked(delta, "delta").ndim if ndim is None else ndim) == grid.dim + 1)


def counted(n: int, progress: bool) -> Any:
    """Return the numbers of n fields, with a progress bar if that is wanted."""
    if not progress:
        return range(n)
    from tqdm import tqdm

    return tqdm(range(n), desc="power spectrum", unit="field", disable=None)


def modes_of(delta: Any, grid: Grid, name: str) -> Array:
    """Return the half spectrum of one field of a grid."""
    return forward_fft(_state(delta, grid, name))


def _state(delta: Any, grid: Grid, name: str) -> Array:
    field = delta if on_gpu(delta) else unmasked(delta, name)
    if field.shape != grid.shape:
        raise InputError(f"{name} has fields of shape {field.shape}: the grid has {grid.shape}")
    state: Array = as_states(field[np.newaxis], grid.shape, name)[0]
    return state


def half_spectra(
    fields: Any, numbers: list[int], grid: Grid, name: str, *, whole: bool
) -> tuple[Array | list[Any], _Floats]:
    """Return the half spectra of some fields, and cells of each; those in pieces stay as they are.

    Raises
    ------
    InputError
        If shapes do not fit the grid, or a field is in pieces that must be ``whole``.
    """
    taken: list[Any] = []
    cells: list[_Floats] = []
    for i in numbers:
        field = fields[i]
        if isinstance(field, FieldInPieces):
            if whole:
                raise InputError(f"{name} is a field in pieces, which has no cross spectrum: read all of it")
            if field.grid != grid:
                raise InputError(
                    f"{name} is a field on {field.grid}, and grid is {grid}: they must be the same"
                )
            taken.append(field)
        else:
            state = _state(field, grid, name)
            cells.append(some_cells(field))
            # The next one may be read into its memory.
            taken.append(state if len(numbers) == 1 or on_gpu(state) else np.array(state))
    if len(taken) > 1 and all(isinstance(field, np.ndarray) for field in taken):
        return forward_ffts(np.stack(taken)), np.array(cells)
    spectra = [field if isinstance(field, FieldInPieces) else forward_fft(field) for field in taken]
    return spectra, np.array(cells) if len(cells) == len(taken) else np.empty((len(taken), 0))


def sums_over_shells(a: Any, b: Any, wavenumbers: WavenumberTable, window: Any) -> _Floats:
    """Return the sums over shells of a b* for each of some fields (n, entries)."""
    if isinstance(a, np.ndarray):
        return sum_powers(a, b, wavenumbers, window)
    return np.array([
        one.sum_power(wavenumbers, window)
        if isinstance(one, FieldInPieces) else sum_power(one, other, wavenumbers, window)
        for one, other in zip(a, b, strict=True)
    ])  # fmt: skip
