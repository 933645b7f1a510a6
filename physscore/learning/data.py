"""Data to learn from: arrays or HDF5 datasets of states, their split, symmetries, and coarser copies."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import scipy.fft
import torch
from torch import Tensor

from physscore.arrays import require_memory, unmasked
from physscore.core import InputError
from physscore.grid import Grid
from physscore.learning import chance
from physscore.learning.preconditioning import full_table
from physscore.modes import sum_power
from physscore.store.field_file import FieldFile
from physscore.store.hdf5 import open_hdf5

_Floats = npt.NDArray[np.floating[Any]]
_FEWEST_STEPS = 1e3  # of single precision, in a standard deviation
_HELD_OUT = 4  # the use of the random numbers that say what is held out
_BY_CHANCE = 1e-4  # so seldom are maps that are as the others called apart,
_APART = 0.4  # and by so much of the distribution they must be: simulations differ a little


@dataclass
class Data:
    """States (n, *shape) in physical units, what they are, and the physical parameters (n, p) of each.

    ``fields`` says that they are those of a file of fields of ours, which may have one dimension.
    """

    x: _Floats
    box_size: tuple[float, ...] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    parameters: _Floats | None = None
    fields: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return self.x.shape[1:]

    def grid(self) -> Grid:
        """Return the periodic box of fields; without a known size, cells of side 1."""
        return Grid(self.shape, self.box_size or tuple(map(float, self.shape)))


def read(source: Any, dataset: str | None = None, *, name: str = "data") -> Data:
    """Return states out of an array, or of an HDF5 file.

    Parameters
    ----------
    source
        An array (n, *shape), or a path.
    dataset
        Path of a dataset inside of the file. [default: fields/delta, of our own files]
    name
        What they are called in messages.

    Raises
    ------
    InputError
        If there is no such thing, or it is no batch of finite numbers.
    """
    if not isinstance(source, str | os.PathLike):
        if dataset is not None:
            raise InputError(f"dataset is {dataset!r}, but {name} is no file: it is for HDF5 files")
        return Data(_checked(unmasked(source, name), name), None, {"source": "array"})
    path = Path(source)
    with open_hdf5(path) as file:
        place = dataset or str(file.attrs.get("dataset", "fields/delta"))
        found = file.get(place)
        if not isinstance(found, h5py.Dataset):
            raise InputError(
                f"file {path} has no dataset {place!r}: it has {', '.join(_datasets(file)) or 'none'}"
            )
        if found.ndim < 2:
            raise InputError(
                f"dataset {place!r} has shape {found.shape}: it must be a batch of states (n, *shape)"
            )
        require_memory(10 * int(np.prod(found.shape)), f"reading {place!r} of {path}")
        ours = file.attrs.get("kind") == "fields" and place == file.attrs.get("dataset", "fields/delta")
        x = _checked(_finished(path) if ours else found[...], f"dataset {place!r} of {path}")
        header = file.attrs if "BoxSize" in file.attrs or "Header" not in file else file["Header"].attrs
        units = file["Units"].attrs if "Units" in file else {}
        about = {
            "source": path.name,
            "dataset": place,
            "size": path.stat().st_size,
            "length_unit": str(units.get("length", file.attrs.get("BoxSize_unit", "length"))),
            "attributes": {k: str(v) for k, v in file.attrs.items() if k not in ("settings",)},
        }
        return Data(x, _box(header.get("BoxSize"), x.ndim - 1), about, fields=ours)


def _finished(path: Path) -> Any:
    """Return the fields that are there, of a file of ours."""
    with FieldFile(path) as fields:
        if not fields.batched:
            raise InputError(f"file {path} holds a single field: a training needs many, as of -n 100")
        return fields.finished()


def _checked(values: Any, name: str) -> _Floats:
    if values.ndim < 2 or not values.size or values.dtype.kind not in "fiu":
        raise InputError(
            f"{name} has shape {values.shape} and type {values.dtype}: it must be a batch (n, *shape)"
        )
    maps = values.ndim > 2
    found: _Floats = np.ascontiguousarray(values, np.float32 if maps else np.float64)
    bad = ~np.isfinite(found).reshape(len(found), -1).all(axis=1)
    if bad.any():
        raise InputError(f"{name} holds values that are not finite, first in state {int(bad.argmax())}")
    if maps and values.dtype.itemsize > 4:
        mean = values.mean(dtype=np.float64)
        std = np.sqrt(np.mean([((one - mean) ** 2).mean() for one in values]))
        if 0 < std < _FEWEST_STEPS * 2.0**-24 * abs(mean):
            raise InputError(
                f"{name} has the mean {mean:g} and the standard deviation {std:.2g}, which single "
                "precision does not keep apart: take the mean away"
            )
    return found


def _box(given: Any, dim: int) -> tuple[float, ...] | None:
    if given is None or dim > 3:
        return None
    sides = np.atleast_1d(np.asarray(given, np.float64))
    if 1 < sides.size < dim:
        raise InputError(
            f"BoxSize holds {sides.size} sides for states of {dim} dimensions: it must have one a dimension; "
            "maps of several channels cannot be learned, take one"
        )
    if sides.shape not in ((1,), (dim,)):  # maps cut out of a box of more dimensions
        sides = sides[:dim] if sides.size > dim else sides[:1]
    return tuple(float(side) for side in np.broadcast_to(sides, dim))


def _datasets(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


def rows(source: Any, data: Any, n: int, name: str) -> _Floats | None:
    """Return physical parameters (n, p) out of an array, or a dataset in the file of the data."""
    if source is None:
        return None
    if isinstance(source, str):
        if not isinstance(data, str | os.PathLike):
            raise InputError(f"{name} is {source!r}, but the data are no file: give an array")
        with open_hdf5(Path(data)) as file:
            if not isinstance(file.get(source), h5py.Dataset):
                raise InputError(f"file {data} has no dataset {source!r}")
            source = file[source][...]
    table = unmasked(source, name)
    if table.dtype.kind not in "fiub":
        raise InputError(f"{name} has the type {table.dtype}: it must hold real numbers")
    values = np.asarray(table, np.float64)
    values = values[:, np.newaxis] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != n or not np.isfinite(values).all():
        raise InputError(
            f"{name} has shape {values.shape}: it must be ({n}, p), finite, a row for each state"
        )
    return values


def held_out(
    data: Data, validation: Any, source: Any, parameters: Any, *, seed: int = 0, maps: bool = False
) -> tuple[Data, Data]:
    """Return the data and what is held out of the training: given, or a tenth of them.

    That is drawn by the seed, as data may be sorted; of ``maps`` it is the last, as neighbours may be of one
    simulation, with a warning where they are not as the others.

    Raises
    ------
    InputError
        If they are of another shape, or have no parameters where the data have some.
    """
    if validation is None:
        if parameters is not None:
            raise InputError("validation_parameters are those of validation, which is not given")
        n = len(data.x)
        kept = n - max(1, n // 10)
        if kept < 2:
            raise InputError(f"data has {n} states: give three at least, of which one is held out")
        drawn = torch.randperm(n, generator=chance.generator(seed, 0, _HELD_OUT)).numpy()
        order = np.arange(n) if maps else drawn
        first, second = (_taken(data, np.sort(part)) for part in (order[:kept], order[kept:]))
        if maps:
            _warn_if_apart(first, second)
        return first, second
    in_file = isinstance(validation, str) and isinstance(source, str | os.PathLike)
    in_file = in_file and not Path(validation).is_file()
    held = read(source, validation, name="validation") if in_file else read(validation, name="validation")
    if held.shape != data.shape:
        raise InputError(f"validation has states of shape {held.shape}: data has {data.shape}")
    if (data.parameters is None) != (parameters is None):
        raise InputError("validation_parameters belong to parameters and validation: give all three")
    holder = source if in_file else validation
    held.parameters = rows(parameters, holder, len(held.x), "validation_parameters")
    return data, held


def _taken(data: Data, chosen: Any) -> Data:
    """Return some of the states; a view where they follow each other."""
    rows_: Any = slice(chosen[0], chosen[-1] + 1) if len(chosen) == chosen[-1] + 1 - chosen[0] else chosen
    table = data.parameters
    return Data(data.x[rows_], data.box_size, data.about, table if table is None else table[rows_])


def _warn_if_apart(first: Data, second: Data) -> None:
    """Warn if held-out maps have other means, standard deviations or parameters (Kolmogorov & Smirnov)."""
    from scipy.stats import ks_2samp

    tables = []
    for part in (first, second):
        cells = [(one.mean(dtype=np.float64), one.std(dtype=np.float64)) for one in part.x]
        tables.append(np.column_stack([cells, *([] if part.parameters is None else [part.parameters])]))
    tests = [ks_2samp(*columns) for columns in zip(tables[0].T, tables[1].T, strict=True)]
    if any(test.pvalue * len(tests) < _BY_CHANCE and test.statistic > _APART for test in tests):
        warnings.warn(
            f"the last {len(second.x)} maps, which are held out, are not as the others, as if they were "
            "sorted: give validation, or shuffle them",
            stacklevel=4,
        )


def mean_spectrum(y: _Floats, grid: Grid) -> npt.NDArray[np.float64]:
    """Return the mean variance of each mode of fields in the unitary DFT basis, over the half spectrum.

    Modes of one |k| are averaged, over all fields; k = 0 is one of them.
    """
    table = grid.wavenumbers
    total = np.zeros(table.size)
    for one in y:
        modes = np.ascontiguousarray(scipy.fft.rfftn(one.astype(np.float64)))
        total += sum_power(modes, modes, table)
    mean = total / (np.maximum(table.counts, 1) * len(y) * grid.n_cells)
    return np.asarray(full_table(mean, table.offsets, grid.half_shape), np.float64)


def coarsen(fields: Any, factor: int) -> Any:
    """Return fields with sides ``factor`` times smaller: blurred by leaving out modes, and sampled."""
    if factor == 1:
        return fields
    dim, sides = fields.ndim - 1, fields.shape[1:]
    if any(side % factor for side in sides) or min(sides) // factor < 4:
        raise InputError(
            f"coarse holds {factor}: it must divide the sides {tuple(sides)} and leave 4 cells at least"
        )
    axes = range(1, dim + 1)
    modes = scipy.fft.rfftn(fields, axes=axes)
    small = [side // factor for side in sides]
    modes = _cropped(modes, sides, small)
    found = scipy.fft.irfftn(modes, small, axes=axes) / factor**dim
    return np.ascontiguousarray(found, fields.dtype)


def coarse_spectrum(table: Any, sides: tuple[int, ...], factor: int) -> Any:
    """Return the mean spectrum of coarsened fields, out of that of the fields."""
    if factor == 1:
        return table
    small = [side // factor for side in sides]
    return _cropped(table[np.newaxis], sides, small)[0] / factor ** len(sides)


def _cropped(modes: Any, sides: Any, small: list[int]) -> Any:
    """Leave out all modes at or beyond the Nyquist frequency of the smaller grid; there they become zero."""
    for axis, (side, cells) in enumerate(zip(sides, small, strict=True), 1):
        half = axis == len(small)
        frequency = np.rint(np.fft.rfftfreq(cells, 1 / cells) if half else np.fft.fftfreq(cells, 1 / cells))
        modes = np.take(modes, frequency.astype(int) % side if not half else frequency.astype(int), axis)
        if cells % 2 == 0:
            place: list[Any] = [slice(None)] * modes.ndim
            place[axis] = cells // 2
            modes[tuple(place)] = 0
    return modes


def moved(y: Tensor, generator: torch.Generator, exchange: bool = True, coarsest: int = 1) -> Tensor:
    """Return fields shifted, and with axes turned around and exchanged, at random: a lattice's symmetries.

    One draw holds for a batch.

    Parameters
    ----------
    y
        Fields (n, *grid).
    generator
        Of random numbers.
    exchange
        Whether axes with as many cells may be exchanged: not if the sides of the box differ.
    coarsest
        Shifts are drawn below this; a network has the symmetry under multiples of it by itself.
    """
    axes = list(range(1, y.ndim))
    if coarsest > 1:
        y = y.roll(torch.randint(0, coarsest, (len(axes),), generator=generator).tolist(), axes)
    signs = torch.randint(0, 2, (len(axes),), generator=generator)
    flip = [axis for axis, sign in zip(axes, signs.tolist(), strict=True) if sign]
    y = y.flip(flip) if flip else y
    if exchange and len(axes) > 1 and len(set(y.shape[1:])) == 1:
        order = torch.randperm(len(axes), generator=generator) + 1
        y = y.permute(0, *order.tolist())
    return y.contiguous()
