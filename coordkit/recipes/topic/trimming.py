"""Trimming: the oldest messages of a log go, and the watermark says so in the same transaction.

Whole transactions go, from the oldest on.  So what is left is always everything after `trimmed`, and whoever
has not read that far is told of a gap.

Age is judged by the clocks of those who publish and of the one who trims: one that is ahead trims early.
"""

from __future__ import annotations

import bisect
import datetime
import math
import typing

import attrs

from coordkit import errors, intake, keys, outages
from coordkit.deadline import Deadline
from coordkit.etcd import kv
from coordkit.recipes.topic.names import Names, Trimmed, parse_head, parse_header, parse_trimmed
from coordkit.session import Link

PAGE = 1000  # keys

Retain: typing.TypeAlias = "int | float | datetime.timedelta"


@attrs.frozen
class Retention:
    """What is kept at least."""

    count: float = math.inf
    age_s: float = math.inf

    @classmethod
    def of(cls, retain: Retain, least: int = 1) -> Retention:
        """From what a user wrote: a number of messages, a timedelta, or `math.inf` for all of them.

        Raises:
            InvalidValue: Anything else.
        """
        if isinstance(retain, datetime.timedelta) and retain.total_seconds() > 0:
            return cls(age_s=retain.total_seconds())
        if retain == math.inf:
            return cls()
        if isinstance(retain, int) and not isinstance(retain, bool) and retain >= least:
            return cls(count=retain)
        raise errors.InvalidValue(
            f"retain must be a number of messages, a timedelta, or math.inf for all of them, not {retain!r}"
        )

    @property
    def unlimited(self) -> bool:
        """Whether nothing is ever trimmed."""
        return self.count == self.age_s == math.inf

    @property
    def look_s(self) -> float:
        """How often it is worth a look, by age."""
        return max(1.0, self.age_s / 10)

    def is_exceeded(self, count: int) -> bool:
        """Whether so many messages are worth a trim: a tenth more than are kept."""
        return count > self.count + max(10.0, min(self.count / 10, 1000.0))


def now_ms() -> int:
    """The time of day, which clocks of other machines do not share exactly."""
    return round(datetime.datetime.now(datetime.timezone.utc).timestamp() * 1000)


@attrs.frozen
class _Batch:
    """The messages of one transaction, by their keys."""

    after: int
    revision: int
    count: int


def trim(link: Link, names: Names, keep: Retention, deadline: Deadline) -> Trimmed:
    """Delete the oldest messages, as long as what is left is enough.

    Returns:
        What is gone by now.

    Cost: 3 round trips and 1 commit for every 1,000 messages; by age also a few reads.
    """
    while True:
        # The watermark first: the delete compares it, so that what is read after it stays true.
        mark = intake.read_key(link.client, names.trimmed, deadline)
        head = intake.read_key(link.client, names.head, deadline)
        page, _ = intake.read_range(link.client, names.log, names.log_end, PAGE, deadline, keys_only=True)
        trimmed = parse_trimmed(mark.value) if mark is not None else Trimmed()
        batches = _whole_batches(names, page)
        spare = (parse_head(head.value) if head is not None else 0) - trimmed.count - keep.count
        batches = _beyond(batches, spare) if keep.count < math.inf else batches
        batches = _older(link, names, batches, keep.age_s, deadline)
        if not batches:
            return trimmed
        last = batches[-1]
        gone = Trimmed(last.revision, trimmed.count + sum(batch.count for batch in batches))
        request = kv.txn_request(
            # if nobody else has trimmed meanwhile
            [kv.mod(names.trimmed) == (mark.mod_revision if mark is not None else 0)],
            # then they go, and it is written down that they went
            [
                kv.delete(names.log, keys.range_end(names.batch(last.after))),
                kv.put(names.trimmed, b"%d %d" % (gone.revision, gone.count)),
            ],
        )
        # A copy of it finds the watermark moved; and either way what is there is read anew.
        outages.patiently(link.client, request, deadline)


def _whole_batches(names: Names, page: kv.RangeResult) -> list[_Batch]:
    batches: list[_Batch] = []
    for found in page.kvs:
        place = names.parse_message(found.key)
        if place is None:
            continue
        if batches and batches[-1].after == place.after:
            batches[-1] = attrs.evolve(batches[-1], count=batches[-1].count + 1)
        else:
            batches.append(_Batch(place.after, found.mod_revision, 1))
    return batches[:-1] if page.more else batches  # the last one may be cut off


def _beyond(batches: list[_Batch], spare: float) -> list[_Batch]:
    """Those that can go with at most so many messages."""
    for number, batch in enumerate(batches):
        spare -= batch.count
        if spare < 0:
            return batches[:number]
    return batches


def _older(link: Link, names: Names, batches: list[_Batch], age_s: float, deadline: Deadline) -> list[_Batch]:
    """Those that are older than that; all, if any age will do."""
    if age_s == math.inf:
        return batches
    limit_ms = now_ms() - age_s * 1000

    def at_ms(batch: _Batch) -> int:
        found = intake.read_key(link.client, names.message(batch.after, 0), deadline)
        parsed = parse_header(found.value) if found is not None else None
        return parsed[0].at_ms if parsed is not None else 0

    return batches[: bisect.bisect_left(batches, limit_ms, key=at_ms)]
