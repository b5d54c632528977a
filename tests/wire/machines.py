"""Our connection against the h2 library's server half, in memory; and frames written by hand."""

from __future__ import annotations

import struct

import h2.config
import h2.connection
import h2.events
import h2.settings

from coordkit.wire import frames, http2, sending

REQUEST = b"\x83\x86\x04\x04/t/m\x01\x04peer"  # POST http, :path /t/m, :authority peer
OK_HEAD = [(":status", "200"), ("content-type", "application/grpc")]

#: A server's first frame, and the least that a response can be.
SETTINGS = frames.pack(frames.SETTINGS, 0, 0, b"")
HEAD_BLOCK = b"\x88"  # :status 200


def settings(**values: int) -> bytes:
    """A SETTINGS frame: `settings(MAX_FRAME_SIZE=16384)`."""
    payload = b"".join(struct.pack(">HL", getattr(frames, name), value) for name, value in values.items())
    return frames.pack(frames.SETTINGS, 0, 0, payload)


def u32(*numbers: int) -> bytes:
    """As the fields of most frames are written."""
    return struct.pack(f">{len(numbers)}L", *numbers)


class Log(sending.Stream):
    """A stream that remembers: ("headers", {...}, end), ("data", bytes, end), ("reset", code)."""

    def __init__(self) -> None:
        self.events: list[tuple] = []
        self.wholes = 0  # responses that came in one step

    def on_headers(self, headers, end: bool) -> None:
        self.events.append(("headers", headers, end))

    def on_data(self, data: bytes, end: bool) -> None:
        assert type(data) is bytes
        self.events.append(("data", data, end))

    def on_response(self, head, body: bytes, trailers) -> None:
        self.wholes += 1
        self.on_headers(head, False)
        self.on_data(body, False)
        self.on_headers(trailers, True)

    def on_reset(self, code: int) -> None:
        self.events.append(("reset", code))

    @property
    def body(self) -> bytes:
        return b"".join(event[1] for event in self.events if event[0] == "data")


def request(
    connection: http2.Connection, body: bytes = b"", end: bool = True, block: bytes = REQUEST
) -> Log:
    """Open a stream that remembers."""
    stream = Log()
    connection.open(stream, block, body, end)
    return stream


def output(connection: http2.Connection) -> bytes:
    """All that we have to send."""
    return b"".join(connection.take_output())


def split_frames(octets: bytes) -> list[tuple[int, int, int, bytes]]:
    """(type, flags, stream, payload) of each frame; the preface is skipped."""
    found = []
    at = len(frames.PREFACE) if octets.startswith(frames.PREFACE) else 0
    while at < len(octets):
        high, low, kind, flags, stream_id = frames.HEAD.unpack_from(octets, at)
        end = at + 9 + (high << 16 | low)
        assert end <= len(octets), "the output ends inside a frame"
        found.append((kind, flags, stream_id, octets[at + 9 : end]))
        at = end
    return found


class Machines:
    """A client of ours and an h2 server that talk through memory."""

    def __init__(self, **server_settings: int) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.client = http2.Connection()
        self.server = h2.connection.H2Connection(config)
        values = {getattr(h2.settings.SettingCodes, name): value for name, value in server_settings.items()}
        self.server.local_settings = h2.settings.Settings(client=False, initial_values=values)
        self.server.max_inbound_frame_size = self.server.local_settings.max_frame_size
        self.server.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.sent = b""  # all that the client ever sent
        self.shuttle()

    def shuttle(self) -> list[h2.events.Event]:
        """Carry bytes both ways until nobody has anything to say; returns what the server saw."""
        seen: list[h2.events.Event] = []
        while True:
            to_server = output(self.client)
            self.sent += to_server
            if to_server:
                seen += self.server.receive_data(to_server)
            to_client = self.server.data_to_send()
            if to_client:
                self.client.receive(to_client)
            if not to_client and not self.client.has_output:
                self.events += seen
                return seen

    def request(self, body: bytes = b"", end: bool = True, block: bytes = REQUEST) -> sending.Stream:
        """Open a stream and carry it over."""
        stream = request(self.client, body, end, block)
        self.shuttle()
        return stream

    def acknowledge(self, stream_id: int) -> bool:
        """Give back credit for all that the server has got so far; whether there was any."""
        got = [event for event in self.events if isinstance(event, h2.events.DataReceived)]
        self.events = [event for event in self.events if event not in got]
        for event in got:
            self.server.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.shuttle()
        return bool(got)
