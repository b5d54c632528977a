"""Workers stop at a gate while the data are moved to another format, and go on when it opens.

usage: maintenance.py [URL] [--workers N]

The operator closes the gate, and waits for a latch that each worker counts down once it stands at the gate:
then nobody is at work.  What it does takes two steps, and no worker may see the moment between them.
"""

import argparse
import random
import subprocess
import sys
import time

import etcd_server

import coordkit

FORMAT, DATA = "/maintenance/format", "/maintenance/data"
GATE = "maintenance"
OLD, NEW = "old", "new"
PATIENCE_S = 30
JOBS = 10  # of each worker before the maintenance, and after it, at least


class Plant:
    """What all processes share."""

    def __init__(self, coord: coordkit.Coordinator, workers: int) -> None:
        self.coord = coord
        self.gate = coord.gate(GATE)
        self.at_work = coord.latch("maintenance-at-work", count=workers)
        self.at_rest = coord.latch("maintenance-at-rest", count=workers)

    def clear(self) -> None:
        self.coord.kv.delete_prefix("/maintenance/")
        self.gate.open()
        self.at_work.delete()
        self.at_rest.delete()


def job(coord: coordkit.Coordinator) -> str:
    """The format that it saw; it must be that of the data."""
    kind = coord.kv.get(FORMAT)
    time.sleep(random.uniform(0, 0.05))  # gets ready for it
    data = coord.kv.get(DATA)
    assert kind is not None
    assert data is not None
    if not data.value.startswith(kind.value):
        raise ValueError(f"format {kind.value!r}, but data {data.value!r}")
    return kind.value.decode()


def work(plant: Plant) -> int:
    """A worker: jobs, the maintenance, jobs; its exit status."""
    jobs = {OLD: 0, NEW: 0}
    while jobs[NEW] < JOBS:
        if not plant.gate.is_open():
            plant.at_rest.count_down()
            if not plant.gate.wait(PATIENCE_S):
                return 1
        jobs[job(plant.coord)] += 1
        if jobs == {OLD: JOBS, NEW: 0}:
            plant.at_work.count_down()
    return 0


def maintain(plant: Plant) -> bool:
    """Whether all were at work before, and at rest meanwhile."""
    if not plant.at_work.wait(PATIENCE_S):
        return False
    plant.gate.close()
    if not plant.at_rest.wait(PATIENCE_S):
        return False
    plant.coord.kv.put(FORMAT, NEW)
    time.sleep(0.02)  # a long way from one step to the other
    plant.coord.kv.put(DATA, f"{NEW}: 42")
    return plant.gate.open()


def run(plant: Plant, url: str, workers: int) -> int:
    plant.coord.kv.put(FORMAT, OLD)
    plant.coord.kv.put(DATA, f"{OLD}: 42")
    command = [sys.executable, __file__, url, "--workers", str(workers), "--work"]
    crew = [subprocess.Popen(command) for _ in range(workers)]
    try:
        maintained = maintain(plant)
        statuses = [worker.wait(PATIENCE_S) for worker in crew] if maintained else []
    finally:
        for worker in crew:
            worker.kill()
            worker.wait()
    correct = maintained and not any(statuses)
    print(f"{workers} workers stopped at the gate, and went on: {'correct' if correct else 'WRONG'}")
    return 0 if correct else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Workers that stop for a maintenance.")
    parser.add_argument("url", nargs="?", help="default COORDKIT_URL")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="processes; default 4")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)  # this is a worker
    arguments = parser.parse_args()
    url = etcd_server.url(arguments.url)
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with coord:
        plant = Plant(coord, arguments.workers)
        if arguments.work:
            return work(plant)
        plant.clear()  # of a run that was killed
        try:
            return run(plant, url, arguments.workers)
        finally:
            plant.clear()


if __name__ == "__main__":
    sys.exit(main())
