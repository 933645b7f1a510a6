"""The stand-in for CuPy refuses what CuPy refuses, and runs kernels that get what they declare."""

import copy
import math
import operator
import sys

import numpy as np
import pytest
import scipy.fft
from cuda_on_host import available, install, launches, transfers

SOURCE = r"""
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// y += a x, in a loop for any launch; not void saxpy(int wrong)
extern "C" __global__ void __launch_bounds__(256) saxpy(i64 n, REAL a, const REAL* __restrict__ x, REAL *y) {
    __shared__ int unused;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x)
        y[i] += a * x[i];
    __syncthreads();
}

static __device__ __forceinline__ double square(double x) { return x * x; }

extern "C" __global__ void collect(
    const u32* bits, const bool* kept, /* of what is kept */ double* sum, u64 *high, u64 key, int n,
    bool all  // or of all, as the case may be
) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        if (all || kept[i]) {
            atomicAdd(sum, square((double)bits[i]));
            atomicMax(high, key + bits[i]);
        }
}

extern "C" __global__ void strange(const short* x) {}
"""


@pytest.fixture
def cupy():
    with install():
        import cupy

        yield cupy


@pytest.fixture(params=["float", "double"])
def module(request, cupy):
    if not available():
        pytest.skip("there is no C++ compiler")
    made = cupy.RawModule(code=SOURCE, options=(f"-DREAL={request.param}", "--fmad=false"), backend="nvrtc")
    made.real = np.dtype(request.param if request.param == "double" else "float32").type
    return made


def same(x, expected):
    assert type(x).__module__.split(".")[0] == "cupy"
    np.testing.assert_array_equal(x.get(), expected, strict=True)


def test_it_is_found_inside_the_block_only():
    before = sys.modules.get("cupy")
    with install() as given:
        import cupy
        import cupy.cuda.runtime
        import cupyx
        from cupy.cuda import Device, cufft

        assert given is cupy
        assert cupy.cuda.cufft is cufft
        assert cupy.cuda.runtime.getDeviceCount() == 1
        with cupyx.errstate(linalg="raise"), Device() as device:
            device.synchronize()
            cupy.cuda.Stream.null.synchronize()
        x = cupy.zeros(2)
        assert cupy.get_array_module(x) is cupy
        assert cupy.get_array_module(np.zeros(2)) is np
        assert isinstance(x, cupy.ndarray)
    assert sys.modules.get("cupy") is before


MIXED = {
    "array + numpy": lambda x, n: x + n,
    "numpy * array": lambda x, n: n * x,
    "numpy @ array": lambda x, n: n @ x,
    "array + 0-d numpy": lambda x, n: x + n[0, ...],
    "array + list": lambda x, n: operator.add(x, [1.0, 2.0, 3.0]),
    "array += numpy": lambda x, n: operator.iadd(x, n),
    "numpy += array": lambda x, n: operator.iadd(n, x),
    "out is numpy": lambda x, n: np.add(x, 1.0, out=n),
    "out is array": lambda x, n: np.add(n, 1.0, out=x),
    "where": lambda x, n: np.where(x > 0, x, n),
    "concatenate": lambda x, n: np.concatenate([x, n]),
    "method": lambda x, n: x.dot(n),
    "array[:] = numpy": lambda x, n: operator.setitem(x, slice(None), n),
    "array[0] = 0-d numpy": lambda x, n: operator.setitem(x, 0, n[0, ...]),
    "numpy[:] = array": lambda x, n: operator.setitem(n, slice(None), x),
}


@pytest.mark.parametrize("name", MIXED)
def test_arrays_are_not_mixed(cupy, name):
    x, n = cupy.arange(3.0), np.arange(3.0)
    with pytest.raises(TypeError):
        MIXED[name](x, n)
    same(x, n)


CONVERSIONS = {
    "asarray": np.asarray,
    "array": np.array,
    "ascontiguousarray": lambda x: np.ascontiguousarray([x, x]),
    "float64": np.float64,
    "index": lambda x: np.zeros(3)[x],
    "scipy": scipy.fft.fft,
    "methods of ufuncs": np.add.reduce,
    "not in the list": np.fft.fft,
    "random": lambda x: np.random.default_rng().permuted(x),
}


@pytest.mark.parametrize("name", CONVERSIONS)
def test_nothing_is_converted_unasked(cupy, name):
    with pytest.raises(TypeError):
        CONVERSIONS[name](cupy.arange(3.0))


def test_functions_and_methods_are_dispatched(cupy):
    n = np.arange(12.0).reshape(3, 4)
    x = cupy.asarray(n)
    same(np.exp(x) + 2.0 * x - np.float64(1.0), np.exp(n) + 2.0 * n - 1.0)
    same(np.where(x > 5, x, 0.0), np.where(n > 5, n, 0.0))
    same(np.roll(x, 1, axis=0), np.roll(n, 1, axis=0))
    same(np.einsum("ij,kj->ik", x, x), np.einsum("ij,kj->ik", n, n))
    same(cupy.concatenate([x, x[:1]]), np.concatenate([n, n[:1]]))
    same(x @ x.T, n @ n.T)
    same(x.sum(axis=1, keepdims=True, dtype=np.float32), n.sum(axis=1, keepdims=True, dtype=np.float32))
    same(x.transpose(1, 0).reshape(2, 6).astype(complex).imag, np.zeros((2, 6)))
    same(cupy.linalg.norm(x), np.asarray(np.linalg.norm(n)))
    same(np.linalg.cholesky(cupy.eye(2) * 4.0), np.eye(2) * 2.0)
    assert np.shape(x) == (3, 4)
    assert not np.iscomplexobj(x)
    assert [len(part) for part in np.split(x, 3)] == [1, 1, 1]
    with pytest.raises(TypeError):
        x.sum(where=x > 0)
    with pytest.raises(TypeError):
        cupy.asarray(["a"])


NOT_STANDARD = {
    "whole numbers times a fraction": lambda x, n: n * 0.5,
    "whole numbers and others": lambda x, n: n + x,
    "truth and numbers": lambda x, n: np.where(x > 0, x > 0, 1.0),
    "numbers as truth": lambda x, n: np.where(n, x, 0.0),
    "more precise in place": lambda x, n: operator.iadd(n, x),
    "mean of whole numbers": lambda x, n: n.mean(),
    "roots of whole numbers": lambda x, n: np.sqrt(n),
}


@pytest.mark.parametrize("name", NOT_STANDARD)
def test_what_is_numpys_alone_is_refused(cupy, name):
    with pytest.raises(TypeError):
        NOT_STANDARD[name](cupy.arange(3.0), cupy.arange(3))


def test_scalars_stay_on_the_device(cupy):
    x = cupy.arange(3.0)
    same(x.max(), np.asarray(2.0))
    same(x[1], np.asarray(1.0))
    same(np.mean(x), np.asarray(1.0))
    same(np.allclose(x, x), np.asarray(True))
    x[1][...] = 7  # a view
    same(x, np.array([0.0, 7.0, 2.0]))
    with pytest.raises(TypeError):
        iter(x[0])
    with pytest.raises(ValueError, match="ambiguous"):
        bool(x)


def test_views_and_places(cupy):
    x = cupy.zeros((2, 3))
    y, z = x, x.reshape(-1)
    x += 1
    x[:, 1] *= 3
    np.multiply(x, 2.0, out=x)
    assert y is x
    same(z, np.array([2.0, 6.0, 2.0] * 2))
    z[z > 5] = cupy.asarray([0.0, 1.0])
    z[np.array([0, 2])] = -1.0
    same(x, np.array([[-1.0, 0.0, -1.0], [2.0, 1.0, 2.0]]))
    same(z[cupy.asarray([3, 0])], np.array([2.0, -1.0]))
    assert x.astype(float, copy=False).data.ptr == x.data.ptr
    assert cupy.asarray(x) is x
    n = np.zeros(2)
    cupy.asarray(n)[:] = 1
    assert n.sum() == 0
    copy.deepcopy(x)[:] = 0
    assert float(x[0, 0]) == -1.0
    same(cupy.from_dlpack(x), x.get())
    assert np.isnan(cupy.empty(3).get()).all()
    assert x.data.ptr == z.data.ptr


def test_transfers_are_counted(cupy):
    x = cupy.asarray(np.arange(3.0))
    cupy.array(x)
    cupy.asarray(x)
    cupy.asnumpy(np.arange(3))
    (x + 1).sum()
    assert (transfers.to_device, transfers.to_host) == (1, 0)
    bool(x[0]), int(x[1]), float(x.sum()), x[0].item(), x.tolist(), x.get(), cupy.asnumpy(x), f"{x[0]:.1f}"
    assert (transfers.to_device, transfers.to_host) == (1, 8)
    with install():
        assert (transfers.to_device, transfers.to_host) == (0, 0)


def test_a_kernel_runs(cupy, module):
    n = 1000
    x, y = cupy.arange(n, dtype=module.real), cupy.ones(n, dtype=module.real)
    module.get_function("saxpy")((8,), (128, 1), (n, module.real(0.1), x, y))
    same(y, np.ones(n, module.real) + module.real(0.1) * np.arange(n, dtype=module.real))
    assert launches == [("saxpy", (8,), (128, 1))]


@pytest.mark.parametrize(("every", "squares", "high"), [(False, 10, 2**40 + 3), (True, 14, 2**40 + 3)])
def test_all_kinds_of_parameters(cupy, module, every, squares, high):
    bits, kept = cupy.arange(4, dtype=np.uint32), cupy.asarray(np.array([True, True, False, True]))
    total, top = cupy.zeros(1), cupy.zeros(1, dtype=np.uint64)
    collect = module.get_function("collect")
    collect((1,), (32,), (bits, kept, total, top, np.uint64(2**40), np.int32(4), every))
    assert (total.item(), top.item()) == (squares, high)
    with pytest.raises(TypeError, match="collect: parameter n needs int32, not int64"):
        collect((1,), (32,), (bits, kept, total, top, np.uint64(2**40), 4, every))


@pytest.mark.parametrize(("place", "wrong", "error", "message"), [
    (0, np.int32(9), TypeError, "parameter n needs int64, not int32"),
    (0, 9.0, TypeError, "parameter n needs int64, not float64"),
    (1, np.float16(1), TypeError, "parameter a needs float(32|64), not float16"),
    (1, 1, TypeError, "parameter a needs float(32|64), not int64"),
    (1, "array", TypeError, "parameter a needs a scalar"),
    (2, np.float64(1), TypeError, "parameter x needs a cupy array"),
    (2, np.zeros(9), TypeError, "parameter x needs a cupy array"),
    (3, "integers", TypeError, r"parameter y needs float\d+ or complex\d+, not int32"),
    (3, "strided", ValueError, "parameter y got an array that is not C-contiguous"),
])  # fmt: skip
def test_wrong_arguments_are_refused(cupy, module, place, wrong, error, message):
    x = cupy.zeros(9, dtype=module.real)
    arrays = {
        "array": x,
        "integers": cupy.zeros(9, dtype=np.int32),
        "strided": cupy.zeros(18, module.real)[::2],
    }
    args = [9, module.real(1), x, x]
    args[place] = arrays[wrong] if isinstance(wrong, str) else wrong
    with pytest.raises(error, match=f"saxpy: {message}"):
        module.get_function("saxpy")((1,), (1,), tuple(args))


def test_precisions_and_launches_are_refused(cupy, module):
    saxpy, x = module.get_function("saxpy"), cupy.zeros(9, dtype=module.real)
    other = np.float64 if module.real is np.float32 else np.float32
    for args in (9, other(1), x, x), (9, module.real(1), x.astype(other), x), (9, module.real(1), x):
        with pytest.raises(TypeError, match="saxpy"):
            saxpy((1,), (1,), args)
    for grid, block in (
        ((0,), (1,)),
        ((1,), (2048,)),
        ((1,), (64, 32)),
        (1, (1,)),
        ((1,) * 4, (1,)),
        ((1.0,), (1,)),
    ):
        with pytest.raises(ValueError, match="saxpy"):
            saxpy(grid, block, (9, module.real(1), x, x))
    assert not launches
    with pytest.raises(TypeError, match="strange: the type of the parameter const short"):
        module.get_function("strange")
    with pytest.raises(RuntimeError, match="void missing"):
        module.get_function("missing")
    with pytest.raises(RuntimeError, match=r"kernel\.cu:1"):
        cupy.RawModule(code="nonsense")


@pytest.mark.parametrize("shape", [(8,), (7,), (6, 5), (4, 8), (3, 4, 5), (5, 3, 6)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transforms(cupy, shape, dtype):
    cufft, batch, axes = cupy.cuda.cufft, 3, tuple(range(1, len(shape) + 1))
    kinds = ("R2C", "C2R") if dtype == "float32" else ("D2Z", "Z2D")
    forward, inverse = (
        cufft.PlanNd(
            shape, None, 1, 0, None, 1, 0, getattr(cufft, f"CUFFT_{kind}"), batch, "C", len(shape) - 1, None
        )
        for kind in kinds
    )
    n = np.random.default_rng(1).standard_normal((batch, *shape)).astype(dtype)
    expected = scipy.fft.rfftn(n, axes=axes)
    x, modes = cupy.asarray(n), cupy.empty(expected.shape, dtype=expected.dtype)
    forward.fft(x, modes, cufft.CUFFT_FORWARD)
    same(modes, expected)
    assert forward.work_area.mem.size > 0
    back = cupy.empty_like(x)
    inverse.fft(modes, back, cufft.CUFFT_INVERSE)
    np.testing.assert_allclose(back.get() / math.prod(shape), n, atol=1e-5)
    assert np.isnan(modes.get()).all()
    with pytest.raises(TypeError, match="needs a cupy array"):
        forward.fft(modes, x, cufft.CUFFT_FORWARD)
    with pytest.raises(ValueError, match="dense"):
        forward.fft(x[:2], modes, cufft.CUFFT_FORWARD)
    with pytest.raises(ValueError, match="direction"):
        forward.fft(x, modes, cufft.CUFFT_INVERSE)
