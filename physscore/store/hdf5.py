"""Opening, describing and finishing HDF5 files, with one clear sentence for what goes wrong.

Every file says on its root what it is (``format``, ``format_version``, ``kind``), when, by which
version, from which seed and with which settings it was made. A job writes to ``name.h5.part`` and
renames it when it is finished, so a file under its final name is always whole.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py

from physscore._version import __version__
from physscore.core import InputError
from physscore.processes import without_addresses
from physscore.store.holding import begun, require_free

FORMAT = "physscore"
FORMAT_VERSION = 1
_TABLES = 1 << 16  # bytes that a file has beside its data, about


def part_of(path: Path) -> Path:
    """Return the name under which a file is written until it is finished."""
    return path.with_name(path.name + ".part")


def new_of(path: Path) -> Path:
    """Return the name under which a file begins, or is written anew: a ``.part`` is always readable."""
    part = path if path.suffix == ".part" else part_of(path)
    return part.with_name(part.name + ".new")


def check_output(
    name: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    resume: bool = False,
    inputs: Iterable[str | os.PathLike[str]] = (),
) -> Path:
    """Return an output's path; refuse one that exists, unless it may be replaced, or cannot be written.

    Parameters
    ----------
    name
        Of the output.
    overwrite, resume
        Whether an existing one may be replaced, or gone on with.
    inputs
        Names of what the job reads, which is never replaced; those that are no files do not count.

    Raises
    ------
    InputError
        If so.
    """
    if not isinstance(name, str | os.PathLike) or not Path(name).name:
        raise InputError(f"output {name!r} is no name of a file")
    path = Path(name)
    with writing(path):
        for existing, verb in ((path, "exists"), (part_of(path), "holds an unfinished job")):
            if existing.is_dir():
                raise InputError(f"output {existing} is a folder: give the name of a file")
            if not existing.exists():
                continue
            if not existing.is_file():
                raise InputError(f"output {existing} is no regular file: give the name of one")
            for read in inputs:
                if os.path.exists(read) and existing.samefile(read):  # which a name too long is not
                    raise InputError(
                        f"output {path} would replace {existing}, which is read: give another name"
                    )
            if not (overwrite or resume):
                require_free(existing, path)
                hint, options = "use --overwrite to replace it", "overwrite=True"
                if existing != path:
                    hint, options = f"{hint} or --resume to go on with it", f"{options}, resume=True"
                raise InputError(f"output {existing} {verb}: {hint} (in Python {options})")
    folder = path.parent
    if not folder.is_dir():
        raise InputError(f"output {path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise InputError(f"output {path} cannot be written: no permission to write into {folder}")
    return path


def require_space(path: Path, need: int) -> None:
    """Refuse to start writing ``need`` bytes of data where there is less room for them.

    HDF5 ends the process at last, if it was opened and could not write its own tables.
    """
    free = shutil.disk_usage(path.parent).free
    need += _TABLES
    if need > free:
        raise InputError(
            f"output {path} needs {need / 2**30:.3g} GiB and {free / 2**30:.3g} GiB are free on its disk: "
            "use another disk, or ask for less"
        )
    trial = path.with_name(path.name + ".space")  # quotas and limits show only when it is tried
    try:
        with writing(path), open(trial, "wb") as file:
            reserve(file.fileno(), need)
    finally:
        trial.unlink(missing_ok=True)


def reserve(descriptor: int, size: int) -> None:
    """Take ``size`` bytes of the disk for a file, where the system can, so that it cannot run full later."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(descriptor, 0, size)


def unwritten() -> Any:
    """Return the properties of a dataset whose room is made at once, without writing it twice."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    return layout


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a failure of the file system into one sentence."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # h5py reports some failed writes as RuntimeError
        number = getattr(error, "errno", None)
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error)
        reason = "the disk is full" if full else str(error).splitlines()[0]
        raise InputError(f"output {path} cannot be written: {reason}") from error


@contextmanager
def whole_file(path: Path, need: int) -> Iterator[Path]:
    """Give the name under which a file with ``need`` bytes of data is written.

    It takes its place, and that of an unfinished job, once it is whole and on the disk. One of HDF5 is opened
    without its own lock: the name is held.
    """
    require_space(path, need)
    fresh = new_of(path)
    with writing(path), begun(fresh, path):
        yield fresh
        with open(fresh, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(fresh, path)
        part_of(path).unlink(missing_ok=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what is missing in a file of ours, or is something else, into one sentence."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError, RuntimeError) as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise InputError(f"file {path} cannot be read: it is damaged ({reason})") from error


def describe(
    file: h5py.File, kind: str, seed: int | None, settings: dict[str, Any], length_unit: str
) -> None:
    """Write the attributes and units that every file has."""
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["kind"] = kind
    file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")
    file.attrs["version"] = __version__
    if seed is not None:
        file.attrs.create("seed", seed, dtype="uint64")
    file.attrs["settings"] = json.dumps(settings)
    units = file.create_group("Units")
    units.attrs["length"] = length_unit


def require_same(file: h5py.File, path: Path, seed: int | None, settings: dict[str, Any]) -> None:
    """Refuse to go on with the file of another job, whichever process it is of."""
    if file.attrs.get("format") != FORMAT or "settings" not in file.attrs:
        raise InputError(
            f"output {path} is not a file of physscore: replace it by --overwrite (in Python overwrite=True)"
        )
    with reading(path):
        found = {
            "seed": int(file.attrs["seed"]) if "seed" in file.attrs else None,
            **json.loads(without_addresses(file.attrs["settings"])),
        }
    wanted = {"seed": seed, **json.loads(without_addresses(json.dumps(settings)))}
    differing = [
        f"{name} was {found.get(name)} and is {wanted[name]}"
        for name in wanted
        if found.get(name) != wanted[name]
    ]
    if differing:
        raise InputError(
            f"output {path} belongs to another job ({'; '.join(differing)}): "
            "resume it with the same settings, or use --overwrite (in Python overwrite=True)"
        )


def inverse(unit: str) -> str:
    """Return the unit of a wavenumber for one of length: h/Mpc for Mpc/h."""
    above, slash, below = unit.partition("/")
    return f"{below}/{above}" if slash else f"1/({unit})"


def require_units(name: str, spectrum: Any, length_unit: str) -> None:
    """Refuse a spectrum over wavenumbers in another unit than that of a box, where both are known.

    Raises
    ------
    InputError
        If so.
    """
    own, wanted = spectrum.units[0], inverse(length_unit)
    if own != wanted and not {own, wanted} & {inverse("length"), "1/length", inverse("cells")}:
        raise InputError(
            f"{name} has wavenumbers in {own}, and the box is in {length_unit}: give both in the same units"
        )


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises
    ------
    InputError
        If it is missing, not HDF5, truncated, or of a newer format than this version reads.
    """
    if not path.name:
        raise InputError(f"file is {str(path)!r}: it must be the name of one")
    if not os.path.isfile(path):
        part = part_of(path)
        known = f", but {part} does: a job that is not finished" if os.path.isfile(part) else ""
        raise InputError(f"file {path} does not exist{known}")
    try:
        if not h5py.is_hdf5(path):
            raise InputError(f"file {path} is not an HDF5 file")
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "it is truncated" if "truncated" in str(error) else str(error).splitlines()[0]
        raise InputError(f"file {path} cannot be read: {reason}") from error
    try:
        with reading(path):
            version = int(file.attrs["format_version"]) if file.attrs.get("format") == FORMAT else 0
        if version > FORMAT_VERSION:
            raise InputError(
                f"file {path} has format version {version} and this is physscore {__version__}, "
                f"which reads up to {FORMAT_VERSION}: install a newer physscore"
            )
    except InputError:
        file.close()
        raise
    return file


def holds_numbers(item: object, kinds: str = "fiu") -> bool:
    """Return whether something in a file is an array of numbers, of these kinds of NumPy's."""
    return isinstance(item, h5py.Dataset) and bool(item.ndim) and item.dtype.kind in kinds


def names_of_numbers(file: h5py.File, kinds: str = "fiu") -> list[str]:
    """Return the names of the arrays of numbers in a file."""
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if holds_numbers(item, kinds) else None)
    return found


def summary(file: h5py.File) -> dict[str, Any]:
    """Return what a file says of itself, or, if it is not ours, which datasets it has."""
    found: dict[str, Any] = {"file": file.filename, "kind": "not a physscore file"}
    if file.attrs.get("format") == FORMAT:
        for name in ("kind", "created", "version"):
            found[name] = str(file.attrs[name])
        return found

    def add(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = f"{item.dtype} {item.shape}"

    file.visititems(add)
    return found
