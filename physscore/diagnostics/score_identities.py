"""What holds for the score of the density that states are drawn from, without its derivatives.

E[s] = 0, and E[s (x - mean)^T] = -1 (by parts). A score with a wrong component, a shift, or a mode too few
breaks them, whatever its size is. The weights of modes that are far apart they do not see, as no score does.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from physscore.core import Array
from physscore.diagnostics.estimates import plain
from physscore.diagnostics.foreign import rows
from physscore.diagnostics.power import power_spectrum
from physscore.grid import Grid

_Floats = npt.NDArray[np.float64]

FALSE_ALARM = 1e-3  # of all together
TOLERANCE = 0.3  # of the rms of a component of the score: an error of a tenth in squares makes no more
_SKEWED = 10.0  # states a degree of freedom: the products are skewed, and their errors seem small by chance
_PAIRS = 8  # dimensions up to which all pairs of whitened components are looked at,
_STATES = 10  # with so many states for each


@dataclass(frozen=True, eq=False)
class ScoreIdentities:
    """Means over the states that are zero for the right score.

    Attributes
    ----------
    names : list of str
    values, errors : array (m,)
        In units of the standard deviations of the states.
    sizes : array (m,)
        What they are compared with: 1, or the rms of that component of the score if it is larger.
    n : int
        Number of states.
    gain : float
        -E[s . (x - mean)] over the number of components: 1, and c if a right score is multiplied by c.
    """

    names: list[str]
    values: _Floats
    errors: _Floats
    sizes: _Floats
    n: int
    gain: float

    @property
    def z(self) -> _Floats:
        """Each in its standard errors."""
        return np.divide(self.values, self.errors, out=np.zeros_like(self.values), where=self.errors > 0)

    @property
    def limit(self) -> float:
        """What |z| exceeds for none of them, but for a probability of ``FALSE_ALARM``."""
        from scipy.stats import t

        return float(t.isf(FALSE_ALARM / (2 * len(self.values)), max(1.0, self.n / _SKEWED)))

    @property
    def broken(self) -> npt.NDArray[np.bool_]:
        """Which of them do not hold: beyond chance, and the tolerance."""
        return np.asarray((np.abs(self.z) > self.limit) & (np.abs(self.values) > TOLERANCE * self.sizes))

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers, ready for JSON."""
        return {
            "names": self.names, "values": plain(self.values), "errors": plain(self.errors),
            "sizes": plain(self.sizes), "gain": plain(self.gain),
            "largest_z": plain(float(np.abs(self.z).max())), "limit": plain(self.limit),
            "broken": int(self.broken.sum()),
        }  # fmt: skip


def identities(found: Array, x: Array, grid: Grid | None = None) -> ScoreIdentities:
    """Return the identities for scores at states, both (n, *shape).

    Of vectors of up to 8 components they are asked of all pairs, each component without what those before
    tell of it; of longer ones of each component, and of fields of each shell of |k|.
    """
    if grid is not None:
        return _of_shells(found, x, grid)
    s, y = rows(found).astype(np.float64), rows(x).astype(np.float64)
    n = len(y)
    z = y - y.mean(axis=0)
    std = z.std(axis=0, ddof=1)
    good = np.flatnonzero(std > 1e-12 * std.max())
    s, z = s[:, good] * std[good], z[:, good] / std[good]
    m = len(good)
    whole = m <= _PAIRS and n >= _STATES * m
    if whole:
        with suppress(np.linalg.LinAlgError):  # components that say the same
            # No principal axes: along those of the same states, their variances are off, and not by chance.
            lower = np.linalg.cholesky(np.cov(z, rowvar=False).reshape(m, m))
            s, z = s @ lower, np.linalg.solve(lower, z.T).T
    first, second = np.indices((m, m)).reshape(2, -1) if whole else np.array([range(m)] * 2)
    size = np.maximum(np.sqrt((s**2).mean(axis=0)), 1.0)
    products = s[:, first] * z[:, second] * (n / (n - 1)) + (first == second)
    names = [f"E[s] of component {i}" for i in good]
    names += [
        f"E[s (x - mean)] of component {good[i]}" + ("" if i == j else f" and {good[j]}")
        for i, j in zip(first, second, strict=True)
    ]
    gain = 1 - float(products[:, first == second].mean())
    return _of_columns(np.hstack([s, products]), names, np.hstack([size, size[first]]), gain)


def _of_shells(found: Array, x: Array, grid: Grid) -> ScoreIdentities:
    n = len(x)
    centred = x - x.mean(axis=0)
    cross, own = power_spectrum(found, grid, centred), power_spectrum(found, grid)
    there = power_spectrum(centred, grid)
    # With s over cells, the sum over the modes of a shell of s* x is -1 a mode, in the unit of |delta|^2 / V.
    unit = grid.volume / grid.n_cells
    size = np.sqrt(own.power.mean(axis=0) * there.power.mean(axis=0)) / unit
    good = (cross.n_modes > 0) & (there.power.mean(axis=0) > 0) & (size > 0)
    products = cross.power[:, good] * (n / (n - 1)) / unit + 1
    gain = 1 - float(np.average(products.mean(axis=0), weights=cross.n_modes[good]))
    names = [f"E[s (x - mean)] of the modes at k = {k:.3g}" for k in cross.k[good]]
    mean = found.reshape(n, -1).mean(axis=1)
    rms = math.sqrt((mean**2).mean())
    if rms > 1e-6 * math.sqrt((found**2).mean()):  # a field without a score of its mean has rounding there
        names = ["E[s] of the mean", *names]
        products = np.column_stack([mean / rms, products])
        return _of_columns(products, names, np.append(1.0, np.maximum(size[good], 1.0)), gain)
    return _of_columns(products, names, np.maximum(size[good], 1.0), gain)


def _of_columns(columns: _Floats, names: list[str], sizes: _Floats, gain: float) -> ScoreIdentities:
    errors = columns.std(axis=0, ddof=1) / math.sqrt(len(columns))
    return ScoreIdentities(names, columns.mean(axis=0), errors, sizes, len(columns), gain)
