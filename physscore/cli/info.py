"""``physscore info``: what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from physscore.cli.options import json_option, print_json, print_summary


@click.command(name="info")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def command(path: Path, as_json: bool) -> None:
    """Say what is in a file: fields, spectra, runs, estimates of log Z, or a learned score."""
    from physscore.store import FieldFile, load
    from physscore.store.evidence import unfinished
    from physscore.store.hdf5 import open_hdf5, reading, summary
    from physscore.store.spectra import read_spectrum

    if path.suffix == ".safetensors":
        model = load(path)
        if as_json:
            print_json(model.summary())
        else:
            click.echo(str(model))
            for name, value in model.summary().items():
                click.echo(f"{name}: {value}")
        return
    going_on: dict[str, Any] | None = None
    with open_hdf5(path) as file, reading(path):
        found = summary(file)
        kind = found["kind"]
        if kind == "spectrum":
            found["bins"] = len(read_spectrum(file).k)
        if kind == "evidence":
            going_on = unfinished(file)
            found |= going_on or {}
    if kind == "run" or (kind == "evidence" and going_on is None):
        result = load(path)
        if as_json:
            print_json(found | result.summary())
        else:
            click.echo(f"{result}\nmade: {found['created']} by physscore {found['version']}")
        return
    if kind != "fields":
        if as_json:
            print_json(found)
        else:
            click.echo("\n".join(f"{name}: {value}" for name, value in found.items()))
        return
    with FieldFile(path) as fields:
        about, verdict = fields.summary(), fields.verdict()
    if verdict is not None:
        about["check"] = verdict.as_dict()
    if as_json:
        print_json(about)
        return
    print_summary(about)
    if verdict is not None:
        click.echo(f"P(k) when written: {verdict}")
    click.echo(f"made: {about['created']} by physscore {about['version']}")
