"""Two processes share two cores: each has one thread, of torch and of ours, so that none spins or waits."""

import os

# What tests start would else compile the package's Python anew each time, a third of a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("PHYSSCORE_THREADS", "1")


def pytest_collection_modifyitems(items):
    """What compiles the loops goes first: the half of the second process would begin with test_logz_command,
    and both would compile the same for a minute."""
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/contracts/", "tests/test_log")))
