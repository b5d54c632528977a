"""Processes on one value, latch, gate, double barrier or standing, some of them killed: recorded, judged."""

from __future__ import annotations

import collections
import os
import pathlib
import threading
from collections.abc import Callable

import attrs
import pytest
from contract.players import twenty, wait_until

import coordkit
from coordkit import codecs
from coordkit.testing import checkers
from coordkit.testing.crowd import Crowd
from coordkit.testing.history import Kind, Operation, Result, Verdict
from coordkit.testing.recorder import Recorder, Told

pytestmark = pytest.mark.coordkit_leaves("keys")

COUNT = 10**6  # of the latch: more than the members count down
SMALL_COUNT = 250  # of the latch that opens: about half of what they count down
PARTIES = 4

IMPORTS = """
import random, threading
import coordkit
from coordkit import codecs, errors
from coordkit.etcd import kv
from coordkit.testing import crowd
from coordkit.testing.history import Kind
from coordkit.testing.recorder import Told
"""
VALUE = """
def cycle(coord, witness):
    value, amount = coord.value("crowd", codecs.JSON), random.randrange(1, 9)
    change = lambda: Told(subject=str(value.update(lambda was: (was or 0) + amount, timeout=30).value))
    witness.call(Kind.ADD, change, number=amount)
"""
LATCH = f"""
def cycle(coord, witness):
    latch = coord.latch("crowd", {COUNT})
    if random.random() < 0.1:
        witness.call(Kind.WAIT, lambda: Told(done=latch.wait(timeout=0.02)))
    witness.call(Kind.ADD, lambda: Told(subject=str(latch.count_down(timeout=30))), number=1)
"""
GATE = """
def cycle(coord, witness):
    gate = coord.gate("crowd")
    witness.call(Kind.WAIT, lambda: Told(done=gate.wait(timeout=random.uniform(0.001, 0.1))))
"""
DOUBLE_BARRIER = f"""
def cycle(coord, witness):
    barrier = witness.__dict__.setdefault("barrier", coord.double_barrier("crowd", {PARTIES}))

    def enter():
        if not barrier.enter(timeout=3):
            return Told(done=False)
        inside = barrier._inside[threading.current_thread()]
        return Told(subject=str(inside.stay.generation.number))

    told = witness.call(Kind.ENTER, enter)
    if told is not None and told.done:
        witness.call(Kind.LEAVE, lambda: Told(done=barrier.leave(timeout=10)), subject=told.subject)
"""
#: Counts down to zero about midway, and opens.
OPENING_LATCH = f"""
latches = {{}}

def cycle(coord, witness):
    latch = latches.setdefault("crowd", coord.latch("crowd", {SMALL_COUNT}))
    amount = random.randrange(1, 3)
    count = lambda: Told(subject=str(latch.count_down(amount, timeout=30)))
    witness.call(Kind.ADD, count, number=amount)
    witness.call(Kind.WAIT, lambda: Told(done=latch.wait(timeout=random.choice([0.01, 0.1]))))
"""
#: A candidate in each thread, which closes soon after it has led.
STANDING = """
def cycle(coord, witness):
    standing, terms = coordkit.Standing(coord.election("crowd")), []

    def stand():
        if not standing.start().wait(timeout=30):
            raise errors.AcquireTimeout("no term")
        leadership = standing.leadership
        if leadership is None:
            raise errors.LockLost("over already", "test")
        seen = leadership.txn().commit()
        terms.append(leadership)
        return Told(fence=leadership.fence, revision=seen.revision, done=seen.succeeded)

    def write():
        put = kv.put(f"/{coord.settings.namespace}/state", b"%d" % terms[0].fence)
        done = terms[0].txn().then(put).commit()
        return Told(revision=done.revision, done=done.succeeded)

    def close():
        standing.close(timeout=30)
        if terms[0].resigned_revision is None:
            raise errors.LockLost("it was over, or nobody knows", "test")
        return Told(revision=terms[0].resigned_revision)

    told = witness.call(Kind.ACQUIRE, stand)
    if told is None or not told.done:
        standing.close()
        return
    witness.call(Kind.WRITE, write, fence=told.fence)
    witness.call(Kind.RELEASE, close, fence=told.fence)
"""


class Door:
    """Opens and closes the gate from here, where nobody is killed."""

    def __init__(self, coord: coordkit.Coordinator, folder: pathlib.Path) -> None:
        self._gate = coord.gate("crowd")
        self._witness = Recorder(folder / "door.jsonl").witness("door")
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._enough.wait(0.01):
            self._witness.call(Kind.CLOSE, lambda: Told(done=self._gate.close()))
            self._enough.wait(0.03)
            self._witness.call(Kind.OPEN, lambda: Told(done=self._gate.open()))

    def close(self) -> None:
        """Leave it open."""
        self._enough.set()
        self._thread.join()


def judge_value(coord: coordkit.Coordinator, history: list[Operation], crowd: Crowd) -> Verdict:
    return checkers.check_counter(history, coord.value("crowd", codecs.JSON).get().value)


def judge_latch(coord: coordkit.Coordinator, history: list[Operation], crowd: Crowd) -> Verdict:
    latch = coord.latch("crowd", COUNT)
    remaining = latch.count()
    assert not latch.wait(timeout=0)
    assert latch.count_down(remaining) == 0
    assert latch.wait(timeout=0)
    waits = [each for each in history if each.kind is Kind.WAIT]
    assert waits and all(each.result is not Result.OK for each in waits)  # it never was at zero
    return checkers.check_latch(history, COUNT, remaining)


def judge_opening_latch(coord: coordkit.Coordinator, history: list[Operation], crowd: Crowd) -> Verdict:
    latch = coord.latch("crowd", SMALL_COUNT)
    verdict = checkers.check_latch(history, SMALL_COUNT, latch.count())
    assert latch.wait(timeout=30), "it was counted down to zero, and does not open"
    waits = collections.Counter(each.result for each in history if each.kind is Kind.WAIT)
    assert waits[Result.OK] and waits[Result.FAIL]
    return verdict


def judge_standing(coord: coordkit.Coordinator, history: list[Operation], crowd: Crowd) -> Verdict:
    wait_until(lambda: not coord.election("crowd").contenders(), what="the end of the dead")
    return checkers.check_lock(history)


def judge_gate(coord: coordkit.Coordinator, history: list[Operation], crowd: Crowd) -> Verdict:
    waits = collections.Counter(each.result for each in history if each.kind is Kind.WAIT)
    assert waits[Result.OK] and waits[Result.FAIL]
    return checkers.check_gate(history)


def judge_double_barrier(coord: coordkit.Coordinator, history: list[Operation], crowd: Crowd) -> Verdict:
    return checkers.check_double_barrier(history, PARTIES, crowd.lost)


@attrs.frozen
class Play:
    source: str
    judge: Callable[[coordkit.Coordinator, list[Operation], Crowd], Verdict]
    forget: Callable[[coordkit.Coordinator], object]


PLAYS = {
    "value": Play(VALUE, judge_value, lambda coord: coord.kv.delete_prefix(_keys(coord, "value"))),
    "latch": Play(LATCH, judge_latch, lambda coord: coord.latch("crowd", COUNT).delete()),
    "latch that opens": Play(
        OPENING_LATCH, judge_opening_latch, lambda coord: coord.latch("crowd", SMALL_COUNT).delete()
    ),
    "standing": Play(
        STANDING, judge_standing, lambda coord: coord.kv.delete(f"/{coord.settings.namespace}/state")
    ),
    "gate": Play(GATE, judge_gate, lambda coord: coord.gate("crowd").open()),
    "double barrier": Play(
        DOUBLE_BARRIER,
        judge_double_barrier,
        lambda coord: coord.double_barrier("crowd", PARTIES).delete(),
    ),
}


def _keys(coord: coordkit.Coordinator, kind: str) -> str:
    return f"/{coord.settings.namespace}/{kind}/"


def run(name: str, coord, child, etcd, folder: pathlib.Path, kills: int, calls: int = 500) -> None:
    """4 processes of 4 threads, until so many calls have ended; some of them are killed."""
    play = PLAYS[name]
    url = f"etcd://{etcd.endpoint}/{coord.settings.namespace}?ttl=2"
    crowd = Crowd(child, url, folder, seed=f"{os.getpid()}-{folder.name}")
    door = Door(coord, folder) if name == "gate" else None
    try:
        crowd.work(f"{IMPORTS}{play.source}\ncrowd.take_part(cycle)\n", calls, kills)
    finally:
        if door is not None:
            door.close()
    history = crowd.operations()
    verdict = play.judge(coord, history, crowd)
    told = collections.Counter((each.kind.value, each.result.value) for each in history)
    print(f"{name}: {crowd.killed} killed; {len(verdict.violations)} violations; calls: {dict(told)}")
    for violation in verdict.violations[:5]:
        print(violation.why)
    play.forget(coord)
    assert verdict.clean
    assert verdict.holds >= calls // 10


@pytest.mark.parametrize("name", PLAYS)
def test_processes_of_which_some_are_killed(name, coord, child, etcd, tmp_path):
    """
    About 500 calls, two kills: no rule is broken.
    """
    run(name, coord, child, etcd, tmp_path, kills=2)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PLAYS)
def test_twenty_times_in_a_row(name, coord_factory, child, etcd, tmp_path):
    """
    The same, with three kills each.
    """
    for folder in twenty(tmp_path):
        run(name, coord_factory(), child, etcd, folder, kills=3)
