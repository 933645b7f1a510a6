"""A field out of masked, noisy data: prior + likelihood, sampled in ten lines inside a pipeline.

The posterior of a Gaussian field with Gaussian noise is known: its mean is the Wiener filter of the data.
Here it is recovered by sampling, which would work as well for counts or a lognormal field.

python examples/03_pipeline.py [CELLS]
"""

import sys

import numpy as np

import physscore as ps
from physscore.plots import plot_run


def main(cells: int = 64) -> None:
    """Make data, sample the posterior field, compare its mean with the Wiener filter."""
    grid = ps.Grid((cells, cells), box_size=100.0)
    prior = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(index=-2.0, amplitude=1.0))
    truth = prior.sample(1, seed=42)[0]
    noise_std = 0.5 * truth.std()
    data = truth + noise_std * np.random.default_rng(1).normal(size=grid.shape)
    mask = np.ones(grid.shape, bool)
    mask[cells // 3 : cells // 2, cells // 4 : 3 * cells // 4] = False  # a hole in the survey

    posterior = prior + ps.GaussianNoise(data, noise_std, mask=mask)
    run = ps.sample(posterior, ps.HMC(metric="fourier"), chains=16, steps=400, warmup=200, seed=2)
    print(run)

    wiener = wiener_filter(prior, np.where(mask, data, 0.0), noise_std, mask)
    error = np.sqrt(((run.mean - wiener) ** 2).mean()) / wiener.std()
    expected = np.sqrt((run.error**2).mean()) / wiener.std()
    print(f"mean against the Wiener filter: {error:.3%} of its rms, Monte Carlo error {expected:.3%}")
    pulls = (truth - run.mean) / run.std
    print(f"truth - mean: {pulls.std():.3f} posterior standard deviations (1 expected)")
    plot_run("pipeline.png", run, title="posterior field of masked, noisy data")


def wiener_filter(prior, data, noise_std, mask):
    """Solve (1 + C^1/2 N^-1 C^1/2) z = C^1/2 N^-1 d by conjugate gradients; the field is C^1/2 z."""
    from scipy.sparse.linalg import LinearOperator, cg

    weight = mask / noise_std**2

    def field(z):
        return prior.unwhiten(z.reshape(1, *data.shape))  # C^1/2 is its own transpose

    matrix = LinearOperator(
        (data.size, data.size), matvec=lambda z: z + field(weight * field(z)).ravel(), dtype=float
    )
    z, failed = cg(matrix, field(weight * data).ravel(), rtol=1e-8, maxiter=5000)
    assert not failed
    return field(z)[0]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
