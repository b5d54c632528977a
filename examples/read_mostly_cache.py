"""Many readers keep a copy of two values that belong together; now and then a writer changes both.

usage: read_mostly_cache.py [URL]

A reader holds the read side while it reads both: beside all other readers, and never between the writer's two
steps.  The writer's steps carry its guard: if it loses the lock between them, the second is refused.
"""

import argparse
import sys
import threading

import etcd_server

import coordkit
from coordkit import kv

NET, GROSS = b"/read-mostly-cache/net", b"/read-mostly-cache/gross"
READERS, READS, CHANGES = 4, 10, 5
PATIENCE_S = 30


def refresh(coord: coordkit.Coordinator, prices: coordkit.RWLock) -> tuple[int, int]:
    """What a reader puts into its cache."""
    with prices.read.within(PATIENCE_S):
        net, gross = coord.kv.get(NET), coord.kv.get(GROSS)
    return int(net.value) if net else 0, int(gross.value) if gross else 0


def change(prices: coordkit.RWLock, net: int) -> None:
    """Both values, one after the other."""
    with prices.write.within(PATIENCE_S) as writer:
        for key, value in ((NET, net), (GROSS, 2 * net)):
            if not writer.txn().then(kv.put(key, b"%d" % value)).commit().succeeded:
                raise coordkit.LockLost(f"etcd refused a write of {writer!r}")


def demonstrate(coord: coordkit.Coordinator) -> int:
    prices = coord.rwlock("prices")
    seen: list[tuple[int, int]] = []

    def read() -> None:
        for _ in range(READS):
            seen.append(refresh(coord, prices))

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    for net in range(1, CHANGES + 1):
        change(prices, net)
    for reader in readers:
        reader.join()
    last = refresh(coord, prices)
    coord.kv.delete_prefix(b"/read-mostly-cache/")

    consistent = sum(gross == 2 * net for net, gross in seen)
    up_to_date = last[0] == CHANGES
    print(f"{consistent} of {READERS * READS} reads were consistent; the last change was seen: {up_to_date}")
    return 0 if consistent == READERS * READS else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="A cache that many read and few write.")
    parser.add_argument("url", nargs="?", help="default COORDKIT_URL")
    url = etcd_server.url(parser.parse_args().url)
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with coord:
        return demonstrate(coord)


if __name__ == "__main__":
    sys.exit(main())
