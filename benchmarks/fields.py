"""Density fields: ours against the physical floor and against powerbox (and Pylians), in one run.

    pip install ".[bench]" && python benchmarks/fields.py [--grid 256] [--repeats 9] [--json FILE]

Every ratio is the median over the repeats of (ours / other), the two timed in turn, so that a shared
machine's drift cancels. Floors are transforms of the same size by scipy.fft, with as many threads.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft

import physscore as ps

BOX = 1000.0


def seconds(work: Callable[[], Any]) -> float:
    """Time one call; its result is dropped inside the time, as a loop would."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(ours: Callable[[], Any], other: Callable[[], float], repeats: int) -> tuple[float, float, float]:
    """Return the median seconds of both and the median of their ratios."""
    seconds(ours), other()
    pairs = [(seconds(ours), other()) for _ in range(repeats)]
    a, b = np.array(pairs).T
    return float(np.median(a)), float(np.median(b)), float(np.median(a / b))


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


MEMORY = """
import physscore as ps
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
pk = ps.spectra.planck2018()
def sample(n):
    prior = ps.GaussianRandomField(ps.Grid((n,) * 3, {box} * n / 256), pk)
    return prior.sample(1, seed=1, dtype="float32")
with ps.threads({threads}):
    sample(16)
    before = peak()
    x = sample({n})
    print((peak() - before) / x.nbytes, peak() / x.nbytes)
"""


def run(n: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    """Measure every row of the table."""
    grid, pk = ps.Grid((n,) * 3, BOX), ps.spectra.planck2018()
    prior = ps.GaussianRandomField(grid, pk)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lognormal = ps.LognormalField(grid, pk)
    x = prior.sample(1, seed=1, dtype="float32")
    spectrum = scipy.fft.rfftn(x[0], workers=threads)
    rows: list[dict[str, Any]] = []

    def row(
        work: str, against: str, reach: str, ours: Any, other: Any, *, times_faster: bool = False
    ) -> None:
        mine, theirs, ratio = compare(ours, other, repeats)
        value = 1 / ratio if times_faster else ratio
        add(work, against, mine, theirs, value, reach)

    def add(work: str, against: str, mine: float, theirs: float, value: float, reach: str) -> None:
        met = value >= float(reach[1:]) if reach[0] == ">" else value <= float(reach[1:])
        rows.append({"work": work, "against": against, "ours_s": mine, "other_s": theirs, "ratio": value,
                     "reach": reach, "met": bool(met)})  # fmt: skip
        print(f"{work:34s} {against:30s} {1e3 * mine:9.1f} {1e3 * theirs:9.1f} {value:8.2f} {reach:>6s} "
              f"{'yes' if met else 'NO'}", flush=True)  # fmt: skip

    def forward() -> float:
        return seconds(lambda: scipy.fft.rfftn(x[0], workers=threads))

    def inverse() -> float:
        modes = spectrum.copy()

        def work() -> Any:
            part = scipy.fft.ifftn(modes, axes=(0, 1), overwrite_x=True, workers=threads)
            return scipy.fft.irfft(part, n=n, axis=2, overwrite_x=True, workers=threads)

        return seconds(work)

    def field() -> Any:
        return prior.sample(1, seed=1, dtype="float32")

    print(f"{'work':34s} {'against':30s} {'ours ms':>9s} {'other ms':>9s} {'ratio':>8s} {'reach':>6s} met")
    row("Gaussian field", "inverse FFT in place", "<1.5", field, inverse)
    row("P(k), all shells", "rfftn", "<1.5", lambda: ps.power_spectrum(x[0], grid, bins="shells"), forward)
    row("score", "rfftn + inverse in place", "<1.3", lambda: prior.score(x), lambda: forward() + inverse())
    row("energy", "rfftn", "<1.3", lambda: prior.energy(x), forward)
    row("lognormal field", "our Gaussian field", "<2",
        lambda: lognormal.sample(1, seed=1, dtype="float32"), lambda: seconds(field))  # fmt: skip
    peers(row, grid, pk, field, x[0])

    twice = ps.Grid((2 * n,) * 3, 2 * BOX)
    large = ps.GaussianRandomField(twice, pk)
    mine, theirs, ratio = compare(
        lambda: large.sample(1, seed=1, dtype="float32"), lambda: seconds(field), min(repeats, 7)
    )
    add(f"field {2 * n}^3, per cell", f"field {n}^3, per cell", mine / 8, theirs, ratio / 8, "<1.3")

    above, whole = map(float, python(MEMORY.format(n=2 * n, threads=threads, box=BOX)).split())
    add(f"peak memory, one {2 * n}^3 field", "bytes of the field", 0, 0, above, "<2.3")
    print(f"# the same with interpreter, libraries and all: {whole:.2f}")

    help_ = "from physscore.cli import physscore; physscore.main(['--help'])"
    extra = [seconds(lambda: python(help_)) - seconds(lambda: python("pass")) for _ in range(repeats)]
    add("physscore --help, s", "python -c pass", float(np.median(extra)), 0, float(np.median(extra)), "<0.3")
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["field", "--grid", "64", "--box", "250", "-o", f"{folder}/f.h5", "--overwrite"]
        command = f"from physscore.cli import physscore; physscore.main({arguments})"
        seconds(lambda: python(command))
        whole = float(np.median([seconds(lambda: python(command)) for _ in range(5)]))
    add("physscore field --grid 64, s", "second process", whole, 0, whole, "<2")
    return rows


def peers(row: Callable[..., None], grid: ps.Grid, pk: Any, field: Callable[[], Any], x: np.ndarray) -> None:
    """Time the peers that are installed, after checking that they compute the same."""
    n = grid.shape[0]
    faster = functools.partial(row, times_faster=True)

    def our_power() -> Any:
        return ps.power_spectrum(x, grid)

    try:
        import powerbox
    except ImportError:
        print("powerbox is not installed: left out")
    else:

        def their_field() -> Any:
            model = lambda k: pk(np.maximum(k, 1e-5))  # noqa: E731  (they ask for k = 0 too)
            return powerbox.PowerBox(N=n, dim=3, pk=model, boxlength=BOX, seed=1).delta_x()

        edges = ps.power_spectrum(x, grid).k_edges

        def their_power() -> Any:
            return powerbox.get_power(x, BOX, bins=edges, remove_shotnoise=False)

        print(f"# powerbox's field in our P(k): {ps.power_spectrum(their_field(), grid).compare(pk)}")
        power = ps.power_spectrum(x, grid)
        difference = np.abs(their_power().power / power.power - 1)[power.n_modes > 100].max()
        print(f"# our field in powerbox's P(k): the same to {difference:.1e}")
        faster("Gaussian field", "powerbox.PowerBox", ">12", field, lambda: seconds(their_field))
        faster("P(k)", "powerbox.get_power", ">8", our_power, lambda: seconds(their_power))
    try:
        import Pk_library
    except ImportError:
        print("# Pylians is not installed: left out")
    else:

        def pylians() -> Any:
            return Pk_library.Pk(x, BOX, 0, "None", 2, False)

        faster("P(k)", "Pylians", ">8", our_power, lambda: seconds(pylians))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", help="file for the table, with versions")
    options = parser.parse_args()
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("physscore", "numpy", "scipy", "numba", "powerbox", "Pylians"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    print("# " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    print(f"# {options.grid}^3 cells, float32, {options.threads} threads, median of {options.repeats}")
    with ps.threads(options.threads):
        rows = run(options.grid, options.threads, options.repeats)
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"versions": versions, "settings": vars(options), "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
