"""Your own energy in three forms, drawn by three kernels: vectorised, compiled, and built in.

python examples/02_own_energy.py [STEPS]
"""

import math
import sys

import numba
import numpy as np

import physscore as ps
from physscore.plots import plot_run


@numba.njit
def pendulum(x, params, gradient_out):
    """Two coupled angles on springs: (x[2], params, gradient_out[2]) -> E."""
    spring, coupling = params
    energy = 0.5 * spring * (x[0] ** 2 + x[1] ** 2) - coupling * math.cos(x[0] - x[1])
    torque = coupling * math.sin(x[0] - x[1])
    gradient_out[0] = spring * x[0] + torque
    gradient_out[1] = spring * x[1] - torque
    return energy


def main(steps: int = 2000) -> None:
    """Check the score, sample three ways, and plot the last run."""
    compiled = ps.compiled(pendulum, dim=2, params=(0.5, 2.0))
    vectorised = ps.from_functions(
        energy=lambda x: 0.25 * (x**2).sum(1) - 2.0 * np.cos(x[:, 0] - x[:, 1]),
        score=lambda x: -0.5 * x - 2.0 * np.sin(x[:, :1] - x[:, 1:]) * [1.0, -1.0],
        shape=2,
        name="pendulum",
    )
    print(ps.check_score(vectorised, np.random.default_rng(0).normal(size=(5, 2))))

    for name, energy, kernel in (
        ("vectorised, MALA", vectorised, ps.MALA()),
        ("compiled, HMC", compiled, ps.HMC()),
        ("compiled, twice as cold", 2.0 * compiled, ps.HMC()),
    ):
        run = ps.sample(energy, kernel, chains=200, steps=steps, seed=1)
        print(f"\n{name}\n{run}")
    plot_run("own_energy.png", run, title="two coupled pendulums at half the temperature")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
