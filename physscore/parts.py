"""The decorators of the parts that compiled loops are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
# Without what Python needs to call them, which takes a third of the time to compile.
_FOR_LOOPS: dict[str, Any] = {**_OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

inline: Callable[..., Any] = njit(**_OPTIONS, forceinline=True)
"""Of a part that is inlined."""

part: Callable[..., Any] = njit(**_FOR_LOOPS)
"""Of one that is called, by compiled code only: a call from Python would crash."""

spliced: Callable[..., Any] = njit(**_FOR_LOOPS, inline="always")
"""Of a long one that is called in one place: it is compiled with what calls it, and not before that, too,
which takes as long again."""

in_any_order: Callable[..., Any] = njit(**_FOR_LOOPS, forceinline=True, fastmath={"reassoc"})
"""Of a sum whose terms may be added in any order, and so several at once; by compiled code only."""
