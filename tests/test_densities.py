"""Densities and counts are no contrast: ``physscore spectrum`` says so, or measures x / mean - 1."""

import json
import warnings

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import physscore as ps
from physscore.cli.spectrum import command
from physscore.diagnostics.comparison import Verdict
from physscore.store import FieldFile

GRID = ps.Grid((8, 6, 4), (8.0, 6.0, 4.0))
DELTA = np.random.default_rng(0).uniform(-0.5, 0.5, (2, *GRID.shape))
DELTA -= DELTA.mean(axis=(1, 2, 3), keepdims=True)
BOX = ("--box", "8,6,4")


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["rho"] = (8e10 * (1 + DELTA)).astype("f4")
        file["counts"] = np.random.default_rng(1).poisson(5.0, (2, *GRID.shape)).astype("i4")
        file["delta"], file["nothing"], file["name"] = DELTA, np.zeros((2, *GRID.shape)), "a"
    return tmp_path / "maps.h5"


def call(*words):
    done = CliRunner().invoke(command, [str(word) for word in words], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.mark.parametrize("memory", [(), ("--memory", "8MB")])
@pytest.mark.parametrize("dataset", ["rho", "counts"])
def test_contrast(path, dataset, memory):
    with h5py.File(path) as file:
        x = file[dataset][...].astype("f8")
    x /= x.mean(axis=(1, 2, 3), keepdims=True)
    words = (path, "--dataset", dataset, *BOX, *memory, "--json")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = json.loads(call(*words, "--contrast"))
    expected = ps.power_spectrum(x - 1, GRID, bins="linear")
    np.testing.assert_allclose(found["power"], expected.power, rtol=1e-5)
    with pytest.warns(UserWarning, match=r"no negative value, as densities .* is measured with --contrast"):
        call(*words)


def test_what_may_be_a_contrast_is_no_density(path, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(path, "--dataset", "delta", *BOX)
    for dataset, message in (("delta", "has the value -0"), ("nothing", "has the sum 0: a contrast needs")):
        with pytest.raises(ps.InputError, match=message):
            call(path, "--dataset", dataset, *BOX, "--contrast")
    positive = ps.Fields(np.abs(DELTA), GRID, settings={"command": "field"})  # some cells of a contrast
    ps.save(tmp_path / "cells.h5", positive)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(tmp_path / "cells.h5")


def test_a_density_is_read_in_pieces(path, monkeypatch):
    monkeypatch.setattr("physscore.store.field_file._PIECE", 300)
    with FieldFile(path, dataset="rho", box_size=GRID.box_size, contrast=True) as fields:
        assert fields.is_density(1)
        np.testing.assert_allclose(fields.read(1), DELTA[1], atol=1e-6)
        np.testing.assert_array_equal(fields.view(1)[2:5, 1], fields.read(1)[2:5, 1])
        assert fields.read(1).dtype == np.float32


def test_a_box_is_for_what_is_not_ours(path, tmp_path):
    np.save(tmp_path / "d.npy", DELTA)
    with pytest.raises(ps.InputError, match=r"d.npy is not an HDF5 file"):
        call(tmp_path / "d.npy", *BOX)
    known = r"maps.h5 is not .* with --dataset: counts, delta, nothing, rho, and the side"
    for words in ((path,), (path, *BOX)):
        with pytest.raises(ps.InputError, match=known):
            call(*words)
    ps.save(tmp_path / "ours.h5", ps.Fields(DELTA, GRID))
    with pytest.raises(ps.InputError, match=r"ours.h5 says its own; --box is for a --dataset"):
        call(tmp_path / "ours.h5", *BOX)


def test_huge_numbers_of_a_verdict_are_short():
    text = str(Verdict(1.234567890123e30, 21, 0.0, 6.502e21, 0.01, 37.0))
    assert "chi2 = 1.23457e+30 for" in text
    assert "amplitude 6.502e+21 +-" in text
    text = str(Verdict(27706.73, 28000, 0.9, 0.9993312, 0.0005, -1.4))
    assert "chi2 = 27706.7 for 28000 bins (p = 0.9), amplitude 0.999331 +- 0.0005" in text
