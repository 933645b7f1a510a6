"""Losses, scores and samplers, ours or anybody's, held to closed forms; what is wrong is said in words.

``check_loss`` (``losses``, ``trial``; ``diagnosis`` finds the words), ``check_score_at`` (``scores``),
``check_sampler`` (``samplers``) and, for annealed Langevin, ``check_annealed_step`` and
``check_annealed_moves`` (``steps``) each return a ``Report``. The laws are in ``systems``, their scores in
torch in ``truth``, and those made wrong on purpose in ``models``.
"""

from physscore.learning.conformance.losses import check_loss
from physscore.learning.conformance.report import FALSE_ALARMS, Check, Report
from physscore.learning.conformance.samplers import annealed_settings, check_sampler
from physscore.learning.conformance.scores import check_score_at
from physscore.learning.conformance.steps import check_annealed_moves, check_annealed_step
from physscore.learning.conformance.systems import System, all_systems, gaussian, mixture, random_field

__all__ = [
    "FALSE_ALARMS",
    "Check",
    "Report",
    "System",
    "all_systems",
    "annealed_settings",
    "check_annealed_moves",
    "check_annealed_step",
    "check_loss",
    "check_sampler",
    "check_score_at",
    "gaussian",
    "mixture",
    "random_field",
]
