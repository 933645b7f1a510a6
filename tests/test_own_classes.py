"""Energies that users write as classes."""

import numpy as np
import pytest

import physscore as ps
from physscore.energies.analytic import Analytic

GRID = ps.Grid((4, 4), 4.0)
BUILT_IN = {
    "gaussian": ps.Gaussian,
    "noise": ps.GaussianNoise,
    "uniform": ps.Uniform,
    "field": ps.GaussianRandomField,
    "phi4": ps.Phi4,
}


@pytest.mark.parametrize("name", ["energy", "score", "energy_and_score"])
@pytest.mark.parametrize("base", BUILT_IN)
def test_another_density_than_that_of_a_built_in_class(base, name):
    """Samplers would not see it: they know the built-in one in compiled and other forms."""
    built_in = BUILT_IN[base]
    right = f"Mine changes {name} of {built_in.__name__}, .*derive it from ps.Energy and keep a"
    with pytest.raises(ps.InputError, match=right):
        type("Mine", (built_in,), {name: lambda self, x: getattr(built_in, name)(self, x)})

    mixed_in = type("Half", (), {name: lambda self, x: x})
    with pytest.raises(ps.InputError, match=right):
        type("Mine", (mixed_in, built_in), {})


def test_what_else_a_class_may_change_of_a_built_in_one():
    class Mine(ps.Gaussian):
        def __init__(self):
            super().__init__(1.0, 4.0, dim=2)

        def sample(self, n, *, seed):
            return 1.0 + 2.0 * np.random.default_rng(seed).normal(size=(n, 2))

        def __repr__(self):
            return "mine"

    class Still(Mine):
        pass

    for mine in (Mine(), Still()):
        run = ps.sample(mine, ps.HMC(), chains=100, steps=50, seed=1)
        plain = ps.sample(ps.Gaussian(1.0, 4.0, dim=2), ps.HMC(), chains=100, steps=50, seed=1)
        np.testing.assert_array_equal(run.draws, plain.draws)
        assert repr(mine) == "mine"


def test_classes_that_are_meant_for_it_are_derived_from():
    class Base(ps.Energy):
        shape = (2,)

        def energy(self, x):
            return 0.5 * (x**2).sum(axis=1)

        def score(self, x):
            return -x

    class Steeper(Base):
        def energy(self, x):
            return 4 * super().energy(x)

        def score(self, x):
            return 4 * super().score(x)

    class Formula(Analytic):
        shape = (1,)

        def _formula(self, x):
            return 0.5 * (x**2).sum(axis=1), x

    x = np.ones((3, 2))
    np.testing.assert_array_equal(Steeper().energy_and_score(x)[1], -4 * x)
    np.testing.assert_array_equal(Formula().score(x[:, :1]), -x[:, :1])


def with_own_class():
    class Mine(ps.Energy):
        shape = (4, 4)

        def energy_and_score(self, x):
            return 0.5 * (x**2).sum(axis=(1, 2)), -x

    assert " at 0x" not in repr(Mine())
    Mine.__repr__ = object.__repr__
    return ps.GaussianRandomField(GRID, ps.spectra.PowerLaw(index=0.0, amplitude=1.0)) + Mine()


def with_own_spectrum():
    def spectrum(k):
        return 1 / (1 + k**2)

    return ps.GaussianRandomField(GRID, spectrum) + ps.GaussianNoise(np.ones(GRID.shape), 0.5)


@pytest.mark.parametrize("make", [with_own_class, with_own_spectrum])
def test_a_job_of_own_objects_is_gone_on_with(tmp_path, make):
    """They are at other addresses in another process, as these two are in one."""
    first, again = make(), make()
    assert repr(first) != repr(again)
    job = {"chains": 2, "steps": 20, "warmup": 20, "output": tmp_path / "run.h5"}
    run = ps.sample(first, ps.HMC(), **job)
    np.testing.assert_array_equal(ps.sample(again, ps.HMC(), resume=True, **job).draws[...], run.draws[...])
    job = {"particles": 128, "checkpoint": tmp_path / "z.h5"}
    found = ps.estimate_log_z(first, **job)
    assert ps.estimate_log_z(again, resume=True, **job).log_z == found.log_z
    job = {"chains": 2, "steps": 20, "warmup": 20, "output": tmp_path / "run.h5", "resume": True}
    with pytest.raises(ps.InputError, match="another job"):
        ps.sample(ps.GaussianRandomField(GRID, np.ones_like), ps.HMC(), **job)


def test_draws_of_a_wrong_shape():
    class Mine(ps.Prior):
        shape = (1,)

        def energy_and_score(self, x):
            return 0.5 * (x**2).sum(axis=1) + 0.5 * np.log(2 * np.pi), -x

        def sample(self, n, *, seed):
            return np.random.default_rng(seed).normal(size=n)

        def whiten(self, x):
            return x

        def unwhiten(self, z):
            return z

        def pull_back(self, z, gradient):
            return gradient

    target = Mine() + ps.GaussianNoise([0.5], 1.0)
    for sampled in (ps.sample, ps.temper):
        with pytest.raises(ps.InputError, match=r"sample\(4\) of Mine.* returned \(4,\), expected \(4, 1\)"):
            sampled(target, chains=4, steps=10)


class Shared(ps.Energy):
    """Objects of this class use the same arrays."""

    shape = (2,)
    arrays: dict = {}  # noqa: RUF012

    def __init__(self, mean):
        self.mean = mean

    def energy_and_score(self, x):
        energy, score = self.arrays.setdefault(len(x), (np.empty(len(x)), np.empty(x.shape)))
        np.subtract(self.mean, x, out=score)
        return np.einsum("ni,ni->n", 0.5 * score, score, out=energy), score


def test_objects_that_share_an_array_are_added():
    """The score was [8, 8] for [4, 4]."""
    x = np.zeros((1, 2))
    for total in (Shared(0.0) + Shared(4.0), Shared(4.0) + Shared(0.0), Shared(0.0) + 1.0 * Shared(4.0)):
        np.testing.assert_array_equal(total.score(x), [[4.0, 4.0]])
        np.testing.assert_array_equal(total.energy_and_score(x)[0], [16.0])
        np.testing.assert_array_equal(total.energy(x), [16.0])
    np.testing.assert_array_equal((Shared(4.0) + ps.Gaussian(0.0, 1.0, dim=2)).score(x), [[4.0, 4.0]])


def log_gamma(x):
    logs = np.ma.log(x)  # masked where x is negative
    return (x - 2 * logs).sum(axis=1), 2 / np.ma.masked_where(x < 0, x) - 1


class Gamma(ps.Energy):
    shape = (1,)

    def energy_and_score(self, x):
        return log_gamma(x)


@pytest.mark.parametrize(
    "target",
    [
        Gamma(),
        2 * Gamma(),
        ps.from_functions(energy_and_score=log_gamma, shape=1),
        ps.from_functions(energy=lambda x: log_gamma(x)[0], score=lambda x: 1 / x, shape=1),
        ps.Guidance(log_gamma, 1.0, shape=1),
    ],
    ids=["class", "sum", "both", "energy", "guidance"],
)
def test_masked_numbers_are_none(target):
    """They were taken for what lies under the mask: a gamma distribution had negative draws."""
    assert np.isfinite(target.energy_and_score(np.ones((2, 1)))[0]).all()
    with pytest.raises(
        ps.InputError, match=r"\(x\) returned a masked array with 1 masked values: return num"
    ):
        target.energy_and_score(np.array([[1.0], [-1.0]]))
    with pytest.raises(ps.InputError, match="masked array"):
        ps.sample(target, ps.MALA(), chains=100, steps=100, seed=1, init=np.ones(1))


def test_energies_are_subtracted_and_divided():
    a, b, x = ps.Gaussian(0.0, 1.0, dim=2), ps.Gaussian(1.0, 4.0, dim=2), np.array([[0.5, 2.0]])
    e, f = a.energy(x), b.energy(x)
    for made, expected in (
        (a - b, e - f), (-a, -e), (a / 2, e / 2), (a / np.float32(0.5), 2 * e), (sum([a, b]), e + f),
        (a - a, 0 * e), (a + b - b, e), (sum([a]), e), ((a + b) / 4 - a / 4, f / 4),
    ):  # fmt: skip
        np.testing.assert_allclose(made.energy(x), expected, rtol=1e-12, atol=1e-15)
    assert a + b - b is a
    assert sum([a]) is a
    tilted = ps.from_functions(score=lambda x: -x, shape=2)
    np.testing.assert_allclose((a - tilted / 2).score(x), -x / 2)
    for divisor in (0, 0.0, "2", True, None):
        with pytest.raises(ps.InputError, match="divisor is .*: an energy is divided by a number other than"):
            a / divisor
    with pytest.raises(ps.InputError, match="cannot add a float to an energy"):
        1.0 + a
    with pytest.raises(ps.InputError, match="cannot add a float to an energy"):
        a - 1.0


@pytest.mark.parametrize("shape", [None, 2, [2], (2.0,)])
def test_a_class_says_the_shape_of_a_state(shape):
    class Mine(ps.Energy):
        def __init__(self):
            if shape is not None:
                self.shape = shape

        def energy_and_score(self, x):
            return 0.5 * (x**2).sum(axis=1), -x

    right = r"shape of Mine is .*: it must be that of one state, as in shape = \(2,\)"
    with pytest.raises(ps.InputError, match=right):
        ps.sample(Mine(), chains=2, steps=5)
    with pytest.raises(ps.InputError, match=right):
        ps.estimate_log_z(Mine())
    with pytest.raises(ps.InputError, match=right):
        Mine() + ps.Gaussian(0.0, 1.0, dim=2)
