"""A holder that is stopped for longer than its TTL wakes up and writes: what a fence is for.

The control writes without one, and must be caught, or the check could not see a stale write at all.
"""

from __future__ import annotations

import signal

import pytest

from coordkit.etcd import kv
from coordkit.recipes.lock import Lock
from coordkit.testing import checkers, history
from coordkit.testing.history import Kind, Rule
from coordkit.testing.recorder import Recorder, Told, Witness

TTL_S = 2
ROUNDS = 2

#: Is sure that it holds the lock, is stopped right then, and writes; once with its guard and once without.
HOLDER = """
import sys
import coordkit
from coordkit.etcd import kv
from coordkit.testing.history import Kind
from coordkit.testing.recorder import Recorder, Told

url, ttl, path = sys.argv[1:]
with coordkit.connect(url, ttl=int(ttl)) as coord:
    state = f"/{coord.settings.namespace}/state"
    lock = coord.lock("a")
    lock.acquire()
    fence = lock.fence
    witnesses = [Recorder(f"{path}.{name}").witness("stopped") for name in ("guarded", "bare")]
    for witness in witnesses:
        witness.call(Kind.ACQUIRE, lambda: Told(fence=fence))
    lock.check()
    print("sure", flush=True)
    sys.stdin.readline()

    def guarded():
        done = lock.txn().then(kv.put(f"{state}-guarded", str(fence))).commit()
        return Told(revision=done.revision, done=done.succeeded)

    def bare():
        return Told(revision=coord.kv.put(f"{state}-bare", str(fence)))

    for witness, write in zip(witnesses, (guarded, bare)):
        witness.call(Kind.WRITE, write, fence=fence)
    try:
        lock.release()
    except coordkit.LockLost:
        print("lost", flush=True)
"""


def write(heir: Lock, key: str, witness: Witness) -> None:
    """Whoever holds the lock by now does so with its guard, in either history."""
    txn = heir.txn().then(kv.put(key, str(heir.fence)))
    witness.call(Kind.ACQUIRE, lambda: Told(fence=heir.fence))
    witness.call(Kind.WRITE, lambda: Told(revision=txn.commit().revision), fence=heir.fence)


@pytest.mark.timeout(90)
def test_only_a_fence_stops_who_was_stopped(coord, child, etcd, namespace, tmp_path):
    """
    Without it each holder that wakes up late writes over its successor; with it none does.
    """
    state = f"/{namespace}/state"
    histories: dict[str, list[history.Operation]] = {"guarded": [], "bare": []}
    for number in range(ROUNDS):
        path = tmp_path / str(number)
        holder = child(HOLDER, f"etcd://{etcd.endpoint}/{namespace}", str(TTL_S), str(path))
        assert holder.stdout.readline() == "sure\n"
        holder.send_signal(signal.SIGSTOP)
        with coord.lock("a") as heir:
            fence = heir.fence
            for name in histories:
                write(heir, f"{state}-{name}", Recorder(f"{path}.{name}").witness("heir"))
            holder.send_signal(signal.SIGCONT)
            assert holder.communicate("go on\n", timeout=30)[0] == "lost\n"
            guarded = coord.kv.get(f"{state}-guarded")
            assert guarded is not None and guarded.value == str(fence).encode()
        for name, operations in histories.items():
            operations += history.load(f"{path}.{name}")
    coord.kv.delete_prefix(state)

    stale = {name: checkers.check_lock(each).count(Rule.WRITE) for name, each in histories.items()}
    print(f"{ROUNDS} holders stopped for longer than their TTL; stale writes: {stale}")
    assert stale == {"guarded": 0, "bare": ROUNDS}
