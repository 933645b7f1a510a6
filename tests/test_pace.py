"""Pieces of a run: what they are by the clock changes nothing but when Ctrl-C is heeded."""

import itertools
import os
import signal
import time

import numpy as np
import pytest

import physscore as ps
from physscore.sampling.pace import Pace

TARGET = ps.GaussianMixture([1, 3], [[0.0, 0.0], [3.0, 1.0]], 1.0)


def slow(seconds, interrupted_at):
    """A standard normal whose energy takes its time, and at one of its calls Ctrl-C is pressed."""
    calls = []

    def both(x):
        calls.append(len(x))
        if len(calls) == interrupted_at:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(seconds)
        return 0.5 * (x**2).sum(1), -x

    return ps.from_functions(energy_and_score=both, shape=2), calls


def test_an_interrupt_of_a_slow_run_is_heeded_in_time():
    target, calls = slow(0.005, 25)  # in the third step
    with pytest.warns(UserWarning, match="interrupted: . of 200 draws"):
        run = ps.sample(target, ps.HMC(0.5, leapfrogs=10, metric="identity"), chains=2, steps=200, warmup=0)
    assert 2 <= len(run.draws) < 10
    assert len(calls) < 120
    assert not run.complete


@pytest.mark.parametrize("kernel", [ps.HMC(leapfrogs=10), ps.MALA()])
def test_an_interrupt_of_a_slow_warm_up_is_heeded_in_time(kernel, tmp_path):
    target, calls = slow(0.005, 5)
    with pytest.raises(KeyboardInterrupt):
        ps.sample(target, kernel, chains=2, steps=200, warmup=10_000, output=tmp_path / "run.h5")
    assert len(calls) < 40
    assert not list(tmp_path.iterdir())


def test_an_interrupt_within_a_draw_is_heeded():
    target, calls = slow(0.005, 100)
    with pytest.warns(UserWarning, match="interrupted: 0 of 2 draws"):
        run = ps.sample(target, ps.MALA(0.5, metric="identity"), chains=2, steps=2000, thin=1000, warmup=0)
    assert len(calls) < 200
    assert run.draws.shape == (0, 2, 2)
    assert run.n_divergent == 0
    np.testing.assert_array_equal(run.acceptance, 0.0)


@pytest.mark.parametrize(
    ("kernel", "compiled"),
    [(ps.HMC(leapfrogs=4), False), (ps.MALA(), True), (ps.AutoMALA(), False), (ps.ULA(), False)],
)
def test_draws_and_tuning_do_not_depend_on_the_clock(kernel, compiled, monkeypatch, tmp_path):
    target = TARGET if compiled else ps.from_functions(energy_and_score=TARGET.energy_and_score, shape=2)
    job = {"chains": 5, "steps": 47, "warmup": 230, "thin": 3, "seed": 2}
    expected = ps.sample(target, kernel, **job)
    clock = itertools.count()
    monkeypatch.setattr("physscore.sampling.pace.time.perf_counter", lambda: float(next(clock)))  # slow
    for output in (None, tmp_path / "run.h5"):
        run = ps.sample(target, kernel, output=output, **job)
        for name in ("draws", "energies", "acceptance", "divergent"):
            np.testing.assert_array_equal(getattr(run, name)[...], getattr(expected, name), err_msg=name)
        assert repr(run.kernel) == repr(expected.kernel)


@pytest.mark.parametrize("thin", [1, 3, 7])
@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.3, 5.0])
def test_pieces_are_of_whole_draws_or_within_one(thin, seconds, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("physscore.sampling.pace.time.perf_counter", lambda: now[0])
    looked, pace = [], Pace(lambda n: looked.append(n))
    at, size = 2 * thin, []
    for first, last in pace.pieces(2 * thin, 1000 * thin, thin, most=50):
        assert first == at < last <= 1000 * thin
        at = last
        assert (first % thin == 0 and last % thin == 0) or first // thin == (last - 1) // thin
        now[0] += seconds * (last - first)
        size.append(last - first)
    assert at == 1000 * thin
    assert looked == size
    assert size[0] == 1
    assert max(size) <= 50 * thin
    assert seconds * max(size[:20]) <= max(0.4, 2 * seconds)
    if seconds == 0.0:
        assert max(size) == 50 * thin
