"""Log Z: our root-mean-square error against that of blackjax, particles and dynesty at equal wall time.

    pip install ".[bench]" && pip install --no-deps particles==0.4 && python benchmarks/evidence.py
    python benchmarks/evidence.py --figures | --calibration 100

(particles 0.4 asks for NumPy below 2, jax for 2 or more; it runs with both.) All is warm, compilation timed
apart. Our whole call counts, its pilot included; peers get as many particles as fill the same time, and
where the fewest take longer, that time is printed. They begin with the same prior, and are first seen to
compute the same likelihood. Of phi4 and Ising, which have none, ours fits its reference; peers have the free
field of mass 1 and the Gaussian factor of the dual. Ours, particles and dynesty are float64, blackjax has
JAX's default, float32; its kernel, step and target ESS are those that do best against the exact value.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import metadata, util
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

import physscore as ps
from physscore.energies.coordinates import prior_and_likelihood
from physscore.systems import System, names, system

RACED = ("shells-2", "shells-10", "mixture-10", "funnel", "eggbox", "phi4-4x4", "ising-8-0.4406868",
         "regression")  # fmt: skip
QUICK = [name for name in names() if not re.search(r"ising-(16|32|64)|64x64|64\^3", name)]
PAUSE = 0.25  # seconds, in which the threads of others come to rest
STEPS, TARGET_ESS = (0.01, 0.03, 0.1, 0.3), (0.5, 0.9)  # steps in standard deviations of the prior
SLOW = 20.0  # seconds: a peer that takes longer has 3 seeds
Estimate = tuple[float, float, str]  # log Z, its stated error or NaN, and a verdict
Peer = tuple[str, Callable[[int, int], Estimate]]  # its name, and a run of so many particles and a seed
ROWS: list[dict[str, Any]] = []


def timed(work: Callable[..., Any], *args: Any, **settings: Any) -> tuple[float, Any]:
    time.sleep(PAUSE)
    start = time.perf_counter()
    result = work(*args, **settings)
    return time.perf_counter() - start, result


def show(**row: Any) -> None:
    """Keep a row of the table and print it, the first below the heads."""
    wide = {name: 28 if isinstance(value, str) else 9 for name, value in row.items()}
    if not ROWS:
        print(*(f"{name:{'<' if wide[name] > 9 else '>'}{wide[name]}s}" for name in row))
    ROWS.append({name: None if value != value else value for name, value in row.items()})
    cells = (f"{v:9.4g}" if isinstance(v, float) else f"{v:{wide[name]}}" for name, v in row.items())
    print(*cells, flush=True)


def median_seconds(run: Callable[..., Estimate], size: int, seeds: int = 3) -> float:
    return float(np.median([timed(run, size, 501 + seed)[0] for seed in range(seeds)]))


def root_mean_square(values: Any) -> float:
    return float(np.sqrt(np.mean(np.asarray(values) ** 2)))


class Target(NamedTuple):
    """A prior, uniform in a box or normal around 0, and a likelihood of states (..., dim) and a namespace."""

    dim: int
    log_likelihood: Callable[[Any, Any], Any]
    covariance: np.ndarray  # of the prior
    box: tuple[float, float] | None = None

    def log_prior(self, x: Any, xp: Any) -> Any:
        if self.box is not None:
            low, high = self.box
            return xp.where(((x >= low) & (x <= high)).all(-1), -self.dim * np.log(high - low), -np.inf)
        norm = -0.5 * np.linalg.slogdet(2 * np.pi * self.covariance)[1]
        return norm - 0.5 * ((x @ np.linalg.inv(self.covariance)) * x).sum(-1)

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
    return {"phi4-4x4": phi4, "ising-8-0.4406868": ising, "regression": regression}[name]()


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


def torus_neighbours(n: int) -> np.ndarray:
    ring = np.roll(np.eye(n), 1, 0) + np.roll(np.eye(n), -1, 0)
    return np.kron(ring, np.eye(n)) + np.kron(np.eye(n), ring)


def phi4() -> Target:
    """phi4 with mass^2 = -1/2 and coupling 1/2, beyond the free field with mass^2 = 1."""
    covariance = np.linalg.inv(5.0 * np.eye(16) - torus_neighbours(4))
    norm = 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    return Target(16, lambda x, xp: norm + (0.75 * x**2 - 0.5 * x**4).sum(-1), covariance)


def ising() -> Target:
    energy = system("ising-8-0.4406868").target
    coupling = energy.coupling * torus_neighbours(8) + energy.shift * np.eye(64)

    def log_likelihood(x: Any, xp: Any) -> Any:
        local = x @ coupling
        return xp.logaddexp(local, -local).sum(-1) - 32 * energy.shift

    return Target(64, log_likelihood, np.linalg.inv(coupling))


def regression() -> Target:
    _, likelihood = prior_and_likelihood(system("regression").target)
    noise, table = likelihood.point.params[0], likelihood.point.params[1:].reshape(-1, 9)
    data, rows, norm = table[:, 0], table[:, 1:], -len(table) * np.log(noise * np.sqrt(2 * np.pi))
    twice = 2 * noise**2
    return Target(8, lambda x, xp: norm - ((x @ rows.T - data) ** 2).sum(-1) / twice, 4.0 * np.eye(8))


def check(target: Target, known: System, xp: Any, dtype: str) -> None:
    """See that prior and likelihood are those of the system."""
    rng = np.random.default_rng(0)
    x = np.array([target.from_cube(u) for u in rng.uniform(0.05, 0.95, (5, target.dim))])
    found = [target.log_prior(y, xp) + target.log_likelihood(y, xp) for y in xp.asarray(x, dtype)]
    expected = -known.target.energy(x.reshape(5, *known.target.shape))
    np.testing.assert_allclose(np.array(found, float), expected, rtol=1e-4, atol=1e-4)


def blackjax_smc(target: Target, known: System, kernel: str) -> Peer:
    """Adaptive tempered SMC, its loop compiled as a whole; 10 moves of MALA, or of HMC with 5 leapfrogs."""
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import adaptive_tempered, resampling

    check(target, known, jnp, "float32")
    module = getattr(blackjax, kernel)
    move = module.build_kernel()
    if kernel == "hmc":
        move = partial(move, num_integration_steps=5, inverse_mass_matrix=target.covariance.astype("f4"))
    log_prior, log_likelihood = (partial(f, xp=jnp) for f in (target.log_prior, target.log_likelihood))
    factor = np.linalg.cholesky(target.covariance).astype("float32")

    @partial(jax.jit, static_argnums=0)
    def run(particles: int, seed: Any, step: Any, ess: Any) -> Any:
        first, key = jax.random.split(jax.random.key(seed))
        # MALA is x + step * score + sqrt(2 step) noise
        step = step if kernel == "hmc" else 0.5 * step**2 * target.covariance.diagonal().mean()
        advance = adaptive_tempered.build_kernel(
            log_prior, log_likelihood, move, module.init, resampling.systematic, ess
        )

        def body(carry: Any) -> Any:
            state, log_z, key, left = carry
            key, now = jax.random.split(key)
            state, info = advance(now, state, 10, {"step_size": jnp.asarray(step, jnp.float32)[np.newaxis]})
            left = jnp.where(state.tempering_param < 1.0, left - 1, 0)
            return state, log_z + info.log_likelihood_increment, key, left

        x = jax.random.normal(first, (particles, target.dim)) @ factor.T
        if target.box is not None:
            x = jax.random.uniform(first, x.shape, minval=target.box[0], maxval=target.box[1])
        state = adaptive_tempered.init(x)
        carry = state._replace(tempering_param=jnp.float32(0.0)), jnp.float32(0.0), key, 1000
        state, log_z, *_ = jax.lax.while_loop(lambda carry: carry[3] > 0, body, carry)
        return jnp.where(state.tempering_param >= 1.0, log_z, jnp.nan)

    def error(settings: tuple[float, float]) -> float:
        off = [float(run(1000, seed, *settings)) - known.log_z for seed in range(1000, 1004)]
        return float(np.nan_to_num(root_mean_square(off), nan=np.inf))

    step, ess = min(((step, ess) for step in STEPS for ess in TARGET_ESS), key=error)
    name = f"blackjax {kernel} {step:g}, ESS {ess:g}"
    return name, lambda particles, seed: (float(run(particles, seed, step, ess)), np.nan, "")


def particles_smc(target: Target, known: System, chain: int, waste_free: bool) -> Peer:
    """Adaptive tempering by random walks; where it is waste-free it states an error."""
    import particles
    from particles import distributions, smc_samplers

    prior = distributions.MvNormal(loc=np.zeros(target.dim), cov=target.covariance)
    if target.box is not None:
        prior = distributions.IndepProd(*[distributions.Uniform(*target.box)] * target.dim)

    class Model(smc_samplers.StaticModel):
        def loglik(self, theta: Any, t: Any = None) -> Any:
            return target.log_likelihood(theta, np)

    def run(n: int, seed: int) -> Estimate:
        np.random.seed(seed)  # noqa: NPY002
        moves = smc_samplers.AdaptiveTempering(Model(prior=prior), wastefree=waste_free, len_chain=chain)
        collect = [smc_samplers.Var_logLt()] if waste_free else None
        job = particles.SMC(fk=moves, N=n // chain if waste_free else n, collect=collect)
        job.run()  # the variance is that of one particle
        error = np.sqrt(job.summaries.var_logLt[-1] / len(job.W)) if collect else np.nan
        return float(job.logLt), float(error), ""

    return f"particles, {'waste-free ' if waste_free else ''}{chain}", run


def dynesty_nested(target: Target, known: System) -> Peer:
    """Nested sampling by random walks, in many dimensions by slices; uniform draws can take minutes here."""
    import dynesty

    sample = "rwalk" if target.dim <= 20 else "rslice"

    def run(live: int, seed: int) -> Estimate:
        nested = dynesty.NestedSampler(
            lambda x: float(target.log_likelihood(x, np)), target.from_cube, target.dim, nlive=live,
            sample=sample, rstate=np.random.default_rng(seed))  # fmt: skip
        nested.run_nested(print_progress=False)
        return float(nested.results.logz[-1]), float(nested.results.logzerr[-1]), ""

    return "dynesty", run


def ours(known: System, particles: int, seed: int) -> Estimate:
    found = ps.estimate_log_z(known.target, known.reference, particles=particles, seed=seed)
    return found.log_z, found.error, found.verdict


def our_size(run: Callable[[int, int], Estimate], goal: float) -> int:
    """Return how many particles take the goal; a part of the time does not depend on them."""
    least, size = 512, 2048
    run(least, 500)
    base = median_seconds(run, least)
    for _ in range(3):
        each = max((median_seconds(run, size) - base) / (size - least), 0.01 * goal / size)
        size = int(np.clip(least + (goal - base) / each, least + 64, min(8 * size, 1 << 17))) // 64 * 64
    return size if size > least + 64 else least


def fitting(run: Callable[[int, int], Estimate], goal: float, size: int, least: int) -> tuple[int, float]:
    """Return the size with which a peer's runs take the goal, and the seconds it compiled."""
    for left in (3, 2, 1, 0):
        cold, _ = timed(run, size, 500)
        warm = median_seconds(run, size, 3 if cold < SLOW else 1)
        wanted = int(np.clip(size * np.clip(goal / warm, 0.02, 50.0), least, 1 << 20))
        if left == 0 or abs(wanted / size - 1) < 0.1:
            break
        size = wanted
    return size, max(cold - warm, 0.0)


def measured(
    name: str, method: str, run: Callable[[int, int], Estimate], size: int, seeds: int, compiled: float = 0.0
) -> tuple[float, float]:
    """Run all seeds and print a row of the table; return seconds and error."""
    runs = [timed(run, size, 0)]
    count = seeds if runs[0][0] < SLOW else min(seeds, 3)
    runs += [timed(run, size, seed) for seed in range(1, count)]
    seconds = float(np.median([spent for spent, _ in runs]))
    off = np.array([estimate[0] for _, estimate in runs]) - system(name).log_z
    error, words = np.array([estimate[1] for _, estimate in runs]), Counter(found[2] for _, found in runs)
    show(target=name, method=method, size=size, seeds=count, seconds=seconds, rmse=root_mean_square(off),
         bias=float(off.mean()), stated=root_mean_square(error), rms_z=root_mean_square(off / error),
         compile=compiled, verdicts=", ".join(f"{words[word]} {word}" for word in words if word))  # fmt: skip
    return seconds, root_mean_square(off)


def race(name: str, goal: float, seeds: int, peers: str) -> float:
    """Return how many times the best peer's error is ours."""
    known, target = system(name), target_of(name)
    check(target, known, np, "float64")
    mine = partial(ours, known)
    goal, our_error = measured(name, "physscore", mine, our_size(mine, goal), seeds)
    live, best = max(50, 2 * target.dim + 2), np.inf
    for peer, build, base, least in (
        ("blackjax hmc", partial(blackjax_smc, kernel="hmc"), 1000, 50),
        ("blackjax mala", partial(blackjax_smc, kernel="mala"), 1000, 50),
        ("particles, waste-free 100", partial(particles_smc, chain=100, waste_free=True), 5000, 2000),
        ("particles, waste-free 10", partial(particles_smc, chain=10, waste_free=True), 2000, 400),
        ("particles, 10", partial(particles_smc, chain=10, waste_free=False), 1000, 100),
        ("dynesty", dynesty_nested, live, live),
    ):
        if not re.fullmatch(peers, peer):
            continue
        try:
            method, run = build(target, known)
            size, compiled = fitting(run, goal, base, least)
            for _ in range(3):  # runs differ: what is right for some may not be for most
                seconds, error = measured(name, method, run, size, seeds, compiled)
                if abs(seconds / goal - 1) < 0.15 or size * goal / seconds < least:
                    break
                size = int(size * goal / seconds)
            best = np.fmin(best, error * np.sqrt(seconds / goal))  # brought to the same time
        except (ImportError, np.linalg.LinAlgError) as reason:
            print(f"# left out: {reason}")
    print(f"# {name}: best peer / ours = {best / our_error:.2f}", flush=True)
    return float(best / our_error)


def cox_process() -> Any:
    """Return a log-Gaussian Cox process of 126 expected points, with the covariance 1.91 exp(-33 r) of the
    logarithm (Moller, Syversveen & Waagepetersen 1998, Scand. J. Statist. 25, 451), and its own data."""
    grid, variance, length = ps.Grid((30, 30), 1.0), 1.91, 1 / 33
    k = np.geomspace(1.0, 1000.0, 400)
    power = 2 * np.pi * variance * length**2 * (1 + (k * length) ** 2) ** -1.5
    prior = ps.GaussianRandomField(grid, ps.spectra.Tabulated(k, power))
    likelihood = ps.PoissonCounts(np.zeros(grid.shape), 126 / 900 * np.exp(-variance / 2))
    return prior + likelihood.simulate(prior.sample(1, seed=1)[0], seed=2)


def figures(only: str) -> None:
    """Print the single runs; the Cox process, whose log Z is not known, is compared with another seed."""
    for name, settings, most_error, most_seconds, most_z in (
        ("ising-64-0.4406868", {"particles": 64, "target_error": 1.0}, 1.0, 120, 3),
        ("field-64^3", {"reference": "fitted", "particles": 16, "target_error": 0.3}, 0.3, 600, 2),
        ("field-64^3", {"particles": 16, "target_error": 5.0}, 5.0, 600, 2),
        ("field-masked-64x64", {"particles": 128, "target_error": 0.3}, 0.3, 120, 2),
        ("Cox process 30x30", {"particles": 1024, "target_error": 0.05}, 0.05, 30, 3),
    ):
        if only not in name:
            continue
        known = system(name) if name in names() else System(cox_process(), None, np.nan)
        seconds, found = timed(ps.estimate_log_z, known.target, **settings)
        z = (found.log_z - known.log_z) / found.error
        if np.isnan(z):
            other = ps.estimate_log_z(known.target, seed=1, **settings)
            z = (found.log_z - other.log_z) / np.hypot(found.error, other.error)
        met = found.error <= most_error and seconds <= most_seconds and abs(z) <= most_z
        show(target=f"{name} {settings.get('reference', '')}", seconds=seconds, log_z=found.log_z,
             error=found.error, z=float(z), reach=f"{most_error:g} in {most_seconds} s", met=int(met),
             verdict=", ".join([found.verdict, *found.reasons]))  # fmt: skip


def calibration(seeds: int, only: str, particles: int = 500) -> None:
    """Print how the errors of ``pass`` results compare with what they are stated as.

    The last column is the variance of the log weights on the way there over what the barrier predicts of k
    even steps of it: each adds (sd u / k)^2, and sd(u) = sqrt(pi) times the barrier where u is normal.
    """
    for name in (name for name in QUICK if only in name):
        known = system(name)
        start = time.perf_counter()
        runs = [ps.estimate_log_z(*known[:2], particles=particles, seed=seed) for seed in range(seeds)]
        seconds = (time.perf_counter() - start) / seeds
        passed = [result for result in runs if result.verdict == "pass"]
        z = np.array([(result.log_z - known.log_z) / result.error for result in passed])
        holds = [low <= known.log_z <= high for low, high in (result.interval(0.95) for result in passed)]
        spread = [r.work["forward"].var() * (len(r.betas) - 1) / (np.pi * r.barrier**2) for r in runs]
        show(target=name, runs=seeds, passes=len(passed), rms_z=root_mean_square(z),
             coverage=float(np.mean(holds)), beyond_4=int((np.abs(z) > 4).sum()),
             seconds=seconds, schedule=float(np.median(spread)))  # fmt: skip


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="targets with this in their name")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each run")
    parser.add_argument("--figures", action="store_true", help="single runs of large systems instead")
    parser.add_argument("--calibration", type=int, metavar="N", help="N seeds of every quick system instead")
    parser.add_argument("--peers", default=".*", help="a regular expression of their names [default: all]")
    parser.add_argument("--json", help="file for the table, with versions")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    versions = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
    packages = ("physscore", "numpy", "scipy", "numba", "jax", "blackjax", "particles", "dynesty")
    versions |= {name: metadata.version(name) for name in packages if util.find_spec(name)}
    print("# " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    ratios: dict[str, float] = {}
    if options.figures:
        figures(options.only)
    elif options.calibration:
        calibration(options.calibration, options.only)
    else:
        ratios = {
            name: race(name, options.seconds, options.seeds, options.peers)
            for name in RACED
            if options.only in name
        }
        good = sum(ratio >= 2 for ratio in ratios.values())
        print(f"# the best peer's error is at least twice ours on {good} of {len(ratios)} targets; "
              f"the worst ratio is {min(ratios.values()):.2f}")  # fmt: skip
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"versions": versions, "rows": ROWS, "ratios": ratios}, file, indent=1)


if __name__ == "__main__":
    main()
