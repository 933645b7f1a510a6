"""What the commands share that measure fields in a file: which, and how they were made of particles."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from physscore.cli.options import numbers

if TYPE_CHECKING:
    from physscore.diagnostics.multipoles import PowerMultipoles
    from physscore.diagnostics.power import PowerSpectrum
    from physscore.store import FieldFile

bins_option = click.option(
    "--bins", type=click.Choice(["linear", "log", "shells"]), default="linear", show_default=True
)


def _assignments(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str | None] | None:
    """Turn "cic,none" into a pair."""
    if value is None:
        return None
    return [None if name.strip() == "none" else name.strip() for name in value.split(",")]


def of_fields(command: Callable[..., None]) -> Callable[..., None]:
    """Add the file and what it holds: path, dataset, box_size, contrast."""
    for option in (
        click.option("--contrast", is_flag=True,
                     help="The first file holds densities or counts: measure x / mean - 1."),
        click.option("--box", "box_size", metavar="LENGTH", callback=numbers(float),
                     help="Side of its box, or one for each dimension."),
        click.option("--dataset", help="Path of the fields in an HDF5 file that is not ours."),
        click.argument("path", type=click.Path(path_type=Path)),
    ):  # fmt: skip
        command = option(command)
    return command


def of_particles(command: Callable[..., None]) -> Callable[..., None]:
    """Add how the fields were made of particles: shot_noise, mass_assignment."""
    for option in (
        click.option("--mass-assignment", metavar="NAME", callback=_assignments,
                     help="How particles were put on the grid, ngp, cic, tsc or pcs: its window is divided "
                     "out. With --cross, cic,none if they are in the first file only. "
                     "[default: that of physscore paint]"),
        click.option("--shot-noise", type=float,
                     help="Volume per particle, subtracted. [default: that of physscore paint, else 0]"),
    ):  # fmt: skip
        command = option(command)
    return command


def made_of_particles(
    files: list[FieldFile], mass_assignment: list[str | None] | None, shot_noise: float | None
) -> dict[str, Any]:
    """Return how one field or two were made of particles: as was asked for, else as physscore paint wrote."""
    from physscore.core import InputError

    painted = [file.settings if file.settings.get("command") == "paint" else {} for file in files]
    if len({about["interlaced"] for about in painted if about}) > 1:
        raise InputError(
            f"of {files[0].path} and --cross {files[1].path} one is interlaced: paint both alike"
        )
    if len(files) > 1 and all(painted) and _share_particles(*painted):
        warnings.warn(
            f"{files[0].path} and --cross {files[1].path} are of the same particles: the cross spectrum has "
            "their shot noise, which is not subtracted",
            stacklevel=1,
        )
    names = mass_assignment or [about.get("mass_assignment") for about in painted]
    noises = [about.get("shot_noise", 0.0) for about in painted] if shot_noise is None else [shot_noise]
    return {
        "mass_assignment": names if len(names) > 1 else names[0],
        "interlaced": any(names) and any(about.get("interlaced") for about in painted),
        "shot_noise": noises if any(noises) and len(noises) > 1 else noises[0],
    }


def _share_particles(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two settings of physscore paint name the same positions in a file."""
    alike = one.get("positions") == other.get("positions")
    return alike and not set(one["files"]).isdisjoint(other["files"])


def result_of(fields: FieldFile, found: PowerSpectrum | PowerMultipoles) -> dict[str, Any]:
    """Return what was measured of some fields, ready for JSON."""
    from physscore.store.hdf5 import inverse

    return {
        "file": str(fields.path),
        "fields": len(found.power),
        "shape": list(fields.grid.shape),
        "units": {"k": inverse(fields.length_unit), "power": f"({fields.length_unit})^{fields.grid.dim}"},
        **{name: getattr(found, name).tolist() for name in ("k", "power", "error", "n_modes")},
    }


def warn_of(fields: FieldFile) -> None:
    """Warn of fields whose power may not be what is wanted.

    Raises
    ------
    InputError
        If there are none.
    """
    from physscore.core import InputError

    path = fields.path
    if not fields.completed:
        raise InputError(f"file {path} holds no finished field yet")
    if fields.settings.get("cells"):
        warnings.warn(
            f"{path} holds some cells of a larger field: power is measured as if they were periodic, which "
            "they are not",
            stacklevel=1,
        )
    # Contrasts of ours may happen to be positive in all of some cells.
    ours = fields.settings.get("command") in ("field", "paint")
    if not (ours or fields.contrast) and fields.is_density(fields.independent().indices[0]):
        warnings.warn(
            f"{path} holds no negative value, as densities and counts do: the power of their contrast, "
            "x / mean - 1, is measured with --contrast",
            stacklevel=1,
        )
    if fields.chains is not None:
        warnings.warn(
            f"{path} holds draws of chains: power is that of the last of each chain, since those before are "
            "not independent of it; run.power_spectrum() in Python is that of all",
            stacklevel=1,
        )
