"""One counter that all add to, some of them in a hurry; in the end one more addition tells what it is."""

from __future__ import annotations

import random
from collections.abc import Sequence

import coordkit
from coordkit.testing import checkers, plays
from coordkit.testing.history import Kind, Operation, Result
from coordkit.testing.recorder import Told, Witness

NAME = "play"
PATIENCE_S = 15.0
PERSISTENT = ("/counter/",)


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One addition."""
    timeout_s = random.choice((0.03, PATIENCE_S, PATIENCE_S))
    _add(coord, witness, random.randrange(1, 9), timeout_s)


def finish(coord: coordkit.Coordinator, witness: Witness) -> None:
    """The last addition, when nothing is on its way any more."""
    _add(coord, witness, 1, PATIENCE_S)


def _add(coord: coordkit.Coordinator, witness: Witness, amount: int, timeout_s: float) -> None:
    counter = coord.counter(NAME)
    witness.call(Kind.ADD, lambda: Told(subject=str(counter.add(amount, timeout=timeout_s))), number=amount)


def judge(operations: Sequence[Operation]) -> list[str]:
    """By the last value."""
    last = [each for each in operations if each.contender == plays.END and each.result is Result.OK]
    if not last:
        return ["stall: the last addition did not succeed"]
    return plays.words(checkers.check_counter(operations, int(last[-1].subject)))
