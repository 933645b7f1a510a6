"""Functions of the user's that change their states in place: everything is as with ones that do not."""

import numpy as np
import pytest

import physscore as ps

MEAN = np.array([3.0, -2.0])
PRIOR = ps.Gaussian(0.0, 100.0, dim=2)


def energy(x):
    x -= MEAN
    return 0.5 * (x**2).sum(axis=1)


def score(x):
    x -= MEAN
    x *= -1
    return x  # the array it was given


def both(x):
    x -= MEAN
    return 0.5 * (x**2).sum(axis=1), -x


def log_p_class(x):
    found = both(x)
    return -found[0], found[1]


class Own(ps.Energy):
    shape = (2,)

    def energy(self, x):
        return energy(x)

    def score(self, x):
        return score(x)


class OwnBoth(ps.Energy):
    shape = (2,)

    def energy_and_score(self, x):
        return both(x)


class OwnScore(ps.core.Score):
    shape = (2,)

    def score(self, x):
        return score(x)


def pure(x):
    return both(x.copy())


PURE = ps.from_functions(energy_and_score=pure, shape=2)
ENERGIES = {
    "both": ps.from_functions(energy_and_score=both, shape=2),
    "apart": ps.from_functions(energy=energy, score=score, shape=2),
    "class": Own(),
    "class of both": OwnBoth(),
    "guidance": ps.Guidance(log_p_class, shape=2),
}
SCORES = {"function": ps.from_functions(score=score, shape=2), "class": OwnScore()}
KERNELS = [ps.ULA(0.1), ps.MALA(), ps.AutoMALA(), ps.Underdamped(), ps.HMC(), ps.CrankNicolson()]
OPTIONS = {"chains": 4, "steps": 20, "warmup": 20, "seed": 1}


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
def test_chains(name, kernel):
    whole = [PRIOR + target if isinstance(kernel, ps.CrankNicolson) else target
             for target in (PURE, ENERGIES[name])]  # fmt: skip
    expected, found = (ps.sample(target, kernel, **OPTIONS) for target in whole)
    np.testing.assert_array_equal(found.draws, expected.draws)
    np.testing.assert_array_equal(found.energies, expected.energies)


@pytest.mark.parametrize("name", ENERGIES)
def test_states_and_sums(name):
    x = np.random.default_rng(0).normal(size=(5, 2))
    kept, target = x.copy(), ENERGIES[name]
    for call in (target.energy, target.score, target.energy_and_score):
        call(x)
        np.testing.assert_array_equal(x, kept)
    np.testing.assert_array_equal((target + PRIOR).score(x), (PURE + PRIOR).score(x))
    assert ps.check_score(target, x)


@pytest.mark.parametrize("name", ["both", "class"])
def test_temperatures(name):
    options = {"chains": 4, "steps": 10, "warmup": 10, "seed": 1}
    expected, found = (ps.temper(PRIOR + target, **options) for target in (PURE, ENERGIES[name]))
    np.testing.assert_array_equal(found.draws, expected.draws)
    expected, found = (
        ps.estimate_log_z(ps.Gaussian(0.0, 1.0, dim=2) + target, particles=128, seed=1)
        for target in (PURE, ENERGIES[name])
    )
    assert (found.log_z, found.error) == (expected.log_z, expected.error)


@pytest.mark.parametrize("name", SCORES)
def test_noise_levels(name):
    levels = np.geomspace(1.0, 0.5, 4)
    expected, found = (
        ps.heun(lambda sigma: target, levels, 50, seed=1)  # noqa: B023
        for target in (PURE, SCORES[name])
    )
    np.testing.assert_array_equal(found, expected)
    options = {"chains": 50, "steps": 5, "step_size": 0.01, "seed": 1}
    expected, found = (
        ps.annealed_langevin(lambda sigma: target, levels, **options)  # noqa: B023
        for target in (PURE, SCORES[name])
    )
    np.testing.assert_array_equal(found, expected)


def test_coordinates_of_a_class():
    """A user's prior whose coordinates are made in place."""

    class Wide(ps.Prior):
        shape = (2,)

        def energy_and_score(self, x):
            x /= 3.0
            return 0.5 * (x**2).sum(axis=1) + np.log(18 * np.pi), -x / 3

        def sample(self, n, *, seed):
            return 3 * np.random.default_rng(seed).normal(size=(n, 2))

        def whiten(self, x):
            x /= 3.0
            return x

        def unwhiten(self, z):
            z *= 3.0
            return z

        def pull_back(self, z, gradient):
            gradient *= 3.0
            return gradient

    likelihood = ps.GaussianNoise([1.0, 2.0], 0.5)
    made = [ps.sample(prior + likelihood, ps.CrankNicolson(), chains=4, steps=20, warmup=20, seed=1,
                      init=np.ones(2)) for prior in (Wide(), ps.Gaussian(0.0, 9.0, dim=2))]  # fmt: skip
    np.testing.assert_allclose(made[0].draws, made[1].draws, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_modules(dtype):
    torch = pytest.importorskip("torch")

    class Shifted(torch.nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.mean, self.inside = (
                torch.nn.Parameter(torch.tensor(MEAN, dtype=getattr(torch, dtype))),
                inside,
            )

        def forward(self, x):
            if not self.inside:
                return self.mean - x
            x -= self.mean
            return -x

    x = np.random.default_rng(0).normal(size=(5, 2)).astype(dtype)
    kept, target = x.copy(), ps.from_torch(Shifted(True), 2)
    target.score(x)
    np.testing.assert_array_equal(x, kept)
    options = {**OPTIONS, "dtype": dtype}
    expected, found = (ps.sample(ps.from_torch(Shifted(i), 2), ps.ULA(0.1), **options) for i in (False, True))
    np.testing.assert_array_equal(found.draws, expected.draws)
