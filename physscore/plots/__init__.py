"""Every picture the package draws, a kind a file."""

from physscore.plots.audit import plot_field_audit
from physscore.plots.evidence import plot_log_z
from physscore.plots.fields import plot_field, plot_spectrum
from physscore.plots.figure import require_matplotlib
from physscore.plots.multipoles import plot_multipoles
from physscore.plots.runs import plot_run
from physscore.plots.score_audit import plot_score_audit
from physscore.plots.thermodynamics import plot_thermodynamics

__all__ = [
    "plot_field", "plot_field_audit", "plot_log_z", "plot_multipoles", "plot_run", "plot_score_audit",
    "plot_spectrum", "plot_thermodynamics", "require_matplotlib",
]  # fmt: skip
