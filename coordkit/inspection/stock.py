"""What queues and topics hold: their names, and how much is in each; it is counted by etcd, not read.

Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from coordkit import intake, keys
from coordkit.etcd import client as clients
from coordkit.etcd import kv
from coordkit.recipes.queue import names as queue_names
from coordkit.recipes.topic import names as topic_names
from coordkit.recipes.topic import parts
from coordkit.wire import messages


@attrs.frozen
class QueueStock:
    """A queue, and how many of its items are where, at one revision."""

    name: str
    free: int
    claimed: int
    delayed: int
    dead: int


@attrs.frozen
class TopicStock:
    """A topic.

    Attributes:
        usage: How programs use it; None while nobody has published.
        messages: How many it keeps; None of a live one, which keeps none.
        cursors: How many durable subscribers it knows.
    """

    name: str
    usage: parts.Usage | None
    messages: int | None
    cursors: int


def queues(client: clients.Client, namespace: str) -> Iterator[QueueStock]:
    """All that are there, by name.  Cost: 5 round trips for each."""
    for name, prefix in _named(client, namespace, "queue"):
        layout = queue_names.Layout(prefix)
        ranges = (layout.items, layout.claims, layout.delayed, layout.dead)
        items, claimed, delayed, dead = _counts(client, *ranges)
        yield QueueStock(name, max(0, items - claimed), claimed, delayed, dead)


def topics(client: clients.Client, namespace: str) -> Iterator[TopicStock]:
    """All that are there, by name.  Cost: up to 5 round trips for each, and 1 for each partition."""
    for name, prefix in _named(client, namespace, "topic"):
        yield _topic(client, name, topic_names.Names.under(prefix))


def _topic(client: clients.Client, name: str, whole: topic_names.Names) -> TopicStock:
    deadline = client.deadline(None)
    usage = parts.usage_of(whole, lambda key: intake.read_key(client, key, deadline))
    each = [whole]
    if usage is not None and usage.partitions > 1:
        number = min(usage.partitions, parts.MOST_PARTITIONS)  # whoever wrote that
        each = list(map(whole.partition, range(number)))
    (cursors,) = _counts(client, each[0].cursors)  # a subscriber has one in each partition
    retained = usage is not None and usage.retained
    messages = sum(_counts(client, *(part.log for part in each))) if retained else None
    return TopicStock(name, usage, messages, cursors)


def _named(client: clients.Client, namespace: str, kind: str) -> Iterator[tuple[str, bytes]]:
    """The name of each primitive of a kind, and what its keys begin with.  Cost: 1 round trip for each."""
    root = keys.prefix(namespace, kind)
    request = messages.RangeRequest(key=root, range_end=keys.range_end(root), limit=1, keys_only=True)
    while True:
        found = client.read(request, client.deadline(None)).kvs
        if not found:
            return
        segment, slash, _ = found[0].key[len(root) :].partition(b"/")
        if slash:
            prefix = root + segment + slash
            yield keys.unsegment(segment.decode(errors="replace")), prefix
            request.key = keys.range_end(prefix)
        else:
            request.key = found[0].key + b"\0"  # somebody else's


def _counts(client: clients.Client, *ranges: bytes) -> list[int]:
    """How many keys there are in each, at one revision.  Cost: 1 round trip for each."""
    result = client.look([kv.range(each, count_only=True) for each in ranges], client.deadline(None))
    return [result.found(number).count for number in range(len(ranges))]
