"""Processes and threads on one lock, some of them killed: what they saw is recorded, and judged."""

from __future__ import annotations

import collections
import os
import pathlib
import random
import subprocess
from collections.abc import Callable

import pytest
from contract.players import wait_until

from coordkit.testing import checkers, history
from coordkit.testing.history import Kind, Operation, Result, Rule, Verdict

THREADS = 4

#: Takes and releases the lock in each of its threads, writing down each call before it is made and after.
MEMBER = """
import json, os, select, sys, threading
import coordkit
from coordkit import errors
from coordkit.etcd import kv
from coordkit.testing.history import Kind, Operation, Result, clock_ns

url, path, cycles, threads, state = sys.argv[1:4] + [int(sys.argv[4]), sys.argv[5].encode()]
file = open(path, "a", buffering=1)
writing, enough = threading.Lock(), threading.Event()

def note(operation):
    line = json.dumps(operation.as_json()) + "\\n"
    with writing:
        file.write(line)

def told(error):
    certain = isinstance(error, errors.LockLost) or getattr(error, "outcome", None) is errors.Outcome.NONE
    return Result.FAIL if certain else Result.UNKNOWN

class Contender:
    def __init__(self, label, lock):
        self.label, self.lock, self.index = label, lock, 0

    def call(self, kind, action, fence=None):
        index, self.index, invoked = self.index, self.index + 1, clock_ns()
        common = dict(process=os.getpid(), contender=self.label, index=index, invoked_ns=invoked)
        note(Operation(kind, Result.INVOKED, fence=fence, **common))
        try:
            fence, revision = action()
        except errors.CoordError as error:
            common.update(completed_ns=clock_ns(), error=repr(error))
            note(Operation(kind, told(error), fence=fence, **common))
            return None
        result = Result.FAIL if kind is Kind.WRITE and revision is None else Result.OK
        completed = clock_ns()
        note(Operation(kind, result, fence=fence, revision=revision, completed_ns=completed, **common))
        return fence

    def cycle(self):
        fence = self.call(Kind.ACQUIRE, self.acquire)
        if fence is not None:
            self.call(Kind.WRITE, self.write, fence)
            self.call(Kind.RELEASE, lambda: self.release(fence), fence)

    def acquire(self):
        if not self.lock.acquire(timeout=30):
            raise errors.AcquireTimeout("no grant")
        return self.lock.fence, None

    def write(self):
        fence = self.lock.fence
        done = self.lock.txn().then(kv.put(state, b"%d" % fence)).commit()
        return fence, done.revision if done.succeeded else None

    def release(self, fence):
        self.lock.release()
        return fence, self.lock.released_revision

def contend(label):
    contender = Contender(label, coord.lock("crowd"))
    count = 0
    while not enough.is_set() and count < int(cycles):
        contender.cycle()
        count += 1

with coordkit.connect(url) as coord:
    crew = [threading.Thread(target=contend, args=(str(number),)) for number in range(threads)]
    for thread in crew:
        thread.start()
    if int(cycles) > 1000:  # until our input ends
        select.select([sys.stdin], [], [])  # under gevent a read would stop everybody
        enough.set()
    for thread in crew:
        thread.join()
"""


def recorded(folder: pathlib.Path) -> list[Operation]:
    return [operation for path in folder.glob("*.jsonl") for operation in history.load(path)]


def judge(operations: list[Operation], folder: pathlib.Path) -> Verdict:
    """The verdict, printed; what breaks a rule is shown."""
    verdict = checkers.check_lock(operations)
    told = collections.Counter((operation.kind.value, operation.result.value) for operation in operations)
    rules = {rule.value: verdict.count(rule) for rule in Rule}
    print(f"{verdict.holds} holds; violations: {rules}; calls: {dict(told)}")
    for violation in verdict.violations[:5]:
        print(violation.why)
    return verdict


@pytest.fixture
def member(child, etcd, namespace: str, tmp_path: pathlib.Path) -> Callable[..., subprocess.Popen[str]]:
    """`member(cycles=25, ttl=10)`: another process that contends; its history goes to a file of its own."""
    numbers = iter(range(1000))

    def start(cycles: int, ttl: int = 10) -> subprocess.Popen[str]:
        url = f"etcd://{etcd.endpoint}/{namespace}?ttl={ttl}"
        path = tmp_path / f"{next(numbers)}.jsonl"
        return child(MEMBER, url, str(path), str(cycles), str(THREADS), f"/{namespace}/state")

    return start


def test_four_processes_with_four_threads_each(coord, member, namespace, tmp_path):
    """
    No two hold it at one revision or one moment, grants come in the order of the joins, fences rise.
    """
    cycles = 20
    members = [member(cycles) for _ in range(4)]

    for process in members:
        assert process.wait(50) == 0

    operations = recorded(tmp_path)
    verdict = judge(operations, tmp_path)
    assert verdict.clean
    assert verdict.holds == 4 * THREADS * cycles
    assert {operation.result for operation in operations} == {Result.OK}
    writes = [operation for operation in operations if operation.kind is Kind.WRITE]
    assert int(coord.kv.get(f"/{namespace}/state").value) == max(write.fence for write in writes)
    coord.kv.delete(f"/{namespace}/state")


def test_processes_that_are_killed(coord, member, namespace, tmp_path):
    """
    Members die by SIGKILL, wherever they are: others go on, nobody overlaps, and no stale write is accepted.
    """
    chance = random.Random(os.environ.get("PYTEST_CURRENT_TEST"))
    alive = [member(10**6, ttl=2) for _ in range(4)]
    holds_at_a_kill = 0

    for _ in range(3):
        before = len(checkers.holds_of(recorded(tmp_path)))
        wait_until(lambda before=before: len(checkers.holds_of(recorded(tmp_path))) >= before + 30)
        victim = alive.pop(chance.randrange(len(alive)))
        victim.kill()
        victim.wait()
        alive.append(member(10**6, ttl=2))
        holds_at_a_kill = len(checkers.holds_of(recorded(tmp_path)))
    wait_until(lambda: len(checkers.holds_of(recorded(tmp_path))) >= holds_at_a_kill + 30)
    for process in alive:
        process.stdin.close()
    for process in alive:
        assert process.wait(40) == 0

    operations = recorded(tmp_path)
    verdict = judge(operations, tmp_path)
    assert verdict.sound
    assert verdict.holds >= 120
    assert any(operation.result is Result.INVOKED for operation in operations)
    coord.kv.delete(f"/{namespace}/state")
    wait_until(lambda: not coord.lock("crowd").locked())  # what the dead left has run out
    wait_until(lambda: len(coord.kv.range(f"/{namespace}/")) == 1)  # our own session's key
