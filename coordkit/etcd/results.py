"""What etcd answers: keys, and the results of reads, writes and transactions."""

from __future__ import annotations

import typing

import attrs

from coordkit.wire import messages


@attrs.frozen
class KeyValue:
    """A key as etcd stores it."""

    key: bytes
    value: bytes = attrs.field(repr=False)
    create_revision: int
    mod_revision: int
    version: int
    lease: int

    @classmethod
    def of(cls, message: messages.KeyValue) -> KeyValue:
        """From the wire."""
        return cls(
            message.key,
            message.value,
            message.create_revision,
            message.mod_revision,
            message.version,
            message.lease,
        )


@attrs.frozen
class RangeResult:
    """What a read found."""

    kvs: tuple[KeyValue, ...]
    more: bool
    count: int

    @property
    def first(self) -> KeyValue | None:
        """The first key, or None."""
        return self.kvs[0] if self.kvs else None


@attrs.frozen
class PutResult:
    """What a put replaced, when that was asked for."""

    prev: KeyValue | None


@attrs.frozen
class DeleteResult:
    """How many keys a delete removed, and, when that was asked for, what they were."""

    deleted: int
    prev: tuple[KeyValue, ...]


Result: typing.TypeAlias = "RangeResult | PutResult | DeleteResult | TxnResult"


class TxnResult:
    """How a transaction went: which branch ran, at which revision, with what results."""

    __slots__ = ("_responses", "revision", "succeeded")

    def __init__(self, message: messages.TxnResponse, revision: int) -> None:
        self.succeeded = message.succeeded
        self.revision = revision
        self._responses = message.responses

    @property
    def results(self) -> tuple[Result, ...]:
        """The results of the branch's operations, in order."""
        return tuple(_result(reply, self.revision) for reply in self._responses)

    def found(self, index: int, first: int = 0) -> RangeResult:
        """The result of the branch's operation `index`, which is a read; its keys from the `first` one on."""
        reply = self._responses[index]
        assert reply.HasField("response_range")
        return range_result(reply.response_range, first)

    def inner(self, index: int) -> TxnResult:
        """The result of the branch's operation `index`, which is a nested transaction."""
        reply = self._responses[index]
        assert reply.HasField("response_txn")
        return TxnResult(reply.response_txn, self.revision)  # a nested reply carries no revision of its own

    def __repr__(self) -> str:
        return f"TxnResult(succeeded={self.succeeded}, revision={self.revision}, results={self.results})"


def range_result(message: messages.RangeResponse, first: int = 0) -> RangeResult:
    """From the wire; its keys from the `first` one on."""
    kvs = message.kvs[first:] if first else message.kvs
    return RangeResult(tuple(map(KeyValue.of, kvs)), message.more, message.count)


def _result(reply: messages.ResponseOp, revision: int) -> Result:
    kind = reply.WhichOneof("response")
    if kind == "response_range":
        return range_result(reply.response_range)
    if kind == "response_put":
        has_prev = reply.response_put.HasField("prev_kv")
        return PutResult(KeyValue.of(reply.response_put.prev_kv) if has_prev else None)
    if kind == "response_delete_range":
        deleted = reply.response_delete_range
        return DeleteResult(deleted.deleted, tuple(map(KeyValue.of, deleted.prev_kvs)))
    return TxnResult(reply.response_txn, revision)
