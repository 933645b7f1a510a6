"""Every CUDA source compiles for the cards that are about, by NVRTC, which needs no card."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

import pytest

from physscore.cuda import SOURCES, options_for, source_of


def _nvrtc() -> ctypes.CDLL:
    spec = find_spec("nvidia.cuda_nvrtc") if find_spec("nvidia") else None
    if spec is None:
        pytest.skip("NVRTC is not installed")
    (library,) = (Path(next(iter(spec.submodule_search_locations or ()))) / "lib").glob("libnvrtc.so.*")
    return ctypes.CDLL(str(library))


def _compile(source: str, options: tuple[str, ...]) -> str:
    """Return what the compiler says if it fails."""
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"source.cu", 0, None, None)
    given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.value.decode() if failed else ""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("architecture", ["sm_70", "sm_80", "sm_90"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_compiles(name: str, architecture: str, dtype: str) -> None:
    assert _compile(source_of(name), (f"--gpu-architecture={architecture}", *options_for(dtype))) == ""


def test_a_wrong_source_is_noticed() -> None:
    assert "error" in _compile(source_of("noise") + "\nint x = ;", options_for("float32"))
