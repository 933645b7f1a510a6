"""A stand-in for CuPy: the CUDA kernels of the package, compiled by g++ and run on the processor.

``with install() as cupy:`` puts it where ``import cupy`` finds it. Its arrays refuse what CuPy's refuse: to
be mixed with NumPy arrays, to become one unasked. Its kernels refuse arguments that do not fit their
parameters, which a card would read as garbage. ``transfers`` and ``launches`` tell what was done. A kernel
runs as one block of one thread, so it must be a loop that is right for any launch. What the array API
standard has is computed by array_api_strict, which refuses what is NumPy's alone. What you miss in a list
here, add to it.
"""

import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest
import scipy.fft
from numpy.lib.mixins import NDArrayOperatorsMixin

try:
    import array_api_strict as standard
except ImportError:  # where there is a card, which is tested instead
    standard = None

transfers = SimpleNamespace(to_host=0, to_device=0)  # copies between the two since the last install()
launches = []  # (name, grid, block) of every kernel launched since then


class Array(NDArrayOperatorsMixin):
    """``cupy.ndarray``. It holds a NumPy array and is none, for ``np.asarray`` asks no subclass."""

    __module__ = "cupy"
    __slots__ = ("__weakref__", "_host")
    __array_priority__ = 100

    def __init__(self, host):
        if host.dtype.kind not in "biufc" or host.dtype.char in "gG":
            raise TypeError(f"CuPy has no arrays of {host.dtype}")
        self._host = host

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. "
                        "Please use `.get()` to construct a NumPy array explicitly.")  # fmt: skip

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **kwargs):
        if method != "__call__" or ufunc not in SUPPORTED:
            return NotImplemented
        require_operands(*inputs, *out)
        return apply(ufunc, inputs, {**kwargs, "out": out[0]} if out else kwargs)

    def __array_function__(self, function, types, args, kwargs):
        return apply(function, args, kwargs) if function in SUPPORTED else NotImplemented

    def __getattr__(self, name):
        if name not in ATTRIBUTES:
            raise AttributeError(f"the stand-in's arrays have no {name}")
        value = getattr(self._host, name)
        return lifted(value) if callable(value) else wrap(value)

    def __getitem__(self, key):
        return Array(self._host[index(key)])

    def __setitem__(self, key, value):
        require_operands(value)
        self._host[index(key)] = unwrap(value)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __deepcopy__(self, memo=None):
        return self.copy()

    __copy__ = __deepcopy__

    def get(self, stream=None, order="C", out=None, blocking=True):
        transfers.to_host += 1
        if out is None:
            return np.array(self._host, order=order)
        if out.shape != self.shape or out.dtype != self.dtype:
            raise ValueError(f"out is {out.dtype}{out.shape}, the array {self.dtype}{self.shape}")
        out[...] = self._host
        return out

    # A consumer is told that the memory is the host's, so that torch without a card can share it.
    def __dlpack__(self, *, stream=None, **kwargs):
        return self._host.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._host.__dlpack_device__()

    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))
    device = property(lambda self: Device())


def to_host_and(convert):
    return lambda self, *args: convert(self.get(), *args)


for _type in (bool, int, float, complex, repr, str, format):
    setattr(Array, f"__{_type.__name__}__", to_host_and(_type))
Array.item, Array.tolist = to_host_and(np.ndarray.item), to_host_and(np.ndarray.tolist)


def require_operands(*operands):
    for x in operands:
        if not isinstance(x, Array | np.generic | bool | int | float | complex):
            raise TypeError(f"Unsupported type {type(x)}")


def index(key):
    """Return an index into NumPy's array that gives a view, 0-d, where NumPy would give a scalar."""
    key = key if isinstance(key, tuple) else (key,)
    transfers.to_device += sum(isinstance(part, np.ndarray | list) for part in key)
    key = tuple(part._host if isinstance(part, Array) else part for part in key)
    return key if any(part is Ellipsis for part in key) else (*key, Ellipsis)


def unwrap(x):
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if type(x) in (list, tuple):
        return type(x)(map(unwrap, x))
    return x._host if isinstance(x, Array) else x


def wrap(x):
    if isinstance(x, list | tuple):
        return (list if isinstance(x, list) else tuple)(map(wrap, x))
    return Array(np.asarray(x)) if isinstance(x, np.ndarray | np.generic) else x


def by_the_standard(name, function, args, kwargs):
    """Call the standard's function of that name in place of NumPy's, or of an array's method."""
    if isinstance(getattr(function, "__self__", None), np.ndarray):
        args = function.__self__, *args
    if name in REDUCTIONS and len(args) == 2:
        args, kwargs["axis"] = args[:1], args[1]
    out = kwargs.pop("out", None)
    if "ddof" in kwargs:
        kwargs["correction"] = kwargs.pop("ddof")
    if kwargs.get("dtype") is not None:
        kwargs["dtype"] = getattr(standard, np.dtype(kwargs["dtype"]).name)
    args = [standard.asarray(x) if isinstance(x, np.ndarray | np.generic) else x for x in args]
    if name in ("mean", "var", "std") and "dtype" in kwargs:  # which the standard has for sums only
        args[0] = standard.astype(args[0], kwargs.pop("dtype"))
    if name in ("concat", "stack"):
        args[0] = [standard.asarray(x) for x in args[0]]
    result = np.asarray(getattr(standard, name)(*args, **kwargs))
    if out is not None:
        np.copyto(out, result, casting="same_kind")
    return result


def apply(function, args, kwargs):
    """Call a NumPy function on what stand-in arrays hold; give stand-in arrays back, 0-d ones for scalars."""
    if function.__name__ in REDUCTIONS and kwargs.keys() & {"where", "initial"}:
        raise TypeError(f"cupy.{function.__name__} knows neither where= nor initial=")
    out, name = kwargs.get("out"), STANDARD.get(function.__name__)
    args, kwargs = unwrap(tuple(args)), {name: unwrap(x) for name, x in kwargs.items()}
    result = function(*args, **kwargs) if name is None else by_the_standard(name, function, args, kwargs)
    if function in (np.allclose, np.array_equal):
        result = np.bool_(result)  # CuPy leaves it on the device
    return wrap(result) if out is None else out


def lifted(function):
    return lambda *args, **kwargs: apply(function, args, kwargs)


def garbage(function):
    """Have new memory hold NaN (integers: -1), so that what is read before it is written shows."""

    def create(*args, **kwargs):
        x = apply(function, args, kwargs)
        ctypes.memset(x.data.ptr, 1 if x.dtype == bool else 0xFF, x.nbytes)
        return x

    return create


def array(a, dtype=None, copy=True, order="K", ndmin=0):
    transfers.to_device += not isinstance(a, Array)
    host = a._host if isinstance(a, Array) else np.array(a)
    made = np.array(host, dtype, copy=copy or None, order=order, ndmin=ndmin)
    return a if isinstance(a, Array) and made is host else Array(made)


def words(text):
    return text.split()


REDUCTIONS = words("sum prod mean var std min max amin amax all any")
ATTRIBUTES = words("""
    shape dtype ndim size nbytes itemsize strides flags T real imag sum prod mean var std min max all any
    argmax argmin argsort astype clip conj copy cumprod cumsum diagonal dot fill flatten nonzero ravel
    repeat reshape round sort squeeze swapaxes take trace transpose view
""")
# What every CuPy has, and little more than is used: see that CuPy has a function before you add it.
FUNCTIONS = [
    *REDUCTIONS,
    *words("""
    zeros zeros_like ones ones_like full full_like arange linspace eye diag diagonal indices
    ascontiguousarray copy copyto reshape ravel transpose swapaxes moveaxis squeeze expand_dims
    broadcast_to concatenate stack hstack vstack column_stack split array_split tile repeat flip roll
    append pad meshgrid atleast_1d atleast_2d where take take_along_axis nonzero flatnonzero argwhere
    searchsorted unravel_index argmin argmax cumsum cumprod nansum nanmean nanmin nanmax median
    percentile quantile average count_nonzero bincount histogram digitize diff cov unique sort argsort
    dot vdot outer tensordot einsum trace cross clip round around real imag angle isclose allclose
    array_equal iscomplexobj isrealobj shape ndim size nan_to_num interp tril triu result_type can_cast
"""),
]
FUNCTIONS += [name for name in dir(np) if isinstance(getattr(np, name), np.ufunc)]
# NumPy's name of what the standard has, and the standard's; not what gives views, for it makes copies.
STANDARD = {name: name for name in dir(standard) if isinstance(getattr(np, name, None), np.ufunc)}
STANDARD |= {getattr(np, name).__name__: name for name in STANDARD}
STANDARD |= {name: name for name in words("""
    sum prod mean var std min max all any where stack argmin argmax count_nonzero searchsorted clip round
""")}  # fmt: skip
STANDARD |= {"amin": "min", "amax": "max", "concatenate": "concat"}
LINALG = words("cholesky norm eigvalsh")
BORROWED = words("""
    bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128
    intp floating integer complexfloating generic dtype finfo iinfo pi e inf nan newaxis
""")
SUPPORTED = {getattr(np, name) for name in FUNCTIONS} | {getattr(np.linalg, name) for name in LINALG}
SUPPORTED |= {np.empty, np.empty_like}

SHIM = r"""
#include <math.h>
#define __global__ __attribute__((used))
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads()
static const struct { unsigned int x, y, z; } blockIdx = {0, 0, 0}, threadIdx = {0, 0, 0},
    blockDim = {1, 1, 1}, gridDim = {1, 1, 1};
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
#define HOST_ATOMIC(NAME, T, NEW) inline T NAME(T *p, T v) { T old = *p; *p = NEW; return old; }
#define HOST_ATOMICS(T) HOST_ATOMIC(atomicAdd, T, old + v) HOST_ATOMIC(atomicExch, T, v) \
    HOST_ATOMIC(atomicMin, T, min(old, v)) HOST_ATOMIC(atomicMax, T, max(old, v))
HOST_ATOMIC(atomicAdd, float, old + v) HOST_ATOMIC(atomicAdd, double, old + v)
HOST_ATOMICS(int) HOST_ATOMICS(unsigned int) HOST_ATOMICS(unsigned long long)
#line 1 "kernel.cu"
"""
COMPILER = ["g++", "-O2", "-std=c++14", "-fPIC", "-ffp-contract=off"]
C_TYPES = {  # C type: that of a scalar in ctypes, and in NumPy; a pointer may point at all of the latter
    "double": (ctypes.c_double, "float64", "complex128"),
    "float": (ctypes.c_float, "float32", "complex64"),
    "int": (ctypes.c_int, "int32"),
    "unsigned int": (ctypes.c_uint, "uint32"),
    "long long": (ctypes.c_longlong, "int64"),
    "unsigned long long": (ctypes.c_ulonglong, "uint64"),
    "bool": (ctypes.c_bool, "bool", "uint8"),
    "unsigned char": (ctypes.c_ubyte, "uint8", "bool"),
}


def available():
    return standard is not None and shutil.which(COMPILER[0]) is not None


def gxx(text, *options):
    done = subprocess.run([*COMPILER, *options, "-"], input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ does not compile the kernels:\n{done.stderr}")
    return done.stdout


@cache
def compiled(code, options):
    """Return the source, with includes and macros resolved, and the library, kept by that source."""
    text = gxx(SHIM + code, *(o for o in options if o.startswith(("-D", "-I"))), "-E", "-x", "c++")
    folder = Path(tempfile.gettempdir()) / f"cuda-on-host-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder} belongs to somebody else")
    library = folder / f"{hashlib.sha256((repr(COMPILER) + text).encode()).hexdigest()}.so"
    if not library.exists():
        unfinished = library.with_suffix(f".{uuid4().hex}")  # another process may be at it, too
        gxx(text, "-shared", "-o", str(unfinished), "-x", "c++-cpp-output")
        os.replace(unfinished, library)
    return text, ctypes.CDLL(str(library))


def parameters(text, kernel):
    """Read a kernel's parameters out of its source: name, C type, and whether it is a pointer to that."""
    text = re.sub(r"^#.*$", "", text, flags=re.MULTILINE)
    found = re.search(rf"__attribute__\(\(used\)\)\s+void\s+{kernel}\s*\(([^()]*)\)", text)
    if found is None:
        raise RuntimeError(f'there is no extern "C" __global__ void {kernel}(...)')
    types = {"unsigned": "unsigned int"} | {
        m[2]: m[1] for m in re.finditer(r"typedef ([\w ]+?) (\w+);", text)
    }
    for declaration in filter(str.strip, found[1].split(",")):
        parts = re.findall(r"\w+|\S", declaration)
        *parts, name = (part for part in parts if part not in ("const", "__restrict__"))
        kind, star, rest = " ".join(parts).partition(" *")
        while kind in types:
            kind = types[kind]
        if kind not in C_TYPES or rest:
            raise TypeError(f"{kernel}: the type of the parameter {declaration.strip()} is not known")
        yield name, kind, bool(star)


def argument(where, kind, is_pointer, value):
    """Return what ctypes passes on, of a value that fits the parameter exactly."""
    if not isinstance(value, Array if is_pointer else np.generic | bool | int | float):
        raise TypeError(f"{where} needs a {'cupy array' if is_pointer else 'scalar'}, not {type(value)}")
    # CuPy passes Python's bool, int and float on as bool, long long and double.
    found = value.dtype if isinstance(value, Array | np.generic) else np.dtype(type(value))
    dtypes = C_TYPES[kind][1:] if is_pointer else C_TYPES[kind][1:2]
    if found.name not in dtypes:
        raise TypeError(f"{where} needs {' or '.join(dtypes)}, not {found}")
    if not is_pointer:
        return value.item() if isinstance(value, np.generic) else value
    if not value.flags.c_contiguous:
        raise ValueError(f"{where} got an array that is not C-contiguous")
    return value.data.ptr


class RawModule:
    def __init__(self, code, *, options=(), backend="nvrtc", name_expressions=None):
        self._text, self._library = compiled(code, options)

    def get_function(self, name):
        wanted = list(parameters(self._text, name))
        function = getattr(self._library, name)
        function.argtypes = [ctypes.c_void_p if star else C_TYPES[kind][0] for _, kind, star in wanted]
        function.restype = None

        def launch(grid, block, args, *, shared_mem=0, stream=None):
            for n in grid, block:
                whole = isinstance(n, tuple) and all(isinstance(m, int | np.integer) and m > 0 for m in n)
                if not whole or not 1 <= len(n) <= 3 or math.prod(block) > 1024:
                    raise ValueError(f"{name}: a launch with grid {grid} and block {block} is not possible")
            if len(args) != len(wanted):
                raise TypeError(f"{name}: {len(args)} arguments for {len(wanted)} parameters")
            values = [
                argument(f"{name}: parameter {parameter}", kind, star, x)
                for (parameter, kind, star), x in zip(wanted, args, strict=True)
            ]
            launches.append((name, grid, block))
            function(*values)

        return launch


FFT_TYPES = dict(zip(words("C2C R2C C2R Z2Z D2Z Z2D"), (0x29, 0x2A, 0x2C, 0x69, 0x6A, 0x6C), strict=True))


class PlanNd:
    """``batch`` unnormalised real transforms of dense arrays, forward or inverse as their type says."""

    def __init__(
        self, shape, inembed, istride, idist, onembed, ostride, odist, fft_type, batch, order, axis, size
    ):
        types = {0x2A: ("float32", "complex64"), 0x6A: ("float64", "complex128")}
        self._forward = fft_type in types
        types |= {0x2C: ("complex64", "float32"), 0x6C: ("complex128", "float64")}
        if inembed or onembed or order != "C" or not 1 <= len(shape) <= 3 or fft_type not in types:
            raise ValueError("the stand-in has real transforms of 1 to 3 dimensions, order 'C', not embedded")
        self._types, self._shape, self._batch = types[fft_type], tuple(shape), batch
        self._half = (*self._shape[:-1], self._shape[-1] // 2 + 1)
        size = batch * math.prod(self._half) * np.dtype(self._types[self._forward]).itemsize
        self.work_area = SimpleNamespace(mem=SimpleNamespace(size=size))

    def fft(self, a, out, direction):
        shapes = (self._shape, self._half) if self._forward else (self._half, self._shape)
        for x, dtype, shape in zip((a, out), self._types, shapes, strict=True):
            if not isinstance(x, Array) or x.dtype != dtype:
                raise TypeError(f"the plan needs a cupy array of {dtype}, not {getattr(x, 'dtype', type(x))}")
            if x.size != self._batch * math.prod(shape) or not x.flags.c_contiguous:
                raise ValueError(f"the plan needs {self._batch} x {shape} numbers, dense, not {x.shape}")
        if direction != (-1 if self._forward else 1) or np.may_share_memory(a._host, out._host):
            raise ValueError("the plan has another direction, or the transform is in place, without padding")
        x, axes = a._host.reshape(self._batch, *shapes[0]), range(1, len(self._shape) + 1)
        if self._forward:
            result = scipy.fft.rfftn(x, axes=axes)
        else:
            result = scipy.fft.irfftn(x, self._shape, axes, norm="forward")
            a.fill(complex(np.nan, np.nan))  # cuFFT uses its input up
        out._host[...] = result.reshape(out.shape)


class Device:
    id, compute_capability = 0, "90"

    def __init__(self, device=0):
        if device not in (None, *range(cupy.cuda.runtime.getDeviceCount())):
            raise RuntimeError(f"cudaErrorInvalidDevice: there is no device {device}")
        self.own = device or 0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def use(self):
        Device.id = self.own

    def synchronize(self):
        pass


def module(name, **content):
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(content)
    return made


stream = SimpleNamespace(ptr=0, synchronize=lambda: None)
pool = {"free_all_blocks": lambda: None} | dict.fromkeys(
    words("free_bytes used_bytes total_bytes"), lambda: 0
)
cufft = module(
    "cupy.cuda.cufft", PlanNd=PlanNd, CUFFT_FORWARD=-1, CUFFT_INVERSE=1,
    **{f"CUFFT_{name}": value for name, value in FFT_TYPES.items()}, getVersion=lambda: 12000,
)  # fmt: skip
runtime = module(
    "cupy.cuda.runtime", getDeviceCount=lambda: 1, memGetInfo=lambda: (8 << 30, 16 << 30),
    deviceSynchronize=lambda: None, CUDARuntimeError=RuntimeError,
)  # fmt: skip
cuda = module(
    "cupy.cuda", cufft=cufft, runtime=runtime, Device=Device, Stream=SimpleNamespace(null=stream),
    get_current_stream=lambda: stream, is_available=lambda: True,
)  # fmt: skip
cupy = module(
    "cupy", __version__="14.0.0", cuda=cuda, ndarray=Array, RawModule=RawModule, is_available=lambda: True,
    transfers=transfers, launches=launches, get_default_memory_pool=lambda: SimpleNamespace(**pool),
    array=array, asarray=lambda a, dtype=None, order="K": array(a, dtype, False, order),
    asnumpy=lambda a, **kwargs: a.get(**kwargs) if isinstance(a, Array) else np.asarray(a),
    empty=garbage(np.empty), empty_like=garbage(np.empty_like),
    from_dlpack=lambda x: Array(np.from_dlpack(x)),
    get_array_module=lambda *xs: cupy if any(isinstance(x, Array) for x in xs) else np,
    linalg=module("cupy.linalg", **{name: lifted(getattr(np.linalg, name)) for name in LINALG}),
    **{name: lifted(getattr(np, name)) for name in FUNCTIONS},
    **{name: getattr(np, name) for name in BORROWED},
)  # fmt: skip


@contextmanager
def install():
    """Let ``import cupy`` find the stand-in inside this block, its counters at zero, and give it."""
    transfers.to_host = transfers.to_device = 0
    launches.clear()
    with pytest.MonkeyPatch.context() as patch:
        for made in cupy, cuda, cufft, runtime, module("cupyx", errstate=lambda **settings: nullcontext()):
            patch.setitem(sys.modules, made.__name__, made)
        yield cupy
