"""CohortLock: one place in line a process, hand-overs within it, and a bound on them."""

from __future__ import annotations

import threading

import pytest
from contract.locklikes import Visitor, visit
from contract.players import expire, wait_until

from coordkit import errors, waitlist
from coordkit.recipes import cohort


class Interrupt(BaseException):
    """Ctrl-C, a killed greenlet."""


def work_until(stop, lock, grants, count=4) -> list[threading.Thread]:
    """Threads that take turns until `stop` is set, and note each (fence, handoff)."""

    def work() -> None:
        while not stop.is_set():
            with lock:
                grants.append((lock.fence, lock.handoff))

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_one_place_in_line_for_a_process(coord, crew):
    """
    However many of its threads wait, and whatever handle they use; it is the lock of that name.
    """
    (other,) = crew(1)
    with coord.lock("x") as holder:
        waiters = [Visitor(other.cohort_lock("x")) for _ in range(4)]
        wait_until(lambda: all(waiter.lock._waits for waiter in waiters))
        wait_until(lambda: len(holder.contenders()) == 2)
        assert not any(waiter.over.is_set() for waiter in waiters)

    fences = []
    while waiters:
        granted = wait_until(lambda: next((each for each in waiters if each.over.is_set()), None))
        waiters.remove(granted)
        fences.append((granted.lock.fence, granted.lock.handoff))
        granted.give_back()

    assert fences == [(fences[0][0], handoff) for handoff in range(4)]


def test_another_process_has_its_turn_in_time(coord, crew):
    """
    After 64 hand-overs at most from when it joined; (fence, handoff) grows from holder to holder.
    """
    (other,) = crew(1)
    stop, grants = threading.Event(), []
    threads = work_until(stop, coord.cohort_lock("x"), grants)
    wait_until(lambda: len(grants) > 2 * cohort.MOST)
    rival = other.lock("x")

    waits = []
    for _ in range(5):
        visitor = Visitor(rival)
        wait_until(lambda visitor=visitor: rival._waits or visitor.over.is_set())  # its key is in line
        joined = len(grants)
        visitor.wait_until_held()
        waits.append(len(grants) - joined)
        visitor.give_back()
    stop.set()
    for thread in threads:
        thread.join()

    assert max(waits) <= cohort.MOST
    assert grants == sorted(set(grants))


def test_who_joins_while_it_is_asked_waits_no_longer(coord, crew, monkeypatch):
    """
    However long the answer takes, that nobody else waits: it counts from when it was asked.
    """
    (other,) = crew(1)
    lock, rival, grants = coord.cohort_lock("x"), other.lock("x"), []
    asked, joined, answered, stop = (threading.Event() for _ in range(4))
    looks_around, is_alone = cohort.Cohort._look_around, waitlist.Line.is_alone
    visitors, counts, own = [], [], threading.local()

    def look_around(shared, local, ticket) -> None:
        own.goes_on = local.role is cohort.Role.OUT  # the others have the lock meanwhile
        looks_around(shared, local, ticket)
        if joined.is_set():
            answered.set()

    def look(line, ticket, deadline) -> bool:
        if asked.is_set() or not own.goes_on:
            return is_alone(line, ticket, deadline)
        asked.set()
        answer = is_alone(line, ticket, deadline)
        visitors.append(Visitor(rival))
        wait_until(lambda: rival._waits, what="the rival's key in line")
        counts.append(len(grants))
        joined.set()
        wait_until(lambda: len(grants) == counts[0] + cohort.EARLY // 2)
        return answer

    def work() -> None:
        while not stop.is_set():
            with lock:
                grants.append((lock.fence, lock.handoff))
                if asked.is_set():
                    joined.wait(15)
                    if len(grants) == counts[0] + cohort.EARLY // 2:
                        answered.wait(15)

    monkeypatch.setattr(cohort.Cohort, "_look_around", look_around)
    monkeypatch.setattr(waitlist.Line, "is_alone", look)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()

    assert answered.wait(15)
    visitors[0].wait_until_held()
    waited = len(grants) - counts[0]
    visitors[0].give_back()
    stop.set()
    for thread in threads:
        thread.join()

    assert cohort.EARLY < waited <= cohort.MOST


@pytest.mark.parametrize("count", [2, 4])
def test_alone_it_keeps_its_place(coord, count):
    """
    Nobody else waits: the fence stays, and the hand-overs are counted on.
    """
    stop, grants = threading.Event(), []
    threads = work_until(stop, coord.cohort_lock("x"), grants, count)
    wait_until(lambda: len(grants) > 4 * cohort.MOST)
    stop.set()
    for thread in threads:
        thread.join()

    assert max(handoff for _, handoff in grants) > cohort.MOST
    assert grants == sorted(set(grants))


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_a_leader_that_leaves_leaves_its_place_to_the_next(coord, crew, how):
    """
    The process does not lose its place in line.
    """
    (other,) = crew(1)
    with coord.lock("x") as holder:
        leader = visit(other.cohort_lock("x"), timeout=0.4 if how == "timeout" else -1)
        wait_until(lambda: len(holder.contenders()) == 2)
        follower = visit(other.cohort_lock("x"))
        last = visit(other.cohort_lock("x"))
        places = holder.contenders()

        if how == "cancel":
            leader.lock.cancel()

        leader.end()
        assert leader.result is (False if how == "timeout" else None)
        assert holder.contenders() == places
        last.lock.cancel()
        assert isinstance(last.end().error, errors.Cancelled)

    follower.wait_until_held()
    assert follower.lock.fence == places[1].fence
    follower.give_back()


def test_an_interrupted_waiter_is_passed_over(coord, monkeypatch):
    """
    Wherever it strikes: queued, or just when it was handed the lock.
    """
    nap = cohort.Local.sleep
    asleep = threading.Event()
    ends = []

    def interrupted(local, longest_s) -> None:
        if threading.current_thread().name == "victim":
            if ends:
                asleep.set()
                nap(local, longest_s)  # until it is handed the lock
            raise Interrupt
        nap(local, longest_s)

    monkeypatch.setattr(cohort.Local, "sleep", interrupted)

    def acquire(lock) -> None:
        try:
            lock.acquire()
        except Interrupt as error:
            ends.append(error)

    lock = coord.cohort_lock("x")
    for happened in (lambda: ends, asleep.is_set):
        lock.acquire()
        victim = threading.Thread(target=acquire, args=(coord.cohort_lock("x"),), name="victim")
        victim.start()
        wait_until(happened)
        follower = visit(coord.cohort_lock("x"))
        lock.release()
        victim.join()
        follower.wait_until_held()
        follower.give_back()

    assert len(ends) == 2
    wait_until(lambda: not lock.locked())


def test_somebody_deletes_the_key(coord, crew):
    """
    Who holds it is told, nobody is handed it, and the next one takes another place.
    """
    (other,) = crew(1)
    lock = coord.cohort_lock("x")
    lock.acquire()
    fence = lock.fence
    follower = visit(coord.cohort_lock("x"))

    wait_until(lambda: lock._latest.line._covered_from, what="the watch")

    other.kv.delete(lock.key)

    assert lock.lost.wait(15)
    with pytest.raises(errors.LockLost):
        lock.release()
    follower.wait_until_held()
    assert follower.lock.fence > fence
    follower.give_back()


def test_the_end_of_the_session_is_told_to_the_queue(coord, crew):
    """
    To those that wait behind a holder, and behind a leader; the next acquire is on another session.
    """
    (other,) = crew(1)
    with coord.lock("x"):
        leader, follower = visit(other.cohort_lock("x")), visit(other.cohort_lock("x"))

        expire(other.session, coord)

        assert isinstance(leader.end().error, errors.SessionLost)
        assert isinstance(follower.end().error, errors.SessionLost)
    with other.cohort_lock("x").within(10) as lock:
        assert lock.handoff == 0


def test_somebody_deletes_the_key_before_it_is_watched(coord, crew, monkeypatch):
    """
    Nobody was told; but before the lock is handed on its key is looked for, and the next one takes another.
    """
    (other,) = crew(1)
    lock = coord.cohort_lock("x")
    lock.acquire()
    fence = lock.fence
    line = lock._latest.line
    really_open = line._open_watch

    def delete_first() -> None:
        other.kv.delete(lock.key)
        really_open()

    monkeypatch.setattr(line, "_open_watch", delete_first)
    follower = visit(coord.cohort_lock("x"))
    wait_until(lambda: line._covered_from, what="the watch")
    rival = other.lock("x")
    assert rival.acquire(timeout=15)  # the lock is free, as far as etcd knows

    with pytest.raises(errors.LockLost):
        lock.release()

    assert follower.waiting
    rival.release()
    follower.wait_until_held()
    assert follower.lock.fence > fence
    follower.give_back()
