"""The transaction that claims: several items at once, each on its own conditions.

    if the session's epoch stands:
        for each item:  if nobody has claimed it, and it is unchanged:
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


def claim(desk: Desk, candidates: typing.Sequence[Candidate], deadline: Deadline) -> list[Delivery]:
    """Claim what can still be claimed of these; in their order.

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
        )
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


def _take(desk: Desk, candidate: Candidate, nonce: bytes) -> kv.Op:
    layout, id_ = desk.layout, candidate.id
    item, claim_key = layout.item(id_), layout.claim(id_)
    return kv.nested(
        [kv.create(claim_key) == 0, kv.mod(item) == candidate.mod_revision],
        [
            kv.put(claim_key, nonce, lease=desk.session.lease_id),
            kv.put(layout.attempt(id_), b"", prev=True),
            kv.get(item),
        ],
    )


def _taken(desk: Desk, candidate: Candidate, result: kv.TxnResult) -> Delivery:
    _, count, item = result.results
    assert isinstance(count, kv.PutResult) and isinstance(item, kv.RangeResult)
    attempt = count.prev.version + 1 if count.prev is not None else 1
    return Delivery(candidate.id, item.kvs[0].value, attempt, result.revision, desk)


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
