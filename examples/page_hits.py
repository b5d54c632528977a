"""Several processes of a web server count their hits together; each twentieth visitor wins a prize.

usage: page_hits.py [URL] [--workers N] [--hits N]

A counter's `add` tells the value right after it, and no two calls are told the same: so each prize is won
once, without a lock.  The winners are a value that all may change: `update` loses nobody's change.  The
parent watches it.
"""

import argparse
import concurrent.futures
import subprocess
import sys

import etcd_server

import coordkit
from coordkit import codecs

COUNTER, WINNERS = "page-hits", "page-hits-winners"
THREADS = 8  # of each process
PRIZE_EVERY = 20
LIMIT_S = 30


def winners_of(coord: coordkit.Coordinator) -> coordkit.Value:
    return coord.value(WINNERS, codecs.JSON)


def work(url: str, name: str, hits: int) -> None:
    """A server process: its threads share one counter object, and so its commits."""
    with coordkit.connect(url) as coord:
        counter, winners = coord.counter(COUNTER), winners_of(coord)

        def visit(_: int) -> None:
            number = counter.add()
            if number % PRIZE_EVERY == 0:
                winners.update(lambda won: [*(won or []), [number, name]], timeout=LIMIT_S)

        with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(visit, range(hits)))  # raises what a visit raised


def watch(winners: coordkit.Value, prizes: int) -> list[int]:
    """The hits that have won, once there are so many, in the order of their numbers."""
    won: list[int] = []
    for value, _ in winners.watch(LIMIT_S):
        won = sorted(number for number, _ in value or [])
        if len(won) >= prizes:
            break
    return won


def run(coord: coordkit.Coordinator, url: str, workers: int, hits: int) -> int:
    command = [sys.executable, __file__, url, "--hits", str(hits), "--work-as"]
    crew = [subprocess.Popen([*command, f"server-{number}"]) for number in range(workers)]
    expected = workers * hits
    try:
        won = watch(winners_of(coord), expected // PRIZE_EVERY)
        statuses = [worker.wait(LIMIT_S) for worker in crew]
    finally:
        for worker in crew:
            worker.kill()
            worker.wait()
    counted = coord.counter(COUNTER).get()
    prizes = list(range(PRIZE_EVERY, expected + 1, PRIZE_EVERY))
    correct = counted == expected and won == prizes and not any(statuses)
    print(
        f"{workers} processes x {hits} hits: {counted} of {expected}, {len(won)} prizes, each won once: "
        f"{'correct' if correct else 'WRONG'}"
    )
    return 0 if correct else 1


def clear(coord: coordkit.Coordinator) -> None:
    coord.counter(COUNTER).delete()
    version = winners_of(coord).get().version
    if version:
        winners_of(coord).delete(version)


def main() -> int:
    parser = argparse.ArgumentParser(description="Processes that count together.")
    parser.add_argument("url", nargs="?", help="default COORDKIT_URL")
    parser.add_argument("--workers", type=int, default=3, metavar="N", help="processes; default 3")
    parser.add_argument("--hits", type=int, default=400, metavar="N", help="of each; default 400")
    parser.add_argument("--work-as", metavar="NAME", help=argparse.SUPPRESS)  # this is a worker
    arguments = parser.parse_args()
    url = etcd_server.url(arguments.url)
    if arguments.work_as:
        work(url, arguments.work_as, arguments.hits)
        return 0
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with coord:
        clear(coord)  # of a run that was killed
        try:
            return run(coord, url, arguments.workers, arguments.hits)
        finally:
            clear(coord)


if __name__ == "__main__":
    sys.exit(main())
