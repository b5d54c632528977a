"""Topics under everything at once: lost replies, broken connections, compactions, trims, slow subscribers.

Subscribers are threads of a process of their own, behind a proxy; publishers are threads here, whose replies
are lost now and then.  All that anybody was told is written down, and judged.
"""

from __future__ import annotations

import collections
import itertools
import math
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from contract.players import wait_until
from interleavings import meddler as meddlers

import coordkit
from coordkit import errors
from coordkit.testing import FaultProxy, LocalEtcd, checkers, faults, history
from coordkit.testing.history import Kind, Operation, Result, clock_ns

PUBLISHERS = 4
SUBSCRIBERS = 8

#: Follows a topic in several threads until each has seen the end; some are slow, some begin late, some use a
#: cursor and subscribe anew again and again.
MEMBER = """
import itertools, os, random, sys, threading, time
import coordkit
from coordkit.testing.history import Kind, Operation, Result, clock_ns
from coordkit.testing.recorder import Recorder

url, path, kind, count, name = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
recorder = Recorder(path)

def follow(number):
    chance, indexes, ended = random.Random(number), itertools.count(), False
    retain = 10**9 if kind == "retained" else None
    topic = coord.topic(name, retain=retain)
    cursor = coordkit.Cursor(f"c{number}", start="new")
    start = cursor if number % 4 == 3 else "new" if number % 4 else "all"
    overflow = "gap" if number % 4 == 2 else "block"

    def note(kind, **fields):
        recorder.note(Operation(
            kind, Result.OK, os.getpid(), str(number), next(indexes), clock_ns(), **fields
        ))

    last = (0, 0)
    while not ended:
        with topic.subscribe(start, buffer=40, overflow=overflow, timeout=30) as subscription:
            ready.release()
            taken = 0
            while not ended:
                try:
                    message = subscription.get()
                except coordkit.Gap as gap:
                    note(Kind.GAP, revision=None if overflow == "gap" else gap.revision)
                    continue
                ended = message.value == b"end"
                again = start is cursor and (message.revision, message.index) <= last  # at least once
                if not ended and not again:
                    last = (message.revision, message.index)
                    note(Kind.DELIVER, subject=message.value.decode(), revision=last[0], number=last[1])
                taken += 1
                if number % 2 and chance.random() < 0.02:
                    time.sleep(chance.random() * 0.05)
                if start is cursor and taken == 150:
                    break

ready = threading.Semaphore(0)
with coordkit.connect(url) as coord:
    threads = [threading.Thread(target=follow, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        ready.acquire()
    print("ready", flush=True)
    for thread in threads:
        thread.join()
"""


@attrs.define
class Counts:
    """What was done to them."""

    replies_lost: int = 0
    resets: int = 0
    compactions: int = 0
    trims: int = 0


@pytest.fixture(scope="module")
def server(etcd_binary: str) -> Iterator[LocalEtcd]:
    """A server whose history is compacted all the time."""
    with LocalEtcd(etcd_binary) as server:
        yield server


@pytest.fixture
def meddler(monkeypatch: pytest.MonkeyPatch) -> Iterator[meddlers.Meddler]:
    installed = meddlers.Meddler.installed(monkeypatch)
    yield installed
    installed.end()


class Publisher:
    """One thread that publishes, and notes what it was told."""

    def __init__(self, topic: coordkit.Topic, label: str, count: int) -> None:
        self.operations: list[Operation] = []
        self._topic, self._label, self._count = topic, label, count
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        chance, indexes = random.Random(self._label), itertools.count()
        left = self._count
        while left:
            count = min(left, chance.choice((1, 1, 1, 1, 1, 2, 4, 20)))
            left -= count
            threading.Event().wait(0.004)
            index = next(indexes)
            subject = f"{self._label}.{index}."
            values = [f"{subject}{number}" for number in range(count)]
            known: dict[str, Any] = {"subject": subject, "number": count, "invoked_ns": clock_ns()}
            try:
                revision = self._topic.publish_many(values, timeout=20)
                result = Result.OK
            except errors.CoordError as error:
                outcome = getattr(error, "outcome", errors.Outcome.NONE)
                revision = None
                result = Result.UNKNOWN if outcome is errors.Outcome.UNKNOWN else Result.FAIL
            self.operations.append(
                Operation(Kind.PUBLISH, result, 0, self._label, index, revision=revision, **known)
            )

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()


class Storm:
    """What happens meanwhile."""

    def __init__(
        self,
        meddler: meddlers.Meddler,
        proxy: FaultProxy,
        coord: coordkit.Coordinator,
        trim: Callable[[], None],
    ) -> None:
        self.counts = Counts()
        self._proxy, self._coord, self._trim = proxy, coord, trim
        self._requests = itertools.count(1)
        prefix = f"/{coord.settings.namespace}/topic/".encode()
        meddler.drop_reply(lambda call: call.puts(prefix) and self._unlucky(), times=math.inf)

    def _unlucky(self) -> bool:
        unlucky = next(self._requests) % 11 == 0
        self.counts.replies_lost += unlucky
        return unlucky

    def rage(self, on: Callable[[], bool]) -> None:
        for turn in itertools.cycle((self._reset, self._compact, self._cut_off)):
            if not on():
                return
            turn()
            threading.Event().wait(0.1)

    def _reset(self) -> None:
        self._proxy.reset()
        self.counts.resets += 1

    def _compact(self) -> None:
        faults.compact(self._coord)
        self.counts.compactions += 1
        self._trim()
        self.counts.trims += 1

    def _cut_off(self) -> None:
        """Nobody can reconnect while history goes."""
        self._proxy.refuse()
        self._reset()
        threading.Event().wait(0.05)
        self._compact()
        self._proxy.heal()


def play(
    kind: str, count: int, server: LocalEtcd, namespace: str, meddler: Any, child: Any, tmp_path: Any
) -> tuple[history.Verdict, list[Operation], Counts]:
    retain = 10**9 if kind == "retained" else None
    url = f"etcd://{server.endpoint}/{namespace}"
    path = tmp_path / "told.jsonl"
    with FaultProxy(server.endpoint) as proxy, coordkit.connect(url) as coord, coordkit.connect(url) as other:
        topics = [each.topic("t", retain=retain) for each in (coord, other)]
        revision = topics[0].publish("first.0")
        member = child(MEMBER, f"etcd://{proxy.endpoint}/{namespace}", str(path), kind, str(SUBSCRIBERS), "t")
        assert member.stdout.readline() == "ready\n"

        storm = Storm(meddler, proxy, coord, (lambda: topics[1].trim(300)) if retain else lambda: None)
        publishers = [
            Publisher(topics[number % 2], f"p{number}", count // PUBLISHERS) for number in range(PUBLISHERS)
        ]
        storm.rage(lambda: any(each.alive for each in publishers))
        meddler.end()
        for plan in meddler._plans:
            plan.left = 0
        # Again and again: who skips what it is too slow for may skip the end, too.
        wait_until(lambda: topics[0].publish("end") and member.poll() is not None, within_s=60)
        assert member.returncode == 0

    told = history.load(path)
    known = {"subject": "first.", "number": 1, "revision": revision}
    first = Operation(Kind.PUBLISH, Result.OK, 0, "first", 0, 0, **known)
    operations = [first, *told, *(each for publisher in publishers for each in publisher.operations)]
    return checkers.check_topic(operations), operations, storm.counts


def summary(kind: str, verdict: history.Verdict, operations: list[Operation], counts: Counts) -> str:
    results = collections.Counter()
    for each in operations:
        if each.kind is Kind.PUBLISH:
            results[each.result.value] += each.number or 0
    gaps = sum(each.kind is Kind.GAP for each in operations)
    return (
        f"{kind}: {dict(results)} messages published, {verdict.holds} delivered, {gaps} gaps told; "
        f"{counts}; {len(verdict.violations)} violations"
    )


class TestCrowd:
    @pytest.mark.timeout(90)
    @pytest.mark.parametrize("kind", ["live", "retained"])
    def test_what_was_told_is_true(self, kind, server, namespace, meddler, child, tmp_path):
        """
        A thousand messages, eight subscribers.
        """
        verdict, operations, counts = play(kind, 1_000, server, namespace, meddler, child, tmp_path)

        print(summary(kind, verdict, operations, counts))
        assert verdict.clean, verdict.violations[:5]
        assert counts.replies_lost > 10
        assert verdict.holds > 100
        if kind == "retained":
            assert {each.result for each in operations if each.kind is Kind.PUBLISH} == {Result.OK}

    @pytest.mark.soak
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("kind", ["live", "retained"])
    def test_much_of_it(self, kind, server, namespace, meddler, child, tmp_path):
        """
        Twenty thousand.
        """
        verdict, operations, counts = play(kind, 20_000, server, namespace, meddler, child, tmp_path)

        print(summary(kind, verdict, operations, counts))
        assert verdict.clean, verdict.violations[:5]
        assert counts.replies_lost > 200
