"""Slots that everybody wants to run, one after the other; some runs fail, and some take too long."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Sequence

import coordkit
from coordkit.testing import checkers, plays
from coordkit.testing.history import Kind, Operation
from coordkit.testing.recorder import Told, Witness

NAME = "play"
ATTEMPTS = 3
PERSISTENT = ("/once/",)

_rounds: weakref.WeakKeyDictionary[Witness, int] = weakref.WeakKeyDictionary()  # how many it had


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One slot, asked for until it is known whose it is."""
    number = _rounds[witness] = _rounds.get(witness, 0) + 1
    slot = str(number)
    for _ in range(2):
        once = coord.once(NAME, slot, attempts=ATTEMPTS)

        def take(once: coordkit.Once = once) -> Told:
            won = once.claim()
            return Told(fence=once.fence, number=once.attempt) if won else Told(done=False)

        taken = witness.call(Kind.TAKE, take, subject=slot)
        if taken is None or not taken.done:
            return
        if random.random() < 0.2:
            once.failed("Trouble")
            continue
        if random.random() < 0.2:
            threading.Event().wait(random.uniform(0, 0.1))

        def done(once: coordkit.Once = once) -> Told:
            once.done()
            return Told()

        witness.call(Kind.FINISH, done, subject=slot, number=taken.number, fence=taken.fence)
        return


def judge(operations: Sequence[Operation]) -> list[str]:
    """One winner an attempt, none after it was done."""
    return plays.words(checkers.check_once(operations, ATTEMPTS))
