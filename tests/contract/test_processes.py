"""Processes and threads on one lock-like, some of them killed: what they saw is recorded, and judged."""

from __future__ import annotations

import collections
import functools
import pathlib
from collections.abc import Callable

import attrs
import pytest
from contract.players import twenty, wait_until

from coordkit.testing import checkers, crowd
from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict

LIMIT = 3  # of the semaphore

#: One turn: take it, find a revision at which it is held, write if that is allowed, give it back.
MEMBER = """
import threading
from coordkit import errors
from coordkit.etcd import kv
from coordkit.testing import crowd
from coordkit.testing.history import Kind
from coordkit.testing.recorder import Told

turns = threading.local()

def cycle(coord, witness):
    turns.count = turn = getattr(turns, "count", -1) + 1
    label = int(threading.current_thread().name.rpartition("-")[2].split(" ")[0] or 0)
    kind, lock, fence_of = make(coord, turn, label)

    def acquire():
        if not lock.acquire(timeout=30):
            raise errors.AcquireTimeout("no grant")
        seen = lock.txn().commit()
        number = getattr(lock, "handoff", None)
        return Told(fence=fence_of(lock), revision=seen.revision, number=number, done=seen.succeeded)

    def write():
        done = lock.txn().then(kv.put(f"/{coord.settings.namespace}/state", b"%d" % fence_of(lock))).commit()
        return Told(revision=done.revision, done=done.succeeded)

    def release():
        lock.release()
        return Told(revision=lock.released_revision)

    told = witness.call(Kind.ACQUIRE, acquire, subject=kind)
    if lock.held and kind in ("lock", "write"):
        witness.call(Kind.WRITE, write, fence=told.fence)
    if told is not None:
        witness.call(Kind.RELEASE, release, fence=told.fence, subject=kind)
    after(coord, witness, turn, label)

def fence(lock):
    return lock.fence

def after(coord, witness, turn, label):
    pass
"""

LOCK = "def make(coord, turn, label): return 'lock', coord.{}, {}\n"
RWLOCK = """
def make(coord, turn, label):
    kind = "write" if (turn + label) % 4 == 0 else "read"
    return kind, getattr(coord.rwlock("crowd"), kind), fence
"""
SEMAPHORE = """
def make(coord, turn, label):
    return "permit", coord.semaphore("crowd"), fence

def after(coord, witness, turn, label):
    if turn % 10 == 9:
        limit = 1 + (turn + label) % 3
        def resize():
            revision = coord.semaphore("crowd").resize(limit)
            return Told(revision=revision, done=revision is not None)
        witness.call(Kind.RESIZE, resize, number=limit)
"""
#: The same lock by four names: each thread its own kind.
MIXED = """
def make(coord, turn, label):
    kinds = [coord.lock, coord.rlock, coord.cohort_lock, lambda name: coord.multilock([name, "other"])]
    chosen = (turn + label) % 4
    lock = kinds[chosen]("crowd")
    return "lock", lock, (lambda lock: lock.fences["crowd"]) if chosen == 3 else fence
"""


@attrs.frozen
class Play:
    """What the members do, and who judges it."""

    source: str
    check: Callable[[list[Operation]], Verdict]
    prefix: str


_lock = functools.partial(Play, check=checkers.check_lock, prefix="lock/crowd/")
PLAYS = {
    "lock": _lock(LOCK.format('lock("crowd")', "fence")),
    "rlock": _lock(LOCK.format('rlock("crowd")', "fence")),
    "cohort": _lock(LOCK.format('cohort_lock("crowd")', "fence")),
    "multilock": _lock(LOCK.format('multilock(["crowd", "other"])', 'lambda lock: lock.fences["crowd"]')),
    "mixed": _lock(MIXED),
    "rwlock": Play(RWLOCK, checkers.check_rwlock, "rwlock/crowd/"),
    "semaphore": Play(
        SEMAPHORE, functools.partial(checkers.check_semaphore, limit=LIMIT), "semaphore/crowd/holders/"
    ),
}


def play(name: str, coord, etcd, child, folder: pathlib.Path, calls: int, kills: int) -> Verdict:
    """Let a crowd work until so many calls have ended, kill some of them, and judge; all is printed."""
    chosen = PLAYS[name]
    namespace = coord.settings.namespace
    coord.semaphore("crowd").resize(LIMIT)
    members = crowd.Crowd(child, f"etcd://{etcd.endpoint}/{namespace}?ttl=2", folder, seed=str(folder))
    members.work(MEMBER + chosen.source + "\ncrowd.take_part(cycle)\n", calls, kills)

    operations = members.operations()
    verdict = chosen.check(operations)
    told = collections.Counter((operation.kind.value, operation.result.value) for operation in operations)
    rules = {rule.value: verdict.count(rule) for rule in Rule if verdict.count(rule)}
    print(f"{name}: {verdict.holds} holds, {members.killed} killed; violations: {rules}; calls: {dict(told)}")
    for violation in verdict.violations[:5]:
        print(violation.why)
    # What the dead left has run out: nobody stands in line any more.
    wait_until(lambda: not coord.kv.range(f"/{namespace}/{chosen.prefix}"))
    coord.kv.delete(f"/{namespace}/state")
    wait_until(lambda: {each.result for each in operations} and not coord.lock("other").locked())
    return verdict


@pytest.mark.parametrize("name", ["mixed", "rwlock", "semaphore"])
def test_processes_of_which_some_are_killed(name, coord, etcd, child, tmp_path):
    """
    4 processes of 4 threads, about 500 calls, 2 of them killed: no rule is broken, by revision or by clock.
    """
    verdict = play(name, coord, etcd, child, tmp_path, calls=500, kills=2)

    assert verdict.sound
    assert verdict.holds >= 100


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", PLAYS)
def test_twenty_times_in_a_row(name, coord, etcd, child, tmp_path):
    """
    The same for each lock-like alone, 20 times, with 3 killed each time.
    """
    for folder in twenty(tmp_path):
        assert play(name, coord, etcd, child, folder, calls=500, kills=3).sound


def test_nothing_is_broken_where_nobody_dies(coord, etcd, child, tmp_path):
    """
    Every call ends well, and by the clock, too, no two hold it at one moment.
    """
    members = crowd.Crowd(child, f"etcd://{etcd.endpoint}/{coord.settings.namespace}", tmp_path)
    for _ in range(2):
        members.hire(MEMBER + PLAYS["lock"].source + "\ncrowd.take_part(cycle)\n", cycles=10)
    members.finish()

    operations = members.operations()
    verdict = checkers.check_lock(operations)
    assert verdict.clean
    assert verdict.holds == 2 * 4 * 10
    assert {operation.result for operation in operations} == {Result.OK}
    writes = [operation for operation in operations if operation.kind is Kind.WRITE]
    state = f"/{coord.settings.namespace}/state"
    assert int(coord.kv.get(state).value) == max(write.fence for write in writes)
    coord.kv.delete(state)
