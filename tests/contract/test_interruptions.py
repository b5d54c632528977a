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
import signal, sys
url, tests = sys.argv[1:]
sys.path.insert(0, tests)
import coordkit, greenlet
from contract import waits

main = greenlet.getcurrent()

def strike(number, frame):
    # Under gevent a signal strikes whichever greenlet runs: mostly the hub, whose parent is the main one.
    # One of coordkit's own must not be struck in its place: then it comes a moment later.
    struck = greenlet.getcurrent()
    if struck is main or struck.parent is main:
        raise KeyboardInterrupt
    signal.setitimer(signal.ITIMER_REAL, 0.01)

signal.signal(signal.SIGINT, strike)
signal.signal(signal.SIGALRM, strike)

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
