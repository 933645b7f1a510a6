"""Transforms of real fields into their half spectra and back: whole, or one part after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from physscore.arrays import n_threads, on_gpu, parallel, threads
from physscore.core import Array

_BLOCK_BYTES = 1 << 17


def blocks(fields: int, cells: int, device: str = "cpu") -> list[slice]:
    """Return which of many fields to transform at once: a block that stays in the cache; one on a card.

    A call takes tens of microseconds, however small. Each line is transformed by itself, so that a field
    does not depend on its block.
    """
    together = max(1, _BLOCK_BYTES // (8 * cells)) if device == "cpu" else 1
    return [slice(start, min(start + together, fields)) for start in range(0, fields, together)]


def forward_ffts(x: Array) -> Array:
    """Return the unnormalised half spectra of fields (n, *shape)."""
    if on_gpu(x):
        from physscore.cuda import fft

        return cast(Array, fft.forward_fft(x))
    import scipy.fft

    return np.asarray(scipy.fft.rfftn(x, axes=range(1, x.ndim), workers=n_threads()))


def inverse_ffts(modes: Array, shape: Sequence[int]) -> Array:
    """Return the unnormalised real fields (n, *shape) of half spectra, which are used up."""
    if on_gpu(modes):
        from physscore.cuda import fft

        return cast(Array, fft.inverse_fft(modes, shape))
    if len(modes) == 1:
        return inverse_fft(modes[0], shape)[np.newaxis]
    import scipy.fft

    options: Any = {"norm": "forward", "workers": n_threads()}
    for axis in range(1, len(shape)):
        modes = scipy.fft.ifft(modes, axis=axis, overwrite_x=True, **options)
    return np.asarray(scipy.fft.irfft(modes, n=shape[-1], **options))


def forward_fft(x: Array) -> Array:
    """Return the unnormalised half spectrum of one real array, sum_x x exp(-ikx), over all axes."""
    if on_gpu(x):
        return cast(Array, forward_ffts(x[np.newaxis])[0])
    import scipy.fft

    return np.asarray(scipy.fft.rfftn(x, workers=n_threads()))


# The inverse goes slab by slab along the first axis, each small enough to stay in the cache between
# its passes; only the transform along the first axis crosses all memory. That is faster than irfftn,
# and the slabs can take the place of their spectrum.
_SLAB_BYTES = 1 << 21


def inverse_fft(modes: Array, shape: Sequence[int]) -> Array:
    """Return sum_k modes exp(ikx), unnormalised, as a real array of ``shape``.

    ``modes`` is used up: the real array takes its place in memory, packed from the front, since a
    slab never reaches past the slabs that were read before it.
    """
    if on_gpu(modes):
        return cast(Array, inverse_ffts(modes[np.newaxis], shape)[0])
    if len(shape) == 1:
        import scipy.fft

        return np.asarray(scipy.fft.irfft(modes, n=shape[0], norm="forward", workers=n_threads()))
    return inverse_planes(inverse_along_first(modes), shape[1:])


def inverse_along_first(modes: Array) -> Array:
    """Do the part of :func:`inverse_fft` along the first axis, in place."""
    import scipy.fft

    done = scipy.fft.ifft(modes, axis=0, norm="forward", overwrite_x=True, workers=n_threads())
    return np.asarray(done)


def inverse_planes(modes: Array, sides: Sequence[int]) -> Array:
    """Do the rest of :func:`inverse_fft`: return real planes (n, *sides), in the memory of ``modes``."""
    import scipy.fft

    workers = n_threads()
    packed = _planes_in(modes, sides)
    planes = max(1, workers * _SLAB_BYTES // modes[0].nbytes)
    for start in range(0, len(modes), planes):
        slab = slice(start, start + planes)
        part = modes[slab]
        if len(sides) == 2:
            part = scipy.fft.ifft(part, axis=1, norm="forward", overwrite_x=True, workers=workers)
        real = scipy.fft.irfft(part, n=sides[-1], axis=-1, norm="forward", workers=workers)
        if len(real) == len(modes):
            return np.asarray(real)  # all in the cache: nothing to pack
        packed[slab] = real
        del real  # before the next is made
    return packed


def _planes_in(modes: Array, sides: Sequence[int]) -> Array:
    """Return real planes (n, *sides) at the front of the memory of their half spectra."""
    shape = (len(modes), *sides)
    return modes.reshape(-1).view(modes.real.dtype)[: math.prod(shape)].reshape(shape)


def planes_with_room(n: int, sides: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """Return real planes (n, *sides), not yet filled, whose half spectra can take their place."""
    modes = np.empty((n, *sides[:-1], sides[-1] // 2 + 1), np.result_type(dtype, np.complex64))
    return _planes_in(modes, sides)


def forward_planes(x: Array, *, overwrite_x: bool = False) -> Array:
    """Return the unnormalised half spectra of planes (n, *sides); they may take the place of ``x``, if that
    has room, as those of :func:`inverse_planes` have."""
    import scipy.fft

    transform = partial(scipy.fft.rfftn, axes=range(1, x.ndim), workers=n_threads())
    shape = (*x.shape[:-1], x.shape[-1] // 2 + 1)
    room = x.base if overwrite_x else None
    if not isinstance(room, np.ndarray) or room.dtype.kind != "c" or room.shape != shape:
        return np.asarray(transform(x))
    planes = max(1, n_threads() * _SLAB_BYTES // room[0].nbytes)
    for start in reversed(range(0, len(x), planes)):  # a slab never reaches below those still to be read
        room[start : start + planes] = transform(x[start : start + planes])
    return room


def through_planes(modes: Array, shape: Sequence[int], work: Callable[[int, Array], Array]) -> Array:
    """Transform a half spectrum to cells, have ``work`` change these, and transform back, all in its memory.

    ``work(first, planes)`` returns what planes first, first + 1, ... become. Each is read once between the
    transforms along the first axis, and a thread has it in its cache all the way.
    """
    import scipy.fft

    modes, sides = inverse_along_first(modes), shape[1:]
    planes = max(1, _SLAB_BYTES // (2 * modes[0].nbytes))  # not for each thread: they round as their number
    axes = range(1, len(shape))

    def some(start: int, stop: int) -> None:
        with threads(1):
            for first in range(start * planes, min(stop * planes, len(modes)), planes):
                part = modes[first : first + planes]
                if len(sides) == 2:
                    part = scipy.fft.ifft(part, axis=1, norm="forward")
                cells = scipy.fft.irfft(part, n=sides[-1], axis=-1, norm="forward")
                modes[first : first + planes] = scipy.fft.rfftn(work(first, cells), axes=axes)

    parallel(some, -(-len(modes) // planes))
    return forward_along_first(modes)


def forward_along_first(modes: Array) -> Array:
    """Make whole half spectra of those of planes, in place."""
    import scipy.fft

    return np.asarray(scipy.fft.fft(modes, axis=0, overwrite_x=True, workers=n_threads()))
