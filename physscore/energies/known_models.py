"""What was found out about models, kept as long as they live."""

from __future__ import annotations

from typing import Any
from weakref import ref


class Known:
    """What is known of models, by their identity: forgotten with them; they need not be hashable."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Any, Any]] = {}

    def get(self, model: Any, default: Any = None) -> Any:
        """Return what is known of a model."""
        owner, value = self._found.get(id(model), (None, None))
        return value if owner is not None and owner() is model else default

    def set(self, model: Any, value: Any) -> None:
        """Keep what is known, of a model that can be referred to weakly."""
        found, key = self._found, id(model)
        try:
            found[key] = ref(model, lambda _: found.pop(key, None)), value
        except TypeError:
            return
