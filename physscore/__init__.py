"""physscore: from a score to fields, numbers and samples.

The public names, each loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from physscore._version import __version__ as __version__

if TYPE_CHECKING:
    from physscore import spectra as spectra
    from physscore.arrays import threads as threads
    from physscore.core import Energy as Energy
    from physscore.core import InputError as InputError
    from physscore.core import Prior as Prior
    from physscore.core import Score as Score
    from physscore.diagnostics.comparison import Comparison as Comparison
    from physscore.diagnostics.comparison import check_field as check_field
    from physscore.diagnostics.power import PowerSpectrum as PowerSpectrum
    from physscore.diagnostics.power import power_spectrum as power_spectrum
    from physscore.energies.lognormal import LognormalField as LognormalField
    from physscore.energies.random_field import GaussianRandomField as GaussianRandomField
    from physscore.grid import Grid as Grid
    from physscore.store import Fields as Fields
    from physscore.store import load as load
    from physscore.store import save as save

_HOMES = {
    "Comparison": "diagnostics.comparison",
    "Energy": "core",
    "Fields": "store",
    "GaussianRandomField": "energies.random_field",
    "Grid": "grid",
    "InputError": "core",
    "LognormalField": "energies.lognormal",
    "PowerSpectrum": "diagnostics.power",
    "Prior": "core",
    "Score": "core",
    "check_field": "diagnostics.comparison",
    "load": "store",
    "power_spectrum": "diagnostics.power",
    "save": "store",
    "threads": "arrays",
}
_MODULES = {"spectra"}

__all__ = sorted([*_HOMES, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"physscore.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'physscore' has no attribute {name!r}")
    value = getattr(import_module(f"physscore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
