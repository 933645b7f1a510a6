"""Compiled loops that come from disk are those that were meant, whichever processes compiled them."""

import shutil
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import numba
import pytest
from numba.core.caching import IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

import physscore
from physscore.code_on_disk import OneFileEach, keep_on_disk


def dispatchers():
    """Return the loops of all modules, and all that they call."""
    found = {}

    def visit(value):
        if isinstance(value, Dispatcher) and id(value) not in found:
            found[id(value)] = value
            function = value.py_func
            for name in function.__code__.co_names:
                visit(function.__globals__.get(name))
            for cell in function.__closure__ or ():
                visit(cell.cell_contents)

    for module in walk_packages(physscore.__path__, "physscore."):
        if not module.name.startswith(("physscore.learning", "physscore.cuda", "physscore.__main__")):
            for value in vars(import_module(module.name)).values():
                visit(value)
    return list(found.values())


def test_every_function_has_a_name_of_its_own():
    """Code from disk is linked by the name of a function and a number, which two processes may give to two
    functions of one name: Underdamped once made the steps of MALA."""
    names = [(f.py_func.__module__, f.py_func.__qualname__) for f in dispatchers()]
    assert len(names) > 100
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("kind", [OneFileEach, IndexDataCacheFile])
def test_processes_that_compile_at_once(kind, tmp_path, monkeypatch):
    """The other one looks at what there is before this one writes, and writes before this one has ended."""
    one, other = (kind(str(tmp_path), "loop", "stamp") for _ in range(2))
    name = "_save_data" if kind is IndexDataCacheFile else "_open_for_write"
    write = getattr(one, name)

    def late(*args):
        with monkeypatch.context() as patch:
            patch.setattr(other, "_load_index", dict)
            other.save("float32", "code for float32")
        return write(*args)

    monkeypatch.setattr(one, name, late)
    one.save("float64", "code for float64")
    right = [one.load(key) in (None, f"code for {key}") for key in ("float32", "float64")]
    assert all(right) == (kind is OneFileEach)  # Numba's own fails, or this test sees nothing


def test_code_of_another_version_is_not_taken(tmp_path, monkeypatch):
    OneFileEach(str(tmp_path), "loop", (1.0, 10)).save("float64", "code")
    assert OneFileEach(str(tmp_path), "loop", (1.0, 10)).load("float64") == "code"
    assert OneFileEach(str(tmp_path), "loop", (2.0, 10)).load("float64") is None
    assert OneFileEach(str(tmp_path), "loop", (1.0, 10)).load("float32") is None
    monkeypatch.setattr(numba, "__version__", "0.0")
    assert OneFileEach(str(tmp_path), "loop", (1.0, 10)).load("float64") is None


def test_another_key_with_the_same_file_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("physscore.code_on_disk._number_of", lambda key: 1)
    kept = OneFileEach(str(tmp_path), "loop", "stamp")
    kept.save("float64", "code")
    assert kept.load("float32") is None
    assert len(list(Path(tmp_path).iterdir())) == 1
    assert kept.load("float64") == "code"


@pytest.mark.parametrize("broken", ["folder", "file"])
def test_a_folder_that_cannot_be_written_stops_nothing(broken, tmp_path, monkeypatch):
    """It is gone, and a file has its name; or no file can be opened in it, as on a full disk."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    function = numba.njit(lambda x: x + 1)
    keep_on_disk(function)
    assert (tmp_path / "cache").exists()

    def refuse(*args):
        raise OSError(28, "No space left on device")

    if broken == "folder":
        shutil.rmtree(tmp_path / "cache")
        (tmp_path / "cache").write_text("in the way")
    else:
        monkeypatch.setattr(OneFileEach, "_open_for_write", refuse)
    assert function(1) == 2
