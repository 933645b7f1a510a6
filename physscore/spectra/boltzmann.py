"""Linear matter spectra of the Boltzmann code CAMB: computed now, or from the table we ship."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import Any

import numpy as np

from physscore.core import InputError
from physscore.spectra.model import COSMOLOGICAL_UNITS, Spectrum, _Floats, require_number

# Planck 2018 TT,TE,EE+lowE+lensing+BAO (arXiv:1807.06209, table 2), by CAMB's names.
_NONLINEAR_TO = 105.0  # h/Mpc, to where the correction needs the linear spectrum
PLANCK_2018: dict[str, Any] = {
    "H0": 67.66,
    "ombh2": 0.02242,
    "omch2": 0.11933,
    "omk": 0.0,
    "mnu": 0.06,
    "num_massive_neutrinos": 1,
    "tau": 0.0561,
    "ns": 0.9665,
    "As": math.exp(3.047) * 1e-10,
}
MAX_REDSHIFT = 100.0


class LinearMatter(Spectrum):
    """A linear matter spectrum between the points of a Boltzmann code, by a cubic spline in ln k, ln P."""

    units = COSMOLOGICAL_UNITS
    dim = 3
    redshift: float

    def __init__(
        self, name: str, k: _Floats, power: _Floats, redshift: float, parameters: dict[str, Any]
    ) -> None:
        from scipy.interpolate import CubicSpline

        self.k_min, self.k_max = float(k[0]), float(k[-1])
        self.redshift = redshift
        self._name = name
        self._parameters = parameters
        self._ln_power = CubicSpline(np.log(k), np.log(power))
        self._frozen = True

    def _power(self, k: _Floats) -> _Floats:
        return np.asarray(np.exp(self._ln_power(np.log(k))))

    def settings(self) -> dict[str, Any]:
        """Return what makes the model, the parameters by CAMB's names."""
        return {"name": self._name, "redshift": self.redshift, **self._parameters}

    def __repr__(self) -> str:
        return f"{self._name}(redshift={self.redshift:g})"


def planck2018(redshift: float = 0.0) -> LinearMatter:
    """Return the linear total-matter spectrum of the Planck 2018 cosmology, from a table.

    CAMB with the parameters of TT,TE,EE+lowE+lensing+BAO (arXiv:1807.06209, table 2): H0 = 67.66,
    ombh2 = 0.02242, omch2 = 0.11933, n_s = 0.9665, ln 10^10 A_s = 3.047, tau = 0.0561, one neutrino
    of 0.06 eV. Within 0.1% of CAMB for 1e-4 < k < 10 h/Mpc at every redshift from 0 to 100; CAMB's
    own settings differ by as much (``data/README.md``).

    Parameters
    ----------
    redshift
        From 0 to 100.

    Returns
    -------
    Spectrum
        P in (Mpc/h)^3 for k from 1e-5 to 100 h/Mpc.

    Raises
    ------
    InputError
        If the redshift is outside the table.
    """
    from scipy.interpolate import CubicSpline

    z = require_number("redshift", redshift, 0.0, MAX_REDSHIFT)
    with (files("physscore.spectra") / "planck2018.npz").open("rb") as file:
        table = np.load(file, allow_pickle=False)
        k, ln_scale, ln_power = table["k"], np.log1p(table["redshift"]), table["ln_power"]
    power = np.exp(CubicSpline(ln_scale, ln_power.astype(np.float64))(math.log1p(z)))
    return LinearMatter("planck2018", k, power, z, PLANCK_2018)


def from_camb(
    redshift: float = 0.0, *, k_max: float = 100.0, nonlinear: bool = False, **parameters: Any
) -> LinearMatter:
    """Return the total-matter spectrum that CAMB computes; needs the extra ``cosmology``.

    Parameters
    ----------
    redshift
        At least 0.
    k_max
        Largest wavenumber, in h/Mpc; the smallest is 1e-5.
    nonlinear
        Whether to apply CAMB's default non-linear correction (HMcode).
    **parameters
        Arguments of ``camb.set_params``, instead of those of :func:`planck2018`.

    Returns
    -------
    Spectrum
        P in (Mpc/h)^3, k in h/Mpc.

    Raises
    ------
    InputError
        If CAMB does not accept the parameters.
    ImportError
        If CAMB is not installed.
    """
    try:
        import camb
    except ImportError:
        raise ImportError('the spectrum "camb" needs CAMB: pip install "physscore[cosmology]"') from None
    z = require_number("redshift", redshift, 0.0)
    top = require_number("k_max", k_max, 1e-2, 1e4)
    chosen = {**PLANCK_2018, **_plain(parameters)}
    # CAMB takes one of each pair: what is asked for replaces our default.
    for given, default in (("cosmomc_theta", "H0"), ("thetastar", "H0"), ("zrei", "tau")):
        if given in parameters and default not in parameters:
            del chosen[default]
    if not isinstance(nonlinear, bool):
        raise InputError(f"nonlinear is {nonlinear!r}: it must be True or False")
    try:
        model = camb.set_params(**chosen)
        highest = max(1.05 * top, _NONLINEAR_TO if nonlinear else 0.0)
        model.set_matter_power(redshifts=[z], kmax=highest * model.h, silent=True)
        model.NonLinear = camb.model.NonLinear_both if nonlinear else camb.model.NonLinear_none
        # Without the CMB it would take less time, but P differs by up to 1e-3 then, with high accuracy, too.
        results = camb.get_results(model)
        compute = (
            results.get_nonlinear_matter_power_spectrum
            if nonlinear
            else results.get_linear_matter_power_spectrum
        )
        k, _, power = compute(hubble_units=True, k_hunit=True)
    except Exception as error:  # CAMB has no common base for its complaints
        raise InputError(f"CAMB does not accept the parameters {parameters}: {error}") from error
    if not (np.isfinite(power[0]) & (power[0] > 0)).all():
        raise InputError(f"CAMB finds a power that is not positive for the parameters {parameters}")
    wanted = np.geomspace(1e-5, top, 1200)
    raw = LinearMatter("camb", k, power[0], z, {})
    settings = {"k_max": top, "nonlinear": nonlinear, "camb": camb.__version__, **chosen}
    return LinearMatter("camb", wanted, _continued(raw, wanted), z, settings)


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters without NumPy's types, ready for JSON."""
    plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in parameters.items()}
    for name, value in plain.items():
        if not isinstance(value, (int, float, str, type(None))):
            raise InputError(f"{name} is {value!r}: a parameter of CAMB must be a number or text")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} is {value}: a parameter of CAMB must be finite")
    return plain


def _continued(spectrum: LinearMatter, k: _Floats) -> _Floats:
    """Return P at ``k``; below the first point of CAMB, where only the primordial slope is left, by it."""
    inside = np.maximum(k, spectrum.k_min)
    step = np.array([1.0, 1.05]) * spectrum.k_min
    slope = np.diff(np.log(spectrum(step))) / np.diff(np.log(step))
    return np.asarray(spectrum(inside) * (k / inside) ** slope)
