"""Puts: up to 100 items in one transaction, of all callers of a process that come at the same time.

An item is labelled when its batch is sent: with the newest revision that this client has seen (the stamp: a
logical clock, no wall time), the producer's name and its next number.  Batches are sent one after the other,
so the labels of a producer rise in the order of its puts.

A put whose reply was lost may have been applied, and is not repeated, for then there might be two.  With a
`dedup_id` it is: the item goes together with the key `dedup/<id>`, which hangs on a lease of its own, and the
transaction compares that there is none yet.  (A copy that is later than the lease's end would not be
noticed.)

Cost: 1 commit for up to 100 items; 1 round trip more when nothing was heard of etcd for a second.
"""

from __future__ import annotations

import math
import threading
import time
import typing

import attrs

from coordkit import coalescer, errors
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.etcd import lease as leases
from coordkit.recipes.queue import names
from coordkit.session import Link

FRESH_S = 1.0  # how old a stamp may be
FIRST_PAUSE_S = 0.02
#: etcd takes requests of 1.5 MiB; what is put must be movable later on, together with some more keys.
LARGEST_VALUE_BYTES = 3 * 2**19 - 2**13


@attrs.define(eq=False)
class Parcel:
    """An item before it has an id."""

    value: bytes = attrs.field(repr=False)
    priority: int = 0
    due_ms: int | None = None
    dedup: str | None = None  # as it stands in keys


Labelled = tuple[Parcel, str, bytes]  # and its id, and its key

Entry = coalescer.Entry[typing.Sequence[Parcel], "list[str]"]


class Producer:
    """One for all who put into a queue in this process."""

    def __init__(self, link: Link, layout: names.Layout, title: str) -> None:
        self._link = link
        self._layout = layout
        self._title = title
        self._name = names.new_producer()
        self._number = 0
        self._heads: dict[int, tuple[str, bytes]] = {}  # by priority: how ids and keys begin at this stamp
        self._stamp = 0
        self._stamped_at_s = -math.inf
        self._retention: tuple[int, int, float] = (
            0,
            0,
            -math.inf,
        )  # window, lease, and until when it is used
        self._retaining = threading.Lock()
        self._puts: coalescer.Coalescer[typing.Sequence[Parcel], list[str]] = coalescer.Coalescer(
            f"{title}-puts", self._send
        )
        self.dedup_window_s = 300

    def put(self, parcels: typing.Sequence[Parcel], size_bytes: int, deadline: Deadline) -> list[str]:
        """Put up to 100 items; their ids.  One whose `dedup` is there already has the first one's id."""
        return self._puts.submit(parcels, deadline, len(parcels), size_bytes)

    # By whoever leads; one batch at a time.

    def _send(self, batch: typing.Sequence[Entry], deadline: Deadline) -> None:
        self._refresh(deadline)
        results: dict[Entry, list[str]] = {entry: [] for entry in batch}
        for part in _rounds([(entry, self._label(parcel)) for entry in batch for parcel in entry.payload]):
            wanted = [(entry, each) for entry, each in part if not entry.done]
            if wanted:
                ids = self._put(wanted, deadline)
                for (entry, _), id_ in zip(wanted, ids, strict=True):
                    if id_:
                        results[entry].append(id_)
        for entry in batch:
            if not entry.done:
                entry.succeed(results[entry])

    def _label(self, parcel: Parcel) -> Labelled:
        layout = self._layout
        self._number += 1
        head = self._heads.get(parcel.priority)
        if head is None:
            start = names.item_id(parcel.priority, self._stamp, self._name)
            head = self._heads[parcel.priority] = start, layout.item(start)
        number = f"{self._number:08x}"
        id_ = head[0] + number
        if parcel.due_ms is None:
            return parcel, id_, head[1] + number.encode()
        return parcel, id_, layout.delayed_item(parcel.due_ms, id_)

    def _refresh(self, deadline: Deadline) -> None:
        """A stamp that is not too old: else what others have put since would be overtaken."""
        client = self._link.client
        if time.monotonic() - self._stamped_at_s > FRESH_S:
            look = kv.range(self._layout.receipts, count_only=True)
            self._heard_of(client.look([look], deadline).revision)
        self._stamp = max(self._stamp, client.seen_revision)
        self._heads.clear()

    def _heard_of(self, revision: int) -> None:
        self._stamp = max(self._stamp, revision)
        self._stamped_at_s = time.monotonic()

    def _put(self, wanted: list[tuple[Entry, Labelled]], deadline: Deadline) -> list[str]:
        """One transaction; an id for each, "" for one whose entry has failed.

        After an unknown outcome only those go on that can be repeated.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            ops = [self._op(each, deadline) for _, each in wanted]
            request = kv.txn_request([], ops)
            request.key = self._layout.items
            try:
                result = self._link.client.txn(request, deadline)
                break
            except errors.LeaseNotFound:
                self._retention = (0, 0, -math.inf)  # somebody revoked it: nothing was put
            except errors.OUTAGE as error:
                if error.outcome is errors.Outcome.NONE or deadline.expired:
                    raise
                for entry in {entry for entry, each in wanted if each[0].dedup is None}:
                    entry.fail(error)
                if all(entry.done for entry, _ in wanted):
                    raise
                pause_s = coalescer.pause(pause_s, deadline)
        self._heard_of(result.revision)
        return [self._id(result, index, each) for index, (_, each) in enumerate(wanted)]

    def _op(self, each: Labelled, deadline: Deadline) -> kv.Op:
        parcel, id_, key = each
        put = kv.put(key, parcel.value)
        if parcel.dedup is None:
            return put
        # If nobody has put it: put it, and say so for a while.  Else: whose is it?
        dedup = self._layout.dedup + parcel.dedup.encode()
        return kv.nested(
            [kv.create(dedup) == 0],
            [kv.put(dedup, id_, lease=self._retention_lease(deadline)), put],
            [kv.get(dedup)],
        )

    def _id(self, result: kv.TxnResult, index: int, each: Labelled) -> str:
        parcel, id_, _ = each
        if parcel.dedup is None:
            return id_
        inner = result.inner(index)
        if inner.succeeded:
            return id_
        first = inner.found(0).first
        return first.value.decode(errors="replace") if first is not None else id_

    def _retention_lease(self, deadline: Deadline) -> int:
        """A lease that lasts for the window at least; a new one when a fifth of it is over."""
        window_s = self.dedup_window_s
        with self._retaining:
            known_s, lease, until_s = self._retention
            if known_s != window_s or time.monotonic() >= until_s:
                until_s = time.monotonic() + window_s / 4
                lease, _ = leases.grant(self._link.client, math.ceil(window_s * 1.25), deadline)
                self._retention = (window_s, lease, until_s)
            return lease


def _rounds(items: list[tuple[Entry, Labelled]]) -> typing.Iterator[list[tuple[Entry, Labelled]]]:
    """In order, cut where a dedup key comes again: a transaction may not put a key twice."""
    part: list[tuple[Entry, Labelled]] = []
    seen: set[str] = set()
    for entry, each in items:
        dedup = each[0].dedup
        if dedup is not None and dedup in seen:
            yield part
            part, seen = [], set()
        part.append((entry, each))
        if dedup is not None:
            seen.add(dedup)
    if part:
        yield part
