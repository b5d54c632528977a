"""Pure checkers, a module per primitive: a recorded history in, the rules that it breaks out.

Revisions judge, for they are etcd's own order of events. The clock of one machine only bears witness: a
process that is stopped between a reply and its note of the time writes down a moment that is too late.

What is not certain is never held against anybody. An acquire with an unknown outcome ran no critical section.
A hold whose release failed or got no answer ended nobody knows when; it counts only where it certainly stood.
"""

from __future__ import annotations

from coordkit.testing.checkers.barrier import check_barrier
from coordkit.testing.checkers.counter import check_counter
from coordkit.testing.checkers.double_barrier import check_double_barrier
from coordkit.testing.checkers.election import check_election
from coordkit.testing.checkers.gate import check_gate
from coordkit.testing.checkers.latch import check_latch
from coordkit.testing.checkers.linear import linearize
from coordkit.testing.checkers.lock import check_lock, holds_of
from coordkit.testing.checkers.once import check_once
from coordkit.testing.checkers.queue import check_queue
from coordkit.testing.checkers.rwlock import check_rwlock
from coordkit.testing.checkers.semaphore import check_semaphore
from coordkit.testing.checkers.topic import check_topic
from coordkit.testing.checkers.turns import check_turns

__all__ = [
    "check_barrier",
    "check_counter",
    "check_double_barrier",
    "check_election",
    "check_gate",
    "check_latch",
    "check_lock",
    "check_once",
    "check_queue",
    "check_rwlock",
    "check_semaphore",
    "check_topic",
    "check_turns",
    "holds_of",
    "linearize",
]
