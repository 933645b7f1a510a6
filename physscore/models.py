"""Models by name, for the command line: the built-in ones, and the user's own from a file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from physscore.core import Energy, InputError, Score


def _gaussian(mean: float = 0.0, variance: float = 1.0, dim: int = 2) -> Energy:
    """A normal distribution."""
    from physscore.energies.gaussian import Gaussian

    return Gaussian(mean, variance, dim=dim)


def _mixture(distance: float = 2.0, std: float = 0.5) -> Energy:
    """Four normals at (+-distance, +-distance), with weights 0.1 to 0.4."""
    from physscore.energies.gaussian import GaussianMixture

    means = [[x, y] for x in (distance, -distance) for y in (distance, -distance)]
    return GaussianMixture([0.1, 0.2, 0.3, 0.4], means, std**2)


def _ring(radius: float = 4.0, width: float = 0.5, dim: int = 2) -> Energy:
    """A ring or spherical shell."""
    from physscore.energies.shells import Ring

    return Ring(radius, width, dim)


def _shells(dim: int = 2, radius: float = 2.0, width: float = 0.1, distance: float = 3.5) -> Energy:
    """Two shells side by side."""
    from physscore.energies.shells import Shells

    return Shells(dim, radius, width, distance)


def _funnel(dim: int = 10, scale: float = 3.0) -> Energy:
    """Neal's funnel."""
    from physscore.energies.analytic import Funnel

    return Funnel(dim, scale)


def _banana(scale: float = 10.0, bend: float = 0.03, dim: int = 2) -> Energy:
    """A bent normal."""
    from physscore.energies.analytic import Banana

    return Banana(scale, bend, dim)


def _double_well(height: float = 3.0, centre: float = 1.0, tilt: float = 0.0, dim: int = 1) -> Energy:
    """Independent double wells."""
    from physscore.energies.analytic import DoubleWell

    return DoubleWell(height, centre, tilt, dim)


def _student(degrees_of_freedom: float = 3.0, scale: float = 1.0, dim: int = 2) -> Energy:
    """A Student distribution."""
    from physscore.energies.analytic import Student

    return Student(degrees_of_freedom, scale, dim)


def _ising(size: Any = 16, dim: int = 2, coupling: float = 0.4406867935097715) -> Energy:
    """The Ising model, as its exact continuous dual; critical by default."""
    from physscore.energies.ising import Ising

    return Ising(_sides(size, dim), coupling=coupling)


def _phi4(size: Any = 8, dim: int = 2, **couplings: float) -> Energy:
    """A scalar field with a quartic term: mass2 and coupling, or kappa and lam."""
    from physscore.energies.lattice import Phi4

    return Phi4(_sides(size, dim), **(couplings or {"mass2": -4.0, "coupling": 8.0}))


def _sides(size: Any, dim: int) -> tuple[int, ...]:
    return tuple(size) if isinstance(size, list) else (size,) * dim


BUILT_IN: dict[str, Callable[..., Energy]] = {
    "banana": _banana, "double-well": _double_well, "funnel": _funnel, "gaussian": _gaussian, "ising": _ising,
    "mixture": _mixture, "phi4": _phi4, "ring": _ring, "shells": _shells, "student": _student,
}  # fmt: skip


def load_model(name: str, parameters: dict[str, Any]) -> Score:
    """Return a built-in model, or what ``file.py:name`` names: an energy, or a function returning one.

    Parameters
    ----------
    name
        Of a built-in model, or ``path/to/file.py:name``.
    parameters
        Arguments of the model.

    Raises
    ------
    InputError
        If there is no such model, or it does not take the parameters.
    """
    if name.endswith(".safetensors"):
        return _learned(name, parameters)
    return _called(_named(name), name, parameters)


def _learned(name: str, parameters: dict[str, Any]) -> Score:
    from physscore.learning.fitted import load

    found = load(name)
    return found.conditioned(parameters) if parameters or found.names else found


def load_models(names: Sequence[str], parameters: dict[str, Any]) -> list[Score]:
    """Return several models; each is given those of the parameters that it takes.

    Raises
    ------
    InputError
        If there is no such model, or none takes one of the parameters.
    """
    if len(names) == 1:
        return [load_model(names[0], parameters)]
    found = [_named(name) for name in names]
    taken: list[dict[str, Any]] = [{} for _ in names]
    for key, value in parameters.items():
        # One that takes any name gets those that no other model has.
        takers = [t for t, one in zip(taken, found, strict=True) if key in _arguments(one)]
        takers = takers or [t for t, one in zip(taken, found, strict=True) if _takes_any(one)]
        if not takers:
            raise InputError(f"none of the models {', '.join(names)} takes -p {key}")
        for taker in takers:
            taker[key] = value
    return [_called(one, name, some) for one, name, some in zip(found, names, taken, strict=True)]


def _named(name: str) -> Any:
    """Return what a name stands for: an energy, or a function of one."""
    file, colon, attribute = name.rpartition(":")
    if name.endswith(".safetensors"):
        return _learned(name, {})
    if not colon and not name.endswith(".py"):
        if name not in BUILT_IN:
            known = ", ".join(BUILT_IN)
            raise InputError(
                f"model is {name!r}: it must be one of {known}, score.safetensors, or my_model.py:name"
            )
        return BUILT_IN[name]
    if not colon:
        raise InputError(f"model is {name!r}: say which of its names, as in {name}:posterior")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"model {name!r}: there is no file {path}")
    found = getattr(load_file(path), attribute, None)
    if found is None:
        raise InputError(f"model {name!r}: {path} has no {attribute!r}")
    if not isinstance(found, Score) and not callable(found):
        raise InputError(
            f"model {name!r} is a {type(found).__name__}: it must be an Energy or a function of one"
        )
    return found


def _arguments(found: Any) -> dict[str, inspect.Parameter]:
    return {} if isinstance(found, Score) else dict(inspect.signature(found).parameters)


def _takes_any(found: Any) -> bool:
    return any(one.kind is one.VAR_KEYWORD for one in _arguments(found).values())


_own: dict[str, Path] = {}


def own_files() -> list[Path]:
    """Return the users' files that are loaded: what other processes load, too, before they get energies."""
    return list(_own.values())


class _FromSource(SourceFileLoader):
    """Keeps no bytecode, which Python would take for that of a file that was edited in the same second."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_file(path: Path) -> Any:
    """Return a user's file as a module.

    Raises
    ------
    InputError
        If it cannot be loaded.
    """
    name = f"model_{path.stem}"  # a user's json.py takes no other module's place
    while _own.get(name, path.resolve()) != path.resolve():  # nor one of the same name in another folder
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))  # it may import what stands beside it
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{path} cannot be loaded: {_where(error, path)}{type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.pop(0)
    _own[name] = path.resolve()
    return module


def _where(error: BaseException, path: Path) -> str:
    """Return the line of the user's file that an error comes from."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f"line {line}: "


def _called(found: Any, name: str, parameters: dict[str, Any]) -> Score:
    """Return an energy as it is, or what a function makes of the parameters."""
    if isinstance(found, Score):
        if parameters:
            raise InputError(
                f"model {name!r} is an energy, not a function: it takes no -p {next(iter(parameters))}"
            )
        return found
    function: Callable[..., Any] = found
    try:
        inspect.signature(function).bind(**parameters)
    except TypeError as error:
        takes = ", ".join(str(p) for p in inspect.signature(function).parameters.values()) or "nothing"
        raise InputError(f"model {name!r} does not take these -p ({error}): it takes {takes}") from None
    try:
        made = function(**parameters)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        where = "" if name in BUILT_IN else _where(error, Path(inspect.getsourcefile(function) or ""))
        given = " ".join(f"-p {key}={value}" for key, value in parameters.items())
        raise InputError(
            f"model {name!r} failed{' with ' * bool(given)}{given}: {where}{type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, Score):
        raise InputError(f"model {name!r} returned a {type(made).__name__}: it must return an Energy")
    return made


def parse_value(text: str) -> Any:
    """Return what a parameter on the command line says: a number, numbers with commas, or a word."""
    if "," in text:
        return [parse_value(part) for part in text.split(",") if part]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return {"true": True, "false": False}.get(text.lower(), text)
