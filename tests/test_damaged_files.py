"""Files that say they are ours, and lack a part or hold something else in its place: a sentence for each."""

import contextlib
import shutil

import h5py
import numpy as np
import pytest
from commands import physscore

import physscore as ps


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    physscore("field", "--grid", 8, "--box", 100, "-n", 2, "-o", "f.h5", cwd=folder)
    physscore("spectrum", "f.h5", "-o", "sp.h5", cwd=folder)
    target = ps.Gaussian(0.0, 1.0, dim=2)
    ps.save(folder / "run.h5", ps.sample(target, chains=4, steps=8, warmup=4))
    ps.save(folder / "z.h5", ps.estimate_log_z(target, particles=64, islands=4))
    return folder


def damaged(path, folder):
    """Copies of a file, each without a group, dataset or attribute, or with another attribute."""
    names = []
    with h5py.File(path) as file:
        file.visit(names.append)
        attributes = list(file.attrs)
    for number, name in enumerate(names):
        copy = shutil.copy(path, folder / f"{path.stem}-{number}.h5")
        with h5py.File(copy, "r+") as file:
            del file[name]
        yield copy
    for name in attributes:
        for word, value in (("none", None), ("text", "x"), ("nan", np.nan)):
            copy = shutil.copy(path, folder / f"{path.stem}-{name}-{word}.h5")
            with h5py.File(copy, "r+") as file:
                del file.attrs[name]
                if value is not None:
                    file.attrs[name] = value
            yield copy


@pytest.mark.parametrize("name", ["f", "sp", "run", "z"])
def test_every_damage_is_one_sentence(name, whole, tmp_path):
    refused, files = 0, list(damaged(whole / f"{name}.h5", tmp_path))
    for path in files:
        commands = [("info", path), ("info", "--json", path), ("spectrum", path)]
        commands += [("audit", path, "--reference", whole / "f.h5")] if name == "f" else []
        for command in commands:
            try:
                done = physscore(*command, cwd=tmp_path, code=0)
            except AssertionError:
                done = physscore(*command, cwd=tmp_path, code=2)
                assert done.stderr.count("Error: ") == 1
                refused += "damaged" in done.stderr
        with contextlib.suppress(ps.InputError):
            ps.load(path)
    assert refused > len(files) / 2


@pytest.mark.parametrize("command", ["info", "spectrum", "audit --reference", "train -o m.safetensors"])
def test_an_empty_name_is_no_file(command, tmp_path):
    done = physscore(*command.split(), "", *["x.h5"] * ("--reference" in command), cwd=tmp_path, code=2)
    assert "it must be the name of one" in done.stderr or "x.h5 does not exist" in done.stderr
    with pytest.raises(ps.InputError, match="it must be the name of one"):
        ps.load("")
