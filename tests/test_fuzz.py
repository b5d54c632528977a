"""Fuzzing of all that takes bytes or text from outside: no hang, no exception but the promised ones.

How many inputs each parser took, and how many of them it refused, is printed at the end of the module.
COORDKIT_FUZZ_EXAMPLES asks for more than the usual number.
"""

from __future__ import annotations

import collections
import itertools
import json
import math
import os
import string
import types
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from coordkit import codecs, errors, keys, settings, sharedline, vigil, waitlist
from coordkit.deadline import NEVER
from coordkit.etcd import kv, watch
from coordkit.recipes import once as onces
from coordkit.recipes import rounds
from coordkit.recipes.topic import cursors, groups
from coordkit.recipes.topic import names as topic_names
from coordkit.wire import address, fields, grpc, http2, messages, sending
from coordkit.wire import frames as framing

EXAMPLES = int(os.environ.get("COORDKIT_FUZZ_EXAMPLES", "100"))

#: Of each parser: inputs, and those that it refused with the error that it promises.
TAKEN: collections.Counter[str] = collections.Counter()
REFUSED: collections.Counter[str] = collections.Counter()

fuzz = hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None)


@pytest.fixture(scope="module", autouse=True)
def counts(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print how much was tried."""
    yield
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert reporter is not None and capture is not None
    with capture.global_and_fixture_disabled():
        reporter.ensure_newline()
        for name, taken in sorted(TAKEN.items()):
            reporter.write_line(f"fuzz: {name}: {taken} inputs, {REFUSED[name]} refused")


class Sink(sending.Stream):
    """What a stream was told, however it was put together."""

    def __init__(self, told: list[Any], name: int) -> None:
        self.told = told
        self.name = name

    def on_headers(self, headers: fields.Headers, end: bool) -> None:
        self.told.append((self.name, "headers", dict(headers), end))

    def on_data(self, data: bytes, end: bool) -> None:
        self.told.append((self.name, "data", data, end))

    def on_response(self, head: fields.Headers, body: bytes, trailers: fields.Headers) -> None:
        self.on_headers(head, False)
        self.on_data(body, False)
        self.on_headers(trailers, True)

    def on_reset(self, code: int) -> None:
        self.told.append((self.name, "reset", code))


# --- HTTP/2

BLOCKS = [
    b"\x88",  # :status 200, from the static table
    b"\x88\x5f\x10application/grpc",
    b"\x00\x0bgrpc-status\x010",
    b"\x00\x0bgrpc-status\x0214\x00\x0cgrpc-message\x03%zz",
    b"\x3f\xe1\x1f",  # a table size that we did not offer
    b"\xbe",  # an index into a table that is empty
    b"\x00\x05a",
]
payloads = st.one_of(
    st.sampled_from(BLOCKS),
    st.binary(max_size=40),
    st.integers(0, 2**32 - 1).map(lambda number: number.to_bytes(4, "big")),
    st.tuples(st.integers(0, 8), st.integers(0, 2**32 - 1)).map(
        lambda pair: pair[0].to_bytes(2, "big") + pair[1].to_bytes(4, "big")
    ),
    st.binary(min_size=8, max_size=8),
    st.binary(max_size=8).map(lambda body: b"\0" + len(body).to_bytes(4, "big") + body),
)
frames = st.builds(
    lambda kind, flags, stream_id, payload: framing.pack(kind, flags, stream_id, payload),
    st.one_of(st.sampled_from([framing.DATA, framing.HEADERS]), st.integers(0, 12)),
    st.sampled_from([0, 1, 4, 5, 8, 9, 13, 32, 36, 37, 255]),
    st.sampled_from([0, 1, 1, 3, 3, 5, 7, 2, 2**31 - 1, 2**32 - 1]),
    payloads,
)
GREETING = framing.pack(framing.SETTINGS, 0, 0, b"")


def receive(pieces: list[bytes]) -> tuple[list[Any], bool, http2.Connection]:
    """What a connection with three open streams makes of the pieces; whether it refused them."""
    TAKEN["http2.Connection.receive"] += 1
    connection = http2.Connection()
    told: list[Any] = []
    for number in range(3):
        connection.open(Sink(told, number), b"\x83", b"body", end=number != 2)
    try:
        for piece in pieces:
            connection.receive(piece)
    except framing.ProtocolError:
        REFUSED["http2.Connection.receive"] += 1
        return told, True, connection
    return told, False, connection


def cut(data: bytes, at: list[int]) -> list[bytes]:
    marks = [0, *sorted({mark % (len(data) + 1) for mark in at}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks)]


class TestHttp2:
    @fuzz
    @hypothesis.given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
    def test_garbage(self, data, at):
        """
        Any bytes, in any pieces: taken, or refused with ProtocolError and a GOAWAY.
        """
        _, refused, connection = receive(cut(data, at))

        assert not refused or b"\x07\x00" in b"".join(connection.take_output())

    @fuzz
    @hypothesis.given(st.lists(frames, max_size=30), st.lists(st.integers(0, 3000), max_size=8))
    def test_frames_in_any_split(self, parts, at):
        """
        Frames of every kind on every stream mean the same however they are cut.
        """
        data = b"".join(parts)

        whole = receive([GREETING, data])
        pieces = receive([GREETING, *cut(data, at)])

        assert whole[:2] == pieces[:2]
        assert whole[2].open_streams == pieces[2].open_streams
        assert b"".join(whole[2].take_output()) == b"".join(pieces[2].take_output())

    @fuzz
    @hypothesis.given(st.lists(frames, max_size=60))
    def test_a_peer_cannot_make_us_grow(self, parts):
        """
        What is kept and what is answered is bounded by what came; a stream hears of its end once.
        """
        told, _, connection = receive([GREETING, *parts])

        size = sum(map(len, parts))
        assert len(b"".join(connection.take_output())) <= 400 + 20 * len(parts)
        assert len(connection._rest) <= size
        assert len(connection._decoder.known) <= len(parts)
        assert len(connection.pings_owed) <= len(parts)
        for number in range(3):
            ends = [
                event for event in told if event[0] == number and (event[1] == "reset" or event[-1] is True)
            ]
            assert len(ends) <= 1
            assert not ends or [event for event in told if event[0] == number][-1] is ends[0]


# --- gRPC


class Call(grpc.Exchange):
    """An exchange, and what came of it."""

    __slots__ = ("given_up", "messages", "statuses")

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes] = []
        self.statuses: list[grpc.Status] = []
        self.given_up = 0

    def on_message(self, message: bytes) -> None:
        assert not self.ended
        self.messages.append(message)

    def on_status(self, status: grpc.Status) -> None:
        self.statuses.append(status)

    def give_up(self) -> None:
        self.given_up += 1


headers = st.dictionaries(
    st.sampled_from([b":status", b"content-type", b"grpc-status", b"grpc-message", b"x"]),
    st.one_of(
        st.sampled_from(
            [b"200", b"100", b"404", b"application/grpc", b"0", b"14", b"99", b"-1", b"%F0%9F%", b""]
        ),
        st.binary(max_size=12),
        st.just(b"9" * 5000),
    ),
)
bodies = st.one_of(
    st.binary(max_size=20).map(grpc.frame),
    st.binary(max_size=40),
    st.lists(st.binary(max_size=5).map(grpc.frame), max_size=4).map(b"".join),
    st.just(b"\0\xff\xff\xff\xff"),
)
steps = st.one_of(
    st.tuples(st.just("on_headers"), headers, st.booleans()),
    st.tuples(st.just("on_data"), bodies, st.booleans()),
    st.tuples(st.just("on_response"), headers, bodies, headers),
    st.tuples(st.just("on_reset"), st.one_of(st.integers(0, 20), st.integers(0, 2**32 - 1))),
)


class TestGrpc:
    @fuzz
    @hypothesis.given(st.lists(steps, max_size=12))
    def test_any_response(self, sequence):
        """
        Whatever a server answers, in whatever order, a call ends once, with a status that can be shown.
        """
        call = Call()

        for name, *arguments in sequence:
            TAKEN["grpc.Exchange"] += 1
            getattr(call, name)(*arguments)
        call.finish(grpc.Status(grpc.Code.UNAVAILABLE, "the end"))

        assert len(call.statuses) == 1
        REFUSED["grpc.Exchange"] += call.statuses[0].code is not grpc.Code.OK
        assert call.given_up <= 2
        str(grpc.CallFailed("/a/b", call.statuses[0])).encode()

    @fuzz
    @hypothesis.given(st.lists(st.binary(max_size=30), max_size=6), st.lists(st.integers(0, 300), max_size=6))
    def test_messages_in_any_split(self, sent, at):
        """
        Messages arrive whole and in order, however the frames cut them.
        """
        call = Call()
        call.on_headers({b":status": b"200", b"content-type": b"application/grpc"}, False)

        for piece in cut(b"".join(map(grpc.frame, sent)), at):
            TAKEN["grpc.Exchange"] += 1
            call.on_data(piece, False)
        call.on_headers({b"grpc-status": b"0"}, True)

        assert call.messages == sent
        assert [status.code for status in call.statuses] == [grpc.Code.OK]


# --- Names and keys

anything = st.text(st.characters(), max_size=90)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
keyish = st.lists(
    st.sampled_from([b"a", b"/", b"\xff", b"\xfe", b"\0", b"-", b"0", b"f" * 16]), max_size=6
).map(b"".join)


def usage(name: str, parse: Any, *arguments: Any) -> Any:
    """What a parser makes of it; None when it refuses with a UsageError."""
    TAKEN[name] += 1
    try:
        return parse(*arguments)
    except errors.UsageError as error:
        REFUSED[name] += 1
        str(error).encode("utf-8", "backslashreplace")
        return None


class TestKeys:
    @fuzz
    @hypothesis.given(anything)
    def test_any_text(self, text):
        """
        A text becomes one segment from which it can be read again, or InvalidName says why not.
        """
        segment = usage("keys.segment", keys.segment, text)
        path = usage("keys.namespace", keys.namespace, text)

        if segment is not None:
            assert keys.unsegment(segment) == text
            assert set(segment) <= set(string.ascii_letters + string.digits + "._~-%")
            assert segment not in (".", "..", "")
        assert path is None or not {"", ".", ".."} & set(path.split("/")) or path == ""

    @fuzz
    @hypothesis.given(anything)
    def test_unsegment_takes_whatever_stands_in_a_key(self, text):
        """
        Somebody else's key may hold anything.
        """
        assert isinstance(usage("keys.unsegment", keys.unsegment, text), str)

    @fuzz
    @hypothesis.given(names, names)
    def test_two_names_share_no_range(self, one, other):
        """
        Under one name's prefix there is no key of another name.
        """
        hypothesis.assume(one != other)
        mine, theirs = keys.prefix("ns", "lock", one), keys.prefix("ns", "lock", other)

        assert not theirs.startswith(mine) and not mine.startswith(theirs)

    @fuzz
    @hypothesis.given(keyish, keyish)
    def test_range_end(self, prefix, key):
        """
        A range holds exactly the keys that start with its prefix.
        """
        TAKEN["keys.range_end"] += 1
        end = keys.range_end(prefix)

        assert (prefix <= key and (end == b"\0" or key < end)) == key.startswith(prefix)

    @fuzz
    @hypothesis.given(
        keyish, keyish, st.integers(1, 2**63 - 1), st.text("0123456789abcdef", min_size=1, max_size=8)
    )
    def test_parse_place(self, prefix, rest, lease_id, nonce):
        """
        Our places are read back; whatever else stands in line is a place, or is none, and never an error.
        """
        TAKEN["keys.parse_place"] += 1
        assert keys.parse_place(prefix, keys.place(prefix, lease_id, nonce)) == (lease_id, nonce)

        found = keys.parse_place(prefix, prefix + rest)
        REFUSED["keys.parse_place"] += found is None

        assert found is None or found[0] < 2**64
        assert keys.parse_place(prefix + b"x", prefix) is None


# --- Addresses and URLs

WORDS = "etcd:// https:// unix:// unix: etcd: :// / // @ : ? & = , [ ] ::1 localhost h a..b 2379 0 65536"
WORDS += " % %00 %ff %2F # ttl timeout 10s nan inf -1 1e9 identity cacert key \ud800 \U0001f600"
parts = st.sampled_from([*WORDS.split(" "), " ", "\n", "\0", "9" * 5000])
urlish = st.one_of(anything, st.lists(parts, max_size=12).map("".join))


class TestAddresses:
    @fuzz
    @hypothesis.given(urlish, st.booleans())
    @hypothesis.example("h:" + "9" * 5000, False)
    def test_any_text(self, text, secure):
        """
        An endpoint is understood, and understood again as it is shown; or InvalidValue quotes it.
        """
        found = usage("address.parse", address.Address.parse, text, secure)

        if found is not None:
            again = address.Address.parse(str(found), found.tls)
            assert again == found
            assert found.path or 0 < found.port < 65536

    @fuzz
    @hypothesis.given(urlish)
    @hypothesis.example("etcd://h:" + "9" * 5000)
    @hypothesis.example("etcd://h/ns?ttl=" + "9" * 5000)
    @hypothesis.example("etcd://h/ns?timeout=1_0s")
    def test_any_url(self, text):
        """
        A URL gives settings, or InvalidValue or InvalidName says what is wrong.
        """
        found = usage("settings.from_url", settings.from_url, text)
        whole = usage("settings.resolve", settings.resolve, text, {})

        assert found is not None or whole is None
        if whole is not None:
            assert whole.options.endpoints
            assert 0 < whole.options.timeout_s < math.inf


# --- Stored values

json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["identity", "since", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())
stored_values = st.one_of(
    st.binary(max_size=60),
    json_texts,
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"identity":' * 50_000,
            b"9" * 5000,
            b'{"identity":"\\ud800"}',
            b"\xff\xfe{}",
            b'{"identity":1e999}',
        ]
    ),
)


class TestStoredValues:
    @fuzz
    @hypothesis.given(keyish, stored_values, st.integers(-(2**63), 2**63 - 1))
    def test_whoever_stands_in_line(self, key, value, number):
        """
        contenders() shows every key of a line, whoever made it and whatever it holds.
        """
        TAKEN["Line.contenders"] += 1
        stored = messages.KeyValue(key=b"/l/" + key, value=value, lease=number, create_revision=number)
        client = types.SimpleNamespace(read=lambda request, deadline: messages.RangeResponse(kvs=[stored]))
        session: Any = types.SimpleNamespace(
            client=client, lease_id=7, link=types.SimpleNamespace(namespace="")
        )
        line = waitlist.Line(session.link, b"/l/")

        (contender,) = line.contenders(session, NEVER)

        assert contender.key == stored.key and contender.fence == number
        assert isinstance(contender.identity, str) and isinstance(contender.since, str)
        REFUSED["Line.contenders"] += not contender.identity

    @fuzz
    @hypothesis.given(stored_values)
    def test_codecs(self, stored):
        """
        A codec gives a value or raises ValueError.
        """
        for codec in (codecs.TEXT, codecs.JSON, codecs.BYTES):
            name = f"codecs.{type(codec).__name__}"
            TAKEN[name] += 1
            try:
                codec.decode(stored)
            except ValueError:
                REFUSED[name] += 1


# --- Values of recipes

LAYOUT = rounds.Layout(b"/n/barrier/b/", b"", b"verdict")
PERMITS = sharedline.PermitsLine.__new__(sharedline.PermitsLine)
PERMITS.limits = b"/l/"


def kept(key: bytes, value: bytes) -> kv.KeyValue:
    return kv.KeyValue(key, value, 1, 1, 1, 0)


#: By name: what reads a value back.  Each takes any bytes, or refuses them with a UsageError.
READERS: dict[str, Any] = {
    "once.Slot.decode": lambda stored: onces.Slot.decode("s", stored),
    "rounds.Verdict.decode": rounds.Verdict.decode,
    "rounds.Generation.of": lambda stored: rounds.Generation.of(
        LAYOUT, vigil.View(1, {LAYOUT.generation_key: kept(LAYOUT.generation_key, stored)})
    ),
    "topic.names.parse_header": topic_names.parse_header,
    "topic.names.parse_head": topic_names.parse_head,
    "topic.names.parse_trimmed": topic_names.parse_trimmed,
    "topic.cursors._parse": lambda stored: cursors._parse(stored, 1),
    "topic.groups._parse": lambda stored: groups._parse(stored, b"k"),
    "semaphore.limit_of": lambda stored: PERMITS.limit_of([kept(b"/l/" + stored, b"")]),
}
#: What begins as it should.
nearly = st.one_of(
    stored_values,
    st.integers(0, 10**9).map(lambda number: b"%d" % number),
    st.integers(1, 6000).map(lambda count: b"9" * count),
    st.tuples(st.integers(0, 9), st.integers(1, 5000)).map(lambda pair: b"%d/%s" % (pair[0], b"1" * pair[1])),
    st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: b"%d %d" % pair),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["passed", "broken", "positions", "owner", "state", "attempt", "session"]),
            inner,
            max_size=5,
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


class TestRecipes:
    @pytest.mark.parametrize("name", READERS)
    @fuzz
    @hypothesis.given(stored=nearly)
    def test_whatever_is_found_in_a_key(self, name, stored):
        """
        Is taken, or refused as what none of us has put there.
        """
        usage(name, READERS[name], stored)


# --- Watches


class Stream:
    """What the watcher says to the server."""

    def __init__(self) -> None:
        self.channel = None
        self.creates = 0

    def send(self, message: bytes) -> None:
        request = messages.WatchRequest.FromString(message)
        self.creates += request.HasField("create_request")

    def cancel(self) -> None:
        """It is over."""


class Client:
    """As much of a client as the watcher sees."""

    def __init__(self) -> None:
        self.closed = False
        self.seen_revision = 0
        self.options = types.SimpleNamespace(timeout_s=5.0, user=None)
        self.metadata = ()
        self.dropped = 0
        self.streams: list[Stream] = []

    def note(self, header: messages.ResponseHeader) -> None:
        if header.cluster_id == 13:
            raise errors.Unavailable("another cluster")
        self.seen_revision = max(self.seen_revision, header.revision)

    def drop_channel(self, reason: str, channel: object = None) -> None:
        self.dropped += 1

    def stream(self, method: str, on_message: Any, on_end: Any, deadline: object) -> Stream:
        self.on_message, self.on_end = on_message, on_end
        self.streams.append(Stream())
        return self.streams[-1]


class Watcher(watch.Watcher):
    """Opens its streams when the test wants it, not on a thread."""

    def _open_elsewhere(self) -> None:
        self._opening = not self._client.closed

    def open_now(self) -> None:
        if self._opening:
            self._pause_s = 0.0
            self._open()


class Listener:
    """Checks the order of what it is told."""

    def __init__(self) -> None:
        self.watch: watch.Watch | None = None
        self.newest = 0
        self.over = False

    def on_created(self, revision: int) -> None:
        assert not self.over

    def on_events(self, events: list[watch.Event]) -> None:
        assert not self.over
        assert events
        self.newest = max(self.newest, events[-1].mod_revision)

    def on_gap(self, compacted: int) -> None:
        assert not self.over
        self.over = True

    def on_refused(self, error: errors.CoordError) -> None:
        assert not self.over
        self.over = True


small = st.integers(-2, 5)
events = st.builds(
    lambda kind, key, revision: messages.Event(
        type=kind, kv=messages.KeyValue(key=key, mod_revision=revision, create_revision=revision)
    ),
    st.sampled_from([0, 1]),
    st.sampled_from([b"a", b"b"]),
    st.integers(-1, 9),
)
responses = st.builds(
    lambda **fields: messages.WatchResponse(**fields).SerializeToString(),
    header=st.builds(
        messages.ResponseHeader, revision=st.integers(-1, 9), cluster_id=st.sampled_from([0, 1, 1, 1, 13])
    ),
    watch_id=small,
    created=st.booleans(),
    canceled=st.sampled_from([False, False, True]),
    compact_revision=st.sampled_from([0, 0, 3]),
    cancel_reason=st.sampled_from(["", "etcdserver: permission denied", "invalid auth token", "\U0001f600"]),
    fragment=st.booleans(),
    events=st.lists(events, max_size=3),
)
acts = st.one_of(
    st.tuples(st.just("say"), responses),
    st.tuples(st.just("say"), responses),
    st.tuples(st.just("say"), st.binary(max_size=30)),
    st.tuples(st.just("watch"), st.integers(0, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 4)),
    st.tuples(st.just("open"), st.none()),
    st.tuples(st.just("end"), st.sampled_from(["etcdserver: no leader", "broken"])),
)


class TestWatches:
    @fuzz
    @hypothesis.given(st.lists(acts, max_size=25))
    def test_any_conversation(self, sequence):
        """
        Whatever the server says in whatever order: no error, one create at a time, nothing after the end.
        """
        client: Any = Client()
        watcher = Watcher(client)
        listeners = [Listener()]
        listeners[0].watch = watcher.watch(b"a", listeners[0])
        watcher.open_now()

        for what, argument in sequence:
            self.act(watcher, client, listeners, what, argument)
            assert watcher._creating is None or watcher._creating not in watcher._queue
            for listener in listeners:
                assert listener.watch is not None
                assert not listener.over or listener.watch.state is watch.State.ENDED
        watcher.close()
        self.act(watcher, client, listeners, "say", b"")

    @staticmethod
    def act(watcher: Watcher, client: Any, listeners: list[Listener], what: str, argument: Any) -> None:
        if what == "say":
            TAKEN["Watcher._on_message"] += 1
            before = client.dropped
            client.on_message(argument)
            REFUSED["Watcher._on_message"] += client.dropped > before
        elif what == "watch":
            listeners.append(Listener())
            listeners[-1].watch = watcher.watch(b"b", listeners[-1], start_revision=argument)
        elif what == "cancel":
            chosen = listeners[argument % len(listeners)]
            assert chosen.watch is not None
            chosen.watch.cancel()
            chosen.over = True
        elif what == "open":
            watcher.open_now()
        else:
            client.on_end(grpc.Status(grpc.Code.UNAVAILABLE, argument, from_server=True))
