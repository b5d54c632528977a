"""Keys, comparisons, operations and transactions.

A transaction reads like the algorithm that it is part of:

    txn.when(kv.create(key) == 0, kv.mod(session_key) == epoch)
       .then(kv.put(key, value, lease=lease_id), kv.range(prefix, newest_first=True, limit=17))
       .otherwise(kv.get(key), kv.get(session_key))
       .commit()

Compares and operations are serialized when they are written down: constant ones can be kept, and putting a
transaction together is no more than joining bytes (a message's fields may come in any order).  A str key or
value is encoded as UTF-8.
"""

from __future__ import annotations

import functools
import operator
import typing

import attrs

from coordkit import errors, keys
from coordkit.etcd.results import DeleteResult, KeyValue, PutResult, RangeResult, TxnResult, range_result
from coordkit.wire import messages

if typing.TYPE_CHECKING:
    from coordkit.etcd import client as clients

DEFAULT_PAGE = 1_000  # keys per call when a prefix is read whole

_COUNT_ONLY = messages.RangeRequest(count_only=True).SerializeToString()

_SORT_CREATE = messages.RangeRequest.CREATE
_ASCEND = messages.RangeRequest.ASCEND
_DESCEND = messages.RangeRequest.DESCEND


@attrs.frozen
class Compare:
    """A condition of a transaction, true or false at one revision."""

    key: bytes
    encoded: bytes = attrs.field(repr=False)


class Target:
    """The number of a key that is to be compared; 0 when the key does not exist."""

    __slots__ = ("_field", "_key", "_kind", "_range_end")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, field: str, kind: int, key: bytes | str, range_end: bytes | str = b"") -> None:
        self._field = field
        self._kind = kind
        self._key = key if type(key) is bytes else keys.to_bytes(key, "key")
        self._range_end = range_end if type(range_end) is bytes else keys.to_bytes(range_end, "range_end")

    def _compare(self, result: int, to: object) -> Compare:
        if type(to) is int and 0 <= to < 2**63 and not self._range_end and self._field in _NUMBERS:
            message = _compared(result, self._kind, self._field) + _varint(to)
            before, before_key = _compare_frame(len(message), len(self._key))
            return Compare(self._key, before + message + before_key + self._key)
        number: dict[str, typing.Any] = {
            self._field: keys.to_bytes(typing.cast(bytes, to))
            if self._field == "value"
            else operator.index(typing.cast(int, to))
        }
        message = messages.Compare(
            result=result, target=self._kind, range_end=self._range_end, **number
        ).SerializeToString()
        return Compare(self._key, _field(1, message + _field(3, self._key)))

    def __eq__(self, to: object) -> Compare:  # type: ignore[override]
        return self._compare(messages.Compare.EQUAL, to)

    def __ne__(self, to: object) -> Compare:  # type: ignore[override]
        return self._compare(messages.Compare.NOT_EQUAL, to)

    def __gt__(self, to: object) -> Compare:
        return self._compare(messages.Compare.GREATER, to)

    def __lt__(self, to: object) -> Compare:
        return self._compare(messages.Compare.LESS, to)


#: Compared numbers, and the fields of the message that they are.
_NUMBERS = {"version": 4, "create_revision": 5, "mod_revision": 6}


@functools.lru_cache(maxsize=64)
def _compared(result: int, kind: int, field: str) -> bytes:
    """How the message begins, up to the number."""
    return messages.Compare(result=result, target=kind).SerializeToString() + bytes([_NUMBERS[field] << 3])


@functools.lru_cache(maxsize=4096)
def _compare_frame(size: int, key_size: int) -> tuple[bytes, bytes]:
    """What stands before the rest, and before the key."""
    before_key = _head(3, key_size)
    return _head(1, size + len(before_key) + key_size), before_key


def create(key: bytes | str, range_end: bytes | str = b"") -> Target:
    """The create revision; with a range, that of each key in it (0 if there is none)."""
    return Target("create_revision", messages.Compare.CREATE, key, range_end)


def mod(key: bytes | str, range_end: bytes | str = b"") -> Target:
    """The revision of the last change."""
    return Target("mod_revision", messages.Compare.MOD, key, range_end)


def version(key: bytes | str, range_end: bytes | str = b"") -> Target:
    """How often the key was put since it was created."""
    return Target("version", messages.Compare.VERSION, key, range_end)


def value(key: bytes | str) -> Target:
    """The value, as bytes; every comparison with a missing key is false."""
    return Target("value", messages.Compare.VALUE, key)


@attrs.frozen
class Op:
    """One operation of a transaction: a serialized RequestOp."""

    encoded: bytes = attrs.field(repr=False)


def put(key: bytes | str, stored: bytes | str, lease: int = 0, prev: bool = False) -> Op:
    """Write a key; with `prev`, the result carries what was there before."""
    name, value = _key(key), keys.to_bytes(stored)
    options = _put_options(lease, prev) if lease or prev else b""
    before_name, before_value = _put_frame(len(name), len(value), len(options))
    return Op(before_name + name + before_value + value + options)


@functools.lru_cache(maxsize=4096)
def _put_frame(key_size: int, value_size: int, options_size: int) -> tuple[bytes, bytes]:
    """What stands before the key, and before the value."""
    before_key, before_value = _head(1, key_size), _head(2, value_size)
    size = len(before_key) + key_size + len(before_value) + value_size + options_size
    return _head(2, size) + before_key, before_value


@functools.lru_cache(maxsize=256)
def _put_options(lease: int, prev: bool) -> bytes:
    return messages.PutRequest(lease=lease, prev_kv=prev).SerializeToString()


def get(key: bytes | str) -> Op:
    """Read one key."""
    name = _key(key)
    return Op(_key_frame(1, len(name)) + name)


@functools.lru_cache(maxsize=1024)
def _key_frame(kind: int, size: int) -> bytes:
    """What stands before the key in an operation that has nothing else."""
    before_key = _head(1, size)
    return _head(kind, len(before_key) + size) + before_key


def count(key: bytes | str) -> Op:
    """Whether a key is there, without its value: its result's `count`."""
    return Op(_field(1, _field(1, _key(key)) + _COUNT_ONLY))


def range(
    prefix: bytes | str,
    *,
    keys_only: bool = False,
    count_only: bool = False,
    newest_first: bool = False,
    oldest_first: bool = False,
    limit: int = 0,
    max_create_revision: int = 0,
    start: bytes = b"",
    end: bytes = b"",
) -> Op:
    """Read all keys under a prefix, in key order from `start` on, or in the order of their creation.

    With `end`, those between `start` and it, whatever their prefix.
    """
    request = range_request(
        prefix,
        keys_only=keys_only,
        count_only=count_only,
        newest_first=newest_first,
        oldest_first=oldest_first,
        limit=limit,
        max_create_revision=max_create_revision,
        start=start,
        end=end,
    )
    return Op(_field(1, request.SerializeToString()))


def range_request(
    prefix: bytes | str,
    *,
    keys_only: bool = False,
    count_only: bool = False,
    newest_first: bool = False,
    oldest_first: bool = False,
    limit: int = 0,
    max_create_revision: int = 0,
    start: bytes = b"",
    end: bytes = b"",
) -> messages.RangeRequest:
    """The request behind `range`."""
    whole = keys.to_bytes(prefix, "prefix")
    request = messages.RangeRequest(
        key=start or whole or b"\0",
        range_end=end or keys.range_end(whole),
        keys_only=keys_only,
        count_only=count_only,
        limit=limit,
        max_create_revision=max_create_revision,
    )
    if newest_first or oldest_first:
        request.sort_target = _SORT_CREATE
        request.sort_order = _DESCEND if newest_first else _ASCEND
    return request


def delete(key: bytes | str, range_end: bytes | str = b"", prev: bool = False) -> Op:
    """Delete a key, or a range of them; with `prev`, the result carries what they were."""
    name = _key(key)
    if not (range_end or prev):
        return Op(_key_frame(3, len(name)) + name)
    end = keys.to_bytes(range_end, "range_end")
    options = messages.DeleteRangeRequest(range_end=end, prev_kv=prev).SerializeToString()
    return Op(_field(3, _field(1, name) + options))


def nested(
    when: typing.Iterable[Compare], then: typing.Iterable[Op], otherwise: typing.Iterable[Op] = ()
) -> Op:
    """A transaction within a transaction; its compares see the state before the outer one."""
    return Op(_field(4, txn_request(when, then, otherwise).SerializeToString()))


def within(request: TxnRequest) -> Op:
    """A transaction that was put together, within another."""
    return Op(_field(4, request.SerializeToString()))


class TxnRequest:
    """A transaction as it travels: a serialized TxnRequest."""

    __slots__ = ("_encoded", "key")

    def __init__(self, key: bytes, encoded: bytes) -> None:
        #: What it is about, for error messages.
        self.key = key
        self._encoded = encoded

    def SerializeToString(self) -> bytes:
        """Its bytes."""
        return self._encoded


def txn_request(
    when: typing.Iterable[Compare], then: typing.Iterable[Op], otherwise: typing.Iterable[Op] = ()
) -> TxnRequest:
    """Compares and operations, put together."""
    key = b""
    parts = []
    for condition in when:
        key = key or condition.key
        parts.append(condition.encoded)
    for number, ops in ((2, then), (3, otherwise)):
        for op in ops:
            encoded = op.encoded
            parts += (_head(number, len(encoded)), encoded)
    return TxnRequest(key, b"".join(parts))


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    return _head(number, len(payload)) + payload


@functools.lru_cache(maxsize=4096)  # few sizes make up most of what is sent
def _head(number: int, size: int) -> bytes:
    return bytes([number << 3 | 2]) + _varint(size)


def _varint(number: int) -> bytes:
    parts = []
    while number >= 128:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


class Txn:
    """A transaction under construction: compares, and what to do in either case."""

    def __init__(self, client: clients.Client, when: typing.Iterable[Compare] = ()) -> None:
        self._client = client
        self._when = list(when)
        self._then: list[Op] = []
        self._otherwise: list[Op] = []

    def when(self, *compares: Compare) -> Txn:
        """Add conditions; all must hold."""
        self._when.extend(_checked(compares, Compare))
        return self

    def then(self, *ops: Op) -> Txn:
        """Add what to do when all conditions hold."""
        self._then.extend(_checked(ops, Op))
        return self

    def otherwise(self, *ops: Op) -> Txn:
        """Add what to do when one does not."""
        self._otherwise.extend(_checked(ops, Op))
        return self

    def parts(self) -> tuple[list[Compare], list[Op], list[Op]]:
        """Conditions, what to do if they hold, and what otherwise: to be made part of another transaction."""
        return list(self._when), list(self._then), list(self._otherwise)

    def commit(self, timeout: float | None = None) -> TxnResult:
        """Send it.

        Args:
            timeout: Seconds; None takes the client's request timeout, -1 waits for ever.

        Returns:
            Which branch ran, and its results in order.

        Raises:
            Unavailable: `outcome` says whether it may have been applied.
            DeadlineExceeded: The same.
            Rejected: etcd refused it.

        Cost: 1 commit; no disk sync where it only reads; 2 round trips where it has no operations.
        """
        request = txn_request(self._when, self._then, self._otherwise)
        deadline = self._client.deadline(timeout)
        if self._when and not self._then and not self._otherwise:
            return self._client.judge(request, deadline)
        return self._client.txn(request, deadline)


Item = typing.TypeVar("Item")


def _checked(items: tuple[Item, ...], kind: type[Item]) -> tuple[Item, ...]:
    for item in items:
        if not isinstance(item, kind):
            raise errors.UsageError(f"expected a {kind.__name__}, not {type(item).__name__}")
    return items


class KV:
    """Raw keys: no prefix is added.  A str key or value is encoded as UTF-8.

    Every method takes `timeout` in seconds: None for the client's request timeout, -1 for ever.
    """

    def __init__(self, client: clients.Client) -> None:
        self._client = client

    def put(
        self, key: bytes | str, stored: bytes | str, lease: int | None = None, timeout: float | None = None
    ) -> int:
        """Write a key; returns the revision.  Cost: 1 commit.

        Args:
            key: Which.
            stored: What.
            lease: The id of the lease that the key hangs on.
            timeout: Seconds.

        Raises:
            Unavailable: `outcome` says whether it may have been applied; nothing is retried if so.
            Rejected: etcd refused it.
        """
        request = messages.PutRequest(
            key=_key(key), value=keys.to_bytes(stored), lease=0 if lease is None else lease
        )
        reply = self._client.unary(PUT, request, messages.PutResponse, self._client.deadline(timeout))
        return reply.header.revision

    def get(self, key: bytes | str, timeout: float | None = None) -> KeyValue | None:
        """Read a key, linearizably; None when it does not exist.  Cost: 1 round trip, retried if need be."""
        request = messages.RangeRequest(key=_key(key))
        reply = self._client.read(request, self._client.deadline(timeout))
        return KeyValue.of(reply.kvs[0]) if reply.kvs else None

    def range(self, prefix: bytes | str, timeout: float | None = None) -> list[KeyValue]:
        """All keys that start with `prefix`, in key order, as they were at one revision.

        Cost: 1 round trip for each 1,000 keys.
        """
        start = keys.to_bytes(prefix, "prefix")
        deadline = self._client.deadline(timeout)
        request = range_request(start, limit=DEFAULT_PAGE)
        found: list[KeyValue] = []
        while True:
            reply = self._client.read(request, deadline)
            found.extend(map(KeyValue.of, reply.kvs))
            if not reply.more:
                return found
            request.key = reply.kvs[-1].key + b"\0"
            request.revision = request.revision or reply.header.revision

    def delete(self, key: bytes | str, timeout: float | None = None) -> bool:
        """Delete a key; returns whether it was there.  Cost: 1 commit."""
        return self._delete(_key(key), b"", timeout) > 0

    def delete_prefix(self, prefix: bytes | str, timeout: float | None = None) -> int:
        """Delete all keys that start with `prefix`, which must not be empty; returns how many there were.

        Cost: 1 commit.
        """
        start = _key(prefix)
        return self._delete(start, keys.range_end(start), timeout)

    def txn(self) -> Txn:
        """A transaction to be filled: `.when(...)`, `.then(...)`, `.otherwise(...)`, `.commit()`."""
        return Txn(self._client)

    def _delete(self, key: bytes, range_end: bytes, timeout: float | None) -> int:
        request = messages.DeleteRangeRequest(key=key, range_end=range_end)
        deadline = self._client.deadline(timeout)
        return self._client.unary(DELETE, request, messages.DeleteRangeResponse, deadline).deleted


PUT = "/etcdserverpb.KV/Put"
DELETE = "/etcdserverpb.KV/DeleteRange"


def _key(key: bytes | str) -> bytes:
    encoded = key if type(key) is bytes else keys.to_bytes(key, "key")
    if not encoded:
        raise errors.InvalidName("a key must not be empty")
    return encoded


__all__ = [
    "KV",
    "Compare",
    "DeleteResult",
    "KeyValue",
    "Op",
    "PutResult",
    "RangeResult",
    "Target",
    "Txn",
    "TxnRequest",
    "TxnResult",
    "count",
    "create",
    "delete",
    "get",
    "mod",
    "nested",
    "put",
    "range",
    "range_request",
    "range_result",
    "txn_request",
    "value",
    "version",
    "within",
]
