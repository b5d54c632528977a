"""Queue: jobs for any number of consumers, each delivered until somebody has acknowledged it.

Status: stable.
Source: the claim as a leased key beside the item is that of kazoo's LockingQueue and Curator's
    DistributedQueue,
mended: batches, counted deliveries, verified ends; redelivery and dead letters as in Amazon SQS.
Keys, under `/<namespace>/queue/<name>/`: `items/<priority>/<stamp>-<producer>-<n>`, the payload, never
rewritten; `claims/<id>`, leased to the consumer's session, its value a nonce; `attempts/<id>`, whose version
counts the deliveries; `dead/<id>`; `delayed/<due>/<id>`; `dedup/<key>` with a lease that lasts for the
window; `receipts/<lease>-<nonce>`, leased.
Cost: put 1 commit, shared with the puts that come meanwhile; claim 1 commit for as many items as callers wait
for, and 2 or 3 round trips where what was seen before does not do; ack 1 commit, shared; an idle consumer
nothing.
Fence: the revision of the claim; it rises from delivery to delivery of an item.
Invariant: an item is in the queue, delayed or dead until the transaction that ends it, which compares the
claim; at any revision an item has one claim at most.
"""

from __future__ import annotations

import itertools
import math
import queue
import typing

import attrs

from coordkit import calls, coalescer, errors, keys
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes import hold as holds
from coordkit.recipes.queue import crew, dead_letters, job, producer, purging, room, sites, terms, upkeep
from coordkit.recipes.queue.delivery import Delivery
from coordkit.recipes.queue.fetcher import MOST, Request
from coordkit.session import Link, Session

Empty = queue.Empty


@attrs.frozen
class Peeked:
    """An item that was looked at, and not claimed."""

    id: str
    stored: bytes = attrs.field(repr=False)  # as it was put, not decoded


class Queue:
    """At least once, in order within a priority.  Handles of one name share connection, watch and fetcher."""

    def __init__(
        self,
        session: holds.Source,
        name: str,
        chosen: terms.Terms = terms.Terms(),  # noqa: B008 - frozen
        link: Link | None = None,
    ) -> None:
        """Args:
        session: What its claims hang on; or a function that gives the current one.
        name: Any text of at most 255 bytes.  No I/O happens yet.
        chosen: How it is to be used: `Terms.of(...)`.
        link: Where the items are put; by default the session's.
        """
        keys.segment(name)
        self.name = name
        self._source = session
        self._terms = chosen
        self._known_link = session.link if isinstance(session, Session) else link
        self._known_site: sites.Site | None = None
        self._known_room: room.Room | None = None
        self._calls = calls.Calls()

    # Putting.

    def put(
        self,
        value: typing.Any,
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        delay: float = 0,
        dedup_id: str | None = None,
    ) -> str:
        """Put one item.

        Args:
            value: For the codec: bytes, or str, by default.
            block: Whether to wait while the queue is full.
            timeout: Seconds for the whole call; None or -1 waits for room for ever, and as long as any
                request for etcd.
            priority: 0 to 999; a lower one comes first.
            delay: Seconds until it can be claimed, by wall clocks.
            dedup_id: An item whose `dedup_id` was put within the window before is not put again.

        Returns:
            Its id; that of the first one where `dedup_id` was known.

        Raises:
            QueueFull: There is no room; nothing was put.
            Cancelled: By `cancel`, while it waited for room; nothing was put.
            TooLarge, QuotaExceeded, PermissionDenied: etcd refused it.
            Unavailable, DeadlineExceeded: `outcome` says whether it may have been put.

        Cost: 1 commit, shared with the puts that come meanwhile.
        """
        packing = terms.Packing.of(self._terms.codec, priority, delay)
        return self._put([packing.pack(value, dedup_id)], Deadline.after(timeout), block)[0]

    def put_nowait(self, value: typing.Any, **options: typing.Any) -> str:
        """The same, and QueueFull at once where there is no room."""
        return self.put(value, False, **options)

    def put_many(
        self,
        values: typing.Iterable[typing.Any],
        block: bool = True,
        timeout: float | None = None,
        *,
        priority: int = 0,
        delay: float = 0,
        dedup_ids: typing.Iterable[str] | None = None,
    ) -> list[str]:
        """Put many items, in order, up to 100 or 1 MiB in each transaction.

        Args:
            values: For the codec; read as they are put, so any number will do.
            block: As `put`.
            timeout: As `put`, for all of them.
            priority: Of all.
            delay: Of all.
            dedup_ids: One for each value.

        Returns:
            Their ids.

        Raises:
            CoordError: As `put`.  What was put before stays; a note on the exception says how many.
            InvalidValue: Also when there are not as many `dedup_ids` as values.

        Cost: 1 commit for up to 100 items.
        """
        deadline = Deadline.after(timeout)
        packing = terms.Packing.of(self._terms.codec, priority, delay)
        pairs = zip(values, itertools.repeat(None)) if dedup_ids is None else terms.paired(values, dedup_ids)
        parcels = itertools.starmap(packing.pack, pairs)
        ids: list[str] = []
        try:
            for batch in _batches(parcels):
                ids.extend(self._put(batch, deadline, block))
        except errors.CoordError as error:
            holds.note(error, f"{len(ids)} items of this call had been put before")
            raise
        return ids

    def _put(self, parcels: list[producer.Parcel], deadline: Deadline, block: bool) -> list[str]:
        site = self._site
        size_bytes = sum([len(each.value) for each in parcels])
        self._room.take(len(parcels), size_bytes, deadline if block else Deadline.after(0))
        site.producer.dedup_window_s = self._terms.dedup_window_s
        patient = 0 < deadline.remaining() < math.inf
        limit = deadline if patient else site.link.client.deadline(None)
        return site.producer.put(parcels, size_bytes, limit)

    # Taking.

    def claim(self, block: bool = True, timeout: float | None = None) -> job.Job:
        """Claim the first item that is free.

        Args:
            block: False looks once.
            timeout: Seconds for the whole call; None or -1 waits for ever, through outages.

        Returns:
            A job, to be acked or nacked; as a context manager it does either by itself.

        Raises:
            queue.Empty: Nothing came in time.
            Cancelled: By `cancel`.
            Unavailable, DeadlineExceeded: The time is up, and etcd could not be asked.
            SessionLost: Of a session that was given; a coordinator's queue goes on with the next one.

        Cost: 1 commit, shared with those who claim at the same time, and 2 or 3 round trips now and then
        (`fetcher.py`); while the queue is empty nothing.
        """
        return self._await(1, _deadline(block, timeout))[0]

    def claim_many(self, count: int, block: bool = True, timeout: float | None = None) -> list[job.Job]:
        """Claim up to so many items, at most 100: those that are free now, or the first ones that come.

        An item that was delivered before comes alone, so that one that kills its consumers takes no others
        with it.

        Args:
            count: How many at most.
            block: As `claim`.
            timeout: As `claim`.

        Returns:
            At least one.

        Raises:
            queue.Empty, Cancelled, Unavailable, SessionLost: As `claim`.

        Cost: As `claim`.
        """
        return self._await(min(terms.whole(count, "count"), MOST), _deadline(block, timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> typing.Any:
        """Claim an item and ack it at once: at most once, should this program die before it is worked off.

        Raises:
            queue.Empty, Cancelled, Unavailable, SessionLost: As `claim`.

        Cost: That of `claim`, and 1 commit.
        """
        deadline = _deadline(block, timeout)
        while True:
            (claimed,) = self._await(1, deadline)
            try:
                claimed.ack()
            except errors.ClaimLost:
                continue  # it is somebody else's
            return claimed.value

    def get_nowait(self) -> typing.Any:
        """The same, and queue.Empty at once where there is nothing."""
        return self.get(False)

    def ack_many(self, jobs: typing.Iterable[job.Job]) -> list[job.Job]:
        """Ack several jobs.

        Returns:
            Those whose claims were lost.

        Raises:
            NotHeld: One of them was acked or given back before; the others are acked.

        Cost: 1 commit for each 100 of them.
        """
        return job.ack_many(jobs)

    def consume(self, work: crew.Work, workers: int = 8, *, retry_delay: float = 0) -> crew.Crew:
        """Work off jobs with so many threads, or greenlets in a patched process, until told to stop.

            queue.consume(handle, workers=8).run()  # until SIGTERM; finishes what is claimed

        Args:
            work: Called with each job; its return acks, an exception nacks.  What fails `max_deliveries`
                times goes to the dead letters with the exception's type and message.
            workers: How many jobs are worked off at the same time.
            retry_delay: Seconds until a job that failed is delivered again.

        Returns:
            The workers, started; also a context manager that stops them at its end.

        Raises:
            InvalidValue: An argument makes no sense.
        """
        upkeep.due_in(retry_delay, "retry_delay")
        if not callable(work):
            raise errors.InvalidValue(f"work must be callable, not {work!r}")
        return crew.Crew(self._claim_for, work, terms.whole(workers, "workers"), retry_delay)

    def cancel(self) -> None:
        """End all waits on this object, for an item or for room: they raise Cancelled.

        Workers of `consume` go on until their `stop`.
        """
        self._calls.cancel()

    def _await(self, count: int, deadline: Deadline) -> list[job.Job]:
        with self._calls.begin(f"the claim from queue {self.name!r}") as call:
            try:
                return self._claim(count, deadline, lambda request: call.waits_on(request.end))
            except (queue.Empty, *errors.OUTAGE):
                call.check()
                raise

    def _claim_for(self, deadline: Deadline, begun: typing.Callable[[Request], None]) -> job.Job:
        return self._claim(1, deadline, begun)[0]

    def _claim(
        self, count: int, deadline: Deadline, begun: typing.Callable[[Request], None] | None = None
    ) -> list[job.Job]:
        fetcher = self._site.fetcher
        while True:
            request = Request(count, self._terms.most_deliveries, self._terms.ack_wait_s, deadline)
            if begun is not None:
                begun(request)
            deliveries = fetcher.fetch(request)
            if not deliveries:
                raise queue.Empty
            jobs = self._jobs(deliveries)
            if jobs:
                return jobs

    def _jobs(self, deliveries: list[Delivery]) -> list[job.Job]:
        """What can be handed out of these; the rest are dead letters by now."""
        jobs = []
        left = list(reversed(deliveries))
        try:
            while left:
                made = self._job(left[-1])
                left.pop()
                if made is not None:
                    jobs.append(made)
        except BaseException:
            for delivery in left:  # the jobs that were made are given back as they are collected
                delivery.desk.dropped.append(delivery)
            raise
        return jobs

    def _job(self, delivery: Delivery) -> job.Job | None:
        most = self._terms.most_deliveries
        if delivery.attempt > most:
            # This last claim was nobody's delivery.
            why = f"delivered {most} times; the last consumer died, or its claim ran out"
            _bury(delivery, why, delivery.attempt - 1)
            return None
        try:
            value = self._terms.codec.decode(delivery.value)
        except ValueError as error:
            _bury(delivery, f"not decodable: {type(error).__name__}", delivery.attempt)
            return None
        return job.Job(delivery, value, most)

    # Looking.

    def qsize(self) -> int:
        """How many items are free; delayed and dead ones do not count.  Cost: 2 round trips."""
        layout = self._site.layout
        result = self._read([kv.range(each, count_only=True) for each in (layout.items, layout.claims)])
        return max(0, result.found(0).count - result.found(1).count)

    def empty(self) -> bool:
        """Whether no item is free.  Cost: 2 round trips."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether a bounded queue has no room; False for others.  Cost: 1 round trip."""
        return self._room.is_full()

    def peek(self, count: int = 1) -> list[Peeked]:
        """The first items, free or claimed, without claiming them.  Cost: 1 round trip."""
        layout = self._site.layout
        found = self._read([kv.range(layout.items, limit=terms.whole(count, "count", most=1000))]).found(0)
        named = [(layout.id_of_item(each.key), each.value) for each in found.kvs]
        return [Peeked(id_, value) for id_, value in named if id_ is not None]

    @property
    def dead_letters(self) -> dead_letters.DeadLetters:
        """The items that could not be worked off."""
        site = self._site
        return dead_letters.DeadLetters(site.link, site.layout, site.title)

    def purge(self, claimed: bool = False) -> int:
        """Delete what is in the queue, delayed items too; dead letters stay.

        Args:
            claimed: Also what consumers are working on: their acks will raise ClaimLost.

        Returns:
            How many items.

        Raises:
            QuotaExceeded: Only without `claimed`: older servers that are out of space take no transaction.

        Cost: 1 commit; a page of 40 items at a time where some are claimed and shall stay.
        """
        return purging.purge(self._site.link, self._site.layout, claimed)

    def __repr__(self) -> str:
        return f"<Queue {self.name!r}>"

    def __reduce__(self) -> typing.NoReturn:
        raise errors.UsageError(
            "a Queue owns a connection and cannot be pickled: make one in the other process"
        )

    # How.

    @property
    def _site(self) -> sites.Site:
        if self._known_site is None:
            link = self._known_link or holds.current(self._source, NEVER).link
            self._known_site = sites.site_at(link, self._source, self.name)
        return self._known_site

    @property
    def _room(self) -> room.Room:
        if self._known_room is None:
            self._known_room = room.Room(self._site, self._terms, self._calls)
        return self._known_room

    def _read(self, ops: list[kv.Op]) -> kv.TxnResult:
        client = self._site.link.client
        return client.look(ops, client.deadline(None))


def _deadline(block: bool, timeout: float | None) -> Deadline:
    return Deadline.after(timeout if block else 0)


def _bury(delivery: Delivery, why: str, deliveries: int) -> None:
    try:
        job.bury(delivery, why, deliveries)
    except errors.ClaimLost:
        return  # somebody else's by now


def _batches(parcels: typing.Iterable[producer.Parcel]) -> typing.Iterator[list[producer.Parcel]]:
    batch: list[producer.Parcel] = []
    size_bytes = 0
    for parcel in parcels:
        size_bytes += len(parcel.value)
        if batch and (len(batch) == MOST or size_bytes > coalescer.MOST_BYTES):
            yield batch
            batch, size_bytes = [], len(parcel.value)
        batch.append(parcel)
    if batch:
        yield batch
