"""The compiled form of an energy, compiled once more for the threads of a card, by numba-cuda."""

from __future__ import annotations

import math
import warnings
from functools import cache, lru_cache
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numba.cuda
import numpy as np
from numba import config

from physscore.arrays import cupy, on_gpu
from physscore.core import Array, InputError, Point

cuda: Any = numba.cuda
types: Any = numba.types

MAX_DIM = 64
"""Beyond, a state does not fit into the memory of a thread."""

THREADS = 128

# Kernels run as Python: for tests without a card.
_SIMULATED = bool(config.ENABLE_CUDASIM)  # type: ignore[attr-defined]
_options: dict[str, Any] = {} if _SIMULATED else {"forceinline": True}

device: Any = cuda.jit(device=True, **_options)
"""The decorator of what is inlined into kernels."""


# A card's threads have few of NumPy's functions, and cannot allocate. In a copy of the energy's function,
# and of what it calls, the ufuncs of numbers are those of math, and np.empty and its kin set aside a fixed
# room in the thread's own memory, which the compiler turns into registers where it can.

_IN_MATH = (
    "exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh",
    "hypot", "floor", "ceil",
)  # fmt: skip
_SCALAR: dict[str, Any] = {name: getattr(math, name) for name in _IN_MATH} | {
    "abs": abs, "absolute": abs, "fabs": math.fabs, "arctan": math.atan, "arctan2": math.atan2, "power": pow,
    "arcsin": math.asin, "arccos": math.acos,
}  # fmt: skip
_UFUNCS = {getattr(np, name): function for name, function in _SCALAR.items()}


def _with_numpy(function: Any, replaced: dict[str, Any], builtin: dict[str, Any] | None = None) -> Any:
    """Return a copy of a function that finds other functions in NumPy, or for built-in ones."""
    fake = ModuleType("numpy")
    fake.__dict__.update({name: getattr(np, name) for name in dir(np)} | replaced)

    def found(known: Any) -> Any:
        if known is np:
            return fake
        if isinstance(known, np.ufunc):
            return _UFUNCS.get(known, known)
        if hasattr(known, "py_func") and known.py_func is not function and not _is_own(function):
            return _on_card(known)
        return known

    names = {**function.__globals__, **(builtin or {})}
    names |= {name: found(names[name]) for name in function.__code__.co_names if name in names}
    cells = function.__closure__ and tuple(
        CellType(found(cell.cell_contents)) for cell in function.__closure__
    )
    return FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)


def _is_own(function: Any) -> bool:
    return str(function.__module__).startswith("physscore.")


@cache
def _on_card(dispatcher: Any) -> Any:
    """Return the device function of a compiled function."""
    function = dispatcher.py_func
    return device(function if _SIMULATED or _is_own(function) else _with_numpy(function, _SCALAR))


class _Plan(NamedTuple):
    """What a block does with its numbers, as it is compiled for them."""

    room: int
    """The size of the largest array that it allocates."""
    whole: int | None
    """The one whole number that it reads from its parameters, such as how many components there are."""


@lru_cache(maxsize=64)
def _plan(function: Any, numbers: bytes, dim: int) -> _Plan:
    """Watch a block at work on one point."""
    sizes, wholes = [1], set()

    def counting(make: Any) -> Any:
        def made(*args: Any) -> Array:
            array: Array = make(*args)
            sizes.append(array.size)
            return array

        return made

    def whole(value: float) -> int:
        wholes.add(int(value))
        return int(value)

    makers = {name: counting(getattr(np, name)) for name in ("empty", "zeros", "full")}
    watched = _with_numpy(function, makers, {"int": whole})
    with np.errstate(all="ignore"):
        watched(np.full((dim, 1), 0.5), np.frombuffer(numbers).copy(), np.empty((dim, 1)), np.empty(1))
    return _Plan(max(sizes), wholes.pop() if len(wholes) == 1 else None)


def _maker(name: str, room: int) -> Any:
    """Return what takes the place of np.empty, np.zeros or np.full in a thread."""
    from llvmlite import ir
    from numba.core import cgutils
    from numba.cuda.extending import intrinsic

    def generate(context, builder, signature, arguments):
        kind, given = signature.return_type, signature.args[0]
        element = context.get_data_type(kind.dtype)
        memory = cgutils.alloca_once(builder, ir.ArrayType(element, room))
        start = builder.bitcast(memory, element.as_pointer())
        if name != "empty":
            value = ir.Constant(element, 0) if name == "zeros" else arguments[1]
            for i in range(room):
                builder.store(value, builder.gep(start, [context.get_constant(types.intp, i)]))
        sizes = cgutils.unpack_tuple(builder, arguments[0], given.count) if kind.ndim > 1 else [arguments[0]]
        strides = [context.get_constant(types.intp, context.get_abi_sizeof(element))]
        for size in reversed(sizes[1:]):
            strides.insert(0, builder.mul(strides[0], size))
        array = context.make_array(kind)(context, builder)
        context.populate_array(
            array, data=start, shape=sizes, strides=strides, itemsize=strides[-1], meminfo=None
        )
        return array._getvalue()

    def array_of(shape, dtype):
        return types.Array(dtype, shape.count if isinstance(shape, types.BaseTuple) else 1, "C")

    def like_zeros(context, shape, dtype=None):
        return array_of(shape, types.float64 if dtype is None else dtype.dtype)(
            shape, types.Omitted(None) if dtype is None else dtype
        ), generate

    def like_full(context, shape, value):
        return array_of(shape, types.float64)(shape, types.float64), generate

    return intrinsic(like_full if name == "full" else like_zeros)


@cache
def _planned(function: Any, plan: _Plan) -> Any:
    """Return a block that does not allocate, compiled for the whole number that it reads."""
    if _SIMULATED:
        return function
    whole = plan.whole

    @device
    def known(value):
        return whole

    makers = {name: _maker(name, plan.room) for name in ("empty", "zeros", "full")}
    return _with_numpy(function, makers, {} if whole is None else {"int": known})


@cache
def _energy_on_card(function: Any, block: Any, dim: int, plan: Any) -> Any:
    """Return the device function (x, params, gradient_out) -> E of a point."""
    if block is None:
        own = _on_card(function)

        @device
        def from_zeros(x, params, gradient_out):
            for i in range(dim):
                gradient_out[i] = 0.0
            return own(x, params, gradient_out)

        return from_zeros
    over_blocks = device(_planned(block.py_func, plan))

    @device
    def energy_and_gradient(x, params, gradient_out):
        column, slope = cuda.local.array((dim, 1), np.float64), cuda.local.array((dim, 1), np.float64)
        energy = cuda.local.array(1, np.float64)
        for i in range(dim):
            column[i, 0] = x[i]
        over_blocks(column, params, slope, energy)
        for i in range(dim):
            gradient_out[i] = slope[i, 0]
        return energy[0]

    return energy_and_gradient


@cache
def _compiles(energy: Any) -> str:
    """Return why a device function does not compile, or nothing."""
    vector = types.Array(types.float64, 1, "C")
    try:
        energy.compile_device((vector, vector, vector))
    except Exception as error:  # whatever Numba meets: a part of Python that it has only for the CPU
        if "NRT required" in str(error):
            return "it makes arrays, which a thread of a card cannot"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return next((line for line in lines if not line.startswith("Failed in")), type(error).__name__)
    return ""


def energy_of(point: Point | None, dim: int) -> Any:
    """Return an energy's device function.

    Raises
    ------
    InputError
        If there is none.
    """
    if dim > MAX_DIM:
        raise InputError(
            f"state has {dim} dimensions: the loop over chains on a card takes up to {MAX_DIM}, and the "
            "batched loop is for larger ones"
        )
    if point is None:
        raise InputError("energy has no compiled form for the loop on a card")
    function = point.energy_and_gradient if point.block is None else point.block
    if "call_block" in function.py_func.__code__.co_names:
        raise InputError("energy calls others by their addresses, which a card cannot: use the CPU's loop")
    if _SIMULATED:
        return _energy_on_card(point.energy_and_gradient, point.block, dim, None)
    plan = None if point.block is None else _plan(function.py_func, point.params.tobytes(), dim)
    energy = _energy_on_card(point.energy_and_gradient, point.block, dim, plan)
    if reason := _compiles(energy):
        raise InputError(f"energy does not compile for a card: {reason}")
    return energy


@cache
def _evaluation(energy: Any, dim: int) -> Any:
    @cuda.jit
    def loop(params, xs, es, gradients):
        own = cuda.grid(1)
        if own < xs.shape[0]:
            x, g = cuda.local.array(dim, np.float64), cuda.local.array(dim, np.float64)
            for i in range(dim):
                x[i] = xs[own, i]
            es[own] = energy(x, params, g)
            for i in range(dim):
                gradients[own, i] = g[i]

    return loop


def beside(x: Any, values: Array) -> Any:
    """Return an array where ``x`` is, and not an empty one, which kernels do not take."""
    values = values if values.size else np.zeros(1)
    return cupy().asarray(values) if on_gpu(x) else values


def launch(loop: Any, x: Any, *args: Any) -> None:
    stream = cupy().cuda.get_current_stream().ptr if on_gpu(x) else 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Grid size")  # few chains are no mistake
        loop[-(-len(x) // THREADS), THREADS, cuda.external_stream(stream) if stream else 0](*args)


def supports(point: Point | None, dim: int) -> bool:
    """Return whether a card can evaluate an energy of states of ``dim`` components."""
    try:
        energy_of(point, dim)
    except InputError:
        return False
    return True


def evaluate(point: Point, x: Any) -> tuple[Any, Any]:
    """Return energies (n,) and gradients (n, d) of states (n, d), contiguous and float64.

    Raises
    ------
    InputError
        If the energy does not compile for the card, or a state is too large.
    """
    energy, gradient = x[:, 0].copy(), x.copy()
    if len(x):
        loop = _evaluation(energy_of(point, x.shape[1]), x.shape[1])
        launch(loop, x, beside(x, point.params), x, energy, gradient)
    return energy, gradient
