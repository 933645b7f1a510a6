"""What is held out of a training where the user does not say."""

import warnings

import numpy as np
import pytest

import physscore as ps
from physscore import learning
from physscore.learning.data import Data, held_out

SORTED = np.arange(1000.0)[:, None] * [1, 2]


def test_of_sorted_vectors_a_tenth_of_each_part():
    data = Data(SORTED, parameters=SORTED[:, :1] + 7)
    first, second = held_out(data, None, SORTED, None, seed=3)
    assert (len(first.x), len(second.x)) == (900, 100)
    np.testing.assert_array_equal(np.sort(np.concatenate([first.x, second.x]), axis=0), SORTED)
    for part in (first, second):
        np.testing.assert_array_equal(part.parameters, part.x[:, :1] + 7)
        assert (np.diff(part.x[:, 0]) > 0).all()
    # Of 500 in the first half 50 +- 4.7 are held out: beyond 4.5 times that in one of 150,000 seeds.
    assert abs((second.x[:, 0] < 500).sum() - 50) < 4.5 * 4.75
    np.testing.assert_array_equal(held_out(data, None, SORTED, None, seed=3)[1].x, second.x)
    assert not np.array_equal(held_out(data, None, SORTED, None, seed=4)[1].x, second.x)


@pytest.mark.long  # that states of all parts are held out is seen above; 300 steps leave 0.08 to chance
def test_modes_of_sorted_data_have_their_weights():
    """The last tenth is of one mode, and the loss there was least for weights off by 0.07 of 0.3."""
    x = np.random.default_rng(0).normal(size=(2000, 1)) + np.where(np.arange(2000) < 1400, -3.0, 3.0)[:, None]
    fit = learning.train("mlp", x, kind="energy", steps=600, batch=128)
    weight = (fit.sample(4000, seed=1) > 0).mean()
    assert abs(weight - 0.3) < 0.05  # noise: 0.007


@pytest.mark.filterwarnings("ignore:a.safetensors. the score is known")  # 5 steps learn little
def test_a_training_of_vectors_is_gone_on_with(tmp_path):
    x, path = np.random.default_rng(0).normal(size=(300, 2)), tmp_path / "a.safetensors"
    fit = learning.train("mlp", x, steps=5, output=path)
    assert learning.train("mlp", x, steps=5, output=path, resume=True).digest() == fit.digest()
    with pytest.raises(ps.InputError, match="belongs to another training"):
        learning.train("mlp", x + 1, steps=5, output=path, resume=True)


MAPS = ps.GaussianRandomField(ps.Grid((8, 8), 8.0), lambda k: 1 / k).sample(300, seed=1)


def _warnings(maps, **settings):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first, second = held_out(Data(maps, **settings), None, maps, None, maps=True)
    np.testing.assert_array_equal(second.x, maps[270:])  # neighbours stay together
    np.testing.assert_array_equal(first.x, maps[:270])
    return [str(one.message) for one in caught]


def test_held_out_maps_that_are_unlike_the_others_are_told():
    """Those that are as the others are said to be apart in fewer than one of 10,000 sets."""
    assert not _warnings(MAPS)
    assert not _warnings(MAPS, parameters=np.random.default_rng(0).normal(size=(300, 1)))
    order = np.argsort(MAPS.std(axis=(1, 2)))
    rising = np.linspace(0.5, 2, 300)[:, None, None]
    for found in (
        _warnings(MAPS[order]), _warnings(MAPS * rising), _warnings(MAPS + rising),
        _warnings(MAPS, parameters=rising[:, 0]),
    ):  # fmt: skip
        assert len(found) == 1
        assert "the last 30 maps, which are held out, are not as the others" in found[0]


def test_simulations_that_differ_a_little_are_no_reason():
    """The last tenth is one simulation of ten, with an amplitude of its own by 5%."""
    rng, told = np.random.default_rng(1), 0
    for _ in range(40):
        told += len(_warnings(MAPS * np.repeat(1 + 0.05 * rng.normal(size=10), 30)[:, None, None]))
    assert told <= 4
