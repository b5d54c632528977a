"""Who is at the head of a line: from events alone, and from a watch and reads that go wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit import errors
from coordkit.deadline import NEVER, Deadline
from coordkit.etcd.changes import Event
from coordkit.observation import BACKLOG, Candidate, Observation, Places
from coordkit.wire import messages


class Etcd:
    """A prefix of keys, and what a watch would tell of each change."""

    def __init__(self) -> None:
        self.revision = 10
        self.line: dict[bytes, Candidate] = {}
        self.heads: list[Candidate | None] = []  # after each revision

    def put(self, key: bytes, value: bytes) -> list[Event]:
        self.revision += 1
        known = self.line.get(key)
        fence = known.fence if known else self.revision
        self.line[key] = Candidate(key, value, 7, fence, self.revision)
        return self._told([Event(key, value, False, fence, self.revision, 7)])

    def delete(self, *keys: bytes) -> list[Event]:
        """As a lease does: all of them in one revision."""
        gone = [key for key in keys if self.line.pop(key, None)]
        self.revision += bool(gone)
        return self._told([Event(key, b"", True, 0, self.revision, 0) for key in gone])

    def _told(self, events: list[Event]) -> list[Event]:
        if events:
            self.heads.append(min(self.line.values(), key=lambda each: each.fence, default=None))
        return events


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.sampled_from([b"1", b"2"])),
        st.tuples(st.just("delete"), st.sets(KEYS, min_size=1)),
    ),
    max_size=40,
)


def apply(etcd: Etcd, change: tuple) -> list[Event]:
    return etcd.put(*change[1:]) if change[0] == "put" else etcd.delete(*change[1])


@given(CHANGES, CHANGES, st.integers(0, 40))
def test_each_head_is_the_oldest_key_at_that_revision(before, after, overlap):
    """
    From a snapshot on, whatever events come that it contains, each revision's head is told, in order.
    """
    etcd, places = Etcd(), Places()
    contained = [event for change in before for event in apply(etcd, change)]
    snapshot = sorted(etcd.line.values(), key=lambda each: each.fence)
    etcd.heads.clear()

    first = places.take(snapshot, etcd.revision)
    events = contained[len(contained) - overlap :] if overlap < len(contained) else contained
    told = list(places.apply([*events, *(event for change in after for event in apply(etcd, change))]))

    assert first == next(iter(snapshot), None)
    assert told == etcd.heads


def test_a_lease_that_takes_the_first_two_keys_makes_nobody_leader_in_between():
    """
    All deletions of a revision count before the next head is told.
    """
    etcd, places = Etcd(), Places()
    for key in (b"a", b"b", b"c"):
        etcd.put(key, b"")
    places.take(sorted(etcd.line.values(), key=lambda each: each.fence), etcd.revision)

    told = list(places.apply(etcd.delete(b"a", b"b")))

    assert [each.key for each in told] == [b"c"]


def test_a_name_that_comes_back_stands_at_the_end():
    """
    Also when its deletion was never told: the create revision says it.
    """
    places = Places()
    places.take([Candidate(b"a", b"", 1, 2, 2), Candidate(b"b", b"", 1, 3, 3)], 3)

    (head,) = places.apply([Event(b"a", b"", False, 5, 5, 1)])

    assert head.key == b"b"


class World:
    """In place of a link: its reads and its watches are those of an `Etcd`, as a test wants them."""

    def __init__(self) -> None:
        self.etcd = Etcd()
        self.client = self.watcher = self.attendant = self
        self.feeds: list[Any] = []
        self.dropped: list[str] = []
        self.reads: list[Callable[[], None]] = []  # what happens while a read is on its way, once each
        self.behind = 0  # how many revisions the next read is behind the times

    def change(self, events: list[Event]) -> None:
        """Tell the watch that stands."""
        if self.feeds and events:
            self.feeds[-1].on_events(events)

    def watch_prefix(self, prefix: bytes, feed: Any) -> World:
        self.feeds.append(feed)
        feed.on_created(self.etcd.revision)
        return self

    def read(self, request: Any, deadline: Deadline) -> messages.RangeResponse:
        line = sorted(self.etcd.line.values(), key=lambda each: each.fence)
        revision, self.behind = self.etcd.revision - self.behind, 0
        if self.reads:
            self.reads.pop(0)()
        reply = messages.RangeResponse(header=messages.ResponseHeader(revision=revision))
        for each in line[: request.limit or None]:
            reply.kvs.add(
                key=each.key,
                value=each.value,
                lease=each.lease,
                create_revision=each.fence,
                mod_revision=each.revision,
            )
        return reply

    def wait(self, waiter: Any, deadline: Deadline) -> bool:
        return waiter.done

    def drop_channel(self, why: str) -> None:
        self.dropped.append(why)

    def cancel(self) -> None:
        """A watch."""

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        action()


@pytest.fixture
def world():
    return World()


@pytest.fixture
def observing(world):
    return Observation(world, b"/e/", NEVER)


def heads(observing: Observation, count: int) -> list[bytes | None]:
    return [head and head.value for head in itertools.islice(observing, count)]


class TestObservation:
    def test_what_happens_between_the_watch_and_the_snapshot_is_told_once(self, world, observing):
        """
        Events that come while the snapshot is read are kept until it is there.
        """
        world.etcd.put(b"a", b"1")

        def meanwhile() -> None:
            world.change(world.etcd.put(b"a", b"2"))
            world.change(world.etcd.put(b"b", b"other"))
            world.change(world.etcd.delete(b"a"))

        world.reads.append(meanwhile)

        assert heads(observing, 3) == [b"1", b"2", b"other"]

    def test_a_snapshot_from_before_the_watch_is_refused(self, world, observing):
        """
        What happened between the two would be told by nobody.
        """
        world.etcd.put(b"a", b"1")
        world.behind = 1

        assert heads(observing, 1) == [b"1"]
        assert len(world.dropped) == 1

    def test_after_a_gap_it_begins_anew_and_repeats_nothing(self, world, observing):
        """
        From a snapshot that is no older than what was told.
        """
        world.etcd.put(b"a", b"1")
        assert heads(observing, 1) == [b"1"]
        world.feeds[-1].on_gap(5)
        world.reads.append(lambda: world.change(world.etcd.put(b"a", b"2")))

        assert heads(observing, 1) == [b"2"]
        assert len(world.feeds) == 2

    def test_a_watch_that_was_dropped_tells_nothing(self, world, observing):
        """
        Only the one that stands is believed.
        """
        world.etcd.put(b"a", b"1")
        heads(observing, 1)
        stale = world.feeds[-1]
        stale.on_gap(5)
        stale.on_events(world.etcd.put(b"a", b"2"))
        late = world.etcd.put(b"a", b"3")
        stale.on_events(late)

        assert heads(observing, 1) == [b"3"]

    @pytest.mark.parametrize("change", [("put", b"a", b"2"), ("delete", [b"a"])])
    def test_an_event_that_was_lost_is_found_by_a_read(self, world, observing, change):
        """
        Old servers lose some: a quiet observation looks now and then.
        """
        world.etcd.put(b"a", b"1")
        heads(observing, 1)
        apply(world.etcd, change)

        (head,) = itertools.islice(observing, 1)

        assert head == world.etcd.heads[-1]

    def test_a_backlog_keeps_the_newest(self, world, observing):
        """
        In bounded memory.
        """
        world.etcd.put(b"a", b"first")
        heads(observing, 1)
        for number in range(BACKLOG + 5):
            world.change(world.etcd.put(b"a", b"%d" % number))

        assert heads(observing, BACKLOG) == [b"%d" % number for number in range(5, BACKLOG + 5)]

    def test_a_refusal_is_raised_and_ends_it(self, world, observing):
        """
        Nobody waits for what will never be told.
        """
        heads(observing, 1)
        world.feeds[-1].on_refused(errors.PermissionDenied("no"))

        with pytest.raises(errors.PermissionDenied):
            next(observing)
        with pytest.raises(StopIteration):
            next(observing)

    def test_one_that_is_forgotten_ends_its_watch(self, world):
        """
        At the next event.
        """
        heads(Observation(world, b"/e/", NEVER), 1)
        ended = []
        world.cancel = lambda: ended.append(True)

        world.change(world.etcd.put(b"a", b"1"))

        assert ended
