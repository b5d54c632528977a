"""The floor: what the same work costs a client that does nothing but that work.

- A pair: the two transactions of an uncontended acquire and release, back to back, serialized beforehand.
- A hand-over: one process sends a delete; another, blocked on its watch, has the event.

Both are measured on the server of the run, in the same run, so that every figure can be given as a multiple
of its floor. Requests are built with the message classes before the clock starts, replies are parsed after it
has stopped. The one number that a request takes from a reply, the create revision that a release compares, is
patched in by hand.

Cost: a pair is two commits; a hand-over is two commits and one event.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordkit.cli.bench import raw
from coordkit.testing.history import clock_ns
from coordkit.wire import messages

_LEASE_TTL_S = 600  # longer than any run; revoked at its end
_PLACEHOLDER = (1 << 63) - 1  # as a varint it is as wide as any revision can be
_WIDTH = 9


class PairFloor:
    """Joins an empty line and leaves it, again and again."""

    def __init__(self, endpoint: str, folder: str) -> None:
        self._client = _Client(endpoint, folder)
        session_revision = self._client.put_session()
        self._txn = self._client.headers("KV/Txn")
        self._join = raw.envelope(_join(self._client, session_revision).SerializeToString())
        self._release = bytearray(raw.envelope(_release(self._client).SerializeToString()))
        self._patch = self._release.index(_varint(_PLACEHOLDER))

    def round(self, until_ns: int) -> dict[str, list[int]]:
        """Nanoseconds of every join and of every release until then."""
        call, txn, join, release, patch = self._client.call, self._txn, self._join, self._release, self._patch
        joins: list[int] = []
        releases: list[int] = []
        replies: list[bytes] = []
        start = clock_ns()
        while start < until_ns:
            joined = call(txn, join)
            middle = clock_ns()
            release[patch : patch + _WIDTH] = _varint(revision_of(joined))
            released = call(txn, release)
            end = clock_ns()
            joins.append(middle - start)
            releases.append(end - middle)
            replies += (joined, released)
            start = end
        _require_success(replies)
        return {"joins_ns": joins, "releases_ns": releases}

    def close(self) -> None:
        self._client.close()


class DeleteFloor:
    """The half of a hand-over that lets go."""

    def __init__(self, endpoint: str, folder: str) -> None:
        self._client = _Client(endpoint, folder)
        self._client.put_session()

    def round(self, samples: int) -> dict[str, list[int]]:
        """The revision of every delete, and when it was sent."""
        client = self._client
        headers = client.headers("KV/DeleteRange")
        delete = raw.envelope(messages.DeleteRangeRequest(key=client.key).SerializeToString())
        sent, replies = [], []
        for _ in range(samples):
            client.put(client.key)
            sent.append(clock_ns())
            replies.append(client.call(headers, delete))
        return {"revisions": [revision_of(reply) for reply in replies], "sent_ns": sent}

    def close(self) -> None:
        self._client.close()


class WatchFloor:
    """The half of a hand-over that waits."""

    def __init__(self, endpoint: str, folder: str) -> None:
        self._client = _Client(endpoint, folder)
        creation = messages.WatchCreateRequest(
            key=self._client.key, filters=[messages.WatchCreateRequest.FilterType.Value("NOPUT")]
        )
        request = messages.WatchRequest(create_request=creation)
        self._messages = self._client.watch(raw.envelope(request.SerializeToString()))
        if not messages.WatchResponse.FromString(next(self._messages)).created:
            raise raw.RawError("the watch was not created")

    def round(self, samples: int) -> dict[str, list[int]]:
        """The revision of every event, and when it was there."""
        revisions: list[int] = []
        received: list[int] = []
        while len(revisions) < samples:
            message, moment = next(self._messages), clock_ns()
            events = messages.WatchResponse.FromString(message).events
            revisions += [event.kv.mod_revision for event in events]
            received += [moment] * len(events)
        return {"revisions": revisions, "received_ns": received}

    def close(self) -> None:
        self._client.close()


def hand_overs_ns(deleted: dict[str, list[int]], seen: dict[str, list[int]]) -> list[int]:
    """From each delete's sending to its event in the other process."""
    arrived = dict(zip(seen["revisions"], seen["received_ns"], strict=True))
    return [arrived[r] - sent for r, sent in zip(deleted["revisions"], deleted["sent_ns"], strict=True)]


def revision_of(reply: bytes) -> int:
    """`header.revision` of a reply, the rest unparsed: field 3 of field 1, after two other varints."""
    position = 2
    while reply[position] != 0x18:
        position += 1
        while reply[position] & 0x80:
            position += 1
        position += 1
    revision, shift = 0, 0
    while True:
        position += 1
        revision |= (reply[position] & 0x7F) << shift
        if reply[position] < 0x80:
            return revision
        shift += 7


class _Client:
    """A raw client, and one place in a line of its own."""

    def __init__(self, endpoint: str, folder: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._authority = endpoint
        self._raw = raw.RawClient(host.strip("[]"), int(port))
        self._lease = 0
        self.call = self._raw.call
        self.line = f"{folder}/line/".encode()
        self.key = self.line + b"%016x-%016x" % (1, 1)
        self.session_key = f"{folder}/session".encode()

    def headers(self, method: str) -> bytes:
        return raw.header_block(f"/etcdserverpb.{method}", self._authority)

    def watch(self, request: bytes) -> Iterator[bytes]:
        return self._raw.stream(self.headers("Watch/Watch"), request)

    def put_session(self) -> int:
        """Grant a lease and hang the session key on it; the key's revision."""
        grant = raw.envelope(messages.LeaseGrantRequest(TTL=_LEASE_TTL_S).SerializeToString())
        reply = self.call(self.headers("Lease/LeaseGrant"), grant)
        self._lease = messages.LeaseGrantResponse.FromString(reply).ID
        return revision_of(self.put(self.session_key))

    def put_request(self, key: bytes) -> messages.PutRequest:
        return messages.PutRequest(key=key, value=b"floor", lease=self._lease)

    def put(self, key: bytes) -> bytes:
        return self.call(self.headers("KV/Put"), raw.envelope(self.put_request(key).SerializeToString()))

    def close(self) -> None:
        try:
            if self._lease:
                revoke = messages.LeaseRevokeRequest(ID=self._lease)
                self.call(self.headers("Lease/LeaseRevoke"), raw.envelope(revoke.SerializeToString()))
        finally:
            self._raw.close()


def _join(client: _Client, session_revision: int) -> messages.TxnRequest:
    compares = [
        messages.Compare(target=messages.Compare.CREATE, key=client.key, create_revision=0),
        messages.Compare(target=messages.Compare.MOD, key=client.session_key, mod_revision=session_revision),
    ]
    line = messages.RangeRequest(
        key=client.line,
        range_end=client.line[:-1] + b"0",  # "0" follows "/"
        limit=17,
        keys_only=True,
        sort_order=messages.RangeRequest.DESCEND,
        sort_target=messages.RangeRequest.CREATE,
    )
    success = [
        messages.RequestOp(request_put=client.put_request(client.key)),
        messages.RequestOp(request_range=line),
    ]
    return messages.TxnRequest(
        compare=compares, success=success, failure=[_get(client.key), _get(client.session_key)]
    )


def _release(client: _Client) -> messages.TxnRequest:
    delete = messages.DeleteRangeRequest(key=client.key)
    mine = messages.Compare(target=messages.Compare.CREATE, key=client.key, create_revision=_PLACEHOLDER)
    return messages.TxnRequest(
        compare=[mine],
        success=[messages.RequestOp(request_delete_range=delete)],
        failure=[_get(client.session_key)],
    )


def _get(key: bytes) -> messages.RequestOp:
    return messages.RequestOp(request_range=messages.RangeRequest(key=key))


def _varint(value: int) -> bytes:
    """Always nine bytes wide, which protobuf's readers accept."""
    return bytes((value >> shift) & 0x7F | 0x80 for shift in range(0, 56, 7)) + bytes([value >> 56])


def _require_success(replies: list[bytes]) -> None:
    """Only completed work counts: a compare that failed would make the floor too low."""
    failed = sum(not messages.TxnResponse.FromString(reply).succeeded for reply in replies)
    if failed:
        raise raw.RawError(f"{failed} of the floor's {len(replies)} transactions did nothing")
