"""Chains of fields in their modes on a card: the steps of ``batched.py`` that draw new momenta, fused with
what ``FieldModes`` does around its transforms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from physscore.arrays import contiguous, cupy
from physscore.core import Array
from physscore.cuda import kept, launch_blocks, parts_of
from physscore.cuda.moves import take
from physscore.energies.coordinates import FieldModes
from physscore.fft import forward_ffts, inverse_ffts
from physscore.kernels import moves
from physscore.kernels.metric import Fourier, Metric
from physscore.noise import seed_key

_OCTANT = 3  # in place of moves.DIAGONAL, as in field_moves.cu


class FieldChains:
    """Chains (n, d), which are moved in place.

    A chain has a second place, for what it is offered; one that accepts is there from then on. So nothing is
    copied until somebody asks where the chains are.
    """

    def __init__(
        self, target: FieldModes, metric: Metric, seed: int, first: int,
        x: Array, e: Array, s: Array, p: Array,
    ) -> None:  # fmt: skip
        self.e, self.p = e, p
        self._x, self._s = x, s
        self._target, self._others = target, target.others
        self._key, self._first = seed_key(seed), first
        self._grid, self._real = target.grid, x.dtype.type
        self._n, self._parts = len(x), parts_of(len(x), -(-x.shape[1] // 4))
        self._unitary = 1 / math.sqrt(target.grid.n_cells)
        xp = cupy()
        self._y, self._t = xp.empty_like(x), xp.empty_like(s)
        self._away, self._settled = xp.zeros(self._n, bool), True
        self._kinetic, self._energies, self._new_kinetic = (
            xp.empty((self._n, self._parts)) for _ in range(3)
        )

        self._scale = self._sent(target, "scale", target.scale_octant)
        self._precision = self._sent(target, "precision", target.precision_octant)
        self._metric, self._w = np.int32(metric.kind), self._scale
        if metric.kind == moves.DIAGONAL:
            octant = metric.octant if isinstance(metric, Fourier) else None
            self._w = self._sent(metric, "metric", metric.factor[0] if octant is None else np.sqrt(octant))
            self._metric = np.int32(moves.DIAGONAL if octant is None else _OCTANT)

    def _sent(self, owner: Any, name: str, numbers: Array) -> Any:
        """Return numbers of the coordinates, all or of an octant, on the card."""
        return kept(owner, f"octant of {name} {np.dtype(self._real)}", lambda: numbers.astype(self._real))

    @property
    def x(self) -> Array:
        """Where the chains are."""
        self._settle()
        return self._x

    @property
    def s(self) -> Array:
        """Their scores."""
        self._settle()
        return self._s

    def _settle(self) -> None:
        if not self._settled:
            take(self._away, self._x, self._y, self._s, self._t, self.e, self.e)
            self._away[...] = False
            self._settled = True

    def _launch(self, name: str, *args: Any) -> None:
        size = -(-self.p.shape[1] // (4 * self._parts))
        launch_blocks("field_moves", name, self._real, self._n * self._parts, size, self._x, self._s, self._y,
                      self._t, self._away, self.p, self._w, self._metric, *args)  # fmt: skip

    def _draw(self, number: int) -> tuple[Any, ...]:
        return self._first, np.uint32(number), np.uint32(self._key[0]), np.uint32(self._key[1])

    def propose(
        self, kick: float, drift: float, harmonic: bool, number: int, *, anew: bool, keeps: bool = True
    ) -> Any:
        """Kick momenta and drift, with new momenta from where the chains are, or on from the last drift;
        return the half spectra there. ``keeps``: momenta are needed later."""
        complex_type = np.complex64 if self._real is np.float32 else np.complex128
        spectra = cupy().empty((self._n, *self._grid.half_shape), complex_type)
        self._launch(
            "propose", np.float64(kick), np.float64(drift), harmonic, anew, keeps, self._scale, spectra,
            self._real(math.sqrt(0.5) * self._unitary), self._real(math.sqrt(0.5)), self._n,
            *self._grid.cube, self._parts, *self._draw(number), self._kinetic if anew else self._new_kinetic,
        )  # fmt: skip
        return spectra

    def respond(self, spectra: Any, kick: float, harmonic: bool, *, last: bool) -> Any:
        """Find the scores there, and return energies but for those of the modes; ``last``: find the energies
        of the momenta after one more kick."""
        assert self._others is not None
        more, slopes = self._others.energy_and_score(inverse_ffts(spectra, self._grid.shape))
        self._launch(
            "respond", np.float64(kick), harmonic, last, forward_ffts(slopes.astype(self._real, copy=False)),
            self._scale, self._precision, self._real(self._target.whitened),
            self._real(math.sqrt(2.0) * self._unitary), self._real(math.sqrt(2.0)), self._n,
            *self._grid.cube, self._parts, self._energies, self._new_kinetic,
        )  # fmt: skip
        return contiguous(more.astype(np.float64, copy=False))

    def decide(self, more: Any, number: int, tally: Array, *, always: bool, adjusted: bool) -> None:
        """Have chains go there if they accept, or always."""
        self._settled = False
        launch_blocks(
            "field_moves", "decide", self._real, self._n, self._parts, self.e, self._kinetic, more,
            np.float64(self._target.offset), self._energies, self._new_kinetic, always, adjusted,
            np.float64(moves.DIVERGED), self._n, self._parts, *self._draw(number), self._away, tally,
        )  # fmt: skip


def langevin_step(chains: FieldChains, kernel: Any, number: int, tally: Array) -> None:
    """Unadjusted Langevin."""
    spectra = chains.propose(kernel.step / 2, kernel.step, False, number, anew=True, keeps=False)
    more = chains.respond(spectra, 0.0, False, last=False)
    chains.decide(more, number, tally, always=True, adjusted=False)


def hamiltonian_step(chains: FieldChains, kernel: Any, number: int, tally: Array) -> None:
    """Draw momenta, follow a trajectory, accept or stay."""
    step = float(moves.step_of.py_func(kernel.step, kernel.relief, number))
    leaps = int(moves.n_leaps.py_func(kernel.length, number))
    kick, harmonic = math.tan(step / 2) if kernel.harmonic else step / 2, kernel.harmonic
    for leap in range(leaps):
        spectra = chains.propose(kick if leap == 0 else 2 * kick, step, harmonic, number, anew=leap == 0)
        more = chains.respond(spectra, kick, harmonic, last=leap + 1 == leaps)
    chains.decide(more, number, tally, always=False, adjusted=kernel.adjusted)
