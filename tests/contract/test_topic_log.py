"""Retained topics on a real etcd: published exactly once, replayed without gap or double, trimmed aloud."""

from __future__ import annotations

import datetime
import math
import threading
from collections.abc import Iterator

import pytest
from contract.players import wait_until
from contract.test_topic import numbers, take
from interleavings import meddler as meddlers

import coordkit
from coordkit.recipes.topic import replay, trimming
from coordkit.recipes.topic.names import Header, Names, parse_header
from coordkit.testing import FaultProxy, LocalEtcd, faults

pytestmark = pytest.mark.coordkit_leaves("keys")

KEEP = math.inf


@pytest.fixture
def prefix(namespace: str) -> bytes:
    return f"/{namespace}/topic/events/".encode()


@pytest.fixture
def meddler(monkeypatch: pytest.MonkeyPatch) -> Iterator[meddlers.Meddler]:
    installed = meddlers.Meddler.installed(monkeypatch)
    yield installed
    installed.end()


@pytest.fixture
def publishes(prefix: bytes) -> meddlers.Match:
    """Calls that publish to `events`."""
    return lambda call: call.puts(prefix + b"head")


@pytest.fixture
def topic(coord: coordkit.Coordinator) -> coordkit.Topic:
    return coord.topic("events", retain=KEEP)


def everything(coord: coordkit.Coordinator) -> list[bytes]:
    """All that is in the log, as it is stored."""
    names = Names.under(f"/{coord.settings.namespace}/topic/events/".encode())
    values = []
    for found in coord.kv.range(names.log):
        place, parsed = names.parse_message(found.key), parse_header(found.value)
        if place is not None and place.after < found.mod_revision and (place.index or parsed):
            values.append(found.value if place.index else parsed[1])
    return values


class TestExactlyOnce:
    def test_a_lost_reply_is_settled(self, coord, topic, meddler, publishes):
        """
        The publish was applied: it is found, and not sent again; and its revision is told.
        """
        first = topic.publish(b"0")
        meddler.drop_reply(publishes)

        revision = topic.publish(b"1")

        assert revision > first
        assert topic.publish(b"2") > revision
        assert everything(coord) == numbers(3)
        with topic.subscribe(revision) as subscription:
            assert subscription.get(15).value == b"1"

    def test_a_lost_request_is_sent_again(self, coord, topic, meddler, publishes):
        """
        With the same head, so that only one copy can win.
        """
        topic.publish(b"0")
        meddler.lose(publishes, times=2)

        topic.publish(b"1")

        assert everything(coord) == numbers(2)

    def test_the_very_first_publish_is_settled_too(self, coord, topic, meddler, publishes):
        """
        When there is no head yet.
        """
        meddler.drop_reply(publishes)

        topic.publish(b"0")

        assert everything(coord) == numbers(1)

    def test_a_copy_that_arrives_late_does_nothing(self, coord, topic, meddler, publishes):
        """
        After the publish succeeded at another attempt, and after others have published.
        """
        topic.publish(b"0")
        held = meddler.hold_back(publishes)
        topic.publish(b"1")
        topic.publish(b"2")

        held.deliver()

        assert everything(coord) == numbers(3)

    def test_a_copy_that_is_overtaken_by_another_publisher_is_given_up_for_sure(
        self, coord, coord_factory, topic, meddler, publishes
    ):
        """
        The head has moved and the nonce is not there: it is published anew, behind the other's.
        """
        stranger = coord_factory()
        rival = stranger.topic("events", retain=KEEP)
        rival.publish(b"0")
        topic.publish(b"1")
        meddler.clients += [coord.client, stranger.client]
        held = meddler.hold_back(meddlers.both(meddlers.of(coord), publishes), gated=True)
        thread = threading.Thread(target=lambda: topic.publish(b"3"))
        thread.start()
        held.wait_until_met()
        rival.publish(b"2")

        held.gate.set()
        thread.join(15)
        held.deliver()

        assert everything(coord) == numbers(4)

    def test_both_copies_of_a_doubled_request_are_one_publish(self, coord, topic, meddler, publishes):
        """
        The caller gets the refusal of the second.
        """
        topic.publish(b"0")
        meddler.send_twice(publishes)

        topic.publish(b"1")

        assert everything(coord).count(b"0") == 1

    def test_what_can_no_longer_be_told_surfaces(self, coord, coord_factory, topic, meddler, publishes):
        """
        A trim has passed the place where the nonce would stand.
        """
        topic.publish(b"0")
        rival = coord_factory().topic("events", retain=KEEP)
        plan = meddler.drop_reply_at_gate(publishes)
        caught: list[BaseException] = []

        def publish() -> None:
            try:
                topic.publish(b"1")
            except coordkit.Unavailable as error:
                caught.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        plan.wait_until_met()
        rival.publish(b"2")
        rival.trim(1)
        plan.gate.set()
        thread.join(15)

        (error,) = caught
        assert error.outcome is coordkit.Outcome.UNKNOWN
        assert everything(coord) == [b"2"]

    def test_when_time_is_up_in_doubt_the_doubt_is_told(self, topic, meddler, publishes):
        """
        UNKNOWN if any copy was sent; NONE if none was.
        """
        topic.publish(b"0")
        meddler.lose(publishes, times=math.inf)

        with pytest.raises((coordkit.Unavailable, coordkit.DeadlineExceeded)) as caught:
            topic.publish(b"1", timeout=0.3)

        assert caught.value.outcome is coordkit.Outcome.UNKNOWN

    def test_rivals_publish_each_message_once(self, coord, coord_factory, meddler, publishes):
        """
        Three processes' worth of publishers, every seventh reply lost.
        """
        count = 0

        def seventh(call: meddlers.Call) -> bool:
            nonlocal count
            count += publishes(call)
            return publishes(call) and count % 7 == 0

        meddler.drop_reply(seventh, times=math.inf)
        topics = [coord_factory().topic("events", retain=KEEP) for _ in range(3)]

        def publish(topic: coordkit.Topic, label: bytes) -> None:
            for number in range(30):
                topic.publish(b"%s%d" % (label, number), timeout=30)

        threads = [
            threading.Thread(target=publish, args=(topic, label))
            for topic, label in zip(topics * 2, (b"a", b"b", b"c", b"d", b"e", b"f"), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        values = everything(coord)
        assert len(values) == 180
        for label in b"abcdef":
            assert [value for value in values if value[0] == label] == [
                b"%c%d" % (label, number) for number in range(30)
            ]

    def test_a_head_that_was_deleted_alone_is_told(self, coord, topic, prefix):
        """
        To publish would part the order of keys from that of revisions.
        """
        topic.publish(b"0")
        coord.kv.delete(prefix + b"head")

        with pytest.raises(coordkit.CoordError, match="deleted by another hand"):
            topic.publish(b"1")

    def test_a_topic_that_was_deleted_begins_anew(self, coord, topic, prefix):
        """
        Publishers go on; a subscriber is told, and gets what follows.
        """
        topic.publish_many(numbers(3))
        with topic.subscribe("all") as subscription:
            assert take(subscription, 3) == numbers(3)
            assert subscription.get(0.2) is None
            coord.kv.delete_prefix(prefix)

            revision = topic.publish(b"0")
            topic.publish(b"1")

            with pytest.raises(coordkit.Gap) as caught:
                subscription.get(15)
            assert caught.value.revision == revision
            assert take(subscription, 2) == numbers(2)
        assert everything(coord) == numbers(2)

    def test_no_space_is_told_for_sure(self, coord, topic, meddler, publishes):
        """
        The publish that was refused is not in the log, and the next one is.
        """
        topic.publish(b"0")

        def act() -> bytes:
            raise meddlers.grpc.CallFailed(
                meddlers.TXN,
                meddlers.grpc.Status(
                    meddlers.grpc.Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", True
                ),
            )

        meddler.answer(publishes, act)
        with pytest.raises(coordkit.QuotaExceeded):
            topic.publish(b"x")

        topic.publish(b"1")
        assert everything(coord) == numbers(2)


class TestReplay:
    def test_the_past_and_the_present_meet_without_gap_or_double(self, coord, coord_factory):
        """
        Subscribers that begin anywhere, while messages are published all the time.
        """
        topic = coord.topic("events", retain=KEEP)
        topic.publish_many(numbers(300))
        reader = coord_factory()
        seen: list[list[bytes]] = []

        def follow() -> None:
            with reader.topic("events", retain=KEEP).subscribe("all", buffer=50) as subscription:
                seen.append(take(subscription, 800))

        def publish() -> None:
            for start in range(300, 800, 5):
                topic.publish_many(numbers(5, start=start))

        threads = [threading.Thread(target=publish), *(threading.Thread(target=follow) for _ in range(6))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert seen == [numbers(800)] * 6

    def test_it_begins_at_any_revision(self, coord, topic):
        """
        That of a message, one between two, one to come.
        """
        revisions = []
        for number in range(5):
            revisions.append(topic.publish(b"%d" % number))
            for _ in range(3):
                coord.kv.put(f"/{coord.settings.namespace}/other", b"")

        for start, first in [
            (1, 0),
            (revisions[2], 2),
            (revisions[2] + 1, 3),
            (revisions[2] + 3, 3),
            (revisions[4] + 1, 5),
            (revisions[4] + 1000, 5),
        ]:
            with topic.subscribe(start) as subscription:
                assert take(subscription, 5 - first) == numbers(5 - first, start=first), start
                assert subscription.get(0.05) is None

    def test_a_compaction_costs_nothing(self, etcd_binary):
        """
        The log is made of keys: what a watch has lost is read there.
        """
        with (
            LocalEtcd(etcd_binary) as server,
            coordkit.connect(server.url) as writer,
            coordkit.connect(server.url) as reader,
        ):
            topic = writer.topic("events", retain=KEEP)
            topic.publish_many(numbers(3))
            faults.compact(writer)
            with reader.topic("events", retain=KEEP).subscribe("all") as subscription:
                assert take(subscription, 3) == numbers(3)
                for start in (3, 13, 23):
                    reader.client._dials = False
                    reader.client.drop_channel("broken by a test")
                    topic.publish_many(numbers(10, start=start))
                    faults.compact(writer)
                    reader.client._dials = True
                    assert take(subscription, 10) == numbers(10, start=start)

    def test_reconnections_bring_neither_gap_nor_double(self, etcd, namespace, coord, topic):
        """
        In pages as in events.
        """
        topic.publish_many(numbers(500))
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}") as reader,
            reader.topic("events", retain=KEEP).subscribe("all") as subscription,
        ):
            for start in range(500, 1000, 50):
                assert take(subscription, 50) == numbers(50, start=start - 500)
                proxy.reset()
                topic.publish_many(numbers(50, start=start))
            assert take(subscription, 500) == numbers(500, start=500)

    def test_an_event_that_was_lost_is_read_from_the_log(self, topic, meddler, coord):
        """
        Some old servers lose events: the chain of revisions shows it.
        """
        with topic.subscribe() as subscription:
            topic.publish(b"0")
            assert take(subscription, 1) == numbers(1)
            reader = subscription._supply.readers[0]
            tap = reader._tap
            put = tap.put
            tap.put = lambda feed, events: put(feed, events) if b"lost" not in events[0].value else None
            topic.publish_many([b"lost", b"too"])
            tap.put = put
            topic.publish(b"1")

            assert take(subscription, 3) == [b"lost", b"too", b"1"]

    def test_a_message_that_somebody_deleted_is_told(self, coord, topic, prefix):
        """
        By the revision of the next one that is left; it is not skipped in silence.
        """
        revisions = [topic.publish(value) for value in numbers(4)]
        names = Names.under(prefix)
        coord.kv.delete(names.message(revisions[0], 0))

        with topic.subscribe("all") as subscription:
            assert take(subscription, 1) == numbers(1)
            with pytest.raises(coordkit.Gap) as caught:
                subscription.get(15)
            assert caught.value.revision == revisions[2]
            assert take(subscription, 2) == numbers(2, start=2)

    def test_foreign_keys_among_ours_are_no_messages(self, coord, topic, prefix):
        """
        Whatever they look like.
        """
        names = Names.under(prefix)
        revision = topic.publish(b"0")
        header = Header(b"0" * 16, 0, 1).before(b"forged")
        with topic.subscribe("all") as subscription:
            for key, value in [
                (names.log + b"x", b""),
                (names.log + b"~", b"\xff"),
                (names.log + b"0", b""),
                (names.message(revision, 0) + b"0", b""),
                (names.message(revision - 1, 7), b"no beginning"),
                (names.message(revision + 10**6, 0), header),
                (names.message(revision + 1, 0), b"no header"),
            ]:
                coord.kv.put(key, value)
            topic.publish(b"1")

            assert take(subscription, 2) == numbers(2)
        with topic.subscribe("all") as subscription:
            assert take(subscription, 2) == numbers(2)
            assert subscription.get(0.05) is None

    def test_values_of_a_mib_are_read_a_few_at_a_time(self, coord, topic, monkeypatch):
        """
        A page has about a MiB, whatever the messages' sizes.
        """
        sizes = []
        adapt = replay.LogReader._adapt
        monkeypatch.setattr(
            replay.LogReader, "_adapt", lambda self, size: (sizes.append(size), adapt(self, size))
        )
        topic.publish_many([b"%d" % number + b"x" * 2**18 for number in range(24)])

        with topic.subscribe("all") as subscription:
            for number in range(24):
                assert subscription.get(15).raw.startswith(b"%dx" % number)

        assert all(size <= 1.1 * 2**20 for size in sizes[1:])

    @pytest.mark.parametrize("overflow", ["block", "gap"])
    def test_one_that_is_slow_reads_the_log(self, topic, overflow):
        """
        Or is told, if it wants to be.
        """
        with topic.subscribe(buffer=20, overflow=overflow) as slow, topic.subscribe() as quick:
            for start in range(0, 500, 50):
                topic.publish_many(numbers(50, start=start))
            take(quick, 500)
            assert len(slow._supply.readers[0]._tap) <= 70

            if overflow == "block":
                assert take(slow, 500) == numbers(500)
                return
            seen = len(slow._supply.readers[0]._tap)
            assert take(slow, seen) == numbers(seen)
            with pytest.raises(coordkit.Gap) as caught:
                slow.get(15)
            assert slow.get(0.05) is None
            topic.publish(b"new")
            assert take(slow, 1) == [b"new"]
            with topic.subscribe(caught.value.revision) as late:
                assert take(late, 500 - seen) == numbers(500 - seen, start=seen)

    def test_one_that_only_waits_costs_nothing(self, topic, coord_factory):
        """
        Nobody polls.
        """
        topic.publish(b"0")
        reader = coord_factory()
        with reader.topic("events", retain=KEEP).subscribe("all") as subscription:
            assert take(subscription, 1) == numbers(1)
            assert subscription.get(0.1) is None
            before = reader.statistics().calls
            assert subscription.get(0.5) is None
            assert reader.statistics().calls == before

    def test_who_polls_gets_messages_too(self, topic):
        """
        A page is read even if the caller has no time.
        """
        topic.publish_many(numbers(200))
        seen: list[bytes] = []

        with topic.subscribe("all") as subscription:

            def poll() -> bool:
                message = subscription.get(0)
                if message is not None:
                    seen.append(message.value)
                return len(seen) == 200

            wait_until(poll)
        assert seen == numbers(200)


class TestInterruptions:
    """Ctrl-C, and what gevent throws, may strike wherever we wait."""

    def test_a_publish_that_is_interrupted_is_published_once_or_never(self, coord, topic, meddler, publishes):
        """
        Its copy on the way finds the head moved; those after it are not disturbed.
        """
        topic.publish(b"0")
        held = meddler.hold_back(publishes, error=KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            topic.publish(b"never")

        topic.publish(b"1")
        held.deliver()

        assert everything(coord) == numbers(2)

    def test_a_page_that_is_interrupted_is_read_again(self, topic, meddler, prefix):
        """
        From where it was: neither gap nor double.
        """
        topic.publish_many(numbers(100))
        with topic.subscribe("all") as subscription:
            assert take(subscription, 10) == numbers(10)
            meddler.hold_back(lambda call: call.reads(prefix + b"log/"), error=KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                take(subscription, 90)

            # What was handed out before the interruption is what `take` has lost: the next page begins at 16.
            assert take(subscription, 84) == numbers(84, start=16)

    def test_a_wait_that_is_interrupted_can_be_resumed(self, topic, monkeypatch):
        """
        The next message is not lost.
        """
        with topic.subscribe() as subscription:
            with monkeypatch.context() as patch:

                def wait(rung: int, deadline: object) -> None:
                    raise KeyboardInterrupt

                patch.setattr(subscription._supply.bell, "wait", wait)
                with pytest.raises(KeyboardInterrupt):
                    subscription.get()
            topic.publish(b"0")

            assert take(subscription, 1) == numbers(1)


class TestTrim:
    @pytest.mark.parametrize("first", [2, 0], ids=["a revision", "all"])
    def test_what_is_trimmed_is_told_to_who_was_not_there_yet(self, topic, monkeypatch, first):
        """
        After the page that it had read, with the first revision that is left; then it goes on from there.
        Of "all" what was gone before it began is not missed; what goes while it reads is.
        """
        monkeypatch.setattr(replay, "FIRST_PAGE", 4)
        revisions = [topic.publish(value) for value in numbers(20)]
        with topic.subscribe(revisions[first] if first else "all") as subscription:
            assert take(subscription, 1) == numbers(1, start=first)

            topic.trim(2)

            assert take(subscription, 3) == numbers(3, start=first + 1)
            with pytest.raises(coordkit.Gap) as caught:
                subscription.get(15)
            assert caught.value.revision == revisions[17] + 1
            assert take(subscription, 2) == numbers(2, start=18)

    def test_a_start_below_the_watermark_is_a_gap(self, topic):
        """
        At it, too; above it, none.  "all" begins behind it.
        """
        revisions = [topic.publish(value) for value in numbers(6)]
        topic.trim(3)

        for start in (1, revisions[0], revisions[2]):
            with topic.subscribe(start) as subscription:
                with pytest.raises(coordkit.Gap) as caught:
                    subscription.get(15)
                assert caught.value.revision == revisions[2] + 1
                assert take(subscription, 3) == numbers(3, start=3)
        for start in (revisions[2] + 1, revisions[3], "all"):
            with topic.subscribe(start) as subscription:
                assert take(subscription, 3) == numbers(3, start=3)

    def test_a_cursor_below_the_watermark_is_a_gap(self, topic):
        """
        One that has come exactly that far is none.
        """
        topic.publish_many(numbers(3))
        topic.publish_many(numbers(3, start=3))
        for name, count in (("early", 1), ("late", 3)):
            with topic.subscribe(coordkit.Cursor(name)) as subscription:
                take(subscription, count)

        topic.trim(3)

        with topic.subscribe(coordkit.Cursor("late")) as subscription:
            assert take(subscription, 3) == numbers(3, start=3)
        with topic.subscribe(coordkit.Cursor("early")) as subscription, pytest.raises(coordkit.Gap):
            subscription.get(15)

    def test_a_cursor_within_a_transaction_goes_on_within_it(self, topic):
        """
        The rest of what was published together comes next.
        """
        topic.publish_many(numbers(30))
        for start in (0, 7, 14):
            with topic.subscribe(coordkit.Cursor("worker")) as subscription:
                assert take(subscription, 7) == numbers(7, start=start)

    def test_whole_transactions_go_and_enough_stays(self, coord, topic):
        """
        By count never fewer than what is to be kept.
        """
        for start in range(0, 50, 10):
            topic.publish_many(numbers(10, start=start))

        topic.trim(25)
        assert everything(coord) == numbers(30, start=20)
        topic.trim(25)
        assert everything(coord) == numbers(30, start=20)
        topic.trim(0)
        assert everything(coord) == []
        topic.publish(b"50")
        assert everything(coord) == numbers(1, start=50)

    def test_age_decides_by_the_publishers_clocks(self, coord, topic, monkeypatch):
        """
        What was published longer ago goes.
        """

        yesterday_ms = trimming.now_ms() - 86_400_000
        with monkeypatch.context() as patch:
            patch.setattr(trimming, "now_ms", lambda: yesterday_ms)
            topic.publish_many(numbers(150))
        topic.publish_many(numbers(10, start=150))

        topic.trim(datetime.timedelta(days=2))
        assert len(everything(coord)) == 160
        topic.trim(datetime.timedelta(hours=1))
        assert everything(coord) == numbers(10, start=150)

    def test_publishers_trim(self, coord, coord_factory):
        """
        In the background: what is kept is what was asked for, and a tenth at most.
        """
        topic = coord.topic("events", retain=100)
        for start in range(0, 1000, 10):
            topic.publish_many(numbers(10, start=start))

        wait_until(lambda: 100 <= len(everything(coord)) <= 120)
        assert everything(coord)[-1] == b"999"

    def test_rival_trims_do_not_add_up(self, coord, coord_factory, topic):
        """
        Each compares the watermark: together they delete what one would have.
        """
        topic.publish_many(numbers(3000))
        topics = [coord_factory().topic("events", retain=KEEP) for _ in range(3)]
        threads = [threading.Thread(target=each.trim, args=(1000,)) for each in topics]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert everything(coord) == numbers(1000, start=2000)

    @pytest.mark.parametrize(
        "retain", [0, -1, 1.5, True, "1h", datetime.timedelta(0), datetime.timedelta(-1)]
    )
    def test_silly_retentions_are_refused(self, coord, retain):
        """
        A float is none: seconds are a timedelta.
        """
        with pytest.raises(coordkit.InvalidValue, match="retain"):
            coord.topic("events", retain=retain)


class TestAgreement:
    def test_programs_that_use_a_topic_in_different_ways_are_told(self, coord):
        """
        They would never see each other's messages.
        """
        coord.topic("live").publish(b"x")
        coord.topic("log", retain=KEEP).publish(b"x")
        coord.topic("parts", retain=KEEP, partitions=4).publish(b"x")

        for name, arguments in [
            ("live", {"retain": KEEP}),
            ("log", {}),
            ("log", {"retain": KEEP, "partitions": 4}),
            ("parts", {"retain": KEEP}),
            ("parts", {"retain": KEEP, "partitions": 3}),
            ("parts", {}),
        ]:
            with pytest.raises(coordkit.LimitMismatch):
                coord.topic(name, **arguments).publish(b"y")
            with pytest.raises(coordkit.LimitMismatch):
                coord.topic(name, **arguments).subscribe()

    def test_a_key_has_one_partition_and_its_order(self, coord):
        """
        A subscriber sees all partitions; messages say which is theirs.
        """
        topic = coord.topic("events", retain=KEEP, partitions=4)
        for number in range(20):
            for key in ("a", "b", "c", "d", "e"):
                topic.publish(f"{key}{number}", key=key)

        with topic.subscribe(coordkit.Cursor("worker")) as subscription:
            messages = [subscription.get(15) for _ in range(50)]
        with topic.subscribe(coordkit.Cursor("worker")) as subscription:
            messages += [subscription.get(15) for _ in range(50)]

        assert len({message.partition for message in messages}) > 1
        for key in "abcde":
            own = [message for message in messages if message.value.decode()[0] == key]
            assert [message.value.decode() for message in own] == [f"{key}{number}" for number in range(20)]
            assert len({message.partition for message in own}) == 1

    @pytest.mark.parametrize("partitions", [0, -1, 1.5, None, 10**6])
    def test_silly_partitions_are_refused(self, coord, partitions):
        """
        As are those of a live topic, which has no use for them.
        """
        with pytest.raises(coordkit.InvalidValue):
            coord.topic("events", retain=KEEP, partitions=partitions)
        with pytest.raises(coordkit.InvalidValue):
            coord.topic("events", partitions=2)
