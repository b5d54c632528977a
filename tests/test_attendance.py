"""Who only looks on sees whose turn it was; and what a wait in vain tells."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest

import coordkit
from coordkit import errors
from coordkit.testing import FaultProxy, LocalEtcd, compact, expire, patience, plays
from coordkit.testing.attendance import Attendance
from coordkit.testing.checkers import turns
from coordkit.testing.checkers.turns import Silence
from coordkit.testing.history import Kind, Operation, Result, Rule

Eventually = Callable[..., object]


@pytest.fixture
def far(etcd_binary: str) -> Iterator[tuple[coordkit.Coordinator, FaultProxy, coordkit.Coordinator]]:
    """Who looks on, the proxy before it, and one who is near."""
    with (
        LocalEtcd(etcd_binary) as etcd,
        FaultProxy(etcd.endpoint) as proxy,
        coordkit.connect(etcd.url, namespace="look") as near,
        coordkit.connect(proxy.url, namespace="look", ttl=60) as far,
    ):
        yield far, proxy, near


def states(seen: Attendance) -> list[tuple[str, bool, bool, bool]]:
    """Of each place: its name, whether it had a turn, whether it is gone, and with its session."""
    return [
        (each.key.rpartition("/")[2], each.turn_ns is not None, each.gone_ns is not None, each.lapsed)
        for each in seen.stays
    ]


def test_it_sees_who_stood_and_whose_turn_it_was(coord, coord_factory, eventually: Eventually) -> None:
    """
    Also of keys that are nobody's; what a lease has taken is told apart.
    """
    other = coord_factory(ttl=60)
    prefix = f"/{coord.settings.namespace}/lock/it/"
    with Attendance(coord, "lock") as seen:
        coord.kv.put(f"{prefix}first", b"")
        coord.kv.put(f"{prefix}second", b"")
        lock = other.lock("it")
        coord.kv.delete(f"{prefix}second")
        coord.kv.delete(f"{prefix}first")
        assert lock.acquire(timeout=20)
        mine = lock.key.rpartition(b"/")[2].decode()
        expire(other.session)
        eventually(lambda: len(states(seen)) == 3 and states(seen)[2][3])

        assert states(seen) == [
            ("first", True, True, False),
            ("second", False, True, False),
            (mine, True, True, True),
        ]
        with pytest.raises(errors.LockLost):
            lock.release()


def test_what_was_missed_is_not_judged(far, tmp_path: pathlib.Path, eventually: Eventually) -> None:
    """
    The connection is gone for a while, and what happened meanwhile is compacted: silence, and partial stays.
    """
    looker, proxy, near = far
    prefix = "/look/lock/it/"
    with Attendance(looker, "lock") as seen:
        near.kv.put(f"{prefix}a", b"")
        near.kv.put(f"{prefix}b", b"")
        eventually(lambda: len(seen.stays) == 2)

        proxy.refuse()
        proxy.reset()
        near.kv.delete(f"{prefix}a")
        compact(near)
        proxy.heal()
        eventually(lambda: seen.stays[1].turn_ns, within_s=30)

    first, second = seen.stays
    assert first.partial and first.gone_ns is None
    assert second.partial and second.turn_ns is not None
    seen.save(tmp_path / "line.jsonl")
    assert len((tmp_path / "line.jsonl").read_text().splitlines()) == 2 + len(seen.silences)


def test_a_turn_that_nobody_takes_is_found(coord, eventually: Eventually) -> None:
    """
    As of a contender whose wake-up was lost: its key is the first, and nobody was granted.
    """
    key = f"/{coord.settings.namespace}/lock/it/lost"
    with Attendance(coord, "lock") as seen:
        coord.kv.put(key, b"")
        eventually(lambda: seen.stays and seen.stays[0].turn_ns)
        coord.kv.delete(key)
        eventually(lambda: seen.stays[0].gone_ns)

    verdict = turns.check_turns([], seen.stays, seen.silences, due_ns=0)

    assert [each.rule for each in verdict.violations] == [Rule.IDLE]


def test_silence_is_noted(far, eventually: Eventually) -> None:
    """
    As long as nobody answers, however often it asks.
    """
    looker, proxy, _ = far
    with Attendance(looker, "lock") as seen:
        proxy.refuse()
        proxy.reset()
        begun = len(seen.silences)
        with pytest.raises(errors.CoordError):
            looker.kv.get("/look/x", timeout=2)
        proxy.heal()
        eventually(lambda: len(seen.silences) > begun, within_s=30)


def test_a_wait_in_vain_says_what_stands_there(coord) -> None:
    """
    The line, whose lease the first hangs on, and what became of its own place.
    """
    blocker = coord.lock("it")
    blocker.acquire()
    lock = coord.lock("it")

    with pytest.raises(errors.AcquireTimeout) as caught:
        patience.acquire(lock, 0.2, 0.2)

    told = str(caught.value)
    first = blocker.key.rpartition(b"/")[2].decode()
    assert f"{patience.IN_VAIN} for 0.2 s; its places: " in told
    assert "(knew 1 before it at " in told
    assert f"{first}@{blocker.fence}" in told and "the lease of the first has " in told
    assert patience.acquire(coord.lock("it"), 0.1, 0.2) is False
    blocker.release()
    assert patience.acquire(lock, 0.1, 0.2) is True
    lock.release()


def test_a_wait_is_excused_only_where_the_cluster_did_not_answer() -> None:
    """
    Whoever is answered all the time and waits in vain is a violation.
    """
    error = f"AcquireTimeout: {patience.IN_VAIN} for 15 s; its places: none"
    wait = Operation(Kind.ACQUIRE, Result.FAIL, 1, "7", 0, 10**9, 16 * 10**9, error=error)

    assert plays.stalls([wait]) == [f"stall: contender 7: {error}"]
    assert patience.excused(wait, []) is None
    assert patience.excused(wait, [Silence(0, 10**9)]) is None
    why = patience.excused(wait, [Silence(15 * 10**9, 20 * 10**9)])
    assert why is not None and "did not answer for 1.0 s of its 15.0 s" in why
