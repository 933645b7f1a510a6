"""Of jobs that begin to write one file together, one goes on and the others say so."""

import numpy as np
import pytest

import physscore as ps
from physscore.store import FieldWriter, fields, hdf5, runs
from physscore.store.hdf5 import check_output, whole_file

GRID = ps.Grid((4, 4), 4.0)
BUSY = r"a.h5 is being written by another job"


def meanwhile(monkeypatch, module, name, other):
    """Have another job run once, before a function of a module is called."""
    function, left = getattr(module, name), [other]

    def both(*args, **options):
        if left:
            left.pop()()
        return function(*args, **options)

    monkeypatch.setattr(module, name, both)


def refused(job, message=BUSY):
    def run():
        with pytest.raises(ps.InputError, match=message):
            job()

    return run


def write_field(path, value, **options):
    with FieldWriter(path, GRID, n=1, dtype=np.dtype("f4"), seed=1, **options) as writer:
        writer.write(0, np.full((4, 4), value, "f4"))
        writer.finish()


@pytest.mark.parametrize(
    ("when", "second"),
    [(when, {}) for when in ("_lay_out", "reserve", "opened")]
    + [(when, {"resume": True}) for when in ("_lay_out", "reserve", "opened")]
    + [(when, {"overwrite": True}) for when in ("_lay_out", "reserve")],  # later it may take the file over
)
def test_fields(tmp_path, monkeypatch, when, second):
    path = tmp_path / "a.h5"
    meanwhile(monkeypatch, fields, when, refused(lambda: write_field(path, 2.0, **second)))
    write_field(path, 1.0, resume=True)
    assert (ps.load(path).delta == 1).all()
    assert list(tmp_path.iterdir()) == [path]


def test_a_job_that_was_let_in_before_the_other_began(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    for options in ({}, {"resume": True}):
        first = []

        def begin(first=first):
            first.append(FieldWriter(path, GRID, n=1, dtype=np.dtype("f4"), overwrite=True))

        with monkeypatch.context() as patch:
            meanwhile(patch, fields, "require_space", begin)
            refused(lambda options=options: write_field(path, 2.0, **options))()
        refused(lambda: check_output(path))()
        first[0].write(0, np.ones((4, 4), "f4"))
        first[0].finish()
        assert (ps.load(path).delta == 1).all()
        path.unlink()


@pytest.mark.parametrize("second", [{}, {"resume": True}, {"overwrite": True}])
@pytest.mark.parametrize("when", ["_make_room", "opened"])
def test_runs(tmp_path, monkeypatch, second, when):
    def job(seed=1, **options):
        target, kernel = ps.Gaussian(0.0, 1.0, dim=2), ps.MALA(step_size=0.1)
        where = {"output": tmp_path / "a.h5", **options}
        return ps.sample(target, kernel, chains=2, steps=5, warmup=0, seed=seed, **where)

    meanwhile(monkeypatch, runs, when, refused(lambda: job(**second)))
    assert job().draws.shape == (5, 2, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_files_that_are_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"

    def job(text):
        with whole_file(path, 10) as fresh:
            fresh.write_text(text)

    meanwhile(monkeypatch, hdf5.os, "fsync", refused(lambda: job("second")))
    job("first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("replaced", [False, True])
def test_what_goes_wrong_leaves_no_file(tmp_path, replaced):
    def broken():
        with whole_file(tmp_path / "a.h5", 10) as fresh:
            if replaced:  # as safetensors does
                (tmp_path / "other").write_text("")
                (tmp_path / "other").replace(fresh)
            raise OSError("broken")

    with pytest.raises(ps.InputError, match="broken"):
        broken()
    assert not list(tmp_path.iterdir())
