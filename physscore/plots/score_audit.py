"""Pictures of audits of scores: curvatures, gaps of integrals, errors, rays and steps."""

from __future__ import annotations

import os
from textwrap import fill, shorten
from typing import TYPE_CHECKING, Any

import numpy as np

from physscore.core import Array
from physscore.diagnostics.verdict_of_score import BAND_COSINE, CURL, GAIN, PATHS
from physscore.plots.figure import MEASURED, MODEL, pyplot, write

if TYPE_CHECKING:
    from physscore.diagnostics.score_field import ScoreAudit

_MOST_LINES = 60
_STEEP = 30.0  # ratio of values above which an axis is logarithmic
_LEAST = 1e-6  # of the largest value: below, it is rounding


def plot_score_audit(path: str | os.PathLike[str], audit: ScoreAudit, *, title: str = "") -> None:
    """Draw what an audit of a score found.

    Parameters
    ----------
    path
        Picture to write; its ending says the format.
    audit
        From ``audit_score``.
    title
        What stands above it. [default: the target, and whether it has passed, with the first reasons]
    """
    plt = pyplot()
    figure, axes = plt.subplots(2, 3, figsize=(15.5, 9), layout="constrained")
    _draw_curvatures(axes[0, 0], audit)
    _draw_steps(axes[0, 1], audit)
    _draw_error(axes[0, 2], audit)
    _draw_curl(axes[1, 0], audit)
    _draw_gaps(axes[1, 1], audit)
    _draw_rays(axes[1, 2], audit)
    figure.suptitle(title or _heading(audit), fontsize=11)
    write(figure, path)


def _heading(audit: ScoreAudit) -> str:
    head = f"{shorten(audit.target, 90, placeholder=' ...')}: {'passed' if audit.passed else 'FAILED'}"
    more = [f"and {len(audit.reasons) - 3} more"] if len(audit.reasons) > 3 else []
    return "\n".join([head, *(fill(reason, 150) for reason in audit.reasons[:3]), *more])


def _missing(axes: Any, words: str) -> None:
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color="gray")
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_curvatures(axes: Any, audit: ScoreAudit) -> None:
    """Draw the curvatures, minus the eigenvalues of the Jacobian, state by state."""
    axes.set_title("curvatures: eigenvalues of -J")
    spectrum = audit.spectrum
    if spectrum is None:
        _missing(axes, "the score has no finite derivative")
        return
    curvatures = -spectrum.eigenvalues.real[:_MOST_LINES, ::-1]
    for values in curvatures:
        known = values[np.isfinite(values)]
        axes.plot(np.arange(1, len(known) + 1), known, ".-", ms=4, lw=0.6, color=MEASURED, alpha=0.35)
    _scale(axes.set_yscale, curvatures[np.isfinite(curvatures)])
    axes.axhline(0, color="gray", lw=0.8)
    if audit.step_size is not None:
        axes.axhline(2 / audit.step_size, color=MODEL, ls="--", label=f"2 / step of {audit.step_size:.3g}")
    if np.isfinite(spectrum.stable_step):
        axes.plot([], [], " ", label=f"stable step: below {spectrum.stable_step:.3g}")
    _whole_ticks(axes, curvatures.shape[1])
    ends = "" if spectrum.exact else " (both ends only)"
    axes.set_xlabel(f"number of the eigenvalue{ends}, at {_counted(len(curvatures), 'state')}")
    _legend(axes)


def _scale(set_scale: Any, values: Array) -> None:
    """Make an axis logarithmic if values span far, and linear around 0 if they have both signs."""
    size = np.abs(values[values != 0])
    if not len(size) or size.max() < _STEEP * size.min():
        return
    real = size[size > _LEAST * size.max()]
    if (values < _LEAST * size.max()).any():
        set_scale("symlog", linthresh=max(float(np.quantile(real, 0.1)), 1e-4 * float(size.max())))
    else:
        set_scale("log")


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _whole_ticks(axes: Any, n: int) -> None:
    if n <= 12:
        axes.set_xticks(np.arange(1, n + 1))


def _draw_steps(axes: Any, audit: ScoreAudit) -> None:
    """Draw the step sizes at which drift is noise, and up to which ULA is stable, over the states."""
    axes.set_title("steps x + $\\epsilon$ s + $\\sqrt{2\\epsilon}$ $\\xi$")
    drift, spectrum = audit.drift, audit.spectrum
    if drift is None:
        _missing(axes, "too few states with a finite score")
        return
    balanced = drift.balanced[np.isfinite(drift.balanced)]
    stable = np.empty(0) if spectrum is None else spectrum.stable_steps[np.isfinite(spectrum.stable_steps)]
    every = np.concatenate([balanced, stable])
    if not len(every):
        _missing(axes, "the score is zero")
        return
    low, high = every.min() / 1.5, np.quantile(every, 0.999) * 1.5
    wider = max(1.0, (_STEEP * low / high) ** 0.5)
    bins = np.geomspace(low / wider, high * wider, 41)
    shown = [
        (balanced, "drift = noise: $2d / |s|^2$", MEASURED),
        (stable, "largest stable step", MODEL),
    ]
    for values, name, colour in shown:
        if len(values) and np.ptp(values) < 0.02 * values.max():  # one number for all
            axes.axvline(np.median(values), color=colour, lw=2.5, label=name)
        elif len(values):
            axes.hist(values, bins, weights=np.full(len(values), 1 / len(values)), color=colour, alpha=0.45,
                      label=name)  # fmt: skip
    if audit.step_size is not None:
        axes.axvline(audit.step_size, color="black", ls="--", label=f"step size {audit.step_size:.3g}")
    axes.set(xscale="log", xlabel="step size $\\epsilon$", ylabel="share of the states")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.25)
    _legend(axes)


def _draw_error(axes: Any, audit: ScoreAudit) -> None:
    """Draw gain and cosine by band of k, or the cosines of all states, or without a truth div s."""
    if audit.bands is not None:
        bands = audit.bands
        for values, error, name, colour in (
            (bands.gain, bands.gain_error, "gain", MEASURED),
            (bands.cosine, bands.cosine_error, "cosine", MODEL),
        ):
            axes.errorbar(bands.k, values, np.nan_to_num(error), fmt=".-", color=colour, label=name, lw=1)
        axes.axhspan(*GAIN, color=MEASURED, alpha=0.1, lw=0, label="gain that passes")
        axes.axhline(BAND_COSINE, color=MODEL, lw=1, ls=":", label="lowest cosine that passes")
        low, high = axes.get_ylim()
        axes.set(xlabel="k", title="score against the truth, by band", ylim=(low, high + 0.3 * (high - low)))
        _legend(axes, 2)
    elif audit.error is not None and np.isfinite(audit.error.cosines).any():
        cosines = audit.error.cosines[np.isfinite(audit.error.cosines)]
        low = min(float(cosines.min()), 0.9)
        axes.hist(cosines, np.linspace(low, 1.0, 41), weights=np.full(len(cosines), 1 / len(cosines)),
                  color=MEASURED)  # fmt: skip
        axes.set(xlabel="cosine between the score and the true one", ylabel="share of the states")
        axes.set_title(
            f"mean cosine {audit.error.cosine.value:.3g}, best scale {audit.error.scale.value:.3g}"
        )
    elif audit.divergence is not None:
        _draw_divergence(axes, audit)
    else:
        _missing(axes, "no truth, and no divergence")


def _draw_divergence(axes: Any, audit: ScoreAudit) -> None:
    stats = audit.divergence
    assert stats is not None
    axes.plot(stats.norms, stats.values, ".", ms=4, alpha=0.5, color=MEASURED)
    low, high = float(stats.norms.min()), float(stats.norms.max())
    line = np.linspace(low, high, 50)
    axes.plot(line, -line, color=MODEL, lw=1, label="-div s = $|s|^2$: on average, for draws")
    axes.errorbar(
        stats.squares.value, stats.mean.value, stats.mean.error, stats.squares.error, fmt="o", ms=7,
        color="black", label="mean",
    )  # fmt: skip
    axes.set(xlabel="$|s|^2$", ylabel="div s")
    axes.set_title(f"divergence: scale by Stein's identity {stats.stein_scale.value:.3g}")
    for set_scale, values in ((axes.set_xscale, stats.norms), (axes.set_yscale, stats.values)):
        _scale(set_scale, values)
    _legend(axes)


def _draw_curl(axes: Any, audit: ScoreAudit) -> None:
    """Draw the antisymmetric share of the Jacobian over the states."""
    axes.set_title("antisymmetric share of the Jacobian")
    curl = audit.curl
    if curl is None:
        _missing(axes, "the score has no finite derivative")
        return
    least = 1e-16
    shares = np.maximum(curl.of_states, least)
    low = min(1e-6, float(shares.min()))
    bins = np.geomspace(low / 2, 2.0, 50)
    axes.hist(shares, bins, weights=np.full(len(shares), 1 / len(shares)), color=MEASURED,
              label=_counted(len(shares), "state"))  # fmt: skip
    axes.axvline(CURL, color=MODEL, label="fails above, on average")
    if low / 2 < curl.noise < 2:
        axes.axvline(curl.noise, color="gray", ls="--", label="errors of the derivatives")
    axes.set(xscale="log", xlabel="$|J - J^T|^2 / 4|J|^2$ (0 is drawn at $10^{-16}$)", ylabel="share")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.3)
    _legend(axes)


def _draw_gaps(axes: Any, audit: ScoreAudit) -> None:
    """Draw the gaps between integrals on two ways against the differences of log p."""
    axes.set_title("integrals between states, on two ways")
    paths = audit.paths
    if paths is None:
        _missing(axes, "too few states with a finite score")
        return
    differences, gaps = np.abs(paths.straight), np.abs(paths.gap)
    good = np.isfinite(gaps)
    least = 1e-12 * max(float(differences[good].max(initial=0.0)), 1e-300)
    axes.plot(np.maximum(differences, least)[good], np.maximum(paths.error, least)[good], "x", ms=4,
              color="gray", label="error of the sums")  # fmt: skip
    axes.plot(np.maximum(differences, least)[good], np.maximum(gaps, least)[good], ".", ms=6, color=MEASURED,
              label="gap, straight against around a corner")  # fmt: skip
    axes.axhline(PATHS * paths.typical_difference, color=MODEL, label="fails above, at the upper quartile")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="|difference of log p| (nats)",
        ylabel="nats (0 is drawn at the bottom)",
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.3)
    _legend(axes)


def _draw_rays(axes: Any, audit: ScoreAudit) -> None:
    """Draw log p along rays, by integrals and as it is known."""
    axes.set_title("log p along rays from the mean of the states")
    rays = audit.rays
    if rays is None:
        _missing(axes, "too few states with a finite score")
        return
    for i, values in enumerate(rays.log_p):
        axes.plot(
            rays.t, values, color=MEASURED, lw=3, alpha=0.45, label="" if i else "integral of the score"
        )
    if rays.known is not None:
        for i, values in enumerate(rays.known):
            axes.plot(rays.t, values, color=MODEL, lw=1.2, ls="--", label="" if i else audit.energy)
    every = np.concatenate([rays.log_p.ravel(), [] if rays.known is None else rays.known.ravel()])
    every = every[np.isfinite(every)]
    if len(every) and np.ptp(every) > 1000:
        axes.set_yscale("symlog", linthresh=10.0)
    axes.set(xlabel="place on the ray: 0 the mean, 1 the state", ylabel="log p, relative to the mean (nats)")
    _legend(axes)


def _legend(axes: Any, columns: int = 1) -> None:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8.5, ncols=columns, framealpha=0.8, edgecolor="none")
