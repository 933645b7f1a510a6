"""Real Fourier transforms by cuFFT, of batches, with their plans kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from physscore.arrays import contiguous, cupy


@lru_cache(maxsize=16)
def _plan(shape: tuple[int, ...], batch: int, kind: int, device: int) -> Any:
    # A plan keeps its work area, which is empty for powers of 2.
    from cupy.cuda import cufft

    last = len(shape) - 1
    return cufft.PlanNd(shape, None, 1, 0, None, 1, 0, kind, batch, "C", last, shape[-1])


def forward_fft(x: Any) -> Any:
    """Return the unnormalised half spectra of real fields (n, *shape)."""
    from cupy.cuda import cufft

    xp, shape = cupy(), x.shape[1:]
    single = x.dtype == np.float32
    out = xp.empty((len(x), *shape[:-1], shape[-1] // 2 + 1), np.complex64 if single else np.complex128)
    if len(x):
        kind = cufft.CUFFT_R2C if single else cufft.CUFFT_D2Z
        plan = _plan(shape, len(x), kind, xp.cuda.Device().id)
        plan.fft(contiguous(x), out, cufft.CUFFT_FORWARD)  # which refuses a field among others
    return out


def inverse_fft(modes: Any, shape: Sequence[int], out: Any = None) -> Any:
    """Return the real fields (n, *shape) of half spectra, unnormalised, in ``out`` if there is such an
    array. The spectra are used up."""
    from cupy.cuda import cufft

    xp = cupy()
    single = modes.dtype == np.complex64
    if out is None:
        out = xp.empty((len(modes), *shape), np.float32 if single else np.float64)
    if len(modes):
        kind = cufft.CUFFT_C2R if single else cufft.CUFFT_Z2D
        plan = _plan(tuple(shape), len(modes), kind, xp.cuda.Device().id)
        plan.fft(xp.ascontiguousarray(modes), out, cufft.CUFFT_INVERSE)
    return out
