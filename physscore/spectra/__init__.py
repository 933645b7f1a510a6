"""Models of the power spectrum P(k): what a field is drawn from and compared with.

``model.py`` says what a spectrum is; then a kind a file, and ``parse.py`` for the command line.
"""

from physscore.spectra.boltzmann import from_camb, planck2018
from physscore.spectra.eisenstein_hu import EisensteinHu
from physscore.spectra.model import Spectrum
from physscore.spectra.parse import parse
from physscore.spectra.power_law import PowerLaw
from physscore.spectra.tabulated import Tabulated

__all__ = ["EisensteinHu", "PowerLaw", "Spectrum", "Tabulated", "from_camb", "parse", "planck2018"]
