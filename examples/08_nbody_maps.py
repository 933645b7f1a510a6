"""New maps from a few thousand: train a score on fields, draw new ones, and see where they differ.

Without a file the maps are lognormal fields, made here. With one, such as slabs of an N-body simulation:

python examples/08_nbody_maps.py [CELLS [SECONDS]]
python examples/08_nbody_maps.py slabs.h5 train/maps validation/maps test/maps SECONDS
"""

import sys

import h5py
import numpy as np

import physscore as ps
from physscore import learning
from physscore.plots import plot_field_audit


def main(cells: int = 64, seconds: float = 600.0) -> None:
    """Learn lognormal maps of ``cells`` a side."""
    grid = ps.Grid((cells, cells), box_size=128.0)
    field = ps.LognormalField(grid, ps.spectra.PowerLaw(index=-1.5, amplitude=3.0))
    n = 300 if cells <= 32 else 3000
    maps = 1 + field.sample(n + 400, seed=1).astype(np.float32)
    story(maps[:n], maps[n : n + 100], maps[n + 100 :], grid, seconds)


def from_file(path: str, train: str, validation: str, test: str, seconds: float) -> None:
    """Learn the maps of a file."""
    with h5py.File(path) as file:
        sets = [file[name][...].astype(np.float32) for name in (train, validation, test)]
        size = float(np.atleast_1d(file.attrs["BoxSize"])[0])
    story(*sets, ps.Grid(sets[0].shape[1:], size), seconds)


def story(maps, validation, test, grid, seconds) -> None:
    """Train, draw as many maps as there are to test with, audit and draw the audit."""
    small = grid.shape[0] <= 32
    network = learning.UNet(
        2, channels=(16, 32) if small else (48, 96, 128), blocks=1 if small else 2,
        patch=1 if small else 2, inputs=2,
    )  # fmt: skip
    fit = learning.train(
        network, maps, validation=validation, max_time=seconds, batch=32, seed=0, progress=sys.stderr.isatty()
    )
    training = fit.about["training"]
    print(f"{fit}: {training['steps']} steps, validation loss {training['validation_loss']:.4f}")
    new = fit.sample(min(len(test), 100 if small else 384), seed=1, steps=12 if small else 32)
    audit = ps.compare_fields(new, test, grid)
    print(audit)
    plot_field_audit("nbody_maps.png", audit, new[:4], test[:4], title="learned maps against test maps")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if len(arguments) > 2:
        from_file(*arguments[:4], float(arguments[4]))
    else:
        main(*map(int, arguments))
