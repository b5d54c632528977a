"""One process changes a configuration; all others follow, each change in order, from wherever they were.

usage: config_fan_out.py [URL] [--workers N] [--changes N]

Each worker is a process with a cursor of its own.  Halfway through it is killed and started again: it goes on
where it was, and has applied every change in the end.
"""

import argparse
import subprocess
import sys

import etcd_server

import coordkit
from coordkit import codecs

TOPIC = "settings"
KEPT = 10_000


def topic(coord: coordkit.Coordinator) -> coordkit.Topic:
    return coord.topic(TOPIC, retain=KEPT, codec=codecs.JSON)


def follow(url: str, name: str, last: int) -> None:
    """Apply changes, and say which; a change counts as done once it was applied."""
    cursor = coordkit.Cursor(name, auto=False)
    with coordkit.connect(url) as coord, topic(coord).subscribe(cursor) as changes:
        for change in changes:
            print(change.value["version"], flush=True)  # here it is applied
            changes.commit(change)
            if change.value["version"] == last:
                return


def start(url: str, name: str, last: int) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, url, "--follow", name, "--changes", str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def applied(worker: "subprocess.Popen[str]", up_to: int) -> list[int]:
    """The versions that a worker applies, until that one."""
    assert worker.stdout is not None
    seen = [int(worker.stdout.readline())]
    while seen[-1] < up_to:
        seen.append(int(worker.stdout.readline()))
    return seen


def lead(url: str, workers: int, changes: int) -> None:
    """Change the configuration, and kill every worker once meanwhile."""
    with coordkit.connect(url, timeout=5) as coord:
        names = [f"worker-{number}" for number in range(workers)]
        half = changes // 2
        for version in range(1, half + 1):
            topic(coord).publish({"version": version, "limit": version * 10})
        seen = {}
        for name in names:
            worker = start(url, name, changes)
            seen[name] = applied(worker, half // 2)
            worker.kill()
            assert worker.stdout is not None
            seen[name] += map(int, worker.stdout.read().split())  # it may have gone on until it was killed
            worker.wait()
        for version in range(half + 1, changes + 1):
            topic(coord).publish({"version": version, "limit": version * 10})
        running = {name: start(url, name, changes) for name in names}
        for name, worker in running.items():
            seen[name] += applied(worker, changes)
            worker.wait()
        coord.kv.delete_prefix(f"/{coord.settings.namespace}/topic/{TOPIC}/")

    everything = list(range(1, changes + 1))
    complete = sum(sorted(set(versions)) == everything for versions in seen.values())
    repeated = sum(len(versions) - len(set(versions)) for versions in seen.values())
    # A worker may be killed between a change and its commit: then that one comes again.
    print(f"{workers} workers, each killed once: {complete} have applied all {changes} changes")
    print(f"changes that were applied again after a kill: {repeated}, at most {workers}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--changes", type=int, default=40)
    parser.add_argument("--follow", metavar="NAME")
    arguments = parser.parse_args()
    url = etcd_server.url(arguments.url)
    if arguments.follow:
        follow(url, arguments.follow, arguments.changes)
        return
    try:
        lead(url, arguments.workers, arguments.changes)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)


if __name__ == "__main__":
    main()
