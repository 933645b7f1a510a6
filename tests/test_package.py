"""The package as a whole: imports run downwards, nothing heavy is loaded early, examples run."""

import ast
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest

import physscore

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "physscore"

# Each may import what stands in an earlier line, or its own.
LAYERS = [
    {"_version"},
    {
        "core",
        "arrays",
        "fft",
        "interrupt",
        "memory",
        "processes",
        "parts",
        "philox",
        "noise",
        "elementary",
        "code_on_disk",
        "points",  # the algebra of core compiles its sums
        "grid",
        "cuda",
    },
    {"modes", "mode_coordinates", "slabs", "spectra", "paths"},
    {"energies", "kernels"},
    {"diagnostics"},
    {
        "workers",
        "store",
        "sampling",
        "evidence",
        "plots",
        "models",
        "systems",
        "learning",
        "distributed",
        "cost",
    },
    {"cli"},
    {"__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HEAVY = ("numba", "scipy", "h5py", "matplotlib", "camb", "cupy", "torch")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("physscore"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from [a.name.split(".")[1] for a in node.names if a.name.startswith("physscore.")]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imported_modules(path):
        assert LEVEL[name] <= LEVEL[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_one_idea(path):
    assert len(path.read_text().splitlines()) <= 400


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    ).stdout


def test_import_loads_nothing_heavy():
    loaded = python("import sys, physscore; print(*sys.modules)").split()
    assert not [name for name in (*HEAVY, "numpy") if name in loaded]


def test_help_loads_nothing_heavy():
    loaded = python("import sys; from physscore.cli import physscore as group; group.main(['--help'],"
                    " standalone_mode=False); print(*sys.modules)").split()  # fmt: skip
    assert not [name for name in (*HEAVY, "numpy") if name in loaded]


def test_info_and_spectra_do_not_load_numba():
    assert "numba" not in python("import sys, physscore; physscore.spectra; print(*sys.modules)").split()


def test_help_is_quick():
    def seconds(*command):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        return time.perf_counter() - start

    help_ = "from physscore.cli import physscore; physscore.main(['--help'])"
    assert min(seconds("-c", help_) - seconds("-c", "pass") for _ in range(5)) < 0.3


def test_public_names():
    for name in physscore.__all__:
        assert getattr(physscore, name) is not None
    assert set(physscore.__all__) <= set(dir(physscore))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = physscore.nonsense


# These compile energies of their own for a minute, draw for one, or train six networks.
SLOW = ("02_own_energy.py", "03_pipeline.py", "05_evidence.py", "06_own_model.py", "07_score_matching.py",
        "09_mode_smearing.py")  # fmt: skip
QUICK = {"08_nbody_maps.py": ("16", "2")}  # what they are called with
EXAMPLES = [
    pytest.param(path, id=path.name, marks=[pytest.mark.long] if path.name in SLOW else [])
    for path in sorted((ROOT / "examples").glob("*.py"))
]


@pytest.mark.parametrize("path", EXAMPLES)
@pytest.mark.filterwarnings("ignore")
def test_examples_run(path, tmp_path, monkeypatch):
    """In this process, where all is loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path), *QUICK.get(path.name, ("32",))])
    runpy.run_path(str(path), run_name="__main__")
    assert list(tmp_path.glob("*.png"))


def test_distribution_holds_the_package(tmp_path):
    """The wheel is built from the unpacked sdist, so that both hold all."""
    pytest.importorskip("build")
    subprocess.run([sys.executable, "-m", "build", "-o", tmp_path, ROOT], capture_output=True, check=True)
    (archive,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", target, archive],
                   capture_output=True, check=True)  # fmt: skip
    code = "import physscore; print(physscore.__file__, physscore.spectra.planck2018(0.5)(0.1))"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    out = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout
    assert out.startswith(str(target))
    assert (target / "physscore" / "py.typed").exists()
