"""Learned scores where it is easy to be wrong: means of components, fixed levels, walls, boxes, resumes."""

import h5py
import numpy as np
import pytest
import torch

import physscore as ps
from physscore import learning
from physscore.diagnostics.derivatives import directional
from physscore.energies.transformed import Transformed
from physscore.evidence import reference
from physscore.learning.data import moved
from physscore.learning.fitted import fitted
from physscore.learning.generate import generate
from physscore.learning.normalisation import Normalisation
from physscore.learning.task import Task
from physscore.store.fields import FieldWriter

X = np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)


class Shifted(torch.nn.Module):
    """The exact score of N(mean, C) with noise, in the coordinates of a normalisation."""

    def __init__(self, mean, covariance):
        super().__init__()
        self.mean, self.covariance = torch.as_tensor(mean), torch.as_tensor(covariance)

    def forward(self, y, sigma):
        total = self.covariance + sigma[0] ** 2 * torch.eye(len(self.mean))
        return -torch.linalg.solve(total, (y - self.mean).T).T


def test_components_with_means_of_their_own():
    """With the exact score, draws have its mean and covariance: they start from the normal density there."""
    mean, covariance = np.array([10.0, 0.0]), np.array([[1.0, 0.6], [0.6, 0.5]])
    norm = Normalisation(5.0, 5.1)
    model = Shifted((mean - 5.0) / 5.1, covariance / 5.1**2).double()
    fit = fitted(model, (2,), norm, sigmas=(0.002, 2.0))
    draws = fit.sample(20_000, seed=1, steps=30)
    # Errors of mean and covariance are below 0.01; from N(0, sigma^2 + 1) the mean is off by 0.5.
    assert np.abs(draws.mean(axis=0) - mean).max() < 0.05
    assert np.abs(np.cov(draws, rowvar=False) - covariance).max() < 0.06
    assert np.allclose(fit.sample(5, seed=1, steps=30, first=7), draws[7:12], atol=1e-6)


@pytest.mark.parametrize("loss", ["exact", "sliced"])
def test_a_network_of_levels_keeps_the_level_it_was_trained_at(loss):
    """A U-Net takes a noise level always: the one of the training is that of the score."""
    maps = np.random.default_rng(0).normal(size=(40, 4, 4)).astype(np.float32)
    network = learning.UNet(2, channels=(4,), blocks=1)
    fit = learning.train(network, maps, loss=loss, steps=3, batch=8)
    y = torch.as_tensor(maps[:3])
    with torch.no_grad():
        at_one = fit.model(y, torch.ones(3)).numpy()
    assert np.allclose(fit.at().score(maps[:3]), at_one, atol=1e-6)
    with pytest.raises(ps.InputError, match="not trained through noise levels"):
        fit.sample(2)


@pytest.mark.parametrize("transform", ["identity", "gaussianise"])
def test_the_derivative_of_a_learned_score(transform):
    x = np.exp(0.5 * np.random.default_rng(1).normal(size=(3000, 2))).astype(np.float32)
    fit = learning.train("mlp", x, steps=5, transform=transform)
    fit.model.double()
    states = x[:50].astype(np.float64)
    v = np.random.default_rng(2).normal(size=states.shape)
    score, product = fit.directional(states, v)
    assert np.allclose(score, fit.score(states))
    step = 1e-6
    expected = (fit.score(states + step * v) - fit.score(states - step * v)) / (2 * step)
    size = np.sqrt((expected**2).mean())
    # The spline's third derivative jumps at its knots, which a state meets within a step once in 10^4 times.
    assert np.abs(product - expected).max() < 1e-4 * size
    assert np.allclose(directional(fit, states, v), product)


def test_no_energy_beyond_the_wall_of_positive_data():
    x = np.exp(np.random.default_rng(0).normal(size=(2000, 2))).astype(np.float32)
    fit = learning.train("mlp", x, kind="energy", loss="denoising", sigma=0.3, steps=50)
    energy, score = fit.energy_and_score(np.array([[1.0, 1.0], [-0.1, 1.0]]))
    assert np.isfinite(energy[0])
    assert energy[1] == np.inf
    assert (score[1] == 0).all()
    run = ps.sample(fit, ps.MALA(), chains=8, steps=50, warmup=50, init=x[:8].astype(float))
    assert (run.draws > 0).all()


def test_a_learned_energy_of_positive_data_works_as_any_other():
    x = np.exp(np.random.default_rng(0).normal(size=(2000, 2)))
    fit = learning.train("mlp", x, kind="energy", loss="denoising", sigma=0.3, steps=30)
    assert fit.has_walls
    with pytest.raises(ps.InputError, match="has bounds, which ULA steps over"):
        ps.sample(fit, ps.ULA(0.01), chains=4, steps=2, init=np.ones(2))
    states = np.array([[-1.0, 1.0], [1.0, 2.0]])
    assert (fit.score(states)[0] == 0).all()
    np.testing.assert_array_equal(fit.score(states), fit.energy_and_score(states)[1])
    assert (np.array(fit.directional(states, states))[:, 0] == 0).all()
    energy = fit.energy(np.array([[10.0**-k, 1.0] for k in (320, 309, 307, 100, 1)]))
    assert not np.isneginf(energy).any()  # 1 / x is infinite
    assert np.isfinite(energy[2:]).all()
    for target in (fit, fit + ps.GaussianNoise(np.ones(2), 1.0)):
        run = ps.sample(target, ps.MALA(0.01), chains=30, steps=2, warmup=0)  # from its own starts
        assert (run.draws > 0).all()
    found = reference.fitted(fit, 0)
    assert isinstance(found, Transformed)
    spread = np.log(found.sample(500, seed=0)).std()
    assert 0.7 < spread < 3  # of the logarithms 1, in a reference that is wider


def test_a_prior_of_coordinates_is_one_of_states():
    data = np.exp(np.random.default_rng(0).normal(size=(3000, 1)) * [0.5, 1.0])
    prior = Transformed(
        ps.Gaussian([0.3, -0.2], [[1.0, 0.5], [0.5, 2.0]]), learning.normalisation.Components.fit(data)
    )
    one = Transformed(ps.Gaussian(0.3, 2.0), learning.normalisation.Components.fit(data[:, :1]))
    u = np.linspace(-9, 9, 20_001)
    assert np.exp(u - one.energy(np.exp(u)[:, np.newaxis])).sum() * (u[1] - u[0]) == pytest.approx(
        1, abs=1e-3
    )
    x = prior.sample(20, seed=1)
    z = prior.whiten(x)
    np.testing.assert_allclose(prior.unwhiten(z), x, rtol=1e-7)
    assert ps.check_score(prior, x).passed
    v, h = np.random.default_rng(1).normal(size=z.shape), 1e-6
    change = (prior.energy(prior.unwhiten(z + h * v)) - prior.energy(prior.unwhiten(z - h * v))) / (2 * h)
    slope = prior.pull_back(z, -prior.score(x))
    np.testing.assert_allclose((slope * v).sum(axis=1), change, rtol=1e-4, atol=1e-4)
    assert (prior.pull_back(np.full((1, 2), -1e4), np.ones((1, 2))) == 0).all()  # rounded to the wall


def test_axes_of_a_box_with_different_sides_stay_apart():
    y = torch.arange(16.0).reshape(1, 4, 4)
    rows = [set(row.tolist()) for row in y[0]]
    for seed in range(20):
        for exchange in (True, False):
            found = moved(y, torch.Generator().manual_seed(seed), exchange, 4)[0]
            assert sorted(found.flatten().tolist()) == list(range(16))
            assert exchange or all(set(row.tolist()) in rows for row in found)
    turned = (moved(y, torch.Generator().manual_seed(seed), True, 4)[0][0] for seed in range(20))
    assert any(set(row.tolist()) not in rows for row in turned)


def test_every_state_once_a_pass():
    data = learning.data.read(X[:50])
    task = Task("mlp", data, data, loss="levels", sigma=None, kind="score", analytic=None, transform="auto",
                names=None, coarse=(), augment=True, integrability=0.0, precision="float32", batch=20,
                seed=0)  # fmt: skip
    chosen = np.concatenate([task._chosen(step, 50) for step in range(5)])
    assert np.array_equal(np.sort(chosen[:50]), np.arange(50))
    assert np.array_equal(np.sort(chosen[50:]), np.arange(50))


def test_numbers_of_numpy_are_written(tmp_path):
    path = tmp_path / "a.safetensors"
    learning.train("mlp", X, loss="denoising", sigma=np.float32(0.3), seed=np.int64(3), steps=np.int64(5),
                   batch=np.int32(20), learning_rate=np.float32(1e-3), output=path)  # fmt: skip
    assert ps.load(path).about["settings"]["seed"] == 3


def test_datasets_with_the_names_of_axes(tmp_path):
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        file["train/x"] = np.random.default_rng(0).normal(size=(40, 8, 8)).astype(np.float32)
        file.attrs["BoxSize"] = 80.0
        file.attrs["BoxSize_unit"] = "kpc"
    network = learning.UNet(2, channels=(4,), blocks=1, inputs=2)
    fit = learning.train(network, tmp_path / "maps.h5", "train/x", steps=2, batch=8)
    generate(fit, 3, tmp_path / "new.h5", steps=3)
    with h5py.File(tmp_path / "new.h5") as file:
        assert file["fields/maps"].shape == (3, 8, 8)
        assert file["Units"].attrs["length"] == "kpc"


def test_another_model_of_the_same_name_does_not_go_on(tmp_path):
    maps = np.random.default_rng(0).normal(size=(40, 8, 8))
    settings = {"steps": 2, "batch": 8}
    one, other = (learning.train("unet", size * maps, **settings) for size in (1.0, 100.0))
    generate(one, 2, tmp_path / "new.h5", steps=3, source="m.safetensors")
    generate(one, 2, tmp_path / "new.h5", steps=3, source="m.safetensors", resume=True)
    with pytest.raises(ps.InputError, match="weights_sha256"):
        generate(other, 2, tmp_path / "new.h5", steps=3, source="m.safetensors", resume=True)


def test_our_own_file_keeps_its_box(tmp_path):
    grid = ps.Grid((8, 8), (50.0, 50.0))
    with FieldWriter(tmp_path / "a.h5", grid, n=2, dtype=np.dtype("f4"), length_unit="kpc") as writer:
        for i in range(2):
            writer.write(i, np.full(grid.shape, float(i)))
        writer.finish()
    for dataset in (None, "fields/delta"):
        found = learning.data.read(tmp_path / "a.h5", dataset)
        assert found.box_size == (50.0, 50.0)
        assert found.about["length_unit"] == "kpc"


def test_another_training_s_file_is_refused(tmp_path, monkeypatch):
    """The same shapes are not enough: neither other states nor another way of training go on."""
    path = tmp_path / "a.safetensors"
    common = {"steps": 40, "output": path, "resume": True}
    monkeypatch.setattr("physscore.learning.task.Task.validate", _interrupted())
    with pytest.raises(KeyboardInterrupt):
        learning.train("mlp", X, **common)
    monkeypatch.undo()
    assert path.with_name(path.name + ".part").exists()
    with pytest.raises(ps.InputError, match="another training"):
        learning.train("mlp", X + np.float32(0.1), **common)
    assert learning.train("mlp", X, **common).about["training"]["steps"] == 40


def _interrupted():
    right, calls = Task.validate, []

    def validate(self, weights):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return right(self, weights)

    return validate


class Bowl(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.k = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return 0.5 * self.k * (x**2).sum(1)


class Conditional(Bowl):
    def forward(self, x, parameters):
        return -self.k * x + 0 * parameters[:, :1]


class Both(Bowl):
    def forward(self, x):
        return -self.k * x

    def energy(self, x):
        return super().forward(x)


def test_modules_that_return_energies_or_take_parameters():
    fit = learning.train(Bowl(), X, loss="denoising", sigma=0.3, steps=300, learning_rate=0.02)
    k = float(fit.model.k.detach())
    assert abs(k - 1 / 1.09) < 0.05
    assert np.allclose(fit.at().score(X[:3]), -k * X[:3], atol=1e-6)
    learning.train(Conditional(), X, loss="denoising", sigma=0.3, steps=2, parameters=X[:, :1])
    energy = ps.from_torch(Both(), 2)
    assert isinstance(energy, ps.Energy)
    assert np.allclose(energy.energy(X[:3]), 0.25 * (X[:3] ** 2).sum(axis=1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ps.from_torch(torch.nn.Linear(2, 2), 2, kind="energy").energy(X[:3]), "returned scores"),
        (lambda: learning.MLP(2, ()), "one hidden layer"),
        (lambda: learning.train("mlp", X, steps=1, learning_rate=-1), "learning_rate is -1"),
        (lambda: learning.train("mlp", X, steps=1, learning_rate=0.0), "learning_rate is 0.0"),
        (lambda: learning.train("mlp", X, steps=1, weight_decay=-1), "weight_decay is -1"),
        (lambda: learning.train("mlp", X, steps=1, patience=0), "patience is 0"),
        (
            lambda: learning.train("mlp", X, steps=1, parameters=X, validation_parameters=X),
            "validation_parameters",
        ),
    ],
)  # fmt: skip
def test_bad_input(call, words):
    with pytest.raises(ps.InputError, match=words):
        call()


class _OfOneNumber(torch.nn.Module):
    def forward(self, x):
        return 0.5 * x**2


def test_what_a_model_of_one_number_returns_is_to_be_said():
    with pytest.raises(ps.InputError, match='say kind="score" or kind="energy"'):
        ps.from_torch(_OfOneNumber(), 1)
    x = np.array([[2.0], [3.0]])
    energy = ps.from_torch(_OfOneNumber(), 1, kind="energy")
    np.testing.assert_allclose(energy.energy(x), [2.0, 4.5])
    np.testing.assert_allclose(energy.score(x), -x)
    np.testing.assert_allclose(energy.directional(x, np.ones_like(x))[1], [[-1.0], [-1.0]])
    both = _OfOneNumber()  # which is taken for either, one after the other
    for kind, expected in (("energy", -x), ("score", 0.5 * x**2), ("energy", -x)):
        np.testing.assert_allclose(ps.from_torch(both, 1, kind=kind).score(x), expected)
    assert type(ps.from_torch(learning.MLP(1, (4,)), 1)).__name__ == "LearnedScore"


def test_training_data_are_finished_fields(tmp_path):
    with FieldWriter(tmp_path / "a.h5", ps.Grid((8, 8), 8.0), n=4, dtype=np.dtype("f4"), seed=1) as writer:
        for i in range(2):
            writer.write(i, np.full((8, 8), i + 1.0, "f4"))
    with pytest.warns(UserWarning, match="unfinished: it has 2 of 4 fields"):
        data = learning.data.read(tmp_path / "a.h5.part")
    assert data.x.shape == (2, 8, 8)
    ps.save(tmp_path / "one.h5", ps.Fields(np.ones((4, 4, 4)), ps.Grid((4, 4, 4), 4.0)))
    with pytest.raises(ps.InputError, match="a single field"):
        learning.data.read(tmp_path / "one.h5")


@pytest.mark.parametrize(
    ("x", "inside", "of", "advice"),
    [
        (np.random.default_rng(1).normal(size=(20, 24)), 17, 24, "give more states"),
        (np.repeat(X[:, :1], 2, axis=1), 1, 2, "leave out"),
        (np.c_[X, 1 - X.sum(axis=1)].astype(np.float64), 2, 3, "leave out"),
    ],
)
def test_data_in_a_subspace_are_said_to_be(x, inside, of, advice, tmp_path):
    """They ended a training with a division by zero, or were said to need a longer one; it is said once."""
    with pytest.warns(UserWarning, match="have no density") as told:
        fit = learning.train("mlp", x, steps=10, output=tmp_path / "a.safetensors")
    (text,) = [str(warning.message) for warning in told if "density" in str(warning.message)]
    assert f"the data lie in {inside} of {of} dimensions" in text
    assert advice in text
    assert "train longer" not in text
    assert fit.doubt == text
    assert (tmp_path / "a.safetensors").exists()


def test_a_narrow_axis_is_no_subspace():
    """An axis with a 10^-5 of the standard deviation of the widest is there, in single precision."""
    x = np.random.default_rng(2).normal(size=(400, 2)) @ [[1.0, 1.0], [1e-5, -1e-5]]
    with pytest.warns(UserWarning, match="times the narrowest standard deviation of the data on"):
        learning.train("mlp", x, steps=2)


@pytest.mark.parametrize("exponent", [*(pytest.param(n, marks=pytest.mark.long) for n in (4, 8)), 10])
def test_steep_spectra_have_their_power(exponent):
    """New fields of the exact Gaussian score: 40 levels made 4, 10 and 25% too much of it at small scales."""
    index = np.hypot(np.fft.fftfreq(16, 1 / 16)[:, None], np.fft.rfftfreq(16, 1 / 16))
    range_ = np.geomspace(1, 10.0**-exponent, 13)
    table = np.exp(np.interp(index, np.arange(13), np.log(range_)))
    network = learning.UNet(2, inputs=2, channels=(4,), blocks=1)
    model = learning.Preconditioned(network, eigenvalues=table).double()
    ends = 0.1 * table.min() ** 0.5, 3 * table.max() ** 0.5
    fit = fitted(model, (16, 16), Normalisation(0.0, 1.0), sigmas=ends)
    with torch.no_grad():
        found = fit.sample(2, seed=1), fit.sample(2, seed=1, steps=800)
    power, exact = (np.abs(np.fft.rfft2(y.astype(np.float64))) ** 2 for y in found)
    seen = table > 1e-10  # of fields in single precision
    assert np.abs(power / exact - 1)[:, seen].max() < 0.02
