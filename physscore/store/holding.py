"""Whose an unfinished file is: the job's that holds it, for as long as it lives.

The lock is one on an open file, which ends with the process and which HDF5 does not know of: others may
read meanwhile, and ``HDF5_USE_FILE_LOCKING`` does not matter. Where the system has none, on some network
disks, a job still sees whether the file under the name is its own.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import h5py

from physscore.core import InputError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be replaced
    fcntl = None  # type: ignore[assignment]

Place = tuple[int, int]


def opened(part: Path, output: Path) -> h5py.File:
    """Open an unfinished file for writing, and hold it until it is closed.

    Raises
    ------
    InputError
        If another job holds it.
    """
    require_free(part, output)  # within one process HDF5 would give the same file again
    file = h5py.File(part, "r+", locking=False)
    if not _locked(file.id.get_vfd_handle()):
        file.close()
        raise _another(output)
    return file


def require_free(part: Path, output: Path) -> None:
    """Refuse an output whose unfinished file a living job holds.

    Raises
    ------
    InputError
        If so.
    """
    try:
        descriptor = os.open(part, os.O_RDWR)
    except OSError:  # there is none, or opening it will say what is wrong
        return
    try:
        if not _locked(descriptor):
            raise _another(output)
    finally:
        os.close(descriptor)


def require_own(part: Path, place: Place | None, output: Path) -> None:
    """Refuse to go on with, or to give the final name to, what another job put in a file's place.

    Raises
    ------
    InputError
        If so.
    """
    if place_of(part) != place:
        raise InputError(
            f"output {output} was taken over by another job (--overwrite): nothing of this one is left"
        )


def place_of(path: Path) -> Place | None:
    """Return what tells a file from another one of its name; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _another(output: Path) -> InputError:
    return InputError(
        f"output {output} is being written by another job: wait for it or end it, or give another name"
    )


def _locked(descriptor: int) -> bool:
    """Lock an open file; return False if another one holds it."""
    try:
        if hasattr(fcntl, "F_OFD_SETLK"):
            whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, whole)
        elif fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a disk without locks
        return True
    return True
