"""Files: what is written is read back, by us and by others; nothing finished is lost."""

import json

import h5py
import numpy as np
import pytest

import physscore as ps
from physscore.core import InputError
from physscore.diagnostics.bins import power_bins
from physscore.store import FieldFile, FieldWriter
from physscore.store.hdf5 import inverse, writing

GRID = ps.Grid((8, 6, 5), (40.0, 30.0, 20.0))


def white(k):
    return np.full_like(k, 3.0)


def draw(n):
    return ps.GaussianRandomField(GRID, white).sample(n, seed=1, dtype="float32")


@pytest.mark.parametrize("n", [None, 1, 3])
def test_fields_come_back(tmp_path, n):
    delta = draw(n or 1) if n else draw(1)[0]
    path = tmp_path / "f.h5"
    ps.save(path, ps.Fields(delta, GRID, redshift=0.5, seed=2**63, settings={"a": [1, 2]}))
    found = ps.load(path)
    np.testing.assert_array_equal(found.delta, delta)
    assert (found.grid, found.redshift, found.seed, found.settings) == (GRID, 0.5, 2**63, {"a": [1, 2]})
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_unit": None}, "length_unit is None: it must be text"),
        ({"settings": {"a": np.arange(2)}}, "settings holds 'a' of the type ndarray"),
        ({"settings": [1]}, r"settings is \[1\]: it must be a dictionary"),
        ({"lognormal": "yes"}, "lognormal is 'yes': it must be True or False"),
        ({"paired": None}, "paired is None: it must be True or False"),
    ],
)
def test_fields_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        ps.Fields(draw(1), GRID, **options)


@pytest.mark.parametrize("shape", [(7,), (6, 5)])
def test_fields_of_fewer_dimensions(tmp_path, shape):
    grid = ps.Grid(shape, 10.0)
    delta = ps.GaussianRandomField(grid, white).sample(2, seed=1)
    ps.save(tmp_path / "f.h5", ps.Fields(delta, grid, length_unit="kpc"))
    found = ps.load(tmp_path / "f.h5")
    np.testing.assert_array_equal(found.delta, delta)
    assert (found.length_unit, found.seed, found.redshift) == ("kpc", None, None)


def test_spectrum_comes_back_and_is_a_table(tmp_path):
    spectrum = ps.power_spectrum(draw(3), GRID)
    path = tmp_path / "p.h5"
    ps.save(path, spectrum)
    found = ps.load(path)
    for name in ("k", "power", "error", "n_modes", "k_edges"):
        np.testing.assert_array_equal(getattr(found, name), getattr(spectrum, name))
    assert found.dim == 3
    table = ps.spectra.Tabulated.from_file(path)
    np.testing.assert_allclose(table(spectrum.k), spectrum.power.mean(axis=0))
    assert table.units == ("h/Mpc", "(Mpc/h)^3")
    cross = ps.power_spectrum(draw(3), GRID, draw(3))
    ps.save(path, cross, overwrite=True)
    np.testing.assert_array_equal(ps.load(path).correlation, cross.correlation)


def test_layout_for_plain_h5py(tmp_path):
    path = tmp_path / "f.h5"
    ps.save(path, ps.Fields(draw(2), GRID, redshift=1.0, seed=1))
    with h5py.File(path) as file:
        assert file.attrs["format"] == "physscore"
        assert file.attrs["format_version"] == 1
        assert file.attrs["kind"] == "fields"
        assert file.attrs["version"] == ps.__version__
        assert json.loads(file.attrs["settings"]) == {}
        np.testing.assert_array_equal(file["Header"].attrs["BoxSize"], GRID.box_size)
        assert file["Header"].attrs["Redshift"] == 1.0
        assert file["Units"].attrs["length"] == "Mpc/h"
        delta = file["fields/delta"]
        assert delta.chunks is None
        assert [dim.label for dim in delta.dims] == ["realization", "x", "y", "z"]
        np.testing.assert_array_equal(delta.dims[1][0][:], GRID.coordinates(0))


def test_layout_for_xarray(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    delta = draw(2)
    ps.save(tmp_path / "f.h5", ps.Fields(delta, GRID))
    with xarray.open_dataset(tmp_path / "f.h5", group="fields", engine="h5netcdf") as found:
        assert found.delta.dims == ("realization", "x", "y", "z")
        np.testing.assert_array_equal(found.delta.values, delta)
        np.testing.assert_allclose(found.z.values, GRID.coordinates(2))
        assert found.x.units == "Mpc/h"


@pytest.mark.filterwarnings("ignore")  # of yt's own
def test_layout_for_yt(tmp_path):
    yt = pytest.importorskip("yt")
    yt.set_log_level("error")
    delta = draw(1)[0]
    ps.save(tmp_path / "f.h5", ps.Fields(delta, GRID))
    bbox = np.array([[0.0, side] for side in GRID.box_size])
    found = yt.load_hdf5_file(
        str(tmp_path / "f.h5"), root_node="/fields", fields=["delta"], bbox=bbox, nchunks=2
    )
    cells = found.covering_grid(0, found.domain_left_edge, GRID.shape)
    np.testing.assert_allclose(cells["stream", "delta"].to_ndarray(), delta)


def test_an_unfinished_file_is_named(tmp_path):
    (tmp_path / "f.h5.part").write_bytes(b"")
    with pytest.raises(ps.InputError, match=r"f.h5 does not exist, but .*f.h5.part does"):
        ps.load(tmp_path / "f.h5")


def writer(path, **options):
    return FieldWriter(path, GRID, n=3, dtype=np.dtype("f4"), bins=power_bins(GRID), seed=1,
                       settings={"a": 1}, **options)  # fmt: skip


def write_some(path, numbers, **options):
    prior = ps.GaussianRandomField(GRID, white)
    with writer(path, **options) as file:
        for i in numbers:
            delta = prior.sample(1, seed=1, dtype="float32", first=i)[0]
            measured = ps.power_spectrum(delta, GRID)
            file.write(i, delta, measured, measured.compare(white))
        if len(file.completed) == 3:
            file.finish()


def datasets(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[...]}) if hasattr(item, "shape") else None
        )
    return found


def test_unfinished_file_is_readable_and_resumed(tmp_path):
    whole, path = tmp_path / "whole.h5", tmp_path / "f.h5"
    write_some(whole, range(3))
    write_some(path, [0, 2])
    assert not path.exists()
    with FieldFile(tmp_path / "f.h5.part") as part:
        assert part.completed == [0, 2]
        np.testing.assert_array_equal(part.read(2), draw(3)[2])
        assert part.verdict().dof > 0
    write_some(path, [1], resume=True)
    assert not (tmp_path / "f.h5.part").exists()
    expected, found = datasets(whole), datasets(path)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_unfinished_job_is_not_lost_by_mistake(tmp_path):
    path = tmp_path / "f.h5"
    write_some(path, [0])
    with pytest.raises(InputError, match=r"unfinished job.*--overwrite.*--resume"):
        writer(path)
    with pytest.raises(InputError, match=r"another job .a was 1 and is 2."):
        FieldWriter(path, GRID, n=3, dtype=np.dtype("f4"), seed=1, settings={"a": 2}, resume=True)
    with pytest.raises(InputError, match="seed was 1 and is 2"):
        FieldWriter(path, GRID, n=3, dtype=np.dtype("f4"), seed=2, settings={"a": 1}, resume=True)
    write_some(path, [1], overwrite=True)
    with FieldFile(tmp_path / "f.h5.part") as part:
        assert part.completed == [1]


def test_existing_output_is_kept(tmp_path):
    path = tmp_path / "f.h5"
    ps.save(path, ps.Fields(draw(1), GRID))
    with pytest.raises(InputError, match=r"output .*f.h5 exists: use --overwrite"):
        ps.save(path, ps.Fields(draw(1), GRID))
    ps.save(path, ps.Fields(draw(2), GRID), overwrite=True)
    assert len(ps.load(path).delta) == 2


def test_what_python_calls_the_options_of_the_shell(tmp_path):
    path = tmp_path / "f.h5"
    write_some(path, [0])
    with pytest.raises(
        InputError, match=r"--overwrite .*--resume .*\(in Python overwrite=True, resume=True\)"
    ):
        writer(path)
    with pytest.raises(InputError, match=r"use --overwrite \(in Python overwrite=True\)"):
        FieldWriter(path, GRID, n=3, dtype=np.dtype("f4"), seed=2, settings={"a": 1}, resume=True)
    ps.save(path, ps.Fields(draw(1), GRID), overwrite=True)
    with pytest.raises(InputError, match=r"exists: use --overwrite to .* \(in Python overwrite=True\)"):
        ps.save(path, ps.Fields(draw(1), GRID))


@pytest.mark.parametrize("name", ["no/folder/f.h5", "."])
def test_impossible_output(tmp_path, name):
    with pytest.raises(InputError, match=r"output .*(there is no folder|is a folder)"):
        ps.save(tmp_path / name, ps.Fields(draw(1), GRID))


def test_full_disk_is_seen_before_starting(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(InputError, match=r"needs .* GiB and .* GiB are free on its disk"):
        ps.save(tmp_path / "f.h5", ps.Fields(draw(1), GRID))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("errno = 28, 'No space left on device'")]
)
def test_disk_that_fills_up(error):
    with pytest.raises(InputError, match="disk is full"), writing("f.h5"):
        raise error


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        ps.load(tmp_path / "nothing.h5")
    text = tmp_path / "text.h5"
    text.write_text("no HDF5 at all")
    with pytest.raises(InputError, match="not an HDF5 file"):
        ps.load(text)
    path = tmp_path / "f.h5"
    ps.save(path, ps.Fields(draw(20), GRID))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="truncated"):
        ps.load(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(InputError, match=r"format version 99.*install a newer physscore"):
        ps.load(path)
    with h5py.File(path, "w") as file:
        file["maps"] = np.zeros((2, 8, 6, 5))
    with pytest.raises(InputError, match=r"not a file of physscore fields.*--dataset.*--box"):
        ps.load(path)
    with pytest.raises(InputError, match="no dataset 'map'"):
        FieldFile(path, dataset="map", box_size=(1.0,))
    with pytest.raises(InputError, match="box_size is missing"):
        FieldFile(path, dataset="maps")
    with FieldFile(path, dataset="maps", box_size=(40.0, 30.0, 20.0)) as found:
        assert found.grid == GRID
        assert found.completed == [0, 1]


def test_wrong_objects(tmp_path):
    with pytest.raises(InputError, match="what is a list"):
        ps.save(tmp_path / "f.h5", [1, 2])
    with pytest.raises(InputError, match=r"delta has shape \(3, 3\)"):
        ps.save(tmp_path / "f.h5", ps.Fields(np.zeros((3, 3)), GRID))


def test_units_of_wavenumbers():
    assert inverse("Mpc/h") == "h/Mpc"
    assert inverse("kpc") == "1/(kpc)"


def test_an_unfinished_file_gives_what_is_finished(tmp_path):
    grid = ps.Grid((4, 4), 4.0)
    with FieldWriter(tmp_path / "a.h5", grid, n=5, dtype=np.dtype("f4"), seed=1) as writer:
        writer.write(0, np.full((4, 4), 1.0, "f4"))
        writer.write(2, np.full((4, 4), 3.0, "f4"))
    with pytest.warns(UserWarning, match="unfinished: it has 2 of 5 fields"):
        delta = ps.load(tmp_path / "a.h5.part").delta
    assert delta[:, 0, 0].tolist() == [1.0, 3.0]
    with FieldWriter(tmp_path / "b.h5", grid, n=None, dtype=np.dtype("f4"), seed=1):
        pass
    with pytest.raises(InputError, match="no finished field"):
        ps.load(tmp_path / "b.h5.part")


def test_a_job_that_was_taken_over_gives_no_name_to_the_half_of_another(tmp_path):
    """Two jobs on one output, the second with overwrite: the first must not finish the second's file."""
    grid, path = ps.Grid((4, 4), 1.0), tmp_path / "f.h5"
    options = {"n": 2, "dtype": np.dtype("f4"), "overwrite": True}
    first = FieldWriter(path, grid, settings={"job": 1}, **options)
    for i in range(2):
        first.write(i, np.ones((4, 4), "f4"))
    second = FieldWriter(path, grid, settings={"job": 2}, **options)
    second.write(0, np.zeros((4, 4), "f4"))
    with pytest.raises(InputError, match="was taken over by another job"):
        first.finish()
    assert not path.exists()
    second.write(1, np.zeros((4, 4), "f4"))
    second.finish()
    found = ps.load(path)
    assert found.settings == {"job": 2}
    assert (found.delta == 0).all()
