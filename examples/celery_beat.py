"""Celery's beat on two replicas: the one that leads sends; it is killed, and the other one takes over.

usage: celery_beat.py [URL]

Two beats would send each task twice.  Here each replica stands for election, and runs beat's scheduler, with
the schedule in memory, for as long as it leads.  The messages go into a folder, by Celery's filesystem
transport, so that no broker is needed; they tell who sent when.  `coordkit elect run` does the same with the
program `celery beat`, as it is.
"""

import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import etcd_server

import coordkit

try:
    import celery
    from celery import beat
except ImportError as missing:
    celery = None
    REASON = f"left out: {missing} (pip install celery)"

ELECTION = "celery-beat"
REPLICAS = 2
PERIOD_S = 0.1
TTL_S = 2
LIMIT_S = 30
ENOUGH = 10  # messages of one leader


def replicate(url: str, folder: str) -> None:
    """A replica: stand, and as long as it leads, send; until it is killed."""
    app = celery.Celery("reports", broker="filesystem://")
    folders = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), folder)
    app.conf.broker_transport_options = folders
    app.conf.beat_schedule = {"report": {"task": "report", "schedule": PERIOD_S}}
    with coordkit.connect(url, ttl=TTL_S) as coord:
        coord.election(ELECTION).run(lambda leadership: send(app, leadership), value=str(os.getpid()))


def send(app: "celery.Celery", leadership: coordkit.Leadership) -> None:
    """What `celery beat` does in its loop; a tick sends one task at most, and says when to come again."""
    scheduler = beat.Scheduler(app)
    pause_s = 0.0
    try:
        while not leadership.wait(pause_s):  # True: lost; `run` stands again
            leadership.check()  # we may have been stopped for long since we were told
            pause_s = max(0.0, scheduler.tick())
    finally:
        scheduler.close()


def senders(folder: str) -> list[int]:
    """Who sent each message, in the order of the sending."""
    # A file's name begins with its time, in milliseconds of the clock that all processes here share.
    files = [path for path in pathlib.Path(folder).glob("*.msg") if path.stat().st_size]
    files.sort(key=lambda path: int(path.name.partition("_")[0]))
    origins = [json.loads(path.read_text())["headers"]["origin"] for path in files]
    return [int(origin.removeprefix("gen").partition("@")[0]) for origin in origins]  # as gen123@host


def wait_for_sender(folder: str, other_than: int | None = None) -> int | None:
    """Until somebody has sent enough; who it was."""
    limit_s = time.monotonic() + LIMIT_S
    while time.monotonic() < limit_s:
        sent = senders(folder)
        for pid in set(sent) - {other_than}:
            if sent.count(pid) >= ENOUGH:
                return pid
        time.sleep(0.02)
    return None


def wait_for_candidates(coord: coordkit.Coordinator) -> None:
    """Until all replicas stand, so that the others could send while one does."""
    limit_s = time.monotonic() + LIMIT_S
    while time.monotonic() < limit_s and len(coord.election(ELECTION).contenders()) < REPLICAS:
        time.sleep(0.02)


def run(coord: coordkit.Coordinator, url: str, folder: str) -> int:
    command = [sys.executable, __file__, url, "--replicate", folder]
    replicas = [subprocess.Popen(command) for _ in range(REPLICAS)]
    try:
        wait_for_candidates(coord)
        first = wait_for_sender(folder)
        if first is not None:
            os.kill(first, signal.SIGKILL)
        second = wait_for_sender(folder, other_than=first)
    finally:
        for replica in replicas:
            replica.kill()
            replica.wait()

    turns = [pid for pid, _ in itertools.groupby(senders(folder))]
    correct = None not in (first, second) and turns == [first, second]
    print(f"{REPLICAS} replicas, one beat, killed, one beat: {'correct' if correct else 'WRONG'}")
    return 0 if correct else 1


def main() -> int:
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    if sys.argv[2:3] == ["--replicate"]:
        replicate(url, sys.argv[3])
        return 0
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    with coord, tempfile.TemporaryDirectory() as folder:
        if celery is None:
            print(REASON)
            return 0
        return run(coord, url, folder)


if __name__ == "__main__":
    sys.exit(main())
