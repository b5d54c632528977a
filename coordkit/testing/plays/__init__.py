"""What members of a crowd do over and over, a module for each primitive.

A play has `cycle(coord, witness)`, one turn of one member; `judge(operations)`, which returns what is wrong
as sentences; and `PERSISTENT`, the parts of keys that may be left when everybody has gone, and that nobody
outside may delete.  It may have `finish(coord, witness)`: what one more, named `END`, does when all is
calm and nothing is on its way any more; and `look_on(coord, witness)`: a context manager around all of it,
for one who only watches.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import typing
from collections.abc import Sequence

import coordkit
from coordkit.testing import patience
from coordkit.testing.history import Operation, Rule, Verdict
from coordkit.testing.recorder import Witness

END = "end"
LOOKOUT = "lookout"


class Broken(AssertionError):
    """A member has seen for itself that a rule was broken, of which no history can tell."""


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


def finish(play: Play, coord: coordkit.Coordinator, witness: Witness) -> None:
    """The end of a play, for one that has an end of its own."""
    getattr(play, "finish", lambda *_: None)(coord, witness)


def look_on(
    play: Play, coord: coordkit.Coordinator, witness: Witness
) -> contextlib.AbstractContextManager[object]:
    """Who watches from the beginning to the end, for a play that has such a one."""
    looking: contextlib.AbstractContextManager[object] | None
    looking = getattr(play, "look_on", lambda *_: None)(coord, witness)
    return looking or contextlib.nullcontext()


def number_of(witness: Witness) -> int:
    """Which of the members it is, from 0 on."""
    return int(witness.label.rpartition(" ")[2])


def words(verdict: Verdict) -> list[str]:
    """What is wrong, as sentences; clocks alone prove nothing where processes are paused."""
    return [f"{each.rule.value}: {each.why}" for each in verdict.violations if each.rule is not Rule.CLOCK]


def stalls(operations: Sequence[Operation]) -> list[str]:
    """Sentences about those who waited in vain."""
    waits = [each for each in operations if patience.was_in_vain(each)]
    return [f"stall: contender {each.contender}: {each.error}" for each in waits[:3]]
