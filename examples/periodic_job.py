"""The same periodic job in two processes: one of them makes the reports, and no two write at the same time.

usage: periodic_job.py [URL]

`report` is decorated with `leader_only`: where another process leads it does nothing.  `write` is decorated
with `exclusive`: both processes call it, one at a time, for it rewrites a file.  When the first process ends,
the second one makes the reports.
"""

import itertools
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time

import etcd_server

import coordkit

ELECTION, LOCK = "periodic-job", "periodic-job-file"
PERIOD_S = 0.02
PATIENCE_S = 30
REPORTS = 10  # of each process, at least


def work(url: str, path: pathlib.Path) -> None:
    """A process: the job, again and again, until its input is closed; it tells how often it wrote."""
    me, written = os.getpid(), 0

    with coordkit.connect(url) as coord:

        @coord.exclusive(LOCK, timeout=PATIENCE_S)
        def write(what: str) -> None:
            """Not an append: what another process wrote between the two steps would be gone."""
            nonlocal written
            seen = path.read_text()
            time.sleep(0.01)
            path.write_text(f"{seen}{what} {me}\n")
            written += 1

        @coord.leader_only(ELECTION)
        def report() -> None:
            write("report")

        while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
            report()
            write("beat")
    print(written)


def start(url: str, path: pathlib.Path) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, url, "--work-on", str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def wait_for(path: pathlib.Path, what: str, pid: int, count: int) -> None:
    """Until that process has written so many of these lines, or PATIENCE_S is over."""
    limit_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit_s:
        if path.read_text().splitlines().count(f"{what} {pid}") >= count:
            return
        time.sleep(0.01)


def run(url: str, path: pathlib.Path) -> int:
    first = start(url, path)
    second = None
    try:
        wait_for(path, "report", first.pid, 1)
        second = start(url, path)
        wait_for(path, "beat", second.pid, REPORTS)  # beside the first, which leads
        wait_for(path, "report", first.pid, REPORTS)
        told_first = int(first.communicate("", PATIENCE_S)[0])
        wait_for(path, "report", second.pid, REPORTS)
        told_second = int(second.communicate("", PATIENCE_S)[0])
    finally:
        for process in filter(None, (first, second)):
            process.kill()
            process.wait()

    lines = [line.split() for line in path.read_text().splitlines()]
    reporters = [int(pid) for what, pid in lines if what == "report"]
    in_turn = [pid for pid, _ in itertools.groupby(reporters)] == [first.pid, second.pid]
    enough = min(reporters.count(first.pid), reporters.count(second.pid)) >= REPORTS
    correct = in_turn and enough and len(lines) == told_first + told_second
    print(f"2 processes, one reported, then the other; no line is lost: {'correct' if correct else 'WRONG'}")
    return 0 if correct else 1


def main() -> int:
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    if sys.argv[2:3] == ["--work-on"]:
        work(url, pathlib.Path(sys.argv[3]))
        return 0
    try:
        coordkit.connect(url).close()
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "log")
        path.touch()
        return run(url, path)


if __name__ == "__main__":
    sys.exit(main())
