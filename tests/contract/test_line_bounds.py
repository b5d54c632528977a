"""What a line costs: how many are woken by a release, and how many requests anything takes.

Counted, not timed: events as they come to the line's watches, requests as they pass `Channel.call`.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator

import pytest
from contract.players import Attempt, queue_up, wait_until
from interleavings import meddler as meddling
from interleavings.meddler import Meddler

import coordkit
from coordkit import linewatch, waitlist
from coordkit.etcd import watch

CROWD = 40


@pytest.fixture
def meddler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meddler]:
    """Counts requests; it changes none here."""
    meddler = Meddler.installed(monkeypatch)
    yield meddler
    meddler.end()


@pytest.fixture
def deliveries(monkeypatch: pytest.MonkeyPatch) -> collections.Counter[object]:
    """How many batches of events came to each watch of a line, and of a single key of it."""
    counted: collections.Counter[object] = collections.Counter()

    def count(kind: type, name: str) -> None:
        real = getattr(kind, name)

        def on_events(self: object, events: list[watch.Event]) -> None:
            counted[self] += 1
            real(self, events)

        monkeypatch.setattr(kind, name, on_events)

    count(linewatch.Feed, "on_events")
    count(linewatch.End, "on_events")
    return counted


@pytest.fixture
def members(coord, etcd, namespace: str) -> Iterator[Callable[[int], list[coordkit.Coordinator]]]:
    """`members(n)`: n coordinators, each with a session that lasts through the whole test."""
    hired: list[coordkit.Coordinator] = []

    def hire(count: int) -> list[coordkit.Coordinator]:
        new = [coordkit.connect(f"etcd://{etcd.endpoint}/{namespace}", ttl=60) for _ in range(count)]
        hired.extend(new)
        for member in new:
            _ = member.session
        return new

    yield hire

    for member in hired:
        member.close()


def ticket_of(attempt: Attempt) -> waitlist.Ticket:
    (ticket,) = attempt.lock._waits
    return ticket


def is_settled(attempt: Attempt) -> bool:
    """Whether this waiter waits for events, and for nothing else."""
    if not attempt.lock._waits:
        return False
    ticket, line = ticket_of(attempt), attempt.lock._latest_line
    if ticket.ahead is not None:
        return line.covers(ticket.snapshot_revision)
    if any(ticket in other.followers for other in list(line._tickets.values())):
        return True
    watches = [
        each for each in list(line.link.watcher._live.values()) if isinstance(each.listener, linewatch.End)
    ]
    ends = [each.listener for each in watches if each.listener._waiter is ticket.waiter]
    return len(ends) == 2 and all(0 < end.created_revision <= ticket.snapshot_revision for end in ends)


def of_a_line(call: meddling.Call) -> bool:
    """Not what a session asks about itself."""
    return call.range is None or b"/lock/" in call.range.key


def reads(call: meddling.Call) -> bool:
    return call.range is not None and of_a_line(call)


def methods(meddler: Meddler) -> list[str]:
    return [call.method for call in meddler.calls if of_a_line(call)]


class TestWokenByARelease:
    """However long the line, a release is told to at most 16."""

    def test_by_processes(self, coord, members, deliveries):
        """
        Of 40 processes that wait, a release is told to the 16 at the front: to each in one event.
        """
        lock = coord.lock("crowd")
        lock.acquire()
        waiters = queue_up(*(member.lock("crowd") for member in members(CROWD)))
        wait_until(lambda: all(map(is_settled, waiters)))
        deliveries.clear()

        lock.release()
        waiters[0].wait_until_held()
        near = [waiter.lock._latest_line._feed for waiter in waiters[: waitlist.WINDOW]]
        wait_until(lambda: all(deliveries[feed] for feed in near))

        assert dict(deliveries) == dict.fromkeys(near, 1)

        for waiter in waiters:
            waiter.wait_until_held()
            still_waiting = [each for each in waiters if each.waiting]
            deliveries.clear()
            waiter.lock.release()
            if still_waiting:
                still_waiting[0].wait_until_held()
            told = [each for each in still_waiting if deliveries[each.lock._latest_line._feed]]
            assert len(told) <= waitlist.WINDOW

    def test_by_threads_of_one_process(self, coord, members, deliveries, monkeypatch):
        """
        40 threads of one process share a watch: one event for a release, and one of them is woken.
        """
        (other,) = members(1)
        blocker = other.lock("threads")
        blocker.acquire()
        waiters = queue_up(*(coord.lock("threads") for _ in range(CROWD)))
        wait_until(lambda: all(map(is_settled, waiters)))
        tickets = {ticket_of(waiter).waiter: waiter for waiter in waiters}
        woken: list[Attempt] = []
        real = meddling.channels.Waiter.wake

        def wake(self) -> None:
            woken.extend([tickets[self]] if self in tickets else [])
            real(self)

        monkeypatch.setattr(meddling.channels.Waiter, "wake", wake)
        deliveries.clear()

        blocker.release()
        waiters[0].wait_until_held()

        assert sum(deliveries.values()) == 1
        assert woken == waiters[:1]
        for waiter in waiters:
            waiter.wait_until_held().lock.release()


class TestRequests:
    """Each request is a round trip of somebody's time."""

    def test_uncontended(self, coord, meddler):
        """
        An acquire and a release of a free lock are a transaction each.
        """
        lock = coord.lock("free")
        with lock:
            pass
        meddler.calls.clear()

        for _ in range(5):
            with lock:
                pass

        assert methods(meddler) == [meddling.TXN] * 10

    def test_a_try(self, coord, members, meddler):
        """
        A try is one transaction, whether the lock is free or busy.
        """
        (other,) = members(1)
        lock, busy = coord.lock("try"), other.lock("try")
        _ = coord.session
        meddler.calls.clear()

        assert lock.acquire(blocking=False)
        assert not busy.acquire(blocking=False)
        assert not lock.acquire(timeout=0)

        assert methods(meddler) == [meddling.TXN] * 3
        lock.release()

    def test_a_hand_over_near_the_front_reads_nothing(self, members, meddler):
        """
        Between processes that wait near the front the lock passes on without a read.
        """
        locks = [member.lock("near") for member in members(8)]
        locks[0].acquire()
        waiters = queue_up(*locks[1:])
        wait_until(lambda: all(map(is_settled, waiters)))
        meddler.calls.clear()

        locks[0].release()
        for waiter in waiters:
            waiter.wait_until_held().lock.release()

        assert methods(meddler) == [meddling.TXN] * 8  # the releases

    def test_contention_reads_nothing(self, coord, members, meddler, monkeypatch):
        """
        Who comes back while the line's watch still stands reads nothing, not even once.
        """
        monkeypatch.setattr(linewatch, "LINGER_S", 60.0)
        locks = [member.lock("again") for member in members(4)]
        first = coord.lock("again")
        first.acquire()
        waiters = queue_up(*locks)  # each waits once: now each has a watch
        wait_until(lambda: all(map(is_settled, waiters)))
        for lock, waiter in zip([first, *locks], waiters, strict=False):
            lock.release()
            waiter.wait_until_held()
        meddler.calls.clear()

        for _ in range(3):  # rounds: the last one holds, the others join again
            holder, *others = locks[::-1]
            waiters = [Attempt(lock) for lock in others]
            wait_until(lambda waiters=waiters: all(map(is_settled, waiters)))
            by_age = sorted(waiters, key=lambda waiter: ticket_of(waiter).create_revision)
            holder.release()
            for waiter in by_age[:-1]:
                waiter.wait_until_held().lock.release()
            by_age[-1].wait_until_held()
            locks = [waiter.lock for waiter in by_age]
            locks.insert(0, holder)

        assert meddler.count(reads) == 0
        locks[-1].release()

    def test_far_back_one_read_brings_it_near(self, coord, members, meddler):
        """
        Far back nothing is read until the predecessor goes.
        """
        (other,) = members(1)
        prefix = f"/{coord.settings.namespace}/lock/far/"
        before = [f"{prefix}{number:02}" for number in range(waitlist.WINDOW + 10)]
        for key in before:
            coord.kv.put(key, b"")
        (waiter,) = queue_up(other.lock("far"))
        wait_until(lambda: is_settled(waiter))
        reading = meddling.both(meddling.of(other), reads)
        meddler.clients.append(other.client)
        meddler.calls.clear()

        for key in before[:10]:
            coord.kv.delete(key)
        assert meddler.count(reading) == 0
        coord.kv.delete(before.pop())
        wait_until(lambda: is_settled(waiter) and ticket_of(waiter).ahead is not None)
        at_the_front = meddler.count(reading)
        for key in before[10:]:
            coord.kv.delete(key)
        waiter.wait_until_held()

        assert 1 <= at_the_front == meddler.count(reading) <= 2
        waiter.lock.release()

    def test_far_back_nothing_is_heard_of_the_line_that_was_watched_before(self, coord, members, deliveries):
        """
        Who was near keeps its watch for a while; far back it would hear of each release, so it ends it.
        """
        (other,) = members(1)
        holder = coord.lock("far")
        holder.acquire()
        (waiter,) = queue_up(other.lock("far"))
        wait_until(lambda: is_settled(waiter))
        holder.release()
        waiter.wait_until_held().lock.release()
        assert any(isinstance(each, linewatch.Feed) for each in deliveries)
        before = [
            f"/{coord.settings.namespace}/lock/far/{number:02}" for number in range(waitlist.WINDOW + 10)
        ]
        for key in before:
            coord.kv.put(key, b"")
        (waiter,) = queue_up(other.lock("far"))
        wait_until(lambda: is_settled(waiter))
        deliveries.clear()

        for key in (*before[:5], before[-1]):
            coord.kv.delete(key)
        wait_until(lambda: any(isinstance(each, linewatch.End) for each in deliveries))

        assert not any(isinstance(each, linewatch.Feed) for each in deliveries)
        for key in before[5:-1]:
            coord.kv.delete(key)
        waiter.wait_until_held().lock.release()


class TestHandOverWithinAProcess:
    """A release tells a local waiter itself, if its own transaction saw that one at the head."""

    def test_without_an_event(self, coord, meddler):
        """
        Between threads of a process the lock passes on although no event gets through.
        """
        locks = [coord.lock("local") for _ in range(4)]
        locks[0].acquire()
        waiters = queue_up(*locks[1:])
        wait_until(lambda: all(map(is_settled, waiters)))
        meddler.withhold_events(coord.session.link.watcher)
        meddler.calls.clear()

        for lock, waiter in zip(locks, waiters, strict=False):
            lock.release()
            waiter.wait_until_held()

        assert methods(meddler) == [meddling.TXN] * 3
        meddler.tell_events(coord.session.link.watcher)
        locks[-1].release()

    def test_not_past_others(self, coord, members, meddler):
        """
        A local waiter does not get it while another process stands before it.
        """
        (other,) = members(1)
        lock, local, foreign = coord.lock("order"), coord.lock("order"), other.lock("order")
        lock.acquire()
        (first,), (second,) = queue_up(foreign), queue_up(local)
        wait_until(lambda: is_settled(first) and is_settled(second))

        lock.release()
        first.wait_until_held()

        assert second.waiting
        foreign.release()
        second.wait_until_held()
        local.release()

    def test_without_a_local_waiter_nothing_is_read(self, coord, meddler):
        """
        A release reads the head of the line only when somebody of this process may have come to it.
        """
        lock = coord.lock("alone")
        lock.acquire()
        meddler.calls.clear()

        lock.release()

        (release,) = (call for call in meddler.calls if of_a_line(call))
        assert [op.WhichOneof("request") for op in release.txn.success] == ["request_delete_range"]
