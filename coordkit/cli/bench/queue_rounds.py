"""What `coordkit bench queue` measures: pairs of ways to do the same, one after the other, on one server.

The peer of a claim is the algorithm of etcd's contrib/recipes Queue: read the oldest key, delete it if it is
unchanged, one item a transaction.  It claims nothing, so an item dies with the consumer that took it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs

import coordkit
from coordkit import kv
from coordkit.cli.bench import contenders, figures
from coordkit.cli.bench.figures import Figures
from coordkit.cli.bench.histogram import Histogram
from coordkit.testing.history import clock_ns

_VALUE = b"x" * 100
_NAME = "bench"
_PEER = "/bench-queue-peer/"
_PRODUCERS = 16


@attrs.frozen
class Load:
    """How many items each part of a round has; callers are threads, or greenlets in a patched process."""

    serial: int = 200
    many: int = 4_000
    peer: int = 150
    callers: int = 64
    each: int = 60
    drained: int = 100_000


def measure(url: str, load: Load) -> Figures:
    """One round: items per second, each way.

    Raises:
        RuntimeError: An item was lost, came twice, or out of order.
    """
    with coordkit.connect(url) as coord:
        queue = coord.queue(_NAME)
        queue.purge(claimed=True)
        coord.kv.delete_prefix(_PEER)
        queue.put(_VALUE)
        queue.get()
        found = {
            "put_per_s": _rate(load.serial, lambda: [queue.put(_VALUE) for _ in range(load.serial)]),
            "put_many_per_s": _rate(load.many, lambda: queue.put_many([_VALUE] * load.many)),
        }
        queue.purge()
        found |= _concurrent(coord, queue, load)
        queue.purge()
        found |= _taken(coord, queue, load)
        coord.kv.delete_prefix(_PEER)
    return found


def concurrent(url: str, load: Load) -> Figures:
    """One round of single puts alone: items per second of that many callers.

    Raises:
        RuntimeError: An item was lost.
    """
    with coordkit.connect(url) as coord:
        queue = coord.queue(_NAME)
        queue.purge(claimed=True)
        coord.kv.delete_prefix(_PEER)
        found = _concurrent(coord, queue, load)
        queue.purge()
    return found


def _concurrent(coord: coordkit.Coordinator, queue: coordkit.Queue, load: Load) -> Figures:
    """Single puts of many callers, coalesced; and as many plain puts, each a request of its own."""
    total = load.callers * load.each
    keys = iter(range(10**9))
    alone = _crowd(load, lambda: coord.kv.put(f"{_PEER}{next(keys):09d}", _VALUE))
    coord.kv.delete_prefix(_PEER)
    together = _crowd(load, lambda: queue.put(_VALUE))
    _insist(queue.qsize() == total, f"{queue.qsize()} of {total} concurrent puts are there")
    return {"concurrent_puts_per_s": together, "concurrent_uncoalesced_per_s": alone}


def _crowd(load: Load, call: Callable[[], object]) -> float:
    """Calls per second of all callers, from when they are all there until the last has ended."""
    gate = threading.Barrier(load.callers + 1)

    def run() -> None:
        gate.wait()
        for _ in range(load.each):
            call()

    callers = [threading.Thread(target=run) for _ in range(load.callers)]
    for caller in callers:
        caller.start()

    def wait() -> None:
        gate.wait()
        for caller in callers:
            caller.join()

    return _rate(load.callers * load.each, wait)


def _taken(coord: coordkit.Coordinator, queue: coordkit.Queue, load: Load) -> Figures:
    """Claim and ack in batches; the peer's algorithm in a queue of the same length."""
    for start in range(0, load.many, 100):
        txn = coord.kv.txn()
        txn.then(*(kv.put(f"{_PEER}{number:09d}", _VALUE) for number in range(start, start + 100))).commit()
    peer = _rate(load.peer, lambda: [_peer_get(coord) for _ in range(load.peer)])
    ids = queue.put_many([_VALUE] * load.many)
    taken: list[str] = []

    def drain() -> None:
        while len(taken) < load.many:
            jobs = queue.claim_many(100, timeout=10)
            taken.extend(job.id for job in jobs)
            _insist(not queue.ack_many(jobs), "a claim was lost")

    rate = _rate(load.many, drain)
    _insist(taken == ids, "items were lost, came twice or out of order")
    return {"claim_ack_per_s": rate, "peer_get_per_s": peer}


def _peer_get(coord: coordkit.Coordinator) -> bytes:
    """etcd's contrib/recipes/queue.go, Dequeue: the oldest key, deleted if it is unchanged."""
    while True:
        read = coord.kv.txn().then(kv.range(_PEER, oldest_first=True, limit=1)).commit()
        first = read.found(0).first
        assert first is not None
        if (
            coord.kv.txn()
            .when(kv.mod(first.key) == first.mod_revision)
            .then(kv.delete(first.key))
            .commit()
            .succeeded
        ):
            return first.value


def open_loop(url: str, rate: float, seconds: float) -> Figures:
    """Items that are meant to be put at fixed moments: from then until each was put, and was claimed.

    Raises:
        RuntimeError: An item was lost or came twice.
    """
    count = max(1, round(rate * seconds))
    puts: list[int] = []
    deliveries: dict[int, int] = {}
    with coordkit.connect(url) as coord:
        queue = coord.queue("open-loop")
        queue.purge(claimed=True)
        start_ns = clock_ns() + 50_000_000
        numbers = iter(range(count))

        def meant_ns(number: int) -> int:
            return start_ns + round(number * 1e9 / rate)

        def put() -> None:
            for number in numbers:
                contenders.sleep_until(meant_ns(number))
                queue.put(b"%d" % number)
                puts.append(clock_ns() - meant_ns(number))

        producers = [threading.Thread(target=put) for _ in range(_PRODUCERS)]
        for producer in producers:
            producer.start()
        while len(deliveries) < count:
            jobs = queue.claim_many(100, timeout=30)
            moment_ns = clock_ns()
            for number in (int(job.value) for job in jobs):
                _insist(number not in deliveries, f"item {number} came twice")
                deliveries[number] = moment_ns - meant_ns(number)
            _insist(not queue.ack_many(jobs), "a claim was lost")
        for producer in producers:
            producer.join()
    found = figures.percentiles("open_put", Histogram(puts))
    return found | figures.percentiles("open_delivery", Histogram(deliveries.values()))


def drain_peak_mib(url: str, count: int) -> float:
    """The most memory that a process used which drained so many items of 1 KiB."""
    with coordkit.connect(url) as coord:
        queue = coord.queue("drain")
        queue.purge(claimed=True)
        queue.put_many(b"%08d" % number + b"x" * 1016 for number in range(count))
    command = [sys.executable, "-m", __name__, url, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    _insist(done.returncode == 0, f"the consumer failed: {done.stderr[-500:]}")
    return float(done.stdout)


def _drain(url: str, count: int) -> float:
    with coordkit.connect(url) as coord:
        queue, expected = coord.queue("drain"), 0
        while expected < count:
            jobs = queue.claim_many(100, timeout=30)
            for job in jobs:
                _insist(int(job.value[:8]) == expected, f"{job.value[:8]!r} came in place of {expected}")
                expected += 1
            _insist(not queue.ack_many(jobs), "a claim was lost")
        _insist(queue.qsize() == 0, "something is left")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _rate(count: int, action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return count / (time.perf_counter() - began)


def _insist(sound: bool, what: str) -> None:
    if not sound:
        raise RuntimeError(what)


if __name__ == "__main__":
    sys.stdout.write(f"{_drain(sys.argv[1], int(sys.argv[2])):.1f}\n")
