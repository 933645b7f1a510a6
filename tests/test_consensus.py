"""What the islands say together: when all of them must go back, as the way there alone is not enough."""

from dataclasses import replace

import numpy as np
import pytest

import physscore as ps
from physscore.evidence.consensus import Seen
from physscore.evidence.excess import excess_of
from physscore.evidence.job import prepare, quiet

ISLANDS, BACK, PARTICLES = 64, 16, 32


@pytest.fixture(scope="module")
def annealed():
    """Return a job and what its islands saw, where nothing is wrong."""
    target, reference = ps.Gaussian(1.0, 0.5, dim=3), ps.Gaussian(0.0, 1.0, dim=3)
    job = prepare(excess_of(reference, target), None, ISLANDS, PARTICLES, None, "smc", 1, quiet)
    unit = job.there(0, ISLANDS)
    return job, replace(unit, back=job.back(0, BACK, unit))


def test_all_islands_go_back_where_few_that_did_scatter_or_control_variates_stray(annealed):
    """One of 16 was 4 nats off, so that a gap of 0.4 nats was none: the mean of the way there passed 8.5
    errors off, and control variates, which strayed, were left out without a word."""
    job, unit = annealed
    assert not Seen.of(job, {0: unit}).uneven
    scattered = unit.back.log_z.copy()
    scattered[6] += 10.0
    assert Seen.of(job, {0: replace(unit, back=replace(unit.back, log_z=scattered))}).uneven
    stray = replace(unit.there, control=unit.there.control + np.abs(unit.there.control).max())
    seen = Seen.of(job, {0: replace(unit, there=stray)})
    assert "control variates" not in seen.estimates
    assert seen.uneven
