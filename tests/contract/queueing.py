"""What the tests of the queue ask for: what is in etcd, and what is free."""

from __future__ import annotations

import collections
from typing import Any

import coordkit


def stored(queue: coordkit.Queue) -> dict[str, int]:
    """How many keys there are of each kind: {"items": 3, "claims": 1}."""
    site = queue._site
    prefix = site.layout.prefix
    keys = [each.key[len(prefix) :].split(b"/")[0].decode() for each in site.link.client.kv.range(prefix)]
    return dict(collections.Counter(keys))


def asleep(queue: coordkit.Queue) -> bool:
    """Whether a waiting consumer has seen everything, and now listens."""
    arrivals = queue._site.arrivals
    return arrivals.since is not None and arrivals.known >= arrivals.since


def drain(queue: coordkit.Queue) -> list[Any]:
    """All that is free, acked."""
    values: list[Any] = []
    while jobs := take(queue):
        values.extend(job.value for job in jobs)
        assert queue.ack_many(jobs) == []
    return values


def take(queue: coordkit.Queue, count: int = 100) -> list[coordkit.Job]:
    """What is free now; nothing is waited for."""
    import queue as standard

    try:
        return queue.claim_many(count, block=False)
    except standard.Empty:
        return []
