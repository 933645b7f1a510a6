"""Pictures of fields: nothing is cut off, and no labels touch."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest

import physscore as ps
from physscore.plots import fields, runs
from physscore.plots.figure import extent_of, unit_to


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


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("quantity", [None, "temperature"])
def test_labels_say_what_is_shown_and_where(dim, quantity, monkeypatch):
    """Maps of anything else than delta were said to be log10(1 + delta) where that is a number."""
    grid = ps.Grid((8,) * dim, 10.0)
    law = ps.LognormalField(grid, lambda k: 5.0 / (1 + k) ** 3)
    delta = law.sample(1, seed=1)[0]
    drawn = []
    monkeypatch.setattr(fields, "write", lambda figure, path: drawn.append(figure))
    named = {} if quantity is None else {"quantity": quantity}
    fields.plot_field("f.png", delta, grid, spectrum=ps.power_spectrum(delta, grid), **named)
    (figure,) = drawn
    labels = [axes.get_ylabel() for axes in figure.axes]
    shown = quantity or (r"$\delta$" if dim == 1 else r"$\log_{10}(1+\delta)$")
    where = ", mean over z from 0 to 1.25 Mpc/h" if dim == 3 else ""
    assert shown + where in labels
    plt.close(figure)


def test_slices_of_runs_and_audits_say_where(monkeypatch):
    grid = ps.Grid((6, 6, 6), 12.0)
    law = ps.GaussianRandomField(grid, lambda k: 1 / (1 + k))
    run = ps.sample(law, ps.MALA(0.1), chains=2, steps=8, warmup=0)
    drawn = []
    monkeypatch.setattr(runs, "write", lambda figure, path: drawn.append(figure))
    runs.plot_run("r.png", run)
    (figure,) = drawn
    assert figure.axes[0].get_title() == f"last draw, z = {grid.coordinates(2)[3]:g}"
    plt.close(figure)


def test_pixels_are_around_their_cells():
    grid = ps.Grid((8, 5), (16.0, 20.0))
    left, right, bottom, top = extent_of(grid)
    x, y = grid.coordinates(0), grid.coordinates(1)
    assert (left, right) == (x[0] - 1, x[-1] + 1)
    assert (bottom, top) == (y[0] - 2, y[-1] + 2)


def test_units_of_labels():
    units = {"Mpc": ["1/Mpc", "Mpc", "Mpc$^2$"], "Mpc/h": ["h/Mpc", "Mpc/h", "(Mpc/h)$^2$"],
             "comoving kpc": ["1/(comoving kpc)", "comoving kpc", "(comoving kpc)$^2$"]}  # fmt: skip
    for unit, labels in units.items():
        assert [unit_to(unit, power) for power in (-1, 1, 2)] == labels


def test_a_spectrum_of_several_fields_is_said_to_be_their_mean(monkeypatch):
    grid = ps.Grid((16, 16), 20.0)
    delta = ps.GaussianRandomField(grid, lambda k: 1 / k).sample(3, seed=1)
    drawn = []
    monkeypatch.setattr(fields, "write", lambda figure, path: drawn.append(figure))
    for n in (3, 1):
        spectrum = ps.power_spectrum(delta[:n], grid)
        fields.plot_field("f.png", delta[0], grid, spectrum=spectrum, length_unit="Mpc")
    for figure, said in zip(drawn, ("mean of 3 fields", "measured"), strict=True):
        (panel,) = (axes for axes in figure.subfigs[1].axes if axes.get_legend())
        assert panel.get_legend().get_texts()[0].get_text() == said
        assert (panel.get_xlabel(), panel.get_ylabel()) == ("k [1/Mpc]", "P(k) [Mpc$^2$]")
        plt.close(figure)
