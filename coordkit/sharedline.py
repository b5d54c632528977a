"""Lines in which several may hold at once: readers beside writers, and a number of permits.

Keys `<prefix>read/<lease>-<nonce>` and `<prefix>write/<lease>-<nonce>` stand in one line, in the order of
their create revisions, and so do Go's.  A writer waits for everything older, a reader for older write keys
alone.  So a reader that comes behind a waiting writer waits for it: writers are not starved.

Keys `<prefix>holders/<lease>-<nonce>` stand in line for permits, and `<prefix>limit/<n>` says how many there
are: it is a key's turn while fewer than n are before it.

Safety is that of `waitlist.py`: one snapshot with our own key in it, then strikes that follow it.  What
differs:

- A reader's watch tells of write keys only, so that a reader's release wakes no other reader.  It says
  nothing of the reader's own key; so strikes grant nothing: when the last write key before it is struck off
  it reads once more, and only a read that shows its own key, and no write key before it, grants.
- A permit's watch tells of places and of the limit, in order.  A strike after which fewer than n are before
  us grants if n was the limit then.  Each change deletes `limit/<n>`, and who hears of that trusts its
  snapshot no more, and reads again.

Source: Courtois et al., "Concurrent control with readers and writers" (CACM 1971), the second problem; etcd's
recipes/rwmutex.go for the keys; Hunt et al., ZooKeeper (ATC 2010), section 2.4.
Cost: join 1 commit; a hand-over 1 event, for a reader 1 read besides; release 1 commit.
"""

from __future__ import annotations

import typing

import attrs

from coordkit import keys, waitlist
from coordkit.deadline import Deadline
from coordkit.etcd import kv, watch
from coordkit.session import Link, Session
from coordkit.ticket import Ticket, describe

READ, WRITE, HOLDERS, LIMIT = b"read/", b"write/", b"holders/", b"limit/"


class WritersLine(waitlist.Line):
    """It is a writer's turn when nobody at all is before it."""

    OWN = WRITE


class ReadersLine(waitlist.Line):
    """It is a reader's turn when no writer is before it."""

    OWN = READ
    BEFORE = WATCHED = WRITE
    EXCLUSIVE = False

    def _look(self, ticket: Ticket, deadline: Deadline) -> waitlist.Snapshot:
        return _look(self, ticket, deadline, waitlist.WINDOW + 1)[0]


class PermitsLine(waitlist.Line):
    """It is somebody's turn while fewer than `places` are before it."""

    OWN = BEFORE = HOLDERS
    EXCLUSIVE = False

    def __init__(self, link: Link, prefix: bytes) -> None:
        super().__init__(link, prefix)
        self.limits = prefix + LIMIT
        self.limits_end = keys.range_end(self.limits)
        self._everybody = self.before

    def limit_key(self, places: int) -> bytes:
        """The key that says so."""
        return b"%s%06d" % (self.limits, places)

    def limit_of(self, found: typing.Iterable[kv.KeyValue]) -> int | None:
        """What the keys under `limit/` say; the least, if somebody's hand put several there."""
        said = (each.key[len(self.limits) :] for each in found)
        # No more digits than Python turns into a number: a key may have any name.
        numbers = (int(digits) for digits in said if digits.isdigit() and len(digits) <= 18)
        return min(filter(None, numbers), default=None)

    def join_under(self, session: Session, deadline: Deadline, places: int) -> Ticket | None:
        """Take a place in line if this is the limit.

        Returns:
            The place, or None when the limit is another, or not set: nothing was written.

        Cost: 1 commit.
        """
        ticket = Ticket(session, self.ours)
        ticket.places = places
        agreed = kv.create(self.limit_key(places)) > 0
        newest = kv.range(self.before, keys_only=True, newest_first=True, limit=_window(places) or _window(1))
        return self._join(ticket, describe(session), deadline, [agreed], newest)

    def _tell(self, ticket: Ticket, event: watch.Event) -> None:
        # One after the other: a strike that follows a change of the limit counts under the new one.
        if event.key.startswith(self.limits):
            ticket.resized(event.mod_revision)
        else:
            ticket.strike(event.key, event.mod_revision)

    def _far_ranges(self, ticket: Ticket) -> list[tuple[bytes, bytes]]:
        return [*super()._far_ranges(ticket), (self.limits, self.limits_end)]

    def _look(self, ticket: Ticket, deadline: Deadline) -> waitlist.Snapshot:
        limits = kv.range(self.limits, keys_only=True)
        seen, result = _look(self, ticket, deadline, _window(ticket.places), limits)
        return attrs.evolve(seen, places=self.limit_of(result.found(2).kvs))


def _window(places: int) -> int:
    """How many to read to know what to wait for; 0, all of them, when too many would have to be watched."""
    return places + waitlist.WINDOW if places <= waitlist.WINDOW else 0


def _look(
    line: waitlist.Line, ticket: Ticket, deadline: Deadline, most: int, *also: kv.Op
) -> tuple[waitlist.Snapshot, kv.TxnResult]:
    """Those before a ticket, and its own key, at one revision."""
    older = kv.range(
        line.before,
        keys_only=True,
        newest_first=True,
        limit=most,
        max_create_revision=ticket.create_revision,
    )
    result = ticket.session.client.look([older, kv.get(ticket.key), *also], deadline)
    found, mine = result.found(0), result.found(1).first
    before = tuple(other for other in found.kvs if other.key != ticket.key)
    shows_us = mine is not None and mine.create_revision == ticket.create_revision
    return waitlist.Snapshot(result.revision, shows_us, before, found.more), result
