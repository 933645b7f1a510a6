"""What samplers refuse: each with one sentence that names the argument, its value and what would be right."""

import math

import numpy as np
import pytest

import physscore as ps

TARGET = ps.Gaussian(0.0, 1.0, dim=2)


def undefined(x, params, gradient_out):
    return missing * x[0]  # noqa: F821


def mistyped(x, params, gradient_out):
    gradient_out[0] = math.sin("x")
    return x[0]


REFUSED = {
    "score of the wrong shape": (
        lambda: ps.sample(
            ps.from_functions(energy=TARGET.energy, score=lambda x: -x[:, 0], shape=2), chains=4096
        ),
        r"score\(x\) returned \(4096,\), expected \(4096, 2\): one vector a chain; return -grad E",
    ),
    "energy of the wrong shape": (
        lambda: ps.sample(ps.from_functions(energy=lambda x: x, score=TARGET.score, shape=2), chains=8),
        r"energy\(x\) returned \(8, 2\), expected \(8,\): one number a chain",
    ),
    "energy nan at the start": (
        lambda: ps.sample(ps.from_functions(energy=lambda x: x[:, 0] * np.nan, score=TARGET.score, shape=2)),
        r"energy is nan at the start of chain 0 \(16 of 16 chains\): give init states",
    ),
    "a name that is not there": (
        lambda: ps.compiled(undefined, dim=2),
        "undefined does not compile: .*'missing'",
    ),
    "does not compile": (
        lambda: ps.compiled(mistyped, dim=2),
        r"mistyped does not compile: .*_errors.py\", line \d+: gradient_out.0. = math.sin\(\"x\"\)",
    ),
    "other arguments": (
        lambda: ps.compiled(lambda x: x, dim=2),
        r"does not take \(x, params, gradient_out\)",
    ),
    "no energy": (
        lambda: ps.sample(ps.from_functions(score=np.negative, shape=2)),
        "from_functions has a score but no energy, which MALA needs.*ULA",
    ),
    "metric not positive": (lambda: ps.Dense([[1.0, 2.0], [2.0, 1.0]]), "metric.*not positive definite"),
    "variance negative": (
        lambda: ps.Diagonal([1.0, -1.0]),
        "metric is not positive definite: variance 1 is -1",
    ),
    "metric of another size": (
        lambda: ps.sample(TARGET, ps.MALA(metric=ps.Diagonal([1.0, 1.0, 1.0]))),
        "metric has 3 dimensions: the state has 2",
    ),
    "metric's name": (lambda: ps.MALA(metric="full"), "metric is 'full': it must be one of identity"),
    "metric not square": (lambda: ps.Dense([1.0, 2.0]), r"metric has shape \(2,\)"),
    "fourier of a vector": (
        lambda: ps.sample(ps.Gaussian(0.0, 1.0, dim=1), ps.MALA(metric="fourier")),
        r'metric is "fourier", for fields of 1 to 3 dimensions: the state has \(1,\)',
    ),
    "negative step": (lambda: ps.MALA(-0.1), "step_size is -0.1: it must be a positive number or"),
    "step in words": (lambda: ps.HMC("big"), "step_size is 'big'"),
    "bias": (lambda: ps.ULA(bias=0.0), "bias is 0.0: it must be a positive number"),
    "friction": (lambda: ps.Underdamped(friction=-1.0), "friction is -1.0"),
    "leapfrogs": (lambda: ps.HMC(leapfrogs=0.5), "leapfrogs is 0.5: a trajectory has at least 1 step"),
    "leapfrogs without end": (lambda: ps.HMC(leapfrogs=1e300), r"leapfrogs is 1e\+300: .* 1,000,000 at most"),
    "unstable": (lambda: ps.ula_covariance(np.eye(2), 3.0), "step_size is 3.0: ULA is stable.*below 2"),
    "nothing to tune with": (
        lambda: ps.sample(TARGET, warmup=0),
        "warmup is 0, but the kernel is to be tuned",
    ),
    "thin": (lambda: ps.sample(TARGET, steps=10, thin=11), "thin is 11 and steps 10: nothing would be kept"),
    "chains": (lambda: ps.sample(TARGET, chains=0), "chains is 0: it must be a whole number of at least 1"),
    "steps": (lambda: ps.sample(TARGET, steps=1.5), "steps is 1.5"),
    "steps in words": (lambda: ps.sample(TARGET, steps="many"), "steps is 'many'"),
    "seed": (lambda: ps.sample(TARGET, seed=-1), "seed is -1"),
    "dtype": (lambda: ps.sample(TARGET, dtype="int32"), "dtype is"),
    "memory": (lambda: ps.sample(TARGET, steps=10**10, chains=1000), "memory"),
    "init's shape": (
        lambda: ps.sample(TARGET, chains=3, init=np.zeros((4, 2))),
        r"init has shape \(4, 2\): it must be \(2,\) or \(3, 2\)",
    ),
    "init not finite": (lambda: ps.sample(TARGET, init=[0.0, np.inf]), "init of chain 0 is not finite"),
    "init in words": (
        lambda: ps.sample(TARGET, init=["a", "b"]),
        "init has the type .*: it must hold numbers",
    ),
    "no prior": (
        lambda: ps.sample(ps.Ring(), ps.CrankNicolson()),
        r"Ring.* has no prior: write it as prior \+ likelihood",
    ),
    "kernel": (lambda: ps.sample(TARGET, "mala"), "kernel is 'mala': it must be one such as MALA"),
    "kernel of iterate": (lambda: next(ps.iterate(TARGET, "mala")), "kernel is 'mala'"),
    "chains of iterate": (lambda: next(ps.iterate(TARGET, ps.MALA(0.1), chains=0)), "chains is 0"),
    "target": (lambda: ps.sample(np.sin), "target is a ufunc: it must be an Energy or a Score"),
    "step by step, not tuned": (
        lambda: ps.MALA().step(TARGET, ps.MALA().init(TARGET, np.zeros((2, 2)))),
        'step_size is "auto": give a number',
    ),
    "step by step, shape": (
        lambda: ps.MALA(0.1).init(TARGET, np.zeros(2)),
        r"init has shape \(2,\): it must be \(chains, 2\)",
    ),
    "step by step, whitened": (
        lambda: ps.CrankNicolson(0.1).init(TARGET, np.zeros((1, 2))),
        "works in other coordinates: use sample or iterate",
    ),
    "flat": (
        lambda: ps.sample(
            ps.from_functions(energy=lambda x: 0 * x[:, 0], score=lambda x: 0 * x, shape=2), ps.ULA()
        ),
        'step_size is "auto", but the curvature .* give a number',
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence(name):
    function, message = REFUSED[name]
    with pytest.raises(ps.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)


HALF = ps.Parameters(x=ps.HalfNormal(10.0))
WALLS = {
    "two priors": HALF + ps.Gaussian([0.6], [0.09]),
    "a power": 2.0 * HALF + ps.GaussianNoise([0.6], 0.3),
    "a score": HALF + ps.from_functions(score=lambda x: -(x - 0.6) / 0.09, shape=1),
    "counts": ps.Gaussian([0.0], [0.3]) + ps.PoissonCounts([3], 3.0, link="linear"),
}


@pytest.mark.parametrize("name", WALLS)
def test_walls_are_seen_wherever_they_are(name):
    with pytest.raises(ps.InputError, match="has bounds, which ULA steps over"):
        ps.sample(WALLS[name], ps.ULA(0.02), chains=2, steps=4, init=[0.5])


def test_draws_beyond_a_wall_are_no_success():
    energy = ps.from_functions(
        energy=lambda x: np.where(x[:, 0] > -1.5, 0.5 * x[:, 0] ** 2, np.inf), score=lambda x: -x, shape=1
    )
    run = ps.sample(energy, ps.ULA(0.1), chains=4, steps=400, warmup=10, init=[0.5])
    assert not run.mixing.passed
    assert "where the density is 0" in str(run.mixing)


def test_a_start_at_the_edge_of_a_prior():
    target = ps.Parameters(a=ps.Uniform(0.0, 1.0)) + ps.GaussianNoise([0.5], 1.0)
    with pytest.raises(ps.InputError, match="at the edge of the prior"):
        ps.sample(target, ps.CrankNicolson(0.5), init=[0.0], chains=2, steps=4, warmup=0)


def test_coordinates_that_stay_are_swept_too():
    grid = ps.Grid((4, 4), 4.0)
    field = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(-1.0, 1.0))
    target = field + ps.GaussianNoise(field.sample(1, seed=1)[0], 1.0)
    run = ps.sample(target, ps.AutoMALA(0.1, sweep=True), chains=2, steps=40, warmup=0)
    assert np.abs(run.draws.mean(axis=(2, 3))).max() < 1e-12
    assert run.draws.std() > 0.1


def test_a_metric_that_is_not_measured_is_refused():
    for kernel in (ps.MALA(0.1, "dense"), ps.ULA(0.1, "diagonal")):
        with pytest.raises(ps.InputError, match="warmup is 0, but the metric '.*' is to be measured: give"):
            ps.sample(TARGET, kernel, warmup=0)
        with pytest.raises(ps.InputError, match="warmup is 0, but the metric"):
            next(ps.iterate(TARGET, kernel))
    assert ps.sample(TARGET, ps.MALA(0.1), steps=4, warmup=0).draws.shape[0] == 4  # what it has by itself
    field = ps.GaussianRandomField(ps.Grid((4, 4), 1.0), lambda k: 1 / k)
    ps.sample(field, ps.HMC(0.1, "fourier", leapfrogs=2), steps=4, warmup=0)  # known from the prior


def test_a_component_that_the_metric_keeps_still_is_not_judged():
    kernel = ps.MALA(0.5, ps.Diagonal([1.0, 0.0]))
    run = ps.sample(ps.Gaussian(0.0, 1.0, dim=2), kernel, chains=64, steps=400, init=[0.0, 0.5])
    assert (run.draws[..., 1] == 0.5).all()
    assert run.mixing.passed
    run.draws[..., 0] = 1.0
    del run.mixing, run.r_hat
    assert run.mixing.reasons == ["all draws are the same at component (0,): nothing has moved"]


def test_guidance_hands_on_walls():
    inside = ps.Uniform(0.0, 1.0)
    for energy in (inside, inside + ps.Gaussian(0.0, 1.0, dim=1)):
        guided = ps.Guidance(energy, 1.0)
        with pytest.raises(ps.InputError, match="has bounds, which ULA steps over"):
            ps.sample(guided + ps.Gaussian(0.0, 1.0, dim=1), ps.ULA(0.01), init=[0.5])
    assert not ps.Guidance(ps.Gaussian(0.0, 1.0, dim=1), 1.0).has_walls


def test_large_energies_in_single_precision():
    class Own(ps.Energy):
        shape = (3,)

        def energy_and_score(self, x):
            return (constant + 0.5 * (x**2).sum(axis=1)).astype(dtype), -x

    options = {"chains": 4, "steps": 4, "warmup": 0}

    def made():
        return ps.from_functions(energy_and_score=Own().energy_and_score, shape=3)

    targets = [Own(), made(), ps.Gaussian(0.0, 1.0, dim=3) + made()]
    for target in targets:
        constant, dtype = 1e7, np.float32
        with pytest.warns(UserWarning, match="energies are float32 and above 8e5"):
            ps.sample(target, ps.MALA(0.1), **options)
        for constant, dtype in ((1e7, np.float64), (1e5, np.float32)):  # noqa: B007
            ps.sample(target, ps.MALA(0.1), **options)


@pytest.mark.parametrize("dim", [1, 2])
def test_trial_steps_far_out_are_no_large_energies(dim):
    """HMC was warned of in 10 of 10 runs; a warning is an error in the tests."""

    class Own(ps.Energy):
        shape = (dim,)

        def energy_and_score(self, x):
            return (0.5 * (x**2).sum(axis=1)).astype(np.float32), -x

    made = ps.from_functions(energy_and_score=Own().energy_and_score, shape=dim)
    apart = ps.from_functions(energy=Own().energy, score=Own().score, shape=dim)
    for seed in range(3):
        for target in (Own(), 0.5 * Own(), made, apart):
            ps.sample(target, ps.HMC(), chains=16, steps=50, seed=seed)


def test_large_energies_of_a_module_in_single_precision():
    torch = pytest.importorskip("torch")

    class Normal(torch.nn.Module):
        def __init__(self, constant, dtype):
            super().__init__()
            self.constant = torch.nn.Parameter(torch.tensor(constant, dtype=dtype))

        def forward(self, x):
            return self.constant + 0.5 * (x**2).sum(dim=1)

    x = np.ones((4, 3))
    target = ps.from_torch(Normal(1e7, torch.float32), 3)
    for call in (target.energy, target.energy_and_score):
        with pytest.warns(UserWarning, match="energies are float32 and above 8e5"):
            call(x)
    ps.from_torch(Normal(1e7, torch.float64), 3).energy(x)
    ps.from_torch(Normal(1e5, torch.float32), 3).energy(x)
