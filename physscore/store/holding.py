"""Whose an unfinished file is: the job's that holds it, for as long as it lives.

The lock is one on an open file, which ends with the process and which HDF5 does not know of: others may
read meanwhile, and ``HDF5_USE_FILE_LOCKING`` does not matter. Where the system has none, on some network
disks, a job still sees whether the file under the name is its own.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from physscore.core import InputError

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be replaced
    fcntl = None  # type: ignore[assignment]

Place = tuple[int, int]


@contextmanager
def begun(fresh: Path, output: Path) -> Iterator[int | None]:
    """Hold the name under which a file begins: of jobs that begin together one goes on.

    What goes wrong leaves no file. It gives what :func:`opened` takes over; None where there are no locks.

    Raises
    ------
    InputError
        If another job holds the name.
    """
    held = None if fcntl is None else _held(fresh, output)
    try:
        yield held
    except BaseException:
        if held is None or place_of(fresh) == _place(os.fstat(held)) or _is_free(fresh):
            fresh.unlink(missing_ok=True)  # not what another job began meanwhile
        raise
    finally:
        if held is not None:
            os.close(held)


def _held(fresh: Path, output: Path) -> int:
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT, 0o666)
    if not _locked(descriptor) or place_of(fresh) != _place(os.fstat(descriptor)):
        os.close(descriptor)
        raise _another(output)
    return descriptor


def opened(part: Path, output: Path, held: int | None = None) -> h5py.File:
    """Open an unfinished file for writing, and hold it until it is closed.

    Parameters
    ----------
    part, output
        The file, and the name that it will have.
    held
        What holds it already.

    Raises
    ------
    InputError
        If another job holds it.
    """
    if held is None:
        require_free(part, output)  # within one process HDF5 would give the same file again
    file = h5py.File(part, "r+", locking=False)
    if held is not None:
        os.dup2(held, file.id.get_vfd_handle(), inheritable=False)  # the lock ends with the file
    elif not _locked(file.id.get_vfd_handle()):
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
    if not _is_free(part):
        raise _another(output)


def require_own(part: Path, place: Place | None, output: Path) -> None:
    """Refuse to go on with, or to give the final name to, what another job put in a file's place.

    Raises
    ------
    InputError
        If so.
    """
    if place_of(part) != place:
        raise InputError(
            f"output {output} was taken over by another job that replaces it: nothing of this one is left"
        )


def place_of(path: Path) -> Place | None:
    """Return what tells a file from another one of its name; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return _place(found)


def _place(found: os.stat_result) -> Place:
    return found.st_dev, found.st_ino


def _another(output: Path) -> InputError:
    return InputError(
        f"output {output} is being written by another job: wait for it or end it, or give another name"
    )


def _is_free(path: Path) -> bool:
    """Return whether nobody holds a file, without holding it for a moment where the system can tell."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:  # there is none, or opening it will say what is wrong
        return True
    try:
        if not hasattr(fcntl, "F_OFD_GETLK"):
            return _locked(descriptor)
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _whole())
        return bool(struct.unpack("hhqqi4x", found)[0] == fcntl.F_UNLCK)
    except OSError:  # a disk without locks
        return True
    finally:
        os.close(descriptor)


def _whole() -> bytes:
    return struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def _locked(descriptor: int) -> bool:
    """Lock an open file; return False if another one holds it."""
    try:
        if hasattr(fcntl, "F_OFD_SETLK"):
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _whole())
        elif fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a disk without locks
        return True
    return True
