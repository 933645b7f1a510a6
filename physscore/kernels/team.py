"""Processes that share chains: each moves some of them, and then all are known to all.

Chains are counted by place, so that they do not depend on who moves them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Call = tuple[Any, ...]  # the arguments of Loop.moved


class Team(ABC):
    """Processes that move chains together.

    Attributes
    ----------
    size : int
        How many.
    """

    size: int

    @abstractmethod
    def run(self, loop: Any, calls: list[Call]) -> list[Any]:
        """Return, everywhere, what ``loop.moved(*call)`` returns for each call, of which there are at most
        ``size``; ``repr(loop.target)`` names what cannot be sent to others."""


_team: ContextVar[Team | None] = ContextVar("team", default=None)


def team() -> Team | None:
    """Return the processes that share the chains here; None where one has all."""
    return _team.get()


@contextmanager
def sharing(who: Team | None) -> Iterator[None]:
    """Have these processes share the chains that are moved inside this block."""
    token = _team.set(who)
    try:
        yield
    finally:
        _team.reset(token)
