"""Fields that processes share, under mpiexec: those of one process."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
from cuda_on_host import available

import physscore as ps
from physscore.distributed import pieces_of

pytestmark = pytest.mark.skipif(
    shutil.which("mpiexec") is None or find_spec("mpi4py_fft") is None, reason="needs mpiexec and mpi4py-fft"
)
RANKS = [1, 2, 4]
SPECTRUM = "powerlaw:index=-1,amplitude=1"
FIELD = ["--grid", "12,16,10", "--box", "100", "--spectrum", SPECTRUM, "--seed", "3"]


def mpiexec(ranks, *command, **environment):
    return subprocess.run(
        ["mpiexec", "-n", str(ranks), sys.executable, *map(str, command)], capture_output=True, text=True,
        timeout=900, env={**os.environ, "PHYSSCORE_THREADS": "1", **environment},
    )  # fmt: skip


def without_times(path):
    with h5py.File(path) as file:
        return {
            name: item[...] for name in ("fields/delta", "spectra/power", "checks/chi2", "completed")
            for item in [file[name]]
        }  # fmt: skip


@pytest.mark.parametrize("ranks", RANKS)
def test_processes_make_what_one_makes(ranks):
    done = mpiexec(ranks, Path(__file__).with_name("mpi_check.py"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == f"the same with {ranks}\n"


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 64])
@pytest.mark.parametrize("columns", [64, 65, 100, 127, 1000])
def test_pieces_hold_all_columns_and_are_shared_evenly(columns, processes):
    pieces = pieces_of(ps.Grid((64, columns, 4), 1.0), processes)
    assert [a for a, _ in pieces] + [columns] == [0] + [b for _, b in pieces]
    assert len(pieces) <= 8
    assert all(b - a >= processes for a, b in pieces)
    of_first = sum(-(-(b - a) // processes) for a, b in pieces)
    assert of_first <= -(-columns // processes) + 1  # with the rest of the last


@pytest.mark.parametrize("options", [["-n", "2", "--paired"], ["--lognormal", "--dtype", "float64"]])
def test_the_command(tmp_path, options):
    found = []
    for ranks in RANKS:
        path = tmp_path / f"{ranks}.h5"
        done = mpiexec(ranks, "-m", "physscore", "field", *FIELD, *options, "-o", path)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("P(k)") == 1
        found.append(without_times(path))
    for other in found[1:]:
        for name, expected in found[0].items():
            np.testing.assert_allclose(other[name], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_spectrum_of_a_file(tmp_path):
    path = tmp_path / "a.h5"
    grid = ps.Grid((12, 16, 10), 100.0)
    prior = ps.GaussianRandomField(grid, ps.spectra.parse(SPECTRUM))
    ps.save(path, ps.Fields(x := prior.sample(1, seed=3)[0], grid))
    power, chi2 = ps.power_spectrum(x, grid).power, ps.check_field(x, prior).chi2
    for ranks in RANKS[1:]:
        done = mpiexec(ranks, "-m", "physscore", "spectrum", path, "--json", "--compare", SPECTRUM)
        assert done.returncode == 0, done.stderr[-3000:]
        found = json.loads(done.stdout)
        np.testing.assert_allclose(found["power"], [power], rtol=1e-5)
        assert found["check"]["chi2"] == pytest.approx(chi2, rel=1e-4)


CARDS = """
import sys
sys.path.insert(0, {tests!r})
import cuda_on_host

with cuda_on_host.install() as cupy:
    cupy.cuda.runtime.getDeviceCount = lambda: 2
    import physscore as ps
    from physscore.cli import main
    from physscore.processes import alone, world

    comm, path = world(), sys.argv[1]
    field = ["field", *{field!r}, "-n", "3", "--device", "gpu", "-o", path]
    for arguments in (field, ["logz", "ising", "-p", "size=4", "-p", "coupling=0.4", "--particles", "256",
                              "--device", "gpu", "-o", path + ".z"]):
        sys.argv[1:] = arguments
        try:
            main()
        except SystemExit as end:
            assert not end.code, end.code
    assert cupy.cuda.Device.id == comm.rank % 2
    chains = dict(chains=4, steps=5, warmup=0, seed=comm.rank, device="gpu")
    try:
        ps.sample(ps.Gaussian(0.0, 1.0, dim=300), ps.MALA(step_size=0.1), **chains)
    except ps.InputError as error:
        assert "ask for different things" in str(error)
    try:
        ps.sample(ps.Gaussian(0.0, 1.0, dim=300), ps.MALA(step_size=0.1), **(chains | dict(seed=1)))
    except ps.InputError as error:
        assert "one process moves all chains" in str(error)
    with alone():
        x = ps.sample(ps.Gaussian(0.0, 1.0, dim=300), ps.MALA(step_size=0.1), **chains).draws
    sums = comm.gather(float(x.get().sum()))
    if comm.rank == 0:
        print(*sums)
"""


def test_processes_take_a_card_each(tmp_path):
    if not available():
        pytest.skip("there is no C++ compiler")
    script = tmp_path / "cards.py"
    script.write_text(CARDS.format(tests=str(Path(__file__).parent), field=FIELD))
    done = mpiexec(3, script, tmp_path / "a.h5")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("P(k)") == done.stdout.count("exact") == 1, done.stdout
    grid = ps.Grid((12, 16, 10), 100.0)
    expected = ps.GaussianRandomField(grid, ps.spectra.parse(SPECTRUM)).sample(3, seed=3, dtype="float32")
    found = without_times(tmp_path / "a.h5")["fields/delta"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    for seed, found in enumerate(done.stdout.split()[-3:]):  # each process alone
        run = ps.sample(
            ps.Gaussian(0.0, 1.0, dim=300), ps.MALA(step_size=0.1), chains=4, steps=5, warmup=0, seed=seed
        )
        assert float(found) == pytest.approx(run.draws.sum(), rel=1e-9)


@pytest.mark.parametrize("command", ["train a.h5", "audit a.h5 b.h5", "info a.h5", "sample a.pt -n 2"])
def test_what_is_for_one_process(command, tmp_path):
    done = mpiexec(2, "-m", "physscore", *command.split())
    assert done.returncode == 2
    assert done.stderr.count("for one process") == 1, done.stderr


@pytest.mark.parametrize(("started", "words"), [
    ({"PMI_SIZE": "2", "PYTHONPATH": "."}, "several processes needs mpi4py and threadpoolctl: pip install"),
    ({"OMPI_COMM_WORLD_SIZE": "4"}, "4 processes were started, but mpi4py, of"),
])  # fmt: skip
def test_an_mpi_that_does_not_fit_is_said(started, words, tmp_path):
    (tmp_path / "mpi4py.py").write_text("raise ImportError('there is none')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "physscore", "field", *FIELD, "-o", "a.h5"], cwd=tmp_path,
        capture_output=True, text=True, env={**os.environ, **started},
    )  # fmt: skip
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_warning_is_given_once(tmp_path):
    spectrum = "powerlaw:index=-1,amplitude=30"
    options = ["--grid", "8", "--box", "8", "--spectrum", spectrum, "--lognormal", "-o", tmp_path / "a.h5"]
    done = mpiexec(2, "-m", "physscore", "field", *options)
    assert done.stderr.count("Warning") == 1, done.stderr


def test_what_is_wrong_is_said_once(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"")
    for options, words in (
        (["-o", path], "exists: use --overwrite"),
        (["-o", tmp_path / "none" / "b.h5"], "there is no folder"),
        (["-o", tmp_path / "b.h5", "--out-of-core"], "mpiexec and --out-of-core exclude each other"),
        (["-o", tmp_path / "b.h5", "--grid", "64", "--dim", "1"], "no processes can share"),
    ):
        done = mpiexec(2, "-m", "physscore", "field", *FIELD, *options)
        assert done.returncode == 2
        assert done.stderr.count(words) == 1, done.stderr
        assert "Traceback" not in done.stderr


def test_processes_share_the_threads_of_blas():
    script = """
import os
os.environ.pop("OMP_NUM_THREADS", None)
import numpy
from threadpoolctl import threadpool_info
from physscore.processes import world

most = len(os.sched_getaffinity(0))
assert {library["num_threads"] for library in threadpool_info()} == {most}
world()
assert {library["num_threads"] for library in threadpool_info()} == {1}
"""
    done = mpiexec(2, "-c", script)
    assert done.returncode == 0, done.stderr[-3000:]


LOG_Z = """
import sys
import physscore as ps

if __name__ == "__main__":
    mixture = ps.GaussianMixture([0.3, 0.7], [[2.0, 2.0], [-2.0, -1.0]], 0.3)
    found = ps.estimate_log_z(
        mixture, ps.Gaussian(0.0, 9.0, dim=2), particles=512, islands=16, target_error=0.01, seed=2,
        workers=int(sys.argv[1]), checkpoint=(sys.argv[2:] or [None])[0], resume=len(sys.argv) > 2,
    )
    exchanged = ps.estimate_log_z(
        ps.Ising((3, 3), coupling=0.2), particles=128, method="tempering", target_error=0.1, seed=1,
        workers=int(sys.argv[1]),
    )
    curve = ps.thermodynamics(
        ps.Ising((3, 3), coupling=0.1), [0.1, 0.25, 0.3], particles=128, seed=3, workers=int(sys.argv[1])
    )
    from physscore.processes import world

    if world() is None or world().rank == 0:
        print(exchanged.log_z.hex(), exchanged.error.hex(), float(exchanged.samples.sum()).hex())
        print([x.hex() for x in (*curve.log_z, *curve.heat_capacity, *curve.log_z_error)])
        print(found.log_z.hex(), found.error.hex(), float(found.islands.sum()).hex(), len(found.islands))
"""


# As many as divide neither chains nor islands evenly; others start more processes than there are cores.
ANYWHERE = [3, pytest.param(2, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.long)]


@pytest.mark.parametrize("ranks", ANYWHERE)
def test_islands_are_the_same_anywhere(tmp_path, ranks):
    script = tmp_path / "log_z.py"
    script.write_text(LOG_Z)
    alone, helped = (
        subprocess.run([sys.executable, script, n], capture_output=True, text=True, check=True).stdout
        for n in "12"
    )
    assert int(alone.split()[-1]) > 16
    assert helped == alone
    done = mpiexec(ranks, script, 1, tmp_path / "z.h5")
    assert (done.returncode, done.stdout) == (0, alone), done.stderr[-3000:]
    assert mpiexec(2, script, 1, tmp_path / "z.h5").stdout == alone  # what is finished is read


def test_log_z_of_the_command_is_told_once(tmp_path):
    path = tmp_path / "z.h5"
    options = [
        "logz",
        "ising",
        "-p",
        "size=4",
        "-p",
        "coupling=0.4",
        "--particles",
        "256",
        "-o",
        path,
        "--plot",
    ]
    done = mpiexec(2, "-m", "physscore", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("exact") == 1
    assert path.with_suffix(".png").exists()
    done = mpiexec(2, "-m", "physscore", *options[:-3], "--workers", "2")
    assert done.returncode == 2
    assert done.stderr.count("take the place of workers") == 1, done.stderr


CHAINS = """
import hashlib, sys
import numpy as np
import physscore as ps
from physscore.processes import world

def funnel(x):
    return 0.5 * (x[:, 0] ** 2 / 9 + x[:, 1] ** 2 * np.exp(-x[:, 0]) + x[:, 0])

def slope(x):
    squares = x[:, 1] ** 2 * np.exp(-x[:, 0])
    return -np.stack([x[:, 0] / 9 - 0.5 * squares + 0.5, x[:, 1] * np.exp(-x[:, 0])], axis=1)

if __name__ == "__main__":
    workers, folder = int(sys.argv[1]), sys.argv[2]
    field = ps.GaussianRandomField(ps.Grid((8, 8), 8.0), ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
    posterior = field + ps.GaussianNoise(field.sample(1, seed=3)[0], 0.5)
    options = {"chains": 7, "steps": 40, "warmup": 100, "seed": 4, "workers": workers}
    runs = [
        ps.sample(ps.GaussianMixture([0.3, 0.7], [[2.0, 2.0], [-2.0, -1.0]], 0.3), ps.MALA(), **options),
        ps.sample(ps.from_functions(energy=funnel, score=slope, shape=(2,)), ps.Underdamped(), **options),
        ps.sample(posterior, ps.HMC(metric="fourier"), output=f"{folder}/run.h5", **options),
        ps.temper(ps.GaussianMixture([0.3, 0.7], [[4.0], [-4.0]], 0.3), **{**options, "warmup": 20}),
    ]
    if world() is None or world().rank == 0:
        for run in runs:
            print(hashlib.sha256(np.ascontiguousarray(run.draws[...])).hexdigest(), run.acceptance.tolist())
"""


@pytest.mark.parametrize("ranks", ANYWHERE)
def test_chains_are_the_same_anywhere(tmp_path, ranks):
    script = tmp_path / "chains.py"
    script.write_text(CHAINS)
    folders = [tmp_path / str(i) for i in range(3)]
    for folder in folders:
        folder.mkdir()
    alone, helped = (
        subprocess.run([sys.executable, script, n, folder], capture_output=True, text=True, check=True).stdout
        for n, folder in zip("13", folders, strict=False)
    )
    assert len(alone.splitlines()) == 4
    assert helped == alone
    done = mpiexec(ranks, script, 1, folders[2])
    assert (done.returncode, done.stdout) == (0, alone), done.stderr[-3000:]
