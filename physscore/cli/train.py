"""``physscore train``: a score learned from a file of maps or vectors."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from physscore.cli.options import (
    COUNT,
    json_option,
    overwrite_option,
    print_json,
    say_stopping,
    threads_option,
)


def _coarse(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"{value!r} must be falling factors, as in 4,2") from None


@click.command(name="train")
@click.argument("maps", type=click.Path(path_type=Path))
@click.option("--dataset", help="Path of the dataset in the file. [default: fields/delta, of our own files]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The model: x.safetensors."
)
@click.option(
    "--validation",
    help="Held-out states: a dataset of the file, or another file. [default: a tenth of vectors, as the seed "
    "says; the last tenth of maps]",
)
@click.option(
    "--model", type=click.Choice(["mlp", "unet"]), help="[default: unet for fields, mlp for vectors]"
)
@click.option("--kind", type=click.Choice(["score", "energy"]), default="score", show_default=True)
@click.option("--loss", type=click.Choice(["levels", "denoising", "sliced", "exact"]), default="levels",
              show_default=True)  # fmt: skip
@click.option("--sigma", type=float, help="Noise level of --loss denoising.")
@click.option("--analytic/--plain", "analytic", default=None,
              help="Begin with the Gaussian field's score, or not. [default: analytic]")  # fmt: skip
@click.option("--transform", type=click.Choice(["auto", "identity", "gaussianise"]), default="auto",
              show_default=True)  # fmt: skip
@click.option("--parameters", help="Dataset (n, p) of parameters that the score is conditional on.")
@click.option("--validation-parameters", help="Those of --validation.")
@click.option("--names", help="Names of the parameters, with commas.")
@click.option("--steps", type=COUNT, help="Steps of the optimiser. [default: 10000, or as --max-time allows]")
@click.option("--max-time", type=float, help="Seconds after which to end.")
@click.option("--batch", type=COUNT, default=64, show_default=True)
@click.option("--learning-rate", type=float, help="The highest. [default: as the network and the steps need]")
@click.option("--weight-decay", type=float, default=0.0, show_default=True)
@click.option("--integrability", type=float, default=0.0, show_default=True, help="Penalty on the curl.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
              help="Of the network's inside; float32 where the processor has no bfloat16.")  # fmt: skip
@click.option("--coarse", callback=_coarse, help="Factors by which fields are coarser at first, as in 4,2.")
@click.option("--augment/--no-augment", default=True,
              help="Shift fields, turn axes and exchange them at random. [default: augment]")  # fmt: skip
@click.option("--patience", type=COUNT, help="End after so many validations that are no better.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--resume", is_flag=True, help="Go on with an unfinished training; of a finished one say what came out."
)
@overwrite_option
@json_option
@threads_option
def command(
    maps: Path,
    dataset: str | None,
    output: Path,
    validation: str | None,
    model: str | None,
    names: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Learn a score from MAPS, an HDF5 file, and write it to one file that describes itself.

    The dataset holds maps (n, *cells) in 1 to 3 dimensions, without channels, or vectors (n, d).
    """
    from physscore.learning import train
    from physscore.learning.data import read

    if output.suffix != ".safetensors":
        raise click.BadParameter(f"{output} must end in .safetensors", param_hint="--output")
    if model is None:
        found = read(maps, dataset)
        model = "unet" if found.fields or len(found.shape) > 1 else "mlp"
    fit = train(
        model, maps, dataset, validation=validation, names=names.split(",") if names else None, output=output,
        progress=not as_json and sys.stderr.isatty(), on_interrupt=say_stopping, **settings,
    )  # fmt: skip
    training = fit.about["training"]
    if as_json:
        print_json(fit.summary() | {"file": str(output)})
        return
    first = next((row["loss"] for row in training["history"] if row["loss"] is not None), math.nan)
    click.echo(f"{fit!r}")
    click.echo(
        f"validation loss {training['validation_loss']:.5g}, from {first:.5g}, after {training['steps']} "
        f"steps in {training['seconds']:.0f} s ({training['ended']})"
    )
    click.echo(f"file: {output}")
