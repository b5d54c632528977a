"""Semaphore: so many holders, a limit that all agree on, and that changes while it is in use."""

from __future__ import annotations

import threading

import pytest
from contract.locklikes import visit
from contract.players import queue_up

from coordkit import errors, waitlist


def test_so_many_hold_at_once_first_come_first_served(crew):
    """
    The fourth waits for whichever leaves, and the fifth for the next.
    """
    a, b = crew(2)
    holders = [member.semaphore("x", limit=3) for member in (a, b, a)]
    for holder in holders:
        assert holder.acquire(timeout=5)
    fourth, fifth = queue_up(b.semaphore("x", limit=3), a.semaphore("x", limit=3))
    assert not fourth.over.wait(0.05)

    holders[1].release()

    fourth.wait_until_held()
    assert not fifth.over.wait(0.05)
    holders[0].release()
    fifth.wait_until_held()
    for lock in (holders[2], fourth.lock, fifth.lock):
        lock.release()


def test_who_holds_and_what_is_left(coord, crew):
    """
    available() and holders() tell; a waiter is no holder.
    """
    (other,) = crew(1)
    permits = coord.semaphore("x", limit=2)
    assert permits.available() == 2
    with permits:
        assert permits.available() == 1
        second = other.semaphore("x", limit=2)
        assert second.acquire(blocking=False)
        waiter = visit(other.semaphore("x", limit=2))

        assert permits.available() == 0
        assert [place.fence for place in permits.holders()] == [permits.fence, second.fence]
        assert len(permits.contenders()) == 3
        assert other.semaphore("x", limit=2).acquire(blocking=False) is False
        second.release()
        waiter.wait_until_held()
        waiter.give_back()

    assert permits.available() == 2


def test_the_first_sets_the_limit(coord, crew):
    """
    Who names another is refused, with both numbers, whatever it asks; who names none takes what is set.
    """
    (other,) = crew(1)
    with pytest.raises(errors.LimitMismatch):
        other.semaphore("x").acquire()
    with coord.semaphore("x", limit=2):
        wrong = other.semaphore("x", limit=3)
        for use in (wrong.acquire, wrong.available, wrong.holders, lambda: wrong.acquire(False)):
            with pytest.raises(errors.LimitMismatch, match="limit 2, and this handle names 3"):
                use()

        assert other.semaphore("x").available() == 1
        assert len(coord.lock("x").contenders()) == 0


def test_the_limit_can_be_forgotten(coord):
    """
    When nobody holds or waits; then another may be set.
    """
    permits = coord.semaphore("x", limit=1)
    with permits:
        assert permits.delete() is False

    assert permits.delete() is True
    with coord.semaphore("x", limit=2) as other:
        assert other.available() == 1


def test_without_a_limit_nobody_can_tell(coord, crew):
    """
    Where none was set, and the handle names none, it is refused whatever it asks: nothing would be full.  A
    handle that knows one counts with that, and sets it anew.
    """
    (other,) = crew(1)
    permits = coord.semaphore("x")
    for use in (permits.acquire, permits.available, permits.holders, lambda: permits.acquire(False)):
        with pytest.raises(errors.LimitMismatch, match="no limit yet"):
            use()
    assert other.semaphore("x", limit=2).available() == 2

    with other.semaphore("x", limit=2):
        assert permits.available() == 1
    assert other.semaphore("x").delete() is True

    assert permits.available() == 2
    assert permits.acquire(blocking=False)
    permits.release()


@pytest.mark.parametrize("limit", [0, -1, True, 2.0, "3", 10**6])
def test_limits_that_cannot_be(coord, limit):
    """
    A limit is a whole number from 1 to 999,999.
    """
    with pytest.raises(errors.InvalidValue):
        coord.semaphore("x", limit=limit)
    with pytest.raises(errors.InvalidValue):
        coord.semaphore("x", limit=1).resize(limit)


class TestResize:
    """resize(n) while it is in use."""

    def test_a_larger_limit_lets_in_who_waits(self, coord, crew):
        """
        At once, and as many as there is room for; handles that were in use follow, new ones must name it.
        """
        a, b = crew(2)
        held = a.semaphore("x", limit=1)
        held.acquire()
        first, second, third = queue_up(*(member.semaphore("x", limit=1) for member in (b, a, b)))

        coord.semaphore("x").resize(3)

        first.wait_until_held()
        second.wait_until_held()
        assert not third.over.wait(0.05)
        assert held.available() == 0
        for lock in (held, first.lock, second.lock):
            lock.release()
        third.wait_until_held().lock.release()
        with held, a.semaphore("x", limit=3):
            pass
        with pytest.raises(errors.LimitMismatch):
            a.semaphore("x", limit=1).acquire()

    def test_a_smaller_limit_takes_effect_as_holders_leave(self, coord, crew):
        """
        Nobody loses a permit; who waits gets one only when fewer than the new limit are before it.
        """
        a, b = crew(2)
        holders = [a.semaphore("x", limit=3) for _ in range(3)]
        for holder in holders:
            holder.acquire()
        (waiter,) = queue_up(b.semaphore("x", limit=3))

        holders[0].resize(1)

        holders[0].release()
        holders[1].release()
        assert not waiter.over.wait(0.1)
        assert holders[2].held
        holders[2].release()
        waiter.wait_until_held().lock.release()

    def test_it_is_one_key_that_changes_in_one_transaction(self, coord, namespace):
        """
        limit/<n>, zero-padded; the same number again changes nothing, and it can be set before any use.
        """
        permits = coord.semaphore("x", limit=5)

        def limits() -> list[str]:
            return [found.key.decode() for found in coord.kv.range(f"/{namespace}/semaphore/x/limit/")]

        for number in (2, 40, 40):
            permits.resize(number)
            assert limits() == [f"/{namespace}/semaphore/x/limit/{number:06}"]
        before = coord.kv.put("/probe", b"")
        permits.resize(40)

        assert coord.kv.put("/probe", b"") == before + 1
        coord.kv.delete("/probe")


def test_far_back_in_the_line(coord, namespace):
    """
    With more before it than it can know, a waiter hears of any of the last so many, and of the limit.
    """
    permits = coord.semaphore("far", limit=2)
    permits.resize(2)
    prefix = f"/{namespace}/semaphore/far/holders/"
    before = [f"{prefix}{number:02}" for number in range(waitlist.WINDOW + 4)]
    for key in before:
        coord.kv.put(key, b"")
    (waiter,) = queue_up(permits)

    for key in before[1:-1]:
        coord.kv.delete(key)
    assert not waiter.over.wait(0.1)
    coord.kv.delete(before[0])  # the last before us stays: so it is not our predecessor that wakes us

    waiter.wait_until_held().lock.release()
    coord.kv.delete(before[-1])


def test_far_back_a_larger_limit_is_heard_of(coord, namespace):
    """
    Also one that is larger than what a waiter would watch key by key.
    """
    permits = coord.semaphore("far", limit=1)
    permits.resize(1)
    prefix = f"/{namespace}/semaphore/far/holders/"
    for number in range(waitlist.WINDOW + 4):
        coord.kv.put(f"{prefix}{number:02}", b"")
    (waiter,) = queue_up(permits)
    assert not waiter.over.wait(0.05)

    permits.resize(waitlist.WINDOW + 5)

    waiter.wait_until_held()
    (next_one,) = queue_up(coord.semaphore("far"))
    coord.kv.delete(f"{prefix}03")
    next_one.wait_until_held().lock.release()
    waiter.lock.release()
    coord.kv.delete_prefix(prefix)


def test_no_more_than_the_limit_are_ever_inside(crew):
    """
    Threads of two processes, while the limit goes up and down.
    """
    members = crew(2)
    members[0].semaphore("x").resize(3)
    inside, most, pause = [0], [0], threading.Event()

    def work(member) -> None:
        permits = member.semaphore("x")
        for _ in range(6):
            with permits:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                pause.wait(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work, args=(member,)) for member in members for _ in range(4)]
    for thread in threads:
        thread.start()
    for limit in (2, 3, 1, 3):
        members[1].semaphore("x").resize(limit)
    for thread in threads:
        thread.join()

    assert most[0] <= 3
    assert members[0].semaphore("x").available() == 3
