"""Likelihoods against scipy.stats and numerical derivatives, and guidance against its closed form.

Statistical bounds are |z| < 5 each, a false alarm in 2 million; there are about 300 of them.
"""

import pickle

import numpy as np
import pytest
from scipy import stats

import physscore as ps
from physscore.core import InputError
from physscore.points import evaluate

SHAPES = [(1,), (7,), (4, 3), (2, 3, 2), (2048,), (50, 41), (3, 2049)]  # pieces have 2048 cells


def data_of(shape, seed=0):
    """Normal data, counts, a mask, and levels of noise or mean counts."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.7
    mask.flat[0] = True
    return rng.normal(size=shape), rng.poisson(3.0, size=shape), mask, rng.uniform(0.5, 4.0, size=shape)


def three_of(shape, dtype=float):
    return (0.3 * np.random.default_rng(1).normal(size=(3, *shape))).astype(dtype).clip(-0.6, 0.6)


def built(shape, kind, masked):
    """A likelihood, and its log p of states by scipy."""
    data, counts, mask, level = data_of(shape)
    mask = mask if masked else np.ones(shape, bool)
    if kind == "gaussian":
        likelihood = ps.GaussianNoise(np.where(mask, data, np.nan), level, mask=mask if masked else None)
        return likelihood, lambda x: stats.norm.logpdf(data, x, level)[:, mask].sum(1)
    likelihood = ps.PoissonCounts(
        np.where(mask, counts, np.nan), level, bias=1.2, link=kind, mask=mask if masked else None
    )
    mean = (lambda x: level * np.exp(1.2 * x)) if kind == "exp" else (lambda x: level * (1 + 1.2 * x))
    return likelihood, lambda x: stats.poisson.logpmf(counts, mean(x))[:, mask].sum(1)


KINDS = ["gaussian", "exp", "linear"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_energy_is_minus_log_p_of_the_data(shape, kind, masked):
    likelihood, log_p = built(shape, kind, masked)
    assert likelihood.shape == shape
    x = three_of(shape)
    energy, score = likelihood.energy_and_score(x)
    np.testing.assert_allclose(energy, -log_p(x), rtol=1e-12)
    np.testing.assert_array_equal(likelihood.energy(x), energy)
    np.testing.assert_array_equal(likelihood.score(x), score)
    found, gradient = evaluate(likelihood.point, x.reshape(3, -1))
    np.testing.assert_allclose(found, energy, rtol=1e-12)
    np.testing.assert_allclose(-gradient.reshape(x.shape), score, rtol=1e-12, atol=1e-13)
    assert (score[:, ~likelihood.mask] == 0).all()
    direction = np.random.default_rng(2).normal(size=x.shape)
    h = 1e-5
    change = (log_p(x + h * direction) - log_p(x - h * direction)) / (2 * h)
    expected = (score * direction).reshape(3, -1).sum(1)
    np.testing.assert_allclose(expected, change, rtol=1e-6, atol=1e-6 * np.linalg.norm(score))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_summed_in_float64(kind):
    likelihood, log_p = built((50, 41), kind, True)
    x = three_of((50, 41), np.float32)
    energy, score = likelihood.energy_and_score(x)
    assert (energy.dtype, score.dtype) == (np.float64, np.float32)
    # Where the mean is an exponential, cells are float32 too: rounding of 1e-7 each, not of the sum.
    np.testing.assert_allclose(energy, -log_p(x.astype(float)), rtol=3e-8 if kind == "exp" else 1e-12)
    np.testing.assert_allclose(score, likelihood.score(x.astype(float)), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chains", [1, 40])
def test_number_of_threads_changes_nothing(kind, chains):
    likelihood, _ = built((120, 130), kind, True)
    x = np.resize(three_of((120, 130)), (chains, 120, 130))
    with ps.threads(1):
        energy, score = likelihood.energy_and_score(x)
    with ps.threads(2):
        other = likelihood.energy_and_score(x)
    np.testing.assert_array_equal(other[0], energy)
    np.testing.assert_array_equal(other[1], score)
    np.testing.assert_array_equal(likelihood.energy(x[:1]), energy[:1])


def test_states_in_any_order_of_memory():
    likelihood, _ = built((4, 3), "exp", True)
    x = three_of((4, 3))
    np.testing.assert_array_equal(likelihood.score(np.asfortranarray(x)), likelihood.score(x))
    whole = np.ones((2, 4, 3), int)
    np.testing.assert_array_equal(likelihood.score(whole), likelihood.score(whole.astype(float)))
    assert likelihood.energy(x[:0]).shape == (0,)


def test_linear_mean_that_is_not_positive():
    likelihood = ps.PoissonCounts([0, 2], [1.0, 3.0], bias=2.0, link="linear")
    x = np.array([[-0.5, 0.0], [0.0, -0.5], [-0.6, 0.0], [0.0, -7.0], [-0.499, -0.499]])
    energy, score = likelihood.energy_and_score(x)
    np.testing.assert_array_equal(np.isinf(energy), [True, True, True, True, False])
    np.testing.assert_array_equal(score[[0, 1, 2, 3], [0, 1, 0, 1]], 0.0)
    assert np.isfinite(score).all()
    found, gradient = evaluate(likelihood.point, x)
    np.testing.assert_allclose(found, energy)
    np.testing.assert_allclose(-gradient, score)
    masked = ps.PoissonCounts([0, 2], [1.0, 3.0], bias=2.0, link="linear", mask=np.array([False, True]))
    np.testing.assert_array_equal(np.isinf(masked.energy(x)), [False, True, False, True, False])


def test_exponential_mean_that_is_large_or_tiny():
    likelihood = ps.PoissonCounts([0, 5], 2.0)
    x = np.array([[-800.0, 0.0], [-50.0, -50.0], [300.0, 5.0]])
    np.testing.assert_allclose(likelihood.energy(x), [
        2.0 - stats.poisson.logpmf(5, 2.0) - 2.0,
        -stats.poisson.logpmf(5, 2 * np.exp(-50.0)),
        2 * np.exp(300.0),
    ], rtol=1e-12)  # fmt: skip
    assert np.isposinf(ps.PoissonCounts([1], 1e10).energy([[800.0]])[0])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_curvature_is_the_mean_second_derivative(kind, masked):
    likelihood, _ = built((4, 3), kind, masked)
    for x in (three_of((4, 3)), None):
        at, h = (np.zeros((1, 4, 3)) if x is None else x), 1e-5
        # A cell's slope depends on that cell alone, so all may move at once.
        numeric = -(likelihood.score(at + h) - likelihood.score(at - h)) / (2 * h)
        assert likelihood.curvature(x) == pytest.approx(numeric.mean(), rel=1e-7)


def test_curvature_of_a_linear_mean_stays_finite():
    likelihood = ps.PoissonCounts([2], 3.0, link="linear")
    assert likelihood.curvature(np.array([[-1.0]])) == pytest.approx(2 / 0.1**2)
    with pytest.raises(InputError, match=r"x has shape \(1, 2\): it must be \(n, 1\)"):
        likelihood.curvature(np.zeros((1, 2)))


@pytest.mark.parametrize("kind", KINDS)
def test_mean_score_at_the_truth_is_zero(kind):
    """Over data drawn at x, the score at x has the mean 0, and its variance is the mean curvature."""
    rng, n = np.random.default_rng(3), 20_000
    x = 0.3
    if kind == "gaussian":
        likelihood = ps.GaussianNoise(rng.normal(x, 1.5, n), 1.5)
        information = 1 / 1.5**2
    else:
        mean = 4.0 * np.exp(0.8 * x) if kind == "exp" else 4.0 * (1 + 0.8 * x)
        likelihood = ps.PoissonCounts(rng.poisson(mean, n), 4.0, bias=0.8, link=kind)
        information = 0.8**2 * (mean if kind == "exp" else 16 / mean)
    score = likelihood.score(np.full((1, n), x))[0]
    assert abs(score.mean()) < 5 * np.sqrt(information / n)
    squares = score**2
    assert abs(squares.mean() - information) < 5 * squares.std() / np.sqrt(n)


@pytest.mark.parametrize("kind", KINDS)
def test_pickles(kind):
    likelihood, _ = built((4, 3), kind, True)
    x = three_of((4, 3))
    expected = evaluate(likelihood.point, x.reshape(3, -1))[1]
    copy = pickle.loads(pickle.dumps(likelihood))
    np.testing.assert_array_equal(copy.energy(x), likelihood.energy(x))
    np.testing.assert_array_equal(evaluate(copy.point, x.reshape(3, -1))[1], expected)
    assert repr(copy) == repr(likelihood)


def test_names():
    assert repr(ps.GaussianNoise([1.0, np.nan], 1.0, mask=np.array([True, False]))) == (
        "GaussianNoise(1 of 2 cells)"
    )
    assert repr(ps.PoissonCounts([1, 2], 1.0, link="linear")) == "PoissonCounts(2 of 2 cells, linear)"


MASK = np.array([True, False])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": [1.0, np.nan]}, "data hold values that are not finite: leave these cells out by mask="),
        ({"data": "many"}, "data is 'many': it must hold real numbers"),
        ({"data": [1j, 2]}, "data is .*: it must hold real numbers"),
        ({"data": []}, r"data have shape \(0,\): there must be at least one cell"),
        ({"noise_std": 0.0}, "noise_std holds 0: it must be positive wherever there are data"),
        ({"noise_std": [1.0, -2.0]}, "noise_std holds -2: it must be positive wherever there are data"),
        ({"noise_std": np.inf}, "noise_std holds inf: it must be positive"),
        ({"noise_std": [1.0] * 3}, r"noise_std has shape \(3,\): it must be a number, or .* shape \(2,\)"),
        ({"noise_std": "1"}, "noise_std is '1': it must hold real numbers"),
        ({"noise_std": None}, "noise_std is None: it must hold real numbers"),
        ({"mask": [1, 0]}, r"mask has shape \(2,\) and type int64: it must be boolean of shape \(2,\)"),
        ({"mask": MASK[:1]}, r"mask has shape \(1,\) and type bool: it must be boolean of shape \(2,\)"),
        ({"mask": ~MASK & MASK}, "mask is False everywhere: there are no data"),
    ],
)
def test_bad_gaussian_noise(arguments, message):
    with pytest.raises(InputError, match=message):
        ps.GaussianNoise(**{"data": [1.0, 2.0], "noise_std": 1.0, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": [1, 2.5]}, "counts hold 2.5: they must be whole numbers, 0 or more"),
        ({"counts": [1, -2]}, "counts hold -2.0: they must be whole"),
        ({"counts": [1, np.nan]}, "counts hold nan: they must be whole"),
        ({"counts": "many"}, "counts is 'many': it must hold real numbers"),
        ({"mean_count": [1.0, 0.0]}, "mean_count holds 0: it must be positive wherever there are data"),
        ({"mean_count": np.nan}, "mean_count holds nan: it must be positive"),
        ({"mean_count": [1.0] * 3}, r"mean_count has shape \(3,\): it must be a number, or .* \(2,\)"),
        ({"bias": 0}, "bias is 0: it must be a finite number other than 0"),
        ({"bias": np.inf}, "bias is inf: it must be a finite number other than 0"),
        ({"bias": "1"}, "bias is '1': it must be a finite number other than 0"),
        ({"link": "log"}, 'link is \'log\': it must be "exp" or "linear"'),
        ({"mask": MASK[:1]}, r"mask has shape \(1,\) and type bool: it must be boolean"),
    ],
)
def test_bad_poisson_counts(arguments, message):
    with pytest.raises(InputError, match=message):
        ps.PoissonCounts(**{"counts": [1, 2], "mean_count": 1.0, **arguments})


def test_what_stands_under_the_mask_is_not_looked_at():
    for bad in (np.nan, -3.0, np.inf):
        ps.GaussianNoise([1.0, bad], [1.0, bad], mask=MASK)
        ps.PoissonCounts([1, bad], [1.0, bad], mask=MASK)


# Guidance


def log_p_class(x):
    """log N(y = 1 | x, 0.7^2) of each component, and its gradient."""
    return stats.norm.logpdf(1.0, x, 0.7).reshape(len(x), -1).sum(1), (1.0 - x) / 0.49


@pytest.mark.parametrize("strength", [1.0, 2.0, 0.5, 0, -1.0])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 3)])
def test_guidance_by_a_function_and_by_an_energy(strength, shape):
    x = three_of(shape)
    log_p, gradient = log_p_class(x)
    by_function = ps.Guidance(log_p_class, strength, shape=shape)
    by_energy = ps.Guidance(ps.GaussianNoise(np.ones(shape), 0.7), strength)
    for guidance in (by_function, by_energy):
        assert guidance.shape == shape
        energy, score = guidance.energy_and_score(x)
        np.testing.assert_allclose(energy, -strength * log_p, rtol=1e-12)
        np.testing.assert_allclose(score, strength * gradient, rtol=1e-12)
        np.testing.assert_array_equal(guidance.energy(x), energy)
        np.testing.assert_array_equal(guidance.score(x), score)
        energy, score = guidance.energy_and_score(x.astype(np.float32))
        assert (energy.dtype, score.dtype) == (np.float64, np.float32)
        ones = np.ones((2, *shape), int)
        np.testing.assert_array_equal(guidance.score(ones), guidance.score(ones.astype(float)))
    assert repr(by_function) == f"Guidance(strength={strength:g})"


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_guided_law(strength):
    """N(0, 1) N(1 | x, 0.7^2)^strength is normal, its precision 1 + strength / 0.49."""
    prior = ps.Gaussian(0.0, 1.0, dim=2)
    target = prior + ps.Guidance(log_p_class, strength, shape=2)
    precision = 1 + strength / 0.49
    mean = strength / 0.49 / precision
    expected = ps.Gaussian(mean, 1 / precision, dim=2)
    x = np.random.default_rng(0).normal(size=(50, 2))
    difference = target.energy(x) - expected.energy(x)
    np.testing.assert_allclose(difference, difference[0], rtol=1e-12)
    np.testing.assert_allclose(target.score(x), expected.score(x), rtol=1e-12, atol=1e-12)
    run = ps.sample(target, ps.MALA(0.15), chains=4000, steps=40, thin=40, warmup=0, seed=1)
    last = np.asarray(run.draws).reshape(-1, 2)
    n = last.size
    assert abs(last.mean() - mean) < 5 * np.sqrt(1 / precision / n)
    assert abs(((last - mean) ** 2).mean() * precision - 1) < 5 * np.sqrt(2 / n)


def test_guidance_with_too_few_numbers():
    x = np.zeros((3, 2))
    with pytest.raises(InputError, match=r"returned \(3, 2\) and \(3, 2\), expected \(3,\) and \(3, 2\)"):
        ps.Guidance(lambda x: (x, x), shape=2).energy(x)
    with pytest.raises(InputError, match=r"returned \(3,\) and \(3,\), expected \(3,\) and \(3, 2\)"):
        ps.Guidance(lambda x: (x[:, 0], x[:, 0]), shape=(2,)).energy(x)
    for log_p in (log_p_class, ps.GaussianNoise([1.0, 1.0], 1.0)):
        with pytest.raises(InputError, match=r"x has shape \(3, 1\): it must be \(n, 2\)"):
            ps.Guidance(log_p, shape=2).energy(x[:, :1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": np.nan}, "strength is nan: it must be a finite number"),
        ({"strength": "2"}, "strength is '2': it must be a finite number"),
        ({"log_p_class": 3.0}, "log_p_class is 3.0: it must be an Energy, or a function"),
        ({"log_p_class": ps.from_functions(score=lambda x: -x, shape=2)}, "log_p_class is .*: it must be an"),
        ({"shape": None}, "shape is missing: log_p_class is a function, so say the shape"),
        ({"shape": 2.5}, "shape is 2.5: it must be the whole numbers"),
        ({"shape": -1}, "shape is -1: it must be the whole numbers"),
        ({"shape": ()}, r"shape is \(\): it must be the whole numbers"),
        ({"log_p_class": ps.Gaussian(0.0, 1.0, dim=3)}, r"shape is 2: that of log_p_class is \(3,\)"),
    ],
)
def test_bad_guidance(arguments, message):
    with pytest.raises(InputError, match=message):
        ps.Guidance(**{"log_p_class": log_p_class, "shape": 2, **arguments})


def simulated(kind, x, n):
    """A masked likelihood, and ``n`` others with data simulated at ``x``, by different seeds."""
    likelihood, _ = built(x.shape, kind, True)
    return likelihood, [likelihood.simulate(x, seed=seed) for seed in range(n)]


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_data_have_their_mean_and_variance(kind):
    n, x = 4000, three_of((4, 3))[0]
    likelihood, others = simulated(kind, x, n)
    mask = likelihood.mask
    if kind == "gaussian":
        data = np.array([other.data for other in others])
        mean, variance = x, likelihood.noise_std**2
        fourth = 3 * variance**2
    else:
        data = np.array([other.counts for other in others])
        growth = np.exp(1.2 * x) if kind == "exp" else 1 + 1.2 * x
        mean = variance = likelihood.mean_count * growth
        fourth = mean + 3 * mean**2
    assert (data[:, ~mask] == 0).all()
    z = (data.mean(0) - mean) / np.sqrt(variance / n)
    assert np.abs(z[mask]).max() < 5
    squares = ((data - mean) ** 2).mean(0)
    z = (squares - variance) / np.sqrt((fourth - variance**2) / n)
    assert np.abs(z[mask]).max() < 5
    off = ((data - mean) / np.sqrt(variance))[:, mask]  # cells are independent of each other
    products = (off.T @ off)[np.triu_indices(off.shape[1], 1)] / np.sqrt(n)
    assert np.abs(products).max() < 5


@pytest.mark.parametrize("kind", KINDS)
def test_simulated_likelihood_has_its_energy_at_the_state(kind):
    """The mean of -log p of data that are drawn from p is the entropy."""
    n, x = 2000, three_of((4, 3))[0]
    likelihood, others = simulated(kind, x, n)
    energies = np.array([other.energy(x[np.newaxis])[0] for other in others])
    if kind == "gaussian":
        entropy = stats.norm.entropy(scale=likelihood.noise_std)
    else:
        growth = np.exp(1.2 * x) if kind == "exp" else 1 + 1.2 * x
        law, counts = stats.poisson((likelihood.mean_count * growth)[..., np.newaxis]), np.arange(200)
        entropy = -(law.pmf(counts) * law.logpmf(counts)).sum(axis=-1)
    z = (energies.mean() - entropy[likelihood.mask].sum()) / (energies.std(ddof=1) / np.sqrt(n))
    assert abs(z) < 5


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_simulates_the_same_data(kind):
    likelihood, log_p = built((4, 3), kind, True)
    x = three_of((4, 3))
    x[0, ~likelihood.mask] = np.nan  # where there are no data the state plays no part
    first = likelihood.simulate(x[0], seed=2**64 - 1)
    again = likelihood.simulate(np.where(likelihood.mask, x[0], 7.0), seed=2**64 - 1)
    np.testing.assert_array_equal(first.energy(x[1:]), again.energy(x[1:]))
    assert (first.energy(x[1:]) != likelihood.simulate(x[0], seed=3).energy(x[1:])).all()
    np.testing.assert_array_equal(first.mask, likelihood.mask)
    assert (first.score(x[1:])[:, ~likelihood.mask] == 0).all()
    # The original keeps its data.
    np.testing.assert_allclose(likelihood.energy(x[1:]), -log_p(x[1:]), rtol=1e-12)


def test_simulated_counts_of_a_tiny_and_a_large_mean():
    likelihood = ps.PoissonCounts([1, 1], 2.0)
    counts = likelihood.simulate([-800.0, 30.0], seed=1).counts
    mean = 2 * np.exp(30.0)
    assert counts[0] == 0
    assert abs(counts[1] - mean) < 5 * np.sqrt(mean)


@pytest.mark.parametrize("kind", KINDS)
def test_bad_states_are_not_simulated_at(kind):
    likelihood, _ = built((4, 3), kind, False)
    with pytest.raises(InputError, match=r"x has shape \(1, 4, 3\): it must be one state, of shape \(4, 3\)"):
        likelihood.simulate(np.zeros((1, 4, 3)), seed=1)
    with pytest.raises(InputError, match="x holds nan: it must be finite where there are data"):
        likelihood.simulate(np.full((4, 3), np.nan), seed=1)
    with pytest.raises(InputError, match="seed is -1"):
        likelihood.simulate(np.zeros((4, 3)), seed=-1)
    if kind != "gaussian":
        far = np.full((4, 3), 60.0 if kind == "exp" else -1.0)
        with pytest.raises(InputError, match="x gives the mean .*: it must be positive, and at most 1e15"):
            likelihood.simulate(far, seed=1)
