"""The parts that a contender can play: one primitive each, taken and given back through the public API.

`PARTS` has them by name.  A part is used by one thread; what it was told last stands in its attributes.

Cost: a few attributes a cycle.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Any

import attrs

from coordkit import errors
from coordkit.testing.history import Kind


@attrs.frozen
class Setting:
    """What a part is made of."""

    coord: Any
    name: str
    label: str
    contenders: int
    limit: int = 1  # of a semaphore
    write_every: int = 10  # of a reader-writer lock: one of so many holds is a writer's
    shared: dict[str, Any] = attrs.Factory(dict)  # by all parts of a process


class Part:
    """One contender's side of a primitive."""

    kinds: tuple[Kind, Kind] = (Kind.ACQUIRE, Kind.RELEASE)
    releases = True  # False: it is a single call, and nothing is held
    name = ""  # in histories, where a checker must tell several of one kind apart
    fence: int | None = None
    number: int | None = None
    released_revision: int | None = None
    subject = ""

    def begin(self, number: int) -> None:
        """A round begins."""

    def acquire(self, timeout: float) -> bool:
        """Take it, or do it; False when the round is over for all.

        Raises:
            AcquireTimeout, and what the primitive raises.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Give it back."""

    def end(self) -> None:
        """This contender's round is over."""


class Lock(Part):
    """Whatever has `acquire`, `release`, `fence` and `released_revision`."""

    def __init__(self, lock: Any) -> None:
        self._lock = lock

    def acquire(self, timeout: float) -> bool:
        if not self._lock.acquire(timeout=timeout):
            raise errors.AcquireTimeout(f"no grant within {timeout:.0f} s")
        self.fence = self._lock.fence
        return True

    def release(self) -> None:
        self._lock.release()
        self.released_revision = self._lock.released_revision


class Cohort(Lock):
    """A lock whose holders in one process share its fence, and have a number each."""

    def acquire(self, timeout: float) -> bool:
        super().acquire(timeout)
        self.number = self._lock.handoff
        return True


class ReaderWriter(Part):
    """Reads; one of so many holds writes."""

    def __init__(self, setting: Setting) -> None:
        lock = setting.coord.rwlock(setting.name)
        self._sides = {"read": Lock(lock.read), "write": Lock(lock.write)}
        self._every = setting.write_every
        # Not all at once: each begins elsewhere in its sequence.
        self._holds = int(setting.label) if setting.label.isdecimal() else 0

    def acquire(self, timeout: float) -> bool:
        self._holds += 1
        self.subject = "read" if self._holds % self._every else "write"
        self._sides[self.subject].acquire(timeout)
        self.fence = self._sides[self.subject].fence
        return True

    def release(self) -> None:
        self._sides[self.subject].release()
        self.released_revision = self._sides[self.subject].released_revision


class Election(Part):
    """Campaigns, and resigns."""

    kinds = (Kind.CAMPAIGN, Kind.RESIGN)

    def __init__(self, setting: Setting) -> None:
        self._election = setting.coord.election(setting.name)
        self._leadership: Any = None
        self.subject = setting.label

    def acquire(self, timeout: float) -> bool:
        self._leadership = self._election.campaign(self.subject, timeout=timeout)
        self.fence = self._leadership.fence
        return True

    def release(self) -> None:
        self._leadership.resign()
        self.released_revision = self._leadership.resigned_revision


class Barrier(Part):
    """Waits for all, again and again; whoever sees the end of the round breaks what comes after it."""

    kinds = (Kind.WAIT, Kind.WAIT)
    releases = False

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._barrier: Any = None

    def begin(self, number: int) -> None:
        self.name = f"{self._setting.name}-{number}"
        self._barrier = self._setting.coord.barrier(self.name, self._setting.contenders)

    def acquire(self, timeout: float) -> bool:
        try:
            self.number = self._barrier.wait(timeout=timeout)
        except errors.BrokenBarrier:
            return False
        finally:
            self.subject = str(self._barrier.generation or "")
        return True

    def end(self) -> None:
        self._barrier.abort()


class Counter(Part):
    """Adds one."""

    kinds = (Kind.ADD, Kind.ADD)
    releases = False
    number = 1

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._counter: Any = None

    def begin(self, number: int) -> None:
        self.name = f"{self._setting.name}-{number}"
        self._counter = self._setting.coord.counter(self.name)

    def acquire(self, timeout: float) -> bool:
        self.subject = str(self._counter.add(1, timeout=timeout))
        return True


class Session(Part):
    """Opens a session of its own, and closes it."""

    def __init__(self, setting: Setting) -> None:
        self._coord = setting.coord
        self._session: Any = None
        self.name = setting.label

    def acquire(self, timeout: float) -> bool:
        self._session = self._coord.new_session()
        self.fence = self._session.lease_id
        return True

    def release(self) -> None:
        self._session.close()


class Baton(Part):
    """A FIFO mutex among the threads of a process: no etcd.  What a cohort's hand-over is compared with."""

    def __init__(self, setting: Setting) -> None:
        self._baton = setting.shared.setdefault("baton", _Baton())

    def acquire(self, timeout: float) -> bool:
        self.fence = self._baton.take(timeout)
        return True

    def release(self) -> None:
        self._baton.hand_on()


class _Baton:
    """Handed from thread to thread, in the order in which they asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queue: collections.deque[threading.Lock] = collections.deque()
        self._taken = False
        self._holds = 0

    def take(self, timeout: float) -> int:
        with self._lock:
            mine = None
            if self._taken:
                mine = threading.Lock()
                mine.acquire()
                self._queue.append(mine)
            self._taken = True
        if mine is not None and not mine.acquire(timeout=timeout):
            raise errors.AcquireTimeout(f"no baton within {timeout:.0f} s")
        self._holds += 1
        return self._holds

    def hand_on(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False


PARTS: dict[str, Callable[[Setting], Part]] = {
    "lock": lambda setting: Lock(setting.coord.lock(setting.name)),
    "rwlock": ReaderWriter,
    "semaphore": lambda setting: Lock(setting.coord.semaphore(setting.name, setting.limit)),
    "cohort": lambda setting: Cohort(setting.coord.cohort_lock(setting.name)),
    "election": Election,
    "barrier": Barrier,
    "counter": Counter,
    "session": Session,
    "baton": Baton,
}
