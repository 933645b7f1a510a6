"""``physscore multipoles``: how the power of fields in a file depends on the angle to a line of sight."""

from __future__ import annotations

from pathlib import Path

import click

from physscore.cli.measured import bins_option, made_of_particles, of_fields, of_particles, result_of, warn_of
from physscore.cli.options import (
    files_of,
    json_option,
    overwrite_option,
    picture_of,
    plot_option,
    print_columns,
    print_json,
    threads_option,
    title_of,
)


@click.command(name="multipoles")
@of_fields
@click.option("--line-of-sight", type=click.Choice(["x", "y", "z"]), default="z", show_default=True,
              help="The axis of the box along which they are seen.")  # fmt: skip
@bins_option
@of_particles
@click.option("-o", "--output", type=click.Path(path_type=Path), help="HDF5 file for the multipoles.")
@plot_option("k P_l(k)")
@json_option
@overwrite_option
@threads_option
def command(
    path: Path,
    dataset: str | None,
    box_size: tuple[float, ...] | None,
    contrast: bool,
    line_of_sight: str,
    bins: str,
    shot_noise: float | None,
    mass_assignment: list[str | None] | None,
    output: Path | None,
    plot: bool,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Measure the multipoles P_0, P_2 and P_4 of the power spectrum, as of fields in redshift space.

    They are means over the modes of a bin, which are few where k is small. In Python ps.load(output) has the
    methods expected, for the multipoles of a model on the same modes, and covariance.
    """
    from physscore import plots
    from physscore.diagnostics.multipoles import power_multipoles
    from physscore.store import FieldFile, save
    from physscore.store.hdf5 import check_output

    if plot:
        plots.require_matplotlib()
    if output is not None:
        check_output(output, overwrite=overwrite, inputs=files_of(path))
    with FieldFile(path, dataset=dataset, box_size=box_size, contrast=contrast) as fields:
        warn_of(fields)
        found = power_multipoles(
            fields.independent(),
            fields.grid,
            line_of_sight=line_of_sight,
            bins=bins,
            **made_of_particles([fields], mass_assignment, shot_noise),
            progress=True,
        )
        result = {
            **result_of(fields, found),
            "line_of_sight": line_of_sight,
            "orders": list(found.orders),
        }
        if output is not None:
            save(output, found, overwrite=overwrite, length_unit=fields.length_unit)
            result["output"] = str(output)
        if plot:
            picture = picture_of(output or path.with_name(f"{path.stem}-multipoles"))
            result["picture"] = str(picture)
            plots.plot_multipoles(picture, found, length_unit=fields.length_unit, title=title_of(fields))
    if as_json:
        print_json(result)
        return
    mean, error = found.power.mean(axis=0), found.mean_error()
    units = result["units"]
    columns = {f"k [{units['k']}]": found.k}
    for i, order in enumerate(found.orders):
        columns |= {f"P{order} [{units['power']}]": mean[i], f"error of P{order}": error[i]}
    print_columns(result, found.independent, columns, found.n_modes)
