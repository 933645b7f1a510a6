"""The group /spectra: power in bins of |k|, of one field or of each of many."""

from __future__ import annotations

import h5py
import numpy as np

from physscore.core import Array
from physscore.diagnostics.bins import PowerBins
from physscore.diagnostics.power import PowerSpectrum
from physscore.store.hdf5 import inverse


def create_spectra(
    file: h5py.File, bins: PowerBins | PowerSpectrum, n: int | None, length_unit: str, dim: int
) -> h5py.Group:
    """Lay out /spectra for ``n`` fields (None: for one, without a dimension for it)."""
    group = file.create_group("spectra")
    group.attrs["quantity"] = "P(k) = <|delta_k|^2> / V"
    wavenumber, power = inverse(length_unit), f"({length_unit})^{dim}"
    scales: dict[str, tuple[Array, str]] = {
        "k_mean": (bins.k, wavenumber),
        "k_edges": (bins.k_edges, wavenumber),
    }
    if n is not None:
        scales["realization"] = (np.arange(n), "1")
    for name, (values, unit) in scales.items():
        scale = group.create_dataset(name, data=values)
        scale.attrs["units"] = unit
        scale.make_scale(name)
    rows = ["realization", "k_mean"] if n is not None else ["k_mean"]
    create_along(group, "n_modes", ["k_mean"], "i8", "1")[...] = bins.n_modes
    for name in ("power", "error"):
        create_along(group, name, rows, "f8", power)[...] = np.nan
    return group


def create_along(group: h5py.Group, name: str, scales: list[str], dtype: str, unit: str) -> h5py.Dataset:
    """Make a dataset along dimension scales of its group, so that others can read it by name."""
    dataset = group.create_dataset(name, tuple(len(group[scale]) for scale in scales), dtype)
    dataset.attrs["units"] = unit
    for i, scale in enumerate(scales):
        dataset.dims[i].label = scale
        dataset.dims[i].attach_scale(group[scale])
    return dataset


def write_spectrum(file: h5py.File, spectrum: PowerSpectrum, length_unit: str) -> None:
    """Write /spectra as it was measured."""
    n = len(spectrum.power) if spectrum.power.ndim == 2 else None
    group = create_spectra(file, spectrum, n, length_unit, spectrum.dim)
    group["power"][...], group["error"][...] = spectrum.power, spectrum.error
    if spectrum.correlation is not None:
        rows = ["k_mean"] if n is None else ["realization", "k_mean"]
        create_along(group, "correlation", rows, "f8", "1")[...] = spectrum.correlation
    if isinstance(spectrum.effective, np.ndarray):
        create_along(group, "effective", ["k_mean"], "f8", "1")[...] = spectrum.effective
    else:
        group.attrs["independent"] = spectrum.independent


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
        effective=group["effective"][...] if "effective" in group else group.attrs.get("independent"),
    )
