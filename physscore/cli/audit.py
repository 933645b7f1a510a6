"""``physscore audit``: generated fields against a reference set, or a learned score on its own."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from click.core import ParameterSource

from physscore.cli.options import (
    COUNT,
    json_option,
    numbers,
    picture_of,
    plot_option,
    print_json,
    threads_option,
)

if TYPE_CHECKING:
    from physscore.core import Array
    from physscore.store import FieldFile

_MAPS_DRAWN = 4
_FEW = 4  # units, of which one may well have half of the variance


@click.command(name="audit")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), help="File of what they should be like.")
@click.option("--dataset", help="Path of the fields in a reference that is not ours, as in test/maps.")
@click.option("--generated-dataset", help="Path of the fields in PATH, if it is not a file of ours.")
@click.option(
    "--box",
    "box_size",
    metavar="LENGTH",
    callback=numbers(float),
    help="Side of their box, or one for each dimension. [default: the attribute BoxSize of the file]",
)
@click.option("--groups", help="Dataset of the reference with a label for each map, such as the number of "
              "its simulation: maps with the same label are not independent.")  # fmt: skip
@click.option("--generated-groups", help="The same for PATH.")
@click.option("--paired", is_flag=True, help="Map i of PATH belongs to map i of the reference.")
@click.option("--tolerance", type=float, default=0.0, show_default=True,
              help="Accept an rms deviation up to this, however significant it is.")  # fmt: skip
@click.option("--states", type=COUNT, default=256, show_default=True,
              help="Maps of the reference at which a score is looked at.")  # fmt: skip
@click.option("--evaluations", type=COUNT, default=500, show_default=True,
              help="About how often a score is evaluated for each part of its audit.")  # fmt: skip
@click.option("--step-size", type=float, help="Of the Langevin steps that a score is meant for.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the audit of a score.")
@plot_option("the audit")
@json_option
@threads_option
@click.pass_context
def command(
    ctx: click.Context,
    path: Path,
    reference: Path | None,
    dataset: str | None,
    generated_dataset: str | None,
    box_size: tuple[float, ...] | None,
    groups: str | None,
    generated_groups: str | None,
    paired: bool,
    tolerance: float,
    states: int,
    evaluations: int,
    step_size: float | None,
    seed: int,
    plot: bool,
    as_json: bool,
) -> None:
    """Say whether the fields in PATH are like those of a reference set, or whether a score can be trusted.

    PATH is an HDF5 file of fields, or of a run of fields, of which the last draw of each chain is taken; or a
    score that ends in .safetensors, which is looked at where the maps of the reference are. Exit code 1 if it
    fails.
    """
    from physscore import plots
    from physscore.core import InputError

    if reference is None:
        raise InputError("--reference is missing: name the file of the maps that PATH is compared with")
    if plot:
        plots.require_matplotlib()
    picture = picture_of(path.with_name(f"{path.stem}-audit")) if plot else None
    audit: Any
    with ExitStack() as stack:
        if path.suffix == ".safetensors":
            fields_only = {"--generated-dataset": generated_dataset, "--groups": groups, "--paired": paired,
                           "--generated-groups": generated_groups, "--tolerance": tolerance}  # fmt: skip
            for name, value in fields_only.items():
                if value:
                    raise InputError(f"{name} is for files of fields: {path} is a score")
            maps = stack.enter_context(_open(reference, dataset, box_size, "--dataset", boxed=False))
            audit = _audit_score(
                path, maps, states, evaluations, step_size, seed, picture, progress=not as_json
            )
        else:
            if step_size is not None:
                raise InputError(f"--step-size is for scores: {path} is taken for a file of fields")
            for name in ("states", "evaluations", "seed"):
                if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
                    raise InputError(f"--{name} is for scores: {path} is taken for a file of fields")
            truth = stack.enter_context(_open(reference, dataset, box_size, "--dataset"))
            generated = stack.enter_context(_open(path, generated_dataset, box_size, "--generated-dataset"))
            if generated.grid != truth.grid:
                raise InputError(f"file {path} has the grid {generated.grid} and {reference} {truth.grid}: "
                                 "they must have the same cells and box")  # fmt: skip
            units = [_length_unit(file) for file in (generated, truth)]
            if len({*units} - {"length"}) > 1:
                raise InputError(f"file {path} has its box in {units[0]} and {reference} in {units[1]}: "
                                 "they must have the same unit")  # fmt: skip
            audit = _audit_fields(
                generated, truth, [generated_groups, groups], paired, tolerance, picture, progress=not as_json
            )
    result = {"file": str(path), "reference": str(reference), **audit.as_dict()}
    if picture is not None:
        result["picture"] = str(picture)
    if as_json:
        print_json(result)
    else:
        click.echo(str(audit))
        if picture is not None:
            click.echo(f"picture: {picture}")
    ctx.exit(0 if audit.passed else 1)


def _audit_fields(
    generated: FieldFile,
    reference: FieldFile,
    groups: list[str | None],
    paired: bool,
    tolerance: float,
    picture: Path | None,
    *,
    progress: bool,
) -> Any:
    from physscore.diagnostics.field_audit import compare_fields
    from physscore.diagnostics.set_comparison import MOST
    from physscore.plots.audit import plot_field_audit

    sets = [generated.independent(), reference.independent()]
    labels = [
        None if name is None else _labels(file, name, list(chosen.indices))
        for file, name, chosen in zip((generated, reference), groups, sets, strict=True)
    ]
    audit = compare_fields(
        sets[0], sets[1], reference.grid, generated_groups=labels[0], groups=labels[1], paired=paired,
        tolerance=tolerance, progress=progress,
    )  # fmt: skip
    for file, name, chosen in zip((generated, reference), groups, sets, strict=True):
        if name is None and (found := _possible_groups(file, len(chosen))):
            audit.notes.append(f"{found} in {file.path.name} labels the maps: if those of one label are not "
                               "independent, name it as groups, or sets that agree will fail")  # fmt: skip
    shares = audit["variance"].concentration
    for file, share, units in zip((generated, reference), shares, audit.units, strict=True):
        if share > MOST and units >= _FEW:
            audit.notes.append(f"one unit has {share:.0%} of the variance of {file.path.name}: errors, which "
                               "come from the scatter of the units, are hardly known")  # fmt: skip
    for file in (generated, reference):
        if file.chains is not None:
            audit.notes.append(f"{file.path.name} holds draws of chains: the last of each is taken, since "
                               "those before are not independent of it")  # fmt: skip
    if picture is not None:
        examples = [_spread(chosen, _MAPS_DRAWN) for chosen in sets]
        plot_field_audit(
            picture,
            audit,
            *examples,
            length_unit=_length_unit(generated, reference),
            title=f"{generated.path.name} against {reference.path.name}: {str(audit).splitlines()[-1]}",
        )
    return audit


def _audit_score(
    path: Path,
    reference: FieldFile,
    n: int,
    evaluations: int,
    step_size: float | None,
    seed: int,
    picture: Path | None,
    *,
    progress: bool,
) -> Any:
    import physscore
    from physscore.core import InputError
    from physscore.diagnostics.score_field import audit_score
    from physscore.plots.score_audit import plot_score_audit

    score = physscore.load(path)
    if tuple(score.shape) != reference.grid.shape:
        raise InputError(f"score {path} is of states {tuple(score.shape)} and the maps of {reference.path} "
                         f"have {reference.grid.shape}: they must be the same")  # fmt: skip
    if n < 1:
        raise InputError(f"--states is {n}: it must be a number of maps, at least 1")
    x = _spread(reference.independent(), n).astype(np.float64)
    audit = audit_score(
        score, x, draws=True, step_size=step_size, seed=seed, evaluations=evaluations, progress=progress,
        grid=reference.grid if getattr(score, "fields", True) else None,
    )  # fmt: skip
    if picture is not None:
        plot_score_audit(picture, audit)
    return audit


def _open(
    path: Path, dataset: str | None, box_size: tuple[float, ...] | None, option: str, *, boxed: bool = True
) -> FieldFile:
    """Open a file of fields, ours or another, whose box may stand in its attribute BoxSize; vectors, which
    need not be ``boxed``, have none."""
    from physscore.core import InputError
    from physscore.store import FieldFile
    from physscore.store.hdf5 import open_hdf5

    if dataset is None:
        try:
            found = FieldFile(path)
        except InputError as error:
            if "--dataset" not in str(error):
                raise
            raise InputError(
                f"file {path} is not a file of physscore fields: name its dataset ({option})"
            ) from None
        if not found.completed:
            found.file.close()
            raise InputError(f"file {path} holds no finished field yet")
        return found
    with open_hdf5(path) as file:
        stored = file.attrs.get("BoxSize")
        shape: tuple[int, ...] = getattr(file.get(dataset), "shape", ())
    if len(shape) not in (0, 2, 3, 4):
        raise InputError(f"dataset {dataset!r} of {path} has shape {shape}: it must be (maps, *cells) in 1 "
                         "to 3 dimensions")  # fmt: skip
    box = box_size if box_size is not None else None if stored is None else tuple(np.atleast_1d(stored))
    if box is None and not boxed and len(shape) == 2 and shape[0] != shape[1]:
        box = (float(shape[1]),)  # unit cells, of which nothing follows
    if box is None:
        raise InputError(f"--box is missing: file {path} has no attribute BoxSize")
    one = len(shape) == 2 and shape[0] == shape[1]  # which may be either
    if one:
        click.echo(
            f"note: dataset {dataset!r} of {path} has shape {shape}: it is taken for a single map, not for "
            f"{shape[0]} of one dimension; leave one of those out, so that it is no square",
            err=True,
        )
    return FieldFile(path, dataset=dataset, box_size=box, batched=None if one else True)


def _labels(file: FieldFile, name: str, indices: list[int]) -> Array:
    from physscore.core import InputError

    found = file.file.get(name)
    if found is None or not hasattr(found, "shape"):
        raise InputError(f"file {file.path} has no dataset {name!r}: name the one with a label for each map")
    n = file.number
    if found.shape != (n,):
        raise InputError(f"dataset {name!r} of {file.path} has shape {found.shape}: it must be ({n},), "
                         "a label for each map")  # fmt: skip
    return np.asarray(found[...])[indices]


def _possible_groups(file: FieldFile, n: int) -> str | None:
    """Return a dataset beside the maps that looks as if it told which of them belong together."""
    for name, item in file.delta.parent.items():
        alike = getattr(item, "shape", None) == (n,) and any(
            part in name.lower() for part in ("sim", "group")
        )
        if alike and len(np.unique(item[...])) < n:
            return str(item.name).lstrip("/")
    return None


def _spread(maps: Any, n: int) -> Array:
    """Return n maps, or all there are, spread evenly over a set."""
    chosen = np.unique(np.linspace(0, len(maps) - 1, min(n, len(maps))).astype(int))
    return np.array([maps[int(i)] for i in chosen])


def _length_unit(*files: FieldFile) -> str:
    """Return the unit of the box, of the first file that says it."""
    for file in files:
        unit = file.file.attrs.get("BoxSize_unit", file.length_unit)
        if str(unit) != "length":
            return str(unit)
    return "length"
