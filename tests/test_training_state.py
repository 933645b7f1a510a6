"""Training leaves the state of torch alone, and does not depend on it; modules that cannot be trained."""

import numpy as np
import pytest
import torch

import physscore as ps
from physscore import learning
from physscore.learning.fitted import load

X = np.random.default_rng(0).normal(size=(200, 2))


class Own(torch.nn.Module):
    """A network of the user's, with dropout."""

    def __init__(self, share=0.3):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Dropout(share), torch.nn.Linear(32, 2)
        )

    def forward(self, x, sigma):
        return self.layers(torch.cat([x, sigma[:, None].log()], 1)) / sigma[:, None]


def own(seed=0, **settings):
    torch.manual_seed(seed)
    return Own(**settings)


def test_torch_s_random_numbers_are_the_caller_s():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    learning.train("mlp", X, steps=3)
    assert torch.equal(torch.rand(3), expected)


def test_dropout_depends_on_seed_and_step_only():
    """Whatever is drawn in between, as a training that is gone on with has not drawn what was before."""
    fits = []
    for drawn in range(2):
        model = own()
        torch.manual_seed(drawn)
        fits.append(learning.train(model, X, steps=20, batch=16))
    for one, two in zip(*(fit.model.parameters() for fit in fits), strict=True):
        assert torch.equal(one, two)


def test_a_training_with_dropout_goes_on_bit_for_bit(tmp_path):
    """It is stopped in the middle, and goes on in a module that was built anew."""
    whole = learning.train(own(), X, steps=20, batch=16)
    path = tmp_path / "a.safetensors"
    stopped = []

    class Stopped(Own):
        def forward(self, x, sigma):
            stopped.append(len(x)) if self.training else None
            if len(stopped) == 10:
                raise KeyboardInterrupt
            return super().forward(x, sigma)

    Stopped.__name__ = "Own"
    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        learning.train(Stopped(), X, steps=20, batch=16, output=path)
    found = learning.train(own(5), X, steps=20, batch=16, output=path, resume=True)
    for one, two in zip(whole.model.parameters(), found.model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("model", "data"),
    [("mlp", X), ("unet", np.random.default_rng(1).normal(size=(20, 8, 8)))],
)
def test_the_default_type_of_torch_is_not_asked(model, data):
    torch.set_default_dtype(torch.float64)
    try:
        fit = learning.train(model, data, steps=3, batch=8)
        fit.sample(2, steps=3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {weight.dtype for weight in fit.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("loss", ["levels", "exact"])
def test_a_module_in_double_precision(loss):
    model = Own(0.0).double() if loss == "levels" else torch.nn.Linear(2, 2).double()
    fit = learning.train(model, X, steps=3, batch=8, loss=loss)
    assert {weight.dtype for weight in fit.model.parameters()} == {torch.float64}
    assert np.isfinite(fit.score(X)).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_on_in_a_training(mode):
    with mode():
        fit = learning.train("mlp", X, steps=3)
        assert not torch.is_grad_enabled()
    fit.directional(X, X)


def _lazy():
    return torch.nn.Sequential(torch.nn.LazyLinear(2))


class _Chance(Own):
    def forward(self, x, sigma):
        return torch.nn.functional.dropout(super().forward(x, sigma), 0.5)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Own().requires_grad_(False), "model has no weights to train"),
        (_lazy(), "model has lazy layers without weights"),
        (Own().bfloat16(), "model has weights of torch.bfloat16"),
        (_Chance(), "something else for the same states each time"),
    ],
    ids=["frozen", "lazy", "short", "chance"],
)
def test_what_cannot_be_trained(model, words):
    loss = "levels" if isinstance(model, Own) else "sliced"
    with pytest.raises(ps.InputError, match=words):
        learning.train(model, X, steps=3, loss=loss)


@pytest.mark.parametrize("side", [36, 44])
def test_maps_whose_sides_are_multiples_of_4(side):
    maps = np.random.default_rng(0).normal(size=(8, side, side))
    assert learning.train("unet", maps, steps=1, batch=2).shape == (side, side)


class Tied(torch.nn.Module):
    """Two layers of the same weights."""

    def __init__(self):
        super().__init__()
        inner = torch.nn.Linear(16, 16)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(3, 16), inner, inner, torch.nn.Linear(16, 2)])

    def forward(self, x, sigma):
        y = torch.cat([x, sigma[:, None].log()], 1)
        for layer in self.layers[:-1]:
            y = torch.tanh(layer(y))
        return self.layers[-1](y) / sigma[:, None]


@pytest.mark.filterwarnings("ignore:.*the score is known")  # so few steps
def test_tied_weights_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("physscore.learning.training._SAVE_SECONDS", 0.0)
    path = tmp_path / "a.safetensors"
    fit = learning.train(Tied(), X, steps=5, output=path)
    fit.save(tmp_path / "b.safetensors")
    for name in (path, tmp_path / "b.safetensors"):
        np.testing.assert_array_equal(load(name, Tied()).score(X), fit.score(X))
