"""What holds for any bytes, in any pieces: the sans-IO half of the wire under hypothesis."""

from __future__ import annotations

import itertools
import math
import re
import struct

import hpack
import hypothesis
import pytest
from hypothesis import strategies as st

from coordkit import errors
from coordkit.wire import address, frames, grpc, http2, sending
from tests.wire import machines, peers
from tests.wire.machines import HEAD_BLOCK, SETTINGS, u32

OPEN_STREAMS = 3  # with the ids 1, 3 and 5
PERCENT = re.compile(r"[^ -$&-~]", re.DOTALL)  # what gRPC does not let stand in a grpc-message


KINDS = ["data", "padded", "head", "continued", "reset", "ping", "settings", "credit", "whole", "unknown"]


@st.composite
def server_frames(draw: st.DrawFn) -> bytes:
    """One frame, or a head and its continuation, that a server may send at any point."""
    stream_id = draw(st.sampled_from([1, 3, 5]))
    content = draw(st.binary(max_size=40))
    end = draw(st.sampled_from([0, 0, frames.END_STREAM]))
    kind = draw(st.sampled_from(KINDS))
    if kind == "data":
        return frames.pack(frames.DATA, end, stream_id, content)
    if kind == "padded":
        size = draw(st.integers(0, 255))
        return frames.pack(frames.DATA, end | frames.PADDED, stream_id, bytes([size]) + content + bytes(size))
    if kind == "head":
        return frames.pack(frames.HEADERS, end | frames.END_HEADERS, stream_id, HEAD_BLOCK)
    if kind == "continued":
        block = b"\x00\x01n" + bytes([len(content)]) + content
        cut = draw(st.integers(0, len(block)))
        first = frames.pack(frames.HEADERS, end, stream_id, block[:cut])
        return first + frames.pack(frames.CONTINUATION, frames.END_HEADERS, stream_id, block[cut:])
    if kind == "whole":
        return peers.response(stream_id, content)
    if kind == "reset":
        return frames.pack(frames.RST_STREAM, 0, stream_id, u32(draw(st.integers(0, 20))))
    if kind == "ping":
        return frames.pack(frames.PING, draw(st.sampled_from([0, 1])), 0, content[:8].ljust(8))
    if kind == "settings":
        return machines.settings(INITIAL_WINDOW_SIZE=draw(st.integers(0, 2**20)))
    if kind == "credit":
        return frames.pack(frames.WINDOW_UPDATE, 0, stream_id, u32(draw(st.integers(1, 1000))))
    return frames.pack(draw(st.integers(10, 255)), draw(st.integers(0, 255)), stream_id, content)


random_frames = st.builds(
    frames.pack,
    st.one_of(st.integers(0, 10), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 1, 4, 5, 8, 0xD, 0x24]), st.integers(0, 255)),
    st.one_of(st.sampled_from([0, 1, 2, 3, 5, 7]), st.integers(0, 2**32 - 1)),
    st.one_of(
        st.just(HEAD_BLOCK), st.integers(0, 2**32 - 1).map(u32), st.binary(max_size=6), st.binary(max_size=40)
    ),
)

head_values = st.one_of(st.binary(max_size=9), st.sampled_from([b"200", b"0", b"application/grpc"]))
heads = st.dictionaries(
    st.sampled_from([b":status", b"content-type", b"grpc-status", b"grpc-message", b"x"]), head_values
)
sink_events = st.one_of(
    st.tuples(st.just("data"), st.binary(max_size=20), st.booleans()),
    st.tuples(st.just("headers"), heads, st.booleans()),
    st.tuples(st.just("reset"), st.integers(0, 2**32 - 1), st.just(True)),
)


def client() -> tuple[http2.Connection, list[machines.Log]]:
    """A connection with three open streams, one of them blocked by its window."""
    connection = http2.Connection()
    connection.receive(SETTINGS)
    sizes = (0, 100, 100_000)
    sinks = [machines.request(connection, bytes(size)) for size in sizes]
    connection.take_output()
    return connection, sinks


def pieces(octets: bytes, cuts: list[int]) -> list[bytes]:
    """The same bytes, cut at these places."""
    places = [0, *sorted(min(cut, len(octets)) for cut in cuts), len(octets)]
    return [octets[start:end] for start, end in itertools.pairwise(places)]


class TestConnection:
    @hypothesis.given(st.lists(server_frames(), max_size=12), st.lists(st.integers(0, 3_000), max_size=8))
    def test_any_split_gives_the_same_events_and_answers(self, sent, cuts):
        """
        TCP may cut the server's bytes anywhere, into any number of pieces, also empty ones.
        """
        octets = peers.response(1, b"so that its blocks are known") + b"".join(sent)
        whole, whole_sinks = client()
        cut, cut_sinks = client()

        whole.receive(octets)
        for piece in pieces(octets, cuts):
            cut.receive(piece)

        assert [sink.events for sink in cut_sinks] == [sink.events for sink in whole_sinks]
        assert machines.output(cut) == machines.output(whole)
        assert cut.pongs == whole.pongs

    @hypothesis.given(st.lists(st.one_of(random_frames, server_frames()), max_size=30), st.integers(1, 50))
    def test_random_frames_raise_nothing_but_protocol_errors(self, sent, step):
        """
        The connection goes on, or ends with a ProtocolError and a GOAWAY; what it keeps is bounded.
        """
        connection, sinks = client()
        octets = b"".join(sent)

        try:
            for at in range(0, len(octets), step):
                connection.receive(octets[at : at + step])
        except frames.ProtocolError as error:
            kind, *_, payload = machines.split_frames(machines.output(connection))[-1]
            assert (kind, payload) == (frames.GOAWAY, u32(0, error.code))

        kept = sum(len(octets) for octets in connection.take_output())
        assert kept <= 100_000 + 64 * 2**10 + 13 * 1_001
        assert len(connection._rest) <= frames.LARGEST_FRAME + 9
        assert connection.open_streams <= OPEN_STREAMS
        assert all(sum(event[0] == "reset" for event in sink.events) <= 1 for sink in sinks)

    @hypothesis.given(st.booleans(), st.binary(max_size=400), st.integers(1, 100))
    def test_random_bytes_raise_nothing_but_protocol_errors(self, greeted, octets, step):
        """
        A peer that speaks something else, from the start or from some point on, is noticed or waited for.
        """
        connection = http2.Connection()
        if greeted:
            connection.receive(SETTINGS)

        try:
            for at in range(0, len(octets), step):
                connection.receive(octets[at : at + step])
        except frames.ProtocolError:
            assert connection.has_output
        else:
            assert len(connection._rest) <= len(octets)

    @hypothesis.settings(max_examples=50)
    @hypothesis.given(
        st.lists(st.integers(0, 90_000), min_size=1, max_size=4),
        st.lists(st.tuples(st.integers(0, 4), st.integers(1, 70_000)), max_size=20),
        st.lists(st.integers(0, 100_000), max_size=3),
    )
    def test_no_window_is_ever_overrun_and_everything_arrives(self, sizes, credits, initial_windows):
        """
        The h2 library checks each byte against the windows that it gave, in whatever order it gives them.
        """
        pair = machines.Machines()
        for size in sizes:
            machines.request(pair.client, bytes(size))
        pair.shuttle()
        for which, size in credits:
            stream_id = None if which >= len(sizes) else 2 * which + 1
            pair.server.increment_flow_control_window(size, stream_id)
            if initial_windows:
                value = initial_windows.pop()
                pair.server.update_settings({machines.h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: value})
            pair.shuttle()

        pair.server.increment_flow_control_window(2**20)
        for number in range(len(sizes)):
            pair.server.increment_flow_control_window(2**20, 2 * number + 1)
        pair.shuttle()

        got = [0] * len(sizes)
        for event in pair.events:
            if isinstance(event, machines.h2.events.DataReceived):
                got[event.stream_id // 2] += len(event.data)
        assert got == sizes


class Exchange(grpc.Exchange):
    """What comes of a response."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[bytes] = []
        self.statuses: list[grpc.Status] = []
        self.given_up = 0

    def on_message(self, message: bytes) -> None:
        assert type(message) is bytes
        self.messages.append(message)

    def on_status(self, status: grpc.Status) -> None:
        self.statuses.append(status)

    def give_up(self) -> None:
        self.given_up += 1


HEAD = {b":status": b"200", b"content-type": b"application/grpc+proto"}


def percent_encoded(text: str) -> bytes:
    """As the gRPC project's PROTOCOL-HTTP2 document says."""
    return PERCENT.sub(lambda match: "".join(f"%{octet:02X}" for octet in match[0].encode()), text).encode()


class TestExchange:
    @hypothesis.given(st.lists(st.binary(max_size=30), max_size=6), st.lists(st.integers(0, 300), max_size=8))
    def test_messages_do_not_depend_on_the_frames(self, messages, cuts):
        """
        DATA frames and messages need not coincide: each message comes whole, once, in order.
        """
        exchange = Exchange()
        octets = b"".join(grpc.frame(message) for message in messages)

        exchange.on_headers(HEAD, False)
        for piece in pieces(octets, cuts):
            exchange.on_data(piece, False)
        exchange.on_headers({b"grpc-status": b"0"}, True)

        assert exchange.messages == messages
        assert exchange.statuses == [grpc.OK]

    @hypothesis.given(st.lists(sink_events, max_size=8))
    def test_any_order_of_events_ends_at_most_once(self, events):
        """
        A response may be any nonsense: there is one status, no message after it, and no exception.
        """
        exchange = Exchange()

        for kind, content, end in events:
            before = list(exchange.messages) if exchange.statuses else None
            if kind == "reset":
                exchange.on_reset(content)
            else:
                getattr(exchange, f"on_{kind}")(content, end)
            assert before is None or exchange.messages == before

        assert len(exchange.statuses) <= 1
        if any(end for *_, end in events):
            assert len(exchange.statuses) == 1

    @hypothesis.given(heads, st.one_of(st.binary(max_size=12), st.binary(max_size=9).map(grpc.frame)), heads)
    @hypothesis.example(HEAD, grpc.frame(b"message"), {b"grpc-status": b"0"})
    def test_a_response_at_once_is_that_in_pieces(self, head, body, trailers):
        """
        Messages and status are the same, whatever the three parts are.
        """
        at_once, in_pieces = Exchange(), Exchange()

        at_once.on_response(head, body, trailers)
        in_pieces.on_headers(head, False)
        in_pieces.on_data(body, False)
        in_pieces.on_headers(trailers, True)

        assert (at_once.messages, at_once.statuses) == (in_pieces.messages, in_pieces.statuses)
        assert at_once.given_up == in_pieces.given_up

    @hypothesis.given(st.integers(1, 16), st.text())
    def test_messages_of_errors_are_percent_decoded(self, code, text):
        """
        Any text comes back as it was, whatever its letters.
        """
        exchange = Exchange()
        trailers = {b"grpc-status": str(code).encode(), b"grpc-message": percent_encoded(text)}

        exchange.on_headers({**HEAD, **trailers}, True)

        assert exchange.statuses == [grpc.Status(grpc.Code(code), text, from_server=True)]

    @hypothesis.given(st.binary(), st.binary(max_size=30))
    def test_broken_trailers_still_give_a_status(self, number, text):
        """
        Numbers that are none, and messages that no encoder made, raise nothing.
        """
        exchange = Exchange()

        exchange.on_headers({**HEAD, b"grpc-status": number, b"grpc-message": text}, True)

        assert len(exchange.statuses) == 1

    @pytest.mark.parametrize("size", [grpc.LARGEST_MESSAGE + 1, 2**32 - 1])
    def test_a_message_too_large_to_keep_is_refused_at_its_prefix(self, size):
        """
        Its length is enough to end the exchange; not a byte of it is kept.
        """
        exchange = Exchange()
        exchange.on_headers(HEAD, False)

        exchange.on_data(struct.pack(">BL", 0, size) + b"start", False)

        assert exchange.statuses[0].code is grpc.Code.INTERNAL
        assert exchange.given_up == 1
        exchange.on_data(b"more", True)
        assert len(exchange.statuses) == 1

    def test_a_compressed_message_is_refused(self):
        """
        We accept no compression, so its flag is the server's mistake.
        """
        exchange = Exchange()
        exchange.on_headers(HEAD, False)

        exchange.on_data(struct.pack(">BL", 1, 3) + b"zip", False)

        assert (exchange.messages, exchange.statuses[0].code) == ([], grpc.Code.INTERNAL)

    @pytest.mark.parametrize(
        ("head", "code"),
        [
            ({b":status": b"400"}, grpc.Code.INTERNAL),
            ({b":status": b"401"}, grpc.Code.UNAUTHENTICATED),
            ({b":status": b"403"}, grpc.Code.PERMISSION_DENIED),
            ({b":status": b"404"}, grpc.Code.UNIMPLEMENTED),
            ({b":status": b"429"}, grpc.Code.UNAVAILABLE),
            ({b":status": b"502"}, grpc.Code.UNAVAILABLE),
            ({b":status": b"503"}, grpc.Code.UNAVAILABLE),
            ({b":status": b"504"}, grpc.Code.UNAVAILABLE),
            ({b":status": b"500"}, grpc.Code.UNKNOWN),
            ({b":status": b"200", b"content-type": b"text/html"}, grpc.Code.UNKNOWN),
            ({b":status": b"what"}, grpc.Code.INTERNAL),
            ({}, grpc.Code.INTERNAL),
        ],
    )
    @pytest.mark.parametrize("end", [False, True])
    def test_responses_that_are_not_grpc_get_a_status(self, head, code, end):
        """
        A proxy answers with an HTTP status; the stream is given up unless it has ended.
        """
        exchange = Exchange()

        exchange.on_headers(head, end)

        assert [status.code for status in exchange.statuses] == [code]
        assert exchange.given_up == (not end)

    def test_an_informational_response_is_skipped(self):
        """
        Any number of 1xx heads may precede the response.
        """
        exchange = Exchange()

        exchange.on_headers({b":status": b"103"}, False)
        exchange.on_headers(HEAD, False)
        exchange.on_headers({b"grpc-status": b"0"}, True)

        assert exchange.statuses == [grpc.OK]

    @pytest.mark.parametrize(
        ("code", "status", "outcome"),
        [
            (frames.ErrorCode.NO_ERROR, grpc.Code.INTERNAL, errors.Outcome.UNKNOWN),
            (frames.ErrorCode.REFUSED_STREAM, grpc.Code.UNAVAILABLE, errors.Outcome.NONE),
            (frames.ErrorCode.CANCEL, grpc.Code.CANCELLED, errors.Outcome.UNKNOWN),
            (frames.ErrorCode.ENHANCE_YOUR_CALM, grpc.Code.RESOURCE_EXHAUSTED, errors.Outcome.UNKNOWN),
            (frames.ErrorCode.INADEQUATE_SECURITY, grpc.Code.PERMISSION_DENIED, errors.Outcome.UNKNOWN),
            (0xBADBAD, grpc.Code.INTERNAL, errors.Outcome.UNKNOWN),
        ],
    )
    def test_resets_get_a_status_and_an_outcome(self, code, status, outcome):
        """
        Only a refused stream is certain to have done nothing.
        """
        exchange = Exchange()

        exchange.on_reset(code)

        assert [(found.code, found.outcome) for found in exchange.statuses] == [(status, outcome)]

    def test_an_exchange_is_finished_once(self):
        """
        The first status stays, whoever else has something to say about it.
        """
        exchange = Exchange()
        lost = grpc.Status(grpc.Code.UNAVAILABLE, "lost")

        exchange.finish(lost)
        exchange.finish(grpc.OK)

        assert exchange.statuses == [lost]
        assert exchange.ended

    def test_a_reset_after_the_reply_is_no_error(self):
        """
        Servers end a request that they need not read to its end with RST_STREAM(NO_ERROR).
        """
        exchange = Exchange()
        exchange.on_headers(HEAD, False)
        exchange.on_data(grpc.frame(b"reply"), False)
        exchange.on_headers({b"grpc-status": b"0"}, True)

        exchange.on_reset(frames.ErrorCode.NO_ERROR)

        assert (exchange.messages, exchange.statuses) == ([b"reply"], [grpc.OK])


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=300)
names = st.from_regex(r"[a-z][a-z0-9_.-]{0,200}", fullmatch=True)


class TestRequestHead:
    @hypothesis.given(texts, texts, st.lists(st.tuples(names, texts), max_size=4).map(tuple))
    def test_an_independent_decoder_gives_back_the_fields(self, path, authority, metadata):
        """
        Literal header blocks need no encoder, but they are HPACK all the same.
        """
        block = grpc.request_head(path, authority, "http", metadata)

        decoded = hpack.Decoder(max_header_list_size=2**20).decode(block)

        assert [tuple(field) for field in decoded] == [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "coordkit"),
            *metadata,
        ]

    def test_metadata_is_never_indexed(self):
        """
        A token must not stay in the table of a proxy on the way.
        """
        block = grpc.request_head("/m", "peer", "https", (("token", "secret"),))

        fields = list(hpack.Decoder().decode(block))

        assert fields[1] == (":scheme", "https")
        assert isinstance(fields[-1], hpack.NeverIndexedHeaderTuple)

    @hypothesis.given(st.floats(0, 10**12))
    @hypothesis.example(1.0005)
    @hypothesis.example(10**5 + 0.5)
    def test_the_timeout_is_told_rounded_up(self, seconds):
        """
        At most eight digits and a unit, as gRPC demands; never less than the time that there is.
        """
        ((name, value),) = hpack.Decoder().decode(grpc.timeout_field(seconds))

        assert name == "grpc-timeout"
        number, unit = value[:-1], value[-1]
        assert 1 <= len(number) <= 8
        told = int(number) * {"m": 0.001, "S": 1.0}[unit]
        assert told >= min(seconds, 10**8 - 1) * (1 - 1e-12)
        assert told <= max(seconds + (0.001 if unit == "m" else 1.0), 0.001) * (1 + 1e-12)

    def test_no_timeout_is_told_for_ever(self):
        """
        A call without a deadline has no such field.
        """
        assert grpc.timeout_field(math.inf) == b""


class TestAddress:
    @hypothesis.given(
        st.one_of(
            st.text(max_size=60),
            st.from_regex(
                r"(unix://|https?://)?(\[[0-9a-f:]+\]|[a-z.0-9-]+)(:[0-9]{1,6})?/?", fullmatch=True
            ),
        )
    )
    def test_any_text_is_an_address_or_an_invalid_value(self, text):
        """
        Nothing that a user may type raises anything else, and an address names itself again.
        """
        try:
            found = address.Address.parse(text)
        except errors.InvalidValue:
            return

        assert address.Address.parse(str(found), tls=found.tls) == found

    @pytest.mark.parametrize(
        ("text", "host", "port", "tls"),
        [
            ("localhost", "localhost", 2379, False),
            ("10.0.0.1:1", "10.0.0.1", 1, False),
            ("http://etcd.example:2379/", "etcd.example", 2379, False),
            ("https://etcd.example", "etcd.example", 2379, True),
            ("etcds://etcd.example:99", "etcd.example", 99, True),
            ("[::1]:23", "::1", 23, False),
            ("[fe80::1%eth0]", "fe80::1%eth0", 2379, False),
        ],
    )
    def test_endpoints_as_people_write_them(self, text, host, port, tls):
        """
        With or without scheme and port, names and both kinds of numbers.
        """
        assert address.Address.parse(text) == address.Address(host=host, port=port, tls=tls)

    @pytest.mark.parametrize("text", ["", "a:0", "a:65536", "a b", "ftp://a", "::1", "unix://", "h/p"])
    def test_what_is_no_endpoint(self, text):
        """
        The message quotes it.
        """
        with pytest.raises(errors.InvalidValue, match=re.escape(repr(text))):
            address.Address.parse(text)

    def test_a_unix_socket(self):
        """
        Its path is kept as it is; the authority is a name that servers accept.
        """
        found = address.Address.parse("unix:///run/etcd.sock")

        assert (found.path, found.authority, str(found)) == (
            "/run/etcd.sock",
            "localhost",
            "unix:///run/etcd.sock",
        )


class TestStream:
    def test_a_stream_is_opened_once(self):
        """
        The same request twice would be two requests.
        """
        connection, _ = client()
        stream = machines.request(connection)

        with pytest.raises(AssertionError):
            connection.open(stream, machines.REQUEST)

        assert isinstance(stream, sending.Stream)
