"""Live topics on a real etcd: every subscriber sees each message once and in order, or is told of a gap."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from contract.players import wait_until

import coordkit
from coordkit import codecs, errors, intake
from coordkit.testing import FaultProxy, LocalEtcd, faults

pytestmark = pytest.mark.coordkit_leaves("keys")


@pytest.fixture(scope="module")
def server(etcd_binary: str) -> Iterator[LocalEtcd]:
    """A server whose history may be compacted."""
    with LocalEtcd(etcd_binary) as server:
        yield server


@pytest.fixture
def writer(server: LocalEtcd, namespace: str) -> Iterator[coordkit.Coordinator]:
    """Writes on a connection that nobody breaks."""
    with coordkit.connect(server.url, namespace=namespace) as coordinator:
        yield coordinator


@pytest.fixture
def reader(server: LocalEtcd, namespace: str) -> Iterator[coordkit.Coordinator]:
    with coordkit.connect(server.url, namespace=namespace) as coordinator:
        yield coordinator


def take(subscription: coordkit.Subscription, count: int) -> list[bytes]:
    """The values of the next messages."""
    values = []
    for _ in range(count):
        message = subscription.get(15)
        assert message is not None, f"only {len(values)} of {count} came"
        values.append(message.value)
    return values


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


class TestPublish:
    def test_every_subscriber_sees_every_message_in_order(self, coord_factory):
        """
        In this process and in others, with the publish's revision and the place in its transaction.
        """
        publisher, stranger = coord_factory(), coord_factory()
        topic = publisher.topic("events")
        subscriptions = [each.topic("events").subscribe() for each in (publisher, stranger, stranger)]

        first = topic.publish("hello")
        last = topic.publish_many(numbers(250))

        for subscription in subscriptions:
            with subscription:
                messages = [subscription.get(15) for _ in range(251)]
                assert [message.value for message in messages] == [b"hello", *numbers(250)]
                assert (messages[0].revision, messages[-1].revision) == (first, last)
                places = [(message.revision, message.index) for message in messages]
                assert places == sorted(set(places))
                assert subscription.get(0) is None

    def test_100_messages_are_one_transaction(self, coord):
        """
        A topic has at most 100 slots, however much is published.
        """
        topic = coord.topic("events")
        before = coord.topic("other").publish(b"x")

        last = topic.publish_many(numbers(1000))

        assert last == before + 10
        assert len(coord.kv.range(f"/{coord.settings.namespace}/topic/events/")) == 100
        assert topic.publish_many([]) == 0

    def test_concurrent_publishes_share_transactions(self, coord):
        """
        Each has its own result, none is lost, and those of one thread stay in order.
        """
        topic = coord.topic("events")
        revisions: list[int] = []

        def publish(label: bytes) -> None:
            revisions.extend([topic.publish(b"%s%d" % (label, number)) for number in range(50)])

        with topic.subscribe() as subscription:
            threads = [threading.Thread(target=publish, args=(bytes([letter]),)) for letter in b"abcdefgh"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            values = take(subscription, 400)

        for letter in b"abcdefgh":
            own = [value for value in values if value[0] == letter]
            assert own == [b"%c%d" % (letter, number) for number in range(50)]
        assert len(revisions) == 400
        assert len(set(revisions)) < 300

    @pytest.mark.parametrize("retain", [None, 1000])
    def test_a_value_that_is_too_large_fails_alone(self, coord, retain):
        """
        2 MiB are more than etcd takes; its neighbours in time are published.
        """
        topic = coord.topic("events", retain=retain)
        results: list[object] = []

        def publish(value: bytes) -> None:
            try:
                results.append(topic.publish(value))
            except errors.CoordError as error:
                results.append(error)

        with topic.subscribe() as subscription:
            values = [b"%d" % number if number != 4 else b"x" * 2**21 for number in range(9)]
            threads = [threading.Thread(target=publish, args=(value,)) for value in values]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seen = take(subscription, 8)

        (refusal,) = [each for each in results if not isinstance(each, int)]
        assert isinstance(refusal, coordkit.TooLarge)
        assert "xxx" not in str(refusal)
        assert sorted(seen) == sorted(numbers(4) + numbers(4, start=5))

    def test_a_value_of_a_wrong_type_is_refused_before_anything_is_sent(self, coord):
        """
        With the codec's own words.
        """
        with pytest.raises(coordkit.InvalidValue, match="bytes or str"):
            coord.topic("events").publish(7)
        with pytest.raises(coordkit.InvalidValue, match="JSON"):
            coord.topic("events", codec=codecs.JSON).publish({1, 2})

    def test_a_lost_reply_surfaces_and_nothing_is_sent_again(self, etcd, namespace, coord):
        """
        Nobody knows whether a live message was published, so nobody says so.
        """
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}", timeout=2) as publisher,
            coord.topic("events").subscribe() as subscription,
        ):
            topic = publisher.topic("events")
            topic.publish(b"0")
            proxy.drop_reply_after_commit()

            with pytest.raises((coordkit.Unavailable, coordkit.DeadlineExceeded)) as caught:
                topic.publish(b"1", timeout=0.5)
            proxy.heal()
            publisher.kv.get("/", timeout=15)  # a read is repeated until there is a connection
            topic.publish(b"2")

            assert caught.value.outcome is coordkit.Outcome.UNKNOWN
            assert take(subscription, 3) == numbers(3)


class TestSubscribe:
    def test_topics_whose_names_are_prefixes_do_not_mix(self, coord):
        """
        Neither do names with slashes.
        """
        names = ("a", "ab", "a/b", "a/slots", "slots")
        subscriptions = [coord.topic(name).subscribe() for name in names]

        for name in names:
            coord.topic(name).publish(name)

        for name, subscription in zip(names, subscriptions, strict=True):
            with subscription:
                assert take(subscription, 1) == [name.encode()]
                assert subscription.get(0) is None

    def test_it_begins_where_it_was_told_to(self, coord):
        """
        New, all, or a revision, which is itself told.
        """
        topic = coord.topic("events")
        revisions = [topic.publish(value) for value in numbers(5)]

        with (
            topic.subscribe() as new,
            topic.subscribe("all") as everything,
            topic.subscribe(revisions[3]) as some,
        ):
            topic.publish(b"5")

            assert take(everything, 6) == numbers(6)
            assert take(some, 3) == numbers(3, start=3)
            assert take(new, 1) == numbers(1, start=5)

    @pytest.mark.parametrize("start", ["old", 0, -1, 1.5, True, None, 2**70])
    def test_silly_starts_are_refused(self, coord, start):
        """
        As are other silly arguments.
        """
        topic = coord.topic("events")
        with pytest.raises(coordkit.InvalidValue):
            topic.subscribe(start)
        with pytest.raises(coordkit.InvalidValue):
            topic.subscribe(buffer=0)
        with pytest.raises(coordkit.InvalidValue):
            topic.subscribe(overflow="drop")
        with pytest.raises(coordkit.InvalidValue, match="key"):
            topic.publish("x", key=5)
        with pytest.raises(coordkit.InvalidValue, match="codec"):
            coord.topic("events", codec="json")
        with pytest.raises(coordkit.UsageError, match="live topic keeps nothing"):
            topic.trim(5)
        with topic.subscribe() as subscription, pytest.raises(coordkit.InvalidValue, match="committed"):
            subscription.commit(start)

    def test_foreign_keys_among_ours_are_no_messages(self, coord):
        """
        Nor is a deletion.
        """
        topic = coord.topic("events")
        prefix = f"/{coord.settings.namespace}/topic/events/slots/"
        with topic.subscribe() as subscription:
            for name in ("x", "0001", "00", "000/1", "\N{SNOWMAN}"):
                coord.kv.put(prefix + name, b"foreign")
            topic.publish(b"0")
            coord.kv.delete(prefix + "000")
            topic.publish(b"1")

            assert take(subscription, 2) == numbers(2)

    def test_what_cannot_be_decoded_does_not_stop_the_subscription(self, coord):
        """
        Asking for such a message's value raises; its bytes are there, and the next one comes.
        """
        topic = coord.topic("events", codec=codecs.JSON)
        with topic.subscribe() as subscription:
            coord.topic("events").publish(b'{"secret":')
            topic.publish({"a": 1})

            broken, sound = subscription.get(15), subscription.get(15)

        with pytest.raises(coordkit.InvalidValue) as caught:
            _ = broken.value
        assert "secret" not in str(caught.value)
        assert broken.raw == b'{"secret":'
        assert sound.value == {"a": 1}

    def test_closing_it_elsewhere_ends_the_iteration(self, coord):
        """
        And every later get.
        """
        subscription = coord.topic("events").subscribe()
        seen: list[bytes] = []
        thread = threading.Thread(target=lambda: seen.extend(message.value for message in subscription))
        thread.start()
        coord.topic("events").publish(b"0")
        wait_until(lambda: seen)

        subscription.cancel()

        thread.join(15)
        assert not thread.is_alive()
        with pytest.raises(coordkit.Cancelled):
            subscription.get(0)

    def test_closing_the_coordinator_ends_a_wait(self, coord_factory):
        """
        With Closed; so does what is asked of it afterwards.
        """
        coordinator = coord_factory()
        topic = coordinator.topic("events")
        subscription = topic.subscribe()
        ended = threading.Event()

        def wait() -> None:
            with pytest.raises(coordkit.Closed):
                subscription.get()
            ended.set()

        thread = threading.Thread(target=wait)
        thread.start()
        coordinator.close()

        assert ended.wait(15)
        with pytest.raises(coordkit.Closed):
            topic.publish(b"x")
        with pytest.raises(coordkit.Closed):
            topic.subscribe()

    @pytest.mark.parametrize("retain", [None, 1000])
    def test_what_is_closed_is_not_opened_again(self, coord, retain):
        """
        By a thread that was just about to.
        """
        subscription = coord.topic("events", retain=retain).subscribe("all")
        tap = subscription._supply.readers[0]._tap
        subscription.close()

        tap.open()

        assert tap.phase is intake.Phase.CLOSED
        assert not coord._link.watcher._live and not coord._link.watcher._queue

    def test_several_threads_may_share_one(self, coord):
        """
        Each message goes to one of them.
        """
        seen: list[bytes] = []
        subscription = coord.topic("events").subscribe()
        threads = [
            threading.Thread(target=lambda: seen.extend(message.value for message in subscription))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()

        coord.topic("events").publish_many(numbers(200))

        wait_until(lambda: len(seen) == 200)
        subscription.close()
        for thread in threads:
            thread.join(15)
        assert sorted(seen) == sorted(numbers(200))


class TestFaults:
    def test_reconnections_bring_neither_gap_nor_double(self, etcd, namespace, coord):
        """
        The subscriber's connection breaks again and again.
        """
        with (
            FaultProxy(etcd.endpoint) as proxy,
            coordkit.connect(f"etcd://{proxy.endpoint}/{namespace}") as reader,
            reader.topic("events").subscribe() as subscription,
        ):
            topic = coord.topic("events")
            for number in range(0, 500, 50):
                topic.publish_many(numbers(25, start=number))
                proxy.reset()
                topic.publish_many(numbers(25, start=number + 25))

            assert take(subscription, 500) == numbers(500)

    def test_compacted_history_is_told(self, writer, reader):
        """
        The error names the first revision that is left, and the subscription goes on there.
        """
        topic = writer.topic("events")
        revisions = [topic.publish(value) for value in numbers(6)]
        faults.compact(writer, revisions[3])

        with reader.topic("events").subscribe(revisions[1]) as subscription:
            with pytest.raises(coordkit.Gap) as caught:
                subscription.get(15)
            assert take(subscription, 2) == numbers(2, start=4)

        assert caught.value.revision == revisions[3] + 1
        with reader.topic("events").subscribe(caught.value.revision) as subscription:
            assert take(subscription, 2) == numbers(2, start=4)

    def test_all_means_what_is_not_compacted(self, writer, reader):
        """
        Without an error.
        """
        topic = writer.topic("events")
        revisions = [topic.publish(value) for value in numbers(6)]
        faults.compact(writer, revisions[3])

        with reader.topic("events").subscribe("all") as subscription:
            assert take(subscription, 2) == numbers(2, start=4)

    def test_a_compaction_in_the_middle_of_a_subscription_is_told(self, writer, reader):
        """
        If it missed something, for its connection was down meanwhile.
        """
        topic = writer.topic("events")
        with reader.topic("events").subscribe() as subscription:
            topic.publish(b"0")
            assert take(subscription, 1) == numbers(1)

            reader.client._dials = False
            reader.client.drop_channel("broken by a test")
            revisions = [topic.publish(value) for value in numbers(4, start=1)]
            faults.compact(writer, revisions[2])
            reader.client._dials = True

            with pytest.raises(coordkit.Gap) as caught:
                subscription.get(15)
            assert caught.value.revision == revisions[2] + 1
            assert take(subscription, 1) == numbers(1, start=4)

    @pytest.mark.parametrize("published", [True, False])
    def test_a_compaction_of_nothing_that_concerns_it_is_no_gap(self, writer, reader, published):
        """
        A topic where nothing happens for long does not lose its subscribers, nor one where nothing ever did.
        """
        topic = writer.topic("events")
        with reader.topic("events").subscribe() as subscription:
            if published:
                topic.publish(b"0")
                assert take(subscription, 1) == numbers(1)

            reader.client._dials = False
            reader.client.drop_channel("broken by a test")
            for _ in range(5):
                writer.topic("other").publish(b"x")
            faults.compact(writer)
            reader.client._dials = True
            tap = subscription._supply.readers[0]._tap
            wait_until(lambda: tap.phase is intake.Phase.GAP)
            assert subscription.get(1) is None
            topic.publish(b"1")

            assert take(subscription, 1) == numbers(1, start=1)


class TestSlowSubscribers:
    def test_messages_wait_in_etcd_for_one_that_blocks(self, coord):
        """
        It holds no more than its buffer and one transaction, sees all of it, and holds up nobody else.
        """
        topic = coord.topic("events")
        with topic.subscribe(buffer=20) as slow, topic.subscribe() as quick:
            for start in range(0, 1000, 50):
                topic.publish_many(numbers(50, start=start))

            assert take(quick, 1000) == numbers(1000)
            assert len(slow._supply.readers[0]._tap) <= 70
            assert take(slow, 1000) == numbers(1000)

    def test_what_waited_in_etcd_and_was_compacted_there_is_told(self, writer, reader):
        """
        Although nothing was published since: the watch for the rest stood when all of it was over.
        """
        topic = writer.topic("events")
        with reader.topic("events").subscribe(buffer=2) as slow:
            revisions = [topic.publish(value) for value in numbers(6)]
            tap = slow._supply.readers[0]._tap
            wait_until(lambda: tap.phase is intake.Phase.CUT)
            faults.compact(writer)

            with pytest.raises(coordkit.Gap) as caught:
                take(slow, 6)

            assert caught.value.revision == revisions[5] + 1
            topic.publish(b"6")
            assert take(slow, 1) == numbers(1, start=6)

    def test_one_that_wants_to_know_is_told_of_a_gap(self, coord):
        """
        After what was buffered; then it goes on with what is new.  What it missed can still be read.
        """
        topic = coord.topic("events")
        with topic.subscribe(buffer=20, overflow="gap") as hasty, topic.subscribe() as quick:
            for start in range(0, 300, 50):
                topic.publish_many(numbers(50, start=start))
            take(quick, 300)

            assert take(hasty, 50) == numbers(50)
            with pytest.raises(coordkit.Gap) as caught:
                hasty.get(15)
            with topic.subscribe(caught.value.revision) as late:
                assert take(late, 250) == numbers(250, start=50)
            topic.publish(b"new")
            assert take(hasty, 1) == [b"new"]

    def test_one_that_only_waits_costs_nothing(self, coord, coord_factory):
        """
        Nobody polls.
        """
        reader = coord_factory()
        with reader.topic("events").subscribe() as subscription:
            before = reader.statistics().calls
            assert subscription.get(0.5) is None
            assert reader.statistics().calls == before


class TestCursors:
    def test_a_cursor_goes_on_where_the_last_one_ended(self, coord, coord_factory):
        """
        What was handed out and followed by another, or by the end of the block, is done.
        """
        topic = coord.topic("events")
        topic.publish_many(numbers(5))

        with topic.subscribe(coordkit.Cursor("worker")) as subscription:
            assert take(subscription, 2) == numbers(2)
        topic.publish_many(numbers(2, start=5))

        with coord_factory().topic("events").subscribe(coordkit.Cursor("worker")) as subscription:
            assert take(subscription, 5) == numbers(5, start=2)

    def test_what_was_not_done_comes_again(self, coord):
        """
        An error in the block, or a commit that never came.
        """
        topic = coord.topic("events")
        topic.publish_many(numbers(5))

        with pytest.raises(ZeroDivisionError), topic.subscribe(coordkit.Cursor("auto")) as subscription:
            take(subscription, 3)
            raise ZeroDivisionError
        with topic.subscribe(coordkit.Cursor("explicit", auto=False)) as subscription:
            messages = [subscription.get(15) for _ in range(4)]
            subscription.commit(messages[1])

        with topic.subscribe(coordkit.Cursor("auto")) as subscription:
            assert take(subscription, 5) == numbers(5)
        with topic.subscribe(coordkit.Cursor("explicit")) as subscription:
            assert take(subscription, 3) == numbers(3, start=2)

    def test_a_new_cursor_that_begins_with_what_is_new_is_stored_at_once(self, coord):
        """
        So what is published before its first commit is not missed by the next subscriber.
        """
        topic = coord.topic("events")
        topic.publish(b"old")
        cursor = coordkit.Cursor("worker", start="new")

        topic.subscribe(cursor).close()
        topic.publish(b"0")

        with topic.subscribe(cursor) as subscription:
            assert take(subscription, 1) == numbers(1)

    def test_two_subscribers_cannot_move_one_cursor(self, coord):
        """
        The second takes over; the first is told at its next commit.
        """
        topic = coord.topic("events")
        topic.publish_many(numbers(5))
        first = topic.subscribe(coordkit.Cursor("worker", auto=False))
        first.commit(first.get(15))
        second = topic.subscribe(coordkit.Cursor("worker", auto=False))
        second.commit(second.get(15))

        with pytest.raises(coordkit.ClaimLost):
            first.commit(first.get(15))

        first.close()
        second.close()

    def test_a_cursor_that_was_compacted_raises_gap(self, writer):
        """
        It is not skipped in silence.
        """
        topic = writer.topic("events")
        revisions = [topic.publish(value) for value in numbers(5)]
        with topic.subscribe(coordkit.Cursor("worker")) as subscription:
            take(subscription, 2)
        faults.compact(writer, revisions[3])

        with topic.subscribe(coordkit.Cursor("worker")) as subscription:
            with pytest.raises(coordkit.Gap):
                subscription.get(15)
            assert take(subscription, 1) == numbers(1, start=4)

    def test_a_commit_without_a_cursor_is_refused(self, coord):
        """
        There is nothing to move.
        """
        topic = coord.topic("events")
        with topic.subscribe("all") as subscription:
            topic.publish(b"0")
            with pytest.raises(coordkit.NotHeld):
                subscription.commit(subscription.get(15))

    @pytest.mark.parametrize(
        "stored", [b"", b"{", b"[]", b'{"positions":[[1,2]]}', b'{"positions":[7]}', b"\xff"]
    )
    def test_a_cursor_that_holds_something_else_is_told(self, coord, stored):
        """
        It neither crashes nor begins anew in silence.
        """
        coord.kv.put(f"/{coord.settings.namespace}/topic/events/cursors/worker", stored)

        with pytest.raises(coordkit.CoordError, match="cursor"):
            coord.topic("events").subscribe(coordkit.Cursor("worker"))
