"""The contracts of the package on one page: score, energy, prior, compiled point, and their algebra.

One sign rule everywhere: the energy is E(x) = -log p(x) + const, and the score is
s(x) = grad log p(x) = -grad E(x). The leading axis of an array of states is a batch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property, wraps
from inspect import isabstract
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_Kind = TypeVar("_Kind", "Energy", "Score")


class InputError(ValueError):
    """Input that cannot be used; the message names the argument, its value and what would be right."""


class Point(NamedTuple):
    """The compiled form of an energy: what the loop over many small states calls."""

    energy_and_gradient: Any
    """A ``numba.njit`` function (x[d], params[p], gradient_out[d]) -> E; the gradient is +grad E."""

    params: npt.NDArray[np.float64]
    """All its numbers, so that it is compiled once for all of them."""

    block: Any = None
    """The same for n points at once, (x[d, n], params, gradient_out[d, n], energy_out[n]), if there
    is a form that compiles to vector instructions over the points."""


def own_copy(x: Any) -> Any:
    """Return what a user's function is given for an array: a copy, which it may change in place, as by
    ``x -= mean``; a chain stands at the original."""
    return x.copy() if isinstance(x, np.ndarray) or type(x).__module__.partition(".")[0] == "cupy" else x


def check_unmasked(found: Any, name: str) -> None:
    """Refuse what a user's function returned if it is masked: under a mask is not what was meant."""
    for part in found if isinstance(found, tuple) else (found,):
        if isinstance(part, np.ma.MaskedArray) and part.mask.any():
            raise InputError(
                f"{name}(x) returned a masked array with {int(part.mask.sum())} masked values: return "
                "numbers everywhere, and an infinite energy where there is no density"
            )


def _on_copies(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def called(self: Any, *given: Any, **named: Any) -> Any:
        found = method(self, *map(own_copy, given), **{name: own_copy(x) for name, x in named.items()})
        check_unmasked(found, method.__name__)
        return found

    return called


_DENSITY = ("energy", "score", "energy_and_score")
_OF_STATES = {*_DENSITY, "directional", "whiten", "unwhiten", "pull_back"}


def _is_built_in(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "physscore"


def _require_own_density(cls: type[Score]) -> None:
    """Refuse a user's class that changes the energy or score of a built-in one, but not its other forms."""
    derived = (c for c in cls.__mro__ if issubclass(c, Score) and _is_built_in(c))
    base = next((c for c in derived if c is not Energy and not isabstract(c)), None)
    homes = {name: next((c for c in cls.__mro__ if name in c.__dict__), Score) for name in _DENSITY}
    changed = [name for name, home in homes.items() if not _is_built_in(home)]
    if base is not None and changed:
        raise InputError(
            f"class {cls.__name__} changes {changed[0]} of {base.__name__}, whose compiled and other forms "
            f"would stay as they are: derive it from ps.Energy and keep a {base.__name__} inside, or add "
            "energies, as in a + b"
        )


class Score(ABC):
    """The gradient of a log density: all that a score-only sampler needs."""

    shape: tuple[int, ...]
    """Shape of one state."""

    one_by_one: bool = False
    """Whether states may be moved one by one, each in a thread of its own."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Hand copies of the states to the methods of a user's class: what they change is their own.

        Raises
        ------
        InputError
            If it changes the energy or score of a built-in class, which has other forms as well.
        """
        super().__init_subclass__(**options)
        if _is_built_in(cls):
            return
        _require_own_density(cls)
        for name in _OF_STATES & cls.__dict__.keys():
            if isinstance(method := cls.__dict__[name], FunctionType):
                setattr(cls, name, _on_copies(method))

    @abstractmethod
    def score(self, x: Array) -> Array:
        """Return grad log p at states ``x``, both of shape (n, *shape)."""

    @property
    def dim(self) -> int:
        """Number of components of one state."""
        return math.prod(self.shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={getattr(self, 'shape', None)})"

    def __add__(self, other: Score) -> Score:
        """Return the score of the product of the two densities."""
        return combine([(1.0, self), (1.0, other)])

    def __mul__(self, factor: float) -> Score:
        """Return the score of the density to the power ``factor``."""
        return combine([(factor, self)])

    __rmul__ = __mul__

    def __radd__(self, other: int) -> Score:
        """Return the score itself, as ``sum`` begins with 0."""
        return self if isinstance(other, int) and other == 0 else combine([(1.0, other), (1.0, self)])

    def __neg__(self) -> Score:
        """Return what belongs to the inverse of the density."""
        return self * -1.0

    def __sub__(self, other: Score) -> Score:
        """Return what belongs to the quotient of the two densities."""
        return combine([(1.0, self), (-1.0, other)])

    def __truediv__(self, temperature: float) -> Score:
        """Return what belongs to the density at a ``temperature``: to the power 1 / temperature."""
        number = isinstance(temperature, int | float | np.number) and not isinstance(temperature, bool)
        if not number or temperature == 0:
            raise InputError(f"divisor is {temperature!r}: an energy is divided by a number other than 0")
        return self * (1 / temperature)


class Energy(Score):
    """A density known up to its normalisation through E(x) = -log p(x) + const.

    ``e1 + e2`` is the product of two densities, ``e1 - e2`` the quotient, ``c * e`` the power c of one;
    ``prior + likelihood`` remembers its prior.
    """

    log_z: float | None = None
    """Log of the integral of exp(-E), where it is known."""

    has_walls: bool = False
    """Whether the energy is infinite beyond some bounds."""

    by_arrays: bool = False
    """Whether a card takes its arrays, though there is a compiled form."""

    @cached_property
    def _point(self) -> Point | None:
        return None

    @property
    def point(self) -> Point | None:
        """The compiled form, if there is one."""
        return self._point

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the compiled form of a sum, which holds in one process only."""
        return {name: value for name, value in self.__dict__.items() if name != "_point"}

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return E of states ``x`` of shape (n, *shape): an array (n,), float64 whatever ``x`` is."""
        return self.energy_and_score(x)[0]

    def score(self, x: Array) -> Array:
        """Return -grad E of states ``x``, both of shape (n, *shape)."""
        return self.energy_and_score(x)[1]

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both. A subclass defines this, where they share work, or the two apart."""
        if type(self).energy is Energy.energy or type(self).score is Energy.score:
            raise NotImplementedError(
                f"{type(self).__name__} has to define energy_and_score, or energy and score"
            )
        return self.energy(x), self.score(x)

    if TYPE_CHECKING:  # of an energy they are energies

        def __add__(self, other: _Kind) -> _Kind: ...
        def __sub__(self, other: _Kind) -> _Kind: ...
        def __mul__(self, factor: float) -> Energy: ...
        def __rmul__(self, factor: float) -> Energy: ...
        def __neg__(self) -> Energy: ...
        def __truediv__(self, temperature: float) -> Energy: ...


class Prior(Energy):
    """A normalised density (energy = -log p, so log_z = 0) that can be sampled exactly."""

    log_z: float | None = 0.0

    @abstractmethod
    def sample(self, n: int, *, seed: int) -> Array:
        """Return ``n`` independent draws, of shape (n, *shape).

        ``seed`` may be any whole number from 0 to 2^64 - 1, as ``np.random.default_rng(seed)`` takes it.
        """

    @abstractmethod
    def whiten(self, x: Array) -> Array:
        """Map states to coordinates z in which the prior is a standard normal."""

    @abstractmethod
    def unwhiten(self, z: Array) -> Array:
        """Map whitened coordinates back to states: the inverse of :meth:`whiten`."""

    @abstractmethod
    def pull_back(self, z: Array, gradient: Array) -> Array:
        """Return the gradient over z of a function of x = unwhiten(z), given its ``gradient`` over x."""


class ScoreSum(Score):
    """A weighted sum of scores, some of which have no energy."""

    def __init__(self, terms: Sequence[tuple[float, Score]]) -> None:
        self.terms = tuple(terms)
        self.shape = terms[0][1].shape

    def score(self, x: Array) -> Array:
        """Return the weighted sum of the scores."""
        total = self.terms[0][0] * self.terms[0][1].score(x)
        for factor, term in self.terms[1:]:
            total += factor * term.score(x)
        return total

    def __repr__(self) -> str:
        return _sum_as_text(self.terms)


class EnergySum(Energy):
    """A weighted sum of energies: a product of powers of densities.

    Attributes
    ----------
    terms : tuple of (float, Energy)
        The factors and their energies.
    prior : Prior or None
        The one term that is a prior with factor 1, if there is just one.
    likelihood : Energy or None
        The sum of all the other terms, where there is a prior.
    """

    def __init__(self, terms: Sequence[tuple[float, Energy]]) -> None:
        self.terms = tuple(terms)
        self.shape = terms[0][1].shape
        self.one_by_one = all(term.one_by_one for _, term in terms)
        self.has_walls = any(term.has_walls for _, term in terms)
        priors = [i for i, (factor, term) in enumerate(terms) if factor == 1 and isinstance(term, Prior)]
        self.prior: Prior | None = None
        self.likelihood: Energy | None = None
        if len(priors) == 1 and len(terms) > 1:
            self.prior = terms[priors[0]][1]  # type: ignore[assignment]
            others = [term for i, term in enumerate(terms) if i != priors[0]]
            self.likelihood = cast(Energy, combine(others))

    @property
    def by_arrays(self) -> bool:  # type: ignore[override]
        """Whether a card takes the arrays of all terms."""
        return all(term.by_arrays or term.point is None for _, term in self.terms)

    @cached_property
    def _point(self) -> Point | None:
        points = [(factor, term.point) for factor, term in self.terms]
        if any(point is None for _, point in points):
            return None
        from physscore.points import weighted_sum

        return weighted_sum([(factor, point) for factor, point in points if point is not None])

    def energy(self, x: Array) -> npt.NDArray[np.float64]:
        """Return the weighted sum of the energies."""
        energies = [own_copy(term.energy(x)) for _, term in self.terms]  # a class may use its array again
        total: Any = 0.0
        for (factor, _), e in zip(self.terms, energies, strict=True):
            with np.errstate(invalid="ignore"):  # 0 times infinity, which is beyond
                total = total + factor * e
        beyond = self._beyond(energies)
        return cast("npt.NDArray[np.float64]", total if beyond is None else np.where(beyond, np.inf, total))

    def energy_and_score(self, x: Array) -> tuple[npt.NDArray[np.float64], Array]:
        """Return both sums."""
        energy: Any = 0.0
        score: Any = None
        energies = []
        for factor, term in self.terms:
            e, s = term.energy_and_score(x)
            energies.append(own_copy(e))
            with np.errstate(invalid="ignore"):
                energy = energy + factor * e
            if factor != 1:
                s = factor * s
            s = s if _is_built_in(type(term)) or score is not None else own_copy(s)
            score = s if score is None else score + s
        beyond = self._beyond(energies)
        if beyond is not None and beyond.any():
            energy = np.where(beyond, np.inf, energy)
            lost = beyond.reshape(-1, *[1] * len(self.shape)) & np.isnan(score)
            score = np.where(lost, score.dtype.type(0), score)
        return energy, score

    def _beyond(self, energies: list[Array]) -> Array | None:
        """Return which states are beyond a wall, where the other terms need not be numbers."""
        walls = [
            e == np.inf
            for (factor, term), e in zip(self.terms, energies, strict=True)
            if term.has_walls and factor >= 0
        ]
        return cast(Array, sum(walls[1:], walls[0])) if walls else None

    def __repr__(self) -> str:
        return _sum_as_text(self.terms)


def shape_of(score: Score) -> tuple[int, ...]:
    """Return the shape of one state.

    Raises
    ------
    InputError
        If a user's class does not say it, or not as a tuple of whole numbers.
    """
    shape = getattr(score, "shape", None)
    if not isinstance(shape, tuple) or not all(isinstance(n, int | np.integer) for n in shape):
        name = type(score).__name__
        raise InputError(f"shape of {name} is {shape!r}: it must be that of one state, as in shape = (2,)")
    return shape


def combine(terms: Sequence[tuple[float, Any]]) -> Score:
    """Return the sum of ``factor * term``, written out as one sum of plain terms."""
    flat: list[tuple[float, Score]] = []
    for factor, term in terms:
        if not isinstance(term, Score):
            raise InputError(f"cannot add a {type(term).__name__} to an energy: add an energy or a score")
        if isinstance(factor, bool) or not isinstance(factor, int | float | np.number):
            raise InputError(f"factor is {factor!r}: an energy is multiplied by a number")
        if not math.isfinite(factor):
            raise InputError(f"factor is {factor}: it must be finite")
        inner = term.terms if isinstance(term, EnergySum | ScoreSum) else ((1.0, term),)
        flat.extend((float(factor) * f, t) for f, t in inner)
    flat = _merged(flat)
    shapes = [shape_of(term) for _, term in flat]
    if len(set(shapes)) > 1:
        raise InputError(f"energies of states of shape {shapes[0]} and {shapes[-1]} cannot be added")
    if len(flat) == 1 and flat[0][0] == 1:
        return flat[0][1]
    if all(isinstance(term, Energy) for _, term in flat):
        return EnergySum(flat)  # type: ignore[arg-type]
    return ScoreSum(flat)


def _merged(terms: Sequence[tuple[float, Score]]) -> list[tuple[float, Score]]:
    """Add up the factors of terms that are one object: on the way from a prior to its posterior the
    prior keeps its factor 1."""
    merged: dict[int, tuple[list[float], Score]] = {}
    for factor, term in terms:
        merged.setdefault(id(term), ([], term))[0].append(factor)
    kept = [(_total(factors), term) for factors, term in merged.values()]
    return [(factor, term) for factor, term in kept if factor != 0] or [(0.0, terms[0][1])]


def _total(factors: list[float]) -> float:
    """Return the sum, and a whole number where it is one but for rounding."""
    total = math.fsum(factors)
    rounding = 1e-14 * max(map(abs, factors))
    return float(round(total)) if len(factors) > 1 and abs(total - round(total)) < rounding else total


def _sum_as_text(terms: Sequence[tuple[float, Score]]) -> str:
    return " + ".join(f"{term!r}" if factor == 1 else f"{factor:g} * {term!r}" for factor, term in terms)
