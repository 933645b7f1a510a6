"""``physscore sample``, as a user meets it: what it prints, writes and refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from commands import physscore

import physscore as ps

QUICK = ("--chains", 16, "--steps", 400, "--warmup", 100)
MODEL = """
import time
import physscore as ps

def posterior(beta=1.0, width=1.0):
    prior = ps.Parameters(a=ps.Normal(0.0, 1.0), b=ps.Normal(beta, width))
    return prior + ps.GaussianNoise([0.5, 0.2], 1.0)

def slow(pause=0.002):
    target = ps.Gaussian(0.0, 1.0, dim=2)
    def both(x):
        time.sleep(pause)
        return target.energy_and_score(x)
    return ps.from_functions(energy_and_score=both, shape=2, name="slow")

def far():
    return ps.GaussianMixture([0.5, 0.5], [[-10.0], [10.0]], 1.0)

def fails(x):
    return x["a"]

def runs_away():
    return ps.from_functions(energy=lambda x: x[:, 0] ** 4, score=lambda x: -4 * x**3, shape=1)

def bad_score():
    return ps.from_functions(energy=lambda x: x[:, 0] ** 2, score=lambda x: -2 * x[:, 0], shape=1)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_model.py").write_text(MODEL)
    return tmp_path


def test_built_in_to_file_to_info(folder):
    out = physscore(
        "sample", "gaussian", "-p", "dim=3", "-p", "variance=4", *QUICK, "-o", "run.h5", "--plot", cwd=folder
    )
    assert "Gaussian(dim=3): 400 draws of 16 chains, MALA with step size" in out.stdout
    assert "fused loop" in out.stdout
    assert "component (2,)" in out.stdout
    assert "\nmixed\nfile: run.h5\npicture: run.png\n" in out.stdout
    assert out.stderr == ""  # no progress bar in a pipe
    assert (folder / "run.png").read_bytes().startswith(b"\x89PNG")
    expected = ps.sample(ps.Gaussian(0.0, 4.0, dim=3), chains=16, steps=400, warmup=100)
    np.testing.assert_array_equal(ps.load(folder / "run.h5").draws[...], expected.draws)
    info = physscore("info", "run.h5", cwd=folder).stdout
    assert info.startswith(str(expected))
    assert "by physscore" in info
    found = json.loads(physscore("info", "run.h5", "--json", cwd=folder).stdout)
    assert found["kind"] == "run"
    assert found["components"] == expected.summary()["components"]


def test_own_model_as_json(folder):
    out = physscore("sample", "my_model.py:posterior", "-p", "beta=2", "-k", "hmc", "--metric", "dense",
                    "--leapfrogs", 3, *QUICK, "--thin", 2, "--seed", 5, "--json", cwd=folder,
                    own_process=True)  # fmt: skip
    found = json.loads(out.stdout)
    wanted = {"target", "kernel", "step_size", "loop", "chains", "draws", "thin", "warmup", "seed", "shape",
              "complete", "acceptance", "divergent_chains", "divergent_steps", "drift_to_noise", "mixed",
              "reasons", "components"}  # fmt: skip
    assert set(found) == wanted
    assert (found["kernel"], found["draws"], found["thin"], found["seed"]) == ("HMC", 200, 2, 5)
    for name, mean in (("a", 0.25), ("b", 1.1)):  # a Gaussian prior of width 1 and data of width 1
        row = found["components"][name]
        assert set(row) == {"mean", "std", "error", "r_hat", "ess_bulk", "ess_tail"}
        assert abs(row["mean"] - mean) < 6 * row["error"]
    assert [path.name for path in folder.iterdir() if path.suffix in (".h5", ".png")] == []


def test_every_kernel(folder):
    for options in (
        ("ula", "--bias", 0.05),
        ("automala",),
        ("underdamped", "--friction", 2, "--metropolised"),
    ):
        out = physscore(
            "sample", "gaussian", "-k", *options, "--chains", 64, "--steps", 600, "--json", cwd=folder
        )
        assert json.loads(out.stdout)["mixed"] is True


def test_field_is_drawn_with_its_spectrum(folder):
    physscore(
        "sample", "phi4", "-p", "size=8", "-k", "hmc", "--metric", "fourier", *QUICK, "--plot", cwd=folder
    )
    assert (folder / "phi4.png").stat().st_size > 10_000


def test_what_has_not_mixed_exits_with_one(folder):
    out = physscore("sample", "my_model.py:far", *QUICK, cwd=folder, code=1)
    assert "not to be trusted:\n  has not mixed: R-hat is" in out.stdout
    out = physscore("sample", "my_model.py:far", *QUICK, "--json", cwd=folder, code=1)
    assert json.loads(out.stdout)["mixed"] is False


def test_lost_chains_exit_with_one(folder):
    options = ("-k", "ula", "--step-size", 100, "--warmup", 0, "--chains", 4, "--steps", 50)
    for more in ((), ("--json",), ("--plot",)):
        out = physscore("sample", "my_model.py:runs_away", *options, *more, cwd=folder, code=1)
        assert "4 of 4 chains diverged: use a smaller step" in out.stdout
        assert [line.split(":")[0] for line in out.stderr.splitlines()] == ["Warning"]


REFUSED = {
    "unknown model": (("funel",), "model is 'funel': it must be one of"),
    "missing file": (("none.py:posterior",), "there is no file none.py"),
    "missing name": (("my_model.py:prior",), "my_model.py has no 'prior'"),
    "no name": (("my_model.py",), "say which of its names"),
    "wrong parameter": (("my_model.py:posterior", "-p", "gamma=1"), "does not take these -p"),
    "parameter's form": (("gaussian", "-p", "dim"), "'dim' must be name=value"),
    "bad value": (("my_model.py:posterior", "-p", "width=-1"), "is -1"),
    "error in the file": (("my_model.py:fails", "-p", "x=1"), "line 20: TypeError"),
    "bad score": (("my_model.py:bad_score",), r"score(x) returned (64,), expected (64, 1)"),
    "step": (("gaussian", "--step-size", "big"), "'big' must be a number or \"auto\""),
    "negative step": (("gaussian", "--step-size", "-1"), "step_size is -1.0: it must be a positive number"),
    "foreign option": (
        ("gaussian", "--friction", "1"),
        "--friction is for --kernel underdamped, not for mala",
    ),
    "kernel": (("gaussian", "-k", "nuts"), "'nuts' is not one of"),
    "prior": (("ring", "-k", "crank-nicolson"), "has no prior"),
    "thin": (("gaussian", "--thin", "2000"), "thin is 2000 and steps 1000"),
    "chains": (("gaussian", "--chains", "0"), "chains is 0"),
    "resume what": (("gaussian", "--resume"), "--resume needs the file to go on with: -o name.h5"),
    "no folder": (("gaussian", "-o", "no/run.h5"), "there is no folder"),
    "existing": (("gaussian", "-o", "my_model.py"), "my_model.py exists: use --overwrite"),
    "existing, resumed": (("gaussian", "-o", "my_model.py", "--resume"), "my_model.py is not an HDF5 file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence_and_code_two(folder, name):
    options, message = REFUSED[name]
    out = physscore("sample", *options, cwd=folder, code=2)
    assert out.stdout == ""
    sentence = out.stderr.strip().splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert message in sentence
    assert {path.name for path in folder.iterdir()} <= {"my_model.py", "__pycache__"}


def test_interrupted_and_resumed(folder):
    job = ("sample", "my_model.py:slow", "--chains", 4, "--steps", 1500, "--warmup", 100)
    physscore(*job, "-p", "pause=0", "-o", "whole.h5", cwd=folder)
    part = folder / "run.h5.part"
    process = subprocess.Popen(
        [sys.executable, "-m", "physscore", *map(str, job), "-o", "run.h5"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and not part.exists():
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 130, error
    assert "interrupted: what was finished is kept" in error
    assert "Traceback" not in error
    info = json.loads(physscore("info", "run.h5.part", "--json", cwd=folder).stdout)
    assert info["complete"] is False
    assert 0 < info["draws"] < 1500
    assert (
        "use --overwrite to replace it or --resume"
        in physscore(*job, "-o", "run.h5", cwd=folder, code=2).stderr
    )
    assert (
        "another job (seed was 0 and is 1)"
        in physscore(*job, "-o", "run.h5", "--resume", "--seed", 1, cwd=folder, code=2).stderr
    )
    physscore(*job, "-p", "pause=0", "-o", "run.h5", "--resume", cwd=folder)
    assert not part.exists()
    with h5py.File(folder / "run.h5") as found, h5py.File(folder / "whole.h5") as expected:
        for name in ("samples/x", "samples/energy"):
            np.testing.assert_array_equal(found[name][...], expected[name][...])
    before = os.stat(folder / "run.h5").st_mtime_ns
    out = physscore(*job, "-o", "run.h5", "--resume", cwd=folder)  # done: prints the result
    assert "1500 draws of 4 chains" in out.stdout
    assert os.stat(folder / "run.h5").st_mtime_ns == before
