"""Several worker processes get ready, each in its own time, and start together; again in each round.

usage: start_together.py [URL] [--workers N] [--rounds N]

Nobody starts a round before all are ready for it.  The parent checks that by the times that they tell.
"""

import argparse
import json
import random
import subprocess
import sys
import time

import etcd_server

import coordkit

BARRIER = "start-together"
PATIENCE_S = 30


def work(url: str, workers: int, rounds: int) -> None:
    """A worker process; it tells when it was ready, and when it started, as JSON lines."""
    with coordkit.connect(url) as coord:
        barrier = coord.barrier(BARRIER, parties=workers, timeout=PATIENCE_S)
        for _ in range(rounds):
            time.sleep(random.uniform(0, 0.1))  # gets ready
            ready_s = time.monotonic()  # the same clock in all processes of this machine
            place = barrier.wait()
            print(json.dumps([ready_s, time.monotonic(), place]), flush=True)


def started_together(lines: list[list[float]]) -> bool:
    """Of one round: nobody started before the last was ready, and each was told a place of its own."""
    last_ready_s = max(ready_s for ready_s, _, _ in lines)
    places = sorted(place for _, _, place in lines)
    return places == list(range(len(lines))) and all(start_s >= last_ready_s for _, start_s, _ in lines)


def run(command: list[str], workers: int) -> list[list[list[float]]]:
    """What each worker told."""
    crew = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(workers)]
    try:
        told = [worker.communicate(timeout=2 * PATIENCE_S)[0] for worker in crew]
        return [[json.loads(line) for line in text.splitlines()] for text in told]
    finally:
        for worker in crew:
            worker.kill()
            worker.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="Worker processes that start together.")
    parser.add_argument("url", nargs="?", help="default COORDKIT_URL")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="processes; default 4")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)  # this is a worker
    arguments = parser.parse_args()
    url = etcd_server.url(arguments.url)

    if arguments.work:
        work(url, arguments.workers, arguments.rounds)
        return 0
    sizes = ["--workers", str(arguments.workers), "--rounds", str(arguments.rounds)]
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with coord:
        barrier = coord.barrier(BARRIER, arguments.workers)
        barrier.delete()  # what a run with other workers left
        told = run([sys.executable, __file__, url, "--work", *sizes], arguments.workers)
        barrier.delete()
    rounds = [started_together(list(lines)) for lines in zip(*told, strict=False)]
    print(f"{arguments.workers} processes started together in {sum(rounds)} of {arguments.rounds} rounds")
    return 0 if len(rounds) == arguments.rounds and all(rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
