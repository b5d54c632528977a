"""gRPC over HTTP/2, sans-IO: message framing, request heads, status and outcome.

Source: the gRPC project's PROTOCOL-HTTP2 document.  `Exchange` is one call's response half, fed by
`http2.Connection`; what it makes of the frames goes to three methods that the channel fills in.
"""

from __future__ import annotations

import enum
import functools
import math
import struct
import urllib.parse

import attrs

from coordkit import errors
from coordkit.wire import fields, frames, sending

LARGEST_MESSAGE = 256 * 2**20

_PREFIX = struct.Struct(">BL")  # compressed?, length


class Code(enum.IntEnum):
    """gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@attrs.frozen
class Status:
    """How a call ended."""

    code: Code
    message: str = ""
    #: Whether the server said so itself; otherwise it is our own conclusion about a broken exchange.
    from_server: bool = False
    #: For our own conclusions: whether the request may have been applied.
    outcome: errors.Outcome = errors.Outcome.UNKNOWN
    #: Whether it would fail again the same way: a certificate does not mend itself.
    lasting: bool = False


class CallFailed(Exception):
    """A call that ended with another status than OK.  Mapped to public errors by the client."""

    def __init__(self, method: str, status: Status) -> None:
        super().__init__(f"{method}: {status.code.name}: {status.message}")
        self.method = method
        self.status = status


def no_connection(message: str, lasting: bool = False) -> CallFailed:
    """There is nobody to send a request to: it certainly was not applied."""
    return CallFailed("connect", Status(Code.UNAVAILABLE, message, False, errors.Outcome.NONE, lasting))


OK = Status(Code.OK, from_server=True)

_FROM_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}

_FROM_RESET: dict[int, Code] = {
    frames.ErrorCode.REFUSED_STREAM: Code.UNAVAILABLE,
    frames.ErrorCode.CANCEL: Code.CANCELLED,
    frames.ErrorCode.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    frames.ErrorCode.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


def frame(message: bytes) -> bytes:
    """A message as it travels, uncompressed."""
    return _PREFIX.pack(0, len(message)) + message


Metadata = tuple[tuple[str, str], ...]


def request_head(method: str, authority: str, scheme: str, metadata: Metadata = ()) -> bytes:
    """The header block of a request, as literals without indexing; the timeout's field is added behind it."""
    block = [b"\x83", b"\x87" if scheme == "https" else b"\x86"]  # :method POST, :scheme
    block.append(_literal(b"\x04", method))  # :path
    block.append(_literal(b"\x01", authority))  # :authority
    block.append(_literal(b"\x0f\x10", "application/grpc"))  # content-type
    block.append(_field("te", "trailers"))
    block.append(_field("user-agent", "coordkit"))
    block.extend(_field(name, value) for name, value in metadata)
    return b"".join(block)


def timeout_field(seconds: float) -> bytes:
    """The grpc-timeout header for so many seconds; nothing for infinity."""
    if seconds == math.inf:
        return b""
    return _timeout_field(max(1, math.ceil(seconds * 1000)))


@functools.lru_cache(maxsize=256)  # most calls have the same timeout, and have just begun
def _timeout_field(millis: int) -> bytes:
    value = b"%dm" % millis if millis < 10**8 else b"%dS" % min(-(-millis // 1000), 10**8 - 1)
    return b"\x00\x0cgrpc-timeout" + bytes((len(value),)) + value


def _field(name: str, value: str) -> bytes:
    # 0x10: never indexed, so that no proxy keeps a token in a table.
    return _literal(b"\x10" + _text(name.lower().encode()), value)


def _literal(name: bytes, value: str) -> bytes:
    return name + _text(value.encode())


def _text(octets: bytes) -> bytes:
    """A string literal without Huffman coding (RFC 7541, section 5.2)."""
    size = len(octets)
    if size < 127:
        return bytes((size,)) + octets
    head, size = [127], size - 127
    while size >= 128:
        head.append(size % 128 + 128)
        size //= 128
    return bytes([*head, size]) + octets


class Exchange(sending.Stream):
    """One call's stream, and what its response means.  Every exchange ends with exactly one `finished`."""

    _buffer: bytearray | None = None  # a message of which a part has come
    _headed = False
    _ended = False

    def on_message(self, message: bytes) -> None:
        """A whole message came."""
        raise NotImplementedError

    def on_status(self, status: Status) -> None:
        """The call is over."""
        raise NotImplementedError

    def give_up(self) -> None:
        """The rest of the response is worthless: the stream should be reset."""
        raise NotImplementedError

    # From http2.

    def on_headers(self, headers: fields.Headers, end: bool) -> None:
        """The head, the trailers, or both in one."""
        if self._ended:
            return
        if end:
            self.finish(self._final(headers))
            return
        if self._headed:
            self._break("a second response head")
            return
        status = headers.get(b":status", b"")
        if status[:1] == b"1":
            return  # informational (RFC 9110, section 15.2)
        self._headed = True
        if status != b"200" or not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            self.finish(_http_status(status, headers))
            self.give_up()

    def on_data(self, data: bytes, end: bool) -> None:
        """A piece of the body, in any split."""
        if self._ended:
            return
        if self._buffer is None and len(data) >= 5:
            compressed, size = _PREFIX.unpack_from(data)
            if size == len(data) - 5 and not compressed:
                self.on_message(data[5:])  # the hot path: one message, one frame
                data = b""
        if data:
            self._collect(data)
        if end and not self._ended:
            self._break("the response ended without a status")

    def on_response(self, head: fields.Headers, body: bytes, trailers: fields.Headers) -> None:
        """The whole response; the hot path of unary calls."""
        if (
            self._ended
            or self._headed
            or trailers.get(b"grpc-status") != b"0"
            or head.get(b":status") != b"200"
            or not head.get(b"content-type", b"").startswith(b"application/grpc")
            or body[:1] != b"\0"
            or int.from_bytes(body[1:5], "big") != len(body) - 5
        ):
            self.on_headers(head, False)
            self.on_data(body, False)
            self.on_headers(trailers, True)
            return
        self._headed = True
        self.on_message(body[5:])
        self.finish(OK)

    def on_reset(self, code: int) -> None:
        """The server ended the stream early."""
        if self._ended:
            return
        refused = code == frames.ErrorCode.REFUSED_STREAM
        outcome = errors.Outcome.NONE if refused else errors.Outcome.UNKNOWN
        known = _FROM_RESET.get(code, Code.INTERNAL)
        self.finish(Status(known, f"the server reset the stream: {frames.name_of(code)}", outcome=outcome))

    def finish(self, status: Status) -> None:
        """End the exchange, once; later news is ignored."""
        if self._ended:
            return
        self._ended = True
        self._buffer = None
        self.on_status(status)

    @property
    def ended(self) -> bool:
        """Whether the status is known."""
        return self._ended

    def _collect(self, data: bytes) -> None:
        if self._buffer is None:
            self._buffer = bytearray()
        self._buffer += data
        at = 0
        while not self._ended and len(self._buffer) - at >= 5:
            compressed, size = _PREFIX.unpack_from(self._buffer, at)
            if compressed:
                return self._break("a compressed message, although we accept none")
            if size > LARGEST_MESSAGE:
                return self._break(f"a message of {size} bytes, more than {LARGEST_MESSAGE}")
            if len(self._buffer) - at - 5 < size:
                break
            message = bytes(self._buffer[at + 5 : at + 5 + size])
            at += 5 + size
            self.on_message(message)
        if self._buffer is not None:
            if at == len(self._buffer):
                self._buffer = None
            else:
                del self._buffer[:at]

    def _break(self, what: str) -> None:
        self.finish(Status(Code.INTERNAL, what))
        self.give_up()

    def _final(self, headers: fields.Headers) -> Status:
        number = headers.get(b"grpc-status")
        if number == b"0":
            if self._buffer is not None:
                return Status(Code.INTERNAL, "the response ended inside a message")
            return OK
        if number is None:
            return _http_status(headers.get(b":status", b""), headers)
        message = urllib.parse.unquote(headers.get(b"grpc-message", b"").decode(errors="replace"))
        try:
            code = Code(int(number))
        except ValueError:
            code = Code.UNKNOWN
            message = f"grpc-status {number.decode(errors='replace')[:20]!r}: {message}"
        if code is Code.OK:
            return OK
        return Status(code, message, from_server=True)


def _http_status(status: bytes, headers: fields.Headers) -> Status:
    try:
        number = int(status)
    except ValueError:
        return Status(Code.INTERNAL, "a response without an HTTP status")
    if number == 200:
        kind = headers.get(b"content-type", b"").decode(errors="replace")[:80]
        if kind.startswith("application/grpc"):
            return Status(Code.INTERNAL, "the response ended without a status")
        return Status(Code.UNKNOWN, f"the response is {kind!r}, not gRPC")
    return Status(_FROM_HTTP.get(number, Code.UNKNOWN), f"HTTP status {number}")
