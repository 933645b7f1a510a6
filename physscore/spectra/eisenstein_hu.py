"""The fitting formula of Eisenstein and Hu for the linear matter power spectrum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from physscore.core import InputError
from physscore.spectra.model import COSMOLOGICAL_UNITS, Spectrum, _Floats, require_number


class EisensteinHu(Spectrum):
    """Linear P(k) of cold dark matter and baryons in flat LambdaCDM, normalised to sigma8.

    Eisenstein & Hu 1998 (ApJ 496, 605, astro-ph/9709112): the transfer function with acoustic
    oscillations, equations 2 to 24, good to a few percent; or without, equations 26 and 28 to 31.
    Neutrinos are massless. The default parameters are Planck 2018, TT,TE,EE+lowE+lensing+BAO
    (arXiv:1807.06209, table 2).

    Parameters
    ----------
    omega_m, omega_b
        Density of all matter and of baryons, in units of the critical density.
    h
        Hubble constant in 100 km/s/Mpc.
    n_s
        Spectral index.
    sigma8
        Standard deviation in spheres of 8 Mpc/h at redshift 0, linear.
    redshift
        At least 0; growth by Heath's integral (1977, MNRAS 179, 351), with D = 1 at redshift 0.
    t_cmb
        Temperature of the background in K.
    wiggles
        Whether to keep the oscillations.

    Raises
    ------
    InputError
        If a parameter is outside the range in which it means something.
    """

    units = COSMOLOGICAL_UNITS
    dim = 3
    redshift: float

    def __init__(
        self,
        omega_m: float = 0.3111,
        omega_b: float = 0.04897,
        h: float = 0.6766,
        n_s: float = 0.9665,
        sigma8: float = 0.8102,
        redshift: float = 0.0,
        t_cmb: float = 2.7255,
        wiggles: bool = True,
    ) -> None:
        self.omega_m = require_number("omega_m", omega_m, 0.0, 1.0, open_low=True)
        self.omega_b = require_number("omega_b", omega_b, 0.0, open_low=True)
        self.h = require_number("h", h, 0.0, open_low=True)
        self.n_s = require_number("n_s", n_s, -math.inf)
        self.sigma8 = require_number("sigma8", sigma8, 0.0, open_low=True)
        self.redshift = require_number("redshift", redshift, 0.0)
        self.t_cmb = require_number("t_cmb", t_cmb, 0.0, open_low=True)
        if not isinstance(wiggles, bool):
            raise InputError(f"wiggles is {wiggles!r}: it must be True or False")
        self.wiggles = wiggles
        if self.omega_b >= self.omega_m:
            raise InputError(f"omega_b is {omega_b!r}: it must be less than omega_m, which is {omega_m!r}")
        with np.errstate(over="ignore"):
            variance = self._variance(8.0)
        if not 0 < variance < math.inf:
            raise InputError(f"n_s is {n_s!r}: with it sigma8 cannot be computed, it must be near 1")
        self._amplitude = self.sigma8**2 / variance * self.growth(self.redshift) ** 2
        self._frozen = True

    def _power(self, k: _Floats) -> _Floats:
        return self._amplitude * k**self.n_s * self.transfer(k) ** 2

    def transfer(self, k: _Floats) -> _Floats:
        """Return the transfer function, 1 at small k, at wavenumbers in h/Mpc."""
        return self._with_wiggles(k * self.h) if self.wiggles else self._without_wiggles(k * self.h)

    def growth(self, redshift: float) -> float:
        """Return the linear growth factor, 1 at redshift 0."""
        from scipy.integrate import quad

        def expansion(a: float) -> float:
            return math.sqrt(self.omega_m / a**3 + 1 - self.omega_m)

        def heath(a: float) -> float:
            integral = quad(lambda x: (x * expansion(x)) ** -3 if x > 0 else 0.0, 0.0, a, epsrel=1e-10)[0]
            return expansion(a) * float(integral)

        return heath(1 / (1 + redshift)) / heath(1.0)

    def _variance(self, radius: float) -> float:
        """Variance of k^n_s T^2 in spheres of ``radius`` Mpc/h."""
        ln_k = np.linspace(math.log(1e-6), math.log(1e3), 20001)
        k = np.exp(ln_k)
        x = k * radius
        with np.errstate(invalid="ignore"):
            window = np.where(x > 1e-2, 3 * (np.sin(x) - x * np.cos(x)) / x**3, 1 - x**2 / 10)
        power = k**self.n_s * self.transfer(k) ** 2
        return float(np.trapezoid(power * window**2 * k**3 / (2 * math.pi**2), ln_k))

    def _with_wiggles(self, k: _Floats) -> _Floats:
        """Equations 2 to 24; k in 1/Mpc."""
        matter, baryons = self.omega_m * self.h**2, self.omega_b * self.h**2
        f_b = self.omega_b / self.omega_m
        f_c = 1 - f_b
        theta = self.t_cmb / 2.7
        z_eq = 2.50e4 * matter * theta**-4
        k_eq = 7.46e-2 * matter * theta**-2
        b1 = 0.313 * matter**-0.419 * (1 + 0.607 * matter**0.674)
        b2 = 0.238 * matter**0.223
        z_d = 1291 * matter**0.251 / (1 + 0.659 * matter**0.828) * (1 + b1 * baryons**b2)
        r_d = 31.5 * baryons * theta**-4 * 1e3 / z_d
        r_eq = 31.5 * baryons * theta**-4 * 1e3 / z_eq
        sound = (
            2 / (3 * k_eq) * math.sqrt(6 / r_eq)
            * math.log((math.sqrt(1 + r_d) + math.sqrt(r_d + r_eq)) / (1 + math.sqrt(r_eq)))
        )  # fmt: skip
        k_silk = 1.6 * baryons**0.52 * matter**0.73 * (1 + (10.4 * matter) ** -0.95)
        q = k / (13.41 * k_eq)

        def pressureless(alpha: float, beta: float) -> _Floats:
            c = 14.2 / alpha + 386 / (1 + 69.9 * q**1.08)
            log = np.log(math.e + 1.8 * beta * q)
            return np.asarray(log / (log + c * q**2))

        a1 = (46.9 * matter) ** 0.670 * (1 + (32.1 * matter) ** -0.532)
        a2 = (12.0 * matter) ** 0.424 * (1 + (45.0 * matter) ** -0.582)
        alpha_c = a1**-f_b * a2 ** -(f_b**3)
        c1 = 0.944 / (1 + (458 * matter) ** -0.708)
        c2 = (0.395 * matter) ** -0.0266
        beta_c = 1 / (1 + c1 * (f_c**c2 - 1))
        f = 1 / (1 + (k * sound / 5.4) ** 4)
        cold = f * pressureless(1.0, beta_c) + (1 - f) * pressureless(alpha_c, beta_c)

        y = (1 + z_eq) / (1 + z_d)
        root = math.sqrt(1 + y)
        g = y * (-6 * root + (2 + 3 * y) * math.log((root + 1) / (root - 1)))
        alpha_b = 2.07 * k_eq * sound * (1 + r_d) ** -0.75 * g
        beta_b = 0.5 + f_b + (3 - 2 * f_b) * math.sqrt((17.2 * matter) ** 2 + 1)
        beta_node = 8.41 * matter**0.435
        ks = k * sound
        shifted = ks / (1 + (beta_node / ks) ** 3) ** (1 / 3)
        baryonic = (
            pressureless(1.0, 1.0) / (1 + (ks / 5.2) ** 2)
            + alpha_b / (1 + (beta_b / ks) ** 3) * np.exp(-((k / k_silk) ** 1.4))
        ) * np.sinc(shifted / np.pi)
        return np.asarray(f_b * baryonic + f_c * cold)

    def _without_wiggles(self, k: _Floats) -> _Floats:
        """Equations 26 and 28 to 31; k in 1/Mpc."""
        matter, baryons = self.omega_m * self.h**2, self.omega_b * self.h**2
        f_b = self.omega_b / self.omega_m
        theta = self.t_cmb / 2.7
        sound = 44.5 * math.log(9.83 / matter) / math.sqrt(1 + 10 * baryons**0.75)
        alpha = 1 - 0.328 * math.log(431 * matter) * f_b + 0.38 * math.log(22.3 * matter) * f_b**2
        gamma = self.omega_m * self.h * (alpha + (1 - alpha) / (1 + (0.43 * k * sound) ** 4))
        q = k / self.h * theta**2 / gamma
        log = np.log(2 * math.e + 1.8 * q)
        return np.asarray(log / (log + (14.2 + 731 / (1 + 62.5 * q)) * q**2))

    def settings(self) -> dict[str, Any]:
        """Return what makes the model."""
        return {
            "name": "eh98",
            "omega_m": self.omega_m,
            "omega_b": self.omega_b,
            "h": self.h,
            "n_s": self.n_s,
            "sigma8": self.sigma8,
            "redshift": self.redshift,
            "t_cmb": self.t_cmb,
            "wiggles": self.wiggles,
        }
