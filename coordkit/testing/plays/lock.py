"""One lock: take it, write under its guard, give it back; some give up early, some try only once."""

from __future__ import annotations

import random
from collections.abc import Sequence

import coordkit
from coordkit import errors
from coordkit.etcd import kv
from coordkit.testing import checkers
from coordkit.testing.history import Kind, Operation, Rule
from coordkit.testing.recorder import Told, Witness

NAMES = ("play", "play1")  # each a prefix of the next
PATIENCE_S = 15.0  # who waits longer than this, while the others take turns, waits for nobody
PERSISTENT = ("/written",)


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One hold, if it is granted; seldom of two locks, always in the same order."""
    if random.random() < 0.05:
        with coord.lock(NAMES[1]).within(PATIENCE_S):
            _hold(coord, witness)
    else:
        _hold(coord, witness)


def _hold(coord: coordkit.Coordinator, witness: Witness) -> None:
    lock = coord.lock(NAMES[0])
    pick = random.random()
    timeout_s = 0.0 if pick < 0.1 else random.uniform(0.001, 0.05) if pick < 0.3 else PATIENCE_S
    hurried = timeout_s < PATIENCE_S

    def acquire() -> Told:
        if lock.acquire(timeout=timeout_s):
            return Told(fence=lock.fence)
        if hurried:
            return Told(done=False)
        raise errors.AcquireTimeout(f"no grant within {PATIENCE_S} s", errors.Outcome.NONE)

    granted = witness.call(Kind.ACQUIRE, acquire)
    if granted is None or granted.fence is None:
        return
    fence = granted.fence

    def write() -> Told:
        key = f"/{coord.settings.namespace}/written"
        done = lock.txn().then(kv.put(key, b"%d" % fence)).commit()
        return Told(fence, done.revision if done.succeeded else None, done=done.succeeded)

    def release() -> Told:
        lock.release()
        return Told(fence, lock.released_revision)

    witness.call(Kind.WRITE, write, fence=fence)
    witness.call(Kind.RELEASE, release, fence=fence)


def judge(operations: Sequence[Operation]) -> list[str]:
    """By revisions; and nobody who was patient went away with nothing."""
    verdict = checkers.check_lock(operations)
    wrong = [f"{each.rule.value}: {each.why}" for each in verdict.violations if each.rule is not Rule.CLOCK]
    stalls = [each for each in operations if f"no grant within {PATIENCE_S}" in (each.error or "")]
    return wrong + [f"stall: contender {each.contender} waited for {PATIENCE_S} s" for each in stalls[:3]]
