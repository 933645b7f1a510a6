"""Why a learned score smears sharp modes: limited slopes, stiffness, and the step that explodes.

Between two narrow modes the true score changes over a distance of std^2 / separation. A network whose slope
is limited cannot follow: it blurs the modes, as if noise had been added. A sampler pays for a score that *is*
sharp: its step must stay below 2 / (the largest curvature). Beyond, the chain is thrown from one mode to the
other, and a step that is longer still explodes.

python examples/09_mode_smearing.py [STEPS]
"""

import sys

import numpy as np

import physscore as ps
from physscore import learning


def main(steps: int = 1500) -> None:
    """Train networks with softer and softer slopes; then take steps on both sides of the stable one."""
    std = 0.15
    modes = ps.GaussianMixture([1, 1], [[-1.0], [1.0]], std**2)
    data = modes.sample(20_000, seed=1)
    grid = np.linspace(-1.8, 1.8, 400)[:, None]
    curves = {"true score": modes.score(grid)}
    for decay in (0.0, 0.3, 3.0):  # weight decay limits the slope of a network
        fit = learning.train(
            "mlp", data, loss="denoising", sigma=0.05, kind="energy", steps=steps, batch=256, seed=0,
            weight_decay=decay, transform="identity",
        )  # fmt: skip
        slope = np.abs(np.diff(fit.score(grid)[:, 0]) / np.diff(grid[:, 0])).max()
        curves[f"weight decay {decay:g}, largest slope {slope:.0f}"] = fit.score(grid)
        run = ps.sample(fit, ps.MALA(), chains=100, steps=max(30, steps), warmup=max(50, steps // 2), seed=1)
        near = np.abs(np.abs(run.draws) - 1) < 0.5
        spread = (np.abs(run.draws[near]) - 1).std()
        print(f"weight decay {decay:g}: largest slope {slope:.0f}, modes of width {spread:.3f} (true {std})")

    spectrum = ps.jacobian_spectrum(modes, np.array([[1.0]]))
    limit = 2 * std**2
    print(f"curvature in a mode {1 / std**2:.0f}, stable step below {limit:.4f}; measured: {spectrum}")
    paths = {}
    for factor in (0.1, 0.9, 1.1, 2.0):
        start = np.full((64, 1), 1.0)
        states = ps.iterate(modes, ps.ULA(step_size=factor * limit), chains=64, init=start, seed=2)
        with np.errstate(over="ignore", invalid="ignore"):
            walk = [next(states)[0] for _ in range(60)]
        paths[factor] = np.array([np.sqrt(np.mean((np.abs(x) - 1) ** 2)) for x in walk])
        print(f"ULA at {factor:g} of it: rms distance from the mode after 60 steps {paths[factor][-1]:.3g}")
    draw(grid, curves, paths, std)


def draw(grid, curves, paths, std) -> None:
    """Draw the scores, and how far the chains come from their mode."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5), layout="constrained")
    for name, score in curves.items():
        left.plot(grid[:, 0], score[:, 0], label=name, lw=2.5 if name == "true score" else 1.3)
    left.set(xlabel="x", ylabel="score", title="two modes of width 0.15, learned")
    left.legend(frameon=False, fontsize=8, loc="lower left")
    for factor, distance in paths.items():
        right.semilogy(np.arange(1, len(distance) + 1), np.clip(distance, None, 1e3),
                       label=f"{factor:g} of the stable step")  # fmt: skip
    right.axhline(std, color="0.5", lw=0.8, ls=":", label="width of the mode")
    right.set(xlabel="step of ULA", ylabel="rms distance from the mode", title="the step that explodes")
    right.legend(frameon=False)
    figure.savefig("mode_smearing.png", dpi=110)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
