"""``physscore field``: density fields from a power spectrum, into a checked HDF5 file."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from physscore.cli.options import (
    cells_along,
    device_option,
    files_of,
    json_option,
    numbers,
    overwrite_option,
    picture_of,
    plot_option,
    print_json,
    print_summary,
    print_verdict,
    redshift_option,
    say_stopping,
    threads_option,
    title_of,
)


def _ranges(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[tuple[int, int], ...] | None:
    if value is None:
        return None
    try:
        pairs = [part.split(":") for part in value.split(",")]
        found = tuple((int(start), int(stop)) for start, stop in pairs)
    except ValueError:
        found = ()
    if not found or any(start < 0 or stop <= start for start, stop in found):
        raise click.BadParameter(f"{value!r} must be a range for each side, as in 0:64,0:64,128:192")
    return found


@click.command(name="field")
@click.option(
    "--grid", "shape", metavar="CELLS", required=True, callback=numbers(int), help="256, or 256,256,128."
)
@click.option("--dim", type=click.IntRange(1, 3), help="Dimensions, if --grid is one number. [default: 3]")
@click.option(
    "--box",
    "box_size",
    metavar="LENGTH",
    required=True,
    callback=numbers(float),
    help="Side of the box, in Mpc/h: 1000, or one for each dimension.",
)
@click.option(
    "--spectrum",
    "spectrum_text",
    metavar="MODEL",
    default="planck2018",
    show_default=True,
    help="planck2018, eh98 or camb, of 3 dimensions; powerlaw:index=-2,amplitude=1; or a file: a table of k "
    "[h/Mpc] and P [(Mpc/h)^dim], or an HDF5 file of ours with a spectrum. Behind a file, separated by "
    "commas: :extrapolate=zero or 'power law' where it does not cover the box; :units=1/Mpc,h=0.6766 where "
    "it has no h; :column=3 for P in another column than the second.",
)
@redshift_option
@click.option("--seed", type=int, default=0, show_default=True, help="The universe, 0 to 2^64 - 1.")
@click.option(
    "-n", "count", type=click.IntRange(min=1), help="Number of fields; adds a dimension (realization)."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="HDF5 file to write.")
@click.option(
    "--lognormal", is_flag=True, help="Lognormal density with this spectrum, instead of a Gaussian one."
)
@click.option("--fixed", is_flag=True, help="Fix the modulus of every mode to sqrt(P V).")
@click.option("--paired", is_flag=True, help="Fields in pairs of opposite phase (needs an even -n).")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@device_option
@click.option("--out-of-core", is_flag=True,
              help="Make fields in pieces, through the disk: for what memory does not hold.")  # fmt: skip
@click.option("--memory", metavar="SIZE",
              help="Memory for --out-of-core or --cells, such as 512MB. [default: 1GB]")  # fmt: skip
@click.option("--cells", callback=_ranges, metavar="RANGES",
              help="Only these cells of a field, 0:64,0:64,128:192, without the rest.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what memory, disk and time the job will need, and end.")
@click.option("--processes", type=click.IntRange(min=1),
              help="For --dry-run: how many mpiexec will start.")  # fmt: skip
@plot_option("the first field and its P(k)")
@json_option
@overwrite_option
@click.option(
    "--resume", is_flag=True, help="Go on with an interrupted job, or print the result of a finished one."
)
@threads_option
@click.pass_context
def command(
    ctx: click.Context,
    shape: tuple[int, ...],
    dim: int | None,
    box_size: tuple[float, ...],
    spectrum_text: str,
    redshift: float | None,
    seed: int,
    count: int | None,
    output: Path,
    lognormal: bool,
    fixed: bool,
    paired: bool,
    dtype: str,
    device: str,
    out_of_core: bool,
    memory: str | None,
    cells: tuple[tuple[int, int], ...] | None,
    dry_run: bool,
    processes: int | None,
    plot: bool,
    as_json: bool,
    overwrite: bool,
    resume: bool,
) -> None:
    """Generate density fields, write them to HDF5 and check their power spectrum.

    Every field is compared with the spectrum it was drawn from; the exit code is 1 if that check fails.
    Some cells of a field have no such spectrum, and are not compared.
    """
    import numpy as np
    from tqdm import tqdm

    from physscore import plots, spectra
    from physscore.arrays import checked_device, to_host
    from physscore.core import InputError
    from physscore.cost import cost_of_fields
    from physscore.diagnostics.bins import power_bins
    from physscore.diagnostics.comparison import Comparison, check_field
    from physscore.diagnostics.power import PowerSpectrum, power_spectrum
    from physscore.diagnostics.set_comparison import number
    from physscore.distributed import SlabDecomposition
    from physscore.energies.lognormal import LognormalField
    from physscore.energies.random_field import GaussianRandomField, require_memory_for
    from physscore.grid import Grid
    from physscore.interrupt import interruptible
    from physscore.noise import MAX_DRAWS, seed_key
    from physscore.processes import ending_together, on_root, world
    from physscore.slabs import Slabs
    from physscore.spectra.model import require_dimension
    from physscore.store import FieldFile, Fields, FieldWriter, by_processes
    from physscore.store.hdf5 import check_output, require_units
    from physscore.store.out_of_core import bytes_of, in_planes, tables_of, write_field

    shape = cells_along(shape, dim)
    if paired and (count is None or count % 2):
        raise InputError(f"-n is {count}: --paired needs an even number of fields")
    most = MAX_DRAWS * (2 if paired else 1)
    if (count or 1) > most:
        raise InputError(f"-n is {count}: one seed has {most} fields; make the others with another")
    seed_key(seed)
    if memory is not None and not (out_of_core or cells):
        raise InputError(f"--memory is {memory}: it is for --out-of-core or --cells")
    if processes and not dry_run:
        raise InputError(f"--processes is {processes}: it is for --dry-run; start a job's own with mpiexec")
    if plot:
        plots.require_matplotlib()
    grid = Grid(shape, box_size)
    precision = np.dtype(dtype)
    working = bytes_of("1GB" if memory is None else memory)
    comm = world()
    asked = {"mpiexec" if device == "cpu" else "--device gpu": comm is not None or device == "gpu",
             "--out-of-core": out_of_core, "--cells": bool(cells)}  # fmt: skip
    ways = [name for name in asked if asked[name]]
    if len(ways) > 1 or (cells and plot):
        raise InputError(
            f"{' and '.join(ways if len(ways) > 1 else ['--cells', '--plot'])} exclude each other"
        )
    sides = [stop - start for start, stop in cells or ()]
    if cells and (len(sides) != grid.dim or any(n > m for n, m in zip(sides, grid.shape, strict=True))):
        raise InputError(f"--cells is {cells}: it must be {grid.dim} ranges inside {grid.shape} cells")
    spectrum = spectra.parse(spectrum_text, redshift=redshift)
    require_units(f"--spectrum {spectrum_text}", spectrum, Fields.length_unit)
    require_dimension(f"--spectrum {spectrum_text}", spectrum, grid.dim)
    if dry_run:
        if device == "gpu" or comm is not None:
            raise InputError(f"--dry-run is for fields on the CPU, by one process: it is given {ways[0]}")
        if cells and processes:
            raise InputError("--cells and --processes exclude each other: one process makes the cells")
        cost = cost_of_fields(
            grid, n=count or 1, dtype=precision, lognormal=lognormal, processes=processes or 1,
            memory=working if out_of_core or cells else None, cells=sides or None, folder=output.parent,
        )  # fmt: skip
        print_json(cost.as_dict()) if as_json else click.echo(str(cost))
        return
    if not ways or device == "gpu":
        require_memory_for(grid, 1, precision, checked_device(device))
    if out_of_core:
        Slabs(grid, precision, working, tables_of(grid, lognormal))
    # Processes share each field; those with cards have each fields of its own.
    cut = None if comm is None or device == "gpu" else SlabDecomposition(grid, comm, dtype=precision)
    table = files_of(spectrum_text)
    on_root(comm, lambda: check_output(output, overwrite=overwrite, resume=resume, inputs=table))
    settings = {
        "command": "field",
        **grid.settings(),
        "spectrum": spectrum.settings(),
        "dtype": dtype,
        "lognormal": lognormal,
        "fixed": fixed,
        "paired": paired,
        "n": count,
    }
    kept, origin = grid, None
    if cells:
        settings["cells"] = [list(part) for part in cells]
        origin = [start * cell for (start, _), cell in zip(cells, grid.cell_size, strict=True)]
        kept = Grid(sides, [n * cell for n, cell in zip(sides, grid.cell_size, strict=True)])
    finished = on_root(comm, lambda: resume and output.exists())
    unmet = None
    if lognormal or not finished:
        prior = (LognormalField if lognormal else GaussianRandomField)(grid, spectrum)
        unmet = prior.unmet() if isinstance(prior, LognormalField) else None
    writer: FieldWriter | None = None

    def begin() -> list[int]:
        nonlocal writer
        writer = FieldWriter(
            output,
            kept,
            n=count,
            dtype=precision,
            bins=None if cells else power_bins(grid),
            origin=origin,
            redshift=spectrum.redshift,
            seed=seed,
            settings=settings,
            cosmology=spectrum.settings(),
            overwrite=overwrite,
            resume=resume,
        )
        return sorted(set(range(count or 1)) - set(writer.completed))

    if not finished:
        kind: dict[str, Any] = {"seed": seed, "fixed": fixed, "paired": paired}
        missing = on_root(comm, begin)
        at_once = 1 if comm is None or cut is not None else comm.size

        def make(i: int) -> tuple[Any, PowerSpectrum, Comparison]:
            delta = prior.sample(1, dtype=precision, first=i, device=device, **kind)[0]
            measured = power_spectrum(delta, grid)
            check = check_field(delta, prior) if lognormal else measured.compare(spectrum)
            return to_host(delta), measured, check

        def write_one(writer: FieldWriter, i: int) -> None:
            if out_of_core:
                write_field(writer, prior, i, memory=working, after_each=stop_if_asked, **kind)
            elif cells:
                corner, part = [a for a, _ in cells], {"dtype": precision, "memory": working, **kind}
                writer.write(i, prior.sample_box(corner, kept.shape, first=i, **part))
            else:
                writer.write(i, *make(i))

        with (
            interruptible(say_stopping) as stop_if_asked,
            ending_together(comm),
            writer or nullcontext(),
            tqdm(total=len(missing), desc="fields", unit="field", disable=None if writer else True) as bar,
        ):
            for first in range(0, len(missing), at_once):
                on_root(comm, stop_if_asked)
                i, numbers = missing[first], missing[first : first + at_once]
                if cut is not None:
                    by_processes.write_field(writer, cut, prior, i, **kind)
                elif comm is not None:
                    by_processes.write_own_fields(writer, comm, grid, precision, numbers, make)
                else:
                    assert writer is not None
                    write_one(writer, i)
                bar.update(len(numbers))
            if writer is not None:
                writer.finish()
    if comm is not None and comm.rank:
        return  # the first process tells
    with FieldFile(output) as fields:
        fields.require(seed=seed, settings=settings)
        verdict = fields.verdict()
        result = {**fields.summary(), "check": None if verdict is None else verdict.as_dict()}
        if lognormal:
            result["unmet"] = unmet and {name: number(value) for name, value in unmet.items()}
        if plot:
            result["picture"] = str(picture_of(output))
            pieces = out_of_core or comm is not None
            with (
                in_planes(fields, working, lognormal=lognormal) if pieces else nullcontext(fields.read) as get
            ):
                delta = get(0)
                measured = power_spectrum(delta, grid, bins="linear" if grid.dim == 3 else "log")
                shown = check_field(delta, prior) if lognormal else None
            plots.plot_field(
                picture_of(output),
                fields.view(0),
                grid,
                spectrum=measured,
                comparison=measured.compare(spectrum),
                check=shown,
                title=title_of(fields),
                model_name=spectrum_text,
            )
    if as_json:
        print_json(result)
    else:
        print_summary(result)
        if verdict is not None:
            print_verdict(spectrum_text, lognormal, verdict, met=unmet is None)
        if plot:
            click.echo(f"picture: {result['picture']}")
    ctx.exit(0 if verdict is None or verdict.passed else 1)
