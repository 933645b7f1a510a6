"""How a spectrum is written on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from physscore.core import InputError
from physscore.spectra.boltzmann import from_camb, planck2018
from physscore.spectra.eisenstein_hu import EisensteinHu
from physscore.spectra.model import Spectrum
from physscore.spectra.power_law import PowerLaw
from physscore.spectra.tabulated import Tabulated

_MODELS: dict[str, Callable[..., Spectrum]] = {
    "planck2018": planck2018,
    "eh98": EisensteinHu,
    "camb": from_camb,
    "powerlaw": PowerLaw,
}


def parse(text: str, redshift: float | None = None, *, default_redshift: float | None = None) -> Spectrum:
    """Return the spectrum that ``text`` names.

    Parameters
    ----------
    text
        A model, ``planck2018``, ``eh98``, ``camb`` or ``powerlaw``, with its parameters behind a
        colon: ``powerlaw:index=-2,amplitude=1``, ``eh98:sigma8=0.8``. Or the path of a file for
        ``Tabulated.from_file``, with its parameters alike: ``pk.dat:units=1/Mpc,h=0.6766``.
    redshift
        Redshift of a model that has one. The others refuse it.
    default_redshift
        The same where neither ``redshift`` nor ``text`` gives one; the others ignore it.

    Raises
    ------
    InputError
        If there is no such model or file, or a parameter is unknown, missing or wrong.
    """
    name, _, rest = text.partition(":")
    if name not in _MODELS:
        # A name may hold colons: only one with parameters behind it ends it.
        name, rest = text, ""
        head, colon, tail = text.rpartition(":")
        if colon and not _is_file(text) and (_is_file(head) or "=" in tail):
            name, rest = head, tail
    if name not in _MODELS and not _is_file(name):
        raise InputError(
            f"spectrum is {text!r}: it must be one of {', '.join(_MODELS)}, or the name of a file, "
            f"and there is no file {name!r}"
        )
    parameters = _parameters(text, rest)
    if name not in ("planck2018", "eh98", "camb"):
        if redshift:
            raise InputError(f"redshift is {redshift:g}, but the spectrum {name!r} has none: leave it out")
    elif redshift is not None:
        if "redshift" in parameters:
            raise InputError(f"spectrum is {text!r} and redshift is {redshift:g}: give the redshift once")
        parameters["redshift"] = redshift
    elif default_redshift is not None:
        parameters.setdefault("redshift", default_redshift)
    model = _MODELS.get(name, Tabulated.from_file)
    known = dict(inspect.signature(model).parameters)
    known.pop("path", None)
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        wrong = [key for key in parameters if key not in known]
        missing = [key for key, p in known.items() if p.default is p.empty and key not in parameters]
        if wrong or missing:
            complaint = f"{wrong[0]!r} is unknown" if wrong else f"{missing[0]!r} is missing"
            raise InputError(f"spectrum is {text!r}: {complaint}, the parameters are {', '.join(known)}")
    return model(**parameters) if name in _MODELS else Tabulated.from_file(name, **parameters)


def _is_file(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def _parameters(text: str, rest: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InputError(f"spectrum is {text!r}: {item!r} must be name=value")
        if key.strip() in parameters:
            raise InputError(f"spectrum is {text!r}: give {key.strip()} once")
        parameters[key.strip()] = _value(value.strip())
    return parameters


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
