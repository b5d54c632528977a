"""Delays, retries, dead letters, bounds, and what strangers and full disks do to a queue."""

from __future__ import annotations

import datetime
import queue as standard
import threading

import pytest
from contract.players import Call, expire, wait_until
from contract.queueing import drain, stored, take

from coordkit import codecs, errors
from coordkit.recipes.queue import producer, upkeep
from coordkit.recipes.queue.delivery import Desk


@pytest.fixture
def sweep(coord, namespace):
    """What a test has put and not taken goes with it."""
    yield
    coord.kv.delete_prefix(f"/{namespace}/queue/")


@pytest.fixture
def jobs(coord, sweep):
    return coord.queue("jobs", max_deliveries=2)


@pytest.fixture
def other(coord_factory, sweep):
    return coord_factory(ttl=2)


class TestDelays:
    def test_a_delayed_item_comes_when_it_is_due(self, coord, jobs):
        """
        A waiting consumer is there in time, and others are not held up.
        """
        id_ = jobs.put(b"later", delay=0.4)
        jobs.put(b"now")
        assert (jobs.qsize(), stored(jobs)) == (1, {"delayed": 1, "items": 1})

        assert jobs.get(timeout=5) == b"now"
        job = jobs.claim(timeout=10)

        assert (job.id, job.value, job.attempt) == (id_, b"later", 1)
        job.ack()
        assert stored(jobs) == {}

    def test_an_earlier_one_that_comes_later_wakes_who_waits(self, jobs, other):
        """
        The wait is for the earliest, whenever that was put.
        """
        jobs.put(b"much later", delay=3600)
        call = Call(jobs.claim, timeout=20)
        wait_until(lambda: jobs._site.arrivals.since is not None)

        other.queue("jobs").put(b"soon", delay=0.2)

        with call.end() as job:
            assert job.value == b"soon"
        assert jobs.purge() == 1

    def test_a_nack_with_a_delay_keeps_id_and_count(self, jobs):
        """
        Meanwhile it is neither free nor claimed.
        """
        id_ = jobs.put(b"x")
        jobs.claim().nack(delay=0.3)
        assert stored(jobs) == {"attempts": 1, "delayed": 1}

        job = jobs.claim(timeout=10)

        assert (job.id, job.value, job.attempt) == (id_, b"x", 2)
        job.ack()

    def test_many_that_are_due_are_moved_together_and_once(self, jobs, other, monkeypatch):
        """
        By two consumers at the same time; more than one transaction takes.
        """
        jobs.put_many(map(str, range(70)), delay=3600)
        later = upkeep.now_ms() + 3600 * 1000 + 60_000
        monkeypatch.setattr(upkeep, "now_ms", lambda: later)

        calls = [Call(drain, each) for each in (jobs, other.queue("jobs"))]

        assert sorted(int(value) for call in calls for value in call.end()) == list(range(70))
        assert stored(jobs) == {}

    def test_one_that_another_has_moved_and_worked_off_does_not_come_again(self, jobs, other, monkeypatch):
        """
        A consumer that was slow between its look and its move finds that it is done.
        """
        theirs = other.queue("jobs")
        jobs.put(b"x", delay=0.05)
        real = upkeep._move
        values = []

        def move(*arguments):
            monkeypatch.setattr(upkeep, "_move", real)
            values.append(theirs.get(timeout=10))
            return real(*arguments)

        monkeypatch.setattr(upkeep, "_move", move)

        call = Call(jobs.get, timeout=30)
        wait_until(lambda: values == [b"x"])
        jobs.put(b"behind it")

        assert call.end() == b"behind it"
        assert stored(jobs) == {}


class TestRetries:
    def test_an_item_that_is_given_back_too_often_is_a_dead_letter(self, jobs):
        """
        It says why, when and after how many deliveries; its count is gone.
        """
        id_ = jobs.put(b"x")
        for _ in range(2):
            jobs.claim(timeout=5).nack()

        assert take(jobs) == []
        (letter,) = jobs.dead_letters
        assert (letter.id, letter.stored, letter.deliveries) == (id_, b"x", 2)
        assert "delivery 2 of 2" in letter.why
        assert abs(letter.since - datetime.datetime.now(datetime.timezone.utc)) < datetime.timedelta(hours=1)
        assert stored(jobs) == {"dead": 1}

    def test_an_item_whose_consumers_die_is_a_dead_letter(self, jobs, coord_factory, coord):
        """
        The next one who claims it buries it, and gets what comes behind it.
        """
        jobs.put_many([b"poison", b"good"])
        for _ in range(2):
            victim = coord_factory(ttl=2)
            assert victim.queue("jobs", max_deliveries=2).claim(timeout=5).value == b"poison"
            expire(victim.session, coord)

        assert jobs.get(timeout=10) == b"good"

        (letter,) = jobs.dead_letters
        assert letter.stored == b"poison" and "died" in letter.why
        assert letter.deliveries == 2 and "delivered 2 times" in letter.why

    def test_from_its_second_delivery_on_an_item_comes_alone(self, coord, sweep):
        """
        So one that kills its consumers takes no others with it.
        """
        jobs = coord.queue("jobs", max_deliveries=3)
        jobs.put_many(["a", "b", "c", "d"])
        first = jobs.claim_many(3)
        first[1].nack()
        alone = [take(jobs)]

        first[0].nack()
        first[2].nack()
        alone += [take(jobs) for _ in range(3)]

        assert [[job.value for job in each] for each in alone] == [[b"b"], [b"a"], [b"c"], [b"d"]]

    def test_two_with_their_last_chance_are_not_out_together(self, jobs):
        """
        Else they could send each other to the dead letters.
        """
        jobs.put_many([b"a", b"b"])
        for job in jobs.claim_many(2):
            job.nack()

        last = jobs.claim(timeout=5)
        assert last.value == b"a" and take(jobs) == []
        last.ack()

        assert jobs.get(timeout=5) == b"b"

    def test_dead_letters_are_put_back_or_dropped(self, jobs):
        """
        With their ids, as if they had never been delivered.
        """
        ids = jobs.put_many([b"a", b"b", b"c"])
        for job in jobs.claim_many(3):
            job.bury("because")
        letters = jobs.dead_letters
        assert len(letters) == 3

        assert letters.requeue(ids[1])
        assert letters.drop(ids[0])

        assert not letters.requeue(ids[0]) and not letters.drop(ids[0])
        assert jobs.dead_letters.get(ids[2]).why == "because"
        job = jobs.claim(timeout=5)
        assert (job.id, job.value, job.attempt) == (ids[1], b"b", 1)
        job.ack()
        assert letters.requeue_all() == 1
        jobs.claim(timeout=5).bury("again")
        assert letters.drop_all() == 1
        assert stored(jobs) == {}
        with pytest.raises(errors.InvalidName):
            letters.drop("../items")

    def test_a_consumer_that_is_stuck_loses_its_claim(self, coord, sweep, other):
        """
        After ack_wait, although its session lives; it is told, and its ack is too late.
        """
        jobs = coord.queue("jobs", ack_wait=0.3)
        jobs.put(b"x")
        stuck = jobs.claim()

        job = other.queue("jobs").claim(timeout=10)

        assert stuck.lost.is_set()
        with pytest.raises(errors.ClaimLost):
            stuck.ack()
        assert job.attempt == 2
        job.ack()

    def test_the_claim_of_a_process_that_is_stuck_is_ended_by_others(self, coord, sweep, other, monkeypatch):
        """
        By a consumer that has seen it for longer than ack_wait.
        """
        jobs = coord.queue("jobs", ack_wait=0.2)
        jobs.put(b"x")
        monkeypatch.setattr(Desk, "_expire_due", lambda desk: None)
        stuck = jobs.claim()
        monkeypatch.setattr(upkeep, "GRACE_S", 0.1)

        job = other.queue("jobs", ack_wait=0.2).claim(timeout=10)

        assert job.attempt == 2
        with pytest.raises(errors.ClaimLost):
            stuck.ack()
        job.ack()


class TestBounds:
    def test_a_full_queue_refuses_or_waits(self, coord, sweep):
        """
        queue.Full at once, or in time; a put that waits goes on when an item goes.
        """
        jobs = coord.queue("jobs", max_length=3)
        jobs.put_many(["a", "b", "c"])

        with pytest.raises(standard.Full) as caught:
            jobs.put_nowait("d")
        assert isinstance(caught.value, errors.QueueFull)
        with pytest.raises(standard.Full):
            jobs.put("d", timeout=0.05)
        assert jobs.full()
        call = Call(jobs.put, "d")
        wait_until(lambda: jobs._site.arrivals.since is not None)
        assert call.waiting

        assert jobs.get() == b"a"

        call.end()
        assert drain(jobs) == [b"b", b"c", b"d"]
        assert not jobs.full() and not coord.queue("free").full()

    def test_a_million_items_do_not_fit(self, coord, sweep):
        """
        What had been put is told; memory stays small, for items are read as they are put.
        """
        jobs = coord.queue("jobs", max_length=250)
        read = []

        with pytest.raises(errors.QueueFull) as caught:
            jobs.put_many((read.append(number) or str(number) for number in range(10**6)), timeout=0.2)

        assert any("200 items" in note for note in caught.value.__notes__)
        assert jobs.qsize() == 200 and len(read) < 400

    def test_bytes_are_bounded_as_far_as_they_can_be_estimated(self, coord, sweep):
        """
        One that is larger than the whole queue fits into an empty one.
        """
        jobs = coord.queue("jobs", max_bytes=1000)

        jobs.put(b"x" * 2000)
        with pytest.raises(errors.QueueFull):
            jobs.put_nowait(b"x")

        assert len(jobs.get()) == 2000


class TestLooking:
    def test_peek_shows_and_claims_nothing(self, jobs):
        """
        In order, as stored.
        """
        ids = jobs.put_many(["a", "b", "c"])

        assert [(each.id, each.stored) for each in jobs.peek(2)] == [(ids[0], b"a"), (ids[1], b"b")]
        assert jobs.qsize() == 3

    @pytest.mark.parametrize("count", [3, 90])
    def test_a_purge_spares_what_is_claimed(self, jobs, count):
        """
        Unless it is told not to; then the ack is too late.
        """
        jobs.put_many(map(str, range(count)))
        jobs.put(b"later", delay=60)
        held = jobs.claim_many(2)
        held[1].nack()

        assert jobs.purge() == count
        assert stored(jobs) == {"items": 1, "claims": 1, "attempts": 1}
        assert jobs.purge(claimed=True) == 1

        assert stored(jobs) == {}
        with pytest.raises(errors.ClaimLost):
            held[0].ack()
        assert jobs.purge() == 0


class TestBadInput:
    @pytest.mark.parametrize(
        "options",
        [
            {"priority": -1},
            {"priority": 1000},
            {"priority": 1.5},
            {"priority": True},
            {"delay": -1},
            {"delay": float("nan")},
            {"delay": float("inf")},
            {"delay": "1"},
            {"dedup_id": ""},
            {"dedup_id": 7},
            {"timeout": -2},
        ],
    )
    def test_numbers_and_names_that_make_no_sense_are_refused(self, jobs, options):
        """
        Before anything is sent.
        """
        with pytest.raises(errors.UsageError):
            jobs.put(b"x", **options)
        assert jobs.empty()

    def test_settings_that_make_no_sense_are_refused(self, coord, jobs):
        """
        When the queue is made, or a method is called.
        """
        for settings in (
            {"max_deliveries": 0},
            {"ack_wait": 0},
            {"max_length": -1},
            {"max_bytes": 1.5},
            {"dedup_window": float("nan")},
            {"codec": bytes},
        ):
            with pytest.raises(errors.InvalidValue):
                coord.queue("jobs", **settings)
        for call in (
            lambda: coord.queue(""),
            lambda: jobs.put(7),
            lambda: jobs.claim_many(0),
            lambda: jobs.claim(timeout=-3),
            lambda: jobs.peek(0),
            lambda: jobs.consume(print, workers=0),
            lambda: jobs.consume(print, retry_delay=-1),
            lambda: jobs.consume(None),
            lambda: jobs.ack_many([7]),
            lambda: coord.queue("jobs", codec="json"),
        ):
            with pytest.raises(errors.UsageError):
                call()

    def test_an_item_that_is_too_large_fails_alone(self, jobs):
        """
        The largest one passes, also through the dead letters; with 2 MiB nothing is sent.
        """
        largest = b"x" * producer.LARGEST_VALUE_BYTES
        calls = [Call(jobs.put, value) for value in (b"a", largest, b"x" * 2**21, b"b")]

        calls[0].end()
        calls[1].end()
        calls[3].end()
        with pytest.raises(errors.TooLarge):
            calls[2].end()

        assert sorted(map(len, drain(jobs))) == [1, 1, len(largest)]
        jobs.put(largest, delay=0.01)
        jobs.claim(timeout=10).bury("large")
        assert jobs.dead_letters.requeue(next(iter(jobs.dead_letters)).id)
        assert jobs.get(timeout=10) == largest

    def test_malformed_json_goes_to_the_dead_letters(self, coord, sweep):
        """
        The consumer goes on with the next one.
        """
        coord.queue("jobs").put_many([b"[1", b"\xff\xfe", b"[" * 100_000])
        jobs = coord.queue("jobs", codecs.JSON)
        jobs.put({"good": 1})

        assert jobs.get(timeout=5) == {"good": 1}
        assert [letter.stored[:2] for letter in jobs.dead_letters] == [b"[1", b"\xff\xfe", b"[["]
        assert all("not decodable" in letter.why for letter in jobs.dead_letters)

    def test_foreign_keys_among_ours_disturb_nobody(self, coord, jobs, namespace):
        """
        Whatever they are called: items pass by them, and they stay.
        """
        prefix = f"/{namespace}/queue/jobs/"
        strange = [
            "items/000/zzz", "items/0", "items/", "items/000/0000-a-1", "claims/x", "claims/",
            "attempts/\xff", "dead/x", "delayed/x/y", "delayed/0000000000000001/x", "dedup/x", "strange",
        ]  # fmt: skip
        strange += [f"items/000/!{number}" for number in range(100)]
        for name in strange:
            coord.kv.put(prefix + name, b"\xff")
        coord.kv.put(f"{prefix}dead/000-0000000000000001-me-00000001", b"\xff{")
        jobs.put_many([b"a", b"b"])

        assert jobs.get(timeout=5) == b"a"
        jobs.claim(timeout=5).nack(delay=0.05)
        job = jobs.claim(timeout=5)
        job.ack()

        assert (job.value, job.attempt) == (b"b", 2)
        assert [letter.why for letter in jobs.dead_letters] == ["unknown: this was not written by coordkit"]
        assert len(coord.kv.range(prefix)) == len(strange) + 1

    def test_a_handle_cannot_be_pickled(self, jobs):
        """
        Nor a job: they own a connection.
        """
        import pickle

        jobs.put(b"x")
        with jobs.claim() as job:
            for each in (jobs, job):
                with pytest.raises(errors.UsageError):
                    pickle.dumps(each)


class TestWorkers:
    def test_jobs_are_worked_off_and_poison_is_buried(self, coord, sweep):
        """
        With the exception's type and message; the others are acked.
        """
        jobs = coord.queue("jobs", max_deliveries=2)
        jobs.put_many(map(str, range(40)))
        jobs.put(b"poison")
        seen = []

        def work(job):
            seen.append(job.value)
            if job.value == b"poison":
                raise ValueError("bad bits")

        with jobs.consume(work, workers=4) as crew:
            wait_until(lambda: len(jobs.dead_letters) == 1 and jobs.empty())

        assert sorted(set(seen)) == sorted([*(b"%d" % number for number in range(40)), b"poison"])
        assert (crew.done, crew.failed, seen.count(b"poison")) == (40, 2, 2)
        (letter,) = jobs.dead_letters
        assert letter.why == "ValueError: bad bits"
        assert stored(jobs) == {"dead": 1}

    def test_what_is_no_exception_ends_the_job_and_not_the_worker(self, coord, sweep):
        """
        SystemExit, KeyboardInterrupt, gevent's Timeout: the job has failed, and the crew works on.
        """
        jobs = coord.queue("jobs", max_deliveries=2)
        jobs.put_many([b"exit", b"interrupt", b"good"])

        def work(job):
            if job.value == b"exit":
                raise SystemExit("enough")
            if job.value == b"interrupt":
                raise KeyboardInterrupt

        with jobs.consume(work, workers=1) as crew:
            wait_until(lambda: jobs.empty() and len(jobs.dead_letters) == 2)

        assert (crew.done, crew.failed) == (1, 4)
        whys = sorted(letter.why for letter in jobs.dead_letters)
        assert whys == ["KeyboardInterrupt: ", "SystemExit: enough"]

    def test_a_stop_finishes_what_is_claimed(self, jobs):
        """
        And claims nothing more.
        """
        begun, go_on = threading.Event(), threading.Event()

        def work(job):
            begun.set()
            assert go_on.wait(15)

        crew = jobs.consume(work, workers=2)
        jobs.put(b"x")
        assert begun.wait(15)

        crew.stop()
        jobs.put(b"y")
        assert not crew.wait(0.05)
        go_on.set()

        assert crew.wait(15)
        assert crew.done == 1
        assert jobs.get(timeout=5) == b"y"

    def test_sigterm_finishes_what_is_claimed(self, jobs, child, etcd, namespace):
        """
        The process ends in order, with status 0.
        """
        worker = child(
            """
            import sys, coordkit
            with coordkit.connect(sys.argv[1]) as coord:
                def work(job):
                    print("begun", flush=True)
                    sys.stdin.readline()
                coord.queue("jobs").consume(work, workers=1).run()
            print("ended")
            """,
            f"etcd://{etcd.endpoint}/{namespace}",
        )
        jobs.put_many([b"x", b"y"])
        assert worker.stdout.readline() == "begun\n"

        worker.terminate()
        wait_until(lambda: stored(jobs).get("claims") == 1)
        worker.stdin.write("\n")
        worker.stdin.flush()

        assert worker.stdout.readline() == "ended\n"
        assert worker.wait(15) == 0
        assert drain(jobs) == [b"y"]

    def test_a_worker_whose_session_is_lost_goes_on_with_the_next(self, coord, other, sweep):
        """
        What it had is delivered again.
        """
        jobs = other.queue("jobs")
        jobs.put(b"x")
        attempts = []

        def work(job):
            attempts.append(job.attempt)
            if job.attempt == 1:
                expire(other.session, coord)
                assert job.lost.wait(15)

        with jobs.consume(work, workers=1):
            wait_until(lambda: attempts == [1, 2] and jobs.empty())
        assert stored(jobs) == {}
