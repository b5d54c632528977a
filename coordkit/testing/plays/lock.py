"""One lock: take it, write under its guard, give it back; some give up early, some try only once.

Now and then a holder takes its time, so that a line forms, and the key behind its own is deleted by hand as
it is about to release.  Six members contend for one lock; where there are more, the next six have another.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
from collections.abc import Callable, Sequence

import coordkit
from coordkit import errors
from coordkit.etcd import kv
from coordkit.testing import checkers, patience, plays
from coordkit.testing.history import Kind, Operation
from coordkit.testing.recorder import Told, Witness
from coordkit.ticket import Contender, Ticket

NAME = "play"
CONTENDERS = 6  # for one lock
PATIENCE_S = 15.0  # who waits longer than this, while the others take turns, waits for nobody
BACK_OFF_S = 0.5  # after an error: what each left in doubt is withdrawn one by one
PERSISTENT = ("/written/",)


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One hold, if it is granted; seldom of two locks, always in the same order."""
    line = plays.number_of(witness) // CONTENDERS
    name = f"{NAME}{line or ''}"  # the first one is a prefix of all others
    if random.random() < 0.05:
        _hold(coord, witness, f"{name}-", PATIENCE_S, lambda lock: _stay(coord, witness, name))
    else:
        _stay(coord, witness, name)


def _stay(coord: coordkit.Coordinator, witness: Witness, name: str) -> None:
    """Some give up early, and some try only once."""
    pick = random.random()
    timeout_s = 0.0 if pick < 0.1 else random.uniform(0.001, 0.05) if pick < 0.3 else PATIENCE_S
    _hold(coord, witness, name, timeout_s, lambda lock: _work(coord, witness, lock))


def _hold(
    coord: coordkit.Coordinator,
    witness: Witness,
    name: str,
    timeout_s: float,
    work: Callable[[coordkit.Lock], None],
) -> None:
    lock = coord.lock(name)
    places: list[Ticket] = []

    def acquire() -> Told:
        granted = patience.acquire(lock, timeout_s, PATIENCE_S, places)
        return Told(fence=lock.fence) if granted else Told(done=False)

    granted = witness.call(Kind.ACQUIRE, acquire, name=name)
    for place in places[:-1]:
        witness.saw(Kind.EVICTED, Told(fence=place.create_revision), name=name)
    if granted is None or granted.fence is None:
        if granted is None:
            threading.Event().wait(random.uniform(0, BACK_OFF_S))
        return
    fence = granted.fence

    def release() -> Told:
        lock.release()
        return Told(fence, lock.released_revision)

    work(lock)
    witness.call(Kind.RELEASE, release, fence=fence, name=name)


def _work(coord: coordkit.Coordinator, witness: Witness, lock: coordkit.Lock) -> None:
    name, fence = lock.name, lock.fence

    def write() -> Told:
        key = f"/{coord.settings.namespace}/written/{name}"
        done = lock.txn().then(kv.put(key, b"%d" % fence)).commit()
        return Told(fence, done.revision if done.succeeded else None, done=done.succeeded)

    witness.call(Kind.WRITE, write, fence=fence, name=name)
    if random.random() < 0.1:
        threading.Event().wait(random.uniform(0, 0.08))
    if random.random() < 0.1:
        strike_next(coord, witness, lock)


def visit(
    witness: Witness,
    lock: coordkit.Lock,
    timeout_s: float,
    patience_s: float,
    work: Callable[[], object],
    **about: str,
) -> None:
    """Acquire, work, release, all of it witnessed; with nothing else in between."""

    def acquire() -> Told:
        granted = patience.acquire(lock, timeout_s, patience_s)
        return Told(fence=lock.fence) if granted else Told(done=False)

    def release() -> Told:
        lock.release()
        return Told(revision=lock.released_revision)

    told = witness.call(Kind.ACQUIRE, acquire, **about)
    if told is not None and told.fence is not None:
        work()
        witness.call(Kind.RELEASE, release, fence=told.fence, **about)


def strike_next(coord: coordkit.Coordinator, witness: Witness, lock: coordkit.Lock) -> None:
    """Delete by hand the place of the one behind the holder."""
    with contextlib.suppress(errors.CoordError):
        for place in lock.contenders()[1:2]:
            strike = functools.partial(_strike, coord, place)
            witness.call(Kind.STRIKE, strike, fence=place.fence, name=lock.name)


def _strike(coord: coordkit.Coordinator, place: Contender) -> Told:
    """That place, and not another one of its name."""
    that_one = kv.create(place.key) == place.fence
    return Told(done=coord.kv.txn().when(that_one).then(kv.delete(place.key)).commit().succeeded)


def judge(operations: Sequence[Operation]) -> list[str]:
    """By revisions; and nobody who was patient went away with nothing."""
    return plays.words(checkers.check_lock(operations)) + plays.stalls(operations)
