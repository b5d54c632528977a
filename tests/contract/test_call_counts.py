"""What waiting costs, and what a crowd of consumers does: requests are counted, never timed.

Those of a whole server, as it counts them itself; or those of a program, and how many of its claims came too
late.
"""

from __future__ import annotations

import collections
import contextlib
import json
import re
import threading
import urllib.request
from collections.abc import Iterator

import pytest
from contract.players import Call, wait_until
from contract.waits import LIMIT_S, WAITS

import coordkit
from coordkit import vigil
from coordkit.recipes.queue import room
from coordkit.testing import LocalEtcd

IDLE_S = 5.0
LOOK_S = 1.0

PROCESSES, EACH = 4, 8  # consumers, each with a connection and a session of its own: 32 in all
ITEMS = 1_000
SINGLE_ITEMS = 40

#: A request that etcd has answered, or a stream that has ended; what watches and keep-alives send is neither.
_ANSWERED = re.compile(r'^grpc_server_handled_total\{.*grpc_method="(\w+)".*grpc_type="unary"\} (\d+)', re.M)


def answered(server: LocalEtcd) -> collections.Counter[str]:
    """The requests that a server has answered, by method."""
    with urllib.request.urlopen(f"http://{server.endpoint}/metrics", timeout=10) as page:
        found = _ANSWERED.findall(page.read().decode())
    return collections.Counter({method: count for method, number in found if (count := int(number))})


@pytest.fixture
def server(etcd_binary: str) -> Iterator[LocalEtcd]:
    """One that nobody else asks anything."""
    with LocalEtcd(etcd_binary) as own:
        yield own


def test_all_that_waits_asks_nothing(server, monkeypatch):
    """
    With every wait of every recipe under way, the server answers no request in five seconds.

    The looks in case that an old server has lost an event are put off: once a TTL, in 10 s, or in 5 s.
    """
    monkeypatch.setattr(vigil, "SAFETY_S", 600.0)
    monkeypatch.setattr(room, "LONGEST_WAIT_S", 600.0)
    with contextlib.ExitStack() as stack:
        waits = []
        for name, stage in WAITS.items():
            pair = [
                stack.enter_context(coordkit.connect(server.url, namespace=name.replace(" ", "-"), ttl=120))
                for _ in range(2)
            ]
            assert all(each.session.alive for each in pair)
            waits.append(stage(*pair))
        calls = [Call(each.act, LIMIT_S * 2) for each in waits]

        def settled() -> bool:
            before = answered(server)
            threading.Event().wait(LOOK_S)
            return answered(server) == before

        wait_until(settled, within_s=LIMIT_S, what="everybody's waiting")
        before = answered(server)
        threading.Event().wait(IDLE_S)
        asked = answered(server) - before

        assert [name for name, call in zip(WAITS, calls, strict=True) if not call.waiting] == []
        assert asked == collections.Counter()
        for each in waits:
            each.cancel()


CONSUMERS = """
import collections, json, select, sys, threading
import coordkit
from coordkit.recipes.queue import fetcher

url, count = sys.argv[1], int(sys.argv[2])
counted = collections.Counter()
taken = []  # to append is atomic, to add is not
learn = fetcher.Fetcher._learn

def counting(self, tried, deliveries):
    counted["tried"] += tried
    counted["late"] += tried - len(deliveries)
    learn(self, tried, deliveries)

fetcher.Fetcher._learn = counting
members = [coordkit.connect(url) for _ in range(count)]
for member in members:
    assert member.session.alive
queues = [member.queue("jobs") for member in members]
before = sum(member.statistics().calls for member in members)

def consume(queue):
    try:
        while True:
            taken.append(queue.get())
    except coordkit.Cancelled:
        pass

def told():
    select.select([sys.stdin], [], [])  # under gevent others run meanwhile
    sys.stdin.readline()

threads = [threading.Thread(target=consume, args=(queue,)) for queue in queues]
print("ready", flush=True)
told()
for thread in threads:
    thread.start()
print("begun", flush=True)
told()
while any(thread.is_alive() for thread in threads):
    for queue in queues:
        queue.cancel()  # whoever waits now; one that has just got its last item comes to wait again
    threads[0].join(0.05)
counted["items"] = len(taken)
counted["calls"] = sum(member.statistics().calls for member in members) - before
print(json.dumps(counted), flush=True)
"""


class Consumers:
    """Those of several processes, as one."""

    def __init__(self, child, server: LocalEtcd) -> None:
        self._processes = [child(CONSUMERS, server.url, str(EACH)) for _ in range(PROCESSES)]
        self._hear("ready\n")

    def begin(self) -> None:
        """Returns when they all take what comes."""
        self._tell()
        self._hear("begun\n")

    def end(self) -> collections.Counter[str]:
        """What they have counted."""
        self._tell()
        counted: collections.Counter[str] = collections.Counter()
        for process in self._processes:
            counted.update(json.loads(process.stdout.readline()))
        return counted

    def _tell(self) -> None:
        for process in self._processes:
            process.stdin.write("\n")
            process.stdin.flush()

    def _hear(self, word: str) -> None:
        assert [process.stdout.readline() for process in self._processes] == [word] * PROCESSES


@pytest.mark.timeout(120)
class TestManyConsumers:
    """32 of them, each as far from the others as processes are."""

    def test_they_do_not_fight_over_the_head(self, child, server):
        """
        A queue that is full costs each item no more than two or three looks, claims and acks.
        """
        consumers = Consumers(child, server)
        with coordkit.connect(server.url) as coord:
            jobs = coord.queue("jobs")
            jobs.put_many([b"x"] * ITEMS)

            consumers.begin()
            wait_until(
                lambda: not coord.kv.range(jobs._site.layout.items), within_s=60, what="an empty queue"
            )

        counted = consumers.end()
        assert counted["items"] == ITEMS
        assert counted["late"] < 3 * ITEMS, counted
        assert counted["calls"] < 12 * ITEMS, counted

    def test_an_item_that_comes_alone_is_tried_for_once_by_each(self, child, server):
        """
        At most: whoever waits hears of it, and mostly that it is taken; whoever comes too late waits again.
        """
        consumers = Consumers(child, server)
        with coordkit.connect(server.url) as coord:
            jobs = coord.queue("jobs")
            consumers.begin()

            for _ in range(SINGLE_ITEMS):
                jobs.put(b"x")
                wait_until(lambda: not coord.kv.range(jobs._site.layout.items), what="an empty queue")

        counted = consumers.end()
        assert counted["items"] == SINGLE_ITEMS
        assert counted["late"] < PROCESSES * EACH * SINGLE_ITEMS, counted
        assert counted["calls"] < 2 * PROCESSES * EACH * SINGLE_ITEMS, counted
