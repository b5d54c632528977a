"""Two processes, many threads each, number invoices without a gap: under a lock that a process hands on.

usage: invoice_numbers.py [URL] [--threads N] [--invoices N]

A fair lock goes through etcd from each thread to the next.  A cohort lock goes from thread to thread of one
process without a message, and to the other process after 64 times at most.  The pair (fence, handoff) grows
from holder to holder, so the journal can tell who came late.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import threading

import etcd_server

import coordkit

LOCK = "invoice-numbers"
PROCESSES = 2
PATIENCE_S = 30
LIMIT_S = 60


class Journal:
    """A file with one line for each invoice; only who holds the lock may add to it."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path

    def lines(self) -> list[dict[str, int]]:
        return [json.loads(line) for line in self._path.read_text().splitlines()]

    def add(self, process: int, fence: int, handoff: int) -> None:
        """The next number, which without a lock two threads could take at once."""
        number = len(self.lines()) + 1
        line = {"number": number, "process": process, "fence": fence, "handoff": handoff}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def work(url: str, process: int, journal: Journal, threads: int, invoices: int) -> int:
    """A process; its exit status."""
    numbered = []

    def write_invoices() -> None:
        lock = coord.cohort_lock(LOCK)  # all handles of one name share the process's place in line
        for _ in range(invoices):
            with lock.within(PATIENCE_S):
                journal.add(process, lock.fence, lock.handoff)
        numbered.append(invoices)

    with coordkit.connect(url) as coord:
        clerks = [threading.Thread(target=write_invoices) for _ in range(threads)]
        for clerk in clerks:
            clerk.start()
        for clerk in clerks:
            clerk.join()
    return 0 if len(numbered) == threads else 1


def run(url: str, journal: Journal, path: pathlib.Path, threads: int, invoices: int) -> int:
    sizes = ["--threads", str(threads), "--invoices", str(invoices)]
    command = [sys.executable, __file__, url, *sizes, "--journal", str(path), "--process"]
    crew = [subprocess.Popen([*command, str(number)]) for number in range(PROCESSES)]
    try:
        statuses = [process.wait(LIMIT_S) for process in crew]
    finally:
        for process in crew:
            process.kill()
            process.wait()

    lines = journal.lines()
    expected = PROCESSES * threads * invoices
    places = [(line["fence"], line["handoff"]) for line in lines]
    rising = places == sorted(set(places))  # whoever wrote later was also a later holder
    complete = [line["number"] for line in lines] == list(range(1, expected + 1))
    both = {line["process"] for line in lines} == set(range(PROCESSES))
    turns = len({fence for fence, _ in places})
    correct = rising and complete and both and turns < expected and not any(statuses)
    print(
        f"{PROCESSES} processes x {threads} threads: {len(lines)} of {expected} invoices without a gap, "
        f"in {turns} turns of a process: {'correct' if correct else 'WRONG'}"
    )
    return 0 if correct else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Many threads of two processes, one lock.")
    parser.add_argument("url", nargs="?", help="default COORDKIT_URL")
    parser.add_argument("--threads", type=int, default=16, metavar="N", help="of each process; default 16")
    parser.add_argument("--invoices", type=int, default=20, metavar="N", help="of each thread; default 20")
    parser.add_argument("--journal", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)  # this is one of the two
    arguments = parser.parse_args()
    url = etcd_server.url(arguments.url)
    sizes = arguments.threads, arguments.invoices
    if arguments.process is not None:
        return work(url, arguments.process, Journal(arguments.journal), *sizes)
    try:
        coordkit.connect(url).close()
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "journal")
        path.touch()
        return run(url, Journal(path), path, *sizes)


if __name__ == "__main__":
    sys.exit(main())
