"""The lock-likes that a coordinator offers: each hangs on its current session."""

from __future__ import annotations

import functools
import typing

from coordkit.deadline import Deadline
from coordkit.recipes import cohort as cohorts
from coordkit.recipes import hold as holds
from coordkit.recipes import lock as locks
from coordkit.recipes import multilock as multilocks
from coordkit.recipes import rlock as rlocks
from coordkit.recipes import rwlock as rwlocks
from coordkit.recipes import semaphore as semaphores
from coordkit.session import Session

P = typing.ParamSpec("P")
R = typing.TypeVar("R")


class Locking:
    """The part of a coordinator that makes them.  Making one costs nothing: no I/O until it is used."""

    def _session_by(self, deadline: Deadline) -> Session:
        raise NotImplementedError

    def lock(self, name: str) -> locks.Lock:
        """A fair lock.  Cost: none until it is used."""
        return locks.Lock(self._session_by, name)

    def rlock(self, name: str) -> rlocks.RLock:
        """The same lock as `lock`, which each thread or greenlet may acquire again while it holds it.

        Cost: none until it is used.
        """
        return rlocks.RLock(self._session_by, name)

    def rwlock(self, name: str) -> rwlocks.RWLock:
        """Two sides: `read`, for many at once, and `write`, for one alone.  Cost: none until it is used."""
        return rwlocks.RWLock(self._session_by, name)

    def semaphore(self, name: str, limit: int | None = None) -> semaphores.Semaphore:
        """At most so many holders at once.

        Args:
            name: Of the semaphore.
            limit: How many.  The first who acquires sets it; who names another is refused with LimitMismatch.
                None takes what was set.

        Cost: none until it is used.
        """
        return semaphores.Semaphore(self._session_by, name, limit)

    def multilock(self, names: typing.Iterable[str]) -> multilocks.MultiLock:
        """Several locks as one: all or none, and no deadlock.  Cost: none until it is used."""
        return multilocks.MultiLock(self._session_by, names)

    def cohort_lock(self, name: str) -> cohorts.CohortLock:
        """The same lock as `lock`, for many threads of one process: they hand it on among themselves.

        After 64 times at most others have their turn.  Cost: none until it is used.
        """
        return cohorts.CohortLock(self._session_by, name)

    def exclusive(
        self, name: str, timeout: float = -1
    ) -> typing.Callable[[typing.Callable[P, R]], typing.Callable[P, R]]:
        """A decorator: calls of the function run one at a time, in all processes, under that lock.

        Args:
            name: Of the lock.
            timeout: Seconds for which a call waits for its turn; -1 waits for ever.

        Raises, from each call:
            AcquireTimeout: It was not called.
            LockLost: It was called, and the lock was lost before it returned.

        Cost: that of a lock, for each call.
        """
        lock = self.rlock(name)  # a call may lead to another of the same
        Deadline.after(timeout)  # refuses silly numbers here, not at the first call

        def decorate(function: typing.Callable[P, R]) -> typing.Callable[P, R]:
            holds.check_callable(function)

            @functools.wraps(function)
            def alone(*args: P.args, **kwargs: P.kwargs) -> R:
                with lock.within(timeout):
                    return function(*args, **kwargs)

            return alone

        return decorate
