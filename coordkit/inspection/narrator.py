"""A namespace's changes in words: who joined which line, whose turn it is, who left, which session ended.

Pure.  A `Narrator` begins with the lines and sessions at one revision and takes what a watch tells after it.
Of kinds that are no lines it tells which keys were put and deleted.  Never a value, but who somebody is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from coordkit.etcd.changes import Event
from coordkit.etcd.results import KeyValue
from coordkit.inspection import census, chronicle, kinds


@attrs.frozen
class Note:
    """One change, as it is told.

    Attributes:
        what: A word: joined, granted, released, left, changed; opened, ended, renewed; put, deleted.
        who: The identity behind it, or "".
        fence: Of a place in line; 0 for everything else.
        because: Why, where that is known; or "".
        key: The key, for what is no line.
    """

    revision: int
    kind: str
    name: str
    what: str
    who: str = ""
    role: str = ""
    fence: int = 0
    because: str = ""
    key: str = ""


class Narrator:
    """Follows one namespace, or a part of it."""

    def __init__(
        self, root: bytes, stored: Iterable[KeyValue], revision: int, *, sees_sessions: bool
    ) -> None:
        """Args:
        root: Where the namespace's keys are.
        stored: The keys of lines, and of all sessions.
        revision: At which they were read.
        sees_sessions: Whether the watch tells of sessions, so that an end can be told from a release.
        """
        self._root = root
        self._revision = revision
        self._sees_sessions = sees_sessions
        self._sessions: dict[bytes, census.Session] = {}
        self._identities: dict[int, str] = {}
        lines: dict[tuple[str, str], list[KeyValue]] = {}
        for each in stored:
            path = census.parse(root, each.key)
            session = census.session_at(path, each)
            if session is not None:
                self._meet(session)
            elif kinds.kind_of(path.kind).lined:
                lines.setdefault((path.kind, path.name), []).append(each)
        self._chronicles = {where: chronicle.Chronicle(root, *where, found) for where, found in lines.items()}

    def take(self, events: Sequence[Event]) -> list[Note]:
        """What a watch told; those that are older than the beginning are known."""
        news = [each for each in events if each.mod_revision > self._revision]
        return [note for batch in chronicle.by_revision(news) for note in self._revision_notes(batch)]

    def _revision_notes(self, events: Sequence[Event]) -> list[Note]:
        lines: dict[tuple[str, str], list[Event]] = {}
        notes: list[Note] = []
        ended: set[int] = set()
        for event in events:
            path = census.parse(self._root, event.key)
            if path.kind == census.SESSION:
                notes += self._session_notes(path, event, ended)
            elif kinds.kind_of(path.kind).lined:
                lines.setdefault((path.kind, path.name), []).append(event)
            else:
                notes.append(_key_note(path, event))
        for where, found in lines.items():
            story = self._chronicles.setdefault(where, chronicle.Chronicle(self._root, *where))
            for each in story.take(found, frozenset(ended) if self._sees_sessions else None):
                notes.append(self._place_note(each))
            if not story.keys():
                del self._chronicles[where]
        return notes

    def _place_note(self, happening: chronicle.Happening) -> Note:
        place = happening.place
        return Note(
            happening.revision,
            happening.kind,
            happening.name,
            happening.what.value,
            place.identity or self._identities.get(place.lease, ""),
            place.role,
            place.fence,
            "its session ended" if happening.ended else "",
        )

    def _session_notes(self, path: census.Path, event: Event, ended: set[int]) -> list[Note]:
        known = self._sessions.get(event.key)
        if event.deleted:
            self._sessions.pop(event.key, None)
            if known is None:
                return [_key_note(path, event)]
            ended.add(known.lease)
            return [Note(event.mod_revision, path.kind, path.name, "ended", known.identity)]
        session = census.session_at(path, chronicle.stored(event))
        if session is None:
            return [_key_note(path, event)]
        self._meet(session)
        what = "opened" if known is None else "renewed"
        return [Note(event.mod_revision, path.kind, path.name, what, session.identity)]

    def _meet(self, session: census.Session) -> None:
        self._sessions[session.key] = session
        self._identities[session.lease] = session.identity


def _key_note(path: census.Path, event: Event) -> Note:
    what = "deleted" if event.deleted else "put"
    return Note(event.mod_revision, path.kind, path.name, what, key="/".join(path.rest))
