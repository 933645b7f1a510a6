"""Runs: the right numbers, settings that freeze, verdicts in words, and what is refused.

Means over chains, which are independent, are compared with exact values. A test fails if a z-score
exceeds 5.2; for means over 400 chains that happens by chance once in 4e6 z-scores, and this file has
fewer than 200: a right sampler fails it once in 20 000.
"""

import json
import math

import numba
import numpy as np
import pytest

import physscore as ps
from physscore.diagnostics.chains import effective_sample_size, monte_carlo_error, r_hat
from physscore.energies.coordinates import FieldModes
from physscore.kernels import fused
from physscore.kernels.team import Team, sharing
from physscore.sampling.engine import draws_of

LIMIT = 5.2
CHAINS = 400
GRID = ps.Grid((8, 6), 10.0)
FIELD = ps.GaussianRandomField(GRID, ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
FIXED = {
    "ula": ps.ULA(0.05),
    "mala": ps.MALA(0.3, metric="identity"),
    "automala": ps.AutoMALA(0.3, metric="identity"),
    "underdamped": ps.Underdamped(0.3, metric="identity"),
    "metropolised": ps.Underdamped(0.3, metric="identity", metropolised=True),
    "hmc": ps.HMC(0.3, metric="identity", leapfrogs=3),
}


def normal(dim=3):
    a = np.random.default_rng(1).normal(size=(dim, dim))
    return ps.Gaussian(np.arange(float(dim)), a @ a.T / dim + 0.3 * np.eye(dim))


def functions(target):
    """Return the same energy without its compiled form."""
    return ps.from_functions(energy=target.energy, score=target.score, shape=target.shape)


def z_score(values, exact):
    """Return z-scores of the mean of values (kept, chains, ...), with the spread of the chains' means."""
    means = values.mean(axis=0)
    return (means.mean(axis=0) - exact) / (means.std(axis=0, ddof=1) / math.sqrt(len(means)))


def moments(z):
    """Return z-scores of states (kept, chains, d) that should be standard normal."""
    d = z.shape[-1]
    pairs = z[..., :, np.newaxis] * z[..., np.newaxis, :]
    return np.concatenate([z_score(z, 0.0), z_score(pairs, np.eye(d))[np.triu_indices(d)]])


@pytest.mark.parametrize(
    "kernel",
    [
        ps.MALA(),
        ps.MALA(metric="dense"),
        ps.AutoMALA(),
        ps.HMC(),
        ps.Underdamped(),
        ps.Underdamped(metropolised=True),
    ],
    ids=lambda kernel: f"{type(kernel).__name__}-{kernel.metric}-{kernel.needs_energy}",
)
@pytest.mark.parametrize("loop", ["fused", "batched"])
def test_tuned_kernels_sample_their_target(kernel, loop):
    target = normal()
    steps = 120 if loop == "fused" else 40
    run = ps.sample(
        target if loop == "fused" else functions(target), kernel, chains=CHAINS, steps=steps, warmup=250
    )
    assert run.loop == loop
    z = target.whiten(run.samples).reshape(run.draws.shape)
    assert np.abs(moments(z)).max() < LIMIT
    assert 0.4 < run.acceptance.mean() <= 1
    assert run.n_divergent == 0
    # Frozen: numbers everywhere, and the kernel goes on without a warm-up.
    assert isinstance(run.kernel.step_size, float)
    assert isinstance(run.kernel.metric, ps.Metric)
    ps.sample(target, run.kernel, steps=5, warmup=0)


def test_crank_nicolson_samples_a_field_posterior():
    data = FIELD.sample(1, seed=5)[0]
    target = FIELD + ps.GaussianNoise(data, 1.0)
    run = ps.sample(target, ps.CrankNicolson(), chains=CHAINS, steps=10, warmup=60)
    modes = FieldModes(FIELD, GRID)
    d, free = modes.from_state(data[np.newaxis])[0], modes.free
    variance = 1 / (modes.precision[free] + 1)  # a Wiener filter, mode by mode
    u = modes.from_state(run.samples).reshape(10, CHAINS, -1)[..., free]
    z = (u - variance * d[free]) / np.sqrt(variance)
    assert np.abs(z_score(z, 0.0)).max() < LIMIT
    assert np.abs(z_score(z**2, 1.0)).max() < LIMIT
    assert run.grid == GRID


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("compiled", [True, False])
def test_iterate_and_step_make_the_chain_of_sample(name, compiled):
    target, kernel = normal(), FIXED[name]
    target = target if compiled else functions(target)
    x = np.random.default_rng(0).normal(size=(7, 3))
    run = ps.sample(target, kernel, chains=7, steps=6, warmup=0, seed=3, init=x)
    state, acceptance = kernel.init(target, x, seed=3), 0
    for i, (y, energy, info) in zip(
        range(6), ps.iterate(target, kernel, chains=7, seed=3, init=x), strict=False
    ):
        state, one = kernel.step(target, state)
        np.testing.assert_array_equal(y, run.draws[i])
        np.testing.assert_array_equal(energy, run.energies[i])
        np.testing.assert_array_equal(state.x, y)
        np.testing.assert_array_equal(one.acceptance, info.acceptance)
        acceptance = acceptance + info.acceptance
    np.testing.assert_allclose(run.acceptance, acceptance / 6)
    thinned = ps.sample(target, kernel, chains=7, steps=6, warmup=0, seed=3, init=x, thin=4)
    np.testing.assert_array_equal(thinned.draws, run.draws[3:4])  # the last two steps are not kept


@pytest.mark.parametrize("kernel", [ps.CrankNicolson(0.4), ps.MALA(0.4, metric="fourier")], ids=str)
def test_iterate_in_other_coordinates(kernel):
    target = FIELD + ps.PoissonCounts(np.full(GRID.shape, 3), mean_count=3.0)
    run = ps.sample(target, kernel, chains=3, steps=4, warmup=0)
    for i, (x, energy, _) in zip(range(4), ps.iterate(target, kernel, chains=3), strict=False):
        np.testing.assert_array_equal(x, run.draws[i])
        np.testing.assert_array_equal(energy, run.energies[i])
    np.testing.assert_allclose(run.energies[-1], target.energy(run.draws[-1]), rtol=1e-9)


def test_thinning_keeps_every_so_many_th_step():
    target, kernel = normal(), FIXED["mala"]
    every = ps.sample(target, kernel, chains=5, steps=20, warmup=0)
    run = ps.sample(target, kernel, chains=5, steps=20, warmup=0, thin=3)
    np.testing.assert_array_equal(run.draws, every.draws[2::3])
    np.testing.assert_array_equal(run.energies, every.energies[2::3])


@pytest.mark.parametrize("kernel", [ps.MALA("auto", metric="dense"), ps.HMC(), ps.AutoMALA()], ids=str)
@pytest.mark.parametrize("compiled", [True, False])
def test_threads_do_not_matter(kernel, compiled):
    target = ps.Student(4.0, 1.0, 3)
    runs = []
    for n in (1, 2):
        with ps.threads(n):
            runs.append(
                ps.sample(target if compiled else functions(target), kernel, chains=150, steps=5, warmup=60)
            )
    np.testing.assert_array_equal(runs[0].draws, runs[1].draws)
    np.testing.assert_array_equal(runs[0].acceptance, runs[1].acceptance)
    assert runs[0].kernel.step_size == runs[1].kernel.step_size


class Halves(Team):
    """Two processes in one."""

    size, runs = 2, 0

    def run(self, loop, calls):
        self.runs += 1
        return [loop.moved(*call) for call in calls]


@pytest.mark.parametrize("name", FIXED)
def test_shared_chains_are_moved_by_what_is_compiled(name, monkeypatch):
    """Compiling takes half a minute."""
    settings = {"chains": 5, "steps": 6, "warmup": 0, "seed": 3}
    alone = ps.sample(normal(), FIXED[name], **settings)
    loops = [getattr(fused, step) for step in ("langevin", "splitting", "hamiltonian", "adaptive")]
    compiled = [loop.signatures for loop in loops]
    team = Halves()
    monkeypatch.setattr("physscore.sampling.run.shared", lambda workers: sharing(team))
    shared = ps.sample(normal(), FIXED[name], **settings)
    assert team.runs > 0
    np.testing.assert_array_equal(shared.draws, alone.draws)
    assert [loop.signatures for loop in loops] == compiled


# --- Warm-up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["identity", "diagonal", "dense"])
def test_ula_keeps_its_promise(metric):
    target, bias = normal(), 0.04
    precision = np.linalg.inv(target.covariance)
    run = ps.sample(target, ps.ULA(metric=metric, bias=bias), chains=CHAINS, steps=1000, warmup=400, thin=10)
    factor = run.kernel.metric.factor
    w = {"identity": np.eye(3), "diagonal": np.diag(factor[0])}.get(metric, factor)
    law = ps.ula_covariance(precision, run.kernel.step_size, w @ w.T)
    np.testing.assert_allclose(np.linalg.eigvals(precision @ law).real.max(), 1 + bias, rtol=1e-9)
    law = ps.Gaussian(target.mean, 0.5 * (law + law.T))
    assert np.abs(moments(law.whiten(run.samples).reshape(run.draws.shape))).max() < LIMIT
    assert ps.sample(functions(target), ps.ULA(metric="identity", bias=bias), steps=1).kernel.step_size == (
        pytest.approx(2 * bias / (1 + bias) / np.linalg.eigvalsh(precision)[-1], rel=1e-3)
    )


def test_ula_step_on_a_random_field():
    run = ps.sample(FIELD, ps.ULA(bias=0.02), chains=2, steps=1, warmup=1)
    variances = FIELD.spectrum(GRID.wavenumbers.k[1:]) * GRID.n_cells / GRID.volume
    assert run.kernel.step_size == pytest.approx(2 * 0.02 / 1.02 * variances.min())


def test_metric_of_units_that_are_far_apart():
    """As many positions as chains, at least: a variance is known to sqrt(2 / 64) = 18%."""
    variances = np.array([1e12, 1.0, 1e-12])
    init = np.sqrt(variances) * np.random.default_rng(0).normal(size=(64, 3))
    run = ps.sample(ps.Gaussian(0.0, variances), chains=64, steps=500, init=init)
    assert np.abs(np.log(run.kernel.metric.variances / variances)).max() < LIMIT * 0.18
    assert run.mixing.passed


@pytest.mark.parametrize("kernel", [ps.ULA, ps.Underdamped])
@pytest.mark.parametrize(
    ("metric", "chains"), [("diagonal", 50), ("dense", 50), ("identity", 50), ("identity", 1)]
)
def test_steps_by_curvature_follow_the_unit(kernel, metric, chains):
    """In another unit the same chains move; the curvature depends on the place."""
    found = []
    for unit in (1.0, 1e-6, 1e6):
        target = functions(ps.Student(5.0, unit, dim=2))
        init = unit * np.random.default_rng(0).normal(size=(chains, 2))
        run = ps.sample(target, kernel(metric=metric), chains=chains, steps=1, warmup=200, init=init)
        power = {"ula": 2, "underdamped": 1}[kernel.__name__.lower()] if metric == "identity" else 0
        found.append(run.kernel.step_size / unit**power)
    np.testing.assert_allclose(found, found[0], rtol=1e-2)


def test_steps_by_curvature_do_not_depend_on_means_or_units_of_others():
    def target(mean, unit):
        return ps.from_functions(
            energy=lambda x: 0.5 * ((x[:, 0] - mean) / unit) ** 2 + 3 * np.logaddexp(x[:, 1], -x[:, 1]),
            score=lambda x: np.stack([(mean - x[:, 0]) / unit**2, -3 * np.tanh(x[:, 1])], axis=1),
            shape=2,
        )  # fmt: skip

    for mean, unit in ((0.0, 100.0), (1e6, 100.0), (0.0, 1e6)):
        init = np.random.default_rng(0).normal(size=(50, 2)) * [unit, 0.3] + [mean, 0]
        kernel = ps.Underdamped(metric="identity")
        run = ps.sample(target(mean, unit), kernel, chains=50, steps=1, warmup=200, init=init)
        # The largest curvature is 3, at 0, where chains begin: the 8 looked at all miss it once in 1e7.
        assert run.kernel.step_size == pytest.approx(0.5 / np.sqrt(3), rel=0.1)


def test_metric_is_the_covariance():
    """As many independent positions as chains, at least: a variance is known to sqrt(2 / 400) = 7%."""
    variances = np.array([1e-2, 0.3, 1.0, 30.0])
    diagonal = ps.sample(ps.Gaussian(0.0, variances), chains=CHAINS, steps=1, warmup=600).kernel.metric
    np.testing.assert_allclose(diagonal.variances, variances, rtol=LIMIT * 0.07)
    target = normal(4)
    dense = ps.sample(target, ps.HMC(metric="dense"), chains=CHAINS, steps=1, warmup=600).kernel.metric
    ratio = np.linalg.eigvals(np.linalg.solve(target.covariance, dense.covariance)).real
    np.testing.assert_allclose(ratio, 1.0, atol=2 * LIMIT * 0.07)
    fourier = ps.sample(FIELD, ps.MALA(metric="fourier"), chains=2, steps=1, warmup=20).kernel.metric
    modes = FieldModes(FIELD, GRID)
    np.testing.assert_allclose(fourier.variances[modes.free], 1 / modes.precision[modes.free])


def test_hmc_chooses_longer_trajectories_where_they_pay():
    chosen = {}
    for width in (1.0, 16.0):
        target = ps.Gaussian(0.0, np.geomspace(1.0, width**2, 10))
        run = ps.sample(target, ps.HMC(metric="identity"), chains=64, steps=300, warmup=1500)
        chosen[width] = run.kernel.leapfrogs
        short = ps.sample(
            target, ps.HMC(metric="identity", leapfrogs=1), chains=64, steps=300 * chosen[width]
        )
        assert width == 1.0 or run.ess.min() > 2 * short.ess.min()  # for the same gradients
    assert chosen[16.0] >= 4 * chosen[1.0]


# --- What a run says ------------------------------------------------------------------------------


def test_attributes():
    target = ps.Parameters(a=ps.Normal(1.0, 2.0), b=ps.Normal(-1.0, 3.0))
    run = ps.sample(target, chains=50, steps=400, thin=2, seed=9)
    flat = run.draws.reshape(-1, 2)
    np.testing.assert_array_equal(run.samples, flat)
    np.testing.assert_allclose(run.mean, flat.mean(0))
    np.testing.assert_allclose(run.std, flat.std(0, ddof=1))
    np.testing.assert_array_equal(run.error, monte_carlo_error(run.draws))
    np.testing.assert_array_equal(run.r_hat, r_hat(run.draws))
    np.testing.assert_array_equal(run.ess, effective_sample_size(run.draws, "bulk"))
    np.testing.assert_array_equal(run.ess_tail, effective_sample_size(run.draws, "tail"))
    np.testing.assert_allclose(run.energies, target.energy(flat).reshape(200, 50))
    assert run.draws.shape == (200, 50, 2)
    assert (run.names, run.shape, run.seed, run.warmup, run.thin) == (["a", "b"], (2,), 9, 200, 2)
    assert run.mixing.passed
    found = json.loads(json.dumps(run.summary()))
    assert found["mixed"] is True
    assert found["components"]["b"]["mean"] == run.mean[1]
    for word in ("MALA", "50 chains", "acceptance", "\na ", "\nb ", "mixed"):
        assert word in str(run)
    with pytest.raises(ps.InputError, match="only fields"):
        run.power_spectrum()


@pytest.mark.filterwarnings("ignore")  # of ArviZ's own
def test_arviz():
    arviz = pytest.importorskip("arviz")
    target = ps.Parameters(a=ps.Normal(1.0, 2.0), b=ps.Normal(-1.0, 3.0))
    run = ps.sample(target, chains=4, steps=100)
    data = run.to_arviz()
    np.testing.assert_array_equal(data.posterior["b"].values, run.draws[..., 1].T)
    np.testing.assert_array_equal(data.sample_stats["lp"].values, -run.energies.T)
    np.testing.assert_allclose(arviz.ess(data)["a"], run.ess[0], rtol=1e-6)


def test_power_spectrum_of_the_draws():
    run = ps.sample(FIELD, ps.MALA(metric="fourier"), chains=20, steps=40, thin=10)
    found = run.power_spectrum()
    expected = ps.power_spectrum(run.draws.reshape(-1, *GRID.shape), GRID)
    np.testing.assert_array_equal(found.power, expected.power)


def test_float32_states():
    target = functions(ps.Gaussian(1.0, 4.0, dim=1500))
    run = ps.sample(target, ps.HMC(metric="identity"), chains=4, steps=100, dtype="float32")
    assert (run.draws.dtype, run.energies.dtype) == (np.float32, np.float64)
    cells = np.moveaxis((run.draws.astype(float) - 1) / 2, -1, 1).reshape(100, -1)[:, :, np.newaxis]
    assert np.abs(moments(cells)).max() < LIMIT
    np.testing.assert_allclose(run.energies[-1], target.energy(run.draws[-1].astype(float)), rtol=1e-5)


def score_only():
    target = ps.Gaussian([1.0, 2.0], [1.0, 0.5])
    return ps.from_functions(score=target.score, shape=2, name="mine"), target


@pytest.mark.parametrize("kernel", [ps.ULA(bias=0.001), ps.Underdamped()], ids=str)
def test_score_alone_is_enough(kernel):
    score, target = score_only()
    run = ps.sample(
        score, kernel, chains=CHAINS, steps=40, warmup=4000 if kernel.step_function == "langevin" else 200
    )
    assert np.isnan(run.energies).all()
    assert np.abs(z_score(target.whiten(run.samples).reshape(run.draws.shape), 0.0)).max() < LIMIT
    assert "component (1,)" in str(run)


@pytest.mark.parametrize("compiled", [True, False])
def test_lost_chains_are_counted_and_kept(compiled):
    @numba.njit
    def quartic(x, params, gradient_out):
        gradient_out[0] = 4 * x[0] ** 3
        return x[0] ** 4

    target = ps.compiled(quartic, dim=1)
    target = target if compiled else ps.from_functions(
        energy=lambda x: x[:, 0] ** 4, score=lambda x: -4 * x**3, shape=1
    )  # fmt: skip
    start = np.zeros((8, 1))
    start[:3] = 100.0
    with pytest.warns(UserWarning, match="3 of 8 chains diverged"):
        run = ps.sample(target, ps.ULA(0.001), chains=8, steps=100, warmup=0, init=start)
    assert run.n_divergent == 3
    np.testing.assert_array_equal(run.divergent, [1, 1, 1, 0, 0, 0, 0, 0])
    assert run.draws.shape == (100, 8, 1)
    assert not np.isfinite(run.draws[-1, :3]).any()
    assert np.isfinite(run.draws[:, 3:]).all()
    assert not run.mixing.passed
    assert run.summary()["divergent_chains"] == 3
    json.dumps(run.summary(), allow_nan=False)
    assert "not to be trusted" in str(run)
    assert "3 of 8 chains diverged: use a smaller step" in str(run)


def test_bounds_are_no_divergence():
    run = ps.sample(ps.Parameters(a=ps.Uniform(-1.0, 3.0)), chains=50, steps=400)
    assert run.n_divergent == 0
    assert run.mixing.passed


def test_a_run_that_has_not_mixed_says_so():
    target = ps.GaussianMixture([0.5, 0.5], [[-10.0], [10.0]], 1.0)
    run = ps.sample(target, chains=16, steps=400)
    assert not run.mixing.passed
    assert "not to be trusted:\n  has not mixed: R-hat is" in str(run)
    few = ps.sample(target, chains=16, steps=3)
    assert "3 draws a chain are kept, and 4 are needed" in str(few)


class _UsesItsArraysAgain(ps.Energy):
    shape = (2,)

    def __init__(self):
        self.arrays = {}

    def energy_and_score(self, x):
        energy, score = self.arrays.setdefault(len(x), (np.empty(len(x)), np.empty(x.shape)))
        np.negative(x, out=score)
        return np.einsum("ni,ni->n", 0.5 * x, x, out=energy), score


@pytest.mark.parametrize("kind", ["class", "functions", "both"])
def test_energies_may_use_their_arrays_again(kind):
    own = _UsesItsArraysAgain()
    target = {
        "class": own,
        "functions": ps.from_functions(energy=lambda x: own.energy_and_score(x)[0], score=own.score, shape=2),
        "both": ps.from_functions(energy_and_score=own.energy_and_score, shape=2),
    }[kind]
    run = ps.sample(target, ps.MALA(1.0, metric="identity"), chains=500, steps=100, warmup=50, seed=1)
    expected = ps.sample(
        ps.from_functions(energy=lambda x: 0.5 * (x * x).sum(axis=1), score=lambda x: -x, shape=2),
        ps.MALA(1.0, metric="identity"), chains=500, steps=100, warmup=50, seed=1,
    )  # fmt: skip
    np.testing.assert_allclose(run.draws, expected.draws, rtol=1e-12)


EXACT = {
    "gaussian": ps.Gaussian(0.0, 1.0, dim=3),
    "parameters": ps.Parameters(a=ps.Normal(0.0, 1.0), b=ps.Normal(0.0, 1.0)),
    "mixture": ps.GaussianMixture([1.0, 1.0], [[0.0, 0.0], [0.0, 0.0]], 1.0),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    "kernel",
    [ps.MALA(0.5, metric="identity"), ps.HMC(0.7, leapfrogs=2, metric="identity")],
    ids=["mala", "hmc"],
)
def test_exact_draws_stay_exact_by_the_same_seed(name, kernel):
    """The variance of 20000 chains; beyond 5 sigma by chance once in 2e6."""
    prior = EXACT[name]
    run = ps.sample(
        prior, kernel, chains=20_000, steps=2, warmup=0, seed=1, init=prior.sample(20_000, seed=1)
    )
    size = 20_000 * prior.dim
    assert (np.abs(run.draws.reshape(2, -1).var(axis=1) - 1) < 5 * np.sqrt(2 / size)).all()


@pytest.mark.parametrize("name", ["gaussian", "lognormal", "parameters", "tempered"])
def test_chains_do_not_start_at_truths_of_the_same_seed(name):
    """Data are simulated with ``prior.sample(seed=i)``: chains of the seed i must not start there.

    400 chains that start at random have a correlation of 0.28 with the truths, 5.6 sigma, once in 4e7 times.
    """
    grid = ps.Grid((8,), 8.0)
    prior = {
        "gaussian": ps.GaussianRandomField(grid, lambda k: 4 / k),
        "lognormal": ps.LognormalField(grid, lambda k: 1 / k),
    }.get(name, ps.Parameters(a=ps.Normal(0.0, 1.0), b=ps.Normal(0.0, 1.0)))
    flat = ps.from_functions(
        energy=lambda x: np.zeros(len(x)), score=lambda x: np.zeros_like(x), shape=prior.shape
    )
    truths = prior.sample(400, seed=7)
    if name == "tempered":
        start = draws_of(prior, 400, 7, "cpu")
    else:
        start = next(ps.iterate(prior + flat, ps.ULA(1e-12), chains=400, seed=7))[0]
    np.testing.assert_allclose(start.std(axis=0), truths.std(axis=0), rtol=0.5)
    assert np.abs(np.corrcoef(start[:, 0], truths[:, 0])[0, 1]) < 0.28
    assert not np.isclose(start[0], truths, rtol=1e-3).all(axis=1).any()


def test_errors_of_the_power_of_draws_of_chains(tmp_path):
    """Of the mean over each of 10 runs: the squares of z-scores, of 5 bins, are 1.06 on average over 60 runs.

    It was 6 with the draws taken for independent. Were only half of these 50 values independent, their mean
    would be above 3.5 once in 1e7 times.
    """
    pk, z = ps.spectra.PowerLaw(index=-1.0, amplitude=1.0), []
    expected = ps.power_spectrum(FIELD.sample(1, seed=0), GRID).compare(pk).model
    for seed in range(10):
        run = ps.sample(FIELD, ps.MALA(0.2, metric="fourier"), chains=16, steps=300, warmup=50, seed=seed)
        found = run.power_spectrum()
        z.append((found.power.mean(axis=0) - expected) / found.mean_error())
    assert np.mean(np.square(z)) < 3.5
    np.testing.assert_allclose(found.error[7], found.power.std(axis=0, ddof=1))
    assert found.independent < 0.3 * len(found.power)
    with pytest.raises(ps.InputError, match=r"draws of chains.*run\.draws\[-1\]"):
        found.compare(pk)
    alone = ps.power_spectrum(run.draws[-1], GRID)
    assert (alone.independent, alone.compare(pk).passed) == (16, True)
    for i, spectrum in enumerate((found, alone)):
        ps.save(tmp_path / f"{i}.h5", spectrum)
        np.testing.assert_array_equal(ps.load(tmp_path / f"{i}.h5").mean_error(), spectrum.mean_error())
