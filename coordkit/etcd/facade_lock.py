"""A lock of ours with the interface of etcd3's.

etcd3's own raises TypeError when it is contended, grants a lease for every attempt and forgets it, and its
`with` goes on without the lock when the time ran out.  This one stands in line, first come, first served, is
renewed as long as the process lives, and says when it was lost.
"""

from __future__ import annotations

import types
import typing

import etcd3
from etcd3 import exceptions, leases

from coordkit import errors

WITH_S = 10  # etcd3's default, also for `with`

P = typing.ParamSpec("P")
R = typing.TypeVar("R")


class Ours(typing.Protocol):
    """What a lock must have to be offered here."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Stand in line; -1 waits for ever."""

    def release(self) -> None:
        """Give it up; raises when there is nothing to give up."""

    def check(self) -> None:
        """Raise unless it is certainly held."""

    @property
    def held(self) -> bool:
        """Whether it is held."""

    @property
    def key(self) -> bytes:
        """The key that stands for the hold."""

    @property
    def fence(self) -> int:
        """The fencing token."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Give it up at the end of a `with` block."""


def _translated(method: typing.Callable[P, R]) -> typing.Callable[P, R]:
    """With etcd3's exceptions for a server that does not answer."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except errors.DeadlineExceeded as error:
            raise exceptions.ConnectionTimeoutError() from error
        except errors.Unavailable as error:
            raise exceptions.ConnectionFailedError() from error

    call.__doc__ = method.__doc__
    return call


class Lock(etcd3.Lock):  # type: ignore[misc]  # etcd3 has no types
    """A fair lock under etcd3's names.

    Attributes:
        ours: The lock itself, for what etcd3's interface does not have: `lost`, `remaining()`, `guard()`...
    """

    def __init__(self, name: str, ttl: float, etcd_client: typing.Any, ours: Ours) -> None:
        # Not the base's: it makes a key of its own.
        self.name = name
        self.ttl = ttl
        self.etcd_client = etcd_client
        self.ours = ours
        self._last_key = b""

    @_translated
    def acquire(self, timeout: float | None = WITH_S) -> bool:
        """Stand in line for so many seconds; None waits for ever, 0 tries once.

        Raises:
            SessionLost: Not held.
        """
        acquired = self.ours.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        if acquired:
            self._last_key = self.ours.key
        return acquired

    @_translated
    def release(self) -> bool:
        """Give it up; False when it was not held, or was lost."""
        try:
            self.ours.release()
        except (errors.NotHeld, errors.LockLost):
            return False
        return True

    @_translated
    def refresh(self) -> list[typing.Any]:
        """Renew the lease at once; without a call it is renewed in the background.

        Raises:
            ValueError: It was not acquired.
            LockLost: It was lost.
        """
        lease = self.lease
        if lease is None:
            raise ValueError("No lease associated with this lock - have you acquired the lock yet?")
        self.ours.check()
        return list(lease.refresh())

    def is_acquired(self) -> bool:
        """Whether this object holds it, as far as is known here.  No I/O."""
        return self.ours.held

    @property
    def key(self) -> bytes:
        """The key that stands for the hold, or stood for the last one; empty before the first."""
        return self._last_key

    @property
    def lease(self) -> leases.Lease | None:
        """The lease of the hold; None when it is not held.  Locks of the same TTL share it: do not revoke."""
        if not self.ours.held:
            return None
        _, found = self.etcd_client.get(self.ours.key)
        return found and leases.Lease(found.lease_id, self.ttl, self.etcd_client)

    @property
    def fence(self) -> int:
        """The fencing token; raises NotHeld."""
        return self.ours.fence

    def __enter__(self) -> Lock:
        """Wait for 10 seconds.

        Raises:
            AcquireTimeout: It is another's still; etcd3's own goes on without the lock.
        """
        if not self.acquire(WITH_S):
            raise errors.AcquireTimeout(f"lock {self.name!r} was not acquired within {WITH_S} s")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        """Give it up.

        Raises:
            LockLost: It was lost within the block; an exception that comes out of it gets a note instead.
        """
        self.ours.__exit__(kind, error, trace)
