"""What is printed of a result is a few lines with its numbers, and no arrays."""

import numpy as np
import pytest

import physscore as ps
from physscore.diagnostics.table import table

GRID = ps.Grid((24, 24), 10.0)
FIELD = ps.GaussianRandomField(GRID, ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
MAPS = FIELD.sample(40, seed=1)
NORMAL = ps.Gaussian(0.0, 1.0, dim=2)
X = NORMAL.sample(2000, seed=1)
RESULTS = {
    "power": (
        lambda: ps.power_spectrum(MAPS[0], GRID),
        "power spectrum of 1 field: 17 bins of k from 0.3142",
    ),
    "powers": (lambda: ps.power_spectrum(MAPS, GRID), "power spectrum of 40 fields, their mean: 17 bins"),
    "cross": (lambda: ps.power_spectrum(MAPS, GRID, MAPS), "cross spectrum of 40 fields"),
    "bispectrum": (lambda: ps.bispectrum(MAPS, GRID), "bispectrum of 40 fields, their mean: 4 triangles"),
    "bands": (lambda: ps.band_errors(FIELD, FIELD, MAPS, GRID), "n_modes"),
    "error": (lambda: ps.score_error(NORMAL, NORMAL, X), "2000 states: relative error"),
    "curl": (lambda: ps.curl_fraction(NORMAL, X), "share of curl in the Jacobian at 2000 states"),
    "jacobian": (lambda: ps.jacobian_spectrum(NORMAL, X), "from -1 to -1: Langevin steps are stable up to 2"),
    "drift": (lambda: ps.drift_to_noise(NORMAL, X, step_size=0.1), "their ratio at 0.1 is"),
    "fields": (lambda: ps.Fields(MAPS, GRID, seed=1), "40 fields of 24 x 24 cells in a box of 10 x 10 Mpc/h"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_a_few_lines(name):
    make, said = RESULTS[name]
    text = str(make())
    assert said in text
    assert "array" not in text
    assert text.count("\n") <= 9
    assert max(map(len, text.split("\n"))) <= 250


def test_a_table_has_both_ends():
    power = ps.power_spectrum(MAPS, GRID)
    lines = str(power).split("\n")
    assert lines[1].split() == ["k", "P", "error", "modes"]
    for line, i in ((lines[2], 0), (lines[-1], -1)):
        mean, error = power.power[:, i].mean(), np.sqrt((power.error[:, i] ** 2).sum()) / 40
        expected = power.k[i], mean, error, power.n_modes[i]
        np.testing.assert_allclose([float(cell) for cell in line.split()], expected, rtol=1e-3)
    assert lines[5].split() == ["..."]
    assert len(table({"a": np.arange(7), "b": np.arange(7.0)})) == 8
    assert len(table({"a": np.arange(8), "b": np.arange(8.0)})) == 8
