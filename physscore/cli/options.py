"""What the commands share: how grids and boxes are written, common options, and printing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

KERNELS = {
    "ula": "ULA", "mala": "MALA", "automala": "AutoMALA", "underdamped": "Underdamped", "hmc": "HMC",
    "crank-nicolson": "CrankNicolson",
}  # fmt: skip

if TYPE_CHECKING:
    from physscore.diagnostics.comparison import Verdict
    from physscore.store import FieldFile


class _Count(click.types.IntParamType):
    """A whole number of things that are made or done: not beyond what any memory or life holds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if abs(found) > _MOST:
            self.fail(f"{found} is beyond {_MOST:,}", param, ctx)
        return found


_MOST = 10**12
COUNT = _Count()


def numbers(kind: type[int] | type[float]) -> Callable[..., tuple[Any, ...] | None]:
    """Return what turns "256" or "256,256,128" into a tuple of one to three numbers."""

    def convert(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[Any, ...] | None:
        if value is None:
            return None
        try:
            found = tuple(kind(part) for part in value.split(","))
        except ValueError:
            found = ()
        if not 1 <= len(found) <= 3:
            what = "whole numbers" if kind is int else "numbers"
            raise click.BadParameter(f"{value!r} must be one to three {what}, separated by commas")
        return found

    return convert


def _parameters(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    from physscore.models import parse_value

    found = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} must be name=value, as in coupling=0.44")
        found[name.replace("-", "_")] = parse_value(text)
    return found


def _threads(ctx: click.Context, param: click.Parameter, value: int | None) -> None:
    if value is not None:
        from physscore.arrays import threads

        ctx.with_resource(threads(value))


def say_stopping() -> None:
    """Say that the first Ctrl-C was heard."""
    click.echo("\nstopping after this piece; Ctrl-C again to stop now", err=True)


parameters_option = click.option(
    "-p", "parameters", multiple=True, callback=_parameters, metavar="NAME=VALUE",
    help="A parameter of the model; may be given several times.",
)  # fmt: skip
threads_option = click.option(
    "--threads",
    type=int,
    callback=_threads,
    expose_value=False,
    help="Number of threads. [default: PHYSSCORE_THREADS, else all processors]",
)
device_option = click.option(
    "--device", type=click.Choice(["cpu", "gpu"]), default="cpu", show_default=True, help="Where it is made."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an existing output.")
redshift_option = click.option(
    "--redshift", type=float, help="Redshift of the spectrum. [default: that of fields in a file, else 0]"
)


def plot_option(what: str) -> Callable[..., Any]:
    """Return the option --plot, for a picture of ``what``."""
    return click.option("--plot", is_flag=True, help=f"Draw {what} into a PNG beside the file.")


def picture_of(path: Path) -> Path:
    """Return the name of the picture of a file."""
    picture = path.with_suffix(".png")
    return picture if picture != path else path.with_suffix(".plot.png")


def cells_along(shape: tuple[int, ...], dim: int | None) -> tuple[int, ...]:
    """Return the cells along each axis as --grid and --dim say."""
    if dim is not None and len(shape) not in (1, dim):
        from physscore.core import InputError

        raise InputError(f"--grid has {len(shape)} sides and --dim is {dim}: give one of the two")
    return shape * (dim or 3) if len(shape) == 1 else shape


def files_of(*names: str | Path | None) -> list[Path]:
    """Return what may be the files of names such as maps.h5, my_model.py:name, table.txt:extrapolate=zero."""
    known = [str(name) for name in names if name]
    return [Path(part) for name in known for part in (name, name.rpartition(":")[0]) if part]


def as_text(values: Sequence[float]) -> str:
    """Return sides as text: 256 x 256 x 128, or one number where all are alike."""
    distinct = values[:1] if len(set(values)) == 1 else values
    return " x ".join(f"{value:g}" for value in distinct)


def title_of(fields: FieldFile) -> str:
    """Return what fields are, in one line."""
    redshift = "" if fields.redshift is None else f" at z = {fields.redshift:g}"
    seed = "" if fields.seed is None else f", seed {fields.seed}"
    painted = f"{fields.settings['particles']} particles" if fields.settings.get("particles") else "field"
    spectrum = fields.settings.get("spectrum", {}).get("name", painted)
    kind = "lognormal field, " if fields.settings.get("lognormal") else ""
    cells = " x ".join(map(str, fields.grid.shape))
    box = f"{as_text(fields.grid.box_size)} {fields.length_unit}"
    return f"{kind}{spectrum}{redshift}, {cells} cells, box {box}{seed}"


def print_summary(summary: dict[str, Any]) -> None:
    """Print what a file of fields holds."""
    fields = "1 field" if summary["fields"] == 1 else f"{summary['fields']} fields"
    if summary["completed"] < summary["fields"]:
        fields += f" ({summary['completed']} of them finished)"
    cells = " x ".join(map(str, summary["shape"]))
    click.echo(f"{summary['file']}: {fields} of {cells} cells ({summary['dtype']}), "
               f"box {as_text(summary['box_size'])} {summary['length_unit']}")  # fmt: skip
    for name in ("redshift", "seed"):
        if summary[name] is not None:
            click.echo(f"{name}: {summary[name]:g}" if name == "redshift" else f"{name}: {summary[name]}")
    spectrum = summary["settings"].get("spectrum")
    if spectrum:
        parameters = ", ".join(f"{key} = {value}" for key, value in spectrum.items() if key != "name")
        click.echo(f"spectrum: {spectrum.get('name')}" + (f" ({parameters})" if parameters else ""))
    if cells_of := summary["settings"].get("cells"):
        ranges = ",".join(f"{start}:{stop}" for start, stop in cells_of)
        click.echo(f"cells: {ranges} of a larger field, so without its periodic boundaries")
    if summary["settings"].get("command") == "paint":
        about = summary["settings"]
        how = about["mass_assignment"] + (", interlaced" if about["interlaced"] else "")
        click.echo(f"particles: {about['particles']}, by {how}, shot noise {about['shot_noise']:.6g}")
    kinds = [kind for kind in ("lognormal", "fixed", "paired") if summary["settings"].get(kind)]
    if kinds:
        click.echo(f"kind: {', '.join(kinds)}")


def print_verdict(model: str, lognormal: bool, verdict: Verdict, *, met: bool = True) -> None:
    """Print how P(k) compared with a model, which a lognormal field may not be able to meet."""
    what = f"P(k) against {model}"
    if lognormal:
        aim = f"gives {model}" if met else f"comes nearest to {model}"
        what = f"P(k) of ln(1 + delta), against what {aim}"
    click.echo(f"{what}: {verdict}")


def print_json(result: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Print a result, or several, as JSON."""
    click.echo(json.dumps(result, indent=2))


def print_columns(
    result: dict[str, Any], independent: int, columns: dict[str, Any], n_modes: Iterable[int]
) -> None:
    """Print what was measured in bins of k, the mean over the fields, as a table, and what was written."""
    cells = " x ".join(map(str, result["shape"]))
    click.echo(f"# {result['file']}: mean of {independent} independent field(s) of {cells} cells")
    click.echo("# " + "  ".join(f"{name:>16}" for name in [*columns, "modes"]))
    for *row, modes in zip(*columns.values(), n_modes, strict=True):
        click.echo("  " + "  ".join(f"{value:16.8g}" for value in row) + f"  {modes:16d}")
    for name in ("output", "picture"):
        if name in result:
            click.echo(f"# {name}: {result[name]}")
