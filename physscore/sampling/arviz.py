"""A run as ArviZ has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from physscore.arrays import to_host
from physscore.core import InputError

if TYPE_CHECKING:
    from physscore.sampling.result import Run


def as_arviz(run: Run) -> Any:
    """Return what :meth:`Run.to_arviz` does."""
    for name in {"chain", "draw"}.intersection(run.names or ()):
        raise InputError(
            f"names holds {name!r}, which is a dimension of ArviZ's: give run.names another for it"
        )
    try:
        import arviz
    except ImportError as error:
        raise InputError('ArviZ is not installed: pip install "physscore[arviz]"') from error
    draws = np.swapaxes(to_host(run.draws[...]), 0, 1)
    posterior = {"x": draws}
    if run.names is not None:
        posterior = {name: draws[..., i] for i, name in enumerate(run.names)}
    stats = {"lp": -np.asarray(run.energies[...]).T}
    if int(arviz.__version__.partition(".")[0]) < 1:
        return arviz.from_dict(posterior=posterior, sample_stats=stats)
    return arviz.from_dict({"posterior": posterior, "sample_stats": stats})
