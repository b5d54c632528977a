"""One queue: some put, the others take, ack, give back, or are too slow; in the end it is drained."""

from __future__ import annotations

import itertools
import queue as standard
import random
import threading
import weakref
from collections.abc import Sequence

import coordkit
from coordkit import deadline, errors
from coordkit.recipes.queue import job as jobs
from coordkit.testing import checkers, plays
from coordkit.testing.history import Kind, Operation
from coordkit.testing.recorder import Told, Witness

NAME = "play"
DRAIN_S = 15.0  # sessions that were lost give their claims back within this
PERSISTENT = ()

_numbers = itertools.count()
_queues: weakref.WeakKeyDictionary[coordkit.Coordinator, coordkit.Queue] = weakref.WeakKeyDictionary()


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """Put some, or take some."""
    queue = _queues.setdefault(coord, coord.queue(NAME, max_deliveries=1000, max_length=100))
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
        for each in taken:
            _finish(each, witness, 0.0)


def _put(queue: coordkit.Queue, witness: Witness) -> None:
    values = [f"v{next(_numbers)}" for _ in range(random.randrange(1, 9))]

    def put() -> Told:
        ids = queue.put_many(values, timeout=1)
        return Told(subject=" ".join(map("{}@{}".format, values, ids)))

    witness.call(Kind.PUT, put, subject=" ".join(values))


def _take(queue: coordkit.Queue, witness: Witness) -> None:
    try:
        taken = queue.claim_many(random.choice((1, 1, 10)), timeout=0.2)
    except standard.Empty:
        return
    for each in taken:
        _finish(each, witness, slow=random.choice((0.0, 0.0, 0.0, 0.02, 0.2)))


def _finish(job: jobs.Job, witness: Witness, slow: float) -> None:
    subject = f"{job.value.decode()}@{job.id}"

    def ack() -> Told:
        job.ack()
        return Told()

    witness.call(Kind.CLAIM, lambda: Told(subject=subject, number=job.attempt, fence=job.fence))
    if slow:
        threading.Event().wait(random.uniform(0, slow))
    if slow and random.random() < 0.2:
        try:
            job.nack()
        except errors.ClaimLost:
            return
    else:
        witness.call(Kind.ACK, ack, subject=subject, fence=job.fence)


def judge(operations: Sequence[Operation]) -> list[str]:
    """Lost, invented, twice, overtaken."""
    return plays.words(checkers.check_queue(operations))
