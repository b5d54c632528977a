"""Locks that nobody has used before, each for a moment: their watches begin while others come and go.

Sessions live longer than anybody is patient, so that no safety read mends what was missed.  Places behind the
holder's are deleted by hand; and one who only looks on notes whose turn it was, for a grant to a place that
was gone looks like one to a place that went later.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

import coordkit
from coordkit.testing import attendance, checkers, plays
from coordkit.testing.history import Operation
from coordkit.testing.plays import lock as locks
from coordkit.testing.recorder import Witness

TTL_S = 40
PERIOD_S = 0.1  # then there is another lock
HOLD_S = 0.004
PATIENCE_S = 15.0
PERSISTENT = ()

_looking: list[attendance.Attendance] = []  # the last one


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One short hold of the lock that is there now."""
    name = f"brief-{int(time.monotonic() / PERIOD_S)}"
    lock = coord.lock(name)

    def work() -> None:
        threading.Event().wait(random.uniform(0, HOLD_S))
        if random.random() < 0.7:
            locks.strike_next(coord, witness, lock)

    locks.visit(witness, lock, PATIENCE_S, PATIENCE_S, work, name=name)
    threading.Event().wait(random.uniform(0, PERIOD_S))


def look_on(coord: coordkit.Coordinator, witness: Witness) -> attendance.Attendance:
    """Who notes whose turn it was."""
    _looking[:] = [attendance.Attendance(coord, "lock")]
    return _looking[0]


def judge(operations: Sequence[Operation]) -> list[str]:
    """By revisions, and by whose turn it was; and nobody who was patient went away with nothing."""
    wrong = plays.words(checkers.check_lock(operations)) + plays.stalls(operations)
    for seen in _looking:
        verdict = checkers.check_turns(operations, seen.stays, seen.silences, int(PATIENCE_S * 1e9))
        wrong += plays.words(verdict)
    return wrong
