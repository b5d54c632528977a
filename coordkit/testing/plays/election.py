"""One election: campaign, proclaim, write under the guard, resign; one member only looks on."""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import threading
from collections.abc import Sequence

import coordkit
from coordkit import errors, keys
from coordkit.etcd import kv
from coordkit.testing import checkers, patience, plays, weather
from coordkit.testing.history import Kind, Operation
from coordkit.testing.recorder import Told, Witness

NAME = "play"
PATIENCE_S = 15.0
LOOK_S = 0.6
LATE_S = 1.1
PERSISTENT = ("/led",)

_looks = itertools.count()


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One term, or one look."""
    if plays.number_of(witness) == 0:
        _look(coord, witness)
    else:
        _lead(coord, witness)


def _lead(coord: coordkit.Coordinator, witness: Witness) -> None:
    election, value = coord.election(NAME), f"v{random.getrandbits(32):x}"
    timeout_s = random.uniform(0.001, 0.05) if random.random() < 0.2 else PATIENCE_S
    terms: list[coordkit.Leadership] = []

    def campaign() -> Told:
        try:
            terms.append(election.campaign(value, timeout=timeout_s))
        except errors.AcquireTimeout as error:
            if timeout_s < PATIENCE_S:
                return Told(done=False)
            prefix = keys.prefix(coord.settings.namespace, "election", NAME)
            raise patience.in_vain(PATIENCE_S, coord.session, prefix) from error
        return Told(fence=terms[0].fence)

    told = witness.call(Kind.CAMPAIGN, campaign, subject=value)
    if told is None or told.fence is None:
        return
    (term,), fence, louder, loudest = terms, told.fence, f"{value}!", f"{value}!!"

    def write() -> Told:
        key = f"/{coord.settings.namespace}/led"
        done = term.txn().then(kv.put(key, b"%d" % fence)).commit()
        return Told(revision=done.revision, done=done.succeeded)

    def resign() -> Told:
        term.resign()
        return Told(revision=term.resigned_revision)

    late = weather.late_copies()
    for words in (louder, f"{louder}?", loudest):
        proclaim = functools.partial(_proclaim, term, words)
        told = witness.call(Kind.PROCLAIM, proclaim, fence=fence, subject=words)
    if told is not None and weather.late_copies() > late:
        _look_back(election, fence, loudest)
    witness.call(Kind.WRITE, write, fence=fence)
    witness.call(Kind.RESIGN, resign, fence=fence)


def _proclaim(term: coordkit.Leadership, words: str) -> Told:
    return Told(revision=term.proclaim(words))


def _look_back(election: coordkit.Election, fence: int, words: str) -> None:
    """A copy of something comes late: it must not undo what was said since."""
    threading.Event().wait(LATE_S)
    try:
        leader = election.leader()
    except errors.CoordError:
        return
    if leader is not None and leader.fence == fence and leader.value != words.encode():
        raise plays.Broken(f"undone: {leader.value!r} stands there, and {words!r} was proclaimed last")


def _look(coord: coordkit.Coordinator, witness: Witness) -> None:
    """What an observer is told for a while; each look is judged by itself."""
    observer = f"look {next(_looks)}"
    with coord.election(NAME).observe(timeout=LOOK_S) as observing, contextlib.suppress(StopIteration):

        def look() -> Told:
            leader = next(observing)
            if leader is None:
                return Told()
            return Told(fence=leader.fence, revision=leader.revision, subject=leader.value.decode())

        while True:
            witness.call(Kind.OBSERVE, look, contender=observer)


def judge(operations: Sequence[Operation]) -> list[str]:
    """By revisions; and nobody who was patient went away with nothing."""
    return plays.words(checkers.check_election(operations)) + plays.stalls(operations)
