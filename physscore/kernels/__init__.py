"""How one step is made: Langevin and Hamiltonian kernels, their metrics, and the two loops that run them.

``langevin.py`` and ``hamiltonian.py`` hold the kernels' settings, ``metric.py`` their preconditioners,
``moves.py`` the formulas, ``fused.py`` and ``batched.py`` the loops, ``loops.py`` their common face.
"""

from physscore.kernels.hamiltonian import HMC
from physscore.kernels.langevin import MALA, ULA, AutoMALA, CrankNicolson, Underdamped
from physscore.kernels.metric import Dense, Diagonal, Fourier, Identity, Metric

__all__ = [
    "HMC", "MALA", "ULA", "AutoMALA", "CrankNicolson", "Dense", "Diagonal", "Fourier", "Identity", "Metric",
    "Underdamped",
]  # fmt: skip
