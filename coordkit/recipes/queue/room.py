"""Soft bounds: how much a queue may hold before producers wait.

No transaction can count, so several producers together may go beyond a bound, each by what it puts between
two looks.
"""

from __future__ import annotations

import math
import time

from coordkit import calls, errors, forks
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd import kv
from coordkit.recipes.queue.sites import Site
from coordkit.recipes.queue.terms import Terms

LOOK_S = 1.0  # how long a look is good for
SAMPLE = 16  # items whose sizes stand for all
LONGEST_WAIT_S = 5.0  # old servers lose events


class Room:
    """What is left of a queue's bounds, as far as one process knows."""

    def __init__(self, site: Site, terms: Terms, waits: calls.Calls) -> None:
        self._site = site
        self._waits = waits
        self._most = terms.max_length or math.inf
        self._most_bytes = terms.max_bytes or math.inf
        self.bounded = min(self._most, self._most_bytes) < math.inf
        self._left = self._left_bytes = 0.0
        self._looked_at_s = -math.inf

    def take(self, count: int, size_bytes: int, deadline: Deadline) -> None:
        """Make sure that there is room for so much, or wait for it.

        Raises:
            QueueFull: There was none in time; nothing was put.
            Cancelled: By the queue's `cancel`; nothing was put.

        Cost: none, as long as what was left a second ago is enough; else 1 round trip.
        """
        if not self.bounded:
            return
        if not self._fits(count, size_bytes) or time.monotonic() - self._looked_at_s > LOOK_S:
            self._look(deadline)
        if not self._fits(count, size_bytes):
            self._wait(count, size_bytes, deadline)
        self._left -= count
        self._left_bytes -= size_bytes

    def is_full(self) -> bool:
        """Whether not even one item more has room.  Cost: 1 round trip."""
        if not self.bounded:
            return False
        self._look(NEVER)
        return self._left < 1 or self._left_bytes < 1

    def _fits(self, count: int, size_bytes: int) -> bool:
        # What is larger than the whole queue fits into an empty one.
        return (self._left >= count or self._left >= self._most) and (
            self._left_bytes >= size_bytes or self._left_bytes >= self._most_bytes
        )

    def _wait(self, count: int, size_bytes: int, deadline: Deadline) -> None:
        bell = forks.event()
        self._site.room.add(bell)
        what = f"the wait for room in {self._site.title}"
        with self._waits.begin(what) as call, self._site.arrivals.listening():
            call.waits_on(bell.set)
            while not self._fits(count, size_bytes):
                call.check()
                if deadline.expired:
                    raise errors.QueueFull(f"{self._site.title} is full; this was not put")
                bell.wait(min(deadline.wait_s(), LONGEST_WAIT_S))
                bell.clear()
                self._look(deadline)

    def _look(self, deadline: Deadline) -> None:
        """Cost: 1 round trip, for which a try has time, too."""
        client, layout = self._site.link.client, self._site.layout
        ops = [kv.range(layout.items, count_only=True)]
        if self._most_bytes < math.inf:
            ops.append(kv.range(layout.items, limit=SAMPLE))
        limit = client.deadline(None) if deadline.expired else deadline.sooner(client.options.timeout_s)
        result = client.look(ops, limit)
        count = result.found(0).count
        self._left = self._most - count
        self._left_bytes = self._most_bytes
        if len(ops) > 1:
            sizes = [len(each.value) for each in result.found(1).kvs]
            self._left_bytes -= count * sum(sizes) / max(len(sizes), 1)
        self._looked_at_s = time.monotonic()
