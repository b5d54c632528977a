"""Job: an item in the hands of a consumer."""

from __future__ import annotations

import enum
import json
import threading
import types
import typing
import weakref

import attrs

from coordkit import coalescer, errors, forks
from coordkit import session as sessions
from coordkit import ticket as tickets
from coordkit.deadline import NEVER
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.recipes.queue import upkeep
from coordkit.recipes.queue.delivery import Delivery

MOST_RECEIPTS = 8  # that one ack takes away


class Phase(enum.Enum):
    """Where a job stands."""

    # CLAIMED: the claim was ours when it was handed out, and its lease lives as far as we know.
    CLAIMED = "claimed"
    # ENDED: acked, given back or moved, by us, verified.
    ENDED = "ended"
    # LOST: the claim went without us; whatever we did, somebody else may do it again.
    LOST = "lost"


class Job:
    """An item that this program has claimed, until `ack`, `nack` or a loss.

    A context manager: acks at the end of the block, nacks when an exception leaves it.  A job that is dropped
    without either is given back some time after Python has collected it.
    """

    def __init__(self, delivery: Delivery, value: typing.Any, most_deliveries: int) -> None:
        self._delivery = delivery
        #: The item, decoded.
        self.value = value
        self._most_deliveries = most_deliveries
        self._phase = Phase.CLAIMED
        self._why = ""
        self._refused = False  # an ack's own conditions failed
        self._lost: threading.Event | None = None
        weak = weakref.WeakMethod(self._on_lost)
        lose = lambda why: (weak() or _nothing)(why)  # noqa: E731 - it must not hold this object
        delivery.on_lost = lose
        # Not this, or it would never be collected.
        delivery.desk.session.hold(delivery, threading.current_thread(), lose)
        drop = weakref.finalize(self, delivery.desk.dropped.append, delivery)
        drop.atexit = False
        self._drop = drop

    @property
    def ended(self) -> bool:
        """Whether it was acked, given back, moved or lost."""
        return self._phase is not Phase.CLAIMED

    @property
    def refused(self) -> bool:
        """Whether an ack's own conditions failed, and nothing else has ended it."""
        return self._refused and not self.ended

    @property
    def is_last(self) -> bool:
        """Whether the item goes to the dead letters if it is given back."""
        return self.attempt >= self._most_deliveries

    @property
    def id(self) -> str:
        """The item's id, for as long as it lives."""
        return self._delivery.id

    @property
    def attempt(self) -> int:
        """Which delivery this is; from 2 on somebody may have done the work, in part or in whole."""
        return self._delivery.attempt

    @property
    def fence(self) -> int:
        """The revision at which it was claimed: it rises from delivery to delivery of an item."""
        return self._delivery.revision

    @property
    def key(self) -> bytes:
        """The key that stands for the claim."""
        return self._delivery.desk.layout.claim(self._delivery.id)

    # The ends.

    def ack(self, txn: kv.Txn | None = None) -> kv.TxnResult | None:
        """The work is done: delete the item.

        Args:
            txn: Work of your own in etcd, to be done in the same commit: both happen, or neither.  It may
                have conditions, but nothing to do otherwise.

        Returns:
            With `txn`, how it went: where it did not succeed, one of your conditions failed, nothing was
            written and the job is still yours.  None without `txn`, or when the reply was lost and the work
            is known to be done.

        Raises:
            ClaimLost: The claim is another's now, or nobody's; `txn` was not applied.  Its `outcome` is
                UNKNOWN when the session ended before etcd had answered: the item may be acked.
            NotHeld: It was acked or given back before.
            QuotaExceeded: etcd has no space for `txn`; without one an ack passes.
            Unavailable: Only with `txn`, or when the session ended: `outcome` says what may have happened.

        Cost: 1 commit, shared with the acks that come meanwhile; of its own with `txn`.
        """
        if txn is not None and not isinstance(txn, kv.Txn):
            raise errors.InvalidValue(f"txn must be a transaction, as `kv.txn()` makes one, not {txn!r}")
        self._check()
        result = None
        with _Ending(self):
            if txn is None:
                (loss,) = self._delivery.desk.ack(self._delivery)
                if loss is not None:
                    raise loss
            else:
                result = self._ack_with(txn)
                if result is not None and not result.succeeded:
                    self._refused = True
                    return result
            self._end()
        return result

    def nack(self, delay: float = 0) -> None:
        """Give the item back: it is delivered again, first in its priority, as long as it may be.

        Args:
            delay: Seconds until then, by this machine's wall clock.

        Raises:
            ClaimLost, NotHeld: As `ack`.

        Cost: 1 commit.
        """
        due_ms = upkeep.due_in(delay)
        self._check()
        if self.attempt >= self._most_deliveries:
            self.bury(f"given back at delivery {self.attempt} of {self._most_deliveries}")
            return
        desk, delivery = self._delivery.desk, self._delivery
        with _Ending(self):
            if due_ms is None:
                desk.give_back(delivery)
            else:
                key = desk.layout.delayed_item(due_ms, delivery.id)
                desk.move(delivery, key, delivery.value, keep_count=True)
            self._end()

    def bury(self, why: str) -> None:
        """Send the item to the dead letters.

        Args:
            why: For people; at most 1,000 characters of it are kept.

        Cost: 1 commit.
        """
        self._check()
        with _Ending(self):
            bury(self._delivery, why, self.attempt)
            self._end()

    # What is known of it.

    @property
    def lost(self) -> threading.Event:
        """Set when the claim is lost."""
        if self._lost is None:
            self._lost = forks.event()
            if self._phase is Phase.LOST:
                self._lost.set()
        return self._lost

    def check(self) -> None:
        """Raise unless the claim is certainly still ours.  No I/O.

        Raises:
            ClaimLost, NotHeld
        """
        self._check()
        if not self.remaining():
            self._on_lost(self._delivery.desk.session.why_over())
            self._check()

    def remaining(self) -> float:
        """Seconds for which the claim certainly stays ours if nothing more is heard; 0 when it ended."""
        if self._phase is not Phase.CLAIMED:
            return 0.0
        delivery = self._delivery
        return min(delivery.desk.session.remaining(), delivery.seconds_left())

    def guard(self) -> list[kv.Compare]:
        """Compares that make a transaction of yours fail once the claim is over."""
        self._check()
        return [self._delivery.desk.guard(self._delivery)]

    def txn(self) -> kv.Txn:
        """A transaction that carries the guard already: for `ack`, or for what is written before."""
        return kv.Txn(self._delivery.desk.session.client, self.guard())

    def contenders(self) -> list[tickets.Contender]:
        """Who has claimed the item: we; after a loss perhaps another, or nobody.  Nobody waits for an item.

        Cost: 2 round trips.
        """
        session = self._delivery.desk.session
        raw, deadline = session.client.kv, session.client.deadline(None)
        claim = raw.get(self.key, deadline.remaining())
        if claim is None:
            return []
        owner = raw.get(sessions.key_of(session.link, claim.lease), deadline.remaining())
        who = tickets.contender(owner or claim, session)
        return [attrs.evolve(who, key=claim.key, fence=claim.create_revision)]

    def __enter__(self) -> Job:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if self._phase is Phase.ENDED:
            return
        if error is None and not self._refused:
            self.ack()
            return
        try:
            self.nack()
        except errors.CoordError as loss:
            if error is None:
                raise
            holds.attach(loss, error)

    def __repr__(self) -> str:
        return f"<Job {self.id} attempt {self.attempt} {self._phase.value}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError("a Job hangs on a session and cannot be pickled: pass its value on")

    # How.

    def _ack_with(self, txn: kv.Txn) -> kv.TxnResult | None:
        """The item's deletes and the caller's operations, with a receipt that proves it."""
        when, then, otherwise = txn.parts()
        if otherwise:
            raise errors.UsageError(
                "an ack can do nothing otherwise: it happens with its work, or not at all"
            )
        desk, delivery = self._delivery.desk, self._delivery
        session, guard = desk.session, desk.guard(delivery)
        while True:
            receipt = desk.layout.receipt(session.lease_id, session.nonce())
            old = [desk.receipts.popleft() for _ in range(min(len(desk.receipts), MOST_RECEIPTS))]
            ops = [*desk.deletes(delivery), kv.nested([], then), *map(kv.delete, old)]
            try:
                created = session.create(receipt, b"", NEVER.sooner(session.remaining()), [guard, *when], ops)
            except BaseException:
                desk.receipts.extend(old)
                raise
            if created is not None:
                desk.receipts.append(receipt)
                done = created.result
                return None if done is None else done.inner(1 + len(desk.deletes(delivery)))
            # A condition failed: the caller's, or the claim?
            ours = kv.nested([guard], [])
            request = kv.txn_request(when, [ours], [ours])
            request.key = desk.layout.claim(delivery.id)
            found = session.client.txn(request, session.client.deadline(None))
            if not found.inner(0).succeeded:
                raise desk.lost(delivery, f"it was gone at revision {found.revision}")
            if not found.succeeded:
                return found

    def _end(self) -> None:
        self._phase = Phase.ENDED
        self._let_go()

    def _let_go(self) -> None:
        self._drop.detach()
        self._delivery.desk.forget(self._delivery)

    def _on_lost(self, why: str) -> None:
        """Quick: it may run on a reader."""
        if self._phase is Phase.CLAIMED:
            self._phase = Phase.LOST
            self._why = why or "it is over"
            if self._lost is not None:
                self._lost.set()

    def _check(self) -> None:
        if self._phase is Phase.ENDED:
            raise errors.NotHeld(f"item {self.id} was acked, given back or moved before")
        if self._phase is Phase.LOST:
            self._let_go()
            raise self._delivery.desk.lost(self._delivery, self._why)


class _Ending:
    """Notes a loss that an end has found."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (errors.ClaimLost, errors.SessionLost)):
            self._job._on_lost(str(error))
            self._job._let_go()


def bury(delivery: Delivery, why: str, deliveries: int) -> None:
    """Move a claimed item, which was delivered so often, to the dead letters."""
    layout = delivery.desk.layout
    words = {"why": why[:1000], "deliveries": deliveries, "at_ms": upkeep.now_ms()}
    stored = json.dumps(words).encode() + b"\n" + delivery.value
    delivery.desk.move(delivery, layout.dead_letter(delivery.id), stored, keep_count=False)


def ack_many(jobs: typing.Iterable[Job]) -> list[Job]:
    """Ack several, 100 in a commit; those whose claims were lost."""
    lost: list[Job] = []
    by_desk: dict[typing.Any, list[Job]] = {}
    wrong: errors.NotHeld | None = None
    for job in jobs:
        if not isinstance(job, Job):
            raise errors.InvalidValue(f"jobs must be those that were claimed, not {job!r}; none was acked")
        try:
            job._check()
        except errors.ClaimLost:
            lost.append(job)
        except errors.NotHeld as error:
            wrong = error
        else:
            by_desk.setdefault(job._delivery.desk, []).append(job)
    for desk, own in by_desk.items():
        for start in range(0, len(own), coalescer.MOST_WEIGHT):
            part = own[start : start + coalescer.MOST_WEIGHT]
            for job, loss in zip(part, desk.ack(*(each._delivery for each in part)), strict=True):
                if loss is None:
                    job._end()
                else:
                    job._on_lost(str(loss))
                    job._let_go()
                    lost.append(job)
    if wrong is not None:
        raise wrong
    return lost


def _nothing(why: str) -> None:
    """For a job that was collected."""
