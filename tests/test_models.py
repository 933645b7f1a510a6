"""Models by name: every built-in one, the user's own, and one sentence for what is wrong with them."""

import sys

import numpy as np
import pytest

import physscore as ps
from physscore.models import BUILT_IN, load_model, load_models, parse_value

PARAMETERS = {
    "banana": {"scale": 2.0, "bend": 0.1, "dim": 3},
    "double-well": {"height": 2.0, "dim": 2},
    "funnel": {"dim": 3},
    "gaussian": {"mean": 1.0, "variance": 2.0, "dim": 4},
    "ising": {"size": 4, "coupling": 0.3},
    "mixture": {"distance": 3.0},
    "phi4": {"size": [4, 3], "kappa": 0.1, "lam": 0.2},
    "ring": {"radius": 2.0, "dim": 3},
    "shells": {"dim": 3},
    "student": {"degrees_of_freedom": 5, "dim": 1},
}

MODEL = """
import numpy as np
import physscore as ps
import beside

energy = ps.Gaussian(0.0, 1.0, dim=2)
number = 3.0

def posterior(beta, width=1.0):
    return ps.Gaussian(beta, width, dim=2)

def nothing():
    pass

def refuses():
    return ps.Gaussian(0.0, -1.0, dim=2)

def fails(n=1):
    a = np.zeros(3)
    return a[7 * n]

def fails_beside():
    return beside.divide(0)

class Mine(ps.Energy):
    shape = (2,)

    def __init__(self, scale=1.0):
        self.scale = scale

    def energy(self, x):
        return self.scale * (x**2).sum(axis=1)

    def score(self, x):
        return -2 * self.scale * x
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("def divide(n):\n    return 1 / n\n")
    path = tmp_path / "my_model.py"
    path.write_text(MODEL)
    yield path
    sys.modules.pop("beside", None)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_models(name):
    for parameters in ({}, PARAMETERS[name]):
        energy = load_model(name, parameters)
        assert isinstance(energy, ps.Energy)
        assert energy.log_z is None or np.isfinite(energy.log_z)
        x = 0.3 * np.random.default_rng(0).normal(size=(2, *energy.shape)) + 0.5
        assert np.isfinite(energy.energy(x)).all()
        assert energy.score(x).shape == x.shape
    wanted = PARAMETERS[name].get("dim", energy.dim)
    assert energy.dim == wanted
    assert BUILT_IN[name].__doc__


def test_sides_of_lattices():
    assert load_model("ising", {"size": 3, "dim": 3}).shape == (3, 3, 3)
    assert load_model("phi4", {"size": [2, 5]}).shape == (2, 5)


def test_own_models(file):
    model = load_model(f"{file}:posterior", {"beta": 2.0})
    np.testing.assert_array_equal(model.mean, [2.0, 2.0])
    assert repr(load_model(f"{file}:energy", {})) == repr(ps.Gaussian(0.0, 1.0, dim=2))
    assert load_model(f"{file}:Mine", {"scale": 3.0}).energy(np.ones((1, 2))) == 6.0
    # A file that was edited is read again.
    file.write_text(MODEL.replace("ps.Gaussian(beta, width, dim=2)", "ps.Gaussian(beta, width, dim=5)"))
    assert load_model(f"{file}:posterior", {"beta": 2.0}).dim == 5


REFUSED = {
    "unknown": ("funel", {}, "model is 'funel': it must be one of banana, .*, or my_model.py:name"),
    "wrong -p": (
        "funnel",
        {"size": 3},
        r"model 'funnel' does not take these -p \(.*'size'.*\): it takes dim",
    ),
    "value out of range": ("funnel", {"dim": 1}, "dim is 1"),
    "value of another type": ("funnel", {"dim": "ten"}, "ten"),
    "value in words": (
        "mixture",
        {"distance": "far"},
        "model 'mixture' failed with -p distance=far: TypeError",
    ),
    "phi4's couplings": ("phi4", {"mass": 1.0}, "mass"),
    "size": ("ising", {"size": "big"}, "big"),
    "no name": ("{file}", {}, r"say which of its names, as in .*my_model.py:posterior"),
    "no file": ("{file}x.py:energy", {}, r"there is no file .*my_model.pyx.py"),
    "no such name": ("{file}:prior", {}, r"my_model.py has no 'prior'"),
    "neither": ("{file}:number", {}, "is a float: it must be an Energy or a function of one"),
    "object with -p": ("{file}:energy", {"beta": 1}, "is an energy, not a function: it takes no -p beta"),
    "missing -p": ("{file}:posterior", {}, r"missing a required argument: 'beta'.: it takes beta, width=1.0"),
    "nothing": ("{file}:nothing", {}, "returned a NoneType: it must return an Energy"),
    "InputError": ("{file}:refuses", {}, "covariance"),
    "error": (
        "{file}:fails",
        {"n": 2},
        r"failed with -p n=2: line 20: IndexError: index 14 is out of bounds",
    ),
    "error beside it": ("{file}:fails_beside", {}, r"failed: line 23: ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_models_are_one_sentence(file, name):
    model, parameters, message = REFUSED[name]
    with pytest.raises(ps.InputError, match=message) as caught:
        load_model(model.format(file=file), parameters)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = missing\n", r"cannot be loaded: line 2: NameError: name 'missing' is not defined"),
        ("import not_there\n", r"cannot be loaded: line 1: ModuleNotFoundError: No module named 'not_there'"),
        ("def f(:\n", r"cannot be loaded: SyntaxError: invalid syntax \(broken.py, line 1\)"),
        ("import sys\nsys.exit(3)\n", r"cannot be loaded: line 2: SystemExit: 3"),
    ],
)
def test_files_that_cannot_be_loaded(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(text)
    for path in (tmp_path / "broken.py", "broken.py", "./broken.py"):
        with pytest.raises(ps.InputError, match=message) as caught:
            load_model(f"{path}:energy", {})
        assert "\n" not in str(caught.value)


def test_a_file_never_hides_a_module(tmp_path):
    """The user's file may have any name."""
    (tmp_path / "json.py").write_text("import physscore as ps\nenergy = ps.Gaussian(0.0, 1.0, dim=1)\n")
    before, path = sys.modules.get("json"), list(sys.path)
    assert load_model(f"{tmp_path}/json.py:energy", {}).dim == 1
    assert sys.modules.get("json") is before
    assert sys.path == path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-2.5", -2.5), ("1e3", 1000.0), ("4,5", [4, 5]), ("1,x", [1, "x"]), ("2,", [2]),
        ("true", True), ("False", False), ("word", "word"), ("", ""),
    ],
)  # fmt: skip
def test_values(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_several_models_share_the_parameters(file):
    names = ["gaussian", f"{file}:posterior", f"{file}:energy", "phi4"]
    found = load_models(names, {"width": 4.0, "beta": 1.0, "dim": 3})
    assert found[0].dim == 3
    assert found[1].covariance[0] == 4.0
    assert len(found[3].shape) == 3
    found = load_models(["phi4", "gaussian"], {"kappa": 0.1, "lam": 0.2, "variance": 4.0})
    assert found[1].covariance[0] == 4.0  # not for phi4, which takes couplings of any name
    assert load_models(["gaussian"], {"dim": 5})[0].dim == 5
    with pytest.raises(ps.InputError, match="none of the models gaussian, .* takes -p beat"):
        load_models(names[:3], {"beat": 1.0, "beta": 1.0})
    with pytest.raises(ps.InputError, match="does not take these -p"):
        load_models(["gaussian"], {"beta": 1.0})
    with pytest.raises(ps.InputError, match="missing a required argument: 'beta'"):
        load_models(names[:2], {"dim": 3})
