"""Training: from data to a fitted score, with a file that can be gone on with."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from physscore.core import InputError
from physscore.interrupt import interruptible
from physscore.learning.data import Data, held_out, read, rows
from physscore.learning.files import finite, read_tensors, write_tensors
from physscore.learning.fitted import Fitted, load
from physscore.learning.optimiser import Average, Optimiser, default_rate, schedule, weights_of
from physscore.learning.task import LOSSES, Task, of_fields
from physscore.noise import seed_key
from physscore.sampling.engine import whole
from physscore.store.hdf5 import check_output, part_of, require_space

_STEPS = 10_000
_LOOKS = 20  # validations in a training
_REST = 9  # times as long as a validation no other follows where time is limited
_SAVE_SECONDS = 30.0
_MOST = 1e6  # of a learning rate or a noise level: single precision holds its steps and squares
_COPIES = 5  # of the weights in the file of an unfinished training, at most
_CHANCE = 2.0  # standard errors by which later weights may look worse


def train(
    model: str | nn.Module,
    data: Any,
    dataset: str | None = None,
    *,
    validation: Any = None,
    loss: str = "levels",
    sigma: float | None = None,
    kind: str = "score",
    analytic: bool | None = None,
    transform: str = "auto",
    parameters: Any = None,
    validation_parameters: Any = None,
    names: Sequence[str] | None = None,
    steps: int | None = None,
    max_time: float | None = None,
    batch: int = 64,
    learning_rate: float | None = None,
    weight_decay: float = 0.0,
    integrability: float = 0.0,
    precision: str = "float32",
    coarse: Sequence[int] = (),
    augment: bool = True,
    patience: int | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    on_interrupt: Callable[[], None] = lambda: None,
) -> Fitted:
    """Fit a score to data by score matching.

    Parameters
    ----------
    model
        "mlp" for vectors, "unet" for periodic fields, or a ``torch.nn.Module`` that maps coordinates
        (n, *shape) to scores, called with a noise level and ``parameters=`` if it takes them. It is trained
        itself: another training of it changes what the first returned. Sides for "unet": multiples of 4.
    data
        States (n, *shape): an array, or the path of an HDF5 file. Every component of vectors gets a scale
        of its own; cells of maps have one together, and channels are not supported.
    dataset
        Path of the dataset in the file. [default: fields/delta, of our own files]
    validation
        States that are not trained on: an array, the path of a dataset in the same file, or another file.
        [default: a tenth, drawn by the seed; of maps the last, as neighbours may be of one simulation]
    loss
        "levels": denoising at all noise levels, with EDM's weights; "denoising": at the one level ``sigma``;
        "sliced" or "exact" score matching, without noise.
    sigma
        The noise level of the loss "denoising", in units of the standard deviation of the coordinates.
    kind
        Of "mlp" and "unet": "score", or "energy".
    analytic
        Of fields: begin with the score of the Gaussian field that has their spectrum, so that only what is
        not Gaussian has to be learned. [default: for the loss "levels"]
    transform
        Of each component before all else: see ``Normalisation``.
    parameters
        Physical parameters that the score is conditional on: (n, p), or the path of a dataset.
    validation_parameters
        Those of ``validation``.
    names
        Their names.
    steps, max_time
        Where to end: steps, seconds, or both, whichever comes first; of seconds validation takes about a
        tenth at most. [default: 10000 steps]
    batch
        States in a step.
    learning_rate
        The highest. [default: 0.01 for "mlp" in up to 300 steps, falling as 1 / sqrt(steps), 0.0017 in 10000;
        0.002 for "unet", 0.001 for other modules]
    weight_decay
        Of matrices, decoupled.
    integrability
        Factor of the penalty on the curl of a score.
    precision
        "float32", or "bfloat16" inside of the network while it is trained: half the time on processors that
        have it, with weights, losses and the Gaussian part still in float32. On others it is float32, with
        a warning.
    coarse
        Of fields: factors by which they are first made coarser, such as (4, 2); each has an equal part of the
        training, and the last part is that of the data as they are.
    augment
        Of fields: shift them, turn axes around and exchange them at random.
    patience
        End after so many validations without a better one. [default: go on]
    seed
        Of weights, batches and noise.
    output
        A file for the result, ``name.part`` until it is finished.
    resume
        Go on with an unfinished training; return what is in a finished file of the same settings and data.
        On the CPU the weights are those of an undisturbed training bit for bit, where ``steps`` is what
        ends it.
    overwrite
        Replace an existing file.
    progress
        Show a progress bar.
    on_interrupt
        Called when Ctrl-C is noted; what is learned so far is then kept.

    Returns
    -------
    Fitted
        With the average of the weights over the last tenth of the steps; earlier ones where validation says
        that the last are worse.

    Raises
    ------
    InputError
        If an argument makes no sense, or the loss became infinite at once.
    """
    if loss not in LOSSES:
        raise InputError(f"loss is {loss!r}: it must be one of {', '.join(LOSSES)}")
    if (loss == "denoising") != (sigma is not None):
        raise InputError(f"loss is {loss!r} and sigma {sigma}: a noise level belongs to the loss 'denoising'")
    steps = _STEPS if steps is None and max_time is None else steps
    if steps is not None:
        steps = whole(steps=steps)
    if max_time is not None and not 0 < max_time < math.inf:
        raise InputError(f"max_time is {max_time}: it must be a positive number of seconds")
    for name, value in (("learning_rate", learning_rate), ("sigma", sigma)):
        if value is not None and not 0 < value <= _MOST:
            raise InputError(f"{name} is {value}: it must be positive, and at most {_MOST:g}")
    for name, factor in (("weight_decay", weight_decay), ("integrability", integrability)):
        if not 0 <= factor < math.inf:
            raise InputError(f"{name} is {factor}: it must be a number that is not negative")
    batch, seed = whole(batch=batch), whole(0, seed=seed)
    seed_key(seed)
    patience = None if patience is None else whole(patience=patience)
    given = read(data, dataset)
    given.parameters = rows(parameters, data, len(given.x), "parameters")
    maps = len(given.shape) > 1 or given.fields or of_fields(model)
    given, held = held_out(given, validation, data, validation_parameters, seed=seed, maps=maps)
    path = None
    if output is not None:
        sources = [source for source in (data, validation) if isinstance(source, str | os.PathLike)]
        path = check_output(output, overwrite=overwrite, resume=resume, inputs=sources)
    with torch.inference_mode(False), torch.enable_grad():
        task = Task(
            model, given, held, loss=loss, sigma=sigma, kind=kind, analytic=analytic, transform=transform,
            names=names, coarse=coarse, augment=augment, integrability=integrability, precision=precision,
            batch=batch, seed=seed,
        )  # fmt: skip
        settings = {
            "loss": loss, "sigma": _number(sigma), "kind": kind, "batch": batch,
            "learning_rate": _number(learning_rate), "weight_decay": float(weight_decay),
            "integrability": float(integrability), "precision": precision,
            "coarse": [int(factor) for factor in coarse], "augment": bool(augment), "analytic": task.analytic,
            "transform": transform, "seed": seed, "steps": steps, "max_time": _number(max_time),
            "patience": patience, "names": list(task.names),
            "states": [_fingerprint(part) for part in (given, held)],
            "model": model if isinstance(model, str) else type(model).__name__,
        }  # fmt: skip
        if path is not None and resume and path.exists():
            found = load(path, model if isinstance(model, nn.Module) else None)
            if not (other := _differing(found.about, settings, task)):
                return found
            if not overwrite:
                raise _another(path, other)
        if path is not None:
            require_space(path, _COPIES * sum(weight.nbytes for weight in task.model.state_dict().values()))
        run = _Training(task, settings, path)
        if path is not None and part_of(path).exists() and resume and not overwrite:
            run.restore()
        run.go(progress, on_interrupt)
        result = run.result()
        if result.doubt is not None:
            warnings.warn(result.doubt, stacklevel=2)
        if path is not None:
            write_tensors(path, dict(result.model.state_dict()), result.describe())
            part_of(path).unlink(missing_ok=True)
        return result


def _differing(about: dict[str, Any], settings: dict[str, Any], task: Task) -> str | None:
    """Return what of a training in a file is not as asked for, settings or data, if something is."""
    for name, value in {"settings": settings, "data": task.about}.items():
        if about.get(name) != json.loads(json.dumps(value)):
            return name
    return None


def _another(path: Path, differing: str) -> InputError:
    what = f"output {path} belongs to another training (its {differing} differ)"
    return InputError(f"{what}: resume it with the same, or use --overwrite (in Python overwrite=True)")


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _fingerprint(data: Data) -> int:
    """Return a number that changes with the states or their parameters."""
    found = zlib.crc32(data.x.data)
    return found if data.parameters is None else zlib.crc32(np.ascontiguousarray(data.parameters).data, found)


class _Training:
    """The loop: steps, the average of the weights, validations, and the file it can be gone on with.

    All randomness of a step is drawn from (seed, step), so that nothing of it has to be kept.
    """

    def __init__(self, task: Task, settings: dict[str, Any], path: Path | None) -> None:
        self.task, self.settings, self.path = task, settings, path
        rate = settings["learning_rate"] or default_rate(task.model, settings["steps"] or _STEPS)
        self.optimiser = Optimiser(task.model, rate, settings["weight_decay"])
        self.average = Average(task.model)
        self.best = {name: value.clone() for name, value in self.average.weights.items()}
        self.best_loss, self.lowest_losses, self.waited = math.inf, np.empty(0), 0
        self.step, self.elapsed, self.looked, self.rested = 0, 0.0, 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.ended = "not begun"
        self.between_steps = True  # all that is kept belongs to one step: a second Ctrl-C can come anywhere

    def go(self, progress: bool, on_interrupt: Callable[[], None]) -> None:
        """Train until steps or time are used up, validation gets no better, the loss fails, or Ctrl-C."""
        steps, most = self.settings["steps"], self.settings["max_time"]
        start, saved = time.monotonic() - self.elapsed, time.monotonic()
        bar = tqdm(total=steps, initial=self.step, desc="training", unit="step", disable=not progress)
        if self.step == 0:
            self._look(bar)
        with interruptible(on_interrupt) as stop_if_asked, bar:
            try:
                while True:
                    share = self._share(steps, most)
                    if share >= 1:
                        self.ended = "steps" if steps is not None and self.step >= steps else "time"
                        break
                    if not self._one(share):
                        self.ended = "the loss was not finite"
                        warnings.warn(
                            f"the loss was not finite at step {self.step}: the weights of the last good "
                            "validation are kept; try a lower learning_rate",
                            stacklevel=3,
                        )
                        break
                    self.elapsed = time.monotonic() - start
                    bar.update(1)
                    if self._due(steps, most) and not self._look(bar):
                        self.ended = "validation got no better"
                        break
                    if self.path is not None and time.monotonic() - saved > _SAVE_SECONDS:
                        self._save()
                        saved = time.monotonic()
                    stop_if_asked()
            except KeyboardInterrupt:
                self.ended = "interrupted"
                if self.path is not None:
                    if self.between_steps:
                        self._save()
                    raise
                warnings.warn(f"interrupted after {self.step} steps: their score is there", stacklevel=3)
        if self.best_loss == math.inf:
            raise InputError(
                f"learning_rate is {self.settings['learning_rate']}: the loss is not finite from the start; "
                "lower it, or look at the data"
            )

    def result(self) -> Fitted:
        """Return the score with the best weights."""
        self.task.model.load_state_dict(self.best, strict=False)
        about = {
            "data": self.task.about, "settings": self.settings,
            "training": {
                "steps": self.step, "seconds": round(self.elapsed, 1), "ended": self.ended,
                "validation_loss": finite(self.best_loss), "history": self.history,
            },
        }  # fmt: skip
        return self.task.fitted(about)

    def restore(self) -> None:
        """Take up an unfinished training.

        Raises
        ------
        InputError
            If it is that of other settings or other data.
        """
        assert self.path is not None
        part = part_of(self.path)
        tensors, about = read_tensors(part)
        if other := _differing(about, self.settings, self.task):
            raise _another(part, other)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimiser": {}}
        for key, tensor in tensors.items():
            owner, _, name = key.partition(".")
            parts[owner][key if owner == "optimiser" else name] = tensor
        self.task.model.load_state_dict(parts["model"], strict=False)
        self.average.weights, self.best = parts["average"], parts["best"]
        self.optimiser.restore(parts["optimiser"])
        state = about["state"]
        if "lowest_losses" not in state:
            raise _another(part, "versions of physscore")
        self.step, self.elapsed, self.looked = state["step"], state["elapsed"], state["looked"]
        self.waited, self.history = state["waited"], state["history"]
        self.best_loss = math.inf if state["best_loss"] is None else state["best_loss"]
        self.lowest_losses = np.array(state["lowest_losses"])

    def _save(self) -> None:
        assert self.path is not None
        tensors = {f"model.{k}": v for k, v in weights_of(self.task.model).items()}
        tensors |= {f"average.{k}": v for k, v in self.average.weights.items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        tensors |= self.optimiser.state()
        state = {
            "step": self.step, "elapsed": self.elapsed, "looked": self.looked, "waited": self.waited,
            "history": self.history, "best_loss": finite(self.best_loss),
            "lowest_losses": self.lowest_losses.tolist(),
        }  # fmt: skip
        about = {"settings": self.settings, "data": self.task.about, "state": state}
        write_tensors(part_of(self.path), tensors, about)

    def _share(self, steps: int | None, most: float | None) -> float:
        """Return which part of the training is done."""
        of_steps = 0.0 if steps is None else self.step / steps
        return max(of_steps, 0.0 if most is None else self.elapsed / most)

    def _due(self, steps: int | None, most: float | None) -> bool:
        share = self._share(steps, most)
        by_steps = share == self._share(steps, None)  # what steps decide is the same in every run
        rested = by_steps or share >= 1 or time.monotonic() >= self.rested
        return rested and share * _LOOKS >= self.looked

    def _one(self, share: float) -> bool:
        loss = self.task.loss(self.step, share)
        rate = schedule(share, self.step, min(100, (self.settings["steps"] or _STEPS) // 20))
        self.between_steps = False
        moved = self.optimiser.step(loss, rate)
        if moved:
            self.average.update(self.task.model, self.step)
            self.step += 1
        self.between_steps = True
        return moved

    def _look(self, bar: Any) -> bool:
        """Validate the average; return whether to go on.

        Later weights are kept unless they are worse than the best that were seen, by more than chance makes
        of so few states: the same noise is used every time, so it is the differences that count.
        """
        self.looked += 1
        began = time.monotonic()
        losses = self.task.validate(self.average.weights)
        self.rested = time.monotonic() + _REST * (time.monotonic() - began)
        loss = float(losses.mean())
        self.history.append({"step": self.step, "seconds": round(self.elapsed, 1), "loss": finite(loss)})
        bar.set_postfix(validation=f"{loss:.4g}")
        self.waited += 1
        if math.isfinite(loss):
            if not len(self.lowest_losses) or loss < self.lowest_losses.mean():
                self.lowest_losses, self.waited = losses, 0
            worse = losses - self.lowest_losses
            if worse.mean() <= _CHANCE * worse.std() / math.sqrt(len(worse)):
                self.best_loss = loss
                self.best = {name: value.clone() for name, value in self.average.weights.items()}
        patience = self.settings["patience"]
        return patience is None or self.waited < patience
