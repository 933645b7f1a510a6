"""A measured power spectrum against what it should be, with the exact law of every bin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtr, chdtrc, log_ndtr, ndtri

from physscore.arrays import on_gpu
from physscore.core import Array, InputError
from physscore.diagnostics.many_fields import FieldSequence
from physscore.diagnostics.power import PowerSpectrum, Shells, power_spectrum
from physscore.energies.lognormal import LognormalField
from physscore.energies.random_field import GaussianRandomField
from physscore.slabs import FieldInPieces

_Floats = npt.NDArray[np.float64]
_AT_ONCE = 1 << 18  # entries of a table
# Rounding leaves about eps^2 of the mean power in a mode, and in a few, where that of an FFT gathers, up to
# 4e4 times as much: less than this is lost. Cells have it by themselves too, without that gathering.
_ROUNDING, _ROUNDING_OF_CELLS = 1e5, 1e2


@dataclass(frozen=True)
class Verdict:
    """Whether power agrees with a model.

    Attributes
    ----------
    chi2, dof, p_value
        Sum of the squared pulls of the bins, their number, and the probability of a larger sum. The sum is
        infinite if there is power where the model has none.
    amplitude, amplitude_error, amplitude_pull
        Overall ratio of power to the model, every mode weighted equally, its standard error, and its
        deviation from 1 in standard deviations.
    """

    chi2: float
    dof: int
    p_value: float
    amplitude: float
    amplitude_error: float
    amplitude_pull: float

    @property
    def passed(self) -> bool:
        """Whether p_value >= 1e-4 and the amplitude is within 4 sigma.

        A right Gaussian field fails once in 6000 times.
        """
        return bool(self.p_value >= 1e-4 and abs(self.amplitude_pull) <= 4.0)

    def __str__(self) -> str:
        chi2 = f"{self.chi2:.1f}" if self.chi2 < 1e6 else f"{self.chi2:.6g}"
        return (
            f"{'passed' if self.passed else 'FAILED'}: chi2 = {chi2} for {self.dof} bins "
            f"(p = {self.p_value:.3g}), amplitude {self.amplitude:.6g} +- {self.amplitude_error:.1g} "
            f"({self.amplitude_pull:+.1f} sigma)"
        ) + ("" if math.isfinite(self.chi2) else ", and power where the model has none")

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """Return the numbers and the verdict, ready for JSON: None for what is not finite."""
        numbers = {name: getattr(self, name) for name in Verdict.__annotations__}
        return {
            "passed": self.passed,
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        }


@dataclass(frozen=True, eq=False)
class Comparison(Verdict):
    """A measured power spectrum against a model, bin by bin.

    Attributes
    ----------
    k, measured, error, model, ratio : arrays (bins,)
        The mean measurement over the batch and its expected error, the model averaged over the same
        modes, and measured / model (not a number where the model is 0). Bins without modes or without power
        in the model are left out.
    pulls : array (bins,)
        Deviations in standard deviations, from the exact law of each bin.
    unexpected : float
        Share of the power in the bins that is at modes where the model has none; if it is more than rounding,
        the verdict is that they do not agree.
    below_rounding : int
        Number of modes that are left out since the fields, in their precision, cannot hold so little power.
    """

    k: _Floats
    measured: _Floats
    error: _Floats
    model: _Floats
    ratio: _Floats
    pulls: _Floats
    unexpected: float = 0.0
    below_rounding: int = 0

    def __str__(self) -> str:
        text = super().__str__()
        if not math.isfinite(self.chi2):
            text += f": {self.unexpected:.2g} of all"
        if self.below_rounding:
            text += f"; {self.below_rounding} modes below the rounding of the fields are left out"
        return text


def compare(
    measured: PowerSpectrum, shells: Shells, power: _Floats, cell_rounding: float = 1.0
) -> Comparison:
    """Compare the sums behind a spectrum with the model's power at each entry of their table.

    ``cell_rounding`` is the relative variance of the rounding of cells, in units of eps^2.
    """
    n, n_bins = shells.n_fields, len(measured.k)
    of_mean, total_power = float(shells.sums[shells.k == 0].sum()), float(shells.sums.sum())
    rounding = (_ROUNDING + _ROUNDING_OF_CELLS * cell_rounding) * shells.eps**2
    lowest = rounding * total_power / (n * int(shells.counts.sum()))
    # Without regard to their type, fields may have been float32 once. All that the mean leaves by rounding is
    # what cells lose, however an FFT gathers it.
    single = float(np.finfo(np.float32).eps) ** 2
    tolerated = 2 * max(rounding, _ROUNDING * single) * (total_power - of_mean)
    tolerated += 2 * _ROUNDING_OF_CELLS * max(shells.eps**2, single) * of_mean
    totals, below_rounding = np.zeros((7, n_bins)), 0
    elsewhere, expected_there, spread_there = 0.0, 0.0, 0.0
    for start in range(0, len(power), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        bins, counts, noise = shells.bins[part], shells.counts[part], shells.noise[part]
        used = (bins >= 0) & (counts > 0)
        asked = power[part] + np.divide(noise, counts, out=np.zeros(len(noise)), where=used)
        compared = used & (asked > lowest)
        left_out = used & ~compared
        elsewhere += float(shells.sums[part][left_out].sum())
        expected_there += n * float(counts[left_out] @ asked[left_out])
        spread_there += 2 * n * float(counts[left_out] @ asked[left_out] ** 2)
        below_rounding += int(counts[left_out & (asked > 0)].sum())
        bins, counts, noise = bins[compared], counts[compared], noise[compared]
        sums, model, k = shells.sums[part][compared], power[part][compared], shells.k[part][compared]
        expected = model + noise / counts
        found = (counts, sums / expected, noise / expected, sums / n - noise, model * counts,
                 expected * counts, counts * k)  # fmt: skip
        for total, values in zip(totals, found, strict=True):
            total += np.bincount(bins, values, n_bins)
    if not measured.n_modes.any():
        raise InputError("bins holds none of the modes of the box: there is nothing to compare")
    if not totals[0].any():
        raise InputError("model has no power at any of the modes that were measured, beyond rounding")
    unexpected = max(0.0, elsewhere - expected_there - 10 * math.sqrt(spread_there))
    modes, statistic, noise_share, *others = totals[:, totals[0] > 0]
    measured_power, model_power, expected_power, k = (total / modes for total in others)
    # Sums of whole particles can be exactly 0: they are known to within one of them.
    pulls = _normal_score(np.maximum(statistic, n * shells.particle / 4 * noise_share), n * modes)
    chi2 = float(pulls @ pulls) if unexpected <= tolerated else math.inf
    in_bins = float(shells.sums[shells.bins >= 0].sum())
    verdict = _verdict(chi2, len(pulls), float(statistic.sum()), n * float(modes.sum()))
    ratio = np.divide(measured_power, model_power, out=np.full(len(modes), np.nan), where=model_power > 0)
    return Comparison(
        k=k,
        measured=measured_power,
        error=expected_power * np.sqrt(2 / (n * modes)),
        model=model_power,
        ratio=ratio,
        pulls=pulls,
        unexpected=unexpected / in_bins if in_bins else 0.0,
        below_rounding=below_rounding,
        **vars(verdict),
    )


def check_field(
    delta: Any,
    prior: GaussianRandomField | LognormalField,
    *,
    bins: str | Sequence[float] | _Floats = "linear",
) -> Comparison:
    """Compare fields with the law they should follow, mode by mode.

    A lognormal field is checked through its logarithm, which is Gaussian, so that the comparison is
    exact for it too.

    Parameters
    ----------
    delta
        One field of shape ``prior.shape``, or any of what ``power_spectrum`` takes.
    prior
        Where they should come from.
    bins
        As for ``power_spectrum``.

    Raises
    ------
    InputError
        If ``prior`` is no random field, the fields are not of its shape, or a lognormal one is not above -1.
    """
    if not isinstance(prior, GaussianRandomField | LognormalField):
        raise InputError(
            f"prior is a {type(prior).__name__}: it must be a GaussianRandomField or a LognormalField"
        )
    if isinstance(prior, LognormalField):
        lognormal, dim = prior, len(prior.shape)
        fields = delta if getattr(delta, "ndim", dim + 1) > dim else [delta]

        def logarithm(i: int) -> Any:
            field = fields[i]
            if isinstance(field, FieldInPieces):
                return field.mapped(lognormal.logarithm)
            return lognormal.to_gaussian((field if on_gpu(field) else np.asarray(field))[np.newaxis])[0]

        delta = FieldSequence(logarithm, range(len(fields)), dim + 1)
        gaussian = lognormal.gaussian
        try:
            measured = power_spectrum(delta, gaussian.grid, bins=bins, wavenumbers=gaussian.wavenumbers)
        except InputError as error:  # which processes that share a field see together
            if "not finite" not in str(error):
                raise
            raise InputError(
                "delta holds values that are not finite, or not above -1: a lognormal field has none of these"
            ) from None
        shells = measured.shells
        assert shells is not None
        return compare(
            measured, shells, gaussian.power, _rounding_of_logarithm(gaussian.variance, shells.eps)
        )
    measured = power_spectrum(delta, prior.grid, bins=bins, wavenumbers=prior.wavenumbers)
    return measured.compare(prior.power)


def pool(chi2: Array, dof: Array, amplitude: Array, amplitude_error: Array) -> Verdict:
    """Return the verdict on independent fields, from the numbers of each of them: arrays (n,)."""
    modes = 2 / np.asarray(amplitude_error) ** 2
    return _verdict(
        float(np.sum(chi2)), int(np.sum(dof)), float(np.sum(amplitude * modes)), float(modes.sum())
    )


def _rounding_of_logarithm(variance: float, eps: float) -> float:
    """Return the relative variance, in units of eps^2, that rounding of delta gives ln(1 + delta).

    It is about E[(1 + delta)^-2] - 1 over the variance, with 1 + delta above eps / 2.
    """
    sigma = math.sqrt(variance)
    resolved = float(log_ndtr((math.log(2 / eps) - 2.5 * variance) / sigma))
    return max(0.0, math.expm1(3 * variance + resolved)) / variance


def _verdict(chi2: float, dof: int, statistic: float, modes: float) -> Verdict:
    return Verdict(
        chi2=chi2,
        dof=dof,
        p_value=float(chdtrc(dof, chi2)),
        amplitude=statistic / modes,
        amplitude_error=float(np.sqrt(2 / modes)),
        amplitude_pull=float(_normal_score(np.array([statistic]), np.array([modes]))[0]),
    )


def _normal_score(statistic: _Floats, dof: _Floats) -> _Floats:
    """Return the standard normal deviates as improbable as chi-square values are, tail by tail."""
    upper = statistic > dof
    tail = np.where(upper, chdtrc(dof, statistic), chdtr(dof, statistic))
    score = ndtri(np.maximum(tail, 1e-300))
    return np.asarray(np.where(upper, -score, score))
