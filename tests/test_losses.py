"""Losses of score matching against closed forms, and against each other in expectation."""

import math

import numpy as np
import pytest
import torch

import physscore as ps
from physscore import learning
from physscore.energies.torch_modules import score_of
from physscore.learning import losses

MIXTURE = ps.GaussianMixture([1, 2], [[-1.0, 0.5], [1.5, 0.0]], [0.5, 1.0])
N_SIGMA = 4.5  # of about 60 comparisons in this file: one false alarm in 2500 runs


class Linear(torch.nn.Module):
    """s = -A x + b, of a matrix that need not be symmetric."""

    def __init__(self, dim, seed=0):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.matrix = torch.nn.Parameter(torch.tensor(np.eye(dim) + 0.3 * rng.normal(size=(dim, dim))))
        self.bias = torch.nn.Parameter(torch.tensor(rng.normal(size=dim)))

    def forward(self, x):
        return -x @ self.matrix.T + self.bias


def data(n, dim=2, seed=1):
    return torch.tensor(ps.Gaussian(np.arange(dim) / dim, np.linspace(0.5, 2, dim)).sample(n, seed=seed))


def expected(values, exact):
    values = np.array([float(v.detach()) for v in values])
    return (values.mean() - exact) / (values.std(ddof=1) / math.sqrt(len(values)))


def closed_form(model, dim, sigma=0.0):
    """Mean of 1/2 |s|^2 + div s of a linear score over the Gaussian of ``data`` with noise."""
    a, b = model.matrix.detach().numpy(), model.bias.detach().numpy()
    mean, variance = np.arange(dim) / dim, np.linspace(0.5, 2, dim) + sigma**2
    centre = b - a @ mean
    return 0.5 * (centre @ centre + np.trace(a @ np.diag(variance) @ a.T)) - np.trace(a)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_all_losses_agree_with_the_closed_form(dim):
    model = Linear(dim)
    batches = [data(400, dim, seed) for seed in range(100)]
    generator = torch.Generator().manual_seed(3)
    exact = closed_form(model, dim)
    found = {
        "exact": [losses.exact(model, x) for x in batches],
        "sliced": [losses.sliced(model, x, 2, generator=generator) for x in batches],
        "rademacher": [
            losses.sliced(model, x, 3, distribution="rademacher", generator=generator) for x in batches
        ],
        "reduced": [losses.sliced(model, x, 2, variance_reduced=True, generator=generator) for x in batches],
    }
    for name, values in found.items():
        assert abs(expected(values, exact)) < N_SIGMA, name
    sigma = 0.7
    noisy = closed_form(model, dim, sigma) + 0.5 * dim / sigma**2  # the constant of Vincent's identity
    for antithetic in (False, True):
        values = [
            losses.denoising(model, x, sigma, antithetic=antithetic, generator=generator) for x in batches
        ]
        assert abs(expected(values, noisy)) < N_SIGMA
    levels = [0.5, 1.0, 3.0]
    mean = np.mean([s**2 * (closed_form(model, dim, s) + 0.5 * dim / s**2) for s in levels])
    values = [losses.denoising_levels(model, x, levels, generator=generator) for x in batches]
    assert abs(expected(values, mean)) < N_SIGMA


def test_edm_weights():
    """At one noise level the EDM loss is its weight times the denoising loss, with the same noise."""
    model, x = Linear(2), data(100)
    generator = torch.Generator().manual_seed(1)
    torch.randn(100, generator=generator, dtype=torch.float64)  # what the levels take
    plain = losses.denoising(model, x, 0.5, generator=generator)
    again = torch.Generator().manual_seed(1)
    edm = losses.denoising_edm(model, x, 2.0, math.log(0.5), 1e-12, generator=again)
    assert edm.item() == pytest.approx(plain.item() * 0.25 * (1 + 0.0625), rel=1e-6)


@pytest.mark.parametrize("loss", ["exact", "sliced", "reduced", "denoising", "levels"])
@pytest.mark.parametrize("dim", [1, 3])
def test_a_linear_model_learns_the_exact_score(loss, dim):
    """Each loss is quadratic in a linear model: one Newton step leads to its minimum, the score itself."""
    sigma = 0.5
    x = data(200_000, dim)
    generator = torch.Generator().manual_seed(5)
    functions = {
        "exact": lambda m: losses.exact(m, x),
        "sliced": lambda m: losses.sliced(m, x, 4, generator=torch.Generator().manual_seed(5)),
        "reduced": lambda m: losses.sliced(m, x, 4, True, generator=torch.Generator().manual_seed(5)),
        "denoising": lambda m: losses.denoising(m, x, sigma, antithetic=True,
                                                generator=torch.Generator().manual_seed(5)),
        "levels": lambda m: losses.denoising_levels(m, x, [sigma],
                                                    generator=torch.Generator().manual_seed(5)),
    }  # fmt: skip
    del generator
    model = Linear(dim)
    weights = [model.bias, model.matrix]

    def value(flat):
        b, a = flat[:dim], flat[dim:].reshape(dim, dim)
        return functions[loss](lambda y: -y @ a.T + b)

    start = torch.cat([w.detach().flatten() for w in weights]).requires_grad_()
    gradient = torch.autograd.functional.jacobian(value, start)
    hessian = torch.autograd.functional.hessian(value, start)
    best = start.detach() - torch.linalg.solve(hessian, gradient)
    variance = np.linspace(0.5, 2, dim) + (sigma**2 if loss in ("denoising", "levels") else 0.0)
    assert np.abs(best[dim:].reshape(dim, dim).numpy() - np.diag(1 / variance)).max() < 0.06
    assert np.abs(best[:dim].numpy() - np.arange(dim) / dim / variance).max() < 0.06


@pytest.fixture(scope="module")
def slopes():
    """Gradients of the denoising loss over a factor of the true score, at 1, by the states pooled."""
    sigma = 0.6
    truth = ps.smoothed(MIXTURE, sigma)
    found = {}
    for pool in (1, 2, 3, 200):
        found[pool] = []
        for seed in range(100):
            x = torch.tensor(MIXTURE.sample(200, seed=seed))
            factor = torch.ones((), dtype=torch.float64, requires_grad=True)
            loss = losses.denoising(
                lambda y, f=factor: f * torch.tensor(truth.score(y.numpy())), x, sigma, pool=pool,
                generator=torch.Generator().manual_seed(seed),
            )  # fmt: skip
            found[pool].append(torch.autograd.grad(loss, factor)[0])
    return found


def test_denoising_has_its_minimum_at_the_smoothed_score(slopes):
    for pool, values in slopes.items():  # where few are pooled, leaving a state's own out would show most
        assert abs(expected(values, 0.0)) < N_SIGMA, pool


def test_pooled_noise_scatters_less():
    """What the loss of the true score is, is the scatter of its target."""
    truth, x = ps.smoothed(MIXTURE, 0.6), torch.tensor(MIXTURE.sample(500, seed=1))
    plain, pooled = (
        float(
            losses.denoising(
                lambda y: torch.tensor(truth.score(y.numpy())), x, 0.6, pool=pool,
                generator=torch.Generator().manual_seed(1),
            )
        )
        for pool in (1, 500)
    )  # fmt: skip
    assert pooled < 0.1 * plain


def test_pooled_noise_of_far_states_is_their_own():
    x = 1000.0 * torch.arange(6.0)[:, None] + torch.zeros(6, 3)
    sigma = torch.linspace(0.5, 2.0, 6)
    noise = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    found, squares = losses.pooled_noise(x + sigma[:, None] * noise, x, sigma, 4)
    torch.testing.assert_close(found, noise, rtol=0, atol=1e-3)
    torch.testing.assert_close(squares, (noise**2).sum(1), rtol=1e-3, atol=1e-3)


def test_pooled_squares_are_their_mean():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.3], [0.9]])
    sigma = torch.tensor([0.5, 0.8])
    squares = ((y - x.T) / sigma[:, None]) ** 2
    chances = torch.softmax(-0.5 * squares, 1)
    found = losses.pooled_noise(y, x, sigma, 2)[1]
    torch.testing.assert_close(found, (chances * squares).sum(1))


@pytest.mark.parametrize("kind", ["score", "energy"])
@pytest.mark.parametrize("activation", ["silu", "softplus", "tanh"])
def test_the_perceptron_s_own_derivatives(kind, activation):
    """Divergence, slices and the energy's gradient against automatic differentiation, weights included."""
    torch.manual_seed(0)
    model = learning.MLP(3, (8, 8, 8), kind=kind, activation=activation).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    foreign = model.energy if kind == "energy" else (lambda y: model(y))
    assert torch.allclose(model(x), score_of(foreign, x), atol=1e-12)
    for loss in (
        lambda m: losses.exact(m, x),
        lambda m: losses.sliced(m, x, 3, generator=torch.Generator().manual_seed(1)),
        lambda m: losses.sliced(m, x, 3, True, generator=torch.Generator().manual_seed(1)),
    ):
        ours, theirs = loss(model), loss(foreign)
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-12)
        both = [
            torch.autograd.grad(v, model.parameters(), allow_unused=True, retain_graph=True)
            for v in (ours, theirs)
        ]
        for a, b in zip(*both, strict=True):
            if a is None or b is None:  # an offset of an energy, which no score depends on
                assert b is None or not b.abs().max() > 1e-12
                assert a is None or not a.abs().max() > 1e-12
                continue
            assert torch.allclose(a, b, atol=1e-11)


def test_a_noise_level_goes_to_models_that_take_one():
    from physscore.energies.torch_modules import takes_sigma

    assert takes_sigma(lambda x, sigma: x)
    assert takes_sigma(lambda x, sigma=None: x)
    assert takes_sigma(learning.MLP(2))
    assert not takes_sigma(lambda x: x)
    assert not takes_sigma(lambda x, factor=2.0: x)
    assert not takes_sigma(torch.nn.Linear(2, 2))


def test_the_batch_is_never_modified():
    x = data(50)
    before, version = x.clone(), x._version
    for given in (x, x.clone().requires_grad_()):
        losses.exact(Linear(2), given)
        losses.sliced(Linear(2), given)
        losses.denoising(Linear(2), given, 0.3, antithetic=True)
        losses.denoising_levels(Linear(2), given, [0.3, 1.0])
        losses.integrability(Linear(2), given)
    assert torch.equal(x, before)
    assert x._version == version
    assert not x.requires_grad


def test_the_penalty_on_the_curl():
    """Half the mean of |J - J^T|^2, exactly that of the matrix; zero for an energy."""
    model, x = Linear(3), data(2000, 3)
    a = model.matrix.detach().numpy()
    exact = 0.5 * ((a - a.T) ** 2).sum()
    generator = torch.Generator().manual_seed(2)
    values = [losses.integrability(model, x, probes=2, generator=generator) for _ in range(60)]
    assert abs(expected(values, exact)) < N_SIGMA
    energy = learning.MLP(3, (8,), kind="energy").double()
    assert float(losses.integrability(energy, x).detach()) < 1e-20


def test_fisher_divergence_and_the_other_metrics():
    model, x = Linear(2), data(1000)
    truth = torch.tensor(ps.Gaussian([0, 0.5], [0.5, 2.0]).score(x.numpy()))
    found = losses.fisher_divergence(model, x, truth)
    assert not found.requires_grad
    assert float(found) == pytest.approx(float(((model(x).detach() - truth) ** 2).sum(1).mean()))
    laplacian = torch.full((1000,), -2.5, dtype=torch.float64)
    trace = -float(model.matrix.detach().trace())
    assert float(losses.divergence(model, x, laplacian).detach()) == pytest.approx(0.5 * (trace + 2.5) ** 2)
    assert float(losses.weight_decay(model).detach()) == pytest.approx(
        0.5 * float((model.matrix**2).sum().detach())
    )


def test_more_slices_change_the_scatter_not_the_mean():
    model, x = Linear(4), data(200, 4)
    generator = torch.Generator().manual_seed(1)
    one = np.array([float(losses.sliced(model, x, 1, generator=generator).detach()) for _ in range(400)])
    many = np.array([float(losses.sliced(model, x, 16, generator=generator).detach()) for _ in range(400)])
    assert abs(one.mean() - many.mean()) < N_SIGMA * one.std() / 20
    # A ratio of variances of 400 each scatters by a factor 1.1; 4.5 of it.
    assert 16 / 1.6 < one.var() / many.var() < 16 * 1.6


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: losses.sliced(Linear(2), x, 0), "slices is 0"),
        (lambda x: losses.sliced(Linear(2), x, distribution="flat"), "distribution is 'flat'"),
        (lambda x: losses.denoising(Linear(2), x, -1.0), "sigma is -1.0"),
        (lambda x: losses.denoising(Linear(2), x, torch.ones(3)), "sigma has shape"),
        (lambda x: losses.denoising(Linear(2), x, 1.0, pool=0), "pool is 0"),
        (lambda x: losses.denoising(Linear(2), x, 1.0, x[:, :1], pool=2), "pool is 2: states of other"),
        (lambda x: losses.denoising_levels(Linear(2), x, []), "sigmas is"),
        (lambda x: losses.exact(Linear(2), x.long()), "floats"),
        (lambda x: losses.exact(lambda y: y[:, :1].expand(-1, 3), x), "model returned"),
        (lambda x: losses.fisher_divergence(Linear(2), x, x[:3]), "score has shape"),
        (lambda x: learning.MLP(3)(x), "x has shape"),
        (lambda x: learning.MLP(2, kind="curl"), "kind is 'curl'"),
        (lambda x: learning.MLP(2, activation="relu"), "must be smooth"),
        (lambda x: learning.MLP(2, levels=True)(x), "sigma is missing"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ps.InputError, match=words):
        call(data(10))
