"""Runs in files: the same as in memory, whatever happens on the way."""

import copy
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest

import physscore as ps
from physscore.kernels.metric import Fourier, Identity
from physscore.store.runs import RunFile, done_of

GRID = ps.Grid((6, 5), 10.0)
FIELD = ps.GaussianRandomField(GRID, ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
TARGET = ps.GaussianMixture([1, 3], [[0.0, 0.0], [3.0, 1.0]], 1.0)


def functions(target=TARGET):
    return ps.from_functions(energy=target.energy, score=target.score, shape=target.shape)


KERNELS = {
    "ula": (TARGET, ps.ULA(bias=0.1)),
    "mala": (TARGET, ps.MALA(metric="dense")),
    "automala": (functions(), ps.AutoMALA()),
    "underdamped": (TARGET, ps.Underdamped(friction=2.0)),
    "metropolised": (functions(), ps.Underdamped(metropolised=True, metric="identity")),
    "hmc": (TARGET, ps.HMC()),
    "fourier": (FIELD + ps.GaussianNoise(np.zeros(GRID.shape), 1.0), ps.MALA(metric="fourier")),
    "crank-nicolson": (FIELD + ps.GaussianNoise(np.zeros(GRID.shape), 1.0), ps.CrankNicolson()),
    "score": (ps.from_functions(score=TARGET.score, shape=2), ps.Underdamped()),
    "names": (ps.Parameters(a=ps.Normal(0.0, 1.0), b=ps.Normal(1.0, 2.0)), ps.MALA()),
}
SAME = ("acceptance", "divergent", "mean", "std", "error", "r_hat", "ess", "ess_tail")
ABOUT = ("target", "seed", "warmup", "thin", "loop", "names", "grid", "complete", "shape")


def assert_same(found, expected):
    np.testing.assert_array_equal(found.draws[...], expected.draws[...])
    np.testing.assert_array_equal(found.energies, expected.energies)
    for name in SAME:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in ABOUT:
        assert getattr(found, name) == getattr(expected, name), name
    assert repr(found.kernel) == repr(expected.kernel)
    np.testing.assert_array_equal(found.kernel.frozen_metric.factor, expected.kernel.frozen_metric.factor)
    np.testing.assert_array_equal(found.drift_to_noise, expected.drift_to_noise)
    assert found.summary() == expected.summary()


@pytest.mark.parametrize("name", KERNELS)
def test_file_is_the_run_in_memory(tmp_path, name):
    target, kernel = KERNELS[name]
    options = {"chains": 6, "steps": 40, "warmup": 40, "thin": 2, "seed": 2**64 - 1}
    expected = ps.sample(target, kernel, **options)
    path = tmp_path / "run.h5"
    found = ps.sample(target, kernel, output=path, **options)
    assert isinstance(found.draws, h5py.Dataset)
    assert_same(found, expected)
    assert [file.name for file in tmp_path.iterdir()] == ["run.h5"]
    assert_same(ps.load(path), expected)
    for run in (expected, found):  # what is in memory, and what is in a file, can be saved
        ps.save(tmp_path / "copy.h5", run, overwrite=True)
        copy = ps.load(tmp_path / "copy.h5")
        assert_same(copy, expected)
    # The kernel goes on where it was.
    again = [ps.sample(target, run.kernel, chains=6, steps=3, warmup=0).draws for run in (expected, copy)]
    np.testing.assert_array_equal(*again)


@pytest.mark.parametrize(
    "metric",
    [Identity(), ps.Diagonal([1.0, 2.0]), ps.Dense([[2.0, 1.0], [1.0, 2.0]]), Fourier(GRID, np.ones(36))],
    ids=repr,
)
def test_metrics_come_back(tmp_path, metric):
    run = ps.sample(TARGET, ps.MALA(0.1, metric="identity"), chains=2, steps=4, warmup=0)
    run.kernel = ps.MALA(np.float32(0.1), metric=metric)
    ps.save(tmp_path / "run.h5", run)
    found = ps.load(tmp_path / "run.h5").kernel
    assert found.step_size == pytest.approx(0.1)
    assert type(found.metric) is type(metric)
    np.testing.assert_array_equal(found.metric.factor, metric.factor)
    assert getattr(found.metric, "grid", None) == getattr(metric, "grid", None)


def test_numpy_numbers_are_numbers(tmp_path):
    kernel = ps.HMC(np.float64(0.2), metric="identity", leapfrogs=np.int64(3))
    numbers = {"chains": np.int64(2), "steps": np.int32(8), "warmup": np.int64(0), "seed": np.uint64(2**63)}
    run = ps.sample(TARGET, kernel, output=tmp_path / "run.h5", **numbers)
    json.dumps(run.summary())
    assert run.kernel.leapfrogs == 3


def test_existing_files_are_kept(tmp_path):
    path = tmp_path / "run.h5"
    ps.sample(TARGET, chains=2, steps=5, output=path)
    before = path.read_bytes()
    for function in (
        lambda: ps.sample(TARGET, chains=2, steps=5, output=path),
        lambda: ps.save(path, ps.sample(TARGET, chains=2, steps=5)),
    ):
        with pytest.raises(ps.InputError, match=r"run.h5 exists: use --overwrite"):
            function()
    assert path.read_bytes() == before
    ps.sample(TARGET, chains=3, steps=5, output=path, overwrite=True)
    assert ps.load(path).draws.shape == (5, 3, 2)
    with pytest.raises(ps.InputError, match="there is no folder"):
        ps.sample(TARGET, output=tmp_path / "no" / "run.h5")
    done = ps.sample(TARGET, chains=3, steps=5, output=path, resume=True)  # there is nothing left to do
    assert done.draws.shape == (5, 3, 2)


def test_unreadable_files(tmp_path):
    path = tmp_path / "run.h5"
    ps.sample(TARGET, chains=50, steps=200, output=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ps.InputError, match=r"run.h5 cannot be read: it is truncated"):
        ps.load(path)
    ps.save(tmp_path / "field.h5", ps.Fields(FIELD.sample(1, seed=1)[0], GRID))
    with pytest.raises(ps.InputError, match="is not a file of a physscore run"):
        RunFile(tmp_path / "field.h5")
    with h5py.File(path, "w") as file:
        file["x"] = 1.0
    for function in (RunFile, ps.load):
        with pytest.raises(ps.InputError, match=r"run.h5 is not a file"):
            function(path)
    for name in ("run.h5", "field.h5"):  # nor are they gone on with
        with pytest.raises(ps.InputError, match=rf"{name} "):
            ps.sample(TARGET, output=tmp_path / name, resume=True)


# --- Interrupted ----------------------------------------------------------------------------------

JOB = """
import sys, time
import physscore as ps
target = ps.GaussianMixture([1, 3], [[0.0, 0.0], [3.0, 1.0]], 1.0)
calls = 0
def slow(x):
    global calls
    calls += 1
    if calls == 300:
        print("draws are kept", flush=True)
    time.sleep(float(sys.argv[3]))
    return target.energy_and_score(x)
slowly = ps.from_functions(energy_and_score=slow, shape=2, name="slowly")
print("started", flush=True)
run = ps.sample(slowly, ps.MALA(metric="dense"), chains=3, steps=int(sys.argv[2]), warmup=100, thin=3, seed=4,
                output=sys.argv[1] if sys.argv[1] != "none" else None, resume=True)
print(run.complete, run.draws.shape[0], flush=True)
"""
STEPS = 1200


def start(cwd, path="run.h5", pause=0.0, steps=STEPS, code=JOB):
    command = [sys.executable, "-c", code, path, str(steps), str(pause)]
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PHYSSCORE_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    return process


def finish(cwd):
    process = start(cwd)
    _, error = process.communicate()
    assert process.returncode == 0, error


def datasets(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[...]}) if hasattr(item, "shape") else None
        )
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    return datasets(folder / "run.h5")


def assert_whole(path, expected):
    found = datasets(path)
    assert found.keys() == expected.keys()
    for name in expected:  # the two states take turns, and which one is newer depends on the pieces
        if not name.startswith(("state", "slot")):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    last = [group[f"state_{int(group['slot'][0])}/x"] for group in (found, expected)]
    np.testing.assert_array_equal(*last)


def test_killed_at_any_moment_and_resumed(tmp_path, uninterrupted):
    """About 1 s of work: killed in the warm-up, and then wherever it happens to be."""
    rng = np.random.default_rng()
    part, done = tmp_path / "run.h5.part", 0
    for attempt in range(4):
        process = start(tmp_path, pause=0.001)
        if attempt == 0:
            time.sleep(0.05)
            assert not part.exists()
        else:
            while process.poll() is None and not part.exists():
                time.sleep(0.005)
            time.sleep(0.4 * rng.random())
        process.kill()
        process.communicate()
        assert attempt == 0 or part.exists()
        if part.exists():
            run = ps.load(part)
            now = run.draws.shape[0]
            assert done <= now < STEPS // 3
            assert not run.complete
            np.testing.assert_array_equal(run.draws[...], uninterrupted["samples/x"][:now])
            done = now
            run.file.close()
        assert not (tmp_path / "run.h5").exists()
    assert done > 0
    finish(tmp_path)
    assert_whole(tmp_path / "run.h5", uninterrupted)
    assert [file.name for file in tmp_path.iterdir()] == ["run.h5"]


def test_interrupt_keeps_the_file(tmp_path, uninterrupted):
    process = start(tmp_path, pause=0.002)
    while not (tmp_path / "run.h5.part").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode != 0
    assert error.rstrip().endswith("KeyboardInterrupt")
    assert not (tmp_path / "run.h5").exists()
    with pytest.raises(ps.InputError, match=r"holds an unfinished job: use --overwrite.*or --resume"):
        ps.sample(TARGET, output=tmp_path / "run.h5")
    finish(tmp_path)
    assert_whole(tmp_path / "run.h5", uninterrupted)


def test_interrupt_in_memory_returns_what_there_is(tmp_path):
    process = start(tmp_path, path="none", pause=0.002, steps=100_000)
    assert process.stdout.readline() == "draws are kept\n"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0
    complete, kept = out.split()
    assert complete == "False"
    assert 0 < int(kept) < 33_333
    assert f"UserWarning: interrupted: {kept} of 33333 draws a chain are there" in error


def interrupted(path):
    """Leave an unfinished file."""
    calls = 0

    def energy(x):
        nonlocal calls
        calls += 1
        if calls == 200:
            raise KeyboardInterrupt
        return TARGET.energy(x)

    broken = ps.from_functions(energy=energy, score=TARGET.score, shape=2)
    with pytest.raises(KeyboardInterrupt):
        ps.sample(broken, ps.MALA(0.1, metric="identity"), chains=3, steps=500, warmup=0, output=path)


def test_only_the_same_job_is_gone_on_with(tmp_path):
    path = tmp_path / "run.h5"
    interrupted(path)
    same = {"chains": 3, "steps": 500, "warmup": 0, "output": path, "resume": True}
    kernel = ps.MALA(0.1, metric="identity")
    for change, message in (
        ({"steps": 600}, "steps was 500 and is 600"),
        ({"chains": 4}, "chains was 3 and is 4"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"thin": 2}, "thin was 1 and is 2"),
        ({"dtype": "float32"}, "dtype was float64 and is float32"),
    ):
        with pytest.raises(ps.InputError, match=rf"another job \({message}"):
            ps.sample(functions(), kernel, **same | change)
    with pytest.raises(ps.InputError, match=r"another job \(kernel was MALA\(step_size=0.1.* and is .*=0.2"):
        ps.sample(functions(), ps.MALA(0.2, metric="identity"), **same)
    with pytest.raises(ps.InputError, match=r"another job \(target was from_functions and is Gaussian"):
        ps.sample(ps.Gaussian(0.0, 1.0, dim=2), kernel, **same)
    other = functions(ps.Gaussian(0.0, 1.0, dim=2))  # of the same name
    with pytest.raises(
        ps.InputError, match=r"another job \(the score at its states is not that of from_functions"
    ):
        ps.sample(other, kernel, **same)
    del same["resume"], same["output"]
    expected = ps.sample(functions(), kernel, **same)
    assert_same(ps.sample(functions(), kernel, output=path, resume=True, **same), expected)


@pytest.mark.parametrize("with_energy", [True, False])
def test_a_target_that_differs_in_a_wide_component_is_refused(tmp_path, with_energy):
    """Its score is far smaller than that of the narrow one: 10^7 times, and 100 times without an energy."""
    variances = np.array([1e-10, 1e4]) if with_energy else np.array([1e-4, 1.0])
    path, calls = tmp_path / "run.h5", 0

    def target(mean, last=math.inf):
        def score(x):
            nonlocal calls
            calls += 1
            if calls == last:
                raise KeyboardInterrupt
            return (np.array([0.0, mean]) - x) / variances

        def energy(x):
            return 0.5 * ((x - np.array([0.0, mean])) ** 2 / variances).sum(axis=1)

        return ps.from_functions(energy=energy if with_energy else None, score=score, shape=2)

    metric = ps.kernels.Diagonal(variances)
    kernel = ps.MALA(0.5, metric=metric) if with_energy else ps.ULA(0.01, metric=metric)
    options = {"chains": 20, "steps": 500, "warmup": 0, "output": path, "resume": True,
               "init": np.sqrt(variances) * np.random.default_rng(0).normal(size=(20, 2))}  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        ps.sample(target(0.0, 200), kernel, **options)
    with pytest.raises(ps.InputError, match="at its states is not that of from_functions"):
        ps.sample(target(1000.0 if with_energy else 0.05), kernel, **options)
    assert ps.sample(target(0.0), kernel, **options).complete


MEMORY = """
import resource, sys
import physscore as ps
target = ps.Gaussian(0.0, 1.0, dim=10)
print("started", flush=True)
run = ps.sample(target, ps.MALA(0.1, metric="identity"), chains=1000, steps=int(sys.argv[2]), warmup=0,
                output=sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_steps(tmp_path):
    """Draws of 40 and of 160 MB; 32 MB of them are gathered at a time."""
    peaks = []
    for steps in (500, 2000):
        process = start(tmp_path, path=f"{steps}.h5", steps=steps, code=MEMORY)
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        peaks.append(float(out))
        (tmp_path / f"{steps}.h5").unlink()
    assert peaks[1] < peaks[0] + 60


def test_a_finished_file_of_another_target_is_refused(tmp_path):
    """A score alone, and an energy with a large constant, are told apart by the score."""

    def score(m):
        return ps.from_functions(score=lambda x: m - x, shape=2)

    def energy(m):
        both = lambda x: (1e6 + 0.5 * ((x - m) ** 2).sum(axis=1), m - x)  # noqa: E731
        return ps.from_functions(energy_and_score=both, shape=2)

    for name, make, kernel in (("s", score, ps.ULA(0.1)), ("e", energy, ps.MALA(0.1, metric="identity"))):
        options = {"chains": 4, "steps": 50, "warmup": 0, "output": tmp_path / f"{name}.h5", "resume": True}
        draws = ps.sample(make(0.0), kernel, **options).draws[...]
        np.testing.assert_array_equal(ps.sample(make(0.0), kernel, **options).draws[...], draws)
        with pytest.raises(ps.InputError, match="belongs to another job"):
            ps.sample(make(2.0), kernel, **options)


def test_masked_arrays_lose_nothing(tmp_path):
    grid = ps.Grid((4, 4), 1.0)
    masked = np.ma.masked_array(np.zeros((4, 4)), np.eye(4))
    with pytest.raises(ps.InputError, match="4 masked values"):
        ps.save(tmp_path / "f.h5", ps.Fields(masked, grid))
    with pytest.raises(ps.InputError, match="1 masked values"):
        ps.sample(ps.Gaussian(0.0, 1.0, dim=2), chains=2, init=np.ma.masked_array([1.0, 2.0], [0, 1]))
    for wrong in (np.zeros((4, 4), complex), np.zeros((0, 4, 4))):
        with pytest.raises(ps.InputError, match="it must hold fields of real numbers"):
            ps.save(tmp_path / "f.h5", ps.Fields(wrong, grid))
    with pytest.raises(ps.InputError, match="spectrum returned complex numbers"):
        ps.GaussianRandomField(grid, lambda k: 1j * k)


def test_another_metric_or_start_is_another_job(tmp_path):
    target, path = ps.Gaussian(0.0, 1.0, dim=2), tmp_path / "run.h5"
    options = {"chains": 4, "steps": 5, "warmup": 0, "output": path, "resume": True}
    kernel = ps.ULA(0.1, metric=ps.kernels.Diagonal([1.0, 1.0]))
    draws = ps.sample(target, kernel, **options).draws[...]
    for other, init in ((ps.kernels.Diagonal([9.0, 9.0]), None), (kernel.metric, [1.0, 1.0])):
        with pytest.raises(ps.InputError, match="belongs to another job"):
            ps.sample(target, kernel.tuned(metric=other), init=init, **options)
    np.testing.assert_array_equal(ps.sample(target, kernel, **options).draws[...], draws)
    ps.sample(target, kernel, init=[1.0, 1.0], **{**options, "resume": False, "overwrite": True})
    with pytest.raises(ps.InputError, match="belongs to another job"):
        ps.sample(target, kernel, **options)


def test_how_many_steps_of_all_chains_may_run_away():
    """At the most that is allowed on average, 5%: of 1000 runs 10 are called divergent once in 10^6 times."""
    rng, found = np.random.default_rng(0), []
    run = ps.sample(ps.Gaussian(0.0, 1.0, dim=1), ps.MALA(0.5), chains=16, steps=200, warmup=0)
    for _ in range(1000):
        found.append(replace(run, divergent=rng.poisson(10, 16)).n_divergent)
    assert np.count_nonzero(found) < 10
    assert replace(run, divergent=rng.poisson(10, 20_000)).n_divergent == 0
    assert replace(run, divergent=np.where(np.arange(20_000) < 15, 50, 0)).n_divergent == 0  # far out
    assert replace(run, divergent=np.where(np.arange(20_000) < 40, 50, 0)).n_divergent == 40
    assert replace(run, divergent=np.where(np.arange(16) < 1, 30, 0)).n_divergent == 1


@pytest.mark.parametrize("name", ["chain", "draw"])
def test_names_of_arviz_dimensions(name):
    pytest.importorskip("arviz")
    run = ps.sample(ps.Parameters(**{name: ps.Normal(0, 1), "b": ps.Normal(0, 1)}), chains=3, steps=50)
    with pytest.raises(ps.InputError, match=f"names holds '{name}', which is a dimension"):
        run.to_arviz()
    run.names = ["a", "b"]
    assert set(run.to_arviz().posterior.data_vars) == {"a", "b"}


@pytest.mark.parametrize("name", ["ula", "mala", "automala", "hmc", "names", "fourier", "crank-nicolson"])
def test_a_run_goes_on_from_another(tmp_path, name):
    """The draws, and with them the noise, are those of one longer run; from files, too, and once more."""
    target, kernel = KERNELS[name]
    whole = ps.sample(target, kernel, chains=4, steps=60, warmup=200, thin=2, seed=3)
    first = ps.sample(
        target, kernel, chains=4, steps=31, warmup=200, thin=2, seed=3
    )  # 15 draws: one step less
    ps.save(tmp_path / "saved.h5", first)
    written = ps.sample(
        target, kernel, chains=4, steps=31, warmup=200, thin=2, seed=3, output=tmp_path / "a.h5"
    )

    def going_on(init, steps, **file):
        return ps.sample(
            target, first.kernel, chains=4, steps=steps, warmup=0, thin=2, seed=3, init=init, **file
        )

    second = going_on(first, 20)
    ps.save(tmp_path / "second.h5", second)
    near = {"rtol": 0, "atol": 1e-12 if target.shape == GRID.shape else 0}  # of another transform
    np.testing.assert_allclose(second.draws, whole.draws[15:25], **near)
    np.testing.assert_allclose(second.energies, whole.energies[15:25], rtol=near["atol"])
    assert second.first_step == 230
    for init in (written, ps.load(tmp_path / "saved.h5")):
        assert_same(going_on(init, 20), second)
    for init in (second, ps.load(tmp_path / "second.h5"), going_on(first, 20, output=tmp_path / "b.h5")):
        np.testing.assert_allclose(going_on(init, 10).draws, whole.draws[25:], **near)
    for (x, _, _), expected in zip(
        ps.iterate(target, first.kernel, chains=4, seed=3, init=first), range(14), strict=False
    ):
        if expected % 2:
            np.testing.assert_allclose(x, whole.draws[15 + expected // 2], **near)


@pytest.mark.parametrize("name", ["mala", "fourier", "names"])
def test_a_run_and_what_goes_on_with_it_are_one_run(tmp_path, name):
    target, kernel = KERNELS[name]
    options = {"chains": 4, "thin": 2, "seed": 3}
    whole = ps.sample(target, kernel, steps=60, warmup=200, **options)
    run = ps.sample(target, kernel, steps=24, warmup=200, output=tmp_path / "a.h5", **options)
    for steps in (10, 26):
        run += ps.sample(target, run.kernel, steps=steps, warmup=0, init=run, **options)
    near = 1e-12 if target.shape == GRID.shape else 0  # of another transform
    np.testing.assert_allclose(run.draws, whole.draws, rtol=0, atol=near)
    np.testing.assert_allclose(run.energies, whole.energies, rtol=near)
    np.testing.assert_allclose(run.acceptance, whole.acceptance, rtol=1e-12)
    np.testing.assert_array_equal(run.divergent, whole.divergent)
    np.testing.assert_allclose(run.drift_to_noise, whole.drift_to_noise, rtol=1e-9)
    np.testing.assert_allclose(run.ess, whole.ess, rtol=0.05 if near else 1e-9)  # repeated draws are ties
    for found in ABOUT:
        assert getattr(run, found) == getattr(whole, found), found
    ps.save(tmp_path / "joined.h5", run)
    assert_same(ps.load(tmp_path / "joined.h5"), run)


def test_chains_that_are_lost_are_counted_once():
    first = ps.sample(TARGET, ps.ULA(0.1), chains=3, steps=6, warmup=0)
    more = ps.sample(TARGET, ps.ULA(0.1), chains=3, steps=3, warmup=0, init=first)
    one, other = np.array([1, 0, 0]), np.array([1, 1, 0])
    assert (replace(first, divergent=one) + replace(more, divergent=other)).divergent.tolist() == [1, 1, 0]
    first, more = (replace(run, kernel=ps.MALA(0.1), acceptance=np.full(3, a)) for run, a in
                   ((first, 0.3), (more, 0.9)))  # fmt: skip
    joined = replace(first, divergent=one) + replace(more, divergent=other)
    assert joined.divergent.tolist() == [2, 1, 0]
    np.testing.assert_allclose(joined.acceptance, 0.5)


def test_only_what_goes_on_with_a_run_is_added_to_it():
    options = {"chains": 4, "steps": 20, "warmup": 0, "seed": 3}
    kernel = ps.MALA(0.3, metric=Identity())
    run = ps.sample(TARGET, kernel, **options)

    def more(target=TARGET, kernel=kernel, **other):
        return ps.sample(target, kernel, **{**options, "init": run, **other})

    wide = [ps.MALA(0.3, metric=ps.Diagonal([v, 1.0])) for v in (1.0, 2.0)]
    narrow = ps.sample(TARGET, wide[0], **options)
    for first, second, message in (
        (run, more(init=None), "more begins at step 0, and the run ended at 20"),
        (run, more(init=run.draws[-1]), "more begins at step 0, and the run ended at 20"),
        (run, more(warmup=10), "more begins at step 30, and the run ended at 20"),
        (run, more(seed=4), "more has the seed 4, and the run 3"),
        (run, more(thin=2), "more has the thin 2, and the run 1"),
        (run, more(kernel=ps.MALA(0.2)), r"more has the kernel MALA\(step_size=0.2"),
        (run, more(ps.Gaussian(0.0, 1.0, dim=2)), "more has the target Gaussian"),
        (run, more(init=None, chains=5), r"more has draws of shape \(5, 2\), and the run of \(4, 2\)"),
        (narrow, more(kernel=wide[1], init=narrow), "or other numbers in its metric"),
    ):
        with pytest.raises(ps.InputError, match=message) as caught:
            first + second
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError):
        run + 1


def test_going_on_has_momenta_of_its_own():
    """The product of the moves of two steps is 0 on average for new momenta, and 1 for the same ones: with
    4000 numbers and a bound of 0.08, five standard deviations, a right sampler fails once in two million."""
    target, kernel = ps.Gaussian(0.0, 1e8, dim=4), ps.Underdamped(1.0, metric="identity", friction=1e-6)
    first = ps.sample(target, kernel, chains=1000, steps=1, warmup=0, seed=2, init=np.zeros(4))
    second = ps.sample(target, kernel, chains=1000, steps=1, warmup=0, seed=2, init=first)
    assert abs((first.draws[0] * (second.draws[0] - first.draws[0])).mean()) < 0.08


def test_going_on_with_other_chains_or_another_job(tmp_path):
    first = ps.sample(TARGET, ps.MALA(0.3), chains=4, steps=20, warmup=0)
    with pytest.raises(ps.InputError, match="init is a run of 4 chains with 20 draws each, and chains is 16"):
        ps.sample(TARGET, ps.MALA(0.3), steps=20, init=first)
    with pytest.raises(ps.InputError, match="init is a run of 4 chains"):
        next(ps.iterate(TARGET, ps.MALA(0.3), chains=5, init=first))
    empty = replace(first, draws=first.draws[:0], energies=first.energies[:0])
    with pytest.raises(ps.InputError, match="with 0 draws each"):
        ps.sample(TARGET, ps.MALA(0.3), chains=4, steps=20, init=empty)
    job = {"kernel": ps.MALA(0.3), "chains": 4, "steps": 20, "warmup": 0, "output": tmp_path / "run.h5"}
    ps.sample(TARGET, init=first, **job)
    with pytest.raises(ps.InputError, match="another job"):
        ps.sample(TARGET, init=first.draws[-1], resume=True, **job)
    np.testing.assert_array_equal(
        ps.sample(TARGET, init=first, resume=True, **job).draws[-1],
        ps.sample(TARGET, ps.MALA(0.3), chains=4, steps=40, warmup=0).draws[-1],
    )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
def test_a_run_in_a_file_is_copied(copied, tmp_path, monkeypatch):
    """A file is not: the copy opens it again, wherever it is made, and says if it is gone."""
    monkeypatch.chdir(tmp_path)
    run = ps.sample(ps.Gaussian(0.0, 1.0, dim=2), ps.MALA(), chains=4, steps=8, output="run.h5")
    kept = pickle.dumps(run)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = copied(run)
    np.testing.assert_array_equal(found.samples, run.samples)
    np.testing.assert_array_equal(found.energies, run.energies)
    in_memory = ps.sample(ps.Gaussian(0.0, 1.0, dim=2), ps.MALA(), chains=4, steps=8)
    np.testing.assert_array_equal(copied(in_memory).samples, in_memory.samples)
    (tmp_path / "run.h5").unlink()
    with pytest.raises(ps.InputError, match="does not exist"):
        pickle.loads(kept)


def a_job(folder, width=1.0, meanwhile=lambda: None, at=400, steps=600, **options):
    """Run a job of about ``steps`` calls, and do something at one of them."""
    calls = 0

    def energy_and_score(x):
        nonlocal calls
        calls += 1
        if calls == at:
            meanwhile()
        return 0.5 * (x**2).sum(axis=1) / width**2, -x / width**2

    target = ps.from_functions(energy_and_score=energy_and_score, shape=2, name="mine")
    return ps.sample(
        target, ps.MALA(step_size=0.1), chains=8, steps=steps, warmup=100, output=folder / "run.h5", **options
    )


@pytest.mark.parametrize("second", [{"overwrite": True}, {"overwrite": True, "seed": 1}, {"resume": True}])
def test_a_living_job_keeps_its_output(tmp_path, second):
    def other():
        with pytest.raises(ps.InputError, match=r"run.h5 is being written by another job"):
            a_job(tmp_path, 10.0, **second)

    run = a_job(tmp_path, meanwhile=other)
    assert run.draws.shape == (600, 8, 2)
    assert run.complete
    assert (run.std < 3).all()
    assert [file.name for file in tmp_path.iterdir()] == ["run.h5"]


@pytest.mark.parametrize("locking", ["FALSE", "TRUE"])
def test_a_living_job_keeps_its_output_whatever_hdf5_locks(tmp_path, locking):
    code = f"""
import sys
from pathlib import Path
import subprocess
sys.path.insert(0, {os.path.dirname(__file__)!r})
import physscore as ps
from test_runs import a_job
folder = Path({str(tmp_path)!r})
if sys.argv[1:]:
    a_job(folder, 10.0, overwrite=True)
def other():
    out = subprocess.run([sys.executable, sys.argv[0], "again"], capture_output=True, text=True)
    assert "is being written by another job" in out.stderr, out.stderr
assert a_job(folder, meanwhile=other).draws.shape == (600, 8, 2)
"""
    (tmp_path / "twice.py").write_text(code)
    environment = {**os.environ, "HDF5_USE_FILE_LOCKING": locking}
    command = [sys.executable, str(tmp_path / "twice.py")]
    out = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert out.returncode == 0, out.stderr


def test_a_job_that_finished_in_the_warm_up_of_another_is_not_replaced(tmp_path):
    with pytest.raises(ps.InputError, match=r"run.h5 exists: use --overwrite to replace it"):
        a_job(tmp_path, meanwhile=lambda: a_job(tmp_path, 10.0), at=50)
    assert (ps.load(tmp_path / "run.h5").std > 3).all()


def test_a_job_sees_that_it_was_taken_over_where_there_are_no_locks(tmp_path, monkeypatch):
    monkeypatch.setattr("physscore.store.holding._locked", lambda descriptor: True)
    with pytest.raises(ps.InputError, match="was taken over by another job") as caught:
        a_job(tmp_path, meanwhile=lambda: a_job(tmp_path, 10.0, overwrite=True), overwrite=True)
    assert "\n" not in str(caught.value)
    assert (ps.load(tmp_path / "run.h5").std > 3).all()


def test_a_running_job_can_be_looked_at(tmp_path):
    code = f"""
import h5py
import numpy as np
import physscore as ps
run = ps.load({str(tmp_path / "run.h5.part")!r})
np.testing.assert_allclose(run.energies, 0.5 * (run.draws**2).sum(axis=2))
assert not run.complete
assert run.acceptance.min() > 0.5
with h5py.File({str(tmp_path / "run.h5.part")!r}) as file:
    assert file["samples/x"].shape == (600, 8, 2)
print(len(run.draws))
"""
    seen = []

    def look():
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seen.append((out.stdout, out.stderr))

    a_job(tmp_path, meanwhile=look, at=700)
    ((found, errors),) = seen
    assert not errors
    assert 0 < int(found) < 600


def test_who_looks_at_an_unfinished_job_does_not_keep_it_from_going_on(tmp_path):
    def stop():
        raise KeyError

    with pytest.raises(KeyError):
        a_job(tmp_path, meanwhile=stop, at=500)
    seen = ps.load(tmp_path / "run.h5.part")
    run = a_job(tmp_path, resume=True)
    assert run.complete
    np.testing.assert_array_equal(run.draws[: len(seen.draws)], seen.draws)


def test_what_is_read_of_a_running_job_is_of_one_moment(tmp_path):
    a_job(tmp_path)

    class Turning:
        """A file whose job finishes the other state, and begins this one, while it is read."""

        turned = False

        def __init__(self, file):
            self.file = file

        def __getitem__(self, name):
            if name == f"state_{int(self.file['slot'][0])}" and not self.turned:
                self.turned = True
                self.file["slot"][0] = 1 - self.file["slot"][0]
                self.file[name]["tally"][...] = -1.0
            return self.file[name]

    with h5py.File(tmp_path / "run.h5", "r+") as file:
        expected = [file[f"state_{1 - int(file['slot'][0])}/{name}"][...] for name in ("completed", "tally")]
        done, tally = done_of(Turning(file))
    assert done == expected[0][0]
    np.testing.assert_array_equal(tally, expected[1])
