"""The line: contenders stand in the order of their keys' create revisions.

A key `<prefix><lease>-<nonce>`, leased, is a place in line.  Any key under the prefix counts, so Go's
`concurrency.Mutex`, its `Election`, and `etcdctl lock` stand in the same line.  The place never changes:
revisions only grow, so nobody can ever come to stand before a key that exists.  Names come back (ours when
their last use ended beyond doubt, Go's always), so a deletion counts only against keys older than itself.

What may grant (the rule that everything here serves): one *snapshot* of the line that contains my own key,
cut down to the keys older than mine, and from then on only *strikes*: deletions that a watch reports which
stands at a revision no newer than the snapshot's, so that none can be missed.

Near the front (everybody before me is known) a ticket strikes off what the process's one watch on the prefix
reports, and reads nothing.  Far back it watches its predecessor alone, and the prefix no more; if that is
of its own process, it waits to be told of its end.  So a release wakes at most `WINDOW` waiters.

This is the exclusive line: it is my turn when nobody is before me.  Readers, writers and permits have rules
of their own (`sharedline.py`); what may grant is the same for all.

Source: Hunt et al., ZooKeeper (USENIX ATC 2010), section 2.4; etcd's client/v3/concurrency/key.go.
Cost: join 1 commit; a hand-over 1 event; leave and release 1 commit.
"""

from __future__ import annotations

import time
import typing
import weakref

import attrs

from coordkit import errors, keys, linewatch
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv, watch
from coordkit.session import Link, Session
from coordkit.ticket import Contender, Phase, Ticket, contender, describe

WINDOW = 16  # how many before me are watched one by one
RETRY_S = 0.2

T = typing.TypeVar("T")


@attrs.frozen
class Snapshot:
    """A line at one revision, as one ticket sees it."""

    revision: int
    shows_us: bool
    #: Who is before us, the newest first; `more`: not all of them.
    before: tuple[kv.KeyValue, ...]
    more: bool
    #: How many may hold at once; None: as before.
    places: int | None = None


class Line(linewatch.Watched):
    """A prefix, as one process sees it: its local tickets, and the watch that they share."""

    #: Below the prefix: where our keys are, where those are that can be before us, and what is watched.
    OWN: typing.ClassVar[bytes] = b""
    BEFORE: typing.ClassVar[bytes] = b""
    WATCHED: typing.ClassVar[bytes] = b""
    #: Whether it is the turn of the oldest key of all, and of no other.
    EXCLUSIVE: typing.ClassVar[bool] = True

    def __init__(self, link: Link, prefix: bytes) -> None:
        super().__init__(link, prefix + self.WATCHED)
        self.prefix = prefix
        self.ours = prefix + self.OWN
        self.before = prefix + self.BEFORE
        #: Whether our own keys are among those that can be before others of ours: then each read shows our
        #: key too, and the watch tells of its end, in order with theirs.
        self._told_of_us = self.ours.startswith(self.before)
        self._everybody = prefix
        self._newest = kv.range(self.before, keys_only=True, newest_first=True, limit=WINDOW + 1)
        self._oldest = kv.range(prefix, keys_only=True, oldest_first=True, limit=1)
        self._read_at_s = time.monotonic()  # the last safety read
        #: Whether it is one of those that never lie within each other.
        self._is_apart = not self.OWN and keys.is_of_a_name(link.namespace, prefix)

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
        stored = describe(session) if value is None else value
        ticket = self._join(Ticket(session, self.ours), stored, deadline, [], self._newest)
        assert ticket is not None
        return ticket

    def _join(
        self, ticket: Ticket, stored: bytes, deadline: Deadline, when: list[kv.Compare], newest: kv.Op
    ) -> Ticket | None:
        """None: one of `when` did not hold, and nothing was written."""
        # Two places in one line must not share a revision; two in lines that have no key in common may.
        together = self._register(ticket) and self._is_apart
        try:
            # Here, and only here, the newest of our kind is mine, and all others are before me.
            created = ticket.session.create(ticket.key, stored, deadline, when, [newest], together=together)
            if created is None:
                self.leave(ticket)
                return None
            with self._lock:
                ticket.created(created)
                if created.result is not None and ticket.phase is Phase.JOINING:
                    ticket.phase = Phase.WAITING
                    mine = int(self._told_of_us)
                    found = created.result.found(1, mine)
                    ticket.take(found.kvs, found.more, created.result.revision, found.count - mine)
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
        ticket = Ticket(session, self.ours)
        empty = kv.create(self.before, keys.range_end(self.before)) == 0
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
                    where = self.prefix.decode(errors="replace")
                    raise errors.Cancelled(f"the wait in {where} was cancelled")
                if deadline.expired:
                    return False
                self._wait(ticket, deadline)
        finally:
            session.delist(ticket.waiter)

    def take_turn(
        self, ticket: Ticket, deadline: Deadline, grant: typing.Callable[[Line, Ticket], T], late: str
    ) -> T | None:
        """Wait for the ticket's turn, and take it by `grant`; whatever else happens, the place is given up.

        Returns:
            What `grant` made; None when somebody deleted our place: take another.

        Raises:
            AcquireTimeout: With this text, when the time ran out.
            SessionLost, Cancelled: As `await_turn`.
        """
        try:
            if not self.await_turn(ticket, deadline):
                raise errors.AcquireTimeout(late)
            # HELD: no older key exists and none can appear, for revisions only grow.
            return grant(self, ticket)
        except errors.LockLost:
            self.leave(ticket)
            return None
        except BaseException:
            self.leave(ticket)
            raise

    def _is_turn(self, ticket: Ticket) -> bool:
        with self._lock:
            self._settle(ticket)
            # The last word is the clock's: READY is worth nothing to a session that may be over.
            return ticket.phase is Phase.READY and ticket.session.remaining() > 0

    def _settle(self, ticket: Ticket) -> None:
        """Too few are left of those before us: READY, unless our own deletion may have been missed."""
        if ticket.phase is not Phase.WAITING or not ticket.is_through:
            return
        # What the snapshot itself shows needs no strike.
        if ticket.is_free or (self._told_of_us and self.covers(ticket.snapshot_revision)):
            self._turn_comes(ticket)

    def _wait(self, ticket: Ticket, deadline: Deadline) -> None:
        """Sleep until something may have changed; open what must be watched; read what cannot be known."""
        if ticket.phase is Phase.JOINING:
            self._read(ticket, deadline)  # the read behind a lost reply failed, too
            return
        if ticket.ahead is None:
            self._wait_far(ticket, deadline)
            return
        with self._lock:
            watched, stands = self._feed is not None, self._covered_from is not None
            covered = self.covers(ticket.snapshot_revision)
        if not watched:
            self._open_watch()
        elif stands and not covered:
            # The watch began after our snapshot was taken: what was deleted in between is told by nobody.
            self._read(ticket, deadline)
        elif ticket.is_through and not self._told_of_us:
            self._read(ticket, deadline)  # it must show our own key
        else:
            if ticket.farewell is None:
                ticket.farewell = ticket.session.deletion(ticket.key, ticket.create_revision)
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
        try:
            seen = self._look(ticket, deadline.sooner(max(0.1, ticket.session.remaining())))
        except errors.OUTAGE:
            ticket.struck = None
            client.wait(ticket.waiter, deadline.sooner(RETRY_S))  # the place is kept: ask again
            return
        if seen.revision < floor:
            client.drop_channel(f"a member at revision {seen.revision} is behind {floor}")
            client.wait(ticket.waiter, deadline.sooner(RETRY_S))  # where there is no other member
            return
        with self._lock:
            if ticket.phase not in (Phase.JOINING, Phase.WAITING):
                return
            if not seen.shows_us:
                ticket.phase = Phase.GONE
                return
            ticket.phase = Phase.WAITING
            ticket.places = seen.places or ticket.places
            ticket.take(seen.before, seen.more, seen.revision)
            self._settle(ticket)

    def _look(self, ticket: Ticket, deadline: Deadline) -> Snapshot:
        """Read those before us, and our own key."""
        request = kv.range_request(
            self.before,
            keys_only=True,
            newest_first=True,
            limit=WINDOW + 1,
            max_create_revision=ticket.create_revision,
        )
        reply = ticket.session.client.read(request, deadline)
        found = kv.range_result(reply)
        shows_us = bool(found.kvs) and found.kvs[0].key == ticket.key
        return Snapshot(reply.header.revision, shows_us, found.kvs[1:], found.more)

    # Far back.

    def _wait_far(self, ticket: Ticket, deadline: Deadline) -> None:
        """Wait until a predecessor, or our own key, goes; then read, unless that tells enough.

        All the while the line's watch, where it stands, tells us of our own end, and of no other.
        """
        with self._lock:
            ticket.is_far = True
            guide = self._guide(ticket) if self.EXCLUSIVE else None
        try:
            stale = (
                self._follow(ticket, guide, deadline) if guide else self._watch_predecessors(ticket, deadline)
            )
        finally:
            with self._lock:
                ticket.is_far = False
                if guide:
                    guide.followers.remove(ticket)
        if stale and ticket.phase is Phase.WAITING and not deadline.expired and not ticket.cancelled:
            self._read(ticket, deadline)

    def _follow(self, ticket: Ticket, guide: Ticket, deadline: Deadline) -> bool:
        """Wait until the guide is gone, or its turn comes and brings us near; whether we must read."""
        limit = deadline.sooner(ticket.session.ttl_s)
        while not ticket.cancelled and not limit.expired:
            ticket.waiter.done = False
            ticket.session.check()
            if ticket.phase is not Phase.WAITING or ticket.ahead is not None or not guide.stands:
                break
            ticket.session.client.wait(ticket.waiter, limit)
        return ticket.ahead is None or limit.expired

    def _watch_predecessors(self, ticket: Ticket, deadline: Deadline) -> bool:
        """Wait until a predecessor goes; whether we must read."""
        self._rest()
        predecessors = ticket.predecessors
        ranges = self._far_ranges(ticket)
        ends = [linewatch.End(ticket.waiter) for _ in ranges]
        watches: list[watch.Watch] = []
        limit = deadline.sooner(ticket.session.ttl_s)
        try:
            for (key, range_end), end in zip(ranges, ends, strict=True):
                watches.append(
                    self.link.watcher.watch(key, end, range_end=range_end, filters=(watch.NO_PUTS,))
                )
            while not ticket.cancelled and not limit.expired and not any(end.over for end in ends):
                ticket.waiter.done = False
                ticket.session.check()
                if ticket.phase is not Phase.WAITING:
                    return False
                if any(end.created_revision > ticket.snapshot_revision for end in ends):
                    # As above: deletions between the snapshot and the watches are told by nobody.  What is
                    # deleted while we read is told to us, for we may turn out to be near.
                    ticket.is_far = False
                    self._read(ticket, deadline)
                    if ticket.ahead is not None or ticket.predecessors != predecessors:
                        return False
                    ticket.is_far = True
                elif not any(end.over for end in ends):
                    ticket.session.client.wait(ticket.waiter, limit)
        finally:
            for each in watches:
                each.cancel()
        return True

    def _far_ranges(self, ticket: Ticket) -> list[tuple[bytes, bytes]]:
        """What to watch far back: as long as all of it stands it cannot be our turn."""
        return [(key, b"") for key in (*ticket.predecessors, ticket.key)]

    # Holding, and leaving.

    def hold(self, ticket: Ticket, on_gone: typing.Callable[[str], None]) -> None:
        """It is our turn and we take it: from now on tell `on_gone` if somebody else deletes our key."""
        with self._lock:
            ticket.on_gone = on_gone
            self._tickets[ticket.key] = ticket  # who tried is not there yet
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
            alone = not self.EXCLUSIVE or len(self._tickets) == (ticket.key in self._tickets)
            # One that is next will be the head, if its key is there: etcd finds a head by walking the line.
            heir = None if alone else self._next_after(ticket)
            ticket.on_gone = None  # from here on it is we who delete it, and the answer tells
        session = ticket.session
        request = ticket.farewell if alone else None
        if request is None:
            head = [] if alone else [kv.get(heir.key) if heir else self._oldest]
            request = session.deletion(ticket.key, ticket.create_revision, head)
        try:
            deleted = session.delete_verified(ticket.key, ticket.create_revision, request, together=alone)
        except BaseException:
            self.leave(ticket)
            raise
        if not alone and deleted is not None:
            self._hand_over(deleted.result)  # before those who follow us are told: this may spare them a read
        self._forget(ticket)
        if deleted is None:
            return None  # by an attempt whose reply was lost
        if ticket.created_at_once and deleted.at_once:
            session.return_nonce(ticket.nonce)
        return deleted.result.revision

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
            self._turn_comes(heir)
        heir.waiter.wake()

    # For people.

    def contenders(self, session: Session, deadline: Deadline) -> list[Contender]:
        """All places, in order.  Cost: 1 round trip."""
        reply = session.client.read(kv.range_request(self._everybody, oldest_first=True), deadline)
        return [contender(kv.KeyValue.of(each), session) for each in reply.kvs]

    def is_alone(self, ticket: Ticket, deadline: Deadline) -> bool:
        """Whether a place that is held is still there, and no other.  Cost: 1 round trip."""
        everybody = kv.range_request(self._everybody, keys_only=True, limit=2)
        found = ticket.session.client.read(everybody, deadline).kvs
        return [each.create_revision for each in found] == [ticket.create_revision]

    def is_empty(self, client: clients.Client, deadline: Deadline) -> bool:
        """Whether nobody stands in line.  Cost: 1 round trip."""
        return client.read(kv.range_request(self._everybody, count_only=True), deadline).count == 0


Lines = weakref.WeakValueDictionary[tuple[bytes, type[Line]], Line]

_LINES: weakref.WeakKeyDictionary[Link, Lines] = weakref.WeakKeyDictionary()


def line_at(link: Link, prefix: bytes, kind: type[Line] = Line) -> Line:
    """The line of a prefix, which ends with a slash.  Handles of one coordinator share it."""
    lines = _LINES.get(link)
    if lines is None:
        lines = _LINES.setdefault(link, weakref.WeakValueDictionary())
    line = lines.get((prefix, kind))
    return line if line is not None else lines.setdefault((prefix, kind), kind(link, prefix))
