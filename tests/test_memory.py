"""Large arrays of a loop take the memory of those that are no longer used, and of no others."""

import pickle

import numpy as np
import pytest

import physscore as ps
from physscore import memory
from physscore.kernels.loops import Loop


@pytest.fixture
def room(monkeypatch):
    monkeypatch.setattr(memory, "_KEPT_ANYWAY", 100)
    return memory.Room()


def place(array):
    return array.__array_interface__["data"][0]


def test_what_is_free_is_used_again(room):
    with room:
        a = memory.empty((8, 8), np.float64)
        first, part = place(a), a[2:].reshape(-1).view(np.complex128)[::3]
        del a
        b = memory.empty((128,), np.float32)  # of another size
        c = memory.empty((16, 4), np.float64)  # a view of the first is still there
        assert len({first, place(b), place(c)}) == 3
        del part
        d = memory.empty((4, 4, 8), np.float32)
        assert (place(d), d.shape, d.dtype) == (first, (4, 4, 8), np.float32)
        assert memory.empty((3,), np.float64).base is None  # small
    assert memory.empty((8, 8), np.float64).base is None  # outside of the room


def test_rooms_nest_and_are_left_by_errors(room):
    other = memory.Room()
    with room, other:
        inner = memory.empty((99,), np.float64)
    with pytest.raises(ZeroDivisionError), room:
        1 / 0  # noqa: B018
    assert memory._room.get() is None
    with room:
        assert place(memory.empty((99,), np.float64)) != place(inner)


def test_chains_are_the_same_in_a_room(monkeypatch):
    grid = ps.Grid((16, 16), 100.0)
    prior = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(index=-1.0, amplitude=10.0))
    target = prior + ps.GaussianNoise(prior.sample(1, seed=1)[0], 1.0)
    monkeypatch.setattr(Loop, "_one_by_one", False)
    kernels = ps.MALA(0.3), ps.HMC(0.3, leapfrogs=3), ps.Underdamped(0.3), ps.AutoMALA(0.3)
    for kernel in kernels:
        runs = []
        for least in (memory._KEPT_ANYWAY, 0):
            monkeypatch.setattr(memory, "_KEPT_ANYWAY", least)
            some = ps.iterate(target, kernel.tuned(metric="fourier"), chains=3, seed=4)
            runs.append([next(some) for _ in range(6)])  # all are kept
        for (x, e, _), (y, f, _) in zip(*runs, strict=True):
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(e, f)


def test_a_loop_travels_without_its_room():
    loop = pickle.loads(pickle.dumps(Loop(ps.Gaussian(0.0, 1.0, dim=2), "hamiltonian", "batched")))
    assert loop._room._blocks == []


def test_a_metric_keeps_what_loops_need():
    grid = ps.Grid((6, 5, 4), 1.0)
    octant = np.random.default_rng(0).uniform(1.0, 4.0, (4, 3, 3))
    by_octant = ps.Fourier(grid, octant)
    for metric in (ps.Diagonal([1.0, 4.0]), by_octant, ps.Fourier(grid, np.arange(1.0, 181.0))):
        assert metric.factor_of_type(np.float64) is metric.factor
        single = metric.factor_of_type(np.float32)
        assert single.dtype == np.float32
        assert metric.factor_of_type(np.float32) is single
        np.testing.assert_allclose(single, metric.factor, rtol=1e-7)
        np.testing.assert_array_equal(metric.factor[0] ** 2, np.sqrt(metric.variances) ** 2)
    again = ps.Fourier(grid, by_octant.variances)  # of all coordinates
    np.testing.assert_array_equal(again.octant, octant)
    assert (by_octant.variances > 0).sum() == grid.n_cells
    with pytest.raises(ps.InputError, match="variance 7 is -1.0"):
        ps.Fourier(grid, np.where(np.arange(180) == 7, -1.0, 1.0))
