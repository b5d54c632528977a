"""What a consumer knows serves its claims without a read, and without an error.

What it saw and did not claim; and while it is idle, what the watch tells it.
"""

from __future__ import annotations

import collections

import pytest
from contract.players import Call, wait_until
from contract.queueing import asleep, drain, stored

from coordkit.recipes.queue import fetcher, names


@pytest.fixture
def jobs(coord, namespace, monkeypatch):
    """A queue whose consumer looks only when it must."""
    monkeypatch.setattr(fetcher, "DELAYED_S", 60)
    yield coord.queue("jobs", max_deliveries=3)
    coord.kv.delete_prefix(f"/{namespace}/queue/")


@pytest.fixture
def other(coord_factory):
    return coord_factory().queue("jobs")


@pytest.fixture
def calls(jobs, monkeypatch):
    """How often the consumer's client looked, and how many transactions it sent."""
    client, counted = jobs._site.link.client, collections.Counter()

    def count(name):
        method = getattr(client, name)

        def counting(*arguments):
            counted[name] += 1
            return method(*arguments)

        monkeypatch.setattr(client, name, counting)

    count("look")
    count("txn")
    return counted


def claimed(jobs, count):
    """So many, one by one, acked."""
    values = []
    for _ in range(count):
        with jobs.claim(timeout=10) as job:
            values.append(job.value)
    return values


def test_a_claim_costs_one_commit_and_seldom_a_read(jobs, calls):
    """
    Single claims, and the acks.
    """
    items = [b"%d" % number for number in range(100)]
    jobs.put_many([b"first", *items])
    assert claimed(jobs, 1) == [b"first"]  # with the session
    calls.clear()

    assert claimed(jobs, 100) == items

    assert calls["txn"] == 200
    assert calls["look"] < 15


def test_what_was_acked_meanwhile_is_not_given_back_once_more(jobs, calls):
    """
    Many consumers of one process: a look shows claims that have ended by the time it is read.
    """
    items = [b"%d" % number for number in range(4000)]
    jobs.put_many(items)
    calls.clear()
    taken = []

    consumers = [Call(lambda: taken.extend(drain(jobs))) for _ in range(4)]
    for consumer in consumers:
        consumer.end()

    assert sorted(taken, key=int) == items
    # One claims and one acks each 100; the batches are smaller at the beginning and the end.
    assert calls["txn"] < 3 * 40


def test_what_comes_in_front_goes_first(jobs, other):
    """
    Another process puts something urgent while what was seen before would do.
    """
    jobs.put_many(b"%d" % number for number in range(30))
    assert claimed(jobs, 10) == [b"%d" % number for number in range(10)]
    assert jobs._site.fetcher._stock is not None
    other.put(b"later", priority=7)
    jobs.put(b"behind")
    assert claimed(jobs, 2) == [b"10", b"11"]

    jobs.put(b"b", priority=1)
    other.put(b"a", priority=0)

    # An item of priority 0, put last, goes behind those that were there.
    assert claimed(jobs, 22) == [
        *(b"%d" % number for number in range(12, 30)),
        b"behind",
        b"a",
        b"b",
        b"later",
    ]


def test_what_is_urgent_goes_first(jobs, other):
    """
    The same with everything else less urgent.
    """
    jobs.put_many((b"%d" % number for number in range(30)), priority=5)
    assert claimed(jobs, 10) == [b"%d" % number for number in range(10)]
    assert jobs._site.fetcher._stock is not None

    other.put(b"urgent")

    assert claimed(jobs, 3) == [b"urgent", b"10", b"11"]
    assert len(drain(jobs)) == 18


def test_what_is_given_back_here_comes_next(jobs):
    """
    Its place is at the head.
    """
    jobs.put_many(b"%d" % number for number in range(20))
    claimed(jobs, 8)
    assert jobs._site.fetcher._stock is not None

    jobs.claim(timeout=10).nack()

    with jobs.claim(timeout=10) as job:
        assert (job.value, job.attempt) == (b"8", 2)
    assert len(drain(jobs)) == 11


def test_an_item_that_was_delivered_elsewhere_meanwhile_is_not_taken_among_others(jobs, other):
    """
    It would be its second delivery, and that comes alone; `attempt` counts all of them.
    """
    jobs.put_many(b"%d" % number for number in range(40))
    claimed(jobs, 8)
    assert jobs._site.fetcher._stock is not None
    with_others = other.claim_many(3, timeout=10)
    assert [job.value for job in with_others] == [b"8", b"9", b"10"]
    with_others[1].nack()
    for job in (with_others[0], with_others[2]):
        job.ack()

    batches = []
    while not batches or len(batches[-1]) > 1 or batches[-1][0].value != b"9":
        batches.append(jobs.claim_many(4, timeout=10))
        assert jobs.ack_many(batches[-1]) == []
        assert not any(job.attempt > 1 for job in batches[-1] if len(batches[-1]) > 1)

    assert batches[-1][0].attempt == 2
    drain(jobs)
    assert stored(jobs) == {}


def test_items_that_others_took_meanwhile_are_looked_for_no_more(jobs, other):
    """
    Nothing comes twice, and nothing is forgotten.
    """
    items = [b"%d" % number for number in range(60)]
    jobs.put_many(items)
    values = claimed(jobs, 8)
    assert jobs._site.fetcher._stock is not None

    theirs = other.claim_many(20, timeout=10)
    assert other.ack_many(theirs) == []
    values += [job.value for job in theirs]
    values += claimed(jobs, 10)
    values += drain(jobs)

    assert sorted(values, key=int) == items
    assert stored(jobs) == {}


class TestIdle:
    """A consumer that sleeps: it has looked, and nothing was there."""

    @pytest.fixture
    def idle(self, jobs, calls):
        """It waits, and has asked nothing since."""
        call = Call(jobs.claim, timeout=30)
        wait_until(lambda: asleep(jobs), what="a consumer that sleeps")
        calls.clear()
        return call

    def test_what_it_is_told_of_is_claimed_without_a_look(self, idle, other, calls):
        """
        One commit.
        """
        other.put(b"x")

        with idle.end() as job:
            assert (job.value, job.attempt) == (b"x", 1)
            assert (calls["txn"], calls["look"]) == (1, 0)

    def test_of_many_the_first_is_taken(self, idle, other):
        """
        In the queue's order, which is not that of the events of one transaction, nor that of their coming.
        """
        other.put_many([b"b", b"c"])

        with idle.end() as job:
            assert job.value == b"b"

    def test_what_another_has_taken_by_then_costs_nothing(self, idle, other, jobs, calls, monkeypatch):
        """
        It left it to the others for a moment, and was told.
        """
        arrivals = jobs._site.arrivals
        taken = []

        def until_it_is_taken(*_):
            if taken:
                return 0
            taken.append(other.claim(timeout=10))
            wait_until(lambda: taken[0].id not in arrivals.fresh()[0], what="the news of that")
            return 1

        monkeypatch.setattr(arrivals, "rank", until_it_is_taken)
        other.put(b"x")
        wait_until(lambda: taken, what="another's claim")
        taken[0].ack()
        other.put(b"y")

        with idle.end() as job:
            assert job.value == b"y"
            assert (calls["txn"], calls["look"]) == (1, 0)

    def test_what_another_was_quicker_at_is_asked_for_once(self, idle, other, jobs, calls, monkeypatch):
        """
        The claim fails; the watch says why, so no look has to.
        """
        real = fetcher.claiming.claim
        taken = []

        def claim_too_late(desk, *rest):
            if desk is jobs._site._desk and not taken:
                taken.append(other.claim(timeout=10))
            return real(desk, *rest)

        monkeypatch.setattr(fetcher.claiming, "claim", claim_too_late)
        other.put(b"x")
        wait_until(lambda: calls["txn"] == 1, what="a claim that is too late")
        taken[0].ack()
        other.put(b"y")

        with idle.end() as job:
            assert job.value == b"y"
            assert (calls["txn"], calls["look"]) == (2, 0)

    def test_what_cannot_be_claimed_for_another_reason_is_looked_at(self, idle, coord, jobs):
        """
        An item whose deliveries are not what the watch lets one believe.
        """
        layout = jobs._site.layout
        id_ = names.item_id(100, 1, names.new_producer(), 1)
        coord.kv.put(layout.attempt(id_), b"")

        coord.kv.put(layout.item(id_), b"x")

        with idle.end() as job:
            assert (job.id, job.value, job.attempt) == (id_, b"x", 2)

    def test_what_comes_back_is_looked_at(self, idle, other):
        """
        Its deliveries are not known here.
        """
        other.put(b"x")
        first = idle.end()
        again = Call(other.claim, timeout=30)
        wait_until(lambda: asleep(other), what="another consumer that sleeps")

        first.nack()

        with again.end() as job:
            assert (job.value, job.attempt) == (b"x", 2)
