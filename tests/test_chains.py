"""R-hat and effective sample sizes against ArviZ and known chains, and the honesty of the verdict."""

import h5py
import numpy as np
import pytest
from scipy import stats
from scipy.signal import lfilter

from physscore.core import InputError
from physscore.diagnostics import chains
from physscore.diagnostics.chains import (
    effective_sample_size,
    mixing_verdict,
    monte_carlo_error,
    r_hat,
)

ALPHA = 1e-6  # two-sided, for every statistical test below

STATISTICS = {
    "r_hat": r_hat,
    "bulk": effective_sample_size,
    "tail": lambda draws: effective_sample_size(draws, "tail"),
    "mean": lambda draws: effective_sample_size(draws, kind="mean"),
    "error": monte_carlo_error,
}


def autoregressive(shape, phi, seed):
    """x(t+1) = phi x(t) + sqrt(1 - phi^2) noise along the first axis, standard normal throughout."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    noise[1:] *= np.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise, axis=0)


def hard_draws():
    """101 draws of 4 chains, one component a difficulty."""
    shape = (101, 4)
    return np.stack(
        [
            autoregressive(shape, 0.7, 1),
            autoregressive(shape, -0.5, 2),  # antithetic
            np.random.default_rng(3).standard_cauchy(shape),
            np.round(2 * autoregressive(shape, 0.3, 4)),  # ties
            autoregressive(shape, 0.9, 5) + np.arange(4),  # chains in different places
            autoregressive(shape, 0.0, 6) * np.array([1, 1, 1, 3.0]),  # of different widths
            np.ones(shape),
            (autoregressive(shape, 0.5, 7) > 0) * 2.0 - 1,  # two values
        ],
        axis=-1,
    )


# ArviZ 0.23.4: az.rhat, az.ess(method=...), az.mcse of the first n draws of every component.
RECORDED = {
    101: {
        "r_hat": [
            1.0329097144,
            1.0166129203,
            0.99837398037,
            1.0081714078,
            1.6124937708,
            1.149144882,
            np.nan,
            1.0190899593,
        ],
        "bulk": [
            74.395355851,
            1040.8239965,
            453.40303629,
            226.52966798,
            7.267597082,
            403.67658435,
            400.0,
            182.48329179,
        ],
        "tail": [
            125.56279104,
            426.43663456,
            346.76644264,
            251.88220094,
            15.803331662,
            32.61876826,
            400.0,
            182.48329179,
        ],
        "mean": [
            73.160139501,
            1040.8239965,
            444.69162145,
            224.52142223,
            7.5299236264,
            397.04729409,
            400.0,
            182.48329179,
        ],
        "error": [
            0.10633202949,
            0.031752052881,
            0.53865438431,
            0.13476068472,
            0.49972113109,
            0.0855668301,
            0.0,
            0.072931938878,
        ],
    },
    4: {
        "r_hat": [
            1.624359033,
            1.2297352987,
            1.5483270055,
            1.8007659043,
            2.4008789292,
            1.2750983419,
            np.nan,
            1.1952286093,
        ],
        "bulk": [
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            16.0,
            19.265919722,
        ],
        "tail": [
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            16.0,
            16.0,
        ],
        "mean": [
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            16.0,
            19.265919722,
        ],
        "error": [
            0.14082586794,
            0.24775929182,
            0.78581458267,
            0.55475593351,
            0.29531556093,
            0.44419164655,
            0.0,
            0.23345317048,
        ],
    },
    5: {
        "r_hat": [
            1.9910756056,
            1.4049276402,
            1.3690510342,
            1.4585216189,
            2.1064146123,
            1.2398041005,
            np.nan,
            0.84515425473,
        ],
        "bulk": [
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            16.0,
            19.265919722,
        ],
        "tail": [19.265919722, 19.265919722, 19.265919722, 19.265919722, 19.265919722, 16.0, 16.0, 16.0],
        "mean": [
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            19.265919722,
            16.0,
            19.265919722,
        ],
        "error": [
            0.13640107981,
            0.22912938466,
            0.71802827143,
            0.54768329726,
            0.27575374108,
            0.44230685119,
            0.0,
            0.22297902922,
        ],
    },
}


@pytest.mark.parametrize("n", RECORDED)
@pytest.mark.parametrize("name", STATISTICS)
def test_against_arviz(n, name):
    np.testing.assert_allclose(STATISTICS[name](hard_draws()[:n]), RECORDED[n][name], rtol=1e-9)


@pytest.mark.parametrize("name", STATISTICS)
def test_pieces_and_files(name, monkeypatch, tmp_path):
    draws = autoregressive((21, 3, 4, 5, 2), 0.5, 1)
    draws[3, 1, 2, 2, 1] = np.inf
    draws[..., 3, 0, 0] = np.round(draws[..., 3, 0, 0])
    whole = STATISTICS[name](draws)
    assert whole.shape == (4, 5, 2)
    assert np.isnan(whole[2, 2, 1])
    assert np.isfinite(whole).sum() == whole.size - 1
    assert STATISTICS[name](draws[..., 0, 0, 0]) == whole[0, 0, 0]
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["draws"] = draws
        for components in (1, 2, 3, 7, 10, 20):
            monkeypatch.setattr(chains, "_PIECE_BYTES", chains._BYTES_A_DRAW * 21 * 3 * components)
            for source in (draws, file["draws"]):
                np.testing.assert_array_equal(STATISTICS[name](source), whole)
    assert STATISTICS[name](np.zeros((4, 2, 0))).shape == (0,)


def test_types():
    draws = np.random.default_rng(1).integers(0, 9, (50, 4, 3))
    for statistic in STATISTICS.values():
        np.testing.assert_array_equal(statistic(draws.astype(np.float32)), statistic(draws))
        np.testing.assert_array_equal(statistic(draws.tolist()), statistic(draws))


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        (np.zeros((3, 2)), "draws has 3 draws a chain"),
        (np.zeros(100), r"draws has shape \(100,\)"),
        (np.zeros((10, 0)), "draws has shape"),
        (np.zeros((10, 2), complex), "draws has the type complex128"),
    ],
)
def test_refused(draws, message):
    for statistic in STATISTICS.values():
        with pytest.raises(InputError, match=message):
            statistic(draws)
    with pytest.raises(InputError, match="kind is 'median'"):
        effective_sample_size(np.zeros((10, 2)), "median")


@pytest.mark.parametrize("phi", [-0.4, 0.0, 0.6, 0.9])
def test_known_correlation_time(phi):
    """The error of the mean of an autoregressive chain, and the law of the means divided by it."""
    n, n_chains, components = 2000, 4, 400
    draws = autoregressive((n, n_chains, components), phi, 8)
    time = (1 + phi) / (1 - phi)
    ess = effective_sample_size(draws, "mean")
    pulls = (1 / ess - time / (n * n_chains)).mean() / stats.sem(1 / ess)
    # The rule that ends the sum, and what the chain means take away, bias it by a few per cent.
    bias = 0.05 * time / (n * n_chains) / stats.sem(1 / ess)
    assert abs(pulls) < stats.norm.isf(ALPHA / 2) + bias
    squares = np.sum((draws.mean((0, 1)) / monte_carlo_error(draws)) ** 2)
    low, high = stats.chi2.ppf([ALPHA / 2, 1 - ALPHA / 2], components)
    assert 0.95 * low < squares < 1.05 * high


@pytest.mark.parametrize("phi", [-0.3, 0.0, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(4, 1000, 400), (8, 200, 400), (20, 100, 400), (60, 1000, 100)])
def test_few_draws_of_many_chains(shape, phi):
    """The law of the means divided by their errors, and sizes that agree with these."""
    draws = autoregressive(shape, phi, 18)
    error = monte_carlo_error(draws)
    squares = np.sum((draws.mean((0, 1)) / error) ** 2)
    low, high = stats.chi2.ppf([ALPHA / 2, 1 - ALPHA / 2], shape[-1])
    assert 0.9 * low < squares < 1.05 * high
    ess = effective_sample_size(draws, "mean")
    np.testing.assert_allclose(error, draws.std(axis=(0, 1), ddof=1) / np.sqrt(ess))
    for kind in (
        "mean",
        "bulk",
        "tail",
    ):  # of independent draws: their number, to what the means' spread allows
        if phi == 0:
            size = effective_sample_size(draws, kind).mean() / (shape[0] * shape[1])
            assert abs(size - 1) < np.sqrt(2 / shape[1])


def test_heavy_tails():
    """Ranks know nothing of the scale: heavy tails change neither the bulk nor the tails."""
    normal = autoregressive((500, 4, 20), 0.5, 10)
    heavy = np.sinh(3 * normal)
    for kind in ("bulk", "tail"):
        np.testing.assert_array_equal(effective_sample_size(heavy, kind), effective_sample_size(normal, kind))
    cauchy = np.random.default_rng(11).standard_cauchy((1000, 4, 20))
    assert verdict(cauchy).passed
    cauchy[:, 0] += 2
    assert r_hat(cauchy).min() > 1.05


def verdict(draws, **options):
    n, n_chains = draws.shape[:2]
    tail = effective_sample_size(draws, "tail")
    return mixing_verdict(
        r_hat(draws), effective_sample_size(draws), tail, draws=n, chains=n_chains, **options
    )


def test_stuck_chains_are_flagged():
    shape = (1000, 4, 6)
    draws = autoregressive(shape, 0.5, 12)
    passed, reasons = verdict(draws)
    assert passed
    assert reasons == []
    draws[:, 2, 3] += 1.5
    passed, reasons = verdict(draws)
    assert not passed
    assert reasons[0].startswith("has not mixed: R-hat is 1.2")
    assert "at component (3,), above 1.0" in reasons[0]
    assert "bulk effective sample size" in reasons[1]
    assert "at omega_m," in verdict(draws, names=[*"abc", "omega_m", *"ef"]).reasons[0]
    # All in different places; some wider than others; one that drifts; one that left.
    assert "R-hat" in verdict(autoregressive(shape, 0.5, 13) + 3 * np.arange(4)[:, None]).reasons[0]
    assert "R-hat" in verdict(autoregressive(shape, 0.5, 14) * np.array([1, 1, 4, 4])[:, None]).reasons[0]
    assert (
        "R-hat" in verdict(autoregressive(shape, 0.5, 15) + np.linspace(0, 2, 1000)[:, None, None]).reasons[0]
    )
    draws[5, 0, 1] = np.nan
    assert "draws are not finite at component (1,)" in verdict(draws, divergent=1).reasons[1]
    assert verdict(draws, divergent=1).reasons[0] == "1 of 4 chains diverged: use a smaller step"
    assert verdict(np.broadcast_to(np.arange(4.0), (100, 4))).reasons[0].startswith("has not mixed")
    assert verdict(np.ones((100, 4))).reasons == ["all draws are the same: nothing has moved"]


@pytest.mark.parametrize("components", [1, 10_000])
def test_stuck_in_one_of_many_components(components):
    """Modes 2 standard deviations apart, visited by half of 4, or of 1000 short chains."""
    for n, n_chains in ((1000, 4), (50, 1000)):
        apart = autoregressive((n, n_chains, 1), 0.5, 16) + 2 * (np.arange(n_chains)[:, None] % 2)
        values = np.full((3, components), [[1.0], [4000.0], [4000.0]])
        values[:, -1:] = [r_hat(apart), effective_sample_size(apart), effective_sample_size(apart, "tail")]
        found = mixing_verdict(*values, draws=n, chains=n_chains)
        assert "R-hat" in found.reasons[0]


@pytest.mark.parametrize("phi", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(50, 1000, 10), (1000, 4, 10), (400, 10, 500)])
def test_mixed_chains_pass(shape, phi):
    assert verdict(autoregressive(shape, phi, 17)).passed


def test_false_alarms():
    """R-hat of short independent chains: one verdict on 10^4 components, or 10^4 verdicts on one."""
    n, n_chains, components = 100, 4, 10_000
    draws = autoregressive((n, n_chains, components), 0.0, 18)
    found = r_hat(draws)
    ess = np.minimum(effective_sample_size(draws), effective_sample_size(draws, "tail"))
    assert (found > 1.01).mean() > 0.05  # a fixed limit would never pass
    enough = np.full(components, 1e4)
    assert mixing_verdict(found, enough, enough, draws=n, chains=n_chains).passed
    limit = chains._r_hat_limit(found, ess, n, n_chains)
    assert (found < limit).all()
    # One verdict a component: at most 10 of 10^4 may fail on average.
    alone = [
        chains._r_hat_limit(found[i : i + 1], ess[i : i + 1], n, n_chains)[0]
        for i in np.flatnonzero(found > 1.01)
    ]
    assert np.sum(found[found > 1.01] > alone) <= stats.poisson.isf(ALPHA, 1e-3 * components)
