"""Sessions that are opened, used and ended behind their owner's back: what they believe of themselves.

Three rules: a session never believes to live longer than its lease can; it is told within seconds that its
key is gone, however long its TTL; and what is lost stays lost, and grants nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import coordkit
from coordkit import deadline, errors
from coordkit.testing import faults, plays, weather
from coordkit.testing.history import Kind, Operation
from coordkit.testing.recorder import Told, Witness

TTL_S = 30.0  # so long that no renewal tells of its end in time
TOLD_WITHIN_S = 5.0
PERSISTENT = ()


def cycle(coord: coordkit.Coordinator, witness: Witness) -> None:
    """One life."""
    session = coord.new_session(ttl=TTL_S)
    try:
        _believes_no_more_than_it_may(session)
        lock = coordkit.Lock(session, f"own {session.lease_id:x}")
        witness.call(Kind.ACQUIRE, lambda: Told(done=lock.acquire(timeout=5), fence=session.lease_id))
        if random.random() < 0.3:
            return
        _end(session)
        if not session.lost.wait(TOLD_WITHIN_S):
            raise plays.Broken(f"deaf: {TOLD_WITHIN_S:g} s after its end a session had not heard of it")
        _stays_lost(session, witness)
    finally:
        session.close()


def _believes_no_more_than_it_may(session: coordkit.Session) -> None:
    """Seen from here, the lease began no later than when its grant's reply was there."""
    granted_s = weather.granted_s(session.lease_id)
    if granted_s is None:
        return
    believed_s = session.remaining()
    elapsed_s = deadline.boottime() - granted_s
    if elapsed_s < TTL_S / 6 and believed_s > TTL_S - elapsed_s:
        why = f"{believed_s:.2f} s are left, it believes, {elapsed_s:.2f} s after {TTL_S:g} s were granted"
        raise plays.Broken(f"deadline: {why}")


def _end(session: coordkit.Session) -> None:
    while True:
        try:
            faults.expire(session)
            return
        except errors.Unavailable:
            continue
        except errors.CoordError:
            return  # it is over already


def _stays_lost(session: coordkit.Session, witness: Witness) -> None:
    lock = coordkit.Lock(session, f"late {session.lease_id:x}")
    granted: list[bool] = []

    def late() -> Told:
        granted.append(lock.acquire(timeout=0.2))
        return Told(done=False)

    witness.call(Kind.ACQUIRE, late, fence=session.lease_id)
    if any(granted) or session.remaining() > 0 or session.alive:
        raise plays.Broken("undead: a session that was lost has granted, or lives again")


def judge(operations: Sequence[Operation]) -> list[str]:
    """Whoever broke a rule has said so; a trial tells it."""
    return []
