"""From data to a score: losses, networks, training. Needs the extra ``learn``.

``losses`` are functions of a model and a batch. ``mlp`` and ``unet`` map states to scores, to which
``preconditioning`` gives the right size at every noise level, and the Gaussian part. ``training`` fits them
to data (``data``, ``task``, ``optimiser``, ``muon``). ``fitted`` is what comes out: a score with its
coordinates (``normalisation``), which samples, counts and goes into a file (``files``, ``generate``);
``fitted_energy`` is one that knows its energy.
``conformance`` tests all of these, ours or foreign, in closed form.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from physscore.core import InputError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise InputError('learned scores need PyTorch: pip install "physscore[learn]"') from None

if TYPE_CHECKING:
    from physscore.learning import conformance as conformance
    from physscore.learning import losses as losses
    from physscore.learning.fitted import Fitted as Fitted
    from physscore.learning.fitted_energy import FittedEnergy as FittedEnergy
    from physscore.learning.mlp import MLP as MLP
    from physscore.learning.normalisation import Normalisation as Normalisation
    from physscore.learning.preconditioning import Preconditioned as Preconditioned
    from physscore.learning.training import train as train
    from physscore.learning.unet import UNet as UNet

_HOMES = {
    "Fitted": "fitted",
    "FittedEnergy": "fitted_energy",
    "MLP": "mlp",
    "Normalisation": "normalisation",
    "Preconditioned": "preconditioning",
    "UNet": "unet",
    "train": "training",
}
_MODULES = {"conformance", "losses"}

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"physscore.learning.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'physscore.learning' has no attribute {name!r}")
    value = getattr(import_module(f"physscore.learning.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
