"""Processes that campaign, proclaim, resign, and run slots once, some of them killed: recorded, judged."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import threading

import pytest
from contract.players import twenty, wait_until

import coordkit
from coordkit.testing import checkers, crowd
from coordkit.testing.history import Kind, Result, Rule
from coordkit.testing.recorder import Recorder, Told

ATTEMPTS = 3
CALLS = 500  # that end, at least

MEMBER = f"""
import itertools, os, threading
from coordkit import errors
from coordkit.etcd import kv
from coordkit.testing import crowd
from coordkit.testing.history import Kind
from coordkit.testing.recorder import Told

rounds = threading.local()

def cycle(coord, witness):
    lead(coord, witness)
    number = rounds.number = getattr(rounds, "number", 0) + 1
    run(coord, witness, str(number))

def lead(coord, witness):
    election = coord.election("crowd")
    value = f"{{os.getpid()}}-{{threading.get_ident()}}"
    terms = []

    def campaign():
        terms.append(election.campaign(value, timeout=30))
        return Told(fence=terms[0].fence)

    if witness.call(Kind.CAMPAIGN, campaign, subject=value) is None:
        return
    (term,) = terms
    fence = term.fence
    louder = f"{{value}}!"
    proclaim = lambda: Told(revision=term.proclaim(louder))
    witness.call(Kind.PROCLAIM, proclaim, fence=fence, subject=louder)

    def write():
        done = term.txn().then(kv.put(f"/{{coord.settings.namespace}}/state", str(fence))).commit()
        return Told(revision=done.revision, done=done.succeeded)

    def resign():
        term.resign()
        return Told(revision=term.resigned_revision)

    witness.call(Kind.WRITE, write, fence=fence)
    witness.call(Kind.RESIGN, resign, fence=fence)

def run(coord, witness, slot):
    once = coord.once("crowd", slot, attempts={ATTEMPTS})

    def take():
        won = once.claim()
        return Told(fence=once.fence, number=once.attempt) if won else Told(done=False)

    taken = witness.call(Kind.TAKE, take, subject=slot)
    if taken is not None and taken.done:
        finish = lambda: once.done() or Told()
        witness.call(Kind.FINISH, finish, subject=slot, number=taken.number, fence=taken.fence)

crowd.take_part(cycle)
"""


class Observer:
    """Writes down what an observer is told."""

    def __init__(self, coord: coordkit.Coordinator, path: pathlib.Path) -> None:
        self._witness = Recorder(path).witness("observer")
        self._observing = coord.election("crowd").observe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(StopIteration):
            while True:
                self._witness.call(Kind.OBSERVE, self._look)

    def _look(self) -> Told:
        leader = next(self._observing)
        if leader is None:
            return Told()
        return Told(fence=leader.fence, revision=leader.revision, subject=leader.value.decode())

    def close(self) -> None:
        self._observing.close()
        self._thread.join(10)


def run(coord, child, etcd, namespace: str, folder: pathlib.Path, kills: int) -> None:
    seed = f"{os.getpid()}-{folder.name}"
    members = crowd.Crowd(child, f"etcd://{etcd.endpoint}/{namespace}?ttl=2", folder, seed=seed)
    observer = Observer(coord, folder / "observer.jsonl")
    members.work(MEMBER, CALLS, kills, within_s=40)
    wait_until(lambda: coord.election("crowd").leader() is None, what="the end of the last leader")
    wait_until(lambda: last(members) is None, what="the observer to hear of it")
    observer.close()

    operations = members.operations()
    election, slots = checkers.check_election(operations), checkers.check_once(operations, ATTEMPTS)
    told = collections.Counter((each.kind.value, each.result.value) for each in operations)
    rules = {rule.value: election.count(rule) + slots.count(rule) for rule in Rule}
    print(
        f"{election.holds} terms, {slots.holds} slots, {members.killed} killed; "
        f"violations: {sum(rules.values())}; calls: {dict(told)}"
    )
    for violation in (*election.violations, *slots.violations)[:5]:
        print(violation.why)
    assert election.sound and slots.clean
    assert election.holds >= 60 and slots.holds >= 3
    assert told["observe", "ok"] >= election.holds
    coord.kv.delete_prefix(f"/{namespace}/once/")
    coord.kv.delete(f"/{namespace}/state")


@pytest.mark.timeout(120)
def test_processes_that_are_killed(coord, child, etcd, namespace, tmp_path):
    """
    Never two leaders, no slot run twice, nobody told of a wrong leader; who is left goes on.
    """
    run(coord, child, etcd, namespace, tmp_path, kills=2)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_twenty_times_in_a_row(coord_factory, child, etcd, namespace, tmp_path):
    """
    The same, with kills at other moments.
    """
    for folder in twenty(tmp_path):
        run(coord_factory(), child, etcd, namespace, folder, kills=3)


def last(members: crowd.Crowd) -> int | None:
    """The fence of the leader that the observer was told of last."""
    told = [each for each in members.operations() if each.kind is Kind.OBSERVE and each.result is Result.OK]
    return max(told, key=lambda each: each.index).fence
