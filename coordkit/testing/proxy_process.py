"""The process behind `FaultProxy`: a TCP proxy on one thread, with faults that are switched while it runs.

A program of its own, on nothing but the standard library: it starts in some 50 ms, and goes on whatever the
process under test does to its threads, its hub and its modules.

usage: proxy_process.py PORT FAMILY ADDRESS [PORT]      FAMILY is "tcp" or "unix"

It listens on 127.0.0.1:PORT and says one line of JSON on stdout; then each line of JSON on stdin, `[name,
arguments]`, is obeyed and answered by one.  It ends when stdin ends, or when the process that started it is
gone, which a forked child that holds the other end of stdin would hide.
"""

from __future__ import annotations

import collections
import errno
import json
import os
import random
import selectors
import socket
import struct
import sys
import time

RECEIVE_BYTES = 65536
MOST_BUFFERED_BYTES = 2**24
GARBAGE_BYTES = 256
PORT_IS_TAKEN = 98  # the exit status
LONGEST_NAP_S = 0.5  # how often it looks whether its parent still lives
COUNTED = ("accepted", "requests_bytes", "replies_bytes", "swallowed_bytes", "pieces")
Counts = dict[str, int]

_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Faults:
    """What is wrong at present, for every connection."""

    def __init__(self) -> None:
        self.requests_held = False
        self.replies_held = False
        self.delay_s = 0.0
        self.piece_bytes = RECEIVE_BYTES
        self.noise: random.Random | None = None


class Pump:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, counts: Counts, what: str) -> None:
        self.source = source
        self.sink = sink
        self.held = False
        self._counts = counts
        self._what = what
        self._chunks: collections.deque[tuple[float, memoryview]] = collections.deque()  # when due, and what
        self._buffered_bytes = 0
        self._ended = False
        self.finished = False  # the sink was told of the end

    @property
    def wants_read(self) -> bool:
        return not (self.held or self._ended) and self._buffered_bytes < MOST_BUFFERED_BYTES

    def due_s(self) -> float | None:
        """When there is something to send; None when there is nothing."""
        return self._chunks[0][0] if self._chunks and not self.held else None

    def receive(self) -> bytes:
        """What came; empty at the end."""
        received = self.source.recv(RECEIVE_BYTES)
        self._ended = not received
        return received

    def put(self, chunk: bytes, due_s: float) -> None:
        self._chunks.append((due_s, memoryview(chunk)))
        self._buffered_bytes += len(chunk)

    def send(self, most_bytes: int) -> None:
        """One send of what is due first."""
        due_s, chunk = self._chunks[0]
        sent_bytes = self.sink.send(chunk[:most_bytes])
        self._counts[self._what] += sent_bytes
        self._counts["pieces"] += 1
        self._buffered_bytes -= sent_bytes
        if sent_bytes < len(chunk):
            self._chunks[0] = (due_s, chunk[sent_bytes:])
        else:
            self._chunks.popleft()

    def finish(self) -> None:
        """Pass the end on, once everything before it was sent."""
        if self._ended and not self._chunks and not self.finished:
            self.finished = True
            self.sink.shutdown(socket.SHUT_WR)

    def hurry(self) -> None:
        """All that was delayed is due now."""
        self._chunks = collections.deque((0.0, chunk) for _, chunk in self._chunks)

    def forget(self) -> None:
        """Drop what was not sent yet."""
        self._chunks.clear()
        self._buffered_bytes = 0


class Connection:
    """A client's connection and ours to the target."""

    def __init__(self, client: socket.socket, server: socket.socket, counts: Counts) -> None:
        self.client = client
        self.server = server
        self.requests = Pump(client, server, counts, "requests_bytes")
        self.replies = Pump(server, client, counts, "replies_bytes")
        self.connected = False
        self.swallows = False
        self.damaged = False  # its replies are not what the server said: it cannot be healed

    def interest(self, sock: socket.socket, now_s: float) -> int:
        """Which events of one of the two sockets matter now."""
        if not self.connected:
            return selectors.EVENT_WRITE if sock is self.server else 0
        incoming, outgoing = self.requests, self.replies
        if sock is self.server:
            incoming, outgoing = outgoing, incoming
        due_s = outgoing.due_s()
        reads = selectors.EVENT_READ if incoming.wants_read else 0
        writes = selectors.EVENT_WRITE if due_s is not None and due_s <= now_s else 0
        return reads | writes

    def close(self, with_reset: bool) -> None:
        for sock in (self.client, self.server):
            if with_reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            sock.close()


class Proxy:
    """The loop.  Its methods without an underscore, but for `run`, are the commands."""

    def __init__(self, port: int, target: tuple[str, int] | str) -> None:
        self._port = port
        self._target = target
        self._selector = selectors.DefaultSelector()
        self._connections: dict[Connection, None] = {}
        self._faults = Faults()
        self._listener = _bound(port)
        self._listener.listen(128)
        self._listens = True
        self._counts: Counts = dict.fromkeys(COUNTED, 0)
        self._commands = b""

    # --- commands

    def reset(self) -> None:
        self._accept()
        for connection in list(self._connections):
            self._cut(connection)

    def half_open(self, requests: bool, replies: bool) -> None:
        self._faults.requests_held, self._faults.replies_held = requests, replies
        for connection in self._connections:
            self._hold(connection)

    def delay(self, seconds: float) -> None:
        self._faults.delay_s = seconds

    def byte_by_byte(self) -> None:
        self._faults.piece_bytes = 1

    def drop_reply_after_commit(self) -> None:
        self._accept()
        for connection in self._connections:
            connection.swallows = connection.damaged = True
            connection.replies.forget()

    def garbage(self, seed: int | None) -> None:
        self._accept()
        self._faults.noise = random.Random(seed)
        for connection in self._connections:
            self._make_noise(connection)

    def refuse(self) -> None:
        if self._listens:
            self._accept()
            self._listens = False
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = _bound(self._port)  # not listening, but nobody else can take the port

    def heal(self) -> None:
        self._faults = Faults()
        for connection in list(self._connections):
            if connection.damaged:
                self._cut(connection)
                continue
            self._hold(connection)
            connection.requests.hurry()
            connection.replies.hurry()
        if not self._listens:
            self._listener.listen(128)
            self._listens = True

    def traffic(self) -> None:
        self._accept()

    # --- the loop

    def run(self) -> None:
        """Until stdin ends or the parent does."""
        parent = os.getppid()
        os.set_blocking(0, False)
        self._selector.register(0, selectors.EVENT_READ)
        self._answer()
        while os.getppid() == parent:
            self._watch()
            for key, events in self._selector.select(self._nap_s()):
                if key.fileobj == 0:
                    if not self._obey():
                        return
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._connections:
                    self._move(key.data, key.fileobj, events)  # type: ignore[arg-type]
            self._finish()

    def _nap_s(self) -> float:
        pumps = (pump for each in self._connections for pump in (each.requests, each.replies))
        soonest_s = min((due_s for pump in pumps if (due_s := pump.due_s()) is not None), default=None)
        if soonest_s is None:
            return LONGEST_NAP_S
        # A moment that has come is for the selector to see, as room in the socket.
        wait_s = soonest_s - time.monotonic()
        return min(wait_s, LONGEST_NAP_S) if wait_s > 0 else LONGEST_NAP_S

    def _watch(self) -> None:
        """Tell the selector what matters now."""
        now_s = time.monotonic()
        if self._listens:
            self._register(self._listener, selectors.EVENT_READ, None)
        for connection in self._connections:
            for sock in (connection.client, connection.server):
                self._register(sock, connection.interest(sock, now_s), connection)

    def _register(self, sock: socket.socket, events: int, connection: Connection | None) -> None:
        key = self._selector.get_map().get(sock)
        if key is None:
            if events:
                self._selector.register(sock, events, connection)
        elif not events:
            self._selector.unregister(sock)
        elif key.events != events:
            self._selector.modify(sock, events, connection)

    def _accept(self) -> None:
        while self._listens:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._counts["accepted"] += 1
            unix = isinstance(self._target, str)
            server = socket.socket(socket.AF_UNIX if unix else _family(self._target))
            connection = Connection(client, server, self._counts)
            for sock in (client, server):
                sock.setblocking(False)
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[connection] = None
            self._hold(connection)
            if server.connect_ex(self._target) not in (0, errno.EINPROGRESS):
                self._cut(connection)
            elif self._faults.noise is not None:
                self._make_noise(connection)

    def _move(self, connection: Connection, sock: socket.socket, events: int) -> None:
        try:
            if not connection.connected:
                error = connection.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise OSError(error, os.strerror(error))
                connection.connected = True
                return
            outgoing = connection.requests if sock is connection.server else connection.replies
            if events & selectors.EVENT_READ:
                self._receive(connection, sock)
            if events & selectors.EVENT_WRITE and outgoing.due_s() is not None:
                outgoing.send(self._faults.piece_bytes)
        except BlockingIOError:
            return
        except OSError:
            self._cut(connection)

    def _receive(self, connection: Connection, sock: socket.socket) -> None:
        due_s = time.monotonic() + self._faults.delay_s
        if sock is connection.client:
            if received := connection.requests.receive():
                connection.requests.put(received, due_s)
            return
        received = connection.replies.receive()
        if connection.swallows:
            self._counts["swallowed_bytes"] += len(received)
        elif received:
            if self._faults.noise is not None:
                connection.damaged = True
                received = self._faults.noise.randbytes(len(received))
            connection.replies.put(received, due_s)

    def _make_noise(self, connection: Connection) -> None:
        assert self._faults.noise is not None
        connection.damaged = True
        connection.replies.forget()
        connection.replies.put(self._faults.noise.randbytes(GARBAGE_BYTES), 0.0)

    def _hold(self, connection: Connection) -> None:
        connection.requests.held = self._faults.requests_held
        connection.replies.held = self._faults.replies_held

    def _finish(self) -> None:
        for connection in list(self._connections):
            try:
                connection.requests.finish()
                connection.replies.finish()
            except OSError:
                self._cut(connection)
                continue
            if connection.requests.finished and connection.replies.finished:
                self._remove(connection, with_reset=False)

    def _cut(self, connection: Connection) -> None:
        self._remove(connection, with_reset=True)

    def _remove(self, connection: Connection, with_reset: bool) -> None:
        if connection not in self._connections:
            return
        del self._connections[connection]
        for sock in (connection.client, connection.server):
            self._register(sock, 0, None)
        connection.close(with_reset)

    # --- the parent

    def _obey(self) -> bool:
        """Read and obey commands; False at the end."""
        received = os.read(0, RECEIVE_BYTES)
        if not received:
            return False
        *lines, self._commands = (self._commands + received).split(b"\n")
        for line in lines:
            name, arguments = json.loads(line)
            getattr(self, name)(**arguments)
            self._answer()
        return True

    def _answer(self) -> None:
        traffic = {**self._counts, "open": len(self._connections)}
        os.write(1, json.dumps(traffic).encode() + b"\n")


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


def _family(target: tuple[str, int] | str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in target[0] else socket.AF_INET


def main(arguments: list[str]) -> None:
    """The command line."""
    port, family, host, *rest = arguments
    try:
        proxy = Proxy(int(port), host if family == "unix" else (host, int(rest[0])))
    except OSError as error:
        raise SystemExit(PORT_IS_TAKEN if error.errno == errno.EADDRINUSE else str(error)) from None
    proxy.run()


if __name__ == "__main__":
    main(sys.argv[1:])
