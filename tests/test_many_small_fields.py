"""Very many small fields: written some together, and still nothing but the last second is lost by a kill."""

import shutil

import h5py
import numpy as np
import pytest

import physscore as ps
from physscore.store import FieldFile, FieldWriter

GRID = ps.Grid((6, 5), 1.0)
WHITE = ps.spectra.PowerLaw(index=0)


def writer(path, n, **options):
    bins = ps.diagnostics.bins.power_bins(GRID)
    return FieldWriter(path, GRID, n=n, dtype=np.dtype("f8"), bins=bins, seed=1, **options)


def draws(n):
    x = np.random.default_rng(3).standard_normal((n, *GRID.shape))
    power = ps.power_spectrum(x, GRID)
    checks = [ps.power_spectrum(field, GRID).compare(WHITE) for field in x]
    return x, [ps.power_spectrum(field, GRID) for field in x], checks, power


def fill(file, numbers, x, spectra, checks):
    field = np.empty(GRID.shape)
    for i in numbers:
        field[...] = x[i]  # the caller's array is used again
        file.write(i, field, spectra[i], checks[i])


def test_they_take_few_calls_of_hdf5(tmp_path, monkeypatch):
    calls, write, flush = [], h5py.Dataset.__setitem__, h5py.File.flush
    monkeypatch.setattr(h5py.Dataset, "__setitem__", lambda *args: (calls.append(1), write(*args))[1])
    monkeypatch.setattr(h5py.File, "flush", lambda file: (calls.append(1), flush(file))[1])
    monkeypatch.setattr("physscore.store.rows.time.monotonic", lambda: 0.0)
    n = 300
    x, spectra, checks, power = draws(n)
    with writer(tmp_path / "a.h5", n) as file:
        fill(file, range(n), x, spectra, checks)
        file.finish()
    assert len(calls) < n / 5
    monkeypatch.undo()
    with FieldFile(tmp_path / "a.h5") as file:
        assert file.completed == list(range(n))
        np.testing.assert_array_equal(file.delta[...], x)
        np.testing.assert_array_equal(file.power().power, power.power)
        np.testing.assert_array_equal(file.file["checks/chi2"][:], [check.chi2 for check in checks])


def test_a_kill_loses_a_second_and_leaves_no_mark_without_a_field(tmp_path, monkeypatch):
    now = iter(np.arange(0, 1000, 0.15))
    monkeypatch.setattr("physscore.store.rows.time.monotonic", lambda: next(now))
    monkeypatch.setattr("physscore.store.rows._AT_ONCE", 2000)
    n = 30
    numbers = np.random.default_rng(0).permutation(n)
    x, spectra, checks, _ = draws(n)
    with writer(tmp_path / "a.h5", n) as file:
        for done, i in enumerate(numbers, 1):
            fill(file, [i], x, spectra, checks)
            shutil.copy(tmp_path / "a.h5.part", tmp_path / "killed.h5")
            with FieldFile(tmp_path / "killed.h5") as left:
                assert set(numbers[: max(done - 7, 0)]) <= set(left.completed) <= set(numbers[:done])
                for j in left.completed:
                    np.testing.assert_array_equal(left.read(j), x[j])
                    np.testing.assert_array_equal(left.power().power[j], spectra[j].power)
                    assert left.file["checks/dof"][j] == checks[j].dof


@pytest.mark.parametrize("error", [KeyboardInterrupt, ps.InputError])
def test_what_ends_in_order_loses_nothing(tmp_path, error):
    x, spectra, checks, _ = draws(9)

    def interrupted():
        with writer(tmp_path / "a.h5", 9) as file:
            fill(file, [0, 1, 2, 5], x, spectra, checks)
            assert file.completed == [0, 1, 2, 5]
            fill(file, [6], x, spectra, checks)
            np.testing.assert_array_equal(file.read_planes(6, 0, 6), x[6])
            raise error

    with pytest.raises(error):
        interrupted()
    with writer(tmp_path / "a.h5", 9, resume=True) as file:
        assert file.completed == [0, 1, 2, 5, 6]
        fill(file, [3, 4, 7, 8], x, spectra, checks)
        file.finish()
    np.testing.assert_array_equal(ps.load(tmp_path / "a.h5").delta, x)


def test_xarray_reads_the_number_of_the_field_as_the_coordinate(tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    x, spectra, checks, _ = draws(3)
    with writer(tmp_path / "a.h5", 3) as file:
        fill(file, range(3), x, spectra, checks)
        file.finish()
    with xarray.open_datatree(tmp_path / "a.h5", engine="h5netcdf") as tree:
        for group, name in (("/", "completed"), ("/checks", "chi2")):
            found = tree[group][name]
            assert found.dims == ("realization",)
            assert found.coords["realization"].values.tolist() == [0, 1, 2]
        assert tree["/fields/delta"].dims == ("realization", "x", "y")
