"""Servers for the channel's tests: gRPC on the h2 library, scripted by the test, and bare sockets."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from coordkit.deadline import Deadline
from coordkit.testing import certificates
from coordkit.wire import address, channel, frames, grpc
from tests.wire import machines

HEAD = [(":status", "200"), ("content-type", "application/grpc")]
HEAD_BLOCK = b"\x88\x0f\x10\x10application/grpc"
OK_BLOCK = b"\x00\x0bgrpc-status\x010"
PATIENCE_S = 10.0
RECEIVE_BUFFER_BYTES = 64 * 2**10  # of each connection: small, so that not to read is soon felt


class Request:
    """One call as the server sees it.  Its methods may be used by any thread."""

    def __init__(self, served: Served, stream_id: int, headers: dict[str, str]) -> None:
        self.headers = headers
        self.stream_id = stream_id
        self.messages: list[bytes] = []
        self.ended = False  # the client has said all
        self.reset: int | None = None  # the code of the client's RST_STREAM
        self._served = served
        self._bytes = b""
        self._headed = False

    @property
    def method(self) -> str:
        return self.headers[":path"]

    @property
    def message(self) -> bytes:
        return self.messages[0]

    def take(self, octets: bytes) -> None:
        self._bytes += octets
        while len(self._bytes) >= 5 and len(self._bytes) >= 5 + int.from_bytes(self._bytes[1:5], "big"):
            end = 5 + int.from_bytes(self._bytes[1:5], "big")
            self.messages.append(self._bytes[5:end])
            self._bytes = self._bytes[end:]

    def send(self, message: bytes) -> None:
        """A message, preceded by the head if need be."""
        with self._served.speaking() as connection:
            self._head(connection)
            self._served.queue(self.stream_id, grpc.frame(message))

    def finish(self, status: int = 0, text: str = "") -> None:
        """The trailers."""
        with self._served.speaking() as connection:
            self._head(connection)
            self._served.queue(self.stream_id, [("grpc-status", str(status)), ("grpc-message", text)])

    def reply(self, message: bytes) -> None:
        """The whole of a unary response."""
        self.send(message)
        self.finish()

    def refuse(self, code: int = 8) -> None:
        """RST_STREAM."""
        with self._served.speaking() as connection:
            connection.reset_stream(self.stream_id, code)

    def _head(self, connection: h2.connection.H2Connection) -> None:
        if not self._headed:
            self._headed = True
            connection.send_headers(self.stream_id, HEAD)


class Served:
    """One connection of a `Peer`."""

    def __init__(self, peer: Peer, sock: socket.socket) -> None:
        self.sock = sock
        self.requests: dict[int, Request] = {}
        self.pings = 0
        self.goaway: int | None = None  # the code of the client's
        self._peer = peer
        self._lock = threading.RLock()
        self._queues: dict[int, list] = {}
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self._connection = h2.connection.H2Connection(config)
        values = {getattr(h2.settings.SettingCodes, name): value for name, value in peer.settings.items()}
        self._connection.local_settings = h2.settings.Settings(client=False, initial_values=values)
        self._connection.max_inbound_frame_size = self._connection.local_settings.max_frame_size

    @contextlib.contextmanager
    def speaking(self) -> Iterator[h2.connection.H2Connection]:
        """The connection; what is said on it goes out at the end.  Nothing happens once it is gone."""
        with self._lock, contextlib.suppress(h2.exceptions.ProtocolError, OSError):
            yield self._connection
            self._pump()
            self.sock.sendall(self._connection.data_to_send())

    def queue(self, stream_id: int, what: object) -> None:
        self._queues.setdefault(stream_id, []).append(what)

    def serve(self) -> None:
        with self.speaking() as connection:
            connection.initiate_connection()
            if self._peer.settings.get("INITIAL_WINDOW_SIZE", 0) > frames.DEFAULT_WINDOW:
                connection.increment_flow_control_window(self._peer.settings["INITIAL_WINDOW_SIZE"])
        with contextlib.suppress(OSError):
            while self._peer.reads.wait() and (received := self.sock.recv(2**16)):
                arrived: list[Request] = []
                with self.speaking() as connection:
                    for event in connection.receive_data(received):
                        self._on(event, arrived)
                for request in arrived:
                    self._peer.script(request)

    def _on(self, event: h2.events.Event, arrived: list[Request]) -> None:
        request = self.requests.get(getattr(event, "stream_id", 0))
        if isinstance(event, h2.events.RequestReceived):
            request = Request(self, event.stream_id, dict(event.headers))
            self.requests[event.stream_id] = request
            self._peer.requests.append(request)
            if self._peer.scripts_heads:
                arrived.append(request)
        elif isinstance(event, h2.events.DataReceived):
            request.take(event.data)
            self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            request.ended = True
            if not self._peer.scripts_heads:
                arrived.append(request)
        elif isinstance(event, h2.events.StreamReset):
            request.reset = int(event.error_code)
            self._queues.pop(event.stream_id, None)
        elif isinstance(event, h2.events.PingReceived):
            self.pings += 1
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code)

    def _pump(self) -> None:
        """Send what the client's windows allow."""
        for stream_id, queue in list(self._queues.items()):
            while queue:
                if isinstance(queue[0], list):
                    self._connection.send_headers(stream_id, queue.pop(0), end_stream=True)
                    continue
                room = self._connection.local_flow_control_window(stream_id)
                size = min(room, self._connection.max_outbound_frame_size)
                part, rest = queue[0][:size], queue[0][size:]
                if not part:
                    break
                self._connection.send_data(stream_id, part)
                queue[:1] = [rest] if rest else []


class Peer:
    """A gRPC server on loopback.

    `script(request)` is run on the connection's thread for each request: once it is complete, or, with
    `scripts_heads`, when its head came.  A script may keep the request and let the test answer it.
    """

    def __init__(
        self, script: Callable[[Request], None], scripts_heads: bool = False, **settings: int
    ) -> None:
        self.script = script
        self.scripts_heads = scripts_heads
        self.settings = settings
        self.reads = threading.Event()  # cleared: what the client sends stays in the kernel's buffers
        self.reads.set()
        self.requests: list[Request] = []
        self.served: list[Served] = []
        self._listening = listening(self._serve)

    def __enter__(self) -> Peer:
        self.address = self._listening.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.reads.set()
        self._listening.__exit__(None, None, None)

    def _serve(self, sock: socket.socket) -> None:
        served = Served(self, sock)
        self.served.append(served)
        served.serve()

    def channel(self) -> channel.Channel:
        """A new connection to it."""
        return channel.Channel.connect(self.address, Deadline.after(PATIENCE_S))

    def drop(self) -> None:
        """Cut all connections."""
        for served in self.served:
            cut(served.sock)


def echo(request: Request) -> None:
    """A script: the reply is the request."""
    request.reply(request.message)


def hold(request: Request) -> None:
    """A script: the test answers, or nobody."""


Listening = contextlib.AbstractContextManager[address.Address]


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[address.Address]:
    """A port on loopback; `serve(sock)` runs on a thread for each connection; all end with the context."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    threads: list[threading.Thread] = []
    socks: list[socket.socket] = []

    def run(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            serve(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                socks.append(sock)
                threads.append(threading.Thread(target=run, args=(sock,), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield address.Address(host="127.0.0.1", port=listener.getsockname()[1])
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for sock in socks:
            cut(sock)
        for thread in (accepting, *threads):
            thread.join(PATIENCE_S)


def cut(sock: socket.socket) -> None:
    """End a connection at once."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def greet(sock: socket.socket, **settings: int) -> None:
    """The least that makes a client take us for an HTTP/2 server."""
    sock.sendall(machines.settings(**settings))


def read_frames(sock: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """What the client sends, frame by frame."""
    stream = sock.makefile("rb")
    assert stream.read(len(frames.PREFACE)) == frames.PREFACE
    while len(head := stream.read(9)) == 9:
        high, low, kind, flags, stream_id = frames.HEAD.unpack(head)
        yield kind, flags, stream_id, stream.read(high << 16 | low)


def response(stream_id: int, message: bytes) -> bytes:
    """A whole unary response as bytes."""
    return (
        frames.pack(frames.HEADERS, frames.END_HEADERS, stream_id, HEAD_BLOCK)
        + frames.pack(frames.DATA, 0, stream_id, grpc.frame(message))
        + frames.pack(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id, OK_BLOCK)
    )


def secured(place: address.Address, files: certificates.KeyPair, step: int = 2**16) -> Listening:
    """The server at that place behind TLS; what it says comes in pieces of `step` bytes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.set_alpn_protocols(["h2"])

    def serve(sock: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        with socket.create_connection((place.host, place.port)) as behind:
            shaken = False
            while True:
                ready, _, _ = select.select([sock, behind] if shaken else [sock], [], [])
                received = ready[0].recv(2**16)
                if not received:
                    return
                if ready[0] is behind:
                    tls.write(received)
                else:
                    incoming.write(received)
                with contextlib.suppress(ssl.SSLWantReadError):
                    shaken = shaken or tls.do_handshake() is None
                    while plain := tls.read(2**16):
                        behind.sendall(plain)
                said = outgoing.read()
                for at in range(0, len(said), step):
                    sock.sendall(said[at : at + step])

    return listening(serve)


class Caller:
    """A call on a thread of its own."""

    def __init__(
        self,
        on: channel.Channel,
        message: bytes = b"",
        timeout_s: float | None = PATIENCE_S,
        method: str = "/t/m",
    ) -> None:
        self.reply: bytes | None = None
        self.error: BaseException | None = None
        self.deadline = Deadline.after(timeout_s)
        self._arguments = (on, method, message, self.deadline)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        on, *arguments = self._arguments
        try:
            self.reply = on.call(*arguments)
        except BaseException as error:
            self.error = error

    @property
    def ended(self) -> bool:
        return not self.thread.is_alive()

    def result(self) -> bytes:
        """The reply, or the error raised."""
        self.thread.join(PATIENCE_S * 2)
        assert self.ended, "the call does not end"
        if self.error is not None:
            raise self.error
        assert self.reply is not None
        return self.reply
