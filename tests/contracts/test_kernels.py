"""Every kernel: it leaves its target as it is, and both loops make the same chain of it.

Invariance: chains start from exact draws; after some steps moments of the whitened states are compared
with those of a standard normal. A test fails if one of its z-scores exceeds 5.2, which happens by
chance once in 5e6 z-scores; the suite has fewer than 5000, so a right kernel fails it once in 1000.
"""

import math

import numpy as np
import pytest

import physscore as ps
from physscore.energies.coordinates import FieldModes
from physscore.kernels import batched, moves
from physscore.kernels.loops import Loop
from physscore.kernels.metric import Identity
from physscore.sampling.engine import Engine

from .systems import build, covariance

LIMIT = 5.2
CHAINS = 20_000
KERNELS = {
    "mala": ps.MALA(0.5),
    "hmc": ps.HMC(0.7, leapfrogs=3),
    "underdamped": ps.Underdamped(0.8, friction=1.5, metropolised=True),
    "automala": ps.AutoMALA(0.3),
}
UNADJUSTED = {"ula": ps.ULA(0.1), "baoab": ps.Underdamped(0.4)}
METRICS = {
    "identity": Identity(),
    "diagonal": ps.Diagonal([0.5, 1.0, 2.0, 1.5]),
    "dense": ps.Dense(covariance(4, seed=5)),
}


def z_scores(z):
    """Return z-scores of moments of states that should be standard normal, of shape (n, d)."""
    n, d = z.shape
    found = [z.mean(0), (z**2 - 1).mean(0) / np.sqrt(2), (z**4 - 3).mean(0) / np.sqrt(96)]
    i, j = np.triu_indices(d, 1)
    found.append((z[:, i] * z[:, j]).mean(0))
    for level in (-2.0, -1.0, 1.0, 2.0):
        p = 0.5 * (1 + math.erf(level / math.sqrt(2)))
        found.append(((z < level).mean(0) - p) / np.sqrt(p * (1 - p)))
    return np.concatenate(found) * np.sqrt(n)


def moved(target, kernel, steps=6, loop=None, chains=CHAINS, seed=7):
    engine = Engine(target, kernel, loop)
    state = engine.start(target.sample(chains, seed=seed), seed + 1)
    engine.advance(state, steps)
    return engine.positions(state.x)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("metric", METRICS)
def test_normal_target_is_invariant(name, metric):
    target = ps.Gaussian(np.arange(4.0), covariance(4))
    x = moved(target, KERNELS[name].tuned(metric=METRICS[metric]))
    assert np.abs(z_scores(target.whiten(x))).max() < LIMIT


@pytest.mark.parametrize("name", KERNELS)
def test_funnel_is_invariant(name):
    target = ps.Funnel(4, scale=2.0)
    x = moved(target, KERNELS[name].tuned(metric="identity"))
    assert np.abs(z_scores(target.whiten(x))).max() < LIMIT


@pytest.mark.parametrize("name", KERNELS)
def test_mixture_is_invariant(name):
    weights, means = np.array([0.1, 0.2, 0.3, 0.4]), np.array([[2, 2], [2, -2], [-2, 2], [-2, -2.0]])
    target = ps.GaussianMixture(weights, means, 0.8)
    x = moved(target, KERNELS[name].tuned(metric="identity"), steps=20)
    mean, n = weights @ means, len(x)
    second = 0.8 * np.eye(2) + (weights * means.T) @ means
    functions = [x[:, 0], x[:, 1], x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1]]
    expected = [*mean, second[0, 0], second[1, 1], second[0, 1]]
    z = [(f.mean() - e) / (f.std() / np.sqrt(n)) for f, e in zip(functions, expected, strict=True)]
    assert np.abs(z).max() < LIMIT


@pytest.mark.parametrize("name", KERNELS)
def test_bounded_prior_is_invariant(name):
    target = ps.Parameters(a=ps.Uniform(-1.0, 2.0), b=ps.HalfNormal(1.5), c=ps.LogUniform(1.0, 4.0))
    x = moved(target, KERNELS[name].tuned(metric="identity"))
    assert np.abs(z_scores(target.whiten(x))).max() < LIMIT


def test_crank_nicolson_is_invariant():
    # A posterior that is known: a normal prior, and a normal likelihood of half its coordinates.
    prior = ps.Gaussian(np.arange(4.0), covariance(4))
    likelihood = ps.Gaussian(1.0, [0.5, 1e6, 0.8, 1e6])
    precision = np.linalg.inv(prior.covariance) + np.diag(1 / likelihood.covariance)
    c = np.linalg.inv(precision)
    mean = c @ (np.linalg.solve(prior.covariance, prior.mean) + 1 / likelihood.covariance)
    exact = ps.Gaussian(mean, 0.5 * (c + c.T))
    engine = Engine(prior + ps.from_functions(energy=likelihood.energy, score=likelihood.score, shape=4),
                    ps.CrankNicolson(0.6))  # fmt: skip
    state = engine.start(exact.sample(CHAINS, seed=1), 2)
    info = engine.advance(state, 6)
    assert 0.3 < info.acceptance.mean() < 0.99
    assert np.abs(z_scores(exact.whiten(engine.positions(state.x)))).max() < LIMIT


@pytest.mark.parametrize("kernel", [ps.MALA(0.3, metric="fourier"), ps.HMC(0.5, "fourier", leapfrogs=2)])
@pytest.mark.parametrize("shape", [(6,), (5, 4), (3, 4, 2)])
def test_random_field_is_invariant(kernel, shape):
    target = ps.GaussianRandomField(ps.Grid(shape, 10.0), ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
    x = moved(target, kernel, chains=5000)
    coordinates = FieldModes(target, target.grid)
    u = coordinates.from_state(x)[:, coordinates.free]
    assert np.abs(z_scores(u * np.sqrt(coordinates.precision[coordinates.free]))).max() < LIMIT


@pytest.mark.parametrize("metric", METRICS)
def test_ula_has_its_exact_law(metric):
    m = METRICS[metric]
    w = {"identity": np.eye(4), "diagonal": np.diag(m.factor[0])}.get(metric, m.factor)
    target, step = ps.Gaussian(np.arange(4.0), covariance(4)), 0.3
    biased = ps.ula_covariance(np.linalg.inv(target.covariance), step, w @ w.T)
    law = ps.Gaussian(target.mean, 0.5 * (biased + biased.T))
    engine = Engine(target, ps.ULA(step, metric=m))
    state = engine.start(law.sample(CHAINS, seed=1), 2)
    engine.advance(state, 8)
    assert np.abs(z_scores(law.whiten(state.x))).max() < LIMIT
    assert np.abs(z_scores(target.whiten(state.x))).max() > 3 * LIMIT  # the bias is large enough to be seen


def test_baoab_positions_are_exact_on_normal_targets():
    target = ps.Gaussian(np.arange(4.0), covariance(4))
    engine = Engine(target, ps.Underdamped(0.5))
    state = engine.start(target.sample(CHAINS, seed=1), 2)
    engine.advance(state, 300)  # far enough for the momenta to reach their own law
    assert np.abs(z_scores(target.whiten(state.x))).max() < LIMIT


# --- What the suite must catch --------------------------------------------------------------------


def planted(monkeypatch, fault):
    push = batched.Batch.push

    def missing_root(self, x, s, p, kick, drift, **more):
        return push(self, x, s, p, kick, np.asarray(drift) / np.sqrt(2), **more)

    def twice(self, x, s, p, kick, drift, **more):
        y, kinetic = push(self, x, s, p, kick, drift, **more)
        return x + (y - x) * self.metric.factor[0], kinetic

    monkeypatch.setattr(batched.Batch, "push", {"missing root": missing_root, "metric twice": twice}[fault])


@pytest.mark.parametrize("fault", ["missing root", "metric twice"])
def test_planted_faults_are_caught_in_ula(monkeypatch, fault):
    target, m, step = ps.Gaussian(np.arange(4.0), covariance(4)), METRICS["diagonal"], 0.3
    biased = ps.ula_covariance(np.linalg.inv(target.covariance), step, np.diag(m.factor[0] ** 2))
    law = ps.Gaussian(target.mean, 0.5 * (biased + biased.T))
    planted(monkeypatch, fault)
    engine = Engine(target, ps.ULA(step, metric=m), "batched")
    state = engine.start(law.sample(CHAINS, seed=1), 2)
    engine.advance(state, 8)
    assert np.abs(z_scores(law.whiten(state.x))).max() > LIMIT


@pytest.mark.parametrize("fault", ["kinetic energy without its half", "no last kick"])
def test_planted_faults_are_caught_in_mala(monkeypatch, fault):
    finish = batched.Batch.finish

    def wrong(self, x, s, p, kick, harmonic=False):
        if fault == "no last kick":
            return finish(self, x, s, p, 0.0, harmonic)
        return 2 * finish(self, x, s, p, kick, harmonic)

    monkeypatch.setattr(batched.Batch, "finish", wrong)
    target = ps.Gaussian(np.arange(4.0), covariance(4))
    kernel = ps.MALA(0.5, metric=METRICS["diagonal"])
    assert np.abs(z_scores(target.whiten(moved(target, kernel, loop="batched")))).max() > LIMIT


def test_planted_wrong_jacobian_is_caught(monkeypatch):
    class Wrong(ps.Gaussian):  # a prior in the wrong coordinates: its volume element is forgotten
        def unwhiten(self, z):
            return np.sinh(super().unwhiten(z))

        def whiten(self, x):
            return super().whiten(np.arcsinh(x))

        def pull_back(self, z, gradient):
            return super().pull_back(z, gradient * np.cosh(super().unwhiten(z)))

    prior = Wrong(0.0, 1.0, dim=2)
    flat = ps.from_functions(energy=lambda x: 0.0 * x[:, 0], score=lambda x: 0.0 * x, shape=2)
    engine = Engine(prior + flat, ps.CrankNicolson(0.8))
    right = ps.Gaussian(0.0, 1.0, dim=2)
    state = engine.start(right.sample(CHAINS, seed=1), 2)
    engine.advance(state, 8)
    assert np.abs(z_scores(right.whiten(engine.positions(state.x)))).max() > LIMIT


# --- The two loops --------------------------------------------------------------------------------

EVERY = {**KERNELS, **UNADJUSTED, "one leap of hmc": ps.HMC(0.6, leapfrogs=1)}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("metric", METRICS)
def test_both_loops_make_the_same_chain(name, metric):
    target = ps.GaussianMixture([1, 3], np.eye(4)[:2] * 3, np.array([covariance(4), covariance(4, 1)]))
    kernel = EVERY[name].tuned(metric=METRICS[metric])
    start = np.random.default_rng(0).normal(size=(37, 4))
    found = []
    for which in ("fused", "batched"):
        engine = Engine(target, kernel, which)
        state = engine.start(start, 3)
        info = engine.advance(state, 15)
        assert info.loop == which
        found.append((state.x, state.energy, state.score, info.acceptance, info.exponent))
    for fused, arrays in zip(*found, strict=True):
        np.testing.assert_allclose(fused, arrays, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [n for n, e in build().items() if e.point is not None])
def test_both_loops_agree_on_every_energy(name):
    target = build()[name]
    start = 0.3 * np.random.default_rng(0).normal(size=(9, *target.shape)) + 0.2
    found = []
    for which in ("fused", "batched"):
        engine = Engine(target, ps.MALA(0.02, metric="identity"), which)
        state = engine.start(start, 3)
        engine.advance(state, 5)
        found.append(state.x)
    np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("which", ["fused", "batched"])
def test_threads_and_pieces_do_not_matter(name, which):
    target = ps.GaussianMixture([1, 3], np.eye(4)[:2] * 3, 1.0)
    start = np.random.default_rng(0).normal(size=(70, 4))
    results = []
    for threads, pieces in ((1, [12]), (2, [12]), (3, [5, 1, 6])):
        with ps.threads(threads):
            engine = Engine(target, EVERY[name].tuned(metric="identity"), which)
            state, tally = engine.start(start, 3), np.zeros((3, 70))
            for piece in pieces:
                engine.advance(state, piece, tally=tally)
            results.append((state.x, state.energy, state.momentum, tally))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_chains_do_not_depend_on_their_number():
    target = ps.Gaussian(0.0, 1.0, dim=3)
    start = np.random.default_rng(0).normal(size=(100, 3))
    loop = Loop(target, "hamiltonian")
    many, few = loop.start(start, 1), loop.start(start[:7], 1)
    for state in (many, few):
        loop.advance(state, ps.MALA(0.4).moves(), Identity(), 10)
    np.testing.assert_array_equal(many.x[:7], few.x)


def test_trajectories_are_jittered_evenly():
    lengths = [moves.n_leaps.py_func(6.0, i) for i in range(1100)]
    assert set(lengths) == set(range(3, 10))
    assert np.abs(np.bincount(lengths)[3:] - 1100 / 7).max() <= 2
    for length in (1, 2, 3, 5, 7.5):
        assert abs(np.mean([moves.n_leaps.py_func(length, i) for i in range(1000)]) - length) < 0.02


def test_large_states_use_pieces_of_cells():
    target = ps.Gaussian(0.0, 1.0, dim=10_001)  # more than two pieces, and not a multiple of 4
    engine = Engine(target, ps.MALA(0.01, metric="identity"))
    assert engine.loop.name == "batched"
    start = np.random.default_rng(0).normal(size=(3, 10_001))
    results = []
    for threads in (1, 2):
        with ps.threads(threads):
            state = engine.start(start, 3)
            engine.advance(state, 3)
            results.append(state.x)
    np.testing.assert_array_equal(*results)
