"""From the particles of a file to their power, by the command."""

import json
import warnings

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import physscore as ps
from physscore.cli.paint import command
from physscore.cli.spectrum import command as spectrum
from physscore.core import InputError
from physscore.diagnostics.particles import Painting
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


TABLES = {  # the same particles, as spreadsheets and halo finders write them
    "with names": ("\ufeffid,x,y,z,mass", "{0}, {1}, {2}, {3}, {4}", "x,y,z", "mass"),
    "with quotes": ('"name","x","y","z","mass"', '"halo {0}, a host",{1},{2},{3},{4}', "x,y,z", "mass"),
    "with a comment": ("#id x y z mass\n#a = 0.5", "{0} {1} {2} {3} {4}", "x,y,z", "5"),
    "with words": ("\n", "halo{0}  {1} {2} {3} {4}", "2,3,4", "5"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_with_names_and_words(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(catalogue, "_AT_ONCE", 250)  # of which there are four, and nothing more
    head, line, positions, weights = TABLES[kind]
    rows = [
        line.format(i, *map(repr, map(float, x)), float(m))
        for i, (x, m) in enumerate(zip(X, MASSES, strict=True))
    ]
    (tmp_path / "x.csv").write_text("\n".join([head, *rows]), encoding="utf-8")
    options = ["--positions", positions, "--weights", weights, "-o", tmp_path / "f.h5"]
    made = run(tmp_path / "x.csv", *OPTIONS, *options)
    assert made.exit_code == 0, made.output
    found = ps.load(tmp_path / "f.h5")
    np.testing.assert_allclose(found.delta, ps.paint(X, GRID, weights=MASSES), atol=1e-12)
    assert found.settings["particles"] == len(X)


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


def test_particles_in_both_fields_are_told_of(files):
    """Of 1000, their masses in one: the cross spectrum has a shot noise, 55 of its errors over 30 of them."""
    run(files / "x.csv", *OPTIONS, "-o", files / "a.h5")
    run(files / "x.csv", *OPTIONS, "--positions", "1,2,3", "--weights", "4", "-o", files / "b.h5")
    run(files / "x.txt", *OPTIONS, "-o", files / "c.h5")
    with pytest.warns(UserWarning, match="a.h5 and --cross .*b.h5 are of the same particles"):
        assert run(files / "a.h5", "--cross", files / "b.h5", of=spectrum).exit_code == 0
    assert run(files / "a.h5", "--cross", files / "c.h5", of=spectrum).exit_code == 0  # warnings are errors


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
        ("x.txt", ["--weights", "mass"], "column 'mass' is not in .*from 1 to 3, or one of x, y, z"),
        ("x.npy", ["--positions", "x,y,z"], "column 'x' is not in .*from 1 to 4$"),
        ("x.csv", ["--positions", "4"], "positions is 4: it must name 3 columns"),
        ("cut.csv", [], "cut.csv ends in the middle of a line, with 3 of 4 columns"),
        ("x.npz", [], "it must be HDF5, .npy or text"),
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
    (files / "words.txt").write_text("1 2 3\na b c\n")
    (files / "empty.txt").write_text("# x y z\n")
    (files / "cut.csv").write_text((files / "x.csv").read_text().rpartition(",")[0])
    np.savez(files / "x.npz", x=X, y=X)
    with pytest.raises(InputError, match=words):
        run(name, *OPTIONS, "-o", "out.h5", *options)
    assert not (files / "out.h5").exists()


def test_particles_of_a_far_smaller_box_are_doubted(files):
    options = ["--grid", "8", "--box", "40", "-o", files / "f.h5"]
    with pytest.warns(UserWarning, match="less than half of the box, 40"):
        assert run(files / "x.txt", *options).exit_code == 0


@pytest.mark.parametrize(("side", "doubted"), [(5.0, False), (5.4, False), (6.0, True)])
def test_a_box_that_is_too_large_is_doubted(files, side, doubted):
    """As in Mpc for Mpc/h, unless the particles are few."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        run(files / "x.txt", "--grid", "8", "--box", f"4,3,{side}", "-o", files / "f.h5")
    words = ["along axis 2, 0.83" in str(warning.message) for warning in told]
    assert words == ([True] if doubted else [])
    assert catalogue.require_box(np.zeros(1), np.full(1, 0.6), (1.0,), 20) == ""


def snapshot(folder, counts, **about):
    """Files of a snapshot in kpc/h, as Gadget writes them: without a type of which there is none."""
    names, done = [], 0
    for i, n in enumerate(counts):
        names.append(folder / f"snap.{i}.hdf5")
        with h5py.File(names[-1], "w") as file:
            file.create_group("Header").attrs.update(
                BoxSize=[4000.0, 3000.0, 5000.0],
                Redshift=np.array([0.5]),
                NumPart_ThisFile=[n, 0],
                NumPart_Total=np.array([sum(counts), 0], np.uint32),
                NumPart_Total_HighWord=np.zeros(2, np.uint32),
                UnitLength_in_cm=3.085678e21,
                **about,
            )
            file["group"] = h5py.SoftLink("/PartType0")
            if n:
                file["PartType0/Coordinates"] = 1000 * X[done : done + n].astype(">f8")
        done += n
    return names


def told_by(names, folder, *options):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        kind = ["--grid", "8,6,10", "--overwrite", "-o", folder / "f.h5"]
        found = run(*names, *kind, "--positions", "PartType0/Coordinates", *options)
    assert found.exit_code == 0, found.output
    return " ".join(str(warning.message) for warning in told)


def test_all_of_a_snapshot(tmp_path):
    names = snapshot(tmp_path, [600, 0, 400])
    assert told_by(names, tmp_path, "--scale", "0.001") == ""
    found = ps.load(tmp_path / "f.h5")
    assert (found.grid, found.redshift, found.settings["particles"]) == (GRID, 0.5, 1000)
    np.testing.assert_allclose(found.delta, ps.paint(X, GRID), atol=1e-5)
    with h5py.File(names[1], "a") as file:  # a type that is there, and has no dataset of that name
        file["Header"].attrs["NumPart_ThisFile"] = [7, 0]
    with pytest.raises(InputError, match="no dataset 'PartType0/Coordinates'"):
        told_by(names, tmp_path)


def test_what_a_header_speaks_against(tmp_path):
    names = snapshot(tmp_path, [600, 0, 400])
    some = "600 particles were read, and the snapshot has 1000 of type 0"
    assert told_by(names[:2], tmp_path, "--scale", "0.001").startswith(some)
    assert "unit of length of the snapshot is 0.001 Mpc/h, and scale is 1:" in told_by(names, tmp_path)
    assert told_by(names, tmp_path, "--length-unit", "kpc/h") == ""
    with pytest.raises(InputError, match=r"snap.0.hdf5 is given twice"):
        told_by([*names, names[0]], tmp_path)
    with h5py.File(names[2], "a") as file:
        file.create_group("Parameters").attrs["UnitLength_in_cm"] = 3.085678e24
    with pytest.raises(
        InputError, match=r"UnitLength_in_cm in .* is 3.*\+24, and in a file before it 3.*\+21"
    ):
        told_by(names, tmp_path)
    with h5py.File(names[2], "a") as file:
        del file["Parameters"]
        file["Header"].attrs["Redshift"] = 0.6
    with pytest.raises(InputError, match="Redshift in .*snap.2.hdf5 is 0.6, and in a file before it 0.5"):
        told_by(names, tmp_path)


def test_names_by_links(tmp_path):
    (name,) = snapshot(tmp_path, [1000])
    with h5py.File(name, "a") as file:  # what is no number is not taken for one
        file["Header"].attrs.update(Redshift="none", UnitLength_in_cm="1 kpc", NumPart_Total="many")
    told_by([name], tmp_path, "--scale", "0.001", "--positions", "group/Coordinates")
    assert ps.load(tmp_path / "f.h5").redshift is None
    assert ps.load(tmp_path / "f.h5").settings["particles"] == 1000


def test_particles_beyond_the_box_are_seen_at_once(files, monkeypatch):
    """Before all others are read."""
    monkeypatch.setattr(catalogue, "_AT_ONCE", 300)
    given = iter(range(2))
    monkeypatch.setattr(Painting, "add", lambda *_: next(given))
    with pytest.raises(InputError, match="reach from .*the box is 1: it must hold them"):
        run(files / "x.npy", "--grid", "8", "--box", "1", "--positions", "2,3,4", "-o", files / "f.h5")
    assert list(given) == [0, 1]
