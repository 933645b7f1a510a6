"""The generator: its published vectors, its deviates against NumPy, its law, and that place is all.

Statistical bounds are |z| < 5 each, a false alarm in 2 million; there are about 30 of them.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from numba import njit
from scipy import stats

from physscore import noise, philox
from physscore.arrays import threads
from physscore.core import InputError

KNOWN_ANSWERS = [  # Random123, kat_vectors: counter, key, result
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_known_answers(counter, key, result):
    found = philox.philox(words(counter)[np.newaxis], tuple(map(int, words(key))))
    np.testing.assert_array_equal(found[0], words(result))


def box_muller(w0, w1, bits):
    """Box-Muller in extended precision, from words as Python integers."""
    scale = np.longdouble(2) ** -bits
    u = (np.array(w0, np.longdouble) + 0.5) * scale
    # 1 - u, without the rounding that would lose a u near 1.
    rest = (np.array([2**bits - 1 - int(w) for w in w0], np.longdouble) + 0.5) * scale
    radius = np.sqrt(-2 * np.where(u < 0.5, np.log(u), np.log1p(-np.minimum(rest, 0.6))))
    turn = 2 * np.longdouble("3.14159265358979323846264338327950288") * np.array(w1, np.longdouble) * scale
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)]), radius


@njit
def compiled_32(w0, w1, fixed):
    out = np.empty((2, len(w0)), np.float32)
    for i in range(len(w0)):
        out[0, i], out[1, i] = philox.box_muller_32(w0[i], w1[i], fixed)
    return out


@njit
def compiled_64(w0, w1, fixed):
    out = np.empty((2, len(w0)))
    for i in range(len(w0)):
        out[0, i], out[1, i] = philox.box_muller_64(w0[i], w1[i], fixed)
    return out


@pytest.mark.parametrize(
    ("bits", "compiled", "dtype"), [(32, compiled_32, np.float32), (64, compiled_64, float)]
)
def test_deviates_arebox_muller_to_rounding(bits, compiled, dtype):
    rng = np.random.default_rng(1)
    unsigned = np.uint32 if bits == 32 else np.uint64
    edges = [2**j + d for j in range(bits) for d in (-1, 0, 1)] + [2**bits - 1 - 2**j for j in range(bits)]
    edges = np.array([e for e in edges if 0 <= e < 2**bits], unsigned)
    w0 = np.concatenate([np.repeat(edges, 8), rng.integers(0, 2**bits, 20000, unsigned)])
    w1 = np.concatenate([np.resize(edges, 8 * len(edges)), rng.integers(0, 2**bits, 20000, unsigned)])
    expected, radius = box_muller(w0, w1, bits)
    found = compiled(w0, w1, False)
    assert found.dtype == dtype
    assert np.abs((found - expected) / radius).max() < 5 * np.finfo(dtype).eps
    fixed = compiled(w0, w1, True)
    assert np.abs(fixed / np.sqrt(2) - expected / radius).max() < 5 * np.finfo(dtype).eps


def test_float32_is_float64_without_its_lower_bits():
    single = noise.normal(500, 400, seed=5, dtype=np.float32)
    double = noise.normal(500, 400, seed=5, dtype=np.float64)
    assert np.abs(single - double).max() < 1e-4  # the far tail, where the dropped bits tell most
    assert np.median(np.abs(single - double)) < 1e-7


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_deviate_depends_on_its_place_alone(dtype):
    with threads(1):
        large = noise.normal(13, 29, seed=5, step=3, draw=2, dtype=dtype)
    with threads(2):
        np.testing.assert_array_equal(noise.normal(13, 29, seed=5, step=3, draw=2, dtype=dtype), large)
    np.testing.assert_array_equal(noise.normal(7, 10, seed=5, step=3, draw=2, dtype=dtype), large[:7, :10])
    for other in ({"seed": 6}, {"seed": 5 + 2**32}, {"step": 4}, {"step": 2**31}, {"draw": 3}):
        places = {"seed": 5, "step": 3, "draw": 2, **other}
        assert not np.isin(noise.normal(13, 29, dtype=np.float64, **places), large).any()


def test_purposes_share_no_counter():
    chain = noise.normal(4, 64, seed=1, step=0)
    offsets = (np.zeros(4, np.int64), np.zeros(4, np.int64), np.zeros(33, np.int64))
    (modes,) = noise.field_modes(SimpleNamespace(cube=(4, 4, 64), offsets=offsets), np.ones(1), seed=1)
    assert not np.isin(np.abs(modes.view(float)), np.abs(chain)).any()


def z_of_moments(x):
    """z-scores of the mean, variance, skewness, kurtosis and tails of standard normal deviates."""
    n = x.size
    x = x.astype(np.float64).ravel()
    square = x * x
    scores = [
        x.sum() / np.sqrt(n),
        (square.mean() - 1) / np.sqrt(2 / n),
        (square * x).mean() / np.sqrt(15 / n),
        (square * square).mean() / np.sqrt(96 / n) - 3 / np.sqrt(96 / n),
    ]
    for bound in (0.001, 1.0, 3.0, 4.0, 5.0):
        p = 2 * stats.norm.sf(bound)
        scores.append((np.count_nonzero(np.abs(x) > bound) - n * p) / np.sqrt(n * p * (1 - p)))
    return np.array(scores)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_law(dtype):
    x = noise.normal(2000, 1000, seed=11, dtype=dtype)
    assert np.abs(z_of_moments(x)).max() < 5
    assert stats.kstest(x.ravel(), "norm").pvalue > 1e-6
    for a, b in ((x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:, 0::2], x[:, 1::2])):
        for power in (1, 2):  # neighbours, and the two of a pair, are independent
            z = ((a**power - (power == 2)) * (b**power - (power == 2))).sum(dtype=np.float64)
            assert abs(z / np.sqrt(a.size) / (2 if power == 2 else 1)) < 5


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_law_of_many(dtype):
    """2 * 10^8 deviates, in 40 parts whose z-scores add up."""
    scores, counts = [], np.zeros(4000)
    edges = stats.norm.ppf(np.linspace(0, 1, 4001))
    for step in range(40):
        x = noise.normal(5000, 1000, seed=12, step=step, dtype=dtype)
        scores.append(z_of_moments(x))
        counts += np.histogram(x, edges)[0]
    assert np.abs(np.sum(scores, axis=0) / np.sqrt(len(scores))).max() < 5
    n = counts.sum()
    assert n == 2e8
    distance = np.abs(np.cumsum(counts) / n - np.linspace(0, 1, 4001)[1:]).max()
    assert stats.kstwobign.sf(distance * np.sqrt(n)) > 1e-6
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "1", True, None])
def test_bad_seed(seed):
    with pytest.raises(InputError, match=r"seed is .*whole number from 0 to 2\^64 - 1"):
        noise.normal(1, 1, seed=seed)


@pytest.mark.parametrize("draw", [-1, 2**24, 0.5])
def test_bad_draw(draw):
    with pytest.raises(InputError, match=r"draw is .*whole number from 0 to 2\^24 - 1"):
        noise.normal(1, 1, seed=0, draw=draw)


def test_bad_dtype():
    with pytest.raises(InputError, match="dtype is 'int32': it must be float32 or float64"):
        noise.normal(1, 1, seed=0, dtype="int32")
