"""From the particles of a file to their power, by the command."""

import json

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import physscore as ps
from physscore.cli.paint import command
from physscore.cli.spectrum import command as spectrum
from physscore.core import InputError
from physscore.store import catalogue

GRID = ps.Grid((8, 6, 10), (4.0, 3.0, 5.0))
X = np.random.default_rng(3).uniform(0, 1, (1000, 3)) * GRID.box_size
MASSES = np.random.default_rng(4).uniform(0.5, 2, len(X))
OPTIONS = ["--grid", "8,6,10", "--box", "4,3,5", "--length-unit", "m", "--dtype", "float64"]
SNAPSHOT = ["first.hdf5", "second.hdf5"]


def run(*arguments, of=command):
    return CliRunner().invoke(of, [str(part) for part in arguments], catch_exceptions=False)


@pytest.fixture
def files(tmp_path):
    with h5py.File(tmp_path / "first.hdf5", "w") as first, h5py.File(tmp_path / "second.hdf5", "w") as second:
        for file, some in ((first, slice(0, 600)), (second, slice(600, None))):
            file["PartType1/Coordinates"], file["PartType1/Masses"] = 1000 * X[some], MASSES[some]
            for axis in range(3):
                file[f"halos/{'xyz'[axis]}"] = X[some, axis]
            file.create_group("Header").attrs.update(BoxSize=[4000.0, 3000.0, 5000.0], Redshift=0.5)
    np.save(tmp_path / "x.npy", np.column_stack([MASSES, X]))
    np.savetxt(tmp_path / "x.txt", X, fmt="%.17g", header="x y z")
    np.savetxt(tmp_path / "x.csv", np.column_stack([X, MASSES]), fmt="%.17g", delimiter=",")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "options", "weighted"),
    [
        (SNAPSHOT, ["--positions", "PartType1/Coordinates", "--scale", "0.001"], False),
        (SNAPSHOT, ["--positions", "/halos/x,halos/y,halos/z", "--weights", "PartType1/Masses"], True),
        (["x.npy"], ["--positions", "2,3,4", "--weights", "1"], True),
        (["x.txt"], [], False),
        (["x.csv"], ["--weights", "4"], True),
    ],
)
def test_files_are_painted_like_arrays(files, monkeypatch, names, options, weighted):
    monkeypatch.setattr(catalogue, "_AT_ONCE", 300)
    kind = ["--mass-assignment", "tsc", "--interlaced"]
    made = run(*(files / name for name in names), *OPTIONS, *kind, *options, "-o", files / "f.h5")
    assert made.exit_code == 0, made.output
    found, w = ps.load(files / "f.h5"), MASSES if weighted else np.ones(len(X))
    expected = ps.paint(X, GRID, mass_assignment="tsc", weights=w, interlaced=True)
    np.testing.assert_allclose(found.delta, expected, atol=1e-12)
    assert (found.grid, found.length_unit) == (GRID, "m")
    assert found.redshift == (0.5 if "hdf5" in names[0] else None)
    assert found.settings["particles"] == len(X)
    noise = GRID.volume * (w**2).sum() / w.sum() ** 2
    assert found.settings["shot_noise"] == pytest.approx(noise, rel=1e-12)
    assert f"shot noise {noise:.6g}" in made.output


def test_a_snapshot_says_its_box(files):
    options = ["--positions", "PartType1/Coordinates", "--grid", "8,6,10", "--scale", "0.001"]
    assert run(files / "first.hdf5", *options, "-o", files / "f.h5").exit_code == 0
    assert ps.load(files / "f.h5").grid == GRID


def test_power_knows_how_they_were_painted(files):
    """The shot noise out, the window divided out, of one field and of two, unless something else is asked."""
    kind = {"mass_assignment": "cic", "interlaced": True}
    for name, x in (("x.txt", X), ("y.txt", X[:500])):
        np.savetxt(files / name, x, fmt="%.17g")
        made = run(files / name, *OPTIONS, "--interlaced", "-o", files / f"{name}.h5")
        assert made.exit_code == 0, made.output
    a, b = ps.paint(X, GRID, **kind), ps.paint(X[:500], GRID, **kind)
    noises = [GRID.volume / 1000, GRID.volume / 500]

    def measured(*options):
        found = run(files / "x.txt.h5", *options, "--json", of=spectrum)
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)

    power = ps.power_spectrum(a, GRID, shot_noise=noises[0], **kind)
    np.testing.assert_allclose(measured()["power"], power.power[None], rtol=1e-9, atol=1e-12)
    plain = ps.power_spectrum(a, GRID)
    found = measured("--mass-assignment", "none", "--shot-noise", "0")
    np.testing.assert_allclose(found["power"], plain.power[None], rtol=1e-9)
    both = ps.power_spectrum(a, GRID, b, shot_noise=noises, **kind)
    found = measured("--cross", files / "y.txt.h5")
    np.testing.assert_allclose(found["power"], both.power[None], rtol=1e-9)
    np.testing.assert_allclose(found["correlation"], both.correlation[None], rtol=1e-9)


def test_painted_differently_they_are_not_crossed(files):
    for name, options in (("a.h5", []), ("b.h5", ["--interlaced"])):
        assert run(files / "x.txt", *OPTIONS, *options, "-o", files / name).exit_code == 0
    with pytest.raises(InputError, match="one is interlaced: paint both alike"):
        run(files / "a.h5", "--cross", files / "b.h5", of=spectrum)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("first.hdf5", [], "positions is missing.*PartType1/Coordinates.*halos/x"),
        (
            "first.hdf5",
            ["--positions", "Coordinates"],
            "no dataset 'Coordinates' of numbers: it has PartType1",
        ),
        ("first.hdf5", ["--positions", "PartType1/Masses"], r"have shape \(300,\): they must be \(n, 3\)"),
        ("first.hdf5", ["--positions", "PartType1/Coordinates"], "the box is 4: it must hold them.*--scale"),
        ("x.txt", ["--positions", "1,2"], "positions names 2 columns"),
        ("x.txt", ["--positions", "1,2,4"], "column '4' is not in .*from 1 to 3"),
        ("x.txt", ["--weights", "mass"], "column 'mass'"),
        ("x.txt", ["--scale", "0"], "scale is 0"),
        ("x.txt", ["--dim", "2"], "--grid has 3 sides and --dim is 2"),
        ("words.txt", [], "cannot be read as a table of particles"),
        ("empty.txt", [], "holds no particles"),
        ("nothing.txt", [], "No such file"),
        ("x.txt", ["-o", "x.txt", "--overwrite"], "is read: give another name"),
    ],
)
def test_bad_input(files, monkeypatch, name, options, words):
    monkeypatch.setattr(catalogue, "_AT_ONCE", 300)
    monkeypatch.chdir(files)
    (files / "words.txt").write_text("a b c\n1 2 3\n")
    (files / "empty.txt").write_text("# x y z\n")
    with pytest.raises(InputError, match=words):
        run(name, *OPTIONS, "-o", "out.h5", *options)
    assert not (files / "out.h5").exists()


def test_particles_of_a_far_smaller_box_are_doubted(files):
    options = ["--grid", "8", "--box", "40", "-o", files / "f.h5"]
    with pytest.warns(UserWarning, match="less than half of the box, 40"):
        assert run(files / "x.txt", *options).exit_code == 0
