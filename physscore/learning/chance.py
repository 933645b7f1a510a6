"""Random numbers of a training, drawn from (seed, step, use) only, so that none of their state is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, number: int, use: int) -> torch.Generator:
    """Return random numbers that depend on seed, step and use only."""
    return torch.Generator().manual_seed(_mixed(seed, number, use))


@contextmanager
def torch_seeded(*numbers: int) -> Iterator[None]:
    """Let torch's own generator, which weights and dropout are drawn from, depend on numbers only: a seed, or
    seed, step and use. Afterwards it is as it was."""
    seed = numbers[0] if len(numbers) == 1 else _mixed(*numbers)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
