"""``physscore spectrum``: the power spectrum of fields in a file, and its comparison with a model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from physscore.cli.measured import (
    bins_option,
    made_of_particles,
    of_fields,
    of_particles,
    result_of,
    warn_of,
)
from physscore.cli.options import (
    files_of,
    json_option,
    overwrite_option,
    picture_of,
    plot_option,
    print_columns,
    print_json,
    print_verdict,
    redshift_option,
    threads_option,
    title_of,
)


@click.command(name="spectrum")
@of_fields
@click.option(
    "--compare", "model_text", help="Model: planck2018, eh98, powerlaw:..., or a file, as in physscore field."
)
@redshift_option
@click.option(
    "--cross", type=click.Path(path_type=Path), help="A second file of ours: measure the cross spectrum."
)
@bins_option
@of_particles
@click.option("--memory", metavar="SIZE",
              help="Measure in pieces of no more than this, as in 512MB. [default: all of it]")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), help="HDF5 file for the spectrum.")
@plot_option("P(k)")
@json_option
@overwrite_option
@threads_option
@click.pass_context
def command(
    ctx: click.Context,
    path: Path,
    dataset: str | None,
    box_size: tuple[float, ...] | None,
    contrast: bool,
    model_text: str | None,
    redshift: float | None,
    cross: Path | None,
    bins: str,
    shot_noise: float | None,
    mass_assignment: list[str | None] | None,
    memory: str | None,
    output: Path | None,
    plot: bool,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Measure the power spectrum of fields and compare it with a model.

    Of pairs of opposite phase the first ones are measured, of a run of fields the last draw of each chain,
    since the others are not independent of these. With --compare the exit code is 1 if they do not agree. The
    errors are those of Gaussian modes; fields whose file says that they are lognormal are compared through
    their logarithm, for which they hold.
    """
    from physscore import plots, spectra
    from physscore.core import InputError
    from physscore.diagnostics.comparison import check_field
    from physscore.diagnostics.many_fields import FieldSequence
    from physscore.diagnostics.power import power_spectrum
    from physscore.energies.lognormal import ImpossibleSpectrumError, LognormalField
    from physscore.processes import world
    from physscore.spectra.model import require_dimension
    from physscore.store import FieldFile, save
    from physscore.store.by_processes import processes_share
    from physscore.store.hdf5 import check_output, require_units
    from physscore.store.out_of_core import bytes_of, in_planes

    if plot:
        plots.require_matplotlib()
    if output is not None:
        check_output(output, overwrite=overwrite, inputs=files_of(path, cross, model_text))
    if cross is not None and model_text is not None:
        raise InputError("--compare and --cross exclude each other: a model is of an auto spectrum")
    if cross is not None and shot_noise:
        raise InputError("--shot-noise and --cross exclude each other: a cross spectrum has no shot noise")
    if redshift is not None and model_text is None:
        raise InputError("--redshift is that of a model: give one by --compare")
    with FieldFile(path, dataset=dataset, box_size=box_size, contrast=contrast) as fields:
        if model_text is not None and fields.settings.get("cells"):
            raise InputError(f"--compare is for whole fields: {path} holds some cells of one, which have no "
                             "periodic spectrum")  # fmt: skip
        if model_text is not None and fields.settings.get("lognormal") and (shot_noise or mass_assignment):
            raise InputError(f"--compare is of the logarithm of the lognormal fields in {path}, which has no "
                             "--shot-noise and no --mass-assignment")  # fmt: skip
        warn_of(fields)
        comm = world()
        if sum([comm is not None, memory is not None, cross is not None]) > 1:
            raise InputError("mpiexec, --memory and --cross exclude each other")
        grid, chosen = fields.grid, fields.independent()
        model, comparison, check, met, impossible = None, None, None, True, None
        if model_text is not None:
            model = spectra.parse(model_text, redshift=redshift, default_redshift=fields.redshift)
            require_units(f"--compare {model_text}", model, fields.length_unit)
            require_dimension(f"--compare {model_text}", model, grid.dim)
        with ExitStack() as opened:
            partner = opened.enter_context(FieldFile(cross)) if cross else None
            if comm is not None:
                chosen = replace(chosen, get=processes_share(fields, comm))
            elif memory is not None:
                lognormal = model is not None and bool(fields.settings.get("lognormal"))
                get = opened.enter_context(in_planes(fields, bytes_of(memory), lognormal=lognormal))
                chosen = replace(chosen, get=get)
            if partner is not None and partner.length_unit != fields.length_unit:
                raise InputError(
                    f"--cross {cross} is in {partner.length_unit}, and {path} in {fields.length_unit}"
                )
            if partner is not None and (partner.grid, partner.completed) != (grid, fields.completed):
                raise InputError(f"--cross {cross} has other cells, another box or other fields than {path}")
            measured = power_spectrum(
                chosen,
                grid,
                None if partner is None else FieldSequence(partner.read, chosen.indices, chosen.ndim),
                bins=bins,
                **made_of_particles([fields, *([partner] if partner else [])], mass_assignment, shot_noise),
                progress=comm is None or comm.rank == 0,
            )
            if model is not None:
                comparison = check = measured.compare(model)
                if fields.settings.get("lognormal"):
                    try:
                        prior = LognormalField(grid, model)
                    except ImpossibleSpectrumError as error:
                        impossible = str(error).partition(":")[0]
                    else:
                        check, met = check_field(chosen, prior, bins=bins), prior.unmet() is None
        if comm is not None and comm.rank:
            return  # the first process tells
        result = result_of(fields, measured)
        if measured.correlation is not None:
            result["correlation"] = measured.correlation.tolist()
        if impossible is not None:
            result["check"] = {"model": model_text, "passed": False, "reason": impossible}
        elif check is not None:
            result["check"] = {
                "model": model_text,
                **check.as_dict(),
                "k": check.k.tolist(),
                "pulls": check.pulls.tolist(),
            }
        if output is not None:
            save(output, measured, overwrite=overwrite, length_unit=fields.length_unit)
            result["output"] = str(output)
        if plot:
            picture = picture_of(output or path.with_name(f"{path.stem}-spectrum"))
            result["picture"] = str(picture)
            plots.plot_spectrum(
                picture,
                grid,
                measured,
                comparison,
                check,
                length_unit=fields.length_unit,
                title=title_of(fields)
                if cross is None
                else f"{path.name} with {cross.name}: {title_of(fields)}",
                model_name=model_text or "",
            )
    if as_json:
        print_json(result)
    else:
        columns = {f"k [{result['units']['k']}]": measured.k}
        columns |= {
            f"P [{result['units']['power']}]": measured.power.mean(axis=0),
            "error": measured.mean_error(),
        }
        if measured.correlation is not None:
            columns["r"] = measured.correlation.mean(axis=0)
        print_columns(result, measured.independent, columns, measured.n_modes)
        if impossible is not None:
            click.echo(f"P(k) against {model_text}: FAILED: {impossible}")
        elif check is not None:
            print_verdict(model_text or "", check is not comparison, check, met=met)
    ctx.exit(1 if impossible is not None or (check is not None and not check.passed) else 0)
