"""What stands behind a peer, looked at and filled from outside: items of a queue, the value of a counter.

`store` says whose it is: "coordkit", "go", "kazoo" or "kazoo-locking".
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import coordkit
from coordkit import kv

BODY = b"x" * 100
_BATCH = 100
_SETTLE_S = 15.0
_numbers = itertools.count()


@contextlib.contextmanager
def zookeeper(where: str) -> Iterator[Any]:
    """A client for a moment."""
    from kazoo import client as kazoo_client

    client = kazoo_client.KazooClient(where, timeout=10)
    client.start(timeout=10)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def etcd(where: str) -> coordkit.Coordinator:
    """A coordinator at an endpoint or a URL."""
    return coordkit.connect(where if "://" in where else f"etcd://{where}/bench")


def value(store: str, where: str, name: str) -> int:
    """Of a counter."""
    if store == "kazoo":
        with zookeeper(where) as client:
            return int(client.Counter(f"/{name}").value)
    with etcd(where) as coord:
        if store == "coordkit":
            return coord.counter(name).get()
        found = coord.kv.get(name)
        return int(found.value) if found else 0


def size(store: str, where: str, name: str) -> int:
    """Of a queue."""
    if store.startswith("kazoo"):
        with zookeeper(where) as client:
            return len(_kazoo_queue(client, store, name))
    with etcd(where) as coord:
        return coord.queue(name).qsize() if store == "coordkit" else len(coord.kv.range(name))


def settled_size(store: str, where: str, name: str, expected: int) -> int:
    """Of a queue; a claim whose caller had no time left is given back soon after: look again for a while."""
    limit = time.monotonic() + _SETTLE_S
    while (found := size(store, where, name)) != expected and time.monotonic() < limit:
        time.sleep(0.2)
    return found


def fill(store: str, where: str, name: str, until: int) -> set[str]:
    """Put items until so many are there; what was put."""
    items = [f"i{next(_numbers)}" for _ in range(max(0, until - size(store, where, name)))]
    values = [item.encode() + b" " + BODY for item in items]
    batches = [values[at : at + _BATCH] for at in range(0, len(values), _BATCH)]
    if store.startswith("kazoo"):
        with zookeeper(where) as client:
            queue = _kazoo_queue(client, store, name)
            queue._ensure_paths()
            for batch in batches:
                if store == "kazoo-locking":
                    queue.put_all(batch)
                    continue
                with client.transaction() as transaction:
                    for each in batch:
                        transaction.create(f"{queue.path}/entry-100-", each, sequence=True)
    else:
        with etcd(where) as coord:
            for batch in batches:
                if store == "coordkit":
                    coord.queue(name).put_many(batch)
                else:
                    keys = [f"{name}/{next(_numbers):019d}" for _ in batch]
                    puts = (kv.put(key, each) for key, each in zip(keys, batch, strict=True))
                    coord.kv.txn().then(*puts).commit()
    return set(items)


def _kazoo_queue(client: Any, store: str, name: str) -> Any:
    path = f"/{name}"
    return client.LockingQueue(path) if store == "kazoo-locking" else client.Queue(path)
