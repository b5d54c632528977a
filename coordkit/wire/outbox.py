"""The sending side of a socket: whoever comes first sends what all have queued; nobody waits for the peer.

One sender at a time.  It takes along what others queue meanwhile, so that concurrent calls share one `send`.
When the kernel takes no more, a thread of our own waits for room, so that a caller is free to watch its
deadline and the reader to read: two ends that both only send would wait for each other for ever.

What was taken from the queue stays here with its offset.  Ctrl-C may come between any two calls; wherever it
comes, the next sender goes on with the next byte.
"""

from __future__ import annotations

import select
import socket
import threading
import types
import typing

from coordkit.wire import http2, rota, tls

LOOK_S = 1.0  # between two looks whether it is still worth waiting for room


class Outbox:
    """What goes out, and how far it got."""

    def __init__(
        self,
        sock: socket.socket,
        connection: http2.Connection,
        mutex: threading.Lock,
        on_failure: typing.Callable[[str], None],
        on_idle: typing.Callable[[], None],
        shield: tls.Shield | None = None,
    ) -> None:
        self.sock = sock
        self.sent_bytes = 0
        self.closed = False
        self._connection = connection
        self._mutex = mutex
        self._on_failure = on_failure
        self._on_idle = on_idle
        self._sender: object | None = None
        self._batch: list[bytes] = []  # taken from the queue, not yet joined
        self._unsent: bytes | memoryview = b""
        self._sizes: list[int] = []  # the kernel's answer to the last send, not yet counted
        self._shield = shield
        self._encrypting = False
        # A `send` that is not written in Python ends before Ctrl-C is looked at.
        self._atomic = isinstance(sock.send, types.BuiltinMethodType)
        self._full = False  # the kernel takes no more: only the pusher sends
        self._room = rota.Waiter()
        self._room.arm()
        self._pusher_started = False
        self._pusher_waits = False

    @property
    def idle(self) -> bool:
        """Whether nobody uses the socket."""
        return self._sender is None and not self._pusher_waits

    def close(self) -> None:
        """Send what the kernel takes at once, and then nothing more: both directions are shut down.

        Who is sending at this moment does it in our stead.
        """
        self.closed = True
        self._room.post()
        self._flush()

    def abandon(self) -> None:
        """Send nothing more, and leave the connection to the process that it belongs to."""
        self.closed = True
        self._sender = self
        self._room.post()

    def flush(self) -> None:
        """Send what is queued as far as the kernel takes it, unless somebody is at it already."""
        if self._full and self._pusher_started:
            return
        try:
            self._flush()
        except BaseException:
            self._flush()  # interrupted: what others have queued must not stay behind
            raise

    def _flush(self) -> None:
        me = object()
        try:
            while self._begin(me):
                self._send()
        except BlockingIOError:
            self._full = True
            self._sender = None
            if not self.closed:
                self._call_pusher()
        except OSError as error:
            self._on_failure(error.strerror or str(error))
        except BaseException:
            if self._sender is me and not self._atomic:
                self._on_failure("interrupted while sending")
            raise
        finally:
            if self._sender is me:
                self._sender = None
            if self.closed and self._sender is None:
                self._shut_down()

    def _begin(self, me: object) -> bool:
        """Whether we are the sender and something is left to send."""
        with self._mutex:
            if self._sender is None:
                self._sender = me
            elif self._sender is not me:
                return False
            if not self._unsent and not self._batch:
                self._batch = self._connection.take_output()
            if self._unsent or self._batch:
                return True
            self._sender = None
            return False

    def _send(self) -> None:
        if self._sizes:
            self._count()
        if not self._unsent:
            ready = self._batch[0] if len(self._batch) == 1 else b"".join(self._batch)
            if self._shield is not None:
                ready = self._encrypt(ready, self._shield)
            self._unsent = ready
            self._batch = []
            self._encrypting = False
        # Through `map`, the kernel's answer is in our list before Ctrl-C can come between them.
        self._sizes.extend(map(self.sock.send, (self._unsent,)))
        self._count()

    def _encrypt(self, plain: bytes, shield: tls.Shield) -> bytes:
        if self._encrypting:
            # Ctrl-C came between: whether these bytes went into a record, and where it is, nobody knows.
            raise ConnectionAbortedError("interrupted while encrypting")
        self._encrypting = True
        return shield.encrypt(plain)

    def _count(self) -> None:
        size = self._sizes[0]
        rest = memoryview(self._unsent)[size:] if size < len(self._unsent) else b""
        # Nothing is called from here on.
        self._unsent = rest
        self._sizes = []
        self.sent_bytes += size

    def _shut_down(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster, or it has been done
        self._on_idle()

    # Waiting for room.

    def _call_pusher(self) -> None:
        if not self._pusher_started:
            try:
                threading.Thread(target=self._push, name="coordkit-send", daemon=True).start()
            except RuntimeError as error:
                self._on_failure(str(error))  # no more threads
            self._pusher_started = True
        self._room.post()

    def _push(self) -> None:
        while not self.closed:
            self._room.park(-1)
            while self._full and not self.closed:
                if self._has_room():
                    self._full = False
                    self.flush()
        self._room.post()  # should there be a second pusher, after an interrupted start
        self._on_idle()

    def _has_room(self) -> bool:
        self._pusher_waits = True
        try:
            if self.closed:
                return False
            poller = select.poll()
            poller.register(self.sock, select.POLLOUT)
            return bool(poller.poll(LOOK_S * 1000))
        finally:
            self._pusher_waits = False
