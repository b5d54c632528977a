"""Every lock-like, as the tests that are for all of them ask for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs
from contract.players import PATIENCE_S, Attempt, wait_until

import coordkit

Make = Callable[[coordkit.Coordinator, str], Any]


@attrs.frozen
class LockLike:
    """How one is made, and who cannot hold it at the same time."""

    make: Make
    rival: Make
    #: Whether it hangs on the coordinator's session of the moment, not on one for good.
    renewed: bool = True


def _write(coord: coordkit.Coordinator, name: str) -> Any:
    return coord.rwlock(name).write


def _same(make: Make, **facts: Any) -> LockLike:
    return LockLike(make, make, **facts)


LOCKLIKES: dict[str, LockLike] = {
    "lock": _same(lambda coord, name: coord.lock(name)),
    "lock-at": _same(lambda coord, name: coordkit.Lock.at(coord.session, f"/at/{name}"), renewed=False),
    "rlock": _same(lambda coord, name: coord.rlock(name)),
    "read": LockLike(lambda coord, name: coord.rwlock(name).read, rival=_write),
    "write": _same(_write),
    "semaphore": _same(lambda coord, name: coord.semaphore(name, limit=1)),
    "multilock": _same(lambda coord, name: coord.multilock([name, "~"])),
    "cohort": _same(lambda coord, name: coord.cohort_lock(name)),
}


class Visitor(Attempt):
    """An acquire whose own thread releases, too, when it is told to."""

    def __init__(self, lock: Any, **arguments: Any) -> None:
        self._go = threading.Event()
        super().__init__(lock, **arguments)

    def _run(self) -> None:
        super()._run()
        if self.result and self._go.wait(PATIENCE_S):
            try:
                self.lock.release()
            except BaseException as error:
                self.error = error

    def ended(self, within_s: float = PATIENCE_S) -> Visitor:
        """Wait for the acquire to end, either way; the thread lives on."""
        assert self.over.wait(within_s), f"the acquire of {self.lock!r} did not end within {within_s:g} s"
        return self

    def give_back(self) -> None:
        """Release what was acquired."""
        self._go.set()
        self._thread.join()
        assert self.error is None, repr(self.error)


def visit(lock: Any, **arguments: Any) -> Visitor:
    """Let somebody wait on a lock that is held; returns when it does."""
    before = len(lock._waits)
    visitor = Visitor(lock, **arguments)
    wait_until(lambda: len(lock._waits) > before or visitor.over.is_set(), what="joining the line")
    return visitor
