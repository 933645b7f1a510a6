"""U-Nets and preconditioning: symmetries, shapes, and the Gaussian limit that is exact."""

import numpy as np
import pytest
import torch

import physscore as ps
from physscore.energies.torch_modules import score_of
from physscore.learning import MLP, Preconditioned, UNet
from physscore.learning.data import coarse_spectrum, coarsen, mean_spectrum
from physscore.learning.preconditioning import full_table


def shaken(network, seed=0, dtype=torch.float64):
    """Return a network whose last layers are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for w in network.parameters():
            w += 0.2 * torch.randn(w.shape, generator=generator)
    return network.to(dtype).eval()


def small(dim, **settings):
    torch.manual_seed(1)
    return shaken(UNet(dim, channels=(4, 8), blocks=1, **settings))


def field(shape, n=2, seed=3):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, *shape)))


@pytest.mark.parametrize(("shape", "patch"), [((16,), 1), ((8, 12), 1), ((16, 8), 2), ((4, 8, 4), 1)])
@pytest.mark.parametrize("kind", ["score", "energy"])
def test_a_shifted_field_has_the_shifted_score(shape, patch, kind):
    network = small(len(shape), patch=patch, kind=kind)
    x, sigma = field(shape), torch.tensor([0.3, 2.0], dtype=torch.float64)
    shift, axes = [4] * len(shape), tuple(range(1, len(shape) + 1))
    found = network(x.roll(shift, axes), sigma)
    assert found.shape == x.shape
    assert torch.allclose(found, network(x, sigma).roll(shift, axes), atol=1e-10)
    assert not torch.allclose(network(x, sigma), network(x, sigma.flip(0)))


def test_the_score_of_an_energy_is_its_gradient():
    network, x = small(2, kind="energy"), field((8, 8))
    level = torch.full((2,), 0.7, dtype=torch.float64)
    assert torch.allclose(network(x, level), score_of(lambda y: network.energy(y, level), x), atol=1e-10)


def test_conditioned_on_parameters():
    network, x = small(1, parameters=2), field((8,))
    level, rows = (
        torch.ones(2, dtype=torch.float64),
        torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64),
    )
    assert not torch.allclose(network(x, level, rows), network(x, level, rows.flip(0)))
    with pytest.raises(ps.InputError, match="parameters has shape None"):
        network(x, level)


@pytest.mark.parametrize("shape", [(16,), (8, 6), (7, 5), (4, 6, 8)])
def test_without_a_network_the_score_is_that_of_the_gaussian_field(shape):
    """The analytic part alone is ``smoothed`` of the field, at every noise level and for odd sizes too."""
    grid = ps.Grid(shape, 10.0)
    prior = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(index=-1.0, amplitude=1.0))
    eigenvalues = full_table(
        prior.power * grid.n_cells / grid.volume, prior.wavenumbers.offsets, grid.half_shape
    )
    model = Preconditioned(Nothing(), eigenvalues=eigenvalues).double()
    x = prior.sample(3, seed=1) + np.random.default_rng(0).normal(size=(3, *shape))
    for sigma in (0.1, 1.0, 30.0):
        exact = ps.smoothed(prior, sigma).score(x)
        found = model(torch.tensor(x), sigma).numpy()
        assert np.abs(found - exact).max() < 1e-6 * np.abs(exact).max()  # the table is float32
        error = model.c_out(torch.tensor([sigma]), shape)
        modes = eigenvalues * sigma**2 / (eigenvalues + sigma**2)
        full = ps.GaussianRandomField.from_modes(
            grid, prior.wavenumbers,
            np.where(prior.power > 0, prior.power * sigma**2 / (
                prior.power * grid.n_cells / grid.volume + sigma**2), 0.0),
        )  # fmt: skip
        assert float(error) ** 2 == pytest.approx(full.variance, rel=1e-4)
        assert modes.shape == grid.half_shape


class Nothing(torch.nn.Module):
    def forward(self, u, sigma, parameters=None):
        return torch.zeros_like(u)


def test_edm_preconditioning_is_the_gaussian_without_a_network():
    model = Preconditioned(Nothing(), sigma_data=2.0)
    x = torch.randn(5, 3)
    assert torch.allclose(model(x, 1.5), -x / (4.0 + 2.25))
    assert torch.allclose(model.denoise(x, 1.5), x * 4.0 / 6.25)


@pytest.mark.parametrize("analytic", [False, True])
def test_energies_are_preconditioned_like_scores(analytic):
    grid = ps.Grid((8, 8), 8.0)
    y = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(index=-1.0, amplitude=1.0)).sample(40, seed=1)
    table = mean_spectrum(y.astype(np.float32), grid) if analytic else None
    model = Preconditioned(small(2, kind="energy"), eigenvalues=table).double().eval()
    x, level = torch.tensor(y[:2]), torch.tensor([0.3, 2.0], dtype=torch.float64)
    assert torch.allclose(model(x, level), score_of(lambda z: model.energy(z, level), x), atol=1e-6)


def test_preconditioning_keeps_the_perceptron_s_own_derivatives():
    torch.manual_seed(0)
    model = Preconditioned(MLP(3, (8, 8), levels=True), sigma_data=1.3).double()
    x, v = torch.randn(4, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    level = torch.full((4,), 0.4, dtype=torch.float64)
    from physscore.learning import losses

    s, trace = model.score_and_divergence(x, level)
    s2, trace2 = losses.score_and_divergence(lambda y: model(y, level), x)
    assert torch.allclose(s, s2)
    assert torch.allclose(trace, trace2)
    projected, curvature = model.along(x, v, level)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda y: model(y[None], 0.4)[0], row) for row in x]
    )
    assert torch.allclose(projected, (v * s).sum(-1))
    assert torch.allclose(curvature, torch.einsum("kni,nij,knj->kn", v, jacobian, v))


def test_mean_spectrum_and_coarse_fields():
    """The spectrum of many draws is that of the field; coarse fields keep their large modes, only these."""
    grid = ps.Grid((12, 16), (12.0, 16.0))
    prior = ps.GaussianRandomField(grid, ps.spectra.PowerLaw(index=-1.5, amplitude=1.0))
    y = prior.sample(3000, seed=1).astype(np.float32)
    found = mean_spectrum(y, grid)
    exact = full_table(prior.power, prior.wavenumbers.offsets, grid.half_shape)  # cells of volume 1
    error = np.abs(found - exact)[exact > 0] / exact[exact > 0]
    assert error.max() < 5.0 / np.sqrt(3000 / 2)  # a mode has one or two degrees of freedom
    coarse = coarsen(y, 2)
    assert coarse.shape == (3000, 6, 8)
    assert coarse.dtype == np.float32
    large = np.fft.rfft2(y)[:, :3, :4] / 4
    assert np.abs(np.fft.rfft2(coarse)[:, :3, :4] - large).max() < 1e-3
    of_coarse = mean_spectrum(coarse, ps.Grid((6, 8), (12.0, 16.0)))
    expected = coarse_spectrum(found, (12, 16), 2)
    kept = expected > 1e-9  # not the mean, which is fixed
    assert np.abs(of_coarse[kept] / expected[kept] - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: UNet(4), "dim is 4"),
        (lambda: UNet(2, kind="curl"), "kind is 'curl'"),
        (lambda: UNet(2, kind="energy", inputs=2), "inputs is 2"),
        (lambda: UNet(2, channels=(4, 0)), "channels is"),
        (lambda: small(2)(field((7, 8)), 1.0), "multiples of 2"),
        (lambda: small(2).energy(field((8, 8)), 1.0), "no energy"),
        (lambda: Preconditioned(Nothing(), sigma_data=0.0), "sigma_data is 0.0"),
        (lambda: Preconditioned(Nothing(), eigenvalues=[-1.0]), "eigenvalues"),
        (lambda: coarsen(np.ones((2, 6, 6), np.float32), 4), "coarse holds 4"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(ps.InputError, match=words):
        call()


def test_the_rate_of_an_energy_over_noise_is_that_of_the_gaussian():
    """With a network of 0: the mean of d - |e|^2 given data and noise together."""

    class NoEnergy(Nothing):
        kind = "energy"

        def energy(self, u, sigma, parameters=None):
            return torch.zeros(len(u), dtype=u.dtype)

    y = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sigma = torch.tensor([0.05, 0.3, 1.0, 2.0, 9.0], dtype=torch.float64)
    found = Preconditioned(NoEnergy(), sigma_data=1.5).double().rate(y, sigma)
    total = sigma**2 + 1.5**2
    squares = 3 * 1.5**2 / total + (sigma / total) ** 2 * (y**2).sum(1)
    torch.testing.assert_close(found, 3 - squares, rtol=0, atol=1e-3)
