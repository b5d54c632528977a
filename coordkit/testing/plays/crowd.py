"""One lock and a crowd: most are in a hurry and leave before a slow holder does, a few wait for their turn.

So those who wait see everybody leave who stood right before them, while others still stand further on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import coordkit
from coordkit.testing import checkers, plays
from coordkit.testing.history import Operation
from coordkit.testing.plays import lock as locks
from coordkit.testing.recorder import Witness

NAME = "crowd"
MEMBERS = 30
HURRIED = 0.94  # of all
HOLD_S = 0.5
PATIENCE_S = 30.0
PERSISTENT = ()


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One visit."""
    lock = coord.lock(NAME)
    timeout_s = random.uniform(0.05, HOLD_S) if random.random() < HURRIED else PATIENCE_S
    locks.visit(witness, lock, timeout_s, PATIENCE_S, lambda: threading.Event().wait(HOLD_S))


def judge(operations: Sequence[Operation]) -> list[str]:
    """By revisions; and nobody who was patient went away with nothing."""
    return plays.words(checkers.check_lock(operations)) + plays.stalls(operations)
