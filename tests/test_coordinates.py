"""Targets that move in other coordinates than their own, through every sampler; and sums of energies.

A z-score beyond 5.5 happens by chance once in 2.6e7 numbers; here are fewer than 1000.
"""

import pickle

import numba
import numpy as np
import pytest
from scipy import stats

import physscore as ps
from physscore.kernels.loops import Loop

GRID = ps.Grid((8, 7), 10.0)
SPECTRUM = ps.spectra.PowerLaw(index=-1.0, amplitude=1.0)
FIELD = ps.GaussianRandomField(GRID, SPECTRUM)
POSTERIOR = FIELD + ps.GaussianNoise(FIELD.sample(1, seed=3)[0], 0.5 * np.sqrt(FIELD.variance))


@numba.njit
def parabola(x, params, gradient_out):
    gradient_out[0] = params[0] * x[0]
    return 0.5 * params[0] * x[0] ** 2


def check(run, mean):
    assert np.abs((run.mean - mean) / run.error).max() < 5.5


@pytest.fixture(scope="module")
def wiener():
    """Return the mean of the posterior: its noise is alike in all cells."""
    half = FIELD.unwhiten(np.eye(GRID.n_cells).reshape(-1, *GRID.shape)).reshape(-1, GRID.n_cells)
    prior, noise = half.T @ half, 0.25 * FIELD.variance * np.eye(GRID.n_cells)
    data = POSTERIOR.likelihood.data.ravel()
    return (prior @ np.linalg.solve(prior + noise, data)).reshape(GRID.shape)


def test_fields_are_tempered(wiener):
    check(ps.temper(POSTERIOR, chains=32, steps=40, warmup=30, swap_every=2), wiener)


def test_lognormal_fields_are_tempered_and_sampled():
    target = ps.LognormalField(GRID, SPECTRUM) + ps.PoissonCounts(np.full(GRID.shape, 3), 3.0)
    tempered = ps.temper(target, chains=4, steps=8, warmup=10)
    assert tempered.draws.min() > -1
    assert ps.sample(ps.LognormalField(GRID, SPECTRUM), chains=4, steps=20).draws.min() > -1


@pytest.mark.parametrize(
    ("factor", "kernel"),
    [(1.0, ps.MALA(metric="fourier")), (0.5, ps.MALA()), (0.5, ps.CrankNicolson())],
)
def test_mean_of_a_lognormal_field_stays_fixed(factor, kernel):
    grid = ps.Grid((6,), 6.0)
    prior = ps.LognormalField(grid, lambda k: 0.1 / k)
    data = prior.sample(1, seed=99)[0]
    target = ps.GaussianNoise(data, 0.15) + factor * prior
    run = ps.sample(target, kernel, chains=64, steps=200, seed=3)
    assert np.abs(prior.to_gaussian(run.draws.reshape(-1, 6)).mean(axis=1)).max() < 1e-12
    # On the fields whose g has the mean 0, prior^factor is the law of g with variances 1 / factor.
    g = prior.gaussian.sample(100_000, seed=1) / np.sqrt(factor)
    draws = np.exp(g - prior.shift) - 1
    weights = np.exp(-0.5 * (((draws - data) / 0.15) ** 2).sum(axis=1))
    weights /= weights.sum()
    for moment in (lambda x: x, np.square):
        exact = weights @ moment(draws)
        error = np.sqrt(weights**2 @ (moment(draws) - exact) ** 2)
        means = moment(run.draws).mean(axis=0)
        z = (means.mean(axis=0) - exact) / np.hypot(error, means.std(axis=0) / np.sqrt(len(means) - 1))
        assert np.abs(z).max() < 5.5


def test_lognormal_fields_that_cannot_be_moved_are_refused():
    prior = ps.LognormalField(GRID, SPECTRUM)
    with pytest.raises(
        ps.InputError, match=r'random fields move in their Fourier modes, so it must be "four'
    ):
        ps.sample(prior, ps.MALA(metric="dense"))
    with pytest.raises(ps.InputError, match=r"it must have \d+ variances, for the modes"):
        ps.Fourier(GRID, np.ones(GRID.n_cells))
    with pytest.raises(ps.InputError, match="which fix different means: leave out one"):
        ps.sample(prior + FIELD)
    with pytest.raises(ps.InputError, match="works in other coordinates"):
        ps.MALA(0.1, "identity").init(0.5 * prior, np.zeros((1, *GRID.shape)))


def test_bounded_priors_are_tempered_in_other_coordinates():
    target = ps.Parameters(a=ps.Uniform(0.0, 1.0)) + ps.GaussianNoise([0.05], 0.2)
    exact = stats.truncnorm.mean(-0.25, 4.75, 0.05, 0.2)
    check(ps.temper(target, kernel=ps.CrankNicolson(), chains=16, steps=200, warmup=100), exact)
    check(ps.sample(target, chains=64, steps=500), exact)


def test_fields_are_annealed():
    def at(sigma):
        return ps.GaussianRandomField(GRID, lambda k: SPECTRUM(k) * (1 + sigma**2))

    draws = ps.annealed_langevin(at, [1.0, 0.1], chains=3, steps=5, step_size=0.1, denoise=False)
    assert draws.shape == (3, 8, 7)
    assert np.abs(draws.mean(axis=(1, 2))).max() < 1e-12 * np.abs(draws).max()  # k = 0 stays fixed


@pytest.mark.parametrize("kernel", [ps.ULA(), ps.Underdamped(), ps.MALA(), ps.HMC(), ps.AutoMALA()])
def test_fixed_modes_stay_fixed(kernel):
    run = ps.sample(POSTERIOR, kernel, chains=4, steps=20, warmup=20)
    np.testing.assert_allclose(run.draws.mean(axis=(2, 3)), 0, atol=1e-12)


@pytest.mark.parametrize("kernel", [ps.ULA(), ps.ULA(metric="fourier"), ps.Underdamped(metric="fourier")])
def test_a_field_moves_alike_where_the_likelihood_has_a_score_only(kernel):
    likelihood = POSTERIOR.likelihood
    score = ps.from_functions(score=likelihood.score, shape=GRID.shape)
    alone, both = (
        ps.sample(FIELD + term, kernel, chains=4, steps=20, warmup=20, init=np.zeros(GRID.shape), seed=2)
        for term in (score, likelihood)
    )
    assert np.abs(alone.draws.mean(axis=(2, 3))).max() < 1e-12  # k = 0 is fixed
    if kernel.metric == "identity":  # the other begins with the curvature of a likelihood that it knows
        assert np.array_equal(alone.draws, both.draws)


def test_a_field_with_a_score_only_has_its_posterior(wiener):
    score = ps.from_functions(score=POSTERIOR.likelihood.score, shape=GRID.shape)
    check(ps.sample(FIELD + score, ps.ULA(0.05, metric="fourier"), chains=64, steps=1000, seed=1), wiener)
    check(ps.sample(POSTERIOR, ps.HMC(metric="fourier"), chains=64, steps=50, seed=2), wiener)


def test_bounds_are_not_stepped_over():
    target = ps.Parameters(a=ps.Uniform(0.0, 1.0)) + ps.GaussianNoise([0.05], 0.2)
    for kernel in (ps.ULA(), ps.Underdamped()):
        with pytest.raises(ps.InputError, match="has bounds, which .* steps over"):
            ps.sample(target, kernel)


def test_metric_of_one_dimension_counts():
    target = ps.Gaussian(0.0, 1e-4, dim=1)
    kernel = ps.MALA(0.5, metric=ps.Diagonal([1e-4]))
    found = []
    for which in ("fused", "batched"):
        loop = Loop(target, "hamiltonian", which)
        state = loop.start(target.sample(50, seed=1), 2)
        loop.advance(state, kernel.moves(), kernel.metric, 5)
        found.append(state.x)
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_finished_file_of_other_params_is_refused(tmp_path):
    def draw(precision):
        target = ps.compiled(parabola, dim=1, params=[precision])
        return ps.sample(target, chains=4, steps=50, output=tmp_path / "run.h5", resume=True)

    first = draw(1.0)
    np.testing.assert_array_equal(draw(1.0).draws[...], first.draws[...])
    with pytest.raises(ps.InputError, match="belongs to another job"):
        draw(100.0)


def test_interrupted_run_stays_incomplete_in_a_file(tmp_path):
    run = ps.sample(FIELD, chains=2, steps=4)
    run.complete = False
    ps.save(tmp_path / "run.h5", run)
    assert not ps.load(tmp_path / "run.h5").complete


def test_small_factors_are_kept():
    x = np.ones((1, 1))
    energy = ps.Gaussian(0.0, 1.0, dim=1)
    tiny = (1e-19 * energy) * 1e19
    np.testing.assert_allclose(tiny.energy(x), energy.energy(x))
    assert (0.1 * energy + 0.2 * energy + 0.7 * energy) is energy


def test_right_score_is_right_at_its_mode():
    assert ps.check_score(ps.Gaussian(0.0, 1.0, dim=2), [0.0, 0.0])
    assert not ps.check_score(
        ps.from_functions(energy=lambda x: (x**2).sum(1), score=lambda x: -2 * x + 1e-3, shape=2), [0.0, 0.0]
    )


def test_compiled_energy_survives_a_pickle():
    energy = ps.compiled(parabola, dim=1, params=[2.0])
    x = np.ones((3, 1))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(energy)).energy(x), energy.energy(x))


def test_energy_without_formulas_says_so():
    class Empty(ps.Energy):
        shape = (1,)

    with pytest.raises(
        NotImplementedError, match="Empty has to define energy_and_score, or energy and score"
    ):
        Empty().score(np.ones((1, 1)))
