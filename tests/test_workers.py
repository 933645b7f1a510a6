"""Workers: they do what they are told, and nobody waits for one that has ended."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from physscore import InputError
from physscore.workers import Workers


class Thing:
    def __init__(self, target=None):
        self.target = target

    def moved(self, number, size=1):
        if number < 0:
            raise ValueError(f"number is {number}")
        return np.full(size, number)

    def killed(self, number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(10**6)  # much larger than a pipe's buffer

    def threads(self):
        return os.environ["PHYSSCORE_THREADS"], os.environ["OMP_NUM_THREADS"]

    def unsendable(self):
        return lambda: None

    def given_back(self, *arrays):
        return {"arrays": list(arrays)}


def test_answers_come_in_order_and_calls_may_grow():
    thing, calls, seen = Thing(), [(1,), (2, 10**6)], {}
    with Workers(2) as workers:
        assert [len(found) for found in workers.run(thing, [(i, i) for i in range(5)])] == [0, 1, 2, 3, 4]
        for number, found in workers.each(thing, "moved", calls):
            seen[number] = found[0]
            if len(calls) < 6:
                calls.append((len(calls) + 1,))
    assert seen == {i: i + 1 for i in range(6)}


def test_arrays_travel_as_they_are():
    arrays = [
        np.zeros((0, 3)), np.arange(12.0).reshape(3, 4).T, np.arange(10, dtype="int16")[::3], np.array(2.5),
        np.full(10**6, 7, "float32"), np.array([True, False]), np.array(["a", None], object),
    ]  # fmt: skip
    with Workers(1) as workers:
        ((_, found),) = workers.each(Thing(), "given_back", [tuple(arrays)])
    for one, other in zip(found["arrays"], arrays, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)
        assert one.flags.writeable


def test_what_fails_is_raised():
    with Workers(2) as workers, pytest.raises(ValueError, match="number is -1"):
        workers.run(Thing(), [(1,), (-1,)])
    with Workers(1) as workers:
        with pytest.raises(InputError, match="an answer cannot be sent"):
            list(workers.each(Thing(), "unsendable", [()]))
        with pytest.raises(InputError, match=r"workers is 1, but <function .* cannot be sent"):
            workers.run(Thing(lambda: None), [(1,)])


@pytest.mark.parametrize(("own", "expected"), [(None, ("2", "2")), ("3", ("2", "3"))])
def test_they_share_the_threads_of_ours_and_of_blas(monkeypatch, own, expected):
    monkeypatch.setenv("PHYSSCORE_THREADS", "4")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    with Workers(2) as workers:
        assert [found for _, found in workers.each(Thing(), "threads", [(), ()])] == [expected] * 2
    assert (os.environ["PHYSSCORE_THREADS"], os.environ.get("OMP_NUM_THREADS")) == ("4", own)


def test_nobody_waits_for_one_that_was_killed():
    start = time.monotonic()
    with pytest.raises(InputError, match="a worker has ended"), Workers(2) as workers:
        list(workers.each(Thing(), "killed", [(0,), (1,), (2,), (3,)]))
    assert time.monotonic() - start < 60


def test_ctrl_c_does_not_reach_those_that_are_just_beginning():
    with Workers(2) as workers:
        for process in workers._processes:
            os.kill(process.pid, signal.SIGINT)
        assert len(workers.run(Thing(), [(1,), (2,)])) == 2


def test_what_has_begun_is_kept_on_ctrl_c():
    looks = []

    def look(done):
        looks.append(1)
        raise KeyboardInterrupt

    def go_on():
        with Workers(2) as workers:
            found.extend(
                number for number, _ in workers.each(Thing(), "moved", [(i,) for i in range(50)], look)
            )

    found = []
    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert 2 <= len(found) < 10


def test_a_program_that_starts_workers_wherever_it_is_read_is_told_so(tmp_path):
    """A worker reads the program of which it is one: there each met an error of multiprocessing."""
    program = tmp_path / "program.py"
    program.write_text(
        "import physscore as ps\n"
        "normal = ps.Gaussian(0.0, 1.0, dim=2)\n"
        "ps.sample(normal, ps.MALA(0.3), chains=8, steps=100, warmup=0, workers=2)\n"
    )
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()
    assert 'put the call under if __name__ == "__main__":' in said[-1]
    assert sum(line.startswith("Traceback") for line in said) == 1
    assert "bootstrapping" not in done.stderr


OWN = """
import physscore as ps
def own(x):
    return 0.5 * (x**2).sum(axis=1), -x
target = ps.from_functions(energy_and_score=own, shape=2)
try:
    ps.sample(target, ps.MALA(0.3), chains=8, steps=100, warmup=0, workers=2)
except ps.InputError as error:
    print(error)
"""
POOL = """
import multiprocessing
import physscore as ps
def go(i):
    try:
        ps.sample(ps.Gaussian(0.0, 1.0, dim=2), ps.MALA(0.3), chains=8, steps=100, warmup=0, workers=2)
    except ps.InputError as error:
        print(error, flush=True)
if __name__ == "__main__":
    with multiprocessing.Pool(1) as pool:
        pool.map(go, [1])
"""


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        (
            "-c",
            OWN,
            r"cannot find .* \(Can't get attribute 'own' .*: define it in a module, or use workers=1",
        ),
        ("-", OWN, "they cannot read the program <stdin>: put it into a file, or use workers=1"),
        ("file", POOL, "in a process of a multiprocessing.Pool, .*: use workers=1"),
    ],
)
def test_where_workers_cannot_be_used_one_sentence_says_so(tmp_path, how, code, said):
    (tmp_path / "program.py").write_text(code)
    arguments = {"-c": ["-c", code], "-": ["-"], "file": ["program.py"]}[how]
    done = subprocess.run(
        [sys.executable, *arguments], input=code if how == "-" else "", capture_output=True, text=True,
        timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    (sentence,) = done.stdout.splitlines()
    assert re.search(said, sentence)
