"""A web application with several gevent workers, exactly one of which is the scheduler.

usage: gunicorn_scheduler.py [URL]

gunicorn runs this very file as its application.  Each worker stands for election after its fork; the leader
ticks.  Then the worker that leads is killed, and another one ticks on.
"""

import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import etcd_server

import coordkit

ELECTION = "gunicorn-scheduler"
WORKERS = 2
TTL_S = 2
LIMIT_S = 30

# --- the application: imported by gunicorn in each worker, after the fork

_scheduler: "Scheduler | None" = None


class Scheduler:
    """One a worker."""

    def __init__(self) -> None:
        self.coord = coordkit.connect(os.environ["COORDKIT_URL"], ttl=TTL_S)
        self.standing = self.coord.standing(ELECTION, value=str(os.getpid()))
        self.ticks = 0
        threading.Thread(target=self.run, daemon=True).start()

    def run(self) -> None:
        while True:
            self.standing.call(self.tick)  # does nothing where another worker leads
            time.sleep(0.05)

    def tick(self) -> None:
        self.ticks += 1


def app(environ, start_response):
    """Says whether this worker is the scheduler."""
    global _scheduler
    _scheduler = _scheduler or Scheduler()
    state = {"pid": os.getpid(), "leads": _scheduler.standing.leads, "ticks": _scheduler.ticks}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(state).encode()]


# --- the program: starts gunicorn, asks its workers, kills the scheduler


def ask(port: int) -> dict[str, object]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
            return json.load(reply)
    except OSError:
        return {}  # it is not there yet, or the worker was killed in this moment


def find_scheduler(port: int, other_than: object) -> set[object]:
    """Ask until a worker leads and has ticked; the ones that said so."""
    limit_s = time.monotonic() + LIMIT_S
    while time.monotonic() < limit_s:
        states = [ask(port) for _ in range(4 * WORKERS)]
        leading = {each["pid"] for each in states if each.get("leads") and each.get("ticks")}
        if leading - {other_than}:
            return leading
    return set()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def main() -> int:
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    try:
        coordkit.connect(url).close()
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)
    if importlib.util.find_spec("gunicorn") is None:
        print("left out: No module named 'gunicorn' (pip install gunicorn)")
        return 0

    port = free_port()
    here = pathlib.Path(__file__)
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "-k",
        "gevent",
        "-w",
        str(WORKERS),
        "-b",
        f"127.0.0.1:{port}",
    ]
    command += ["--log-level", "critical", "--pythonpath", str(here.parent), f"{here.stem}:app"]
    server = subprocess.Popen(command, env={**os.environ, "COORDKIT_URL": url})
    try:
        first = find_scheduler(port, None)
        if len(first) == 1:
            os.kill(int(str(next(iter(first)))), signal.SIGKILL)
        second = find_scheduler(port, next(iter(first), None))
    finally:
        server.terminate()
        server.wait(LIMIT_S)
    correct = len(first) == len(second) == 1 and first != second
    print(
        f"{WORKERS} gevent workers, one scheduler, killed, one scheduler: {'correct' if correct else 'WRONG'}"
    )
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
