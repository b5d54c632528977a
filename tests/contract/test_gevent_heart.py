"""The heart beats while a worker computes and never yields, threads or gevent; and what a stop does to it.

The workers are processes of their own, patched as this run is; the test stands behind them in line.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from contract.players import queue_up, wait_until

import coordkit
from coordkit.etcd import kv
from coordkit.testing import processes

TTL_S = 2
LONG_S = 3 * TTL_S

#: Says what it holds, then does what it is told to.  Reading blocks its only thread, or its hub.
WORKER = f"""
    import sys, time
    import coordkit
    from coordkit.etcd import heart, kv

    mode, url, name = sys.argv[1:]
    if mode == "gevent":
        from gevent import monkey
        assert monkey.is_module_patched("socket") and monkey.is_module_patched("threading")

    def compute():
        end_s = time.monotonic() + {LONG_S}
        steps = 0
        while time.monotonic() < end_s:
            steps += sum(range(1000))

    def outcome(action):
        try:
            return repr(action())
        except coordkit.CoordError as error:
            return type(error).__name__

    coord = coordkit.connect(url, ttl={TTL_S})
    lock = coord.lock(name)
    lock.acquire()
    beats = heart.heart_for(coord.client.options)
    print(lock.fence, lock.key.decode(), flush=True)
    for line in sys.stdin:
        match line.strip():
            case "compute":
                before = beats.renewals
                compute()
                print(beats.renewals - before, flush=True)
            case "check":
                print(outcome(lock.check), flush=True)
            case "write":
                write = lock.txn().then(kv.put(b"/written", b"by the first"))
                print(outcome(lambda: write.commit().succeeded), flush=True)
            case "release":
                print(outcome(lock.release), flush=True)
"""


class Worker:
    """A process that holds the lock, as seen by whoever commands it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process
        fence, self.key = self.hear().split()
        self.fence = int(fence)

    def say(self, word: str) -> None:
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        line = self._process.stdout.readline().strip()
        assert line, "the worker ended"
        return line

    def ask(self, word: str) -> str:
        self.say(word)
        return self.hear()


@pytest.fixture
def hire(child, mode: str, etcd, namespace: str) -> Callable[[str], Worker]:
    """`hire(name)`: a worker that holds the lock of that name."""
    return lambda name: Worker(child(WORKER, mode, f"etcd://{etcd.endpoint}/{namespace}", name))


@pytest.fixture
def coord(etcd, namespace: str) -> Iterator[coordkit.Coordinator]:
    with coordkit.connect(f"etcd://{etcd.endpoint}/{namespace}", ttl=TTL_S) as coordinator:
        yield coordinator


def test_a_worker_that_computes_keeps_its_lock(hire, coord):
    """
    Three TTLs of pure computing inside a critical section: renewed all along, and nobody else gets in.
    """
    worker = hire("a")
    (heir,) = queue_up(coord.lock("a"))

    renewals = int(worker.ask("compute"))

    assert renewals >= 2 * LONG_S / TTL_S
    assert heir.waiting
    assert worker.ask("check") == "None"
    assert worker.ask("release") == "None"
    heir.wait_until_held()
    assert heir.lock.fence > worker.fence
    heir.lock.release()


def test_a_worker_that_was_stopped_is_late(hire, coord):
    """
    Stopped for three TTLs: the next ones in line get their locks meanwhile, and the stopped ones are told.

    The first check after the stop says so; and what one of them was about to write under guard is refused.
    """
    workers = [hire("a"), hire("b")]
    checking, writing = workers
    heirs = queue_up(coord.lock("a")) + queue_up(coord.lock("b"))
    for worker in workers:
        processes.pause(worker.pid)
    stopped_s = time.monotonic()

    for heir in heirs:
        heir.wait_until_held()
    heirs[1].lock.txn().then(kv.put("/written", "by the second")).commit()
    wait_until(lambda: time.monotonic() > stopped_s + LONG_S)
    checking.say("check")
    writing.say("write")
    for worker in workers:
        processes.resume(worker.pid)

    assert checking.hear() == "LockLost"
    assert writing.hear() == "False"
    stored = coord.kv.get("/written")
    assert stored is not None and stored.value == b"by the second"
    for worker, heir in zip(workers, heirs, strict=True):
        assert coord.kv.get(worker.key) is None
        assert heir.lock.fence > worker.fence
        assert worker.ask("release") == "LockLost"
        heir.lock.check()
        heir.lock.release()
