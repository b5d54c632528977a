"""Watches on a real etcd: each change once and in order, whatever happens to the connection."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.players import wait_until

import coordkit
from coordkit import errors
from coordkit.deadline import Deadline
from coordkit.etcd import client as clients
from coordkit.etcd import kv, watch
from coordkit.testing import LocalEtcd
from coordkit.wire import messages


class Witness:
    """A listener that remembers everything."""

    def __init__(self) -> None:
        self.created: list[int] = []
        self.batches: list[list[watch.Event]] = []
        self.gaps: list[int] = []
        self.refusals: list[errors.CoordError] = []

    def on_created(self, revision: int) -> None:
        self.created.append(revision)

    def on_events(self, events: list[watch.Event]) -> None:
        self.batches.append(events)

    def on_gap(self, compacted: int) -> None:
        self.gaps.append(compacted)

    def on_refused(self, error: errors.CoordError) -> None:
        self.refusals.append(error)

    @property
    def events(self) -> list[watch.Event]:
        return [event for batch in list(self.batches) for event in batch]

    @property
    def revisions(self) -> list[int]:
        return [event.mod_revision for event in self.events]


@pytest.fixture(scope="module")
def server(etcd_binary: str) -> Iterator[LocalEtcd]:
    """A server whose history may be compacted."""
    with LocalEtcd(etcd_binary) as server:
        yield server


@pytest.fixture
def writer(server: LocalEtcd) -> Iterator[coordkit.Coordinator]:
    """Writes on a connection that nobody breaks."""
    with coordkit.connect(server.url) as coordinator:
        yield coordinator


@pytest.fixture
def client(server: LocalEtcd) -> Iterator[clients.Client]:
    with coordkit.connect(server.url) as coordinator:
        yield coordinator.client


@pytest.fixture
def watcher(client: clients.Client) -> Iterator[watch.Watcher]:
    made = watch.Watcher(client)
    yield made
    made.close()


@pytest.fixture
def begin(watcher: watch.Watcher) -> Callable[..., tuple[Witness, watch.Watch]]:
    """`begin(prefix)` gives a witness and its watch, which stands unless `stands=False`."""

    def begin(prefix: bytes, stands: bool = True, **options: Any) -> tuple[Witness, watch.Watch]:
        witness = Witness()
        made = watcher.watch_prefix(prefix, witness, **options)
        if stands:
            wait_until(lambda: witness.created)
        return witness, made

    return begin


@pytest.fixture
def prefix(namespace: str) -> bytes:
    return f"/{namespace}/".encode()


def put_many(coord: coordkit.Coordinator, prefix: bytes, count: int) -> list[int]:
    """The revisions of so many puts."""
    return [coord.kv.put(b"%s%d" % (prefix, number % 7), str(number)) for number in range(count)]


def compact(coord: coordkit.Coordinator, revision: int) -> None:
    request = messages.CompactionRequest(revision=revision, physical=True)
    coord.client.unary("/etcdserverpb.KV/Compact", request, messages.CompactionResponse, Deadline.after(10))


class Break:
    """The client's connection breaks, and comes back when the block ends."""

    def __init__(self, client: clients.Client) -> None:
        self._client = client

    def __enter__(self) -> None:
        self._client._dials = False
        self._client.drop_channel("broken by a test")

    def __exit__(self, *error: object) -> None:
        self._client._dials = True


class TestEvents:
    def test_they_say_what_happened(self, writer, begin, prefix):
        """
        A put and a deletion, with keys, values, revisions and lease.
        """
        witness, _ = begin(prefix)
        lease = writer.session.lease_id

        created = writer.kv.put(prefix + b"a", b"1", lease=lease)
        changed = writer.kv.put(prefix + b"a", b"2")
        writer.kv.delete(prefix + b"a")

        wait_until(lambda: len(witness.events) == 3)
        key = prefix + b"a"
        assert witness.events == [
            watch.Event(key, b"1", False, created, created, lease),
            watch.Event(key, b"2", False, created, changed, 0),
            watch.Event(key, b"", True, 0, changed + 1, 0),
        ]

    def test_only_what_was_asked_for_is_told(self, writer, begin, prefix, watcher):
        """
        A prefix without its neighbours; one key; deletions alone; puts alone.
        """
        inside, _ = begin(prefix + b"a/")
        deletions, _ = begin(prefix, filters=(watch.NO_PUTS,))
        puts, _ = begin(prefix, filters=(watch.NO_DELETES,))
        one = Witness()
        watcher.watch(prefix + b"a/1", one)
        wait_until(lambda: one.created)

        for name in (b"a/1", b"a/12", b"a0", b"a", b"b"):
            writer.kv.put(prefix + name, b"")
        last = writer.kv.txn().then(kv.delete(prefix + b"a/1"), kv.delete(prefix + b"a/12")).commit()
        writer.kv.put(prefix + b"z", b"")

        wait_until(lambda: len(puts.events) == 6)
        wait_until(lambda: len(deletions.events) == 2)
        wait_until(lambda: len(inside.events) == 4)
        assert [event.key for event in one.events] == [prefix + b"a/1"] * 2
        assert [(event.mod_revision, event.deleted) for event in deletions.events] == [
            (last.revision, True)
        ] * 2
        assert not any(event.deleted for event in puts.events)

    def test_what_happens_in_one_revision_comes_together(self, writer, begin, prefix):
        """
        A transaction is one change: its events are told in one piece.
        """
        witness, _ = begin(prefix)

        for round_ in range(20):
            ops = [kv.put(b"%s%d" % (prefix, number), b"%d" % round_) for number in range(30)]
            writer.kv.txn().then(*ops).commit()

        wait_until(lambda: len(witness.events) == 600)
        for batch in witness.batches:
            counts = collections.Counter(event.mod_revision for event in batch)
            assert set(counts.values()) == {30}

    def test_a_watch_from_the_past_tells_the_past(self, writer, begin, prefix):
        """
        `start_revision` is the first revision that is told.
        """
        revisions = put_many(writer, prefix, 10)

        witness, _ = begin(prefix, start_revision=revisions[4])

        wait_until(lambda: len(witness.events) == 6)
        assert witness.revisions == revisions[4:]

    def test_a_cancelled_watch_is_silent(self, writer, begin, prefix):
        """
        After `cancel` nothing is told, and etcd has forgotten it; cancelling again is no error.
        """
        other, _ = begin(prefix)
        witness, cancelled = begin(prefix)

        cancelled.cancel()
        cancelled.cancel()
        put_many(writer, prefix, 5)

        wait_until(lambda: len(other.events) == 5)
        assert witness.events == []

    def test_a_watch_can_be_cancelled_before_it_stands(self, writer, begin, prefix, watcher):
        """
        Neither creation nor events are told; those behind it in the queue are served.
        """
        early = [begin(prefix, stands=False) for _ in range(50)]
        for _, each in early[::2]:
            each.cancel()

        for witness, _ in early[1::2]:
            wait_until(lambda witness=witness: witness.created)
        put_many(writer, prefix, 3)

        for witness, _ in early[1::2]:
            wait_until(lambda witness=witness: len(witness.events) == 3)
        assert [len(witness.events) for witness, _ in early[::2]] == [0] * 25
        wait_until(lambda: len(watcher._live) == 25)

    def test_a_thousand_watches_at_once(self, writer, begin, prefix, watcher):
        """
        All of them stand, each tells its own key, and together they need one stream.
        """
        witnesses = [Witness() for _ in range(1000)]
        threads = [
            threading.Thread(
                target=lambda part=part: [
                    watcher.watch(b"%s%d" % (prefix, number), witnesses[number])
                    for number in range(part, 1000, 8)
                ]
            )
            for part in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for witness in witnesses:
            wait_until(lambda witness=witness: witness.created)

        for start in range(0, 1000, 100):
            ops = [kv.put(b"%s%d" % (prefix, number), b"") for number in range(start, start + 100)]
            writer.kv.txn().then(*ops).commit()

        for number, witness in enumerate(witnesses):
            wait_until(lambda witness=witness: witness.events)
            assert [event.key for event in witness.events] == [b"%s%d" % (prefix, number)]


class TestReconnection:
    @pytest.mark.timeout(90)
    def test_nothing_is_lost_doubled_or_out_of_order(self, writer, begin, prefix, client):
        """
        A writer writes; the connection is broken again and again; the witness has seen it all.
        """
        witness, _ = begin(prefix)
        written: list[int] = []
        thread = threading.Thread(target=lambda: written.extend(put_many(writer, prefix, 1000)))
        breaks = 0

        thread.start()
        while thread.is_alive():
            seen = len(witness.created)
            client.drop_channel("broken by a test")
            breaks += 1
            wait_until(lambda seen=seen: len(witness.created) > seen)
        thread.join()

        wait_until(lambda: len(witness.events) >= len(written))
        assert witness.revisions == written
        assert breaks > 10

    def test_it_goes_on_behind_the_last_event(self, writer, begin, prefix, client):
        """
        What was written while there was no connection is told; the last event, asked for again, is not.
        """
        witness, made = begin(prefix)
        first = put_many(writer, prefix, 3)
        wait_until(lambda: len(witness.events) == 3)

        with Break(client):
            second = put_many(writer, prefix, 3)

        wait_until(lambda: len(witness.events) == 6)
        assert made.request.start_revision == first[-1]
        assert witness.revisions == first + second

    def test_one_that_has_told_nothing_goes_on_where_it_stood(self, writer, begin, prefix, client):
        """
        Begun at "now" and broken before its first event, it resumes at the revision of its creation.
        """
        witness, made = begin(prefix)
        (stood,) = witness.created
        writer.kv.put("/elsewhere", b"")

        with Break(client):
            written = put_many(writer, prefix, 3)

        wait_until(lambda: len(witness.events) == 3)
        assert made.request.start_revision == stood
        assert witness.revisions == written

    def test_watches_come_back_by_themselves(self, writer, begin, prefix, client):
        """
        Nobody has to make a call for the watches to come back.
        """
        witness, _ = begin(prefix)

        client.drop_channel("broken by a test")

        wait_until(lambda: len(witness.created) == 2)
        put_many(writer, prefix, 1)
        wait_until(lambda: witness.events)


class TestFragments:
    def test_big_batches_come_whole(self, writer, begin, prefix, watcher, monkeypatch):
        """
        More than etcd puts into one message is joined: every event once, no transaction torn.
        """
        fragments = []
        join = watcher._on_events

        def counted(response: messages.WatchResponse) -> None:
            fragments.append(response.fragment)
            join(response)

        monkeypatch.setattr(watcher, "_on_events", counted)
        revisions = []
        for letter in b"abcde":
            ops = [kv.put(b"%s%d" % (prefix, number), bytes([letter]) * 140_000) for number in range(10)]
            revisions.append(writer.kv.txn().then(*ops).commit().revision)

        witness, _ = begin(prefix, start_revision=revisions[0])

        wait_until(lambda: len(witness.events) >= 50)
        assert any(fragments)
        assert witness.revisions == [revision for revision in revisions for _ in range(10)]
        assert {(event.value[:1] * 140_000 == event.value) for event in witness.events} == {True}
        for batch in witness.batches:
            assert set(collections.Counter(event.mod_revision for event in batch).values()) == {10}


class TestCompaction:
    def test_a_watch_of_what_is_gone_is_told_so(self, writer, begin, prefix):
        """
        A start that was compacted ends the watch with the revision up to which history is gone.
        """
        revisions = put_many(writer, prefix, 5)
        compact(writer, revisions[3])

        witness, made = begin(prefix, stands=False, start_revision=revisions[0])

        wait_until(lambda: witness.gaps)
        assert witness.gaps == [revisions[3]]
        assert (witness.events, made.state) == ([], watch.State.ENDED)

    def test_a_watch_that_comes_back_too_late_is_told_so(self, writer, begin, prefix, client):
        """
        History that was compacted while there was no connection is not skipped in silence.
        """
        witness, made = begin(prefix)
        put_many(writer, prefix, 1)
        wait_until(lambda: witness.events)

        with Break(client):
            revisions = put_many(writer, prefix, 5)
            compact(writer, revisions[-2])

        wait_until(lambda: witness.gaps)
        assert witness.gaps == [revisions[-2]]
        assert (len(witness.events), made.state) == (1, watch.State.ENDED)

    def test_a_gap_ends_one_watch_and_no_other(self, writer, begin, prefix, client):
        """
        Another watch on the same stream, which had seen all that is gone, tells on.
        """
        behind, _ = begin(prefix + b"a/")
        ahead, ahead_watch = begin(prefix + b"b/")

        with Break(client):
            put_many(writer, prefix + b"a/", 5)
            revisions = put_many(writer, prefix + b"b/", 1)
            ahead_watch.next_revision = revisions[0] + 1
            compact(writer, revisions[0])

        wait_until(lambda: behind.gaps)
        more = put_many(writer, prefix + b"b/", 2)
        wait_until(lambda: len(ahead.events) == 2)
        assert ahead.revisions == more
        assert ahead.gaps == []
