"""The user's own energies: vectorised functions, or one compiled function."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from operator import index
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from physscore.arrays import as_states, on_gpu
from physscore.core import Array, Energy, InputError, Point, Score, check_unmasked, own_copy
from physscore.energies.analytic import checked_dim
from physscore.points import evaluate

_DOUBLE = float(np.finfo(np.float64).eps)


@overload
def from_functions(
    *, energy: Callable[[Array], Array], score: Callable[[Array], Array], shape: int | Sequence[int],
    name: str = ..., simulate: Callable[..., Energy] | None = ...,
) -> Energy: ...  # fmt: skip
@overload
def from_functions(
    *, energy_and_score: Callable[[Array], tuple[Array, Array]], shape: int | Sequence[int],
    name: str = ..., simulate: Callable[..., Energy] | None = ...,
) -> Energy: ...  # fmt: skip
@overload
def from_functions(
    *, score: Callable[[Array], Array], shape: int | Sequence[int], name: str = ...,
    simulate: Callable[..., Energy] | None = ...,
) -> Score: ...  # fmt: skip
def from_functions(
    *,
    energy: Callable[[Array], Array] | None = None,
    score: Callable[[Array], Array] | None = None,
    energy_and_score: Callable[[Array], tuple[Array, Array]] | None = None,
    shape: int | Sequence[int],
    name: str = "from_functions",
    simulate: Callable[..., Energy] | None = None,
) -> Energy | Score:
    """Return an energy, or only a score, made of vectorised functions.

    The functions are given copies of the states, which they may change.

    Parameters
    ----------
    energy
        (n, *shape) -> (n,): -log p up to a constant.
    score
        (n, *shape) -> (n, *shape): grad log p = -grad E.
    energy_and_score
        Both at once, where they share work. Takes the place of the two.
    shape
        Shape of one state.
    name
        What it is called in messages and files.
    simulate
        Of a likelihood: a function of (x, *, seed) that draws data at one state and returns their
        likelihood, which ``verify`` needs.

    Returns
    -------
    Energy or Score
        A score if there is no energy.

    Raises
    ------
    InputError
        If there is no score, or something is not a function.
    """
    for argument, function in (("energy", energy), ("score", score), ("energy_and_score", energy_and_score)):
        if function is not None and not callable(function):
            raise InputError(f"{argument} is {function!r}: it must be a function of states (n, *shape)")
    if score is None and energy_and_score is None:
        raise InputError(
            "score is missing: give score=, a function that returns -grad E, or energy_and_score="
        )
    sides = state_shape(shape)
    if energy is None and energy_and_score is None:
        assert score is not None
        return _ScoreFunction(score, sides, name)
    made = _EnergyFunctions(energy, score, energy_and_score, sides, name)
    made.simulate = simulate
    return made


class _ScoreFunction(Score):
    def __init__(self, function: Callable[[Array], Array], shape: tuple[int, ...], name: str) -> None:
        self._function, self.shape, self._name = function, shape, name

    def score(self, x: Array) -> Array:
        """Return what the user's function does."""
        states = as_states(x, self.shape)
        return checked_score(self._function(own_copy(states)), states)

    def __repr__(self) -> str:
        return self._name


class _EnergyFunctions(Energy):
    simulate: Callable[..., Energy] | None = None

    def __init__(self, energy: Any, score: Any, both: Any, shape: tuple[int, ...], name: str) -> None:
        self._energy, self._score, self._both = energy, score, both
        self.shape, self._name = shape, name
        self._rounding = Rounding()

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return what the user's function does."""
        states = as_states(x, self.shape)
        given = own_copy(states)
        energy = self._energy(given) if self._energy else self._both(given)[0]
        return checked_energy(energy, states, self._rounding)

    def score(self, x: Array) -> Array:
        """Return what the user's function does."""
        states = as_states(x, self.shape)
        given = own_copy(states)
        return checked_score(self._score(given) if self._score else self._both(given)[1], states)

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        if self._both is None:
            return self.energy(x), self.score(x)
        states = as_states(x, self.shape)
        energy, score = self._both(own_copy(states))
        return checked_energy(energy, states, self._rounding), checked_score(score, states)

    def __repr__(self) -> str:
        return self._name


def is_own(energy: Energy) -> bool:
    """Return whether an energy and its score are formulas of the user's own."""
    built_in = type(energy).__module__.partition(".")[0] == "physscore"
    return not built_in or isinstance(energy, _EnergyFunctions | CompiledEnergy)


def checked_energy(energy: Any, x: Array, rounding: Rounding | None = None) -> npt.NDArray[np.float64]:
    """Return the energies that a function returned for ``x``, as an array of their own.

    ``rounding`` is that of all the function's energies.

    Raises
    ------
    InputError
        If they are not one real number a state, or masked.
    """
    _require_numbers("energy", energy)
    (rounding or Rounding()).warn(energy)
    # Its own: the function may use its array again, or not let it be changed.
    found = energy.astype(np.float64) if on_gpu(energy) else np.array(energy, np.float64)
    if found.shape != (len(x),):
        raise InputError(
            f"energy(x) returned {found.shape}, expected ({len(x)},): one number a chain; return -log p"
        )
    return found


class Rounding:
    """How much the lowest energies of a model are rounded: its others may be those of trial steps far out.

    If all are so large that float32 rounds them by more than 0.1, as with a large constant, kernels that
    accept or reject, and log Z, see steps in place of a slope.
    """

    def __init__(self) -> None:
        self._lowest = np.inf

    def warn(self, energy: Any, dtype: str | None = None, eps: float | None = None) -> None:
        """Warn if even the lowest so far are rounded by more than 0.1.

        ``dtype`` and ``eps`` are of what they were computed in, if that is not NumPy's.
        """
        if not isinstance(energy, np.ndarray) or energy.dtype.kind != "f" or not energy.size:
            return
        eps = float(np.finfo(energy.dtype).eps) if eps is None else eps
        if eps <= _DOUBLE:  # such energies are those of places far from where a run ends, which looks at them
            return
        self._lowest = min(self._lowest, float(np.abs(energy).min()))
        if 0.1 < self._lowest * eps < np.inf:
            limit = f"{0.1 / eps:.0e}".replace("e+0", "e")
            warnings.warn(
                f"energies are {dtype or energy.dtype} and above {limit}, where they are rounded by 0.1 and "
                "more: leave a constant out, or compute them in float64",
                stacklevel=4,
            )


def _require_numbers(name: str, values: Any) -> None:
    check_unmasked(values, name)
    if getattr(getattr(values, "dtype", None), "kind", "f") == "c":
        raise InputError(f"{name}(x) returned complex numbers: return real ones")


def checked_score(score: Any, x: Array) -> Array:
    """Return the score that a function returned for ``x``, as an array of its own.

    Raises
    ------
    InputError
        If it is not real, masked, or of another shape than ``x``.
    """
    _require_numbers("score", score)
    found = score.copy() if on_gpu(score) else np.array(score)
    if found.shape != x.shape:
        raise InputError(
            f"score(x) returned {found.shape}, expected {x.shape}: one vector a chain; return -grad E"
        )
    return found


def compiled(
    energy_and_gradient: Any,
    *,
    dim: int,
    params: Any = (),
    name: str | None = None,
    simulate: Callable[..., Energy] | None = None,
) -> CompiledEnergy:
    """Return the energy of one Numba function, which runs in the loop over many small states.

    Parameters
    ----------
    energy_and_gradient
        A function of (x[dim], params, gradient_out[dim]) that fills ``gradient_out``, zeros before, with
        +grad E and returns E; ``numba.njit`` is applied if it has not been. A division by zero is infinite or
        not a number, as in NumPy; where the function raises, energy and gradient are not numbers.
    dim
        Number of dimensions of a state.
    params
        Numbers that the function reads, copied. ``compiled`` with others compiles nothing anew.
    name
        What it is called in messages and files. [default: the function's name]
    simulate
        As of :func:`from_functions`.

    Returns
    -------
    Energy

    Raises
    ------
    InputError
        If the function does not compile, with the line that is to blame.
    """
    made = CompiledEnergy(energy_and_gradient, dim, params, name)
    made.simulate = simulate
    return made


_AS_NUMPY: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


@cache  # so that other params compile nothing
def _as_numpy(function: Any) -> Any:
    """Return a compiled function in which divisions by zero do not raise: itself, or compiled anew."""
    import numba

    options = function.targetoptions
    if options.get("error_model") == _AS_NUMPY["error_model"]:
        return function
    return numba.jit(**{**options, **_AS_NUMPY})(function.py_func)


class CompiledEnergy(Energy):
    """The energy of one Numba function; see :func:`compiled`."""

    simulate: Callable[..., Energy] | None = None

    def __init__(self, energy_and_gradient: Any, dim: int, params: Any, name: str | None) -> None:
        import numba

        if not callable(energy_and_gradient):
            raise InputError(f"energy_and_gradient is {energy_and_gradient!r}: it must be a function")
        if not hasattr(energy_and_gradient, "py_func"):
            energy_and_gradient = numba.njit(**_AS_NUMPY)(energy_and_gradient)
        elif isinstance(energy_and_gradient, numba.core.dispatcher.Dispatcher):
            energy_and_gradient = _as_numpy(energy_and_gradient)
        self.shape = (checked_dim(dim),)
        try:
            numbers = np.array(params, np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise InputError(f"params is {params!r}: it must be an array of numbers") from error
        self.function = energy_and_gradient
        self._name = name or energy_and_gradient.__name__
        vector = numba.types.Array(numba.float64, 1, "C")
        try:
            energy_and_gradient.compile((vector, vector, vector))
        except TypeError:  # of the number of arguments
            raise InputError(
                f"energy_and_gradient {self._name} does not take (x, params, gradient_out): it must be a "
                "function of these three"
            ) from None
        except numba.core.errors.NumbaError as error:
            reason = _reason(error, energy_and_gradient)
            raise InputError(f"energy_and_gradient {self._name} does not compile: {reason}") from None
        returned = energy_and_gradient.overloads[(vector, vector, vector)].signature.return_type
        if not isinstance(returned, numba.types.Float | numba.types.Integer):
            raise InputError(
                f"energy_and_gradient {self._name} returns {returned}: it must return the energy, a number"
            )
        numbers.flags.writeable = False  # sums and files would go on with the old ones
        self.params = numbers

    @cached_property
    def _point(self) -> Point:
        return Point(self.function, self.params.copy())  # of the type that it is compiled for

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return E, of shape (n,)."""
        return evaluate(self._point, as_states(x, self.shape))[0]

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both."""
        states = as_states(x, self.shape)
        energy, gradient = evaluate(self._point, states)
        return energy, (-gradient).astype(states.dtype, copy=False)

    def __repr__(self) -> str:
        return self._name


def _reason(error: Exception, function: Any) -> str:
    """Return what Numba says, without its own tracebacks: the sentence, and the user's line."""
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    said = next((line.strip() for line in lines if not line.startswith("Failed in")), str(error))
    if said.endswith(":"):  # the signature stands on a line of its own
        said += next((f" {line.strip(' >')}" for line in lines if line.strip().startswith(">>>")), "")
    marked = [line.strip() for line in lines if line.lstrip().startswith(("File ", "<source elided>"))]
    code = [lines[i - 1].strip() for i, line in enumerate(lines) if line.strip() == "^" and i]
    place = next((line for line in marked if line.startswith("File ")), "")
    if place and code:
        return f"{said} ({place} {code[0]})"
    return said + _line_with(re.findall(r"'(\w+)'", said), function)


def _line_with(names: list[str], function: Any) -> str:
    """Return where a name stands in a function: Numba does not say so of a name that is not defined."""
    try:
        source, first = inspect.getsourcelines(function.py_func)
    except (OSError, TypeError):
        return ""
    for number, line in enumerate(source, first):
        if any(re.search(rf"\b{name}\b", line) for name in names):
            return f' (File "{inspect.getsourcefile(function.py_func)}", line {number}: {line.strip()})'
    return ""


def state_shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    """Return the shape of one state, checked."""
    try:
        sides = tuple(index(n) for n in np.atleast_1d(np.asarray(shape)).tolist())
    except (TypeError, ValueError):
        sides = ()
    if not sides or min(sides) < 1:
        raise InputError(f"shape is {shape!r}: it must be the whole numbers of one state's shape, as in (2,)")
    return sides
