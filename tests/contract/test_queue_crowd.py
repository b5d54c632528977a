"""Processes that put and take, some of them killed, and a server that is started anew: nothing is lost."""

from __future__ import annotations

import collections
import os
import pathlib
import queue as standard
import threading

import pytest
from contract.players import wait_until

import coordkit
from coordkit.deadline import Deadline
from coordkit.etcd import watch
from coordkit.testing import LocalEtcd, checkers, etcd_program
from coordkit.testing.checkers.queue import WINDOW
from coordkit.testing.crowd import Crowd
from coordkit.testing.history import Kind, Operation, Result
from coordkit.testing.recorder import Recorder, Told

#: Threads with an even number put, the others take; `ROLE` may make all of them the one or the other.
MEMBER = """
import itertools, os, queue, random
import coordkit
from coordkit.testing import crowd
from coordkit.testing.history import Kind
from coordkit.testing.recorder import Told

ROLE = {role!r}
numbers = itertools.count()
queues = {{}}

def produce(jobs, witness):
    values = [f"{{os.getpid()}}-{{next(numbers)}}" for _ in range(random.randrange(1, 17))]
    def put():
        ids = jobs.put_many(values, timeout=1)
        return Told(subject=" ".join(map("{{}}@{{}}".format, values, ids)))
    witness.call(Kind.PUT, put, subject=" ".join(values))

def consume(jobs, witness):
    try:
        taken = jobs.claim_many(random.choice((1, 20)), timeout=2)
    except (queue.Empty, coordkit.Unavailable, coordkit.DeadlineExceeded):
        return  # also while the server is away
    for job in taken:
        subject = f"{{job.value.decode()}}@{{job.id}}"
        witness.call(Kind.CLAIM, lambda: Told(subject=subject, number=job.attempt, fence=job.fence))
        if random.random() < 0.05:
            witness.call(Kind.WRITE, lambda: job.nack() or Told())
        else:
            witness.call(Kind.ACK, lambda: job.ack() or Told(), subject=subject, fence=job.fence)

def cycle(coord, witness):
    jobs = queues.setdefault("crowd", coord.queue("crowd", max_deliveries=1000, max_length=150))
    if ROLE == "both":
        role = (produce, consume)[int(witness.label) % 2]
    else:
        role = {{"produce": produce, "consume": consume}}[ROLE]
    role(jobs, witness)

crowd.take_part(cycle)
"""


def drain(coord: coordkit.Coordinator, folder: pathlib.Path) -> None:
    """Take what is left, and write it down like everybody."""
    witness = Recorder(folder / "drain.jsonl").witness("drain")
    jobs = coord.queue("crowd", max_deliveries=1000)
    limit = Deadline.after(120)
    while coord.kv.range(jobs._site.layout.items):
        assert not limit.expired, "something is left that cannot be taken"
        try:
            # What the dead had claimed comes back with the end of their leases.
            taken = jobs.claim_many(100, timeout=5)
        except standard.Empty:
            continue
        for job in taken:
            subject = f"{job.value.decode()}@{job.id}"
            delivered = Told(subject=subject, number=job.attempt, fence=job.fence)
            witness.call(Kind.CLAIM, lambda delivered=delivered: delivered)
        jobs.ack_many(taken)
        for job in taken:
            subject = f"{job.value.decode()}@{job.id}"
            witness.call(Kind.ACK, Told, subject=subject, fence=job.fence)


def first_claims(coord: coordkit.Coordinator) -> dict[str, int]:
    """
    The revision of each item's first claim; etcd still has all its history.
    """
    layout = coord.queue("crowd")._site.layout
    found: dict[str, int] = {}
    complete = threading.Event()
    mark = layout.claims + b"mark"

    class Listener:
        def on_created(self, revision: int) -> None:
            """Nothing is missed: it begins at the first revision."""

        def on_events(self, events: list[watch.Event]) -> None:
            for event in events:
                if event.key == mark:
                    complete.set()
                elif (id_ := layout.id_behind(layout.claims, event.key)) is not None:
                    found.setdefault(id_, event.mod_revision)

    coord.kv.put(mark, b"")
    told = coord._link.watcher.watch_prefix(
        layout.claims, Listener(), start_revision=1, filters=(watch.NO_DELETES,)
    )
    assert complete.wait(60)
    told.cancel()
    coord.kv.delete(mark)
    return found


def judge(history: list[Operation], killed: int, claims: dict[str, int]) -> None:
    verdict = checkers.check_queue(history, WINDOW, first_claims=claims)
    calls = collections.Counter(f"{each.kind.value} {each.result.value}" for each in history)
    again = sum(each.kind is Kind.CLAIM and (each.number or 0) > 1 for each in history)
    rules = collections.Counter(violation.rule.value for violation in verdict.violations)
    print(f"{verdict.holds} deliveries, {again} of them again, {killed} killed; {dict(calls)}; {dict(rules)}")
    for violation in verdict.violations[:5]:
        print(violation.why)
        for operation in violation.operations:
            print("   ", operation)
    assert verdict.clean


def items(history: list[Operation]) -> int:
    """How many were put for certain."""
    return sum(
        len(each.subject.split()) for each in history if each.kind is Kind.PUT and each.result is Result.OK
    )


class Tally:
    """How many items were put for certain; reads only what was written down since the last look."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._read: collections.Counter[pathlib.Path] = collections.Counter()  # bytes
        self._put = 0

    def __call__(self) -> int:
        for path in self._folder.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._read[path])
                whole = file.read().rpartition(b"\n")
            self._read[path] += len(whole[0]) + len(whole[1])
            told = [line for line in whole[0].splitlines() if b'"kind":"put","result":"ok"' in line]
            self._put += sum(line.count(b"@") for line in told)
        return self._put


def start_anew(server: LocalEtcd) -> None:
    """By a kill; but 3.5.0 to 3.5.2 can forget in a crash what they have told, which is not ours to judge."""
    if server.version in etcd_program.INCONSISTENT:
        server.restart()
    else:
        server.kill()
        server.start()


def test_four_processes_that_put_and_take_some_of_them_killed(child, tmp_path, etcd_binary):
    """
    The server is started anew, too: nothing is lost, nothing comes that nobody put, twice only what says so.
    """
    with LocalEtcd(etcd_binary, arguments=("--heartbeat-interval=10", "--election-timeout=100")) as server:
        crowd = Crowd(child, f"{server.url}?ttl=2&timeout=15", tmp_path, threads=2, seed="queue")
        for _ in range(4):
            crowd.hire(MEMBER.format(role="both"))
        put = Tally(tmp_path)
        for step in range(4):
            wanted = put() + 250
            wait_until(lambda wanted=wanted: put() >= wanted, within_s=30)
            if step == 2:
                start_anew(server)
            else:
                crowd.kill_one()
                crowd.hire(MEMBER.format(role="both"))
        crowd.finish()
        with coordkit.connect(server.url, ttl=2) as coord:
            drain(coord, tmp_path)
            claims = first_claims(coord)
            prefix = coord.queue("crowd")._site.layout.prefix
            left = [each.key for each in coord.kv.range(prefix)]
        judge(crowd.operations(), crowd.killed, claims)
        assert items(crowd.operations()) >= 900
        assert left == []


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_eight_producers_and_eight_consumers_with_twenty_kills(child, tmp_path, etcd_binary):
    """
    As processes; 20,000 items, and the server killed and started five times.
    """
    folders = [tmp_path / role for role in ("produce", "consume")]
    with LocalEtcd(etcd_binary) as server:
        crowds = []
        for folder in folders:
            folder.mkdir()
            url = f"{server.url}?ttl=5&timeout=30"
            crowds.append(Crowd(child, url, folder, threads=1, seed=str(os.getpid())))
            for _ in range(8):
                crowds[-1].hire(MEMBER.format(role=folder.name))
        put = Tally(folders[0])
        wanted = int(os.environ.get("COORDKIT_SOAK_ITEMS", "20000"))
        for step in range(25):
            goal = wanted * (step + 1) // 26
            wait_until(lambda goal=goal: put() >= goal, within_s=300)
            if step % 5 == 4:
                start_anew(server)
            else:
                crowd, folder = list(zip(crowds, folders, strict=True))[step % 2]
                crowd.kill_one()
                crowd.hire(MEMBER.format(role=folder.name))
        wait_until(lambda: put() >= wanted, within_s=300)
        for crowd in crowds:
            crowd.finish()
        with coordkit.connect(server.url) as coord:
            drain(coord, folders[1])
            claims = first_claims(coord)
        history = [each for crowd in crowds for each in crowd.operations()]
        judge(history, sum(crowd.killed for crowd in crowds), claims)
        assert items(history) >= wanted
