"""The same lock among greenlets, and a critical section that computes for longer than the lease lives.

usage: gevent_critical_section.py [URL]

In a patched process coordkit is cooperative by itself; there is nothing to configure.  The lease is renewed
by a native thread, so a greenlet that blocks the hub keeps its lock.
"""

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
import time  # noqa: E402

import etcd_server  # noqa: E402
import gevent  # noqa: E402

import coordkit  # noqa: E402

GREENLETS = 8
ROUNDS = 5
TTL_S = 2
LIMIT_S = 60


class Account:
    """A balance whose update is torn: another greenlet may run in the middle of it."""

    def __init__(self) -> None:
        self.balance = 0

    def deposit(self) -> None:
        seen = self.balance
        gevent.sleep(0)  # here somebody else would read the same balance, but for the lock
        self.balance = seen + 1


def contend(coord: coordkit.Coordinator, account: Account) -> None:
    """One greenlet."""
    lock = coord.lock("gevent-critical-section")
    for _ in range(ROUNDS):
        with lock.within(LIMIT_S):
            account.deposit()


def compute(seconds: float) -> int:
    """Work that never yields: the hub, and with it every other greenlet, stands still."""
    end_s = time.monotonic() + seconds
    steps = 0
    while time.monotonic() < end_s:
        steps += sum(range(1000)) > 0
    return steps


def main() -> int:
    url = etcd_server.url(sys.argv[1] if len(sys.argv) > 1 else None)
    try:
        coord = coordkit.connect(url, ttl=TTL_S)
    except coordkit.Unavailable as error:
        etcd_server.give_up(error)

    with coord:
        account = Account()
        greenlets = [gevent.spawn(contend, coord, account) for _ in range(GREENLETS)]
        gevent.joinall(greenlets, timeout=LIMIT_S, raise_error=True)
        expected = GREENLETS * ROUNDS
        correct = account.balance == expected
        print(
            f"{GREENLETS} greenlets x {ROUNDS} deposits: {account.balance} of {expected}: "
            f"{'correct' if correct else 'WRONG'}"
        )

        # Leaving the block raises LockLost if the lock was not ours to the end.
        with coord.lock("gevent-critical-section") as lock:
            compute(TTL_S * 1.5)
            lock.check()
        print(f"computed for {TTL_S * 1.5} s with a lease of {TTL_S} s: the lock was ours to the end")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
