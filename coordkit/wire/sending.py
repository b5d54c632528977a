"""The sending half of an HTTP/2 connection: streams, the peer's windows and limits, the bytes that go out.

Requests are literal header blocks, so we need no encoder.

Ctrl-C may come between any two calls.  What belongs together therefore changes in lines that call nothing;
where that cannot be, `torn` tells of a change that was interrupted.
"""

from __future__ import annotations

import collections

from coordkit.wire import fields, frames
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

STREAM_WINDOW = 8 * 2**20
MOST_PINGS_OWED = 16
MOST_REPLIES_QUEUED = 1_000  # control frames that we owe the peer and cannot send


class Stream:
    """One request and its response, as far as framing is concerned; whose they are is a subclass's affair.

    Its events come in order, within `receive`, and must not block.  It begins with the class's attributes:
    one is made for each call, and most of them are never set.
    """

    id = 0  # until it is opened
    send_window = 0
    receive_window = STREAM_WINDOW
    #: What waits for the peer's window: (bytes, whether the request ends with them).
    pending: collections.deque[tuple[memoryview, bool]] | None = None
    #: Output offset behind our END_STREAM; None while it is not queued: the peer cannot have all of it.
    end_offset: int | None = None
    #: The whole request, where it was queued in one piece.
    piece: bytes | None = None

    def on_headers(self, headers: fields.Headers, end: bool) -> None:
        """A whole header block: the response's head, or its trailers.  Shared: do not change it."""
        raise NotImplementedError

    def on_data(self, data: bytes, end: bool) -> None:
        """Body bytes, padding removed."""
        raise NotImplementedError

    def on_response(self, head: fields.Headers, body: bytes, trailers: fields.Headers) -> None:
        """All three at once; the same as `on_headers`, `on_data`, `on_headers`."""
        raise NotImplementedError

    def on_reset(self, code: int) -> None:
        """The stream ended early.  REFUSED_STREAM: the peer certainly did nothing with it."""
        raise NotImplementedError


class SendingHalf:
    """What we send, and the state that it depends on."""

    def __init__(self) -> None:
        self.torn = False  # while a change is under way: still true afterwards, the state is worthless
        self.queued_bytes = 0  # all that was ever queued: offsets for Stream.end_offset
        self.taken_bytes = 0  # behind the last of them that was taken: what lies below may reach the peer
        #: (last stream id, code, debug text) once the peer said GOAWAY.
        self.goaway: tuple[int, int, str] | None = None
        self.exhausted = False  # it takes no further stream, ever
        self.pings_owed: list[bytes] = []  # the peer's, which are answered when the caller finds time
        self._output: list[bytes] = []
        self._replies_queued = 0
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[int, Stream] = {}  # those with pending data, in the order they blocked
        self._next_id = 1
        self._send_window = frames.DEFAULT_WINDOW
        self._peer_stream_window = frames.DEFAULT_WINDOW
        self._peer_frame_size = LARGEST_FRAME
        self._peer_max_streams = frames.LAST_STREAM_ID

    @property
    def open_streams(self) -> int:
        """Streams that have not ended."""
        return len(self._streams)

    @property
    def can_open(self) -> bool:
        """Whether a stream may be opened now."""
        return len(self._streams) < self._peer_max_streams and not self.exhausted

    def open(self, stream: Stream, block: bytes, body: bytes = b"", end: bool = False) -> None:
        """Queue a request: its header block and the first bytes of its body."""
        assert self.can_open, "ask can_open first"
        assert stream.id == 0, "a stream is opened once"
        stream.send_window = self._peer_stream_window
        stream.id = self._next_id
        self._next_id += 2
        if self._next_id > frames.LAST_STREAM_ID:
            self.exhausted = True
        size = len(body)
        if len(block) > LARGEST_FRAME or size > self._room(stream):
            self._open_slowly(stream, block, body, end)
            return
        # The hot path: head and body in one piece.
        head = frames.HEAD.pack(0, len(block), HEADERS, END_HEADERS, stream.id) + block
        if size or end:
            flags = END_STREAM if end else 0
            head += frames.HEAD.pack(size >> 16, size & 0xFFFF, DATA, flags, stream.id) + body
        queued_bytes = self.queued_bytes + len(head)
        # From here on nothing is called, and the last call is the one that counts.
        self.queued_bytes = queued_bytes
        self._send_window -= size
        stream.send_window -= size
        if end:
            stream.end_offset = queued_bytes
        stream.piece = head
        self._streams[stream.id] = stream
        self._output.append(head)

    def _open_slowly(self, stream: Stream, block: bytes, body: bytes, end: bool) -> None:
        self.torn = True
        self._streams[stream.id] = stream
        parts = [block[at : at + LARGEST_FRAME] for at in range(0, len(block), LARGEST_FRAME)]
        pieces = []
        for index, part in enumerate(parts):
            flags = END_HEADERS if index == len(parts) - 1 else 0
            pieces.append(frames.pack(frames.CONTINUATION if index else HEADERS, flags, stream.id, part))
        self._queue(b"".join(pieces))  # one piece: no other frame may come between
        self.send(stream, body, end)

    def send(self, stream: Stream, body: bytes, end: bool = False) -> None:
        """Queue more of a request's body, as far as the peer's windows go; the rest follows by itself.

        Nothing happens on a stream that has ended, or whose request has.
        """
        if stream.id not in self._streams or stream.end_offset is not None:
            return
        if stream.pending and stream.pending[-1][1]:
            return
        self.torn = True
        if stream.pending is None:
            stream.pending = collections.deque()
        stream.pending.append((memoryview(body), end))
        self._blocked[stream.id] = stream
        self._unblock()
        self.torn = False

    def reset(self, stream: Stream, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Abandon a stream.  It hears nothing more.

        A request that is still here goes nowhere any more: then its `end_offset` is None again.
        """
        if not self._forget(stream.id):
            return
        if stream.piece is not None and (stream.end_offset or 0) > self.taken_bytes:
            self._output.remove(stream.piece)
            stream.end_offset = None
        else:
            self._queue(frames.pack(frames.RST_STREAM, 0, stream.id, U32.pack(code)))

    def answer_pings(self) -> None:
        """Queue the answers to the peer's PINGs."""
        owed, self.pings_owed = self.pings_owed, []
        for payload in owed:
            self._reply(frames.pack(frames.PING, frames.ACK, 0, payload))

    def ping(self) -> None:
        """Queue a PING; `pongs` counts the answers."""
        self._queue(frames.pack(frames.PING, 0, 0, b"coordkit"))

    def take_output(self) -> list[bytes]:
        """All that is queued, in order, once."""
        self.taken_bytes = self.queued_bytes
        output, self._output = self._output, []
        self._replies_queued = 0
        return output

    @property
    def has_output(self) -> bool:
        """Whether anything is queued."""
        return bool(self._output)

    @property
    def pieces(self) -> int:
        """How many requests and other frames are queued."""
        return len(self._output)

    def _queue(self, piece: bytes) -> None:
        self._output.append(piece)
        self.queued_bytes += len(piece)

    def _reply(self, frame: bytes) -> None:
        """Queue what we owe the peer; a peer that asks without reading must not fill our memory."""
        self._replies_queued += 1
        if self._replies_queued > MOST_REPLIES_QUEUED:
            raise ProtocolError("the peer asks for more answers than it reads", ErrorCode.ENHANCE_YOUR_CALM)
        self._queue(frame)

    def _queue_credit(self, stream_id: int, size: int) -> None:
        self._reply(frames.pack(frames.WINDOW_UPDATE, 0, stream_id, U32.pack(size)))

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
        assert stream.pending
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
        self._queue(frames.pack(DATA, END_STREAM if last else 0, stream.id, part))
        if last:
            stream.end_offset = self.queued_bytes
        if not stream.pending:
            del self._blocked[stream.id]
        return True

    def abandon_all(self) -> list[Stream]:
        """Drop every stream without a word to the peer: the connection is gone, or a GOAWAY is the last word.

        Requests that are still here must not travel with it: their callers are told that they did not.
        """
        self._output = [piece for piece in self._output if piece[3] == frames.GOAWAY]
        streams = list(self._streams.values())
        self._streams.clear()
        self._blocked.clear()
        return streams

    def _forget(self, stream_id: int) -> Stream | None:
        self._blocked.pop(stream_id, None)
        return self._streams.pop(stream_id, None)

    def _apply_setting(self, name: int, value: int) -> None:
        if name == frames.MAX_CONCURRENT_STREAMS:
            self._peer_max_streams = value
        elif name == frames.INITIAL_WINDOW_SIZE:
            if value > frames.LARGEST_WINDOW:
                raise ProtocolError("an initial window that is too large", ErrorCode.FLOW_CONTROL_ERROR)
            change = value - self._peer_stream_window  # open streams' windows move along, below 0 if need be
            self._peer_stream_window = value
            for stream in self._streams.values():
                stream.send_window += change
                if stream.send_window > frames.LARGEST_WINDOW:
                    raise ProtocolError("a window that is too large", ErrorCode.FLOW_CONTROL_ERROR)
        elif name == frames.MAX_FRAME_SIZE:
            if not LARGEST_FRAME <= value < 2**24:
                raise ProtocolError(f"a MAX_FRAME_SIZE of {value}")
            self._peer_frame_size = value
        elif name == frames.ENABLE_PUSH and value > 1:
            raise ProtocolError(f"an ENABLE_PUSH of {value}")
