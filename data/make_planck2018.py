"""Make physscore/spectra/planck2018.npz: the linear spectrum of Planck 2018 for z = 0 to 100, by CAMB.

    pip install ".[cosmology]" && python data/make_planck2018.py

See data/README.md for what the table is and how far it can be trusted.
"""

from __future__ import annotations

from pathlib import Path

import camb
import numpy as np
from scipy.interpolate import CubicSpline

from physscore.spectra.boltzmann import MAX_REDSHIFT, PLANCK_2018

K = np.geomspace(1e-5, 100.0, 900)  # h/Mpc
REDSHIFTS = np.expm1(np.linspace(0.0, np.log1p(MAX_REDSHIFT), 48))


def ln_power(with_cmb: bool) -> np.ndarray:
    """Return ln P, shape (redshifts, k), at CAMB's default accuracy."""
    model = camb.set_params(**PLANCK_2018)
    model.WantCls = with_cmb
    model.set_matter_power(redshifts=REDSHIFTS.tolist(), kmax=150.0 * model.h, silent=True)
    model.NonLinear = camb.model.NonLinear_none
    k, redshifts, power = camb.get_results(model).get_linear_matter_power_spectrum(
        hubble_units=True, k_hunit=True
    )
    np.testing.assert_allclose(redshifts, REDSHIFTS)
    inside = np.log(np.maximum(K, k[0]))
    found = CubicSpline(np.log(k), np.log(power), axis=1)
    # Below CAMB's first point only the primordial slope is left.
    slope = found(np.log(k[0]), 1)[:, np.newaxis]
    return found(inside) + slope * (np.log(K) - inside)


def main() -> None:
    """Write the mean of the two ways in which CAMB, by default, spaces its wavenumbers."""
    table = (ln_power(True) + ln_power(False)) / 2
    path = Path(__file__).parent.parent / "physscore" / "spectra" / "planck2018.npz"
    np.savez_compressed(path, k=K, redshift=REDSHIFTS, ln_power=table.astype(np.float32))
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, CAMB {camb.__version__}")


if __name__ == "__main__":
    main()
