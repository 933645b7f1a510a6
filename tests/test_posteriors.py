"""Posteriors that are known without sampling: by quadrature, or by linear algebra.

The first and second central moments of a run are compared with exact ones, in units of ``run.error``, the
Monte Carlo error of Vehtari et al. (2021), or of the scatter of independent chains. The limit of z is such
that a right sampler fails a check once in 1e6 times, however many numbers the check is about; the file
makes about 50 checks, so that it raises a false alarm once in 20000 runs.
"""

import math
from functools import cache

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

import physscore as ps
from physscore.diagnostics.chains import monte_carlo_error

ALPHA = 1e-6  # of a check


def check(z):
    """Hold all z-scores to the limit that the largest of so many exceeds with probability ALPHA."""
    z = np.ravel(z)
    limit = stats.norm.isf(ALPHA / (2 * z.size))
    assert np.abs(z).max() < limit, f"z is {z[np.abs(z).argmax()]:.2f} at {np.abs(z).argmax()}: {z.round(1)}"


def check_moments(draws, mean, variance):
    """Compare means and variances of draws (kept, chains, d) with the exact ones."""
    check((draws.mean(axis=(0, 1)) - mean) / monte_carlo_error(draws))
    squares = (draws - mean) ** 2
    check((squares.mean(axis=(0, 1)) - variance) / monte_carlo_error(squares))


def check_chains(values, expected):
    """The same for means of few effective draws: the error is the scatter of the chains' own means."""
    means = values.mean(axis=0)
    t = (means.mean(axis=0) - expected) / (means.std(axis=0, ddof=1) / math.sqrt(len(means)))
    check(stats.norm.isf(stats.t.sf(t, len(means) - 1)))


def check_normal(draws, mean, covariance):
    """Compare draws (kept, chains, d) with a normal law, in coordinates in which it is the standard one.

    There the errors of the components are independent, so that their sum of squares follows chi^2: it sees
    a small bias of all of them, and error bars that are too large.
    """
    white = np.linalg.solve(np.linalg.cholesky(covariance), (draws - mean).reshape(-1, len(mean)).T)
    white = white.T.reshape(draws.shape)
    check_moments(white, np.zeros(len(mean)), np.ones(len(mean)))
    for values, expected in ((white, 0.0), (white**2, 1.0)):
        z = (values.mean(axis=(0, 1)) - expected) / monte_carlo_error(values)
        total, d = float((z**2).sum()), len(mean)
        low, high = stats.chi2.ppf(ALPHA / 2, d), stats.chi2.isf(ALPHA / 2, d)
        assert low < total < high, f"chi^2 is {total:.1f} for {d}"


# --- Eight schools (Rubin 1981; Gelman et al., Bayesian Data Analysis, section 5.5) ------------------

EFFECTS = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
ERRORS = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
SCHOOLS = np.concatenate([EFFECTS, ERRORS])


def schools_centred(x, params, gradient):
    """-log p of mu, log tau and theta[8], with mu ~ N(0, 5^2) and tau ~ half-Cauchy(5)."""
    mu, tau = x[0], math.exp(x[1])
    share = tau * tau / (25 + tau * tau)
    energy = mu * mu / 50 + math.log(1 + tau * tau / 25) + 7 * x[1]
    gradient[0], gradient[1] = mu / 25, 2 * share + 7
    for i in range(8):
        off, miss = (x[2 + i] - mu) / tau, (x[2 + i] - params[i]) / params[8 + i]
        energy += 0.5 * (off * off + miss * miss)
        gradient[0] -= off / tau
        gradient[1] -= off * off
        gradient[2 + i] = off / tau + miss / params[8 + i]
    return energy


def schools_non_centred(x, params, gradient):
    """The same of mu, log tau and (theta[8] - mu) / tau."""
    mu, tau = x[0], math.exp(x[1])
    share = tau * tau / (25 + tau * tau)
    energy = mu * mu / 50 + math.log(1 + tau * tau / 25) - x[1]
    gradient[0], gradient[1] = mu / 25, 2 * share - 1
    for i in range(8):
        miss = (mu + tau * x[2 + i] - params[i]) / params[8 + i]
        energy += 0.5 * (x[2 + i] * x[2 + i] + miss * miss)
        gradient[0] += miss / params[8 + i]
        gradient[1] += miss / params[8 + i] * tau * x[2 + i]
        gradient[2 + i] = x[2 + i] + miss / params[8 + i] * tau
    return energy


@cache
def schools_moments():
    """Return means and variances of mu, tau, log tau and theta[8], and 1%, 10% and 90% quantiles of tau.

    Given tau all else is normal, and the integral over log tau is a sum over a fine grid.
    """
    t = np.linspace(-30, 12, 200_001)[:, np.newaxis]
    tau2 = np.exp(2 * t)
    precision = (1 / (ERRORS**2 + tau2)).sum(axis=1) + 1 / 25
    mu = (EFFECTS / (ERRORS**2 + tau2)).sum(axis=1) / precision
    log_p = t[:, 0] - np.log1p(tau2[:, 0] / 25) - 0.5 * np.log(ERRORS**2 + tau2).sum(axis=1)
    log_p += 0.5 * (mu**2 * precision - np.log(precision) - (EFFECTS**2 / (ERRORS**2 + tau2)).sum(axis=1))
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    shrink = ERRORS**2 / (ERRORS**2 + tau2)  # the part of mu in theta
    theta = shrink * mu[:, np.newaxis] + (1 - shrink) * EFFECTS
    spread = shrink * tau2 + shrink**2 / precision[:, np.newaxis]
    given = np.column_stack([mu, np.exp(t), t, theta])
    within = np.column_stack([1 / precision, np.zeros((len(t), 2)), spread])
    mean = weight @ given
    quantiles = np.exp(np.interp([0.01, 0.1, 0.9], np.cumsum(weight) - weight / 2, t[:, 0]))
    return mean, weight @ ((given - mean) ** 2 + within), quantiles


def test_the_exact_moments_of_the_schools_are_the_published_ones():
    """posteriordb's reference draws of eight_schools_noncentered, to their rounding."""
    mean, variance, _ = schools_moments()
    np.testing.assert_allclose(mean[[0, 1, 3]], [4.4, 3.6, 6.2], atol=0.1)
    np.testing.assert_allclose(np.sqrt(variance[[0, 1, 3]]), [3.3, 3.2, 5.6], atol=0.1)


def schools_draws(run, centred):
    """Return mu, tau, log tau, theta[8] of a run."""
    mu, log_tau, theta = run.draws[..., :1], run.draws[..., 1:2], run.draws[..., 2:]
    theta = theta if centred else mu + np.exp(log_tau) * theta
    return np.concatenate([mu, np.exp(log_tau), log_tau, theta], axis=-1)


@pytest.mark.parametrize(("kernel", "steps"), [(ps.HMC(), 1000), (ps.MALA(), 2000)], ids=str)
def test_eight_schools_non_centred(kernel, steps):
    energy = ps.compiled(schools_non_centred, dim=10, params=SCHOOLS)
    run = ps.sample(energy, kernel, chains=64, steps=steps, seed=1)
    assert run.mixing.passed, str(run)
    mean, variance, quantiles = schools_moments()
    draws = schools_draws(run, centred=False)
    check_moments(draws, mean, variance)
    below = (draws[..., 1:2] < quantiles).astype(float)
    check((below.mean(axis=(0, 1)) - [0.01, 0.1, 0.9]) / monte_carlo_error(below))


def test_eight_schools_centred_with_steps_that_adapt():
    """The neck of the funnel, tau -> 0, takes some thousand steps to reach and to leave."""
    energy = ps.compiled(schools_centred, dim=10, params=SCHOOLS)
    run = ps.sample(energy, ps.AutoMALA(), chains=64, steps=16_000, warmup=4000, thin=20, seed=1)
    mean, variance, quantiles = schools_moments()
    draws = schools_draws(run, centred=True)
    check_chains(draws, mean)
    check_chains((draws - mean) ** 2, variance)
    check_chains(draws[..., 1:2] < quantiles, [0.01, 0.1, 0.9])


def test_eight_schools_centred_with_one_step_size_is_not_trusted():
    """HMC misses the neck, as everywhere, and the run says so."""
    energy = ps.compiled(schools_centred, dim=10, params=SCHOOLS)
    with pytest.warns(UserWarning, match="diverged"):
        run = ps.sample(energy, ps.HMC(), chains=64, steps=1000, seed=1)
    assert not run.mixing.passed


# --- Logistic regression: the O-rings of the space shuttle (Dalal, Fowlkes & Hoadley 1989) ------------

TEMPERATURES = np.array(
    [66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58]
)
FAILED = np.array([0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1])
MILD = (TEMPERATURES - TEMPERATURES.mean()) / TEMPERATURES.std()
COLD = (31 - TEMPERATURES.mean()) / TEMPERATURES.std()  # the morning of the last flight
COEFFICIENTS = ps.Parameters(intercept=ps.Normal(0, 5), slope=ps.Normal(0, 5))


def logistic(x):
    """Energy and score of coefficients (n, 2)."""
    logit = x[:, :1] + x[:, 1:] * MILD
    missed = FAILED - expit(logit)
    return np.logaddexp(0, logit).sum(axis=1) - logit @ FAILED, np.stack([missed.sum(1), missed @ MILD], 1)


def logistic_point(x, params, gradient):
    n = len(params) // 2
    energy = gradient[0] = gradient[1] = 0.0
    for i in range(n):
        logit, y = x[0] + x[1] * params[i], params[n + i]
        energy += max(logit, 0.0) + math.log1p(math.exp(-abs(logit))) - y * logit
        slope = 1 / (1 + math.exp(-logit)) - y
        gradient[0] += slope
        gradient[1] += slope * params[i]
    return energy


def logistic_quantities(a, b):
    """Coefficients, a sum of both for their correlation, and the probability of a failure in the cold."""
    return np.stack([a, b, a + b, expit(a + b * COLD)], axis=-1)


@cache
def logistic_moments():
    a, b = (grid.ravel() for grid in np.meshgrid(np.linspace(-8, 5, 1301), np.linspace(-12, 4, 1601)))
    logit = [a + b * t for t in MILD]
    log_p = -(a**2 + b**2) / 50 + sum(y * z - np.logaddexp(0, z) for y, z in zip(FAILED, logit, strict=True))
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    values = logistic_quantities(a, b)
    return weight @ values, weight @ (values - weight @ values) ** 2


@pytest.mark.parametrize("kernel", [ps.MALA(), ps.HMC()], ids=str)
@pytest.mark.parametrize("loop", ["batched", "fused"])
def test_logistic_regression(loop, kernel):
    if loop == "batched":
        likelihood = ps.from_functions(energy_and_score=logistic, shape=2)
    else:
        likelihood = ps.compiled(logistic_point, dim=2, params=np.concatenate([MILD, FAILED]))
    run = ps.sample(COEFFICIENTS + likelihood, kernel, chains=100, steps=400, warmup=200, seed=2)
    assert run.loop == loop
    assert run.names == ["intercept", "slope"]
    assert run.mixing.passed, str(run)
    check_moments(logistic_quantities(run.draws[..., 0], run.draws[..., 1]), *logistic_moments())


# --- A Gaussian process: function values at 30 places, measured at 10 of them -------------------------


def conditioned(mean, covariance, data, noise_std, mask):
    """Return mean and covariance given data with independent noise where ``mask`` is set."""
    gain = np.linalg.solve(covariance[np.ix_(mask, mask)] + np.diag(noise_std[mask] ** 2), covariance[mask]).T
    return mean + gain @ (data - mean)[mask], covariance - gain @ covariance[mask]


@pytest.mark.parametrize("kernel", [ps.CrankNicolson(), ps.HMC(metric="dense")], ids=str)
def test_gaussian_process_regression(kernel):
    place = np.linspace(0, 1, 30)
    covariance = np.exp(-0.5 * ((place[:, np.newaxis] - place) / 0.1) ** 2) + 1e-4 * np.eye(30)
    mask = np.arange(30) % 3 == 1
    noise_std = np.linspace(0.3, 0.6, 30)
    data = np.where(mask, np.sin(7 * place) + 0.5, 99.0)  # where there is no data, no number may matter
    mean = 0.5 * place
    posterior = ps.Gaussian(mean, covariance) + ps.GaussianNoise(data, noise_std, mask=mask)
    run = ps.sample(posterior, kernel, chains=50, steps=800, warmup=300, seed=3)
    assert run.mixing.passed, str(run)
    check_normal(run.draws, *conditioned(mean, covariance, data, noise_std, mask))


# --- Wiener's posterior: a random field, measured in a part of its cells ------------------------------


def hartley(fields):
    """Return the modes of fields (..., *shape) in an orthonormal real basis, without k = 0."""
    modes = np.fft.fft2(fields, norm="ortho")
    return (modes.real - modes.imag).reshape(*fields.shape[:-2], -1)[..., 1:]


@pytest.mark.parametrize(
    ("kernel", "steps"),
    [
        (ps.MALA(metric="fourier"), 700),
        (ps.HMC(metric="fourier", leapfrogs=4), 200),
        (ps.CrankNicolson(), 800),
    ],
    ids=str,
)
def test_masked_random_field(kernel, steps):
    grid = ps.Grid((16, 12), (32.0, 18.0))
    prior = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(index=-1.5, amplitude=2.0))
    rng = np.random.default_rng(4)
    mask = rng.random(grid.shape) < 0.6
    noise_std = 0.6 + 0.6 * rng.random(grid.shape)
    truth = prior.sample(1, seed=9)[0]
    data = truth + noise_std * rng.standard_normal(grid.shape)
    run = ps.sample(
        prior + ps.GaussianNoise(data, noise_std, mask=mask), kernel, chains=32, steps=steps,
        warmup=300, thin=max(1, steps // 400), seed=4,
    )  # fmt: skip
    assert run.mixing.passed, str(run)
    half = prior.unwhiten(np.eye(grid.n_cells).reshape(-1, *grid.shape)).reshape(-1, grid.n_cells)
    mean, covariance = conditioned(
        np.zeros(grid.n_cells), half @ half.T, data.ravel(), noise_std.ravel(), mask.ravel()
    )
    # The mean of a field has no power: it stays what it is in the prior.
    np.testing.assert_allclose(run.draws.mean(axis=(2, 3)), 0, atol=1e-12)
    check((run.mean.ravel() - mean) / run.error.ravel())
    modes, expected = hartley(run.draws), hartley(mean.reshape(grid.shape))
    rows = hartley(covariance.reshape(-1, *grid.shape)).T
    covariance = hartley(rows.reshape(-1, *grid.shape))
    check_moments(modes, expected, np.diag(covariance))
    check_normal(modes, expected, covariance)


# --- Neal's funnel -----------------------------------------------------------------------------------


LOW, HIGH = 3 * stats.norm.ppf([0.01, 0.99])


def test_funnel():
    """Chains that start in the funnel's law stay in it, although each adapts its step to its place."""
    funnel, n = ps.Funnel(10), 8_000
    start = funnel.sample(n, seed=5)
    kernel = ps.AutoMALA(step_size=0.06, metric="identity")
    run = ps.sample(funnel, kernel, chains=n, steps=400, warmup=0, thin=400, init=start, seed=6)
    v, z = run.draws[0, :, 0], funnel.whiten(run.draws[0])
    assert np.corrcoef(v, start[:, 0])[0, 1] < 0.8  # they have moved
    check(math.sqrt(n) * np.concatenate([z.mean(axis=0), (z**2 - 1).mean(axis=0) / math.sqrt(2)]))
    for tail in (v < LOW, v > HIGH):
        assert stats.binomtest(int(tail.sum()), n, 0.01).pvalue > ALPHA


@pytest.mark.long
def test_funnel_from_afar():
    """From standard normals the neck and the mouth are reached, where plain MALA never sees the neck."""
    funnel = ps.Funnel(10)
    run = ps.sample(
        funnel, ps.AutoMALA(metric="identity"), chains=128, steps=200_000, warmup=50_000, thin=100, seed=7
    )
    v = run.draws[..., 0]
    check_chains(np.stack([v, v**2, v < LOW, v > HIGH], axis=-1), [0, 9, 0.01, 0.01])
    with pytest.warns(UserWarning, match="diverged"):
        run = ps.sample(funnel, ps.MALA(metric="identity"), chains=128, steps=20_000, thin=20, seed=7)
    assert (run.draws[..., 0] < LOW).mean() < 0.001
