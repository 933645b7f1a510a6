"""Fields larger than memory, by the command: the same, within the memory, and whole after any kill."""

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import physscore as ps
from physscore.cli import physscore
from physscore.store import FieldFile
from physscore.store.out_of_core import bytes_of, in_planes

FIELD = ["field", "--box", "100", "--spectrum", "powerlaw:index=-1,amplitude=1", "--seed", "3"]


def run(*args, code=0):
    done = CliRunner().invoke(physscore, [*map(str, args)], standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        if code:
            return str(done.exception)
        raise done.exception
    assert code == 0
    return done.output


def delta_of(path):
    with h5py.File(path) as file:
        return file["fields/delta"][...]


@pytest.mark.parametrize("options", [
    ["--grid", "24,20,18"], ["--grid", "24,20,18", "-n", "2", "--paired", "--fixed", "--dtype", "float64"],
    ["--grid", "24,21,16", "--lognormal"], ["--grid", "40,34", "--dim", "2"],
])  # fmt: skip
def test_it_is_the_same_field(tmp_path, options):
    whole, pieces = tmp_path / "whole.h5", tmp_path / "pieces.h5"
    memory = "900KB" if "--lognormal" in options else "200KB"
    first = json.loads(run(*FIELD, *options, "-o", whole, "--json"))
    second = json.loads(
        run(*FIELD, *options, "-o", pieces, "--json", "--out-of-core", "--memory", memory, "--plot")
    )
    expected = delta_of(whole)
    np.testing.assert_allclose(delta_of(pieces), expected, atol=3e-6 * np.abs(expected).max())
    assert second["check"]["chi2"] == pytest.approx(first["check"]["chi2"], rel=1e-3)
    assert (tmp_path / "pieces.png").stat().st_size > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pieces.h5", "pieces.png", "whole.h5"]
    tables = [
        json.loads(run("spectrum", whole, "--json", "--compare", "powerlaw:index=-1,amplitude=1", *more))
        for more in ([], ["--memory", memory])
    ]
    np.testing.assert_allclose(tables[1]["power"], tables[0]["power"], rtol=1e-5)
    assert tables[1]["check"]["chi2"] == pytest.approx(tables[0]["check"]["chi2"], rel=1e-4)


def test_some_cells_of_a_field(tmp_path):
    whole, part = tmp_path / "whole.h5", tmp_path / "part.h5"
    run(*FIELD, "--grid", "24,20,18", "-n", 2, "-o", whole)
    found = json.loads(
        run(*FIELD, "--grid", "24,20,18", "-n", 2, "-o", part, "--cells", "20:28,0:20,3:5", "--json")
    )
    expected = delta_of(whole).take(range(20, 28), 1, mode="wrap")[:, :, :, 3:5]
    np.testing.assert_allclose(delta_of(part), expected, atol=3e-6 * np.abs(expected).max())
    assert found["shape"] == [8, 20, 2]
    assert found["box_size"] == pytest.approx([8 * 100 / 24, 100.0, 2 * 100 / 18])
    assert found["check"] is None


@pytest.mark.parametrize(("options", "words"), [
    (["--grid", "64", "--out-of-core", "--memory", "100KB"], "slabs of 64 x 64 x 64 cells need 1 MiB"),
    (["--grid", "64", "--dim", "1", "--out-of-core"], "2 or 3 dimensions"),
    (["--grid", "8", "--out-of-core", "--memory", "much"], "memory is 'much': it must be a size such as 2GB"),
    (["--grid", "8", "--out-of-core", "--cells", "0:2,0:2,0:2"], "and --cells exclude each other"),
    (["--grid", "8", "--cells", "0:2,0:2"], "must be 3 ranges"),
    (["--grid", "8", "--cells", "0:2,0:2,0:9"], "must be 3 ranges inside"),
    (["--grid", "8", "--cells", "0:2,0:2,2:2"], "must be a range for each side"),
    (["--grid", "8", "--cells", "0:2,0:2,0:2", "--plot"], "--cells and --plot exclude each other"),
])  # fmt: skip
def test_what_makes_no_sense_is_said(tmp_path, options, words):
    assert words in run(*FIELD, *options, "-o", tmp_path / "a.h5", code=2)
    assert not list(tmp_path.iterdir())


def test_sizes():
    assert [bytes_of(text) for text in ("2GB", "1.5 MiB", "512k", "100", "1 tb")] == [
        2 << 30, 3 << 19, 512 << 10, 100, 1 << 40
    ]  # fmt: skip
    for text in ("", "GB", "-1GB", "2XB", "nan", "inf"):
        with pytest.raises(ps.InputError, match="must be a size"):
            bytes_of(text)


def command(path):
    return [sys.executable, "-m", "physscore", *FIELD, "--grid", "96", "-n", "2", "--out-of-core", "--memory",
            "2MB", "-o", str(path), "--resume"]  # fmt: skip


def test_kills_at_random_moments(tmp_path):
    """Killed again and again the job ends as if nothing had been, and every file can be read."""
    path, part = tmp_path / "a.h5", tmp_path / "a.h5.part"
    undisturbed = tmp_path / "b.h5"
    for _ in range(2):  # the first time all may have to be compiled
        undisturbed.unlink(missing_ok=True)
        start = time.monotonic()
        subprocess.run(command(undisturbed), check=True, capture_output=True)
        took = time.monotonic() - start
    random, kills, longest = np.random.default_rng(5), 0, took
    while not (path.exists() and kills):
        if path.exists():  # it was quicker than when it was timed, and was not met: once more, and sooner
            path.unlink()
            longest /= 2
        job = subprocess.Popen(command(path), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            job.wait(random.uniform(0.3, 1.0) * longest)
        except subprocess.TimeoutExpired:
            os.kill(job.pid, signal.SIGKILL)
            job.wait()
            kills += 1
            longest *= 1.1  # it gets on, however slow the machine has become
        if part.exists():
            with FieldFile(part) as fields:
                assert set(fields.completed) <= {0, 1}
    assert np.array_equal(delta_of(path), delta_of(undisturbed))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_a_file_in_planes_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.h5"
    run(*FIELD, "--grid", "16", "-o", path)
    with FieldFile(path) as fields:
        with in_planes(fields, 1 << 20) as get:
            found = ps.power_spectrum(get(0), fields.grid)
        np.testing.assert_allclose(
            found.power, ps.power_spectrum(fields.read(0), fields.grid).power, rtol=1e-5
        )
    assert list(tmp_path.iterdir()) == [path]
