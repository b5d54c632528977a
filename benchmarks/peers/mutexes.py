"""Roles of worker processes: other clients' locks, in the place of ours.

Each offers what the contenders of `coordkit bench lock` use: a connection with `lock(name)` and `close()`,
and locks with `acquire(timeout)`, `release()` and `fence`. A lock that has no fence says so by None: it is
then judged by the clock alone.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import attrs

from coordkit.cli import launch
from coordkit.cli.bench import contenders


class Connection:
    """What a coordinator is to the contenders."""

    session = None

    def __init__(self, lock: Callable[[str], Any], close: Callable[[], None]) -> None:
        self.lock, self.close = lock, close


class Mutex:
    """One foreign lock: how to take it and how to give it back."""

    released_revision = None
    fence: int | None = None

    def __init__(self, acquire: Callable[[float], bool], release: Callable[[], Any]) -> None:
        self._acquire, self._release = acquire, release

    def acquire(self, timeout: float) -> bool:
        return bool(self._acquire(timeout))

    def release(self) -> None:
        self._release()


class Kazoo(contenders.Contenders):
    """kazoo's locks: fair, one client a process."""

    def connect(self, url: str) -> Any:
        return KazooConnection(url)


class KazooConnection:
    """Locks of each kind."""

    session = None

    def __init__(self, url: str) -> None:
        from kazoo import client as kazoo_client

        self.client = kazoo_client.KazooClient(url, timeout=10)
        self.client.start(timeout=10)

    def lock(self, name: str) -> KazooMutex:
        return KazooMutex(self.client.Lock(f"/{name}"))

    def rwlock(self, name: str) -> KazooSides:
        path = f"/{name}"
        return KazooSides(KazooMutex(self.client.ReadLock(path)), KazooMutex(self.client.WriteLock(path)))

    def semaphore(self, name: str, limit: int) -> Mutex:
        """It does not say what its node is, so it has no fence."""
        permits = self.client.Semaphore(f"/{name}", max_leases=limit)
        return Mutex(lambda timeout: permits.acquire(timeout=timeout), permits.release)

    def close(self) -> None:
        self.client.stop()
        self.client.close()


class KazooMutex(Mutex):
    """Its fence is the sequence number of its node."""

    def __init__(self, lock: Any) -> None:
        super().__init__(lambda timeout: lock.acquire(timeout=timeout), lock.release)
        self._lock = lock

    @property
    def fence(self) -> int:  # type: ignore[override]
        return int(self._lock.node[-10:])


@attrs.frozen
class KazooSides:
    """Of one lock."""

    read: KazooMutex
    write: KazooMutex


class RedisPy(contenders.Contenders):
    """redis.lock.Lock: unfair, polls every 0.1 s by default."""

    def connect(self, url: str) -> Any:
        import redis

        host, _, port = url.rpartition(":")
        client = redis.Redis(host=host, port=int(port))

        def lock(name: str) -> Any:
            one = client.lock(name, timeout=10, thread_local=False)
            return Mutex(lambda timeout: one.acquire(blocking_timeout=timeout), one.release)

        return Connection(lock, client.close)


class PythonRedisLock(contenders.Contenders):
    """redis_lock.Lock: unfair, woken by a blocking list read."""

    def connect(self, url: str) -> Any:
        import redis
        import redis_lock

        host, _, port = url.rpartition(":")
        client = redis.Redis(host=host, port=int(port))

        def lock(name: str) -> Any:
            # A new object for each hold, as its documentation wants: one object keeps one identity.
            held: list[Any] = []

            def acquire(timeout: float) -> bool:
                one = redis_lock.Lock(client, name, expire=10)
                held.append(one)
                return one.acquire(blocking=True, timeout=min(int(timeout), 9))

            return Mutex(acquire, lambda: held.pop().release())

        return Connection(lock, client.close)


class Etcd3(contenders.Contenders):
    """The etcd3 package's Lock on grpcio, as it comes: unfair, a lease an attempt."""

    def connect(self, url: str) -> Any:
        import etcd3

        host, _, port = url.rpartition(":")
        client = etcd3.client(host=host, port=int(port), timeout=10)

        def lock(name: str) -> Any:
            one = client.lock(name, ttl=10)
            return Mutex(lambda timeout: one.acquire(timeout=timeout), one.release)

        return Connection(lock, client.close)


class Tooz(contenders.Contenders):
    """tooz's etcd3gw driver: unfair, over the JSON gateway, polls."""

    def connect(self, url: str) -> Any:
        from tooz import coordination

        coordinator = coordination.get_coordinator(f"etcd3+http://{url}", os.urandom(8).hex().encode())
        coordinator.start(start_heart=False)

        def lock(name: str) -> Any:
            one = coordinator.get_lock(name.encode())
            return Mutex(lambda timeout: one.acquire(blocking=timeout), one.release)

        return Connection(lock, coordinator.stop)


class Etcdctl(contenders.Contenders):
    """`etcdctl lock`: a process and a lease for each hold; fair."""

    def connect(self, url: str) -> Any:
        return Connection(lambda name: EtcdctlMutex(url, name), lambda: None)


class EtcdctlMutex(Mutex):
    """The process prints its key when it holds the lock, and gives it back at SIGINT."""

    def __init__(self, endpoint: str, name: str) -> None:
        super().__init__(self._start, self._end)
        program = shutil.which("etcdctl", path=os.path.dirname(sys.executable)) or "etcdctl"
        self._command = [program, "--endpoints", endpoint, "lock", "--ttl", "10", name]
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self, timeout: float) -> bool:
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            env={**os.environ, "ETCDCTL_API": "3"},
            preexec_fn=launch.die_with_parent(),  # without its server it would go on trying for ever
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        return bool(ready and self._process.stdout.readline())

    def _end(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(20)
        self._process.stdout.close()
