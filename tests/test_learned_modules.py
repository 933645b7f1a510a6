"""Modules of others: parts torch does not see, chance, methods and parts called energy, scripts, closures."""

import gc
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import physscore as ps
from physscore import learning

X = np.random.default_rng(0).normal(size=(20, 2))
VARIANCE = 4.0


class _Frozen(torch.nn.Module):
    """What is left to a network of N(0, 4), kept from torch."""

    @torch.no_grad()
    def forward(self, y, sigma):
        return VARIANCE / (VARIANCE + sigma**2) * y - y / (1 + sigma**2)


class _Around(torch.nn.Module):
    """EDM's denoiser around it."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.network = _Frozen()
        self.one = torch.nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, y, sigma):
        sigma = sigma[:, None]
        return self.one * (y / (1 + sigma**2) + self.network(y, sigma) - y) / sigma**2


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-8), (torch.float32, 1e-2)])
def test_a_frozen_part_has_its_derivative(dtype, error):
    """The rest of the graph alone would give -1.6 for -0.4706."""
    module = _Around(dtype)
    found = ps.divergence(ps.from_torch(module, 2, sigma=0.5), X).value
    np.testing.assert_allclose(found, -2 / (VARIANCE + 0.25), rtol=error)
    # Where noise hides what is frozen, as it does at a level that is met first, it is none the less known.
    ps.divergence(ps.from_torch(module := _Around(dtype), 2, sigma=1e3), X)
    found = ps.divergence(ps.from_torch(module, 2, sigma=0.5), X).value
    np.testing.assert_allclose(found, -2 / (VARIANCE + 0.25), rtol=error)


def test_the_likelihood_of_a_frozen_part():
    found = ps.log_likelihood(lambda sigma: ps.from_torch(_Around(), 2, sigma=sigma), X[:3], (0.01, 100.0))
    exact = ps.Gaussian(0.0, VARIANCE + 1e-4, dim=2)
    np.testing.assert_allclose(found.log_p, -exact.energy(X[:3]), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_torch_knows_is_taken_from_it(dtype, monkeypatch):
    """Smooth networks and those with kinks: differences are not mistaken for the truth."""
    from physscore.energies.module_derivative import differences

    used = []
    monkeypatch.setattr(
        "physscore.energies.module_derivative.differences",
        lambda *args, **more: used.append(more) or differences(*args, **more),
    )
    for seed in range(20):
        torch.manual_seed(seed)
        for act in (torch.nn.SiLU, torch.nn.ReLU):
            layers = torch.nn.Linear(2, 32), act(), torch.nn.Linear(32, 32), act(), torch.nn.Linear(32, 2)
            ps.divergence(ps.from_torch(torch.nn.Sequential(*layers).to(dtype), 2), 3 * X)
    assert all("factors" in more for more in used)
    assert len(used) >= 40


def _by_autograd(x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(-(x**2).sum() / 2, x)[0]


@pytest.mark.parametrize(
    "module",
    [_by_autograd, lambda x: -x.detach(), lambda x: torch.as_tensor(-x.detach().numpy())],
    ids=["autograd", "detached", "numpy"],
)
def test_scores_without_a_graph(module):
    score = ps.from_torch(module, 2)
    np.testing.assert_array_equal(score.score(X), -X)
    np.testing.assert_allclose(ps.divergence(score, X).value, -2, rtol=1e-8)
    with torch.inference_mode():
        np.testing.assert_array_equal(score.score(X), -X)


class _LogP(torch.nn.Module):
    """As flows are: a call returns log p."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def energy(self, x):
        return ((x - self.mean) ** 2).sum(1) / 2

    def forward(self, x):
        return -self.energy(x)


def test_the_energy_counts_where_a_call_returns_log_p():
    energy = ps.from_torch(_LogP(), 2)
    for _ in range(2):  # met for the first time, and known
        np.testing.assert_allclose(energy.score(X), np.array([1.0, 2.0]) - X)
    np.testing.assert_allclose(energy.energy_and_score(X)[1], np.array([1.0, 2.0]) - X)
    np.testing.assert_allclose(energy.directional(X, np.ones_like(X))[1], -1)
    assert ps.check_score(energy, X)


def test_a_part_called_energy_is_no_method():
    module = torch.nn.Sequential()
    module.add_module("energy", torch.nn.Linear(2, 2).double())
    assert not isinstance(ps.from_torch(module, 2), ps.Energy)
    module = torch.nn.Linear(2, 2).double()
    module.energy = None
    ps.from_torch(module, 2).score(X)


class _Functional(torch.nn.Module):
    def forward(self, x):
        return -torch.nn.functional.dropout(x, 0.5)


class _Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = torch.nn.LSTM(1, 8, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.cells(x[..., None])[0][..., 0]


@pytest.mark.parametrize(
    "module",
    [
        _Functional(),
        _Recurrent().train(),
        torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.RReLU(), torch.nn.Linear(64, 2)),
    ],
    ids=["functional", "recurrent", "activation"],
)
def test_chance_is_refused(module):
    """Two calls of each are the same by chance less than once in 1e5."""
    with pytest.raises(ps.InputError, match="something else for the same states each time"):
        ps.from_torch(module, 2, kind="score")


def test_chance_that_begins_later_is_refused():
    plain = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).eval()
    for module, words in ((plain, "Dropout in training mode"), (_Recurrent().eval(), "each time")):
        score = ps.from_torch(module, 2)
        score.score(X)
        module.train()
        for call in (lambda score=score: score.score(X), lambda score=score: score.directional(X, X)):
            with pytest.raises(ps.InputError, match=words):
                call()
        module.eval()
        score.score(X)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripts():
    class Noisy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.width = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x, sigma):
            return -x / (self.width + sigma[:, None] ** 2)

    states, sigma = torch.as_tensor(X), torch.ones(20, dtype=torch.float64)
    traced = torch.jit.trace(Noisy(), (states, sigma))
    np.testing.assert_allclose(ps.from_torch(traced, 2, sigma=1.0).score(X), -X / 2)
    with pytest.raises(ps.InputError, match="the module needs a noise level"):
        ps.from_torch(traced, 2)
    linear = torch.nn.Linear(2, 2).double()
    found = ps.from_torch(torch.jit.script(linear), 2).score(X)
    np.testing.assert_allclose(found, ps.from_torch(linear, 2).score(X))


@dataclass
class _Unhashable:
    width: float

    def __call__(self, x):
        return (x**2).sum(1) / (2 * self.width)


def test_callables_without_a_hash():
    energy = ps.from_torch(_Unhashable(2.0), 2)
    np.testing.assert_allclose(energy.score(X), -X / 2)


def test_closures_are_forgotten():
    class Width:
        pass

    width = Width()
    alive = weakref.ref(width)
    ps.from_torch(lambda x, width=width: -x, 2).directional(X, X)
    del width
    gc.collect()
    assert alive() is None


def test_training_where_a_call_returns_log_p():
    """The loss is that of the score, of whatever sign the call is."""
    x = torch.as_tensor(X)
    found = learning.losses.exact(_LogP(), x)
    expected = 0.5 * ((x - torch.tensor([1.0, 2.0])) ** 2).sum(1).mean() - 2
    assert abs(float(found.detach()) - float(expected)) < 1e-10


def test_other_weights_are_those_of_the_score():
    """What is fine-tuned, or loaded into the model, is the energy too."""
    x = np.random.default_rng(0).normal(size=(200, 2))
    fit, other = (learning.train("mlp", x + i, kind="energy", steps=5, seed=i) for i in range(2))
    fit.normalisation, fit.level = other.normalisation, other.level  # of other held-out states
    before = fit.energy(X), fit.score(X), fit.directional(X, X)[1]
    fit.model.load_state_dict(other.model.state_dict())
    expected = other.energy(X), other.score(X), other.directional(X, X)[1]
    for old, new, right in zip(before, (fit.energy(X), fit.score(X), fit.directional(X, X)[1]), expected,
                               strict=True):  # fmt: skip
        np.testing.assert_array_equal(new, right)
        assert np.abs(old - right).max() > 1e-3
    for weight in fit.model.parameters():
        weight.data.mul_(1.1)  # which counts no versions
    assert np.abs(fit.energy(X) - expected[0]).max() > 1e-3


class _Bowl(torch.nn.Module):
    def __init__(self, constant=0.0, dtype=torch.float32):
        super().__init__()
        self.width, self.constant = torch.nn.Parameter(torch.ones(1, dtype=dtype)), constant

    def forward(self, x):
        return (self.width * x**2).sum(1) / 2 + self.constant


@pytest.mark.parametrize(
    ("dtype", "constant", "words"),
    [
        (torch.bfloat16, 300.0, "energies are bfloat16 and above 1e1"),
        (torch.float16, 300.0, "energies are float16 and above 1e2"),
        (torch.float32, 1e7, "energies are float32 and above 8e5"),
    ],
)
def test_rounded_energies_are_said_to_be(dtype, constant, words):
    """In bfloat16 the variance of N(0, 1) by MALA was 0.93 +- 0.005, without a word."""
    for call in ("energy", "energy_and_score"):
        with pytest.warns(UserWarning, match=words):
            getattr(ps.from_torch(_Bowl(constant, dtype), 2), call)(X)
        getattr(ps.from_torch(_Bowl(0.0, dtype), 2), call)(X)
        getattr(ps.from_torch(_Bowl(constant, torch.float64), 2), call)(X)


def test_trial_steps_far_out_are_not_warned_of():
    """They were in 10 of 10 runs; a warning is an error in the tests."""
    ps.sample(ps.from_torch(_Bowl(), 2), ps.HMC(), chains=20, steps=20, seed=0)


def _three(x, sigma, class_labels):
    return x


def _labelled(x, y):
    return x + y[:, None]


def _keyword(x, sigma, *, labels):
    return x


class _Steps(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(10, 2)

    def forward(self, x, t):
        return x + self.table(t)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (_three, "module needs class_labels beside the states"),
        (_keyword, "module needs labels beside the states"),
        (_labelled, "the module's second argument is 'y', which is no noise level"),
        (_Steps(), "module looks up a whole number"),
        (lambda x, sigma: (x, x), "module returned a tuple: it must return a tensor"),
    ],
    ids=["third argument", "keyword", "label", "steps", "tuple"],
)
def test_modules_of_other_conventions_are_refused(module, message):
    with pytest.raises(ps.InputError, match=message):
        ps.from_torch(module, 2, sigma=0.5).score(X)


class Denoiser(torch.nn.Module):
    """EDM's, of N(0, 4)."""

    def forward(self, x, sigma, class_labels=None):
        return 4 / (4 + sigma.reshape(-1, 1) ** 2) * x


def test_a_denoiser_is_a_score():
    x = np.random.default_rng(1).normal(size=(50, 2)) * 3
    mixture = ps.GaussianMixture([0.2, 0.5, 0.3], [[-3.0, 0], [1.5, 2], [2, -2.5]], [0.3, 0.6, 1.0])

    def clean(x, sigma):
        x += sigma**2 * ps.smoothed(mixture, sigma).score(x)
        return x

    of_functions = ps.score_at_from_denoiser(clean, shape=2)
    of_modules = ps.score_at_from_denoiser(Denoiser(), shape=2)
    for sigma in (0.05, 1.0, 30.0):
        expected = ps.smoothed(mixture, sigma).score(x)
        np.testing.assert_allclose(of_functions(sigma).score(x), expected, rtol=1e-6, atol=1e-8)
        score, product = of_modules(sigma).directional(x, x)
        np.testing.assert_allclose(of_modules(sigma).score(x), -x / (4 + sigma**2), rtol=1e-6)
        np.testing.assert_allclose(score, -x / (4 + sigma**2), rtol=1e-6)
        np.testing.assert_allclose(product, -x / (4 + sigma**2), rtol=1e-6)
    with pytest.raises(ps.InputError, match="sigma is 0"):
        of_functions(0.0)
    with pytest.raises(ps.InputError, match=r"denoiser\(x, 1\) returned \(1, 2\)"):
        ps.score_at_from_denoiser(lambda x, sigma: x[:1], shape=2)(1.0).score(x)
    with pytest.raises(ps.InputError, match="denoiser is 3"):
        ps.score_at_from_denoiser(3, shape=2)
