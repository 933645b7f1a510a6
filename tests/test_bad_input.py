"""Plain bad input, and options that do nothing where they stand: one sentence, and exit code 2."""

import math
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from commands import physscore

import physscore as ps

GRID = ps.Grid((8, 8), 8.0)


@pytest.mark.parametrize("redshift", ["abc", math.nan, math.inf, -1, [1.0, 2.0]])
def test_fields_have_a_redshift_that_can_be_one(redshift):
    with pytest.raises(ps.InputError, match="redshift is .*: it must be a finite number above -1"):
        ps.Fields(np.ones((8, 8)), GRID, redshift=redshift)


@pytest.mark.parametrize("seed", ["abc", -1, 1.5, 2**64])
def test_fields_have_a_seed_that_can_be_one(seed):
    with pytest.raises(ps.InputError, match="seed is .*: it must be a whole number from 0"):
        ps.Fields(np.ones((8, 8)), GRID, seed=seed)


def test_parameters_that_are_words(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.random.default_rng(0).normal(size=(20, 2))
        file["word"] = np.array(["a"] * 20, dtype="S")
    command = ("train", "x.h5", "--dataset", "x", "--parameters", "word", "--steps", 2, "-o", "m.safetensors")
    assert "parameters has the type |S1" in physscore(*command, cwd=tmp_path, code=2).stderr


def test_a_model_that_ends_the_process(tmp_path):
    (tmp_path / "own.py").write_text("import sys\n\ndef model():\n    sys.exit(3)\n")
    for command in ("sample", "logz"):
        error = physscore(command, "own.py:model", cwd=tmp_path, code=2).stderr
        assert "model 'own.py:model' failed: line 4: SystemExit: 3" in error


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("audit a.h5 --reference a.h5 --seed 3", "--seed is for scores"),
        ("field --grid 8 --box 10 --memory= -o f.h5", "--memory is : it is for"),
        ("field --grid 8 --box 10 --out-of-core --memory= -o f.h5", "memory is ''"),
    ],
)
def test_options_that_would_do_nothing(command, message, tmp_path):
    ps.save(tmp_path / "a.h5", ps.Fields(np.random.default_rng(0).normal(size=(20, 8, 8)), GRID))
    assert message in physscore(*command.split(), cwd=tmp_path, code=2).stderr


def test_an_exact_estimate_is_no_errors_away(tmp_path):
    out = physscore("logz", "gaussian", "--particles", 100, "--islands", 4, cwd=tmp_path).stdout
    assert "nan" not in out
    assert out.splitlines()[-1].startswith("exact ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_an_output_that_is_full(tmp_path):
    ps.save(tmp_path / "a.h5", ps.Fields(np.ones((8, 8)), GRID))
    command = [sys.executable, "-m", "physscore", "info", tmp_path / "a.h5"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "Error: the output cannot be written or read: No space left on device\n"


@pytest.mark.parametrize("module", ["physscore.cli", "click", "physscore.core", "physscore.cli.info", "h5py"])
def test_ctrl_c_while_the_command_is_loaded(module, tmp_path):
    """It comes when a module is asked for, long before a command has anything to keep."""
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "sys.argv[1:] = ['info', 'x']\n"
        "from physscore.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 130


def test_the_picture_of_a_cross_spectrum(tmp_path, monkeypatch):
    """Negative power is drawn, by its size; it says that it is a cross spectrum, and of what."""
    from physscore.plots import fields

    drawn = []
    real = fields.write
    monkeypatch.setattr(fields, "write", lambda figure, path: (drawn.append(figure), real(figure, path)))
    x = np.random.default_rng(0).normal(size=(2, 16, 16))
    for name, field in zip(("one", "two"), x, strict=True):
        ps.save(tmp_path / f"{name}.h5", ps.Fields(field, ps.Grid((16, 16), 16.0)))
    physscore("spectrum", "one.h5", "--cross", "two.h5", "--plot", cwd=tmp_path)
    (figure,) = drawn
    (axes,) = figure.axes
    points = sum(len(container.lines[0].get_xdata()) for container in axes.containers)
    assert points == len(ps.power_spectrum(x[0], ps.Grid((16, 16), 16.0)).k)
    assert all((container.lines[0].get_ydata() > 0).all() for container in axes.containers)
    assert axes.get_legend_handles_labels()[1] == ["measured", "negative: $-P$"]
    assert "cross" in axes.get_ylabel()
    assert figure.get_suptitle().startswith("one.h5 with two.h5")


def test_public_names_are_no_modules_whatever_is_imported_first():
    """A module learning.train would take the place of the function, once it is imported by its name."""
    code = (
        "import pkgutil, types; from importlib import import_module; from physscore import learning\n"
        "for module in pkgutil.iter_modules(learning.__path__, 'physscore.learning.'):\n"
        "    import_module(module.name)\n"
        "wrong = [n for n in learning._HOMES if isinstance(getattr(learning, n), types.ModuleType)]\n"
        "assert not wrong, wrong\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
