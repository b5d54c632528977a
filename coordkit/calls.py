"""Blocking calls of a user's, which `cancel` ends from elsewhere in the program."""

from __future__ import annotations

import contextlib
import threading
import typing

from coordkit import errors
from coordkit.wire import channel as channels


class Call:
    """One blocking call of a user's, from its beginning to its end; `cancel` may come at any time."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.waiter = channels.Waiter()
        self.cancelled = False
        self._wake: typing.Callable[[], None] = self.waiter.wake

    def cancel(self) -> None:
        """Let it end with Cancelled, at its next wait."""
        self.cancelled = True
        self._wake()

    def waits_on(self, wake: typing.Callable[[], None]) -> None:
        """It waits for something else than its waiter, which `wake` ends; at once if it was cancelled."""
        # Set before the flag is looked at, as the flag is set before this is: one of the two sees the other.
        self._wake = wake
        if self.cancelled:
            wake()

    def check(self) -> None:
        """Raise Cancelled if it was."""
        if self.cancelled:
            raise errors.Cancelled(f"{self.what} was cancelled")


class Calls:
    """The blocking calls on one object, which its `cancel` ends together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[Call] = set()

    @contextlib.contextmanager
    def begin(self, what: str) -> typing.Iterator[Call]:
        """For as long as a call lasts."""
        call = Call(what)
        with self._lock:
            self._calls.add(call)
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    def cancel(self) -> None:
        """End them all."""
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call.cancel()
