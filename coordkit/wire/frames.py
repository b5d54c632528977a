"""HTTP/2's frames (RFC 9113, sections 4 to 7): numbers, packing, and the error that ends a connection."""

from __future__ import annotations

import enum
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
LARGEST_FRAME = 16_384  # what we accept; the smallest that RFC 9113 allows, and more than etcd sends
LAST_STREAM_ID = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE = range(6)
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(6, 10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)

HEAD = struct.Struct(">BHBBL")  # length (24 bits), type, flags, stream id
SETTING = struct.Struct(">HL")
U32 = struct.Struct(">L")


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


def name_of(code: int) -> str:
    """An error code as people know it."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return hex(code)


class ProtocolError(Exception):
    """The peer broke the protocol; the connection is over."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


def pack(kind: int, flags: int, stream_id: int, payload: bytes | memoryview) -> bytes:
    """One frame as it travels."""
    size = len(payload)
    return HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id) + payload


def unpad(payload: bytes) -> bytes:
    """What is left of a padded frame's payload.

    Raises:
        ProtocolError: It claims more padding than it has.
    """
    if not payload or payload[0] >= len(payload):
        raise ProtocolError("more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def check_greeting(start: bytes) -> None:
    """Name the commonest strangers before the first frame is parsed.

    Raises:
        ProtocolError: These are not the first bytes of an HTTP/2 server.
    """
    if start[:5] == b"HTTP/"[: len(start[:5])]:
        if len(start) >= 5:
            raise ProtocolError("an HTTP/1 server answered")
    elif start[:1] == b"\x15" and start[1:2] == b"\x03":
        raise ProtocolError("a TLS alert came: this port wants TLS (etcds:// or https://)")
    elif len(start) >= 9 and start[3] != SETTINGS:
        raise ProtocolError("the peer does not speak HTTP/2")
