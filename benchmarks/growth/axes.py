"""One point of growth, in a process of its own: `python -m benchmarks.growth.axes AXIS COUNT URL`; JSON out.

Each tells a time and the memory that each one more costs this process; bare ones the memory alone.  What does
not come to its end within its limit fails: no point is left out in silence.  Those of `GREENLETS` want
gevent's patches: `python -m gevent.monkey --module benchmarks.growth.axes ...`.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import coordkit
from benchmarks.growth import served
from coordkit.cli.bench import worker

_LIMIT_S = 90.0
_TTL_S = 10  # of idle sessions; they are watched for as long
_STACK_BYTES = 256 * 1024
_OPENERS = 50
_SAMPLES = 60
_BODY = b"x" * 100


def rss_kib() -> float:
    """What this process has in memory; on other systems than Linux, the most that it had."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)


def waiters(coord: coordkit.Coordinator, count: int) -> dict[str, float]:
    """All stand in one line, in threads or greenlets; then the lock passes through all of them."""
    lock = coord.lock("waiters")
    lock.acquire()
    released = 0
    gaps: list[int] = []

    def wait() -> None:
        nonlocal released
        mine = coord.lock("waiters")
        if not mine.acquire(timeout=_LIMIT_S):
            raise RuntimeError("a waiter's time ran out")
        running = time.perf_counter_ns()
        gaps.append(running - released)
        released = time.perf_counter_ns()
        mine.release()

    threading.stack_size(_STACK_BYTES)
    before = rss_kib()
    threads = [threading.Thread(target=wait) for _ in range(count)]
    for thread in threads:
        thread.start()
    _until(lambda: len(lock.contenders()) == count + 1)
    held = rss_kib()
    released = time.perf_counter_ns()
    lock.release()
    for thread in threads:
        thread.join()
    _insist(len(gaps) == count, f"{len(gaps)} of {count} had their turn")
    return {"hand_over_p50_ms": statistics.median(gaps) / 1e6, "kib_each": (held - before) / count}


def bare(_: coordkit.Coordinator, count: int) -> dict[str, float]:
    """As many threads or greenlets that only wait: what a waiter costs where there is no lock of ours."""
    threading.stack_size(_STACK_BYTES)
    gates = [threading.Lock() for _ in range(count)]
    waiting = []

    def wait(gate: Any) -> None:
        waiting.append(gate)
        gate.acquire()

    for gate in gates:
        gate.acquire()
    before = rss_kib()
    threads = [threading.Thread(target=wait, args=(gate,)) for gate in gates]
    for thread in threads:
        thread.start()
    _until(lambda: len(waiting) == count)
    held = rss_kib()
    for gate in gates:
        gate.release()
    for thread in threads:
        thread.join()
    return {"kib_each": (held - before) / count}


def names(coord: coordkit.Coordinator, count: int) -> dict[str, float]:
    """As many locks, held at once; then those of a sample are given back and taken again."""
    before = rss_kib()
    locks = [coord.lock(f"name-{number}") for number in range(count)]
    _in_threads(locks, lambda lock: lock.acquire(timeout=_LIMIT_S))
    held = rss_kib()
    times = []
    for lock in locks[:: max(1, count // _SAMPLES)]:
        began = time.perf_counter()
        lock.release()
        lock.acquire(timeout=_LIMIT_S)
        times.append(time.perf_counter() - began)
    _in_threads(locks, lambda lock: lock.release())
    return {"cycle_p50_ms": statistics.median(times) * 1e3, "kib_each": (held - before) / count}


def sessions(coord: coordkit.Coordinator, count: int) -> dict[str, float]:
    """As many sessions, idle: what keeping them alive costs, and what the server sees of it."""
    first = coord.session  # one of them
    before, opened = rss_kib(), [first]
    _in_threads(range(count - 1), lambda _: opened.append(coord.new_session()))
    held = rss_kib()
    endpoint = coord.client.options.endpoints[0]
    _until(lambda: _is_quiet(coord))
    then = served.requests(endpoint)
    cpu, began = time.process_time(), time.monotonic()
    time.sleep(_TTL_S)
    passed = time.monotonic() - began
    now = served.requests(endpoint)
    _insist(all(session.alive for session in opened), "a session was lost")
    calls, renewals = (getattr(now, name) - getattr(then, name) for name in ("calls", "renewals"))
    return {
        "cpu_percent": (time.process_time() - cpu) / passed * 100,
        "watch_streams": now.watch_streams,
        "lease_streams": now.lease_streams,
        "renewals_per_s": renewals / passed,
        "calls_per_s": calls / passed,
        "requests_each_per_s": (calls + renewals) / passed / count,
        "kib_each": (held - before) / max(1, count - 1),
    }


def _is_quiet(coord: coordkit.Coordinator) -> bool:
    """Whether what follows an opening is over."""
    before = coord.statistics().calls
    time.sleep(0.5)
    return coord.statistics().calls == before


def length(coord: coordkit.Coordinator, count: int) -> dict[str, float]:
    """As many items in a queue: what claiming one of them costs."""
    queue = coord.queue(f"length-{count}")
    before = rss_kib()
    began = time.perf_counter()
    queue.put_many([_BODY] * count, timeout=_LIMIT_S)
    put_s = time.perf_counter() - began
    times = []
    for _ in range(_SAMPLES):
        began = time.perf_counter()
        queue.claim(timeout=10).ack()
        times.append(time.perf_counter() - began)
    grown = rss_kib() - before
    queue.purge(claimed=True)
    return {
        "claim_ack_p50_ms": statistics.median(times) * 1e3,
        "put_many_per_s": count / put_s,
        "mib_client": grown / 1024,
    }


def subscribers(coord: coordkit.Coordinator, count: int) -> dict[str, float]:
    """As many in one process, each in a thread: from a publication until each has it."""
    topic = coord.topic(f"subscribers-{count}")
    before = rss_kib()
    subscriptions = [topic.subscribe() for _ in range(count)]
    delays: list[float] = []
    wrong: list[str] = []

    def take(subscription: Any) -> None:
        for number in range(_SAMPLES):
            message = subscription.get(_LIMIT_S)
            if message is None or message.raw.split(b" ")[0] != b"%d" % number:
                wrong.append(f"{message!r} came in place of {number}")
                return
            delays.append(time.perf_counter() - float(message.raw.split(b" ")[1]))

    threads = [threading.Thread(target=take, args=(each,)) for each in subscriptions]
    for thread in threads:
        thread.start()
    for number in range(_SAMPLES):
        time.sleep(0.005)
        topic.publish(b"%d %.9f" % (number, time.perf_counter()))
    for thread in threads:
        thread.join()
    held = rss_kib()
    _insist(not wrong, "; ".join(wrong[:1]))
    return {"delivery_p50_ms": statistics.median(delays) * 1e3, "kib_each": (held - before) / count}


AXES: dict[str, Callable[[coordkit.Coordinator, int], dict[str, float]]] = {
    "waiters": waiters,
    "greenlets": waiters,
    "bare-threads": bare,
    "bare-greenlets": bare,
    "names": names,
    "sessions": sessions,
    "length": length,
    "subscribers": subscribers,
}
GREENLETS = ("greenlets", "bare-greenlets")


def _in_threads(items: Any, action: Callable[[Any], object]) -> None:
    left, failures = list(items)[::-1], []

    def work() -> None:
        while left and not failures:
            try:
                action(left.pop())
            except IndexError:
                return
            except coordkit.CoordError as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(_OPENERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _insist(not failures, f"{failures[:1]}")


def _until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + _LIMIT_S
    while not true():
        _insist(time.monotonic() < limit, "it did not come to pass in time")
        time.sleep(0.02)


def _insist(sound: bool, what: str) -> None:
    if not sound:
        raise RuntimeError(what)


def main(axis: str, count: str, url: str) -> None:
    _insist(worker.patched() is (axis in GREENLETS), "sockets are patched where they must not be, or not")
    with coordkit.connect(url, timeout=30, ttl=_TTL_S) as coord:
        _ = coord.session
        found = AXES[axis](coord, int(count))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
