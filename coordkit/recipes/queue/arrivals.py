"""What an idle consumer, or a producer that waits for room, is woken by: one watch per queue and process.

It tells of items that come (also delayed ones), of claims that are returned, and of items that go.  An ack
deletes the claim together with its item, in one revision: that is no return, and wakes nobody.

It also keeps what has come since somebody looked and is not claimed yet: where nothing else has happened, an
idle consumer needs no look of its own to claim that.

Cost: one message to begin; the events; nothing while nothing happens.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import typing

from coordkit import attendant as attendants
from coordkit import errors
from coordkit.etcd import watch
from coordkit.recipes.queue import crowd, names
from coordkit.session import Link

LINGER_S = 3.0  # how long the watch outlives its last use
MOST_FRESH = 1_000  # items that are kept; beyond them somebody has to look

_log = logging.getLogger("coordkit")

Ring = typing.Callable[[], None]


class Arrivals:
    """The watch, while somebody needs it."""

    def __init__(self, link: Link, layout: names.Layout, on_item: Ring, on_room: Ring) -> None:
        self._link = link
        self._layout = layout
        self._on_item = on_item  # there may be something to claim, or it can be known now
        self._on_room = on_room  # an item went
        self._lock = threading.Lock()
        self._feed: _Feed | None = None
        self._users = 0
        self._used_at_s = 0.0
        #: The revision from which on everything is told; None: the watch does not stand.
        self.since: int | None = None
        #: What was told up to here is known to who reads.
        self.known = 0
        self._fresh: dict[str, int] = {}  # by id: items that came and were not claimed, with their revisions
        self._told = 0
        self._crowd = crowd.Crowd()
        self._unclear_at = 0  # when something last happened that only a look can tell

    def seen(self, revision: int) -> None:
        """Whoever reads knows what there was at this revision."""
        with self._lock:
            self.known = revision
            self._fresh = {id_: at for id_, at in self._fresh.items() if at > revision}

    def fresh(self) -> tuple[dict[str, int], int] | None:
        """What is free beside what was seen, and until which revision; None: only a look can tell."""
        with self._lock:
            if self.since is None or max(self.since, self._unclear_at) > self.known:
                return None
            return dict(self._fresh), max(self._told, self.known)

    def rank(self, id_: str, lease: int) -> int:
        """How many other consumers this item is left to first."""
        with self._lock:
            return self._crowd.rank(id_, lease)

    @contextlib.contextmanager
    def listening(self) -> typing.Iterator[None]:
        """Be told, for as long as this lasts; the watch outlives it a little, for many come again."""
        with self._lock:
            self._users += 1
        try:
            self._open()
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._used_at_s = time.monotonic()

    def _open(self) -> None:
        with self._lock:
            if self._feed is not None:
                return
            feed = self._feed = _Feed(self)
        start, end = self._layout.lively
        feed.watch = self._link.watcher.watch(start, feed, range_end=end)
        self._link.attendant.after(LINGER_S, attendants.weakly(self._drop_unused))

    def _drop_unused(self) -> None:
        with self._lock:
            feed = self._feed
            left_s = LINGER_S if self._users else self._used_at_s + LINGER_S - time.monotonic()
        if left_s <= 0:
            self.drop(feed)
        elif feed is not None:
            self._link.attendant.after(left_s, attendants.weakly(self._drop_unused))

    def drop(self, feed: _Feed | None) -> None:
        """Listen no more, if this is the feed that does."""
        with self._lock:
            if feed is None or feed is not self._feed:
                return
            self._feed = self.since = None
            self._fresh.clear()
            self._crowd.lose_sight()
        if feed.watch is not None:
            feed.watch.cancel()

    def stands(self, feed: _Feed, revision: int) -> None:
        """From `revision` on everything is told."""
        with self._lock:
            if feed is self._feed and self.since is None:
                self.since = revision
        if revision > self.known:
            self._on_item()  # what came between the look and the watch was told by nobody
        self._on_room()

    def missed(self, feed: _Feed) -> None:
        """The watch is over: everybody looks anew, and opens another one."""
        self.drop(feed)
        self._on_item()
        self._on_room()

    def tell(self, events: typing.Sequence[watch.Event]) -> None:
        """Something happened."""
        returned = self._has_return(events)
        with self._lock:
            self._told = events[-1].mod_revision
            for event in events:
                self._note(event)
            if returned or len(self._fresh) > MOST_FRESH:
                self._fresh.clear()
                self._unclear_at = self._told
        news = [event for event in events if event.mod_revision > self.known]
        if any(event.deleted and event.key.startswith(self._layout.items) for event in news):
            self._on_room()
        if any(self._is_arrival(event) for event in news) or self._has_return(news):
            self._on_item()

    def _note(self, event: watch.Event) -> None:
        """What it means for those who wait for items.  Under the lock."""
        layout, key = self._layout, event.key
        if key.startswith(layout.items):
            id_ = layout.id_of_item(key)
            if event.deleted:
                self._fresh.pop(id_ or "", None)
            elif id_ is not None:
                self._fresh[id_] = event.mod_revision
        elif key.startswith(layout.claims):
            id_ = layout.id_behind(layout.claims, key) or ""
            self._fresh.pop(id_, None)
            if event.deleted:
                self._crowd.ended(id_)
            else:
                self._crowd.claimed(id_, event.lease)
        elif key.startswith((layout.delayed, layout.dead)):
            self._unclear_at = event.mod_revision  # what comes from there was delivered before, perhaps

    def _is_arrival(self, event: watch.Event) -> bool:
        ranges = (self._layout.items, self._layout.delayed)
        return not event.deleted and event.key.startswith(ranges)

    def _has_return(self, events: typing.Sequence[watch.Event]) -> bool:
        """Whether a claim went without its item."""
        layout = self._layout
        gone = {(event.mod_revision, event.key) for event in events if event.deleted}
        for revision, key in gone:
            id_ = layout.id_behind(layout.claims, key) if key.startswith(layout.claims) else None
            if id_ is not None and (revision, layout.item(id_)) not in gone:
                return True
        return False


class _Feed:
    """One watch's listener."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self.watch: watch.Watch | None = None

    def on_created(self, revision: int) -> None:
        self._arrivals.stands(self, revision)

    def on_events(self, events: list[watch.Event]) -> None:
        self._arrivals.tell(events)

    def on_gap(self, compacted: int) -> None:
        self._arrivals.missed(self)

    def on_refused(self, error: errors.CoordError) -> None:
        """Without a watch there is only the look once a TTL."""
        _log.warning("the queue at %r cannot be watched: %s", self._arrivals._layout.prefix, error)
