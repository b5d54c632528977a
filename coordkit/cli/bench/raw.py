"""A bare gRPC client on one blocking socket: what no client of etcd can be faster than, in this language.

It shares no code with coordkit's wire on purpose: a floor built from what it measures would move with it. One
call at a time, requests serialized beforehand, replies cut out of their frames and left unparsed. It trusts
the server and keeps no account of flow control: windows are opened once, wide enough for any run.

Source: RFC 9113 (HTTP/2), RFC 7541 (HPACK, literals without indexing only), gRPC's PROTOCOL-HTTP2.md.
Cost: one send and, as a rule, one recv per call.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_WIDE = 2**31 - 1
_SILENCE_S = 20.0


class RawError(Exception):
    """The server did not do what the floor needs."""


def header_block(path: str, authority: str) -> bytes:
    """The request headers of one method."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    # Literal without indexing, new name, no Huffman; all lengths are below 127 and so take one byte.
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    return b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in fields)


def envelope(message: bytes) -> bytes:
    """gRPC's length prefix, not compressed."""
    return struct.pack(">BL", 0, len(message)) + message


class RawClient:
    """One connection; calls in turn, or one stream."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=_SILENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        self._next_stream = 1
        # HEADER_TABLE_SIZE 0 and ENABLE_PUSH 0; every stream, and the connection, may send us 2 GiB.
        settings = struct.pack(">HLHLHL", 1, 0, 2, 0, 4, _WIDE)
        opening = _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, _long(_WIDE - 65_535))
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + opening)

    def close(self) -> None:
        self._socket.close()

    def call(self, headers: bytes, request: bytes | bytearray) -> bytes:
        """One unary call: an enveloped request out, the reply's message in."""
        stream = self._send(headers, request, _END_STREAM)
        reply = bytearray()
        while True:
            kind, flags, _, payload = self._frame_of(stream)
            if kind == _DATA:
                reply += payload
            if flags & _END_STREAM:
                break
        if not reply:
            raise RawError("the call was refused: a reply without a message")
        return bytes(reply[5:])

    def stream(self, headers: bytes, request: bytes) -> Iterator[bytes]:
        """The messages that come on a stream which is opened with one request and never ends."""
        stream = self._send(headers, request, 0)
        pending = bytearray()
        while True:
            kind, flags, _, payload = self._frame_of(stream)
            if flags & _END_STREAM:
                raise RawError("the stream was ended by the server")
            if kind != _DATA:
                continue
            pending += payload
            while len(pending) >= 5 and len(pending) >= (end := 5 + int.from_bytes(pending[1:5], "big")):
                yield bytes(pending[5:end])
                del pending[:end]

    def _send(self, headers: bytes, request: bytes | bytearray, flags: int) -> int:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        head = _frame(_HEADERS, _END_HEADERS, stream, headers)
        self._socket.sendall(head + _frame(_DATA, flags, stream, request))
        return stream

    def _frame_of(self, stream: int) -> tuple[int, int, int, bytes]:
        """The next DATA or HEADERS frame of a stream; what the connection needs is answered on the way."""
        while True:
            frame = kind, flags, of, payload = self._read_frame()
            if kind in (_DATA, _HEADERS) and of == stream:
                return frame
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                self._socket.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            if kind == _GOAWAY or (kind == _RST_STREAM and of == stream):
                raise RawError(f"frame {kind} from the server: {payload!r}")

    def _read_frame(self) -> tuple[int, int, int, bytes]:
        self._fill(9)
        end = 9 + int.from_bytes(self._received[:3], "big")
        kind, flags, stream = struct.unpack_from(">BBL", self._received, 3)
        self._fill(end)
        payload = bytes(self._received[9:end])
        del self._received[:end]
        return kind, flags, stream, payload

    def _fill(self, length: int) -> None:
        while len(self._received) < length:
            piece = self._socket.recv(65_536)
            if not piece:
                raise RawError("the server closed the connection")
            self._received += piece


def _frame(kind: int, flags: int, stream: int, payload: bytes | bytearray) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBL", kind, flags, stream) + payload


def _long(value: int) -> bytes:
    return struct.pack(">L", value)
