"""What any consumer does for all of them, when it looks at the queue.

Delayed items that are due move to the items; the due times are wall-clock times, so clocks that differ move
items early or late.  A claim of a consumer that is alive but stuck is ended after `ack_wait`: by its own
process, or, should that one be stuck as a whole, by another consumer, which has seen the claim for longer
than that by its own clock.  A claim of ours that no delivery of ours stands for is given back.

Every step compares what was seen; two consumers may do the same at the same time.
"""

from __future__ import annotations

import datetime
import math
import typing

from coordkit import errors
from coordkit.deadline import boottime
from coordkit.etcd import kv
from coordkit.recipes.queue import names
from coordkit.recipes.queue.delivery import Desk
from coordkit.recipes.queue.window import Claim
from coordkit.session import Link

LONGEST_DELAY_S = 10**10
MOST_PROMOTED = 32
MOST_BYTES = 2**20
GRACE, GRACE_S = 1.25, 1.0  # a stuck claim lasts so many times its ack_wait, and so much longer


def now_ms() -> int:
    """Wall-clock time, for due times alone."""
    return round(datetime.datetime.now(datetime.timezone.utc).timestamp() * 1000)


def is_due(due_ms: int) -> bool:
    """Whether the time has come."""
    return due_ms <= now_ms()


def seconds_until(due_ms: int) -> float:
    """How long it is until then."""
    return max(0.0, (due_ms - now_ms()) / 1000)


def due_in(delay_s: float, what: str = "delay") -> int | None:
    """The due time after so many seconds; None for 0.

    Raises:
        InvalidValue: Negative, more than three centuries, or no number.
    """
    if (
        isinstance(delay_s, bool)
        or not isinstance(delay_s, (int, float))
        or not 0 <= delay_s < LONGEST_DELAY_S
    ):
        bounds = f"0 or more and less than {LONGEST_DELAY_S:.0e}"
        raise errors.InvalidValue(f"{what} must be a number of seconds, {bounds}, not {delay_s!r}")
    return now_ms() + math.ceil(delay_s * 1000) if delay_s else None


def promote(link: Link, layout: names.Layout) -> bool:
    """Move what is due to the items, some of it at a time; False if there was nothing that could be.

    Cost: 1 round trip and 1 commit.
    """
    client = link.client
    delayed = kv.range(layout.delayed, limit=MOST_PROMOTED)
    found = client.look([delayed], client.deadline(None)).found(0)
    ops: list[kv.Op] = []
    size_bytes = 0
    for each in found.kvs:
        named = layout.of_delayed(each.key)
        if named is None or not is_due(named[0]):
            continue
        size_bytes += len(each.value)
        if ops and size_bytes > MOST_BYTES:
            break
        ops.append(_move(each, layout.item(named[1])))
    if not ops:
        return False
    try:
        client.txn(kv.txn_request([], ops), client.deadline(None))
    except errors.Rejected:
        # Two of one name, or one too large: the others go on.
        return sum(_try(link, op) for op in ops) > 0
    return True


def _move(delayed: kv.KeyValue, item: bytes) -> kv.Op:
    """If it is still there and unchanged: from the delayed ones to the items, unless it is there already."""
    return kv.nested(
        [kv.mod(delayed.key) == delayed.mod_revision],
        [kv.nested([kv.create(item) == 0], [kv.put(item, delayed.value)]), kv.delete(delayed.key)],
    )


def _try(link: Link, op: kv.Op) -> bool:
    try:
        link.client.txn(kv.txn_request([], [op]), link.client.deadline(None))
    except errors.Rejected:
        return False
    return True


def return_orphans(desk: Desk, claims: typing.Iterable[Claim], before: Known) -> None:
    """Give back claims of ours that no delivery stands for: their transaction came after we gave it up.

    Args:
        desk: Ours.
        claims: What a look has shown.
        before: What was known before that look: a claim that was, and is not any more, has ended meanwhile.
    """
    strange = [claim for claim in claims if claim.lease == desk.session.lease_id and claim not in before]
    if strange:
        now = Known(desk)
        for claim in strange:
            if claim not in now:
                _end_claim(desk, claim)


class Known:
    """The claims that a process knows to be its own, or on their way."""

    def __init__(self, desk: Desk) -> None:
        # In this order: what is claimed is out before it is on its way no more.
        self._claiming = set(desk.claiming)
        self._out = set(desk.out)

    def __contains__(self, claim: Claim) -> bool:
        return claim.id in self._claiming or (claim.id, claim.create_revision) in self._out


def _end_claim(desk: Desk, claim: Claim) -> None:
    key = desk.layout.claim(claim.id)
    request = kv.txn_request([kv.create(key) == claim.create_revision], [kv.delete(key)])
    desk.session.client.txn(request, desk.session.client.deadline(None))


class StuckClaims:
    """The janitor: others' claims, and since when they are seen here."""

    def __init__(self) -> None:
        self._since_s: dict[Claim, float] = {}
        #: In how many seconds a look may be worth it.
        self.look_again_s = math.inf

    def look(self, desk: Desk, claims: typing.Iterable[Claim], ack_wait_s: float) -> None:
        """End those which have been seen for too long."""
        self.look_again_s = math.inf
        if ack_wait_s == math.inf:
            self._since_s.clear()
            return
        now = boottime()
        others = [claim for claim in claims if claim.lease != desk.session.lease_id]
        self._since_s = {claim: self._since_s.get(claim, now) for claim in others}
        for claim, since_s in list(self._since_s.items()):
            left_s = since_s + ack_wait_s * GRACE + GRACE_S - now
            if left_s > 0:
                self.look_again_s = min(self.look_again_s, left_s)
            else:
                _end_claim(desk, claim)
                del self._since_s[claim]
