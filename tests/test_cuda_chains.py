"""The loop over chains on a card makes the chains that the CPU's makes.

Without a card, Numba's simulator runs the kernels as Python, for few chains. What a simulator cannot tell,
whether everything compiles for a card, is tested where there is one (pytest -m gpu).
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import physscore as ps
from physscore.core import InputError
from physscore.kernels import loops
from physscore.kernels.metric import Dense, Diagonal, Identity
from physscore.noise import seed_key

pytest.importorskip("numba.cuda")

KERNELS = {
    "ula": ("langevin", loops.Moves(0.2)),
    "underdamped": ("splitting", loops.Moves(0.1, keep=0.9)),
    "mala": ("hamiltonian", loops.Moves(0.5, relief=0.25)),
    "hmc": ("hamiltonian", loops.Moves(0.3, length=4.0, relief=0.25)),
    "metropolised": ("hamiltonian", loops.Moves(0.4, keep=0.8)),
    "weighted": ("hamiltonian", loops.Moves(0.2, adjusted=False)),
    "harmonic": ("hamiltonian", loops.Moves(0.4, length=3.0, harmonic=True)),
}
KERNELS_OF_METRICS = ("ula", "underdamped", "hmc")
ROWS = np.random.default_rng(3).standard_normal((3, 3))
METRICS = {
    "identity": Identity(),
    "diagonal": Diagonal([0.5, 1.0, 1.5]),
    "dense": Dense(ROWS @ ROWS.T / 3 + 0.3 * np.eye(3)),
}


def _quartic(x, params, gradient_out):
    energy = 0.0
    for i in range(len(x)):
        gradient_out[i] += params[i] * x[i] + x[i] ** 3
        energy += 0.5 * params[i] * x[i] ** 2 + 0.25 * x[i] ** 4 + np.log(1.0 + np.exp(-np.abs(x[i]) - 50.0))
    return energy


QUARTIC = ps.compiled(_quartic, dim=3, params=[1.0, 2.0, 3.0])
ENERGIES = {
    "a function": QUARTIC,
    "mixture": ps.GaussianMixture([1, 2.0], [[0, 1, 2], [1, 2, 3.0]], 0.5),
    "dense mixture": ps.GaussianMixture([1, 2.0], [[0, 1.0], [1, 2]], [np.eye(2), [[1, 0.5], [0.5, 2]]]),
    "gaussian": ps.Gaussian(np.arange(5.0), np.arange(1.0, 6)),
    "funnel": ps.Funnel(4),
    "banana": ps.Banana(),
    "wells": ps.DoubleWell(dim=7),
    "student": ps.Student(dim=3),
    "ring": ps.Ring(),
    "shells": ps.Shells(3),
    "egg box": ps.EggBox(),
    "phi4": ps.Phi4((4, 4), mass2=1.0, coupling=0.3),
    "ising": ps.Ising((4, 4), 0.44),
    "parameters": ps.Parameters(a=ps.Normal(0.0, 1.0), b=ps.HalfNormal(2.0), c=ps.Gamma(1.5, 1.0)),
    "positive": ps.Parameters(
        a=ps.HalfCauchy(1.0), b=ps.InverseGamma(2.0, 1.0), c=ps.LogNormal(0.0, 1.0), d=ps.Beta(2.0, 2.0)
    ),
}


def errors_of_chains(
    energy, step, kernel, metric, chains, *, n_steps=20, thin=5, send=np.array, fetch=np.asarray
):
    """Return by how much each of ``chains`` differs from the CPU's, and the chains' acceptance."""
    from physscore.kernels.on_card import advance

    loop = loops.Loop(energy, step)
    start = 0.1 + np.abs(np.random.default_rng(0).standard_normal((chains, *energy.shape)))
    start = np.minimum(start, 0.9 * getattr(energy, "upper", np.inf))
    state = loop.start(start, 7)
    state.step, state.first = 3, 11
    kept, d = n_steps // thin, energy.dim
    flat = state.x.reshape(chains, d), state.energy, state.score.reshape(chains, d), state.momentum
    moved = tuple(send(part) for part in flat)
    draws, tally = (
        (send(np.zeros((kept, chains, d))), send(np.zeros((kept, chains)))),
        send(np.zeros((3, chains))),
    )
    metric_parts = metric.kind, metric.factor
    advance(
        step, energy.point, kernel, metric_parts, seed_key(7), moved, draws, tally, (3, n_steps, thin, 11)
    )
    host = loops.Draws(np.zeros((kept, chains, *energy.shape)), np.zeros((kept, chains)))
    counted = np.zeros((3, chains))
    loop._fused(state, kernel, metric, n_steps, thin, host, counted)
    expected = *flat, host.x.reshape(kept, chains, d).swapaxes(0, 1), host.energy.T, counted.T
    found = *map(fetch, moved), fetch(draws[0]).swapaxes(0, 1), fetch(draws[1]).T, fetch(tally).T
    errors = np.zeros(chains)
    for a, b in zip(expected, found, strict=True):
        difference = np.abs(a - b) / (1 + np.abs(a))
        difference[a == b] = 0.0  # infinite ones, too
        errors = np.maximum(errors, difference.reshape(chains, -1).max(axis=1))
    return errors, counted[0] / n_steps


def _simulate():
    """Print the largest error of each kernel, metric and energy, in the simulator."""
    from physscore.cuda import points as chains

    chains.THREADS = 1  # the simulated threads of a block get into each other's way
    cases = [(QUARTIC, kernel, "diagonal") for kernel in KERNELS]
    cases += [(QUARTIC, kernel, metric) for kernel in KERNELS_OF_METRICS for metric in ("identity", "dense")]
    names = ("mixture", "funnel", "ring", "parameters", "positive")
    cases += [(ENERGIES[name], "hmc", "identity") for name in names]
    x = np.random.default_rng(1).standard_normal((3, 3))
    energies, gradients = chains.evaluate(QUARTIC.point, x)
    expected = QUARTIC.energy_and_score(x)
    found = [
        [
            "evaluate",
            float(max(np.abs(energies - expected[0]).max(), np.abs(gradients + expected[1]).max())),
            0.0,
        ]
    ]
    for energy, kernel, metric in cases:
        assert chains.supports(energy.point, energy.dim)
        errors, acceptance = errors_of_chains(energy, *KERNELS[kernel], METRICS[metric], 2)
        found.append([f"{energy} {kernel} {metric}", float(errors.max()), float(acceptance.mean())])
    print(json.dumps(found))


def test_chains_in_the_simulator():
    result = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert len(found) == len(KERNELS) + 2 * len(KERNELS_OF_METRICS) + 6
    assert not [case for case in found if not case[1] < 1e-9]
    assert any(
        0.5 < acceptance < 0.99 for name, _, acceptance in found if "mala" in name
    )  # some are rejected


def test_what_a_card_cannot_do():
    from physscore.cuda.points import energy_of, supports

    assert not supports(None, 2)
    assert not supports(ps.Gaussian(0.0, 1.0, dim=65).point, 65)
    with pytest.raises(InputError, match="65 dimensions"):
        energy_of(ps.Gaussian(0.0, 1.0, dim=65).point, 65)
    total = ps.Gaussian(0.0, 1.0, dim=2) + ps.Ring()
    with pytest.raises(InputError, match="by their addresses"):
        energy_of(total.point, 2)


def test_room_of_blocks():
    from physscore.cuda.points import _plan

    def plan(energy):
        return tuple(_plan(energy.point.block.py_func, energy.point.params.tobytes(), energy.dim))

    assert plan(ENERGIES["mixture"]) == (4, 2)  # two more than components, of which there are two
    assert plan(ENERGIES["dense mixture"]) == (4, 2)
    assert plan(ENERGIES["gaussian"]) == (5, None)
    assert plan(ENERGIES["wells"]) == (1, None)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("metric", METRICS)
def test_chains_on_a_card(kernel, metric):
    _check_on_a_card(QUARTIC, kernel, METRICS[metric])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("kernel", ["ula", "hmc"])
def test_energies_on_a_card(name, kernel):
    _check_on_a_card(ENERGIES[name], kernel, Identity())


def _check_on_a_card(energy, kernel, metric):
    """Chains part where a rounding decides whether they accept, or grow apart: at most a few do."""
    cupy = pytest.importorskip("cupy")
    errors, _ = errors_of_chains(
        energy, *KERNELS[kernel], metric, 1000, send=cupy.asarray, fetch=cupy.asnumpy
    )
    assert np.median(errors) < 1e-11
    assert (errors > 1e-7).sum() <= 10


@pytest.mark.gpu
@pytest.mark.parametrize("name", ENERGIES)
def test_evaluation_on_a_card(name):
    cupy = pytest.importorskip("cupy")
    from physscore.cuda.points import evaluate

    energy = ENERGIES[name]
    x = 0.1 + np.abs(np.random.default_rng(1).standard_normal((100, *energy.shape)))
    energies, gradients = evaluate(energy.point, cupy.asarray(x.reshape(100, -1)))
    expected = energy.energy_and_score(x)
    np.testing.assert_allclose(cupy.asnumpy(energies), expected[0], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(cupy.asnumpy(gradients), -expected[1].reshape(100, -1), rtol=1e-11, atol=1e-11)


@pytest.mark.gpu
def test_a_function_that_does_not_compile_for_a_card():
    pytest.importorskip("cupy")
    from physscore.cuda.points import energy_of

    def allocates(x, params, gradient_out):
        scratch = np.sort(x)
        gradient_out[:] = scratch
        return 0.5 * (scratch * scratch).sum()

    with pytest.raises(InputError, match="does not compile for a card"):
        energy_of(ps.compiled(allocates, dim=2).point, 2)


if __name__ == "__main__":
    _simulate()
