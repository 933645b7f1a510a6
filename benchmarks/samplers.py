"""Samplers: ours against JAX, blackjax, torchebm, NumPy and the physical floor, in one run.

    pip install -c constraints.txt ".[bench]" && python benchmarks/samplers.py [--only WORD] [--json FILE]

Ratios are medians over repeats of times taken in turn. Everybody starts from the same exact draws with
tuned settings, compilation is not timed, and moments are compared before anything is. Ours is float64;
JAX and torch have their default, float32. Effective sample sizes are all by our own estimator.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.fft

import physscore as ps
from physscore.diagnostics.chains import effective_sample_size
from physscore.sampling.engine import Engine

CHAINS, STEPS = 1000, 1000
LEAPFROGS = (2, 4, 6, 8, 12, 16, 32)  # lengths that HMC is tried with, ours and theirs
ROWS: list[dict[str, Any]] = []


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    ours: Callable[[], Any], other: Callable[[], Any], repeats: int, pause: float = 0.0
) -> tuple[float, float, float]:
    """Return the median seconds of both and the median of their ratios, other / ours.

    A peer's threads may spin on after its work: a ``pause`` before each keeps them out of the next.
    """

    def alone(work: Callable[[], Any]) -> float:
        time.sleep(pause)
        return seconds(work)

    ours(), other()
    pairs = np.array([(alone(ours), alone(other)) for _ in range(repeats)])
    return (*np.median(pairs, axis=0).tolist(), float(np.median(pairs[:, 1] / pairs[:, 0])))


def row(work: str, against: str, ours: float, other: float, ratio: float, reach: str, unit: str) -> None:
    met = ratio >= float(reach[1:]) if reach[0] == ">" else ratio <= float(reach[1:])
    ROWS.append({"work": work, "against": against, "ours": ours, "other": other, "unit": unit,
                 "ratio": ratio, "reach": reach, "met": bool(met)})  # fmt: skip
    print(f"{work:36s} {against:26s} {ours:10.4g} {other:10.4g} {unit:14s} {ratio:7.2f} {reach:>6s} "
          f"{'yes' if met else 'NO'}", flush=True)  # fmt: skip


# --- Targets, ours and theirs ---------------------------------------------------------------------


def mixture() -> tuple[Any, dict[str, Any]]:
    means = np.array([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    return ps.GaussianMixture(weights, means, 0.25), {"means": means, "weights": weights}


def gaussian() -> tuple[Any, dict[str, Any]]:
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(10, 10)))[0]
    precision = (q * np.geomspace(1.0, 100.0, 10)) @ q.T
    return ps.Gaussian(0.0, np.linalg.inv(precision)), {"precision": 0.5 * (precision + precision.T)}


def jax_log_density(name: str, numbers: dict[str, Any]) -> Callable[[Any], Any]:
    """Return log p of one state up to a constant, as a user of JAX would write it."""
    import jax
    import jax.numpy as jnp

    if name == "mixture":
        means, log_weights = jnp.asarray(numbers["means"]), jnp.log(jnp.asarray(numbers["weights"]))
        return lambda x: jax.nn.logsumexp(log_weights - 2.0 * ((x - means) ** 2).sum(-1))
    if name == "gaussian":
        precision = jnp.asarray(numbers["precision"])
        return lambda x: -0.5 * x @ precision @ x
    if name == "funnel":
        return lambda x: -(x[0] ** 2) / 18 - 4.5 * x[0] - 0.5 * jnp.exp(-x[0]) * (x[1:] ** 2).sum()

    def phi4(x: Any) -> Any:
        f = x.reshape(8, 8)
        steps = sum(((jnp.roll(f, 1, a) - f) ** 2).sum() for a in (0, 1))
        return -0.5 * steps - (-0.25 * f**2 + 0.5 * f**4).sum()

    return phi4


# --- Unadjusted Langevin --------------------------------------------------------------------------


def jax_ula(log_density: Callable[[Any], Any], x: np.ndarray, eps: float) -> Callable[[], np.ndarray]:
    import jax
    import jax.numpy as jnp

    score = jax.vmap(jax.grad(log_density))

    def step(state: Any, key: Any) -> tuple[Any, None]:
        return state + eps * score(state) + (2 * eps) ** 0.5 * jax.random.normal(key, state.shape), None

    run = jax.jit(lambda start, key: jax.lax.scan(step, start, jax.random.split(key, STEPS))[0])
    start, key = jnp.asarray(x, jnp.float32), jax.random.key(0)
    return lambda: np.asarray(run(start, key))


def torch_ula(name: str, numbers: dict[str, Any], x: np.ndarray, eps: float) -> Callable[[], np.ndarray]:
    import torch
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    class Model(BaseModel):
        def __init__(self) -> None:
            super().__init__()
            for key, value in numbers.items():
                self.register_buffer(key, torch.tensor(value, dtype=torch.float32))

        def forward(self, x: Any) -> Any:
            if name == "gaussian":
                return 0.5 * ((x @ self.precision) * x).sum(-1)
            squares = ((x[:, None] - self.means) ** 2).sum(-1)
            return -torch.logsumexp(self.weights.log() - 2.0 * squares, -1)

        def gradient(self, x: Any) -> Any:  # in closed form, faster than its autograd
            if name == "gaussian":
                return x @ self.precision
            apart = x[:, None] - self.means
            share = torch.softmax(self.weights.log() - 2.0 * (apart**2).sum(-1), -1)
            return 4.0 * (share[..., None] * apart).sum(1)

    torch.set_num_threads(2)
    start = torch.tensor(x, dtype=torch.float32)
    sampler = LangevinDynamics(model=Model(), step_size=eps)
    return lambda: sampler.sample(x=start.clone(), n_steps=STEPS).numpy()


def numpy_ula(score: Callable[[Any], Any], x: np.ndarray, eps: float) -> Callable[[], np.ndarray]:
    def run() -> np.ndarray:
        rng, state = np.random.default_rng(0), x.copy()
        for _ in range(STEPS):
            state += eps * score(state) + np.sqrt(2 * eps) * rng.standard_normal(state.shape)
        return state

    return run


def numpy_score(name: str, numbers: dict[str, Any]) -> Callable[[Any], Any]:
    if name == "gaussian":
        return lambda x: -x @ numbers["precision"]
    means, weights = numbers["means"], numbers["weights"]

    def score(x: Any) -> Any:
        apart = x[:, None] - means
        share = weights * np.exp(-2.0 * (apart**2).sum(-1))
        return -4.0 * ((share / share.sum(-1, keepdims=True))[..., None] * apart).sum(1)

    return score


def ula(repeats: int) -> None:
    reaches = {"mixture": (">6", ">10", ">12"), "gaussian": (">8", ">4", ">5")}
    for name, build, eps in (("mixture", mixture, 0.02), ("gaussian", gaussian, 0.002)):
        target, numbers = build()
        start = target.sample(CHAINS, seed=1)
        kernel = ps.ULA(eps)

        def ours(target: Any = target, kernel: Any = kernel, start: Any = start) -> np.ndarray:
            return ps.sample(
                target, kernel, chains=CHAINS, steps=STEPS, warmup=0, thin=STEPS, init=start
            ).draws[-1]

        peers: dict[str, Callable[[], np.ndarray]] = {}
        with_peer(
            peers, "JAX scan", lambda n=name, d=numbers, x=start, e=eps: jax_ula(jax_log_density(n, d), x, e)
        )
        with_peer(peers, "torchebm", lambda n=name, d=numbers, x=start, e=eps: torch_ula(n, d, x, e))
        peers["NumPy"] = numpy_ula(numpy_score(name, numbers), start, eps)
        expected = (ours() ** 2).mean(0)
        for peer, reach in zip(("JAX scan", "torchebm", "NumPy"), reaches[name], strict=True):
            if peer not in peers:
                continue
            found = peers[peer]()
            error = np.sqrt((found**2).var(0) / CHAINS + (ours() ** 2).var(0) / CHAINS)
            assert (np.abs((found**2).mean(0) - expected) < 5 * error).all(), f"{peer} samples something else"
            mine, theirs, ratio = compare(ours, peers[peer], repeats, 0.25)
            scale = 1e9 / (CHAINS * STEPS)
            row(f"ULA, {name}", peer, mine * scale, theirs * scale, ratio, reach, "ns/chain-step")


def with_peer(peers: dict[str, Any], name: str, build: Callable[[], Any]) -> None:
    """Add a peer, if it is installed."""
    try:
        peers[name] = build()
    except ImportError as error:
        print(f"# {name} is left out: {error}")


# --- Effective samples a second -------------------------------------------------------------------


def blackjax_run(algorithm: Any, x: np.ndarray, steps: int) -> Callable[[], tuple[np.ndarray, float]]:
    import jax
    import jax.numpy as jnp

    def one(key: Any, position: Any) -> Any:
        def step(state: Any, key: Any) -> Any:
            state, info = algorithm.step(key, state)
            return state, (state.position, info.acceptance_rate)

        return jax.lax.scan(step, algorithm.init(position), jax.random.split(key, steps))[1]

    run = jax.jit(jax.vmap(one, out_axes=1))
    keys, start = jax.random.split(jax.random.key(1), len(x)), jnp.asarray(x, jnp.float32)

    def call() -> tuple[np.ndarray, float]:
        positions, acceptance = run(keys, start)
        return np.asarray(positions), float(np.asarray(acceptance).mean())

    return call


def effective(draws: np.ndarray) -> float:
    return float(
        effective_sample_size(np.asarray(draws, np.float64).reshape(*draws.shape[:2], -1), "bulk").min()
    )


def race(work: str, ours: Any, theirs: Any, peer: str, reach: str, repeats: int) -> None:
    """Compare effective samples of the slowest component a second."""
    mine_ess, their_ess = effective(ours()), effective(theirs()[0])
    mine, other, _ = compare(ours, theirs, repeats, 0.25)
    a, b = mine_ess / mine, their_ess / other
    row(work, peer, a, b, a / b, reach, "ESS/s")
    print(f"#   ESS {mine_ess:.0f} in {mine:.3f} s against {their_ess:.0f} in {other:.3f} s")


def mala(repeats: int) -> None:
    try:
        import blackjax
    except ImportError as error:
        print(f"# blackjax is left out: {error}")
        return
    for name, build in (("mixture", mixture), ("gaussian", gaussian)):
        target, numbers = build()
        start = target.sample(CHAINS, seed=1)
        log_density = jax_log_density(name, numbers)
        low, high = 1e-5, 10.0  # the step that is accepted with 0.574, as ours
        for _ in range(25):
            eps = float(np.sqrt(low * high))
            rate = blackjax_run(blackjax.mala(log_density, eps), start, 20)()[1]
            low, high = (eps, high) if rate > 0.574 else (low, eps)
        theirs = blackjax_run(blackjax.mala(log_density, eps), start, STEPS)
        tuned = ps.sample(target, ps.MALA(metric="identity"), chains=CHAINS, steps=10, warmup=500, init=start)

        def ours(target: Any = target, kernel: Any = tuned.kernel, start: Any = start) -> Any:
            return ps.sample(target, kernel, chains=CHAINS, steps=STEPS, warmup=0, init=start).draws

        print(f"# MALA {name}: step {float(tuned.kernel.step_size):.4g} and {eps:.4g}")
        race(f"MALA, {name}", ours, theirs, "blackjax mala", ">5", repeats)


def hmc(repeats: int, chains: int = 256, steps: int = 500) -> None:
    try:
        import blackjax
        import jax
        import jax.numpy as jnp
    except ImportError as error:
        print(f"# blackjax is left out: {error}")
        return
    phi4 = ps.Phi4((8, 8), mass2=-0.5, coupling=0.5)
    warm = ps.sample(phi4, ps.HMC(), chains=chains, steps=100, warmup=1000)
    funnel = ps.Funnel(10)
    for name, target, start in (
        ("phi4 8x8", phi4, warm.draws[-1].reshape(chains, 64)),
        ("funnel", funnel, funnel.sample(chains, seed=1)),
    ):
        log_density = jax_log_density(name, {})
        best: tuple[float, Any, str] = (0.0, None, "")
        for leapfrogs in LEAPFROGS:  # step and masses by window adaptation, as its users do
            warm_up = blackjax.window_adaptation(
                blackjax.hmc, log_density, num_integration_steps=leapfrogs, target_acceptance_rate=0.8
            )
            tune = jax.jit(jax.vmap(lambda key, x, w=warm_up: w.run(key, x, 500)[0].parameters))
            found = tune(jax.random.split(jax.random.key(2), 16), jnp.asarray(start[:16], jnp.float32))
            step = float(jnp.median(found["step_size"]))
            masses = jnp.median(found["inverse_mass_matrix"], axis=0)
            candidate = blackjax_run(blackjax.hmc(log_density, step, masses, leapfrogs), start, steps)
            candidate()
            speed = effective(candidate()[0]) / seconds(candidate)
            print(f"#   blackjax hmc, {leapfrogs} leapfrogs of {step:.3g}: {speed:.0f} ESS/s")
            if speed > best[0]:
                best = (speed, candidate, f"blackjax hmc, {leapfrogs} leapfrogs")
        shaped = start.reshape(chains, *target.shape)
        ours_best: tuple[float, Any] = (0.0, None)
        for given in ("auto", *LEAPFROGS):
            warm = ps.sample(
                target, ps.HMC(leapfrogs=given), chains=chains, steps=10, warmup=1000, init=shaped
            )

            def mine(target: Any = target, kernel: Any = warm.kernel, start: Any = shaped) -> Any:
                return ps.sample(target, kernel, chains=chains, steps=steps, warmup=0, init=start).draws

            mine()
            speed = effective(mine()) / seconds(mine)
            count = warm.kernel.leapfrogs
            print(f"#   ours, {count} leapfrogs ({given}) of {warm.kernel.step_size:.3g}: {speed:.0f} ESS/s")
            if speed > ours_best[0]:
                ours_best = (speed, mine)
        race(f"HMC, {name}", ours_best[1], best[1], best[2], ">3", repeats)


# --- Fields ---------------------------------------------------------------------------------------


def field_step(repeats: int, n: int = 256, chains: int = 16) -> None:
    grid, pk = ps.Grid((n, n), 1000.0), ps.spectra.PowerLaw(index=-1.5, amplitude=100.0)
    prior = ps.GaussianRandomField(grid, pk)
    truth = prior.sample(1, seed=1)[0]
    mean = 5.0 * np.exp(-truth.var() / 2)
    counts = np.random.default_rng(0).poisson(mean * np.exp(truth))
    target = prior + ps.PoissonCounts(counts, mean)
    for dtype in ("float32", "float64"):
        start = prior.sample(chains, seed=2, dtype=dtype)
        warm = ps.sample(target, ps.MALA(metric="fourier"), chains=chains, steps=1, warmup=100, init=start,
                         dtype=dtype)  # fmt: skip
        engine = Engine(target, warm.kernel)
        state = engine.start(warm.draws[-1], 0)

        def whole(x: Any = start) -> None:
            modes = scipy.fft.rfftn(x, axes=(1, 2), workers=2)
            scipy.fft.irfftn(modes, (n, n), axes=(1, 2), overwrite_x=True, workers=2)

        def one_by_one(x: Any = start) -> None:  # the fastest way that is known to us
            def some(first: int) -> None:
                for field in x[first : first + chains // 2]:
                    modes = scipy.fft.ifft(scipy.fft.rfft2(field), axis=0, overwrite_x=True)
                    scipy.fft.irfft(modes, n, axis=1)

            list(POOL.map(some, (0, chains // 2)))

        for floor, name in ((whole, "FFTs of the batch"), (one_by_one, "FFTs in the cache")):
            mine, theirs, ratio = compare(lambda e=engine, s=state: e.advance(s, 10), floor, 3 * repeats)
            row(
                f"MALA, Poisson field, {dtype}",
                name,
                100 * mine,
                1e3 * theirs,
                0.1 / ratio,
                "<1.5",
                "ms/step",
            )


POOL = ThreadPoolExecutor(2)


def large_posterior(n: int) -> tuple[Any, Any]:
    """Return the posterior of one float32 field with noise, and a draw from its prior."""
    prior = ps.GaussianRandomField(ps.Grid((n, n, n), 1000.0), ps.spectra.planck2018())
    truth, start = (prior.sample(1, seed=seed, dtype="float32") for seed in (1, 2))
    truth += np.random.default_rng(0).standard_normal(truth.shape, np.float32)
    return prior + ps.GaussianNoise(truth[0], 1.0), start


def large_field(repeats: int, n: int = 256) -> None:
    """One field that no cache holds: the time of a step, and the memory of a run."""
    target, start = large_posterior(n)
    kernel = ps.MALA(0.02, metric="fourier")
    warm = ps.sample(target, kernel, chains=1, steps=1, warmup=0, init=start, dtype="float32")
    engine = Engine(target, warm.kernel)
    state = engine.start(start, 0)

    def ffts() -> None:
        modes = scipy.fft.rfftn(start[0], workers=2)
        scipy.fft.irfftn(modes, start[0].shape, overwrite_x=True, workers=2)

    mine, theirs, ratio = compare(lambda: engine.advance(state, 4), ffts, 2 * repeats)
    row(
        f"MALA, one field {n}^3, float32",
        "its FFTs",
        250 * mine,
        1e3 * theirs,
        0.25 / ratio,
        "<1.5",
        "ms/step",
    )
    found = subprocess.run([sys.executable, __file__, "--memory", str(n)], capture_output=True, check=True)
    used = float(found.stdout)
    row(f"the same, memory of a run of {n}^3", "bytes of the field", used, 1.0, used, "<20", "fields")


def memory(n: int) -> None:
    """Print how much more memory a run takes than the interpreter with compiled code, in fields."""

    def peak() -> int:
        return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if "VmHWM" in line)

    for side in (16, n):
        before = peak()
        target, start = large_posterior(side)
        kernel = ps.MALA("auto", metric="fourier")
        ps.sample(target, kernel, chains=1, steps=2, warmup=4, init=start, dtype="float32")
    print((peak() - before) / start.nbytes)


def field_power(n: int = 64, chains: int = 64) -> None:
    """Count the steps until P(k) of every shell is within its error, from a start without power."""
    grid, pk = ps.Grid((n, n), 1000.0), ps.spectra.PowerLaw(index=-2.0, amplitude=1.0)
    prior = ps.GaussianRandomField(grid, pk)
    start = np.zeros(prior.shape)
    kernels = {
        "BAOAB, Fourier metric": (ps.Underdamped(1.0, metric="fourier", friction=1.5), "<30"),
        "ULA, Fourier metric": (ps.ULA(metric="fourier", bias=0.05), "<30"),
        "ULA, identity": (ps.ULA(metric="identity", bias=0.05), ""),
    }
    for name, (kernel, reach) in kernels.items():
        if kernel.step_size == "auto":
            kernel = ps.sample(prior, kernel, chains=chains, steps=1, warmup=10).kernel
        run = ps.sample(prior, kernel, chains=chains, steps=100, warmup=0, init=start, seed=3)
        within = []
        for draws in run.draws:
            power = ps.power_spectrum(draws, grid, bins="shells")
            expected = np.asarray(pk(power.k))
            error = expected * np.sqrt(2 / (power.n_modes * chains))
            within.append(float(np.abs((power.power.mean(0) - expected) / error).max()))
        good = np.array(within) < 4.5  # of so many shells, one beyond by chance in 300 cases
        first = int(np.argmax(good)) + 1 if good.any() else 0
        print(f"# {name}: largest pull of {len(expected)} shells after 10, 20, 30, 100 steps: "
              f"{[round(within[i], 1) for i in (9, 19, 29, 99)]}")  # fmt: skip
        if reach:
            row("P(k) of all shells, 64^2 x 64", name, first, 30, float(first or 10**6), reach, "steps")


def overhead(repeats: int) -> None:
    target, _ = mixture()
    start = target.sample(CHAINS, seed=1)
    kernel = ps.ULA(0.02)
    engine = Engine(target, kernel)
    state = engine.start(start, 0)

    def whole() -> None:
        ps.sample(target, kernel, chains=CHAINS, steps=STEPS, warmup=0, thin=STEPS, init=start)

    loop, mine, ratio = compare(lambda: engine.advance(state, STEPS), whole, 5 * repeats)
    row("sample(), 1000 steps, mixture", "the bare loop", 1e3 * mine, 1e3 * loop, ratio, "<1.1", "ms")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", help="ula, mala, hmc, field_step, large_field, field_power or overhead"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", type=int, metavar="N", help="print the memory of a run of N^3 cells only")
    parser.add_argument("--json", help="file for the table, with versions")
    options = parser.parse_args()
    if options.memory:
        return memory(options.memory)
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("physscore", "numpy", "scipy", "numba", "jax", "blackjax", "torch", "torchebm"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    print("# " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    heads = f"{'ours':>10s} {'other':>10s} {'unit':14s} {'ratio':>7s} {'reach':>6s} met"
    print(f"{'work':36s} {'against':26s} {heads}")
    parts: dict[str, Callable[[], None]] = {
        "ula": lambda: ula(options.repeats), "overhead": lambda: overhead(options.repeats),
        "field_step": lambda: field_step(options.repeats), "field_power": field_power,
        "large_field": lambda: large_field(options.repeats),
        "mala": lambda: mala(options.repeats), "hmc": lambda: hmc(options.repeats),
    }  # fmt: skip
    with ps.threads(2):
        for name, part in parts.items():
            if options.only in ("", name):
                part()
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"versions": versions, "rows": ROWS}, file, indent=1)


if __name__ == "__main__":
    main()
