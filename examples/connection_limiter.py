"""A database allows so many connections in all; workers, wherever they run, share them fairly.

usage: connection_limiter.py [URL]

Each worker takes a permit before it connects.  In the middle the database is given more room, and the limit
is raised for all while it is in use.
"""

import argparse
import sys
import threading
import time

import etcd_server

import coordkit

WORKERS, JOBS = 6, 4
LIMIT, LARGER = 2, 3
PATIENCE_S = 30


class Database:
    """Counts who is connected."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connected = 0
        self.most = 0
        self.done = 0

    def query(self) -> None:
        with self._lock:
            self._connected += 1
            self.most = max(self.most, self._connected)
        time.sleep(0.005)
        with self._lock:
            self._connected -= 1
            self.done += 1


def demonstrate(coord: coordkit.Coordinator) -> int:
    database = Database()
    operator = coord.semaphore("database", limit=LIMIT)
    operator.resize(LIMIT)  # whatever an earlier run left

    def work() -> None:
        connections = coord.semaphore("database")  # the limit is the operator's business
        for _ in range(JOBS):
            with connections.within(PATIENCE_S):
                database.query()

    workers = [threading.Thread(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    operator.resize(LARGER)
    for worker in workers:
        worker.join()
    left = operator.available()
    operator.delete()

    within = database.most <= LARGER
    done = f"{database.done} of {WORKERS * JOBS} queries"
    print(f"{done}, never more than {LARGER} at once: {within}; {left} permits left")
    return 0 if within and database.done == WORKERS * JOBS else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Workers that share a number of connections.")
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
