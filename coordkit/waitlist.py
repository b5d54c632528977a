"""The line: contenders stand in the order of their keys' create revisions.

A key `<prefix><lease>-<nonce>`, leased, is a place in line.  Any key under the prefix counts, so Go's
`concurrency.Mutex`, its `Election`, and `etcdctl lock` stand in the same line.  The place never changes:
revisions only grow, so nobody can ever come to stand before a key that exists.  Names come back (ours when
their last use ended beyond doubt, Go's always), so a deletion counts only against keys older than itself.

What may grant (the rule that everything here serves): one *snapshot* of the line that contains my own key,
cut down to the keys older than mine, and from then on only *strikes*: deletions that a watch reports which
stands at a revision no newer than the snapshot's, so that none can be missed.

Near the front (everybody before me is known) a ticket strikes off what the process's one watch on the prefix
reports, and reads nothing.  Far back it watches its predecessor alone.  So a release wakes at most
`WINDOW` waiters, however long the line is.

Source: Hunt et al., ZooKeeper (USENIX ATC 2010), section 2.4; etcd's client/v3/concurrency/key.go.
Cost: join 1 commit; a hand-over 1 event; leave and release 1 commit.
"""

from __future__ import annotations

import logging
import threading
import time
import typing
import weakref

from coordkit import attendant as attendants
from coordkit import errors, keys, linewatch
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv, watch
from coordkit.session import Link, Session
from coordkit.ticket import Contender, Phase, Ticket, contender, describe

WINDOW = 16  # how many before me are watched one by one
LINGER_S = 3.0  # how long the prefix's watch outlives its last waiter
RETRY_S = 0.2

_log = logging.getLogger("coordkit")

T = typing.TypeVar("T")


class Line:
    """A prefix, as one process sees it: its local tickets, and the watch that they share."""

    def __init__(self, link: Link, prefix: bytes) -> None:
        self.link = link
        self.prefix = prefix
        self._newest = kv.range(prefix, keys_only=True, newest_first=True, limit=WINDOW + 1)
        self._oldest = kv.range(prefix, keys_only=True, oldest_first=True, limit=1)
        self._lock = threading.Lock()
        self._tickets: dict[bytes, Ticket] = {}  # registered for strikes, by key
        self._feed: linewatch.Feed | None = None  # the watch on the prefix
        #: The revision from which on the watch has told every deletion; None: it does not stand.
        self._covered_from: int | None = None
        self._read_at_s = self._used_at_s = time.monotonic()  # the last safety read; the last departure
        self._drop_pending = False

    # Joining.

    def join(self, session: Session, deadline: Deadline, value: bytes | None = None) -> Ticket:
        """Take a place in line.

        Args:
            session: Whose life the place hangs on.
            deadline: For the caller.
            value: What the key holds; by default who waits, and since when.

        Raises:
            SessionLost, Unavailable, DeadlineExceeded, Rejected: No place is kept.

        Cost: 1 commit.
        """
        ticket = Ticket(session, self.prefix)
        alone = self._register(ticket)
        try:
            created = session.create(
                ticket.key,
                describe(session) if value is None else value,
                deadline,
                [],
                # Here, and only here, the newest key is mine, and the others are those before me.
                [self._newest],
                # Two joins of one line must not share a revision; joins of different lines may.
                together=alone,
            )
            assert created is not None
            with self._lock:
                ticket.created(created)
                if created.result is not None and ticket.phase is Phase.JOINING:
                    ticket.phase = Phase.WAITING
                    ticket.take(created.result.found(1), created.result.revision)
                    self._settle(ticket)
            if ticket.phase is Phase.JOINING:
                self._read(ticket, deadline)  # the reply was lost: others may have joined behind us since
        except BaseException:
            self.leave(ticket)
            raise
        return ticket

    def try_join(self, session: Session, deadline: Deadline, value: bytes | None = None) -> Ticket | None:
        """Take the first place, or none; the arguments are those of `join`.

        Cost: 1 commit, or 1 transaction that writes nothing when the line is not empty.
        """
        ticket = Ticket(session, self.prefix)
        empty = kv.create(self.prefix, keys.range_end(self.prefix)) == 0
        stored = describe(session) if value is None else value
        created = session.create(ticket.key, stored, deadline, [empty], [])
        if created is None:
            return None
        ticket.created(created)
        ticket.phase = Phase.READY  # nobody was there at our create revision
        return ticket

    # Waiting.

    def await_turn(self, ticket: Ticket, deadline: Deadline) -> bool:
        """Wait until nobody older stands in line.

        Returns:
            True when it is our turn; False when the time ran out, with the place still kept.

        Raises:
            SessionLost: The session ended.
            Cancelled: By `cancel`.
            LockLost: Our key was deleted by somebody else: join again.
        """
        session = ticket.session
        if self._is_turn(ticket):
            return True
        session.enlist(ticket.waiter)
        try:
            while True:
                ticket.waiter.done = False
                session.check()
                if ticket.phase is Phase.GONE:
                    raise errors.LockLost(
                        f"our key {ticket.key!r} was deleted while it stood in line", "watch"
                    )
                if self._is_turn(ticket):
                    return True
                if ticket.cancelled:
                    raise errors.Cancelled(f"the wait in {self.prefix!r} was cancelled")
                if deadline.expired:
                    return False
                self._wait(ticket, deadline)
        finally:
            session.delist(ticket.waiter)

    def _is_turn(self, ticket: Ticket) -> bool:
        with self._lock:
            self._settle(ticket)
            # The last word is the clock's: READY is worth nothing to a session that may be over.
            return ticket.phase is Phase.READY and ticket.session.remaining() > 0

    def _settle(self, ticket: Ticket) -> None:
        """Nobody is left of those before us: READY, unless our own deletion may have been missed."""
        if ticket.phase is not Phase.WAITING or ticket.ahead is None or ticket.ahead:
            return
        if self._is_covered(ticket):
            ticket.phase = Phase.READY

    def _is_covered(self, ticket: Ticket) -> bool:
        """Whether every deletion since the ticket's snapshot has been, or will be, told."""
        if not ticket.predecessor:
            return True  # the snapshot itself shows nobody before us: no strike was needed
        return self._covered_from is not None and self._covered_from <= ticket.snapshot_revision

    def _wait(self, ticket: Ticket, deadline: Deadline) -> None:
        """Sleep until something may have changed; open what must be watched; read what cannot be known."""
        if ticket.ahead is None:
            self._wait_far(ticket, deadline)
            return
        if ticket.phase is Phase.JOINING:
            self._read(ticket, deadline)  # the read behind a lost reply failed, too
            return
        with self._lock:
            watched, stands = self._feed is not None, self._covered_from is not None
            covered = self._is_covered(ticket)
        if not watched:
            self._open_watch()
        elif stands and not covered:
            # The watch began after our snapshot was taken: what was deleted in between is told by nobody.
            self._read(ticket, deadline)
        else:
            ticket.session.client.wait(ticket.waiter, deadline.sooner(ticket.session.ttl_s))
            if not ticket.waiter.done and self._is_read_due(ticket):
                self._read(ticket, deadline)

    def _is_read_due(self, ticket: Ticket) -> bool:
        """Whether it is for this ticket to make the safety read: old servers lose events."""
        with self._lock:
            now = time.monotonic()
            oldest = min(
                (other.create_revision for other in self._tickets.values() if other.phase is Phase.WAITING),
                default=0,
            )
            due = now - self._read_at_s >= ticket.session.ttl_s and oldest == ticket.create_revision
            if due:
                self._read_at_s = now
            return due

    def _read(self, ticket: Ticket, deadline: Deadline) -> None:
        """Take a new snapshot.  It must show our own key, and be no older than what was known when asked.

        Cost: 1 round trip.
        """
        client = ticket.session.client
        with self._lock:
            floor = max(ticket.create_revision, client.seen_revision)
            ticket.struck = {}
        request = kv.range_request(
            self.prefix,
            keys_only=True,
            newest_first=True,
            limit=WINDOW + 1,
            max_create_revision=ticket.create_revision,
        )
        try:
            reply = client.read(request, deadline.sooner(max(0.1, ticket.session.remaining())))
        except (errors.Unavailable, errors.DeadlineExceeded):
            ticket.struck = None
            client.wait(ticket.waiter, deadline.sooner(RETRY_S))  # the place is kept: ask again
            return
        if reply.header.revision < floor:
            client.drop_channel(f"a member at revision {reply.header.revision} is behind {floor}")
            client.wait(ticket.waiter, deadline.sooner(RETRY_S))  # where there is no other member
            return
        found = kv.range_result(reply)
        with self._lock:
            if ticket.phase not in (Phase.JOINING, Phase.WAITING):
                return
            if not found.kvs or found.kvs[0].key != ticket.key:
                ticket.phase = Phase.GONE
                return
            ticket.phase = Phase.WAITING
            ticket.take(found, reply.header.revision)
            self._settle(ticket)

    # Far back.

    def _wait_far(self, ticket: Ticket, deadline: Deadline) -> None:
        """Wait until the predecessor, or our own key, goes; then read again."""
        self._unregister(ticket)
        predecessor = ticket.predecessor
        ends = [linewatch.End(ticket.waiter) for _ in range(2)]
        watches = [
            self.link.watcher.watch(key, end, filters=(watch.NO_PUTS,))
            for key, end in zip((predecessor, ticket.key), ends, strict=True)
        ]
        limit = deadline.sooner(ticket.session.ttl_s)
        try:
            while not ticket.cancelled and not limit.expired and not any(end.over for end in ends):
                ticket.waiter.done = False
                ticket.session.check()
                if any(end.created_revision > ticket.snapshot_revision for end in ends):
                    # As above: deletions between the snapshot and the watches are told by nobody.
                    self._read(ticket, deadline)
                    if ticket.predecessor != predecessor or ticket.phase is not Phase.WAITING:
                        break
                elif not any(end.over for end in ends):
                    ticket.session.client.wait(ticket.waiter, limit)
        finally:
            for each in watches:
                each.cancel()
        if ticket.phase is Phase.WAITING and not deadline.expired and not ticket.cancelled:
            # Strikes, our own among them, were told to nobody since we left the register: what a read showed
            # since then is worth nothing without another one, made when we are registered again.
            ticket.ahead = None
            self._register(ticket)
            self._read(ticket, deadline)

    # Holding, and leaving.

    def hold(self, ticket: Ticket, on_gone: typing.Callable[[str], None]) -> None:
        """It is our turn and we take it: from now on tell `on_gone` if somebody else deletes our key."""
        with self._lock:
            ticket.on_gone = on_gone
            self._tickets[ticket.key] = ticket  # who tried, or came from far back, is not there yet
            gone = ticket.phase is Phase.GONE
        if gone:
            on_gone("its key was deleted as it was granted")

    def cancel(self, ticket: Ticket) -> None:
        """End a ticket's wait, from any thread."""
        ticket.cancelled = True
        ticket.waiter.wake()

    def leave(self, ticket: Ticket) -> None:
        """Give the place up.  Returns at once; the background makes sure that nothing stays behind."""
        self._forget(ticket)
        if ticket.create_revision:  # even if it was told to be gone: a key too much would stop the line
            session = ticket.session
            session.defer(lambda: session.delete_mine(ticket.key, ticket.create_revision))

    def release(self, ticket: Ticket) -> int | None:
        """Leave the front of the line, verified.

        Returns:
            The revision of the release: ours until then, without a gap.  None when the reply to it was lost:
            released, at some revision that nobody told us.

        Raises:
            LockLost: Our key was gone before.

        Cost: 1 commit.  When others of this process wait, the same transaction reads who is first now: if it
        is one of them, it is told without an event.
        """
        with self._lock:
            local = any(other is not ticket for other in self._tickets.values())
            ticket.on_gone = None  # from here on it is we who delete it, and the answer tells
        session = ticket.session
        try:
            deleted = session.delete_verified(
                ticket.key, ticket.create_revision, [self._oldest] if local else [], together=not local
            )
        except BaseException:
            self.leave(ticket)
            raise
        self._forget(ticket)
        if deleted is None:
            return None  # by an attempt whose reply was lost
        if ticket.created_at_once and deleted.at_once:
            session.return_nonce(ticket.nonce)
        if local:
            self._hand_over(deleted.result)
        return deleted.result.revision

    def _forget(self, ticket: Ticket) -> None:
        """Tell the ticket nothing more."""
        with self._lock:
            self._tickets.pop(ticket.key, None)
            ticket.phase = Phase.LEFT
            ticket.on_gone = None
            if self._feed is not None and not self._drop_pending:
                self._drop_pending = True
                self.link.attendant.after(LINGER_S, attendants.weakly(self._drop_watch))
            self._used_at_s = time.monotonic()

    def _hand_over(self, release: kv.TxnResult) -> None:
        """Tell the local waiter that the release's own transaction saw at the head of the line."""
        head = release.found(1).first
        if head is None:
            return
        with self._lock:
            heir = self._tickets.get(head.key)
            # Its key may have been deleted since it joined; only the head that the transaction read counts.
            if (
                heir is None
                or heir.phase is not Phase.WAITING
                or heir.create_revision != head.create_revision
            ):
                return
            heir.phase = Phase.READY
        heir.waiter.wake()

    # The watch on the prefix.

    def _register(self, ticket: Ticket) -> bool:
        """Begin to tell this ticket of deletions.  Before its join is sent: then none is missed.

        Returns whether it is the only one of this process.
        """
        with self._lock:
            alone = not self._tickets
            self._tickets[ticket.key] = ticket
            return alone

    def _unregister(self, ticket: Ticket) -> None:
        with self._lock:
            self._tickets.pop(ticket.key, None)

    def _open_watch(self) -> None:
        feed = linewatch.Feed(self)
        with self._lock:
            if self._feed is not None:
                return
            self._feed = feed
        feed.watch = self.link.watcher.watch_prefix(self.prefix, feed, filters=(watch.NO_PUTS,))

    def _drop_watch(self) -> None:
        """End the watch when nobody needed it for a while."""
        with self._lock:
            unused_s = time.monotonic() - self._used_at_s
            if self._tickets or unused_s < LINGER_S:
                self.link.attendant.after(max(LINGER_S - unused_s, 1.0), attendants.weakly(self._drop_watch))
                return
            self._drop_pending = False
            dropped, self._feed = self._feed, None
            self._covered_from = None
        if dropped is not None and dropped.watch is not None:
            dropped.watch.cancel()

    def watch_stands(self, feed: linewatch.Feed, revision: int) -> None:
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
            for event in events:
                for ticket in list(self._tickets.values()):
                    ticket.strike(event.key, event.mod_revision)

    def watch_missed(self, feed: linewatch.Feed) -> None:
        """Deletions may have been missed: a new watch, and everybody reads again."""
        with self._lock:
            if feed is self._feed:
                self._feed = None
                self._covered_from = None
            self._wake_all()

    def _wake_all(self) -> None:
        for ticket in self._tickets.values():
            ticket.waiter.wake()

    # For people.

    def contenders(self, session: Session, deadline: Deadline) -> list[Contender]:
        """All places, in order.  Cost: 1 round trip."""
        reply = session.client.read(kv.range_request(self.prefix, oldest_first=True), deadline)
        return [contender(kv.KeyValue.of(each), session) for each in reply.kvs]

    def is_empty(self, client: clients.Client, deadline: Deadline) -> bool:
        """Whether nobody stands in line.  Cost: 1 round trip."""
        return client.read(kv.range_request(self.prefix, count_only=True), deadline).count == 0


_LINES: weakref.WeakKeyDictionary[Link, weakref.WeakValueDictionary[bytes, Line]] = (
    weakref.WeakKeyDictionary()
)


def line_at(link: Link, prefix: bytes) -> Line:
    """The line of a prefix, which ends with a slash.  Handles of one coordinator share it."""
    lines = _LINES.get(link)
    if lines is None:
        lines = _LINES.setdefault(link, weakref.WeakValueDictionary())
    line = lines.get(prefix)
    return line if line is not None else lines.setdefault(prefix, Line(link, prefix))


def through_outages(action: typing.Callable[[], T], deadline: Deadline) -> T:
    """Do what may find etcd unavailable, until it works or the time is up."""
    pause_s = clients.FIRST_PAUSE_S
    while True:
        try:
            return action()
        except errors.Unavailable as error:
            pause_s = clients.pause(pause_s, deadline, errors.AcquireTimeout(str(error), error.outcome))
