"""Log Z, free energy, mean energy and heat capacity as curves along a coupling, with their covariance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array, InputError
from physscore.evidence.result import LogZ

QUANTITIES = ("log_z", "mean_energy", "heat_capacity")


@dataclass
class Thermodynamics:
    """What a model says along its coupling: arrays (couplings,), for the whole system.

    Divide by ``n_sites`` for what belongs to a site. ``mean_energy`` is -d log Z / d coupling, so for a
    coupling J / kT of E = -J sum s s', as that of :class:`physscore.Ising`, energies are in units of J, and
    ``free_energy`` is F / J, ``mean_energy`` U / J, ``heat_capacity`` C / k: with them F = U - T S.

    Attributes
    ----------
    couplings : array (k,)
    log_z, log_z_error : array (k,)
        Log of the integral of exp(-E), and its standard error.
    mean_energy, mean_energy_error : array (k,)
        -d log Z / d coupling, the mean of dE / d coupling.
    heat_capacity, heat_capacity_error : array (k,)
        coupling^2 d^2 log Z / d coupling^2.
    n_sites : int
        Of a lattice; 1 for other models.
    verdict : str
        "pass", "suspect" or "failed".
    reasons : list of str
        Why it is not "pass", in words.
    ladder : array
        All couplings that the particles stopped at.
    first : LogZ
        The estimate at the first coupling.
    islands : dict
        For each quantity, what each of the independent islands adds to it, (islands, k): the errors are
        the standard deviations of Student's distribution of the means of these, larger if islands are few.
    evaluations : int
        Gradients of the energy that were taken.
    """

    couplings: npt.NDArray[np.float64]
    log_z: npt.NDArray[np.float64]
    mean_energy: npt.NDArray[np.float64]
    heat_capacity: npt.NDArray[np.float64]
    n_sites: int
    verdict: str
    reasons: list[str]
    ladder: npt.NDArray[np.float64]
    first: LogZ = field(repr=False)
    islands: dict[str, Array] = field(repr=False)
    evaluations: int

    @property
    def reduced_free_energy(self) -> npt.NDArray[np.float64]:
        """-log Z, that is F / kT."""
        return -self.log_z

    @property
    def free_energy(self) -> npt.NDArray[np.float64]:
        """-log Z / coupling, that is F in units of the energy that the coupling multiplies; NaN at 0."""
        return -self.log_z * self._inverse

    @property
    def free_energy_error(self) -> npt.NDArray[np.float64]:
        """Standard error of the free energy."""
        return self.log_z_error * np.abs(self._inverse)

    @property
    def log_z_error(self) -> npt.NDArray[np.float64]:
        """Standard error of log Z, and of -log Z."""
        return self._error("log_z")

    @property
    def mean_energy_error(self) -> npt.NDArray[np.float64]:
        """Standard error of the mean energy."""
        return self._error("mean_energy")

    @property
    def heat_capacity_error(self) -> npt.NDArray[np.float64]:
        """Standard error of the heat capacity."""
        return self._error("heat_capacity")

    @property
    def _inverse(self) -> Array:
        inverse = np.full(len(self.couplings), np.nan)
        return np.asarray(np.divide(1.0, self.couplings, out=inverse, where=self.couplings != 0))

    def _error(self, name: str) -> npt.NDArray[np.float64]:
        return np.asarray(np.sqrt(np.diag(self.covariance(name))))

    def covariance(self, one: str | None = None, other: str | None = None) -> npt.NDArray[np.float64]:
        """Return a covariance of the errors at all couplings.

        Parameters
        ----------
        one, other
            Two of "log_z", "free_energy", "mean_energy" and "heat_capacity": the matrix (k, k) of one at
            each coupling with the other at each. [default of ``other``: ``one``; of both: the matrix
            (3 k, 3 k) of log Z, mean energy and heat capacity, in this order]

        Raises
        ------
        InputError
            If there is no such quantity.
        """
        if one is None:
            left = right = np.concatenate([self._islands(name) for name in QUANTITIES], axis=1)
        else:
            left, right = self._islands(one), self._islands(other or one)
        n = len(left)
        left, right = left - left.mean(axis=0), right - right.mean(axis=0)
        return np.asarray(left.T @ right / (n * (n - 3)))  # of Student's distribution with n - 1

    def _islands(self, name: str) -> Array:
        if name == "free_energy":
            return -self.islands["log_z"] * self._inverse
        if name not in self.islands:
            raise InputError(f"quantity is {name!r}: it must be one of free_energy, {', '.join(QUANTITIES)}")
        return self.islands[name]

    def summary(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON: where one is not finite, None."""
        names = ("log_z", "free_energy", "mean_energy", "heat_capacity")
        arrays = {"couplings": self.couplings}
        for name in names:
            arrays |= {name: getattr(self, name), f"{name}_error": getattr(self, f"{name}_error")}
        numbers = {key: [v if math.isfinite(v) else None for v in a.tolist()] for key, a in arrays.items()}
        return numbers | {
            "n_sites": self.n_sites, "verdict": self.verdict, "reasons": self.reasons,
            "rungs": len(self.ladder), "islands": len(self.islands["log_z"]), "evaluations": self.evaluations,
        }  # fmt: skip

    def __str__(self) -> str:
        """Return a table; free energy, energy and heat capacity are those of a site."""
        n = self.n_sites
        columns = [
            _column("log Z", self.log_z, self.log_z_error),
            _column("free energy", self.free_energy / n, self.free_energy_error / n),
            _column("mean energy", self.mean_energy / n, self.mean_energy_error / n),
            _column("heat capacity", self.heat_capacity / n, self.heat_capacity_error / n),
        ]
        names = ["coupling", *(f"{k:.6g}" for k in self.couplings)]
        columns = [[cell.rjust(max(map(len, rows))) for cell in rows] for rows in [names, *columns]]
        head = f"{len(self.couplings)} couplings by {len(self.ladder)} rungs"
        site = f"; all but log Z for each of {n} sites" if n > 1 else ""
        lines = [f"{head}{site}   ({self.verdict})", *(f"  {reason}" for reason in self.reasons)]
        return "\n".join([*lines, *("  ".join(row) for row in zip(*columns, strict=True))])


def _column(name: str, values: Array, errors: Array) -> list[str]:
    sizes = errors[np.isfinite(errors) & (errors > 0)]
    digits = int(np.clip(1 - math.floor(math.log10(sizes.min())), 0, 10)) if len(sizes) else 6
    return [name, *(f"{v:.{digits}f} +- {e:.{digits}f}" for v, e in zip(values, errors, strict=True))]
