"""The group /spectra: power in bins of |k|, of one field or of each of many."""

from __future__ import annotations

import h5py
import numpy as np

from physscore.diagnostics.power import PowerBins, PowerSpectrum
from physscore.store.hdf5 import inverse


def create_spectra(
    file: h5py.File, bins: PowerBins | PowerSpectrum, n: int | None, length_unit: str, dim: int
) -> h5py.Group:
    """Lay out /spectra for ``n`` fields (None: for one, without a dimension for it)."""
    group = file.create_group("spectra")
    group.attrs["quantity"] = "P(k) = <|delta_k|^2> / V"
    wavenumber, power = inverse(length_unit), f"({length_unit})^{dim}"
    rows = () if n is None else (n,)
    for name, values, unit in (
        ("k_edges", bins.k_edges, wavenumber),
        ("k_mean", bins.k, wavenumber),
        ("n_modes", bins.n_modes, "1"),
    ):
        group.create_dataset(name, data=values).attrs["units"] = unit
    for name in ("power", "error"):
        dataset = group.create_dataset(name, (*rows, len(bins.k)), "f8", fillvalue=np.nan)
        dataset.attrs["units"] = power
    return group


def write_spectrum(file: h5py.File, spectrum: PowerSpectrum, length_unit: str) -> None:
    """Write /spectra as it was measured."""
    n = len(spectrum.power) if spectrum.power.ndim == 2 else None
    group = create_spectra(file, spectrum, n, length_unit, spectrum.dim)
    group["power"][...], group["error"][...] = spectrum.power, spectrum.error
    if spectrum.correlation is not None:
        group.create_dataset("correlation", data=spectrum.correlation).attrs["units"] = "1"


def read_spectrum(file: h5py.File) -> PowerSpectrum:
    """Return what /spectra holds."""
    group = file["spectra"]
    return PowerSpectrum(
        k=group["k_mean"][:],
        power=group["power"][...],
        error=group["error"][...],
        n_modes=group["n_modes"][:],
        k_edges=group["k_edges"][:],
        dim=int(str(group["power"].attrs["units"])[-1]),
        correlation=group["correlation"][...] if "correlation" in group else None,
    )
