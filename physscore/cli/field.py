"""``physscore field``: density fields from a power spectrum, into a checked HDF5 file."""

from __future__ import annotations

from pathlib import Path

import click

from physscore.cli.options import (
    device_option,
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
    help="planck2018, eh98, camb, powerlaw:index=-2,amplitude=1, or a file: a table of k [h/Mpc] and "
    "P [(Mpc/h)^3], or an HDF5 file of ours with a spectrum.",
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
    plot: bool,
    as_json: bool,
    overwrite: bool,
    resume: bool,
) -> None:
    """Generate density fields, write them to HDF5 and check their power spectrum.

    Every field is compared with the spectrum it was drawn from; the exit code is 1 if that check fails.
    """
    import numpy as np
    from tqdm import tqdm

    from physscore import plots, spectra
    from physscore.arrays import checked_device, to_host
    from physscore.core import InputError
    from physscore.diagnostics.comparison import check_field
    from physscore.diagnostics.power import power_bins, power_spectrum
    from physscore.energies.lognormal import LognormalField
    from physscore.energies.random_field import GaussianRandomField, require_memory_for
    from physscore.grid import Grid
    from physscore.interrupt import interruptible
    from physscore.noise import seed_key
    from physscore.store import FieldFile, FieldWriter
    from physscore.store.hdf5 import check_output

    if dim is not None and len(shape) not in (1, dim):
        raise InputError(f"--grid has {len(shape)} sides and --dim is {dim}: give one of the two")
    if paired and (count is None or count % 2):
        raise InputError(f"-n is {count}: --paired needs an even number of fields")
    seed_key(seed)
    if plot:
        plots.require_matplotlib()
    grid = Grid(shape * (dim or 3) if len(shape) == 1 else shape, box_size)
    precision = np.dtype(dtype)
    require_memory_for(grid, 1, precision, checked_device(device))
    check_output(output, overwrite=overwrite, resume=resume)
    spectrum = spectra.parse(spectrum_text, redshift=redshift)
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
    finished = resume and output.exists()
    unmet = None
    if lognormal or not finished:
        prior = (LognormalField if lognormal else GaussianRandomField)(grid, spectrum)
        unmet = prior.unmet() if isinstance(prior, LognormalField) else None
    if not finished:
        writer = FieldWriter(
            output,
            grid,
            n=count,
            dtype=precision,
            bins=power_bins(grid),
            redshift=spectrum.redshift,
            seed=seed,
            settings=settings,
            cosmology=spectrum.settings(),
            overwrite=overwrite,
            resume=resume,
        )
        with interruptible(say_stopping) as stop_if_asked, writer:
            missing = sorted(set(range(count or 1)) - set(writer.completed))
            for i in tqdm(missing, desc="fields", unit="field", disable=None):
                stop_if_asked()
                delta = prior.sample(
                    1, seed=seed, dtype=precision, fixed=fixed, paired=paired, first=i, device=device
                )[0]
                measured = power_spectrum(delta, grid)
                check = check_field(delta, prior) if lognormal else measured.compare(spectrum)
                writer.write(i, to_host(delta), measured, check)
            writer.finish()
    with FieldFile(output) as fields:
        fields.require(seed=seed, settings=settings)
        verdict = fields.verdict()
        assert verdict is not None
        result = {**fields.summary(), "check": verdict.as_dict()}
        if lognormal:
            result["unmet"] = unmet
        if plot:
            result["picture"] = str(picture_of(output))
            delta = fields.read(0)
            measured = power_spectrum(delta, grid, bins="linear" if grid.dim == 3 else "log")
            plots.plot_field(
                picture_of(output),
                delta,
                grid,
                spectrum=measured,
                comparison=measured.compare(spectrum),
                check=check_field(delta, prior) if lognormal else None,
                title=title_of(fields),
                model_name=spectrum_text,
            )
    if as_json:
        print_json(result)
    else:
        print_summary(result)
        print_verdict(spectrum_text, lognormal, verdict, met=unmet is None)
        if plot:
            click.echo(f"picture: {result['picture']}")
    ctx.exit(0 if verdict.passed else 1)
