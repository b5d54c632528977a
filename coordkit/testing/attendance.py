"""Attendance: who stood in the lines of a namespace, and when it was whose turn, seen by one who looks on.

A contender knows what it was told; a line knows whose turn it is.  Where somebody waits in vain this tells
whether it was its turn (then a wake-up was lost), or another's, or whether the cluster did not answer.

What is seen is etcd's own order, by watches; the times are those at which it was told here.  The cluster is
asked all the while whether it answers: a linearizable read, again and again, through a client with failover.

Cost: two watches, a read every 0.2 s, two threads that mostly sleep; some 300 bytes for each place.
"""

from __future__ import annotations

import collections
import json
import os
import threading
import types

import attrs

from coordkit import coordinator, errors, keys
from coordkit.etcd import kv, watch
from coordkit.etcd.results import KeyValue
from coordkit.inspection import census, chronicle, kinds
from coordkit.testing.checkers.turns import Silence, Stay
from coordkit.testing.history import clock_ns
from coordkit.wire import messages

Where = tuple[bytes, int]  # a key and its create revision: names come back

STANDS_S = 30.0
ASKED_S = 0.2  # between two questions
SILENT_S = 1.0  # who got no answer for longer than this was not answered


class Attendance:
    """One kind of lines of one namespace, as `lock`.

    Args:
        coord: Of the namespace.
        kind: As it stands in keys.
        named: Whether calls are noted with the line's name.
    """

    def __init__(self, coord: coordinator.Coordinator, kind: str, named: bool = True) -> None:
        self._named = named
        self._client = coord.client
        self._watcher = coord.session.link.watcher
        self._root = census.root_of(coord.settings.namespace)
        self._prefix = keys.prefix(coord.settings.namespace, kind)
        self._sessions = keys.prefix(coord.settings.namespace, census.SESSION)
        self._stays: dict[Where, Stay] = {}
        self._whose: dict[Where, tuple[int, int]] = {}  # of a stay that is over: its lease, when it ended
        self._ended: dict[int, int] = {}  # when leases took their session keys with them
        self._silences: list[Silence] = []
        self._chronicles: dict[tuple[str, str], chronicle.Chronicle] = {}
        self._revision = 0  # up to which all is known
        self._told: collections.deque[tuple[int, list[watch.Event]]] = collections.deque()
        self._news = threading.Event()
        self._stands = threading.Event()
        self._created = 0  # how many of the watches stand
        self._missed = False
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._look_on, self._ask)]

    def __enter__(self) -> Attendance:
        for thread in self._threads:
            thread.start()
        if not self._stands.wait(STANDS_S):
            self.close()
            raise errors.DeadlineExceeded(f"no watch of {self._prefix!r} stood within {STANDS_S:g} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()
        self._news.set()
        for thread in self._threads:
            thread.join()

    @property
    def stays(self) -> list[Stay]:
        """All places that were seen, the oldest first."""
        for where, (lease, ended) in self._whose.items():
            self._stays[where].lapsed = self._ended.get(lease) == ended
        return list(self._stays.values())

    @property
    def silences(self) -> list[Silence]:
        """When the cluster did not answer."""
        return self._silences

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all of it down, a JSON line each."""
        with open(path, "w", encoding="utf-8") as file:
            for fields in (*map(attrs.asdict, self.silences), *map(attrs.asdict, self.stays)):
                file.write(json.dumps(fields, separators=(",", ":")) + "\n")

    # The lines.

    def _look_on(self) -> None:
        while not self._closed.is_set():
            self._missed, self._created = False, 0
            self._told.clear()
            watches = [self._watcher.watch_prefix(each, self) for each in (self._prefix, self._sessions)]
            if self._begin(len(watches)):
                self._stands.set()
                while not self._missed and not self._closed.is_set():
                    self._news.wait()
                    self._news.clear()
                    self._take_in()
            for each in watches:
                each.cancel()

    def _begin(self, watches: int) -> bool:
        """Once the watches stand: who is there.  What happened since the last watch ended is not known."""
        while self._created < watches or not self._read():
            if self._missed or self._closed.wait(0.05):
                return False
        return True

    def _read(self) -> bool:
        request = kv.range_request(self._prefix)
        try:
            reply = self._client.read(request, self._client.deadline(None))
        except errors.CoordError:
            return False
        found: dict[tuple[str, str], list[KeyValue]] = {}
        for each in map(KeyValue.of, reply.kvs):
            path = census.parse(self._root, each.key)
            found.setdefault((path.kind, path.name), []).append(each)
        self._revision = reply.header.revision
        self._chronicles = {
            where: chronicle.Chronicle(self._root, *where, stored) for where, stored in found.items()
        }
        for stay in self._stays.values():
            if stay.gone_ns is None:
                stay.partial = True
        now_ns = clock_ns()
        for line in self._chronicles.values():
            for where, place in line.standing.everybody().items():
                if where not in self._stays:
                    self._stays[where] = self._stay(line.name, place, now_ns, partial=True)
            for place in line.standing.holders:
                stay = self._stays[place.key, place.fence]
                stay.turn_ns = stay.turn_ns or now_ns
        return True

    def _stay(self, name: str, place: kinds.Place, now_ns: int, partial: bool = False) -> Stay:
        key = place.key.decode(errors="replace")
        return Stay(key, name if self._named else "", place.fence, now_ns, partial=partial)

    def _take_in(self) -> None:
        while self._told:
            told_ns, events = self._told.popleft()
            for batch in chronicle.by_revision(each for each in events if each.mod_revision > self._revision):
                self._take_revision(told_ns, batch)

    def _take_revision(self, told_ns: int, events: list[watch.Event]) -> None:
        lines: dict[tuple[str, str], list[watch.Event]] = {}
        for event in events:
            if event.key.startswith(self._sessions):
                if event.deleted:
                    self._ended[int(event.key[len(self._sessions) :], 16)] = event.mod_revision
                continue
            path = census.parse(self._root, event.key)
            lines.setdefault((path.kind, path.name), []).append(event)
        for where, changes in lines.items():
            line = self._chronicles.setdefault(where, chronicle.Chronicle(self._root, *where))
            for each in line.take(changes):
                self._note(told_ns, each)

    def _note(self, told_ns: int, happening: chronicle.Happening) -> None:
        what, place = happening.what, happening.place
        where = place.key, place.fence
        if what is chronicle.What.JOINED:
            self._stays[where] = self._stay(happening.name, place, told_ns)
        elif what is chronicle.What.GRANTED:
            self._stays[where].turn_ns = self._stays[where].turn_ns or told_ns
        elif what in (chronicle.What.RELEASED, chronicle.What.LEFT):
            self._stays[where].gone_ns = told_ns
            self._whose[where] = place.lease, happening.revision

    # What the watches tell.

    def on_created(self, revision: int) -> None:
        self._created += 1

    def on_events(self, events: list[watch.Event]) -> None:
        self._told.append((clock_ns(), events))
        self._news.set()

    def on_gap(self, compacted: int) -> None:
        self._missed = True
        self._news.set()

    def on_refused(self, error: errors.CoordError) -> None:
        self.on_gap(0)

    # Whether the cluster answers.

    def _ask(self) -> None:
        request = messages.RangeRequest(key=self._prefix, count_only=True)
        answered_ns = clock_ns()
        while not self._closed.wait(ASKED_S):
            try:
                self._client.read(request, self._client.deadline(SILENT_S))
            except errors.CoordError:
                continue
            now_ns = clock_ns()
            if now_ns - answered_ns > SILENT_S * 1e9:
                self._silences.append(Silence(answered_ns, now_ns))
            answered_ns = now_ns
        if clock_ns() - answered_ns > SILENT_S * 1e9:
            self._silences.append(Silence(answered_ns, clock_ns()))
