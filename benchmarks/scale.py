"""Beyond one process and beyond memory: scaling, memory, and what large fields will cost.

    pip install ".[mpi]" && python benchmarks/scale.py [--only PART] [--json FILE]

Fields are float32 and timed with their power spectrum apart; times are medians. Bytes that processes
exchange are counted where they are sent.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft

import physscore as ps

ROWS: list[dict[str, Any]] = []
SPECTRUM = ps.spectra.PowerLaw(index=-1.5, amplitude=100.0)


def show(what: str, reach: str, seen: str, **numbers: Any) -> None:
    """Keep a row of the table and print it."""
    if not ROWS:
        print(f"{'what':62s} {'reach':>22s}  seen")
    ROWS.append({"what": what, "reach": reach, "seen": seen, **numbers})
    print(f"{what:62s} {reach:>22s}  {seen}", flush=True)


def median(work: Callable[[int], Any], repeats: int) -> float:
    """Return the median time of ``work``, after a first one."""
    times = []
    for i in range(repeats + 1):
        start = time.perf_counter()
        work(i)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))


def peak() -> int:
    """Return the largest memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def field(n: int, repeats: int) -> None:
    """Run by mpiexec, or alone: make fields of n^3 cells, and print what it took."""
    grid = ps.Grid((n, n, n), 1000.0)
    prior = ps.GaussianRandomField(grid, SPECTRUM)
    found: dict[str, Any] = {}
    from physscore.processes import world

    comm = world()
    if comm is None:
        ps.GaussianRandomField(ps.Grid((16, 16, 16), 1.0), SPECTRUM).sample(1, seed=0, dtype="float32")
        found["before"] = peak()
        found["seconds"] = median(lambda i: prior.sample(1, seed=i, dtype="float32"), repeats)
    else:
        from physscore.distributed import SlabDecomposition

        small = ps.Grid((16, 16, 16), 1.0)
        SlabDecomposition(small, comm, dtype="float32").sample(
            ps.GaussianRandomField(small, SPECTRUM), seed=0
        )
        found["before"] = peak()
        cut = SlabDecomposition(grid, comm, dtype="float32")

        def draw(i: int) -> None:
            cut.sample(prior, seed=i)
            comm.Barrier()

        found["seconds"] = median(draw, repeats)
        found["sent"] = comm.allreduce(cut.sent) // (repeats + 1)
    found["peak"] = peak()
    if comm is not None:
        every = comm.gather(found)
        if comm.rank:
            return
        found["peak"] = max(one["peak"] for one in every)
    print(json.dumps(found))


def measured(n: int, ranks: int, threads: int, repeats: int = 5) -> dict[str, Any]:
    """Return what ``field`` prints, by so many processes."""
    command = [sys.executable, __file__, "--field", str(n), "--repeats", str(repeats)]
    if ranks > 1:
        command = ["mpiexec", "-n", str(ranks), *command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PHYSSCORE_THREADS": str(threads)},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


COMMAND = """
import atexit, resource, sys
from physscore.cli import main

atexit.register(lambda: print("peak", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True))
main()
"""


def peak_of_command(n: int, ranks: int) -> int:
    """Return the largest memory of a process of ``mpiexec physscore field``, in bytes."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        command = ["mpiexec", "-n", str(ranks)] * (ranks > 1) + [sys.executable, "-c", COMMAND]
        job = f"field --grid {n} --box 1000 --spectrum powerlaw:index=-1.5,amplitude=100 -o {folder}/f.h5"
        environment = {**os.environ, "PHYSSCORE_THREADS": "1"}
        done = subprocess.run(
            [*command, *job.split()], check=True, capture_output=True, text=True, env=environment
        )
        return max(int(found) for found in re.findall(r"peak (\d+)", done.stdout))


def processes() -> None:
    """The same field by one process and by several: time, memory, and what is exchanged."""
    for n in (128, 256):
        pairs = [(measured(n, 1, 2)["seconds"], measured(n, 2, 1)["seconds"]) for _ in range(3)]
        ratios = [two / one for one, two in pairs]
        show(f"strong: field {n}^3, 2 processes of a thread / 1 of two", "1.5" if n == 256 else "",
             f"{np.median(ratios):.2f}  ({1e3 * pairs[0][1]:.0f} ms, {1e3 * pairs[0][0]:.0f})")  # fmt: skip
    grown = [measured(240, 2, 1)["seconds"] / measured(192, 1, 1)["seconds"] for _ in range(3)]
    show("weak: 240^3 by 2 processes / 192^3 by 1, a thread each", "", f"{np.median(grown):.2f}")
    modes = np.ones((240, 240, 121), np.complex64)
    one = median(lambda i: scipy.fft.ifftn(modes, workers=1), 9)
    two = median(lambda i: scipy.fft.ifftn(modes, workers=2), 9)
    show("what memory allows: an FFT of 240^3, 1 thread / 2", "", f"{one / two:.2f}")
    for ranks in (1, 2, 4):
        found, own = measured(384, ranks, 1, 1), 4 * 384**3
        limit = 3.2 * own / ranks + 150e6
        more = (found["peak"] - found["before"]) / (own / ranks)
        show(
            f"memory of a process, 384^3 by {ranks}", "3.2 field / P + 150 MB",
            f"{found['peak'] / 1e6:.0f} MB, of {limit / 1e6:.0f}; {more:.2f} fields / P of its own",
        )  # fmt: skip
        whole, small = peak_of_command(384, ranks), peak_of_command(16, ranks)
        more = (whole - small) / (own / ranks)
        show(
            "    of the command, which also writes and checks it", "3.2 field / P + 150 MB",
            f"{whole / 1e6:.0f} MB, of {limit / 1e6:.0f}; {more:.2f} fields / P of its own",
        )  # fmt: skip
    for ranks in (2, 4):
        n = 128
        found = measured(n, ranks, 1, 1)
        expected = 8 * n * n * (n // 2 + 1) * (ranks - 1) // ranks
        show(
            f"sent for a field of {n}^3 by {ranks} processes",
            f"{expected / 1e6:.2f} MB",
            f"{found['sent'] / 1e6:.2f} MB",
        )


def cells() -> None:
    """The cost of a cell against N log N."""
    sides = [64, 96, 128, 192, 256, 384, 512, 768]
    repeats = {n: 49 if n <= 128 else 9 if n <= 256 else 3 for n in sides}
    # Those of a few ms, of which waking threads is a part, differ from process to process.
    rounds = [
        {n: measured(n, 1, 2, repeats[n])["seconds"] for n in sides if i < 3 or n <= 128} for i in range(9)
    ]
    times = {n: float(np.median([found[n] for found in rounds if n in found])) for n in sides}
    costs = {n: times[n] / (n**3 * np.log2(n**3)) for n in sides}
    middle = float(np.median(list(costs.values())))
    show("time / (N log N), 64^3 to 768^3, over the median", "1.5",
         " ".join(f"{cost / middle:.2f}" for cost in costs.values()),
         nanoseconds={n: 1e9 * cost for n, cost in costs.items()})  # fmt: skip
    for n in (1024, 2048, 4096):
        work = costs[768] * n**3 * np.log2(n**3)
        spectrum = 8 * n * n * (n // 2 + 1)
        for ranks in {1024: (1, 16), 2048: (16, 128), 4096: (128, 1024)}[n]:
            show(f"extrapolated: {n}^3 by {ranks} processes of two such threads", "",
                 f"{work / ranks:.3g} s and {spectrum * (ranks - 1) / ranks / 2**30:.4g} GiB exchanged, "
                 f"{(1.3 if ranks > 1 else 2.05) * spectrum / ranks / 2**30:.3g} GiB each")  # fmt: skip


def disk() -> None:
    """A field through the disk, within 256 MB."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        command = [sys.executable, "-m", "physscore", "field", "--grid", "512", "--box", "1000", "--spectrum",
                   "powerlaw:index=-1.5,amplitude=100", "--seed", "1", "--overwrite"]  # fmt: skip
        times: dict[str, list[float]] = {"memory": [], "disk": []}
        for _ in range(3):
            for name, options in (("memory", []), ("disk", ["--out-of-core", "--memory", "256MB"])):
                start = time.perf_counter()
                subprocess.run(
                    [*command, *options, "-o", f"{folder}/{name}.h5"], check=True, capture_output=True
                )
                times[name].append(time.perf_counter() - start)
        slow, fast = (float(np.median(times[name])) for name in ("disk", "memory"))
        show("field 512^3 with its check, through the disk / in memory", "6",
             f"{slow / fast:.2f}  ({slow:.1f} s, {fast:.1f})")  # fmt: skip
        small = [*command[:5], "16", *command[6:], "--out-of-core", "-o", f"{folder}/small.h5"]
        used = []
        for line in (small, [*command, "--out-of-core", "--memory", "256MB", "-o", f"{folder}/disk.h5"]):
            done = subprocess.run(
                [sys.executable, "-c", PEAK, *line], check=True, capture_output=True, text=True
            )
            used.append(int(done.stdout.split()[-1]))
        show("its memory above that of a field of 16^3", "256 MB", f"{(used[1] - used[0]) / 2**20:.0f} MB")
        from physscore.store import FieldFile

        with FieldFile(f"{folder}/memory.h5") as a, FieldFile(f"{folder}/disk.h5") as b:
            planes = range(0, 512, 37)
            off = max(float(np.abs(a.view()[x] - b.view()[x]).max()) for x in planes)
            size = max(float(np.abs(a.view()[x]).max()) for x in planes)
        show("its difference from the field in memory, of the largest", "3e-6", f"{off / size:.1e}")


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, capture_output=True)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


ISLANDS = """
import sys, time
import physscore as ps

if __name__ == "__main__":
    target = ps.Phi4((16, 16), mass2=-0.5, coupling=0.5)
    ps.estimate_log_z(target, particles=512)  # compiles
    start = time.perf_counter()
    found = ps.estimate_log_z(target, particles=int(sys.argv[2]), seed=1, workers=int(sys.argv[1]))
    from physscore.processes import world
    if world() is None or world().rank == 0:
        print(time.perf_counter() - start, found.log_z.hex(), found.error.hex())
"""


def islands() -> None:
    """Islands of phi^4 over two processes: few and unequal units of them, and many."""
    for particles in (40960, 163840):
        islands_of(particles)


def islands_of(particles: int) -> None:
    """How much faster two processes are than one."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "islands.py"
        script.write_text(ISLANDS)
        one, two = ({**os.environ, "PHYSSCORE_THREADS": n} for n in "12")
        alone, helped = ([sys.executable, str(script), n, str(particles)] for n in "12")
        lines = {  # one process between the others: the machine's speed changes from minute to minute
            "2 workers": (helped, two), "1 process": (alone, one),
            "mpiexec -n 2": (["mpiexec", "-n", "2", *alone], one),
        }  # fmt: skip
        results: dict[str, list[list[str]]] = {name: [] for name in (*lines, "2 at once")}
        for _ in range(5):
            for name, (line, environment) in lines.items():
                done = subprocess.run(line, check=True, capture_output=True, text=True, env=environment)
                results[name].append(done.stdout.split())
            both = [subprocess.Popen(alone, stdout=subprocess.PIPE, text=True, env=one) for _ in range(2)]
            found = [process.communicate()[0].split() for process in both]
            results["2 at once"].append(max(found, key=lambda words: float(words[0])))
        took = {name: np.array([float(words[0]) for words in every]) for name, every in results.items()}
        same = len({tuple(words[1:]) for every in results.values() for words in every}) == 1
        for name in ("2 workers", "mpiexec -n 2"):
            gains = took["1 process"] / took[name]
            show(f"log Z of phi^4 16^2, {particles} particles, {name}, against 1 process", "1.8",
                 f"{np.median(gains):.2f}, of {gains.min():.2f} to {gains.max():.2f} in rounds "
                 f"({np.median(took['1 process']):.1f} s, {np.median(took[name]):.1f}); "
                 f"{'bit-identical' if same else 'NOT the same'}")  # fmt: skip
        gains = 2 * took["1 process"] / took["2 at once"]
        show("what two processes with nothing to share would gain here", "",
             f"{np.median(gains):.2f}, of {gains.min():.2f} to {gains.max():.2f}")  # fmt: skip


KILLS = 8  # of each job
KILLED = {
    "field, mpiexec -n 2": (2, "field --grid 96 --box 100 --spectrum powerlaw:index=-1,amplitude=1 -n 12"),
    "field --out-of-core": (1, "field --grid 192 --box 100 --spectrum powerlaw:index=-1,amplitude=1 "
                               "--out-of-core --memory 64MB"),
    "logz, mpiexec -n 2": (2, "logz phi4 -p size=8 -p mass2=-0.5 -p coupling=0.5 --particles 512 "
                              "--target-error 0.002"),
    "logz --workers 2": (1, "logz phi4 -p size=8 -p mass2=-0.5 -p coupling=0.5 --particles 512 "
                            "--target-error 0.002 --workers 2"),
    "sample, mpiexec -n 2": (2, "sample phi4 -p size=16 --chains 16 --steps 20000 --thin 10"),
}  # fmt: skip


def processes_of(job: int) -> tuple[list[int], list[int]]:
    """Return all processes of a job, and those that run Python."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            pid, parent = int(place.name), int((place / "stat").read_text().rpartition(")")[2].split()[1])
            python = (place / "cmdline").read_bytes().startswith(sys.executable.encode())
            parents[pid] = parent, python
        except OSError:  # it has ended
            continue
    found, begun = [job], {job}
    while begun:
        begun = {pid for pid, (parent, _) in parents.items() if parent in begun}
        found += begun
    return found, [pid for pid in found if parents.get(pid, (0, False))[1]]


def runs(pid: int) -> bool:
    """Return whether a process has not ended: threads keep its files after the first of them."""
    try:
        return any(
            "Z" not in (thread / "stat").read_text().rpartition(")")[2].split()[0]
            for thread in Path(f"/proc/{pid}/task").iterdir()
        )
    except OSError:
        return False


def numbers_of(path: Path) -> list[Any]:
    """Return what an unfinished or finished file holds that must not depend on how it was made."""
    import h5py

    found = []

    def see(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith(("state_", "slot")):
            found.append((name, item[()].tobytes() if item.shape else item[()]))

    with h5py.File(path) as file:
        file.visititems(see)
    return found


def kills() -> None:
    """Kill one process, or all, at random moments, and go on, until the job is done."""
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for name, (ranks, text) in KILLED.items():
            whole, path = Path(folder) / "whole.h5", Path(folder) / "killed.h5"
            start = ["mpiexec", "-n", str(ranks)] * (ranks > 1) + [sys.executable, "-m", "physscore"]
            command = [*start, *text.split(), "--resume", "-o"]
            environment = {**os.environ, "PHYSSCORE_THREADS": "1"}
            for _ in range(2):  # the first time everything is compiled
                whole.unlink(missing_ok=True)
                begin = time.perf_counter()
                subprocess.run([*command, str(whole)], env=environment, capture_output=True)
                took = time.perf_counter() - begin
            done, one, all_of_it = 0, 0, 0
            while done < KILLS or not path.exists():
                path.unlink(missing_ok=True)
                job = subprocess.Popen(
                    [*command, str(path)], env=environment, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
                try:
                    job.wait(random.uniform(0.2, 1.0) * took if done < KILLS else None)
                except subprocess.TimeoutExpired:
                    done += 1
                    running, python = processes_of(job.pid)
                    alone = random.random() < 0.5 and len(python) > 1
                    one, all_of_it = one + alone, all_of_it + (not alone)
                    for pid in [int(random.choice(python))] if alone else running:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    job.wait()
                    while any(map(runs, running)):
                        time.sleep(0.05)
                    part = path.with_name(path.name + ".part")
                    if part.exists():
                        numbers_of(part)  # it can be read
            same = numbers_of(path) == numbers_of(whole)
            show(f"kills: {name}", f"{KILLS}, the same", f"{one} of one process, {all_of_it} of all; "
                 f"{'the same' if same else 'NOT the same'}")  # fmt: skip
            path.unlink()
            whole.unlink()


PARTS: dict[str, Callable[[], None]] = {
    "processes": processes,
    "cells": cells,
    "disk": disk,
    "islands": islands,
    "kills": kills,
}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(PARTS), action="append")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--field", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.field:
        field(options.field, options.repeats)
        return
    about = {"python": platform.python_version(), "cpus": os.cpu_count(), "physscore": ps.__version__}
    about |= {name: metadata.version(name) for name in ("numpy", "scipy", "numba", "mpi4py", "mpi4py-fft")}
    print("# " + ", ".join(f"{name} {value}" for name, value in about.items()))
    for name in options.only or PARTS:
        PARTS[name]()
        if options.json:
            options.json.write_text(json.dumps({"about": about, "rows": ROWS}, indent=1) + "\n")


if __name__ == "__main__":
    main()
