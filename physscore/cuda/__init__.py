"""CUDA through CuPy: the sources beside this file, compiled when they are first needed, and their launch.

Every kernel is a loop that is right for any number of threads, so that the tests can run the very
sources on a machine without a card. Arithmetic is not contracted: a card gives what the CPU gives.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from physscore.arrays import cupy
from physscore.core import Array

SOURCES = ("noise", "modes", "moves", "field_moves", "cells", "lattice", "control", "tempered")
_HEADERS = ("noise.cuh", "modes.cuh", "moves.cuh")
_THREADS = 256


def source_of(name: str) -> str:
    """Return a CUDA source, with the functions before it that it may call."""
    folder = Path(__file__).parent
    return "\n".join((folder / file).read_text() for file in (*_HEADERS, f"{name}.cu"))


def options_for(dtype: Any) -> tuple[str, ...]:
    """Return the compiler's options for states of a precision."""
    single = np.dtype(dtype) == np.float32
    return (
        "--std=c++14",
        "--fmad=false",
        f"-DREAL={'float' if single else 'double'}",
        f"-DHYPOT={'hypotf' if single else 'hypot'}",
    )


@cache
def _function(source: str, name: str, dtype: str, device: int) -> Any:
    module = cupy().RawModule(code=source_of(source), options=options_for(dtype), backend="nvrtc")
    return module.get_function(name)


def _argument(value: Any) -> Any:
    """Return a number as the type that kernels declare: whole ones are long long."""
    if isinstance(value, bool):
        return np.bool_(value)
    return np.int64(value) if isinstance(value, int) else value


def launch(source: str, name: str, dtype: Any, n: int, *args: Any) -> None:
    """Launch a kernel with a thread for each of ``n`` items. Floats must be given as NumPy's."""
    _launch(source, name, dtype, -(-n // _THREADS), _THREADS, args)


def launch_blocks(source: str, name: str, dtype: Any, n: int, size: int, *args: Any) -> None:
    """Launch a kernel with a block of threads for each of ``n`` tasks of ``size`` items."""
    threads = min(_THREADS, max(32, -(-size // 32) * 32))
    _launch(source, name, dtype, n, threads, args)


def _launch(source: str, name: str, dtype: Any, blocks: int, threads: int, args: tuple[Any, ...]) -> None:
    if blocks == 0:
        return
    for value in args:  # what the kernels would read as something else
        if hasattr(value, "flags") and not value.flags.c_contiguous:
            raise ValueError(f"{name}: an array of shape {value.shape} is not in one piece of memory")
    function = _function(source, name, np.dtype(dtype).name, cupy().cuda.Device().id)
    function((blocks,), (threads,), tuple(map(_argument, args)))


def parts_of(rows: int, size: int) -> int:
    """Return into how many parts each of ``rows`` rows of ``size`` items is cut: enough to fill a card, and
    the same on every one, so that sums round alike."""
    return max(1, min(-(-size // (4 * _THREADS)), -(-8192 // max(rows, 1))))


_kept: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def kept(owner: Any, name: Any, make: Callable[[], Array]) -> Any:
    """Return an array on the card that lives as long as ``owner``, made and sent when first asked for."""
    known = _kept.setdefault(owner, {})
    key = (name, cupy().cuda.Device().id)
    if key not in known:
        known[key] = cupy().asarray(make())
    return known[key]
