"""physscore: from a score to fields, numbers and samples.

The public names, each loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from physscore._version import __version__ as __version__

if TYPE_CHECKING:
    from physscore import learning as learning
    from physscore import spectra as spectra
    from physscore.arrays import threads as threads
    from physscore.core import Energy as Energy
    from physscore.core import InputError as InputError
    from physscore.core import Prior as Prior
    from physscore.core import Score as Score
    from physscore.diagnostics.bispectrum import bispectrum as bispectrum
    from physscore.diagnostics.calibration import central_coverage as central_coverage
    from physscore.diagnostics.calibration import interval_coverage as interval_coverage
    from physscore.diagnostics.calibration import simulation_based_calibration as simulation_based_calibration
    from physscore.diagnostics.calibration import tarp as tarp
    from physscore.diagnostics.collapse import collapse as collapse
    from physscore.diagnostics.collapse import differential_entropy as differential_entropy
    from physscore.diagnostics.collapse import log_det_covariance as log_det_covariance
    from physscore.diagnostics.comparison import Comparison as Comparison
    from physscore.diagnostics.comparison import check_field as check_field
    from physscore.diagnostics.derivatives import directional as directional
    from physscore.diagnostics.derivatives import divergence as divergence
    from physscore.diagnostics.derivatives import jacobian as jacobian
    from physscore.diagnostics.field_audit import FieldAudit as FieldAudit
    from physscore.diagnostics.field_audit import compare_fields as compare_fields
    from physscore.diagnostics.integrability import curl_fraction as curl_fraction
    from physscore.diagnostics.multipoles import PowerMultipoles as PowerMultipoles
    from physscore.diagnostics.multipoles import power_multipoles as power_multipoles
    from physscore.diagnostics.particles import draw_particles as draw_particles
    from physscore.diagnostics.particles import paint as paint
    from physscore.diagnostics.power import PowerSpectrum as PowerSpectrum
    from physscore.diagnostics.power import power_spectrum as power_spectrum
    from physscore.diagnostics.score_error import band_errors as band_errors
    from physscore.diagnostics.score_error import fisher_divergence as fisher_divergence
    from physscore.diagnostics.score_error import score_error as score_error
    from physscore.diagnostics.score_field import ScoreAudit as ScoreAudit
    from physscore.diagnostics.score_field import audit_score as audit_score
    from physscore.diagnostics.stability import drift_to_noise as drift_to_noise
    from physscore.diagnostics.stability import jacobian_spectrum as jacobian_spectrum
    from physscore.diagnostics.two_sample import classifier_test as classifier_test
    from physscore.diagnostics.two_sample import energy_test as energy_test
    from physscore.energies.analytic import Banana as Banana
    from physscore.energies.analytic import DoubleWell as DoubleWell
    from physscore.energies.analytic import EggBox as EggBox
    from physscore.energies.analytic import Funnel as Funnel
    from physscore.energies.analytic import Student as Student
    from physscore.energies.fourier_gaussian import FourierGaussian as FourierGaussian
    from physscore.energies.functions import compiled as compiled
    from physscore.energies.functions import from_functions as from_functions
    from physscore.energies.gaussian import Gaussian as Gaussian
    from physscore.energies.gaussian import GaussianMixture as GaussianMixture
    from physscore.energies.guidance import Guidance as Guidance
    from physscore.energies.ising import Ising as Ising
    from physscore.energies.johnson import JohnsonSU as JohnsonSU
    from physscore.energies.lattice import Phi4 as Phi4
    from physscore.energies.learned import from_torch as from_torch
    from physscore.energies.likelihoods import GaussianNoise as GaussianNoise
    from physscore.energies.likelihoods import PoissonCounts as PoissonCounts
    from physscore.energies.lognormal import LognormalField as LognormalField
    from physscore.energies.positive import Beta as Beta
    from physscore.energies.positive import Gamma as Gamma
    from physscore.energies.positive import HalfCauchy as HalfCauchy
    from physscore.energies.positive import InverseGamma as InverseGamma
    from physscore.energies.positive import LogNormal as LogNormal
    from physscore.energies.priors import Parameters as Parameters
    from physscore.energies.random_field import GaussianRandomField as GaussianRandomField
    from physscore.energies.score_check import check_score as check_score
    from physscore.energies.shells import Ring as Ring
    from physscore.energies.shells import Shells as Shells
    from physscore.energies.smoothing import smoothed as smoothed
    from physscore.energies.univariate import HalfNormal as HalfNormal
    from physscore.energies.univariate import LogUniform as LogUniform
    from physscore.energies.univariate import Normal as Normal
    from physscore.energies.univariate import TruncatedNormal as TruncatedNormal
    from physscore.energies.univariate import Uniform as Uniform
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
    from physscore.sampling.denoising import ddpm as ddpm
    from physscore.sampling.denoising import edm_levels as edm_levels
    from physscore.sampling.denoising import heun as heun
    from physscore.sampling.diffusion import reverse_sde as reverse_sde
    from physscore.sampling.flow import score_flow as score_flow
    from physscore.sampling.flow import stagnation_points as stagnation_points
    from physscore.sampling.guidance import guided as guided
    from physscore.sampling.likelihood import log_likelihood as log_likelihood
    from physscore.sampling.noise_prediction import cosine_betas as cosine_betas
    from physscore.sampling.noise_prediction import epsilon_to_score as epsilon_to_score
    from physscore.sampling.noise_prediction import linear_betas as linear_betas
    from physscore.sampling.noise_prediction import score_at_from_denoiser as score_at_from_denoiser
    from physscore.sampling.noise_prediction import score_at_from_epsilon as score_at_from_epsilon
    from physscore.sampling.noise_prediction import score_at_from_v as score_at_from_v
    from physscore.sampling.probability_flow import encode as encode
    from physscore.sampling.probability_flow import probability_flow as probability_flow
    from physscore.sampling.result import Run as Run
    from physscore.sampling.run import iterate as iterate
    from physscore.sampling.run import sample as sample
    from physscore.sampling.sde import VE as VE
    from physscore.sampling.sde import VP as VP
    from physscore.sampling.sde import SubVP as SubVP
    from physscore.sampling.tempering import TemperedRun as TemperedRun
    from physscore.sampling.tempering import temper as temper
    from physscore.store import Fields as Fields
    from physscore.store import load as load
    from physscore.store import save as save

_HOMES = {
    "AutoMALA": "kernels.langevin",
    "Banana": "energies.analytic",
    "BayesFactor": "evidence.factors",
    "Beta": "energies.positive",
    "Comparison": "diagnostics.comparison",
    "CrankNicolson": "kernels.langevin",
    "Dense": "kernels.metric",
    "Diagonal": "kernels.metric",
    "DoubleWell": "energies.analytic",
    "EggBox": "energies.analytic",
    "Energy": "core",
    "FieldAudit": "diagnostics.field_audit",
    "Fields": "store",
    "Fourier": "kernels.metric",
    "FourierGaussian": "energies.fourier_gaussian",
    "Funnel": "energies.analytic",
    "Gamma": "energies.positive",
    "Gaussian": "energies.gaussian",
    "GaussianMixture": "energies.gaussian",
    "GaussianNoise": "energies.likelihoods",
    "GaussianRandomField": "energies.random_field",
    "Grid": "grid",
    "Guidance": "energies.guidance",
    "HMC": "kernels.hamiltonian",
    "HalfCauchy": "energies.positive",
    "HalfNormal": "energies.univariate",
    "Identity": "kernels.metric",
    "InputError": "core",
    "InverseGamma": "energies.positive",
    "Ising": "energies.ising",
    "JohnsonSU": "energies.johnson",
    "LogNormal": "energies.positive",
    "LogUniform": "energies.univariate",
    "LogZ": "evidence.result",
    "LognormalField": "energies.lognormal",
    "MALA": "kernels.langevin",
    "Metric": "kernels.metric",
    "Normal": "energies.univariate",
    "Parameters": "energies.priors",
    "Path": "paths",
    "Phi4": "energies.lattice",
    "PoissonCounts": "energies.likelihoods",
    "PowerMultipoles": "diagnostics.multipoles",
    "PowerSpectrum": "diagnostics.power",
    "Prior": "core",
    "Ring": "energies.shells",
    "Run": "sampling.result",
    "Score": "core",
    "ScoreAudit": "diagnostics.score_field",
    "Shells": "energies.shells",
    "Student": "energies.analytic",
    "SubVP": "sampling.sde",
    "TemperedRun": "sampling.tempering",
    "Thermodynamics": "evidence.curves",
    "TruncatedNormal": "energies.univariate",
    "ULA": "kernels.langevin",
    "Underdamped": "kernels.langevin",
    "Uniform": "energies.univariate",
    "VE": "sampling.sde",
    "VP": "sampling.sde",
    "Verification": "evidence.verify",
    "annealed_langevin": "sampling.annealed",
    "audit_score": "diagnostics.score_field",
    "band_errors": "diagnostics.score_error",
    "bayes_factor": "evidence.factors",
    "bispectrum": "diagnostics.bispectrum",
    "central_coverage": "diagnostics.calibration",
    "check_field": "diagnostics.comparison",
    "check_score": "energies.score_check",
    "classifier_test": "diagnostics.two_sample",
    "collapse": "diagnostics.collapse",
    "compare_fields": "diagnostics.field_audit",
    "compiled": "energies.functions",
    "cosine_betas": "sampling.noise_prediction",
    "curl_fraction": "diagnostics.integrability",
    "ddpm": "sampling.denoising",
    "differential_entropy": "diagnostics.collapse",
    "directional": "diagnostics.derivatives",
    "divergence": "diagnostics.derivatives",
    "draw_particles": "diagnostics.particles",
    "drift_to_noise": "diagnostics.stability",
    "edm_levels": "sampling.denoising",
    "encode": "sampling.probability_flow",
    "energy_test": "diagnostics.two_sample",
    "epsilon_to_score": "sampling.noise_prediction",
    "estimate_log_z": "evidence.estimate",
    "fisher_divergence": "diagnostics.score_error",
    "from_functions": "energies.functions",
    "from_torch": "energies.learned",
    "guided": "sampling.guidance",
    "heun": "sampling.denoising",
    "interval_coverage": "diagnostics.calibration",
    "iterate": "sampling.run",
    "jacobian": "diagnostics.derivatives",
    "jacobian_spectrum": "diagnostics.stability",
    "linear_betas": "sampling.noise_prediction",
    "load": "store",
    "log_det_covariance": "diagnostics.collapse",
    "log_likelihood": "sampling.likelihood",
    "noise_levels": "paths",
    "paint": "diagnostics.particles",
    "power_multipoles": "diagnostics.multipoles",
    "power_spectrum": "diagnostics.power",
    "probability_flow": "sampling.probability_flow",
    "reverse_sde": "sampling.diffusion",
    "sample": "sampling.run",
    "save": "store",
    "score_at_from_denoiser": "sampling.noise_prediction",
    "score_at_from_epsilon": "sampling.noise_prediction",
    "score_at_from_v": "sampling.noise_prediction",
    "score_error": "diagnostics.score_error",
    "score_flow": "sampling.flow",
    "simulation_based_calibration": "diagnostics.calibration",
    "smoothed": "energies.smoothing",
    "stagnation_points": "sampling.flow",
    "tarp": "diagnostics.calibration",
    "temper": "sampling.tempering",
    "thermodynamics": "evidence.thermodynamics",
    "threads": "arrays",
    "ula_covariance": "kernels.langevin",
    "verify": "evidence.verify",
}
_MODULES = {"learning", "spectra"}

# Not learning: it needs an extra, and "from physscore import *" takes all of these.
__all__ = sorted([*_HOMES, "spectra", "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"physscore.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'physscore' has no attribute {name!r}")
    value = getattr(import_module(f"physscore.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *_MODULES]
