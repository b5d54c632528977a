"""Attention: what one caller sees of a prefix that is followed, view by view.  See `vigil.py`."""

from __future__ import annotations

import collections
import threading
import typing

import attrs

from coordkit.calls import Call
from coordkit.deadline import Deadline
from coordkit.etcd import kv, watch
from coordkit.session import Session

MOST_KEPT = 1_000  # views that nobody has waited for yet

T = typing.TypeVar("T")


@attrs.frozen
class View:
    """What was under the prefix at one revision."""

    revision: int
    kvs: typing.Mapping[bytes, kv.KeyValue] = attrs.field(repr=False)

    def after(self, events: typing.Iterable[watch.Event], revision: int) -> View:
        """The view that these events lead to.  What is older than the view is in it already."""
        kvs = dict(self.kvs)
        for event in events:
            if event.mod_revision <= self.revision:
                continue
            if event.deleted:
                kvs.pop(event.key, None)
            else:
                kvs[event.key] = kv.KeyValue(
                    event.key, event.value, event.create_revision, event.mod_revision, 0, event.lease
                )
        return View(max(self.revision, revision), kvs)


def by_revision(events: list[watch.Event]) -> typing.Iterator[tuple[int, list[watch.Event]]]:
    """Events in order, those of one revision together."""
    changes: list[watch.Event] = []
    for event in events:
        if changes and event.mod_revision != changes[0].mod_revision:
            yield changes[0].mod_revision, changes
            changes = []
        changes.append(event)
    if changes:
        yield changes[0].mod_revision, changes


class Followed(typing.Protocol):
    """A vigil, as those see it who follow it."""

    lock: threading.Lock

    def sleep(self, call: Call, deadline: Deadline) -> None:
        """Until something may have changed."""


class Attention:
    """Somebody follows a vigil.  Made by `Vigil.attend`.

    What is shown while nobody waits is kept for the next wait: from its beginning on nothing is missed.
    """

    def __init__(self, followed: Followed, call: Call) -> None:
        self.call = call
        self._followed = followed
        self._kept: collections.deque[View] = collections.deque(maxlen=MOST_KEPT)
        self._test: typing.Callable[[View], object] | None = None
        self._at_least = 0
        self._result: object = None
        self._failure: BaseException | None = None

    def offer(self, view: View) -> None:
        """Look at a view; under the vigil's lock, perhaps on a reader."""
        if self._test is None or self._result is not None or self._failure is not None:
            self._kept.append(view)
            return
        if view.revision < self._at_least:
            return
        try:
            self._result = self._test(view)
        except Exception as failure:  # it belongs to who waits, not to the reader
            self._failure = failure
        if self._result is not None or self._failure is not None:
            self.call.waiter.wake()

    def wait(
        self,
        test: typing.Callable[[View], T | None],
        deadline: Deadline,
        *,
        at_least: int = 0,
        session: Session | None = None,
    ) -> T | None:
        """Wait until `test` makes something of what is there.

        Args:
            test: Gets each view in turn, and gives None to wait on.  Pure and quick: it runs on readers.
            deadline: Outages are waited out until then.
            at_least: Views older than this revision are not looked at.
            session: Ends the wait when it ends.

        Returns:
            What `test` gave; None when the time ran out.

        Raises:
            Cancelled: By `call.cancel()`.
            SessionLost, Closed: The session, or the connection, ended.
            Rejected: etcd does not let us watch.

        Cost: nothing while another one of this process keeps the watch alive; else 1 message and 1 read.
        """
        call = self.call
        if session is not None:
            session.enlist(call.waiter)
        try:
            self._begin(test, at_least)
            while True:
                call.waiter.done = False
                if self._failure is not None:
                    raise self._failure
                if self._result is not None:
                    return typing.cast(T, self._result)
                call.check()
                if session is not None:
                    session.check()
                if deadline.expired:
                    return None
                self._followed.sleep(call, deadline)
        finally:
            with self._followed.lock:
                self._test = None
            if session is not None:
                session.delist(call.waiter)

    def _begin(self, test: typing.Callable[[View], object], at_least: int) -> None:
        with self._followed.lock:
            self._test, self._at_least = test, at_least
            self._result = self._failure = None
            kept = list(self._kept)
            self._kept.clear()
            for view in kept:
                self.offer(view)
