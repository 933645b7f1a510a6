"""Pairs of opposite phase are seen in the cells, Gaussian and lognormal; independent fields are not."""

import h5py
import numpy as np
import pytest

import physscore as ps
from physscore.diagnostics.many_fields import FieldSequence
from physscore.diagnostics.pairs import _constant, opposite, repeat_the_last, repeats, some_cells

GRID = ps.Grid((16, 16), 16.0)


def pk(k):
    return 1 / (1 + k * k)


@pytest.mark.filterwarnings("ignore:no lognormal field has")
@pytest.mark.parametrize("make", [ps.GaussianRandomField, ps.LognormalField])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("as_density", [False, True])
def test_pairs_are_seen(make, dtype, as_density):
    for amplitude in (1e-4, 1.0, 20.0):
        x = make(GRID, lambda k, a=amplitude: a * pk(k)).sample(6, seed=1, dtype=dtype, paired=True)
        x = x + x.dtype.type(1) if as_density else x
        for fields in (x, x.astype("float64")):
            assert ps.power_spectrum(fields, GRID).independent == 3
            found = ps.bispectrum(fields, GRID)
            assert found.independent == 3
            np.testing.assert_allclose(found.mean_error() ** 2, (found.error**2).mean(axis=0) / 3)
    cells = np.array([some_cells(field) for field in x])
    assert opposite(cells[[0, 0]], cells[[1, 2]]).tolist() == [True, False]
    assert repeats(cells[[0, 0, 0]], cells[[0, 1, 2]]).tolist() == [True, True, False]
    assert repeat_the_last([cells], []).tolist() == [False, True] * 3
    assert repeat_the_last([cells[1:]], [cells[:1]]).tolist() == [True, False] * 2 + [True]
    assert ps.power_spectrum(x, GRID, x).independent == 3  # of cross spectra too


def los_filtered(fields):
    """Take out the modes along the last axis, all but rounding."""
    return fields - fields.mean(axis=1, keepdims=True)


def test_independent_fields_are_not_taken_for_pairs():
    """With modes along the last axis that vanish or have a sign only, 10 fields were counted as one."""
    x = np.round(ps.GaussianRandomField(GRID, pk).sample(10, seed=5) * 64) / 64
    thin = ps.Grid((64, 2), (64.0, 2.0))
    fixed = ps.GaussianRandomField(thin, pk).sample(10, seed=1, fixed=True)
    waves = np.broadcast_to(np.random.default_rng(0).normal(size=(10, 16, 1)), (10, 16, 16))
    spins = np.random.default_rng(1).choice([-1.0, 1.0], size=(10, 2, 2))
    for fields, grid in (
        (los_filtered(x), GRID),
        (fixed, thin),
        (waves, GRID),
        (0 * x, GRID),
        (spins, ps.Grid((2, 2), 2.0)),
    ):
        assert ps.power_spectrum(fields, grid).independent == 10
        assert ps.power_spectrum(fields.astype("float32"), grid).independent == 10


def test_cells_of_a_large_field_are_seen_along_every_axis():
    n = 64
    for axis in range(3):
        line = np.moveaxis(np.broadcast_to(np.arange(n, dtype=float), (n, n, n)), -1, axis)
        assert len(np.unique(some_cells(line))) > 0.9 * n
    assert some_cells(line[0, 0]).tolist() == line[0, 0].tolist()


def test_errors_of_the_mean_of_lognormal_pairs_are_right():
    """The scatter over 100 sets of pairs is that stated, to 15% on average over the bins: 10 sigma.

    Of pairs that were taken for independent it was 1.4 times that.
    """
    prior = ps.LognormalField(GRID, lambda k: 0.01 * pk(k))
    means, errors = [], []
    for seed in range(100):
        found = ps.power_spectrum(prior.sample(4, seed=seed, paired=True), GRID)
        means.append(found.power.mean(axis=0))
        errors.append(found.mean_error())
    ratio = np.std(means, axis=0, ddof=1) / np.sqrt(np.mean(np.square(errors), axis=0))
    assert abs(ratio.mean() - 1) < 0.15


def test_sets_of_lognormal_pairs_are_compared_by_pairs(tmp_path):
    prior = ps.LognormalField(GRID, pk)
    sets = [prior.sample(40, seed=seed, paired=True) for seed in (1, 2)]
    found = ps.compare_fields(*sets, GRID)
    assert found.units == (20, 20)
    assert any("of pairs" in note for note in found.notes)
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["maps"] = 1 + sets[0]
        assert ps.compare_fields(file["maps"], 1 + sets[1], GRID).units == (20, 20)
    assert ps.compare_fields(prior.sample(40, seed=1), prior.sample(40, seed=2), GRID).units == (40, 40)


def test_fields_are_asked_once_whether_they_repeat(monkeypatch):
    """It took a third of a measurement of many small fields."""
    asked = []
    counted = lambda *args: (asked.append(args), _constant(*args))[1]  # noqa: E731
    monkeypatch.setattr("physscore.diagnostics.pairs._constant", counted)
    a, b = np.random.default_rng(0).normal(scale=3.0, size=(2, 256))
    others = np.array([b, a + 1.0, 2.0 - a])
    assert repeats(np.broadcast_to(a, others.shape), others).tolist() == [False, True, True]
    assert len(asked) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(9,), (8, 6), (64, 64), (6, 5, 4)])
def test_many_small_fields_are_those_measured_alone(shape, dtype):
    """To the last bit, in several blocks, and where each field is read into the memory of the one before."""
    grid, n = ps.Grid(shape, 10.0), 70
    x, y = np.random.default_rng(0).normal(size=(2, n, *shape)).astype(dtype)
    x[3], x[5], y[4], y[5] = x[2], -x[4], -y[3], y[4]
    room = np.empty_like(x[0])

    def read(i):
        room[...] = x[i]
        return room

    for other in (None, y):
        found = ps.power_spectrum(FieldSequence(read, range(n), len(shape) + 1), grid, other)
        alone = [ps.power_spectrum(x[i], grid, None if other is None else y[i]) for i in range(n)]
        for name in ("power", "error") if other is None else ("power", "error", "correlation"):
            np.testing.assert_array_equal(getattr(found, name), [getattr(one, name) for one in alone])
        assert found.independent == (n - 2 if other is None else n - 1)
