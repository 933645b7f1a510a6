"""The words of an audit of a score: what speaks against it, what else is worth knowing, and the table."""

from __future__ import annotations

import math
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np

from physscore.core import Array
from physscore.diagnostics.estimates import Estimate

if TYPE_CHECKING:
    from physscore.diagnostics.score_error import BandErrors, ScoreError
    from physscore.diagnostics.score_field import ScoreAudit
    from physscore.diagnostics.score_identities import ScoreIdentities

CURL = 0.01  # share of the antisymmetric part
PATHS = 0.1  # of the difference of log p
NATS = 1e-3  # differences of log p that never matter
SCALE = 0.1  # deviation from 1
COSINE = 0.95
FISHER = 0.1  # of E|s*|^2
GAIN = (0.8, 1.25)
BAND_COSINE = 0.9
UNSTABLE = 0.05  # share of the states
ERRORS, BAND_ERRORS = 3.0, 4.0  # standard errors, beyond which something counts
_STIFF = 100.0
_ROUNDING = 1e-12  # relative to 1: printed as 0


def reasons(audit: ScoreAudit) -> list[str]:
    """Return why an audit is not passed."""
    found = []
    if audit.not_finite:
        found.append(f"the score is not finite at {audit.not_finite} of {audit.n} states")
    if audit.error is not None:
        found += _not_the_truth(audit.error)
    if audit.bands is not None:
        found += _wrong_bands(audit.bands)
    if audit.error is None and audit.divergence is not None:
        scale = audit.divergence.stein_scale
        if scale.value < 0 and -scale.value > ERRORS * _known(scale.error):
            found.append(
                f"the score points the wrong way: draws from its density would have the scale 1, and these "
                f"states have {_text(scale)} (Stein's identity), so its sign is wrong, or they are no draws"
            )
        elif audit.identities is not None and (
            _off(scale.value, audit.identities.gain) > SCALE
            and abs(scale.value - 1) > BAND_ERRORS * _known(scale.error)
        ):
            found.append(
                f"the score has the wrong size: its states are draws, and it should be multiplied by "
                f"{_text(scale)} (Stein's identity)"
            )
    if audit.identities is not None:
        found += _broken(audit.identities)
    found += _not_a_gradient(audit)
    if audit.step_size is not None and audit.spectrum is not None:
        steps = audit.spectrum.stable_steps
        share = float((steps < audit.step_size).mean())
        if share > UNSTABLE:
            found.append(
                f"the step size {audit.step_size:.3g} is not stable at {_percent(share)} of the states: "
                f"{_bearable(steps)}"
            )
    return found


def _off(scale: float, gain: float) -> float:
    """Return by how much the size of a score is wrong, from its best scale and its gain: an error of the
    direction alone makes one of the two smaller, and not the other one larger."""
    return min(abs(scale - 1), abs(gain - 1)) if (scale < 1) == (gain > 1) else 0.0


def _broken(identities: ScoreIdentities) -> list[str]:
    broken = np.flatnonzero(identities.broken)
    if not len(broken):
        return []
    worst = broken[np.abs(identities.z[broken]).argmax()]
    value = _text(Estimate(identities.values[worst], identities.errors[worst]))
    return [
        f"the score is not that of the density of its states: {len(broken)} of {len(identities.values)} "
        f"means that are 0 for a right one are not, most clearly {identities.names[worst]}, off by {value} "
        "(in standard deviations of the states)"
    ]


def _not_the_truth(error: ScoreError) -> list[str]:
    found = []
    scale, gain, cosine, fisher = error.scale, error.gain, error.cosine, error.fisher
    if not math.isfinite(scale.value):
        return ["the score is zero at all states"]
    off, size = abs(scale.value - 1), _off(scale.value, gain.value)
    if scale.value < 0 and -scale.value > ERRORS * _known(scale.error):
        found.append(
            f"the score points the wrong way: its best scale is {_text(scale)}, so its sign is wrong"
        )
    elif size > SCALE and off > ERRORS * _known(scale.error):
        found.append(f"the score has the wrong size: it should be multiplied by {_text(scale)}")
    if scale.value > 0 and cosine.value < COSINE and 1 - cosine.value > ERRORS * _known(cosine.error):
        found.append(f"the score points elsewhere: its mean cosine with the truth is {_text(cosine)}")
    if fisher.relative > FISHER and fisher.relative > ERRORS * _known(fisher.relative_error):
        shares = [error.scale_share.value, error.magnitude_share.value, error.direction_share.value]
        taken, magnitude, direction = (_percent(max(share, 0.0) / sum(shares)) for share in shares)
        found.append(
            f"the Fisher divergence is {_text(Estimate(fisher.relative, fisher.relative_error))} of E|s*|^2: "
            f"the best scale would take {taken} of it away, {magnitude} are errors of the magnitude from "
            f"state to state and {direction} of the direction"
        )
    return found


def _wrong_bands(bands: BandErrors) -> list[str]:
    found = []
    far = np.abs(bands.gain - 1) > BAND_ERRORS * np.nan_to_num(bands.gain_error)
    wrong = np.flatnonzero(((bands.gain < GAIN[0]) | (bands.gain > GAIN[1])) & far)
    if len(wrong):
        worst = wrong[np.abs(np.log(np.maximum(bands.gain[wrong], 1e-300))).argmax()]
        found.append(
            f"the size of the score is wrong in {_which(bands.k, wrong)}: its gain is "
            f"{_text(Estimate(bands.gain[worst], bands.gain_error[worst]))}{_at(bands.k, wrong, worst)}"
        )
    far = 1 - bands.cosine > BAND_ERRORS * np.nan_to_num(bands.cosine_error)
    wrong = np.flatnonzero((bands.cosine < BAND_COSINE) & far)
    if len(wrong):
        worst = wrong[bands.cosine[wrong].argmin()]
        found.append(
            f"the score points elsewhere in {_which(bands.k, wrong)}: its cosine with the truth is "
            f"{_text(Estimate(bands.cosine[worst], bands.cosine_error[worst]))}{_at(bands.k, wrong, worst)}"
        )
    return found


def _which(k: Array, wrong: Array) -> str:
    low, high = k[wrong].min(), k[wrong].max()
    where = f"from k = {low:.3g} to {high:.3g}" if high > low else f"at k = {low:.3g}"
    return f"{len(wrong)} of {len(k)} bands, {where}"


def _at(k: Array, wrong: Array, worst: int) -> str:
    return f" at k = {k[worst]:.3g}" if len(wrong) > 1 else ""


def _not_a_gradient(audit: ScoreAudit) -> list[str]:
    found = []
    curl, paths, rays = audit.curl, audit.paths, audit.rays
    if curl is not None and (
        curl.excess > max(CURL, ERRORS * _known(curl.fraction.error))
        and curl.fraction.value > 2 * curl.noise  # which is itself not known well
    ):
        where = ""
        if curl.plane is not None and curl.plane_share > 0.5 and math.prod(audit.shape) > 2:
            where = f", {_percent(curl.plane_share)} of that in the plane of {_plane(curl.plane)}"
        found.append(
            f"the score is not a gradient: {_percent(curl.fraction.value)} of its Jacobian, in squares, is "
            f"antisymmetric{where}"
        )
    if paths is not None:
        if paths.not_finite:
            found.append(
                f"the score is not finite between states: its integrals between {paths.not_finite} of "
                f"{len(paths.gap)} pairs are not"
            )
        least = max(NATS, ERRORS * paths.typical_error)
        if paths.relative > PATHS and paths.typical_gap > least:
            found.append(
                f"integrals of the score depend on the way: between states they differ by "
                f"{paths.typical_gap:.3g} nats where log p differs by {paths.typical_difference:.3g}"
            )
    if rays is not None:
        if not np.isfinite(rays.log_p).all():
            found.append("the score is not finite between the states and their mean: its integrals are not")
        elif rays.deviation > max(NATS, PATHS * rays.difference, ERRORS * rays.quadrature_error):
            found.append(
                f"log p along rays is off {audit.energy} by {rays.deviation:.3g} nats, where that changes by "
                f"{rays.difference:.3g}"
            )
    return found


def remarks(audit: ScoreAudit) -> list[str]:
    """Return what does not speak against a score, but should be known."""
    found = []
    curl, spectrum, divergence, rays = audit.curl, audit.spectrum, audit.divergence, audit.rays
    if curl is not None and curl.noise > CURL:
        found.append(
            f"derivatives are too noisy to see a curl below {_percent(curl.noise)}: give the score a method "
            "directional(x, v) -> (score, J v)"
        )
    if divergence is not None:
        scale = divergence.stein_scale
        said = any("Stein's identity" in reason for reason in audit.reasons)
        if not said and abs(scale.value - 1) > max(SCALE, ERRORS * _known(scale.error)):
            found.append(
                f"if the states are draws from the density of this score, it should be multiplied by "
                f"{_text(scale)} (Stein's identity): they are not, or the score is off"
            )
    if audit.paths is not None and audit.paths.typical_error > PATHS * audit.paths.typical_difference:
        found.append(
            "integrals between states are not resolved: the score changes too sharply on the way to tell "
            "whether they depend on it"
        )
    if rays is not None and rays.known is not None and not np.isfinite(rays.known).all():
        found.append(f"{audit.energy} is not finite between the states and their mean: no comparison")
    if spectrum is not None:
        share = float((spectrum.rising > 0).mean())
        if share > 0:
            found.append(
                f"log p is not concave at {_percent(share)} of the states: steps are judged by the "
                "curvatures that pull back"
            )
        steps = spectrum.stable_steps
        if audit.step_size is None and 10 * steps.min() < np.median(steps) < np.inf:
            found.append(f"no step size of plain Langevin fits everywhere: {_bearable(steps)}")
        known = spectrum.stiffness[np.isfinite(spectrum.stiffness)]
        if len(known) and np.median(known) > _STIFF:
            found.append(
                f"the density is stiff: curvatures differ by a factor of {np.median(known):.3g}, and chains "
                "need about as many steps; a preconditioner (metric=) would help"
            )
    return found


def _bearable(steps: Array) -> str:
    least, middle = float(steps.min()), float(np.median(steps))
    if middle < 1.01 * least:
        return f"steps below {least:.3g} are"
    return f"half of the states bear steps of {middle:.3g} and more, one only {least:.3g}"


def table(audit: ScoreAudit) -> str:
    """Return the whole audit, as aligned lines with the words above them."""
    head = f"audit of {shorten(audit.target, 80, placeholder=' ...')}: "
    lines = [head + ("passed" if audit.passed else "FAILED")]
    lines += [f"  ! {reason}" for reason in audit.reasons]
    lines += [f"  - {remark}" for remark in audit.remarks]
    cells = [*_states_row(audit), *_gradient_rows(audit), *_error_rows(audit), *_step_rows(audit)]
    width = max(len(name) for name, _ in cells)
    return "\n".join([*lines, *(f"  {name:<{width}}  {value}" for name, value in cells)])


_Cells = list[tuple[str, str]]


def _states_row(audit: ScoreAudit) -> _Cells:
    shape = " x ".join(map(str, audit.shape))
    finite = "all finite" if not audit.not_finite else f"{audit.not_finite} not finite"
    return [("states", f"{audit.n} of {shape} components, {finite}; {audit.evaluations} evaluations")]


def _gradient_rows(audit: ScoreAudit) -> _Cells:
    found = []
    if (curl := audit.curl) is not None:
        how = "whole Jacobians" if curl.exact else "random directions"
        found.append(("curl fraction", f"{_text(curl.fraction)} (noise {_short(curl.noise)}), {how} at "
                      f"{len(curl.of_states)} states"))  # fmt: skip
    if (paths := audit.paths) is not None:
        found.append((
            "gap of two ways", f"{_short(paths.typical_gap)} nats where log p differs by "
            f"{paths.typical_difference:.3g} (upper quartiles of {len(paths.gap)} pairs; error of the sums "
            f"{_short(paths.typical_error)})",
        ))  # fmt: skip
    if (rays := audit.rays) is not None:
        sums = f"{len(rays.log_p)} rays; error of the sums {_short(rays.quadrature_error)}"
        if rays.known is not None:
            said = f"off {audit.energy} by {_short(rays.deviation)} nats of {rays.difference:.3g} at the "
            said += f"states, {_short(rays.largest_deviation)} at most on the way (rms of {sums})"
        else:
            low, high = rays.log_p[:, -1].min(), rays.log_p[:, -1].max()
            said = f"{low:.3g} to {high:.3g} nats over that at the mean of the states ({sums})"
        found.append(("log p along rays", said))
    if (stats := audit.divergence) is not None:
        found += [
            ("divergence", _text(stats.mean)),
            ("E|s|^2", _text(stats.squares)),
            ("Hyvarinen's score", _text(stats.hyvarinen)),
            ("scale by Stein", f"{_text(stats.stein_scale)} (1 if the states are draws from its density)"),
        ]
    if (held := audit.identities) is not None:
        found.append((
            "E[s], E[s (x-mean)]", f"{len(held.values)} means, off by {_short(np.abs(held.z).max())} errors "
            f"at most (chance allows {_short(held.limit)})",
        ))  # fmt: skip
    return found


def _error_rows(audit: ScoreAudit) -> _Cells:
    found = []
    if (error := audit.error) is not None:
        fisher = error.fisher
        relative = _text(Estimate(fisher.relative, fisher.relative_error))
        found += [
            ("Fisher divergence", f"{_text(Estimate(fisher.value, fisher.error))}; of E|s*|^2 {relative}"),
            ("  of it the scale", f"{_text(error.scale_share)}; best scale {_text(error.scale)}, gain "
             f"{_text(error.gain)}"),
            ("  the magnitude", f"{_text(error.magnitude_share)}, after the best scale"),
            ("  the direction", f"{_text(error.direction_share)}; mean cosine {_text(error.cosine)}"),
        ]  # fmt: skip
    if (bands := audit.bands) is not None:
        found.append((
            "bands of k", f"{len(bands.k)}: gain {np.nanmin(bands.gain):.3g} to {np.nanmax(bands.gain):.3g}, "
            f"cosine {np.nanmin(bands.cosine):.3g} to {np.nanmax(bands.cosine):.3g}",
        ))  # fmt: skip
    return found


def _step_rows(audit: ScoreAudit) -> _Cells:
    found = []
    if (spectrum := audit.spectrum) is not None:
        real, steps = spectrum.eigenvalues.real, spectrum.stable_steps
        size = float(np.nanmax(np.abs(real)))
        known = spectrum.stiffness[np.isfinite(spectrum.stiffness)]
        stiff = f"; stiffness {np.median(known):.3g} (median)" if len(known) else ""
        flat = f", {spectrum.flat.max()} of them zero" if spectrum.flat.max() else ""
        found.append((
            "Jacobian", f"{'all' if spectrum.exact else 'outer'} eigenvalues at {len(real)} states: "
            f"{_above(np.nanmin(real), size):.3g} to {_above(np.nanmax(real), size):.3g}{flat}{stiff}",
        ))  # fmt: skip
        low, middle = spectrum.stable_step, float(np.median(steps))
        if not math.isfinite(low):
            said = "none, for no direction pulls back"
        elif middle < 1.01 * low:
            said = f"below {low:.3g}"
        else:
            said = f"below {low:.3g} at all of these states, {middle:.3g} at half of them"
        found.append(("stable step", said))
    if (drift := audit.drift) is not None:
        low, high = np.quantile(drift.balanced, [0.05, 0.95])
        found.append((
            "drift = noise", f"at the step {drift.balanced_step:.3g} (90% of the states: {low:.3g} to "
            f"{high:.3g})",
        ))  # fmt: skip
        if drift.ratio is not None:
            found.append(("drift / noise", f"{_text(drift.ratio)} at the step {drift.step_size:.3g}"))
    return found


def _known(error: float) -> float:
    return error if math.isfinite(error) else 0.0


def _text(estimate: Estimate) -> str:
    """Return a number with its error, both without digits that are rounding."""
    value, error = estimate
    if not error > _ROUNDING * max(1.0, abs(value)):  # exact, or of one state
        return "0" if abs(value) < _ROUNDING else f"{value:.4g}"
    ratio = abs(value) / error  # 0 where the error is not finite
    digits = int(np.clip(math.floor(math.log10(ratio)) + 2 if ratio > 0 else 1, 1, 8))
    return f"{value:.{digits}g} +- {error:.2g}"


def _short(value: float) -> str:
    return "0" if abs(value) < _ROUNDING else f"{value:.2g}"


def _above(value: float, size: float) -> float:
    """Return a number, or 0 if it is only rounding."""
    return value if abs(value) > 1e-6 * size else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.995 else f"{100 * share:.3g}%"


def _plane(plane: tuple[tuple[int, ...], tuple[int, ...]]) -> str:
    first, second = (str(place[0]) if len(place) == 1 else str(place) for place in plane)
    return f"components {first} and {second}"
