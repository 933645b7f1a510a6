"""``physscore audit``: what it reads, prints, draws and refuses."""

import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import physscore as ps
from physscore.cli.audit import command
from physscore.core import InputError

GRID = ps.Grid((16, 16), 20.0)


def audit(*args, code=0):
    """Run the command; by default it must pass."""
    result = CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    assert result.return_value == code, result.output
    return result.output


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two sets of positive maps of one law, ours and foreign, and a louder one."""
    folder = tmp_path_factory.mktemp("audit")
    law = ps.LognormalField(GRID, lambda k: 0.5 / k)
    maps = [1 + law.sample(60, seed=seed, dtype="float32") for seed in (1, 2)]
    ps.save(folder / "new.h5", ps.Fields(maps[0], GRID, length_unit="Mpc/h"))
    ps.save(folder / "loud.h5", ps.Fields(1 + 1.3 * (maps[0] - 1), GRID))
    ps.save(folder / "ours.h5", ps.Fields(maps[1], GRID))
    with h5py.File(folder / "foreign.h5", "w") as file:
        file.attrs["BoxSize"], file.attrs["BoxSize_unit"] = 20.0, "Mpc/h"
        file["test/maps"] = maps[1].astype("float16")
        file["test/simulation"] = np.arange(60) // 3
        file["test/short"] = np.arange(5)
        file["train/maps"] = maps[0].astype("float16")
        file["cube"] = np.zeros((3, 4, 4, 4, 4))
        file["one"] = maps[0][0]
    with h5py.File(folder / "bare.h5", "w") as file:
        file["maps"] = maps[1]
    return folder


def test_the_table_and_the_exit_code(files):
    out = audit(files / "new.h5", "--reference", files / "ours.h5")
    lines = out.splitlines()
    assert lines[0] == "60 maps generated against 60 maps of the reference"
    assert lines[1].split()[:2] == ["statistic", "bins"]
    assert lines[-1] == "passed: nothing tells the two sets apart"
    for name in ("power spectrum", "one-point PDF", "squeezed bispectrum", "peak counts"):
        assert any(line.startswith(name) for line in lines)
    out = audit(files / "loud.h5", "--reference", files / "ours.h5", code=1)
    assert "FAILED: " in out
    assert "DIFFERS" in out
    audit(files / "loud.h5", "--reference", files / "ours.h5", "--tolerance", "9")


def test_foreign_files_and_groups(files):
    reference = ("--reference", files / "foreign.h5", "--dataset", "test/maps")
    plain = audit(files / "new.h5", *reference)
    assert "60 maps of the reference" in plain
    assert "note: test/simulation in foreign.h5 labels the maps" in plain
    grouped = audit(files / "new.h5", *reference, "--groups", "test/simulation")
    assert "labels the maps" not in grouped
    assert "60 maps generated against 60 maps (20 units) of the reference" in grouped
    both = audit(files / "foreign.h5", "--generated-dataset", "train/maps", *reference)
    # float16 in one file and float32 in the other: the statistics do not see it.
    assert both.splitlines()[4].split()[-1] == plain.splitlines()[4].split()[-1] == "agrees"
    bare = ("--reference", files / "bare.h5", "--dataset", "maps")
    out = audit(files / "new.h5", *bare, "--box", "20")
    assert "passed" in out
    audit(files / "new.h5", *bare, "--box", "20,20")


def test_json_and_pairs(files):
    found = json.loads(audit(files / "new.h5", "--reference", files / "ours.h5", "--paired", "--json"))
    assert found["passed"] is True
    assert found["maps"] == {"generated": 60, "reference": 60}
    assert set(found["statistics"]) >= {"power spectrum", "peak counts"}
    power = found["statistics"]["power spectrum"]
    assert len(power["x"]) == len(power["deviation"]) == len(power["reference_error"])
    assert max(map(abs, found["correlation"]["r"])) < 0.5
    same = audit(files / "new.h5", "--reference", files / "new.h5", "--paired")
    assert "cross-correlation r(k): 1.000" in same


@pytest.mark.parametrize("shape", [(16, 16), (64,), pytest.param((12, 12, 12), marks=pytest.mark.long)])
def test_the_picture(shape, tmp_path):
    from matplotlib.image import imread

    grid = ps.Grid(shape, 20.0)
    law = ps.GaussianRandomField(grid, lambda k: 0.5 / k)
    for name, seed, n in (("a", 1, 3), ("b", 2, 40)):
        ps.save(tmp_path / f"{name}.h5", ps.Fields(law.sample(n, seed=seed), grid))
    audit(tmp_path / "a.h5", "--reference", tmp_path / "b.h5", "--plot")
    picture = imread(tmp_path / "a-audit.png")
    assert picture.shape[0] > 1000
    assert picture[..., :3].std() > 0.1
    assert not list(tmp_path.glob("*.part"))


def test_a_score(files, tmp_path, monkeypatch):
    law = ps.GaussianRandomField(GRID, lambda k: 0.5 / k)
    monkeypatch.setattr(ps, "load", lambda path: law, raising=False)
    reference = ("--reference", files / "foreign.h5", "--dataset", "test/maps", "--states", "12")
    score = tmp_path / "score.safetensors"
    score.touch()
    found = json.loads(audit(score, *reference, "--json", "--plot"))
    assert found["passed"] is True
    assert found["states"] == 12
    assert (tmp_path / "score-audit.png").exists()
    more = json.loads(audit(score, *reference, "--json", "--evaluations", "2000"))
    assert found["evaluations"] < 4000 < more["evaluations"]  # by a U-Net, a minute or two
    assert "passed" in audit(score, *reference)
    for option in (("--paired",), ("--groups", "test/simulation"), ("--generated-dataset", "maps")):
        with pytest.raises(InputError, match=f"{option[0]} is for files of fields"):
            audit(score, *reference, *option)
    other = ps.GaussianRandomField(ps.Grid((8, 8), 20.0), lambda k: 0.5 / k)
    monkeypatch.setattr(ps, "load", lambda path: other, raising=False)
    with pytest.raises(InputError, match=r"is of states \(8, 8\) and the maps of .* have \(16, 16\)"):
        audit(score, *reference)
    monkeypatch.setattr(ps, "load", lambda path: law, raising=False)
    with pytest.raises(InputError, match="--states is 0"):
        audit(score, *reference[:-1], "0")


def test_one_map_that_has_the_variance_is_told(files, tmp_path):
    maps = ps.GaussianRandomField(GRID, lambda k: 0.5 / k).sample(30, seed=3)
    maps[4] *= 100
    ps.save(tmp_path / "heavy.h5", ps.Fields(maps, GRID))
    found = json.loads(audit(tmp_path / "heavy.h5", "--reference", tmp_path / "heavy.h5", "--json"))
    assert sum("one unit has 100% of the variance of heavy.h5" in note for note in found["notes"]) == 2
    assert not any("of the variance" in note for note in json.loads(
        audit(files / "new.h5", "--reference", files / "ours.h5", "--json"))["notes"])  # fmt: skip


def test_foreign_maps_of_one_dimension(tmp_path):
    """One length says that a dataset (n, cells) holds n of them, not a map in two dimensions."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = np.random.default_rng(0).normal(size=(2, 100, 64))
        file.attrs["BoxSize"] = 64.0
    given = (
        tmp_path / "a.h5",
        "--generated-dataset",
        "x",
        "--reference",
        tmp_path / "a.h5",
        "--dataset",
        "y",
    )
    for box in ((), ("--box", "32")):
        audit(*given, *box, "--tolerance", "1")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("new.h5",), "--reference is missing"),
        (("missing.h5", "--reference", "ours.h5"), "missing.h5 does not exist"),
        (("new.h5", "--reference", "foreign.h5"), r"not a file of physscore fields: .*\(--dataset\)"),
        (("foreign.h5", "--reference", "ours.h5"), r"name its dataset \(--generated-dataset\)"),
        (("new.h5", "--reference", "foreign.h5", "--dataset", "maps"), "has no dataset 'maps'"),
        (("new.h5", "--reference", "foreign.h5", "--dataset", "cube"), r"it must be \(maps, \*cells\)"),
        (("new.h5", "--reference", "foreign.h5", "--dataset", "one"), r"reference holds 1 map\(s\)"),
        (("new.h5", "--reference", "bare.h5", "--dataset", "maps"), "--box is missing"),
        (("new.h5", "--reference", "bare.h5", "--dataset", "maps", "--box", "30"), "the same cells and box"),
        (("new.h5", "--reference", "ours.h5", "--groups", "no"), "has no dataset 'no'"),
        (
            ("new.h5", "--reference", "foreign.h5", "--dataset", "test/maps", "--groups", "test/short"),
            r"has shape \(5,\): it must be \(60,\)",
        ),
        (("new.h5", "--reference", "ours.h5", "--step-size", "0.1"), "--step-size is for scores"),
        (("new.h5", "--reference", "ours.h5", "--states", "9"), "--states is for scores"),
        (("new.h5", "--reference", "ours.h5", "--evaluations", "9"), "--evaluations is for scores"),
        (("new.h5", "--reference", "ours.h5", "--tolerance", "-1"), "tolerance is -1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(files, args, message):
    given = [files / arg if str(arg).endswith(".h5") else arg for arg in args]
    with pytest.raises(InputError, match=message) as caught:
        audit(*given)
    assert "\n" not in str(caught.value)


def test_a_square_is_said_to_be_taken_for_a_map(files, tmp_path):
    with h5py.File(tmp_path / "square.h5", "w") as file:
        file.attrs["BoxSize"] = 1.0
        file["x"] = np.random.default_rng(0).normal(size=(20, 20))
    options = ["--reference", tmp_path / "square.h5", "--dataset", "x", "--generated-dataset", "x"]
    result = CliRunner().invoke(command, [str(o) for o in (tmp_path / "square.h5", *options)])
    assert "has shape (20, 20): it is taken for a single map, not for 20 of one dimension" in result.stderr


def test_a_score_of_vectors_needs_no_box(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(60, 3))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["x"] = x
    law = ps.from_functions(score=lambda x: -x, shape=3)
    law.fields = False
    monkeypatch.setattr(ps, "load", lambda path: law, raising=False)
    score = tmp_path / "score.safetensors"
    score.touch()
    found = json.loads(audit(score, "--reference", tmp_path / "v.h5", "--dataset", "x", "--json"))
    assert found["passed"] is True
    assert "E[s] of component 0" in found["identities"]["names"]
    law = ps.from_functions(score=lambda x: -0.2 * x, shape=3)
    found = CliRunner().invoke(
        command, [str(o) for o in (score, "--reference", tmp_path / "v.h5", "--dataset", "x")]
    )
    assert found.exit_code == 1
    assert "the score has the wrong size" in found.output
