"""Several processes add to one counter, each addition in a critical section; then the counter is checked.

usage: critical_section.py [URL] [--store file|etcd] [--workers N] [--rounds N]

Whatever a process does in its critical section, it may be stopped in the middle, and go on when the lock is
another's already.  So the counter itself refuses late writers: a file by its fence, etcd by a guarded
transaction.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

import etcd_server

import coordkit
from coordkit import fencing, kv

LOCK = "critical-section"
KEY = b"/critical-section/counter"
PATIENCE_S = 30  # for one turn
LIMIT_S = 120  # for all of it


class FileCounter:
    """A number in a file, which takes no write from a holder that has been replaced."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._fence = fencing.FileFence(path)

    def add_one(self, coord: coordkit.Coordinator, lock: coordkit.Lock) -> None:
        self._fence.update(lambda content: b"%d" % (int(content or b"0") + 1), lock.fence)

    def value(self, coord: coordkit.Coordinator) -> int:
        return int(self._path.read_bytes()) if self._path.exists() else 0

    def clear(self, coord: coordkit.Coordinator) -> None:
        """Its folder goes with the program."""


class EtcdCounter:
    """A number in etcd, written only in a transaction that compares the held key."""

    def add_one(self, coord: coordkit.Coordinator, lock: coordkit.Lock) -> None:
        done = lock.txn().then(kv.put(KEY, b"%d" % (self.value(coord) + 1))).commit()
        if not done.succeeded:
            lock.check()
            raise coordkit.LockLost(f"etcd refused a write of {lock!r}")

    def value(self, coord: coordkit.Coordinator) -> int:
        found = coord.kv.get(KEY)
        return int(found.value) if found else 0

    def clear(self, coord: coordkit.Coordinator) -> None:
        coord.kv.delete(KEY)


Counter = FileCounter | EtcdCounter


def counter_in(store: str, folder: str) -> Counter:
    return EtcdCounter() if store == "etcd" else FileCounter(pathlib.Path(folder, "counter"))


def work(url: str, counter: Counter, rounds: int) -> None:
    """A worker process: a connection of its own, and its share of the additions."""
    with coordkit.connect(url) as coord:
        lock = coord.lock(LOCK)
        for _ in range(rounds):
            with lock.within(PATIENCE_S):
                counter.add_one(coord, lock)


def run_workers(command: list[str], count: int) -> list[int]:
    """Run so many of them, no longer than LIMIT_S; their exit statuses."""
    workers = [subprocess.Popen(command) for _ in range(count)]
    limit_s = time.monotonic() + LIMIT_S
    try:
        return [worker.wait(max(0.0, limit_s - time.monotonic())) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()  # those that are over their limit, or left alone by Ctrl-C
            worker.wait()


def contend(arguments: argparse.Namespace, url: str, folder: str) -> int:
    """Start from nothing, let the workers add, and count."""
    counter = counter_in(arguments.store, folder)
    command = [sys.executable, __file__, url, "--store", arguments.store, "--rounds", str(arguments.rounds)]
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with coord:
        counter.clear(coord)  # of a run that was killed
        try:
            statuses = run_workers([*command, "--work-in", folder], arguments.workers)
            counted = counter.value(coord)
        finally:
            counter.clear(coord)
    expected = arguments.workers * arguments.rounds
    correct = counted == expected and not any(statuses)
    print(
        f"{arguments.workers} processes x {arguments.rounds} additions, counter in {arguments.store}: "
        f"{counted} of {expected}, exit statuses {statuses}: {'correct' if correct else 'WRONG'}"
    )
    return 0 if correct else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Several processes add to one counter.")
    parser.add_argument("url", nargs="?", help="default COORDKIT_URL")
    parser.add_argument("--store", choices=("file", "etcd"), default="file", help="default file")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="processes; default 4")
    parser.add_argument("--rounds", type=int, default=25, metavar="N", help="additions of each; default 25")
    parser.add_argument("--work-in", metavar="FOLDER", help=argparse.SUPPRESS)  # this is a worker
    arguments = parser.parse_args()
    url = etcd_server.url(arguments.url)

    if arguments.work_in:
        work(url, counter_in(arguments.store, arguments.work_in), arguments.rounds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return contend(arguments, url, folder)


if __name__ == "__main__":
    sys.exit(main())
