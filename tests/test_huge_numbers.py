"""Numbers beyond what a machine can do are refused in words, before anything begins."""

import math
import re
from functools import partial

import numpy as np
import pytest
from commands import physscore

import physscore as ps
from physscore.workers import Workers

HUGE = 10**30


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"sample gaussian --workers {HUGE}", "--workers.*beyond"),
        ("sample gaussian --chains 100000 --workers 5000", "workers is 5000: it must be at most"),
        (f"sample gaussian --warmup {HUGE}", "--warmup.*beyond"),
        (f"sample gaussian --threads {HUGE}", "threads is 10+: it must be a whole number from 1 to"),
        ("sample gaussian -k hmc --leapfrogs 1e300", "--leapfrogs is 1e.300"),
        (f"logz gaussian --particles {HUGE}", "--particles.*beyond"),
        ("logz gaussian --particles 1000000000000", "--particles 1000000000000 needs .* GiB of memory"),
        (f"logz gaussian --temperatures {HUGE}", "--temperatures.*beyond"),
        ("logz gaussian --temperatures 1000000000", "--temperatures is 1000000000: .* 1 to 1,000,000"),
        ("logz gaussian --temperatures -1", "--temperatures is -1: it must be a number of steps from 1"),
        ("logz gaussian --processes 4", "--processes is 4: it is for --dry-run"),
        (f"field --grid 8 --box 100 -o f.h5 --threads {HUGE}", "threads is 10+: it must be"),
        ("field --grid 8 --box 100 -o f.h5 --spectrum camb:ns=nan", "ns is nan: .* must be finite"),
    ],
)
def test_huge_numbers_are_refused(command, message, tmp_path):
    done = physscore(*command.split(), cwd=tmp_path, code=2)
    assert re.search(message, done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n", [1.5, True, math.inf, math.nan, "4", None, 0, HUGE])
def test_threads_are_a_whole_number(n):
    with pytest.raises(ps.InputError, match="threads is .*: it must be a whole number"), ps.threads(n):
        pass


def test_threads_of_the_environment(monkeypatch):
    from physscore.arrays import n_threads

    monkeypatch.setenv("PHYSSCORE_THREADS", " 3 ")
    assert n_threads() == 3
    with ps.threads(np.int64(2)):
        assert n_threads() == 2
    monkeypatch.setenv("PHYSSCORE_THREADS", "1.5")
    with pytest.raises(ps.InputError, match="PHYSSCORE_THREADS is '1.5'"):
        n_threads()


def test_workers_do_not_fill_the_memory():
    with pytest.raises(ps.InputError, match="workers is 1000000: it must be at most"):
        Workers(10**6)


def test_a_learned_score_refuses_huge_numbers(tmp_path):
    from physscore import learning
    from physscore.learning.generate import generate

    x = np.random.default_rng(0).normal(size=(60, 2))
    for settings, message in (
        ({"seed": HUGE}, "seed is 10+"),
        ({"learning_rate": 1e300}, "learning_rate is 1e.300: it must be positive, and at most 1e.06"),
    ):
        with pytest.raises(ps.InputError, match=message):
            learning.train("mlp", x, steps=2, **settings)
    fit = learning.train("mlp", x, steps=2)
    for n, settings, message in (
        (HUGE, {}, "n is 10+: it must be at most"),
        (10**16, {}, "needs .* GiB of memory"),
        (2, {"steps": HUGE}, "steps is 10+: it must be at most"),
        (2, {"seed": HUGE}, "seed is 10+"),
    ):
        with pytest.raises(ps.InputError, match=message):
            generate(fit, n, tmp_path / "new.h5", **settings)
    assert not list(tmp_path.iterdir())

    for n in (HUGE, 10**16):
        with pytest.raises(ps.InputError, match="needs .* GiB of memory"):
            fit.sample(n, seed=0)


NORMAL = ps.Gaussian(0.0, 1.0, dim=2)
AT_MOST, MEMORY = "it must be at most 2.64 - 1", "needs .* GiB of memory"
MANY = {
    "steps": (lambda n: ps.sample(NORMAL, ps.MALA(0.3), steps=n, thin=n, warmup=0), AT_MOST, None),
    "warmup": (lambda n: ps.sample(NORMAL, ps.MALA(0.3), steps=5, warmup=n), AT_MOST, None),
    "warmup ": (lambda n: next(ps.iterate(NORMAL, ps.MALA(0.3), warmup=n)), AT_MOST, None),
    "chains": (lambda n: next(ps.iterate(NORMAL, ps.MALA(0.3), chains=n)), AT_MOST, MEMORY),
    "swap_every": (lambda n: ps.temper(NORMAL, swap_every=n), AT_MOST, None),
    "chains ": (lambda n: ps.temper(NORMAL, chains=n), AT_MOST, MEMORY),
    "particles": (lambda n: ps.estimate_log_z(NORMAL, reference=NORMAL, particles=n), AT_MOST, MEMORY),
    "schedule": (lambda n: ps.estimate_log_z(NORMAL, reference=NORMAL, schedule=n), MEMORY, MEMORY),
    "n": (lambda n: NORMAL.sample(n, seed=0), MEMORY, MEMORY),
    "n ": (lambda n: ps.heun(partial(ps.smoothed, NORMAL), [2.0, 1.0], n), AT_MOST, MEMORY),
}


@pytest.mark.parametrize("name", MANY)
def test_huge_numbers_of_things_are_refused_before_they_are_made(name):
    make, huge, many = MANY[name]
    for number, message in ((10**30, huge), (10**14, many)):
        if message is not None:
            with pytest.raises(ps.InputError, match=message):
                make(number)
    with pytest.raises(ps.InputError, match="leapfrogs is 10+: it must be a positive number"):
        ps.HMC(leapfrogs=10**400)


def test_an_audit_at_a_huge_step_is_said():
    target = ps.Gaussian(0.0, 1.0, dim=2)
    audit = ps.audit_score(target, target.sample(50, seed=1), step_size=1e300)
    assert "at the step 1e+300" in str(audit)


NORMALS = ps.GaussianMixture([1, 1], [[0.0, 0.0], [1.0, 1.0]], 1.0)
SCALES = {
    "scale is": (lambda s: ps.Funnel(3, scale=s), (1e300, 1e160, 1e100, 1e3, 1e-100, 1e-300)),
    "scale is ": (lambda s: ps.Banana(scale=s), (1e300, 1e160, 1e100, 1e-160, 1e-300)),
    "bend is": (lambda s: ps.Banana(bend=s), (1e300, -1e160, 1e100)),
    "centre is": (lambda s: ps.DoubleWell(centre=s), (1e300, 1e100, 1e-100, 1e-300)),
    "height is": (lambda s: ps.DoubleWell(height=s), (1e300, 1e100, 1e30)),
    "height is 3 and tilt": (lambda s: ps.DoubleWell(tilt=s), (1e300, -1e100)),
    "scale is  ": (lambda s: ps.Student(scale=s), (1e300, 1e160, 1e-160, 1e-300)),
    "radius is": (lambda s: ps.Ring(s, 1.0), (1e300, 1e160, 1e-300)),
    "width is": (lambda s: ps.Ring(1.0, s), (1e300, 1e-160, 1e-300)),
    "distance is": (lambda s: ps.Shells(distance=s), (1e300, 1e-300)),
    "sigma is": (lambda s: ps.smoothed(NORMAL, s), (1e300, 1e160)),
    "sigma is ": (lambda s: ps.smoothed(NORMALS, s), (1e300, 1e160)),
}


@pytest.mark.parametrize("name", SCALES)
def test_scales_whose_powers_are_no_numbers_are_refused(name):
    make, values = SCALES[name]
    for value in values:
        with pytest.raises(ps.InputError, match=name.strip()):
            make(value)


def test_scales_that_have_powers_are_taken():
    for target, unit in (
        (ps.Funnel(3, scale=100.0), 1.0),
        (ps.Banana(1e37, 1e-74), 1e37),
        (ps.DoubleWell(centre=1e75), 1e75),
        (ps.DoubleWell(height=1e15), 1.0),
        (ps.Student(scale=1e-75), 1e-75),
        (ps.Ring(1e75, 1e74), 1e75),
        (ps.smoothed(NORMALS, 1e150), 1.0),
    ):
        x = unit * np.random.default_rng(0).normal(size=(5, target.dim))
        energy, score = target.energy_and_score(x)
        assert np.isfinite(energy).all()
        assert np.isfinite(score).all()
        assert math.isfinite(target.log_z)


@pytest.mark.parametrize(("radius", "width", "dim"), [(50.0, 1.0, 300), (1e4, 1.0, 100), (1e60, 1e58, 7)])
def test_spheres_of_many_dimensions_have_an_integral(radius, width, dim):
    """Powers of radius / width overflow, where their logarithm is a number: by quadrature over the radius."""
    t = np.linspace(-12, 12, 4001)
    t = t + 4 * (dim > 200)  # where r^(d-1) exp(-E) is largest, about
    log_p = -0.5 * t**2 + (dim - 1) * np.log1p(t * width / radius)
    log_surface = math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)
    integral = math.log(np.exp(log_p - log_p.max()).sum() * (t[1] - t[0])) + log_p.max()
    expected = log_surface + math.log(width) + (dim - 1) * math.log(radius) + integral
    assert ps.Ring(radius, width, dim=dim).log_z == pytest.approx(expected, rel=1e-9)
