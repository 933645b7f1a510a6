"""On a card: what the CPU gives, and how near to the speed of the card it is made.

    pip install ".[gpu]" && python benchmarks/gpu.py [--only PART] [--json FILE]

Times are medians of device events, warm; floors are measured in the same run. JAX, where it is installed,
runs in a process of its own. Results are compared with the CPU's before they are timed. A part that fails
is a row of the table, and the others go on; the file is written after every row.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import cupy as cp
import numpy as np
from cupy.cuda import cufft

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is not installed
import physscore as ps
from physscore.arrays import to_host
from physscore.cuda import fft
from physscore.noise import normal

ROWS: list[dict[str, Any]] = []
VERSIONS: dict[str, str] = {}
FILE: list[Path] = []
SPECTRUM = ps.spectra.PowerLaw(index=-1.5, amplitude=100.0)


def show(what: str, reach: str, seen: str, **numbers: Any) -> None:
    """Keep a row of the table and print it."""
    if not ROWS:
        print(f"{'what':62s} {'reach':>22s}  seen")
    ROWS.append({"what": what, "reach": reach, "seen": seen, **numbers})
    print(f"{what:62s} {reach:>22s}  {seen}", flush=True)
    for file in FILE:
        file.write_text(json.dumps({"versions": VERSIONS, "rows": ROWS}, indent=1) + "\n")


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise an error in what takes longer."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"no result in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def milliseconds(work: Callable[[], Any], repeats: int = 9) -> float:
    """Return the median time of ``work`` on the device."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        start, stop = cp.cuda.Event(), cp.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        times.append(cp.cuda.get_elapsed_time(start, stop))
    return float(np.median(times))


def difference(found: Any, expected: Any) -> float:
    """Return the largest difference over the largest value."""
    return float(np.abs(to_host(found) - expected).max() / np.abs(expected).max())


def forget() -> None:
    """Give all cached memory and plans back."""
    fft._plan.cache_clear()
    cp.get_default_memory_pool().free_all_blocks()


def transforms(n: int) -> tuple[float, float]:
    """Return the times of one forward and one inverse transform of n^3 float32 cells, by cuFFT alone."""
    shape = (n, n, n)
    x = normal(n * n, n, seed=1, dtype=np.float32, device="gpu").reshape(shape)
    modes = fft.forward_fft(x[np.newaxis])[0]
    forward = cufft.PlanNd(shape, None, 1, 0, None, 1, 0, cufft.CUFFT_R2C, 1, "C", 2, None)
    inverse = cufft.PlanNd(shape, None, 1, 0, None, 1, 0, cufft.CUFFT_C2R, 1, "C", 2, None)
    times = (
        milliseconds(lambda: forward.fft(x, modes, cufft.CUFFT_FORWARD)),
        milliseconds(lambda: inverse.fft(modes, x, cufft.CUFFT_INVERSE)),
    )
    forget()
    return times


def same() -> None:
    """Compare fields, scores and spectra with the CPU's."""
    for dtype, reach in (("float32", "3e-6"), ("float64", "1e-13")):
        worst = 0.0
        for shape in ((64, 64, 64), (45, 50, 63), (128, 96), (1001,)):
            prior = ps.GaussianRandomField(ps.Grid(shape, 100.0), SPECTRUM)
            x = prior.sample(2, seed=3, dtype=dtype)
            there = prior.sample(2, seed=3, dtype=dtype, device="gpu")
            energy, score = prior.energy_and_score(there)
            worst = max(
                worst, difference(there, x), difference(score, prior.score(x)),
                difference(energy, prior.energy(x)), difference(prior.whiten(there), prior.whiten(x)) / 10,
            )  # fmt: skip
        show(f"fields, scores, energies as the CPU's, {dtype}", reach, f"{worst:.1e}")


def fields() -> None:
    """Sampling, score and P(k) of one large field against cuFFT."""
    for n in (512, 1024):
        forward, inverse = transforms(n)
        grid = ps.Grid((n, n, n), 1000.0)
        prior = ps.GaussianRandomField(grid, SPECTRUM)
        pool = cp.get_default_memory_pool()

        def draw(prior: Any = prior) -> Any:
            return prior.sample(1, seed=1, dtype="float32", device="gpu")

        draw()
        forget()
        used = pool.total_bytes()
        x = draw()
        peak = (pool.total_bytes() - used) / x.nbytes
        del x
        ours = milliseconds(draw)
        show(f"field {n}^3 / c2r", "1.5", f"{ours / inverse:.2f}  ({ours:.2f} ms, {inverse:.2f})", ours=ours)
        show(f"field {n}^3, memory / its own", "3.2", f"{peak:.2f}")
        peer = jax("field", n)
        if peer:
            show(
                f"field {n}^3, JAX / ours", "2", f"{peer['ms'] / ours:.2f}  ({peer['ms']:.2f} ms)", peer=peer
            )
            own = peak * n**3 * 4
            show(f"field {n}^3, memory, ours / JAX", "0.6", f"{own / peer['bytes']:.2f}")
        x = draw()
        took = milliseconds(lambda x=x, prior=prior: prior.score(x))
        floor = forward + inverse
        show(f"score {n}^3 / (r2c + c2r)", "1.25", f"{took / floor:.2f}  ({took:.2f} ms, {floor:.2f})")
        took = milliseconds(lambda x=x, prior=prior: prior.energy_and_score(x))
        show(f"energy and score {n}^3 / (r2c + c2r)", "", f"{took / floor:.2f}  ({took:.2f} ms)")
        from physscore.cuda import modes

        def power(x: Any = x, grid: Any = grid) -> Any:
            spectrum = fft.forward_fft(x)
            return modes.sum_power(spectrum, spectrum, grid.wavenumbers, None)

        took = milliseconds(power)
        show(f"P(k) {n}^3, all shells / r2c", "1.5", f"{took / forward:.2f}  ({took:.2f} ms, {forward:.2f})")
        ps.power_spectrum(x[0], grid, bins="shells")
        start = time.perf_counter()
        measured = ps.power_spectrum(x, grid, bins="shells").compare(SPECTRUM)
        took = 1e3 * (time.perf_counter() - start)
        show(f"power_spectrum() {n}^3 and its check, bins on the CPU", "p > 0.001",
             f"{took:.1f} ms, p = {measured.p_value:.3f}")  # fmt: skip
        del x, prior
        forget()


def mala() -> None:
    """A step of kernels of a field posterior against its transforms."""
    from physscore.sampling.engine import Engine

    kernels = (
        ps.MALA(step_size=0.005, metric="fourier"), ps.CrankNicolson(step_size=0.01),
        ps.ULA(step_size=0.005, metric="fourier"), ps.HMC(step_size=0.05, leapfrogs=4, metric="fourier"),
    )  # fmt: skip
    for kernel in kernels:
        target, prior = posterior(64)
        x = prior.sample(2, seed=5)
        run = {"chains": 2, "steps": 3, "warmup": 0, "seed": 1, "init": x}
        found, expected = (ps.sample(target, kernel, device=device, **run) for device in ("gpu", "cpu"))
        show(f"{type(kernel).__name__}, 3 steps of 64^3, as the CPU's", "1e-10",
             f"{difference(found.draws, expected.draws):.1e}")  # fmt: skip
    n = 256
    forward, inverse = transforms(n)
    target, prior = posterior(n)
    for kernel in kernels:
        engine = Engine(target, kernel, device="gpu")
        state = engine.start(prior.sample(1, seed=5, dtype="float32", device="gpu"), 1)
        engine.advance(state, 200)
        info = engine.advance(state, 100)
        took = milliseconds(lambda engine=engine, state=state: engine.advance(state, 20), 7) / 20
        leaps = kernel.leapfrogs if isinstance(kernel, ps.HMC) else 1
        floor = leaps * (forward + inverse)
        show(
            f"{type(kernel).__name__} step, posterior of {n}^3 / (r2c + c2r)",
            "1.4",
            f"{took / floor:.2f}  ({took:.3f} ms, {floor:.3f}), acceptance {info.acceptance.mean():.2f}",
        )
    forget()


def posterior(n: int) -> tuple[Any, Any]:
    """Return the posterior of a field of n^3 cells, and its prior."""
    prior = ps.GaussianRandomField(ps.Grid((n, n, n), 1000.0), SPECTRUM)
    truth = prior.sample(1, seed=9)[0]
    return prior + ps.GaussianNoise(truth, 1.0).simulate(truth, seed=1), prior


def rows() -> None:
    """Sums over long rows, which a step of log Z needs, against a copy of as many bytes."""
    from physscore.arrays import row_dots

    x = normal(16, 128**3, seed=1, device="gpu")
    y = cp.empty_like(x)
    floor = milliseconds(lambda: cp.copyto(y, x))
    for name, work in (("row_dots", lambda: row_dots(x, y)), ("einsum", lambda: np.einsum("ni,ni->n", x, y)),
                       ("isfinite().all(axis=1)", lambda: cp.isfinite(x).all(axis=1))):  # fmt: skip
        took = milliseconds(work)
        show(f"{name} of 16 x 128^3 / a copy", "", f"{took / floor:.2f}  ({took:.3f} ms, {floor:.3f})")
    forget()


def chains() -> None:
    """Langevin of many chains on a 2-d mixture, by its compiled energy."""
    from physscore.kernels.loops import Loop
    from physscore.kernels.metric import Identity
    from physscore.kernels.state import Moves

    mixture = ps.GaussianMixture([0.1, 0.2, 0.3, 0.4], [[2, 2], [2, -2], [-2, 2], [-2, -2]], 0.25)
    options = {"chains": 1000, "steps": 20, "warmup": 0, "seed": 3}
    kernel = ps.MALA(step_size=0.1, metric="identity")
    expected, found = (
        ps.sample(mixture, kernel, **options),
        ps.sample(mixture, kernel, device="gpu", **options),
    )
    show("chains as the CPU's, 20 steps of MALA", "1e-9",
         f"{difference(found.draws, expected.draws):.1e}, loop {found.loop}")  # fmt: skip
    n = 10**6
    loop = Loop(mixture, "langevin", device="gpu")
    state = loop.start(cp.zeros((n, 2)), 1)
    took = milliseconds(lambda: loop.advance(state, Moves(0.05**0.5), Identity(), 1000), 5)
    for precision in ("double", "single"):
        peer = jax(precision, n)
        if peer:
            show(f"Langevin, 1e6 chains x 1000 steps: JAX in {precision} / ours", "3",
                 f"{peer['ms'] / took:.2f}  ({peer['ms']:.1f} ms, {took:.1f})")  # fmt: skip
    weights = [float(((state.x[:, 0] > 0) == a).astype(float)[(state.x[:, 1] > 0) == b].sum()) / n
               for a in (True, False) for b in (True, False)]  # fmt: skip
    show("its weights of the modes (0.1 0.2 0.3 0.4)", "", " ".join(f"{w:.3f}" for w in weights))
    if loop.name != "card":
        print("# numba-cuda is missing: these are the CPU's loop")
    forget()


def partition() -> None:
    """Partition functions at the critical point, where they are known (Kaufman 1949), with no bound on the
    error: what 128 particles give, and how it grows with the lattice."""
    for n, seconds in ((16, 120), (64, 120), (128, 180)):
        target = ps.Ising((n, n), coupling=0.5 * float(np.log(1 + np.sqrt(2))))
        log_z(f"dual Ising {n}^2 at T_c", target, target.log_z, seconds, "|z| <= 3", particles=128)


def critical() -> None:
    """The same at 256^2, to an error of 1."""
    target = ps.Ising((256, 256), coupling=0.5 * float(np.log(1 + np.sqrt(2))))
    log_z("dual Ising 256^2 at T_c", target, target.log_z, 540, "1, 180 s, |z| <= 3", particles=128,
          target_error=1.0)  # fmt: skip


def evidence() -> None:
    """The evidence of fields with noise, against what is exact."""
    for n, seconds in ((32, 120), (128, 400)):
        prior = ps.GaussianRandomField(ps.Grid((n, n, n), 1000.0), SPECTRUM)
        noise = 0.5 * float(np.sqrt(prior.variance))
        truth = prior.sample(1, seed=9)[0]
        target = prior + ps.GaussianNoise(truth, noise).simulate(truth, seed=1)
        # Data are the sum of two random fields: their density is that of one with the power of both.
        data = prior.from_modes(
            prior.grid, prior.wavenumbers, prior.power + noise**2 * prior.grid.volume / prior.grid.n_cells
        )
        exact = -float(data.energy(target.likelihood.data[np.newaxis])[0])
        log_z(f"field with noise, {n}^3, from the prior", target, exact, seconds, "10, 300 s, |z| <= 2",
              particles=16, target_error=10.0)  # fmt: skip


def log_z(name: str, target: Any, known: float, seconds: int, reach: str, **settings: Any) -> None:
    """Show one estimate beside what is exact."""
    start = time.perf_counter()
    try:
        with within(seconds):
            found = ps.estimate_log_z(target, device="gpu", **settings)
    except TimeoutError as late:
        show(f"log Z, {name}", reach, str(late))
        return
    finally:
        forget()
    took = time.perf_counter() - start
    show(f"log Z, {name}", reach,
         f"{found.log_z:.2f} +- {found.error:.2f} in {took:.0f} s, exact {known:.2f}, "
         f"z = {(found.log_z - known) / found.error:+.2f}, {found.verdict}")  # fmt: skip
    print(f"# {'; '.join(found.reasons)} {len(found.betas)} temperatures, {len(found.islands)} islands, "
          f"{found.evaluations:.3g} gradients")  # fmt: skip


JAX = """
import os, sys, time, json
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
import jax, jax.numpy as jnp
what, n = sys.argv[1], int(sys.argv[2])
def median(run):
    run(0).block_until_ready()
    times = []
    for i in range(9):
        start = time.perf_counter(); run(i).block_until_ready(); times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[4]
if what == "field":
    @jax.jit
    def field(key):
        white = jnp.fft.rfftn(jax.random.normal(key, (n, n, n), jnp.float32))
        k, kz = jnp.fft.fftfreq(n) * n, jnp.fft.rfftfreq(n) * n
        squares = k[:, None, None]**2 + k[None, :, None]**2 + kz[None, None, :]**2
        amplitude = jnp.where(squares > 0, jnp.maximum(squares, 1.0)**-0.375, 0.0)
        return jnp.fft.irfftn(white * amplitude, (n, n, n))
    ms = median(lambda i: field(jax.random.key(i)))
else:
    single = what == "single"
    jax.config.update("jax_enable_x64", not single)
    kind = jnp.float32 if single else jnp.float64
    means = jnp.array([[2, 2], [2, -2], [-2, 2], [-2, -2]], kind)
    log_weights = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4], kind))
    log_p = lambda x: jax.nn.logsumexp(log_weights - 2 * ((x - means)**2).sum(-1))
    score = jax.vmap(jax.grad(log_p))
    @jax.jit
    def chains(key):
        step = lambda x, key: (x + 0.025 * score(x) + 0.05**0.5 * jax.random.normal(key, x.shape, kind), None)
        return jax.lax.scan(step, jnp.zeros((n, 2), kind), jax.random.split(key, 1000))[0]
    ms = median(lambda i: chains(jax.random.key(i)))
print(json.dumps({"ms": ms, "bytes": jax.local_devices()[0].memory_stats()["peak_bytes_in_use"]}))
"""


def jax(what: str, n: int) -> dict[str, Any] | None:
    """Return what JAX takes for the same work, if it is here."""
    forget()
    try:
        done = subprocess.run(
            [sys.executable, "-c", JAX, what, str(n)], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        print("# JAX was not ready in 120 s")
        return None
    if done.returncode:
        print(f"# no JAX: {done.stderr.strip().splitlines()[-1:]}")
        return None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


PARTS: dict[str, Callable[[], None]] = {
    "same": same,
    "fields": fields,
    "mala": mala,
    "rows": rows,
    "chains": chains,
    "evidence": evidence,
    "partition": partition,
    "critical": critical,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(PARTS), action="append", help="[default: all but the last]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    FILE.extend([options.json] if options.json else [])
    device = cp.cuda.runtime.getDeviceProperties(cp.cuda.Device().id)["name"].decode()
    VERSIONS.update(device=device, python=platform.python_version(), physscore=ps.__version__)
    for name in ("numpy", "scipy", "numba", "numba-cuda", "jax", "torch"):
        try:
            VERSIONS[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    VERSIONS.update(cupy=cp.__version__, cufft=str(cufft.getVersion()))
    print("# " + ", ".join(f"{name} {value}" for name, value in VERSIONS.items()))
    for name in options.only or list(PARTS)[:-1]:
        try:
            PARTS[name]()
        except Exception as error:
            show(name, "", f"failed: {type(error).__name__}: {str(error)[:200]}")
            traceback.print_exc()
            forget()


if __name__ == "__main__":
    main()
