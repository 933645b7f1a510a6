"""What an output must not do: replace what the job reads, or what is no file, or stay half written."""

import os

import h5py
import numpy as np
import pytest
from commands import physscore

import physscore as ps

SMALL = ("--grid", "8", "--box", "100")
OWN = "import physscore as ps\n\ndef line():\n    return ps.Gaussian(0.0, 1.0, dim=2)\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with a file of each kind that commands read."""
    physscore("field", *SMALL, "-o", "f.h5", cwd=tmp_path)
    physscore("field", *SMALL, "--seed", "2", "-o", "g.h5", cwd=tmp_path)
    physscore("spectrum", "f.h5", "-o", "p.h5", cwd=tmp_path)
    np.savetxt(tmp_path / "table.txt", np.c_[np.geomspace(1e-3, 10, 50), np.ones(50)])
    (tmp_path / "own.py").write_text(OWN)
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["x"] = np.random.default_rng(0).normal(size=(40, 2))
    (tmp_path / "maps.safetensors").symlink_to("maps.h5")
    (tmp_path / "x.h5.part").write_bytes((tmp_path / "f.h5").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "spectrum f.h5 -o f.h5",
        "spectrum f.h5 -o ./f.h5",
        "spectrum x.h5.part -o x.h5",
        "spectrum f.h5 --cross g.h5 -o g.h5",
        "spectrum f.h5 --compare table.txt -o table.txt",
        "field --grid 8 --box 100 --spectrum p.h5:extrapolate=zero -o p.h5",
        "sample own.py:line --steps 50 -o own.py",
        "logz own.py:line --particles 100 -o own.py",
        "train maps.h5 --dataset x --steps 2 -o maps.safetensors",
        "sample maps.safetensors -n 3 -o maps.safetensors",
    ],
)
def test_what_is_read_is_not_replaced(command, folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    error = physscore(*command.split(), "--overwrite", cwd=folder, code=2).stderr
    assert "which is read: give another name" in error
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_training_does_not_replace_its_data(folder):
    from physscore import learning

    before = (folder / "maps.h5").read_bytes()
    x = np.random.default_rng(1).normal(size=(40, 2))
    for data in ({"data": folder / "maps.h5", "dataset": "x"}, {"data": x, "validation": folder / "maps.h5"}):
        if "validation" in data:
            with h5py.File(folder / "maps.h5", "r+") as file:
                file["fields/delta"] = x  # where a validation in a file of its own is looked for
            before = (folder / "maps.h5").read_bytes()
        with pytest.raises(ps.InputError, match="which is read"):
            learning.train("mlp", **data, steps=2, output=folder / "maps.h5", overwrite=True)
        assert (folder / "maps.h5").read_bytes() == before


def test_an_output_that_is_no_file_is_left_alone(folder):
    os.mkfifo(folder / "pipe.h5")
    (folder / "null.h5").symlink_to("/dev/null")
    for name in ("pipe.h5", "null.h5"):
        for command in (
            ("field", *SMALL),
            ("spectrum", "f.h5"),
            ("sample", "gaussian"),
            ("logz", "gaussian"),
        ):
            error = physscore(*command, "-o", name, "--overwrite", cwd=folder, code=2).stderr
            assert f"output {name} is no regular file" in error
        with pytest.raises(ps.InputError, match="no regular file"):
            ps.save(folder / name, ps.load(folder / "f.h5"), overwrite=True)


def test_a_file_may_be_saved_in_its_own_place(folder):
    """What is loaded is in memory: nothing is read from the file any more."""
    for name in ("f.h5", "p.h5"):
        ps.save(folder / name, ps.load(folder / name), overwrite=True)
    assert ps.load(folder / "f.h5").delta.shape == (8, 8, 8)


@pytest.mark.parametrize(
    "command",
    [
        "spectrum f.h5 -o new.h5",
        "sample gaussian --chains 4 --steps 8 --warmup 4 -o new.h5",
        "logz gaussian --particles 16 --islands 4 -o new.h5",
        "field --grid 8 --box 10 -o new.h5",
        "sample m.safetensors -n 40 -o new.h5",
        "train maps.h5 --dataset x --steps 2 -o new.safetensors",
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(command, folder, monkeypatch):
    """HDF5 that cannot write its tables takes the process down at its end: room is asked for first."""
    if "m.safetensors" in command:
        physscore("train", "maps.h5", "--dataset", "x", "--steps", 2, "-o", "m.safetensors", cwd=folder)
    before = sorted(folder.iterdir())
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 28 << 10})())
    done = physscore(*command.split(), cwd=folder, code=2)
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert "are free on its disk" in said
    assert sorted(folder.iterdir()) == before


def test_a_disk_that_runs_full_leaves_nothing(tmp_path, monkeypatch):
    """Between the question and the writing others may take what there was."""

    def full(*_):
        raise OSError(28, "No space left on device")

    field = ps.Fields(np.ones((8, 8)), ps.Grid((8, 8), 1.0))
    run = ps.sample(ps.Gaussian(0.0, 1.0, dim=2), ps.MALA(step_size=1.0), chains=4, steps=8, warmup=0)
    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr("physscore.store.fields.reserve", full)
    for what in (field, ps.power_spectrum(np.random.default_rng(0).normal(size=(8, 8)), field.grid), run):
        with pytest.raises(ps.InputError, match="cannot be written: the disk is full"):
            ps.save(tmp_path / "a.h5", what)
        assert list(tmp_path.iterdir()) == []


def test_no_model_is_half_written(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    from physscore import learning
    from physscore.learning import files

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    fit = learning.train("mlp", np.random.default_rng(0).normal(size=(40, 2)), steps=2)
    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(ps.InputError, match="cannot be written: the disk is full"):
        fit.save(tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
