"""Repeating a kernel: ``sample`` for a whole run, ``iterate`` for a caller in control."""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from physscore.arrays import (
    checked_device,
    device_of,
    floating_dtype,
    namespace,
    on_gpu,
    require_memory,
    to_host,
    unmasked,
)
from physscore.core import Array, InputError, Score
from physscore.energies.coordinates import prior_and_likelihood
from physscore.interrupt import interruptible
from physscore.kernels.kernel import Kernel
from physscore.kernels.langevin import MALA
from physscore.kernels.metric import Dense, Diagonal, Fourier, Metric
from physscore.kernels.state import Draws, Info, State
from physscore.processes import ending_together, on_root, require_same_everywhere, world
from physscore.sampling.causes import NOT_A_NUMBER, causes
from physscore.sampling.engine import Engine, first_states, grid_of, whole
from physscore.sampling.pace import Pace
from physscore.sampling.result import Run
from physscore.sampling.sharing import shared
from physscore.sampling.warmup import warm_up
from physscore.store.runs import RunFile, RunWriter, check_storable

_BLOCK_BYTES = 1 << 25  # draws that are gathered before they go to a file


def sample(
    target: Score,
    kernel: Kernel | None = None,
    *,
    chains: int = 16,
    steps: int = 1000,
    warmup: int | None = None,
    thin: int = 1,
    seed: int = 0,
    init: Any = None,
    dtype: npt.DTypeLike = np.float64,
    device: str | None = None,
    workers: int = 1,
    progress: bool = False,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_interrupt: Callable[[], None] = lambda: None,
) -> Run:
    """Draw from exp(-E) with many chains.

    Every number depends on the seed and on its place only, not on threads, on the pieces the run is
    made in, or on where it was interrupted and resumed.

    Parameters
    ----------
    target
        An energy, or a score for the kernels that need no more.
    kernel
        How a step is made. [default: ``MALA()``]
    chains
        How many run at once.
    steps
        Of each chain, after the warm-up.
    warmup
        Steps in which the chains find their place and "auto" settings are tuned; none of them is kept.
        [default: half of ``steps``, and 200 at least]
    thin
        Keep every ``thin``-th step.
    seed
        A whole number from 0 to 2^64 - 1.
    init
        Where the chains start: an array (chains, *shape), one state for all, or a :class:`Run` to go on
        with: from its last draws, and with the noise where it stopped. With its kernel, its seed and
        ``warmup=0`` that gives the draws by which a longer run would be longer, and ``run + more`` is that
        run: to rounding where chains move in other coordinates, such as the modes of a field; momenta of
        ``Underdamped`` are drawn anew. Draws of a run that are given as an array need another seed, or that
        run's noise is repeated.
        [default: draws from the prior, or standard normals where there is none]
    dtype
        float64, or float32 for large states; the compiled loop over small ones is float64 always.
    device
        "cpu", or "gpu" for draws that are CuPy arrays. [default: where ``init`` is]
    workers
        Processes that share the chains; those that ``mpiexec`` started share them without being asked. The
        draws do not depend on it.
    progress
        Show a progress bar.
    output
        An HDF5 file for the draws, which then need no memory. It is ``name.part`` until it is finished.
    resume
        Go on with an unfinished file; return what is in a finished one.
    overwrite
        Replace an existing file.
    on_interrupt
        Called when Ctrl-C is noted; the step that is being made is finished, but for a second Ctrl-C.
        Without a file an interrupted run returns what it has; with one, what is done is kept and
        KeyboardInterrupt is raised, as it is in the warm-up, of which nothing is kept.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If an argument makes no sense.
    """
    kernel = MALA() if kernel is None else kernel
    chains, steps, thin = whole(chains=chains), whole(steps=steps), whole(thin=thin)
    warmup = max(200, steps // 2) if warmup is None else whole(0, warmup=warmup)
    if thin > steps:
        raise InputError(f"thin is {thin} and steps {steps}: nothing would be kept")
    seed, precision, workers = whole(0, seed=seed), floating_dtype(dtype), whole(workers=workers)
    kept = steps // thin
    init, first_step = _going_on(init, chains)
    device = checked_device(device_of(init) if device is None else device)
    engine = Engine(target, kernel, device=device)
    if engine.loop.name != "batched":
        precision = np.dtype(np.float64)
    settings = {
        "target": repr(target), "kernel": repr(kernel), "chains": chains, "steps": steps,
        "warmup": warmup, "thin": thin, "dtype": str(precision), "first_step": first_step or None,
    }  # fmt: skip
    given = {"metric": _numbers_of(kernel.metric), "init": init}
    settings |= {f"{name}_sha256": _digest(array) for name, array in given.items()}
    about: dict[str, Any] = {
        "target": repr(target), "seed": seed, "warmup": warmup, "thin": thin, "loop": engine.loop.name,
        "names": _names(target), "grid": _grid(target), "first_step": first_step,
    }  # fmt: skip
    writer: RunWriter | None = None
    comm = world()
    require_same_everywhere(comm, (settings, seed))
    if device == "gpu" and (workers > 1 or comm is not None):
        raise InputError(
            f'device is "gpu", where one process moves all chains: workers is {workers}; under mpiexec, each '
            "process can have chains of its own inside of: with physscore.processes.alone()"
        )

    def finished() -> bool:
        nonlocal writer
        check_storable(kernel)
        writer = RunWriter(output, seed, settings, overwrite=overwrite, resume=resume)  # type: ignore[arg-type]
        if writer.finished:
            writer.require_same_target(engine)
        return writer.finished

    if output is not None:
        if on_root(comm, finished):
            return RunFile(output).run()
    else:
        size = kept * chains * target.dim * precision.itemsize
        on_root(comm, lambda: require_memory(size, f"keeping {kept} draws of {chains} chains", device))
    xp = namespace(device)
    hidden = not progress or (comm is not None and comm.rank > 0)
    bar = tqdm(total=warmup + steps, desc="warm-up", unit="step", disable=hidden)
    with ending_together(comm), shared(workers), interruptible(on_interrupt) as stop_if_asked, bar:

        def look(n: int) -> None:
            bar.update(n)
            on_root(comm, stop_if_asked)

        pace = Pace(look, comm)

        def restored() -> Any:
            if writer is None or not writer.started:
                return None
            return *writer.restore(engine), engine.kernel, engine.metric

        if (found := on_root(comm, restored)) is not None:
            state, tally, done, engine.kernel, engine.metric = found
            state = state.on(device)
            bar.update(warmup + done * thin)
        else:
            state = engine.start(
                first_states(target, chains, seed, init, precision, device), seed, first_step
            )
            warm_up(engine, state, warmup, pace)
            tally, done = np.zeros((3, chains)), 0
            if writer is not None:
                writer.begin(engine, kept, state.on("cpu"), (chains, *target.shape), about)
        bar.set_description("sampling")
        if output is None:
            draws = Draws(xp.empty((kept, chains, *target.shape), state.x.dtype), np.empty((kept, chains)))
            complete, counted = True, tally.copy()
            try:
                for first, last in pace.pieces(0, kept * thin, thin):
                    part = Draws(*(a[first // thin : last // thin] for a in draws))
                    _advance(engine, state, last - first, thin, part, tally)
                    if len(part.x):
                        done, counted = last // thin, tally.copy()
            except KeyboardInterrupt:
                complete = False
                warnings.warn(f"interrupted: {done} of {kept} draws a chain are there", stacklevel=2)
            run = Run(
                draws.x[:done], draws.energy[:done], counted[0] / max(done * thin, 1), counted[1].astype(int),
                engine.kernel, drift_to_noise=drift_to_noise(engine, state), complete=complete, **about,
            )  # fmt: skip
        else:
            size = chains * target.dim * precision.itemsize
            with writer or nullcontext():
                most = max(1, _BLOCK_BYTES // size)
                for first, last in pace.pieces(done * thin, kept * thin, thin, most):
                    n = last // thin - first // thin
                    part = Draws(xp.empty((n, chains, *target.shape), state.x.dtype), np.empty((n, chains)))
                    _advance(engine, state, last - first, thin, part, tally)
                    if writer is not None and n:
                        made = Draws(to_host(part.x), part.energy)
                        writer.write(first // thin, made, state.on("cpu"), tally)
                if writer is not None:
                    writer.finish(drift_to_noise(engine, state))
            on_root(comm, lambda: None)  # the file is there now
            run = RunFile(output).run()
        run.causes = causes(engine, state, run)
    if run.n_divergent:
        found = [why for why in run.causes if why.startswith(NOT_A_NUMBER)]
        why = "their step is too long for where they were, or the energy falls without bound"
        warnings.warn(
            f"{run.n_divergent} of {chains} chains diverged: {(found or [why])[0]}; see run.divergent",
            stacklevel=2,
        )
    return run


def _advance(engine: Engine, state: State, steps: int, thin: int, part: Draws, tally: Array) -> None:
    """Make ``steps`` and the draws that they end, none of them where all are within one."""
    if len(part.x):
        engine.advance(state, steps, min(thin, steps), part, tally)
    else:
        engine.advance(state, steps, tally=tally)


def drift_to_noise(engine: Engine, state: State) -> float:
    """Return eps |W^T s|^2 / 2d, the mean over the chains that are not lost."""
    if engine.kernel.step_function not in ("langevin", "hamiltonian"):
        return math.nan
    moves = engine.kernel.moves()
    if moves.length > 1 or moves.harmonic:
        return math.nan
    score = to_host(state.score).reshape(len(state.score), -1)
    metric = engine.metric
    if isinstance(metric, Dense):
        score = score @ metric.factor_of_type(score.dtype)
    elif isinstance(metric, Diagonal):
        score = score * metric.factor_of_type(score.dtype)[0]
    squares = (score.astype(np.float64) ** 2).sum(axis=1)
    squares = squares[np.isfinite(squares)]
    return float(squares.mean() * moves.step**2 / 2 / (2 * score.shape[1])) if len(squares) else math.nan


def iterate(
    target: Score,
    kernel: Kernel | None = None,
    *,
    chains: int = 16,
    warmup: int = 0,
    seed: int = 0,
    init: Any = None,
    dtype: npt.DTypeLike = np.float64,
    device: str | None = None,
) -> Iterator[tuple[Array, Array, Info]]:
    """Yield (x, energy, info) after each step, without end: the caller is in control.

    Parameters
    ----------
    target, kernel, chains, warmup, seed, init, dtype, device
        As in :func:`sample`; "auto" settings, as the default kernel has, need a warm-up.

    Yields
    ------
    x : array (chains, *shape)
    energy : array (chains,)
    info : Info
        Acceptance and divergence of each chain, and which loop ran.

    Raises
    ------
    InputError
        If an argument makes no sense.
    """
    kernel = MALA() if kernel is None else kernel
    chains, warmup, seed = whole(chains=chains), whole(0, warmup=warmup), whole(0, seed=seed)
    init, first_step = _going_on(init, chains)
    device = checked_device(device_of(init) if device is None else device)
    engine = Engine(target, kernel, device=device)
    start = first_states(target, chains, seed, init, floating_dtype(dtype), device)
    state = engine.start(start, seed, first_step)
    warm_up(engine, state, warmup)
    while True:
        info = engine.advance(state, 1, 0)
        x = engine.positions(state.x)
        yield x.copy() if engine.plain else x, engine.energies(state, x).copy(), info


def _going_on(init: Any, chains: int) -> tuple[Any, int]:
    """Return an array of where chains start, and the number of their first step: of a run, where it ended."""
    if not isinstance(init, Run):
        return init if init is None or on_gpu(init) else unmasked(init, "init"), 0
    kept, n = init.draws.shape[:2]
    if n != chains or kept == 0:
        raise InputError(
            f"init is a run of {n} chains with {kept} draws each, and chains is {chains}: a run is gone on "
            "with by as many chains, from their last draws"
        )
    return init.draws[-1], init.first_step + init.warmup + kept * init.thin


def _numbers_of(metric: Metric | str) -> Array | None:
    if isinstance(metric, Fourier) and metric.octant is not None:
        return metric.octant
    return None if isinstance(metric, str) else metric.factor


def _digest(array: Any) -> str | None:
    if array is None:
        return None
    whole_array = np.ascontiguousarray(to_host(array))
    return hashlib.sha256(whole_array.tobytes() + repr(whole_array.shape).encode()).hexdigest()


def _names(target: Score) -> list[str] | None:
    names = getattr(prior_and_likelihood(target)[0], "names", None)
    return None if names is None else list(names)


def _grid(target: Score) -> Any:
    try:
        return grid_of(target) if len(target.shape) > 1 or hasattr(target, "grid") else None
    except InputError:
        return None
