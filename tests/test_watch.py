"""The watcher without a server: what it makes of each message, and what it asks for, in hand-made streams."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordkit import errors
from coordkit.etcd import options as opts
from coordkit.etcd import watch
from coordkit.wire import address, grpc, messages

STALE = "etcdserver: invalid auth token"
LEADERLESS = grpc.Status(grpc.Code.UNAVAILABLE, "etcdserver: no leader", from_server=True)
Change = tuple[str, int]

BROKEN = grpc.Status(grpc.Code.UNAVAILABLE, "reset")


class Stream:
    """A watch stream: what was asked on it, and the means to answer."""

    def __init__(self, on_message: Any, on_end: Any) -> None:
        self._on_message = on_message
        self.end = on_end
        self.channel = object()
        self.creates: list[messages.WatchCreateRequest] = []
        self.cancels: list[int] = []
        self.cancelled = False

    def send(self, payload: bytes) -> None:
        request = messages.WatchRequest.FromString(payload)
        if request.WhichOneof("request_union") == "create_request":
            self.creates.append(request.create_request)
        else:
            self.cancels.append(request.cancel_request.watch_id)

    def cancel(self) -> None:
        self.cancelled = True

    def say(self, revision: int = 10, **fields: Any) -> None:
        header = messages.ResponseHeader(cluster_id=7, revision=revision)
        self._on_message(messages.WatchResponse(header=header, **fields).SerializeToString())

    def tell(self, watch_id: int, *changes: Change, revision: int = 0, fragment: bool = False) -> None:
        """Puts of keys at revisions."""
        events = [
            messages.Event(kv=messages.KeyValue(key=key.encode(), create_revision=at, mod_revision=at))
            for key, at in changes
        ]
        self.say(revision or changes[-1][1], watch_id=watch_id, events=events, fragment=fragment)


class Client:
    """As much of a client as a watcher needs.  `streams` are all that were opened."""

    def __init__(self) -> None:
        self.options = opts.Options(endpoints=(address.Address("nowhere", 1),))
        self.closed = False
        self.seen_revision = 0
        self.streams: list[Stream] = []
        self.drops: list[str] = []
        self.foreign = False
        self.metadata: grpc.Metadata = ()
        self.on_read: Callable[[], None] = lambda: None
        self.opened = threading.Condition()

    def stream(self, method: str, on_message: Any, on_end: Any, deadline: Any) -> Stream:
        with self.opened:
            self.streams.append(Stream(on_message, on_end))
            self.opened.notify_all()
            return self.streams[-1]

    def read(self, request: messages.RangeRequest, deadline: Any) -> None:
        self.on_read()

    def log_in(self, token: str) -> None:
        self.options = attrs.evolve(self.options, user="ann")
        self.metadata = (("token", token),)

    def note(self, header: messages.ResponseHeader) -> None:
        if self.foreign:
            raise errors.Unavailable("another cluster")
        self.seen_revision = max(self.seen_revision, header.revision)

    def drop_channel(self, reason: str, channel: object = None) -> None:
        self.drops.append(reason)


@attrs.define
class Witness:
    """A listener that remembers everything."""

    created: list[int] = attrs.field(factory=list)
    batches: list[list[tuple[str, int]]] = attrs.field(factory=list)
    gaps: list[int] = attrs.field(factory=list)
    refusals: list[errors.CoordError] = attrs.field(factory=list)

    def on_created(self, revision: int) -> None:
        self.created.append(revision)

    def on_events(self, events: list[watch.Event]) -> None:
        self.batches.append([(event.key.decode(), event.mod_revision) for event in events])

    def on_gap(self, compacted: int) -> None:
        self.gaps.append(compacted)

    def on_refused(self, error: errors.CoordError) -> None:
        self.refusals.append(error)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def watcher(client: Client) -> watch.Watcher:
    return watch.Watcher(client)  # type: ignore[arg-type]


@pytest.fixture
def stream(watcher: watch.Watcher, client: Client, eventually) -> Callable[[int], Stream]:
    """`stream(n)` waits for the n-th stream to be in use."""

    def stream(number: int) -> Stream:
        eventually(lambda: len(client.streams) > number and watcher._stream is client.streams[number])
        return client.streams[number]

    return stream


@pytest.fixture
def begin(watcher: watch.Watcher, stream) -> Callable[..., tuple[Witness, watch.Watch, Stream]]:
    """`begin()` gives a watch that stands at revision 10 with id 0, and its stream."""

    def begin(start_revision: int = 0) -> tuple[Witness, watch.Watch, Stream]:
        witness = Witness()
        made = watcher.watch(b"k", witness, start_revision=start_revision)
        first = stream(0)
        first.say(10, created=True, watch_id=0)
        return witness, made, first

    return begin


class TestCreates:
    def test_one_is_pending_at_a_time(self, watcher, stream):
        """
        A create that fails carries no id: so the next is sent when the one before was answered.
        """
        for name in (b"a", b"b", b"c"):
            watcher.watch(name, Witness())
        first = stream(0)

        seen = [[create.key for create in first.creates]]
        for watch_id in range(3):
            first.say(created=True, watch_id=watch_id)
            seen.append([create.key for create in first.creates])

        assert seen == [[b"a"], [b"a", b"b"], [b"a", b"b", b"c"], [b"a", b"b", b"c"]]

    def test_fragments_are_asked_for(self, begin):
        """
        Without them a batch larger than a message ends the stream.
        """
        _, _, first = begin()

        assert first.creates[0].fragment

    @pytest.mark.parametrize("watch_id", [-1, 0])
    def test_a_refused_create_is_told_and_the_next_one_sent(self, watcher, stream, watch_id):
        """
        Old servers answer a refusal with id 0, new ones with -1; a watch that has that id is not concerned.
        """
        alive, refused, behind = Witness(), Witness(), Witness()
        for name, witness in ((b"a", alive), (b"b", refused), (b"c", behind)):
            watcher.watch(name, witness)
        first = stream(0)
        first.say(created=True, watch_id=0)

        reason = "etcdserver: permission denied"
        first.say(created=True, canceled=True, watch_id=watch_id, cancel_reason=reason)

        (error,) = refused.refusals
        assert isinstance(error, errors.PermissionDenied)
        assert "watch b: " in str(error)
        assert first.creates[-1].key == b"c"
        first.say(created=True, watch_id=1)
        first.tell(0, ("a", 11))
        assert (alive.batches, behind.created) == ([[("a", 11)]], [10])

    def test_another_refusal_is_told_as_it_is(self, watcher, stream):
        """
        What etcd says without our knowing it is passed on.
        """
        witness = Witness()
        watcher.watch(b"a", witness)

        stream(0).say(created=True, canceled=True, watch_id=-1, cancel_reason="for no good reason")

        (error,) = witness.refusals
        assert type(error) is errors.Rejected
        assert "for no good reason" in str(error)

    @pytest.mark.parametrize("reason", [STALE, "etcdserver: permission denied"])
    def test_a_token_that_went_stale_is_renewed_once(self, watcher, client, stream, reason):
        """
        A read shows whose fault it was: with a new token all go to a new stream; refused again, it is over.
        """
        client.log_in("old")
        alive, witness = Witness(), Witness()
        watcher.watch(b"a", alive)
        watcher.watch(b"b", witness)
        stream(0).say(created=True, watch_id=0)
        client.on_read = lambda: client.log_in("new")

        stream(0).say(created=True, canceled=True, watch_id=-1, cancel_reason=reason)

        stream(1).say(created=True, watch_id=0)
        assert [create.key for create in stream(1).creates] == [b"a", b"b"]
        assert (client.streams[0].cancelled, witness.refusals) == (True, [])
        stream(1).say(created=True, canceled=True, watch_id=-1, cancel_reason=reason)
        assert len(witness.refusals) == 1

    def test_a_lack_of_permission_does_not_disturb_the_others(self, watcher, client, stream, eventually):
        """
        When the read is refused too, or needed no new token, the stream stays as it is.
        """
        client.log_in("good")
        refused, also_refused = Witness(), Witness()
        watcher.watch(b"a", refused)
        first = stream(0)
        first.say(created=True, canceled=True, watch_id=-1, cancel_reason="etcdserver: permission denied")
        eventually(lambda: refused.refusals)

        def deny() -> None:
            raise errors.PermissionDenied("range b: permission denied")

        client.on_read = deny
        watcher.watch(b"b", also_refused)
        first.say(created=True, canceled=True, watch_id=-1, cancel_reason="etcdserver: permission denied")
        eventually(lambda: also_refused.refusals)

        assert len(client.streams) == 1
        assert not first.cancelled

    def test_doubt_outlasts_an_outage(self, watcher, client, stream, eventually):
        """
        While nobody answers the read, nothing is known: the watch is asked for again.
        """
        client.log_in("good")
        witness = Witness()
        watcher.watch(b"a", witness)
        first = stream(0)

        def fail() -> None:
            raise errors.Unavailable("nobody answers")

        client.on_read = fail
        first.say(created=True, canceled=True, watch_id=-1, cancel_reason="etcdserver: permission denied")

        eventually(lambda: len(first.creates) == 2)
        assert witness.refusals == []

    def test_one_that_is_behind_the_times_is_refused(self, watcher, client, stream):
        """
        A `created` older than what was seen when it was asked for: another member is asked, nothing is told.
        """
        client.seen_revision = 50
        witness = Witness()
        watcher.watch(b"a", witness)
        first = stream(0)

        first.say(49, created=True, watch_id=0)

        assert first.cancelled
        assert witness.created == []
        assert client.drops == ["a member at revision 49 is behind 50"]
        stream(1).say(50, created=True, watch_id=0)
        assert witness.created == [50]

    def test_only_what_was_seen_before_it_was_asked_for_counts(self, watcher, client, stream):
        """
        What others learn while the create is on its way does not make its answer old.
        """
        client.seen_revision = 50
        witness = Witness()
        watcher.watch(b"a", witness)
        first = stream(0)
        client.seen_revision = 60

        first.say(50, created=True, watch_id=0)

        assert witness.created == [50]

    def test_a_watch_cancelled_while_it_is_created_is_cancelled_at_the_server(self, watcher, stream):
        """
        Its id is known only when it stands: then it is taken back, and nobody is told.
        """
        early, behind = Witness(), Witness()
        cancelled = watcher.watch(b"a", early)
        watcher.watch(b"b", behind)
        first = stream(0)

        cancelled.cancel()
        first.say(created=True, watch_id=0)
        first.tell(0, ("a", 11))

        assert first.cancels == [0]
        assert early == Witness()
        assert first.creates[-1].key == b"b"

    def test_a_watch_cancelled_before_it_was_sent_is_never_asked_for(self, watcher, stream):
        """
        It leaves the queue without a trace.
        """
        watcher.watch(b"a", Witness())
        watcher.watch(b"b", Witness()).cancel()
        first = stream(0)

        first.say(created=True, watch_id=0)

        assert [create.key for create in first.creates] == [b"a"]


class TestEvents:
    def test_what_was_told_is_not_told_again(self, begin):
        """
        A redelivered event, or one from before the watch's start, is dropped.
        """
        witness, _, first = begin()

        first.tell(0, ("k", 10), ("k", 11))
        first.tell(0, ("k", 11), ("k", 12))
        first.tell(0, ("k", 12))

        assert witness.batches == [[("k", 11)], [("k", 12)]]

    def test_fragments_are_joined(self, begin):
        """
        Nothing is told until the last part has come; then everything, in one piece.
        """
        witness, _, first = begin()

        first.tell(0, ("a", 11), ("b", 12), fragment=True)
        first.tell(0, ("c", 12), fragment=True)
        assert witness.batches == []
        first.tell(0, ("d", 12))

        assert witness.batches == [[("a", 11), ("b", 12), ("c", 12), ("d", 12)]]

    def test_parts_of_a_batch_whose_rest_was_lost_are_forgotten(self, begin, stream):
        """
        The stream broke between two fragments: the batch comes again, whole, and is told once.
        """
        witness, _, first = begin()
        first.tell(0, ("a", 11), ("b", 12), fragment=True)

        first.end(BROKEN)
        second = stream(1)
        second.say(12, created=True, watch_id=0)
        second.tell(0, ("a", 11), ("b", 12), ("c", 12))

        assert second.creates[0].start_revision == 10
        assert witness.batches == [[("a", 11), ("b", 12), ("c", 12)]]

    def test_two_watches_fragments_do_not_mix(self, watcher, stream):
        """
        Each id's parts are joined by themselves.
        """
        one, two = Witness(), Witness()
        watcher.watch(b"a", one)
        watcher.watch(b"b", two)
        first = stream(0)
        first.say(created=True, watch_id=0)
        first.say(created=True, watch_id=1)

        first.tell(0, ("a", 11), fragment=True)
        first.tell(1, ("b", 12))
        first.tell(0, ("a", 12))

        assert (one.batches, two.batches) == ([[("a", 11), ("a", 12)]], [[("b", 12)]])

    def test_after_cancel_nothing_is_told(self, begin):
        """
        What was on its way when it was cancelled is dropped, and etcd is told.
        """
        witness, made, first = begin()

        made.cancel()
        first.tell(0, ("k", 11))

        assert (witness.batches, first.cancels) == ([], [0])

    def test_another_clusters_events_are_not_told(self, begin, client):
        """
        Who answers for another cluster is not believed.
        """
        witness, _, first = begin()
        client.foreign = True

        first.tell(0, ("k", 11))

        assert witness.batches == []

    def test_a_compaction_ends_it(self, begin):
        """
        The watch is told from where on history is there, once, and then nothing.
        """
        witness, made, first = begin(start_revision=3)

        first.say(30, canceled=True, watch_id=0, compact_revision=20)
        first.tell(0, ("k", 31))

        assert (witness.gaps, witness.batches, made.state) == ([20], [], watch.State.ENDED)


class TestResumption:
    def test_it_resumes_behind_its_last_event(self, begin, stream):
        """
        Not behind the header, which can be far ahead of the events that are still to come.  It asks for the
        last one again, and does not tell it again.
        """
        witness, _, first = begin(start_revision=5)
        first.tell(0, ("k", 6), ("k", 7), revision=99)

        first.end(BROKEN)
        second = stream(1)
        second.say(99, created=True, watch_id=0)
        second.tell(0, ("k", 7), ("k", 8), revision=99)

        assert second.creates[0].start_revision == 7
        assert [[at for _, at in batch] for batch in witness.batches] == [[6, 7], [8]]

    def test_who_hears_of_no_deletion_resumes_right_behind(self, watcher, stream):
        """
        A compaction takes only a deletion at its own revision with it.
        """
        watcher.watch(b"a", Witness(), filters=(watch.NO_DELETES,))
        stream(0).say(created=True, watch_id=0)

        stream(0).end(BROKEN)

        assert stream(1).creates[0].start_revision == 11

    @pytest.mark.parametrize(("start", "resumed"), [(0, 10), (5, 4)])
    def test_without_events_it_resumes_where_it_stood(self, begin, stream, start, resumed):
        """
        Begun at "now": at the created revision.  Begun in the past: where it began.  One earlier, both times.
        """
        _, _, first = begin(start_revision=start)

        first.end(BROKEN)

        assert stream(1).creates[0].start_revision == resumed

    def test_one_that_did_not_stand_yet_begins_anew(self, watcher, stream):
        """
        The stream broke before the create was answered: "now" is still to come.
        """
        watcher.watch(b"a", Witness())
        stream(0).end(BROKEN)

        assert stream(1).creates[0].start_revision == 0

    def test_an_old_stream_is_not_listened_to(self, begin, stream):
        """
        What comes from a stream that was given up could be told twice, or out of order.
        """
        witness, _, first = begin()
        first.end(BROKEN)
        stream(1).say(12, created=True, watch_id=0)

        first.tell(0, ("k", 11))
        first.end(BROKEN)

        assert witness.batches == []
        assert witness.created == [10, 12]

    def test_cancelled_ones_are_not_resumed(self, watcher, stream):
        """
        Only who still wants to hear is asked for again, in the order in which they were begun.
        """
        made = [watcher.watch(name, Witness()) for name in (b"a", b"b", b"c", b"d")]
        first = stream(0)
        for watch_id in range(3):
            first.say(created=True, watch_id=watch_id)
        made[1].cancel()

        first.end(BROKEN)
        second = stream(1)
        for watch_id in range(3):
            second.say(created=True, watch_id=watch_id)

        # The one whose create was pending goes first: it was asked for already.
        assert [create.key for create in second.creates] == [b"d", b"a", b"c"]

    def test_a_stream_that_is_ended_at_once_is_not_stormed(self, watcher, client, stream, monkeypatch):
        """
        The pauses between attempts grow, until a watch stands.
        """
        pauses: list[float] = []

        class Time:
            sleep = staticmethod(pauses.append)

        monkeypatch.setattr(watch, "time", Time)
        monkeypatch.setattr(watch.random, "uniform", lambda low, high: high)
        watcher.watch(b"a", Witness())

        for number in range(5):
            stream(number).end(LEADERLESS)
        assert pauses == [0.02 * 2**number for number in range(len(pauses))]
        assert len(pauses) >= 4
        assert client.drops == ["etcdserver: no leader"] * 5

        stream(5).say(created=True, watch_id=0)
        pauses.clear()
        stream(5).end(BROKEN)
        stream(6)
        assert pauses == []

    def test_closing_ends_it_in_silence(self, begin, watcher, client):
        """
        Nothing is told and nothing is opened any more.
        """
        witness, _, first = begin()

        watcher.close()
        first.tell(0, ("k", 11))
        first.end(BROKEN)

        assert first.cancelled
        assert (witness.batches, len(client.streams)) == ([], 1)


# A model of the server's side: history, and streams that deliver it in any pieces and break anywhere.


class Etcd(Client):
    """Keeps a history, and delivers it to whatever watch stands, piece by piece."""

    def __init__(self) -> None:
        super().__init__()
        self.revision = 10
        self.history: list[tuple[str, int]] = []
        self.delivered: dict[int, int] = {}  # by watch id: how far into the history
        self.created: list[int] = []
        self.answered = 0

    @property
    def current(self) -> Stream:
        return self.streams[-1]

    def commit(self, keys: int) -> None:
        self.revision += 1
        self.history.extend((f"k{number}", self.revision) for number in range(keys))

    def break_off(self) -> None:
        self.answered = 0
        self.delivered.clear()
        self.current.end(BROKEN)

    def answer_creates(self) -> None:
        while self.answered < len(self.current.creates):
            create = self.current.creates[self.answered]
            start = create.start_revision or self.revision + 1
            behind = [number for number, (_, at) in enumerate(self.history) if at >= start]
            self.delivered[self.answered] = behind[0] if behind else len(self.history)
            self.current.say(self.revision, created=True, watch_id=self.answered)
            self.answered += 1

    def deliver(self, revisions: int, fragments: int, again: bool) -> None:
        """The next so many revisions, in so many parts, perhaps preceded by the last event once more."""
        for watch_id, at in list(self.delivered.items()):
            upto = {revision for _, revision in self.history[at:]}
            wanted = set(sorted(upto)[:revisions])
            batch = [event for event in self.history[at:] if event[1] in wanted]
            self.delivered[watch_id] = at + len(batch)
            if again and at:
                batch = [self.history[at - 1], *batch]
            size = max(1, len(batch) // fragments)
            parts = [batch[start : start + size] for start in range(0, len(batch), size)]
            for number, part in enumerate(parts):
                last = number == len(parts) - 1
                self.current.tell(watch_id, *part, revision=self.revision, fragment=not last)


STEPS = st.one_of(
    st.tuples(st.just("commit"), st.integers(1, 3)),
    st.tuples(st.just("deliver"), st.integers(1, 4), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("answer")),
    st.tuples(st.just("break")),
)


@given(st.lists(STEPS, max_size=40))
def test_whatever_breaks_each_change_is_told_once_in_order_and_whole(steps):
    """
    Any history, cut into any batches and fragments, redelivered, and broken off anywhere.
    """
    etcd = Etcd()
    watcher = watch.Watcher(etcd)  # type: ignore[arg-type]
    witness = Witness()
    # On this thread: what is tried here is what is told, not who opens the stream.
    watcher._open_elsewhere = lambda: None  # type: ignore[method-assign]
    watcher.watch(b"k", witness)

    def reopen() -> None:
        if watcher._stream is None:
            watcher._pause_s = 0.0
            watcher._opening = True
            watcher._open()

    reopen()
    for step, *details in [*steps, ("break",), ("answer",), ("deliver", 100, 1, True)]:
        if step == "commit":
            etcd.commit(*details)
        elif step == "deliver":
            etcd.deliver(*details)
        elif step == "answer":
            etcd.answer_creates()
        else:
            etcd.break_off()
            reopen()

    expected = [event for event in etcd.history if event[1] > witness.created[0]]
    assert [event for batch in witness.batches for event in batch] == expected
    for batch in witness.batches:
        whole = [event for event in expected if event[1] in {revision for _, revision in batch}]
        assert batch == whole
