"""Priors of parameters against scipy.stats: density, both tails of the whitening, draws.

Statistical bounds are |z| < 5 each, a false alarm in 2 million, and p > 1e-6; there are about 30 of them.
"""

import math
import pickle
import subprocess
import sys

import numba
import numpy as np
import pytest
from scipy import integrate, special, stats

import physscore as ps
from physscore.core import InputError
from physscore.energies.whitening import compiled_whitening
from physscore.points import evaluate

PRIORS = [
    (ps.Uniform(-1.0, 3.0), stats.uniform(-1.0, 4.0)),
    (ps.Uniform(0.1, 0.5), stats.uniform(0.1, 0.4)),
    (ps.Uniform(-2.0, 0.0), stats.uniform(-2.0, 2.0)),  # its upper end is the finely spaced one
    (ps.LogUniform(1e-3, 50.0), stats.loguniform(1e-3, 50.0)),
    (ps.Normal(0.7, 0.05), stats.norm(0.7, 0.05)),
    (ps.Normal(-3.0, 20.0), stats.norm(-3.0, 20.0)),
    (ps.HalfNormal(2.5), stats.halfnorm(scale=2.5)),
    (ps.TruncatedNormal(0.3, 0.2, 0.0, 1.0), stats.truncnorm(-1.5, 3.5, 0.3, 0.2)),
    (ps.LogNormal(0.5, 0.8), stats.lognorm(0.8, scale=np.exp(0.5))),
    (ps.HalfCauchy(0.7), stats.halfcauchy(scale=0.7)),
    (ps.Gamma(0.5, 2.0), stats.gamma(0.5, scale=0.5)),
    (ps.Gamma(30.0, 0.1), stats.gamma(30.0, scale=10.0)),
    (ps.InverseGamma(3.0, 2.0), stats.invgamma(3.0, scale=2.0)),
    (ps.Beta(2.0, 5.0), stats.beta(2.0, 5.0)),
    (ps.Beta(0.5, 1.5), stats.beta(0.5, 1.5)),
]
each = pytest.mark.parametrize(("prior", "law"), PRIORS, ids=[repr(prior) for prior, _ in PRIORS])
BOUNDED = [pair for pair in PRIORS if np.isfinite(pair[0].lower[0])]
DEPTHS = np.array([-8.0, -6.5, -5.0, -3.0, -1.0, -0.1, 0.0, 0.1, 1.0, 3.0, 5.0, 6.5, 8.0])


def mixed():
    return ps.Parameters(
        omega_m=ps.Uniform(0.1, 0.5),
        h=ps.Normal(0.7, 0.05),
        amplitude=ps.LogUniform(0.01, 10.0),
        scatter=ps.HalfNormal(0.3),
    )


def quantile(law, z):
    """The point of ``law`` as deep as ``z`` is in the standard normal, from the nearer tail."""
    return np.where(z < 0, law.ppf(stats.norm.cdf(z)), law.isf(stats.norm.sf(z)))


def column(values):
    return np.asarray(values, float)[:, np.newaxis]


@each
def test_density(prior, law):
    x = quantile(law, np.linspace(-4, 4, 41))
    energy, score = prior.energy_and_score(column(x))
    np.testing.assert_allclose(energy, -law.logpdf(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(prior.energy(column(x)), energy)
    np.testing.assert_array_equal(prior.score(column(x)), score)
    assert prior.log_z == 0.0
    low, high = (float(end) for end in quantile(law, np.array([-8.0, 8.0])))
    points = quantile(law, np.linspace(-7, 7, 15))

    def per_logarithm(t):
        return np.exp(t - prior.energy(np.array([[np.exp(t)]]))[0])

    def per_unit(t):
        return np.exp(-prior.energy(np.array([[t]]))[0])

    total = sum(
        integrate.quad(per_logarithm, np.log(a), np.log(b), epsabs=1e-13)[0]
        if a > 0
        else integrate.quad(per_unit, a, b, epsabs=1e-13)[0]
        for a, b in zip([low, *points], [*points, high], strict=True)
    )
    assert total == pytest.approx(1.0, abs=1e-11)


@each
def test_whitening_in_both_tails(prior, law):
    x = quantile(law, DEPTHS)
    found = prior.unwhiten(column(DEPTHS))[:, 0]
    np.testing.assert_allclose(found, x, rtol=2e-14, atol=1e-15)
    # The depth, from the probability on the side where it is small; where that is the distance from a
    # bound, the rounding of x itself limits it.
    z = prior.whiten(column(found))[:, 0]
    rate = np.exp(law.logpdf(found) + 0.5 * z**2) * np.sqrt(2 * np.pi)  # dz/dx
    grain = np.spacing(np.abs(found))
    if isinstance(prior, ps.TruncatedNormal):
        grain = np.maximum(grain, np.spacing(abs(prior.numbers[0])))
    assert (np.abs(z - DEPTHS) < 1e-14 * (1 + np.abs(DEPTHS)) + 4 * rate * grain).all()
    assert np.isfinite(prior.energy(column(found))).all()


def test_whitening_at_any_depth():
    """Beyond |z| = 38 the smaller tail itself is no longer a floating-point number."""
    z = column([-1e3, -39, -20, 20, 39, 1e3, 1e8])
    for prior, _ in PRIORS:
        x = prior.unwhiten(z)
        assert np.isfinite(prior.energy(x)).all()
        assert np.isfinite(prior.pull_back(z, np.ones_like(z))).all()
    half = ps.HalfNormal(2.0)
    np.testing.assert_allclose(half.whiten(half.unwhiten(z[3:])), z[3:], rtol=1e-11)
    # The tail of |x| is twice that of x.
    x = half.unwhiten(z[3:]) / 2.0
    np.testing.assert_allclose(stats.norm.logsf(x) + np.log(2), stats.norm.logsf(z[3:]), rtol=1e-11)


@each
def test_draws(prior, law):
    n = 20_000
    x = prior.sample(n, seed=5)
    assert x.shape == (n, 1)
    assert stats.kstest(x[:, 0], law.cdf).pvalue > 1e-6
    if np.isfinite(law.std()):
        assert abs(x.mean() - law.mean()) < 5 * law.std() / np.sqrt(n)
    energy = prior.energy(x)  # its mean is the entropy
    spread = energy.std() / np.sqrt(n)
    assert abs(energy.mean() - law.entropy()) < max(5 * spread, 1e-12)
    np.testing.assert_array_equal(prior.sample(9, seed=5), x[:9])
    assert (prior.sample(9, seed=6) != x[:9]).all()


@pytest.mark.parametrize(("prior", "law"), BOUNDED, ids=[repr(prior) for prior, _ in BOUNDED])
def test_bounds(prior, law):
    low, high = prior.lower[0], prior.upper[0]
    assert (low, high) == pytest.approx(law.support())
    beyond = [np.nextafter(low, -np.inf), low - 100.0, np.nan]
    inside = [low]
    if np.isfinite(high):
        beyond += [np.nextafter(high, np.inf), high + 100.0, np.inf]
        inside += [high]
    energy, score = prior.energy_and_score(column(beyond))
    np.testing.assert_array_equal(energy, np.inf)
    np.testing.assert_array_equal(score, 0.0)
    energy, gradient = evaluate(prior.point, column(beyond))
    np.testing.assert_array_equal(energy, np.inf)
    np.testing.assert_array_equal(gradient, 0.0)
    at_bounds = np.array([prior.energy(column(inside)), evaluate(prior.point, column(inside))[0]])
    density = law.logpdf(inside)
    usual = np.isfinite(density)
    np.testing.assert_allclose(at_bounds[:, usual], [-density[usual]] * 2, rtol=1e-12)
    assert np.isfinite(at_bounds).all()  # where the density is 0, or has a pole, as just beside
    assert (at_bounds[:, density == -np.inf] > 15).all()
    assert (at_bounds[:, density == np.inf] < -15).all()
    assert np.isnan(prior.whiten(column([low - 1.0]))).all()
    assert prior.whiten(column([low]))[0, 0] == -np.inf


@pytest.mark.parametrize(("low", "high"), [(6.0, np.inf), (-np.inf, -9.0), (-1.0, np.inf), (-0.3, 0.1)])
def test_a_truncated_tail(low, high):
    """Probabilities by scipy's normal law on the side where they are small: its own truncated one is wrong
    in the seventh digit at a depth of 6.5."""
    prior = ps.TruncatedNormal(-1.0, 0.5, low=-1.0 + 0.5 * low, high=-1.0 + 0.5 * high)
    t = (prior.unwhiten(column(DEPTHS))[:, 0] + 1.0) / 0.5
    assert (low <= t).all()
    assert (t <= high).all()
    if low > -1.0:
        above, left, all_above = stats.norm.sf(t), stats.norm.sf(high), stats.norm.sf(low)
        np.testing.assert_allclose(
            (above - left) / (all_above - left), stats.norm.sf(DEPTHS), rtol=1e-9, atol=1e-13
        )
    else:
        below, left, all_below = stats.norm.cdf(t), stats.norm.cdf(low), stats.norm.cdf(high)
        np.testing.assert_allclose(
            (below - left) / (all_below - left), stats.norm.cdf(DEPTHS), rtol=1e-9, atol=1e-13
        )
    np.testing.assert_allclose(prior.whiten(column(-1.0 + 0.5 * t))[2:-2, 0], DEPTHS[2:-2], atol=1e-7)
    slope = np.gradient(prior.unwhiten(column(np.linspace(0.5, 0.6, 101)))[:, 0], 0.001)[50]
    np.testing.assert_allclose(prior.pull_back(np.array([[0.55]]), np.ones((1, 1)))[0, 0], slope, rtol=1e-6)


def test_no_bounds():
    prior = ps.Normal(0.0, 1.0)
    assert (prior.lower[0], prior.upper[0]) == (-np.inf, np.inf)
    np.testing.assert_allclose(prior.energy([[1e6]]), 0.5e12)


def test_parameters():
    prior = mixed()
    assert prior.names == ["omega_m", "h", "amplitude", "scatter"]
    assert (prior.shape, prior.dim, prior.log_z) == ((4,), 4, 0.0)
    assert [prior.index(name) for name in prior.names] == [0, 1, 2, 3]
    np.testing.assert_array_equal(prior.lower, [0.1, -np.inf, 0.01, 0.0])
    np.testing.assert_array_equal(prior.upper, [0.5, np.inf, 10.0, np.inf])
    x = prior.sample(50, seed=2)
    columns = prior.as_dict(x)
    assert list(columns) == prior.names
    np.testing.assert_array_equal(columns["amplitude"], x[:, 2])
    assert prior.as_dict(x.reshape(5, 10, 4))["h"].shape == (5, 10)
    assert prior.as_dict(x[0])["h"] == x[0, 1]

    energy, score = prior.energy_and_score(x)
    alone = [p.energy_and_score(x[:, i : i + 1]) for i, p in enumerate(prior.priors)]
    np.testing.assert_allclose(energy, sum(e for e, _ in alone), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(score, np.concatenate([s for _, s in alone], axis=1))
    x[0, 0] = 0.6  # one outside is enough, and the others keep their scores
    energy, score = prior.energy_and_score(x[:1])
    assert energy[0] == np.inf
    assert score[0, 0] == 0
    assert (score[0, 1:] != 0).all()


def test_parameters_compiled():
    prior = mixed()
    x = prior.sample(100, seed=3)
    x[::7, 0], x[::5, 3] = 0.05, -0.1
    x[1, 2] = 0.0
    energy, gradient = evaluate(prior.point, x)
    expected, score = prior.energy_and_score(x)
    assert np.isinf(expected).sum() == len({*range(0, 100, 7), *range(0, 100, 5), 1})
    np.testing.assert_allclose(energy, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(-gradient, score, rtol=1e-12)


def test_parameters_whiten_each():
    prior = mixed()
    x = prior.sample(30, seed=4)
    z = prior.whiten(x)
    np.testing.assert_allclose(prior.unwhiten(z), x, rtol=1e-12)
    alone = [p.whiten(x[:, i : i + 1]) for i, p in enumerate(prior.priors)]
    np.testing.assert_array_equal(z, np.concatenate(alone, axis=1))


@pytest.mark.parametrize("prior", [ps.HalfCauchy(25.0), ps.HalfCauchy(1e6), ps.InverseGamma(0.05, 1e20)])
def test_wide_scales_of_heavy_tails_are_compiled(prior):
    """At a depth of 37.5 standard deviations they are beyond the largest number."""
    numbers = compiled_whitening(ps.Parameters(x=prior))
    assert np.isinf(numbers).sum() == 1  # the upper bound
    assert not np.isnan(numbers).any()
    x = prior._from_normal(np.linspace(-37.5, 37.5, 76))
    assert np.isfinite(x).all()
    assert (np.diff(x) >= 0).all()


def test_draws_are_whitened_to_standard_normals():
    prior, n = mixed(), 20_000
    z = prior.whiten(prior.sample(n, seed=7))
    covariance = z.T @ z / n  # its entries have the variance 1/n, and 2/n on the diagonal
    assert np.abs(z.mean(0) * np.sqrt(n)).max() < 5
    assert (np.abs(covariance - np.eye(4)) < 5 * np.sqrt((1 + np.eye(4)) / n)).all()


@pytest.mark.parametrize("z", [-7.0, -2.0, 0.3, 2.0, 7.0])
def test_pull_back_is_the_slope_of_unwhiten(z):
    for prior, law in PRIORS:
        at = np.array([[z]])
        slope = stats.norm.logpdf(z) - law.logpdf(prior.unwhiten(at)[0, 0])
        np.testing.assert_allclose(prior.pull_back(at, 2.0 * np.ones((1, 1))), 2 * np.exp(slope), rtol=1e-10)
        assert prior.pull_back(at.astype(np.float32), np.ones((1, 1))).dtype == np.float32


def test_float32():
    prior = mixed()
    x = prior.sample(20, seed=1).astype(np.float32)
    energy, score = prior.energy_and_score(x)
    assert (energy.dtype, score.dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(energy, prior.energy(x.astype(float)))


@pytest.mark.parametrize("prior", [mixed(), *(prior for prior, _ in PRIORS)], ids=repr)
def test_pickles(prior):
    x = prior.sample(5, seed=1)
    expected = evaluate(prior.point, x)[1]
    copy = pickle.loads(pickle.dumps(prior))
    assert repr(copy) == repr(prior)
    np.testing.assert_array_equal(copy.energy(x), prior.energy(x))
    np.testing.assert_array_equal(copy.sample(5, seed=1), x)
    np.testing.assert_array_equal(evaluate(copy.point, x)[1], expected)


def test_a_pickle_holds_in_another_process():
    prior = mixed()
    expected = evaluate(prior.point, prior.sample(5, seed=1))[0]
    code = (
        "import pickle, sys; from physscore.points import evaluate; p = pickle.load(sys.stdin.buffer);"
        "sys.stdout.buffer.write(evaluate(p.point, p.sample(5, seed=1))[0].tobytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(prior), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    np.testing.assert_array_equal(np.frombuffer(done.stdout), expected)


def test_names():
    assert repr(ps.HalfNormal(2.5)) == "HalfNormal(2.5)"
    expected = "Parameters(a=Uniform(0, 1), b=Normal(0.7, 0.05))"
    assert repr(ps.Parameters(a=ps.Uniform(0, 1), b=ps.Normal(0.7, 0.05))) == expected


@pytest.mark.parametrize("law", [ps.Uniform, ps.LogUniform])
@pytest.mark.parametrize("bounds", [(1, 1), (2, 1), (1, np.inf), (np.nan, 1), ("a", 1), (None, 1), ([1], 2)])
def test_bad_interval(law, bounds):
    with pytest.raises(
        InputError, match="low is .* and high .*: they must be finite numbers, low below high"
    ):
        law(*bounds)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_bad_lower_bound(low):
    with pytest.raises(InputError, match=f"low is {low}: that of LogUniform must be positive"):
        ps.LogUniform(low, 2.0)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "1", None, True])
def test_bad_spread(value):
    with pytest.raises(InputError, match=f"std is {value!r}: it must be a positive number"):
        ps.Normal(0.0, value)
    with pytest.raises(InputError, match=f"scale is {value!r}: it must be a positive number"):
        ps.HalfNormal(value)


def test_bad_numbers():
    for wrong in (0.0, -1.0, np.nan, "1", None):
        for name, make in {
            "shape": lambda value: ps.Gamma(value, 1.0), "rate": lambda value: ps.Gamma(1.0, value),
            "scale": lambda value: ps.InverseGamma(1.0, value), "a": lambda value: ps.Beta(value, 1.0),
            "b": lambda value: ps.Beta(1.0, value), "std": lambda value: ps.LogNormal(0.0, value),
        }.items():  # fmt: skip
            with pytest.raises(InputError, match=f"{name} is {wrong!r}: it must be a positive number"):
                make(wrong)
    with pytest.raises(InputError, match="low is 2 and high 1: they must be numbers, low below high"):
        ps.TruncatedNormal(0.0, 1.0, 2, 1)
    with pytest.raises(InputError, match="nothing is left there of mean 0 and std 1e-300"):
        ps.TruncatedNormal(0, 1e-300, 1.0, 2.0)


def test_bad_parameters():
    with pytest.raises(InputError, match=r"Parameters\(\) is empty: give it priors by name"):
        ps.Parameters()
    with pytest.raises(InputError, match="h is 0.7: it must be a prior such as"):
        ps.Parameters(h=0.7)
    with pytest.raises(InputError, match="h is Gaussian.*: it must be a prior such as"):
        ps.Parameters(h=ps.Gaussian(0.0, 1.0, dim=1))
    with pytest.raises(InputError, match="mean is nan: it must be a finite number"):
        ps.Normal(np.nan, 1.0)
    prior = mixed()
    with pytest.raises(InputError, match="name is 'omega': it must be one of omega_m, h, amplitude, scatter"):
        prior.index("omega")
    with pytest.raises(InputError, match=r"x has shape \(3, 2\): its last side must be 4, one a name"):
        prior.as_dict(np.zeros((3, 2)))
    for method, name in ((prior.energy, "x"), (prior.whiten, "x"), (prior.unwhiten, "z")):
        with pytest.raises(InputError, match=rf"{name} has shape \(3, 2\): it must be \(n, 4\)"):
            method(np.zeros((3, 2)))


@numba.njit
def conjugate(x, params, gradient_out):
    """Seven counts of a rate, three of ten, five normal numbers of sum of squares 8, one of width |x|."""
    rate, share, variance, scale = x[0], x[1], x[2], x[3]
    gradient_out[0] = 1.0 - 7.0 / rate
    gradient_out[1] = 7.0 / (1.0 - share) - 3.0 / share
    gradient_out[2] = (2.5 - 4.0 / variance) / variance
    gradient_out[3] = (1.0 - 4.0 / scale**2) / scale
    binomial = math.lgamma(11.0) - math.lgamma(4.0) - math.lgamma(8.0)
    return (
        rate - 7.0 * math.log(rate) + math.lgamma(8.0)
        - binomial - 3.0 * math.log(share) - 7.0 * math.log(1.0 - share)
        + 4.0 / variance + 2.5 * math.log(2 * math.pi * variance)
        + 2.0 / scale**2 + math.log(scale) + 0.5 * math.log(2 * math.pi)
    )  # fmt: skip


CONJUGATE = ps.Parameters(
    rate=ps.Gamma(2.0, 0.5),
    share=ps.Beta(0.7, 2.0),
    variance=ps.InverseGamma(1.5, 1.0),
    scale=ps.HalfCauchy(3.0),
)


def test_conjugate_evidence():
    """Closed forms for three, and quadrature: 6 runs, chi-squared at 10^-4."""
    exact = math.lgamma(9) - math.lgamma(2) - math.lgamma(8) + 2 * math.log(0.5) - 9 * math.log(1.5)
    exact += math.log(special.binom(10, 3)) + special.betaln(3.7, 9.0) - special.betaln(0.7, 2.0)
    exact += math.lgamma(4) - math.lgamma(1.5) - 4 * math.log(5.0) - 2.5 * math.log(2 * math.pi)
    law = stats.halfcauchy(scale=3.0)
    one = integrate.quad(lambda s: law.pdf(s) * stats.norm.pdf(2.0, scale=s), 0, np.inf, epsabs=1e-13)[0]
    exact += math.log(one)
    target = CONJUGATE + ps.compiled(conjugate, dim=4)
    runs = [ps.estimate_log_z(target, particles=300, seed=seed) for seed in range(6)]
    assert all(run.verdict == "pass" for run in runs)
    z = np.array([(run.log_z - exact) / run.error for run in runs])
    assert stats.chi2(6).sf((z**2).sum()) > 1e-4
    assert stats.chi2(6).cdf((z**2).sum()) > 1e-4
    assert max(run.error for run in runs) < 0.1


@numba.njit
def power_of_rate(x, params, gradient_out):
    """E = 2 x^(3/2), which is no number below 0."""
    gradient_out[0] = 3 * x[0] ** 0.5
    return 2 * x[0] ** 1.5


def power_of_rates(x):
    with np.errstate(invalid="ignore"):
        return 2 * x[:, 0] ** 1.5, -3 * x**0.5


@pytest.mark.parametrize("compiled", [True, False])
def test_a_likelihood_need_not_be_a_number_beyond_the_walls(compiled):
    likelihood = (
        ps.compiled(power_of_rate, dim=1)
        if compiled
        else ps.from_functions(energy_and_score=power_of_rates, shape=1)
    )
    target = likelihood + ps.HalfNormal(10.0)
    assert (target.point is not None) == compiled
    x = np.array([[-1.0], [2.0]])
    energy, score = target.energy_and_score(x)
    assert energy[0] == target.energy(x)[0] == np.inf
    assert score[0] == 0
    assert energy[1] == likelihood.energy(x)[1] + ps.HalfNormal(10.0).energy(x)[1]
    if compiled:
        energy, gradient = evaluate(target.point, x)
        np.testing.assert_array_equal(energy, target.energy(x))
        np.testing.assert_array_equal(-gradient, target.score(x))
    assert np.isnan((likelihood + -1.0 * ps.HalfNormal(10.0)).energy(x)[0])
    run = ps.sample(target, ps.MALA(), chains=64, steps=400)
    assert run.n_divergent == 0
    assert run.mixing.passed
