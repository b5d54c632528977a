"""Processes and threads that add to one counter, some of them killed: what they were told is judged."""

from __future__ import annotations

import collections
import os
import pathlib

import pytest
from contract.players import twenty

from coordkit.testing import checkers
from coordkit.testing.crowd import Crowd

pytestmark = pytest.mark.coordkit_leaves("keys")

MEMBER = """
import random, sys
from coordkit.testing import crowd
from coordkit.testing.history import Kind
from coordkit.testing.recorder import Told

counters = {}

def cycle(coord, witness):
    counter = counters.setdefault("crowd", coord.counter("crowd"))
    amount = random.randrange(1, 9)
    witness.call(Kind.ADD, lambda: Told(subject=str(counter.add(amount, timeout=30))), number=amount)

crowd.take_part(cycle)
"""


def run(coord, child, url: str, folder: pathlib.Path, kills: int, seed: str, pace: int) -> None:
    crowd = Crowd(child, url, folder, seed=seed)
    crowd.work(MEMBER, pace * (kills + 1), kills)
    value = coord.counter("crowd").get()
    history = crowd.operations()
    verdict = checkers.check_counter(history, value)
    results = collections.Counter(each.result.value for each in history)
    print(f"{verdict.holds} additions, value {value}, {crowd.killed} killed, calls {dict(results)}")
    for violation in verdict.violations[:5]:
        print(violation.why)
    assert verdict.clean
    assert verdict.holds >= 4 * pace // 2


def test_four_processes_with_four_threads_each_some_of_them_killed(coord, child, etcd, namespace, tmp_path):
    """
    Every addition that was acknowledged is there, once; every total was told once.
    """
    url = f"etcd://{etcd.endpoint}/{namespace}?ttl=2"
    run(coord, child, url, tmp_path, kills=3, seed="counter", pace=125)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_twenty_times_in_a_row(coord_factory, child, etcd, namespace, tmp_path):
    """
    The same, with kills at other moments.
    """
    for folder in twenty(tmp_path):
        coord = coord_factory()
        url = f"etcd://{etcd.endpoint}/{namespace}?ttl=2"
        run(coord, child, url, folder, kills=4, seed=f"{os.getpid()}-{folder.name}", pace=100)
        coord.counter("crowd").delete()
