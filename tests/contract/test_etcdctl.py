"""`etcdctl lock` and coordkit stand in one line, whoever comes first."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
from contract.players import queue_up, wait_until

import coordkit


class EtcdctlLock:
    """An `etcdctl lock` that runs: it prints its key when it holds the lock, and then waits to be ended."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "ETCDCTL_API": "3"}  # until 3.4 it had to be told
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        self.key: bytes | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.key = self.process.stdout.readline().strip() or None

    def wait_until_held(self) -> bytes:
        return wait_until(lambda: self.key, what="etcdctl's turn")

    def end(self, how: signal.Signals) -> None:
        """SIGINT: it releases.  SIGKILL: its lease must run out."""
        self.process.send_signal(how)
        self.process.wait(15)
        self._reader.join(15)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def prefix(namespace: str) -> str:
    return f"/{namespace}/shared"


@pytest.fixture
def etcdctl(etcd, prefix: str) -> Iterator[Callable[[], EtcdctlLock]]:
    """`etcdctl()` stands in the line of `prefix`, with a lease of 2 s."""
    if etcd.etcdctl is None:
        pytest.skip("there is no etcdctl beside the server, nor on PATH")
    started: list[EtcdctlLock] = []

    def start() -> EtcdctlLock:
        command = [etcd.etcdctl, f"--endpoints={etcd.endpoint}", "lock", "--ttl=2", prefix]
        started.append(EtcdctlLock(command))
        return started[-1]

    yield start

    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGKILL)


def line_grows(lock: coordkit.Lock, count: int) -> None:
    wait_until(lambda: len(lock.contenders()) == count, what=f"a line of {count}")


def test_etcdctl_waits_for_us(coord, etcdctl, prefix):
    """
    While we hold it etcdctl waits, and gets it when we release.
    """
    lock = coordkit.Lock.at(coord.session, prefix)
    lock.acquire()
    other = etcdctl()
    line_grows(lock, 2)
    assert other.key is None

    fence = lock.fence
    lock.release()

    key = other.wait_until_held()
    (place,) = lock.contenders()
    assert place.key == key
    assert place.fence > fence
    assert not place.mine
    other.end(signal.SIGINT)
    line_grows(lock, 0)


def test_we_wait_for_etcdctl(coord, etcdctl, prefix):
    """
    While etcdctl holds it we wait; a try says no; when it ends in good order we are next.
    """
    lock = coordkit.Lock.at(coord.session, prefix)
    other = etcdctl()
    other.wait_until_held()

    assert lock.locked()
    assert lock.acquire(blocking=False) is False
    assert lock.acquire(timeout=0.1) is False
    line_grows(lock, 1)
    (waiter,) = queue_up(lock)
    other.end(signal.SIGINT)

    waiter.wait_until_held()
    lock.release()


def test_one_line_in_order(coord, etcdctl, prefix):
    """
    Ours, etcdctl's, ours, etcdctl's: each in the order in which it came.
    """
    lock, later = (coordkit.Lock.at(coord.session, prefix) for _ in range(2))
    lock.acquire()
    first = etcdctl()
    line_grows(lock, 2)
    (second,) = queue_up(later)
    third = etcdctl()
    line_grows(lock, 4)
    order = [place.key for place in lock.contenders()]

    lock.release()
    assert first.wait_until_held() == order[1]
    assert second.waiting and third.key is None

    first.end(signal.SIGINT)
    second.wait_until_held()
    assert later.key == order[2]
    assert third.key is None

    later.release()
    assert third.wait_until_held() == order[3]
    third.end(signal.SIGINT)
    line_grows(lock, 0)


def test_a_killed_etcdctl_frees_ours(coord, etcdctl, prefix):
    """
    When etcdctl is killed its lease runs out, and whoever waits behind it gets the lock.
    """
    lock = coordkit.Lock.at(coord.session, prefix)
    other = etcdctl()
    key = other.wait_until_held()
    (waiter,) = queue_up(lock)

    other.end(signal.SIGKILL)

    waiter.wait_until_held()
    assert key not in [place.key for place in lock.contenders()]
    lock.release()
