"""The commands as a user meets them: what they print, write and refuse."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from commands import physscore

import physscore as ps

SMALL = ("--grid", "16", "--box", "100", "--seed", "1")


def datasets(path):
    with h5py.File(path) as file:
        found = {}
        file.visititems(
            lambda name, item: found.update({name: item[...]}) if hasattr(item, "shape") else None
        )
        return found


def test_field_to_spectrum_to_info(tmp_path):
    out = physscore("field", *SMALL, "-o", "f.h5", "--plot", cwd=tmp_path, own_process=True)
    assert "P(k) against planck2018: passed" in out.stdout
    assert out.stderr == ""  # no progress bar in a pipe
    assert (tmp_path / "f.png").stat().st_size > 10_000
    prior = ps.GaussianRandomField(ps.Grid((16, 16, 16), 100.0), ps.spectra.planck2018())
    np.testing.assert_array_equal(ps.load(tmp_path / "f.h5").delta, prior.sample(1, seed=1, dtype="f4")[0])
    out = physscore("spectrum", "f.h5", "--compare", "planck2018", "-o", "p.h5", "--plot", cwd=tmp_path)
    assert "k [h/Mpc]" in out.stdout
    assert "P [(Mpc/h)^3]" in out.stdout
    assert "passed" in out.stdout
    assert (tmp_path / "p.png").exists()
    out = physscore("info", "f.h5", cwd=tmp_path)
    for text in (
        "1 field of 16 x 16 x 16 cells (float32), box 100 Mpc/h",
        "redshift: 0",
        "seed: 1",
        "H0 = 67.66",
    ):
        assert text in out.stdout
    assert "kind: spectrum" in physscore("info", "p.h5", cwd=tmp_path).stdout


def test_json_is_all_that_is_printed(tmp_path):
    def found(*command):
        return json.loads(physscore(*command, "--json", cwd=tmp_path, own_process=True).stdout)

    result = found("field", *SMALL, "-n", 2, "-o", "f.h5")
    assert result["check"]["passed"] is True
    assert (result["fields"], result["completed"], result["shape"]) == (2, 2, [16, 16, 16])
    result = found("spectrum", "f.h5", "--compare", "planck2018", "--bins", "log")
    assert len(result["power"]) == 2
    assert len(result["k"]) == len(result["power"][0])
    assert result["units"] == {"k": "h/Mpc", "power": "(Mpc/h)^3"}
    assert found("info", "f.h5")["seed"] == 1


def test_wrong_model_exits_with_one(tmp_path):
    physscore("field", *SMALL, "-o", "f.h5", cwd=tmp_path)
    out = physscore("spectrum", "f.h5", "--compare", "planck2018", "--redshift", 0.2, cwd=tmp_path, code=1)
    assert "FAILED" in out.stdout


def test_redshift_is_that_of_the_file(tmp_path):
    physscore("field", *SMALL, "--redshift", 2, "-o", "f.h5", cwd=tmp_path)
    physscore("spectrum", "f.h5", "--compare", "planck2018", cwd=tmp_path)
    assert ps.load(tmp_path / "f.h5").redshift == 2.0
    k = np.geomspace(0.01, 2, 2000)  # a table has no redshift: it is taken as it is
    np.savetxt(tmp_path / "p.txt", np.c_[k, ps.spectra.planck2018(2.0)(k)])
    physscore("spectrum", "f.h5", "--compare", "p.txt", cwd=tmp_path)
    physscore("field", *SMALL, "--spectrum", "planck2018:redshift=2", "-o", "g.h5", cwd=tmp_path)
    np.testing.assert_array_equal(ps.load(tmp_path / "g.h5").delta, ps.load(tmp_path / "f.h5").delta)


def test_picture_never_replaces_the_data(tmp_path):
    physscore("field", *SMALL, "-o", "f.png", "--plot", cwd=tmp_path)
    assert h5py.is_hdf5(tmp_path / "f.png")
    assert (tmp_path / "f.plot.png").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--spectrum", "eh98:sigma8=0.8", "--redshift", "1"),
        ("--spectrum", "powerlaw:index=-1.5,amplitude=20"),
        ("--lognormal", "--spectrum", "powerlaw:index=-1.5,amplitude=1"),
        ("--fixed",),
        ("--paired", "-n", "4"),
        ("--dtype", "float64", "--threads", "1"),
    ],
)
def test_kinds_of_fields(tmp_path, options):
    out = physscore("field", *SMALL, *options, "-o", "f.h5", cwd=tmp_path)
    assert "passed" in out.stdout
    spectrum = options[options.index("--spectrum") + 1] if "--spectrum" in options else "planck2018"
    out = physscore("spectrum", "f.h5", "--compare", spectrum, cwd=tmp_path)
    assert "passed" in out.stdout


@pytest.mark.parametrize(
    "options", [("--grid", "64", "--dim", "1"), ("--grid", "16,12"), ("--grid", "8,6,5")]
)
def test_dimensions(tmp_path, options):
    spectrum = "powerlaw:index=-0.5,amplitude=1"
    physscore("field", *options, "--box", "10", "--spectrum", spectrum, "-o", "f.h5", "--plot", cwd=tmp_path)
    physscore("spectrum", "f.h5", "--compare", spectrum, "--plot", cwd=tmp_path)
    assert {"f.png", "f-spectrum.png"} <= {path.name for path in tmp_path.iterdir()}


def test_measured_spectrum_serves_as_model(tmp_path):
    physscore("field", *SMALL, "-o", "f.h5", cwd=tmp_path)
    np.savetxt(tmp_path / "p.txt", np.c_[np.geomspace(0.01, 10, 50), np.geomspace(1e4, 10, 50)])
    physscore("field", *SMALL, "--spectrum", "p.txt", "-o", "g.h5", cwd=tmp_path)
    physscore("spectrum", "g.h5", "--compare", "p.txt", "-o", "p.h5", cwd=tmp_path)
    physscore("field", *SMALL, "--spectrum", "p.h5:extrapolate=power law", "-o", "h.h5", cwd=tmp_path)


def test_cross_spectrum(tmp_path):
    for seed in (1, 2):
        physscore("field", "--grid", 16, "--box", 100, "--seed", seed, "-o", f"{seed}.h5", cwd=tmp_path)
    out = json.loads(physscore("spectrum", "1.h5", "--cross", "1.h5", "--json", cwd=tmp_path).stdout)
    np.testing.assert_allclose(out["correlation"][0], 1.0)
    out = json.loads(physscore("spectrum", "1.h5", "--cross", "2.h5", "--json", cwd=tmp_path).stdout)
    assert np.abs(np.mean(out["correlation"][0])) < 0.5
    cross = ("spectrum", "1.h5", "--cross", "1.h5", "--json", "--mass-assignment")
    both, first, second, plain = (
        np.array(json.loads(physscore(*cross, name, cwd=tmp_path).stdout)["power"][0])
        for name in ("cic", "cic,none", "none, cic", "none,none")
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first**2, both * plain, rtol=0.03)  # bins are means of the window
    assert "must be one of ngp" in physscore(*cross, "cic,cci", cwd=tmp_path, code=2).stderr


def test_units_are_not_mixed(tmp_path):
    grid = ps.Grid((8, 8, 8), 100.0)
    delta = ps.GaussianRandomField(grid, ps.spectra.planck2018()).sample(1, seed=1)[0]
    ps.save(tmp_path / "mpc.h5", ps.Fields(delta, grid, length_unit="Mpc"))
    ps.save(tmp_path / "cells.h5", ps.Fields(delta, grid, length_unit="cells"))
    ps.save(tmp_path / "h.h5", ps.Fields(delta, grid))
    ps.save(tmp_path / "power.h5", ps.power_spectrum(delta, grid), length_unit="Mpc")
    ps.save(tmp_path / "cross.h5", ps.power_spectrum(delta, grid, delta))
    for command, words in (
        (("spectrum", "mpc.h5", "--compare", "planck2018"), "wavenumbers in h/Mpc, and the box is in Mpc"),
        (("spectrum", "h.h5", "--cross", "mpc.h5"), "mpc.h5 is in Mpc, and h.h5 in Mpc/h"),
        (("field", *SMALL, "--spectrum", "power.h5", "-o", "f.h5"), r"wavenumbers in 1/\(Mpc\)"),
        (
            ("field", *SMALL, "--spectrum", "cross.h5:extrapolate=power law", "-o", "f.h5"),
            "cross spectrum of",
        ),
        (
            ("audit", "h.h5", "--reference", "mpc.h5"),
            "box in Mpc/h and mpc.h5 in Mpc: they must have the same",
        ),
        (("spectrum", "h.h5", "--redshift", 2), "--redshift is that of a model"),
        (("spectrum", "h.h5", "--cross", "h.h5", "--shot-noise", 5), "--shot-noise and --cross exclude"),
    ):
        assert re.search(words, physscore(*command, cwd=tmp_path, code=2).stderr)
    physscore("spectrum", "cells.h5", "--compare", "planck2018", cwd=tmp_path)
    physscore("spectrum", "mpc.h5", "--compare", "power.h5:extrapolate=power law", cwd=tmp_path)


def test_foreign_file(tmp_path):
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["a/maps"] = np.random.default_rng(0).standard_normal((3, 16, 16))
    out = physscore("spectrum", "maps.h5", "--dataset", "a/maps", "--box", "10,10",
                    "--compare", f"powerlaw:index=0,amplitude={100 / 256}", cwd=tmp_path)  # fmt: skip
    assert "mean of 3 independent" in out.stdout
    assert "a/maps: float64 (3, 16, 16)" in physscore("info", "maps.h5", cwd=tmp_path).stdout
    cells = np.ones((8, 8, 8))
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["complex"] = cells + 1j
        file["pairs"] = np.zeros(cells.shape, [("a", "f4"), ("b", "f4")])
        file["text"] = np.full(cells.shape, b"x")
    for name in ("complex", "pairs", "text"):
        for memory in ((), ("--memory", "1MB")):
            options = ("--dataset", name, "--box", "10", *memory)
            refused = physscore("spectrum", "odd.h5", *options, cwd=tmp_path, code=2)
            assert "must hold real numbers" in refused.stderr


REFUSED = {
    "zero grid": (("--grid", "0"), r"shape is \(0, 0, 0\)"),
    "negative grid": (("--grid", "-8"), "every side must have from 2"),
    "absurd grid": (("--grid", "1000000"), "GiB of memory and .* GiB are free"),
    "larger than memory": (("--grid", "20000"), "needs .* GiB of memory"),
    "words for a grid": (("--grid", "many"), "whole numbers"),
    "zero box": (("--box", "0"), "box_size is .*positive"),
    "negative box": (("--box", "-100"), "box_size is .*positive"),
    "nan box": (("--box", "nan"), "box_size is .*positive"),
    "sides and dim": (("--grid", "8,8", "--dim", "3"), "--grid has 2 sides and --dim is 3"),
    "box of two sides": (("--box", "10,10"), "one for each of 3 sides"),
    "unknown spectrum": (("--spectrum", "plank"), "spectrum is 'plank': it must be one of planck2018"),
    "unknown parameter": (
        ("--spectrum", "eh98:sigma=1"),
        "eh98:sigma=1.*'sigma' is unknown",
    ),
    "missing parameter": (("--spectrum", "powerlaw:amplitude=1"), "'index' is missing"),
    "matter in two dimensions": (("--dim", "2"), "--spectrum planck2018 is of 3 dimensions"),
    "negative amplitude": (("--spectrum", "powerlaw:index=1,amplitude=-1"), "amplitude is -1"),
    "redshift of a power law": (
        ("--spectrum", "powerlaw:index=1,amplitude=1", "--redshift", "1"),
        "has none",
    ),
    "redshift outside": (("--redshift", "101"), "redshift is 101.0"),
    "box too large for the spectrum": (("--box", "1e7"), "spectrum covers k from 1e-05 to 100"),
    "nan in a table": (("--spectrum", "nan.txt"), "must be finite"),
    "negative P": (("--spectrum", "negative.txt"), "must not be negative"),
    "unsorted k": (("--spectrum", "unsorted.txt"), "rising"),
    "table too short": (("--spectrum", "short.txt"), "covers k from 0.1 to 0.2"),
    "words in a table": (("--spectrum", "words.txt"), "line 3: it must be two numbers"),
    "negative seed": (("--seed", "-1"), "seed is -1"),
    "odd pairs": (("--paired", "-n", "3"), "even number"),
    "more fields than a seed has": (("-n", "20000000"), "one seed has 16777216 fields"),
    "memory for nothing": (("--memory", "1GB"), "--memory is 1GB: it is for --out-of-core or --cells"),
    "processes for nothing": (("--processes", "2"), "--processes is 2: it is for --dry-run"),
    "no folder": (("-o", "no/f.h5"), "there is no folder"),
    "existing output": (("-o", "old.h5"), "old.h5 exists: use --overwrite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence_and_code_two(tmp_path, name):
    options, message = REFUSED[name]
    np.savetxt(tmp_path / "nan.txt", [[0.01, 1], [0.1, np.nan], [1, 1]])
    np.savetxt(tmp_path / "negative.txt", [[0.01, 1], [0.1, -1], [1, 1]])
    np.savetxt(tmp_path / "unsorted.txt", [[0.01, 1], [1, 1], [0.1, 1]])
    np.savetxt(tmp_path / "short.txt", [[0.1, 1], [0.2, 1]])
    (tmp_path / "words.txt").write_text("k P\n1 2\n2 three\n")
    (tmp_path / "old.h5").write_text("")
    out = physscore("field", *SMALL, "-o", "f.h5", *options, cwd=tmp_path, code=2)
    assert out.stdout == ""
    sentence = out.stderr.strip().splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert re.search(message, sentence), sentence
    assert not list(tmp_path.glob("f.h5*"))


@pytest.mark.parametrize("command", ["spectrum", "info"])
def test_unreadable_file_is_code_two(tmp_path, command):
    (tmp_path / "f.h5").write_text("foreign")
    for name, message in (("f.h5", "is not an HDF5 file"), ("none.h5", "does not exist")):
        out = physscore(command, name, cwd=tmp_path, code=2)
        assert message in out.stderr


def test_full_disk_is_seen_before_the_first_field(tmp_path):
    """A limit on the file size stands for a quota that leaves room for two of four fields."""
    size = 2 * 32**3 * 4 + 60_000

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    job = ("field", "--grid", 32, "--box", 100, "-n", 4, "-o", "f.h5")
    out = physscore(*job, cwd=tmp_path, code=2, preexec_fn=limit)
    assert "cannot be written: the disk is full" in out.stderr
    assert not list(tmp_path.iterdir())


def start(*args, cwd):
    command = [sys.executable, "-m", "physscore", *map(str, args)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_change(path, process):
    before = path.stat().st_mtime_ns if path.exists() else None
    while process.poll() is None and (path.stat().st_mtime_ns if path.exists() else None) == before:
        time.sleep(0.001)


def test_killed_at_any_moment_and_resumed(tmp_path):
    n = 300
    job = ("field", "--grid", 32, "--box", 100, "--seed", 3, "-n", n)
    physscore(*job, "-o", "whole.h5", cwd=tmp_path)
    expected = datasets(tmp_path / "whole.h5")
    rng = np.random.default_rng()
    part, finished = tmp_path / "f.h5.part", 0
    for attempt in range(4):
        process = start(*job, "-o", "f.h5", "--resume", cwd=tmp_path)
        wait_for_change(part, process)
        if attempt:  # the first is killed as soon as there is a file
            wait_for_change(part, process)
            time.sleep(0.1 * rng.random())
        process.kill()
        process.communicate()
        found = datasets(part)
        done = np.flatnonzero(found["completed"])
        assert finished <= len(done) < n
        finished = len(done)
        np.testing.assert_array_equal(found["fields/delta"][done], expected["fields/delta"][done])
    assert finished > 0
    physscore(*job, "-o", "f.h5", "--resume", cwd=tmp_path)
    found = datasets(tmp_path / "f.h5")
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    out = physscore(*job, "-o", "f.h5", "--resume", cwd=tmp_path)  # done: prints the result
    assert f"{n} fields" in out.stdout
    out = physscore(*job[:-1], n + 1, "-o", "f.h5", "--resume", cwd=tmp_path, code=2)
    assert f"another job (n was {n} and is {n + 1})" in out.stderr


def test_interrupt_keeps_what_is_finished(tmp_path):
    job = ("field", "--grid", 64, "--box", 100, "-n", 1000, "-o", "f.h5")
    process = start(*job, cwd=tmp_path)
    part = tmp_path / "f.h5.part"
    while not part.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted: what was finished is kept" in error
    assert "Traceback" not in error
    out = physscore("info", "f.h5.part", cwd=tmp_path)
    assert "of them finished" in out.stdout
    assert not (tmp_path / "f.h5").exists()


def test_second_process_does_not_compile(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    physscore("field", "--grid", 64, "--box", 100, "-o", "a.h5", cwd=tmp_path, env=environment)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert before
    physscore("field", "--grid", 64, "--box", 100, "-o", "b.h5", cwd=tmp_path, env=environment)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert before == after


def test_cells_know_where_they_are(tmp_path):
    options = ["--spectrum", "powerlaw:index=-1,amplitude=5", "--cells", "4:8,10:20,0:3"]
    physscore("field", "--grid", 16, "--box", "16,32,48", *options, "-o", "a.h5", cwd=tmp_path)
    grid, ranges = ps.Grid((16, 16, 16), (16.0, 32.0, 48.0)), ((4, 8), (10, 20), (0, 3))
    with h5py.File(tmp_path / "a.h5") as file:
        for axis, (start, stop) in enumerate(ranges):
            step = grid.cell_size[axis]
            expected = np.arange(start, stop) * step
            np.testing.assert_allclose(file[f"fields/{'xyz'[axis]}"][:], expected, rtol=1e-14)


def test_cells_of_a_field_are_no_periodic_box(tmp_path):
    options = ["--spectrum", "powerlaw:index=-1,amplitude=5", "--seed", "3"]
    physscore(
        "field", "--grid", "16", "--box", "40", *options, "-o", "a.h5", "--cells", "0:8,0:8,0:8", cwd=tmp_path
    )
    refused = physscore("spectrum", "a.h5", "--compare", options[1], cwd=tmp_path, code=2)
    assert "holds some cells" in refused.stderr
    measured = physscore("spectrum", "a.h5", cwd=tmp_path)
    assert "8 x 8 x 8 cells" in measured.stdout
    assert "some cells of a larger field: power is measured as if" in measured.stderr
    assert "cells: 0:8,0:8,0:8 of a larger field" in physscore("info", "a.h5", cwd=tmp_path).stdout
    refused = physscore("spectrum", "a.h5", "--box", "5", cwd=tmp_path, code=2)
    assert "--box is for a --dataset" in refused.stderr
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["maps"] = np.random.default_rng(0).normal(size=(3, 8, 8))
    refused = physscore("spectrum", "maps.h5", "--dataset", "maps", "--box", "8", cwd=tmp_path, code=2)
    assert "may be one field or 3 of one dimension less" in refused.stderr
    found = physscore("spectrum", "maps.h5", "--dataset", "maps", "--box", "8,8", cwd=tmp_path)
    assert "mean of 3 independent field(s) of 8 x 8 cells" in found.stdout
    refused = physscore("spectrum", "maps.h5", "--dataset", "maps", "--box", "8,8", "--compare",
                        "powerlaw:index=0,amplitude=0", cwd=tmp_path, code=2)  # fmt: skip
    assert "no power at any" in refused.stderr
