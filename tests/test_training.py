"""Training: what comes out is right, survives kills bit for bit, and says what is wrong with its input."""

import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch

import physscore as ps
from physscore import learning
from physscore.learning import muon
from physscore.learning.level import known_from
from physscore.learning.task import Task

MIXTURE = ps.GaussianMixture([1, 3], [[-2.0, 0.0], [2.0, 1.0]], 0.4)
X = MIXTURE.sample(6000, seed=1)
GRID = ps.Grid((16, 16), 16.0)
FIELD = ps.GaussianRandomField(GRID, ps.spectra.PowerLaw(index=-1.5, amplitude=1.0))


@pytest.fixture(scope="module")
def fit():
    return learning.train("mlp", X, steps=400, batch=128, seed=0)


def in_coordinates(fit):
    """MIXTURE as the network sees it: each component has variance 1."""
    means = fit.normalisation.forward([[-2.0, 0.0], [2.0, 1.0]])
    return ps.GaussianMixture([1, 3], means, [np.diag(0.4 / fit.normalisation.std**2)] * 2)


def relative_error(score, truth, x):
    exact = truth.score(x)
    return np.sqrt(((score.score(x) - exact) ** 2).sum() / (exact**2).sum())


def test_a_mixture_is_learned(fit):
    """The score at several noise levels, draws, and log-likelihoods, all of a short training."""
    for sigma in (0.3, 1.0, 3.0):
        truth = ps.smoothed(in_coordinates(fit), sigma)
        assert relative_error(fit.at(sigma), truth, truth.sample(2000, seed=5)) < 0.2
    draws = fit.sample(4000, seed=2)
    assert draws.shape == (4000, 2)
    assert abs((draws[:, 0] > 0).mean() - 0.75) < 0.06
    assert np.abs(draws.std(axis=0) - X.std(axis=0)).max() < 0.1
    inside = X[:40]
    assert abs((fit.log_likelihood(inside).log_p + MIXTURE.energy(inside)).mean()) < 0.15


def test_a_learned_energy_of_a_gaussian_is_one_in_its_tails():
    """There is nothing to learn: what confined it beside the Gaussian part was wrong beyond 3 deviations.

    log p was off by up to 48, with a scatter of 15, now by 0.15; the score times the noise by 2.3, now 0.03.
    """
    x, t = np.random.default_rng(0).normal(size=(4000, 1)), np.linspace(-3.7, 3.7, 75)[:, None]
    fit = learning.train("mlp", x, kind="energy", steps=60)
    assert np.abs(fit.log_likelihood(t).log_p + t[:, 0] ** 2 / 2 + np.log(2 * np.pi) / 2).max() < 0.6
    for sigma in (0.3, 1.0, 3.0, 10.0):
        y = fit.normalisation.forward(t) * np.hypot(1, sigma)
        assert np.abs(sigma * (fit.at(sigma).score(y) + y / (1 + sigma**2))).max() < 0.2, sigma


def test_an_energy_without_levels_is_confined():
    for levels, stiffness in ((False, 1.0), (True, 0.0)):
        network = learning.MLP(1, (4,), kind="energy", levels=levels)
        assert float(network._stiffness.detach()) == pytest.approx(stiffness, abs=0.01)


def test_a_learned_energy_is_a_prior():
    prior = learning.train("mlp", np.random.default_rng(0).normal(size=(5000, 2)), kind="energy", steps=300)
    assert prior.sigma_min <= prior.level < 0.5
    axis = np.linspace(-8, 8, 101)  # sums over points so near are integrals of what is so smooth
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    likelihood = ps.GaussianNoise([0.5, 0.2], 1.0)
    energy = prior.energy(x)
    before, after = (np.exp(energy.min() - u) for u in (energy, (prior + likelihood).energy(x)))
    exact = -np.log(4 * np.pi) - 0.29 / 4
    assert abs(np.log(after.sum() / before.sum()) - exact) < 0.15
    assert np.abs(after @ x / after.sum() - [0.25, 0.1]).max() < 0.1
    assert ps.check_score(prior, x[::251]).passed


class _Plain(torch.nn.Module):
    """A score, which ``InPlace`` is too, that spoils what it was given."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(3, 2)

    def forward(self, x, sigma):
        return self.inner(torch.cat([x, sigma.log()[:, None]], 1)) / sigma[:, None]


class _InPlace(_Plain):
    def forward(self, x, sigma):
        found = super().forward(x, sigma)
        x.mul_(0.0)
        return found


@pytest.mark.parametrize("settings", [{}, {"loss": "denoising", "sigma": 0.3}])
def test_a_module_that_changes_its_input_learns_the_same(settings):
    scores = []
    for kind in (_Plain, _InPlace):
        torch.manual_seed(0)
        fit = learning.train(kind(), X, steps=20, seed=1, **settings)
        scores.append(fit.score(X[:20]))
    np.testing.assert_array_equal(*scores)


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return -x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return -slope


class OwnScore(torch.nn.Module):
    def __init__(self, minus):
        super().__init__()
        self.scale, self.minus = torch.nn.Parameter(torch.ones(())), minus

    def forward(self, x, sigma):
        return self.scale * self.minus(x) / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


@pytest.mark.parametrize("shape", [(2,), (8, 8)])
def test_own_modules_are_used_where_they_are_known(shape):
    """Of one that torch does not differentiate twice differences say it; of fields nothing does."""
    data = np.random.default_rng(0).normal(size=(100, *shape))
    fit, same = (
        learning.train(OwnScore(minus), data, steps=2, batch=8)
        for minus in (OnceDifferentiable.apply, torch.neg)
    )
    assert fit.level == same.level
    assert (fit.level == fit.sigma_min) == (len(shape) > 1)


def test_from_which_noise_a_score_is_known():
    """Of N(0, 1) with an error in each component that grows as 1 / sigma."""

    class Learned:
        def __init__(self, sigma, error):
            self.variance, self.size = 1 + sigma**2, error / sigma

        def directional(self, x, v):
            score = -x / self.variance + self.size * np.cos(40 * x)
            return score, v * (-1 / self.variance - 40 * self.size * np.sin(40 * x))

    y = np.random.default_rng(0).normal(size=(2000, 3))
    assert known_from(lambda sigma: Learned(sigma, 0.0), y, (0.01, 10.0), 1) == 0.01
    level = known_from(lambda sigma: Learned(sigma, 0.1), y, (0.01, 10.0), 1)
    assert 0.1 < level < 0.5  # where the error has 0.1 of the score's square: (0.1 / sigma)^2 / 2
    assert known_from(lambda sigma: Learned(sigma, 1e9), y, (0.01, 10.0), 1) == 10.0


def test_draws_depend_on_seed_and_number_only(fit):
    whole = fit.sample(6, seed=4)
    assert np.allclose(whole[:2], fit.sample(2, seed=4), atol=1e-4)  # torch rounds by batches
    assert np.allclose(whole[3:], fit.sample(3, seed=4, first=3), atol=1e-4)
    assert not np.allclose(whole, fit.sample(6, seed=5))


def test_the_file_describes_itself(fit, tmp_path):
    path = tmp_path / "score.safetensors"
    ps.save(path, fit)
    again = ps.load(path)
    assert isinstance(again, learning.Fitted)
    assert np.array_equal(again.score(X[:20]), fit.score(X[:20]))
    assert np.array_equal(again.sample(3, seed=1), fit.sample(3, seed=1))
    assert again.about["settings"]["steps"] == 400
    assert again.about["training"]["validation_loss"] < again.about["training"]["history"][0]["loss"]
    with pytest.raises(ps.InputError, match="exists"):
        fit.save(path)


def test_the_score_is_that_of_physical_states():
    """Of an energy: the Jacobian of the normalisation is in energy, score and log-likelihood."""
    x = np.exp(0.8 * np.random.default_rng(0).normal(size=(4000, 1)))
    fit = learning.train("mlp", x, kind="energy", transform="gaussianise", steps=60, seed=1)
    assert isinstance(fit, learning.FittedEnergy)
    assert isinstance(fit, ps.Energy)
    fit.model.double()
    assert ps.check_score(fit, np.array([[0.5], [1.0], [2.0], [4.0]]), tolerance=1e-3)
    u = np.linspace(-2.5, 2.5, 51)
    p = np.exp(fit.log_likelihood(np.exp(0.8 * u)[:, None], divergence="exact").log_p)
    assert np.trapezoid(p, np.exp(0.8 * u)) == pytest.approx(0.9876, abs=0.02)  # 2.5 standard deviations


def test_a_gaussian_field_needs_no_training():
    """Its analytic score is right from the start, and a little training does not spoil it."""
    x = FIELD.sample(1000, seed=1).astype(np.float32)
    network = learning.UNet(2, channels=(8, 16), blocks=1, inputs=2)
    fit = learning.train(network, x, steps=15, batch=16, seed=0, transform="identity", learning_rate=1e-4)
    scale = fit.normalisation.std
    for sigma in (0.3, 3.0):
        truth = ps.smoothed(FIELD, sigma * scale)
        y = truth.sample(50, seed=3)
        found = fit.at(sigma).score(fit.normalisation.forward(y)) / scale
        assert np.sqrt(((found - truth.score(y)) ** 2).sum() / (truth.score(y) ** 2).sum()) < 0.05
    draws = fit.sample(200, seed=1, steps=20)
    ratio = ps.power_spectrum(draws, GRID).power.mean(axis=0) / ps.power_spectrum(x, GRID).power.mean(axis=0)
    assert np.abs(ratio - 1).max() < 0.25


def test_coarse_first():
    x = FIELD.sample(200, seed=1).astype(np.float32)
    network = learning.UNet(2, channels=(4, 8), blocks=1, inputs=2)
    fit = learning.train(network, x, steps=9, batch=8, coarse=(2,), seed=0)
    assert fit.score(x[:2]).shape == (2, 16, 16)
    with pytest.raises(ps.InputError, match="coarse is"):
        learning.train(network, x, steps=2, coarse=(2, 4))


def test_conditional_on_parameters():
    """The learned mean of the data follows the parameter."""
    rng = np.random.default_rng(0)
    centre = rng.uniform(-3, 3, size=(6000, 1))
    x = centre + 0.5 * rng.normal(size=(6000, 2))
    fit = learning.train("mlp", x, parameters=centre, names=["centre"], steps=150, batch=128, seed=0)
    for value in (-2.0, 1.5):
        draws = fit.conditioned({"centre": value}).sample(500, seed=1)
        assert np.abs(draws.mean(axis=0) - value).max() < 0.2
        assert np.abs(draws.std(axis=0) - 0.5).max() < 0.15
    with pytest.raises(ps.InputError, match="conditional on centre"):
        fit.score(x[:2])


@pytest.mark.parametrize("loss", ["denoising", "sliced", "exact"])
@pytest.mark.parametrize("kind", ["score", "energy"])
def test_other_losses(loss, kind):
    sigma = 0.3 if loss == "denoising" else None
    fit = learning.train("mlp", X, loss=loss, sigma=sigma, kind=kind, steps=150, batch=128, seed=0)
    truth = ps.smoothed(in_coordinates(fit), 0.3) if sigma else in_coordinates(fit)
    assert relative_error(fit.at(), truth, truth.sample(2000, seed=3)) < 0.25
    with pytest.raises(ps.InputError, match="not trained through noise levels"):
        fit.sample(3)


def test_a_module_of_the_user_s(tmp_path):
    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2))

        def forward(self, y, sigma):
            s = self.inner(torch.cat([y / (1 + sigma[:, None] ** 2) ** 0.5, torch.log(sigma)[:, None]], 1))
            return s / sigma[:, None]

    fit = learning.train(Mine(), X, steps=300, seed=0, learning_rate=1e-2)
    draws = fit.sample(500, seed=1)
    assert np.abs(draws.mean(axis=0) - X.mean(axis=0)).max() < 0.5
    path = tmp_path / "mine.safetensors"
    fit.save(path)
    with pytest.raises(ps.InputError, match="module of yours"):
        ps.load(path)
    assert np.array_equal(ps.load(path, module=Mine()).score(X[:3]), fit.score(X[:3]))


def test_infinite_loss_keeps_the_last_good_weights():
    class Bomb(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = learning.MLP(2, (16,), levels=True), 0

        def forward(self, y, sigma):
            self.calls += 1
            return self.inner(y, sigma) * (float("nan") if self.training and self.calls > 60 else 1.0)

    with pytest.warns(UserWarning, match="not finite at step"):
        fit = learning.train(Bomb(), X, steps=200, batch=128, seed=0)
    assert fit.about["training"]["ended"] == "the loss was not finite"
    assert np.isfinite(fit.score(X[:10])).all()


def test_slow_validation_leaves_the_time_to_training(monkeypatch):
    """Twenty validations of 0.1 s would take two seconds of two."""
    validate = Task.validate

    def slow(self, weights):
        time.sleep(0.1)
        return validate(self, weights)

    monkeypatch.setattr(Task, "validate", slow)
    x = np.random.default_rng(0).normal(size=(200, 2))
    fit = learning.train("mlp", x, max_time=2.0, batch=32)
    assert 2 <= len(fit.about["training"]["history"]) <= 4


def test_early_stop():
    fit = learning.train("mlp", X[:60], steps=400, batch=32, patience=2, seed=0)
    assert fit.about["training"]["ended"] == "validation got no better"
    assert fit.about["training"]["steps"] < 400


JOB = """
import os, signal, sys, time, torch, physscore as ps
torch.set_num_threads(1)
import torch._dynamo  # which optimisers import
from physscore.learning import train
sys.modules["physscore.learning.training"]._SAVE_SECONDS = 0.05
path = sys.argv[1] + ".part"
for _ in range(2):  # at first, and as it goes on
    saved = os.path.exists(path) and os.stat(path).st_mtime_ns
    job = os.fork()  # in place of another start of Python
    if job == 0:
        x = ps.GaussianMixture([1, 3], [[-2.0, 0.0], [2.0, 1.0]], 0.4).sample(2000, seed=1)
        train("mlp", x, steps=100, batch=32, seed=0, output=sys.argv[1], resume=True)
        os._exit(0)
    while (os.path.exists(path) and os.stat(path).st_mtime_ns) == saved:
        assert os.waitpid(job, os.WNOHANG)[0] == 0
        time.sleep(0.01)
    os.kill(job, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(job, 0)[1]) == signal.SIGKILL
"""


def test_a_killed_training_goes_on_bit_for_bit(tmp_path):
    x = ps.GaussianMixture([1, 3], [[-2.0, 0.0], [2.0, 1.0]], 0.4).sample(2000, seed=1)

    def trained(name):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in the job: sums of several come out differently
        fit = learning.train("mlp", x, steps=100, batch=32, seed=0, output=tmp_path / name, resume=True)
        torch.set_num_threads(threads)
        return fit

    undisturbed = trained("a.safetensors")
    subprocess.run([sys.executable, "-c", JOB, tmp_path / "b.safetensors"], check=True)
    part = tmp_path / "b.safetensors.part"
    assert part.exists()
    last = trained("b.safetensors")
    assert not part.exists()
    for fit in (last, *(ps.load(tmp_path / f"{name}.safetensors") for name in "ab")):
        for key, value in undisturbed.model.state_dict().items():
            assert torch.equal(value, fit.model.state_dict()[key])


def test_a_file_of_another_training_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    learning.train("mlp", MIXTURE.sample(2000, seed=1), steps=5, batch=64, output=path)
    os.rename(path, tmp_path / "a.safetensors.part")
    with pytest.raises(ps.InputError, match="another training"):
        learning.train("mlp", X, steps=5, output=path, resume=True)


def hostile(path, fit, change):
    """Write a model file with a changed description."""
    from physscore.learning.files import write_tensors

    about = fit.describe()
    tensors = dict(fit.model.state_dict())
    change(about, tensors)
    write_tensors(path, tensors, about)
    return path


def poison(about, tensors):
    name = next(name for name, value in tensors.items() if value.numel())
    tensors[name] = tensors[name] * float("nan")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, t: a["architecture"].update(network="os.system"), "names the network 'os.system'"),
        (lambda a, t: a["architecture"]["config"].update(hidden=[10**8]), "weights do not fit"),
        (lambda a, t: a["architecture"]["config"].update(hidden=[10**12]), "damaged"),
        (lambda a, t: a["architecture"]["config"].update(evil=1), "damaged"),
        (lambda a, t: a.pop("shape"), "damaged"),
        (lambda a, t: a.update(shape=[10**6]), "damaged|weights do not fit"),
        (lambda a, t: a["normalisation"]["components"].pop(), "a normalisation of 1 components"),
        (lambda a, t: a["normalisation"]["components"][1].update(std=-1.0), "std positive"),
        (poison, "not finite"),
    ],
)
def test_hostile_files_are_refused(fit, change, words, tmp_path):
    path = hostile(tmp_path / "bad.safetensors", fit, change)
    with pytest.raises(ps.InputError, match=words):
        ps.load(path).score(X[:2])


def test_corrupted_and_foreign_files_are_refused(fit, tmp_path):
    from safetensors.torch import save_file

    whole = tmp_path / "whole.safetensors"
    fit.save(whole)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.ones(2)}, foreign)
    for path, words in ((cut, "truncated"), (foreign, "does not describe itself"),
                        (tmp_path / "none.safetensors", "does not exist")):  # fmt: skip
        with pytest.raises(ps.InputError, match=words):
            ps.load(path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "cnn"}, "model is 'cnn'"),
        ({"loss": "guess"}, "loss is 'guess'"),
        ({"model": learning.MLP(2)}, "takes no noise level"),
        ({"loss": "denoising"}, "sigma None"),
        ({"sigma": 0.3}, "sigma 0.3"),
        ({"steps": 0}, "steps is 0"),
        ({"max_time": -1.0}, "max_time is -1"),
        ({"analytic": True}, "analytic is True"),
        ({"coarse": (2,)}, "coarse is"),
        ({"dataset": "maps"}, "dataset is 'maps'"),
        ({"names": ["a"]}, "names is"),
        ({"parameters": np.ones(3)}, "parameters has shape"),
        ({"validation": np.ones((5, 3))}, "validation has states"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"data": np.ones((5, 2))}, "data are all 1"),
        ({"data": np.full((5, 2), np.nan)}, "not finite"),
        ({"data": np.ones(5)}, "data has shape"),
    ],
)
def test_bad_input(settings, words):
    given = {"model": "mlp", "data": X[:100], "steps": 2} | settings
    with pytest.raises(ps.InputError, match=words):
        learning.train(given.pop("model"), given.pop("data"), **given)


def test_the_dataset_of_a_file(tmp_path):
    path = tmp_path / "maps.h5"
    with h5py.File(path, "w") as file:
        file["train/maps"] = FIELD.sample(40, seed=1).astype(np.float16)
        file["held/maps"] = FIELD.sample(8, seed=2).astype(np.float16)
        file.attrs["BoxSize"] = 16.0
    network = learning.UNet(2, channels=(4, 8), blocks=1, inputs=2)
    fit = learning.train(network, path, "train/maps", validation="held/maps", steps=3, batch=8)
    assert fit.grid == GRID
    assert fit.about["data"]["dataset"] == "train/maps"
    with pytest.raises(ps.InputError, match="train/maps"):
        learning.train(network, path, "maps", steps=3)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (20, 20)])
def test_muon_moves_by_nearly_orthogonal_matrices(shape):
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(shape, generator=generator)
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    for dtype, error in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        values = left.T @ muon.orthogonal(gradient, dtype).float() @ right.T
        assert (values - torch.diag(values.diagonal())).abs().max() < error
        assert 0.6 < values.diagonal().min() < values.diagonal().max() < 1.3


@pytest.mark.parametrize("native", [False, True])
def test_muon_is_pytorchs(native, monkeypatch):
    monkeypatch.setattr(muon, "native_bfloat16", lambda: native)
    ours, theirs = (torch.nn.Parameter(torch.eye(6, 4)) for _ in range(2))
    optimisers = muon.Muon([ours], 0.02, 0.1), torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        ours.grad = torch.randn(6, 4, generator=generator)
        theirs.grad = ours.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
        torch.testing.assert_close(ours, theirs, atol=0 if native else 2e-3, rtol=0)


def test_bfloat16_needs_a_processor_that_has_it(monkeypatch):
    fields = np.random.default_rng(1).normal(size=(40, 8, 8)).astype("f4")

    def weights(native, precision):
        monkeypatch.setattr("physscore.learning.task.native_bfloat16", lambda: native)
        network = learning.UNet(2, channels=(8, 8), blocks=1, inputs=2)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for weight in network.parameters():
                torch.nn.init.normal_(weight, std=0.1)
        fit = learning.train(network, fields, steps=3, batch=8, precision=precision)
        return torch.cat([w.flatten() for w in fit.model.parameters()])

    expected = weights(True, "float32")
    near = weights(True, "bfloat16")
    assert 0 < (near - expected).abs().max() < 0.1
    with pytest.warns(UserWarning, match="this processor does not have: training in float32"):
        assert torch.equal(weights(False, "bfloat16"), expected)
