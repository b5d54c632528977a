"""A queue whose replies are lost, whose callers are interrupted, whose server is full."""

from __future__ import annotations

import contextlib
import itertools
import queue as standard
import random
import threading

import pytest
from contract.players import Call, wait_until
from contract.queueing import drain, stored, take
from interleavings import meddler as meddlers

import coordkit
from coordkit import errors, kv
from coordkit.recipes.queue.delivery import Desk
from coordkit.recipes.queue.fetcher import Fetcher
from coordkit.testing import FaultProxy, LocalEtcd


@pytest.fixture
def jobs(coord, namespace):
    """An undisturbed view of the queue."""
    yield coord.queue("jobs")
    coord.kv.delete_prefix(f"/{namespace}/queue/")


@pytest.fixture
def unlucky(etcd, namespace):
    """A proxy, and a coordinator behind it."""
    with (
        FaultProxy(etcd.endpoint) as proxy,
        coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}", timeout=5) as behind,
    ):
        yield proxy, behind
        with contextlib.suppress(errors.CoordError):
            proxy.heal()


def deafened(unlucky, call, happened):
    """The outcome of a call whose first reply is lost, and what was asked for has happened."""
    proxy, _ = unlucky
    proxy.drop_reply_after_commit()
    running = Call(call)
    wait_until(happened)
    proxy.reset()
    return running.end()


class TestLateItems:
    def test_an_item_that_comes_late_is_found_in_front_of_what_was_seen(
        self, coord, coord_factory, jobs, namespace, monkeypatch
    ):
        """
        Its stamp is older than that of the item that is out: nobody looks only behind what it has seen.
        """
        meddler = meddlers.Meddler.installed(monkeypatch)
        put = meddler.hold_back(lambda call: call.puts(f"/{namespace}/queue/jobs/items/".encode()))
        with pytest.raises(errors.Unavailable):
            coord_factory().queue("jobs").put(b"late")
        coord.kv.put(f"/{namespace}/queue/newer", b"")
        jobs.put(b"seen")
        seen = jobs.claim(timeout=10)
        put.deliver()

        late = jobs.claim(timeout=10)

        assert (seen.value, late.value) == (b"seen", b"late")
        assert late.id < seen.id
        meddler.end()


class TestLostReplies:
    def test_a_put_says_that_nobody_knows(self, jobs, unlucky):
        """
        It is not repeated: it may be there, and is there once.
        """
        theirs = unlucky[1].queue("jobs")
        theirs.put(b"warm")

        with pytest.raises(errors.Unavailable) as caught:
            deafened(unlucky, lambda: theirs.put(b"x"), lambda: jobs.qsize() == 2)

        assert caught.value.outcome is errors.Outcome.UNKNOWN
        assert drain(jobs) == [b"warm", b"x"]

    def test_a_put_with_a_dedup_id_is_repeated_and_is_there_once(self, jobs, unlucky):
        """
        The answer is the id of the first copy, which is there.
        """
        theirs = unlucky[1].queue("jobs")
        theirs.put(b"warm", dedup_id="warm")

        id_ = deafened(unlucky, lambda: theirs.put(b"x", dedup_id="x"), lambda: jobs.qsize() == 2)

        assert [each.id for each in jobs.peek(9)][1] == id_
        assert drain(jobs) == [b"warm", b"x"]

    def test_claims_are_found_again(self, jobs, unlucky):
        """
        By their nonce, each with its value and its count; no other copy can come.
        """
        theirs = unlucky[1].queue("jobs")
        assert theirs.empty() and unlucky[1].session.alive
        call = Call(theirs.claim_many, 10, timeout=20)
        wait_until(lambda: theirs._site.arrivals.since is not None)
        proxy, _ = unlucky

        # The put wakes it; its look is answered, its claim is not.
        real = kv.nested
        claimed = threading.Event()

        def nested(*arguments):
            if not claimed.is_set():
                claimed.set()
                proxy.drop_reply_after_commit()
            return real(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kv, "nested", nested)
            jobs.put_many([b"a", b"b"])
            wait_until(lambda: stored(jobs).get("claims") == 2)
            proxy.reset()
            taken = call.end()

        assert [(job.value, job.attempt) for job in taken] == [(b"a", 1), (b"b", 1)]
        assert theirs.ack_many(taken) == []
        assert stored(jobs) == {}

    def test_an_ack_is_known_to_be_one(self, jobs, unlucky):
        """
        The item is gone and the session lives: it was our own first attempt.
        """
        theirs = unlucky[1].queue("jobs")
        jobs.put(b"x")
        job = theirs.claim(timeout=5)

        deafened(unlucky, job.ack, lambda: stored(jobs) == {})

        assert job.ended

    def test_an_ack_whose_session_ends_before_the_answer_may_have_been_one(self, jobs, unlucky, namespace):
        """
        The claim is lost, and the outcome unknown.
        """
        proxy, _ = unlucky
        with coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}", ttl=2) as mortal:
            jobs.put(b"x")
            job = mortal.queue("jobs").claim(timeout=5)

            proxy.drop_reply_after_commit()
            call = Call(job.ack)
            wait_until(lambda: stored(jobs) == {})
            proxy.refuse()
            proxy.reset()

            with pytest.raises(errors.ClaimLost) as caught:
                call.end()
            proxy.heal()
        assert caught.value.outcome is errors.Outcome.UNKNOWN

    def test_a_nack_too(self, jobs, unlucky):
        """
        The claim is gone, and the item is there.
        """
        theirs = unlucky[1].queue("jobs")
        jobs.put(b"x")
        job = theirs.claim(timeout=5)

        deafened(unlucky, job.nack, lambda: "claims" not in stored(jobs))

        assert jobs.claim(timeout=5).attempt == 2

    def test_work_and_ack_are_proven_by_their_receipt(self, coord, jobs, unlucky, namespace):
        """
        Applied once, and said so, although nobody has its results.
        """
        key = f"/{namespace}/queue/done"
        theirs = unlucky[1].queue("jobs")
        jobs.put(b"x")
        job = theirs.claim(timeout=5)

        result = deafened(
            unlucky,
            lambda: job.ack(job.txn().then(kv.put(key, b"1"))),
            lambda: coord.kv.get(key) is not None,
        )

        assert result is None and job.ended
        assert coord.kv.get(key).version == 1
        assert "items" not in stored(jobs)

    def test_a_claim_that_comes_too_late_is_given_back(self, coord, jobs):
        """
        One of ours that no job stands for: whoever looks next returns it.
        """
        jobs.put(b"x")
        (item,) = jobs.peek()
        coord.kv.put(jobs._site.layout.claim(item.id), b"late", lease=coord.session.lease_id)

        job = jobs.claim(timeout=10)

        assert job.value == b"x"
        job.ack()


class TestInterruptions:
    def test_a_caller_that_gives_up_leaves_nothing_claimed(self, jobs, coord_factory):
        """
        However its time ends: nothing it had asked for stays out.
        """
        theirs = coord_factory().queue("jobs")
        calls = [Call(lambda: theirs.claim(timeout=0.02)) for _ in range(10)]
        jobs.put_many(map(str, range(10)))
        taken = []
        for call in calls:
            with contextlib.suppress(Exception):
                taken.append(call.end())

        assert theirs.ack_many(taken) == []

        wait_until(lambda: "claims" not in stored(jobs))
        assert len(drain(jobs)) == 10 - len(taken)

    def test_nothing_is_lost_by_a_crowd_that_has_no_time(self, jobs, unlucky, monkeypatch):
        """
        Claims that come when their callers have left go back at once: no session ends here.
        """
        proxy, coord = unlucky
        theirs = coord.queue("jobs")
        undone, seen = [], []
        real = Desk.undo
        monkeypatch.setattr(Desk, "undo", lambda desk, *left: (undone.extend(left), real(desk, *left))[1])

        def hurry():
            with contextlib.suppress(standard.Empty, errors.Unavailable, errors.DeadlineExceeded):
                taken = theirs.claim_many(random.choice((1, 10)), timeout=random.uniform(0, 0.06))
                seen.extend(job.value for job in taken)
                assert theirs.ack_many(taken) == []

        numbers = itertools.count()
        proxy.delay(0.01)
        rushes = 0
        while rushes < 20 or not undone:  # mostly what one leaves goes to another who waits
            jobs.put_many([str(next(numbers)) for _ in range(50)])
            for call in [Call(hurry) for _ in range(16)]:
                call.end(30)
            rushes += 1

        assert coord.session.alive
        wait_until(lambda: theirs._site.fetcher._thread is None)  # nothing more is on its way
        wait_until(lambda: "claims" not in stored(jobs))
        assert stored(jobs).get("attempts", 0) == 0  # what nobody was handed is not counted
        seen.extend(drain(jobs))
        assert sorted(seen, key=int) == [b"%d" % number for number in range(rushes * 50)]

    def test_who_gives_an_item_back_does_not_forget_its_next_claim(self, jobs, monkeypatch):
        """
        It may be claimed again before the first call returns: a look around must not take it for an orphan.
        """
        jobs.put(b"x")
        first = jobs.claim(timeout=10)
        again = threading.Event()
        real = Desk.forget

        def forget(desk, delivery):
            if delivery is first._delivery:
                assert again.wait(10)
            real(desk, delivery)

        monkeypatch.setattr(Desk, "forget", forget)
        call = Call(first.nack)
        second = jobs.claim(timeout=10)
        again.set()
        call.end()

        assert take(jobs) == []  # it looks around
        second.ack()

    def test_a_struck_caller_gives_back_what_it_was_handed(self, jobs, monkeypatch):
        """
        Ctrl-C, gevent.Timeout or kill, between the fetcher's answer and the caller's return.
        """

        class Struck(BaseException):
            pass

        jobs.put(b"x")
        real = Fetcher._leave
        strikes = iter([Struck()])

        def leave(fetcher, request):
            real(fetcher, request)
            for strike in strikes:
                raise strike

        monkeypatch.setattr(Fetcher, "_leave", leave)
        with pytest.raises(Struck):
            jobs.claim(timeout=5)

        job = jobs.claim(timeout=10)
        assert (job.value, job.attempt) == (b"x", 1)
        job.ack()

    def test_an_ack_that_was_struck_can_be_repeated(self, jobs, monkeypatch):
        """
        It may have been applied: then the second one is told so.
        """

        class Struck(BaseException):
            pass

        jobs.put(b"x")
        job = jobs.claim(timeout=5)
        client = jobs._site.link.client
        real = client.txn

        def txn(*arguments):
            real(*arguments)
            raise Struck

        monkeypatch.setattr(client, "txn", txn)
        with pytest.raises(Struck):
            job.ack()
        monkeypatch.undo()

        assert stored(jobs) == {}
        job.ack()
        assert job.ended


@pytest.fixture(scope="module")
def small(etcd_binary):
    with LocalEtcd(etcd_binary, arguments=["--quota-backend-bytes=6000000"]) as server:
        yield server


class TestOutOfSpace:
    def test_a_queue_can_be_purged(self, small):
        """
        With all that is claimed; without, where the server takes transactions that only delete.
        """
        with coordkit.connect(small.url) as coord:
            jobs = coord.queue("full")
            jobs.put_many([b"a", b"b", b"c"])
            jobs.put(b"later", delay=60)
            job = jobs.claim()
            coord.etcd.create_alarm()
            try:
                free = jobs.purge()
            except errors.QuotaExceeded as error:
                assert "claimed=True" in error.__notes__[0]
                free = 0
            assert free + jobs.purge(claimed=True) == 4
            assert stored(jobs) == {}
            with pytest.raises(errors.ClaimLost):
                job.ack()
            coord.etcd.disarm_alarm()

    def test_an_ack_passes_and_a_put_says_why_not(self, small):
        """
        With an alarm, and with a quota that is used up.
        """
        with coordkit.connect(small.url) as coord:
            jobs = coord.queue("jobs")
            jobs.put_many([b"a", b"b", b"c", b"d"])
            first, second, *others = jobs.claim_many(4)

            coord.etcd.create_alarm()
            with pytest.raises(errors.QuotaExceeded, match="space"):
                jobs.put(b"x")
            with pytest.raises(errors.QuotaExceeded):
                jobs.put(b"x", dedup_id="x")
            with pytest.raises(errors.QuotaExceeded):
                first.ack(first.txn().then(kv.put("/work", b"1")))
            first.ack()
            coord.etcd.disarm_alarm()

            def fill() -> None:
                for number in range(100):
                    coord.kv.put(f"/fill/{number}", b"x" * 500_000)

            with pytest.raises(errors.QuotaExceeded):
                fill()
            with pytest.raises(errors.QuotaExceeded):
                jobs.put(b"x")
            second.ack()
            assert jobs.ack_many(others) == []

            left = stored(jobs)
            coord.kv.delete_prefix("/fill/")
        assert left.get("claims") is None and left.get("attempts") is None
        assert left.get("items", 0) <= 2  # a put that etcd refuses may have been applied all the same
