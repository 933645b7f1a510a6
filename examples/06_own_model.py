"""Your own model in thirty lines: its evidence with a verdict, and whether the machinery can be trusted.

Counts of a decaying source above a background. The command line takes the same file:
physscore logz examples/06_own_model.py:posterior --verify

python examples/06_own_model.py [PARTICLES]
"""

import math
import sys

import numpy as np

import physscore as ps
from physscore.plots import plot_log_z

BINS, WIDTH = 40, 1.0  # of time, in minutes


def decay(x, params, gradient_out):
    """-log p of Poisson counts, given (rate, lifetime, background)."""
    energy = 0.0
    gradient_out[:] = 0.0
    for i in range(len(params)):
        fading = math.exp(-(i + 0.5) * WIDTH / x[1])
        mean = (x[0] * fading + x[2]) * WIDTH
        energy += mean - params[i] * math.log(mean) + math.lgamma(params[i] + 1)
        slope = (1.0 - params[i] / mean) * WIDTH
        gradient_out[0] += slope * fading
        gradient_out[1] += slope * x[0] * fading * (i + 0.5) * WIDTH / x[1] ** 2
        gradient_out[2] += slope
    return energy


def likelihood(counts):
    """Return the energy of counts."""
    return ps.compiled(decay, dim=3, params=counts, name="decay", simulate=simulate)


def simulate(x, *, seed):
    """Return the likelihood of counts that are drawn at one state: what ps.verify needs."""
    times = (np.arange(BINS) + 0.5) * WIDTH
    mean = (x[0] * np.exp(-times / x[1]) + x[2]) * WIDTH
    return likelihood(np.random.default_rng(seed).poisson(mean))


def posterior():
    """Return prior + likelihood of counts at rate 30, lifetime 8 and background 5."""
    prior = ps.Parameters(
        rate=ps.LogUniform(1.0, 100.0), lifetime=ps.LogUniform(1.0, 40.0), background=ps.HalfNormal(10.0)
    )
    return prior + simulate([30.0, 8.0, 5.0], seed=42)


def main(particles: int = 2000) -> None:
    """Check the gradient, estimate the evidence, ask twice, and plot."""
    model = posterior()
    print(ps.check_score(model, model.prior.sample(5, seed=1)))
    estimate = ps.estimate_log_z(model, particles=particles, seed=0)
    print(f"\nannealing: {estimate}")
    weights = estimate.weights
    for name, draws in model.prior.as_dict(estimate.samples).items():
        mean = np.average(draws, weights=weights)
        spread = math.sqrt(np.average((draws - mean) ** 2, weights=weights))
        print(f"  {name} = {mean:.2f} +- {spread:.2f}")
    print(f"\nreplica exchange: {ps.estimate_log_z(model, particles=particles, seed=0, method='tempering')}")
    print(f"\n{ps.verify(model, particles=particles, simulations=3)}")
    plot_log_z("own_model.png", estimate)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
