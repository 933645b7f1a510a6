"""The group /spectra: power, or its multipoles, in bins of |k|, of one field or of each of many."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np

from physscore.core import Array
from physscore.diagnostics.bins import PowerBins
from physscore.diagnostics.multipoles import PowerMultipoles
from physscore.diagnostics.power import PowerSpectrum
from physscore.grid import Grid
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
        _create_scale(group, name, values, unit)
    rows = ["realization", "k_mean"] if n is not None else ["k_mean"]
    create_along(group, "n_modes", ["k_mean"], "i8", "1")[...] = bins.n_modes
    for name in ("power", "error"):
        create_along(group, name, rows, "f8", power)[...] = np.nan
    return group


def _create_scale(group: h5py.Group, name: str, values: Array, unit: str) -> None:
    scale = group.create_dataset(name, data=values)
    scale.attrs["units"] = unit
    scale.make_scale(name)


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
        **_arrays(group),
        dim=int(str(group["power"].attrs["units"])[-1]),
        correlation=group["correlation"][...] if "correlation" in group else None,
        effective=group["effective"][...] if "effective" in group else group.attrs.get("independent"),
    )


def _arrays(group: h5py.Group) -> dict[str, Any]:
    names = {"k": "k_mean"} | {name: name for name in ("power", "error", "n_modes", "k_edges")}
    return {name: group[stored][...] for name, stored in names.items()}


_ABOUT = ("line_of_sight", "shot_noise", "mass_assignment", "interlaced", "independent")


def write_multipoles(file: h5py.File, found: PowerMultipoles, length_unit: str) -> None:
    """Write /spectra with multipoles, and on it what they are of."""
    group = file.create_group("spectra")
    group.attrs["quantity"] = "P_l(k) = (2 l + 1) <|delta_k|^2 L_l(mu)> / V"
    group.attrs["shape"], group.attrs["box_size"] = found.grid.shape, found.grid.box_size
    for name in _ABOUT:
        if getattr(found, name) is not None:
            group.attrs[name] = getattr(found, name)
    wavenumber, power = inverse(length_unit), f"({length_unit})^3"
    scales: dict[str, tuple[Array, str]] = {
        "k_mean": (found.k, wavenumber),
        "k_edges": (found.k_edges, wavenumber),
        "order": (np.array(found.orders), "1"),
    }
    rows = ["order", "k_mean"]
    if found.power.ndim == 3:
        scales["realization"], rows = (np.arange(len(found.power)), "1"), ["realization", *rows]
    for name, (values, unit) in scales.items():
        _create_scale(group, name, values, unit)
    create_along(group, "n_modes", ["k_mean"], "i8", "1")[...] = found.n_modes
    for name in ("power", "error"):
        create_along(group, name, rows, "f8", power)[...] = getattr(found, name)


def read_multipoles(file: h5py.File) -> PowerMultipoles:
    """Return what :func:`write_multipoles` wrote."""
    group = file["spectra"]
    about = {name: group.attrs[name] for name in _ABOUT if name in group.attrs}
    return PowerMultipoles(
        **_arrays(group),
        orders=tuple(int(order) for order in group["order"]),
        grid=Grid([int(n) for n in group.attrs["shape"]], [float(side) for side in group.attrs["box_size"]]),
        **{name: value.item() if isinstance(value, np.generic) else value for name, value in about.items()},
    )
