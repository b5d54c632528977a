"""A watch that begins in the past, and how to know that it has caught up.

etcd feeds such watches in passes, some 0.1 s apart or as long as it takes to read history: each gets up to
1,000 revisions a pass, and one that gets fewer has caught up (`watchBatchMaxRevs` of etcd's
mvcc/watchable_store.go, 3.4 to 3.6).  Nothing is said to one that has nothing to get.  So:

- a batch with fewer revisions is the last one of the past;
- after a full one, or none at all, another watch is begun at an event that is known to be there.  When it
  tells that event a pass has gone by, and whoever got nothing in it lacks nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import watch
from coordkit.etcd.results import KeyValue

FULL_BATCH = 1_000  # revisions
QUIET_S = 0.3  # in which all watches of one pass are told what it found
LONG_QUIET_S = 2.0  # the same where there is no event by which to see a pass
LOOK_S = 0.05

Mark = tuple[bytes, int]  # a key, and a revision at which it changed


class Follower:
    """A watch from the past, and what it has told so far."""

    def __init__(
        self, watcher: watch.Watcher, prefix: bytes, after: int, base: Iterable[KeyValue] = ()
    ) -> None:
        """Args:
        watcher: Whose stream it uses.
        prefix: Of the keys.  Nothing is filtered out, for etcd counts a batch before it filters.
        after: The revision before the first one to tell.
        base: What was there at it.
        """
        self.prefix = prefix
        self.events: list[watch.Event] = []
        self.batches = 0
        self.heard_at_s = time.monotonic()
        #: The keys that are there, as far as was told, with the revision of their last change.
        self.state = {each.key: each.mod_revision for each in base}
        self._full = False
        self._changed = threading.Event()
        self._error: errors.CoordError | None = None
        self._watch = watcher.watch_prefix(prefix, self, start_revision=after + 1)

    @property
    def newest(self) -> int:
        """The revision of the last event; 0 before the first one."""
        return self.events[-1].mod_revision if self.events else 0

    @property
    def mark(self) -> Mark | None:
        """The last event."""
        return (self.events[-1].key, self.newest) if self.events else None

    @property
    def has_caught_up(self) -> bool:
        """Whether the last batch was the last one of the past.  False proves nothing."""
        return self.batches > 0 and not self._full

    def wait_for(self, state: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until that is true; False when the time is up.

        Raises:
            CoordError: What ended the watch.
        """
        while True:
            if self._error is not None:
                raise self._error
            if state():
                return True
            if deadline.expired:
                return False
            self._changed.wait(min(LOOK_S, deadline.wait_s()))
            self._changed.clear()

    def cancel(self) -> None:
        """No more."""
        self._watch.cancel()

    # What the watch tells.

    def on_created(self, revision: int) -> None:
        self.heard_at_s = time.monotonic()
        self._changed.set()

    def on_events(self, events: list[watch.Event]) -> None:
        for event in events:
            if event.deleted:
                self.state.pop(event.key, None)
            else:
                self.state[event.key] = event.mod_revision
        self.events += events
        self._full = len({event.mod_revision for event in events}) >= FULL_BATCH
        self.batches += 1
        self.heard_at_s = time.monotonic()
        self._changed.set()

    def on_gap(self, compacted: int) -> None:
        self._error = errors.Gap(f"history up to revision {compacted} is compacted", compacted)
        self._changed.set()

    def on_refused(self, error: errors.CoordError) -> None:
        self._error = error
        self._changed.set()


def catch_up(
    watcher: watch.Watcher,
    follower: Follower,
    mark: Mark | None,
    complete: Callable[[], bool],
    deadline: Deadline,
) -> bool:
    """Wait until a follower has told everything up to now; False when the time is up.

    Args:
        watcher: For one more watch.
        follower: Whom to wait for.
        mark: An event that etcd still has, to see a pass by while the follower has told none; or None.
        complete: What must be true of it then; it is not waited for.
        deadline: For all of it.

    Raises:
        CoordError: What ended the watch.
    """
    while not deadline.expired:
        if follower.has_caught_up and complete():
            return True
        seen = follower.batches
        known = follower.mark or mark
        if known is not None and not _see_pass(watcher, known, deadline):
            return False
        # A pass goes by for all watches; without a mark each counts from when it was heard of last.
        quiet = deadline.sooner(QUIET_S if known else follower.heard_at_s + LONG_QUIET_S - time.monotonic())
        if not follower.wait_for(lambda seen=seen: follower.batches > seen, quiet) and complete():  # type: ignore[misc]
            return not deadline.expired
    return False


def _see_pass(watcher: watch.Watcher, mark: Mark, deadline: Deadline) -> bool:
    """Until etcd has fed the watches that lack something; False when the time is up."""
    key, revision = mark
    sentinel = Follower(watcher, key, revision - 1)
    try:
        return sentinel.wait_for(lambda: sentinel.batches > 0, deadline)
    finally:
        sentinel.cancel()
