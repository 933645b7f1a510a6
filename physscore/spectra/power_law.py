"""P(k) = amplitude k^index."""

from __future__ import annotations

import math
from typing import Any

from physscore.spectra.model import Spectrum, _Floats, require_number


class PowerLaw(Spectrum):
    """A power law, P(k) = amplitude * k^index, in whatever units k has.

    Parameters
    ----------
    index
        The logarithmic slope; 0 is white noise.
    amplitude
        P at k = 1, not negative.

    Raises
    ------
    InputError
        If a parameter is not such a number.
    """

    def __init__(self, index: float, amplitude: float = 1.0) -> None:
        self.index = require_number("index", index, -math.inf)
        self.amplitude = require_number("amplitude", amplitude, 0.0)
        self._frozen = True

    def _power(self, k: _Floats) -> _Floats:
        return self.amplitude * k**self.index

    def settings(self) -> dict[str, Any]:
        """Return what makes the model."""
        return {"name": "powerlaw", "index": self.index, "amplitude": self.amplitude}
