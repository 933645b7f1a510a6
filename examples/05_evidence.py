"""Does an EEG relax or ring? Evidence for regressions of its voltage on its own past, and Bayes factors.

One step of memory is a relaxation, two steps are a damped oscillator, more steps are more of them. Given the
noise, the evidence of each is that of linear regression, so it is known but for one integral over the noise.

python examples/05_evidence.py [PARTICLES]
"""

import math
import sys

import matplotlib
import numpy as np
from matplotlib.cbook import get_sample_data

import physscore as ps

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RATE, CHANNEL, ORDERS = 80.0, 1, (1, 2, 3, 4)  # samples a second
NOISE = ps.HalfNormal(1.0)  # and each weight is N(0, 1), for a voltage with standard deviation 1


def autoregression(x, params, gradient_out):
    """-log p of data given weights and noise (the last), which know the data by y'y, X'y and X'X alone."""
    d, sigma, n = len(x) - 1, x[-1], params[0]
    squares = params[1]
    for i in range(d):
        slope = -params[2 + i]
        for j in range(d):
            slope += params[2 + d + i * d + j] * x[j]
        gradient_out[i] = slope / sigma**2
        squares += (slope - params[2 + i]) * x[i]
    gradient_out[d] = n / sigma - squares / sigma**3
    return n * math.log(sigma * math.sqrt(2 * math.pi)) + 0.5 * squares / sigma**2


def main(particles: int = 2000) -> None:
    """Estimate the evidence of each order, compare it with the exact one, and plot."""
    voltage = np.fromfile(get_sample_data("eeg.dat", asfileobj=False)).reshape(-1, 4)[:, CHANNEL]
    voltage = (voltage - voltage.mean()) / voltage.std()
    estimates, exact = [], []
    for order in ORDERS:
        y, rows = regression(voltage, order)
        prior = ps.Parameters(**{f"w{i}": ps.Normal(0, 1) for i in range(1, order + 1)}, noise=NOISE)
        numbers = [[len(y), y @ y], rows.T @ y, (rows.T @ rows).ravel()]
        likelihood = ps.compiled(
            autoregression, dim=order + 1, params=np.concatenate(numbers), name=f"memory of {steps(order)}"
        )
        estimates.append(ps.estimate_log_z(prior + likelihood, particles=particles, seed=1))
        exact.append(exact_log_evidence(y, rows))
        print(f"{steps(order)}: {str(estimates[-1]).splitlines()[0]}, exact {exact[-1]:.3f}")
    for a, b in ((2, 1), (2, 3)):
        factor = ps.bayes_factor(estimates[a - 1], estimates[b - 1])
        print(f"\n{steps(a)} against {b}, exact {exact[a - 1] - exact[b - 1]:.3f}\n{factor}")
    w1, w2, _ = draws_of(estimates[1]).T
    ring = w1**2 + 4 * w2 < 0
    frequency = RATE / (2 * np.pi) * np.arccos(w1[ring] / (2 * np.sqrt(-w2[ring])))
    decay = -2 / (RATE * np.log(-w2[ring]))
    print(
        f"\nthe oscillator rings in {ring.mean():.0%} of the draws, at {frequency.mean():.1f} +- "
        f"{frequency.std():.1f} Hz, and decays in {1000 * decay.mean():.0f} +- {1000 * decay.std():.0f} ms"
    )
    plot("evidence.png", voltage, estimates, np.array(exact))


def steps(order):
    """Return the number of steps in words."""
    return f"{order} step{'s' if order > 1 else ''}"


def draws_of(estimate):
    """Return independent draws from the posterior, by the weights of the islands."""
    weights = estimate.weights
    chosen = np.random.default_rng(0).choice(len(weights), 1000, p=weights / weights.sum())
    return estimate.samples[chosen]


def regression(voltage, order):
    """Return the voltage and, row by row, what came before; the first samples are given to all orders."""
    start = max(ORDERS)
    rows = [voltage[start - i : len(voltage) - i] for i in range(1, order + 1)]
    return voltage[start:], np.stack(rows, axis=1)


def exact_log_evidence(y, rows):
    """Return the log of the integral over the noise of the conjugate evidence, a normal density of y."""
    values, vectors = np.linalg.eigh(rows.T @ rows)
    along = (vectors.T @ (rows.T @ y)) ** 2
    log_sigma = np.linspace(-4.0, 2.0, 4001)
    sigma = np.exp(log_sigma)[:, np.newaxis]
    total = values + sigma**2  # |sigma^2 + X X'| by the determinant lemma, its inverse by Woodbury's
    log_p = -0.5 * (
        (y @ y - (along / total).sum(axis=1)) / sigma[:, 0] ** 2
        + np.log(total).sum(axis=1)
        + 2 * (len(y) - len(values)) * log_sigma
        + len(y) * np.log(2 * np.pi)
    )
    terms = log_p - NOISE.energy(sigma) + log_sigma
    return float(np.logaddexp.reduce(terms) + np.log(log_sigma[1] - log_sigma[0]))


def plot(path, voltage, estimates, exact):
    """Draw the voltage, the evidence of each order, and the spectra that two of them expect."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    shown = int(4 * RATE)
    left.plot(np.arange(shown) / RATE, voltage[:shown], lw=0.9)
    left.set(xlabel="time [s]", ylabel="voltage [standard deviations]", title="EEG")
    best = exact.max()
    middle.plot(ORDERS, exact - best, "k_", ms=26, label="exact")
    errors = [one.error for one in estimates]
    middle.errorbar(
        ORDERS, [one.log_z - best for one in estimates], errors, fmt="o", capsize=4, label="estimated"
    )
    middle.set(xlabel="steps of memory", ylabel="log evidence - best", title="evidence", xticks=ORDERS)
    middle.set_yscale("symlog", linthresh=5)
    middle.set_ylim(-2 * np.ptp(exact), 4)
    middle.legend()
    frequency = np.linspace(0.2, RATE / 2, 400)
    pieces = voltage[: len(voltage) // 8 * 8].reshape(8, -1) * np.hanning(len(voltage) // 8)
    power = (np.abs(np.fft.rfft(pieces)) ** 2).mean(axis=0) / np.square(np.hanning(pieces.shape[1])).sum()
    right.semilogy(np.fft.rfftfreq(pieces.shape[1], 1 / RATE)[1:], power[1:], "0.6", label="measured")
    for order in (1, 2):
        draws = draws_of(estimates[order - 1])
        lags = np.exp(-2j * np.pi * np.outer(np.arange(1, order + 1), frequency) / RATE)
        spectra = draws[:, -1:] ** 2 / np.abs(1 - draws[:, :-1] @ lags) ** 2
        band = np.quantile(spectra, [0.025, 0.975], axis=0)
        right.fill_between(frequency, *band, alpha=0.6, label=f"{steps(order)}, 95%")
    right.set(xlabel="frequency [Hz]", ylabel="power", title="spectrum")
    right.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
