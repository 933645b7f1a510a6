"""``physscore logz``: partition functions and evidence of built-in models or the user's own."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from physscore.cli.options import (
    COUNT,
    KERNELS,
    device_option,
    files_of,
    json_option,
    overwrite_option,
    parameters_option,
    picture_of,
    plot_option,
    print_json,
    say_stopping,
    threads_option,
)

if TYPE_CHECKING:
    from physscore.evidence.factors import BayesFactor
    from physscore.evidence.result import LogZ


_MOST_TEMPERATURES = 1_000_000
_ARRAYS = 4  # of the size of all states, at least


@click.command(name="logz")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@parameters_option
@click.option("--reference", type=click.Choice(["fitted"]),
              help="Where to begin. [default: the model's prior; fitted, where there is none]")  # fmt: skip
@click.option("-k", "--kernel", "kernel_name", type=click.Choice([k for k in KERNELS if k != "underdamped"]),
              help="How particles move. [default: mala for small states, hmc for fields]")  # fmt: skip
@click.option("--particles", type=COUNT, default=2000, show_default=True, help="Over all islands.")
@click.option("--islands", type=COUNT, help="Independent groups of particles. [default: 64, fewer if small]")
@click.option("--temperatures", type=COUNT, help="Steps of the way. [default: as the pilot finds]")
@click.option("--method", type=click.Choice(["smc", "ais", "tempering"]), default="smc", show_default=True)
@click.option("--target-error", type=float, help="Go on until the error is as small as this.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--workers", type=COUNT, default=1, show_default=True, help="Processes that share the islands.")
@device_option
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="HDF5 file for the result; of several models name-MODEL.h5.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with an unfinished file.")
@overwrite_option
@click.option("--verify", is_flag=True,
              help="Also bracket log Z of data simulated from the model's prior and likelihood.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Send out the pilot, say what the estimate will need, and end.")
@click.option("--processes", type=click.IntRange(min=1), default=1,
              help="For --dry-run: how many will share the islands.")  # fmt: skip
@plot_option("the work there and back, ESS, barrier and islands")
@json_option
@threads_option
def command(
    models: tuple[str, ...],
    parameters: dict[str, Any],
    reference: str | None,
    kernel_name: str | None,
    particles: int,
    islands: int | None,
    temperatures: int | None,
    method: str,
    target_error: float | None,
    seed: int,
    workers: int,
    device: str,
    output: Path | None,
    resume: bool,
    overwrite: bool,
    verify: bool,
    dry_run: bool,
    processes: int,
    plot: bool,
    as_json: bool,
) -> None:
    """Estimate log Z, the log of the integral of exp(-E), of each MODEL: a built-in one (funnel, ising, ...)
    or my_model.py:name. Of prior + likelihood it is the evidence.

    A model of your own is an Energy, or a function of the -p values that returns one. Several models are
    compared with the first by Bayes factors; each takes those of the -p values that it knows. Exit code 1 if
    a number is not to be trusted.
    """
    from physscore import kernels, plots
    from physscore.arrays import require_memory
    from physscore.core import InputError
    from physscore.evidence.dry_run import cost_of_log_z
    from physscore.evidence.estimate import estimate_log_z
    from physscore.models import BUILT_IN, load_models
    from physscore.processes import on_root, world
    from physscore.store.hdf5 import check_output

    if temperatures is not None and not 1 <= temperatures <= _MOST_TEMPERATURES:
        raise InputError(
            f"--temperatures is {temperatures}: it must be a number of steps from 1 to {_MOST_TEMPERATURES:,}"
        )
    if (
        not dry_run
        and click.get_current_context().get_parameter_source("processes") != ParameterSource.DEFAULT
    ):
        raise InputError(f"--processes is {processes}: it is for --dry-run; start a job's own with mpiexec")
    if resume and output is None:
        raise InputError("--resume needs the file to go on with: -o name.h5")
    names = _names(models)
    if plot:
        plots.require_matplotlib()
    outputs: list[Path | None] = [output] * len(names)
    if output is not None and len(names) > 1:
        outputs = [output.with_name(f"{output.stem}-{name}{output.suffix}") for name in names]
    comm = world()
    first = comm is None or comm.rank == 0

    def check_outputs() -> None:
        for path in outputs:
            if path is not None:
                check_output(path, overwrite=overwrite, resume=resume, inputs=files_of(*models))

    on_root(comm, check_outputs)
    targets: list[Any] = load_models(models, parameters)
    widest = max(math.prod(target.shape) for target in targets)
    require_memory(8 * _ARRAYS * particles * widest, f"logz with --particles {particles}")
    workers = workers if islands is None else min(workers, max(islands, 1))
    options: dict[str, Any] = {
        "reference": reference, "kernel": getattr(kernels, KERNELS[kernel_name])() if kernel_name else None,
        "particles": particles, "islands": islands, "schedule": temperatures, "method": method, "seed": seed,
        "workers": workers, "device": device, "progress": not as_json and sys.stderr.isatty(),
    }  # fmt: skip
    if dry_run:
        if method == "tempering" or device == "gpu" or comm is not None:
            raise InputError("--dry-run is for the methods smc and ais, on the CPU, by one process")
        asked = {name: options[name] for name in ("reference", "kernel", "particles", "islands", "schedule",
                                                  "method", "seed")}  # fmt: skip
        costs = [cost_of_log_z(target, **asked, processes=processes) for target in targets]
        if as_json:
            print_json(
                [{"model": model, **cost.as_dict()} for model, cost in zip(models, costs, strict=True)]
            )
        else:
            click.echo("\n".join(f"{name}:\n{cost}" for name, cost in zip(names, costs, strict=True)))
            click.echo("Where the ways there and back disagree it goes on, and takes several times as long.")
        return
    checks = []
    if verify:  # first: it may say that a model cannot be verified
        from physscore.evidence.verify import verify as verified

        checks = [verified(target, **options) for target in targets]
    found, results = [], []
    for model, name, target, path in zip(models, names, targets, outputs, strict=True):
        z = estimate_log_z(
            target, **options, target_error=target_error, checkpoint=path, resume=resume, overwrite=overwrite,
            on_interrupt=say_stopping,
        )  # fmt: skip
        exact = getattr(target, "log_z", None) if model in BUILT_IN else None
        result: dict[str, Any] = {"model": model} | z.summary()
        if exact is not None:
            result["exact"] = exact
        if path is not None:
            result["file"] = str(path)
        if plot and first:
            picture = picture_of(path or Path(f"{name}-log-z.h5"))
            plots.plot_log_z(picture, z, exact)
            result["picture"] = str(picture)
        found.append(z)
        results.append(result)
    for result, check in zip(results, checks, strict=False):
        result["verification"] = check.summary()
    factors = _factors(found)
    for result, factor in zip(results[1:], factors, strict=True):
        numbers = {key: value for key, value in factor.summary().items() if key not in ("a", "b")}
        result["bayes_factor"] = {"against": models[0], **numbers}
    if not first:
        return  # the first process tells
    if as_json:
        print_json(results[0] if len(results) == 1 else results)
    else:
        click.echo(_table(names, found, factors, results) if factors else _single(found[0], results[0]))
        for result in results:
            for what in ("file", "picture"):
                if what in result:
                    click.echo(f"{what}: {result[what]}")
        for check in checks:
            click.echo(str(check))
    if not all(z.verdict == "pass" for z in found) or not all(check.passed for check in checks):
        click.get_current_context().exit(1)


def _names(models: Sequence[str]) -> list[str]:
    """Return the names of models for tables and files, with as many folders as tell them apart.

    Raises
    ------
    InputError
        If two are one.
    """
    from physscore.core import InputError

    for folders in range(max(map(len, models))):  # more than a path has
        names = [_short(model, folders) for model in models]
        if len(set(names)) == len(names):
            return names
    twice = next(name for name in names if names.count(name) > 1)
    raise InputError(f"models are {' '.join(models)}: two of them are called {twice}, and each is given once")


def _short(model: str, folders: int) -> str:
    """Return a model's name: my_model-posterior for my_model.py:posterior, behind some of its folders."""
    file, colon, attribute = model.rpartition(":")
    path = Path(file if colon else model)
    before = path.parent.parts[-folders:] if folders else ()
    return "-".join([*before, path.stem, attribute] if colon else [*before, path.name]).replace("/", "")


def _factors(found: list[LogZ]) -> list[BayesFactor]:
    """Return the Bayes factors of all but the first against it."""
    if len(found) == 1:
        return []
    from physscore.evidence.factors import bayes_factor

    return [bayes_factor(z, found[0]) for z in found[1:]]


def _single(z: LogZ, result: dict[str, Any]) -> str:
    """Return an estimate in words, and how far it is from the exact value where that is known."""
    if "exact" not in result:
        return str(z)
    away = abs(z.log_z - result["exact"])
    far = f"{away / z.error:.1f} errors" if z.error > 0 else f"{away:.2g}"
    return f"{z}\nexact {_pair(result['exact'], z.error)[0]}, {far} away"


def _table(
    names: list[str], found: list[LogZ], factors: list[BayesFactor], results: list[dict[str, Any]]
) -> str:
    """Return several estimates, a line each, and why some are not to be trusted."""
    rows = [["", "log Z", "error", "verdict", "ln B", "error", "exact"]]
    for name, z, factor, result in zip(names, found, [None, *factors], results, strict=True):
        ratio = ("0", "") if factor is None else _pair(factor.log_factor, factor.error)
        exact = _pair(result["exact"], z.error)[0] if "exact" in result else ""
        rows.append([name, *_pair(z.log_z, z.error), z.verdict, *ratio, exact])
    if not any("exact" in result for result in results):
        rows = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 3) else cell.rjust(width)  # words to the left
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    reasons = [f"{name}: {reason}" for name, z in zip(names, found, strict=True) for reason in z.reasons]
    return "\n".join(lines + reasons)


def _pair(value: float, error: float) -> tuple[str, str]:
    """Return a value and its error, to two digits of the error."""
    if not (math.isfinite(value) and 0 < error < math.inf):
        return f"{value:.4g}", f"{error:.2g}"
    digits = min(max(1 - math.floor(math.log10(error)), 2), 10)
    return f"{value:.{digits}f}", f"{error:.{digits}f}"
