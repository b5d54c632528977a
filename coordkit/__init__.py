"""coordkit: for processes that must agree.  Locks, elections, queues, barriers and topics, on etcd.

import coordkit

with coordkit.connect("etcd://127.0.0.1:2379/demo") as coord:
    with coord.lock("report"):
        ...
"""

from __future__ import annotations

from coordkit import early

early.begin()

from coordkit.coordinator import Coordinator, connect
from coordkit.errors import (
    AcquireTimeout,
    BrokenBarrier,
    Cancelled,
    ClaimLost,
    Closed,
    CoordError,
    DeadlineExceeded,
    Gap,
    InvalidName,
    InvalidValue,
    LeaseNotFound,
    LimitMismatch,
    LockLost,
    NotHeld,
    Outcome,
    PermissionDenied,
    QueueFull,
    QuotaExceeded,
    Rejected,
    SessionLost,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UsageError,
)
from coordkit.etcd import etcdrpc, kv
from coordkit.recipes.barrier import Barrier
from coordkit.recipes.cohort import CohortLock
from coordkit.recipes.counter import Counter
from coordkit.recipes.double_barrier import DoubleBarrier
from coordkit.recipes.election import Candidate, Election, Leadership
from coordkit.recipes.gate import Gate
from coordkit.recipes.latch import Latch
from coordkit.recipes.lock import Lock
from coordkit.recipes.multilock import MultiLock
from coordkit.recipes.once import Once
from coordkit.recipes.queue import Job, Queue
from coordkit.recipes.rlock import RLock
from coordkit.recipes.rwlock import RWLock
from coordkit.recipes.semaphore import Semaphore
from coordkit.recipes.slots import Slot, SlotState
from coordkit.recipes.standing import Standing
from coordkit.recipes.topic import Cursor, Message, Subscription, Topic
from coordkit.recipes.value import Value, Versioned
from coordkit.session import Session
from coordkit.terms import State

etcdrpc.install()  # before anybody imports etcd3

__version__ = "0.1.0"

__all__ = [
    "AcquireTimeout",
    "Barrier",
    "BrokenBarrier",
    "Cancelled",
    "Candidate",
    "ClaimLost",
    "Closed",
    "CohortLock",
    "CoordError",
    "Coordinator",
    "Counter",
    "Cursor",
    "DeadlineExceeded",
    "DoubleBarrier",
    "Election",
    "Gap",
    "Gate",
    "InvalidName",
    "InvalidValue",
    "Job",
    "Latch",
    "Leadership",
    "LeaseNotFound",
    "LimitMismatch",
    "Lock",
    "LockLost",
    "Message",
    "MultiLock",
    "NotHeld",
    "Once",
    "Outcome",
    "PermissionDenied",
    "Queue",
    "QueueFull",
    "QuotaExceeded",
    "RLock",
    "RWLock",
    "Rejected",
    "Semaphore",
    "Session",
    "SessionLost",
    "Slot",
    "SlotState",
    "Standing",
    "State",
    "Subscription",
    "TooLarge",
    "Topic",
    "Unauthenticated",
    "Unavailable",
    "UsageError",
    "Value",
    "Versioned",
    "connect",
    "kv",
]
