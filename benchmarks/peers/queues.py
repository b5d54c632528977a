"""Roles of worker processes beyond locks: elections, counters and queues, ours and kazoo's.

A part is one contender: see `coordkit.cli.bench.parts`.  A call about several items names them all.
"""

from __future__ import annotations

import itertools
import queue as queues
from collections.abc import Callable
from typing import Any

from benchmarks.peers import fillers, mutexes
from coordkit.cli.bench import contenders, parts
from coordkit.testing.history import Kind

MANY = 100
_EMPTY_S = 2.0


class Call(parts.Part):
    """One call, again and again; it returns what it put or took, with spaces between; "" when it is over."""

    releases = False

    def __init__(self, kind: Kind, call: Callable[[], str]) -> None:
        self.kinds = (kind, kind)
        self._call = call

    def acquire(self, timeout: float) -> bool:
        self.subject = self._call()
        return bool(self.subject)


class Adding(Call):
    """Adds one; the call returns the value after it."""

    number = 1

    def __init__(self, call: Callable[[], str]) -> None:
        super().__init__(Kind.ADD, call)


class Ours(contenders.Contenders):
    """coordkit's queue, one by one and in batches."""

    def part(self, primitive: str, setting: parts.Setting) -> parts.Part:
        queue = setting.coord.queue(setting.name)
        names = (f"{setting.label}-{number}" for number in itertools.count())

        def put() -> str:
            name = next(names)
            queue.put(name.encode() + b" " + fillers.BODY)
            return name

        def put_many() -> str:
            batch = list(itertools.islice(names, MANY))
            queue.put_many([name.encode() + b" " + fillers.BODY for name in batch])
            return " ".join(batch)

        def take(count: int = 1) -> str:
            try:
                jobs = queue.claim_many(count, timeout=_EMPTY_S)
            except queues.Empty:
                return ""
            if lost := queue.ack_many(jobs):
                raise RuntimeError(f"{len(lost)} claims were lost")
            return " ".join(job.value.split()[0].decode() for job in jobs)

        calls = {
            "put": (Kind.PUT, put),
            "put_many": (Kind.PUT, put_many),
            "take": (Kind.CLAIM, take),
            "take_many": (Kind.CLAIM, lambda: take(MANY)),
        }
        return Call(*calls[primitive])


class Kazoo(mutexes.Kazoo):
    """kazoo's Election, Counter, Queue and LockingQueue."""

    def part(self, primitive: str, setting: parts.Setting) -> parts.Part:
        client, path = setting.coord.client, f"/{setting.name}"
        if primitive == "election":
            # What its `run` does around the leader's function.
            return parts.Lock(mutexes.KazooMutex(client.Election(path).lock))
        if primitive == "counter":
            return Adding(_adding(client.Counter(path)))
        if primitive.startswith("locking"):
            queue = client.LockingQueue(path)
            take: Callable[[], str] = lambda: _locked(queue)  # noqa: E731
        else:
            queue = client.Queue(path)
            take = lambda: _first_word(queue.get())  # noqa: E731
        if primitive.endswith("put"):
            return Call(Kind.PUT, _putting(queue, setting.label))
        return Call(Kind.CLAIM, take)


def _adding(counter: Any) -> Callable[[], str]:
    def add() -> str:
        counter.__add__(1)
        return str(counter.post_value)

    return add


def _putting(queue: Any, label: str) -> Callable[[], str]:
    names = (f"{label}-{number}" for number in itertools.count())

    def put() -> str:
        name = next(names)
        queue.put(name.encode() + b" " + fillers.BODY)
        return name

    return put


def _locked(queue: Any) -> str:
    stored = queue.get(timeout=_EMPTY_S)
    if stored is None:
        return ""
    if not queue.consume():
        raise RuntimeError("the lock of an entry was lost")
    return _first_word(stored)


def _first_word(stored: bytes | None) -> str:
    return stored.split()[0].decode() if stored else ""
