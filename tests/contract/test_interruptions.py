"""Ctrl-C, `kill` and `gevent.Timeout` in each wait of each recipe: nothing left, others go on, used again."""

from __future__ import annotations

import pathlib
import signal
import threading
from typing import Any

import pytest
from contract.waits import WAITS, Interrupted

pytestmark = pytest.mark.coordkit_leaves("keys")

TESTS = str(pathlib.Path(__file__).parents[1])
GRACE_S = 10.0
#: How long a call may take until it waits; an interruption before that must do no harm either.
SETTLE_S = 0.15

CTRL_C = """
import sys
url, tests = sys.argv[1:]
sys.path.insert(0, tests)
import coordkit
from contract import waits

for number, name in enumerate(waits.WAITS):
    where = f"{url}-{number}"
    with coordkit.connect(where, ttl=60) as coord, coordkit.connect(where, ttl=60) as other:
        wait = waits.Interrupted(name, coord, other)
        try:
            print(name, flush=True)
            wait.act()
        except KeyboardInterrupt:
            wait.verify()
            other.kv.delete_prefix(f"/{other.settings.namespace}/")
            print("verified", flush=True)
"""


@pytest.mark.timeout(120)
def test_ctrl_c(etcd, namespace, coord, child):
    """
    A real SIGINT, in the main thread: KeyboardInterrupt comes out of the call.
    """
    process = child(CTRL_C, f"etcd://{etcd.endpoint}/{namespace}", TESTS)
    verified = []
    for name in WAITS:
        assert process.stdout.readline() == f"{name}\n"
        threading.Event().wait(SETTLE_S)
        process.send_signal(signal.SIGINT)
        verified += [name] * (process.stdout.readline() == "verified\n")

    assert verified == list(WAITS)
    assert process.wait(GRACE_S) == 0


STRUCK_READER = """
import os, signal, sys, threading
import coordkit
from coordkit.deadline import NEVER

with coordkit.connect(sys.argv[1]) as coord, coordkit.connect(sys.argv[1]) as other:
    channel = coord.client.channel(NEVER)
    receive = channel._board.receive
    armed, bell = threading.Event(), threading.Event()

    def receive_and_strike(received):
        if armed.is_set():
            armed.clear()
            os.kill(os.getpid(), signal.SIGINT)  # it is the reader that runs now
        return receive(received)

    def ask():
        while bell.wait():
            bell.clear()
            coord.kv.get("a")

    channel._board.receive = receive_and_strike
    threading.Thread(target=ask, daemon=True).start()
    held = other.lock("a")
    held.acquire()
    lock = coord.lock("a")
    for _ in range(int(sys.argv[2])):
        try:
            armed.set()
            bell.set()
            lock.acquire()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    held.release()
    lock.acquire()
    assert coord.client.channel(NEVER) is channel
    print("held", flush=True)
    lock.release()
"""


def test_ctrl_c_passes_the_reader_by(mode, etcd, namespace, child):
    """
    Under gevent it strikes whichever greenlet runs: from ours the main one gets it, and the connection lives.
    """
    if mode != "gevent":
        pytest.skip("in plain threads the main thread is struck, whatever it does")
    process = child(STRUCK_READER, f"etcd://{etcd.endpoint}/{namespace}", "50")

    told = process.communicate(timeout=50)[0].splitlines()

    assert told == ["interrupted"] * 50 + ["held"]
    assert process.returncode == 0


@pytest.mark.parametrize("how", ["kill", "timeout"])
@pytest.mark.parametrize("name", WAITS)
def test_greenlets(mode, coord, coord_factory, name, how):
    """
    A greenlet that is killed, or whose `gevent.Timeout` strikes, while others on its connection go on.
    """
    if mode != "gevent":
        pytest.skip("greenlets are interrupted under gevent only")
    import gevent

    wait = Interrupted(name, coord, coord_factory())

    def act() -> Any:
        if how == "kill":
            return wait.act()
        with gevent.Timeout(SETTLE_S, False):
            wait.act()
            return "not struck"
        return "timed out"

    actor = gevent.spawn(act)
    threading.Event().wait(SETTLE_S)
    if how == "kill":
        actor.kill(timeout=GRACE_S)
    actor.join(GRACE_S)

    assert actor.dead
    assert isinstance(actor.value, gevent.GreenletExit) if how == "kill" else actor.value == "timed out"
    wait.verify()
