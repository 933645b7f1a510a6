"""Masked arrays are not taken for what lies under their masks: every diagnostic refuses them."""

import numpy as np
import pytest

import physscore as ps
from physscore.core import InputError
from physscore.diagnostics.calibration import (
    central_coverage,
    interval_coverage,
    simulation_based_calibration,
    tarp,
)
from physscore.diagnostics.collapse import collapse, differential_entropy
from physscore.diagnostics.field_audit import compare_fields
from physscore.diagnostics.two_sample import classifier_test, energy_test

RNG = np.random.default_rng(0)
GRID = ps.Grid((8, 8), 1.0)
TRUTH, DRAWS = RNG.normal(size=(100, 1)), RNG.normal(size=(100, 20, 1))
X, MAPS = RNG.normal(size=(100, 2)), RNG.normal(size=(20, 8, 8))


def masked(x, some=True):
    found = np.ma.array(x, mask=np.zeros(x.shape, bool))
    found.mask.flat[3] = some
    return found


CALLS = {
    "ranks": lambda m: simulation_based_calibration(TRUTH, m(DRAWS)),
    "ranks of truths": lambda m: simulation_based_calibration(m(TRUTH), DRAWS),
    "tarp": lambda m: tarp(TRUTH, m(DRAWS)),
    "coverage": lambda m: central_coverage(TRUTH, m(DRAWS)),
    "intervals": lambda m: interval_coverage(TRUTH[:, 0], m(TRUTH[:, 0] - 1), TRUTH[:, 0] + 1),
    "energy": lambda m: energy_test(m(X), X, permutations=99),
    "classifier": lambda m: classifier_test(X, m(X), permutations=99),
    "features": lambda m: classifier_test(X, m(X), features=np.asarray, permutations=99),
    "collapse": lambda m: collapse(X, m(X), permutations=99),
    "entropy": lambda m: differential_entropy(m(X)),
    "maps": lambda m: compare_fields(m(MAPS), MAPS, GRID, permutations=8000),
    "maps of the reference": lambda m: compare_fields(MAPS, m(MAPS), GRID, permutations=8000),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_masked_is_refused(name):
    with pytest.raises(InputError, match="1 masked values"):
        CALLS[name](masked)
    CALLS[name](lambda x: masked(x, some=False))
