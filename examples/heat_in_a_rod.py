"""A computation in phases: each process owns a piece of a rod, and needs its neighbours' heat in each step.

usage: heat_in_a_rod.py [URL] [--workers N] [--steps N]

A step reads between `enter` and `leave`, and writes after it.  Nobody enters before all have written the step
before, nobody leaves before all have read: so everybody reads the same moment.  The result is compared with
that of one loop that computes it all.
"""

import argparse
import random
import subprocess
import sys
import time

import etcd_server

import coordkit

PREFIX = "/heat-in-a-rod/"
PHASE = "heat-in-a-rod"
HOT, COLD = 64_000, 0  # at the two ends, for ever
PATIENCE_S = 30


def next_heat(left: int, own: int, right: int) -> int:
    """In whole numbers, so that all computers agree."""
    return (left + 2 * own + right) // 4


def heat(coord: coordkit.Coordinator, piece: int) -> int:
    found = coord.kv.get(f"{PREFIX}{piece}")
    return int(found.value) if found else COLD


def neighbourhood(coord: coordkit.Coordinator, piece: int, pieces: int) -> tuple[int, int, int]:
    """What a piece needs of the moment: the heat on its left, its own, and on its right."""
    left = heat(coord, piece - 1) if piece else HOT
    right = heat(coord, piece + 1) if piece + 1 < pieces else COLD
    return left, heat(coord, piece), right


def work(url: str, piece: int, pieces: int, steps: int) -> int:
    """A worker process; its exit status."""
    with coordkit.connect(url) as coord:
        phase = coord.double_barrier(PHASE, parties=pieces)
        for _ in range(steps):
            time.sleep(random.uniform(0, 0.02))  # no two are equally fast
            if not phase.enter(PATIENCE_S):
                return 1  # somebody is missing
            seen = neighbourhood(coord, piece, pieces)
            if not phase.leave(PATIENCE_S):
                return 1
            coord.kv.put(f"{PREFIX}{piece}", str(next_heat(*seen)))
    return 0


def alone(pieces: int, steps: int) -> list[int]:
    """The same, by one loop."""
    rod = [COLD] * pieces
    for _ in range(steps):
        ends = [HOT, *rod, COLD]
        rod = [next_heat(*ends[piece : piece + 3]) for piece in range(pieces)]
    return rod


def run(coord: coordkit.Coordinator, url: str, pieces: int, steps: int) -> int:
    sizes = ["--workers", str(pieces), "--steps", str(steps)]
    commands = [[sys.executable, __file__, url, *sizes, "--piece", str(piece)] for piece in range(pieces)]
    crew = [subprocess.Popen(command) for command in commands]
    try:
        statuses = [worker.wait(2 * PATIENCE_S) for worker in crew]
    finally:
        for worker in crew:
            worker.kill()
            worker.wait()
    rod = [heat(coord, piece) for piece in range(pieces)]
    correct = not any(statuses) and rod == alone(pieces, steps)
    verdict = "correct" if correct else "WRONG"
    print(f"{pieces} processes x {steps} steps: as one loop computes it: {verdict}")
    return 0 if correct else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="A computation in phases, in several processes.")
    parser.add_argument("url", nargs="?", help="default COORDKIT_URL")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="processes; default 4")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="default 20")
    parser.add_argument("--piece", type=int, help=argparse.SUPPRESS)  # this is a worker
    arguments = parser.parse_args()
    url = etcd_server.url(arguments.url)
    if arguments.piece is not None:
        return work(url, arguments.piece, arguments.workers, arguments.steps)
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with coord:
        phase = coord.double_barrier(PHASE, parties=arguments.workers)
        coord.kv.delete_prefix(PREFIX)  # of a run that was killed
        phase.delete()
        try:
            return run(coord, url, arguments.workers, arguments.steps)
        finally:
            coord.kv.delete_prefix(PREFIX)
            phase.delete()


if __name__ == "__main__":
    sys.exit(main())
