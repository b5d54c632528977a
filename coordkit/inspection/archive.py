"""Reads back what became of a primitive, from etcd's own history: everything since its last compaction.

etcd keeps each revision until it is compacted, and a watch that begins in the past tells them all.  It does
not say when it has caught up.  So a watch is complete once it has told something newer than what was there
when we asked; or once it makes the very state that is there, and is silent for longer than etcd's tick.

Cost: 3 round trips, two watches; etcd tells about 10,000 revisions a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import attrs

from coordkit import errors, keys
from coordkit.deadline import Deadline
from coordkit.etcd import watch
from coordkit.etcd.results import KeyValue
from coordkit.inspection import census, chronicle, reading
from coordkit.inspection import tenures as tenures_

QUIET_S = 0.5  # etcd passes on what a watch lacks every 0.1 s, 1,000 revisions at a time
LOOK_S = 0.05


@attrs.frozen
class Archive:
    """What is known of one primitive.

    Attributes:
        first: The revision from which on it is known; what was before is compacted, or there was nothing.
        last: The revision up to which it is.
        complete: False when the time ran out: there may be more.
        tenures: Who stood there, the oldest first.
    """

    first: int
    last: int
    complete: bool
    tenures: list[tenures_.Tenure]


def read(reader: reading.Reader, watcher: watch.Watcher, kind: str, name: str, deadline: Deadline) -> Archive:
    """The history of one primitive.

    Raises:
        CoordError: etcd refused, or did not answer.
    """
    prefix = keys.prefix(reader.namespace, kind, name)
    while True:
        first, base = _beginning(reader, watcher, prefix, deadline)
        told = _Follower(watcher, prefix, first, base)
        ends = _Follower(
            watcher, keys.prefix(reader.namespace, census.SESSION), first, filters=(watch.NO_PUTS,)
        )
        try:
            now, last = reader.state(prefix)
            complete = _await([told, ends], now, last, deadline)
        except errors.Gap:
            continue  # compacted meanwhile: begin again, later
        finally:
            told.watch.cancel()
            ends.watch.cancel()
        return _told(reader, kind, name, first, base, told, ends, last, complete)


def _told(
    reader: reading.Reader,
    kind: str,
    name: str,
    first: int,
    base: list[KeyValue],
    told: _Follower,
    ends: _Follower,
    last: int,
    complete: bool,
) -> Archive:
    ended: dict[int, set[int]] = {}
    for event in ends.events:
        session = keys.parse_place(ends.prefix, event.key)
        if session is not None:
            ended.setdefault(event.mod_revision, set()).add(session[0])
    story = chronicle.Chronicle(reader.root, kind, name, base)
    standing = story.standing
    happenings = [
        each
        for events in chronicle.by_revision(told.events)
        for each in story.take(events, frozenset(ended.get(events[0].mod_revision, ())))
    ]
    newest = told.events[-1].mod_revision if told.events else 0
    return Archive(first, max(last, newest), complete, tenures_.of(first, standing, happenings))


def _beginning(
    reader: reading.Reader, watcher: watch.Watcher, prefix: bytes, deadline: Deadline
) -> tuple[int, list[KeyValue]]:
    """The oldest revision that etcd still has, and what was there at it."""
    first = 1  # the revision of an empty store
    while True:
        try:
            return first, reader.state_at(prefix, first)
        except errors.Gap:
            first = _compacted(watcher, prefix, deadline)


def _compacted(watcher: watch.Watcher, prefix: bytes, deadline: Deadline) -> int:
    """Up to where history is gone: a watch from the very beginning is refused, and told why."""
    probe = _Follower(watcher, prefix, 0)
    try:
        _wait_for(lambda: False, probe, deadline)
    except errors.Gap as gap:
        return gap.revision
    finally:
        probe.watch.cancel()
    raise AssertionError("a wait for nothing has ended")


def _await(followers: Iterable[_Follower], now: dict[bytes, int], last: int, deadline: Deadline) -> bool:
    """Until both know everything up to `last`; False if the time ran out."""
    told, ends = followers

    def complete() -> bool:
        # A session's key says nothing of those that came and went: silence must do.
        return (told.newest > last or (told.state == now and told.is_quiet)) and (
            ends.newest > last or ends.is_quiet
        )

    try:
        _wait_for(complete, told, deadline)
        return True
    except errors.DeadlineExceeded:
        return False
    finally:
        ends.check()


def _wait_for(state: Callable[[], bool], follower: _Follower, deadline: Deadline) -> None:
    while not state():
        follower.check()
        if deadline.expired:
            raise errors.DeadlineExceeded("the watch on the history has not caught up in time")
        follower.changed.wait(min(LOOK_S, deadline.wait_s()))
        follower.changed.clear()
    follower.check()


class _Follower:
    """A watch from the past, and what it has told so far."""

    def __init__(
        self,
        watcher: watch.Watcher,
        prefix: bytes,
        after: int,
        base: Iterable[KeyValue] = (),
        filters: tuple[int, ...] = (),
    ) -> None:
        self.prefix = prefix
        self.events: list[watch.Event] = []
        self.state = {each.key: each.mod_revision for each in base}
        self.stands_from: int | None = None
        self.changed = threading.Event()
        self._told_at_s = time.monotonic()
        self._error: errors.CoordError | None = None
        self.watch = watcher.watch_prefix(prefix, self, start_revision=after + 1, filters=filters)

    @property
    def newest(self) -> int:
        return self.events[-1].mod_revision if self.events else 0

    @property
    def is_quiet(self) -> bool:
        return self.stands_from is not None and time.monotonic() - self._told_at_s > QUIET_S

    def check(self) -> None:
        """Raise what ended the watch."""
        if self._error is not None:
            raise self._error

    def on_created(self, revision: int) -> None:
        self.stands_from = revision
        self._told_at_s = time.monotonic()
        self.changed.set()

    def on_events(self, events: list[watch.Event]) -> None:
        for event in events:
            if event.deleted:
                self.state.pop(event.key, None)
            else:
                self.state[event.key] = event.mod_revision
        self.events += events
        self._told_at_s = time.monotonic()
        self.changed.set()

    def on_gap(self, compacted: int) -> None:
        self._error = errors.Gap(f"history up to revision {compacted} is compacted", compacted)
        self.changed.set()

    def on_refused(self, error: errors.CoordError) -> None:
        self._error = error
        self.changed.set()
