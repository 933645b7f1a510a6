"""Lattices on a card, and on its stand-in, have the energies and scores that they have on the CPU."""

import ctypes
import math
from typing import Any

import cuda_on_host
import numpy as np
import pytest
from test_cuda import card, close  # noqa: F401

import physscore as ps
from physscore import noise
from physscore.arrays import to_host
from physscore.cuda import options_for, source_of

SHAPES = [(2,), (7,), (2, 3), (6, 4), (2, 2, 2), (4, 3, 5)]
MODELS = {
    "phi4 of a mass": lambda shape: ps.Phi4(shape, mass2=-0.5, coupling=0.2),
    "free field": lambda shape: ps.Phi4(shape, mass2=0.3, coupling=0.0),
    "phi4 of hopping": lambda shape: ps.Phi4(shape, kappa=0.2, lam=0.5),
    "ferromagnet": lambda shape: ps.Ising(shape, coupling=0.4),
    "antiferromagnet": lambda shape: ps.Ising(shape, coupling=-0.3, field=0.7),
}


def states(n: int, shape: tuple[int, ...], dtype: Any) -> Any:
    return (1.5 * noise.normal(n, math.prod(shape), seed=4, dtype=dtype)).reshape(n, *shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", MODELS)
def test_energies_and_scores_are_the_same(card: Any, model: str, shape: Any, dtype: Any) -> None:  # noqa: F811
    target = MODELS[model](shape)
    for n in (1, 5):
        x = states(n, shape, dtype)
        there = card.asarray(x)
        energy, score = target.energy_and_score(x)
        found, slope = target.energy_and_score(there)
        close(found, energy, dtype)
        close(slope, score, dtype)
        close(target.energy(there), energy, dtype)
        close(target.score(there), score, dtype)
        assert (to_host(there) == x).all()  # the caller's array is left as it was


@pytest.mark.parametrize("model", MODELS)
def test_the_arrays_formula_is_the_same(card: Any, model: str) -> None:  # noqa: F811
    target = MODELS[model]((4, 3, 5))
    for dtype in (np.float32, np.float64):
        x = states(3, target.shape, dtype)
        energy, score = target._formula(x)
        found, slope = target.energy_and_score(card.asarray(x))
        close(found, energy, dtype)
        close(slope, score, dtype)


@pytest.mark.parametrize("model", MODELS)
def test_states_of_several_parts_and_far_from_zero(card: Any, model: str) -> None:  # noqa: F811
    target = MODELS[model]((50, 70))
    x = states(2, target.shape, np.float64)
    x[1] *= 300
    for values in (x, x[:, :, ::-1], x[:0]):  # dense, not dense, empty
        energy, score = target.energy_and_score(values)
        found, slope = target.energy_and_score(card.asarray(values))
        np.testing.assert_allclose(to_host(found), energy, rtol=1e-12)
        np.testing.assert_allclose(to_host(slope), score, rtol=1e-11, atol=1e-11 * np.abs(x).max())
    whole = np.round(3 * x[:1]).astype(np.int64)
    close(target.score(card.asarray(whole)), target.score(whole), np.float64)


@pytest.mark.parametrize("sides", [(1, 1, 7), (1, 6, 4), (4, 3, 5), (2, 2, 2)])
@pytest.mark.parametrize("threads", [3, 8, 32])
@pytest.mark.parametrize("small", ["1 << 30", "1"], ids=["32-bit", "64-bit"])
def test_many_threads_take_each_site_once(
    sides: Any, threads: int, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thread walks by as many sites as a block has threads; here they walk one after the other."""
    if not cuda_on_host.available():
        pytest.skip("there is no C++ compiler")
    lent = cuda_on_host.SHIM.replace("static const struct", 'extern "C" { struct Three')
    lent = lent.replace("gridDim = {1, 1, 1};", "gridDim = {1, 1, 1}; }")
    monkeypatch.setattr(cuda_on_host, "SHIM", lent)
    source = source_of("lattice")
    assert source.count("< 1 << 30") == 1
    source = source.replace("< 1 << 30", f"< {small}")
    _, library = cuda_on_host.compiled.__wrapped__(source, options_for(np.float64))  # the shim is another one
    place = {
        name: (ctypes.c_uint * 3).in_dll(library, name)
        for name in ("blockIdx", "threadIdx", "blockDim", "gridDim")
    }
    shape = sides[sides.count(1) :]
    n, parts = 3, 2
    x = states(n, shape, np.float64)
    taken, written = np.zeros(x.shape, int), np.empty_like(x)
    place["blockDim"][0], place["gridDim"][0] = threads, 4
    for place["blockIdx"][0] in range(4):
        for place["threadIdx"][0] in range(threads):
            out = np.full_like(x, np.nan)
            library.times_couplings(
                ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(out.ctypes.data),
                *map(ctypes.c_longlong, (n, parts)), len(shape), *map(ctypes.c_longlong, sides),
                ctypes.c_double(0.5), ctypes.c_double(-2.0),
            )  # fmt: skip
            here = np.isfinite(out)
            taken += here
            written[here] = out[here]
    assert (taken == 1).all()
    around = sum(np.roll(x, by, axis) for axis in range(1, x.ndim) for by in (1, -1))
    np.testing.assert_allclose(written, 0.5 * x - 2.0 * around, rtol=1e-13, atol=1e-13)
