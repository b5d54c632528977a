"""Reads a namespace: few round trips, bounded memory for what is not looked at, one revision for all of it.

`survey` reads keys without values, a page at a time.  Where a page ends inside a primitive, the rest of that
one is counted by etcd and skipped: so a queue of a million items costs two reads, not a thousand.  `census`
then reads the values where they are small and say who stands there, as those of lines and of sessions.

Nothing here writes.
"""

from __future__ import annotations

import concurrent.futures
import typing
from collections.abc import Iterable

import attrs

from coordkit import errors, keys
from coordkit.etcd import client as clients
from coordkit.etcd.results import KeyValue
from coordkit.inspection import census as censuses
from coordkit.inspection import kinds
from coordkit.wire import messages

TIME_TO_LIVE = "/etcdserverpb.Lease/LeaseTimeToLive"

PAGE = 1_000
ASKING = 8  # requests for leases that are on their way at once
ATTEMPTS = 3  # etcd may compact the revision that is being read, between two pages


@attrs.frozen
class LeaseTime:
    """What etcd says of a lease, in whole seconds."""

    granted_s: int
    left_s: int


@attrs.frozen
class Survey:
    """A namespace's keys without their values; of large primitives only the first ones."""

    revision: int
    stored: list[KeyValue]
    skipped: dict[tuple[str, str], int]


class Reader:
    """Reads one namespace through one client; every request has the client's timeout."""

    def __init__(self, client: clients.Client, namespace: str) -> None:
        self.client = client
        self.namespace = namespace
        self.root = censuses.root_of(namespace)

    def census(self) -> censuses.Census:
        """Everything that is there, with the values of sessions and of the kinds whose values are small.

        Cost: 1 round trip, 1 for each of those kinds that is there, 1 for the sessions; more for more than
        1,000 keys.
        """
        return self._anew(self._census)

    def kind(self, *names: str) -> censuses.Census:
        """Primitives of some kinds, and the sessions.

        Cost: 1 round trip for each kind, 1 for the sessions; more for more than 1,000 keys.
        """
        prefixes = [keys.prefix(self.namespace, name) for name in (*names, censuses.SESSION)]
        return self._anew(lambda: self._take(prefixes))

    def primitive(self, kind: str, name: str) -> censuses.Census:
        """One primitive, and the sessions."""
        prefixes = [
            keys.prefix(self.namespace, kind, name),
            keys.prefix(self.namespace, censuses.SESSION),
        ]
        return self._anew(lambda: self._take(prefixes))

    def overview(self) -> censuses.Census:
        """Everything that is there, without any value: who somebody is stays unknown.

        Cost: that of `survey`.
        """
        found = self.survey()
        return censuses.take(self.namespace, found.stored, found.revision, found.skipped)

    def survey(self) -> Survey:
        """The namespace without values.

        Cost: 1 round trip for each 1,000 keys, at most 2 for each primitive that has more.
        """
        return self._anew(self._survey)

    def lease_times(self, leases: Iterable[int]) -> dict[int, LeaseTime | None]:
        """How long each of them lives if nothing renews it; None for one that is over or is not told.

        Cost: 1 round trip for each, eight of them at a time.
        """
        wanted = sorted({each for each in leases if each})
        if not wanted:
            return {}
        with concurrent.futures.ThreadPoolExecutor(min(ASKING, len(wanted))) as pool:
            return dict(zip(wanted, pool.map(self._lease_time, wanted), strict=True))

    def lines(self) -> tuple[list[KeyValue], int]:
        """The keys of all lines and sessions, and the revision at which they were so."""
        prefixes = [keys.prefix(self.namespace, each) for each in (*kinds.lined(), censuses.SESSION)]
        return self._anew(lambda: self._stored(prefixes))

    def some_keys(self) -> list[KeyValue]:
        """Some of the namespace's keys, without their values.  Cost: 1 round trip."""
        return list(map(KeyValue.of, self.client.read(self._first_page(), self.client.deadline(None)).kvs))

    def state(self, prefix: bytes) -> tuple[dict[bytes, int], int]:
        """The keys under a prefix, each with the revision of its last change; and that of the answer."""
        stored, revision = self._read(prefix)
        return {each.key: each.mod_revision for each in stored}, revision

    def state_at(self, prefix: bytes, revision: int) -> list[KeyValue]:
        """The keys under a prefix as they were.

        Raises:
            Gap: That revision is compacted.
        """
        return self._read(prefix, revision)[0]

    # How.

    def _lease_time(self, lease: int) -> LeaseTime | None:
        request = messages.LeaseTimeToLiveRequest(ID=lease)
        try:
            reply = self.client.unary(
                TIME_TO_LIVE,
                request,
                messages.LeaseTimeToLiveResponse,
                self.client.deadline(None),
                repeatable=True,
            )
        except errors.Rejected:
            return None
        return LeaseTime(reply.grantedTTL, reply.TTL) if reply.TTL >= 0 else None

    T = typing.TypeVar("T")

    def _anew(self, read: typing.Callable[[], T]) -> T:
        """Read at one revision; when etcd compacts that one meanwhile, at a newer one."""
        for _ in range(ATTEMPTS - 1):
            try:
                return read()
            except errors.Gap:
                pass
        return read()

    def _take(self, prefixes: Iterable[bytes]) -> censuses.Census:
        return censuses.take(self.namespace, *self._stored(prefixes))

    def _stored(self, prefixes: Iterable[bytes]) -> tuple[list[KeyValue], int]:
        revision = 0
        stored: list[KeyValue] = []
        for prefix in prefixes:
            found, revision = self._read(prefix, revision)
            stored += found
        return stored, revision

    def _census(self) -> censuses.Census:
        survey = self._survey()
        revision = survey.revision
        found = {censuses.parse(self.root, each.key).kind for each in survey.stored}
        read = [each for each in (*kinds.small(), censuses.SESSION) if each in found]
        stored = [each for each in survey.stored if censuses.parse(self.root, each.key).kind not in read]
        for kind in read:
            stored += self._read(keys.prefix(self.namespace, kind), revision)[0]
        skipped = {where: count for where, count in survey.skipped.items() if where[0] not in read}
        return censuses.take(self.namespace, stored, revision, skipped)

    def _read(self, prefix: bytes, revision: int = 0) -> tuple[list[KeyValue], int]:
        """All keys under a prefix, as they were at that revision, by default now; and which one it was."""
        found: list[KeyValue] = []
        request = messages.RangeRequest(
            key=prefix, range_end=keys.range_end(prefix), limit=PAGE, revision=revision
        )
        while True:
            reply = self.client.read(request, self.client.deadline(None))
            request.revision = request.revision or reply.header.revision
            found += map(KeyValue.of, reply.kvs)
            if not reply.more:
                return found, request.revision
            request.key = reply.kvs[-1].key + b"\0"

    def _first_page(self) -> messages.RangeRequest:
        return messages.RangeRequest(
            key=self.root, range_end=keys.range_end(self.root), limit=PAGE, keys_only=True
        )

    def _survey(self) -> Survey:
        request = self._first_page()
        stored: list[KeyValue] = []
        skipped: dict[tuple[str, str], int] = {}
        while True:
            reply = self.client.read(request, self.client.deadline(None))
            request.revision = request.revision or reply.header.revision
            stored += map(KeyValue.of, reply.kvs)
            if not reply.more:
                return Survey(request.revision, stored, skipped)
            last = reply.kvs[-1].key
            request.key = last + b"\0"
            inside = _inside(self.root, last)
            if inside is not None:
                rest = messages.RangeRequest(
                    key=request.key,
                    range_end=keys.range_end(inside),
                    revision=request.revision,
                    count_only=True,
                )
                path = censuses.parse(self.root, last)
                count = self.client.read(rest, self.client.deadline(None)).count
                skipped[path.kind, path.name] = skipped.get((path.kind, path.name), 0) + count
                request.key = rest.range_end


def _inside(root: bytes, key: bytes) -> bytes | None:
    """The prefix of the primitive inside which a key is; None when it stands for one by itself."""
    parts = key[len(root) :].split(b"/", 2)
    return None if len(parts) < 3 else root + b"/".join(parts[:2]) + b"/"
