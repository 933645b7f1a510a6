"""What an array needs around it: its device, threads, checked inputs, and the memory there is.

Threads are given explicitly to every FFT and every compiled loop; nothing that happens to be
installed changes their number. Results never depend on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError

# The GNU allocator hands memory back to the system, to be cleared and taken anew, unless it has freed more at
# once before. Arrays too small for huge pages, made at each step, are most of that.
np.empty(1 << 22, np.uint8)

_threads: ContextVar[int | None] = ContextVar("physscore_threads", default=None)


_MOST_THREADS = 4096


def _checked_threads(n: Any, name: str) -> int:
    whole = isinstance(n, int | np.integer) and not isinstance(n, bool)
    if not whole or not 1 <= n <= _MOST_THREADS:
        raise InputError(f"{name} is {n!r}: it must be a whole number from 1 to {_MOST_THREADS}")
    return int(n)


def n_threads() -> int:
    """Return the number of threads in force.

    That is the innermost :func:`threads` block, else the environment variable
    ``PHYSSCORE_THREADS``, else the number of processors this process may use.
    """
    count = _threads.get()
    if count is not None:
        return count
    if text := os.environ.get("PHYSSCORE_THREADS"):
        return _checked_threads(int(text) if text.strip().isdecimal() else text, "PHYSSCORE_THREADS")
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use ``n`` threads inside this block: ``with physscore.threads(4): ...``.

    Raises
    ------
    InputError
        If ``n`` is not a whole number from 1 to 4096.
    """
    token = _threads.set(_checked_threads(n, "threads"))
    try:
        yield
    finally:
        _threads.reset(token)


@cache
def _pool(n: int, process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, thread_name_prefix="physscore")


def parallel(kernel: Callable[..., Any], n: int, *args: Any, at_least: int = 1) -> None:
    """Run ``kernel(*args, start, stop)`` over range(n), one contiguous piece a thread.

    The kernel must release the GIL and write to places that depend on the index alone. ``at_least`` so
    many indices make a piece: waking a thread takes some ten microseconds.
    """
    pieces = n // at_least
    if pieces > 1:
        pieces = min(n_threads(), pieces)
    if pieces <= 1:
        kernel(*args, 0, n)
        return
    edges = [n * i // pieces for i in range(pieces + 1)]
    pool = _pool(pieces - 1, os.getpid())  # a forked child must not wait for its parent's threads
    futures = [pool.submit(kernel, *args, a, b) for a, b in pairwise(edges[1:])]
    kernel(*args, 0, edges[1])
    for future in futures:
        future.result()


def compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop that releases the GIL, once for all processes where the result can be kept.

    It should not put arrays into parts of others: with that Numba compiles, for seconds, how it would say
    that their shapes differ.
    """
    from numba import njit

    from physscore.code_on_disk import keep_on_disk

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    dispatcher = njit(loop, **options)
    keep_on_disk(dispatcher)
    return cast(Callable[..., Any], dispatcher)


DEVICES = ("cpu", "gpu")


@cache
def cupy() -> Any:
    """Return CuPy, once a card is seen; of several, processes that ``mpiexec`` started take one each.

    Raises
    ------
    InputError
        If CuPy, a driver or a card is missing.
    """
    try:
        import cupy
    except ImportError:
        raise InputError(
            'device is "gpu", which needs CuPy: pip install "physscore[gpu]", or use device "cpu"'
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise InputError(f'device is "gpu", but CuPy finds no driver or no card: {error}') from None
    if not count:
        raise InputError('device is "gpu", but there is no card: use device "cpu"')
    try:
        from cupy.cuda import cufft

        cufft.getVersion()
    except ImportError as error:  # it comes with CUDA's toolkit, or the extra "ctk" of CuPy
        raise InputError(
            f'device is "gpu", but CuPy finds no cuFFT ({error}): pip install "physscore[gpu]"'
        ) from None
    from physscore.processes import place_here

    cupy.cuda.Device(place_here() % count).use()
    return cupy


def on_gpu(x: Any) -> bool:
    """Return whether ``x`` is a CuPy array."""
    return type(x) is not np.ndarray and type(x).__module__.partition(".")[0] == "cupy"


def device_of(*arrays: Any) -> str:
    """Return "gpu" for CuPy arrays and "cpu" for others.

    Raises
    ------
    InputError
        If there are both.
    """
    found = {on_gpu(x) for x in arrays}
    if len(found) > 1:
        raise InputError("arrays are on CPU and GPU: move them by cupy.asarray or cupy.asnumpy")
    return DEVICES[found == {True}]


def checked_device(device: Any) -> str:
    """Return ``device`` if it is one that is here.

    Raises
    ------
    InputError
        If it is not "cpu" or "gpu", or there is no card.
    """
    if device not in DEVICES:
        raise InputError(f'device is {device!r}: it must be "cpu" or "gpu"')
    if device == "gpu":
        cupy()
    return str(device)


def namespace(device: str) -> Any:
    """Return the module that makes arrays on a device: NumPy or CuPy."""
    return cupy() if device == "gpu" else np


def contiguous(x: Array) -> Array:
    """Return ``x`` where it is, in one piece of memory; on a card where four numbers are read at once."""
    whole = namespace(device_of(x)).ascontiguousarray(x)
    if on_gpu(x) and whole.data.ptr % (4 * whole.itemsize):
        whole = whole.copy()
    return cast(Array, whole)


def row_dots(a: Array, b: Array) -> Array:
    """Return a . b of each row of arrays (n, d), where they are."""
    if on_gpu(a):
        from physscore.cuda.tempered import dots

        return cast(Array, dots(a, b))
    return cast(Array, np.einsum("ni,ni->n", a, b))


def to_host(x: Any) -> Array:
    """Return ``x`` as a NumPy array."""
    return cast(Array, cupy().asnumpy(x)) if on_gpu(x) else np.asarray(x)


def beside(x: Any, owner: Any, name: str, dtype: Any = None) -> Array:
    """Return the array ``owner.name``, as ``dtype`` if one is given, where ``x`` is; a card keeps it."""
    numbers: Array = getattr(owner, name)

    def make() -> Array:
        return numbers if dtype is None else numbers.astype(dtype, copy=False)

    if not on_gpu(x):
        return make()
    from physscore.cuda import kept

    return cast(Array, kept(owner, (name, dtype), make))


def floating_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return ``dtype`` as float32 or float64.

    Raises
    ------
    InputError
        If it is anything else.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise InputError(f"dtype is {dtype!r}: it must be float32 or float64")
    return found


def unmasked(x: Any, name: str) -> Array:
    """Return ``x`` as a NumPy array.

    Raises
    ------
    InputError
        If it is none, or a masked array in which something is masked, which would be lost.
    """
    if isinstance(x, np.ma.MaskedArray) and x.mask.any():
        raise InputError(
            f"{name} is a masked array with {int(x.mask.sum())} masked values: fill them, or leave them out "
            "by mask= where there is one"
        )
    try:
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors that require grad
        raise InputError(f"{name} is no array of numbers: {error}") from None


def real_numbers(x: Any, name: str) -> npt.NDArray[np.float64]:
    """Return numbers of any shape as float64; they may be infinite or nan.

    Raises
    ------
    InputError
        If they are not real numbers, as text, complex numbers and masked arrays are not.
    """
    found = unmasked(x, name)
    try:
        if found.dtype.kind in "fiubO":
            return found.astype(np.float64)
    except (TypeError, ValueError):
        pass
    raise InputError(f"{name} is {_short(x)}: it must hold real numbers")


def real_number(x: Any, name: str) -> float:
    """Return one finite number.

    Raises
    ------
    InputError
        If it is none.
    """
    found = real_numbers(x, name)
    if found.ndim or isinstance(x, bool) or not np.isfinite(found):
        raise InputError(f"{name} is {_short(x)}: it must be a finite number")
    return float(found)


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 80 else f"{text[:77]}..."


def as_states(x: Any, shape: tuple[int, ...], name: str = "x") -> Array:
    """Return ``x`` as a float32 or float64 array of shape (n, *shape), converting other real types.

    Raises
    ------
    InputError
        If the shape does not fit or the values are not real numbers.
    """
    states = x if on_gpu(x) else unmasked(x, name)
    if states.shape[1:] != shape or states.ndim != len(shape) + 1:
        wanted = ", ".join(["n", *map(str, shape)])
        raise InputError(f"{name} has shape {states.shape}: it must be ({wanted}), a batch of states")
    if states.dtype.kind not in "fiub":
        raise InputError(f"{name} has the type {states.dtype}: it must hold real numbers")
    if states.dtype not in (np.float32, np.float64):
        states = states.astype(np.float64 if states.dtype != np.float16 else np.float32)
    return states


def cholesky(matrix: Array, name: str) -> Array:
    """Return the lower triangle L of ``matrix`` = L L^T.

    Raises
    ------
    InputError
        If it is not symmetric and positive definite.
    """
    scale = np.abs(matrix).max()
    if not np.allclose(matrix, matrix.T, rtol=0, atol=1e-10 * scale):
        raise InputError(f"{name} is not symmetric: entries differ from their mirror images by up to "
                         f"{np.abs(matrix - matrix.T).max():.3g}")  # fmt: skip
    try:
        return np.linalg.cholesky(0.5 * (matrix + matrix.T))
    except np.linalg.LinAlgError:
        lowest = np.linalg.eigvalsh(matrix)[0]
        raise InputError(f"{name} is not positive definite: its lowest eigenvalue is {lowest:.3g}") from None


def available_memory(device: str = "cpu") -> int | None:
    """Return the bytes of memory that can still be used, or None where the system does not say."""
    if device == "gpu":
        kept = int(cupy().get_default_memory_pool().free_bytes())
        return kept + int(cupy().cuda.runtime.memGetInfo()[0])
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _unused_memory() -> int:
    """Return the bytes of memory that nothing uses, of all that are available: 0 if not known."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def require_memory(need: int, what: str, device: str = "cpu") -> None:
    """Refuse a piece of work that does not fit into memory, before it starts.

    Raises
    ------
    InputError
        If ``need`` bytes are more than there are.
    """
    # Asking the driver, or reading what the system writes of itself, takes its time beside a small field.
    if need <= (cupy().get_default_memory_pool().free_bytes() if device == "gpu" else _unused_memory()):
        return
    have = available_memory(device)
    if have is not None and need > have:
        raise InputError(
            f"{what} needs {need / 2**30:.3g} GiB of memory and {have / 2**30:.3g} GiB are free"
            f"{' on the card' if device == 'gpu' else ''}: "
            "ask for less, or for dtype float32"
        )
