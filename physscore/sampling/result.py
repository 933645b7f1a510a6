"""What a run leaves: its draws, what happened on the way, and whether it can be trusted."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import pdtrc

from physscore.arrays import device_of, namespace, to_host
from physscore.core import Array, InputError
from physscore.diagnostics.chains import (
    Mixing,
    effective_sample_size,
    mixing_verdict,
    monte_carlo_error,
    r_hat,
)
from physscore.diagnostics.halves import drift, outlying
from physscore.diagnostics.power import PowerSpectrum, power_spectrum
from physscore.grid import Grid
from physscore.kernels.kernel import Kernel
from physscore.kernels.metric import Diagonal, Fourier
from physscore.sampling.arviz import as_arviz
from physscore.sampling.causes import bias

_LOOKED_AT = 10_000  # components of a field whose mixing is judged
_PIECE_BYTES = 1 << 26
_FALSE_ALARMS = 1e-3
_THAT_REJECT = ("hamiltonian", "adaptive")  # step functions


@dataclass
class Run:
    """The draws of many chains; ``run + more`` joins one with what goes on with it.

    Attributes
    ----------
    draws : array (kept, chains, *shape)
        Positions; an h5py dataset where the run went to a file.
    energies : array (kept, chains)
        Their energies, NaN where there is only a score.
    acceptance : array (chains,)
        Mean acceptance probability.
    divergent : array (chains,)
        Steps that ran away and were rejected; for kernels that cannot reject, 1 if the chain was lost.
    kernel : Kernel
        With the settings that the warm-up found.
    loop : str
        "fused" (compiled, over many small states), "card" (the same, a thread of a card for each) or
        "batched" (arrays of few large states).
    drift_to_noise : float
        eps |s|^2 / 2d at the end (with the metric's W^T s for s): the squared drift of a Langevin step
        against the noise; the bias and the rejections grow with it. NaN for other kernels.
    target : str
        What was sampled.
    seed, warmup, thin : int
        As given to ``sample``.
    names : list of str or None
        Names of the parameters.
    grid : Grid or None
        The box, where the states are fields.
    complete : bool
        False if the run was interrupted.
    swap_every : int
        Steps of the kernel in each of those that ``thin`` counts: 1, but for a tempered run.
    first_step : int
        Number of the first step, warm-up or not: where the run that this one goes on with stopped, else 0.
    causes : list of str
        What ``sample`` found that may explain why a run has not mixed; not kept in files.
    """

    draws: Any
    energies: Any
    acceptance: Array
    divergent: Array
    kernel: Kernel
    loop: str
    drift_to_noise: float
    target: str
    seed: int
    warmup: int
    thin: int
    names: list[str] | None = None
    grid: Grid | None = None
    complete: bool = True
    swap_every: int = 1
    first_step: int = 0
    causes: list[str] = field(default_factory=list)
    file: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._in_file: tuple[str, str] | None = None  # path and place, wherever a copy is made
        if hasattr(self.draws, "file"):
            self._in_file = os.path.abspath(self.draws.file.filename), self.draws.name

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle is made of: draws in a file by its path and their place."""
        return dict(self.__dict__, file=None, draws=None if hasattr(self.draws, "file") else self.draws)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again.

        Raises
        ------
        InputError
            If it is not there.
        """
        self.__dict__.update(state)
        if self.draws is None and self._in_file is not None:
            from physscore.store.hdf5 import open_hdf5

            self.file = open_hdf5(Path(self._in_file[0]))
            self.draws = self.file[self._in_file[1]]

    def __add__(self, more: Run) -> Run:
        """Return the run that is longer by ``more``, which was made with ``init`` of this one; in memory.

        Raises
        ------
        InputError
            If that did not go on where this one stopped, as it was: with its kernel, seed and ``thin``.
        """
        if not isinstance(more, Run):
            return NotImplemented
        if why := self._why_not_longer_by(more):
            raise InputError(
                f"more {why}: only what goes on with a run can be added to it, as sample(target, run.kernel, "
                "init=run, warmup=0, ...) does with the same seed, chains and thin"
            )
        parts = [part.draws[...] for part in (self, more)]
        kept = [len(part) for part in parts]
        rejects = self.kernel.step_function in _THAT_REJECT
        return replace(
            self,
            draws=namespace(device_of(parts[0])).concatenate(parts),
            energies=np.concatenate([part.energies[...] for part in (self, more)]),
            acceptance=np.average([self.acceptance, more.acceptance], axis=0, weights=kept),
            divergent=(np.add if rejects else np.maximum)(self.divergent, more.divergent),
            drift_to_noise=more.drift_to_noise,
            complete=more.complete,
            file=None,
        )

    def _why_not_longer_by(self, more: Run) -> str:
        for name in ("target", "seed", "thin", "swap_every"):
            one, other = getattr(self, name), getattr(more, name)
            if one != other:
                return f"has the {name} {other}, and the run {one}"
        one, other = self.draws.shape[1:], more.draws.shape[1:]
        if one != other:
            return f"has draws of shape {other}, and the run of {one}"
        end = self.first_step + self.warmup + self.draws.shape[0] * self.thin
        if more.warmup or more.first_step != end:
            return f"begins at step {more.first_step + more.warmup}, and the run ended at {end}"
        metrics = [kernel.frozen_metric for kernel in (self.kernel, more.kernel)]
        factors: list[Any] = [m.octant if isinstance(m, Fourier) else m.factor for m in metrics]
        if repr(self.kernel) != repr(more.kernel) or not np.array_equal(*factors):
            return (
                f"has the kernel {more.kernel!r}, and the run {self.kernel!r}, or other numbers in its metric"
            )
        return ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return tuple(self.draws.shape[2:])

    @property
    def n_divergent(self) -> int:
        """Number of chains that were lost, or too many of whose steps ran away and were rejected.

        Too many are 1% of the trajectories, or 5% of single steps: these are tuned to be longer, and into
        light tails some run away without harm. More is left to chance: what Poisson's law exceeds in any of
        the chains once in 1000 runs, and one chain in 1000, which may have been far out.
        """
        if self.kernel.step_function not in _THAT_REJECT:
            return int((self.divergent > 0).sum())
        share = 0.01 if self.kernel.moves().length > 1 else 0.05
        many = share * self.draws.shape[0] * self.thin * self.swap_every
        chance = pdtrc(np.maximum(self.divergent - 1, 0), many)  # of as many or more
        unlikely = (chance * len(self.divergent) < _FALSE_ALARMS) & (self.divergent > 0)
        found = int(unlikely.sum())
        return found if found > len(self.divergent) / 1000 else 0

    @cached_property
    def r_hat(self) -> Array:
        """Rank-normalised split R-hat of each component."""
        return r_hat(self.draws)

    @cached_property
    def ess(self) -> Array:
        """Effective sample size of the bulk, of each component."""
        return effective_sample_size(self.draws, "bulk")

    @cached_property
    def ess_tail(self) -> Array:
        """Effective sample size of the 5% and 95% quantiles, of each component."""
        return effective_sample_size(self.draws, "tail")

    @cached_property
    def error(self) -> Array:
        """Standard error of the mean, of each component."""
        return monte_carlo_error(self.draws)

    @cached_property
    def mean(self) -> Array:
        """Mean of each component."""
        return np.asarray(sum(piece.sum(axis=(0, 1), dtype=np.float64) for piece in self._pieces()) / self._n)

    @cached_property
    def std(self) -> Array:
        """Standard deviation of each component."""
        squares: Any = sum(((piece - self.mean) ** 2).sum(axis=(0, 1)) for piece in self._pieces())
        return np.asarray(np.sqrt(squares / max(self._n - 1, 1)))

    @property
    def _n(self) -> int:
        return int(self.draws.shape[0] * self.draws.shape[1])

    def _pieces(self) -> Iterator[Array]:
        one = max(1, math.prod(self.draws.shape[1:]) * self.draws.dtype.itemsize)
        size = max(1, _PIECE_BYTES // one)
        for start in range(0, self.draws.shape[0], size):
            yield to_host(self.draws[start : start + size])

    @property
    def samples(self) -> Array:
        """All draws of all chains, (kept * chains, *shape), in memory."""
        return to_host(self.draws[...]).reshape(-1, *self.shape)

    @cached_property
    def mixing(self) -> Mixing:
        """Whether the run has mixed, and if not, why, in words.

        Judged are all components, or 10000 evenly spaced ones where there are more, the energy, and the bias
        of a step that is not rejected. ``causes`` are told where it has not.
        """
        reasons = self.doubts()
        return Mixing(not reasons, [*reasons, *self.causes] if reasons else [])

    def doubts(self) -> list[str]:
        """Return why the run may not have mixed, without their ``causes``."""
        return [*self._judged().reasons, *filter(None, [bias(self)])]

    def _judged(self) -> Mixing:
        kept, chains = self.draws.shape[:2]
        if kept < 4:
            return Mixing(False, [f"cannot be judged: {kept} draws a chain are kept, and 4 are needed"])
        dim = math.prod(self.shape)
        names, chosen = self._labels(), np.arange(dim)
        energies = np.asarray(self.energies[...])[..., np.newaxis]
        if dim > _LOOKED_AT:
            chosen = np.linspace(0, dim - 1, _LOOKED_AT).astype(int)
            pieces = [piece.reshape(len(piece), chains, dim)[..., chosen] for piece in self._pieces()]
            columns, names = np.concatenate(pieces), [names[i] for i in chosen]
            parts = [[f(columns)] for f in (r_hat, _bulk, _tail)]
        else:
            columns = self.draws
            parts = [[found.ravel()] for found in (self.r_hat, self.ess, self.ess_tail)]
        # The energy is the same everywhere if the target is uniform.
        known = bool(np.isfinite(energies).all() and np.ptp(energies) > 0)
        parts += [[outlying(columns, energies[..., 0] if known else None).ravel()], [drift(columns).ravel()]]
        if known:
            names = [*names, "the energy"]
            alone: Any = (r_hat, _bulk, _tail, partial(outlying, energies=energies[..., 0]), drift)
            parts = [[*part, f(energies)] for part, f in zip(parts, alone, strict=True)]
        kept_still = self._kept_still(np.isnan(parts[0][0]), chosen)
        names = [name for i, name in enumerate(names) if i not in kept_still]
        *found, stuck, changes = (
            np.concatenate([np.delete(part[0], list(kept_still)), *part[1:]]) for part in parts
        )
        verdict = mixing_verdict(
            *found,
            draws=kept,
            chains=chains,
            divergent=self.n_divergent,
            names=names,
            outlying=stuck,
            drift=changes,
        )
        beyond = int(np.isposinf(energies).sum())
        if beyond and not self.n_divergent:
            reason = f"{beyond} draws are where the density is 0: take a kernel that rejects them"
            return Mixing(False, [*verdict.reasons, reason])
        return verdict

    def _kept_still(self, constant: Array, chosen: Array) -> set[int]:
        """Return which of the chosen components the metric was told not to move, and did not."""
        metric = self.kernel.metric
        if type(metric) is not Diagonal or metric.variances.size != math.prod(self.shape):
            return set()
        return set(np.flatnonzero(constant & (metric.variances[chosen] == 0)).tolist())

    def _labels(self) -> list[str]:
        if self.names is not None:
            return list(self.names)
        return [f"component {tuple(map(int, place))}" for place in np.ndindex(*self.shape)]

    def power_spectrum(self, **bins: Any) -> PowerSpectrum:
        """Return P(k) of every kept field, of shape (kept * chains, bins): how it runs along the chains.

        Its ``error`` is the standard deviation of the draws, ``mean_error`` goes by the effective number of
        these in each bin; with less than 4 draws a chain, by the number of chains. It has no ``compare``,
        which is for independent fields, such as the last draws of the chains: ``run.draws[-1]``.

        Raises
        ------
        InputError
            If the states are not fields.
        """
        if self.grid is None:
            raise InputError(f"draws have shape {self.shape}: only fields of 1 to 3 dimensions have a P(k)")
        measured = power_spectrum(self.samples, self.grid, **bins)
        kept, chains = self.draws.shape[:2]
        spread = measured.power.std(axis=0, ddof=1) if len(measured.power) > 1 else math.nan
        number = np.full(len(measured.k), float(chains))
        if kept >= 4:
            number = effective_sample_size(measured.power.reshape(kept, chains, -1), "mean")
        return replace(measured, error=np.zeros_like(measured.power) + spread, shells=None, effective=number)

    def to_arviz(self) -> Any:
        """Return the draws as ArviZ's ``posterior``, and energies as ``lp`` = -E in its ``sample_stats``.

        An ``InferenceData``; from ArviZ 1 on a ``DataTree``.

        Raises
        ------
        InputError
            If ArviZ is not installed, or a parameter has the name of one of its dimensions.
        """
        return as_arviz(self)

    def summary(self) -> dict[str, Any]:
        """Return the run in numbers, ready for JSON."""
        kept, chains = self.draws.shape[:2]
        found: dict[str, Any] = {
            "target": self.target, "kernel": type(self.kernel).__name__, "step_size": self.kernel.step_size,
            "loop": self.loop, "chains": int(chains), "draws": int(kept), "thin": self.thin,
            "warmup": self.warmup,
            "seed": self.seed, "shape": list(self.shape), "complete": self.complete,
            "acceptance": float(self.acceptance.mean()), "divergent_chains": self.n_divergent,
            "divergent_steps": int(self.divergent.sum()),
            "drift_to_noise": None if math.isnan(self.drift_to_noise) else self.drift_to_noise,
            "mixed": self.mixing.passed, "reasons": self.mixing.reasons,
        }  # fmt: skip
        if kept >= 4 and math.prod(self.shape) <= 100:
            columns = (self.mean, self.std, self.error, self.r_hat, self.ess, self.ess_tail)
            names = ("mean", "std", "error", "r_hat", "ess_bulk", "ess_tail")
            found["components"] = {
                label: {name: _number(column.flat[i]) for name, column in zip(names, columns, strict=True)}
                for i, label in enumerate(self._labels())
            }
        return found

    def __str__(self) -> str:
        found = self.summary()
        lines = [
            f"{self.target}: {found['draws']} draws of {found['chains']} chains, {found['kernel']} with step "
            f"size {float(self.kernel.step_size):.4g}, acceptance {found['acceptance']:.3f}, {self.loop} loop"
        ]
        columns = {
            "mean": ".4g",
            "error": ".2g",
            "std": ".4g",
            "r_hat": ".3f",
            "ess_bulk": ".0f",
            "ess_tail": ".0f",
        }
        components = found.get("components", {})
        width = max(map(len, components), default=0)
        if components:
            lines.append(" " * width + "".join(f"{name:>11}" for name in columns))
        for label, row in components.items():
            numbers = (math.nan if row[name] is None else row[name] for name in columns)
            texts = (f"{number:{form}}" for number, form in zip(numbers, columns.values(), strict=True))
            lines.append(f"{label:{width}}" + "".join(f"{text:>11}" for text in texts))
        lines.append("mixed" if found["mixed"] else "not to be trusted:")
        return "\n".join([*lines, *(f"  {reason}" for reason in found["reasons"])])


def _bulk(draws: Any) -> Array:
    return effective_sample_size(draws, "bulk")


def _tail(draws: Any) -> Array:
    return effective_sample_size(draws, "tail")


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
