"""The picture of an estimate of log Z is drawn whatever the estimate is like."""

from dataclasses import replace

import numpy as np
import pytest

import physscore as ps
from physscore.plots import plot_log_z


@pytest.fixture(scope="module")
def estimate():
    return ps.estimate_log_z(ps.Gaussian(0.0, 2.0, dim=2), ps.Gaussian(0.0, 1.0, dim=2), particles=128)


CHANGES = {
    "as it is": lambda z: {},
    "one leg": lambda z: {"work": {"forward": z.work["forward"]}},
    "no legs": lambda z: {"work": {}},
    "lost": lambda z: {"work": {leg: np.where(w > w.mean(), -np.inf, w) for leg, w in z.work.items()}},
    "wide": lambda z: {"work": {leg: -np.exp(20 * (w - w.mean())) for leg, w in z.work.items()}},
    "no error": lambda z: {"error": 0.0, "islands": np.zeros_like(z.islands)},
    "one temperature": lambda z: {"betas": np.array([0.0, 1.0]), "rungs": z.rungs[:1], "ess": z.ess[:2],
                                  "acceptance": z.acceptance[:2]},
    "steep": lambda z: {"rungs": z.rungs * np.logspace(0, 6, len(z.rungs))},
    "constant": lambda z: {"rungs": np.zeros_like(z.rungs)},
    "crowded": lambda z: {"betas": np.concatenate([[0.0], np.geomspace(1e-9, 1.0, len(z.betas) - 1)])},
    "reasons": lambda z: {"reasons": ["a long reason " * 30, "another"], "target": "a + b" * 100},
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_picture(tmp_path, estimate, name):
    path = tmp_path / "z.png"
    plot_log_z(path, replace(estimate, **CHANGES[name](estimate)), exact=0.0 if name == "wide" else None)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["z.png"]
