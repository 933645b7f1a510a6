"""What training gives, and a model file holds: a score of physical states, with its coordinates."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft
from torch import nn

from physscore import noise
from physscore.arrays import as_states
from physscore.core import Array, InputError, Score
from physscore.energies.fourier_gaussian import FourierGaussian
from physscore.energies.learned import from_torch
from physscore.energies.torch_modules import takes_sigma
from physscore.grid import Grid
from physscore.learning.files import architecture, build, read_tensors, write_tensors
from physscore.learning.in_double import InDouble
from physscore.learning.mlp import MLP
from physscore.learning.normalisation import Components, Normalisation, from_settings
from physscore.learning.preconditioning import Preconditioned
from physscore.learning.unet import UNet
from physscore.sampling.denoising import edm_levels, heun
from physscore.sampling.levels import Level, enough_levels
from physscore.sampling.likelihood import LogLikelihood, log_likelihood
from physscore.sampling.start import MatchedNormal
from physscore.store.hdf5 import check_output

_START = 3  # the draw of the noise that chains start from, as in other samplers


class Fitted(Score):
    """A learned score of states x, through coordinates y = normalisation(x) and noise levels of y.

    As a score it is that of the density with little noise, in physical units, the Jacobian included.

    Parameters
    ----------
    model
        A module that maps coordinates (n, *shape), noise levels (n,) if it takes them, and standardised
        parameters to scores of the coordinates.
    shape
        Shape of one state.
    normalisation
        Between states and coordinates.
    sigmas
        The smallest and the largest noise level that it has learned, in units of the coordinates.
    level
        The noise level at which it is used as a score or an energy. [default: the smallest]
    box_size
        Of fields: the sides of their box.
    names, parameter_mean, parameter_std
        Of the physical parameters that it is conditional on, if it is.
    parameter_range
        The smallest and the largest that it was trained with, (2, p), where they are known.
    about
        Where it comes from: data, settings, metrics; ready for JSON.
    """

    def __init__(
        self,
        model: nn.Module,
        shape: tuple[int, ...],
        normalisation: Normalisation | Components,
        *,
        sigmas: tuple[float, float],
        level: float | None = None,
        box_size: tuple[float, ...] | None = None,
        names: tuple[str, ...] = (),
        parameter_mean: Any = (),
        parameter_std: Any = (),
        parameter_range: Any = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.model, self.shape, self.normalisation = model.eval(), tuple(shape), normalisation
        self.sigma_min, self.sigma_max = map(float, sigmas)
        self.level = self.sigma_min if level is None else float(level)
        self.box_size, self.names, self.about = box_size, tuple(names), about or {}
        self.parameter_mean = np.asarray(parameter_mean, np.float64)
        self.parameter_std = np.asarray(parameter_std, np.float64)
        ends = parameter_range
        self.parameter_range = None if ends is None else np.reshape(ends, (2, len(self.names)))
        self.parameters: npt.NDArray[np.float64] | None = None
        self._in_double = InDouble()

    @property
    def kind(self) -> str:
        """ "score" or "energy"."""
        return str(getattr(self.model, "kind", "score"))

    @property
    def grid(self) -> Grid | None:
        """The box of fields whose size is known; None otherwise."""
        return None if self.box_size is None else Grid(self.shape, self.box_size)

    @property
    def fields(self) -> bool:
        """Whether states are fields on a periodic box, rather than vectors."""
        network = self.model.network if isinstance(self.model, Preconditioned) else self.model
        return len(self.shape) <= 3 and (isinstance(network, UNet) or len(self.shape) > 1)

    @property
    def levels(self) -> bool:
        """Whether it knows the score at every noise level, which sampling through noise needs."""
        return takes_sigma(self.model) and getattr(self.model, "levels", True)

    @property
    def doubt(self) -> str | None:
        """Why it is not to be taken for the score of the data, if its training found a reason."""
        found = self.about.get("training", {}).get("doubt")
        return None if found is None else str(found)

    def conditioned(self, parameters: Any) -> Fitted:
        """Return the score at given physical parameters: a vector, or a table name -> value.

        Outside of the range that it was trained in it warns, as the score is then a guess.

        Raises
        ------
        InputError
            If they are not those that the model was trained with, or not finite.
        """
        if isinstance(parameters, dict):
            if set(parameters) != set(self.names):
                raise InputError(
                    f"parameters are {', '.join(parameters)}: the model has {', '.join(self.names)}"
                )
            parameters = [parameters[name] for name in self.names]
        values = np.asarray(parameters, np.float64)
        if values.shape != (len(self.names),) or not len(self.names):
            raise InputError(
                f"parameters has shape {values.shape}: the model has {len(self.names)} parameters "
                f"({', '.join(self.names)})"
            )
        if not np.isfinite(values).all():
            raise InputError(f"parameters is {values.tolist()}: they must be finite")
        if self.parameter_range is not None:
            for name, value, low, high in zip(self.names, values, *self.parameter_range, strict=True):
                if not low <= value <= high:
                    said = f"{name} is {value:g}: the model was trained from {low:.4g} to {high:.4g}"
                    warnings.warn(f"{said}, and guesses beyond", stacklevel=2)
        found = type(self)(
            self.model, self.shape, self.normalisation, sigmas=(self.sigma_min, self.sigma_max),
            level=self.level, box_size=self.box_size, names=self.names, parameter_mean=self.parameter_mean,
            parameter_std=self.parameter_std, parameter_range=self.parameter_range, about=self.about,
        )  # fmt: skip
        found.parameters = values
        return found

    def at(self, sigma: float | None = None) -> Score:
        """Return the score, or energy, of the coordinates y with noise N(0, sigma^2).

        A ``score_at`` for all samplers that go through noise levels. [default: ``level``]
        """
        if self.names and self.parameters is None:
            raise InputError(
                f"the model is conditional on {', '.join(self.names)}: use conditioned(parameters)"
            )
        level = self.level if sigma is None else float(sigma)
        model = self.model if sigma is not None else self._exact
        given = None
        if self.parameters is not None:
            given = (self.parameters - self.parameter_mean) / self.parameter_std
        found: Score = from_torch(
            model, self.shape, kind=self.kind, sigma=level if self.levels else None, parameters=given,
            name=f"learned {self.kind}",
        )  # fmt: skip
        return found

    @property
    def _exact(self) -> nn.Module:
        """Our network of vectors in double precision."""
        network = self.model.network if isinstance(self.model, Preconditioned) else self.model
        return self._in_double.of(self.model) if isinstance(network, MLP) else self.model

    def score(self, x: Array) -> Array:
        """Return grad log p of physical states, both of shape (n, *shape)."""
        states = as_states(x, self.shape)
        slope = self.normalisation.slope(states)
        inner = self.at().score(slope.y)
        with np.errstate(over="ignore"):  # close to a wall
            return np.asarray(inner * slope.first + slope.log_first_slope, states.dtype)

    def directional(self, x: Array, v: Array) -> tuple[Array, Array]:
        """Return the score of physical states and its derivative along ``v``, J v: both of their shape."""
        states, along = as_states(x, self.shape), as_states(v, self.shape, "v")
        slope = self.normalisation.slope(states)
        inner: Any = self.at()
        s, product = inner.directional(slope.y, slope.first * along)
        with np.errstate(over="ignore", invalid="ignore"):
            bent = s * slope.first * slope.log_first_slope + slope.log_first_bend
            score = s * slope.first + slope.log_first_slope
            product = slope.first * product + bent * along
        return np.asarray(score, states.dtype), np.asarray(product, states.dtype)

    def starts(self, n: int, *, seed: int) -> Array:
        """Return states (n, *shape) that chains may start from: white noise of the coordinates."""
        white = noise.normal(n, math.prod(self.shape), seed=seed, draw=_START)
        return self.normalisation.inverse(white.reshape(n, *self.shape))

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        steps: int | None = None,
        churn: float = 0.0,
        batch: int | None = None,
        progress: bool = False,
        first: int = 0,
    ) -> Array:
        """Return ``n`` new states in physical units, by the second-order sampler of EDM.

        They start from the Gaussian field with the spectrum of data and noise, where the model has one.

        Parameters
        ----------
        n
            How many.
        seed
            A whole number from 0 to 2^64 - 1. A draw depends on it and on its number only, to rounding.
        steps
            Noise levels. [default: 40, more where they are more than 2500 apart]
        churn
            Noise that is added again on the way; see ``sampling.denoising.heun``.
        batch, progress
            As there.
        first
            Number of the first.

        Returns
        -------
        array (n, *shape)
            Vectors in float64, fields in float32.

        Raises
        ------
        InputError
            If the model was trained at one noise level only: use ``ps.sample``.
        """
        if not self.levels or self.sigma_min == self.sigma_max:
            raise InputError(
                "the model was not trained through noise levels: sample it by ps.sample, as any other score"
            )
        start = self._start(n, seed, first)
        ends = self.sigma_min, self.sigma_max
        levels = edm_levels(*ends, enough_levels(*ends) if steps is None else steps)
        if churn and first:
            raise InputError(f"first is {first} and churn {churn}: the noise of churn is counted from 0")
        y = heun(self.at, levels, n, seed=seed, churn=churn, init=start, batch=batch, progress=progress)
        return np.asarray(self.normalisation.inverse(y), np.float32 if self.fields else np.float64)

    def log_likelihood(self, x: Array, **settings: Any) -> LogLikelihood:
        """Return the log density of physical states, in nats; see ``sampling.likelihood.log_likelihood``.

        Parameters
        ----------
        x
            States (n, *shape).
        settings
            As there: divergence, probes, tolerance, seed, ...
        """
        if not self.levels or self.sigma_min == self.sigma_max:
            raise InputError("the model was not trained through noise levels: it has no flow to follow")
        states = as_states(np.asarray(x, np.float64), self.shape)
        slope = self.normalisation.slope(states)
        if self.fields and isinstance(self.model, Preconditioned) and self.model.analytic:
            variances = np.repeat(self._end().ravel(), 2)
            end = FourierGaussian(
                Grid(self.shape, tuple(map(float, self.shape))), np.zeros_like(variances), variances
            )
            settings.setdefault("terminal", end)
        found = log_likelihood(self.at, slope.y, (self.sigma_min, self.sigma_max), **settings)
        jacobian = np.log(slope.first).reshape(len(states), -1).sum(axis=1)
        return found._replace(log_p=found.log_p + jacobian)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the model to one safetensors file that describes itself.

        Raises
        ------
        InputError
            If the file exists or cannot be written.
        """
        target = check_output(path, overwrite=overwrite)
        write_tensors(target, dict(self.model.state_dict()), self.describe())

    def describe(self) -> dict[str, Any]:
        """Return all but the weights, ready for JSON."""
        return {
            "kind": self.kind, "architecture": architecture(self.model), "shape": list(self.shape),
            "normalisation": self.normalisation.settings(), "sigmas": [self.sigma_min, self.sigma_max],
            "level": self.level, "names": list(self.names),
            "box_size": None if self.box_size is None else list(self.box_size),
            "parameter_mean": self.parameter_mean.tolist(), "parameter_std": self.parameter_std.tolist(),
            **({} if self.parameter_range is None else {"parameter_range": self.parameter_range.tolist()}),
            "about": self.about,
        }  # fmt: skip

    def digest(self) -> str:
        """Return what tells it from others: a hash of the weights and of all else that a file holds."""
        found = hashlib.sha256(json.dumps({**self.describe(), "about": None}, sort_keys=True).encode())
        for name, weight in sorted(self.model.state_dict().items()):
            found.update(name.encode() + np.ascontiguousarray(weight.detach().cpu().double()).tobytes())
        return found.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Return what it is, ready for JSON, without the long tables."""
        found = {name: value for name, value in self.describe().items() if name != "normalisation"}
        found["weights"] = sum(w.numel() for w in self.model.parameters())
        return found

    def __repr__(self) -> str:
        weights = sum(w.numel() for w in self.model.parameters())
        return f"{type(self).__name__}({self.kind} of states {self.shape}, {weights} weights)"

    def _start(self, n: int, seed: int, first: int) -> Array:
        size = int(np.prod(self.shape))
        white = noise.normal(n, size, seed=seed, draw=_START, first=first).reshape(n, *self.shape)
        if not self.fields:  # components may have means of their own, and go together
            with suppress(InputError):  # a score without a peak at so much noise
                return MatchedNormal(Level(self.at, self.sigma_max), exact=False).of_white(white)
        elif isinstance(self.model, Preconditioned) and self.model.analytic:
            axes = range(1, len(self.shape) + 1)
            modes = scipy.fft.rfftn(white, axes=axes) * np.sqrt(self._end())
            return np.asarray(scipy.fft.irfftn(modes, self.shape, axes=axes))
        return np.asarray(white * math.hypot(self.sigma_max, 1.0))

    def _end(self) -> npt.NDArray[np.float64]:
        """Return the variance of each mode at the largest noise, where a field is all but Gaussian."""
        assert isinstance(self.model, Preconditioned)
        return np.asarray(self.model.eigenvalues, np.float64) + self.sigma_max**2


def fitted(*args: Any, **settings: Any) -> Fitted:
    """Return a ``FittedEnergy`` of a model that is an energy, a :class:`Fitted` of any other."""
    from physscore.learning.fitted_energy import FittedEnergy

    kind = FittedEnergy if getattr(args[0], "kind", "score") == "energy" else Fitted
    return kind(*args, **settings)


def load(path: str | os.PathLike[str], module: nn.Module | None = None) -> Fitted:
    """Return the model in a safetensors file; ``ps.load`` calls it.

    Parameters
    ----------
    path
        The file.
    module
        The user's network that takes the weights, where the file was made of one.

    Raises
    ------
    InputError
        If the file is missing, damaged, foreign, or newer than this version.
    """
    name = Path(path)
    tensors, about = read_tensors(name)
    found = from_description(tensors, about, name, module)
    if found.doubt is not None:
        warnings.warn(f"{name.name}: {found.doubt}", stacklevel=2)
    return found


def from_description(
    tensors: dict[str, Any], about: dict[str, Any], path: Path, module: nn.Module | None = None
) -> Fitted:
    """Return the model that weights and a description make."""
    try:
        model = build(about["architecture"], tensors, path, module)
        shape = tuple(int(side) for side in about["shape"])
        low, high = map(float, about["sigmas"])
        config = about["architecture"]["config"]
        if config.get("dim") not in (None, shape[0] if len(shape) == 1 else None, len(shape)):
            raise ValueError(f"a network of dimension {config['dim']} for states {shape}")
        normalisation = from_settings(about["normalisation"])
        if isinstance(normalisation, Components) and shape != (len(normalisation.parts),):
            raise ValueError(f"a normalisation of {len(normalisation.parts)} components for states {shape}")
        box = None if about["box_size"] is None else tuple(map(float, about["box_size"]))
        return fitted(
            model, shape, normalisation, sigmas=(low, high),
            level=about.get("level"), box_size=box,
            names=tuple(map(str, about["names"])), parameter_mean=about["parameter_mean"],
            parameter_std=about["parameter_std"], parameter_range=about.get("parameter_range"),
            about=about["about"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"file {path} is damaged: {type(error).__name__}: {error}") from error
