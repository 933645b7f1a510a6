"""What a job will need, before it starts: memory, disk and time; and of fields, how much."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.arrays import n_threads
from physscore.diagnostics.power import power_spectrum
from physscore.distributed import MESSAGE, pieces_of
from physscore.energies.random_field import GaussianRandomField
from physscore.grid import Grid
from physscore.spectra import PowerLaw
from physscore.store.out_of_core import tables_of

INTERPRETER = 210 << 20  # bytes of Python with what the package loads and compiles
_TRIED_CELLS = 96**3
_TRIED_BYTES = 1 << 25


@dataclass(frozen=True)
class Cost:
    """What a job needs.

    Attributes
    ----------
    memory
        Bytes of each process, at most.
    disk, scratch
        Bytes of the file, and of what goes through the disk beside it for a while.
    communication
        Bytes that processes exchange, for each field or estimate.
    seconds
        On this machine, with these threads, for all fields.
    processes, threads
        Of the first, as many as have work, and threads of each.
    """

    memory: int
    disk: int
    scratch: int
    communication: int
    seconds: float
    processes: int
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"memory: {_size(self.memory)} for each process, of which {self.processes} have work",
            f"disk: {_size(self.disk)}"
            + (f", and {_size(self.scratch)} for a while" if self.scratch else ""),
            f"time: about {_duration(self.seconds)}, as fast as here with {self.threads} threads a process",
        ]
        if self.communication:
            lines.append(f"communication: {_size(self.communication)} for each field or estimate")
        return "\n".join(lines)


def cost_of_fields(
    grid: Grid,
    *,
    n: int = 1,
    dtype: npt.DTypeLike = np.float32,
    lognormal: bool = False,
    processes: int = 1,
    memory: int | None = None,
    cells: Sequence[int] | None = None,
    folder: Path | None = None,
) -> Cost:
    """Return what ``n`` fields will need, as a small one and a small file tell that are tried here.

    Parameters
    ----------
    grid, dtype, lognormal
        What the fields are.
    n
        How many, one after the other.
    processes
        That share each field.
    memory
        Bytes to work in, of fields that go through the disk, or of their ``cells``; None for those that do
        not.
    cells
        Number of cells along each axis, where only these of a field are made (``sample_box``): from all its
        modes, along the first axis.
    folder
        Where the file will be.

    Raises
    ------
    InputError
        If so many processes cannot share a field.
    """
    precision = np.dtype(dtype)
    field = math.prod(cells or grid.shape) * precision.itemsize
    spectrum = 2 * math.prod(grid.half_shape) * precision.itemsize
    tables = tables_of(grid, lognormal)
    exchanges = 1 + (2 if lognormal else 1)  # to make it, and to measure it and its logarithm
    communication = exchanges * spectrum * (processes - 1) // processes
    scratch = 0
    if cells is not None:
        # Modes of the planes that it takes, which an FFT holds twice; a line is made whole.
        share = cells[0] / grid.shape[0] if grid.dim > 1 else 1
        need = tables + min(memory or 0, 4 * spectrum) + int(2 * share * spectrum) + field
    elif memory is not None:
        need, scratch = memory, spectrum
    else:
        # The field takes the place of its spectrum. While it is measured, both are there; processes that
        # share it let go of it, and have what they exchange or write at a time.
        copies = float(spectrum + field)
        if processes > 1:
            exchanged = 2 * spectrum / len(pieces_of(grid, processes))
            copies = spectrum + exchanged + 2 * min(field, processes * MESSAGE)
        need = tables + int(copies + lognormal * field) // processes
    through_disk = n * field + (n * 4 * spectrum + n * field if scratch else 0)
    seconds = n * _seconds_of_field(grid, precision) * (1.5 if lognormal else 1.0) / processes
    seconds += through_disk / _bytes_a_second(folder)
    return Cost(need + INTERPRETER, n * field, scratch, communication, seconds, processes, n_threads())


def _seconds_of_field(grid: Grid, dtype: np.dtype[Any]) -> float:
    """Return the time to make and measure a field, in proportion to N log N of a smaller one."""
    shrink = max(1.0, (grid.n_cells / _TRIED_CELLS) ** (1 / grid.dim))
    small = Grid([max(4, int(side / shrink)) for side in grid.shape], grid.box_size)
    prior = GaussianRandomField(small, PowerLaw(index=0.0, amplitude=1.0))
    times = []
    for seed in range(4):
        start = time.perf_counter()
        power_spectrum(prior.sample(1, seed=seed, dtype=dtype), small)
        times.append(time.perf_counter() - start)
    work = grid.n_cells * math.log2(grid.n_cells) / (small.n_cells * math.log2(small.n_cells))
    return float(np.median(times[1:]) * work + grid.n_wavenumbers * 1e-8)


def _bytes_a_second(folder: Path | None) -> float:
    """Return how fast a file can be written, to the disk and not to the system's memory."""
    block = os.urandom(_TRIED_BYTES)
    there = folder is not None and os.access(folder, os.W_OK)
    with NamedTemporaryFile(dir=folder if there else None) as file:
        start = time.perf_counter()
        file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _TRIED_BYTES / (time.perf_counter() - start)


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:.4g} TiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"
