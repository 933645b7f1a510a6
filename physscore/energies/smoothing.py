"""Densities smoothed with Gaussian noise in closed form: the truth that a learned score is held to."""

from __future__ import annotations

from typing import Any

import numpy as np

from physscore.core import Energy, InputError
from physscore.energies.gaussian import Gaussian, GaussianMixture
from physscore.energies.random_field import GaussianRandomField

_LARGEST = 1e150  # whose square is a number


def smoothed(energy: Energy, sigma: float) -> Any:
    """Return the density of x + sigma xi, where x is drawn from ``energy`` and xi from N(0, I).

    Its score is -E[xi | x + sigma xi] / sigma (Vincent 2011, Neural Computation 23, 1661), which is what
    denoising score matching learns. ``functools.partial(smoothed, energy)`` is a ``score_at`` for all
    samplers that go through noise levels.

    Parameters
    ----------
    energy
        A ``Gaussian``, a ``GaussianMixture`` or a ``GaussianRandomField``; the modes that the last one
        fixes are free as soon as there is noise.
    sigma
        The noise level, in the unit of x; 0 returns ``energy`` itself.

    Returns
    -------
    Energy
        Of the same kind.

    Raises
    ------
    InputError
        If there is no closed form, or the noise level is negative.
    """
    if not (isinstance(sigma, int | float | np.number) and 0 <= sigma <= _LARGEST):
        raise InputError(f"sigma is {sigma!r}: it must be a noise level, a number from 0 to {_LARGEST:g}")
    if not isinstance(energy, Gaussian | GaussianMixture | GaussianRandomField):
        raise InputError(
            f"energy is {energy!r}: only a Gaussian, a GaussianMixture and a GaussianRandomField have a "
            "closed form when smoothed"
        )
    if sigma == 0:
        return energy
    variance = float(sigma) ** 2
    if isinstance(energy, Gaussian):
        return Gaussian(energy.mean, _wider(energy.covariance, variance))
    if isinstance(energy, GaussianMixture):
        wider = np.array([_wider(c, variance) for c in energy.covariances])
        return GaussianMixture(energy.weights, energy.means, wider)
    grid = energy.grid
    power = energy.power + variance * grid.volume / grid.n_cells
    return GaussianRandomField.from_modes(
        grid, energy.wavenumbers, np.where(energy.wavenumbers.counts > 0, power, 0)
    )


def _wider(covariance: Any, variance: float) -> Any:
    return covariance + (variance if covariance.ndim == 1 else variance * np.eye(len(covariance)))
