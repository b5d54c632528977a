"""What became of a primitive: changes of its keys, told as who came, whose turn it was, and who left.  Pure.

A `Chronicle` begins with the keys as they were at one revision and takes the changes after it, revision by
revision.  How those who stand there stand is asked before and after each; the difference is what happened.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

import attrs

from coordkit.etcd.changes import Event
from coordkit.etcd.results import KeyValue
from coordkit.inspection import census, kinds


class What(enum.Enum):
    """What somebody did, or what was done to him."""

    JOINED = "joined"  # stands in line, or is there, from now on
    GRANTED = "granted"  # holds from now on
    RELEASED = "released"  # held, and is gone
    LEFT = "left"  # waited or was there, and is gone
    CHANGED = "changed"  # is still there, with another value


@attrs.frozen
class Happening:
    """One thing that happened.

    Attributes:
        ended: Whether the session ended with it; None where nobody looked.
    """

    revision: int
    kind: str
    name: str
    what: What
    place: kinds.Place
    ended: bool | None = None


class Chronicle:
    """One primitive, followed from a revision on."""

    def __init__(self, root: bytes, kind: str, name: str, found: Iterable[KeyValue] = ()) -> None:
        self.kind = kind
        self.name = name
        self._root = root
        self._entries = {each.key: self._entry(each) for each in found}
        self.standing = self._stand()

    def take(self, events: Sequence[Event], ended: frozenset[int] | None = None) -> list[Happening]:
        """All changes of one revision.

        Args:
            events: Those of this primitive.
            ended: The leases of sessions that ended at it; None when that is not known.
        """
        if not events:
            return []
        revision = events[-1].mod_revision
        changed = set()
        for event in events:
            known = self._entries.get(event.key)
            if event.deleted:
                self._entries.pop(event.key, None)
                continue
            if known is not None and known.stored.create_revision == event.create_revision:
                changed.add((event.key, event.create_revision))
            self._entries[event.key] = self._entry(stored(event))
        before, self.standing = self.standing, self._stand()
        return [
            Happening(
                revision,
                self.kind,
                self.name,
                what,
                place,
                None if ended is None else place.lease in ended,
            )
            for what, place in _difference(before, self.standing, changed)
        ]

    def keys(self) -> dict[bytes, int]:
        """What is there now, with the revision of its last change."""
        return {key: entry.stored.mod_revision for key, entry in self._entries.items()}

    def _entry(self, found: KeyValue) -> kinds.Entry:
        return kinds.Entry(census.parse(self._root, found.key).rest, found)

    def _stand(self) -> kinds.Standing:
        return kinds.kind_of(self.kind).read(list(self._entries.values()))


def stored(event: Event) -> KeyValue:
    """The key that was put."""
    return KeyValue(event.key, event.value, event.create_revision, event.mod_revision, 1, event.lease)


def _difference(
    before: kinds.Standing, after: kinds.Standing, changed: set[tuple[bytes, int]]
) -> list[tuple[What, kinds.Place]]:
    """First who is gone, then who came, then whose turn it is."""
    was, now = before.everybody(), after.everybody()
    held = {(each.key, each.fence) for each in before.holders}
    told = [(What.RELEASED if at in held else What.LEFT, place) for at, place in was.items() if at not in now]
    told += [(What.JOINED, place) for at, place in now.items() if at not in was]
    told += [(What.CHANGED, place) for at, place in now.items() if at in was and at in changed]
    told += [(What.GRANTED, each) for each in after.holders if (each.key, each.fence) not in held]
    return told


def by_revision(events: Iterable[Event]) -> list[list[Event]]:
    """Events in order, those of one revision together."""
    found: list[list[Event]] = []
    for event in events:
        if found and found[-1][0].mod_revision == event.mod_revision:
            found[-1].append(event)
        else:
            found.append([event])
    return found
