"""Learned scores of data whose components differ, lie far from zero, or are too few."""

import re

import h5py
import numpy as np
import pytest
import torch

import physscore as ps
from physscore import learning
from physscore.learning import losses
from physscore.learning.data import read
from physscore.learning.files import write_tensors
from physscore.learning.level import known_from
from physscore.learning.normalisation import Components, Normalisation, from_settings
from physscore.learning.optimiser import default_rate

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 2))


@pytest.mark.long
@pytest.mark.parametrize("steps", [1000, 4000])
def test_a_long_training_of_an_energy_learns(steps):
    """By the default rate: with that of short trainings units saturate, and nothing useful is learned.

    The square error of the score at noise 0.1 is 0.03 of the score's after 4000 steps; it was 0.67.
    """
    modes = ps.GaussianMixture([1] * 4, [[1, 1], [1, -1], [-1, 1], [-1, -1]], 0.3)
    fit = learning.train("mlp", modes.sample(5000, seed=1), kind="energy", steps=steps, batch=32)
    std = fit.normalisation.std
    truth = ps.smoothed(modes, 0.1 * float(std.mean()))
    x = truth.sample(2000, seed=3)
    found, exact = fit.at(0.1).score(fit.normalisation.forward(x)) / std, truth.score(x)
    assert ((found - exact) ** 2).sum() < 0.15 * (exact**2).sum()
    assert fit.level < 0.2
    assert fit.doubt is None


@pytest.mark.parametrize(
    ("weights", "means", "steps"),
    [
        ([0.3, 0.7], [[-3], [3]], 500),
        pytest.param(
            [0.1, 0.2, 0.3, 0.4], [[-3, -3], [-3, 3], [3, -3], [3, 3]], 1500, marks=pytest.mark.long
        ),
    ],
)
def test_modes_that_noise_does_not_join_have_their_weights(weights, means, steps):
    """The score says nothing of them; without what ties the noise levels they were off by up to 0.3."""
    modes = ps.GaussianMixture(weights, means, 0.25)
    fit = learning.train("mlp", modes.sample(5000, seed=2), kind="energy", steps=steps)
    axis = np.linspace(-6, 6, 121)  # a fifth of a mode's deviation
    x = np.stack(np.meshgrid(*[axis] * modes.dim, indexing="ij"), axis=-1)
    energy = fit.energy(x.reshape(-1, modes.dim)).reshape(x.shape[:-1])
    density = np.exp(energy.min() - energy)
    density /= density.sum()
    found = [density[(np.sign(x) == np.sign(mean)).all(axis=-1)].sum() for mean in means]
    np.testing.assert_allclose(found, weights, rtol=0, atol=0.06)


def test_the_rate_falls_with_the_length():
    network = learning.MLP(2, levels=True)
    assert default_rate(network, 100) == default_rate(network, 300) == 0.01
    assert default_rate(network, 30_000) == pytest.approx(0.001)
    assert default_rate(learning.UNet(1), 30_000) == default_rate(learning.UNet(1), 100)


def test_weights_do_not_drift_away_from_the_best(monkeypatch):
    """Each validation is a little worse, by less than chance explains: all are compared with the best."""
    from physscore.learning.task import Task

    scatter = np.tile([0.9, -0.9], 16)
    calls = []

    def validate(self, weights):
        calls.append(1)
        return 1.0 + 0.2 * len(calls) + scatter * (-1) ** len(calls)

    monkeypatch.setattr(Task, "validate", validate)
    found = learning.train("mlp", X, steps=40, loss="denoising", sigma=0.3).about["training"]
    losses_seen = [row["loss"] for row in found["history"]]
    assert losses_seen[-1] > 4
    assert found["validation_loss"] < losses_seen[0] + 0.7  # two standard errors of the differences: 0.64


class _Off:
    """The score of N(0, C) smoothed; along the last axis with an error that does not fall at little noise."""

    def __init__(self, variances, sigma, error):
        self.precision, self.error = 1 / (variances + sigma**2), error / (1 + (sigma / 0.5) ** 4)

    def directional(self, x, v):
        score, product = -x * self.precision, -v * self.precision
        score[:, -1] += self.error * np.cos(40 * x[:, -1])
        product[:, -1] -= 40 * self.error * np.sin(40 * x[:, -1]) * v[:, -1]
        return score, product


@pytest.mark.parametrize("dim", [2, 40])
def test_a_narrow_axis_does_not_hide_the_wide_ones(dim):
    """Of all axes together |s|^2 is that of the narrow ones, 10^4 times the wide one's."""
    variances = np.append(np.full(dim - 1, 1e-4), 1.0)
    y = np.random.default_rng(0).normal(size=(500, dim)) * np.sqrt(variances)
    sigmas, y = (0.001, 10.0), np.tile(y, (4, 1))
    assert known_from(lambda s: _Off(variances, s, 0.0), y, sigmas, 1, np.eye(dim), 4) == 0.001
    assert known_from(lambda s: _Off(variances, s, 2.0), y, sigmas, 1, np.eye(dim), 4) > 0.5


def test_right_scores_of_few_states_are_known_in_all_axes():
    """Chance in one of 16 axes does not raise the level: in 50 sets of 500 states it may once."""
    raised = 0
    for seed in range(50):
        y = np.tile(np.random.default_rng(seed).normal(size=(500, 16)), (4, 1))
        level = known_from(lambda s: _Off(np.ones(16), s, 0.0), y, (0.01, 10.0), seed, np.eye(16), 4)
        raised += level > 0.01
    assert raised <= 1


def test_a_score_that_is_known_nowhere_is_said_to_be(tmp_path):
    with pytest.warns(UserWarning, match="the score is known"):
        fit = learning.train("mlp", X[:60], steps=2, kind="energy")
    assert fit.doubt
    fit.save(tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=r"a\.safetensors: the score is known"):
        assert ps.load(tmp_path / "a.safetensors").doubt == fit.doubt


def test_components_far_from_each_other():
    """A component far away made the pooled data skewed, and draws four times too wide."""
    x = np.random.default_rng(0).normal(size=(4000, 5)) * [1, 1, 1, 1e-5, 1] + [0, 0, 0, 0, 60.0]
    norm = Components.fit(x, "auto")
    assert norm.linear
    assert norm.settings() == Components.fit(x, "identity").settings()  # so that both learn the same
    fit = learning.train("mlp", x, steps=100)
    draws = fit.sample(1000, seed=1)
    assert np.abs(draws.std(axis=0) / x.std(axis=0) - 1).max() < 0.15
    assert np.abs((draws.mean(axis=0) - x.mean(axis=0)) / x.std(axis=0)).max() < 0.15


def test_each_component_has_its_map():
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=5000) - 7, np.exp(rng.normal(size=5000)), rng.random(5000)], axis=1)
    norm = Components.fit(x)
    assert [part.linear for part in norm.parts] == [True, False, True]
    y = norm.forward(x)
    assert np.allclose(norm.inverse(y), x)
    assert np.allclose(from_settings(norm.settings()).forward(x), y)
    assert np.allclose(y.std(axis=0), 1)
    slope, h = norm.slope(x), 1e-6
    assert np.allclose(slope.y, y)
    numeric = (norm.forward(x + h) - norm.forward(x - h)) / (2 * h)
    assert np.quantile(np.abs(slope.first / numeric - 1), 0.99) < 1e-3
    assert norm.holds(x).all()
    assert (norm.holds(np.array([[-9.0, -1.0, -1.0]])) == [[True, False, True]]).all()


def test_an_energy_of_mixed_components_integrates_to_its_likelihood():
    """Jacobians of both components are in energy and likelihood: they differ by a constant."""
    rng = np.random.default_rng(0)
    x = np.stack([50 + rng.normal(size=4000), np.exp(0.8 * rng.normal(size=4000))], axis=1)
    fit = learning.train("mlp", x, kind="energy", steps=50)
    at, h = np.array([[50.0, 0.5], [51, 1], [49, 2], [50, 4]]), 1e-6  # so near that no knot lies between
    for i, step in enumerate(h * np.eye(2)):
        slope = (fit.energy(at - step) - fit.energy(at + step)) / (2 * h)
        assert np.allclose(slope, fit.score(at)[:, i], rtol=1e-4, atol=1e-4)
    states = x[:20]
    likelihood = fit.log_likelihood(states, divergence="exact").log_p
    exact = ps.Gaussian(50.0, 1.0, dim=1).energy(states[:, :1])
    exact = exact + 0.5 * (np.log(states[:, 1]) / 0.8) ** 2 + np.log(0.8 * states[:, 1] * np.sqrt(2 * np.pi))
    assert abs((likelihood + exact).mean()) < 0.3


def test_files_of_the_first_format_are_read(tmp_path):
    fit = learning.train("mlp", X, steps=3, loss="denoising", sigma=0.3)
    about = fit.describe() | {"normalisation": Normalisation(0.5, 2.0).settings()}
    write_tensors(tmp_path / "old.safetensors", dict(fit.model.state_dict()), about)
    old = ps.load(tmp_path / "old.safetensors")
    assert np.allclose(old.score(X[:4]), old.at().score((X[:4] - 0.5) / 2.0) / 2.0)


def test_data_far_from_zero_keep_their_digits():
    x = X[:, :1] + [[1e8, 0.0]] + X[:, 1:] * [[0.0, 1.0]]
    assert read(x).x.std() > 0
    fit = learning.train("mlp", x, steps=50)
    draws = fit.sample(1000, seed=1)
    assert np.allclose(draws.std(axis=0), x.std(axis=0), rtol=0.2)
    maps = 1e8 + np.random.default_rng(0).normal(size=(20, 4, 4))
    with pytest.raises(ps.InputError, match="single precision does not keep apart"):
        read(maps)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (X[:2], "data has 2 states: give three"),
        (np.c_[X[:, :1], np.full(600, 0.1)], re.escape("data are all 0.1 in component 1")),
        (np.ma.masked_greater(X, 1.0), "masked"),
    ],
)
def test_data_that_cannot_be_learned(data, words):
    with pytest.raises(ps.InputError, match=words):
        learning.train("mlp", data, steps=1)


def test_masked_parameters_are_refused():
    with pytest.raises(ps.InputError, match="parameters is a masked array"):
        learning.train("mlp", X, parameters=np.ma.masked_greater(X[:, 0], 1.0), steps=1)


def test_channels_are_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros((5, 4, 8, 8))
        file.attrs["BoxSize"] = [8.0, 8.0]
    with pytest.raises(ps.InputError, match="maps of several channels cannot be learned"):
        read(tmp_path / "a.h5", "x")


def test_a_finished_file_of_another_training_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    common = {"loss": "denoising", "sigma": 0.3, "output": path, "resume": True}
    first = learning.train("mlp", X, steps=4, **common)
    again = learning.train("mlp", X, steps=4, **common)
    assert np.array_equal(first.score(X[:3]), again.score(X[:3]))
    for data, changed in ((X + 1, {"steps": 4}), (X, {"steps": 5})):
        with pytest.raises(ps.InputError, match="another training"):
            learning.train("mlp", data, **changed, **common)
    assert learning.train("mlp", X, steps=5, overwrite=True, **common).about["training"]["steps"] == 5


def test_an_energy_of_states_of_one_number_says_so():
    class Bowl(torch.nn.Module):
        kind = "energy"

        def forward(self, x):
            return 0.5 * x**2

    x = torch.linspace(-2, 2, 50, dtype=torch.float64)[:, None]
    assert torch.allclose(losses.exact(Bowl(), x), (0.5 * x**2 - 1).mean())


def test_all_components_that_do_not_vary_are_named():
    x = X[:, [0] * 12].copy()
    x[:, 1:11] = 3.0
    with pytest.raises(ps.InputError, match=r"not vary in 10 components \(1, 2, 3, 4, 5, 6, 7, 8, \.\.\.\)"):
        Components.fit(x)


def test_parameters_beyond_the_training_are_said(tmp_path):
    y = np.linspace(-4, 4, 600)[:, np.newaxis]
    fit = learning.train("mlp", X, parameters=y, names=["y"], steps=3, loss="denoising", sigma=0.5)
    fit.save(tmp_path / "a.safetensors")
    for one in (fit, ps.load(tmp_path / "a.safetensors")):
        with pytest.warns(
            UserWarning, match="y is 8: the model was trained from -.* to .*, and guesses beyond"
        ):
            one.conditioned({"y": 8.0})
        assert one.conditioned([3.0]).conditioned([1.0]).parameter_range.shape == (2, 1)
        with pytest.raises(ps.InputError, match="parameters is .nan.: they must be finite"):
            one.conditioned([np.nan])
    old = {name: value for name, value in fit.describe().items() if name != "parameter_range"}
    write_tensors(tmp_path / "old.safetensors", dict(fit.model.state_dict()), old)
    assert ps.load(tmp_path / "old.safetensors").conditioned([8.0]).parameter_range is None
