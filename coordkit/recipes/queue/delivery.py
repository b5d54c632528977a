"""Deliveries: what was claimed, and how the claim ends, verified.

A claim ends in one transaction that compares its create revision: acked (item, claim and count deleted),
given back (the claim alone), delayed, or sent to the dead letters.  Ends that come at the same time share a
commit.  A lost reply is settled by looking: the claim is gone, so if the session still lives it was we who
ended it, and if the item is gone, too, it was an ack.

Cost: 1 commit, shared with the ends that come meanwhile.
Invariant: an end takes effect only while the claim is ours.
"""

from __future__ import annotations

import collections
import itertools
import logging
import math
import typing
import weakref

import attrs

from coordkit import coalescer, errors
from coordkit.deadline import NEVER, Deadline, boottime
from coordkit.etcd import kv
from coordkit.recipes.queue import names
from coordkit.session import Session

FIRST_PAUSE_S = 0.02

_log = logging.getLogger("coordkit")


@attrs.define(eq=False)
class Delivery:
    """An item that is claimed by this process."""

    id: str
    value: bytes = attrs.field(repr=False)
    attempt: int
    revision: int  # the claim's create revision
    desk: Desk = attrs.field(repr=False)
    due_s: float = math.inf  # when ack_wait is over, by boottime
    #: An end was sent whose answer nobody waited for.
    doubted: bool = False
    #: Its next failure sends it to the dead letters.
    has_last_chance: bool = False
    on_lost: typing.Callable[[str], None] = attrs.field(default=lambda reason: None, repr=False)

    def seconds_left(self) -> float:
        """Of its ack_wait."""
        return max(0.0, self.due_s - boottime())


@attrs.frozen(eq=False)
class End:
    """One way for a delivery to end."""

    delivery: Delivery
    ops: tuple[kv.Op, ...]
    #: Whether the item is gone afterwards; otherwise the claim alone.
    takes_item: bool = True
    size_bytes: int = 0


Losses = list["errors.ClaimLost | None"]
Entry = coalescer.Entry[typing.Sequence[End], Losses]


class Desk:
    """The deliveries of one queue that hang on one session."""

    def __init__(self, session: Session, layout: names.Layout, title: str) -> None:
        self.session = session
        self.layout = layout
        self.title = title  # for errors
        #: Everything that is claimed here, by id and the claim's revision: an item that was given back may be
        #: claimed again before whoever gave it back comes to forget it.
        self.out: dict[tuple[str, int], Delivery] = {}
        self.claiming: set[str] = set()  # ids in a claim that is on its way
        #: What its caller has forgotten, told by the garbage collector: no lock may be taken there.
        self.dropped: collections.deque[Delivery] = collections.deque()
        #: Keys that have proven what they had to: the next ack with a receipt of its own takes them away.
        self.receipts: collections.deque[bytes] = collections.deque()
        self.returned = 0  # how many claims were given back
        self._timer = False  # somebody looks when the next ack_wait is over
        self._ends: coalescer.Coalescer[typing.Sequence[End], Losses] = coalescer.Coalescer(
            f"{title}-ends", self._send
        )

    # The ways to end.

    def ack(self, *deliveries: Delivery) -> Losses:
        """Their work is done: delete them; for each the loss of its claim, or None."""
        return self._end([End(delivery, self.deletes(delivery)) for delivery in deliveries])

    def give_back(self, delivery: Delivery) -> None:
        """Let anybody claim it again."""
        self._end_one(End(delivery, (kv.delete(self.layout.claim(delivery.id)),), takes_item=False))

    def undo(self, *deliveries: Delivery) -> None:
        """Give back what nobody was handed, up to 100 in one commit: it counts as not delivered."""
        ends = []
        for delivery in deliveries:
            ops = [kv.delete(self.layout.claim(delivery.id))]
            if delivery.attempt == 1:
                ops.append(kv.delete(self.layout.attempt(delivery.id)))
            ends.append(End(delivery, tuple(ops), takes_item=False))
        self._end(ends)  # what is lost is given back already

    def move(self, delivery: Delivery, key: bytes, stored: bytes, keep_count: bool) -> None:
        """Put it elsewhere: among the delayed ones, or the dead letters."""
        ops = [kv.put(key, stored), *self.deletes(delivery)]
        if keep_count:
            ops.pop()
        self._end_one(End(delivery, tuple(ops), size_bytes=len(stored)))

    def deletes(self, delivery: Delivery) -> tuple[kv.Op, ...]:
        """Everything there is of it; the count of its deliveries last."""
        layout, id_ = self.layout, delivery.id
        return (kv.delete(layout.item(id_)), kv.delete(layout.claim(id_)), kv.delete(layout.attempt(id_)))

    def guard(self, delivery: Delivery) -> kv.Compare:
        """True as long as the claim is ours."""
        return kv.create(self.layout.claim(delivery.id)) == delivery.revision

    def lost(self, delivery: Delivery, why: str, sent: bool = False) -> errors.ClaimLost:
        """For whoever thought that it was ours; `sent` when an end of it may have been applied."""
        outcome = errors.Outcome.UNKNOWN if sent else errors.Outcome.NONE
        return errors.ClaimLost(f"{self.title}: the claim on item {delivery.id} was lost: {why}", outcome)

    def forget(self, delivery: Delivery) -> None:
        """It is out no more."""
        self.out.pop((delivery.id, delivery.revision), None)
        self.session.unhold(delivery)

    # How.

    def _end_one(self, end: End) -> None:
        (loss,) = self._end([end])
        if loss is not None:
            raise loss

    def _end(self, ends: typing.Sequence[End]) -> Losses:
        size_bytes = sum(end.size_bytes for end in ends)
        try:
            losses = self._ends.submit(ends, NEVER, len(ends), size_bytes)
        except errors.CoordError:
            raise
        except BaseException:
            for end in ends:
                end.delivery.doubted = True  # interrupted: it may have been sent
            raise
        for end in ends:
            self.forget(end.delivery)
        return losses

    def _send(self, batch: typing.Sequence[Entry], deadline: Deadline) -> None:
        ends = [end for entry in batch for end in entry.payload]
        request = kv.txn_request([], [*map(self._nested, ends), self.session.read_key])
        request.key = self.layout.claims
        pause_s = FIRST_PAUSE_S
        attempted = False
        while True:
            limit = NEVER.sooner(self.session.remaining())
            if limit.expired:
                why = self.session.why_over()
                losses: Losses = [
                    self.lost(end.delivery, why, sent=attempted or end.delivery.doubted) for end in ends
                ]
                break
            try:
                result = self.session.client.txn(request, limit)
            except errors.QuotaExceeded:
                if len(batch) > 1:
                    raise  # each on its own: some may need space
                losses = [self._end_when_full(end, limit) for end in ends]
                break
            except errors.OUTAGE as error:
                attempted |= error.outcome is errors.Outcome.UNKNOWN
                pause_s = coalescer.pause(pause_s, limit)
                continue
            session_key = result.found(len(ends)).first
            alive = session_key is not None and session_key.create_revision == self.session.key_created
            losses = [
                self._judge(end, result.inner(index), attempted, alive) for index, end in enumerate(ends)
            ]
            break
        self.returned += sum(not end.takes_item for end in ends)
        left = iter(losses)
        for entry in batch:
            entry.succeed(list(itertools.islice(left, len(entry.payload))))

    def _nested(self, end: End) -> kv.Op:
        # If the claim is ours: end it.  Else: is the item still there?
        look = kv.count(self.layout.item(end.delivery.id))
        return kv.nested([self.guard(end.delivery)], end.ops, [look])

    def _judge(self, end: End, result: kv.TxnResult, attempted: bool, alive: bool) -> errors.ClaimLost | None:
        """What the answer says of one end."""
        if result.succeeded:
            return None
        item_is_gone = not result.found(0).count
        if (attempted or end.delivery.doubted) and alive and item_is_gone is end.takes_item:
            return None  # our own earlier attempt did it
        return self.lost(end.delivery, f"it was gone at revision {result.revision}")

    def _end_when_full(self, end: End, limit: Deadline) -> errors.ClaimLost | None:
        """Out of space, some servers refuse transactions, not plain deletes.

        The claim is compared by a read: should it be lost between the two, the item's work is done all the
        same, and another consumer does it once more, as it may.  And what was refused may have been applied.
        """
        client = self.session.client
        if end.size_bytes:
            raise errors.QuotaExceeded(f"{self.title}: the server has no space to move an item")
        raw, layout, id_ = client.kv, self.layout, end.delivery.id
        claim = raw.get(layout.claim(id_), limit.remaining())
        if (
            claim is None
            and self.session.alive
            and (not end.takes_item or raw.get(layout.item(id_), limit.remaining()) is None)
        ):
            return None  # the refused transaction did it
        if claim is None or claim.create_revision != end.delivery.revision:
            return self.lost(end.delivery, "it was gone")
        if end.takes_item:
            raw.delete(layout.item(id_), limit.remaining())
        raw.delete(layout.claim(id_), limit.remaining())
        if end.takes_item:
            raw.delete(layout.attempt(id_), limit.remaining())
        return None

    # In the background.

    def limit_time(self, delivery: Delivery, ack_wait_s: float) -> None:
        """From now on the claim lasts so long, and no longer."""
        if ack_wait_s == math.inf:
            return
        delivery.due_s = boottime() + ack_wait_s
        if not self._timer:
            self._timer = True
            self.session.link.attendant.after(ack_wait_s, self._expire_due)

    def _expire_due(self) -> None:
        """End the claims whose ack_wait is over, and come again for the next.  Quick."""
        now = boottime()
        soonest_s = math.inf
        for delivery in list(self.out.values()):
            if delivery.due_s <= now:
                delivery.on_lost("its ack_wait was over")
                self.forget(delivery)
                self.defer(self.give_back, delivery)
            else:
                soonest_s = min(soonest_s, delivery.due_s)
        self._timer = soonest_s < math.inf and not self.session.is_over
        if self._timer:
            self.session.link.attendant.after(soonest_s - now, self._expire_due)

    def collect_dropped(self) -> None:
        """Give back what its caller has forgotten without an end."""
        while self.dropped:
            self.defer(self.give_back, self.dropped.popleft())

    def defer(self, end: typing.Callable[..., None], *deliveries: Delivery) -> None:
        """Let the background end them; what cannot be ended there ends with the session."""

        def job() -> None:
            try:
                end(*deliveries)
            except errors.CoordError as error:
                _log.debug("%s: %s", self.title, error)
            finally:
                for delivery in deliveries:
                    self.forget(delivery)

        self.session.defer(job)


_DESKS: weakref.WeakKeyDictionary[Session, weakref.WeakValueDictionary[bytes, Desk]] = (
    weakref.WeakKeyDictionary()
)


def desk_at(session: Session, layout: names.Layout, title: str) -> Desk:
    """The desk of a queue in a session: one for all who use it."""
    desks = _DESKS.get(session)
    if desks is None:
        desks = _DESKS.setdefault(session, weakref.WeakValueDictionary())
    return desks.get(layout.prefix) or desks.setdefault(layout.prefix, Desk(session, layout, title))
