"""What a dry run foretells, against what the job needs."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import physscore

import physscore as ps
from physscore.cost import cost_of_fields
from physscore.evidence.dry_run import cost_of_log_z

PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, capture_output=True)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
FIELD = ["field", "--grid", "160", "--box", "100", "--spectrum", "powerlaw:index=-1,amplitude=1"]

CELLS = ["--cells", "10:110,0:160,0:160", "--memory", "16MB"]


@pytest.mark.parametrize("options", [[], ["--out-of-core", "--memory", "64MB"], CELLS])
def test_a_field_needs_what_was_foretold(tmp_path, options):
    path = tmp_path / "a.h5"
    foretold = json.loads(physscore(*FIELD, *options, "-o", path, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert not list(tmp_path.iterdir())
    command = [sys.executable, "-m", "physscore", *FIELD, *options, "-o", str(path)]
    done = subprocess.run([sys.executable, "-c", PEAK, *command], capture_output=True, text=True, check=True)
    assert 0.5 * foretold["memory"] < int(done.stdout) < 1.25 * foretold["memory"]
    assert foretold["disk"] <= path.stat().st_size < 1.02 * foretold["disk"] + 2e5
    assert (foretold["scratch"] > 0) == ("--out-of-core" in options)


def test_costs_grow_as_they_should():
    grid = ps.Grid((64, 64, 64), 100.0)
    one, many = cost_of_fields(grid), cost_of_fields(grid, processes=4)
    assert (one.processes, one.communication) == (1, 0)
    assert many.memory < one.memory + 8 * 64 * 64 * 33
    assert many.communication == 2 * 8 * 64 * 64 * 33 * 3 // 4
    assert cost_of_fields(ps.Grid((128, 128, 128), 100.0)).seconds > 3 * one.seconds
    assert cost_of_fields(grid, n=10).disk == 10 * one.disk == 10 * 4 * 64**3
    assert "MiB for each process" in str(one)


def test_an_estimate_needs_about_what_was_foretold():
    target = ps.Phi4((16, 16), mass2=-0.5, coupling=0.5)
    settings = {"particles": 1024, "islands": 32, "seed": 1}
    for work in (cost_of_log_z, ps.estimate_log_z):  # compiles
        work(target, **settings)
    foretold = cost_of_log_z(target, **settings)
    start = time.perf_counter()
    found = ps.estimate_log_z(target, **settings)
    took = time.perf_counter() - start
    assert took / 4 < foretold.seconds < 4 * took
    assert foretold.disk == 2 * np.prod(found.samples.shape) * 8
    assert cost_of_log_z(target, **settings, processes=2).communication > 0


@pytest.mark.parametrize(("args", "words"), [
    ([*FIELD, "-o", "a.h5", "--dry-run", "--device", "gpu"], "--dry-run is for fields on the CPU"),
    ([*FIELD, "-o", "a.h5", "--dry-run", "--cells", "0:2,0:2,0:2", "--processes", "2"], "one process makes"),
    ([*FIELD, "-o", "a.h5", "--dry-run", "--grid", "64", "--dim", "1", "--processes", "4"],
     "grid has 64 cells, which no processes can share: there are 4"),
    (["logz", "ising", "--dry-run", "--method", "tempering"], "--dry-run is for the methods smc and ais"),
])  # fmt: skip
def test_what_cannot_be_foretold_is_said(tmp_path, args, words):
    assert words in physscore(*args, cwd=tmp_path, code=2).stderr


def test_the_command_tells_of_each_model(tmp_path):
    done = physscore(
        "logz", "ring", "funnel", "--particles", "256", "--dry-run", "--processes", "2", cwd=tmp_path
    )
    assert done.stdout.count("memory:") == 2
    assert done.stdout.startswith("ring:")
