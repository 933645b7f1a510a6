"""Torch modules among the package's own energies: sampled, counted, differentiated."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import physscore as ps
from physscore import learning

MIXTURE = ps.GaussianMixture([1, 3], [[-2.0, 0.0], [2.0, 1.0]], 0.6)


class Torch(torch.nn.Module):
    """The energy of a normal distribution, as somebody else's module."""

    def __init__(self, covariance):
        super().__init__()
        self.precision = torch.nn.Parameter(torch.tensor(np.linalg.inv(covariance)))

    def forward(self, x):
        return 0.5 * torch.einsum("ni,ij,nj->n", x, self.precision, x)


COVARIANCE = np.array([[1.0, 0.4], [0.4, 0.5]])


def test_an_energy_is_found_and_differentiated():
    energy = ps.from_torch(Torch(COVARIANCE), 2)
    exact = ps.Gaussian(0.0, COVARIANCE)
    x = exact.sample(50, seed=1)
    assert isinstance(energy, ps.Energy)
    assert np.allclose(energy.score(x), exact.score(x))
    assert np.allclose(energy.energy(x) - energy.energy(x)[0], exact.energy(x) - exact.energy(x)[0])
    assert ps.check_score(energy, x[:5])
    s, product = energy.directional(x, np.ones_like(x))
    assert np.allclose(s, exact.score(x))
    assert np.allclose(product, -np.linalg.inv(COVARIANCE).sum(axis=1))


def test_a_score_is_found():
    module = Torch(COVARIANCE)
    score = ps.from_torch(lambda x: -x @ module.precision.detach().float(), 2)
    assert not isinstance(score, ps.Energy)
    x = np.random.default_rng(0).normal(size=(5, 2))
    assert np.allclose(score.score(x), -x @ np.linalg.inv(COVARIANCE), atol=1e-5)
    turned = np.array([[0.0, 1.0], [-1.0, 0.0]])
    curl = ps.from_torch(lambda x: x @ torch.tensor(turned, dtype=x.dtype), 2)
    _, product = curl.directional(x, np.tile([1.0, 0.0], (5, 1)))
    assert np.allclose(product, turned[0])  # J v, not J^T v


@pytest.mark.parametrize("n", [1, 3])
def test_arrays_are_not_changed_and_types_stay(n):
    energy = ps.from_torch(Torch(COVARIANCE), 2)
    x = np.ones((n, 2), np.float32)
    assert energy.score(x).dtype == np.float32
    assert energy.energy(x).dtype == np.float64
    assert (x == 1).all()


def test_sampled_and_counted_as_any_other():
    """MALA on a learned energy, and its log Z against that of the normal distribution, |z| < 4."""
    energy = ps.from_torch(Torch(COVARIANCE), 2)
    run = ps.sample(energy, ps.MALA(), chains=200, steps=300, seed=1)
    z = (run.draws.reshape(-1, 2).mean(axis=0) - 0.0) / run.error
    assert np.abs(z).max() < 4
    assert np.allclose(np.cov(run.draws.reshape(-1, 2).T), COVARIANCE, atol=0.06)
    found = ps.estimate_log_z(energy, particles=500, seed=1)
    exact = np.log(2 * np.pi) + 0.5 * np.log(np.linalg.det(COVARIANCE))
    assert abs(found.log_z - exact) < 4 * found.error + 1e-4
    assert found.verdict == "pass"


def test_log_z_of_a_learned_energy_against_quadrature():
    fit = learning.train(
        "mlp", MIXTURE.sample(8000, seed=1), loss="denoising", sigma=0.2, kind="energy", steps=60,
        seed=0, transform="identity",
    )  # fmt: skip
    grid = np.linspace(-9, 9, 91)  # sums over points so near are integrals of what is so smooth
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    energy = np.concatenate([fit.energy(part) for part in np.array_split(points, 20)])
    lowest = energy.min()
    exact = np.log(np.exp(lowest - energy).sum() * (grid[1] - grid[0]) ** 2) - lowest
    found = ps.estimate_log_z(fit, particles=500, seed=1)
    assert found.verdict == "pass"
    assert abs(found.log_z - exact) < 3.5 * found.error
    assert found.error < 0.05


def test_prior_and_likelihood():
    """A learned prior adds up with a likelihood, as any energy."""
    prior = ps.from_torch(Torch(COVARIANCE), 2)
    posterior = prior + ps.GaussianNoise([1.0, -0.5], 0.5)
    exact = ps.Gaussian(0.0, COVARIANCE) + ps.GaussianNoise([1.0, -0.5], 0.5)
    x = np.random.default_rng(0).normal(size=(5, 2))
    assert np.allclose(posterior.score(x), exact.score(x))


def test_noise_levels_and_parameters_are_passed_on():
    def module(x, sigma, parameters=None):
        return -x / sigma[:, None] ** 2 + parameters

    score = ps.from_torch(module, 2, sigma=2.0, parameters=[1.0, 3.0])
    assert np.allclose(score.score(np.ones((3, 2))), [0.75, 2.75])
    many = ps.from_torch(module, 2, sigma=1.0, parameters=np.eye(2))
    assert np.allclose(many.score(np.zeros((2, 2))), np.eye(2))
    with pytest.raises(ps.InputError, match="rows"):
        many.score(np.zeros((3, 2)))


class OfBuffers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", 2 * torch.eye(2, dtype=torch.float64))

    def forward(module, x):  # noqa: N805 - whatever its first argument is called
        return -(x @ module.matrix)


def test_functions_and_buffers_keep_double_precision():
    x = np.random.default_rng(0).normal(size=(5, 2))
    energy = ps.from_torch(lambda x: 1e7 + 0.5 * (x**2).sum(1), 2)
    np.testing.assert_allclose(energy.energy(x) - 1e7, 0.5 * (x**2).sum(axis=1), atol=1e-8)
    np.testing.assert_array_equal(energy.energy_and_score(x)[1], -x)
    assert energy.score(x.astype(np.float32)).dtype == np.float32
    matrix, network = torch.eye(2, dtype=torch.float64), torch.nn.Linear(2, 2, bias=False)
    np.testing.assert_array_equal(ps.from_torch(lambda x: -(x @ matrix), 2).score(x), -x)
    np.testing.assert_array_equal(ps.from_torch(OfBuffers(), 2).score(x), -2 * x)
    inside = ps.from_torch(lambda x: network(x), 2).score(x)  # of single precision
    np.testing.assert_allclose(inside, ps.from_torch(network, 2).score(x), atol=1e-6)


def test_inference_mode_and_short_weights():
    x = np.random.default_rng(0).normal(size=(5, 2))
    energy = ps.from_torch(lambda x: 0.5 * (x**2).sum(1), 2)
    with torch.inference_mode():
        np.testing.assert_array_equal(energy.score(x), -x)
        np.testing.assert_array_equal(energy.energy_and_score(x)[1], -x)
    short = torch.nn.Linear(2, 2, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        short.weight.copy_(torch.eye(2))
    np.testing.assert_allclose(ps.from_torch(short, 2).score(x), x, rtol=2**-7)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ps.from_torch(3, 2), "module is 3"),
        (lambda: ps.from_torch(torch.nn.Identity(), 2, kind="curl"), "kind is 'curl'"),
        (lambda: ps.from_torch(torch.nn.Identity(), 2, sigma=-1.0), "sigma is -1"),
        (lambda: ps.from_torch(torch.nn.Linear(2, 3), 2), "model returned"),
        (lambda: ps.from_torch(torch.nn.Identity(), 0), "shape is 0"),
        (lambda: ps.from_torch(lambda x: -x, 2, sigma=0.3), "sigma is 0.3, but the module has no argument"),
        (lambda: ps.from_torch(lambda x, sigma: -x, 2), "the module needs a noise level"),
        (lambda: ps.from_torch(lambda x: -x, 2, parameters=[1.0]), 'no argument "parameters"'),
        (
            lambda: ps.from_torch(lambda x: torch.zeros(len(x)), 2).score(np.ones((3, 2))),
            "torch cannot differentiate",
        ),
        (
            lambda: ps.from_torch(lambda x: torch.zeros(len(x)), 2).energy_and_score(np.ones((3, 2))),
            "torch cannot differentiate",
        ),
        (
            lambda: ps.from_torch(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()), 2),
            "module has Dropout in training mode",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ps.InputError, match=words):
        call()


@pytest.mark.parametrize(
    "code",
    [
        "ps.from_torch(len, 2)",
        "ps.learning",
        "ps.load('a.safetensors')",
        "import sys; from physscore.cli import main\n"
        "sys.argv = ['p', 'train', 'a.h5', '-o', 'b.safetensors'];"
        " main()",
    ],
)
def test_without_torch_the_extra_is_named(code):
    """torch is hidden from the interpreter; all else works."""
    hidden = "import sys; sys.modules['torch'] = None; import physscore as ps; ps.Gaussian(0.0, 1.0)\n"
    run = subprocess.run([sys.executable, "-c", hidden + code], capture_output=True, text=True, check=False)
    assert run.returncode != 0
    assert 'pip install "physscore[learn]"' in run.stderr
