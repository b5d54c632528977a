"""What a line listens to: deletions under its prefix, and the end of single keys."""

from __future__ import annotations

import logging
import typing

from coordkit import errors
from coordkit.etcd import watch
from coordkit.wire import channel as channels

_log = logging.getLogger("coordkit")


class Watching(typing.Protocol):
    """A line, as its watch sees it."""

    prefix: bytes

    def watch_stands(self, feed: Feed, revision: int) -> None:
        """From `revision` on every deletion is told."""

    def strike(self, events: list[watch.Event]) -> None:
        """Keys were deleted."""

    def watch_missed(self, feed: Feed) -> None:
        """Some may have been, untold."""


class Feed:
    """One watch on a line's prefix."""

    def __init__(self, line: Watching) -> None:
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
        _log.warning("the line %r cannot be watched: %s", self._line.prefix, error)


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
