"""``physscore train``, ``sample -n`` and ``audit`` of what they make, as a user calls them."""

import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import physscore as ps
from physscore.cli import physscore

GRID = ps.Grid((16, 16), 32.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("train")
    field = ps.LognormalField(GRID, ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
    with h5py.File(path / "maps.h5", "w") as file:
        file["train/maps"] = 1 + field.sample(200, seed=1).astype(np.float32)
        file["test/maps"] = 1 + field.sample(60, seed=2).astype(np.float32)
        file["train/vectors"] = ps.Gaussian([0.0, 1.0], [1.0, 2.0]).sample(500, seed=1)
        file.attrs["BoxSize"] = 32.0
        file.attrs["BoxSize_unit"] = "Mpc/h"
        file.attrs["quantity"] = "1+delta"
    return path


def call(*arguments, code=0):
    result = CliRunner().invoke(physscore, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


@pytest.fixture(scope="module")
def score(folder):
    path = folder / "score.safetensors"
    out = call("train", folder / "maps.h5", "--dataset", "train/maps", "-o", path, "--steps", 3, "--batch", 8,
               "--validation", "test/maps", "--json")  # fmt: skip
    found = json.loads(out)
    assert found["kind"] == "score"
    assert found["about"]["training"]["steps"] == 3
    return path


def test_from_maps_to_new_maps_and_their_audit(folder, score):
    new = folder / "new.h5"
    call("sample", score, "-n", 8, "-o", new, "--steps", 4, "--plot")
    assert (folder / "new.png").exists()
    with h5py.File(new) as file:
        assert file["fields/maps"].shape == (8, 16, 16)
        assert file["fields/maps"].attrs["long_name"] == "1+delta"
        assert (file["fields/maps"][...] > 0).all()  # what the data are: positive
        assert file["Header"].attrs["BoxSize"][0] == 32.0
    again = call("sample", score, "-n", 8, "-o", new, "--steps", 4, "--resume", "--json")
    assert json.loads(again)["states"] == 8
    fields = ps.load(new)
    assert fields.delta.shape == (8, 16, 16)
    result = CliRunner().invoke(
        physscore,
        ["audit", str(new), "--reference", str(folder / "maps.h5"), "--dataset", "test/maps", "--json"],
    )
    assert result.exit_code in (0, 1), result.output
    call("info", new)
    call("info", score)


def test_a_score_is_audited_too(folder):
    score = folder / "small.safetensors"
    network = ps.learning.UNet(2, channels=(2,), blocks=1, inputs=2)
    with h5py.File(folder / "maps.h5") as file:
        maps = file["train/maps"][...]
    ps.learning.train(network, maps, steps=3, batch=8, output=score)
    result = CliRunner().invoke(
        physscore,
        ["audit", str(score), "--reference", str(folder / "maps.h5"), "--dataset", "test/maps",
         "--states", "8", "--evaluations", "300", "--json"],
    )  # fmt: skip
    assert result.exit_code in (0, 1), result.output
    assert "curl" in result.output


def test_vectors(folder):
    path = folder / "vectors.safetensors"
    out = call("train", folder / "maps.h5", "--dataset", "train/vectors", "-o", path, "--steps", 50)
    assert "validation loss" in out
    call("sample", path, "-n", 10, "-o", folder / "vectors.h5")
    with h5py.File(folder / "vectors.h5") as file:
        assert file["draws"].shape == (10, 2)
    call("info", folder / "vectors.h5")


def test_an_energy_is_sampled_by_chains_and_counted(folder):
    path = folder / "energy.safetensors"
    call("train", folder / "maps.h5", "--dataset", "train/vectors", "-o", path, "--steps", 50,
         "--kind", "energy", "--loss", "denoising", "--sigma", 0.3)  # fmt: skip
    out = call("sample", path, "--chains", 32, "--steps", 50, "--json")
    assert json.loads(out)["chains"] == 32
    result = CliRunner().invoke(physscore, ["logz", str(path), "--json", "--particles", "100"])
    assert result.exit_code in (0, 1), result.output
    assert "log_z" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "maps.h5", "-o", "a.h5"], "must end in .safetensors"),
        (["train", "maps.h5", "-o", "a.safetensors"], "no dataset 'fields/delta'"),
        (["train", "none.h5", "-o", "a.safetensors"], "does not exist"),
        (
            ["train", "maps.h5", "--dataset", "train/maps", "-o", "a.safetensors", "--coarse", "x"],
            "falling factors",
        ),
        (
            ["train", "maps.h5", "--dataset", "train/maps", "-o", "a.safetensors", "--model", "mlp"],
            "for vectors",
        ),
        (["train", "maps.h5", "--dataset", "train/maps", "-o", "score.safetensors"], "exists"),
        (["sample", "score.safetensors", "-n", "3"], "-o new.h5"),
        (
            ["sample", "score.safetensors", "-n", "3", "-o", "b.h5", "--metric", "dense"],
            "--metric is for chains",
        ),
        (["sample", "funnel", "-n", "3", "-o", "b.h5"], "-n is for learned scores"),
        (["sample", "none.safetensors", "-n", "3", "-o", "b.h5"], "does not exist"),
        (
            ["sample", "score.safetensors", "-p", "a=1", "-n", "3", "-o", "b.h5"],
            "0 parameters|parameters are",
        ),
    ],
)
def test_bad_input(arguments, words, folder, score, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(physscore, arguments)
    assert result.exit_code != 0
    import re

    assert re.search(words, result.output + str(result.exception))


def test_fields_in_one_dimension_are_no_vectors(tmp_path):
    """Our own files say that they hold fields; without a word, as the help has it, a U-Net learns them."""
    path = tmp_path / "line.h5"
    fields = ("field", "--grid", 32, "--dim", 1, "--box", 100, "--spectrum", "powerlaw:index=-1", "-n", 20)
    assert CliRunner().invoke(physscore, [str(a) for a in (*fields, "-o", path)]).exit_code in (0, 1)
    settings = ("--steps", 2, "--batch", 4, "-o", tmp_path / "m.safetensors", "--json")
    found = json.loads(call("train", path, *settings))
    assert found["architecture"]["network"] == "unet"
    found = json.loads(call("train", path, *settings, "--overwrite", "--dataset", "spectra/power"))
    assert found["architecture"]["network"] == "mlp"  # numbers about the fields
