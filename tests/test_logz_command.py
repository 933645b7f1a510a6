"""``physscore logz``, as a user meets it: what it prints, writes and refuses."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import physscore

import physscore as ps
from physscore.cli.logz import _names

NAMESAKE = """
import physscore as ps

class Own(ps.Energy):
    shape = (1,)

    def energy_and_score(self, x):
        return 0.5 * (x[:, 0] / {width}) ** 2, -x / {width}**2

def own():
    return Own()
"""
QUICK = ("--particles", 256, "--islands", 16)
MODEL = """
import time
import numpy as np
import physscore as ps

DATA = [0.5, 0.2]

def posterior(width=1.0, noise=1.0):
    return ps.Parameters(a=ps.Normal(0.0, 1.0), b=ps.Normal(0.0, width)) + ps.GaussianNoise(DATA, noise)

def fixed(noise=1.0):
    return ps.Parameters(a=ps.Normal(0.0, 1.0), b=ps.Normal(0.0, 1e-3)) + ps.GaussianNoise(DATA, noise)

energy = ps.Gaussian(0.0, 1.0, dim=2)

def quartic(x):
    return 0.25 * (x**4).sum(axis=1)

def cubic(x):
    return -(x**3)

def own():
    from physscore.evidence import job
    job._AT_ONCE = 1  # many units, in a process that does nothing else
    return ps.from_functions(energy=quartic, score=cubic, shape=2)

def slow(pause=0.002):
    def both(x):
        time.sleep(pause)
        return energy.energy_and_score(x)
    return ps.from_functions(energy_and_score=both, shape=2, name="slow")

def wrong():
    return ps.from_functions(energy=energy.energy, score=lambda x: -1.2 * x, shape=2, name="wrong")

def nowhere():
    return ps.from_functions(energy=lambda x: np.full(len(x), np.inf), score=lambda x: -x, shape=2)
"""


def evidence(width, noise):
    """Return log p of the data: normal, with prior and noise."""
    variances = np.array([1.0, width**2]) + noise**2
    return float(-0.5 * (np.array([0.5, 0.2]) ** 2 / variances + np.log(2 * math.pi * variances)).sum())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_model.py").write_text(MODEL)
    return tmp_path


def test_built_in_to_file_to_info(folder):
    out = physscore(
        "logz", "ising", "-p", "size=4", "-p", "coupling=0.3", *QUICK, "-o", "z.h5", "--plot", cwd=folder
    )
    expected = ps.estimate_log_z(ps.Ising((4, 4), coupling=0.3), particles=256, islands=16)
    assert out.stdout.startswith(f"{expected}\nexact ")
    assert " errors away\nfile: z.h5\npicture: z.png\n" in out.stdout
    assert out.stderr == ""  # no progress bar in a pipe
    assert (folder / "z.png").read_bytes().startswith(b"\x89PNG")
    found = ps.load(folder / "z.h5")
    assert found.summary() == expected.summary()
    info = physscore("info", "z.h5", cwd=folder).stdout
    assert info.startswith(f"{expected}\nmade: ")
    about = json.loads(physscore("info", "z.h5", "--json", cwd=folder).stdout)
    assert about["kind"] == "evidence"
    assert about["log_z"] == expected.log_z


def test_own_model_as_json(folder):
    out = physscore(
        "logz", "my_model.py:posterior", "-p", "width=2", "-p", "noise=0.5", "-k", "hmc", "--method", "ais",
        "--reference", "fitted", "--temperatures", 12, "--seed", 5, *QUICK, "--json", cwd=folder,
    )  # fmt: skip
    found = json.loads(out.stdout)
    assert found["model"] == "my_model.py:posterior"
    assert set(ps.estimate_log_z(ps.Gaussian(0, 1, dim=1), particles=64).summary()) | {"model"} == set(found)
    assert (found["verdict"], found["method"], found["temperatures"], found["seed"]) == ("pass", "ais", 13, 5)
    assert (found["islands"], found["particles"]) == (16, 256)
    assert found["kernel"].startswith("HMC(")
    assert found["reference"].startswith("Gaussian(dim=2")
    assert abs(found["log_z"] - evidence(2.0, 0.5)) < 5 * found["error"]
    assert [path.name for path in folder.iterdir() if path.suffix in (".h5", ".png")] == []


def test_target_error_is_met(folder):
    out = physscore("logz", "mixture", *QUICK, "--target-error", 0.02, "--json", cwd=folder)
    found = json.loads(out.stdout)
    assert found["error"] <= 0.02
    assert found["exact"] == 0.0
    assert abs(found["log_z"]) < 5 * found["error"]


def test_own_models_go_to_other_processes(folder, monkeypatch):
    """Each way is a task of its own, so two processes are at work."""
    monkeypatch.setattr("physscore.evidence.job._AT_ONCE", 1)  # which the model sets, too
    job = ("logz", "my_model.py:own", "--particles", 1024, "--islands", 16, "--json")
    alone = physscore(*job, cwd=folder).stdout
    assert json.loads(alone) == json.loads(
        physscore(*job, "--workers", 2, cwd=folder, own_process=True).stdout
    )


def test_models_are_compared(folder):
    models = ("my_model.py:posterior", "my_model.py:fixed", "my_model.py:energy")
    job = ("logz", *models, "-p", "noise=0.5", "-p", "width=2", "--seed", 3, "-o", "z.h5", "--plot")
    out = physscore(*job, cwd=folder).stdout.splitlines()
    assert out[0].split() == ["log", "Z", "error", "verdict", "ln", "B", "error"]
    rows = [line.split() for line in out[1:4]]
    names = ["my_model-posterior", "my_model-fixed", "my_model-energy"]
    assert [row[0] for row in rows] == names
    assert [row[3] for row in rows] == ["pass"] * 3
    exact = [evidence(2.0, 0.5), evidence(1e-3, 0.5), 0.0]
    for row, value in zip(rows, exact, strict=True):
        assert abs(float(row[1]) - value) <= 5 * float(row[2])
    assert rows[0][4:] == ["0"]
    for row, value in zip(rows[1:], exact[1:], strict=True):
        assert abs(float(row[4]) - (value - exact[0])) < 5 * float(row[5])
    wanted = [f"{what}: z-{name}.{ending}" for name in names
              for what, ending in (("file", "h5"), ("picture", "png"))]  # fmt: skip
    assert out[4:] == wanted
    assert ps.load(folder / "z-my_model-fixed.h5").log_z == pytest.approx(float(rows[1][1]), abs=1e-3)
    found = json.loads(physscore(*job, "--resume", "--json", cwd=folder).stdout)
    assert [one["model"] for one in found] == list(models)
    factor = found[1]["bayes_factor"]
    assert factor["against"] == models[0]
    assert factor["log_factor"] == pytest.approx(found[1]["log_z"] - found[0]["log_z"])
    assert "bayes_factor" not in found[0]


def test_exact_values_stand_in_the_table(folder):
    out = physscore(
        "logz", "gaussian", "mixture", "my_model.py:energy", *QUICK, "-p", "variance=2", cwd=folder
    )
    assert out.stdout.splitlines()[0].split()[-1] == "exact"
    assert [float(line.split()[-1]) for line in out.stdout.splitlines()[1:3]] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["a/m.py:e", "b/m.py:e"], ["a-m-e", "b-m-e"]),
        (["m.py:e", "a/m.py:e", "gaussian"], ["m-e", "a-m-e", "gaussian"]),
        (["/x/a/m.py:e", "/y/a/m.py:e"], ["x-a-m-e", "y-a-m-e"]),
        (["/m.py:e", "m.py:e"], ["-m-e", "m-e"]),
    ],
)
def test_folders_tell_models_of_one_name_apart(models, names):
    assert _names(models) == names


def test_models_of_one_name_are_compared(folder):
    """Each with what is its own, in other processes, too."""
    for name, width in (("one", 1.0), ("two", 3.0)):
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(NAMESAKE.format(width=width))
    models = ("one/model.py:own", "two/model.py:own")
    out = physscore("logz", *models, *QUICK, "--json", "--workers", 2, cwd=folder)
    for found, width in zip(json.loads(out.stdout), (1.0, 3.0), strict=True):
        assert abs(found["log_z"] - 0.5 * math.log(2 * math.pi * width**2)) < 4.5 * found["error"] + 1e-9


def test_what_is_not_to_be_trusted_exits_with_one(folder):
    out = physscore("logz", "my_model.py:wrong", *QUICK, cwd=folder, code=1)
    assert "   (failed)\n  " in out.stdout
    assert "the score does not fit the energy" in out.stdout
    out = physscore("logz", "my_model.py:wrong", *QUICK, "--json", cwd=folder, code=1)
    assert json.loads(out.stdout)["verdict"] == "failed"
    out = physscore("logz", "my_model.py:energy", "my_model.py:wrong", *QUICK, cwd=folder, code=1)
    assert "\nmy_model-wrong: the score does not fit the energy" in out.stdout


def test_verified_by_simulated_data(folder):
    job = ("logz", "my_model.py:posterior", *QUICK, "--verify")
    out = physscore(*job, cwd=folder).stdout
    assert ": log Z of simulated data is verified\n  lower " in out
    found = json.loads(physscore(*job, "--json", cwd=folder).stdout)
    assert found["verification"]["passed"] is True
    few = ("-p", "noise=0.001", "--temperatures", 2)
    out = physscore(*job, *few, cwd=folder, code=1).stdout
    assert "NOT VERIFIED" in out


REFUSED = {
    "no model": ((), "Missing argument 'MODEL...'"),
    "unknown model": (("funel",), "model is 'funel': it must be one of"),
    "missing file": (("none.py:posterior",), "there is no file none.py"),
    "wrong parameter": (("my_model.py:posterior", "-p", "gamma=1"), "does not take these -p"),
    "nobody's parameter": (
        ("gaussian", "my_model.py:posterior", "-p", "noise=1", "-p", "gamma=1"),
        "none of the models gaussian, my_model.py:posterior takes -p gamma",
    ),
    "parameter's form": (("gaussian", "-p", "dim"), "'dim' must be name=value"),
    "twice": (("gaussian", "funnel", "gaussian"), "two of them are called gaussian, and each"),
    "particles": (("gaussian", "--particles", "4"), "particles is 4"),
    "islands": (("gaussian", "--islands", "2"), "islands is 2"),
    "islands and particles": (
        ("gaussian", "--islands", "16", "--particles", "16"),
        "islands is 16 and particles 16",
    ),
    "temperatures": (("gaussian", "--temperatures", "0"), "--temperatures is 0"),
    "target error": (("gaussian", "--target-error", "-1"), "target_error is -1.0"),
    "workers": (("gaussian", "--workers", "0"), "workers is 0"),
    "kernel": (("gaussian", "-k", "underdamped"), "'underdamped' is not one of"),
    "method": (("gaussian", "--method", "nested"), "'nested' is not one of"),
    "reference": (("gaussian", "--reference", "prior"), "'prior' is not"),
    "nowhere": (("my_model.py:nowhere",), "give a reference that covers the target"),
    "no prior to verify": (("gaussian", "--verify"), "it must be prior + likelihood, to simulate data from"),
    "resume what": (("gaussian", "--resume"), "--resume needs the file to go on with: -o name.h5"),
    "no folder": (("gaussian", "-o", "no/z.h5"), "there is no folder"),
    "existing": (("gaussian", "-o", "my_model.py"), "my_model.py exists: use --overwrite"),
    "existing, resumed": (("gaussian", "-o", "my_model.py", "--resume"), "my_model.py is not an HDF5 file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence_and_code_two(folder, name):
    options, message = REFUSED[name]
    out = physscore("logz", *options, cwd=folder, code=2)
    assert out.stdout == ""
    sentence = out.stderr.strip().splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert message in sentence
    assert {path.name for path in folder.iterdir()} <= {"my_model.py", "__pycache__"}


def test_interrupted_and_resumed(folder):
    job = ("logz", "my_model.py:slow", *QUICK)
    physscore(*job, "-p", "pause=0", "-o", "whole.h5", cwd=folder)
    part = folder / "z.h5.part"
    process = subprocess.Popen(
        [sys.executable, "-m", "physscore", *map(str, job), "-p", "pause=0.004", "-o", "z.h5"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and not part.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted: what was finished is kept" in error
    assert "Traceback" not in error
    info = json.loads(physscore("info", "z.h5.part", "--json", cwd=folder).stdout)
    assert (info["kind"], info["complete"], info["target"]) == ("evidence", False, "slow")
    assert "complete: False\n" in physscore("info", "z.h5.part", cwd=folder).stdout
    assert (
        "use --overwrite to replace it or --resume"
        in physscore(*job, "-o", "z.h5", cwd=folder, code=2).stderr
    )
    again = physscore(*job, "-o", "z.h5", "--resume", "--seed", 1, cwd=folder, code=2)
    assert "another job (seed was 0 and is 1)" in again.stderr
    out = physscore(*job, "-p", "pause=0", "-o", "z.h5", "--resume", cwd=folder).stdout
    assert not part.exists()
    found, expected = ps.load(folder / "z.h5"), ps.load(folder / "whole.h5")
    assert found.log_z == expected.log_z
    np.testing.assert_array_equal(found.samples, expected.samples)
    before = os.stat(folder / "z.h5").st_mtime_ns
    assert physscore(*job, "-o", "z.h5", "--resume", cwd=folder).stdout == out  # done: prints the result
    assert os.stat(folder / "z.h5").st_mtime_ns == before
