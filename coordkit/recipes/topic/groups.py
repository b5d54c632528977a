"""Groups: subscribers of one name share a retained topic; each message goes to one of them, at least once.

Status: stable.
Source: the claims of queue, on a log that others read, too.
Keys: under `groups/<group>/`: `next`, up to which messages were claimed; `taken/<id>`, one that was claimed
and is not done; `claims/<id>/<lease>-<nonce>`, whose it is, on its session's lease.  An id is that of the
message's key in the log.
Cost: 1 commit to claim a message and 1 when it is done.
Invariant: every message up to `next` is done, or has its `taken`; one that is taken and has no claim is
anybody's.

A claim moves `next` by compare, so that each message is claimed once; it is leased, so that those of a member
that dies come back: its `taken` stays, and tells the others.
"""

from __future__ import annotations

import collections
import json
import threading
import typing
import weakref

import attrs

from coordkit import errors, intake, keys, outages
from coordkit.deadline import Deadline
from coordkit.etcd import kv, watch
from coordkit.recipes import hold as holds
from coordkit.recipes.topic import replay
from coordkit.recipes.topic.live import gap
from coordkit.recipes.topic.message import LAST_INDEX, START, Found, Position, Start
from coordkit.recipes.topic.names import Names, Place, parse_header
from coordkit.session import Link, Session

MOST_TAKEN = 10_000  # that are looked at when the watch begins


@attrs.frozen
class _Claim:
    """A message that is ours until it is done."""

    session: Session
    id: bytes
    key: bytes
    create_revision: int


class GroupReader:
    """One partition, for one member of a group."""

    def __init__(
        self, link: Link, source: holds.Source, names: Names, group: str, log: replay.LogReader
    ) -> None:
        self._link = link
        self._source = source
        self._names = names
        self._log = log
        prefix = b"%sgroups/%s/" % (names.prefix, keys.segment(group, "group").encode())
        self._next_key, self._taken, self._claimed = prefix + b"next", prefix + b"taken/", prefix + b"claims/"
        self._next = START  # up to here messages were claimed, as far as we know
        self._next_mod = 0
        self._candidate: Found | None = None
        self._claims: dict[tuple[int, int], _Claim] = {}
        self._orphans: collections.deque[bytes] = collections.deque()
        self._alarm = _Alarm(self._claimed, self._taken)
        self._prefix = prefix

    def watch(self, ring: typing.Callable[[], None]) -> None:
        """Hear of members that end."""
        self._alarm.begin(self._link.watcher, self._prefix, ring)

    def begin(self, start: Start) -> None:
        """Begin where the group is; at `start`, if it is new.  Cost: 2 round trips, and 1 commit if so."""
        client = self._link.client
        deadline = client.deadline(None)
        self._see_next(deadline)
        if not self._next_mod:
            if start == "new":
                first = Position(intake.read_range(client, b"\0", b"", 1, deadline, True)[1], LAST_INDEX)
            else:
                first = START if start == "all" else Position(typing.cast(int, start) - 1, LAST_INDEX)
            create = kv.txn_request(
                [kv.create(self._next_key) == 0], [kv.put(self._next_key, _format(first))]
            )
            outages.patiently(client, create, deadline)
            self._see_next(deadline)
        self._log.begin(self._next if self._next.revision else "all")

    @property
    def began_at(self) -> Position | None:
        """It begins where the group is."""
        return self._next

    def take(self, deadline: Deadline) -> Found | None:
        """The next message that nobody else has claimed, claimed."""
        if self._alarm.take(self._orphans):
            self._look_around(deadline)
        while self._orphans:
            found = self._take_over(self._orphans[0], deadline)
            self._orphans.popleft()
            if found is not None:
                return found
        while True:
            self._candidate = self._candidate or self._log.take(deadline)
            if self._candidate is None:
                return None
            value, position = self._candidate
            if position.order > self._next.order:
                if self._claim(position, deadline):
                    self._candidate = None
                    return value, position
                self._see_next(deadline)  # another member was faster
            else:
                self._candidate = None

    def done(self, position: Position) -> None:
        """A message was dealt with.  Raises ClaimLost when it is another's by now."""
        claim = self._claims.pop(position.order, None)
        if claim is None:
            raise errors.ClaimLost(f"{self._names.prefix.decode()}: this message is not claimed here")
        try:
            taken = kv.delete(self._taken + claim.id)
            deletion = claim.session.deletion(claim.key, claim.create_revision, [taken])
            claim.session.delete_verified(claim.key, claim.create_revision, deletion)
        except errors.LockLost as error:
            raise errors.ClaimLost(
                f"{self._names.prefix.decode()}: the claim was lost: {error.since}"
            ) from error

    def close(self) -> None:
        """What is not done is given back, in the background."""
        self._log.close()
        self._alarm.end()
        claims, self._claims = list(self._claims.values()), {}
        for claim in claims:
            claim.session.defer(
                lambda claim=claim: claim.session.delete_mine(claim.key, claim.create_revision)  # type: ignore[misc]
            )

    # How.

    def _see_next(self, deadline: Deadline) -> None:
        found = intake.read_key(self._link.client, self._next_key, deadline)
        if found is None and self._next_mod:
            raise errors.CoordError(f"{self._next_key.decode()} was deleted by another hand")
        if found is not None:
            self._next, self._next_mod = _parse(found.value, self._next_key), found.mod_revision

    def _claim(self, position: Position, deadline: Deadline) -> bool:
        """Whether it is ours now."""
        id_ = b"%016x-%03d" % (position.after, position.index)
        # if nobody has claimed since
        when = [kv.mod(self._next_key) == self._next_mod]
        # then this one is claimed, and so is everything before it
        then = [
            kv.put(self._next_key, _format(position)),
            kv.put(self._taken + id_, _format(position)),
        ]
        revision = self._create(id_, position, when, then, deadline)
        if revision:
            self._next, self._next_mod = position, revision
        return revision > 0

    def _create(
        self, id_: bytes, position: Position, when: list[kv.Compare], then: list[kv.Op], deadline: Deadline
    ) -> int:
        """The revision of the claim; 0 when one of the conditions did not hold."""
        session = holds.current(self._source, deadline)
        key = b"%s%s/%016x-%s" % (self._claimed, id_, session.lease_id, session.nonce().encode())
        created = session.create(key, session.identity_json, deadline, when, then)
        if created is None:
            return 0
        self._claims[position.order] = _Claim(session, id_, key, created.create_revision)
        return created.create_revision

    # Those of members that are gone.

    def _look_around(self, deadline: Deadline) -> None:
        """Find what is taken and not claimed: the watch may have missed a member's end."""
        client = self._link.client
        taken, _ = intake.read_range(
            client, self._taken, keys.range_end(self._taken), MOST_TAKEN, deadline, keys_only=True
        )
        claimed, _ = intake.read_range(
            client, self._claimed, keys.range_end(self._claimed), MOST_TAKEN, deadline, keys_only=True
        )
        held = {each.key[len(self._claimed) :].partition(b"/")[0] for each in claimed.kvs}
        ids = [each.key[len(self._taken) :] for each in taken.kvs]
        self._orphans.extend(id_ for id_ in ids if id_ not in held)

    def _take_over(self, id_: bytes, deadline: Deadline) -> Found | None:
        """Claim one that nobody has any more; None if somebody else was faster."""
        client, names = self._link.client, self._names
        taken = intake.read_key(client, self._taken + id_, deadline)
        place = names.parse_message(names.log + id_)
        if taken is None or place is None:
            return None
        position = _parse(taken.value, self._taken + id_)
        stored = intake.read_key(client, names.message(place.after, place.index), deadline)
        claims = self._claimed + id_ + b"/"
        when = [
            kv.create(claims, keys.range_end(claims)) == 0,
            kv.mod(self._taken + id_) == taken.mod_revision,
        ]
        if not self._create(id_, position, when, [], deadline):
            return None
        if stored is None:
            self.done(position)
            raise gap(names, "a message was trimmed before it was done", position.revision + 1)
        return _value(stored.value, place), position


class GroupBook:
    """What the members of a subscription were given; stands in a bookmark's place."""

    def __init__(self, readers: list[GroupReader]) -> None:
        self._readers = readers
        # By thread: each is done with its own.  Not by its number, which comes back.
        self._given: weakref.WeakKeyDictionary[threading.Thread, tuple[int, Position]] = (
            weakref.WeakKeyDictionary()
        )

    def anchor(self, began: list[Position | None], deadline: Deadline) -> None:
        """Nothing to store: the group has its place."""

    def move(self, partition: int, position: Position) -> None:
        """This one message is done."""
        if self._given.get(threading.current_thread()) == (partition, position):
            del self._given[threading.current_thread()]
        self._readers[partition].done(position)

    def handed_out(self, partition: int, position: Position) -> None:
        """This thread has it now."""
        self._given[threading.current_thread()] = partition, position

    def settle(self) -> None:
        """What this thread was given is done."""
        given = self._given.pop(threading.current_thread(), None)
        if given is not None:
            self._readers[given[0]].done(given[1])

    flush = settle


class _Alarm:
    """Hears of claims that end while their message is not done: those of members that are gone."""

    def __init__(self, claimed: bytes, taken: bytes) -> None:
        self._claimed, self._taken = claimed, taken
        self._heard: collections.deque[bytes] = collections.deque()
        self._blind = True  # something may have been missed
        self._ring: typing.Callable[[], None] = lambda: None
        self._again: typing.Callable[[], watch.Watch] | None = None
        self._watch: watch.Watch | None = None

    def begin(self, watcher: watch.Watcher, prefix: bytes, ring: typing.Callable[[], None]) -> None:
        self._ring = ring
        self._again = lambda: watcher.watch_prefix(prefix, self, filters=(watch.NO_PUTS,))
        self._watch = self._again()

    def take(self, into: collections.deque[bytes]) -> bool:
        """Hand over what was heard; whether something may have been missed."""
        while self._heard:
            into.append(self._heard.popleft())
        blind, self._blind = self._blind, False
        return blind

    def end(self) -> None:
        self._again = None
        if self._watch is not None:
            self._watch.cancel()

    def on_created(self, revision: int) -> None:
        self._blind = True
        self._ring()

    def on_events(self, events: list[watch.Event]) -> None:
        done = {(each.mod_revision, each.key) for each in events if each.key.startswith(self._taken)}
        for each in events:
            id_ = each.key[len(self._claimed) :].partition(b"/")[0]
            if each.key.startswith(self._claimed) and (each.mod_revision, self._taken + id_) not in done:
                self._heard.append(id_)
        if self._heard:
            self._ring()

    def on_gap(self, compacted: int) -> None:
        if self._again is not None:
            self._watch = self._again()

    def on_refused(self, error: errors.CoordError) -> None:
        """Without it only beginners look around."""


def _format(position: Position) -> bytes:
    return json.dumps([position.revision, position.index, position.after, position.rest]).encode()


def _parse(stored: bytes, key: bytes) -> Position:
    try:
        revision, index, after, rest = json.loads(stored)
        if not all(type(n) is int and -1 <= n < 2**63 for n in (revision, index, after, rest)):
            raise ValueError
        return Position(revision, index, after, rest)
    except (ValueError, TypeError, RecursionError):
        raise errors.InvalidValue(f"{key.decode(errors='backslashreplace')} holds something else") from None


def _value(stored: bytes, place: Place) -> bytes:
    parsed = parse_header(stored) if place.index == 0 else None
    return parsed[1] if parsed is not None else stored
