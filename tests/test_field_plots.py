"""Pictures of fields: nothing is cut off, and no labels touch."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest

import physscore as ps
from physscore.plots import fields


@pytest.mark.parametrize("box", [5.0, 50.0, 500.0, 1000.0, 20000.0])
@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 32), (32, 16)])
def test_nothing_is_cut_off(shape, box, monkeypatch):
    grid = ps.Grid(shape, box)
    prior = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
    delta = prior.sample(1, seed=1)[0]
    spectrum = ps.power_spectrum(delta, grid)
    drawn = []
    monkeypatch.setattr(fields, "write", lambda figure, path: drawn.append(figure))
    fields.plot_field(
        "f.png", delta, grid, spectrum=spectrum, comparison=spectrum.compare(prior.spectrum), title="title"
    )
    (figure,) = drawn
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    for axes in figure.axes:
        boxes = [
            label.get_window_extent() for label in axes.get_xticklabels(which="both") if label.get_text()
        ]
        inside = [box for box in boxes if axes.bbox.x0 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1]
        inside.sort(key=lambda box: box.x0)
        assert all(one.x1 < other.x0 for one, other in pairwise(inside))
    plt.close(figure)


@pytest.mark.parametrize("dim", [2, 3])
def test_long_titles_are_not_cut_off(dim, monkeypatch):
    grid = ps.Grid((32,) * dim, 100.0)
    prior = ps.LognormalField(grid, ps.spectra.PowerLaw(index=-1.5, amplitude=1.0))
    delta = prior.sample(1, seed=1)[0]
    spectrum = ps.power_spectrum(delta, grid)
    title = (
        "lognormal field, planck2018 at z = 0.123456, 1024 x 1024 x 1024 cells, box 1000 x 1000 x 999 Mpc/h, "
    )
    drawn = []
    monkeypatch.setattr(fields, "write", lambda figure, path: drawn.append(figure))
    comparison, check = spectrum.compare(prior.spectrum), ps.check_field(delta, prior)
    title += f"seed {2**64 - 1}"
    fields.plot_spectrum("f.png", grid, spectrum, comparison, check, title=title)
    (figure,) = drawn
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
    plt.close(figure)
