"""Runs: draws that stream to a file, with the state from which an interrupted run goes on.

The two states of the file stand in turn in two places, and a counter, written last, says which one
counts: whenever the job is killed, the last but one write is whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from physscore.arrays import namespace, to_host
from physscore.core import Array, Energy, InputError
from physscore.grid import Grid
from physscore.kernels.hamiltonian import HMC
from physscore.kernels.kernel import Kernel
from physscore.kernels.langevin import MALA, ULA, AutoMALA, CrankNicolson, Underdamped
from physscore.kernels.metric import Dense, Diagonal, Fourier, Identity, Metric
from physscore.kernels.state import Draws, State
from physscore.store.hdf5 import (
    check_output,
    describe,
    new_of,
    open_hdf5,
    part_of,
    require_same,
    require_space,
    reserve,
    unwritten,
    writing,
)
from physscore.store.holding import Place, begun, opened, place_of, require_free, require_own

if TYPE_CHECKING:
    from physscore.sampling.engine import Engine
    from physscore.sampling.result import Run

_KERNELS: dict[str, type[Kernel]] = {
    kernel.__name__: kernel for kernel in (ULA, MALA, AutoMALA, Underdamped, CrankNicolson, HMC)
}
_STATE = ("x", "energy", "score", "momentum")


class RunWriter:
    """Writes a run to ``path``, under ``path.part`` until it is finished.

    Parameters
    ----------
    path
        Name of the file.
    seed, settings
        What makes the job: one that is resumed must have the same.
    overwrite, resume
        Replace an existing file; go on with an unfinished one.

    Attributes
    ----------
    finished, started : bool
        Whether there is nothing left to do, and whether there is something to go on from.

    Raises
    ------
    InputError
        If the file exists, belongs to another job, or is being written by one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        seed: int,
        settings: dict[str, Any],
        *,
        overwrite: bool,
        resume: bool,
    ) -> None:
        self.path = check_output(path, overwrite=overwrite, resume=resume)
        self.part = part_of(self.path)
        self.seed, self.settings, self.overwrite = seed, settings, overwrite
        self._file: h5py.File | None = None
        self._place: Place | None = None
        self.finished = resume and self.path.exists()
        if not self.finished:
            require_free(self.part, self.path)
        self.started = resume and self.part.exists() and not self.finished
        if self.finished or self.started:
            existing = self.path if self.finished else self.part
            with open_hdf5(existing) as file:
                require_same(file, existing, seed, settings)

    def begin(
        self, engine: Engine, kept: int, state: State, shape: tuple[int, ...], about: dict[str, Any]
    ) -> None:
        """Make room for ``kept`` draws of shape ``shape``, and write down all that is known."""
        require_space(self.path, kept * int(np.prod(shape)) * state.x.dtype.itemsize)
        fresh = new_of(self.path)  # so that a .part is always readable
        with writing(self.path), begun(fresh, self.path) as held:
            require_free(self.part, self.path)  # the warm-up may have been long
            check_output(self.path, overwrite=self.overwrite)
            with h5py.File(fresh, "w", locking=False) as file:
                describe(file, "run", self.seed, self.settings, "1")
                _write_about(file, engine.kernel, about)
                _make_room(file, kept, shape, state.x.dtype)
                for slot in ("state_0", "state_1"):
                    for name in _STATE:
                        file[slot].create_dataset(name, data=getattr(state, name))
                    file[slot]["step"][0] = state.step
            with open(fresh, "rb+") as room:
                reserve(room.fileno(), fresh.stat().st_size)
            os.replace(fresh, self.part)
            self._file = opened(self.part, self.path, held)
            self._place = place_of(self.part)

    def restore(self, engine: Engine) -> tuple[State, Array, int]:
        """Return the state to go on from, the tally and the draws that are there; tune ``engine`` alike."""
        state = self._state(self.part)
        with open_hdf5(self.part) as file:
            group = file[f"state_{int(file['slot'][0])}"]
            engine.kernel = _read_kernel(file)
            engine.metric = engine.kernel.frozen_metric
            _require_same_target(engine, state.on(engine.device), self.part)
            return state, group["tally"][...], int(group["completed"][0])

    def _state(self, path: Path) -> State:
        with open_hdf5(path) as file:
            group = file[f"state_{int(file['slot'][0])}"]
            arrays = {name: group[name][...] for name in _STATE}
            return State(**arrays, seed=self.seed, step=int(group["step"][0]))

    def require_same_target(self, engine: Engine) -> None:
        """Refuse a finished file whose energies or scores are not those of the target: its name may be the
        same.

        Raises
        ------
        InputError
            If so.
        """
        target, device, run = engine.target, engine.device, RunFile(self.path).run()
        _require_same_target(engine, self._state(self.path).on(device), self.path)
        known = np.asarray(run.energies[-1])
        if not isinstance(target, Energy):
            return
        with np.errstate(over="ignore", invalid="ignore"):
            found = to_host(target.energy(namespace(device).asarray(run.draws[-1])))
        if not _same_energies(found, known):
            raise InputError(
                f"output {self.path} belongs to another job (the energies of its states are not those of "
                f"{target!r}): give the same target, or use --overwrite (in Python overwrite=True)"
            )

    def write(self, first: int, draws: Draws, state: State, tally: Array) -> None:
        """Write draws first, first + 1, ..., and the state after them."""
        file = self._file
        assert file is not None
        require_own(self.part, self._place, self.path)
        with writing(self.path):
            file["samples/x"][first : first + len(draws.x)] = draws.x
            file["samples/energy"][first : first + len(draws.x)] = draws.energy
            slot = 1 - int(file["slot"][0])
            group = file[f"state_{slot}"]
            for name in _STATE:
                group[name][...] = getattr(state, name)
            group["step"][0], group["completed"][0] = state.step, first + len(draws.x)
            group["tally"][...] = tally
            file.flush()
            file["slot"][0] = slot
            file.flush()

    def finish(self, drift_to_noise: float) -> None:
        """Give the file its final name, once everything is on the disk."""
        assert self._file is not None
        with writing(self.path):
            self._file["drift_to_noise"][0] = drift_to_noise
            self._file.close()
            require_own(self.part, self._place, self.path)
            with open(self.part, "rb") as part:
                os.fsync(part.fileno())
            os.replace(self.part, self.path)

    def __enter__(self) -> RunWriter:
        if self._file is None:
            with writing(self.path):
                self._file = opened(self.part, self.path)
                self._place = place_of(self.part)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            with writing(self.path):
                self._file.close()


def _require_same_target(engine: Engine, state: State, part: Path) -> None:
    """Refuse a target whose energy or score at the chains is another one: its name alone may not tell."""
    with np.errstate(over="ignore", invalid="ignore"):
        energy, score = (to_host(found) for found in engine.loop.evaluate(state.x))
    kept = to_host(state.score)
    sizes = np.abs(np.where(np.isfinite(kept), kept, 0.0)).max(axis=0)  # each component has its own
    near = 1e-3 * np.maximum(sizes, 1e-3 * sizes.max())  # a millionth of the largest may be rounding
    what = "" if _same_energies(energy, to_host(state.energy)) else "energy"
    if not np.allclose(score, kept, rtol=1e-3, atol=near, equal_nan=True):
        what = "score"
    if what:
        raise InputError(
            f"output {part} belongs to another job (the {what} at its states is not that of "
            f"{engine.target!r}): resume it with the same target, or use --overwrite (in Python "
            "overwrite=True)"
        )


def _same_energies(found: Array, known: Array) -> bool:
    """Return whether they are, to what single precision and the spread over the chains allow."""
    spread = float(np.ptp(known[np.isfinite(known)])) if np.isfinite(known).any() else 0.0
    return np.allclose(found, known, rtol=1e-5, atol=1e-3 * spread, equal_nan=True)


class RunFile:
    """A file of a run, whose draws stay on the disk until they are read; those of an unfinished one, which a
    job may be writing, are read at once, and the file is closed.

    Raises
    ------
    InputError
        If the file is missing, truncated, foreign, newer than this version, or holds no run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.file = open_hdf5(self.path)
        if self.file.attrs.get("kind") != "run":
            self.file.close()
            raise InputError(f"file {self.path} is not a file of a physscore run")

    def run(self) -> Run:
        """Return the run; of an unfinished one, what is done."""
        from physscore.sampling.result import Run

        file = self.file
        about = json.loads(file.attrs["run"])
        if about["grid"] is not None:
            about["grid"] = Grid(about["grid"]["shape"], about["grid"]["box_size"])
        done, tally = done_of(file)
        whole = done == file["samples/x"].shape[0] and about.pop("complete", True)
        part = self.path.suffix == ".part"
        run = Run(
            file["samples/x"][:done] if part or done < file["samples/x"].shape[0] else file["samples/x"],
            file["samples/energy"][:done],
            tally[0] / max(done * about["thin"], 1),
            tally[1].astype(int),
            _read_kernel(file),
            drift_to_noise=float(file["drift_to_noise"][0]),
            complete=whole,
            file=file,
            **about,
        )
        if part:
            file.close()
        return run


def done_of(file: h5py.File) -> tuple[int, Array]:
    """Return how many draws a run has, and its tally, of the state that no job was writing meanwhile."""
    while True:
        slot = int(file["slot"][0])
        group = file[f"state_{slot}"]
        done, tally = int(group["completed"][0]), group["tally"][...]
        if (int(file["slot"][0]), int(group["completed"][0])) == (slot, done):
            return done, tally


def write_run(path: Path, run: Run) -> None:
    """Write a run that is in memory."""
    about = {
        name: getattr(run, name) for name in ("target", "seed", "warmup", "thin", "loop", "names", "grid")
    }
    about["complete"] = run.complete
    about |= {"swap_every": run.swap_every, "first_step": run.first_step}
    check_storable(run.kernel)
    kept = run.draws.shape[0]
    with h5py.File(path, "w", locking=False) as file:
        describe(file, "run", run.seed, {}, "1")
        _write_about(file, run.kernel, about)
        _make_room(file, kept, tuple(run.draws.shape[1:]), run.draws.dtype)
        file["samples/x"][...] = to_host(run.draws)
        file["samples/energy"][...] = run.energies
        file["drift_to_noise"][0] = run.drift_to_noise
        group = file["state_0"]
        group["completed"][0] = kept
        group["tally"][0], group["tally"][1] = run.acceptance * kept * run.thin, run.divergent


def check_storable(kernel: Kernel) -> None:
    """Refuse a kernel that could not be read back from a file.

    Raises
    ------
    InputError
        If it, or its metric, is not one of ours.
    """
    if _KERNELS.get(type(kernel).__name__) is not type(kernel):
        raise InputError(f"kernel is {kernel!r}: files hold runs of {', '.join(_KERNELS)}")
    ours = (Identity, Diagonal, Dense, Fourier)
    if not isinstance(kernel.metric, str) and type(kernel.metric) not in ours:
        raise InputError(f"metric is {kernel.metric!r}: files hold Identity, Diagonal, Dense and Fourier")


def _write_about(file: h5py.File, kernel: Kernel, about: dict[str, Any]) -> None:
    grid = about["grid"]
    file.attrs["run"] = json.dumps({**about, "grid": grid.settings() if grid is not None else None})
    _write_kernel(file, kernel)


def _make_room(file: h5py.File, kept: int, shape: tuple[int, ...], dtype: Any) -> None:
    """Make all datasets but those of the state: from here on only numbers are written into them."""
    samples = file.create_group("samples")
    x = samples.create_dataset("x", (kept, *shape), dtype, dcpl=unwritten())
    x.dims[0].label, x.dims[1].label = "draw", "chain"
    samples.create_dataset("energy", (kept, shape[0]), np.float64, dcpl=unwritten())
    for slot in ("state_0", "state_1"):
        group = file.create_group(slot)
        group.create_dataset("step", data=np.zeros(1, np.int64))
        group.create_dataset("tally", data=np.zeros((3, shape[0])))
        group.create_dataset("completed", data=np.zeros(1, np.int64))
    file.create_dataset("slot", data=np.zeros(1, np.int64))
    file.create_dataset("drift_to_noise", data=np.full(1, np.nan))


def _write_kernel(file: h5py.File, kernel: Kernel) -> None:
    group = file.create_group("kernel")
    settings = {field.name: getattr(kernel, field.name) for field in fields(kernel)}
    metric = settings.pop("metric")
    if isinstance(metric, Fourier) and metric.octant is not None:
        group.create_dataset("metric", data=metric.octant)
    elif isinstance(metric, Diagonal):
        group.create_dataset("metric", data=metric.variances)
    elif isinstance(metric, Dense):
        group.create_dataset("metric", data=metric.covariance)
    group.attrs["metric"] = metric if isinstance(metric, str) else type(metric).__name__
    if isinstance(metric, Fourier):
        group.attrs["grid"] = json.dumps(metric.grid.settings())
    group.attrs["name"] = type(kernel).__name__
    group.attrs["settings"] = json.dumps(settings, default=float)  # of NumPy numbers


def _read_kernel(file: h5py.File) -> Kernel:
    group = file["kernel"]
    kind = str(group.attrs["metric"])
    metric: str | Metric = kind
    if kind == "Fourier":
        grid = json.loads(group.attrs["grid"])
        metric = Fourier(Grid(grid["shape"], grid["box_size"]), group["metric"][...])
    elif kind in ("Diagonal", "Dense"):
        metric = (Diagonal if kind == "Diagonal" else Dense)(group["metric"][...])
    elif kind == "Identity":
        metric = Identity()
    return _KERNELS[str(group.attrs["name"])](metric=metric, **json.loads(group.attrs["settings"]))
