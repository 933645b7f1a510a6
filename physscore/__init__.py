"""physscore: from a score to fields, numbers and samples.

The public names, each loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from physscore._version import __version__ as __version__

if TYPE_CHECKING:
    from physscore import spectra as spectra
    from physscore.arrays import threads as threads
    from physscore.core import Energy as Energy
    from physscore.core import InputError as InputError
    from physscore.core import Prior as Prior
    from physscore.core import Score as Score
    from physscore.diagnostics.comparison import Comparison as Comparison
    from physscore.diagnostics.comparison import check_field as check_field
    from physscore.diagnostics.power import PowerSpectrum as PowerSpectrum
    from physscore.diagnostics.power import power_spectrum as power_spectrum
    from physscore.energies.analytic import Banana as Banana
    from physscore.energies.analytic import DoubleWell as DoubleWell
    from physscore.energies.analytic import EggBox as EggBox
    from physscore.energies.analytic import Funnel as Funnel
    from physscore.energies.analytic import Student as Student
    from physscore.energies.fourier_gaussian import FourierGaussian as FourierGaussian
    from physscore.energies.functions import check_score as check_score
    from physscore.energies.functions import compiled as compiled
    from physscore.energies.functions import from_functions as from_functions
    from physscore.energies.gaussian import Gaussian as Gaussian
    from physscore.energies.gaussian import GaussianMixture as GaussianMixture
    from physscore.energies.ising import Ising as Ising
    from physscore.energies.lattice import Phi4 as Phi4
    from physscore.energies.likelihoods import GaussianNoise as GaussianNoise
    from physscore.energies.likelihoods import Guidance as Guidance
    from physscore.energies.likelihoods import PoissonCounts as PoissonCounts
    from physscore.energies.lognormal import LognormalField as LognormalField
    from physscore.energies.priors import HalfNormal as HalfNormal
    from physscore.energies.priors import LogUniform as LogUniform
    from physscore.energies.priors import Normal as Normal
    from physscore.energies.priors import Parameters as Parameters
    from physscore.energies.priors import Uniform as Uniform
    from physscore.energies.random_field import GaussianRandomField as GaussianRandomField
    from physscore.energies.shells import Ring as Ring
    from physscore.energies.shells import Shells as Shells
    from physscore.energies.smoothing import smoothed as smoothed
    from physscore.evidence.curves import Thermodynamics as Thermodynamics
    from physscore.evidence.estimate import estimate_log_z as estimate_log_z
    from physscore.evidence.factors import BayesFactor as BayesFactor
    from physscore.evidence.factors import bayes_factor as bayes_factor
    from physscore.evidence.result import LogZ as LogZ
    from physscore.evidence.thermodynamics import thermodynamics as thermodynamics
    from physscore.evidence.verify import Verification as Verification
    from physscore.evidence.verify import verify as verify
    from physscore.grid import Grid as Grid
    from physscore.kernels.hamiltonian import HMC as HMC
    from physscore.kernels.langevin import MALA as MALA
    from physscore.kernels.langevin import ULA as ULA
    from physscore.kernels.langevin import AutoMALA as AutoMALA
    from physscore.kernels.langevin import CrankNicolson as CrankNicolson
    from physscore.kernels.langevin import Underdamped as Underdamped
    from physscore.kernels.langevin import ula_covariance as ula_covariance
    from physscore.kernels.metric import Dense as Dense
    from physscore.kernels.metric import Diagonal as Diagonal
    from physscore.kernels.metric import Fourier as Fourier
    from physscore.kernels.metric import Identity as Identity
    from physscore.kernels.metric import Metric as Metric
    from physscore.paths import Path as Path
    from physscore.paths import noise_levels as noise_levels
    from physscore.sampling.annealed import annealed_langevin as annealed_langevin
    from physscore.sampling.flow import score_flow as score_flow
    from physscore.sampling.flow import stagnation_points as stagnation_points
    from physscore.sampling.result import Run as Run
    from physscore.sampling.run import iterate as iterate
    from physscore.sampling.run import sample as sample
    from physscore.sampling.tempering import TemperedRun as TemperedRun
    from physscore.sampling.tempering import temper as temper
    from physscore.store import Fields as Fields
    from physscore.store import load as load
    from physscore.store import save as save

_HOMES = {
    "AutoMALA": "kernels.langevin",
    "Banana": "energies.analytic",
    "EggBox": "energies.analytic",
    "BayesFactor": "evidence.factors",
    "Comparison": "diagnostics.comparison",
    "CrankNicolson": "kernels.langevin",
    "Dense": "kernels.metric",
    "Diagonal": "kernels.metric",
    "DoubleWell": "energies.analytic",
    "Energy": "core",
    "Fields": "store",
    "Fourier": "kernels.metric",
    "FourierGaussian": "energies.fourier_gaussian",
    "Funnel": "energies.analytic",
    "Gaussian": "energies.gaussian",
    "GaussianMixture": "energies.gaussian",
    "GaussianNoise": "energies.likelihoods",
    "GaussianRandomField": "energies.random_field",
    "Grid": "grid",
    "Guidance": "energies.likelihoods",
    "HMC": "kernels.hamiltonian",
    "HalfNormal": "energies.priors",
    "Identity": "kernels.metric",
    "InputError": "core",
    "Ising": "energies.ising",
    "LogUniform": "energies.priors",
    "LognormalField": "energies.lognormal",
    "MALA": "kernels.langevin",
    "Metric": "kernels.metric",
    "Normal": "energies.priors",
    "Parameters": "energies.priors",
    "Path": "paths",
    "Phi4": "energies.lattice",
    "PoissonCounts": "energies.likelihoods",
    "PowerSpectrum": "diagnostics.power",
    "Prior": "core",
    "Ring": "energies.shells",
    "Run": "sampling.result",
    "Score": "core",
    "Shells": "energies.shells",
    "Student": "energies.analytic",
    "TemperedRun": "sampling.tempering",
    "Thermodynamics": "evidence.curves",
    "ULA": "kernels.langevin",
    "Underdamped": "kernels.langevin",
    "Uniform": "energies.priors",
    "Verification": "evidence.verify",
    "annealed_langevin": "sampling.annealed",
    "bayes_factor": "evidence.factors",
    "LogZ": "evidence.result",
    "check_field": "diagnostics.comparison",
    "check_score": "energies.functions",
    "compiled": "energies.functions",
    "estimate_log_z": "evidence.estimate",
    "from_functions": "energies.functions",
    "iterate": "sampling.run",
    "load": "store",
    "noise_levels": "paths",
    "power_spectrum": "diagnostics.power",
    "sample": "sampling.run",
    "save": "store",
    "score_flow": "sampling.flow",
    "smoothed": "energies.smoothing",
    "stagnation_points": "sampling.flow",
    "temper": "sampling.tempering",
    "thermodynamics": "evidence.thermodynamics",
    "threads": "arrays",
    "ula_covariance": "kernels.langevin",
    "verify": "evidence.verify",
}
_MODULES = {"spectra"}

__all__ = sorted([*_HOMES, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"physscore.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'physscore' has no attribute {name!r}")
    value = getattr(import_module(f"physscore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
