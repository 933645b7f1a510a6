"""Two processes share two cores: torch gets one thread in each, whose others would spin against our own."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
