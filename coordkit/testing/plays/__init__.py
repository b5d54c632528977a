"""What members of a crowd do over and over, a module for each primitive.

A play has `cycle(coord, witness)`, one turn of one member; `judge(operations)`, which returns what is wrong
as sentences; and `PERSISTENT`, the parts of keys that may be left when everybody has gone.
"""

from __future__ import annotations

import importlib
import pkgutil
import typing
from collections.abc import Sequence

import coordkit
from coordkit.testing.history import Operation
from coordkit.testing.recorder import Witness


class Play(typing.Protocol):
    """One primitive's play: a module of this package."""

    #: Kinds of keys, as `/counter/`, that outlive those who use them.
    PERSISTENT: Sequence[str]

    def cycle(self, coord: coordkit.Coordinator, witness: Witness) -> None:
        """One turn."""

    def judge(self, operations: Sequence[Operation]) -> list[str]:
        """What is wrong with what everybody was told."""


def names() -> list[str]:
    """All plays."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def find(name: str) -> Play:
    """The play of a primitive."""
    return typing.cast(Play, importlib.import_module(f"{__name__}.{name}"))
