"""The second opinion: replica exchange gives the exact log Z, with errors that hold, and says when not."""

import numpy as np
import pytest

import physscore as ps
from physscore.evidence.tempering import stepping_stone
from physscore.systems import system


def estimate(name, seed, **settings):
    found = system(name)
    run = ps.estimate_log_z(found.target, found.reference, method="tempering", seed=seed, **settings)
    return run, (run.log_z - found.log_z) / run.error


def rms(z):
    return float(np.sqrt(np.mean(np.square(z))))


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("mixture", 10), ("gaussian", 8), ("phi4-4x4", 10), ("field-16x16", 6)],
)
def test_exact_log_z(name, seeds):
    hold(*zip(*(estimate(name, seed, particles=512) for seed in range(seeds)), strict=True))


def test_exact_log_z_of_spins():
    """At the critical coupling; 8 x 8 of them are among the long runs."""
    target = ps.Ising((4, 4), coupling=0.4406868)
    runs = [ps.estimate_log_z(target, method="tempering", particles=512, seed=seed) for seed in range(10)]
    hold(runs, [(run.log_z - target.exact_log_z()) / run.error for run in runs])


def hold(runs, z):
    seeds = len(z)
    assert 1 - 2.5 / np.sqrt(2 * seeds) < rms(z) < 1.15 + 2.5 / np.sqrt(2 * seeds)
    assert np.abs(z).max() < 5
    assert sum(run.verdict != "pass" for run in runs) <= 1


@pytest.mark.long
@pytest.mark.parametrize("name", ["mixture", "gaussian", "phi4-4x4", "ising-8-0.4406868", "field-16x16"])
def test_calibration(name):
    runs, z = zip(*(estimate(name, seed) for seed in range(100)), strict=True)
    assert 0.8 < rms(z) < 1.25
    exact = system(name).log_z
    covered = np.mean([low <= exact <= high for low, high in (run.interval() for run in runs)])
    assert 0.9 <= covered <= 1
    assert sum(run.verdict != "pass" for run in runs) <= 2


@pytest.mark.parametrize("name", ["mixture", "field-16x16"])
def test_agrees_with_annealing(name):
    found = system(name)
    there = ps.estimate_log_z(found.target, found.reference, seed=5)
    run, _ = estimate(name, 5)
    assert abs(run.log_z - there.log_z) < 4 * np.hypot(run.error, there.error)
    assert run.error < 2 * there.estimates["BAR there"][1]  # replica exchange has no control variates
    assert run.evaluations < 2 * there.evaluations
    assert run.barrier == pytest.approx(there.barrier, rel=0.2)


def test_what_comes_with_it():
    run, _ = estimate("mixture", 1, particles=512)
    ladders, kept = run.log_weights.shape
    assert run.method == "tempering"
    assert len(run.islands) == ladders == 32
    assert run.samples.shape == (ladders * kept, 2)
    assert run.betas[0] == 0
    assert run.betas[-1] == 1
    assert len(run.rungs) == len(run.betas) - 1 == len(run.ess) - 1
    assert run.rungs.sum() == pytest.approx(run.log_z)
    assert run.islands.mean() == pytest.approx(run.log_z)
    assert np.logaddexp.reduce(run.log_weights, axis=None) == pytest.approx(0.0)
    for leg in ("forward", "reverse"):
        assert run.work[leg].shape == (ladders, 32)
    assert set(run.estimates) == {"BAR", "forward", "reverse", "stepping stone"}
    assert "tempering" in str(run.summary())


def test_samples_are_from_the_target():
    run, _ = estimate("mixture", 2, particles=4000)
    target = system("mixture").target
    exact = target.sample(20000, seed=0)
    by_mode = [((x[:, 0] > 0) * 2 + (x[:, 1] > 0)).astype(int) for x in (run.samples, exact)]
    shares = [np.bincount(part, minlength=4) / len(part) for part in by_mode]
    assert np.abs(shares[0] - shares[1]).max() < 0.05


def test_work_fulfils_crooks_relation():
    """The states of a ladder are independent at any time: the log weights of all rungs add up to a work whose
    distributions there and back cross at log Z."""
    run, _ = estimate("mixture", 3, particles=4000)
    exact = system("mixture").log_z
    forward, reverse = run.work["forward"].ravel(), run.work["reverse"].ravel()
    assert np.exp(forward).mean() == pytest.approx(np.exp(exact), abs=0.15)
    assert forward.mean() < exact < reverse.mean()
    low, high = np.mean(forward > exact), np.mean(reverse > exact)
    assert low < 0.5 < high


def test_stepping_stones_of_normal_energies():
    """Energies of y^2 / 2 on normal densities: log Z of each rung is known."""
    betas = np.array([0.0, 0.4, 1.0])
    y = np.random.default_rng(0).normal(size=(3, 16, 4000)) / np.sqrt(1 + betas)[:, None, None]
    for sign in (1, -1):
        found = stepping_stone(betas, 0.5 * y**2, sign)
        assert abs(found.value + 0.5 * np.log(2)) < 4 * found.error
        assert found.error < 0.01


def test_a_run_is_its_seed():
    first, again, other = (estimate("mixture", seed, particles=256)[0] for seed in (4, 4, 5))
    assert first.log_z == again.log_z != other.log_z
    with ps.threads(1):
        alone, _ = estimate("mixture", 4, particles=256)
    assert alone.log_z == first.log_z
    np.testing.assert_array_equal(alone.samples, first.samples)


def test_target_error_is_met():
    run, z = estimate("gaussian", 6, particles=256, target_error=0.05)
    assert run.error <= 0.05
    assert abs(z) < 4


def test_few_temperatures_are_seen():
    run, _ = estimate("field-16x16", 7, particles=64, schedule=2)
    assert run.verdict != "pass"
    assert any("swaps are rejected" in reason for reason in run.reasons)
    assert any("from the reference to the target" in reason for reason in run.reasons)


def test_wrong_scores_are_seen():
    wrong = ps.from_functions(
        energy=lambda x: 0.5 * (x**2).sum(1), score=lambda x: -1.3 * x, shape=3, name="wrong"
    )
    run = ps.estimate_log_z(
        wrong, ps.Gaussian(0.0, 4.0, dim=3), method="tempering", particles=256, kernel=ps.MALA()
    )
    assert run.verdict == "failed"
    assert any("score does not fit" in reason for reason in run.reasons)


def test_targets_with_bounds():
    prior = ps.Parameters(a=ps.Uniform(0.0, 1.0), b=ps.Uniform(-1.0, 3.0))
    posterior = prior + ps.GaussianNoise([0.95, 0.0], [0.1, 0.2])
    run = ps.estimate_log_z(posterior, method="tempering", particles=1024, seed=1)
    from scipy.stats import norm

    inside = norm.cdf(1.0, 0.95, 0.1) - norm.cdf(0.0, 0.95, 0.1)
    exact = np.log(inside) + np.log(1 / 4)
    assert abs(run.log_z - exact) < 4 * run.error
    assert run.verdict == "pass"


def test_a_finished_file_is_returned(tmp_path):
    path = tmp_path / "z.h5"
    found = system("mixture")
    settings = {"method": "tempering", "particles": 256, "seed": 3, "checkpoint": path}
    first = ps.estimate_log_z(found.target, found.reference, **settings)
    again = ps.estimate_log_z(found.target, found.reference, resume=True, **settings)
    assert again.log_z == first.log_z
    assert again.method == "tempering"
    np.testing.assert_array_equal(again.work["forward"], first.work["forward"])
    with pytest.raises(ps.InputError, match="exists"):
        ps.estimate_log_z(found.target, found.reference, **settings)


def test_unadjusted_kernels_are_refused():
    with pytest.raises(ps.InputError, match="never rejects: replica exchange"):
        estimate("mixture", 0, kernel=ps.ULA())


def test_scores_that_are_no_gradients_are_seen():
    curl = ps.from_functions(score=lambda x: 0.3 * np.stack([-x[:, 1], x[:, 0]], axis=1) - x, shape=2)
    run = ps.estimate_log_z(
        curl, ps.Gaussian(0.0, 2.0, dim=2), method="tempering", particles=256, kernel=ps.MALA()
    )
    assert run.verdict == "failed"
    assert any("around loops" in reason for reason in run.reasons)
