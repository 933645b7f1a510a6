"""Run by mpiexec: what processes make together is what one makes."""

import numpy as np
import pytest
from mpi4py import MPI

import physscore as ps
from physscore.distributed import SlabDecomposition
from physscore.processes import on_root

comm = MPI.COMM_WORLD
SPECTRUM = ps.spectra.PowerLaw(index=-1.0, amplitude=0.3)


def close(found, expected, dtype):
    size = np.abs(expected).max()
    tolerance = 1e-12 if dtype == "float64" else 5e-6
    assert np.abs(found - expected).max() <= tolerance * size, np.abs(found - expected).max() / size


def check(shape, family, dtype):
    grid = ps.Grid(shape, tuple(10.0 + 3 * axis for axis in range(len(shape))))
    prior = family(grid, SPECTRUM)
    whole = prior.sample(4, seed=7, dtype=dtype, paired=True, fixed=True)[3]
    cut = SlabDecomposition(grid, comm, dtype=dtype)
    mine = slice(*cut.planes)
    x = cut.sample(prior, 3, seed=7, paired=True, fixed=True)
    assert x.dtype == dtype
    close(x, whole[mine], dtype)
    x, batch = whole[mine], whole[np.newaxis]
    close(cut.score(prior, x), prior.score(batch)[0][mine], dtype)
    close(cut.whiten(prior, x), prior.whiten(batch)[0][mine], dtype)
    close(cut.unwhiten(prior, x), prior.unwhiten(batch)[0][mine], dtype)
    close(cut.energy(prior, x), prior.energy(batch)[0], dtype)
    field = cut.field(x)
    for bins in "linear", "shells":
        close(
            ps.power_spectrum(field, grid, bins=bins).power,
            ps.power_spectrum(whole, grid, bins=bins).power,
            dtype,
        )
    close(ps.check_field(field, prior).chi2, ps.check_field(whole, prior).chi2, dtype)
    gathered = np.full(shape, np.nan, dtype)

    def write(start, stop, part):
        gathered[start:stop] = part

    cut.collect(x, write)
    assert comm.rank or np.array_equal(gathered, whole)


def failing():
    raise ps.InputError("the first process says no")


for shape in [(8, 8, 8), (5, 6, 7), (4, 12, 10), (9, 4, 3), (16, 12), (7, 9)]:
    for family in ps.GaussianRandomField, ps.LognormalField:
        for dtype in "float32", "float64":
            check(shape, family, dtype)
assert on_root(comm, lambda: comm.rank) == 0
with pytest.raises(ps.InputError, match="says no"):
    on_root(comm, failing)
if comm.size > 1:
    with pytest.raises(ps.InputError, match="no processes can share"):
        SlabDecomposition(ps.Grid(8, 1.0), comm)
if comm.size > 2:
    with pytest.raises(ps.InputError, match="which 2 processes can share: there are"):
        SlabDecomposition(ps.Grid((2, 64), 1.0), comm)
grid, other = ps.Grid((12, 10, 8), 100.0), ps.Grid((12, 10, 6), 100.0)
cut, prior = SlabDecomposition(grid, comm), ps.GaussianRandomField(grid, SPECTRUM)
x = cut.sample(prior, seed=1)
for wrong in (
    lambda: cut.sample(ps.GaussianRandomField(other, SPECTRUM), seed=1),
    lambda: cut.energy(ps.LognormalField(ps.Grid((12, 10, 8), 50.0), SPECTRUM), x),
    lambda: cut.score(ps.Gaussian(0.0, 1.0, dim=2), x),
    lambda: cut.score(prior, x.astype(np.float32)),
    lambda: cut.unwhiten(prior, x.tolist()),
    lambda: ps.power_spectrum(cut.field(x), other),
    lambda: SlabDecomposition((12, 12, 12), comm),
    lambda: SlabDecomposition(grid, comm, dtype=int),
):
    with pytest.raises(ps.InputError):
        wrong()
if comm.size > 1:
    with pytest.raises(ps.InputError, match="ask for different things"):
        cut.sample(prior, seed=comm.rank)
if comm.rank == 0:
    print("the same with", comm.size)
