"""Three losses of score matching on a ring and a mixture, side by side with the true field.

Exact and sliced score matching learn the score of the data; denoising that of the data with a little noise.

python examples/07_score_matching.py [STEPS]
"""

import sys

import numpy as np

import physscore as ps
from physscore import learning

NOISE = 0.1  # of the denoising loss, in standard deviations of the data


def main(steps: int = 1000) -> None:
    """Train six small networks, print their errors, draw their fields."""
    mixture = ps.GaussianMixture([1, 2, 3], [[-2.0, -1.0], [0.0, 2.0], [2.5, -0.5]], [0.5, 0.3, 0.8])
    ring = ps.Ring(radius=2.5, width=0.5)
    targets = {
        "ring": (ring, ps.sample(ring, chains=400, steps=50, seed=1).draws.reshape(-1, 2)),
        "mixture": (mixture, mixture.sample(20_000, seed=1)),
    }
    losses = {"exact": {}, "sliced": {}, "denoising": {"sigma": NOISE}}
    fits = {}
    for name, (energy, data) in targets.items():
        held = data[-1000:]
        for loss, settings in losses.items():
            fit = learning.train(
                "mlp", data[:-1000], loss=loss, kind="energy", steps=steps, batch=256, seed=0,
                transform="identity", **settings,
            )  # fmt: skip
            truth = energy.score(held)
            error = ((fit.score(held) - truth) ** 2).sum() / (truth**2).sum()
            print(f"{name}, {loss}: relative error of the score {np.sqrt(error):.3f}")
            fits[name, loss] = fit
    draw(targets, fits, losses)


def draw(targets, fits, losses) -> None:
    """Draw each field as arrows over the density."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    side = np.linspace(-4.5, 4.5, 19)
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    fine = np.linspace(-4.5, 4.5, 120)
    everywhere = np.stack(np.meshgrid(fine, fine), -1).reshape(-1, 2)
    figure, rows = plt.subplots(2, 4, figsize=(15, 7.6), layout="constrained", sharex=True, sharey=True)
    for row, (name, (energy, _)) in zip(rows, targets.items(), strict=True):
        density = np.exp(-energy.energy(everywhere)).reshape(120, 120)
        scores = {"true score": energy.score(points)}
        scores |= {loss: fits[name, loss].score(points) for loss in losses}
        for axes, (title, score) in zip(row, scores.items(), strict=True):
            length = np.linalg.norm(score, axis=1, keepdims=True)
            arrows = score / np.maximum(length, 1e-12) * np.minimum(length, 6.0)  # far out all are long
            axes.imshow(density, origin="lower", extent=(-4.5, 4.5, -4.5, 4.5), cmap="Blues")
            axes.quiver(*points.T, *arrows.T, color="#d1495b", scale=90, width=0.004)
            axes.set(title=f"{name}: {title}", aspect="equal")
    figure.savefig("score_matching.png", dpi=110)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
