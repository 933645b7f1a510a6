"""``physscore sample``: draws from a built-in model or the user's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

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


def _number_or_auto(ctx: click.Context, param: click.Parameter, value: str) -> float | str:
    try:
        return value if value == "auto" else float(value)
    except ValueError:
        raise click.BadParameter(f'{value!r} must be a number or "auto"') from None


@click.command(name="sample")
@click.argument("model")
@parameters_option
@click.option(
    "-k", "--kernel", "kernel_name", type=click.Choice(list(KERNELS)), default="mala", show_default=True
)
@click.option("--step-size", callback=_number_or_auto, default="auto", show_default=True)
@click.option("--metric", type=click.Choice(["identity", "diagonal", "dense", "fourier"]),
              help="What the warm-up measures. [default: the kernel's]")  # fmt: skip
@click.option("--leapfrogs", callback=_number_or_auto, default="auto", help="Steps of a trajectory of hmc.")
@click.option("--friction", type=float, help="Friction of underdamped.")
@click.option("--metropolised", is_flag=True, help="Accept or reject the steps of underdamped.")
@click.option("--bias", type=float, help="Relative error of the variance that ula may make.")
@click.option("-n", "n", type=COUNT, help="New states of a learned score, through its noise levels.")
@click.option("--chains", type=COUNT, default=64, show_default=True)
@click.option("--steps", type=COUNT, help="Steps of each chain, after the warm-up. [default: 1000]")
@click.option("--warmup", type=COUNT, help="Steps of the warm-up. [default: half of --steps, 200 at least]")
@click.option("--thin", type=COUNT, default=1, show_default=True, help="Keep every so many-th step.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--workers", type=COUNT, default=1, show_default=True, help="Processes that share the chains.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float64", show_default=True,
              help="Of large states; the compiled loop over small ones is float64.")  # fmt: skip
@device_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="HDF5 file for the draws.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished file.")
@overwrite_option
@plot_option("traces and marginals, or field slices with P(k),")
@json_option
@threads_option
def command(
    model: str,
    parameters: dict[str, Any],
    kernel_name: str,
    step_size: float | str,
    metric: str | None,
    leapfrogs: float | str,
    friction: float | None,
    metropolised: bool,
    bias: float | None,
    n: int | None,
    chains: int,
    steps: int | None,
    warmup: int | None,
    thin: int,
    seed: int,
    workers: int,
    dtype: str,
    device: str,
    output: Path | None,
    resume: bool,
    overwrite: bool,
    plot: bool,
    as_json: bool,
) -> None:
    """Draw from MODEL: a built-in one (funnel, ising, phi4, ...), my_model.py:name or score.safetensors.

    A model of your own is an Energy, or a function of the -p values that returns one. Exit code 1 if the
    run has not mixed. With -n, new states are made by a learned score through its noise levels, of which
    there are --steps (40, more for steep spectra).
    """
    from physscore import kernels, plots
    from physscore.core import InputError
    from physscore.kernels.hamiltonian import MOST_LEAPFROGS
    from physscore.models import load_model
    from physscore.processes import on_root, world
    from physscore.sampling.run import sample
    from physscore.store.hdf5 import check_output

    given: dict[str, Any] = {"step_size": step_size}
    only = {"leapfrogs": ("hmc", leapfrogs, "auto"), "friction": ("underdamped", friction, None),
            "metropolised": ("underdamped", metropolised, False), "bias": ("ula", bias, None)}  # fmt: skip
    for name, (owner, value, default) in only.items():
        if value != default:
            if kernel_name != owner:
                raise InputError(f"--{name} is for --kernel {owner}, not for {kernel_name}")
            given[name] = value
    if isinstance(leapfrogs, float) and leapfrogs > MOST_LEAPFROGS:
        raise InputError(f"--leapfrogs is {leapfrogs:g}: a trajectory may have {MOST_LEAPFROGS:,} at most")
    if metric is not None:
        given["metric"] = metric
    if resume and output is None:
        raise InputError("--resume needs the file to go on with: -o name.h5")
    if plot:
        plots.require_matplotlib()
    if n is not None and world() is not None:
        raise InputError("-n is for one process: start it without mpiexec")
    if output is not None:
        read = files_of(model)
        on_root(world(), lambda: check_output(output, overwrite=overwrite, resume=resume, inputs=read))
    target = load_model(model, parameters)
    if n is not None:
        for name in ("kernel_name", "step_size", "metric", *only, "chains", "warmup", "thin", "dtype",
                     "device", "workers"):  # fmt: skip
            if click.get_current_context().get_parameter_source(name) == ParameterSource.COMMANDLINE:
                option = name.removesuffix("_name").replace("_", "-")
                raise InputError(f"--{option} is for chains: -n makes new states through noise levels")
        _generate(model, target, n, steps, seed, output, resume, overwrite, plot, as_json)
        return
    steps = 1000 if steps is None else steps
    workers = min(workers, max(chains, 1))
    kernel = getattr(kernels, KERNELS[kernel_name])(**given)
    run = sample(
        target, kernel, chains=chains, steps=steps, warmup=warmup, thin=thin, seed=seed, dtype=dtype,
        device=device, workers=workers, progress=not as_json and sys.stderr.isatty(), output=output,
        resume=resume, overwrite=overwrite, on_interrupt=say_stopping,
    )  # fmt: skip
    comm = world()
    if comm is not None and comm.rank:
        return  # the first process tells
    picture = picture_of(output or Path(f"{Path(model.replace(':', '-')).name}.h5"))
    if plot:
        plots.plot_run(picture, run)
    if as_json:
        print_json(
            run.summary()
            | ({"file": str(output)} if output else {})
            | ({"picture": str(picture)} if plot else {})
        )
    else:
        click.echo(str(run))
        for what, path in (("file", output), ("picture", picture if plot else None)):
            if path:
                click.echo(f"{what}: {path}")
    if not run.mixing.passed:
        click.get_current_context().exit(1)


def _generate(
    model: str,
    target: Any,
    n: int,
    steps: int | None,
    seed: int,
    output: Path | None,
    resume: bool,
    overwrite: bool,
    plot: bool,
    as_json: bool,
) -> None:
    """Make new states with a learned score, and write them."""
    from physscore.core import InputError

    if not model.endswith(".safetensors"):
        raise InputError(
            f"-n is for learned scores, name.safetensors, and the model is {model}: use --chains"
        )
    if output is None:
        raise InputError("-n needs a file for the new states: -o new.h5")
    from physscore.learning.generate import generate, plot_generated

    found = generate(
        target, n, output, seed=seed, steps=steps, resume=resume, overwrite=overwrite,
        progress=not as_json and sys.stderr.isatty(), on_interrupt=say_stopping, source=Path(model).name,
    )  # fmt: skip
    if plot:
        found["picture"] = str(picture_of(output))
        plot_generated(picture_of(output), output)
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['states']} states {tuple(found['shape'])} by {target!r}")
    for what in ("file", "picture"):
        if what in found:
            click.echo(f"{what}: {found[what]}")
