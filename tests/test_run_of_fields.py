"""A run of fields, given to the commands for files of fields: the last draws of its chains count."""

import json

import numpy as np
import pytest
from commands import physscore

import physscore as ps
from physscore.store import FieldFile

GRID = ps.Grid((8, 6), 10.0)
PRIOR = ps.GaussianRandomField(GRID, ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        ps.sample(
            PRIOR, ps.MALA(metric="fourier"), chains=24, steps=10, warmup=300, seed=seed,
            output=folder / f"{seed}.h5",
        )  # fmt: skip
    ps.sample(ps.Gaussian(0.0, 1.0, dim=2), chains=4, steps=8, output=folder / "points.h5")
    return folder


def test_draws_of_chains_are_read_side_by_side(folder):
    run = ps.load(folder / "1.h5")
    with FieldFile(folder / "1.h5") as fields:
        assert (fields.grid, fields.number, fields.chains) == (GRID, 240, 24)
        assert fields.completed == list(range(240))
        np.testing.assert_array_equal(fields.finished(), run.samples)
        np.testing.assert_array_equal(fields.read(25), run.draws[1, 1])
        np.testing.assert_array_equal(fields.view(25)[2:4, 1], run.draws[1, 1, 2:4, 1])
        alone = fields.independent()
        np.testing.assert_array_equal([alone[i] for i in range(len(alone))], run.draws[-1])
    with pytest.raises(ps.InputError, match="whose states are no fields"):
        FieldFile(folder / "points.h5")


def test_spectrum_and_audit_take_the_last_draws(folder):
    """The comparison fails for a right run once in 6000 times, the audit once in 1000: of one seed each."""
    done = physscore("spectrum", "1.h5", "--compare", "powerlaw:index=-1,amplitude=1", cwd=folder)
    assert "mean of 24 independent field(s)" in done.stdout
    assert "the last of each" in done.stderr
    done = physscore("spectrum", "1.h5", "--json", cwd=folder)
    expected = ps.power_spectrum(ps.load(folder / "1.h5").draws[-1], GRID)
    np.testing.assert_allclose(json.loads(done.stdout)["power"], expected.power)
    done = physscore("spectrum", "1.h5", "--memory", "1MB", "--json", cwd=folder)
    np.testing.assert_allclose(json.loads(done.stdout)["power"], expected.power)
    found = json.loads(physscore("audit", "1.h5", "--reference", "2.h5", "--json", cwd=folder).stdout)
    assert found["maps"] == {"generated": 24, "reference": 24}
    assert sum("draws of chains" in note for note in found["notes"]) == 2
    physscore("spectrum", "points.h5", cwd=folder, code=2)
