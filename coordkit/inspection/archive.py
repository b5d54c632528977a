"""Reads back what became of a primitive, from etcd's own history: everything since its last compaction.

etcd keeps each revision until it is compacted, and a watch that begins in the past tells them all; when it
has told all of them is found out in `follower.py`.  What it has told must also make the very state that a
read has shown meanwhile.

Cost: 4 round trips, two watches or more; etcd tells up to 10,000 revisions a second.
"""

from __future__ import annotations

import attrs

from coordkit import errors, keys
from coordkit.deadline import Deadline
from coordkit.etcd import watch
from coordkit.etcd.results import KeyValue
from coordkit.inspection import census, chronicle, follower, reading
from coordkit.inspection import tenures as tenures_


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
        told = follower.Follower(watcher, prefix, first, base)
        ends = follower.Follower(watcher, keys.prefix(reader.namespace, census.SESSION), first)
        try:
            last, complete = _await(reader, watcher, told, ends, first, deadline)
        except errors.Gap:
            continue  # compacted meanwhile: begin again, later
        finally:
            told.cancel()
            ends.cancel()
        story = chronicle.Chronicle(reader.root, kind, name, base)
        return Archive(first, max(last, told.newest), complete, _tenures(story, first, told, ends))


def _tenures(
    story: chronicle.Chronicle, first: int, told: follower.Follower, ends: follower.Follower
) -> list[tenures_.Tenure]:
    ended: dict[int, set[int]] = {}
    for event in ends.events:
        session = keys.parse_place(ends.prefix, event.key)
        if session is not None and event.deleted:
            ended.setdefault(event.mod_revision, set()).add(session[0])
    standing = story.standing
    happenings = [
        each
        for events in chronicle.by_revision(told.events)
        for each in story.take(events, frozenset(ended.get(events[0].mod_revision, ())))
    ]
    return tenures_.of(first, standing, happenings)


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
    probe = follower.Follower(watcher, prefix, 0)
    try:
        probe.wait_for(lambda: False, deadline)
    except errors.Gap as gap:
        return gap.revision
    finally:
        probe.cancel()
    raise errors.DeadlineExceeded("etcd did not say in time from which revision on it keeps history")


def _await(
    reader: reading.Reader,
    watcher: watch.Watcher,
    told: follower.Follower,
    ends: follower.Follower,
    first: int,
    deadline: Deadline,
) -> tuple[int, bool]:
    """Until both know everything up to a revision: which one that is, and whether time was enough."""
    now, last = reader.state(told.prefix)
    recent = [each for each in reader.some_keys() if each.mod_revision > first]
    mark = (recent[0].key, recent[0].mod_revision) if recent else None
    complete = follower.catch_up(
        watcher, told, mark, lambda: told.newest > last or told.state == now, deadline
    ) and follower.catch_up(watcher, ends, told.mark or mark, lambda: True, deadline)
    return last, complete
