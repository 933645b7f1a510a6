"""``physscore paint``: particles of a catalogue on a grid, for the other commands."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from physscore.cli.options import (
    cells_along,
    files_of,
    json_option,
    numbers,
    overwrite_option,
    print_json,
    print_summary,
    threads_option,
)


@click.command(name="paint")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--positions", metavar="NAMES",
              help="Of HDF5 a dataset, as PartType1/Coordinates, or one for each axis, separated by commas; "
              "of a table its columns, by number or name. [default: 1,2,3]")  # fmt: skip
@click.option("--weights", metavar="NAME", help="Dataset or column of masses. [default: all are alike]")
@click.option(
    "--grid", "shape", metavar="CELLS", required=True, callback=numbers(int), help="256, or 256,256,128."
)
@click.option("--dim", type=click.IntRange(1, 3), help="Dimensions, if --grid is one number. [default: 3]")
@click.option("--box", "box_size", metavar="LENGTH", callback=numbers(float),
              help="Side of the periodic box, or one for each dimension. "
              "[default: as a snapshot's /Header says, times --scale]")  # fmt: skip
@click.option("--scale", type=float, default=1.0, show_default=True,
              help="What turns lengths of the file into those of the field: 0.001 for kpc/h.")  # fmt: skip
@click.option("--length-unit", default="Mpc/h", show_default=True, help="Unit of the field's box.")
@click.option("--redshift", type=float, help="[default: as a snapshot's /Header says]")
@click.option("--mass-assignment", type=click.Choice(["ngp", "cic", "tsc", "pcs"]), default="cic",
              show_default=True, help="Spread each particle over 1, 2, 3 or 4 cells a side.")  # fmt: skip
@click.option("--interlaced", is_flag=True, help="With a shifted grid, too, which takes half of the aliases.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="HDF5 file to write.")
@json_option
@overwrite_option
@threads_option
def command(
    paths: tuple[Path, ...],
    positions: str | None,
    weights: str | None,
    shape: tuple[int, ...],
    dim: int | None,
    box_size: tuple[float, ...] | None,
    scale: float,
    length_unit: str,
    redshift: float | None,
    mass_assignment: str,
    interlaced: bool,
    dtype: str,
    output: Path,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Put the particles of snapshots or catalogues on a grid: their density contrast, as HDF5.

    The files of one snapshot, HDF5, .npy or text, are read one after the other. `physscore spectrum` then
    divides the window of the mass assignment out and subtracts the shot noise, as the file says.
    """
    import numpy as np

    from physscore.core import InputError
    from physscore.diagnostics.particles import Painting
    from physscore.grid import Grid
    from physscore.store import FieldFile, Fields, save
    from physscore.store.catalogue import Catalogue, require_box
    from physscore.store.hdf5 import check_output

    check_output(output, overwrite=overwrite, inputs=files_of(*paths))
    if not 0 < scale < np.inf:
        raise InputError(f"scale is {scale:g} (--scale): it must be a positive number")
    shape = cells_along(shape, dim)
    names = None if positions is None else [name.strip() for name in positions.split(",")]
    catalogue = Catalogue(list(paths), names, weights, dim=len(shape))
    if box_size is None:
        if "BoxSize" not in catalogue.header:
            raise InputError(f"the box of {paths[0]} is not known: give its side with --box")
        box_size = tuple(scale * catalogue.header["BoxSize"])
    if redshift is None and "Redshift" in catalogue.header:
        redshift = catalogue.header["Redshift"]
    grid = Grid(shape, box_size[0] if len(box_size) == 1 else box_size)
    painting = Painting(grid, mass_assignment=mass_assignment, interlaced=interlaced, dtype=dtype)
    lowest, highest = np.full(grid.dim, np.inf), np.full(grid.dim, -np.inf)
    for some, masses in catalogue.pieces():
        x = some if scale == 1 else some * scale
        for axis in range(grid.dim):  # one after the other, as NumPy is slow along rows of three
            lowest[axis] = min(lowest[axis], x[:, axis].min())
            highest[axis] = max(highest[axis], x[:, axis].max())
        require_box(lowest, highest, grid.box_size, painting.n)
        painting.add(x, masses)
    reach = require_box(lowest, highest, grid.box_size, painting.n)
    for doubt in (*catalogue.doubts(painting.n, scale, length_unit), reach):
        if doubt:
            warnings.warn(doubt, stacklevel=1)
    contrast = painting.contrast()
    settings = {
        "command": "paint",
        "files": [str(path) for path in paths],
        "positions": names or [str(axis + 1) for axis in range(grid.dim)],
        "particles": painting.n,
        "mass_assignment": mass_assignment,
        "interlaced": interlaced,
        "shot_noise": painting.shot_noise,
    }
    save(output, Fields(contrast, grid, length_unit, redshift, settings=settings), overwrite=overwrite)
    with FieldFile(output) as fields:
        found = fields.summary()
    if as_json:
        print_json(found)
    else:
        print_summary(found)
