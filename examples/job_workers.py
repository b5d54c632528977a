"""Workers of which any may die: no job is lost, and each counts once.

usage: job_workers.py [URL] [--workers N] [--jobs N] [--kills N]

Each job adds its number to a sum in etcd, in the transaction that acks it: both happen, or neither.  So a job
that is worked on twice, because a worker died in the middle, still counts once.
"""

import argparse
import select
import subprocess
import sys
import time

import etcd_server

import coordkit
from coordkit import kv

QUEUE = "job-workers"
SUM = b"/job-workers/sum"
TTL_S = 2  # so soon is taken up what a dead worker had
LIMIT_S = 40


def add(coord: coordkit.Coordinator, job: coordkit.Job) -> None:
    """Add the job's number to the sum, and ack the job, in one commit."""
    while True:
        found = coord.kv.get(SUM)
        seen, number = (found.mod_revision, int(found.value)) if found else (0, 0)
        work = job.txn().when(kv.mod(SUM) == seen).then(kv.put(SUM, b"%d" % (number + int(job.value))))
        result = job.ack(work)
        if result is None or result.succeeded:
            return  # None: the reply was lost, and it is known to have been applied


def work(url: str) -> None:
    """A worker: until its input is closed, or it is killed."""
    with coordkit.connect(url, ttl=TTL_S) as coord:
        jobs = coord.queue(QUEUE, max_deliveries=100)

        def done(job: coordkit.Job) -> None:
            try:
                add(coord, job)
            except coordkit.ClaimLost:
                pass  # somebody else's by now

        with jobs.consume(done, workers=1):
            select.select([sys.stdin], [], [])  # a read would stop all greenlets of a patched process


def start(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, url, "--work"], stdin=subprocess.PIPE)


def total(coord: coordkit.Coordinator) -> int:
    found = coord.kv.get(SUM)
    return int(found.value) if found else 0


def run(coord: coordkit.Coordinator, url: str, arguments: argparse.Namespace) -> int:
    jobs = coord.queue(QUEUE)
    jobs.put_many(str(number) for number in range(1, arguments.jobs + 1))
    expected = arguments.jobs * (arguments.jobs + 1) // 2
    workers = [start(url) for _ in range(arguments.workers)]
    killed = 0
    limit_s = time.monotonic() + LIMIT_S
    while total(coord) < expected and time.monotonic() < limit_s:
        if killed < arguments.kills and total(coord) > expected * killed // (arguments.kills + 1):
            workers.pop(0).kill()  # wherever it is
            workers.append(start(url))
            killed += 1
        time.sleep(0.02)
    for worker in workers:
        worker.stdin.close()
    statuses = [worker.wait() for worker in workers]
    correct = total(coord) == expected and jobs.empty() and not any(statuses)
    print(
        f"{arguments.jobs} jobs, {killed} workers killed: sum {total(coord)} of {expected}: "
        f"{'correct' if correct else 'WRONG'}"
    )
    return 0 if correct else 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Workers of which any may die.")
    parser.add_argument("url", nargs="?", help="default COORDKIT_URL")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="processes; default 4")
    parser.add_argument("--jobs", type=int, default=300, metavar="N", help="default 300")
    parser.add_argument("--kills", type=int, default=3, metavar="N", help="with SIGKILL; default 3")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)  # this is a worker
    arguments = parser.parse_args()
    url = etcd_server.url(arguments.url)
    if arguments.work:
        work(url)
        return 0
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with coord:
        coord.queue(QUEUE).purge(claimed=True)  # of a run that was killed
        coord.kv.delete(SUM)
        try:
            return run(coord, url, arguments)
        finally:
            coord.kv.delete(SUM)


if __name__ == "__main__":
    sys.exit(main())
