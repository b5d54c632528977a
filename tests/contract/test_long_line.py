"""A line that is far longer than what one waiter knows of it, and most of whose waiters share a session."""

from __future__ import annotations

import pathlib
import random
import threading
import time

import pytest
from contract.players import Call
from contract.test_watch import compact

import coordkit
from coordkit import errors, kv
from coordkit.etcd import lease as leases
from coordkit.testing import LocalEtcd, checkers
from coordkit.testing.history import Kind, Rule, load
from coordkit.testing.recorder import Recorder, Told, Witness

CONTENDERS = 60  # of two coordinators
SECONDS = 6.0
PATIENCE_S = 40.0


class Contender:
    """Takes the lock again and again, sometimes in a hurry, and gives it back."""

    def __init__(self, coord: coordkit.Coordinator, witness: Witness, over: threading.Event) -> None:
        self._coord = coord
        self._witness = witness
        self._over = over

    def run(self) -> None:
        while not self._over.is_set():
            lock = self._coord.lock("long")
            granted = self._witness.call(Kind.ACQUIRE, lambda lock=lock: self._acquire(lock), name="long")
            if granted is None:
                self._over.wait(random.uniform(0, 0.3))  # the session was lost, or its connection
            elif granted.fence is not None:
                self._hold(lock, granted.fence)

    def _acquire(self, lock: coordkit.Lock) -> Told:
        hurried = random.random() < 0.25
        if lock.acquire(timeout=random.uniform(0, 0.3) if hurried else PATIENCE_S):
            return Told(fence=lock.fence)
        if hurried:
            return Told(done=False)
        raise errors.AcquireTimeout("in vain", errors.Outcome.NONE)

    def _hold(self, lock: coordkit.Lock, fence: int) -> None:
        def write() -> Told:
            done = lock.txn().then(kv.put("/written", b"%d" % fence)).commit()
            return Told(fence, done.revision if done.succeeded else None, done=done.succeeded)

        def release() -> Told:
            lock.release()
            return Told(fence, lock.released_revision)

        self._witness.call(Kind.WRITE, write, fence=fence, name="long")
        self._witness.call(Kind.RELEASE, release, fence=fence, name="long")


def meddle(witness: coordkit.Coordinator, members: list[coordkit.Coordinator]) -> None:
    """Delete somebody's place, break a connection, end a session, or compact."""
    pick = random.random()
    if pick < 0.6:
        places = witness.lock("long").contenders()
        if places:
            witness.kv.delete(random.choice(places).key)
    elif pick < 0.75:
        random.choice(members).client.drop_channel("broken by a test")
    elif pick < 0.85:
        leases.revoke(witness.client, random.choice(members).session.lease_id, witness.client.deadline(5))
    else:
        compact(witness, witness.kv.put("/unrelated", b""))


@pytest.mark.timeout(120)
def test_a_long_line_in_foul_weather(etcd_binary: str, tmp_path: pathlib.Path) -> None:
    """
    Places are deleted by hand, connections break, sessions end, history goes: no overlap, no wait in vain.
    """
    history, over = tmp_path / "history.jsonl", threading.Event()
    recorder = Recorder(history)
    with (
        LocalEtcd(etcd_binary) as server,
        coordkit.connect(server.url) as witness,
        coordkit.connect(server.url, ttl=3) as one,
        coordkit.connect(server.url, ttl=3) as other,
    ):
        contenders = [
            Contender((one, other)[number % 2], recorder.witness(str(number)), over)
            for number in range(CONTENDERS)
        ]
        calls = [Call(contender.run) for contender in contenders]
        end_s = time.monotonic() + SECONDS
        while time.monotonic() < end_s:
            over.wait(random.uniform(0.02, 0.2))
            try:
                meddle(witness, [one, other])
            except errors.LeaseNotFound:
                pass  # it was lost before
        over.set()
        for call in calls:
            call.end(within_s=60)

    operations = load(history)
    verdict = checkers.check_lock(operations)
    # By etcd's revisions.  By the clock two may meet: a holder's key that is deleted is gone before it hears.
    wrong = [violation for violation in verdict.violations if violation.rule is not Rule.CLOCK]
    assert not wrong, wrong[:3]
    assert verdict.holds > CONTENDERS
    assert not [each for each in operations if "in vain" in (each.error or "")]
