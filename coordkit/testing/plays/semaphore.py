"""One semaphore whose limit is changed now and then: take a permit, look at a revision, give it back."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Sequence

import coordkit
from coordkit.testing import checkers, patience, plays
from coordkit.testing.history import Kind, Operation
from coordkit.testing.recorder import Told, Witness

NAME = "play"
LIMIT = 2  # in the beginning
PATIENCE_S = 15.0
PERSISTENT = ("/limit/",)

_begun: weakref.WeakSet[Witness] = weakref.WeakSet()  # they have named the first limit


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One permit, or a new limit."""
    if random.random() < 0.03:
        _resize(coord, witness)
        return
    semaphore = coord.semaphore(NAME, LIMIT if witness not in _begun else None)
    _begun.add(witness)
    timeout_s = random.uniform(0.001, 0.05) if random.random() < 0.2 else PATIENCE_S

    def acquire() -> Told:
        if not patience.acquire(semaphore, timeout_s, PATIENCE_S):
            return Told(done=False)
        seen = semaphore.txn().commit()
        return Told(fence=semaphore.fence, revision=seen.revision, done=seen.succeeded)

    def release() -> Told:
        semaphore.release()
        return Told(revision=semaphore.released_revision)

    told = witness.call(Kind.ACQUIRE, acquire)
    if told is None or told.fence is None:
        if semaphore.held:
            semaphore.release()  # it was granted, and the look that was to tell a revision failed
        return
    threading.Event().wait(random.uniform(0, 0.02))
    witness.call(Kind.RELEASE, release, fence=told.fence)


def _resize(coord: coordkit.Coordinator, witness: Witness) -> None:
    limit = random.randrange(1, 4)

    def resize() -> Told:
        revision = coord.semaphore(NAME).resize(limit)
        return Told(revision=revision, done=revision is not None)

    witness.call(Kind.RESIZE, resize, number=limit)


def judge(operations: Sequence[Operation]) -> list[str]:
    """Never more than the limit then was; and nobody who was patient went away with nothing."""
    return plays.words(checkers.check_semaphore(operations, LIMIT)) + plays.stalls(operations)
