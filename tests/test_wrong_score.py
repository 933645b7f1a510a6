"""Scores that are plainly wrong are refused before the run, and no others are."""

import numba
import numpy as np
import pytest

import physscore as ps
from physscore.evidence.wrong_score import refuse_wrong_score

ROWS = np.vander(np.linspace(-1.0, 1.0, 50), 3)
PRIOR = ps.Parameters(a=ps.Normal(0.0, 3.0), b=ps.Normal(0.0, 3.0), c=ps.HalfCauchy(2.0))


def regression(factor):
    def both(c):
        off = (c @ ROWS.T - 1.0) / 0.1
        return 0.5 * (off**2).sum(axis=1), -factor * off @ ROWS / 0.1

    return ps.from_functions(energy_and_score=both, shape=3)


@numba.njit
def reversed_sign(x, params, gradient_out):
    energy = 0.0
    for i in range(len(x)):
        gradient_out[i] = 1.0 - x[i]
        energy += 0.5 * (x[i] - 1.0) ** 2
    return energy


@pytest.mark.parametrize("method", ["smc", "tempering"])
@pytest.mark.parametrize(
    ("target", "reference", "said"),
    [
        (PRIOR + regression(-1.0), None, "draws from the prior.*all signs are reversed"),
        (PRIOR + regression(-1.0), "fitted", "draws from the prior.*all signs are reversed"),
        (PRIOR + regression(5.0), None, "it must be -grad E"),
        (regression(-1.0), ps.Gaussian(0.0, 4.0, dim=3), "draws from the reference.*all signs are reversed"),
        (regression(-1.0), None, "draws from a first reference.*all signs are reversed"),
        (PRIOR + ps.compiled(reversed_sign, dim=3), None, "all signs are reversed"),
    ],
    ids=["prior", "fitted to a posterior", "factor", "reference", "fitted", "compiled"],
)
def test_a_plainly_wrong_score_is_refused_before_the_run(target, reference, said, method):
    """It took one to five minutes until the verdict said so, or one that a bound is missing."""
    with pytest.raises(ps.InputError, match=f"score does not fit the energy at .*{said}"):
        ps.estimate_log_z(target, reference, method=method)


def of(energy, score):
    return ps.Parameters(x=ps.TruncatedNormal(0.0, 1.0, low=0.0)) + ps.from_functions(
        energy=energy, score=score, shape=1
    )


@pytest.mark.parametrize(
    "target",
    [
        PRIOR + regression(1.0),
        PRIOR + regression(1.3),  # is left to the verdict
        of(lambda x: np.abs(x[:, 0] - 1), lambda x: -np.sign(x - 1)),
        of(lambda x: np.floor(3 * x[:, 0]), lambda x: 0 * x),
        of(lambda x: np.floor(1e6 * x[:, 0]), lambda x: 0 * x),
        of(lambda x: np.floor(50 * x[:, 0]) / 50, lambda x: -1 + 0 * x),
        of(lambda x: 1e9 + 0.5 * (x[:, 0] - 1) ** 2, lambda x: 1 - x),
        of(lambda x: np.float32(1e4) + (np.float32(x[:, 0]) - 1) ** 2, lambda x: 2 * (1 - x)),
        of(lambda x: np.where(x[:, 0] > 0.5, np.inf, x[:, 0]), lambda x: -1 + 0 * x),
        of(lambda x: np.full(len(x), np.nan), lambda x: np.nan * x),
    ],
    ids=["right", "factor", "kink", "jumps", "many jumps", "steps", "constant", "float32", "wall", "nan"],
)
def test_others_are_not(target):
    refuse_wrong_score(target, target.prior, "the prior")
