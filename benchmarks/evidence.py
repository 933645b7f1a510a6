"""Log Z: our root-mean-square error against that of blackjax, particles and dynesty at equal wall time.

    pip install ".[bench]" && pip install --no-deps particles==0.4 && python benchmarks/evidence.py
    python benchmarks/evidence.py --figures | --calibration 100

(particles 0.4 asks for NumPy below 2, jax for 2 or more; it runs with both.) All is warm: compilation is
timed apart. Our whole call counts, its pilot included, and peers get as many particles as fill the same
time; where the fewest take longer, that time is printed. They begin with the same prior and are first seen
to compute the same likelihood. Of phi4 and Ising, which have none, ours begins with its fitted reference,
peers with the free field of mass 1 and with the Gaussian factor of the dual. Ours, particles and dynesty
are float64, blackjax has the float32 that is JAX's default; its kernel, step and target ESS are those that
do best against the exact value.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

import physscore as ps
from physscore.energies.coordinates import prior_and_likelihood
from physscore.systems import System, names, system

RACED = ("shells-2", "shells-10", "mixture-10", "funnel", "eggbox", "phi4-4x4", "ising-8-0.4406868",
         "regression")  # fmt: skip
QUICK = [name for name in names() if not name.startswith(("ising-16", "ising-32", "ising-64"))
         and "64x64" not in name and "64^3" not in name]  # fmt: skip
PAUSE = 0.25  # seconds, in which the threads of others come to rest
STEPS, TARGET_ESS = (0.01, 0.03, 0.1, 0.3), (0.5, 0.9)  # steps in standard deviations of the prior
SLOW = 20.0  # seconds: a peer that takes longer has 3 seeds
Estimate = tuple[float, float]  # log Z and its stated error, or NaN
Sampler = Callable[[int], Estimate]  # of a seed
Peer = tuple[str, Callable[[int], Sampler]]  # its name, and what makes a sampler of so many particles
ROWS: list[dict[str, Any]] = []


def timed(work: Callable[..., Any], *args: Any, **settings: Any) -> tuple[float, Any]:
    time.sleep(PAUSE)
    start = time.perf_counter()
    result = work(*args, **settings)
    return time.perf_counter() - start, result


# --- The targets, as the peers' users would write them ----------------------------------------------


class Target(NamedTuple):
    """A prior, uniform in a box or normal around 0, and a likelihood.

    ``log_likelihood(x, xp)`` takes states (..., dim) and the namespace: NumPy or jax.numpy.
    """

    dim: int
    log_likelihood: Callable[[Any, Any], Any]
    covariance: np.ndarray  # of the prior
    box: tuple[float, float] | None = None

    def log_prior(self, x: Any, xp: Any) -> Any:
        if self.box is not None:
            low, high = self.box
            return xp.where(((x >= low) & (x <= high)).all(-1), -self.dim * np.log(high - low), -np.inf)
        norm = -0.5 * np.linalg.slogdet(2 * np.pi * self.covariance)[1]
        return norm - 0.5 * ((x @ xp.asarray(np.linalg.inv(self.covariance), x.dtype)) * x).sum(-1)

    def from_cube(self, u: Any) -> Any:
        """Return a state of the prior from uniform numbers."""
        if self.box is not None:
            return self.box[0] + (self.box[1] - self.box[0]) * u
        return np.linalg.cholesky(self.covariance) @ ndtri(u)


def target_of(name: str) -> Target:
    if name.startswith("shells"):
        dim = int(name.removeprefix("shells-"))
        return Target(dim, shells, 12 * np.eye(dim), (-6.0, 6.0))
    if name == "eggbox":
        return Target(2, eggbox, (10 * np.pi) ** 2 / 12 * np.eye(2), (0.0, 10 * np.pi))
    if name == "mixture-10":
        return Target(10, mixture, 9.0 * np.eye(10))
    if name == "funnel":
        return Target(10, funnel, np.eye(10))
    if name == "regression":
        return Target(8, regression(), 4.0 * np.eye(8))
    return phi4() if name == "phi4-4x4" else ising()


def shells(x: Any, xp: Any) -> Any:
    across = (x[..., 1:] ** 2).sum(-1)
    off = [xp.sqrt((x[..., 0] + sign * 3.5) ** 2 + across) - 2.0 for sign in (1, -1)]
    return xp.logaddexp(-50.0 * off[0] ** 2, -50.0 * off[1] ** 2)


def mixture(x: Any, xp: Any) -> Any:
    low = np.log(0.3) - 0.5 * ((x + 1.3) ** 2).sum(-1)
    high = np.log(0.7) - 0.5 * ((x - 1.3) ** 2).sum(-1) / 0.64 - 5 * np.log(0.64)
    return xp.logaddexp(low, high) + (x**2).sum(-1) / 18 + 5 * np.log(9.0)


def funnel(x: Any, xp: Any) -> Any:
    v, squares = x[..., 0], (x[..., 1:] ** 2).sum(-1)
    return v**2 * (0.5 - 1 / 18) - np.log(3.0) - 4.5 * v + 0.5 * squares * (1 - xp.exp(-v))


def eggbox(x: Any, xp: Any) -> Any:
    return (2.0 + xp.cos(0.5 * x[..., 0]) * xp.cos(0.5 * x[..., 1])) ** 5


def neighbours(n: int) -> np.ndarray:
    """Return the adjacency matrix of the n by n torus."""
    ring = np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)
    return np.kron(ring, np.eye(n)) + np.kron(np.eye(n), ring)


def phi4() -> Target:
    """phi4 with mass^2 = -1/2 and coupling 1/2, beyond the free field with mass^2 = 1."""
    covariance = np.linalg.inv(5.0 * np.eye(16) - neighbours(4))
    norm = 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    return Target(16, lambda x, xp: norm + (0.75 * x**2 - 0.5 * x**4).sum(-1), covariance)


def ising() -> Target:
    energy = system("ising-8-0.4406868").target
    coupling = energy.coupling * neighbours(8) + energy.shift * np.eye(64)

    def log_likelihood(x: Any, xp: Any) -> Any:
        local = x @ xp.asarray(coupling, x.dtype)
        return xp.logaddexp(local, -local).sum(-1) - 32 * energy.shift

    return Target(64, log_likelihood, np.linalg.inv(coupling))


def regression() -> Callable[[Any, Any], Any]:
    _, likelihood = prior_and_likelihood(system("regression").target)
    noise, table = likelihood.point.params[0], likelihood.point.params[1:].reshape(-1, 9)
    norm = -len(table) * np.log(noise * np.sqrt(2 * np.pi))

    def log_likelihood(x: Any, xp: Any) -> Any:
        off = x @ xp.asarray(table[:, 1:].T, x.dtype) - xp.asarray(table[:, 0], x.dtype)
        return norm - 0.5 * (off**2).sum(-1) / noise**2

    return log_likelihood


def check(target: Target, known: System, xp: Any, dtype: str) -> None:
    """See that prior and likelihood are those of the system."""
    u = np.random.default_rng(0).uniform(0.05, 0.95, (5, target.dim))
    x = np.array([target.from_cube(one) for one in u])
    found = [target.log_prior(y, xp) + target.log_likelihood(y, xp) for y in xp.asarray(x, dtype)]
    expected = -known.target.energy(x.reshape(5, *known.target.shape))
    np.testing.assert_allclose(np.array(found, float), expected, rtol=1e-4, atol=1e-4)


# --- The peers --------------------------------------------------------------------------------------


def blackjax_smc(target: Target, known: System, kernel: str) -> Peer:
    """Adaptive tempered SMC, its loop compiled as a whole; 10 moves of MALA, or of HMC with 5 leapfrogs."""
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import adaptive_tempered, resampling

    check(target, known, jnp, "float32")
    module = getattr(blackjax, kernel)
    leapfrogs = {"num_integration_steps": 5} if kernel == "hmc" else {}
    move = partial(module.build_kernel(), **leapfrogs)
    log_prior, log_likelihood = (partial(f, xp=jnp) for f in (target.log_prior, target.log_likelihood))
    factor, mass = np.linalg.cholesky(target.covariance), target.covariance[np.newaxis].astype("float32")

    def start(key: Any, shape: tuple[int, int]) -> Any:
        if target.box is not None:
            return jax.random.uniform(key, shape, minval=target.box[0], maxval=target.box[1])
        return jax.random.normal(key, shape) @ jnp.asarray(factor.T, jnp.float32)

    @partial(jax.jit, static_argnums=0)
    def run(particles: int, seed: Any, step: Any, ess: Any) -> Any:
        first, key = jax.random.split(jax.random.key(seed))
        if kernel == "hmc":
            settings = {"step_size": step[np.newaxis], "inverse_mass_matrix": jnp.asarray(mass)}
        else:  # x + step * score + sqrt(2 step) noise
            settings = {"step_size": (0.5 * step**2 * target.covariance.diagonal().mean())[np.newaxis]}
        advance = adaptive_tempered.build_kernel(
            log_prior, log_likelihood, move, module.init, resampling.systematic, ess
        )

        def unfinished(carry: Any) -> Any:
            return (carry[0].tempering_param < 1.0) & (carry[3] < 1000)

        def body(carry: Any) -> Any:
            state, log_z, key, count = carry
            key, now = jax.random.split(key)
            state, info = advance(now, state, 10, settings)
            return state, log_z + info.log_likelihood_increment, key, count + 1

        state = adaptive_tempered.init(start(first, (particles, target.dim)))
        state = state._replace(tempering_param=jnp.float32(0.0))
        state, log_z, *_ = jax.lax.while_loop(unfinished, body, (state, jnp.float32(0.0), key, 0))
        return jnp.where(state.tempering_param >= 1.0, log_z, jnp.nan)

    def error(step: float, ess: float) -> float:
        off = [float(run(1000, seed, np.float32(step), np.float32(ess))) for seed in range(1000, 1004)]
        return float(np.nan_to_num(np.mean((np.array(off) - known.log_z) ** 2), nan=np.inf))

    step, ess = min(((step, ess) for step in STEPS for ess in TARGET_ESS), key=lambda pair: error(*pair))

    def make(particles: int) -> Sampler:
        return lambda seed: (float(run(particles, seed, np.float32(step), np.float32(ess))), np.nan)

    return f"blackjax {kernel} {step:g}, ESS {ess:g}", make


def particles_smc(target: Target, known: System, chain: int) -> Peer:
    """Adaptive tempering by random walks: waste-free with long chains, which states an error, or usual."""
    import particles
    from particles import distributions, smc_samplers

    waste_free = chain > 10
    if target.box is None:
        prior = distributions.MvNormal(loc=np.zeros(target.dim), cov=target.covariance)
    else:
        prior = distributions.IndepProd(*[distributions.Uniform(*target.box)] * target.dim)

    class Model(smc_samplers.StaticModel):
        def loglik(self, theta: Any, t: Any = None) -> Any:
            return target.log_likelihood(theta, np)

    def make(n: int) -> Sampler:
        def run(seed: int) -> Estimate:
            np.random.seed(seed)  # noqa: NPY002
            moves = smc_samplers.AdaptiveTempering(Model(prior=prior), wastefree=waste_free, len_chain=chain)
            collect = [smc_samplers.Var_logLt()] if waste_free else None
            job = particles.SMC(fk=moves, N=max(n // chain, 4) if waste_free else n, collect=collect)
            job.run()
            return float(job.logLt), float(np.sqrt(job.summaries.var_logLt[-1])) if collect else np.nan

        return run

    return f"particles{', waste-free' if waste_free else ''}", make


def dynesty_nested(target: Target, known: System) -> Peer:
    """Nested sampling with bounds and sampler of dynesty's choice."""
    import dynesty

    def make(live: int) -> Sampler:
        def run(seed: int) -> Estimate:
            nested = dynesty.NestedSampler(
                lambda x: float(target.log_likelihood(x, np)), target.from_cube, target.dim, nlive=live,
                rstate=np.random.default_rng(seed),
            )  # fmt: skip
            nested.run_nested(print_progress=False)
            return float(nested.results.logz[-1]), float(nested.results.logzerr[-1])

        return run

    return "dynesty", make


# --- Equal time -------------------------------------------------------------------------------------


def ours(known: System, particles: int, seed: int) -> ps.LogZ:
    return ps.estimate_log_z(known.target, known.reference, particles=particles, seed=seed)


def our_size(known: System, goal: float) -> int:
    """Return how many particles take the goal; a part of the time does not depend on them."""

    def seconds(n: int) -> float:
        return float(np.median([timed(ours, known, n, seed)[0] for seed in (501, 502, 503)]))

    least, size = 512, 2048
    ours(known, least, 500)
    base = seconds(least)
    for _ in range(3):
        each = max((seconds(size) - base) / (size - least), 0.01 * goal / size)
        size = int(np.clip(least + (goal - base) / each, least + 64, min(8 * size, 1 << 17))) // 64 * 64
    return size if size > least + 64 else least


def fitting(make: Callable[[int], Sampler], goal: float, base: int, least: int) -> tuple[int, Sampler, float]:
    """Return the size with which a peer's runs take the goal, a run of it, and the seconds it compiled."""
    size = base
    for attempt in range(4):
        sampler = make(size)
        cold, _ = timed(sampler, 500)
        warm = (
            float(np.median([timed(sampler, seed)[0] for seed in (501, 502, 503)])) if cold < SLOW else cold
        )
        wanted = int(np.clip(size * np.clip(goal / warm, 0.02, 50.0), least, 1 << 20))
        if attempt == 3 or abs(wanted / size - 1) < 0.1:
            break
        size = wanted
    return size, sampler, cold - warm


def summary(name: str, method: str, size: int, runs: list[tuple[float, Estimate]], compiled: float,
            words: str = "") -> tuple[float, float]:  # fmt: skip
    """Keep and print a row of the table; return seconds and error."""
    estimates = np.array([estimate for _, estimate in runs])
    off, error = estimates[:, 0] - system(name).log_z, estimates[:, 1]
    seconds, rmse = float(np.median([spent for spent, _ in runs])), float(np.sqrt(np.mean(off**2)))
    stated, rms_z = (float(np.sqrt(np.mean(values**2))) for values in (error, off / error))
    ROWS.append({"target": name, "method": method, "size": size, "seeds": len(runs), "seconds": seconds,
                 "rmse": rmse, "bias": float(off.mean()), "stated": stated, "rms_z": rms_z,
                 "compile": compiled, "verdicts": words})  # fmt: skip
    print(f"{name:18s} {method:28s} {size:7d} {len(runs):5d} {seconds:8.3f} {rmse:8.4f} {off.mean():8.4f} "
          f"{stated:8.4f} {rms_z:6.2f} {compiled:7.1f} {words}", flush=True)  # fmt: skip
    return seconds, rmse


def race(name: str, goal: float, seeds: int) -> float:
    """Return how many times the best peer's error is ours."""
    known, target = system(name), target_of(name)
    check(target, known, np, "float64")
    n = our_size(known, goal)
    found = [timed(ours, known, n, seed) for seed in range(seeds)]
    estimates = [(spent, (result.log_z, result.error)) for spent, result in found]
    goal, our_error = summary(name, "physscore", n, estimates, 0.0, verdicts(result for _, result in found))
    live = max(25, 2 * target.dim + 2)
    best = np.inf
    for build, size, least in (
        *((partial(blackjax_smc, kernel=kernel), 1000, 50) for kernel in ("hmc", "mala")),
        *((partial(particles_smc, chain=chain), 2000, 400) for chain in (100, 10)),
        (dynesty_nested, live, live),
    ):
        try:
            method, make = build(target, known)
            size, sampler, compiled = fitting(make, goal, size, least)
            runs = [timed(sampler, 0)]
            runs += [timed(sampler, seed) for seed in range(1, seeds if runs[0][0] < SLOW else min(seeds, 3))]
        except (ImportError, np.linalg.LinAlgError) as error:
            print(f"# left out: {error}")
            continue
        best = np.fmin(best, summary(name, method, size, runs, compiled)[1])
    print(f"# {name}: best peer / ours = {best / our_error:.2f}", flush=True)
    return float(best / our_error)


def verdicts(results: Iterable[ps.LogZ]) -> str:
    words = [result.verdict for result in results]
    return " ".join(f"{words.count(word)} {word}" for word in ("pass", "suspect", "failed") if word in words)


# --- Single runs, and calibration -------------------------------------------------------------------


def cox_process() -> Any:
    """Return a log-Gaussian Cox process of 126 expected points, with the covariance 1.91 exp(-33 r) of the
    logarithm (Moller, Syversveen & Waagepetersen 1998, Scand. J. Statist. 25, 451), and its own data."""
    grid, variance, length = ps.Grid((30, 30), 1.0), 1.91, 1 / 33
    k = np.geomspace(1.0, 1000.0, 400)
    power = 2 * np.pi * variance * length**2 * (1 + (k * length) ** 2) ** -1.5
    prior = ps.GaussianRandomField(grid, ps.spectra.Tabulated(k, power))
    mean = 126 / 900 * np.exp(-variance / 2)
    rate = ps.PoissonCounts(np.zeros(grid.shape), mean)
    return prior + ps.PoissonCounts(rate.simulate(prior.sample(1, seed=1), seed=2)[0], mean)


def figures() -> None:
    """Print the single runs; the Cox process, whose log Z is not known, is compared with another seed."""
    print(f"{'target':22s} {'seconds':>8s} {'log Z':>12s} {'error':>8s} {'z':>6s} {'reach':>15s} verdict")
    for name, settings, most_error, most_seconds, most_z in (
        ("ising-64-0.4406868", {"particles": 256}, 1.0, 120, 3),
        ("field-64^3", {"reference": "fitted", "particles": 16, "target_error": 0.3}, 0.3, 600, 2),
        ("field-64^3", {"particles": 32, "target_error": 5.0}, 5.0, 600, 2),
        ("field-masked-64x64", {"particles": 64, "target_error": 0.3}, 0.3, 120, 2),
        ("Cox process 30x30", {"particles": 1024, "target_error": 0.05}, 0.05, 30, 3),
    ):
        known = system(name) if name in names() else System(cox_process(), None, np.nan)
        seconds, found = timed(ps.estimate_log_z, known.target, **settings)
        z = (found.log_z - known.log_z) / found.error
        if np.isnan(z):
            other = ps.estimate_log_z(known.target, seed=1, **settings)
            z = (found.log_z - other.log_z) / np.hypot(found.error, other.error)
        met = bool(found.error <= most_error and seconds <= most_seconds and abs(z) <= most_z)
        label, reach = f"{name} {settings.get('reference', '')}", f"{most_error:g} in {most_seconds} s"
        ROWS.append({"target": label, "settings": settings, "seconds": seconds, "log_z": found.log_z,
                     "error": found.error, "z": z, "verdict": found.verdict, "reasons": found.reasons,
                     "evaluations": found.evaluations, "met": met})  # fmt: skip
        print(f"{label:22s} {seconds:8.1f} {found.log_z:12.4f} {found.error:8.4f} {z:6.2f} {reach:>15s} "
              f"{found.verdict}{'' if met else ', NOT MET'}", flush=True)  # fmt: skip


def calibration(seeds: int, only: str, particles: int = 500) -> None:
    """Print how the errors of ``pass`` results compare with what they are stated as."""
    print(f"{'target':22s} {'passes':>8s} {'rms z':>7s} {'95% holds':>10s} {'|z| > 4':>8s} {'seconds':>8s}")
    for name in (name for name in QUICK if only in name):
        known = system(name)
        runs = [timed(ours, known, particles, seed) for seed in range(seeds)]
        passed = [result for _, result in runs if result.verdict == "pass"]
        z = np.array([(result.log_z - known.log_z) / result.error for result in passed])
        holds = [low <= known.log_z <= high for low, high in (result.interval(0.95) for result in passed)]
        rms_z, coverage, beyond = (
            float(np.sqrt(np.mean(z**2))),
            float(np.mean(holds)),
            int((abs(z) > 4).sum()),
        )
        seconds = float(np.median([spent for spent, _ in runs]))
        ROWS.append({"target": name, "runs": seeds, "passes": len(passed), "rms_z": rms_z,
                     "coverage": coverage, "beyond_4": beyond, "seconds": seconds})  # fmt: skip
        print(f"{name:22s} {len(passed):4d}/{seeds:<3d} {rms_z:7.2f} {coverage:10.2f} {beyond:8d} "
              f"{seconds:8.2f}", flush=True)  # fmt: skip


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="targets with this in their name")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run")
    parser.add_argument("--figures", action="store_true", help="single runs of large systems instead")
    parser.add_argument("--calibration", type=int, metavar="N", help="N seeds of every quick system instead")
    parser.add_argument("--json", help="file for the table, with versions")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    versions = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
    for name in ("physscore", "numpy", "scipy", "numba", "jax", "blackjax", "particles", "dynesty"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    print("# " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    ratios: dict[str, float] = {}
    if options.figures:
        figures()
    elif options.calibration:
        calibration(options.calibration, options.only)
    else:
        print(f"{'target':18s} {'method':28s} {'size':>7s} {'seeds':>5s} {'seconds':>8s} {'RMSE':>8s} "
              f"{'bias':>8s} {'stated':>8s} {'rms z':>6s} {'compile':>7s}")  # fmt: skip
        ratios = {name: race(name, options.seconds, options.seeds) for name in RACED if options.only in name}
        good = sum(ratio >= 2 for ratio in ratios.values())
        print(f"# the best peer's error is at least twice ours on {good} of {len(ratios)} targets; "
              f"the worst ratio is {min(ratios.values()):.2f}")  # fmt: skip
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"versions": versions, "rows": ROWS, "ratios": ratios}, file, indent=1)


if __name__ == "__main__":
    main()
