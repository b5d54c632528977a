"""A moment at which a call blocks, to be interrupted there; in the test's own process or in a child."""

from __future__ import annotations

from contract.players import wait_until

import coordkit
from coordkit.testing import processes

#: What is interrupted.  Before each the server is paused, except where the wait is for another holder.
MOMENTS = ("acquire-waiting", "acquire-joining", "release", "put")


class Moment:
    """`act()` blocks; `reached()` is true once it does; `verify()` looks at what is left."""

    def __init__(
        self, coord: coordkit.Coordinator, other: coordkit.Coordinator, server_pid: int, name: str
    ) -> None:
        self.name = name
        self._coord = coord
        self._other = other
        self._server_pid = server_pid
        self._lock = coord.lock("moment")
        self._holder = other.lock("moment")
        self._calls = 0

    def prepare(self) -> None:
        assert self._coord.session.alive and self._other.session.alive
        if self.name == "release":
            self._lock.acquire()
        if self.name == "acquire-waiting":
            self._holder.acquire()
        else:
            processes.pause(self._server_pid)  # all of it: a thread that still ran could answer
        self._calls = self._coord.statistics().calls

    def act(self) -> None:
        if self.name == "put":
            self._coord.kv.put("/moment", b"", timeout=30)
        elif self.name == "release":
            self._lock.release()
        else:
            self._lock.acquire(timeout=30)

    def reached(self) -> bool:
        if self.name == "acquire-waiting":
            return len(self._holder.contenders()) == 2
        return self._coord.statistics().calls > self._calls

    def verify(self) -> None:
        """Nothing of it stays in line, and the same connection does its work."""
        processes.resume(self._server_pid)
        assert not self._lock.held
        if self.name == "acquire-waiting":
            wait_until(lambda: len(self._holder.contenders()) == 1, what="the withdrawal")
            self._holder.release()
        wait_until(lambda: not self._holder.contenders(), what="an empty line")
        self._coord.kv.put("/after", b"1", timeout=10)
        stored = self._coord.kv.get("/after", timeout=10)
        assert stored is not None and stored.value == b"1"
        assert self._lock.acquire(timeout=10)
        self._lock.release()
        wait_until(lambda: not self._other.kv.range("/coordkit/lock/"), what="an empty line")
