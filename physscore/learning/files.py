"""Models in safetensors files that describe themselves, and the state of an unfinished training.

A file holds tensors and JSON, nothing that runs: the architecture is a name and its numbers, and is built by
our own classes only.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from physscore._version import __version__
from physscore.core import InputError
from physscore.learning.mlp import MLP
from physscore.learning.preconditioning import Preconditioned
from physscore.learning.unet import UNet
from physscore.store.hdf5 import whole_file

FORMAT, FORMAT_VERSION = "physscore", 2  # 2: a normalisation for every component of vectors
NETWORKS: dict[str, type[nn.Module]] = {"mlp": MLP, "unet": UNet}


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and what they are to a file that appears only when it is whole."""
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "version": __version__,
        "about": json.dumps(about, allow_nan=False),
    }
    kept = _apart({name: t.detach().contiguous() for name, t in tensors.items()})
    with whole_file(path, sum(t.nbytes for t in kept.values()) + len(metadata["about"])) as fresh:
        try:
            save_file(kept, fresh, metadata)
        except (SafetensorError, RuntimeError) as error:
            raise OSError(" ".join(str(error).split())) from error


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors none of which shares memory with another, as tied weights do."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file and what it says of itself.

    Raises
    ------
    InputError
        If the file is missing, truncated, foreign, or newer than this version.
    """
    if not path.is_file():
        raise InputError(f"file {path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise InputError(f"file {path} is not a model of physscore: it does not describe itself")
            if int(metadata["format_version"]) > FORMAT_VERSION:
                raise InputError(
                    f"file {path} has format version {metadata['format_version']} and this is physscore "
                    f"{__version__}, which reads up to {FORMAT_VERSION}: install a newer physscore"
                )
            about = json.loads(metadata["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except InputError:
        raise
    except (SafetensorError, OSError) as error:
        raise InputError(f"file {path} cannot be read: it is truncated or no safetensors file") from error
    except (KeyError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if not isinstance(about, dict):
        raise _damaged(path, "its description is no table")
    return tensors, about


def architecture(model: nn.Module) -> dict[str, Any]:
    """Return what builds a model anew, ready for JSON.

    Raises
    ------
    InputError
        If it is not one of ours: files hold no code.
    """
    inner = model.network if isinstance(model, Preconditioned) else model
    name = next((name for name, kind in NETWORKS.items() if type(inner) is kind), None)
    if name is None:
        return {"network": "foreign", "config": {}, "preconditioned": _preconditioning(model)}
    return {"network": name, "config": copy.deepcopy(inner.config), "preconditioned": _preconditioning(model)}


def _preconditioning(model: nn.Module) -> dict[str, Any] | None:
    if not isinstance(model, Preconditioned):
        return None
    return {
        "sigma_data": model.sigma_data,
        "spectrum": list(model.eigenvalues.shape) if model.analytic else None,  # type: ignore[arg-type]
    }


def build(
    about: dict[str, Any], tensors: dict[str, Tensor], path: Path, module: nn.Module | None
) -> nn.Module:
    """Return the model that a file describes, with its weights.

    Parameters
    ----------
    about, tensors
        The architecture and the weights.
    path
        The file, for messages.
    module
        A network of the user's, where the file was made of one: it takes the weights.

    Raises
    ------
    InputError
        If the architecture is not known, or the weights do not fit it.
    """
    try:
        name, config, outer = about["network"], about["config"], about["preconditioned"]
        if name == "foreign":
            if module is None:
                raise InputError(
                    f"file {path} holds the weights of a module of yours: give it, load(path, module=...)"
                )
            inner = module
        elif name in NETWORKS:
            with torch.device("meta"):  # nothing is allocated before the shapes are seen to be right
                inner = NETWORKS[name](**config)
        else:
            raise InputError(
                f"file {path} names the network {name!r}: this version knows {', '.join(NETWORKS)}"
            )
        if outer is None:
            model: nn.Module = inner
        else:
            shape = outer["spectrum"]
            table = None if shape is None else torch.ones(tensors["eigenvalues"].shape)
            model = Preconditioned(inner, sigma_data=outer["sigma_data"], eigenvalues=table)
    except InputError:
        raise
    except Exception as error:  # whatever a crooked description makes of our classes
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if wanted != found:
        raise _damaged(path, "its weights do not fit its architecture")
    if not all(bool(torch.isfinite(t).all()) for t in tensors.values()):
        raise _damaged(path, "it holds weights that are not finite")
    if name != "foreign":
        _materialise(model)
    model.load_state_dict(tensors)
    return model.eval()


def _materialise(model: nn.Module) -> None:
    """Give a model that has shapes only its memory, and the tables that no file holds."""
    inner = model.network if isinstance(model, Preconditioned) else model
    inner.to_empty(device="cpu")
    if isinstance(inner, UNet):
        inner.set_frequencies()


def finite(value: float) -> float | None:
    """Return a number for JSON, None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"file {path} is damaged: {reason}")
