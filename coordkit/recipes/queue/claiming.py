"""The transaction that claims: several items at once, each on its own conditions.

    if the session's epoch stands, and nothing has come in front since (where they were seen a while ago):
        for each item:  if nobody has claimed it, and it and the count of its deliveries are unchanged:
                            put its claim (leased, my nonce), count the delivery, read the item
    else: read the session key

When the reply is lost the session's epoch is ended, and whatever has my nonce by then is mine: nothing else
can come (`leased.py`).

Cost: 1 commit, however many items; 1 more if a reply was lost.
"""

from __future__ import annotations

import typing

from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.recipes.queue.delivery import Delivery, Desk
from coordkit.recipes.queue.window import Candidate


def claim(
    desk: Desk, candidates: typing.Sequence[Candidate], deadline: Deadline, seen_at: int | None = None
) -> list[Delivery] | None:
    """Claim what can still be claimed of these; in their order.

    Args:
        desk: Whose.
        candidates: What to claim.
        deadline: Of the caller.
        seen_at: The revision at which they were seen, if that was a while ago.

    Returns:
        What was claimed; None when something has come in front of the last of them since `seen_at`.

    Raises:
        SessionLost, Unavailable, DeadlineExceeded, Rejected: What may have been claimed returns with the
        session, or when this process sees it again.
    """
    session = desk.session
    nonce = b"%016x-%s" % (session.lease_id, session.nonce().encode())
    ids = {each.id for each in candidates}
    desk.claiming |= (
        ids  # until they are known to be ours, or not: a claim of ours that nobody knows is returned
    )
    try:
        written = session.write(
            [_take(desk, each, nonce) for each in candidates],
            lambda: [_find(desk, each, nonce) for each in candidates],
            deadline,
            () if seen_at is None else (_nothing_came(desk, candidates, seen_at),),
        )
        if written is None:
            return None
        deliveries = []
        for index, candidate in enumerate(candidates):
            result = written.result.inner(written.first + index)
            if result.succeeded:
                made = _found if written.looked else _taken
                deliveries.append(made(desk, candidate, result))
        desk.out.update(((each.id, each.revision), each) for each in deliveries)
    finally:
        desk.claiming -= ids
    return deliveries


def _nothing_came(desk: Desk, candidates: typing.Sequence[Candidate], seen_at: int) -> kv.Compare:
    """No item in front of the last of these is newer."""
    last = max(desk.layout.item(each.id) for each in candidates)
    return kv.mod(desk.layout.items, last) < seen_at + 1


def _take(desk: Desk, candidate: Candidate, nonce: bytes) -> kv.Op:
    layout, id_ = desk.layout, candidate.id
    item, claim_key, attempt = layout.item(id_), layout.claim(id_), layout.attempt(id_)
    return kv.nested(
        [
            kv.create(claim_key) == 0,
            kv.mod(item) == candidate.mod_revision,
            kv.version(attempt) == candidate.deliveries,
        ],
        [kv.put(claim_key, nonce, lease=desk.session.lease_id), kv.put(attempt, b""), kv.get(item)],
    )


def _taken(desk: Desk, candidate: Candidate, result: kv.TxnResult) -> Delivery:
    (item,) = result.found(2).kvs
    return Delivery(candidate.id, item.value, candidate.deliveries + 1, result.revision, desk)


def _find(desk: Desk, candidate: Candidate, nonce: bytes) -> kv.Op:
    layout, id_ = desk.layout, candidate.id
    claim_key = layout.claim(id_)
    return kv.nested(
        [kv.value(claim_key) == nonce],
        [kv.get(claim_key), kv.get(layout.attempt(id_)), kv.get(layout.item(id_))],
    )


def _found(desk: Desk, candidate: Candidate, result: kv.TxnResult) -> Delivery:
    claimed, count, item = (result.found(index).first for index in range(3))
    assert claimed is not None
    return Delivery(
        candidate.id,
        b"" if item is None else item.value,
        1 if count is None else count.version,
        claimed.create_revision,
        desk,
    )
