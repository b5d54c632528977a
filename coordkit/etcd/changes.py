"""What a watch tells, and whom: changes, and their parts put together.  Pure."""

from __future__ import annotations

import typing

import attrs

from coordkit import errors
from coordkit.wire import messages

_DELETE = messages.Event.DELETE

Parts = typing.Sequence[messages.Event]


@attrs.frozen
class Event:
    """One change of one key."""

    key: bytes
    value: bytes = attrs.field(repr=False)
    deleted: bool
    create_revision: int
    mod_revision: int
    lease: int


def news(parts: Parts, since: int) -> list[Event]:
    """The changes of a batch from that revision on."""
    events = []
    for part in parts:
        stored = part.kv
        mod_revision = stored.mod_revision
        if mod_revision >= since:
            deleted = part.type == _DELETE
            event = Event(
                stored.key, stored.value, deleted, stored.create_revision, mod_revision, stored.lease
            )
            events.append(event)
    return events


class Listener(typing.Protocol):
    """What a watch tells, and whom.  Quick, and never a call to the client from within."""

    def on_created(self, revision: int) -> None:
        """The watch stands, and tells everything after `revision`; again after each resumption."""

    def on_events(self, events: list[Event]) -> None:
        """Changes, in order; all of one revision come together."""

    def on_gap(self, compacted: int) -> None:
        """History up to that revision is gone, and so is the watch."""

    def on_refused(self, error: errors.CoordError) -> None:
        """etcd ended the watch for good."""


class Fragments:
    """Batches that were too large for one message, until their last part has come."""

    def __init__(self) -> None:
        self._parts: dict[int, list[messages.Event]] = {}  # by watch id

    def join(self, response: messages.WatchResponse) -> Parts | None:
        """The whole batch, or None while parts of it are missing."""
        if not response.fragment and response.watch_id not in self._parts:
            return response.events
        self._parts.setdefault(response.watch_id, []).extend(response.events)
        return None if response.fragment else self._parts.pop(response.watch_id)

    def forget(self, watch_id: int) -> None:
        """That watch ended."""
        self._parts.pop(watch_id, None)

    def clear(self) -> None:
        """The stream broke: what is incomplete comes again."""
        self._parts.clear()
