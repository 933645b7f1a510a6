"""HDF5: fields, spectra, runs and estimates, written so that nothing finished is ever lost.

``hdf5.py`` opens and describes files, the others lay out a kind each, and here is what saves and loads them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from physscore.arrays import on_gpu, to_host, unmasked
from physscore.core import InputError
from physscore.diagnostics.multipoles import PowerMultipoles
from physscore.diagnostics.power import PowerSpectrum
from physscore.store.field_file import FieldFile
from physscore.store.fields import Fields, FieldWriter
from physscore.store.hdf5 import check_output, describe, open_hdf5, reading, whole_file
from physscore.store.spectra import read_multipoles, read_spectrum, write_multipoles, write_spectrum

if TYPE_CHECKING:
    from physscore.evidence.result import LogZ
    from physscore.learning.fitted import Fitted
    from physscore.sampling.result import Run

__all__ = ["FieldFile", "FieldWriter", "Fields", "load", "save"]


def save(
    path: str | os.PathLike[str],
    what: Fields | PowerSpectrum | PowerMultipoles | Run | LogZ | Fitted,
    *,
    overwrite: bool = False,
    length_unit: str = "Mpc/h",
) -> None:
    """Write fields, a spectrum, a run or an estimate to an HDF5 file that appears only when it is whole.

    A learned score goes into a safetensors file.

    Parameters
    ----------
    path
        Name of the file.
    what
        :class:`Fields`, a :class:`PowerSpectrum`, :class:`PowerMultipoles`, a :class:`Run`, a :class:`LogZ`
        or a ``learning.Fitted``.
    overwrite
        Replace an existing file.
    length_unit
        Unit of a power spectrum's lengths; fields know their own.

    Raises
    ------
    InputError
        If the file exists or cannot be written, or ``what`` is something else.
    """
    from physscore.evidence.result import LogZ  # here, since jobs of fields need none of it
    from physscore.sampling.result import Run
    from physscore.store.evidence import write_log_z
    from physscore.store.runs import write_run

    if isinstance(what, Fields):
        delta = to_host(what.delta) if on_gpu(what.delta) else unmasked(what.delta, "delta")
        if delta.dtype.kind not in "fiu" or delta.size == 0:
            raise InputError(
                f"delta has shape {delta.shape} and type {delta.dtype}: it must hold fields of real numbers"
            )
        batched = delta.ndim == what.grid.dim + 1
        if delta.shape[1 if batched else 0 :] != what.grid.shape:
            raise InputError(
                f"delta has shape {delta.shape}: it must be {what.grid.shape} or a batch of these"
            )
        with FieldWriter(
            path,
            what.grid,
            n=len(delta) if batched else None,
            dtype=delta.dtype,
            length_unit=what.length_unit,
            redshift=what.redshift,
            seed=what.seed,
            settings=what.settings,
            overwrite=overwrite,
        ) as writer:
            for i, field in enumerate(delta if batched else [delta]):
                writer.write(i, field)
            writer.finish()
    elif isinstance(what, PowerSpectrum):
        path = check_output(path, overwrite=overwrite)
        need = 4 * what.power.nbytes + 4 * what.k.nbytes  # and their errors, correlations and edges
        with whole_file(path, need) as fresh, h5py.File(fresh, "w", locking=False) as file:
            describe(file, "spectrum", None, {}, length_unit)
            write_spectrum(file, what, length_unit)
    elif isinstance(what, PowerMultipoles):
        path = check_output(path, overwrite=overwrite)
        with whole_file(path, 4 * what.power.nbytes) as fresh, h5py.File(fresh, "w", locking=False) as file:
            describe(file, "multipoles", None, {}, length_unit)
            write_multipoles(file, what, length_unit)
    elif isinstance(what, Run):
        path = check_output(path, overwrite=overwrite)
        with whole_file(path, what.draws.size * what.draws.dtype.itemsize + what.energies.nbytes) as fresh:
            write_run(fresh, what)
    elif isinstance(what, LogZ):
        write_log_z(check_output(path, overwrite=overwrite), what)
    elif type(what).__name__ in ("Fitted", "FittedEnergy"):  # without loading torch for all else
        what.save(path, overwrite=overwrite)
    else:
        raise InputError(
            f"what is a {type(what).__name__}: it must be Fields, a PowerSpectrum, PowerMultipoles, a Run, "
            "a LogZ or a learned score"
        )


def load(path: str | os.PathLike[str], *, module: Any = None) -> Any:
    """Return what :func:`save`, ``physscore field``, a run, an estimate of log Z or a training wrote.

    All is read into memory, but draws of a run, which are an h5py dataset. Of an unfinished job, which may
    be running, it is what is there: fields with a warning, draws in memory.

    Parameters
    ----------
    path
        The file: HDF5, or a model that ends in ``.safetensors``.
    module
        The network that takes the weights of a model, where it was trained with one of the user's.

    Returns
    -------
    Fields, PowerSpectrum, PowerMultipoles, Run, LogZ or learning.Fitted

    Raises
    ------
    InputError
        If the file is missing, truncated, foreign, or newer than this version.
    """
    if Path(path).suffix == ".safetensors":
        from physscore.learning.fitted import load as load_model

        return load_model(path, module)
    if module is not None:
        raise InputError(f"module is given, but {path} is no model: those end in .safetensors")
    with open_hdf5(Path(path)) as file:
        if file.attrs.get("kind") == "multipoles":
            with reading(Path(path)):
                return read_multipoles(file)
        if file.attrs.get("kind") == "spectrum":
            with reading(Path(path)):
                return read_spectrum(file)
        kind = file.attrs.get("kind")
    if kind == "run":
        from physscore.store.runs import RunFile

        with reading(Path(path)):
            return RunFile(path).run()
    if kind == "evidence":
        from physscore.store.evidence import read_log_z

        return read_log_z(path)
    with FieldFile(path) as fields:
        return Fields(
            delta=fields.finished(),
            grid=fields.grid,
            length_unit=fields.length_unit,
            redshift=fields.redshift,
            seed=fields.seed,
            settings=fields.settings,
        )
