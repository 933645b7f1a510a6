"""The map to coordinates: its inverse, its slope and the law of what comes out."""

import numpy as np
import pytest
from scipy.stats import kstest

import physscore as ps
from physscore.learning import Normalisation

RNG = np.random.default_rng(0)
DATA = {
    "normal": RNG.normal(3.0, 2.0, 20_000),
    "lognormal": np.exp(1.5 * RNG.normal(size=20_000)),
    "with zeros": np.maximum(np.exp(RNG.normal(size=20_000)) - 0.2, 0.0),
    "skewed with signs": RNG.exponential(size=20_000) - 1.0,
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("transform", ["auto", "identity", "gaussianise"])
def test_inverse_and_slope(name, transform):
    x = DATA[name]
    found = Normalisation.fit(x, transform)
    y = found.forward(x)
    assert abs(y.mean()) < 1e-9
    assert y.std() == pytest.approx(1.0)
    tried = np.linspace(-6.0, 7.0, 301)
    back = found.inverse(tried)
    assert np.abs(found.forward(back) - tried).max() < 1e-8
    h = 1e-6 * np.maximum(np.abs(back), 0.05)
    slope = found.slope(back)
    numeric = (found.forward(back + h) - found.forward(back - h)) / (2 * h)
    assert np.abs(slope.first / numeric - 1).max() < 1e-4
    log_slopes = [np.log(found.slope(back + s * h).first) for s in (1, -1)]
    numeric = (log_slopes[0] - log_slopes[1]) / (2 * h)
    error = np.abs(slope.log_first_slope - numeric) / (1 + np.abs(numeric))
    assert np.quantile(error, 0.95) < 1e-4  # the rest are the kinks at knots
    again = Normalisation(**found.settings())
    assert np.array_equal(again.forward(x), y)


def test_what_comes_out_is_normal():
    for name in ("lognormal", "skewed with signs"):
        found = Normalisation.fit(DATA[name])
        fresh = np.random.default_rng(1)
        draws = (
            np.exp(1.5 * fresh.normal(size=5000)) if name == "lognormal" else fresh.exponential(size=5000) - 1
        )
        assert kstest(found.forward(draws), "norm").pvalue > 1e-3


def test_auto_leaves_normal_data_alone():
    assert Normalisation.fit(DATA["normal"]).linear
    assert not Normalisation.fit(DATA["lognormal"]).linear


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Normalisation.fit(np.ones(10)), "data are all 1"),
        (lambda: Normalisation.fit(np.array([1.0, np.nan])), "not finite"),
        (lambda: Normalisation.fit(DATA["normal"], "cube"), "transform is 'cube'"),
        (lambda: Normalisation.fit(DATA["lognormal"]).forward(np.array([-1.0])), "larger than"),
        (lambda: Normalisation(0.0, -1.0), "std positive"),
        (lambda: Normalisation(0.0, 1.0, [0, 1], [1, 0]), "rising"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ps.InputError, match=words):
        call()
