"""The client half of HTTP/2 (RFC 9113), sans-IO: bytes in, calls on streams out; no socket, clock or thread.

The caller serializes access.  What a peer sends wrongly raises `ProtocolError` with a GOAWAY queued; the
connection is then over.
"""

from __future__ import annotations

import typing

from coordkit.wire import fields, frames, sending
from coordkit.wire.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST_FRAME,
    U32,
    ErrorCode,
    ProtocolError,
)

CONNECTION_WINDOW = 64 * 2**20
MOST_FRAGMENTS = 64  # CONTINUATION frames in one header block


class Connection(sending.SendingHalf):
    """The state of one connection.  What it receives; what it sends is in its other half."""

    def __init__(self) -> None:
        super().__init__()
        self.pongs = 0
        self._settled = False  # the peer's SETTINGS came
        self._rest = b""  # the part of a frame
        self._receive_window = CONNECTION_WINDOW
        self._fragments: list[bytes] = []
        self._fragment_head: tuple[int, bool] | None = None  # (stream id, END_STREAM) of a block under way
        self._decoder = fields.Decoder()
        ours = (
            (frames.HEADER_TABLE_SIZE, 0),
            (frames.ENABLE_PUSH, 0),
            (frames.INITIAL_WINDOW_SIZE, sending.STREAM_WINDOW),
        )
        self._queue(frames.PREFACE)
        self._queue(frames.pack(frames.SETTINGS, 0, 0, b"".join(frames.SETTING.pack(*pair) for pair in ours)))
        self._queue_credit(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW)

    @property
    def settled(self) -> bool:
        """Whether the peer's SETTINGS came: it speaks HTTP/2."""
        return self._settled

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer, in any split.

        Raises:
            ProtocolError: The peer broke the protocol; a GOAWAY is queued.
        """
        self.torn = True
        try:
            self._receive(data)
        except ProtocolError as error:
            self._queue(frames.pack(frames.GOAWAY, 0, 0, U32.pack(0) + U32.pack(error.code)))
            self.torn = False
            raise
        self.torn = False

    def _receive(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not self._settled:
            frames.check_greeting(data)
        at, size = 0, len(data)
        while size - at >= 9:
            high, low, kind, flags, stream_id = frames.HEAD.unpack_from(data, at)
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
            stream_id &= frames.LAST_STREAM_ID
            if kind == DATA and self._fragment_head is None:
                self._on_data(flags, stream_id, data[at + 9 : end])
            else:
                self._take_frame(kind, flags, stream_id, data[at + 9 : end])
            at = end
        self._rest = data[at:] if at else data

    def _take_response(self, stream_id: int, data: bytes, start: int, end: int, size: int) -> int:
        """The hot path: head, body and trailers of a finished request, all here, all of the usual form.

        Returns:
            Where it ends; 0 when anything about it is unusual: then it is taken frame by frame.
        """
        stream = self._streams.get(stream_id)
        known = self._decoder.known
        head = known.get(data[start:end])
        if head is None or stream is None or stream.end_offset is None or self._fragment_head is not None:
            return 0
        high, low, kind, flags, id_ = frames.HEAD.unpack_from(data, end)
        length = high << 16 | low
        last = end + 9 + length
        if kind != DATA or flags or id_ != stream_id or length > LARGEST_FRAME or size - last < 9:
            return 0
        high, low, kind, flags, id_ = frames.HEAD.unpack_from(data, last)
        stop: int = last + 9 + (high << 16 | low)
        if kind != HEADERS or flags != END_HEADERS | END_STREAM or id_ != stream_id or stop > size:
            return 0
        trailers = known.get(data[last + 9 : stop])
        window = self._receive_window - length
        if trailers is None or window < CONNECTION_WINDOW // 2 or length > stream.receive_window:
            return 0
        self._receive_window = window
        del self._streams[stream_id]
        stream.on_response(head, data[end + 9 : last], trailers)
        return stop

    def _take_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._fragment_head is not None and kind != frames.CONTINUATION:
            raise ProtocolError("a header block was interrupted by another frame")
        if kind == HEADERS:
            self._on_headers(flags, stream_id, payload)
        elif kind <= frames.CONTINUATION:
            _CONTROL[kind](self, flags, stream_id, payload)
        # Frames of unknown types are ignored (section 4.1).

    def _stream(self, stream_id: int, what: str) -> sending.Stream | None:
        """The open stream of that id, None for one that has ended; others are errors."""
        stream = self._streams.get(stream_id)
        if stream is None and (stream_id % 2 == 0 or stream_id >= self._next_id):
            raise ProtocolError(f"{what} on stream {stream_id}, which nobody opened")
        return stream

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._streams.get(stream_id) or self._stream(stream_id, "DATA")
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ProtocolError("more data than the connection's window", ErrorCode.FLOW_CONTROL_ERROR)
        if self._receive_window < CONNECTION_WINDOW // 2:
            # Credited as it arrives, also for abandoned streams: nobody else gives it back.
            self._queue_credit(0, CONNECTION_WINDOW - self._receive_window)
            self._receive_window = CONNECTION_WINDOW
        if flags & frames.PADDED:
            payload = frames.unpad(payload)
        if stream is None:
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise ProtocolError("more data than the stream's window", ErrorCode.FLOW_CONTROL_ERROR)
        end = bool(flags & END_STREAM)
        if stream.receive_window < sending.STREAM_WINDOW // 2 and not end:
            self._queue_credit(stream_id, sending.STREAM_WINDOW - stream.receive_window)
            stream.receive_window = sending.STREAM_WINDOW
        if end:
            self._end(stream)
        stream.on_data(payload, end)

    def _end(self, stream: sending.Stream) -> None:
        """The response is complete; whatever we still had to say is moot."""
        self._forget(stream.id)
        if stream.end_offset is None:
            self._queue(frames.pack(frames.RST_STREAM, 0, stream.id, U32.pack(ErrorCode.NO_ERROR)))

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._stream(stream_id, "HEADERS")
        if flags & frames.PADDED:
            payload = frames.unpad(payload)
        if flags & frames.WITH_PRIORITY:
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
        if len(self._fragments) > MOST_FRAGMENTS or sum(map(len, self._fragments)) > fields.LARGEST_BLOCK:
            raise ProtocolError("a header block without end", ErrorCode.ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            block, end = b"".join(self._fragments), self._fragment_head[1]
            self._fragments, self._fragment_head = [], None
            self._take_block(stream_id, block, end)

    def _take_block(self, stream_id: int, block: bytes, end: bool) -> None:
        headers = self._decoder.decode(block)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if end:
            self._end(stream)
        stream.on_headers(headers, end)

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
            stream.on_reset(U32.unpack(payload)[0])

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError("SETTINGS on a stream")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise ProtocolError("a SETTINGS frame of a wrong length", ErrorCode.FRAME_SIZE_ERROR)
        if flags & frames.ACK:
            if not self._settled:
                raise ProtocolError("the peer's first frame is an acknowledgement")
            return
        for name, value in frames.SETTING.iter_unpack(payload):
            self._apply_setting(name, value)
        self._settled = True
        self._reply(frames.pack(frames.SETTINGS, frames.ACK, 0, b""))
        self._unblock()

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 8:
            raise ProtocolError("a PING of a wrong length", ErrorCode.FRAME_SIZE_ERROR)
        if stream_id:
            raise ProtocolError("PING on a stream")
        if flags & frames.ACK:
            self.pongs += 1
        else:
            self.pings_owed.append(payload)
            if len(self.pings_owed) >= sending.MOST_PINGS_OWED:
                self.answer_pings()

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError("GOAWAY on a stream")
        if len(payload) < 8:
            raise ProtocolError("a GOAWAY of a wrong length", ErrorCode.FRAME_SIZE_ERROR)
        last_id = U32.unpack_from(payload)[0] & frames.LAST_STREAM_ID
        self.goaway = (last_id, U32.unpack_from(payload, 4)[0], payload[8:264].decode(errors="replace"))
        self.exhausted = True
        for later in [number for number in self._streams if number > last_id]:
            stream = self._forget(later)
            assert stream is not None
            stream.on_reset(ErrorCode.REFUSED_STREAM)

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError("a WINDOW_UPDATE of a wrong length", ErrorCode.FRAME_SIZE_ERROR)
        increment = U32.unpack(payload)[0] & frames.LARGEST_WINDOW
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
        if window > frames.LARGEST_WINDOW:
            raise ProtocolError("a window that is too large", ErrorCode.FLOW_CONTROL_ERROR)
        if self._blocked:
            self._unblock()


_CONTROL: dict[int, typing.Callable[[Connection, int, int, bytes], None]] = {
    frames.PRIORITY: Connection._on_priority,
    frames.RST_STREAM: Connection._on_reset,
    frames.SETTINGS: Connection._on_settings,
    frames.PUSH_PROMISE: Connection._on_push,
    frames.PING: Connection._on_ping,
    frames.GOAWAY: Connection._on_goaway,
    frames.WINDOW_UPDATE: Connection._on_window_update,
    frames.CONTINUATION: Connection._on_continuation,
}
