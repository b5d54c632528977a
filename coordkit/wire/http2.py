"""The client half of HTTP/2 (RFC 9113), sans-IO: bytes in, calls on sinks out; no socket, clock or thread.

The caller serializes access.  What a peer sends wrongly raises `ProtocolError` with a GOAWAY queued; the
connection is then over.  Requests are literal header blocks, so we need no encoder; we announce a dynamic
table of size 0, so response blocks are stateless and are memoised.
"""

from __future__ import annotations

import collections
import enum
import logging
import struct
import typing

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
LARGEST_FRAME = 16_384  # what we accept; the smallest that RFC 9113 allows, and more than etcd sends
STREAM_WINDOW = 8 * 2**20
CONNECTION_WINDOW = 64 * 2**20
LARGEST_HEADER_BLOCK = 64 * 2**10
MOST_FRAGMENTS = 64  # CONTINUATION frames in one header block
MOST_REPLIES_QUEUED = 1_000  # control frames that we owe the peer and cannot send
MOST_BLOCKS_REMEMBERED = 256
LAST_STREAM_ID = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE = range(6)
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(6, 10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)

_HEAD = struct.Struct(">BHBBL")  # length (24 bits), type, flags, stream id
_SETTING = struct.Struct(">HL")
_U32 = struct.Struct(">L")

Headers = dict[bytes, bytes]

# The heart decodes on a native thread, where logging's locks, shared with greenlets, must not be touched; and
# what hpack logs at DEBUG is every header.  A disabled logger takes no lock.
_HPACK_LOGS = [logging.getLogger(name) for name in ("hpack.hpack", "hpack.table")]


class ErrorCode(enum.IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ProtocolError(Exception):
    """The peer broke the protocol; the connection is over."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Sink(typing.Protocol):
    """Where a stream's events go.  Called in order, within `receive`; must not block."""

    def on_headers(self, headers: Headers, end: bool) -> None:
        """A whole header block: the response's head, or its trailers.  Shared: do not change it."""

    def on_data(self, data: bytes, end: bool) -> None:
        """Body bytes, padding removed."""

    def on_response(self, head: Headers, body: bytes, trailers: Headers) -> None:
        """All three at once; the same as `on_headers`, `on_data`, `on_headers`."""

    def on_reset(self, code: int) -> None:
        """The stream ended early.  REFUSED_STREAM: the peer certainly did nothing with it."""


class Stream:
    """One request and its response, as far as framing is concerned."""

    __slots__ = ("end_offset", "id", "pending", "receive_window", "send_window", "sink")

    def __init__(self, stream_id: int, sink: Sink, send_window: int) -> None:
        self.id = stream_id
        self.sink = sink
        self.send_window = send_window
        self.receive_window = STREAM_WINDOW
        #: What waits for the peer's window: (bytes, whether the request ends with them).
        self.pending: collections.deque[tuple[bytes, bool]] = collections.deque()
        #: Output offset behind our END_STREAM; None while it is not queued: the peer cannot have all of it.
        self.end_offset: int | None = None


class Connection:
    """The state of one connection."""

    def __init__(self) -> None:
        self._output: list[bytes] = []
        self.queued_bytes = 0  # all that was ever queued: offsets for Stream.end_offset
        self._replies_queued = 0
        self._rest = b""
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[int, Stream] = {}  # those with pending data, in the order they blocked
        self._next_id = 1
        self._send_window = DEFAULT_WINDOW
        self._receive_window = CONNECTION_WINDOW
        self._peer_stream_window = DEFAULT_WINDOW
        self._peer_frame_size = LARGEST_FRAME
        self._peer_max_streams = LAST_STREAM_ID
        self._fragments: list[bytes] = []
        self._fragment_head: tuple[int, bool] | None = None  # (stream id, END_STREAM) of a block under way
        self._decoder: typing.Any = None
        self._blocks: dict[bytes, Headers] = {}
        self._settled = False  # the peer's SETTINGS came
        self.pongs = 0
        self.pings_owed: list[bytes] = []
        #: (last stream id, code, debug text) once the peer said GOAWAY.
        self.goaway: tuple[int, int, str] | None = None
        settings = ((HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, STREAM_WINDOW))
        self._queue(PREFACE)
        self._queue(_frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in settings)))
        self._queue(_frame(WINDOW_UPDATE, 0, 0, _U32.pack(CONNECTION_WINDOW - DEFAULT_WINDOW)))

    # What we send.

    @property
    def open_streams(self) -> int:
        """Streams that have not ended."""
        return len(self._streams)

    @property
    def settled(self) -> bool:
        """Whether the peer's SETTINGS came: it speaks HTTP/2."""
        return self._settled

    @property
    def exhausted(self) -> bool:
        """Whether this connection takes no further stream, ever."""
        return self.goaway is not None or self._next_id > LAST_STREAM_ID

    @property
    def can_open(self) -> bool:
        """Whether a stream may be opened now."""
        return len(self._streams) < self._peer_max_streams and not self.exhausted

    def open(self, block: bytes, sink: Sink, body: bytes = b"", end: bool = False) -> Stream:
        """Queue a request: its header block and the first bytes of its body."""
        assert self.can_open, "ask can_open first"
        stream = Stream(self._next_id, sink, self._peer_stream_window)
        self._next_id += 2
        self._streams[stream.id] = stream
        size = len(body)
        if len(block) <= LARGEST_FRAME and size <= self._room(stream):
            # The hot path: head and body in one piece.
            self._send_window -= size
            stream.send_window -= size
            head = _HEAD.pack(0, len(block), HEADERS, END_HEADERS, stream.id) + block
            if size or end:
                flags = END_STREAM if end else 0
                head += _HEAD.pack(size >> 16, size & 0xFFFF, DATA, flags, stream.id) + body
            self._queue(head)
            if end:
                stream.end_offset = self.queued_bytes
            return stream
        self._queue_headers(stream.id, block)
        self.send(stream, body, end)
        return stream

    def send(self, stream: Stream, body: bytes, end: bool = False) -> None:
        """Queue more of a request's body, as far as the peer's windows go; the rest follows by itself."""
        if stream.id not in self._streams:
            return
        stream.pending.append((body, end))
        self._blocked[stream.id] = stream
        self._unblock()

    def reset(self, stream: Stream, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Abandon a stream.  Its sink hears nothing more."""
        if self._forget(stream.id):
            self._queue(_frame(RST_STREAM, 0, stream.id, _U32.pack(code)))

    def ping(self) -> None:
        """Queue a PING; `pongs` counts the answers."""
        self._queue(_frame(PING, 0, 0, b"coordkit"))

    def take_output(self) -> bytes:
        """All that is queued, once."""
        output = self._output
        if not output:
            return b""
        self._output = []
        self._replies_queued = 0
        return output[0] if len(output) == 1 else b"".join(output)

    @property
    def has_output(self) -> bool:
        """Whether anything is queued."""
        return bool(self._output)

    def answer_pings(self) -> None:
        """Queue the answers to the peer's PINGs, which are held back until the caller finds time for them."""
        owed, self.pings_owed = self.pings_owed, []
        self._queue(b"".join(_frame(PING, ACK, 0, payload) for payload in owed))

    def _queue(self, frames: bytes) -> None:
        self._output.append(frames)
        self.queued_bytes += len(frames)

    def _reply(self, frame: bytes) -> None:
        """Queue what we owe the peer; a peer that asks without reading must not fill our memory."""
        self._replies_queued += 1
        if self._replies_queued > MOST_REPLIES_QUEUED:
            raise ProtocolError("the peer asks for more answers than it reads", ErrorCode.ENHANCE_YOUR_CALM)
        self._queue(frame)

    def _queue_headers(self, stream_id: int, block: bytes) -> None:
        parts = [block[at : at + LARGEST_FRAME] for at in range(0, len(block), LARGEST_FRAME)]
        frames = []
        for index, part in enumerate(parts):
            flags = END_HEADERS if index == len(parts) - 1 else 0
            frames.append(_frame(CONTINUATION if index else HEADERS, flags, stream_id, part))
        self._queue(b"".join(frames))  # one piece: no other frame may come between

    def _room(self, stream: Stream) -> int:
        return min(self._send_window, stream.send_window, self._peer_frame_size)

    def _unblock(self) -> None:
        """Send what the windows allow, a frame of each blocked stream in turn."""
        progress = True
        while progress and self._blocked:
            progress = False
            for stream in list(self._blocked.values()):
                progress |= self._send_one(stream)

    def _send_one(self, stream: Stream) -> bool:
        body, end = stream.pending[0]
        room = self._room(stream)
        if body and room <= 0:
            return False
        part, rest = body[:room], body[room:]
        if rest:
            stream.pending[0] = (rest, end)
        else:
            stream.pending.popleft()
        self._send_window -= len(part)
        stream.send_window -= len(part)
        last = end and not rest
        self._queue(_frame(DATA, END_STREAM if last else 0, stream.id, part))
        if last:
            stream.end_offset = self.queued_bytes
        if not stream.pending:
            del self._blocked[stream.id]
        return True

    def abandon_all(self) -> list[Stream]:
        """Drop every stream without a word to the peer: the connection is gone."""
        streams = list(self._streams.values())
        self._streams.clear()
        self._blocked.clear()
        return streams

    def _forget(self, stream_id: int) -> Stream | None:
        self._blocked.pop(stream_id, None)
        return self._streams.pop(stream_id, None)

    # What we receive.

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer, in any split.

        Raises:
            ProtocolError: The peer broke the protocol; a GOAWAY is queued.
        """
        try:
            self._receive(data)
        except ProtocolError as error:
            self._output.append(_frame(GOAWAY, 0, 0, _U32.pack(0) + _U32.pack(error.code)))
            raise

    def _receive(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not self._settled:
            _check_greeting(data)
        at, size = 0, len(data)
        while size - at >= 9:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
            length = high << 16 | low
            if length > LARGEST_FRAME:
                raise ProtocolError(f"a frame of {length} bytes", ErrorCode.FRAME_SIZE_ERROR)
            end = at + 9 + length
            if end > size:
                break
            if kind == HEADERS and flags == END_HEADERS and size - end >= 18:
                whole = self._take_response(stream_id, data, at + 9, end, size)
                if whole:
                    at = whole
                    continue
            self._take_frame(kind, flags, stream_id & LAST_STREAM_ID, data[at + 9 : end])
            at = end
        self._rest = data[at:] if at else data

    def _take_response(self, stream_id: int, data: bytes, start: int, end: int, size: int) -> int:
        """The hot path: head, body and trailers of a finished request, all here, all of the usual form.

        Returns:
            Where it ends; 0 when anything about it is unusual: then it is taken frame by frame.
        """
        stream = self._streams.get(stream_id)
        head = self._blocks.get(data[start:end])
        if head is None or stream is None or stream.end_offset is None or self._fragment_head is not None:
            return 0
        high, low, kind, flags, id_ = _HEAD.unpack_from(data, end)
        length = high << 16 | low
        last = end + 9 + length
        if kind != DATA or flags or id_ != stream_id or length > LARGEST_FRAME or size - last < 9:
            return 0
        high, low, kind, flags, id_ = _HEAD.unpack_from(data, last)
        stop: int = last + 9 + (high << 16 | low)
        if kind != HEADERS or flags != END_HEADERS | END_STREAM or id_ != stream_id or stop > size:
            return 0
        trailers = self._blocks.get(data[last + 9 : stop])
        window = self._receive_window - length
        if trailers is None or window < CONNECTION_WINDOW // 2 or length > stream.receive_window:
            return 0
        self._receive_window = window
        del self._streams[stream_id]
        stream.sink.on_response(head, data[end + 9 : last], trailers)
        return stop

    def _take_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._fragment_head is not None and kind != CONTINUATION:
            raise ProtocolError("a header block was interrupted by another frame")
        if kind == DATA:
            self._on_data(flags, stream_id, payload)
        elif kind == HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif not self._settled and kind != SETTINGS:
            raise ProtocolError("the peer's first frame is not SETTINGS")
        elif kind <= CONTINUATION:
            _CONTROL[kind](self, flags, stream_id, payload)
        # Frames of unknown types are ignored (section 4.1).

    def _stream(self, stream_id: int, what: str) -> Stream | None:
        """The open stream of that id, None for one that has ended; others are errors."""
        stream = self._streams.get(stream_id)
        if stream is None and (stream_id % 2 == 0 or stream_id >= self._next_id):
            raise ProtocolError(f"{what} on stream {stream_id}, which nobody opened")
        return stream

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._stream(stream_id, "DATA")
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ProtocolError("more data than the connection's window", ErrorCode.FLOW_CONTROL_ERROR)
        if self._receive_window < CONNECTION_WINDOW // 2:
            # Credited as it arrives, also for abandoned streams: nobody else gives it back.
            self._reply(_frame(WINDOW_UPDATE, 0, 0, _U32.pack(CONNECTION_WINDOW - self._receive_window)))
            self._receive_window = CONNECTION_WINDOW
        if flags & PADDED:
            payload = _unpad(payload)
        if stream is None:
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise ProtocolError("more data than the stream's window", ErrorCode.FLOW_CONTROL_ERROR)
        end = bool(flags & END_STREAM)
        if stream.receive_window < STREAM_WINDOW // 2 and not end:
            self._reply(_frame(WINDOW_UPDATE, 0, stream_id, _U32.pack(STREAM_WINDOW - stream.receive_window)))
            stream.receive_window = STREAM_WINDOW
        if end:
            self._end(stream)
        stream.sink.on_data(payload, end)

    def _end(self, stream: Stream) -> None:
        """The response is complete; whatever we still had to say is moot."""
        self._forget(stream.id)
        if stream.end_offset is None:
            self._queue(_frame(RST_STREAM, 0, stream.id, _U32.pack(ErrorCode.NO_ERROR)))

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._stream(stream_id, "HEADERS")
        if flags & PADDED:
            payload = _unpad(payload)
        if flags & WITH_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError("a HEADERS frame too short for its priority", ErrorCode.FRAME_SIZE_ERROR)
            payload = payload[5:]
        end = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self._take_block(stream_id, payload, end)
        else:
            self._fragments = [payload]
            self._fragment_head = (stream_id, end)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._fragment_head is None or self._fragment_head[0] != stream_id:
            raise ProtocolError("a CONTINUATION without its HEADERS")
        self._fragments.append(payload)
        if len(self._fragments) > MOST_FRAGMENTS or sum(map(len, self._fragments)) > LARGEST_HEADER_BLOCK:
            raise ProtocolError("a header block without end", ErrorCode.ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            block, end = b"".join(self._fragments), self._fragment_head[1]
            self._fragments, self._fragment_head = [], None
            self._take_block(stream_id, block, end)

    def _take_block(self, stream_id: int, block: bytes, end: bool) -> None:
        headers = self._blocks.get(block)
        if headers is None:
            headers = self._decode(block)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if end:
            self._end(stream)
        stream.sink.on_headers(headers, end)

    def _decode(self, block: bytes) -> Headers:
        for log in _HPACK_LOGS:
            log.disabled = True  # here, and not once: logging.config enables every logger that it finds
        if self._decoder is None:
            self._decoder = hpack.Decoder(max_header_list_size=LARGEST_HEADER_BLOCK)
            self._decoder.header_table_size = 0
            self._decoder.max_allowed_table_size = 0
        try:
            headers = {bytes(name): bytes(value) for name, value in self._decoder.decode(block, raw=True)}
        except (hpack.HPACKError, ValueError, IndexError) as error:
            raise ProtocolError(f"a bad header block: {error}", ErrorCode.COMPRESSION_ERROR) from error
        if len(self._blocks) < MOST_BLOCKS_REMEMBERED:
            self._blocks[block] = headers
        return headers

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Deprecated by RFC 9113; only its length matters."""
        if len(payload) != 5:
            raise ProtocolError("a PRIORITY frame of a wrong length", ErrorCode.FRAME_SIZE_ERROR)

    def _on_push(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError("a pushed stream, although we forbade them")

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError("an RST_STREAM frame of a wrong length", ErrorCode.FRAME_SIZE_ERROR)
        self._stream(stream_id, "RST_STREAM")
        stream = self._forget(stream_id)
        if stream is not None:
            stream.sink.on_reset(_U32.unpack(payload)[0])

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError("SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise ProtocolError("a SETTINGS frame of a wrong length", ErrorCode.FRAME_SIZE_ERROR)
        if flags & ACK:
            return
        for name, value in _SETTING.iter_unpack(payload):
            self._apply_setting(name, value)
        self._settled = True
        self._reply(_frame(SETTINGS, ACK, 0, b""))
        self._unblock()

    def _apply_setting(self, name: int, value: int) -> None:
        if name == MAX_CONCURRENT_STREAMS:
            self._peer_max_streams = value
        elif name == INITIAL_WINDOW_SIZE:
            if value > LARGEST_WINDOW:
                raise ProtocolError("an initial window that is too large", ErrorCode.FLOW_CONTROL_ERROR)
            change = value - self._peer_stream_window  # open streams' windows move along, below 0 if need be
            self._peer_stream_window = value
            for stream in self._streams.values():
                stream.send_window += change
                if stream.send_window > LARGEST_WINDOW:
                    raise ProtocolError("a window that is too large", ErrorCode.FLOW_CONTROL_ERROR)
        elif name == MAX_FRAME_SIZE:
            if not LARGEST_FRAME <= value < 2**24:
                raise ProtocolError(f"a MAX_FRAME_SIZE of {value}")
            self._peer_frame_size = value
        elif name == ENABLE_PUSH and value > 1:
            raise ProtocolError(f"an ENABLE_PUSH of {value}")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ProtocolError("a PING of a wrong length", ErrorCode.FRAME_SIZE_ERROR)
        if stream_id:
            raise ProtocolError("PING on a stream")
        if flags & ACK:
            self.pongs += 1
        elif len(self.pings_owed) >= MOST_REPLIES_QUEUED:
            raise ProtocolError("the peer pings without end", ErrorCode.ENHANCE_YOUR_CALM)
        else:
            self.pings_owed.append(payload)

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError("GOAWAY on a stream")
        if len(payload) < 8:
            raise ProtocolError("a GOAWAY of a wrong length", ErrorCode.FRAME_SIZE_ERROR)
        last_id = _U32.unpack_from(payload)[0] & LAST_STREAM_ID
        self.goaway = (last_id, _U32.unpack_from(payload, 4)[0], payload[8:264].decode(errors="replace"))
        for later in [number for number in self._streams if number > last_id]:
            stream = self._forget(later)
            assert stream is not None
            stream.sink.on_reset(ErrorCode.REFUSED_STREAM)

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError("a WINDOW_UPDATE of a wrong length", ErrorCode.FRAME_SIZE_ERROR)
        increment = _U32.unpack(payload)[0] & LARGEST_WINDOW
        if increment == 0:
            raise ProtocolError("a WINDOW_UPDATE of 0")
        if stream_id == 0:
            self._send_window += increment
            window = self._send_window
        else:
            stream = self._stream(stream_id, "WINDOW_UPDATE")
            if stream is None:
                return
            stream.send_window += increment
            window = stream.send_window
        if window > LARGEST_WINDOW:
            raise ProtocolError("a window that is too large", ErrorCode.FLOW_CONTROL_ERROR)
        if self._blocked:
            self._unblock()


_CONTROL: dict[int, typing.Callable[[Connection, int, int, bytes], None]] = {
    PRIORITY: Connection._on_priority,
    RST_STREAM: Connection._on_reset,
    SETTINGS: Connection._on_settings,
    PUSH_PROMISE: Connection._on_push,
    PING: Connection._on_ping,
    GOAWAY: Connection._on_goaway,
    WINDOW_UPDATE: Connection._on_window_update,
    CONTINUATION: Connection._on_continuation,
}


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def _unpad(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def _check_greeting(data: bytes) -> None:
    """Name the commonest strangers before the first frame is parsed."""
    if data[:5] == b"HTTP/"[: len(data[:5])]:
        if len(data) >= 5:
            raise ProtocolError("an HTTP/1 server answered")
    elif data[:1] == b"\x15" and data[1:2] == b"\x03":
        raise ProtocolError("a TLS alert came: this port wants TLS (etcds:// or https://)")
    elif len(data) >= 9 and data[3] != SETTINGS:
        raise ProtocolError("the peer does not speak HTTP/2")
