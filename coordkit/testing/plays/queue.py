"""One queue: some put, the others take, ack, give back, or are too slow; in the end it is drained.

Seldom many are put, taken or acked at once.
"""

from __future__ import annotations

import itertools
import queue as standard
import random
import threading
import weakref
from collections.abc import Sequence

import coordkit
from coordkit import deadline, errors, keys
from coordkit.recipes.queue import job as jobs
from coordkit.testing import checkers, lookout, plays
from coordkit.testing.history import Kind, Operation, Result
from coordkit.testing.recorder import Told, Witness

NAME = "play"
MOST = 200  # items that wait; who puts more waits, too
DRAIN_S = 15.0  # sessions that were lost give their claims back within this
PERSISTENT = ()

_numbers = itertools.count()
_queues: weakref.WeakKeyDictionary[coordkit.Coordinator, coordkit.Queue] = weakref.WeakKeyDictionary()


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """Put some, or take some."""
    queue = _queues.setdefault(coord, coord.queue(NAME, max_deliveries=1000, max_length=MOST))
    if plays.number_of(witness) % 2:
        _take(queue, witness)
    else:
        _put(queue, witness)


def finish(coord: coordkit.Coordinator, witness: Witness) -> None:
    """Take what is left."""
    queue = coord.queue(NAME, max_deliveries=1000)
    prefix = f"/{coord.settings.namespace}/queue/{NAME}/items/"
    limit = deadline.Deadline.after(DRAIN_S)
    while coord.kv.range(prefix) and not limit.expired:
        try:
            taken = queue.claim_many(100, timeout=0.5)
        except standard.Empty:
            continue
        _claimed(taken, witness)
        _ack_all(queue, taken, witness)


def look_on(coord: coordkit.Coordinator, witness: Witness) -> lookout.Lookout:
    """Consumers are not told of every claim, so another one is."""
    prefix = keys.prefix(coord.settings.namespace, "queue", NAME) + b"claims/"
    return lookout.Lookout(coord, prefix, witness)


def _put(queue: coordkit.Queue, witness: Witness) -> None:
    values = [f"v{next(_numbers)}" for _ in range(random.choice((1, 2, 4, 8, 30, 30)))]

    def put() -> Told:
        ids = queue.put_many(values, timeout=1)
        return Told(subject=" ".join(map("{}@{}".format, values, ids)))

    witness.call(Kind.PUT, put, subject=" ".join(values))


def _take(queue: coordkit.Queue, witness: Witness) -> None:
    try:
        taken = queue.claim_many(random.choice((1, 10, 30, 30)), timeout=random.choice((0.2, 2.0, 2.0)))
    except standard.Empty:
        return
    _claimed(taken, witness)
    if len(taken) > 10 or (len(taken) > 1 and random.random() < 0.5):
        threading.Event().wait(random.uniform(0, random.choice((0.0, 0.0, 0.0, 0.4))))
        _ack_all(queue, taken, witness)
        return
    for each in taken:
        _finish(each, witness, slow=random.choice((*[0.0] * 8, 0.02, 0.2)))


def _claimed(taken: list[jobs.Job], witness: Witness) -> None:
    told = (Told(subject=_subject(each), number=each.attempt, fence=each.fence) for each in taken)
    witness.saw(Kind.CLAIM, *told)


def _subject(job: jobs.Job) -> str:
    return f"{job.value.decode()}@{job.id}"


def _ack_all(queue: coordkit.Queue, taken: list[jobs.Job], witness: Witness) -> None:
    """In one commit, if none was lost; of one that was nobody says whether it was acked before."""

    def ack() -> list[Told]:
        lost = {each.id for each in queue.ack_many(taken)}
        return [Told(certain=each.id not in lost) for each in taken]

    witness.calls(Kind.ACK, ack, [{"subject": _subject(each), "fence": each.fence} for each in taken])


def _finish(job: jobs.Job, witness: Witness, slow: float) -> None:
    def ack() -> Told:
        job.ack()
        return Told()

    if slow:
        threading.Event().wait(random.uniform(0, slow))
    if slow and random.random() < 0.2:
        try:
            job.nack()
        except errors.ClaimLost:
            return
    else:
        witness.call(Kind.ACK, ack, subject=_subject(job), fence=job.fence)


def judge(operations: Sequence[Operation]) -> list[str]:
    """Lost, invented, twice, overtaken."""
    return plays.words(checkers.check_queue(operations, first_claims=_first_claims(operations)))


def _first_claims(operations: Sequence[Operation]) -> dict[str, int | None]:
    """By id, the revision of each item's first claim; None: while it was there, nobody looked."""
    seen = [each for each in operations if each.contender == plays.LOOKOUT]
    looked_ns = max((each.invoked_ns for each in seen if each.kind is Kind.GAP), default=0)
    found: dict[str, int | None] = {}
    for each in seen:
        if each.kind is Kind.OBSERVE:
            found.setdefault(each.subject, each.revision)
    for put in operations:
        if put.kind is Kind.PUT and put.result is Result.OK and put.invoked_ns < looked_ns:
            found |= dict.fromkeys((part.partition("@")[2] for part in put.subject.split()), None)
    return found
