"""Processes and threads that meet at one barrier, some of them killed: what they were told is judged."""

from __future__ import annotations

import collections
import os
import pathlib

import pytest
from contract.players import twenty, wait_until

from coordkit.testing import checkers
from coordkit.testing.crowd import Crowd
from coordkit.testing.history import Kind, Operation, Result

pytestmark = pytest.mark.coordkit_leaves("keys")

PARTIES = 6  # of 16 threads: more may arrive than pass together

MEMBER = """
import sys, threading
from coordkit import errors
from coordkit.testing import crowd
from coordkit.testing.history import Kind
from coordkit.testing.recorder import Told

def meet(barrier):
    try:
        return Told(number=barrier.wait(timeout=3), subject=str(barrier.generation))
    except errors.BrokenBarrier:
        return Told(done=False, subject=str(barrier.generation or ""))

def cycle(coord, witness):
    barrier = witness.__dict__.setdefault("barrier", coord.barrier("crowd", 6))
    told = witness.call(Kind.WAIT, lambda: meet(barrier))
    if told is None or not told.done:
        barrier.reset(timeout=30)

crowd.take_part(cycle)
"""


def run(child, url: str, folder: pathlib.Path, kills: int, seed: str, pace: int) -> None:
    crowd = Crowd(child, url, folder, seed=seed)
    for _ in range(4):
        crowd.hire(MEMBER)

    def passed() -> int:
        return sum(each.kind is Kind.WAIT and each.result is Result.OK for each in crowd.operations())

    for _ in range(kills):
        wanted = passed() + pace
        wait_until(lambda wanted=wanted: passed() >= wanted, within_s=60)
        crowd.kill_one()
        crowd.hire(MEMBER)
    wanted = passed() + pace
    wait_until(lambda: passed() >= wanted, within_s=60)
    crowd.finish()
    history = crowd.operations()
    judge(history, crowd.killed, pace * (kills + 1))


def judge(history: list[Operation], killed: int, least: int) -> None:
    verdict = checkers.check_barrier(history, PARTIES)
    results = collections.Counter(each.result.value for each in history)
    generations = {each.subject for each in history if each.result is Result.OK}
    print(f"{verdict.holds} passed {len(generations)} generations, {killed} killed, calls {dict(results)}")
    for violation in verdict.violations[:5]:
        print(violation.why)
    assert verdict.clean
    assert verdict.holds >= least


def test_four_processes_with_four_threads_each_some_of_them_killed(child, coord, etcd, namespace, tmp_path):
    """
    Nobody passes before all have arrived, no generations mix, and each ends alike for all.
    """
    url = f"etcd://{etcd.endpoint}/{namespace}?ttl=2"
    run(child, url, tmp_path, kills=2, seed="barrier", pace=170)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_twenty_times_in_a_row(child, coord, etcd, namespace, tmp_path):
    """
    The same, with kills at other moments.
    """
    for folder in twenty(tmp_path):
        url = f"etcd://{etcd.endpoint}/{namespace}?ttl=2"
        run(child, url, folder, kills=4, seed=f"{os.getpid()}-{folder.name}", pace=100)
        coord.barrier("crowd", PARTIES).delete()
