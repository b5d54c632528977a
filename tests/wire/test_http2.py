"""Our half of HTTP/2 against the h2 library's server half, and against frames that no library would send."""

from __future__ import annotations

import h2.errors
import h2.events
import h2.settings
import hpack
import pytest

from coordkit.wire import fields, frames, http2, sending
from tests.wire import machines
from tests.wire.machines import HEAD_BLOCK, OK_HEAD, SETTINGS, Machines, u32

WINDOW = frames.DEFAULT_WINDOW


@pytest.fixture
def pair() -> Machines:
    return Machines()


@pytest.fixture
def client() -> http2.Connection:
    """Greeted by a server that asks for nothing; its greeting is taken."""
    connection = http2.Connection()
    connection.receive(SETTINGS)
    connection.take_output()
    return connection


def bodies(events: list[h2.events.Event]) -> dict[int, bytes]:
    """The data received on each stream."""
    got: dict[int, bytes] = {}
    for event in events:
        if isinstance(event, h2.events.DataReceived):
            got[event.stream_id] = got.get(event.stream_id, b"") + event.data
    return got


def of(events: list[h2.events.Event], kind: type) -> list:
    return [event for event in events if isinstance(event, kind)]


class TestRequests:
    def test_head_body_and_end_arrive(self, pair):
        """
        A request is a HEADERS frame and DATA that ends the stream; the library finds no fault with it.
        """
        pair.request(b"the body")

        head = of(pair.events, h2.events.RequestReceived)[0]
        assert dict(head.headers) == {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/t/m",
            ":authority": "peer",
        }
        assert bodies(pair.events) == {1: b"the body"}
        assert of(pair.events, h2.events.StreamEnded)

    def test_an_empty_body_ends_its_stream(self, pair):
        """
        A request without a byte of body still says that it ends.
        """
        pair.request(b"")

        assert of(pair.events, h2.events.StreamEnded)

    def test_settings_are_acknowledged_both_ways(self, pair):
        """
        Each side has applied what the other announced: no dynamic table, no push, a large window.
        """
        assert pair.client.settled
        assert of(pair.events, h2.events.SettingsAcknowledged)
        theirs = pair.server.remote_settings
        assert theirs.header_table_size == 0
        assert theirs.enable_push == 0
        assert theirs.initial_window_size == sending.STREAM_WINDOW
        assert pair.server.outbound_flow_control_window == http2.CONNECTION_WINDOW

    def test_a_body_larger_than_the_windows_goes_piece_by_piece(self, pair):
        """
        A 1.5 MiB request passes windows of 64 KiB: never more than the credit, and in the end all of it.
        """
        body = bytes(range(256)) * (6 * 1024)

        stream = pair.request(body)

        arrived = bodies(pair.events)[1]
        assert len(arrived) == WINDOW
        assert stream.end_offset is None
        while got := bodies(pair.events):
            arrived += b"" if got[1] == arrived else got[1]
            if not pair.acknowledge(1):
                break
        assert arrived == body
        assert of(pair.events, h2.events.StreamEnded)
        assert stream.end_offset == pair.client.queued_bytes

    def test_two_large_bodies_share_the_connection(self, pair):
        """
        What one stream could take is shared in turns: neither waits until the other is through.
        """
        one = machines.request(pair.client, b"a" * 200_000)
        two = machines.request(pair.client, b"b" * 200_000)
        pair.shuttle()
        got = {one.id: 0, two.id: 0}

        turns = []
        while arrived := bodies(pair.events):
            for stream_id, data in arrived.items():
                got[stream_id] += len(data)
            turns.append(set(arrived))
            pair.acknowledge(1)

        assert got == {one.id: 200_000, two.id: 200_000}
        assert turns.count({one.id, two.id}) >= 2

    def test_windows_go_negative_when_settings_shrink_them(self, pair):
        """
        After the peer lowers its initial window below what is on the way, credit first fills the hole.
        """
        pair.request(b"x" * 200_000)
        assert len(bodies(pair.events)[1]) == WINDOW
        pair.events.clear()
        pair.server.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1_000})
        pair.shuttle()
        pair.server.increment_flow_control_window(1_000_000)  # now only the stream's window counts

        pair.server.increment_flow_control_window(64_535, stream_id=1)
        pair.shuttle()

        assert bodies(pair.events) == {}  # the stream's window has come up to 0
        pair.server.increment_flow_control_window(17, stream_id=1)
        pair.shuttle()
        assert bodies(pair.events) == {1: b"x" * 17}

    def test_a_larger_initial_window_lets_blocked_streams_go_on(self, pair):
        """
        SETTINGS move the windows of open streams, and what waited goes out at once.
        """
        pair.server.increment_flow_control_window(1_000_000)
        pair.request(b"x" * 100_000)
        assert len(bodies(pair.events)[1]) == WINDOW

        pair.server.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
        pair.shuttle()

        assert len(bodies(pair.events)[1]) == 100_000

    def test_frames_are_no_larger_than_the_peer_takes(self):
        """
        16 KiB until the peer announces more; the library refuses larger ones.
        """
        small, large = Machines(), Machines(MAX_FRAME_SIZE=60_000)

        for pair in (small, large):
            pair.request(b"x" * 60_000)

        sizes = [
            [len(payload) for kind, *_, payload in machines.split_frames(pair.sent) if kind == frames.DATA]
            for pair in (small, large)
        ]
        assert sizes == [[16_384, 16_384, 16_384, 10_848], [60_000]]

    def test_a_head_larger_than_a_frame_continues(self, pair):
        """
        A 40 KiB header block goes as HEADERS and CONTINUATION, with nothing between.
        """
        token = "t" * 40_000
        name, value = b"\x10\x05token", b"\x7f" + b"\xc1\xb7\x02" + token.encode()

        pair.request(b"body", block=machines.REQUEST + name + value)

        head = of(pair.events, h2.events.RequestReceived)[0]
        assert dict(head.headers)["token"] == token
        kinds = [kind for kind, *_ in machines.split_frames(pair.sent)]
        at = kinds.index(frames.HEADERS)
        assert kinds[at : at + 4] == [frames.HEADERS, frames.CONTINUATION, frames.CONTINUATION, frames.DATA]

    def test_the_peer_limits_concurrent_streams(self):
        """
        `can_open` says no while as many streams are open as the peer allows, and yes again when one ended.
        """
        pair = Machines(MAX_CONCURRENT_STREAMS=2)
        pair.request(b"one")
        assert pair.client.can_open
        pair.request(b"two")

        assert not pair.client.can_open

        pair.server.send_headers(1, [*OK_HEAD, ("grpc-status", "0")], end_stream=True)
        pair.shuttle()
        assert pair.client.can_open

    def test_more_can_be_sent_on_an_open_stream(self, pair):
        """
        Messages follow the head, in order; the last one may end the stream.
        """
        stream = pair.request(b"one ", end=False)
        pair.client.send(stream, b"two ")
        pair.client.send(stream, b"three", end=True)
        pair.shuttle()

        assert bodies(pair.events) == {1: b"one two three"}
        assert of(pair.events, h2.events.StreamEnded)

    def test_nothing_is_sent_after_the_end_of_a_request(self, pair):
        """
        What follows the last byte is dropped, whether that has gone or still waits for the window.
        """
        gone = pair.request(b"the end")
        waits = pair.request(b"x" * 100_000)
        half = pair.request(b"half", end=False)
        pair.client.send(half, b"", end=True)

        for stream in (gone, waits, half):
            pair.client.send(stream, b"more")
            pair.client.send(stream, b"", end=True)
        pair.shuttle()
        pair.acknowledge(1)
        while pair.acknowledge(1):
            pass

        ends = [event.stream_id for event in of(pair.events, h2.events.StreamEnded)]
        assert sorted(ends) == [gone.id, waits.id, half.id]
        assert pair.client.open_streams == 3  # none was reset by the server

    def test_nothing_is_sent_on_a_stream_that_ended(self, pair):
        """
        The server may end a stream at any time; what we still send to it is dropped without harm.
        """
        stream = pair.request(b"one", end=False)
        pair.server.send_headers(1, [*OK_HEAD, ("grpc-status", "5")], end_stream=True)
        pair.shuttle()
        pair.sent = b""

        pair.client.send(stream, b"two")
        pair.shuttle()

        assert frames.DATA not in [kind for kind, *_ in machines.split_frames(pair.sent)]

    def test_a_response_before_the_end_of_the_request_resets_the_rest(self, pair):
        """
        What we still had to say is moot; RST_STREAM(NO_ERROR) frees the server's half of the stream.
        """
        pair.request(b"x" * 100_000)

        pair.server.send_headers(1, [*OK_HEAD, ("grpc-status", "8")], end_stream=True)
        pair.shuttle()

        reset = of(pair.events, h2.events.StreamReset)[0]
        assert reset.error_code == h2.errors.ErrorCodes.NO_ERROR
        assert pair.client.open_streams == 0

    def test_an_abandoned_stream_is_reset_once(self, pair):
        """
        RST_STREAM(CANCEL) goes out, its sink hears nothing more, and a second reset is nothing.
        """
        stream = pair.request(b"x" * 100_000)

        pair.client.reset(stream)
        pair.client.reset(stream)
        pair.shuttle()

        resets = of(pair.events, h2.events.StreamReset)
        assert [reset.error_code for reset in resets] == [h2.errors.ErrorCodes.CANCEL]
        assert stream.events == []

    def test_a_request_that_is_still_here_goes_nowhere(self, pair):
        """
        Nobody has taken it to send it: it is dropped, and what others have queued travels alone.
        """
        dropped = machines.request(pair.client, b"dropped")
        other = machines.request(pair.client, b"other")

        pair.client.reset(dropped)
        pair.shuttle()

        assert dropped.end_offset is None
        assert bodies(pair.events) == {other.id: b"other"}
        assert not of(pair.events, h2.events.StreamReset)

    def test_a_request_that_was_taken_may_still_arrive(self, pair):
        """
        Who took it may send it at any time: it is followed by RST_STREAM, and nobody says that it did not go.
        """
        taken = machines.request(pair.client, b"taken")
        on_its_way = pair.client.take_output()

        pair.client.reset(taken)

        assert taken.end_offset is not None and taken.end_offset <= pair.client.taken_bytes
        assert b"taken" in b"".join(on_its_way)
        assert b"".join(pair.client.take_output())[3] == frames.RST_STREAM

    def test_nothing_but_a_goodbye_travels_when_all_is_abandoned(self, pair):
        """
        A request whose caller is told that it did not go must not go with the GOAWAY.
        """
        machines.request(pair.client, b"request")
        with pytest.raises(http2.ProtocolError):
            pair.client.receive(frames.pack(frames.DATA, 0, 0, b""))

        pair.client.abandon_all()

        (left,) = pair.client.take_output()
        assert left[3] == frames.GOAWAY

    def test_a_stream_that_was_never_opened_is_reset_silently(self, pair):
        """
        The server has not heard of it, and RST_STREAM on an idle stream would end the connection.
        """
        pair.client.reset(machines.Log())

        assert not pair.client.has_output

    def test_the_end_of_a_request_has_an_offset(self, client):
        """
        `end_offset` is where the request's last byte lies in the output: without it nothing can be applied.
        """
        before = client.queued_bytes

        whole = machines.request(client, b"whole")
        open_ended = machines.request(client, b"open", end=False)
        blocked = machines.request(client, b"x" * 100_000)

        size = len(machines.output(client))
        assert before < whole.end_offset < before + size
        assert open_ended.end_offset is None
        assert blocked.end_offset is None
        assert client.queued_bytes == before + size


class TestResponses:
    def test_head_data_and_trailers_come_in_order(self, pair):
        """
        A sink sees what the server sent, as it was framed.
        """
        stream = pair.request(b"")

        pair.server.send_headers(1, OK_HEAD)
        pair.server.send_data(1, b"one")
        pair.server.send_data(1, b"two")
        pair.server.send_headers(1, [("grpc-status", "0")], end_stream=True)
        pair.shuttle()

        assert stream.events == [
            ("headers", {b":status": b"200", b"content-type": b"application/grpc"}, False),
            ("data", b"one", False),
            ("data", b"two", False),
            ("headers", {b"grpc-status": b"0"}, True),
        ]
        assert pair.client.open_streams == 0

    def test_padding_is_removed_but_counted(self, pair, monkeypatch):
        """
        Padding is no content; yet it uses up the windows, and is credited like content.
        """
        monkeypatch.setattr(sending, "STREAM_WINDOW", 4_000)
        monkeypatch.setattr(sending.Stream, "receive_window", 4_000)
        pair = Machines()
        stream = pair.request(b"")
        pair.server.send_headers(1, OK_HEAD)

        for _ in range(100):  # 25,600 bytes through a window of 4,000
            pair.server.send_data(1, b"content", pad_length=248)
            pair.shuttle()

        assert stream.body == b"content" * 100

    def test_padded_headers_with_a_priority(self, client):
        """
        Padding and the obsolete priority around a header block are skipped.
        """
        stream = machines.request(client)
        flags = frames.END_HEADERS | frames.PADDED | frames.WITH_PRIORITY
        payload = bytes([3]) + u32(0) + b"\x10" + HEAD_BLOCK + bytes(3)

        client.receive(frames.pack(frames.HEADERS, flags, stream.id, payload))

        assert stream.events == [("headers", {b":status": b"200"}, False)]

    def test_a_header_block_in_many_frames(self, pair):
        """
        40 KiB of trailers come in HEADERS and CONTINUATION frames, and are one event.
        """
        stream = pair.request(b"")

        pair.server.send_headers(1, [*OK_HEAD, ("long", "l" * 40_000)], end_stream=True)
        pair.shuttle()

        ((kind, headers, end),) = stream.events
        assert (kind, headers[b"long"], end) == ("headers", b"l" * 40_000, True)

    @pytest.mark.parametrize(
        "frame",
        [
            frames.pack(frames.PRIORITY, 0, 1, u32(0) + b"\x10"),
            frames.pack(frames.PRIORITY, 0, 7, u32(0) + b"\x10"),  # even of a stream that nobody opened
            frames.pack(0x0A, 0, 0, b"\0\0alternative service"),
            frames.pack(0xFF, 0xFF, 12345, b"whatever"),
            frames.pack(frames.WINDOW_UPDATE, 0, 1, u32(1000)),
            frames.pack(frames.SETTINGS, 0, 0, u32(0x00FF0000) + b"\0\1"),  # a setting of the future
            frames.pack(frames.SETTINGS, frames.ACK, 0, b""),
        ],
        ids=["priority", "priority of idle", "altsvc", "unknown", "credit", "unknown setting", "ack"],
    )
    def test_what_does_not_concern_us_is_ignored(self, client, frame):
        """
        Such frames may come at any time, also between those of a response.
        """
        stream = machines.request(client)

        client.receive(frame)
        client.receive(frames.pack(frames.HEADERS, frames.END_HEADERS, stream.id, HEAD_BLOCK))
        client.receive(frame)
        client.receive(frames.pack(frames.DATA, frames.END_STREAM, stream.id, b"data"))
        client.receive(frame)

        assert [event[0] for event in stream.events] == ["headers", "data"]

    def test_pings_are_answered_and_counted(self, pair):
        """
        A PING comes back with its payload when the caller finds time; the answer to ours is counted.
        """
        pair.server.ping(b"12345678")
        pair.client.ping()
        pair.shuttle()
        assert not of(pair.events, h2.events.PingAckReceived)

        pair.client.answer_pings()
        pair.shuttle()

        assert [event.ping_data for event in of(pair.events, h2.events.PingAckReceived)] == [b"12345678"]
        assert pair.client.pongs == 1

    def test_after_goaway_later_streams_are_refused_and_others_finish(self, pair):
        """
        Streams above the last one that the server names are safe to retry; the others go on.
        """
        first, second = pair.request(b"one"), pair.request(b"two")

        pair.server.close_connection(last_stream_id=1, additional_data=b"be seeing you")
        to_client = pair.server.data_to_send()
        pair.client.receive(to_client)

        assert second.events == [("reset", frames.ErrorCode.REFUSED_STREAM)]
        assert first.events == []
        assert pair.client.goaway == (1, 0, "be seeing you")
        assert pair.client.exhausted
        assert not pair.client.can_open
        pair.client.receive(frames.pack(frames.HEADERS, 0x5, 1, HEAD_BLOCK))
        assert first.events == [("headers", {b":status": b"200"}, True)]

    def test_two_goaways_narrow_down(self, client):
        """
        A graceful server first names the largest id, then the last that it took.
        """
        first, second = machines.request(client), machines.request(client)

        client.receive(frames.pack(frames.GOAWAY, 0, 0, u32(2**31 - 1, 0)))
        assert client.open_streams == 2
        client.receive(frames.pack(frames.GOAWAY, 0, 0, u32(first.id, 0)))

        assert first.events == []
        assert second.events == [("reset", frames.ErrorCode.REFUSED_STREAM)]

    @pytest.mark.parametrize("code", [0, 1, 7, 8, 11, 13, 14, 0xFFFFFFFF])
    def test_a_reset_tells_its_code(self, client, code):
        """
        Whatever the number, known or not, the sink gets it, once.
        """
        stream = machines.request(client)

        for _ in range(2):
            client.receive(frames.pack(frames.RST_STREAM, 0, stream.id, u32(code)))

        assert stream.events == [("reset", code)]

    def test_bytes_of_abandoned_streams_are_credited(self, monkeypatch):
        """
        Data that was on its way when we lost interest must not shrink the connection's window for ever.
        """
        monkeypatch.setattr(http2, "CONNECTION_WINDOW", 100_000)
        monkeypatch.setattr(sending, "STREAM_WINDOW", 80_000)
        monkeypatch.setattr(sending.Stream, "receive_window", 80_000)
        pair = Machines()
        for _ in range(5):
            stream = pair.request(b"")
            pair.server.send_headers(stream.id, OK_HEAD)
            for _ in range(4):
                pair.server.send_data(stream.id, bytes(16_000))
            on_its_way = pair.server.data_to_send()
            pair.client.reset(stream)

            pair.client.receive(on_its_way)
            pair.shuttle()

            assert stream.events == []
        assert pair.server.outbound_flow_control_window > 50_000

    def test_a_header_table_of_size_zero_is_respected(self, pair):
        """
        The library's encoder keeps no table for us: equal heads are equal bytes, from the second on.
        """
        blocks = []
        for _ in range(3):
            stream = pair.request(b"")
            pair.server.send_headers(stream.id, [*OK_HEAD, ("x-etcd", "v")], end_stream=True)
            to_client = pair.server.data_to_send()
            blocks.append(machines.split_frames(to_client)[0][3])
            pair.client.receive(to_client)
            assert stream.events[0][1][b"x-etcd"] == b"v"

        assert blocks[1] == blocks[2]

    def test_more_different_blocks_than_are_remembered(self, pair):
        """
        Every response is decoded rightly, though a server's messages never repeat.
        """
        for number in range(fields.MOST_REMEMBERED * 2 + 10):
            stream = pair.request(b"")
            pair.server.send_headers(stream.id, [*OK_HEAD, ("number", str(number))], end_stream=True)
            pair.shuttle()
            assert stream.events[0][1][b"number"] == str(number).encode()

    def test_a_usual_response_is_taken_in_one_step(self, client):
        """
        Once its blocks are known; wherever it is cut it is the same response.
        """
        machines_say = b"".join(usual_response(1))
        first = machines.request(client)
        client.receive(machines_say)
        expected = first.events

        wholes = 0
        for cut in range(len(machines_say)):
            stream = machines.request(client)
            octets = b"".join(usual_response(stream.id))
            client.receive(octets[:cut])
            client.receive(octets[cut:])
            assert stream.events == expected, f"cut at {cut}"
            wholes += stream.wholes

        assert first.wholes == 0
        assert wholes > 0
        assert client.open_streams == 0

    @pytest.mark.parametrize("number", range(8))
    def test_an_unusual_response_is_taken_frame_by_frame(self, client, number):
        """
        Whatever stands where the usual response stands: the events are those of its frames.
        """
        client.receive(b"".join(usual_response(machines.request(client).id)))
        one, other = machines.request(client), machines.request(client)
        head, body, trailers = usual_response(one.id)
        sent = [
            (head, body, frames.pack(frames.PING, 0, 0, bytes(8)), trailers),
            (head, frames.pack(frames.DATA, frames.PADDED, one.id, b"\2dataxx"), trailers),
            (head, body, body, trailers),
            (head, trailers),
            (head, frames.pack(frames.DATA, frames.END_STREAM, one.id, b"data")),
            (head, frames.pack(frames.DATA, 0, other.id, b"data"), trailers),
            (head, body, frames.pack(frames.HEADERS, frames.END_HEADERS, other.id, HEAD_BLOCK), trailers),
            (head, body, frames.pack(frames.RST_STREAM, 0, one.id, u32(8))),
        ][number]
        separately = http2.Connection()
        separately.receive(SETTINGS)
        separately.reset(machines.request(separately))
        ones, others = machines.request(separately), machines.request(separately)

        client.receive(b"".join(sent))
        for frame in sent:
            separately.receive(frame)

        assert one.events == ones.events
        assert other.events == others.events
        assert one.wholes == other.wholes == 0
        assert client.open_streams == separately.open_streams

    def test_a_response_before_the_end_of_a_request_is_not_usual(self, client):
        """
        Its request must still be reset.
        """
        client.receive(b"".join(usual_response(machines.request(client).id)))
        stream = machines.request(client, b"x" * 100_000)
        client.take_output()

        client.receive(b"".join(usual_response(stream.id)))

        assert stream.wholes == 0
        assert [kind for kind, *_ in machines.split_frames(machines.output(client))] == [frames.RST_STREAM]

    def test_usual_responses_use_up_the_connections_window(self, monkeypatch):
        """
        And it is filled again in time.
        """
        monkeypatch.setattr(http2, "CONNECTION_WINDOW", 70_000)
        client = http2.Connection()
        client.receive(SETTINGS)
        client.take_output()
        credit = 70_000
        for _ in range(100):
            stream = machines.request(client)
            client.receive(b"".join(usual_response(stream.id, b"x" * 10_000)))
            credit -= 10_000
            for kind, _, stream_id, payload in machines.split_frames(machines.output(client)):
                if kind == frames.WINDOW_UPDATE and not stream_id:
                    credit += int.from_bytes(payload, "big")
            assert 10_000 <= credit <= 70_000
            assert stream.body == b"x" * 10_000

    def test_data_in_one_piece_or_byte_by_byte(self, client):
        """
        The events do not depend on how TCP cuts the bytes.
        """
        whole, cut = machines.request(client), machines.request(client)
        for stream, step in ((whole, 10**6), (cut, 1)):
            octets = (
                frames.pack(frames.HEADERS, frames.END_HEADERS, stream.id, HEAD_BLOCK)
                + frames.pack(frames.DATA, 0, stream.id, b"some data")
                + frames.pack(frames.RST_STREAM, 0, stream.id, u32(8))
            )
            for at in range(0, len(octets), step):
                client.receive(octets[at : at + step])

        assert whole.events == cut.events
        assert len(whole.events) == 3


def usual_response(stream_id: int, data: bytes = b"data") -> tuple[bytes, bytes, bytes]:
    """Head, data and trailers, each a frame."""
    return (
        frames.pack(frames.HEADERS, frames.END_HEADERS, stream_id, HEAD_BLOCK),
        frames.pack(frames.DATA, 0, stream_id, data),
        frames.pack(frames.HEADERS, 0x5, stream_id, b"\x00\x0bgrpc-status\x010"),
    )


def hpack_block(*headers: tuple[bytes, bytes]) -> bytes:
    """A block by an encoder that keeps a table."""
    return hpack.Encoder().encode(list(headers))


PROTOCOL, SIZE, FLOW = (
    frames.ErrorCode.PROTOCOL_ERROR,
    frames.ErrorCode.FRAME_SIZE_ERROR,
    frames.ErrorCode.FLOW_CONTROL_ERROR,
)
CALM, COMPRESSION = frames.ErrorCode.ENHANCE_YOUR_CALM, frames.ErrorCode.COMPRESSION_ERROR

# What a peer must not send while stream 1 is open and 3 has ended, and how we call it.
WRONG = {
    "a huge frame": (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", SIZE),
    "a frame one byte too large": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", SIZE),
    "data of nobody": (frames.pack(frames.DATA, 0, 5, b"x"), PROTOCOL),
    "data of the server's own stream": (frames.pack(frames.DATA, 0, 2, b"x"), PROTOCOL),
    "data of the connection": (frames.pack(frames.DATA, 0, 0, b"x"), PROTOCOL),
    "headers of nobody": (frames.pack(frames.HEADERS, 4, 5, HEAD_BLOCK), PROTOCOL),
    "headers of the connection": (frames.pack(frames.HEADERS, 4, 0, HEAD_BLOCK), PROTOCOL),
    "more padding than data": (frames.pack(frames.DATA, frames.PADDED, 1, b"\x05pad"), PROTOCOL),
    "padded and empty": (frames.pack(frames.DATA, frames.PADDED, 1, b""), PROTOCOL),
    "more padding than headers": (frames.pack(frames.HEADERS, 0xC, 1, b"\x02\x88"), PROTOCOL),
    "headers shorter than a priority": (frames.pack(frames.HEADERS, 0x24, 1, b"\0\0\0\0"), SIZE),
    "a short priority": (frames.pack(frames.PRIORITY, 0, 1, b"\0\0\0\0"), SIZE),
    "a short reset": (frames.pack(frames.RST_STREAM, 0, 1, b"\0\0\0"), SIZE),
    "a reset of nobody": (frames.pack(frames.RST_STREAM, 0, 5, u32(8)), PROTOCOL),
    "a reset of the connection": (frames.pack(frames.RST_STREAM, 0, 0, u32(8)), PROTOCOL),
    "settings of a stream": (frames.pack(frames.SETTINGS, 0, 1, b""), PROTOCOL),
    "settings of five bytes": (frames.pack(frames.SETTINGS, 0, 0, b"12345"), SIZE),
    "settings in an acknowledgement": (frames.pack(frames.SETTINGS, 1, 0, bytes(6)), SIZE),
    "a window too large": (machines.settings(INITIAL_WINDOW_SIZE=2**31), FLOW),
    "a frame size too small": (machines.settings(MAX_FRAME_SIZE=16_383), PROTOCOL),
    "a frame size too large": (machines.settings(MAX_FRAME_SIZE=2**24), PROTOCOL),
    "push by half": (machines.settings(ENABLE_PUSH=2), PROTOCOL),
    "a pushed stream": (frames.pack(frames.PUSH_PROMISE, 4, 1, u32(2) + HEAD_BLOCK), PROTOCOL),
    "a short ping": (frames.pack(frames.PING, 0, 0, b"1234567"), SIZE),
    "a ping of a stream": (frames.pack(frames.PING, 0, 1, b"12345678"), PROTOCOL),
    "a short goaway": (frames.pack(frames.GOAWAY, 0, 0, b"1234567"), SIZE),
    "a goaway of a stream": (frames.pack(frames.GOAWAY, 0, 1, u32(0, 0)), PROTOCOL),
    "short credit": (frames.pack(frames.WINDOW_UPDATE, 0, 0, b"123"), SIZE),
    "credit of nothing": (frames.pack(frames.WINDOW_UPDATE, 0, 0, u32(0)), PROTOCOL),
    "credit for nobody": (frames.pack(frames.WINDOW_UPDATE, 0, 5, u32(1)), PROTOCOL),
    "too much credit": (frames.pack(frames.WINDOW_UPDATE, 0, 0, u32(2**31 - 1)), FLOW),
    "too much credit for a stream": (frames.pack(frames.WINDOW_UPDATE, 0, 1, u32(2**31 - 1)), FLOW),
    "settings that overflow a window": (
        frames.pack(frames.WINDOW_UPDATE, 0, 1, u32(2**30))
        + machines.settings(INITIAL_WINDOW_SIZE=2**31 - 1),
        FLOW,
    ),
    "a continuation of nothing": (frames.pack(frames.CONTINUATION, 4, 1, HEAD_BLOCK), PROTOCOL),
    "an interrupted header block": (
        frames.pack(frames.HEADERS, 0, 1, HEAD_BLOCK) + frames.pack(frames.PING, 0, 0, bytes(8)),
        PROTOCOL,
    ),
    "a header block continued elsewhere": (
        frames.pack(frames.HEADERS, 0, 1, HEAD_BLOCK) + frames.pack(frames.CONTINUATION, 4, 3, b""),
        PROTOCOL,
    ),
    "a header block of too many pieces": (
        frames.pack(frames.HEADERS, 0, 1, b"") + frames.pack(frames.CONTINUATION, 0, 1, b"") * 65,
        CALM,
    ),
    "a header block of too many bytes": (
        frames.pack(frames.HEADERS, 0, 1, bytes(16_384))
        + frames.pack(frames.CONTINUATION, 0, 1, bytes(16_384)) * 4,
        CALM,
    ),
    "an index into a table that we forbade": (frames.pack(frames.HEADERS, 4, 1, b"\xbe"), COMPRESSION),
    "a larger table": (frames.pack(frames.HEADERS, 4, 1, b"\x3f\xe1\x1f\x88"), COMPRESSION),
    "a truncated block": (frames.pack(frames.HEADERS, 4, 1, b"\x40\x0aab"), COMPRESSION),
    "no block at all": (frames.pack(frames.HEADERS, 4, 1, b"\xff" * 10), COMPRESSION),
    "a block that unpacks to too much": (
        frames.pack(frames.HEADERS, 4, 1, HEAD_BLOCK * 2_000),
        COMPRESSION,
    ),
    "a block that remembers and refers": (
        frames.pack(frames.HEADERS, 4, 1, hpack_block((b"grpc-status", b"0"), (b"a", b"b"), (b"a", b"b"))),
        COMPRESSION,
    ),
    "questions without end": (frames.pack(frames.PING, 0, 0, bytes(8)) * 1_100, CALM),
    "settings without end": (SETTINGS * 1_001, CALM),
}


class TestErrors:
    @pytest.mark.parametrize(("octets", "code"), WRONG.values(), ids=WRONG.keys())
    def test_what_breaks_the_protocol_ends_the_connection(self, client, octets, code):
        """
        The error says what it was, and a GOAWAY with the same code is the last that goes out.
        """
        machines.request(client, end=False)
        client.receive(frames.pack(frames.RST_STREAM, 0, machines.request(client).id, u32(8)))
        client.take_output()

        with pytest.raises(frames.ProtocolError) as caught:
            client.receive(octets)

        assert caught.value.code == code
        assert str(caught.value)
        kind, _, stream_id, payload = machines.split_frames(machines.output(client))[-1]
        assert (kind, stream_id, payload) == (frames.GOAWAY, 0, u32(0, code))
        assert not client.torn

    @pytest.mark.parametrize("padded", [False, True])
    def test_more_data_than_the_stream_was_given(self, monkeypatch, padded):
        """
        A peer that ignores a stream's window is cut off before its data fills our memory.
        """
        monkeypatch.setattr(sending, "STREAM_WINDOW", 1_000)
        monkeypatch.setattr(sending.Stream, "receive_window", 1_000)
        client = http2.Connection()
        client.receive(SETTINGS)
        stream = machines.request(client)
        payload = b"\xff" + bytes(1_000) if padded else bytes(1_001)

        with pytest.raises(frames.ProtocolError) as caught:
            client.receive(frames.pack(frames.DATA, frames.PADDED if padded else 0, stream.id, payload))

        assert caught.value.code == FLOW
        assert stream.events == []

    def test_more_data_than_the_connection_was_given(self, monkeypatch):
        """
        Streams that we have abandoned count as well.
        """
        monkeypatch.setattr(http2, "CONNECTION_WINDOW", 70_000)
        client = http2.Connection()
        client.receive(SETTINGS)
        stream = machines.request(client)
        client.reset(stream)
        client._receive_window = 1_000  # as if the rest had been used up and not yet credited

        with pytest.raises(frames.ProtocolError) as caught:
            client.receive(frames.pack(frames.DATA, 0, stream.id, bytes(1_001)))

        assert caught.value.code == FLOW

    @pytest.mark.parametrize(
        ("greeting", "words"),
        [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP/1"),
            (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
            (b"220 mail.example ESMTP\r\n", "HTTP/2"),
            (frames.pack(frames.PING, 0, 0, bytes(8)), "HTTP/2"),
            (frames.pack(frames.SETTINGS, frames.ACK, 0, b""), "first frame"),
        ],
    )
    @pytest.mark.parametrize("step", [1, 1_000])
    def test_strangers_are_told_apart(self, greeting, words, step):
        """
        The error names what the peer is, if it can be told from its first bytes.
        """
        client = http2.Connection()

        with pytest.raises(frames.ProtocolError, match=words):
            for at in range(0, len(greeting), step):
                client.receive(greeting[at : at + step])

        assert not client.settled

    def test_questions_that_are_answered_in_time_are_no_flood(self, client):
        """
        The limit counts what waits to be sent, not what was ever asked.
        """
        for _ in range(5_000):
            client.receive(frames.pack(frames.PING, 0, 0, bytes(8)))
            client.take_output()

        assert not client.has_output
