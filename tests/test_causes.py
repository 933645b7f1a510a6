"""What a run that is not to be trusted says of why: bounds, biased steps, energies that are no numbers,
random, rounded, or not those of their score."""

import numpy as np
import pytest

import physscore as ps

A = np.diag([1.0, 4.0])
RUN = {"chains": 16, "steps": 200, "seed": 3}


def energy(x):
    return 0.5 * np.einsum("ni,ij,nj->n", x, A, x)


def own(energy=energy, score=lambda x: -x @ A):
    return ps.from_functions(energy=energy, score=score, shape=2)


def test_a_step_with_a_large_bias_is_named():
    """ULA of step 1 samples a normal law of variance 2 instead of 1."""
    target = ps.from_functions(score=lambda x: -x, shape=2)
    run = ps.sample(target, ps.ULA(step_size=1.0), chains=100, steps=500, seed=1)
    assert run.std == pytest.approx(np.sqrt(2), rel=0.05)
    assert len(run.mixing.reasons) == 1
    assert run.mixing.reasons[0].startswith("is biased: the step is so long that variances are off by some ")
    assert "take a shorter one, or MALA" in str(run)
    assert float(run.mixing.reasons[0].split("some ")[1].split("%")[0]) == pytest.approx(100, abs=40)


@pytest.mark.parametrize("step", [{"step_size": 0.1}, {"bias": 0.5}])
def test_a_small_bias_or_one_that_was_asked_for_is_none(step):
    """It is judged by the squares of the last scores: one in 1000 of the runs may be called biased."""
    target = ps.from_functions(score=lambda x: -x, shape=1)
    kernel = ps.ULA(**step)
    runs = [ps.sample(target, kernel, chains=4, steps=5, warmup=20, seed=seed) for seed in range(30)]
    biased = [reason for run in runs for reason in run.mixing.reasons if "biased" in reason]
    assert len(biased) <= 1  # of 30 at a rate of 1 in 1000: two or more once in 2000 times


@pytest.mark.parametrize("kernel", [ps.MALA(), ps.HMC(leapfrogs=3)])
def test_an_energy_that_is_not_a_number_is_named(kernel):
    def half(x):
        return np.where(x[:, 0] > 0, 0.5 * (x**2).sum(1), np.nan)

    with pytest.warns(UserWarning, match="chains diverged: the energy is not a number at"):
        run = ps.sample(own(half, lambda x: -x), kernel, init=np.ones(2), **RUN)
    assert "return inf where there is no density; a smaller step does not help" in str(run)


def test_a_step_that_is_too_long_is_not_called_that():
    """Its trajectories end where x^4 - x^2 is not a number, but run away before."""

    def quartic(x):
        return (x**4 - x**2).sum(1)

    target = own(quartic, lambda x: 2 * x - 4 * x**3)
    with pytest.warns(UserWarning, match="their step is too long"):
        run = ps.sample(target, ps.HMC(1.5, leapfrogs=20, metric="identity"), warmup=0, **RUN)
    assert not run.causes


@pytest.mark.parametrize(("score", "said"), [
    (lambda x: x @ A, "all signs are reversed: return -grad E"),
    (lambda x: -30 * x @ A, "30 times"),
])  # fmt: skip
def test_a_wrong_score_is_named(score, said):
    run = ps.sample(own(score=score), ps.MALA(), **RUN)
    assert not run.mixing.passed
    assert "the score is wrong at component" in run.mixing.reasons[-1]
    assert said in run.mixing.reasons[-1]


def test_a_class_and_a_term_of_a_sum_are_looked_at():
    class Wrong(ps.Energy):
        shape = (2,)

        def energy_and_score(self, x):
            return energy(x), x @ A

    run = ps.sample(ps.Gaussian(0.0, 3.0, dim=2) + Wrong(), ps.MALA(), **RUN)
    assert "all signs are reversed" in run.mixing.reasons[-1]


def test_a_random_energy_is_named():
    rng = np.random.default_rng(0)
    run = ps.sample(own(lambda x: energy(x) + 3 * rng.normal(size=len(x))), ps.MALA(), **RUN)
    assert "the energy is random" in run.mixing.reasons[-1]


def test_an_energy_that_is_rounded_is_named():
    run = ps.sample(own(lambda x: 1e17 + energy(x)), ps.MALA(), **RUN)
    assert run.mixing.reasons[-1].startswith("the energy is 1e+17 and more, which rounds it")


def test_bounds_are_named_where_a_kernel_has_none():
    likelihood = ps.from_functions(energy=lambda x: 0.5 * (x**2).sum(1), score=lambda x: -x, shape=1)
    posterior = ps.Parameters(u=ps.Uniform(0, 1)) + likelihood
    slow = ps.sample(posterior, ps.MALA(1e-4, metric="identity"), warmup=0, **RUN)
    assert "the prior has bounds, at which MALA rejects: HMC(harmonic=True)" in slow.mixing.reasons[-1]
    inside = ps.sample(posterior, ps.CrankNicolson(1e-4), warmup=0, **RUN)
    assert not inside.mixing.passed
    assert "bounds" not in str(inside)


def test_a_run_that_has_mixed_names_nothing():
    run = ps.sample(own(), ps.MALA(), chains=64, steps=500, seed=1)
    assert run.mixing == (True, [])


def test_a_run_without_draws_has_no_chains_that_diverged():
    run = ps.sample(own(), ps.MALA(0.1, metric="identity"), chains=4, steps=5, warmup=0)
    run.draws, run.energies = run.draws[:0], run.energies[:0]
    assert run.n_divergent == 0


def test_iterate_has_the_default_kernel():
    states = [next(ps.iterate(own(), kernel, warmup=50, seed=1))[0] for kernel in (None, ps.MALA())]
    np.testing.assert_array_equal(*states)


def test_a_diagnosis_does_not_lose_a_run():
    """An energy that raises far from where chains go is not asked there, or what it raises is not heard."""

    def narrow(x):
        if len(x) != 16:
            raise ValueError("so many states only")
        return energy(x)

    run = ps.sample(own(narrow, lambda x: x @ A), ps.MALA(), **RUN)
    assert not run.mixing.passed
    assert run.causes == []


@pytest.mark.parametrize("kernel", [ps.HMC(), ps.MALA()])
def test_light_tails_are_trusted(kernel):
    """A few steps of the right length run away into x^4: 3 of 10 such runs of HMC passed, and 7 of MALA."""
    target = ps.from_functions(energy=lambda x: x[:, 0] ** 4 / 4, score=lambda x: -(x**3), shape=1)
    run = ps.sample(target, kernel, chains=100, steps=1000, seed=1)
    assert run.mixing.passed
    assert run.divergent.mean() / 1000 < 0.01  # which trajectories may reach; 2 to 3% before
    np.testing.assert_allclose(run.std, 0.8222, rtol=0.02)  # 5 standard errors of 5000 draws
