"""Tickets: one acquisition's place in a line, and what it knows of those before it."""

from __future__ import annotations

import datetime
import enum
import json
import typing

import attrs

from coordkit import keys
from coordkit.etcd import kv
from coordkit.leased import Created
from coordkit.session import Session
from coordkit.wire import channel as channels


class Phase(enum.Enum):
    """Where a ticket stands.  Changed under the line's lock."""

    # JOINING: registered; our key may or may not be there, and what we know of those before us is not enough.
    JOINING = 1
    # WAITING: our key is in line; `ahead` is a superset of those before us that are still there (near),
    # or unknown (far).
    WAITING = 2
    # READY: no older key exists, and none can appear.  Ours, if the session lives when the waiter looks; it
    # stays so while it is held.
    READY = 3
    # GONE: our key was deleted by somebody else, or with its lease.
    GONE = 4
    # LEFT: we gave the place up; whatever is told now is too late.
    LEFT = 5


@attrs.frozen
class Contender:
    """One place in a line, for people to look at."""

    key: bytes
    lease: int
    fence: int
    identity: str
    since: str
    mine: bool


class Ticket:
    """One acquisition's place in line."""

    def __init__(self, session: Session, prefix: bytes) -> None:
        self.session = session
        self.nonce = session.nonce()
        self.key = keys.place(prefix, session.lease_id, self.nonce)
        self.create_revision = 0
        self.created_at_once = False
        self.waiter = channels.Waiter()
        self.phase = Phase.JOINING
        #: It is our turn when fewer than so many are before us.
        self.places = 1
        #: Older keys that nobody has struck off, with their create revisions; None: too many to know (far).
        self.ahead: dict[bytes, int] | None = {}
        #: As many of them as there are places, the newest: while all of these are there it is not our turn.
        self.predecessors: tuple[bytes, ...] = ()
        #: The snapshot itself showed that it was our turn.
        self.is_free = False
        self.snapshot_revision = 0
        #: The last revision at which the number of places was told to have changed.
        self.resized_revision = 0
        #: Deletions told while a snapshot is on its way, which may be older than they are; None: none is.
        self.struck: dict[bytes, int] | None = {}
        self.cancelled = False
        #: What will give the place up, put together while there is time: who waits for it then, waits less.
        self.farewell: kv.TxnRequest | None = None
        #: Those of this process whose predecessor we are, and who wait to be told of our end.
        self.followers: list[Ticket] = []
        #: It waits far back, and is told of nothing but its own end.
        self.is_far = False
        #: Once it is held: whom to tell of a foreign deletion.
        self.on_gone: typing.Callable[[str], None] | None = None
        #: And whom to tell that such a deletion may have been missed.
        self.on_missed: typing.Callable[[], None] | None = None

    @property
    def stands(self) -> bool:
        """Whether its key may be in line, as far as is known here."""
        return self.phase is not Phase.GONE and self.phase is not Phase.LEFT

    def tell_followers(self) -> None:
        """It stands no more.  Under the line's lock."""
        for other in self.followers:
            other.waiter.wake()

    def come_near(self, guide: Ticket) -> None:
        """It is the guide's turn, so of those before us only the guide is left.  Under the line's lock.

        Nobody was before it, nobody is between us, and none can appear.
        """
        self.ahead, self.is_far = {guide.key: guide.create_revision}, False

    @property
    def is_through(self) -> bool:
        """Whether so few are left of those before us that it may be our turn."""
        return self.is_free or (self.ahead is not None and len(self.ahead) < self.places)

    def take(
        self, before: tuple[kv.KeyValue, ...], more: bool, revision: int, count: int | None = None
    ) -> None:
        """A snapshot of those before us, the newest first.  Under the line's lock.

        Args:
            before: Who they are, or the newest of them.
            more: Whether there are others.
            revision: When that was so.
            count: How many they are, where that is known although not all are shown.
        """
        struck = self.struck or {}
        self.struck = None
        self.snapshot_revision = revision
        self.predecessors = tuple(other.key for other in before[: self.places])
        if count is None and not more:
            count = len(before)
        self.is_free = count is not None and count < self.places
        if not self.is_free and (self.resized_revision > revision or (more and len(before) < self.places)):
            self.phase = Phase.JOINING  # the number of places changed, or it is more than this window shows
        if more:
            self.ahead = None  # a window is not the line
            return
        self.ahead = {
            other.key: other.create_revision
            for other in before
            # Names come back: only a deletion that is younger than this very key strikes it.
            if struck.get(other.key, 0) < other.create_revision
        }

    def resized(self, revision: int) -> None:
        """The number of places has changed: what the snapshot showed must be read again.  Under the lock."""
        self.resized_revision = max(self.resized_revision, revision)
        if self.phase is Phase.WAITING and self.snapshot_revision < revision:
            self.phase = Phase.JOINING
            self.waiter.wake()

    def created(self, created: Created) -> None:
        """The reply to the join came.  Under the line's lock."""
        self.create_revision = created.create_revision
        self.created_at_once = created.at_once
        if self.struck and self.struck.get(self.key, 0) > self.create_revision:
            self.phase = Phase.GONE  # deleted, and told, before this reply

    def strike(self, key: bytes, revision: int) -> None:
        """A key of the line was deleted at `revision`.  Under the line's lock."""
        if key == self.key and self.create_revision:
            if self.phase is not Phase.LEFT and revision > self.create_revision:
                self.phase = Phase.GONE
                self.waiter.wake()
                self.tell_followers()
                if self.on_gone is not None:
                    self.on_gone(f"its key was deleted at revision {revision}")
            return
        if self.struck is not None:
            self.struck[key] = revision
        if self.ahead and self.ahead.get(key, revision) < revision:
            # Younger than the key that we know: not an old event told again, nor an older key of that name.
            del self.ahead[key]
            if len(self.ahead) < self.places:
                self.waiter.wake()


def describe(session: Session) -> bytes:
    """A place's value: who waits, and since when; for people only."""
    since = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    return b'{"identity":%s,"since":"%s"}' % (session.identity_json, since.encode())


def contender(place: kv.KeyValue, session: Session) -> Contender:
    """A place in line as people want to see it, whoever wrote it."""
    words: object = None
    try:
        words = json.loads(place.value)
    except (ValueError, RecursionError):
        pass  # Go's keys hold nothing, or what the program proclaims
    known = words if isinstance(words, dict) else {}
    return Contender(
        key=place.key,
        lease=place.lease,
        fence=place.create_revision,
        identity=str(known.get("identity", "")),
        since=str(known.get("since", "")),
        mine=place.lease == session.lease_id,
    )
