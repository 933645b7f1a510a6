"""P(k) from a table: the caller's, a text file, or a spectrum that we measured."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import InputError
from physscore.spectra.model import COSMOLOGICAL_UNITS, Spectrum, _Floats, require_array
from physscore.spectra.text_table import read_table

_EXTRAPOLATIONS = (None, "power law", "zero")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class Tabulated(Spectrum):
    """P(k) between the points of a table, by monotone cubics in ln P over ln k.

    The cubics (PCHIP; Fritsch & Butland 1984, SIAM J. Sci. Stat. Comput. 5, 300) do not overshoot, and
    a power law stays one. A table that is zero somewhere, where ln P does not exist, is joined by
    straight lines in P over k.

    Parameters
    ----------
    k
        Rising wavenumbers > 0, at least 2.
    power
        P at each, finite and not negative.
    extrapolate
        Outside the table: None refuses, "power law" continues the slope of the last two points,
        "zero" has no power there.
    name
        Where the table comes from.
    units
        Of k and of P.
    dim
        Number of dimensions of the fields whose P it is; None for what may be of any.
    redshift
        That of P, where it is known.

    Raises
    ------
    InputError
        If the table cannot be used.
    """

    def __init__(
        self,
        k: npt.ArrayLike,
        power: npt.ArrayLike,
        *,
        extrapolate: str | None = None,
        name: str = "table",
        units: tuple[str, str] = Spectrum.units,
        dim: int | None = None,
        redshift: float | None = None,
    ) -> None:
        wavenumbers, values = require_array("k", k), require_array("power", power)
        if wavenumbers.ndim != 1 or wavenumbers.shape != values.shape or len(wavenumbers) < 2:
            raise InputError(
                f"{name} has {wavenumbers.shape} wavenumbers and {values.shape} powers: "
                "it must have one P for each of at least 2 wavenumbers"
            )
        if not np.isfinite(wavenumbers).all() or not np.isfinite(values).all():
            line = int(np.flatnonzero(~(np.isfinite(wavenumbers) & np.isfinite(values)))[0])
            raise InputError(
                f"{name} has k = {wavenumbers[line]}, P = {values[line]} at point {line + 1}: "
                "every number must be finite"
            )
        if wavenumbers[0] <= 0 or (np.diff(wavenumbers) <= 0).any():
            line = int(np.argmax(np.diff(wavenumbers, prepend=0.0) <= 0))
            raise InputError(
                f"{name} has k = {wavenumbers[line]} at point {line + 1}: k must be positive and rising"
            )
        if (values < 0).any():
            line = int(np.argmax(values < 0))
            raise InputError(
                f"{name} has P = {values[line]} at k = {wavenumbers[line]}: P must not be negative"
            )
        if extrapolate not in _EXTRAPOLATIONS:
            raise InputError(f"extrapolate is {extrapolate!r}: it must be None, 'power law' or 'zero'")
        if extrapolate == "power law" and 0 in (values[0], values[1], values[-2], values[-1]):
            raise InputError(f"extrapolate is 'power law', but {name} is zero at an end: use 'zero'")
        wavenumbers.flags.writeable = values.flags.writeable = False
        self.k, self.power = wavenumbers, values
        self.extrapolate = extrapolate
        self.name = name
        self.units, self.dim, self.redshift = units, dim, redshift
        if extrapolate is None:
            self.k_min, self.k_max = float(wavenumbers[0]), float(wavenumbers[-1])
        self._frozen = True

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        extrapolate: str | None = None,
        units: str | None = None,
        h: float | None = None,
        column: int | None = None,
    ) -> Tabulated:
        """Read a table of k [h/Mpc] and P [(Mpc/h)^3], or [(Mpc/h)^dim] for fields of other dimensions.

        Parameters
        ----------
        path
            A text file with a line for each k, or an HDF5 file of ours with a measured spectrum, whose
            mean over the fields is taken. The numbers of a line, k first, are separated by blanks, commas
            or semicolons; comments begin with ``#``, ``%`` or ``!``; lines before the first numbers are
            names. k may fall, and k = 0 is left out. A redshift in the header, as in z=1, is kept.
        extrapolate
            As for the class.
        units
            Of the k of a text file: "h/Mpc", or "1/Mpc" with P in Mpc^3. [default: h/Mpc, and a file is
            refused whose header says otherwise]
        h
            The Hubble constant in 100 km/s/Mpc, for units of 1/Mpc.
        column
            The column of a text file that holds P, counted from 1. [default: 2 of two]

        Raises
        ------
        InputError
            If the file cannot be read as such.
        """
        found = Path(path)
        try:
            with open(found, "rb") as file:
                is_hdf5 = file.read(8) == _HDF5_SIGNATURE
        except OSError as error:
            raise InputError(f"spectrum file {found} cannot be read: {error.strerror}") from error
        except ValueError as error:  # a zero byte in the name
            raise InputError(f"spectrum file {str(found)!r} cannot be read: {error}") from error
        if is_hdf5:
            if (units, h, column) != (None, None, None):
                raise InputError(f"units, h and column are for tables of text: {found} is a file of HDF5")
            k, power, own = _measured(found)
            dim = int(own[1][-1]) if own[1][-2:-1] == "^" and own[1][-1].isdigit() else None
            return cls(k, power, extrapolate=extrapolate, name=str(found), units=own, dim=dim)
        table = read_table(found, units=units, h=h, column=column)
        dim = None if h is None else 3
        about: dict[str, Any] = {"units": COSMOLOGICAL_UNITS, "dim": dim, "redshift": table.redshift}
        return cls(table.k, table.power, extrapolate=extrapolate, name=str(found), **about)

    def _power(self, k: _Floats) -> _Floats:
        inside = np.clip(k, self.k[0], self.k[-1])
        power = self._interpolate(inside)
        outside = np.abs(np.log(k / inside)) > 1e-9  # nearer is the rounding of an end of the box
        if outside.any():
            if self.extrapolate == "power law":
                first, last = (
                    np.diff(np.log(self.power[end])) / np.diff(np.log(self.k[end]))
                    for end in (slice(None, 2), slice(-2, None))
                )
                slope = np.where(k < self.k[0], first, last)
                power = np.where(outside, power * (k / inside) ** slope, power)
            else:
                power = np.where(outside, 0.0, power)
        return power

    def _interpolate(self, k: _Floats) -> _Floats:
        if not (self.power > 0).all():
            return np.interp(k, self.k, self.power)
        from scipy.interpolate import PchipInterpolator

        return np.asarray(np.exp(PchipInterpolator(np.log(self.k), np.log(self.power))(np.log(k))))

    def settings(self) -> dict[str, Any]:
        """Return what makes the model; of the points their number, the range and a digest."""
        known = {} if self.redshift is None else {"redshift": self.redshift}
        return {
            "name": self.name,
            **known,
            "points": len(self.k),
            "k_min": float(self.k[0]),
            "k_max": float(self.k[-1]),
            "extrapolate": self.extrapolate,
            "sha256": hashlib.sha256(self.k.tobytes() + self.power.tobytes()).hexdigest(),
        }

    def __repr__(self) -> str:
        return f"{self.name}({len(self.k)} points, extrapolate={self.extrapolate!r})"


def _measured(path: Path) -> tuple[_Floats, _Floats, tuple[str, str]]:
    import h5py

    try:
        with h5py.File(path) as file:
            k = np.asarray(file["spectra/k_mean"][...], dtype=np.float64)
            power = np.asarray(file["spectra/power"][...], dtype=np.float64)
            modes = np.asarray(file["spectra/n_modes"][...], dtype=np.float64)
            crossed, of_angles = "spectra/correlation" in file, "spectra/order" in file
            units = (str(file["spectra/k_mean"].attrs["units"]), str(file["spectra/power"].attrs["units"]))
    except (OSError, KeyError) as error:
        reason = "it has no measured spectrum" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise InputError(f"spectrum file {path} cannot be read: {reason}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"spectrum file {path} cannot be read: /spectra does not hold arrays of numbers"
        ) from error
    if crossed:
        raise InputError(
            f"spectrum file {path} holds the cross spectrum of two fields: it must be the power of one"
        )
    if of_angles:
        raise InputError(
            f"spectrum file {path} holds multipoles: it must be a power, as physscore spectrum writes it"
        )
    if k.ndim != 1 or modes.shape != k.shape or power.ndim > 2 or power.shape[-1:] != k.shape:
        raise InputError(
            f"spectrum file {path} has {k.shape} k_mean, {modes.shape} n_modes and {power.shape} power: "
            "the bins must be the same in each"
        )
    power = np.atleast_2d(power)[:, modes > 0]  # an empty bin has neither k nor P
    finished = np.isfinite(power).all(axis=1)
    if not finished.any():
        raise InputError(f"spectrum file {path} has no field whose power is finite: measure it again")
    return k[modes > 0], power[finished].mean(axis=0), units
