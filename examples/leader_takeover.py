"""Workers, one of which leads; the leader is killed, for real, and another one takes over.

usage: leader_takeover.py [URL]

What a leader does is a number that it counts up in etcd, each step in a transaction that fails once it leads
no more: so no step is lost and none is taken twice, whoever is killed wherever.
"""

import os
import signal
import subprocess
import sys
import time

import etcd_server

import coordkit
from coordkit import kv

ELECTION = "leader-takeover"
STEPS = b"/leader-takeover/steps"
WORKERS = 3
KILLS = 1
TTL_S = 2
LIMIT_S = 40


def work(url: str) -> None:
    """A worker process: stand, and as long as it leads, take steps; until it is killed."""
    with coordkit.connect(url, ttl=TTL_S) as coord:
        coord.election(ELECTION).run(lambda leadership: take_steps(coord, leadership), value=str(os.getpid()))


def take_steps(coord: coordkit.Coordinator, leadership: coordkit.Leadership) -> None:
    while not leadership.wait(0.01):  # True: lost; `run` stands again
        found = coord.kv.get(STEPS)
        steps, fences = found.value.split(b" ", 1) if found else (b"0", b"")
        if fences.split()[-1:] != [b"%d" % leadership.fence]:
            fences = b"%s %d" % (fences, leadership.fence)
        leadership.txn().then(kv.put(STEPS, b"%d %s" % (int(steps) + 1, fences))).commit()


def watch_and_kill(coord: coordkit.Coordinator) -> list[int]:
    """Kill the leader as often as was asked for; the fences of all who led."""
    fences: list[int] = []
    for leader in coord.election(ELECTION).observe(timeout=LIMIT_S):
        if leader is None:
            continue
        wait_for_a_step(coord, leader.fence)
        fences.append(leader.fence)
        if len(fences) > KILLS:
            break
        os.kill(int(leader.value), signal.SIGKILL)
    return fences


def wait_for_a_step(coord: coordkit.Coordinator, fence: int) -> None:
    limit_s = time.monotonic() + LIMIT_S
    while time.monotonic() < limit_s:
        found = coord.kv.get(STEPS)
        if found and found.value.endswith(b" %d" % fence):
            return
        time.sleep(0.01)


def main() -> int:
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    if sys.argv[2:] == ["--work"]:
        work(url)
        return 0
    try:
        coord = coordkit.connect(url)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)

    with coord:
        coord.kv.delete(STEPS)  # of a run that was killed
        workers = [subprocess.Popen([sys.executable, __file__, url, "--work"]) for _ in range(WORKERS)]
        try:
            fences = watch_and_kill(coord)
            found = coord.kv.get(STEPS)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        for leader in coord.election(ELECTION).observe(timeout=LIMIT_S):
            if leader is None:
                break  # their leases have run out
        led = list(map(int, found.value.split()[1:])) if found else []
        coord.kv.delete(STEPS)
    correct = len(fences) == KILLS + 1 and led == fences == sorted(fences)
    verdict = "correct" if correct else "WRONG"
    print(f"{WORKERS} workers, {KILLS} leader killed, {len(fences)} led, with rising fences: {verdict}")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
