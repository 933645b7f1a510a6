"""Estimates of log Z in files: the same as in memory, whatever happens on the way."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_varying_scale import regression

import physscore as ps
from physscore.energies.integrated import IntegratedScore
from physscore.evidence import job
from physscore.store.evidence import EvidenceWriter, read_log_z

TARGET = ps.GaussianMixture([1, 3], [[0.0, 0.0], [3.0, 1.0]], 1.0)
FIELD = ps.GaussianRandomField(ps.Grid((6, 5), 10.0), ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
QUICK = {"particles": 256, "islands": 32, "seed": 2**64 - 1}


def functions(target=TARGET):
    return ps.from_functions(energy=target.energy, score=target.score, shape=target.shape)


def assert_same(found, expected):
    for name, value in vars(expected).items():
        np.testing.assert_equal(getattr(found, name), value, err_msg=name)
    assert found.summary() == expected.summary()


@pytest.fixture
def in_pieces(monkeypatch):
    """Make small jobs run in units of 4 islands, whose state is written each time."""
    monkeypatch.setattr(job, "_AT_ONCE", 1)
    monkeypatch.setattr("physscore.store.evidence._EVERY", 0.0)
    monkeypatch.setattr("physscore.store.evidence._SHARE", 1.0)


JOBS = {
    "fused": (TARGET, {}),
    "fitted": (ps.Funnel(3), {"kernel": ps.MALA(metric="dense")}),
    "fitted tails": (ps.Student(5.0, dim=2), {}),
    "batched": (functions(), {"reference": ps.Gaussian(0.0, 4.0, dim=2), "schedule": [0.0, 0.1, 0.4, 1.0]}),
    "field": (FIELD + ps.GaussianNoise(np.zeros(FIELD.shape), 1.0), {"method": "ais"}),
    "lattice": (ps.Phi4((4, 4), mass2=-2.0, coupling=0.5), {}),
    "score": (ps.from_functions(score=ps.Gaussian([1.0, 0.0], 2.0).score, shape=2), {"kernel": ps.ULA()}),
    "lagging": (regression(1, 12, 100.0)[0], {"seed": 1}),  # goes on with other kernels
    "tempering": (TARGET, {"method": "tempering"}),
    "prior": (ps.Parameters(a=ps.Uniform(0.0, 1.0)) + ps.GaussianNoise([0.5], 0.1), {"target_error": 0.03}),
}


@pytest.mark.parametrize("name", JOBS)
def test_file_is_the_estimate_in_memory(tmp_path, name):
    target, options = JOBS[name]
    expected = ps.estimate_log_z(target, **QUICK | options)
    path = tmp_path / "z.h5"
    assert_same(ps.estimate_log_z(target, **QUICK | options, checkpoint=path), expected)
    assert [file.name for file in tmp_path.iterdir()] == ["z.h5"]
    assert_same(ps.load(path), expected)
    with h5py.File(path) as file:
        assert file.attrs["log_z"] == expected.log_z
        energy = target if isinstance(target, ps.Energy) else IntegratedScore(target)
        np.testing.assert_allclose(file["samples/energy"], energy.energy(expected.samples))
    ps.save(tmp_path / "copy.h5", expected)
    assert_same(ps.load(tmp_path / "copy.h5"), expected)
    assert_same(ps.estimate_log_z(target, **QUICK | options, checkpoint=path, resume=True), expected)


@pytest.mark.parametrize("name", JOBS)
def test_interrupted_anywhere_goes_on(tmp_path, name, in_pieces, monkeypatch):
    """Each kind of job, ended by an error wherever a state is written."""
    target, options = JOBS[name]
    expected = ps.estimate_log_z(target, **QUICK | options)
    path, flush, left = tmp_path / "z.h5", EvidenceWriter.flush, 0

    def broken(self):
        nonlocal left
        left -= self._pending is not None
        flush(self)
        if left <= 0:
            raise ArithmeticError

    monkeypatch.setattr(EvidenceWriter, "flush", broken)
    times = 0
    while not path.exists():
        left, times = 2, times + 1  # the first state is the one that was there
        try:
            found = ps.estimate_log_z(target, **QUICK | options, checkpoint=path, resume=True)
        except ArithmeticError:
            assert not path.exists()
    assert times >= 8
    assert_same(found, expected)
    assert [file.name for file in tmp_path.iterdir()] == ["z.h5"]


# --- Killed ---------------------------------------------------------------------------------------

PAUSING = """
import os
import time
import physscore as ps
from physscore.evidence import job
from physscore.store import evidence

target = ps.GaussianMixture([1, 3], [[0.0, 0.0], [3.0, 1.0]], 1.0)
pause = float(os.environ.get("PAUSE", 0.0))

def both(x):
    time.sleep(pause)
    return target.energy_and_score(x)

def run(every=0.02, **options):
    job._AT_ONCE, evidence._EVERY, evidence._SHARE = 1, every, 1.0
    slowly = ps.from_functions(energy_and_score=both, shape=2, name="slowly")
    print("working", flush=True)
    options = {"checkpoint": "z.h5", "resume": True} | options
    begin = ps.Gaussian(0.0, 4.0, dim=2)
    return ps.estimate_log_z(slowly, begin, particles=512, islands=64, seed=4, **options)
"""


UNDISTURBED = []  # what it estimates


@pytest.fixture
def pausing(tmp_path, in_pieces, monkeypatch):
    """The module of a job, which ends at once in this process and pauses in those of :func:`start`."""
    (tmp_path / "pausing_job.py").write_text(PAUSING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("pausing_job")
    del sys.modules["pausing_job"]


def start(pause, **options):
    """Start the job in a process of its own, in this folder."""
    code = f"import pausing_job; pausing_job.run(**{options})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PAUSE": str(pause)},
    )  # fmt: skip
    assert process.stdout.readline() == "working\n"
    return process


def pieces(part):
    with h5py.File(part) as file:
        return len(file.get("state/units", ()))


def test_killed_at_any_moment_and_resumed(pausing):
    """Killed in the pilot, when there is a file, and twice after it has got on."""
    rng, part, done = np.random.default_rng(), Path("z.h5.part"), 0
    for wanted in (None, 0, 1, 2):
        process = start(0.003)
        while wanted is not None and (not part.exists() or pieces(part) < wanted):
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(0.02 if wanted is None else 0.3 * rng.random())
        process.kill()
        process.communicate()
        assert not Path("z.h5").exists()
        assert part.exists() or wanted is None
        if part.exists():
            now = pieces(part)
            assert now >= done
            done = now
    assert done > 0
    assert_ends_as_if_nothing_had_happened(pausing)


def assert_ends_as_if_nothing_had_happened(job):
    found = job.run()
    assert {path.name for path in Path().glob("z.*")} == {"z.h5"}
    if not UNDISTURBED:
        UNDISTURBED.append(job.run(checkpoint=None, resume=False))
    assert_same(found, UNDISTURBED[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt_keeps_what_is_finished(pausing, workers):
    part = Path("z.h5.part")
    # With one, nothing is written but at the beginning and the end.
    process = start(0.003, every=1000.0 if workers == 1 else 0.0, workers=workers)
    while not part.exists() or (workers == 2 and pieces(part) == 0):
        assert process.poll() is None
        time.sleep(0.01)
    if workers == 1:
        assert pieces(part) == 0
        time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert error.rstrip().endswith("KeyboardInterrupt"), error
    assert not Path("z.h5").exists()
    assert pieces(part) > (0 if workers == 1 else 1)  # at least what the other worker was at
    with pytest.raises(ps.InputError, match=r"holds an unfinished job: use --overwrite.*or --resume"):
        ps.estimate_log_z(TARGET, checkpoint="z.h5")
    Path("z.h5.part.new").write_bytes(b"what a kill left half written")
    assert_ends_as_if_nothing_had_happened(pausing)


# --- Refused --------------------------------------------------------------------------------------


def interrupted(monkeypatch, target, *args, **options):
    """Leave an unfinished file: the job ends when it has written its first state."""
    write = EvidenceWriter.write

    def stop(self, state):
        write(self, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(EvidenceWriter, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            ps.estimate_log_z(target, *args, **options)


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """Return the name of a file that is not finished."""
    interrupted(monkeypatch, functions(), **QUICK, checkpoint=tmp_path / "z.h5")
    return tmp_path / "z.h5"


def test_only_the_same_job_is_gone_on_with(unfinished, in_pieces):
    same = QUICK | {"checkpoint": unfinished, "resume": True}
    for change, message in (
        ({"particles": 512}, "particles was 256 and is 512"),
        ({"islands": 16}, "islands was 32 and is 16"),
        ({"seed": 1}, f"seed was {2**64 - 1} and is 1"),
        ({"schedule": 20}, "schedule was None and is 20"),
        ({"method": "ais"}, "method was smc and is ais"),
        ({"target_error": 0.1}, "target_error was None and is 0.1"),
        ({"kernel": ps.ULA()}, "kernel was None and is ULA"),
        ({"reference": ps.Gaussian(0.0, 1.0, dim=2)}, "reference was None and is Gaussian"),
    ):
        with pytest.raises(ps.InputError, match=rf"z.h5.part belongs to another job \({message}"):
            ps.estimate_log_z(functions(), **same | change)
    with pytest.raises(ps.InputError, match=r"another job \(target was from_functions and is Gaussian"):
        ps.estimate_log_z(ps.Gaussian(0.0, 1.0, dim=2), **same)
    other = functions(ps.GaussianMixture([1, 3], [[0.0, 0.0], [3.0, 1.01]], 1.0))  # of the same name
    message = r"another job \(the energies of from_functions.* at its states are others\): resume it with"
    with pytest.raises(ps.InputError, match=message):
        ps.estimate_log_z(other, **same)
    expected = ps.estimate_log_z(functions(), **QUICK)
    assert_same(ps.estimate_log_z(functions(), **same), expected)
    before = unfinished.stat().st_mtime_ns
    assert_same(ps.estimate_log_z(functions(), **same), expected)  # there is nothing left to do
    assert unfinished.stat().st_mtime_ns == before
    with pytest.raises(ps.InputError, match=message):
        ps.estimate_log_z(other, **same)
    with pytest.raises(ps.InputError, match="seed was"):
        ps.estimate_log_z(functions(), **same | {"seed": 1})


def test_another_reference_of_the_same_name_is_refused(tmp_path, in_pieces, monkeypatch):
    job = QUICK | {"checkpoint": tmp_path / "z.h5", "resume": True}
    interrupted(monkeypatch, TARGET, ps.Gaussian(0.0, 1.0, dim=2), **job)
    with pytest.raises(ps.InputError, match=r"resume it with the same target and reference"):
        ps.estimate_log_z(TARGET, ps.Gaussian(0.0, 2.0, dim=2), **job)


def test_existing_files_are_kept(tmp_path):
    path = tmp_path / "z.h5"
    found = ps.estimate_log_z(TARGET, **QUICK, checkpoint=path)
    before = path.read_bytes()
    for function in (
        lambda: ps.estimate_log_z(TARGET, **QUICK, checkpoint=path),
        lambda: ps.save(path, found),
    ):
        with pytest.raises(ps.InputError, match=r"z.h5 exists: use --overwrite"):
            function()
    assert path.read_bytes() == before
    ps.estimate_log_z(TARGET, **QUICK | {"seed": 3}, checkpoint=path, overwrite=True)
    assert ps.load(path).seed == 3
    ps.save(path, found, overwrite=True)
    assert_same(ps.load(path), found)
    with pytest.raises(ps.InputError, match="there is no folder"):
        ps.estimate_log_z(TARGET, checkpoint=tmp_path / "no" / "z.h5")


def test_unreadable_files(tmp_path, unfinished):
    part = tmp_path / "z.h5.part"
    with pytest.raises(ps.InputError, match=r"z.h5.part holds an unfinished estimate: the same command with"):
        ps.load(part)
    with h5py.File(part, "r+") as file:
        del file["state"]
    path = tmp_path / "done.h5"
    ps.estimate_log_z(TARGET, **QUICK, checkpoint=path)
    whole = path.read_bytes()
    for change, message in (
        (lambda file: file.attrs.modify("format_version", 99), "has format version 99 and this is physscore"),
        (lambda file: file.attrs.modify("kind", "run"), "is not a file of a physscore estimate"),
        (lambda file: file.pop("rungs"), "cannot be read: it is damaged"),
        (lambda file: file.attrs.modify("estimate", "{"), "cannot be read: it is damaged"),
    ):
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            change(file)
        with pytest.raises(ps.InputError, match=rf"done.h5 {message}"):
            read_log_z(path)
    path.write_bytes(whole[: len(whole) // 2])
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1.0
    ps.save(tmp_path / "field.h5", ps.Fields(FIELD.sample(1, seed=1)[0], FIELD.grid))
    for name, message in (
        ("done", "cannot be read: it is truncated"), ("foreign", "is not a file"),
        ("field", "is not a file of"), ("none", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(ps.InputError, match=rf"{name}.h5 {message}"):
            read_log_z(tmp_path / f"{name}.h5")
        if name != "none":  # nor are they gone on with
            with pytest.raises(ps.InputError, match=rf"{name}.h5 "):
                ps.estimate_log_z(TARGET, **QUICK, checkpoint=tmp_path / f"{name}.h5", resume=True)
    with pytest.raises(ps.InputError, match=r"z.h5.part cannot be read: it is damaged"):
        ps.estimate_log_z(functions(), **QUICK, checkpoint=unfinished, resume=True)


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ps.InputError, match=r"z.h5.part cannot be written: the disk is full"):
        ps.estimate_log_z(TARGET, **QUICK, checkpoint=tmp_path / "z.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_estimate_leaves_no_file(tmp_path):
    local = ps.from_functions(energy_and_score=lambda x: (0.5 * (x**2).sum(axis=1), -x), shape=2)
    with pytest.raises(ps.InputError, match="workers is 2, but from_functions cannot be sent"):
        ps.estimate_log_z(local, **QUICK, workers=2, checkpoint=tmp_path / "z.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("second", [{"seed": 2}, {"seed": 2, "overwrite": True}])
def test_two_jobs_do_not_replace_each_other(tmp_path, monkeypatch, second):
    """Another job writes the same file meanwhile: the one that is refused says so, and which one that is."""
    monkeypatch.setattr("physscore.store.evidence._EVERY", 0.0)
    monkeypatch.setattr("physscore.store.evidence._SHARE", 1.0)
    calls = 0

    def job(meanwhile=None, **options):
        def energy_and_score(x):
            nonlocal calls
            calls += 1
            if meanwhile is not None and calls == 100:
                meanwhile()
            return 0.5 * (x**2).sum(axis=1), -x

        target = ps.from_functions(energy_and_score=energy_and_score, shape=2, name="mine")
        reference = ps.Gaussian(0.0, 2.0, dim=2)
        return ps.estimate_log_z(
            target, reference=reference, particles=256, checkpoint=tmp_path / "z.h5", **options
        )

    with pytest.raises(ps.InputError, match=r"z.h5 exists|belongs to another job \(seed was 1 and is 2\)"):
        job(lambda: job(**second), seed=1)
