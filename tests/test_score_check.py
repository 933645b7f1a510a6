"""check_score tells right scores from wrong ones in any units, and refuses what it cannot judge."""

import numpy as np
import pytest

import physscore as ps


def wells(x):
    y = np.cosh(1.5 * x - 0.3)
    mixed = 0.05 * np.cos(x.sum(1))
    return np.log(y).sum(1) + 0.1 * (x**4).sum(1) - mixed, -(
        1.5 * np.tanh(1.5 * x - 0.3) + 0.4 * x**3 + 0.05 * np.sin(x.sum(1))[:, None]
    )


def normal(x):
    return 0.5 * (x**2).sum(1), -x


def counts(x):  # a gamma law, not defined below -6
    return (4 * x - 20 * np.log(x + 6)).sum(1), 20 / (x + 6) - 4


def steep(x):
    return np.exp(3 * x).sum(1) + (x**4).sum(1), -3 * np.exp(3 * x) - 4 * x**3


def in_units(function, unit, middle=0.0, constant=0.0, single=False):
    """The same in other units, around another place, with a constant; or computed in float32."""

    def both(x):
        y = (x - middle) / unit
        energy, score = function(y.astype(np.float32) if single else y)
        return energy + constant, score / unit

    return both


def wrong_in(both, component, factor):
    def changed(x):
        energy, score = both(x)
        score = np.array(score)
        score[:, component] *= factor
        return energy, score

    return changed


def passes(both, x):
    return ps.check_score(ps.from_functions(energy_and_score=both, shape=x.shape[1]), x).passed


@pytest.mark.parametrize("dim", [1, 3, 12])
@pytest.mark.parametrize("function", [wells, normal, counts, steep])
def test_units_do_not_matter(function, dim):
    rng = np.random.default_rng(0)
    mixed = 10.0 ** rng.uniform(-9, 9, dim)
    for unit in (np.full(dim, 1e-8), np.ones(dim), np.full(dim, 1e8), mixed):
        for middle, constant in ((0.0, 0.0), (1.0, 1e6), (1e4, 0.0)):
            x = unit * (middle + rng.normal(size=(6, dim)))
            both = in_units(function, unit, middle * unit, constant)
            assert passes(both, x)
            assert passes(both, x[:1])
            assert not passes(wrong_in(both, slice(None), -1.0), x)
            for factor in (1.01, -1.0, 0.0):
                assert not passes(wrong_in(both, rng.integers(dim), factor), x)


@pytest.mark.parametrize("function", [wells, normal, counts])
def test_energies_in_float32(function):
    rng = np.random.default_rng(0)
    for unit in (1e-8, 1.0, 1e8):
        x = unit * rng.normal(size=(6, 3))
        both = in_units(function, np.float32(unit), single=True)
        assert passes(both, x)
        for factor in (1.05, -1.0, 0.0):
            assert not passes(wrong_in(both, 1, factor), x)


def test_an_amplitude_beside_a_hubble_constant():
    def both(x):
        a, h = x[:, 0] / 2.1e-9, x[:, 1] / 70
        return 200 * (a - np.log(a)) + 0.5 * ((h - 1) / 0.02) ** 2, -np.stack(
            [(200 - 200 / a) / 2.1e-9, (h - 1) / 0.0004 / 70], 1
        )

    rng = np.random.default_rng(0)
    x = np.stack([2.1e-9 * (1 + 0.07 * rng.normal(size=5)), 70 * (1 + 0.02 * rng.normal(size=5))], 1)
    for states in (x, x[:1]):
        assert passes(both, states)
        for component in (0, 1):
            for factor in (-1.0, 0.0, 1.01):
                assert not passes(wrong_in(both, component, factor), states)


@pytest.mark.parametrize("size", [1e-8, 1e-3, 1.0, 1e8])
def test_mixtures_of_any_size(size):
    mixture = ps.GaussianMixture([0.5, 0.5], [[-size, -size], [size, size]], (0.5 * size) ** 2)
    x = size * np.random.default_rng(0).normal(size=(5, 2))
    assert ps.check_score(mixture, x, tolerance=1e-6)
    assert not passes(lambda y: (mixture.energy(y), -mixture.score(y)), x)


def test_tiny_powers_walls_and_modes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 3))
    for power in (1e-3, 1e-6, 1e-9):
        assert passes(lambda y, c=power: tuple(c * part for part in wells(y)), x)
        assert not passes(lambda y, c=power: (c * wells(y)[0], -c * wells(y)[1]), x)
    assert passes(normal, np.zeros((1, 3)))
    assert passes(counts, np.full((1, 3), -1.0))  # its mode
    bounded = ps.Parameters(a=ps.Uniform(0.0, 1.0), b=ps.Normal(0.0, 1.0))
    assert ps.check_score(bounded, [[1e-9, 0.3], [0.5, 0.2]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_wrong(value):
    x = np.random.default_rng(0).normal(size=(6, 2))
    check = ps.check_score(ps.from_functions(energy_and_score=wrong_in(normal, 1, value), shape=2), x)
    assert not check
    assert check.error == np.inf
    assert "wrong at component (1,)" in check.message
    assert "times" not in check.message


def test_energies_that_are_not_finite_are_refused():
    x = np.array([[1.0], [-1.0]])
    for energy in (np.sqrt, lambda x: np.where(x > 0, x, np.inf)):
        with np.errstate(invalid="ignore"), pytest.raises(ps.InputError, match=r"x\[1\] has the energy"):
            passes(lambda y, e=energy: (e(y)[:, 0], y), x)


def test_energies_that_jump_or_scatter_cannot_be_checked():
    rng = np.random.default_rng(0)
    jump = ps.from_functions(energy_and_score=lambda x: (np.where(x > 0, 0, 5.0)[:, 0], 0 * x), shape=1)
    noise = ps.from_functions(
        energy_and_score=lambda x: (normal(x)[0] + 0.3 * rng.normal(size=len(x)), -x), shape=1
    )
    for energy, x in ((jump, [[0.0]]), (noise, [[1.0]])):
        check = ps.check_score(energy, x)
        assert not check
        assert "cannot be checked at component (0,) of x[0]" in check.message


def test_states_that_are_not_real_numbers_are_refused():
    x = np.random.default_rng(0).normal(size=(6, 2))
    energy = ps.Gaussian(0.0, 1.0, dim=2)
    for wrong, said in (
        (np.ma.masked_array(x, x > 0), "masked"),
        (x + 1j, "real numbers"),
        (np.zeros((6, 2), [("a", "f8")]), "real numbers"),
        (x * np.nan, "x\\[0\\] has the energy nan"),
    ):
        with pytest.raises(ps.InputError, match=said):
            ps.check_score(energy, wrong)
