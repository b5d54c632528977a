"""What a queue promises to those who put and to those who take."""

from __future__ import annotations

import gc
import queue as standard
import threading

import pytest
from contract.players import Call, expire, wait_until
from contract.queueing import asleep, drain, stored, take

from coordkit import codecs, errors, kv
from coordkit.recipes.queue.arrivals import Arrivals


@pytest.fixture
def sweep(coord, namespace):
    """What a test has put and not taken goes with it."""
    yield
    coord.kv.delete_prefix(f"/{namespace}/queue/")


@pytest.fixture
def jobs(coord, sweep):
    return coord.queue("jobs")


@pytest.fixture
def other(coord_factory, sweep):
    """Another process, as far as etcd can tell."""
    return coord_factory(ttl=2)


@pytest.fixture
def idler(coord_factory, sweep):
    """One that does not look for a minute unless it is told: once in a TTL an idle consumer does."""
    return coord_factory(ttl=60)


class TestPutting:
    def test_items_come_in_the_order_in_which_they_were_put(self, jobs):
        """
        One by one or many at once, more than a transaction takes; and nothing is left of them.
        """
        first = jobs.put(b"first")
        ids = jobs.put_many(str(number) for number in range(250))
        jobs.put("last")

        assert [first, *ids] == sorted([first, *ids])
        assert jobs.qsize() == 252
        assert drain(jobs) == [b"first", *(b"%d" % number for number in range(250)), b"last"]
        assert stored(jobs) == {}

    def test_a_lower_priority_comes_first(self, jobs):
        """
        Within a priority the order stays.
        """
        for priority, value in [(5, "e"), (0, "a"), (999, "z"), (5, "f"), (0, "b")]:
            jobs.put(value, priority=priority)

        assert drain(jobs) == [b"a", b"b", b"e", b"f", b"z"]

    def test_what_was_seen_before_a_put_comes_before_it(self, jobs, other):
        """
        Across producers the stamp is a logical clock: one who has seen an item puts behind it.
        """
        here, there = jobs, other.queue("jobs")

        for number in range(6):
            (here, there)[number % 2].put(str(number))
            expected = number + 1
            assert (there, here)[number % 2].qsize() == expected

        assert drain(jobs) == [b"%d" % number for number in range(6)]

    def test_names_that_are_prefixes_of_one_another_do_not_touch(self, coord, jobs):
        """
        Neither in what they hold nor in what a purge takes.
        """
        names = ["job", "jobs2", "jobs/items", "jobs%2F", "j"]
        for name in names:
            coord.queue(name).put(name)
        jobs.put(b"mine")

        jobs.purge()

        assert [drain(coord.queue(name)) for name in names] == [[name.encode()] for name in names]

    def test_concurrent_puts_share_transactions(self, coord, jobs):
        """
        Far fewer calls than puts, each with its own id.
        """
        jobs.put(b"warm")
        before = coord.statistics().calls

        calls = [Call(jobs.put, b"x") for _ in range(60)]
        ids = {call.end() for call in calls}

        assert len(ids) == 60
        assert coord.statistics().calls - before < 40
        assert jobs.qsize() == 61

    def test_a_dedup_id_is_put_once(self, jobs, other):
        """
        Also by another producer, and twice in one call; each is told the first one's id.
        """
        first = jobs.put(b"x", dedup_id="a/b")

        again = other.queue("jobs").put(b"y", dedup_id="a/b")
        many = jobs.put_many([b"1", b"2", b"3"], dedup_ids=["c", "a/b", "c"])

        assert again == first
        assert many == [many[0], first, many[0]]
        assert drain(jobs) == [b"x", b"1"]

    @pytest.mark.parametrize("ids", [["1"], ["1", "2", "3", "4"], iter(["1", "2"]), "abc", []])
    def test_as_many_dedup_ids_as_values(self, jobs, ids):
        """
        Fewer, more, or one str: refused, and no value is left out in silence.
        """
        with pytest.raises(errors.InvalidValue, match="dedup_ids"):
            jobs.put_many([b"a", b"b", b"c"], dedup_ids=ids)

        assert jobs.empty()

    def test_json_and_text_go_through_their_codecs(self, coord, sweep):
        """
        What cannot be encoded is the caller's mistake, and nothing is put.
        """
        records = coord.queue("records", codecs.JSON)

        records.put({"to": ["ä", 1, None]})
        with pytest.raises(errors.InvalidValue):
            records.put(object())

        assert drain(records) == [{"to": ["ä", 1, None]}]


class TestTaking:
    def test_a_job_is_acked_at_the_end_of_its_block(self, jobs):
        """
        Meanwhile nobody else gets it; afterwards nothing is left.
        """
        jobs.put(b"x")

        with jobs.claim(timeout=5) as job:
            assert (job.value, job.attempt) == (b"x", 1)
            assert job.remaining() > 0
            job.check()
            assert take(jobs) == []
            assert stored(jobs) == {"items": 1, "claims": 1, "attempts": 1}

        assert stored(jobs) == {}

    def test_an_exception_gives_the_item_back(self, jobs):
        """
        It is delivered again, first in line, and says which delivery it is.
        """
        id_ = jobs.put(b"x")
        jobs.put(b"y")

        with pytest.raises(ZeroDivisionError), jobs.claim() as first:
            raise ZeroDivisionError

        again = jobs.claim(timeout=5)
        assert (again.id, again.value, again.attempt) == (id_, b"x", 2)
        assert again.fence > first.fence
        again.ack()

    def test_nothing_comes_in_time(self, jobs):
        """
        queue.Empty, as of the standard library's queue; also when it only looks.
        """
        for call in (
            lambda: jobs.get(timeout=0.05),
            lambda: jobs.claim(False),
            lambda: jobs.claim_many(3, timeout=0),
            jobs.get_nowait,
        ):
            with pytest.raises(standard.Empty):
                call()
        assert jobs.empty()

    def test_a_consumer_that_waits_is_woken_by_a_put(self, idler, other):
        """
        While it waits it asks nothing.
        """
        jobs = idler.queue("jobs")
        call = Call(jobs.get, timeout=30)
        wait_until(lambda: asleep(jobs))
        before = idler.statistics().calls

        threading.Event().wait(0.3)
        idle = idler.statistics().calls - before
        other.queue("jobs").put(b"x")

        assert call.end() == b"x"
        assert idle == 0

    def test_what_came_while_the_watch_was_opened_is_seen(self, idler, other, monkeypatch):
        """
        After the look, before the watch stood: told by nobody, and found by one more look.
        """
        jobs, theirs = idler.queue("jobs"), other.queue("jobs")
        real = Arrivals._open

        def put_first(arrivals):
            if arrivals._feed is None:
                theirs.put(b"x")
            real(arrivals)

        monkeypatch.setattr(Arrivals, "_open", put_first)

        assert Call(jobs.get, timeout=30).end() == b"x"

    def test_a_consumer_that_waits_is_woken_by_a_nack_and_not_by_an_ack(self, idler, other):
        """
        An ack takes the item with it: nobody need look.
        """
        jobs, theirs = idler.queue("jobs"), other.queue("jobs")
        theirs.put_many([b"a", b"b"])
        acked, nacked = theirs.claim_many(2)
        call = Call(jobs.claim, timeout=30)
        wait_until(lambda: asleep(jobs))
        before = idler.statistics().calls

        acked.ack()
        other.kv.get("/")
        threading.Event().wait(0.2)
        asked = idler.statistics().calls - before
        nacked.nack()

        job = call.end()
        assert asked == 0
        assert (job.value, job.attempt) == (b"b", 2)
        job.ack()

    def test_callers_of_one_process_share_claims(self, coord, jobs):
        """
        Twenty of them cost fewer transactions than twenty, and each gets another item.
        """
        jobs.put_many(str(number) for number in range(20))
        before = coord.statistics().calls

        calls = [Call(jobs.claim, timeout=15) for _ in range(20)]
        claimed = [call.end() for call in calls]

        assert coord.statistics().calls - before < 40
        assert len({job.id for job in claimed}) == 20
        assert jobs.ack_many(claimed) == []

    def test_no_more_is_claimed_than_callers_wait_for(self, jobs):
        """
        There is no hidden stock: what was not handed out stays free for others.
        """
        jobs.put_many([b"x"] * 50)

        held = [*jobs.claim_many(7), jobs.claim()]

        assert stored(jobs) == {"items": 50, "claims": 8, "attempts": 8}
        assert jobs.qsize() == 42
        assert jobs.ack_many(held) == []

    def test_many_are_as_many_as_there_are(self, jobs):
        """
        At most what was asked for, at most 100, in order.
        """
        jobs.put_many(str(number) for number in range(130))

        parts = [jobs.claim_many(count) for count in (3, 1000, 100)]

        assert [len(part) for part in parts] == [3, 100, 27]
        assert [job.value for part in parts for job in part] == [b"%d" % number for number in range(130)]

    def test_two_consumers_never_get_the_same_item(self, jobs, other):
        """
        They take turns without a word to each other.
        """
        theirs = other.queue("jobs")
        jobs.put_many(str(number) for number in range(300))
        calls = [Call(drain, each) for each in (jobs, theirs)]

        mine, yours = (call.end() for call in calls)

        assert sorted(map(int, mine + yours)) == list(range(300))
        assert stored(jobs) == {}

    def test_what_is_claimed_by_others_is_passed_over(self, jobs, other):
        """
        However much of the head that is.
        """
        theirs = other.queue("jobs")
        jobs.put_many(str(number) for number in range(400))
        held = [job for _ in range(3) for job in theirs.claim_many(100)]

        values = drain(jobs)

        assert values == [b"%d" % number for number in range(300, 400)]
        assert theirs.ack_many(held) == []


class TestEnds:
    def test_an_ack_is_verified(self, jobs):
        """
        Twice, after a nack, and a nack after an ack are told apart from a loss.
        """
        jobs.put_many([b"a", b"b"])
        first, second = jobs.claim_many(2)

        first.ack()
        second.nack()

        for call in (first.ack, first.nack, second.ack, second.nack, first.check, first.guard):
            with pytest.raises(errors.NotHeld):
                call()
        with pytest.raises(errors.NotHeld):
            jobs.ack_many([first])
        assert first.ended and not first.remaining()

    def test_an_ack_after_the_session_is_too_late(self, jobs, other, coord):
        """
        The item is another's by then, who is not disturbed.
        """
        theirs = other.queue("jobs")
        jobs.put(b"x")
        late = theirs.claim()

        expire(other.session, coord)
        mine = jobs.claim(timeout=10)

        wait_until(lambda: late.lost.is_set())
        for call in (late.ack, late.nack, late.check):
            with pytest.raises(errors.ClaimLost):
                call()
        assert theirs.ack_many([late]) == [late]
        assert mine.attempt == 2
        mine.ack()
        assert stored(jobs) == {}

    def test_an_ack_that_knows_nothing_of_the_loss_is_refused_by_etcd(self, jobs, coord, other):
        """
        The claim's create revision is compared: another's claim on the same item is not mine.
        """
        jobs.put(b"x")
        late = jobs.claim()
        coord.kv.delete(jobs._site.layout.claim(late.id))
        theirs = other.queue("jobs").claim(timeout=5)

        with pytest.raises(errors.ClaimLost) as caught:
            late.ack()

        assert late.id in str(caught.value)
        theirs.check()
        assert stored(jobs) == {"items": 1, "claims": 1, "attempts": 1}
        theirs.ack()

    def test_work_and_ack_in_one_transaction(self, coord, jobs, namespace):
        """
        Both happen, and what proved it goes with a later one.
        """
        jobs.put_many([b"1", b"2"])
        key = f"/{namespace}/queue/sum"

        for _ in range(2):
            with jobs.claim() as job:
                result = job.ack(job.txn().then(kv.put(key, job.value), kv.get(key)))
                assert result.succeeded
                assert result.found(1).first.value == job.value

        assert coord.kv.get(key).value == b"2"
        assert stored(jobs) == {"receipts": 1}

    def test_a_condition_that_fails_leaves_the_job_as_it_was(self, jobs, namespace, coord):
        """
        Nothing is written; the block gives the item back.
        """
        jobs.put(b"x")
        key = f"/{namespace}/queue/sum"

        with jobs.claim() as job:
            result = job.ack(job.txn().when(kv.create(key) > 0).then(kv.put(key, b"1")))
            assert not result.succeeded
            job.check()

        assert coord.kv.get(key) is None
        again = jobs.claim(timeout=5)
        assert again.attempt == 2
        with pytest.raises(errors.UsageError):
            again.ack(again.txn().otherwise(kv.get(key)))
        coord.kv.delete(jobs._site.layout.claim(again.id))
        with pytest.raises(errors.ClaimLost):
            again.ack(again.txn().then(kv.put(key, b"1")))
        assert coord.kv.get(key) is None

    def test_a_job_that_is_dropped_is_given_back(self, jobs):
        """
        Without ack or nack, once Python has collected it and somebody claims.
        """
        jobs.put(b"x")
        jobs.claim()

        gc.collect()

        again = jobs.claim(timeout=10)
        assert again.attempt == 2
        again.ack()

    def test_a_consumer_that_closes_gives_back_what_it_holds(self, jobs, other):
        """
        At once, for its lease is revoked.
        """
        jobs.put(b"x")
        theirs = other.queue("jobs").claim()

        other.close()

        assert jobs.claim(timeout=10).id == theirs.id
        with pytest.raises(errors.CoordError):
            theirs.ack()
