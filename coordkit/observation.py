"""Who stands at the head of a line, as it changes: a snapshot, and from then on every event under the prefix.

The whole line is kept, in the order of its create revisions, so the head after each revision is known
without a read, and it is never guessed from whichever key was put last.  The promise: what is told is a
subsequence of what was, in its order, and its last element is what is.

Rules, each for a reason:

- The watch stands before the snapshot is asked for, and no event is told that the snapshot contains.
- All changes of one revision are applied before anybody is told of a head: there was nothing in between.
- A snapshot that is older than what was told (a member that lags, or was restored) is refused.
- After a compaction all of it begins anew; what has not changed is not told again.

Source: etcd's concurrency/election.go for what `Observe` is for, and etcd issue 18163 for how it goes wrong.
Cost: 1 read and 1 watch in the beginning, then 1 event a change; 1 read in ten quiet seconds, for old servers
lose events.
"""

from __future__ import annotations

import collections
import itertools
import logging
import operator
import threading
import typing
import weakref

import attrs

from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv, watch
from coordkit.session import Link
from coordkit.wire import channel as channels

SAFETY_S = 10.0  # between two reads that look whether an event was lost
RETRY_S = 0.2
BACKLOG = 1_000  # changes that wait for whoever iterates; beyond them the oldest are left out
_NOTHING = object()

_log = logging.getLogger("coordkit")


@attrs.frozen
class Candidate:
    """One place in the line of an election, and what is proclaimed there.

    The key holds nothing else: who that is, and since when, it says only if it proclaims so.

    Attributes:
        key: What it stands there with.
        value: What it proclaims.
        lease: The lease of its session.
        fence: The key's create revision: its place in line.
        revision: That of its latest proclamation.
    """

    key: bytes
    value: bytes = attrs.field(repr=False)
    lease: int
    fence: int
    revision: int

    @classmethod
    def of(cls, place: kv.KeyValue | watch.Event) -> Candidate:
        """From a key as it was read, or as it was put."""
        return cls(place.key, place.value, place.lease, place.create_revision, place.mod_revision)


def candidates(
    client: clients.Client, prefix: bytes, limit: int = 0, deadline: Deadline | None = None
) -> tuple[list[Candidate], int]:
    """Who stands there, the leader first; `limit` of them, or all; and the revision.  Cost: 1 round trip."""
    request = kv.range_request(prefix, oldest_first=True, limit=limit)
    reply = client.read(request, deadline or client.deadline(None))
    return [Candidate.of(kv.KeyValue.of(each)) for each in reply.kvs], reply.header.revision


class Places:
    """Everybody in line, the oldest first.  Pure."""

    def __init__(self) -> None:
        self._places: dict[bytes, Candidate] = {}
        self.revision = 0  # of the snapshot, or of the last event

    def take(self, line: typing.Iterable[Candidate], revision: int) -> Candidate | None:
        """Begin with a snapshot, oldest first; returns the head."""
        self._places = {each.key: each for each in line}
        self.revision = revision
        return self.head

    def apply(self, events: typing.Iterable[watch.Event]) -> typing.Iterator[Candidate | None]:
        """The head after each revision."""
        for revision, changes in itertools.groupby(events, operator.attrgetter("mod_revision")):
            if revision <= self.revision:
                continue  # the snapshot contains it
            for event in changes:
                self._apply(event)
            self.revision = revision
            yield self.head

    def _apply(self, event: watch.Event) -> None:
        known = self._places.get(event.key)
        if event.deleted or (known is not None and known.fence != event.create_revision):
            self._places.pop(event.key, None)  # a name that comes back stands at the end of the line
        if not event.deleted:
            self._places[event.key] = Candidate.of(event)

    @property
    def head(self) -> Candidate | None:
        """The oldest."""
        return next(iter(self._places.values()), None)


class Observation:
    """An iterator over the heads of a line: a `Candidate`, or None when nobody stands there.

    It ends when its time is up or it is closed; `with` closes it.  One thread iterates, any may close.
    """

    def __init__(self, link: Link, prefix: bytes, deadline: Deadline) -> None:
        self._link = link
        self._prefix = prefix
        self._deadline = deadline
        self._lock = threading.Lock()
        self._waiter = channels.Waiter()
        self._feed: _Feed | None = None
        self._places = Places()
        self._taken = False  # the snapshot was, so that events can be applied
        self._early: list[watch.Event] = []  # events that came before it
        self._newest: object = _NOTHING  # the last head that was noted
        self._changes: collections.deque[Candidate | None] = collections.deque(maxlen=BACKLOG)
        self._refusal: errors.CoordError | None = None
        self._closed = False

    def __iter__(self) -> Observation:
        return self

    def __next__(self) -> Candidate | None:
        """The next change.

        Raises:
            StopIteration: The time is up, or it was closed.
            Rejected: etcd does not let us read or watch there.
        """
        client = self._link.client
        while True:
            self._waiter.done = False
            with self._lock:
                if self._changes:
                    return self._changes.popleft()
                feed, taken = self._feed, self._taken
            if self._closed or self._deadline.expired:
                self.close()
                raise StopIteration
            if self._refusal is not None:
                self.close()
                raise self._refusal
            if feed is None:
                self._open()
            elif feed.stands_from and not taken:
                self._read(feed)
            elif not client.wait(self._waiter, self._deadline.sooner(SAFETY_S)):
                self._verify(feed)

    def close(self) -> None:
        """End it, from any thread; idempotent."""
        self._closed = True
        with self._lock:
            feed, self._feed = self._feed, None
        if feed is not None:
            feed.end()
        self._waiter.wake()

    def __enter__(self) -> Observation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # How.

    def _open(self) -> None:
        """A new watch; what is known so far stays told."""
        feed = _Feed(self, self._link)
        with self._lock:
            if self._closed:
                return
            self._feed, self._taken, self._early = feed, False, []
        feed.watch = self._link.watcher.watch_prefix(self._prefix, feed)
        if self._closed:
            feed.end()  # meanwhile, by somebody who did not see it yet

    def _read(self, feed: _Feed) -> None:
        """Take the snapshot.  Cost: 1 round trip."""
        found = self._range(0)
        with self._lock:
            if found is None or feed is not self._feed:
                return
            line, revision = found
            if revision < max(feed.stands_from, self._places.revision):
                stale = True
            else:
                stale = False
                self._note(self._places.take(line, revision))
                self._taken = True
                self._tell(self._early)
                self._early = []
        if stale:
            self._link.client.drop_channel(f"a member at revision {revision} is behind the times")
            self._link.client.wait(self._waiter, self._deadline.sooner(RETRY_S))

    def _verify(self, feed: _Feed) -> None:
        """Look whether an event was lost: then begin anew, in order all the same."""
        found = self._range(1)
        with self._lock:
            if found is None or feed is not self._feed or not self._taken:
                return
            line, revision = found
            if revision < self._places.revision or next(iter(line), None) == self._places.head:
                return
            self._feed = None
        feed.end()

    def _range(self, limit: int) -> tuple[list[Candidate], int] | None:
        """The line, or its head, and the revision; None when etcd did not answer: ask again."""
        try:
            return candidates(self._link.client, self._prefix, limit, self._deadline.sooner(SAFETY_S))
        except errors.OUTAGE:
            self._link.client.wait(self._waiter, self._deadline.sooner(RETRY_S))
            return None

    def _note(self, head: Candidate | None) -> None:
        """A head, to be told if it is another one than before.  Under the lock."""
        if head != self._newest:
            self._newest = head
            self._changes.append(head)
            self._waiter.wake()

    def _tell(self, events: list[watch.Event]) -> None:
        """Under the lock."""
        for head in self._places.apply(events):
            self._note(head)

    # What its watch says.

    def stands(self) -> None:
        """The watch does: time for the snapshot."""
        self._waiter.wake()

    def changed(self, feed: _Feed, events: list[watch.Event]) -> None:
        """Keys were put or deleted."""
        with self._lock:
            if feed is not self._feed:
                return
            if self._taken:
                self._tell(events)
            else:
                self._early += events

    def missed(self, feed: _Feed) -> None:
        """Some changes are gone: begin anew."""
        with self._lock:
            if feed is self._feed:
                self._feed = None
        self._waiter.wake()

    def refused(self, error: errors.CoordError) -> None:
        """There will be no watch."""
        self._refusal = error
        self._waiter.wake()


class _Feed:
    """One watch of an observation, which may be dropped without a word by whoever iterated over it."""

    def __init__(self, observation: Observation, link: Link) -> None:
        self._observation = weakref.ref(observation)
        self._link = link
        self.watch: watch.Watch | None = None
        self.stands_from = 0

    def end(self) -> None:
        if self.watch is not None:
            self.watch.cancel()

    def _owner(self) -> Observation | None:
        observation = self._observation()
        if observation is None:
            self._link.attendant.after(0, self.end)  # from here the client must not be called
        return observation

    def on_created(self, revision: int) -> None:
        observation = self._owner()
        self.stands_from = self.stands_from or revision  # resumed later it tells what came since, as ever
        if observation is not None:
            observation.stands()

    def on_events(self, events: list[watch.Event]) -> None:
        observation = self._owner()
        if observation is not None:
            observation.changed(self, events)

    def on_gap(self, compacted: int) -> None:
        observation = self._owner()
        if observation is not None:
            observation.missed(self)

    def on_refused(self, error: errors.CoordError) -> None:
        observation = self._owner()
        if observation is not None:
            observation.refused(error)
