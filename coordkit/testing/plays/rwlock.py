"""One lock for readers and writers: take a side, look at a revision, write if it may, give it back."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import coordkit
from coordkit.etcd import kv
from coordkit.testing import checkers, patience, plays
from coordkit.testing.history import Kind, Operation
from coordkit.testing.recorder import Told, Witness

NAME = "play"
PATIENCE_S = 15.0
PERSISTENT = ("/written",)


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One stay, on one of the sides."""
    side = "write" if random.random() < 0.3 else "read"
    lock = coord.rwlock(NAME).write if side == "write" else coord.rwlock(NAME).read
    timeout_s = random.uniform(0.001, 0.05) if random.random() < 0.2 else PATIENCE_S

    def acquire() -> Told:
        if not patience.acquire(lock, timeout_s, PATIENCE_S):
            return Told(done=False)
        seen = lock.txn().commit()
        return Told(fence=lock.fence, revision=seen.revision, done=seen.succeeded)

    def write() -> Told:
        key = f"/{coord.settings.namespace}/written"
        done = lock.txn().then(kv.put(key, b"%d" % lock.fence)).commit()
        return Told(revision=done.revision, done=done.succeeded)

    def release() -> Told:
        lock.release()
        return Told(revision=lock.released_revision)

    told = witness.call(Kind.ACQUIRE, acquire, subject=side)
    if told is None or told.fence is None:
        if lock.held:
            lock.release()  # it was granted, and the look that was to tell a revision failed
        return
    if side == "write":
        witness.call(Kind.WRITE, write, fence=told.fence)
    threading.Event().wait(random.uniform(0, 0.01))
    witness.call(Kind.RELEASE, release, fence=told.fence, subject=side)


def judge(operations: Sequence[Operation]) -> list[str]:
    """One writer or any readers; and nobody who was patient went away with nothing."""
    return plays.words(checkers.check_rwlock(operations)) + plays.stalls(operations)
