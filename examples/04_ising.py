"""The Ising model through its phase transition out of one run, against the exact solution.

Free energy, mean energy and heat capacity of 16 x 16 spins at all couplings K = J / kT come from one
population of its continuous dual that is led from high temperature to low; Kaufman's formula for the finite
lattice says what they should be.

python examples/04_ising.py [PARTICLES]
"""

import math
import sys

import numpy as np

import physscore as ps
from physscore.plots import plot_thermodynamics

SIDE = 16
CRITICAL = 0.5 * math.log(1 + math.sqrt(2))  # of the infinite lattice (Onsager 1944)


def ising(coupling: float) -> ps.Ising:
    """Return the model at a coupling."""
    return ps.Ising((SIDE, SIDE), coupling=coupling)


def main(particles: int = 2000) -> None:
    """Estimate, print and plot."""
    couplings = np.linspace(0.28, 0.6, 17)
    result = ps.thermodynamics(ising, couplings, particles=particles, seed=1, progress=sys.stderr.isatty())
    print(result)

    exact = np.array([ising(k).exact_log_z() for k in couplings])
    pulls = (result.log_z - exact) / result.log_z_error
    print(f"log Z against Kaufman's: off by {np.sqrt((pulls**2).mean()):.2f} of its errors, rms")

    # Errors at neighbouring couplings go together, so differences of log Z are better known than log Z.
    first_to_last = result.covariance("log_z")[[0, 0, -1, -1], [0, -1, 0, -1]] @ [1, -1, -1, 1]
    print(f"error of log Z at the last coupling {result.log_z_error[-1]:.3f}, "
          f"of its rise from the first {math.sqrt(first_to_last):.3f}")  # fmt: skip
    plot_thermodynamics(
        "ising.png",
        result,
        lambda k: ising(k).exact_log_z(),
        mark=CRITICAL,
        title=f"{SIDE} x {SIDE} Ising model, {particles} particles, one run: {result.verdict}",
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
