"""What a line listens to: deletions under its prefix, told to its tickets; and the end of single keys."""

from __future__ import annotations

import logging
import threading
import time

from coordkit import attendant as attendants
from coordkit import errors
from coordkit.etcd import watch
from coordkit.session import Link
from coordkit.ticket import Phase, Ticket
from coordkit.wire import channel as channels

LINGER_S = 3.0  # how long the prefix's watch outlives its last waiter

_log = logging.getLogger("coordkit")


class Watched:
    """A prefix that is watched while somebody waits, and the tickets that are told what was deleted there."""

    def __init__(self, link: Link, watched: bytes) -> None:
        self.link = link
        self.watched = watched
        self._lock = threading.Lock()
        self._tickets: dict[bytes, Ticket] = {}  # registered for strikes, by key
        self._feed: Feed | None = None  # the watch on the prefix
        #: The revision from which on the watch has told every deletion; None: it does not stand.
        self._covered_from: int | None = None
        self._used_at_s = time.monotonic()  # the last departure
        self._drop_pending = False

    def _register(self, ticket: Ticket) -> bool:
        """Begin to tell this ticket of deletions.  Before its join is sent: then none is missed.

        Returns whether it is the only one of this process.
        """
        with self._lock:
            alone = not self._tickets
            self._tickets[ticket.key] = ticket
            return alone

    def _guide(self, ticket: Ticket) -> Ticket | None:
        """The predecessor, if it is of this process: then nothing has to be watched.  Under the lock.

        While its key is there it is not our turn.  Its ticket tells us when it is its turn, and of its end.
        """
        guide = self._tickets.get(ticket.predecessors[0])
        # Names come back: it must be older than we are.
        if guide is None or not guide.stands or not 0 < guide.create_revision < ticket.create_revision:
            return None
        guide.followers.append(ticket)
        if guide.phase is Phase.READY:
            ticket.come_near(guide)
        return guide

    def _turn_comes(self, ticket: Ticket) -> None:
        """It is its turn.  Under the lock.

        It waits no more, so that from here on it may hear nothing of its own end: who follows looks after
        itself, and wakes for that unless the watch will tell it all.
        """
        ticket.phase = Phase.READY
        for other in ticket.followers:
            other.come_near(ticket)
            if not self.covers(other.snapshot_revision):
                other.waiter.wake()

    def _next_after(self, ticket: Ticket) -> Ticket | None:
        """Whoever of this process is next behind one whose turn it is, for certain.  Under the lock."""
        nobody_else: tuple[dict[bytes, int], ...] = ({ticket.key: ticket.create_revision}, {})
        for other in (*ticket.followers, *self._tickets.values()):
            if other.phase is Phase.WAITING and other.ahead in nobody_else:
                return other
        return None

    def covers(self, revision: int) -> bool:
        """Whether every deletion since then has been, or will be, told; unless `on_missed` is told first."""
        covered_from = self._covered_from  # no lock: it may be dropped at any moment all the same
        return covered_from is not None and covered_from <= revision

    def listen(self) -> None:
        """Be told of deletions although nobody waits in this line."""
        if self._feed is None:
            self._open_watch()

    def _open_watch(self) -> None:
        feed = Feed(self)
        with self._lock:
            if self._feed is not None:
                return
            self._feed = feed
        feed.watch = self.link.watcher.watch_prefix(self.watched, feed, filters=(watch.NO_PUTS,))

    def _drop_watch(self) -> None:
        """End the watch when nobody needed it for a while."""
        with self._lock:
            unused_s = time.monotonic() - self._used_at_s
            needed = any(not ticket.is_far for ticket in self._tickets.values())
            if needed or unused_s < LINGER_S:
                self.link.attendant.after(max(LINGER_S - unused_s, 1.0), attendants.weakly(self._drop_watch))
                return
            self._drop_pending = False
            dropped = self._stop_listening()
        if dropped is not None:
            dropped.cancel()

    def _rest(self) -> None:
        """Whoever calls is far back: without another ticket here nobody needs to hear of each release."""
        with self._lock:
            if len(self._tickets) > 1 or self._feed is None or self._feed.watch is None:
                return
            dropped = self._stop_listening()
        if dropped is not None:
            dropped.cancel()

    def _stop_listening(self) -> watch.Watch | None:
        """What is to be cancelled then.  Under the lock."""
        feed, self._feed = self._feed, None
        self._covered_from = None
        return feed.watch if feed is not None else None

    def watch_stands(self, feed: Feed, revision: int) -> None:
        """The watch tells what comes after `revision`.

        What another one tells, that was dropped or has not begun, says nothing about what this one covers.
        """
        with self._lock:
            if feed is self._feed and self._covered_from is None:
                self._covered_from = revision
            self._wake_all()

    def strike(self, events: list[watch.Event]) -> None:
        """Keys of the line were deleted."""
        with self._lock:
            tickets = list(self._tickets.values())
            for event in events:
                for ticket in tickets:
                    # Looked at for each event: the one before may have brought it near.
                    if not ticket.is_far or ticket.key == event.key:
                        self._tell(ticket, event)

    def _tell(self, ticket: Ticket, event: watch.Event) -> None:
        """One deletion to one ticket.  Under the lock."""
        ticket.strike(event.key, event.mod_revision)

    def watch_missed(self, feed: Feed) -> None:
        """Deletions may have been missed: a new watch, and everybody reads again."""
        with self._lock:
            if feed is self._feed:
                self._feed = None
                self._covered_from = None
            self._wake_all()
            for ticket in self._tickets.values():
                if ticket.on_missed is not None:
                    ticket.on_missed()

    def _wake_all(self) -> None:
        for ticket in self._tickets.values():
            ticket.waiter.wake()

    def _forget(self, ticket: Ticket) -> None:
        """Tell the ticket nothing more."""
        with self._lock:
            self._tickets.pop(ticket.key, None)
            ticket.phase = Phase.LEFT
            ticket.tell_followers()
            ticket.on_gone = ticket.on_missed = None
            if self._feed is not None and not self._drop_pending:
                self._drop_pending = True
                self.link.attendant.after(LINGER_S, attendants.weakly(self._drop_watch))
            self._used_at_s = time.monotonic()


class Feed:
    """One watch on a line's prefix."""

    def __init__(self, line: Watched) -> None:
        self._line = line
        self.watch: watch.Watch | None = None

    def on_created(self, revision: int) -> None:
        self._line.watch_stands(self, revision)

    def on_events(self, events: list[watch.Event]) -> None:
        self._line.strike(events)

    def on_gap(self, compacted: int) -> None:
        self._line.watch_missed(self)

    def on_refused(self, error: errors.CoordError) -> None:
        """Without a watch there are only the safety reads."""
        _log.warning("the line %r cannot be watched: %s", self._line.watched, error)


class End:
    """Watches one key for its deletion."""

    def __init__(self, waiter: channels.Waiter) -> None:
        self._waiter = waiter
        self.created_revision = 0  # from when on a deletion is told; 0: not yet
        self.over = False

    def on_created(self, revision: int) -> None:
        self.created_revision = self.created_revision or revision
        self._waiter.wake()

    def on_events(self, events: list[watch.Event]) -> None:
        self._end()

    def on_gap(self, compacted: int) -> None:
        self._end()

    def on_refused(self, error: errors.CoordError) -> None:
        _log.warning("a line cannot be watched: %s", error)

    def _end(self) -> None:
        self.over = True
        self._waiter.wake()
