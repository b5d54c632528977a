"""One watch whose events are taken one at a time, by somebody who may be slow.

The shared stream is always read: events wait here, so many and no more.  When there is no more room the watch
alone is cancelled, and its owner is told from where to go on; nobody else's watch is held up.

Invariant: what is buffered is every event from where the watch began, without a gap, up to `next_revision`.
"""

from __future__ import annotations

import collections
import enum
import threading
import typing

from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv, watch
from coordkit.wire import channel as channels
from coordkit.wire import messages

#: However few there are: large values fill memory, too.
MOST_BUFFERED_BYTES = 16 * 2**20


class Bell:
    """Wakes whoever waits for news, in as many threads as there are."""

    def __init__(self, client: clients.Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._waiters: dict[channels.Waiter, None] = {}
        self._rung = 0

    @property
    def rung(self) -> int:
        """How often it has rung: remember it before you look, and wait only if nothing was there."""
        return self._rung

    def ring(self) -> None:
        """There is news.  Quick: it may run on a reader."""
        with self._lock:
            self._rung += 1
            for waiter in self._waiters:
                waiter.wake()

    def wait(self, rung: int, deadline: Deadline) -> None:
        """Sleep until it has rung more often than that; no longer than the deadline says.

        Raises:
            Closed: The client was closed.
        """
        waiter = channels.Waiter()
        with self._lock:
            if self._rung != rung:
                return
            self._waiters[waiter] = None
        try:
            self._client.wait(waiter, deadline)
        finally:
            with self._lock:
                self._waiters.pop(waiter, None)


def read_key(client: clients.Client, key: bytes, deadline: Deadline, revision: int = 0) -> kv.KeyValue | None:
    """One key, as it is, or as it was at a revision; repeated through outages until the time is up.

    Plain reads, here and below, not transactions that only read: one whose client goes away while it runs
    ends the whole server, up to etcd 3.4.20 and 3.5.4 (its issue 14110).

    Raises:
        Gap: That revision was compacted.
        Unavailable, DeadlineExceeded: The time is up.
    """
    reply = client.read(messages.RangeRequest(key=key, revision=revision), deadline)
    return kv.KeyValue.of(reply.kvs[0]) if reply.kvs else None


def read_range(
    client: clients.Client, start: bytes, end: bytes, limit: int, deadline: Deadline, keys_only: bool = False
) -> tuple[kv.RangeResult, int]:
    """The first keys of a range, in their order, and the revision at which it was so; repeated, too."""
    request = messages.RangeRequest(key=start, range_end=end, limit=limit, keys_only=keys_only)
    reply = client.read(request, deadline)
    return kv.range_result(reply), reply.header.revision


class Phase(enum.Enum):
    """Of the watch behind it."""

    # CLOSED: there is none, for good or for now.
    CLOSED = 1
    # OPENING: asked for; it does not stand yet.
    OPENING = 2
    # OPEN: every event after `created_revision` comes in.
    OPEN = 3
    # CUT: there was no room; everything from `next_revision` on is still in etcd only.
    CUT = 4
    # GAP: history up to `compacted` is gone, and so is the watch.
    GAP = 5
    # REFUSED: etcd does not want it; `error` says why.
    REFUSED = 6


class Intake:
    """At most one watch at a time, and what it has told."""

    def __init__(
        self, watcher: watch.Watcher, prefix: bytes, room: int, on_news: typing.Callable[[], None]
    ) -> None:
        """Args:
        watcher: Whose stream to share.
        prefix: Puts of keys under it are told; deletions are not.
        room: For how many events.  One batch of etcd's may go beyond it.
        on_news: Called when there is something to look at; quick.
        """
        self._watcher = watcher
        self._prefix = prefix
        self._room = room
        self._on_news = on_news
        self._lock = threading.Lock()
        self._events: collections.deque[watch.Event] = collections.deque()
        self._size_bytes = 0
        self._feed: _Feed | None = None
        self._shut = False
        self.phase = Phase.CLOSED
        self.created_revision = 0
        self.next_revision = 0
        self.compacted = 0
        self.error: errors.CoordError | None = None

    def __len__(self) -> int:
        return len(self._events)

    @property
    def roomy(self) -> bool:
        """Whether at least half of the room is free."""
        return len(self._events) * 2 <= self._room and self._size_bytes * 2 <= MOST_BUFFERED_BYTES

    def open(self, start_revision: int = 0) -> None:
        """Begin a watch; what is buffered stays.

        Args:
            start_revision: The first that is told; 0 for what comes after `created_revision`.
        """
        feed = _Feed(self)
        with self._lock:
            if self._shut:
                return
            self._feed, self.phase, self.error = feed, Phase.OPENING, None
            self.created_revision, self.next_revision = 0, start_revision
        # Outside of the lock: the watcher holds its own one while it tells us of events.
        feed.watch = self._watcher.watch_prefix(
            self._prefix, feed, start_revision=start_revision, filters=(watch.NO_DELETES,)
        )
        if self._feed is not feed:
            feed.watch.cancel()  # closed, or full, before it was known here

    def close(self) -> None:
        """End the watch, and forget what was not taken."""
        with self._lock:
            feed, self._feed = self._feed, None
            self.phase = Phase.CLOSED
            self._events.clear()
            self._size_bytes = 0
        if feed is not None and feed.watch is not None:
            feed.watch.cancel()

    def shut(self) -> None:
        """The same, for good: whoever opens it now comes too late."""
        self._shut = True
        self.close()

    def take(self) -> watch.Event | None:
        """The next event; None when none has come."""
        with self._lock:
            if not self._events:
                return None
            event = self._events.popleft()
            self._size_bytes -= len(event.value)
            return event

    # What its watch says.  Under the watcher's lock.

    def stands(self, feed: _Feed, revision: int) -> None:
        """It stands; told again after each resumption."""
        with self._lock:
            if feed is self._feed and self.phase is Phase.OPENING:
                self.phase, self.created_revision = Phase.OPEN, revision
                self.next_revision = self.next_revision or revision + 1
                self._on_news()

    def put(self, feed: _Feed, events: list[watch.Event]) -> None:
        """Changes, in order."""
        with self._lock:
            if feed is not self._feed:
                return
            self._events.extend(events)
            self._size_bytes += sum(len(event.value) for event in events)
            self.next_revision = events[-1].mod_revision + 1
            full = len(self._events) > self._room or self._size_bytes > MOST_BUFFERED_BYTES
            if full:
                self.phase, self._feed = Phase.CUT, None
            self._on_news()
        if full and feed.watch is not None:
            feed.watch.cancel()

    def end(
        self, feed: _Feed, phase: Phase, compacted: int = 0, error: errors.CoordError | None = None
    ) -> None:
        """The watch is no more."""
        with self._lock:
            if feed is self._feed:
                self._feed, self.phase, self.compacted, self.error = None, phase, compacted, error
                self._on_news()


class _Feed:
    """The listener of one watch: what an older one still tells is not heard."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.watch: watch.Watch | None = None

    def on_created(self, revision: int) -> None:
        self._intake.stands(self, revision)

    def on_events(self, events: list[watch.Event]) -> None:
        self._intake.put(self, events)

    def on_gap(self, compacted: int) -> None:
        self._intake.end(self, Phase.GAP, compacted)

    def on_refused(self, error: errors.CoordError) -> None:
        self._intake.end(self, Phase.REFUSED, error=error)
