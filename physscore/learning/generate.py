"""New states of a learned score, written to a file piece by piece."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tqdm import tqdm

from physscore.arrays import require_memory
from physscore.core import InputError
from physscore.grid import Grid
from physscore.interrupt import interruptible
from physscore.learning.fitted import Fitted
from physscore.noise import seed_key
from physscore.sampling.engine import whole
from physscore.sampling.levels import enough_levels
from physscore.store.field_file import FieldFile
from physscore.store.fields import FieldWriter
from physscore.store.hdf5 import check_output, describe, require_space, whole_file

_SCALES = ("x", "y", "z", "realization")  # of the axes of a file, which no dataset can be called as well
_MOST_LEVELS = 1_000_000
_AT_ONCE = 1 << 18  # components of the states that are made together


def generate(
    score: Fitted,
    n: int,
    output: str | os.PathLike[str],
    *,
    seed: int = 0,
    steps: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    on_interrupt: Callable[[], None] = lambda: None,
    source: str = "",
) -> dict[str, Any]:
    """Write ``n`` new states to an HDF5 file: fields as ``physscore field`` does, vectors as /draws.

    Parameters
    ----------
    score
        What was learned.
    n
        How many.
    output
        The file, ``name.part`` until it is finished.
    seed
        A whole number from 0 to 2^64 - 1; a state depends on it and on its number only.
    steps
        Noise levels. [default: as of ``Fitted.sample``]
    resume
        Go on with an unfinished file of fields.
    overwrite
        Replace an existing file.
    progress
        Show a progress bar.
    on_interrupt
        Called when Ctrl-C is noted; the fields that are finished are kept.
    source
        Name of the model's file.

    Returns
    -------
    dict
        What was written, ready for JSON.

    Raises
    ------
    InputError
        If an argument makes no sense, or the file cannot be written.
    """
    steps = enough_levels(score.sigma_min, score.sigma_max) if steps is None else steps
    n, steps, seed = whole(n=n), whole(2, steps=steps), whole(0, seed=seed)
    seed_key(seed)
    if steps > _MOST_LEVELS:
        raise InputError(f"steps is {steps}: it must be at most {_MOST_LEVELS:,} noise levels")
    given = (
        None if score.parameters is None else dict(zip(score.names, score.parameters.tolist(), strict=True))
    )
    settings = {
        "model": source, "weights_sha256": score.digest(), "steps": steps, "parameters": given, "n": n
    }  # fmt: skip
    found = {"states": n, "shape": list(score.shape), "file": str(output), "seed": seed, **settings}
    if score.fields:
        _write_fields(score, n, Path(output), seed, settings, resume, overwrite, progress, on_interrupt)
        return found
    if resume:
        raise InputError("resume is for fields: vectors are made at once")
    path = check_output(output, overwrite=overwrite)
    require_memory(4 * 8 * n * score.dim, f"making {n} states")
    require_space(path, 8 * n * score.dim)
    draws = score.sample(n, seed=seed, steps=steps, progress=progress)
    with whole_file(path, draws.nbytes) as fresh, h5py.File(fresh, "w", locking=False) as file:
        describe(file, "draws", seed, settings, "1")
        file["draws"] = draws
    return found


def _write_fields(
    score: Fitted,
    n: int,
    path: Path,
    seed: int,
    settings: dict[str, Any],
    resume: bool,
    overwrite: bool,
    progress: bool,
    on_interrupt: Callable[[], None],
) -> None:
    if resume and path.exists():
        with FieldFile(path) as file:
            file.require(seed=seed, settings=settings)
        return
    data = score.about.get("data", {})
    name = str(data.get("dataset", "fields/maps")).rpartition("/")[2]
    name = "maps" if name in _SCALES else name
    attributes = data.get("attributes", {})
    grid = score.grid or Grid(score.shape, tuple(map(float, score.shape)))
    writer = FieldWriter(
        path, grid, n=n, dtype=np.dtype(np.float32), seed=seed, settings=settings, overwrite=overwrite,
        resume=resume, name=name, long_name=attributes.get("quantity", "like the training data"),
        length_unit=data.get("length_unit", "length") if score.box_size else "cells",
    )  # fmt: skip
    size = max(1, _AT_ONCE // score.dim)
    done = set(writer.completed)
    bar = tqdm(total=n, initial=len(done), desc="sampling", unit="field", disable=not progress)
    with writer, interruptible(on_interrupt) as stop_if_asked, bar:
        for first in range(0, n, size):
            missing = [i for i in range(first, min(first + size, n)) if i not in done]
            if missing:
                fields = score.sample(
                    missing[-1] - missing[0] + 1, seed=seed, steps=settings["steps"], first=missing[0]
                )
                for i in missing:
                    writer.write(i, fields[i - missing[0]])
                bar.update(len(missing))
                stop_if_asked()
        writer.finish()


def plot_generated(picture: Path, path: Path) -> None:
    """Draw the first of the new fields, with their power spectrum."""
    from physscore.diagnostics.power import power_spectrum
    from physscore.plots import plot_field
    from physscore.plots.fields import DELTA

    try:
        file = FieldFile(path)
    except InputError:
        raise InputError("--plot draws fields: vectors have no picture; read /draws") from None
    with file:
        spectrum = power_spectrum(file.independent(), file.grid)
        name = str(file.delta.name).rpartition("/")[2]
        plot_field(
            picture, file.read(0), file.grid, spectrum=spectrum, length_unit=file.length_unit,
            title=f"{file.settings['model']}, seed {file.seed}, the first of {len(file.completed)}",
            quantity=DELTA if name == "delta" else name,
        )  # fmt: skip
