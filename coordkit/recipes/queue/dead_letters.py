"""Dead letters: items that could not be worked off, and why; to be looked at, put back, or dropped."""

from __future__ import annotations

import datetime
import json
import typing

import attrs

from coordkit import errors
from coordkit.etcd import kv
from coordkit.recipes.queue import names
from coordkit.session import Link

PAGE = 100


@attrs.frozen
class DeadLetter:
    """One of them."""

    id: str
    stored: bytes = attrs.field(repr=False)  # the item as it was put, not decoded
    why: str
    deliveries: int
    since: datetime.datetime | None
    revision: int = attrs.field(repr=False)  # its mod revision


class DeadLetters:
    """Those of one queue.  Iterable, oldest id first; a page of 100 at a time."""

    def __init__(self, link: Link, layout: names.Layout, title: str) -> None:
        self._link = link
        self._layout = layout
        self._title = title

    def __iter__(self) -> typing.Iterator[DeadLetter]:
        start = b""
        while True:
            found = self._read([kv.range(self._layout.dead, limit=PAGE, start=start)]).found(0)
            for each in found.kvs:
                letter = _letter(self._layout, each)
                if letter is not None:
                    yield letter
            if not found.more:
                return
            start = found.kvs[-1].key + b"\0"

    def __len__(self) -> int:
        return self._read([kv.range(self._layout.dead, count_only=True)]).found(0).count

    def get(self, id_: str) -> DeadLetter | None:
        """One of them; None when it is not there.  Cost: 1 round trip."""
        first = self._read([kv.get(self._key(id_))]).found(0).first
        return None if first is None else _letter(self._layout, first)

    def requeue(self, id_: str) -> bool:
        """Put one back into the queue, with its id, as if it had never been delivered.

        Returns:
            Whether it was there.

        Cost: 1 round trip and 1 commit.
        """
        letter = self.get(id_)
        if letter is None:
            return False
        key = self._key(id_)
        done = self._commit(
            [kv.mod(key) == letter.revision, kv.create(self._layout.item(id_)) == 0],
            [kv.put(self._layout.item(id_), letter.stored), kv.delete(key)],
        )
        return done.succeeded

    def drop(self, id_: str) -> bool:
        """Delete one for good; returns whether it was there.  Cost: 1 commit."""
        key = self._key(id_)
        return self._commit([kv.create(key) > 0], [kv.delete(key)]).succeeded

    def requeue_all(self) -> int:
        """Put all back; returns how many.  Cost: 2 round trips and 1 commit for each."""
        return sum(self.requeue(letter.id) for letter in self)

    def drop_all(self) -> int:
        """Delete all for good; returns how many.  Cost: 1 commit."""
        return self._link.client.kv.delete_prefix(self._layout.dead)

    def _key(self, id_: str) -> bytes:
        if not isinstance(id_, str) or not names.is_id(id_):
            raise errors.InvalidName(f"{id_!r} is no item's id")
        return self._layout.dead_letter(id_)

    def _read(self, ops: list[kv.Op]) -> kv.TxnResult:
        return self._commit([], ops)

    def _commit(self, when: list[kv.Compare], then: list[kv.Op]) -> kv.TxnResult:
        request = kv.txn_request(when, then)
        request.key = self._layout.dead
        client = self._link.client
        return client.txn(request, client.deadline(None))


def _letter(layout: names.Layout, stored: kv.KeyValue) -> DeadLetter | None:
    """What was stored, whoever wrote it; None for a foreign key."""
    id_ = layout.id_behind(layout.dead, stored.key)
    if id_ is None:
        return None
    head, _, item = stored.value.partition(b"\n")
    try:
        words = json.loads(head)
        why, deliveries, at_ms = str(words["why"]), int(words["deliveries"]), int(words["at_ms"])
        since = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.timezone.utc)
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return DeadLetter(
            id_, stored.value, "unknown: this was not written by coordkit", 0, None, stored.mod_revision
        )
    return DeadLetter(id_, item, why, deliveries, since, stored.mod_revision)
