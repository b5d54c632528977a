"""One barrier for half of the members: some are in a hurry, which breaks it; then it is reset."""

from __future__ import annotations

import random
import weakref
from collections.abc import Sequence

import coordkit
from coordkit import errors
from coordkit.testing import checkers, plays
from coordkit.testing.history import Kind, Operation
from coordkit.testing.recorder import Told, Witness

NAME = "play"
PARTIES = 3
PERSISTENT = ("/barrier/",)

_barriers: weakref.WeakKeyDictionary[Witness, coordkit.Barrier] = weakref.WeakKeyDictionary()


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One wait; who finds it broken, or does not know, resets it."""
    barrier = _barriers.setdefault(witness, coord.barrier(NAME, PARTIES))
    timeout_s = 0.02 if random.random() < 0.1 else 3.0

    def wait() -> Told:
        try:
            return Told(number=barrier.wait(timeout=timeout_s), subject=str(barrier.generation))
        except errors.BrokenBarrier:
            return Told(done=False, subject=str(barrier.generation or ""))

    told = witness.call(Kind.WAIT, wait)
    if told is None or not told.done:
        barrier.reset(timeout=10)


def judge(operations: Sequence[Operation]) -> list[str]:
    """Nobody passes early, and one verdict is for all."""
    return plays.words(checkers.check_barrier(operations, PARTIES))
