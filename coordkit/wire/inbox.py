"""The receiving side of a socket, for one reader at a time: wait, receive, and be interrupted in it."""

from __future__ import annotations

import select
import socket
import typing

RECEIVE_BYTES = 256 * 2**10


class Inbox(typing.Protocol):
    """What a channel reads from."""

    #: Bytes are between the kernel and our state: an interruption now would lose them.
    torn: bool

    def receive(self, wait_s: float) -> bytes | None:
        """The next bytes, b"" at the end; None when none came in time, or after `interrupt`.  Sets `torn`.

        Raises:
            OSError: The connection broke.
        """

    def interrupt(self) -> None:
        """Make the reader look up."""

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """To be closed in the end."""


class Polled:
    """For native threads: a second descriptor beside the socket makes its reader look up."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.torn = False
        self._sock = sock
        self._bell, self._button = socket.socketpair()
        self.sockets = (sock, self._bell, self._button)
        for end in (self._bell, self._button):
            end.setblocking(False)
        self._bell_fd = self._bell.fileno()
        self._poller = select.poll()
        self._poller.register(sock.fileno(), select.POLLIN)
        self._poller.register(self._bell_fd, select.POLLIN)

    def receive(self, wait_s: float) -> bytes | None:
        """See `Inbox`."""
        ready = self._poller.poll(wait_s * 1000)
        if not ready:
            return None
        if ready[0][0] == self._bell_fd:
            self._bell.recv(4096)
            if len(ready) == 1:
                return None
        self.torn = True
        try:
            return self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def interrupt(self) -> None:
        """See `Inbox`."""
        try:
            self._button.send(b"!")
        except OSError:
            pass  # full: it will look up anyway; closed: nobody reads any more


class Cooperative:
    """For greenlets: its reader is nobody's caller, so that it need not be interrupted; a close wakes it."""

    def __init__(self, sock: socket.socket) -> None:
        self.torn = False
        self._sock = sock
        self.sockets = (sock,)

    def receive(self, wait_s: float) -> bytes | None:
        """See `Inbox`."""
        self._sock.settimeout(wait_s)
        try:
            received = self._sock.recv(RECEIVE_BYTES)
        except (TimeoutError, BlockingIOError):
            return None
        self.torn = True
        return received

    def interrupt(self) -> None:
        """See `Inbox`."""


def readable(sock: socket.socket) -> bool:
    """Whether bytes, or the end, wait in the kernel's buffer."""
    try:
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        return bool(poller.poll(0))
    except (OSError, ValueError):
        return False  # closed meanwhile
