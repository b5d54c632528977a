"""Purge: delete what is in a queue, and nothing that was put meanwhile by the time it counted."""

from __future__ import annotations

import typing

from coordkit import errors, keys
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.recipes.queue import names

if typing.TYPE_CHECKING:
    from coordkit.session import Link

PAGE = 40  # items a transaction, when each is looked at
ROUNDS = 100_000  # a bound for the loop: 4 million items


def purge(link: Link, layout: names.Layout, claimed: bool) -> int:
    """Delete items, the counts of their deliveries and delayed ones; claimed items only if told to.

    Raises:
        QuotaExceeded: Up to 3.4.19 and 3.5.6 etcd that is out of space refuses transactions that only delete.
            Then claimed items can only go with the others.

    Cost: 1 commit if nothing is claimed, or claimed items go, too; else 1 for each 40 items.
    """
    client = link.client
    whole = [layout.items, layout.attempts, layout.delayed, *([layout.claims] if claimed else [])]
    nothing_claimed = kv.create(layout.claims, keys.range_end(layout.claims)) == 0
    request = kv.txn_request(
        [] if claimed else [nothing_claimed],
        [kv.delete(range_, keys.range_end(range_)) for range_ in whole],
        [kv.delete(layout.delayed, keys.range_end(layout.delayed))],
    )
    request.key = layout.prefix
    try:
        result = client.txn(request, client.deadline(None))
    except errors.QuotaExceeded as error:
        if not claimed:
            holds.note(error, "with claimed=True it needs no space")
            raise
        # One after the other; the items first, so that nobody claims one whose count is gone.
        gone = [client.kv.delete_prefix(prefix) for prefix in whole]
        return gone[0] + gone[2]
    if result.succeeded:
        items, _, delayed, *_ = result.results
        return _count(items) + _count(delayed)
    return _count(result.results[0]) + _purge_free(link, layout)


def _purge_free(link: Link, layout: names.Layout) -> int:
    """A page of items at a time, each if nobody has claimed it."""
    client = link.client
    start, purged = b"", 0
    for _ in range(ROUNDS):
        page = kv.range(layout.items, keys_only=True, limit=PAGE, start=start)
        found = client.look([page], client.deadline(None)).found(0)
        ids = [id_ for each in found.kvs if (id_ := layout.id_of_item(each.key)) is not None]
        if ids:
            request = kv.txn_request([], [_delete_if_free(layout, id_) for id_ in ids])
            request.key = layout.items
            result = client.txn(request, client.deadline(None))
            purged += sum(result.inner(index).succeeded for index in range(len(ids)))
        if not found.more:
            break
        start = found.kvs[-1].key + b"\0"
    return purged


def _delete_if_free(layout: names.Layout, id_: str) -> kv.Op:
    item = layout.item(id_)
    return kv.nested(
        [kv.create(layout.claim(id_)) == 0, kv.create(item) > 0],
        [kv.delete(item), kv.delete(layout.attempt(id_))],
    )


def _count(result: kv.DeleteResult | typing.Any) -> int:
    assert isinstance(result, kv.DeleteResult)
    return result.deleted
